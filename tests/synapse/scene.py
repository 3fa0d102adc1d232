"""The scene of the tests with Synapse: Alice's device in two real processes, and Bob's in one, behind a proxy.

``app`` uses simplified sliding sync, ``extension`` classic sync, and so does Bob.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import ClientSession

from checking.machine_replay.homeserver import Device, Json
from checking.machine_replay.message_keys import MessageKeys
from examples.encrypted_bot.client import ROOT, authorization
from examples.encrypted_bot.synapse import log_in, register
from tests.synapse.commands import (
    STOPPED,
    Advance,
    Answer,
    Command,
    Interruption,
    Read,
    Say,
    Send,
    Settings,
    Sync,
    Track,
)
from tests.synapse.proxy import NEVER_ARRIVED, Proxy, proxy

PATIENCE_SECONDS: Final = 120
NUMBERS: Final = itertools.count(1)
"""Numbers that give each scene its own users."""


class Process:
    """A process of a device."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.label = settings.label
        self.problems: set[str] = set()
        """The codes of unusable to-device events, without the code for a repeated event: both connections of a device
        receive most events, and either may be first."""
        self._kept: list[bytes] = []

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.synapse.worker", msgspec.json.encode(self.settings)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert await self.answer() == Answer()

    def tell(self, command: Command) -> None:
        """Start a command. ``answer`` returns its result."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")

    async def answer(self) -> Answer | None:
        """Return the result of a command, or ``None`` if the process was killed."""
        line = await self._line()
        if not line:
            return None
        answer = msgspec.json.decode(line, type=Answer)
        if not answer.texts:
            self.problems |= set(answer.problems) - {"repeated"}
        return answer

    async def stopped(self) -> bool:
        """Wait until this process suspends itself. Return ``False`` if it finished or was killed."""
        line = await self._line()
        if line != STOPPED:
            self._kept.append(line)
            return False
        await asyncio.to_thread(os.waitid, os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)
        return True

    async def do(self, command: Command) -> Answer:
        self.tell(command)
        answer = await self.answer()
        assert answer is not None, f"{self.label} has ended"
        return answer

    def resume(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def restart(self) -> None:
        """Restart it after it was killed."""
        await self.kill()
        await self.start()

    async def leave(self) -> None:
        """Have it close its store and exit."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert await self._process.wait() == 0

    async def _line(self) -> bytes:
        if self._kept:
            return self._kept.pop()
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self._process.stdout.readline()


