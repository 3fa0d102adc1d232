"""The store as programs use it: stories, what goes wrong, and cancellation at every await."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import inspect as inspect_module
import logging
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import assert_type

import pytest

import unwedged.store
from tests.store.stores import (
    COUNTER,
    DEVICE,
    KEY,
    KINDS,
    PATIENCE,
    PLAIN,
    CancelledAt,
    Counter,
    Instance,
    Workbench,
    all_that_can_run,
    apart,
    count_up,
    failing,
    take_over,
    workbench,
)
from unwedged.protocol.guard import NO_GUARD, Stage
from unwedged.protocol.identifiers import InstanceId, Version
from unwedged.store import (
    BYTES,
    TEXT,
    Changed,
    Codec,
    CryptoStore,
    InvalidArgument,
    Lagged,
    LeaseLost,
    LeaseTimes,
    NestedOperation,
    Opening,
    OperationEnded,
    OperationInterrupted,
    OperationsAbandoned,
    RecordKind,
    SnapshotMoved,
    StorageFailed,
    StoreBusy,
    StoreClosed,
    StoreMark,
    StoreReplaced,
    TamperedRecord,
    Transaction,
    UnknownKind,
    View,
    WrongKey,
    crypto_store,
    inspect,
)
from unwedged.store.clock import SystemRandomness
from unwedged.store.expectations import Expectations
from unwedged.store.guarded_cache import RecordName
from unwedged.store.sqlite import SqliteBackend


async def count_of(view: View) -> int | None:
    counter = await view.get(COUNTER, "n")
    return None if counter is None else counter.count


class BrokenCounter(Counter):
    """Has a count that is no number."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        del self.count


async def counter_of(transaction: Transaction) -> Counter | None:
    return await transaction.get(COUNTER, "n")


async def lose_lease(bench: Workbench, other: Instance) -> None:
    """Have ``other`` take the lapsed lease, count up, and give it back."""
    bench.lapse()
    await other.run(count_up)
    await other.lock.release_now()


def public(thing: object) -> set[str]:
    """Return what completion offers of ``thing``."""
    return {name for name in dir(thing) if not name.startswith("_")}


def as_class(name: str) -> type[object]:
    thing = getattr(unwedged.store, name)
    return thing if isinstance(thing, type) else object


async def opened(opening: Opening[CryptoStore]) -> CryptoStore:
    return await opening


