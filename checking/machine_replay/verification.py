"""Replay the module Verification on real machines: two people compare short strings, and their devices get trusted.

The peer is a machine too, with one process. The flow of each end is observed from its records. The model keeps data of
a flow that is over, but the record does not: then the last record of the flow is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, Self, cast
from zlib import crc32

from rpds import HashTrieMap

from checking.errors import CheckError
from checking.machine_replay import verification_faults
from checking.machine_replay.client import Client
from checking.machine_replay.counterpart import Counterpart, Impossible, Property, Wanted
from checking.machine_replay.device_keys import signed_device_keys
from checking.machine_replay.homeserver import Device, Homeserver, Json
from checking.machine_replay.shared_device import SharedDevice
from checking.machine_replay.verification_messages import (
    CANCEL,
    NOTHING,
    End,
    Message,
    Names,
    accept_of,
    key_of,
    mac_of,
    start_of,
    type_of,
)
from checking.replay.doubles import ManualClock
from checking.replay.model_states import changed_arguments, entry, function_of, name_of
from checking.replay.substitutions import Substitution
from checking.tlc.values import Label, ModelValue, State, Value, function, record, render_value
from unwedged.machine import KeysQuery, OlmMachine, ToDevice, WrongPhase
from unwedged.machine import identifiers as ids
from unwedged.machine.identities import signing_keys
from unwedged.machine.records import (
    DEVICES,
    IDENTITY,
    OUTBOX,
    VERIFICATION,
    LocalTrust,
    Phase,
    SigningKeyName,
    VerificationFlow,
    only_key,
)

_OWN: Final = Device("@bob:example.org", "PHONE")
_FIRST: Final = Device("@alice:example.org", "LAPTOP")
_LAST: Final = Device("@carol:example.org", "LAPTOP")
"""The peer. If both devices start at once, the start message of the user who comes first counts."""
_PROCESSES: Final = {"ours": ("p1", "p2"), "peers": ("peer",)}
_OTHER: Final = {"ours": "peers", "peers": "ours"}
_CONNECTION: Final = "main"
_PHASES: Final = {
    Phase.READY: "ready",
    Phase.STARTED: "started",
    Phase.ACCEPTED: "accepted",
    Phase.KEYS_EXCHANGED: "exchanged",
    Phase.CONFIRMED: "confirmed",
    Phase.DONE: "done",
    Phase.CANCELLED: "cancelled",
}
_NEW_FLOW: Final = record(phase="ready", role="accepter", commitment=NOTHING, key=NOTHING, mac=NOTHING)
_HEARS: Final = frozenset(
    {
        *("ReceiveStart", "IgnoreStart", "ReceiveAccept", "ReceiveKey", "ReceiveMac", "KeepMac", "ReceiveCancel"),
        *("RefuseMessage", "IgnoreMessage"),
    }
)
_PERSONS: Final = {
    "StartSas": ("ours", "start_sas"),
    "ConfirmSas": ("ours", "confirm"),
    "CancelFlow": ("ours", "cancel"),
    "PeerStarts": ("peers", "start_sas"),
    "PeerConfirms": ("peers", "confirm"),
    "PeerCancels": ("peers", "cancel"),
}
"""The actions of a person: the end at which it happens, and the method of ``Verifications``."""


@dataclass(frozen=True)
class _Request:
    """A message that a process holds, and the homeserver's response, if there is one yet."""

    sent: ToDevice
    response: Json | None = None


@dataclass
class _Outside:
    """The homeserver, the attacker, the two people, what the processes hold, and the names of things in the model."""

    server: Homeserver
    flight: dict[str, _Request | None]
    names: Names
    flows: dict[str, Value] = field(default_factory=lambda: dict.fromkeys(_PROCESSES, _NEW_FLOW))
    """The last flow of each end before it was over."""
    tokens: dict[str, str | None] = field(default_factory=lambda: dict.fromkeys(_PROCESSES))
    """The sync token of each end."""
    unheard: dict[str, list[Message]] = field(default_factory=lambda: {whose: [] for whose in _PROCESSES})
    """The messages on their way, by the end that will receive them."""
    made: dict[ids.TransactionId, Value] = field(default_factory=dict)
    """All of our messages, oldest first."""
    delivered: int = 0
    forged: int = 0
    attacked: bool = False
    """Whether the attacker has acted."""
    shown: dict[str, object] = field(default_factory=dict)
    """The short string that each person sees."""
    confirmed: frozenset[str] = frozenset()
    cancels: int = 0


