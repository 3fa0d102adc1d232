"""Attachments of other programs are decrypted, ours are as specified, and a changed file is refused."""

from __future__ import annotations

import copy
import hashlib
import os
from base64 import b64decode, b64encode
from collections.abc import Iterator
from itertools import pairwise
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unwedged.machine.attachments import (
    AttachmentDecryptor,
    AttachmentEncryptor,
    AttachmentKey,
    decrypt_attachment,
    decrypt_chunks,
    encrypt_attachment,
)
from unwedged.machine.errors import MalformedAttachmentKey, TamperedAttachment, UnsupportedAttachment
from unwedged.machine.identifiers import JsonObject

URL = "mxc://example.org/FHyPlCeYUSFFxlgbQYZmoEoe"


def file(k: str, iv: str, sha256: str) -> JsonObject:
    """Return the description of an attachment as some programs send it: without the fields that add no security."""
    return {"v": "v2", "key": {"kty": "oct", "alg": "A256CTR", "k": k}, "iv": iv, "hashes": {"sha256": sha256}}


ONES = "__________________________________________8"
# Key, iv, hash and ciphertext of the tests of matrix-encrypt-attachment and of matrix-sdk-crypto, with the plaintext.
VECTORS = [
    (
        file("A" * 43, "A" * 22, "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"),
        "",
        b"",
    ),
    (
        file(ONES, "//////////8AAAAAAAAAAA", "YzF08lARDdOCzJpzuSwsjTNlQc4pHxpdHcXiD/wpK6k"),
        "5xJZTt5cQicm+9f4",
        b"Hello, World",
    ),
    (
        file(ONES, "//////////8AAAAAAAAAAA", "IOq7/dHHB+mfHfxlRY5XMeCWEwTPmlf4cJcgrkf6fVU"),
        "zhtFStAeFx0s+9L/sSQO+WQMtldqYEHqTxMduJrCIpnkyer09kxJJuA4K+adQE4w+7jZe/vR9kIcqj9rOhDR8Q==",
        b"alphanumerically" * 4,
    ),
    (
        file(
            "Voq2nkPme_x8no5-Tjq_laDAdxE6iDbxnlQXxwFPgE4",
            "i0DovxYdJEcAAAAAAAAAAA",
            "ANdt819a8bZl4jKy3Z+jcqtiNICa2y0AW4BBJ/iQRAU",
        ),
        b64encode(bytes.fromhex("b39a767fba7f6e21cb21218643 64ad2eeb1bd7ac241a4b2f21a0")).decode(),
        b"It's a secret to everybody",
    ),
]
# The example of the specification, which has only the description of the file.
OF_THE_SPECIFICATION: JsonObject = {
    "url": "mxc://example.org/FHyPlCeYUSFFxlgbQYZmoEoe",
    "v": "v2",
    "key": {
        "alg": "A256CTR",
        "ext": True,
        "k": "aWF6-32KGYaC3A_FEUCk1Bt0JA37zP0wrStgmdCaW-0",
        "key_ops": ["encrypt", "decrypt"],
        "kty": "oct",
    },
    "iv": "w+sE15fzSc0AAAAAAAAAAA",
    "hashes": {"sha256": "fdSLu/YkRx3Wyh3KQabP3rd6+SFiKg5lsJZQHtkSAYA"},
}


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """Split data into chunks, some of them empty."""
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(places)]


plaintexts = st.binary(max_size=200)
places = st.lists(st.integers(0, 200), max_size=8)


class TestVectors:
    @pytest.mark.parametrize(("content", "ciphertext", "plaintext"), VECTORS)
    def test_other_programs_files(self, content: JsonObject, ciphertext: str, plaintext: bytes) -> None:
        key = AttachmentKey.from_encrypted_file(content)
        assert decrypt_attachment(b64decode(ciphertext), key) == plaintext

    def test_the_same_random_bytes_give_the_same_file(self) -> None:
        for content, ciphertext, plaintext in VECTORS[1:3]:
            with patch.object(os, "urandom", lambda length: b"\xff" * length):
                made, key = encrypt_attachment(plaintext)
            assert made == b64decode(ciphertext)
            assert key == AttachmentKey.from_encrypted_file(content)

    def test_the_example_of_the_specification_is_read_and_written(self) -> None:
        key = AttachmentKey.from_encrypted_file(OF_THE_SPECIFICATION)
        assert key.encrypted_file(URL) == OF_THE_SPECIFICATION


class TestOurFiles:
    @given(plaintexts, places, places)
    def test_whole_or_in_chunks_it_is_the_same_file(
        self, plaintext: bytes, cuts: list[int], other_cuts: list[int]
    ) -> None:
        encryptor = AttachmentEncryptor()
        ciphertext = b"".join(map(encryptor.update, split(plaintext, cuts)))
        key = encryptor.finish()
        assert len(ciphertext) == len(plaintext)
        assert key.sha256 == hashlib.sha256(ciphertext).digest()
        assert decrypt_attachment(ciphertext, key) == plaintext
        assert b"".join(decrypt_chunks(split(ciphertext, other_cuts), key)) == plaintext

    @given(plaintexts)
    def test_what_is_encrypted_comes_back_by_way_of_an_event(self, plaintext: bytes) -> None:
        ciphertext, key = encrypt_attachment(plaintext)
        assert decrypt_attachment(ciphertext, AttachmentKey.from_encrypted_file(key.encrypted_file(URL))) == plaintext

    def test_each_file_has_its_own_key_and_half_a_counter_block(self) -> None:
        (_, one), (_, other) = encrypt_attachment(b"x"), encrypt_attachment(b"x")
        assert one.key != other.key
        assert one.iv[:8] != other.iv[:8]
        assert one.iv[8:] == other.iv[8:] == bytes(8)

    def test_the_key_is_not_shown(self) -> None:
        _, key = encrypt_attachment(b"x")
        assert repr(key.key) not in repr(key)


