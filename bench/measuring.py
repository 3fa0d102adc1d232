"""How anything is measured here: in rounds, each subject in turn with what it is compared with.

A *subject* is something to be timed; a *group* sets up several that are compared with each other. A *round* is one
process of its own, in which each subject of a group is sampled in turn: it runs so often that the clock can measure it,
then the next one does. A ratio is formed within each round and reported as the median over all rounds, with its
quartiles. A machine that slows down for a second slows both sides down, and the spread shows what that leaves.

pyperf keeps the results, notes the machine and the versions, and can look at the raw files: ``python -m pyperf stats
build/benchmarks/transactions.json``. Its own runner would not do, as it has done with one subject before it begins the
next.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import pyperf

Size = TypeVar("Size")

SMOKE: Final = "UNWEDGED_SMOKE" in os.environ
"""Whether this run only shows that every topic still works. It is small and short, and its figures mean nothing. An
environment variable says so, because each process of a measurement must know."""


def sized(full: Size, smoke: Size) -> Size:
    """Return how much to measure: ``full``, or ``smoke`` if it only has to work."""
    return smoke if SMOKE else full


PEERS_PYTHON: Final = ".venv/peers/bin/python"
"""Of the environment that has the libraries to compare with."""

RESULTS: Final = Path(sized("build/benchmarks", "build/smoke"))
"""Raw results, and the stores that are measured: on the disk that the project is on."""

SAMPLES: Final = sized(8, 1)
"""How many samples of each subject a round takes."""

SAMPLE_SECONDS: Final = sized(0.1, 0.001)
"""How long a sample lasts at least."""

_LIBRARIES = ("aiosqlite", "cryptography", "rpds-py", "vodozemac", "matrix-nio", "peewee", "mautrix", "python-olm")

Timed = Callable[[int], Awaitable[float]]
"""Does something so many times, and returns how many seconds that took."""

Group = Callable[[Path], AbstractAsyncContextManager[Mapping[str, Timed]]]
"""Sets up subjects in an empty folder, by name."""


Serve: TypeAlias = "Callable[[int, Connection[bytes, bytes], Path], Coroutine[None, None, None]]"
"""Is one of several processes that are timed together. It has a number, a pipe to its driver and a folder for all."""


class Effort(Enum):
    """How many rounds to measure."""

    SMOKE = 2
    FAST = 4
    DEFAULT = 8
    RIGOROUS = 24

    @property
    def rounds(self) -> int:
        """Of a topic."""
        return self.value

    @property
    def rounds_if_slow(self) -> int:
        """Of a topic whose rounds take long: half as many, but two, because one has no spread."""
        return max(2, self.value // 2)


def each(operation: Callable[[], Awaitable[object]]) -> Timed:
    """Time an operation that needs no preparation."""

    async def timed(loops: int) -> float:
        began = time.perf_counter()
        for _ in range(loops):
            await operation()
        return time.perf_counter() - began

    return timed


def measure_in_rounds(module: str, groups: Sequence[str], rounds: int, python: str = sys.executable) -> None:
    """Have the program ``module`` measure each of its ``groups`` in so many rounds."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    results_of(module).unlink(missing_ok=True)
    for number in range(1, rounds + 1):
        for group in groups:
            say(f"{module.rpartition('.')[2]}: round {number} of {rounds}, {group}")
            # The source of this package, for an environment that does not have it installed.
            environment = {**os.environ, "PYTHONPATH": "reference"}
            command = [python, "-m", module, group, "--add"]
            subprocess.run(command, check=True, env=environment)  # noqa: S603 (a program of this project)


