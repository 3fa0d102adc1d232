"""Verifications of devices and users, each of them a record: any process may take the next step.

A step is one commit: the flow as it is after it, what it sends, and, where it ends the verification, the trust and the
signatures that come of it. What a step does is decided in ``verification``.
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
"""So many verifications that one user has asked for are kept, those that are over included."""
FLOWS_OF_OTHERS: Final = 64
"""And so many that others than this device's own user have asked for."""


@dataclass(frozen=True)
class Verification:
    """A verification as an application shows it to a person."""

    flow_id: FlowId
    user_id: UserId
    device_id: DeviceId | None
    """The other device; ``None`` until one has answered."""
    room_id: RoomId | None
    """``None`` where the devices talk by to-device messages."""
    requested_by_us: bool
    phase: Phase
    methods: tuple[Method, ...]
    """What this device can do in it. Of a request to be accepted, what it would have to do."""
    emoji: tuple[Emoji, ...] = field(repr=False)
    """What both owners have to see, in this order; empty where one device knows no emoji."""
    decimals: tuple[int, int, int] | None = field(repr=False)
    """The same as numbers."""
    cancellation: Cancellation | None
    """Why it was cancelled."""


class _RoomEvent(Unshown, msgspec.Struct):
    event_id: EventId
    sender: UserId
    type: str
    content: JsonObject
    origin_server_ts: int
    unsigned: JsonObject = {}


class Verifications:
    """What the owner of this device does to verify others, as ``OlmMachine.verifications``."""

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
        """Ask devices of a user, all that are known or some, to verify. The first that answers takes part.

        That is how the own devices of a user verify each other; other users are asked in a room. ``methods`` are what
        this device can do. Raises ``UnknownDevice``.
        """
        wanted = None if device_ids is None else [DeviceId(device_id) for device_id in device_ids]
        return await self._store.run(request, UserId(user_id), wanted, _methods(methods), self._clock.now())

    async def request_in_room(
        self, room_id: str, user_id: str, *, methods: Collection[Method] = (Method.SAS,)
    ) -> FlowId:
        """Ask another user to verify, in a room with that user.

        What is to be sent is among the outgoing requests, as ``RoomMessage``. Give what the room brings to
        ``receive_room_event``.
        """
        names = RoomId(room_id), UserId(user_id)
        return await self._store.run(request_in_room, *names, _methods(methods), self._clock.now())

    async def accept(self, flow_id: FlowId, *, methods: Collection[Method] = (Method.SAS,)) -> None:
        """Take part in a verification that was asked for. Raises ``WrongPhase`` and ``UnsupportedVerification``."""
        accepted = _methods(methods)
        await self._act(flow_id, lambda flow, context: verification.accept(flow, accepted, context))

    async def start_sas(self, flow_id: FlowId) -> None:
        """Begin to compare short strings, once both devices are ready. Both may do so.

        Raises ``WrongPhase``, ``UnsupportedVerification``, and ``UnknownDevice`` where a query has to be sent first.
        """
        await self._act(flow_id, verification.start_sas)

    async def confirm(self, flow_id: FlowId) -> None:
        """Say that the short strings are equal; or that the other device, which scanned the QR code, shows success.

        Raises ``WrongPhase``.
        """
        await self._act(flow_id, verification.confirm)

    async def mismatch(self, flow_id: FlowId) -> None:
        """Say that they are not equal, or that it does not. That cancels the verification. Raises ``WrongPhase``."""
        await self._act(flow_id, verification.mismatch)

    async def cancel(self, flow_id: FlowId) -> None:
        """Decline a request, or give a verification up. Raises ``WrongPhase`` where it is over."""
        await self._act(flow_id, verification.cancel)

    async def qr_code(self, flow_id: FlowId) -> bytes:
        """Return what a QR code for the other device has to hold, as one segment in byte mode.

        Raises ``WrongPhase``, ``UnsupportedVerification``, and ``UnknownDevice`` where a query has to be sent first.
        """
        flow = await self._act(flow_id, verification.show_qr_code)
        assert flow.shown is not None
        return flow.shown.encode()

    async def scan_qr_code(self, flow_id: FlowId, scanned: bytes) -> None:
        """Take what the other device's QR code holds. If the keys in it are right, it is told that.

        Raises ``WrongPhase``, ``UnsupportedVerification``, ``MalformedQrCode`` and ``WrongQrCode``.
        """
        if not isinstance(scanned, bytes):
            raise InvalidArgument(f"a QR code holds bytes, and no {type(scanned).__name__}")
        code = qr.decode(scanned)
        await self._act(flow_id, lambda flow, context: verification.scan(flow, code, context))

    async def receive_room_event(
        self, room_id: str, event: JsonObject, decrypted: DecryptedEvent | None = None
    ) -> None:
        """Take an event of a room, with what it was ``decrypted`` to. What is of no verification changes nothing.

        Events may come in both processes, and again. Raises ``MalformedMessage`` and ``TooManyVerifications``.
        """
        taken = _room_event(event, decrypted)
        if taken is not None:
            await self._store.run(receive_in_room, RoomId(room_id), taken, self._clock.now())

    async def get(self, flow_id: FlowId) -> Verification | None:
        """Return a verification as it is now; ``None`` ten minutes after its end."""

        async def read(view: View) -> Verification | None:
            flow = await view.get(VERIFICATION, flow_id)
            return None if flow is None else await _shown(view, flow_id, flow, self._clock.now())

        return await self._store.query(read)

    async def get_all(self) -> list[Verification]:
        """Return all verifications, the oldest first, with those that ended in the last ten minutes."""

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
        """Iterate over the verifications that begin, change and end, whichever process sees to it.

        Each item is a ``Changed``, whose key is the flow's id, or a ``Lagged``. Once it is entered, ``get_all`` has
        what began before.
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
    """Do what the owner of this device wants. Raises ``UnknownVerification``, and what ``action`` raises."""
    flow = await transaction.get(VERIFICATION, flow_id)
    if flow is None:
        raise UnknownVerification("there is no such verification, or none any more")
    context = await _context(transaction, flow.user_id, flow.device_id, now_ms)
    if not flow.is_over and verification.time_out(flow, context).flow.is_over:
        raise WrongPhase("the verification has taken too long")
    return await _take(transaction, flow_id, flow, action(flow, context))


async def receive(transaction: Transaction, sender: UserId, event_type: str, content: JsonObject, now_ms: int) -> None:
    """Take a to-device event whose type begins with ``verification.PREFIX``.

    Raises ``MalformedMessage``, ``UnknownVerification`` and ``TooManyVerifications``, and then nothing has changed.
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
    """Take an event of a verification in a room."""
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
    """End what takes too long, and forget what has been over for long."""
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
    """Keep a flow that another device has asked for. Of several that one device asks for at once all are cancelled.

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
    """Write all that comes of a step (M16.1)."""
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
    """Have the messages of a step sent, each after the one before it (M16.5)."""
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
    """Take the id of the event that a message was sent as, where the message is the request of a flow (M16.4)."""
    for flow_id in await transaction.keys(VERIFICATION):
        flow = await transaction.get(VERIFICATION, flow_id)
        assert flow is not None  # listed above
        if flow.transaction_id is None and flow.last_sent == transaction_id:
            await _take(transaction, flow_id, flow, verification.named(flow, event_id))


async def _find(
    reading: Transaction, user_id: UserId | None, room_id: RoomId | None, name: str
) -> tuple[FlowId, VerificationFlow] | None:
    """Return the flow that messages of a user call so (M16.3). ``None`` stands for any user."""
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
    """Return an event if it can be one of a verification, with the relation that encryption leaves in the clear."""
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
