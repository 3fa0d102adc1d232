"""The scene of most tests of the machine: a device that two processes share, and a peer, on a homeserver in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Device, Homeserver, Json, wall_clock_ms
from checking.machine_replay.message_keys import MessageKeys
from unwedged.machine import OlmMachine
from unwedged.machine.identifiers import RoomId
from unwedged.store import LeaseTimes, Milliseconds
from unwedged.trace import Tracer

ROOM = RoomId("!room:example.org")
ALICE, BOB = "@alice:example.org", "@bob:example.org"
MEGOLM = "m.megolm.v1.aes-sha2"
KEY = bytes(32)
MINUTE_MS, HOUR_MS = 60_000, 3_600_000


class MovableClock:
    """A wall clock that a test can move forward."""

    def __init__(self) -> None:
        self.added_ms = 0

    def now(self) -> int:
        return wall_clock_ms() + self.added_ms

    async def sleep(self, duration: Milliseconds) -> None:
        await asyncio.sleep(duration / 1000)


class Scene:
    """Alice's device in two processes, ``app`` and ``extension``; Bob's in one."""

    def __init__(self, folder: Path, stack: AsyncExitStack, tracer: Tracer | None = None) -> None:
        self.folder = folder
        self.tracer = tracer
        self.clock = MovableClock()
        self.server = Homeserver(now_ms=self.clock.now)
        self._stack = stack

    async def open(self, user: str, device: str, label: str) -> Client:
        machine = await OlmMachine.open(
            self.folder / f"{device}.db",
            user_id=user,
            device_id=device,
            key=KEY,
            label=label,
            clock=self.clock,
            # Short pauses, since the processes of a device take turns here.
            times=LeaseTimes(idle_after_ms=1),
            tracer=self.tracer,
        )
        await self._stack.enter_async_context(machine)
        return Client(self.server, machine)

    async def begin(self, *, encryption: Json | None = None) -> None:
        """Open all machines, create an encrypted room, upload all keys, and fetch all device lists."""
        self.server.sign_in(Device(ALICE, "PHONE"))
        self.server.sign_in(Device(BOB, "LAPTOP"))
        self.server.create_room(ROOM, ALICE, BOB, encryption=encryption)
        self.app = await self.open(ALICE, "PHONE", "app")
        self.extension = await self.open(ALICE, "PHONE", "extension")
        self.bob = await self.open(BOB, "LAPTOP", "bob")
        for client in (self.app, self.bob):
            content = {"algorithm": MEGOLM} | (encryption or {})
            await client.machine.set_room_encryption(ROOM, content)
            await client.send_all()
        for client in (self.app, self.bob):
            await client.machine.track_users([ALICE, BOB])
            await client.sync()
            await client.send_all()

    async def greet(self) -> None:
        """Let each side send a message that the other reads, so that their Olm session works both ways."""
        for author, reader in ((self.app, self.bob), (self.bob, self.app)):
            event = await author.say(ROOM, "hello")
            await reader.sync()
            assert await reader.read(ROOM, event) == "hello"


def must_be_sound(server: Homeserver) -> None:
    """Check all requests that arrived: none was refused, and no message key and no one-time key was used twice."""
    keys = MessageKeys()
    keys.add_arrivals(server.arrivals)
    refused = {arrival.status for arrival in server.arrivals if "/keys/" in arrival.path}
    assert refused <= {200}, "the homeserver refused a request"
    offered: set[tuple[str, str]] = set()
    for arrival in server.arrivals:
        if arrival.path.endswith("/keys/upload"):
            for name in json.loads(arrival.body).get("one_time_keys", {}):
                assert (arrival.device.device, name) not in offered, "a one-time key was offered twice"
                offered.add((arrival.device.device, name))


@asynccontextmanager
async def scene(folder: Path, tracer: Tracer | None = None) -> AsyncIterator[Scene]:
    """Keep a scene open while the context is."""
    async with AsyncExitStack() as stack:
        made = Scene(folder, stack, tracer)
        await made.begin()
        yield made