def _trust_only_if_confirmed(_: State, now: State) -> str | None:
    if not entry(now, "store")["trusted"]:
        return None
    if entry(now, "people")["confirmed"] != frozenset(_PROCESSES):
        return "the peer is trusted, but one person has not confirmed that the short strings are equal"
    return None if entry(now, "setting")["identity"] == "genuine" else "an attacker's identity is trusted"


def _done_is_trusted(_: State, now: State) -> str | None:
    store = entry(now, "store")
    done = entry(store, "flow")["phase"] == "done"
    return "the flow is done, but the peer is not trusted" if done and not store["trusted"] else None


def _exactly_once(_: State, now: State) -> str | None:
    types = [type_of(message) for message in _messages(entry(now, "store"), "outbox")]
    return f"{types} are to be sent, one of them twice" if len(set(types)) < len(types) else None


def _survives_invalidation(_: State, now: State) -> str | None:
    store, server = entry(now, "store"), entry(now, "server")
    unsent = _messages(store, "outbox")[cast("int", server["delivered"]) - cast("int", store["sent"]) :]
    told = {type_of(message) for message in (*_messages(server, "toPeer"), *unsent)}
    if now["attacked"] or not _is_live(now["peer"]) or _is_live(store["flow"]) or told & {"mac", "cancel"}:
        return None
    return "the peer continues, but our flow is over, and no message says so"


def _everything_arrived(now: State) -> bool:
    store, peer = entry(now, "store"), entry(now, "peer")
    is_over = not _is_live(store["flow"]) and not _is_live(now["peer"])
    is_cancelled = cast("int", entry(now, "people")["cancels"]) > 0
    return (bool(store["trusted"]) and peer["phase"] == "done") or (is_cancelled and is_over)


