"""Replay the module Sessions on real machines: an Olm session that breaks, and the claim that replaces it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, NamedTuple, Self, cast

import msgspec

from checking.errors import CheckError
from checking.machine_replay import sessions_faults
from checking.machine_replay.client import Client
from checking.machine_replay.counterpart import Counterpart, Impossible, Property, Wanted
from checking.machine_replay.homeserver import Device, Homeserver, Json
from checking.machine_replay.peer_device import PeerDevice
from checking.machine_replay.shared_device import SharedDevice
from checking.replay.doubles import ManualClock
from checking.replay.model_states import changed_arguments, entry, function_of, name_of
from checking.replay.substitutions import Substitution, substituted
from checking.tlc.values import Label, ModelValue, State, Value, function, record
from unwedged.machine import KeysClaim, OlmMachine, SyncPosition, ToDevice, olm
from unwedged.machine import identifiers as ids
from unwedged.machine.records import (
    OUTBOX,
    OWN_DEVICE,
    PEER,
    SHARED_KEY,
    WANTED_SESSION,
    KnownDevice,
    OutgoingToDevice,
    Peer,
)
from unwedged.store import Transaction

_OWN: Final = Device("@alice:example.org", "PHONE")
_PEER: Final = Device("@bob:example.org", "LAPTOP")
_ROOM: Final = ids.RoomId("!room:example.org")
_OTHER_ROOM: Final = ids.RoomId("!other:example.org")
_ENCRYPTION: Final = {"algorithm": ids.MEGOLM, "rotation_period_ms": 1_000_000_000_000}
"""A rotation period so long that no room key is replaced when hours pass."""
_CONNECTION: Final = "main"
_NOTHING: Final = ModelValue("Nothing")


class _Message(NamedTuple):
    """A message to the other device."""

    type: str
    generation: int
    key: int
    """The number of the room key in it, or 0 if it has none."""

    @property
    def value(self) -> Value:
        """The message in the model."""
        return record(type=self.type, generation=self.generation, key=self.key)


@dataclass(frozen=True)
class _Claim:
    """A claim that a process holds, and the response, if there is one yet."""

    request: KeysClaim
    mark: int
    """The mark that the claim was handed out for."""
    response: Json | None = None


@dataclass(frozen=True)
class _Send:
    """A message that a process holds, and the homeserver's response, if there is one yet."""

    request: ToDevice
    response: Json | None = None


@dataclass(frozen=True)
class _Sync:
    position: SyncPosition
    response: Json


@dataclass
class _Outside:
    """The homeserver, the other device, what the processes hold, and the names of things in the model."""

    server: Homeserver
    time_ms: int
    flight: dict[str, _Claim | _Send | None]
    generations: dict[str, int] = field(default_factory=dict)
    """The generation of each Olm session, by its ID."""
    marks: int = 0
    """How many marks there were."""
    claims: int = 0
    """How many claims were handed out in this hour."""
    generation: int = 1
    """The generation of the session over which the other device sends."""
    broken: set[int] = field(default_factory=set)
    shared: int = 0
    """The generation of the session over which the room key was sent last."""
    keys: dict[str, int] = field(default_factory=dict)
    """The numbers of the room keys, by their session IDs."""
    room_keys: set[int] = field(default_factory=set)
    """The room keys that the other device has received."""
    unread: dict[int, Json] = field(default_factory=dict)
    """The contents of the other device's messages, by their numbers."""
    sent: int = 0
    done: set[_Message] = field(default_factory=set)
    """The claims that were answered."""


def _keys_bounded(_: State, now: State) -> str | None:
    claims = cast("int", now["claims"])
    return f"{claims} keys were claimed in an hour" if claims > 1 else None


def _exactly_once(_: State, now: State) -> str | None:
    store = entry(now, "store")
    generation, marks = cast("int", store["generation"]), cast("int", store["marks"])
    return f"{marks} marks were settled by {generation - 1} new sessions" if generation > 1 + marks else None


def _everything_arrived(now: State) -> bool:
    peer = entry(now, "peer")
    all_keys = frozenset(range(1, cast("int", entry(now, "store")["key"]) + 1))
    return peer["roomKeys"] == all_keys and peer["generation"] not in cast("frozenset[Value]", peer["broken"])


