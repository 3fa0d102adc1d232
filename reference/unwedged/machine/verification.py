"""The steps of a verification as pure functions: from a flow and an event to the next flow and its messages (M16).

The rules are those of the Matrix specification ("Key verification framework"). Everything that a flow needs is in its
record, so each step may happen in another process. A step also needs its ``Context``: the known keys, the time and
random bytes. Nothing here reads the store or sends anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from unwedged.machine import qr, sas
from unwedged.machine.errors import (
    MalformedMessage,
    NotCanonical,
    UnknownDevice,
    UnsupportedVerification,
    WrongPhase,
    WrongQrCode,
)
from unwedged.machine.identifiers import Device, DeviceId, Ed25519Key, EventId, JsonObject, RoomId, UserId
from unwedged.machine.qr import Mode, QrCode
from unwedged.machine.records import Cancellation, Method, Phase, Sas, VerificationFlow
from unwedged.machine.sas import Ephemeral, Macs, ShortString
from unwedged.machine.unpadded_base64 import to_unpadded, unpadded
from unwedged.machine.unshown import Unshown
from unwedged.machine.wire import parsed

TIMEOUT_MS: Final = 600_000
"""A verification that is not done after this time is cancelled (M16.15). One that is over is kept as long (M16.16)."""
UNANSWERED_MS: Final = 120_000
"""A request that nobody answers here is dropped after this time (M16.15)."""
EARLIEST_MS: Final = 300_000
"""A request whose time lies further ahead than this comes from a wrong clock."""
LONGEST_NAME: Final = 255
RECEIVED_KEPT: Final = 16

PREFIX: Final = "m.key.verification."
REQUEST: Final = "m.key.verification.request"
READY: Final = "m.key.verification.ready"
START: Final = "m.key.verification.start"
ACCEPT: Final = "m.key.verification.accept"
KEY: Final = "m.key.verification.key"
MAC: Final = "m.key.verification.mac"
DONE: Final = "m.key.verification.done"
CANCEL: Final = "m.key.verification.cancel"
ROOM_MESSAGE: Final = "m.room.message"

RECIPROCATE: Final = "m.reciprocate.v1"
"""The method by which a device says that it has scanned a QR code."""
COUNTERPARTS: Final[Mapping[Method, Method]] = {
    Method.SAS: Method.SAS,
    Method.SHOW_QR_CODE: Method.SCAN_QR_CODE,
    Method.SCAN_QR_CODE: Method.SHOW_QR_CODE,
}

USER: Final = "m.user"
TIMEOUT: Final = "m.timeout"
UNKNOWN_TRANSACTION: Final = "m.unknown_transaction"
UNKNOWN_METHOD: Final = "m.unknown_method"
UNEXPECTED_MESSAGE: Final = "m.unexpected_message"
KEY_MISMATCH: Final = "m.key_mismatch"
USER_MISMATCH: Final = "m.user_mismatch"
INVALID_MESSAGE: Final = "m.invalid_message"
ACCEPTED: Final = "m.accepted"
MISMATCHED_COMMITMENT: Final = "m.mismatched_commitment"
MISMATCHED_SAS: Final = "m.mismatched_sas"
REASONS: Final[Mapping[str, str]] = {
    USER: "The user has cancelled the verification.",
    TIMEOUT: "The verification took too long.",
    UNKNOWN_TRANSACTION: "No such verification is known.",
    UNKNOWN_METHOD: "The devices have no method in common.",
    UNEXPECTED_MESSAGE: "A message came out of order.",
    KEY_MISMATCH: "A key is not the one that was expected.",
    USER_MISMATCH: "The user is not the one that was expected.",
    INVALID_MESSAGE: "A message was malformed.",
    ACCEPTED: "Another device has accepted the verification.",
    MISMATCHED_COMMITMENT: "An ephemeral key is not the one that its device was committed to.",
    MISMATCHED_SAS: "The short strings differ.",
}


@dataclass(frozen=True)
class Context:
    """The input of a step apart from the flow."""

    own: Device
    own_key: Ed25519Key
    own_master_key: Ed25519Key | None
    trusts_own_master_key: bool
    """Whether this device trusts its user's master key. Only then does it send the MAC of that key (M16.12)."""
    their_key: Ed25519Key | None
    """The Ed25519 key of the other device, if it is known."""
    their_master_key: Ed25519Key | None
    """The master key of the other user, who may be this device's own user; ``None`` if it is not known."""
    now_ms: int
    random: bytes = field(repr=False)
    """32 random bytes for an ephemeral secret, used in one step only."""


