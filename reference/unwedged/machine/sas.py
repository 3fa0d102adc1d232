"""Short authentication strings: computed by two devices from ephemeral keys, and compared by their owners (M16.8).

This is the method ``m.sas.v1`` of the Matrix specification, with the key agreement ``curve25519-hkdf-sha256``, the hash
``sha256`` and the MAC ``hkdf-hmac-sha256.v2``. Everything is computed from 32 secret bytes, which a record keeps. The
deprecated key agreement and MAC are neither offered nor accepted.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from unwedged.machine.errors import MalformedMessage
from unwedged.machine.identifiers import Device, JsonObject
from unwedged.machine.signing import canonical
from unwedged.machine.unpadded_base64 import to_unpadded, unpadded

KEY_AGREEMENT: Final = "curve25519-hkdf-sha256"
HASH: Final = "sha256"
CODE: Final = "hkdf-hmac-sha256.v2"
DECIMAL: Final = "decimal"
EMOJI: Final = "emoji"

SECRET_BYTES: Final = 32


class Emoji(NamedTuple):
    """One of the 64 pictures, with its English name."""

    symbol: str
    description: str


class Macs(NamedTuple):
    """The proof of a device's keys: the MAC of each key by its id, and the MAC of the list of ids."""

    keys: dict[str, str]
    key_ids: str


class ShortString(NamedTuple):
    """The strings that the owners of two devices compare, in both forms."""

    emoji: tuple[Emoji, ...]
    decimals: tuple[int, int, int]


class Ephemeral(NamedTuple):
    """A device and the public ephemeral key that it sent."""

    device: Device
    key: str


def public_key(secret: bytes) -> str:
    """Return the public key, in unpadded base64, of a private key of 32 bytes."""
    return to_unpadded(X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw())


def shared_secret(secret: bytes, their_key: str) -> bytes:
    """Return the secret shared with the other device. Raises ``MalformedMessage`` if its key is malformed or weak."""
    try:
        return X25519PrivateKey.from_private_bytes(secret).exchange(
            X25519PublicKey.from_public_bytes(unpadded(their_key))
        )
    except ValueError:
        pass
    raise MalformedMessage("an ephemeral key is no Curve25519 key, or one that makes the shared secret known")


def commitment(key: str, start: JsonObject) -> str:
    """Return the commitment of a device to its ephemeral key, and to the start message, before it sees the other key.

    Raises ``NotCanonical`` if the start message can't be encoded.
    """
    return to_unpadded(hashlib.sha256(key.encode() + canonical(start)).digest())


def short_string(shared: bytes, starter: Ephemeral, accepter: Ephemeral, transaction_id: str) -> ShortString:
    """Return the strings that both devices show. They are equal if there is no attacker in the middle."""
    sides = [part for device, key in (starter, accepter) for part in (*device, key)]
    info = "|".join(["MATRIX_KEY_VERIFICATION_SAS", *sides, transaction_id])
    bits = int.from_bytes(_expanded(shared, 6, info))
    return ShortString(
        tuple(EMOJIS[bits >> shift & 0x3F] for shift in range(42, 5, -6)),
        (1000 + (bits >> 35), 1000 + (bits >> 22 & 0x1FFF), 1000 + (bits >> 9 & 0x1FFF)),
    )


def macs(shared: bytes, sender: Device, receiver: Device, transaction_id: str, keys: Mapping[str, str]) -> Macs:
    """Return the MACs by which ``sender`` proves its ``keys``, which are given by their ids."""
    info = "".join(["MATRIX_KEY_VERIFICATION_MAC", *sender, *receiver, transaction_id])
    return Macs({each: _mac(shared, info + each, key) for each, key in keys.items()}, _mac_of_ids(shared, info, keys))


