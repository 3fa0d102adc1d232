"""Closing waits for operations, or abandons them."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.store.stores import COUNTER, Instance, Workbench, all_that_can_run, count_up, take_over
from unwedged.store import OperationsAbandoned, StoreClosed, Transaction, View


class TestClosingInTime:
    # P8.17
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
        assert name.startswith("tests.store.crypto_store.test_closing.TestClosingInTime.")
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

    # P8.17
    async def test_each_operation_has_an_error_of_its_own(self, phone: Instance) -> None:
        go_on = asyncio.Event()

        async def endless(_: View) -> None:
            await go_on.wait()

        running = [asyncio.create_task(phone.query(endless)) for _ in range(2)]
        await all_that_can_run()
        with pytest.raises(OperationsAbandoned):
            await phone.close(timeout_seconds=0)
        go_on.set()
        one, two = await asyncio.gather(*running, return_exceptions=True)
        assert isinstance(one, StoreClosed)
        assert isinstance(two, StoreClosed)
        assert one is not two

    # P4.14
    async def test_an_operation_that_goes_on_all_the_same_lengthens_no_traceback(self, phone: Instance) -> None:
        go_on = asyncio.Event()
        lengths: list[int] = []

        async def stubborn(view: View) -> None:
            await go_on.wait()
            for _ in range(10):
                try:
                    await view.get(COUNTER, "n")
                except StoreClosed as closed:
                    lengths.append(len(traceback.extract_tb(closed.__traceback__)))

        running = asyncio.create_task(phone.query(stubborn))
        await all_that_can_run()
        with pytest.raises(OperationsAbandoned):
            await phone.close(timeout_seconds=0)
        go_on.set()
        with pytest.raises(StoreClosed):
            await running
        assert len(lengths) == 10
        assert len(set(lengths)) == 1

    # P8.17
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

    # P8.16
    async def test_an_operation_that_was_just_let_begin_is_waited_for(self, phone: Instance) -> None:
        """Its turn has come, but its task has not resumed yet."""
        go_on = asyncio.Event()

        async def ahead(_: Transaction) -> None:
            await go_on.wait()

        first = asyncio.create_task(phone.run(ahead))
        await all_that_can_run()
        second = asyncio.create_task(phone.run(count_up))
        await all_that_can_run()
        closing = asyncio.create_task(phone.close())
        # The first operation ends just after closing has begun, just before closing looks for running operations.
        go_on.set()
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
    """Keep a task inside a view until the event is set."""
    go_on = asyncio.Event()

    async def wait(_: View) -> None:
        await go_on.wait()

    task = asyncio.create_task(store.query(wait))
    await all_that_can_run()
    yield go_on
    await task
