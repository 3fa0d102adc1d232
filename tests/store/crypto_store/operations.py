"""Operations that several of these tests run, and what they meet."""

from __future__ import annotations

from tests.store.stores import COUNTER, Counter, Instance, Workbench, count_up
from unwedged.store import Transaction, View


async def count_of(view: View) -> int | None:
    counter = await view.get(COUNTER, "n")
    return None if counter is None else counter.count


class BrokenCounter(Counter):
    """Has a count that is no number."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        del self.count


async def counter_of(transaction: Transaction) -> Counter | None:
    return await transaction.get(COUNTER, "n")


async def lose_lease(bench: Workbench, other: Instance) -> None:
    """Have ``other`` take the expired lease, count up, and give it back."""
    bench.expire_lease()
    await other.run(count_up)
    await other.lock.release_now()


class NoSuchRecord(Exception):
    """What an operation concludes from a record that is not there."""
