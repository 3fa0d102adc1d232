"""Explanations of traces: real ones, faulty ones, and incomplete ones (cut off, empty, mixed)."""

from __future__ import annotations

import asyncio
import codecs
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from checking.explain import explanation as explained
from checking.explain import validation
from checking.explain.lines import LARGEST
from checking.explain.merging import TooFarApart, merge
from checking.explain.reading import NoTrace, SeveralStores, UnknownFormat, read
from checking.explain.reasons import REASONS
from checking.explain.validation import Validation, validate
from checking.tlc.toolbox import Toolbox
from examples.story.processes import Bob, SharedStore, shared_store
from examples.story.program import Encrypt, GoOn, Meet, Point, Stands
from examples.story.short_cuts import ShortCut
from examples.story.story import Story
from tests.store.stores import Recorder, apart, count_up, take_over, workbench
from unwedged.store import Transaction

ROOT: Final = Path(__file__).parents[2]
SPECIFICATIONS: Final = ROOT / "tla"

Json = dict[str, object]
Edit = Callable[[list[Json]], None]
"""Changes the lines of a trace."""


async def recorded(folder: Path) -> list[Json]:
    """Return the trace of two processes: each commits twice, one loses the lease during an operation, and both wait."""
    recorder = Recorder()
    async with workbench(folder / "store.db") as bench:
        phone = await bench.instance("phone", tracer=recorder)
        extension = await bench.instance("extension", tracer=recorder)
        await take_over(phone)
        await phone.run(count_up)
        await phone.run(count_up)
        assert not await extension.lock.acquire_now()
        await phone.lock.release_now()
        await take_over(extension)
        await extension.run(count_up)

        async def overtaken(transaction: Transaction) -> None:
            if len(losses) == 0:
                losses.append(extension)
                bench.expire_lease()
                await apart(take_over(phone))
                await apart(phone.run(count_up))
                await apart(phone.lock.release_now())
            await count_up(transaction)

        losses: list[object] = []
        await extension.run(overtaken)
        await extension.lock.renew_now()
        await extension.lock.release_now()
    return [dict(line) for line in recorder.lines]


def written(folder: Path, lines: list[Json], name: str = "trace.ndjson") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def found(lines: list[Json], step: str, number: int = 0) -> Json:
    return [line for line in lines if line["step"] == step][number]


