"""The processes that share a store, the clock of their machine, and Bob at the other end of their Olm session.

Nothing here waits for time to pass: each step waits for the event that says that it was made.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from examples.story.olm import Host, Invitation, OlmMessage, OlmSession, Place, Undecryptable, place_of
from examples.story.program import (
    TIMES,
    Command,
    Event,
    LogLine,
    MachineClock,
    Opened,
    Operation,
    Outcome,
    Stands,
    Tick,
    Waits,
)
from examples.story.short_cuts import ShortCut
from unwedged.protocol.identifiers import Milliseconds
from unwedged.store import inspect

REPOSITORY: Final = Path(__file__).parents[2]
PATIENCE: Final = 30
"""Seconds after which a process that says nothing counts as hanging. How long anything takes is no test's matter."""

Listener = Callable[[str, str], None]
"""Called with the label of a process and each line of its log."""


class Wedged(Exception):
    """A message that was sent can't be read, or could be read by others: its key was used for two."""

    def __init__(self, which: str, reason: str) -> None:
        super().__init__(f"{which}: {reason}")
        self.reason = reason


class Bob:
    """The other end of the session. He reads each message as it comes, and takes none for granted."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self._host = Host()
        self._session: OlmSession | None = None
        self._places: set[Place] = set()
        self._chains: list[bytes] = []

    @property
    def met(self) -> bool:
        return self._session is not None

    @property
    def invitation(self) -> Invitation:
        return self._host.invitation

    def decrypt(self, message: OlmMessage) -> str:
        place = place_of(message)
        try:
            if self._session is None:
                self._session, text = self._host.accept(message)
            else:
                text = self._session.decrypt(message)
        except Undecryptable as error:
            raise Wedged(self.called(place), str(error)) from None
        if place in self._places:
            raise Wedged(self.called(place), "read, but there was one before it in the same place")
        self._places.add(place)
        self.read.append(text)
        return text

    def encrypt(self, text: str) -> OlmMessage:
        assert self._session is not None
        return self._session.encrypt(text)

    def called(self, place: Place) -> str:
        """Name a place for people: chains are counted as they appear."""
        if place.chain not in self._chains:
            self._chains.append(place.chain)
        return f"chain {self._chains.index(place.chain)}, message {place.index}"


class StoryProcess:
    """A process that has the store open, driven step by step."""

    def __init__(self, label: str, process: asyncio.subprocess.Process, listener: Listener) -> None:
        self.label = label
        self.suspended = False
        self._process = process
        self._listener = listener

    def __repr__(self) -> str:
        return f"<StoryProcess {self.label!r} suspended={self.suspended} code={self._process.returncode}>"

    def send(self, command: Command) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")

    async def next_event(self) -> Event:
        """Wait for the next event, whatever it is."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = await self._process.stdout.readline()
        assert line, f"{self!r} ended, and should not have"
        event: Event = msgspec.json.decode(line, type=Event)
        if isinstance(event, LogLine):
            self._listener(self.label, event.line.replace(f" label={self.label}", ""))
        return event

    async def next_answer(self) -> Event:
        """Wait for the next event that is more than a line of the log."""
        while isinstance(event := await self.next_event(), LogLine):
            pass
        return event

    async def log_line(self, line: str) -> None:
        """Wait for this line of the log; no other event may come before it."""
        while (event := await self.next_event()) != LogLine(line):
            assert isinstance(event, LogLine), event

    async def log_line_beginning(self, beginning: str) -> str:
        """Return the first line of the log that begins so; no other event may come before it."""
        while True:
            event = await self.next_event()
            assert isinstance(event, LogLine), event
            if event.line.startswith(beginning):
                return event.line

    async def suspend(self) -> None:
        """Stop it, as a phone stops an app: it does not notice, and goes on in the middle of what it did."""
        self._process.send_signal(signal.SIGSTOP)
        await asyncio.to_thread(os.waitid, os.P_PID, self._process.pid, os.WSTOPPED)
        self.suspended = True

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)
        self.suspended = False

    async def kill(self) -> None:
        """End it at once, suspended or not."""
        if self._process.returncode is None:
            self._process.kill()
        await self._has_ended()

    async def close(self) -> None:
        """Let it close the store and end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._has_ended()
        assert self._process.returncode == 0

    async def _has_ended(self) -> None:
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            await self._process.stdout.read()
            await self._process.wait()


def _ignore(_label: str, _line: str) -> None:
    pass


class Wanted(NamedTuple):
    """A lease that somebody waits for: who has it, and its epoch."""

    label: str
    epoch: int


@dataclass(slots=True)
class SharedStore:
    """A store file, a clock, and the processes that share both."""

    store: Path
    clock: MachineClock
    clock_path: Path
    short_cut: ShortCut
    listener: Listener
    processes: dict[str, StoryProcess]
    """By role."""
    started: int = 0

    async def start(self, role: str) -> StoryProcess:
        """Start a process. One that takes over the role of another has a label of its own."""
        self.started += 1
        label = f"{role}-{self.started}" if role in self.processes else role
        started = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "examples.story.program", self.store, self.clock_path, label, self.short_cut.value),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=REPOSITORY,
        )
        process = self.processes[role] = StoryProcess(label, started, self.listener)
        assert await process.next_answer() == Opened()
        return process

    def expire_lease(self) -> None:
        """Let more time pass than a lease lasts. A process that is not told so does not renew."""
        self.clock.advance(Milliseconds(TIMES.duration_ms + 1))

    async def perform(self, process: StoryProcess, operation: Operation) -> Outcome:
        """Have an operation done; where another process holds the lease, have it hand the lease over."""
        process.send(operation)
        return await self.outcome(process)

    async def outcome(self, process: StoryProcess) -> Outcome:
        """Wait for the outcome of an operation that waits for nothing but the lease."""
        while isinstance(event := await process.next_answer(), Waits):
            await self.make_way(process)
        assert isinstance(event, Outcome), event
        return event

    async def stands(self, process: StoryProcess) -> Stands:
        """Wait until an operation stands where it was told to, and waits for nothing but the lease."""
        while isinstance(event := await process.next_answer(), Waits):
            await self.make_way(process)
        assert isinstance(event, Stands), event
        return event

    async def make_way(self, process: StoryProcess) -> None:
        """Have the holder of the lease find out that somebody waits, and let the process that waits ask again."""
        if (lease := self.wanted()) is not None:
            [*holders] = (each for each in self.processes.values() if each.label == lease.label)
            for holder in holders:
                self.clock.advance(TIMES.renew_every_ms)
                holder.send(Tick())
                await holder.log_line(f"lease released label={holder.label} epoch={lease.epoch}")
            if not holders:
                self.expire_lease()  # It was killed.
        self.ask_again(process)

    async def renewed(self, process: StoryProcess) -> None:
        """Let the holder's time to renew come, and wait until it has renewed."""
        self.clock.advance(TIMES.renew_every_ms)
        process.send(Tick())
        async with asyncio.timeout(PATIENCE):
            while inspect(self.store, 0).lease.expires != self.clock.now() + TIMES.duration_ms:  # noqa: ASYNC110 (a file)
                await asyncio.sleep(0.01)

    def ask_again(self, process: StoryProcess) -> None:
        """Let so much time pass as a process that waits for the lease pauses before it asks again."""
        self.clock.advance(Milliseconds(100))
        process.send(Tick())

    def wanted(self) -> Wanted | None:
        """Return the lease if somebody waits for it and it has not expired.

        A process that handed the lease over lets a moment pass before it asks again: it does not want the lease yet.
        """
        found = inspect(self.store, 0)
        lease = found.lease
        if not lease.wanted or lease.holder is None or lease.expires <= self.clock.now():
            return None
        return Wanted(found.label, lease.epoch)


@asynccontextmanager
async def shared_store(folder: Path, short_cut: ShortCut, listener: Listener = _ignore) -> AsyncIterator[SharedStore]:
    """Prepare a store in an empty folder; every process that was started is ended with the block."""
    clock_path = folder / "clock"
    shared = SharedStore(folder / "store.db", MachineClock.create(clock_path), clock_path, short_cut, listener, {})
    try:
        yield shared
    finally:
        async with AsyncExitStack() as ending:
            for process in shared.processes.values():
                ending.push_async_callback(process.kill)
