"""An operation whose caller is cancelled at any await leaves the store consistent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine

import pytest

from tests.store.crypto_store.operations import NoSuchRecord, count_of
from tests.store.stores import COUNTER, CancelledAt, Instance, Workbench, count_up, take_over
from unwedged.store import Transaction


class TestCancellation:
    """Each operation is cancelled at its first await, then at its second, and so on, until it completes."""

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

    # P12.1
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
        """Check that nothing is lost or counted twice, that cache and database agree, and that the store works."""
        async with phone.view() as view:
            seen = await count_of(view)
        assert seen in (before, before + 1)
        bench.assert_cache_is_snapshot(phone)
        after = await phone.run(count_up)
        assert after == seen + 1
        bench.assert_cache_is_snapshot(phone)
        assert phone.lock.guarded.admission.running == 0
        return after
