"""Messages to a device that were damaged on their way, so that nobody can read them."""

from __future__ import annotations

from typing import Final

import msgspec

from checking.machine_replay.homeserver import Json
from unwedged.machine.identifiers import OLM

_PLACE: Final = 10
"""Where the base64 of an Olm message has its ratchet key; that of a pre-key message, its one-time key."""


class _Ciphertext(msgspec.Struct):
    type: int
    body: str


class _Encrypted(msgspec.Struct):
    algorithm: str
    sender_key: str
    ciphertext: dict[str, _Ciphertext]


def damaged(content: Json) -> Json:
    """Return the content of an Olm message with another ratchet key, which the sender has never had."""
    encrypted = msgspec.convert(content, _Encrypted)
    assert encrypted.algorithm == OLM
    for ciphertext in encrypted.ciphertext.values():
        body = ciphertext.body
        ciphertext.body = body[:_PLACE] + ("A" if body[_PLACE] != "A" else "B") + body[_PLACE + 1 :]
    return msgspec.convert(msgspec.to_builtins(encrypted), Json)
