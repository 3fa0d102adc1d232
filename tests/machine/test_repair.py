"""A record that can't be read counts as lost: its content is requested again, the log says so, and no call fails."""

from __future__ import annotations

import asyncio
import logging
import sys

import pytest

from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Json
from tests.machine.scene import ALICE, BOB, HOUR_MS, KEY, MEGOLM, ROOM, Scene
from tests.machine.test_cross_signing import bootstrap, reset, settle, verify
from tests.machine.test_inputs import peer_of
from unwedged.machine import KeysClaim, LocalTrust, MachineError, repair
from unwedged.machine.errors import EncryptionDowngrade
from unwedged.machine.identifiers import (
    DeviceId,
    GroupSessionId,
    GroupSessionName,
    PeerName,
    RoomId,
    TransactionId,
    UserId,
)
from unwedged.machine.records import (
    BACKLOG,
    BACKUP,
    DEVICES,
    EARLIER_SHARED_KEY,
    GIVEN_ALSO,
    IDENTITY,
    IDENTITY_TRUST,
    INBOUND,
    KINDS,
    LOCAL_TRUST,
    OFFER,
    OUTBOX,
    OUTDATED,
    PEER,
    PRIVATE_IDENTITY,
    PUT_ASIDE,
    SYNC,
    UNPROCESSED,
    UNPUBLISHED_SIGNATURE,
    WANTED_SESSION,
    WITHHELD,
    EarlierKey,
    Giver,
)
from unwedged.machine.records import ROOM as ROOM_SETTINGS
from unwedged.store import BYTES, CryptoStore, Kind, MalformedRecord, RecordKind, Transaction

REPAIRED = [kind for kind in KINDS if kind.name not in repair.IRREPLACEABLE]
NO_RECORD = b"\xc1"
"""A byte with which neither msgpack nor a text can begin."""


def of(name: str) -> Kind:
    (kind,) = [kind for kind in KINDS if kind.name == name]
    return kind


async def spoil(scene: Scene, kind: Kind) -> int:
    """Overwrite each record of a kind with an unreadable one, or create one if there is none; return their number."""
    assert isinstance(kind, RecordKind)
    peer = PeerName(UserId(BOB), scene.bob.machine.curve25519)
    session = GroupSessionName(RoomId(ROOM), GroupSessionId("session"))
    where: dict[str, list[object]] = {
        BACKLOG.name: [None],
        BACKUP.name: [None],
        EARLIER_SHARED_KEY.name: [EarlierKey(RoomId(ROOM), 1)],
        IDENTITY.name: [BOB],
        IDENTITY_TRUST.name: [BOB],
        PRIVATE_IDENTITY.name: [None],
        UNPUBLISHED_SIGNATURE.name: [TransactionId("spoilt")],
        GIVEN_ALSO.name: [Giver(*session, UserId(BOB))],
        OFFER.name: [None],
        OUTBOX.name: [TransactionId("spoilt")],
        OUTDATED.name: [BOB],
        LOCAL_TRUST.name: [BOB],
        PUT_ASIDE.name: [TransactionId("spoilt")],
        SYNC.name: ["classic:main"],
        UNPROCESSED.name: [0],
        WANTED_SESSION.name: [peer],
        WITHHELD.name: [session],
    }
    raw = RecordKind(kind.name, kind.key, BYTES, cached=kind.cached)

    async def write(transaction: Transaction) -> int:
        keys = {*await transaction.keys(raw), *where.get(kind.name, [])}
        for key in keys:
            transaction.put(raw, key, NO_RECORD)
        return len(keys)

    async with CryptoStore.open(scene.folder / "PHONE.db", key=KEY, label="spoiler", kinds=[raw]) as store:
        return await store.run(write)


async def say_and_read(author: Client, reader: Client, text: str) -> None:
    event = await author.say(ROOM, text)
    await reader.sync()
    assert await reader.read(ROOM, event) == text


