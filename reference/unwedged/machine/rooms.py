"""Room keys and room messages that are received: which key is kept, and who vouches for a message (M11, M12).

The first reading of a message is noted under its index, so that the same ciphertext is recognised if it comes again as
another event. So a first reading is a write: read many messages in one call.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import msgspec

from unwedged.machine import backup, tracing
from unwedged.machine.errors import (
    MachineError,
    MalformedMessage,
    MissingRoomKey,
    ReplayedMessage,
    UnsupportedAlgorithm,
    WithheldRoomKey,
    WrongRoom,
    WrongSender,
)
from unwedged.machine.exports import ExportedSession
from unwedged.machine.identifiers import (
    MEGOLM,
    Curve25519Key,
    Ed25519Key,
    EventId,
    GroupSessionId,
    GroupSessionName,
    JsonObject,
    RoomId,
    UserId,
)
from unwedged.machine.identities import DeviceTrust, user_trust
from unwedged.machine.olm import OlmEvent
from unwedged.machine.ratchets import InboundGroup
from unwedged.machine.records import (
    DEVICES,
    GIVEN_ALSO,
    INBOUND,
    SEEN,
    WITHHELD,
    GivenBy,
    Giver,
    InboundSession,
    KeySource,
    Reading,
    SeenPart,
    Withheld,
)
from unwedged.machine.unshown import Unshown
from unwedged.machine.wire import decoded, is_storable, parsed
from unwedged.store import Transaction, View

INDICES_IN_A_PART: Final = 64
"""How many indices of a session share one record of readings. So the cost of a reading does not grow with the number of
messages."""
KEYS_IN_A_COMMIT: Final = 250
"""How many room keys are imported in one commit."""
MOST_WITHHELD: Final = 1_000
"""The most notices that are kept, since anybody may send them about any session. A further one replaces a random one
(M12.5)."""
LONGEST_NAME: Final = 255
"""The longest name of a room or a session in such a notice."""
UNAVAILABLE: Final = "m.unavailable"
_SHARED_HISTORY: Final = ("shared_history", "m.shared_history", "org.matrix.msc3061.shared_history")
"""The spellings of the flag. All are read. The last is older than the specification, and is not written."""


class SenderTrust(Enum):
    """Who vouches that a room message comes from the device that it names (M12.2)."""

    VERIFIED_DEVICE = "verified_device"
    """A known device that is verified: by the owner of this device, or through its user's verified identity."""
    CROSS_SIGNED_DEVICE = "cross_signed_device"
    """A known device that its user has signed, but the user's identity is not verified."""
    CHANGED_IDENTITY = "changed_identity"
    """A device that is not verified, of a user whose identity was verified once and has changed."""
    KNOWN_DEVICE = "known_device"
    """A known device of the sender that its user has not signed."""
    BLOCKED_DEVICE = "blocked_device"
    """A known device that the owner of this device has blocked."""
    UNKNOWN_DEVICE = "unknown_device"
    """A device that is not, or not yet, on the sender's device list."""
    IMPORTED_KEY = "imported_key"
    """Nobody: the room key came from a file, from the backup or from another device, and anybody may have made it."""


@dataclass(frozen=True)
class DecryptedEvent:
    """A decrypted room message."""

    event_id: EventId
    type: str
    content: JsonObject = field(repr=False)
    sender: UserId
    sender_key: Curve25519Key
    session_id: GroupSessionId
    index: int
    trust: SenderTrust


class _RoomKey(Unshown, msgspec.Struct):
    algorithm: str
    room_id: RoomId
    session_id: GroupSessionId
    session_key: str


class _Withheld(msgspec.Struct):
    algorithm: str
    code: str
    room_id: RoomId | None = None
    session_id: GroupSessionId | None = None
    reason: str = ""


class _Megolm(msgspec.Struct):
    algorithm: str
    ciphertext: str = ""
    session_id: GroupSessionId = GroupSessionId("")


class EncryptedEvent(msgspec.Struct):
    """A room event that is encrypted by Megolm, with the fields that are used."""

    event_id: EventId
    sender: UserId
    content: _Megolm
    origin_server_ts: int = 0


class _Plaintext(Unshown, msgspec.Struct):
    type: str
    content: JsonObject
    room_id: str


_PLAINTEXT: Final = msgspec.json.Decoder(_Plaintext)


