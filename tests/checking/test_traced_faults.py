"""Faults in real processes are found by their traces, and ``spec/trace-faults.md`` says which, and by which fields."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from checking.explain import explanation as explained
from checking.replay.faults import FAULTS
from checking.tlc.toolbox import Toolbox
from checking.traced_faults.drive import traces_of
from checking.traced_faults.table import FILE, SILENT, Row, models, row_of, text_of

ROOT: Final = Path(__file__).parents[2]
SPECIFICATIONS: Final = ROOT / "tla"

MODELS: Final = {each.slug: each for each in models(ROOT)}
WITH_FIELDS: Final = ("cache-before-commit", "guard-outlives-release", "reload-failure-swallowed")
"""Faults of which the fields are tried one by one here: all of them would take many minutes."""
TWINS: Final = {frozenset({"dirty-hidden-from-reentrant", "reload-race"})}
"""Faults that nothing tells apart in the counterexamples of either."""


def rows() -> dict[str, Row]:
    """Return the rows of the table."""
    listed = {}
    for fault, named, needs in re.findall(
        r"^\| `([\w-]+)` \| (.*) \| (.*) \|$", (ROOT / FILE).read_text(), re.MULTILINE
    ):
        names = tuple(re.findall(r"`([\w-]+)`", named))
        listed[fault] = Row(fault, names, tuple(needs.split(", ")) if needs else ())
    return listed


@pytest.mark.parametrize("fault", MODELS)
async def test_a_fault_is_named_as_the_table_says(fault: str, toolbox: Toolbox) -> None:
    row = await row_of(toolbox, MODELS[fault], SPECIFICATIONS, with_fields=fault in WITH_FIELDS)
    assert row.named == rows()[fault].named
    if fault in WITH_FIELDS:
        assert row.needs == rows()[fault].needs


@pytest.mark.parametrize("fault", ["lease-lapses-unfenced", "session-cache-survives", "renew-ignores-loss"])
async def test_without_the_fault_the_same_steps_are_accepted(fault: str, tmp_path: Path, toolbox: Toolbox) -> None:
    paths = traces_of(MODELS[fault], tmp_path, faulty=False)
    explanation = await explained.explain(toolbox, paths, None, SPECIFICATIONS)
    assert explanation.accepted, explanation.text()
    assert not explanation.bugs


def test_the_table_has_each_fault_and_names_all_that_leave_a_mark() -> None:
    table = rows()
    assert table.keys() == FAULTS.keys()
    assert {fault for fault, row in table.items() if not row.named} == SILENT.keys()
    for fault, row in table.items():
        assert not row.named or row.named == (fault,) or (fault in row.named and frozenset(row.named) in TWINS)


def test_the_table_is_what_the_program_writes() -> None:
    assert text_of(list(rows().values())) == (ROOT / FILE).read_text()
