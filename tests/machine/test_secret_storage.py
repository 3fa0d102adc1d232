"""The secret storage passes others' test vectors, refuses wrong input, and puts no secret into an exception.

``CORRECT_HORSE``, ``ANOTHER`` and ``MASTER_KEY`` are the vectors that mautrix-go and mautrix-python are tested with.
"""

from __future__ import annotations

import random
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checking.machine_replay.homeserver import Json
from unwedged.machine.errors import (
    InvalidArgument,
    MachineError,
    MalformedRecoveryKey,
    MalformedStorageKey,
    MalformedStoredSecret,
    NotStoredForKey,
    RoundsOutOfBounds,
    TamperedStoredSecret,
    UncheckedStorageKey,
    UnsupportedStorageKey,
    WrongStorageKey,
)
from unwedged.machine.recovery_keys import decode_recovery_key, encode_recovery_key
from unwedged.machine.secret_storage import (
    ALGORITHM,
    StorageKey,
    decrypt_secret,
    default_key_content,
    default_key_id,
    encrypt_secret,
    key_event_type,
    key_from_passphrase,
    key_from_recovery_key,
    keys_of_secret,
    new_storage_key,
)
from unwedged.machine.unpadded_base64 import to_unpadded, unpadded

MASTER = "m.cross_signing.master"
KEY_ID = "gEJqbfSEMnP5JXXcukpXEX1l0aI3MDs0"
CORRECT_HORSE: Json = {
    "algorithm": ALGORITHM,
    "passphrase": {"algorithm": "m.pbkdf2", "iterations": 500_000, "salt": "y863BOoqOadgDp8S3FtHXikDJEalsQ7d"},
    "iv": "xxkTK0L4UzxgAFkQ6XPwsw",
    "mac": "MEhooO0ZhFJNxUhvRMSxBnJfL20wkLgle3ocY0ee/eA",
}
PASSPHRASE = "correct horse battery staple"
RECOVERY_KEY = "EsTE s92N EtaX s2h6 VQYF 9Kao tHYL mkyL GKMh isZb KJ4E tvoC"
MASTER_KEY: Json = {
    "encrypted": {
        KEY_ID: {
            "iv": "BpKP9nQJTE9jrsAssoxPqQ==",
            "ciphertext": "fNRiiiidezjerTgV+G6pUtmeF3izzj5re/mVvY0hO2kM6kYGrxLuIu2ej80=",
            "mac": "/gWGDGMyOLmbJp+aoSLh5JxCs0AdS6nAhjzpe+9G2Q0=",
        }
    }
}
MASTER_KEY_IN_CLEAR = bytes.fromhex("68f97fd1922eecf6b82bb890d24d0652984e7a1d703b9e867b7ebaf7feb95b6f")
ANOTHER: Json = {
    "algorithm": ALGORITHM,
    "iv": "O0BOvTqiIAYjC+RMcyHfWw==",
    "mac": "7k6OruQlWg0UmQjxGZ0ad4Q6DdwkgnoI7G6X3IjBYtI=",
}
ANOTHER_RECOVERY_KEY = "EsUC xSxt XJgQ dz19 8WBZ rHdE GZo7 ybsn EFmG Y5HY MDAG GNWe"
NO_UTF8 = "secret \ud800"


def correct_horse() -> StorageKey:
    return key_from_recovery_key(KEY_ID, CORRECT_HORSE, RECOVERY_KEY)


class TestVectors:
    def test_a_key_comes_from_its_recovery_key_and_from_its_passphrase(self) -> None:
        key = correct_horse()
        assert key == key_from_passphrase(KEY_ID, CORRECT_HORSE, PASSPHRASE)
        assert key.recovery_key == RECOVERY_KEY
        assert key_from_recovery_key("x", ANOTHER, ANOTHER_RECOVERY_KEY).recovery_key == ANOTHER_RECOVERY_KEY

    def test_a_secret_is_read(self) -> None:
        assert unpadded(decrypt_secret(MASTER, MASTER_KEY, correct_horse())) == MASTER_KEY_IN_CLEAR
        assert keys_of_secret(MASTER_KEY) == {KEY_ID}

    def test_another_key_or_passphrase_is_noticed(self) -> None:
        with pytest.raises(WrongStorageKey):
            key_from_recovery_key(KEY_ID, CORRECT_HORSE, ANOTHER_RECOVERY_KEY)
        with pytest.raises(WrongStorageKey):
            key_from_passphrase(KEY_ID, CORRECT_HORSE, "wrong horse")
        with pytest.raises(NotStoredForKey):
            decrypt_secret(MASTER, MASTER_KEY, key_from_recovery_key("x", ANOTHER, ANOTHER_RECOVERY_KEY))
        with pytest.raises(TamperedStoredSecret):
            decrypt_secret(MASTER, MASTER_KEY, key_from_recovery_key(KEY_ID, ANOTHER, ANOTHER_RECOVERY_KEY))
        with pytest.raises(TamperedStoredSecret):  # stored under another name
            decrypt_secret("m.cross_signing.self_signing", MASTER_KEY, correct_horse())


