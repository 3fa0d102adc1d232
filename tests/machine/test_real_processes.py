"""Two operating-system processes of one device on one store, and a peer; processes are suspended and killed at random.

Nothing waits for time to pass: leases expire since the clock that the processes share is moved.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import pytest

from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Device, Homeserver, Json
from checking.machine_replay.message_keys import MessageKeys
from examples.story.program import MachineClock
from tests.machine.scene import ALICE, BOB, HOUR_MS, KEY, MEGOLM, ROOM
from tests.machine.worker import (
    Done,
    HttpAnswer,
    HttpRequest,
    Interruption,
    Line,
    Opened,
    SharedClock,
    Suspends,
    Turn,
)
from unwedged.machine import MachineError, OlmMachine
from unwedged.machine.account import OFFER_ABANDONED_AFTER_MS
from unwedged.store import LeaseTimes

REPOSITORY: Final = Path(__file__).parents[2]
LABELS: Final = ("app", "extension")
PHONE: Final = Device(ALICE, "PHONE")
LAPTOP: Final = Device(BOB, "LAPTOP")
ROUNDS: Final = 25
CALLS_IN_A_TURN: Final = 20_000
"""About so many calls and returns of functions a turn takes."""
CLAIMS_IN_A_ROUND: Final = 15
"""So many one-time keys others claim, so that the device has to upload more every other round."""
PATIENCE_SECONDS: Final = 60


class Process:
    """A process of the device. One that was killed is started again."""

    def __init__(self, stage: Stage, label: str) -> None:
        self.label = label
        self._stage = stage
        self._turns = asyncio.Lock()

    async def start(self) -> None:
        command = (
            sys.executable,
            "-m",
            "tests.machine.worker",
            self._stage.folder / "phone.db",
            self._stage.clock_path,
        )
        self._process = await asyncio.create_subprocess_exec(
            *command, self.label, *PHONE, stdin=PIPE, stdout=PIPE, cwd=REPOSITORY, limit=2**24
        )
        assert await self._next() == Opened()

    async def take(self, turn: Turn) -> Done | None:
        """Have a turn taken; return what came of it, or nothing if the process was killed."""
        async with self._turns:
            self._write(turn)
            while not isinstance(line := await self._next(), Done):
                match line:
                    case HttpRequest(method, path, body):
                        self._write(HttpAnswer(*self._stage.homeserver.request(PHONE, method, path, body)))
                    case Suspends():
                        await self._suspended()
                    case None:
                        assert await self._process.wait() == -signal.SIGKILL
                        self._stage.happened["killed"] += 1
                        self._stage.expire_lease()
                        await self.start()
                        return None
                    case _:
                        raise AssertionError(line)
            return line

    async def end(self) -> None:
        """Have it close its store, and end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await self._process.wait() == 0

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _suspended(self) -> None:
        """Let the other process take a turn meanwhile, for which it takes the lease if this one has it."""
        await asyncio.to_thread(os.waitid, os.P_PID, self._process.pid, os.WSTOPPED)
        self._stage.happened["suspended"] += 1
        self._stage.expire_lease()
        [other] = (each for each in self._stage.processes if each is not self)
        await other.take(self._stage.turn(other.label))
        self._process.send_signal(signal.SIGCONT)

    async def _next(self) -> Line | None:
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            line = await self._process.stdout.readline()
        return msgspec.json.decode(line, type=Line) if line else None

    def _write(self, line: Turn | HttpAnswer) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(line) + b"\n")


