"""Replay the module Gossip on real machines: requests of the user's other devices, and requests to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, NamedTuple, Self, TypeAlias, cast

import msgspec

from checking.errors import CheckError
from checking.machine_replay import gossip_faults
from checking.machine_replay.client import Client
from checking.machine_replay.counterpart import Counterpart, Impossible, Property, Wanted
from checking.machine_replay.device_keys import account_of
from checking.machine_replay.homeserver import Device, Homeserver, Json
from checking.machine_replay.peer_device import PeerDevice
from checking.machine_replay.room_key import RoomKey
from checking.machine_replay.shared_device import SharedDevice
from checking.replay.doubles import ManualClock
from checking.replay.model_states import Function, changed_arguments, entry, function_of, name_of
from checking.replay.substitutions import Substitution, substituted
from checking.tlc.values import Label, ModelValue, State, Value, function, record
from unwedged.machine import KeysClaim, LocalTrust, Request, SyncPosition, ToDevice, asking, gossip, olm
from unwedged.machine import identifiers as ids
from unwedged.machine.backup import ALGORITHM
from unwedged.machine.key_requests import FORWARDED_ROOM_KEY
from unwedged.machine.ratchets import BackupDecryption
from unwedged.machine.records import (
    ANSWERED,
    ASKED,
    DEVICES,
    OUTBOX,
    OWN_DEVICE,
    PEER,
    WAITING,
    KnownDevice,
    OwnDevice,
)
from unwedged.machine.secrets import BACKUP_KEY, SECRET_SEND
from unwedged.machine.unpadded_base64 import to_unpadded
from unwedged.store import Transaction

_USER: Final = ids.UserId("@alice:example.org")
_OWN: Final = Device(_USER, "PHONE")
_ROOM: Final = ids.RoomId("!room:example.org")
_CONNECTION: Final = "main"
_NOTHING: Final = ModelValue("Nothing")
_PLANTED: Final = ModelValue("planted")
_DEVICES: Final = ("d1", "d2", "planted")


class _Asks(NamedTuple):
    """A request of another device."""

    by: str
    number: int

    @property
    def id(self) -> str:
        """The request ID."""
        return f"{self.by} {self.number}"

    @property
    def value(self) -> Value:
        """The request in the model."""
        return record(by=ModelValue(self.by), number=self.number)


class _Send(NamedTuple):
    """A message that a process holds, and the homeserver's response, if there is one yet."""

    request: ToDevice
    response: Json | None = None


class _Waiting(NamedTuple):
    """A request of another device that a process of a faulty machine holds."""

    request: _Asks


class _Heard(NamedTuple):
    """A sync response with one message."""

    position: SyncPosition
    response: Json


_InHand: TypeAlias = "_Send | _Waiting | None"


@dataclass
class _Outside:
    """The homeserver, the actions of other devices, what the processes hold, and the names of things in the model."""

    server: Homeserver
    flight: dict[str, _InHand]
    given: dict[_Asks, int]
    """How often each request of another device was answered."""
    asked: set[_Asks] = field(default_factory=set)
    cancelled: set[_Asks] = field(default_factory=set)
    repeated: int = 0
    unasked: int = 0
    replied: set[tuple[str, int]] = field(default_factory=set)
    """Which devices have answered which of our requests."""
    to_us: list[tuple[Value, Json]] = field(default_factory=list)
    """The messages on their way to us, oldest first: each in the model, and as an event."""
    taken: list[Value] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    """The numbers of our requests, by their IDs."""
    answers: set[str] = field(default_factory=set)
    """The transaction IDs of our answers."""
    delivered: dict[str, Value] = field(default_factory=dict)
    """The delivered messages, by transaction ID."""


def _nothing_given_away(was: State, now: State) -> str | None:
    blocked = cast("frozenset[Value]", _store(was)["blocked"])
    for request in _newly_given(was, now):
        by = function_of(request)["by"]
        if by == _PLANTED or by in blocked:
            return f"the request of {name_of(by)} was answered, but the device is not the person's own, or is blocked"
    return None


