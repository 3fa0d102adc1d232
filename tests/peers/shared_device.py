"""Our device: two machines on one store that hand over at every call, as a participant beside the peers."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from urllib.parse import quote

from tests.machine.homeserver import Device, Json
from tests.machine.scene import HOUR_MS, KEY, MovableClock
from tests.peers.network import Network
from tests.peers.peer import Lost, Unreadable
from unwedged.machine import MachineError, OlmMachine
from unwedged.machine.records import PEER
from unwedged.store import LeaseTimes, Transaction


class SharedDevice:
    """Each call goes to one of two machines, by chance: a request is made in one, and answered perhaps in the other."""

    def __init__(
        self,
        device: Device,
        network: Network,
        machines: tuple[OlmMachine, OlmMachine],
        clock: MovableClock,
        chosen: random.Random,
    ) -> None:
        self.device = device
        self._network = network
        self._machines = machines
        self._clock = clock
        self._chosen = chosen
        self._transactions = count()

    @property
    def _machine(self) -> OlmMachine:
        """Whichever is next."""
        return self._chosen.choice(self._machines)

    async def sync(self) -> None:
        """Take what is new, follow the rooms, and send what is due."""
        position = await self._machine.sync_position()
        path = "sync" if position.token is None else f"sync?since={position.token}"
        response = self._carry("GET", f"/_matrix/client/v3/{path}")
        rooms = response["rooms"]
        assert isinstance(rooms, dict)
        for room, section in rooms["join"].items():
            for event in section["timeline"]["events"]:
                if event["type"] == "m.room.encryption":
                    await self._machine.set_room_encryption(room, event["content"])
            await self._machine.track_users(self._network.homeserver.members(room))
        await self._machine.receive_sync_changes(response, position)
        await self._send_all()

    async def send(self, room: str, text: str) -> Json:
        """Share the room's key as long as that reaches somebody new, encrypt, and send."""
        for _ in range(4):
            sharing = await self._machine.share_room_key(room, self._network.homeserver.members(room))
            await self._send_all()
            if not sharing.outdated and not sharing.without_session:
                break
        content = await self._machine.encrypt_room_event(room, "m.room.message", {"msgtype": "m.text", "body": text})
        path = f"/_matrix/client/v3/rooms/{quote(room)}/send/m.room.encrypted/{next(self._transactions)}"
        name = self._carry("PUT", path, content)["event_id"]
        return next(event for event in self._network.homeserver.events(room) if event["event_id"] == name)

    async def read(self, room: str, event: Json) -> str:
        """Return what a message says, or raise ``Unreadable``; both machines can read it, or neither."""
        texts, refusals = set[str](), set[str]()
        for machine in self._machines:
            try:
                texts.add(str((await machine.decrypt_room_event(room, event)).content["body"]))
            except MachineError as error:
                refusals.add(str(error))
        if refusals and not texts:
            raise Unreadable(*refusals)
        assert not refusals
        [text] = texts
        return text

    async def forget_sessions(self) -> None:
        """Lose all Olm sessions, as no device should: whoever uses one of them sends what can't be read."""
        self._clock.added_ms += HOUR_MS  # For so long no new session may have been made to replace one.

        async def forget(transaction: Transaction) -> None:
            for key in await transaction.keys(PEER):
                transaction.delete(PEER, key)

        await self._machine._store.run(forget)

    async def _send_all(self) -> None:
        while requests := await self._machine.outgoing_requests():
            for request in requests:
                try:
                    answer = self._carry(request.method, request.path, request.body)
                except Lost:
                    await self._machine.mark_failed(request, status=None)
                    # For so long that what must not be sent twice is given up, and made anew.
                    self._clock.added_ms += HOUR_MS
                    raise
                await self._machine.mark_sent(request, answer)

    def _carry(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Json:
        answer = self._network.carry(self.device, method, path, dict(body or {}))
        if answer is None:
            raise Lost(path)
        status, response = answer
        assert status == 200, response
        return response


@asynccontextmanager
async def shared_device(
    folder: Path, device: Device, network: Network, chosen: random.Random
) -> AsyncIterator[SharedDevice]:
    """Open the store twice; the device is signed in."""
    network.homeserver.sign_in(device)
    clock = MovableClock()
    app, extension = (
        OlmMachine.open(
            folder / f"{device.device}.db",
            user_id=device.user,
            device_id=device.device,
            key=KEY,
            label=label,
            clock=clock,
            times=LeaseTimes(idle_after_ms=1),
        )
        for label in ("app", "extension")
    )
    async with app as one, extension as other:
        yield SharedDevice(device, network, (one, other), clock, chosen)
