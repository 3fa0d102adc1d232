"""Measure how long it takes to take over after another process has changed cached records, compared with reloading."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

from bench.measuring import RESULTS, Effort, Group, Results, Target, Timed, each, measure_in_rounds, program, sized
from bench.plots import Line, lines
from bench.reporting import Pair, compared, duration, table, targets_of
from bench.stores import SESSION_SIZE, WORDS, copy_of, everything, fill, key_of, opened
from unwedged.protocol.cache import empty
from unwedged.store import CryptoStore, Transaction, View

MODULE: Final = "bench.taking_over"

CHANGED: Final = sized((1, 10, 100, 1_000), (1, 10, 20))
CACHED: Final = sized((1_000, 10_000, 100_000), (100, 200))
TOUCHED: Final = 100
"""How many records the next operations read: first the changed ones, then others."""


def selective(changed: int, cached: int) -> str:
    """Return the name of a subject."""
    return f"{changed:,} of {cached:,} changed"


def dropping(cached: int) -> str:
    """Return the name of a subject."""
    return f"10 of {cached:,} changed, all dropped"


def reloading(cached: int) -> str:
    """Return the name of a subject."""
    return f"10 of {cached:,} changed, all reloaded"


@asynccontextmanager
async def taking_over(cached: int, folder: Path) -> AsyncIterator[Mapping[str, Timed]]:
    """Set up an instance that has everything cached, one that drops its cache, and one that changes records."""
    keys = [key_of(number) for number in random.Random(cached).sample(range(cached), max(CHANGED))]

    async def change(changed: int, transaction: Transaction) -> None:
        for key in keys[:changed]:
            transaction.put(WORDS, key, f"{time.perf_counter_ns():0{SESSION_SIZE}}")

    async def read(wanted: Sequence[str], view: View) -> None:
        for key in wanted:
            assert await view.get(WORDS, key) is not None

    async def changed_by_another(changed: int) -> None:
        await writer.run(partial(change, changed))
        await writer._lock.release_now()

    async def caught_up(store: CryptoStore) -> None:
        """Let a store sync the changes that were made while others were measured. This is not measured."""
        async with store.view():
            pass
        await store._lock.release_now()

    async def with_its_cache(changed: int, loops: int) -> float:
        seconds = 0.0
        await keeper.query(partial(read, keys))
        await keeper._lock.release_now()
        for _ in range(loops):
            await changed_by_another(changed)
            seconds += await each(partial(keeper.query, partial(read, keys[:TOUCHED])))(1)
            await keeper.query(partial(read, keys[TOUCHED:changed]))
            assert keeper.statistics().cached_records == cached
            await keeper._lock.release_now()
        return seconds

    async def without_its_cache(load: Callable[[], Awaitable[None]], loops: int) -> float:
        seconds = 0.0
        await caught_up(dropper)
        for _ in range(loops):
            await changed_by_another(10)
            forget(dropper)
            seconds += await each(load)(1)
            await dropper._lock.release_now()
        return seconds

    async def load_what_is_wanted() -> None:
        await dropper.query(partial(read, keys[:TOUCHED]))

    async def load_everything() -> None:
        async with dropper.view():
            assert len(await everything(dropper)) == cached

    path = await copy_of(cached, folder)
    async with opened(path) as writer, opened(path) as keeper, opened(path) as dropper:
        await fill(keeper)
        await keeper._lock.release_now()
        yield {
            **{selective(changed, cached): partial(with_its_cache, changed) for changed in CHANGED},
            dropping(cached): partial(without_its_cache, load_what_is_wanted),
            reloading(cached): partial(without_its_cache, load_everything),
        }


def forget(store: CryptoStore) -> None:
    """Drop the cache of a store without a guard."""
    guarded = store._lock.guarded
    guarded.cache = empty(guarded.cache.version)
    guarded.live.clear()


GROUPS: Final[dict[str, Group]] = {f"{cached}-records": partial(taking_over, cached) for cached in CACHED}


def measure(effort: Effort) -> None:
    """Measure, and write raw results into ``RESULTS``."""
    shutil.rmtree(RESULTS / "stores", ignore_errors=True)  # stores of an earlier schema
    measure_in_rounds(MODULE, list(GROUPS), effort.rounds_if_slow)


def targets() -> list[Target]:
    """Return the ratios with their targets."""
    return targets_of(Results(MODULE), ratio_of_ten(CACHED[-1]))


def report() -> str:
    """Draw the plot, and return a section of the report, made from raw results."""
    results = Results(MODULE)

    def median(subject: str) -> float:
        return results.of(subject).median

    plotted = [
        Line(f"{cached:,} cached records", [median(selective(changed, cached)) for changed in CHANGED])
        for cached in CACHED
    ]
    levels = {
        **{f"all {cached:,} reloaded": median(reloading(cached)) for cached in CACHED},
        f"all dropped, {TOUCHED} reloaded": median(dropping(CACHED[-1])),
    }
    plot = lines("taking-over", "records that another process changed", CHANGED, plotted, levels)
    most = CACHED[-1]
    rows = [
        (f"{cached:,}", *(duration(median(selective(changed, cached))) for changed in CHANGED),
         duration(median(dropping(cached))), duration(median(reloading(cached))))
        for cached in CACHED
    ]  # fmt: skip
    headings = ("cached", *(f"{changed:,} changed" for changed in CHANGED), "all dropped", "all reloaded")
    return f"""\
## Taking over

Another process has changed some records and released the lease. The table shows the time to acquire the lease, to bring
the cache up to date, and to read the records of the next operations: {TOUCHED} records, the changed ones first. One
baseline drops the cache, as a process must that does not know what changed, and loads those {TOUCHED} records one by
one. The other loads the whole store in one query, without decoding it. Each record is as large as the pickle of an
Olm session. With a thousand changed records, most of the time is spent on reading the change log.

![Time to take over, by the number of changed records]({plot})

{table(headings, rows)}

{compared(results, ratio_of_ten(most), (selective(10, most), dropping(most), None))}
"""


def ratio_of_ten(cached: int) -> Pair:
    """Return the comparison that has a target."""
    return selective(10, cached), reloading(cached), 1 / 50


if __name__ == "__main__":
    program(MODULE, GROUPS)
