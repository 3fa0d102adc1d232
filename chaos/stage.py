"""The participants: a phone in two processes, a peer, other devices of the phone's user, a homeserver in memory.

A seeded random generator decides what they do, and which faults happen to the phone. Between rounds, the invariants
are checked.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from chaos import owner
from chaos.faults import ON_THE_WAY, Fault
from chaos.network import Network
from chaos.owner import Shown
from chaos.pair import Pair
from chaos.processes import Process, interruption, replaced
from chaos.room import DIRECT, ENCRYPTION, ROOM, encrypted, session_of, texts
from chaos.tablet import Tablet
from chaos.traces import Traces
from chaos.worker import KEY, Interruption, SharedClock, Turn
from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Device, Homeserver, Json
from checking.machine_replay.message_keys import MessageKeys
from examples.story.program import MachineClock
from unwedged.machine import OlmMachine
from unwedged.machine.account import OFFER_ABANDONED_AFTER_MS
from unwedged.machine.errors import MessageUnreadable, RepeatedMessage, UnknownVerification
from unwedged.machine.identifiers import OLM, Curve25519Key
from unwedged.machine.ratchets import Account
from unwedged.machine.records import SigningKeyName
from unwedged.machine.rooms import UNAVAILABLE
from unwedged.machine.secrets import BACKUP_KEY
from unwedged.machine.unpadded_base64 import unpadded
from unwedged.store import LeaseTimes

ALICE: Final = "@alice:example.org"
BOB: Final = "@bob:example.org"
CAROL: Final = "@carol:example.org"
PHONE: Final = Device(ALICE, "PHONE")
NEW: Final = Device(ALICE, "NEW")
"""A new device that has only the decryption key of the backup."""
LAPTOP: Final = Device(BOB, "LAPTOP")
FORGER: Final = Device(BOB, "FORGER")
"""The sender that the homeserver names for damaged messages."""
STRANGER: Final = Device(CAROL, "STRANGER")
"""A device in no room. It writes to the phone over sessions that begin with claimed keys."""
LABELS: Final = ("app", "extension")
MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS

CALLS_IN_A_TURN: Final = 20_000
"""The approximate number of function calls and returns in a turn."""
CALLS_IN_AN_OPENING: Final = (0, 7_000)
"""The same for a process that creates a store, from its start until it has created the device's account."""
CALLS_UNTIL_THE_ACCOUNT: Final = (5_000, 6_500)
"""The part of them in which it looks for the account, and creates it."""
CLAIMS_IN_A_ROUND: Final = 15
"""The number of one-time keys that others claim, so that the device must upload more every other round."""
TIME_PASSES, TIME_PASSES_BETWEEN = 0.02, 0.3
"""The probability that ten minutes pass between rounds: while a verification is under way (this ends it), or not."""
CLOCKS_ARE_SET: Final = 0.2
"""The probability that all clocks are set right between rounds. A verification may end because of a wrong clock."""
CALM_ROUNDS: Final = 12
"""The largest number of fault-free rounds that a verification takes."""
ROUNDS_UNTIL_ASKED: Final = 2
"""The number of fault-free rounds until the other device knows of a verification."""
EVENTS_IN_A_TURN: Final = 20
"""The number of events of the direct room that a turn processes. Most are known already."""
MESSAGES_READ_IN_A_TURN: Final = 3
MESSAGES_IN_A_TURN: Final = 200
"""The largest number of messages in a turn that reads every message."""
HARMLESS: Final = frozenset({RepeatedMessage.code, UnknownVerification.code})
"""The problems that a sync may report: a message that came again, over another connection or because a response was
lost; and a message of a verification that ended so long ago that it is forgotten."""


class Claimed(msgspec.Struct):
    """A key that was claimed."""

    key: Curve25519Key


class Identity(msgspec.Struct):
    """The public keys of a device, by algorithm and device."""

    keys: dict[str, str]


class Withheld(msgspec.Struct):
    """The notice to a device that it does not get a room key."""

    code: str
    session_id: str = ""


class ToDevices(msgspec.Struct):
    """To-device messages, by user and device."""

    messages: dict[str, dict[str, Withheld]]


