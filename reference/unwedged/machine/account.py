"""The device's account, which is made once, and its one-time and fallback keys (M1 to M4).

An offer is an upload of keys. It is made, signed and noted in one commit, before the request leaves. So each key is in
one request of one process. If the outcome of that request stays unknown, the offer is abandoned after a while: its
private keys are kept, and other keys are offered.
"""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from unwedged.machine import tracing
from unwedged.machine.errors import AnotherDevice, MalformedResponse
from unwedged.machine.identifiers import MEGOLM, OLM, ONE_TIME_KEY, Curve25519Key, Device, JsonObject, TransactionId
from unwedged.machine.ratchets import MOST_ONE_TIME_KEYS, Account
from unwedged.machine.records import ACCOUNT, OFFER, OWN_DEVICE, KnownDevice, Offer, OwnDevice, ReportedKeys
from unwedged.machine.requests import KeysUpload
from unwedged.machine.signing import signable, with_signature
from unwedged.machine.sync import SyncPosition
from unwedged.machine.wire import is_storable
from unwedged.store import Transaction, View

ALGORITHMS: Final = (OLM, MEGOLM)
REFILL_BELOW: Final = MOST_ONE_TIME_KEYS // 2
"""If the homeserver has fewer one-time keys than this, more are offered."""
OFFER_ABANDONED_AFTER_MS: Final = 600_000
"""An offer is abandoned if its outcome is unknown for this long."""
FALLBACK_KEPT_MS: Final = 3_600_000
"""A fallback key is replaced no sooner than this after the homeserver has confirmed it. The account keeps the last two
fallback keys: a message that was made with an older one can't be read."""

logger = logging.getLogger(__name__)


async def open_account(transaction: Transaction, device: Device) -> OwnDevice:
    """Return the device that the store belongs to; make its account if there is none (M1.1, M1.2).

    Raises ``AnotherDevice`` if the store belongs to another device than ``device``.
    """
    own = await transaction.get(OWN_DEVICE, None)
    if own is None:
        account = Account()
        own = OwnDevice(device.user_id, device.device_id, _device_keys(account, device), count=0)
        transaction.put(ACCOUNT, None, account)
        transaction.put(OWN_DEVICE, None, own)
    if (own.user_id, own.device_id) != device:
        raise AnotherDevice(f"the store belongs to the device {own.device_id!r} of {own.user_id!r}")
    tracing.opened(transaction, device, KnownDevice(own.keys).curve25519)
    return own


async def own_device(reading: Transaction | View) -> OwnDevice:
    """Return the device that the store belongs to."""
    own = await reading.get(OWN_DEVICE, None)
    assert own is not None  # made when the machine was opened, and never deleted
    return own


async def own_account(transaction: Transaction) -> Account:
    """Return the account."""
    account = await transaction.get(ACCOUNT, None)
    assert account is not None  # as above
    return account


def keys_wanted(own: OwnDevice) -> int:
    """Return how many one-time keys to offer now (M2.10, M3.6)."""
    if own.count is None or own.count >= REFILL_BELOW:
        return 0
    return max(1, (MOST_ONE_TIME_KEYS - own.count) >> own.abandoned)


def wants_new_fallback(own: OwnDevice, now_ms: int) -> bool:
    """Return whether to make another fallback key now (M4.2)."""
    if own.fallback is None:
        return True
    confirmed_ms = own.fallback_confirmed_ms
    return confirmed_ms is not None and own.fallback_used and abs(now_ms - confirmed_ms) >= FALLBACK_KEPT_MS


# M2.1, M2.2, M2.7, M4.3
async def hand_out_offer(transaction: Transaction, now_ms: int) -> KeysUpload | None:
    """Make and note an offer of the keys that the homeserver lacks.

    Return ``None`` if it lacks none, or if another offer is under way.
    """
    own = await own_device(transaction)
    offer = await transaction.get(OFFER, None)
    if offer is not None:
        # A wrong clock may have noted a time in the future.
        if abs(now_ms - offer.handed_out_ms) < OFFER_ABANDONED_AFTER_MS:
            return None
        _abandon(transaction, own)
        tracing.abandoned(transaction, offer.offer_id)
    count, new_fallback = keys_wanted(own), wants_new_fallback(own, now_ms)
    with_fallback = new_fallback or own.fallback_confirmed_ms is None
    if own.published and not count and not with_fallback:
        return None
    account = await own_account(transaction)
    device = Device(own.user_id, own.device_id)
    kept_ms = None
    if new_fallback:
        if own.fallback_confirmed_ms is not None:
            kept_ms = abs(now_ms - own.fallback_confirmed_ms)
        own.fallback = _signed_keys(account, device, account.make_fallback_key(), {"fallback": True})
        own.fallback_confirmed_ms, own.fallback_used = None, False
    body: JsonObject = {}
    if not own.published:
        body["device_keys"] = own.keys
    if count:
        body["one_time_keys"] = _signed_keys(account, device, account.make_one_time_keys(count), {})
    if with_fallback:
        body["fallback_keys"] = own.fallback
    own.serial += 1
    own.count = None
    offer_id = TransactionId(f"offer-{own.serial}")
    transaction.put(ACCOUNT, None, account)
    transaction.put(OWN_DEVICE, None, own)
    transaction.put(OFFER, None, Offer(offer_id, now_ms, with_fallback))
    upload = KeysUpload(offer_id, body)
    tracing.offered(transaction, upload, own.serial, fallback=with_fallback, kept_ms=kept_ms)
    return upload


