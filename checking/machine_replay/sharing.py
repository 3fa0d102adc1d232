"""Replay the module Sharing on real machines: a room key, the devices that it is shared with, and messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, NamedTuple, Self, TypeAlias, cast

import msgspec

from checking.errors import CheckError
from checking.machine_replay import sharing_faults
from checking.machine_replay.client import Client, text_message
from checking.machine_replay.counterpart import Counterpart, Impossible, Property
from checking.machine_replay.homeserver import Device, Homeserver, Json
from checking.machine_replay.peer_device import PeerDevice
from checking.machine_replay.shared_device import SharedDevice
from checking.replay.doubles import ManualClock
from checking.replay.model_states import changed_arguments, entry, function_of, name_of
from checking.replay.substitutions import Substitution
from checking.tlc.values import Label, ModelValue, State, Value, function, record, render_value
from unwedged.machine import OlmMachine, RoomKeyNotShared, ToDevice
from unwedged.machine import Sharing as SharedWithMembers
from unwedged.machine import identifiers as ids
from unwedged.machine.ratchets import InboundGroup, index_of
from unwedged.machine.records import OUTBOUND, OUTBOX, SHARED_KEY
from unwedged.machine.sharing import NOT_SENT

_OWN: Final = Device("@alice:example.org", "PHONE")
_ROOM: Final = ids.RoomId("!room:example.org")
_OTHER_ROOM: Final = ids.RoomId("!other:example.org")
_NOTHING: Final = ModelValue("Nothing")
_DEVICES: Final = ("d1", "d2", "d3")
_LEAVES: Final = (frozenset({"d1", "d2"}), frozenset({"d1"}), frozenset({"d1", "d2"}))
"""``LeavesAndReturns`` of the module MCSharing, which begins like ``Leaves``."""
_COMES: Final = (frozenset({"d1", "d2"}), frozenset({"d1", "d2", "d3"}), frozenset({"d2", "d3"}))
"""``ComesAndLeaves``."""
_MEMBERSHIPS: Final = {"p": _LEAVES, "q": _COMES, "r": _COMES}
"""The members after each change, by the first letter of the names of the processes."""
_Messages: TypeAlias = "Mapping[ids.UserId, Mapping[ids.DeviceId, Json]]"

_MESSAGES: Final = {"p": 2, "q": 2, "r": 0}
"""The bound of messages, likewise. Where the model has fewer, only its bound forbids more."""


class _InHand(NamedTuple):
    """A request that a process holds, and the response, if there is one yet."""

    request: ToDevice
    response: Json | None = None


@dataclass
class _Outside:
    """The homeserver, what the processes know and hold, and the names of things in the model."""

    server: Homeserver
    knows: dict[str, int]
    flight: dict[str, _InHand | None]
    shared: dict[frozenset[str], SharedWithMembers] = field(default_factory=dict)
    """The result of the last sharing with these members, in any process."""
    messages: list[tuple[Json, frozenset[str]]] = field(default_factory=list)
    """The encrypted messages, each with the members that it is for."""
    numbers: dict[str, int] = field(default_factory=dict)
    """The numbers of the group sessions, by their IDs."""


def _no_ratchet_reuse(_: State, now: State) -> str | None:
    used: set[tuple[Value, Value]] = set()
    for message in _messages(now):
        place = message["session"], message["index"]
        if place in used:
            return f"the message {place[1]} of the session {place[0]} was encrypted twice"
        used.add(place)
    return None


def _nothing_lost(_: State, now: State) -> str | None:
    given, session = _given(now), entry(now, "store")["session"]
    if session == _NOTHING:
        if given:
            return "a room key was shared, but no session is stored"
    else:
        number = cast("int", function_of(session)["number"])
        for device, index in _shared(now).items():
            if record(to=device, session=number, **{"from": index}) not in given:
                return f"{name_of(device)} counts as having the key of the session {number}, but never gets it"
        if any(cast("int", function_of(key)["session"]) > number for key in given):
            return "a room key was shared, but its session is not stored"
    for message in _messages(now):
        for device in cast("frozenset[Value]", message["to"]):
            if not _reads(given, device, message):
                return f"{name_of(device)} can't read a message that is for it"
    return None


def _left_cant_read(_: State, now: State) -> str | None:
    given = _given(now)
    for message in _messages(now):
        for device in set(map(ModelValue, _DEVICES)) - cast("frozenset[Value]", message["to"]):
            if _reads(given, device, message):
                return f"{name_of(device)} can read a message that is not for it"
    return None


class Sharing(Counterpart):
    """A process learns the members of the room as a parameter. A device has a room key if it can decrypt it."""

    properties: ClassVar[Mapping[str, Property]] = {
        "NoRatchetReuse": _no_ratchet_reuse,
        "NothingLost": _nothing_lost,
        "LeftCantRead": _left_cant_read,
    }
    faults: ClassVar[Mapping[str, Callable[[], Sequence[Substitution]]]] = sharing_faults.FAULTS

    outside: _Outside

    def __init__(self, device: SharedDevice, outside: _Outside, peers: Mapping[str, PeerDevice]) -> None:
        """Use ``open`` instead."""
        self.devices = (device,)
        self.outside = outside
        self._device = device
        self._peers = peers
        self._keys: dict[bytes, tuple[str, int]] = {}
        """The session and the first message of each decrypted room key, by its ciphertext."""
        self._given: _InHand | None = None
        """The last input of the machine."""

    @classmethod
    async def open(cls, folder: Path, initial: State) -> Self:
        """See the base class. All keys are published, and there is an Olm session with each device."""
        processes = sorted(map(name_of, function_of(initial["flight"])))
        server = Homeserver()
        server.sign_in(_OWN)
        peers = {name: PeerDevice(Device(_user_id(name), name)) for name in _DEVICES}
        for peer in peers.values():
            peer.sign_in(server)
        own = ids.Device(ids.UserId(_OWN.user), ids.DeviceId(_OWN.device))
        device = await SharedDevice.open(folder / "device.store", own, processes, ManualClock())
        made = cls(device, _Outside(server, dict.fromkeys(processes, 1), dict.fromkeys(processes)), peers)
        machine = await device.machine(processes[0])
        await machine.set_room_encryption(_ROOM, {"algorithm": ids.MEGOLM})
        client = Client(server, machine)
        await client.send_all()
        await machine.track_users(map(_user_id, _DEVICES))
        await client.send_all()
        await machine.set_room_encryption(_OTHER_ROOM, {"algorithm": ids.MEGOLM})
        await client.share(_OTHER_ROOM, map(_user_id, _DEVICES))
        for peer in peers.values():
            peer.acknowledge(server)
        server.arrivals.clear()
        return made

    @staticmethod
    def steps(action: str, before: State, after: State) -> list[Label]:
        """See the base class. The keys that are sent, and the devices that are given a key, are parameters here."""
        processes = sorted(function_of(before["knows"]), key=name_of)
        match action:
            case "LearnMembers":
                return [Label(action, (process,)) for process in changed_arguments(before["knows"], after["knows"])]
            case "Rotate":
                return [Label(action, (process,)) for process in processes]
            case "ShareRoomKey":
                keys = _unsent(after) - _unsent(before)
                given = frozenset(function_of(key)["to"] for key in keys)
                given = given or frozenset(set(_shared(after)) - set(_shared(before)))
                names = set(map(name_of, given))
                knowing = (process for process in processes if names <= _members(before, process))
                return [Label(action, (process, given)) for process in knowing]
            case "Encrypt":
                to = frozenset(map(name_of, cast("frozenset[Value]", _messages(after)[-1]["to"])))
                return [Label(action, (process,)) for process in processes if _members(before, process) == to]
        (process,) = changed_arguments(before["flight"], after["flight"])
        if action in ("OutgoingRequest", "Next"):  # TLC labels a step "Next" if a parameter of its action is a record
            return [Label("OutgoingRequest", (process, entry(after["flight"], process)["keys"]))]
        return [Label(action, (process,))]

    def choices(self) -> Sequence[Label]:
        """See the base class. The machine decides whether it sends a message again, and whether it may encrypt one."""
        outside = self.outside
        idle = [ModelValue(process) for process, held in outside.flight.items() if held is None]
        done = frozenset(self._arrived()).difference(*self._outbox())
        choices = [Label("OutgoingRequest", (process, frozenset({key}))) for process in idle for key in done]
        processes = (process for process in outside.knows if len(outside.messages) < _MESSAGES[process[0]])
        return choices + [Label("Encrypt", (ModelValue(process),)) for process in processes]

    async def take(self, step: Label) -> None:
        """See the base class."""
        match step.action, step.parameters:
            case "LearnMembers", [process]:
                self.outside.knows[name_of(process)] += 1
            case "Rotate", [process]:
                await self._rotate(name_of(process))
            case "ShareRoomKey", [process, given]:
                names = map(name_of, cast("frozenset[Value]", given))
                await self._share(name_of(process), self._shared().keys() | set(names))
            case "Encrypt", [process]:
                await self._encrypt(name_of(process))
            case "SaveIndex", _:
                raise Impossible("the machine stores the index before the message is sent")
            case "OutgoingRequest", [process, keys]:
                request = await self._outgoing(name_of(process), cast("frozenset[Value]", keys))
                self.outside.flight[name_of(process)] = _InHand(request)
            case "Deliver", [process]:
                held = self._in_hand(process)
                client = Client(self.outside.server, await self._device.machine(name_of(process)))
                response = client.call(held.request.method, held.request.path, held.request.body)
                self.outside.flight[name_of(process)] = held._replace(response=response)
            case "MarkSent", [process]:
                held = self._in_hand(process)
                await _give(await self._device.machine(name_of(process)), held)
                self.outside.flight[name_of(process)], self._given = None, held
            case "Lose", [process]:
                self.outside.flight[name_of(process)] = None
            case _:
                raise CheckError(f"the replay has no counterpart of the step {step}")
        shared = self._device.records(SHARED_KEY).get(_ROOM)
        if shared is not None:
            self.outside.numbers.setdefault(shared.session_id, len(self.outside.numbers) + 1)
        self.outside.server.arrivals.clear()

    async def repeat(self, step: Label) -> bool:
        """See the base class."""
        if step.action != "MarkSent":
            return False
        assert self._given is not None  # this step had an input
        await _give(await self._device.another_machine(), self._given)
        return True

    def observe(self) -> State:
        """See the base class."""
        outside = self.outside
        outbound = self._device.records(OUTBOUND).get(_ROOM)
        session: Value = _NOTHING
        if outbound is not None:
            session = record(
                number=outside.numbers[outbound.session.session_id],
                index=outbound.session.index,
                shared=function({ModelValue(name): index for name, index in self._shared().items()}),
            )
        return {
            "knows": function({ModelValue(process): number for process, number in outside.knows.items()}),
            "store": record(
                session=session,
                outbox=frozenset(self._outbox()),
            ),
            "flight": function({ModelValue(process): self._flight(held) for process, held in outside.flight.items()}),
            "arrived": frozenset(self._arrived()),
            "messages": tuple(
                record(
                    session=outside.numbers[cast("str", content["session_id"])],
                    index=index_of(cast("str", content["ciphertext"])),
                    to=frozenset(map(ModelValue, members)),
                )
                for content, members in outside.messages
            ),
        }

    async def _rotate(self, process: str) -> None:
        """Replace the room key: tell the machine that all members have left.

        If no device has the key yet, the machine would keep it, so the application discards it. Another step shares the
        new key with the members.
        """
        machine = await self._device.machine(process)
        if not self._shared():
            await machine.discard_room_key(_ROOM)
        await self._share(process, frozenset())

    async def _share(self, process: str, members: Iterable[str]) -> None:
        machine, members = await self._device.machine(process), frozenset(members)
        self.outside.shared[members] = await machine.share_room_key(_ROOM, map(_user_id, members))

    async def _encrypt(self, process: str) -> None:
        """Encrypt for all members that a process knows.

        If that fails, share the key and try again, as an application does.

        Raises ``Impossible`` if sharing changes anything: then other steps of the model must come first.
        """
        members = _memberships(process)[self.outside.knows[process] - 1]
        if members in self.outside.shared and await self._encrypted(process, members):
            return
        rows, shared, before = self._device.rows(), dict(self.outside.shared), self._whose()
        await self._share(process, members)
        if self._whose() != before or not await self._encrypted(process, members):
            await self._device.restore(rows)
            self.outside.shared = shared
            raise Impossible(f"the key is not shared with exactly the members that {process} knows")

    async def _encrypted(self, process: str, members: frozenset[str]) -> bool:
        """Encrypt with the key that was last shared with some members. Return whether the machine did so."""
        machine, shared = await self._device.machine(process), self.outside.shared[members]
        try:
            content = await machine.encrypt_room_event(_ROOM, shared, "m.room.message", text_message("hello"))
        except RoomKeyNotShared:
            return False
        self.outside.messages.append((content, members))
        return True

    async def _outgoing(self, process: str, keys: frozenset[Value]) -> ToDevice:
        machine = await self._device.machine(process)
        for request in await machine.outgoing_requests():
            if not isinstance(request, ToDevice):
                raise CheckError(f"{process} has an unexpected request: {request}")
            if keys <= self._keys_of(request.messages):
                return request
        raise Impossible(f"{process} does not send {', '.join(map(render_value, keys))}")

    def _in_hand(self, process: Value) -> _InHand:
        held = self.outside.flight[name_of(process)]
        if held is None:
            raise Impossible(f"{name_of(process)} holds no request")
        return held

    def _whose(self) -> tuple[str | None, dict[str, int]]:
        """Return the current session, and the first message that each user's device can read."""
        outbound = self._device.records(OUTBOUND).get(_ROOM)
        return None if outbound is None else outbound.session.session_id, self._shared()

    def _shared(self) -> dict[str, int]:
        """Return the first message that each device can read in the current session."""
        shared = self._device.records(SHARED_KEY).get(_ROOM)
        if shared is None or _ROOM not in self._device.records(OUTBOUND):
            return {}
        return {_name(key.user_id): of.index for key, of in shared.devices.items() if of.generation != NOT_SENT}

    def _flight(self, held: _InHand | None) -> Value:
        if held is None:
            return _NOTHING
        stage = "request" if held.response is None else "answered"
        return record(stage=stage, keys=self._keys_of(held.request.messages))

    def _outbox(self) -> list[frozenset[Value]]:
        """Return the room keys of each request in the outbox."""
        return [self._keys_of(outgoing.messages) for outgoing in self._device.records(OUTBOX).values()]

    def _keys_of(self, messages: _Messages) -> frozenset[Value]:
        """Return the room keys of a request."""
        return frozenset(self._key(device, content) for device, content in _contents(messages))

    def _arrived(self) -> list[Value]:
        """Return the room keys that have arrived at the homeserver."""
        arrived = [
            self._key(name, content)
            for name, peer in self._peers.items()
            for content in peer.contents(self.outside.server)
        ]
        if len(set(arrived)) < len(arrived):
            raise CheckError("a key has arrived twice")
        return arrived

    def _key(self, device: str, content: Json) -> Value:
        """Return the room key in the model, from a message that a device decrypts."""
        encrypted = msgspec.json.encode(content)
        if encrypted not in self._keys:
            key = self._peers[device].decrypted(content)
            session = InboundGroup.from_session_key(cast("str", key["session_key"]))
            self._keys[encrypted] = session.session_id, session.first_index
        session_id, index = self._keys[encrypted]
        return record(to=ModelValue(device), session=self.outside.numbers[session_id], **{"from": index})


