"""The backend on SQLite, through aiosqlite where something takes time, and directly where nothing does.

*Transactions* that wait for the disk run on the driver's thread, each in one hop there and back: a hop takes about as
long as all statements of a commit. They begin with ``BEGIN IMMEDIATE``, so that none reads first and fails to write
later. Reads of any length (listing keys, looking at all kinds) run there too.

*Short statements* run on the event loop's own thread, on a connection of their own: the lease row, the change log, one
record. Each is a transaction by itself. They take a few microseconds, and the hop would keep the loop itself busy for
several times as long. Neither another process's transaction nor the disk can block the loop: this connection waits for
neither. (If the database is busy, the statement is tried again later, and the loop continues meanwhile.) The loop is
only delayed by a page that must be read from the file, and, once in thousands of writes, by a log that is begun anew.

*Cancellation.* A transaction on the driver's thread runs to completion: a cancelled caller waits for its end. A short
statement can't be cancelled while it runs, only while it waits for another process's transaction; then nothing has
happened.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from unwedged.protocol.cache import ChangeLog
from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds, Version
from unwedged.protocol.lease import LONGEST_LEASE_MS, Lease
from unwedged.store import database, statements
from unwedged.store.backend import Committed, Listed, Loaded, Row, RowName
from unwedged.store.checkpoints import Checkpoints, pages_of
from unwedged.store.completion import run_to_completion
from unwedged.store.connections import Connections, open_connections
from unwedged.store.database import Connection, Parameters, ResultRow
from unwedged.store.engine import must_be_supported
from unwedged.store.errors import (
    LeaseLost,
    StorageFailed,
    StoreBusy,
    StoreClosed,
    StoreError,
    StoreMissing,
    StoreReplaced,
    StoreRolledBack,
)
from unwedged.store.expectations import ANYTHING, Expectations, StoreMark
from unwedged.store.files import prepare
from unwedged.store.offloading import FEW_RECORDS, offload
from unwedged.store.owner_process import OwnerProcess
from unwedged.store.schema import CENSUS, SCHEMA, newest, unsupported
from unwedged.store.statements import lease_of

Result = TypeVar("Result")

STATEMENTS_PER_YIELD = 8
"""After so many short statements other tasks get a chance to run, renewals included: a task that reads in a loop must
not block them. (Yielding after each statement would cost half as much again.)"""


class SqliteBackend:
    """A store in an SQLite file. Implements ``Backend``."""

    def __init__(self, path: Path, connections: Connections) -> None:
        """Use ``open`` instead."""
        self.identity: Final = connections.identity
        """The store's own random identity."""
        self._path = path.absolute()  # The program may change its directory while the store is paused.
        self._driver = connections.driver
        self._loop_connection = connections.on_loop
        self._files = connections.files
        self._schema = newest()
        self._owner_process = OwnerProcess()
        self._statements_since_yield = 0
        self._checkpoints = Checkpoints()
        self._busy_since: float | None = None
        self._instance: InstanceId | None = None
        """The instance that last asked for the lease here."""
        self._newest = Version(0)
        """The newest version that was read or made here."""
        self._rolled_back = False
        """Whether the file was once found at an older version. Later commits may hide that again."""
        self._closed = False

    @classmethod
    async def open(cls, path: Path, expected: Expectations = ANYTHING) -> SqliteBackend:
        """Open the store at ``path``. If there is no file, or an empty one, make a store that only its owner reads."""
        must_be_supported()
        with database.translated():
            return cls(path, await open_connections(path, prepare(path, expected), expected))

    async def sealing(self, fresh: bytes | None = None) -> bytes | None:
        """Return the sealing header; if there is none yet, write and return ``fresh``."""
        if fresh is not None:

            def keep(connection: Connection) -> None:
                self._must_know_schema(connection)
                database.rows(connection, statements.SEAL, {"fresh": fresh})

            await self._write(keep)
        [(header,)] = await self._read(statements.SEALING, {})
        sealing: bytes | None = header
        return sealing

    async def reseal(self, header: bytes, fresh: bytes) -> bool:
        """See ``Backend``. Runs in a transaction on the driver's thread."""

        def replace(connection: Connection) -> bool:
            self._must_know_schema(connection)
            return bool(database.rows(connection, statements.RESEAL, {"header": header, "fresh": fresh}))

        return await self._write(replace)

    async def contents(self) -> tuple[Version, frozenset[str]]:
        """Return the version, and the kinds of all records: the cost does not grow with their number."""
        known = self._newest
        rows = await self._read(statements.CONTENTS, {})
        return self._not_older(rows[0][0], known), frozenset(kind for _, kind in rows if kind is not None)

    async def acquire(self, instance: InstanceId, label: str, now: Milliseconds, duration: Milliseconds) -> Lease:
        """See ``Backend``. If the write is late, the lease counts from the write (P1.9)."""
        self._instance = instance
        parameters: Parameters = {
            "instance": instance, "label": label, "longest": LONGEST_LEASE_MS,
            "now": now, "duration": duration, "began": database.monotonic_seconds(), "schema": self._schema,
        }  # fmt: skip
        return lease_of(self._found(await self._run_short_statement(statements.ACQUIRE, parameters, writes=True))[0])

    async def look(self) -> Lease:
        """See ``Backend``."""
        return lease_of((await self._run_short_statement(statements.LOOK, {}))[0])

    async def renew(self, epoch: Epoch, now: Milliseconds, duration: Milliseconds) -> Lease:
        """See ``Backend``. If the write is late, the lease counts from the write (P1.9)."""
        began = database.monotonic_seconds()
        parameters: Parameters = {"epoch": epoch, "now": now, "duration": duration, "began": began}
        return lease_of(self._found(await self._run_short_statement(statements.RENEW, parameters, writes=True))[0])

    async def release(self, epoch: Epoch) -> None:
        """See ``Backend``."""
        await self._run_short_statement(statements.RELEASE, {"epoch": epoch}, writes=True)

    async def check(self, epoch: Epoch) -> Lease:
        """See ``Backend``."""
        return lease_of(self._found(await self._run_short_statement(statements.CHECK, {"epoch": epoch}))[0])

    async def changes(self, since: Version, epoch: Epoch | None) -> ChangeLog[RowName]:
        """See ``Backend``. A long log is read on the driver's thread. Without an ``epoch`` the files are verified."""
        parameters: Parameters = {"since": since, "epoch": epoch, "schema": self._schema, "most": FEW_RECORDS + 1}
        if epoch is None:
            self._files.verify()
        known = self._newest
        rows = await self._run_short_statement(statements.CHANGES, parameters)
        if len(rows) > FEW_RECORDS:
            rows = await self._read(statements.CHANGES, {**parameters, "most": -1})
        self._not_older(self._found(rows)[0][0], known)
        return await offload(len(rows), partial(statements.change_log_of, rows))

    async def load(self, epoch: Epoch, name: RowName, since: Version) -> Loaded:
        """See ``Backend``."""
        parameters: Parameters = {"epoch": epoch, "kind": name.kind, "key": name.key, "since": since}
        known = self._newest
        version, value, changed, floor = self._found(await self._run_short_statement(statements.LOAD, parameters))[0]
        return Loaded(self._not_older(version, known), value, bool(changed), Version(floor))

    async def keys(self, epoch: Epoch, kind: str, since: Version) -> Listed:
        """See ``Backend``. Runs on the driver's thread."""
        known = self._newest
        rows = self._found(await self._read(statements.KEYS, {"epoch": epoch, "kind": kind, "since": since}))
        keys = tuple(key for _, key, _ in rows if key is not None)
        return Listed(self._not_older(rows[0][0], known), keys, bool(rows[0][2]))

    async def commit(
        self, epoch: Epoch, rows: Sequence[Row], now: Milliseconds, duration: Milliseconds, *, may_release: bool
    ) -> Committed:
        """See ``Backend``. Runs on the driver's thread. If it is late, the lease counts from the write (P1.9)."""
        began = database.monotonic_seconds()
        first = Version(self._newest + 1)
        values, size = await offload(len(rows), partial(statements.values_of, rows))

        def write(connection: Connection) -> Committed:
            parameters: Parameters = {"epoch": epoch, "now": now, "duration": duration, "may_release": may_release}
            rows = database.rows(connection, statements.ADVANCE, parameters)
            if not rows:
                self._must_know_schema(connection)
                raise _lost()
            [(version, wanted, released)] = rows
            self._must_not_be_older(version, first)
            connection.executemany(statements.PUT, values)
            if late := statements.lateness(began, duration):
                database.rows(connection, statements.PROLONG, {"late": late})
            took = int((database.monotonic_seconds() - began) * 1000)
            return Committed(Version(version), bool(wanted), bool(released), Milliseconds(duration + late - took))

        try:
            committed = await self._write(write, len(rows), size)
        except StorageFailed as failure:
            # P5.23
            raise StorageFailed(
                f"{failure}. The commit may or may not have been written: the next operation finds out"
            ) from failure
        self._newest = max(self._newest, committed.version)
        return committed

    async def truncate(self, floor: Version) -> None:
        """See ``Backend``. Runs in a transaction on the driver's thread."""

        def forget(connection: Connection) -> None:
            self._must_know_schema(connection)
            database.rows(connection, statements.RAISE_FLOOR, {"floor": floor})
            database.rows(connection, statements.TRUNCATE, {})

        await self._write(forget)

    async def close(self) -> None:
        """See ``Backend``. It may be closed twice."""
        self._owner_process.must_be_current()
        if not self._closed:
            self._closed = True
            with database.translated():
                await run_to_completion(self._disconnect())

    async def reopen(self, known: StoreMark) -> None:
        """See ``Backend``. The log may be another one, since the last process that closes the file deletes it."""
        expected = Expectations(not_before=known)
        with database.translated():
            try:
                file = prepare(self._path, expected)
            except StoreMissing as missing:
                raise StoreMissing(
                    f"{str(self._path)!r} is gone, or empty: it was there when this store was paused"
                ) from missing
            if file != self._files.identities[0]:
                raise StoreReplaced("the store's file was replaced while the store was paused")
            connections = await open_connections(self._path, file, expected)
        self._driver, self._loop_connection, self._files = connections.driver, connections.on_loop, connections.files
        self._closed = False

    async def _disconnect(self) -> None:
        """Close both connections. If they are the last ones of all processes, SQLite moves the log into the file.

        It must not do that if this log is no longer the file's (P18.8): it would overwrite what others have committed.
        So a read-only connection is open meanwhile: with it these are not the last ones, and it does not move the log
        when it is the last itself. If the file was removed or replaced, SQLite notices that and moves nothing; a
        read-only connection would open another file.
        """
        with contextlib.ExitStack() as last:
            if self._files.only_the_log_is_lost():
                with contextlib.suppress(database.Error):
                    reader = database.connect_read_only(Path(self._files.path))
                    last.callback(reader.close)
                    database.rows(reader, CENSUS, {})
            self._loop_connection.close()
            await self._driver.close()
        self._files.note_closed()

    async def _run_short_statement(
        self, statement: str, parameters: Parameters, *, writes: bool = False
    ) -> list[ResultRow]:
        """Run one short statement here, as soon as the database is not busy."""
        pauses = database.pauses_while_busy(0)
        self._statements_since_yield += 1
        if self._statements_since_yield == STATEMENTS_PER_YIELD:
            self._statements_since_yield = 0
            await asyncio.sleep(0)
        if writes and self._checkpoints.due_after(1):
            await self._run_on_driver_thread(partial(self._checkpoints.make, self._files))
        while True:
            self._must_be_open()  # here, since it may have been closed during any wait (P8.17)
            if writes:
                self._files.verify()
            try:
                with database.translated():
                    found = database.rows(self._loop_connection, statement, parameters)
            except StoreBusy as busy:
                pause = next(pauses, None)
                if pause is None:
                    raise self._busy_error() from busy
            except StoreError:
                self._checkpoints.make_due()
                with database.translated():
                    self._must_know_schema(self._loop_connection)
                raise
            else:
                if writes:
                    self._busy_since = None
                return found
            await asyncio.sleep(pause)

    async def _read(self, statement: str, parameters: Parameters) -> list[ResultRow]:
        """Run one reading statement on the driver's thread."""
        return await self._run_on_driver_thread(lambda connection: database.rows(connection, statement, parameters))

    async def _write(self, work: Callable[[Connection], Result], rows: int = 1, size: int = 0) -> Result:
        """Run ``work`` in a transaction on the driver's thread. Now and then make a checkpoint after it.

        It writes ``rows`` rows, whose values have ``size`` bytes in all.

        Before anything is written the file must be the one that was opened (P18.2), and before it is acknowledged its
        log (P18.3): that is two calls of the system instead of four, each of which takes as long as a statement.
        """
        checkpoint_is_due = self._checkpoints.due_after(pages_of(rows, size))

        def verified(connection: Connection) -> Result:
            self._files.verify_file()
            return work(connection)

        def write(connection: Connection) -> Result:
            with database.memory_for_a_large_commit(connection) if rows > FEW_RECORDS else contextlib.nullcontext():
                result = database.transaction(verified, connection)
            self._files.verify_log()
            if checkpoint_is_due:
                self._checkpoints.make(self._files, connection)
            return result

        result = await self._run_on_driver_thread(write)
        self._busy_since = None
        return result

    async def _run_on_driver_thread(self, work: Callable[[Connection], Result]) -> Result:
        """Run ``work`` on the driver's thread. A cancellation reaches the caller when the work has ended (P12.2)."""
        self._must_be_open()

        def checked(connection: Connection) -> Result:
            try:
                return work(connection)
            except database.Error as error:
                if not database.is_busy(error):
                    self._checkpoints.make_due()
                    self._must_know_schema(connection)
                raise

        try:
            with database.translated():
                return await self._driver.call(checked)
        except StoreBusy as busy:
            raise self._busy_error() from busy

    def _busy_error(self) -> StoreBusy:
        """Return an error that says how long this process has waited, and which process is probably the cause."""
        now = database.monotonic_seconds()
        if self._busy_since is None:
            self._busy_since = now - database.BUSY_TIMEOUT_SECONDS
        try:
            [(holder, label, epoch)] = database.rows(self._loop_connection, statements.HOLDER, {})
            if holder is None:
                holds = "nobody holds the lease"
            elif holder == self._instance:
                holds = "this process itself holds the lease, so it is not known which one that is"
            else:
                holds = f"{label!r} holds the lease, of epoch {epoch}"
        except (database.Error, ValueError):
            holds = "which process holds the lease can't be read"
        return StoreBusy(
            "another process keeps SQLite's write lock: it writes very much, or was suspended in the middle of a "
            f"transaction. This one has waited for {now - self._busy_since:.1f} s; {holds}"
        )

    # P13.10
    def _found(self, rows: list[ResultRow]) -> list[ResultRow]:
        """Return the rows of a statement. There are none only if the fence stopped it, or this program is too old."""
        if not rows:
            with database.translated():
                self._must_know_schema(self._loop_connection)
            raise _lost()
        return rows

    # P18.10
    def _not_older(self, version: int, known: Version) -> Version:
        """Return a version that was read; it must not be older than the newest ``known`` when the access began."""
        self._must_not_be_older(version, known)
        self._newest = max(self._newest, Version(version))
        return Version(version)

    def _must_not_be_older(self, version: int, known: Version) -> None:
        if self._rolled_back or version < known:
            self._rolled_back = True
            raise StoreRolledBack(
                "an older copy of the store was put back while it was open. Keys and message indices in it have been "
                "used since. Open the store again"
            )

    def _must_know_schema(self, connection: Connection) -> None:
        """Make sure that no newer program has changed the rules by which the file is written (P20.3)."""
        [(schema,)] = database.rows(connection, SCHEMA, {})
        if schema != self._schema:
            raise unsupported(schema)

    def _must_be_open(self) -> None:
        self._owner_process.must_be_current()
        if self._closed:
            raise StoreClosed("the store was closed")


def _lost() -> LeaseLost:
    return LeaseLost("the lease is no longer held under this epoch")
