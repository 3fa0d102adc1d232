"""``MachineTrace`` accepts the traces of real machines, and names a step that violates a guarantee."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from checking.explain import machine_validation
from checking.explain.explanation import Explanation, explain
from checking.explain.machine_explanation import explain_machine
from checking.explain.machine_reasons import MACHINE_REASONS
from checking.explain.machine_steps import NumberTooLarge, machine_steps
from checking.explain.merging import merge
from checking.explain.reading import read
from checking.tlc.toolbox import Toolbox
from tests.machine.scene import ROOM, Scene, scene
from tests.store.stores import Recorder

ROOT: Final = Path(__file__).parents[2]
SPECIFICATIONS: Final = ROOT / "tla"

Json = dict[str, object]
Edit = Callable[[list[Json]], None]
"""Changes the lines of a trace."""


async def talk(on: Scene) -> None:
    """Share a room's key and send messages both ways, also over sliding sync."""
    await on.greet()
    await on.extension.sync("extension", sliding=True)
    event = await on.bob.say(ROOM, "again")
    await on.extension.sync("extension", sliding=True)
    assert await on.app.read(ROOM, event) == "again"
    await on.app.say(ROOM, "hello")
    await on.app.sync()
    await on.app.send_all()


async def recorded(folder: Path) -> list[Json]:
    """Return the trace of the device with two processes."""
    recorder = Recorder()
    async with scene(folder, recorder) as on:
        await talk(on)
    store = next(line["store"] for line in recorder.lines if line["step"] == "batch" and line["sliding"])
    return [dict(line) for line in recorder.lines if line["store"] == store]


def written(folder: Path, lines: list[Json]) -> Path:
    path = folder / "trace.ndjson"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


async def explained(folder: Path, toolbox: Toolbox, lines: list[Json]) -> Explanation:
    path = written(folder, lines)
    return await explain(toolbox, (path,), None, SPECIFICATIONS)


def number_of(lines: list[Json], step: str, number: int = 0, **fields: object) -> int:
    """Return the index of a line."""
    places = [place for place, line in enumerate(lines) if line["step"] == step and line.items() >= fields.items()]
    return places[number]


def change(step: str, number: int = 0, /, **fields: object) -> Edit:
    """Return an edit that changes fields of a line."""

    def edit(lines: list[Json]) -> None:
        lines[number_of(lines, step, number)] |= fields

    return edit


def unwrite(step: str, kind: str, **fields: object) -> Edit:
    """Return an edit that removes the records of one kind from the commit of the last line of a step."""

    def edit(lines: list[Json]) -> None:
        line = lines[number_of(lines, step, -1, **fields)]
        commit = lines[number_of(lines, "commit", operation=line["operation"], instance=line["instance"])]
        for name in ("records", "based_on", "made"):
            values, records = commit[name], commit["records"]
            assert isinstance(values, list)
            assert isinstance(records, list)
            commit[f"{name}_left"] = [
                value for value, record in zip(values, records, strict=True) if not record.startswith(f"{kind}/")
            ]
        for name in ("records", "based_on", "made"):
            commit[name] = commit.pop(f"{name}_left")

    return edit


async def test_real_machines_are_accepted(tmp_path: Path, toolbox: Toolbox) -> None:
    lines = await recorded(tmp_path)
    explanation = await explained(tmp_path, toolbox, lines)
    assert explanation.accepted, explanation.text()
    assert len(explanation.machine.steps) > 30
    assert f", {len(explanation.machine.steps)} steps of the machine)" in explanation.text()


EDITS: Final[dict[str, Edit]] = {
    "another_account": change("open_machine", -1, peer="0" * 16),
    "stale_response": change("batch", -1, asked="0" * 16, lists_applied=True),
    "session_not_stored": unwrite("decrypt_olm", "peer", outcome="ok"),
    "index_used_again": change("encrypt_megolm", -1, index=0),
    "request_not_stored": change("share", -1, request="0" * 16),
}


@pytest.mark.parametrize("reason", EDITS)
async def test_an_impossible_step_is_named(tmp_path: Path, toolbox: Toolbox, reason: str) -> None:
    lines = await recorded(tmp_path)
    EDITS[reason](lines)
    explanation = await explained(tmp_path, toolbox, lines)
    assert not explanation.accepted
    assert reason in explanation.machine.validation.reasons, explanation.text()
    text = explanation.text()
    assert MACHINE_REASONS[reason].says in text
    assert f"this violates {MACHINE_REASONS[reason].guarantee}" in text
    assert explanation.drawing().ending.startswith("impossible: P")


# T4.3
async def test_what_may_be_cut_off_is_not_judged(tmp_path: Path, toolbox: Toolbox) -> None:
    lines = await recorded(tmp_path)
    last = number_of(lines, "share", -1)
    change("share", -1, request="0" * 16)(lines)
    del lines[last + 1]  # the missing line of the same process may belong to this operation
    explanation = await explained(tmp_path, toolbox, lines)
    assert explanation.machine.impossible is None, explanation.text()