def has_shared_history(content: JsonObject) -> bool:
    """Return whether a room key may be given to users who join the room later (pure) (M18.7)."""
    return any(content.get(name) is True for name in _SHARED_HISTORY)


def shared_history_flags(*, shared_history: bool) -> JsonObject:
    """Return the fields of a room key's content that hold the flag (pure)."""
    return dict.fromkeys(_SHARED_HISTORY[:2], shared_history)


async def receive_room_key(transaction: Transaction, event: OlmEvent) -> None:
    """Keep a room key that came over Olm if it is better than the key that is here (M11).

    Raises ``MalformedMessage`` and ``UnsupportedAlgorithm``.
    """
    key = parsed(event.content, _RoomKey, "a room key")
    if not is_storable((key.room_id, key.session_id)):
        raise MalformedMessage("the name of a room key is no text")
    if key.algorithm != MEGOLM:
        raise UnsupportedAlgorithm("a room key is not for Megolm")
    session = InboundGroup.from_session_key(key.session_key)
    if session.session_id != key.session_id:
        raise MalformedMessage("a room key has another session id than it says")
    shared_history = has_shared_history(event.content)
    inbound = InboundSession(
        session, event.sender, event.sender_key, event.signing_key, KeySource.ROOM_KEY, shared_history
    )
    await keep_better(transaction, GroupSessionName(key.room_id, key.session_id), inbound)


async def keep_better(transaction: Transaction, name: GroupSessionName, offered: InboundSession) -> bool:
    """Keep the better of the stored session and the one ``offered``; return whether anything changed (M11.3).

    Anybody who has the key of a session can send it, even before its maker does. So each further user who sends it is
    noted, and messages of each of these users are attributed to that user.
    """
    stored = await transaction.get(INBOUND, name)
    better = offered if stored is None else merged(offered, stored)
    if stored is not None and offered.sender is not None and is_given_also(offered, stored):
        giver = Giver(*name, offered.sender)
        if await transaction.get(GIVEN_ALSO, giver) is None:
            transaction.put(GIVEN_ALSO, giver, GivenBy(offered.sender_key, offered.signing_key))
            better = better or stored  # it decrypts more messages now: subscribers must be told
    kept, first = better is not None, offered.session.first_index
    tracing.room_key(transaction, name, offered.source.value, first, offered.sender, kept=kept)
    if better is None:
        return False
    transaction.put(INBOUND, name, better)
    await backup.note_room_key(transaction, name, offered)
    if await transaction.get(WITHHELD, name) is not None:
        transaction.delete(WITHHELD, name)
    return True


def merged(offered: InboundSession, stored: InboundSession) -> InboundSession | None:
    """Return the best of two sessions with one name, or ``None`` if that is the stored one (pure) (M11.1, M11.2).

    They are the same session if they are equal from the later of their first indices on. Then the one that begins
    earlier is better, whoever sent it. It is vouched for if either is, since the session's name is the key that signs
    every message. A different ratchet under the same name replaces only one whose origin counts for less. Otherwise
    a wrong key in the backup could keep the right one out.
    """
    if not offered.session.is_same_from(stored.session):
        return offered if offered.source.standing > stored.source.standing else None
    offered_vouched, stored_vouched = (one.source.is_vouched for one in (offered, stored))
    voucher = offered if offered_vouched and not stored_vouched else stored
    earlier = offered if offered.session.first_index < stored.session.first_index else stored
    if voucher is stored and earlier is stored:
        return None
    return msgspec.structs.replace(voucher, session=earlier.session)


def is_given_also(offered: InboundSession, stored: InboundSession) -> bool:
    """Return whether ``offered`` is the stored session, but vouched for by another user (pure)."""
    vouched = all(one.source.is_vouched for one in (offered, stored))
    return vouched and offered.sender != stored.sender and offered.session.is_same_from(stored.session)


async def export_keys(view: View, names: Iterable[GroupSessionName]) -> list[ExportedSession]:
    """Return sessions in the form of key export files, each from the first index that this device can decrypt."""
    exported = []
    for name in names:
        inbound = await view.get(INBOUND, name)
        if inbound is not None:
            exported.append(inbound.exported(name))
    return exported


