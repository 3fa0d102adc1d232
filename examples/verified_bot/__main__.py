"""A person verifies the bot from a terminal. One of its processes is killed meanwhile, and a new device is restored."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import ClientSession

from examples.encrypted_bot.__main__ import make_room
from examples.encrypted_bot.bot import DEVICE, KEY
from examples.encrypted_bot.client import Client, authorization
from examples.encrypted_bot.synapse import log_in, register, synapse
from examples.verified_bot.recovery import restore
from examples.verified_bot.verifying import emoji, verifications
from unwedged.machine import OlmMachine, Phase

PATIENCE_SECONDS = 60


class BotProcess:
    """A process of the bot, as its operator sees it."""

    def __init__(self, process: Process, label: str) -> None:
        self._process = process
        self._label = label

    async def line(self) -> str:
        """Show the next line that the process prints, and return it."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            line = (await self._process.stdout.readline()).decode().rstrip("\n")
        if not line:
            sys.exit(f"The process {self._label} has ended")
        print(f"{self._label:8} {line}", flush=True)
        return line

    def tell(self, answer: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{answer}\n".encode())

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def process_of_bot(bot: tuple[str, ...], label: str) -> AsyncIterator[BotProcess]:
    """Start a process of the bot, and kill it in the end, where that was not done before."""
    command = (sys.executable, "-m", "examples.verified_bot.bot", *bot, label)
    process = BotProcess(await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE), label)
    try:
        yield process
    finally:
        await process.kill()


@asynccontextmanager
async def device(address: str, folder: Path, signed_in: tuple[str, str], device_id: str) -> AsyncIterator[Client]:
    """Open a device in this process, and publish its keys."""
    user_id, access_token = signed_in
    async with (
        ClientSession(address, headers=authorization(access_token)) as http,
        OlmMachine.open(
            folder / f"{device_id}.db", user_id=user_id, device_id=device_id, key=KEY, label=device_id
        ) as machine,
    ):
        client = Client(http, machine, device_id)
        await client.send_all()
        yield client


async def ask(question: str) -> bool:
    """Ask the person at the terminal."""
    print(question, end=" ", flush=True)
    answer: str = (await asyncio.to_thread(sys.stdin.readline)).strip()
    if not sys.stdin.isatty():
        print(answer, flush=True)  # A terminal shows what is typed, a pipe does not.
    return answer == "y"


async def sync(client: Client) -> None:
    while True:
        await client.sync(timeout_ms=30_000)
        await client.send_all()


async def verify(terminal: Client, first: BotProcess, second: BotProcess) -> bool:
    """Verify the bot's device. Both of its processes show the emoji; one is killed, the other goes on."""
    machine = terminal.machine
    user_id = machine.device.user_id
    await machine.track_users([user_id])
    await terminal.send_all()
    flow_id = await machine.verifications.request(user_id, [DEVICE])
    print("terminal asks the bot to verify")
    async for flow in verifications(terminal):
        if flow.phase is not Phase.KEYS_EXCHANGED:
            await second.line()
            break
        print(f"terminal shows: {emoji(flow)}")
        await first.line()
        await second.line()
        await first.kill()
        print("first    is killed")
        if await ask("Are the emoji equal? y or n:"):
            await machine.verifications.confirm(flow_id)
            second.tell("equal")
        else:
            await machine.verifications.mismatch(flow_id)
            second.tell("different")
        await terminal.send_all()
    return (await machine.cross_signing.status()).verified


async def say(alice: Client, room: str, text: str) -> None:
    print(f"Alice    says: {text}")
    while await alice.say(room, text, "1") is None:
        await alice.sync()


async def read(client: Client, room: str) -> str:
    """Return the message in a room."""
    synced = await client.sync()
    assert synced is not None
    (event,) = [event for event in synced.rooms[room] if event["type"] == "m.room.encrypted"]
    return str((await client.machine.decrypt_room_event(room, event)).content["body"])


async def main(folder: Path) -> None:
    async with synapse(folder) as address, ClientSession(address) as nobody:
        print("Synapse runs")
        alice_id = await register(nobody, "alice", "PHONE")
        bot_id, bot_token = await register(nobody, "bot", DEVICE)
        bot = (address, bot_token, bot_id, str(folder / "bot.db"))
        async with (
            process_of_bot(bot, "first") as first,
            device(address, folder, alice_id, "PHONE") as alice,
            ClientSession(address, headers=authorization(bot_token)) as bot_http,
        ):
            recovery_key = (await first.line()).removeprefix("recovery key: ")
            async with process_of_bot(bot, "second") as second:
                await second.line()
                room = await make_room(alice, bot_id, bot_http)
                await say(alice, room, "The key is under the mat")
                await first.line()
                await second.line()
                signed_in = await log_in(nobody, "bot", "TERMINAL")
                async with device(address, folder, signed_in, "TERMINAL") as terminal, asyncio.TaskGroup() as tasks:
                    syncing = tasks.create_task(sync(terminal))
                    verified = await verify(terminal, first, second)
                    syncing.cancel()
        if not verified:
            sys.exit("The bot is not verified")
        print("terminal has verified the bot")
        print("second   is killed")
        async with device(address, folder, await log_in(nobody, "bot", "NEW"), "NEW") as new:
            print(f"new      restores room keys: {await restore(new, recovery_key)}")
            print(f"new      reads: {await read(new, room)}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        asyncio.run(main(Path(temporary)))
