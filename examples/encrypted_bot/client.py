"""One process of a Matrix device: what an application does with the machine, over HTTP."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import quote, urlencode

import msgspec
from aiohttp import ClientError, ClientSession

from unwedged.machine import OlmMachine, Request, RoomKeyNotShared, Sharing, SyncOutcome, SyncPosition
from unwedged.machine.identifiers import JsonObject

ROOT: Final = "/_matrix/client/v3"
SLIDING_SYNC: Final = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
ROUNDS: Final = 3
"""How often a room's key is shared at most before a message waits: for device lists, then for sessions."""


def authorization(access_token: str) -> dict[str, str]:
    """Return the headers that say which device sends a request."""
    return {"Authorization": f"Bearer {access_token}"}


class Refused(Exception):
    """The homeserver answered with an error."""

    def __init__(self, status: int, code: object) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code


class Synced(NamedTuple):
    """What came of a sync."""

    outcome: SyncOutcome
    rooms: dict[str, list[JsonObject]]
    """The new events of each room."""


class _Events(msgspec.Struct):
    events: list[JsonObject] = []


class _ClassicRoom(msgspec.Struct):
    state: _Events = msgspec.field(default_factory=_Events)
    timeline: _Events = msgspec.field(default_factory=_Events)


class _Joined(msgspec.Struct):
    join: dict[str, _ClassicRoom] = {}


class _Classic(msgspec.Struct):
    rooms: _Joined = msgspec.field(default_factory=_Joined)


class _SlidingRoom(msgspec.Struct):
    required_state: list[JsonObject] = []
    timeline: list[JsonObject] = []


class _Sliding(msgspec.Struct):
    rooms: dict[str, _SlidingRoom] = {}


class Client:
    """One process of a device. Each process has a sync connection of its own, so that each sees every event."""

    def __init__(self, http: ClientSession, machine: OlmMachine, connection: str, *, sliding: bool = False) -> None:
        """``http`` knows the homeserver's address and the device's access token."""
        self._http = http
        self.machine = machine
        self._connection = connection
        self._sliding = sliding

    async def call(self, method: str, path: str, body: object = None) -> JsonObject:
        """Send a request and return its answer. Raises ``Refused``, and what aiohttp raises without an answer."""
        async with self._http.request(method, path, json=body) as response:
            status, answer = response.status, await response.read()
        decoded = msgspec.json.decode(answer, type=dict[str, object])
        if status != 200:
            raise Refused(status, decoded.get("errcode"))
        return decoded

    async def send(self, request: Request) -> bool:
        """Send one of the machine's requests, tell the machine what came of it, and say whether it was answered."""
        try:
            answer = await self.call(request.method, request.path, request.body)
        except Refused as refused:
            await self.machine.mark_failed(request, status=refused.status)
        except (ClientError, TimeoutError):
            await self.machine.mark_failed(request, status=None)
        else:
            await self.machine.mark_sent(request, answer)
            return True
        return False

    async def send_all(self) -> None:
        """Send what the machine has to send until nothing is left, or something fails: then it is for the next time."""
        while requests := await self.machine.outgoing_requests():
            if not all([await self.send(request) for request in requests]):
                return

    async def sync(self, *, timeout_ms: int = 0) -> Synced | None:
        """Sync once; ``None`` where the homeserver has forgotten the connection, which then begins anew."""
        position = await self.machine.sync_position(self._connection, sliding=self._sliding)
        try:
            response = await self._ask(position, timeout_ms)
        except Refused as refused:
            if refused.code != "M_UNKNOWN_POS":
                raise
            await self.machine.forget_sync_position(position)
            return None
        states, timelines = _rooms(response, sliding=self._sliding)
        for room, events in states.items():
            for event in events + timelines[room]:
                if event["type"] == "m.room.encryption" and isinstance(event["content"], dict):
                    await self.machine.set_room_encryption(room, event["content"])
        return Synced(await self.machine.receive_sync_changes(response, position), timelines)

    async def share(self, room: str) -> Sharing | None:
        """Give the room's key to its members; return ``None`` where some of their devices can't be reached yet."""
        joined = await self.call("GET", f"{ROOT}/rooms/{quote(room)}/joined_members")
        members = joined["joined"]
        assert isinstance(members, dict)
        for _ in range(ROUNDS):
            shared = await self.machine.share_room_key(room, members)
            await self.send_all()
            if shared.reaches_all:
                return shared
        return None

    async def say(self, room: str, text: str, transaction_id: str) -> str | None:
        """Send an encrypted message; return its id, or ``None`` where a device could not be reached: try again later.

        A homeserver takes the same transaction id of a device for one message, whichever process sends it.
        """
        content = None
        while content is None:
            shared = await self.share(room)
            if shared is None:
                return None
            try:
                message = {"msgtype": "m.text", "body": text}
                content = await self.machine.encrypt_room_event(room, shared, "m.room.message", message)
            except RoomKeyNotShared:
                continue  # Another process heard of a new device meanwhile, or used the key up.
        path = f"{ROOT}/rooms/{quote(room)}/send/m.room.encrypted/{quote(transaction_id, safe='')}"
        return str((await self.call("PUT", path, content))["event_id"])

    async def _ask(self, position: SyncPosition, timeout_ms: int) -> JsonObject:
        query = {"timeout": str(timeout_ms)}
        if not position.sliding:
            query |= {} if position.token is None else {"since": position.token}
            return await self.call("GET", f"{ROOT}/sync?{urlencode(query)}")
        query |= {} if position.token is None else {"pos": position.token}
        since = {} if position.to_device_token is None else {"since": position.to_device_token}
        body = {
            "conn_id": position.connection,
            "lists": {
                "all": {
                    "ranges": [[0, 99]],
                    "timeline_limit": 50,
                    "required_state": [["m.room.encryption", ""]],
                }
            },
            "extensions": {"e2ee": {"enabled": True}, "to_device": {"enabled": True, **since}},
        }
        return await self.call("POST", f"{SLIDING_SYNC}?{urlencode(query)}", body)


def _rooms(response: JsonObject, *, sliding: bool) -> tuple[dict[str, list[JsonObject]], dict[str, list[JsonObject]]]:
    """Return the state and the timeline of each room in a response."""
    if sliding:
        rooms = msgspec.convert(response, _Sliding).rooms
        states = {room: part.required_state for room, part in rooms.items()}
        return states, {room: part.timeline for room, part in rooms.items()}
    joined = msgspec.convert(response, _Classic).rooms.join
    states = {room: part.state.events for room, part in joined.items()}
    return states, {room: part.timeline.events for room, part in joined.items()}