@dataclass(frozen=True)
class Outgoing:
    """A message to send to devices of the other user, or to the flow's room."""

    event_type: str
    content: JsonObject = field(repr=False)
    device_ids: tuple[DeviceId, ...]
    """Empty in a room."""


@dataclass(frozen=True)
class Verified:
    """The keys that a verification has proved to belong to the other end."""

    device_key: Ed25519Key | None = None
    """The key of the other device."""
    master_key: Ed25519Key | None = None
    """The master key of the other user, who may be this device's own user."""


@dataclass(frozen=True)
class FlowStep:
    """A flow after a step, with the messages and the result of the step."""

    flow: VerificationFlow
    outgoing: tuple[Outgoing, ...] = ()
    verified: Verified | None = None
    """The result, only if this step has completed the flow."""


class _Request(Unshown, msgspec.Struct):
    from_device: DeviceId
    methods: list[str]


class _ToDeviceRequest(_Request):
    timestamp: int


class _RoomRequest(_Request):
    to: UserId


class _Start(Unshown, msgspec.Struct):
    from_device: DeviceId
    method: str


class _SasStart(_Start):
    key_agreement_protocols: list[str]
    hashes: list[str]
    message_authentication_codes: list[str]
    short_authentication_string: list[str]


class _Reciprocate(_Start):
    secret: str


class _Accept(Unshown, msgspec.Struct):
    key_agreement_protocol: str
    hash: str
    message_authentication_code: str
    short_authentication_string: list[str]
    commitment: str


class _Key(Unshown, msgspec.Struct):
    key: str


class _Mac(Unshown, msgspec.Struct):
    mac: dict[str, str]
    keys: str


# How a flow begins


def request(
    context: Context, user_id: UserId, device_ids: Collection[DeviceId], methods: Collection[Method], name: str
) -> FlowStep:
    """Ask devices of a user to verify. The first that answers takes part, and the others are told so (M16.14)."""
    flow = VerificationFlow(
        user_id,
        requested_by_us=True,
        began_ms=context.now_ms,
        expires_ms=context.now_ms + TIMEOUT_MS,
        transaction_id=name,
        recipients=tuple(device_ids),
        ours=tuple(methods),
    )
    content: JsonObject = {
        "from_device": context.own.device_id,
        "methods": _on_the_wire(flow.ours),
        "timestamp": context.now_ms,
    }
    return FlowStep(flow, (_message(flow, REQUEST, content),))


def request_in_room(context: Context, user_id: UserId, room_id: RoomId, methods: Collection[Method]) -> FlowStep:
    """Ask a user to verify, by an event in a room. Pass the event's id to ``named``: it is the transaction id."""
    flow = VerificationFlow(
        user_id,
        requested_by_us=True,
        began_ms=context.now_ms,
        expires_ms=context.now_ms + TIMEOUT_MS,
        transaction_id=None,
        room_id=room_id,
        ours=tuple(methods),
    )
    content: JsonObject = {
        "msgtype": REQUEST,
        "body": f"{context.own.user_id} asks to verify keys. This needs a client that can do so.",
        "from_device": context.own.device_id,
        "methods": _on_the_wire(flow.ours),
        "to": user_id,
    }
    return FlowStep(flow, (Outgoing(ROOM_MESSAGE, content, ()),))


def named(flow: VerificationFlow, event_id: EventId) -> FlowStep:
    """Note the id that the homeserver has given to the request of a flow in a room (M16.4)."""
    if flow.transaction_id is not None:
        return FlowStep(flow)
    flow = msgspec.structs.replace(flow, transaction_id=event_id)
    if flow.cancellation is None:
        return FlowStep(flow)
    return FlowStep(flow, (_cancel_message(flow, flow.cancellation.code),))


def requested(context: Context, user_id: UserId, name: str, content: JsonObject) -> VerificationFlow | None:
    """Return the flow that a to-device request begins; ``None`` if the request is too old or this device's own.

    Raises ``MalformedMessage``.
    """
    asked = parsed(content, _ToDeviceRequest, "a request for a verification")
    flow = _asked(context, user_id, name, None, asked, asked.timestamp)
    return None if flow is None else msgspec.structs.replace(flow, received=(_digest(REQUEST, content),))


