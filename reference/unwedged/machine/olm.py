"""Olm: the sessions with one device, the events that are sent over them, and how a broken one is replaced (M7, M8).

All sessions with a device are one record, so that no list of them is partial. The functions that encrypt, decrypt and
check use no store: they take a ``Peer`` and change it. Their transactions are in ``inbox``, ``sharing``, and below.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import msgspec

from unwedged.machine import tracing
from unwedged.machine.account import own_account, own_device
from unwedged.machine.errors import (
    MalformedMessage,
    MessageUnreadable,
    RepeatedMessage,
    WrongRecipient,
    WrongSender,
)
from unwedged.machine.identifiers import (
    MEGOLM,
    OLM,
    Curve25519Key,
    Device,
    Ed25519Key,
    GroupSessionName,
    JsonObject,
    PeerName,
    UserId,
)
from unwedged.machine.outbox import send, sent
from unwedged.machine.ratchets import DIGEST_BYTES, Account, OlmMessage, OlmSession
from unwedged.machine.records import (
    DEVICES,
    PEER,
    RECIPIENTS_VERSION,
    WANTED_SESSION,
    KnownDevice,
    OwnDevice,
    Peer,
    WantedSession,
)
from unwedged.machine.requests import Claimed, KeysClaim, ToDevice, objects
from unwedged.machine.signing import is_signed
from unwedged.machine.unshown import Unshown
from unwedged.machine.wire import decoded
from unwedged.store import Transaction

KEPT_SESSIONS: Final = 5
KEPT_DIGESTS: Final = 256
"""How many digests of messages are kept for each device at least (M7.2). Each connection gets the same messages until
one of them acknowledges these, and all may be from one device. Synapse puts a hundred into a response."""
DIGESTS_WITH_SESSIONS: Final = 32
"""When so many digests are in the record of the sessions, they are moved to the earlier ones: that record is written
with each message, so it is small."""
UNWEDGED_EVERY_MS: Final = 3_600_000
"""The shortest time between two replacements of a broken session with one device (M8.4; Matrix specification,
"Recovering from undecryptable messages")."""
CLAIMED_AGAIN_AFTER_MS: Final = 60_000
"""A claim is made again if its answer is missing for this long (M8.7)."""
CLAIMS_IN_A_REQUEST: Final = 250
NO_OLM: Final = "m.no_olm"
NO_OLM_REASON: Final = "The sender has found no key to begin an Olm session with."


logger = logging.getLogger(__name__)


class _Keys(msgspec.Struct, frozen=True):
    ed25519: str


_NO_KEYS: Final = msgspec.Raw(b"null")


class _Payload(Unshown, msgspec.Struct, frozen=True):
    type: str
    content: JsonObject
    sender: str
    recipient: str
    recipient_keys: _Keys
    keys: _Keys
    sender_device_keys: msgspec.Raw = _NO_KEYS
    """As JSON, since it is mostly the same as before."""


_PAYLOAD: Final = msgspec.json.Decoder(_Payload)
_DEVICE_KEYS: Final = msgspec.json.Decoder(JsonObject)


@dataclass(frozen=True)
class OlmEvent:
    """A to-device event that came over an Olm session, with the keys of its sender."""

    type: str
    content: JsonObject = field(repr=False)
    sender: UserId
    sender_key: Curve25519Key
    signing_key: Ed25519Key
    """The Ed25519 key that the sender claims. Trust it only if the signed device keys name the same key."""


def encrypt(peer: Peer, own: OwnDevice, recipient: KnownDevice, event_type: str, content: JsonObject) -> JsonObject:
    """Return the content of an ``m.room.encrypted`` event for a device. ``peer`` must have a session; it advances."""
    payload = {
        "type": event_type,
        "content": content,
        "sender": own.user_id,
        "sender_device_keys": own.keys,
        "recipient": recipient.keys["user_id"],
        "recipient_keys": {"ed25519": recipient.ed25519},
        "keys": {"ed25519": own_key(own, "ed25519")},
    }
    message = peer.sessions[0].encrypt(msgspec.json.encode(payload))
    return {
        "algorithm": OLM,
        "sender_key": own_key(own, "curve25519"),
        "ciphertext": {recipient.curve25519: {"type": message.type, "body": message.body}},
    }


# M7.3, M7.4, M7.5
def decrypt(
    account: Account | None, peer: Peer, sender_key: Curve25519Key, message: OlmMessage, earlier: bytes = b""
) -> bytes:
    """Decrypt a message, and update ``peer`` and, for a new session, ``account``. On an error neither changes.

    Only a pre-key message needs the ``account``. ``earlier`` are the digests of messages before those in ``peer``.
    Raises ``RepeatedMessage``, ``MalformedMessage`` and ``MessageUnreadable``.
    """
    digest = message.digest()
    if digest in peer.digests or has_digest(earlier, digest):
        raise RepeatedMessage("this Olm message was decrypted before")
    session, plaintext, position = _decrypted(account, peer, sender_key, message)
    if position is None:
        peer.generation += 1
    else:
        del peer.sessions[position]
    _put_first(peer, session)
    peer.digests.append(digest)
    del peer.digests[:-KEPT_DIGESTS]
    return plaintext


def has_digest(digests: bytes, digest: bytes) -> bool:
    """Return whether a digest is one of several, which follow each other."""
    at = digests.find(digest)
    while at % DIGEST_BYTES and at > 0:  # it begins within another one
        at = digests.find(digest, at + 1)
    return at >= 0


def moved_digests(peer: Peer, earlier: bytes) -> bytes:
    """Move the digests in ``peer`` to the ``earlier`` ones, and return these."""
    moved = earlier + b"".join(peer.digests)
    peer.digests.clear()
    return moved[-KEPT_DIGESTS * DIGEST_BYTES :]


def checked(plaintext: bytes, sender: UserId, sender_key: Curve25519Key, own: OwnDevice) -> OlmEvent:
    """Return the event in a plaintext, after the checks of the Matrix specification (``m.olm.v1``) (M7.9).

    Raises ``MalformedMessage``, ``WrongRecipient`` and ``WrongSender``.
    """
    payload = decoded(plaintext, _PAYLOAD, "a decrypted Olm message")
    if payload.recipient != own.user_id or payload.recipient_keys.ed25519 != own_key(own, "ed25519"):
        raise WrongRecipient("a decrypted Olm message is for another device")
    if payload.sender != sender:
        raise WrongSender("a decrypted Olm message names another sender than its event")
    if payload.sender_device_keys != _NO_KEYS and (
        _named_keys(sender, bytes(payload.sender_device_keys)) != (sender_key, payload.keys.ed25519)
    ):
        raise WrongSender("the device keys in a decrypted Olm message are not the sender's")
    return OlmEvent(payload.type, payload.content, sender, sender_key, Ed25519Key(payload.keys.ed25519))


@lru_cache(maxsize=64)
def _named_keys(user_id: UserId, device_keys: bytes) -> tuple[str, str] | None:
    """Return the Curve25519 and Ed25519 keys in signed device keys, or ``None`` if they are no device of ``user_id``.

    It is cached, since each Olm message of a device has its device keys. Raises ``MalformedMessage``.
    """
    device = device_of(user_id, decoded(device_keys, _DEVICE_KEYS, "a decrypted Olm message"))
    return None if device is None else (device.curve25519, device.ed25519)


def device_of(user_id: UserId, keys: JsonObject) -> KnownDevice | None:
    """Return the device that signed keys describe, or ``None`` if they are not those of a device of ``user_id``."""
    device_id, named = keys.get("device_id"), keys.get("keys")
    if keys.get("user_id") != user_id or not isinstance(device_id, str) or not isinstance(named, dict):
        return None
    curve25519, ed25519 = named.get(f"curve25519:{device_id}"), named.get(f"ed25519:{device_id}")
    if not isinstance(curve25519, str) or not isinstance(ed25519, str):
        return None
    return KnownDevice(keys) if is_signed(keys, user_id, f"ed25519:{device_id}", Ed25519Key(ed25519)) else None


def own_key(own: OwnDevice, algorithm: str) -> str:
    """Return one of this device's own identity keys."""
    return KnownDevice(own.keys).key(algorithm)


