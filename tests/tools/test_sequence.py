"""Sequence diagrams: the same steps as text and as a picture."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from unwedged.tools.sequence import Sequence, Step, lifelines_of, svg_of, text_of

SVG = "{http://www.w3.org/2000/svg}"

SEQUENCE = Sequence(
    "A <title> & more",
    ("app", "store", "extension"),
    (
        Step("app", "takes the lease", "store", ("epoch: 0 -> 1",)),
        Step("app", "is <suspended> & sleeps"),
        Step("extension", "takes the lease", "store", ("epoch: 1 -> 2", "holder: app -> extension")),
        Step("extension", "tells the app", "app"),
    ),
    "two holders",
)

TEXT = """\
  1  app -> store        takes the lease
                           epoch: 0 -> 1
  2  app                 is <suspended> & sleeps
  3  extension -> store  takes the lease
                           epoch: 1 -> 2
                           holder: app -> extension
  4  extension -> app    tells the app
     two holders
"""


def test_the_text_has_each_step_and_what_it_changes() -> None:
    assert text_of(SEQUENCE) == TEXT


def test_a_long_action_is_folded_below_itself() -> None:
    lines = text_of(Sequence("t", ("app",), (Step("app", "word " * 60),), "end")).splitlines()
    assert len(lines) == 4
    assert all(line.startswith(" " * 10 + "word") for line in lines[1:3])
    assert max(map(len, lines)) <= 120


LIFELINES = """\
       app   store   extension
  1     ●──────▶         │       takes the lease
        │      │         │         epoch: 0 -> 1
  2     ●      │         │       is <suspended> & sleeps
  3     │      ◀─────────●       takes the lease
        │      │         │         epoch: 1 -> 2
        │      │         │         holder: app -> extension
  4     ◀────────────────●       tells the app
     two holders
"""


def test_an_arrow_goes_from_one_lifeline_to_another_with_the_words_beside_it() -> None:
    assert lifelines_of(SEQUENCE, 120) == LIFELINES


@pytest.mark.parametrize(("columns", "lines_of_words"), [(120, 3), (80, 5)])
def test_lifelines_go_on_beside_a_long_action(columns: int, lines_of_words: int) -> None:
    long = Sequence("t", ("app", "store"), (Step("app", "word " * 60, "store"),), "end")
    _, *lines, _ = lifelines_of(long, columns).splitlines()
    assert len(lines) == lines_of_words
    assert all("│      │" in line for line in lines[1:])
    assert max(map(len, lines)) <= columns


def drawn(sequence: Sequence) -> ET.Element:
    return ET.fromstring(svg_of(sequence))  # noqa: S314 (made here)


def words(sequence: Sequence) -> list[str]:
    return [element.text or "" for element in drawn(sequence).iter(f"{SVG}text")]


def test_the_picture_has_all_that_the_text_has() -> None:
    root = drawn(SEQUENCE)
    found = words(SEQUENCE)
    assert {*SEQUENCE.actors, "1", "2", "3", "4", "two holders"} <= set(found)
    for step in SEQUENCE.steps:
        assert step.action in found
        assert set(step.note) <= set(found)
    assert root.findtext(f"{SVG}title") == SEQUENCE.title
    assert root.findtext(f"{SVG}desc") == TEXT


def test_an_arrow_leads_from_the_actor_to_the_target() -> None:
    root = drawn(SEQUENCE)
    lives = [int(line.get("x1", "")) for line in root.iter(f"{SVG}line") if line.get("class") == "life"]
    arrows = [line for line in root.iter(f"{SVG}line") if line.get("class") == "arrow"]
    tips = [re.match(r"M(\d+) ", path.get("d", "")) for path in root.iter(f"{SVG}path")]
    app, store, extension = lives
    assert [int(line.get("x1", "")) for line in arrows] == [app, extension, extension]
    assert [int(tip[1]) for tip in tips if tip] == [store, store, app]


def test_each_step_is_below_the_one_before_and_its_changes_are_below_its_arrow() -> None:
    long = Step("app", "word " * 30, "store", ("a: 1", "b: 2", "c: 3", "d: 4"))
    root = drawn(Sequence("t", ("app", "store"), (long, long), "end"))
    texts = [(element.text or "", int(element.get("y", ""))) for element in root.iter(f"{SVG}text")]
    arrows = [int(line.get("y1", "")) for line in root.iter(f"{SVG}line") if line.get("class") == "arrow"]
    words_at = [y for text, y in texts if text.startswith("word")]
    notes_at = [y for text, y in texts if ":" in text]
    middle = len(words_at) // 2
    expected = [*words_at[:middle], arrows[0], *notes_at[:4], *words_at[middle:], arrows[1], *notes_at[4:]]
    [end] = [y for text, y in texts if text == "end"]
    ordered = [*expected, end, int(root.get("height", ""))]
    assert middle > 2
    assert all(before < after for before, after in pairwise(ordered))


def test_a_long_note_is_cut_in_the_picture_and_whole_in_the_text() -> None:
    note = tuple(f"field{i}: {i}" for i in range(9))
    sequence = Sequence("t", ("app",), (Step("app", "writes", "", note),), "end")
    assert [word for word in words(sequence) if word.startswith("field")] == list(note[:3])
    assert "…" in words(sequence)
    assert all(line in text_of(sequence) for line in note)


def test_the_picture_has_a_dark_form_in_which_every_colour_is_another_one() -> None:
    style = drawn(SEQUENCE).findtext(f"{SVG}style") or ""
    light, _, dark = style.partition("@media (prefers-color-scheme: dark)")
    colours = [set(re.findall(r"#[0-9a-f]{6}", part)) for part in (light, dark)]
    assert colours[1]
    assert not colours[0] & colours[1]
    coloured = [set(re.findall(r"^ *([.\w, ]+) \{[^}]*#", part, re.MULTILINE)) for part in (light, dark)]
    selectors = [{name for names in part for name in re.split(", ", names)} for part in coloured]
    assert selectors[0] == selectors[1]


def test_an_actor_that_has_no_line_is_refused() -> None:
    with pytest.raises(ValueError, match="'bob' is none of the actors app"):
        Sequence("t", ("app",), (Step("app", "writes", "bob"),), "end")
