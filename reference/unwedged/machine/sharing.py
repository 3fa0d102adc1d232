"""Room messages that are sent: the room key, which devices get it, and when another key is needed (M9, M10).

What must not happen twice is decided in the store. The index of a message, its ciphertext, and the list of devices that
have the key, are written in the commit before anything leaves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from unwedged.machine import backup, devices, olm, tracing
from unwedged.machine.account import own_device
from unwedged.machine.errors import (
    EncryptionDowngrade,
    InvalidArgument,
    MalformedMessage,
    NotEncrypted,
    RoomKeyNotShared,
    UnverifiedRecipients,
)
from unwedged.machine.identifiers import (
    MEGOLM,
    Curve25519Key,
    Device,
    Ed25519Key,
    GroupSessionId,
    GroupSessionName,
    JsonObject,
    PeerName,
    RoomId,
    UserId,
)
from unwedged.machine.identities import DeviceTrust, user_trust
from unwedged.machine.outbox import send
from unwedged.machine.ratchets import InboundGroup, OutboundGroup
from unwedged.machine.records import (
    DEVICES,
    EARLIER_SHARED_KEY,
    INBOUND,
    OUTBOUND,
    OUTDATED,
    PEER,
    RECIPIENTS_VERSION,
    ROOM,
    SHARED_KEY,
    WANTED_SESSION,
    EarlierKey,
    InboundSession,
    KeySource,
    KnownDevice,
    LocalTrust,
    OutboundSession,
    OwnDevice,
    RoomSettings,
    SharedKey,
    SharedWith,
    SharingStrategy,
)
from unwedged.machine.rooms import shared_history_flags
from unwedged.machine.wire import DEEPEST, is_json, parsed
from unwedged.store import Transaction

DEVICES_IN_A_COMMIT: Final = 250
"""How many devices are sent a key, marked for a claim or told that they get none, in one commit (M9.2)."""
BLOCKED: Final = "m.blacklisted"
UNVERIFIED: Final = "m.unverified"
REASONS: Final = {
    BLOCKED: "The sender has blocked this device.",
    UNVERIFIED: "The sender shares keys only with devices that their user has signed.",
}
EARLIER_KEYS_KEPT: Final = 8
"""How many replaced keys of a room are sent again to a device that may have lost them (M8.11)."""
EARLIER_KEY_KEPT_MS: Final = 90 * 86_400_000
"""How long after its replacement a key may be sent again."""
NOT_SENT: Final = -1
"""A generation that no device has."""
SHARED_VISIBILITIES: Final = ("shared", "world_readable")
"""Later members may read a history with such a visibility (Matrix specification, "Shareable encryption sessions")."""
SHORTEST_PERIOD_MS: Final = 3_600_000
"""The shortest lifetime of a room key. With a shorter one, a key could be too old before it is shared (M9.6)."""


@dataclass(frozen=True)
class Sharing:
    """The result of sharing a room key. Pass it to ``encrypt_room_event``, which encrypts for these members."""

    session_id: GroupSessionId
    members_number: int
    outdated: tuple[UserId, ...]
    """Users whose device lists are out of date. They may have devices that do not get the key yet."""
    without_session: tuple[Device, ...]
    """Devices that get the key only after a claim of their keys is answered."""

    @property
    def reaches_all(self) -> bool:
        """Whether every device of every member gets the key.

        If not, send the outgoing requests and share again, until it does or the result no longer changes. A device that
        is left out can't decrypt what is encrypted before it gets the key.
        """
        return not self.outdated and not self.without_session


class _Encryption(msgspec.Struct):
    algorithm: str
    rotation_period_msgs: int = RoomSettings.__struct_defaults__[0]
    rotation_period_ms: int = RoomSettings.__struct_defaults__[1]


@dataclass(frozen=True)
class _Recipient:
    owner: Device
    device: KnownDevice
    generation: int
    reachable: bool


async def set_encryption(transaction: Transaction, room_id: RoomId, content: JsonObject) -> None:
    """Note how a room is encrypted, from the content of its ``m.room.encryption`` event (M9.12).

    Raises ``MalformedMessage``, and ``EncryptionDowngrade`` if an encrypted room would have no known encryption.
    """
    encryption: _Encryption | None
    try:
        encryption = parsed(content, _Encryption, "the encryption of a room")
    except MalformedMessage:
        encryption = None
    before = await transaction.get(ROOM, room_id)
    if encryption is None or encryption.algorithm != MEGOLM:
        if before is not None:
            raise EncryptionDowngrade("the room would no longer be encrypted by an algorithm that is known")
        raise MalformedMessage("this is no encryption of a room that is known")
    after = RoomSettings(
        encryption.algorithm,
        max(1, encryption.rotation_period_msgs),
        max(SHORTEST_PERIOD_MS, encryption.rotation_period_ms),
    )
    if before is not None:
        after = msgspec.structs.replace(after, shared_history=before.shared_history, strategy=before.strategy)
    if after != before:
        transaction.put(ROOM, room_id, after)


async def set_strategy(transaction: Transaction, room_id: RoomId, strategy: SharingStrategy) -> None:
    """Choose which devices get the keys of a room (M9.11). Raises ``NotEncrypted``."""
    before = await _settings(transaction, room_id)
    if before.strategy is not strategy:
        transaction.put(ROOM, room_id, msgspec.structs.replace(before, strategy=strategy))


async def set_history_visibility(transaction: Transaction, room_id: RoomId, content: JsonObject) -> None:
    """Note who may read a room's history (M18.7). An unknown visibility hides it from later members.

    Raises ``NotEncrypted``.
    """
    before = await _settings(transaction, room_id)
    shared = content.get("history_visibility") in SHARED_VISIBILITIES
    if shared != before.shared_history:
        transaction.put(ROOM, room_id, msgspec.structs.replace(before, shared_history=shared))


# M9.5
async def share(transaction: Transaction, room_id: RoomId, user_ids: frozenset[UserId], now_ms: int) -> Sharing | None:
    """Send the room key to devices of ``user_ids`` that lack it; first replace the key if that is due (M9.1, M9.2).

    ``None`` means that this commit did only a part: call it again. Raises ``NotEncrypted``, ``UnverifiedRecipients``.
    """
    settings = await _settings(transaction, room_id)
    own = await own_device(transaction)
    ordered = sorted(user_ids)
    if not await devices.track(transaction, ordered):
        return None
    recipients, withheld, outdated = await _recipients(transaction, ordered, settings.strategy)
    outbound, shared = await transaction.get(OUTBOUND, room_id), await transaction.get(SHARED_KEY, room_id)
    if outbound is None or shared is None or must_rotate(outbound, shared, settings, frozenset(recipients), now_ms):
        outbound, shared = await _make(transaction, own, room_id, settings, shared, now_ms)
    members = hashlib.sha256(msgspec.json.encode(ordered)).digest()
    if outbound.members != members:
        outbound.members, outbound.members_number = members, outbound.members_number + 1
    lacking = tuple(key for key, recipient in recipients.items() if _lacks(shared, key, recipient))
    without_session = tuple(key for key in lacking if not recipients[key].reachable)
    to_give = [(shared, key) for key in lacking if recipients[key].reachable]
    if outbound.recipients_version != await _version(transaction):
        to_give += await _earlier_lacking(transaction, room_id, recipients, now_ms)
    to_claim = [key for key in without_session if await transaction.get(WANTED_SESSION, key) is None]
    to_tell = [key for key, (_, code) in withheld.items() if shared.withheld.get(key) != code]
    given = to_give[:DEVICES_IN_A_COMMIT]
    claimed = to_claim[: DEVICES_IN_A_COMMIT - len(given)]
    told = to_tell[: DEVICES_IN_A_COMMIT - len(given) - len(claimed)]
    _begin(shared, outbound.session, [key for of, key in given if of is shared])
    await _send_keys(transaction, own, room_id, given, recipients)
    for key in claimed:
        await olm.want_session(transaction, key)
    _send_withheld(transaction, own, room_id, shared, {key: withheld[key] for key in told})
    complete = len(given) + len(claimed) + len(told) == len(to_give) + len(to_claim) + len(to_tell)
    if complete:
        outbound.recipients_version = await _version(transaction)
    transaction.put(OUTBOUND, room_id, outbound)
    transaction.put(SHARED_KEY, room_id, shared)
    if not complete:
        return None
    left_out = tuple(recipients[key].owner for key in without_session)
    return Sharing(outbound.session.session_id, outbound.members_number, outdated, left_out)


# M9.3, M9.4, M10.1, M10.2
async def encrypt(
    transaction: Transaction,
    room_id: RoomId,
    sharing: Sharing,
    event_type: str,
    content: Mapping[str, object],
    now_ms: int,
) -> JsonObject:
    """Encrypt an event for the members of a share; return the content of an ``m.room.encrypted`` event.

    The caller must drop it if the commit fails. Raises ``RoomKeyNotShared`` if the key was shared with other members
    or replaced since, or if a device list has changed; ``NotEncrypted``; and ``InvalidArgument`` for content that is
    not JSON or is nested too deeply.
    """
    settings = await _settings(transaction, room_id)
    outbound = await transaction.get(OUTBOUND, room_id)
    if outbound is None or is_used_up(outbound, settings, now_ms):
        raise RoomKeyNotShared("the room has no key that may be used: share one with its members first")
    if outbound.recipients_version != await _version(transaction):
        raise RoomKeyNotShared("a device list, or a session with a device, has changed: share the room's key again")
    if (outbound.session.session_id, outbound.members_number) != (sharing.session_id, sharing.members_number):
        raise RoomKeyNotShared("the room's key was shared with other members since: share it again")
    own = await own_device(transaction)
    if not isinstance(content, dict) or not is_json(content):
        raise InvalidArgument(
            "the content of an event is a JSON object, of dict, list, str, int, float, bool and None, "
            f"of at most {DEEPEST} levels"
        )
    plaintext = msgspec.json.encode({"type": event_type, "content": content, "room_id": room_id})
    index = outbound.session.index
    encrypted: JsonObject = {
        "algorithm": MEGOLM,
        "sender_key": olm.own_key(own, "curve25519"),
        "device_id": own.device_id,
        "session_id": outbound.session.session_id,
        "ciphertext": outbound.session.encrypt(plaintext),
    }
    if "m.relates_to" in content:
        encrypted["m.relates_to"] = content["m.relates_to"]
    transaction.put(OUTBOUND, room_id, outbound)
    tracing.encrypted_megolm(transaction, GroupSessionName(room_id, outbound.session.session_id), index)
    return encrypted


async def discard(transaction: Transaction, room_id: RoomId) -> None:
    """Delete the session, so that the next message is encrypted with a new key."""
    transaction.delete(OUTBOUND, room_id)


# M9.6
def is_used_up(outbound: OutboundSession, settings: RoomSettings, now_ms: int) -> bool:
    """Return whether a session must be replaced: for its messages, its age, or changed settings of the room (pure)."""
    return (
        outbound.settings != settings
        or outbound.session.index >= settings.rotation_messages
        or not 0 <= now_ms - outbound.created_ms < settings.rotation_period_ms
    )


# M9.7
def must_rotate(
    outbound: OutboundSession,
    shared: SharedKey,
    settings: RoomSettings,
    recipients: frozenset[PeerName],
    now_ms: int,
) -> bool:
    """Return whether another key is needed: the session is used up, or a device that has its key must lose access."""
    return is_used_up(outbound, settings, now_ms) or not recipients.issuperset(shared.devices)


async def _version(transaction: Transaction) -> int:
    """Return the version of recipients."""
    return await transaction.get(RECIPIENTS_VERSION, None) or 0


async def _settings(transaction: Transaction, room_id: RoomId) -> RoomSettings:
    settings = await transaction.get(ROOM, room_id)
    if settings is None:
        raise NotEncrypted("the room is not known to be encrypted")
    return settings


# M9.8, M9.9, M9.10
async def _recipients(
    transaction: Transaction, user_ids: list[UserId], strategy: SharingStrategy
) -> tuple[dict[PeerName, _Recipient], dict[PeerName, tuple[Device, str]], tuple[UserId, ...]]:
    """Return the devices that get a room's key, those that don't with the reason, and users who may have more devices.

    Raises ``UnverifiedRecipients``.
    """
    recipients: dict[PeerName, _Recipient] = {}
    withheld: dict[PeerName, tuple[Device, str]] = {}
    outdated, unverified, changed = [], [], []
    for user_id in user_ids:
        if await transaction.get(OUTDATED, user_id) is not None:
            outdated.append(user_id)
        trust = None if strategy is SharingStrategy.ALL_DEVICES else await user_trust(transaction, user_id)
        if trust is not None and trust.violated:
            changed.append(user_id)
        for device_id, device in (await transaction.get(DEVICES, user_id) or {}).items():
            owner, key = Device(user_id, device_id), PeerName(user_id, device.curve25519)
            if device.trust is LocalTrust.BLOCKED:
                withheld[key] = owner, BLOCKED
                continue
            if trust is not None and trust.of(device) is DeviceTrust.UNSIGNED:
                if strategy is SharingStrategy.CROSS_SIGNED_DEVICES:
                    withheld[key] = owner, UNVERIFIED
                    continue
                if trust.verified:
                    unverified.append(owner)
            peer = await transaction.get(PEER, key)
            generation = 0 if peer is None else peer.generation
            reachable = peer is not None and bool(peer.sessions)
            recipients[key] = _Recipient(owner, device, generation, reachable)
    if unverified or changed:
        raise UnverifiedRecipients(
            f"{len(unverified)} devices of verified users are not verified, {len(changed)} verified users have changed",
            tuple(unverified),
            tuple(changed),
        )
    return recipients, withheld, tuple(outdated)


def _lacks(shared: SharedKey, key: PeerName, recipient: _Recipient) -> bool:
    """Return whether a device lacks the room key. A key that was sent over a replaced session may be lost (M8.10)."""
    before = shared.devices.get(key)
    return before is None or before.generation != recipient.generation


async def _make(
    transaction: Transaction,
    own: OwnDevice,
    room_id: RoomId,
    settings: RoomSettings,
    before: SharedKey | None,
    now_ms: int,
) -> tuple[OutboundSession, SharedKey]:
    """Make a session in place of the one ``before``. The devices that have the old key stay noted (M8.11)."""
    number = 0
    if before is not None:
        number = before.number + 1
        before.replaced_ms = now_ms
        transaction.put(EARLIER_SHARED_KEY, _place(room_id, before), before)
    session = OutboundGroup()
    session_key = session.session_key
    inbound = InboundSession(
        InboundGroup.from_session_key(session_key),
        own.user_id,
        Curve25519Key(olm.own_key(own, "curve25519")),
        Ed25519Key(olm.own_key(own, "ed25519")),
        KeySource.OWN,
        settings.shared_history,
    )
    name = GroupSessionName(room_id, session.session_id)
    transaction.put(INBOUND, name, inbound)
    tracing.room_key(transaction, name, inbound.source.value, 0, own.user_id, kept=True)
    await backup.note_room_key(transaction, name, inbound)
    shared = SharedKey(session.session_id, number=number, shared_history=settings.shared_history)
    return OutboundSession(session, now_ms, settings), shared


def _place(room_id: RoomId, shared: SharedKey) -> EarlierKey:
    return EarlierKey(room_id, shared.number % EARLIER_KEYS_KEPT)


# M8.11, M8.12
async def _earlier_lacking(
    transaction: Transaction, room_id: RoomId, recipients: Mapping[PeerName, _Recipient], now_ms: int
) -> list[tuple[SharedKey, PeerName]]:
    """Return the room's earlier keys, each with a recipient that got it over a session that was replaced since."""
    lacking: list[tuple[SharedKey, PeerName]] = []
    for place in range(EARLIER_KEYS_KEPT):
        earlier = await transaction.get(EARLIER_SHARED_KEY, EarlierKey(room_id, place))
        if earlier is None:
            continue
        if now_ms - earlier.replaced_ms >= EARLIER_KEY_KEPT_MS:
            transaction.delete(EARLIER_SHARED_KEY, EarlierKey(room_id, place))
            continue
        reachable = [key for key in earlier.devices if key in recipients and recipients[key].reachable]
        lacking += [(earlier, key) for key in reachable if _lacks(earlier, key, recipients[key])]
    return lacking


