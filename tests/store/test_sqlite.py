"""The SQLite backend: equal to the pure rules, all or nothing, and in one piece whatever happens around it."""

from __future__ import annotations

import asyncio
import os
import random
import re
import resource
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ParamSpec

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from unwedged.protocol import cache, lease
from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds, Version
from unwedged.protocol.lease import LONGEST_LEASE_MS, Lease
from unwedged.store import checkpoints, database, schema, sqlite, statements
from unwedged.store.backend import Backend, Committed, Listed, Loaded, Row, RowName
from unwedged.store.errors import LeaseLost, NotAStore, StorageFailed, StoreBusy, StoreClosed, UnsupportedSchema
from unwedged.store.sqlite import SqliteBackend

ME, OTHER = InstanceId(1), InstanceId(2)
NOW, DURATION = Milliseconds(1_000_000), Milliseconds(2_000)
A, B, C = RowName("device", b"a"), RowName("device", b"b"), RowName("session", b"a")

P = ParamSpec("P")
Dump = list[str]
on_a_file = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


class Store:
    """A store in a file, with a second connection that looks and meddles behind the backend's back."""

    def __init__(self, backend: SqliteBackend, path: Path) -> None:
        self.backend = backend
        self.path = path
        self.resets = 0
        self.raw = sqlite3.connect(path, isolation_level=None, timeout=0)
        self.raw.execute("PRAGMA synchronous = OFF")

    async def close(self) -> None:
        self.raw.close()
        await self.backend.close()

    def dump(self) -> Dump:
        return list(self.raw.iterdump())

    def reset(self, row: Lease = Lease(Epoch(0), None, Milliseconds(0), wanted=False), label: str = "") -> None:  # noqa: B008 (immutable)
        self.resets += 1
        self.raw.execute("BEGIN")
        self.raw.execute("DELETE FROM record")
        self.raw.execute("DELETE FROM change")
        self.raw.execute(
            "UPDATE state SET version = 0, floor = 0, epoch = ?, holder = ?, expires = ?, wanted = ?, label = ?",
            (row.epoch, row.holder, row.expires, row.wanted, label),
        )
        self.raw.execute("COMMIT")

    def state(self) -> tuple[Lease, str]:
        row = self.raw.execute("SELECT epoch, holder, expires, wanted, label FROM state").fetchone()
        return Lease(row[0], row[1], row[2], bool(row[3])), row[4]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the write lock: possible at once, or the backend is still inside a transaction."""
        self.raw.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            self.raw.execute("ROLLBACK")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    backend = await SqliteBackend.open(tmp_path / "store")
    store = Store(backend, tmp_path / "store")
    yield store
    await store.close()


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteBackend]:
    """Open a backend, and close it whatever happens."""
    backend = await SqliteBackend.open(path)
    try:
        yield backend
    finally:
        await backend.close()


async def open_and_close(path: Path) -> None:
    async with opened(path):
        pass


class Run:
    """A loop and a store for properties, which are functions and not coroutines."""

    def __init__(self, runner: asyncio.Runner, store: Store) -> None:
        self.runner = runner
        self.store = store

    @property
    def backend(self) -> SqliteBackend:
        return self.store.backend


@pytest.fixture
def run(tmp_path: Path, record_property: Callable[[str, object], None]) -> Iterator[Run]:
    with asyncio.Runner() as runner:
        backend = runner.run(SqliteBackend.open(tmp_path / "store"))
        store = Store(backend, tmp_path / "store")
        # What is compared here is not durability, and waiting for the disk is what takes the time.
        runner.run(backend._read("PRAGMA synchronous = OFF", {}))
        yield Run(runner, store)
        record_property("examples", store.resets)  # each begins with one; proofs/sql.py wants to see them
        runner.run(store.close())


@pytest.fixture
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "monotonic_seconds", lambda: 0.0)


def implements(backend: SqliteBackend) -> Backend:
    """Show the type checker that the backend has every method of the interface, with its types."""
    return backend


# --------------------------------------------------------------------------------------------------------------------
# The SQL is the rules

instances = st.sampled_from([ME, OTHER])
epochs = st.integers(0, 3).map(Epoch)
clocks = st.integers(-(2**40), 2**40)
durations = st.integers(0, LONGEST_LEASE_MS).map(Milliseconds)
deltas = st.sampled_from([-1, 0, 1, LONGEST_LEASE_MS - 1, LONGEST_LEASE_MS, LONGEST_LEASE_MS + 1]) | clocks
moments = st.tuples(clocks, deltas).map(lambda both: (Milliseconds(both[0]), Milliseconds(both[0] + both[1])))


@st.composite
def rows_and_clocks(draw: st.DrawFn) -> tuple[Lease, Milliseconds]:
    """Draw a lease row in any state, and a clock anywhere around the end of the lease."""
    now, expires = draw(moments)
    return Lease(draw(epochs), draw(st.none() | instances), expires, draw(st.booleans())), now


@pytest.mark.usefixtures("stopped_clock")
class TestTheSqlIsTheRules:
    @on_a_file
    @given(rows_and_clocks(), instances, durations)
    def test_acquire(
        self, run: Run, state: tuple[Lease, Milliseconds], instance: InstanceId, duration: Milliseconds
    ) -> None:
        row, now = state
        run.store.reset(row, "before")
        result = run.runner.run(run.backend.acquire(instance, "after", now, duration))
        taken = lease.acquire(row, instance, now, duration)
        expected = lease.want(row) if taken is None else taken
        assert result == expected
        assert run.store.state() == (expected, "before" if taken is None else "after")

    @on_a_file
    @given(rows_and_clocks(), epochs, durations)
    def test_renew(self, run: Run, state: tuple[Lease, Milliseconds], epoch: Epoch, duration: Milliseconds) -> None:
        row, now = state
        run.store.reset(row, "before")
        expected = lease.renew(row, epoch, now, duration)
        final = row if expected is None else expected
        with refused(fence=expected is None):
            assert run.runner.run(run.backend.renew(epoch, now, duration)) == expected
        assert run.store.state() == (final, "before")

    @on_a_file
    @given(rows_and_clocks(), epochs)
    def test_release(self, run: Run, state: tuple[Lease, Milliseconds], epoch: Epoch) -> None:
        row, _ = state
        run.store.reset(row, "before")
        run.runner.run(run.backend.release(epoch))
        assert run.store.state() == (lease.release(row, epoch) or row, "before")

    @on_a_file
    @given(rows_and_clocks(), epochs, durations, st.booleans())
    def test_commit(
        self, run: Run, state: tuple[Lease, Milliseconds], epoch: Epoch, duration: Milliseconds, alone: bool
    ) -> None:
        row, now = state
        run.store.reset(row, "before")
        before = run.store.dump()
        expected = lease.commit(row, epoch, now, duration, alone)
        final = row if expected is None else expected
        with refused(fence=expected is None):
            result = run.runner.run(run.backend.commit(epoch, [Row(A, b"value")], now, duration, alone=alone))
            assert result == Committed(Version(1), row.wanted, row.wanted and alone)
        assert run.store.state() == (final, "before")
        assert (run.store.dump() == before) == (expected is None)

    @on_a_file
    @given(rows_and_clocks(), epochs)
    def test_reads(self, run: Run, state: tuple[Lease, Milliseconds], epoch: Epoch) -> None:
        row, _ = state
        run.store.reset(row)
        before = run.store.dump()
        passes, since = lease.fence(row, epoch), Version(0)
        with refused(fence=not passes):
            assert run.runner.run(run.backend.check(epoch)) == row
        assert run.runner.run(run.backend.look()) == row
        with refused(fence=not passes):
            log: cache.ChangeLog[RowName] = cache.ChangeLog(Version(0), Version(0), ())
            assert run.runner.run(run.backend.changes(since, epoch)) == log
        with refused(fence=not passes):
            assert run.runner.run(run.backend.load(epoch, A, since)) == Loaded(Version(0), None, changed=False)
        with refused(fence=not passes):
            assert run.runner.run(run.backend.keys(epoch, "device", since)) == Listed(Version(0), (), changed=False)
        run.runner.run(run.backend.changes(since, None))
        assert run.store.dump() == before


def refused(*, fence: bool) -> AbstractContextManager[object]:
    return pytest.raises(LeaseLost) if fence else nullcontext()


LIMIT = 2**63
"""SQLite has whole numbers from -LIMIT on, and below it."""

whole_numbers = st.integers(-LIMIT, LIMIT - 1)
edges = st.sampled_from([-LONGEST_LEASE_MS - 1, -LONGEST_LEASE_MS, -1, 0, 1])
times = st.tuples(st.booleans(), edges | whole_numbers)
"""Whether from the end of the lease, and how far. So clocks jump both ways from call to call."""
lates = st.sampled_from([0, 0, 125, 1_000, 60_000])
steps_from_here = st.sampled_from([0, 0, 0, 0, 0, 0, -1, 1])
versions_back = st.sampled_from([0, 0, 1, 1, 2, 3, -1])
many_epochs = st.integers(0, 3) | st.integers(LIMIT - 3, LIMIT - 1)
many_instances = st.sampled_from([ME, OTHER, InstanceId(LIMIT - 1), InstanceId(-1)])
labels = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3)
records = st.sampled_from([A, B, C])
written = st.lists(st.builds(Row, records, st.none() | st.binary(max_size=3)), max_size=3)


class SqlAndRules(RuleBasedStateMachine):
    """Any calls of any instances at any times: the row, the records and the change log are what the rules say."""

    def __init__(self, run: Run, ticks: Ticks) -> None:
        super().__init__()
        self.go, self.backend, self.store, self.ticks = run.runner.run, run.backend, run.store, ticks
        self.label, self.version, self.floor = "", Version(0), Version(0)
        self.row = Lease(Epoch(0), None, Milliseconds(0), wanted=False)
        self.records: dict[RowName, bytes] = {}
        self.log: set[tuple[Version, RowName]] = set()

    @initialize(row=st.builds(Lease, many_epochs, st.none() | many_instances, whole_numbers, st.booleans()))
    def begin(self, row: Lease) -> None:
        self.store.reset(row)
        self.row = row

    @rule(instance=many_instances, label=labels, time=times, duration=durations, late=lates)
    def acquire(
        self, instance: InstanceId, label: str, time: tuple[bool, int], duration: Milliseconds, late: int
    ) -> None:
        now = self.at(time)
        taken = lease.acquire(self.row, instance, now, duration)
        row = self.in_full(taken, duration, late) or lease.want(self.row)
        if self.write(self.backend.acquire(instance, label, now, duration), row, row) and taken:
            self.label = label

    @rule(step=steps_from_here, time=times, duration=durations, late=lates)
    def renew(self, step: int, time: tuple[bool, int], duration: Milliseconds, late: int) -> None:
        epoch, now = self.epoch(step), self.at(time)
        row = self.in_full(lease.renew(self.row, epoch, now, duration), duration, late)
        self.write(self.backend.renew(epoch, now, duration), row, row)

    @rule(step=steps_from_here)
    def release(self, step: int) -> None:
        row = lease.release(self.row, self.epoch(step)) or self.row
        self.write(self.backend.release(self.epoch(step)), row, None)

    @rule(step=steps_from_here, rows=written, time=times, duration=durations, alone=st.booleans(), late=lates)
    def commit(
        self, step: int, rows: list[Row], time: tuple[bool, int], duration: Milliseconds, alone: bool, late: int
    ) -> None:
        epoch, now, version = self.epoch(step), self.at(time), Version(self.version + 1)
        row = self.in_full(lease.commit(self.row, epoch, now, duration, alone), duration, late)
        done = Committed(version, self.row.wanted, self.row.wanted and alone)
        if self.write(self.backend.commit(epoch, rows, now, duration, alone=alone), row, done):
            self.version = version
            self.log |= {(version, each.name) for each in rows}
            self.records |= {each.name: each.value for each in rows if each.value is not None}
            last = {each.name: each.value for each in rows}
            self.records = {name: value for name, value in self.records.items() if last.get(name, value) is not None}

    @rule(back=versions_back)
    def truncate(self, back: int) -> None:
        self.truncate_at(Version(self.version - back))

    @precondition(lambda self: self.version % 4 == 3)  # Rarely: it cuts everything, or nothing.
    @rule(floor=whole_numbers)
    def truncate_at(self, floor: Version) -> None:
        assert self.outcome(self.backend.truncate(floor)) is None
        self.floor = max(self.floor, min(floor, self.version))
        self.log = {line for line in self.log if line[0] > self.floor}

    @rule(step=steps_from_here)
    def check(self, step: int) -> None:
        assert self.outcome(self.backend.look()) == self.row
        assert self.outcome(self.backend.contents()) == (self.version, {name.kind for name in self.records})
        self.read(step, self.backend.check(self.epoch(step)), self.row)

    @rule(step=steps_from_here, back=versions_back, fenced=st.booleans())
    def changes(self, step: int, back: int, fenced: bool) -> None:
        since = Version(self.version - back)
        changes = tuple(cache.Change(*line) for line in sorted(self.log) if line[0] > since)
        log = cache.ChangeLog(self.version, self.floor, changes)
        if fenced:
            self.read(step, self.backend.changes(since, self.epoch(step)), log)
        else:
            assert self.outcome(self.backend.changes(since, None)) == log

    @rule(step=steps_from_here, back=versions_back)
    def load(self, step: int, back: int) -> None:
        since = Version(self.version - back)
        later = {name for version, name in self.log if version > since}
        for name in (A, B, C):
            changed = name in later or not cache.reaches(self.floor, since)
            loaded = Loaded(self.version, self.records.get(name), changed)
            self.read(step, self.backend.load(self.epoch(step), name, since), loaded)

    @rule(step=steps_from_here, back=versions_back, kind=st.sampled_from(["device", "session", "other"]))
    def keys(self, step: int, back: int, kind: str) -> None:
        since = Version(self.version - back)
        changed = any(line[0] > since and line[1].kind == kind for line in self.log)
        keys = tuple(sorted(name.key for name in self.records if name.kind == kind))
        listed = Listed(self.version, keys, changed or not cache.reaches(self.floor, since))
        self.read(step, self.backend.keys(self.epoch(step), kind, since), listed)

    @invariant()
    def nothing_else_happened(self) -> None:
        rows = self.store.raw.execute
        assert self.store.state() == (self.row, self.label)
        assert rows("SELECT version, floor FROM state").fetchall() == [(self.version, self.floor)]
        assert {RowName(*name): value for *name, value in rows("SELECT * FROM record")} == self.records
        assert {(version, RowName(*name)) for version, *name in rows("SELECT * FROM change")} == self.log

    def at(self, time: tuple[bool, int]) -> Milliseconds:
        from_end, distance = time
        return Milliseconds(within(self.row.expires + distance if from_end else distance))

    def epoch(self, step: int) -> Epoch:
        return Epoch(within(self.row.epoch + step))

    def in_full(self, row: Lease | None, duration: Milliseconds, late: int) -> Lease | None:
        """The lease of a transaction that took so long: from half a lease on, it counts from the end."""
        self.ticks.seconds = [0.0, late / 1000]
        return row and replace(row, expires=Milliseconds(row.expires + (late if 2 * late > duration else 0)))

    def write(self, call: Coroutine[object, object, object], row: Lease | None, result: object) -> bool:
        """Expect that the row becomes `row`, unless the fence stops it or its numbers are too large for SQLite."""
        if row is None:
            result = LeaseLost
        elif not (row.epoch == within(row.epoch) and row.expires == within(row.expires)):
            result = StorageFailed
        else:
            self.row = row
        assert self.outcome(call) == result
        return self.row == row

    def read(self, step: int, call: Coroutine[object, object, object], result: object) -> None:
        assert self.outcome(call) == (result if lease.fence(self.row, self.epoch(step)) else LeaseLost)

    def outcome(self, call: Coroutine[object, object, object]) -> object:
        try:
            return self.go(call)
        except (LeaseLost, StorageFailed) as error:
            return type(error)


def within(number: int) -> int:
    return max(-LIMIT, min(number, LIMIT - 1))


@pytest.fixture
def sql_and_rules(run: Run, monkeypatch: pytest.MonkeyPatch) -> type[RuleBasedStateMachine]:
    ticks = Ticks()
    monkeypatch.setattr(database, "monotonic_seconds", ticks)

    class OnThisStore(SqlAndRules):
        def __init__(self) -> None:
            super().__init__(run, ticks)

    return OnThisStore


def test_any_calls_at_any_times_do_what_the_rules_say(sql_and_rules: type[RuleBasedStateMachine]) -> None:
    run_state_machine_as_test(sql_and_rules)


EPOCH, HOLDER = "epoch = :epoch AND ", " AND holder IS NOT NULL"
BROKEN_STATEMENTS = [
    ("LOOK", "expires", "expires + 1"),
    ("LOOK", "wanted", "NOT wanted"),
    ("ACQUIRE", " OR expires > :now + :longest", ""),
    ("ACQUIRE", "expires > :now + :longest", "expires >= :now + :longest"),
    ("ACQUIRE", " OR expires <= :now", ""),
    ("ACQUIRE", "expires <= :now", "expires < :now"),
    ("ACQUIRE", " OR holder = :instance", ""),
    ("ACQUIRE", "holder IS NULL OR ", ""),
    ("ACQUIRE", "epoch + free", "epoch"),
    ("ACQUIRE", "epoch + free", "epoch + 1"),
    ("ACQUIRE", "epoch + free", "epoch + (holder IS NOT :instance)"),
    ("ACQUIRE", "iif(free, :instance, holder)", ":instance"),
    ("ACQUIRE", "iif(free, :label, label)", ":label"),
    ("ACQUIRE", "iif(free, :now + :duration + late(:began, :duration), expires)", ":now + :duration"),
    ("ACQUIRE", " + late(:began, :duration)", ""),
    ("ACQUIRE", "wanted = NOT free", "wanted = wanted"),
    ("ACQUIRE", "wanted = NOT free", "wanted = wanted OR NOT free"),
    ("RENEW", EPOCH, ""),
    ("RENEW", HOLDER, ""),
    ("RENEW", ":now + :duration", "expires + :duration"),
    ("RENEW", " + late(:began, :duration)", ""),
    ("RENEW", " WHERE", ", wanted = 0 WHERE"),
    ("RENEW", " WHERE", ", epoch = epoch + 1 WHERE"),
    ("PROLONG", "expires + :late", "expires"),
    ("RELEASE", EPOCH, ""),
    ("RELEASE", " WHERE", ", epoch = 0 WHERE"),
    ("RELEASE", " WHERE", ", wanted = 0 WHERE"),
    ("CHECK", EPOCH, ""),
    ("CHECK", HOLDER, ""),
    ("CHANGES", EPOCH, ""),
    ("CHANGES", HOLDER, ""),
    ("CHANGES", ":epoch IS NULL", "false"),
    ("CHANGES", "change.version > :since", "change.version >= :since"),
    ("CHANGES", "ORDER BY change.version", "ORDER BY -change.version"),
    ("LOAD", EPOCH, ""),
    ("LOAD", HOLDER, ""),
    ("LOAD", "floor > :since", "floor >= :since"),
    ("LOAD", "floor > :since OR ", ""),
    ("LOAD", "change.version > :since", "change.version >= :since"),
    ("LOAD", "AND kind = :kind AND key = :key)", "AND kind = :kind)"),
    ("KEYS", EPOCH, ""),
    ("KEYS", HOLDER, ""),
    ("KEYS", "floor > :since OR ", ""),
    ("KEYS", "change.version > :since", "change.version >= :since"),
    ("KEYS", "AND kind = :kind)", ")"),
    ("CONTENTS", "SELECT version", "SELECT floor"),
    ("CONTENTS", "kind > present.kind", "kind < present.kind"),
    ("ADVANCE", EPOCH, ""),
    ("ADVANCE", HOLDER, ""),
    ("ADVANCE", "version + 1", "version + 2"),
    ("ADVANCE", "expires = :now + :duration", "expires = expires"),
    ("ADVANCE", "wanted AND :alone", "wanted"),
    ("ADVANCE", "wanted AND :alone", ":alone"),
    ("ADVANCE", "iif(wanted AND :alone, NULL, holder)", "holder"),
    ("ADVANCE", "\n    WHERE", ", wanted = 0 WHERE"),
    ("PUT", "excluded.value", "value"),
    ("RAISE_FLOOR", "max(floor, min(:floor, version))", "min(:floor, version)"),
    ("RAISE_FLOOR", "min(:floor, version)", ":floor"),
    ("TRUNCATE", "<=", "<"),
]


def test_every_statement_is_broken() -> None:
    texts = {
        name for name, value in vars(statements).items() if re.fullmatch("[A-Z_]+", name) and isinstance(value, str)
    }
    parts = {"LEASE", "FENCE", "TAKEABLE", "KNOWN"}
    header = {"SEALING", "SEAL", "RESEAL", "HOLDER"}  # which the rules know nothing of: tests/store/test_secrets.py
    assert {name for name, _, _ in BROKEN_STATEMENTS} == texts - parts - header


@pytest.mark.parametrize(("name", "old", "new"), BROKEN_STATEMENTS)
def test_a_broken_statement_is_found(
    sql_and_rules: type[RuleBasedStateMachine], monkeypatch: pytest.MonkeyPatch, name: str, old: str, new: str
) -> None:
    statement: str = getattr(statements, name)
    assert old in statement
    monkeypatch.setattr(statements, name, statement.replace(old, new))
    few = settings(max_examples=3000, stateful_step_count=20, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(sql_and_rules, settings=few)


# --------------------------------------------------------------------------------------------------------------------
# Records and the change log

names = st.sampled_from([A, B, C, RowName("session", b"")])
commits = st.lists(st.builds(Row, names, st.none() | st.binary(max_size=3)), max_size=4)
steps = st.lists(commits | st.integers(-1, 9).map(Version), max_size=8)


@on_a_file
@given(steps)
def test_records_and_change_log(run: Run, steps: list[list[Row] | Version]) -> None:
    """Against a dictionary and a list; a step is a commit, or a truncation."""
    run.store.reset(Lease(Epoch(1), ME, Milliseconds(0), wanted=False))
    go, backend, epoch = run.runner.run, run.backend, Epoch(1)
    records: dict[RowName, bytes] = {}
    log: set[tuple[Version, RowName]] = set()
    version, floor = Version(0), Version(0)
    for step in steps:
        if isinstance(step, int):
            go(backend.truncate(step))
            floor = max(floor, min(step, version))
            log = {line for line in log if line[0] > floor}
            continue
        version = Version(version + 1)
        assert go(backend.commit(epoch, step, NOW, DURATION, alone=False)) == Committed(
            version, wanted=False, released=False
        )
        for row in step:
            log.add((version, row.name))
            records.pop(row.name, None)
            if row.value is not None:
                records[row.name] = row.value
    for since in (Version(number) for number in range(version + 2)):
        later = sorted(line for line in log if line[0] > since)
        expected = cache.ChangeLog(version, floor, tuple(cache.Change(*line) for line in later))
        assert go(backend.changes(since, epoch)) == go(backend.changes(since, None)) == expected
        unsure = not cache.reaches(floor, since)
        for name in (A, B, C):
            changed = unsure or any(line[1] == name for line in later)
            assert go(backend.load(epoch, name, since)) == Loaded(version, records.get(name), changed)
        for kind in ("device", "session", "unheard of"):
            keys = tuple(sorted(name.key for name in records if name.kind == kind))
            changed = unsure or any(line[1].kind == kind for line in later)
            assert go(backend.keys(epoch, kind, since)) == Listed(version, keys, changed)


async def hold(store: Store) -> Epoch:
    return await acquired(store.backend)


async def acquired(backend: SqliteBackend) -> Epoch:
    return (await backend.acquire(ME, "me", NOW, DURATION)).epoch


async def test_two_backends_on_one_file(store: Store) -> None:
    one = store.backend
    async with opened(store.path) as two:
        assert one.identity == two.identity
        held = await one.acquire(ME, "one", NOW, DURATION)
        assert (held.holder, held.epoch) == (ME, 1)
        assert await two.acquire(OTHER, "two", NOW, DURATION) == lease.want(held)
        assert await one.commit(Epoch(1), [Row(A, b"one")], NOW, DURATION, alone=False) == Committed(
            Version(1), wanted=True, released=False
        )
        await one.release(Epoch(1))
        assert (await two.acquire(OTHER, "two", NOW, DURATION)).epoch == 2
        assert (await two.changes(Version(0), Epoch(2))).changes == (cache.Change(Version(1), A),)
        assert (await two.load(Epoch(2), A, Version(0))).value == b"one"
        with pytest.raises(LeaseLost):
            await one.commit(Epoch(1), [Row(A, b"stale")], NOW, DURATION, alone=False)
        await one.release(Epoch(1))
        assert (await two.commit(Epoch(2), [Row(A, b"two")], NOW, DURATION, alone=False)).version == 2
        assert (await one.changes(Version(1), None)).changes == (cache.Change(Version(2), A),)


async def test_many_open_a_new_store_at_once(tmp_path: Path) -> None:
    backends = await asyncio.gather(*(SqliteBackend.open(tmp_path / "store") for _ in range(8)))
    assert len({backend.identity for backend in backends}) == 1
    headers = await asyncio.gather(*(backend.sealing(bytes([n])) for n, backend in enumerate(backends)))
    assert len(set(headers)) == 1, "the first header stands"
    for backend in backends:
        await backend.close()


class Stopped:
    """Stops a commit before its last statement, on the driver's thread, while nothing stops the loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self._go_on = asyncio.Event(), threading.Event()
        self._lateness, self._loop = statements.lateness, asyncio.get_running_loop()
        monkeypatch.setattr(statements, "lateness", self._stop)

    def _stop(self, began: float, duration: Milliseconds) -> Milliseconds:
        self._loop.call_soon_threadsafe(self.reached.set)
        assert self._go_on.wait(60)
        return self._lateness(began, duration)

    def go_on(self) -> None:
        self._go_on.set()


