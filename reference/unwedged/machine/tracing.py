"""The trace lines of the machine's steps, one function for each (T4). Without a tracer they do nothing.

A line is written with the transaction of its step, and dropped with it. Names are replaced by pseudonyms. A word that
others have sent is written only if this program knows it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import wraps
from itertools import islice
from typing import Concatenate, Final, ParamSpec, TypeVar

import msgspec

from unwedged.machine.errors import MachineError, MalformedMessage
from unwedged.machine.identifiers import (
    OLM,
    ONE_TIME_KEY,
    Curve25519Key,
    Device,
    EventId,
    FlowId,
    GroupSessionId,
    GroupSessionName,
    JsonObject,
    PeerName,
    RequestId,
    RoomId,
    TransactionId,
    UserId,
)
from unwedged.machine.olm_positions import olm_position
from unwedged.machine.ratchets import OlmMessage, index_of
from unwedged.machine.records import ANSWERED, DEVICES, OUTDATED, VERIFICATION, WANTED_SESSION, Backup
from unwedged.machine.requests import (
    BackupUpload,
    BackupVersionCreate,
    BackupVersionQuery,
    KeysClaim,
    KeysQuery,
    KeysUpload,
    Request,
    RoomMessage,
    SignatureUpload,
    SigningKeysUpload,
    ToDevice,
)
from unwedged.machine.sync import SyncChanges, SyncPosition
from unwedged.machine.wire import parsed
from unwedged.store import RecordKind, Transaction
from unwedged.trace import MOST_LISTED, Field, Remarks

Key = TypeVar("Key")
Value = TypeVar("Value")

KNOWN_TYPES: Final = frozenset(
    {
        "m.dummy",
        "m.forwarded_room_key",
        "m.key.verification.accept",
        "m.key.verification.cancel",
        "m.key.verification.done",
        "m.key.verification.key",
        "m.key.verification.mac",
        "m.key.verification.ready",
        "m.key.verification.request",
        "m.key.verification.start",
        "m.room.encrypted",
        "m.room_key",
        "m.room_key.withheld",
        "m.room_key_request",
        "m.secret.request",
        "m.secret.send",
    }
)
"""The types of to-device events that are written. Any other type could say something about its sender."""

KNOWN_CODES: Final = frozenset(
    {"m.blacklisted", "m.no_olm", "m.unauthorised", "m.unavailable", "m.unverified", "m.history_not_shared"}
)
"""The codes that are written of notices that a room key is withheld."""

OK: Final = "ok"
OTHER: Final = "other"
NONE: Final = "none"

Said = ParamSpec("Said")


# T1.7
def _harmless(say: Callable[Concatenate[Transaction, Said], None]) -> Callable[Concatenate[Transaction, Said], None]:
    """Make a fault in writing a line harmless to the step: only the line is missing (T1.7)."""

    @wraps(say)
    def said(transaction: Transaction, /, *args: Said.args, **kwargs: Said.kwargs) -> None:
        try:
            say(transaction, *args, **kwargs)
        except Exception as failure:  # noqa: BLE001 (no fault may reach the step)
            if (trace := transaction.trace) is not None:
                trace.miss(failure)

    return said


@_harmless
def opened(transaction: Transaction, device: Device, curve25519: Curve25519Key) -> None:
    """A process has opened the machine of this device."""
    if (trace := transaction.trace) is not None:
        peer = _peer(trace, PeerName(device.user_id, curve25519))
        trace.later(
            "open_machine", user=trace.pseudonym("user", device.user_id), device=_device(trace, device), peer=peer
        )


@_harmless
def batch(
    transaction: Transaction, asked_with: SyncPosition, changes: SyncChanges, *, lists: bool, events: bool
) -> None:
    """A sync response was processed. Its device lists and its to-device events were applied, or were stale."""
    if (trace := transaction.trace) is not None:
        trace.later(
            "batch",
            connection=trace.pseudonym("connection", asked_with.connection),
            sliding=asked_with.sliding,
            asked=_token(trace, asked_with.token),
            next=_token(trace, changes.next_token),
            lists_applied=lists,
            asked_events=_token(trace, asked_with.to_device_token),
            next_events=_token(trace, changes.next_to_device_token),
            events_applied=events,
            events=len(changes.to_device),
            serial=asked_with.serial,
            one_time_keys=NONE if changes.one_time_keys is None else changes.one_time_keys,
            fallback=_fallback(changes.unused_fallback_types),
            changed=_records(trace, OUTDATED, changes.changed),
        )


@_harmless
def received(transaction: Transaction, sender: UserId | None, event_type: str, outcome: str = OK) -> None:
    """A to-device event was processed. ``outcome`` is ``ok``, or the code that says why it could not be used."""
    if (trace := transaction.trace) is not None:
        trace.later("receive", sender=_sender(trace, sender), type=_type(event_type), outcome=outcome)


@_harmless
def decrypted_olm(
    transaction: Transaction,
    peer: PeerName,
    message: OlmMessage,
    outcome: str = OK,
    *,
    begins: bool = False,
    marks: bool = False,
) -> None:
    """An Olm message was decrypted or could not be.

    ``begins`` says whether it began a session, and ``marks`` whether there must now be a mark for a new one.
    """
    if (trace := transaction.trace) is not None:
        position = _position(trace, message.type, message.body)
        named = trace.pseudonym("message", message.body)
        mark = {"mark": _record(trace, WANTED_SESSION, peer)} if marks else {}
        trace.later(
            "decrypt_olm",
            peer=_peer(trace, peer),
            message=named,
            outcome=outcome,
            begins_session=begins,
            **mark,
            **position,
        )


@_harmless
def session_made(transaction: Transaction, peer: PeerName) -> None:
    """A session with a device was made with a claimed key, and is the first one from now on."""
    if (trace := transaction.trace) is not None:
        trace.later("make_session", peer=_peer(trace, peer))


@_harmless
def decrypted_megolm(transaction: Transaction, room_id: RoomId, raw: object, failure: MachineError | None) -> None:
    """A room event was decrypted or could not be. ``raw`` may be malformed: fields that can't be read are left out."""
    if (trace := transaction.trace) is None:
        return
    fields: dict[str, str | int] = {}
    with contextlib.suppress(MalformedMessage):
        event = parsed(raw, _Event, "a room event")
        fields["sender"], fields["event"] = (
            trace.pseudonym("user", event.sender),
            trace.pseudonym("event", event.event_id),
        )
        fields |= _session(trace, GroupSessionName(room_id, event.content.session_id))
        fields["index"] = index_of(event.content.ciphertext)
    trace.later("decrypt_megolm", outcome=OK if failure is None else failure.code, **fields)


