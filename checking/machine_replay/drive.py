"""Drive real machines through every transition of a model's state graph, and compare with the model after each step.

Each transition is taken once. When the machines first reach a state, a copy of the state is kept, with the real
records. The copy is restored to take another transition from the same state. In each state, steps that the model
forbids are tried as well. After each step, another machine gets the same input again. Both must change nothing.
"""

from __future__ import annotations

import asyncio
import pickle
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from checking.errors import CheckError
from checking.machine_replay.counterpart import Counterpart, Impossible
from checking.machine_replay.counterparts import COUNTERPARTS
from checking.machine_replay.shared_device import Row
from checking.replay.drive import Diverged
from checking.replay.transitions import chosen
from checking.replay.workers import Workers, count_steps
from checking.report import MachineReplayReport
from checking.tlc.graph import Graph, read_graph
from checking.tlc.values import Label, State, Value, render_value

_MEMORY = Path("/dev/shm")  # noqa: S108 (the names in it are random)
FOLDER = _MEMORY if _MEMORY.is_dir() else None
"""The folder of the store files: in memory if possible, since nothing has to survive a power cut."""


class Kept(NamedTuple):
    """A copy of a whole state."""

    rows: tuple[tuple[Row, ...], ...]
    """The records of each device."""
    outside: bytes


def keep(counterpart: Counterpart) -> Kept:
    """Return a copy of the current state."""
    return Kept(tuple(device.rows() for device in counterpart.devices), pickle.dumps(counterpart.outside))


async def put_back(counterpart: Counterpart, kept: Kept) -> None:
    """Restore a copied state."""
    for device, rows in zip(counterpart.devices, kept.rows, strict=True):
        await device.restore(rows)
    counterpart.outside = pickle.loads(kept.outside)  # noqa: S301 (this process has pickled it)


@dataclass(slots=True)
class Coverage:
    """The result of a replay."""

    covered: int = 0
    """The number of transitions that were taken."""
    repeated: int = 0
    """How often another machine got the same input again. Each time nothing changed."""
    refused: int = 0
    """How often a step was tried that the model forbids. Each time nothing changed."""


class Replay:
    """Covers a graph by counterparts, one for each initial state."""

    def __init__(self, graph: Graph, kind: type[Counterpart]) -> None:
        """Use ``replay`` instead."""
        self.coverage = Coverage()
        self._graph = graph
        self._counterpart: Counterpart
        self._steps = [
            kind.steps(edge.action, graph.states[edge.source], graph.states[edge.target]) for edge in graph.edges
        ]
        """The possible steps of each transition."""
        self._untaken: list[list[int]] = [[] for _ in graph.states]
        self._allowed: list[set[Label]] = [set() for _ in graph.states]
        for number, edge in enumerate(graph.edges):
            self._untaken[edge.source].append(number)
            self._allowed[edge.source].update(self._steps[number])
        self._seen: set[int] = set()
        self._kept: dict[int, tuple[Kept, tuple[Label, ...]]] = {}
        """The copy of each state with transitions that were not taken, and the steps that led there."""

    async def cover(self, initial: int, counterpart: Counterpart, on_steps: Callable[[int], None]) -> None:
        """Take every transition that an initial state leads to. Raises ``Diverged``."""
        self._counterpart = counterpart
        await self._arrive(initial, [])
        while self._kept:
            state = next(reversed(self._kept))
            kept, way = self._kept[state]
            await put_back(self._counterpart, kept)
            taken = await self._walk(state, list(way))
            on_steps(taken)

    async def _walk(self, state: int, way: list[Label]) -> int:
        """Take transitions from a state on until none is left to take. Return how many were taken."""
        taken = 0
        while self._untaken[state]:
            number = self._untaken[state].pop()
            if not self._untaken[state]:
                self._kept.pop(state, None)
            edge = self._graph.edges[number]
            step = chosen(edge.label, self._steps[number])
            way.append(step)
            state = edge.target
            try:
                await self._counterpart.take(step)
                self._compare(state)
                if await self._counterpart.repeat(step):
                    self.coverage.repeated += 1
                    self._compare(state)
                if state not in self._seen:
                    await self._arrive(state, way)
            except CheckError as error:
                raise Diverged(f"{error}\nafter {' '.join(map(str, way))}") from error
            taken += 1
        self.coverage.covered += taken
        return taken

    async def _arrive(self, state: int, way: list[Label]) -> None:
        """Copy a state that was reached for the first time, and try the steps that the model forbids there."""
        self._seen.add(state)
        self._compare(state)
        if self._untaken[state]:
            self._kept[state] = keep(self._counterpart), tuple(way)
        for step in self._counterpart.choices():
            if step not in self._allowed[state]:
                await self._refuse(step)
                self.coverage.refused += 1
                self._compare(state)

    async def _refuse(self, step: Label) -> None:
        try:
            await self._counterpart.take(step)
        except Impossible:
            return
        raise Diverged(f"the model does not allow the step {step} here, but the machine takes it")

    def _compare(self, state: int) -> None:
        compare(self._counterpart.observe(), self._graph.states[state])