async def test_short_statements_see_nothing_of_a_commit_under_way_and_do_not_wait_for_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = await hold(store)
    row = store.state()[0]
    await store.backend.commit(epoch, [Row(A, b"old")], NOW, DURATION, alone=False)
    stopped = Stopped(monkeypatch)
    commit = asyncio.create_task(
        store.backend.commit(epoch, [Row(A, b"new")], Milliseconds(NOW + 1), DURATION, alone=False)
    )
    await stopped.reached.wait()
    assert await store.backend.check(epoch) == await store.backend.look() == row
    assert (await store.backend.changes(Version(1), None)).version == 1
    assert await store.backend.load(epoch, A, Version(1)) == Loaded(Version(1), b"old", changed=False)
    assert not commit.done()
    stopped.go_on()
    await commit
    assert await store.backend.load(epoch, A, Version(1)) == Loaded(Version(2), b"new", changed=True)


@pytest.mark.parametrize("read", ["check", "look", "load"])
async def test_who_reads_again_and_again_lets_others_run(store: Store, read: str) -> None:
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


async def test_a_short_statement_waits_while_another_transaction_is_under_way(store: Store) -> None:
    """Without stopping the loop, which it needs to go on."""
    waited = asyncio.create_task(hold(store))
    with store.locked():
        for _ in range(10):
            await asyncio.sleep(0)
        assert not waited.done()
    assert await waited == 1