class Verification(Counterpart):
    """A step that the model gives to no process is taken by the process that did not take the last step."""

    properties: ClassVar[Mapping[str, Property]] = {
        "TrustOnlyIfConfirmed": _trust_only_if_confirmed,
        "DoneIsTrusted": _done_is_trusted,
        "ExactlyOnce": _exactly_once,
        "SurvivesInvalidation": _survives_invalidation,
    }
    wanted: ClassVar[Mapping[str, Wanted]] = {"EverythingArrives": _everything_arrived}
    faults: ClassVar[Mapping[str, Callable[[], Sequence[Substitution]]]] = verification_faults.FAULTS

    outside: _Outside

    def __init__(
        self, devices: Mapping[str, SharedDevice], ends: Mapping[str, End], outside: _Outside, setting: Value
    ) -> None:
        """Use ``open`` instead."""
        self.devices = tuple(devices.values())
        self.outside = outside
        self._device = devices["ours"]
        self._by_end = devices
        self._ends = ends
        self._setting = setting
        self._given: Message | _Request | None = None
        """The last input of the machine."""

    @classmethod
    async def open(cls, folder: Path, initial: State) -> Self:
        """See the base class. One device has requested the verification, and the other has accepted it."""
        setting, server, clock = entry(initial, "setting"), Homeserver(), ManualClock()
        own, peer = _OWN, _LAST if setting["first"] else _FIRST
        devices, clients = {}, []
        for (whose, processes), each in zip(_PROCESSES.items(), (own, peer), strict=True):
            server.sign_in(each)
            name = ids.Device(ids.UserId(each.user), ids.DeviceId(each.device))
            devices[whose] = await SharedDevice.open(folder / f"{each.device}.store", name, processes, clock)
            clients.append(Client(server, await devices[whose].machine(processes[0])))
        ours, peers = clients
        await ours.send_all()
        for client in clients:
            await _sync(client.machine)  # the first sync of a connection marks all device lists
        await peers.machine.cross_signing.bootstrap()
        await peers.send_all()
        await peers.machine.cross_signing.bootstrap()
        await peers.send_all()
        await peers.machine.track_users([own.user])
        await peers.send_all()
        await ours.machine.track_users([peer.user])
        (query,) = await ours.machine.outgoing_requests()
        assert isinstance(query, KeysQuery)
        genuine = ours.call(query.method, query.path, query.body)
        fake = {**genuine, **_impostor(peer)}
        await ours.machine.mark_sent(query, fake if setting["identity"] == "fake" else genuine)

        flow_id = await ours.machine.verifications.request(peer.user, [peer.device])
        ends = {
            "ours": End("ours", ours.machine.device, {"ours": {f"ed25519:{own.device}": ours.machine.ed25519}}),
            "peers": End(
                "peers", peers.machine.device, {"genuine": _keys_of(peer, genuine), "fake": _keys_of(peer, fake)}
            ),
        }
        flight: dict[str, _Request | None] = {name_of(process): None for process in function_of(initial["flight"])}
        made = cls(devices, ends, _Outside(server, flight, Names(flow_id)), initial["setting"])
        for client, whose in ((ours, "peers"), (peers, "ours")):
            await client.send_all()
            await _sync(await made._machine(whose), *made._new_events(whose))
            for asked in devices["peers"].records(VERIFICATION) if whose == "peers" else ():
                await peers.machine.verifications.accept(asked)
        return made

    @staticmethod
    def steps(action: str, before: State, after: State) -> list[Label]:
        """See the base class. The message that is received is a parameter here."""
        if action in _HEARS:
            return [Label(action, (message,)) for message in _heard(action, before, after)]
        if action in ("OutgoingRequest", "Deliver", "MarkSent", "Lose", "CommitResult"):
            flight = function_of(before["flight"])
            changed = changed_arguments(before["flight"], after["flight"])
            with_nothing = [process for process, held in flight.items() if held == ModelValue("Nothing")]
            return [Label(action, (process,)) for process in changed or with_nothing]
        return [Label(action)]

    def choices(self) -> Sequence[Label]:
        """See the base class. The machine decides whether our person can start, confirm or cancel, and what it sends.

        While the flow is not over, only a bound of the model forbids a cancellation, so that step is left out.
        """
        idle = [ModelValue(process) for process, held in self.outside.flight.items() if held is None]
        return [
            Label("StartSas"),
            Label("ConfirmSas"),
            *([] if _is_live(self._flow("ours")) else [Label("CancelFlow")]),
            *(Label("OutgoingRequest", (process,)) for process in idle),
        ]

    async def take(self, step: Label) -> None:
        """See the base class."""
        outside = self.outside
        match step.action, step.parameters:
            case action, () if action in _PERSONS:
                await self._act(action)
            case action, (message,) if action in _HEARS:
                self._given = self._arriving(message)
                await self._receive("ours", self._given)
            case "PeerReceives", ():
                await self._receive("peers", _first(outside.unheard["peers"]))
            case "OutgoingRequest", (ModelValue(process),):
                outside.flight[process] = _Request(await self._outgoing(process))
            case "Deliver", (ModelValue(process),):
                sent = self._held(process).sent
                client = Client(outside.server, await self._device.machine(process))
                outside.flight[process] = _Request(sent, client.call(sent.method, sent.path, sent.body))
            case "MarkSent", (ModelValue(process),):
                self._given = self._held(process)
                await _give(await self._device.machine(process), self._given)
                outside.flight[process] = None
            case "Lose", (ModelValue(process),):
                if outside.flight[process] is None:
                    await self._device.reopen(process)  # a process without a request can lose only its memory
                outside.flight[process] = None
            case "Withhold", ():
                _first(outside.unheard["ours"])
                outside.attacked = True
            case "ReplaceOurKey", ():
                replaced = outside.names.replaced(_first(outside.unheard["peers"]), self._start("peers"))
                outside.unheard["peers"].insert(0, replaced)
                outside.attacked = True
            case "CommitResult", _:
                raise Impossible("the machine stores the result in the commit that ends the flow")
            case _:
                raise CheckError(f"the replay has no counterpart of the step {step}")
        await self._follow()

    async def repeat(self, step: Label) -> bool:
        """See the base class. A person may act in both processes: the second time, the machine refuses it."""
        if step.action in _HEARS:
            assert isinstance(self._given, Message)  # by this step
            await self._receive("ours", self._given)
        elif step.action == "MarkSent":
            assert isinstance(self._given, _Request)  # likewise
            await _give(await self._device.another_machine(), self._given)
        elif step.action in ("StartSas", "ConfirmSas", "CancelFlow"):
            try:
                await self._call(step.action)
            except Impossible:
                return True
            raise CheckError(f"the machine does {step.action} twice")
        else:
            return False
        return True

    def observe(self) -> State:
        """See the base class. It also has whether the attacker has acted."""
        outside, unsent = self.outside, self._unsent()
        unheard = {whose: tuple(each.value for each in messages) for whose, messages in outside.unheard.items()}
        return {
            "setting": self._setting,
            "peer": self._flow("peers"),
            "server": record(
                delivered=outside.delivered, toPeer=unheard["peers"], toUs=unheard["ours"], forged=outside.forged
            ),
            "store": record(
                flow=self._flow("ours"),
                trusted=self._is_trusted(),
                outbox=tuple(unsent.values()),
                sent=len(outside.made.keys() - unsent.keys()),
            ),
            "flight": function({ModelValue(process): self._flight(held) for process, held in outside.flight.items()}),
            "people": record(confirmed=outside.confirmed, cancels=outside.cancels),
            "attacked": outside.attacked,
        }

    async def _act(self, action: str) -> None:
        """Let a person act. Raises ``Impossible``."""
        outside, (whose, method) = self.outside, _PERSONS[action]
        if method == "confirm" and self._phase(whose) == "exchanged" and not self._looks_equal():
            raise Impossible("the person sees that the short strings differ")
        await self._call(action)
        outside.confirmed |= {whose} if method == "confirm" else frozenset()
        outside.cancels += method == "cancel"

    async def _call(self, action: str) -> None:
        whose, method = _PERSONS[action]
        verifications = (await self._machine(whose)).verifications
        call = {
            "start_sas": verifications.start_sas,
            "confirm": verifications.confirm,
            "cancel": verifications.cancel,
        }[method]
        flows = self._by_end[whose].records(VERIFICATION)
        if not flows:  # only a faulty machine has lost the flow
            raise Impossible("there is no flow")
        try:
            for flow_id in flows:
                await call(flow_id)
        except WrongPhase as error:
            raise Impossible(f"the machine refuses {action}: {error}") from error

    async def _outgoing(self, process: str) -> ToDevice:
        requests = await (await self._device.machine(process)).outgoing_requests()
        if len(requests) > 1:
            raise CheckError(f"messages of one flow could be sent in the wrong order: {requests}")
        for request in requests:
            if not isinstance(request, ToDevice):
                raise CheckError(f"{process} has an unexpected request: {request}")
            if request.transaction_id in self.outside.made:
                return request
        raise Impossible(f"{process} has no message to send that the model has")

    def _arriving(self, value: Value) -> Message:
        """Return the message that our device receives: the oldest one of the peer, or one of the attacker."""
        outside = self.outside
        if outside.unheard["ours"] and outside.unheard["ours"][0].value == value:
            return _first(outside.unheard["ours"])
        outside.forged += 1
        outside.attacked = True
        return outside.names.forged(value, self._start("ours"), self._ends["ours"], self._ends["peers"], outside.forged)

    async def _follow(self) -> None:
        """Observe the effects of a step: name new keys, deliver the peer's messages, and note what people see."""
        outside = self.outside
        for whose in _PROCESSES:
            flow = self._record(whose)
            if flow is not None and flow.sas is not None:
                outside.names.note(whose, flow.sas)
            if flow is not None and not flow.is_over:
                outside.flows[whose] = self._flow(whose)
        outside.made |= self._unsent()
        while self._by_end["peers"].records(OUTBOX):
            await Client(outside.server, await self._machine("peers")).send_all(ToDevice)
        for whose in _PROCESSES if outside.server.arrivals else ():
            ends = self._ends[_OTHER[whose]], self._ends[whose]
            arrived = [
                message
                for event in self._new_events(whose)
                if (message := outside.names.message(str(event["type"]), cast("Json", event["content"]), *ends))
            ]
            outside.unheard[whose] += arrived
            outside.delivered += len(arrived) if whose == "peers" else 0
        outside.server.arrivals.clear()
        for whose in _PROCESSES:
            if self._phase(whose) == "exchanged" and whose not in outside.shown:
                for flow_id in self._by_end[whose].records(VERIFICATION):
                    seen = await (await self._machine(whose)).verifications.get(flow_id)
                    assert seen is not None  # the flow is in the store
                    outside.shown[whose] = seen.emoji, seen.decimals

    def _new_events(self, whose: str) -> list[Json]:
        """Return the new messages at the homeserver for an end."""
        token = self.outside.tokens[whose]
        path = "/_matrix/client/v3/sync" + ("" if token is None else f"?since={token}")
        status, response = self.outside.server.request(Device(*self._ends[whose].device), "GET", path)
        assert status == 200
        self.outside.tokens[whose] = str(response["next_batch"])
        return cast("dict[str, list[Json]]", response.get("to_device", {"events": []}))["events"]

    async def _receive(self, whose: str, message: Message) -> None:
        """Let an end receive a message."""
        sender = self._ends[_OTHER[whose]].device.user_id
        event: Json = {"type": message.event_type, "sender": sender, "content": message.content}
        await _sync(await self._machine(whose), event)

    async def _machine(self, whose: str) -> OlmMachine:
        """Return the machine that takes a step of an end."""
        if whose == "ours":
            return await self._device.another_machine()
        return await self._by_end[whose].machine(_PROCESSES[whose][0])

    def _held(self, process: str) -> _Request:
        held = self.outside.flight[process]
        if held is None:
            raise Impossible(f"{process} holds no request")
        return held

    def _record(self, whose: str) -> VerificationFlow | None:
        for flow in self._by_end[whose].records(VERIFICATION).values():
            return flow
        return None

    def _start(self, whose: str) -> Json | None:
        """Return the start message of the comparison in the record of an end."""
        flow = self._record(whose)
        return None if flow is None or flow.sas is None else flow.sas.start

    def _phase(self, whose: str) -> str:
        flow = self._record(whose)
        return "gone" if flow is None else _PHASES[flow.phase]

    def _flow(self, whose: str) -> Value:
        """Return the flow of an end."""
        flow, names = self._record(whose), self.outside.names
        if flow is None or flow.is_over:
            if flow is not None and flow.sas is not None:
                raise CheckError("the ephemeral secret of a flow is still stored after the flow is over")
            before = cast("HashTrieMap[Value, Value]", self.outside.flows[whose])
            return before.insert("phase", self._phase(whose))
        exchange = flow.sas
        if exchange is None:
            return cast("HashTrieMap[Value, Value]", _NEW_FLOW).insert("phase", self._phase(whose))
        return record(
            phase=self._phase(whose),
            role="starter" if exchange.we_started else "accepter",
            commitment=names.commitments[exchange.commitment] if exchange.commitment else NOTHING,
            key=names.keys[exchange.their_key] if exchange.their_key else NOTHING,
            mac=NOTHING if exchange.their_macs is None else names.of_macs(exchange.their_macs),
        )

    def _looks_equal(self) -> bool:
        """Return whether both people see the same short string.

        An attacker that has seen our key first can search for a key with the same short string. That takes 2^42
        attempts, so the search is only assumed here, not done.
        """
        shown = self.outside.shown
        visible = all(self._phase(whose) in ("exchanged", "confirmed", "done") for whose in _PROCESSES)
        chosen = function_of(self.outside.flows["ours"])["key"] == "chosen"
        return visible and (shown["ours"] == shown["peers"] or chosen)

    def _is_trusted(self) -> bool:
        user, device = self._ends["peers"].device
        identity = self._device.records(IDENTITY)[user]
        known = self._device.records(DEVICES)[user][device]
        trusted = known.trust is LocalTrust.VERIFIED
        if trusted != (identity.compared == identity.master_key):
            raise CheckError("the peer's device is trusted without its identity, or the identity without the device")
        return trusted

    def _unsent(self) -> dict[ids.TransactionId, Value]:
        """Return the messages of the outbox, oldest first."""
        made, ends = dict(self.outside.made), tuple(self._ends.values())
        outbox = sorted(self._device.records(OUTBOX).items())
        for transaction_id, outgoing in outbox:
            if transaction_id not in made:
                ((content,),) = (contents.values() for contents in outgoing.messages.values())
                message = self.outside.names.message(outgoing.event_type, content, *ends)
                if message is not None:
                    made[transaction_id] = message.value
        return {transaction_id: made[transaction_id] for transaction_id, _ in outbox if transaction_id in made}

    def _flight(self, held: _Request | None) -> Value:
        if held is None:
            return NOTHING
        number = list(self.outside.made).index(held.sent.transaction_id) + 1
        if held.response is not None:
            return record(stage="answered", number=number)
        return record(stage="request", number=number, message=self.outside.made[held.sent.transaction_id])


