"""Measure the time and memory of TLC, the growth of a model with each bound, and the speed of the replay.

One TLC runs at a time. The deep models take longest, so they are measured only with ``--rigorous``.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec

from bench.measuring import RESULTS, Effort, sized
from bench.reporting import table
from checking.display import counting, make_console
from checking.errors import CheckError
from checking.models.manifest import Band, Manifest, find_manifest, read_manifest
from checking.replay.drive import replay, replay_graph
from checking.report import ReplayReport
from checking.tlc.graph import cover, read_graph
from checking.tlc.run import Job, Verdict, run
from checking.tlc.toolbox import Toolbox, find_toolbox

PUBLISHED_TESTS, PUBLISHED_SECONDS = 87_143, 40 * 60
"""The nearest published work: the tests that MongoDB generates from the state graph of its model of WiredTiger."""

REPLAYED = "Replay"
"""The model whose replay drives the store. Other models drive the Matrix device."""

RAW = RESULTS / "model-checking.json"

BASE = {
    "Processes": "{p1, p2}",
    "Operations": "{o1, o3}",
    "Records": "{r1}",
    "MaxEpoch": "3",
    "MaxVersion": "2",
}
"""The base model, and the same model with one bound raised by one."""

ONE_MORE = sized(
    {
        "nothing": BASE,
        "process, with an operation": BASE | {"Processes": "{p1, p2, p3}", "Operations": "{o1, o3, o4}"},
        "operation, beside another one": BASE | {"Operations": "{o1, o2, o3}"},
        "record": BASE | {"Records": "{r1, r2}"},
        "epoch": BASE | {"MaxEpoch": "4"},
        "commit": BASE | {"MaxVersion": "3"},
    },
    {"nothing": BASE},
)

TEMPLATE = """
SPECIFICATION Spec
CONSTANTS
    p1 = p1  p2 = p2  p3 = p3  o1 = o1  o2 = o2  o3 = o3  o4 = o4
    {bounds}
    Home <- TwoAndOneEach
    Modes <- AllTransactions
    Subscribers = {{}}
    Nobody = Nobody
    Departed = Departed
    Missing = Missing
    LeaseTime = 1
    Acquired <- AcquiredExpired
    Renewed <- RenewedExpired
    Fault = "none"
INVARIANTS TypeOK CacheIsSnapshot NoLostUpdate NoRatchetReuse Opaque OneFencedHolder GuardIsHonest
PROPERTIES EpochNeverReused NoSpuriousInvalidation
CHECK_DEADLOCK FALSE
"""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run of TLC, from its start to its end."""

    name: str
    workers: int
    distinct_states: int
    seconds: float
    peak_memory: int
    """The resident memory in bytes. Java uses as much as it may, which is more than it needs."""

    @property
    def states_a_minute(self) -> float:
        """The number of distinct states per minute, including the start of Java."""
        return 60 * self.distinct_states / self.seconds


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """All results."""

    models: tuple[Run, ...]
    growth: tuple[Run, ...]
    """The runs of each of ``ONE_MORE``, with one worker and with two workers."""
    replay: ReplayReport


def _measured(toolbox: Toolbox, name: str, job: Job) -> Run:
    """Run TLC in a process without other children, since the system only reports the largest child so far."""
    result = asyncio.run(run(toolbox, job))
    if result.verdict is not Verdict.PASS:
        raise CheckError(f"{name}: TLC says {result.verdict.value}. {result.detail}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(
        name=name,
        workers=job.workers,
        distinct_states=result.distinct_states,
        seconds=round(result.seconds, 2),
        peak_memory=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit,
    )


def growth_jobs(manifest: Manifest, folder: Path) -> Iterator[tuple[str, Job]]:
    """Write the configurations of ``ONE_MORE`` to ``folder``. Yield each for one worker and for two workers."""
    # TLC looks for a configuration only in the folder of the specification.
    specification = folder / "Growth.tla"
    specification.write_text("---- MODULE Growth ----\nEXTENDS MCMore\n====\n", encoding="utf-8")
    for number, (name, bounds) in enumerate(ONE_MORE.items()):
        configuration = folder / f"Growth{number}.cfg"
        lines = "\n    ".join(f"{constant} = {value}" for constant, value in bounds.items())
        configuration.write_text(TEMPLATE.format(bounds=lines), encoding="utf-8")
        job = Job(specification, configuration, library=(manifest.folder, manifest.folder.parent))
        yield name, job
        yield name, replace(job, workers=2)


