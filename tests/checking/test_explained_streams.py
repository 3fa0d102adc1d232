"""What subscribers received (P9), according to traces: a real trace, and impossible changes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from checking.explain import validation
from checking.explain.explanation import Explanation, explained
from checking.explain.reading import read
from checking.explain.reasons import REASONS
from checking.tlc.toolbox import Toolbox
from tests.checking.traces import Json, eventful, written

SPECIFICATIONS: Final = Path(__file__).parents[2] / "tla"
Edit = Callable[[list[Json]], None]


def delivered(lines: list[Json], version: int) -> Json:
    """Return the last line that publishes a version to subscribers."""
    return [line for line in lines if line["step"] == "publish" and line["version"] == version][-1]


def again(lines: list[Json]) -> None:
    delivered(lines, 6)["since"] = 3


def skipped(lines: list[Json]) -> None:
    delivered(lines, 6)["since"] = 5


def without_lag(lines: list[Json]) -> None:
    delivered(lines, 10)["lagged"] = False


def not_delivered(lines: list[Json]) -> None:
    """The phone publishes neither the changes that its sync found nor its next commit."""
    for version in (8, 9):
        delivered(lines, version).update(step="pause", version=None)


def begun_elsewhere(lines: list[Json]) -> None:
    [line for line in lines if line["step"] == "subscribe"][-1]["version"] = 6


EDITS: Final[dict[str, tuple[Edit, str]]] = {
    "a version is left out": (skipped, "delivered_with_gap"),
    "a version is delivered again": (again, "delivered_again"),
    "a lag is not delivered": (without_lag, "lag_not_delivered"),
    "a sync is not delivered": (not_delivered, "not_delivered"),
    "a subscription begins too early": (begun_elsewhere, "subscribed_elsewhere"),
}


async def explain(folder: Path, toolbox: Toolbox, lines: list[Json]) -> Explanation:
    return await explained(toolbox, read([written(folder, lines)]), SPECIFICATIONS)


# P9.2, P9.5, P9.6
@pytest.mark.parametrize("steps", [5, 5000])
async def test_what_subscribers_received_is_accepted(
    tmp_path: Path, toolbox: Toolbox, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "STEPS_IN_A_PART", steps)
    lines = await eventful(tmp_path)
    assert delivered(lines, 10)["lagged"] is True
    explanation = await explain(tmp_path, toolbox, lines)
    assert explanation.accepted, explanation.text()
    assert (explanation.validation.parts > 1) == (steps == 5)


@pytest.mark.parametrize("name", EDITS)
async def test_an_impossible_delivery_is_rejected_for_its_reason(tmp_path: Path, toolbox: Toolbox, name: str) -> None:
    lines = await eventful(tmp_path)
    edit, reason = EDITS[name]
    edit(lines)
    explanation = await explain(tmp_path, toolbox, lines)
    assert explanation.rejected, explanation.text()
    assert explanation.validation.reasons == {reason}, explanation.text()
    assert all(clause in explanation.text() for clause in REASONS[reason].clauses)