def requested_in_room(
    context: Context, room_id: RoomId, user_id: UserId, event_id: EventId, sent_ms: int, content: JsonObject
) -> VerificationFlow | None:
    """Return the flow that a request in a room begins; ``None`` also if it is for another user.

    Raises ``MalformedMessage``.
    """
    asked = parsed(content, _RoomRequest, "a request for a verification")
    if asked.to != context.own.user_id or user_id == context.own.user_id:
        return None
    return _asked(context, user_id, event_id, room_id, asked, sent_ms)


def started_without_request(context: Context, user_id: UserId, name: str, content: JsonObject) -> FlowStep:
    """Begin a flow by a start without a request, as older clients send it. A person accepts it like a request."""
    start = parsed(content, _Start, "the start of a verification")
    if Device(user_id, start.from_device) == context.own:
        raise MalformedMessage("a verification was begun in this device's own name")
    flow = VerificationFlow(
        user_id,
        requested_by_us=False,
        began_ms=context.now_ms,
        expires_ms=context.now_ms + UNANSWERED_MS,
        transaction_id=name,
        device_id=start.from_device,
        ours=(Method.SAS,),
        theirs=(Method.SAS,),
        received=(_digest(START, content),),
    )
    step = _started(flow, content, context)
    if step.flow.is_over:
        return step
    return FlowStep(msgspec.structs.replace(step.flow, phase=Phase.REQUESTED))


# What the owner of this device does


def accept(flow: VerificationFlow, methods: Collection[Method], context: Context) -> FlowStep:
    """Take part in a verification that another device has asked for. ``methods`` are those that this device supports.

    Raises ``WrongPhase`` and ``UnsupportedVerification``.
    """
    if flow.phase is not Phase.REQUESTED or flow.requested_by_us:
        raise WrongPhase("only a verification that was asked for can be accepted, and only once")
    flow = msgspec.structs.replace(flow, ours=tuple(methods), expires_ms=flow.began_ms + TIMEOUT_MS)
    if not usable(flow):
        raise UnsupportedVerification("the device that asks for a verification knows none of these methods")
    if flow.sas is not None:
        return _accepted_start(flow, flow.sas)
    ready: JsonObject = {"from_device": context.own.device_id, "methods": _on_the_wire(usable(flow))}
    flow = msgspec.structs.replace(flow, phase=Phase.READY)
    return FlowStep(flow, (_message(flow, READY, ready),))


# M16.8
def start_sas(flow: VerificationFlow, context: Context) -> FlowStep:
    """Start the comparison of short strings. Raises ``WrongPhase``, ``UnsupportedVerification``, ``UnknownDevice``."""
    _must_be_ready(flow, Method.SAS)
    if context.their_key is None:
        raise UnknownDevice("the keys of the other device are not known yet")
    content: JsonObject = {
        "from_device": context.own.device_id,
        "method": Method.SAS.value,
        "key_agreement_protocols": [sas.KEY_AGREEMENT],
        "hashes": [sas.HASH],
        "message_authentication_codes": [sas.CODE],
        "short_authentication_string": [sas.DECIMAL, sas.EMOJI],
    }
    message = _message(flow, START, content)
    begun = Sas(context.random, message.content, we_started=True, strings=())
    return FlowStep(msgspec.structs.replace(flow, phase=Phase.STARTED, sas=begun), (message,))


# M16.12
def confirm(flow: VerificationFlow, context: Context) -> FlowStep:
    """Confirm that both devices show the same short string, or that the other device shows success after its scan.

    Raises ``WrongPhase``.
    """
    if flow.phase is Phase.SCANNED:
        assert flow.shown is not None
        shown, verified = flow.shown, Verified(master_key=flow.shown.second_key)
        if shown.mode is Mode.OWN_TRUSTED:
            verified = Verified(device_key=shown.second_key)
        return _finished(flow, verified, context)
    if flow.phase is not Phase.KEYS_EXCHANGED:
        raise WrongPhase("there is nothing to confirm yet, or nothing any more")
    exchange, device = _exchange(flow)
    keys: dict[str, str] = {_key_id(context.own.device_id): context.own_key}
    master_key = context.own_master_key
    if master_key is not None and context.trusts_own_master_key:
        keys.setdefault(_key_id(master_key), master_key)  # a device whose id equals its master key proves only itself
    proof = sas.macs(_shared(exchange), context.own, device, _name(flow), keys)
    flow = msgspec.structs.replace(flow, phase=Phase.CONFIRMED)
    sent = _message(flow, MAC, {"mac": {**proof.keys}, "keys": proof.key_ids})
    if exchange.their_macs is None:
        return FlowStep(flow, (sent,))
    checked = _checked(flow, exchange.their_macs, context)
    return FlowStep(checked.flow, (sent, *checked.outgoing), checked.verified)


