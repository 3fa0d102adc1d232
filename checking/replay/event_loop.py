"""Run the store's tasks until they end or call their backend, so that only the replay decides what happens next.

A task runs while the event loop iterates. The number of iterations that it needs does not depend on the load of the
computer, because ``InlineExecutor`` does at once what a store would do on another thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from checking.errors import CheckError
from checking.replay.gate import GatedBackend

MAX_ITERATIONS = 400
"""A task must reach its next call within so many iterations of the event loop. No task needs more than a few dozen."""

BLOCKED_ITERATIONS = 60
"""A task that makes no progress within so many iterations is blocked."""


class Stuck(CheckError):
    """A task of the store neither ended nor called its backend, so the replay can't observe what it does."""


async def run_until(reached: Callable[[], object]) -> None:
    """Run all tasks until ``reached`` returns something true. Raises ``Stuck``."""
    for _ in range(MAX_ITERATIONS):
        if reached():
            return
        await asyncio.sleep(0)
    raise Stuck("a task of the store neither ended nor reached a gate")


async def is_blocked(unblocked: Callable[[], object]) -> bool:
    """Run all tasks for a while. Return whether ``unblocked`` still returns nothing true."""
    for _ in range(BLOCKED_ITERATIONS):
        await asyncio.sleep(0)
    return not unblocked()


async def pass_next_call(
    gate: GatedBackend, task: asyncio.Task[bool] | asyncio.Task[None], *, fails: bool = False
) -> None:
    """Let the next call of ``task`` pass the gate, and run the task until it ends or calls again."""
    await run_until(lambda: gate.arrived or task.done())
    if gate.arrived:
        call = gate.arrived.pop()
        if fails:
            call.fail()
        else:
            await call.run()
        call.deliver()
        await run_until(lambda: gate.arrived or task.done())


async def run_to_end(gate: GatedBackend, work: Awaitable[None]) -> None:
    """Do some work of a store, and let all of its calls pass the gate."""

    async def do() -> None:
        await work

    task = asyncio.create_task(do())
    while not task.done():
        await pass_next_call(gate, task)
    await exception_of(task)


async def cancel(gate: GatedBackend, tasks: Iterable[asyncio.Task[None] | asyncio.Task[bool]]) -> None:
    """Cancel tasks of a store, and discard the calls that they still make. Raises ``Stuck``."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()

    def gone() -> bool:
        while gate.arrived:
            gate.arrived.pop().discard()
        return all(task.done() for task in tasks)

    await run_until(gone)
    await asyncio.gather(*tasks, return_exceptions=True)


async def exception_of(task: asyncio.Task[None] | asyncio.Task[bool]) -> BaseException | None:
    """Return the exception that a finished task ended with, or ``None``."""
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    return outcome if isinstance(outcome, BaseException) else None
