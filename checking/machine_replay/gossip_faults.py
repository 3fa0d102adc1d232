"""Inject the faults of the module Gossip into the machine. Each breaks the same rule as in the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from checking.replay.substitutions import Substitution
from unwedged.machine import asking, gossip, key_requests
from unwedged.machine.account import own_device
from unwedged.machine.errors import NotAsked
from unwedged.machine.identifiers import Curve25519Key, DeviceId, JsonObject, RequestId, UserId
from unwedged.machine.identities import verified_own_devices
from unwedged.machine.olm import OlmEvent
from unwedged.machine.records import DEVICES, OUTBOX, WAITING, Asked, KnownDevice, Wanted
from unwedged.store import Transaction, View

_receive_request = gossip.receive_request
_work_off = gossip.work_off
_must_be_asked = asking.must_be_asked
_settle = asking.settle


# M17.8, M21.2
def _secret_sent_twice() -> Sequence[Substitution]:
    """A waiting request is read in one operation and answered in another, even if it was answered in between."""
    read: dict[DeviceId, dict[RequestId, Wanted]] = {}

    async def receive_request(transaction: Transaction, event_type: str, sender: UserId, content: JsonObject) -> None:
        await _receive_request(transaction, event_type, sender, content)
        for device_id in await transaction.keys(WAITING):
            waiting = await transaction.get(WAITING, device_id)
            assert waiting is not None  # its key was listed above
            read.setdefault(device_id, {}).update(waiting)

    async def work_off(transaction: Transaction) -> None:
        for device_id, requests in read.items():
            transaction.put(WAITING, device_id, requests)
        await _work_off(transaction)

    return [(gossip, "receive_request", receive_request), (gossip, "work_off", work_off)]


# M17.8, M21.1
def _waiting_in_memory() -> Sequence[Substitution]:
    """A request that can't be answered yet waits in the memory of one process."""

    async def receive_request(transaction: Transaction, event_type: str, sender: UserId, content: JsonObject) -> None:
        del transaction, event_type, sender, content

    return [(gossip, "receive_request", receive_request)]


# M17.1
def _answered_unverified() -> Sequence[Substitution]:
    """Every device on the user's device list is answered, even an unverified one."""

    async def every_own_device(reading: Transaction | View) -> dict[Curve25519Key, KnownDevice]:
        own = await own_device(reading)
        return {each.curve25519: each for each in (await reading.get(DEVICES, own.user_id) or {}).values()}

    return [(gossip, "verified_own_devices", every_own_device)]


# M17.4
def _answer_unasked() -> Sequence[Substitution]:
    """A room key from a verified device is taken even if it was not requested."""

    async def must_be_asked(transaction: Transaction, asked: Asked | None, event: OlmEvent) -> DeviceId:
        if asked is not None:
            return await _must_be_asked(transaction, asked, event)
        return (await verified_own_devices(transaction))[event.sender_key].device_id

    return [(key_requests, "must_be_asked", must_be_asked)]


# M17.4
def _answer_from_unverified() -> Sequence[Substitution]:
    """An answer is taken from any device that knows the request."""

    async def must_be_asked(transaction: Transaction, asked: Asked | None, event: OlmEvent) -> DeviceId:
        if asked is None:
            raise NotAsked("nobody has asked for it")
        devices = await transaction.get(DEVICES, event.sender) or {}
        return next(each.device_id for each in devices.values() if each.curve25519 == event.sender_key)

    return [(key_requests, "must_be_asked", must_be_asked)]


# M17.7
def _cancelled_while_in_flight() -> Sequence[Substitution]:
    """A request that is over is removed from the outbox, even if a process is sending it."""

    async def settle(transaction: Transaction, request_id: RequestId, asked: Asked, by: DeviceId | None = None) -> None:
        unsent: set[DeviceId] = set()
        for sent in asked.sent:
            outgoing = await transaction.get(OUTBOX, sent)
            if outgoing is not None:
                unsent.update(device_id for contents in outgoing.messages.values() for device_id in contents)
                transaction.delete(OUTBOX, sent)
        devices = {device_id: key for device_id, key in asked.devices.items() if device_id not in unsent}
        await _settle(transaction, request_id, msgspec.structs.replace(asked, devices=devices), by)

    return [(asking, "settle", settle), (key_requests, "settle", settle)]


FAULTS: Final[Mapping[str, Callable[[], Sequence[Substitution]]]] = {
    "secret-sent-twice": _secret_sent_twice,
    "waiting-in-memory": _waiting_in_memory,
    "answered-unverified": _answered_unverified,
    "answer-unasked": _answer_unasked,
    "answer-from-unverified": _answer_from_unverified,
    "cancelled-while-in-flight": _cancelled_while_in_flight,
}
