"""What a check found, as data: the JSON report. ``spec/report.schema.json`` is its schema."""

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
    """In which ways this is not what was expected."""


class FaultReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bug of the track record."""

    slug: str
    layer: Layer
    model: str
    property: str
    """The property that must fail."""
    model_verdict: Verdict
    replay_verdict: str | None
    """What came of the counterexample on the reference with the fault injected; ``null`` if it was not replayed."""


class ReplayReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model's transitions, driven through the implementation."""

    transitions: int
    """Those of the model, each in every way that the implementation has for it."""
    covered: int
    ways: Mapping[str, int]
    """Of those that can be taken in several ways: how many in which."""
    tried: Mapping[str, int]
    """What the model does not allow, or what only reads: how often it was tried, and changed nothing."""
    scenarios: int
    """How often it was tried which live objects outlive a sync."""
    steps: int
    """Transitions taken: some are taken several times to get to others."""
    processes: int
    """So many took a share of the steps each, at once."""
    seconds: float
    steps_per_second: float
    """In each process."""


class MachineReplayReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The transitions of a model of the Matrix device, driven through real machines."""

    model: str
    transitions: int
    covered: int
    repeated: int
    """How often a machine was given once more what a step had given to another one, and nothing changed."""
    refused: int
    """How often a machine was asked for what the model does not allow, and nothing changed."""
    seconds: float


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that one check found."""

    passed: bool
    models: tuple[ModelReport, ...]
    faults: tuple[FaultReport, ...]
    replay: ReplayReport | None
    machine_replays: tuple[MachineReplayReport, ...]
    """One for each model of the Matrix device that is replayed; none where that failed."""


def model_report(outcome: Outcome) -> ModelReport:
    """Put an outcome into the form of the report."""
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
    """Pick out the faults, with what the replay of each found, by the model's name."""
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
