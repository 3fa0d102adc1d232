"""Transactions and views read one version, commit together, and are retried."""

from __future__ import annotations

import asyncio

import pytest

from tests.store.crypto_store.operations import BrokenCounter, count_of, counter_of, lose_lease
from tests.store.stores import (
    COUNTER,
    DEVICE,
    PLAIN,
    Counter,
    Instance,
    Workbench,
    all_that_can_run,
    apart,
    count_up,
    failing,
    take_over,
)
from unwedged.protocol.guard import NO_GUARD
from unwedged.protocol.identifiers import Version
from unwedged.store import (
    Changed,
    InvalidArgument,
    LeaseLost,
    OperationEnded,
    OperationInterrupted,
    SnapshotMoved,
    Transaction,
    View,
    crypto_store,
)
from unwedged.store.guarded_cache import OVERHEAD_BYTES, RecordName


class TestTransactions:
    # P5.5, P5.8, P5.18
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

    # P5.8
    async def test_the_keys_are_those_of_the_store_and_of_the_transaction(self, phone: Instance) -> None:
        async with phone.transaction() as transaction:
            for name in ("a", "b", "c"):
                transaction.put(DEVICE, name, b"")
            transaction.put(PLAIN, "of another kind", b"")
        async with phone.transaction() as transaction:
            transaction.delete(DEVICE, "b")
            transaction.put(DEVICE, "d", b"")
            transaction.put(PLAIN, "of another kind, too", b"")
            assert await transaction.keys(DEVICE) == ("a", "c", "d")
        async with phone.view() as view:
            assert await view.keys(DEVICE) == ("a", "c", "d")

    async def test_when_it_has_ended_nothing_runs(self, phone: Instance) -> None:
        await take_over(phone)
        running = phone.lock.guarded.admission.operations
        async with phone.view() as view:
            assert {repr(operation) for operation in running} == {"<ViewOperation epoch=1 version=0>"}
        assert repr(view) == "<View epoch=1 version=0 ended>"
        assert running == set()
        async with phone.transaction() as transaction:
            assert {repr(operation) for operation in running} == {"<TransactionOperation epoch=1 version=0>"}
        assert repr(transaction) == "<Transaction epoch=1 version=0 ended>"
        assert running == set()

    # P5.23, P5.24
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

    # P0.13, P5.4, P6.8
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

    # P5.4
    async def test_two_gets_at_once_give_one_object(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        """Both find no cached record, and both load it."""
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

    # P5.5
    async def test_a_get_that_loads_does_not_undo_a_put_meanwhile(self, phone: Instance) -> None:
        async with phone.transaction() as transaction:
            gate = phone.gated.hold_after("load")
            slow = asyncio.create_task(counter_of(transaction))
            await gate.reached.wait()
            made = Counter(7)
            transaction.put(COUNTER, "n", made)
            gate.opened.set()
            assert await slow is made

    # P5.10
    async def test_nothing_is_put_during_the_commit(self, bench: Workbench, phone: Instance) -> None:
        """It would be dropped silently, since the written values were encoded before."""
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

    # P5.10
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

    # P5.6, P5.24
    async def test_what_was_not_put_was_not_changed(self, phone: Instance) -> None:
        await phone.run(count_up)
        async with phone.transaction() as transaction:
            counter = await transaction.get(COUNTER, "n")
            assert counter is not None
            counter.count = 100
        assert await phone.run(count_up) == 2

    # P5.7
    async def test_what_was_put_was_changed(self, phone: Instance) -> None:
        """An object that is put unchanged counts as changed, since the store does not compare values."""
        await phone.run(count_up)
        async with phone.subscribe(COUNTER) as changes:
            async with phone.transaction() as transaction:
                counter = await transaction.get(COUNTER, "n")
                assert counter is not None
                transaction.put(COUNTER, "n", counter)
            async with phone.transaction() as deletion:
                deletion.delete(COUNTER, "never there")
            assert (transaction.committed, deletion.committed) == (2, 3)
            assert [await anext(changes) for _ in range(2)] == [
                Changed(Version(2), "n"),
                Changed(Version(3), "never there"),
            ]

    # P5.6
    async def test_an_object_is_written_as_it_is_at_the_commit(self, bench: Workbench, phone: Instance) -> None:
        async with phone.transaction() as transaction:
            counter = Counter(1)
            transaction.put(COUNTER, "n", counter)
            counter.count = 7
        assert bench.stored() == {RecordName("counter", b"n"): b"7"}
        bench.assert_cache_is_snapshot(phone)

    # P5.5
    async def test_the_last_of_several_puts_and_deletes_counts(self, bench: Workbench, phone: Instance) -> None:
        async with phone.transaction() as transaction:
            transaction.put(DEVICE, "a", b"1")
            transaction.delete(DEVICE, "a")
            transaction.put(DEVICE, "a", b"2")
            assert await transaction.get(DEVICE, "a") == b"2"
            transaction.put(DEVICE, "b", b"3")
            transaction.delete(DEVICE, "b")
        assert bench.stored() == {RecordName("device", b"a"): b"2"}
        bench.assert_cache_is_snapshot(phone)

    # P5.9
    async def test_an_object_put_twice_is_two_afterwards(self, bench: Workbench, phone: Instance) -> None:
        async with phone.transaction() as transaction:
            counter = Counter(1)
            transaction.put(COUNTER, "n", counter)
            transaction.put(COUNTER, "m", counter)
        assert await phone.run(count_up) == 2
        bench.assert_cache_is_snapshot(phone)

    # P5.20
    async def test_a_deleted_record_leaves_no_live_object(self, bench: Workbench, phone: Instance) -> None:
        await phone.run(count_up)
        async with phone.transaction() as transaction:
            transaction.delete(COUNTER, "n")
        bench.assert_cache_is_snapshot(phone)
        assert await phone.run(count_up) == 1

    # P5.1
    async def test_they_run_one_at_a_time(self, phone: Instance) -> None:
        assert sorted(await asyncio.gather(*(phone.run(count_up) for _ in range(20)))) == list(range(1, 21))

    # P5.12, P6.1
    async def test_one_that_only_read_is_validated(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await phone.run(count_up)
        async with failing(LeaseLost, phone.transaction()) as transaction:
            await transaction.get(COUNTER, "n")
            await lose_lease(bench, extension)
        assert phone.lock.guard == NO_GUARD

    # P4.8
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

    # P4.8
    async def test_a_record_that_one_operation_loaded_is_at_hand_for_the_next(
        self, phone: Instance, extension: Instance
    ) -> None:
        await phone.run(count_up)
        await phone.lock.release_now()
        for _ in range(2):
            async with extension.view() as view:
                assert await count_of(view) == 1
        async with extension.transaction() as transaction:
            counter = await transaction.get(COUNTER, "n")
            assert counter is not None
            assert counter.count == 1
        assert extension.gated.calls.count("load") == 1

    # P2.16
    async def test_a_record_that_was_read_again_is_not_the_next_to_be_forgotten(self, bench: Workbench) -> None:
        phone = await bench.instance("phone", cache_limit_bytes=2 * (OVERHEAD_BYTES + 10))
        for name in ("a", "b"):
            async with phone.transaction() as transaction:
                transaction.put(DEVICE, name, b"1")
        async with phone.view() as view:
            await view.get(DEVICE, "a")
        async with phone.transaction() as transaction:
            transaction.put(DEVICE, "c", b"1")
        assert {name.key for name in phone.lock.guarded.cache.records} == {b"a", b"c"}

    # P5.13, P6.5
    async def test_a_value_that_has_no_encoding_spoils_nothing(self, bench: Workbench, phone: Instance) -> None:
        await phone.run(count_up)
        async with failing(InvalidArgument, phone.transaction()) as transaction:
            await count_up(transaction)
            transaction.put(COUNTER, "m", BrokenCounter(1))
        assert await phone.run(count_up) == 2
        bench.assert_cache_is_snapshot(phone)


async def test_reads_and_commits_are_counted(phone: Instance) -> None:
    def counted() -> tuple[int, int, int]:
        told = phone.statistics()
        return told.hits, told.misses, told.commits

    assert counted() == (0, 0, 0)
    for times in (1, 2):
        await phone.run(count_up, f"{times}")
        async with phone.view() as view:
            for _ in range(2):
                await view.get(COUNTER, f"{times}")
        assert counted() == (2 * times, times, times)


class TestViews:
    # P3.2, P5.3
    async def test_they_see_one_version_while_others_commit(self, phone: Instance) -> None:
        await phone.run(count_up)
        async with phone.view() as view:
            assert await count_of(view) == 1
            await apart(phone.run(count_up))
            assert await count_of(view) == 1
        assert await phone.query(count_of) == 2

    # P4.6, P4.7, P4.9, P4.10
    async def test_a_record_that_a_view_can_no_longer_load_is_reported(self, bench: Workbench, phone: Instance) -> None:
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

    # P4.8
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

    # P3.4, P4.8
    async def test_a_load_that_comes_back_after_its_guard_was_lost_leaves_the_cache_alone(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        """A cache of a dead guard is what the next one is made from."""
        gate = phone.gated.hold_after("load")
        looking = asyncio.create_task(phone.query(count_of))
        await gate.reached.wait()
        bench.expire_lease()
        await take_over(extension)
        await phone.lock.renew_now()
        assert phone.lock.guard == NO_GUARD
        before = phone.lock.guarded.cache
        gate.opened.set()
        await all_that_can_run()
        assert phone.lock.guarded.cache is before
        await extension.lock.release_now()
        assert await looking is None

    # P5.15, P11.2
    async def test_none_begins_while_a_commit_is_in_flight(self, phone: Instance) -> None:
        await phone.run(count_up)
        gate = phone.gated.hold_after("commit")
        committing = asyncio.create_task(phone.run(count_up))
        await gate.reached.wait()
        looking = asyncio.create_task(phone.query(count_of))
        for _ in range(20):
            await asyncio.sleep(0)
        assert phone.lock.guarded.admission.running == 1
        gate.opened.set()
        assert await committing == 2
        assert await looking == 2

    # P4.13, P6.1
    async def test_without_the_lease_there_is_no_answer(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await phone.run(count_up)
        async with failing(LeaseLost, phone.view()) as view:
            assert await count_of(view) == 1
            await lose_lease(bench, extension)
        assert await phone.query(count_of) == 2

    # P4.3, P4.5
    async def test_a_load_without_the_lease_is_stopped(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        async with failing(LeaseLost, phone.view()) as view:
            await view.get(DEVICE, "d")
            await lose_lease(bench, extension)
            await view.get(COUNTER, "n")
        assert phone.lock.guard == NO_GUARD


class TestRerunning:
    # P4.11, S4.1
    async def test_a_lost_lease_is_not_noticed_by_the_caller(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
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

    # P4.12
    async def test_it_ends_after_the_stated_number_of_attempts(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        tries = 0

        async def hopeless(_view: View) -> None:
            nonlocal tries
            tries += 1
            await asyncio.create_task(lose_lease(bench, extension))

        with pytest.raises(OperationInterrupted, match=r"in the last of 5 attempts: look for .*, or try again"):
            await phone.query(hopeless)
        assert tries == crypto_store.MOST_ATTEMPTS
        with pytest.raises(OperationInterrupted):
            await phone.query(hopeless, attempts=1)
        assert tries == crypto_store.MOST_ATTEMPTS + 1
        with pytest.raises(ValueError, match="at least one attempt"):
            await phone.query(hopeless, attempts=0)

    # P6.2
    async def test_other_failures_are_the_callers(self, phone: Instance) -> None:
        async def wrong(_transaction: Transaction) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await phone.run(wrong)

    # P5.22
    async def test_results_leave_only_after_the_commit(self, phone: Instance) -> None:
        gate = phone.gated.hold_before("commit")
        running = asyncio.create_task(phone.run(count_up))
        await gate.reached.wait()
        assert not running.done()
        gate.opened.set()
        assert await running == 1
