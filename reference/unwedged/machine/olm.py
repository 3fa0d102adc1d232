"""Olm: the sessions with one device, what is sent over them, and how a broken one is replaced.

All sessions with a device are one record, so that no list of them is ever partial. What decides here is pure: it takes
a ``Peer`` and changes it; the transactions around it are in ``inbox``, ``sharing`` and further down.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
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
from unwedged.machine.ratchets import Account, OlmMessage, OlmSession
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
"""One device may have sent all messages of a response, and each connection gets them until one acknowledges that.
Synapse puts a hundred into a response."""
UNWEDGED_EVERY_MS: Final = 3_600_000
"""At most so often a new session with a device is asked for because the old one is broken (Matrix specification,
"Recovering from undecryptable messages")."""
CLAIMED_AGAIN_AFTER_MS: Final = 60_000
"""A claim whose answer is missing for so long is made again."""
CLAIMS_IN_A_REQUEST: Final = 250
NO_OLM: Final = "m.no_olm"
NO_OLM_REASON: Final = "The sender has found no key to begin an Olm session with."


logger = logging.getLogger(__name__)


class _Keys(msgspec.Struct, frozen=True):
    ed25519: str


class _Payload(Unshown, msgspec.Struct, frozen=True):
    type: str
    content: JsonObject
    sender: str
    recipient: str
    recipient_keys: _Keys
    keys: _Keys
    sender_device_keys: JsonObject | None = None


_PAYLOAD: Final = msgspec.json.Decoder(_Payload)


@dataclass(frozen=True)
class OlmEvent:
    """A to-device event that came over an Olm session, with the keys that vouch for it."""

    type: str
    content: JsonObject = field(repr=False)
    sender: UserId
    sender_key: Curve25519Key
    signing_key: Ed25519Key
    """The Ed25519 key that the sender claims. It is the device's only if its signed device keys say the same."""


def encrypt(peer: Peer, own: OwnDevice, recipient: KnownDevice, event_type: str, content: JsonObject) -> JsonObject:
    """Encrypt an event for a device; return the content of an ``m.room.encrypted`` event. ``peer`` has a session."""
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
def decrypt(account: Account, peer: Peer, sender_key: Curve25519Key, message: OlmMessage) -> bytes:
    """Decrypt a message, and let ``peer`` and, for a new session, ``account`` move on. On an error neither changes.

    Raises ``RepeatedMessage``, ``MalformedMessage`` and ``MessageUnreadable``.
    """
    digest = message.digest()
    if digest in peer.digests:
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


def checked(plaintext: bytes, sender: UserId, sender_key: Curve25519Key, own: OwnDevice) -> OlmEvent:
    """Return the event in a plaintext, after the checks that the Matrix specification demands (``m.olm.v1``) (M7.9).

    Raises ``MalformedMessage``, ``WrongRecipient`` and ``WrongSender``.
    """
    payload = decoded(plaintext, _PAYLOAD, "a decrypted Olm message")
    if payload.recipient != own.user_id or payload.recipient_keys.ed25519 != own_key(own, "ed25519"):
        raise WrongRecipient("a decrypted Olm message is for another device")
    if payload.sender != sender:
        raise WrongSender("a decrypted Olm message names another sender than its event")
    if payload.sender_device_keys is not None:
        device = device_of(sender, payload.sender_device_keys)
        if device is None or device.curve25519 != sender_key or device.ed25519 != payload.keys.ed25519:
            raise WrongSender("the device keys in a decrypted Olm message are not the sender's")
    return OlmEvent(payload.type, payload.content, sender, sender_key, Ed25519Key(payload.keys.ed25519))


def device_of(user_id: UserId, keys: JsonObject) -> KnownDevice | None:
    """Return a device of ``user_id`` as its signed keys describe it, or ``None`` where they prove nothing."""
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
    """Let every room key be shared again before it is used: a device list, or a session with a device, has changed."""
    transaction.put(RECIPIENTS_VERSION, None, 1 + (await transaction.get(RECIPIENTS_VERSION, None) or 0))


