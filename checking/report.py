"""Define the JSON report of a check. Its schema is ``spec/report.schema.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from checking.models.manifest import Band, Layer
from checking.models.schedule import Outcome
from checking.tlc.run import Verdict


class ModelReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that TLC checked."""

    name: str
    band: Band
    expected: Verdict
    verdict: Verdict
    property: str | None
    """The property that is violated."""
    exit_code: int
    distinct_states: int
    depth: int
    seconds: float
    differences: tuple[str, ...]
    """How the result differs from the manifest."""


class FaultReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bug of the track record."""

    slug: str
    layer: Layer
    model: str
    property: str
    """The property that must fail."""
    model_verdict: Verdict
    replay_verdict: str | None
    """The property that failed when the counterexample was replayed on the reference with the fault; ``null`` if it was
    not replayed."""


class ReplayReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The replay of the store's model: each transition, taken by the implementation."""

    transitions: int
    """The number of transitions. A transition that the implementation can take in several ways counts once for each."""
    covered: int
    ways: Mapping[str, int]
    """For transitions that can be taken in several ways: how many were taken in each way."""
    tried: Mapping[str, int]
    """How often each step that must change nothing was tried, because the model forbids it or it only reads."""
    scenarios: int
    """In how many scenarios the live objects that outlive a sync were compared."""
    steps: int
    """The number of steps. Some transitions are taken several times on the way to others."""
    processes: int
    """How many processes replayed a share of the walks at the same time."""
    seconds: float
    steps_per_second: float
    """The speed of each process."""


class MachineReplayReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The replay of a model of the Matrix device: each transition, taken by real machines."""

    model: str
    transitions: int
    covered: int
    repeated: int
    """How often a second machine got the same input again after a step. Each time nothing changed."""
    refused: int
    """How often a machine was asked for a step that the model forbids. Each time nothing changed."""
    seconds: float


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole result of a check."""

    passed: bool
    models: tuple[ModelReport, ...]
    faults: tuple[FaultReport, ...]
    replay: ReplayReport | None
    machine_replays: tuple[MachineReplayReport, ...]
    """One for each replayed model of the Matrix device; none if the replay failed."""


def model_report(outcome: Outcome) -> ModelReport:
    """Return the report of a model's outcome."""
    model, result = outcome.model, outcome.result
    return ModelReport(
        name=model.name,
        band=model.band,
        expected=model.expected,
        verdict=result.verdict,
        property=result.property,
        exit_code=result.exit_code,
        distinct_states=result.distinct_states,
        depth=result.depth,
        seconds=round(result.seconds, 2),
        differences=outcome.differences,
    )


def fault_reports(outcomes: Sequence[Outcome], replayed: Mapping[str, str]) -> tuple[FaultReport, ...]:
    """Return the reports of the faults. ``replayed`` has the property that the replay of each model violated."""
    return tuple(
        FaultReport(
            slug=model.slug,
            layer=model.layer,
            model=model.name,
            property=model.property or "",
            model_verdict=outcome.result.verdict,
            replay_verdict=replayed.get(model.name),
        )
        for outcome in outcomes
        for model in [outcome.model]
        if model.slug is not None and model.layer is not None
    )


def write_report(report: Report, path: Path) -> None:
    """Write a report as JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def schema() -> bytes:
    """Return the JSON schema of a report."""
    content = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Report)}
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
