"""Run one process of a device: a real machine, with a fault or without, that carries out commands and writes a trace.

A command is a line of JSON that names one of the functions below. While the process carries the command out, it writes
each request to the homeserver as a line, and reads the homeserver's answer as a line.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from checking.machine_replay.client import Client, text_message
from checking.machine_replay.homeserver import Device, Json
from checking.machine_replay.remote_homeserver import HttpRequest, RemoteHomeserver
from checking.replay.substitutions import substituted
from checking.traced_faults.machine_injections import INJECTIONS
from checking.traced_faults.processes import say
from unwedged.machine import LocalTrust, MachineError, OlmMachine, SyncPosition, olm
from unwedged.machine.exports import ExportedSession
from unwedged.machine.identifiers import MEGOLM, DeviceId, PeerName, RoomId, UserId
from unwedged.machine.records import DEVICES, OUTBOUND, OWN_DEVICE, PEER
from unwedged.machine.requests import Request, decode, encode
from unwedged.store import LeaseTimes, Transaction
from unwedged.trace import NdjsonTracer

KEY: Final = bytes(32)
"""The key of the store, which exists only for one scenario."""

Arguments: TypeAlias = "Sequence[object]"


class Setting(msgspec.Struct, frozen=True):
    """What a process needs to know when it starts."""

    folder: str
    label: str
    device: Device
    fault: str | None


class Command(msgspec.Struct, frozen=True):
    """The name of a function below, and its arguments."""

    name: str
    arguments: list[object]


class Output(msgspec.Struct, frozen=True):
    """What a process writes: a request to the homeserver, or the result of the command."""

    request: HttpRequest | None = None
    result: object = None


def _say_request(request: HttpRequest) -> None:
    say(msgspec.json.encode(Output(request)).decode())


async def encrypt_room(client: Client, room: str, content: Json) -> None:
    """Tell the machine that a room is encrypted."""
    await client.machine.set_room_encryption(room, content)


async def track(client: Client, users: Sequence[str]) -> None:
    """Follow the device lists of some users, and fetch them."""
    await client.machine.track_users(users)
    await client.sync()
    await client.send_all()


async def sync(client: Client, connection: str = "main") -> list[str]:
    """Sync once. Return the codes of the problems."""
    return [problem.code for problem in (await client.sync(connection)).problems]


async def send(client: Client) -> None:
    """Send all outgoing requests."""
    await client.send_all()


async def requests(client: Client) -> list[Json]:
    """Return the outgoing requests without sending them."""
    return [msgspec.json.decode(encode(request), type=Json) for request in await client.machine.outgoing_requests()]


async def answer(client: Client, request: Json) -> None:
    """Send a request that was listed before, and give the response to the machine."""
    await client.send(_request(request))


async def ask(client: Client, connection: str = "main", sliding: bool = False) -> Json:  # noqa: FBT002 (JSON)
    """Make a sync request. Return its position and the response, which the machine has not received yet."""
    position = await client.machine.sync_position(connection, sliding=sliding)
    return {"position": msgspec.to_builtins(position), "response": client.ask(position)}


async def receive(client: Client, asked: Mapping[str, Json]) -> None:
    """Give the machine a sync response that this process or another one has asked for."""
    await client.machine.receive_sync_changes(asked["response"], msgspec.convert(asked["position"], SyncPosition))


async def post(client: Client, request: Json) -> Json:
    """Send a request that was listed before. Return the response, which the machine has not received yet."""
    sent = _request(request)
    return client.call(sent.method, sent.path, sent.body)


async def mark_sent(client: Client, request: Json, response: Json) -> None:
    """Give the machine the response to a request."""
    await client.machine.mark_sent(_request(request), response)


async def mark_failed(client: Client, request: Json) -> None:
    """Tell the machine that a request failed with an unknown outcome."""
    await client.machine.mark_failed(_request(request), status=None)


async def share(client: Client, room: str, members: Sequence[str]) -> None:
    """Share the room key with the members of a room."""
    await client.share(room, members)


async def discard(client: Client, room: str) -> None:
    """Discard the room key, so that the next message uses another one."""
    await client.machine.discard_room_key(room)


async def speak(client: Client, room: str, members: Sequence[str], text: str) -> str:
    """Send a room message, and return its event ID."""
    shared = await client.share(room, members)
    content = await client.machine.encrypt_room_event(room, shared, "m.room.message", text_message(text))
    path = f"rooms/{room}/send/m.room.encrypted/{secrets.token_hex(8)}"
    return str(client.call("PUT", path, content)["event_id"])


async def read(client: Client, room: str, event: Json) -> str:
    """Return the text of a room message, or the code of the error."""
    [result] = await client.machine.decrypt_room_events(room, [event])
    return result.code if isinstance(result, MachineError) else str(result.content["body"])


async def give_again(client: Client, room: str, user: str, device: str) -> None:
    """Send a device the room key from its current index on."""

    async def encrypt(transaction: Transaction) -> Json:
        own, outbound = await transaction.get(OWN_DEVICE, None), await transaction.get(OUTBOUND, RoomId(room))
        known = (await transaction.get(DEVICES, UserId(user)) or {})[DeviceId(device)]
        name = PeerName(UserId(user), known.curve25519)
        peer = await transaction.get(PEER, name)
        assert own is not None
        assert outbound is not None
        assert peer is not None
        session = outbound.session
        key: Json = {
            "algorithm": MEGOLM,
            "room_id": room,
            "session_id": session.session_id,
            "session_key": session.session_key,
        }
        encrypted = olm.encrypt(peer, own, known, "m.room_key", key)
        transaction.put(PEER, name, peer)
        return encrypted

    messages: Json = {"messages": {user: {device: await client.machine._store.run(encrypt)}}}
    client.call("PUT", "sendToDevice/m.room.encrypted/given-again", messages)


async def export_keys(client: Client) -> list[Json]:
    """Return all room keys."""
    return msgspec.convert(msgspec.to_builtins(await client.machine.export_room_keys()), list[Json])


async def import_keys(client: Client, exported: Sequence[Json]) -> None:
    """Import room keys as from a file."""
    await client.machine.import_room_keys(msgspec.convert(exported, list[ExportedSession]))


async def create_backup(client: Client) -> Json:
    """Make a backup key, and return the request that creates the version."""
    new = await client.machine.key_backup.create_version()
    return msgspec.json.decode(encode(new.request), type=Json)


async def turn_backup_off(client: Client) -> None:
    """Turn off the backup."""
    await client.machine.key_backup.turn_off()


async def verify(client: Client, user: str, device: str) -> None:
    """Request a verification with a device."""
    await client.machine.verifications.request(user, [device])


async def trust(client: Client, user: str, device: str) -> None:
    """Mark a device as verified."""
    known = (await client.machine.devices_of(user))[DeviceId(device)]
    await client.machine.set_trust(user, device, known.ed25519, LocalTrust.VERIFIED)


async def bootstrap(client: Client) -> None:
    """Create the user's cross-signing keys."""
    while not (await client.machine.cross_signing.bootstrap()).is_complete:
        await client.send_all()