@_harmless
def encrypted_megolm(transaction: Transaction, name: GroupSessionName, index: int) -> None:
    """A room message was encrypted with this index."""
    if (trace := transaction.trace) is not None:
        trace.later("encrypt_megolm", **_session(trace, name), index=index)


@_harmless
def sent(
    transaction: Transaction, request: TransactionId, event_type: str, contents: Mapping[Device, JsonObject]
) -> None:
    """A request with messages to devices was put into the outbox. The line has the position of each Olm message."""
    if (trace := transaction.trace) is None:
        return
    named = trace.pseudonym("request", request)
    trace.later("send", request=named, type=_type(event_type), **_devices(trace, contents))
    for device, content in contents.items():
        if content.get("algorithm") == OLM:
            [(key, body)] = msgspec.convert(content["ciphertext"], dict[Curve25519Key, _Ciphertext]).items()
            position = _position(trace, body.type, body.body)
            peer = _peer(trace, PeerName(device.user_id, key))
            trace.later("encrypt_olm", request=named, peer=peer, device=_device(trace, device), **position)


@_harmless
def shared(
    transaction: Transaction, name: GroupSessionName, indices: Mapping[Device, int], request: TransactionId
) -> None:
    """A room key was sent to devices by the messages of a request, to each device from an index on."""
    if (trace := transaction.trace) is not None:
        firsts = list(indices.values())[:MOST_LISTED]
        trace.later(
            "share",
            **_session(trace, name),
            request=trace.pseudonym("request", request),
            **_devices(trace, indices),
            indices=firsts,
        )


@_harmless
def withheld(transaction: Transaction, name: GroupSessionName, codes: Mapping[Device, str]) -> None:
    """Devices were told that they don't get a room key, and why."""
    if (trace := transaction.trace) is not None:
        known = [_code(code) for code in codes.values()][:MOST_LISTED]
        trace.later("withhold", **_session(trace, name), **_devices(trace, codes), codes=known)


