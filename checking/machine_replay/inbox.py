"""Replay the module Inbox on real machines: the messages of another device, which sync responses bring."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Final, NamedTuple, Self, TypeAlias, TypeVar, cast

from checking.errors import CheckError
from checking.machine_replay import inbox_faults, message_keys
from checking.machine_replay.client import Client
from checking.machine_replay.counterpart import Counterpart, Impossible, Property
from checking.machine_replay.device_keys import account_of, signed_device_keys
from checking.machine_replay.homeserver import Device, Homeserver, Json
from checking.machine_replay.peer_device import PeerDevice
from checking.machine_replay.shared_device import SharedDevice
from checking.replay.doubles import ManualClock
from checking.replay.model_states import Function, changed_arguments, entry, function_of, name_of
from checking.replay.substitutions import Substitution, substituted
from checking.tlc.values import Label, ModelValue, State, Value, function, record
from unwedged.machine import OlmMachine, SyncOutcome, SyncPosition, ToDeviceEvent, account, inbox, olm, rooms
from unwedged.machine import identifiers as ids
from unwedged.machine.errors import MessageUnreadable, RepeatedMessage
from unwedged.machine.ratchets import Account, OlmMessage, OlmSession, OutboundGroup
from unwedged.machine.records import (
    ACCOUNT,
    BACKLOG,
    INBOUND,
    OUTBOX,
    OUTDATED,
    OWN_DEVICE,
    PEER,
    PUT_ASIDE,
    SYNC,
    UNPROCESSED,
    WANTED_SESSION,
    KnownDevice,
    OwnDevice,
    Peer,
)
from unwedged.machine.sync import TO_DEVICE, SyncChanges
from unwedged.store import Transaction

_OWN: Final = Device("@alice:example.org", "PHONE")
_PEER: Final = Device("@bob:example.org", "LAPTOP")
_ROOM: Final = ids.RoomId("!room:example.org")
"""The key that the other device sends belongs to it."""
_ROOT: Final = "/_matrix/client/v3"
_CONNECTION: Final = "main"
_NOTHING: Final = ModelValue("Nothing")
_NO_KEY: Final = 9
_USED: Final = "used"
_PUT_ASIDE: Final = "put_aside"


class _Message(NamedTuple):
    """A message of the model's constant ``Stream``."""

    kind: str
    key: int = _NO_KEY
    of: int = 0


_EVENT: Final = _Message("event")
_BAD: Final = _Message("bad")


def _pre_key(key: int) -> _Message:
    return _Message("prekey", key)


def _olm(key: int) -> _Message:
    return _Message("olm", key)


def _aside(key: int) -> _Message:
    return _Message("aside", key)


def _repeat(of: int) -> _Message:
    return _Message("repeat", of=of)


_STREAMS: Final = {
    len(stream): stream
    for stream in (
        (_pre_key(1), _aside(0)),
        (_pre_key(1), _BAD, _olm(0)),
        (_EVENT, _pre_key(1), _olm(2), _repeat(2)),
        (_EVENT, _pre_key(1), _BAD, _olm(2), _repeat(2)),
        (_pre_key(1), _olm(2), _BAD, _EVENT, _aside(0), _repeat(2)),
    )
}
"""The streams of the module MCInbox, by their length. With each second message, a device list changes."""
_IN_PAIRS: Final = 6
"""The length of the stream that is recorded two messages at a time; of the others, each message has a record."""
_CHANGES: Final = (2, 4)


class _Place(NamedTuple):
    """A position of the sending ratchet in the model."""

    read: int
    """How many messages were read before it."""
    sent: int
    """How many messages were sent since the last one was read."""


class _Ratchet(NamedTuple):
    """A real position of the sending ratchet: the message that it answers, and the index since then.

    After a fork, several ratchet keys answer the same message.
    """

    answers: bytes
    """The ratchet key of the last message that was read."""
    steps: int


@dataclass(frozen=True)
class _Asked:
    """A sync request that a process holds."""

    position: SyncPosition


@dataclass(frozen=True)
class _Answered:
    """A sync response that a process holds."""

    position: SyncPosition
    response: Json
    batch: tuple[int, ...]
    """The numbers of its messages."""


_Held: TypeAlias = _Asked | _Answered
Held = TypeVar("Held", _Asked, _Answered)


