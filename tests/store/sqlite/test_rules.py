"""The SQL agrees with the pure rules: for each access, and for any sequence of accesses."""

from __future__ import annotations

import re
from collections.abc import Coroutine
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

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

from tests.store.sqlite.backends import DURATION, ME, NOW, OTHER, A, B, C, Run, Ticks
from unwedged.protocol import cache, lease
from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds, Version
from unwedged.protocol.lease import LONGEST_LEASE_MS, Lease
from unwedged.store import database, statements
from unwedged.store.backend import Committed, Listed, Loaded, Row, RowName
from unwedged.store.errors import LeaseLost, StorageFailed, StoreRolledBack

on_a_file = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
"""Defined here and not in a module that ``conftest.py`` imports, since no Hypothesis profile is chosen at that time."""

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


# P4.1, P4.2, P16.1
@pytest.mark.usefixtures("stopped_clock")
class TestTheSqlIsTheRules:
    # P1.2, P1.3
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

    # P1.7
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

    # P8.18
    @on_a_file
    @given(rows_and_clocks(), epochs)
    def test_release(self, run: Run, state: tuple[Lease, Milliseconds], epoch: Epoch) -> None:
        row, _ = state
        run.store.reset(row, "before")
        run.runner.run(run.backend.release(epoch))
        assert run.store.state() == (lease.release(row, epoch) or row, "before")

    # P5.16, P5.17
    @on_a_file
    @given(rows_and_clocks(), epochs, durations, st.booleans())
    def test_commit(
        self, run: Run, state: tuple[Lease, Milliseconds], epoch: Epoch, duration: Milliseconds, may_release: bool
    ) -> None:
        row, now = state
        run.store.reset(row, "before")
        before = run.store.dump()
        expected = lease.commit(row, epoch, now, duration, may_release)
        final = row if expected is None else expected
        with refused(fence=expected is None):
            commit = run.backend.commit(epoch, [Row(A, b"value")], now, duration, may_release=may_release)
            result = run.runner.run(commit)
            assert result == Committed(Version(1), row.wanted, row.wanted and may_release, duration)
        assert run.store.state() == (final, "before")
        assert (run.store.dump() == before) == (expected is None)

    # P8.21
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
            assert run.runner.run(run.backend.load(epoch, A, since)) == Loaded(
                Version(0), None, changed=False, floor=Version(0)
            )
        with refused(fence=not passes):
            assert run.runner.run(run.backend.keys(epoch, "device", since)) == Listed(Version(0), (), changed=False)
        run.runner.run(run.backend.changes(since, None))
        assert run.store.dump() == before


def refused(*, fence: bool) -> AbstractContextManager[object]:
    return pytest.raises(LeaseLost) if fence else nullcontext()


LIMIT = 2**63
"""SQLite's integers are at least -LIMIT and less than LIMIT."""
whole_numbers = st.integers(-LIMIT, LIMIT - 1)
edges = st.sampled_from([-LONGEST_LEASE_MS - 1, -LONGEST_LEASE_MS, -1, 0, 1])
times = st.tuples(st.booleans(), edges | whole_numbers)
"""Whether the time is relative to the end of the lease, and the offset. So clocks jump both ways from call to call."""
lates = st.sampled_from([0, 0, 125, 1_000, 60_000])
steps_from_here = st.sampled_from([0, 0, 0, 0, 0, 0, -1, 1])
versions_back = st.sampled_from([0, 0, 1, 1, 2, 3, -1])
many_epochs = st.integers(0, 3) | st.integers(LIMIT - 3, LIMIT - 1)
many_instances = st.sampled_from([ME, OTHER, InstanceId(LIMIT - 1), InstanceId(-1)])
labels = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3)
records = st.sampled_from([A, B, C])
written = st.lists(st.builds(Row, records, st.none() | st.binary(max_size=3)), max_size=3)


class SqlAndRules(RuleBasedStateMachine):
    """After any calls by any instances at any times, the row, the records and the change log agree with the rules."""

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

    @rule(step=steps_from_here, rows=written, time=times, duration=durations, may_release=st.booleans(), late=lates)
    def commit(
        self, step: int, rows: list[Row], time: tuple[bool, int], duration: Milliseconds, may_release: bool, late: int
    ) -> None:
        epoch, now, version = self.epoch(step), self.at(time), Version(self.version + 1)
        row = self.in_full(lease.commit(self.row, epoch, now, duration, may_release), duration, late)
        done = Committed(version, self.row.wanted, self.row.wanted and may_release, duration)
        if self.write(self.backend.commit(epoch, rows, now, duration, may_release=may_release), row, done):
            self.version = version
            self.log |= {(version, each.name) for each in rows}
            self.records |= {each.name: each.value for each in rows if each.value is not None}
            last = {each.name: each.value for each in rows}
            self.records = {name: value for name, value in self.records.items() if last.get(name, value) is not None}

    @rule(back=versions_back)
    def truncate(self, back: int) -> None:
        self.truncate_at(Version(self.version - back))

    @precondition(lambda self: self.version % 4 == 3)  # It is rare, since it removes everything or nothing.
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
            loaded = Loaded(self.version, self.records.get(name), changed, self.floor)
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
        """Return the lease after a transaction of this length: from half a lease on, the lease counts from the end."""
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


# P0.2, P1.9, P16.1
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
    ("ADVANCE", "wanted AND :may_release", "wanted"),
    ("ADVANCE", "wanted AND :may_release", ":may_release"),
    ("ADVANCE", "iif(wanted AND :may_release, NULL, holder)", "holder"),
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
    header = {"SEALING", "SEAL", "RESEAL", "HOLDER"}  # not part of the rules: see tests/store/test_secrets.py
    assert {name for name, _, _ in BROKEN_STATEMENTS} == texts - parts - header


# P13.10, P16.1
@pytest.mark.parametrize(("name", "old", "new"), BROKEN_STATEMENTS)
def test_a_broken_statement_is_found(
    sql_and_rules: type[RuleBasedStateMachine], monkeypatch: pytest.MonkeyPatch, name: str, old: str, new: str
) -> None:
    statement: str = getattr(statements, name)
    assert old in statement
    monkeypatch.setattr(statements, name, statement.replace(old, new))
    few = settings(max_examples=3000, stateful_step_count=20, phases=[Phase.generate], report_multiple_bugs=False)
    # A version that is read too low is noticed by the backend itself (P18.10).
    with pytest.raises((AssertionError, StoreRolledBack)):
        run_state_machine_as_test(sql_and_rules, settings=few)


names = st.sampled_from([A, B, C, RowName("session", b"")])
commits = st.lists(st.builds(Row, names, st.none() | st.binary(max_size=3)), max_size=4)
steps = st.lists(commits | st.integers(-1, 9).map(Version), max_size=8)


# P4.6, P4.10, P4.16, P5.18, P13.5, P13.6
@on_a_file
@given(steps)
def test_records_and_change_log(run: Run, steps: list[list[Row] | Version]) -> None:
    """The model is a dictionary and a list; a step is a commit or a truncation."""
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
        assert go(backend.commit(epoch, step, NOW, DURATION, may_release=False)) == Committed(
            version, wanted=False, released=False, left_ms=DURATION
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
            assert go(backend.load(epoch, name, since)) == Loaded(version, records.get(name), changed, floor)
        for kind in ("device", "session", "unheard of"):
            keys = tuple(sorted(name.key for name in records if name.kind == kind))
            changed = unsure or any(line[1].kind == kind for line in later)
            assert go(backend.keys(epoch, kind, since)) == Listed(version, keys, changed)
