"""A program that shares a store with others, to be run as a process of its own and driven step by step.

It has one Olm session, with Bob, and keeps it in the store. Commands come in as lines of JSON, events go out as such.
Each message that it sends or receives has a number, and is kept in the same commit as the session it took: asked a
second time, as whoever talked to a process that was killed must, it answers what it answered, or would have.

The clock is a file that all processes read. Whoever drives them moves it, and then tells each one to look.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import struct
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from examples.story import short_cuts
from examples.story.olm import (
    MESSAGE_CODEC,
    SESSION_CODEC,
    Invitation,
    OlmMessage,
    OlmSession,
    Undecryptable,
    open_session,
)
from examples.story.short_cuts import ShortCut
from unwedged.protocol.identifiers import Milliseconds
from unwedged.store import TEXT, CryptoStore, LeaseTimes, RecordKind, Transaction, View
from unwedged.trace import NdjsonTracer, Tracer

KEY: Final = bytes(32)
"""That of a throw-away store."""

TIMES: Final = LeaseTimes(Milliseconds(10_000), renew_every_ms=Milliseconds(3_000), idle_after_ms=Milliseconds(5_000))

SESSION: Final = RecordKind("olm_session", TEXT, SESSION_CODEC)
SENT: Final = RecordKind("sent", TEXT, MESSAGE_CODEC)
RECEIVED: Final = RecordKind("received", TEXT, TEXT)
BOB: Final = "bob"


class Point(Enum):
    """Where an operation can be made to wait."""

    READ = "read"
    """It has the session in hand, or knows that there is none."""
    STEPPED = "stepped"
    """The ratchet has moved on, in memory."""
    COMMITTED = "committed"
    """The commit is made, and nobody has been told."""


class Meet(msgspec.Struct, frozen=True, tag=True):
    """Open a session with Bob, and keep it."""

    invitation: Invitation


class Encrypt(msgspec.Struct, frozen=True, tag=True):
    """Encrypt a text for Bob."""

    number: int
    text: str
    wait_at: Point | None = None


class Decrypt(msgspec.Struct, frozen=True, tag=True):
    """Decrypt a message of Bob's."""

    number: int
    message: OlmMessage
    wait_at: Point | None = None


class Recall(msgspec.Struct, frozen=True, tag=True):
    """Say what has been kept."""


class GoOn(msgspec.Struct, frozen=True, tag=True):
    """Wait no longer."""


class Tick(msgspec.Struct, frozen=True, tag=True):
    """Look at the clock: it has moved."""


Operation: TypeAlias = Meet | Encrypt | Decrypt | Recall
Command: TypeAlias = Operation | GoOn | Tick


class Opened(msgspec.Struct, frozen=True, tag=True):
    """The store is open."""


class Waits(msgspec.Struct, frozen=True, tag=True):
    """It can't have the lease just now, and asks again when the clock has moved."""


class Stands(msgspec.Struct, frozen=True, tag=True):
    """The operation waits at the point where it was told to."""

    point: Point


class Done(msgspec.Struct, frozen=True, tag=True):
    """The operation is committed."""

    epochs: tuple[int, ...]
    """Those of all its attempts."""
    message: OlmMessage | None = None
    text: str | None = None


class Kept(msgspec.Struct, frozen=True, tag=True):
    """What is in the store: the numbers of what was sent, and the texts of what was received."""

    sent: tuple[int, ...]
    received: dict[int, str]


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The operation failed by itself: there is no session with Bob, or his message could not be decrypted."""

    reason: str


class LogLine(msgspec.Struct, frozen=True, tag=True):
    """A line of the store's log."""

    line: str


Outcome: TypeAlias = Done | Kept | Failed
Event: TypeAlias = Opened | Waits | Stands | Outcome | LogLine


class NoSession(Exception):
    """There is no session with Bob, as far as the operation knows."""


class MachineClock:
    """The wall clock of a machine, which its processes share: eight bytes in a file."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._time = mmap.mmap(file.fileno(), 8)

    @classmethod
    def create(cls, path: Path) -> MachineClock:
        path.write_bytes(struct.pack("=q", 1_000_000))
        return cls(path)

    def now(self) -> Milliseconds:
        (now,) = struct.unpack("=q", self._time)
        return Milliseconds(now)

    def advance(self, duration: int) -> None:
        self._time[:] = struct.pack("=q", self.now() + duration)


class Sleepers:
    """The store's ``Clock``: a task that sleeps is woken by a tick, if it is time."""

    def __init__(self, machine: MachineClock, waits: Callable[[], None]) -> None:
        self._machine = machine
        self._waits = waits
        self._sleepers: dict[asyncio.Future[None], Milliseconds] = {}

    def now(self) -> Milliseconds:
        return self._machine.now()

    async def sleep(self, duration: Milliseconds) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers[future] = Milliseconds(self.now() + duration)
        if duration < min(TIMES.renew_every_ms, TIMES.idle_after_ms):
            self._waits()  # Nobody else sleeps for so short a time.
        try:
            await future
        finally:
            del self._sleepers[future]

    def tick(self) -> None:
        for future, due in self._sleepers.items():
            if due <= self.now() and not future.done():
                future.set_result(None)


