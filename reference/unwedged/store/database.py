"""SQLite as the store uses it: connections, transactions, waiting while it is busy, and named errors.

Only this module and ``engine`` import ``sqlite3``.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, TypeAlias, TypeVar

import aiosqlite

from unwedged.store.completion import SettledByLoop
from unwedged.store.errors import NotAStore, StorageFailed, StoreBusy, StoreError

Result = TypeVar("Result")
Connection: TypeAlias = sqlite3.Connection
Error: TypeAlias = sqlite3.Error
Parameters: TypeAlias = dict[str, int | float | str | bytes | None]
ResultRow: TypeAlias = sqlite3.Row

BEGIN: Final = "BEGIN IMMEDIATE"

BUSY_TIMEOUT_SECONDS = 5.0
"""How many seconds to wait for another process's transaction. Most transactions take milliseconds."""

EAGER_SECONDS = 0.002
"""How many seconds a process first polls, since a short transaction ends sooner. (SQLite's busy handler begins with a
pause of a millisecond, which is longer than a whole handover.)"""

EAGER_PAUSE_SECONDS = 0.00005
"""The pause between two such polls, in seconds, on the driver's thread; on the loop there is none."""

BUSY_PAUSE_SECONDS = 0.005
"""The longest pause after this polling, in seconds. Each pause is random, from half of this to all of it."""

EAGER_AGAIN_SECONDS = 0.001
"""How many seconds it polls again after each such pause. A process that commits again and again leaves the lock
free for a fraction of a millisecond each time. A single try hardly ever finds it free; polling for as long as a commit
takes always does."""

LARGE_COMMIT_MEMORY_KIB = 64 * 1024
"""How many KiB a large commit may use for pages of the database. With that, it takes half the time."""

TEXT_OF: Final = partial(str, encoding="utf-8", errors="replace")
"""How text in the file is decoded. A damaged text becomes another text, so nothing that depends on it authenticates. An
exception of the driver would stop every process that reads the row, for ever."""

monotonic_seconds: Final = time.monotonic
"""The clock for all durations that are measured here, in seconds."""


class Driver(aiosqlite.Connection):
    """The driver, with a way to do any work in one hop to its thread and back.

    Its thread does not keep a program alive that ends without closing the store. A transaction that is then under way
    is committed as a whole or not at all, whatever becomes of the process: SQLite guarantees this.
    """

    def __init__(self, connector: Callable[[], Connection]) -> None:
        super().__init__(connector, iter_chunk_size=1)
        self._thread.daemon = True

    async def call(self, work: Callable[[Connection], Result]) -> Result:
        """Run ``work`` on the driver's thread, as soon as the database is not busy.

        The work has ended when this returns or raises, also if its caller is cancelled meanwhile. The driver's own
        methods would lose the result then. So this uses the queue behind them: pin the driver's version.
        """
        done: SettledByLoop[Result] = SettledByLoop()
        self._tx.put_nowait((done, partial(retry_while_busy, work, self._conn)))
        return await done


def connect(path: Path) -> Connection:
    """Connect to the existing file at ``path``. The connection neither waits nor begins transactions by itself."""
    uri = f"{path.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
    connection.text_factory = TEXT_OF
    return connection


def connect_read_only(path: Path, *, immutable: bool = False) -> Connection:
    """Connect to the file at ``path``, only to read it.

    An ``immutable`` file is one that no process writes meanwhile: SQLite then neither looks for a log nor makes one.
    """
    mode = "mode=ro&immutable=1" if immutable else "mode=ro"
    connection = sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, isolation_level=None)
    connection.text_factory = TEXT_OF
    return connection


def rows(connection: Connection, statement: str, parameters: Parameters) -> list[ResultRow]:
    """Run one statement, and return all its rows."""
    return connection.execute(statement, parameters).fetchall()


def transaction(work: Callable[[Connection], Result], connection: Connection) -> Result:
    """Do ``work`` in one transaction, which writes all or nothing."""
    connection.execute(BEGIN)
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise
    return result


@contextlib.contextmanager
def memory_for_a_large_commit(connection: Connection) -> Iterator[None]:
    """Give a transaction more memory: without it, it writes the same pages to the log again and again."""
    [(usual,)] = rows(connection, "PRAGMA cache_size", {})
    rows(connection, f"PRAGMA cache_size = -{LARGE_COMMIT_MEMORY_KIB}", {})
    try:
        yield
    finally:
        rows(connection, f"PRAGMA cache_size = {usual}", {})


def retry_while_busy(work: Callable[[Connection], Result], connection: Connection) -> Result:
    """Do ``work`` as soon as the database is not busy; while it is busy, ``work`` changes nothing (P15.1)."""
    pauses = pauses_while_busy(EAGER_PAUSE_SECONDS)
    while True:
        try:
            return work(connection)
        except sqlite3.OperationalError as error:
            pause = _pause_after(error, pauses)
        time.sleep(pause)


def pauses_while_busy(eager_pause_seconds: float) -> Iterator[float]:
    """Yield how many seconds to pause before each next try, as long as there should be one."""
    began = monotonic_seconds()
    eager_until = began + EAGER_SECONDS
    while (now := monotonic_seconds()) - began < BUSY_TIMEOUT_SECONDS:
        if now < eager_until:
            yield eager_pause_seconds
        else:
            yield (pause := random.uniform(BUSY_PAUSE_SECONDS / 2, BUSY_PAUSE_SECONDS))  # noqa: S311 (no secret)
            eager_until = now + pause + EAGER_AGAIN_SECONDS


def _pause_after(error: Error, pauses: Iterator[float]) -> float:
    """Return how long to pause, or raise ``error`` if it is another one, or came too often."""
    if is_busy(error):
        for pause in pauses:
            return pause
    raise error


def is_busy(error: Error) -> bool:
    """Return whether a statement failed, and changed nothing, because another connection writes."""
    return _code(error) == sqlite3.SQLITE_BUSY


def _code(error: Error) -> int:
    """Return the kind of an error, which is the low byte of its code; the rest says more about it."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE)  # An error of Python's own has none.
    return code & 0xFF


class translated:  # noqa: N801 (a context manager; no generator, which takes four times as long)
    """Translate exceptions of SQLite into those of the store."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and (translation := _translation(error)) is not None:
            raise translation from error


def _translation(error: BaseException) -> StoreError | None:
    match error:
        case sqlite3.Error():
            code = _code(error)
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                return StoreBusy("another program keeps the store locked")
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
                return NotAStore(f"the file is no crypto store, or is damaged: {error}")
            return StorageFailed(f"the store could not be read or written: {error}")
        case UnicodeDecodeError():
            # The driver's, for a name or an error message of SQLite's that quotes the damage.
            return NotAStore("the file is damaged: a text in it can't be read")
        case OSError():
            return StorageFailed(f"the store could not be opened: {error.strerror}")
    return None
