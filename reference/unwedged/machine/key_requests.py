"""Room keys that a user's verified devices give each other when one of them can't read a message (M18).

A device gets the key from the first message on that this device can read. Nobody vouches for the maker of a key that
was forwarded.
"""

from __future__ import annotations

from typing import Final

import msgspec

from unwedged.machine import rooms
from unwedged.machine.account import own_device
from unwedged.machine.asking import all_asked, ask, must_be_asked, settle
from unwedged.machine.devices import track
from unwedged.machine.errors import MalformedMessage, UnsupportedAlgorithm
from unwedged.machine.identifiers import (
    MEGOLM,
    Curve25519Key,
    Ed25519Key,
    GroupSessionId,
    GroupSessionName,
    JsonObject,
    RoomId,
)
from unwedged.machine.olm import OlmEvent
from unwedged.machine.ratchets import InboundGroup, index_of
from unwedged.machine.records import INBOUND, InboundSession, KeySource, WantedRoomKey
from unwedged.machine.unshown import Unshown
from unwedged.machine.wire import is_storable, parsed
from unwedged.store import Transaction, View

FORWARDED_ROOM_KEY: Final = "m.forwarded_room_key"


class _Forwarded(Unshown, msgspec.Struct):
    algorithm: str
    room_id: RoomId
    session_id: GroupSessionId
    session_key: str
    sender_key: Curve25519Key
    sender_claimed_ed25519_key: Ed25519Key


async def request(transaction: Transaction, room_id: RoomId, events: list[JsonObject]) -> int:
    """Ask the user's other devices for the keys of messages that can't be read; return how many keys these are.

    Raises ``MalformedMessage`` and ``UnsupportedAlgorithm``.
    """
    wanted: dict[GroupSessionName, WantedRoomKey] = {}
    for raw in events:
        content = rooms.encrypted_event(raw).content
        name, index = GroupSessionName(room_id, content.session_id), index_of(content.ciphertext)
        if name not in wanted or index < wanted[name].index:
            wanted[name] = WantedRoomKey(name, index)
    lacking = [each for each in wanted.values() if not await is_here(transaction, each)]
    await track(transaction, [(await own_device(transaction)).user_id])
    await ask(transaction, lacking)
    return len(lacking)


async def is_here(reading: Transaction | View, wanted: WantedRoomKey) -> bool:
    """Return whether a room key is here that reads the message for which it was requested."""
    inbound = await reading.get(INBOUND, wanted.name)
    return inbound is not None and inbound.session.first_index <= wanted.index


# M18.4
async def forwarded(reading: Transaction | View, name: GroupSessionName) -> JsonObject | None:
    """Return the content of the event that forwards a room key, or ``None`` if the key is not here."""
    inbound = await reading.get(INBOUND, name)
    session_key = None if inbound is None else inbound.session.exported_at(inbound.session.first_index)
    if inbound is None or session_key is None or inbound.signing_key is None:
        return None
    return {
        "algorithm": MEGOLM,
        "room_id": name.room_id,
        "session_id": name.session_id,
        "session_key": session_key,
        "sender_key": inbound.sender_key,
        "sender_claimed_ed25519_key": inbound.signing_key,
        "forwarding_curve25519_key_chain": [],
        **rooms.shared_history_flags(shared_history=inbound.shared_history),
    }


async def receive_forwarded(transaction: Transaction, event: OlmEvent) -> None:
    """Keep a room key from a device that was asked for it, if it is better than the key that is here (M18.2).

    The request ends if the key reads the message for which it was requested. Raises ``MalformedMessage``,
    ``UnsupportedAlgorithm``, and ``NotAsked`` if no request to this device stands.
    """
    key = parsed(event.content, _Forwarded, "a forwarded room key")
    if key.algorithm != MEGOLM:
        raise UnsupportedAlgorithm("a forwarded room key is not for Megolm")
    name = GroupSessionName(key.room_id, key.session_id)
    requests = [
        (request_id, asked) for request_id, asked in (await all_asked(transaction)).items() if asked.wanted.name == name
    ]
    device_id = await must_be_asked(transaction, requests[0][1] if requests else None, event)
    session = InboundGroup.from_exported(key.session_key)
    if session.session_id != key.session_id or not is_storable((name, key.sender_key, key.sender_claimed_ed25519_key)):
        raise MalformedMessage("a forwarded room key has another session id than it says, or a name that is no text")
    shared_history = rooms.has_shared_history(event.content)
    inbound = InboundSession(
        session, None, key.sender_key, key.sender_claimed_ed25519_key, KeySource.FORWARDED, shared_history
    )
    await rooms.keep_better(transaction, name, inbound)
    for request_id, asked in requests:
        if isinstance(asked.wanted, WantedRoomKey) and await is_here(transaction, asked.wanted):
            await settle(transaction, request_id, asked, device_id)