# M23.1
@pytest.mark.parametrize("kind", REPAIRED, ids=lambda kind: kind.name)
async def test_an_unreadable_record_of_any_kind_stops_no_process(
    alice_and_bob: Scene, kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    scene = alice_and_bob
    await scene.greet()
    old = await scene.bob.say(ROOM, "old")
    await scene.app.machine.close()
    await scene.extension.machine.close()
    spoilt = await spoil(scene, kind)
    with caplog.at_level(logging.ERROR):
        scene.app = await scene.open(ALICE, "PHONE", "app")
        scene.extension = await scene.open(ALICE, "PHONE", "extension")
        for _ in range(2):
            for client in (scene.app, scene.extension):
                await client.sync()
                await client.send_all()
                await client.machine.work_off_backlog()
            scene.server._changed.append((scene.server._tick(), BOB))
            await scene.bob.sync()
            await scene.bob.send_all()
            scene.clock.added_ms += HOUR_MS
        await scene.app.machine.decrypt_room_events(ROOM, [old])
        if kind in (INBOUND, EARLIER_SHARED_KEY):
            for client in (scene.app, scene.bob):
                await client.machine.discard_room_key(ROOM)  # a lost room key is not restored
        await say_and_read(scene.app, scene.bob, "from the app")
        await say_and_read(scene.bob, scene.extension, "from Bob")
        await say_and_read(scene.extension, scene.bob, "from the extension")
    assert f"kind={kind.name}" in caplog.text or not spoilt or kind in UNREAD


UNREAD = (GIVEN_ALSO, WITHHELD, UNPROCESSED)
"""Kinds whose records are not read here: only a message or key of their session, or their missing batch, needs them."""


# M23.2
async def test_sessions_that_cannot_be_read_are_replaced(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.greet()
    generation = (await peer_of(scene.app, scene.bob)).generation
    await spoil_while_closed(scene, PEER)
    event = await scene.bob.say(ROOM, "lost with the sessions, unless it is sent again")
    await scene.bob.machine.discard_room_key(ROOM)
    lost = await scene.bob.say(ROOM, "this too")
    assert [problem.code for problem in (await scene.app.sync()).problems] == ["unreadable"]
    peer = await peer_of(scene.app, scene.bob)
    assert (peer.sessions, peer.generation == generation) == ([], False)
    assert [type(request) for request in await scene.extension.machine.outgoing_requests()] == [KeysClaim]
    scene.clock.added_ms += HOUR_MS
    await scene.app.send_all()
    await scene.bob.sync()
    await scene.bob.say(ROOM, "over the new session")
    await scene.extension.sync()
    for each in (event, lost):
        assert (await scene.app.machine.decrypt_room_event(ROOM, each)).sender == BOB


# M23.2
async def test_what_went_over_sessions_that_are_lost_is_sent_again(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    event = await scene.app.say(ROOM, "hello")
    scene.server._devices[scene.bob.device].inbox.clear()
    await spoil_while_closed(scene, PEER)
    await scene.app.share(ROOM, [ALICE, BOB])
    await scene.bob.sync()
    assert await scene.bob.read(ROOM, event) == "hello"


# M23.2
async def test_sessions_that_are_lost_are_replaced_before_a_message_shows_it(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.greet()
    await spoil_while_closed(scene, PEER)
    assert not (await peer_of(scene.app, scene.bob)).sessions
    await scene.extension.send_all()
    assert len((await peer_of(scene.app, scene.bob)).sessions) == 1


# M23.2
async def test_devices_that_are_lost_are_asked_for_again(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.greet()
    await spoil_while_closed(scene, DEVICES)
    await say_and_read(scene.app, scene.bob, "hello")


# M23.2
async def test_parts_of_a_batch_are_found_without_the_record_that_counts_them(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    event: Json = {"type": "org.other", "sender": BOB, "content": {}}

    async def leave(transaction: Transaction) -> None:
        for number in (3, 4):
            transaction.put(UNPROCESSED, number, [event])

    await scene.app.machine._store.run(leave)
    await spoil_while_closed(scene, BACKLOG)
    assert len((await scene.app.machine.work_off_backlog()).events) == 2
    assert not (await scene.extension.machine.work_off_backlog()).applied


async def spoil_while_closed(scene: Scene, kind: Kind) -> None:
    await scene.app.machine.close()
    await scene.extension.machine.close()
    await spoil(scene, kind)
    scene.app = await scene.open(ALICE, "PHONE", "app")
    scene.extension = await scene.open(ALICE, "PHONE", "extension")


# M23.2
@pytest.mark.parametrize("kind", [DEVICES, LOCAL_TRUST], ids=lambda kind: kind.name)
async def test_what_the_owner_thinks_of_a_device_outlives_either_of_its_records(
    alice_and_bob: Scene, kind: Kind
) -> None:
    scene = alice_and_bob
    await scene.app.machine.set_trust(BOB, "LAPTOP", scene.bob.machine.ed25519, LocalTrust.BLOCKED)
    await spoil_while_closed(scene, kind)
    for client in (scene.app, scene.extension):
        scene.server._changed.append((scene.server._tick(), BOB))
        await client.sync()
        await client.send_all()
        assert (await client.machine.devices_of(BOB))[DeviceId("LAPTOP")].trust is LocalTrust.BLOCKED


# M15.7, M23.2
@pytest.mark.parametrize("kind", [IDENTITY, IDENTITY_TRUST], ids=lambda kind: kind.name)
async def test_what_is_known_of_an_identity_outlives_either_of_its_records(alice_and_bob: Scene, kind: Kind) -> None:
    scene = alice_and_bob
    await bootstrap(scene.bob)
    await settle(scene.app)
    await verify(scene.app, BOB)
    await spoil_while_closed(scene, kind)
    await scene.app.machine.cross_signing.trust_of(BOB)
    scene.server._changed.append((scene.server._tick(), BOB))
    await settle(scene.app)
    trust = await scene.extension.machine.cross_signing.trust_of(BOB)
    assert (trust.verified, trust.changed) == (True, False)
    await spoil_while_closed(scene, kind)
    await scene.app.machine.cross_signing.trust_of(BOB)
    await reset(scene.bob)
    await settle(scene.app)
    trust = await scene.extension.machine.cross_signing.trust_of(BOB)
    assert (trust.verified, trust.changed, trust.violated) == (False, True, True)


# M23.2
async def test_a_room_whose_settings_cannot_be_read_stays_encrypted(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await spoil_while_closed(scene, ROOM_SETTINGS)
    with pytest.raises(EncryptionDowngrade):
        await scene.app.machine.set_room_encryption(ROOM, {"algorithm": "m.other"})
    await scene.app.machine.set_room_encryption(ROOM, {"algorithm": MEGOLM})


# M23.2
async def test_a_key_that_cannot_be_read_is_a_missing_one(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    event = await scene.bob.say(ROOM, "hello")
    await scene.app.sync()
    await spoil_while_closed(scene, INBOUND)
    (read,) = await scene.app.machine.decrypt_room_events(ROOM, [event])
    assert isinstance(read, MachineError)
    assert read.code == "missing_room_key"


# M23.1
async def test_a_row_that_was_damaged_counts_as_lost_too(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.greet()
    for client in (scene.app, scene.extension):
        await client.machine.close()
    # In another process: closing the file in this one would drop the locks that its store holds.
    damage = "UPDATE record SET value = zeroblob(100) WHERE kind = 'peer'"
    program = "import sqlite3, sys; file = sqlite3.connect(sys.argv[1]); file.execute(sys.argv[2]); file.commit()"
    path = str(scene.folder / "PHONE.db")
    damaging = await asyncio.create_subprocess_exec(sys.executable, "-c", program, path, damage)
    assert await damaging.wait() == 0
    scene.app = await scene.open(ALICE, "PHONE", "app")
    await say_and_read(scene.app, scene.bob, "hello")


# M23.2
@pytest.mark.parametrize("name", sorted(repair.IRREPLACEABLE))
async def test_without_its_keys_there_is_no_device(alice_and_bob: Scene, name: str) -> None:
    scene = alice_and_bob
    await scene.bob.say(ROOM, "hello")
    await scene.app.machine.close()
    await scene.extension.machine.close()
    await spoil(scene, of(name))

    async def use() -> None:
        client = await scene.open(ALICE, "PHONE", "app")
        await client.sync()

    with pytest.raises(MalformedRecord):
        await use()
