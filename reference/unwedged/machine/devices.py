"""Which users are followed, which devices they have, and which of these lists are out of date (M6).

A mark says that a user's device list has changed. It has a number, which the query for the list carries. The answer
counts only while the mark has this number. So an old or late answer never deletes a newer mark.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Final

from unwedged.machine.account import own_device
from unwedged.machine.identifiers import DeviceId, Ed25519Key, JsonObject, UserId
from unwedged.machine.identities import take_keys
from unwedged.machine.olm import device_of, note_new_recipients
from unwedged.machine.records import (
    ANSWERED,
    DEVICES,
    LOCAL_TRUST,
    OUTDATED,
    TRACKED,
    KnownDevice,
    LocalTrust,
    SigningKeyName,
    Tracked,
)
from unwedged.machine.requests import KeysQuery, objects
from unwedged.machine.signing import is_signed
from unwedged.machine.wire import is_storable
from unwedged.store import Transaction, View

USERS_IN_A_QUERY: Final = 250
USERS_IN_A_COMMIT: Final = 250

logger = logging.getLogger(__name__)


async def track(transaction: Transaction, user_ids: Iterable[UserId]) -> bool:
    """Follow the device lists of users, at most ``USERS_IN_A_COMMIT`` new ones; return whether all are followed now."""
    begun = 0
    for user_id in user_ids:
        tracked = await transaction.get(TRACKED, user_id)
        if tracked is None or not tracked.followed:
            if begun == USERS_IN_A_COMMIT:
                return False
            mark(transaction, user_id, tracked)
            begun += 1
    return True


async def note_changed(transaction: Transaction, user_ids: Iterable[UserId]) -> None:
    """Mark the device lists of those ``user_ids`` that are followed as out of date (M6.1)."""
    for user_id in user_ids:
        tracked = await transaction.get(TRACKED, user_id)
        if tracked is not None and tracked.followed:
            mark(transaction, user_id, tracked)


async def note_all_changed(transaction: Transaction) -> None:
    """Mark the device lists of all followed users, since changes may have been missed (M5.4)."""
    await note_changed(transaction, await transaction.keys(TRACKED))


async def note_left(transaction: Transaction, user_ids: Iterable[UserId]) -> None:
    """Stop following users who no longer share a room with this user."""
    for user_id in user_ids:
        tracked = await transaction.get(TRACKED, user_id)
        if tracked is not None and tracked.followed:
            transaction.put(TRACKED, user_id, Tracked(tracked.number, followed=False))
            transaction.delete(OUTDATED, user_id)


async def queries(reading: Transaction | View) -> list[KeysQuery]:
    """Return the queries for all device lists that are out of date (M6.2). They may be sent any number of times."""
    numbers = {}
    for user_id in await reading.keys(OUTDATED):
        number = await reading.get(OUTDATED, user_id)
        assert number is not None  # listed above
        numbers[user_id] = number
    users = list(numbers)
    return [
        KeysQuery({user_id: numbers[user_id] for user_id in users[start : start + USERS_IN_A_QUERY]})
        for start in range(0, len(users), USERS_IN_A_QUERY)
    ]


# M6.2, M6.3
async def take_query_answer(transaction: Transaction, request: KeysQuery, response: JsonObject) -> None:
    """Use the devices and identities of the users whose mark still has the number of the query.

    A user who is missing in the answer, because the user's own server did not respond, stays marked. Raises
    ``MalformedResponse``.
    """
    of_users = objects(response, "device_keys")
    signing_keys = {name: objects(response, f"{name.value}_keys") for name in SigningKeyName}
    own = await own_device(transaction)
    for user_id, number in request.users.items():
        if user_id not in of_users or await transaction.get(OUTDATED, user_id) != number:
            continue
        given = {name: keys[user_id] for name, keys in signing_keys.items() if user_id in keys}
        identity = await take_keys(transaction, user_id, given)
        before = await transaction.get(DEVICES, user_id) or {}
        trust = await transaction.get(LOCAL_TRUST, user_id) or {}
        self_signing = None if identity is None else identity.self_signing_key
        after = device_list(user_id, before, of_users[user_id], trust, self_signing)
        if user_id == own.user_id:
            after.pop(own.device_id, None)
            for device_id in await transaction.keys(ANSWERED):
                if device_id not in after:
                    transaction.delete(ANSWERED, device_id)
        if after != before:
            transaction.put(DEVICES, user_id, after)
            await note_new_recipients(transaction)
        transaction.delete(OUTDATED, user_id)


def device_list(
    user_id: UserId,
    before: dict[DeviceId, KnownDevice],
    answer: dict[str, object],
    trust: Mapping[Ed25519Key, LocalTrust],
    self_signing: Ed25519Key | None = None,
) -> dict[DeviceId, KnownDevice]:
    """Return the devices in an answer that are signed correctly and whose keys have not changed (M6.4, M6.6).

    If the keys of a known device are changed or malformed, the device stays as it was. Whether this device's owner has
    verified or blocked a device is looked up by its signing key, even if the device had left the list. ``self_signing``
    is the user's self-signing key, if it is known.
    """
    after: dict[DeviceId, KnownDevice] = {}
    for name, keys in answer.items():
        device_id = DeviceId(name)
        known = before.get(device_id)
        device = device_of(user_id, keys) if isinstance(keys, dict) and is_storable(keys) else None
        changed = known and device and (known.ed25519, known.curve25519) != (device.ed25519, device.curve25519)
        if device is None or device.device_id != device_id or changed:
            logger.warning("the keys of a device were refused known=%s", known is not None)
            if known is not None:
                after[device_id] = known
            continue
        signed = self_signing is not None and is_signed(device.keys, user_id, f"ed25519:{self_signing}", self_signing)
        local_trust = trust.get(device.ed25519, LocalTrust.UNSET)
        after[device_id] = KnownDevice(device.keys, local_trust, self_signing if signed else None)
    return after


def mark(transaction: Transaction, user_id: UserId, tracked: Tracked | None) -> None:
    """Mark that a user's device list is out of date, under a number that follows the last one (M6.1)."""
    number = 1 if tracked is None else tracked.number + 1
    transaction.put(TRACKED, user_id, Tracked(number))
    transaction.put(OUTDATED, user_id, number)