def measure_all(bands: Sequence[Band]) -> Measured:
    """Measure the models of ``bands``, the growth, and the replay."""
    console = make_console()
    toolbox = find_toolbox()
    manifest = read_manifest(find_manifest(Path(__file__)))
    with tempfile.TemporaryDirectory(prefix="unwedged-growth-") as scratch:
        measured = manifest.band(*bands)
        models = [(model.name, manifest.job(model)) for model in measured[: sized(len(measured), 1)]]
        growth = list(growth_jobs(manifest, Path(scratch)))
        runs: list[Run] = []
        context = multiprocessing.get_context("spawn")
        with (
            counting(console, "models measured") as on_progress,
            ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool,
        ):
            for name, job in (*models, *growth):
                runs.append(pool.submit(_measured, toolbox, name, job).result())
                on_progress(len(runs), len(models) + len(growth))
        dump = Path(scratch) / "replay.dot"
        asyncio.run(run(toolbox, manifest.job(manifest.model(REPLAYED), dump)))
        with counting(console, "replayed steps") as on_progress:
            replay = sized(replay_graph, replay_briefly)(dump, on_progress)
    return Measured(models=tuple(runs[: len(models)]), growth=tuple(runs[len(models) :]), replay=replay)


def replay_briefly(path: Path, on_progress: Callable[[int, int], None]) -> ReplayReport:
    """Replay only the first walks, in this process."""
    graph = read_graph(path)
    walks = cover(graph)[:20]
    replayed = asyncio.run(replay(graph, walks, lambda steps: on_progress(steps, steps)))
    return ReplayReport(
        transitions=len(graph.edges),
        covered=len(replayed.covered),
        ways={},
        scenarios=0,
        tried=replayed.tried,
        steps=replayed.steps,
        processes=1,
        seconds=replayed.seconds,
        steps_per_second=round(replayed.steps / replayed.seconds),
    )


def measure(effort: Effort) -> None:
    """Measure, and write raw results into ``RESULTS``."""
    deep = (Band.DEEP,) if effort is Effort.RIGOROUS else ()
    RAW.parent.mkdir(parents=True, exist_ok=True)
    RAW.write_bytes(msgspec.json.format(msgspec.json.encode(measure_all((Band.SMOKE, *deep))), indent=2))


def report() -> str:
    """Return a section of the report, made from raw results."""
    measured: Measured = msgspec.json.decode(RAW.read_bytes(), type=Measured)
    base, replay = measured.growth[0], measured.replay
    rate, published = replay.steps / replay.seconds, PUBLISHED_TESTS / PUBLISHED_SECONDS
    models = table(
        ("model", "workers", "distinct states", "seconds", "states a minute", "peak memory"),
        [
            (
                f"`{run.name}`",
                f"{run.workers}",
                f"{run.distinct_states:,}",
                f"{run.seconds:.0f}",
                f"{run.states_a_minute:,.0f}",
                _megabytes(run),
            )
            for run in measured.models
        ],
    )
    growth = table(
        ("one more", "distinct states", "times", "seconds", "with two workers", "peak memory"),
        [
            (
                one.name,
                f"{one.distinct_states:,}",
                f"{one.distinct_states / base.distinct_states:.1f}",
                f"{one.seconds:.1f}",
                f"{two.seconds:.1f}",
                _megabytes(one),
            )
            for one, two in zip(measured.growth[::2], measured.growth[1::2], strict=True)
        ],
    )
    return f"""\
## Checking the models

TLC checks one model at a time. The times include the start of Java. The memory is what Java took, which is more than it
needs. With `BENCH=--rigorous`, the deep models are measured as well{_not_measured(measured)}.

{models}

The next table shows the cost of one more of each thing. The first row has two processes with a transaction each, one
record, three epochs and two commits, without symmetry:

{growth}

The replay drives the store through the model, step by step. {replay.steps:,} steps in {replay.seconds:.0f} s are
{rate:,.0f} a second in {replay.processes} processes, and {rate / replay.processes:,.0f} in each. That is
{rate / replay.processes / published:.0f} times the {published:.0f} tests a second that were published for the nearest
known work, MongoDB's tests of WiredTiger ({PUBLISHED_TESTS:,} in {PUBLISHED_SECONDS // 60} minutes). The target was ten
times.
"""


def _not_measured(measured: Measured) -> str:
    """Return which deep models were not measured."""
    runs = {run.name for run in measured.models}
    missing = [model.name for model in read_manifest(find_manifest(Path(__file__))).band(Band.DEEP)]
    missing = [f"`{name}`" for name in missing if name not in runs]
    return f" (not here: {', '.join(missing)})" if missing else ""


def _megabytes(run: Run) -> str:
    return f"{run.peak_memory / 1e6:,.0f} MB"