def _nothing_unasked(was: State, now: State) -> str | None:
    if now["taken"] == was["taken"]:
        return None
    answer = function_of(_taken(now)[-1])
    if answer["from"] == _PLANTED or answer["from"] in cast("frozenset[Value]", _store(was)["blocked"]):
        return f"an answer of {answer['from']} was taken, but the device is not the person's own, or is blocked"
    if not _is_asked(was, answer["number"]):
        return f"an answer of {answer['from']} was taken that nobody asked for"
    return None


def _exactly_once(_: State, now: State) -> str | None:
    for request, times in _given(now).items():
        if cast("int", times) > 1:
            return f"a request of {function_of(request)['by']} was answered {times} times"
    numbers = [function_of(answer)["number"] for answer in _taken(now)]
    return "two answers to one request were taken" if len(set(numbers)) < len(numbers) else None


def _none_after_cancel(was: State, now: State) -> str | None:
    for request in _newly_given(was, now):
        if _is_known_to_be_cancelled(was, request):
            return f"a request of {function_of(request)['by']} was answered after it was cancelled"
    return None


def _nothing_lost(_: State, now: State) -> str | None:
    store, peers = _store(now), function_of(now["peers"])
    outbox = cast("frozenset[Value]", store["outbox"])
    sent = outbox | cast("frozenset[Value]", _server(now)["delivered"])
    for request in cast("frozenset[Value]", peers["asked"]):
        if not (
            record(type="request", request=request) in _on_their_way(now)
            or request in cast("frozenset[Value]", store["waiting"])
            or _is_known_to_be_cancelled(now, request)
            or record(type="answer", request=request) in sent
        ):
            return f"a request of {function_of(request)['by']} is lost"
    ends = [function_of(message) for message in outbox if function_of(message)["type"] == "over"]
    for hold in map(function_of, cast("frozenset[Value]", peers["holds"])):
        told = any(
            end["number"] == hold["number"] and hold["device"] in cast("frozenset[Value]", end["to"]) for end in ends
        )
        if not told and not _is_asked(now, hold["number"]):
            return f"{hold['device']} never learns that the request {hold['number']} is over"
    return None


def _everything_arrived(now: State) -> bool:
    store, peers = _store(now), function_of(now["peers"])
    verified = cast("frozenset[Value]", store["verified"])
    return (not store["asked"] or not verified) and all(
        request in cast("frozenset[Value]", peers["answered"]) or _is_known_to_be_cancelled(now, request)
        for request in cast("frozenset[Value]", peers["asked"])
        if function_of(request)["by"] in verified
    )


