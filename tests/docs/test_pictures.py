"""A picture shows what it is drawn from, and nothing that could be seen only in light or only in dark."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from docs.pictures import commits, ladder, sequence
from docs.pictures.svg import Colour
from proofs.__main__ import PARTS

ROOT = Path(__file__).parents[2]
MACHINE = (ROOT / "spec" / "machine.md").read_text(encoding="utf-8")
STORY = """sequenceDiagram
    participant app
    participant store as the store
    app->>store: takes the lease & begins
    Note over app: suspended
    store--xapp: refused
    app->>app: drops what is stale
    Note over app,store: <both> go on
"""
TABLE = """
## What is written in one commit

| Event | Records |
| --- | --- |
| keys are offered | `account`, `offer` |
| a secret | `asked`, and `backup` or `secret` |
| an answer | `offer`; if it is refused, also `account` |
| an upload | `asked` and `offer` |

## Another section

| a | `b` |
"""


def texts(svg: str) -> list[str]:
    """Return the texts of a picture, each with its lines put together again."""
    root = ET.fromstring(svg)  # noqa: S314 (our own)
    return [" ".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]


PICTURES = {
    "sequence": sequence.draw(sequence.parse(STORY), "a story"),
    "commits": commits.draw(MACHINE),
    "ladder": ladder.draw(),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_has_no_colour_but_those_of_the_page(name: str) -> None:
    used = set(re.findall(r'(?:fill|stroke)="([^"]+)"', PICTURES[name]))
    assert used
    assert used <= {colour.value for colour in Colour} | {"var(--color-background-primary)"}


@pytest.mark.parametrize("name", PICTURES)
def test_everything_is_inside_the_picture(name: str) -> None:
    root = ET.fromstring(PICTURES[name])  # noqa: S314 (our own)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for element in root.iter():
        for attribute, most in (
            ("x", width),
            ("x1", width),
            ("x2", width),
            ("y", height),
            ("y1", height),
            ("y2", height),
        ):
            assert 0 <= float(element.get(attribute, 0)) <= most


class TestSequence:
    def test_it_shows_every_line_of_its_text(self) -> None:
        assert texts(PICTURES["sequence"]) == [
            "app", "the store", "takes the lease & begins", "suspended", "refused", "drops what is stale",
            "<both> go on",
        ]  # fmt: skip

    def test_what_is_refused_ends_in_a_cross(self) -> None:
        assert PICTURES["sequence"].count(f'stroke="{Colour.REFUSED.value}"') == 3
        accepted = sequence.draw(sequence.parse(STORY.replace("--x", "-->>")), "a story")
        assert accepted.count(f'stroke="{Colour.REFUSED.value}"') == 0

    @pytest.mark.parametrize("line", ["loop every day", "app-)store: later", "activate app", "Note left of app: x"])
    def test_a_line_that_is_not_understood_is_refused(self, line: str) -> None:
        with pytest.raises(sequence.NotUnderstood, match=re.escape(line)):
            sequence.parse(f"{STORY}    {line}\n")

    def test_another_diagram_is_refused(self) -> None:
        with pytest.raises(sequence.NotUnderstood):
            sequence.parse("flowchart LR\n  a --> b\n")

    @pytest.mark.parametrize("path", [ROOT / "README.md", *(ROOT / "spec").rglob("*.md")], ids=lambda path: path.name)
    def test_the_diagrams_of_the_project_are_understood(self, path: Path) -> None:
        blocks = re.findall(r"^```mermaid\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        for block in blocks:
            shown = " ".join(texts(sequence.draw(sequence.parse(block), "a diagram")))
            assert all(text.strip() in shown for text in re.findall(r": (.+)$", block, re.MULTILINE))


class TestCommits:
    def test_plain_lists_are_always_written_and_all_else_sometimes(self) -> None:
        assert commits.parse(TABLE) == [
            commits.Commit("keys are offered", ("account", "offer"), ()),
            commits.Commit("a secret", ("asked",), ("backup", "secret")),
            commits.Commit("an answer", ("offer",), ("account",)),
            commits.Commit("an upload", ("asked", "offer"), ()),
        ]

    def test_each_record_that_the_table_names_has_its_dot(self) -> None:
        section = MACHINE.split(f"\n## {commits.HEADING}\n")[1].split("\n## ")[0]
        rows = re.findall(r"^\| [^`|]+ \| (.*`.*) \|$", section, re.MULTILINE)
        named = [set(re.findall(r"`(\w+)`", row)) for row in rows]
        assert len(named) > 30
        assert [{*one.always, *one.sometimes} for one in commits.parse(MACHINE)] == named
        # Two more explain what the dots mean.
        assert PICTURES["commits"].count("<circle") == sum(map(len, named)) + 2
        assert set.union(*named) <= set(texts(PICTURES["commits"]))


class TestLadder:
    def test_its_commands_are_there(self) -> None:
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        manifest = tomllib.loads((ROOT / "tla/models/manifest.toml").read_text())
        replays = {model["name"] for model in manifest["model"] if model["band"] == "replay"}
        known = {f"make {target}" for target in targets} | {f"python -m proofs {part}" for part in PARTS}
        known |= {f"python -m checking replay {model}" for model in replays}
        for rung in ladder.LADDER:
            for command in rung.commands:
                script = ROOT / command.removeprefix("python -m pytest ")
                assert command in known or script.is_file(), command

    def test_every_part_of_the_proofs_is_on_a_rung(self) -> None:
        commands = {command for rung in ladder.LADDER for command in rung.commands}
        assert {f"python -m proofs {part}" for part in PARTS} <= commands

    def test_what_stands_on_a_rung_is_there(self) -> None:
        for rung in ladder.LADDER:
            path = rung.where if "/" in rung.where else f"reference/{rung.where.replace('.', '/')}"
            assert (ROOT / path).exists() or (ROOT / f"{path}.py").is_file(), rung.where
