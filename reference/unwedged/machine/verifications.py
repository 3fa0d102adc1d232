"""Verifications of devices and users. Each is a record, so any process may take the next step (M16).

A step is one commit: the flow after the step, the messages that it sends, and, if it ends the flow, the resulting trust
and signatures (M16.1). ``verification`` decides what a step does.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final

import msgspec

from unwedged.machine import outbox, qr, sas, tracing, verification
from unwedged.machine.account import own_device
from unwedged.machine.errors import (
    InvalidArgument,
    MalformedMessage,
    MalformedResponse,
    TooManyVerifications,
    UnknownDevice,
    UnknownVerification,
    WrongPhase,
)
from unwedged.machine.identifiers import (
    Device,
    DeviceId,
    EventId,
    FlowId,
    JsonObject,
    RoomId,
    TransactionId,
    UserId,
)
from unwedged.machine.identities import identity_of, note_device_verified, note_identity_verified, user_trust
from unwedged.machine.records import (
    DEVICES,
    VERIFICATION,
    Cancellation,
    KnownDevice,
    Method,
    Phase,
    VerificationFlow,
)
from unwedged.machine.requests import RoomMessage
from unwedged.machine.rooms import DecryptedEvent
from unwedged.machine.sas import Emoji
from unwedged.machine.unshown import Unshown
from unwedged.machine.verification import Context, FlowStep
from unwedged.machine.wire import is_storable, parsed
from unwedged.store import Clock, CryptoStore, Subscription, Transaction, View

FLOWS_OF_A_USER: Final = 8
"""The most verifications, with those that are over, that the devices of one user may have begun (M16.17)."""
FLOWS_OF_OTHERS: Final = 64
"""The same for all users other than this device's user, together."""


@dataclass(frozen=True)
class Verification:
    """A verification, as an application shows it to a person."""

    flow_id: FlowId
    user_id: UserId
    device_id: DeviceId | None
    """The other device; ``None`` until one has answered."""
    room_id: RoomId | None
    """The room; ``None`` if the messages are to-device messages."""
    requested_by_us: bool
    phase: Phase
    methods: tuple[Method, ...]
    """The methods that both devices support. Before this device accepts: those that it would need."""
    emoji: tuple[Emoji, ...] = field(repr=False)
    """The emoji that both devices must show, in this order; empty if one device does not support them."""
    decimals: tuple[int, int, int] | None = field(repr=False)
    """The same string as three numbers."""
    cancellation: Cancellation | None
    """Why it was cancelled; ``None`` if it was not."""


class _RoomEvent(Unshown, msgspec.Struct):
    event_id: EventId
    sender: UserId
    type: str
    content: JsonObject
    origin_server_ts: int
    unsigned: JsonObject = {}


