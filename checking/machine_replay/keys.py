"""Replay the module Keys on real machines: the account, one-time keys and fallback keys.

The account counts as having the private half of a key if it can decrypt a message that was made with the key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Final, NamedTuple, Self, TypeAlias, TypeVar, cast

import msgspec

from checking.errors import CheckError
from checking.machine_replay import keys_faults
from checking.machine_replay.client import Client
from checking.machine_replay.counterpart import Counterpart, Impossible, Property
from checking.machine_replay.device_keys import account_of, signed_device_keys
from checking.machine_replay.homeserver import Device, Homeserver, Json
from checking.machine_replay.shared_device import Opening, SharedDevice
from checking.replay.doubles import ManualClock
from checking.replay.model_states import Function, changed_arguments, entry, function_of, name_of
from checking.replay.substitutions import Substitution, substituted
from checking.tlc.values import Label, ModelValue, State, Value, function, record
from unwedged.machine import KeysUpload, OlmMachine, SyncPosition, account, olm
from unwedged.machine import identifiers as ids
from unwedged.machine.errors import MessageUnreadable
from unwedged.machine.ratchets import Account, OlmMessage
from unwedged.machine.records import ACCOUNT, OFFER, OWN_DEVICE, KnownDevice, OwnDevice, Peer

_OWN: Final = Device("@alice:example.org", "PHONE")
_PEER: Final = Device("@bob:example.org", "LAPTOP")
_NONE: Final = ModelValue("None")
_IDLE: Final = record(kind="none")
_TARGET: Final = 1
"""How many one-time keys the homeserver should have in the models of the faults."""
_PERIOD_MS: Final = 1_000
"""How long a fallback key is kept: much shorter than the time after which an offer is abandoned."""
_COUNTS: Final = "device_one_time_keys_count"
_UNUSED: Final = "device_unused_fallback_key_types"


class _Key(NamedTuple):
    """A one-time key of the model."""

    id: int
    serial: int
    """The number of the offer that it was made for."""


@dataclass(frozen=True)
class _Sync:
    position: SyncPosition
    response: Json


@dataclass(frozen=True)
class _Upload:
    request: KeysUpload
    response: Json | None = None


@dataclass(frozen=True)
class _NoAccount:
    """A process that is opening the store has found no account in it, and will continue later."""


_InHand: TypeAlias = "_Sync | _Upload | _NoAccount"
Held = TypeVar("Held", _Sync, _Upload)


@dataclass
class _Outside:
    server: Homeserver
    time_ms: int
    flight: dict[str, _InHand | None]
    accounts: set[str] = field(default_factory=set)
    """The identity keys of all accounts that were created."""
    ids: dict[str, int] = field(default_factory=dict)
    """The IDs of all one-time keys that were offered."""
    keys: dict[str, _Key] = field(default_factory=dict)
    """The one-time keys, by their public halves."""
    offers: list[KeysUpload] = field(default_factory=list)
    messages: dict[_Key, Json] = field(default_factory=dict)
    """A message that a claimer of each one-time key would send."""
    fallbacks: dict[str, int] = field(default_factory=dict)
    """All fallback keys, by their public halves."""
    fallback_messages: dict[int, Json] = field(default_factory=dict)
    """A message that a claimer of each fallback key would send."""
    waiting: dict[int, Json] = field(default_factory=dict)
    """The messages that were sent with a fallback key."""
    asked_offers: dict[int, int | None] = field(default_factory=dict)
    """The number of the last offer, by serial; ``None`` if an offer was open."""
    reported: int = 0
    """The count that the connection of sliding sync received last."""
    received: set[_Key] = field(default_factory=set)
    confirmed: set[_Key] = field(default_factory=set)
    claimed: set[_Key] = field(default_factory=set)
    bad: int = 0
    sent: int = 0
    """How many messages were sent to the device."""


def _keys(state: State, variable: str, part: str) -> frozenset[_Key]:
    return frozenset(map(_of_value, cast("frozenset[Value]", entry(state, variable)[part])))


def _kept(newest: int) -> set[int]:
    """Return the fallback keys that the account must keep."""
    return {number for number in (newest, newest - 1) if number > 0}


def _keys_bounded(_: State, now: State) -> str | None:
    available, offer = _keys(now, "server", "available"), entry(now, "store")["offer"]
    offered = () if offer == _NONE else cast("frozenset[Value]", cast("Function", offer)["keys"])
    wanted = available & {*_keys(now, "store", "confirmed"), *map(_of_value, offered)}
    if len(wanted) > _TARGET or len(available) > _TARGET * len(function_of(now["flight"])):
        return f"the homeserver has {sorted(available)}; of these, {sorted(wanted)} were not abandoned"
    return None


def _no_orphaned_key(_: State, now: State) -> str | None:
    handed_out = _keys(now, "server", "available") | _keys(now, "peers", "claimed")
    orphaned = handed_out - _keys(now, "store", "private")
    fallback, newest = (cast("int", entry(now, variable)["fallback"]) for variable in ("server", "store"))
    if fallback not in {0, *_kept(newest)}:
        return f"the fallback key {fallback} can't be used"
    return f"the keys {sorted(orphaned)} can't be used" if orphaned else None


def _account_created_once(_: State, now: State) -> str | None:
    accounts = cast("int", entry(now, "store")["account"])
    return f"{accounts} accounts were made" if accounts > 1 else None


def _published_is_uploaded(_: State, now: State) -> str | None:
    never_uploaded = _keys(now, "store", "confirmed") - _keys(now, "server", "received")
    return f"the homeserver never received {sorted(never_uploaded)}" if never_uploaded else None


def _no_id_twice(_: State, now: State) -> str | None:
    keys = _keys(now, "server", "received") | _keys(now, "store", "private")
    return f"two keys of {sorted(keys)} have the same ID" if len({key.id for key in keys}) < len(keys) else None


def _none_unreadable(_: State, now: State) -> str | None:
    peers = entry(now, "peers")
    unreadable = _keys(now, "peers", "claimed") - _keys(now, "store", "private")
    dropped = cast("frozenset[int]", peers["waiting"]) - _kept(cast("int", entry(now, "store")["fallback"]))
    made_with = [*sorted(unreadable), *sorted(dropped)]
    return f"messages made with {made_with} can't be decrypted" if made_with else None


def _exactly_once(was: State, now: State) -> str | None:
    given_before = _keys(was, "server", "received") - _keys(was, "server", "available")
    again = given_before & _keys(now, "server", "available")
    return f"the homeserver hands out {sorted(again)} again" if again else None


class Keys(Counterpart):
    """Each process syncs over a connection with the name of the process."""

    properties: ClassVar[Mapping[str, Property]] = {
        "AccountCreatedOnce": _account_created_once,
        "PublishedIsUploaded": _published_is_uploaded,
        "NoIdTwice": _no_id_twice,
        "NoneUnreadable": _none_unreadable,
        "KeysBounded": _keys_bounded,
        "NoOrphanedKey": _no_orphaned_key,
        "ExactlyOnce": _exactly_once,
    }
    faults: ClassVar[Mapping[str, Callable[[], Sequence[Substitution]]]] = keys_faults.FAULTS

    outside: _Outside

    def __init__(
        self, device: SharedDevice, clock: ManualClock, outside: _Outside, initial: State, resources: ExitStack
    ) -> None:
        """Use ``open`` instead."""
        self.devices = (device,)
        self._clock = clock
        self.outside = outside
        self._device = device
        self._sliding = sorted(map(name_of, function_of(entry(initial, "store")["reported"])))
        self._resources = resources
        self._target = cast("int", entry(initial, "store")["missing"])
        self._openings: dict[str, Opening] = {}
        self._given: _Sync | _Upload | None = None

    @classmethod
    async def open(cls, folder: Path, initial: State) -> Self:
        """See the base class."""
        processes = sorted(map(name_of, function_of(initial["flight"])))
        resources = ExitStack()
        target = entry(initial, "store")["missing"]
        limits = {"MOST_ONE_TIME_KEYS": target, "REFILL_BELOW": target, "FALLBACK_KEPT_MS": _PERIOD_MS}
        resources.enter_context(substituted((account, name, value) for name, value in limits.items()))
        server, clock = Homeserver(), ManualClock()
        server.sign_in(_OWN)
        server.sign_in(_PEER)
        own = ids.Device(ids.UserId(_OWN.user), ids.DeviceId(_OWN.device))
        device = await SharedDevice.open(folder / "device.store", own, processes, clock)
        await device.restore(())
        return cls(device, clock, _Outside(server, clock.now(), dict.fromkeys(processes)), initial, resources)

    async def close(self) -> None:
        """See the base class."""
        for opening in self._openings.values():
            await self._device.go_on(opening)
        await super().close()
        self._resources.close()

    @staticmethod
    def steps(action: str, before: State, after: State) -> list[Label]:
        """See the base class. A step with a key as its parameter is found by the states, not by the label."""

        def keys(variable: str, part: str, state: State) -> frozenset[Value]:
            return cast("frozenset[Value]", entry(state, variable)[part])

        if action in ("AbandonOffer", "ClaimFallback", "PeriodPasses"):
            return [Label(action)]
        if action == "ReceiveFallbackMessage":
            was, now = (cast("frozenset[int]", entry(state, "peers")["waiting"]) for state in (before, after))
            return [Label(action, (number,)) for number in was - now]
        claimed, claimed_then = keys("peers", "claimed", before), keys("peers", "claimed", after)
        if entry(before, "peers")["bad"] != entry(after, "peers")["bad"]:
            spent = keys("store", "private", before) - keys("store", "private", after)
            received = sorted(spent or keys("server", "received", before), key=_of_value)
            return [Label("ReceiveBadMessage", (key,)) for key in received]
        if claimed != claimed_then:
            (key,) = claimed ^ claimed_then
            return [Label("ClaimKey" if key in claimed_then else "ReceiveMessage", (key,))]
        processes = changed_arguments(before["flight"], after["flight"])
        if action == "CreateAccount":
            flight = function_of(before["flight"])
            processes = processes or [process for process in sorted(flight, key=name_of) if flight[process] == _IDLE]
        return [Label(action, (process,)) for process in processes]

    def choices(self) -> Sequence[Label]:
        """See the base class.

        The machine decides whether keys are offered. If keys are due, only a bound forbids it.
        """
        if not self.outside.accounts or self._is_due():
            return []
        return [Label("OfferKeys", (ModelValue(p),)) for p, held in self.outside.flight.items() if held is None]

    async def take(self, step: Label) -> None:
        """See the base class."""
        outside = self.outside
        self._clock.time_ms = outside.time_ms
        match step.action, step.parameters:
            case "FindNoAccount", (ModelValue(process),):
                rows = self._device.rows()
                opening = await self._device.begin_to_open(process)
                if opening is None:  # the machine looks for the account and creates it in one operation
                    await self._device.restore(rows)
                    raise Impossible(f"{process} looks for the account and creates it in one operation")
                self._openings[process] = opening
                outside.flight[process] = _NoAccount()
            case "CreateAccount", (ModelValue(process),):
                await self._begin(process)
                outside.flight[process] = None
            case "AnswerSync", (ModelValue(process),):
                outside.flight[process] = await self._ask(process)
            case "ReceiveSync", (ModelValue(process),):
                held = self._held(process, _Sync)
                await self._give(await self._device.machine(process), held)
                outside.flight[process], self._given = None, held
                count = _count(held.response, sliding=held.position.sliding)
                if held.position.sliding and count is not None:
                    outside.reported = count
            case (("OfferKeys" | "RepeatOffer" | "OfferForFrozen"), (ModelValue(process),)):
                await self._offer(process)
            case "AnswerUpload", (ModelValue(process),):
                self._upload(process)
            case "MarkSent", (ModelValue(process),):
                await self._mark_sent(process)
            case "MarkFailed", (ModelValue(process),):
                refused = self._held(process, _Upload)
                await (await self._device.machine(process)).mark_failed(refused.request, status=400)
                outside.flight[process] = None
            case "AbandonOffer", ():
                machine = await self._device.another_machine()
                await machine.mark_failed(outside.offers[-1], status=None)
            case "ClaimKey", (key,):
                self._claim(_of_value(key))
            case "ReceiveMessage", (key,):
                await self._deliver(outside.messages[_of_value(key)])
                outside.claimed.remove(_of_value(key))
            case "ReceiveBadMessage", (key,):
                await self._deliver(_spoilt(outside.messages[_of_value(key)]))
                outside.bad += 1
            case "ClaimFallback", ():
                outside.waiting |= self._claim_fallback()
            case "ReceiveFallbackMessage", (int(number),):
                await self._deliver(outside.waiting.pop(number))
            case "PeriodPasses", ():
                outside.time_ms += _PERIOD_MS
            case "Lose", (ModelValue(process),):
                outside.flight[process] = None
            case _:
                raise CheckError(f"the replay has no counterpart of the step {step}")
        outside.server.arrivals.clear()

    async def repeat(self, step: Label) -> bool:
        """See the base class."""
        if step.action not in ("ReceiveSync", "MarkSent"):
            return False
        assert self._given is not None  # this step had an input
        await self._give(await self._device.another_machine(), self._given)
        return True

    def observe(self) -> State:
        """See the base class."""
        outside = self.outside
        own = self._device.records(OWN_DEVICE).get(None)
        offer = self._device.records(OFFER).get(None)
        held = self._device.records(ACCOUNT).get(None)
        private = frozenset[_Key]() if held is None else self._private(held)
        offered = [upload for upload in outside.offers if offer is not None and upload.offer_id == offer.offer_id]
        fallback = 0 if own is None else self._number_of(own.fallback)
        self._must_keep(fallback, held)
        handed_out = outside.server.fallback_key(_OWN)
        reported = {} if own is None else {name: said.one_time_keys or 0 for name, said in own.reported.items()}
        return {
            "store": record(
                account=len(outside.accounts),
                next=len(outside.ids) + 1,
                private=_values(private),
                confirmed=_values(outside.confirmed & private),
                offer=_NONE
                if offer is None
                else record(
                    keys=_values(key for upload in offered for key in self._keys_of(upload)),
                    fallback=fallback if offer.fallback else 0,
                ),
                serial=len(outside.offers),
                missing=self._missing(),
                reported=function({ModelValue(process): reported.get(process, 0) for process in self._sliding}),
                fallback=fallback,
                confirmedFallback=own is not None and own.fallback_confirmed_ms is not None,
                used=own is not None and own.fallback_used,
                ripe=self._is_ripe(),
            ),
            "server": record(
                available=_values(self._available()),
                received=_values(outside.received),
                fallback=0 if handed_out is None else self._number_of(handed_out[0]),
                used=handed_out is None or handed_out[1],
                reported=function({ModelValue(process): outside.reported for process in self._sliding}),
            ),
            "peers": record(claimed=_values(outside.claimed), waiting=frozenset(outside.waiting), bad=outside.bad),
            "flight": function({ModelValue(process): self._in_hand(each) for process, each in outside.flight.items()}),
        }

    async def _begin(self, process: str) -> None:
        """Let a process create the account, and the others find it.

        Start each sliding sync without its fallback keys.
        """
        outside = self.outside
        opening = self._openings.pop(process, None)
        machine = await (self._device.reopen(process) if opening is None else self._device.go_on(opening))
        outside.accounts.add(machine.curve25519)
        for other in outside.flight.keys() - {process} - self._openings.keys():
            outside.accounts.add((await self._device.reopen(other)).curve25519)
        for connection in self._sliding:
            machine = await self._device.machine(process)
            position = await machine.sync_position(connection, sliding=True)
            response = Client(outside.server, machine).ask(position)
            del _part_of(response, sliding=True)[_UNUSED]
            await machine.receive_sync_changes(response, position)

    async def _ask(self, process: str) -> _Sync:
        outside, sliding = self.outside, process in self._sliding
        machine = await self._device.machine(process)
        position = await machine.sync_position(process, sliding=sliding)
        is_open = bool(self._device.records(OFFER))
        outside.asked_offers[position.serial] = None if is_open else len(outside.offers)
        response = Client(outside.server, machine).ask(position)
        # A homeserver may leave out a count: in classic sync if it is 0, in sliding sync if it has not changed.
        if _count(response, sliding=sliding) == (outside.reported if sliding else 0):
            del _part_of(response, sliding=sliding)[_COUNTS]
        return _Sync(position, response)

    async def _offer(self, process: str) -> None:
        outside = self.outside
        requests = await (await self._device.machine(process)).outgoing_requests()
        uploads = [request for request in requests if isinstance(request, KeysUpload)]
        if not uploads:
            raise Impossible(f"{process} offers no keys")
        (upload,) = uploads
        outside.flight[process] = _Upload(upload)
        if upload in outside.offers:
            return  # only a faulty machine offers the same keys again
        outside.offers.append(upload)
        for name, public in _public_halves(upload.body.get("one_time_keys")).items():
            key = _Key(outside.ids.setdefault(name, len(outside.ids) + 1), len(outside.offers))
            outside.keys[public], outside.messages[key] = key, self._message_with(public)
        for public in _public_halves(upload.body.get("fallback_keys")).values():
            number = outside.fallbacks.setdefault(public, len(outside.fallbacks) + 1)
            outside.fallback_messages.setdefault(number, self._message_with(public))

    def _upload(self, process: str) -> None:
        outside, upload = self.outside, self._held(process, _Upload)
        if upload.response is not None:
            raise Impossible(f"{process} has sent its offer already")
        before, body = self._available(), upload.request.body
        if "one_time_keys" in body:  # the homeserver keeps a key that it has under the same ID, without an error
            has = outside.server.one_time_keys(_OWN)
            offered = cast("Json", body["one_time_keys"])
            body = {**body, "one_time_keys": {name: key for name, key in offered.items() if name not in has}}
        status, response = outside.server.request(_OWN, upload.request.method, upload.request.path, body)
        assert status == 200
        outside.received |= self._available() - before
        outside.flight[process] = _Upload(upload.request, response)

    async def _mark_sent(self, process: str) -> None:
        outside, upload = self.outside, self._held(process, _Upload)
        if upload.response is None:
            raise Impossible(f"{process} has no response to its offer")
        was = self._device.records(OFFER).get(None)
        await self._give(await self._device.machine(process), upload)
        if was is not None and not self._device.records(OFFER):
            settled = next(each for each in outside.offers if each.offer_id == was.offer_id)
            outside.confirmed |= self._keys_of(settled)
        outside.flight[process], self._given = None, upload

    async def _give(self, machine: OlmMachine, held: _Sync | _Upload) -> None:
        match held:
            case _Sync(position, response):
                await machine.receive_sync_changes(response, position)
            case _Upload(request, response):
                assert response is not None
                await machine.mark_sent(request, response)

    def _claim(self, key: _Key) -> None:
        name = next(name for name, number in self.outside.ids.items() if number == key.id)
        self.outside.server.hand_out_first(_OWN, name)
        assert self.outside.keys[self._handed_out()] == key
        self.outside.claimed.add(key)

    def _claim_fallback(self) -> dict[int, Json]:
        public = self._handed_out()
        return {self.outside.fallbacks[public]: self._message_with(public)}

    def _handed_out(self) -> str:
        """Claim a key of this device, and return its public half."""
        claim = {"one_time_keys": {_OWN.user: {_OWN.device: ids.ONE_TIME_KEY}}}
        status, response = self.outside.server.request(_PEER, "POST", "/_matrix/client/v3/keys/claim", claim)
        assert status == 200
        of_users = cast("dict[str, dict[str, Json]]", response["one_time_keys"])
        (public,) = _public_halves(of_users[_OWN.user][_OWN.device]).values()
        return public

    async def _deliver(self, content: Json) -> None:
        """Let the device receive a message, over a connection that has no counts of keys."""
        self.outside.sent += 1
        number = f"{self.outside.sent}"
        event = {"type": "m.room.encrypted", "sender": _PEER.user, "content": content}
        machine = await self._device.another_machine()
        position = await machine.sync_position("messages", sliding=True)
        response: Json = {"pos": number, "extensions": {"to_device": {"next_batch": number, "events": [event]}}}
        await machine.receive_sync_changes(response, position)

    def _message_with(self, one_time_key: str) -> Json:
        """Return a pre-key message that begins a session with one of this device's keys."""
        recipient = KnownDevice(self._device.records(OWN_DEVICE)[None].keys)
        session = account_of(_PEER).outbound_session(recipient.curve25519, one_time_key)
        own = OwnDevice(ids.UserId(_PEER.user), ids.DeviceId(_PEER.device), signed_device_keys(_PEER))
        return olm.encrypt(Peer([session]), own, recipient, "m.dummy", {})

    def _private(self, held: Account) -> frozenset[_Key]:
        """Return the one-time keys whose messages the account can decrypt."""
        return frozenset(key for key, content in self.outside.messages.items() if _reads(held, *_parts(content)))

    def _must_keep(self, newest: int, held: Account | None) -> None:
        """Raise ``CheckError`` if the account keeps other fallback keys than the newest and the one before it."""
        messages = self.outside.fallback_messages.items() if held is not None else ()
        kept = {number for number, content in messages if held is not None and _reads(held, *_parts(content))}
        if kept != _kept(newest):
            raise CheckError(f"the account keeps the fallback keys {sorted(kept)}, but the newest is {newest}")

    def _missing(self) -> int:
        own = self._device.records(OWN_DEVICE).get(None)
        if own is None:
            return self._target
        if own.count is None or self._device.records(OFFER):
            return 0
        return max(0, self._target - own.count)  # in the reference an offer after an abandoned one is smaller

    def _is_due(self) -> bool:
        own = self._device.records(OWN_DEVICE).get(None)
        if own is None or self._device.records(OFFER):
            return False
        replaces = account.wants_new_fallback(own, self.outside.time_ms)
        return replaces or own.fallback_confirmed_ms is None or account.keys_wanted(own) > 0

    def _is_ripe(self) -> bool:
        own = self._device.records(OWN_DEVICE).get(None)
        confirmed_ms = None if own is None else own.fallback_confirmed_ms
        return confirmed_ms is not None and self.outside.time_ms - confirmed_ms >= _PERIOD_MS

    def _number_of(self, fallback: object) -> int:
        return sum(self.outside.fallbacks[public] for public in _public_halves(fallback).values())

    def _keys_of(self, upload: KeysUpload) -> set[_Key]:
        publics = _public_halves(upload.body.get("one_time_keys")).values()
        return {self.outside.keys[public] for public in publics}

    def _available(self) -> set[_Key]:
        available = _public_halves(self.outside.server.one_time_keys(_OWN)).values()
        return {self.outside.keys[public] for public in available}

    def _held(self, process: str, kind: type[Held]) -> Held:
        held = self.outside.flight[process]
        if not isinstance(held, kind):
            raise Impossible(f"{process} does not hold a {kind.__name__}")
        return held

    def _in_hand(self, held: _InHand | None) -> Value:
        match held:
            case None:
                return _IDLE
            case _NoAccount():
                return record(kind="no account")
            case _Upload(request, response):
                upload: dict[str, Value] = {
                    "serial": 1 + self.outside.offers.index(request),
                    "keys": _values(self._keys_of(request)),
                    "fallback": self._number_of(request.body.get("fallback_keys")),
                }
                if response is None:
                    return record(kind="keys", stage="request", **upload)
                counts = cast("dict[str, int]", response["one_time_key_counts"])
                return record(kind="keys", stage="response", count=counts[ids.ONE_TIME_KEY], **upload)
            case _Sync(position, response):
                unused = cast("list[str]", _part_of(response, sliding=position.sliding)[_UNUSED])
                count, asked = _count(response, sliding=position.sliding), self.outside.asked_offers[position.serial]
                return record(
                    kind="sync",
                    stage="response",
                    asked=_NONE if asked is None else asked,
                    count=_NONE if count is None else count,
                    used=ids.ONE_TIME_KEY not in unused,
                )


