"""T5: missing parts never make a real trace look impossible, unless the explanation says that parts are missing."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, get_args

import msgspec
import pytest

from checking.explain.explanation import Explanation, explained
from checking.explain.lines import StoreLine
from checking.explain.merging import merge
from checking.explain.reading import read
from checking.tlc.toolbox import Toolbox
from tests.checking.traces import Json, eventful, written
from tests.store.stores import Instance, Recorder, Workbench, count_up, take_over, workbench
from unwedged.protocol.guard import NO_GUARD, Stage
from unwedged.store import LeaseLost

SPECIFICATIONS: Final = Path(__file__).parents[2] / "tla"
SEEDS: Final = range(6)

OPTIONAL: Final = {
    str(line.__struct_config__.tag): {field.name for field in msgspec.structs.fields(line) if not field.required}
    for line in get_args(StoreLine)
}
"""The optional fields of the lines of each step."""


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Json]:
    return tuple(asyncio.run(eventful(tmp_path_factory.mktemp("eventful"))))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, toolbox: Toolbox, lines: Sequence[Json]) -> Explanation:
    logs = read([written(tmp_path_factory.mktemp("sound"), lines)])
    explanation = asyncio.run(explained(toolbox, logs, SPECIFICATIONS))
    assert explanation.accepted, explanation.text()
    return explanation


def renumbered(lines: list[Json]) -> list[Json]:
    """Number the lines as a writer would that never writes the missing ones."""
    counts: Counter[object] = Counter()
    for line in lines:
        counts[line["instance"]] += 1
        line["line"] = counts[line["instance"]]
    return lines


# T5.2
async def test_no_field_that_is_missing_makes_it_look_impossible(
    tmp_path: Path, toolbox: Toolbox, lines: Sequence[Json], sound: Explanation
) -> None:
    names = sorted(set.union(*OPTIONAL.values()))
    assert len(names) > 20
    rejected = []
    for name in names:
        less = [
            {field: line[field] for field in line if {field} & OPTIONAL[str(line["step"])] != {name}} for line in lines
        ]
        path = written(tmp_path, less, f"{name}.ndjson")
        explanation = await explained(toolbox, read([path]), SPECIFICATIONS, sound)
        if not explanation.accepted:
            rejected.append(f"without {name}: {explanation.text()}")
    assert not rejected, "\n".join(rejected)


# T5.2
async def test_no_step_that_is_never_written_makes_it_look_impossible(
    tmp_path: Path, toolbox: Toolbox, lines: Sequence[Json], sound: Explanation
) -> None:
    written_steps = {str(line["step"]) for line in lines}
    assert len(written_steps) > 17
    rejected = []
    for step in sorted(written_steps):
        # A writer that does not report the end of subscriptions does not number them either.
        left_out = {"subscriptions"} if step == "unsubscribe" else set()
        kept = [{name: line[name] for name in line.keys() - left_out} for line in lines if line["step"] != step]
        numbers: dict[object, list[int]] = {}
        for line in kept:
            assert isinstance(line["line"], int)
            numbers.setdefault(line["instance"], [0]).append(line["line"])
        for line in kept:
            if isinstance(after := line.get("began_after"), int):
                line["began_after"] = sum(number <= after for number in numbers[line["instance"]]) - 1
        path = written(tmp_path, renumbered(kept), f"{step}.ndjson")
        explanation = await explained(toolbox, read([path]), SPECIFICATIONS, sound)
        if explanation.rejected:
            rejected.append(f"without {step}: {explanation.text()}")
        assert explanation.logs.complete
        assert explanation.accepted or explanation.rejected or "NOT DECIDED" in explanation.text()
    assert not rejected, "\n".join(rejected)


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_lines_that_are_missing_make_it_look_impossible(
    tmp_path: Path, toolbox: Toolbox, lines: Sequence[Json], sound: Explanation, seed: int
) -> None:
    chance = random.Random(seed)
    missing = chance.choice([1, 1, 2, 5, 20])
    kept = sorted(chance.sample(range(len(lines)), len(lines) - missing))
    path = written(tmp_path, [lines[number] for number in kept], "less.ndjson")
    explanation = await explained(toolbox, read([path]), SPECIFICATIONS, sound)
    assert not explanation.rejected, f"seed {seed}: {explanation.text()}"


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_end_that_is_missing_makes_it_look_impossible(
    tmp_path: Path, toolbox: Toolbox, lines: Sequence[Json], sound: Explanation, seed: int
) -> None:
    """A killed process may not have written its last line."""
    chance = random.Random(seed)
    instance = chance.choice(sorted({str(line["instance"]) for line in lines}))
    own = [line for line in lines if line["instance"] == instance]
    last = chance.randrange(1, len(own))
    kept = [line for line in lines if line["instance"] != instance or own.index(line) < last]
    path = written(tmp_path, kept, "cut.ndjson")
    explanation = await explained(toolbox, read([path]), SPECIFICATIONS, sound)
    assert not explanation.rejected, f"seed {seed}: {explanation.text()}"


async def taking_turns(folder: Path, chance: random.Random) -> list[Json]:
    """Let two processes wait for each other, write and hand over in any order. One opens the store later."""
    recorder = Recorder()
    async with workbench(folder / "store.db") as bench:
        processes = [await bench.instance("phone", tracer=recorder)]
        opens = chance.randrange(20)
        for step in range(50):
            if step == opens:
                version = bench.version()
                processes.append(await bench.instance("extension", tracer=recorder, version=version))
            bench.clock.time += chance.choice([0, 100, 1000])
            await _take_a_step(chance.choice(processes), bench, chance)
    return [dict(line) for line in recorder.lines]


async def _take_a_step(process: Instance, bench: Workbench, chance: random.Random) -> None:
    guard = process.lock.guard
    if guard == NO_GUARD:
        if chance.random() < 0.1:
            bench.expire_lease()
        await process.lock.acquire_now()
    elif guard.stage is not Stage.HELD or chance.random() < 0.2:
        await process.lock.release_now()
    elif chance.random() < 0.2:
        await process.lock.renew_now()
    else:
        with contextlib.suppress(LeaseLost):
            async with process.transaction() as transaction:
                await count_up(transaction, chance.choice("nm"))


@pytest.mark.parametrize("seed", range(12))
async def test_no_process_without_a_trace_makes_it_look_impossible(tmp_path: Path, toolbox: Toolbox, seed: int) -> None:
    chance = random.Random(seed)
    lines = await taking_turns(tmp_path, chance)
    explanation = await explained(toolbox, read([written(tmp_path, lines)]), SPECIFICATIONS)
    assert explanation.accepted, f"seed {seed}: {explanation.text()}"
    out = chance.choice(list(dict.fromkeys(line["instance"] for line in lines)))
    path = written(tmp_path, [line for line in lines if line["instance"] != out], "less.ndjson")
    explanation = await explained(toolbox, read([path]), SPECIFICATIONS)
    assert not explanation.rejected, f"seed {seed}: {explanation.text()}"


@pytest.mark.parametrize("killed", [False, True])
async def test_a_version_is_missing_in_the_trace_of_a_process_only_if_it_held_the_lease(
    tmp_path: Path, killed: bool
) -> None:
    recorder = Recorder()
    async with workbench(tmp_path / "store.db") as bench:
        phone = await bench.instance("phone", tracer=recorder)
        extension = await bench.instance("extension", tracer=recorder)
        for process, times in ((phone, 1), (extension, 3), (phone, 1)):
            await take_over(process)
            for _ in range(times):
                await process.run(count_up)
            await process.lock.release_now()
    lines: list[Json] = [dict(line) for line in recorder.lines]
    left_out = next(line["instance"] for line in lines if line["step"] == "commit" and line["version"] == 2)
    gone = {"commit", "release"} if killed else {str(line["step"]) for line in lines}
    kept = [line for line in lines if line["instance"] != left_out or line["step"] not in gone]
    remarks = merge(read([written(tmp_path, kept)])).remarks
    why = "P2 held the lease, and its trace lacks lines" if killed else "give the traces of all processes"
    assert f"no line reports versions 2 to 4: {why}" in remarks
