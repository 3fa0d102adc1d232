"""The backup of room keys at the homeserver: its version, whether that is trusted, and which room keys it lacks (M19).

A room key that the backup lacks has a mark with a unique number. The number changes whenever the key changes, and
whenever the backup's version or public key changes. An upload carries the numbers, and its answer deletes the marks
that still have them. So whatever changed meanwhile, in either process, is uploaded again.

Nothing in a backup is authentic: anybody who knows its public key can put room keys there.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec

from unwedged.machine import tracing
from unwedged.machine.account import own_account, own_device
from unwedged.machine.errors import MachineError, MalformedMessage, MalformedResponse, NoBackup, UnsupportedAlgorithm
from unwedged.machine.exports import ExportedSession, SessionEntry
from unwedged.machine.identifiers import (
    BackupVersion,
    Ed25519Key,
    GroupSessionId,
    GroupSessionName,
    JsonObject,
    RoomId,
)
from unwedged.machine.identities import DeviceTrust, private_seed, user_trust
from unwedged.machine.ratchets import BackupDecryption, BackupEncryption, BackupMessage
from unwedged.machine.records import (
    BACKUP,
    DEVICES,
    INBOUND,
    UNBACKED,
    Backup,
    InboundSession,
    KeySource,
    KnownDevice,
    SigningKeyName,
)
from unwedged.machine.requests import BackupDownload, BackupUpload, BackupVersionCreate, BackupVersionQuery
from unwedged.machine.signing import is_signed, signable, signed_by, with_signature
from unwedged.machine.wire import decoded, is_storable, parsed
from unwedged.store import Transaction, View

ALGORITHM: Final = "m.megolm_backup.v1.curve25519-aes-sha2"
KEYS_IN_AN_UPLOAD: Final = 100

Shape = TypeVar("Shape")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NewBackupVersion:
    """A new version of the backup: the request that makes it, and the key that decrypts it."""

    request: BackupVersionCreate
    decryption_key: bytes = field(repr=False)
    """32 bytes. Keep it in the secret storage, or let a person keep it: without it no other device reads the backup."""


@dataclass(frozen=True)
class BackedUpKey:
    """A room key as it came from a backup."""

    name: GroupSessionName
    message: BackupMessage | None
    """``None`` if it does not have the form that the specification demands."""


class _AuthData(msgspec.Struct):
    public_key: str


class _Version(msgspec.Struct):
    algorithm: str
    auth_data: JsonObject
    version: BackupVersion


class _Created(msgspec.Struct):
    version: BackupVersion


class _Uploaded(msgspec.Struct):
    count: int


class _KeyData(msgspec.Struct):
    session_data: BackupMessage


class _Sessions(msgspec.Struct):
    sessions: dict[GroupSessionId, object]


class _Rooms(msgspec.Struct):
    rooms: dict[RoomId, _Sessions]


_SESSION_DATA: Final = msgspec.json.Decoder(JsonObject)


async def note_room_key(transaction: Transaction, name: GroupSessionName, offered: InboundSession) -> None:
    """Mark a room key that ``offered`` has made or changed, unless it came from the backup (M19.2)."""
    if offered.source is not KeySource.BACKUP and await transaction.get(BACKUP, None) is not None:
        mark(transaction, name)


def mark(transaction: Transaction, name: GroupSessionName) -> None:
    """Mark that the backup lacks a room key as it is now."""
    transaction.put(UNBACKED, name, _new_number())


# The version


async def create_version(transaction: Transaction) -> NewBackupVersion:
    """Make a backup with a new decryption key, in place of the known backup (M19.5, M19.6).

    Until the request is answered, each call returns the same key and request. So one version never has two keys.
    """
    backup = await transaction.get(BACKUP, None)
    if backup is None or backup.version is not None:
        decryption = BackupDecryption()
        public_key = decryption.public_key
        auth_data = await _signed(transaction, {"public_key": public_key})
        backup = Backup(public_key, auth_data, decryption_key=decryption.key)
        await _begin(transaction, backup)
    assert backup.decryption_key is not None  # as long as it has no version, only this function has written it
    body: JsonObject = {"algorithm": ALGORITHM, "auth_data": backup.auth_data}
    return NewBackupVersion(BackupVersionCreate(backup.public_key, body), backup.decryption_key)


# M19.7
async def mark_created(transaction: Transaction, request: BackupVersionCreate, response: JsonObject) -> None:
    """Note the name of the new version, unless it is known already or the backup was replaced meanwhile.

    Raises ``MalformedResponse``.
    """
    version = _parsed(response, _Created).version
    if not is_storable(version):
        raise MalformedResponse("the name of a backup version is no text")
    backup = await transaction.get(BACKUP, None)
    if backup is None or backup.version is not None or backup.public_key != request.public_key:
        return
    _put(transaction, msgspec.structs.replace(backup, version=version))


async def version_query(reading: Transaction | View) -> BackupVersionQuery:
    """Return the request that asks for the current version."""
    backup = await reading.get(BACKUP, None)
    return BackupVersionQuery(None, None) if backup is None else BackupVersionQuery(backup.version, backup.public_key)


# M19.8, M19.9, M19.10
async def mark_version(transaction: Transaction, request: BackupVersionQuery, response: JsonObject) -> None:
    """Use the version that the homeserver says is current, unless the known backup has changed since the question.

    While a version is being made here, only that version counts. Raises ``MalformedResponse``, and
    ``UnsupportedAlgorithm`` for a backup of another algorithm.
    """
    offered = _backup_of(response)
    if await version_query(transaction) != request:
        return
    known = await transaction.get(BACKUP, None)
    if known is not None and known.public_key == offered.public_key:
        offered = msgspec.structs.replace(offered, decryption_key=known.decryption_key)
        if known.version in (None, offered.version):
            if known != offered:
                _put(transaction, offered)
            return
    elif known is not None and known.version is None:
        return
    await _begin(transaction, offered)


async def mark_refused(transaction: Transaction, request: BackupUpload | BackupVersionQuery) -> None:
    """Note that the homeserver does not have this version, or that it is no longer the current one (M19.16)."""
    backup = await transaction.get(BACKUP, None)
    if backup is None or backup.version is None or backup.refused:
        return
    if (backup.version, backup.public_key) == (request.version, request.public_key):
        logger.warning("the homeserver refuses the version of the backup")
        transaction.put(BACKUP, None, msgspec.structs.replace(backup, refused=True))


async def turn_off(transaction: Transaction) -> None:
    """Forget the backup and its decryption key (M19.4). The backup at the homeserver is not deleted."""
    if await transaction.get(BACKUP, None) is not None:
        transaction.delete(BACKUP, None)
        tracing.backup(transaction, None)
    for name in await transaction.keys(UNBACKED):
        transaction.delete(UNBACKED, name)


async def keep_decryption_key(transaction: Transaction, key: bytes) -> bool:
    """Keep a decryption key if it belongs to the backup; return whether it does (M19.13)."""
    backup = await transaction.get(BACKUP, None)
    try:
        fits = backup is not None and BackupDecryption(key).public_key == backup.public_key
    except MalformedMessage:
        return False
    if backup is None or not fits:
        return False
    if backup.decryption_key is None:
        transaction.put(BACKUP, None, msgspec.structs.replace(backup, decryption_key=key))
    return True


# M19.11, M19.12
async def is_trusted(reading: Transaction | View, backup: Backup) -> bool:
    """Return whether room keys may go to a backup: its decryption key is here, or a trusted key has signed it."""
    if backup.decryption_key is not None:
        return True
    own = await own_device(reading)
    trust = await user_trust(reading, own.user_id)
    devices = (await reading.get(DEVICES, own.user_id) or {}).values()
    signers = [KnownDevice(own.keys), *(each for each in devices if trust.of(each) is DeviceTrust.VERIFIED)]
    keys: list[tuple[str, Ed25519Key]] = [(device.device_id, device.ed25519) for device in signers]
    if trust.verified and trust.master_key is not None:
        keys.append((trust.master_key, trust.master_key))
    return any(is_signed(backup.auth_data, own.user_id, f"ed25519:{name}", key) for name, key in keys)


# Uploads


# M19.14, M19.17
async def uploads(reading: Transaction | View) -> list[BackupUpload]:
    """Return an upload of at most 100 room keys that the backup lacks. It may be sent any number of times.

    The list is empty if the backup lacks none, or if no room keys may go to it.
    """
    backup = await reading.get(BACKUP, None)
    if backup is None or backup.version is None or backup.refused or not await is_trusted(reading, backup):
        return []
    encryption = BackupEncryption(backup.public_key)
    numbers: dict[RoomId, dict[GroupSessionId, int]] = {}
    rooms: dict[RoomId, dict[str, dict[GroupSessionId, JsonObject]]] = {}
    for name in (await reading.keys(UNBACKED))[:KEYS_IN_AN_UPLOAD]:
        number, inbound = await reading.get(UNBACKED, name), await reading.get(INBOUND, name)
        assert number is not None  # listed above
        assert inbound is not None  # it was there when the mark was made; if it is lost, so is the mark
        numbers.setdefault(name.room_id, {})[name.session_id] = number
        sessions = rooms.setdefault(name.room_id, {"sessions": {}})["sessions"]
        sessions[name.session_id] = _key_data(encryption, name, inbound)
    return [BackupUpload(backup.version, backup.public_key, numbers, {"rooms": rooms})] if numbers else []


async def mark_uploaded(transaction: Transaction, request: BackupUpload, response: JsonObject) -> None:
    """Delete the marks that still have the number that was uploaded (M19.15).

    If the version or the public key has changed, all marks have other numbers. Raises ``MalformedResponse``.
    """
    _parsed(response, _Uploaded)
    for room_id, numbers in request.numbers.items():
        for session_id, number in numbers.items():
            name = GroupSessionName(room_id, session_id)
            if await transaction.get(UNBACKED, name) == number:
                transaction.delete(UNBACKED, name)


# Restoring


async def download(
    reading: Transaction | View, room_id: RoomId | None, session_id: GroupSessionId | None
) -> BackupDownload:
    """Return the request for room keys of the backup. Raises ``NoBackup`` if it or its decryption key is not here."""
    backup = await reading.get(BACKUP, None)
    if backup is None or backup.version is None or backup.decryption_key is None:
        raise NoBackup("there is no backup whose decryption key is here")
    return BackupDownload(backup.version, backup.public_key, room_id, session_id)


def downloaded(request: BackupDownload, response: JsonObject) -> list[BackedUpKey]:
    """Return the room keys of a response (pure). Raises ``MalformedResponse``."""
    if request.room_id is None:
        rooms = _parsed(response, _Rooms).rooms
    elif request.session_id is None:
        rooms = {request.room_id: _parsed(response, _Sessions)}
    else:
        rooms = {request.room_id: _Sessions({request.session_id: response})}
    return [
        BackedUpKey(GroupSessionName(room_id, session_id), _message(data))
        for room_id, sessions in rooms.items()
        for session_id, data in sessions.sessions.items()
    ]


async def read(
    reading: Transaction | View, request: BackupDownload, keys: Iterable[BackedUpKey]
) -> list[ExportedSession]:
    """Return the room keys that can be decrypted (M19.20).

    Raises ``NoBackup`` if the backup is no longer the one that they were fetched from.
    """
    backup = await reading.get(BACKUP, None)
    if (
        backup is None
        or backup.decryption_key is None
        or (backup.version, backup.public_key) != (request.version, request.public_key)
    ):
        raise NoBackup(
            "the backup is not the one that these room keys were fetched from, or its decryption key is gone"
        )
    decryption = BackupDecryption(backup.decryption_key)
    sessions = []
    for key in keys:
        try:
            sessions.append(_session(decryption, key))
        except MachineError as error:
            logger.warning("a room key in the backup can't be read code=%s", error.code)
    return sessions


# What the above are made of


def _put(transaction: Transaction, backup: Backup) -> None:
    transaction.put(BACKUP, None, backup)
    tracing.backup(transaction, backup)


async def _begin(transaction: Transaction, backup: Backup) -> None:
    """Write a backup that lacks all room keys of this device (M19.3)."""
    _put(transaction, backup)
    number = _new_number()
    for name in await transaction.keys(INBOUND):
        transaction.put(UNBACKED, name, number)


def _new_number() -> int:
    """Return a number that no mark has had. It is random, since a counter would be lost together with its mark."""
    return secrets.randbits(63)


async def _signed(transaction: Transaction, auth_data: JsonObject) -> JsonObject:
    own, account = await own_device(transaction), await own_account(transaction)
    seed = await private_seed(transaction, SigningKeyName.MASTER)
    signature = account.sign(signable(auth_data))
    signed = with_signature(auth_data, own.user_id, f"ed25519:{own.device_id}", signature)
    return signed if seed is None else signed_by(signed, own.user_id, seed)


def _parsed(response: JsonObject, shape: type[Shape]) -> Shape:
    return parsed(response, shape, "a response about the backup", MalformedResponse)


def _backup_of(response: JsonObject) -> Backup:
    offered = _parsed(response, _Version)
    if offered.algorithm != ALGORITHM:
        raise UnsupportedAlgorithm("the backup is encrypted in a way that is not known")
    if not is_storable((offered.version, offered.auth_data)):
        raise MalformedResponse("a backup version has a part that no record can keep")
    auth_data = _parsed(offered.auth_data, _AuthData)
    try:
        public_key = BackupEncryption(auth_data.public_key).public_key
    except MalformedMessage:
        raise MalformedResponse("a backup version has a public key that is none") from None
    return Backup(public_key, offered.auth_data, offered.version)


def _key_data(encryption: BackupEncryption, name: GroupSessionName, inbound: InboundSession) -> JsonObject:
    """Return a room key in the form in which it is uploaded (M19.19).

    It is never uploaded as verified or as forwarded. A homeserver would prefer a verified key to a key that begins
    earlier, and would replace a forwarded key by a key that begins later.
    """
    entry: JsonObject = msgspec.to_builtins(SessionEntry.of(inbound.exported(name)))
    del entry["room_id"], entry["session_id"]
    message = encryption.encrypt(msgspec.json.encode(entry))
    return {
        "first_message_index": inbound.session.first_index,
        "forwarded_count": 0,
        "is_verified": False,
        "session_data": msgspec.to_builtins(message),
    }


def _message(data: object) -> BackupMessage | None:
    try:
        return parsed(data, _KeyData, "a backed-up room key").session_data
    except MalformedMessage:
        return None


def _session(decryption: BackupDecryption, key: BackedUpKey) -> ExportedSession:
    if key.message is None or not is_storable(key.name):
        raise MalformedMessage("a backed-up room key is not built as the specification demands")
    entry = decoded(decryption.decrypt(key.message), _SESSION_DATA, "a backed-up room key")
    named = {**entry, "room_id": key.name.room_id, "session_id": key.name.session_id}
    return parsed(named, SessionEntry, "a backed-up room key").session()