def compare(observed: State, wanted: State) -> None:
    """Raise ``Diverged`` if the observed state differs from the model's."""
    differences = [
        f"{name}: the model has {render_value(model)}, the machine {render_value(machine)}"
        for variable in wanted
        for name, model, machine in _differences(variable, wanted[variable], observed[variable])
    ]
    if differences:
        raise Diverged("; ".join(differences))


def _differences(name: str, model: Value, machine: Value) -> list[tuple[str, Value, Value]]:
    # Not "!=": it is wrong for two of rpds's maps that have an equal entry.
    if model == machine:
        return []
    if not isinstance(model, Mapping) or not isinstance(machine, Mapping) or set(model) != set(machine):
        return [(name, model, machine)]
    return [each for part in model for each in _differences(f"{name}.{part}", model[part], machine[part])]


async def replay(graph: Graph, kind: type[Counterpart], on_steps: Callable[[int], None]) -> Coverage:
    """Cover a state graph by a counterpart of its model. Raises ``Diverged`` if the machine differs from the model."""
    covering = Replay(graph, kind)
    for initial in graph.initial:
        async with opened(kind, graph.states[initial]) as counterpart:
            await covering.cover(initial, counterpart, on_steps)
    return covering.coverage


@asynccontextmanager
async def opened(kind: type[Counterpart], initial: State) -> AsyncIterator[Counterpart]:
    """Open a counterpart in a temporary folder, as long as the context lasts."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        counterpart = await kind.open(Path(folder), initial)
        try:
            yield counterpart
        finally:
            await counterpart.close()


class Dump(NamedTuple):
    """A state graph that TLC wrote, and its model."""

    model: str
    specification: str
    path: Path


def replay_dumps(dumps: Sequence[Dump], on_progress: Callable[[int, int], None]) -> list[MachineReplayReport]:
    """Replay state graphs, as many at once as there are cores. Return a report of each.

    ``on_progress`` gets the number of transitions that were taken, and the number of all transitions. Raises
    ``CheckError`` if a transition was not covered, and ``Diverged``, which is a ``CheckError``, if a machine differs
    from its model.
    """
    transitions = {dump: dump.path.read_text(encoding="utf-8").count(" -> ") for dump in dumps}
    with Workers() as workers:
        # The largest graphs start first: then the small ones fill the gaps at the end.
        order = sorted(dumps, key=lambda dump: -transitions[dump])
        started = {dump: workers.start(_replay_dump, dump) for dump in order}
        return workers.wait(
            [started[dump] for dump in dumps], lambda taken: on_progress(taken, sum(transitions.values()))
        )


def _replay_dump(dump: Dump) -> MachineReplayReport:
    """Replay one state graph, in a worker process."""
    kind = COUNTERPARTS.get(dump.specification)
    if kind is None:
        raise CheckError(f"{dump.model}: there is no counterpart of {dump.specification}")
    graph = read_graph(dump.path)
    if not graph.edges:
        raise CheckError(f"{dump.model}: there is no transition to replay")
    began = time.perf_counter()
    try:
        coverage = asyncio.run(replay(graph, kind, count_steps))
    except CheckError as error:
        raise CheckError(f"{dump.model}: {error}") from error
    if coverage.covered != len(graph.edges):
        raise CheckError(f"{dump.model}: {len(graph.edges) - coverage.covered} transitions were not covered")
    return MachineReplayReport(
        model=dump.model,
        transitions=len(graph.edges),
        covered=coverage.covered,
        repeated=coverage.repeated,
        refused=coverage.refused,
        seconds=round(time.perf_counter() - began, 1),
    )
