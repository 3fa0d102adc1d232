"""Accesses do not see a commit that is under way, and damaged rows have defined results."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

import pytest

from tests.store.sqlite.backends import DURATION, ME, NOW, OTHER, A, Operation, Stopped, Store, hold, opened
from unwedged.protocol import cache, lease
from unwedged.protocol.cache import Change
from unwedged.protocol.identifiers import Epoch, Milliseconds, Version
from unwedged.store import database, sqlite
from unwedged.store.backend import Committed, Loaded, Row, RowName
from unwedged.store.database import Parameters, ResultRow
from unwedged.store.errors import LeaseLost, StoreClosed, StoreRolledBack
from unwedged.store.inspection import inspect
from unwedged.store.offloading import FEW_RECORDS


# P4.3
async def test_two_backends_on_one_file(store: Store) -> None:
    one = store.backend
    async with opened(store.path) as two:
        assert one.identity == two.identity
        held = await one.acquire(ME, "one", NOW, DURATION)
        assert (held.holder, held.epoch) == (ME, 1)
        assert await two.acquire(OTHER, "two", NOW, DURATION) == lease.want(held)
        assert await one.commit(Epoch(1), [Row(A, b"one")], NOW, DURATION, may_release=False) == Committed(
            Version(1), wanted=True, released=False, left_ms=DURATION
        )
        await one.release(Epoch(1))
        assert (await two.acquire(OTHER, "two", NOW, DURATION)).epoch == 2
        assert (await two.changes(Version(0), Epoch(2))).changes == (cache.Change(Version(1), A),)
        assert (await two.load(Epoch(2), A, Version(0))).value == b"one"
        with pytest.raises(LeaseLost):
            await one.commit(Epoch(1), [Row(A, b"stale")], NOW, DURATION, may_release=False)
        await one.release(Epoch(1))
        assert (await two.commit(Epoch(2), [Row(A, b"two")], NOW, DURATION, may_release=False)).version == 2
        assert (await one.changes(Version(1), None)).changes == (cache.Change(Version(2), A),)


# P13.12
async def test_short_statements_see_nothing_of_a_commit_under_way_and_do_not_wait_for_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = await hold(store)
    row = store.state()[0]
    await store.backend.commit(epoch, [Row(A, b"old")], NOW, DURATION, may_release=False)
    stopped = Stopped(monkeypatch)
    commit = asyncio.create_task(
        store.backend.commit(epoch, [Row(A, b"new")], Milliseconds(NOW + 1), DURATION, may_release=False)
    )
    await stopped.reached.wait()
    assert await store.backend.check(epoch) == await store.backend.look() == row
    assert (await store.backend.changes(Version(1), None)).version == 1
    assert await store.backend.load(epoch, A, Version(1)) == Loaded(Version(1), b"old", changed=False, floor=Version(0))
    assert not commit.done()
    stopped.go_on()
    await commit
    assert await store.backend.load(epoch, A, Version(1)) == Loaded(Version(2), b"new", changed=True, floor=Version(0))


@pytest.mark.parametrize("read", ["check", "look", "load"])
async def test_a_task_that_reads_again_and_again_lets_others_run(store: Store, read: str) -> None:
    epoch = await hold(store)
    reads: dict[str, Callable[[], Awaitable[object]]] = {
        "check": lambda: store.backend.check(epoch),
        "look": store.backend.look,
        "load": lambda: store.backend.load(epoch, A, Version(0)),
    }
    ran: list[str] = []

    async def run() -> None:
        ran.append("another task")

    waiting = asyncio.create_task(run())
    for _ in range(sqlite.STATEMENTS_PER_YIELD):
        await reads[read]()
    assert ran
    await waiting


async def test_it_does_so_each_time_after_as_many_statements_and_for_one_turn_of_the_loop(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", noted)
    for yields in range(3):
        for _ in range(sqlite.STATEMENTS_PER_YIELD - 1):
            await store.backend.look()
        assert pauses == yields * [0]
        await store.backend.look()
        assert pauses == (yields + 1) * [0]


# P16.5
@pytest.mark.parametrize("more", [-1, 0, 1, 2])
async def test_a_change_log_of_any_length_is_read_whole(
    store: Store, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    """A long change log is read on the driver's thread, where it does not block the event loop."""
    epoch = await hold(store)
    names = [RowName("device", b"%04d" % number) for number in range(FEW_RECORDS + more)]
    await store.backend.commit(epoch, [Row(name, b"") for name in names], NOW, DURATION, may_release=False)
    reads: list[str] = []
    read = store.backend._read

    async def noted(statement: str, parameters: Parameters) -> list[ResultRow]:
        reads.append(statement)
        return await read(statement, parameters)

    monkeypatch.setattr(store.backend, "_read", noted)
    log = await store.backend.changes(Version(0), epoch)
    assert [change.key for change in log.changes] == names
    assert len(reads) == (1 if more > 0 else 0)