class Gossip(Counterpart):
    """Other devices of the user request the backup key or a room key. This device requests room keys from them.

    Where others ask for a room key only, this device asks for the key of a backup that one of them has made.

    In the reference, one operation answers all requests that may be answered, sends our requests to further devices,
    and settles requests whose keys have come in another way. In the model each of these is a step of its own. So each
    step here suppresses the other parts of the operation.
    """

    properties: ClassVar[Mapping[str, Property]] = {
        "NothingGivenAway": _nothing_given_away,
        "NothingUnasked": _nothing_unasked,
        "ExactlyOnce": _exactly_once,
        "NoneAfterCancel": _none_after_cancel,
        "NothingLost": _nothing_lost,
    }
    wanted: ClassVar[Mapping[str, Wanted]] = {"EverythingArrives": _everything_arrived}
    faults: ClassVar[Mapping[str, Callable[[], Sequence[Substitution]]]] = gossip_faults.FAULTS

    outside: _Outside

    def __init__(self, device: SharedDevice, outside: _Outside, wanted: RoomKey) -> None:
        """Use ``open`` instead."""
        self.devices = (device,)
        self.outside = outside
        self._device = device
        self._peers = {name: PeerDevice(Device(_USER, name)) for name in _DEVICES}
        self._wanted = wanted
        """The room key that other devices request."""
        self._asked_for = tuple(RoomKey(_ROOM) for _ in range(3))
        """The room keys that we request, by the numbers of the requests. The first one is never requested."""
        self._asks_for_secret = bool(outside.given) and not any(map(_is_for_secret, outside.given))
        self._backup = BackupDecryption()
        """A backup that another device has made, if this device asks for its key."""
        self._events = tuple(self._event(key) for key in self._asked_for)
        self._read: dict[bytes, _Asks] = {}
        """The decrypted messages, by their ciphertexts."""
        self._given: _Send | _Heard | None = None
        """The last input of the machine."""

    @classmethod
    async def open(cls, folder: Path, initial: State) -> Self:
        """See the base class. The keys of all devices are known."""
        processes = sorted(map(name_of, function_of(initial["flight"])))
        server = Homeserver()
        server.sign_in(_OWN)
        own = ids.Device(_USER, ids.DeviceId(_OWN.device))
        device = await SharedDevice.open(folder / "device.store", own, processes, ManualClock())
        given = {_asks(request): 0 for request in _given(initial)}
        made = cls(device, _Outside(server, dict.fromkeys(processes), given), RoomKey(_ROOM))
        for peer in made._peers.values():
            peer.sign_in(server)
        machine = await device.machine(processes[0])
        client = Client(server, machine)
        await client.send_all()
        await machine.track_users([_USER])
        await client.sync(_CONNECTION, sliding=True)
        await client.send_all()
        if made._asks_for_secret:
            info: Json = {"algorithm": ALGORITHM, "auth_data": {"public_key": made._backup.public_key}}
            server.request(Device(_USER, _DEVICES[0]), "POST", "/_matrix/client/v3/room_keys/version", info)
            await client.send(await machine.key_backup.version_query())
        else:
            await client.send((await machine.key_backup.create_version()).request)
        await machine.import_room_keys([made._wanted.exported()])
        await client.send_all()
        return made

    @staticmethod
    def steps(action: str, before: State, after: State) -> list[Label]:
        """See the base class. TLC does not label a step by its action if a parameter of the action is a record."""
        processes = sorted(function_of(before["flight"]), key=name_of)
        changed = changed_arguments(before["flight"], after["flight"])
        if action == "ReceiveRequest":
            return [Label(action, (process,)) for process in changed or processes]
        if changed:
            return [_step_of_process(action, changed[0], before, after)]
        given = _newly_given(before, after)
        if given:
            return [Label("AnswerWaiting", (given[0],))]
        for name, action_of in (
            ("verified", "VerifyDevice"),
            ("blocked", "BlockDevice"),
            ("sessions", "BeginSession"),
        ):
            added = cast("frozenset[Value]", _store(after)[name]) - cast("frozenset[Value]", _store(before)[name])
            if added:
                return [Label(action_of, tuple(added))]
        if len(_on_their_way(after)) > len(_on_their_way(before)):
            message = function_of(_on_their_way(after)[-1])
            match message["type"]:
                case "request":
                    return [Label("PeerAsks", (message["request"],))]
                case "cancellation":
                    return [Label("PeerCancels", (message["request"],))]
            return [Label(action, (message["from"], message["number"]))]
        return [Label(action)]

    def choices(self) -> Sequence[Label]:
        """See the base class. The machine decides what is answered, requested, and sent too early or again."""
        outside = self.outside
        idle = [ModelValue(process) for process, held in outside.flight.items() if held is None]
        outbox = set(self._outbox().values())
        unsent = {function_of(message)["number"] for message in outbox if function_of(message)["type"] == "ask"}
        early = {
            message
            for message in outbox
            if function_of(message)["type"] == "over" and function_of(message)["number"] in unsent
        }
        done = set(outside.delivered.values()) - outbox
        heard = [*self._waiting(), *filter(self._is_answered, outside.given)]
        return [
            *(Label("SendAsk") for _ in self._device.records(ASKED)),
            *(Label("AnswerWaiting", (request.value,)) for request in heard),
            *(Label("OutgoingRequest", (process, message)) for process in idle for message in early | done),
        ]

    async def take(self, step: Label) -> None:
        """See the base class."""
        flight = self.outside.flight
        match step.action, step.parameters:
            case "PeerAsks", [request]:
                self._peer_asks(_asks(request))
            case "PeerCancels", [request]:
                self._peer_cancels(_asks(request))
            case "ReceiveRequest", [ModelValue(process)]:
                await self._hear(process)
            case (("IgnoreRequest" | "ReceiveCancellation" | "ReceiveAnswer" | "IgnoreAnswer"), []):
                await self._hear(self._processes[0])
            case "VerifyDevice", [device]:
                await self._judge(name_of(device), LocalTrust.VERIFIED)
            case "BlockDevice", [device]:
                await self._judge(name_of(device), LocalTrust.BLOCKED)
            case "BeginSession", [device]:
                await self._begin_session(name_of(device))
            case "AnswerWaiting", [request]:
                await self._answer(self._processes[1], _asks(request))
            case "ReadWaiting", [ModelValue(process), request]:
                flight[process] = _Waiting(_asks(request))
            case "AnswerFromMemory", [ModelValue(process)]:
                read = flight[process]
                assert isinstance(read, _Waiting)  # the model takes this step only after a request was read
                flight[process] = None
                await self._answer(process, read.request)
            case "Ask", []:
                await self._ask(self._processes[0])
            case "SendAsk", []:
                await self._send_ask(self._processes[1])
            case "CancelAsk", []:
                await self._cancel_ask(self._processes[0])
            case "PeerAnswers", [device, number]:
                self.outside.replied.add((name_of(device), cast("int", number)))
                self._peer_sends(name_of(device), cast("int", number))
            case "PeerSendsUnasked", [device, number]:
                self.outside.unasked += 1
                self._peer_sends(name_of(device), cast("int", number))
            case "OutgoingRequest", [ModelValue(process), message]:
                flight[process] = await self._outgoing(process, message)
            case "Deliver", [ModelValue(process)]:
                await self._deliver(process)
            case "MarkSent", [ModelValue(process)]:
                held = self._held(process)
                assert held.response is not None  # the model takes this step only after the answer
                await (await self._device.machine(process)).mark_sent(held.request, held.response)
                flight[process], self._given = None, held
            case "Lose", [ModelValue(process)]:
                flight[process] = None
            case _:
                raise CheckError(f"the replay has no counterpart of the step {step}")
        self._note_made()
        self.outside.server.arrivals.clear()

    async def repeat(self, step: Label) -> bool:
        """See the base class."""
        if not step.action.startswith(("Receive", "Ignore", "MarkSent")):
            return False
        machine = await self._device.another_machine()
        match self._given:
            case _Send(request, response):
                assert response is not None
                await machine.mark_sent(request, response)
            case _Heard(position, response):
                await machine.receive_sync_changes(response, position)
        return True

    def observe(self) -> State:
        """See the base class."""
        outside = self.outside
        answered, holds = self._inboxes()
        trust = {name: device.trust for name, device in self._known().items()}
        observed: State = {
            "peers": record(
                asked=frozenset(request.value for request in outside.asked),
                cancelled=frozenset(request.value for request in outside.cancelled),
                answered=frozenset(request.value for request in answered),
                holds=frozenset(
                    record(number=number, device=ModelValue(name)) for name, number in holds - outside.replied
                ),
                unasked=outside.unasked,
            ),
            "server": record(
                toUs=tuple(message for message, _ in outside.to_us),
                delivered=frozenset(outside.delivered.values()),
                repeated=outside.repeated,
            ),
            "store": record(
                verified=_named(name for name, each in trust.items() if each is LocalTrust.VERIFIED),
                blocked=_named(name for name, each in trust.items() if each is LocalTrust.BLOCKED),
                sessions=_named(self._sessions() & {request.by for request in outside.asked}),
                waiting=frozenset(request.value for request in self._waiting()),
                answered=frozenset(request.value for request in outside.given if self._is_answered(request)),
                asked=frozenset(
                    record(number=outside.numbers[request_id], of=_named(asked.devices))
                    for request_id, asked in self._device.records(ASKED).items()
                ),
                asks=len(outside.numbers),
                outbox=frozenset(self._outbox().values()),
            ),
            "flight": function({ModelValue(process): self._flight(held) for process, held in outside.flight.items()}),
            "given": function({request.value: times for request, times in outside.given.items()}),
            "taken": tuple(outside.taken),
        }
        outside.server.arrivals.clear()
        return observed

    # Steps of other devices

    def _peer_asks(self, request: _Asks) -> None:
        self.outside.repeated += request in self.outside.asked
        self.outside.asked.add(request)
        content = _request(request, asking.REQUEST)
        if _is_for_secret(request):
            content["name"] = BACKUP_KEY
        else:
            room_id, session_id = self._wanted.name
            content["body"] = {"algorithm": ids.MEGOLM, "room_id": room_id, "session_id": session_id}
        self._send_to_us(record(type="request", request=request.value), _request_type(request), content)

    def _peer_cancels(self, request: _Asks) -> None:
        self.outside.cancelled.add(request)
        content = _request(request, asking.CANCELLATION)
        self._send_to_us(record(type="cancellation", request=request.value), _request_type(request), content)

    def _peer_sends(self, device: str, number: int) -> None:
        if self._asks_for_secret:
            (request_id,) = (each for each, of in self.outside.numbers.items() if of == number)
            self._send_answer(
                device, number, SECRET_SEND, {"request_id": request_id, "secret": to_unpadded(self._backup.key)}
            )
            return
        key = self._asked_for[number].exported()
        content: Json = {
            "algorithm": ids.MEGOLM,
            "room_id": _ROOM,
            "session_id": key.session_id,
            "session_key": key.session_key,
            "sender_key": key.sender_key,
            "sender_claimed_ed25519_key": key.sender_claimed_keys["ed25519"],
            "forwarding_curve25519_key_chain": [],
        }
        self._send_answer(device, number, FORWARDED_ROOM_KEY, content)

    def _send_answer(self, device: str, number: int, event_type: str, content: Json) -> None:
        own = KnownDevice(self._device.records(OWN_DEVICE)[None].keys)
        encrypted = self._peers[device].encrypted(self.outside.server, own, event_type, content)
        answer = record(type="answer", number=number, **{"from": ModelValue(device)})
        self._send_to_us(answer, "m.room.encrypted", encrypted)

    def _send_to_us(self, message: Value, event_type: str, content: Json) -> None:
        self.outside.to_us.append((message, {"type": event_type, "sender": _USER, "content": content}))

    # Steps

    async def _hear(self, process: str) -> None:
        message, event = self.outside.to_us.pop(0)
        machine = await self._device.machine(process)
        position = await machine.sync_position(_CONNECTION, sliding=True)
        to_device: Json = {"next_batch": f"{position.to_device_token}+", "events": [event]}
        response: Json = {"pos": f"{position.token}+", "extensions": {"to_device": to_device}}
        outcome = await machine.receive_sync_changes(response, position)
        self._given = _Heard(position, response)
        if function_of(message)["type"] == "answer" and not outcome.problems:
            self.outside.taken.append(message)

    async def _judge(self, device: str, trust: LocalTrust) -> None:
        machine = await self._device.machine(self._processes[0])
        await machine.set_trust(_USER, device, account_of(Device(_USER, device)).ed25519, trust)

    async def _begin_session(self, device: str) -> None:
        machine = await self._device.machine(self._processes[0])
        await machine._store.run(olm.want_session, self._name(device))
        with substituted([(gossip, "work_off", _do_nothing)]):
            (claim,) = [each for each in await machine.outgoing_requests() if isinstance(each, KeysClaim)]
        await Client(self.outside.server, machine).send(claim)

    async def _answer(self, process: str, request: _Asks) -> None:
        """Answer only one request of another device. Raises ``Impossible``; then nothing has changed."""
        rows, given = self._device.rows(), self.outside.given[request]
        await self._work_off(process, [(asking, "send_request", _do_nothing), (gossip, "_answer", _only(request))])
        self._note_made()
        if self.outside.given[request] == given:
            await self._device.restore(rows)
            raise Impossible(f"the machine does not answer {request.id}")

    async def _ask(self, process: str) -> None:
        machine = await self._device.machine(process)
        if self._asks_for_secret:
            await machine.secrets.request([BACKUP_KEY])
        else:
            await machine.request_room_keys(_ROOM, [self._events[len(self.outside.numbers) + 1]])

    async def _send_ask(self, process: str) -> None:
        before = self._outbox()
        await self._work_off(process, [(gossip, "_answer", _do_nothing)])
        if self._outbox() == before:
            raise Impossible("there is no device to ask")

    async def _cancel_ask(self, process: str) -> None:
        """Let the requested key arrive in another way."""
        machine = await self._device.machine(process)
        ((request_id, _),) = self._device.records(ASKED).items()
        if self._asks_for_secret:
            await machine.key_backup.import_decryption_key(self._backup.key)
        else:
            await machine.import_room_keys([self._asked_for[self.outside.numbers[request_id]].exported()])
        await self._work_off(process, [(asking, "send_request", _do_nothing), (gossip, "_answer", _do_nothing)])

    async def _work_off(self, process: str, left_out: Sequence[Substitution]) -> None:
        machine = await self._device.machine(process)
        with substituted([*left_out, (olm, "hand_out_claim", _do_nothing)]):
            await machine.outgoing_requests()

    async def _outgoing(self, process: str, message: Value) -> _Send:
        machine = await self._device.machine(process)
        with substituted([(gossip, "work_off", _do_nothing), (olm, "hand_out_claim", _do_nothing)]):
            requests: list[Request] = await machine.outgoing_requests()
        for request in requests:
            if isinstance(request, ToDevice) and self._message(request) == message:
                return _Send(request)
        raise Impossible(f"{process} does not send {message}")

    async def _deliver(self, process: str) -> None:
        held = self._held(process)
        client = Client(self.outside.server, await self._device.machine(process))
        response = client.call(held.request.method, held.request.path, held.request.body)
        self.outside.flight[process] = held._replace(response=response)
        self.outside.delivered[held.request.transaction_id] = self._message(held.request)

    def _held(self, process: str) -> _Send:
        held = self.outside.flight[process]
        if not isinstance(held, _Send):
            raise Impossible(f"{process} holds no message")
        return held

    def _note_made(self) -> None:
        """Number our new requests, and count our new answers."""
        numbers = self.outside.numbers
        for request_id in self._device.records(ASKED):
            numbers.setdefault(request_id, len(numbers) + 1)
        for transaction_id, message in self._outbox().items():
            made = function_of(message)
            if made["type"] == "answer" and transaction_id not in self.outside.answers:
                self.outside.answers.add(transaction_id)
                self.outside.given[_asks(made["request"])] += 1

    # The observed state

    @property
    def _processes(self) -> list[str]:
        return sorted(self.outside.flight)

    def _name(self, device: str) -> ids.PeerName:
        return ids.PeerName(_USER, self._peers[device].curve25519)

    def _known(self) -> dict[ids.DeviceId, KnownDevice]:
        return self._device.records(DEVICES)[_USER]

    def _sessions(self) -> set[str]:
        peers = self._device.records(PEER)
        return {name for name in _DEVICES if self._name(name) in peers and peers[self._name(name)].sessions}

    def _waiting(self) -> list[_Asks]:
        waiting = self._device.records(WAITING)
        return [request for request in self.outside.given if request.id in waiting.get(ids.DeviceId(request.by), {})]

    def _is_answered(self, request: _Asks) -> bool:
        digests = self._device.records(ANSWERED).get(ids.DeviceId(request.by), [])
        return gossip._digest(ids.RequestId(request.id)) in digests

    def _outbox(self) -> dict[str, Value]:
        """Return the outgoing messages by transaction ID, without those that tell a blocked device it gets no key."""
        return {
            transaction_id: self._message(ToDevice(transaction_id, outgoing.event_type, outgoing.messages))
            for transaction_id, outgoing in self._device.records(OUTBOX).items()
            if outgoing.event_type != "m.room_key.withheld"
        }

    def _inboxes(self) -> tuple[set[_Asks], set[tuple[str, int]]]:
        """Return the answered requests, and the devices that hold requests of ours, by the delivered messages."""
        answered: set[_Asks] = set()
        holds: set[tuple[str, int]] = set()
        for name, peer in self._peers.items():
            for content in peer.contents(self.outside.server):
                if "action" not in content:
                    answered.add(self._opened(name, content))
                    continue
                hold = name, self.outside.numbers[str(content["request_id"])]
                if content["action"] == asking.REQUEST:
                    holds.add(hold)
                else:
                    holds.discard(hold)
        return answered, holds

    def _message(self, request: ToDevice) -> Value:
        contents = request.messages[_USER]
        if request.event_type == "m.room.encrypted":
            ((name, content),) = contents.items()
            return record(type="answer", request=self._opened(name, content).value)
        content = next(iter(contents.values()))
        if "action" not in content:
            raise CheckError(f"an unexpected message is to be sent: {request.event_type}")
        kind = "ask" if content["action"] == asking.REQUEST else "over"
        return record(type=kind, number=self.outside.numbers[str(content["request_id"])], to=_named(contents))

    def _opened(self, device: str, content: Json) -> _Asks:
        """Return the request of a device that a message answers."""
        encrypted = msgspec.json.encode(content)
        if encrypted not in self._read:
            answer = self._peers[device].decrypted(content)
            if "request_id" in answer:
                number = int(str(answer["request_id"]).rpartition(" ")[2])
            else:
                assert answer["session_id"] == self._wanted.name.session_id
                (number,) = [
                    each.number for each in self.outside.given if each.by == device and not _is_for_secret(each)
                ]
            self._read[encrypted] = _Asks(device, number)
        return self._read[encrypted]

    def _flight(self, held: _InHand) -> Value:
        match held:
            case None:
                return _NOTHING
            case _Waiting(request):
                return record(stage="waiting", request=request.value)
            case _Send(sent, response):
                return record(stage="request" if response is None else "answered", message=self._message(sent))

    @staticmethod
    def _event(key: RoomKey) -> Json:
        """Return an event that can't be decrypted without a room key."""
        content = {
            "algorithm": ids.MEGOLM,
            "session_id": key.name.session_id,
            "ciphertext": key.outbound.encrypt(b"{}"),
        }
        return {"type": "m.room.encrypted", "event_id": "$event", "sender": _USER, "content": content}


