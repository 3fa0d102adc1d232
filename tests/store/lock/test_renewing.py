"""The lease is renewed, operations that do not end lose it, and a closed store releases it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import TypeVar

import pytest

from tests.store.lock.waiting import held, lock_tasks_end, pauses_end
from tests.store.stores import DEVICE, PATIENCE, Instance, Workbench, all_that_can_run, count_up, take_over
from unwedged.protocol.guard import NO_GUARD, Guard, Stage
from unwedged.protocol.identifiers import Epoch
from unwedged.protocol.lease import LONGEST_LEASE_MS
from unwedged.store.errors import LeaseLost, StorageFailed, StoreBusy, StoreClosed, StoreError
from unwedged.store.lock import LeaseTimes

Answer = TypeVar("Answer")


class TestRenewing:
    # P0.9
    @pytest.mark.parametrize("late", [False, True])
    async def test_an_answer_about_a_dead_guard_does_not_touch_the_next(
        self, phone: Instance, extension: Instance, bench: Workbench, late: bool
    ) -> None:
        """The renewal of epoch 1 is under way, before or after its database access, when epoch 3 begins."""
        await take_over(phone)
        await extension.lock.acquire_now()
        gate = phone.gated.hold_after("renew") if late else phone.gated.hold_before("renew")
        renewing = asyncio.create_task(phone.lock.renew_now())
        await gate.reached.wait()
        bench.expire_lease()
        await take_over(extension)
        await phone.lock.renew_now()
        await extension.lock.release_now()
        await take_over(phone)
        gate.opened.set()
        await renewing
        assert phone.lock.guard.stage is Stage.HELD
        assert phone.lock.guard.epoch == 3
        assert phone.lock.leases_lost == 1

    # P0.9
    async def test_a_release_of_an_older_lease_does_not_touch_the_next(self, phone: Instance) -> None:
        await take_over(phone)
        await phone.lock.release_now()
        await take_over(phone)
        phone.lock.released(Epoch(1))
        assert phone.lock.guard == Guard(Stage.HELD, Epoch(2))
        assert phone.lock._handed_over is None

    # P8.1, P8.27
    async def test_the_tasks_renew_and_release_by_the_clock(self, phone: Instance) -> None:
        phone.lock.start()
        await take_over(phone)
        await phone.clock.asleep(2)
        assert sorted(phone.clock.slept) == [100, 500]
        async with phone.view():
            phone.clock.advance(100)  # An operation has begun since, and is running.
            await phone.clock.asleep(3)
            phone.clock.advance(100)
            await phone.clock.asleep(4)
            assert phone.lock.guard.stage is Stage.HELD
        phone.clock.advance(100)  # An operation has ended since.
        await phone.clock.asleep(5)
        assert phone.lock.guard.stage is Stage.HELD
        gate = phone.gated.hold_after("release")
        phone.clock.advance(100)
        await gate.reached.wait()
        assert phone.lock.guard == NO_GUARD
        gate.opened.set()

    # P8.1
    async def test_a_lease_is_not_idle_right_after_a_sync_that_took_long(self, phone: Instance) -> None:
        """An operation waits for the sync. After a release now, the next sync would take as long, and so on."""
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

    # P8.1
    async def test_a_lease_is_not_idle_if_an_operation_began_and_ended_meanwhile(self, phone: Instance) -> None:
        phone.lock.start()
        await take_over(phone)
        await phone.clock.asleep(2)
        for _ in range(3):
            async with phone.view():
                pass
            phone.clock.advance(100)
            await all_that_can_run()
            assert phone.lock.guard.stage is Stage.HELD

    # P8.1
    @pytest.mark.parametrize("mode", ["view", "transaction"])
    async def test_a_lease_is_not_idle_if_an_operation_waited_began_and_ended_meanwhile(
        self, phone: Instance, mode: str
    ) -> None:
        phone.lock.start()
        await take_over(phone)
        await phone.clock.asleep(2)
        for _ in range(3):
            phone.lock.pause_admitting()
            waiting = asyncio.create_task(held(phone) if mode == "view" else phone.run(count_up))
            await all_that_can_run()
            phone.lock.resume_admitting()
            await waiting
            phone.clock.advance(100)
            await all_that_can_run()
            assert phone.lock.guard.stage is Stage.HELD

    # P8.1
    async def test_a_lease_is_not_idle_right_after_a_further_sync(self, phone: Instance) -> None:
        phone.lock.start()
        for times in (1, 2, 3):
            gate = phone.gated.hold_before("changes")
            acquiring = asyncio.create_task(phone.lock.acquire_now())
            await gate.reached.wait()
            await all_that_can_run()
            gate.opened.set()
            assert await acquiring
            phone.clock.advance(100)
            await all_that_can_run()
            assert phone.lock.guard.stage is Stage.HELD, times
            phone.clock.advance(100)
            await all_that_can_run()
            assert phone.lock.guard == NO_GUARD, times

    # P8.28
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

    # P8.27
    async def test_after_a_long_commit_it_is_renewed_again(self, phone: Instance) -> None:
        """It is not renewed during the commit: the commit itself renews the lease, and no other process can write."""
        phone.lock.start()
        await take_over(phone)
        commit = phone.gated.hold_before("commit")
        committing = asyncio.create_task(phone.run(count_up))
        await commit.reached.wait()
        await phone.clock.asleep(2)
        phone.clock.advance(500)
        await all_that_can_run()
        assert "renew" not in phone.gated.calls
        commit.opened.set()
        await committing
        async with phone.view():
            renewal = phone.gated.hold_after("renew")
            phone.clock.advance(500)
            async with asyncio.timeout(PATIENCE):
                await renewal.reached.wait()
            renewal.opened.set()


async def ends_when(go_on: asyncio.Event, store: Instance) -> None:
    async with store.view() as view:
        await go_on.wait()
        await view.get(DEVICE, "d")


class TestOverdue:
    """An instance waits, and an operation does not end: it may be waiting for the very process that it blocks."""

    @pytest.fixture
    async def go_on(self) -> asyncio.Event:
        return asyncio.Event()

    @pytest.fixture
    async def running(
        self, phone: Instance, extension: Instance, go_on: asyncio.Event
    ) -> AsyncIterator[asyncio.Task[None]]:
        """Return an operation that runs on ``phone``, while ``extension`` waits and ``phone`` knows this."""
        task = asyncio.create_task(ends_when(go_on, phone))
        await all_that_can_run()
        assert not await extension.lock.acquire_now()
        await phone.lock.renew_now()
        assert phone.lock.guard.stage is Stage.DRAINING
        yield task
        go_on.set()
        await asyncio.gather(task, return_exceptions=True)

    # P8.11, P8.14
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

    # P8.11
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

    # P0.8
    async def test_nothing_begins_meanwhile(
        self, bench: Workbench, phone: Instance, running: asyncio.Task[None]
    ) -> None:
        bench.clock.advance(2001)
        phone.lock.stop_renewing_if_overdue()
        new = asyncio.create_task(phone.run(count_up))
        await all_that_can_run()
        assert phone.lock.guarded.admission.running == 1
        assert not running.done()
        await phone.lock.end_if_expired()
        assert await new == 1

    # P8.11
    async def test_it_is_given_its_time(self, bench: Workbench, phone: Instance, running: asyncio.Task[None]) -> None:
        bench.clock.advance(2000)
        phone.lock.stop_renewing_if_overdue()
        assert phone.lock.guard.stage is Stage.DRAINING
        assert not running.done()

    # P8.12
    async def test_a_clock_that_was_put_back_gives_it_its_time_once_more(
        self,
        bench: Workbench,
        phone: Instance,
        extension: Instance,
        running: asyncio.Task[None],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """It gets no more: otherwise a waiting instance would wait until the clock reaches its old time again."""
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

    # P8.13
    async def test_a_commit_is_given_any_time(self, bench: Workbench, phone: Instance, extension: Instance) -> None:
        gate = phone.gated.hold_before("commit")
        committing = asyncio.create_task(phone.run(count_up))
        await gate.reached.wait()
        assert not await extension.lock.acquire_now()
        await phone.lock.renew_now()
        bench.clock.advance(100_000)
        phone.lock.stop_renewing_if_overdue()
        assert phone.lock.guard.stage is Stage.DRAINING
        gate.opened.set()
        assert await committing == 1

    # P8.15
    async def test_a_guard_whose_time_is_up_dies_also_where_nobody_takes_the_lease(
        self, bench: Workbench, phone: Instance, running: asyncio.Task[None]
    ) -> None:
        """The waiting instance may be gone, and operations that wait here must not wait for the overdue operation."""
        bench.clock.advance(1999)
        await phone.lock.renew_now()
        bench.clock.advance(1999)
        phone.lock.stop_renewing_if_overdue()
        await phone.lock.end_if_expired()
        assert phone.lock.guard.stage is Stage.EXPIRING
        new = asyncio.create_task(phone.run(count_up))
        await all_that_can_run()
        bench.clock.advance(1)
        await phone.lock.end_if_expired()
        await pauses_end(phone, new)
        assert await new == 1
        assert not running.done()

    # P8.15, P7.3
    async def test_a_guard_whose_lease_claims_to_last_longer_than_any_dies(
        self, bench: Workbench, phone: Instance, running: asyncio.Task[None]
    ) -> None:
        """The clock was set back after renewal stopped: other instances may take the lease, but none does."""
        bench.clock.advance(2001)
        phone.lock.stop_renewing_if_overdue()
        bench.clock.time -= 3_600_000
        await phone.lock.end_if_expired()
        assert phone.lock.guard == NO_GUARD
        assert not running.done()

    # P4.3
    async def test_a_guard_whose_lease_somebody_else_has_taken_dies(
        self, bench: Workbench, phone: Instance, extension: Instance, running: asyncio.Task[None]
    ) -> None:
        bench.clock.advance(2001)
        phone.lock.stop_renewing_if_overdue()
        await take_over(extension)
        await phone.lock.end_if_expired()
        assert phone.lock.guard == NO_GUARD
        assert not running.done()

    # P1.2
    async def test_a_guard_that_was_just_renewed_stands_even_if_no_lease_lasts_longer(self, bench: Workbench) -> None:
        phone = await bench.instance("phone", times=LeaseTimes(duration_ms=LONGEST_LEASE_MS))
        await take_over(phone)
        await phone.lock.end_if_expired()
        assert phone.lock.guard.stage is Stage.HELD

    async def test_the_background_tasks_end_renewing_by_the_clock(
        self, phone: Instance, extension: Instance, running: asyncio.Task[None]
    ) -> None:
        phone.lock.start()
        waiting = asyncio.create_task(held(extension))
        await pauses_end(extension, waiting)
        assert not running.done()
        assert "renew" in phone.gated.calls

    async def test_the_background_tasks_end_an_overdue_guard(
        self, phone: Instance, running: asyncio.Task[None]
    ) -> None:
        """The waiting instance is gone."""
        phone.lock.start()
        new = asyncio.create_task(phone.run(count_up))
        await pauses_end(phone, new)
        assert await new == 1
        assert not running.done()


async def stuck(go_on: asyncio.Event, store: Instance) -> None:
    async with store.transaction():
        await go_on.wait()


class TestHeldUp:
    """No other instance waits, but something in this one does, and an operation does not end (P8.14)."""

    WAITS = "closing, pausing or a transaction of this process waits: operations do not end label=phone epoch=1: "

    @pytest.fixture
    async def go_on(self, phone: Instance) -> AsyncIterator[asyncio.Event]:
        await take_over(phone)
        go_on = asyncio.Event()
        self.started: list[asyncio.Task[object]] = []
        yield go_on
        go_on.set()
        for task in self.started:
            task.cancel()
        await asyncio.gather(*self.started, return_exceptions=True)

    async def begin(self, work: Coroutine[None, None, object]) -> None:
        self.started.append(asyncio.create_task(work))
        await all_that_can_run()

    def warnings(self, phone: Instance, caplog: pytest.LogCaptureFixture, *waits_ms: int) -> list[str]:
        """Let time pass between looks, and return what is logged."""
        caplog.clear()
        for wait_ms in waits_ms:
            phone.clock.advance(wait_ms)
            phone.lock.warn_if_held_up()
        assert phone.lock.guard.stage is Stage.HELD
        return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]

    # P8.14
    @pytest.mark.parametrize("waits", ["transaction", "pause", "close"])
    async def test_what_waits_here_is_told_once(
        self, phone: Instance, go_on: asyncio.Event, caplog: pytest.LogCaptureFixture, waits: str
    ) -> None:
        await self.begin(stuck(go_on, phone))
        assert self.warnings(phone, caplog, 5000, 5000) == []
        work = {"transaction": phone.run(count_up), "pause": phone.pause(), "close": phone.close()}
        await self.begin(work.pop(waits))
        for unused in work.values():
            unused.close()
        assert self.warnings(phone, caplog, 0, 2000) == []
        assert self.warnings(phone, caplog, 1) == [f"{self.WAITS}stuck (12001 ms)"]
        assert self.warnings(phone, caplog, 5000) == []

    async def test_each_holdup_is_told(
        self, phone: Instance, go_on: asyncio.Event, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Something waits all the time, but for one operation after the other."""
        first = asyncio.Event()
        for until in (first, go_on, go_on):
            await self.begin(stuck(until, phone))
        assert self.warnings(phone, caplog, 0, 2001) == [f"{self.WAITS}stuck (2001 ms)"]
        first.set()
        await self.started[0]
        await all_that_can_run()
        assert self.warnings(phone, caplog, 0, 2000) == []
        assert self.warnings(phone, caplog, 1) == [f"{self.WAITS}stuck (2001 ms)"]

    async def test_a_transaction_waits_for_no_view(
        self, phone: Instance, go_on: asyncio.Event, caplog: pytest.LogCaptureFixture
    ) -> None:
        for work in (ends_when(go_on, phone), stuck(go_on, phone), stuck(go_on, phone)):
            await self.begin(work)
        assert self.warnings(phone, caplog, 0, 2001) == [f"{self.WAITS}stuck (2001 ms)"]

    async def test_pausing_waits_for_views(
        self, phone: Instance, go_on: asyncio.Event, caplog: pytest.LogCaptureFixture
    ) -> None:
        for work in (ends_when(go_on, phone), ends_when(go_on, phone), phone.pause()):
            await self.begin(work)
        [warning] = self.warnings(phone, caplog, 0, 2001)
        assert warning == f"{self.WAITS}ends_when (2001 ms), ends_when (2001 ms)"

    # P8.13
    @pytest.mark.usefixtures("go_on")
    async def test_a_commit_is_no_holdup(self, phone: Instance, caplog: pytest.LogCaptureFixture) -> None:
        gate = phone.gated.hold_before("commit")
        await self.begin(phone.run(count_up))
        await gate.reached.wait()
        await self.begin(phone.run(count_up))
        assert self.warnings(phone, caplog, 0, 5000) == []
        gate.opened.set()

    # P8.12
    async def test_a_clock_that_was_put_back_gives_it_its_time_once_more(
        self, phone: Instance, go_on: asyncio.Event, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(2):
            await self.begin(stuck(go_on, phone))
        assert self.warnings(phone, caplog, 0, -30_000, 2000) == []
        assert self.warnings(phone, caplog, 1) == [f"{self.WAITS}stuck (2001 ms)"]

    async def test_an_instance_for_which_another_waits_is_told_of_that_alone(
        self, phone: Instance, extension: Instance, go_on: asyncio.Event, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(2):
            await self.begin(stuck(go_on, phone))
        assert not await extension.lock.acquire_now()
        phone.clock.advance(phone.lock.times.turn_ms)
        await phone.lock.renew_now()
        assert phone.lock.guard.stage is Stage.DRAINING
        for _ in range(2):
            phone.lock.warn_if_held_up()
            phone.clock.advance(2001)
        assert "this process waits" not in caplog.text

    async def test_the_task_that_renews_looks(
        self, phone: Instance, go_on: asyncio.Event, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(2):
            await self.begin(stuck(go_on, phone))
        for wait_ms in (0, 2001):
            phone.clock.advance(wait_ms)
            await phone.lock._renew_or_let_expire()
        assert self.WAITS in caplog.text


class TestClosing:
    # P8.16
    async def test_the_lease_is_released(self, phone: Instance, extension: Instance) -> None:
        await take_over(phone)
        await phone.close()
        await phone.close()
        await take_over(extension)

    # P8.16
    async def test_an_operation_that_waits_for_the_lease_is_refused(self, phone: Instance, extension: Instance) -> None:
        await take_over(phone)
        waiting = asyncio.create_task(held(extension))
        await extension.clock.asleep(1)
        await extension.close()
        with pytest.raises(StoreClosed):
            await waiting

    # P1.10
    async def test_its_tasks_have_ended_then(self, phone: Instance) -> None:
        phone.lock.start()
        await all_that_can_run()
        await phone.lock.stop()
        assert phone.lock._tasks == set()

    async def test_nothing_begins_any_more(self, phone: Instance) -> None:
        await take_over(phone)
        phone.lock.stop_admitting()
        with pytest.raises(StoreClosed):
            await phone.lock.begin_view()
        with pytest.raises(StoreClosed):
            await phone.lock.begin_transaction()

    # P1.10
    @pytest.mark.parametrize("ends", ["pause", "close"])
    async def test_a_lease_that_was_just_taken_is_released(
        self, phone: Instance, extension: Instance, ends: str
    ) -> None:
        """The lease is released even before the instance knows that it has it: otherwise others wait for its expiry."""
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

    # P1.10
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
