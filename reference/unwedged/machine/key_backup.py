"""The calls for the backup of room keys: ``OlmMachine.key_backup`` (M19)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from unwedged.machine import backup, rooms
from unwedged.machine.backup import BackedUpKey, NewBackupVersion
from unwedged.machine.errors import InvalidArgument, MalformedResponse, NoBackup, WrongBackupKey
from unwedged.machine.identifiers import BackupVersion, Curve25519Key, GroupSessionId, JsonObject, RoomId
from unwedged.machine.records import BACKUP, UNBACKED, KeySource
from unwedged.machine.requests import BackupDownload, BackupVersionQuery
from unwedged.machine.rooms import KEYS_IN_A_COMMIT
from unwedged.store import CryptoStore, Subscription, Transaction, View


@dataclass(frozen=True)
class BackupStatus:
    """What is known of the backup, and whether room keys are uploaded to it."""

    version: BackupVersion | None
    """``None`` until the homeserver has answered the request that makes this version."""
    public_key: Curve25519Key
    is_trusted: bool
    """Whether its decryption key is here, or a verified device or the verified master key of the user has signed it."""
    is_refused: bool
    """Whether another device has changed the version. Ask for the current one (``KeyBackup.version_query``)."""
    has_decryption_key: bool
    """Whether room keys can be restored."""
    waiting: int
    """How many room keys are still to be uploaded."""

    @property
    def is_on(self) -> bool:
        """Whether room keys are uploaded."""
        return self.version is not None and self.is_trusted and not self.is_refused


@dataclass(frozen=True)
class RestoreProgress:
    """How far restoring has come."""

    total: int
    done: int
    unreadable: int
    """How many of these can't be decrypted, since somebody has put something else there."""
    kept: int
    """How many of these were better than the keys that were here."""


class KeyBackup:
    """The backup of the user's room keys at the homeserver.

    While the backup is on, every process lists its uploads in ``OlmMachine.outgoing_requests``.
    """

    def __init__(self, store: CryptoStore) -> None:
        """Callers use ``OlmMachine.key_backup``."""
        self._store = store

    async def status(self) -> BackupStatus | None:
        """Return what is known of the backup, or ``None`` if none is known."""

        async def read(view: View) -> BackupStatus | None:
            known = await view.get(BACKUP, None)
            if known is None:
                return None
            return BackupStatus(
                known.version,
                known.public_key,
                await backup.is_trusted(view, known),
                known.refused,
                known.decryption_key is not None,
                len(await view.keys(UNBACKED)),
            )

        return await self._store.query(read)

    def stream(self) -> AbstractAsyncContextManager[Subscription[None]]:
        """Iterate over the changes of the backup, in every process. Another device may have caused them."""
        return self._store.subscribe(BACKUP)

    async def create_version(self) -> NewBackupVersion:
        """Turn the backup on with a new version, which replaces the earlier one for all devices of the user (M19.5).

        Send the request, and pass it with its answer to ``mark_sent``. Until it is answered, each further call returns
        the same request, in every process. If it is sent twice, the homeserver makes two versions with the same key,
        and may refuse uploads until the answer to ``version_query`` says which version is the current one.
        """
        return await self._store.run(backup.create_version)

    async def version_query(self) -> BackupVersionQuery:
        """Return the request that asks which version is the current one. Pass it with its answer to ``mark_sent``.

        The answer turns the backup on if that version is trusted. The status 404 means that there is no version: pass
        it to ``mark_failed``. Ask at the start, when ``status`` says that the version was refused, and now and then:
        without an upload, nothing shows that there is another version.
        """
        return await self._store.query(backup.version_query)

    async def decryption_key(self) -> bytes | None:
        """Return the 32 bytes that decrypt the backup, or ``None`` if they are not here."""

        async def read(view: View) -> bytes | None:
            known = await view.get(BACKUP, None)
            return None if known is None else known.decryption_key

        return await self._store.query(read)

    async def import_decryption_key(self, key: bytes) -> None:
        """Keep the decryption key of the backup, 32 bytes. That makes the backup trusted (M19.11, M19.13).

        Raises ``NoBackup`` if no version is known yet, and ``WrongBackupKey`` if the key belongs to another one.
        """
        if not isinstance(key, bytes):
            raise InvalidArgument(f"a decryption key is 32 bytes, and no {type(key).__name__}")

        async def keep(transaction: Transaction) -> None:
            if await transaction.get(BACKUP, None) is None:
                raise NoBackup("no backup is known: ask the homeserver for its version first")
            if not await backup.keep_decryption_key(transaction, key):
                raise WrongBackupKey("this is not the decryption key of the backup")

        await self._store.run(keep)

    async def turn_off(self) -> None:
        """Stop uploading, and forget the decryption key. The backup at the homeserver is not deleted."""
        await self._store.run(backup.turn_off)

    async def download(self, room_id: str | None = None, session_id: str | None = None) -> BackupDownload:
        """Return the request for all room keys in the backup, for those of a room, or for one of them.

        Raises ``NoBackup`` if there is no backup or its decryption key is not here.
        """
        if room_id is None and session_id is not None:
            raise InvalidArgument("a session means something only in its room")
        room = None if room_id is None else RoomId(room_id)
        session = None if session_id is None else GroupSessionId(session_id)
        return await self._store.query(backup.download, room, session)

    async def restore(self, request: BackupDownload, response: JsonObject) -> AsyncIterator[RestoreProgress]:
        """Keep the room keys of a response that are better than those here; yield the progress of each commit (M19.20).

        If the iteration ends early, call this again with the same response. Nobody vouches for the sender of a message
        that such a key decrypts. Raises ``MalformedResponse``, and ``NoBackup`` if the backup was replaced meanwhile.
        """
        if not isinstance(request, BackupDownload):
            raise InvalidArgument(f"room keys are fetched by a download, not by a {type(request).__name__}")
        if not isinstance(response, dict):
            raise MalformedResponse("the response to a request is a JSON object")
        keys = backup.downloaded(request, response)
        unreadable = kept = 0

        async def keep(transaction: Transaction, part: list[BackedUpKey]) -> tuple[int, int]:
            sessions = await backup.read(transaction, request, part)
            return len(part) - len(sessions), await rooms.import_keys(transaction, sessions, KeySource.BACKUP)

        for start in range(0, len(keys), KEYS_IN_A_COMMIT):
            part = keys[start : start + KEYS_IN_A_COMMIT]
            unreadable_here, kept_here = await self._store.run(keep, part)
            unreadable, kept = unreadable + unreadable_here, kept + kept_here
            yield RestoreProgress(len(keys), start + len(part), unreadable, kept)
