"""The page of states marks the differences, and no text in it can become markup."""

from __future__ import annotations

import asyncio
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from checking import command
from checking.errors import CheckError
from checking.explain import explanation as explained
from checking.explain import validation
from checking.explain.drawing import scenes
from checking.explain.page import GONE, NEW, Frame, Row, differing, page
from checking.tlc.toolbox import Toolbox
from checking.tlc.values import State, record
from tests.checking.test_explain import SPECIFICATIONS, recorded, unfenced, written
from unwedged.tools.sequence import Sequence, Step

DRAWING = Sequence("t", ("P1", "store"), (Step("P1", "commits", "store"),), "end")


class Tags(HTMLParser):
    """Records the elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002 (the library's parameters)
        self.found.append(tag)


def frames_in(text: str) -> list[dict[str, object]]:
    found = re.search(r'<script type="application/json" id="frames">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    frames: list[dict[str, object]] = json.loads(found[1])
    return frames


def rows_of(frame: dict[str, object]) -> list[list[str]]:
    rows = frame["rows"]
    assert isinstance(rows, list)
    return rows


def test_what_differs_from_the_state_before_is_marked() -> None:
    before: State = {"lease": record(epoch=1, holder="P1"), "guard": record(P1="held")}
    after: State = {"lease": record(epoch=2, holder="P1"), "guard": record(P2="taken")}
    assert differing(before, after) == (
        Row("lease", "epoch", "2", "was 1"),
        Row("lease", "holder", "P1"),
        Row("guard", "P1", "held", GONE),
        Row("guard", "P2", "taken", NEW),
    )


def test_nothing_differs_from_a_state_that_is_not_known() -> None:
    state: State = {"heard": (record(version=1), record(version=2)), "none": ()}
    assert differing(None, state) == (Row("heard", "1 version", "1"), Row("heard", "2 version", "2"))


def test_a_step_may_have_no_state() -> None:
    frames = [Frame("before", {"floor": 0}), Frame("commits", None)]
    assert [frame["rows"] for frame in frames_in(page("t", "s", DRAWING, frames))] == [[["floor", "", "0", ""]], None]


def test_nothing_that_is_shown_can_become_markup() -> None:
    evil = '</script><script>alert(1)</script><img src=x onerror="alert(1)">&lt;$hash'
    drawing = Sequence(evil, (evil,), (Step(evil, evil, "", (evil,)),), evil)
    hostile = page(evil, evil, drawing, [Frame(evil, {evil: record(**{evil: evil})})])
    harmless = page("t", "s", Sequence("t", ("a",), (Step("a", "b", "", ("c",)),), "e"), [Frame("n", {"v": 0})])
    tags = Tags(hostile).found
    assert [tag for tag in tags if tag != "text"] == [tag for tag in Tags(harmless).found if tag != "text"]
    assert frames_in(hostile) == [{"name": evil, "impossible": False, "rows": [[evil, evil, evil, ""]]}]


async def test_a_part_of_a_long_trace_is_shown_with_the_store_s_own_numbers(
    tmp_path: Path, toolbox: Toolbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "STEPS_IN_A_PART", 12)
    lines = await recorded(tmp_path)
    unfenced(lines)
    path = written(tmp_path, lines)
    explanation = await explained.explain(toolbox, (path,), None, SPECIFICATIONS)
    assert explanation.validation.parts == 2
    frames = frames_in(await explanation.page(toolbox, SPECIFICATIONS))
    known = [frame for frame in frames if frame["rows"]]
    assert all(frame["rows"] is None for frame in frames[: frames.index(known[0])])
    assert ["store", "version", "2", ""] in rows_of(known[0])
    assert rows_of(known[-2])[:6] == [
        ["lease", "epoch", "3", ""],
        ["lease", "holder", "P1", ""],
        ["lease", "left", "1", ""],
        ["lease", "wanted", "FALSE", ""],
        ["store", "version", "4", "was 3"],
        ["guard", "P1 epoch", "3", ""],
    ]


async def test_states_are_those_that_tlc_has_between_the_steps(tmp_path: Path, toolbox: Toolbox) -> None:
    lines = await recorded(tmp_path)
    unfenced(lines)
    explanation = await explained.explain(toolbox, (written(tmp_path, lines),), None, SPECIFICATIONS)
    frames = frames_in(await explanation.page(toolbox, SPECIFICATIONS))
    shown = scenes(explanation.merged, explanation.validation.followed)
    assert len(frames) == len(shown) + 1
    *_, commit, release, impossible = frames
    assert release["name"] == "P1 releases the lease of epoch 3"
    assert commit["name"] == "P1 commits version 4 from version 3 under epoch 3, in operation P1/1"
    rows = rows_of(commit)
    assert ["store", "version", "4", "was 3"] in rows
    [cached] = [row for row in rows if row[0] == "cache" and row[1].startswith("P1 records counter/")]
    assert cached[2:] == ["4", "was 3"]
    assert ["lease", "holder", "P1", ""] in rows
    assert ["operation", "P2/1 under", "2", ""] in rows
    assert (impossible["rows"], impossible["impossible"], commit["impossible"]) == (None, True, False)


def test_the_states_of_a_counterexample_are_shown_between_the_steps_of_its_drawing(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    assert command.model("fault-session-cache-survives", html=path) == command.OK
    text = path.read_text()
    assert "<h1>A second cache survives the invalidation</h1>" in text
    assert "CacheIsSnapshot is violated" in text
    first, *_, last = frames_in(text)
    assert first["name"] == "The initial state"
    assert last["name"] == "p1 syncs its cache"
    assert len(frames_in(text)) == text.count('class="number"') + 1
    rows = rows_of(last)
    assert ["cache", "p1 version", "1", "was 0"] in rows
    assert ["cache", "p1 records r1", "0", ""] in rows


def test_without_a_counterexample_there_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="has no counterexample"):
        command.model("LeaseLock", html=tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_page_that_can_not_be_written_is_reported_without_a_traceback(tmp_path: Path) -> None:
    lines = asyncio.run(recorded(tmp_path))
    with pytest.raises(CheckError, match="can't be written"):
        command.explain(written(tmp_path, lines), html=tmp_path / "missing" / "page.html")


def test_a_message_has_no_page_of_states(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="leave out one of the options"):
        command.explain(tmp_path, message=("0" * 16 + ":0",), html=tmp_path / "page.html")
