"""Measure the memory of a cached record, compared with the same record in a dict."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import psutil
import pyperf

from bench.measuring import RESULTS, Effort, Results, results_of, say, sized
from bench.reporting import digits, table
from bench.stores import SESSION_SIZE, WORDS, key_of, opened
from unwedged.store.guarded_cache import OVERHEAD_BYTES, RecordName

MODULE: Final = "bench.memory"

COUNT: Final = sized(100_000, 25_000)
CACHE: Final = "in the cache"
COUNTED: Final = "in a cache with a limit that is not reached"
DICT: Final = "in a dict"
BOUNDED: Final = "in a cache with a limit of a tenth of that"
LIMITS: Final = {CACHE: None, COUNTED: 2**40, BOUNDED: COUNT * (OVERHEAD_BYTES + 43 + SESSION_SIZE) // 10}


async def weigh(subject: str, folder: Path) -> int:
    """Return by how many bytes this process grows for each record; for a cache with a small limit, in all."""
    async with opened(folder / "store.db", LIMITS.get(subject)) as store, store.view() as view:
        before = resident()
        records = {}
        for number in range(COUNT):
            name, value = RecordName(WORDS.name, key_of(number).encode()), f"{number:0{SESSION_SIZE}}".encode()
            if subject == DICT:
                records[name] = value
            else:
                store._lock.guarded.fill(view._operation.snapshot.version, name, value)
        grown = resident() - before
        statistics = store.statistics()
        assert len(records) + statistics.cached_records + statistics.records_forgotten == COUNT
        return grown if subject == BOUNDED else grown // COUNT


def resident() -> int:
    """Return the resident memory of this process, in bytes."""
    gc.collect()
    resident: int = psutil.Process().memory_info().rss
    return resident


def measure(effort: Effort) -> None:
    """Measure each subject in a process of its own, and write raw results into ``RESULTS``."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    results_of(MODULE).unlink(missing_ok=True)
    for number in range(1, effort.rounds_if_slow + 1):
        say(f"memory: round {number} of {effort.rounds_if_slow}")
        for subject in (*LIMITS, DICT):
            subprocess.run([sys.executable, "-m", MODULE, subject], check=True)  # noqa: S603 (this very file)


def report() -> str:
    """Return a section of the report, made from raw results."""
    results = Results(MODULE)
    rows = [(subject, f"{digits(results.of(subject).median)} bytes") for subject in (CACHE, COUNTED, DICT)]
    limit = LIMITS[BOUNDED]
    assert limit is not None
    return f"""\
## Memory

The memory of a process for each record that it caches, if it caches {COUNT:,} records, each with a key of 43 bytes and
a value of {SESSION_SIZE:,} bytes. The dict maps the same keys to the same values. Objects that are decoded for
transactions need further memory. In a cache with a limit, each record also has a place in the order of use, and counts
{OVERHEAD_BYTES} bytes more than its key and its value.

{table(("a record", "takes"), rows)}

With the same {COUNT:,} records and a cache limit of {limit / 1e6:.1f} MB, a tenth of their count, the process grows by
{results.of(BOUNDED).median / 1e6:.1f} MB in all.
"""


def main() -> None:
    """Measure one subject, and add it to the results."""
    [subject] = sys.argv[1:]
    with tempfile.TemporaryDirectory(dir=RESULTS) as folder:
        weight = asyncio.run(weigh(subject, Path(folder)))
    run = pyperf.Run([weight], metadata={"name": subject, "unit": "byte"})
    pyperf.add_runs(str(results_of(MODULE)), pyperf.Benchmark([run]))


if __name__ == "__main__":
    main()
