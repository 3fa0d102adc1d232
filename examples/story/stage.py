"""A stage for two processes, the clock of their machine, and Bob at the other end of their Olm session.

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
    MachineClock,
    Opened,
    Operation,
    Outcome,
    Says,
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
"""Told who says what."""


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


class Actor:
    """A process on the stage."""

    def __init__(self, label: str, process: asyncio.subprocess.Process, listener: Listener) -> None:
        self.label = label
        self.suspended = False
        self._process = process
        self._listener = listener

    def __repr__(self) -> str:
        return f"<Actor {self.label!r} suspended={self.suspended} code={self._process.returncode}>"

    def send(self, command: Command) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")

    async def hear(self) -> Event:
        """Wait for the next event, whatever it is."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = await self._process.stdout.readline()
        assert line, f"{self!r} ended, and should not have"
        event: Event = msgspec.json.decode(line, type=Event)
        if isinstance(event, Says):
            self._listener(self.label, event.line.replace(f" label={self.label}", ""))
        return event

    async def next(self) -> Event:
        """Wait for the next event that is more than a line of the log."""
        while isinstance(event := await self.hear(), Says):
            pass
        return event

    async def said(self, line: str) -> None:
        """Wait until it says so, and nothing but lines of the log."""
        while (event := await self.hear()) != Says(line):
            assert isinstance(event, Says), event

    async def said_something_like(self, beginning: str) -> str:
        """Wait until it says a line that begins so, and nothing but lines of the log; return the line."""
        while True:
            event = await self.hear()
            assert isinstance(event, Says), event
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
        """End it without a last word, suspended or not."""
        if self._process.returncode is None:
            self._process.kill()
        await self._gone()

    async def leave(self) -> None:
        """Let it close the store and end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._gone()
        assert self._process.returncode == 0

    async def _gone(self) -> None:
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            await self._process.stdout.read()
            await self._process.wait()


def _silent(_who: str, _what: str) -> None:
    pass


class Wanted(NamedTuple):
    """A lease that somebody waits for: who has it, and its epoch."""

    label: str
    epoch: int


@dataclass(slots=True)
class Stage:
    """Where it happens: a store file, a clock, and the actors."""

    store: Path
    clock: MachineClock
    clock_path: Path
    short_cut: ShortCut
    listener: Listener
    actors: dict[str, Actor]
    """The processes that are there, by their parts."""
    entrances: int = 0

    async def enter(self, part: str) -> Actor:
        """Start a process. One that takes the part of another has a label of its own."""
        self.entrances += 1
        label = f"{part}-{self.entrances}" if part in self.actors else part
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "examples.story.program", self.store, self.clock_path, label, self.short_cut.value),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=REPOSITORY,
        )
        actor = self.actors[part] = Actor(label, process, self.listener)
        assert await actor.next() == Opened()
        return actor

    def lapse(self) -> None:
        """Let more time pass than a lease lasts. A process that is not told so does not renew."""
        self.clock.advance(Milliseconds(TIMES.duration_ms + 1))

    async def perform(self, actor: Actor, operation: Operation) -> Outcome:
        """Have an operation done, by asking whoever has the lease to give way."""
        actor.send(operation)
        return await self.outcome(actor)

    async def outcome(self, actor: Actor) -> Outcome:
        """Wait for the outcome of an operation that waits for nothing but the lease."""
        while isinstance(event := await actor.next(), Waits):
            await self.make_way(actor)
        assert isinstance(event, Outcome), event
        return event

    async def stands(self, actor: Actor) -> Stands:
        """Wait until an operation stands where it was told to, and waits for nothing but the lease."""
        while isinstance(event := await actor.next(), Waits):
            await self.make_way(actor)
        assert isinstance(event, Stands), event
        return event

    async def make_way(self, actor: Actor) -> None:
        """Have whoever holds the lease find out that somebody waits, and let the one that waits ask again."""
        if (lease := self.wanted()) is not None:
            [*holders] = (each for each in self.actors.values() if each.label == lease.label)
            for holder in holders:
                self.clock.advance(TIMES.renew_every_ms)
                holder.send(Tick())
                await holder.said(f"lease released label={holder.label} epoch={lease.epoch}")
            if not holders:
                self.lapse()  # It was killed.
        self.ask_again(actor)

    async def renewed(self, actor: Actor) -> None:
        """Let the holder's time to renew come, and wait until it has renewed."""
        self.clock.advance(TIMES.renew_every_ms)
        actor.send(Tick())
        async with asyncio.timeout(PATIENCE):
            while inspect(self.store, 0).lease.expires != self.clock.now() + TIMES.duration_ms:  # noqa: ASYNC110 (a file)
                await asyncio.sleep(0.01)

    def ask_again(self, actor: Actor) -> None:
        """Let so much time pass as an actor that waits for the lease waits before asking again."""
        self.clock.advance(Milliseconds(100))
        actor.send(Tick())

    def wanted(self) -> Wanted | None:
        """Return the lease if somebody waits for it and it has not lapsed.

        A process that gave way lets a moment pass before it asks again: it waits, but not yet for the lease.
        """
        found = inspect(self.store, 0)
        lease = found.lease
        if not lease.wanted or lease.holder is None or lease.expires <= self.clock.now():
            return None
        return Wanted(found.label, lease.epoch)


@asynccontextmanager
async def stage(folder: Path, short_cut: ShortCut, listener: Listener = _silent) -> AsyncIterator[Stage]:
    """Set up a stage in an empty folder; no process that entered it survives it."""
    clock_path = folder / "clock"
    set_up = Stage(folder / "store.db", MachineClock.create(clock_path), clock_path, short_cut, listener, {})
    try:
        yield set_up
    finally:
        async with AsyncExitStack() as ending:
            for actor in set_up.actors.values():
                ending.push_async_callback(actor.kill)
