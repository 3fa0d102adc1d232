"""A device in two processes, a peer and a third user exchange messages, with random steps and lost or late requests.

Every process of every device reads each message that is meant for the device. No message key and no one-time key is
used twice. The homeserver refuses no request. A user who has left reads no later message.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import hypothesis.strategies as st
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Device, Homeserver, Json
from tests.machine.scene import ALICE, BOB, HOUR_MS, KEY, MEGOLM, ROOM, MovableClock, must_be_sound
from unwedged.machine import KeysClaim, KeysUpload, MachineError, OlmMachine, Request, SyncPosition
from unwedged.machine.errors import MissingRoomKey
from unwedged.machine.identifiers import PeerName
from unwedged.machine.records import PEER
from unwedged.store import LeaseTimes, Transaction

Result = TypeVar("Result")

CAROL = "@carol:example.org"


@dataclass
class Flight:
    """A request in flight, or its response."""

    by: str
    request: Request
    answer: Json | None = None
    times_sent: int = 0


@dataclass
class Sync:
    by: str
    position: SyncPosition
    response: Json


@dataclass
class Message:
    event: Json
    text: str
    author: str
    readers: set[str]
    """The users that must be able to read it."""


@dataclass
class Process:
    name: str
    user: str
    device: str
    file: str
    client: Client = field(init=False)


# M20.2, M20.4, M21.1, M21.4
class TwoProcesses(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.clock = MovableClock()
        self.server = Homeserver()
        self.flights: list[Flight] = []
        self.syncs: list[Sync] = []
        self.messages: list[Message] = []
        self.wedges = 0

    def wait(self, work: Coroutine[object, None, Result]) -> Result:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60))

    async def opened(self, process: Process) -> Client:
        machine = await OlmMachine.open(
            self.folder / process.file,
            user_id=process.user,
            device_id=process.device,
            key=KEY,
            label=process.name,
            clock=self.clock,
            times=LeaseTimes(idle_after_ms=1),
        )
        return Client(self.server, machine)

    @initialize()
    def open(self) -> None:
        self.processes = {
            "app": Process("app", ALICE, "PHONE", "alice.db"),
            "extension": Process("extension", ALICE, "PHONE", "alice.db"),
            "bob": Process("bob", BOB, "LAPTOP", "bob.db"),
            "carol": Process("carol", CAROL, "TABLET", "carol.db"),
        }
        for user, device in {(process.user, process.device) for process in self.processes.values()}:
            self.server.sign_in(Device(user, device))
        self.server.create_room(ROOM, ALICE, BOB)
        for process in self.processes.values():
            process.client = self.wait(self.opened(process))
            self.wait(process.client.machine.set_room_encryption(ROOM, {"algorithm": MEGOLM}))

    def client(self, name: str) -> Client:
        return self.processes[name].client

    names = st.sampled_from(["app", "extension", "bob", "carol"])
    shared = st.sampled_from(["app", "extension"])

    # Requests. A request that stays in flight is lost.

    @rule(name=names)
    def take_requests(self, name: str) -> None:
        for request in self.wait(self.client(name).machine.outgoing_requests()):
            self.flights.append(Flight(name, request))

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        flight = data.draw(st.sampled_from(self.flights), label="flight")
        self.deliver(flight)

    def deliver(self, flight: Flight) -> None:
        if flight.times_sent and isinstance(flight.request, KeysUpload | KeysClaim):
            return  # as the documentation of requests demands
        flight.times_sent += 1
        request = flight.request
        flight.answer = self.client(flight.by).call(request.method, request.path, request.body)

    @precondition(lambda self: any(flight.answer is not None for flight in self.flights))
    @rule(data=st.data(), other=st.booleans(), again=st.booleans())
    def answer(self, data: st.DataObject, other: bool, again: bool) -> None:
        """Give a response to the requesting process or to the other one, and perhaps keep it for repetition."""
        flight = data.draw(st.sampled_from([each for each in self.flights if each.answer is not None]), label="flight")
        by = {"app": "extension", "extension": "app"}.get(flight.by, flight.by) if other else flight.by
        assert flight.answer is not None
        self.wait(self.client(by).machine.mark_sent(flight.request, flight.answer))
        if not again:
            self.flights.remove(flight)

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.flights.remove(data.draw(st.sampled_from(self.flights), label="flight"))

    @rule(name=names)
    def send_and_answer(self, name: str) -> None:
        self.wait(self.client(name).send_all())

    # Sync

    @rule(name=names, sliding=st.booleans())
    def ask(self, name: str, sliding: bool) -> None:
        asked = self.wait(self.client(name).ask_or_forget(name, sliding=sliding))
        if asked is not None:
            self.syncs.append(Sync(name, *asked))

    @precondition(lambda self: self.syncs)
    @rule(data=st.data(), again=st.booleans())
    def receive(self, data: st.DataObject, again: bool) -> None:
        sync = data.draw(st.sampled_from(self.syncs), label="sync")
        self.take(sync.by, sync.position, sync.response)
        if not again:
            self.syncs.remove(sync)

    @rule(name=names, sliding=st.booleans())
    def sync(self, name: str, sliding: bool) -> None:
        asked = self.wait(self.client(name).ask_or_forget(name, sliding=sliding))
        if asked is not None:
            self.take(name, *asked)

    def take(self, name: str, position: SyncPosition, response: Json) -> None:
        outcome = self.wait(self.client(name).machine.receive_sync_changes(response, position))
        allowed = {"repeated"} | ({"unreadable"} if self.wedges else set())
        assert {problem.code for problem in outcome.problems} <= allowed

    # Messages

    @rule(name=names)
    def share(self, name: str) -> None:
        if self.processes[name].user in self.server.members(ROOM):
            self.wait(self.client(name).machine.share_room_key(ROOM, self.server.members(ROOM)))

    @rule(name=names, text=st.text(max_size=5))
    def say(self, name: str, text: str) -> None:
        self.post(name, text)

    @rule(name=names, text=st.text(max_size=5))
    def share_and_say(self, name: str, text: str) -> None:
        if self.processes[name].user in self.server.members(ROOM):
            self.wait(self.client(name).share(ROOM, self.server.members(ROOM)))
            self.post(name, text)

    def post(self, name: str, text: str) -> None:
        client, members = self.client(name), self.server.members(ROOM)
        if self.processes[name].user not in members:
            return
        content = {"msgtype": "m.text", "body": text}
        sharing = self.wait(client.machine.share_room_key(ROOM, members))
        if sharing.outdated or sharing.without_session:
            return  # as a careful application does: a device without the key could not read the message later
        encrypted = self.wait(client.machine.encrypt_room_event(ROOM, sharing, "m.room.message", content))
        known = {user for user in members if self.wait(client.machine.devices_of(user))}
        self.messages.append(Message(client.post(ROOM, encrypted), text, name, known | {self.processes[name].user}))

    @precondition(lambda self: self.messages)
    @rule(data=st.data(), name=names)
    def read(self, data: st.DataObject, name: str) -> None:
        self.reads(name, data.draw(st.sampled_from(self.messages), label="message"))

    def reads(self, name: str, message: Message) -> bool:
        (read,) = self.wait(self.client(name).machine.decrypt_room_events(ROOM, [message.event]))
        is_reader = self.processes[name].user in message.readers
        if isinstance(read, MachineError):
            assert isinstance(read, MissingRoomKey) or not is_reader, read
            return False
        assert is_reader, "a user that had left has read it"
        assert read.content["body"] == message.text
        return True

    # Faults

    @rule(joins=st.booleans())
    def carol_joins_or_leaves(self, joins: bool) -> None:
        if joins != (CAROL in self.server.members(ROOM)):
            (self.server.join if joins else self.server.leave)(ROOM, CAROL)

    @rule(name=names, killed=st.booleans())
    def restart(self, name: str, killed: bool) -> None:
        """Restart a process. If it was killed, its requests in flight are lost."""
        process = self.processes[name]
        self.wait(process.client.machine.close())
        process.client = self.wait(self.opened(process))
        if killed:
            self.flights = [flight for flight in self.flights if flight.by != name]
            self.syncs = [sync for sync in self.syncs if sync.by != name]

    @rule(name=shared)
    def pause(self, name: str) -> None:
        self.wait(self.client(name).machine.pause())

    @rule(hours=st.sampled_from([1, 24 * 8]))
    def time_passes(self, hours: int) -> None:
        self.clock.added_ms += hours * HOUR_MS

    @rule(name=names)
    def forget_connections(self, name: str) -> None:
        self.server.forget_connections(self.client(name).device)

    @precondition(lambda self: self.wedges < 2)
    @rule()
    def wedge(self) -> None:
        """Let the peer lose its sessions with the shared device, as after restoring a backup."""

        async def forget(transaction: Transaction) -> None:
            app = self.client("app").machine
            key = PeerName(app.device.user_id, app.curve25519)
            peer = await transaction.get(PEER, key)
            if peer is not None:
                peer.sessions = []
                transaction.put(PEER, key, peer)

        self.wedges += 1
        self.wait(self.client("bob").machine._store.run(forget))

    # What must hold in the end

    def teardown(self) -> None:
        try:
            if hasattr(self, "processes"):
                self.settle()
                self.check()
        finally:
            for process in getattr(self, "processes", {}).values():
                self.wait(process.client.machine.close())
            self.loop.close()
            shutil.rmtree(self.folder)

    def settle(self) -> None:
        """Deliver everything and let all devices send a message, until nothing is under way."""
        for _ in range(4):
            self.clock.added_ms += 2 * HOUR_MS
            for _ in range(3):
                for name in self.processes:
                    self.wait(self.client(name).send_all())
                    self.sync(name, sliding=False)
            for name in self.processes:
                self.share_and_say(name, "at last")

    def check(self) -> None:
        must_be_sound(self.server)
        for name, process in self.processes.items():
            for message in self.messages:
                read = self.reads(name, message)
                assert read or process.user not in message.readers, f"{name} never reads {message}"


TestTwoProcesses = TwoProcesses.TestCase
TestTwoProcesses.settings = settings(max_examples=20, stateful_step_count=40, deadline=None, phases=[Phase.generate])
