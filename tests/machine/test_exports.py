"""Key export files of other programs are read, ours are as specified, and wrong files raise a named error."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unwedged.machine import exports as module
from unwedged.machine.errors import (
    InvalidArgument,
    MachineError,
    MalformedExport,
    MalformedExportedSessions,
    RoundsOutOfBounds,
    UnsupportedExport,
    WrongExportPassphrase,
)
from unwedged.machine.exports import ExportedSession, decrypt_export, encrypt_export
from unwedged.machine.identifiers import Curve25519Key, GroupSessionId, RoomId

BEGIN = "-----BEGIN MEGOLM SESSION DATA-----"
END = "-----END MEGOLM SESSION DATA-----"
PASSPHRASE = "correct horse"
SECRET = "the session key"
SESSION = ExportedSession(
    algorithm="m.megolm.v1.aes-sha2",
    room_id=RoomId("!Zürich:example.org"),
    sender_key=Curve25519Key("FQRPHXxgZJzEXVrxS2bWNM3CWoKA8EUdiGtjPSrI9Q8"),
    session_id=GroupSessionId("VvqwarQ8+G2a6ru1VP3NJtvQspwKp8vrX7Y+d0N+c1g"),
    session_key=SECRET,
    sender_claimed_keys={"ed25519": "LVkpLiHU+QtPx2Ub7qjwxck2qyWwePj9RYqWNb2dGsQ"},
    forwarding_curve25519_key_chain=(Curve25519Key("hPQNcabIABgGnx3/ACv/jmMmiQHoeFfuLB17tzWp6Hw"),),
    shared_history=True,
)

# Files from Element's tests, with their contents, which are texts and not lists of sessions.
OF_ELEMENT = [
    (
        "password",
        "AXNhbHRzYWx0c2FsdHNhbHSIiIiIiIiIiIiIiIiIiIiIAAAACmIRUW2OjZ3L2l6j9h0lHlV3M2dx\ncissyYBxjsfsAndErh065A8=",
        b"plain",
    ),
    (
        "betterpassword",
        "AW1vcmVzYWx0bW9yZXNhbHT//////////wAAAAAAAAAAAAAD6KyBpe1Niv5M5NPm4ZATsJo5nghk\nKYu63a0YQ5DRhUWEKk7CcMkrKnAUiZny",
        b"Hello, World",
    ),
    (
        "SWORDFISH",
        (
            "AXllc3NhbHR5Z29vZG5lc3P//////////wAAAAAAAAAAAAAD6OIW+Je7gwvjd4kYrb+49gKCfExw\n"
            "MgJBMD4mrhLkmgAngwR1pHjbWXaoGybtiAYr0moQ93GrBQsCzPbvl82rZhaXO3iH5uHo/RCEpOqp\n"
            "Pgg29363BGR+/Ripq/VCLKGNbw=="
        ),
        b"alphanumerically" * 4,
    ),
]
OF_ELEMENT_WITH_OVERFLOW = (
    "password" * 32,
    (
        "Af//////////////////////////////////////////AAAD6IAZJy7IQ7Y0idqSw/bmpngEEVVh\n"
        "gsH+8ptgqxw6ZVWQnohr8JsuwH9SwGtiebZuBu5smPCO+RFVWH2cQYslZijXv/BEH/txvhUrrtCd\n"
        "bWnSXS9oymiqwUIGs08sXI33ZA=="
    ),
)

# The file of matrix-sdk-crypto's tests, and a file that its WebAssembly release (18.9.0) made for this test.
OF_MATRIX_SDK_CRYPTO = [
    (
        "1234",
        (
            "Af7mGhlzQ+eGvHu93u0YXd3D/+vYMs3E7gQqOhuCtkvGAAAAASH7pEdWvFyAP1JUisAcpEo\n"
            "Xke2Q7Kr9hVl/SCc6jXBNeJCZcrUbUV4D/tRQIl3E9L4fOk928YI1J+3z96qiH0uE7hpsCI\n"
            "CkHKwjPU+0XTzFdIk1X8H7sZ+MD/2Sg/q3y8rtUjz7uEj4GUTnb+9SCOTVmJsRfqgUpM1CU\n"
            "bDLytHf1JkohY4tWEgpsCc67xdzgodjr12qYrfg/zNm3LGpxlrffJknw4rk5QFTj4kMbqbD\n"
            "ZZgDTni+HxRTDGge2J620lMOiznvXX+H09Rwruqx5aJvvaaKd86jWRpiO2oSFqHn4u5ONl9\n"
            "41uzm62Sj0eIm6ZbA9NQs87jQw4LxsejhZVL+NdjIg80zVSBTWhTdo0DTnbFSNP4ReOiz0U\n"
            "XosOF8A5T8Vdx2nvA0GXltfcHKVKQYh/LJAkNQ7P9UYL4ae/5TtQZkhB1KxCLTRWqADCl53\n"
            "uBMGpG53EMgY6G6K2DEIOkcv7sdXQF5WpemiSWZqJRWj+cjfs9BpCTbkp/rszWFl2TniWpR\n"
            "RqIbT2jORlN4rTvdtF0F4z1pqP4qWyR3sLNTkXm9CFRzWADNG0RDZKxbCoo6RPvtaCTfaHo\n"
            "SwfvzBS6CjfAG+FOugpV48o7+XetaUUPZ6/tZSPhCdeV8eP9q5r0QwWeXFogzoNzWt4HYx9\n"
            "MdXxzD+f0mtg5gzehrrEEARwI2bCvPpHxlt/Na9oW/GBpkjwR1LSKgg4CtpRyWngPjdEKpZ\n"
            "GYW19pdjg0qdXNk/eqZsQTsNWVo6A"
        ),
        ExportedSession(
            algorithm="m.megolm.v1.aes-sha2",
            room_id=RoomId("!test:localhost"),
            sender_key=Curve25519Key("cKQkLU8izjY3tpLVPiR4PDeeCEKtaDiAGiQH+UbZm2w"),
            session_id=GroupSessionId("8sdNGgmLft8osylLK9ij3IotBLyQQufe/KngiW4Dpq0"),
            session_key="AQAAAABBKNS1bA5X+Py5c6YP+RKtjHAtNznKzonSmyciDY9/6IEAcuOpsNc/LC46lOMMnZerWc7LoT8VjY6IzBETBEe0"
            "DzYu4F2UZHmNAaGNgHyiEXtruJ2Y9EhaQm10VrgOhhN4NN6UEYVrI4PFSM88BoDiP8bElfD2qnNa4zIfP2KlxvLHTRoJi37fKLMpSyvY"
            "o9yKLQS8kELn3vyp4IluA6at",
            sender_claimed_keys={"ed25519": "wJ7DzYIlwFghczuxFG7F4ugAK3IFjpSaC74MzLFC6ig"},
            forwarding_curve25519_key_chain=(),
            shared_history=False,
        ),
    ),
    (
        "pässwörd 🔑",
        (
            "AeZYAwb3Vjjej+xOHDgamTlzIuLyAeA1Xwms/vnAQo0vAAGGoAKBedM9BOK1n+KR2iI+s1LPiGzGxtZPnpIaSWFLtCvQ3yaHz2kaKDYhves/"
            "xfNXKT3cSroHTThrQtmKwmqY8GIPfvXJgwgl+NLdg0nUORKqxqJLS4fB3uZsJMZ4eeajk/vYcopXI4f/n6TV+sGlppOBNWIhDeOZOtgbl5se"
            "m/e16A0LRzv+D+9QW6BvTtzcDmnfFu+wSHxvoDEL+QzLXiRwPDtxMUzjPJ+T+eysj9Mzu2iWXkoE9/mv5g7ThsNntXN9cilBOe8L452DSUlJ"
            "xFQ9Dnki2w1w5KRuxMa2joXNnULysBJrkJX9P8UcQlFeaysbHbxOOlqbaqDAOVxrzZLEY1urQk69IpHlrStrl4k5Gu21cdCSKbHW7JxGAJEl"
            "XR6lT6ViJXql5WQI2UlG/uj57q1bfPL1ZGMAg6f3L3z3cm3JD49TS7BGRh+NwRpuiwIZpLFg30SiXCRb+tNQo96nw4bP3VadQIVRgl0XqgLD"
            "PxsdOHS3DBsF86phGRBtznJRAV/0OcmWjUkG/KQAAuZrYJb0KDQonEGmqU5jLJS0791apgSLN8L9b8HYXlnNiqUf641xMA7SwF5cVJug0g9V"
            "FfNd1cVi4f8nHbovq82smWc2aXxMZH5326ZMtF0dIgqFM4IGxhH0rR1qnI5oMy2iuIPcBL1raFLOnsdP9hsAahtGTlApIGp2nf5dz97DkCqr"
            "eN5ifCnjIiOMh4/8fe1IIAqjjFLHA3fj8dsbCoPCRqJnhb62RnHx1wllybOxMV4nb0xMX2c"
        ),
        ExportedSession(
            algorithm="m.megolm.v1.aes-sha2",
            room_id=RoomId("!r:x"),
            sender_key=Curve25519Key("FQRPHXxgZJzEXVrxS2bWNM3CWoKA8EUdiGtjPSrI9Q8"),
            session_id=GroupSessionId("VvqwarQ8+G2a6ru1VP3NJtvQspwKp8vrX7Y+d0N+c1g"),
            session_key="AQAAAAAlX8bc+1HMujvzHYU3sfZrI4AvjwhOXMjuxrfjXZFfjshE4UmL0yMCOnbrSWvWkKP1GKufUsdJjM61DZINkHl/"
            "uIo0RDdPg3cfLQe0vCDgyqeSde+BE+O2Fg0OWNGmHf88p0xB7URxpNS6KvNlB8qOhw26ozcKvdZpY0VWy8EAhFb6sGq0PPhtmuq7tVT9"
            "zSbb0LKcCqfL61+2PndDfnNY",
            sender_claimed_keys={"ed25519": "LVkpLiHU+QtPx2Ub7qjwxck2qyWwePj9RYqWNb2dGsQ"},
            forwarding_curve25519_key_chain=(),
            shared_history=True,
        ),
    ),
]


@contextmanager
def few_rounds() -> Iterator[None]:
    """Allow files with few rounds, and refuse files whose rounds would take long."""
    with patch.object(module, "FEWEST_ROUNDS", 1), patch.object(module, "MOST_ROUNDS", 2000):
        yield


def armoured(body: str) -> str:
    return f"{BEGIN}\n{body}\n{END}\n"


def sealed(payload: bytes) -> str:
    """Return a file with any payload."""
    return armoured(b64encode(payload).decode())


def payload_of(text: str) -> bytes:
    return b64decode("".join(text.removeprefix(BEGIN).removesuffix(END + "\n").split()), validate=True)


def with_plaintext(plaintext: bytes, passphrase: str = PASSPHRASE) -> str:
    """Return a file of one round with a valid HMAC and any content."""
    return sealed(module._seal(plaintext, passphrase.encode(), 1))


def one_round(*sessions: ExportedSession) -> str:
    with few_rounds():
        return encrypt_export(sessions, PASSPHRASE, rounds=1)


def must_not_tell(error: BaseException | None, secret: str) -> None:
    """Check that an exception and the exceptions chained to it do not contain a secret."""
    while error is not None:
        told = repr((error, error.args, vars(error), getattr(error, "object", None)))
        assert secret not in told
        error = error.__cause__ or error.__context__


texts = st.text(max_size=40)
sessions = st.builds(
    ExportedSession,
    algorithm=texts,
    room_id=texts,
    sender_key=texts,
    session_id=texts,
    session_key=texts,
    sender_claimed_keys=st.dictionaries(texts, texts, max_size=3),
    forwarding_curve25519_key_chain=st.lists(texts, max_size=3).map(tuple),
    shared_history=st.booleans(),
)


class TestOtherProgramsFiles:
    @pytest.mark.parametrize(("passphrase", "body", "content"), OF_ELEMENT)
    def test_element(self, passphrase: str, body: str, content: bytes) -> None:
        assert module._open(module._without_armour(armoured(body)), passphrase.encode()) == content
        with pytest.raises(MalformedExportedSessions) as raised:
            decrypt_export(armoured(body), passphrase)
        must_not_tell(raised.value, content.decode())

    @pytest.mark.parametrize(("passphrase", "body", "session"), OF_MATRIX_SDK_CRYPTO)
    def test_matrix_sdk_crypto(self, passphrase: str, body: str, session: ExportedSession) -> None:
        assert decrypt_export(armoured(body), passphrase) == [session]

    def test_where_programs_would_count_on_differently_the_file_is_refused(self) -> None:
        passphrase, body = OF_ELEMENT_WITH_OVERFLOW
        with pytest.raises(MalformedExport, match="counter"):
            decrypt_export(armoured(body), passphrase)

    @pytest.mark.parametrize(
        "changed",
        [
            lambda text: text.replace("\n", "\r\n"),
            lambda text: "\ufeffMy keys, as of Tuesday:\n\n" + text + "\n-- \nsent from far away",
            lambda text: BEGIN + "".join(text.removeprefix(BEGIN).removesuffix(END + "\n").split()) + END,
            lambda text: text.replace("=", ""),
            lambda text: "  " + text.replace("\n", "  \n\t "),
        ],
        ids=["carriage returns", "text around it", "one line", "no padding", "indented"],
    )
    def test_what_mail_and_editors_do_to_a_file_does_no_harm(self, changed: object) -> None:
        assert callable(changed)
        with few_rounds():
            assert decrypt_export(changed(one_round(SESSION)), PASSPHRASE) == [SESSION]

    def test_what_older_programs_leave_out_may_be_missing_and_what_is_unknown_is_ignored(self) -> None:
        entry = {"algorithm": "a", "room_id": "r", "sender_key": "s", "session_id": "i", "session_key": "k"}
        (session,) = decrypt_export(with_plaintext(json.dumps([{**entry, "untrusted": [True]}]).encode()), PASSPHRASE)
        assert session == ExportedSession(
            "a", RoomId("r"), Curve25519Key("s"), GroupSessionId("i"), "k", {}, (), shared_history=False
        )

    @pytest.mark.parametrize(
        ("flags", "shared"),
        [
            ({}, False),
            ({"shared_history": True}, True),
            ({"m.shared_history": True}, True),
            ({"org.matrix.msc3061.shared_history": True}, True),
            ({"shared_history": False}, False),
            ({"shared_history": False, "m.shared_history": True}, True),
            ({"shared_history": True, "m.shared_history": True}, True),
            ({"shared_history": "true"}, False),
            ({"shared_history": 1}, False),
            ({"shared_history": None, "m.shared_history": {"true": True}}, False),
        ],
    )
    def test_the_flag_for_shared_history_is_read_in_three_spellings(
        self, flags: dict[str, object], shared: bool
    ) -> None:
        (entry,) = json.loads(module._open(payload_of(one_round(SESSION)), PASSPHRASE.encode()))
        entry = {name: value for name, value in entry.items() if not name.endswith("shared_history")} | flags
        (session,) = decrypt_export(with_plaintext(json.dumps([entry]).encode()), PASSPHRASE)
        assert session == replace(SESSION, shared_history=shared)


class TestOurFiles:
    def test_a_file_is_as_the_specification_has_it(self) -> None:
        with patch.object(os, "urandom", lambda length: b"\xff" * length):
            text = encrypt_export([SESSION], "пароль", rounds=100_000)
        first, *lines, last, end = text.split("\n")
        assert (first, last, end) == (BEGIN, END, "")
        assert all(0 < len(line) <= 76 for line in lines)
        payload = b64decode("".join(lines), validate=True)
        salt, iv = b"\xff" * 16, b"\xff" * 8 + b"\x7f" + b"\xff" * 7
        assert payload.startswith(b"\x01" + salt + iv + (100_000).to_bytes(4, "big"))
        mac_key = hashlib.pbkdf2_hmac("sha512", "пароль".encode(), salt, 100_000, 64)[32:]
        assert payload[-32:] == hmac.digest(mac_key, payload[:-32], "sha256")

    def test_its_json_has_the_names_of_the_specification_and_the_flag_in_two_spellings(self) -> None:
        for shared in (True, False):
            text = one_round(replace(SESSION, shared_history=shared))
            assert json.loads(module._open(payload_of(text), PASSPHRASE.encode())) == [
                {
                    "algorithm": SESSION.algorithm,
                    "room_id": SESSION.room_id,
                    "sender_key": SESSION.sender_key,
                    "session_id": SESSION.session_id,
                    "session_key": SESSION.session_key,
                    "sender_claimed_keys": SESSION.sender_claimed_keys,
                    "forwarding_curve25519_key_chain": list(SESSION.forwarding_curve25519_key_chain),
                    "shared_history": shared,
                    "m.shared_history": shared,
                }
            ]

    @given(st.lists(sessions, max_size=5), st.text(min_size=1), st.integers(1, 5))
    @example([], "x", 1)
    def test_what_is_encrypted_comes_back(self, exported: list[ExportedSession], passphrase: str, rounds: int) -> None:
        with few_rounds():
            assert decrypt_export(encrypt_export(exported, passphrase, rounds), passphrase) == exported

    def test_it_has_half_a_million_rounds_unless_set_otherwise(self) -> None:
        text = encrypt_export([SESSION], PASSPHRASE)
        assert payload_of(text)[33:37] == (500_000).to_bytes(4, "big")
        assert decrypt_export(text, PASSPHRASE) == [SESSION]

    def test_no_two_files_are_alike(self) -> None:
        one, other = payload_of(one_round(SESSION)), payload_of(one_round(SESSION))
        assert one[1:17] != other[1:17]
        assert one[17:33] != other[17:33]
        assert one[37:] != other[37:]

    @pytest.mark.parametrize("rounds", [-1, 0, 99_999, 10_000_001, 2**32])
    def test_a_number_of_rounds_that_is_unsafe_or_absurd_is_refused(self, rounds: int) -> None:
        with pytest.raises(InvalidArgument, match=f"{rounds} rounds"):
            encrypt_export([SESSION], PASSPHRASE, rounds)

    def test_no_passphrase_is_refused(self) -> None:
        with pytest.raises(InvalidArgument, match="at least one character"):
            encrypt_export([SESSION], "")

    def test_text_that_has_no_encoding_is_refused_and_not_quoted(self) -> None:
        with pytest.raises(InvalidArgument, match="surrogate") as raised:
            encrypt_export([replace(SESSION, session_key=SECRET + "\ud800")], PASSPHRASE)
        must_not_tell(raised.value, SECRET)
        with pytest.raises(InvalidArgument, match="surrogate") as raised:
            encrypt_export([SESSION], PASSPHRASE + "\ud800")
        must_not_tell(raised.value, PASSPHRASE)
        with pytest.raises(InvalidArgument, match="surrogate") as raised:
            decrypt_export(one_round(SESSION), PASSPHRASE + "\ud800")
        must_not_tell(raised.value, PASSPHRASE)

    def test_a_session_key_is_not_shown(self) -> None:
        assert SECRET not in repr(SESSION)


class TestWrongFiles:
    @given(st.text())
    def test_what_is_no_file_is_refused(self, text: str) -> None:
        with pytest.raises(MalformedExport, match="no key export file"):
            decrypt_export(text, PASSPHRASE)

    @pytest.mark.parametrize("body", ["", "AQ", "?", "A", "Zürich", "AA==AA", "\x00"])
    def test_a_file_without_its_parts_is_refused(self, body: str) -> None:
        with pytest.raises(MalformedExport):
            decrypt_export(armoured(body), PASSPHRASE)

    def test_each_cut_is_noticed(self) -> None:
        text = one_round(SESSION)
        for length in range(len(text) - 1):
            with pytest.raises(MalformedExport):
                decrypt_export(text[:length], PASSPHRASE)
        payload = payload_of(text)
        for length in range(len(payload)):
            with pytest.raises(MalformedExport if length < 1 + 16 + 16 + 4 + 32 else WrongExportPassphrase):
                decrypt_export(sealed(payload[:length]), PASSPHRASE)

    def test_each_changed_bit_is_noticed(self) -> None:
        payload = payload_of(one_round(SESSION))
        with few_rounds():
            for position in range(len(payload)):
                for bit in range(8):
                    changed = bytearray(payload)
                    changed[position] ^= 1 << bit
                    expected: type[MachineError] | tuple[type[MachineError], ...] = WrongExportPassphrase
                    if position == 0:
                        expected = UnsupportedExport
                    elif 33 <= position < 37:
                        expected = (RoundsOutOfBounds, WrongExportPassphrase)
                    with pytest.raises(expected) as raised:
                        decrypt_export(sealed(bytes(changed)), PASSPHRASE)
                    must_not_tell(raised.value, SECRET)

    @given(st.binary(max_size=200), st.text(max_size=10))
    def test_any_payload_is_refused_by_name(self, payload: bytes, passphrase: str) -> None:
        with (
            few_rounds(),
            pytest.raises((MalformedExport, RoundsOutOfBounds, UnsupportedExport, WrongExportPassphrase)),
        ):
            decrypt_export(sealed(payload), passphrase)

    @pytest.mark.parametrize("rounds", [0, 10_000_001, 2**31, 2**32 - 1])
    def test_absurd_rounds_are_refused_before_any_is_done(self, rounds: int) -> None:
        payload = payload_of(one_round(SESSION))
        with (
            patch.object(module, "from_passphrase", side_effect=AssertionError("a key was derived")),
            pytest.raises(RoundsOutOfBounds, match=str(rounds)),
        ):
            decrypt_export(sealed(payload[:33] + rounds.to_bytes(4, "big") + payload[37:]), PASSPHRASE)

    @settings(max_examples=30)
    @given(st.text())
    @example("")
    @example("Correct horse")
    @example("correct horse ")
    def test_another_passphrase_is_refused(self, passphrase: str) -> None:
        text = one_round(SESSION)
        if passphrase != PASSPHRASE:
            with pytest.raises(WrongExportPassphrase):
                decrypt_export(text, passphrase)

    def test_neither_a_passphrase_nor_a_session_is_quoted(self) -> None:
        with pytest.raises(WrongExportPassphrase) as raised:
            decrypt_export(one_round(SESSION), "wrong horse")
        must_not_tell(raised.value, "horse")
        must_not_tell(raised.value, SECRET)

    def test_a_passphrase_is_its_characters_and_not_how_they_look(self) -> None:
        text = with_plaintext(b"[]", "Z\u00fcrich")
        assert decrypt_export(text, "Z\u00fcrich") == []
        with pytest.raises(WrongExportPassphrase):
            decrypt_export(text, "Zu\u0308rich")

    @pytest.mark.parametrize(
        "plaintext",
        [
            b"",
            b"null",
            b"{}",
            b'"the session key"',
            b'["the session key"]',
            b'[{"session_key": "the session key"}]',
            b'[{"algorithm": "the session key", "room_id": 1}]',
            b'[{"the session key": "the session key", "algorithm": []}]',
            b'[{"algorithm": "the session key"',
            b'[{"algorithm": "the session key\xff"}]',
            b'[{"algorithm": "the session key\\ud800"}]',
            b'[{"unknown": ' + b"[" * 100_000,
            b"the session key",
            json.dumps([{"algorithm": "a", "room_id": "r", "sender_key": "s", "session_id": "i", "session_key": "k"}])
            .replace('"r"', '"r", "sender_claimed_keys": {"the session key": 1}')
            .encode(),
        ],
        ids=range(14),
    )
    def test_what_was_encrypted_and_is_no_list_of_sessions_is_refused_and_not_quoted(self, plaintext: bytes) -> None:
        text = with_plaintext(plaintext)
        with pytest.raises(MalformedExportedSessions) as raised:
            decrypt_export(text, PASSPHRASE)
        must_not_tell(raised.value, SECRET)
