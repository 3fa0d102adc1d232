"""Run a device of ``OlmMachine`` in two processes, which take turns at every possible step."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Device, Json
from tests.machine.scene import KEY, MovableClock
from tests.peers.network import Network
from tests.peers.peer import Lost, Unreadable
from unwedged.machine import MachineError, OlmMachine, Request, RoomMessage, SigningKeysUpload, SyncPosition
from unwedged.machine.identifiers import PeerName, UserId
from unwedged.machine.ratchets import OlmSession
from unwedged.machine.records import PEER
from unwedged.machine.requests import decode, encode
from unwedged.store import LeaseTimes, Transaction, View

LABELS: Final = ("app", "extension")
RETRIED_AFTER_MS: Final = 660_000
"""The time after which an application without a response retries. It is long enough to abandon an upload of keys."""


class Process(Client):
    """A process of the device."""

    def __init__(self, network: Network, machine: OlmMachine) -> None:
        super().__init__(network.homeserver, machine)
        self._network = network

    def call(self, method: str, path: str, body: Json | None = None) -> Json:
        answer = self._network.carry(self.device, method, path, body or {})
        if answer is None:
            raise Lost(path)
        assert answer[0] == 200
        return answer[1]


class SharedDevice:
    """A device in two processes. The process changes with each call of the machine.

    With ``restarts``, a process is restarted before each of its calls. With ``chosen``, random numbers select the
    process of each call. Then a process may be restarted or paused between calls, either process may receive a response
    again, and there is also a sliding sync connection.
    """

    def __init__(
        self,
        folder: Path,
        device: Device,
        network: Network,
        chosen: random.Random | None,
        *,
        restarts: bool,
        verifies: bool,
    ) -> None:
        self.device = device
        self.problems: set[str] = set()
        """The codes of the problems with to-device messages."""
        self._network = network
        self._path = folder / "shared.db"
        self._restarts = restarts
        self._verifies = verifies
        self._chosen = chosen
        self._clock = MovableClock()
        self._processes: list[Process] = []
        self._calls = 0
        self._syncs: list[tuple[SyncPosition, Json]] = []
        network.homeserver.sign_in(device)

    async def open(self) -> None:
        """Start both processes."""
        for label in LABELS:
            self._processes.append(await self._started(label))

    async def close(self) -> None:
        """Close both processes."""
        for process in self._processes:
            await process.machine.close()

    async def sync(self) -> None:
        """Sync, and send all requests."""
        await self._send_all()
        if self._by_chance(0.3):
            await self._sync(sliding=True)
        response = await self._sync(sliding=False)
        await self._follow(response)
        await self._send_all()

    async def send(self, room: str, text: str) -> Json:
        """Send a message, after its key."""
        content = await self._encrypt(room, "m.room.message", {"msgtype": "m.text", "body": text})
        return (await self._next()).post(room, content)

    async def read(self, room: str, event: Json) -> str:
        """Decrypt a message in both processes."""
        texts = set()
        for process in self._processes:
            [read] = await process.machine.decrypt_room_events(room, [event])
            if isinstance(read, MachineError):
                raise Unreadable(read.code)
            texts.add(str(read.content["body"]))
        [text] = texts
        return text

    async def machine(self) -> OlmMachine:
        """Return the process that makes the next call."""
        return (await self._next()).machine

    async def bootstrap(self) -> None:
        """Create an identity; the process changes with each step."""
        while not (await (await self.machine()).cross_signing.bootstrap()).is_complete:
            await self._send_all()

    async def reset(self, auth: Json) -> None:
        """Replace the identity; ``auth`` authenticates the user to the homeserver."""
        await (await self.machine()).cross_signing.reset()
        requests = await (await self.machine()).outgoing_requests()
        [upload] = [request for request in requests if isinstance(request, SigningKeysUpload)]
        answer = (await self._next()).call(upload.method, upload.path, {**upload.body, "auth": auth})
        await (await self.machine()).mark_sent(upload, answer)
        await self.bootstrap()

    async def create_backup(self) -> bytes:
        """Create a version of the backup; return its decryption key."""
        new = await (await self.machine()).key_backup.create_version()
        await self._send(decode(encode(new.request)))
        return new.decryption_key

    async def use_backup(self, key: bytes) -> bool:
        """Use the current version of the backup with its decryption key; return whether it was trusted before that."""
        await self._send(await (await self.machine()).key_backup.version_query())
        status = await (await self.machine()).key_backup.status()
        assert status is not None
        await (await self.machine()).key_backup.import_decryption_key(key)
        return status.is_on

    async def back_up(self) -> None:
        """Upload all room keys that the backup lacks."""
        await self._send_all()

    async def restore(self) -> Json:
        """Fetch all room keys from the backup; return the number of fetched keys, and the number of stored keys."""
        request = await (await self.machine()).key_backup.download()
        answer = (await self._next()).call(request.method, request.path)
        steps = [step async for step in (await self.machine()).key_backup.restore(request, answer)]
        assert steps[-1].unreadable == 0
        return {"imported": steps[-1].kept, "total": steps[-1].total}

    async def sessions(self, peer: Device) -> list[str]:
        """Return a copy of the Olm sessions with a device."""
        key = await self._key(peer)

        async def read(view: View) -> list[str]:
            known = await view.get(PEER, key)
            return [] if known is None else [session.pickle() for session in known.sessions]

        return await self._processes[0].machine._store.query(read)

    async def put_back(self, peer: Device, sessions: list[str]) -> None:
        """Restore the sessions that ``sessions`` returned, as a restored file backup does."""
        key = await self._key(peer)

        async def write(transaction: Transaction) -> None:
            known = await transaction.get(PEER, key)
            assert known is not None
            known.sessions = [OlmSession.from_pickle(session) for session in sessions]
            transaction.put(PEER, key, known)

        await self._processes[0].machine._store.run(write)

    async def _key(self, peer: Device) -> PeerName:
        devices = await self._processes[0].machine.devices_of(peer.user)
        [key] = [device.curve25519 for device in devices.values() if device.device_id == peer.device]
        return PeerName(UserId(peer.user), key)

    async def _started(self, label: str) -> Process:
        machine = await OlmMachine.open(
            self._path,
            user_id=self.device.user,
            device_id=self.device.device,
            key=KEY,
            label=label,
            clock=self._clock,
            times=LeaseTimes(idle_after_ms=1),
        )
        return Process(self._network, machine)

    async def _next(self) -> Process:
        """Return the process that makes the next call."""
        self._calls += 1
        which = self._calls % 2 if self._chosen is None else self._chosen.randrange(2)
        if self._restarts or self._by_chance(0.05):
            await self._processes[which].machine.close()
            self._processes[which] = await self._started(LABELS[which])
        if self._by_chance(0.05):
            await self._processes[which].machine.pause()
        return self._processes[which]

    async def _sync(self, *, sliding: bool) -> Json:
        position = await (await self._next()).machine.sync_position(sliding=sliding)
        response = (await self._next()).ask(position)
        self._syncs.append((position, response))
        outcome = await (await self._next()).machine.receive_sync_changes(response, position)
        assert outcome.applied
        self.problems.update(problem.code for problem in outcome.problems)
        while self._chosen is not None and self._by_chance(0.3):
            position, old_response = self._chosen.choice(self._syncs)
            outcome = await (await self._next()).machine.receive_sync_changes(old_response, position)
            self.problems.update(problem.code for problem in outcome.problems)
        return response

    async def _encrypt(self, room: str, event_type: str, content: Json) -> Json:
        """Share the room's key, and encrypt an event."""
        members = self._network.homeserver.members(room)
        sharing = await (await self._next()).machine.share_room_key(room, members)
        for _ in range(3):
            await self._send_all(into_rooms=False)
            if sharing.reaches_all:
                break
            sharing = await (await self._next()).machine.share_room_key(room, members)
        return await (await self._next()).machine.encrypt_room_event(room, sharing, event_type, content)

    async def _follow(self, response: Json) -> None:
        """Process the encryption settings, the members and, with ``verifies``, the verification events of a sync."""
        rooms = response["rooms"]
        assert isinstance(rooms, dict)
        for room, joined in rooms["join"].items():
            for event in joined["timeline"]["events"]:
                if event["type"] == "m.room.encryption":
                    await (await self._next()).machine.set_room_encryption(room, event["content"])
            await (await self._next()).machine.track_users(self._network.homeserver.members(room))
            for event in joined["timeline"]["events"]:
                if self._verifies:
                    await self._take(room, event)

    async def _take(self, room: str, event: Json) -> None:
        """Pass an event of a room to the verifications, if it can be decrypted."""
        decrypted = None
        if event["type"] == "m.room.encrypted":
            [read] = await (await self._next()).machine.decrypt_room_events(room, [event])
            if isinstance(read, MachineError):
                return
            decrypted = read
        await (await self._next()).machine.verifications.receive_room_event(room, event, decrypted)

    async def _send_all(self, *, into_rooms: bool = True) -> None:
        while requests := [
            request
            for request in await (await self._next()).machine.outgoing_requests()
            if into_rooms or not isinstance(request, RoomMessage)
        ]:
            for request in requests:
                await self._send(decode(encode(request)))

    async def _send(self, request: Request) -> None:
        sent = request
        if isinstance(request, RoomMessage):
            content = await self._encrypt(request.room_id, request.event_type, request.content)
            sent = request.encrypted(content)
        try:
            answer = (await self._next()).call(sent.method, sent.path, sent.body)
        except Lost:
            await (await self._next()).machine.mark_failed(request, status=None)
            self._clock.added_ms += RETRIED_AFTER_MS
            raise
        await (await self._next()).machine.mark_sent(request, answer)
        if self._by_chance(0.2):
            await (await self._next()).machine.mark_sent(request, answer)

    def _by_chance(self, probability: float) -> bool:
        return self._chosen is not None and self._chosen.random() < probability


@asynccontextmanager
async def shared_device(
    folder: Path,
    device: Device,
    network: Network,
    chosen: random.Random | None = None,
    *,
    restarts: bool = False,
    verifies: bool = False,
) -> AsyncIterator[SharedDevice]:
    """Sign a device in, and run its two processes. At the end, check that no one-time key was offered twice."""
    shared = SharedDevice(folder, device, network, chosen, restarts=restarts, verifies=verifies)
    await shared.open()
    try:
        yield shared
    finally:
        await shared.close()
    # A request that the network repeated is one offer.
    uploads = {
        arrival.body
        for arrival in network.homeserver.arrivals
        if arrival.device == device and arrival.path.endswith("keys/upload")
    }
    offered = Counter(name for upload in uploads for name in msgspec.json.decode(upload).get("one_time_keys", {}))
    assert set(offered.values()) == {1}
