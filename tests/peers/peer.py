"""A device that runs another implementation of Matrix's encryption, in a separate process.

The process runs a driver, which is a small program around a library. Peer and driver exchange lines of JSON. A line
``{"call": name, ...}`` makes the driver do one of these things:

- ``sync``: sync with the homeserver, process the response, and send the library's requests;
- ``share``: share the key of ``room`` with its members' devices, if the library considers this necessary;
- ``encrypt``: return the encrypted content of an event with ``type`` and ``content`` for ``room``;
- ``decrypt``: return the decrypted type and content of an ``event`` of ``room``;
- ``wait``: from now on, treat all Olm sessions as older by an hour.

The driver of matrix-sdk-crypto also has calls for cross-signing:

- ``bootstrap``: create an identity, or replace it; ``auth`` authenticates the user to the homeserver;
- ``verify``: verify the current identity of ``user``;
- ``trust``: return its trust in the identity of ``user``, and in a ``device``;
- ``verify_device``: note that another ``device`` of the same user is verified;
- ``secrets``: request the missing secrets from the user's other devices, and return which private keys it has;
- ``seeds``: return the private cross-signing keys;
- ``strict``: from now on, share room keys only with devices that their user has signed.

The drivers of matrix-sdk-crypto and mautrix-go also have calls for verification:

- ``request_verification``: ask ``user`` in ``room``, or a ``device`` of ``user``; return the id of the ``flow``;
- ``verification``: return the states of all verifications, by id;
- ``accept_verification``, ``start_sas``, ``confirm_sas``, ``cancel_verification``, ``show_qr_code``, ``scan_qr_code``
  and ``confirm_scan``: take a step of a ``flow``.

The driver of matrix-sdk-crypto also has calls for backups:

- ``create_backup``: create a version of the backup, and use it; return its decryption key;
- ``use_backup``: use the current version with its decryption ``key``; return whether it was trusted before that;
- ``back_up``: upload all room keys that the backup lacks;
- ``restore``: fetch all room keys from the backup; return the number of fetched keys, and the number of stored keys.

During a call, the driver writes lines ``{"request": {"method": ..., "path": ..., "body": ...}}``. For each of them it
reads a line ``{"status": ..., "body": ...}``; a null status means that the response was lost. At the end it writes
``{"returned": value}``, or ``{"raised": {"code": ..., "message": ...}}`` with the code ``lost``, ``refused`` (by the
homeserver), or ``unreadable``. Any other failure ends the driver, which writes the reason to its standard error.
"""

from __future__ import annotations

import asyncio
import os
from asyncio.subprocess import PIPE, Process
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

import msgspec

from checking.machine_replay.homeserver import Device, Json
from tests.peers.network import Network
from unwedged.machine.unpadded_base64 import to_unpadded, unpadded

REPOSITORY: Final = Path(__file__).parents[2]
DRIVERS: Final = Path(__file__).parent
INSTALLED: Final = REPOSITORY / ".venv" / "peers"
"""The folder in which ``make peers`` installs the libraries."""


class Lost(Exception):
    """The network lost a request of the peer, or the response."""


class Refused(Exception):
    """The homeserver refused a request of the peer."""


class Unreadable(Exception):
    """The peer can't decrypt an event."""


VerificationStep = Literal[
    "accept_verification",
    "start_sas",
    "confirm_sas",
    "cancel_verification",
    "show_qr_code",
    "scan_qr_code",
    "confirm_scan",
]

RAISED: Final[dict[str, type[Exception]]] = {"lost": Lost, "refused": Refused, "unreadable": Unreadable}


@dataclass(frozen=True, slots=True)
class Library:
    """A library, and the command that starts its driver."""

    name: str
    command: tuple[Path, ...]


MATRIX_SDK_CRYPTO: Final = Library(
    "matrix-sdk-crypto",
    (INSTALLED / "nodejs" / "bin" / "node", DRIVERS / "matrix_sdk_crypto" / "driver.cjs"),
)
MATRIX_NIO: Final = Library("matrix-nio", (INSTALLED / "bin" / "python", DRIVERS / "matrix_nio" / "driver.py"))
MAUTRIX_GO: Final = Library("mautrix-go", (INSTALLED / "mautrix-go",))
LIBRARIES: Final = (MATRIX_SDK_CRYPTO, MATRIX_NIO, MAUTRIX_GO)


class Request(msgspec.Struct):
    """An HTTP request of a driver."""

    method: str
    path: str
    body: Json


class Raised(msgspec.Struct):
    """The reason why a call failed."""

    code: str
    message: str


class PeersVerification(msgspec.Struct):
    """The state of a verification as a library reports it."""

    phase: str
    """``requested``, ``ready``, ``comparing``, ``scanned``, ``done``, ``cancelled``, or a phase of the library."""
    code: str = ""
    """The cancellation code."""
    decimals: tuple[int, int, int] | None = None
    emoji: list[tuple[str, str]] | None = None
    qr_code: str | None = None


class Line(msgspec.Struct):
    """A line of a driver: a request, or the end of a call."""

    request: Request | None = None
    returned: Json | None = None
    raised: Raised | None = None


