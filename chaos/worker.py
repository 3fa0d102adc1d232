"""The program of a device's process: ``python -m chaos.worker TRACE LABEL STORE CLOCK USER DEVICE``.

It reads and writes lines of JSON. First it reads an ``Interruption`` or ``null``, and opens the machine. For each
``Turn`` that it then reads, it acts as an application does. It writes each request to the homeserver as a line, and
reads the response as one. An interruption makes it suspend or kill itself, or fork, after a number of calls and
returns of functions, in any thread.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

import msgspec

from chaos import owner
from chaos.faults import Fault
from chaos.owner import OwnerActs, Shown
from chaos.room import DIRECT, ENCRYPTION, ROOM, encrypted, texts
from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Json
from checking.machine_replay.remote_homeserver import HttpRequest, RemoteHomeserver, Unreachable
from examples.story.program import MachineClock
from unwedged.machine import OlmMachine, Request
from unwedged.store import ForkedStore, Milliseconds, StoreError, database
from unwedged.trace import NdjsonTracer

KEY: Final = bytes(32)
"""The secret of a throw-away store."""
TRANSACTION: Final = database.transaction.__code__
QUERY: Final = database.rows.__code__
"""While this function runs, SQLite may hold a lock that keeps other processes from making the file a store."""


class Interruption(msgspec.Struct, frozen=True):
    """An interruption of a process, while it opens the machine or takes a turn."""

    fault: Fault
    """One of ``IN_PROCESS``."""
    after: int
    """The number of calls and returns of functions after which it happens, or as soon as possible after that."""


class Turn(msgspec.Struct, frozen=True):
    """What the application does: it syncs, sends its requests, sends a message, and reads some messages."""

    sliding: bool
    text: str | None = None
    read: list[Json] = []
    wanted: list[Json] = []
    """Messages whose room keys it requests from the user's other devices, if it lacks them."""
    direct: list[Json] = []
    """The newest events of the room in which two users verify each other."""
    owner: OwnerActs = OwnerActs()
    interruption: Interruption | None = None
    skew_ms: int = 0
    """The time by which this process's clock is ahead of the others'."""
    sets_up: bool = False
    """Whether it first makes the user's cross-signing identity, and turns the backup of room keys on."""


class Opened(msgspec.Struct, frozen=True, tag=True):
    """The machine is open."""

    ed25519: str
    """The identity key of its device."""


class Suspends(msgspec.Struct, frozen=True, tag=True):
    """The process suspends itself now."""


class Forked(msgspec.Struct, frozen=True, tag=True):
    """The process has forked."""

    refused: bool
    """Whether the machine refused to be used in the child."""


class Done(msgspec.Struct, frozen=True, tag=True):
    """The turn is over."""

    texts: list[str | None] = []
    """The texts of the messages; ``None`` for each that could not be decrypted."""
    problems: list[tuple[str | None, str]] = []
    """The problems of the sync: the sender, and the code."""
    shown: list[Shown] | None = None
    """The verifications that the device shows; ``None`` if the turn ended before that."""
    ended_by: str | None = None
    """The name of the exception that ended the turn early, if any."""
    backup_key: str = ""
    """The decryption key of the backup, in hexadecimal, if the backup was turned on."""


Line = HttpRequest | Opened | Suspends | Forked | Done


class Interrupter:
    """Counts the calls and returns of functions, and interrupts the process at the planned moment."""

    def __init__(self) -> None:
        self.planned: Interruption | None = None
        self.writes = False
        self.use_machine: Callable[[], object]
        self._left = 0

    def plan(self, interruption: Interruption | None) -> None:
        self._left = 0 if interruption is None else interruption.after
        self.planned = interruption

    def __call__(self, _frame: FrameType, _event: str, _argument: object) -> None:
        if self.planned is None:
            return
        self._left -= 1
        if self._left > 0 or self.writes:
            return
        match self.planned.fault:
            case Fault.SUSPEND if not may_lock():
                self._suspend(unlocked=True)
            case Fault.SUSPEND_IN_TRANSACTION if in_progress(TRANSACTION):
                self._suspend(unlocked=False)
            case Fault.FORK:
                self._fork()
            case Fault.KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            case _:
                pass  # the moment has not come yet

    def _suspend(self, *, unlocked: bool) -> None:
        self.planned = None
        self.write(Suspends())
        while unlocked and may_lock():  # Another thread has begun to use SQLite while this one wrote.
            time.sleep(0)
        os.kill(os.getpid(), signal.SIGSTOP)

    def _fork(self) -> None:
        self.planned = None
        child = os.fork()
        if child == 0:
            refused = False
            try:
                self.use_machine()
            except ForkedStore:
                refused = True
            finally:
                os._exit(not refused)
        _, status = os.waitpid(child, 0)
        self.write(Forked(refused=os.waitstatus_to_exitcode(status) == 0))

    def write(self, line: Line) -> None:
        """Write one whole line."""
        self.writes = True
        left = msgspec.json.encode(line) + b"\n"
        while left:
            left = left[os.write(sys.stdout.fileno(), left) :]
        self.writes = False