def proven(
    shared: bytes, sender: Device, receiver: Device, transaction_id: str, theirs: Macs, known: Mapping[str, str]
) -> frozenset[str]:
    """Return the ids of the ``known`` keys that ``sender`` has proved; none if any of its MACs is wrong (M16.11)."""
    info = "".join(["MATRIX_KEY_VERIFICATION_MAC", *sender, *receiver, transaction_id])
    shared_ids = frozenset(known.keys() & theirs.keys.keys())
    right = all(is_equal(theirs.keys[each], _mac(shared, info + each, known[each])) for each in shared_ids)
    if not right or not is_equal(theirs.key_ids, _mac_of_ids(shared, info, theirs.keys)):
        return frozenset()
    return shared_ids


def is_equal(code: str, expected: str) -> bool:
    """Compare two MACs in constant time. Base64 padding is ignored."""
    try:
        return hmac.compare_digest(unpadded(code), unpadded(expected))
    except ValueError:
        return False


def _mac(shared: bytes, info: str, text: str) -> str:
    return to_unpadded(hmac.digest(_expanded(shared, 32, info), text.encode(), "sha256"))


def _mac_of_ids(shared: bytes, info: str, key_ids: Iterable[str]) -> str:
    return _mac(shared, info + "KEY_IDS", ",".join(sorted(key_ids)))


def _expanded(shared: bytes, length: int, info: str) -> bytes:
    return HKDF(SHA256(), length, salt=None, info=info.encode()).derive(shared)


EMOJIS: Final = (
    Emoji("🐶", "Dog"),
    Emoji("🐱", "Cat"),
    Emoji("🦁", "Lion"),
    Emoji("🐎", "Horse"),
    Emoji("🦄", "Unicorn"),
    Emoji("🐷", "Pig"),
    Emoji("🐘", "Elephant"),
    Emoji("🐰", "Rabbit"),
    Emoji("🐼", "Panda"),
    Emoji("🐓", "Rooster"),
    Emoji("🐧", "Penguin"),
    Emoji("🐢", "Turtle"),
    Emoji("🐟", "Fish"),
    Emoji("🐙", "Octopus"),
    Emoji("🦋", "Butterfly"),
    Emoji("🌷", "Flower"),
    Emoji("🌳", "Tree"),
    Emoji("🌵", "Cactus"),
    Emoji("🍄", "Mushroom"),
    Emoji("🌏", "Globe"),
    Emoji("🌙", "Moon"),
    Emoji("☁️", "Cloud"),
    Emoji("🔥", "Fire"),
    Emoji("🍌", "Banana"),
    Emoji("🍎", "Apple"),
    Emoji("🍓", "Strawberry"),
    Emoji("🌽", "Corn"),
    Emoji("🍕", "Pizza"),
    Emoji("🎂", "Cake"),
    Emoji("❤️", "Heart"),
    Emoji("😀", "Smiley"),
    Emoji("🤖", "Robot"),
    Emoji("🎩", "Hat"),
    Emoji("👓", "Glasses"),
    Emoji("🔧", "Spanner"),
    Emoji("🎅", "Santa"),
    Emoji("👍", "Thumbs Up"),
    Emoji("☂️", "Umbrella"),
    Emoji("⌛", "Hourglass"),
    Emoji("⏰", "Clock"),
    Emoji("🎁", "Gift"),
    Emoji("💡", "Light Bulb"),
    Emoji("📕", "Book"),
    Emoji("✏️", "Pencil"),
    Emoji("📎", "Paperclip"),
    Emoji("✂️", "Scissors"),
    Emoji("🔒", "Lock"),
    Emoji("🔑", "Key"),
    Emoji("🔨", "Hammer"),
    Emoji("☎️", "Telephone"),
    Emoji("🏁", "Flag"),
    Emoji("🚂", "Train"),
    Emoji("🚲", "Bicycle"),
    Emoji("✈️", "Aeroplane"),
    Emoji("🚀", "Rocket"),
    Emoji("🏆", "Trophy"),
    Emoji("⚽", "Ball"),
    Emoji("🎸", "Guitar"),
    Emoji("🎺", "Trumpet"),
    Emoji("🔔", "Bell"),
    Emoji("⚓", "Anchor"),
    Emoji("🎧", "Headphones"),
    Emoji("📁", "Folder"),
    Emoji("📌", "Pin"),
)
"""The pictures in the order of their numbers (Matrix specification, "SAS method: emoji")."""
