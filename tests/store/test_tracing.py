"""The store traces its steps as ``spec/trace.md`` says."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import logging
import multiprocessing
import resource
from collections.abc import AsyncIterator, Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Final

import msgspec
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from checking.explain import lines as trace_lines
from examples.story.processes import Bob, SharedStore, shared_store
from examples.story.program import Done, Encrypt, GoOn, Meet, Point, Stands
from examples.story.short_cuts import ShortCut
from tests.store.stores import (
    COUNTER,
    KEY,
    KINDS,
    PATIENCE,
    Instance,
    Recorder,
    Workbench,
    all_that_can_run,
    apart,
    count_up,
    failing,
    take_over,
)
from unwedged.protocol.guard import NO_GUARD
from unwedged.store import (
    CryptoStore,
    InvalidArgument,
    LeaseLost,
    OperationsAbandoned,
    SnapshotMoved,
    StorageFailed,
    StoreReplaced,
    Transaction,
    Version,
    View,
)
from unwedged.store.sealer import Sealer
from unwedged.trace import Field, Line, LoggingTracer, NdjsonTracer, OpenTelemetryTracer, OperationTrace, Trace
from unwedged.trace.ndjson import as_json

ROOT: Final = Path(__file__).parents[2]
SECRET: Final = "a canary that must not appear"


async def count(view: View) -> int:
    counter = await view.get(COUNTER, "n")
    return 0 if counter is None else counter.count


def decoded(lines: Iterable[Line]) -> list[trace_lines.AnyLine]:
    """Decode lines. Check that they have all fields of the format and no others."""
    made = []
    for number, line in enumerate(lines, 1):
        struct = trace_lines.DECODER.decode(json.dumps(line).encode())
        unknown = line.keys() - {"step", *struct.__struct_fields__}
        assert not unknown, f"{line['step']} has fields that the format does not know: {unknown}"
        assert struct.line == number
        made.append(struct)
    return made


class TestSteps:
    @pytest.fixture
    def recorder(self) -> Recorder:
        return Recorder()

    @pytest.fixture
    async def traced(self, bench: Workbench, recorder: Recorder) -> Instance:
        return await bench.instance("traced", tracer=recorder)

    # T1.4, T5.1
    async def test_a_first_transaction(self, traced: Instance, recorder: Recorder) -> None:
        await take_over(traced)
        await traced.run(count_up)
        assert recorder.steps == ["open", "acquire", "sync", "load", "commit"]
        load, commit = decoded(recorder.lines)[3:]
        assert isinstance(load, trace_lines.Load)
        assert isinstance(commit, trace_lines.Commit)
        assert (load.operation, load.snapshot, load.began_after, load.found) == (1, 0, 3, False)
        assert (load.version, load.floor) == (0, 0)
        assert (commit.operation, commit.version, commit.records) == (1, 1, [load.record])
        assert commit.based_on == ["absent"]

    async def test_each_commit_is_based_on_what_the_one_before_it_made(
        self, bench: Workbench, traced: Instance, recorder: Recorder
    ) -> None:
        other = Recorder()
        extension = await bench.instance("extension", tracer=other)
        await take_over(traced)
        await traced.run(count_up)
        await traced.lock.release_now()
        await take_over(extension)
        await extension.run(count_up)
        first, second = recorder.last("commit"), other.last("commit")
        assert first["records"] == second["records"]
        assert first["made"] == second["based_on"] != second["made"]
        sync = other.last("sync")
        assert (sync["changed"], sync["changed_in"], sync["dropped"]) == (first["records"], [1], [])

    async def test_a_sync_says_what_it_drops(self, bench: Workbench, traced: Instance, recorder: Recorder) -> None:
        await take_over(traced)
        await traced.run(count_up)
        await traced.run(count_up, "another")
        await traced.lock.release_now()
        extension = await bench.instance("extension")
        await take_over(extension)
        await extension.run(count_up)
        await extension.lock.release_now()
        await take_over(traced)
        sync = recorder.last("sync")
        assert (sync["since"], sync["version"], sync["kept"]) == (2, 3, 1)
        assert (sync["epoch"], sync["floor"], sync["unlisted"]) == (3, 0, 0)
        assert sync["dropped"] == sync["changed"] == recorder.lines[4]["records"]

    # T5.1
    async def test_the_lease_is_refused_and_renewed(
        self, bench: Workbench, traced: Instance, recorder: Recorder
    ) -> None:
        extension = await bench.instance("extension")
        await take_over(extension)
        assert not await traced.lock.acquire_now()
        await extension.lock.release_now()
        await take_over(traced)
        await traced.lock.renew_now()
        await traced.lock.release_now()
        assert recorder.steps == ["open", "want", "acquire", "sync", "renew", "release"]
        want, acquire, _, renew, release = decoded(recorder.lines)[1:]
        assert isinstance(want, trace_lines.Want)
        assert isinstance(acquire, trace_lines.Acquire)
        assert isinstance(renew, trace_lines.Renew)
        assert isinstance(release, trace_lines.Release)
        assert (want.epoch, acquire.epoch, release.epoch) == (1, 2, 2)
        assert want.left_ms == 2000
        assert (renew.epoch, renew.wanted) == (2, False)

    async def test_a_renewal_says_that_somebody_waits(
        self, bench: Workbench, traced: Instance, recorder: Recorder
    ) -> None:
        extension = await bench.instance("extension")
        await take_over(traced)
        assert not await extension.lock.acquire_now()
        await traced.lock.renew_now()
        assert recorder.last("renew")["wanted"] is True

    async def test_a_view_says_that_somebody_waits_and_how_long_the_lease_was_held(
        self, bench: Workbench, traced: Instance, recorder: Recorder
    ) -> None:
        extension = await bench.instance("extension")
        await take_over(traced)
        async with traced.view():
            bench.clock.advance(700)
            assert not await extension.lock.acquire_now()
        validated = recorder.last("validate")
        assert (validated["wanted"], validated["held_ms"]) == (True, 700)

    # P8.20
    async def test_a_commit_that_releases_the_lease_says_who_waited_and_ends_the_guard(
        self, bench: Workbench, traced: Instance, recorder: Recorder
    ) -> None:
        extension = await bench.instance("extension")
        await take_over(traced)
        held_ms = traced.lock.times.turn_ms
        async with traced.transaction() as transaction:
            await count_up(transaction)
            bench.clock.advance(held_ms)
            assert not await extension.lock.acquire_now()
        committed = recorder.last("commit")
        assert (committed["released"], committed["wanted"], committed["held_ms"]) == (True, True, held_ms)
        assert traced.lock.guard == NO_GUARD
        assert await extension.lock.acquire_now()

    # T5.1
    async def test_a_renewal_says_for_how_long_the_code_of_an_operation_has_been_waited_for(
        self, bench: Workbench, traced: Instance, recorder: Recorder
    ) -> None:
        extension = await bench.instance("extension")

        async def told() -> Field:
            traced.lock.stop_renewing_if_overdue()
            await traced.lock.renew_now()
            return recorder.last("renew").get("draining_ms", "nothing")

        await take_over(traced)
        assert await told() == "nothing"
        async with traced.view():
            bench.clock.advance(700)
            assert not await extension.lock.acquire_now()
            assert await told() == "nothing", "it learns only now that somebody waits"
            bench.clock.advance(300)
            assert await told() == 300
            assert recorder.last("renew")["held_ms"] == 1000
        await traced.lock.release_now()
        await take_over(traced)
        gate = traced.gated.hold_before("commit")
        committing = asyncio.create_task(traced.run(count_up))
        await gate.reached.wait()
        assert not await extension.lock.acquire_now()
        assert await told() == "nothing"
        bench.clock.advance(300)
        assert await told() == "nothing", "a commit is given any time"
        gate.opened.set()
        await committing
        decoded(recorder.lines)

    async def test_an_operation_that_lost_the_lease_is_run_again(
        self, bench: Workbench, traced: Instance, recorder: Recorder
    ) -> None:
        extension = await bench.instance("extension")
        await take_over(traced)
        attempts = 0

        async def overtaken(transaction: Transaction) -> None:
            nonlocal attempts
            attempts += 1
            if attempts == 1:
                bench.expire_lease()
                await apart(take_over(extension))
                await apart(extension.lock.release_now())
            await count_up(transaction)

        await traced.run(overtaken)
        assert recorder.steps[3:] == ["lose_guard", "lose", "rerun", "acquire", "sync", "load", "commit"]
        assert recorder.last("lose_guard")["why"] == recorder.last("lose")["why"] == "fenced"
        decoded(recorder.lines)

    async def test_an_operation_began_before_its_guard_was_lost(self, traced: Instance, recorder: Recorder) -> None:
        """T3.1: this also holds if the guard is lost after the operation was admitted, before its task resumes."""
        await take_over(traced)
        first_runs, first_ends = asyncio.Event(), asyncio.Event()

        async def first(transaction: Transaction) -> None:
            await count_up(transaction)
            first_runs.set()
            await first_ends.wait()

        async def run_and_lose_the_guard() -> None:
            await traced.run(first)
            traced.lock.lost(traced.lock.guard.epoch)  # The other operation was admitted just now.

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(run_and_lose_the_guard())
            await first_runs.wait()
            second = tasks.create_task(traced.run(count_up))
            await asyncio.sleep(0)
            first_ends.set()
        assert second.result() == 2
        lost, commit = recorder.last("lose_guard"), recorder.last("commit")
        assert commit["operation"] == 2
        assert commit["began_after"] == recorder.lines[recorder.lines.index(lost) - 1]["line"]

    # T5.1
    async def test_a_commit_that_the_fence_stops(self, bench: Workbench, traced: Instance, recorder: Recorder) -> None:
        extension = await bench.instance("extension")
        await take_over(traced)
        async with failing(LeaseLost, traced.transaction()) as transaction:
            await count_up(transaction)
            bench.expire_lease()
            await apart(take_over(extension))
        assert recorder.steps[4:] == ["commit_fails", "lose_guard"]
        assert recorder.last("commit_fails")["why"] == recorder.last("lose_guard")["why"] == "fenced"

    async def test_a_commit_whose_outcome_nobody_knows(self, traced: Instance, recorder: Recorder) -> None:
        await take_over(traced)
        traced.gated.late_failures["commit"] = StorageFailed("the disk is gone")
        async with failing(StorageFailed, traced.transaction()) as transaction:
            await count_up(transaction)
        failed = recorder.last("commit_fails")
        assert (failed["why"], failed["records"]) == ("unknown_outcome", [recorder.last("load")["record"]])
        assert recorder.steps[-1] == "lose_guard"
        assert recorder.last("lose_guard")["why"] == "unknown_outcome"
        decoded(recorder.lines)

    # P5.23
    async def test_a_commit_whose_effects_here_fail(
        self, traced: Instance, recorder: Recorder, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(record: logging.LogRecord) -> bool:
            if record.msg.startswith("committed"):
                raise ZeroDivisionError
            return True

        caplog.set_level(logging.DEBUG, "unwedged")
        caplog.handler.addFilter(fail)
        with pytest.raises(ZeroDivisionError):
            await traced.run(count_up)
        caplog.handler.removeFilter(fail)
        assert recorder.steps[-2:] == ["commit", "lose_guard"]
        assert (recorder.last("lose_guard")["epoch"], recorder.last("lose_guard")["why"]) == (1, "unknown_outcome")

    async def test_a_sync_that_fails(self, traced: Instance, recorder: Recorder) -> None:
        traced.gated.failures["changes"] = StorageFailed("the disk is gone")
        with pytest.raises(StorageFailed):
            await traced.lock.acquire_now()
        assert recorder.steps == ["open", "acquire", "lose_guard", "release"]
        assert recorder.last("lose_guard")["why"] == "sync_failed"
        assert recorder.last("release")["epoch"] == 1
        decoded(recorder.lines)

    async def test_a_sync_that_the_fence_stops(self, bench: Workbench, traced: Instance, recorder: Recorder) -> None:
        extension = await bench.instance("extension")
        gate = traced.gated.hold_before("changes")
        acquiring = asyncio.create_task(traced.lock.acquire_now())
        await gate.reached.wait()
        bench.expire_lease()
        await take_over(extension)
        gate.opened.set()
        with pytest.raises(LeaseLost):
            await acquiring
        assert recorder.steps == ["open", "acquire", "lose_guard"]
        assert recorder.last("lose_guard")["why"] == "fenced"

    async def test_operations_that_are_abandoned(self, traced: Instance, recorder: Recorder) -> None:
        go_on = asyncio.Event()

        async def wait(_: View) -> None:
            await go_on.wait()

        running = asyncio.create_task(traced.query(wait))
        await take_over(traced)
        await all_that_can_run()
        with pytest.raises(OperationsAbandoned):
            await traced.close(timeout_seconds=0)
        go_on.set()
        await asyncio.gather(running, return_exceptions=True)
        assert recorder.last("lose_guard")["why"] == "abandoned"

    async def test_a_guard_whose_files_are_lost(self, traced: Instance, recorder: Recorder) -> None:
        await take_over(traced)
        traced.gated.failures["renew"] = StoreReplaced("the file was replaced")
        with pytest.raises(StoreReplaced):
            await traced.lock.renew_now()
        assert (recorder.last("lose_guard")["epoch"], recorder.last("lose_guard")["why"]) == (1, "files_lost")

    # P8.15
    async def test_a_guard_whose_time_is_up(self, bench: Workbench, traced: Instance, recorder: Recorder) -> None:
        await take_over(traced)
        bench.expire_lease()
        await traced.lock.end_if_expired()
        assert (recorder.last("lose_guard")["epoch"], recorder.last("lose_guard")["why"]) == (1, "expired")

    async def test_a_release_that_fails(self, traced: Instance, recorder: Recorder) -> None:
        await take_over(traced)
        traced.gated.failures["release"] = StorageFailed("the disk is gone")
        with pytest.raises(StorageFailed):
            await traced.lock.release_now()
        assert recorder.steps[-1] == "lose_guard"
        assert (recorder.last("lose_guard")["epoch"], recorder.last("lose_guard")["why"]) == (1, "release_failed")

    async def test_an_answer_and_a_failure_are_validated(self, traced: Instance, recorder: Recorder) -> None:
        await take_over(traced)

        async def fail(view: View) -> None:
            raise KeyError(f"{await count(view)} {SECRET}")

        await traced.query(count)
        with pytest.raises(KeyError):
            await traced.query(fail)
        answered, failed = (line for line in recorder.lines if line["step"] == "validate")
        assert "failure" not in answered
        assert failed["failure"] == "KeyError"
        assert answered["mode"] == failed["mode"] == "view"
        decoded(recorder.lines)

    async def test_a_view_that_comes_too_late_for_a_record(self, traced: Instance, recorder: Recorder) -> None:
        await take_over(traced)
        async with failing(SnapshotMoved, traced.view()) as view:
            await apart(traced.run(count_up))
            await view.get(COUNTER, "n")
        assert recorder.last("outdated")["version"] == 1
        decoded(recorder.lines)

    async def test_a_view_that_comes_too_late_for_a_list(self, traced: Instance, recorder: Recorder) -> None:
        await take_over(traced)
        async with failing(SnapshotMoved, traced.view()) as view:
            await apart(traced.run(count_up))
            await view.keys(COUNTER)
        assert recorder.last("outdated")["version"] == 1
        decoded(recorder.lines)

    async def test_listing_pausing_and_closing(self, traced: Instance, recorder: Recorder) -> None:
        async def keys(view: View) -> int:
            return len(await view.keys(COUNTER))

        await take_over(traced)
        await traced.run(count_up)
        assert await traced.query(keys) == 1
        await traced.pause()
        await traced.resume()
        await traced._truncate(Version(1))
        await traced.close()
        assert recorder.steps[-6:] == ["validate", "release", "pause", "resume", "truncate", "close"]
        assert recorder.last("list")["found"] == 1
        decoded(recorder.lines)

    async def test_what_subscribers_received(self, bench: Workbench, traced: Instance, recorder: Recorder) -> None:
        extension = await bench.instance("extension")
        async with traced.subscribe(COUNTER):
            await take_over(extension)
            await extension.run(count_up)
            await traced.listen_now()
            await extension.run(count_up)
            await extension._truncate(Version(2))
            await traced.listen_now()
        told = [
            (line["since"], line["version"], line["lagged"]) for line in recorder.lines if line["step"] == "publish"
        ]
        assert recorder.last("subscribe")["version"] == 0
        assert told == [(0, 1, False), (1, 2, True)]
        decoded(recorder.lines)

    async def test_a_long_list_is_cut_and_says_so(self, bench: Workbench, traced: Instance, recorder: Recorder) -> None:
        async def many(transaction: Transaction) -> None:
            for number in range(300):
                await count_up(transaction, f"{number}")

        await take_over(traced)
        await traced.run(many)
        commit = recorder.last("commit")
        assert (len(listed(commit["records"])), len(listed(commit["made"])), commit["unlisted"]) == (250, 250, 50)
        other = Recorder()
        await traced.lock.release_now()
        await take_over(await bench.instance("extension", tracer=other))
        sync = other.last("sync")
        assert (len(listed(sync["changed"])), len(listed(sync["changed_in"])), sync["unlisted"]) == (250, 250, 50)
        decoded(recorder.lines)
        decoded(other.lines)


def listed(field: Field) -> list[object]:
    assert isinstance(field, list)
    return field


class TestNames:
    # T2.1
    def test_all_processes_of_a_store_name_things_alike_and_other_stores_do_not(self) -> None:
        def named(key: bytes, instance: int) -> str:
            return Trace(Recorder(), key, b"store", instance, lambda: 0).pseudonym("user", "@alice:example.org")

        assert named(bytes(32), 1) == named(bytes(32), 2) != named(bytes([1] * 32), 1)

    def test_the_key_of_pseudonyms_comes_from_the_store_key(self) -> None:
        """T2.1: this key differs from every other key that is derived from the store key."""
        expected = HKDFExpand(SHA256(), 32, b"unwedged trace").derive(bytes(range(32)))
        assert Sealer.of_key(b"store", bytes(range(32))).trace_key() == expected

    def test_a_pseudonym_is_as_the_specification_says(self) -> None:
        trace = Trace(Recorder(), bytes(range(32)), b"store", 1, lambda: 0)
        hashed = blake2b("6:device7:@é:b.c5:PHONE".encode(), key=bytes(range(32)), digest_size=8)
        assert trace.pseudonym("device", "@é:b.c", "PHONE") == hashed.hexdigest()

    # T2.5
    def test_a_digest_is_as_the_specification_says_whatever_was_written_before(self) -> None:
        trace = Trace(Recorder(), bytes(range(32)), b"store", 1, lambda: 0)
        name = ("kind", b"key")
        record = trace.record(*name)

        def digest(value: bytes) -> str:
            hashed = b"5:value%d:%b%d:%b" % (len(record), record.encode(), len(value), value)
            return blake2b(hashed, key=bytes(range(32)), digest_size=8).hexdigest()

        def written(value: bytes | None, known: dict[tuple[str, bytes], bytes | None]) -> tuple[Field, Field]:
            fields = trace.written({name: value}, known)
            assert (fields["records"], fields["unlisted"]) == ([record], 0)
            return fields["based_on"], fields["made"]

        first, second, foreign = b"one", b"two" * 1000, b"another process's"
        assert written(first, {}) == (["unread"], [digest(first)])
        assert written(second, {name: first}) == ([digest(first)], [digest(second)])
        assert written(first, {name: foreign}) == ([digest(foreign)], [digest(first)])
        assert written(None, {name: first}) == ([digest(first)], ["absent"])
        assert written(second, {name: None}) == (["absent"], [digest(second)])
        assert written(first, {name: None}) == (["absent"], [digest(first)])

    @given(st.lists(st.binary(), min_size=1), st.lists(st.binary(), min_size=1))
    def test_names_of_other_parts_are_other_names(self, some: list[bytes], others: list[bytes]) -> None:
        trace = Trace(Recorder(), bytes(32), b"store", 1, lambda: 0)
        assert (trace.pseudonym("record", *some) == trace.pseudonym("record", *others)) == (some == others)

    # T2.3, T2.6
    @given(key=st.text(min_size=4), value=st.binary(min_size=8), label=st.text(min_size=6))
    def test_nothing_of_a_record_its_key_or_a_label_is_in_a_line(self, key: str, value: bytes, label: str) -> None:
        """No line contains an unkeyed hash of a name either, since it would confirm a guess of the name."""
        recorder = Recorder()
        trace = Trace(recorder, bytes(32), b"store", 1, lambda: 0)
        operation = OperationTrace(trace, "transaction", 1, 1, 0)
        name = ("kind", key.encode("utf-8", "surrogatepass"))
        operation.failed(ValueError(value, label))
        operation.will_write({name: value}, {name: value})
        operation.took_effect("commit", operation.writes)
        trace.note("open", program=trace.pseudonym("program", label))
        text = json.dumps(recorder.lines)
        for secret in (name[1], value, label.encode("utf-8", "surrogatepass")):
            for shown in shapes(secret):
                assert shown not in text


def shapes(secret: bytes) -> list[str]:
    """Return the forms in which bytes could appear in a line."""
    digests = [hashlib.new(name, secret).hexdigest()[:16] for name in ("sha256", "sha1", "md5")]
    unkeyed = blake2b(secret, digest_size=8).hexdigest()
    return [secret.hex(), base64.b64encode(secret).decode().rstrip("="), repr(secret), *digests, unkeyed]


class TestFiles:
    # T1.5
    def test_each_line_begins_and_ends_with_a_line_feed(self, tmp_path: Path) -> None:
        path = tmp_path / "trace.ndjson"
        path.write_bytes(b'{"format":1,"sto')
        with NdjsonTracer(path) as tracer:
            tracer.write({"step": "one"})
            tracer.write({"step": "two"})
        assert path.read_bytes() == b'{"format":1,"sto\n{"step":"one"}\n\n{"step":"two"}\n'

    # T1.5
    def test_a_full_disk_cuts_only_the_lines_of_the_process_that_meets_it(self, tmp_path: Path) -> None:
        path = tmp_path / "trace.ndjson"
        writer = multiprocessing.get_context("spawn").Process(target=write_until_full, args=(path,))
        with NdjsonTracer(path) as tracer:
            tracer.write({"step": "before"})
            writer.start()
            writer.join()
            assert writer.exitcode == 0
            tracer.write({"step": "after"})
        rows = path.read_bytes().split(b"\n")
        assert b'{"step":"before"}' in rows
        assert b'{"step":"after"}' in rows
        cut = [row for row in rows if row and not row.endswith(b"}")]
        assert [row[:17] for row in cut] == [b'{"step":"too long']

    @given(st.dictionaries(st.text(), st.text() | st.booleans() | st.lists(st.text()) | st.integers(-(2**63), 2**63)))
    def test_both_encoders_say_the_same(self, line: dict[str, Field]) -> None:
        assert json.loads(as_json(line)) == line
        with contextlib.suppress(UnicodeEncodeError):
            assert json.loads(msgspec.json.encode(line)) == line

    def test_only_its_owner_reads_it(self, tmp_path: Path) -> None:
        with NdjsonTracer(tmp_path / "trace.ndjson"):
            pass
        assert (tmp_path / "trace.ndjson").stat().st_mode & 0o777 == 0o600

    # T1.5
    def test_several_processes_write_whole_lines(self, tmp_path: Path) -> None:
        context = multiprocessing.get_context("spawn")
        writers = [context.Process(target=write_many, args=(tmp_path / "trace.ndjson", each)) for each in "ab"]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
            assert writer.exitcode == 0
        written = [json.loads(line) for line in (tmp_path / "trace.ndjson").read_bytes().splitlines() if line]
        for writer_name in "ab":
            assert [line["line"] for line in written if line["step"][0] == writer_name] == list(range(500))


def write_until_full(path: Path) -> None:
    """Write lines until the space ends within one. Python ignores the signal that this raises."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    with NdjsonTracer(path) as tracer:
        with pytest.raises(OSError, match="part of a line"):
            tracer.write({"step": "too long" * 1000})
        with pytest.raises(OSError, match="too large"):
            tracer.write({"step": "too late"})