def _begin(shared: SharedKey, session: OutboundGroup, keys: Iterable[PeerName]) -> None:
    """Note that the devices get the key from the next message on, unless they have it already."""
    new = [key for key in keys if key not in shared.devices]
    if new:
        shared.session_keys.setdefault(session.index, session.session_key)
    for key in new:
        shared.devices[key] = SharedWith(session.index, NOT_SENT)


async def _send_keys(
    transaction: Transaction,
    own: OwnDevice,
    room_id: RoomId,
    given: Iterable[tuple[SharedKey, PeerName]],
    recipients: Mapping[PeerName, _Recipient],
) -> None:
    """Send each key to each of its devices, from the index at which it was first shared with the device."""
    contents: dict[GroupSessionId, dict[Device, JsonObject]] = {}
    indices: dict[GroupSessionId, dict[Device, int]] = {}
    for shared, key in given:
        peer = await transaction.get(PEER, key)
        assert peer is not None  # the caller passes only devices with a session
        recipient, index = recipients[key], shared.devices[key].index
        content = _room_key(room_id, shared, shared.session_keys[index])
        encrypted = olm.encrypt(peer, own, recipient.device, "m.room_key", content)
        contents.setdefault(shared.session_id, {})[recipient.owner] = encrypted
        indices.setdefault(shared.session_id, {})[recipient.owner] = index
        shared.devices[key] = SharedWith(index, recipient.generation)
        transaction.put(PEER, key, peer)
        if shared.replaced_ms:
            transaction.put(EARLIER_SHARED_KEY, _place(room_id, shared), shared)
    for session_id, of_session in contents.items():
        request = send(transaction, "m.room.encrypted", of_session)
        tracing.shared(transaction, GroupSessionName(room_id, session_id), indices[session_id], request)


def _room_key(room_id: RoomId, shared: SharedKey, session_key: str) -> JsonObject:
    return {
        "algorithm": MEGOLM,
        "room_id": room_id,
        "session_id": shared.session_id,
        "session_key": session_key,
        **shared_history_flags(shared_history=shared.shared_history),
    }


def _send_withheld(
    transaction: Transaction,
    own: OwnDevice,
    room_id: RoomId,
    shared: SharedKey,
    withheld: dict[PeerName, tuple[Device, str]],
) -> None:
    contents: dict[Device, JsonObject] = {}
    for key, (owner, code) in withheld.items():
        shared.withheld[key] = code
        contents[owner] = olm.withheld_notice(own, code, REASONS[code], GroupSessionName(room_id, shared.session_id))
    if contents:
        send(transaction, "m.room_key.withheld", contents)
        codes = dict(withheld.values())
        tracing.withheld(transaction, GroupSessionName(room_id, shared.session_id), codes)