@dataclass
class _Outside:
    """The homeserver, the other device, what the processes hold, and the names of things in the model."""

    server: Homeserver
    flight: dict[str, _Held | None]
    effects: dict[int, int]
    """How often each message took effect, as the application observed."""
    session: str = ""
    """The Olm session of the other device, pickled."""
    contents: dict[int, Json] = field(default_factory=dict)
    """The content of each message."""
    tokens: dict[str, int] = field(default_factory=dict)
    """How many messages had arrived when the homeserver made each token."""
    unreadable: set[int] = field(default_factory=set)
    sent: list[_Place] = field(default_factory=list)
    places: dict[_Ratchet, _Place] = field(default_factory=dict)
    """The positions that were used."""


def _stream_of(state: State) -> tuple[_Message, ...]:
    return _STREAMS[len(_effects(state))]


def _effects(state: State) -> tuple[int, ...]:
    return cast("tuple[int, ...]", entry(state, "store")["effects"])


def _original(stream: Sequence[_Message], number: int) -> int:
    return stream[number - 1].of or number


def _nothing_lost(_: State, now: State) -> str | None:
    store, stream, effects = entry(now, "store"), _stream_of(now), _effects(now)
    recorded, aside = cast("tuple[Value, ...]", store["backlog"]), cast("frozenset[Value]", store["aside"])
    for number in range(1, cast("int", store["token"]) + 1):
        original = _original(stream, number)
        if number not in recorded and original not in aside and not effects[original - 1]:
            return f"the token has passed the message {number}, which is neither applied nor recorded"
    for number, (message, had) in enumerate(zip(stream, effects, strict=True), 1):
        read = (
            had
            and message.kind in ("prekey", "olm", "aside")
            and number not in cast("frozenset[Value]", store["unwedge"])
        )
        if read and cast("int", store["key"]) > message.key:
            return f"the room key of the message {number} is not stored"
    return None


def _exactly_once(_: State, now: State) -> str | None:
    again = [number for number, had in enumerate(_effects(now), 1) if had > 1]
    return f"the messages {again} took effect twice" if again else None


def _atomic_sync(_: State, now: State) -> str | None:
    store = entry(now, "store")
    if entry(store, "session")["open"] != (store["account"] == "spent"):
        return "the session is stored without the use of its one-time key, or the reverse"
    changed = {number for number in _CHANGES if number <= cast("int", store["token"])}
    outdated = cast("frozenset[Value]", store["outdated"])
    return None if outdated == changed else f"up to the token, lists changed at {changed}, but {outdated} are marked"


def _no_ratchet_reuse(_: State, now: State) -> str | None:
    sent = cast("tuple[Value, ...]", now["sent"])
    return None if len(set(sent)) == len(sent) else "a position of the sending ratchet was used twice"


_receive_room_key: Final = rooms.receive_room_key
_process: Final = inbox._process_event


async def _process_and_tell(
    transaction: Transaction, event: inbox._Event, plaintext: bytes | None, outcome: SyncOutcome, now_ms: int
) -> None:
    """Process an event, and add one entry for it to the outcome: used, or the code of its problem."""
    told = SyncOutcome()
    await _process(transaction, event, plaintext, told, now_ms)
    code = told.problems[0].code if told.problems else _USED
    outcome.events.append(ToDeviceEvent(code, event.sender, event.content, encrypted=False))