class Scene:
    """Two users in an encrypted room."""

    def __init__(self, folder: Path, http: ClientSession, through: Proxy) -> None:
        self.folder = folder
        self.proxy = through
        self.http = http
        """The client of the test itself, which does not use the proxy."""
        self.processes: dict[str, Process] = {}
        self.said: set[str] = set()
        """Every text that a process was told to send."""
        self.counts: dict[str, int] = {}
        """The number of messages that each process has read at the end."""
        self._tokens: dict[str, str] = {}
        self._number = next(NUMBERS)

    async def begin(self, *, rotation_messages: int = 100) -> None:
        """Sign in, create the room, start all processes, and upload all keys."""
        self.alice = await self.sign_in("alice", "PHONE")
        self.bob = await self.sign_in("bob", "LAPTOP")
        await self.make_room(rotation_messages)
        await asyncio.gather(
            self.start("app", self.alice, "PHONE", sliding=True),
            self.start("extension", self.alice, "PHONE"),
            self.start("bob", self.bob, "LAPTOP"),
        )
        for label in ("app", "bob"):
            await self[label].do(Send())
        await self.settle()

    def __getitem__(self, label: str) -> Process:
        return self.processes[label]

    async def sign_in(self, name: str, device: str) -> str:
        """Create a user with a device, or another device of an existing user; return the user's id."""
        name = f"{name}{self._number}"
        known = any(user == f"@{name}:localhost" for user, _ in self.proxy.devices.values())
        user, token = await (log_in if known else register)(self.http, name, device)
        self.proxy.devices[token] = Device(user, device)
        self._tokens[f"{user} {device}"] = token
        return user

    async def start(self, label: str, user: str, device: str, *, sliding: bool = False) -> None:
        """Start a process of a device."""
        token = self._tokens[f"{user} {device}"]
        store = str(self.folder / f"{device}.db")
        self.processes[label] = Process(Settings(self.proxy.address, token, user, device, label, store, sliding))
        await self.processes[label].start()
        if hasattr(self, "room"):
            await self[label].do(Track(users=[self.alice, self.bob]))

    async def make_room(self, rotation_messages: int) -> None:
        encryption = {"algorithm": "m.megolm.v1.aes-sha2", "rotation_period_msgs": rotation_messages}
        state = [{"type": "m.room.encryption", "state_key": "", "content": encryption}]
        request: Json = {"preset": "trusted_private_chat", "invite": [self.bob], "initial_state": state}
        answer = await self.call(self.alice, "PHONE", "POST", "createRoom", request)
        self.room = str(answer["room_id"])
        await self.call(self.bob, "LAPTOP", "POST", f"rooms/{self.room}/join", {})

    async def call(self, user: str, device: str, method: str, path: str, body: Json | None = None) -> Json:
        """Send a request of a device past the proxy."""
        headers = authorization(self._tokens[f"{user} {device}"])
        async with self.http.request(method, f"{ROOT}/{path}", json=body, headers=headers) as response:
            response.raise_for_status()
            return msgspec.json.decode(await response.read(), type=Json)

    async def claim_keys(self, count: int) -> None:
        """Claim one-time keys of Alice's device, so that it must upload more."""
        wanted: Json = {"one_time_keys": {self.alice: {"PHONE": "signed_curve25519"}}}
        for _ in range(count):
            await self.call(self.bob, "LAPTOP", "POST", "keys/claim", wanted)

    async def events(self) -> list[Json]:
        """Return all encrypted events of the room, oldest first."""
        found: list[Json] = []
        start = ""
        while True:
            path = f"rooms/{self.room}/messages?dir=f&limit=1000{start}"
            answer = await self.call(self.bob, "LAPTOP", "GET", path)
            chunk = answer["chunk"]
            assert isinstance(chunk, list)
            found += [event for event in chunk if event["type"] == "m.room.encrypted"]
            if "end" not in answer:
                return found
            start = f"&from={answer['end']}"

    async def say(self, label: str, text: str, interruption: Interruption | None = None) -> Answer:
        self.said.add(text)
        return await self[label].do(Say(room=self.room, text=text, interruption=interruption))

    async def read(self, label: str, event_id: str | None) -> str:
        """Have a process read one message; return its text."""
        event = await self.call(self.bob, "LAPTOP", "GET", f"rooms/{self.room}/event/{event_id}")
        answer = await self[label].do(Read(room=self.room, events=[event]))
        assert not answer.problems
        return answer.texts[0]

    async def sessions(self) -> list[str]:
        """Return the Megolm session of each message of the room, oldest first."""
        return [
            str(event["content"]["session_id"]) for event in await self.events() if isinstance(event["content"], dict)
        ]

    def uploads(self) -> list[Json]:
        """Return the bodies of all key uploads of Alice's device that have arrived."""
        return [
            msgspec.json.decode(arrival.body)
            for arrival in self.proxy.arrivals
            if arrival.path.endswith("/keys/upload") and arrival.device.user == self.alice and arrival.status == 200
        ]

    async def advance(self, duration_ms: int) -> None:
        """Move the clocks of all processes forward."""
        for process in self.processes.values():
            process.settings = msgspec.structs.replace(
                process.settings, added_ms=process.settings.added_ms + duration_ms
            )
            await process.do(Advance(duration_ms=duration_ms))

    async def settle(self, *labels: str) -> None:
        """Sync and send until nothing is under way."""
        for _ in range(3):
            for label in labels or self.processes:
                answers = [await self[label].do(command) for command in (Send(), Sync(), Send())]
                assert not any(answer.failed for answer in answers)

    async def reads_all(self, label: str, *, since: int = 0) -> None:
        """Let a process read every message, and compare the texts."""
        events = (await self.events())[since:]
        answer = await self[label].do(Read(room=self.room, events=events))
        unread = [text for text in answer.texts if text not in self.said]
        assert not answer.problems, f"{label} can't read {len(unread)} of {len(events)} messages: {answer.problems}"
        assert not unread
        assert len(set(answer.texts)) == len(events), "a message was sent twice"
        self.counts[label] = len(events)

    def check_what_left(self) -> MessageKeys:
        """Check that no message key and no one-time key was used twice, and that Synapse refused no request."""
        keys = MessageKeys()
        keys.add_arrivals(self.proxy.arrivals)
        assert not [each for each in self.proxy.arrivals if each.status not in (200, NEVER_ARRIVED)]
        offered: set[tuple[Device, str]] = set()
        for arrival in self.proxy.arrivals:
            if arrival.path.endswith("/keys/upload"):
                names = {(arrival.device, name) for name in msgspec.json.decode(arrival.body).get("one_time_keys", {})}
                assert not names & offered, "a one-time key was offered twice"
                offered |= names
        return keys

    async def end(self, labels: Iterable[str] = ("app", "extension", "bob")) -> None:
        """Check that all processes read all messages, and close the scene."""
        for label in labels:
            await self.reads_all(label)
        self.check_what_left()
        for process in self.processes.values():
            assert not process.problems
            await process.leave()


@asynccontextmanager
async def scene(folder: Path, synapse: str) -> AsyncIterator[Scene]:
    """Open a scene. At its end, kill all processes that still run."""
    async with ClientSession(synapse) as http, proxy(synapse) as through:
        made = Scene(folder, http, through)
        try:
            yield made
        finally:
            for process in made.processes.values():
                await process.kill()
