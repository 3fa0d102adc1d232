"""Use the machine as an application does, one step at a time, with any homeserver."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

from checking.errors import CheckError
from checking.machine_replay.homeserver import Device, Homeserver, Json
from unwedged.machine import (
    KeysClaim,
    KeysQuery,
    KeysUpload,
    OlmMachine,
    Request,
    RoomMessage,
    Sharing,
    SyncOutcome,
    SyncPosition,
    ToDevice,
)

MOST_ROUNDS: Final = 200
"""More than any correct machine needs to send what it has to send."""


class Refused(Exception):
    """The homeserver answered with an error."""

    def __init__(self, status: int, code: object) -> None:
        super().__init__(f"{status} {code}")
        self.code = code


def text_message(text: str) -> Json:
    """Return the content of a message in a room."""
    return {"msgtype": "m.text", "body": text}


class Client:
    """One process of a device."""

    def __init__(self, server: Homeserver, machine: OlmMachine) -> None:
        self.server = server
        self.machine = machine
        self.device = Device(*machine.device)

    def call(self, method: str, path: str, body: Json | None = None) -> Json:
        """Send a request, and return the body of the response. Raises ``Refused``."""
        status, answer = self.server.request(self.device, method, path, body)
        if status != 200:
            raise Refused(status, answer.get("errcode"))
        return answer

    async def send(self, request: Request) -> None:
        """Send one request, and give the response to the machine. Encrypt a message for an encrypted room first."""
        sent = request
        if isinstance(request, RoomMessage) and self.server.is_encrypted(request.room_id):
            shared = await self.share(request.room_id, self.server.members(request.room_id))
            names = request.room_id, shared, request.event_type
            sent = request.encrypted(await self.machine.encrypt_room_event(*names, request.content))
        await self.machine.mark_sent(request, self.call(sent.method, sent.path, sent.body))

    async def send_all(self, *kinds: type[Request]) -> list[Request]:
        """Send outgoing requests of some kinds, or of all kinds, until there are none left. Return them.

        Raises ``CheckError`` if there is no end to them, as with a process whose cache never learns of its commits.
        """
        sent: list[Request] = []
        for _ in range(MOST_ROUNDS):
            requests = [
                request for request in await self.machine.outgoing_requests() if not kinds or isinstance(request, kinds)
            ]
            if not requests:
                return sent
            for request in requests:
                await self.send(request)
            sent += requests
        raise CheckError(f"after {MOST_ROUNDS} rounds of sending, the machine has still requests to send")

    def ask(self, position: SyncPosition) -> Json:
        """Make a sync request from a position, and return the response. Raises ``Refused``."""
        if not position.sliding:
            return self.call("GET", "sync" if position.token is None else f"sync?since={position.token}")
        body: Json = {
            "conn_id": position.connection,
            "extensions": {
                "e2ee": {"enabled": True},
                "to_device": {"enabled": True, "since": position.to_device_token},
            },
        }
        if position.to_device_token is None:
            body["extensions"] = {"e2ee": {"enabled": True}, "to_device": {"enabled": True}}
        return self.call("POST", "sync" if position.token is None else f"sync?pos={quote(position.token)}", body)

    async def ask_or_forget(self, connection: str, *, sliding: bool) -> tuple[SyncPosition, Json] | None:
        """Make a sync request. Return ``None``, and forget the position, if the homeserver no longer knows it."""
        position = await self.machine.sync_position(connection, sliding=sliding)
        try:
            return position, self.ask(position)
        except Refused as refused:
            if refused.code != "M_UNKNOWN_POS":
                raise
            await self.machine.forget_sync_position(position)
            return None

    async def sync(self, connection: str = "main", *, sliding: bool = False) -> SyncOutcome:
        """Sync once."""
        position = await self.machine.sync_position(connection, sliding=sliding)
        return await self.machine.receive_sync_changes(self.ask(position), position)

    async def share(self, room: str, members: Iterable[str]) -> Sharing:
        """Share a room key with all members, as far as the homeserver delivers it."""
        members = list(members)
        shared = await self.machine.share_room_key(room, members)
        for _ in range(3):
            await self.send_all(KeysUpload, KeysQuery, KeysClaim, ToDevice)
            if shared.reaches_all:
                break
            shared = await self.machine.share_room_key(room, members)
        return shared

    async def say(self, room: str, text: str) -> Json:
        """Send an encrypted message, and return its event in the room."""
        shared = await self.share(room, self.server.members(room))
        content = await self.machine.encrypt_room_event(room, shared, "m.room.message", text_message(text))
        return self.post(room, content)

    def post(self, room: str, content: Json) -> Json:
        """Send an encrypted event to a room, and return it."""
        path = f"rooms/{room}/send/m.room.encrypted/{secrets.token_hex(8)}"
        event_id = self.call("PUT", path, content)["event_id"]
        return next(event for event in self.server.events(room) if event["event_id"] == event_id)

    async def read(self, room: str, event: Json) -> object:
        """Return the text of a message."""
        return (await self.machine.decrypt_room_event(room, event)).content["body"]