def mismatch(flow: VerificationFlow, context: Context) -> FlowStep:
    """Cancel, since the short strings differ or the other device does not show success. Raises ``WrongPhase``."""
    if flow.phase is Phase.KEYS_EXCHANGED:
        return _cancelled(flow, MISMATCHED_SAS, context)
    if flow.phase is Phase.SCANNED:
        return _cancelled(flow, KEY_MISMATCH, context)
    raise WrongPhase("there is nothing to compare yet, or nothing any more")


def cancel(flow: VerificationFlow, context: Context) -> FlowStep:
    """Decline or cancel a verification. Raises ``WrongPhase`` if it is over."""
    if flow.is_over:
        raise WrongPhase("the verification is over")
    return _cancelled(flow, USER, context)


def show_qr_code(flow: VerificationFlow, context: Context) -> FlowStep:
    """Make the QR code that this device shows.

    Raises ``WrongPhase``, ``UnsupportedVerification`` and ``UnknownDevice``.
    """
    _must_be_ready(flow, Method.SHOW_QR_CODE)
    if flow.shown is not None:
        return FlowStep(flow)
    first: Ed25519Key | None
    second: Ed25519Key | None
    if flow.user_id != context.own.user_id:
        if not context.trusts_own_master_key:
            raise UnsupportedVerification("a device that does not trust its owner's master key verifies nobody by it")
        mode, first, second = Mode.OTHER_USER, context.own_master_key, context.their_master_key
    elif context.trusts_own_master_key:
        mode, first, second = Mode.OWN_TRUSTED, context.own_master_key, context.their_key
    else:
        mode, first, second = Mode.OWN_UNTRUSTED, context.own_key, context.own_master_key
    if first is None or second is None:
        raise UnknownDevice("a key that belongs into the QR code is not known yet")
    shown = QrCode(mode, _name(flow), first, second, context.random[: qr.SECRET_BYTES])
    return FlowStep(msgspec.structs.replace(flow, shown=shown))


def scan(flow: VerificationFlow, code: QrCode, context: Context) -> FlowStep:
    """Compare the other device's QR code with the keys that are known here, and tell that device (M16.13).

    Raises ``WrongPhase``, ``UnsupportedVerification``, and ``WrongQrCode`` if the code belongs to another verification.
    """
    _must_be_ready(flow, Method.SCAN_QR_CODE)
    if code.transaction_id != flow.transaction_id:
        raise WrongQrCode("the QR code is for another verification")
    if (code.mode is Mode.OTHER_USER) != (flow.user_id != context.own.user_id):
        return _cancelled(flow, USER_MISMATCH, context)
    expected = {
        Mode.OTHER_USER: (context.their_master_key, context.own_master_key),
        Mode.OWN_TRUSTED: (context.own_master_key, context.own_key),
        Mode.OWN_UNTRUSTED: (context.their_key, context.own_master_key),
    }[code.mode]
    if (code.first_key, code.second_key) != expected:
        return _cancelled(flow, KEY_MISMATCH, context)
    if code.mode is not Mode.OWN_TRUSTED and not context.trusts_own_master_key:
        # The other end would sign a key that this device does not trust.
        return _cancelled(flow, KEY_MISMATCH, context)
    content: JsonObject = {
        "from_device": context.own.device_id,
        "method": RECIPROCATE,
        "secret": to_unpadded(code.secret),
    }
    flow = msgspec.structs.replace(flow, phase=Phase.RECIPROCATED, scanned=code)
    return FlowStep(flow, (_message(flow, START, content),))


# Messages of others, and time-outs