class TestReading:
    @pytest.fixture
    async def lines(self, tmp_path: Path) -> list[Json]:
        return await recorded(tmp_path)

    async def test_a_last_line_that_was_cut_off_is_left_out(self, tmp_path: Path, lines: list[Json]) -> None:
        path = written(tmp_path, lines)
        path.write_bytes(path.read_bytes()[:-20])
        logs = read([path])
        assert logs.remarks == (f"{path}:{len(lines)}: the last line was cut off, as by a kill",)
        assert sum(map(len, logs.instances.values())) == len(lines) - 1

    async def test_lines_that_are_missing_are_named(self, tmp_path: Path, lines: list[Json]) -> None:
        [other] = [number for number, line in enumerate(lines) if line == found(lines, "commit", 1)]
        missing = lines.pop(other)
        [remark] = read([written(tmp_path, lines)]).remarks
        assert f"line {missing['line']} of the instance {missing['instance']} is missing" in remark

    async def test_a_copy_of_a_file_is_left_out(self, tmp_path: Path, lines: list[Json]) -> None:
        path, copy = written(tmp_path, lines), written(tmp_path, lines, "copy.ndjson")
        logs = read([path, copy, Path(str(path))])
        assert sum(map(len, logs.instances.values())) == len(lines)
        assert logs.remarks == tuple(
            f"{other} is given twice, or is a copy of {path}: it is read once" for other in (copy, path)
        )

    @pytest.mark.parametrize("row", [b'{"format":1,"step":"\xff"}', b'{"format":1,"step":"x","a":' + b"[" * 100_000])
    async def test_a_line_that_no_decoder_takes_is_left_out(
        self, tmp_path: Path, lines: list[Json], row: bytes
    ) -> None:
        path = written(tmp_path, lines)
        path.write_bytes(row + b"\n" + path.read_bytes())
        [remark] = read([path]).remarks
        assert remark.startswith(f"{path}:1: ")

    def test_no_lines_at_all_are_no_trace(self, tmp_path: Path) -> None:
        with pytest.raises(NoTrace, match="no file has a line"):
            read([written(tmp_path, [])])

    async def test_a_byte_order_mark_is_no_part_of_the_first_line(self, tmp_path: Path, lines: list[Json]) -> None:
        path = written(tmp_path, lines)
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
        logs = read([path])
        assert logs.remarks == ()
        assert sum(map(len, logs.instances.values())) == len(lines)

    @pytest.mark.parametrize("utf_16", [False, True])
    async def test_a_file_that_is_no_text_is_named_once(self, tmp_path: Path, lines: list[Json], utf_16: bool) -> None:
        path, good = tmp_path / "photo", written(tmp_path, lines)
        text = good.read_text().encode("utf-16") if utf_16 else random.Random(2).randbytes(10_000)
        path.write_bytes(text)
        with pytest.raises(NoTrace, match=f"no file has a line of a trace: {path} has no line .*:1: .* is not JSON"):
            read([path])
        [remark] = read([path, good]).remarks
        assert remark.startswith(f"{path} has no line that can be used ({path}:1: ")

    async def test_an_empty_file_is_named(self, tmp_path: Path, lines: list[Json]) -> None:
        empty = written(tmp_path, [], "empty.ndjson")
        assert read([empty, written(tmp_path, lines)]).remarks == (f"{empty} is empty",)

    @pytest.mark.parametrize("name", ["store", "instance"])
    async def test_a_name_that_ends_in_a_line_feed_is_none(self, tmp_path: Path, lines: list[Json], name: str) -> None:
        lines[2][name] = f"{lines[2][name]}\n"
        assert ":3: the step" in read([written(tmp_path, lines)]).remarks[0]

    def test_a_file_that_is_not_there_is_no_trace(self, tmp_path: Path) -> None:
        with pytest.raises(NoTrace, match="can't be read: No such file"):
            read([tmp_path / "missing"])

    @pytest.mark.parametrize("text", ['{"level": "info"}\n', "[1]\n"])
    def test_another_log_is_no_trace(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "log").write_text(text)
        with pytest.raises(NoTrace, match="no format and no step"):
            read([tmp_path / "log"])

    async def test_another_version_of_the_format_is_refused(self, tmp_path: Path, lines: list[Json]) -> None:
        lines[3]["format"] = 2
        with pytest.raises(UnknownFormat, match=r":4 is of version 2 of the format"):
            read([written(tmp_path, lines)])

    async def test_a_step_that_is_not_known_is_left_out_and_named(self, tmp_path: Path, lines: list[Json]) -> None:
        lines[3]["step"] = "dance"
        assert "the step 'dance' is left out" in read([written(tmp_path, lines)]).remarks[0]

    async def test_of_two_stores_one_must_be_named(self, tmp_path: Path, lines: list[Json]) -> None:
        of_one = [line for line in lines if line["instance"] == lines[0]["instance"]]
        other = [line | {"store": "0" * 16, "instance": "1" * 16} for line in of_one]
        paths = [written(tmp_path, lines), written(tmp_path, other, "other.ndjson")]
        with pytest.raises(SeveralStores, match="2 stores"):
            read(paths)
        assert set(read(paths, "0" * 16).instances) == {"1" * 16}
        with pytest.raises(NoTrace, match="no line is of the store"):
            read(paths, "2" * 16)

    async def test_neither_clocks_nor_the_order_of_lines_and_files_matter(
        self, tmp_path: Path, lines: list[Json]
    ) -> None:
        expected = [(step.name, step.facts) for step in merge(read([written(tmp_path, lines)])).steps]
        chance = random.Random(1)
        shuffled = [line | {"at_ms": chance.randrange(10**12)} for line in lines]
        chance.shuffle(shuffled)
        paths = [written(tmp_path, shuffled[:9], "one"), written(tmp_path, shuffled[9:], "two")]
        assert [(step.name, step.facts) for step in merge(read(paths)).steps] == expected


