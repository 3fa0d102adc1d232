from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field

import pytest

from checking.models import schedule
from checking.models.manifest import Manifest, Model
from checking.models.schedule import Outcome, check_models
from checking.tlc.run import Job, Progress, Result, Verdict
from checking.tlc.toolbox import Toolbox
from tests.checking.specifications import CONSTANTS, Specifications
from tests.checking.test_manifest import FAILING, PASSING, manifest_of


@dataclass
class Recorder:
    running: set[str] = field(default_factory=set)
    order: list[str] = field(default_factory=list)

    def started(self, model: Model) -> None:
        self.running.add(model.name)
        self.order.append(model.name)

    def progressed(self, model: Model, progress: Progress) -> None:
        assert model.name in self.running
        assert progress.distinct_states > 0

    def finished(self, outcome: Outcome) -> None:
        self.running.remove(outcome.model.name)


def many(specifications: Specifications) -> Manifest:
    text = PASSING + FAILING
    for number, workers in enumerate((1, 1, 2, 1, 2, 9), 1):
        name = f"Model{number}"
        specifications.write(f"{name}.cfg", "SPECIFICATION Spec\n")
        text += PASSING.replace("Passing", name).replace("= 10", f"= {number}") + f"workers = {workers}\n"
    return manifest_of(specifications, text)


async def test_never_more_workers_than_cores_and_the_largest_first(
    specifications: Specifications, toolbox: Toolbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores, busy, most = 3, 0, 0

    async def run(_toolbox: Toolbox, job: Job, _on_progress: object) -> Result:
        nonlocal busy, most
        busy += min(job.workers, cores)
        most = max(most, busy)
        for _ in range(job.workers):
            await asyncio.sleep(0)
        busy -= min(job.workers, cores)
        return Result(Verdict.PASS, 0, None, 1, 1, 0.0, (), None, "")

    monkeypatch.setattr(schedule, "run", run)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    manifest, recorder = many(specifications), Recorder()
    models = manifest.models[2:]
    outcomes = await check_models(toolbox, manifest, models, recorder)
    assert [outcome.model for outcome in outcomes] == list(models)
    assert most == cores
    assert recorder.order[0] == "Model6"
    assert recorder.order[1:3] == ["Model5", "Model4"]
    assert recorder.running == set()


async def test_real_models_are_compared_with_the_manifest(specifications: Specifications, toolbox: Toolbox) -> None:
    manifest = manifest_of(specifications, PASSING + FAILING)
    specifications.write("Passing.cfg", CONSTANTS + "SPECIFICATION Spec\nINVARIANT Bounded\n")
    specifications.write("Failing.cfg", CONSTANTS + "SPECIFICATION Spec\nINVARIANTS Bounded Small\n")
    passing, failing = await check_models(toolbox, manifest, manifest.models, Recorder())
    assert passing.passed
    assert failing.passed, failing.differences

    # A violation of a different property, a pass, and a parse error are all failures.
    for configuration, told in (
        ("INVARIANTS Tiny Small\n", "property: expected Small, got Tiny"),
        ("INVARIANT Bounded\n", "verdict: expected safety, got pass"),
        ("INVARIANT Nowhere\n", "verdict: expected safety, got error"),
    ):
        specifications.write("Failing.cfg", f"{CONSTANTS}SPECIFICATION Spec\n{configuration}")
        (outcome,) = await check_models(toolbox, manifest, manifest.models[1:], Recorder())
        assert not outcome.passed
        assert told in outcome.differences


async def test_cancelling_the_check_cancels_every_run(
    specifications: Specifications, toolbox: Toolbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    begun = asyncio.Event()

    async def run(_toolbox: Toolbox, job: Job, _on_progress: object) -> Result:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(job.configuration.stem)
        raise AssertionError

    monkeypatch.setattr(schedule, "run", run)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    manifest = manifest_of(specifications, PASSING + FAILING)
    task = asyncio.create_task(check_models(toolbox, manifest, manifest.models, Recorder()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["Passing"]
