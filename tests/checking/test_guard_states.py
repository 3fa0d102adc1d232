"""The guard's states in the specification are those of the code."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from checking import guard_states
from unwedged.protocol import guard as rules
from unwedged.protocol.guard import Guard, Stage
from unwedged.protocol.identifiers import Epoch

ROOT = Path(__file__).parents[2]


# P0.8
def test_the_table_in_the_specification_comes_from_the_code() -> None:
    assert f"\n\n{guard_states.table()}\n" in (ROOT / "spec" / "protocol.md").read_text()


def test_the_picture_in_the_specification_comes_from_the_code() -> None:
    assert (ROOT / guard_states.PICTURE).read_text() == guard_states.picture()


def test_table_and_picture_change_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    table, picture = guard_states.table(), guard_states.picture()
    name, (event, _) = "overdue", guard_states.EVENTS["overdue"]
    monkeypatch.setitem(guard_states.EVENTS, name, (event, rules.lost))
    assert guard_states.table() != table
    assert guard_states.picture() != picture


def test_each_stage_is_in_the_picture_and_each_can_be_reached_and_left() -> None:
    drawn = ET.fromstring(guard_states.picture())  # noqa: S314  (this project's file)
    texts = {element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {stage.value for stage in Stage} <= texts
    leads = [(a, b) for event in guard_states.transitions().values() for a, b in event.items()]
    assert {a for a, _ in leads} == {b for _, b in leads} == set(Stage)
    arrows = [element for element in drawn.iter("{http://www.w3.org/2000/svg}path") if "marker-end" in element.attrib]
    assert len(arrows) == len(leads)


# P0.9
@pytest.mark.parametrize("stage", Stage)
def test_an_answer_about_another_epoch_changes_no_guard(stage: Stage) -> None:
    guard = guard_states.guard_in(stage)
    other = Epoch(guard.epoch + 1)
    for name, (_, event) in guard_states.EVENTS.items():
        if name != "taken":
            assert event(guard, other) == guard
    assert not rules.stands(Guard(Stage.HELD, guard.epoch), other)
