"""During a large commit the event loop runs, the lease is renewed, and a competing process does not stop the commit.

The time for which the loop is blocked is not measured. Instead, the records that are handled at once on the loop's
thread are counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections import Counter as Tally
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from tests.store.stores import (
    COUNTER,
    DEVICE,
    KEY,
    KINDS,
    PLAIN,
    Counter,
    Instance,
    Workbench,
    count_up,
    take_over,
)
from unwedged.protocol import cache as rules
from unwedged.protocol.identifiers import Epoch, Milliseconds, Version
from unwedged.store import TEXT, Codec, CryptoStore, LeaseLost, LeaseTimes, RecordKind, Transaction, offloading
from unwedged.store.backend import Row
from unwedged.store.guarded_cache import GuardedCache, Ledger, RecordName
from unwedged.store.offloading import FEW_RECORDS, LARGEST_COMMIT_RECORDS, SLICE_RECORDS
from unwedged.store.sealer import Sealer

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

MANY = 3 * FEW_RECORDS
PATIENCE = 30
"""Seconds after which a wait counts as hanging."""
NEVER = Milliseconds(10**9)
REPOSITORY = Path(__file__).parents[2]


class Strain:
    """Counts the records that are handled on the event loop's thread between two iterations of the loop."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.iterations = 0
        self.here: Tally[tuple[str, int]] = Tally()
        self.elsewhere: Tally[str] = Tally()
        self._patch = patch
        self._loop = threading.get_ident()

    def watch(self, owner: object, name: str) -> None:
        """Count the calls of a function."""
        self._patch.setattr(owner, name, self._counted(name, getattr(owner, name)))

    def _counted(self, name: str, watched: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        def counted(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
            self.count(name)
            return watched(*arguments, **named)

        return counted

    def count(self, name: str) -> None:
        if threading.get_ident() == self._loop:
            self.here[name, self.iterations] += 1
        else:
            self.elsewhere[name] += 1

    def longest(self, name: str) -> int:
        return max((count for (counted, _), count in self.here.items() if counted == name), default=0)

    async def keep_iterating(self) -> None:
        while True:
            self.iterations += 1
            await asyncio.sleep(0)


@pytest.fixture
async def strain(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Strain]:
    made = Strain(monkeypatch)
    for name in ("hide", "seal", "reveal"):
        made.watch(Sealer, name)
    for name in ("install", "sync"):
        made.watch(rules, name)
    iterating = asyncio.create_task(made.keep_iterating())
    yield made
    iterating.cancel()


async def put_many(transaction: Transaction, count: int = MANY, start: int = 0) -> None:
    for number in range(start, start + count):
        transaction.put(DEVICE, f"device {number}", b"%d" % number)


class TestTheLoopGoesOn:
    @pytest.fixture(params=[None, 10**9], ids=["whatever is cached", "with a limit for the cache"])
    def limit(self, request: pytest.FixtureRequest) -> int | None:
        limit: int | None = request.param
        return limit

    @pytest.fixture
    async def phone(self, bench: Workbench, limit: int | None) -> Instance:
        return await bench.instance("phone", cache_limit_bytes=limit)

    @pytest.fixture
    async def extension(self, bench: Workbench, limit: int | None) -> Instance:
        return await bench.instance("extension", cache_limit_bytes=limit)

    async def test_while_many_records_are_committed(
        self, bench: Workbench, phone: Instance, strain: Strain, limit: int | None
    ) -> None:
        for start in range(0, MANY, FEW_RECORDS):
            await phone.run(put_many, FEW_RECORDS, start)
        assert phone.statistics().cached_records == MANY
        for owner, name in ((Ledger, "count"), (Ledger, "drop"), (rules, "forget")):
            strain.watch(owner, name)
        strain.here.clear()
        strain.elsewhere.clear()
        before = strain.iterations
        await phone.run(put_many)
        assert strain.iterations >= before + MANY // FEW_RECORDS
        here = {name for name, _ in strain.here}
        if limit is None:
            assert not here, "nothing was sealed or installed on the loop's thread"
            assert strain.elsewhere == {"hide": MANY, "seal": MANY, "install": 1}
        else:
            assert here == {"drop", "forget", "install"}
            assert strain.longest("drop") == strain.longest("forget") == FEW_RECORDS
            assert strain.elsewhere == {"hide": MANY, "seal": MANY}
        assert phone.statistics().cached_records == (MANY if limit is None else 0)
        bench.assert_cache_is_snapshot(phone)

    async def test_between_the_slices_that_codecs_encode(self, bench: Workbench, strain: Strain) -> None:
        def encode(number: int) -> bytes:
            strain.count("encode")
            return b"%d" % number

        kind = RecordKind("number", TEXT, Codec[int](encode, int))
        path = bench.path.with_name("other.db")
        async with await CryptoStore.open(path, key=KEY, label="one", kinds=[kind]) as store, store.transaction() as t:
            for number in range(MANY + 1):
                t.put(kind, str(number), number)
        assert strain.here.total() - strain.longest("encode") > MANY - FEW_RECORDS
        assert strain.longest("encode") == FEW_RECORDS

    async def test_while_a_sync_hears_of_many_changes(
        self, phone: Instance, extension: Instance, strain: Strain
    ) -> None:
        await phone.run(put_many)
        await phone.lock.release_now()
        await extension.run(put_many)
        await extension.lock.release_now()
        strain.elsewhere.clear()
        await take_over(phone)
        assert strain.longest("reveal") == 0
        assert strain.elsewhere == {"reveal": MANY, "sync": 1}
        assert phone.statistics().cached_records == 0

    async def test_while_a_subscriber_listens_to_many_changes(
        self, phone: Instance, extension: Instance, strain: Strain
    ) -> None:
        async with phone.subscribe(DEVICE, buffered_changes=MANY) as changes:
            await extension.run(put_many)
            await phone._publish_foreign_commits()
            heard = {(await anext(changes)).version for _ in range(MANY)}
        assert heard == {1}
        assert strain.longest("reveal") == 0
        assert strain.elsewhere["reveal"] == MANY

    async def test_while_many_keys_are_listed(self, phone: Instance, strain: Strain) -> None:
        await phone.run(put_many)
        async with phone.view() as view:
            assert len(await view.keys(DEVICE)) == MANY
        assert strain.longest("reveal") == 0
        assert strain.elsewhere["reveal"] == MANY

    async def test_few_records_are_not_worth_a_thread(
        self, phone: Instance, extension: Instance, strain: Strain
    ) -> None:
        await phone.run(lambda transaction: put_many(transaction, FEW_RECORDS))
        await phone.lock.release_now()
        await take_over(extension)
        assert strain.elsewhere.total() == 0
        assert strain.longest("seal") == strain.longest("reveal") == FEW_RECORDS

    async def test_a_slice_in_a_thread_has_an_end(self, phone: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
        """A program that exits waits for its threads."""
        slices: list[int] = []
        to_thread = asyncio.to_thread

        async def noted(
            work: Callable[Arguments, list[Row]], *arguments: Arguments.args, **named: Arguments.kwargs
        ) -> list[Row]:
            made = await to_thread(work, *arguments, **named)
            if len(arguments) == 2:  # Slices get two arguments; work in one go does not.
                slices.append(len(made))
            return made

        await take_over(phone)
        monkeypatch.setattr(asyncio, "to_thread", noted)
        sealed = await phone._services.records.seal(
            {RecordName("device", b"%d" % n): b"" for n in range(SLICE_RECORDS + 1)}
        )
        assert slices == [SLICE_RECORDS, 1]
        assert len(sealed.rows) == SLICE_RECORDS + 1
        assert list(sealed.rows) == sorted(sealed.rows, key=lambda row: row.name)


class Held:
    """Blocks sealing in a thread until ``go_on`` is set."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.reached = asyncio.Event()
        self.go_on = threading.Event()
        self._loop = asyncio.get_running_loop()
        seal = Sealer.seal

        def slowly(sealer: Sealer, kind: str, key: bytes, value: bytes) -> bytes:
            self._loop.call_soon_threadsafe(self.reached.set)
            assert self.go_on.wait(PATIENCE)
            return seal(sealer, kind, key, value)

        patch.setattr(Sealer, "seal", slowly)


@pytest.fixture
async def held(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Held]:
    made = Held(monkeypatch)
    yield made
    made.go_on.set()


class TestTheLease:
    # P5.13, P5.14
    async def test_is_renewed_while_many_records_are_sealed(self, bench: Workbench, held: Held) -> None:
        phone = await bench.instance("phone", times=LeaseTimes(idle_after_ms=NEVER))
        await take_over(phone)
        phone._lock.start()
        committing = asyncio.create_task(phone.run(put_many))
        await held.reached.wait()
        for renewals in range(1, 6):
            await phone.clock.asleep(1 + renewals)
            gate = phone.gated.hold_after("renew")
            phone.clock.advance(phone._lock.times.renew_every_ms)
            await gate.reached.wait()
            gate.opened.set()
        assert "commit" not in phone.gated.calls
        held.go_on.set()
        await committing
        assert phone.statistics().reruns == 0

    # P8.27
    async def test_is_not_renewed_beside_the_commit_which_does_that(self, bench: Workbench) -> None:
        phone = await bench.instance("phone", times=LeaseTimes(idle_after_ms=NEVER))
        await take_over(phone)
        phone._lock.start()
        gate = phone.gated.hold_before("commit")
        committing = asyncio.create_task(phone.run(count_up))
        await gate.reached.wait()
        await phone.clock.asleep(2)
        slept = len(phone.clock.slept)
        phone.clock.advance(phone._lock.times.renew_every_ms)
        await phone.clock.asleep(slept + 1)
        assert "renew" not in phone.gated.calls
        gate.opened.set()
        await committing
        gate = phone.gated.hold_after("renew")
        phone.clock.advance(phone._lock.times.renew_every_ms)
        await gate.reached.wait()
        gate.opened.set()

    async def test_that_is_known_to_be_lost_ends_the_preparations(
        self, bench: Workbench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        phone, extension = await bench.instance("phone"), await bench.instance("extension")
        monkeypatch.setattr(offloading, "SLICE_RECORDS", FEW_RECORDS)
        sealed = 0
        seal = Sealer.seal

        def lose(sealer: Sealer, kind: str, key: bytes, value: bytes) -> bytes:
            nonlocal sealed
            sealed += 1
            if sealed == 1:
                loop.call_soon_threadsafe(phone._lock.lost, phone._lock.guard.epoch)
            return seal(sealer, kind, key, value)

        loop = asyncio.get_running_loop()
        await take_over(phone)
        monkeypatch.setattr(Sealer, "seal", lose)
        with pytest.raises(LeaseLost, match="made ready"):
            await phone.run(put_many, attempts=1)
        assert sealed == FEW_RECORDS
        assert "commit" not in phone.gated.calls
        await phone.lock.release_now()
        bench.expire_lease()
        assert await extension.run(count_up) == 1

    async def test_that_is_known_to_be_lost_ends_the_encoding(self, bench: Workbench) -> None:
        encoded = 0

        def encode(number: int) -> bytes:
            nonlocal encoded
            encoded += 1
            if encoded == 1:
                store._lock.lost(store._lock.guard.epoch)
            return b"%d" % number

        async def fill(transaction: Transaction) -> None:
            for number in range(MANY):
                transaction.put(kind, str(number), number)

        kind = RecordKind("number", TEXT, Codec[int](encode, int))
        path = bench.path.with_name("other.db")
        async with await CryptoStore.open(path, key=KEY, label="one", kinds=[kind]) as store:
            with pytest.raises(LeaseLost, match="made ready"):
                await store.run(fill, attempts=1)
            assert encoded == FEW_RECORDS

    async def test_that_is_known_to_be_lost_ends_the_forgetting_before_the_commit(
        self, bench: Workbench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        phone = await bench.instance("phone", cache_limit_bytes=10**9)
        await take_over(phone)
        forgotten = 0
        forget = GuardedCache.forget

        def lose(guarded: GuardedCache, names: Iterable[RecordName]) -> None:
            nonlocal forgotten
            forgotten += 1
            if forgotten == 1:
                phone._lock.lost(phone._lock.guard.epoch)
            forget(guarded, names)

        monkeypatch.setattr(GuardedCache, "forget", lose)
        with pytest.raises(LeaseLost, match="made ready"):
            await phone.run(put_many, attempts=1)
        assert forgotten == FEW_RECORDS
        assert "commit" not in phone.gated.calls

    async def test_that_was_lost_meanwhile_is_noticed(self, bench: Workbench, held: Held) -> None:
        phone, extension = await bench.instance("phone"), await bench.instance("extension")
        await take_over(phone)
        committing = asyncio.create_task(phone.run(put_many, attempts=1))
        await held.reached.wait()
        bench.expire_lease()
        await take_over(extension)
        held.go_on.set()
        with pytest.raises(LeaseLost):
            await committing
        assert bench.version() == 0


class TestBesideALargeCommit:
    # P12.1, P15.3
    async def test_a_cancelled_caller_is_told_at_once_while_nothing_is_written(
        self, bench: Workbench, phone: Instance, held: Held
    ) -> None:
        committing = asyncio.create_task(phone.run(put_many))
        await held.reached.wait()
        committing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await committing
        held.go_on.set()
        assert await phone.run(count_up) == 1
        assert bench.version() == 1
        bench.assert_cache_is_snapshot(phone)

    async def test_views_read_and_load(self, bench: Workbench, phone: Instance, held: Held) -> None:
        held.go_on.set()
        await phone.run(count_up)
        async with phone.transaction() as transaction:
            transaction.put(DEVICE, "loaded meanwhile", b"old")
            transaction.put(DEVICE, "device 1", b"old")
        phone._lock.guarded.cache = rules.empty(Version(2))  # so that views must load
        held.go_on.clear()
        held.reached.clear()
        committing = asyncio.create_task(phone.run(put_many))
        await held.reached.wait()
        async with phone.view() as view:
            assert await view.get(DEVICE, "loaded meanwhile") == b"old"
            assert await view.get(DEVICE, "device 1") == b"old"
            held.go_on.set()
            await committing
            assert await view.get(DEVICE, "device 1") == b"old"
        bench.assert_cache_is_snapshot(phone)
        async with phone.view() as view:
            assert await view.get(DEVICE, "device 1") == b"1"
            assert await view.get(DEVICE, "loaded meanwhile") == b"old"

    @pytest.mark.parametrize("limit", [None, 10**9])
    async def test_a_view_that_loads_while_the_outcome_is_worked_out(
        self, bench: Workbench, extension: Instance, limit: int | None
    ) -> None:
        """The cache may forget the records that the view loaded; the values that the view read stay correct."""
        async with extension.transaction() as transaction:
            transaction.put(DEVICE, "other", b"value")
        await extension.lock.release_now()
        phone = await bench.instance("phone", cache_limit_bytes=limit)
        await take_over(phone)
        gate = phone.gated.hold_before("commit")
        committing = asyncio.create_task(phone.run(put_many))
        await gate.reached.wait()
        # No view can begin now. A view that began earlier would load like this.
        phone._lock.guarded.fill(Version(1), RecordName("device", b"other"), b"value")
        phone._lock.guarded.fill(Version(1), RecordName("device", b"device 1"), None)
        gate.opened.set()
        await committing
        bench.assert_cache_is_snapshot(phone)
        async with phone.view() as view:
            assert await view.get(DEVICE, "other") == b"value"
            assert await view.get(DEVICE, "device 1") == b"1"

    async def test_all_sorts_of_records_at_once(self, bench: Workbench, phone: Instance, extension: Instance) -> None:
        """Cached, mutable, deleted and twice put records behave as in a small commit, here and in the next process."""
        await phone.run(put_many)
        await phone.lock.release_now()
        await extension.run(count_up)
        shared = Counter(7)
        async with extension.transaction() as transaction:
            for number in range(MANY):
                transaction.put(COUNTER, f"{number}", Counter(number))
                transaction.put(PLAIN, f"{number}", b"%d" % number)
                transaction.delete(DEVICE, f"device {number}")
            transaction.put(COUNTER, "shared 1", shared)
            transaction.put(COUNTER, "shared 2", shared)
        bench.assert_cache_is_snapshot(extension)
        assert extension.statistics().live_objects == 2 + MANY - 1  # "n", and all except the shared object
        assert len(bench.stored()) == 2 * MANY + 3
        await extension.lock.release_now()
        await take_over(phone)
        bench.assert_cache_is_snapshot(phone)
        assert phone.statistics().cached_records == 0
        async with phone.view() as view:
            assert sorted(await view.keys(PLAIN)) == sorted(f"{number}" for number in range(MANY))

    async def test_live_objects_of_what_many_changes_name_are_dropped_and_others_stay(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await phone.run(count_up)
        async with phone.transaction() as transaction:
            for number in range(MANY):
                transaction.put(COUNTER, f"{number}", Counter(0))
        await phone.lock.release_now()
        async with extension.transaction() as transaction:
            for number in range(MANY):
                transaction.put(COUNTER, f"{number}", Counter(1))
        await extension.lock.release_now()
        await take_over(phone)
        assert list(phone._lock.guarded.live) == [RecordName("counter", b"n")]
        bench.assert_cache_is_snapshot(phone)


async def test_a_long_log_is_read_as_it_is(phone: Instance) -> None:
    backend = phone.gated.inner
    for count in (1, FEW_RECORDS - 1, 1, 2 * FEW_RECORDS):
        await phone.run(lambda transaction, count=count: put_many(transaction, count))  # type: ignore[misc]
    whole = await backend.changes(Version(0), phone._lock.guard.epoch)
    assert (whole.version, len(whole.changes)) == (4, 1 + FEW_RECORDS - 1 + 1 + 2 * FEW_RECORDS)
    assert [line.version for line in whole.changes] == sorted(line.version for line in whole.changes)
    for since in range(5):
        log = await backend.changes(Version(since), None)
        assert log.changes == tuple(line for line in whole.changes if line.version > since)
    with pytest.raises(LeaseLost):
        await backend.changes(Version(0), Epoch(7))


async def test_the_largest_commit_comes_through_beside_a_rival(tmp_path: Path) -> None:
    path = tmp_path / "store.db"

    async def fill(transaction: Transaction) -> None:
        for number in range(LARGEST_COMMIT_RECORDS):
            transaction.put(DEVICE, f"device {number}", b"%d" % number)
            if number % FEW_RECORDS == 0:
                await asyncio.sleep(0)  # as every long computation should, so that other tasks run

    # The lease is the default one. But the duration of the operation's own code depends on the load of the machine.
    times = LeaseTimes(overdue_after_ms=1000 * PATIENCE)
    async with await CryptoStore.open(path, key=KEY, label="one", kinds=KINDS, times=times) as store:
        rival = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.store.rival", str(path),
            cwd=REPOSITORY, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert rival.stdin is not None
        assert rival.stdout is not None
        try:
            async with asyncio.timeout(4 * PATIENCE):
                assert await rival.stdout.readline() == b"1\n"
                reading = asyncio.create_task(rival.stdout.read())
                await store.run(fill)
                counts = [await store.run(count_up)]
                assert counts != [2], "the rival had its turns"
                rival.stdin.close()
                counts += map(int, (await reading).split())
                assert await rival.wait() == 0
            assert sorted(counts) == [*range(2, len(counts) + 2)], "each was given out once"
            async with store.view() as view:
                assert len(await view.keys(DEVICE)) == LARGEST_COMMIT_RECORDS
        finally:
            with contextlib.suppress(ProcessLookupError):
                rival.kill()
            await rival.wait()
