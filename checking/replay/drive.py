"""Drive the reference store through every transition of the replay model.

Walks cover the state graph of the model. They take each transition in every way that the implementation has for it.
After each step, the observed state must equal the state of the model. In each state, steps that the model forbids are
tried: they must change nothing.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from checking.errors import CheckError
from checking.replay.live_objects import SCENARIOS, run_scenarios
from checking.replay.model_states import constants_of, expected
from checking.replay.observation import Observation, observe
from checking.replay.steps import take
from checking.replay.transitions import WAYS, Step, step_between, ways
from checking.replay.trials import TRIALS, attempt, trials
from checking.replay.workers import Workers, count_steps
from checking.replay.world import World
from checking.report import ReplayReport
from checking.tlc.graph import Edge, Graph, Walk, cover, read_graph
from checking.tlc.values import Value


class Diverged(CheckError):
    """The state of the implementation differs from the state of the model."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """The result of a replay: the transitions that were covered, the number of steps, and the duration."""

    covered: frozenset[int]
    steps: int
    tried: Mapping[str, int]
    """How often each kind of step that must change nothing was tried."""
    seconds: float


async def replay(
    graph: Graph, walks: Iterable[Walk], on_steps: Callable[[int], None], *, folder: Path | None = None
) -> Coverage:
    """Let the implementation take ``walks``. Raises ``Diverged`` at a step after which it differs from the model."""
    constants = constants_of(graph.states)
    seen: dict[int, Observation] = {}
    steps: dict[int, Step] = {}
    covered: set[int] = set()
    tried: set[Value] = set()
    counts = Counter[str]()
    count = 0
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        world = await World.open(Path(scratch), *constants)
        try:
            for walk in walks:
                await world.reset()
                for position, number in enumerate(walk.edges):
                    edge = graph.edges[number]
                    if number not in steps:
                        steps[number] = step_of(graph, edge)
                    new = edge.target not in seen
                    if new:
                        seen[edge.target] = expected(graph.states[edge.target])
                    trial = None
                    try:
                        await take(world, steps[number])
                        compare(observe(world), seen[edge.target])
                        for trial, about in trials(graph.states[edge.target]) if new else ():
                            if about not in tried:
                                tried.add(about)
                                counts[trial.what] += 1
                                await attempt(world, trial)
                                compare(observe(world), seen[edge.target])
                    except CheckError as error:
                        way = [*map(str, (steps[taken] for taken in walk.edges[: position + 1]))]
                        if trial is not None:
                            way.append(f"and trying to {trial.what}")
                        raise Diverged(f"{error}\nafter {' '.join(way)}") from error
                    covered.add(number)
                    count += 1
                on_steps(len(walk.edges))
        finally:
            await world.close()
    return Coverage(frozenset(covered), count, counts, time.perf_counter() - began)


def step_of(graph: Graph, edge: Edge) -> Step:
    """Return the step of a transition, and the way to take it."""
    return replace(step_between(edge.label, graph.states[edge.source], graph.states[edge.target]), way=edge.way)


def each_way(graph: Graph) -> Graph:
    """Return the graph with one edge for every way in which the implementation can take a transition.

    A step that loses the lease is taken in each way. Each of the many aborts is taken in one of its ways.
    """
    edges: list[Edge] = []
    for number, edge in enumerate(graph.edges):
        possible = ways(step_of(graph, edge), graph.states[edge.source])
        if edge.action == "Abort":
            possible = possible[number % len(possible) :][:1]
        edges += [edge._replace(way=way) for way in possible]
    return replace(graph, edges=tuple(edges))


def compare(observed: Observation, wanted: Observation) -> None:
    """Raise ``Diverged`` if the observed state differs from the model's."""
    if observed == wanted:
        return
    differences = [
        f"{field.name}: the model has {getattr(wanted, field.name)}, the implementation {getattr(observed, field.name)}"
        for field in fields(Observation)
        if getattr(observed, field.name) != getattr(wanted, field.name)
    ]
    raise Diverged("; ".join(differences))


MIN_TRANSITIONS = 30_000
"""The least number of transitions of the replay model, without crashes. With fewer, the model has lost behaviour."""


def replay_graph(path: Path, on_progress: Callable[[int, int], None]) -> ReplayReport:
    """Replay the state graph in the file ``path``, with a share of the walks on each core.

    ``on_progress`` gets the number of steps that were taken, and the number of all steps. Raises ``CheckError`` if the
    graph is too small, a transition was not covered, or some kind of step was never tried; and ``Diverged``, which is a
    ``CheckError``, if the implementation differs from the model.
    """
    graph = read_graph(path)
    lasting = sum(edge.action != "Crash" for edge in graph.edges)
    if lasting < MIN_TRANSITIONS:
        raise CheckError(f"the replay model has only {lasting} transitions besides crashes, not {MIN_TRANSITIONS}")
    graph = each_way(graph)
    ways_taken = Counter(f"{edge.action} by {edge.way}" for edge in graph.edges if edge.way)
    _demand_all(WAYS, ways_taken, "has no transition")
    steps = sum(len(walk.edges) for walk in cover(graph))
    began = time.perf_counter()
    with Workers() as workers:
        running = workers.start(_run_scenarios)
        shares = [workers.start(_replay_share, path, share, workers.count) for share in range(workers.count)]
        replayed = workers.wait(shares, lambda taken: on_progress(taken, steps))
        scenarios = running.get()
    seconds = time.perf_counter() - began
    covered = frozenset[int]().union(*(share.covered for share in replayed))
    if len(covered) != len(graph.edges):
        raise CheckError(f"{len(graph.edges) - len(covered)} transitions of the replay model were not covered")
    tried = sum((Counter(share.tried) for share in replayed), Counter[str]())
    if scenarios != SCENARIOS:
        raise CheckError(f"{scenarios} scenarios of live objects were tried, not {SCENARIOS}")
    _demand_all(TRIALS, tried, "has no state in which to")
    return ReplayReport(
        transitions=len(graph.edges),
        covered=len(covered),
        ways=dict(sorted(ways_taken.items())),
        tried=dict(sorted(tried.items())),
        scenarios=scenarios,
        steps=sum(share.steps for share in replayed),
        processes=len(replayed),
        seconds=round(seconds, 1),
        # By the time that each process spent on steps, without reading the graph: this is the speed of one core.
        steps_per_second=round(sum(share.steps for share in replayed) / sum(share.seconds for share in replayed)),
    )


def _demand_all(expected: Iterable[str], found: Mapping[str, int], otherwise: str) -> None:
    if missing := sorted(what for what in expected if not found.get(what)):
        raise CheckError(f"the replay model {otherwise} {', '.join(missing)}")


def _run_scenarios() -> int:
    return asyncio.run(run_scenarios())


def _replay_share(path: Path, share: int, shares: int) -> Coverage:
    """Replay every ``shares``-th walk. The graph and the walks are the same in each process."""
    graph = each_way(read_graph(path))
    return asyncio.run(replay(graph, cover(graph)[share::shares], count_steps))