def may_lock() -> bool:
    """Return whether any thread may hold SQLite's locks."""
    return in_progress(TRANSACTION) or in_progress(QUERY)


def in_progress(code: CodeType) -> bool:
    """Return whether any thread is running a function."""
    for top in sys._current_frames().values():  # noqa: SLF001 (its documented name)
        frame: FrameType | None = top
        while frame is not None:
            if frame.f_code is code:
                return True
            frame = frame.f_back
    return False


class SharedClock:
    """The wall clock of all processes, which chaos moves, plus the time by which this process's is ahead."""

    def __init__(self, added: MachineClock) -> None:
        self._added = added
        self.skew_ms = 0

    def now(self) -> int:
        return time.monotonic_ns() // 1_000_000 + self._added.now() + self.skew_ms

    async def sleep(self, duration: Milliseconds) -> None:
        await asyncio.sleep(duration / 1000)


class ReportingClient(Client):
    """A client that reports failed requests to its machine."""

    async def send(self, request: Request) -> None:
        try:
            await super().send(request)
        except Unreachable:
            await self.machine.mark_failed(request, status=None)
            raise


class Application:
    """The application, which uses the machine."""

    def __init__(self, client: Client, label: str) -> None:
        self._client = client
        self._label = label
        self._transactions = itertools.count()

    async def take(self, turn: Turn) -> Done:
        machine = self._client.machine
        read: list[str | None] = []
        problems: list[tuple[str | None, str]] = []
        shown: list[Shown] | None = None
        backup_key = ""
        try:
            if turn.sets_up:
                while not (await machine.cross_signing.bootstrap()).is_complete:
                    await self._client.send_all()
                backup = await machine.key_backup.create_version()
                await self._client.send(backup.request)
                backup_key = backup.decryption_key.hex()
            await self._client.send_all()
            # Each sliding sync connection belongs to one process; the position of the classic sync, to the device.
            connection = self._label if turn.sliding else "main"
            asked = await self._client.ask_or_forget(connection, sliding=turn.sliding)
            if asked is not None:
                position, response = asked
                outcome = await machine.receive_sync_changes(response, position)
                problems.extend((problem.sender, problem.code) for problem in outcome.problems)
            for event in turn.direct:
                await machine.verifications.receive_room_event(DIRECT, event)
            shown = await owner.act(machine, turn.owner)
            if turn.wanted:
                await machine.request_room_keys(ROOM, turn.wanted)
            await self._client.send_all()
            if turn.text is not None:
                await self._say(turn.text)
            if turn.read:
                read.extend(await texts(machine, turn.read))
        except (StoreError, Unreachable) as error:
            return Done(read, problems, shown, type(error).__name__)
        return Done(read, problems, shown, backup_key=backup_key)

    async def _say(self, text: str) -> None:
        """Send a message, if all members can be given its key."""
        members = self._client.call("GET", f"rooms/{ROOM}/joined_members")["joined"]
        assert isinstance(members, dict)
        content = await encrypted(self._client, members, text)
        if content is not None:
            path = f"rooms/{ROOM}/send/m.room.encrypted/{os.getpid()}-{next(self._transactions)}"
            self._client.call("PUT", path, content)


async def run(trace: str, label: str, path: str, clock: str, user: str, device: str) -> None:
    """Open the machine, and take turns until the input ends."""
    interrupter = Interrupter()
    interrupter.plan(msgspec.json.decode(sys.stdin.readline(), type=Interruption | None))
    threading.setprofile(interrupter)
    sys.setprofile(interrupter)
    tracer = NdjsonTracer(trace)
    machine_clock = SharedClock(MachineClock(Path(clock)))
    async with await OlmMachine.open(
        path,
        user_id=user,
        device_id=device,
        key=KEY,
        label=label,
        clock=machine_clock,
        tracer=tracer,
    ) as machine:
        interrupter.use_machine = machine._store.mark  # noqa: SLF001 (the only entry to the store that awaits nothing)
        application = Application(ReportingClient(RemoteHomeserver(interrupter.write), machine), label)
        await machine.set_room_encryption(ROOM, ENCRYPTION)
        interrupter.plan(None)
        interrupter.write(Opened(machine.ed25519))
        while line := await asyncio.to_thread(sys.stdin.readline):
            turn = msgspec.json.decode(line, type=Turn)
            machine_clock.skew_ms = turn.skew_ms
            interrupter.plan(turn.interruption)
            done = await application.take(turn)
            interrupter.plan(None)
            interrupter.write(done)


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
