"""The program of a device's process: ``python -m tests.synapse.worker SETTINGS``. Each input line is a command."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

import msgspec
from aiohttp import ClientError, ClientSession, TCPConnector

from examples.encrypted_bot.client import Client, authorization
from tests.synapse.commands import (
    STOPPED,
    Advance,
    Answer,
    AnyCommand,
    AskForKeys,
    Command,
    Interruption,
    MakeBackup,
    Place,
    Read,
    Say,
    Send,
    Settings,
    Sync,
    Track,
    UseBackup,
    Verify,
)
from unwedged.machine import LocalTrust, MachineError, OlmMachine, inbox
from unwedged.machine.identifiers import DeviceId
from unwedged.store import CryptoStore, LeaseTimes, Milliseconds, Transaction
from unwedged.store.clock import SystemClock
from unwedged.store.crypto_store import MOST_ATTEMPTS

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")

KEY = bytes(32)
TIMES = LeaseTimes(duration_ms=1000, renew_every_ms=250)
"""Short leases, since tests wait until they expire."""


class AdvancedClock(SystemClock):
    """The system's clock plus the time that a test adds."""

    def __init__(self, added_ms: int) -> None:
        self.added_ms = added_ms

    def now(self) -> Milliseconds:
        return Milliseconds(super().now() + self.added_ms)


class Interruptions:
    """Suspends or kills this process at the commanded place, once."""

    def __init__(self) -> None:
        self.next: Interruption | None = None
        self._reached = 0

    def expect(self, interruption: Interruption | None) -> None:
        self.next, self._reached = interruption, 0

    def reach(self, operation: str, place: Place) -> None:
        expected = self.next
        if expected is None or place is not expected.place or expected.operation not in (None, operation):
            return
        self._reached += 1
        if self._reached < expected.number:
            return
        self.next = None
        if expected.killed:
            os.kill(os.getpid(), signal.SIGKILL)
        write(STOPPED)
        os.kill(os.getpid(), signal.SIGSTOP)


def interrupted(interruptions: Interruptions) -> None:
    """Make the store's operations in this process interruptible."""
    run = CryptoStore.run

    async def run_interrupted(
        self: CryptoStore,
        operation: Callable[[Transaction, *Arguments], Awaitable[Result]],
        *arguments: *Arguments,
        attempts: int = MOST_ATTEMPTS,
    ) -> Result:
        @functools.wraps(operation)
        async def operate(transaction: Transaction, *arguments: *Arguments) -> Result:
            result = await operation(transaction, *arguments)
            interruptions.reach(operation.__name__, Place.BEFORE_COMMIT)
            return result

        result = await run(self, operate, *arguments, attempts=attempts)
        interruptions.reach(operation.__name__, Place.AFTER_COMMIT)
        return result

    CryptoStore.run = run_interrupted  # type: ignore[method-assign]


async def perform(client: Client, clock: AdvancedClock, command: Command) -> Answer:
    match command:
        case Track(users=users):
            await client.machine.track_users(users)
        case Send():
            await client.send_all()
        case Sync():
            synced = await client.sync()
            if synced is not None:
                outcome = synced.outcome
                return Answer(applied=outcome.applied, problems=[problem.code for problem in outcome.problems])
        case Say(room=room, text=text):
            return Answer(event_id=await client.say(room, text, text))
        case Read(room=room, events=events):
            results = await client.machine.decrypt_room_events(room, events)
            return Answer(
                texts=["" if isinstance(each, MachineError) else str(each.content["body"]) for each in results],
                problems=[each.code for each in results if isinstance(each, MachineError)],
            )
        case Verify(device=device):
            user = client.machine.device.user_id
            known = (await client.machine.devices_of(user))[DeviceId(device)]
            await client.machine.set_trust(user, device, known.ed25519, LocalTrust.VERIFIED)
        case AskForKeys(room=room, events=events):
            await client.machine.request_room_keys(room, events)
        case MakeBackup():
            new = await client.machine.key_backup.create_version()
            await client.send(new.request)
            return Answer(decryption_key=new.decryption_key)
        case UseBackup(key=key):
            return await use_backup(client, key)
        case Advance(duration_ms=duration_ms):
            clock.added_ms += duration_ms
        case _:
            raise AssertionError(command)
    return Answer()


async def use_backup(client: Client, key: bytes) -> Answer:
    backup = client.machine.key_backup
    await client.send(await backup.version_query())
    try:
        await backup.import_decryption_key(key)
    except MachineError as error:
        return Answer(problems=[error.code])
    request = await backup.download()
    answer = await client.call(request.method, request.path)
    kept = [progress.kept async for progress in backup.restore(request, answer)]
    return Answer(restored=kept[-1] if kept else 0)


async def serve(settings: Settings) -> None:
    """Answer each line until the input ends."""
    clock, interruptions = AdvancedClock(settings.added_ms), Interruptions()
    interrupted(interruptions)
    inbox.EVENTS_IN_A_COMMIT = 1  # type: ignore[misc]  # Then two events are a large batch.
    headers = authorization(settings.access_token) | {"User-Agent": settings.label}
    # Each request has a new connection: aiohttp would repeat a request whose kept connection breaks, hiding the loss.
    async with (
        ClientSession(settings.address, headers=headers, connector=TCPConnector(force_close=True)) as http,
        OlmMachine.open(
            settings.store,
            user_id=settings.user,
            device_id=settings.device,
            key=KEY,
            label=settings.label,
            times=TIMES,
            clock=clock,
        ) as machine,
    ):
        client = Client(http, machine, settings.label, sliding=settings.sliding)
        write(msgspec.json.encode(Answer()) + b"\n")
        while line := await asyncio.to_thread(sys.stdin.readline):
            command = msgspec.json.decode(line, type=AnyCommand)
            interruptions.expect(command.interruption)
            try:
                answer = await perform(client, clock, command)
            except (ClientError, TimeoutError) as error:
                answer = Answer(failed=type(error).__name__)
            interruptions.expect(None)
            write(msgspec.json.encode(answer) + b"\n")


def write(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(serve(msgspec.json.decode(sys.argv[1], type=Settings)))
