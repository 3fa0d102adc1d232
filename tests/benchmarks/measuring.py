"""How anything is measured here: by pyperf, in rounds, beside what it is compared with.

A *subject* is something to be timed. pyperf runs each in a process of its own, finds out how many loops make a value
that the clock can measure, and notes what machine it ran on. A *round* is one process of each subject of a topic, one
after the other; there are many rounds, so that a machine that slows down slows all subjects down. A ratio is formed
within each round, and reported as the median over all rounds with its quartiles: drift cancels, and the spread is seen.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pyperf

RESULTS = Path("build/benchmarks")
"""Raw results, and the stores that are measured: on the disk that the project is on."""

PLOTS = Path("spec/benchmarks")

LIBRARIES = ("aiosqlite", "cryptography", "rpds-py", "vodozemac", "matrix-nio", "mautrix", "peewee", "python-olm")

Timed = Callable[[int], Awaitable[float]]
"""Does something so many times, and returns how many seconds that took."""

Subject = Callable[[Path], AbstractAsyncContextManager[Timed]]
"""Sets something up in an empty folder, and gives what is to be timed."""


class Effort(Enum):
    """How many rounds to measure."""

    FAST = 3
    DEFAULT = 9
    RIGOROUS = 27


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several values, and their quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Take the quartiles of at least two values."""
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))


def each(operation: Callable[[], Awaitable[object]]) -> Timed:
    """Time an operation that needs no preparation; the first time is not counted."""

    async def timed(loops: int) -> float:
        await operation()
        began = time.perf_counter()
        for _ in range(loops):
            await operation()
        return time.perf_counter() - began

    return timed


def program(module: str, subjects: Mapping[str, Subject]) -> None:
    """Be the pyperf program ``python -m module``: time each subject in a process of its own."""
    runner = pyperf.Runner(program_args=("-m", module), metadata=_versions())
    arguments = runner.parse_args()
    calibrated = _loops(arguments.append)
    for name, subject in subjects.items():
        if not arguments.worker:
            arguments.loops = calibrated.get(name, 0)
        runner.bench_time_func(name, _in_a_folder(subject))


def in_rounds(module: str, effort: Effort, python: str = sys.executable) -> Path:
    """Run the pyperf program ``module`` for as many rounds as ``effort`` says; return the file with the results."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    results = results_of(module)
    results.unlink(missing_ok=True)
    options = ("--quiet", "--processes=1", "--values=3", "--min-time=0.2", f"--append={results}")
    for round_ in range(1, effort.value + 1):
        say(f"{module.rpartition('.')[2]}: round {round_} of {effort.value}")
        subprocess.run([python, "-m", module, *options], check=True)  # noqa: S603 (a program of this project)
    return results


def results_of(module: str) -> Path:
    """Return where the raw results of a topic are."""
    return RESULTS / f"{module.rpartition('.')[2]}.json"


class Rounds:
    """The results of a topic, by subject and round."""

    def __init__(self, results: Path) -> None:
        self.suite = pyperf.BenchmarkSuite.load(str(results))

    def seconds(self, subject: str) -> Spread:
        """Return how long one loop took."""
        return Spread.of(self._values(subject))

    def ratio(self, subject: str, baseline: str) -> Spread:
        """Return how many times as long as the baseline the subject took."""
        pairs = zip(self._values(subject), self._values(baseline), strict=True)
        return Spread.of([value / other for value, other in pairs])

    def _values(self, subject: str) -> list[float]:
        runs = self.suite.get_benchmark(subject).get_runs()
        return [statistics.median(run.values) for run in runs if run.values]


def say(line: str) -> None:
    """Say how far the measurement has come."""
    sys.stderr.write(f"{line}\n")


def _in_a_folder(subject: Subject) -> Callable[[int], float]:
    RESULTS.mkdir(parents=True, exist_ok=True)

    async def timed(loops: int) -> float:
        with tempfile.TemporaryDirectory(dir=RESULTS) as folder:
            async with subject(Path(folder)) as measured:
                return await measured(loops)

    return lambda loops: asyncio.run(timed(loops))


def _loops(results: str | None) -> dict[str, int]:
    """Return what earlier rounds found out about the number of loops."""
    if results is None or not Path(results).exists():
        return {}
    return {bench.get_name(): bench.get_loops() for bench in pyperf.BenchmarkSuite.load(results)}


def _versions() -> dict[str, str]:
    versions = {}
    for library in LIBRARIES:
        try:
            versions[f"{library} version"] = version(library)
        except PackageNotFoundError:
            continue
    return versions