def program(module: str, groups: Mapping[str, Group]) -> None:
    """Be the program ``python -m module GROUP``: measure one round, and show it or add it to the results."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description="Measure one round of a group.")
    parser.add_argument("group", choices=groups)
    parser.add_argument("--add", action="store_true", help=f"add it to {results_of(module)} and show nothing")
    arguments = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=RESULTS.resolve()) as folder:
        measured = asyncio.run(_round(groups[arguments.group], Path(folder)))
    for name, (loops, values) in measured.items():
        metadata = {"name": name, "loops": loops, **_versions()}
        benchmark = pyperf.Benchmark([pyperf.Run(values, metadata=metadata)])
        if arguments.add:
            pyperf.add_runs(str(results_of(module)), benchmark)
        else:
            sys.stdout.write(f"{name}: {benchmark.format_value(benchmark.mean())}\n")


@contextmanager
def processes(serve: Serve, count: int) -> Iterator[Sequence[Connection[bytes, bytes]]]:
    """Start so many processes with one new folder on the project's disk, and wait until each has sent something.

    A process ends when its pipe does: none survives.
    """
    spawn = multiprocessing.get_context("spawn")
    RESULTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=RESULTS.resolve()) as folder, ExitStack() as ending:
        pipes, children = [], []
        for number in range(count):
            ours, theirs = spawn.Pipe()
            child = spawn.Process(target=_run, args=(serve, number, theirs, Path(folder)), daemon=True)
            child.start()
            ending.callback(child.join)
            ending.callback(child.terminate)
            theirs.close()  # so that the pipe ends with the process
            ours.recv_bytes()
            pipes.append(ours)
            children.append(child)
        yield pipes
        for pipe in pipes:
            pipe.close()
        for child in children:
            child.join()


def _run(serve: Serve, number: int, driver: Connection[bytes, bytes], folder: Path) -> None:
    with suppress(EOFError, KeyboardInterrupt):
        asyncio.run(serve(number, driver, folder))


def results_of(module: str) -> Path:
    """Return where the raw results of a topic are."""
    return RESULTS / f"{module.rpartition('.')[2]}.json"


def say(line: str) -> None:
    """Say how far the measurement has come."""
    sys.stderr.write(f"{line}\n")


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of one value from each round, and the quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Take the quartiles of at least two values."""
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))


@dataclass(frozen=True, slots=True)
class Aim:
    """A ratio that there is a target for."""

    what: str
    """Both sides of it, for a plot."""
    ratio: Spread
    most: float

    @property
    def met(self) -> bool:
        """Whether the median is what was aimed at, or better."""
        return self.ratio.median <= self.most


class Results:
    """The results of a topic, by subject and round."""

    def __init__(self, module: str) -> None:
        self.suite = pyperf.BenchmarkSuite.load(str(results_of(module)))

    def of(self, subject: str) -> Spread:
        """Return how many seconds one time took, or what else was measured."""
        return Spread.of(self._rounds(subject))

    def ratio(self, subject: str, baseline: str) -> Spread:
        """Return how many times as long as the baseline the subject took."""
        rounds = zip(self._rounds(subject), self._rounds(baseline), strict=True)
        return Spread.of([ours / theirs for ours, theirs in rounds])

    def difference(self, subject: str, baseline: str) -> Spread:
        """Return how many seconds longer than the baseline the subject took."""
        rounds = zip(self._rounds(subject), self._rounds(baseline), strict=True)
        return Spread.of([ours - theirs for ours, theirs in rounds])

    def _rounds(self, subject: str) -> list[float]:
        return [statistics.fmean(run.values) for run in self.suite.get_benchmark(subject).get_runs()]


async def _round(group: Group, folder: Path) -> dict[str, tuple[int, list[float]]]:
    async with group(folder) as subjects:
        loops = {name: await _calibrated(timed) for name, timed in subjects.items()}
        values: dict[str, list[float]] = {name: [] for name in subjects}
        for _ in range(SAMPLES):
            for name, timed in subjects.items():
                values[name].append(await timed(loops[name]) / loops[name])
    return {name: (loops[name], values[name]) for name in subjects}


async def _calibrated(timed: Timed) -> int:
    """Return how many loops make a sample; trying that warms up."""
    loops = 1
    while (seconds := await timed(loops)) < SAMPLE_SECONDS:
        loops *= 2 if seconds > SAMPLE_SECONDS / 10 else 8
    return loops


def _versions() -> dict[str, str]:
    versions = {"SQLite version": sqlite3.sqlite_version}
    for library in _LIBRARIES:
        try:
            versions[f"{library} version"] = version(library)
        except PackageNotFoundError:
            continue
    return versions