class TestNumbers:
    @pytest.fixture
    async def lines(self, tmp_path: Path) -> list[Json]:
        return await recorded(tmp_path)

    @pytest.mark.parametrize("version", [10**6, LARGEST])
    async def test_versions_between_which_too_many_are_missing_are_refused(
        self, tmp_path: Path, lines: list[Json], version: int
    ) -> None:
        commit = found(lines, "commit", -1)
        commit["version"] = version
        with pytest.raises(TooFarApart, match=f":{lines.index(commit) + 1} is of version .* no line reports"):
            merge(read([written(tmp_path, lines)]))

    # T1.10
    async def test_a_number_that_no_writer_may_write_leaves_its_line_out(
        self, tmp_path: Path, lines: list[Json]
    ) -> None:
        numbers = [
            (row, name)
            for row, line in enumerate(lines)
            for name, value in line.items()
            if type(value) is int and name != "format"
        ]
        assert len(numbers) > 100
        found(lines, "commit")["unlisted"] = 0
        for row, name in (*numbers, (lines.index(found(lines, "commit")), "unlisted")):
            more = [*lines[:row], lines[row] | {name: 10**25}, *lines[row + 1 :]]
            [remark, *_] = read([written(tmp_path, more)]).remarks
            assert remark.startswith(
                f"{tmp_path}/trace.ndjson:{row + 1}: the step '{lines[row]['step']}' is left out: "
            )
            assert f"`$.{name}`" in remark

    async def test_an_operation_can_not_begin_after_its_own_line(self, tmp_path: Path, lines: list[Json]) -> None:
        commit = found(lines, "commit")
        commit["began_after"] = commit["line"]
        [remark, _] = read([written(tmp_path, lines)]).remarks
        assert "the step 'commit' is left out: `began_after` is" in remark

    async def test_epochs_that_are_far_apart_take_no_time(self, tmp_path: Path, lines: list[Json]) -> None:
        path = written(tmp_path, with_numbers(lines, "epoch", 10**9 - 4, first=4))
        assert merge(read([path])).steps[-1].facts["epoch"] == 10**9

    async def test_epochs_that_tlc_can_not_count_are_refused(self, tmp_path: Path, lines: list[Json]) -> None:
        path = written(tmp_path, with_numbers(lines, "epoch", 10**12, first=4))
        with pytest.raises(TooFarApart, match=r":\d+ is of epoch 1,000,000,000,004, and the first epoch is 1"):
            merge(read([path]))

    async def test_an_update_that_changes_nothing_was_computed_from_the_value_before_it(
        self, tmp_path: Path, lines: list[Json]
    ) -> None:
        """T2.5: equal values have the same digest, which then stands for two updates."""
        expected = [step.facts.get("basis") for step in merge(read([written(tmp_path, lines)])).steps]
        commit = found(lines, "commit", 1)
        before, after = commit["based_on"], commit["made"]
        assert before != after
        equal = [
            {name: before if value == after and name in {"based_on", "made"} else value for name, value in line.items()}
            for line in lines
        ]
        assert found(equal, "commit", 1)["based_on"] == found(equal, "commit", 1)["made"]
        assert [step.facts.get("basis") for step in merge(read([written(tmp_path, equal)])).steps] == expected

    async def test_a_page_shows_epochs_and_versions_larger_than_tlc_s(
        self, tmp_path: Path, lines: list[Json], toolbox: Toolbox
    ) -> None:
        for name in ("epoch", "version", "since", "snapshot"):
            lines = with_numbers(lines, name, 10**12)
        for line in lines:
            if "changed_in" in line:
                line.update(changed=[], changed_in=[], floor=10**12)
        explanation = await explained.explain(toolbox, (written(tmp_path, lines),), None, SPECIFICATIONS)
        shown = await explanation.page(toolbox, SPECIFICATIONS)
        assert f'["lease", "epoch", "{10**12 + 4}"' in shown
        assert f'["store", "version", "{10**12 + 5}"' in shown


def with_numbers(lines: list[Json], name: str, more: int, first: int = 0) -> list[Json]:
    """Increase a number in the lines where it is at least a given value."""
    raised = []
    for line in lines:
        number = line.get(name)
        raised.append(line | {name: number + more} if isinstance(number, int) and number >= first else line)
    return raised


def stale(lines: list[Json]) -> None:
    found(lines, "commit", 3)["based_on"] = found(lines, "commit", 1)["made"]


