"""Define Alice's device, by any library, and Bob's device, which sends messages to it and has no store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import msgspec

from unwedged.machine import OlmMachine, SyncPosition, olm
from unwedged.machine.account import _device_keys
from unwedged.machine.identifiers import MEGOLM, Device, DeviceId, JsonObject, RoomId, UserId
from unwedged.machine.ratchets import Account, OlmMessage, OutboundGroup
from unwedged.machine.records import KnownDevice, OwnDevice, Peer
from unwedged.machine.requests import KeysQuery, KeysUpload, ToDevice
from unwedged.store import LeaseTimes, Milliseconds

ALICE: Final = Device(UserId("@alice:example.org"), DeviceId("ALICESPHONE"))
BOB: Final = Device(UserId("@bob:example.org"), DeviceId("BOBSLAPTOP"))
ROOM: Final = RoomId("!room:example.org")
TEXT: Final = "A message as short as most of those that people write to each other."
CONTENT: Final = {"msgtype": "m.text", "body": TEXT}
EVENTS_OF_A_KEY: Final = 100
"""After so many messages a room gets another key, by default in the Matrix specification."""
KEY: Final = bytes(32)
MOMENT_MS: Final = 1_800_000_000_000

_STEADY: Final = LeaseTimes(idle_after_ms=Milliseconds(24 * 60 * 60 * 1000))

Receive = Callable[[JsonObject], Awaitable[object]]
"""Receives a to-device event."""
Read = Callable[[Sequence[JsonObject]], Awaitable[object]]
"""Reads events of the room."""


class Bob:
    """The sender of the messages. He encrypts them before the time is measured."""

    def __init__(self) -> None:
        self._account = Account()
        self._own = OwnDevice(*BOB, _device_keys(self._account, BOB))
        self._peer = Peer()
        self._group = OutboundGroup()
        self._numbers = count()
        self.keys = self._own.keys
        self.curve25519 = self._account.curve25519
        self.ed25519 = self._account.ed25519

    def greet(self, alice: KnownDevice, one_time_key: str) -> JsonObject:
        """Open a session with Alice's device, and return the first message."""
        self._alice = alice
        self._peer.sessions.insert(0, self._account.outbound_session(alice.curve25519, one_time_key))
        return self.to_device("m.dummy", {})

    def hear(self, kind: int, body: str) -> None:
        """Receive the first reply. After it, all messages are ordinary messages."""
        olm.decrypt(self._account, self._peer, self._alice.curve25519, OlmMessage(kind, body))

    def to_device(self, event_type: str, content: JsonObject) -> JsonObject:
        """Return a to-device event as in a sync response."""
        encrypted = olm.encrypt(self._peer, self._own, self._alice, event_type, content)
        return {"type": "m.room.encrypted", "sender": BOB.user_id, "content": encrypted}

    def dummy(self) -> JsonObject:
        """Return an encrypted event that all libraries know and that has no effect."""
        return self.to_device("m.dummy", {})

    async def room_events(self, number: int, receive: Receive) -> list[JsonObject]:
        """Give ``receive`` the keys of new events of the room. Return the events."""
        events = []
        for place in range(number):
            if place % EVENTS_OF_A_KEY == 0:
                await receive(self.room_key())
            events.append(self.room_event())
        return events

    def room_key(self) -> JsonObject:
        """Begin another session in the room, and return the event with its key."""
        self._group = OutboundGroup()
        return self.to_device(
            "m.room_key",
            {
                "algorithm": MEGOLM,
                "room_id": ROOM,
                "session_id": self._group.session_id,
                "session_key": self._group.session_key,
            },
        )

    def room_event(self) -> JsonObject:
        """Return another event of the room."""
        number = next(self._numbers)
        plaintext = msgspec.json.encode({"type": "m.room.message", "content": CONTENT, "room_id": ROOM})
        return {
            "type": "m.room.encrypted",
            "event_id": f"${number:043}",
            "room_id": ROOM,
            "sender": BOB.user_id,
            "origin_server_ts": MOMENT_MS + number,
            "content": {
                "algorithm": MEGOLM,
                "sender_key": self.curve25519,
                "device_id": BOB.device_id,
                "session_id": self._group.session_id,
                "ciphertext": self._group.encrypt(plaintext),
            },
        }


