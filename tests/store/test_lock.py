"""The lease as one process uses it: when operations may begin, and what ends a guard."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from itertools import accumulate
from random import Random
from typing import TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tests.store.stores import (
    DEVICE,
    PATIENCE,
    Instance,
    SeededRandomness,
    Workbench,
    all_that_can_run,
    apart,
    count_up,
    take_over,
)
from unwedged.protocol import guard as rules
from unwedged.protocol.guard import NO_GUARD, Stage
from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds
from unwedged.protocol.lease import Lease
from unwedged.store.errors import LeaseLost, StorageFailed, StoreBusy, StoreClosed, StoreError
from unwedged.store.lock import LeaseTimes
from unwedged.store.row_watch import (
    EAGER_LOOKS,
    LEAVE_FREE_MS,
    LONGEST_PAUSE_MS,
    PAUSE_DIVISOR,
    PAUSE_DIVISOR_IF_NEXT,
    SHORT_TURN_MS,
    SHORTEST_PAUSE_MS,
    RowWatch,
)

Answer = TypeVar("Answer")


async def lock_tasks_end(store: Instance) -> None:
    """Wait until the lock's own tasks (acquisitions and releases) have ended."""
    async with asyncio.timeout(PATIENCE):
        while store.lock._tasks:
            await asyncio.wait(store.lock._tasks)


class TestTimes:
    def test_the_defaults_are_valid(self) -> None:
        assert LeaseTimes() == LeaseTimes(Milliseconds(2000), Milliseconds(500), Milliseconds(100))

    @pytest.mark.parametrize(
        ("duration", "renew_every_ms", "idle_after_ms"),
        [(0, 1, 1), (60_001, 500, 100), (2000, 667, 100), (2000, 0, 100), (2000, 500, 0)],
    )
    def test_others_are_refused(self, duration: int, renew_every_ms: int, idle_after_ms: int) -> None:
        with pytest.raises(ValueError, match="ms"):
            LeaseTimes(Milliseconds(duration), Milliseconds(renew_every_ms), Milliseconds(idle_after_ms))