class Inbox(Counterpart):
    """Both processes sync over one classic connection. The other device reads each message to it, and answers it.

    If the names of the processes begin with "s", each has its own connection of sliding sync. This model has only one
    token; the model ``Lists`` has one for each connection.

    The size from which a batch counts as large is chosen for each response. A process is killed after each commit.
    """

    properties: ClassVar[Mapping[str, Property]] = {
        "NothingLost": _nothing_lost,
        "ExactlyOnce": _exactly_once,
        "AtomicSync": _atomic_sync,
        "NoRatchetReuse": _no_ratchet_reuse,
    }
    faults: ClassVar[Mapping[str, Callable[[], Sequence[Substitution]]]] = inbox_faults.FAULTS

    outside: _Outside

    def __init__(
        self, device: SharedDevice, outside: _Outside, peer: PeerDevice, own: KnownDevice, resources: ExitStack
    ) -> None:
        """Use ``open`` instead."""
        self.devices = (device,)
        self.outside = outside
        self._device = device
        self._peer = peer
        self._own = own
        self._stream = _STREAMS[len(outside.effects)]
        self._in_a_record = 2 if len(self._stream) == _IN_PAIRS else 1
        self._sliding = all(process.startswith("s") for process in outside.flight)
        self._changes = () if self._sliding else _CHANGES
        self._resources = resources
        group = OutboundGroup()
        self._session_id = group.session_id
        self._session_keys: list[str] = []
        """The room keys, by their first index."""
        while len(self._session_keys) < _NO_KEY:
            self._session_keys.append(group.session_key)
            group.encrypt(b"")
        self._probe: OlmMessage
        """A pre-key message that begins a session with the one-time key that the other device has claimed."""
        self._is_faulty = True
        """Whether the program fails when it uses messages of the kind "aside"."""
        self._given: _Answered | None = None
        """The last input of the machine."""

    @classmethod
    async def open(cls, folder: Path, initial: State) -> Self:
        """See the base class. All keys are published, and the other device has claimed one."""
        processes = sorted(map(name_of, function_of(initial["flight"])))
        sliding = all(process.startswith("s") for process in processes)
        numbers = range(1, 1 + len(_effects(initial)))
        resources = ExitStack()
        resources.enter_context(
            substituted(
                [
                    (inbox, "_process_event", _process_and_tell),
                    (account, "MOST_ONE_TIME_KEYS", 1),
                    (account, "REFILL_BELOW", 1),
                ]
            )
        )
        server, peer = Homeserver(), PeerDevice(_PEER)
        server.sign_in(_OWN)
        peer.sign_in(server)
        users = [_PEER.user, *map(_user_id, _CHANGES)]
        server.create_room(_ROOM, _OWN.user, *users)
        own = ids.Device(ids.UserId(_OWN.user), ids.DeviceId(_OWN.device))
        device = await SharedDevice.open(folder / "device.store", own, processes, ManualClock())
        machine = await device.machine(processes[0])
        client = Client(server, machine)
        for number in numbers:
            await machine.set_room_encryption(_room_of(number), {"algorithm": ids.MEGOLM})
        await client.send_all()
        await machine.track_users(users)
        for process in processes:
            await client.sync(process if sliding else _CONNECTION, sliding=sliding)
        await client.send_all()
        known = KnownDevice(device.records(OWN_DEVICE)[None].keys)
        made = cls(
            device, _Outside(server, dict.fromkeys(processes), dict.fromkeys(numbers, 0)), peer, known, resources
        )
        made.outside.tokens[made._token()] = 0
        made._begin_session()
        resources.enter_context(substituted([(rooms, "receive_room_key", made._receive_room_key)]))
        return made

    async def close(self) -> None:
        """See the base class."""
        await super().close()
        self._resources.close()

    @staticmethod
    def steps(action: str, before: State, after: State) -> list[Label]:
        """See the base class. The number of applied messages is a parameter here. Any process may work off the rest."""
        was, now = entry(before, "store"), entry(after, "store")
        recorded = len(cast("tuple[Value, ...]", now["backlog"])) - len(cast("tuple[Value, ...]", was["backlog"]))
        match action:
            case "PeerSends" | "TryAgain" | "EncryptOlm":
                return [Label(action)]
            case "WorkOffBacklog":
                return [Label(action, (-recorded,))]
            case "ReceiveSync":
                changed = changed_arguments(before["flight"], after["flight"])  # by faults with two commits
                answered = _answered(before, now["token"])
                current = [process for process, each in answered.items() if each["since"] == was["token"]]
                return [
                    Label(action, (process, len(_batch(entry(before["flight"], process))) - recorded))
                    for process in changed or current or answered
                ]
        return [Label(action, (process,)) for process in changed_arguments(before["flight"], after["flight"])]

    def choices(self) -> Sequence[Label]:
        """See the base class. The machine decides whether it takes a late response, and what it reads or sends."""
        token = self._token()
        steps = [
            Label("ReceiveSync", (ModelValue(process), len(held.batch)))
            for process, held in self.outside.flight.items()
            if isinstance(held, _Answered) and held.position.to_device_token != token
        ]
        recorded, aside = self._device.records(BACKLOG), self._device.records(PUT_ASIDE)
        if not recorded:
            steps.append(Label("WorkOffBacklog", (1,)))
        elif not aside:  # trying again is the same call of the machine
            steps.append(Label("TryAgain"))
        if not self._read().sessions:
            steps.append(Label("EncryptOlm"))
        return steps

    async def take(self, step: Label) -> None:
        """See the base class."""
        outside = self.outside
        match step.action, step.parameters:
            case "PeerSends", ():
                self._send(len(outside.contents) + 1)
            case "AskSync", (ModelValue(process),):
                machine = await self._device.machine(process)
                connection = process if self._sliding else _CONNECTION
                outside.flight[process] = _Asked(await machine.sync_position(connection, sliding=self._sliding))
            case "AnswerSync", (ModelValue(process),):
                client = Client(outside.server, await self._device.machine(process))
                outside.flight[process] = self._answer(client, self._held(process, _Asked).position)
            case "ReceiveSync", (ModelValue(process), count):
                held = self._held(process, _Answered)
                if not await self._receive(await self._device.machine(process), held, cast("int", count)):
                    raise Impossible(f"{process} has a response that changes nothing")
                self._given = held
            case "IgnoreSync", (ModelValue(process),):
                held = self._held(process, _Answered)
                if await self._receive(await self._device.machine(process), held, 0):
                    raise CheckError(f"{process} has a late response, but the machine takes it")
                outside.flight[process], self._given = None, held
            case "CommitRest", (ModelValue(process),):
                held = self._held(process, _Answered)
                if not await self._receive(await self._device.machine(process), held, 0):
                    raise Impossible("the machine stores everything in one commit")
            case "WorkOffBacklog", (count,):
                await self._work_off(cast("int", count))
            case "TryAgain", ():
                await self._try_again()
            case "EncryptOlm", ():
                await self._encrypt()
            case "Lose", (ModelValue(process),):
                outside.flight[process] = None
            case _:
                raise CheckError(f"the replay has no counterpart of the step {step}")
        outside.server.arrivals.clear()

    async def repeat(self, step: Label) -> bool:
        """See the base class."""
        if step.action not in ("ReceiveSync", "IgnoreSync"):
            return False
        assert self._given is not None  # this step had an input
        if await self._receive(await self._device.another_machine(), self._given, 0):
            raise CheckError("a response comes again, but the machine takes it")
        return True

    def observe(self) -> State:
        """See the base class."""
        outside, peer = self.outside, self._read()
        token, backlog = outside.tokens[self._token()], self._backlog()
        inbound = self._device.records(INBOUND).get(ids.GroupSessionName(_ROOM, self._session_id))
        marks = self._device.records(OUTDATED)
        wedged = self._name in self._device.records(WANTED_SESSION)
        offered = _begins(self._device.records(ACCOUNT)[None], self._peer.curve25519, self._probe)
        place = self._next_place(peer) if peer.sessions else _Place(0, 0)
        return {
            "server": record(
                arrived=len(outside.contents), forgotten=len(outside.contents) - len(outside.server.waiting(_OWN))
            ),
            "flight": function({ModelValue(process): self._in_hand(held) for process, held in outside.flight.items()}),
            "store": record(
                token=token,
                account="offered" if offered else "spent",
                session=record(
                    open=bool(peer.sessions),
                    read=frozenset(map(self._number_of, peer.digests)),
                    chain=place.read,
                    index=place.sent,
                ),
                key=_NO_KEY if inbound is None else inbound.session.first_index,
                outdated=frozenset(change for change in self._changes if _user_id(change) in marks),
                unwedge=frozenset(outside.unreadable) if wedged else frozenset(),
                aside=frozenset(
                    self._number(cast("Json", each.event["content"]))
                    for each in self._device.records(PUT_ASIDE).values()
                ),
                backlog=tuple(range(token - len(backlog) + 1, token + 1)),
                effects=tuple(outside.effects.values()),
            ),
            "sent": tuple(map(tuple, outside.sent)),
        }

    def _begin_session(self) -> None:
        """Let the other device claim a key, and begin a session that this device does not know yet."""
        claim = {"one_time_keys": {_OWN.user: {_OWN.device: ids.ONE_TIME_KEY}}}
        status, response = self.outside.server.request(_PEER, "POST", f"{_ROOT}/keys/claim", claim)
        assert status == 200
        claimed = cast("dict[str, dict[str, dict[str, Json]]]", response["one_time_keys"])[_OWN.user][_OWN.device]
        ((_, key),) = claimed.items()
        session = account_of(_PEER).outbound_session(self._own.curve25519, str(key["key"]))
        self.outside.session = session.pickle()
        self._probe = session.encrypt(b"")

    def _send(self, number: int) -> None:
        """Let the next message arrive at the homeserver, with the change of a device list that belongs to it."""
        outside, (kind, key, of) = self.outside, self._stream[number - 1]
        event_type, content = "m.room.encrypted", Json()
        match kind:
            case "event":
                event_type, content = "org.example.event", {"number": number}
            case "prekey" | "olm" | "aside":
                content = self._encrypted(key)
            case "bad":
                content = self._peer.unreadable(self._own.curve25519)
            case _:
                content = outside.contents[of]
        outside.contents[number] = content
        messages: Json = {_OWN.user: {_OWN.device: content}}
        self._request(_PEER, "PUT", f"sendToDevice/{event_type}/{number}", {"messages": messages})
        if number in self._changes:
            changed = Device(_user_id(number), "NEW")
            outside.server.sign_in(changed)
            self._request(changed, "POST", "keys/upload", {"device_keys": signed_device_keys(changed)})

    def _encrypted(self, first_index: int) -> Json:
        """Return an encrypted message of the other device with a room key."""
        session = OlmSession.from_pickle(self.outside.session)
        sender = OwnDevice(ids.UserId(_PEER.user), ids.DeviceId(_PEER.device), signed_device_keys(_PEER))
        room_key: Json = {
            "algorithm": ids.MEGOLM,
            "room_id": _ROOM,
            "session_id": self._session_id,
            "session_key": self._session_keys[first_index],
        }
        content = olm.encrypt(Peer([session]), sender, self._own, "m.room_key", room_key)
        self.outside.session = session.pickle()
        return content

    def _answer(self, client: Client, position: SyncPosition) -> _Answered:
        """Let the homeserver answer a sync.

        Raises ``Impossible`` if there is nothing new: then the homeserver waits.
        """
        response = client.ask(position)
        batch = self._numbered(self._events(response), self._arrived())
        if not batch:
            raise Impossible("there is nothing new")
        self.outside.tokens[self._next_token(response)] = self._arrived()
        return _Answered(position, response, batch)

    async def _receive(self, machine: OlmMachine, held: _Answered, count: int) -> bool:
        """Let the machine take a response, and apply ``count`` messages in its commit. Return whether it was taken."""
        before, at_once = self._token(), count == len(held.batch)
        receive, work_off = inbox.receive, inbox.work_off

        async def receive_and_work_off(
            transaction: Transaction, changes: SyncChanges, asked_with: SyncPosition, now_ms: int
        ) -> tuple[SyncOutcome, bool]:
            outcome, left = await receive(transaction, changes, asked_with, now_ms)
            for _ in range(0 if at_once else count):
                outcome.add(await work_off(transaction, now_ms) or SyncOutcome())
            return outcome, left

        with substituted(
            [
                (inbox, "EVENTS_IN_A_COMMIT", len(held.batch) if at_once else self._in_a_record),
                (inbox, "receive", receive_and_work_off),
                (inbox, "work_off", _commits_of(work_off)),
            ]
        ):
            outcome = await machine.receive_sync_changes(held.response, held.position)
        self._note(outcome, held.batch)
        if self._sliding:  # the machine may have taken another part of the response
            return bool(outcome.events) or self._token() != before
        return outcome.applied

    async def _work_off(self, count: int) -> None:
        """Work off so many recorded messages in one commit. A message that was put aside fails again."""
        machine, recorded = await self._device.another_machine(), self._device.records(BACKLOG)
        records, first = -(-count // self._in_a_record), self._backlog()[:count]
        with substituted([(inbox, "work_off", _commits_of(inbox.work_off, records))]):
            self._note(await machine.work_off_backlog(), first)
        if not recorded:
            raise Impossible("nothing is recorded")

    async def _try_again(self) -> None:
        """Let a corrected program try the messages again that were put aside."""
        machine, self._is_faulty = await self._device.another_machine(), False
        with substituted([(inbox, "work_off", _commits_of(inbox.work_off))]):
            outcome = await machine.work_off_backlog()
        self._is_faulty = True
        if not outcome.applied:
            raise Impossible("nothing was put aside")
        self._note(outcome, sorted(self.outside.contents))

    async def _receive_room_key(self, transaction: Transaction, event: olm.OlmEvent) -> None:
        """Use a room key, or fail as the program of the model does."""
        faulty = [self._session_keys[message.key] for message in self._stream if message.kind == "aside"]
        if self._is_faulty and event.content["session_key"] in faulty:
            raise ZeroDivisionError
        await _receive_room_key(transaction, event)

    def _note(self, outcome: SyncOutcome, processed: Sequence[int]) -> None:
        """Note what the application was told of the messages that were processed, in this order."""
        contents = (self.outside.contents[number] for number in processed)
        for event in outcome.events:
            number = self._number(event.content)
            if event.type == _PUT_ASIDE:
                continue
            if event.content not in contents:  # which goes on behind the one before
                raise CheckError(f"the message {number} comes out of turn: {processed} were to be processed")
            if event.type == RepeatedMessage.code:
                continue
            if event.type == MessageUnreadable.code:
                self.outside.unreadable.add(number)
            elif event.type != _USED:
                raise CheckError(f"the message {number} was refused: {event.type}")
            self.outside.effects[number] += 1

    async def _encrypt(self) -> None:
        """Let this device send a room key, and let the other device read it. Each room key is of another room."""
        outside, rows, before = self.outside, self._device.rows(), self._device.records(OUTBOX)
        machine, read = await self._device.another_machine(), self._read()
        await machine.share_room_key(_room_of(1 + len(outside.sent)), [_PEER.user])
        messages = [each for name, each in self._device.records(OUTBOX).items() if name not in before]
        if not messages:
            await self._device.restore(rows)
            raise Impossible("there is no session with the other device")
        content = messages[0].messages[ids.UserId(_PEER.user)][ids.DeviceId(_PEER.device)]
        message = _message_in(content, self._peer.curve25519)
        ratchet = self._ratchet(read, message)
        if ratchet not in outside.places:
            outside.places[ratchet] = self._place_after(read)
            session, _ = OlmSession.from_pickle(outside.session).decrypt(message)
            outside.session = session.pickle()
        outside.sent.append(outside.places[ratchet])

    def _next_place(self, peer: Peer) -> _Place:
        """Return the position of the next message to be sent."""
        ratchet = self._ratchet(peer, _next_message(peer.sessions[0]))
        return self.outside.places.get(ratchet) or self._place_after(peer)

    def _place_after(self, peer: Peer) -> _Place:
        """Return the model's next position that was not used yet."""
        read = len(peer.digests)
        return _Place(read, sum(place.read == read for place in self.outside.sent))

    def _ratchet(self, peer: Peer, message: OlmMessage) -> _Ratchet:
        """Return the real position of a message of this device."""
        last = self.outside.contents[self._number_of(peer.digests[-1])]
        answers, _ = _place_on_the_wire(_message_in(last, self._own.curve25519))
        _, steps = _place_on_the_wire(message)
        return _Ratchet(answers, steps)

    def _read(self) -> Peer:
        return self._device.records(PEER).get(self._name, Peer())

    @property
    def _name(self) -> ids.PeerName:
        return ids.PeerName(ids.UserId(_PEER.user), self._peer.curve25519)

    def _token(self) -> str:
        return self._device.records(SYNC)[TO_DEVICE if self._sliding else f"classic:{_CONNECTION}"]

    def _events(self, response: Json) -> list[Json]:
        to_device = cast("Json", response["extensions"])["to_device"] if self._sliding else response["to_device"]
        return cast("dict[str, list[Json]]", to_device)["events"]

    def _next_token(self, response: Json) -> str:
        part = cast("dict[str, Json]", response["extensions"])["to_device"] if self._sliding else response
        return str(part["next_batch"])

    def _backlog(self) -> tuple[int, ...]:
        """Return the recorded messages. The token points to the last of them."""
        parts = sorted(self._device.records(UNPROCESSED).items())
        last = self.outside.tokens[self._token()]
        return self._numbered([event for _, events in parts for event in events], last)

    def _numbered(self, events: Sequence[Json], last: int) -> tuple[int, ...]:
        """Return the numbers of messages. ``last`` is the number of the newest."""
        numbers = tuple(range(last - len(events) + 1, last + 1))
        if [event["content"] for event in events] != [self.outside.contents[number] for number in numbers]:
            raise CheckError(f"these messages are not the messages {numbers} in this order")
        return numbers

    def _arrived(self) -> int:
        return len(self.outside.contents)

    def _number(self, content: Json) -> int:
        """Return the number of the first message with a content."""
        return next(number for number, each in self.outside.contents.items() if each == content)

    def _number_of(self, digest: bytes) -> int:
        """Return the number of the first message with a digest."""
        return next(
            number
            for number, content in self.outside.contents.items()
            if "ciphertext" in content and _message_in(content, self._own.curve25519).digest() == digest
        )

    def _held(self, process: str, kind: type[Held]) -> Held:
        held = self.outside.flight[process]
        if not isinstance(held, kind):
            raise Impossible(f"{process} does not hold a {kind.__name__}")
        return held

    def _in_hand(self, held: _Held | None) -> Value:
        if held is None:
            return _NOTHING
        since = self.outside.tokens[str(held.position.to_device_token)]
        if isinstance(held, _Asked):
            return record(stage="asked", since=since)
        until = self.outside.tokens[self._next_token(held.response)]
        return record(stage="answered", since=since, until=until, batch=held.batch)

    def _request(self, device: Device, method: str, path: str, body: Json | None = None) -> Json:
        status, response = self.outside.server.request(device, method, f"{_ROOT}/{path}", body)
        assert status == 200
        return response


WorkOff: TypeAlias = "Callable[[Transaction, int], Awaitable[SyncOutcome | None]]"


def _commits_of(work_off: WorkOff, *counts: int) -> WorkOff:
    """Return a function that works off so many parts in each commit, and then nothing: the process is killed."""
    left = list(counts)

    async def commit(transaction: Transaction, now_ms: int) -> SyncOutcome | None:
        total = SyncOutcome()
        for _ in range(left.pop(0) if left else 0):
            total.add(await work_off(transaction, now_ms) or SyncOutcome())
        return total if total.applied else None

    return commit


def _user_id(number: int) -> str:
    """Return the user whose device list changes with a message."""
    return f"@u{number}:example.org"


def _room_of(number: int) -> ids.RoomId:
    """Return the room whose key is in the device's message with this number."""
    return ids.RoomId(f"!{number}:example.org")


def _answered(state: State, until: Value) -> dict[Value, Function]:
    """Return the responses that processes hold and that end at a token."""
    flight = function_of(state["flight"])
    held = {
        process: function_of(flight[process]) for process in sorted(flight, key=name_of) if flight[process] != _NOTHING
    }
    return {process: each for process, each in held.items() if each["stage"] == "answered" and each["until"] == until}


def _batch(answered: Function) -> tuple[Value, ...]:
    return cast("tuple[Value, ...]", answered["batch"])


def _message_in(content: Json, recipient: ids.Curve25519Key) -> OlmMessage:
    message = cast("dict[str, Json]", content["ciphertext"])[recipient]
    return OlmMessage(cast("int", message["type"]), str(message["body"]))


@lru_cache(maxsize=10_000)
def _place_on_the_wire(message: OlmMessage) -> tuple[bytes, int]:
    """Return the ratchet key and the index of a message."""
    body = message_keys.decode(message.body)
    return message_keys.olm_position(message_keys.inner_message(body) if message.type == 0 else body)


@lru_cache(maxsize=10_000)
def _next_message(session: OlmSession) -> OlmMessage:
    """Return the next message over a session, without changing the session."""
    return OlmSession.from_pickle(session.pickle()).encrypt(b"")


@lru_cache(maxsize=10_000)
def _begins(account: Account, sender_key: ids.Curve25519Key, message: OlmMessage) -> bool:
    """Return whether an account still has the one-time key of a pre-key message."""
    try:
        Account.from_pickle(account.pickle()).inbound_session(sender_key, message)
    except MessageUnreadable:
        return False
    return True