async def _do_nothing(*_: object, **__: object) -> None:
    pass


def _only(request: _Asks) -> object:
    """Return a function that answers one request of another device, and ignores all other requests."""
    answer = gossip._answer

    async def answer_one(
        transaction: Transaction, own: OwnDevice, device_id: ids.DeviceId, device: KnownDevice | None, *, verified: bool
    ) -> None:
        waiting = await transaction.get(WAITING, device_id)
        request_id = ids.RequestId(request.id)
        if device_id != request.by or waiting is None or request_id not in waiting:
            return
        transaction.put(WAITING, device_id, {request_id: waiting[request_id]})
        await answer(transaction, own, device_id, device, verified=verified)
        still = await transaction.get(WAITING, device_id)
        left = {each: wanted for each, wanted in waiting.items() if each != request_id or still is not None}
        if left:
            transaction.put(WAITING, device_id, left)

    return answer_one


def _request(request: _Asks, action: str) -> Json:
    return {"action": action, "request_id": request.id, "requesting_device_id": request.by}


def _request_type(request: _Asks) -> str:
    return asking.SECRET_REQUEST if _is_for_secret(request) else asking.ROOM_KEY_REQUEST


def _is_for_secret(request: _Asks) -> bool:
    return request.number == 1


def _asks(request: Value) -> _Asks:
    fields = function_of(request)
    return _Asks(name_of(fields["by"]), cast("int", fields["number"]))


