"""The processes of the device: started, driven turn by turn, and made to suffer."""

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
from typing import Final

import msgspec

from chaos.faults import IN_PROCESS, Fault
from chaos.traces import Traces
from chaos.worker import Done, Forked, Interruption, Line, Opened, Suspends, Turn
from checking.machine_replay.remote_homeserver import HttpAnswer, HttpRequest

REPOSITORY: Final = Path(__file__).parents[1]
PROGRAM: Final = ("chaos.worker",)
"""The module that a process runs, and what it is told first."""
PATIENCE_SECONDS: Final = 60
LONGEST_LINE: Final = 2**26
STOPPED_SECONDS, RUNNING_SECONDS = 0.008, 0.002
"""The slices of a process that is starved."""


class ProcessFailed(Exception):
    """A process ended that nobody had killed, or did not answer."""


class Process:
    """A process of the device. One that was killed is started again."""

    def __init__(
        self,
        label: str,
        traces: Traces,
        arguments: tuple[str, ...],
        answer: Callable[[HttpRequest], HttpAnswer],
        happened: Callable[[Fault], None],
        while_suspended: Callable[[Process], Awaitable[None]],
        errors: Path,
    ) -> None:
        self.skew_ms = 0
        self._arguments = arguments
        self._label = label
        self._traces = traces
        self._answer = answer
        self._happened = happened
        self._while_suspended = while_suspended
        self._errors = errors
        self._turns = asyncio.Lock()

    async def start(self) -> None:
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
        if await self._next() != Opened():
            raise self._failure("did not open its machine")

    async def take(self, turn: Turn, fault: Fault | None = None) -> Done | None:
        """Have a turn taken; return what came of it, or nothing if the process was killed."""
        async with self._turns, self._suffering(fault):
            turn = msgspec.structs.replace(turn, skew_ms=self.skew_ms)
            self._write(turn)
            while not isinstance(line := await self._next(), Done):
                match line:
                    case HttpRequest():
                        self._write(self._answer(line))
                    case Suspends():
                        assert turn.interruption is not None
                        self._happened(turn.interruption.fault)
                        await asyncio.to_thread(os.waitid, os.P_PID, self._process.pid, os.WSTOPPED)
                        await self._while_suspended(self)
                        self._process.send_signal(signal.SIGCONT)
                    case Forked(refused):
                        self._happened(Fault.FORK)
                        if not refused:
                            raise self._failure("let its machine be used in a child")
                    case None:
                        if await self._process.wait() != -signal.SIGKILL:
                            raise self._failure("ended by itself")
                        self._happened(Fault.KILL)
                        await self._while_suspended(self)
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
        """Have it close its store, and end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            if await self._process.wait():
                raise self._failure("did not end well")

    async def kill(self) -> None:
        """Kill it, if it was started and runs."""
        process: asyncio.subprocess.Process | None = getattr(self, "_process", None)
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    @asynccontextmanager
    async def _suffering(self, fault: Fault | None) -> AsyncIterator[None]:
        """Let a fault last as long as a turn does."""
        async with AsyncExitStack() as stack:
            if fault is Fault.STARVE:
                self._happened(fault)
                starving = asyncio.create_task(self._starve())
                stack.push_async_callback(asyncio.wait, [starving])
                stack.callback(starving.cancel)
            elif fault is Fault.FILL_DISK:
                self._happened(fault)
                unlimited = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)
                # To the process, a file that may not grow is a disk that is full.
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
            async with asyncio.timeout(PATIENCE_SECONDS):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise self._failure(f"has said nothing for {PATIENCE_SECONDS} s") from None
        return msgspec.json.decode(line, type=Line) if line else None

    def _write(self, line: Turn | HttpAnswer) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(line) + b"\n")

    def _failure(self, what: str) -> ProcessFailed:
        said = self._errors.read_text(errors="replace")[-2_000:]
        return ProcessFailed(f"the process {self._label!r} {what}; it had said on stderr:\n{said}")


def interruption(fault: Fault | None, after: int) -> Interruption | None:
    """Return how a fault gets into the process."""
    return Interruption(fault, after) if fault in IN_PROCESS and fault is not None else None


@contextmanager
def replaced(path: Path) -> Iterator[None]:
    """Let a copy of a store be at its path for as long as this lasts."""
    original = path.with_suffix(".original")
    path.rename(original)
    try:
        shutil.copy(original, path)
        yield
    finally:
        original.replace(path)
