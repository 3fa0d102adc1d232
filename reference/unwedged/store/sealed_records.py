"""The boundary between plain records and sealed rows: callers see only records, and the backend sees only rows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from heapq import merge
from operator import attrgetter
from typing import Final

from unwedged.protocol.cache import Change, ChangeLog
from unwedged.protocol.identifiers import Epoch, Milliseconds, Version
from unwedged.store.backend import Backend, Committed, Listed, Loaded, Row, RowName
from unwedged.store.errors import TamperedRecord
from unwedged.store.guarded_cache import RecordName
from unwedged.store.offloading import FEW_RECORDS, SLICE_RECORDS, no_check, offload_each
from unwedged.store.sealer import Sealer

logger = logging.getLogger(__name__)


class _Unreadable(Exception):
    """A line of the change log does not authenticate."""

    def __init__(self, kind: str, version: Version) -> None:
        super().__init__(kind, version)
        self.kind = kind
        self.version = version


@dataclass(frozen=True, slots=True)
class Batch:
    """The content of one commit: the plain values, and their rows."""

    writes: Mapping[RecordName, bytes | None]
    rows: Sequence[Row]


KEPT_ROW_NAMES: Final = 1024
"""Hiding the name of a record gives the same result each time, so it is cached. Between two accesses to the database it
costs ten times as much as in a loop, because the cipher is no longer in the processor's cache: some 10 us of each
commit."""

_BY_NAME: Final = attrgetter("name")


def _in_order(rows: list[Row]) -> list[Row]:
    """Sort many rows slice by slice: other threads, the loop's too, stand still while Python sorts."""
    if len(rows) <= SLICE_RECORDS:
        return sorted(rows, key=_BY_NAME)
    slices = [sorted(rows[start : start + SLICE_RECORDS], key=_BY_NAME) for start in range(0, len(rows), SLICE_RECORDS)]
    return list(merge(*slices, key=_BY_NAME))


class SealedRecords:
    """The records in the database. Its methods are those of the backend, and are fenced if those are."""

    def __init__(self, backend: Backend, sealer: Sealer) -> None:
        self._backend = backend
        self._sealer = sealer
        self._row = lru_cache(KEPT_ROW_NAMES)(self._hidden)
        self._left_out: dict[str, int] = {}
        """How many rows the last listing of each kind had to leave out. The log says when that changes."""

    # P2.14
    async def changes(self, since: Version, epoch: Epoch | None) -> ChangeLog[RecordName]:
        """Read the change log after ``since``. A line that can't be read limits how far back it reaches."""
        log = await self._backend.changes(since, epoch)
        try:
            return ChangeLog(log.version, log.floor, tuple(await offload_each(self._revealed, log.changes)))
        except _Unreadable as line:
            logger.warning(
                "a line of the change log does not authenticate, so that what changed up to version %d is not known "
                "kind=%s version=%d",
                *(log.version, line.kind, line.version),
            )
            return ChangeLog(log.version, log.version, ())

    async def load(self, epoch: Epoch, name: RecordName, since: Version) -> Loaded:
        """Read one record, and whether it changed after ``since``."""
        loaded = await self._backend.load(epoch, self._row(name), since)
        if loaded.value is None:
            return loaded
        return replace(loaded, value=self._sealer.open(name.kind, name.key, loaded.value))

    async def keys(self, epoch: Epoch, kind: str, since: Version) -> Listed:
        """Read the keys of one kind, and whether any of its records changed after ``since``.

        A row whose key does not authenticate does not count as a record (P22.2), since no caller could ask for it.
        """
        listed = await self._backend.keys(epoch, kind, since)
        revealed = await offload_each(partial(self._revealed_key, kind), listed.keys)
        keys = tuple(key for key in revealed if key is not None)
        left_out = len(listed.keys) - len(keys)
        if left_out != self._left_out.get(kind, 0):
            self._left_out[kind] = left_out
            logger.warning(
                "rows left out of listings, since their keys do not authenticate kind=%s rows=%d", kind, left_out
            )
        return replace(listed, keys=keys)

    async def seal(
        self, writes: Mapping[RecordName, bytes | None], check_may_continue: Callable[[], None] = no_check
    ) -> Batch:
        """Encode and seal the writes of a commit. A record without a value is deleted.

        The rows are in the order of the database's index: writing many takes half the time then.
        """
        if len(writes) <= FEW_RECORDS:
            return Batch(writes, _in_order([self._sealed(self._row, write) for write in writes.items()]))
        # So many would displace those that are used again.
        rows = await offload_each(partial(self._sealed, self._hidden), tuple(writes.items()), check_may_continue)
        return Batch(writes, await asyncio.to_thread(_in_order, rows))

    def commit(
        self,
        epoch: Epoch,
        batch: Batch,
        now: Milliseconds,
        duration: Milliseconds,
        *,
        may_release: bool,
    ) -> Awaitable[Committed]:
        """Write the whole batch, or nothing."""
        return self._backend.commit(epoch, batch.rows, now, duration, may_release=may_release)

    def _revealed_key(self, kind: str, hidden: bytes) -> bytes | None:
        try:
            return self._sealer.reveal(kind, hidden)
        except TamperedRecord:
            return None

    def _sealed(self, row_of: Callable[[RecordName], RowName], write: tuple[RecordName, bytes | None]) -> Row:
        name, value = write
        return Row(row_of(name), None if value is None else self._sealer.seal(name.kind, name.key, value))

    def _revealed(self, change: Change[RowName]) -> Change[RecordName]:
        kind, hidden = change.key
        try:
            return Change(change.version, RecordName(kind, self._sealer.reveal(kind, hidden)))
        except TamperedRecord:
            raise _Unreadable(kind, change.version) from None

    def _hidden(self, name: RecordName) -> RowName:
        return RowName(name.kind, self._sealer.hide(name.kind, name.key))