class Verifications:
    """The calls to verify devices and users: ``OlmMachine.verifications``.

    All calls that take a ``flow_id`` raise ``UnknownVerification`` if there is no such verification.
    """

    def __init__(self, store: CryptoStore, clock: Clock) -> None:
        """Callers use ``OlmMachine.verifications``."""
        self._store = store
        self._clock = clock

    async def request(
        self,
        user_id: str,
        device_ids: Iterable[str] | None = None,
        *,
        methods: Collection[Method] = (Method.SAS,),
    ) -> FlowId:
        """Ask devices of a user to verify: those given, or all known ones. The first that answers takes part.

        Use it for the devices of this device's user, and ``request_in_room`` for other users. ``methods`` are those
        that this device supports. Raises ``UnknownDevice``.
        """
        wanted = None if device_ids is None else [DeviceId(device_id) for device_id in device_ids]
        return await self._store.run(request, UserId(user_id), wanted, _methods(methods), self._clock.now())

    async def request_in_room(
        self, room_id: str, user_id: str, *, methods: Collection[Method] = (Method.SAS,)
    ) -> FlowId:
        """Ask another user to verify, in a room with that user.

        The events to send are among the outgoing requests, as ``RoomMessage``. Pass the events of the room to
        ``receive_room_event``.
        """
        names = RoomId(room_id), UserId(user_id)
        return await self._store.run(request_in_room, *names, _methods(methods), self._clock.now())

    async def accept(self, flow_id: FlowId, *, methods: Collection[Method] = (Method.SAS,)) -> None:
        """Take part in a verification that the other end has requested.

        Raises ``WrongPhase`` and ``UnsupportedVerification``.
        """
        accepted = _methods(methods)
        await self._act(flow_id, lambda flow, context: verification.accept(flow, accepted, context))

    async def start_sas(self, flow_id: FlowId) -> None:
        """Start the comparison of short strings when both devices are ready. Either device may start it.

        Raises ``WrongPhase``, ``UnsupportedVerification``, and ``UnknownDevice`` if a query must be sent first.
        """
        await self._act(flow_id, verification.start_sas)

    async def confirm(self, flow_id: FlowId) -> None:
        """Confirm that the short strings are equal, or that the device that scanned this one's QR code shows success.

        Raises ``WrongPhase``.
        """
        await self._act(flow_id, verification.confirm)

    async def mismatch(self, flow_id: FlowId) -> None:
        """Cancel, since the short strings differ or the other device does not show success. Raises ``WrongPhase``."""
        await self._act(flow_id, verification.mismatch)

    async def cancel(self, flow_id: FlowId) -> None:
        """Decline a request, or cancel a verification. Raises ``WrongPhase`` if it is over."""
        await self._act(flow_id, verification.cancel)

    async def qr_code(self, flow_id: FlowId) -> bytes:
        """Return the bytes of a QR code for the other device to scan. Draw them as one segment in byte mode.

        Raises ``WrongPhase``, ``UnsupportedVerification``, and ``UnknownDevice`` if a query must be sent first.
        """
        flow = await self._act(flow_id, verification.show_qr_code)
        assert flow.shown is not None
        return flow.shown.encode()

    async def scan_qr_code(self, flow_id: FlowId, scanned: bytes) -> None:
        """Check the bytes of the other device's QR code. If its keys are right, that device is told so (M16.13).

        Raises ``WrongPhase``, ``UnsupportedVerification``, ``MalformedQrCode`` and ``WrongQrCode``.
        """
        if not isinstance(scanned, bytes):
            raise InvalidArgument(f"a QR code holds bytes, and no {type(scanned).__name__}")
        code = qr.decode(scanned)
        await self._act(flow_id, lambda flow, context: verification.scan(flow, code, context))

    async def receive_room_event(
        self, room_id: str, event: JsonObject, decrypted: DecryptedEvent | None = None
    ) -> None:
        """Process an event of a room, with its ``decrypted`` form. An event of no verification changes nothing.

        The same event may be passed again (M16.7). Raises ``MalformedMessage`` and ``TooManyVerifications``.
        """
        taken = _room_event(event, decrypted)
        if taken is not None:
            await self._store.run(receive_in_room, RoomId(room_id), taken, self._clock.now())

    async def get(self, flow_id: FlowId) -> Verification | None:
        """Return a verification; ``None`` if it is not known, or ended more than ten minutes ago."""

        async def read(view: View) -> Verification | None:
            flow = await view.get(VERIFICATION, flow_id)
            return None if flow is None else await _shown(view, flow_id, flow, self._clock.now())

        return await self._store.query(read)

    async def get_all(self) -> list[Verification]:
        """Return all verifications, oldest first, with those that ended in the last ten minutes."""

        async def read(view: View) -> list[Verification]:
            now_ms = self._clock.now()
            shown = []
            for flow_id in await view.keys(VERIFICATION):
                flow = await view.get(VERIFICATION, flow_id)
                assert flow is not None  # listed above
                shown.append(await _shown(view, flow_id, flow, now_ms))
            return shown

        return await self._store.query(read)

    def stream(self) -> AbstractAsyncContextManager[Subscription[FlowId]]:
        """Iterate over the verifications that begin, change and end, whichever process makes the change.

        Each item is a ``Changed``, whose key is the flow's id, or a ``Lagged``. Call ``get_all`` after entering it, to
        get the verifications that began before.
        """
        return self._store.subscribe(VERIFICATION)

    async def _act(self, flow_id: FlowId, action: Callable[[VerificationFlow, Context], FlowStep]) -> VerificationFlow:
        return await self._store.run(act, flow_id, action, self._clock.now())


