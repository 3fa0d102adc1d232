"""The backend on SQLite, through aiosqlite where something takes time, and directly where nothing does.

*Durability.* Write-ahead log with ``synchronous=FULL``: what a commit returned from survives a power cut. Less would be
faster and wrong: a ratchet could move back after its ciphertext left. ``secure_delete`` overwrites old values in the
file; the write-ahead log may keep them (sealed) until it is reused or the last process closes the store.

*Transactions* that wait for the disk run on the driver's thread, each in one hop there and back: a hop takes about as
long as all the statements of a commit. They begin with ``BEGIN IMMEDIATE``, so that none reads first and fails to write
later. So do reads of any length: listing keys, looking at all kinds.

*Short statements* run on the event loop's own thread, on a connection of their own: the lease row, the change log, one
record. Each is a transaction by itself. They take a few microseconds, and the hop would keep the loop itself busy for
several times as long. Two things could hold the loop up, and neither does: another's transaction, since this
connection waits for none (what finds the database busy is tried again later, and the loop goes on meanwhile); and the
disk, since this connection does not wait for it either. What remains is a page that has to be read from the file, and
once in thousands of writes a log that is begun anew.

*The log* is moved into the file only by ``_move_log``, and only under the write lock. Releases of SQLite up to 3.51.2
can damage the file when a checkpoint without that lock meets a commit that begins the log anew (``wal-reset``).
Automatic checkpoints have no such lock, nor has ``wal_checkpoint(FULL)`` where it finds it taken; so there are none.

*The lease* is therefore written with ``synchronous=NORMAL``. A power cut may undo that, but it ends every process too:
nobody is left who believes in a lease that was forgotten, or whose epoch is given out again. Nor was anything committed
under such an epoch: what is durable in the log is everything up to a commit, and so the acquisition before it.

*Cancellation.* A transaction on the driver's thread is settled: a cancelled caller waits for its end. A short statement
can't be cancelled while it runs, only while it waits for another's transaction, and then nothing has happened.
"""

# ruff: noqa: S608 (statements are put together from the constants of this module, never from what callers give)

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import aiosqlite

from unwedged.protocol.cache import Change, ChangeLog
from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds, Version
from unwedged.protocol.lease import LONGEST_LEASE_MS, Lease
from unwedged.store.backend import Committed, Listed, Loaded, Row, RowName
from unwedged.store.completion import run_to_completion
from unwedged.store.engine import must_be_supported
from unwedged.store.errors import LeaseLost, NotAStore, StorageFailed, StoreBusy, StoreClosed, StoreError, StoreReplaced
from unwedged.store.expectations import ANYTHING, Expectations, StoreMark
from unwedged.store.files import Files, Identity, must_not_be_inherited, prepare
from unwedged.store.offloading import FEW_RECORDS, offload
from unwedged.store.opening_process import OpeningProcess
from unwedged.store.schema import (
    BEGIN,
    CENSUS,
    IDENTITY,
    KEYED,
    SCHEMA,
    SOUND,
    newest,
    translated,
    unsupported,
    upgrade,
    version_of,
)

Result = TypeVar("Result")
Parameters = dict[str, int | float | str | bytes | None]

BUSY_TIMEOUT_SECONDS = 5.0
"""Seconds to wait for another process's transaction, which lasts milliseconds unless it writes very much."""

EAGER_SECONDS = 0.002
"""For so many seconds one waits eagerly, since a short transaction ends in less. (SQLite's own way of waiting begins
with a pause of a millisecond: longer than a whole handover.)"""

EAGER_PAUSE_SECONDS = 0.00005
"""The pause between two tries of who waits eagerly, in seconds, on the driver's thread; the loop makes none."""

BUSY_PAUSE_SECONDS = 0.005
"""After that one pauses, for so many seconds or down to half of them, by chance,"""

EAGER_AGAIN_SECONDS = 0.001
"""and waits eagerly for so many seconds after each pause. Whoever commits again and again leaves the lock free for a
fraction of a millisecond each time. A single try hardly ever meets that; a wait as long as a commit always does."""

