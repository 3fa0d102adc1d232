"""The backend on SQLite, through aiosqlite.

*Durability.* Write-ahead log with ``synchronous=FULL``: what a commit returned from survives a power cut. Less would be
faster and wrong: a ratchet could move back after its ciphertext left. ``secure_delete`` overwrites old values in the
file; the write-ahead log may keep them (sealed) until it is reused or the last process closes the store.

*The lease* is written with ``synchronous=NORMAL``, through a second connection, without waiting for the disk. A power
cut may undo that, but it ends every process too: nobody is left who believes in a lease that was forgotten, or whose
epoch is given out again. Nor was anything committed under such an epoch: what is durable in the log is everything up to
a commit, and so the acquisition before it.

*Transactions.* One at a time, on whichever connection. The driver's isolation level makes the first writing statement
begin one with ``BEGIN IMMEDIATE`` in the same hop to the driver's thread: a commit is three hops (the fence, the rows,
the commit), and can't meet the failure of a transaction that reads first and writes later. Reads, and all that is done
to the lease, are single statements: one hop each.

*Glances.* Whether the lease still stands, or can be had, is asked on the loop's own thread, through a third connection
that only reads. A view needs nothing else of the database, nor does who waits; and SQLite answers in a few
microseconds, without waiting for whoever writes; the hop to the driver's thread would keep the loop itself busy for
several times as long.

*Cancellation.* Each transaction is settled: a cancelled caller waits for its end.
"""

# ruff: noqa: S608 (statements are put together from the constants of this module, never from what callers give)

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import aiosqlite

from unwedged.protocol.cache import Change, ChangeLog
from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds, Version
from unwedged.protocol.lease import LONGEST_LEASE, Lease
from unwedged.store.backend import Committed, Listed, Loaded, Row, RowName
from unwedged.store.errors import LeaseLost, NotAStore, StorageFailed, StoreClosed
from unwedged.store.schema import BEGIN, CENSUS, IDENTITY, SOUND, translated, upgrade, version_of
from unwedged.store.settled import settled

Result = TypeVar("Result")
Parameters = dict[str, int | float | str | bytes | None]

BUSY_TIMEOUT = 5.0
"""Seconds to wait for another process's transaction, which lasts milliseconds unless it writes very much."""

_LEASE: Final = "epoch, holder, expires, wanted"
_FENCE: Final = "(epoch = :epoch AND holder IS NOT NULL)"
_TAKEABLE: Final = "(holder IS NULL OR holder = :instance OR expires <= :now OR expires > :now + :longest)"

_LOOK: Final = f"SELECT {_LEASE} FROM state"
_ACQUIRE: Final = f"""
    UPDATE state SET
        epoch = epoch + free,
        holder = iif(free, :instance, holder),
        label = iif(free, :label, label),
        expires = iif(free, :now + :duration + late(:began, :duration), expires),
        wanted = NOT free
    FROM (SELECT {_TAKEABLE} AS free FROM state)
    RETURNING {_LEASE}
"""
_RENEW: Final = f"""
    UPDATE state SET expires = :now + :duration + late(:began, :duration) WHERE {_FENCE} RETURNING {_LEASE}
"""
_PROLONG: Final = "UPDATE state SET expires = expires + :late"
_RELEASE: Final = f"UPDATE state SET holder = NULL WHERE {_FENCE}"
_CHECK: Final = f"SELECT {_LEASE} FROM state WHERE {_FENCE}"
_CHANGES: Final = f"""
    SELECT state.version, floor, change.version, kind, key
    FROM state LEFT JOIN change ON change.version > :since
    WHERE :epoch IS NULL OR {_FENCE}
    ORDER BY change.version, kind, key
"""
# A row without a value is a damaged one, not an absent one: it must not authenticate. Nor must one of another type.
_LOAD: Final = f"""
    SELECT version, iif(kind IS NULL, NULL, CAST(ifnull(value, '') AS BLOB)), floor > :since OR EXISTS (
        SELECT 1 FROM change WHERE change.version > :since AND kind = :kind AND key = :key)
    FROM state LEFT JOIN record ON kind = :kind AND key = :key
    WHERE {_FENCE}
"""
_KEYS: Final = f"""
    SELECT version, CAST(key AS BLOB), floor > :since OR EXISTS (
        SELECT 1 FROM change WHERE change.version > :since AND kind = :kind)
    FROM state LEFT JOIN record ON kind = :kind
    WHERE {_FENCE}
    ORDER BY key
"""
# From each kind straight to the next, past all of its records. (Not UNION ALL: a damaged index may lead in circles.)
_CONTENTS: Final = """
    WITH RECURSIVE present(kind) AS (
        SELECT min(kind) FROM record
        UNION SELECT (SELECT min(kind) FROM record WHERE kind > present.kind) FROM present WHERE kind IS NOT NULL
    )
    SELECT version, CAST(kind AS TEXT) FROM state, present
"""
_ADVANCE: Final = f"""
    UPDATE state SET version = version + 1, expires = :now + :duration WHERE {_FENCE} RETURNING version, wanted
"""
_PUT: Final = "INSERT INTO record VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
_RAISE_FLOOR: Final = "UPDATE state SET floor = max(floor, min(:floor, version))"
_TRUNCATE: Final = "DELETE FROM change WHERE version <= (SELECT floor FROM state)"