class TestOpening:
    async def test_a_store_is_made_and_found_again(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        async with await CryptoStore.open(path, key=KEY, label="one", kinds=KINDS) as store:
            assert await store.run(count_up) == 1
            async with store.view() as view:
                counter = await view.get(COUNTER, "n")
            assert counter is not None
            assert counter.count == 1
        async with await CryptoStore.open(str(path), key=KEY, label="two", kinds=KINDS) as store:
            assert store.statistics().version == 1
            assert await store.run(count_up) == 2

    async def test_a_store_is_opened_once_by_each_call(self, tmp_path: Path) -> None:
        opening = CryptoStore.open(tmp_path / "store.db", key=KEY, label="one", kinds=KINDS)
        with pytest.raises(InvalidArgument, match="never entered"):
            await opening.__aexit__(None, None, None)
        assert not (tmp_path / "store.db").exists()
        async with opening as store:
            assert await store.run(count_up) == 1
        assert store.statistics().state == "closed"
        with pytest.raises(InvalidArgument, match="call it again"):
            await opening
        with pytest.raises(InvalidArgument, match="call it again"):
            async with opening:
                pass

    async def test_cancelled_at_every_await_it_leaves_no_file_open(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nor the driver's thread, which would keep the program from ending."""
        made: list[SqliteBackend] = []
        prepare = SqliteBackend.open

        async def noted(path: Path, expected: Expectations) -> SqliteBackend:
            backend = await prepare(path, expected)
            made.append(backend)
            return backend

        async def attempt(cancelled: CancelledAt[CryptoStore]) -> CryptoStore:
            return await cancelled

        monkeypatch.setattr(SqliteBackend, "open", noted)
        for at in range(1, 100):
            opening = opened(CryptoStore.open(tmp_path / "store.db", key=bytes(32), label="phone", kinds=KINDS))
            cancelled = CancelledAt(opening, at, late=False)
            task = asyncio.create_task(attempt(cancelled))
            await asyncio.wait((task,))
            if not cancelled.struck:
                await task.result().close()
                assert len(made) > 1, "it was cancelled too after the backend was there"
                return
            assert task.cancelled()
            left_open = [backend for backend in made if not backend._closed]
            for backend in left_open:
                await backend.close()
            assert not left_open
        pytest.fail("it never got through")

    async def test_two_may_make_its_key_at_once(self, tmp_path: Path) -> None:
        backend = await SqliteBackend.open(tmp_path / "store.db")
        await backend.close()

        async def use(label: str) -> int:
            async with await CryptoStore.open(tmp_path / "store.db", key=KEY, label=label, kinds=KINDS) as store:
                return await store.run(count_up)

        assert sorted(await asyncio.gather(use("one"), use("two"), use("three"))) == [1, 2, 3]

    async def test_kinds_that_are_not_declared_are_left_alone(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "store.db"
        async with await CryptoStore.open(path, key=KEY, label="newer", kinds=KINDS) as newer:
            await newer.run(count_up)
            with caplog.at_level(logging.INFO):
                older = await CryptoStore.open(path, key=KEY, label="older", kinds=[DEVICE])
            assert "kinds=counter" in caplog.text
            async with older, older.subscribe(DEVICE) as changes:
                with pytest.raises(UnknownKind):
                    await older.run(count_up)
                async with older.transaction() as transaction:
                    assert await transaction.keys(DEVICE) == ()
                    transaction.put(DEVICE, "a", b"1")
                assert await newer.run(count_up) == 2
                async with older.transaction() as transaction:
                    transaction.put(DEVICE, "b", b"2")
                assert [await anext(changes) for _ in range(2)] == [
                    Changed(Version(v), k) for v, k in ((2, "a"), (4, "b"))
                ]

    async def test_what_does_not_fit_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        async with await CryptoStore.open(path, key=KEY, label="one", kinds=KINDS) as store:
            await store.run(count_up)
        with pytest.raises(WrongKey):
            await CryptoStore.open(path, key=bytes(32), label="one", kinds=KINDS)
        with pytest.raises(ValueError, match="'device' was declared twice"):
            await CryptoStore.open(path, key=KEY, label="one", kinds=[DEVICE, RecordKind("device", TEXT, TEXT)])

    async def test_equal_kinds_are_one_kind(self, tmp_path: Path) -> None:
        """A program may declare a kind in several places."""
        equal = RecordKind("device", Codec(str.encode, bytes.decode), BYTES)
        async with CryptoStore.open(tmp_path / "store.db", key=KEY, label="one", kinds=[DEVICE, equal]) as store:
            async with store.transaction() as transaction:
                transaction.put(equal, "a", b"1")
            async with store.subscribe(equal, since=0) as changes, store.view() as view:
                assert await view.get(DEVICE, "a") == b"1"
            assert await anext(changes) == Changed(Version(1), "a")


class TestTransactions:
    async def test_everything_is_written_together(self, bench: Workbench, phone: Instance) -> None:
        async with phone.transaction() as transaction:
            assert await transaction.get(DEVICE, "a") is None
            transaction.put(DEVICE, "a", b"1")
            transaction.put(DEVICE, "b", b"2")
            transaction.put(PLAIN, "c", b"3")
            transaction.delete(DEVICE, "b")
            assert await transaction.get(DEVICE, "a") == b"1"
            assert await transaction.get(DEVICE, "b") is None
            assert await transaction.keys(DEVICE) == ("a",)
            assert bench.stored() == {}
        assert transaction.committed == 1
        assert bench.stored() == {RecordName("device", b"a"): b"1", RecordName("plain", b"c"): b"3"}
        bench.assert_cache_is_snapshot(phone)
        async with phone.transaction() as transaction:
            transaction.delete(DEVICE, "a")
            transaction.put(DEVICE, "z", b"4")
            transaction.put(DEVICE, "y", b"5")
            assert await transaction.keys(DEVICE) == ("y", "z")
        bench.assert_cache_is_snapshot(phone)

    async def test_an_exception_drops_everything(self, bench: Workbench, phone: Instance) -> None:
        await phone.run(count_up)

        async def fail(transaction: Transaction) -> None:
            await count_up(transaction)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await phone.run(fail)
        assert phone.statistics().live_objects == 0
        assert await phone.run(count_up) == 2
        bench.assert_cache_is_snapshot(phone)

    async def test_there_is_one_live_object_of_each_record(self, phone: Instance) -> None:
        async with phone.transaction() as transaction:
            made = Counter(1)
            transaction.put(COUNTER, "n", made)
        async with phone.transaction() as transaction:
            gets = [asyncio.create_task(counter_of(transaction)) for _ in range(2)]
            one, again = [await get for get in gets]
            assert one is again is made
            made.count = 5
            transaction.put(COUNTER, "n", made)
        async with phone.view() as view:
            copy = await view.get(COUNTER, "n")
        assert copy is not None
        assert copy is not made
        assert copy.count == 5

    async def test_two_gets_at_once_give_one_object(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        """Both find that they have to load the record, and both load it."""
        await extension.run(count_up)
        await extension.lock.release_now()
        async with phone.transaction() as transaction:
            gate = phone.gated.hold_after("load")
            gets = [asyncio.create_task(counter_of(transaction)) for _ in range(2)]
            await gate.reached.wait()
            again = await gets[1]
            gate.opened.set()
            one = await gets[0]
            assert phone.gated.calls.count("load") == 2
            assert one is again
            assert one is not None
            one.count += 1
            transaction.put(COUNTER, "n", one)
        bench.assert_cache_is_snapshot(phone)

    async def test_a_get_that_loads_does_not_undo_a_put_meanwhile(self, phone: Instance) -> None:
        async with phone.transaction() as transaction:
            gate = phone.gated.hold_after("load")
            slow = asyncio.create_task(counter_of(transaction))
            await gate.reached.wait()
            made = Counter(7)
            transaction.put(COUNTER, "n", made)
            gate.opened.set()
            assert await slow is made

    async def test_nothing_is_put_during_the_commit(self, bench: Workbench, phone: Instance) -> None:
        """It would be dropped without a word: what is written was encoded before."""
        begun = asyncio.get_running_loop().create_future()

        async def operation(transaction: Transaction) -> int:
            begun.set_result(transaction)
            return await count_up(transaction)

        gate = phone.gated.hold_before("commit")
        running = asyncio.create_task(phone.run(operation))
        transaction: Transaction = await begun
        await gate.reached.wait()
        with pytest.raises(OperationEnded):
            transaction.put(DEVICE, "d", b"late")
        with pytest.raises(OperationEnded):
            transaction.delete(COUNTER, "n")
        with pytest.raises(OperationEnded):
            await transaction.get(COUNTER, "n")
        gate.opened.set()
        assert await running == 1
        assert bench.stored() == {RecordName("counter", b"n"): b"1"}

    async def test_nothing_is_read_during_the_validation(self, phone: Instance) -> None:
        gate = phone.gated.hold_before("check")
        begun = asyncio.get_running_loop().create_future()

        async def operation(view: View) -> None:
            begun.set_result(view)

        running = asyncio.create_task(phone.query(operation))
        view: View = await begun
        await gate.reached.wait()
        with pytest.raises(OperationEnded):
            await view.get(COUNTER, "n")
        gate.opened.set()
        await running

    async def test_what_was_not_put_was_not_changed(self, phone: Instance) -> None:
        await phone.run(count_up)
        async with phone.transaction() as transaction:
            counter = await transaction.get(COUNTER, "n")
            assert counter is not None
            counter.count = 100
        assert await phone.run(count_up) == 2

    async def test_an_object_put_twice_is_two_afterwards(self, bench: Workbench, phone: Instance) -> None:
        async with phone.transaction() as transaction:
            counter = Counter(1)
            transaction.put(COUNTER, "n", counter)
            transaction.put(COUNTER, "m", counter)
        assert await phone.run(count_up) == 2
        bench.assert_cache_is_snapshot(phone)

    async def test_a_deleted_record_leaves_no_live_object(self, bench: Workbench, phone: Instance) -> None:
        await phone.run(count_up)
        async with phone.transaction() as transaction:
            transaction.delete(COUNTER, "n")
        bench.assert_cache_is_snapshot(phone)
        assert await phone.run(count_up) == 1

    async def test_they_run_one_at_a_time(self, phone: Instance) -> None:
        assert sorted(await asyncio.gather(*(phone.run(count_up) for _ in range(20)))) == list(range(1, 21))

    async def test_one_that_only_read_is_validated(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await phone.run(count_up)
        async with failing(LeaseLost, phone.transaction()) as transaction:
            await transaction.get(COUNTER, "n")
            await lose_lease(bench, extension)
        assert phone.lock.guard == NO_GUARD

    async def test_uncached_kinds_stay_out_of_memory(self, phone: Instance) -> None:
        async with phone.transaction() as transaction:
            transaction.put(PLAIN, "p", b"1")
        for _ in range(2):
            async with phone.transaction() as transaction:
                assert await transaction.get(PLAIN, "p") == b"1"
                assert await transaction.get(PLAIN, "p") == b"1"
        async with phone.view() as view:
            assert await view.get(PLAIN, "p") == b"1"
            assert await view.get(PLAIN, "p") == b"1"
        assert phone.gated.calls.count("load") == 3, "each operation loads it once"
        assert phone.statistics().cached_records == phone.statistics().live_objects == 0

    async def test_a_value_that_has_no_encoding_spoils_nothing(self, bench: Workbench, phone: Instance) -> None:
        await phone.run(count_up)
        async with failing(InvalidArgument, phone.transaction()) as transaction:
            await count_up(transaction)
            transaction.put(COUNTER, "m", BrokenCounter(1))
        assert await phone.run(count_up) == 2
        bench.assert_cache_is_snapshot(phone)


class TestViews:
    async def test_they_see_one_version_while_others_commit(self, phone: Instance) -> None:
        await phone.run(count_up)
        async with phone.view() as view:
            assert await count_of(view) == 1
            await apart(phone.run(count_up))
            assert await count_of(view) == 1
        assert await phone.query(count_of) == 2

    async def test_what_they_can_no_longer_load_is_said(self, bench: Workbench, phone: Instance) -> None:
        async def write(transaction: Transaction) -> None:
            transaction.put(DEVICE, "d", b"2")

        async with failing(SnapshotMoved, phone.view()) as view:
            await apart(phone.run(write))
            await view.get(DEVICE, "d")
        async with failing(SnapshotMoved, phone.view()) as view:
            await apart(phone.run(write))
            await view.keys(DEVICE)
        async with phone.view() as view:
            await apart(phone.run(write))
            assert await view.get(DEVICE, "other") is None
            assert await view.keys(COUNTER) == ()
        bench.assert_cache_is_snapshot(phone)

    async def test_a_load_that_comes_back_after_a_commit_does_not_enter_the_cache(
        self, bench: Workbench, phone: Instance
    ) -> None:
        gate = phone.gated.hold_after("load")
        looking = asyncio.create_task(phone.query(count_of))
        await gate.reached.wait()
        async with phone.transaction() as transaction:
            transaction.put(COUNTER, "n", Counter(7))
        gate.opened.set()
        assert await looking is None
        bench.assert_cache_is_snapshot(phone)

    async def test_none_begins_while_a_commit_is_in_flight(self, phone: Instance) -> None:
        await phone.run(count_up)
        gate = phone.gated.hold_after("commit")
        committing = asyncio.create_task(phone.run(count_up))
        await gate.reached.wait()
        looking = asyncio.create_task(phone.query(count_of))
        for _ in range(20):
            await asyncio.sleep(0)
        assert phone.lock.guarded.turns.running == 1
        gate.opened.set()
        assert await committing == 2
        assert await looking == 2

    async def test_without_the_lease_there_is_no_answer(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await phone.run(count_up)
        async with failing(LeaseLost, phone.view()) as view:
            assert await count_of(view) == 1
            await lose_lease(bench, extension)
        assert await phone.query(count_of) == 2

    async def test_a_load_without_the_lease_is_stopped(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        async with failing(LeaseLost, phone.view()) as view:
            await view.get(DEVICE, "d")
            await lose_lease(bench, extension)
            await view.get(COUNTER, "n")
        assert phone.lock.guard == NO_GUARD


class TestRerunning:
    async def test_a_lost_lease_is_out_of_sight(self, bench: Workbench, phone: Instance, extension: Instance) -> None:
        tries = 0

        async def unlucky(transaction: Transaction) -> int:
            nonlocal tries
            tries += 1
            count = await count_up(transaction)
            if tries < 3:
                await asyncio.create_task(lose_lease(bench, extension))
            return count

        assert await phone.run(unlucky) == 3
        assert tries == 3
        assert phone.statistics().reruns == 2
        assert phone.statistics().leases_lost == 2
        bench.assert_cache_is_snapshot(phone)

    async def test_it_gives_up_after_the_stated_number(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        tries = 0

        async def hopeless(_view: View) -> None:
            nonlocal tries
            tries += 1
            await asyncio.create_task(lose_lease(bench, extension))

        with pytest.raises(OperationInterrupted):
            await phone.query(hopeless)
        assert tries == crypto_store.MOST_ATTEMPTS
        with pytest.raises(OperationInterrupted):
            await phone.query(hopeless, attempts=1)
        assert tries == crypto_store.MOST_ATTEMPTS + 1
        with pytest.raises(ValueError, match="at least one attempt"):
            await phone.query(hopeless, attempts=0)

    async def test_other_failures_are_the_callers(self, phone: Instance) -> None:
        async def wrong(_transaction: Transaction) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await phone.run(wrong)

    async def test_results_leave_only_after_the_commit(self, phone: Instance) -> None:
        gate = phone.gated.hold_before("commit")
        running = asyncio.create_task(phone.run(count_up))
        await gate.reached.wait()
        assert not running.done()
        gate.opened.set()
        assert await running == 1


async def device_of(view: View) -> bytes | None:
    return await view.get(DEVICE, "d")


class NoSuchRecord(Exception):
    """What an operation concludes from a record that is not there."""


async def demand(reader: Transaction | View) -> int:
    counter = await reader.get(COUNTER, "n")
    if counter is None:
        raise NoSuchRecord
    return counter.count


def confirmed_by(store: Instance) -> int:
    return store.gated.calls.count("check")


class TestFailuresAreAnswers:
    """An exception of an operation's own says something about the store, and may be as stale as any other answer."""

    @pytest.mark.parametrize("kind", ["run", "query"])
    async def test_one_whose_reason_no_longer_holds_is_not_raised(
        self, bench: Workbench, phone: Instance, extension: Instance, kind: str
    ) -> None:
        tries = 0

        async def demand_late(reader: Transaction | View) -> int:
            nonlocal tries
            tries += 1
            try:
                return await demand(reader)
            except NoSuchRecord:
                await lose_lease(bench, extension)
                raise

        assert await (phone.run(demand_late) if kind == "run" else phone.query(demand_late)) == 1
        assert tries == 2

    async def test_where_nothing_runs_it_again_it_is_the_cause(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        async def demand_late(_: Transaction | View) -> int:
            await lose_lease(bench, extension)
            raise NoSuchRecord

        for attempt in (phone.run(demand_late, attempts=1), phone.query(demand_late, attempts=1)):
            with pytest.raises(LeaseLost) as lost:
                await attempt
            assert isinstance(lost.value.__cause__, NoSuchRecord)
        async with failing(LeaseLost, phone.transaction()):
            await lose_lease(bench, extension)
            raise NoSuchRecord

    async def test_one_that_is_so_reaches_the_caller_after_it_was_confirmed(self, phone: Instance) -> None:
        for attempt in (phone.run(demand), phone.query(demand)):
            del phone.gated.calls[:]
            with pytest.raises(NoSuchRecord):
                await attempt
            assert confirmed_by(phone) == 1

    async def test_one_that_ended_the_operation_is_no_cause_of_itself(self, phone: Instance) -> None:
        for attempt in (phone.run(demand), phone.query(demand)):
            phone.gated.failures["load"] = StoreReplaced("injected")
            with pytest.raises(StoreReplaced) as told:
                await attempt
            assert told.value.__cause__ is None

    async def test_the_confirmation_notes_a_waiter(self, phone: Instance, extension: Instance) -> None:
        await take_over(phone)
        await extension.lock.acquire_now()
        with pytest.raises(NoSuchRecord):
            await phone.run(demand)
        assert phone.lock.guard.stage is not Stage.HELD

    async def test_where_it_can_not_be_confirmed_that_is_raised(self, phone: Instance) -> None:
        for doubt in (StoreBusy("busy"), StorageFailed("no disk")):
            phone.gated.failures["check"] = doubt
            with pytest.raises(type(doubt)) as told:
                await phone.query(demand)
            assert isinstance(told.value.__cause__, NoSuchRecord)

    @pytest.mark.parametrize("failure", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
    async def test_an_exception_that_ends_the_program_is_not_confirmed(
        self, phone: Instance, failure: type[BaseException]
    ) -> None:
        for begin in (phone.transaction, phone.view):
            async with failing(failure, begin()):
                raise failure
        assert confirmed_by(phone) == 0

    async def test_a_value_that_has_no_encoding_may_come_from_old_state_too(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        async with failing(LeaseLost, phone.transaction()) as transaction:
            transaction.put(COUNTER, "n", BrokenCounter(1))
            await lose_lease(bench, extension)
        async with failing(InvalidArgument, phone.transaction()) as transaction:
            transaction.put(COUNTER, "n", BrokenCounter(1))

    async def test_a_group_of_failures_is_one_too(self, bench: Workbench, phone: Instance, extension: Instance) -> None:
        tries = 0

        async def together(view: View) -> None:
            nonlocal tries
            tries += 1
            if tries == 1:
                await lose_lease(bench, extension)
            async with asyncio.TaskGroup() as group:
                for _ in range(2):
                    group.create_task(count_of(view))

        await phone.query(together)
        assert tries == 2


class TestDoomed:
    """An operation that catches its interruption and goes on is told again, at each access and at its end."""

    @pytest.mark.parametrize("ending", ["normally", "by an exception of its own"])
    async def test_by_a_lost_lease(self, bench: Workbench, phone: Instance, extension: Instance, ending: str) -> None:
        await phone.run(count_up)
        async with failing(LeaseLost, phone.transaction()) as transaction:
            assert await transaction.get(COUNTER, "n") is not None
            await lose_lease(bench, extension)
            with pytest.raises(LeaseLost):
                await transaction.get(DEVICE, "d")
            with pytest.raises(LeaseLost):
                await transaction.get(COUNTER, "n")  # though it has that one in hand
            with pytest.raises(LeaseLost):
                await transaction.keys(COUNTER)
            with pytest.raises(LeaseLost):
                transaction.put(DEVICE, "d", b"")
            with pytest.raises(LeaseLost):
                transaction.delete(DEVICE, "d")
            if ending != "normally":
                raise NoSuchRecord

    async def test_what_was_put_before_is_not_written(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        async with failing(LeaseLost, phone.transaction()) as transaction:
            transaction.put(DEVICE, "d", b"1")
            await lose_lease(bench, extension)
            with pytest.raises(LeaseLost):
                await transaction.get(COUNTER, "n")
            del phone.gated.calls[:]
        assert phone.gated.calls == []

    @pytest.mark.parametrize("access", ["get", "keys"])
    async def test_by_a_snapshot_that_moved(self, phone: Instance, access: str) -> None:
        async def write(transaction: Transaction) -> None:
            transaction.put(DEVICE, "d", b"2")

        async with failing(SnapshotMoved, phone.view()) as view:
            await apart(phone.run(write))
            with pytest.raises(SnapshotMoved):
                await (device_of(view) if access == "get" else view.keys(DEVICE))
            with pytest.raises(SnapshotMoved):
                await view.get(COUNTER, "n")

    async def test_one_that_catches_it_is_run_again(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        tries = 0

        async def careless(transaction: Transaction) -> int:
            nonlocal tries
            tries += 1
            if tries == 1:
                await lose_lease(bench, extension)
            try:
                return await count_up(transaction)
            except LeaseLost:
                return -1

        assert await phone.run(careless) == 2


class TestFailingCommits:
    async def test_a_busy_database_leaves_the_cache_as_it_was(self, bench: Workbench, phone: Instance) -> None:
        await phone.run(count_up)
        phone.gated.failures["commit"] = StoreBusy("busy")
        with pytest.raises(StoreBusy):
            await phone.run(count_up)
        assert phone.lock.guard.epoch == 1
        bench.assert_cache_is_snapshot(phone)
        assert await phone.run(count_up) == 2

    @pytest.mark.parametrize("landed", [False, True])
    async def test_where_the_outcome_is_unknown_the_next_sync_finds_out(
        self, bench: Workbench, phone: Instance, landed: bool
    ) -> None:
        await phone.run(count_up)
        failures = phone.gated.late_failures if landed else phone.gated.failures
        failures["commit"] = StorageFailed("the disk is gone")
        async with phone.subscribe(COUNTER) as changes:
            with pytest.raises(StorageFailed):
                await phone.run(count_up)
            assert phone.lock.guard == NO_GUARD
            assert await phone.run(count_up) == 2 + landed
            assert [(await anext(changes)).version for _ in range(1 + landed)] == list(range(2, 3 + landed))
        bench.assert_cache_is_snapshot(phone)

    async def test_a_commit_that_outlives_its_guard_counts_but_is_not_installed(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        gate = phone.gated.hold_after("commit")
        committing = asyncio.create_task(phone.run(count_up))
        await gate.reached.wait()
        await lose_lease(bench, extension)
        await phone.lock.renew_now()
        await take_over(phone)
        gate.opened.set()
        assert await committing == 1
        bench.assert_cache_is_snapshot(phone)
        assert await phone.run(count_up) == 3

    async def test_a_cancelled_caller_learns_of_it_once_the_outcome_is_known(
        self, bench: Workbench, phone: Instance
    ) -> None:
        await phone.run(count_up)
        gate = phone.gated.hold_after("commit")
        committing = asyncio.create_task(phone.run(count_up))
        await gate.reached.wait()
        for _ in range(3):
            committing.cancel()
            await asyncio.sleep(0)
            assert not committing.done()
        gate.opened.set()
        with pytest.raises(asyncio.CancelledError):
            await committing
        bench.assert_cache_is_snapshot(phone)
        assert await phone.run(count_up) == 3

    async def test_a_cancelled_commit_that_fails_is_handled_too(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await phone.run(count_up)
        gate = phone.gated.hold_before("commit")
        committing = asyncio.create_task(phone.run(count_up))
        await gate.reached.wait()
        await lose_lease(bench, extension)
        committing.cancel()
        gate.opened.set()
        with pytest.raises(asyncio.CancelledError):
            await committing
        assert phone.lock.guard == NO_GUARD
        assert await phone.run(count_up) == 3
        bench.assert_cache_is_snapshot(phone)


class TestCancellation:
    """Each operation is cancelled at its first await, at its second, and so on, until it gets through."""

    @staticmethod
    async def transaction(store: Instance) -> None:
        async with store.transaction() as transaction:
            await count_up(transaction)
            await transaction.keys(COUNTER)

    @staticmethod
    async def reading(store: Instance) -> None:
        async with store.transaction() as transaction:
            await transaction.get(COUNTER, "n")

    @staticmethod
    async def view(store: Instance) -> None:
        async with store.view() as view:
            await count_of(view)
            await view.keys(COUNTER)

    @staticmethod
    async def run(store: Instance) -> None:
        await store.run(count_up)

    @staticmethod
    async def query(store: Instance) -> None:
        await store.query(count_of)

    @staticmethod
    async def failure(store: Instance) -> None:
        async def fail(transaction: Transaction) -> None:
            await count_up(transaction)
            raise NoSuchRecord

        with contextlib.suppress(NoSuchRecord):
            await store.run(fail)

    @staticmethod
    async def hold(store: Instance) -> None:
        store.lock.end_view(await store.lock.begin_view())

    @staticmethod
    async def acquire(store: Instance) -> None:
        await store.lock.acquire_now()

    @staticmethod
    async def release(store: Instance) -> None:
        await store.lock.release_now()

    @staticmethod
    async def subscribe(store: Instance) -> None:
        async with store.subscribe(COUNTER):
            pass

    @pytest.mark.parametrize("late", [False, True])
    @pytest.mark.parametrize("held", [False, True])
    @pytest.mark.parametrize(
        "work", ["transaction", "reading", "view", "run", "query", "failure", "hold", "acquire", "release", "subscribe"]
    )
    async def test_at_every_await(self, bench: Workbench, work: str, held: bool, late: bool) -> None:
        operation: Callable[[Instance], Coroutine[object, None, None]] = getattr(self, work)
        phone, other = await bench.instance("phone"), await bench.instance("other")
        count = 0
        for at in range(1, 100):
            count = await other.run(count_up)
            await other.lock.release_now()
            if held:
                await take_over(phone)
            async with phone.subscribe(COUNTER) as changes:
                heard = bench.version()
                attempt = CancelledAt(operation(phone), at, late=late)
                task = asyncio.create_task(self.attempt(attempt))
                await asyncio.wait((task,))
                assert task.cancelled() or not attempt.struck or work in ("run", "transaction"), "it was swallowed"

                count = await self.assert_intact(bench, phone, count)
                told = [(await anext(changes)).version for _ in range(bench.version() - heard)]
                assert told == list(range(heard + 1, bench.version() + 1))
            await phone.lock.release_now()
            if not attempt.struck:
                return
        pytest.fail("it never got through")

    @staticmethod
    async def attempt(attempt: CancelledAt[None]) -> None:
        await attempt

    @staticmethod
    async def assert_intact(bench: Workbench, phone: Instance, before: int) -> int:
        """Nothing was lost, nothing was counted twice, cache and database agree, and the store can be used."""
        async with phone.view() as view:
            seen = await count_of(view)
        assert seen in (before, before + 1)
        bench.assert_cache_is_snapshot(phone)
        after = await phone.run(count_up)
        assert after == seen + 1
        bench.assert_cache_is_snapshot(phone)
        assert phone.lock.guarded.turns.running == 0
        return after


class TestMisuse:
    async def test_nothing_but_reading_and_writing_is_in_a_callers_reach(self, phone: Instance) -> None:
        """What ends an operation, or moves the store's parts, could break a guarantee if a caller did it."""
        async with phone.transaction() as transaction:
            assert public(transaction) == {"get", "put", "delete", "keys", "committed"}
            with pytest.raises(AttributeError):
                transaction.committed = Version(7)  # type: ignore[misc]
        async with phone.view() as view:
            assert public(view) == {"get", "keys", "version"}
        async with phone.subscribe(DEVICE) as changes:
            assert public(changes) == set()

    async def test_a_store_is_made_by_open_only(self) -> None:
        with pytest.raises(InvalidArgument, match="made by CryptoStore"):
            CryptoStore()
        assert not inspect_module.signature(CryptoStore).parameters

    async def test_completion_offers_what_is_documented_and_nothing_else(self, tmp_path: Path) -> None:
        opening = CryptoStore.open(tmp_path / "store.db", key=KEY, label="one", kinds=KINDS)
        assert public(opening) == set()
        async with opening as store:
            assert public(store) == public(CryptoStore) == {
                *("open", "close", "pause", "resume", "change_secret"),
                *("transaction", "view", "run", "query", "subscribe"),
                *("mark", "statistics"),
            }  # fmt: skip
            statistics, mark = store.statistics(), store.mark()
        assert public(COUNTER) == {
            *("name", "key", "value", "cached"),
            *("encode_key", "encode_value", "decode_key", "decode_value"),
        }  # fmt: skip
        inspected, change = inspect(tmp_path / "store.db"), Changed(Version(1), "a")
        for data in (statistics, mark, LeaseTimes(), change, Lagged(Version(1)), TEXT, inspected, inspected.lease):
            assert public(data) == {field.name for field in dataclasses.fields(data)}
        errors = [thing for name in unwedged.store.__all__ if issubclass(thing := as_class(name), Exception)]
        assert {name for error in errors for name in public(error) - public(Exception)} == set()
        assert public(OperationsAbandoned("closed", ())) - public(Exception) == {"operations"}

    async def test_nesting_is_refused(self, phone: Instance) -> None:
        async with phone.transaction() as transaction:
            await count_up(transaction)
            with pytest.raises(NestedOperation, match="Pass the transaction"):
                await phone.run(count_up)
            with pytest.raises(NestedOperation):
                await phone.query(count_of)
            with pytest.raises(NestedOperation):
                await phone.close()
        assert await phone.query(count_of) == 1
        async with phone.view():
            with pytest.raises(NestedOperation):
                await phone.run(count_up)

    @pytest.mark.parametrize("begin", ["transaction", "view"])
    async def test_nesting_in_a_child_is_refused(self, phone: Instance, begin: str) -> None:
        async with phone.transaction() if begin == "transaction" else phone.view():
            for outcome in await asyncio.gather(
                phone.run(count_up), phone.query(count_of), phone.close(), return_exceptions=True
            ):
                assert isinstance(outcome, NestedOperation)
            with pytest.raises(NestedOperation):
                await asyncio.wait_for(phone.run(count_up), PATIENCE)
            with pytest.raises(ExceptionGroup, match="unhandled errors") as group:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(phone.query(count_of))
            assert group.group_contains(NestedOperation)
        assert await phone.run(count_up) == 1

    async def test_a_child_is_refused_for_as_long_as_its_operation_runs(self, phone: Instance) -> None:
        """Also where nobody awaits the child: nobody can know that."""
        ended = asyncio.Event()

        async def child() -> int:
            with pytest.raises(NestedOperation):
                await phone.run(count_up)
            await ended.wait()
            return await phone.run(count_up)

        async with phone.transaction() as transaction:
            outlives = asyncio.create_task(child())
            await asyncio.sleep(0)
            await count_up(transaction)
        ended.set()
        assert await outlives == 2
        assert await phone.run(count_up) == 3

    async def test_a_task_remembers_no_operation_that_has_ended(self, phone: Instance) -> None:
        """Else one that lives as long as the program keeps every operation that it ever ran."""
        for _ in range(3):
            await phone.run(count_up)
        scope = crypto_store._SCOPE.get()
        assert scope is not None
        assert scope.outer is None

    async def test_an_operation_of_another_store_may_run_inside(self, phone: Instance, tmp_path: Path) -> None:
        async with workbench(tmp_path / "other.db") as elsewhere:
            other = await elsewhere.instance("phone")
            async with phone.transaction() as transaction:
                assert await other.run(count_up) == 1
                await count_up(transaction)
                with pytest.raises(NestedOperation):
                    await phone.run(count_up)
                async with other.view():
                    with pytest.raises(NestedOperation):
                        await phone.run(count_up)

    async def test_what_has_ended_is_not_used(self, phone: Instance) -> None:
        async with phone.transaction() as transaction:
            pass
        with pytest.raises(OperationEnded):
            transaction.put(DEVICE, "d", b"")
        with pytest.raises(OperationEnded):
            transaction.delete(DEVICE, "d")
        async with phone.view() as view:
            pass
        for ended in (transaction, view):
            with pytest.raises(OperationEnded):
                await ended.get(DEVICE, "d")
            with pytest.raises(OperationEnded):
                await ended.keys(DEVICE)

    @pytest.mark.parametrize("begin", ["transaction", "view"])
    async def test_a_block_is_entered_and_left_once(self, phone: Instance, begin: str) -> None:
        """What was put would be committed again later, over what others have committed since."""

        def block() -> AbstractAsyncContextManager[Transaction | View]:
            return phone.transaction() if begin == "transaction" else phone.view()

        never_entered, twice = block(), block()
        with pytest.raises(OperationEnded, match="never entered"):
            await never_entered.__aexit__(None, None, None)
        operation = await twice.__aenter__()
        with pytest.raises(OperationEnded, match="begun before"):
            await twice.__aenter__()
        if isinstance(operation, Transaction):
            await count_up(operation)
        await twice.__aexit__(None, None, None)
        counted = await phone.run(count_up)
        with pytest.raises(OperationEnded, match="left before"):
            await twice.__aexit__(None, None, None)
        with pytest.raises(OperationEnded, match="left before"):
            await twice.__aexit__(KeyError, KeyError("of the block's own"), None)
        with pytest.raises(OperationEnded, match="begun before"):
            async with twice:
                pass
        assert await phone.run(count_up) == counted + 1
        assert phone._lock.guarded.turns.running == 0, "so that a rival gets the lease"

    @pytest.mark.parametrize("begin", ["transaction", "view"])
    async def test_a_clock_that_fails_keeps_no_turn(
        self, phone: Instance, monkeypatch: pytest.MonkeyPatch, begin: str
    ) -> None:
        await phone.run(count_up)

        def fail() -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(phone.clock, "now", fail)
            with pytest.raises(ZeroDivisionError):
                await (phone.transaction() if begin == "transaction" else phone.view()).__aenter__()
        assert phone._lock.guarded.turns.running == 0
        assert await asyncio.wait_for(phone.run(count_up), PATIENCE) == 2

    async def test_an_operation_that_is_no_coroutine_is_refused_and_writes_nothing(self, phone: Instance) -> None:
        def put(transaction: Transaction) -> None:
            transaction.put(DEVICE, "a", b"")

        with pytest.raises(InvalidArgument, match="async def"):
            await phone.run(put)  # type: ignore[arg-type]
        async with phone.view() as view:
            assert await view.get(DEVICE, "a") is None

    async def test_a_block_left_inside_of_itself_is_committed_once(self, phone: Instance) -> None:
        block = phone.transaction()

        async def leave_twice() -> None:
            async with block as transaction:
                await count_up(transaction)
                await block.__aexit__(None, None, None)

        with pytest.raises(OperationEnded):
            await leave_twice()
        assert await phone.run(count_up) == 2
        assert phone._lock.guarded.turns.running == 0

    async def test_a_get_that_outlasts_its_transaction_takes_nothing(self, phone: Instance) -> None:
        gate = phone.gated.hold_before("load")
        async with phone.transaction() as transaction:
            late = asyncio.create_task(counter_of(transaction))
            await gate.reached.wait()
        gate.opened.set()
        with pytest.raises(OperationEnded):
            await late

    async def test_kinds_must_be_declared(self, phone: Instance) -> None:
        other = RecordKind("device", TEXT, TEXT)
        async with phone.transaction() as transaction:
            with pytest.raises(UnknownKind, match="was not declared"):
                transaction.put(RecordKind("other", TEXT, BYTES), "k", b"")
            with pytest.raises(UnknownKind, match="declared with other codecs"):
                await transaction.get(other, "k")
            with pytest.raises(UnknownKind):
                await transaction.keys(other)

    async def test_nothing_goes_on_after_close(self, phone: Instance) -> None:
        began, go_on = asyncio.Event(), asyncio.Event()

        async def lasting(transaction: Transaction) -> int:
            began.set()
            await go_on.wait()
            return await count_up(transaction)

        running = asyncio.create_task(phone.run(lasting))
        await began.wait()
        behind = asyncio.create_task(phone.run(count_up))
        await asyncio.sleep(0)
        closing = asyncio.create_task(phone.close())
        await asyncio.sleep(0)
        with pytest.raises(StoreClosed):
            await phone.run(count_up)
        assert not closing.done()
        go_on.set()
        assert await running == 1
        await closing
        with pytest.raises(StoreClosed):
            await behind
        assert repr(phone) == "<CryptoStore 'phone' closed epoch=0 version=1 cached=1 running=0>"

    async def test_closing_waits_for_all_that_runs(self, phone: Instance) -> None:
        """Not just for the first that ends: the file must not be closed under the others."""
        await phone.run(count_up)
        ends = [asyncio.Event(), asyncio.Event()]

        async def lasting(end: asyncio.Event, view: View) -> int | None:
            await end.wait()
            assert await view.keys(DEVICE) == ()
            return await count_of(view)

        first, second = (asyncio.create_task(phone.query(partial(lasting, end))) for end in ends)
        await asyncio.sleep(0)
        closing = asyncio.create_task(phone.close())
        ends[0].set()
        assert await first == 1
        await all_that_can_run()
        assert "close" not in phone.gated.calls
        ends[1].set()
        assert await second == 1
        await closing
        assert phone.gated.calls[-1] == "close"


class TestForgottenToClose:
    async def test_it_is_said_which_store(self, tmp_path: Path) -> None:
        async def forget(how: str) -> None:
            store = await CryptoStore.open(tmp_path / how, key=KEY, label=how, kinds=KINDS)
            assert await store.run(count_up) == 1
            if how == "paused":
                await store.pause()
            if how == "closed":
                await store.close()
            if how == "forgotten":  # as far as a test may: no file stays open
                await store._end_tasks()
                await store._lock.stop()
                await store._services.backend.close()

        def all_of_them() -> None:
            for how in ("paused", "closed", "forgotten"):
                asyncio.run(forget(how))
            gc.collect()

        with pytest.warns(ResourceWarning, match="the store of 'forgotten' was never closed") as told:
            await asyncio.to_thread(all_of_them)
        assert len(told) == 1


class TestClosingInTime:
    async def test_operations_that_do_not_end_are_named(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        go_on = asyncio.Event()

        async def endless(transaction: Transaction, key: str) -> None:
            await count_up(transaction, key)
            await go_on.wait()
            with pytest.raises(StoreClosed):
                await transaction.get(COUNTER, key)

        running = asyncio.create_task(phone.run(endless, "n"))
        await all_that_can_run()
        with pytest.raises(OperationsAbandoned) as abandoned:
            await phone.close(timeout_seconds=0)
        [name] = abandoned.value.operations
        assert name.startswith("tests.store.test_crypto_store.TestClosingInTime.")
        assert name.endswith(".endless")
        assert name in str(abandoned.value)
        await phone.close()

        await take_over(extension)  # at once
        assert await extension.run(count_up) == 1
        go_on.set()
        with pytest.raises(StoreClosed):
            await running
        assert bench.version() == 1

    async def test_a_close_without_a_limit_returns_too(self, phone: Instance) -> None:
        go_on = asyncio.Event()

        async def endless(_: View) -> None:
            await go_on.wait()

        running = asyncio.create_task(phone.query(endless))
        await all_that_can_run()
        patient = asyncio.create_task(phone.close())
        await all_that_can_run()
        assert not patient.done()
        with pytest.raises(OperationsAbandoned):
            await phone.close(timeout_seconds=0)
        await patient
        go_on.set()
        with pytest.raises(StoreClosed):
            await running

    async def test_a_commit_under_way_is_waited_for(self, bench: Workbench, phone: Instance) -> None:
        gate = phone.gated.hold_before("commit")
        running = asyncio.create_task(phone.run(count_up))
        await gate.reached.wait()
        closing = asyncio.create_task(phone.close(timeout_seconds=0))
        await all_that_can_run()
        assert not closing.done()
        gate.opened.set()
        await closing
        assert await running == 1
        assert bench.version() == 1

    async def test_an_operation_that_was_just_let_begin_is_waited_for(self, phone: Instance) -> None:
        """Its turn has come, but its task has not yet gone on."""
        go_on = asyncio.Event()

        async def ahead(_: Transaction) -> None:
            await go_on.wait()

        first = asyncio.create_task(phone.run(ahead))
        await all_that_can_run()
        second = asyncio.create_task(phone.run(count_up))
        await all_that_can_run()
        closing = asyncio.create_task(phone.close())
        go_on.set()  # The first ends just after closing has begun, and just before it looks at what runs.
        await closing
        await first
        assert await second == 1

    async def test_where_all_have_ended_there_is_nothing_to_say(self, phone: Instance) -> None:
        await phone.run(count_up)
        await phone.close(timeout_seconds=0)

    async def test_a_cancelled_close_goes_on(self, phone: Instance, extension: Instance) -> None:
        async with apart_view(phone) as go_on:
            closing = asyncio.create_task(phone.close())
            await all_that_can_run()
            closing.cancel()
            await asyncio.wait((closing,))
            go_on.set()
        await phone.close()
        await take_over(extension)


@asynccontextmanager
async def apart_view(store: Instance) -> AsyncIterator[asyncio.Event]:
    """Have a task be inside a view until the event is set."""
    go_on = asyncio.Event()

    async def wait(_: View) -> None:
        await go_on.wait()

    task = asyncio.create_task(store.query(wait))
    await all_that_can_run()
    yield go_on
    await task


class TestArguments:
    async def test_they_are_passed_on(self, phone: Instance) -> None:
        async def count_of_key(view: View, key: str, otherwise: int) -> int:
            counter = await view.get(COUNTER, key)
            return otherwise if counter is None else counter.count

        assert await phone.run(count_up, "a") == 1
        assert await phone.run(count_up, "a", attempts=2) == 2
        assert await phone.query(count_of_key, "a", 7) == 2
        assert await phone.query(count_of_key, "b", 7) == 7

    async def test_they_are_typed(self, phone: Instance) -> None:
        """``make lint`` checks this: each wrong call is an error of the type checker, and no right one is."""

        async def both(transaction: Transaction, key: str, count: int) -> tuple[str, int]:
            transaction.put(COUNTER, key, Counter(count))
            return key, count

        async def one(view: View, key: str) -> bytes | None:
            return await view.get(DEVICE, key)

        assert_type(await phone.run(both, "a", 1), tuple[str, int])
        assert_type(await phone.query(one, "a", attempts=2), bytes | None)
        with pytest.raises(TypeError):
            await phone.run(both, "a")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await phone.query(one)  # type: ignore[arg-type]
        with pytest.raises(AttributeError):
            await phone.query(both, "a", 1)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument):
            await phone.run(both, 7, 1)  # type: ignore[arg-type]


def names_in(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


class TestBadArguments:
    """The type checker refuses all of this; a program that was not checked meets an exception of the store's own."""

    @pytest.mark.parametrize(
        "wrong",
        [
            {"kinds": None},
            {"kinds": 7},
            {"kinds": [None]},
            {"times": 7},
            {"times": ""},
            {"label": 7},
            {"key": "secret"},
            {"expect": "existing"},
            {"expect": True},
            {"not_before": {}},
        ],
        ids=str,
    )
    async def test_of_open(self, tmp_path: Path, wrong: dict[str, object]) -> None:
        right: dict[str, object] = {"key": bytes(32), "label": "phone", "kinds": KINDS}
        with pytest.raises(InvalidArgument):
            await CryptoStore.open(tmp_path / "store.db", **right | wrong)  # type: ignore[arg-type]
        assert not names_in(tmp_path)

    @pytest.mark.parametrize("wrong", [(7, 1), ("ab", "3"), ("ab", -1), ("ab", True)], ids=str)
    def test_of_a_mark(self, wrong: tuple[str, int]) -> None:
        with pytest.raises(InvalidArgument):
            StoreMark(*wrong)

    @pytest.mark.parametrize("wrong", [{"key": str}, {"value": int}, {"cached": "no"}], ids=str)
    def test_of_a_record_kind(self, wrong: dict[str, object]) -> None:
        right: dict[str, object] = {"name": "device", "key": TEXT, "value": BYTES}
        with pytest.raises(InvalidArgument):
            RecordKind(**right | wrong)  # type: ignore[arg-type]

    def test_of_a_codec(self) -> None:
        for encode, decode in ((7, bytes), (bytes, None)):
            with pytest.raises(InvalidArgument):
                Codec(encode, decode)  # type: ignore[arg-type]

    async def test_a_name_that_is_no_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InvalidArgument, match="in memory"):
            await CryptoStore.open(":memory:", key=bytes(32), label="phone", kinds=KINDS)
        assert not names_in(tmp_path)

    async def test_a_source_of_chance_that_fails_leaves_no_file_open(self, tmp_path: Path) -> None:
        class FailingRandomness(SystemRandomness):
            def instance(self) -> InstanceId:
                raise LookupError("no random numbers")

        with pytest.raises(LookupError):
            await CryptoStore.open(
                tmp_path / "store.db", key=bytes(32), label="phone", kinds=KINDS, randomness=FailingRandomness()
            )
        assert not names_in(tmp_path)

    @pytest.mark.parametrize("kind", [None, 7, "device"])
    async def test_of_a_kind(self, phone: Instance, kind: RecordKind[str, bytes]) -> None:
        async with phone.transaction() as transaction:
            with pytest.raises(InvalidArgument):
                await transaction.get(kind, "k")
            with pytest.raises(InvalidArgument):
                transaction.put(kind, "k", b"")
            with pytest.raises(InvalidArgument):
                transaction.delete(kind, "k")
            with pytest.raises(InvalidArgument):
                await transaction.keys(kind)
        with pytest.raises(InvalidArgument):
            async with phone.subscribe(kind):
                pass

    async def test_of_run(self, phone: Instance) -> None:
        with pytest.raises(InvalidArgument):
            await phone.run(7)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument):
            await phone.query(None)  # type: ignore[arg-type]
        for attempts in (0, "5"):
            with pytest.raises(InvalidArgument):
                await phone.run(count_up, attempts=attempts)  # type: ignore[arg-type]
        assert phone.gated.calls == []

    @pytest.mark.parametrize("timeout_seconds", [-1, float("nan"), "5", True])
    async def test_of_closing_and_pausing(self, phone: Instance, timeout_seconds: float) -> None:
        with pytest.raises(InvalidArgument):
            await phone.close(timeout_seconds=timeout_seconds)
        with pytest.raises(InvalidArgument):
            await phone.pause(timeout_seconds=timeout_seconds)
        assert await phone.run(count_up) == 1, "it is still open"


class TestHandover:
    async def test_what_changed_is_dropped_and_the_rest_is_kept(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        for key in ("a", "b", "c"):
            await phone.run(lambda transaction, key=key: count_up(transaction, key))  # type: ignore[misc]
        await phone.lock.release_now()
        await extension.run(lambda transaction: count_up(transaction, "b"))
        await extension.lock.release_now()
        await take_over(phone)
        statistics = phone.statistics()
        assert (statistics.cached_records, statistics.live_objects) == (2, 2)
        assert (statistics.invalidations, statistics.records_dropped) == (1, 1)
        bench.assert_cache_is_snapshot(phone)
        assert await phone.run(lambda transaction: count_up(transaction, "b")) == 3

    async def test_all_live_objects_of_changed_records_are_dropped_and_no_others(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        """An old one that stayed would give out a count that the other process has given out."""
        changed = ("a", "b", "c")
        for key in (*changed, "same"):
            await phone.run(partial(count_up, key=key))
        kept = phone.lock.guarded.live[RecordName("counter", b"same")]
        await phone.lock.release_now()
        async with extension.transaction() as transaction:
            for key in changed:
                assert await count_up(transaction, key) == 2
        await extension.lock.release_now()
        await take_over(phone)
        assert phone.lock.guarded.live == {RecordName("counter", b"same"): kept}
        bench.assert_cache_is_snapshot(phone)
        assert [await phone.run(partial(count_up, key=key)) for key in (*changed, "same")] == [3, 3, 3, 2]

    async def test_an_operation_of_a_dead_guard_finds_no_live_object(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await phone.run(count_up)
        await phone.run(lambda transaction: count_up(transaction, "kept"))
        async with failing(LeaseLost, phone.transaction()) as zombie:
            await lose_lease(bench, extension)
            await phone.lock.renew_now()
            assert await apart(phone.run(count_up)) == 3
            assert phone.statistics().live_objects == 2
            assert await count_up(zombie) == 2, "it goes on with its own snapshot"
        bench.assert_cache_is_snapshot(phone)
        assert await phone.run(count_up) == 4

    async def test_a_truncated_log_drops_everything(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await phone.run(count_up)
        await phone.lock.release_now()
        await extension.run(lambda transaction: count_up(transaction, "b"))
        await extension.lock.release_now()
        await extension.gated.truncate(Version(2))
        await take_over(phone)
        assert (phone.statistics().cached_records, phone.statistics().live_objects) == (0, 0)
        bench.assert_cache_is_snapshot(phone)

    async def test_an_unchanged_store_drops_nothing(self, phone: Instance, extension: Instance) -> None:
        await phone.run(count_up)
        await phone.lock.release_now()
        assert await extension.query(count_of) == 1
        await extension.lock.release_now()
        await take_over(phone)
        assert phone.statistics().cached_records == 1
        assert phone.statistics().invalidations == 0

    async def test_the_log_says_where_a_record_was_lost(
        self, bench: Workbench, phone: Instance, extension: Instance, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, logger="unwedged")
        await phone.run(count_up)
        await lose_lease(bench, extension)
        await phone.lock.renew_now()
        said = [record.getMessage() for record in caplog.records]
        assert said == [
            "lease acquired label=phone epoch=1",
            "cache synced label=phone epoch=1 version=0 since=0 dropped=0 kept=0",
            "committed label=phone epoch=1 version=1 records=1",
            "lease acquired label=extension epoch=2",
            "cache synced label=extension epoch=2 version=1 since=0 dropped=0 kept=0",
            "committed label=extension epoch=2 version=2 records=1",
            "lease released label=extension epoch=2",
            "lease lost label=phone epoch=1 version=1",
        ]


async def test_the_change_log_is_truncated_now_and_then(phone: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crypto_store, "KEPT_VERSIONS", 3)
    monkeypatch.setattr(crypto_store, "TRUNCATE_EVERY_VERSIONS", 2)
    for _ in range(6):
        await phone.run(count_up)
    await asyncio.gather(*phone._tasks)
    log = await phone.gated.changes(Version(0), None)
    assert log.floor == 3
    assert [change.version for change in log.changes] == [4, 5, 6]


async def test_a_failed_truncation_costs_nothing(
    phone: Instance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(crypto_store, "KEPT_VERSIONS", 0)
    monkeypatch.setattr(crypto_store, "TRUNCATE_EVERY_VERSIONS", 1)
    phone.gated.failures["truncate"] = StoreBusy("busy")
    await phone.run(count_up)
    await asyncio.gather(*phone._tasks)
    assert "truncating failed label=phone floor=1" in caplog.text


async def test_representations_say_much_and_no_secret(phone: Instance) -> None:
    async with phone.transaction() as transaction:
        transaction.put(DEVICE, "secret key", b"secret value")
        assert repr(transaction) == "<Transaction epoch=1 version=0>"
    async with phone.view() as view:
        await view.get(DEVICE, "secret key")
        assert repr(phone) == "<CryptoStore 'phone' held epoch=1 version=1 cached=1 running=1>"
    assert repr(view) == "<View epoch=1 version=1 ended>"
    assert phone.lock.guard.stage is Stage.HELD
    for shown in (repr(phone), repr(transaction), repr(view), repr(phone.statistics())):
        assert "secret" not in shown


class TestDamage:
    """What does not authenticate must not stop everybody for ever, and must not be taken for anything."""

    @pytest.fixture(params=["key = x'0102'", "kind = CAST(x'ff' AS TEXT)"])
    async def damaged(
        self, bench: Workbench, phone: Instance, extension: Instance, request: pytest.FixtureRequest
    ) -> Workbench:
        """Let ``phone`` know three records, and ``extension`` change one; the line that says so is damaged."""
        for key in "abc":
            await phone.run(lambda transaction, key=key: count_up(transaction, key))  # type: ignore[misc]
        await phone.lock.release_now()
        await extension.run(lambda transaction: count_up(transaction, "b"))
        await extension.lock.release_now()
        bench.edit(f"UPDATE change SET {request.param} WHERE version = 4")  # noqa: S608 (one of the two above)
        return bench

    async def test_a_line_that_can_not_be_read_empties_the_cache(
        self, damaged: Workbench, phone: Instance, caplog: pytest.LogCaptureFixture
    ) -> None:
        await take_over(phone)
        assert (phone.statistics().cached_records, phone.statistics().live_objects) == (0, 0)
        damaged.assert_cache_is_snapshot(phone)
        [warning] = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert re.search("kind=(counter|\ufffd) version=4", warning.getMessage())
        assert "0102" not in warning.getMessage()
        assert await phone.run(lambda transaction: count_up(transaction, "b")) == 3

    async def test_subscribers_are_told_that_they_lagged(self, bench: Workbench, phone: Instance) -> None:
        other = await bench.instance("other")
        async with phone.subscribe(COUNTER) as changes:
            await other.run(count_up)
            bench.edit("UPDATE change SET key = x'0102'")
            await phone.listen_now()
            assert await anext(changes) == Lagged(Version(1))
            await other.run(count_up)
            await phone.listen_now()
            assert (await anext(changes)).version == 2

    async def test_everybody_goes_on(self, damaged: Workbench, phone: Instance, extension: Instance) -> None:
        newcomer = await damaged.instance("newcomer")
        for count, store in enumerate((newcomer, phone, extension), 1):
            assert await store.run(count_up) == count
            await store.lock.release_now()

    async def test_a_value_that_can_not_be_decoded_fails_its_reader(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        async def write(transaction: Transaction) -> None:
            transaction.put(COUNTER, "n", Counter(7))

        await extension.run(count_up)
        await extension.lock.release_now()
        bench.edit("UPDATE record SET value = x'0102'")
        with pytest.raises(TamperedRecord, match="the value of a 'counter' record"):
            await phone.query(count_of)
        with pytest.raises(TamperedRecord):
            await phone.run(count_up)
        await phone.run(write)
        assert await phone.query(count_of) == 7

    async def test_a_key_that_can_not_be_read_is_no_record(
        self, bench: Workbench, phone: Instance, extension: Instance, caplog: pytest.LogCaptureFixture
    ) -> None:
        for key in "ab":
            await extension.run(lambda transaction, key=key: count_up(transaction, key))  # type: ignore[misc]
        await extension.lock.release_now()
        bench.edit("UPDATE record SET key = x'0102' WHERE rowid = 1")
        async with phone.view() as view:
            assert await view.keys(COUNTER) == ("b",)
            assert await view.get(COUNTER, "a") is None
            assert await view.keys(COUNTER) == ("b",)
            assert await view.keys(DEVICE) == ()
        said = [record.getMessage() for record in caplog.records]
        [warning] = [message for message in said if "left out of listings" in message]
        assert "kind=counter rows=1" in warning
        assert "0102" not in "".join(said)