def unfenced(lines: list[Json]) -> None:
    """The operation that lost the lease still commits, after the other process."""
    found(lines, "commit_fails").update(step="commit", version=5, wanted=False, released=False)
    found(lines, "commit", -1).update(version=6, snapshot=5)


def unsynced(lines: list[Json]) -> None:
    found(lines, "sync", 1)["step"] = "subscribe"


def dropped_too_much(lines: list[Json]) -> None:
    found(lines, "sync", 3)["dropped"] = ["counter/" + "0" * 16]


def out_of_date(lines: list[Json]) -> None:
    found(lines, "sync", 1)["since"] = 1


EDITS: Final[dict[str, tuple[Edit, str]]] = {
    "an update of an older value": (stale, "older_value"),
    "a commit after the lease was lost": (unfenced, "commit_unfenced"),
    "no sync": (unsynced, "began_unguarded"),
    "a record dropped that never was there": (dropped_too_much, "dropped_unchanged"),
    "a cache of another version": (out_of_date, "cache_version"),
}


NOT_SEEN_IN_PARTS: Final = {"a record dropped that never was there", "a cache of another version"}


def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "STEPS_IN_A_PART", 5)


class TestDeciding:
    async def test_a_process_that_has_only_opened_the_store_is_accepted(self, tmp_path: Path, toolbox: Toolbox) -> None:
        opened = [found(await recorded(tmp_path), "open")]
        explanation = await explained.explain(toolbox, (written(tmp_path, opened),), None, SPECIFICATIONS)
        assert explanation.accepted, explanation.text()
        assert "1 line of 1 process instance; 0 acquisitions, 0 commits of 0 records\n" in explanation.text()

    @pytest.mark.parametrize("stale", [False, True])
    async def test_a_commit_of_very_many_records_is_judged(self, tmp_path: Path, toolbox: Toolbox, stale: bool) -> None:
        lines = await recorded(tmp_path)
        names = [f"other/{number:016x}" for number in range(5_000)]
        for number, digest in ((0, "unread"), (1, "0" * 16)):
            commit = found(lines, "commit", number)
            values = {"records": names, "based_on": [digest] * len(names), "made": [f"{number:016x}"] * len(names)}
            for field, more in values.items():
                before = commit[field]
                assert isinstance(before, list)
                commit[field] = [*before, *more]
        if stale:
            based_on = found(lines, "commit", 1)["based_on"]
            assert isinstance(based_on, list)
            based_on[-1] = "1" * 16
        explanation = await explained.explain(toolbox, (written(tmp_path, lines),), None, SPECIFICATIONS)
        assert explanation.accepted != stale, explanation.text()
        assert ("older_value" in explanation.validation.reasons) == stale, explanation.text()

    async def test_a_possible_trace_is_accepted(self, tmp_path: Path, toolbox: Toolbox) -> None:
        path = written(tmp_path, await recorded(tmp_path))
        explanation = await explained.explain(toolbox, (path,), None, SPECIFICATIONS)
        assert explanation.accepted, explanation.text()
        assert explanation.validation.parts == 1

    async def test_a_possible_trace_is_accepted_in_parts_and_the_answer_says_what_that_leaves_out(
        self, tmp_path: Path, toolbox: Toolbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        in_parts(monkeypatch)
        path = written(tmp_path, await recorded(tmp_path))
        explanation = await explained.explain(toolbox, (path,), None, SPECIFICATIONS)
        assert explanation.accepted, explanation.text()
        assert explanation.validation.parts == 4
        assert "in 4 parts, which leaves out" in explanation.text()

    async def test_a_line_that_is_missing_may_be_the_one_that_ends_a_guard(
        self, tmp_path: Path, toolbox: Toolbox
    ) -> None:
        lines = await recorded(tmp_path)
        path = written(tmp_path, [line for line in lines if line["step"] not in ("lose_guard", "release")])
        explanation = await explained.explain(toolbox, (path,), None, SPECIFICATIONS)
        assert explanation.accepted, explanation.text()
        assert not explanation.logs.complete

    async def test_a_step_may_look_impossible_because_lines_are_missing(self, tmp_path: Path, toolbox: Toolbox) -> None:
        lines = await recorded(tmp_path)
        for missing in ((), ("sync",)):
            path = written(tmp_path, [line for line in lines if line["step"] not in missing])
            explanation = await explained.explain(toolbox, (path,), None, SPECIFICATIONS)
            assert explanation.logs.complete == explanation.accepted == (not missing), explanation.text()
            assert ("may only look impossible" in explanation.text()) == bool(missing)
            assert ("NOT DECIDED" in explanation.text()) == bool(missing)
            assert ("it looks as if P" in explanation.text()) == bool(missing)
            assert explanation.drawing().ending.startswith("not decided: it looks as if P" if missing else "all steps")
            assert "track-record" not in explanation.text(), "nobody is accused"

    async def test_a_process_without_a_trace_may_have_had_the_lease(self, tmp_path: Path, toolbox: Toolbox) -> None:
        """T5.2, T6.2: an epoch without any line is possible, and nothing is decided from there on."""
        lines = with_numbers(await recorded(tmp_path), "epoch", 1, first=2)
        explanation = await explained.explain(toolbox, (written(tmp_path, lines),), None, SPECIFICATIONS)
        assert "epoch_not_next" in explanation.validation.reasons
        assert not explanation.rejected, explanation.text()

    async def test_two_tasks_of_one_operation_may_load_one_record(self, tmp_path: Path, toolbox: Toolbox) -> None:
        recorder = Recorder()
        async with workbench(tmp_path / "store.db") as bench:
            phone = await bench.instance("phone", tracer=recorder)
            await take_over(phone)
            async with phone.transaction() as transaction:
                gate = phone.gated.hold_after("load")
                tasks = [asyncio.create_task(count_up(transaction)) for _ in range(2)]
                await gate.reached.wait()
                await tasks[1]
                gate.opened.set()
                await tasks[0]
        assert recorder.steps.count("load") == 2
        path = written(tmp_path, [dict(line) for line in recorder.lines])
        explanation = await explained.explain(toolbox, (path,), None, SPECIFICATIONS)
        assert explanation.accepted, explanation.text()

    @pytest.mark.parametrize("name", EDITS)
    async def test_an_impossible_trace_is_rejected_for_its_reason(
        self, tmp_path: Path, toolbox: Toolbox, name: str
    ) -> None:
        await self.rejected(tmp_path, toolbox, name)

    @pytest.mark.parametrize("name", sorted(EDITS.keys() - NOT_SEEN_IN_PARTS))
    async def test_an_impossible_trace_is_rejected_in_parts_too(
        self, tmp_path: Path, toolbox: Toolbox, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        in_parts(monkeypatch)
        await self.rejected(tmp_path, toolbox, name)

    async def rejected(self, folder: Path, toolbox: Toolbox, name: str) -> None:
        lines = await recorded(folder)
        edit, reason = EDITS[name]
        edit(lines)
        explanation = await explained.explain(toolbox, (written(folder, lines),), None, SPECIFICATIONS)
        assert reason in explanation.validation.reasons, explanation.text()
        assert REASONS[reason].says in explanation.text()


async def cut_off(folder: Path, step: str) -> list[Json]:
    """Return the trace of two processes. One was killed after it took a step and before it wrote the line."""
    recorder = Recorder()
    async with workbench(folder / "store.db") as bench:
        phone = await bench.instance("phone", tracer=recorder)
        killed = await bench.instance("extension", tracer=recorder)
        await take_over(phone)
        await phone.run(count_up)
        if step == "want":
            assert not await killed.lock.acquire_now()
            await phone.run(count_up)
        else:
            await phone.lock.release_now()
            await take_over(killed)
            if step == "commit":
                await killed.run(count_up)
            bench.expire_lease()
        await take_over(phone)
        await phone.run(count_up)
        await phone.run(count_up)
        await phone.lock.release_now()
    lines: list[Json] = [dict(line) for line in recorder.lines]
    of_killed = [line for line in lines if line["instance"] == found(lines, "open", 1)["instance"]]
    for line in of_killed[of_killed.index(found(of_killed, step)) :]:
        lines.remove(line)
    return lines


class TestAKill:
    """T1.4: the last step of an instance that was killed may be missing."""

    @pytest.mark.parametrize("step", ["acquire", "sync", "want", "commit"])
    async def test_what_a_process_did_last_may_be_missing(self, tmp_path: Path, toolbox: Toolbox, step: str) -> None:
        path = written(tmp_path, await cut_off(tmp_path, step))
        explanation = await explained.explain(toolbox, (path,), None, SPECIFICATIONS)
        assert explanation.accepted, explanation.text()
        assert explanation.logs.complete

    @pytest.mark.parametrize("stale", [False, True])
    async def test_a_process_that_opens_the_store_later_can_not_say_what_was_written(
        self, tmp_path: Path, toolbox: Toolbox, stale: bool
    ) -> None:
        """Its `sync` names no change. So its update shows that the missing commit wrote this record."""
        recorder = Recorder()
        async with workbench(tmp_path / "store.db") as bench:
            killed = await bench.instance("phone", tracer=recorder)
            await take_over(killed)
            await killed.run(count_up)
            await killed.run(count_up)
            bench.expire_lease()
            later = await bench.instance("extension", tracer=recorder)
            await take_over(later)
            await later.run(count_up)
            await later.run(count_up)
            await later.lock.release_now()
        lines: list[Json] = [dict(line) for line in recorder.lines]
        of_killed = [line for line in lines if line["instance"] == lines[0]["instance"]]
        for line in of_killed[of_killed.index(found(of_killed, "commit", 1)) :]:
            lines.remove(line)
        # The workbench gives each instance a cache of version 0. A real store gives it a cache of the current version.
        found(lines, "open", 1)["version"] = found(lines, "sync", 1)["since"] = 2
        found(lines, "sync", 1).update({"changed": [], "changed_in": [], "dropped": []})
        if stale:
            found(lines, "commit", 2)["based_on"] = found(lines, "commit", 1)["based_on"]
        explanation = await explained.explain(toolbox, (written(tmp_path, lines),), None, SPECIFICATIONS)
        assert explanation.accepted != stale, explanation.text()
        assert ("older_value" in explanation.validation.reasons) == stale

    async def test_it_may_have_opened_the_store_and_nothing_more(self, tmp_path: Path, toolbox: Toolbox) -> None:
        lines = await recorded(tmp_path)
        opened = found(lines, "open") | {"instance": "1" * 16, "version": found(lines, "commit", -1)["version"]}
        explanation = await explained.explain(toolbox, (written(tmp_path, [opened, *lines]),), None, SPECIFICATIONS)
        assert explanation.accepted, explanation.text()

    @pytest.mark.parametrize(("step", "reason"), [("acquire", "epoch_not_next"), ("want", "released_unwanted")])
    async def test_no_process_that_went_on_can_have_done_it(
        self, tmp_path: Path, toolbox: Toolbox, step: str, reason: str
    ) -> None:
        lines = await cut_off(tmp_path, step)
        killed = found(lines, "open", 1)["instance"]
        last = [line for line in lines if line["instance"] == killed][-1]
        number = last["line"]
        assert isinstance(number, int)
        lines.append(
            {name: last[name] for name in ("format", "store", "instance", "at_ms")}
            | {"line": number + 1, "step": "close"}
        )
        explanation = await explained.explain(toolbox, (written(tmp_path, lines),), None, SPECIFICATIONS)
        assert reason in explanation.validation.reasons, explanation.text()


class TestOnePartAfterTheOther:
    """Traces of a store before and after a moment at which all processes had closed it."""

    @pytest.fixture
    async def parts(self, tmp_path: Path) -> list[list[Json]]:
        recorders = [Recorder(), Recorder()]
        async with workbench(tmp_path / "store.db") as bench:
            for recorder in recorders:
                phone = await bench.instance("phone", tracer=recorder)
                await take_over(phone)
                await phone.run(count_up)
                await phone.run(count_up)
                await phone.lock.release_now()
        parts: list[list[Json]] = [[dict(line) for line in recorder.lines] for recorder in recorders]
        # The workbench gives each instance a cache of version 0. A real store gives it a cache of the current version.
        found(parts[1], "open")["version"] = found(parts[1], "sync")["since"] = 2
        found(parts[1], "sync").update({"changed": [], "changed_in": []})
        return parts

    async def follow(self, folder: Path, toolbox: Toolbox, parts: list[list[Json]]) -> Validation:
        base, last = None, Validation(0, 0, 0)
        for lines in parts:
            merged = merge(read([written(folder, lines)]), base)
            base, last = merged.end, await validate(toolbox, merged, SPECIFICATIONS)
        return last

    async def test_each_begins_with_what_the_one_before_has_ended_with(
        self, tmp_path: Path, toolbox: Toolbox, parts: list[list[Json]]
    ) -> None:
        assert not (await self.follow(tmp_path, toolbox, parts)).reasons

    async def test_a_value_of_before_the_end_is_an_older_one(
        self, tmp_path: Path, toolbox: Toolbox, parts: list[list[Json]]
    ) -> None:
        found(parts[1], "commit")["based_on"] = found(parts[0], "commit")["made"]
        assert "older_value" in (await self.follow(tmp_path, toolbox, parts)).reasons
        assert not (await self.follow(tmp_path, toolbox, parts[1:])).reasons, "alone it does not show"

    async def test_an_epoch_of_before_does_not_come_again(
        self, tmp_path: Path, toolbox: Toolbox, parts: list[list[Json]]
    ) -> None:
        for line in parts[1]:
            if "epoch" in line:
                line["epoch"] = found(parts[0], "acquire")["epoch"]
        assert "epoch_not_next" in (await self.follow(tmp_path, toolbox, parts)).reasons
        assert not (await self.follow(tmp_path, toolbox, parts[1:])).reasons, "alone it does not show"


class TestRealProcesses:
    async def explain(self, shared: SharedStore, toolbox: Toolbox) -> explained.Explanation:
        paths = tuple(sorted(shared.store.parent.glob("*.ndjson")))
        return await explained.explain(toolbox, paths, None, SPECIFICATIONS)

    async def test_a_suspension_and_a_kill_are_accepted(self, tmp_path: Path, toolbox: Toolbox) -> None:
        async with shared_store(tmp_path, ShortCut.NONE) as shared:
            bob, app, extension = Bob(), await shared.start("app"), await shared.start("extension")
            await shared.perform(app, Meet(bob.invitation))
            app.send(Encrypt(1, "slow", Point.STEPPED))
            assert await shared.stands(app) == Stands(Point.STEPPED)
            await app.suspend()
            shared.expire_lease()
            await shared.perform(extension, Encrypt(2, "quick"))
            app.send(GoOn())
            app.resume()
            await shared.outcome(app)
            app.send(Encrypt(3, "never said", Point.STEPPED))
            await shared.stands(app)
            await app.kill()
            shared.expire_lease()
            await shared.perform(extension, Encrypt(3, "said again"))
            explanation = await self.explain(shared, toolbox)
        assert explanation.accepted, explanation.text()

    @pytest.mark.parametrize(
        ("short_cut", "reason", "bug"),
        [
            (ShortCut.NO_FENCE, "commit_unfenced", "lease-lapses-unfenced"),
            (ShortCut.KEPT_CACHE, "older_value", "session-cache-survives"),
        ],
    )
    async def test_a_wedged_session_is_traced_to_its_cause(
        self, tmp_path: Path, toolbox: Toolbox, short_cut: ShortCut, reason: str, bug: str
    ) -> None:
        async with shared_store(tmp_path, short_cut) as shared:
            story = Story(shared)
            await story.tell()
            assert story.lost, "nothing was lost, and there is nothing to explain"
            explanation = await self.explain(shared, toolbox)
        assert reason in explanation.validation.reasons, explanation.text()
        assert bug in explanation.text()
        overwrites = r"olm_session/\w+ was computed from its value of version \d+, and overwrites: P\d+ commits version"
        assert re.search(overwrites, explanation.text())


def test_each_reason_is_one_of_the_specification_s() -> None:
    specification = (SPECIFICATIONS / "Trace.tla").read_text()
    named = re.findall(r'Unless\(.*?, "(\w+)"\)', specification, re.DOTALL)
    named += re.findall(r'-> \{"(\w+)"\}', specification)
    assert set(named) == set(REASONS)


def test_each_reason_names_clauses_and_bugs_that_exist() -> None:
    protocol = (ROOT / "spec" / "protocol.md").read_text()
    bugs = {path.stem.removeprefix("fault-") for path in (SPECIFICATIONS / "models").glob("fault-*.cfg")}
    for reason in REASONS.values():
        assert all(f"**{clause}**" in protocol for clause in reason.clauses)
        assert set(reason.bugs) <= bugs
