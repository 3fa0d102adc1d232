"""Drawings of traces show the steps around the first impossible one, in readable words."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import pytest

from checking import command
from checking.explain.drawing import SHOWN_STEPS, drawing_of, scenes, step_in_words
from checking.explain.merging import Merged, Step, merge
from checking.explain.reading import Location, read
from tests.checking.test_explain import recorded, unfenced, written
from unwedged.tools.sequence import lifelines_of


def index_of(merged: Merged, name: str, number: int) -> int:
    """Return the index of the step with this name and number; numbers count the steps of one name from 1."""
    return [index for index, step in enumerate(merged.steps) if step.name == name][number - 1]


def late(merged: Merged) -> int:
    """Return the index of the commit that comes after another process has taken the lease."""
    return index_of(merged, "commit", 5)


@pytest.fixture
async def merged(tmp_path: Path) -> Merged:
    lines = await recorded(tmp_path)
    unfenced(lines)
    return merge(read([written(tmp_path, lines)]))


def actions(merged: Merged, followed: int) -> list[str]:
    return [
        f"{drawn.actor} > {drawn.target}: {drawn.action}" if drawn.target else f"{drawn.actor}: {drawn.action}"
        for drawn in (scene.drawn for scene in scenes(merged, followed))
    ]


def test_the_last_step_is_the_impossible_one_after_those_that_led_to_it(merged: Merged) -> None:
    assert actions(merged, late(merged))[-8:] == [
        "lease: expires",
        "P1 > lease: takes the lease, epoch 3",
        "P1 > store: syncs from version 2 to 3",
        "P1: begins operation P1/1 under epoch 3, from version 3",
        "P1 > store: loads a record in operation P1/1",
        "P1 > store: commits version 4 from version 3 under epoch 3, in operation P1/1",
        "P1 > lease: releases the lease of epoch 3",
        "P2 > store: commits version 5 from version 3 under epoch 2, in operation P2/1",
    ]


def test_each_drawn_step_says_how_many_steps_were_taken_by_then(merged: Merged) -> None:
    taken = [scene.taken for scene in scenes(merged, late(merged))]
    assert taken == sorted(set(taken))
    assert taken[-1] == late(merged) + 1


def test_what_is_not_drawn_is_counted(merged: Merged) -> None:
    first, *others = scenes(merged, late(merged))
    assert first.drawn.action == f"{first.taken} steps that are not shown"
    assert len(others) == SHOWN_STEPS + 1


def test_an_impossible_commit_is_drawn_with_all_that_it_depends_on(merged: Merged) -> None:
    renewal, commit = merged.steps[index_of(merged, "renew", 1)], late(merged)
    renewals = [replace(renewal, location=Location("more", number)) for number in range(100)]
    longer = replace(merged, steps=[*merged.steps[:commit], *renewals, *merged.steps[commit:]])
    drawn = actions(longer, commit + 100)
    assert drawn[-1].startswith("P2 > store: commits version 5")
    for depended_on in (
        "P2 > lease: takes the lease, epoch 2",
        "P2: begins operation P2/1 under epoch 2, from version 3",
        "P1 > lease: takes the lease, epoch 3",
        "P1 > store: commits version 4 from version 3 under epoch 3, in operation P1/1",
    ):
        assert depended_on in drawn[:-SHOWN_STEPS]


def test_processes_have_lifelines_and_the_lease_and_the_store_stand_between_them(merged: Merged) -> None:
    drawing = drawing_of(merged, scenes(merged, late(merged)), "impossible")
    assert drawing.actors == ("P1", "lease", "store", "P2")
    text = lifelines_of(drawing, 120)
    assert "◀─────●    commits version 5" in text
    assert text.endswith("     impossible\n")


def test_nothing_in_a_trace_can_control_a_terminal(merged: Merged) -> None:
    steps = [
        replace(step, location=Location("\x1b[2Jtrace", 1), facts={**step.facts, "records": ("\x1b]0;a/" + "0" * 16,)})
        for step in merged.steps
    ]
    hostile = replace(merged, steps=steps)
    text = lifelines_of(drawing_of(hostile, scenes(hostile, late(hostile)), "\x1b[31m"), 120)
    assert "\\x1b[2Jtrace" in text
    assert all(line.isprintable() for line in text.splitlines())


async def test_each_step_of_the_specification_is_said_in_words(merged: Merged) -> None:
    specification = (Path(__file__).parents[2] / "tla" / "Trace.tla").read_text()
    names = set(re.findall(r'\be\.step = "(\w+)"', specification))
    assert len(names) > 20
    for name in names:
        _, _, action = step_in_words(merged, Step(name, {"p": "P1", "o": "P1/1"}))
        assert " " in action or name == "expire", name


def test_no_steps_make_no_drawing(merged: Merged) -> None:
    assert scenes(replace(merged, steps=[]), 0) == ()


def test_the_command_draws_a_rejected_trace_and_colours_nothing_in_a_pipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = asyncio.run(recorded(tmp_path))
    unfenced(lines)
    path = written(tmp_path, lines)
    assert command.explain(path) == command.FAILED
    *_, last, ending = capsys.readouterr().out.splitlines()
    assert last.endswith("trace.ndjson:19")
    assert ending == "     impossible: P2 committed after another instance had taken the lease (P4.2, P4.1)"