STATEMENTS_PER_YIELD = 8
"""After so many short statements others get a chance to run, renewals too: who asks again and again must not keep them
from it. (After each one would take half as long again.)"""

LONGEST_LOG_PAGES = 1500
"""After this process has written about so many pages to the write-ahead log (with some 250 small commits), it moves the
log into the file, and keeps others from writing meanwhile, so that the log is begun anew. SQLite's own way needs a
moment in which nobody writes. Where processes hand over to each other that hardly ever comes: each transaction tries
again, and the log grows and grows."""

PAGES_OF_A_COMMIT = 6
ROWS_OF_A_PAGE = 10
PAGE_BYTES = 4096
"""About how many pages a small commit writes, and how many small rows of a large one share a page."""

LARGE_COMMIT_MEMORY_KIB = 64 * 1024
"""So many KiB a large commit may use for pages of the database: half the time, and so half as long for all others."""

_LEASE: Final = "epoch, holder, expires, wanted"
_FENCE: Final = "(epoch = :epoch AND holder IS NOT NULL)"
_TAKEABLE: Final = "(holder IS NULL OR holder = :instance OR expires <= :now OR expires > :now + :longest)"

_KNOWN: Final = "(SELECT user_version FROM pragma_user_version) = :schema"

_LOOK: Final = f"SELECT {_LEASE} FROM state"
_HOLDER: Final = "SELECT holder, label, epoch FROM state"
_ACQUIRE: Final = f"""
    UPDATE state SET
        epoch = epoch + free,
        holder = iif(free, :instance, holder),
        label = iif(free, :label, label),
        expires = iif(free, :now + :duration + late(:began, :duration), expires),
        wanted = NOT free
    FROM (SELECT {_TAKEABLE} AS free FROM state)
    WHERE {_KNOWN}
    RETURNING {_LEASE}
"""
_RENEW: Final = f"""
    UPDATE state SET expires = :now + :duration + late(:began, :duration) WHERE {_FENCE} RETURNING {_LEASE}
"""
_PROLONG: Final = "UPDATE state SET expires = expires + :late"
_RELEASE: Final = f"UPDATE state SET holder = NULL WHERE {_FENCE}"
_CHECK: Final = f"SELECT {_LEASE} FROM state WHERE {_FENCE}"
# That there is one row of state is said so that SQLite reads the lines in their order, and no more than it should.
_CHANGES: Final = f"""
    SELECT state.version, floor, change.version, kind, key
    FROM state LEFT JOIN change ON change.version > :since
    WHERE state.one = 1 AND iif(:epoch IS NULL, {_KNOWN}, {_FENCE})
    ORDER BY change.version, kind, key
    LIMIT :most
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
    UPDATE state SET
        version = version + 1,
        expires = :now + :duration,
        holder = iif(wanted AND :alone, NULL, holder)
    WHERE {_FENCE}
    RETURNING version, wanted, holder IS NULL
"""
_PUT: Final = "INSERT INTO record VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
_RESEAL: Final = "UPDATE header SET sealing = :fresh WHERE sealing = :header RETURNING 1"
_RAISE_FLOOR: Final = "UPDATE state SET floor = max(floor, min(:floor, version))"
_TRUNCATE: Final = "DELETE FROM change WHERE version <= (SELECT floor FROM state)"