class Peer:
    """A device of another implementation. Its methods are called one at a time."""

    def __init__(self, device: Device, network: Network, process: Process) -> None:
        self.device = device
        self._network = network
        self._process = process
        self._transactions = count()

    async def sync(self) -> None:
        """Sync, and send the requests of the library."""
        await self._call("sync")

    async def share_room_key(self, room: str) -> None:
        """Share a new room key, or share the current one with the devices that lack it."""
        await self._call("share", room=room)

    async def encrypt(self, room: str, content: Json) -> Json:
        """Encrypt a message for a room, whose key must have been shared."""
        return await self._call("encrypt", room=room, type="m.room.message", content=content)

    async def decrypt(self, room: str, event: Json) -> Json:
        """Return the decrypted type and content of an event, or raise ``Unreadable``."""
        return await self._call("decrypt", room=room, event=event)

    async def wait_an_hour(self) -> None:
        """Make its Olm sessions old enough that it replaces those that fail to decrypt."""
        await self._call("wait")

    async def bootstrap(self, auth: Json | None = None) -> None:
        """Create an identity, or replace it."""
        await self._call("bootstrap", auth=auth)

    async def verify(self, user: str) -> None:
        """Verify a user's current identity."""
        await self._call("verify", user=user)

    async def trust(self, device: Device) -> Json:
        """Return its trust in a user's identity and in a device."""
        return await self._call("trust", user=device.user, device=device.device)

    async def verify_device(self, device: str) -> None:
        """Note that another device of the same user is verified."""
        await self._call("verify_device", device=device)

    async def ask_for_secrets(self) -> Json:
        """Request the missing secrets from the user's other devices; return which private cross-signing keys it has."""
        return await self._call("secrets")

    async def seeds(self) -> Json:
        """Return its private cross-signing keys, in base64."""
        return await self._call("seeds")

    async def create_backup(self) -> bytes:
        """Create a version of the backup, and use it; return its decryption key."""
        return unpadded(str((await self._call("create_backup"))["key"]))

    async def use_backup(self, key: bytes) -> bool:
        """Use the current version of the backup with its decryption key; return whether it was trusted before that."""
        return bool((await self._call("use_backup", key=to_unpadded(key)))["trusted"])

    async def back_up(self) -> None:
        """Upload all room keys that the backup lacks."""
        await self._call("back_up")

    async def restore(self) -> Json:
        """Fetch all room keys from the backup; return the number of fetched keys, and the number of stored keys."""
        return await self._call("restore")

    async def share_with_signed_devices_only(self) -> None:
        """From now on, share room keys only with devices that their user has signed."""
        await self._call("strict")

    async def send(self, room: str, text: str) -> Json:
        """Share the room's key, and send a message; return the event as the room shows it."""
        await self.share_room_key(room)
        content = await self.encrypt(room, {"msgtype": "m.text", "body": text})
        path = f"/_matrix/client/v3/rooms/{quote(room)}/send/m.room.encrypted/{next(self._transactions)}"
        answer = self._network.carry(self.device, "PUT", path, content)
        if answer is None:
            raise Lost(path)
        [event] = [each for each in self._network.homeserver.events(room) if each["event_id"] == answer[1]["event_id"]]
        return event

    async def read(self, room: str, event: Json) -> str:
        """Return the text of a message, or raise ``Unreadable``."""
        content = (await self.decrypt(room, event))["content"]
        assert isinstance(content, dict)
        return str(content["body"])

    async def request_verification(self, user: str, *, device: str | None = None, room: str | None = None) -> str:
        """Request a verification from a device, or from a user in a room; return its id."""
        given = {"user": user, "device": device, "room": room}
        answer = await self._call("request_verification", **{name: value for name, value in given.items() if value})
        return str(answer["flow"])

    async def verifications(self) -> dict[str, PeersVerification]:
        """Return the states of all verifications, by id."""
        return msgspec.convert(await self._call("verification"), dict[str, PeersVerification])

    async def verify_by(self, step: VerificationStep, flow: str, scanned: bytes = b"") -> Json:
        """Take a step of a verification."""
        return await self._call(step, flow=flow, scanned=b64encode(scanned).decode())

    async def _call(self, name: str, **arguments: object) -> Json:
        await self._write({"call": name, **arguments})
        while True:
            line = await self._read()
            if line.request is not None:
                request = line.request
                answer = self._network.carry(self.device, request.method, request.path, request.body)
                status, body = answer if answer is not None else (None, None)
                await self._write({"status": status, "body": body})
            elif line.raised is not None:
                raise RAISED[line.raised.code](f"{self.device.user}: {line.raised.message}")
            else:
                return line.returned or {}

    async def _write(self, value: Json) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(value) + b"\n")
        await self._process.stdin.drain()

    async def _read(self) -> Line:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the driver of {self.device.user} ended with status {await self._process.wait()}")
        return msgspec.json.decode(line, type=Line)


@asynccontextmanager
async def peer(library: Library, device: Device, network: Network) -> AsyncIterator[Peer]:
    """Sign a device in, and run a peer for it."""
    if not library.command[0].exists():
        raise FileNotFoundError(f"{library.name} is not installed: run make peers")
    network.homeserver.sign_in(device)
    # Node looks for packages here.
    environment = os.environ | {"NODE_PATH": f"{INSTALLED / 'npm' / 'node_modules'}"}
    process = await asyncio.create_subprocess_exec(
        *library.command, *device, stdin=PIPE, stdout=PIPE, env=environment, limit=2**26
    )
    assert process.stdin is not None
    try:
        yield Peer(device, network, process)
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()