class Sessions(Counterpart):
    """The other device reads each message by its one-time key, unless the session is broken.

    A message that it sends over a broken session is a message of another session, which this device never had.
    """

    properties: ClassVar[Mapping[str, Property]] = {"KeysBounded": _keys_bounded, "ExactlyOnce": _exactly_once}
    wanted: ClassVar[Mapping[str, Wanted]] = {"EverythingArrives": _everything_arrived}
    faults: ClassVar[Mapping[str, Callable[[], Sequence[Substitution]]]] = sessions_faults.FAULTS

    outside: _Outside

    def __init__(self, device: SharedDevice, clock: ManualClock, outside: _Outside, peer: PeerDevice) -> None:
        """Use ``open`` instead."""
        self.devices = (device,)
        self.outside = outside
        self._device = device
        self._clock = clock
        self._peer = peer
        self._messages: dict[bytes, _Message] = {}
        """The decrypted messages, by their ciphertexts."""
        self._given: _Claim | _Send | _Sync | None = None
        """The last input of the machine."""

    @classmethod
    async def open(cls, folder: Path, initial: State) -> Self:
        """See the base class. There is an Olm session with the other device already."""
        processes = sorted(map(name_of, function_of(initial["flight"])))
        server, peer, clock = Homeserver(), PeerDevice(_PEER), ManualClock()
        server.sign_in(_OWN)
        peer.sign_in(server)
        own = ids.Device(ids.UserId(_OWN.user), ids.DeviceId(_OWN.device))
        device = await SharedDevice.open(folder / "device.store", own, processes, clock)
        made = cls(device, clock, _Outside(server, clock.now(), dict.fromkeys(processes)), peer)
        machine = await device.machine(processes[0])
        for room in (_ROOM, _OTHER_ROOM):
            await machine.set_room_encryption(room, _ENCRYPTION)
        client = Client(server, machine)
        await client.send_all()
        await machine.track_users([_PEER.user])
        await client.sync(_CONNECTION, sliding=True)
        await client.send_all()
        await client.share(_OTHER_ROOM, [_PEER.user])
        made._number_sessions()
        return made

    @staticmethod
    def steps(action: str, before: State, after: State) -> list[Label]:
        """See the base class. The message that is received or sent is a parameter here."""
        processes = sorted(function_of(before["flight"]), key=name_of)
        match action:
            case "Break" | "PeerSends" | "HourPasses":
                return [Label(action)]
            case "ReceiveSync":
                was, now = (cast("frozenset[Value]", entry(state, "server")["unread"]) for state in (before, after))
                (received,) = was - now
                marking = changed_arguments(before["flight"], after["flight"])  # only in wedged-mark-in-memory
                return [Label(action, (process, received)) for process in marking or processes]
            case "ShareRoomKey" | "ReplaceRoomKey":
                return [Label(action, (process,)) for process in processes]
        changed = changed_arguments(before["flight"], after["flight"])
        if action == "HandOutClaim":
            changed = [process for process in changed if function_of(before["flight"])[process] == _NOTHING]
        (process,) = changed
        if action in ("OutgoingRequest", "Next"):  # TLC labels a step "Next" if a parameter of its action is a record
            return [Label("OutgoingRequest", (process, entry(after["flight"], process)["message"]))]
        return [Label(action, (process,))]

    def choices(self) -> Sequence[Label]:
        """See the base class.

        The machine decides whether it claims a key, shares a room key, or sends a message again.
        """
        outside = self.outside
        idle = [ModelValue(process) for process, held in outside.flight.items() if held is None]
        done = outside.done - self._outbox()
        return [
            *(Label("HandOutClaim", (process,)) for process in idle),
            *(Label("OutgoingRequest", (process, message.value)) for process in idle for message in done),
            *(Label("ShareRoomKey", (ModelValue(process),)) for process in outside.flight),
        ]

    def all_choices(self) -> Sequence[Label]:
        """See the base class. The messages of the outbox are added."""
        idle = [ModelValue(process) for process, held in self.outside.flight.items() if held is None]
        waiting = [Label("OutgoingRequest", (process, message.value)) for process in idle for message in self._outbox()]
        return [*self.choices(), *waiting]

    async def take(self, step: Label) -> None:
        """See the base class."""
        outside = self.outside
        self._clock.time_ms = outside.time_ms
        marked = self._is_marked()
        match step.action, step.parameters:
            case "Break", ():
                outside.broken.add(outside.generation)
                self._send_unreadable()
            case "PeerSends", ():
                self._send_unreadable()
            case "ReceiveSync", (ModelValue(process), message):
                await self._receive(process, cast("int", message))
            case "HandOutClaim", (ModelValue(process),):
                await self._hand_out(process)
            case "AnswerClaim", (ModelValue(process),):
                self._peer.publish(outside.server)  # the other device never runs out of one-time keys
                outside.flight[process] = await self._answered(process)
            case (("TakeClaimAnswer" | "IgnoreClaim" | "MarkSent"), (ModelValue(process),)):
                held = self._held(process)
                await _give(await self._device.machine(process), held)
                outside.flight[process], self._given = None, held
                if isinstance(held, _Send):
                    outside.done.add(self._message_in(held.request))
            case "ShareRoomKey", (ModelValue(process),):
                await self._share(process)
            case "ReplaceRoomKey", (ModelValue(process),):
                await (await self._device.machine(process)).discard_room_key(_ROOM)
                await self._share(process)
            case "OutgoingRequest", (ModelValue(process), message):
                outside.flight[process] = await self._outgoing(process, message)
            case "Deliver", (ModelValue(process),):
                outside.flight[process] = await self._answered(process)
                self._deliver(self._message_in(cast("_Send", self._held(process)).request))
            case "HourPasses", ():
                outside.time_ms += olm.UNWEDGED_EVERY_MS
                outside.claims = 0
            case "Lose", (ModelValue(process),):
                if outside.flight[process] is None:
                    await self._device.reopen(process)  # the memory of the process is lost
                outside.flight[process] = None
            case _:
                raise CheckError(f"the replay has no counterpart of the step {step}")
        self._number_sessions()
        outside.marks += self._is_marked() and not marked
        outside.server.arrivals.clear()

    async def repeat(self, step: Label) -> bool:
        """See the base class."""
        if step.action not in ("ReceiveSync", "TakeClaimAnswer", "IgnoreClaim", "MarkSent"):
            return False
        assert self._given is not None  # this step had an input
        await _give(await self._device.another_machine(), self._given)
        return True

    def observe(self) -> State:
        """See the base class."""
        outside, peer = self.outside, self._sessions()
        shared = self._device.records(SHARED_KEY).get(_ROOM)
        given = None if shared is None else shared.devices.get(self._name)
        counts = given is not None and given.generation == peer.generation
        generation = outside.generations[peer.sessions[0].session_id]
        tried = peer.unwedged_ms > 0 and outside.time_ms - peer.unwedged_ms < olm.UNWEDGED_EVERY_MS
        return {
            "peer": record(
                generation=outside.generation, broken=frozenset(outside.broken), roomKeys=frozenset(outside.room_keys)
            ),
            "server": record(unread=frozenset(outside.unread), sent=outside.sent),
            "store": record(
                generation=generation,
                key=1 if shared is None else shared.number + 1,
                shared=outside.shared if counts else 0,
                unwedge=outside.marks if self._is_marked() else 0,
                marks=outside.marks,
                triedLately=tried,
                outbox=frozenset(message.value for message in self._outbox()),
            ),
            "flight": function({ModelValue(process): self._flight(held) for process, held in outside.flight.items()}),
            "claims": outside.claims,
        }

    def _send_unreadable(self) -> None:
        own = KnownDevice(self._device.records(OWN_DEVICE)[None].keys)
        self.outside.sent += 1
        self.outside.unread[self.outside.sent] = self._peer.unreadable(own.curve25519)

    async def _receive(self, process: str, number: int) -> None:
        machine = await self._device.machine(process)
        position = await machine.sync_position(_CONNECTION, sliding=True)
        content = self.outside.unread.pop(number)
        event = {"type": "m.room.encrypted", "sender": _PEER.user, "content": content}
        to_device: Json = {"next_batch": f"{position.to_device_token}+", "events": [event]}
        self._given = _Sync(position, {"pos": f"{position.token}+", "extensions": {"to_device": to_device}})
        await _give(machine, self._given)

    async def _hand_out(self, process: str) -> None:
        requests = await (await self._device.machine(process)).outgoing_requests()
        claims = [request for request in requests if isinstance(request, KeysClaim)]
        if not claims:
            raise Impossible(f"{process} gets no claim")
        (claim,) = claims
        self.outside.flight[process] = _Claim(claim, self.outside.marks)
        self.outside.claims += 1

    async def _answered(self, process: str) -> _Claim | _Send:
        held = self._held(process)
        client = Client(self.outside.server, await self._device.machine(process))
        response = client.call(held.request.method, held.request.path, held.request.body)
        if isinstance(held, _Claim):
            return _Claim(held.request, held.mark, response)
        return _Send(held.request, response)

    async def _share(self, process: str) -> None:
        machine, rows, before = await self._device.machine(process), self._device.rows(), self._outbox()
        await machine.share_room_key(_ROOM, [_PEER.user])
        shared = self._device.records(SHARED_KEY)[_ROOM]
        self.outside.keys[shared.session_id] = shared.number + 1
        if self._outbox() == before:
            await self._device.restore(rows)
            raise Impossible("the machine counts the other device as having the key")
        self.outside.shared = self.outside.generations[self._sessions().sessions[0].session_id]

    async def _outgoing(self, process: str, message: Value) -> _Send:
        """Return a message of the outbox.

        In the reference, the same call hands out claims. That is another step here.
        """
        machine = await self._device.machine(process)
        with substituted([(olm, "hand_out_claim", _hand_out_nothing)]):
            requests = await machine.outgoing_requests()
        for request in requests:
            if not isinstance(request, ToDevice):
                raise CheckError(f"{process} has an unexpected request: {request}")
            if self._message_in(request).value == message:
                return _Send(request)
        raise Impossible(f"{process} does not send {message}")

    def _deliver(self, message: _Message) -> None:
        """Let the other device receive a message. It can read the message unless the session is broken."""
        if message.generation not in self.outside.broken:
            self.outside.generation = max(self.outside.generation, message.generation)
            self.outside.room_keys |= {message.key} - {0}

    def _held(self, process: str) -> _Claim | _Send:
        held = self.outside.flight[process]
        if held is None:
            raise Impossible(f"{process} holds no request")
        return held

    @property
    def _name(self) -> ids.PeerName:
        return ids.PeerName(ids.UserId(_PEER.user), self._peer.curve25519)

    def _sessions(self) -> Peer:
        return self._device.records(PEER)[self._name]

    def _is_marked(self) -> bool:
        return self._name in self._device.records(WANTED_SESSION)

    def _number_sessions(self) -> None:
        generations = self.outside.generations
        generations.setdefault(self._sessions().sessions[0].session_id, len(generations) + 1)

    def _flight(self, held: _Claim | _Send | None) -> Value:
        match held:
            case None:
                return _NOTHING
            case _Claim(request, mark, response):
                (claimed,) = request.wanted
                newest = claimed.number == self._sessions().claims
                return record(stage="claim" if response is None else "claimed", mark=mark if newest else 0)
            case _Send(request, response):
                message = self._message_in(request).value
                return record(stage="request" if response is None else "answered", message=message)

    def _outbox(self) -> set[_Message]:
        messages = [self._message(each) for out in self._device.records(OUTBOX).values() for each in _contents(out)]
        if len(set(messages)) < len(messages):
            raise CheckError("a message is to be sent twice")
        return set(messages)

    def _message_in(self, request: ToDevice) -> _Message:
        (content,) = _contents(request)
        return self._message(content)

    def _message(self, content: Json) -> _Message:
        """Return the message in the model, from the content that the other device decrypts."""
        encrypted = msgspec.json.encode(content)
        if encrypted not in self._messages:
            session_id, event = self._peer.opened(content)
            key = self.outside.keys.get(str(cast("Json", event["content"]).get("session_id")), 0)
            self._messages[encrypted] = _Message(str(event["type"]), self.outside.generations[session_id], key)
        return self._messages[encrypted]


async def _hand_out_nothing(transaction: Transaction, now_ms: int) -> None:
    del transaction, now_ms


async def _give(machine: OlmMachine, held: _Claim | _Send | _Sync) -> None:
    assert held.response is not None  # the model takes this step only after the answer
    if isinstance(held, _Sync):
        await machine.receive_sync_changes(held.response, held.position)
    else:
        await machine.mark_sent(held.request, held.response)


def _contents(sent: ToDevice | OutgoingToDevice) -> list[Json]:
    return [content for contents in sent.messages.values() for content in contents.values()]