async def note_new_recipients(transaction: Transaction) -> None:
    """Raise the version of recipients (M9.3), so that every room key is shared again before it is used."""
    transaction.put(RECIPIENTS_VERSION, None, 1 + (await transaction.get(RECIPIENTS_VERSION, None) or 0))


async def note_new_session(transaction: Transaction, name: PeerName) -> None:
    """Note that there is a new session with a device: delete its mark, and raise the version of recipients (M8.10)."""
    await note_new_recipients(transaction)
    if await transaction.get(WANTED_SESSION, name) is not None:
        transaction.delete(WANTED_SESSION, name)


async def want_session(transaction: Transaction, name: PeerName) -> None:
    """Mark that a session with a device is needed, unless there is a mark already."""
    if await transaction.get(WANTED_SESSION, name) is None:
        transaction.put(WANTED_SESSION, name, WantedSession())


async def is_listed(transaction: Transaction, name: PeerName) -> bool:
    """Return whether a device is on its owner's device list, as far as that is known."""
    return await _device_with(transaction, name) is not None


# M8.1
async def note_wedged(transaction: Transaction, name: PeerName) -> None:
    """Mark that no session with a device decrypts its messages. A new session is made at most once an hour.

    A key that is on no device list gets no mark, since anybody can make up any number of keys.
    """
    marked = await transaction.get(WANTED_SESSION, name)
    if (marked is not None and marked.wedged) or not await is_listed(transaction, name):
        return
    peer = await transaction.get(PEER, name)
    not_before_ms = peer.unwedged_ms + UNWEDGED_EVERY_MS if peer is not None and peer.unwedged_ms else 0
    transaction.put(WANTED_SESSION, name, WantedSession(wedged=True, not_before_ms=not_before_ms))


