"""One process of the bot, with its operator at standard input and output. Any number of them share the bot's device."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

from aiohttp import ClientSession

from examples.encrypted_bot.bot import DEVICE, KEY
from examples.encrypted_bot.client import Client, authorization
from examples.verified_bot.recovery import set_up
from examples.verified_bot.verifying import drawn, emoji, verifications
from unwedged.machine import MachineError, OlmMachine, Phase, UnknownDevice, WrongPhase


async def read_messages(client: Client) -> None:
    """Sync, and show what can be read. Its room keys are in the backup by then."""
    while True:
        synced = await client.sync(timeout_ms=30_000)
        await client.send_all()
        for room, events in ({} if synced is None else synced.rooms).items():
            encrypted = [event for event in events if event["type"] == "m.room.encrypted"]
            for message in await client.machine.decrypt_room_events(room, encrypted):
                if not isinstance(message, MachineError):
                    print("reads:", message.content["body"], flush=True)


async def verify(client: Client) -> None:
    """Show a QR code or emoji, and go on when the operator has compared, in this process or in another one."""
    async for flow in verifications(client):
        if flow.phase is Phase.READY:
            with suppress(UnknownDevice, WrongPhase):  # There is no code yet, or it is too late for one.
                print(drawn(await client.machine.verifications.qr_code(flow.flow_id)), flush=True)
            continue
        if flow.phase not in (Phase.KEYS_EXCHANGED, Phase.SCANNED):
            print("verification:", flow.phase.value, flush=True)
            continue
        print("shows:", emoji(flow) or "a QR code that was scanned", flush=True)
        equal = await asyncio.to_thread(sys.stdin.readline) == "equal\n"
        with suppress(WrongPhase):  # The other device has said so before.
            if equal:
                await client.machine.verifications.confirm(flow.flow_id)
            else:
                await client.machine.verifications.mismatch(flow.flow_id)
            await client.send_all()


async def main(address: str, access_token: str, user_id: str, store: str, label: str) -> None:
    async with (
        ClientSession(address, headers=authorization(access_token)) as http,
        OlmMachine.open(store, user_id=user_id, device_id=DEVICE, key=KEY, label=label) as machine,
    ):
        client = Client(http, machine, label)
        await machine.work_off_backlog()  # what a process before this one has left
        await client.send_all()  # the device's keys
        recovery_key = await set_up(client)
        print("ready" if recovery_key is None else f"recovery key: {recovery_key}", flush=True)
        await asyncio.gather(read_messages(client), verify(client))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
