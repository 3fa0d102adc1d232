"""Computations for many records in a thread, since the event loop must go on: it renews the lease.

For few records a thread is not worth it: the switch takes longer than the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")
Result = TypeVar("Result")

FEW_RECORDS = 250
"""How many records are processed at once on the loop's own thread: sealing them takes some five milliseconds."""

SLICE_RECORDS = 5_000
"""How many are processed at a time in a thread: this takes a tenth of a second, for which a program that ends waits."""

LARGEST_COMMIT_RECORDS = 200_000
"""How many records of 100 bytes the largest supported commit has, while others want the lease.

It is tested with a lease of the usual duration. The code of the operation itself must end in time, like any other
(P8.11): ``put`` for so many takes seven tenths of a second. A larger commit is not refused. But its transaction keeps
all others from writing, and a process that waits too long for that gets ``StoreBusy``.
"""


async def offload(count: int, work: Callable[[], Result]) -> Result:
    """Do ``work`` for ``count`` records; in a thread if they are many."""
    return work() if count <= FEW_RECORDS else await asyncio.to_thread(work)


def no_check() -> None:
    """Never stop the work."""


async def offload_each(
    work: Callable[[Item], Made], items: Sequence[Item], check_may_continue: Callable[[], None] = no_check
) -> list[Made]:
    """Do ``work`` for each item, in order; in a thread if they are many.

    ``check_may_continue`` is called before each slice; if it raises, everything ends.
    """
    if len(items) <= FEW_RECORDS:
        return _each(work, items)
    made: list[Made] = []
    for start in range(0, len(items), SLICE_RECORDS):
        check_may_continue()
        made += await asyncio.to_thread(_each, work, items[start : start + SLICE_RECORDS])
    return made


async def each_yielding(
    work: Callable[[Item], Made], items: Sequence[Item], check_may_continue: Callable[[], None] = no_check
) -> list[Made]:
    """Do ``work`` for each item on the loop's own thread; if they are many, let other tasks run in between."""
    made = _each(work, items[:FEW_RECORDS])
    for start in range(FEW_RECORDS, len(items), FEW_RECORDS):
        await asyncio.sleep(0)
        check_may_continue()
        made += _each(work, items[start : start + FEW_RECORDS])
    return made


def _each(work: Callable[[Item], Made], items: Sequence[Item]) -> list[Made]:
    return [work(item) for item in items]