# M16.7
def receive(flow: VerificationFlow, event_type: str, content: JsonObject, context: Context) -> FlowStep:
    """Process a message of the other end. One that is malformed or out of order cancels the verification."""
    digest = _digest(event_type, content)
    if flow.is_over or digest in flow.received:
        return FlowStep(flow)
    flow = msgspec.structs.replace(flow, received=(*flow.received, digest)[-RECEIVED_KEPT:])
    try:
        match event_type:
            case "m.key.verification.ready":
                return _receive_ready(flow, content, context)
            case "m.key.verification.start":
                return _receive_start(flow, content, context)
            case "m.key.verification.accept":
                return _receive_accept(flow, content, context)
            case "m.key.verification.key":
                return _receive_key(flow, content, context)
            case "m.key.verification.mac":
                return _receive_mac(flow, content, context)
            case "m.key.verification.done":
                return _receive_done(flow, context)
            case "m.key.verification.cancel":
                return _receive_cancel(flow, content, context)
    except (MalformedMessage, NotCanonical):
        return _cancelled(flow, INVALID_MESSAGE, context)
    return _cancelled(flow, UNEXPECTED_MESSAGE, context)


# M16.14
def receive_from_own_user(flow: VerificationFlow, event_type: str, content: JsonObject, context: Context) -> FlowStep:
    """Process an event that this device's user has sent in the room. Another device may have answered the request."""
    if flow.phase is not Phase.REQUESTED or flow.requested_by_us:
        return FlowStep(flow)
    if event_type == READY and content.get("from_device") != context.own.device_id:
        return FlowStep(_ended(flow, Cancellation(ACCEPTED, by_us=False), context))
    if event_type == CANCEL:
        return FlowStep(_ended(flow, Cancellation(USER, by_us=False), context))
    return FlowStep(flow)


def cancel_all(flow: VerificationFlow, context: Context) -> FlowStep:
    """Cancel one of several verifications that one device has begun at once (M16.18)."""
    return _cancelled(flow, UNEXPECTED_MESSAGE, context)


# M16.15
def time_out(flow: VerificationFlow, context: Context) -> FlowStep:
    """End a flow that takes too long. A request that is dropped tells nobody: another device may still answer it."""
    if flow.is_over or is_before(context.now_ms, flow.expires_ms):
        return FlowStep(flow)
    if flow.phase is Phase.REQUESTED and not flow.requested_by_us:
        return FlowStep(_ended(flow, Cancellation(TIMEOUT, by_us=True), context))
    return _cancelled(flow, TIMEOUT, context)


def is_forgotten(flow: VerificationFlow, now_ms: int) -> bool:
    """Return whether a flow has been over for long enough to be forgotten (M16.16)."""
    return flow.is_over and not is_before(now_ms, flow.ended_ms + TIMEOUT_MS)


def is_before(now_ms: int, then_ms: int) -> bool:
    """Return whether a time is ahead, by no more than the longest wait: a time further ahead is from a wrong clock."""
    return 0 < then_ms - now_ms <= TIMEOUT_MS


# What an application shows of a flow


def usable(flow: VerificationFlow) -> tuple[Method, ...]:
    """Return the methods that both devices support."""
    return tuple(method for method in flow.ours if COUNTERPARTS[method] in flow.theirs)


def demanded(flow: VerificationFlow) -> tuple[Method, ...]:
    """Return the methods that this device would need for a verification that another device has asked for."""
    return tuple(COUNTERPARTS[method] for method in flow.theirs)


def short_string(flow: VerificationFlow, own: Device) -> ShortString | None:
    """Return the short string that both owners compare, or ``None`` if it is not known yet."""
    if flow.phase not in (Phase.KEYS_EXCHANGED, Phase.CONFIRMED):
        return None
    exchange, device = _exchange(flow)
    sides = Ephemeral(own, sas.public_key(exchange.secret)), Ephemeral(device, exchange.their_key)
    starter, accepter = sides if exchange.we_started else sides[::-1]
    shown = sas.short_string(_shared(exchange), starter, accepter, _name(flow))
    return shown if sas.EMOJI in exchange.strings else ShortString((), shown.decimals)


# The messages one by one


def _receive_ready(flow: VerificationFlow, content: JsonObject, context: Context) -> FlowStep:
    ready = parsed(content, _Request, "the answer to a request for a verification")
    if flow.recipients and ready.from_device not in flow.recipients:
        return FlowStep(flow)
    if flow.device_id not in (None, ready.from_device):
        return FlowStep(flow)  # another device has answered first, and this one was told so
    if not flow.requested_by_us or flow.phase is not Phase.REQUESTED:
        return _cancelled(flow, UNEXPECTED_MESSAGE, context)
    others = tuple(device_id for device_id in flow.recipients if device_id != ready.from_device)
    flow = msgspec.structs.replace(
        flow, phase=Phase.READY, device_id=ready.from_device, theirs=_from_the_wire(ready.methods)
    )
    step = FlowStep(flow) if usable(flow) else _cancelled(flow, UNKNOWN_METHOD, context)
    told = (_cancel_message(flow, ACCEPTED, others),) if others else ()
    return FlowStep(step.flow, (*told, *step.outgoing))


