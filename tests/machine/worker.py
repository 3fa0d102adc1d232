"""A process of a device, to be run as one: ``python -m tests.machine.worker STORE CLOCK LABEL``.

It speaks lines of JSON. For each ``Turn`` that comes in it does what an application does, and meanwhile writes each
request to the homeserver as a line, and reads the answer as one. It can be told to suspend or to kill itself in the
middle of that, after so many calls and returns of functions, whichever thread makes them.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

import msgspec

from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Device, Homeserver, Json
from examples.story.program import MachineClock
from tests.machine.scene import KEY, MEGOLM, ROOM
from unwedged.machine import MachineError, OlmMachine
from unwedged.machine.errors import RoomKeyNotShared
from unwedged.store import Milliseconds, StoreBusy, database
from unwedged.trace import NdjsonTracer

TRANSACTION: Final = database.transaction.__code__


class Interruption(msgspec.Struct, frozen=True):
    """What happens to a process in the middle of a turn."""

    signal: int
    """``SIGSTOP`` or ``SIGKILL``."""
    after: int
    """How many calls and returns of functions come first."""


class Turn(msgspec.Struct, frozen=True):
    """Sync, send what is to be sent, say something, and read some messages."""

    sliding: bool
    text: str | None = None
    read: list[Json] = []
    interruption: Interruption | None = None


class HttpRequest(msgspec.Struct, frozen=True, tag=True):
    """A request to the homeserver."""

    method: str
    path: str
    body: Json


class HttpAnswer(msgspec.Struct, frozen=True):
    """What the homeserver says to it."""

    status: int
    body: Json


class Opened(msgspec.Struct, frozen=True, tag=True):
    """The machine is open."""


class Suspends(msgspec.Struct, frozen=True, tag=True):
    """The process suspends itself now."""


class Done(msgspec.Struct, frozen=True, tag=True):
    """The turn is over."""

    texts: list[str | None] = []
    """What the messages say, as far as they could be read."""
    problems: list[str] = []
    """The codes of what the sync found wrong, and why the turn ended early, if it did."""


Line = HttpRequest | Opened | Suspends | Done


class Interrupter:
    """Counts the calls and returns of all functions, until it is time. Suspends the process in no transaction.

    While a process is suspended in a transaction of SQLite, all others only wait.
    """

    def __init__(self) -> None:
        self.planned: Interruption | None = None
        self.writes = False
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
        if self.planned.signal == signal.SIGSTOP:
            if in_progress(TRANSACTION):
                return
            self.planned = None
            self.write(Suspends())
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    def write(self, line: Line) -> None:
        """Write a line, whole."""
        self.writes = True
        left = msgspec.json.encode(line) + b"\n"
        while left:
            left = left[os.write(sys.stdout.fileno(), left) :]
        self.writes = False


def in_progress(code: CodeType) -> bool:
    """Say whether a thread runs a function."""
    for top in sys._current_frames().values():
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

    def now(self) -> int:
        return time.monotonic_ns() // 1_000_000 + self._added.now()

    async def sleep(self, duration: Milliseconds) -> None:
        await asyncio.sleep(duration / 1000)


class HomeserverElsewhere(Homeserver):
    """The homeserver, which is in the process that started this one."""

    def __init__(self, interrupter: Interrupter) -> None:
        super().__init__()
        self._interrupter = interrupter

    def request(
        self, device: Device, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> tuple[int, Json]:
        del device
        self._interrupter.write(HttpRequest(method, path, dict(body or {})))
        answer = msgspec.json.decode(sys.stdin.readline(), type=HttpAnswer)
        return answer.status, answer.body


class Application:
    """What an application does with the machine."""

    def __init__(self, client: Client, label: str) -> None:
        self._client = client
        self._label = label
        self._transactions = itertools.count()

    async def take(self, turn: Turn) -> Done:
        done = Done()
        try:
            await self._client.send_all()
            asked = await self._client.ask_or_forget(self._label, sliding=turn.sliding)
            if asked is not None:
                position, response = asked
                outcome = await self._client.machine.receive_sync_changes(response, position)
                done.problems.extend(problem.code for problem in outcome.problems)
            await self._client.send_all()
            if turn.text is not None:
                await self._say(turn.text)
            if turn.read:
                for read in await self._client.machine.decrypt_room_events(ROOM, turn.read):
                    done.texts.append(None if isinstance(read, MachineError) else str(read.content["body"]))
        except StoreBusy:
            done.problems.append("busy")
        return done

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


async def run(path: Path, clock: Path, label: str, user: str, device: str) -> None:
    interrupter = Interrupter()
    threading.setprofile(interrupter)
    sys.setprofile(interrupter)
    tracer = NdjsonTracer(path.with_name(f"{label}.ndjson"))
    async with await OlmMachine.open(
        path,
        user_id=user,
        device_id=device,
        key=KEY,
        label=label,
        clock=SharedClock(MachineClock(clock)),
        tracer=tracer,
    ) as machine:
        application = Application(Client(HomeserverElsewhere(interrupter), machine), label)
        await machine.set_room_encryption(ROOM, {"algorithm": MEGOLM, "rotation_period_msgs": 5})
        interrupter.write(Opened())
        while line := await asyncio.to_thread(sys.stdin.readline):
            turn = msgspec.json.decode(line, type=Turn)
            interrupter.plan(turn.interruption)
            done = await application.take(turn)
            interrupter.plan(None)
            interrupter.write(done)


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