async def _sync(machine: OlmMachine, *events: Json) -> None:
    """Give messages to a machine. A faulty machine may have lost the flow that they belong to."""
    position = await machine.sync_position(_CONNECTION, sliding=True)
    to_device: Json = {"next_batch": f"{position.to_device_token}+", "events": events}
    response: Json = {"pos": f"{position.token}+", "extensions": {"to_device": to_device}}
    outcome = await machine.receive_sync_changes(response, position)
    if not outcome.applied or {problem.code for problem in outcome.problems} - {"unknown_verification"}:
        raise CheckError(f"the machine refuses a sync: {outcome}")


async def _give(machine: OlmMachine, held: _Request) -> None:
    if held.response is None:
        raise Impossible("the request is not answered yet")
    await machine.mark_sent(held.sent, held.response)


def _first(messages: list[Message]) -> Message:
    if not messages:
        raise Impossible("no message is on its way")
    return messages.pop(0)


def _impostor(device: Device) -> Json:
    """Return an attacker's answer to a query for a device: another device with the same ID, and another identity."""
    user = ids.UserId(device.user)
    keys = signing_keys(user, {SigningKeyName.MASTER: bytes(32), SigningKeyName.SELF_SIGNING: b"1" * 32})
    return {
        "device_keys": {device.user: {device.device: signed_device_keys(device)}},
        "master_keys": {device.user: keys[SigningKeyName.MASTER]},
        "self_signing_keys": {device.user: keys[SigningKeyName.SELF_SIGNING]},
    }


