"""What happens to a trace and to the program that writes it when the file can't accept the lines (``NdjsonTracer``)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final, TypeVarTuple

import pytest

from checking.explain.lines import Commit
from checking.explain.reading import read
from tests.store.stores import COUNTER, KEY, KINDS, Recorder, SeededRandomness, count_up, take_over, workbench
from unwedged.store import CryptoStore, ForkedStore, LeaseLost, View
from unwedged.trace import Line, NdjsonTracer

Arguments = TypeVarTuple("Arguments")
SPAWN: Final = multiprocessing.get_context("spawn")


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


@pytest.fixture
def reader(pipe: Path) -> Iterator[int]:
    """A reader that has not read anything yet."""
    file = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    yield file
    os.close(file)


class TestPipes:
    """T1.11: the writer does not wait for a reader."""

    def test_a_pipe_that_nobody_reads_is_refused_at_once(self, pipe: Path) -> None:
        with pytest.raises(OSError, match="No such device"):
            NdjsonTracer(pipe)

    def test_a_pipe_that_is_full_refuses_lines_and_none_is_cut(self, pipe: Path, reader: int) -> None:
        with NdjsonTracer(pipe) as tracer:
            written = write_until_refused(tracer, 0)
            assert written > 10
            assert numbers(reader) == [*range(written)]
            again = write_until_refused(tracer, written)
            assert numbers(reader) == [*range(written, again)]

    # T1.5
    def test_a_line_that_a_pipe_does_not_take_in_one_piece_is_cut_and_the_next_one_is_whole(
        self, pipe: Path, reader: int
    ) -> None:
        with NdjsonTracer(pipe) as tracer:
            with pytest.raises(OSError, match="only a part of a line"):
                tracer.write({"step": "x" * 2_000_000, "line": 0})
            text = everything_in(reader)
            assert len(text) > 4096
            tracer.write({"step": "whole", "line": 1})
            cut, whole = [row for row in (text + everything_in(reader)).split(b"\n") if row]
        assert cut.endswith(b"x")
        assert json.loads(whole) == {"step": "whole", "line": 1}

    async def test_a_program_goes_on_when_its_reader_reads_no_more(
        self, tmp_path: Path, pipe: Path, reader: int
    ) -> None:
        with NdjsonTracer(pipe) as tracer:
            write_until_refused(tracer, 0)
            async with workbench(tmp_path / "store.db") as bench:
                store = await bench.instance("traced", tracer=tracer)
                await take_over(store)
                assert await store.run(count_up) == 1
                numbers(reader)
                assert await store.run(count_up) == 2
        [commit] = [line for line in lines_in(reader) if line["step"] == "commit"]
        assert commit["version"] == 2

    async def test_a_program_goes_on_when_its_reader_is_gone(self, tmp_path: Path, pipe: Path) -> None:
        file = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        with NdjsonTracer(pipe) as tracer:
            os.close(file)
            async with workbench(tmp_path / "store.db") as bench:
                store = await bench.instance("traced", tracer=tracer)
                await take_over(store)
                assert await store.run(count_up) == 1


def write_until_refused(tracer: NdjsonTracer, first: int) -> int:
    """Write lines almost as long as a pipe accepts at once; return the number of the line that it refuses."""
    number = first
    while True:
        try:
            tracer.write({"step": "x" * 3000, "line": number})
        except BlockingIOError:
            return number
        number += 1


def everything_in(reader: int) -> bytes:
    text = b""
    while True:
        try:
            more = os.read(reader, 1 << 16)
        except BlockingIOError:
            return text
        if not more:
            return text
        text += more


def lines_in(reader: int) -> list[dict[str, object]]:
    return [json.loads(row) for row in everything_in(reader).split(b"\n") if row]


def numbers(reader: int) -> list[object]:
    return [line.get("line") for line in lines_in(reader)]


class TestDisks:
    # T1.7
    async def test_a_program_goes_on_when_the_disk_of_its_trace_is_full(self, tmp_path: Path) -> None:
        with NdjsonTracer("/dev/full") as tracer:
            with pytest.raises(OSError, match="No space"):
                tracer.write({"step": "one"})
            async with workbench(tmp_path / "store.db") as bench:
                store = await bench.instance("traced", tracer=tracer)
                await take_over(store)
                assert await store.run(count_up) == 1


class Hanging(Recorder):
    """A tracer that blocks at one step until another process has finished its work."""

    def __init__(self, step: str, path: Path) -> None:
        super().__init__()
        self._step, self._path = step, path
        self.counted: list[int] = []

    def write(self, line: Line) -> None:
        super().write(line)
        if line["step"] == self._step and not self.counted:
            meanwhile = threading.Thread(target=asyncio.run, args=(self._take_over(),))
            meanwhile.start()
            meanwhile.join()

    async def _take_over(self) -> None:
        async with workbench(self._path) as bench:
            bench._randomness = SeededRandomness(1)
            bench.expire_lease()
            other = await bench.instance("other")
            await take_over(other)
            self.counted.append(await other.run(count_up))
            await other.lock.release_now()


# T1.11
@pytest.mark.parametrize("step", ["acquire", "sync", "load", "commit", "renew", "validate"])
async def test_a_tracer_that_hangs_costs_its_program_the_lease_and_nothing_else(tmp_path: Path, step: str) -> None:
    path = tmp_path / "store.db"
    tracer = Hanging(step, path)
    async with workbench(path) as bench:
        store = await bench.instance("traced", tracer=tracer)
        mine = [await store.run(count_up)]
        with contextlib.suppress(LeaseLost):
            await store.lock.renew_now()
        await store.query(count)
        mine.append(await store.run(count_up))
    assert len(tracer.counted) == 1
    assert sorted(mine + tracer.counted) == [1, 2, 3]


async def count(view: View) -> int:
    counter = await view.get(COUNTER, "n")
    return 0 if counter is None else counter.count


def fork_and_try(path: Path, trace: Path) -> None:
    """Open a store with a trace, fork, and let the child try to use both."""

    async def child(store: CryptoStore) -> None:
        for attempt in (store.run(count_up), store.query(count), store.pause(), store.close()):
            with contextlib.suppress(ForkedStore):
                await attempt
        with contextlib.suppress(ForkedStore):
            store.subscribe(COUNTER)

    async def parent() -> None:
        with NdjsonTracer(trace) as tracer:
            async with CryptoStore.open(path, key=KEY, label="parent", kinds=KINDS, tracer=tracer) as store:
                await store.run(count_up)
                if not (pid := os.fork()):
                    status = 1
                    try:
                        asyncio._set_running_loop(None)  # the copy of the parent's object
                        asyncio.new_event_loop().run_until_complete(child(store))
                        status = 0
                    finally:
                        os._exit(status)
                assert os.waitpid(pid, 0)[1] == 0  # noqa: ASYNC222 (nothing else happens here)
                await store.run(count_up)

    asyncio.run(parent())


def spawned(target: Callable[[*Arguments], None], *arguments: *Arguments) -> BaseProcess:
    process = SPAWN.Process(target=target, args=arguments)
    process.start()
    return process


# P21.1, P21.2
def test_a_child_that_was_forked_writes_no_line_of_its_parent_s_store(tmp_path: Path) -> None:
    process = spawned(fork_and_try, tmp_path / "store.db", tmp_path / "trace.ndjson")
    process.join()
    assert process.exitcode == 0
    logs = read([tmp_path / "trace.ndjson"])
    assert logs.complete
    assert not logs.remarks
    [lines] = logs.instances.values()
    assert [type(found.line).__name__ for found in lines].count("Commit") == 2


def write_without_end(path: Path, ready: Event) -> None:
    """Write lines so long that a kill interrupts the writing of one."""
    with NdjsonTracer(path) as tracer:
        tracer.write({"step": "long", "line": 0})
        ready.set()
        while True:
            tracer.write({"step": "long" * 1_000_000, "line": 1})


# T1.5
def test_a_kill_cuts_one_line_at_most_and_none_of_another_process(tmp_path: Path) -> None:
    path = tmp_path / "trace.ndjson"
    ready = SPAWN.Event()
    process = spawned(write_without_end, path, ready)
    ready.wait()
    with NdjsonTracer(path) as tracer:
        while path.stat().st_size < 30_000_000:
            tracer.write({"step": "short", "line": 1})
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        tracer.write({"step": "last", "line": 2})
    rows = [row for row in path.read_bytes().split(b"\n") if row]
    whole = [row for row in rows if row.endswith(b"}")]
    assert len(rows) - len(whole) <= 1
    steps = [json.loads(row)["step"] for row in whole]
    assert steps[-1] == "last"
    assert {step[:5] for step in steps} == {"long", "longl", "short", "last"}


def count_up_often(path: Path, trace: Path, label: str) -> None:
    async def run() -> None:
        with NdjsonTracer(trace) as tracer:
            async with CryptoStore.open(path, key=KEY, label=label, kinds=KINDS, tracer=tracer) as store:
                for _ in range(20):
                    await store.run(count_up)

    asyncio.run(run())


# T1.5
def test_two_processes_of_a_store_write_one_file(tmp_path: Path) -> None:
    path, trace = tmp_path / "store.db", tmp_path / "trace.ndjson"
    processes = [spawned(count_up_often, path, trace, label) for label in "ab"]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    logs = read([trace])
    assert logs.complete
    assert not logs.remarks
    commits = [
        found.line.version for lines in logs.instances.values() for found in lines if isinstance(found.line, Commit)
    ]
    assert len(logs.instances) == 2
    assert sorted(commits) == [*range(1, 41)]
