"""One process of the bot: it answers each message. Any number of them share the bot's device."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from aiohttp import ClientSession

from examples.encrypted_bot.client import Client, authorization
from unwedged.machine import MachineError, MissingRoomKey, OlmMachine
from unwedged.machine.identifiers import JsonObject

KEY = bytes(32)  # A real bot makes 32 random bytes once, and keeps them where the system keeps secrets.
DEVICE = "BOT"


class Bot:
    """What a process of the bot does."""

    def __init__(self, client: Client, accidents: dict[str, str]) -> None:
        """``accidents``: the signal with which to suspend or kill this process when it has read a certain message."""
        self._client = client
        self._accidents = accidents

    async def work(self) -> None:
        """Sync, and answer what comes, until somebody kills this process."""
        waiting: list[tuple[str, JsonObject]] = []
        while True:
            synced = await self._client.sync(timeout_ms=500 if waiting else 30_000)
            await self._client.send_all()
            for room, events in ({} if synced is None else synced.rooms).items():
                waiting += [(room, event) for event in events if self._is_for_me(event)]
            waiting = [each for each in waiting if not await self._answer(*each)]

    def _is_for_me(self, event: JsonObject) -> bool:
        return event["type"] == "m.room.encrypted" and event["sender"] != self._client.machine.device.user_id

    async def _answer(self, room: str, question: JsonObject) -> bool:
        """Answer a message; say whether that is done. It is not while its key, or a way to a member, is missing."""
        (message,) = await self._client.machine.decrypt_room_events(room, [question])
        if isinstance(message, MachineError):
            return not isinstance(message, MissingRoomKey)
        text = str(message.content["body"])
        if text in self._accidents:
            os.kill(os.getpid(), signal.Signals[self._accidents.pop(text)])
        # All processes answer. For the homeserver that is one message: its transaction id is the same.
        return await self._client.say(room, f"You said: {text}", str(question["event_id"])) is not None


async def main(address: str, access_token: str, user_id: str, store: str, label: str, *accidents: str) -> None:
    async with (
        ClientSession(address, headers=authorization(access_token)) as http,
        OlmMachine.open(store, user_id=user_id, device_id=DEVICE, key=KEY, label=label) as machine,
    ):
        client = Client(http, machine, label)
        await machine.work_off_backlog()  # what a process before this one has left
        await client.send_all()  # the device's keys
        print("ready", flush=True)
        await Bot(client, dict(zip(accidents[::2], accidents[1::2], strict=True))).work()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