async def request(
    transaction: Transaction,
    user_id: UserId,
    device_ids: list[DeviceId] | None,
    methods: tuple[Method, ...],
    now_ms: int,
) -> FlowId:
    """Ask devices of a user to verify. Raises ``UnknownDevice``."""
    known = await transaction.get(DEVICES, user_id) or {}
    context = await _context(transaction, user_id, None, now_ms)
    wanted = list(known if device_ids is None else dict.fromkeys(device_ids))
    if not wanted or not set(wanted) <= known.keys():
        raise UnknownDevice("this user has no such device, as far as is known: track the user, and ask for the devices")
    flow_id = FlowId(outbox.new_id(transaction))
    await _take(transaction, flow_id, None, verification.request(context, user_id, wanted, methods, flow_id))
    return flow_id


async def request_in_room(
    transaction: Transaction, room_id: RoomId, user_id: UserId, methods: tuple[Method, ...], now_ms: int
) -> FlowId:
    """Ask a user to verify, in a room."""
    context = await _context(transaction, user_id, None, now_ms)
    flow_id = FlowId(outbox.new_id(transaction))
    step = verification.request_in_room(context, user_id, room_id, methods)
    await _take(transaction, flow_id, None, step)
    return flow_id


async def act(
    transaction: Transaction, flow_id: FlowId, action: Callable[[VerificationFlow, Context], FlowStep], now_ms: int
) -> VerificationFlow:
    """Do an action of this device's owner. Raises ``UnknownVerification``, and the exceptions of ``action``."""
    flow = await transaction.get(VERIFICATION, flow_id)
    if flow is None:
        raise UnknownVerification("there is no such verification, or none any more")
    context = await _context(transaction, flow.user_id, flow.device_id, now_ms)
    if not flow.is_over and verification.time_out(flow, context).flow.is_over:
        raise WrongPhase("the verification has taken too long")
    return await _take(transaction, flow_id, flow, action(flow, context))


async def receive(transaction: Transaction, sender: UserId, event_type: str, content: JsonObject, now_ms: int) -> None:
    """Process a to-device event whose type begins with ``verification.PREFIX``.

    Raises ``MalformedMessage``, ``UnknownVerification`` and ``TooManyVerifications``; then nothing has changed.
    """
    name = content.get("transaction_id")
    if not isinstance(name, str) or not 0 < len(name) <= verification.LONGEST_NAME:
        raise MalformedMessage("a message of a verification does not say of which")
    found = await _find(transaction, sender, None, name)
    if found is not None:
        await _receive(transaction, *found, event_type, content, now_ms)
        return
    context = await _context(transaction, sender, None, now_ms)
    match event_type:
        case verification.REQUEST:
            flow = verification.requested(context, sender, name, content)
            if flow is not None:
                await _begin(transaction, FlowStep(flow), context)
        case verification.START:
            step = verification.started_without_request(context, sender, name, content)
            await _begin(transaction, step, context)
        case verification.READY:
            step = verification.unknown_transaction(sender, name, content, context)
            known = step.flow.device_id in (await transaction.get(DEVICES, sender) or {})
            if known and not await outbox.is_full(transaction):
                _send(transaction, step)
        case verification.CANCEL:
            pass
        case _:
            raise UnknownVerification("a message is of a verification that is not known")


async def receive_in_room(transaction: Transaction, room_id: RoomId, event: _RoomEvent, now_ms: int) -> None:
    """Process an event of a verification in a room. Raises ``MalformedMessage`` and ``TooManyVerifications``."""
    own = await own_device(transaction)
    if event.type == verification.ROOM_MESSAGE:
        if event.sender == own.user_id:
            sent = event.unsigned.get("transaction_id")
            if isinstance(sent, str):
                await _note_event_id(transaction, TransactionId(sent), event.event_id)
        elif await _find(transaction, event.sender, room_id, event.event_id) is None:
            context = await _context(transaction, event.sender, None, now_ms)
            flow = verification.requested_in_room(
                context, room_id, event.sender, event.event_id, event.origin_server_ts, event.content
            )
            if flow is not None:
                await _begin(transaction, FlowStep(flow), context)
        return
    name = _related(event.content)
    if event.sender != own.user_id:
        found = await _find(transaction, event.sender, room_id, name)
        if found is not None:
            await _receive(transaction, *found, event.type, event.content, now_ms)
        return
    found = await _find(transaction, None, room_id, name)
    if found is not None:
        flow_id, flow = found
        context = await _context(transaction, flow.user_id, flow.device_id, now_ms)
        step = verification.receive_from_own_user(flow, event.type, event.content, context)
        await _take(transaction, flow_id, flow, step)