def _named(names: Iterable[str]) -> frozenset[Value]:
    return frozenset(map(ModelValue, names))


def _step_of_process(action: str, process: Value, before: State, after: State) -> Label:
    held = entry(after["flight"], process) if function_of(after["flight"])[process] != _NOTHING else None
    if function_of(before["flight"])[process] == _NOTHING and held is not None:
        if held["stage"] == "waiting":
            return Label("ReadWaiting", (process, held["request"]))
        return Label("OutgoingRequest", (process, held["message"]))
    return Label(action, (process,))


# Parts of the model's states


def _store(state: State) -> Function:
    return function_of(state["store"])


def _server(state: State) -> Function:
    return function_of(state["server"])


def _on_their_way(state: State) -> tuple[Value, ...]:
    return cast("tuple[Value, ...]", _server(state)["toUs"])


def _taken(state: State) -> tuple[Value, ...]:
    return cast("tuple[Value, ...]", state["taken"])


def _given(state: State) -> Function:
    """Return how often each request of another device was answered. TLC prints an empty function as a sequence."""
    return function_of(state["given"]) if state["given"] else {}


def _newly_given(was: State, now: State) -> list[Value]:
    before = _given(was)
    return [request for request, times in _given(now).items() if cast("int", times) > cast("int", before[request])]


def _is_asked(state: State, number: Value) -> bool:
    return any(function_of(ask)["number"] == number for ask in cast("frozenset[Value]", _store(state)["asked"]))


def _is_known_to_be_cancelled(state: State, request: Value) -> bool:
    cancelled = cast("frozenset[Value]", function_of(state["peers"])["cancelled"])
    return request in cancelled and record(type="cancellation", request=request) not in _on_their_way(state)