# M16.9
def _receive_start(flow: VerificationFlow, content: JsonObject, context: Context) -> FlowStep:
    start = parsed(content, _Start, "the start of a verification")
    if start.from_device != flow.device_id:
        return FlowStep(flow)
    if flow.phase in (Phase.STARTED, Phase.RECIPROCATED):
        ours = Method.SAS.value if flow.phase is Phase.STARTED else RECIPROCATE
        if start.method != ours:
            return _cancelled(flow, UNEXPECTED_MESSAGE, context)
        if context.own < Device(flow.user_id, flow.device_id):
            return FlowStep(flow)  # both have started, and this device's start counts
        flow = msgspec.structs.replace(flow, phase=Phase.READY, sas=None, scanned=None)
    if flow.phase is not Phase.READY:
        return _cancelled(flow, UNEXPECTED_MESSAGE, context)
    if start.method == RECIPROCATE:
        return _reciprocated(flow, content, context)
    step = _started(flow, content, context)
    return step if step.flow.sas is None else _accepted_start(step.flow, step.flow.sas)


def _started(flow: VerificationFlow, content: JsonObject, context: Context) -> FlowStep:
    """Note the other device's start of a comparison of short strings."""
    if content.get("method") != Method.SAS.value or Method.SAS not in usable(flow):
        return _cancelled(flow, UNKNOWN_METHOD, context)
    start = parsed(content, _SasStart, "the start of a comparison")
    strings = tuple(each for each in (sas.DECIMAL, sas.EMOJI) if each in start.short_authentication_string)
    if (
        sas.KEY_AGREEMENT not in start.key_agreement_protocols
        or sas.HASH not in start.hashes
        or sas.CODE not in start.message_authentication_codes
        or not strings
    ):
        return _cancelled(flow, UNKNOWN_METHOD, context)
    sas.commitment("", content)  # it raises if there can be no commitment to this start
    return FlowStep(msgspec.structs.replace(flow, sas=Sas(context.random, content, we_started=False, strings=strings)))


def _accepted_start(flow: VerificationFlow, exchange: Sas) -> FlowStep:
    content: JsonObject = {
        "method": Method.SAS.value,
        "key_agreement_protocol": sas.KEY_AGREEMENT,
        "hash": sas.HASH,
        "message_authentication_code": sas.CODE,
        "short_authentication_string": [*exchange.strings],
        "commitment": sas.commitment(sas.public_key(exchange.secret), exchange.start),
    }
    flow = msgspec.structs.replace(flow, phase=Phase.ACCEPTED)
    return FlowStep(flow, (_message(flow, ACCEPT, content),))


def _reciprocated(flow: VerificationFlow, content: JsonObject, context: Context) -> FlowStep:
    start = parsed(content, _Reciprocate, "the start of a verification by QR code")
    if flow.shown is None:
        return _cancelled(flow, UNKNOWN_METHOD, context)
    if not sas.is_equal(start.secret, to_unpadded(flow.shown.secret)):
        return _cancelled(flow, KEY_MISMATCH, context)
    return FlowStep(msgspec.structs.replace(flow, phase=Phase.SCANNED))


def _receive_accept(flow: VerificationFlow, content: JsonObject, context: Context) -> FlowStep:
    if flow.phase is not Phase.STARTED:
        return _cancelled(flow, UNEXPECTED_MESSAGE, context)
    chosen = parsed(content, _Accept, "what a device has chosen for a comparison")
    strings = tuple(each for each in (sas.DECIMAL, sas.EMOJI) if each in chosen.short_authentication_string)
    parts = chosen.key_agreement_protocol, chosen.hash, chosen.message_authentication_code
    if parts != (sas.KEY_AGREEMENT, sas.HASH, sas.CODE) or not strings:
        return _cancelled(flow, UNKNOWN_METHOD, context)
    exchange = msgspec.structs.replace(_exchange(flow)[0], strings=strings, commitment=chosen.commitment)
    flow = msgspec.structs.replace(flow, phase=Phase.ACCEPTED, sas=exchange)
    return FlowStep(flow, (_key_message(flow, exchange),))