class Stage:
    """The homeserver, the clock, the processes and the peer, which a seeded random number lets act."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.homeserver = Homeserver()
        self.clock_path = folder / "clock"
        self.clock = MachineClock.create(self.clock_path)
        self.happened: Counter[str] = Counter()
        self.chosen = random.Random(seed)
        self.processes = tuple(Process(self, label) for label in LABELS)
        self.bob: Client
        self.said: set[str] = set()
        self.problems: set[str] = set()

    def expire_lease(self) -> None:
        """Let more time pass than a lease lasts."""
        self.clock.advance(LeaseTimes().duration_ms + 1)

    def new_text(self, author: str) -> str:
        """Return what nobody has said yet."""
        text = f"{len(self.said)}, from {author}"
        self.said.add(text)
        return text

    def turn(self, author: str, interruption: Interruption | None = None) -> Turn:
        """Make a turn up."""
        return Turn(self.chosen.random() < 0.5, self.new_text(author), self.messages()[-3:], interruption)

    def messages(self) -> list[Json]:
        """Return all encrypted messages of the room."""
        return [event for event in self.homeserver.events(ROOM) if event["type"] == "m.room.encrypted"]

    async def round(self) -> None:
        """Let everybody act at once. Maybe one of the two processes is interrupted."""
        [how] = self.chosen.choices([None, signal.SIGSTOP, signal.SIGKILL], [2, 4, 3])
        interruption = None if how is None else Interruption(how, self.chosen.randrange(CALLS_IN_A_TURN))
        for _ in range(CLAIMS_IN_A_ROUND):
            wanted = {"one_time_keys": {PHONE.user: {PHONE.device: "signed_curve25519"}}}
            self.homeserver.request(LAPTOP, "POST", "keys/claim", wanted)
        if self.chosen.random() < 0.3:
            self.clock.advance(OFFER_ABANDONED_AFTER_MS)
        await self.all_act(self.chosen.choice(self.processes), interruption)

    async def all_act(self, victim: Process | None = None, interruption: Interruption | None = None) -> None:
        """Let both processes and the peer act at once."""
        turns = [
            process.take(self.turn(process.label, interruption if process is victim else None))
            for process in self.processes
        ]
        dones = await asyncio.gather(*turns, self.bob_acts())
        self.problems.update(*(done.problems for done in dones if done is not None))

    async def bob_acts(self) -> None:
        """Let the peer do what the processes do."""
        await self.bob.send_all()
        await self.bob.sync()
        sharing = await self.bob.share(ROOM, [ALICE, BOB])
        if not sharing.reaches_all:
            return
        content = {"msgtype": "m.text", "body": self.new_text("Bob")}
        self.bob.post(ROOM, await self.bob.machine.encrypt_room_event(ROOM, sharing, "m.room.message", content))

    async def settle(self) -> None:
        """Let everything arrive. What was not answered is asked again after a while."""
        for _ in range(3):
            self.clock.advance(HOUR_MS)
            await self.all_act()

    async def check(self) -> None:
        """See that everybody reads every message, and that nothing was used twice."""
        messages = self.messages()
        for process in self.processes:
            done = await process.take(Turn(sliding=False, read=messages))
            assert done is not None
            self.check_texts(process.label, done.texts)
        await self.bob.sync()
        read = await self.bob.machine.decrypt_room_events(ROOM, messages)
        self.check_texts(
            "Bob", [None if isinstance(each, MachineError) else str(each.content["body"]) for each in read]
        )
        keys = MessageKeys()
        keys.add_arrivals(self.homeserver.arrivals)
        assert {arrival.status for arrival in self.homeserver.arrivals} == {200}
        offered = Counter[str]()
        for arrival in self.homeserver.arrivals:
            if arrival.device == PHONE and arrival.path.endswith("/keys/upload"):
                for name, key in json.loads(arrival.body).get("one_time_keys", {}).items():
                    offered.update((name, key["key"]))
        assert set(offered.values()) == {1}, "a one-time key was offered twice"
        assert self.problems <= {"repeated", "busy"}

    def check_texts(self, reader: str, texts: list[str | None]) -> None:
        """See that one of them has read every message, each of which somebody wrote."""
        assert None not in texts, f"{reader} can't read everything"
        assert len(set(texts)) == len(texts)
        assert self.said.issuperset(texts)


@asynccontextmanager
async def stage(folder: Path, seed: int) -> AsyncIterator[Stage]:
    """Let everybody know of each other. The two processes begin at once, where there is no store yet."""
    async with AsyncExitStack() as stack:
        made = Stage(folder, seed)
        for device in (PHONE, LAPTOP):
            made.homeserver.sign_in(device)
        made.homeserver.create_room(ROOM, ALICE, BOB)
        machine = await OlmMachine.open(
            folder / "laptop.db",
            user_id=BOB,
            device_id=LAPTOP.device,
            key=KEY,
            label="bob",
            clock=SharedClock(made.clock),
        )
        made.bob = Client(made.homeserver, await stack.enter_async_context(machine))
        await machine.set_room_encryption(ROOM, {"algorithm": MEGOLM, "rotation_period_msgs": 5})
        for process in made.processes:
            stack.push_async_callback(process.kill)
        await made.bob.send_all()
        await asyncio.gather(*(process.start() for process in made.processes))
        await asyncio.gather(*(process.take(made.turn(process.label)) for process in made.processes))
        await made.all_act()
        yield made
        for process in made.processes:
            await process.end()


@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_is_lost_and_nothing_is_used_twice(tmp_path: Path, seed: int) -> None:
    async with stage(tmp_path, seed) as on:
        for _ in range(ROUNDS):
            await on.round()
        await on.settle()
        uploads = sum(arrival.path.endswith("keys/upload") for arrival in on.homeserver.arrivals)
        print(f"seed {seed}: {len(on.messages())} messages, {uploads} uploads, {dict(on.happened)}")  # noqa: T201 (shown where it fails)
        await on.check()
    assert on.happened["suspended"] > ROUNDS // 5
    assert on.happened["killed"]
