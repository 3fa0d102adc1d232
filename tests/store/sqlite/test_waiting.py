"""An access waits while the database is busy, for a limited time, and then raises an error."""

from __future__ import annotations

import asyncio
import itertools
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.store.sqlite.backends import DURATION, ME, NOW, OTHER, A, Stopped, Store, hold, opened
from unwedged.protocol.identifiers import Version
from unwedged.store import database
from unwedged.store.backend import Loaded, Row
from unwedged.store.errors import StoreBusy
from unwedged.store.sqlite import SqliteBackend


# P15.1
async def test_a_short_statement_waits_while_another_transaction_is_under_way(store: Store) -> None:
    """It does not block the event loop, which the other transaction needs to continue."""
    waited = asyncio.create_task(hold(store))
    with store.locked():
        for _ in range(10):
            await asyncio.sleep(0)
        assert not waited.done()
    assert await waited == 1


async def test_a_read_that_is_kept_out_waits_too(store: Store) -> None:
    """Another process that recovers the log after a crash keeps a read out in this way."""
    epoch = await hold(store)

    class KeptOut:
        def __init__(self, connection: sqlite3.Connection) -> None:
            self.close = connection.close
            self.times = 0
            self._execute = connection.execute

        def execute(self, statement: str, parameters: database.Parameters) -> sqlite3.Cursor:
            self.times += 1
            if self.times < 3:
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode = sqlite3.SQLITE_BUSY_RECOVERY
                raise error
            return self._execute(statement, parameters)

    kept_out = KeptOut(store.backend._loop_connection)
    store.backend._loop_connection = kept_out  # type: ignore[assignment]  # only this attribute is used
    assert (await store.backend.check(epoch)).holder == ME
    assert kept_out.times == 3


async def test_two_commits_of_two_processes_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits for the first on its own driver's thread; then the row decides whether it is fenced."""
    epoch = await hold(store)
    async with opened(store.path) as other:
        stopped = Stopped(monkeypatch)
        first = asyncio.create_task(store.backend.commit(epoch, [Row(A, b"1")], NOW, DURATION, may_release=False))
        await stopped.reached.wait()
        second = asyncio.create_task(other.commit(epoch, [Row(A, b"2")], NOW, DURATION, may_release=False))
        await other.look()
        stopped.go_on()
        assert [(await first).version, (await second).version] == [1, 2]
    assert await store.backend.load(epoch, A, Version(2)) == Loaded(Version(2), b"2", changed=False, floor=Version(0))