class Driver(aiosqlite.Connection):
    """The driver, and what it lacks: any work in one hop to its thread and back.

    Its thread does not keep a program alive that ends without closing the store. A transaction that is under way then
    is committed or not: that is the database's promise, whatever becomes of the process.
    """

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, iter_chunk_size=1)
        self._thread.daemon = True

    async def call(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run ``work`` on the driver's thread, as soon as the database is not busy.

        It is over when this is, also where the end of the loop cancels everybody.
        """
        try:
            # The driver's own way to do anything at all, protected and without types: bound its version.
            result: Result = await self._execute(_retry_while_busy, work, self._conn)  # type: ignore[no-untyped-call]
        except asyncio.CancelledError:
            # The driver does it all the same, and in order: when what is asked for now is done, so is that.
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await self.rollback()
                    break
            raise
        return result


@dataclass(frozen=True, slots=True)
class Connections:
    """A store's file as it is open."""

    driver: Driver
    on_loop: sqlite3.Connection
    files: Files
    identity: bytes
    """The store's."""


class SqliteBackend:
    """A store in an SQLite file. Implements ``Backend``."""

    def __init__(self, path: Path, connections: Connections) -> None:
        """For ``open`` only."""
        self.identity: Final = connections.identity
        """The store's own random identity."""
        self._path = path.absolute()  # The program may change its directory while the store is paused.
        self._driver = connections.driver
        self._loop_connection = connections.on_loop
        self._files = connections.files
        self._schema = newest()
        self._opening_process = OpeningProcess()
        self._statements_since_yield = 0
        self._unmoved = 0
        self._kept_out_since: float | None = None
        self._instance: InstanceId | None = None
        """The one that last asked for the lease here."""
        self._closed = False

    @classmethod
    async def open(cls, path: Path, expected: Expectations = ANYTHING) -> SqliteBackend:
        """Open the store at ``path``; where there is no file, or an empty one, make one that only its owner reads."""
        must_be_supported()
        with translated():
            return cls(path, await _connected(path, prepare(path, expected), expected))

    async def sealing(self, fresh: bytes | None = None) -> bytes | None:
        """Return the sealing header, or keep and return ``fresh`` where there is none yet."""
        if fresh is not None:

            def keep(connection: sqlite3.Connection) -> None:
                self._must_know(connection)
                _rows(connection, "UPDATE header SET sealing = :fresh WHERE sealing IS NULL", {"fresh": fresh})

            await self._write(keep)
        [(header,)] = await self._read("SELECT sealing FROM header", {})
        sealing: bytes | None = header
        return sealing

    async def reseal(self, header: bytes, fresh: bytes) -> bool:
        """Put ``fresh`` in the place of the sealing header, and say so, if that is still ``header``."""

        def replace(connection: sqlite3.Connection) -> bool:
            self._must_know(connection)
            return bool(_rows(connection, _RESEAL, {"header": header, "fresh": fresh}))

        return await self._write(replace)

    async def contents(self) -> tuple[Version, frozenset[str]]:
        """Return the version, and the kinds that there are records of: at a cost that does not grow with those."""
        rows = await self._read(_CONTENTS, {})
        return Version(rows[0][0]), frozenset(kind for _, kind in rows if kind is not None)

    async def acquire(self, instance: InstanceId, label: str, now: Milliseconds, duration: Milliseconds) -> Lease:
        """Take the lease, or leave word that somebody waits; return the row. Taken: ``holder`` is ``instance``."""
        self._instance = instance
        parameters: Parameters = {
            "instance": instance, "label": label, "longest": LONGEST_LEASE_MS,
            "now": now, "duration": duration, "began": _clock(), "schema": self._schema,
        }  # fmt: skip
        return _lease(self._found(await self._run_short_statement(_ACQUIRE, parameters, writes=True))[0])

    async def look(self) -> Lease:
        """Return the lease row. Not fenced: it is for those who wait."""
        return _lease((await self._run_short_statement(_LOOK, {}))[0])

    async def renew(self, epoch: Epoch, now: Milliseconds, duration: Milliseconds) -> Lease:
        """Extend the lease of ``epoch`` to ``duration`` from ``now`` and return the row. Fenced."""
        parameters: Parameters = {"epoch": epoch, "now": now, "duration": duration, "began": _clock()}
        return _lease(self._found(await self._run_short_statement(_RENEW, parameters, writes=True))[0])

    async def release(self, epoch: Epoch) -> None:
        """Give up the lease of ``epoch``; nothing happens if it is no longer held under that epoch."""
        await self._run_short_statement(_RELEASE, {"epoch": epoch}, writes=True)

    async def check(self, epoch: Epoch) -> Lease:
        """Return the lease row. Fenced: that it returns is the answer (rule 6)."""
        return _lease(self._found(await self._run_short_statement(_CHECK, {"epoch": epoch}))[0])

    async def changes(self, since: Version, epoch: Epoch | None) -> ChangeLog[RowName]:
        """Read the change log after ``since``. Fenced where an ``epoch`` is given; subscribers read without one."""
        parameters: Parameters = {"since": since, "epoch": epoch, "schema": self._schema, "most": FEW_RECORDS + 1}
        if epoch is None:
            self._files.verify()
        rows = await self._run_short_statement(_CHANGES, parameters)
        if len(rows) > FEW_RECORDS:
            rows = await self._read(_CHANGES, {**parameters, "most": -1})
        return await offload(len(rows), partial(_log, self._found(rows)))

    async def load(self, epoch: Epoch, name: RowName, since: Version) -> Loaded:
        """Read one row, and whether it changed after ``since``. Fenced."""
        parameters: Parameters = {"epoch": epoch, "kind": name.kind, "key": name.key, "since": since}
        version, value, changed = self._found(await self._run_short_statement(_LOAD, parameters))[0]
        return Loaded(Version(version), value, bool(changed))

    async def keys(self, epoch: Epoch, kind: str, since: Version) -> Listed:
        """Read the keys of all rows of one kind, and whether any of them changed after ``since``. Fenced."""
        rows = self._found(await self._read(_KEYS, {"epoch": epoch, "kind": kind, "since": since}))
        keys = tuple(key for _, key, _ in rows if key is not None)
        return Listed(Version(rows[0][0]), keys, bool(rows[0][2]))

    async def commit(
        self, epoch: Epoch, rows: Sequence[Row], now: Milliseconds, duration: Milliseconds, *, alone: bool
    ) -> Committed:
        """Write all ``rows``, the next version and the change log, and renew the lease, all or nothing. Fenced.

        Where somebody waits, and this operation is ``alone``, the lease is given up instead of renewed (rule 8).
        """
        began = _clock()
        values, size = await offload(len(rows), partial(_values, rows))

        def write(connection: sqlite3.Connection) -> Committed:
            parameters: Parameters = {"epoch": epoch, "now": now, "duration": duration, "alone": alone}
            rows = _rows(connection, _ADVANCE, parameters)
            if not rows:
                self._must_know(connection)
                raise _lost()
            [(version, wanted, released)] = rows
            connection.executemany(_PUT, values)
            if late := _lateness(began, duration):
                _rows(connection, _PROLONG, {"late": late})
            return Committed(Version(version), bool(wanted), bool(released))

        return await self._write(write, len(rows), size)

    async def truncate(self, floor: Version) -> None:
        """Forget the change log up to and including ``floor`` (at most the store's version)."""

        def forget(connection: sqlite3.Connection) -> None:
            self._must_know(connection)
            _rows(connection, _RAISE_FLOOR, {"floor": floor})
            _rows(connection, _TRUNCATE, {})

        await self._write(forget)

    async def close(self) -> None:
        """Let go of the database. The lease is not touched."""
        self._opening_process.must_be_current()
        if not self._closed:
            self._closed = True
            with translated():
                await run_to_completion(self._let_go())

    async def reopen(self, known: StoreMark) -> None:
        """Open the same file again after ``close``. The log may be another: the last to close the file deletes it."""
        expected = Expectations(not_before=known)
        with translated():
            file = prepare(self._path, expected)
            if file != self._files.identities[0]:
                raise StoreReplaced("the store's file was replaced while the store was paused")
            connections = await _connected(self._path, file, expected)
        self._driver, self._loop_connection, self._files = connections.driver, connections.on_loop, connections.files
        self._closed = False

    async def _let_go(self) -> None:
        """Close both connections. The last one of all processes moves the log into the file.

        Not so where this log is no longer the file's: it would overwrite what others have committed. A connection that
        can only read keeps these from taking themselves for the last, and can't be the last itself.
        """
        with contextlib.ExitStack() as last:
            if not self._files.are_there():
                with contextlib.suppress(sqlite3.Error):
                    reader = sqlite3.connect(f"{Path(self._files.path).as_uri()}?mode=ro", uri=True)
                    last.callback(reader.close)
                    _rows(reader, CENSUS, {})
            self._loop_connection.close()
            await self._driver.close()
        self._files.let_go()

    async def _run_short_statement(
        self, statement: str, parameters: Parameters, *, writes: bool = False
    ) -> list[sqlite3.Row]:
        """Run one short statement here, as soon as the database is not busy."""
        pauses = _pauses(0)
        self._must_be_open()
        self._statements_since_yield += 1
        if self._statements_since_yield == STATEMENTS_PER_YIELD:
            self._statements_since_yield = 0
            await asyncio.sleep(0)
        if writes and self._must_tidy_up(1):
            await self._call(self._tidy_up)
        while True:
            if writes:
                self._files.verify()
            try:
                with translated():
                    found = _rows(self._loop_connection, statement, parameters)
            except StoreBusy as busy:
                pause = next(pauses, None)
                if pause is None:
                    raise self._kept_out() from busy
            except StoreError:
                self._tidy_up_next()
                with translated():
                    self._must_know(self._loop_connection)
                raise
            else:
                if writes:
                    self._kept_out_since = None
                return found
            await asyncio.sleep(pause)
            self._must_be_open()

    async def _read(self, statement: str, parameters: Parameters) -> list[sqlite3.Row]:
        """Run one reading statement on the driver's thread."""
        return await self._call(lambda connection: _rows(connection, statement, parameters))

    async def _write(self, work: Callable[[sqlite3.Connection], Result], rows: int = 1, size: int = 0) -> Result:
        """Run ``work`` in a transaction on the driver's thread. Tidy up now and then.

        It writes so many ``rows``, whose values have so many bytes in all.

        Before anything is written the file must be the one that was opened, and before it is acknowledged its log:
        two questions instead of four, each of which takes as long as a statement.
        """
        tidily = self._must_tidy_up(PAGES_OF_A_COMMIT + rows // ROWS_OF_A_PAGE + size // PAGE_BYTES)

        def verified(connection: sqlite3.Connection) -> Result:
            self._files.verify_file()
            return work(connection)

        def write(connection: sqlite3.Connection) -> Result:
            with _memory_for_a_large_commit(connection) if rows > FEW_RECORDS else contextlib.nullcontext():
                result = _transaction(verified, connection)
            self._files.verify_log()
            if tidily:
                self._tidy_up(connection)
            return result

        result = await self._call(write)
        self._kept_out_since = None
        return result

    def _must_tidy_up(self, pages: int) -> bool:
        """Count what is written, and say when it is time to move the log into the file."""
        self._unmoved += pages
        if self._unmoved < LONGEST_LOG_PAGES:
            return False
        self._unmoved = 0
        return True

    def _tidy_up_next(self) -> None:
        """Have the next write move the log first: where the disk is full, a log that begins anew needs no more room."""
        self._unmoved = LONGEST_LOG_PAGES

    def _tidy_up(self, connection: sqlite3.Connection) -> None:
        with contextlib.suppress(sqlite3.Error):  # What was written is written, whatever comes of this.
            _move_log(connection, self._files.path)

    async def _call(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run ``work`` on the driver's thread. Who is cancelled is told when it is over."""
        self._must_be_open()

        def named(connection: sqlite3.Connection) -> Result:
            try:
                return work(connection)
            except sqlite3.Error as error:
                if not _is_busy(error):
                    self._tidy_up_next()
                    self._must_know(connection)
                raise

        try:
            with translated():
                return await run_to_completion(self._driver.call(named))
        except StoreBusy as busy:
            raise self._kept_out() from busy

    def _kept_out(self) -> StoreBusy:
        """Say what this process waits for, for how long, and who probably has it: who commits holds the lease."""
        now = _clock()
        if self._kept_out_since is None:
            self._kept_out_since = now - BUSY_TIMEOUT_SECONDS
        try:
            [(holder, label, epoch)] = _rows(self._loop_connection, _HOLDER, {})
            if holder is None:
                holds = "nobody holds the lease"
            elif holder == self._instance:
                holds = "this process itself holds the lease, so it is not known which one that is"
            else:
                holds = f"{label!r} holds the lease, of epoch {epoch}"
        except (sqlite3.Error, ValueError):
            holds = "who holds the lease can't be read"
        return StoreBusy(
            "another process keeps SQLite's write lock: it writes very much, or was suspended in the middle of a "
            f"transaction. This one has waited for {now - self._kept_out_since:.1f} s; {holds}"
        )

    def _found(self, rows: list[sqlite3.Row]) -> list[sqlite3.Row]:
        """Return what a statement found, which is nothing only where it was stopped: by the fence, or as too old."""
        if not rows:
            with translated():
                self._must_know(self._loop_connection)
            raise _lost()
        return rows

    def _must_know(self, connection: sqlite3.Connection) -> None:
        """Make sure that no newer program has changed the rules by which the file is written."""
        [(schema,)] = _rows(connection, SCHEMA, {})
        if schema != self._schema:
            raise unsupported(schema)

    def _must_be_open(self) -> None:
        self._opening_process.must_be_current()
        if self._closed:
            raise StoreClosed("the store was closed")


def _rows(connection: sqlite3.Connection, statement: str, parameters: Parameters) -> list[sqlite3.Row]:
    return connection.execute(statement, parameters).fetchall()


def _transaction(work: Callable[[sqlite3.Connection], Result], connection: sqlite3.Connection) -> Result:
    connection.execute(BEGIN)
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise
    return result


@contextlib.contextmanager
def _memory_for_a_large_commit(connection: sqlite3.Connection) -> Iterator[None]:
    """Let a transaction have memory: without it, it writes the same pages to the log again and again."""
    [(usual,)] = _rows(connection, "PRAGMA cache_size", {})
    _rows(connection, f"PRAGMA cache_size = -{LARGE_COMMIT_MEMORY_KIB}", {})
    try:
        yield
    finally:
        _rows(connection, f"PRAGMA cache_size = {usual}", {})


def _move_log(connection: sqlite3.Connection, path: str) -> None:
    """Move the log into the file while nobody writes; if others write or read, for long, leave it for the next time.

    One connection holds the write lock, and another moves the log: SQLite does not do both with one. So nobody begins
    the log anew meanwhile, and nothing can go wrong in SQLite that does when somebody does.
    """
    with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
        _rows(other, IDENTITY, {})
        for pause in (EAGER_PAUSE_SECONDS,) * round(EAGER_SECONDS / EAGER_PAUSE_SECONDS):
            try:
                connection.execute(BEGIN)
            except sqlite3.OperationalError as error:
                if not _is_busy(error):
                    raise
            else:
                try:
                    [(busy, pages, moved)] = _rows(other, "PRAGMA wal_checkpoint(PASSIVE)", {})
                finally:
                    connection.rollback()
                if not busy and pages == moved:
                    return
            time.sleep(pause)


async def _connected(path: Path, file: Identity, expected: Expectations) -> Connections:
    """Open the ``file`` that is at ``path``."""
    must_not_be_inherited(file)
    connect = partial(sqlite3.connect, path, timeout=0, isolation_level=None, check_same_thread=False)
    here, driver = connect(), Driver(connect)
    try:
        identity = await run_to_completion(_prepared(driver, here, expected))
        return Connections(driver, here, Files.opened_at(path, file), identity)
    except BaseException:
        here.close()
        await run_to_completion(driver.close())
        raise


async def _prepared(driver: Driver, on_loop: sqlite3.Connection, expected: Expectations) -> bytes:
    """Open the driver's connection, make both ready, and return the store's identity."""
    connected = await driver
    assert connected is driver
    identity = await driver.call(partial(_prepare, expected))
    await driver.call(lambda _: _retry_while_busy(_prepare_beside, on_loop))
    return identity


def _prepare_beside(connection: sqlite3.Connection) -> None:
    """Make the connection of the short statements ready; reading opens its write-ahead log."""
    connection.create_function("late", 2, _lateness)
    for statement in ("PRAGMA synchronous = NORMAL", "PRAGMA wal_autocheckpoint = 0", IDENTITY):
        _rows(connection, statement, {})


def _prepare(expected: Expectations, connection: sqlite3.Connection) -> bytes:
    """Make sure of the schema, and return the store's identity. A file that is not as expected is left as it is."""

    def rows(statement: str) -> list[sqlite3.Row]:
        return _rows(connection, statement, {})

    def census() -> int:
        schema = version_of(*rows(CENSUS)[0])
        if not schema:
            expected.must_allow_none()
        elif rows(KEYED):
            expected.must_allow_one()
        return schema

    def identity() -> bytes:
        reports = [report for statement in SOUND for (report,) in rows(statement)]
        identities = rows(IDENTITY)
        if set(reports) != {"ok"} or len(identities) != 1:
            raise NotAStore("the file is damaged: it does not say which store it is, or in what state")
        [(store, version)] = identities
        expected.must_allow(bytes(store), Version(version))
        return bytes(store)

    def upgraded(connection: sqlite3.Connection) -> None:
        # Read again: another process may have been here first.
        for statement in upgrade(census()):
            connection.execute(statement)

    if schema := census():
        identity()
    if rows("PRAGMA journal_mode = WAL")[0][0] != "wal":
        raise StorageFailed("this file system does not support SQLite's write-ahead log")
    for pragma in ("synchronous = FULL", "secure_delete = ON", "wal_autocheckpoint = 0"):
        rows(f"PRAGMA {pragma}")
    if upgrade(schema):
        _transaction(upgraded, connection)
    return identity()


def _retry_while_busy(work: Callable[[sqlite3.Connection], Result], connection: sqlite3.Connection) -> Result:
    """Do ``work``, which changes nothing where it finds the database busy, as soon as it is not."""
    pauses = _pauses(EAGER_PAUSE_SECONDS)
    while True:
        try:
            return work(connection)
        except sqlite3.OperationalError as error:
            pause = _pause(error, pauses)
        time.sleep(pause)


def _pauses(shortest: float) -> Iterator[float]:
    """Yield how many seconds to pause before each next try, as long as there should be one."""
    began = _clock()
    eager_until = began + EAGER_SECONDS
    while (now := _clock()) - began < BUSY_TIMEOUT_SECONDS:
        if now < eager_until:
            yield shortest
        else:
            yield (pause := random.uniform(BUSY_PAUSE_SECONDS / 2, BUSY_PAUSE_SECONDS))  # noqa: S311 (no secret)
            eager_until = now + pause + EAGER_AGAIN_SECONDS


def _pause(error: sqlite3.Error, pauses: Iterator[float]) -> float:
    """Return how long to pause, or raise ``error`` if it is another one, or came too often."""
    if _is_busy(error):
        for pause in pauses:
            return pause
    raise error


def _is_busy(error: sqlite3.Error) -> bool:
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE)  # An error of Python's own has none.
    return code & 0xFF == sqlite3.SQLITE_BUSY


def _values(rows: Sequence[Row]) -> tuple[list[tuple[str, bytes, bytes | None]], int]:
    """Return what is written of each row, and how many bytes the values have in all."""
    values = [(*row.name, row.value) for row in rows]
    return values, sum(len(value) for _, _, value in values if value is not None)


def _lost() -> LeaseLost:
    return LeaseLost("the lease is no longer held under this epoch")


def _log(rows: list[sqlite3.Row]) -> ChangeLog[RowName]:
    [version, floor, *_] = rows[0]
    changes = tuple(Change(Version(line), RowName(kind, key)) for _, _, line, kind, key in rows if line is not None)
    return ChangeLog(Version(version), Version(floor), changes)


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