# M8.2, M8.3, M8.7, M8.9
async def hand_out_claim(transaction: Transaction, now_ms: int) -> KeysClaim | None:
    """Make and note a claim of one key of each device that needs a session now; return ``None`` if none does.

    The marks of devices that have left their user's device list are deleted.
    """
    wanted: list[Claimed] = []
    for name in await transaction.keys(WANTED_SESSION):
        mark = await transaction.get(WANTED_SESSION, name)
        assert mark is not None  # listed above
        # A time further ahead was noted by a wrong clock.
        early = 0 < mark.not_before_ms - now_ms <= UNWEDGED_EVERY_MS
        device = await _device_with(transaction, name)
        if device is None:
            transaction.delete(WANTED_SESSION, name)
        if early or device is None:
            continue
        peer = await transaction.get(PEER, name) or Peer()
        peer.claims += 1
        if mark.wedged:
            peer.unwedged_ms = now_ms
        transaction.put(PEER, name, peer)
        noted = msgspec.structs.replace(mark, number=peer.claims, not_before_ms=now_ms + CLAIMED_AGAIN_AFTER_MS)
        transaction.put(WANTED_SESSION, name, noted)
        wanted.append(Claimed(Device(name.user_id, device.device_id), name.curve25519, peer.claims))
        if len(wanted) == CLAIMS_IN_A_REQUEST:
            break
    return KeysClaim(tuple(wanted)) if wanted else None


