"""Create and read backups of room keys, for tests."""

from __future__ import annotations

from typing import Final

from checking.machine_replay.client import Client, Refused
from checking.machine_replay.room_key import first_index
from unwedged.machine import NewBackupVersion
from unwedged.machine.identifiers import GroupSessionId, GroupSessionName, RoomId
from unwedged.machine.ratchets import BackupDecryption
from unwedged.machine.records import BACKUP, INBOUND, UNBACKED, Backup
from unwedged.store import View

VERSION: Final = "room_keys/version"


async def create(client: Client, *, sender: Client | None = None, answered: Client | None = None) -> NewBackupVersion:
    """Create a version. One process may send the request, and another one may receive the response."""
    new = await client.machine.key_backup.create_version()
    answer = (sender or client).call(new.request.method, new.request.path, new.request.body)
    await (answered or sender or client).machine.mark_sent(new.request, answer)
    return new


async def ask_version(client: Client, *, answered: Client | None = None) -> None:
    """Query the homeserver for the current version, and give the response to a process."""
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
    """Return the first message index that a device can read in each session."""

    async def read(view: View) -> dict[GroupSessionName, int]:
        found = {}
        for name in await view.keys(INBOUND):
            inbound = await view.get(INBOUND, name)
            assert inbound is not None
            found[name] = inbound.session.first_index
        return found

    return await client.machine._store.query(read)


def backed_up(client: Client, key: bytes, version: str | None = None) -> dict[GroupSessionName, int]:
    """Return the first index of each session that the key of a backup version, by default the current one, can read."""
    if version is None:
        version = str(client.call("GET", VERSION)["version"])
    rooms = client.call("GET", f"room_keys/keys?version={version}")["rooms"]
    decryption = BackupDecryption(key)
    assert isinstance(rooms, dict)
    return {
        GroupSessionName(RoomId(room), GroupSessionId(session)): first_index(decryption, data)
        for room, sessions in rooms.items()
        for session, data in sessions["sessions"].items()
    }