@dataclass(frozen=True)
class Library:
    """Alice's device by some library: its operations on events as JSON, and Bob, who sends messages to it."""

    bob: Bob
    receive: Receive
    """Decrypts a to-device event, and makes the advanced session durable."""
    encrypt: Callable[[], Awaitable[object]]
    """Encrypts a room message, and makes the advanced session durable."""
    read: Read
    """Decrypts new events of the room, and records that they were read."""
    read_again: Read


def known(curve25519: str, ed25519: str) -> KnownDevice:
    """Return Alice's device with only its keys, which is all that Bob uses."""
    keys = {f"curve25519:{ALICE.device_id}": curve25519, f"ed25519:{ALICE.device_id}": ed25519}
    return KnownDevice({"user_id": ALICE.user_id, "device_id": ALICE.device_id, "keys": keys})


@asynccontextmanager
async def machine(path: Path) -> AsyncIterator[OlmMachine]:
    """Open Alice's device. It keeps the lease while other subjects are measured."""
    async with OlmMachine.open(
        path, user_id=ALICE[0], device_id=ALICE[1], label="alice", key=KEY, times=_STEADY
    ) as own:
        yield own


class Syncing:
    """Gives a machine one to-device event after the other, each in a sync response of its own."""

    def __init__(self, own: OlmMachine, position: SyncPosition) -> None:
        self._machine = own
        self._position = position
        self._numbers = count()

    async def receive(self, event: JsonObject) -> None:
        token = f"s{next(self._numbers)}"
        response: JsonObject = {
            "next_batch": token,
            "to_device": {"events": [event]},
            "device_one_time_keys_count": {"signed_curve25519": 50},
            "device_unused_fallback_key_types": ["signed_curve25519"],
        }
        outcome = await self._machine.receive_sync_changes(response, self._position)
        assert outcome.applied, "another process syncs as well"
        assert not outcome.problems, outcome.problems
        self._position = msgspec.structs.replace(self._position, token=token, to_device_token=token)


async def introduced(own: OlmMachine, bob: Bob) -> Syncing:
    """Let Alice's device and Bob know each other's keys, open sessions both ways, and share the key of a room."""
    await own.track_users([BOB.user_id])
    upload: JsonObject = {}
    for request in await own.outgoing_requests():
        if isinstance(request, KeysUpload):
            upload = request.body
            await own.mark_sent(request, {"one_time_key_counts": {"signed_curve25519": 50}})
    syncing = Syncing(own, await own.sync_position())
    one_time_key = min(part(upload, "one_time_keys"))
    keys = part(upload, "device_keys")
    await syncing.receive(bob.greet(KnownDevice(keys), text(upload, "one_time_keys", one_time_key, "key")))
    for request in await own.outgoing_requests():  # the first sync response marks all device lists as outdated
        if isinstance(request, KeysQuery):
            await own.mark_sent(request, {"device_keys": {BOB.user_id: {BOB.device_id: bob.keys}}})
    await own.set_room_encryption(ROOM, {"algorithm": MEGOLM, "rotation_period_msgs": 2**40})
    assert (await own.share_room_key(ROOM, [BOB.user_id])).reaches_all
    [sent] = [request for request in await own.outgoing_requests() if isinstance(request, ToDevice)]
    message = part(sent.messages[BOB.user_id][BOB.device_id], "ciphertext", bob.curve25519)
    assert isinstance(message["type"], int)
    bob.hear(message["type"], text(message, "body"))
    await own.mark_sent(sent, {})
    await syncing.receive(bob.dummy())
    return syncing


def part(value: JsonObject, *names: str) -> JsonObject:
    """Return an object in a JSON object."""
    for name in names:
        inner = value[name]
        assert isinstance(inner, dict)
        value = inner
    return value


def text(value: JsonObject, *names: str) -> str:
    """Return a text in a JSON object."""
    found = part(value, *names[:-1])[names[-1]]
    assert isinstance(found, str)
    return found
