"""A device with the client of matrix-nio, in memory: ``python driver.py USER DEVICE``.

It runs in the environment that has matrix-nio, and uses the protocol that ``tests/peers/peer.py`` describes. Only the
client's network access is replaced, so the client itself repeats lost requests, as usual. It also shares room keys with
unverified devices.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable
from contextlib import suppress
from datetime import timedelta
from types import SimpleNamespace

from aiohttp import ClientConnectionError
from nio import AsyncClient, AsyncClientConfig, ErrorResponse, MegolmEvent
from nio.exceptions import EncryptionError
from nio.store import SqliteMemoryStore
from vodozemac import SessionCreationException

Json = dict[str, object]

USER, DEVICE = sys.argv[1:]


class Refused(Exception):
    """The homeserver refused a request."""


def write(value: Json) -> None:
    """Write a line."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def read() -> Json:
    """Read a line. The driver exits when its input ends."""
    line = sys.stdin.readline()
    if not line:
        sys.exit()
    value: Json = json.loads(line)
    return value


async def send(method: str, path: str, data: str | None = None, *_: object) -> SimpleNamespace:
    """Replace ``AsyncClient.send``: forward a request, and return the parts of an aiohttp response that nio reads."""
    write({"request": {"method": method, "path": path, "body": json.loads(data) if data else {}}})
    answer = read()
    if answer["status"] is None:
        raise ClientConnectionError("lost")

    async def body(*_: object) -> object:
        return answer["body"]

    return SimpleNamespace(
        status=answer["status"], json=body, content_type="application/json", content_disposition=None
    )


class Driver:
    """The calls of the driver, by name."""

    def __init__(self) -> None:
        config = AsyncClientConfig(store=SqliteMemoryStore, encryption_enabled=True, store_sync_tokens=True)
        self.client = AsyncClient("", USER, DEVICE, config=config)
        self.client.send = send
        self.client.restore_login(USER, DEVICE, "token")

    async def sync(self) -> None:
        """Do what nio's ``sync_forever`` does in each round."""
        client = self.client
        # If a message uses a one-time key that nio no longer has, nio raises this exception. It has advanced its token
        # by then, so it loses the rest of the response.
        with suppress(SessionCreationException):
            await accepted(client.sync())
        for sent in await client.send_to_device_messages():
            accept(sent)
        if client.should_upload_keys:
            await accepted(client.keys_upload())
        await self._query()
        if client.should_claim_keys:
            await accepted(client.keys_claim(client.get_users_for_key_claiming()))

    async def share(self, room: str) -> None:
        """Do what nio's ``room_send`` does before it encrypts."""
        if not self.client.rooms[room].members_synced:
            await accepted(self.client.joined_members(room))
            await self._query()
        if self.client.olm.should_share_group_session(room):
            await accepted(self.client.share_group_session(room, ignore_unverified_devices=True))

    async def encrypt(self, room: str, type: str, content: Json) -> Json:  # noqa: A002
        """Encrypt with the shared room key."""
        _, encrypted = self.client.encrypt(room, type, content)
        return dict(encrypted)

    async def decrypt(self, room: str, event: Json) -> Json:
        """Decrypt with a received room key."""
        encrypted = MegolmEvent.from_dict(event)
        encrypted.room_id = room
        decrypted = self.client.decrypt_event(encrypted).source
        return {"type": decrypted["type"], "content": decrypted["content"]}

    async def wait(self) -> None:
        """Let no session count as new. The library compares only the age of sessions with this interval."""
        self.client.olm._unwedging_interval = timedelta()

    async def _query(self) -> None:
        if self.client.should_query_keys:
            await accepted(self.client.keys_query())


def accept(response: object) -> None:
    """Raise ``Refused`` for nio's error responses."""
    if isinstance(response, ErrorResponse):
        raise Refused(str(response))


async def accepted(call: Awaitable[object]) -> None:
    """Wait for a response, and raise ``Refused`` if it is an error."""
    accept(await call)


async def main() -> None:
    """Carry out the calls that the lines name."""
    driver = Driver()
    while True:
        arguments = read()
        try:
            returned = await getattr(driver, str(arguments.pop("call")))(**arguments)
        except Refused as error:
            write({"raised": {"code": "refused", "message": str(error)}})
        except ClientConnectionError as error:
            write({"raised": {"code": "lost", "message": str(error)}})
        except EncryptionError as error:
            write({"raised": {"code": "unreadable", "message": str(error)}})
        else:
            write({"returned": returned})


asyncio.run(main())