def _keys_of(device: Device, answer: Json) -> dict[str, str]:
    """Return the keys of a device that a MAC is made of, by their IDs."""
    devices, masters = (cast("dict[str, Json]", answer[part])[device.user] for part in ("device_keys", "master_keys"))
    key_id = f"ed25519:{device.device}"
    device_keys = cast("dict[str, dict[str, str]]", devices[device.device])["keys"]
    master = only_key(masters)
    return {key_id: device_keys[key_id], f"ed25519:{master}": master}


def _messages(part: Mapping[Value, Value], name: str) -> tuple[Value, ...]:
    return cast("tuple[Value, ...]", part[name])


def _is_live(flow: Value) -> bool:
    return function_of(flow)["phase"] not in ("done", "cancelled", "gone")


# Which message is received


def _heard(action: str, before: State, after: State) -> list[Value]:
    """Return the messages that may be received in a step between two states of the model."""
    server, was, now = entry(before, "server"), entry(before["store"], "flow"), entry(after["store"], "flow")
    if entry(after, "server")["forged"] == server["forged"]:
        return [_messages(server, "toUs")[0]]
    right = mac_of("ours", str(was["key"]), str(entry(before, "setting")["identity"]))
    match action:
        case "ReceiveStart" | "IgnoreStart":
            return [start_of("attackers")]
        case "ReceiveCancel":
            return [CANCEL]
        case "ReceiveAccept":
            return [accept_of(str(now["commitment"]))]
        case "ReceiveKey":
            return [key_of(str(now["key"]))]
        case "ReceiveMac":
            return [right]
        case "KeepMac":
            return [right if now["mac"] == NOTHING else now["mac"]]
    # Each refused message has the same effect. One is chosen that varies from state to state.
    refused = [
        message
        for message in _forgeable(was)
        if message not in _messages(server, "toUs")[:1] and not _is_expected(message, was, right)
    ]
    turn = crc32("".join(render_value(before[part]) for part in ("peer", "store", "server")).encode()) % len(refused)
    return refused[turn:] + refused[:turn]


def _forgeable(flow: Mapping[Value, Value]) -> list[Value]:
    """Return the messages that the attacker can make, as the model says."""
    seen = flow["role"] == "starter" and flow["phase"] != "started"
    keys = ["attackers", "chosen"] if seen else ["attackers"]
    macs = [mac_of("ours", key, name) for key in ("attackers", "chosen") for name in ("genuine", "fake")]
    return [start_of("attackers"), CANCEL, *map(accept_of, keys), *map(key_of, keys), *macs]


def _is_expected(message: Value, flow: Mapping[Value, Value], right: Value) -> bool:
    """Return whether a flow waits for a message, as the model says."""
    fields, phase = function_of(message), flow["phase"]
    match fields["type"]:
        case "start":
            return phase in ("ready", "started")
        case "accept":
            return phase == "started"
        case "key":
            return phase == "accepted" and (flow["role"] != "starter" or fields["key"] == flow["commitment"])
        case "mac":
            kept = phase == "exchanged" and flow["mac"] == NOTHING
            return kept or (phase == "confirmed" and message == right)
    return True