async def test_a_read_that_is_kept_out_waits_too(store: Store) -> None:
    """As while another process recovers the log after a crash."""
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
    store.backend._loop_connection = kept_out  # type: ignore[assignment]  # all that is used of it
    assert (await store.backend.check(epoch)).holder == ME
    assert kept_out.times == 3


async def test_two_commits_of_two_processes_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits for the first, on its own driver's thread, and is then fenced or not, as the row says."""
    epoch = await hold(store)
    async with opened(store.path) as other:
        stopped = Stopped(monkeypatch)
        first = asyncio.create_task(store.backend.commit(epoch, [Row(A, b"1")], NOW, DURATION, alone=False))
        await stopped.reached.wait()
        second = asyncio.create_task(other.commit(epoch, [Row(A, b"2")], NOW, DURATION, alone=False))
        await other.look()
        stopped.go_on()
        assert [(await first).version, (await second).version] == [1, 2]
    assert await store.backend.load(epoch, A, Version(2)) == Loaded(Version(2), b"2", changed=False)


async def test_contents(store: Store) -> None:
    epoch = await hold(store)
    assert await store.backend.contents() == (0, frozenset())
    rows = [Row(RowName(kind, key), b"value") for kind in ("a", "b", "d") for key in (b"1", b"2")]
    await store.backend.commit(epoch, rows, NOW, DURATION, alone=False)
    assert await store.backend.contents() == (1, frozenset({"a", "b", "d"}))
    await store.backend.commit(
        epoch, [Row(RowName("b", key), None) for key in (b"1", b"2")], NOW, DURATION, alone=False
    )
    assert await store.backend.contents() == (2, frozenset({"a", "d"}))