async def note_new_session(transaction: Transaction, name: PeerName) -> None:
    """Note that a new session with a device comes first: none is wanted any more."""
    await note_new_recipients(transaction)
    if await transaction.get(WANTED_SESSION, name) is not None:
        transaction.delete(WANTED_SESSION, name)


async def want_session(transaction: Transaction, name: PeerName) -> None:
    """Mark that a session with a device is needed, unless there is a mark already."""
    if await transaction.get(WANTED_SESSION, name) is None:
        transaction.put(WANTED_SESSION, name, WantedSession())


async def is_listed(transaction: Transaction, name: PeerName) -> bool:
    """Say whether a device is on its owner's device list, as far as that is known."""
    return await _device_with(transaction, name) is not None


# M8.1
async def note_wedged(transaction: Transaction, name: PeerName) -> None:
    """Mark that the sessions with a device don't decrypt its messages. A new one is asked for once an hour at most.

    A key that is on no device list gets no mark: anybody can make up any number of keys.
    """
    marked = await transaction.get(WANTED_SESSION, name)
    if (marked is not None and marked.wedged) or not await is_listed(transaction, name):
        return
    peer = await transaction.get(PEER, name)
    not_before_ms = peer.unwedged_ms + UNWEDGED_EVERY_MS if peer is not None and peer.unwedged_ms else 0
    transaction.put(WANTED_SESSION, name, WantedSession(wedged=True, not_before_ms=not_before_ms))


# M8.2, M8.3, M8.7, M8.9
async def hand_out_claim(transaction: Transaction, now_ms: int) -> KeysClaim | None:
    """Ask for a key of each device with which a session is wanted now, and note that; ``None`` where none is wanted.

    The mark of a device that has left its owner's device list is of no use any more.
    """
    wanted: list[Claimed] = []
    for name in await transaction.keys(WANTED_SESSION):
        mark = await transaction.get(WANTED_SESSION, name)
        assert mark is not None  # listed above
        # What is further ahead was noted by a clock that was wrong.
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
    """Make the sessions that a claim was made for, where they are still wanted under the number it bears (M8.5)."""
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
            continue  # its homeserver could not be reached: whether it has a key is not known
        one_time_key = _signed_key(claimed, device, known)
        try:
            if one_time_key is None:
                raise MalformedMessage("a device has no key to claim, or one that it did not sign")
            session = account.outbound_session(key, one_time_key)  # which does not change the account
        except MalformedMessage:
            if not mark.told:
                send(transaction, "m.room_key.withheld", {device: withheld_notice(own, NO_OLM, NO_OLM_REASON)})
            later = msgspec.structs.replace(mark, not_before_ms=now_ms + UNWEDGED_EVERY_MS, told=True)
            transaction.put(WANTED_SESSION, name, later)
            continue
        _put_first(peer, session)
        peer.generation += 1
        tracing.session_made(transaction, name)
        await note_new_session(transaction, name)
        if mark.wedged:
            peer.unwedged_ms = now_ms  # the answer may be late: the next session comes an hour after this one
            send(transaction, "m.room.encrypted", {device: encrypt(peer, own, known, "m.dummy", {})})
        transaction.put(PEER, name, peer)


async def take_refusal(transaction: Transaction, request: ToDevice) -> None:
    """Abandon messages that the homeserver will never take: room keys in them are sent again (M13.5)."""
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
    """Return the content of an ``m.room_key.withheld`` event: about one room key, or about all that could be sent."""
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
    account: Account, peer: Peer, sender_key: Curve25519Key, message: OlmMessage
) -> tuple[OlmSession, bytes, int | None]:
    """Return the session as it is after the message, the plaintext, and the place of the session if it is not new."""
    session_id = message.session_id()
    for position, session in enumerate(peer.sessions):
        if session_id is not None and session.session_id != session_id:
            continue
        try:
            return *session.decrypt(message), position
        except MessageUnreadable:
            # With its session already there, a pre-key message must make no second one: on a fallback key it could.
            if session_id is not None:
                raise
    if session_id is None:
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
