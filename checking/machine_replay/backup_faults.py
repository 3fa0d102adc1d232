"""Inject the faults of the module Backup into the machine. Each breaks the same rule as in the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from checking.replay.substitutions import Substitution
from unwedged.machine import account, backup
from unwedged.machine.backup import BackedUpKey
from unwedged.machine.exports import ExportedSession
from unwedged.machine.identifiers import (
    BackupVersion,
    Curve25519Key,
    Device,
    GroupSessionId,
    GroupSessionName,
    JsonObject,
    RoomId,
)
from unwedged.machine.records import BACKUP, UNBACKED, Backup, OwnDevice
from unwedged.machine.requests import BackupDownload, BackupUpload, BackupVersionCreate
from unwedged.store import Transaction, View

_mark_created = backup.mark_created
_download = backup.download
_read = backup.read
_open_account = account.open_account


# M19.15
def _backup_flag_race() -> Sequence[Substitution]:
    """The response to an upload settles all marks of its room keys, even marks that were set since."""

    async def mark_uploaded(transaction: Transaction, request: BackupUpload, response: JsonObject) -> None:
        del response
        for room_id, numbers in request.numbers.items():
            for session_id in numbers:
                name = GroupSessionName(room_id, session_id)
                if await transaction.get(UNBACKED, name) is not None:
                    transaction.delete(UNBACKED, name)

    return [(backup, "mark_uploaded", mark_uploaded)]


# M19.7
def _two_keys_one_version() -> Sequence[Substitution]:
    """A new version counts as the version of the waiting key, even if it was created with another key."""

    async def mark_created(transaction: Transaction, request: BackupVersionCreate, response: JsonObject) -> None:
        known = await transaction.get(BACKUP, None)
        waiting = request if known is None else BackupVersionCreate(known.public_key, request.body)
        await _mark_created(transaction, waiting, response)

    return [(backup, "mark_created", mark_created)]


# M19.1
def _backup_off_after_invalidation() -> Sequence[Substitution]:
    """A machine knows that the backup is on, but the next machine does not."""

    async def open_account(transaction: Transaction, device: Device) -> OwnDevice:
        if await transaction.get(BACKUP, None) is not None:
            transaction.delete(BACKUP, None)
        return await _open_account(transaction, device)

    return [(account, "open_account", open_account)]


# M19.11
def _untrusted_version_taken() -> Sequence[Substitution]:
    """The machine does not check whether the version is trusted."""

    async def is_trusted(reading: Transaction | View, known: Backup) -> bool:
        del reading, known
        return True

    return [(backup, "is_trusted", is_trusted)]


# M19.20
def _restored_from_older_version() -> Sequence[Substitution]:
    """A download is decrypted by the key of the time of its request, even if the backup has changed since."""
    keys: dict[tuple[BackupVersion, Curve25519Key], bytes] = {}

    async def download(
        reading: Transaction | View, room_id: RoomId | None, session_id: GroupSessionId | None
    ) -> BackupDownload:
        request = await _download(reading, room_id, session_id)
        known = await reading.get(BACKUP, None)
        assert known is not None  # without a backup there is no download
        assert known.decryption_key is not None
        keys[request.version, request.public_key] = known.decryption_key
        return request

    async def read(
        reading: Transaction | View, request: BackupDownload, fetched: Iterable[BackedUpKey]
    ) -> list[ExportedSession]:
        assert isinstance(reading, Transaction)  # the transaction that stores the room keys
        known = await reading.get(BACKUP, None)
        assert known is not None  # no version is forgotten
        key = keys[request.version, request.public_key]
        older = Backup(request.public_key, known.auth_data, request.version, key)
        reading.put(BACKUP, None, older)
        sessions = await _read(reading, request, fetched)
        reading.put(BACKUP, None, known)
        return sessions

    return [(backup, "download", download), (backup, "read", read)]


FAULTS: Final[Mapping[str, Callable[[], Sequence[Substitution]]]] = {
    "backup-flag-race": _backup_flag_race,
    "two-keys-one-version": _two_keys_one_version,
    "backup-off-after-invalidation": _backup_off_after_invalidation,
    "untrusted-version-taken": _untrusted_version_taken,
    "restored-from-older-version": _restored_from_older_version,
}
