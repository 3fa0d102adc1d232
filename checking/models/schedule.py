"""Run many models, as many at once as there are cores, and compare each with what is expected of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from checking.models.manifest import Band, Manifest, Model, differences
from checking.tlc.run import Progress, Result, run
from checking.tlc.toolbox import Toolbox


@dataclass(frozen=True, slots=True)
class Outcome:
    """A model, what came of it, and in which ways that is not what was expected."""

    model: Model
    result: Result
    differences: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether everything is as expected."""
        return not self.differences


class ProgressReporter(Protocol):
    """Is told how far the work has come."""

    def started(self, model: Model) -> None:
        """TLC has begun to check ``model``."""

    def progressed(self, model: Model, progress: Progress) -> None:
        """TLC says how far it is with ``model``."""

    def finished(self, outcome: Outcome) -> None:
        """TLC is done with a model."""


async def check_models(
    toolbox: Toolbox, manifest: Manifest, models: Sequence[Model], reporter: ProgressReporter, dumps: Path | None = None
) -> tuple[Outcome, ...]:
    """Check ``models``; the outcomes are in their order. Cancelling this ends every TLC.

    The graph of each replay model among them goes to a file in ``dumps``, as ``dump_of`` says.
    """
    cores = _Cores(os.cpu_count() or 1)

    async def check(model: Model) -> Outcome:
        async with cores.taken(model.workers):
            reporter.started(model)
            dump = dump_of(model, dumps) if model.band is Band.REPLAY and dumps is not None else None
            job = manifest.job(model, dump)
            result = await run(toolbox, job, lambda progress: reporter.progressed(model, progress))
        outcome = Outcome(model, result, differences(model, result))
        reporter.finished(outcome)
        return outcome

    # The largest begin first, so that the small ones fill the gaps and nothing large is left to run alone at the end.
    order = sorted(models, key=lambda model: (-model.workers, -model.distinct_states, model.name))
    async with asyncio.TaskGroup() as group:
        tasks = {model.name: group.create_task(check(model)) for model in order}
    return tuple(tasks[model.name].result() for model in models)


def dump_of(model: Model, folder: Path) -> Path:
    """Return the file for the graph of a model."""
    return folder / f"{model.name}.dot"


class _Cores:
    """A semaphore of which a model takes as many at once as it has workers, or all if it has more."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = count
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def taken(self, workers: int) -> AsyncIterator[None]:
        share = min(workers, self._count)
        async with self._changed:
            await self._changed.wait_for(lambda: self._free >= share)
            self._free -= share
        try:
            yield
        finally:
            async with self._changed:
                self._free += share
                self._changed.notify_all()
