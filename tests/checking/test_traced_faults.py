"""The traces of real processes show their faults, as the table in ``spec/trace-faults.md`` says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from checking.explain.explanation import explain
from checking.replay.faults import FAULTS
from checking.tlc.toolbox import Toolbox
from checking.traced_faults.faults import every_fault
from checking.traced_faults.table import FILE, Row, row_of, text_of

ROOT: Final = Path(__file__).parents[2]
SPECIFICATIONS: Final = ROOT / "tla"

EVERY: Final = {fault.name: fault for fault in every_fault(ROOT)}
TRIED: Final = (
    *("floor-ignored-at-sync", "holder-name-reuse", "renew-ignores-loss", "save-without-lock"),
    *("backup-flag-race", "failed-decrypt-mutates", "shared-set-survives-unwedging", "unwedge-races-itself"),
    *("account-fork-at-creation", "save-error-ignored", "stale-count", "two-commits-per-sync"),
)
WITH_FIELDS: Final = ("cache-before-commit", "guard-outlives-release", "late-version")
"""Faults whose optional fields are removed one at a time here. To try all faults would take many minutes."""


def rows() -> dict[str, Row]:
    """Return the rows of the table."""
    listed = {}
    for fault, *cells in re.findall(
        r"^\| `([\w-]+)` \| (.*) \| (.*) \| (.*) \| (.*) \|$", (ROOT / FILE).read_text(), re.MULTILINE
    ):
        named, certainty, clauses, needs = cells
        lists = [tuple(filter(None, cell.split(", "))) for cell in (clauses, needs)]
        listed[fault] = Row(fault, tuple(re.findall(r"`([\w-]+)`", named)), lists[0], certainty, lists[1])
    return listed


@pytest.mark.parametrize("name", [*TRIED, *WITH_FIELDS])
async def test_a_fault_is_named_as_the_table_says(name: str, toolbox: Toolbox) -> None:
    listed = rows()[name]
    row = await row_of(toolbox, EVERY[name], SPECIFICATIONS, with_fields=name in WITH_FIELDS)
    assert row == (listed if name in WITH_FIELDS else listed._replace(needs=()))


@pytest.mark.parametrize(
    "name",
    [
        *("lease-lapses-unfenced", "session-cache-survives", "renew-ignores-loss"),
        *("count-absent-two-meanings", "late-response-wins", "one-time-exchange-frozen", "unwedge-races-itself"),
    ],
)
async def test_without_the_fault_the_same_steps_are_accepted(name: str, tmp_path: Path, toolbox: Toolbox) -> None:
    explanation = await explain(toolbox, EVERY[name].scenario(tmp_path, faulty=False), None, SPECIFICATIONS)
    assert explanation.accepted, explanation.text()
    assert not explanation.bugs


def test_the_table_has_each_fault_and_names_all_that_leave_a_mark() -> None:
    table = rows()
    assert table.keys() == EVERY.keys() >= FAULTS.keys()
    for name, row in table.items():
        fault = EVERY[name]
        assert bool(row.named) != bool(fault.unseen)
        assert not row.named or row.named == (name,) or {*row.named} == {name, *fault.twins}


def test_the_table_is_what_the_program_writes() -> None:
    assert text_of(list(rows().values()), list(EVERY.values())) == (ROOT / FILE).read_text()