# M16.10
def _receive_key(flow: VerificationFlow, content: JsonObject, context: Context) -> FlowStep:
    exchange, _ = _exchange(flow) if flow.phase is Phase.ACCEPTED else (None, None)
    if exchange is None:
        return _cancelled(flow, UNEXPECTED_MESSAGE, context)
    key = parsed(content, _Key, "an ephemeral key").key
    sas.shared_secret(exchange.secret, key)
    key = to_unpadded(unpadded(key))
    if exchange.we_started and not sas.is_equal(exchange.commitment, sas.commitment(key, exchange.start)):
        return _cancelled(flow, MISMATCHED_COMMITMENT, context)
    exchange = msgspec.structs.replace(exchange, their_key=key)
    flow = msgspec.structs.replace(flow, phase=Phase.KEYS_EXCHANGED, sas=exchange)
    return FlowStep(flow, () if exchange.we_started else (_key_message(flow, exchange),))


def _receive_mac(flow: VerificationFlow, content: JsonObject, context: Context) -> FlowStep:
    if flow.phase not in (Phase.KEYS_EXCHANGED, Phase.CONFIRMED):
        return _cancelled(flow, UNEXPECTED_MESSAGE, context)
    proof = parsed(content, _Mac, "the proof of keys")
    exchange, _ = _exchange(flow)
    theirs = Macs(proof.mac, proof.keys)
    if flow.phase is Phase.CONFIRMED:
        return _checked(flow, theirs, context)
    if exchange.their_macs is not None:
        return _cancelled(flow, UNEXPECTED_MESSAGE, context)
    return FlowStep(msgspec.structs.replace(flow, sas=msgspec.structs.replace(exchange, their_macs=theirs)))


def _receive_done(flow: VerificationFlow, context: Context) -> FlowStep:
    if flow.phase is Phase.SCANNED:
        return FlowStep(flow)  # the device that has scanned is done; the person has not confirmed here yet
    if flow.phase is not Phase.RECIPROCATED:
        return _cancelled(flow, UNEXPECTED_MESSAGE, context)
    assert flow.scanned is not None
    scanned, verified = flow.scanned, Verified(master_key=flow.scanned.first_key)
    if scanned.mode is Mode.OWN_UNTRUSTED:
        verified = Verified(device_key=scanned.first_key)
    return _finished(flow, verified, context)


def _receive_cancel(flow: VerificationFlow, content: JsonObject, context: Context) -> FlowStep:
    code = content.get("code")
    code = code[:LONGEST_NAME] if isinstance(code, str) else USER
    told: tuple[Outgoing, ...] = ()
    if flow.phase is Phase.REQUESTED and flow.requested_by_us and len(flow.recipients) > 1:
        told = (_cancel_message(flow, USER),)  # it has declined for all
    return FlowStep(_ended(flow, Cancellation(code, by_us=False), context), told)


# Helpers


def unknown_transaction(user_id: UserId, name: str, content: JsonObject, context: Context) -> FlowStep:
    """Answer a message of an unknown verification with a cancellation. It begins no flow."""
    answered = parsed(content, _Request, "the answer to a request for a verification")
    flow = VerificationFlow(
        user_id,
        requested_by_us=False,
        began_ms=context.now_ms,
        expires_ms=context.now_ms,
        transaction_id=name,
        device_id=answered.from_device,
    )
    return _cancelled(flow, UNKNOWN_TRANSACTION, context)


def _asked(
    context: Context, user_id: UserId, name: str, room_id: RoomId | None, asked: _Request, sent_ms: int
) -> VerificationFlow | None:
    if Device(user_id, asked.from_device) == context.own:
        return None
    if not -EARLIEST_MS < context.now_ms - sent_ms < TIMEOUT_MS:
        return None
    return VerificationFlow(
        user_id,
        requested_by_us=False,
        began_ms=context.now_ms,
        expires_ms=min(sent_ms + TIMEOUT_MS, context.now_ms + UNANSWERED_MS),
        transaction_id=name,
        device_id=asked.from_device,
        room_id=room_id,
        theirs=_from_the_wire(asked.methods),
    )


