"""Alice talks to the bot. One of its processes is suspended at work, and then killed; the other one answers."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import ClientSession

from examples.encrypted_bot.bot import DEVICE
from examples.encrypted_bot.client import ROOT, Client, authorization
from examples.encrypted_bot.synapse import register, synapse
from unwedged.machine import MachineError, OlmMachine

PATIENCE_SECONDS = 60


class Alice:
    """A user who asks, and waits for the answer."""

    def __init__(self, client: Client, room: str) -> None:
        self.client = client
        self.room = room
        self.answers: list[str] = []

    async def ask(self, text: str) -> None:
        print(f"Alice asks: {text}")
        while await self.client.say(self.room, text, text) is None:
            await self.client.sync()

    async def hear(self) -> None:
        """Wait for the next answer."""
        expected = len(self.answers) + 1
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.answers) < expected:
                await self.sync()
        print(f"The bot answers: {self.answers[-1]}", flush=True)

    async def sync(self) -> None:
        synced = await self.client.sync(timeout_ms=1000)
        await self.client.send_all()
        events = [] if synced is None else synced.rooms.get(self.room, [])
        encrypted = [event for event in events if event["type"] == "m.room.encrypted"]
        for message in await self.client.machine.decrypt_room_events(self.room, encrypted):
            if isinstance(message, MachineError):
                raise message
            if message.sender != self.client.machine.device.user_id:
                self.answers.append(str(message.content["body"]))


@asynccontextmanager
async def process_of_bot(*arguments: str) -> AsyncIterator[Process]:
    """Start a process of the bot, and kill it in the end, where that was not done before."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.encrypted_bot.bot", *arguments), stdout=PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def talk(alice: Alice, first: Process) -> None:
    await alice.ask("one")
    await alice.hear()
    await alice.ask("two")
    await asyncio.to_thread(os.waitid, os.P_PID, first.pid, os.WSTOPPED)
    print("The first process has read that, and is suspended")
    await alice.hear()
    await alice.ask("three")
    await alice.hear()
    first.send_signal(signal.SIGCONT)
    print("The first process goes on, with an answer that is no longer needed")
    await alice.ask("four")
    await first.wait()
    print("The first process has read that, and is killed")
    await alice.hear()
    await alice.ask("five")
    await alice.hear()
    await alice.sync()
    if alice.answers != [f"You said: {text}" for text in ("one", "two", "three", "four", "five")]:
        sys.exit(f"The bot has answered otherwise: {alice.answers}")


async def make_room(alice: Client, bot_id: str, bot: ClientSession) -> str:
    """Make an encrypted room that Alice and the bot are in."""
    encryption = {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
    request = {"preset": "trusted_private_chat", "invite": [bot_id], "initial_state": [encryption]}
    room = str((await alice.call("POST", f"{ROOT}/createRoom", request))["room_id"])
    async with bot.post(f"{ROOT}/join/{room}") as joined:
        joined.raise_for_status()
    await alice.send_all()
    await alice.sync()
    return room


async def main(folder: Path) -> None:
    async with synapse(folder) as address, ClientSession(address) as nobody:
        print("Synapse runs")
        alice_id, alice_token = await register(nobody, "alice", "PHONE")
        bot_id, bot_token = await register(nobody, "bot", DEVICE)
        bot = (address, bot_token, bot_id, str(folder / "bot.db"))
        async with (
            ClientSession(address, headers=authorization(alice_token)) as alice_http,
            ClientSession(address, headers=authorization(bot_token)) as bot_http,
            OlmMachine.open(
                folder / "alice.db", user_id=alice_id, device_id="PHONE", key=bytes(32), label="alice"
            ) as machine,
        ):
            client = Client(alice_http, machine, "alice")
            room = await make_room(client, bot_id, bot_http)
            accidents = ("two", "SIGSTOP", "four", "SIGKILL")
            async with process_of_bot(*bot, "first", *accidents) as first, process_of_bot(*bot, "second"):
                await talk(Alice(client, room), first)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        asyncio.run(main(Path(temporary)))
