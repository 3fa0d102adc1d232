"""Requests of this device to the user's other devices, for secrets and room keys that are not here (M17, M18).

A request is a record until it is answered or abandoned, whichever process made it. So an answer counts only if this
device asked for it, and only if it comes from a device that was asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from unwedged.machine.account import own_device
from unwedged.machine.errors import NotAsked
from unwedged.machine.identifiers import MEGOLM, Device, DeviceId, JsonObject, RequestId
from unwedged.machine.identities import verified_own_devices
from unwedged.machine.olm import OlmEvent
from unwedged.machine.outbox import new_id, send
from unwedged.machine.records import ASKED, Asked, KnownDevice, OwnDevice, Wanted, WantedRoomKey, WantedSecret
from unwedged.store import Transaction, View

REQUEST: Final = "request"
CANCELLATION: Final = "request_cancellation"
SECRET_REQUEST: Final = "m.secret.request"  # noqa: S105 (a type of event)
ROOM_KEY_REQUEST: Final = "m.room_key_request"
MOST_ASKED: Final = 500
"""Beyond this number the oldest request is abandoned, so that nothing is requested for ever."""


async def all_asked(reading: Transaction | View) -> dict[RequestId, Asked]:
    """Return the requests of this device, oldest first."""
    every = {}
    for request_id in await reading.keys(ASKED):
        asked = await reading.get(ASKED, request_id)
        assert asked is not None  # listed above
        every[request_id] = asked
    return every


# M17.2, M18.2, M18.3
async def ask(transaction: Transaction, wanted: Sequence[Wanted]) -> None:
    """Request all of ``wanted``. What was already requested stays one request, for the earlier of the two messages."""
    every = await all_asked(transaction)
    by_name = {_name(asked.wanted): request_id for request_id, asked in every.items()}
    for each in wanted:
        request_id = by_name.get(_name(each))
        if request_id is None:
            request_id = by_name[_name(each)] = RequestId(new_id(transaction))
            every[request_id] = Asked(each)
            transaction.put(ASKED, request_id, every[request_id])
        elif _index(each) < _index(every[request_id].wanted):
            every[request_id] = msgspec.structs.replace(every[request_id], wanted=each)
            transaction.put(ASKED, request_id, every[request_id])
    for request_id in list(every)[:-MOST_ASKED]:
        await settle(transaction, request_id, every[request_id])


async def send_request(
    transaction: Transaction,
    request_id: RequestId,
    asked: Asked,
    verified: Mapping[DeviceId, KnownDevice],
) -> None:
    """Send a request to those of the user's verified devices that it was not sent to yet (M17.3)."""
    added = {device_id: each.curve25519 for device_id, each in verified.items() if device_id not in asked.devices}
    if added:
        own = await own_device(transaction)
        event_type, content = _request(own, request_id, REQUEST, asked.wanted)
        sent = send(transaction, event_type, {Device(own.user_id, device_id): content for device_id in added})
        transaction.put(ASKED, request_id, Asked(asked.wanted, asked.devices | added, (*asked.sent, sent)))


async def settle(transaction: Transaction, request_id: RequestId, asked: Asked, by: DeviceId | None = None) -> None:
    """End a request (M17.6, M17.7). All devices that were asked get a cancellation, except ``by``, which has answered.

    The cancellation is sent after the request: a device that gets it first would keep the request for ever.
    """
    own = await own_device(transaction)
    event_type, content = _request(own, request_id, CANCELLATION, asked.wanted)
    told = {Device(own.user_id, device_id): content for device_id in asked.devices if device_id != by}
    if told:
        send(transaction, event_type, told, asked.sent)
    transaction.delete(ASKED, request_id)


async def must_be_asked(transaction: Transaction, asked: Asked | None, event: OlmEvent) -> DeviceId:
    """Return the device that answers (M17.4). Raises ``NotAsked`` unless it was asked and is still verified."""
    own = await own_device(transaction)
    verified = await verified_own_devices(transaction) if event.sender == own.user_id else {}
    device = verified.get(event.sender_key)
    if device is None or device.ed25519 != event.signing_key:
        raise NotAsked("a secret or a room key comes from a device that is not one of this user's verified ones")
    if asked is None or asked.devices.get(device.device_id) != device.curve25519:
        raise NotAsked("a secret or a room key comes from a device that was not asked for it")
    return device.device_id


def _name(wanted: Wanted) -> object:
    return wanted.name


def _index(wanted: Wanted) -> int:
    return wanted.index if isinstance(wanted, WantedRoomKey) else 0


def _request(own: OwnDevice, request_id: RequestId, action: str, wanted: Wanted) -> tuple[str, JsonObject]:
    content: JsonObject = {"action": action, "request_id": request_id, "requesting_device_id": own.device_id}
    if isinstance(wanted, WantedSecret):
        return SECRET_REQUEST, content | ({"name": wanted.name} if action == REQUEST else {})
    room_id, session_id = wanted.name
    body: JsonObject = {"algorithm": MEGOLM, "room_id": room_id, "session_id": session_id}
    return ROOM_KEY_REQUEST, content | ({"body": body} if action == REQUEST else {})