def write_many(path: Path, name: str) -> None:
    with NdjsonTracer(path) as tracer:
        for number in range(500):
            tracer.write({"step": name * 1000, "line": number})


class Interrupted(Recorder):
    """A tracer during whose line about ``step`` a signal arrives, once."""

    def __init__(self, step: str) -> None:
        super().__init__()
        self.step: str | None = step

    def write(self, line: Line) -> None:
        super().write(line)
        if line["step"] == self.step:
            self.step = None
            raise KeyboardInterrupt


class TestTracers:
    # T1.7
    async def test_a_tracer_that_fails_does_no_harm(self, bench: Workbench, caplog: pytest.LogCaptureFixture) -> None:
        class Full:
            def write(self, line: Line) -> None:
                raise OSError(f"no space for {line}")

        store = await bench.instance("traced", tracer=Full())
        await take_over(store)
        assert await store.run(count_up) == 1
        assert [record.getMessage() for record in caplog.records if "tracing" in record.getMessage()] == [
            "tracing failed: OSError"
        ]

    # T1.7
    @pytest.mark.parametrize("step", ["acquire", "want", "sync", "renew", "load", "list", "commit", "commit_fails",
                                      "lose_guard", "lose", "rerun", "outdated", "validate", "release", "subscribe",
                                      "publish", "pause", "resume", "truncate", "close"])  # fmt: skip
    async def test_a_tracer_that_fails_at_a_step_does_no_harm(
        self, bench: Workbench, step: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        class FailsAt(Recorder):
            def write(self, line: Line) -> None:
                super().write(line)
                if line["step"] == step:
                    raise asyncio.CancelledError

        tracer = FailsAt()
        store, other = await bench.instance("traced", tracer=tracer), await bench.instance("other")
        attempts: list[int] = []

        async def overtaken(transaction: Transaction) -> None:
            attempts.append(len(attempts))
            await transaction.keys(COUNTER)
            if len(attempts) <= 2:
                if len(attempts) == 2:  # The commit is the first access that is fenced.
                    await count_up(transaction)
                bench.expire_lease()
                await apart(take_over(other))
                await apart(other.run(count_up))
                await apart(other.lock.release_now())
            await count_up(transaction)

        async with store.subscribe(COUNTER) as changes:
            await take_over(other)
            assert not await store.lock.acquire_now()
            await other.lock.release_now()
            await take_over(store)
            await store.lock.renew_now()
            await store.run(overtaken)
            async with failing(SnapshotMoved, store.view()) as view:
                await apart(store.run(count_up, "m"))
                await view.get(COUNTER, "m")
            assert await store.query(count) == 3
            told = [(await anext(changes)).version for _ in range(4)]
            await store._truncate(Version(4))
            await store.pause()
            await store.resume()
        await store.close()
        assert told == [1, 2, 3, 4]
        assert step in tracer.steps
        reports = [record.getMessage() for record in caplog.records if "tracing" in record.getMessage()]
        assert reports == ["tracing failed: CancelledError"]

    # T1.7
    # P5.23
    async def test_a_signal_during_the_line_of_a_failed_commit_leaves_no_guard(self, bench: Workbench) -> None:
        store = await bench.instance("traced", tracer=Interrupted("commit_fails"))
        await store.run(count_up)
        store.gated.late_failures["commit"] = StorageFailed("the disk is gone")
        with pytest.raises(KeyboardInterrupt):
            await store.run(count_up)
        assert store.lock.guard == NO_GUARD
        assert await store.run(count_up) == 3

    # P9.2
    async def test_a_signal_during_the_line_of_a_delivery_takes_nothing_from_a_subscriber(
        self, bench: Workbench
    ) -> None:
        store = await bench.instance("traced", tracer=Interrupted("publish"))
        async with store.subscribe(COUNTER) as changes:
            with pytest.raises(KeyboardInterrupt):
                await store.run(count_up)
            assert await store.run(count_up) == 2
            async with asyncio.timeout(PATIENCE):
                assert [(await anext(changes)).version for _ in range(2)] == [1, 2]

    async def test_a_log_that_fails_does_no_harm(self, bench: Workbench) -> None:
        class Broken(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                refused.append(record.getMessage())
                raise OSError

        refused: list[str] = []
        logger = logging.getLogger("unwedged.trace")
        handler = Broken()
        logger.addHandler(handler)
        try:
            store = await bench.instance("traced", tracer=LoggingTracer(logger, logging.WARNING))
            await take_over(store)
            assert await store.run(count_up) == 1
        finally:
            logger.removeHandler(handler)
        assert refused.count("tracing failed: OSError") == 1

    async def test_a_closed_file_does_no_harm(self, bench: Workbench, tmp_path: Path) -> None:
        with NdjsonTracer(tmp_path / "trace.ndjson") as tracer:
            store = await bench.instance("traced", tracer=tracer)
        await take_over(store)
        assert await store.run(count_up) == 1

    async def test_what_can_not_write_is_no_tracer(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        with pytest.raises(InvalidArgument, match=r"write\(line\), such as NdjsonTracer\(path\) .* not a str$"):
            await CryptoStore.open(path, key=KEY, label="x", kinds=KINDS, tracer="x.ndjson")  # type: ignore[arg-type]
        assert not path.exists()

    async def test_a_program_gets_a_trace_by_asking_for_it(self, tmp_path: Path) -> None:
        recorder = Recorder()
        opening = CryptoStore.open(tmp_path / "store.db", key=KEY, label=SECRET, kinds=KINDS, tracer=recorder)
        async with opening as store:
            await store.run(count_up)
        assert recorder.steps == ["open", "acquire", "sync", "load", "commit", "release", "close"]
        assert SECRET not in json.dumps(recorder.lines)
        decoded(recorder.lines)

    def test_lines_go_to_a_logger_at_its_level(self, caplog: pytest.LogCaptureFixture) -> None:
        logger = logging.getLogger("a.program")
        tracer = LoggingTracer(logger)
        with caplog.at_level(logging.INFO, "a.program"):
            tracer.write({"step": "one"})
        with caplog.at_level(logging.DEBUG, "a.program"):
            tracer.write({"step": "two", "line": 2})
        assert [record.getMessage() for record in caplog.records] == ['{"step":"two","line":2}']

    def test_lines_become_spans(self) -> None:
        spans: list[tuple[str, dict[str, Field], list[str]]] = []

        class Span:
            def __init__(self, ended: list[str]) -> None:
                self._ended = ended

            def end(self) -> None:
                self._ended.append("ended")

        class Spans:
            def start_span(self, name: str, *, attributes: dict[str, Field]) -> Span:
                spans.append((name, attributes, []))
                return Span(spans[-1][2])

        OpenTelemetryTracer(Spans()).write({"step": "commit", "version": 3})
        assert spans == [("unwedged.commit", {"unwedged.step": "commit", "unwedged.version": 3}, ["ended"])]


def test_the_schema_is_that_of_the_lines() -> None:
    assert (ROOT / "spec" / "trace.schema.json").read_bytes() == trace_lines.schema()


class TestRealProcesses:
    @pytest.fixture
    async def shared(self, tmp_path: Path) -> AsyncIterator[SharedStore]:
        async with shared_store(tmp_path, ShortCut.NONE) as opened:
            yield opened

    def read(self, shared: SharedStore, label: str) -> list[Line]:
        written = shared.store.with_name(f"{label}.ndjson").read_bytes()
        lines: list[Line] = [json.loads(line) for line in written.splitlines() if line]
        decoded(lines)
        return lines

    async def test_a_suspension_past_the_lease(self, shared: SharedStore) -> None:
        bob, app, extension = Bob(), await shared.start("app"), await shared.start("extension")
        await shared.perform(app, Meet(bob.invitation))
        app.send(Encrypt(1, "slow", Point.READ))
        assert await shared.stands(app) == Stands(Point.READ)
        await app.suspend()
        shared.expire_lease()
        assert isinstance(await shared.perform(extension, Encrypt(2, "quick")), Done)
        app.send(GoOn())
        app.resume()
        assert isinstance(await shared.outcome(app), Done)
        of_app, of_extension = self.read(shared, "app"), self.read(shared, "extension")
        lost = [line["epoch"] for line in of_app if line["step"] in {"lose_guard", "lose", "commit_fails"}]
        commits = [(line["version"], line["epoch"]) for line in of_app + of_extension if line["step"] == "commit"]
        assert set(lost) == {1}
        assert sorted(commits, key=str) == [(1, 1), (2, 2), (3, 3)]
        assert {line["store"] for line in of_app} == {line["store"] for line in of_extension}

    # T1.4
    async def test_a_kill_leaves_all_lines_before_it(self, shared: SharedStore) -> None:
        bob, app = Bob(), await shared.start("app")
        await shared.perform(app, Meet(bob.invitation))
        app.send(Encrypt(1, "one", Point.COMMITTED))
        await shared.stands(app)
        await app.kill()
        steps = [line["step"] for line in self.read(shared, "app")]
        assert steps == ["open", "acquire", "sync", "commit", "load", "commit"]