class Stage:
    """The participants, and what has happened so far."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.happened: Counter[Fault] = Counter()
        self.turns: Counter[str] = Counter()
        """The number of turns by the way in which they ended."""
        self.losses: list[str] = []
        """Each thing that was lost or used twice, or that hangs."""
        self.messages_read = 0
        self.tablets = 0
        """The number of other devices of the phone's user that have signed in."""
        self.verified = 0
        """The number of verifications that succeeded on both devices."""
        self.cancelled: Counter[str] = Counter()
        """The number of cancelled verifications, by reason."""
        self.keys_given = 0
        """The number of requested room keys, of either device, that have arrived."""
        self.keys_refused = 0
        """The number of requested room keys that were refused, with a reason."""
        self.secrets_given = 0
        """The number of secrets that the other devices have asked for and received."""
        self.store = folder / "phone.db"
        self.clock_path = folder / "clock"
        self.clock = MachineClock.create(self.clock_path)
        self.homeserver = Homeserver(now_ms=SharedClock(self.clock).now)
        self.traces = Traces(folder, LABELS)
        self.chosen = random.Random(seed)  # noqa: S311 (a seed that repeats it is wanted)
        self.processes = self._processes_of(PHONE, self.store, self.traces, self._other_takes_turn)
        self.bob: Client
        self.tablet: Tablet | None = None
        self.users = Pair(PHONE, LAPTOP, self.chosen)
        """The verifications between the two users."""
        self._network = Network(self.homeserver, PHONE, self.chosen, self._happens)
        self._backup_key: bytes
        self._lost: Json
        """A message that Bob has encrypted only for himself: none of Alice's devices can read it."""
        self._said = 0
        self._keys = MessageKeys()
        self._offered: set[tuple[str, str]] = set()
        self._refusals: set[tuple[Device, str, str]] = set()
        """Each message that refuses a key: the sending device, the receiving device, and the path of the request."""
        self._damaged = False
        """Whether a damaged message may still be on its way."""
        self._events_seen = 0
        """The number of events of the room that were seen."""
        self._newest: list[Json] = []
        """The newest messages of the room."""
        self._unchecked: list[Json] = []
        """The messages since the last check."""

    async def begin(self) -> None:
        """Let the phone upload its keys, make an identity and a backup, and request a key that no device has."""
        content = await encrypted(self.bob, [BOB], self._new_text())
        assert content is not None
        self._lost = self.bob.post(ROOM, content)
        await self.bob.machine.discard_room_key(ROOM)
        self._events_seen = len(self.homeserver.events(ROOM))
        await asyncio.gather(*(self._take_turn(process) for process in self.processes))
        done = await self.processes[0].take(Turn(sliding=False, sets_up=True, wanted=[self._lost]))
        assert done is not None
        self._backup_key = bytes.fromhex(done.backup_key)
        await self._all_take_turns()

    async def round(self, fault: Fault | None) -> None:
        """Let all processes take a turn concurrently, while a fault happens to one of the phone's processes."""
        affected = self.chosen.choice(self.processes)
        for claim in range(CLAIMS_IN_A_ROUND):
            wanted = {"one_time_keys": {PHONE.user: {PHONE.device: "signed_curve25519"}}}
            _, answer = self.homeserver.request(STRANGER, "POST", "keys/claim", wanted)
            if claim == 0:
                self._write_by(answer["one_time_keys"])
        is_verifying = any(pair.verifications.under_way for pair in self._pairs)
        if self.chosen.random() < (TIME_PASSES if is_verifying else TIME_PASSES_BETWEEN):
            self.clock.advance(OFFER_ABANDONED_AFTER_MS)
        if self.chosen.random() < CLOCKS_ARE_SET:
            self._set_clocks()
        if fault is Fault.MOVE_CLOCK:
            self._happens(fault)
            affected.skew_ms = self.chosen.randint(-10 * MINUTE_MS, 10 * MINUTE_MS)
        if fault is Fault.DAMAGE_MESSAGES and self._network.send_damaged_copy(LAPTOP, FORGER):
            self._happens(fault)
            self._damaged = True
        self._network.fault = fault if fault in ON_THE_WAY else None
        signing_in = [self.sign_in()] if self.tablet is None else []
        if fault is Fault.REPLACE_FILE:
            self._happens(fault)
            with replaced(self.store):
                await asyncio.gather(self._all_take_turns(), *signing_in)
            await asyncio.gather(*(process.restart() for process in self.processes))
        else:
            await asyncio.gather(self._all_take_turns(affected, fault), *signing_in)
        self._network.fault = None
        self._network.deliver_late()

    def _processes_of(
        self, device: Device, store: Path, traces: Traces, while_interrupted: Callable[[Process], Awaitable[None]]
    ) -> list[Process]:
        """Return the two processes of a device, not started yet."""
        return [
            Process(
                label,
                traces,
                (str(store), str(self.clock_path), *device),
                lambda request: self._network.carry(request),
                self._happens,
                while_interrupted,
                store.with_name(f"{label}.stderr"),
            )
            for label in LABELS
        ]

    def _write_by(self, claimed: object) -> None:
        """Let a stranger write with a claimed key. The phone can read this only if it kept the private key."""
        [key] = msgspec.convert(claimed, dict[str, dict[str, dict[str, Claimed]]])[PHONE.user][PHONE.device].values()
        _, answer = self.homeserver.request(STRANGER, "POST", "keys/query", {"device_keys": {PHONE.user: []}})
        theirs = msgspec.convert(answer["device_keys"], dict[str, dict[str, Identity]])[PHONE.user][PHONE.device].keys
        curve25519, ed25519 = (theirs[f"{algorithm}:{PHONE.device}"] for algorithm in ("curve25519", "ed25519"))
        sender = Account()
        payload = {
            "type": "m.dummy",
            "content": {},
            "sender": STRANGER.user,
            "keys": {"ed25519": sender.ed25519},
            "recipient": PHONE.user,
            "recipient_keys": {"ed25519": ed25519},
        }
        message = sender.outbound_session(Curve25519Key(curve25519), key.key).encrypt(msgspec.json.encode(payload))
        content: Json = {
            "algorithm": OLM,
            "sender_key": sender.curve25519,
            "ciphertext": {curve25519: {"type": message.type, "body": message.body}},
        }
        self._network.send(STRANGER, content)

    async def sign_in(self) -> None:
        """Sign the user in on another device. Two processes make its store at once, and one of them is interrupted."""
        self.tablets += 1
        device = Device(ALICE, f"TABLET{self.tablets}")
        folder = self._folder_of(device)
        folder.mkdir()
        traces = Traces(folder, LABELS)

        async def start_other(_: Process) -> None:
            self.clock.advance(LeaseTimes().duration_ms + 1)
            await other.start()

        first, other = self._processes_of(device, folder / "device.db", traces, start_other)
        fault, calls = self.chosen.choice(
            [
                (Fault.KILL, CALLS_IN_AN_OPENING),
                (Fault.SUSPEND, CALLS_IN_AN_OPENING),
                *[(Fault.SUSPEND, CALLS_UNTIL_THE_ACCOUNT)] * 2,
            ]
        )
        try:
            await first.start(Interruption(fault, self.chosen.randrange(*calls)))
            if not other.ed25519:
                await other.start()
            await first.end()
            await other.end()
        finally:
            await first.kill()
            await other.kill()
        await asyncio.to_thread(traces.receive_rest)
        machine = await OlmMachine.open(
            folder / "device.db",
            user_id=device.user,
            device_id=device.device,
            key=KEY,
            label="tablet",
            clock=SharedClock(self.clock),
        )
        if {first.ed25519, other.ed25519} != {machine.ed25519}:
            self.losses.append(f"each of two processes has made an account for {device.device}: see {folder}")
        self.homeserver.sign_in(device)
        tablet = Tablet(Client(self.homeserver, machine), PHONE, self._lost, self.chosen)
        await tablet.begin([ALICE, BOB])
        self.tablet = tablet

    async def sign_out(self) -> None:
        """Sign the user out on the other device, if there is one."""
        if self.tablet is not None:
            await self.tablet.client.machine.close()
            self.homeserver.sign_out(self.tablet.client.device)
            if not self.losses:
                shutil.rmtree(self._folder_of(self.tablet.client.device))
            self.tablet = None

    def _folder_of(self, device: Device) -> Path:
        return self.store.with_name(device.device.lower())

    async def end_part(self) -> tuple[Path, ...]:
        """End the processes and start new ones, whose traces form a new part; return the files of the previous part."""
        for process in self.processes:
            await process.end()
        files = await asyncio.to_thread(self.traces.finish_part)
        await asyncio.gather(*(process.start() for process in self.processes))
        return files

    async def settle(self) -> None:
        """Let everything arrive. Requests without a response are repeated after a while."""
        self._set_clocks()
        for pair in self._pairs:
            pair.is_calm = True
        await self._finish_verifications()
        for _ in range(3):
            self.clock.advance(HOUR_MS)
            await self._all_take_turns()
            await self._finish_verifications(trusted=True)

    async def _finish_verifications(self, *, trusted: bool = False) -> None:
        """Let all processes take turns without time passing, until no verification that both devices know is under way.

        With ``trusted``, the devices must then be verified too.
        """
        pairs = [(pair, pair.verifications) for pair in self._pairs]
        for rounds in range(CALM_ROUNDS):
            if not any(
                now.hangs or (now.under_way and rounds < ROUNDS_UNTIL_ASKED) or (trusted and not now.trusted)
                for _, now in pairs
            ):
                return
            await self._all_take_turns()
        self.losses.extend(
            f"a verification with {pair.other.device} hangs, though nothing is wrong any more"
            for pair, now in pairs
            if now.hangs
        )

    @property
    def _pairs(self) -> list[Pair]:
        return [self.users] if self.tablet is None else [self.users, self.tablet.pair]

    def _set_clocks(self) -> None:
        for process in self.processes:
            process.skew_ms = 0

    async def check(self) -> None:
        """Check after ``settle`` that nothing was lost since the last check."""
        self._newest_messages()
        new, self._unchecked = self._unchecked, []
        self.messages_read += len(new)
        of_tablet = [] if self.tablet is None else [event["event_id"] for event in self.tablet.said]
        said_by = {event["sender"] for event in new if event["event_id"] not in of_tablet}
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
        if len({process.ed25519 for process in self.processes}) != 1:
            self.losses.append(f"each of two processes has made an account for {PHONE.device}")
        for pair in self._pairs:
            self._check_verifications(pair)
        self.users = Pair(PHONE, LAPTOP, self.chosen)
        if self.tablet is not None:
            await self._check_tablet(self.tablet, new)
            await self.sign_out()
        self._damaged = False

    async def _check_tablet(self, tablet: Tablet, new: list[Json]) -> None:
        """Check that the user's secrets have arrived, and that each requested room key has arrived or was refused."""
        device, machine = tablet.client.device, tablet.client.machine
        await tablet.client.sync()
        self._check_texts(device.device, new, await texts(machine, new))
        keys = (await machine.cross_signing.status()).private_keys
        self.losses.extend(
            f"{device.device} never got the private key {name.value}" for name in {*SigningKeyName} - keys
        )
        backup_key = await machine.secrets.received(BACKUP_KEY)
        if backup_key is None or unpadded(backup_key.secret) != self._backup_key:
            self.losses.append(f"{device.device} never got the key of the backup")
        self.secrets_given += len(keys) + (backup_key is not None)
        for one, other in ((PHONE, device), (device, PHONE)):
            times = len([path for sender, name, path in self._refusals if (sender, name) == (one, other.device)])
            if times != 1:
                self.losses.append(f"{one.device} has refused {other.device} a room key {times} times, and not once")
            self.keys_refused += times
        self._refusals.clear()
        self.keys_given += len(tablet.asked | set(map(session_of, tablet.said)))

    def _check_verifications(self, pair: Pair) -> None:
        """Check that no verification hangs."""
        verifications = pair.verifications
        self.losses.extend(verifications.losses())
        if pair.is_calm and not verifications.trusted:
            self.losses.append(f"{pair.other.device} can't be verified, though nothing is wrong any more")
        self.verified += verifications.finished
        self.cancelled += verifications.cancelled

    async def check_backup(self) -> None:
        """Check that a new device that has only the decryption key of the backup reads every message ever sent."""
        self.homeserver.sign_in(NEW)
        events = self.homeserver.events(ROOM)
        messages = [event for event in events if event["type"] == "m.room.encrypted" and event != self._lost]
        async with await OlmMachine.open(
            self.store.with_name("new.db"), user_id=NEW.user, device_id=NEW.device, key=KEY, label="new"
        ) as machine:
            client = Client(self.homeserver, machine)
            query = await machine.key_backup.version_query()
            await machine.mark_sent(query, client.call(query.method, query.path, query.body))
            await machine.key_backup.import_decryption_key(self._backup_key)
            download = await machine.key_backup.download()
            answer = client.call(download.method, download.path, download.body)
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
        """Check that nothing that arrived at the homeserver was used twice, and forget those requests."""
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
            if "/sendToDevice/m.room_key.withheld/" in arrival.path:
                for messages in msgspec.json.decode(arrival.body, type=ToDevices).messages.values():
                    for name, withheld in messages.items():
                        if (withheld.code, withheld.session_id) == (UNAVAILABLE, session_of(self._lost)):
                            self._refusals.add((arrival.device, name, arrival.path))
        self.homeserver.arrivals.clear()

    async def _all_take_turns(self, affected: Process | None = None, fault: Fault | None = None) -> None:
        turns = [self._take_turn(process, fault if process is affected else None) for process in self.processes]
        await asyncio.gather(*turns, self._bob_takes_turn(), self._tablet_takes_turn())

    async def _take_turn(self, process: Process, fault: Fault | None = None) -> None:
        tablet, users = self.tablet, self.users
        acts = users.acts(on_phone=True)
        turn = Turn(
            sliding=self.chosen.random() < 0.5,
            text=self._new_text(),
            read=self._newest_messages(),
            wanted=[] if tablet is None else tablet.said,
            direct=self._direct_events(),
            owner=acts if tablet is None else acts + tablet.pair.acts(on_phone=True),
            interruption=interruption(fault, self.chosen.randrange(CALLS_IN_A_TURN)),
        )
        done = await process.take(turn, fault)
        if done is None:
            self.turns["killed"] += 1
            return
        self.turns[done.ended_by or "done"] += 1
        self._note_problems(done.problems)
        if done.shown is not None:
            users.verifications.phone_shows(_with(BOB, done.shown))
        if tablet is not None and done.shown is not None:
            tablet.pair.verifications.phone_shows(_with(ALICE, done.shown))

    async def _bob_takes_turn(self) -> None:
        await self.bob.send_all()
        await self.bob.sync()
        users = self.users
        for event in self._direct_events():
            await self.bob.machine.verifications.receive_room_event(DIRECT, event)
        users.verifications.other_shows(await owner.act(self.bob.machine, users.acts(on_phone=False)))
        await self.bob.send_all()
        content = await encrypted(self.bob, [ALICE, BOB], self._new_text())
        if content is not None:
            self.bob.post(ROOM, content)

    async def _tablet_takes_turn(self) -> None:
        if self.tablet is not None:
            messages = self._unchecked if self.tablet.pair.is_calm else self._newest_messages()
            self._note_problems(await self.tablet.take_turn(messages, self._new_text(), [BOB]))

    def _note_problems(self, problems: list[tuple[str | None, str]]) -> None:
        """Record the problems of a sync that must not occur."""
        for sender, code in problems:
            is_damaged = self._damaged and (sender, code) == (FORGER.user, MessageUnreadable.code)
            if code not in HARMLESS and not is_damaged:
                self.losses.append(f"a sync reported {code!r}")

    async def _other_takes_turn(self, interrupted: Process) -> None:
        """Let the other process take a turn while one is suspended or dead, and take over its lease."""
        self.clock.advance(LeaseTimes().duration_ms + 1)
        [other] = (each for each in self.processes if each is not interrupted)
        await self._take_turn(other)

    def _happens(self, fault: Fault) -> None:
        self.happened[fault] += 1

    def _direct_events(self) -> list[Json]:
        return self.homeserver.events(DIRECT)[-EVENTS_IN_A_TURN:]

    def _new_text(self) -> str:
        self._said += 1
        return f"message {self._said}"


