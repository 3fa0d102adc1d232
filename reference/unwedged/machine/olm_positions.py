"""The position of an Olm message in its session: the ratchet key and the index, which it has in clear (pure).

vodozemac does not return them. Formats: Matrix specification, "Olm: A Cryptographic Ratchet", "Message format".
"""

from __future__ import annotations

from typing import Final, NamedTuple

from unwedged.machine.unpadded_base64 import unpadded

_PRE_KEY: Final = 0
_VERSION: Final = 3
_RATCHET_KEY: Final = 0x0A
_INDEX: Final = 0x10
_INNER_MESSAGE: Final = 0x22
_MAC_BYTES: Final = 8
_LONGEST_NUMBER: Final = 5
"""The longest encoding of a number that is read, in bytes."""


class OlmPosition(NamedTuple):
    """The position of a message. No two messages of one sender may have the same one."""

    ratchet_key: bytes
    message_index: int


def olm_position(message_type: int, body: str) -> OlmPosition | None:
    """Return the position of a message, or ``None`` if it is not an Olm message."""
    try:
        message = unpadded(body)
        if message_type == _PRE_KEY:
            message = _chunk(_fields(message, 0), _INNER_MESSAGE)
        fields = _fields(message, _MAC_BYTES)
        message_index = fields[_INDEX]
        return OlmPosition(_chunk(fields, _RATCHET_KEY), message_index) if isinstance(message_index, int) else None
    except (ValueError, LookupError):
        return None


def _chunk(fields: dict[int, bytes | int], tag: int) -> bytes:
    chunk = fields[tag]
    if not isinstance(chunk, bytes):
        raise ValueError("a number where bytes are expected")
    return chunk


def _fields(message: bytes, trailer: int) -> dict[int, bytes | int]:
    """Return the fields of a message by their tags: integers, and byte strings with a length prefix."""
    if message[:1] != bytes([_VERSION]):
        raise ValueError("another version")
    fields: dict[int, bytes | int] = {}
    at, end = 1, len(message) - trailer
    while at < end:
        tag = message[at]
        number, at = _number(message, at + 1)
        if tag & 7 == 2:
            fields[tag] = message[at : at + number]
            at += number
        else:
            fields[tag] = number
    return fields


def _number(message: bytes, at: int) -> tuple[int, int]:
    """Read a number of seven bits in each byte; return it, and the offset after it."""
    value = 0
    for place in range(_LONGEST_NUMBER):
        value |= (message[at + place] & 0x7F) << 7 * place
        if message[at + place] < 0x80:
            return value, at + place + 1
    raise ValueError("a number is too long")