class TestChangedFiles:
    def test_each_changed_bit_and_each_cut_is_noticed(self) -> None:
        plaintext = bytes(range(40))
        ciphertext, key = encrypt_attachment(plaintext)
        changed = [ciphertext[:length] for length in range(len(ciphertext))] + [ciphertext + b"\x00"]
        for position in range(len(ciphertext)):
            for bit in range(8):
                edited = bytearray(ciphertext)
                edited[position] ^= 1 << bit
                changed.append(bytes(edited))
        for wrong in changed:
            with pytest.raises(TamperedAttachment):
                decrypt_attachment(wrong, key)
            with pytest.raises(TamperedAttachment):
                list(decrypt_chunks(split(wrong, [7, 16]), key))

    def test_another_hash_is_noticed(self) -> None:
        ciphertext, key = encrypt_attachment(b"plain")
        with pytest.raises(TamperedAttachment):
            decrypt_attachment(ciphertext, AttachmentKey(key.key, key.iv, bytes(32)))

    def test_chunks_are_given_one_by_one_and_the_verdict_comes_at_the_end(self) -> None:
        plaintext = b"sixteen letters!" * 3
        ciphertext, key = encrypt_attachment(plaintext)
        read: list[int] = []

        def chunks() -> Iterator[bytes]:
            for begin in range(0, len(ciphertext), 16):
                read.append(begin)
                yield ciphertext[begin : begin + 16] if begin < 32 else bytes(16)

        given = decrypt_chunks(chunks(), key)
        assert read == []
        assert next(given) == plaintext[:16]
        assert read == [0]
        assert next(given) == plaintext[16:32]
        assert next(given) != plaintext[32:]
        with pytest.raises(TamperedAttachment):
            next(given)

    def test_a_decryptor_says_at_the_end_whether_what_it_gave_may_be_used(self) -> None:
        ciphertext, key = encrypt_attachment(b"plain")
        right, wrong = AttachmentDecryptor(key), AttachmentDecryptor(key)
        assert right.update(ciphertext) == b"plain"
        right.finish()
        assert wrong.update(ciphertext[:4]) == b"plai"
        with pytest.raises(TamperedAttachment):
            wrong.finish()


class TestWrongKeys:
    @pytest.mark.parametrize("path", ["v", "key", "key.kty", "key.alg", "key.k", "iv", "hashes", "hashes.sha256"])
    @pytest.mark.parametrize("value", [None, 1, ["the key"], {"the key": "the key"}, "missing"])
    def test_what_is_missing_or_of_another_type_is_refused_and_not_quoted(self, path: str, value: object) -> None:
        content = copy.deepcopy(OF_THE_SPECIFICATION)
        *above, name = path.split(".")
        where = content
        for step in above:
            inner = where[step]
            assert isinstance(inner, dict)
            where = inner
        if value == "missing":
            del where[name]
        else:
            where[name] = value
        with pytest.raises(MalformedAttachmentKey, match=r"no encrypted file: ") as raised:
            AttachmentKey.from_encrypted_file(content)
        assert "the key" not in repr(raised.value)

    @pytest.mark.parametrize("version", ["v0", "v1", "v3", "", "V2", "org.matrix.msc4016.v3"])
    def test_another_version_is_refused(self, version: str) -> None:
        with pytest.raises(UnsupportedAttachment):
            AttachmentKey.from_encrypted_file({**OF_THE_SPECIFICATION, "v": version})

    @pytest.mark.parametrize(("name", "value"), [("alg", "A256GCM"), ("alg", "A128CTR"), ("kty", "RSA")])
    def test_another_algorithm_is_refused(self, name: str, value: str) -> None:
        key = OF_THE_SPECIFICATION["key"]
        assert isinstance(key, dict)
        with pytest.raises(UnsupportedAttachment):
            AttachmentKey.from_encrypted_file({**OF_THE_SPECIFICATION, "key": {**key, name: value}})

    @pytest.mark.parametrize("wrong", ["", "AAAA", "A" * 44, "A" * 22 + "AAAA", "Zürich", "not base64", "A"])
    @pytest.mark.parametrize("part", range(3))
    def test_what_is_no_base64_or_has_another_length_is_refused_and_not_quoted(self, part: int, wrong: str) -> None:
        parts = [ONES, "//////////8AAAAAAAAAAA", "YzF08lARDdOCzJpzuSwsjTNlQc4pHxpdHcXiD/wpK6k"]
        parts[part] = wrong
        with pytest.raises(MalformedAttachmentKey) as raised:
            AttachmentKey.from_encrypted_file(file(*parts))
        assert "_____" not in repr(raised.value)
        assert raised.value.__cause__ is None

    def test_padding_does_no_harm(self) -> None:
        content, _, _ = VECTORS[1]
        padded = file(ONES + "=", "//////////8AAAAAAAAAAA==", "YzF08lARDdOCzJpzuSwsjTNlQc4pHxpdHcXiD/wpK6k=")
        assert AttachmentKey.from_encrypted_file(padded) == AttachmentKey.from_encrypted_file(content)

    def test_a_counter_that_begins_elsewhere_is_accepted_unless_it_could_overflow(self) -> None:
        _, key = encrypt_attachment(b"")
        last = (2**64 - 2**40).to_bytes(8, "big")
        assert AttachmentKey(key.key, key.iv[:8] + last, key.sha256).iv[8:] == last
        for too_late in (2**64 - 2**40 + 1, 2**64 - 1):
            with pytest.raises(MalformedAttachmentKey, match="overflow"):
                AttachmentKey(key.key, key.iv[:8] + too_late.to_bytes(8, "big"), key.sha256)
