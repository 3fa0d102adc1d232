"""Read the store's file through a connection that takes no part in the protocol."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from checking.replay.counters import COUNTER
from unwedged.protocol.identifiers import Epoch, InstanceId
from unwedged.store.sealer import Sealer


class StateRow(NamedTuple):
    """The row with the lease and the version."""

    version: int
    floor: int
    epoch: int
    holder: InstanceId | None
    expires: int
    wanted: int


class Database:
    """Reads and empties the file in which the processes of the replay keep ``records``."""

    def __init__(self, path: Path, sealer: Sealer, records: Sequence[str]) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._sealer = sealer
        self._records = tuple(records)
        self._names = {sealer.hide(COUNTER.name, record.encode()): record for record in records}
        self._opened: dict[bytes, int] = {}

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def empty(self) -> None:
        """Restore the initial state of the store."""
        self._connection.executescript(
            "BEGIN IMMEDIATE; DELETE FROM record; DELETE FROM change;"
            "UPDATE state SET version = 0, floor = 0, epoch = 0, holder = NULL, expires = 0, wanted = 0; COMMIT"
        )
        self._opened.clear()

    def state(self) -> StateRow:
        """Return the lease and the version."""
        return StateRow(
            *self._connection.execute("SELECT version, floor, epoch, holder, expires, wanted FROM state").fetchone()
        )

    def change_log(self) -> dict[int, frozenset[str]]:
        """Return by version the records that changed, as far as the change log reaches back."""
        log: dict[int, set[str]] = {}
        for version, key in self._connection.execute("SELECT version, key FROM change"):
            log.setdefault(version, set()).add(self._names[key])
        return {version: frozenset(records) for version, records in log.items()}

    def records(self) -> dict[str, int]:
        """Return the count of each record."""
        records = dict.fromkeys(self._records, 0)
        for key, sealed in self._connection.execute("SELECT key, value FROM record"):
            record = self._names[key]
            records[record] = self.open(record, sealed)
        return records

    def open(self, record: str, sealed: bytes) -> int:
        """Return the count in a sealed value."""
        if sealed not in self._opened:
            self._opened[sealed] = int(self._sealer.open(COUNTER.name, record.encode(), sealed))
        return self._opened[sealed]

    @contextmanager
    def as_holder(self, epoch: Epoch) -> Iterator[None]:
        """Within the context, let the lease row say that ``epoch`` is held. For faults that ignore the fence."""
        row = self.state()
        self._connection.execute("UPDATE state SET epoch = ?, holder = 0", (epoch,))
        yield
        self._connection.execute(
            "UPDATE state SET epoch = ?, holder = ?, expires = ?", (row.epoch, row.holder, row.expires)
        )
