"""Backups, for tests: room keys to be backed up, and what the homeserver has of them."""

from __future__ import annotations

from typing import Final

import msgspec

from checking.machine_replay.client import Client, Refused
from checking.machine_replay.homeserver import Json
from tests.machine.scene import MEGOLM, ROOM
from unwedged.machine import NewBackupVersion
from unwedged.machine.exports import ExportedSession
from unwedged.machine.identifiers import Curve25519Key, GroupSessionId, GroupSessionName, RoomId
from unwedged.machine.ratchets import BackupDecryption, BackupMessage, InboundGroup, OutboundGroup
from unwedged.machine.records import BACKUP, INBOUND, UNBACKED, Backup
from unwedged.store import View

VERSION: Final = "room_keys/version"


class RoomKey:
    """A room key that somebody has made, from any index on."""

    def __init__(self, room: str = ROOM) -> None:
        made = OutboundGroup()
        self.name = GroupSessionName(RoomId(room), made.session_id)
        self.outbound = made
        self._inbound = InboundGroup.from_session_key(made.session_key)

    def exported(self, index: int = 0) -> ExportedSession:
        key = self._inbound.exported_at(index)
        assert key is not None
        claimed = {"ed25519": "B" * 43}
        names = self.name.room_id, Curve25519Key("A" * 43), self.name.session_id
        return ExportedSession(MEGOLM, *names, key, claimed, (), shared_history=False)


async def create(client: Client, *, sender: Client | None = None, answered: Client | None = None) -> NewBackupVersion:
    """Make a version; another process may send the request, and yet another one get the answer."""
    new = await client.machine.key_backup.create_version()
    answer = (sender or client).call(new.request.method, new.request.path, new.request.body)
    await (answered or sender or client).machine.mark_sent(new.request, answer)
    return new


async def ask_version(client: Client, *, answered: Client | None = None) -> None:
    """Ask the homeserver for the current version, and give the answer to a process."""
    query = await client.machine.key_backup.version_query()
    machine = (answered or client).machine
    try:
        answer = client.call(query.method, query.path, query.body)
    except Refused:
        await machine.mark_failed(query, status=404)
    else:
        await machine.mark_sent(query, answer)


async def is_on(client: Client) -> bool:
    status = await client.machine.key_backup.status()
    return status is not None and status.is_on


async def known(client: Client) -> Backup | None:
    async def read(view: View) -> Backup | None:
        return await view.get(BACKUP, None)

    return await client.machine._store.query(read)


async def marks(client: Client) -> set[GroupSessionName]:
    async def read(view: View) -> set[GroupSessionName]:
        return set(await view.keys(UNBACKED))

    return await client.machine._store.query(read)


async def first_indices(client: Client) -> dict[GroupSessionName, int]:
    """Return from where on a device can read each session."""

    async def read(view: View) -> dict[GroupSessionName, int]:
        found = {}
        for name in await view.keys(INBOUND):
            inbound = await view.get(INBOUND, name)
            assert inbound is not None
            found[name] = inbound.session.first_index
        return found

    return await client.machine._store.query(read)


def backed_up(client: Client, key: bytes, version: str | None = None) -> dict[GroupSessionName, int]:
    """Return from where on each session can be read by what is in a version, or in the current one, and by its key."""
    if version is None:
        version = str(client.call("GET", VERSION)["version"])
    rooms = client.call("GET", f"room_keys/keys?version={version}")["rooms"]
    assert isinstance(rooms, dict)
    return {
        GroupSessionName(RoomId(room), GroupSessionId(session)): _first_index(key, data)
        for room, sessions in rooms.items()
        for session, data in sessions["sessions"].items()
    }


def _first_index(key: bytes, data: Json) -> int:
    message = msgspec.convert(data["session_data"], BackupMessage)
    clear = msgspec.json.decode(BackupDecryption(key).decrypt(message), type=Json)
    session = InboundGroup.from_exported(str(clear["session_key"]))
    assert session.first_index == data["first_message_index"]
    return session.first_index
