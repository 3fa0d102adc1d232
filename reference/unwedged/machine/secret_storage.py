"""Secret storage: secrets in the user's account data, where the homeserver can't read them.

Matrix specification, client-server API, "Secrets", "Storage". A key of the storage is random or derived from a
passphrase, and its description is account data too (``key_event_type``). A secret is encrypted for any number of keys;
one key is the default (``DEFAULT_KEY``). The application fetches and stores the account data. A private key is stored
as unpadded base64: a seed of ``SigningSeeds`` under ``m.cross_signing.master``, ``m.cross_signing.self_signing`` or
``m.cross_signing.user_signing``, and the decryption key of the backup under ``m.megolm_backup.v1``.

The homeserver may have changed any of this data. A secret's HMAC covers the ciphertext but not the counter block. So
check each secret before you use it, for example a private key against its public key.
To derive a key from a passphrase takes as long as PBKDF2 does: do it in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from unwedged.machine.aes_hmac import MOST_ROUNDS, counted, from_passphrase, mac, new_iv, octets
from unwedged.machine.errors import (
    InvalidArgument,
    MalformedStorageKey,
    MalformedStoredSecret,
    NotStoredForKey,
    RoundsOutOfBounds,
    TamperedStoredSecret,
    UncheckedStorageKey,
    UnsupportedStorageKey,
    WrongStorageKey,
)
from unwedged.machine.identifiers import JsonObject
from unwedged.machine.recovery_keys import KEY_BYTES, decode_recovery_key, encode_recovery_key
from unwedged.machine.unpadded_base64 import to_unpadded, unpadded
from unwedged.machine.wire import is_storable, parsed
from unwedged.store.arguments import whole_of

ALGORITHM: Final = "m.secret_storage.v1.aes-hmac-sha2"
DEFAULT_KEY: Final = "m.secret_storage.default_key"
"""The type of the account data that names the default key."""
ROUNDS: Final = 500_000
"""The default for new passphrases, as in other programs. It takes some tenths of a second."""

_PBKDF2: Final = "m.pbkdf2"
_IV_BYTES: Final = 16
_MAC_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class StorageKey:
    """A key of the secret storage."""

    key_id: str
    description: JsonObject
    """The content of its account data, of the type ``key_event_type(key_id)``."""
    key: bytes = field(repr=False)

    @property
    def recovery_key(self) -> str:
        """The text from which a person can restore the key."""
        return encode_recovery_key(self.key)


class _Passphrase(msgspec.Struct, frozen=True):
    algorithm: str
    salt: str = ""
    iterations: int = 0
    bits: int = 8 * KEY_BYTES


class _Description(msgspec.Struct, frozen=True):
    algorithm: str
    passphrase: _Passphrase | None = None
    iv: str | None = None
    mac: str | None = None


class _Encrypted(msgspec.Struct, frozen=True):
    iv: str
    ciphertext: str
    mac: str


class _Secret(msgspec.Struct, frozen=True):
    encrypted: dict[str, object]


class _DefaultKey(msgspec.Struct, frozen=True):
    key: str


def key_event_type(key_id: str) -> str:
    """Return the type of the account data that describes a key."""
    return f"m.secret_storage.key.{key_id}"


def default_key_content(key_id: str) -> JsonObject:
    """Return the content of the account data ``DEFAULT_KEY`` that names a key."""
    return {"key": key_id}


def default_key_id(content: JsonObject) -> str:
    """Return the id of the default key, from the content of the account data. Raises ``MalformedStorageKey``."""
    return parsed(content, _DefaultKey, "the name of the default key", MalformedStorageKey).key


def new_storage_key(passphrase: str | None = None, *, name: str | None = None, rounds: int = ROUNDS) -> StorageKey:
    """Make a key: from a passphrase, or a random one, which only its recovery key restores.

    Raises ``InvalidArgument`` for a passphrase that is empty or can't be encoded as UTF-8, and for more rounds than
    ``MOST_ROUNDS``.
    """
    description: JsonObject = {"algorithm": ALGORITHM}
    if name is not None:
        description["name"] = name
    if passphrase is None:
        key = os.urandom(KEY_BYTES)
    else:
        if not passphrase:
            raise InvalidArgument("a passphrase has at least one character")
        if not 1 <= whole_of(rounds, "the number of rounds") <= MOST_ROUNDS:
            raise InvalidArgument(f"{rounds} rounds: a passphrase has 1 to {MOST_ROUNDS}")
        salt = to_unpadded(os.urandom(24))
        key = from_passphrase(octets(passphrase), salt.encode(), rounds, KEY_BYTES)
        description["passphrase"] = {
            "algorithm": _PBKDF2,
            "salt": salt,
            "iterations": rounds,
            "bits": 8 * KEY_BYTES,
        }
    iv = new_iv()
    description |= {"iv": to_unpadded(iv), "mac": to_unpadded(_check(key, iv))}
    return StorageKey(to_unpadded(os.urandom(24)), description, key)


def key_from_passphrase(key_id: str, description: JsonObject, passphrase: str) -> StorageKey:
    """Return the key that ``description`` describes, derived from its passphrase.

    Raises ``MalformedStorageKey`` (also if the key has no passphrase), ``UnsupportedStorageKey``,
    ``RoundsOutOfBounds``, ``WrongStorageKey``, and ``InvalidArgument`` for a passphrase that can't be encoded as UTF-8.
    """
    described = _described(description)
    made = described.passphrase
    if made is None:
        raise MalformedStorageKey("this key of the secret storage comes from no passphrase")
    if made.algorithm != _PBKDF2 or made.bits != 8 * KEY_BYTES:
        raise UnsupportedStorageKey("a key of the secret storage comes from a passphrase in a way that is not known")
    if not is_storable(made.salt):
        raise MalformedStorageKey("the salt of a key of the secret storage is no text")
    if not 1 <= made.iterations <= MOST_ROUNDS:
        raise RoundsOutOfBounds(f"the key asks for {made.iterations} rounds, and 1 to {MOST_ROUNDS} are accepted")
    key = from_passphrase(octets(passphrase), made.salt.encode(), made.iterations, KEY_BYTES)
    return _checked(key_id, description, described, key)


def key_from_recovery_key(key_id: str, description: JsonObject, recovery_key: str) -> StorageKey:
    """Return the key that ``description`` describes, from its recovery key.

    Raises ``MalformedRecoveryKey``, ``MalformedStorageKey``, ``UnsupportedStorageKey`` and ``WrongStorageKey``.
    """
    return _checked(key_id, description, _described(description), decode_recovery_key(recovery_key))


def encrypt_secret(name: str, secret: str, keys: Iterable[StorageKey]) -> JsonObject:
    """Return the content of the account data ``name``: the secret, encrypted for each of ``keys``.

    It replaces the content that is there, so afterwards only ``keys`` decrypt the secret. Raises ``InvalidArgument``
    without a key, and for a secret that can't be encoded as UTF-8. Raises ``UncheckedStorageKey`` if a description has
    nothing to check its key with: a homeserver that removes the check can also lower the rounds, and then guess the
    passphrase.
    """
    keys = tuple(keys)
    for key in keys:
        described = _described(key.description)
        if described.iv is None or described.mac is None:
            raise UncheckedStorageKey("the description of a key has no check, so the homeserver may have changed it")
    try:
        plaintext = secret.encode()
    except UnicodeEncodeError:  # This exception holds the secret: it must not become the context of what is raised.
        plaintext = None
    encrypted = {} if plaintext is None else {each.key_id: _sealed(name, plaintext, each.key) for each in keys}
    if not encrypted:
        raise InvalidArgument("a secret is text that has UTF-8, and is stored for at least one key")
    return {"encrypted": encrypted}


def keys_of_secret(content: JsonObject) -> frozenset[str]:
    """Return the ids of the keys that decrypt a secret. Raises ``MalformedStoredSecret``."""
    return frozenset(_secret(content).encrypted)


def decrypt_secret(name: str, content: JsonObject, key: StorageKey) -> str:
    """Return the secret in the content of the account data ``name``.

    Raises ``MalformedStoredSecret``, ``NotStoredForKey`` and ``TamperedStoredSecret``.
    """
    encrypted = _secret(content).encrypted.get(key.key_id)
    if encrypted is None:
        raise NotStoredForKey("this secret is not stored for this key")
    sealed = parsed(encrypted, _Encrypted, "a stored secret", MalformedStoredSecret)
    try:
        iv, ciphertext, expected = unpadded(sealed.iv), unpadded(sealed.ciphertext), unpadded(sealed.mac)
    except ValueError:
        raise MalformedStoredSecret("a part of a stored secret is not base64") from None
    if len(iv) != _IV_BYTES:
        raise MalformedStoredSecret("the counter block of a stored secret has another length")
    aes_key, mac_key = _derived(key.key, name)
    try:
        mac(mac_key, ciphertext).verify(expected)
    except InvalidSignature:
        raise TamperedStoredSecret("the secret was changed, or is another one, or has another key") from None
    try:
        return counted(aes_key, iv, ciphertext).decode()
    except UnicodeDecodeError:  # This exception holds the plaintext: it must not become the context of what is raised.
        pass
    raise MalformedStoredSecret("a stored secret decrypts to no text")


def _secret(content: JsonObject) -> _Secret:
    return parsed(content, _Secret, "a stored secret", MalformedStoredSecret)


def _described(description: JsonObject) -> _Description:
    described = parsed(description, _Description, "the description of a key", MalformedStorageKey)
    if described.algorithm != ALGORITHM:
        raise UnsupportedStorageKey("a key of the secret storage is for an algorithm that is not known")
    return described


def _checked(key_id: str, description: JsonObject, described: _Description, key: bytes) -> StorageKey:
    """Return the key. Raises ``WrongStorageKey`` if the check in its description does not fit it.

    A description without a check accepts any key. A wrong key decrypts nothing, and ``encrypt_secret`` refuses to
    encrypt for a key that was not checked.
    """
    if described.iv is not None and described.mac is not None:
        try:
            iv, expected = unpadded(described.iv), unpadded(described.mac)
        except ValueError:
            raise MalformedStorageKey("the check of a key is not base64") from None
        if (len(iv), len(expected)) != (_IV_BYTES, _MAC_BYTES):
            raise MalformedStorageKey("the check of a key has another length")
        if _check(key, iv) != expected:
            raise WrongStorageKey("this is another key than the one that is described")
    return StorageKey(key_id, description, key)


def _check(key: bytes, iv: bytes) -> bytes:
    """Return the MAC of encrypted zeros, by which a key is checked."""
    aes_key, mac_key = _derived(key, "")
    return mac(mac_key, counted(aes_key, iv, bytes(32))).finalize()


def _sealed(name: str, plaintext: bytes, key: bytes) -> JsonObject:
    aes_key, mac_key = _derived(key, name)
    iv = new_iv()
    ciphertext = counted(aes_key, iv, plaintext)
    return {
        "iv": to_unpadded(iv),
        "ciphertext": to_unpadded(ciphertext),
        "mac": to_unpadded(mac(mac_key, ciphertext).finalize()),
    }


def _derived(key: bytes, name: str) -> tuple[bytes, bytes]:
    """Return the keys of AES and HMAC for the secret ``name``."""
    derived = HKDF(SHA256(), 64, bytes(32), name.encode()).derive(key)
    return derived[:32], derived[32:]
