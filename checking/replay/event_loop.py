"""Lets the store's tasks run until they end or call their backend: then nothing moves but what the replay wants to.

A task runs while the event loop iterates. How many iterations it needs does not depend on how busy the machine is: what
a store would do on another thread is done at once (``InlineExecutor``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from checking.errors import CheckError
from checking.replay.gate import GatedBackend

MAX_ITERATIONS = 400
"""In so many iterations of the event loop a task must come to its next call. None needs more than a few dozen."""

BLOCKED_ITERATIONS = 60
"""A task that has not gone on within so many iterations is blocked."""


class Stuck(CheckError):
    """A task of the store neither ended nor came to a call: the implementation does something the replay can't see."""


async def run_until(reached: Callable[[], object]) -> None:
    """Let all tasks run until something is reached."""
    for _ in range(MAX_ITERATIONS):
        if reached():
            return
        await asyncio.sleep(0)
    raise Stuck("a task of the store neither ended nor came to a gate")


async def is_blocked(unblocked: Callable[[], object]) -> bool:
    """Let all tasks run for a while, and say whether nothing came of it."""
    for _ in range(BLOCKED_ITERATIONS):
        await asyncio.sleep(0)
    return not unblocked()


async def pass_next_call(
    gate: GatedBackend, task: asyncio.Task[bool] | asyncio.Task[None], *, fails: bool = False
) -> None:
    """Let the next call of ``task`` pass the gate, and the task run until it ends or calls again."""
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
    """Do some work of a store, and let its calls pass the gate."""

    async def do() -> None:
        await work

    task = asyncio.create_task(do())
    while not task.done():
        await pass_next_call(gate, task)
    await exception_of(task)


async def cancel(gate: GatedBackend, tasks: Iterable[asyncio.Task[None] | asyncio.Task[bool]]) -> None:
    """Cancel tasks of a store, and discard the calls that they still make."""
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
    """Return the exception that a finished task ended with, if it did."""
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    return outcome if isinstance(outcome, BaseException) else None
