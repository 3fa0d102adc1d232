"""A device in two processes, a peer, and a homeserver in memory, which a seeded random number lets act and suffer."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from chaos.faults import ON_THE_WAY, Fault
from chaos.processes import Process, interruption, replaced
from chaos.traces import Traces
from chaos.worker import KEY, ROOM, SharedClock, Turn
from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Device, Homeserver, Json
from checking.machine_replay.message_keys import MessageKeys
from checking.machine_replay.remote_homeserver import HttpAnswer, HttpRequest
from examples.story.program import MachineClock
from unwedged.machine import MachineError, OlmMachine
from unwedged.machine.account import OFFER_ABANDONED_AFTER_MS
from unwedged.machine.errors import RoomKeyNotShared
from unwedged.machine.identifiers import MEGOLM, OLM, Curve25519Key
from unwedged.machine.ratchets import Account
from unwedged.store import LeaseTimes

ALICE: Final = "@alice:example.org"
BOB: Final = "@bob:example.org"
PHONE: Final = Device(ALICE, "PHONE")
TABLET: Final = Device(ALICE, "TABLET")
LAPTOP: Final = Device(BOB, "LAPTOP")
LABELS: Final = ("app", "extension")
MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS

CALLS_IN_A_TURN: Final = 20_000
"""About so many calls and returns of functions a turn takes."""
CLAIMS_IN_A_ROUND: Final = 15
"""So many one-time keys others claim, so that the device has to upload more every other round."""
TOUCHED: Final = 0.4
"""The share of the requests that a fault on the way touches."""
MESSAGES_READ_IN_A_TURN: Final = 3
MESSAGES_IN_A_TURN: Final = 200
"""So many at most, where every message is read."""
HARMLESS: Final = frozenset({"repeated"})
"""What a sync may find: a message that came again, since its answer was lost, or was older than another's."""


class Claimed(msgspec.Struct):
    """A key that was claimed."""

    key: Curve25519Key


class Identity(msgspec.Struct):
    """The keys of a device, by algorithm and device."""

    keys: dict[str, str]


