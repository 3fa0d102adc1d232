"""An instance acquires the lease, syncs, and then lets the waiting operations begin."""

from __future__ import annotations

import asyncio
import logging
from itertools import accumulate
from typing import TypeVar

import pytest

from tests.store.lock.waiting import held, lock_tasks_end, pauses_end
from tests.store.stores import PATIENCE, Instance, Workbench, all_that_can_run, count_up, take_over
from unwedged.protocol.guard import NO_GUARD, Stage
from unwedged.protocol.identifiers import Epoch, Milliseconds
from unwedged.protocol.lease import LONGEST_LEASE_MS, Lease
from unwedged.store.errors import InvalidArgument, LeaseLost, StorageFailed, StoreBusy, StoreRolledBack
from unwedged.store.lock import LeaseTimes, times_of
from unwedged.store.row_watch import (
    EAGER_LOOKS,
    LONGEST_PAUSE_MS,
    PAUSE_DIVISOR_IF_NEXT,
    SHORTEST_PAUSE_MS,
    RowWatch,
)

Answer = TypeVar("Answer")


class TestTimes:
    def test_the_defaults_are_valid(self) -> None:
        assert LeaseTimes() == LeaseTimes(Milliseconds(2000), Milliseconds(500), Milliseconds(100))

    # P1.6
    @pytest.mark.parametrize("duration_ms", [-1, 0, 2, 60_001])
    def test_a_lease_that_is_too_short_or_too_long_is_said_to_be_so(self, duration_ms: int) -> None:
        with pytest.raises(InvalidArgument, match=f"^a lease lasts from 3 to 60000 ms, not {duration_ms}$"):
            LeaseTimes(duration_ms)

    # P1.6, P8.27
    @pytest.mark.parametrize(
        ("duration", "renew_every_ms", "idle_after_ms"),
        [(0, 1, 1), (60_001, 500, 100), (2000, 667, 100), (2000, 0, 100), (2000, 500, 0)],
    )
    def test_others_are_refused(self, duration: int, renew_every_ms: int, idle_after_ms: int) -> None:
        with pytest.raises(ValueError, match="ms"):
            LeaseTimes(Milliseconds(duration), Milliseconds(renew_every_ms), Milliseconds(idle_after_ms))

    # P1.6, P8.27
    @pytest.mark.parametrize(
        "times",
        [{"duration_ms": 2, "renew_every_ms": 1}, {"overdue_after_ms": 0}, {"turn_ms": -1}, {"turn_ms": 2001}],
    )
    def test_so_are_those_that_leave_no_time(self, times: dict[str, int]) -> None:
        with pytest.raises(InvalidArgument, match="ms"):
            LeaseTimes(**times)

    # P1.6, P8.27
    @pytest.mark.parametrize(
        "times",
        [
            {"duration_ms": 3, "renew_every_ms": 1, "idle_after_ms": 1, "overdue_after_ms": 1, "turn_ms": 0},
            {"duration_ms": LONGEST_LEASE_MS, "renew_every_ms": LONGEST_LEASE_MS // 3, "turn_ms": LONGEST_LEASE_MS},
        ],
    )
    def test_the_bounds_are_valid(self, times: dict[str, int]) -> None:
        made = LeaseTimes(**times)
        assert times_of(made) is made


class TestAcquiring:
    # P1.4
    async def test_the_epoch_grows_each_time(self, phone: Instance) -> None:
        for epoch in (1, 2, 3):
            await take_over(phone)
            assert phone.lock.guard.epoch == epoch
            await phone.lock.release_now()
            assert phone.lock.guard == NO_GUARD

    # P1.3, P8.2, P8.8
    async def test_a_refused_instance_sets_wanted(self, phone: Instance, extension: Instance) -> None:
        await take_over(phone)
        assert not await extension.lock.acquire_now()
        assert extension.lock.guard == NO_GUARD
        await phone.lock.renew_now()
        assert phone.lock.guard.stage is Stage.DRAINING
        await lock_tasks_end(phone)
        assert phone.lock.guard == NO_GUARD
        await take_over(extension)

    # P1.2, P1.8
    async def test_an_expired_lease_is_taken_and_its_guard_dies_at_the_next_access(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await take_over(phone)
        bench.expire_lease()
        await take_over(extension)
        assert phone.lock.guard.stage is Stage.HELD
        await phone.lock.renew_now()
        assert phone.lock.guard == NO_GUARD
        assert phone.statistics().leases_lost == 1

    # P1.2, P7.3
    async def test_a_clock_that_jumps_back_leaves_nobody_stuck(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await take_over(phone)
        bench.clock.time -= 500_000
        await take_over(extension)

    # P1.11
    async def test_all_waiting_operations_share_one_acquisition(self, phone: Instance) -> None:
        await asyncio.gather(*(held(phone) for _ in range(10)))
        assert phone.gated.calls == ["look", "acquire", "changes"]

    # P1.11
    async def test_one_task_asks_for_all_that_wait(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await take_over(phone)
        waiting = [asyncio.create_task(held(extension)) for _ in range(3)]
        await bench.clock.asleep(1)
        await all_that_can_run()
        assert len(extension.lock._tasks) == 1
        await phone.lock.release_now()
        bench.clock.advance(LONGEST_PAUSE_MS)
        await asyncio.gather(*waiting)

    # P1.11
    async def test_a_cancelled_caller_cancels_it_for_nobody(self, phone: Instance) -> None:
        gate = phone.gated.hold_before("changes")
        first, second = asyncio.create_task(held(phone)), asyncio.create_task(held(phone))
        await gate.reached.wait()
        first.cancel()
        gate.opened.set()
        await second
        assert first.cancelled()
        assert phone.gated.calls == ["look", "acquire", "changes"]

    # P1.5, P2.1, S4.1
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

    # P2.10, P2.12
    @pytest.mark.parametrize("failure", [StoreBusy("busy"), StorageFailed("no disk"), RuntimeError("a bug")])
    async def test_a_failed_sync_leaves_no_guard_and_all_waiting_operations_get_its_error(
        self, phone: Instance, extension: Instance, bench: Workbench, failure: Exception
    ) -> None:
        await extension.run(count_up)
        await extension.lock.release_now()
        phone.gated.failures["changes"] = failure
        outcomes = await asyncio.gather(*(held(phone) for _ in range(3)), return_exceptions=True)
        assert list(map(repr, outcomes)) == [repr(failure)] * 3
        assert len({*map(id, outcomes)}) == 3, "each has an exception of its own"
        assert phone.lock.guard == NO_GUARD
        assert phone.lock.guarded.cache.version == 0, "it must not count as synced"
        assert await phone.run(count_up) == 2
        bench.assert_cache_is_snapshot(phone)

    # P2.5, P2.10
    async def test_a_store_that_is_older_than_the_cache_is_not_synced_with(
        self, phone: Instance, bench: Workbench
    ) -> None:
        assert await phone.run(count_up) == 1
        assert await phone.run(count_up) == 2
        await phone.lock.release_now()
        cache = phone.lock.guarded.cache
        bench.edit("UPDATE state SET version = version - 1")
        with pytest.raises(StoreRolledBack):
            await held(phone)
        assert phone.lock.guard == NO_GUARD
        assert phone.lock.guarded.cache == cache
        bench.edit("UPDATE state SET version = version + 9")
        with pytest.raises(StoreRolledBack):
            await held(phone)  # P18.10: others may have committed since, and the version no longer shows it

    # P2.11
    async def test_after_a_failed_sync_somebody_else_gets_the_lease(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        """The sync always fails, and the operation is always retried."""

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

    # P2.11
    async def test_a_failed_sync_releases_the_lease(self, phone: Instance, extension: Instance) -> None:
        phone.gated.failures["changes"] = StorageFailed("no disk")
        with pytest.raises(StorageFailed):
            await phone.lock.acquire_now()
        await take_over(extension)

    # P2.11
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

    # P2.11
    async def test_where_the_row_can_not_be_released_the_lease_expires(
        self, bench: Workbench, phone: Instance, extension: Instance, caplog: pytest.LogCaptureFixture
    ) -> None:
        phone.gated.failures |= {"changes": StorageFailed("no disk"), "release": StoreBusy("busy")}
        with pytest.raises(StorageFailed):
            await phone.lock.acquire_now()
        assert "release failed label=phone epoch=1: busy" in caplog.text
        assert not await extension.lock.acquire_now()
        bench.expire_lease()
        await take_over(extension)

    # P2.11
    async def test_a_look_that_fails_after_the_release_is_logged_as_such(
        self, phone: Instance, extension: Instance, caplog: pytest.LogCaptureFixture
    ) -> None:
        phone.gated.failures |= {"changes": StorageFailed("no disk"), "look": StoreBusy("busy")}
        with pytest.raises(StorageFailed):
            await phone.lock.acquire_now()
        [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert record.getMessage() == "look after the release failed label=phone epoch=1: busy"
        await take_over(extension)

    # P1.5, P2.11
    @pytest.mark.parametrize("broken", ["once", "always"])
    async def test_if_the_log_fails_the_lease_is_released(
        self, phone: Instance, extension: Instance, caplog: pytest.LogCaptureFixture, broken: str
    ) -> None:
        """The log's handlers are the application's."""

        def fail(record: logging.LogRecord) -> bool:
            if broken == "always" or record.getMessage().startswith("lease acquired label=phone"):
                raise ZeroDivisionError
            return True

        await take_over(extension)
        waiting = asyncio.create_task(held(phone))
        await all_that_can_run()
        await extension.lock.release_now()
        caplog.set_level(logging.INFO, "unwedged")
        caplog.handler.addFilter(fail)
        try:
            await pauses_end(phone, waiting)
        finally:
            caplog.handler.removeFilter(fail)
        assert isinstance(waiting.exception(), ZeroDivisionError)
        assert phone.lock.guard == NO_GUARD
        await take_over(extension)

    async def test_what_is_held_need_not_be_taken(self, phone: Instance, extension: Instance) -> None:
        await take_over(phone)
        del phone.gated.calls[:]
        assert await phone.lock.acquire_now()
        assert phone.gated.calls == []
        async with phone.view():
            assert not await extension.lock.acquire_now()
            await phone.lock.renew_now()
            assert not await phone.lock.acquire_now(), "somebody else is next"

    # P1.2
    async def test_a_lease_whose_guard_was_lost_is_taken_again_at_once(
        self, phone: Instance, extension: Instance
    ) -> None:
        """The promise also holds while another instance waits for the lease and has set ``wanted`` already."""
        await take_over(phone)
        assert not await extension.lock.acquire_now()
        phone.lock.lost(Epoch(1))
        async with asyncio.timeout(PATIENCE):
            assert await phone.run(count_up) == 1
        assert phone.lock.guard.epoch == 2

    async def test_a_failure_that_a_caller_gets_is_not_logged_as_well(
        self, phone: Instance, caplog: pytest.LogCaptureFixture
    ) -> None:
        phone.gated.failures["changes"] = StorageFailed("no disk")
        told = await asyncio.gather(phone.run(count_up), held(phone), return_exceptions=True)
        assert list(map(type, told)) == [StorageFailed, StorageFailed]
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []

    @pytest.mark.parametrize("failure", [StorageFailed("no disk"), RuntimeError("a mistake")])
    async def test_a_failure_that_no_caller_gets_is_logged_once(
        self, phone: Instance, caplog: pytest.LogCaptureFixture, failure: Exception
    ) -> None:
        """The log has a traceback only if the program has a fault."""
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

    # P2.13
    async def test_a_lease_that_expires_during_the_sync_is_asked_for_again(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        gate = phone.gated.hold_before("changes")
        waiting = asyncio.create_task(held(phone))
        await gate.reached.wait()
        bench.expire_lease()
        await take_over(extension)
        await extension.lock.release_now()
        gate.opened.set()
        await waiting
        assert phone.lock.guard.epoch == 3

    # P2.3
    async def test_a_renewal_may_find_out_during_the_sync(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        gate = phone.gated.hold_after("changes")
        acquiring = asyncio.create_task(phone.lock.acquire_now())
        await gate.reached.wait()
        bench.expire_lease()
        await take_over(extension)
        await phone.lock.renew_now()
        gate.opened.set()
        with pytest.raises(LeaseLost):
            await acquiring
        assert phone.lock.guard == NO_GUARD

    # P8.21, P8.22, P8.23, P8.25
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
        assert extension.gated.calls.count("acquire") == 1, "wanted was set once"
        await phone.lock.release_now()
        bench.clock.advance(LONGEST_PAUSE_MS)
        await waiting

    # P8.25
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
        assert extension.gated.calls == ["look", "acquire"], "wanted is set anew, but it looks eagerly only at first"
        assert bench.clock.slept[9] <= SHORTEST_PAUSE_MS
        await phone.lock.release_now()
        bench.clock.advance(LONGEST_PAUSE_MS)
        await waiting

    # P1.11
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


class TestTurns:
    # P8.4, P8.5
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
        assert phone.statistics().state == "draining"
        go_on.set()
        await running

    # P3.7, P11.1
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
        bench.expire_lease()
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


class TestBeginning:
    # P5.1, P5.2
    async def test_what_may_begin_does_so_without_switching_tasks(self, phone: Instance) -> None:
        await take_over(phone)
        for begin, end in (
            (phone.lock.begin_view, phone.lock.end_view),
            (phone.lock.begin_transaction, phone.lock.end_transaction),
        ):
            with pytest.raises(StopIteration) as begun:
                begin().send(None)
            end(begun.value.value)
            assert phone.lock.guarded.admission.running == 0

    # P19.1
    async def test_nothing_begins_while_that_is_paused(self, phone: Instance) -> None:
        await take_over(phone)
        phone.lock.pause_admitting()
        waiting = [asyncio.create_task(held(phone)), asyncio.create_task(phone.run(count_up))]
        await all_that_can_run()
        assert phone.lock.guarded.admission.running == 0
        await phone.lock.release_now()
        phone.lock.lost(Epoch(1))
        await all_that_can_run()
        assert phone.gated.calls.count("acquire") == 1, "nor does anybody ask for the lease"
        phone.lock.resume_admitting()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*waiting)

    # P19.1
    @pytest.mark.parametrize("during", ["a pause", "a look"])
    async def test_asking_ends_when_beginning_is_paused(
        self, bench: Workbench, phone: Instance, extension: Instance, during: str
    ) -> None:
        """Also if the lease becomes free then: taking it would keep others out, although nothing may begin."""
        await take_over(extension)
        waiting = asyncio.create_task(held(phone))
        await bench.clock.asleep(1)
        gate = phone.gated.hold_before("look")
        if during == "a look":
            bench.clock.advance(LONGEST_PAUSE_MS)
            await gate.reached.wait()
        phone.lock.pause_admitting()
        await extension.lock.release_now()
        gate.opened.set()
        bench.clock.advance(LONGEST_PAUSE_MS)
        await lock_tasks_end(phone)
        assert phone.lock.guard == NO_GUARD
        assert phone.gated.calls.count("acquire") == 1, "it has set wanted"
        phone.lock.resume_admitting()
        async with asyncio.timeout(PATIENCE):
            await waiting

    # P12.1
    @pytest.mark.parametrize("mode", ["view", "transaction"])
    async def test_what_is_cancelled_as_it_begins_has_ended(self, phone: Instance, mode: str) -> None:
        await take_over(phone)
        phone.lock.pause_admitting()
        begin = phone.lock.begin_view if mode == "view" else phone.lock.begin_transaction
        beginning = asyncio.create_task(begin())
        await all_that_can_run()
        phone.lock.resume_admitting()
        assert phone.lock.guarded.admission.running == 1
        beginning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await beginning
        assert phone.lock.guarded.admission.running == 0
        assert await phone.run(count_up) == 1


# P8.23
async def test_the_row_watch_learns_whether_the_lease_is_free(
    bench: Workbench, phone: Instance, extension: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []
    saw = RowWatch.saw

    def noted(watch: RowWatch, lease: Lease, *, free: bool) -> bool:
        told.append(free)
        return saw(watch, lease, free=free)

    monkeypatch.setattr(RowWatch, "saw", noted)
    await take_over(phone)
    waiting = asyncio.create_task(held(extension))
    await bench.clock.asleep(1)
    assert set(told) == {False}
    await phone.lock.release_now()
    bench.clock.advance(LONGEST_PAUSE_MS)
    await waiting
    assert told[-1] is True


# P8.24
async def test_the_row_watch_learns_its_own_turn(phone: Instance) -> None:
    await take_over(phone)
    assert phone.lock._watch._turns == {phone.lock.instance: Epoch(1)}


# T5.1
async def test_what_a_trace_line_says_of_a_waiter(bench: Workbench, phone: Instance) -> None:
    await take_over(phone)
    bench.clock.advance(7)
    assert phone.lock.waiter_fields(Epoch(1), wanted=True) == {"wanted": True, "held_ms": 7}
    assert phone.lock.waiter_fields(Epoch(1), wanted=False) == {"wanted": False}
    assert phone.lock.waiter_fields(Epoch(2), wanted=True) == {"wanted": True}


async def test_what_happened_is_counted(bench: Workbench, phone: Instance, extension: Instance) -> None:
    def counted() -> tuple[int, int, int, int]:
        told = phone.statistics()
        return told.leases_acquired, told.leases_lost, told.invalidations, told.records_dropped

    assert counted() == (0, 0, 0, 0)
    for times in (1, 2):
        await phone.run(count_up)
        assert counted() == (times, times - 1, times - 1, times - 1)
        bench.expire_lease()
        await extension.run(count_up)
        await extension.lock.release_now()
        await phone.lock.renew_now()
        await take_over(phone)
        assert counted() == (times + 1, times, times, times)


# P0.9
async def test_an_answer_about_another_epoch_changes_nothing(phone: Instance) -> None:
    await take_over(phone)
    phone.lock.lost(Epoch(7))
    phone.lock.note_waiter(Epoch(7), wanted=True)
    assert phone.lock.guard.stage is Stage.HELD