async def test_a_row_without_a_value_is_not_an_absent_one(store: Store) -> None:
    epoch = await hold(store)
    await store.backend.commit(epoch, [Row(A, b"value")], NOW, DURATION, alone=False)
    store.raw.execute("DROP TRIGGER record_updated")
    store.raw.execute("UPDATE record SET value = NULL")
    assert await store.backend.load(epoch, A, Version(1)) == Loaded(Version(1), b"", changed=False)


async def test_a_kind_that_is_no_text_is_damage_and_named(store: Store) -> None:
    """Python's own error about it has no code of SQLite's."""
    epoch = await hold(store)
    store.raw.execute("INSERT INTO change SELECT 1, CAST(X'ff' AS TEXT), X'00'")
    with pytest.raises(StorageFailed):
        await store.backend.changes(Version(0), epoch)


# --------------------------------------------------------------------------------------------------------------------
# All or nothing


def bad_row() -> Row:
    """Make a row that SQLite refuses: its tables are strict."""
    return Row(RowName("device", "no bytes"), b"")  # type: ignore[arg-type]


@pytest.mark.parametrize("position", [0, 1, 2])
async def test_a_commit_that_fails_changes_nothing(store: Store, position: int) -> None:
    epoch = await hold(store)
    await store.backend.commit(epoch, [Row(A, b"old"), Row(B, b"old")], NOW, DURATION, alone=False)
    before = store.dump()
    rows = [Row(A, b"new"), Row(B, None)]
    rows.insert(position, bad_row())
    with pytest.raises(StorageFailed):
        await store.backend.commit(epoch, rows, NOW, Milliseconds(9_999), alone=False)
    assert store.dump() == before
    with store.locked():
        pass
    assert (await store.backend.commit(epoch, [Row(A, b"new")], NOW, DURATION, alone=False)).version == 2


