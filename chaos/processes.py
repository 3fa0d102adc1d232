"""The processes of a device: starts them, drives them turn by turn, and injects faults."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from chaos.faults import IN_PROCESS, Fault
from chaos.traces import Traces
from chaos.worker import Done, Forked, Interruption, Line, Opened, Suspends, Turn
from checking.machine_replay.remote_homeserver import HttpAnswer, HttpRequest

REPOSITORY: Final = Path(__file__).parents[1]
PROGRAM: Final = ("chaos.worker",)
"""The module that a process runs, and its first arguments."""
ANSWER_TIMEOUT_SECONDS: Final = 60
LONGEST_LINE: Final = 2**26
STOPPED_SECONDS, RUNNING_SECONDS = 0.008, 0.002
"""The time slices of a starved process."""

Expected = TypeVar("Expected", Opened, Done)


class ProcessFailed(Exception):
    """A process ended although it was not killed, or did not answer."""


class Process:
    """A process of a device. It is restarted after it was killed."""

    def __init__(
        self,
        label: str,
        traces: Traces,
        arguments: tuple[str, ...],
        answer: Callable[[HttpRequest], HttpAnswer],
        happened: Callable[[Fault], None],
        while_interrupted: Callable[[Process], Awaitable[None]],
        errors: Path,
    ) -> None:
        self.skew_ms = 0
        self.ed25519 = ""
        """The identity key that its machine has reported."""
        self._arguments = arguments
        self._label = label
        self._traces = traces
        self._answer = answer
        self._happened = happened
        self._while_interrupted = while_interrupted
        self._errors = errors
        self._turns = asyncio.Lock()

    async def start(self, interruption: Interruption | None = None) -> None:
        """Start it, and wait until its machine is open."""
        trace = self._traces.receive(self._label)
        try:
            with self._errors.open("ab") as errors:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", *PROGRAM, f"/dev/fd/{trace}", self._label, *self._arguments),
                    stdin=PIPE,
                    stdout=PIPE,
                    stderr=errors,
                    cwd=REPOSITORY,
                    limit=LONGEST_LINE,
                    pass_fds=(trace,),
                )
        finally:
            os.close(trace)
        self._write(interruption)
        opened = await self._serve(Opened, interruption)
        if opened is not None:
            self.ed25519 = opened.ed25519

    async def take(self, turn: Turn, fault: Fault | None = None) -> Done | None:
        """Have the process take a turn; return the result, or ``None`` if the process was killed."""
        async with self._turns, self._faulty(fault):
            turn = msgspec.structs.replace(turn, skew_ms=self.skew_ms)
            self._write(turn)
            return await self._serve(Done, turn.interruption)

    async def _serve(self, expected: type[Expected], interruption: Interruption | None) -> Expected | None:
        """Answer its requests until the expected line comes; return ``None`` if it was killed and restarted."""
        while not isinstance(line := await self._next(), expected):
            match line:
                case HttpRequest():
                    self._write(self._answer(line))
                case Suspends():
                    assert interruption is not None
                    self._happened(interruption.fault)
                    await asyncio.to_thread(os.waitid, os.P_PID, self._process.pid, os.WSTOPPED)
                    await self._while_interrupted(self)
                    self._process.send_signal(signal.SIGCONT)
                case Forked(refused):
                    self._happened(Fault.FORK)
                    if not refused:
                        raise self._failure("let its machine be used in a child")
                case None:
                    if await self._process.wait() != -signal.SIGKILL:
                        raise self._failure("ended by itself")
                    self._happened(Fault.KILL)
                    await self._while_interrupted(self)
                    await self.start()
                    return None
                case _:
                    raise self._failure(f"said {line}")
        return line

    async def restart(self) -> None:
        """Kill it, and start it again."""
        async with self._turns:
            await self.kill()
            await self.start()

    async def end(self) -> None:
        """Have it close its store and exit."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            if await self._process.wait():
                raise self._failure("did not end well")

    async def kill(self) -> None:
        """Kill it, if it is running."""
        process: asyncio.subprocess.Process | None = getattr(self, "_process", None)
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    @asynccontextmanager
    async def _faulty(self, fault: Fault | None) -> AsyncIterator[None]:
        """Keep a fault in effect for the duration of a turn."""
        async with AsyncExitStack() as stack:
            if fault is Fault.STARVE:
                self._happened(fault)
                starving = asyncio.create_task(self._starve())
                stack.push_async_callback(asyncio.wait, [starving])
                stack.callback(starving.cancel)
            elif fault is Fault.FILL_DISK:
                self._happened(fault)
                unlimited = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)
                # To the process, the limit on file sizes looks like a full disk.
                resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
                stack.callback(resource.prlimit, self._process.pid, resource.RLIMIT_FSIZE, unlimited)
            yield

    async def _starve(self) -> None:
        try:
            while True:
                self._process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(STOPPED_SECONDS)
                self._process.send_signal(signal.SIGCONT)
                await asyncio.sleep(RUNNING_SECONDS)
        finally:
            self._process.send_signal(signal.SIGCONT)

    async def _next(self) -> Line | None:
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise self._failure(f"has said nothing for {ANSWER_TIMEOUT_SECONDS} s") from None
        return msgspec.json.decode(line, type=Line) if line else None

    def _write(self, line: Interruption | Turn | HttpAnswer | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(line) + b"\n")

    def _failure(self, what: str) -> ProcessFailed:
        said = self._errors.read_text(errors="replace")[-2_000:]
        return ProcessFailed(f"the process {self._label!r} {what}; it had said on stderr:\n{said}")


def interruption(fault: Fault | None, after: int) -> Interruption | None:
    """Return the interruption that brings about a fault, if this kind of fault happens inside a process."""
    return Interruption(fault, after) if fault in IN_PROCESS and fault is not None else None


@contextmanager
def replaced(path: Path) -> Iterator[None]:
    """Replace a store by a copy at its path while the context is open."""
    original = path.with_suffix(".original")
    path.rename(original)
    try:
        shutil.copy(original, path)
        yield
    finally:
        original.replace(path)