# M8.4, M8.6, M8.8, M8.10
async def take_claim_answer(transaction: Transaction, request: KeysClaim, response: JsonObject, now_ms: int) -> None:
    """Make sessions with the devices whose mark still has the claim's number (M8.5). Raises ``MalformedResponse``."""
    of_users, failures = objects(response, "one_time_keys"), objects(response, "failures")
    own, account = await own_device(transaction), await own_account(transaction)
    for device, key, number in request.wanted:
        name = PeerName(device.user_id, key)
        mark = await transaction.get(WANTED_SESSION, name)
        if mark is None or mark.number != number:
            continue
        peer = await transaction.get(PEER, name) or Peer()
        known = await _device_with(transaction, name)
        if known is None:
            transaction.delete(WANTED_SESSION, name)
            continue
        claimed = of_users.get(device.user_id, {}).get(device.device_id)
        if claimed is None and device.user_id.partition(":")[2] in failures:
            continue  # its homeserver could not be reached, so it is not known whether the device has a key
        one_time_key = _signed_key(claimed, device, known)
        try:
            if one_time_key is None:
                raise MalformedMessage("a device has no key to claim, or one that it did not sign")
            session = account.outbound_session(key, one_time_key)  # which does not change the account
        except MalformedMessage:
            if not mark.notified:
                send(transaction, "m.room_key.withheld", {device: withheld_notice(own, NO_OLM, NO_OLM_REASON)})
            later = msgspec.structs.replace(mark, not_before_ms=now_ms + UNWEDGED_EVERY_MS, notified=True)
            transaction.put(WANTED_SESSION, name, later)
            continue
        _put_first(peer, session)
        peer.generation += 1
        tracing.session_made(transaction, name)
        await note_new_session(transaction, name)
        if mark.wedged:
            peer.unwedged_ms = now_ms  # the answer may be late: the next session is made an hour after this one
            send(transaction, "m.room.encrypted", {device: encrypt(peer, own, known, "m.dummy", {})})
        transaction.put(PEER, name, peer)


async def take_refusal(transaction: Transaction, request: ToDevice) -> None:
    """Abandon messages that the homeserver has refused for good. Room keys in them are sent again (M13.5)."""
    logger.warning("a request with to-device messages was refused event_type=%s", request.event_type)
    await sent(transaction, request)
    if request.event_type != "m.room.encrypted":
        return
    for user_id, messages in request.messages.items():
        devices = await transaction.get(DEVICES, user_id) or {}
        for device_id in messages:
            if device_id not in devices:
                continue
            name = PeerName(user_id, devices[device_id].curve25519)
            peer = await transaction.get(PEER, name)
            if peer is not None:
                peer.generation += 1
                transaction.put(PEER, name, peer)
    await note_new_recipients(transaction)


def withheld_notice(own: OwnDevice, code: str, reason: str, name: GroupSessionName | None = None) -> JsonObject:
    """Return the content of an ``m.room_key.withheld`` event, about one room key or about all of them."""
    content: JsonObject = {
        "algorithm": MEGOLM,
        "sender_key": own_key(own, "curve25519"),
        "code": code,
        "reason": reason,
    }
    return content if name is None else content | {"room_id": name.room_id, "session_id": name.session_id}


# M7.2, M7.3
def _put_first(peer: Peer, session: OlmSession) -> None:
    peer.sessions.insert(0, session)
    del peer.sessions[KEPT_SESSIONS:]


# M7.6, M7.7
def _decrypted(
    account: Account | None, peer: Peer, sender_key: Curve25519Key, message: OlmMessage
) -> tuple[OlmSession, bytes, int | None]:
    """Return the session after the message, the plaintext, and the session's position in the list if it is not new."""
    session_id = message.session_id()
    for position, session in enumerate(peer.sessions):
        if session_id is not None and session.session_id != session_id:
            continue
        try:
            return *session.decrypt(message), position
        except MessageUnreadable:
            # A pre-key message whose session is known must not make a second one, as a fallback key would allow (M7.6).
            if session_id is not None:
                raise
    if session_id is None or account is None:
        raise MessageUnreadable("no session with the sender decrypts this message")
    return *account.inbound_session(sender_key, message), None


async def _device_with(transaction: Transaction, name: PeerName) -> KnownDevice | None:
    for device in (await transaction.get(DEVICES, name.user_id) or {}).values():
        if device.curve25519 == name.curve25519:
            return device
    return None


def _signed_key(claimed: object, device: Device, known: KnownDevice) -> str | None:
    if not isinstance(claimed, dict):
        return None
    for value in claimed.values():
        if isinstance(value, dict) and is_signed(value, device.user_id, f"ed25519:{device.device_id}", known.ed25519):
            key = value.get("key")
            return key if isinstance(key, str) else None
    return None
