"""The seam between plain records above and sealed rows below: nothing above it sees a row, nothing below it a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from unwedged.protocol.cache import Change, ChangeLog
from unwedged.protocol.identifiers import Epoch, Milliseconds, Version
from unwedged.store.backend import Backend, Committed, Listed, Loaded, Row, RowName
from unwedged.store.holding import RecordName
from unwedged.store.sealing import Sealer


class SealedRecords:
    """The records in the database. Its methods are the backend's of the same names, fenced where those are."""

    def __init__(self, backend: Backend, sealer: Sealer) -> None:
        self._backend = backend
        self._sealer = sealer

    async def changes(self, since: Version, epoch: Epoch | None) -> ChangeLog[RecordName]:
        """Read the change log after ``since``."""
        log = await self._backend.changes(since, epoch)
        reveal = self._sealer.reveal
        changes = tuple(
            Change(change.version, RecordName(change.key.kind, reveal(change.key.kind, change.key.key)))
            for change in log.changes
        )
        return ChangeLog(log.version, log.floor, changes)

    async def load(self, epoch: Epoch, name: RecordName, since: Version) -> Loaded:
        """Read one record, and whether it changed after ``since``."""
        loaded = await self._backend.load(epoch, self._row(name), since)
        if loaded.value is None:
            return loaded
        return replace(loaded, value=self._sealer.open(name.kind, name.key, loaded.value))

    async def keys(self, epoch: Epoch, kind: str, since: Version) -> Listed:
        """Read the keys of one kind, and whether any of its records changed after ``since``."""
        listed = await self._backend.keys(epoch, kind, since)
        return replace(listed, keys=tuple(self._sealer.reveal(kind, key) for key in listed.keys))

    async def commit(
        self,
        epoch: Epoch,
        writes: Mapping[RecordName, bytes | None],
        now: Milliseconds,
        duration: Milliseconds,
        *,
        alone: bool,
    ) -> Committed:
        """Write all records, delete those without a value, or nothing."""
        rows = [
            Row(self._row(name), None if value is None else self._sealer.seal(name.kind, name.key, value))
            for name, value in writes.items()
        ]
        return await self._backend.commit(epoch, rows, now, duration, alone=alone)

    def _row(self, name: RecordName) -> RowName:
        return RowName(name.kind, self._sealer.hide(name.kind, name.key))