async def ask_for_secret(client: Client, name: str) -> None:
    """Ask the user's other devices for a secret."""
    await client.machine.secrets.request([name])
    await client.send_all()


_COMMANDS: Final[Mapping[str, Callable[..., Awaitable[object]]]] = {  # type: ignore[explicit-any]  # each has its own
    each.__name__: each
    for each in (
        *(encrypt_room, track, sync, send, requests, answer, share, speak, read, give_again, export_keys, import_keys),
        *(discard, ask, receive, post, mark_sent, mark_failed),
        *(create_backup, turn_backup_off, verify, trust, bootstrap, ask_for_secret),
    )
}


def _request(request: Json) -> Request:
    return decode(msgspec.json.encode(request))


async def serve(setting: Setting) -> None:
    """Carry out commands from standard input until it is closed; then close the machine."""
    folder = Path(setting.folder)
    async with AsyncExitStack() as stack:
        tracer = stack.enter_context(NdjsonTracer(folder / f"{setting.label}.ndjson", msgspec.json.encode))
        if setting.fault is not None:
            stack.enter_context(substituted(INJECTIONS[setting.fault]()))
        user, device = setting.device
        opening = OlmMachine.open(
            folder / f"{device}.db",
            user_id=user,
            device_id=device,
            key=KEY,
            label=setting.label,
            times=LeaseTimes(idle_after_ms=1),  # the processes of a device take turns
            tracer=tracer,
        )
        client = Client(RemoteHomeserver(_say_request), await opening)
        stack.push_async_callback(client.machine.close)
        say("")
        while line := await asyncio.to_thread(sys.stdin.readline):
            command = msgspec.json.decode(line, type=Command)
            result = await _COMMANDS[command.name](client, *command.arguments)
            say(msgspec.json.encode(Output(result=result)).decode())


if __name__ == "__main__":
    asyncio.run(serve(msgspec.json.decode(sys.argv[1], type=Setting)))