async def take_answer(transaction: Transaction, message: RoomMessage, response: JsonObject) -> None:
    """Note that an event of a verification is in its room. Raises ``MalformedResponse``."""
    event_id = response.get("event_id")
    if not isinstance(event_id, str) or not is_storable(event_id) or len(event_id) > verification.LONGEST_NAME:
        raise MalformedResponse("a homeserver gives an id to each event, of at most 255 characters")
    await _note_event_id(transaction, message.transaction_id, EventId(event_id))
    await outbox.sent(transaction, message)


async def pass_time(transaction: Transaction, now_ms: int) -> None:
    """End the flows that take too long, and forget those that have been over for long (M16.15, M16.16)."""
    for flow_id in await transaction.keys(VERIFICATION):
        flow = await transaction.get(VERIFICATION, flow_id)
        assert flow is not None  # listed above
        if verification.is_forgotten(flow, now_ms):
            transaction.delete(VERIFICATION, flow_id)
            tracing.verification(transaction, flow_id, "forgotten")
            if flow.transaction_id is None and flow.last_sent is not None:
                await outbox.take_back(transaction, flow.last_sent)
        elif not flow.is_over:
            context = await _context(transaction, flow.user_id, flow.device_id, now_ms)
            await _take(transaction, flow_id, flow, verification.time_out(flow, context))


async def _receive(
    transaction: Transaction, flow_id: FlowId, flow: VerificationFlow, event_type: str, content: JsonObject, now_ms: int
) -> None:
    context = await _context(transaction, flow.user_id, flow.device_id, now_ms)
    step = verification.time_out(flow, context)
    if not step.flow.is_over:
        step = verification.receive(flow, event_type, content, context)
    await _take(transaction, flow_id, flow, step)


# M16.17, M16.18
async def _begin(transaction: Transaction, step: FlowStep, context: Context) -> None:
    """Keep a flow that another device has begun. If one device begins several at once, all of them are cancelled.

    Raises ``TooManyVerifications``.
    """
    own_user, now_ms = context.own.user_id, context.now_ms
    asked: dict[FlowId, VerificationFlow] = {}
    for flow_id in await transaction.keys(VERIFICATION):
        flow = await transaction.get(VERIFICATION, flow_id)
        assert flow is not None  # listed above
        if not flow.requested_by_us and not verification.is_forgotten(flow, now_ms):
            asked[flow_id] = flow
    of_user = sum(flow.user_id == step.flow.user_id for flow in asked.values())
    of_others = sum(flow.user_id != own_user for flow in asked.values())
    if of_user >= FLOWS_OF_A_USER or (step.flow.user_id != own_user and of_others >= FLOWS_OF_OTHERS):
        raise TooManyVerifications("so many verifications were asked for that this one was dropped")
    end = Device(step.flow.user_id, step.flow.device_id or DeviceId(""))
    others = {
        flow_id: flow
        for flow_id, flow in asked.items()
        if not flow.is_over and Device(flow.user_id, flow.device_id or DeviceId("")) == end
    }
    for flow_id, flow in others.items():
        await _take(transaction, flow_id, flow, verification.cancel_all(flow, context))
    if others and not step.flow.is_over:
        step = verification.cancel_all(step.flow, context)
    await _take(transaction, FlowId(outbox.new_id(transaction)), None, step)


async def _take(
    transaction: Transaction, flow_id: FlowId, before: VerificationFlow | None, step: FlowStep
) -> VerificationFlow:
    """Write the flow, the messages and the result of a step (M16.1)."""
    flow = _send(transaction, step)
    if flow != before:
        transaction.put(VERIFICATION, flow_id, flow)
        tracing.verification(transaction, flow_id, flow.phase.value)
    verified = step.verified
    if verified is not None and verified.master_key is not None:
        await note_identity_verified(transaction, flow.user_id, verified.master_key)
    if verified is not None and verified.device_key is not None:
        assert flow.device_id is not None
        await note_device_verified(transaction, flow.user_id, flow.device_id, verified.device_key)
    return flow


def _send(transaction: Transaction, step: FlowStep) -> VerificationFlow:
    """Put the messages of a step into the outbox, each after the one before it (M16.5)."""
    flow = step.flow
    for message in step.outgoing:
        if flow.room_id is not None:
            sent = outbox.send_to_room(transaction, flow.room_id, message.event_type, message.content, flow.last_sent)
        else:
            contents = {Device(flow.user_id, device_id): message.content for device_id in message.device_ids}
            after = () if flow.last_sent is None else (flow.last_sent,)
            sent = outbox.send(transaction, message.event_type, contents, after)
        flow = msgspec.structs.replace(flow, last_sent=sent)
    return flow