class Stage:
    """All that there is, and what has happened."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.homeserver = Homeserver()
        self.happened: Counter[Fault] = Counter()
        self.turns: Counter[str] = Counter()
        """By what has ended them."""
        self.losses: list[str] = []
        """What was lost or used twice."""
        self.messages_read = 0
        self.store = folder / "phone.db"
        self.clock_path = folder / "clock"
        self.clock = MachineClock.create(self.clock_path)
        self.traces = Traces(folder, LABELS)
        self.chosen = random.Random(seed)  # noqa: S311 (a seed that repeats it is wanted)
        self.processes = [
            Process(
                label,
                self.traces,
                (str(self.store), str(self.clock_path), *PHONE),
                self._answer,
                self._happens,
                self._other_acts,
                folder / f"{label}.stderr",
            )
            for label in LABELS
        ]
        self.bob: Client
        self._backup_key: bytes
        self._on_the_way: Fault | None = None
        self._delayed: list[HttpRequest] = []
        self._said = 0
        self._keys = MessageKeys()
        self._offered: set[tuple[str, str]] = set()
        self._events_seen = 0
        """So many events of the room are known."""
        self._newest: list[Json] = []
        """The newest messages of the room."""
        self._unchecked: list[Json] = []
        """Those that nobody had to read yet."""

    async def begin(self) -> None:
        """Let the device upload its keys, and turn its backup on, before the peer says anything."""
        await asyncio.gather(*(self._take_turn(process) for process in self.processes))
        done = await self.processes[0].take(Turn(sliding=False, makes_backup=True))
        assert done is not None
        self._backup_key = bytes.fromhex(done.backup_key)
        await self._all_act()

    async def round(self, fault: Fault | None) -> None:
        """Let everybody act at once, while one of the two processes suffers from a fault."""
        victim = self.chosen.choice(self.processes)
        for claim in range(CLAIMS_IN_A_ROUND):
            wanted = {"one_time_keys": {PHONE.user: {PHONE.device: "signed_curve25519"}}}
            _, answer = self.homeserver.request(LAPTOP, "POST", "keys/claim", wanted)
            if claim == 0:
                self._write_by(answer["one_time_keys"])
        if self.chosen.random() < 0.3:
            self.clock.advance(OFFER_ABANDONED_AFTER_MS)
        if fault is Fault.MOVE_CLOCK:
            self._happens(fault)
            victim.skew_ms = self.chosen.randint(-10 * MINUTE_MS, 10 * MINUTE_MS)
        self._on_the_way = fault if fault in ON_THE_WAY else None
        if fault is Fault.REPLACE_FILE:
            self._happens(fault)
            with replaced(self.store):
                await self._all_act()
            await asyncio.gather(*(process.restart() for process in self.processes))
        else:
            await self._all_act(victim, fault)
        self._on_the_way = None
        self._deliver_late()

    def _write_by(self, claimed: object) -> None:
        """Let a new device write, by a key that was claimed. This can be read only if the key's other half was kept."""
        [key] = msgspec.convert(claimed, dict[str, dict[str, dict[str, Claimed]]])[PHONE.user][PHONE.device].values()
        _, answer = self.homeserver.request(LAPTOP, "POST", "keys/query", {"device_keys": {PHONE.user: []}})
        theirs = msgspec.convert(answer["device_keys"], dict[str, dict[str, Identity]])[PHONE.user][PHONE.device].keys
        curve25519, ed25519 = (theirs[f"{algorithm}:{PHONE.device}"] for algorithm in ("curve25519", "ed25519"))
        sender = Account()
        payload = {
            "type": "m.dummy",
            "content": {},
            "sender": LAPTOP.user,
            "keys": {"ed25519": sender.ed25519},
            "recipient": PHONE.user,
            "recipient_keys": {"ed25519": ed25519},
        }
        message = sender.outbound_session(Curve25519Key(curve25519), key.key).encrypt(msgspec.json.encode(payload))
        content = {
            "algorithm": OLM,
            "sender_key": sender.curve25519,
            "ciphertext": {curve25519: {"type": message.type, "body": message.body}},
        }
        messages = {"messages": {PHONE.user: {PHONE.device: content}}}
        self.homeserver.request(LAPTOP, "PUT", f"sendToDevice/m.room.encrypted/{secrets.token_hex(8)}", messages)

    async def end_part(self) -> tuple[Path, ...]:
        """End the processes and start new ones, whose traces are a new part; return the files of the part before."""
        for process in self.processes:
            await process.end()
        files = await asyncio.to_thread(self.traces.finish_part)
        await asyncio.gather(*(process.start() for process in self.processes))
        return files

    async def settle(self) -> None:
        """Let everything arrive. What was not answered is asked again after a while."""
        for process in self.processes:
            process.skew_ms = 0
        for _ in range(3):
            self.clock.advance(HOUR_MS)
            await self._all_act()

    async def check(self) -> None:
        """See that everybody reads every message since the last check, and that nothing was used twice."""
        self._newest_messages()
        new, self._unchecked = self._unchecked, []
        self.messages_read += len(new)
        said_by = {event["sender"] for event in new}
        self.losses.extend(f"{user} can say nothing any more" for user in (ALICE, BOB) if user not in said_by)
        for process, label in zip(self.processes, LABELS, strict=True):
            for start in range(0, len(new), MESSAGES_IN_A_TURN):
                part = new[start : start + MESSAGES_IN_A_TURN]
                done = await process.take(Turn(sliding=False, read=part))
                if done is None or done.ended_by is not None:
                    self.losses.append(f"{label} can't read, though nothing is wrong any more: {done}")
                else:
                    self._check_texts(label, part, done.texts)
        await self.bob.sync()
        self._check_texts("bob", new, await texts(self.bob.machine, new))
        self._check_arrivals()

    async def check_backup(self) -> None:
        """See that a new device, which has nothing but the key of the backup, reads every message there ever was."""
        self.homeserver.sign_in(TABLET)
        messages = [event for event in self.homeserver.events(ROOM) if event["type"] == "m.room.encrypted"]
        async with await OlmMachine.open(
            self.store.with_name("tablet.db"), user_id=TABLET.user, device_id=TABLET.device, key=KEY, label="tablet"
        ) as machine:
            tablet = Client(self.homeserver, machine)
            query = await machine.key_backup.version_query()
            await machine.mark_sent(query, tablet.call(query.method, query.path, query.body))
            await machine.key_backup.import_decryption_key(self._backup_key)
            download = await machine.key_backup.download()
            answer = tablet.call(download.method, download.path, download.body)
            async for progress in machine.key_backup.restore(download, answer):
                if progress.unreadable:
                    self.losses.append(f"{progress.unreadable} room keys of the backup can't be read")
            self._check_texts("a new device", messages, await texts(machine, messages))

    def _newest_messages(self) -> list[Json]:
        events = self.homeserver.events(ROOM, self._events_seen)
        self._events_seen += len(events)
        new = [event for event in events if event["type"] == "m.room.encrypted"]
        self._unchecked.extend(new)
        self._newest = [*self._newest, *new][-MESSAGES_READ_IN_A_TURN:]
        return self._newest

    def _check_texts(self, reader: str, messages: list[Json], texts: list[str | None]) -> None:
        read = [text for text in texts if text is not None]
        self.losses.extend(
            f"{reader} can't read {event['event_id']} of {event['sender']}"
            for event, text in zip(messages, texts, strict=True)
            if text is None
        )
        self.losses.extend(f"{reader} has read {text!r} twice" for text, times in Counter(read).items() if times > 1)

    def _check_arrivals(self) -> None:
        """See what has arrived at the homeserver since the last time, and forget it."""
        try:
            self._keys.add_arrivals(self.homeserver.arrivals)
        except AssertionError as reused:
            self.losses.append(f"a message key was used twice: {reused}")
        for arrival in self.homeserver.arrivals:
            if arrival.status != 200:
                self.losses.append(f"the homeserver refused {arrival.path} with {arrival.status}")
            if arrival.device == PHONE and arrival.path.endswith("/keys/upload"):
                for name, key in json.loads(arrival.body).get("one_time_keys", {}).items():
                    if (name, key["key"]) in self._offered:
                        self.losses.append(f"the one-time key {name} was offered twice")
                    self._offered.add((name, key["key"]))
        self.homeserver.arrivals.clear()

    async def _all_act(self, victim: Process | None = None, fault: Fault | None = None) -> None:
        async def act(process: Process) -> None:
            suffers = fault if process is victim else None
            await self._take_turn(process, suffers)

        await asyncio.gather(*(act(process) for process in self.processes), self._bob_acts())

    async def _take_turn(self, process: Process, fault: Fault | None = None) -> None:
        turn = Turn(
            sliding=self.chosen.random() < 0.5,
            text=self._new_text(),
            read=self._newest_messages(),
            interruption=interruption(fault, self.chosen.randrange(CALLS_IN_A_TURN)),
        )
        done = await process.take(turn, fault)
        if done is None:
            self.turns["killed"] += 1
            return
        self.turns[done.ended_by or "done"] += 1
        self.losses.extend(f"a sync reported {code!r}" for code in done.problems if code not in HARMLESS)

    async def _bob_acts(self) -> None:
        await self.bob.send_all()
        await self.bob.sync()
        sharing = await self.bob.share(ROOM, [ALICE, BOB])
        if not sharing.reaches_all:
            return
        content = {"msgtype": "m.text", "body": self._new_text()}
        try:
            encrypted = await self.bob.machine.encrypt_room_event(ROOM, sharing, "m.room.message", content)
        except RoomKeyNotShared:
            return  # A session with the phone was replaced while the key was shared: he says it another time.
        self.bob.call("PUT", f"rooms/{ROOM}/send/m.room.encrypted/{secrets.token_hex(8)}", encrypted)

    async def _other_acts(self, victim: Process) -> None:
        """Let the other process act while one is suspended or dead: it takes the lease if that one has it."""
        self.clock.advance(LeaseTimes().duration_ms + 1)
        [other] = (each for each in self.processes if each is not victim)
        await self._take_turn(other)

    def _answer(self, request: HttpRequest) -> HttpAnswer:
        """Be the network between the processes and the homeserver."""
        lost = HttpAnswer(0, {})
        if self._on_the_way is not None and self.chosen.random() < TOUCHED:
            self._happens(self._on_the_way)
            if self._on_the_way is Fault.LOSE_REQUESTS:
                return lost
            if self._on_the_way is Fault.DELAY_REQUESTS:
                self._delayed.append(request)
                return lost
            self._arrive(request)
            return lost
        return self._arrive(request)

    def _arrive(self, request: HttpRequest) -> HttpAnswer:
        return HttpAnswer(*self.homeserver.request(PHONE, request.method, request.path, request.body))

    def _deliver_late(self) -> None:
        self.chosen.shuffle(self._delayed)
        while self._delayed:
            self._arrive(self._delayed.pop())

    def _happens(self, fault: Fault) -> None:
        self.happened[fault] += 1

    def _new_text(self) -> str:
        self._said += 1
        return f"message {self._said}"


