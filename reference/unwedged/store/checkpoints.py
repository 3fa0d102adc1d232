"""When and how the write-ahead log is moved into the file: only here, and only under the write lock (P14.2).

Releases of SQLite up to 3.51.2 can damage the file when a checkpoint without that lock meets a commit that begins the
log anew (``wal-reset``). Automatic checkpoints do not hold the write lock. ``wal_checkpoint(FULL)`` does not hold it
either if another connection has it. So the store uses neither.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from unwedged.store import database
from unwedged.store.database import BEGIN, EAGER_PAUSE_SECONDS, EAGER_SECONDS, Connection
from unwedged.store.errors import StoreReplaced
from unwedged.store.files import Files
from unwedged.store.schema import IDENTITY

LONGEST_LOG_PAGES = 1500
"""After this process has written about this many pages to the write-ahead log (in some 375 small commits), it moves the
log into the file, and keeps others from writing meanwhile, so that the log is begun anew. SQLite's own checkpoints need
a moment in which no process writes. When processes hand over to each other, that hardly ever happens: each transaction
tries again, and the log keeps growing."""

PAGES_OF_A_COMMIT = 4
"""About how many pages a small commit writes."""

ROWS_OF_A_PAGE = 10
"""About how many small rows of a large commit share a page."""

PAGE_BYTES = 4096
"""The size of a page: SQLite's default."""


class Checkpoints:
    """What this process has written to the log of one store, and the checkpoints that it makes for it."""

    def __init__(self) -> None:
        self._pages = 0

    def due_after(self, pages: int) -> bool:
        """Count ``pages`` that are written. Return whether a checkpoint is due now; if so, restart the count."""
        self._pages += pages
        if self._pages < LONGEST_LOG_PAGES:
            return False
        self._pages = 0
        return True

    def make_due(self) -> None:
        """Make a checkpoint at the next write: on a full disk, a log that begins anew needs no more space."""
        self._pages = LONGEST_LOG_PAGES

    def make(self, files: Files, connection: Connection) -> None:
        """Make a checkpoint if possible. If not, what was committed stays committed (P14.7).

        If the file was replaced by an empty one, SQLite would delete the log, and what was committed with it. So the
        file must be the one that is open here (P14.6).
        """
        with contextlib.suppress(database.Error, StoreReplaced):
            files.verify()
            _checkpoint(connection, Path(files.path))


def pages_of(rows: int, value_bytes: int) -> int:
    """Estimate how many pages a commit of ``rows`` rows writes, whose values have ``value_bytes`` bytes in all."""
    return PAGES_OF_A_COMMIT + rows // ROWS_OF_A_PAGE + value_bytes // PAGE_BYTES


def _checkpoint(connection: Connection, path: Path) -> None:
    """Move the log into the file while no process writes; if others write or read for long, leave it until next time.

    One connection holds the write lock, and another moves the log (P14.4): SQLite does not do both with one connection.
    So no commit begins the log anew meanwhile, and without such a commit SQLite's bug can't occur.
    """
    with contextlib.closing(database.connect(path)) as other:
        database.rows(other, IDENTITY, {})
        for pause in (EAGER_PAUSE_SECONDS,) * round(EAGER_SECONDS / EAGER_PAUSE_SECONDS):
            try:
                connection.execute(BEGIN)
            except database.Error as error:
                if not database.is_busy(error):
                    raise
            else:
                try:
                    [(busy, pages, moved)] = database.rows(other, "PRAGMA wal_checkpoint(PASSIVE)", {})
                finally:
                    connection.rollback()
                if not busy and pages == moved:
                    return
            time.sleep(pause)
