"""A guard's cache keeps its limit, and forgets the records that were used least recently."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.store.stores import COUNTER, DEVICE, KINDS, Counter, Workbench, count_up, take_over, workbench
from unwedged.protocol import cache as rules
from unwedged.protocol.cache import Change, ChangeLog, empty
from unwedged.protocol.identifiers import Epoch, Version
from unwedged.store import CryptoStore, InvalidArgument
from unwedged.store.guarded_cache import OVERHEAD_BYTES, GuardedCache, Ledger, RecordName

NAMES = [RecordName("device", key) for key in (b"", b"b", b"a long key", b"d")]
LIMIT = 2 * OVERHEAD_BYTES + 300

names = st.sampled_from(NAMES)
values = st.none() | st.binary(max_size=400)


# P2.16, P2.17
class BoundedCache(RuleBasedStateMachine):
    """The model is a cache that forgets nothing, and the order in which records were used."""

    def __init__(self) -> None:
        super().__init__()
        self.guarded = GuardedCache(Epoch(1), empty(Version(0)), {}, Ledger(LIMIT))
        self.known: dict[RecordName, bytes | None] = {}
        """The records that were ever cached and are unchanged in the store, in the order of their last use."""

    def used(self, name: RecordName, value: bytes | None) -> None:
        self.known.pop(name, None)
        self.known[name] = value

    @rule(name=names, value=values)
    def fill(self, name: RecordName, value: bytes | None) -> None:
        if name not in self.guarded.cache.records:
            self.used(name, self.known.get(name, value))
            self.guarded.fill(self.guarded.cache.version, name, self.known[name])

    @rule(name=names, value=values)
    def fill_too_late(self, name: RecordName, value: bytes | None) -> None:
        self.guarded.fill(Version(self.guarded.cache.version - 1), name, value)

    @rule(writes=st.dictionaries(names, values, min_size=1), live=st.sets(names))
    def install(self, writes: dict[RecordName, bytes | None], live: set[RecordName]) -> None:
        objects = {name: object() for name, value in writes.items() if name in live and value is not None}
        self.guarded.install(Version(self.guarded.cache.version + 1), writes, objects)
        for name, value in writes.items():
            self.used(name, value)

    @rule(names=st.sets(names, min_size=1))
    def leave_out(self, names: set[RecordName]) -> None:
        version = Version(self.guarded.cache.version + 1)
        self.guarded.leave_out(version, names)
        assert self.guarded.cache.version == version
        assert not names & set(self.guarded.cache.records)
        for name in names:
            self.known.pop(name, None)

    @rule(name=names, version=st.integers(0, 100))
    def install_another_version(self, name: RecordName, version: int) -> None:
        cache, live = self.guarded.cache, dict(self.guarded.live)
        if version != cache.version + 1:
            self.guarded.install(Version(version), {name: b"wrong"}, {name: object()})
            assert self.guarded.cache is cache
            assert self.guarded.live == live

    @rule(name=names)
    def read(self, name: RecordName) -> None:
        self.guarded.use(name)
        if name in self.guarded.cache.records:
            self.used(name, self.known[name])

    @rule(name=names)
    def take(self, name: RecordName) -> None:
        had = name in self.guarded.live
        assert (self.guarded.take(name) is not None) == had
        assert self.guarded.take(name) is None
        if had:
            self.used(name, self.known[name])

    @rule(changed=st.sets(names), reaches=st.booleans())
    def sync(self, changed: set[RecordName], reaches: bool) -> None:
        old = self.guarded
        version = Version(old.cache.version + 1)
        log = ChangeLog(version, Version(0) if reaches else version, tuple(Change(version, name) for name in changed))
        before = old.cache
        self.guarded = old.successor(Epoch(old.epoch + 1), log, rules.sync(old.cache, log))
        for name in NAMES:  # by an operation of the dead guard
            old.use(name)
            assert old.take(name) is None
        assert old.cache == before
        assert old.ledger is None
        for name in changed if reaches else set(self.known):
            self.known.pop(name, None)

    @invariant()
    def it_is_within_the_limit(self) -> None:
        assert self.weight() <= LIMIT

    @invariant()
    def what_it_counts_is_what_there_is(self) -> None:
        ledger = self.guarded.ledger
        assert ledger is not None
        assert ledger.bytes == self.weight()

    @invariant()
    def what_it_has_is_true(self) -> None:
        assert all(self.known[name] == value for name, value in self.guarded.cache.records.items())
        assert set(self.guarded.live) <= set(self.guarded.cache.records)

    @invariant()
    def what_goes_was_not_used_for_longest(self) -> None:
        """Check that each cached record was used after all forgotten ones, which do not return by themselves."""
        there = [name in self.guarded.cache.records for name in self.known]
        assert there == sorted(there)

    def weight(self) -> int:
        return sum(
            OVERHEAD_BYTES + len(name.key) + len(value or b"") * (2 if name in self.guarded.live else 1)
            for name, value in self.guarded.cache.records.items()
        )


TestBoundedCache = BoundedCache.TestCase


# P2.5, P2.16
@given(
    known=st.dictionaries(names, st.binary(max_size=100), min_size=1),
    with_objects=st.sets(names),
    changed=st.sets(names),
    reaches=st.booleans(),
)
def test_what_the_next_guard_drops_is_no_longer_counted(
    known: dict[RecordName, bytes], with_objects: set[RecordName], changed: set[RecordName], reaches: bool
) -> None:
    """The promise holds whether any live object is left or not."""
    guarded = GuardedCache(Epoch(1), empty(Version(0)), {}, Ledger(10 * OVERHEAD_BYTES))
    guarded.install(Version(1), known, {name: object() for name in with_objects & known.keys()})
    log = ChangeLog(Version(2), Version(0 if reaches else 2), tuple(Change(Version(2), name) for name in changed))
    after = guarded.successor(Epoch(2), log, rules.sync(guarded.cache, log))
    kept = known.keys() - changed if reaches else set()
    assert set(after.cache.records) == kept
    assert set(after.live) == with_objects & kept
    assert after.ledger is not None
    assert after.ledger.bytes == sum(
        OVERHEAD_BYTES + len(name.key) + len(known[name]) * (1 + (name in with_objects)) for name in kept
    )


class TestRoom:
    @given(st.lists(st.tuples(names, st.binary(max_size=100)), min_size=1, unique_by=lambda record: record[0]))
    def test_nothing_goes_while_there_is_room(self, records: list[tuple[RecordName, bytes]]) -> None:
        guarded = GuardedCache(Epoch(1), empty(Version(0)), {}, Ledger(4 * (OVERHEAD_BYTES + 110)))
        for name, value in records:
            guarded.fill(Version(0), name, value)
        assert dict(guarded.cache.records.items()) == dict(records)

    def test_a_record_larger_than_the_limit_is_not_kept(self) -> None:
        ledger = Ledger(OVERHEAD_BYTES)
        guarded = GuardedCache(Epoch(1), empty(Version(0)), {}, ledger)
        guarded.fill(Version(0), NAMES[1], b"value")
        assert not guarded.cache.records
        assert (ledger.bytes, ledger.records_forgotten) == (0, 1)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Workbench]:
    async with workbench(tmp_path / "store.db") as made:
        yield made


class TestInAStore:
    async def test_what_was_forgotten_is_loaded_again(self, bench: Workbench) -> None:
        store = await bench.instance("phone", cache_limit_bytes=2 * (OVERHEAD_BYTES + 10))
        for key in "abcabc":
            await store.run(count_up, key)
            bench.assert_cache_is_snapshot(store)
        statistics = store.statistics()
        assert (statistics.cached_records, statistics.records_forgotten) == (2, 4)
        assert statistics.cached_bytes == 2 * (OVERHEAD_BYTES + 3)
        assert statistics.misses == 6, "each time it was the one that was forgotten"
        assert {name.key: value for name, value in bench.stored().items()} == dict.fromkeys((b"a", b"b", b"c"), b"2")

    async def test_what_an_operation_has_read_stays_with_it(self, bench: Workbench) -> None:
        store = await bench.instance("phone", cache_limit_bytes=0)
        await take_over(store)
        async with store.transaction() as transaction:
            counter = Counter(1)
            transaction.put(COUNTER, "a", counter)
            transaction.put(DEVICE, "d", b"device")
        assert store.statistics().cached_records == store.statistics().live_objects == 0
        async with store.transaction() as transaction:
            found = await transaction.get(COUNTER, "a")
            assert found is not None
            assert found is not counter
            assert await transaction.get(DEVICE, "d") == b"device"
            assert await transaction.get(COUNTER, "a") is found
            found.count = 7
            transaction.put(COUNTER, "a", found)
        async with store.view() as view:
            loads = store.gated.calls.count("load")
            for _ in range(2):
                assert await view.get(DEVICE, "d") == b"device"
            assert store.gated.calls.count("load") == loads + 1
        assert {name.key: value for name, value in bench.stored().items()} == {b"a": b"7", b"d": b"device"}

    async def test_reading_counts_as_use(self, bench: Workbench) -> None:
        store = await bench.instance("phone", cache_limit_bytes=2 * (OVERHEAD_BYTES + 10))
        for key in "ab":
            await store.run(count_up, key)
        await store.query(lambda view: view.get(COUNTER, "a"))
        await store.run(count_up, "c")
        assert [name.key for name in store.lock.guarded.cache.records] in ([b"a", b"c"], [b"c", b"a"])

    @pytest.mark.parametrize("limit", [-1, True, 1.5, "1 MB"])
    async def test_another_limit_is_refused_and_nothing_is_made(self, tmp_path: Path, limit: object) -> None:
        with pytest.raises(InvalidArgument, match="limit of a cache"):
            await CryptoStore.open(
                tmp_path / "store.db",
                key=bytes(32),
                label="phone",
                kinds=KINDS,
                cache_limit_bytes=limit,  # type: ignore[arg-type]  # the wrong type is intended
            )
        assert not (tmp_path / "store.db").exists()

    async def test_where_there_is_none_nothing_is_counted(self, bench: Workbench) -> None:
        store = await bench.instance("phone")
        await store.run(count_up)
        assert store.statistics().cached_bytes is None
        assert store.statistics().records_forgotten == 0