class TestRecoveryKeys:
    @given(st.binary(min_size=32, max_size=32))
    def test_a_recovery_key_stands_for_its_key_however_it_is_spaced(self, key: bytes) -> None:
        text = encode_recovery_key(key)
        assert len(text) == 48 + 11
        for spaced in (text, text.replace(" ", ""), "\n " + text.replace(" ", "\t")):
            assert decode_recovery_key(spaced) == key

    @given(st.integers(0, 47), st.sampled_from("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz0OIl-"))
    def test_a_letter_that_is_mistyped_gives_no_other_key_but_by_chance(self, place: int, letter: str) -> None:
        letters = RECOVERY_KEY.replace(" ", "")
        mistyped = f"{letters[:place]}{letter}{letters[place + 1 :]}"
        if mistyped == letters:
            return
        try:
            key = decode_recovery_key(mistyped)
        except MalformedRecoveryKey:
            return
        with pytest.raises(WrongStorageKey):  # the parity is only one byte; the description has a check too
            key_from_recovery_key(KEY_ID, CORRECT_HORSE, encode_recovery_key(key))

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "foo",
            RECOVERY_KEY[:-1],
            f"{RECOVERY_KEY}x",
            f"1{RECOVERY_KEY}",
            "1" * 48,
            "z" * 48,
            "O" * 48,
            "x" * 10**6,
        ],
    )
    def test_what_is_none_is_refused(self, text: str) -> None:
        with pytest.raises(MalformedRecoveryKey):
            decode_recovery_key(text)

    def test_what_has_the_same_last_bytes_is_refused(self) -> None:
        """The key stands for the number of ``RECOVERY_KEY`` plus 256 to the power of 35."""
        with pytest.raises(MalformedRecoveryKey):
            decode_recovery_key("gQz737dadNUbr4FrMhkKp1fbLW9cpgAaZ7BKDrCfrCH4we8i")

    def test_a_wrong_parity_is_refused(self) -> None:
        with pytest.raises(MalformedRecoveryKey, match="parity"):
            decode_recovery_key(RECOVERY_KEY[:-1] + "D")

    def test_only_a_key_of_32_bytes_has_one(self) -> None:
        with pytest.raises(InvalidArgument):
            encode_recovery_key(bytes(31))


class TestKeys:
    def test_a_new_key_comes_back_by_what_a_person_knows(self) -> None:
        random_key = new_storage_key(name="mine")
        assert random_key.description["name"] == "mine"
        assert "passphrase" not in random_key.description
        phrase_key = new_storage_key("a passphrase", rounds=1000)
        for key in (random_key, phrase_key):
            assert key_from_recovery_key(key.key_id, key.description, key.recovery_key) == key
        assert key_from_passphrase(phrase_key.key_id, phrase_key.description, "a passphrase") == phrase_key
        with pytest.raises(WrongStorageKey):
            key_from_passphrase(phrase_key.key_id, phrase_key.description, "another")
        assert random_key.key_id != phrase_key.key_id
        assert key_event_type("x") == "m.secret_storage.key.x"
        assert default_key_id(default_key_content("x")) == "x"

    def test_a_key_whose_description_has_no_check_is_believed(self) -> None:
        for missing in ("iv", "mac"):
            description = {name: value for name, value in CORRECT_HORSE.items() if name != missing}
            assert key_from_recovery_key(KEY_ID, description, ANOTHER_RECOVERY_KEY).recovery_key == ANOTHER_RECOVERY_KEY

    def test_nothing_is_stored_for_a_key_whose_description_has_no_check(self) -> None:
        """Otherwise a homeserver could demand a single round, and guess the passphrase from the stored secret."""
        passphrase = {"algorithm": "m.pbkdf2", "iterations": 1, "salt": "x"}
        for missing in ({"iv"}, {"mac"}, {"iv", "mac"}):
            kept: Json = {name: value for name, value in CORRECT_HORSE.items() if name not in missing}
            key = key_from_passphrase(KEY_ID, {**kept, "passphrase": passphrase}, PASSPHRASE)
            for keys in ([key], [new_storage_key(), key]):
                with pytest.raises(UncheckedStorageKey):
                    encrypt_secret(MASTER, "a secret", iter(keys))

    @pytest.mark.parametrize(
        ("changed", "error"),
        [
            ({"algorithm": "m.other"}, UnsupportedStorageKey),
            ({"algorithm": 5}, MalformedStorageKey),
            ({"passphrase": None}, MalformedStorageKey),
            ({"passphrase": "words"}, MalformedStorageKey),
            ({"passphrase": {"algorithm": "m.other"}}, UnsupportedStorageKey),
            (
                {"passphrase": {"algorithm": "m.pbkdf2", "salt": "x", "iterations": 1, "bits": 512}},
                UnsupportedStorageKey,
            ),
            ({"passphrase": {"algorithm": "m.pbkdf2", "salt": "x", "iterations": 0}}, RoundsOutOfBounds),
            ({"passphrase": {"algorithm": "m.pbkdf2", "salt": "x", "iterations": -1}}, RoundsOutOfBounds),
            ({"passphrase": {"algorithm": "m.pbkdf2", "salt": "x", "iterations": 10_000_001}}, RoundsOutOfBounds),
            ({"passphrase": {"algorithm": "m.pbkdf2", "salt": "x", "iterations": 2**63}}, RoundsOutOfBounds),
            ({"passphrase": {"algorithm": "m.pbkdf2", "salt": 5, "iterations": 1}}, MalformedStorageKey),
            ({"passphrase": {"algorithm": "m.pbkdf2", "salt": NO_UTF8, "iterations": 1}}, MalformedStorageKey),
            ({"passphrase": {"algorithm": "m.pbkdf2", "salt": "x", "iterations": 1.5}}, MalformedStorageKey),
            ({"iv": "MeowMeowMeow"}, MalformedStorageKey),
            ({"iv": "not base64!"}, MalformedStorageKey),
            ({"mac": "7k6OruQlWg0UmQjxGZ0ad4Q6DdwkgnoI7G6X3IjBYtIMeowMeowMeow"}, MalformedStorageKey),
        ],
    )
    def test_a_description_that_is_malformed_hostile_or_of_the_future_is_refused(
        self, changed: Json, error: type[MachineError]
    ) -> None:
        cheap: Json = {"passphrase": {"algorithm": "m.pbkdf2", "salt": "x", "iterations": 1}}
        with pytest.raises(error):
            key_from_passphrase(KEY_ID, CORRECT_HORSE | cheap | changed, PASSPHRASE)

    def test_what_makes_no_key_is_refused(self) -> None:
        for passphrase, rounds in (("", 1), (NO_UTF8, 1), ("x", 0), ("x", 10_000_001)):
            with pytest.raises(InvalidArgument):
                new_storage_key(passphrase, rounds=rounds)
        contents: tuple[Json, ...] = ({}, {"key": 5})
        for content in contents:
            with pytest.raises(MalformedStorageKey):
                default_key_id(content)


