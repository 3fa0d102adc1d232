"""The bytes in the QR code of a verification (Matrix specification, "QR code format"). Applications draw and scan."""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec

from unwedged.machine.errors import MalformedQrCode
from unwedged.machine.identifiers import Ed25519Key
from unwedged.machine.unpadded_base64 import to_unpadded, unpadded

SECRET_BYTES: Final = 16
_HEADER: Final = b"MATRIX\x02"
_KEY_BYTES: Final = 32
_SHORTEST_SECRET_BYTES: Final = 8


class Mode(Enum):
    """Which devices verify each other, from the side of the device that shows the code."""

    OTHER_USER = 0
    OWN_TRUSTED = 1
    """Two devices of one user. The device that shows the code trusts the user's master key."""
    OWN_UNTRUSTED = 2
    """Two devices of one user. The device that shows the code does not trust the user's master key yet."""


class QrCode(msgspec.Struct, frozen=True):
    """The content of a QR code."""

    mode: Mode
    transaction_id: str
    first_key: Ed25519Key
    """The master key of the user that shows the code; in ``OWN_UNTRUSTED`` the Ed25519 key of that user's device."""
    second_key: Ed25519Key
    """The key that this device expects of the other side: the other user's master key; in ``OWN_TRUSTED`` the Ed25519
    key of the other device; in ``OWN_UNTRUSTED`` the user's own master key."""
    secret: bytes
    """The other device sends it back to prove that it has scanned the code."""

    def __repr__(self) -> str:
        return f"<QrCode {self.mode}>"

    def encode(self) -> bytes:
        """Return the bytes to draw, as one segment in byte mode."""
        name = self.transaction_id.encode()
        keys = unpadded(self.first_key) + unpadded(self.second_key)
        return _HEADER + bytes([self.mode.value]) + len(name).to_bytes(2) + name + keys + self.secret


def decode(scanned: bytes) -> QrCode:
    """Parse the bytes from a scanner. Raises ``MalformedQrCode``."""
    if not scanned.startswith(_HEADER):
        raise MalformedQrCode("this is no QR code of a verification, or one of a version that is not known")
    rest = scanned[len(_HEADER) :]
    name_end = 3 + int.from_bytes(rest[1:3])
    keys_end = name_end + 2 * _KEY_BYTES
    if len(rest) < keys_end + _SHORTEST_SECRET_BYTES:
        raise MalformedQrCode("a part of the QR code is missing")
    mode, name = _begun(rest[0], rest[3:name_end])
    first, second = (
        Ed25519Key(to_unpadded(rest[start : start + _KEY_BYTES])) for start in (name_end, name_end + _KEY_BYTES)
    )
    return QrCode(mode, name, first, second, rest[keys_end:])


def _begun(mode: int, name: bytes) -> tuple[Mode, str]:
    try:
        if name:
            return Mode(mode), name.decode()
    except ValueError:
        pass
    raise MalformedQrCode("the QR code has a mode that is not known, or a name that is none")