# M16.11, M16.12
def _checked(flow: VerificationFlow, theirs: Macs, context: Context) -> FlowStep:
    """End a confirmed comparison: compare the keys that the other device proves with those that are known here."""
    exchange, device = _exchange(flow)
    known = {_key_id(key): key for key in (context.their_master_key,) if key is not None}
    if context.their_key is not None and _key_id(device.device_id) not in known:
        known[_key_id(device.device_id)] = context.their_key
    elif context.their_key is not None:
        known = {}  # a device whose id equals a key could pass for that key
    proven = sas.proven(_shared(exchange), device, context.own, _name(flow), theirs, known)
    if not proven:
        return _cancelled(flow, KEY_MISMATCH, context)
    by_device = _key_id(device.device_id) in proven
    by_master = context.their_master_key is not None and _key_id(context.their_master_key) in proven
    verified = Verified(
        context.their_key if by_device else None,
        context.their_master_key if by_master else None,
    )
    return _finished(flow, verified, context)


def _finished(flow: VerificationFlow, verified: Verified, context: Context) -> FlowStep:
    """End a verification with its result, if the compared keys are still those of the other end (M16.11)."""
    if (verified.device_key or context.their_key, verified.master_key or context.their_master_key) != (
        context.their_key,
        context.their_master_key,
    ):
        return _cancelled(flow, KEY_MISMATCH, context)
    ended = msgspec.structs.replace(_ended(flow, None, context), phase=Phase.DONE)
    return FlowStep(ended, (_message(flow, DONE, {}),), verified)


def _cancelled(flow: VerificationFlow, code: str, context: Context) -> FlowStep:
    message = () if flow.transaction_id is None else (_cancel_message(flow, code),)
    return FlowStep(_ended(flow, Cancellation(code, by_us=True), context), message)


# M16.2
def _ended(flow: VerificationFlow, cancellation: Cancellation | None, context: Context) -> VerificationFlow:
    return msgspec.structs.replace(
        flow,
        phase=Phase.CANCELLED,
        cancellation=cancellation,
        ended_ms=context.now_ms,
        sas=None,
        shown=None,
        scanned=None,
    )


def _digest(event_type: str, content: JsonObject) -> bytes:
    return hashlib.sha256(msgspec.json.encode([event_type, content], order="sorted")).digest()[:8]


def _message(
    flow: VerificationFlow, event_type: str, content: JsonObject, device_ids: tuple[DeviceId, ...] | None = None
) -> Outgoing:
    """Address a message: to the given devices, or else to the one that takes part, or else to all that were asked."""
    if flow.room_id is not None:
        relation = {"rel_type": "m.reference", "event_id": _name(flow)}
        return Outgoing(event_type, {**content, "m.relates_to": relation}, ())
    if device_ids is None:
        device_ids = flow.recipients if flow.device_id is None else (flow.device_id,)
    return Outgoing(event_type, {**content, "transaction_id": _name(flow)}, device_ids)


def _cancel_message(flow: VerificationFlow, code: str, device_ids: tuple[DeviceId, ...] | None = None) -> Outgoing:
    return _message(flow, CANCEL, {"code": code, "reason": REASONS[code]}, device_ids)


def _key_message(flow: VerificationFlow, exchange: Sas) -> Outgoing:
    return _message(flow, KEY, {"key": sas.public_key(exchange.secret)})


def _must_be_ready(flow: VerificationFlow, method: Method) -> None:
    if flow.phase is not Phase.READY:
        raise WrongPhase("a method is chosen when both devices are ready, and only once")
    if method not in usable(flow):
        raise UnsupportedVerification("one of the two devices can't do this")


def _exchange(flow: VerificationFlow) -> tuple[Sas, Device]:
    """Return the comparison of a flow, and the device at its other end."""
    assert flow.sas is not None
    assert flow.device_id is not None
    return flow.sas, Device(flow.user_id, flow.device_id)


def _shared(exchange: Sas) -> bytes:
    return sas.shared_secret(exchange.secret, exchange.their_key)


def _name(flow: VerificationFlow) -> str:
    assert flow.transaction_id is not None  # nothing is sent or received before it is known
    return flow.transaction_id


def _key_id(name: str) -> str:
    return f"ed25519:{name}"


def _from_the_wire(names: Collection[str]) -> tuple[Method, ...]:
    return tuple(each for each in Method if each.value in names and (each is Method.SAS or RECIPROCATE in names))


def _on_the_wire(methods: Collection[Method]) -> list[str]:
    names = [method.value for method in methods]
    return names if set(methods) <= {Method.SAS} else [*names, RECIPROCATE]
