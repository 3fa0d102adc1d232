"""The rooms: how an application encrypts a message for the room of all users, and which messages it can read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from checking.machine_replay.client import Client, text_message
from checking.machine_replay.homeserver import Json
from unwedged.machine import MachineError, OlmMachine
from unwedged.machine.errors import RoomKeyNotShared
from unwedged.machine.identifiers import MEGOLM, RoomId

ROOM: Final = RoomId("!room:example.org")
DIRECT: Final = RoomId("!direct:example.org")
"""A room that is not encrypted, in which two users verify each other."""
ENCRYPTION: Final[Json] = {"algorithm": MEGOLM, "rotation_period_msgs": 5}


class _Content(msgspec.Struct):
    session_id: str


class _Encrypted(msgspec.Struct):
    content: _Content


async def encrypted(client: Client, members: Iterable[str], text: str) -> Json | None:
    """Encrypt a message for all devices of ``members``; return ``None`` if a device can't be given the key now."""
    sharing = await client.share(ROOM, members)
    if not sharing.reaches_all:
        return None
    try:
        return await client.machine.encrypt_room_event(ROOM, sharing, "m.room.message", text_message(text))
    except RoomKeyNotShared:
        return None  # A device or a session is new since the key was shared.


async def texts(machine: OlmMachine, messages: Iterable[Json]) -> list[str | None]:
    """Return the texts of messages; ``None`` for each that can't be decrypted."""
    results = await machine.decrypt_room_events(ROOM, messages)
    return [None if isinstance(read, MachineError) else str(read.content["body"]) for read in results]


def session_of(message: Json) -> str:
    """Return the id of the session of the room key that encrypted a message."""
    return msgspec.convert(message, _Encrypted).content.session_id