@_harmless
def told_withheld(transaction: Transaction, name: GroupSessionName, code: str, sender: UserId) -> None:
    """Another device has said that it withholds a room key from this device."""
    if (trace := transaction.trace) is not None:
        sender_name = trace.pseudonym("user", sender)
        trace.later("told_withheld", **_session(trace, name), code=_code(code), sender=sender_name)


@_harmless
def room_key(
    transaction: Transaction,
    name: GroupSessionName,
    source: str,
    first_index: int,
    sender: UserId | None,
    *,
    kept: bool,
) -> None:
    """A room key has arrived from any source. It was ``kept`` if it was better than the stored one."""
    if (trace := transaction.trace) is not None:
        trace.later(
            "room_key",
            **_session(trace, name),
            source=source,
            first_index=first_index,
            sender=_sender(trace, sender),
            kept=kept,
        )


@_harmless
def offered(
    transaction: Transaction, request: KeysUpload, serial: int, *, fallback: bool, kept_ms: int | None = None
) -> None:
    """Keys were made and offered in a request. ``kept_ms`` is the age of the fallback key that is replaced."""
    if (trace := transaction.trace) is None:
        return
    ids = list(_names(request.body, "one_time_keys"))
    fields: dict[str, Field] = {} if kept_ms is None else {"kept_ms": kept_ms}
    for name in _names(request.body, "fallback_keys"):
        fields["fallback_key"] = trace.pseudonym("key", name)
    trace.later(
        "offer",
        request=_request(trace, request),
        serial=serial,
        one_time_keys=len(ids),
        keys=[trace.pseudonym("key", name) for name in ids],
        fallback=fallback,
        **fields,
    )


@_harmless
def abandoned(transaction: Transaction, offer: TransactionId) -> None:
    """An offer was abandoned: it failed, or had no answer for too long."""
    if (trace := transaction.trace) is not None:
        trace.later("abandon", request=_request(trace, KeysUpload(offer, {})))


@_harmless
def handed_out(transaction: Transaction, requests: Iterable[Request], now_ms: int) -> None:
    """Requests were handed out to be sent. The line of a key query names its marks.

    The line of a claim names its marks and its time, which bounds the time of the next one.
    """
    if (trace := transaction.trace) is None:
        return
    for request in requests:
        fields = _named(trace, request)
        if isinstance(request, KeysQuery):
            fields["marks"] = _records(trace, OUTDATED, request.users)
            fields["lists"] = _records(trace, DEVICES, request.users)
        trace.later("request", **fields)
        if isinstance(request, KeysClaim):
            peers = [PeerName(claimed.device.user_id, claimed.curve25519) for claimed in request.wanted]
            marks = [_record(trace, WANTED_SESSION, peer) for peer in peers]
            trace.later("claim", request=_request(trace, request), marks=marks, claimed_ms=now_ms)


@_harmless
def answered(transaction: Transaction, request: Request, response: JsonObject) -> None:
    """The answer to a request has arrived. The commit, if there is one, has what it changed."""
    if (trace := transaction.trace) is not None:
        fields = _named(trace, request)
        if isinstance(request, KeysUpload):
            counts = response.get("one_time_key_counts")
            count = counts.get(ONE_TIME_KEY, 0) if isinstance(counts, dict) else None
            assert isinstance(count, int)  # looked at before
            fields["one_time_keys"] = count
        trace.later("answer", **fields)


@_harmless
def verification(transaction: Transaction, flow_id: FlowId, phase: str) -> None:
    """A verification has reached a phase; ``forgotten`` if its record is deleted a while after its end."""
    if (trace := transaction.trace) is not None:
        trace.later("verification", record=_record(trace, VERIFICATION, flow_id), phase=phase)


@_harmless
def backup(transaction: Transaction, known: Backup | None) -> None:
    """What is known of the backup has changed; ``None`` if the backup was turned off."""
    if (trace := transaction.trace) is None:
        return
    if known is None:
        trace.later("backup", request="none", version="none")
        return
    version = "none" if known.version is None else trace.pseudonym("version", known.version)
    trace.later("backup", request=_request(trace, BackupVersionCreate(known.public_key, {})), version=version)


