"""Measure subjects in rounds, each subject alternately with its baseline.

A *subject* is something to be timed. A *group* sets up several subjects that are compared with each other. A *round* is
a process of its own in which the subjects of a group are sampled alternately: each runs so often that the clock can
measure it, then the next one does. A ratio is computed within each round. The report has the median over all rounds,
with the quartiles. If the computer is slow for a second, both sides of a ratio are slow; the quartiles show the
remaining spread.

pyperf stores the results with the computer and the versions, and can show the raw files: ``python -m pyperf stats
build/benchmarks/transactions.json``. pyperf's own runner is not used, since it finishes one subject before the next.
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
"""Whether this run only shows that every topic still works. It is short, and its figures mean nothing. It is set by an
environment variable, because each process of a measurement needs it."""


def sized(full: Size, smoke: Size) -> Size:
    """Return how much to measure: ``full``, or ``smoke`` in a smoke run."""
    return smoke if SMOKE else full


PEERS_PYTHON: Final = ".venv/peers/bin/python"
"""The Python of the environment with the other libraries."""

RESULTS: Final = Path(sized("build/benchmarks", "build/smoke"))
"""The folder of raw results and of the measured stores, on the same disk as the project."""

SAMPLES: Final = sized(8, 1)
"""The number of samples of each subject in a round."""

SAMPLE_SECONDS: Final = sized(0.1, 0.001)
"""The least duration of a sample, in seconds."""

_LIBRARIES = ("aiosqlite", "cryptography", "rpds-py", "vodozemac", "matrix-nio", "peewee", "mautrix", "python-olm")

Timed = Callable[[int], Awaitable[float]]
"""Does something so many times, and returns the seconds that it took."""

Group = Callable[[Path], AbstractAsyncContextManager[Mapping[str, Timed]]]
"""Sets up subjects in an empty folder, and yields them by name."""


Serve: TypeAlias = "Callable[[int, Connection[bytes, bytes], Path], Coroutine[None, None, None]]"
"""Runs one of several processes that are timed together: its number, a pipe to the driver, and the shared folder."""


class Effort(Enum):
    """How many rounds to measure."""

    SMOKE = 2
    FAST = 4
    DEFAULT = 8
    RIGOROUS = 24

    @property
    def rounds(self) -> int:
        """The number of rounds of a topic."""
        return self.value

    @property
    def rounds_if_slow(self) -> int:
        """The number of rounds of a topic with long rounds: half as many, but at least two, to have a spread."""
        return max(2, self.value // 2)


def each(operation: Callable[[], Awaitable[object]]) -> Timed:
    """Return a function that times an operation without preparation."""

    async def timed(loops: int) -> float:
        began = time.perf_counter()
        for _ in range(loops):
            await operation()
        return time.perf_counter() - began

    return timed


def measure_in_rounds(module: str, groups: Sequence[str], rounds: int, python: str = sys.executable) -> None:
    """Let the program ``module`` measure each of its ``groups`` in so many rounds."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    results_of(module).unlink(missing_ok=True)
    for number in range(1, rounds + 1):
        for group in groups:
            say(f"{module.rpartition('.')[2]}: round {number} of {rounds}, {group}")
            # The path of this package, for an environment in which it is not installed.
            environment = {**os.environ, "PYTHONPATH": "reference"}
            command = [python, "-m", module, group, "--add"]
            subprocess.run(command, check=True, env=environment)  # noqa: S603 (a program of this project)


def program(module: str, groups: Mapping[str, Group]) -> None:
    """Run the program ``python -m module GROUP``: measure one round, and show the results or add them to the file."""
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
    """Start so many processes with a new shared folder on the project's disk, and wait until each has sent something.

    A process ends when its pipe is closed, so no process remains.
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
            theirs.close()  # then the pipe is closed when the process ends
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
    """Return the file with the raw results of a topic."""
    return RESULTS / f"{module.rpartition('.')[2]}.json"


def say(line: str) -> None:
    """Print the progress of a measurement."""
    sys.stderr.write(f"{line}\n")


@dataclass(frozen=True, slots=True)
class Spread:
    """The median and the quartiles of one value from each round."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least two values."""
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio that has a target."""

    what: str
    """The names of both sides, for a plot."""
    ratio: Spread
    most: float

    @property
    def met(self) -> bool:
        """Whether the median meets the target."""
        return self.ratio.median <= self.most


class Results:
    """The results of a topic, by subject and round."""

    def __init__(self, module: str) -> None:
        self.suite = pyperf.BenchmarkSuite.load(str(results_of(module)))

    def of(self, subject: str) -> Spread:
        """Return the measured values of a subject: seconds, or another unit."""
        return Spread.of(self._rounds(subject))

    def ratio(self, subject: str, baseline: str) -> Spread:
        """Return the ratio of the subject's time to the baseline's time."""
        rounds = zip(self._rounds(subject), self._rounds(baseline), strict=True)
        return Spread.of([ours / theirs for ours, theirs in rounds])

    def difference(self, subject: str, baseline: str) -> Spread:
        """Return the difference between the subject's time and the baseline's time, in seconds."""
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
    """Return how many loops make a sample. The attempts also warm up the subject."""
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
