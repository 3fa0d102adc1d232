"""A device that runs another implementation of Matrix's encryption, in a process of its own.

The process is a small program around a library, its driver. They talk in lines of JSON. A line ``{"call": name, ...}``
makes the driver do one of these things:

- ``sync``: ask the homeserver for what is new, process it, and send what the library has to send;
- ``share``: share the key of ``room`` with the devices of its members, as far as the library finds it due;
- ``encrypt``: return the encrypted content of an event with ``type`` and ``content`` for ``room``;
- ``decrypt``: return type and content of the encrypted ``event`` of ``room``;
- ``wait``: find it an hour later from here on, as far as the age of Olm sessions goes.

That of matrix-sdk-crypto does more, for cross-signing:

- ``bootstrap``: make an identity, or make another one, where ``auth`` proves to the homeserver who asks;
- ``verify``: verify the identity of ``user`` as it is;
- ``trust``: return what it thinks of the identity of ``user``, and of a ``device``;
- ``verify_device``: note that another ``device`` of the same user is verified;
- ``secrets``: ask the user's other devices for what is missing, and return of each private key whether it is here;
- ``seeds``: return the private cross-signing keys;
- ``strict``: from here on, share room keys only with devices that their user has signed.
Those of matrix-sdk-crypto and mautrix-go also verify:

- ``request_verification``: ask ``user`` in ``room``, or a ``device`` of ``user``; return the name of the ``flow``;
- ``verification``: return what is known of all verifications, by their names;
- ``accept_verification``, ``start_sas``, ``confirm_sas``, ``cancel_verification``, ``show_qr_code``, ``scan_qr_code``
  and ``confirm_scan``: take a step of a ``flow``.

And for backups:

- ``create_backup``: make a version of the backup, and use it; return its decryption key;
- ``use_backup``: use the current version by its decryption ``key``; return whether it is trusted without that;
- ``back_up``: upload all room keys that the backup lacks;
- ``restore``: fetch all room keys from the backup; return how many there are, and how many were kept.

Meanwhile the driver writes lines ``{"request": {"method": ..., "path": ..., "body": ...}}``, and for each of them reads
a line ``{"status": ..., "body": ...}``, whose status is null where the answer was lost. In the end it writes
``{"returned": value}``, or ``{"raised": {"code": ..., "message": ...}}`` with the code ``lost``, ``refused`` (by the
homeserver), or ``unreadable``. Any other failure ends it, and says why on its standard error.
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
"""Where ``make peers`` puts the libraries."""


class Lost(Exception):
    """The network lost a request of the peer, or the answer."""


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
    """A library, and how its driver is started."""

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
    """An HTTP request that a driver wants made."""

    method: str
    path: str
    body: Json


class Raised(msgspec.Struct):
    """The reason why a call failed."""

    code: str
    message: str


class PeersVerification(msgspec.Struct):
    """What a library has told of a verification."""

    phase: str
    """``requested``, ``ready``, ``comparing``, ``scanned``, ``done``, ``cancelled``, or one of the library's own."""
    code: str = ""
    """Why it was cancelled."""
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
        """Return type and content of an event, or raise ``Unreadable``."""
        return await self._call("decrypt", room=room, event=event)

    async def wait_an_hour(self) -> None:
        """Make its Olm sessions old enough that it replaces those that fail to decrypt."""
        await self._call("wait")

    async def bootstrap(self, auth: Json | None = None) -> None:
        """Make an identity, or make another one in its place."""
        await self._call("bootstrap", auth=auth)

    async def verify(self, user: str) -> None:
        """Verify a user's identity as it is."""
        await self._call("verify", user=user)

    async def trust(self, device: Device) -> Json:
        """Return its trust in a user's identity and in a device."""
        return await self._call("trust", user=device.user, device=device.device)

    async def verify_device(self, device: str) -> None:
        """Note that another device of the same user is verified."""
        await self._call("verify_device", device=device)

    async def ask_for_secrets(self) -> Json:
        """Ask the user's other devices for what is missing; say which private cross-signing keys are here."""
        return await self._call("secrets")

    async def seeds(self) -> Json:
        """Return its private cross-signing keys, in base64."""
        return await self._call("seeds")

    async def create_backup(self) -> bytes:
        """Make a version of the backup, and use it; return its decryption key."""
        return unpadded(str((await self._call("create_backup"))["key"]))

    async def use_backup(self, key: bytes) -> bool:
        """Use the current version of the backup by its decryption key; say whether it is trusted without that."""
        return bool((await self._call("use_backup", key=to_unpadded(key)))["trusted"])

    async def back_up(self) -> None:
        """Upload all room keys that the backup lacks."""
        await self._call("back_up")

    async def restore(self) -> Json:
        """Fetch all room keys from the backup; say how many there are, and how many were kept."""
        return await self._call("restore")

    async def share_with_signed_devices_only(self) -> None:
        """Share room keys from here on only with devices that their user has signed."""
        await self._call("strict")

    async def send(self, room: str, text: str) -> Json:
        """Send a message to a room, and share its key first; return the event as it is in the room."""
        await self.share_room_key(room)
        content = await self.encrypt(room, {"msgtype": "m.text", "body": text})
        path = f"/_matrix/client/v3/rooms/{quote(room)}/send/m.room.encrypted/{next(self._transactions)}"
        answer = self._network.carry(self.device, "PUT", path, content)
        if answer is None:
            raise Lost(path)
        [event] = [each for each in self._network.homeserver.events(room) if each["event_id"] == answer[1]["event_id"]]
        return event

    async def read(self, room: str, event: Json) -> str:
        """Return what a message says, or raise ``Unreadable``."""
        content = (await self.decrypt(room, event))["content"]
        assert isinstance(content, dict)
        return str(content["body"])

    async def request_verification(self, user: str, *, device: str | None = None, room: str | None = None) -> str:
        """Ask a device of a user, or a user in a room, to verify; return how that is called."""
        given = {"user": user, "device": device, "room": room}
        answer = await self._call("request_verification", **{name: value for name, value in given.items() if value})
        return str(answer["flow"])

    async def verifications(self) -> dict[str, PeersVerification]:
        """Return what is known of all verifications."""
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
    """Run a peer; its device is signed in."""
    if not library.command[0].exists():
        raise FileNotFoundError(f"{library.name} is not installed: run make peers")
    network.homeserver.sign_in(device)
    # Where Node looks for packages.
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
