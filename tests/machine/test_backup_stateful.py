"""A device in two processes and another device of the same user share a backup, with random steps.

Room keys get better, versions change, and responses come late, twice or never. Each room key without a mark is in the
known version in its best form, and the version's key decrypts it (BackedUpIsBest). In the end every room key is in the
current version (EverythingIsBackedUp).
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
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Device, Homeserver, Json
from checking.machine_replay.room_key import RoomKey
from tests.machine.backups import backed_up, first_indices, known, marks
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

ACTIONS = [
    *["receive_better_key"] * 4,
    *["upload"] * 3,
    *["answer"] * 4,
    *["create_version", "ask_version", "send", "fetch", "restore"],
    *["turn_off", "set_trust", "import_decryption_key", "lose", "pause", "restart"],
]
FIRST = 40
"""The first message index of the first key of a session."""
Sent = BackupUpload | BackupVersionCreate | BackupVersionQuery
DEVICES = {"app": "PHONE", "extension": "PHONE", "tablet": "TABLET"}


@dataclass
class Flight:
    """A request in flight, or its response."""

    by: str
    request: Sent
    status: int | None = None
    answer: Json | None = None


@dataclass
class Fetched:
    by: str
    request: BackupDownload
    answer: Json


# M20.4, M21.4
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
        self.create_version("app", "answered")
        self.ask_version("tablet", "answered")

    # All actions share one rule: Hypothesis omits most rules in most runs, and a fault needs several actions to show.
    @rule(
        action=st.sampled_from(ACTIONS),
        name=st.sampled_from(sorted(DEVICES)),
        which=st.integers(0, 5),
        fate=st.sampled_from(["made", "sent", "sent", "answered"]),
    )
    def step(self, action: str, name: str, which: int, fate: str) -> None:
        client = self.clients[name]
        match action:
            case "receive_better_key":
                self.receive_better_key(client, self.keys[which % len(self.keys)])
            case "create_version":
                self.create_version(name, fate)
            case "ask_version":
                self.ask_version(name, fate)
            case "turn_off":
                self.wait(client.machine.key_backup.turn_off())
            case "set_trust":
                self.set_trust(verified=which % 2 == 0)
            case "import_decryption_key":
                self.import_decryption_key(client)
            case "upload":
                self.upload(name, fate)
            case "send":
                self.send(which)
            case "answer":
                self.answer(which, name)
            case "lose":
                self.flights = self.flights[1:]
            case "fetch":
                self.fetch(name)
            case "restore":
                self.restore(which)
            case "pause":
                self.wait(client.machine.pause())
            case "restart":
                self.wait(client.machine.close())
                self.clients[name] = self.wait(self.opened(name))

    def receive_better_key(self, client: Client, key: RoomKey) -> None:
        held = self.wait(first_indices(client)).get(key.name, FIRST + 1)
        if held:
            self.wait(client.machine.import_room_keys([key.exported(held - 1)]))

    def create_version(self, name: str, fate: str) -> None:
        new = self.wait(self.clients[name].machine.key_backup.create_version())
        self.decryption_keys[new.request.public_key] = new.decryption_key
        self.begin(name, new.request, fate)

    def ask_version(self, name: str, fate: str) -> None:
        self.begin(name, self.wait(self.clients[name].machine.key_backup.version_query()), fate)

    def set_trust(self, *, verified: bool) -> None:
        trust = LocalTrust.VERIFIED if verified else LocalTrust.UNSET
        for name, device in (("app", "TABLET"), ("tablet", "PHONE")):
            other = self.clients["tablet" if name == "app" else "app"].machine
            self.wait(self.clients[name].machine.set_trust(ALICE, device, other.ed25519, trust))

    def import_decryption_key(self, client: Client) -> None:
        backup = self.wait(known(client))
        if backup is not None:
            self.wait(client.machine.key_backup.import_decryption_key(self.decryption_keys[backup.public_key]))

    # Requests

    def upload(self, name: str, fate: str) -> None:
        for request in self.wait(self.clients[name].machine.outgoing_requests()):
            if isinstance(request, BackupUpload):
                self.begin(name, request, fate)

    def begin(self, name: str, request: Sent, fate: str) -> None:
        """Keep a request in flight, with or without a response, or complete it at once."""
        flight = Flight(name, request)
        self.flights.append(flight)
        if fate != "made":
            self.deliver(flight)
        if fate == "answered":
            self.take(name, flight)
            self.flights.remove(flight)

    def send(self, which: int) -> None:
        """Send a request, perhaps once more."""
        if self.flights:
            self.deliver(self.flights[which % len(self.flights)])

    def deliver(self, flight: Flight) -> None:
        request = flight.request
        device = self.clients[flight.by].device
        flight.status, flight.answer = self.server.request(device, request.method, request.path, request.body)
        assert flight.status in (200, 403, 404)

    def answer(self, which: int, by: str) -> None:
        """Give a response to a process of the requesting device, and perhaps keep it for repetition."""
        answered = [flight for flight in self.flights if flight.answer is not None]
        if answered:
            flight = answered[which % len(answered)]
            self.take(by if DEVICES[by] == DEVICES[flight.by] else flight.by, flight)
            if which % 3:
                self.flights.remove(flight)

    def take(self, by: str, flight: Flight) -> None:
        machine = self.clients[by].machine
        assert flight.answer is not None
        if flight.status == 200:
            self.wait(machine.mark_sent(flight.request, flight.answer))
        else:
            assert self.wait(machine.mark_failed(flight.request, status=flight.status)) is None

    # Restoring

    def fetch(self, name: str) -> None:
        client = self.clients[name]
        try:
            request = self.wait(client.machine.key_backup.download())
        except NoBackup:
            return
        status, answer = self.server.request(client.device, request.method, request.path)
        if status == 200:
            self.fetched.append(Fetched(name, request, answer))

    def restore(self, which: int) -> None:
        if not self.fetched:
            return
        fetched = self.fetched[which % len(self.fetched)]

        async def restore() -> None:
            backup = self.clients[fetched.by].machine.key_backup
            async for progress in backup.restore(fetched.request, fetched.answer):
                assert progress.unreadable == 0

        try:
            self.wait(restore())
        except NoBackup:
            self.fetched.remove(fetched)

    # Invariants

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
        """Deliver everything in flight; then act as an application does, first on one device and then on the other."""
        for flight in self.flights:
            if flight.answer is None:
                self.deliver(flight)
            self.take(flight.by, flight)
        self.set_trust(verified=True)
        for name in ("app", "extension", "tablet") * 2:
            self.turn_on(name)
            self.wait(self.clients[name].send_all(BackupUpload))

    def turn_on(self, name: str) -> None:
        """Turn a backup on: the one at the homeserver, or a new one."""
        status = self.wait(self.clients[name].machine.key_backup.status())
        if status is None or status.version is not None:
            self.ask_version(name, "answered")
            status = self.wait(self.clients[name].machine.key_backup.status())
        if status is None or not status.is_on:
            self.create_version(name, "answered")

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
