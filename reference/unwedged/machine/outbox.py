"""What is to be sent to devices: a record for each request, from the commit that made it until its answer."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Mapping
from typing import Final

from unwedged.machine.identifiers import Device, DeviceId, JsonObject, TransactionId, UserId
from unwedged.machine.records import OUTBOX, OutgoingToDevice
from unwedged.machine.requests import ToDevice
from unwedged.store import Transaction, View

_MADE_HERE: Final = itertools.count()


def send(transaction: Transaction, event_type: str, contents: Mapping[Device, JsonObject]) -> None:
    """Have one request sent. Requests are listed in the order of their making, whatever the clocks say."""
    messages: dict[UserId, dict[DeviceId, JsonObject]] = {}
    for device, content in contents.items():
        messages.setdefault(device.user_id, {})[device.device_id] = content
    transaction.put(OUTBOX, new_id(transaction), OutgoingToDevice(event_type, messages))


def new_id(transaction: Transaction) -> TransactionId:
    """Return an id that no other has, and that is listed after those of all commits before, and of this one so far."""
    return TransactionId(f"{transaction.version:015d}-{next(_MADE_HERE):010d}-{secrets.token_hex(8)}")


async def waiting(reading: Transaction | View) -> list[ToDevice]:
    """List the requests that were not answered yet."""
    requests = []
    for transaction_id in await reading.keys(OUTBOX):
        outgoing = await reading.get(OUTBOX, transaction_id)
        assert outgoing is not None  # listed above
        requests.append(ToDevice(transaction_id, outgoing.event_type, outgoing.messages))
    return requests


async def sent(transaction: Transaction, request: ToDevice) -> None:
    """Note that the homeserver has taken a request."""
    if await transaction.get(OUTBOX, request.transaction_id) is not None:
        transaction.delete(OUTBOX, request.transaction_id)
