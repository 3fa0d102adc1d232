"""Detect a message key that was used twice, from everything that any device has sent.

The key of an Olm message is identified by the sender, the ratchet key and the index; the key of a Megolm message by the
session and the index. These are not encrypted. A device may send the same bytes again, since it may repeat a request.
It must never send other bytes under the same key.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, TypeVar

import msgspec

from checking.machine_replay.homeserver import Arrival

K = TypeVar("K")

_VERSION: Final = 3
_MAC: Final = 8
"""The bytes of the authentication code at the end of an Olm or Megolm message."""
_SIGNATURE: Final = 64
"""The bytes of the signature at the end of a Megolm message."""


class Malformed(ValueError):
    """An event that claims to be encrypted has no valid ciphertext."""


class MessageKeyReused(AssertionError):
    """Two messages were encrypted with one key."""


class OlmKey(NamedTuple):
    """The identity of an Olm message key."""

    sender_key: str
    ratchet_key: bytes
    message_index: int


class MegolmKey(NamedTuple):
    """The identity of a Megolm message key."""

    session_id: str
    message_index: int


class MessageKeys:
    """The keys of all messages that were added."""

    def __init__(self) -> None:
        self.olm: dict[OlmKey, bytes] = {}
        self.megolm: dict[MegolmKey, bytes] = {}

    def add_arrivals(self, arrivals: Iterable[Arrival]) -> None:
        """Add all requests that a homeserver recorded. Raises ``MessageKeyReused`` or ``Malformed``."""
        for arrival in arrivals:
            self.add(msgspec.json.decode(arrival.body))

    def add(self, sent: object) -> None:
        """Add each ciphertext in a JSON value, at any depth. Raises ``MessageKeyReused`` or ``Malformed``."""
        for content in _objects(sent):
            match content:
                case {"algorithm": "m.olm.v1.curve25519-aes-sha2", "sender_key": str(sender), "ciphertext": dict(each)}:
                    for message in each.values():
                        body = decode(message["body"])
                        inner = inner_message(body) if message["type"] == 0 else body
                        _use(self.olm, OlmKey(sender, *olm_position(inner)), inner)
                case {"algorithm": "m.megolm.v1.aes-sha2", "session_id": str(session), "ciphertext": str(ciphertext)}:
                    body = decode(ciphertext)
                    _use(self.megolm, MegolmKey(session, megolm_index(body)), body)
                case _:
                    pass


def inner_message(body: bytes) -> bytes:
    """Return the ordinary Olm message inside a pre-key message. Raises ``Malformed``."""
    fields = _fields(body, 0)
    _one_time_key, _base_key, _identity_key, message = (_chunk(fields, tag) for tag in (0x0A, 0x12, 0x1A, 0x22))
    return message


def olm_position(body: bytes) -> tuple[bytes, int]:
    """Return the ratchet key and the index of an ordinary Olm message. Raises ``Malformed``."""
    fields = _fields(body, _MAC)
    _ciphertext = _chunk(fields, 0x22)
    return _chunk(fields, 0x0A), _number(fields, 0x10)


def megolm_index(body: bytes) -> int:
    """Return the index of a Megolm message. Raises ``Malformed``."""
    fields = _fields(body, _MAC + _SIGNATURE)
    _ciphertext = _chunk(fields, 0x12)
    return _number(fields, 0x08)


def decode(text: object) -> bytes:
    """Decode base64 without padding, as Matrix uses it. Raises ``Malformed``."""
    if not isinstance(text, str):
        raise Malformed("a ciphertext is a string")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise Malformed(str(error)) from None


def _objects(value: object) -> Iterator[dict[str, object]]:
    """Yield all objects of a JSON value, at any depth."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from _objects(each)
    elif isinstance(value, list):
        for each in value:
            yield from _objects(each)


def _use(used: dict[K, bytes], key: K, message: bytes) -> None:
    if used.setdefault(key, message) != message:
        raise MessageKeyReused(f"two messages were encrypted with {key}")


def _fields(body: bytes, trailer: int) -> dict[int, bytes | int]:
    """Return the fields of a message by their tags: numbers, and byte strings with a length. Each may occur once."""
    if not body or body[0] != _VERSION:
        raise Malformed("a message of another version")
    fields: dict[int, bytes | int] = {}
    at, end = 1, len(body) - trailer
    while at < end:
        tag = body[at]
        number, at = _varint(body, at + 1, end)
        if tag in fields or (tag & 7 == 2 and at + number > end):
            raise Malformed("a field comes twice, or is longer than the message")
        if tag & 7 == 2:
            fields[tag], at = body[at : at + number], at + number
        elif tag & 7 == 0:
            fields[tag] = number
        else:
            raise Malformed("a field of a kind that these messages don't have")
    return fields


def _varint(body: bytes, at: int, end: int) -> tuple[int, int]:
    """Read a number of seven bits per byte. Return it and the position of its end."""
    value = 0
    for shift in range(0, 35, 7):
        if at >= end:
            break
        value, at = value | (body[at] & 127) << shift, at + 1
        if body[at - 1] < 128:
            return value, at
    raise Malformed("a number has no end")


def _chunk(fields: dict[int, bytes | int], tag: int) -> bytes:
    chunk = fields.get(tag)
    if not isinstance(chunk, bytes):
        raise Malformed("a field is missing")
    return chunk


def _number(fields: dict[int, bytes | int], tag: int) -> int:
    number = fields.get(tag)
    if not isinstance(number, int):
        raise Malformed("a field is missing")
    return number