class TestSecrets:
    def test_each_of_several_keys_opens_a_secret(self) -> None:
        keys = [new_storage_key() for _ in range(3)]
        content = encrypt_secret("org.example.secret", "grüße", keys[:2])
        assert keys_of_secret(content) == {key.key_id for key in keys[:2]}
        for key in keys[:2]:
            assert decrypt_secret("org.example.secret", content, key) == "grüße"
        with pytest.raises(NotStoredForKey):
            decrypt_secret("org.example.secret", content, keys[2])

    def test_no_bit_of_the_ciphertext_or_the_mac_may_change(self) -> None:
        print("seed 0")  # noqa: T201 (shown where the test fails)
        chosen = random.Random(0)
        key = new_storage_key()
        for part in ("ciphertext", "mac"):
            content = encrypt_secret("x", "a secret", [key])
            sealed = content["encrypted"]
            assert isinstance(sealed, dict)
            text = sealed[key.key_id][part]
            place = chosen.randrange(len(text) - 1)
            sealed[key.key_id][part] = f"{text[:place]}{'A' if text[place] != 'A' else 'B'}{text[place + 1 :]}"
            with pytest.raises(TamperedStoredSecret):
                decrypt_secret("x", content, key)

    @pytest.mark.parametrize(
        "content",
        [
            {},
            {"encrypted": []},
            {"encrypted": {KEY_ID: "x"}},
            {"encrypted": {KEY_ID: {"iv": "x", "mac": "x"}}},
            {"encrypted": {KEY_ID: {"iv": "!", "mac": "AAAA", "ciphertext": "AAAA"}}},
            {"encrypted": {KEY_ID: {"iv": "AAAA", "mac": "AAAA", "ciphertext": "AAAA"}}},
        ],
    )
    def test_what_is_no_secret_is_refused(self, content: Json) -> None:
        with pytest.raises(MalformedStoredSecret):
            decrypt_secret(MASTER, content, correct_horse())

    def test_a_secret_needs_a_key_and_is_text(self) -> None:
        for secret, keys in (("x", []), (NO_UTF8, [correct_horse()])):
            with pytest.raises(InvalidArgument):
                encrypt_secret("x", secret, keys)

    def test_the_counter_block_is_not_authenticated_and_what_it_spoils_is_not_shown(self) -> None:
        key = new_storage_key()
        content = encrypt_secret("x", "a secret", [key])
        sealed = content["encrypted"]
        assert isinstance(sealed, dict)
        for number in range(64):
            sealed[key.key_id]["iv"] = to_unpadded(bytes([number]) * 16)
            try:
                assert decrypt_secret("x", content, key) != "a secret"
            except MalformedStoredSecret as error:
                assert error.__context__ is None  # noqa: PT017 (it would hold the plaintext)


def test_nothing_that_is_shown_holds_a_secret() -> None:
    key = correct_horse()
    assert to_unpadded(key.key) not in repr(key)
    assert "key=b" not in repr(key)
    for call in (lambda: encrypt_secret("x", NO_UTF8, [key]), lambda: new_storage_key(NO_UTF8)):
        with pytest.raises(InvalidArgument) as raised:
            call()
        shown = "".join(traceback.format_exception(raised.value))
        assert "UnicodeEncodeError" not in shown
