"""The backup of a device that two processes share, beside that of another device of the same user.

Keys get better, versions change, answers come late, twice or never. The properties: what has no mark is in the version
that is known, as good as it is here, and can be read by its key (BackedUpIsBest); and in the end everything that is
here is in the current version (EverythingIsBackedUp).
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import hypothesis.strategies as st
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Device, Homeserver, Json
from tests.machine.backups import RoomKey, backed_up, first_indices, known, marks
from tests.machine.scene import ALICE, KEY, MovableClock
from unwedged.machine import (
    BackupDownload,
    BackupUpload,
    BackupVersionCreate,
    BackupVersionQuery,
    LocalTrust,
    NoBackup,
    OlmMachine,
)
from unwedged.machine.identifiers import Curve25519Key
from unwedged.store import LeaseTimes

Result = TypeVar("Result")

Sent = BackupUpload | BackupVersionCreate | BackupVersionQuery
DEVICES = {"app": "PHONE", "extension": "PHONE", "tablet": "TABLET"}


@dataclass
class Flight:
    """A request on its way, or its answer."""

    by: str
    request: Sent
    status: int | None = None
    answer: Json | None = None


@dataclass
class Fetched:
    by: str
    request: BackupDownload
    answer: Json


class TwoProcessesWithABackup(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.clock = MovableClock()
        self.server = Homeserver()
        self.clients: dict[str, Client] = {}
        self.keys = [RoomKey() for _ in range(3)]
        self.flights: list[Flight] = []
        self.fetched: list[Fetched] = []
        self.decryption_keys: dict[Curve25519Key, bytes] = {}

    def wait(self, work: Coroutine[object, None, Result]) -> Result:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60))

    async def opened(self, name: str) -> Client:
        machine = await OlmMachine.open(
            self.folder / f"{DEVICES[name]}.db",
            user_id=ALICE,
            device_id=DEVICES[name],
            key=KEY,
            label=name,
            clock=self.clock,
            times=LeaseTimes(idle_after_ms=1),
        )
        return Client(self.server, machine)

    @initialize()
    def open(self) -> None:
        for device in set(DEVICES.values()):
            self.server.sign_in(Device(ALICE, device))
        for name in DEVICES:
            self.clients[name] = self.wait(self.opened(name))
        for name in ("app", "tablet"):
            self.wait(self.clients[name].send_all())
        for name in ("app", "tablet"):
            self.wait(self.clients[name].machine.track_users([ALICE]))
            self.wait(self.clients[name].send_all())
        self.set_trust(verified=True)

    names = st.sampled_from(sorted(DEVICES))
    indices = st.integers(0, 3)

    # What happens to room keys

    @rule(name=names, which=st.integers(0, 2), index=indices)
    def receive_key(self, name: str, which: int, index: int) -> None:
        self.wait(self.clients[name].machine.import_room_keys([self.keys[which].exported(index)]))

    # What happens to versions

    @rule(name=names)
    def create_version(self, name: str) -> None:
        new = self.wait(self.clients[name].machine.key_backup.create_version())
        self.decryption_keys[new.request.public_key] = new.decryption_key
        self.flights.append(Flight(name, new.request))

    @rule(name=names)
    def ask_version(self, name: str) -> None:
        self.flights.append(Flight(name, self.wait(self.clients[name].machine.key_backup.version_query())))

    @rule(name=names)
    def turn_off(self, name: str) -> None:
        self.wait(self.clients[name].machine.key_backup.turn_off())

    @rule(verified=st.booleans())
    def set_trust(self, verified: bool) -> None:
        trust = LocalTrust.VERIFIED if verified else LocalTrust.UNSET
        for name, device in (("app", "TABLET"), ("tablet", "PHONE")):
            other = self.clients["tablet" if name == "app" else "app"].machine
            self.wait(self.clients[name].machine.set_trust(ALICE, device, other.ed25519, trust))

    @rule(name=names)
    def import_decryption_key(self, name: str) -> None:
        backup = self.wait(known(self.clients[name]))
        if backup is not None:
            key = self.decryption_keys[backup.public_key]
            self.wait(self.clients[name].machine.key_backup.import_decryption_key(key))

    # Requests

    @rule(name=names)
    def take_requests(self, name: str) -> None:
        for request in self.wait(self.clients[name].machine.outgoing_requests()):
            if isinstance(request, BackupUpload):
                self.flights.append(Flight(name, request))

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        """Send a request, maybe not for the first time."""
        self.deliver(data.draw(st.sampled_from(self.flights), label="flight"))

    def deliver(self, flight: Flight) -> None:
        request = flight.request
        device = self.clients[flight.by].device
        flight.status, flight.answer = self.server.request(device, request.method, request.path, request.body)
        assert flight.status in (200, 403, 404)

    @precondition(lambda self: any(flight.answer is not None for flight in self.flights))
    @rule(data=st.data(), other=st.booleans(), again=st.booleans())
    def answer(self, data: st.DataObject, other: bool, again: bool) -> None:
        """Give an answer to the process that asked, or to the other one; maybe not for the last time."""
        flight = data.draw(st.sampled_from([each for each in self.flights if each.answer is not None]), label="flight")
        by = {"app": "extension", "extension": "app"}.get(flight.by, flight.by) if other else flight.by
        self.take(by, flight)
        if not again:
            self.flights.remove(flight)

    def take(self, by: str, flight: Flight) -> None:
        machine = self.clients[by].machine
        assert flight.answer is not None
        if flight.status == 200:
            self.wait(machine.mark_sent(flight.request, flight.answer))
        else:
            assert self.wait(machine.mark_failed(flight.request, status=flight.status)) is None

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.flights.remove(data.draw(st.sampled_from(self.flights), label="flight"))

    # Restoring

    @rule(name=names)
    def fetch(self, name: str) -> None:
        client = self.clients[name]
        try:
            request = self.wait(client.machine.key_backup.download())
        except NoBackup:
            return
        status, answer = self.server.request(client.device, request.method, request.path)
        if status == 200:
            self.fetched.append(Fetched(name, request, answer))

    @precondition(lambda self: self.fetched)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        fetched = data.draw(st.sampled_from(self.fetched), label="fetched")

        async def restore() -> None:
            backup = self.clients[fetched.by].machine.key_backup
            async for progress in backup.restore(fetched.request, fetched.answer):
                assert progress.unreadable == 0

        try:
            self.wait(restore())
        except NoBackup:
            self.fetched.remove(fetched)

    # Accidents

    @rule(name=names)
    def restart(self, name: str) -> None:
        self.wait(self.clients[name].machine.close())
        self.clients[name] = self.wait(self.opened(name))

    @rule(name=st.sampled_from(["app", "extension"]))
    def pause(self, name: str) -> None:
        self.wait(self.clients[name].machine.pause())

    # What must hold

    @invariant()
    def backed_up_is_best(self) -> None:
        for name in ("app", "tablet"):
            client = self.clients[name]
            backup = self.wait(known(client))
            marked = self.wait(marks(client))
            if backup is None:
                assert not marked
            elif backup.version is not None:
                held = backed_up(client, self.decryption_keys[backup.public_key], backup.version)
                for session, index in self.wait(first_indices(client)).items():
                    assert session in marked or held[session] <= index

    def teardown(self) -> None:
        try:
            if self.clients:
                self.settle()
                self.check()
        finally:
            for client in self.clients.values():
                self.wait(client.machine.close())
            self.loop.close()
            shutil.rmtree(self.folder)

    def settle(self) -> None:
        """Let what is under way arrive; then do what an application does, first on one device and then on the other."""
        for flight in self.flights:
            if flight.answer is None:
                self.deliver(flight)
            self.take(flight.by, flight)
        self.set_trust(verified=True)
        for name in ("app", "extension", "tablet") * 2:
            self.turn_on(name)
            self.wait(self.clients[name].send_all(BackupUpload))

    def turn_on(self, name: str) -> None:
        """Have a backup that is on: the one at the homeserver, or a new one."""
        status = self.wait(self.clients[name].machine.key_backup.status())
        if status is None or status.version is not None:
            flight = Flight(name, self.wait(self.clients[name].machine.key_backup.version_query()))
            self.deliver(flight)
            self.take(name, flight)
            status = self.wait(self.clients[name].machine.key_backup.status())
        if status is None or not status.is_on:
            self.create_version(name)
            self.deliver(self.flights[-1])
            self.take(name, self.flights[-1])

    def check(self) -> None:
        for name in ("app", "tablet"):
            client = self.clients[name]
            status = self.wait(client.machine.key_backup.status())
            assert status is not None
            held = backed_up(client, self.decryption_keys[status.public_key])
            for session, index in self.wait(first_indices(client)).items():
                assert held[session] <= index, f"{name} has not backed {session} up"


TestTwoProcessesWithABackup = TwoProcessesWithABackup.TestCase
TestTwoProcessesWithABackup.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None, phases=[Phase.generate]
)
