"""The recorded counterexamples of the track record, and its pages, are up to date.

``python -m checking check`` compares all recorded counterexamples with TLC's. Here a few are compared.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest

from checking.errors import TrackRecordInvalid
from checking.models.manifest import Manifest
from checking.tlc import run as tlc
from checking.tlc.toolbox import Toolbox
from checking.tlc.values import State, parse_state
from checking.track_record import files
from checking.track_record.bugs import FOLDER, Act, Area, Bug, Source, read_bugs
from checking.track_record.counterexamples import (
    Counterexample,
    Taken,
    _changed,
    counterexample_of,
    encoded,
    read_counterexamples,
)
from checking.track_record.pages import Surroundings, contents, surroundings

ROOT = Path(__file__).parents[2]

BUG = Bug(
    slug="renew-ignores-loss",
    layer=Area.LOCK,
    title="A title",
    seen="What was seen.",
    story="What happened.",
    sources=(Source(at="robrix#1025", date="2026-08-26"), Source(at="found by reading", date="2026-11")),
    properties=("LeaseLock!GuardIsHonest",),
    clauses=("P1.8",),
)
FOUND = Counterexample(
    model="fault-renew-ignores-loss",
    slug="renew-ignores-loss",
    violated="LeaseLock!GuardIsHonest",
    steps=(
        Taken("Acquire", "p1", "", ("lease.epoch: 0 -> 1",)),
        Taken("Expire", "", "", ("lease.left: 1 -> 0",)),
        Taken("Acquire", "p2", "", ("lease.epoch: 1 -> 2",)),
    ),
    back_to=None,
)
AROUND = Surroundings({"LeaseLock!GuardIsHonest": "Fenced"}, {"P1": "Rule 1. Acquire"})


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("fault-guard-outlives-release", id="of the lock"),
        pytest.param("fault-cancelled-commit", id="of the store"),
        pytest.param("fault-upload-repeated", id="of the machine, with steps that TLC has no name for"),
        pytest.param("fault-clock-jump", id="an endless one"),
    ],
)
def test_what_is_recorded_is_what_tlc_finds(toolbox: Toolbox, manifest: Manifest, name: str) -> None:
    model = manifest.model(name)
    found = counterexample_of(model, asyncio.run(tlc.run(toolbox, manifest.job(model))))
    assert files.differences(ROOT, [found])[0].startswith("the counterexample of ")
    assert not [difference for difference in files.differences(ROOT, [found]) if f"{name} " in difference]
    other = msgspec.structs.replace(found, steps=found.steps[1:])
    assert [difference for difference in files.differences(ROOT, [other]) if f"{name} " in difference]


def test_each_fault_has_its_counterexample_and_each_step_its_name(manifest: Manifest) -> None:
    recorded = read_counterexamples(ROOT)
    faults = [model for model in manifest.models if model.slug is not None]
    assert [each.model for each in recorded] == sorted(model.name for model in faults)
    assert {each.model: each.slug for each in recorded} == {model.name: model.slug for model in faults}
    assert all(step.action != "Next" for each in recorded for step in each.steps)


def test_what_is_recorded_is_read_as_it_was_written() -> None:
    text = encoded([FOUND, FOUND])
    assert msgspec.json.decode(text, type=tuple[Counterexample, ...]) == (FOUND, FOUND)
    assert text.count(b"\n") == 10


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        pytest.param("/\\ x = 1\n/\\ y = 2", "/\\ x = 1\n/\\ y = 3", ["y: 2 -> 3"], id="a value"),
        pytest.param("/\\ x = {1, 2}", "/\\ x = {2, 3}", ["x: - 1", "x: + 3"], id="a set"),
        pytest.param("/\\ x = <<1>>", "/\\ x = <<1, 2>>", ["x: + 2"], id="one more"),
        pytest.param("/\\ x = <<1, 2>>", "/\\ x = <<2>>", ["x: - 1"], id="the first is gone"),
        pytest.param("/\\ x = <<1, 2>>", "/\\ x = <<1, 3>>", ["x[2]: 2 -> 3"], id="one of several"),
        pytest.param("/\\ x = <<>>", "/\\ x = <<1, 2>>", ["x: <<>> -> <<1, 2>>"], id="several at once"),
        pytest.param("/\\ x = (p1 :> [a |-> 1])", "/\\ x = (p1 :> [a |-> 2])", ["x[p1].a: 1 -> 2"], id="deep"),
        pytest.param(
            "/\\ x = [a |-> 1, b |-> 2]",
            "/\\ x = [b |-> 3, c |-> 4]",
            ["x.a: gone", "x.b: 2 -> 3", "x.c: new, 4"],
            id="other fields",
        ),
        pytest.param(
            "/\\ guard = 1\n/\\ lease = 1",
            "/\\ guard = 2\n/\\ lease = 2",
            ["lease: 1 -> 2", "guard: 1 -> 2"],
            id="what is shared comes first",
        ),
    ],
)
def test_what_a_step_changes_is_said_by_the_smallest_part(before: str, after: str, said: list[str]) -> None:
    states: list[State] = [parse_state(before), parse_state(after)]
    assert list(_changed(*states)) == said


def test_a_page_says_all_that_is_known_of_a_bug() -> None:
    page = contents([BUG], [FOUND], AROUND)["renew-ignores-loss.md"]
    for said in (
        "# `renew-ignores-loss`",
        "**A title.** A bug of layer L: the lock.",
        "What was seen.",
        "What happened.",
        "](renew-ignores-loss.svg)",
        "  1  p1 -> store  takes the lease",
        "  2  store        the lease expires",
        "GuardIsHonest is violated",
        "[robrix#1025](https://github.com/project-robius/robrix/issues/1025), 26 August 2026",
        "found by reading, November 2026",
        "P1.8, in [Rule 1. Acquire](../protocol.md#rule-1-acquire)",
        "python -m checking model fault-renew-ignores-loss",
        "[Fenced](../guarantees.md#fenced)",
        '`FAULTS["renew-ignores-loss"]`',
    ):
        assert said in page, said


def test_an_endless_counterexample_says_what_repeats() -> None:
    endless = msgspec.structs.replace(FOUND, back_to=1)
    assert "steps 2 to 3 repeat for ever" in contents([BUG], [endless], AROUND)["renew-ignores-loss.svg"]
    still = msgspec.structs.replace(FOUND, back_to=3)
    assert "after this nothing happens any more" in contents([BUG], [still], AROUND)["renew-ignores-loss.svg"]


def test_the_index_has_each_bug_under_its_layer() -> None:
    index = contents([BUG], [FOUND], AROUND)["README.md"]
    lock = index.partition("## L: the lock")[2].partition("\n## ")[0]
    assert "| [A title](renew-ignores-loss.md) | `renew-ignores-loss` | robrix#1025 |" in lock


def test_what_no_model_has_is_drawn_from_its_acts() -> None:
    bug = msgspec.structs.replace(
        BUG, properties=(), acts=(Act("app", "removes the file", "file"),), ending="It is gone"
    )
    files_made = contents([bug], [], AROUND)
    assert "  1  app -> file  removes the file" in files_made["renew-ignores-loss.md"]
    assert ET.fromstring(files_made["renew-ignores-loss.svg"]) is not None  # noqa: S314 (this project's output)


def test_what_a_person_tells_comes_before_what_tlc_finds() -> None:
    bug = msgspec.structs.replace(BUG, acts=(Act("app", "is suspended"),), ending="It is stale")
    page = contents([bug], [FOUND], AROUND)["renew-ignores-loss.md"]
    parts = (
        "## In short",
        "(renew-ignores-loss-in-short.svg)",
        "is suspended",
        "It is stale",
        "## Step by step",
        "(renew-ignores-loss.svg)",
    )
    places = [page.index(part) for part in parts]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("bug", "found", "said"),
    [
        pytest.param(BUG, [], "neither a counterexample nor acts", id="nothing to draw"),
        pytest.param(
            BUG, [FOUND, msgspec.structs.replace(FOUND, slug="other-bug")], "other-bug", id="a bug that is not listed"
        ),
        pytest.param(
            msgspec.structs.replace(BUG, clauses=("P99",)), [FOUND], "there is no P99", id="a rule that is not there"
        ),
        pytest.param(
            msgspec.structs.replace(BUG, sources=(Source(at="nobody#1", date="2026"),)),
            [FOUND],
            "nobody#1",
            id="another project",
        ),
        pytest.param(
            BUG,
            [msgspec.structs.replace(FOUND, steps=(Taken("Fly", "p1", "", ()),))],
            "no words for LeaseLock!Fly",
            id="an action without words",
        ),
    ],
)
def test_contradictions_are_refused(bug: Bug, found: list[Counterexample], said: str) -> None:
    with pytest.raises(TrackRecordInvalid, match=re.escape(said)):
        contents([bug], found, AROUND)


def test_a_list_of_bugs_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / FOLDER / "bugs.toml"
    path.parent.mkdir(parents=True)
    text = (ROOT / FOLDER / "bugs.toml").read_text(encoding="utf-8")
    path.write_text(text + text[text.index("[[bug]]") :], encoding="utf-8")
    with pytest.raises(TrackRecordInvalid, match="are listed twice"):
        read_bugs(tmp_path)
    path.write_text(text.replace("story =", "storey =", 1), encoding="utf-8")
    with pytest.raises(TrackRecordInvalid, match="storey"):
        read_bugs(tmp_path)
    path.write_text(text.replace(', date = "2026-08-26"', "", 1), encoding="utf-8")
    with pytest.raises(TrackRecordInvalid, match="has no date"):
        read_bugs(tmp_path)
    path.write_text(text.replace(', shown_by = "numbered before #17493"', ""), encoding="utf-8")
    with pytest.raises(TrackRecordInvalid, match="no shown_by"):
        read_bugs(tmp_path)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (Source(at="found by reading", date="2026-11"), "found by reading, November 2026"),
        (Source(at="a fork", until="2025-08-05", shown_by="merged then"), "a fork, by 5 August 2025 (merged then)"),
        (
            Source(at="a fork", date="2025-08-01", until="2025-08-05", shown_by="its number"),
            "a fork, between 1 August 2025 and 5 August 2025 (its number)",
        ),
    ],
    ids=["a date", "a latest day", "two days"],
)
def test_a_page_says_when_a_bug_was_reported(source: Source, said: str) -> None:
    page = contents([msgspec.structs.replace(BUG, sources=(source,))], [FOUND], AROUND)[f"{BUG.slug}.md"]
    assert f"\n- {said}\n" in page


def test_headings_are_found_for_properties_and_rules() -> None:
    around = surroundings(
        "#### Fenced\n\nIt is.\n\n- **Property**: `A!B`,\n  `A!C`\n- **Models**: `D`\n",
        "## State\n\n### In the store\n\n**P0.1** It MUST.\n\n### In a process\n\n**P0.2** It MUST.\n\n"
        "### Rule 4. Fence\n\n**P4.1** It MUST.\n\n## Opening\n\n**P17.1** It MUST.\n",
        "### M5. One response\n",
    )
    assert around == replace(
        around,
        guarantees={"A!B": "Fenced", "A!C": "Fenced"},
        rules={
            "P0": "In the store",
            "P0.1": "In the store",
            "P0.2": "In a process",
            "P4": "Rule 4. Fence",
            "P4.1": "Rule 4. Fence",
            "P17": "Opening",
            "P17.1": "Opening",
            "M5": "M5. One response",
        },
    )


def test_writing_anew_changes_what_is_outdated_and_removes_what_no_bug_has(tmp_path: Path) -> None:
    for name in ("guarantees.md", "protocol.md", "machine.md"):
        (tmp_path / "spec").mkdir(exist_ok=True)
        (tmp_path / "spec" / name).write_bytes((ROOT / "spec" / name).read_bytes())
    folder = tmp_path / FOLDER
    folder.mkdir()
    for name in ("bugs.toml", "counterexamples.json"):
        (folder / name).write_bytes((ROOT / FOLDER / name).read_bytes())
    files.write(tmp_path)
    assert files.write(tmp_path) == []
    (folder / "clock-jump.md").write_text("old", encoding="utf-8")
    (folder / "gone.svg").write_text("old", encoding="utf-8")
    assert {path.name for path in files.write(tmp_path)} == {"clock-jump.md", "gone.svg"}
    assert not (folder / "gone.svg").exists()


def links() -> list[tuple[str, str]]:
    return sorted(
        {
            (page.name, link)
            for page in (ROOT / FOLDER).glob("*.md")
            for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
            if not link.startswith("https://")
        }
    )


def test_the_links_of_the_pages_lead_somewhere() -> None:
    headings: dict[Path, set[str]] = {}
    for page, link in links():
        path, _, anchor = link.partition("#")
        target = (ROOT / FOLDER / path).resolve()
        assert target.is_file(), (page, link)
        if anchor and target not in headings:
            found = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            headings[target] = {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in found}
        assert not anchor or anchor in headings[target], (page, link)