# P13.9
async def test_a_writing_transaction_begins_as_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that reads first would fail if another process commits in between, however long it waits."""
    epoch = await hold(store)
    transaction, writers = database.transaction, 0

    def with_a_rival(work: Callable[[sqlite3.Connection], object], connection: sqlite3.Connection) -> object:
        def before_anything_is_read(connection: sqlite3.Connection) -> object:
            nonlocal writers
            writers += 1
            rival = sqlite3.connect(store.path, isolation_level=None, timeout=0)
            with closing(rival), pytest.raises(sqlite3.OperationalError, match="locked"):
                rival.execute("BEGIN IMMEDIATE")
            return work(connection)

        return transaction(before_anything_is_read, connection)

    monkeypatch.setattr(database, "transaction", with_a_rival)
    await store.backend.commit(epoch, [Row(A, b"value")], NOW, DURATION, may_release=False)
    await store.backend.truncate(Version(1))
    await store.backend.sealing(b"header")
    assert await store.backend.reseal(b"header", b"other")
    assert writers == 4


# P15.2, P15.4
async def test_a_busy_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch = await hold(store)
    monkeypatch.setattr(database, "BUSY_TIMEOUT_SECONDS", 0.0)
    async with opened(store.path) as impatient:
        before = store.dump()
        writes: list[Callable[[], Awaitable[object]]] = [
            lambda: impatient.acquire(OTHER, "other", NOW, DURATION),
            lambda: impatient.renew(epoch, NOW, DURATION),
            lambda: impatient.release(epoch),
            lambda: impatient.commit(epoch, [Row(A, b"value")], NOW, DURATION, may_release=False),
            lambda: impatient.truncate(Version(0)),
            lambda: impatient.sealing(b"header"),
        ]
        with store.locked():
            for write in writes:
                with pytest.raises(StoreBusy, match="'me' holds the lease"):
                    await write()
            with pytest.raises(StoreBusy, match="this process itself holds the lease"):
                await impatient.acquire(ME, "me", NOW, DURATION)
            assert (await impatient.check(epoch)).holder == ME, "reads don't wait"
        assert store.dump() == before
        for write in writes[:4]:
            if write is not writes[2]:
                await write()


# P15.4
async def test_a_wait_that_is_over_is_no_part_of_the_next_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The promise holds for each kind of write that ends the wait."""
    epoch = await hold(store)
    now = 1000.0
    monkeypatch.setattr(database, "BUSY_TIMEOUT_SECONDS", 0.0)
    monkeypatch.setattr(database, "monotonic_seconds", lambda: now)

    async def refused_after(seconds: float) -> None:
        with store.locked(), pytest.raises(StoreBusy, match=f"has waited for {seconds:.1f} s"):
            await store.backend.commit(epoch, [Row(A, b"value")], NOW, DURATION, may_release=False)

    async def commit() -> None:
        await store.backend.commit(epoch, [Row(A, b"value")], NOW, DURATION, may_release=False)

    async def renew() -> None:
        await store.backend.renew(epoch, NOW, DURATION)

    for write in (commit, renew):
        await refused_after(0)
        now += 7
        await refused_after(7)
        await write()
        now += 7


# P15.4
async def test_the_first_wait_counts_from_its_beginning(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch = await hold(store)
    seconds = itertools.count()
    monkeypatch.setattr(database, "BUSY_TIMEOUT_SECONDS", 3.0)
    monkeypatch.setattr(database, "monotonic_seconds", lambda: float(next(seconds)))
    with store.locked(), pytest.raises(StoreBusy, match=r"has waited for 3\.0 s"):
        await store.backend.commit(epoch, [Row(A, b"value")], NOW, DURATION, may_release=False)


# P15.1
async def test_a_short_statement_is_tried_eagerly_at_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is repeated without a pause; the event loop runs in between."""
    epoch = await hold(store)
    eager: list[float] = []

    def noted(eager_pause_seconds: float) -> Iterator[float]:
        eager.append(eager_pause_seconds)
        return iter(())

    monkeypatch.setattr(database, "pauses_while_busy", noted)
    with store.locked(), pytest.raises(StoreBusy):
        await store.backend.renew(epoch, NOW, DURATION)
    assert eager == [0]


# P17.6
async def test_a_new_file_that_another_process_is_opening_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new.store"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")  # as the process that creates the tables does
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        other.rollback()

    monkeypatch.setattr(time, "sleep", pause)
    backend = await SqliteBackend.open(path)
    assert pauses
    await backend.close()
    other.close()


# P15.1
@pytest.mark.parametrize("commit", [0.0005, 0.005, 0.02, 0.05])
def test_a_process_gets_the_write_lock_beside_one_that_commits_again_and_again(
    monkeypatch: pytest.MonkeyPatch, commit: float
) -> None:
    """Between two commits the lock is free for about 0.2 ms; an attempt takes about 0.05 ms."""
    randomness, free = random.Random(0), 0.0002
    period, now = commit + free, 0.0
    monkeypatch.setattr(database, "monotonic_seconds", lambda: now)
    monkeypatch.setattr(random, "uniform", randomness.uniform)
    waits = []
    for _ in range(101):
        now = began = randomness.uniform(0, period)
        for pause in database.pauses_while_busy(0):
            if now % period < free:
                break
            now += pause + 0.00005
        waits.append(now - began)
    assert sorted(waits)[50] < 5 * period