async def texts(machine: OlmMachine, messages: list[Json]) -> list[str | None]:
    """Return what messages say, as far as they can be read."""
    results = await machine.decrypt_room_events(ROOM, messages)
    return [None if isinstance(read, MachineError) else str(read.content["body"]) for read in results]


@asynccontextmanager
async def stage(folder: Path, seed: int) -> AsyncIterator[Stage]:
    """Let everybody know of each other. The two processes begin at once, where there is no store yet."""
    async with AsyncExitStack() as stack:
        made = Stage(folder, seed)
        for device in (PHONE, LAPTOP):
            made.homeserver.sign_in(device)
        made.homeserver.create_room(ROOM, ALICE, BOB)
        machine = await OlmMachine.open(
            folder / "laptop.db",
            user_id=BOB,
            device_id=LAPTOP.device,
            key=KEY,
            label="bob",
            clock=SharedClock(made.clock),
        )
        made.bob = Client(made.homeserver, await stack.enter_async_context(machine))
        await machine.set_room_encryption(ROOM, {"algorithm": MEGOLM, "rotation_period_msgs": 5})
        await made.bob.send_all()
        for process in made.processes:
            stack.push_async_callback(process.kill)
        await asyncio.gather(*(process.start() for process in made.processes))
        await made.begin()
        yield made
        for process in made.processes:
            await process.end()
        await asyncio.to_thread(made.traces.receive_rest)
