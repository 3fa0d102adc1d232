"""What several real processes get done that all want the lease all the time, and whether each gets its share.

In each process a great many tasks make one update after the other, through ``CryptoStore.run``: so many operations wait
at any time. They are counted for the same seconds in all processes, alone and beside rivals, by turns. What a process
does alone is measured by the same program in the same round.

Not with pyperf, which knows nothing of several processes that are timed together.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import platform
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, TypeVar
from unittest.mock import patch

import msgspec

from tests.benchmarks.measuring import RESULTS, say
from unwedged.store import TEXT, Codec, CryptoStore, RecordKind, Transaction, sealing

Answer = TypeVar("Answer")

RIVALS: Final = (0, 1, 3, 7)
WAITING: Final = (100, 2000)
RECORDS: Final = 100
SECONDS: Final = 2.0
"""For so long operations are counted, for each process that takes part: so that each has as many turns."""
LEAST: Final = 0.5
"""What is aimed at: the processes together get so much of what one gets done alone,"""
UNEVEN: Final = 0.2
"""and each gets its fair share but for so much of it."""
RAW: Final = RESULTS / "rivals.json"
PASSPHRASE: Final = "benchmark"
COUNT: Final = RecordKind("count", key=TEXT, value=Codec[int](lambda count: b"%d" % count, int))


class Work(msgspec.Struct, frozen=True):
    """Have so many operations wait at all times; count from one moment to another, by the machine's monotonic clock."""

    waiting: int
    begin: float
    end: float


class Done(msgspec.Struct, frozen=True):
    """What a process did in that time."""

    operations: int
    turns: int
    """How often it got the lease."""
    processor: float
    """Seconds."""


class Run(msgspec.Struct, frozen=True):
    """What several processes did at the same time."""

    waiting: int
    rivals: int
    seconds: float
    done: list[Done]

    @property
    def rate(self) -> float:
        """Operations a second, of all processes."""
        return sum(each.operations for each in self.done) / self.seconds

    @property
    def shares(self) -> list[float]:
        """What each process got, in fair shares."""
        fair = sum(each.operations for each in self.done) / len(self.done)
        return [each.operations / fair for each in self.done]

    @property
    def of_an_operation(self) -> float:
        """Seconds of processor time."""
        return sum(each.processor for each in self.done) / max(1, sum(each.operations for each in self.done))

    @property
    def turns(self) -> int:
        """How often the lease changed hands."""
        return sum(each.turns for each in self.done)


class Result(msgspec.Struct, frozen=True):
    """What was measured, and where."""

    machine: str
    cores: int
    python: str
    sqlite: str
    rounds: list[list[Run]]


async def _work(store: CryptoStore, work: Work) -> Done:
    done = 0

    async def again_and_again(key: str) -> None:
        nonlocal done

        async def count(transaction: Transaction) -> None:
            transaction.put(COUNT, key, (await transaction.get(COUNT, key) or 0) + 1)

        while time.monotonic() < work.end:
            await store.run(count)
            done += 1

    tasks = [asyncio.create_task(again_and_again(f"{number % RECORDS}")) for number in range(work.waiting)]
    await asyncio.sleep(work.begin - time.monotonic())
    done, turns, processor = 0, store.statistics().leases_acquired, time.process_time()
    await asyncio.sleep(work.end - time.monotonic())
    counted = Done(done, store.statistics().leases_acquired - turns, time.process_time() - processor)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return counted


async def _process(number: int, driver: Connection[bytes, bytes], folder: Path) -> None:
    with patch.object(sealing, "COST", sealing.Cost(n=2, r=1, p=1)):
        store = await CryptoStore.open(
            folder / "store.db", passphrase=PASSPHRASE, label=f"process {number}", kinds=[COUNT]
        )
    async with store:
        driver.send_bytes(msgspec.json.encode(None))
        while (command := await asyncio.to_thread(driver.recv_bytes)) != b"null":
            driver.send_bytes(msgspec.json.encode(await _work(store, msgspec.json.decode(command, type=Work))))


def run_process(number: int, driver: Connection[bytes, bytes], folder: Path) -> None:
    """Be one of the processes. Its driver is gone when the pipe is."""
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        asyncio.run(_process(number, driver, folder))


@contextlib.contextmanager
def processes(count: int) -> Iterator[Sequence[Connection[bytes, bytes]]]:
    """Start so many processes on one new file; none survives."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=RESULTS) as folder, contextlib.ExitStack() as ending:
        pipes = []
        for number in range(count):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=run_process, args=(number, theirs, Path(folder)), daemon=True)
            process.start()
            theirs.close()  # so that the pipe ends with the process
            ending.callback(process.join)
            ending.callback(process.terminate)
            ours.recv_bytes()
            pipes.append(ours)
        yield pipes
        for pipe in pipes:
            pipe.send_bytes(b"null")


def worked(pipes: Sequence[Connection[bytes, bytes]], waiting: int, seconds: float) -> Run:
    """Have these processes work at the same time."""
    begin = time.monotonic() + 0.5  # A second process has got the lease by then.
    length = seconds * len(pipes)
    for pipe in pipes:
        pipe.send_bytes(msgspec.json.encode(Work(waiting, begin, begin + length)))
    done = [msgspec.json.decode(pipe.recv_bytes(), type=Done) for pipe in pipes]
    return Run(waiting, len(pipes) - 1, length, done)


def measured(rounds: int, rivals: Sequence[int], waiting: Sequence[int], seconds: float) -> Result:
    """Measure for so many rounds."""
    found = []
    with processes(max(rivals) + 1) as pipes:
        for number in range(1, rounds + 1):
            say(f"rivals: round {number} of {rounds}")
            found.append([worked(pipes[: some + 1], each, seconds) for each in waiting for some in rivals])
    return Result(
        machine=f"{platform.system()} {platform.machine()}",
        cores=os.cpu_count() or 0,
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        rounds=found,
    )
