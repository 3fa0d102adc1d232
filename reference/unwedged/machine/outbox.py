"""Messages to devices and events for rooms that are to be sent: one record each, until it is answered (M13.1)."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Mapping
from typing import Final

from unwedged.machine import tracing
from unwedged.machine.identifiers import Device, DeviceId, JsonObject, RoomId, TransactionId, UserId
from unwedged.machine.records import OUTBOX, ROOM_OUTBOX, OutgoingToDevice, OutgoingToRoom
from unwedged.machine.requests import RoomMessage, ToDevice
from unwedged.store import Transaction, View

MOST_UNSENT: Final = 100
"""While this many messages are unsent, requests that anybody could repeat without end are not answered."""

_MADE_HERE: Final = itertools.count()


def send(
    transaction: Transaction,
    event_type: str,
    contents: Mapping[Device, JsonObject],
    after: tuple[TransactionId, ...] = (),
) -> TransactionId:
    """Note one request to send. Requests are listed in the order of the commits that made them, not by a clock.

    This one is listed only when all requests in ``after`` are answered.
    """
    messages: dict[UserId, dict[DeviceId, JsonObject]] = {}
    for device, content in contents.items():
        messages.setdefault(device.user_id, {})[device.device_id] = content
    transaction_id = new_id(transaction)
    transaction.put(OUTBOX, transaction_id, OutgoingToDevice(event_type, messages, after))
    tracing.sent(transaction, transaction_id, event_type, contents)
    return transaction_id


# M16.6
def send_to_room(
    transaction: Transaction, room_id: RoomId, event_type: str, content: JsonObject, after: TransactionId | None = None
) -> TransactionId:
    """Note one event to send to a room, ``after`` another one. The application encrypts it if the room is encrypted."""
    transaction_id = new_id(transaction)
    transaction.put(ROOM_OUTBOX, transaction_id, OutgoingToRoom(room_id, event_type, content, after))
    return transaction_id


# M13.1
def new_id(transaction: Transaction) -> TransactionId:
    """Return a new id that sorts after all ids of earlier commits, and after those of this commit so far."""
    return TransactionId(f"{transaction.version:015d}-{next(_MADE_HERE):010d}-{secrets.token_hex(8)}")


async def is_full(transaction: Transaction) -> bool:
    """Return whether ``MOST_UNSENT`` messages to devices are unsent (M17.11)."""
    return len(await transaction.keys(OUTBOX)) >= MOST_UNSENT


async def waiting(reading: Transaction | View) -> list[ToDevice | RoomMessage]:
    """List the requests that are not answered yet, except those that must follow one that is not (M13.1, M16.5)."""
    to_device, to_room = await reading.keys(OUTBOX), await reading.keys(ROOM_OUTBOX)
    unanswered = {*to_device, *to_room}
    requests: list[ToDevice | RoomMessage] = []
    for transaction_id in to_device:
        outgoing = await reading.get(OUTBOX, transaction_id)
        assert outgoing is not None  # listed above
        if unanswered.isdisjoint(outgoing.after):
            requests.append(ToDevice(transaction_id, outgoing.event_type, outgoing.messages))
    for transaction_id in to_room:
        event = await reading.get(ROOM_OUTBOX, transaction_id)
        assert event is not None  # as above
        if event.after not in unanswered:
            requests.append(RoomMessage(transaction_id, event.room_id, event.event_type, event.content))
    return requests


async def take_back(transaction: Transaction, transaction_id: TransactionId) -> None:
    """Stop sending an event to its room, unless it is known to be in the room."""
    if await transaction.get(ROOM_OUTBOX, transaction_id) is not None:
        transaction.delete(ROOM_OUTBOX, transaction_id)


async def sent(transaction: Transaction, request: ToDevice | RoomMessage) -> None:
    """Delete a request that the homeserver has accepted, or has refused for good."""
    if isinstance(request, RoomMessage):
        await take_back(transaction, request.transaction_id)
    elif await transaction.get(OUTBOX, request.transaction_id) is not None:
        transaction.delete(OUTBOX, request.transaction_id)