async def test_a_full_disk(store: Store) -> None:
    epoch = await hold(store)
    [(pages,)] = await store.backend._read("PRAGMA page_count", {})
    await store.backend._read(f"PRAGMA max_page_count = {pages + 2}", {})
    before = store.dump()
    with pytest.raises(StorageFailed, match="full"):
        await store.backend.commit(epoch, [Row(A, b"small"), Row(B, bytes(100_000))], NOW, DURATION, alone=False)
    assert store.dump() == before
    assert (await store.backend.commit(epoch, [Row(A, b"small")], NOW, DURATION, alone=False)).version == 1


@contextmanager
def no_file_longer_than(limit: int) -> Iterator[None]:
    """Have the operating system refuse to make any file of this process longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_where_the_disk_is_full_of_the_log_it_is_begun_anew(store: Store) -> None:
    """The commit that finds the disk full fails. What comes next makes room, so that the store is not stuck."""
    epoch = await hold(store)
    for number in range(20):
        await store.backend.commit(epoch, [Row(A, b"%d" % number)], NOW, DURATION, alone=False)
    with no_file_longer_than(store.path.with_name("store-wal").stat().st_size):
        with pytest.raises(StorageFailed):
            await store.backend.commit(epoch, [Row(A, b"new")], NOW, DURATION, alone=False)
        epoch = (await store.backend.acquire(ME, "me", NOW, DURATION)).epoch
        assert (await store.backend.commit(epoch, [Row(A, b"new")], NOW, DURATION, alone=False)).version == 21


async def test_large_values_do_not_make_the_log_grow(store: Store) -> None:
    """Ten of them are longer than the log may be."""
    epoch = await hold(store)
    large = [Row(A, bytes(checkpoints.LONGEST_LOG_PAGES * checkpoints.PAGE_BYTES // 10))]
    for _ in range(50):
        await store.backend.commit(epoch, large, NOW, DURATION, alone=False)
    assert store.path.with_name("store-wal").stat().st_size < 15 * len(large[0].value or b"")


async def test_a_busy_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch = await hold(store)
    monkeypatch.setattr(database, "BUSY_TIMEOUT_SECONDS", 0.0)
    async with opened(store.path) as impatient:
        before = store.dump()
        writes: list[Callable[[], Awaitable[object]]] = [
            lambda: impatient.acquire(OTHER, "other", NOW, DURATION),
            lambda: impatient.renew(epoch, NOW, DURATION),
            lambda: impatient.release(epoch),
            lambda: impatient.commit(epoch, [Row(A, b"value")], NOW, DURATION, alone=False),
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


async def test_damage_within_the_file_is_named_as_what_it_is(tmp_path: Path) -> None:
    """It is the file that is bad, not the disk: trying again won't help, a backup will."""
    path = tmp_path / "store"
    async with opened(path) as backend:
        row = await backend.acquire(ME, "me", NOW, DURATION)
        await backend.commit(row.epoch, [Row(A, b"value")], NOW, DURATION, alone=False)
    with closing(sqlite3.connect(path)) as raw:
        [(page,)] = raw.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'record'")
        [(size,)] = raw.execute("PRAGMA page_size")
    content = bytearray(path.read_bytes())
    content[(page - 1) * size : page * size] = bytes([255]) * size
    path.write_bytes(content)
    async with opened(path) as backend:
        with pytest.raises(NotAStore, match="damaged"):
            await backend.load(row.epoch, A, Version(0))


async def test_a_closed_backend(store: Store) -> None:
    backend = store.backend
    await backend.close()
    await backend.close()
    with pytest.raises(StoreClosed):
        await backend.check(Epoch(1))
    with pytest.raises(StoreClosed):
        await backend.commit(Epoch(1), [], NOW, DURATION, alone=False)


# --------------------------------------------------------------------------------------------------------------------
# Time


class Ticks:
    """A clock that says what it is told to, call after call."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = list(seconds)

    def __call__(self) -> float:
        return self.seconds.pop(0)


@pytest.mark.parametrize(("took", "late"), [(0.0, 0), (1.0, 0), (1.5, 1500), (60.0, 60_000)])
async def test_a_lease_counts_from_the_end_of_a_long_transaction(
    store: Store, monkeypatch: pytest.MonkeyPatch, took: float, late: int
) -> None:
    monkeypatch.setattr(database, "monotonic_seconds", Ticks(0.0, took))
    full = Milliseconds(NOW + DURATION + late)
    row = await store.backend.acquire(ME, "me", NOW, DURATION)
    assert row == store.state()[0] == Lease(Epoch(1), ME, full, wanted=False)
    monkeypatch.setattr(database, "monotonic_seconds", Ticks(5.0, 5.0 + took))
    assert await store.backend.renew(row.epoch, NOW, DURATION) == store.state()[0] == row
    monkeypatch.setattr(database, "monotonic_seconds", Ticks(7.0, 7.0 + took))
    await store.backend.commit(row.epoch, [Row(A, b"value")], NOW, DURATION, alone=False)
    assert store.state()[0] == row


async def test_a_refused_acquisition_prolongs_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await hold(store)
    before, _ = store.state()
    monkeypatch.setattr(database, "monotonic_seconds", Ticks(0.0, 60.0))
    assert await store.backend.acquire(OTHER, "other", NOW, DURATION) == lease.want(before)
    assert store.state() == (lease.want(before), "me")


async def test_a_renewal_behind_a_long_commit_does_not_shorten_the_lease(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = await hold(store)
    time = Milliseconds(0)
    monkeypatch.setattr(database, "monotonic_seconds", lambda: time / 1000)
    monkeypatch.setattr(database, "BUSY_TIMEOUT_SECONDS", 60)
    stopped = Stopped(monkeypatch)
    commit = asyncio.create_task(store.backend.commit(epoch, [Row(A, b"value")], NOW, DURATION, alone=False))
    await stopped.reached.wait()
    renewal = asyncio.create_task(store.backend.renew(epoch, NOW, DURATION))
    await asyncio.sleep(0)
    time = Milliseconds(30_000)
    stopped.go_on()
    await asyncio.gather(commit, renewal)
    assert store.state()[0].expires == NOW + 30_000 + DURATION
    assert lease.acquire(store.state()[0], OTHER, Milliseconds(NOW + 30_001), DURATION) is None


# --------------------------------------------------------------------------------------------------------------------
# Cancellation


class Hops:
    """Counts the hops to the driver's thread, and does something before or after each."""

    def __init__(self, backend: SqliteBackend) -> None:
        self.number = 0
        self.before: Callable[[int], object] = lambda _: None
        self.after: Callable[[int], object] = lambda _: None
        backend._driver._execute = self._counted(backend._driver._execute)  # type: ignore[method-assign]

    def _counted(
        self, hop: Callable[P, Coroutine[object, object, object]]
    ) -> Callable[P, Coroutine[object, object, object]]:
        async def counted(*arguments: P.args, **keywords: P.kwargs) -> object:
            self.number += 1
            number = self.number
            self.before(number)
            # The driver queues the call before it first waits: a cancelled hop takes place all the same.
            try:
                return await hop(*arguments, **keywords)
            finally:
                self.after(number)

        return counted


