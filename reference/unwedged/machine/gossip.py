"""Requests for secrets and room keys by other devices of this user. Any process answers them (M17, M18).

A request of another device is a record. It waits while that device is not verified, or has no session with this one.
The commit that answers a request deletes it and remembers its id. So each request is answered once, even if its event
comes again on another connection.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

import msgspec

from unwedged.machine import asking, key_requests, olm, secrets, tracing
from unwedged.machine.account import own_device
from unwedged.machine.devices import note_changed, track
from unwedged.machine.errors import MalformedMessage, RequestRefused, UnsupportedAlgorithm
from unwedged.machine.identifiers import (
    MEGOLM,
    Device,
    DeviceId,
    GroupSessionId,
    GroupSessionName,
    JsonObject,
    PeerName,
    RequestId,
    RoomId,
    UserId,
)
from unwedged.machine.identities import verified_own_devices
from unwedged.machine.outbox import is_full, send
from unwedged.machine.records import (
    ANSWERED,
    DEVICES,
    OUTDATED,
    PEER,
    WAITING,
    KnownDevice,
    LocalTrust,
    OwnDevice,
    Peer,
    Wanted,
    WantedRoomKey,
    WantedSecret,
)
from unwedged.machine.rooms import UNAVAILABLE
from unwedged.machine.sharing import BLOCKED
from unwedged.machine.wire import parsed
from unwedged.store import Transaction

MOST_WAITING: Final = 200
"""The most requests of one device that may wait."""
MOST_REQUESTERS: Final = 50
"""The most devices whose requests may wait."""
KEPT_ANSWERED: Final = 2 * MOST_WAITING
NOT_GIVEN: Final = "The device that was asked does not give this key, or has not got it."
LONGEST_ID: Final = 255
LONGEST_WANTED: Final = 1_000
"""The longest JSON of what is requested, in bytes. These limits bound the size of what waits for one device."""


class _DeviceRequest(msgspec.Struct):
    action: str
    request_id: RequestId
    requesting_device_id: DeviceId


class _SecretRequest(msgspec.Struct):
    name: str


class _WantedRoomKey(msgspec.Struct):
    algorithm: str
    room_id: RoomId
    session_id: GroupSessionId


class _RoomKeyRequest(msgspec.Struct):
    body: _WantedRoomKey


async def receive_request(transaction: Transaction, event_type: str, sender: UserId, content: JsonObject) -> None:
    """Note a request of another device of this user, or its cancellation (M17.8, M17.9, M17.10, M17.12).

    Raises ``MalformedMessage``, ``UnsupportedAlgorithm``, and ``RequestRefused`` for another user's request or one too
    many.
    """
    request = parsed(content, _DeviceRequest, "a request of another device")
    own = await own_device(transaction)
    if sender != own.user_id:
        raise RequestRefused("secrets and room keys go to this user's own devices")
    device_id, request_id = request.requesting_device_id, request.request_id
    if device_id == own.device_id:
        return  # This device's own request, which was sent to all.
    if max(len(device_id), len(request_id)) > LONGEST_ID:
        raise MalformedMessage("a request of another device has names that are too long")
    if _digest(request_id) in (await transaction.get(ANSWERED, device_id) or []):
        return
    waiting = await transaction.get(WAITING, device_id) or {}
    known = device_id in (await transaction.get(DEVICES, own.user_id) or {})
    if request.action == asking.CANCELLATION:
        if known or request_id in waiting:
            await _note_done(transaction, device_id, waiting, [request_id])
    elif request.action != asking.REQUEST:
        raise MalformedMessage("a request of another device says not what is to be done")
    elif request_id not in waiting:
        wanted = _wanted(event_type, content)
        requesters = 0 if waiting else len(await transaction.keys(WAITING))
        if len(waiting) >= MOST_WAITING or requesters >= MOST_REQUESTERS:
            raise RequestRefused("too many requests wait already")
        transaction.put(WAITING, device_id, {**waiting, request_id: wanted})
        await track(transaction, [own.user_id])
        if not known:
            await note_changed(transaction, [own.user_id])


# M17.3, M17.6
async def work_off(transaction: Transaction) -> None:
    """Send this device's requests to verified devices that did not get them yet; answer other devices' requests.

    A request of this device ends if what it asks for has arrived in another way.
    """
    every, requesters = await asking.all_asked(transaction), await transaction.keys(WAITING)
    if not every and not requesters:
        return
    own = await own_device(transaction)
    devices = await transaction.get(DEVICES, own.user_id) or {}
    verified = {device.device_id: device for device in (await verified_own_devices(transaction)).values()}
    for request_id, asked in every.items():
        if await _is_here(transaction, asked.wanted):
            await asking.settle(transaction, request_id, asked)
        else:
            await asking.send_request(transaction, request_id, asked, verified)
    for device_id in requesters:
        await _answer(transaction, own, device_id, devices.get(device_id), verified=device_id in verified)


# M17.1, M17.8, M17.10, M17.11
async def _answer(
    transaction: Transaction,
    own: OwnDevice,
    device_id: DeviceId,
    device: KnownDevice | None,
    *,
    verified: bool,
) -> None:
    """Answer the requests of one device if it is verified and there is a session with it. Otherwise they wait.

    A blocked device is told of each room key that it gets none. Its requests wait while too many messages are unsent.
    """
    waiting = await transaction.get(WAITING, device_id)
    assert waiting is not None  # listed by the caller
    if device is None:
        if await transaction.get(OUTDATED, own.user_id) is None:
            transaction.delete(WAITING, device_id)  # There is no such device.
        return
    recipient, name = Device(own.user_id, device_id), PeerName(own.user_id, device.curve25519)
    blocked = device.trust is LocalTrust.BLOCKED
    peer = await transaction.get(PEER, name) or Peer()
    if not blocked and not verified:
        return
    if blocked and await is_full(transaction):
        return
    if not blocked and not peer.sessions:
        await olm.want_session(transaction, name)
        return
    for request_id, wanted in waiting.items():
        given = None if blocked else await _given(transaction, request_id, wanted)
        if given is not None:
            encrypted = olm.encrypt(peer, own, device, *given)
            send(transaction, "m.room.encrypted", {recipient: encrypted})
            transaction.put(PEER, name, peer)
            tracing.given(transaction, recipient, request_id, given[0])
        elif isinstance(wanted, WantedRoomKey):
            code = BLOCKED if blocked else UNAVAILABLE
            send(
                transaction, "m.room_key.withheld", {recipient: olm.withheld_notice(own, code, NOT_GIVEN, wanted.name)}
            )
            tracing.given(transaction, recipient, request_id, "m.room_key.withheld")
    await _note_done(transaction, device_id, waiting, waiting)


async def _given(transaction: Transaction, request_id: RequestId, wanted: Wanted) -> tuple[str, JsonObject] | None:
    """Return the event that gives what is wanted, or ``None`` if that is not here."""
    if isinstance(wanted, WantedSecret):
        secret = await secrets.secret_named(transaction, wanted.name)
        return None if secret is None else (secrets.SECRET_SEND, {"request_id": request_id, "secret": secret})
    key = await key_requests.forwarded(transaction, wanted.name)
    return None if key is None else (key_requests.FORWARDED_ROOM_KEY, key)


async def _is_here(transaction: Transaction, wanted: Wanted) -> bool:
    if isinstance(wanted, WantedSecret):
        return await secrets.is_here(transaction, wanted.name)
    return await key_requests.is_here(transaction, wanted)


async def _note_done(
    transaction: Transaction, device_id: DeviceId, waiting: dict[RequestId, Wanted], done: Iterable[RequestId]
) -> None:
    """Delete requests, and remember their ids, since the same requests may come again (M17.9)."""
    left = {request_id: wanted for request_id, wanted in waiting.items() if request_id not in done}
    answered = [*(await transaction.get(ANSWERED, device_id) or []), *map(_digest, done)]
    transaction.put(ANSWERED, device_id, answered[-KEPT_ANSWERED:])
    if left:
        transaction.put(WAITING, device_id, left)
    elif waiting:
        transaction.delete(WAITING, device_id)


def _wanted(event_type: str, content: JsonObject) -> Wanted:
    wanted: Wanted
    if event_type == asking.SECRET_REQUEST:
        wanted = WantedSecret(parsed(content, _SecretRequest, "a request for a secret").name)
    else:
        body = parsed(content, _RoomKeyRequest, "a request for a room key").body
        if body.algorithm != MEGOLM:
            raise UnsupportedAlgorithm("a room key that is not for Megolm is asked for")
        wanted = WantedRoomKey(GroupSessionName(body.room_id, body.session_id))
    if len(msgspec.json.encode(wanted)) > LONGEST_WANTED:
        raise MalformedMessage("a request of another device has names that are too long")
    return wanted


def _digest(request_id: RequestId) -> bytes:
    return hashlib.sha256(request_id.encode()).digest()[:8]