# M18.5, M19.21
async def import_keys(transaction: Transaction, sessions: Iterable[ExportedSession], source: KeySource) -> int:
    """Keep the ``sessions`` that are better than those here; return how many these are. Malformed ones are ignored."""
    kept = 0
    for exported in sessions:
        if exported.algorithm != MEGOLM:
            continue
        try:
            session = InboundGroup.from_exported(exported.session_key)
        except MalformedMessage:
            continue
        if session.session_id != exported.session_id:
            continue
        signing_key = exported.sender_claimed_keys.get("ed25519")
        inbound = InboundSession(
            session,
            None,
            Curve25519Key(exported.sender_key),
            None if signing_key is None else Ed25519Key(signing_key),
            source,
            exported.shared_history,
        )
        name = GroupSessionName(RoomId(exported.room_id), GroupSessionId(exported.session_id))
        kept += await keep_better(transaction, name, inbound)
    return kept


async def note_withheld(transaction: Transaction, sender: UserId, content: JsonObject) -> None:
    """Note the reason for which a room key is withheld, unless the key is here anyway (M12.5, M18.6).

    Raises ``MalformedMessage``.
    """
    withheld = parsed(content, _Withheld, "a notice of a withheld key")
    if withheld.algorithm != MEGOLM:
        raise UnsupportedAlgorithm("a withheld key is not for Megolm")
    if withheld.code == UNAVAILABLE:
        return  # A device that was asked does not have the key. That says nothing about the device that made it.
    if withheld.room_id is None or withheld.session_id is None:
        return  # m.no_olm: no session could be made. It names no room key, and the other side makes the new session.
    name = GroupSessionName(withheld.room_id, withheld.session_id)
    if max(map(len, name)) > LONGEST_NAME:
        raise MalformedMessage("a notice of a withheld key has names that are too long")
    if await transaction.get(INBOUND, name) is not None:
        return
    known = await transaction.keys(WITHHELD)
    if len(known) >= MOST_WITHHELD and name not in known:
        transaction.delete(WITHHELD, secrets.choice(known))
    transaction.put(WITHHELD, name, Withheld(withheld.code[:200], withheld.reason[:200], sender))
    tracing.told_withheld(transaction, name, withheld.code, sender)


async def decrypt(
    transaction: Transaction, room_id: RoomId, events: list[JsonObject]
) -> list[DecryptedEvent | MachineError]:
    """Decrypt room events. For each, return the event or the reason why it can't be read (M12.3)."""
    results: list[DecryptedEvent | MachineError] = []
    sessions: _Sessions = {}
    for event in events:
        try:
            results.append(await _decrypt(transaction, room_id, event, sessions))
        except MachineError as error:
            results.append(error)
        failure = results[-1]
        tracing.decrypted_megolm(transaction, room_id, event, failure if isinstance(failure, MachineError) else None)
    for session in sessions.values():
        session.readings.put(transaction)
    return results


class _Readings:
    """The event as which each message of one session was read."""

    def __init__(self, name: GroupSessionName, giver: UserId | None) -> None:
        self._name = name
        self._giver = giver
        self._parts: dict[int, dict[int, Reading]] = {}
        self._changed: set[int] = set()

    async def note(self, transaction: Transaction, index: int, reading: Reading) -> None:
        """Note a reading (M12.1). Raises ``ReplayedMessage`` if the message was read before as another event."""
        number = index // INDICES_IN_A_PART
        part = self._parts.get(number)
        if part is None:
            part = self._parts[number] = await transaction.get(SEEN, SeenPart(*self._name, self._giver, number)) or {}
        before = part.get(index)
        if before is None:
            part[index] = reading
            self._changed.add(number)
        elif before != reading:
            raise ReplayedMessage("this message was read before as another event")

    def put(self, transaction: Transaction) -> None:
        """Write what was noted."""
        for number in self._changed:
            transaction.put(SEEN, SeenPart(*self._name, self._giver, number), self._parts[number])


@dataclass(frozen=True)
class _Session:
    """A session and its readings, which are read from the store once for several events."""

    inbound: InboundSession
    readings: _Readings
    trust: dict[UserId, SenderTrust] = field(default_factory=dict)


_Sessions = dict[tuple[GroupSessionId, UserId | None], _Session]
"""Sessions by their ids, and by the user who sent them if another user had sent them first."""


