"""Replay: every transition of the replay model, taken by the real implementation.

The walks cover the model's graph. After each step, what is observed must be exactly what the model's state says.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from unwedged.check.errors import CheckError
from unwedged.check.graph import Graph, Walk, cover, read_graph
from unwedged.check.report import ReplayReport
from unwedged.check.transitions import Step, cast_of, expected, step_between, take
from unwedged.check.world import Observation, World


class Diverged(CheckError):
    """The implementation is not where the model is."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """How far a replay has come: distinct transitions covered, steps taken, and how long it took."""

    covered: frozenset[int]
    steps: int
    seconds: float


async def replay(
    graph: Graph, walks: Iterable[Walk], on_steps: Callable[[int], None], *, folder: Path | None = None
) -> Replayed:
    """Drive the implementation along ``walks``; raise ``Diverged`` where it does not follow."""
    cast = cast_of(graph.states)
    seen: dict[int, Observation] = {}
    steps: dict[int, Step] = {}
    covered: set[int] = set()
    count = 0
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        world = await World.open(Path(scratch), *cast)
        try:
            for walk in walks:
                await world.reset()
                for position, number in enumerate(walk.edges):
                    edge = graph.edges[number]
                    if number not in steps:
                        steps[number] = step_between(edge.label, graph.states[edge.source], graph.states[edge.target])
                    if edge.target not in seen:
                        seen[edge.target] = expected(graph.states[edge.target])
                    try:
                        await take(world, steps[number])
                        compare(world.observe(), seen[edge.target])
                    except CheckError as error:
                        way = [steps[taken] for taken in walk.edges[: position + 1]]
                        raise Diverged(f"{error}\nafter {' '.join(map(str, way))}") from error
                    covered.add(number)
                    count += 1
                on_steps(len(walk.edges))
        finally:
            await world.close()
    return Replayed(frozenset(covered), count, time.perf_counter() - began)


def compare(observed: Observation, wanted: Observation) -> None:
    """Raise ``Diverged`` with the differences, if there are any."""
    if observed == wanted:
        return
    differences = [
        f"{field.name}: the model has {getattr(wanted, field.name)}, the implementation {getattr(observed, field.name)}"
        for field in fields(Observation)
        if getattr(observed, field.name) != getattr(wanted, field.name)
    ]
    raise Diverged("; ".join(differences))


FEWEST_TRANSITIONS = 20_000
"""Of the replay model, crashes not counted: with fewer it would be no longer the model it was."""


def replay_graph(path: Path, on_progress: Callable[[int, int], None]) -> ReplayReport:
    """Replay the graph that TLC dumped to ``path``, each core its share of the walks.

    ``on_progress`` is told how many steps were taken, and how many there are. Raises ``CheckError`` if the graph is too
    small, or a transition was not covered, or the implementation diverged.
    """
    graph = read_graph(path)
    lasting = sum(edge.action != "Crash" for edge in graph.edges)
    if lasting < FEWEST_TRANSITIONS:
        raise CheckError(f"the replay model has {lasting} transitions that are no crashes, not {FEWEST_TRANSITIONS}")
    steps = sum(len(walk.edges) for walk in cover(graph))
    context = multiprocessing.get_context("spawn")
    cores = os.cpu_count() or 1
    taken = context.Value("q", 0)
    began = time.perf_counter()
    with context.Pool(cores, _ignore_interrupts, (taken,)) as pool:
        shares = pool.starmap_async(_replay_share, [(path, share, cores) for share in range(cores)])
        while not shares.ready():
            shares.wait(0.5)
            on_progress(taken.value, steps)
        replayed = shares.get()
    seconds = time.perf_counter() - began
    covered = frozenset[int]().union(*(share.covered for share in replayed))
    if len(covered) != len(graph.edges):
        raise CheckError(f"{len(graph.edges) - len(covered)} transitions of the replay model were not covered")
    return ReplayReport(
        transitions=len(graph.edges),
        covered=len(covered),
        steps=sum(share.steps for share in replayed),
        processes=cores,
        seconds=round(seconds, 1),
        # By the time each process spent on steps, not on reading the graph: what one core does.
        steps_per_second=round(sum(share.steps for share in replayed) / sum(share.seconds for share in replayed)),
    )


_taken: Synchronized[int]


def _ignore_interrupts(taken: Synchronized[int]) -> None:
    """Leave Ctrl-C to the parent, which ends the pool."""
    global _taken
    _taken = taken
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _replay_share(path: Path, share: int, shares: int) -> Replayed:
    """Replay every ``shares``-th walk. Graph and walks are the same in each process."""

    def count(steps: int) -> None:
        with _taken.get_lock():
            _taken.value += steps

    graph = read_graph(path)
    return asyncio.run(replay(graph, cover(graph)[share::shares], count))
