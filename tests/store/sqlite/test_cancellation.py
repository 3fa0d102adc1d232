"""A cancelled call of the backend completes first; then the cancellation reaches its caller."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import ParamSpec

import pytest

from tests.store.sqlite.backends import (
    DURATION,
    HOPS,
    ME,
    NOW,
    SHORT,
    A,
    Dump,
    Operation,
    Store,
    hold,
    opened,
    prepared,
    running,
)
from unwedged.protocol.identifiers import Epoch, Version
from unwedged.store.backend import Row
from unwedged.store.errors import StoreClosed, StoreError
from unwedged.store.sqlite import STATEMENTS_PER_YIELD, SqliteBackend

P = ParamSpec("P")


class Hops:
    """Counts the hops to the driver's thread, and calls a function before or after each."""

    def __init__(self, backend: SqliteBackend) -> None:
        self.number = 0
        self.before: Callable[[int], object] = lambda _: None
        self.after: Callable[[int], object] = lambda _: None
        backend._driver.call = self._counted(backend._driver.call)  # type: ignore[assignment, method-assign]
        backend._driver._execute = self._counted(backend._driver._execute)  # type: ignore[method-assign]

    def _counted(
        self, hop: Callable[P, Coroutine[object, object, object]]
    ) -> Callable[P, Coroutine[object, object, object]]:
        async def counted(*arguments: P.args, **keywords: P.kwargs) -> object:
            self.number += 1
            number = self.number
            self.before(number)
            # The driver queues the call before it first waits, so a cancelled hop still takes place.
            try:
                return await hop(*arguments, **keywords)
            finally:
                self.after(number)

        return counted


# P12.4
@pytest.mark.usefixtures("stopped_clock")
@pytest.mark.parametrize("cancelled", ["caller", "caller-again-and-again", "everybody"])
@pytest.mark.parametrize("operation", HOPS.values(), ids=HOPS.keys())
async def test_cancelled_at_every_hop(tmp_path: Path, operation: Operation, cancelled: str) -> None:
    """After a cancellation of any task at any point, all or nothing is written, and the backend continues to work.

    *Caller* cancels the task that called the method. *Everybody* also cancels the tasks inside it, as the end of the
    event loop does.
    """
    control = await prepared(tmp_path / "control")
    identity, before = f"X'{control.backend.identity.hex().upper()}'", control.dump()
    hops = Hops(control.backend)
    failed = isinstance((await asyncio.gather(operation(control.backend), return_exceptions=True))[0], Exception)
    after, count = control.dump(), hops.number
    assert count >= 1
    assert not failed or after == before
    await control.close()

    for number in range(1, count + 1):
        for moment in ("before", "after"):
            store = await prepared(tmp_path / f"{number}-{moment}")
            try:
                caller = asyncio.create_task(running(operation(store.backend)))
                hops = Hops(store.backend)
                setattr(hops, moment, partial(cancel, caller, number, cancelled))
                # A task that has failed by its last hop raises its own exception, although it is cancelled after that.
                also = (StoreError,) if failed and moment == "after" else ()
                with pytest.raises((asyncio.CancelledError, *also)):
                    await caller
                outcome = normal(store, identity)
                with store.locked():
                    pass  # No connection is inside a transaction.
                assert not store.backend._driver.in_transaction
                assert outcome == after, "what was begun is carried out, and only then is the caller told"
                await store.backend.changes(Version(0), None)
                assert normal(store, identity) == outcome, "nothing comes after"
                await store.backend.acquire(ME, "me", NOW, DURATION)
                epoch = store.state()[0].epoch
                done = await store.backend.commit(epoch, [Row(A, b"next")], NOW, DURATION, may_release=False)
                assert done.version >= 2
            finally:
                await store.close()


def cancel(caller: asyncio.Task[None], number: int, cancelled: str, hop: int) -> None:
    if hop == number or (cancelled == "caller-again-and-again" and hop > number):
        caller.cancel()
        current = asyncio.current_task()
        if cancelled == "everybody" and current is not None and current is not caller:
            current.cancel()


def normal(store: Store, identity: str) -> Dump:
    """Dump the store, with its identity replaced by the identity to compare with."""
    return [line.replace(f"X'{store.backend.identity.hex().upper()}'", identity) for line in store.dump()]


# P12.2, P12.4
async def test_a_caller_cancelled_again_and_again_gets_the_cancellation_only_after_the_driver_is_done(
    store: Store,
) -> None:
    """All tasks are cancelled, again and again, before the driver's thread begins."""
    epoch = await hold(store)
    gate = threading.Event()
    store.backend._driver._tx.put_nowait((None, partial(gate.wait, 60)))
    commit = store.backend.commit(epoch, [Row(A, b"value")], NOW, DURATION, may_release=False)
    caller = asyncio.create_task(running(commit))
    for _ in range(10):  # until it waits for the driver
        await asyncio.sleep(0)
    for _ in range(100):
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
    assert not caller.done()
    assert store.raw.execute("SELECT version FROM state").fetchone() == (0,)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    with store.locked():
        assert store.raw.execute("SELECT version FROM state").fetchone() == (1,)


# P12.1
@pytest.mark.parametrize("operation", SHORT.values(), ids=SHORT.keys())
async def test_cancelled_while_the_database_is_busy(tmp_path: Path, operation: Operation) -> None:
    store = await prepared(tmp_path / "store")
    try:
        before = store.dump()
        with store.locked():
            task = asyncio.create_task(running(operation(store.backend)))
            await asyncio.sleep(0)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert store.dump() == before
        await operation(store.backend)
        assert store.dump() != before
    finally:
        await store.close()


async def test_opening_cancelled_at_every_step(tmp_path: Path) -> None:
    """Opening is cancelled at each step, until it completes. Each time, the file is a store or can become one."""
    iterations = 0
    while True:
        path = tmp_path / f"{iterations}"
        task = asyncio.create_task(SqliteBackend.open(path))
        for _ in range(iterations):
            await asyncio.sleep(0)
        if task.done():
            await (await task).close()
            break
        task.cancel()
        result = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(result, SqliteBackend):
            await result.close()
        async with opened(path) as backend:
            await backend.acquire(ME, "me", NOW, DURATION)
        iterations = iterations * 2 + 1


# P8.17
@pytest.mark.parametrize("paused_by", ["a yield", "a checkpoint"])
async def test_a_statement_during_which_the_backend_is_closed_says_so(store: Store, paused_by: str) -> None:
    """As that of an abandoned operation: it lets other tasks run first, or makes a checkpoint that is due."""
    epoch = await hold(store)
    store.backend._statements_since_yield = STATEMENTS_PER_YIELD - 1 if paused_by == "a yield" else 0
    if paused_by == "a checkpoint":
        store.backend._checkpoints.make_due()
    late = asyncio.create_task(store.backend.renew(epoch, NOW, DURATION))
    await asyncio.sleep(0)
    assert not late.done()
    await store.backend.close()
    with pytest.raises(StoreClosed):
        await late


async def test_closing_is_not_interrupted(store: Store) -> None:
    task = asyncio.create_task(store.backend.close())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(StoreClosed):
        await store.backend.check(Epoch(1))
    assert store.backend._driver._connection is None
