"""Operations that several of these tests run, and their record kinds and exceptions."""

from __future__ import annotations

from tests.store.stores import COUNTER, Counter, Instance, Workbench, count_up
from unwedged.store import Transaction, View


async def count_of(view: View) -> int | None:
    counter = await view.get(COUNTER, "n")
    return None if counter is None else counter.count


class BrokenCounter(Counter):
    """A counter that has no count, so it can't be encoded."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        del self.count


async def counter_of(transaction: Transaction) -> Counter | None:
    return await transaction.get(COUNTER, "n")


async def lose_lease(bench: Workbench, other: Instance) -> None:
    """Let ``other`` take over the expired lease, increment the counter, and release the lease."""
    bench.expire_lease()
    await other.run(count_up)
    await other.lock.release_now()


class NoSuchRecord(Exception):
    """An operation raises this when it finds no record."""