async def _decrypt(transaction: Transaction, room_id: RoomId, raw: JsonObject, sessions: _Sessions) -> DecryptedEvent:
    event = encrypted_event(raw)
    session_id = event.content.session_id
    session = await _session_of(transaction, GroupSessionName(room_id, session_id), event.sender, sessions)
    inbound = session.inbound
    plaintext, index = inbound.session.decrypt(event.content.ciphertext)
    clear = decoded(plaintext, _PLAINTEXT, "a decrypted room message")
    if clear.room_id != room_id:
        raise WrongRoom("a room message was encrypted for another room")
    await session.readings.note(transaction, index, Reading(event.event_id, event.origin_server_ts))
    trust = session.trust.get(event.sender)
    if trust is None:
        trust = session.trust[event.sender] = await _trust(transaction, event.sender, inbound)
    return DecryptedEvent(
        event.event_id, clear.type, clear.content, event.sender, inbound.sender_key, session_id, index, trust
    )


async def _session_of(
    transaction: Transaction, name: GroupSessionName, sender: UserId, sessions: _Sessions
) -> _Session:
    """Return the session that decrypts the messages of ``sender`` (M11.4).

    Raises the ``MachineError`` that says why there is none.
    """
    session = sessions.get((name.session_id, None))
    if session is None:
        found = await transaction.get(INBOUND, name)
        if found is None:
            raise await _missing(transaction, name, sender)
        session = sessions[name.session_id, None] = _Session(found, _Readings(name, None))
    if not session.inbound.source.is_vouched or session.inbound.sender == sender:
        return session
    also = sessions.get((name.session_id, sender))
    if also is None:
        given = await transaction.get(GIVEN_ALSO, Giver(*name, sender))
        if given is None:
            raise WrongSender("a room message is from another user than its key")
        inbound = msgspec.structs.replace(
            session.inbound, sender=sender, sender_key=given.sender_key, signing_key=given.signing_key
        )
        also = sessions[name.session_id, sender] = _Session(inbound, _Readings(name, sender))
    return also


def encrypted_event(raw: JsonObject) -> EncryptedEvent:
    """Parse an encrypted event. Raises ``MalformedMessage`` and ``UnsupportedAlgorithm``."""
    event = parsed(raw, EncryptedEvent, "an encrypted room event")
    if not is_storable((event.event_id, event.sender, event.origin_server_ts, event.content.session_id)):
        raise MalformedMessage("an encrypted room event has a name that no record can keep")
    if event.content.algorithm != MEGOLM:
        raise UnsupportedAlgorithm("a room event is not encrypted by Megolm")
    return event


# M12.4
async def _missing(transaction: Transaction, name: GroupSessionName, sender: UserId) -> MachineError:
    withheld = await transaction.get(WITHHELD, name)
    if withheld is None or withheld.sender != sender:
        return MissingRoomKey("the key of this message has not arrived")
    return WithheldRoomKey("the sender withholds the key of this message", withheld.code)


# M12.2
async def _trust(transaction: Transaction, sender: UserId, inbound: InboundSession) -> SenderTrust:
    if not inbound.source.is_vouched:
        return SenderTrust.IMPORTED_KEY
    devices = (await transaction.get(DEVICES, sender) or {}).values()
    bearers = [device for device in devices if device.curve25519 == inbound.sender_key]
    for device in bearers:
        if device.ed25519 == inbound.signing_key:
            user = await user_trust(transaction, sender)
            trust = user.of(device)
            unverified = trust in (DeviceTrust.UNSIGNED, DeviceTrust.CROSS_SIGNED)
            return SenderTrust.CHANGED_IDENTITY if user.violated and unverified else _OF_TRUST[trust]
    if bearers:
        raise WrongSender("the key of a room message claims another signing key than its device has")
    return SenderTrust.KNOWN_DEVICE if inbound.source is KeySource.OWN else SenderTrust.UNKNOWN_DEVICE


_OF_TRUST: Final = {
    DeviceTrust.UNSIGNED: SenderTrust.KNOWN_DEVICE,
    DeviceTrust.CROSS_SIGNED: SenderTrust.CROSS_SIGNED_DEVICE,
    DeviceTrust.VERIFIED: SenderTrust.VERIFIED_DEVICE,
    DeviceTrust.BLOCKED: SenderTrust.BLOCKED_DEVICE,
}
