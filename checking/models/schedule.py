"""Check many models, as many at once as there are cores, and compare each result with the manifest."""

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
    """A model, TLC's result, and how the result differs from the manifest."""

    model: Model
    result: Result
    differences: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the result is as the manifest says."""
        return not self.differences


class ProgressReporter(Protocol):
    """Receives the progress of a check."""

    def started(self, model: Model) -> None:
        """TLC has begun to check ``model``."""

    def progressed(self, model: Model, progress: Progress) -> None:
        """TLC reports its progress with ``model``."""

    def finished(self, outcome: Outcome) -> None:
        """TLC has finished a model."""


async def check_models(
    toolbox: Toolbox, manifest: Manifest, models: Sequence[Model], reporter: ProgressReporter, dumps: Path | None = None
) -> tuple[Outcome, ...]:
    """Check ``models``, and return the outcomes in the same order. Cancellation ends every TLC process.

    If there is a folder ``dumps``, TLC writes the state graph of each replay model to the file that ``dump_of`` names.
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

    # The largest models start first: then the small ones fill the gaps, and no large one runs alone at the end.
    order = sorted(models, key=lambda model: (-model.workers, -model.distinct_states, model.name))
    async with asyncio.TaskGroup() as group:
        tasks = {model.name: group.create_task(check(model)) for model in order}
    return tuple(tasks[model.name].result() for model in models)


def dump_of(model: Model, folder: Path) -> Path:
    """Return the file in ``folder`` for the state graph of a model."""
    return folder / f"{model.name}.dot"


class _Cores:
    """A semaphore. A model takes one unit for each of its workers, or all units if it has more workers than that."""

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
