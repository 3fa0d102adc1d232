"""Failed operations and commits leave the store consistent, and raise only confirmed errors."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.store.crypto_store.operations import BrokenCounter, NoSuchRecord, count_of, lose_lease
from tests.store.stores import COUNTER, DEVICE, Instance, Workbench, apart, count_up, failing, take_over
from unwedged.protocol.guard import NO_GUARD, Stage
from unwedged.store import (
    InvalidArgument,
    LeaseLost,
    SnapshotMoved,
    StorageFailed,
    StoreBusy,
    StoreReplaced,
    Transaction,
    View,
)


async def device_of(view: View) -> bytes | None:
    return await view.get(DEVICE, "d")


async def demand(reader: Transaction | View) -> int:
    counter = await reader.get(COUNTER, "n")
    if counter is None:
        raise NoSuchRecord
    return counter.count


def confirmed_by(store: Instance) -> int:
    return store.gated.calls.count("check")


class TestFailuresAreAnswers:
    """An exception that an operation raises says something about the store, and may be as stale as any other result."""

    # P6.3
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

    # P6.3
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

    # P6.2
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

    # P8.2
    async def test_the_confirmation_notes_a_waiter(self, phone: Instance, extension: Instance) -> None:
        await take_over(phone)
        await extension.lock.acquire_now()
        with pytest.raises(NoSuchRecord):
            await phone.run(demand)
        assert phone.lock.guard.stage is not Stage.HELD

    # P6.4
    async def test_where_it_can_not_be_confirmed_that_is_raised(self, phone: Instance) -> None:
        for doubt in (StoreBusy("busy"), StorageFailed("no disk")):
            phone.gated.failures["check"] = doubt
            with pytest.raises(type(doubt)) as told:
                await phone.query(demand)
            assert isinstance(told.value.__cause__, NoSuchRecord)

    # P6.7
    @pytest.mark.parametrize("failure", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
    async def test_an_exception_that_ends_the_program_is_not_confirmed(
        self, phone: Instance, failure: type[BaseException]
    ) -> None:
        for begin in (phone.transaction, phone.view):
            async with failing(failure, begin()):
                raise failure
        assert confirmed_by(phone) == 0

    # P6.5
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
    """An operation that catches its interruption and continues is interrupted again at each access and at its end."""

    # P4.14
    @pytest.mark.parametrize("ending", ["normally", "by an exception of its own"])
    async def test_by_a_lost_lease(self, bench: Workbench, phone: Instance, extension: Instance, ending: str) -> None:
        await phone.run(count_up)
        async with failing(LeaseLost, phone.transaction()) as transaction:
            assert await transaction.get(COUNTER, "n") is not None
            await lose_lease(bench, extension)
            with pytest.raises(LeaseLost):
                await transaction.get(DEVICE, "d")
            with pytest.raises(LeaseLost):
                await transaction.get(COUNTER, "n")  # although it has read this record already
            with pytest.raises(LeaseLost):
                await transaction.keys(COUNTER)
            with pytest.raises(LeaseLost):
                transaction.put(DEVICE, "d", b"")
            with pytest.raises(LeaseLost):
                transaction.delete(DEVICE, "d")
            if ending != "normally":
                raise NoSuchRecord

    # P4.14
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

    # P4.14
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

    # P4.11, P4.14
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
    # P5.23
    async def test_a_busy_database_leaves_the_cache_as_it_was(self, bench: Workbench, phone: Instance) -> None:
        await phone.run(count_up)
        phone.gated.failures["commit"] = StoreBusy("busy")
        with pytest.raises(StoreBusy):
            await phone.run(count_up)
        assert phone.lock.guard.epoch == 1
        bench.assert_cache_is_snapshot(phone)
        assert await phone.run(count_up) == 2

    # P5.23
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

    # P5.23
    @pytest.mark.parametrize("failure", [ZeroDivisionError, KeyboardInterrupt, asyncio.CancelledError])
    @pytest.mark.parametrize("also", ["committed", "lease lost"])
    async def test_nothing_is_lost_if_what_the_application_does_in_between_fails(
        self,
        bench: Workbench,
        phone: Instance,
        caplog: pytest.LogCaptureFixture,
        failure: type[BaseException],
        also: str,
    ) -> None:
        """The log, the tracer, the clock or a signal fails after the commit, before the cache takes the values."""

        def fail(record: logging.LogRecord) -> bool:
            if record.msg.startswith(("committed", also)):
                raise failure
            return True

        caplog.set_level(logging.DEBUG, "unwedged")
        caplog.handler.addFilter(fail)
        async with phone.subscribe(COUNTER) as changes:
            with pytest.raises(failure):
                await phone.run(count_up)
            assert phone.lock.guard == NO_GUARD
            caplog.handler.removeFilter(fail)
            assert [await phone.run(count_up) for _ in range(2)] == [2, 3]
            assert [(await anext(changes)).version for _ in range(3)] == [1, 2, 3]
        bench.assert_cache_is_snapshot(phone)

    # P3.5, P5.21
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

    # P12.2
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

    # P12.2
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