@pytest.mark.parametrize("more", [0, 1])
async def test_only_a_large_commit_gets_more_memory(store: Store, monkeypatch: pytest.MonkeyPatch, more: int) -> None:
    epoch = await hold(store)
    given: list[sqlite3.Connection] = []
    memory = database.memory_for_a_large_commit

    def noted(connection: sqlite3.Connection) -> AbstractContextManager[None]:
        given.append(connection)
        return memory(connection)

    monkeypatch.setattr(database, "memory_for_a_large_commit", noted)
    rows = [Row(RowName("device", b"%04d" % number), b"") for number in range(FEW_RECORDS + more)]
    await store.backend.commit(epoch, rows, NOW, DURATION, may_release=False)
    assert len(given) == more


async def test_contents(store: Store) -> None:
    epoch = await hold(store)
    assert await store.backend.contents() == (0, frozenset())
    rows = [Row(RowName(kind, key), b"value") for kind in ("a", "b", "d") for key in (b"1", b"2")]
    await store.backend.commit(epoch, rows, NOW, DURATION, may_release=False)
    assert await store.backend.contents() == (1, frozenset({"a", "b", "d"}))
    await store.backend.commit(
        epoch, [Row(RowName("b", key), None) for key in (b"1", b"2")], NOW, DURATION, may_release=False
    )
    assert await store.backend.contents() == (2, frozenset({"a", "d"}))


# P16.6
async def test_a_row_without_a_value_is_not_an_absent_one(store: Store) -> None:
    epoch = await hold(store)
    await store.backend.commit(epoch, [Row(A, b"value")], NOW, DURATION, may_release=False)
    store.raw.execute("DROP TRIGGER record_updated")
    store.raw.execute("UPDATE record SET value = NULL")
    assert await store.backend.load(epoch, A, Version(1)) == Loaded(Version(1), b"", changed=False, floor=Version(0))


# P2.15
async def test_a_damaged_text_is_read_as_another_one_and_stops_no_process(store: Store) -> None:
    """Whatever depends on this text fails to authenticate. An exception would occur in each process at each access."""
    epoch = await hold(store)
    store.raw.execute("INSERT INTO change SELECT 1, CAST(X'6b69ff' AS TEXT), X'00'")
    store.raw.execute("INSERT INTO record SELECT CAST(X'6b69ff' AS TEXT), X'00', X'00'")
    store.raw.execute("UPDATE state SET label = CAST(X'6cff' AS TEXT)")
    damaged = RowName("ki\ufffd", b"\0")
    assert (await store.backend.changes(Version(0), epoch)).changes[0] == Change(Version(1), damaged)
    assert await store.backend.contents() == (0, frozenset({damaged.kind}))
    shown = inspect(store.path)
    assert (shown.label, shown.records, shown.changes[-1]) == ("l\ufffd", {damaged.kind: 1}, (1, damaged.kind, 1))


async def test_a_kind_that_is_no_text_is_read_as_one(store: Store) -> None:
    """One damaged byte makes SQLite read the value as a blob."""
    epoch = await hold(store)
    for table in ("record", "change"):
        store.raw.execute(f"DROP TABLE {table}")
    store.raw.execute("CREATE TABLE record (kind, key, value)")
    store.raw.execute("CREATE TABLE change (version, kind, key)")
    store.raw.execute("INSERT INTO change VALUES (1, X'6b69', 'key')")
    store.raw.execute("INSERT INTO record VALUES (X'6b69', 'key', 'value')")
    assert (await store.backend.changes(Version(0), epoch)).changes == (Change(Version(1), RowName("ki", b"key")),)
    assert await store.backend.contents() == (0, frozenset({"ki"}))
    shown = inspect(store.path)
    assert (shown.records, shown.changes) == ({"ki": 1}, ((1, "ki", 1),))


async def test_a_closed_backend(store: Store) -> None:
    backend = store.backend
    await backend.close()
    await backend.close()
    with pytest.raises(StoreClosed):
        await backend.check(Epoch(1))
    with pytest.raises(StoreClosed):
        await backend.commit(Epoch(1), [], NOW, DURATION, may_release=False)


READING_A_VERSION: dict[str, Operation] = {
    "contents": lambda backend: backend.contents(),
    "changes": lambda backend: backend.changes(Version(0), None),
    "load": lambda backend: backend.load(Epoch(1), A, Version(0)),
    "keys": lambda backend: backend.keys(Epoch(1), "device", Version(0)),
    "commit": lambda backend: backend.commit(Epoch(1), [Row(A, b"new")], NOW, DURATION, may_release=False),
}


# P18.10
@pytest.mark.parametrize("earlier", READING_A_VERSION)
@pytest.mark.parametrize("later", READING_A_VERSION)
async def test_a_version_below_one_that_was_read_is_refused_and_so_is_every_later_version(
    store: Store, earlier: str, later: str
) -> None:
    epoch = await hold(store)
    for _ in range(3):
        await store.backend.commit(epoch, [Row(A, b"old")], NOW, DURATION, may_release=False)
    async with opened(store.path) as backend:
        await READING_A_VERSION[earlier](backend)
        [(version,)] = store.raw.execute("UPDATE state SET version = version - 1 RETURNING version")
        with pytest.raises(StoreRolledBack):
            await READING_A_VERSION[later](backend)
        assert store.raw.execute("SELECT version FROM state").fetchone() == (version,), "nothing was committed"
        store.raw.execute("UPDATE state SET version = version + 9")
        with pytest.raises(StoreRolledBack):
            await READING_A_VERSION[later](backend)
