"""Whether any message key was used twice, seen in everything that left any device.

The key of an Olm message is known by its sender, its ratchet key and its index; that of a Megolm message by its session
and its index. All of that is in the clear. The same bytes may leave again, since a request may be repeated; other bytes
under the same key are what no device may ever send.
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
"""Bytes of the authentication code at the end of an Olm or Megolm message."""
_SIGNATURE: Final = 64
"""Bytes of the signature at the end of a Megolm message."""


class Malformed(ValueError):
    """What says that it is a ciphertext is none."""


class MessageKeyReused(AssertionError):
    """Two messages were encrypted with one key."""


class OlmKey(NamedTuple):
    """The key of an Olm message."""

    sender_key: str
    ratchet_key: bytes
    message_index: int


class MegolmKey(NamedTuple):
    """The key of a Megolm message."""

    session_id: str
    message_index: int


class MessageKeys:
    """The keys of all messages so far."""

    def __init__(self) -> None:
        self.olm: dict[OlmKey, bytes] = {}
        self.megolm: dict[MegolmKey, bytes] = {}

    def add_arrivals(self, arrivals: Iterable[Arrival]) -> None:
        """Take in what a homeserver recorded."""
        for arrival in arrivals:
            self.add(msgspec.json.decode(arrival.body))

    def add(self, sent: object) -> None:
        """Take in each ciphertext of a JSON value, wherever it is; raise ``MessageKeyReused`` where a key was used."""
        for content in _objects(sent):
            match content:
                case {"algorithm": "m.olm.v1.curve25519-aes-sha2", "sender_key": str(sender), "ciphertext": dict(each)}:
                    for message in each.values():
                        body = decode(message["body"])
                        inner = inner_message(body) if message["type"] == 0 else body
                        _use(self.olm, OlmKey(sender, *olm_place(inner)), inner)
                case {"algorithm": "m.megolm.v1.aes-sha2", "session_id": str(session), "ciphertext": str(ciphertext)}:
                    body = decode(ciphertext)
                    _use(self.megolm, MegolmKey(session, megolm_index(body)), body)
                case _:
                    pass


def inner_message(body: bytes) -> bytes:
    """Return the ordinary Olm message that is inside a pre-key message."""
    fields = _fields(body, 0)
    _one_time_key, _base_key, _identity_key, message = (_chunk(fields, tag) for tag in (0x0A, 0x12, 0x1A, 0x22))
    return message


def olm_place(body: bytes) -> tuple[bytes, int]:
    """Read ratchet key and index from an ordinary Olm message."""
    fields = _fields(body, _MAC)
    _ciphertext = _chunk(fields, 0x22)
    return _chunk(fields, 0x0A), _number(fields, 0x10)


def megolm_index(body: bytes) -> int:
    """Read the index from a Megolm message."""
    fields = _fields(body, _MAC + _SIGNATURE)
    _ciphertext = _chunk(fields, 0x12)
    return _number(fields, 0x08)


def decode(text: object) -> bytes:
    """Decode base64 as Matrix writes it, without padding."""
    if not isinstance(text, str):
        raise Malformed("a ciphertext is a string")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise Malformed(str(error)) from None


def _objects(value: object) -> Iterator[dict[str, object]]:
    """All objects of a JSON value."""
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
    """The fields of a message by their tags: numbers, and what is prefixed by its length. Each comes once."""
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
    """Read a number, seven bits a byte; return it, and where it ends."""
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