@_harmless
def given(transaction: Transaction, device: Device, request_id: RequestId, event_type: str) -> None:
    """Another device was sent what it had requested, or a refusal."""
    if (trace := transaction.trace) is not None:
        asked = trace.pseudonym("asked", device.user_id, device.device_id, request_id)
        answered = _record(trace, ANSWERED, device.device_id)
        trace.later("give", asked=asked, device=_device(trace, device), answered=answered, type=event_type)


@_harmless
def repaired(transaction: Transaction, kind: str, key: bytes) -> None:
    """A record could not be read, and counts as lost."""
    if (trace := transaction.trace) is not None:
        trace.later("repair", record=trace.record(kind, key))


class _Megolm(msgspec.Struct):
    session_id: GroupSessionId
    ciphertext: str


class _Event(msgspec.Struct):
    sender: UserId
    event_id: EventId
    content: _Megolm


class _Ciphertext(msgspec.Struct):
    type: int
    body: str


def _token(trace: Remarks, token: str | None) -> str:
    return "none" if token is None else trace.pseudonym("token", token)


def _sender(trace: Remarks, sender: UserId | None) -> str:
    return "none" if sender is None else trace.pseudonym("user", sender)


def _names(body: JsonObject, part: str) -> Iterable[str]:
    """Return the names of the keys in one part of an upload."""
    return msgspec.convert(body.get(part, {}), dict[str, object])


def _fallback(unused_types: Collection[str] | None) -> str:
    """Return the word for what a sync says about the fallback key at the homeserver."""
    return NONE if unused_types is None else "unused" if ONE_TIME_KEY in unused_types else "used"


def _records(trace: Remarks, kind: RecordKind[UserId, Value], users: Iterable[UserId]) -> list[str]:
    """Return the pseudonyms of the records of one kind by users."""
    return [_record(trace, kind, user) for user in islice(users, MOST_LISTED)]


def _named(trace: Remarks, request: Request) -> dict[str, Field]:
    return {"type": type(request).__name__, "request": _request(trace, request)}


def _record(trace: Remarks, kind: RecordKind[Key, Value], key: Key) -> str:
    return trace.record(kind.name, kind.encode_key(key))


def _type(event_type: str) -> str:
    return event_type if event_type in KNOWN_TYPES else OTHER


def _code(code: str) -> str:
    return code if code in KNOWN_CODES else OTHER


def _peer(trace: Remarks, peer: PeerName) -> str:
    return trace.pseudonym("peer", peer.user_id, peer.curve25519)


def _device(trace: Remarks, device: Device) -> str:
    return trace.pseudonym("device", device.user_id, device.device_id)


def _devices(trace: Remarks, devices: Iterable[Device]) -> dict[str, list[str]]:
    return {"devices": [_device(trace, device) for device, _ in zip(devices, range(MOST_LISTED), strict=False)]}


def _session(trace: Remarks, name: GroupSessionName) -> dict[str, str]:
    return {"session": trace.pseudonym("session", name.session_id), "room": trace.pseudonym("room", name.room_id)}


def _position(trace: Remarks, message_type: int, body: str) -> dict[str, str | int]:
    position = olm_position(message_type, body)
    return (
        {}
        if position is None
        else {"ratchet": trace.pseudonym("ratchet", position.ratchet_key), "index": position.message_index}
    )


def _request(trace: Remarks, request: Request) -> str:
    """Return the pseudonym of a request's binding (M21.3)."""
    bound: object
    match request:
        case KeysUpload():
            bound = request.offer_id
        case KeysQuery():
            bound = sorted(request.users.items())
        case KeysClaim():
            bound = sorted(request.wanted)
        case ToDevice() | RoomMessage():
            return trace.pseudonym("request", request.transaction_id)
        case SigningKeysUpload():
            bound = request.master_key
        case SignatureUpload():
            bound = sorted(request.signatures)
        case BackupVersionCreate():
            bound = request.public_key
        case BackupVersionQuery():
            bound = [request.version, request.public_key]
        case BackupUpload():
            bound = [
                request.version,
                request.public_key,
                sorted((r, sorted(n.items())) for r, n in request.numbers.items()),
            ]
    return trace.pseudonym("request", type(request).__name__, msgspec.json.encode(bound))