LEFT_OUT: Final = (
    {"based_on", "made"},
    {"asked_events", "changed", "fallback_key", "lists", "message"},
    {"fallback", "keys", "marks", "peer", "sliding"},
    {"kept_ms", "next_events", "request", "serial"},
)
"""Fields that a writer may omit. Without ``made``, a trace does not show which records a commit deleted."""


# T4.3
async def test_nothing_is_concluded_from_fields_that_are_left_out(tmp_path: Path, toolbox: Toolbox) -> None:
    lines = await recorded(tmp_path)
    required = {
        "request": {"offer", "abandon", "request", "answer", "send"},
        "peer": {"decrypt_olm", "encrypt_olm", "make_session"},
    }
    for names in LEFT_OUT:
        less = [
            {name: value for name, value in line.items() if name not in names or line["step"] in required.get(name, ())}
            for line in lines
        ]
        logs = read([written(tmp_path, less)])
        steps = machine_steps(logs, merge(logs))
        found = await explain_machine(toolbox, steps, SPECIFICATIONS)
        assert steps
        assert found.impossible is None, (names, found.described())


async def test_many_steps_are_followed_in_parts(
    tmp_path: Path, toolbox: Toolbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_validation, "STEPS_IN_A_PART", 15)
    lines = await recorded(tmp_path)
    explanation = await explained(tmp_path, toolbox, lines)
    assert explanation.accepted, explanation.text()
    change("encrypt_megolm", -1, index=0)(lines)
    explanation = await explained(tmp_path, toolbox, lines)
    assert explanation.machine.validation.reasons == {"index_used_again"}
    assert explanation.machine.validation.followed > 15


async def test_a_name_that_no_implementation_has_is_no_fault(tmp_path: Path, toolbox: Toolbox) -> None:
    lines = await recorded(tmp_path)
    change("batch", -1, changed=['x"\\ @@ é/0123456789abcdef'])(lines)
    explanation = await explained(tmp_path, toolbox, lines)
    assert explanation.accepted, explanation.text()


async def test_an_index_that_tlc_can_not_count_is_refused(tmp_path: Path) -> None:
    lines = await recorded(tmp_path)
    change("encrypt_megolm", -1, index=10**10)(lines)
    logs = read([written(tmp_path, lines)])
    number = number_of(lines, "encrypt_megolm", -1) + 1
    with pytest.raises(NumberTooLarge, match=rf"trace.ndjson:{number}: `index` is 10,000,000,000"):
        machine_steps(logs, merge(logs))


async def test_numbers_that_others_have_chosen_may_be_large(tmp_path: Path, toolbox: Toolbox) -> None:
    lines = await recorded(tmp_path)
    change("answer", 0, type="KeysUpload", one_time_keys=10**25)(lines)
    change("batch", -1, one_time_keys=10**25)(lines)
    change("room_key", -1, first_index=2**32 - 1)(lines)
    explanation = await explained(tmp_path, toolbox, lines)
    assert explanation.accepted, explanation.text()
    assert explanation.logs.complete


async def test_very_many_names_in_one_step_are_followed_in_parts(
    tmp_path: Path, toolbox: Toolbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLC's stack must not overflow."""
    monkeypatch.setattr(machine_validation, "STEPS_IN_A_PART", 40)
    lines = await recorded(tmp_path)
    marks, lists = ([f"{kind}/{number:016x}" for number in range(5_000)] for kind in ("outdated", "devices"))
    change("request", 0, type="KeysQuery", marks=marks, lists=lists)(lines)
    change("batch", 0, changed=marks)(lines)
    explanation = await explained(tmp_path, toolbox, lines)
    assert explanation.accepted, explanation.text()


async def test_a_trace_of_the_store_alone_has_no_steps_of_the_machine(tmp_path: Path) -> None:
    lines = [line for line in await recorded(tmp_path) if "began_after" in line or "operation" not in line]
    logs = read([written(tmp_path, lines)])
    assert machine_steps(logs, merge(logs)) == []


def test_each_reason_of_the_specification_is_explained() -> None:
    modules = ("MachineTrace", "ExchangeTrace")
    specification = "\n".join((SPECIFICATIONS / f"{module}.tla").read_text() for module in modules)
    named = set(re.findall(r'"([a-z]+(?:_[a-z]+)+)"', specification))
    assert named >= set(MACHINE_REASONS)


def test_each_reason_names_clauses_guarantees_and_bugs_that_exist() -> None:
    machine = (ROOT / "spec" / "machine.md").read_text()
    bugs = {path.stem for path in (ROOT / "spec" / "track-record").glob("*.md")}
    for reason in MACHINE_REASONS.values():
        assert all(f"**{clause}**" in machine for clause in reason.clauses)
        assert set(reason.bugs) <= bugs
        module, _, guarantee = reason.guarantee.partition("!")
        assert re.search(rf"^{guarantee} ==", (SPECIFICATIONS / f"{module}.tla").read_text(), re.MULTILINE), guarantee
