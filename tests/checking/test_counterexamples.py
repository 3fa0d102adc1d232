"""A replayed counterexample violates its property in the reference with the same fault, and only with it.

``python -m checking check`` replays every fault. Here a few of them show that a replay fails when it should.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from checking.errors import CheckError
from checking.models.manifest import Band, Layer, Manifest, Model
from checking.replay.counterexamples import replay_counterexample
from checking.replay.faults import FAULTS
from checking.replay.lock_faults import LOCK_FAULTS
from checking.replay.model_states import constants_of
from checking.replay.store_faults import STORE_FAULTS
from checking.replay.world import World
from checking.tlc import run as tlc
from checking.tlc.run import Result
from checking.tlc.toolbox import Toolbox

MODELS = (
    # Models of LeaseLock, then of CryptoStoreCache, whose counterexamples TLC finds fastest.
    "fault-guard-outlives-release",
    "fault-reacquire-keeps-epoch",
    "fault-cache-before-commit",
    "fault-cancelled-commit",
    "fault-two-live-copies",
)


@pytest.fixture(scope="session")
def found(toolbox: Toolbox, manifest: Manifest) -> Callable[[Model], Result]:
    """Return a function that finds a model's counterexample with the real TLC, and runs TLC once per model."""
    results: dict[str, Result] = {}

    def find(model: Model) -> Result:
        if model.name not in results:
            results[model.name] = asyncio.run(tlc.run(toolbox, manifest.job(model)))
        return results[model.name]

    return find


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, manifest: Manifest) -> Model:
    return manifest.model(str(request.param))


def slug_and_property(model: Model) -> tuple[str, str]:
    assert model.slug is not None
    assert model.property is not None
    return model.slug, model.property


def test_every_fault_has_a_model_and_an_injection(manifest: Manifest) -> None:
    models = manifest.band(Band.FAULT)
    assert {model.slug for model in models if model.layer is Layer.LOCK} == LOCK_FAULTS.keys()
    assert {model.slug for model in models if model.layer is Layer.STORE} == STORE_FAULTS.keys()
    assert FAULTS == {**LOCK_FAULTS, **STORE_FAULTS}


def test_the_reference_broken_alike_violates_the_same_property(model: Model, found: Callable[[Model], Result]) -> None:
    slug, violated = slug_and_property(model)
    assert found(model).property == violated
    assert replay_counterexample(slug, violated, found(model)) == violated


def test_without_the_fault_nothing_is_violated_and_that_is_reported(
    model: Model, found: Callable[[Model], Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    slug, violated = slug_and_property(model)
    monkeypatch.setitem(FAULTS, slug, lambda _: ())
    with pytest.raises(CheckError, match=f"{slug}: with the fault injected, {violated} holds"):
        replay_counterexample(slug, violated, found(model))


@pytest.mark.parametrize(
    ("name", "other"),
    [("fault-guard-outlives-release", "EpochNeverReused"), ("fault-cache-before-commit", "StreamComplete")],
)
def test_another_property_than_the_one_violated_is_noticed(
    manifest: Manifest, found: Callable[[Model], Result], name: str, other: str
) -> None:
    slug, _ = slug_and_property(manifest.model(name))
    with pytest.raises(CheckError, match=f"{slug}: with the fault injected, {other} holds"):
        replay_counterexample(slug, other, found(manifest.model(name)))


def test_a_violation_that_needs_no_fault_is_noticed(
    manifest: Manifest, found: Callable[[Model], Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = manifest.model("fault-cache-before-commit")
    slug, violated = slug_and_property(model)
    # The reference itself is broken in the same way, so injecting the fault changes nothing.
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory() as folder:
        trace = found(model).trace
        world = runner.run(World.open(Path(folder), *constants_of([step.state for step in trace])))
        for substitution in FAULTS[slug](world):
            monkeypatch.setattr(*substitution)
        runner.run(world.close())
    monkeypatch.setitem(FAULTS, slug, lambda _: ())
    with pytest.raises(CheckError, match=f"{slug}: without the fault, {violated} is violated too"):
        replay_counterexample(slug, violated, found(model))