# M2.4, M2.5, M4.4, M4.5
async def take_upload_answer(transaction: Transaction, request: KeysUpload, response: JsonObject, now_ms: int) -> None:
    """Note that the homeserver has the keys of the offer. A late or repeated answer does not settle the current offer.

    But if that answer is for an older fallback key, the homeserver may hand out the older key again. So the newest key
    is uploaded once more. Raises ``MalformedResponse`` if the answer has no counts.
    """
    counts = response.get("one_time_key_counts")
    count = counts.get(ONE_TIME_KEY, 0) if isinstance(counts, dict) else None
    if not isinstance(count, int) or isinstance(count, bool) or count < 0 or not is_storable(count):
        raise MalformedResponse("the answer to an upload has no counts of one-time keys")
    offer, own = await transaction.get(OFFER, None), await own_device(transaction)
    if offer is None or offer.offer_id != request.offer_id:
        if request.body.get("fallback_keys") not in (None, own.fallback):
            own.fallback_confirmed_ms = None
            transaction.put(OWN_DEVICE, None, own)
            if offer is not None:  # the older key may have arrived after this one
                transaction.put(OFFER, None, msgspec.structs.replace(offer, fallback=False))
        return
    own.published = True
    if offer.fallback:
        own.fallback_confirmed_ms = now_ms
    own.count = count
    own.abandoned = 0
    own.serial += 1
    transaction.put(OWN_DEVICE, None, own)
    transaction.delete(OFFER, None)


async def abandon_offer(transaction: Transaction, request: KeysUpload) -> None:
    """Abandon an offer that was refused or has an unknown outcome. Its keys are never offered again (M2.6).

    A sync that is asked after this says how many keys the homeserver holds, with or without these.
    """
    offer = await transaction.get(OFFER, None)
    if offer is not None and offer.offer_id == request.offer_id:
        _abandon(transaction, await own_device(transaction))
        tracing.abandoned(transaction, request.offer_id)


async def lose_offer(transaction: Transaction) -> None:
    """Abandon an offer whose record can no longer be read."""
    _abandon(transaction, await own_device(transaction))


# M3.2, M3.5
async def note_counts(transaction: Transaction, asked_with: SyncPosition, said: ReportedKeys) -> None:
    """Use what a sync says about the keys at the homeserver, unless an offer stands or was made since it was asked.

    Sliding sync leaves out what it has reported before on the same connection. So the last report of each connection is
    noted in any case.
    """
    own = await own_device(transaction)
    reported = reported_now(own, asked_with, said)
    is_news = asked_with.sliding and reported != own.reported.get(asked_with.connection)
    if is_news:
        own.reported = {**own.reported, asked_with.connection: reported}
    if asked_with.serial == own.serial:
        types = reported.unused_fallback_types
        used = own.fallback_used if types is None else ONE_TIME_KEY not in types
        count = own.count if reported.one_time_keys is None else reported.one_time_keys
        if (own.fallback_used, own.count) != (used, count) and await transaction.get(OFFER, None) is None:
            own.fallback_used, own.count = used, count
            is_news = True
    if is_news:
        transaction.put(OWN_DEVICE, None, own)


# M3.4
def reported_now(own: OwnDevice, asked_with: SyncPosition, said: ReportedKeys) -> ReportedKeys:
    """Return what a response says about the homeserver's keys, completed by the last report of its connection."""
    before = own.reported.get(asked_with.connection) if asked_with.sliding and asked_with.token is not None else None
    if before is None:
        return said
    return ReportedKeys(
        before.one_time_keys if said.one_time_keys is None else said.one_time_keys,
        before.unused_fallback_types if said.unused_fallback_types is None else said.unused_fallback_types,
    )


# M2.8, M2.9, M3.1
def _abandon(transaction: Transaction, own: OwnDevice) -> None:
    logger.warning("an upload of keys was abandoned in_a_row=%d", own.abandoned + 1)
    own.abandoned += 1
    own.serial += 1
    own.count = None
    transaction.put(OWN_DEVICE, None, own)
    transaction.delete(OFFER, None)


def _device_keys(account: Account, device: Device) -> JsonObject:
    unsigned: JsonObject = {
        "user_id": device.user_id,
        "device_id": device.device_id,
        "algorithms": list(ALGORITHMS),
        "keys": {
            f"curve25519:{device.device_id}": account.curve25519,
            f"ed25519:{device.device_id}": account.ed25519,
        },
    }
    return _signed(account, device, unsigned)


def _signed(account: Account, device: Device, value: JsonObject) -> JsonObject:
    return with_signature(value, device.user_id, f"ed25519:{device.device_id}", account.sign(signable(value)))


def _signed_keys(account: Account, device: Device, keys: dict[str, Curve25519Key], more: JsonObject) -> JsonObject:
    return {
        f"{ONE_TIME_KEY}:{name}": _signed(account, device, {"key": key, **more}) for name, key in sorted(keys.items())
    }