class Operations:
    """What the program can do with its store."""

    def __init__(self, store: CryptoStore) -> None:
        self.go_on = asyncio.Event()
        self._store = store
        self._wait_at: Point | None = None
        self._epochs: list[int] = []

    async def perform(self, operation: Operation) -> Outcome:
        self._epochs.clear()
        try:
            return await self._performed(operation)
        except (NoSession, Undecryptable) as error:
            return Failed(str(error))

    async def _performed(self, operation: Operation) -> Outcome:
        match operation:
            case Meet(invitation):
                await self._store.run(self._meet, invitation)
                return self._done()
            case Encrypt(number, text, wait_at):
                self._wait_at = wait_at
                message = await self._store.run(self._encrypt, str(number), text)
                await self._reach(Point.COMMITTED)
                return self._done(message=message)
            case Decrypt(number, message, wait_at):
                self._wait_at = wait_at
                text = await self._store.run(self._decrypt, str(number), message)
                await self._reach(Point.COMMITTED)
                return self._done(text=text)
            case Recall():
                return await self._store.query(_recall)

    def _done(self, message: OlmMessage | None = None, text: str | None = None) -> Done:
        return Done(tuple(self._epochs), message, text)

    async def _meet(self, transaction: Transaction, invitation: Invitation) -> None:
        self._epochs.append(self._store.statistics().epoch)
        transaction.put(SESSION, BOB, open_session(invitation))

    async def _encrypt(self, transaction: Transaction, number: str, text: str) -> OlmMessage:
        self._epochs.append(self._store.statistics().epoch)
        message = await transaction.get(SENT, number)
        if message is None:
            session = await self._session(transaction)
            message = session.encrypt(text)
            transaction.put(SENT, number, message)
            await self._reach(Point.STEPPED)
        return message

    async def _decrypt(self, transaction: Transaction, number: str, message: OlmMessage) -> str:
        self._epochs.append(self._store.statistics().epoch)
        text = await transaction.get(RECEIVED, number)
        if text is None:
            session = await self._session(transaction)
            text = session.decrypt(message)
            transaction.put(RECEIVED, number, text)
            await self._reach(Point.STEPPED)
        return text

    async def _session(self, transaction: Transaction) -> OlmSession:
        session = await transaction.get(SESSION, BOB)
        if session is None:
            await self._reach(Point.READ)
            raise NoSession("there is no session with Bob")
        transaction.put(SESSION, BOB, session)  # It is going to change, and is written as it is at the commit.
        await self._reach(Point.READ)
        return session

    async def _reach(self, point: Point) -> None:
        if self._wait_at is point:
            self._wait_at = None
            tell(Stands(point))
            await self.go_on.wait()
            self.go_on.clear()


async def _recall(view: View) -> Kept:
    received = {}
    for number in await view.keys(RECEIVED):
        text = await view.get(RECEIVED, number)
        assert text is not None
        received[int(number)] = text
    return Kept(tuple(sorted(map(int, await view.keys(SENT)))), received)


def tell(event: Event) -> None:
    """Send a line to whoever drives this program. A pipe takes so short a one at once and whole."""
    os.write(sys.stdout.fileno(), msgspec.json.encode(event) + b"\n")


class Telling(logging.Handler):
    """Tells what the store logs."""

    def emit(self, record: logging.LogRecord) -> None:
        tell(LogLine(record.getMessage()))


async def run(path: Path, clock_path: Path, label: str, tracer: Tracer) -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    clock = Sleepers(MachineClock(clock_path), lambda: tell(Waits()))
    kinds = (SESSION, SENT, RECEIVED)
    opening = CryptoStore.open(path, key=KEY, label=label, kinds=kinds, times=TIMES, clock=clock, tracer=tracer)
    async with opening as store:
        operations = Operations(store)

        async def perform(operation: Operation) -> None:
            tell(await operations.perform(operation))

        async with asyncio.TaskGroup() as group:  # so that whatever goes wrong ends the program
            tell(Opened())
            tasks = []
            async for line in lines:
                match msgspec.json.decode(line, type=Command):
                    case GoOn():
                        operations.go_on.set()
                    case Tick():
                        clock.tick()
                    case operation:
                        tasks.append(group.create_task(perform(operation)))
            for task in tasks:
                task.cancel()  # Whoever drove this program is gone.


def main() -> None:
    path, clock_path, label, short_cut = sys.argv[1:]
    short_cuts.take(ShortCut(short_cut))
    logger = logging.getLogger("unwedged.store")
    logger.setLevel(logging.INFO)
    logger.addHandler(Telling())
    with NdjsonTracer(Path(path).with_name(f"{label}.ndjson")) as tracer:
        asyncio.run(run(Path(path), Path(clock_path), label, tracer))


if __name__ == "__main__":
    main()