def _public_halves(keys: object) -> dict[str, str]:
    """Return the public halves of uploaded or claimed keys, by their IDs. ``None`` counts as no keys."""
    return {name: str(key["key"]) for name, key in cast("dict[str, Json]", keys or {}).items()}


def _part_of(response: Json, *, sliding: bool) -> Json:
    return cast("dict[str, Json]", response["extensions"])["e2ee"] if sliding else response


def _count(response: Json, *, sliding: bool) -> int | None:
    counts = _part_of(response, sliding=sliding).get(_COUNTS)
    return None if counts is None else cast("dict[str, int]", counts)[ids.ONE_TIME_KEY]


def _value(key: _Key) -> Value:
    return record(id=key.id, serial=key.serial)


def _of_value(value: Value) -> _Key:
    key = cast("Function", value)
    return _Key(cast("int", key["id"]), cast("int", key["serial"]))


def _values(keys: Iterable[_Key]) -> frozenset[Value]:
    return frozenset(map(_value, keys))


def _parts(content: Json) -> tuple[str, int, str]:
    ((_, message),) = cast("dict[str, Json]", content["ciphertext"]).items()
    return str(content["sender_key"]), cast("int", message["type"]), str(message["body"])


def _spoilt(content: Json) -> Json:
    spoilt = msgspec.json.decode(msgspec.json.encode(content), type=Json)
    ((_, message),) = cast("dict[str, Json]", spoilt["ciphertext"]).items()
    body = str(message["body"])
    message["body"] = body[:-4] + ("AAAA" if body[-4:] != "AAAA" else "BBBB")
    return spoilt


@lru_cache(maxsize=10_000)
def _reads(held: Account, sender_key: str, kind: int, body: str) -> bool:
    """Return whether an account can decrypt a pre-key message."""
    try:
        Account.from_pickle(held.pickle()).inbound_session(ids.Curve25519Key(sender_key), OlmMessage(kind, body))
    except MessageUnreadable:
        return False
    return True
