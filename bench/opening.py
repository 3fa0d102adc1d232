"""Measure how long it takes to open a store, compared with opening its file. The passphrase is measured separately."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import aiosqlite

from bench.measuring import Effort, Group, Results, Timed, each, measure_in_rounds, program, sized
from bench.reporting import compared, duration
from bench.stores import copy_of, opened
from unwedged.store.sealer import COST, Passphrase, Sealer

MODULE: Final = "bench.opening"

COUNTS: Final = sized((1_000, 100_000), (10, 100))

PREPARED: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA secure_delete = ON",
    "SELECT version FROM state",
)
PASSPHRASE: Final = "passphrase"


def store_of(count: int) -> str:
    """Return the name of a subject."""
    return f"store of {count:,} records"


def file_of(count: int) -> str:
    """Return the name of a subject."""
    return f"file of {count:,} records"


@asynccontextmanager
async def opening(folder: Path) -> AsyncIterator[Mapping[str, Timed]]:
    """Set up stores and their bare files. The time to close them is not measured."""

    async def store(path: Path, loops: int) -> float:
        seconds = 0.0
        for _ in range(loops):
            began = time.perf_counter()
            async with opened(path):
                seconds += time.perf_counter() - began
        return seconds

    async def file(path: Path, loops: int) -> float:
        seconds = 0.0
        for _ in range(loops):
            began = time.perf_counter()
            async with aiosqlite.connect(path, isolation_level=None) as connection:
                for statement in PREPARED:
                    await connection.execute_fetchall(statement)
                seconds += time.perf_counter() - began
        return seconds

    async def passphrase() -> None:
        Sealer.unlock(secret, identity, header)

    identity, secret = bytes(16), Passphrase("secret")
    header = Sealer.create(secret, identity).header
    paths = {count: await copy_of(count, folder) for count in COUNTS}
    yield {
        **{store_of(count): partial(store, path) for count, path in paths.items()},
        **{file_of(count): partial(file, path) for count, path in paths.items()},
        PASSPHRASE: each(passphrase),
    }


GROUPS: Final[dict[str, Group]] = {"opening": opening}


def measure(effort: Effort) -> None:
    """Measure, and write raw results into ``RESULTS``."""
    measure_in_rounds(MODULE, list(GROUPS), effort.rounds_if_slow)


def report() -> str:
    """Return a section of the report, made from raw results."""
    results = Results(MODULE)
    passphrase = duration(results.of(PASSPHRASE).median)
    memory = 128 * COST.n * COST.r // 2**20
    return f"""\
## Opening

The baseline of `CryptoStore.open` opens the same file through the same driver, sets the same pragmas and reads the
store version. The store has a key. With a passphrase, scrypt intentionally takes another {passphrase} and {memory} MiB.

{
        compared(
            results,
            *((store_of(count), file_of(count), None) for count in COUNTS),
            (store_of(COUNTS[-1]), store_of(COUNTS[0]), None),
        )
    }
"""


if __name__ == "__main__":
    program(MODULE, GROUPS)