def _with(user: str, shown: list[Shown]) -> list[Shown]:
    return [each for each in shown if each.user_id == user]


@asynccontextmanager
async def stage(folder: Path, seed: int) -> AsyncIterator[Stage]:
    """Begin with all participants except the other devices. The phone's two processes create its store concurrently."""
    async with AsyncExitStack() as stack:
        made = Stage(folder, seed)
        for device in (PHONE, LAPTOP, FORGER, STRANGER):
            made.homeserver.sign_in(device)
        made.homeserver.create_room(ROOM, ALICE, BOB)
        for user in (ALICE, BOB):
            made.homeserver.join(DIRECT, user)
        machine = await OlmMachine.open(
            folder / "laptop.db",
            user_id=BOB,
            device_id=LAPTOP.device,
            key=KEY,
            label="bob",
            clock=SharedClock(made.clock),
        )
        made.bob = Client(made.homeserver, await stack.enter_async_context(machine))
        await machine.set_room_encryption(ROOM, ENCRYPTION)
        while not (await machine.cross_signing.bootstrap()).is_complete:
            await made.bob.send_all()
        stack.push_async_callback(made.sign_out)
        for process in made.processes:
            stack.push_async_callback(process.kill)
        await asyncio.gather(*(process.start() for process in made.processes))
        await made.begin()
        yield made
        for process in made.processes:
            await process.end()
        await asyncio.to_thread(made.traces.receive_rest)