Operation = Callable[[SqliteBackend], Awaitable[object]]
ROWS = [Row(A, b"new"), Row(B, None), Row(C, b"new")]
HOPS: dict[str, Operation] = {
    "commit": lambda backend: backend.commit(Epoch(1), ROWS, Milliseconds(NOW + 1), DURATION, alone=True),
    "commit-fails": lambda backend: backend.commit(Epoch(1), [*ROWS, bad_row()], NOW, DURATION, alone=True),
    "commit-fenced": lambda backend: backend.commit(Epoch(9), ROWS, NOW, DURATION, alone=True),
    "truncate": lambda backend: backend.truncate(Version(9)),
    "sealing": lambda backend: backend.sealing(b"header"),
    "keys": lambda backend: backend.keys(Epoch(1), "device", Version(0)),
}
SHORT: dict[str, Operation] = {
    "acquire": lambda backend: backend.acquire(ME, "again", NOW, DURATION),
    "acquire-refused": lambda backend: backend.acquire(OTHER, "other", NOW, DURATION),
    "renew": lambda backend: backend.renew(Epoch(1), Milliseconds(NOW + 1), DURATION),
    "release": lambda backend: backend.release(Epoch(1)),
}


async def prepared(path: Path) -> Store:
    """Make a store with two records whose lease is held. Its user closes it."""
    backend = await SqliteBackend.open(path)
    await backend._read("PRAGMA synchronous = OFF", {})
    store = Store(backend, path)
    await backend.acquire(ME, "me", NOW, DURATION)
    await backend.commit(Epoch(1), [Row(A, b"old"), Row(B, b"old")], NOW, DURATION, alone=False)
    return store


@pytest.mark.usefixtures("stopped_clock")
@pytest.mark.parametrize("who", ["caller", "caller-again-and-again", "everybody"])
@pytest.mark.parametrize("operation", HOPS.values(), ids=HOPS.keys())
async def test_cancelled_at_every_hop(tmp_path: Path, operation: Operation, who: str) -> None:
    """Whoever is cancelled, and wherever: the outcome is settled, all or nothing, and the backend goes on working.

    *Caller* is the task that called the method; *everybody* adds the tasks inside it, as the end of the loop does.
    """
    control = await prepared(tmp_path / "control")
    identity, before = f"X'{control.backend.identity.hex().upper()}'", control.dump()
    hops = Hops(control.backend)
    failed = isinstance((await asyncio.gather(operation(control.backend), return_exceptions=True))[0], Exception)
    after, count = control.dump(), hops.number
    assert count >= 1
    assert not failed or after == before
    await control.close()

    for number in range(1, count + 1):
        for moment in ("before", "after"):
            store = await prepared(tmp_path / f"{number}-{moment}")
            try:
                caller = asyncio.create_task(running(operation(store.backend)))
                hops = Hops(store.backend)
                setattr(hops, moment, partial(cancel, caller, number, who))
                with pytest.raises(asyncio.CancelledError):
                    await caller
                outcome = normal(store, identity)
                with store.locked():
                    pass  # Nobody is inside a transaction.
                assert not store.backend._driver.in_transaction
                assert outcome == after, "what was begun is carried out, and only then is the caller told"
                await store.backend.changes(Version(0), None)
                assert normal(store, identity) == outcome, "nothing comes after"
                await store.backend.acquire(ME, "me", NOW, DURATION)
                epoch = store.state()[0].epoch
                assert (await store.backend.commit(epoch, [Row(A, b"next")], NOW, DURATION, alone=False)).version >= 2
            finally:
                await store.close()


def cancel(caller: asyncio.Task[None], number: int, who: str, hop: int) -> None:
    if hop == number or (who == "caller-again-and-again" and hop > number):
        caller.cancel()
        current = asyncio.current_task()
        if who == "everybody" and current is not None and current is not caller:
            current.cancel()


async def running(operation: Awaitable[object]) -> None:
    await operation


def normal(store: Store, identity: str) -> Dump:
    """Dump the store as if its identity were the one that it is compared with."""
    return [line.replace(f"X'{store.backend.identity.hex().upper()}'", identity) for line in store.dump()]


async def test_even_then_the_caller_is_told_only_after_the_driver_is_done(store: Store) -> None:
    """Everybody is cancelled, again and again, before the driver's thread has even begun."""
    epoch = await hold(store)
    gate = threading.Event()
    store.backend._driver._tx.put_nowait((None, partial(gate.wait, 60)))
    commit = store.backend.commit(epoch, [Row(A, b"value")], NOW, DURATION, alone=False)
    caller = asyncio.create_task(running(commit))
    for _ in range(10):  # until it waits for the driver
        await asyncio.sleep(0)
    for _ in range(100):
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
    assert not caller.done()
    assert store.raw.execute("SELECT version FROM state").fetchone() == (0,)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    with store.locked():
        assert store.raw.execute("SELECT version FROM state").fetchone() == (1,)


@pytest.mark.parametrize("operation", SHORT.values(), ids=SHORT.keys())
async def test_cancelled_while_the_database_is_busy(tmp_path: Path, operation: Operation) -> None:
    store = await prepared(tmp_path / "store")
    try:
        before = store.dump()
        with store.locked():
            task = asyncio.create_task(running(operation(store.backend)))
            await asyncio.sleep(0)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert store.dump() == before
        await operation(store.backend)
        assert store.dump() != before
    finally:
        await store.close()


async def test_opening_cancelled_at_every_step(tmp_path: Path) -> None:
    """Cancelled later and later, until it gets through: the file is a store, or can still become one."""
    turns = 0
    while True:
        path = tmp_path / f"{turns}"
        task = asyncio.create_task(SqliteBackend.open(path))
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.done():
            await (await task).close()
            break
        task.cancel()
        result = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(result, SqliteBackend):
            await result.close()
        async with opened(path) as backend:
            await backend.acquire(ME, "me", NOW, DURATION)
        turns = turns * 2 + 1