async def _give(machine: OlmMachine, held: _InHand) -> None:
    assert held.response is not None  # the model takes this step only after the answer
    await machine.mark_sent(held.request, held.response)


def _contents(messages: _Messages) -> Iterator[tuple[str, Json]]:
    for user, contents in messages.items():
        for content in contents.values():
            yield _name(user), content


def _user_id(name: str) -> str:
    return f"@{name}:example.org"


def _name(user_id: str) -> str:
    return user_id[1:].partition(":")[0]


def _members(state: State, process: Value) -> frozenset[str]:
    return _memberships(name_of(process))[cast("int", function_of(state["knows"])[process]) - 1]


def _memberships(process: str) -> Sequence[frozenset[str]]:
    return _MEMBERSHIPS[process[0]]


def _shared(state: State) -> Mapping[Value, Value]:
    """Return the first message that each device can read in the current session."""
    session = entry(state, "store")["session"]
    shared = () if session == _NOTHING else function_of(session)["shared"]
    return function_of(shared) if shared else {}  # TLC prints an empty function as a sequence


def _messages(state: State) -> tuple[Mapping[Value, Value], ...]:
    return cast("tuple[Mapping[Value, Value], ...]", state["messages"])


def _given(state: State) -> frozenset[Value]:
    """Return the room keys that devices have, or will receive."""
    return cast("frozenset[Value]", state["arrived"]) | _unsent(state)


def _unsent(state: State) -> frozenset[Value]:
    """Return the room keys in the outbox."""
    return frozenset[Value]().union(*cast("frozenset[frozenset[Value]]", entry(state, "store")["outbox"]))


def _reads(given: frozenset[Value], device: Value, message: Mapping[Value, Value]) -> bool:
    return any(
        key["to"] == device
        and key["session"] == message["session"]
        and cast("int", key["from"]) <= cast("int", message["index"])
        for key in map(function_of, given)
    )
