"""Canonical JSON, and signatures over JSON objects (Matrix specification, appendices, "Signing JSON").

A signature also covers fields that this program does not know. So a signature is always checked on the object as it was
received.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from unwedged.machine.errors import NotCanonical
from unwedged.machine.identifiers import Ed25519Key, JsonObject, UserId
from unwedged.machine.unpadded_base64 import to_unpadded, unpadded

_ENCODER: Final = msgspec.json.Encoder(order="sorted")
_GREATEST: Final = 2**53 - 1
_NOT_SIGNED: Final = frozenset({"signatures", "unsigned"})


def canonical(value: object) -> bytes:
    """Return the canonical JSON of ``value``, which signatures cover.

    Raises ``NotCanonical`` for a value that has none: for fractions, integers beyond 53 bits and lone surrogates, and
    for a value that is nested too deeply.
    """
    try:
        _must_be_canonical(value)
        return _ENCODER.encode(value)
    except (UnicodeEncodeError, RecursionError) as error:
        reason = type(error).__name__
    raise NotCanonical(f"this JSON has no canonical encoding ({reason})")


def signable(value: Mapping[str, object]) -> bytes:
    """Return the bytes that a signature of ``value`` covers."""
    return canonical(without_signatures(value))


def without_signatures(value: Mapping[str, object]) -> JsonObject:
    """Return the fields that a signature of ``value`` covers."""
    return {name: part for name, part in value.items() if name not in _NOT_SIGNED}


def public_key(seed: bytes) -> Ed25519Key:
    """Return the public key of the private key with this ``seed`` of 32 bytes."""
    return Ed25519Key(to_unpadded(Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()))


def signed_by(value: JsonObject, user_id: UserId, seed: bytes) -> JsonObject:
    """Return ``value`` with a further signature, by the cross-signing key of ``user_id`` with this ``seed``."""
    signature = to_unpadded(Ed25519PrivateKey.from_private_bytes(seed).sign(signable(value)))
    return with_signature(value, user_id, f"ed25519:{public_key(seed)}", signature)


def is_signed(value: Mapping[str, object], user_id: UserId, key_id: str, key: Ed25519Key) -> bool:
    """Return whether ``value`` has a valid signature of ``user_id`` by the ``key`` with the id ``key_id``.

    ``key_id`` is the whole id, such as ``ed25519:DEVICE``. A malformed value or signature is not valid.
    """
    signatures = value.get("signatures")
    of_user = signatures.get(user_id) if isinstance(signatures, dict) else None
    signature = of_user.get(key_id) if isinstance(of_user, dict) else None
    if not isinstance(signature, str):
        return False
    try:
        return _verifies(key, signature, signable(value))
    except NotCanonical:
        return False


def with_signature(value: JsonObject, user_id: UserId, key_id: str, signature: str) -> JsonObject:
    """Return ``value`` with a further signature."""
    signatures = value.get("signatures")
    signed: JsonObject = dict(signatures) if isinstance(signatures, dict) else {}
    of_user = signed.get(user_id)
    signed[user_id] = {**(of_user if isinstance(of_user, dict) else {}), key_id: signature}
    return {**value, "signatures": signed}


@lru_cache(maxsize=1024)
def _verifies(key: str, signature: str, signed: bytes) -> bool:
    """Return whether a signature is valid. It is cached, since each Olm message of a device has its device keys."""
    try:
        Ed25519PublicKey.from_public_bytes(unpadded(key)).verify(unpadded(signature), signed)
    except (InvalidSignature, ValueError):
        return False
    return True


def _must_be_canonical(value: object) -> None:
    if isinstance(value, dict):
        for part in value.values():
            _must_be_canonical(part)
    elif isinstance(value, list):
        for part in value:
            _must_be_canonical(part)
    elif isinstance(value, float):
        raise NotCanonical("a fraction has no canonical encoding")
    elif isinstance(value, int) and abs(value) > _GREATEST:
        raise NotCanonical("an integer beyond 53 bits has no canonical encoding")
