"""A holder hands the lease over to a waiting instance, and does not ask again too early."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Generator
from typing import TypeVar

import pytest

from tests.store.lock.waiting import held, lock_tasks_end, pauses_end
from tests.store.stores import DEVICE, PATIENCE, Instance, Workbench, all_that_can_run, apart, count_up, take_over
from unwedged.protocol import guard as rules
from unwedged.protocol.guard import NO_GUARD, Stage
from unwedged.store.errors import StoreBusy
from unwedged.store.row_watch import LONGEST_PAUSE_MS, SHORTEST_PAUSE_MS

Answer = TypeVar("Answer")


class TestHandover:
    # P8.7, P8.8
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
        assert phone.lock.guard.stage is Stage.DRAINING
        new = asyncio.create_task(phone.run(count_up))
        await all_that_can_run()
        assert phone.lock.guarded.admission.running == 1
        go_on.set()
        await running
        await take_over_soon(extension)
        assert await extension.run(count_up) == 1
        await extension.lock.release_now()
        await pauses_end(phone, new)
        assert await new == 2

    # P8.7, P5.2, P11.1
    async def test_an_operation_that_waits_to_begin_does_not_begin_once_the_turn_is_over(
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
            assert phone.lock.guard.stage is Stage.DRAINING
            gate.opened.set()
        await take_over_soon(extension)
        assert await extension.run(count_up) == 2, "one of the three was done"
        await extension.lock.release_now()
        await pauses_end(phone, behind)
        assert sorted(await behind) == [1, 3, 4]

    # P8.4, P8.5
    async def test_what_waits_here_is_served_before_the_handover(self, phone: Instance, extension: Instance) -> None:
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
        assert phone.lock.guard == NO_GUARD, "the last one released the lease at once"
        assert "release" not in phone.gated.calls
        assert await extension.lock.acquire_now()
        assert phone.gated.calls.count("acquire") == 1

    # P8.6
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

    # P8.4
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
            assert phone.lock.guard.stage is Stage.DRAINING
            behind.cancel()

    # P5.2
    async def test_a_cancelled_operation_is_passed_over(self, phone: Instance) -> None:
        """The promise also holds in the moment before it leaves the queue by itself."""
        await take_over(phone)
        async with phone.transaction():
            behind = [asyncio.create_task(apart(phone.run(count_up))) for _ in range(4)]
            await all_that_can_run()
            for cancelled in behind[:3]:
                cancelled.cancel()
        async with asyncio.timeout(PATIENCE):
            assert await behind[3] == 1

    # P5.2
    @pytest.mark.parametrize("waiting", [10, 200])
    async def test_only_those_that_begin_are_woken(
        self, bench: Workbench, phone: Instance, extension: Instance, waiting: int
    ) -> None:
        """The cost of a turn does not depend on the number of waiting operations."""
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

    # P8.9, P8.25
    async def test_an_instance_that_handed_over_stands_back_for_longer_than_a_waiter_pauses(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        """The instance that waited does not take the lease."""
        await self._hand_over(phone, extension)
        waiting = asyncio.create_task(held(phone))
        await pauses_end(phone, waiting)
        assert LONGEST_PAUSE_MS <= sum(bench.clock.slept) <= 3 * LONGEST_PAUSE_MS

    # P8.9
    async def test_an_instance_that_handed_over_stands_back_only_until_another_had_the_lease(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await self._hand_over(phone, extension)
        waiting = asyncio.create_task(held(phone))
        await bench.clock.asleep(1)
        assert set(phone.gated.calls) == {"look"}
        await take_over(extension)
        bench.clock.advance(SHORTEST_PAUSE_MS)
        await bench.clock.asleep(2)
        assert phone.gated.calls.count("acquire") == 1, "it has set wanted"
        await extension.lock.renew_now()
        assert extension.lock.guard.stage is Stage.DRAINING
        await lock_tasks_end(extension)
        bench.clock.advance(LONGEST_PAUSE_MS)
        await waiting

    async def _hand_over(self, giver: Instance, taker: Instance) -> None:
        await take_over(giver)
        await taker.lock.acquire_now()
        await giver.lock.renew_now()
        await lock_tasks_end(giver)
        del giver.gated.calls[:]

    # P8.9
    async def test_an_instance_that_released_as_idle_does_not_stand_back(self, phone: Instance) -> None:
        await take_over(phone)
        await phone.lock.release_now()
        async with asyncio.timeout(PATIENCE):
            await held(phone)
        assert phone.clock.slept == []

    # P8.2
    async def test_a_commit_and_a_view_also_learn_that_another_process_waits(
        self, phone: Instance, extension: Instance
    ) -> None:
        for operation in (phone.run(count_up), phone.query(lambda view: view.get(DEVICE, "d"))):
            await take_over_soon(phone)
            await extension.lock.acquire_now()
            await operation
            await lock_tasks_end(phone)
            assert phone.lock.guard == NO_GUARD

    # P5.17, P8.3, P8.20
    async def test_the_last_commit_releases_the_lease_itself(
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

    # P8.9
    async def test_an_instance_that_handed_over_at_a_commit_stands_back_too(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await take_over(phone)
        await extension.lock.acquire_now()
        await phone.run(count_up)
        waiting = asyncio.create_task(held(phone))
        await pauses_end(phone, waiting)
        assert LONGEST_PAUSE_MS <= sum(bench.clock.slept) <= 3 * LONGEST_PAUSE_MS

    # P5.17
    async def test_a_commit_beside_a_view_keeps_the_lease_for_it(self, phone: Instance, extension: Instance) -> None:
        async with phone.view() as view:
            await extension.lock.acquire_now()
            await apart(phone.run(count_up))
            assert phone.lock.guard.stage is Stage.DRAINING
            assert not await extension.lock.acquire_now()
            await view.get(DEVICE, "d")
        await take_over_soon(extension)

    # P5.15, P8.20
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
        assert phone.lock.guarded.admission.running == 1
        gate.opened.set()
        assert await giving == 1
        await extension.lock.release_now()
        await pauses_end(phone, others[0])
        await pauses_end(phone, others[1])
        assert [await other for other in others] == [3, None]

    # P3.5, P8.9, P8.20
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
        await pauses_end(phone, asyncio.create_task(held(phone)))
        assert LONGEST_PAUSE_MS <= sum(bench.clock.slept) <= 3 * LONGEST_PAUSE_MS, "it has handed the lease over"
        bench.assert_cache_is_snapshot(phone)
        assert await phone.run(count_up) == 2

    # P2.11, P8.9
    async def test_the_late_answer_of_such_a_commit_does_not_hide_a_sync_that_failed_since(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await take_over(phone)
        await extension.lock.acquire_now()
        answer = phone.gated.hold_after("commit")
        giving = asyncio.create_task(phone.run(count_up))
        await answer.reached.wait()
        await phone.lock.renew_now()
        gate = phone.gated.hold_before("changes")
        phone.gated.failures["changes"] = StoreBusy("injected by the test")
        failing = asyncio.create_task(phone.lock.acquire_now())
        await gate.reached.wait()
        assert not await extension.lock.acquire_now()
        gate.opened.set()
        with pytest.raises(StoreBusy):
            await failing
        answer.opened.set()
        assert await giving == 1
        await pauses_end(phone, asyncio.create_task(held(phone)))
        assert LONGEST_PAUSE_MS <= sum(bench.clock.slept) <= 3 * LONGEST_PAUSE_MS

    # P5.23
    async def test_such_a_commit_that_fails_releases_nothing(self, phone: Instance, extension: Instance) -> None:
        await take_over(phone)
        await extension.lock.acquire_now()
        phone.gated.failures["commit"] = StoreBusy("injected by the test")
        with pytest.raises(StoreBusy):
            await phone.run(count_up)
        assert rules.stands(phone.lock.guard, phone.lock.guard.epoch)
        assert not await extension.lock.acquire_now()
        assert await phone.run(count_up) == 1

    # P8.18
    async def test_the_guard_dies_before_the_row_is_free(self, phone: Instance) -> None:
        await take_over(phone)
        gate = phone.gated.hold_before("release")
        releasing = asyncio.create_task(phone.lock.release_now())
        await gate.reached.wait()
        assert phone.lock.guard == NO_GUARD
        gate.opened.set()
        await releasing

    # P1.10
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

    # P8.19
    async def test_nothing_is_released_while_something_runs(self, phone: Instance) -> None:
        async with phone.view():
            await phone.lock.release_now()
            assert phone.lock.guard.stage is Stage.HELD
        await phone.lock.release_now()
        assert phone.lock.guard == NO_GUARD

    # P8.19
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
        bench.expire_lease()
        await take_over(extension)


class Watched:
    """A coroutine wrapper that records each time that the coroutine resumes."""

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


async def take_over_soon(store: Instance) -> None:
    """Take over the lease as soon as the other instance, which is about to release it, has done so."""
    while not await store.lock.acquire_now():
        pass