async def test_closing_is_not_interrupted(store: Store) -> None:
    task = asyncio.create_task(store.backend.close())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(StoreClosed):
        await store.backend.check(Epoch(1))
    assert store.backend._driver._connection is None


# --------------------------------------------------------------------------------------------------------------------
# The file


async def test_the_durability_that_is_promised(store: Store) -> None:
    for pragma, value in (("journal_mode", "wal"), ("synchronous", 2), ("secure_delete", 1)):
        assert (await store.backend._read(f"PRAGMA {pragma}", {}))[0][0] == value


async def test_only_the_lease_is_written_without_waiting_for_the_disk(store: Store) -> None:
    assert store.backend._loop_connection.execute("PRAGMA synchronous").fetchone() == (1,)
    written: dict[str, list[str]] = {"durable": [], "here": []}
    await store.backend._driver.set_trace_callback(written["durable"].append)

    def write(statement: str) -> None:
        if "UPDATE" in statement:  # and not the question for the schema, which is a part of some
            written["here"].append(statement)

    store.backend._loop_connection.set_trace_callback(write)
    epoch = await hold(store)
    await store.backend.renew(epoch, NOW, DURATION)
    assert written["durable"] == []
    assert len(written["here"]) == 2
    await store.backend.commit(epoch, [Row(A, b"value")], NOW, DURATION, alone=False)
    await store.backend.truncate(Version(1))
    await store.backend.sealing(b"header")
    assert len(written["here"]) == 2
    assert written["durable"].count("COMMIT") == 3
    await store.backend.release(epoch)
    assert len(written["here"]) == 3


class Tidying:
    """Has each transaction tidy up, and does something at each statement and each pause of that."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.path = path
        self.statements: list[str] = []
        self.pauses: list[float] = []
        self.at_checkpoint: Callable[[], object] = lambda: None
        self.at_pause: Callable[[], object] = lambda: None
        self._rows = database.rows
        monkeypatch.setattr(checkpoints, "LONGEST_LOG_PAGES", 1)
        monkeypatch.setattr(database, "rows", self._note)
        monkeypatch.setattr(time, "sleep", self._pause)

    def _note(
        self, connection: sqlite3.Connection, statement: str, parameters: database.Parameters
    ) -> list[sqlite3.Row]:
        if "checkpoint" in statement:
            self.statements.append(statement)
            self.at_checkpoint()
        return self._rows(connection, statement, parameters)

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.at_pause()

    def writer(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, isolation_level=None, timeout=0, check_same_thread=False)


async def test_who_tidies_up_waits_for_who_writes_and_then_the_log_is_begun_anew(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = await hold(store)
    for _ in range(5):
        await store.backend.commit(epoch, [Row(A, b"value")], NOW, DURATION, alone=False)
    tidying, transaction = Tidying(monkeypatch, store.path), database.transaction
    with closing(tidying.writer()) as writer:

        def meet(work: Callable[[sqlite3.Connection], object], connection: sqlite3.Connection) -> object:
            """Another process begins to write as soon as the commit is made."""
            result = transaction(work, connection)
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("UPDATE state SET label = 'another'")
            return result

        tidying.at_pause = lambda: writer.execute("COMMIT")
        monkeypatch.setattr(database, "transaction", meet)
        await store.backend.commit(epoch, [Row(A, b"value")], NOW, DURATION, alone=False)
    assert tidying.pauses == [database.EAGER_PAUSE_SECONDS]
    assert tidying.statements == ["PRAGMA wal_checkpoint(PASSIVE)"]
    monkeypatch.undo()
    await store.backend.release(epoch)
    assert store.raw.execute("PRAGMA wal_checkpoint").fetchone() == (0, 1, 1), "one page was written since"


async def test_the_log_is_moved_only_while_nobody_can_begin_it_anew(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``wal-reset``: SQLite's race needs a commit of another connection in the middle of a checkpoint."""
    epoch = await hold(store)
    for connection in (store.backend._loop_connection, store.backend._driver._conn):
        assert connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
    tidying = Tidying(monkeypatch, store.path)
    refused: list[str] = []

    def meet() -> None:
        with closing(tidying.writer()) as writer, pytest.raises(sqlite3.OperationalError, match="locked"):
            writer.execute("BEGIN IMMEDIATE")
        refused.append("a writer")

    tidying.at_checkpoint = meet
    await store.backend.commit(epoch, [Row(A, b"value")], NOW, DURATION, alone=False)
    await store.backend.renew(epoch, NOW, DURATION)
    assert refused == ["a writer"] * 2, "after a commit, and where only the lease is written"
    assert set(tidying.statements) == {"PRAGMA wal_checkpoint(PASSIVE)"}
    with store.locked():
        pass  # and then it lets go


async def test_who_can_not_tidy_up_has_committed_all_the_same(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch = await hold(store)
    tidying = Tidying(monkeypatch, store.path)
    with closing(tidying.writer()) as reader:  # whose snapshot is older than the log
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM state").fetchall()
        done = await store.backend.commit(epoch, [Row(A, b"value")], NOW, DURATION, alone=False)
        assert done == Committed(Version(1), wanted=False, released=False)
    assert sum(tidying.pauses) == pytest.approx(database.EAGER_SECONDS), "then it gives up"

    def fail() -> None:
        raise sqlite3.OperationalError("disk I/O error")

    tidying.at_checkpoint = fail
    done = await store.backend.commit(epoch, [Row(A, b"value")], NOW, DURATION, alone=False)
    assert done == Committed(Version(2), wanted=False, released=False)
    with store.locked():
        pass


async def test_a_lease_that_changes_hands_again_and_again_does_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nobody ever commits: then the lease's own writes tidy up."""
    monkeypatch.setattr(checkpoints, "LONGEST_LOG_PAGES", 20)
    async with opened(tmp_path / "store") as backend:
        for _ in range(100):
            await backend.release((await backend.acquire(ME, "me", NOW, DURATION)).epoch)
        assert (tmp_path / "store-wal").stat().st_size < 25 * 4200


async def test_old_values_leave_the_file(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = Store(await SqliteBackend.open(path), path)
    epoch = await hold(store)
    old = [Row(A, b"ratchet state of old" * 40), Row(B, b"deleted ratchet" * 400)]
    await store.backend.commit(epoch, old, NOW, DURATION, alone=False)
    store.raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert "ratchet" in text(path)
    await store.backend.commit(epoch, [Row(A, b"new"), Row(B, None)], NOW, DURATION, alone=False)
    await store.close()
    assert names_in(tmp_path) == ["store"]
    assert "ratchet" not in text(path)


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def text(path: Path) -> str:
    return path.read_bytes().decode("latin-1")


@pytest.fixture
def careless_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.usefixtures("careless_umask")
@pytest.mark.parametrize("exists", [False, True])
async def test_only_the_owner_can_read_a_new_store(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "folder" / "store"
    path.parent.mkdir(0o755)
    if exists:
        path.touch(0o666)
    async with opened(path) as backend:
        await backend.acquire(ME, "me", NOW, DURATION)
        assert {file.name: mode(file) for file in path.parent.iterdir()} == {
            "store": 0o600, "store-wal": 0o600, "store-shm": 0o600
        }  # fmt: skip
    assert mode(path.parent) == 0o755


async def test_the_permissions_of_a_store_are_its_owners_choice(tmp_path: Path) -> None:
    path = tmp_path / "store"
    await open_and_close(path)
    path.chmod(0o640)
    await open_and_close(path)
    assert mode(path) == 0o640


async def unchanged(path: Path, error: type[Exception]) -> None:
    """Check that opening ``path`` fails by this name, and leaves the folder as it was."""
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(error):
        await open_and_close(path)
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


@pytest.mark.parametrize("content", [b"xy", b"Some notes of mine.\n" * 200, b"SQLite format 3\x00" + bytes(4080)])
async def test_a_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "store").write_bytes(content)
    await unchanged(tmp_path / "store", NotAStore)


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE mine (x)",
        "PRAGMA user_version = 1",
        "PRAGMA application_id = 7",
        f"PRAGMA application_id = {schema.APPLICATION_ID}",
        f"PRAGMA application_id = {schema.APPLICATION_ID}; PRAGMA user_version = -1",
    ],
)
async def test_a_database_of_somebody_else(tmp_path: Path, script: str) -> None:
    with closing(sqlite3.connect(tmp_path / "store")) as connection:
        connection.executescript(script)
    await unchanged(tmp_path / "store", NotAStore)


