"""What an application does with the backup of room keys: ``OlmMachine.key_backup``."""

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
    """What is known of the backup, and whether room keys go to it."""

    version: BackupVersion | None
    """``None`` while the homeserver has not answered to the version that is made here."""
    public_key: Curve25519Key
    is_trusted: bool
    """Whether its decryption key is here, or a verified device or the master key of the user has signed it."""
    is_refused: bool
    """Whether somebody else has changed the version: ask for the current one (``KeyBackup.version_query``)."""
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
    """How many of these can't be read, since somebody has put something else there."""
    kept: int
    """How many of these were better than what was here."""


class KeyBackup:
    """The backup of the user's room keys at the homeserver.

    Uploads are among ``OlmMachine.outgoing_requests`` while the backup is on, whichever process has turned it on.
    """

    def __init__(self, store: CryptoStore) -> None:
        """Callers use ``OlmMachine.key_backup``."""
        self._store = store

    async def status(self) -> BackupStatus | None:
        """Return what is known of the backup; ``None`` where none is known."""

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
        """Iterate over the changes of the backup, such as that another device has changed the version."""
        return self._store.subscribe(BACKUP)

    async def create_version(self) -> NewBackupVersion:
        """Turn the backup on with a version of its own, which replaces the one before, for all devices of the user.

        Send the request, and give it back with its answer. Until it is answered, each further call returns the same
        request, in either process. If it is sent twice, the homeserver makes two versions with the same key,
        and may refuse uploads until ``version_query`` has told which of them is the current one.
        """
        return await self._store.run(backup.create_version)

    async def version_query(self) -> BackupVersionQuery:
        """Return the request that asks which version is the current one. Give it back with its answer.

        The answer turns the backup on if that version is trusted. The status 404 says that there is none: give it to
        ``mark_failed``. Ask at the beginning, where the status says that the version was refused, and now and then:
        while there is nothing to upload, no refusal shows that there is another one.
        """
        return await self._store.query(backup.version_query)

    async def decryption_key(self) -> bytes | None:
        """Return the 32 bytes that read the backup, where they are here."""

        async def read(view: View) -> bytes | None:
            known = await view.get(BACKUP, None)
            return None if known is None else known.decryption_key

        return await self._store.query(read)

    async def import_decryption_key(self, key: bytes) -> None:
        """Keep the decryption key of the backup. That makes the backup trusted.

        Raises ``NoBackup`` where no version is known yet, and ``WrongBackupKey`` where it is not that one's.
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
        """Stop uploading, and forget the decryption key. What is at the homeserver stays there."""
        await self._store.run(backup.turn_off)

    async def download(self, room_id: str | None = None, session_id: str | None = None) -> BackupDownload:
        """Return the request for all room keys in the backup, for those of a room, or for one of them.

        Raises ``NoBackup``, also where the decryption key is not here.
        """
        if room_id is None and session_id is not None:
            raise InvalidArgument("a session means something only in its room")
        room = None if room_id is None else RoomId(room_id)
        session = None if session_id is None else GroupSessionId(session_id)
        return await self._store.query(backup.download, room, session)

    async def restore(self, request: BackupDownload, response: JsonObject) -> AsyncIterator[RestoreProgress]:
        """Keep the room keys of a response where they are better than what is here, and say how far that has come.

        Each step is a commit. Restoring that ends early is begun again by the same response. Nobody vouches for the
        sender of what such a key decrypts. Raises ``MalformedResponse``, and ``NoBackup`` where the backup is another
        one by now.
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