async def _note_event_id(transaction: Transaction, transaction_id: TransactionId, event_id: EventId) -> None:
    """Note the event id of a message, if the message is the request of a flow (M16.4)."""
    for flow_id in await transaction.keys(VERIFICATION):
        flow = await transaction.get(VERIFICATION, flow_id)
        assert flow is not None  # listed above
        if flow.transaction_id is None and flow.last_sent == transaction_id:
            await _take(transaction, flow_id, flow, verification.named(flow, event_id))


async def _find(
    reading: Transaction, user_id: UserId | None, room_id: RoomId | None, name: str
) -> tuple[FlowId, VerificationFlow] | None:
    """Return the flow by the user, the room and the transaction id of its messages (M16.3). ``None`` means any user."""
    for flow_id in await reading.keys(VERIFICATION):
        flow = await reading.get(VERIFICATION, flow_id)
        assert flow is not None  # listed above
        if (flow.room_id, flow.transaction_id) == (room_id, name) and user_id in (None, flow.user_id):
            return flow_id, flow
    return None


async def _context(reading: Transaction | View, user_id: UserId, device_id: DeviceId | None, now_ms: int) -> Context:
    own = await own_device(reading)
    own_trust, theirs = await user_trust(reading, own.user_id), await identity_of(reading, user_id)
    devices = await reading.get(DEVICES, user_id) or {}
    device = None if device_id is None else devices.get(device_id)
    return Context(
        Device(own.user_id, own.device_id),
        KnownDevice(own.keys).ed25519,
        own_trust.master_key,
        own_trust.verified,
        None if device is None else device.ed25519,
        None if theirs is None else theirs.master_key,
        now_ms,
        secrets.token_bytes(sas.SECRET_BYTES),
    )


async def _shown(view: View, flow_id: FlowId, flow: VerificationFlow, now_ms: int) -> Verification:
    context = await _context(view, flow.user_id, flow.device_id, now_ms)
    flow = verification.time_out(flow, context).flow
    shown = verification.short_string(flow, context.own)
    return Verification(
        flow_id,
        flow.user_id,
        flow.device_id,
        flow.room_id,
        flow.requested_by_us,
        flow.phase,
        verification.usable(flow) if flow.ours else verification.demanded(flow),
        () if shown is None else shown.emoji,
        None if shown is None else shown.decimals,
        flow.cancellation,
    )


def _methods(methods: Collection[Method]) -> tuple[Method, ...]:
    if not methods or not all(isinstance(method, Method) for method in methods):
        raise InvalidArgument("the methods of a verification are one or more of Method")
    return tuple(dict.fromkeys(methods))


def _room_event(event: JsonObject, decrypted: DecryptedEvent | None) -> _RoomEvent | None:
    """Return an event if it may belong to a verification, with the relation, which is not encrypted."""
    event_type, content = event.get("type"), event.get("content")
    if decrypted is not None:
        if (decrypted.event_id, decrypted.sender) != (event.get("event_id"), event.get("sender")):
            raise InvalidArgument("what an event was decrypted to is that of another event")
        relation = content.get("m.relates_to") if isinstance(content, dict) else None
        event_type, content = decrypted.type, decrypted.content
        if relation is not None:
            content = {"m.relates_to": relation, **content}
    if not isinstance(event_type, str) or not isinstance(content, dict):
        return None
    is_request = event_type == verification.ROOM_MESSAGE and content.get("msgtype") == verification.REQUEST
    if not is_request and not event_type.startswith(verification.PREFIX):
        return None
    if not is_storable([event, content]):
        raise MalformedMessage("no record could keep an event of a verification")
    taken = parsed({**event, "type": event_type, "content": content}, _RoomEvent, "an event of a verification")
    if len(taken.event_id) > verification.LONGEST_NAME:
        raise MalformedMessage("an event of a verification has an id that is too long")
    return taken


def _related(content: JsonObject) -> str:
    relation = content.get("m.relates_to")
    name = relation.get("event_id") if isinstance(relation, dict) else None
    if not isinstance(name, str):
        raise MalformedMessage("an event of a verification does not say of which")
    return name