@pytest.mark.parametrize("damage", ["DELETE FROM state", "DELETE FROM header", "DROP TABLE state", "DROP TABLE header"])
async def test_a_store_without_its_heart(tmp_path: Path, damage: str) -> None:
    await open_and_close(tmp_path / "store")
    with closing(sqlite3.connect(tmp_path / "store", isolation_level=None)) as connection:
        connection.execute(damage)
    await unchanged(tmp_path / "store", NotAStore)


async def test_a_newer_schema(tmp_path: Path) -> None:
    await open_and_close(tmp_path / "store")
    with closing(sqlite3.connect(tmp_path / "store")) as connection:
        connection.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    await unchanged(tmp_path / "store", UnsupportedSchema)


async def test_an_older_schema_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store"
    store = await prepared(path)
    await store.close()
    monkeypatch.setattr(
        schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE later (x)", "CREATE TABLE state (x)"))
    )
    await unchanged(path, NotAStore)  # It fails half way, and is undone.
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS[:1], ("ALTER TABLE state ADD COLUMN later INTEGER",)))
    async with opened(path) as backend:
        assert (await backend._read("PRAGMA user_version", {}))[0][0] == 2
        assert (await backend._read("SELECT later FROM state", {}))[0][0] is None
        epoch = await acquired(backend)
        assert epoch == 3, "the migration took one, so that older programs are fenced off"
        assert (await backend.load(epoch, A, Version(0))).value == b"old"
    monkeypatch.undo()
    await unchanged(path, UnsupportedSchema)


COMPATIBLE = ("ALTER TABLE state ADD COLUMN later INTEGER",)
INCOMPATIBLE = ("ALTER TABLE state RENAME TO states", "CREATE VIEW state AS SELECT NULL AS epoch, NULL AS holder")


def migrate(store: Store, statements: tuple[str, ...]) -> None:
    """Do what a newer program does when it opens the store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, statements))
        if statements is INCOMPATIBLE:
            patch.setattr(schema, "FENCE_OFF", "UPDATE states SET epoch = epoch + 1, holder = NULL")
        upgrade = schema.upgrade(1)
    store.raw.execute("BEGIN IMMEDIATE")
    for statement in upgrade:
        store.raw.execute(statement)
    store.raw.execute("COMMIT")


ACCESSES: dict[str, Operation] = HOPS | SHORT | {
    "look": lambda backend: backend.look(),
    "check": lambda backend: backend.check(Epoch(1)),
    "sync": lambda backend: backend.changes(Version(0), Epoch(1)),
    "listen": lambda backend: backend.changes(Version(0), None),
    "load": lambda backend: backend.load(Epoch(1), A, Version(0)),
    "reseal": lambda backend: backend.reseal(b"old", b"new"),
}  # fmt: skip


@pytest.mark.parametrize("statements", [COMPATIBLE, INCOMPATIBLE], ids=["compatible", "incompatible"])
@pytest.mark.parametrize("access", [name for name in ACCESSES if name not in {"release", "commit-fails"}])
async def test_a_store_that_a_newer_program_migrates_is_closed_to_an_older_one(
    tmp_path: Path, access: str, statements: tuple[str, ...]
) -> None:
    """``schema-moves-on``: every access is refused by name, and changes nothing.

    A look at a lease row that is as it was is not. Looks are very frequent, and a process that then asks is refused.
    """
    store = await prepared(tmp_path / "store")
    try:
        migrate(store, statements)
        before = store.dump()
        if (access, statements) == ("look", COMPATIBLE):
            assert (await store.backend.look()).holder is None
            access = "acquire"
        with pytest.raises(UnsupportedSchema, match="version 2"):
            await ACCESSES[access](store.backend)
        assert store.dump() == before
        with store.locked():
            pass
    finally:
        await store.close()


async def test_a_migration_takes_the_lease_away(store: Store) -> None:
    epoch = await hold(store)
    migrate(store, COMPATIBLE)
    row, _ = store.state()
    assert (row.epoch, row.holder) == (epoch + 1, None)
    await store.backend.release(epoch)  # which is refused nothing, and changes nothing
    assert store.state()[0] == row


async def test_places_where_no_store_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path, tmp_path / "nowhere" / "store", tmp_path / "file" / "store"):
        with pytest.raises(StorageFailed):
            await open_and_close(place)
    assert names_in(tmp_path) == ["file"]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Make a store that is not open."""

    async def make() -> None:
        store = await prepared(tmp_path / "whole")
        await store.close()

    asyncio.run(make())
    return tmp_path / "whole"


@settings(on_a_file, max_examples=150)
@given(st.integers(0, 2**16), st.integers(1, 255))
def test_a_damaged_file_is_never_believed(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, place: int, flip: int
) -> None:
    """Any byte of the file, structure included: what happens has a name."""
    path = tmp_path_factory.mktemp("damaged") / "store"
    content = bytearray(whole.read_bytes())
    used = [position for position, byte in enumerate(content) if byte]
    content[used[place % len(used)]] ^= flip
    path.write_bytes(content)

    async def use() -> None:
        backend = await SqliteBackend.open(path)
        try:
            row = await backend.acquire(ME, "me", NOW, DURATION)
            await backend.keys(row.epoch, "device", Version(0))
            loaded = await backend.load(row.epoch, A, Version(0))
            assert isinstance(loaded.value, bytes | None)
            await backend.changes(Version(0), None)
            await backend.commit(row.epoch, ROWS, NOW, DURATION, alone=False)
        finally:
            await backend.close()

    with suppress(NotAStore, StorageFailed, UnsupportedSchema, LeaseLost):
        asyncio.run(use())


async def test_a_new_file_that_another_process_is_opening_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new.store"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")  # as that process does, to make the tables
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        other.rollback()

    monkeypatch.setattr(time, "sleep", pause)
    backend = await SqliteBackend.open(path)
    assert pauses
    await backend.close()
    other.close()


@pytest.mark.parametrize("commit", [0.0005, 0.005, 0.02, 0.05])
def test_who_waits_for_the_write_lock_is_heard_beside_whoever_commits_again_and_again(
    monkeypatch: pytest.MonkeyPatch, commit: float
) -> None:
    """Between two of its commits the lock is free for a fifth of a millisecond; a try takes a twentieth."""
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
