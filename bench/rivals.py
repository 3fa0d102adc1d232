"""Measure the throughput of several real processes that always compete for the lease, and whether each gets its share.

In each process, many tasks make one update after the other, through ``CryptoStore.run``, so the given number of
operations always waits. The operations of all processes are counted over the same period. One process alone and several
processes together are measured alternately, in the same round.

pyperf is not used, since it can't measure several processes together.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sqlite3
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import msgspec

from bench.measuring import RESULTS, Effort, Spread, Target, processes, say, sized
from bench.reporting import digits, duration, spread, table
from unwedged.store import TEXT, Codec, CryptoStore, RecordKind, Transaction

RIVALS: Final = sized((0, 1, 3, 7), (0, 1))
WAITING: Final = sized((100, 2000), (20,))
RECORDS: Final = 100
SECONDS: Final = sized(1.5, 0.3)
"""The seconds of counting for each process that takes part, so that each process has the same number of turns."""
MOST: Final = 2.0
"""The first target: one process alone does at most so many times as many operations as several together."""
UNEVEN: Final = 1.25
"""The second target: a fair share is at most so many times the smallest one: each process gets four fifths of it."""
RAW: Final = RESULTS / "rivals.json"
KEY: Final = bytes(32)
COUNT: Final = RecordKind("count", key=TEXT, value=Codec[int](lambda count: b"%d" % count, int))


class Work(msgspec.Struct, frozen=True):
    """Keep so many operations waiting, and count between two times of the monotonic clock."""

    waiting: int
    begin: float
    end: float


class Done(msgspec.Struct, frozen=True):
    """The work of a process in that time."""

    operations: int
    turns: int
    """How often the process acquired the lease."""
    processor: float
    """The processor time, in seconds."""


class Run(msgspec.Struct, frozen=True):
    """The work of several processes at the same time."""

    waiting: int
    rivals: int
    seconds: float
    done: list[Done]

    @property
    def rate(self) -> float:
        """The operations per second of all processes."""
        return sum(each.operations for each in self.done) / self.seconds

    @property
    def shares(self) -> list[float]:
        """The operations of each process, as a multiple of a fair share."""
        fair = sum(each.operations for each in self.done) / len(self.done)
        return [each.operations / fair for each in self.done]

    @property
    def of_an_operation(self) -> float:
        """The processor time of an operation, in seconds."""
        return self._processor / sum(each.operations for each in self.done)

    @property
    def of_a_turn(self) -> float:
        """The processor time of a turn, in seconds."""
        return self._processor / max(1, sum(each.turns for each in self.done))

    @property
    def turn(self) -> float:
        """The number of operations in a turn."""
        return sum(each.operations for each in self.done) / max(1, sum(each.turns for each in self.done))

    @property
    def _processor(self) -> float:
        return sum(each.processor for each in self.done)


class Result(msgspec.Struct, frozen=True):
    """The results, and the computer."""

    machine: str
    cores: int
    python: str
    sqlite: str
    rounds: list[list[Run]]

    def of(self, waiting: int, rivals: int, what: Callable[[Run], float]) -> Spread:
        """Return a value of one setting, with its spread over the rounds."""
        return Spread.of([what(_run(each, waiting, rivals)) for each in self.rounds])

    def loss(self, waiting: int, rivals: int) -> Spread:
        """Return the throughput of one process alone, as a multiple of that of all processes together."""
        return Spread.of([_run(each, waiting, 0).rate / _run(each, waiting, rivals).rate for each in self.rounds])


def _run(runs: Sequence[Run], waiting: int, rivals: int) -> Run:
    [run] = [each for each in runs if (each.waiting, each.rivals) == (waiting, rivals)]
    return run


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
    async with CryptoStore.open(folder / "store.db", key=KEY, label=f"process {number}", kinds=[COUNT]) as store:
        driver.send_bytes(msgspec.json.encode(None))
        while True:
            work = msgspec.json.decode(await asyncio.to_thread(driver.recv_bytes), type=Work)
            driver.send_bytes(msgspec.json.encode(await _work(store, work)))


def worked(pipes: Sequence[Connection[bytes, bytes]], waiting: int, seconds: float) -> Run:
    """Let these processes work at the same time."""
    begin = time.monotonic() + 0.5  # by then, a second process has acquired the lease
    length = seconds * len(pipes)
    for pipe in pipes:
        pipe.send_bytes(msgspec.json.encode(Work(waiting, begin, begin + length)))
    done = [msgspec.json.decode(pipe.recv_bytes(), type=Done) for pipe in pipes]
    return Run(waiting, len(pipes) - 1, length, done)


def measured(rounds: int, rivals: Sequence[int], waiting: Sequence[int], seconds: float) -> Result:
    """Measure so many rounds."""
    found = []
    with processes(_process, max(rivals) + 1) as pipes:
        for number in range(1, rounds + 1):
            say(f"competing processes: round {number} of {rounds}")
            found.append([worked(pipes[: some + 1], each, seconds) for each in waiting for some in rivals])
    return Result(
        machine=f"{platform.system()} {platform.machine()}",
        cores=os.cpu_count() or 0,
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        rounds=found,
    )


def measure(effort: Effort) -> None:
    """Measure, and write raw results into ``RESULTS``."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    result = measured(effort.rounds_if_slow, RIVALS, WAITING, SECONDS)
    RAW.write_bytes(msgspec.json.format(msgspec.json.encode(result)))


