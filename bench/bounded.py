"""Measure the cost of a cache for a tenth of the used records, compared with a cache for all of them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

from bench.measuring import Effort, Group, Results, Timed, each, measure_in_rounds, program, sized
from bench.reporting import compared
from bench.stores import SESSION_SIZE, WORDS, copy_of, fill, key_of, opened, settle_logs
from unwedged.store import CryptoStore, Transaction, View
from unwedged.store.guarded_cache import OVERHEAD_BYTES

MODULE: Final = "bench.bounded"

COUNT: Final = sized(10_000, 100)
SEED: Final = 10
LIMITS: Final = {"all": None, "a tenth": COUNT * (OVERHEAD_BYTES + 43 + SESSION_SIZE) // 10}
"""The limit of the cache in bytes, by the part of the records that it can hold."""


async def _look(store: CryptoStore, randomness: random.Random) -> None:
    async def read(view: View) -> None:
        await view.get(WORDS, key_of(randomness.randrange(COUNT)))

    await store.query(read)


async def _change(store: CryptoStore, randomness: random.Random) -> None:
    async def write(transaction: Transaction) -> None:
        key = key_of(randomness.randrange(COUNT))
        word = await transaction.get(WORDS, key)
        assert word is not None
        transaction.put(WORDS, key, word)

    await store.run(write)


OPERATIONS: Final[dict[str, Callable[[CryptoStore, random.Random], Awaitable[None]]]] = {
    "view of a random record": _look,
    "transaction on a random record": _change,
}


def _subject(operation: str, cached: str) -> str:
    return f"{operation}, {cached} cached"


@asynccontextmanager
async def bounded(folder: Path) -> AsyncIterator[Mapping[str, Timed]]:
    """Set up two stores with the same records: one caches all of them, one a tenth of them."""
    subjects: dict[str, Timed] = {}
    async with AsyncExitStack() as stack:
        for number, (cached, limit) in enumerate(LIMITS.items()):
            path = (await copy_of(COUNT, folder)).rename(folder / f"{number}.db")
            store = await stack.enter_async_context(opened(path, limit))
            await fill(store)
            for name, operation in OPERATIONS.items():
                subjects[_subject(name, cached)] = each(partial(operation, store, random.Random(SEED)))
        settle_logs(folder)
        yield subjects


GROUPS: Final[dict[str, Group]] = {"bounded": bounded}


def measure(effort: Effort) -> None:
    """Measure, and write raw results into ``RESULTS``."""
    measure_in_rounds(MODULE, list(GROUPS), effort.rounds_if_slow)


def report() -> str:
    """Return a section of the report, made from raw results."""
    few, every = _named("a tenth"), _named("all")
    return f"""\
## A cache with a limit

A store has {COUNT:,} records, each as large as the pickle of an Olm session. Each record is equally likely to be used
next, which is the worst case for a cache. If a tenth of them are cached, nine of ten uses load a record, unseal it, and
drop another one. (Random numbers are seeded with {SEED}.)

{compared(Results(MODULE), *((ours, theirs, None) for ours, theirs in zip(few, every, strict=True)))}
"""


def _named(cached: str) -> list[str]:
    return [_subject(operation, cached) for operation in OPERATIONS]


if __name__ == "__main__":
    program(MODULE, GROUPS)
