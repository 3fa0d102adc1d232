"""One sync response, one commit: its token and everything that it changes (M5). A stale response has no effect.

A large batch of events becomes records in the commit of its token. Any process then processes these, in commits of
bounded size. Events are processed in the order in which they arrived.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from unwedged.machine import (
    account,
    asking,
    devices,
    gossip,
    key_requests,
    olm,
    outbox,
    rooms,
    secrets,
    tracing,
    verification,
    verifications,
)
from unwedged.machine.errors import MachineError, MalformedMessage, MessageUnreadable, UnsupportedAlgorithm
from unwedged.machine.identifiers import OLM, Curve25519Key, JsonObject, PeerName, TransactionId, UserId
from unwedged.machine.ratchets import PRE_KEY, OlmMessage
from unwedged.machine.records import (
    ACCOUNT,
    BACKLOG,
    EARLIER_DIGESTS,
    PEER,
    PUT_ASIDE,
    SYNC,
    UNPROCESSED,
    Backlog,
    OwnDevice,
    Peer,
    PutAside,
    ReportedKeys,
)
from unwedged.machine.sync import TO_DEVICE, SyncChanges, SyncPosition
from unwedged.machine.unshown import Unshown
from unwedged.machine.wire import is_storable, parsed
from unwedged.store import MalformedRecord, StoreError, TamperedRecord, Transaction, View

EVENTS_IN_A_COMMIT: Final = 250
"""A response with more to-device events than this is not processed in the commit of its token (M5.6)."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """A to-device event that could not be used. The others were processed."""

    sender: str | None
    event_type: str | None
    code: str
    """The code of the ``MachineError``; ``put_aside`` if the event met a fault of this program and was kept;
    ``damaged`` if a part of a large batch can no longer be read from the store."""


@dataclass(frozen=True)
class ToDeviceEvent:
    """An event for the application, which the machine does not use itself. It is not stored."""

    type: str
    sender: UserId
    content: JsonObject = field(repr=False)
    encrypted: bool


@dataclass
class SyncOutcome:
    """The outcome of a response."""

    applied: bool = False
    """Whether the response was the next one. If not, it changed nothing: sync again from a new ``sync_position``."""
    events: list[ToDeviceEvent] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def add(self, other: SyncOutcome) -> None:
        """Add the outcome of a further part."""
        self.applied = self.applied or other.applied
        self.events += other.events
        self.problems += other.problems


class _Event(Unshown, msgspec.Struct):
    type: str
    sender: UserId
    content: JsonObject


class _OlmCiphertext(msgspec.Struct):
    type: int
    body: str


class _Encrypted(msgspec.Struct):
    algorithm: str
    sender_key: Curve25519Key
    ciphertext: dict[Curve25519Key, _OlmCiphertext]


async def position(view: View, connection: str, serial: int, *, sliding: bool) -> SyncPosition:
    """Return the position to ask the next sync of a connection with."""
    token = await view.get(SYNC, _position_name(connection, sliding=sliding))
    if not sliding:
        return SyncPosition(connection, token, token, sliding, serial)
    to_device_token = await view.get(SYNC, TO_DEVICE)
    return SyncPosition(connection, token, to_device_token, sliding, serial)


async def forget_position(transaction: Transaction, asked_with: SyncPosition) -> None:
    """Delete the ``pos`` of a connection if it is still the one that the homeserver has forgotten (M5.5)."""
    name = _position_name(asked_with.connection, sliding=asked_with.sliding)
    if await transaction.get(SYNC, name) == asked_with.token is not None:
        transaction.delete(SYNC, name)


async def receive(
    transaction: Transaction, changes: SyncChanges, asked_with: SyncPosition, now_ms: int
) -> tuple[SyncOutcome, bool]:
    """Apply a response. Each of its two tokens is compared separately with the stored one (M5.1, M5.2, M5.3, M5.4).

    Return the outcome, and whether parts of large batches are left.
    """
    outcome = SyncOutcome()
    name = _position_name(asked_with.connection, sliding=asked_with.sliding)
    if await transaction.get(SYNC, name) == asked_with.token:
        outcome.applied = True
        transaction.put(SYNC, name, changes.next_token)
        if asked_with.token is None:
            # The first response of a connection names no changed device lists.
            await devices.note_all_changed(transaction)
        await devices.note_changed(transaction, changes.changed)
        await devices.note_left(transaction, changes.left)
        said = ReportedKeys(changes.one_time_keys, changes.unused_fallback_types)
        await account.note_counts(transaction, asked_with, said)
    lists = outcome.applied
    events = await _takes_to_device(transaction, changes, asked_with, outcome)
    tracing.batch(transaction, asked_with, changes, lists=lists, events=events)
    backlog = await transaction.get(BACKLOG, None)
    if events:
        backlog = await _take_events(transaction, backlog, changes.to_device, outcome, now_ms)
    return outcome, backlog is not None


async def work_off(transaction: Transaction, now_ms: int) -> SyncOutcome | None:
    """Process the oldest part that is left of large batches; return ``None`` if there is none (M5.7)."""
    backlog = await transaction.get(BACKLOG, None)
    if backlog is None:
        return None
    outcome = SyncOutcome(applied=True)
    try:
        events = await transaction.get(UNPROCESSED, backlog.first) or []
    except (MalformedRecord, TamperedRecord):
        # It will never be readable. The parts after it must not wait for it.
        logger.error("a part of a large batch was damaged, and is lost")
        outcome.problems.append(Problem(None, None, "damaged"))
        events = []
    for event in events:
        await _process(transaction, event, outcome, now_ms)
    transaction.delete(UNPROCESSED, backlog.first)
    if backlog.first + 1 == backlog.next:
        transaction.delete(BACKLOG, None)
    else:
        transaction.put(BACKLOG, None, Backlog(backlog.first + 1, backlog.next))
    return outcome


async def put_aside(view: View) -> tuple[TransactionId, ...]:
    """List the events that met a fault of this program and were put aside (M5.11)."""
    return await view.keys(PUT_ASIDE)


async def try_again(transaction: Transaction, names: Iterable[TransactionId], now_ms: int) -> SyncOutcome:
    """Process once more the events that were put aside (M5.12). An event that fails again is put aside again."""
    outcome = SyncOutcome(applied=True)
    for name in names:
        aside = await transaction.get(PUT_ASIDE, name)
        if aside is None:
            continue  # another process was faster
        transaction.delete(PUT_ASIDE, name)
        event = parsed(aside.event, _Event, "an event that was put aside")
        await _process_event(transaction, event, aside.plaintext, outcome, now_ms)
    return outcome


def _position_name(connection: str, *, sliding: bool) -> str:
    return f"{'sliding' if sliding else 'classic'}:{connection}"


async def _takes_to_device(
    transaction: Transaction, changes: SyncChanges, asked_with: SyncPosition, outcome: SyncOutcome
) -> bool:
    """Return whether the to-device events of a response are the next ones. If so, move their token."""
    if not asked_with.sliding:
        return outcome.applied
    if changes.next_to_device_token is None or await transaction.get(SYNC, TO_DEVICE) != asked_with.to_device_token:
        return False
    transaction.put(SYNC, TO_DEVICE, changes.next_to_device_token)
    outcome.applied = True
    return True


# M5.6, M5.8
async def _take_events(
    transaction: Transaction, backlog: Backlog | None, events: list[object], outcome: SyncOutcome, now_ms: int
) -> Backlog | None:
    """Process events, or add them to the ``backlog`` if there is one or they are many. Return what is left."""
    if backlog is None and len(events) <= EVENTS_IN_A_COMMIT:
        for event in events:
            await _process(transaction, event, outcome, now_ms)
        return None
    well_formed = [event for event in events if isinstance(event, dict) and is_storable(event)]
    for _ in range(len(events) - len(well_formed)):
        tracing.received(transaction, None, tracing.OTHER, MalformedMessage.code)
        outcome.problems.append(Problem(None, None, MalformedMessage.code))
    if not well_formed:
        return backlog
    first, after = (0, 0) if backlog is None else (backlog.first, backlog.next)
    for start in range(0, len(well_formed), EVENTS_IN_A_COMMIT):
        transaction.put(UNPROCESSED, after, well_formed[start : start + EVENTS_IN_A_COMMIT])
        after += 1
    backlog = Backlog(first, after)
    transaction.put(BACKLOG, None, backlog)
    return backlog


async def _process(transaction: Transaction, raw: object, outcome: SyncOutcome, now_ms: int) -> None:
    """Process one event (M5.10). Raises only exceptions of the store."""
    try:
        if not is_storable(raw):
            raise MalformedMessage("no record could keep a to-device event")
        event = parsed(raw, _Event, "a to-device event")
    except MalformedMessage as error:
        tracing.received(transaction, None, tracing.OTHER, error.code)
        outcome.problems.append(Problem(None, None, error.code))
        return
    await _process_event(transaction, event, None, outcome, now_ms)


async def _process_event(
    transaction: Transaction, event: _Event, plaintext: bytes | None, outcome: SyncOutcome, now_ms: int
) -> None:
    """Process an event. If it was decrypted before, use the plaintext that was kept (M5.11)."""
    payload: olm.OlmEvent | None = None
    try:
        if event.type == "m.room.encrypted":
            content = parsed(event.content, _Encrypted, "an encrypted to-device event")
            own = await account.own_device(transaction)
            if plaintext is None:
                plaintext, begun_with = await _decrypt(transaction, event.sender, content, own)
                if begun_with is not None:
                    await olm.note_new_session(transaction, begun_with)
            payload = olm.checked(plaintext, event.sender, content.sender_key, own)
            await _use(transaction, payload, outcome, now_ms)
        elif event.type == "m.room_key.withheld":
            await rooms.note_withheld(transaction, event.sender, event.content)
        elif event.type in (asking.SECRET_REQUEST, asking.ROOM_KEY_REQUEST):
            await gossip.receive_request(transaction, event.type, event.sender, event.content)
        elif event.type.startswith(verification.PREFIX):
            await verifications.receive(transaction, event.sender, event.type, event.content, now_ms)
        else:
            outcome.events.append(ToDeviceEvent(event.type, event.sender, event.content, encrypted=False))
        tracing.received(transaction, event.sender, event.type if payload is None else payload.type)
    except MachineError as error:
        tracing.received(transaction, event.sender, event.type if payload is None else payload.type, error.code)
        outcome.problems.append(Problem(event.sender, event.type, error.code))
    except StoreError:
        raise
    except Exception as error:  # noqa: BLE001 (a fault of this program must neither lose the event nor stop the others)
        logger.error("a to-device event was put aside because of a %s", type(error).__name__)
        tracing.received(transaction, event.sender, event.type if payload is None else payload.type, "put_aside")
        outcome.problems.append(Problem(event.sender, event.type, "put_aside"))
        transaction.put(PUT_ASIDE, outbox.new_id(transaction), PutAside(msgspec.to_builtins(event), plaintext))


async def _decrypt(
    transaction: Transaction, sender: UserId, content: _Encrypted, own: OwnDevice
) -> tuple[bytes, PeerName | None]:
    """Return the plaintext, and the name of the peer if the message began a session."""
    if content.algorithm != OLM:
        raise UnsupportedAlgorithm("a to-device event is not encrypted by Olm")
    ciphertext = content.ciphertext.get(Curve25519Key(olm.own_key(own, "curve25519")))
    if ciphertext is None:
        raise MalformedMessage("an encrypted to-device event has nothing for this device")
    sender_key = content.sender_key
    name = PeerName(sender, sender_key)
    peer = await transaction.get(PEER, name) or Peer()
    message = OlmMessage(ciphertext.type, ciphertext.body)
    earlier = await transaction.get(EARLIER_DIGESTS, name) or b""
    own_account = await account.own_account(transaction) if message.type == PRE_KEY else None
    generation = peer.generation
    try:
        plaintext = olm.decrypt(own_account, peer, sender_key, message, earlier)
    except MachineError as error:
        unreadable = isinstance(error, MessageUnreadable)
        marks = unreadable and await olm.is_listed(transaction, name)
        tracing.decrypted_olm(transaction, name, message, error.code, marks=marks)
        if unreadable:
            await olm.note_wedged(transaction, name)
        raise
    begins = peer.generation != generation
    # The message can't be decrypted again. So nothing may fail from here to the return.
    if len(peer.digests) >= olm.DIGESTS_WITH_SESSIONS:
        transaction.put(EARLIER_DIGESTS, name, olm.moved_digests(peer, earlier))
    transaction.put(PEER, name, peer)
    if begins and own_account is not None:
        transaction.put(ACCOUNT, None, own_account)
    tracing.decrypted_olm(transaction, name, message, begins=begins)
    return plaintext, name if begins else None


async def _use(transaction: Transaction, event: olm.OlmEvent, outcome: SyncOutcome, now_ms: int) -> None:
    if event.type == "m.room_key":
        await rooms.receive_room_key(transaction, event)
    elif event.type == key_requests.FORWARDED_ROOM_KEY:
        await key_requests.receive_forwarded(transaction, event)
    elif event.type == secrets.SECRET_SEND:
        await secrets.receive_secret(transaction, event)
    elif event.type.startswith(verification.PREFIX):
        await verifications.receive(transaction, event.sender, event.type, event.content, now_ms)
    elif event.type != "m.dummy":
        outcome.events.append(ToDeviceEvent(event.type, event.sender, event.content, encrypted=True))