class SqliteBackend:
    """A store in an SQLite file. Implements ``Backend``."""

    def __init__(
        self,
        connection: aiosqlite.Connection,
        leasing: aiosqlite.Connection,
        glances: sqlite3.Connection,
        identity: bytes,
    ) -> None:
        """For ``open`` only."""
        self.identity: Final = identity
        """The store's own random identity."""
        self._connection = connection
        self._leasing = leasing
        self._glances = glances
        self._turn = asyncio.Lock()
        self._closed = False

    @classmethod
    async def open(cls, path: Path) -> SqliteBackend:
        """Open the store at ``path``; where there is no file, or an empty one, make one that only its owner reads."""
        with translated():
            _ensure_file(path)
            connection = aiosqlite.connect(path, timeout=BUSY_TIMEOUT, isolation_level="IMMEDIATE")
            leasing = aiosqlite.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)
            try:
                identity = await settled(_prepare(connection))
                await settled(_prepare_leasing(leasing))
                return cls(connection, leasing, sqlite3.connect(path, timeout=0, isolation_level=None), identity)
            except BaseException:
                await settled(_close(connection, leasing))
                raise

    async def sealing(self, fresh: bytes | None = None) -> bytes | None:
        """Return the sealing header, or keep and return ``fresh`` where there is none yet."""
        if fresh is not None:

            async def keep() -> None:
                await self._fetch("UPDATE header SET sealing = :fresh WHERE sealing IS NULL", {"fresh": fresh})

            await self._write(keep)
        [(header,)] = await self._read("SELECT sealing FROM header", {})
        sealing: bytes | None = header
        return sealing

    async def contents(self) -> tuple[Version, frozenset[str]]:
        """Return the version, and the kinds that there are records of: at a cost that does not grow with those."""
        rows = await self._read(_CONTENTS, {})
        return Version(rows[0][0]), frozenset(kind for _, kind in rows if kind is not None)

    async def acquire(self, instance: InstanceId, label: str, now: Milliseconds, duration: Milliseconds) -> Lease:
        """Take the lease, or leave word that somebody waits; return the row. Taken: ``holder`` is ``instance``."""
        parameters: Parameters = {
            "instance": instance, "label": label, "longest": LONGEST_LEASE,
            "now": now, "duration": duration, "began": _clock(),
        }  # fmt: skip
        return _lease((await self._lease(_ACQUIRE, parameters))[0])

    async def look(self) -> Lease:
        """Return the lease row. Not fenced: it is for those who wait."""
        return _lease((await self._glance(_LOOK, {}))[0])

    async def renew(self, epoch: Epoch, now: Milliseconds, duration: Milliseconds) -> Lease:
        """Extend the lease of ``epoch`` to ``duration`` from ``now`` and return the row. Fenced."""
        parameters: Parameters = {"epoch": epoch, "now": now, "duration": duration, "began": _clock()}
        return _lease(_fenced(await self._lease(_RENEW, parameters))[0])

    async def release(self, epoch: Epoch) -> None:
        """Give up the lease of ``epoch``; nothing happens if it is no longer held under that epoch."""
        await self._lease(_RELEASE, {"epoch": epoch})

    async def check(self, epoch: Epoch) -> Lease:
        """Return the lease row. Fenced: that it returns is the answer (rule 6)."""
        return _lease(_fenced(await self._glance(_CHECK, {"epoch": epoch}))[0])

    async def changes(self, since: Version, epoch: Epoch | None) -> ChangeLog[RowName]:
        """Read the change log after ``since``. Fenced where an ``epoch`` is given; subscribers read without one."""
        rows = _fenced(await self._read(_CHANGES, {"since": since, "epoch": epoch}))
        changes = tuple(
            Change(Version(version), RowName(kind, key)) for _, _, version, kind, key in rows if version is not None
        )
        return ChangeLog(Version(rows[0][0]), Version(rows[0][1]), changes)

    async def load(self, epoch: Epoch, name: RowName, since: Version) -> Loaded:
        """Read one row, and whether it changed after ``since``. Fenced."""
        parameters: Parameters = {"epoch": epoch, "kind": name.kind, "key": name.key, "since": since}
        version, value, changed = _fenced(await self._read(_LOAD, parameters))[0]
        return Loaded(Version(version), value, bool(changed))

    async def keys(self, epoch: Epoch, kind: str, since: Version) -> Listed:
        """Read the keys of all rows of one kind, and whether any of them changed after ``since``. Fenced."""
        rows = _fenced(await self._read(_KEYS, {"epoch": epoch, "kind": kind, "since": since}))
        keys = tuple(key for _, key, _ in rows if key is not None)
        return Listed(Version(rows[0][0]), keys, bool(rows[0][2]))

    async def commit(self, epoch: Epoch, rows: Sequence[Row], now: Milliseconds, duration: Milliseconds) -> Committed:
        """Write all ``rows``, the next version and the change log, and renew the lease, all or nothing. Fenced."""
        began = _clock()
        values = [(row.name.kind, row.name.key, row.value) for row in rows]

        async def advance() -> Committed:
            fenced = await self._fetch(_ADVANCE, {"epoch": epoch, "now": now, "duration": duration})
            version, wanted = _fenced(fenced)[0]
            await self._connection.executemany(_PUT, values)
            await self._late(began, duration)
            return Committed(Version(version), bool(wanted))

        return await self._write(advance)

    async def truncate(self, floor: Version) -> None:
        """Forget the change log up to and including ``floor`` (at most the store's version)."""

        async def forget() -> None:
            await self._fetch(_RAISE_FLOOR, {"floor": floor})
            await self._fetch(_TRUNCATE, {})

        await self._write(forget)

    async def close(self) -> None:
        """Let go of the database. The lease is not touched."""
        async with self._turn:
            if not self._closed:
                self._closed = True
                self._glances.close()
                with translated():
                    await settled(_close(self._connection, self._leasing))

    async def _late(self, began: float, duration: Milliseconds) -> None:
        """Make up for a commit that took long, as its last statement: the lease counts from its end."""
        if late := _lateness(began, duration):
            await self._fetch(_PROLONG, {"late": late})

    async def _glance(self, statement: str, parameters: Parameters) -> list[sqlite3.Row]:
        """Run one reading statement here, or as ``_read`` does while another process keeps even readers out."""
        await asyncio.sleep(0)  # Who reads again and again must not keep everybody else, renewals too, from running.
        self._must_be_open()
        with translated():
            try:
                return self._glances.execute(statement, parameters).fetchall()
            except sqlite3.OperationalError as error:
                if not _busy(error):
                    raise
        return await self._read(statement, parameters)

    async def _read(self, statement: str, parameters: Parameters) -> list[sqlite3.Row]:
        """Run one reading statement, never inside a transaction. If it is cancelled, its rows are dropped."""
        async with self._turn:
            self._must_be_open()
            with translated():
                return await self._fetch(statement, parameters)

    async def _write(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Run ``work``, which begins a transaction, and commit it, or roll it back. Cancelled only before or after."""
        async with self._turn:
            self._must_be_open()
            with translated():
                return await settled(_transaction(self._connection, work))

    async def _lease(self, statement: str, parameters: Parameters) -> list[sqlite3.Row]:
        """Run one statement that writes the lease row: a transaction. Who is cancelled is told when it is over."""
        async with self._turn:
            self._must_be_open()
            with translated():
                try:
                    return await _rows(self._leasing, statement, parameters)
                except asyncio.CancelledError:
                    # The driver runs it all the same, and leaves nothing to undo; but when that is done, it is.
                    await settled(_undone(self._leasing))
                    raise

    def _must_be_open(self) -> None:
        if self._closed:
            raise StoreClosed("the store was closed")

    async def _fetch(self, statement: str, parameters: Parameters) -> list[sqlite3.Row]:
        return await _rows(self._connection, statement, parameters)


async def _rows(connection: aiosqlite.Connection, statement: str, parameters: Parameters) -> list[sqlite3.Row]:
    return list(await connection.execute_fetchall(statement, parameters))


async def _transaction(connection: aiosqlite.Connection, work: Callable[[], Awaitable[Result]]) -> Result:
    try:
        result = await work()
        await connection.commit()
    except BaseException:
        await _undone(connection)
        raise
    return result


async def _undone(connection: aiosqlite.Connection) -> None:
    """Roll back, and come back only when that is done: also if this task itself is cancelled, as loops do at their end.

    The driver's thread works in order, and rolling back twice does no harm: what is asked last is done last.
    """
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await connection.rollback()
            return


async def _prepare(connection: aiosqlite.Connection) -> bytes:
    """Connect, make sure of the schema, and return the store's identity. A file not for us is left as it is."""
    connection = await connection

    async def rows(statement: str) -> list[sqlite3.Row]:
        return list(await connection.execute_fetchall(statement))

    async def upgraded() -> None:
        await connection.execute(BEGIN)
        # Read again: another process may have been here first.
        for statement in upgrade(version_of(*(await rows(CENSUS))[0])):
            await connection.execute(statement)

    outdated = upgrade(version_of(*(await rows(CENSUS))[0]))
    if (await _patiently(lambda: rows("PRAGMA journal_mode = WAL")))[0][0] != "wal":
        raise StorageFailed("this file system does not support SQLite's write-ahead log")
    for pragma in ("synchronous = FULL", "secure_delete = ON"):
        await rows(f"PRAGMA {pragma}")
    if outdated:
        await _transaction(connection, upgraded)
    reports = [report for statement in SOUND for (report,) in await rows(statement)]
    identities = await rows(IDENTITY)
    if set(reports) != {"ok"} or len(identities) != 1:
        raise NotAStore("the file is damaged: it does not say which store it is, or in what state")
    return bytes(identities[0][0])


async def _prepare_leasing(connection: aiosqlite.Connection) -> None:
    """Connect, for writing the lease only: each statement is a transaction, and does not wait for the disk."""
    connection = await connection
    await connection.execute("PRAGMA synchronous = NORMAL")
    await connection.create_function("late", 2, _lateness)


async def _close(*connections: aiosqlite.Connection) -> None:
    async with contextlib.AsyncExitStack() as closing:
        for connection in connections:
            closing.push_async_callback(connection.close)


async def _patiently(work: Callable[[], Awaitable[Result]]) -> Result:
    """Do what SQLite refuses at once, whatever its timeout, while another process is opening the same new file."""
    deadline = _clock() + BUSY_TIMEOUT
    while True:
        try:
            return await work()
        except sqlite3.OperationalError as error:
            if not _busy(error) or _clock() > deadline:
                raise
            await asyncio.sleep(0.01)


def _busy(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _ensure_file(path: Path) -> None:
    """Make the file, so that SQLite need not, and would not give it the user's usual permissions.

    SQLite gives its other files the same ones. A file that exists is never opened here: closing it again would drop the
    locks that SQLite may hold on it elsewhere in this process.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    if not (path.is_file() and os.access(path, os.R_OK)):
        raise StorageFailed("the store could not be opened: there is no file that may be read")
    if path.stat().st_size == 0:
        path.chmod(0o600)


def _fenced(rows: list[sqlite3.Row]) -> list[sqlite3.Row]:
    """Every fenced statement yields a row, unless the fence stops it."""
    if not rows:
        raise LeaseLost("the lease is no longer held under this epoch")
    return rows


def _lease(row: sqlite3.Row) -> Lease:
    epoch, holder, expires, wanted = row
    return Lease(Epoch(epoch), None if holder is None else InstanceId(holder), Milliseconds(expires), bool(wanted))


def _lateness(began: float, duration: Milliseconds) -> Milliseconds:
    """Say how many milliseconds late a lease is written that was asked for when it ``began``; 0: not worth mentioning.

    What takes more than half a lease, waiting included, has a ``now`` as old as that, and no renewal could run beside
    it: the lease would be lost though its holder lives. So a lease counts from when it is written. This is a length of
    time, measured here, so that the clock stays the caller's.
    """
    late = Milliseconds(int((_clock() - began) * 1000))
    return Milliseconds(0) if 2 * late <= duration else late


def _clock() -> float:
    return time.monotonic()
