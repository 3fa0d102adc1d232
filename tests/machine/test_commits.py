"""Each call makes one commit, with no other records than ``spec/machine.md`` names."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar

import pytest

from checking.machine_replay.homeserver import Device
from tests.machine.scene import ALICE, BOB, MEGOLM, ROOM, Scene
from tests.machine.test_inputs import ask_for_keys, changed
from unwedged.machine import KeysClaim, KeysQuery, KeysUpload, LocalTrust, Request, ToDevice
from unwedged.machine.records import KINDS
from unwedged.store.transactions import TransactionOperation

MACHINE = Path(__file__).parents[2] / "spec" / "machine.md"
Result = TypeVar("Result")


def table() -> dict[str, frozenset[str]]:
    """Return the record kinds that each event may write."""
    section = MACHINE.read_text(encoding="utf-8").split("\n## What is written in one commit\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.*`.*) \|$", section, re.MULTILINE)
    return {event: frozenset(re.findall(r"`(\w+)`", records)) for event, records in rows}


class Commits:
    """The commits of all processes, each as the set of written record kinds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._written: list[frozenset[str]] = []
        self._table = table()
        finish = TransactionOperation.finish

        async def noted(operation: TransactionOperation) -> None:
            kinds = frozenset(name.kind for name in operation._writes)
            await finish(operation)
            if kinds:
                self._written.append(kinds)

        monkeypatch.setattr(TransactionOperation, "finish", noted)

    async def are(self, call: Awaitable[Result], *events: str) -> Result:
        """Check that a call makes one commit, which writes only records of these events."""
        self._written.clear()
        result = await call
        (kinds,) = self._written
        assert kinds <= frozenset().union(*(self._table[event] for event in events)), events
        return result

    async def none(self, call: Awaitable[object]) -> None:
        """Check that a call writes nothing."""
        self._written.clear()
        await call
        assert not self._written


def only(listed: list[Request], kind: type[Request]) -> Request:
    """Return the only listed request of a kind."""
    (request,) = [each for each in listed if isinstance(each, kind)]
    return request


# M22.1
def test_each_kind_is_written_by_some_event() -> None:
    assert frozenset().union(*table().values()) == {kind.name for kind in KINDS}


# M22.1, M5.1, M20.1
async def test_messages_and_keys(alice_and_bob: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, commits = alice_and_bob, Commits(monkeypatch)
    app, extension = scene.app, scene.extension
    room = "!another:example.org"
    await commits.are(app.machine.set_room_encryption(room, {"algorithm": MEGOLM}), "the settings of a room are noted")
    await commits.are(app.machine.track_users(["@carol:example.org"]), "users are followed")
    await changed(app, BOB)
    query = only(await app.machine.outgoing_requests(), KeysQuery)
    await commits.are(extension.send(query), "a query is answered")
    await ask_for_keys(app)
    upload = only(await commits.are(app.machine.outgoing_requests(), "keys are offered"), KeysUpload)
    await commits.are(extension.send(upload), "an upload is answered")
    await commits.are(app.machine.share_room_key(ROOM, [ALICE, BOB]), "a room key is shared")
    claim = only(await commits.are(extension.machine.outgoing_requests(), "a claim is handed out"), KeysClaim)
    await commits.are(app.send(claim), "a claim is answered")
    shared = await commits.are(app.machine.share_room_key(ROOM, [ALICE, BOB]), "a room key is shared")
    await commits.are(
        extension.send(only(await app.machine.outgoing_requests(), ToDevice)), "messages to devices are answered"
    )
    content = await commits.are(
        app.machine.encrypt_room_event(ROOM, shared, "m.room.message", {"body": "hello"}), "a message is encrypted"
    )
    event = app.post(ROOM, content)
    await commits.are(scene.bob.sync(), "a sync response", "an Olm message", "a room key")
    await commits.are(scene.bob.read(ROOM, event), "a message is read for the first time")
    await commits.none(scene.bob.read(ROOM, event))
    exported = await scene.bob.machine.export_room_keys()
    await app.machine.discard_room_key(ROOM)
    await commits.none(app.machine.import_room_keys(exported))  # the machine has a better key
    await scene.bob.say(ROOM, "mine")
    await commits.are(
        extension.machine.import_room_keys(await scene.bob.machine.export_room_keys()),
        "room keys are read from a file",
    )


# M22.1, M20.1
async def test_trust_secrets_and_the_backup(alice_and_bob: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, commits = alice_and_bob, Commits(monkeypatch)
    app, extension = scene.app, scene.extension
    await scene.greet()
    await commits.are(
        app.machine.set_trust(BOB, "LAPTOP", scene.bob.machine.ed25519, LocalTrust.BLOCKED),
        "a device is verified or blocked",
    )
    await commits.are(app.machine.secrets.request(["m.other"]), "a secret or a room key is asked for")
    await commits.are(app.machine.cross_signing.bootstrap(), "cross-signing keys are made")
    (keys,) = await app.machine.outgoing_requests()
    await commits.are(extension.send(keys), "their upload is answered")
    for request in await app.machine.outgoing_requests():
        event = "an upload of signatures is answered" if "signatures" in request.path else "a query is answered"
        await commits.are(extension.send(request), event)
    backup_event = "a backup version is made, learned, refused or turned off"
    new = await commits.are(app.machine.key_backup.create_version(), backup_event)
    await commits.are(extension.send(new.request), backup_event)
    (upload,) = await app.machine.outgoing_requests()
    await commits.are(extension.send(upload), "a backup upload is answered")
    await commits.are(app.machine.key_backup.turn_off(), backup_event)


# M22.1
async def test_a_device_that_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = Commits(monkeypatch)
    async with AsyncExitStack() as stack:
        scene = Scene(tmp_path, stack)
        scene.server.sign_in(Device(ALICE, "PHONE"))
        app = await commits.are(scene.open(ALICE, "PHONE", "app"), "the device is opened first")
        await commits.none(scene.open(ALICE, "PHONE", "extension"))
        await commits.are(app.machine.outgoing_requests(), "keys are offered")