class TestAcquiring:
    async def test_the_epoch_grows_each_time(self, phone: Instance) -> None:
        for epoch in (1, 2, 3):
            await take_over(phone)
            assert phone.lock.guard.epoch == epoch
            await phone.lock.release_now()
            assert phone.lock.guard == NO_GUARD

    async def test_a_refused_instance_sets_wanted(self, phone: Instance, extension: Instance) -> None:
        await take_over(phone)
        assert not await extension.lock.acquire_now()
        assert extension.lock.guard == NO_GUARD
        await phone.lock.renew_now()
        assert phone.lock.guard.stage is Stage.CLOSING
        await lock_tasks_end(phone)
        assert phone.lock.guard == NO_GUARD
        await take_over(extension)

    async def test_a_lapsed_lease_is_taken_and_its_guard_dies_at_the_next_access(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await take_over(phone)
        bench.lapse()
        await take_over(extension)
        assert phone.lock.guard.stage is Stage.HELD
        await phone.lock.renew_now()
        assert phone.lock.guard == NO_GUARD
        assert phone.statistics().leases_lost == 1

    async def test_a_clock_that_jumps_back_leaves_nobody_stuck(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await take_over(phone)
        bench.clock.time -= 500_000
        await take_over(extension)

    async def test_all_waiting_operations_share_one_acquisition(self, phone: Instance) -> None:
        await asyncio.gather(*(held(phone) for _ in range(10)))
        assert phone.gated.calls == ["look", "acquire", "changes"]

    async def test_a_cancelled_caller_cancels_it_for_nobody(self, phone: Instance) -> None:
        gate = phone.gated.hold_before("changes")
        first, second = asyncio.create_task(held(phone)), asyncio.create_task(held(phone))
        await gate.reached.wait()
        first.cancel()
        gate.opened.set()
        await second
        assert first.cancelled()
        assert phone.gated.calls == ["look", "acquire", "changes"]

    async def test_nothing_begins_before_the_sync_is_done(self, phone: Instance) -> None:
        gate = phone.gated.hold_after("changes")
        early = asyncio.create_task(held(phone))
        await gate.reached.wait()
        late = asyncio.create_task(held(phone))
        await all_that_can_run()
        assert phone.lock.guard.stage is Stage.SYNCING
        assert not early.done()
        assert not late.done()
        gate.opened.set()
        await asyncio.gather(early, late)

    @pytest.mark.parametrize("failure", [StoreBusy("busy"), StorageFailed("no disk"), RuntimeError("a bug")])
    async def test_a_failed_sync_leaves_no_guard_and_is_told_to_all(
        self, phone: Instance, extension: Instance, bench: Workbench, failure: Exception
    ) -> None:
        await extension.run(count_up)
        await extension.lock.release_now()
        phone.gated.failures["changes"] = failure
        outcomes = await asyncio.gather(*(held(phone) for _ in range(3)), return_exceptions=True)
        assert outcomes == [failure] * 3
        assert phone.lock.guard == NO_GUARD
        assert phone.lock.guarded.cache.version == 0, "it must not count as synced"
        assert await phone.run(count_up) == 2
        bench.assert_cache_is_snapshot(phone)

    async def test_after_a_failed_sync_somebody_else_gets_the_lease(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        """The sync fails again and again, and so does whoever runs an operation again and again."""

        async def stubborn() -> None:
            while True:
                phone.gated.failures["changes"] = StorageFailed("no disk")
                with pytest.raises(StorageFailed):
                    await held(phone)

        trying = asyncio.create_task(stubborn())
        await bench.clock.asleep(0)
        waiting = asyncio.create_task(held(extension))
        await pauses_end(extension, waiting)
        assert extension.lock.guard.stage is Stage.HELD
        trying.cancel()

    async def test_a_failed_sync_gives_the_row_up(self, phone: Instance, extension: Instance) -> None:
        phone.gated.failures["changes"] = StorageFailed("no disk")
        with pytest.raises(StorageFailed):
            await phone.lock.acquire_now()
        await take_over(extension)

    async def test_it_stands_back_only_if_somebody_waits(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        phone.gated.failures["changes"] = StorageFailed("no disk")
        with pytest.raises(StorageFailed):
            await held(phone)
        async with asyncio.timeout(PATIENCE):
            await held(phone)
        assert bench.clock.slept == []
        await phone.lock.release_now()

        gate = phone.gated.hold_before("changes")
        phone.gated.failures["changes"] = StorageFailed("no disk")
        failing = asyncio.create_task(held(phone))
        await gate.reached.wait()
        assert not await extension.lock.acquire_now()
        gate.opened.set()
        with pytest.raises(StorageFailed):
            await failing
        again = asyncio.create_task(held(phone))
        await pauses_end(phone, again)
        assert LONGEST_PAUSE_MS <= sum(bench.clock.slept) <= 3 * LONGEST_PAUSE_MS

    async def test_where_the_row_can_not_be_given_up_the_lease_lapses(
        self, bench: Workbench, phone: Instance, extension: Instance, caplog: pytest.LogCaptureFixture
    ) -> None:
        phone.gated.failures |= {"changes": StorageFailed("no disk"), "release": StoreBusy("busy")}
        with pytest.raises(StorageFailed):
            await phone.lock.acquire_now()
        assert "release failed label=phone epoch=1: busy" in caplog.text
        assert not await extension.lock.acquire_now()
        bench.lapse()
        await take_over(extension)

    async def test_a_failure_that_somebody_is_told_is_not_logged_as_well(
        self, phone: Instance, caplog: pytest.LogCaptureFixture
    ) -> None:
        phone.gated.failures["changes"] = StorageFailed("no disk")
        with pytest.raises(StorageFailed):
            await phone.run(count_up)
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []

    @pytest.mark.parametrize("failure", [StorageFailed("no disk"), RuntimeError("a mistake")])
    async def test_a_failure_that_nobody_is_told_is_logged_once(
        self, phone: Instance, caplog: pytest.LogCaptureFixture, failure: Exception
    ) -> None:
        """A traceback is for those who can mend the program."""
        gate = phone.gated.hold_before("changes")
        phone.gated.failures["changes"] = failure
        leaving = asyncio.create_task(phone.run(count_up))
        await gate.reached.wait()
        leaving.cancel()
        gate.opened.set()
        await lock_tasks_end(phone)
        [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
        if isinstance(failure, StorageFailed):
            assert record.getMessage() == "asking for the lease failed label=phone: no disk"
            assert record.exc_info is None
        else:
            assert record.exc_info is not None
            assert record.exc_info[1] is failure

    async def test_a_lease_that_lapses_during_the_sync_is_asked_for_again(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        gate = phone.gated.hold_before("changes")
        waiting = asyncio.create_task(held(phone))
        await gate.reached.wait()
        bench.lapse()
        await take_over(extension)
        await extension.lock.release_now()
        gate.opened.set()
        await waiting
        assert phone.lock.guard.epoch == 3

    async def test_a_renewal_may_find_out_during_the_sync(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        gate = phone.gated.hold_after("changes")
        acquiring = asyncio.create_task(phone.lock.acquire_now())
        await gate.reached.wait()
        bench.lapse()
        await take_over(extension)
        await phone.lock.renew_now()
        gate.opened.set()
        with pytest.raises(LeaseLost):
            await acquiring
        assert phone.lock.guard == NO_GUARD

    async def test_a_waiting_instance_looks_eagerly_and_then_after_growing_pauses(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await take_over(phone)
        waiting = asyncio.create_task(held(extension))
        await bench.clock.asleep(1)
        assert extension.gated.calls == ["look", "acquire"] + EAGER_LOOKS * ["look"]
        for pauses in range(1, 95):
            await bench.clock.asleep(pauses)
            bench.clock.advance(bench.clock.slept[-1])
        await bench.clock.asleep(95)
        bounds = [
            min(max(so_far // PAUSE_DIVISOR_IF_NEXT, SHORTEST_PAUSE_MS), LONGEST_PAUSE_MS)
            for so_far in accumulate(bench.clock.slept, initial=0)
        ]
        assert all(bound / 2 <= pause <= bound for bound, pause in zip(bounds, bench.clock.slept, strict=False))
        assert bounds[-1] == LONGEST_PAUSE_MS
        assert len(set(bench.clock.slept[-9:])) > 1, "chance keeps those who wait from looking in step"
        assert extension.gated.calls.count("acquire") == 1, "word was left once"
        await phone.lock.release_now()
        bench.clock.advance(LONGEST_PAUSE_MS)
        await waiting

    async def test_when_the_lease_changes_hands_looking_begins_anew(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await take_over(phone)
        waiting = asyncio.create_task(held(extension))
        for pauses in range(1, 9):
            await bench.clock.asleep(pauses)
            bench.clock.advance(LONGEST_PAUSE_MS)
        await bench.clock.asleep(9)
        await phone.lock.release_now()
        await take_over(phone)
        del extension.gated.calls[:]
        bench.clock.advance(LONGEST_PAUSE_MS)
        await bench.clock.asleep(10)
        assert extension.gated.calls == ["look", "acquire"], "word is left anew, but it looks eagerly only at first"
        assert bench.clock.slept[9] <= SHORTEST_PAUSE_MS
        await phone.lock.release_now()
        bench.clock.advance(LONGEST_PAUSE_MS)
        await waiting

    async def test_nobody_asks_when_nobody_waits_any_more(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await take_over(phone)
        waiting = asyncio.create_task(held(extension))
        await bench.clock.asleep(1)
        waiting.cancel()
        before = list(extension.gated.calls)
        bench.clock.advance(LONGEST_PAUSE_MS)
        await lock_tasks_end(extension)
        assert extension.gated.calls == before


class TestGivingWay:
    async def test_what_runs_may_finish_and_nothing_new_begins(self, phone: Instance, extension: Instance) -> None:
        began, go_on = asyncio.Event(), asyncio.Event()

        async def lasting() -> None:
            async with phone.view():
                began.set()
                await go_on.wait()

        running = asyncio.create_task(lasting())
        await began.wait()
        await extension.lock.acquire_now()
        await phone.lock.renew_now()
        assert phone.lock.guard.stage is Stage.CLOSING
        new = asyncio.create_task(phone.run(count_up))
        await all_that_can_run()
        assert phone.lock.guarded.turns.running == 1
        go_on.set()
        await running
        await take_over_soon(extension)
        assert await extension.run(count_up) == 1
        await extension.lock.release_now()
        await pauses_end(phone, new)
        assert await new == 2

    async def test_an_operation_that_waited_for_its_turn_does_not_begin_once_the_turn_of_the_process_is_over(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await take_over(phone)
        async with phone.view():
            behind = asyncio.create_task(self._many(phone, 3))
            gate = phone.gated.hold_before("commit")
            await gate.reached.wait()
            await extension.lock.acquire_now()
            bench.clock.advance(phone.lock.times.turn_ms)
            await phone.lock.renew_now()
            assert phone.lock.guard.stage is Stage.CLOSING
            gate.opened.set()
        await take_over_soon(extension)
        assert await extension.run(count_up) == 2, "one of the three was done"
        await extension.lock.release_now()
        await pauses_end(phone, behind)
        assert sorted(await behind) == [1, 3, 4]

    async def test_what_waits_here_is_served_before_giving_way(self, phone: Instance, extension: Instance) -> None:
        await take_over(phone)
        async with phone.view():
            behind = asyncio.create_task(self._many(phone, 3))
            gate = phone.gated.hold_before("commit")
            await gate.reached.wait()
            await extension.lock.acquire_now()
            await phone.lock.renew_now()
            assert phone.lock.guard.stage is Stage.HELD, "the turn goes on"
            gate.opened.set()
        assert await behind == [1, 2, 3]
        assert phone.lock.guard == NO_GUARD, "the last one gave the lease up at once"
        assert "release" not in phone.gated.calls
        assert await extension.lock.acquire_now()
        assert phone.gated.calls.count("acquire") == 1

    async def test_a_turn_is_over_at_once_where_nothing_waits(self, phone: Instance, extension: Instance) -> None:
        await take_over(phone)
        async with phone.transaction() as transaction:
            behind = asyncio.create_task(apart(phone.run(count_up)))
            await all_that_can_run()
            await extension.lock.acquire_now()
            await phone.lock.renew_now()
            assert phone.lock.guard.stage is Stage.HELD
            behind.cancel()
            await asyncio.wait((behind,))
            await count_up(transaction)
        assert phone.lock.guard == NO_GUARD
        assert await extension.lock.acquire_now()

    async def test_a_clock_that_jumps_back_ends_a_turn(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await take_over(phone)
        async with phone.transaction():
            behind = asyncio.create_task(apart(phone.run(count_up)))
            await all_that_can_run()
            bench.clock.time -= 1_000
            await extension.lock.acquire_now()
            await phone.lock.renew_now()
            assert phone.lock.guard.stage is Stage.CLOSING
            behind.cancel()

    async def test_a_cancelled_operation_is_passed_over(self, phone: Instance) -> None:
        """Also in the moment before it leaves by itself."""
        await take_over(phone)
        async with phone.transaction():
            behind = [asyncio.create_task(apart(phone.run(count_up))) for _ in range(4)]
            await all_that_can_run()
            for cancelled in behind[:3]:
                cancelled.cancel()
        async with asyncio.timeout(PATIENCE):
            assert await behind[3] == 1

    @pytest.mark.parametrize("waiting", [10, 200])
    async def test_only_those_that_begin_are_woken(
        self, bench: Workbench, phone: Instance, extension: Instance, waiting: int
    ) -> None:
        """What a turn costs does not depend on how many wait."""
        await take_over(extension)
        resumed: list[int] = []
        tasks = [
            asyncio.create_task(Watched(apart(phone.run(count_up)), resumed.append, number).run())
            for number in range(waiting)
        ]
        await bench.clock.asleep(1)
        assert resumed == []
        for turn in range(3):
            await extension.lock.release_now()
            gate = phone.gated.hold_before("commit")
            await pauses_end(phone, asyncio.create_task(gate.reached.wait()))
            await phone.lock.renew_now()
            await extension.lock.acquire_now()
            bench.clock.advance(phone.lock.times.turn_ms)
            gate.opened.set()
            await take_over_soon(extension)
            await all_that_can_run()
            assert set(resumed) == set(range(turn + 1)), "first come, first served"
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _many(self, store: Instance, number: int) -> list[int]:
        return await asyncio.gather(*(asyncio.create_task(apart(store.run(count_up))) for _ in range(number)))

    async def test_an_instance_that_gave_way_stands_back_for_longer_than_a_waiter_pauses(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        """Whoever it gave way to does not come."""
        await self._give_way(phone, extension)
        waiting = asyncio.create_task(held(phone))
        await pauses_end(phone, waiting)
        assert LONGEST_PAUSE_MS <= sum(bench.clock.slept) <= 3 * LONGEST_PAUSE_MS

    async def test_an_instance_that_gave_way_stands_back_only_until_another_had_the_lease(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await self._give_way(phone, extension)
        waiting = asyncio.create_task(held(phone))
        await bench.clock.asleep(1)
        assert set(phone.gated.calls) == {"look"}
        await take_over(extension)
        bench.clock.advance(SHORTEST_PAUSE_MS)
        await bench.clock.asleep(2)
        assert phone.gated.calls.count("acquire") == 1, "it has set wanted"
        await extension.lock.renew_now()
        assert extension.lock.guard.stage is Stage.CLOSING
        await lock_tasks_end(extension)
        bench.clock.advance(LONGEST_PAUSE_MS)
        await waiting

    async def _give_way(self, giver: Instance, taker: Instance) -> None:
        await take_over(giver)
        await taker.lock.acquire_now()
        await giver.lock.renew_now()
        await lock_tasks_end(giver)
        del giver.gated.calls[:]

    async def test_an_instance_that_released_as_idle_does_not_stand_back(self, phone: Instance) -> None:
        await take_over(phone)
        await phone.lock.release_now()
        async with asyncio.timeout(PATIENCE):
            await held(phone)
        assert phone.clock.slept == []

    async def test_a_commit_and_a_view_bring_the_news_too(self, phone: Instance, extension: Instance) -> None:
        for operation in (phone.run(count_up), phone.query(lambda view: view.get(DEVICE, "d"))):
            await take_over_soon(phone)
            await extension.lock.acquire_now()
            await operation
            await lock_tasks_end(phone)
            assert phone.lock.guard == NO_GUARD

    async def test_the_last_commit_gives_the_lease_up_itself(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await take_over(phone)
        await extension.lock.acquire_now()
        await phone.run(count_up)
        assert "release" not in phone.gated.calls
        assert phone.lock.guard == NO_GUARD
        statistics = phone.statistics()
        assert (statistics.version, statistics.cached_records, statistics.leases_lost) == (1, 1, 0), (
            "it knows its commit"
        )
        assert await extension.lock.acquire_now()
        await extension.lock.release_now()
        await take_over(phone)
        assert phone.statistics().records_dropped == 0
        bench.assert_cache_is_snapshot(phone)

    async def test_an_instance_that_gave_way_at_a_commit_stands_back_too(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await take_over(phone)
        await extension.lock.acquire_now()
        await phone.run(count_up)
        waiting = asyncio.create_task(held(phone))
        await pauses_end(phone, waiting)
        assert LONGEST_PAUSE_MS <= sum(bench.clock.slept) <= 3 * LONGEST_PAUSE_MS

    async def test_a_commit_beside_a_view_keeps_the_lease_for_it(self, phone: Instance, extension: Instance) -> None:
        async with phone.view() as view:
            await extension.lock.acquire_now()
            await apart(phone.run(count_up))
            assert phone.lock.guard.stage is Stage.CLOSING
            assert not await extension.lock.acquire_now()
            await view.get(DEVICE, "d")
        await take_over_soon(extension)

    async def test_nothing_begins_between_such_a_commit_and_its_answer(
        self, phone: Instance, extension: Instance
    ) -> None:
        await take_over(phone)
        await extension.lock.acquire_now()
        gate = phone.gated.hold_after("commit")
        giving = asyncio.create_task(phone.run(count_up))
        await gate.reached.wait()
        await take_over(extension)
        assert await extension.run(count_up) == 2
        others = [
            asyncio.create_task(phone.run(count_up)),
            asyncio.create_task(phone.query(lambda view: view.get(DEVICE, "d"))),
        ]
        await all_that_can_run()
        assert phone.lock.guarded.turns.running == 1
        gate.opened.set()
        assert await giving == 1
        await extension.lock.release_now()
        await pauses_end(phone, others[0])
        await pauses_end(phone, others[1])
        assert [await other for other in others] == [3, None]

    async def test_a_renewal_between_such_a_commit_and_its_answer_does_no_harm(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await take_over(phone)
        await extension.lock.acquire_now()
        gate = phone.gated.hold_after("commit")
        giving = asyncio.create_task(phone.run(count_up))
        await gate.reached.wait()
        await phone.lock.renew_now()
        assert phone.lock.guard == NO_GUARD
        gate.opened.set()
        assert await giving == 1
        await take_over(phone)
        bench.assert_cache_is_snapshot(phone)
        assert await phone.run(count_up) == 2

    async def test_such_a_commit_that_fails_gives_nothing_up(self, phone: Instance, extension: Instance) -> None:
        await take_over(phone)
        await extension.lock.acquire_now()
        phone.gated.failures["commit"] = StoreBusy("injected by the test")
        with pytest.raises(StoreBusy):
            await phone.run(count_up)
        assert rules.stands(phone.lock.guard, phone.lock.guard.epoch)
        assert not await extension.lock.acquire_now()
        assert await phone.run(count_up) == 1

    async def test_the_guard_dies_before_the_row_is_free(self, phone: Instance) -> None:
        await take_over(phone)
        gate = phone.gated.hold_before("release")
        releasing = asyncio.create_task(phone.lock.release_now())
        await gate.reached.wait()
        assert phone.lock.guard == NO_GUARD
        gate.opened.set()
        await releasing

    async def test_taking_it_again_waits_for_the_release(self, phone: Instance) -> None:
        await take_over(phone)
        gate = phone.gated.hold_before("release")
        releasing = asyncio.create_task(phone.lock.release_now())
        await gate.reached.wait()
        guarded = asyncio.create_task(held(phone))
        await all_that_can_run()
        assert phone.gated.calls.count("acquire") == 1
        gate.opened.set()
        await asyncio.gather(releasing, guarded)
        assert await phone.run(count_up) == 1

    async def test_nothing_is_released_while_something_runs(self, phone: Instance) -> None:
        async with phone.view():
            await phone.lock.release_now()
            assert phone.lock.guard.stage is Stage.HELD
        await phone.lock.release_now()
        assert phone.lock.guard == NO_GUARD

    async def test_a_failed_release_costs_only_time(
        self, bench: Workbench, phone: Instance, extension: Instance, caplog: pytest.LogCaptureFixture
    ) -> None:
        await take_over(phone)
        await extension.lock.acquire_now()
        phone.gated.failures["release"] = StoreBusy("busy")
        with caplog.at_level(logging.WARNING):
            await phone.lock.renew_now()
            await lock_tasks_end(phone)
        [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert record.getMessage() == "release failed label=phone: busy"
        assert record.exc_info is None
        assert phone.lock.guard == NO_GUARD
        bench.lapse()
        await take_over(extension)


class TestRenewing:
    @pytest.mark.parametrize("late", [False, True])
    async def test_an_answer_about_a_dead_guard_does_not_touch_the_next(
        self, phone: Instance, extension: Instance, bench: Workbench, late: bool
    ) -> None:
        """The renewal of epoch 1 is under way, before or after the database, while epoch 3 comes about."""
        await take_over(phone)
        await extension.lock.acquire_now()
        gate = phone.gated.hold_after("renew") if late else phone.gated.hold_before("renew")
        renewing = asyncio.create_task(phone.lock.renew_now())
        await gate.reached.wait()
        bench.lapse()
        await take_over(extension)
        await phone.lock.renew_now()
        await extension.lock.release_now()
        await take_over(phone)
        gate.opened.set()
        await renewing
        assert phone.lock.guard.stage is Stage.HELD
        assert phone.lock.guard.epoch == 3

    async def test_the_tasks_renew_and_release_by_the_clock(self, phone: Instance) -> None:
        phone.lock.start()
        await take_over(phone)
        await phone.clock.asleep(2)
        assert sorted(phone.clock.slept) == [100, 500]
        async with phone.view():
            phone.clock.advance(100)  # something began since, and is running
            await phone.clock.asleep(3)
            phone.clock.advance(100)
            await phone.clock.asleep(4)
            assert phone.lock.guard.stage is Stage.HELD
        phone.clock.advance(100)  # something ended since
        await phone.clock.asleep(5)
        assert phone.lock.guard.stage is Stage.HELD
        gate = phone.gated.hold_after("release")
        phone.clock.advance(100)
        await gate.reached.wait()
        assert phone.lock.guard == NO_GUARD
        gate.opened.set()

    async def test_a_lease_is_not_idle_right_after_a_sync_that_took_long(self, phone: Instance) -> None:
        """Something waits for it. To give it up now would mean to sync again, perhaps without end."""
        phone.lock.start()
        gate = phone.gated.hold_before("changes")
        acquiring = asyncio.create_task(phone.lock.acquire_now())
        await gate.reached.wait()
        await phone.clock.asleep(2)
        gate.opened.set()
        assert await acquiring
        phone.clock.advance(100)
        await all_that_can_run()
        assert phone.lock.guard.stage is Stage.HELD
        phone.clock.advance(100)
        await all_that_can_run()
        assert phone.lock.guard == NO_GUARD

    @pytest.mark.parametrize("failure", [StoreBusy("busy"), StorageFailed("the disk is full")])
    async def test_a_failed_renewal_is_tried_again(
        self, phone: Instance, caplog: pytest.LogCaptureFixture, failure: StoreError
    ) -> None:
        phone.lock.start()
        await take_over(phone)
        async with phone.view():
            await phone.clock.asleep(2)
            phone.gated.failures["renew"] = failure
            phone.clock.advance(500)
            await phone.clock.asleep(4)
            gate = phone.gated.hold_after("renew")
            phone.clock.advance(500)
            await gate.reached.wait()
            gate.opened.set()
        [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert record.getMessage() == f"renewal failed label=phone epoch=1: {failure}"
        assert record.exc_info is None
        assert phone.lock.guard.stage is Stage.HELD


async def ends_when(go_on: asyncio.Event, store: Instance) -> None:
    async with store.view() as view:
        await go_on.wait()
        await view.get(DEVICE, "d")


class TestOverdue:
    """Somebody waits, and an operation does not end: it may wait for the very process that it keeps out."""

    @pytest.fixture
    async def go_on(self) -> asyncio.Event:
        return asyncio.Event()

    @pytest.fixture
    async def running(
        self, phone: Instance, extension: Instance, go_on: asyncio.Event
    ) -> AsyncIterator[asyncio.Task[None]]:
        """An operation of phone's that runs, while extension waits and phone knows."""
        task = asyncio.create_task(ends_when(go_on, phone))
        await all_that_can_run()
        assert not await extension.lock.acquire_now()
        await phone.lock.renew_now()
        assert phone.lock.guard.stage is Stage.CLOSING
        yield task
        go_on.set()
        await asyncio.gather(task, return_exceptions=True)

    async def test_its_lease_is_renewed_no_more_and_somebody_else_gets_it(
        self,
        bench: Workbench,
        phone: Instance,
        extension: Instance,
        go_on: asyncio.Event,
        running: asyncio.Task[None],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        bench.clock.advance(2001)
        phone.lock.stop_renewing_if_overdue()
        assert phone.lock.guard.stage is Stage.EXPIRING
        [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert warning.endswith("label=phone epoch=1: ends_when (2001 ms)")
        del phone.gated.calls[:]
        await phone.lock.renew_now()
        assert phone.gated.calls == []
        await take_over(extension)
        assert await extension.run(count_up) == 1
        go_on.set()
        with pytest.raises(LeaseLost):
            await running

    async def test_it_may_end_as_long_as_the_lease_lasts(
        self, bench: Workbench, phone: Instance, extension: Instance, go_on: asyncio.Event, running: asyncio.Task[None]
    ) -> None:
        bench.clock.advance(2001)
        phone.lock.stop_renewing_if_overdue()
        go_on.set()
        await running
        await lock_tasks_end(phone)
        assert phone.lock.guard == NO_GUARD
        await take_over(extension)

    async def test_nothing_begins_meanwhile(
        self, bench: Workbench, phone: Instance, running: asyncio.Task[None]
    ) -> None:
        bench.clock.advance(2001)
        phone.lock.stop_renewing_if_overdue()
        new = asyncio.create_task(phone.run(count_up))
        await all_that_can_run()
        assert phone.lock.guarded.turns.running == 1
        assert not running.done()
        await phone.lock.let_expire()
        assert await new == 1

    async def test_it_is_given_its_time(self, bench: Workbench, phone: Instance, running: asyncio.Task[None]) -> None:
        bench.clock.advance(2000)
        phone.lock.stop_renewing_if_overdue()
        assert phone.lock.guard.stage is Stage.CLOSING
        assert not running.done()

    async def test_a_clock_that_was_put_back_gives_it_its_time_once_more(
        self,
        bench: Workbench,
        phone: Instance,
        extension: Instance,
        running: asyncio.Task[None],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """And no more: else whoever waits would wait until the clock is again where it was."""
        bench.clock.time -= 30_000
        phone.lock.stop_renewing_if_overdue()
        del phone.gated.calls[:]
        await phone.lock.renew_now()
        assert phone.gated.calls == ["renew"]
        bench.clock.advance(2001)
        phone.lock.stop_renewing_if_overdue()
        assert phone.lock.guard.stage is Stage.EXPIRING
        assert caplog.records[-1].getMessage().endswith("ends_when (2001 ms)"), "for so long at least"
        await take_over(extension)
        assert not running.done()

    async def test_where_nobody_waits_it_may_take_any_time(self, bench: Workbench, phone: Instance) -> None:
        async with phone.view():
            bench.clock.advance(100_000)
            phone.lock.stop_renewing_if_overdue()
            assert phone.lock.guard.stage is Stage.HELD

    async def test_a_commit_is_given_any_time(self, bench: Workbench, phone: Instance, extension: Instance) -> None:
        gate = phone.gated.hold_before("commit")
        committing = asyncio.create_task(phone.run(count_up))
        await gate.reached.wait()
        assert not await extension.lock.acquire_now()
        await phone.lock.renew_now()
        bench.clock.advance(100_000)
        phone.lock.stop_renewing_if_overdue()
        assert phone.lock.guard.stage is Stage.CLOSING
        gate.opened.set()
        assert await committing == 1

    async def test_a_guard_whose_time_is_up_dies_also_where_nobody_takes_the_lease(
        self, bench: Workbench, phone: Instance, running: asyncio.Task[None]
    ) -> None:
        """Whoever waited may be gone, and what waits here must not wait for the operation."""
        bench.clock.advance(1999)
        await phone.lock.renew_now()
        bench.clock.advance(1999)
        phone.lock.stop_renewing_if_overdue()
        await phone.lock.let_expire()
        assert phone.lock.guard.stage is Stage.EXPIRING
        new = asyncio.create_task(phone.run(count_up))
        await all_that_can_run()
        bench.clock.advance(1)
        await phone.lock.let_expire()
        await pauses_end(phone, new)
        assert await new == 1
        assert not running.done()

    async def test_so_does_one_whose_lease_claims_to_last_longer_than_any(
        self, bench: Workbench, phone: Instance, running: asyncio.Task[None]
    ) -> None:
        """The clock was put back once it was renewed no more: others may take the lease, but nobody does."""
        bench.clock.advance(2001)
        phone.lock.stop_renewing_if_overdue()
        bench.clock.time -= 3_600_000
        await phone.lock.let_expire()
        assert phone.lock.guard == NO_GUARD
        assert not running.done()

    async def test_the_tasks_see_to_it_by_the_clock(
        self, phone: Instance, extension: Instance, running: asyncio.Task[None]
    ) -> None:
        phone.lock.start()
        waiting = asyncio.create_task(held(extension))
        await pauses_end(extension, waiting)
        assert not running.done()
        assert "renew" in phone.gated.calls

    async def test_they_let_the_guard_die_too(self, phone: Instance, running: asyncio.Task[None]) -> None:
        """Whoever waited is gone."""
        phone.lock.start()
        new = asyncio.create_task(phone.run(count_up))
        await pauses_end(phone, new)
        assert await new == 1
        assert not running.done()


def row(epoch: int, holder: int | None = None) -> Lease:
    return Lease(Epoch(epoch), None if holder is None else InstanceId(holder), Milliseconds(0), wanted=True)


class LongestPauses(SeededRandomness):
    """Makes each pause as long as its bound."""

    def between(self, low: Milliseconds, high: Milliseconds) -> Milliseconds:
        return max(low, high)


class TestWatching:
    """How a process that waits watches the row."""

    @given(st.lists(st.booleans(), max_size=60), st.randoms(use_true_random=False))
    def test_a_process_that_gave_way_lets_another_pass_but_does_not_wait_for_nobody(
        self, changes: list[bool], random: Random
    ) -> None:
        watch = RowWatch(InstanceId(1), SeededRandomness(random.randrange(1000)))
        watch.stand_back(Epoch(7))
        epoch, paused = 7, 0
        for changed in changes:
            epoch += changed
            asks = watch.saw(row(epoch), free=True)
            assert asks or epoch == 7
            assert not asks or epoch > 7 or paused >= LONGEST_PAUSE_MS
            assert asks or paused <= 2 * LONGEST_PAUSE_MS
            for _ in range(EAGER_LOOKS + 1):
                paused += watch.pause()

    @given(st.lists(st.booleans(), max_size=300))
    def test_a_wait_is_prolonged_by_a_small_part_of_it(self, changes: list[bool]) -> None:
        watch, epoch, paused, before = RowWatch(InstanceId(1), SeededRandomness()), 1, 0, 0
        for changed in changes:
            if changed:
                epoch, paused, before = epoch + 1, 0, min(paused, LONGEST_PAUSE_MS)
            watch.saw(row(epoch, 2), free=False)
            pause = watch.pause()
            assert pause <= min(
                max(SHORTEST_PAUSE_MS, paused / PAUSE_DIVISOR_IF_NEXT, before / PAUSE_DIVISOR_IF_NEXT), LONGEST_PAUSE_MS
            )
            paused += pause

    def test_it_looks_eagerly_as_long_as_the_lease_changes_hands_quickly(self) -> None:
        watch = RowWatch(InstanceId(1), SeededRandomness())
        for look in range(3 * EAGER_LOOKS):
            watch.saw(row(look // (EAGER_LOOKS - 1), 2), free=False)
            assert watch.pause() == 0

    def test_a_process_that_paused_once_looks_eagerly_again(self) -> None:
        """Two processes with short turns took five times as long for each: each looked while the other paused."""
        watch = RowWatch(InstanceId(1), SeededRandomness())
        for turn in range(5):
            watch.saw(row(turn, 2), free=False)
            assert [watch.pause() for _ in range(EAGER_LOOKS)] == [0] * EAGER_LOOKS
            assert watch.pause() == watch.pause() == SHORTEST_PAUSE_MS

    def test_a_process_whose_wait_is_long_looks_eagerly_no_more(self) -> None:
        watch, paused = RowWatch(InstanceId(1), SeededRandomness()), 0
        watch.saw(row(1, 2), free=False)
        while paused <= SHORT_TURN_MS:
            paused += watch.pause()
        watch.saw(row(2, 2), free=False)
        assert watch.pause() >= SHORTEST_PAUSE_MS

    def test_one_that_leaves_the_lease_to_others_looks_less_often_and_not_eagerly(self) -> None:
        """It leaves the processor to the holder; and its pauses grow three times as fast as those of the next one."""
        behind, following = RowWatch(InstanceId(1), LongestPauses()), RowWatch(InstanceId(2), LongestPauses())
        behind.saw(row(1, 2), free=False)
        behind.took(Epoch(2))
        for watch in (behind, following):
            watch.begin()
            watch.saw(row(3, 3), free=False)
        paused = 0
        while paused < LONGEST_PAUSE_MS:
            pause = behind.pause()
            assert pause == max(SHORTEST_PAUSE_MS, paused // PAUSE_DIVISOR), "from its first look on"
            paused += pause
        assert [following.pause() for _ in range(EAGER_LOOKS)] == [0] * EAGER_LOOKS
        paused = 0
        while paused < LONGEST_PAUSE_MS:
            pause = following.pause()
            assert pause == max(SHORTEST_PAUSE_MS, paused // PAUSE_DIVISOR_IF_NEXT)
            paused += pause

    def test_what_it_paused_for_the_turn_before_counts_up_to_the_longest_pause(self) -> None:
        watch, paused = RowWatch(InstanceId(1), LongestPauses()), 0
        watch.saw(row(1, 2), free=False)
        while paused < PAUSE_DIVISOR_IF_NEXT * LONGEST_PAUSE_MS:
            paused += watch.pause()
        watch.saw(row(2, 2), free=False)
        assert watch.pause() == LONGEST_PAUSE_MS // PAUSE_DIVISOR_IF_NEXT

    @given(st.integers(2, 8), st.randoms(use_true_random=False))
    def test_processes_that_always_want_the_lease_have_it_in_turn(self, processes: int, random: Random) -> None:
        """Whatever the order in which they look, and whoever had the lease at first."""
        watches = {number: RowWatch(InstanceId(number), SeededRandomness(number)) for number in range(1, processes + 1)}
        turns = list(watches)
        random.shuffle(turns)
        for epoch in range(1, 6 * processes):
            holder = turns[-1] if epoch > processes else turns[epoch - 1]
            watches[holder].took(Epoch(epoch))
            watches[holder].begin()
            watches[holder].stand_back(Epoch(epoch))
            others = [number for number in watches if number != holder]
            for number in others:
                watches[number].saw(row(epoch, holder), free=False)
            if epoch < processes:
                continue  # Each has had it once, in any order.
            # It is free. They look in any order, as often as they like, for less than anybody leaves it to another.
            random.shuffle(others)
            asking = [number for number in others if watches[number].saw(row(epoch), free=True)]
            assert len(asking) == 1
            turns.append(asking[0])
        rounds = [turns[begin : begin + processes] for begin in range(processes, len(turns) - processes, processes)]
        assert all(sorted(each) == sorted(watches) for each in rounds)

    def test_a_turn_that_nobody_saw_may_have_been_anybodys(self) -> None:
        """Two processes with short turns: what one finds is a free lease of the next epoch, and no holder."""
        watch = RowWatch(InstanceId(1), SeededRandomness())
        watch.saw(row(1, 2), free=False)
        for epoch in range(2, 40, 2):
            watch.took(Epoch(epoch))
            watch.begin()
            watch.stand_back(Epoch(epoch))
            assert watch.saw(row(epoch + 1), free=True), "the other one has had its turn, or nobody knows whose it was"

    @given(st.integers(1, 6))
    def test_a_free_lease_is_not_left_for_long_to_those_that_do_not_come(self, gone: int) -> None:
        watch = RowWatch(InstanceId(1), SeededRandomness())
        for epoch in range(1, gone + 1):
            watch.saw(row(epoch, 1 + epoch), free=False)
        watch.took(Epoch(gone + 1))
        watch.begin()
        watch.saw(row(gone + 2, 99), free=False)
        left = 0
        while not watch.saw(row(gone + 2), free=True):
            left += watch.pause()
        assert left == gone * LEAVE_FREE_MS
        for epoch in range(gone + 3, 4 * gone + 12):
            watch.took(Epoch(epoch))
            watch.saw(row(epoch + 1, 99), free=False)
        assert watch.saw(row(4 * gone + 13), free=True), "they have been forgotten"


class TestClosing:
    async def test_the_lease_is_given_up(self, phone: Instance, extension: Instance) -> None:
        await take_over(phone)
        await phone.close()
        await phone.close()
        await take_over(extension)

    async def test_an_operation_that_waits_for_the_lease_is_refused(self, phone: Instance, extension: Instance) -> None:
        await take_over(phone)
        waiting = asyncio.create_task(held(extension))
        await extension.clock.asleep(1)
        await extension.close()
        with pytest.raises(StoreClosed):
            await waiting

    @pytest.mark.parametrize("ends", ["pause", "close"])
    async def test_a_lease_that_was_just_taken_is_given_up(
        self, phone: Instance, extension: Instance, ends: str
    ) -> None:
        """Also where this instance does not know yet that it has it: else others wait until it lapses."""
        gate = phone.gated.hold_after("acquire")
        waiting = asyncio.create_task(held(phone))
        await gate.reached.wait()
        ending = asyncio.create_task(phone.pause() if ends == "pause" else phone.close())
        await all_that_can_run()
        gate.opened.set()
        await ending
        await take_over(extension)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    async def test_an_acquisition_under_way_is_finished_and_undone(self, phone: Instance, extension: Instance) -> None:
        gate = phone.gated.hold_before("changes")
        waiting = asyncio.create_task(held(phone))
        await gate.reached.wait()
        closing = asyncio.create_task(phone.close())
        await asyncio.sleep(0)
        gate.opened.set()
        await closing
        with pytest.raises(StoreClosed):
            await waiting
        await take_over(extension)


class TestTurns:
    async def test_it_is_over_when_the_last_that_waits_is_cancelled(self, phone: Instance, extension: Instance) -> None:
        began, go_on = asyncio.Event(), asyncio.Event()

        async def lasting(_: object) -> None:
            began.set()
            await go_on.wait()

        running = asyncio.create_task(phone.run(lasting))
        await began.wait()
        behind = asyncio.create_task(phone.run(count_up))
        await asyncio.sleep(0)
        assert phone.lock._waiting
        assert not await extension.lock.acquire_now()
        await phone.lock.renew_now()
        assert phone.statistics().state == "held", "somebody waits here too"
        behind.cancel()
        await asyncio.wait((behind,))
        assert phone.statistics().state == "closing"
        go_on.set()
        await running

    async def test_an_operation_behind_a_dead_guards_transaction_gets_the_next_guard(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        began, go_on = asyncio.Event(), asyncio.Event()

        async def zombie() -> None:
            async with phone.transaction() as transaction:
                await count_up(transaction)
                began.set()
                await go_on.wait()

        slow = asyncio.create_task(zombie())
        await began.wait()
        behind = asyncio.create_task(phone.run(count_up))
        await asyncio.sleep(0)
        bench.lapse()
        assert await extension.run(count_up) == 1
        await extension.lock.release_now()
        await phone.lock.renew_now()
        async with asyncio.timeout(PATIENCE):
            assert await behind == 2, "while the zombie still runs"
        assert phone.statistics().reruns == 0, "it did not begin under the dead guard"
        go_on.set()
        with pytest.raises(LeaseLost):
            await slow
        bench.assert_cache_is_snapshot(phone)


async def test_it_says_what_it_is(phone: Instance) -> None:
    assert repr(phone.lock).startswith("<LeaseLock 'phone' instance=")
    await take_over(phone)
    assert repr(phone.lock).endswith(" held epoch=1 version=0 running=0>")


async def test_news_about_another_epoch_change_nothing(phone: Instance) -> None:
    await take_over(phone)
    phone.lock.lost(Epoch(7))
    phone.lock.note_waiter(Epoch(7), wanted=True)
    assert phone.lock.guard.stage is Stage.HELD


class Watched:
    """A coroutine that says each time that it goes on."""

    def __init__(self, work: Coroutine[object, None, object], resumed: Callable[[int], None], number: int) -> None:
        self._work = work
        self._resumed = resumed
        self._number = number

    async def run(self) -> None:
        await self

    def __await__(self) -> Generator[object, None, None]:
        inner = self._work.__await__()
        waited = next(inner)
        while True:
            try:
                yield waited
            except BaseException as error:  # noqa: BLE001 (passed on to the coroutine)
                waited = inner.throw(error)
                continue
            self._resumed(self._number)
            try:
                waited = inner.send(None)
            except StopIteration:
                return


async def held(store: Instance) -> None:
    """Wait until an operation may begin."""
    store.lock.end_view(await store.lock.begin_view())


async def take_over_soon(store: Instance) -> None:
    """Take the lease once the other has given it up; it is about to."""
    while not await store.lock.acquire_now():
        pass


async def pauses_end(store: Instance, task: asyncio.Task[Answer]) -> None:
    """Let time pass, whenever somebody pauses, until the task is done."""
    async with asyncio.timeout(PATIENCE):
        while not task.done():
            await asyncio.sleep(0)
            store.clock.advance(1)