def targets() -> list[Target]:
    """Return the ratios with their targets."""
    result: Result = msgspec.json.decode(RAW.read_bytes(), type=Result)
    most, rivals = WAITING[-1], RIVALS[1:]
    return [
        *(Target(f"alone / {_beside(some)}: {most:,} waiting", result.loss(most, some), MOST) for some in rivals),
        *(
            Target(f"fair share / smallest, {_beside(some)}", result.of(most, some, _smallest), UNEVEN)
            for some in rivals
        ),
    ]


def _smallest(run: Run) -> float:
    return 1 / min(run.shares)


def _beside(rivals: int) -> str:
    return "alone" if rivals == 0 else f"beside {rivals}"


def report() -> str:
    """Return a section of the report, made from raw results."""
    result: Result = msgspec.json.decode(RAW.read_bytes(), type=Result)
    rows = [_row(result, waiting, rivals) for waiting in WAITING for rivals in RIVALS]
    headings = (
        *("waiting in each", "other processes", "operations a second, of all", "alone / together", "shares"),
        *("operations a turn", "processor time of an operation", "of a turn"),
    )
    return f"""\
## Several processes that compete for the lease

In each process, the given number of tasks update, one operation after the other and through `CryptoStore.run`, one of
{RECORDS} records that all processes share. So each process always wants the lease, and always has that many operations
waiting. Operations are counted over {SECONDS:g} seconds for each process, in {len(result.rounds)} rounds of all
settings. The targets are that the processes together do at least half as many operations as one alone (ratio at most
{MOST:g}), and that each does at least four fifths of its fair share. One process alone has no turns. Processor time
is that of all processes, with those that wait. There are {result.cores} processors.

{table(headings, rows)}
"""


def _row(result: Result, waiting: int, rivals: int) -> tuple[str, ...]:
    def middle(what: Callable[[Run], float]) -> float:
        return result.of(waiting, rivals, what).median

    first = (f"{waiting:,}", str(rivals), digits(middle(lambda run: run.rate)))
    cost = duration(middle(lambda run: run.of_an_operation))
    if rivals == 0:
        return (*first, "", "", "", cost, "")
    shares = f"{middle(lambda run: min(run.shares)):.2f} to {middle(lambda run: max(run.shares)):.2f}"
    loss = spread(result.loss(waiting, rivals), digits)
    return (
        *first,
        loss,
        shares,
        digits(middle(lambda run: run.turn)),
        cost,
        duration(middle(lambda run: run.of_a_turn)),
    )
