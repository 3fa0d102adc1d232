"""A process of a device, to be run as one: ``python -m chaos.worker TRACE LABEL STORE CLOCK USER DEVICE``.

It speaks lines of JSON. For each ``Turn`` that comes in it does what an application does, and meanwhile writes each
request to the homeserver as a line, and reads the answer as one. It can be told to suspend or to kill itself, or to
fork, in the middle of that, after so many calls and returns of functions, whichever thread makes them.
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

from chaos.faults import Fault
from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Json
from checking.machine_replay.remote_homeserver import HttpRequest, RemoteHomeserver, Unreachable
from examples.story.program import MachineClock
from unwedged.machine import MachineError, OlmMachine, Request
from unwedged.machine.errors import RoomKeyNotShared
from unwedged.machine.identifiers import MEGOLM, RoomId
from unwedged.store import ForkedStore, Milliseconds, StoreError, database
from unwedged.trace import NdjsonTracer

ROOM: Final = RoomId("!room:example.org")
KEY: Final = bytes(32)
"""That of a throw-away store."""
TRANSACTION: Final = database.transaction.__code__


class Interruption(msgspec.Struct, frozen=True):
    """What happens to a process in the middle of a turn."""

    fault: Fault
    """One of ``IN_PROCESS``."""
    after: int
    """How many calls and returns of functions come first."""


class Turn(msgspec.Struct, frozen=True):
    """Sync, send what is to be sent, say something, and read some messages."""

    sliding: bool
    text: str | None = None
    read: list[Json] = []
    interruption: Interruption | None = None
    skew_ms: int = 0
    """How far the clock of this process is ahead of the others'."""
    makes_backup: bool = False
    """Whether it turns the backup of room keys on first."""


class Opened(msgspec.Struct, frozen=True, tag=True):
    """The machine is open."""


class Suspends(msgspec.Struct, frozen=True, tag=True):
    """The process suspends itself now."""


class Forked(msgspec.Struct, frozen=True, tag=True):
    """The process has forked."""

    refused: bool
    """Whether the machine refused to be used in the child."""


class Done(msgspec.Struct, frozen=True, tag=True):
    """The turn is over."""

    texts: list[str | None] = []
    """What the messages say, as far as they could be read."""
    problems: list[str] = []
    """The codes of what the sync found wrong."""
    ended_by: str | None = None
    """The name of the exception that has ended the turn early, if one has."""
    backup_key: str = ""
    """What reads the backup, as hexadecimal digits, if it was turned on."""


Line = HttpRequest | Opened | Suspends | Forked | Done


class Interrupter:
    """Counts the calls and returns of all functions, until it is time for what is planned."""

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
            case Fault.SUSPEND if not in_progress(TRANSACTION):
                self._suspend()
            case Fault.SUSPEND_IN_TRANSACTION if in_progress(TRANSACTION):
                self._suspend()
            case Fault.FORK:
                self._fork()
            case Fault.KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            case _:
                pass  # the moment has not come yet

    def _suspend(self) -> None:
        self.planned = None
        self.write(Suspends())
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
        """Write a line, whole."""
        self.writes = True
        left = msgspec.json.encode(line) + b"\n"
        while left:
            left = left[os.write(sys.stdout.fileno(), left) :]
        self.writes = False


def in_progress(code: CodeType) -> bool:
    """Say whether a thread runs a function."""
    for top in sys._current_frames().values():  # noqa: SLF001 (its documented name)
        frame: FrameType | None = top
        while frame is not None:
            if frame.f_code is code:
                return True
            frame = frame.f_back
    return False


class SharedClock:
    """The wall clock, and what is added to it for all processes."""

    def __init__(self, added: MachineClock) -> None:
        self._added = added
        self.skew_ms = 0

    def now(self) -> int:
        return time.monotonic_ns() // 1_000_000 + self._added.now() + self.skew_ms

    async def sleep(self, duration: Milliseconds) -> None:
        await asyncio.sleep(duration / 1000)


class CarefulClient(Client):
    """A client that says which requests have failed."""

    async def send(self, request: Request) -> None:
        try:
            await super().send(request)
        except Unreachable:
            await self.machine.mark_failed(request, status=None)
            raise


class Application:
    """What an application does with the machine."""

    def __init__(self, client: Client, label: str) -> None:
        self._client = client
        self._label = label
        self._transactions = itertools.count()

    async def take(self, turn: Turn) -> Done:
        texts: list[str | None] = []
        problems: list[str] = []
        backup_key = ""
        try:
            if turn.makes_backup:
                backup = await self._client.machine.key_backup.create_version()
                await self._client.send(backup.request)
                backup_key = backup.decryption_key.hex()
            await self._client.send_all()
            # Sliding connections are of one process each. The position of a classic sync is the device's.
            connection = self._label if turn.sliding else "main"
            asked = await self._client.ask_or_forget(connection, sliding=turn.sliding)
            if asked is not None:
                position, response = asked
                outcome = await self._client.machine.receive_sync_changes(response, position)
                problems.extend(problem.code for problem in outcome.problems)
            await self._client.send_all()
            if turn.text is not None:
                await self._say(turn.text)
            if turn.read:
                results = await self._client.machine.decrypt_room_events(ROOM, turn.read)
                texts.extend(None if isinstance(read, MachineError) else str(read.content["body"]) for read in results)
        except (StoreError, Unreachable) as error:
            return Done(texts, problems, type(error).__name__)
        return Done(texts, problems, backup_key=backup_key)

    async def _say(self, text: str) -> None:
        """Send a message, if all members can read it; as a careful application does."""
        members = self._client.call("GET", f"rooms/{ROOM}/joined_members")["joined"]
        assert isinstance(members, dict)
        sharing = await self._client.share(ROOM, members)
        if not sharing.reaches_all:
            return
        try:
            content = {"msgtype": "m.text", "body": text}
            encrypted = await self._client.machine.encrypt_room_event(ROOM, sharing, "m.room.message", content)
        except RoomKeyNotShared:
            return  # The other process has heard of a device meanwhile.
        path = f"rooms/{ROOM}/send/m.room.encrypted/{os.getpid()}-{next(self._transactions)}"
        self._client.call("PUT", path, encrypted)


async def run(trace: str, label: str, path: str, clock: str, user: str, device: str) -> None:
    """Open the machine, and take turns until there are no more."""
    interrupter = Interrupter()
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
        interrupter.use_machine = machine._store.mark  # noqa: SLF001 (the way into the store that awaits nothing)
        application = Application(CarefulClient(RemoteHomeserver(interrupter.write), machine), label)
        await machine.set_room_encryption(ROOM, {"algorithm": MEGOLM, "rotation_period_msgs": 5})
        interrupter.write(Opened())
        while line := await asyncio.to_thread(sys.stdin.readline):
            turn = msgspec.json.decode(line, type=Turn)
            machine_clock.skew_ms = turn.skew_ms
            interrupter.plan(turn.interruption)
            done = await application.take(turn)
            interrupter.plan(None)
            interrupter.write(done)


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
