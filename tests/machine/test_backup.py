"""The backup of room keys, with the process changed before each step."""

from __future__ import annotations

import logging

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.padding import PKCS7

from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Device, Json
from checking.machine_replay.room_key import RoomKey
from tests.machine.backups import (
    VERSION,
    ask_version,
    backed_up,
    create,
    first_indices,
    is_on,
    known,
    marks,
)
from tests.machine.scene import ALICE, BOB, MEGOLM, ROOM, Scene
from tests.machine.test_cross_signing import bootstrap
from tests.machine.test_repair import spoil_while_closed
from unwedged.machine import (
    BackupDownload,
    BackupUpload,
    BackupVersionCreate,
    InvalidArgument,
    LocalTrust,
    MachineError,
    MalformedResponse,
    NewBackupVersion,
    NoBackup,
    Request,
    RestoreProgress,
    SenderTrust,
    UnsupportedAlgorithm,
    WrongBackupKey,
)
from unwedged.machine.backup import ALGORITHM, KEYS_IN_AN_UPLOAD
from unwedged.machine.identifiers import BackupVersion
from unwedged.machine.ratchets import BackupDecryption, BackupEncryption
from unwedged.machine.records import BACKUP, INBOUND, UNBACKED
from unwedged.machine.requests import decode, encode
from unwedged.machine.rooms import KEYS_IN_A_COMMIT
from unwedged.machine.unpadded_base64 import unpadded

GONE = [pytest.param(403, id="wrong version"), pytest.param(404, id="not found")]


async def add(client: Client, *keys: RoomKey, index: int = 0) -> None:
    assert await client.machine.import_room_keys([key.exported(index) for key in keys]) == len(keys)


async def upload_of(client: Client) -> BackupUpload:
    (upload,) = [each for each in await client.machine.outgoing_requests() if isinstance(each, BackupUpload)]
    return upload


async def has_upload(client: Client) -> bool:
    return any(isinstance(each, BackupUpload) for each in await client.machine.outgoing_requests())


async def restored(client: Client, request: BackupDownload, answer: Json) -> list[RestoreProgress]:
    return [progress async for progress in client.machine.key_backup.restore(request, answer)]


async def new_device(scene: Scene, device: str = "TABLET") -> Client:
    """Sign Alice in on another device, whose keys the phone knows."""
    scene.server.sign_in(Device(ALICE, device))
    client = await scene.open(ALICE, device, device.lower())
    await client.send_all()
    await client.machine.track_users([ALICE, BOB])
    await client.sync()
    await client.send_all()
    await scene.app.sync()
    await scene.app.send_all()
    return client


async def reader(scene: Scene, new: NewBackupVersion) -> Client:
    """Sign Alice in on another device, which has the decryption key."""
    client = await new_device(scene)
    await ask_version(client)
    await client.machine.key_backup.import_decryption_key(new.decryption_key)
    return client


# Uploads


# M19.1, M19.2, M19.3
async def test_what_is_here_and_what_comes_goes_to_the_backup(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.greet()
    assert not await marks(scene.app)
    new = await create(scene.app, sender=scene.extension)
    assert await marks(scene.extension) == (await first_indices(scene.app)).keys()
    await scene.app.send_all()
    assert not await marks(scene.extension)
    assert backed_up(scene.app, new.decryption_key) == await first_indices(scene.app)
    await scene.bob.machine.discard_room_key(ROOM)
    await scene.bob.say(ROOM, "with another key")
    await scene.extension.sync()
    assert len(await marks(scene.app)) == 1
    await scene.extension.machine.discard_room_key(ROOM)
    await scene.extension.share(ROOM, [ALICE, BOB])
    await scene.app.send_all()
    assert len(backed_up(scene.app, new.decryption_key)) == 4
    assert backed_up(scene.app, new.decryption_key) == await first_indices(scene.app)


# M19.14
async def test_an_upload_is_bounded_and_listed_until_it_is_answered(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    new = await create(scene.app)
    await add(scene.extension, *(RoomKey() for _ in range(KEYS_IN_AN_UPLOAD + 1)))
    first = await upload_of(scene.app)
    assert sum(map(len, first.numbers.values())) == KEYS_IN_AN_UPLOAD
    assert (await upload_of(scene.extension)).numbers == first.numbers
    await scene.extension.send(first)
    second = await upload_of(scene.app)
    assert sum(map(len, second.numbers.values())) == 1
    await scene.app.send(first)
    await scene.extension.send(second)
    assert not await has_upload(scene.app)
    assert len(backed_up(scene.app, new.decryption_key)) == KEYS_IN_AN_UPLOAD + 1


# M19.15, P10.5
async def test_backup_flag_race(alice_and_bob: Scene) -> None:
    """A better key arrives while the worse one is uploaded."""
    scene = alice_and_bob
    new = await create(scene.app)
    key = RoomKey()
    await add(scene.extension, key, index=5)
    upload = await upload_of(scene.app)
    await add(scene.extension, key, index=2)
    await scene.app.send(upload)
    assert await marks(scene.extension) == {key.name}
    assert backed_up(scene.app, new.decryption_key) == {key.name: 5}
    await scene.extension.send_all()
    assert backed_up(scene.app, new.decryption_key) == {key.name: 2}
    await scene.app.machine.mark_sent(upload, {"etag": "1", "count": 1})
    assert not await marks(scene.app)


# M19.2, M19.15
async def test_a_mark_that_is_made_again_has_another_number(alice_and_bob: Scene) -> None:
    """The response to the first upload comes a second time while the better key waits for its upload."""
    scene = alice_and_bob
    await create(scene.app)
    key = RoomKey()
    await add(scene.extension, key, index=5)
    upload = await upload_of(scene.app)
    await scene.extension.send(upload)
    await add(scene.app, key, index=2)
    await scene.extension.send(upload)
    assert await marks(scene.app) == {key.name}


# M19.2
async def test_a_key_that_is_replaced_at_the_same_index_is_uploaded_again(alice_and_bob: Scene) -> None:
    """The two keys have the same first index. The first has no proof of its origin; its creator sent the second."""
    scene = alice_and_bob
    await scene.greet()
    await scene.bob.machine.discard_room_key(ROOM)
    await scene.bob.share(ROOM, [ALICE, BOB])
    (theirs,) = [
        key
        for key in await scene.bob.machine.export_room_keys()
        if key.sender_key == scene.bob.machine.curve25519 and key.session_id not in await sessions(scene.app)
    ]
    await create(scene.app)
    await scene.app.send_all()
    assert await scene.extension.machine.import_room_keys([theirs]) == 1
    upload = await upload_of(scene.app)
    await scene.extension.sync()
    await scene.app.send(upload)
    assert {name.session_id for name in await marks(scene.extension)} == {theirs.session_id}


async def sessions(client: Client) -> set[str]:
    return {name.session_id for name in await first_indices(client)}


# M13.4, M19.18
async def test_an_upload_that_fails_for_another_reason_is_listed_again(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await create(scene.app)
    await add(scene.app, RoomKey())
    upload = await upload_of(scene.extension)
    assert await scene.app.machine.mark_failed(upload, status=None) == 1_000
    assert await scene.app.machine.mark_failed(upload, status=413) == 300_000
    assert await has_upload(scene.extension)


@pytest.mark.parametrize("answer", [{}, {"count": None}, {"count": "1"}])
async def test_what_is_no_answer_to_an_upload_settles_nothing(alice_and_bob: Scene, answer: Json) -> None:
    scene = alice_and_bob
    await create(scene.app)
    await add(scene.app, RoomKey())
    upload = await upload_of(scene.extension)
    with pytest.raises(MalformedResponse):
        await scene.app.machine.mark_sent(upload, answer)
    assert await has_upload(scene.extension)


# M19.3
async def test_without_a_backup_nothing_is_marked(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.greet()
    await add(scene.app, RoomKey())
    assert await scene.extension.machine.key_backup.status() is None
    assert not await marks(scene.app)
    assert not await has_upload(scene.app)


# M19.19
async def test_no_key_is_uploaded_as_verified_or_forwarded(alice_and_bob: Scene) -> None:
    """Otherwise a homeserver would let such a key replace one that begins earlier, or the reverse."""
    scene = alice_and_bob
    await scene.greet()
    await scene.app.machine.set_trust(BOB, "LAPTOP", scene.bob.machine.ed25519, LocalTrust.VERIFIED)
    await create(scene.app)
    rooms = (await upload_of(scene.extension)).body["rooms"]
    assert isinstance(rooms, dict)
    for key in rooms[ROOM]["sessions"].values():
        assert (key["is_verified"], key["forwarded_count"]) == (False, 0)


# M21.3
async def test_requests_go_to_another_process_as_bytes(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    new = await scene.app.machine.key_backup.create_version()
    await add(scene.app, RoomKey())

    async def send_elsewhere(request: Request) -> None:
        copied = decode(encode(request))
        assert copied == request
        assert (copied.method, copied.path, copied.body) == (request.method, request.path, request.body)
        await scene.extension.send(copied)

    await send_elsewhere(new.request)
    await send_elsewhere(await scene.app.machine.key_backup.version_query())
    await send_elsewhere(await upload_of(scene.app))
    assert not await marks(scene.app)


# Versions


# M19.3, M19.15
@pytest.mark.parametrize("swapped", [False, True])
async def test_two_keys_one_version(alice_and_bob: Scene, swapped: bool) -> None:
    """A process uploads to a version that the other process replaces, and a better key arrives meanwhile."""
    scene = alice_and_bob
    one, other = (scene.extension, scene.app) if swapped else (scene.app, scene.extension)
    keys = [RoomKey() for _ in range(3)]
    first = await create(one, sender=other)
    await add(other, *keys, index=5)
    upload = await upload_of(one)
    answer = one.call(upload.method, upload.path, upload.body)
    second = await create(other, sender=one, answered=other)
    await add(one, keys[0], index=2)
    await other.machine.mark_sent(upload, answer)
    assert await marks(one) == {key.name for key in keys}
    await other.machine.pause()
    assert await is_on(other)
    assert await is_on(one)
    await other.send_all()
    assert not await marks(one)
    assert backed_up(one, second.decryption_key, "2") == await first_indices(other)
    assert backed_up(other, first.decryption_key, "1") == {key.name: 5 for key in keys}


# M19.6
async def test_another_process_that_creates_a_version_meanwhile_gets_the_same_one(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    new = await scene.app.machine.key_backup.create_version()
    assert await scene.extension.machine.key_backup.create_version() == new
    await scene.app.machine.close()
    assert await scene.extension.machine.key_backup.create_version() == new
    await scene.extension.send(new.request)
    another = await scene.extension.machine.key_backup.create_version()
    assert another.request.public_key != new.request.public_key


# M19.7
async def test_a_creation_that_was_sent_twice_is_settled_by_the_current_version(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await add(scene.app, RoomKey())
    new = await scene.app.machine.key_backup.create_version()
    older, newer = (scene.app.call("POST", VERSION, new.request.body) for _ in range(2))
    await scene.extension.machine.mark_sent(new.request, older)
    await scene.app.machine.mark_sent(new.request, newer)
    upload = await upload_of(scene.extension)
    status, _ = scene.server.request(scene.app.device, upload.method, upload.path, upload.body)
    assert await scene.app.machine.mark_failed(upload, status=status) is None
    assert not await is_on(scene.extension)
    await ask_version(scene.extension, answered=scene.app)
    assert await is_on(scene.extension)
    assert await scene.extension.machine.key_backup.decryption_key() == new.decryption_key
    await scene.app.send_all()
    assert backed_up(scene.app, new.decryption_key, "2") == await first_indices(scene.app)


# M19.3, M19.10
async def test_another_version_with_the_same_key_gets_all_room_keys(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    new = await create(scene.app)
    await add(scene.extension, RoomKey())
    await scene.app.send_all()
    scene.app.call("POST", VERSION, new.request.body)
    await ask_version(scene.app, answered=scene.extension)
    assert await is_on(scene.app)
    await scene.extension.send_all()
    assert backed_up(scene.app, new.decryption_key, "2") == await first_indices(scene.app)


# M19.8
async def test_a_creation_whose_answer_was_lost_is_found_by_asking(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    new = await scene.app.machine.key_backup.create_version()
    scene.app.call("POST", VERSION, new.request.body)
    await scene.app.machine.close()
    await ask_version(scene.extension)
    assert await is_on(scene.extension)
    assert await scene.extension.machine.key_backup.decryption_key() == new.decryption_key
    assert await scene.extension.machine.key_backup.create_version() != new


# M19.9
async def test_while_a_version_is_made_no_other_counts(alice_and_bob: Scene) -> None:
    """Otherwise the decryption key would be lost when the homeserver makes the version the current one."""
    scene = alice_and_bob
    tablet = await new_device(scene)
    await create(tablet)
    await scene.app.machine.set_trust(ALICE, "TABLET", tablet.machine.ed25519, LocalTrust.VERIFIED)
    new = await scene.app.machine.key_backup.create_version()
    await ask_version(scene.extension)
    assert not await is_on(scene.app)
    await scene.extension.send(new.request)
    assert await is_on(scene.app)
    assert await scene.app.machine.key_backup.decryption_key() == new.decryption_key


# M19.7
async def test_a_late_answer_to_a_creation_turns_nothing_on(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    new = await scene.app.machine.key_backup.create_version()
    await scene.extension.machine.key_backup.turn_off()
    await scene.app.send(new.request)
    assert await scene.extension.machine.key_backup.status() is None
    other = await scene.extension.machine.key_backup.create_version()
    for _ in range(2):
        before = await known(scene.app)
        await scene.app.machine.mark_sent(new.request, {"version": "7"})
        assert await known(scene.extension) == before
        await scene.extension.send(other.request)
    assert await is_on(scene.app)
    with pytest.raises(MalformedResponse):
        await scene.app.machine.mark_sent(new.request, {"version": 7})


# M19.8
async def test_an_answer_from_before_a_newer_version_changes_nothing(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await create(scene.app)
    query = await scene.app.machine.key_backup.version_query()
    old = scene.app.call(query.method, query.path)
    new = await create(scene.extension)
    await scene.app.machine.mark_sent(query, old)
    await scene.app.machine.mark_failed(query, status=404)
    assert await is_on(scene.extension)
    assert await scene.extension.machine.key_backup.decryption_key() == new.decryption_key


# M19.10, M19.16, M19.17
@pytest.mark.parametrize("status", GONE)
async def test_a_version_that_somebody_else_replaces_turns_the_backup_off(alice_and_bob: Scene, status: int) -> None:
    scene = alice_and_bob
    tablet = await new_device(scene)
    await create(scene.app)
    await add(scene.app, RoomKey())
    late = await upload_of(scene.app)
    if status == 404:
        scene.app.call("DELETE", f"{VERSION}/1")
    theirs = await create(tablet)
    async with scene.extension.machine.key_backup.stream() as stream:
        upload = await upload_of(scene.app)
        assert scene.server.request(scene.app.device, upload.method, upload.path, upload.body)[0] == status
        assert await scene.app.machine.mark_failed(upload, status=status) is None
        await anext(stream)
    refused = await scene.extension.machine.key_backup.status()
    assert refused is not None
    assert (refused.is_on, refused.is_refused, refused.is_trusted) == (False, True, True)
    assert not await has_upload(scene.extension)
    await add(scene.extension, RoomKey())
    await ask_version(scene.app, answered=scene.extension)
    assert not await is_on(scene.app)  # the tablet is not verified
    assert not await has_upload(scene.app)
    assert await scene.app.machine.key_backup.decryption_key() is None
    await scene.extension.machine.set_trust(ALICE, "TABLET", tablet.machine.ed25519, LocalTrust.VERIFIED)
    assert await is_on(scene.app)
    await scene.app.machine.mark_failed(late, status=403)  # the request concerned the previous version
    await scene.app.send_all()
    assert backed_up(scene.app, theirs.decryption_key) == await first_indices(scene.extension)


# M19.16
async def test_a_backup_that_is_gone_is_off(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await create(scene.app)
    scene.app.call("DELETE", f"{VERSION}/1")
    await ask_version(scene.extension)
    assert not await is_on(scene.app)
    await create(scene.app)
    assert await is_on(scene.extension)


# M19.1, M19.4
async def test_backup_off_after_invalidation(alice_and_bob: Scene) -> None:
    """Both processes turn the backup off and on, and take the lease in between."""
    scene = alice_and_bob
    for one, other in ((scene.app, scene.extension), (scene.extension, scene.app)):
        new = await create(one)
        await add(other, RoomKey())
        assert await is_on(one)
        assert await is_on(other)
        await one.send_all()
        assert backed_up(one, new.decryption_key) == await first_indices(one)
        await add(one, RoomKey())
        await other.machine.key_backup.turn_off()
        assert await one.machine.key_backup.status() is None
        assert not await marks(one)
        assert not await has_upload(one)
        with pytest.raises(NoBackup):
            await one.machine.key_backup.import_decryption_key(new.decryption_key)
        await ask_version(other)  # the version is signed by this device
        await one.machine.key_backup.import_decryption_key(new.decryption_key)
        await other.send_all()
        assert backed_up(one, new.decryption_key) == await first_indices(one)


# Unreadable records


# M23.2
async def test_a_mark_that_cannot_be_read_is_made_again(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    new = await create(scene.app)
    await add(scene.app, RoomKey(), RoomKey())
    upload = await upload_of(scene.extension)
    await spoil_while_closed(scene, UNBACKED)
    assert (await upload_of(scene.app)).numbers != upload.numbers
    await scene.extension.send_all()
    assert backed_up(scene.app, new.decryption_key) == await first_indices(scene.app)
    assert len(await first_indices(scene.app)) == 2


async def test_room_keys_that_cannot_be_read_hold_no_others_up(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    new = await create(scene.app)
    await add(scene.app, *(RoomKey() for _ in range(KEYS_IN_AN_UPLOAD + 1)))
    await spoil_while_closed(scene, INBOUND)
    kept = RoomKey()
    await add(scene.app, kept)
    await scene.extension.send_all()
    assert backed_up(scene.app, new.decryption_key) == {kept.name: 0}
    assert not await marks(scene.app)


# M23.2
async def test_a_backup_that_cannot_be_read_is_off(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await create(scene.app)
    await add(scene.app, RoomKey())
    await spoil_while_closed(scene, BACKUP)
    assert await scene.extension.machine.key_backup.status() is None
    assert not await marks(scene.app)
    await ask_version(scene.app)
    assert await is_on(scene.extension)
    assert len(await marks(scene.extension)) == 1


# Trust


# M19.11, M19.12
async def test_a_version_is_trusted_by_the_signature_of_a_verified_device(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    tablet = await new_device(scene)
    new = await create(tablet)
    await ask_version(scene.app)
    for trust, on in (
        (LocalTrust.UNSET, False),
        (LocalTrust.VERIFIED, True),
        (LocalTrust.BLOCKED, False),
        (LocalTrust.VERIFIED, True),
    ):
        await scene.app.machine.set_trust(ALICE, "TABLET", tablet.machine.ed25519, trust)
        assert await is_on(scene.extension) is on
    await add(scene.app, RoomKey())
    await scene.extension.send_all()
    assert backed_up(tablet, new.decryption_key) == await first_indices(scene.app)


# M19.11
async def test_a_version_is_trusted_by_the_signature_of_the_verified_master_key(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await bootstrap(scene.app, scene.extension)
    new = await create(scene.extension)
    auth_data = new.request.body["auth_data"]
    assert isinstance(auth_data, dict)
    assert len(auth_data["signatures"][ALICE]) == 2
    del auth_data["signatures"][ALICE]["ed25519:PHONE"]
    scene.app.call("POST", VERSION, {"algorithm": ALGORITHM, "auth_data": auth_data})
    tablet = await new_device(scene)
    await ask_version(tablet)
    trust = await tablet.machine.cross_signing.trust_of(ALICE)
    assert trust.master_key is not None
    assert not await is_on(tablet)
    await tablet.machine.cross_signing.verify_user(ALICE, trust.master_key)
    assert await is_on(tablet)
    await tablet.machine.cross_signing.accept_identity(ALICE, trust.master_key)
    assert not await is_on(tablet)


# M19.11
async def test_another_public_key_under_a_signature_is_not_trusted(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    new = await scene.app.machine.key_backup.create_version()
    await scene.app.machine.key_backup.turn_off()
    auth_data = new.request.body["auth_data"]
    assert isinstance(auth_data, dict)
    spoilt = auth_data | {"public_key": BackupDecryption().public_key}
    scene.app.call("POST", VERSION, {"algorithm": ALGORITHM, "auth_data": spoilt})
    await ask_version(scene.extension)
    assert not await is_on(scene.app)
    scene.app.call("POST", VERSION, {"algorithm": ALGORITHM, "auth_data": auth_data})
    await ask_version(scene.extension)
    assert await is_on(scene.app)


# M19.12, S3.1
async def test_a_signature_that_comes_later_counts(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    new = await scene.app.machine.key_backup.create_version()
    await scene.app.machine.key_backup.turn_off()
    auth_data = new.request.body["auth_data"]
    unsigned: Json = {"algorithm": ALGORITHM, "auth_data": {"public_key": new.request.public_key}}
    scene.app.call("POST", VERSION, unsigned)
    await ask_version(scene.extension)
    await add(scene.app, RoomKey())
    assert not await is_on(scene.app)
    scene.app.call("PUT", f"{VERSION}/1", {"algorithm": ALGORITHM, "auth_data": auth_data})
    await ask_version(scene.extension)
    assert await is_on(scene.app)
    await scene.app.send_all()
    scene.app.call("PUT", f"{VERSION}/1", unsigned)
    await ask_version(scene.extension)
    assert not await is_on(scene.app)
    assert not await marks(scene.app)  # the version and its key are unchanged


# M19.13
async def test_a_decryption_key_is_kept_only_if_it_belongs_to_the_backup(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    tablet = await new_device(scene)
    new = await create(tablet)
    with pytest.raises(NoBackup):
        await scene.app.machine.key_backup.import_decryption_key(new.decryption_key)
    await ask_version(scene.extension)
    for wrong in (BackupDecryption().key, b"", bytes(33)):
        with pytest.raises(WrongBackupKey):
            await scene.app.machine.key_backup.import_decryption_key(wrong)
    with pytest.raises(InvalidArgument):
        await scene.app.machine.key_backup.import_decryption_key("a" * 32)  # type: ignore[arg-type]
    assert not await is_on(scene.extension)
    for client in (scene.app, scene.extension):
        await client.machine.key_backup.import_decryption_key(new.decryption_key)
        assert await is_on(scene.extension)
        assert await scene.extension.machine.key_backup.decryption_key() == new.decryption_key


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 1},
        {"version": "\ud800"},
        {"auth_data": {}},
        {"auth_data": {"public_key": "short"}},
        {"auth_data": {"public_key": "A" * 43}},  # a point of low order, which gives no shared secret
        {"auth_data": {"public_key": "B" * 43, "more": "\ud800"}},
        {"auth_data": {"public_key": 5}},
        {"auth_data": None},
        {"algorithm": None},
    ],
)
async def test_a_version_that_is_none_changes_nothing(alice_and_bob: Scene, changes: Json) -> None:
    scene = alice_and_bob
    await create(scene.app)
    before = await known(scene.app)
    query = await scene.app.machine.key_backup.version_query()
    answer = scene.app.call(query.method, query.path)
    with pytest.raises(MalformedResponse):
        await scene.extension.machine.mark_sent(query, answer | changes)
    with pytest.raises(UnsupportedAlgorithm):
        await scene.extension.machine.mark_sent(query, answer | {"algorithm": "m.other"})
    assert await known(scene.app) == before


# Restoring


async def test_another_device_restores_all(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.greet()
    event = await scene.bob.say(ROOM, "hello")
    await scene.app.sync()
    new = await create(scene.extension)
    await scene.app.send_all()
    tablet = await reader(scene, new)
    request = await tablet.machine.key_backup.download()
    answer = tablet.call(request.method, request.path)
    count = len(await first_indices(scene.app))
    assert await restored(tablet, request, answer) == [RestoreProgress(count, count, 0, count)]
    assert await restored(tablet, request, answer) == [RestoreProgress(count, count, 0, 0)]
    assert await first_indices(tablet) == await first_indices(scene.app)
    read = await tablet.machine.decrypt_room_event(ROOM, event)
    assert (read.content["body"], read.trust) == ("hello", SenderTrust.IMPORTED_KEY)
    assert not await has_upload(tablet)
    assert not await marks(tablet)


async def test_a_room_or_a_session_is_restored(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    here, there = [RoomKey(), RoomKey()], [RoomKey("!a b/c:example.org"), RoomKey("!a b/c:example.org")]
    new = await create(scene.app)
    await add(scene.extension, *here, *there)
    await scene.app.send_all()
    tablet = await reader(scene, new)
    for names, restores in (
        (here[0].name, {here[0]}),
        (there[1].name, {here[0], there[1]}),
        ((there[0].name.room_id, None), {here[0], *there}),
        ((None, None), {*here, *there}),
    ):
        request = await tablet.machine.key_backup.download(*names)
        await restored(tablet, request, tablet.call(request.method, request.path))
        assert (await first_indices(tablet)).keys() == {key.name for key in restores}
    with pytest.raises(InvalidArgument):
        await tablet.machine.key_backup.download(None, "session")


# M19.20
async def test_restoring_is_done_in_commits_of_bounded_length(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    new = await create(scene.app)
    keys = [RoomKey() for _ in range(2 * KEYS_IN_A_COMMIT + 1)]
    await add(scene.extension, *keys)
    await scene.app.send_all()
    tablet = await reader(scene, new)
    request = await tablet.machine.key_backup.download()
    answer = tablet.call(request.method, request.path)
    commits = tablet.machine._store.statistics().commits
    progress = await restored(tablet, request, answer)
    assert [each.done for each in progress] == [KEYS_IN_A_COMMIT, 2 * KEYS_IN_A_COMMIT, len(keys)]
    assert tablet.machine._store.statistics().commits == commits + 3
    assert len(await first_indices(tablet)) == len(keys)


async def test_what_gets_better_after_restoring_is_uploaded(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    new = await create(scene.app)
    key = RoomKey()
    await add(scene.extension, key, index=5)
    await scene.app.send_all()
    tablet = await reader(scene, new)
    request = await tablet.machine.key_backup.download()
    await restored(tablet, request, tablet.call(request.method, request.path))
    await add(tablet, key, index=2)
    await tablet.send_all()
    assert backed_up(scene.app, new.decryption_key) == {key.name: 2}
    # The phone restores the better key, and has nothing to upload.
    request = await scene.app.machine.key_backup.download()
    await restored(scene.extension, request, scene.app.call(request.method, request.path))
    assert await first_indices(scene.app) == {key.name: 2}
    assert not await marks(scene.app)


# M19.2
async def test_what_is_restored_goes_to_the_next_version(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    new = await create(scene.app)
    await add(scene.extension, RoomKey())
    await scene.app.send_all()
    tablet = await reader(scene, new)
    request = await tablet.machine.key_backup.download()
    await restored(tablet, request, tablet.call(request.method, request.path))
    newer = await create(tablet)
    await tablet.send_all()
    assert backed_up(tablet, newer.decryption_key, "2") == await first_indices(tablet)
    assert len(await first_indices(tablet)) == 1


# M19.20
async def test_keys_of_another_version_are_not_restored(alice_and_bob: Scene) -> None:
    """They would be treated as uploaded to the current version."""
    scene = alice_and_bob
    with pytest.raises(NoBackup):
        await scene.app.machine.key_backup.download()
    await create(scene.app)
    keys = [RoomKey() for _ in range(KEYS_IN_A_COMMIT + 1)]
    await add(scene.app, *keys)
    await scene.extension.send_all()
    request = await scene.app.machine.key_backup.download()
    answer = scene.app.call(request.method, request.path)
    steps = scene.app.machine.key_backup.restore(request, answer)
    assert (await anext(steps)).done == KEYS_IN_A_COMMIT
    await create(scene.extension)
    with pytest.raises(NoBackup):
        await anext(steps)
    other = BackupDownload(BackupVersion("1"), request.public_key, None, None)
    await scene.extension.machine.key_backup.turn_off()
    with pytest.raises(NoBackup):
        await restored(scene.app, other, answer)


async def test_what_somebody_else_put_there_stops_nothing(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    new = await create(scene.app)
    good, other = RoomKey(), RoomKey()
    await add(scene.extension, good)
    await scene.app.send_all()
    request = await scene.app.machine.key_backup.download()
    answer = scene.app.call(request.method, request.path)
    rooms = answer["rooms"]
    assert isinstance(rooms, dict)
    held = rooms[ROOM]["sessions"]
    data = held[good.name.session_id]
    encryption = BackupEncryption(new.request.public_key)

    def encrypted(plaintext: bytes) -> Json:
        return {**data, "session_data": msgspec.to_builtins(encryption.encrypt(plaintext))}

    bad: list[object] = [
        None,
        5,
        {},
        {"session_data": {}},
        {"session_data": {"ephemeral": "!", "ciphertext": "", "mac": ""}},
        {"session_data": data["session_data"] | {"mac": "AAAAAAAAAAA"}},
        {"session_data": data["session_data"] | {"ephemeral": "A" * 43}},
        {"session_data": data["session_data"] | {"ciphertext": "AAAA"}},
        encrypted(b""),
        encrypted(b"\xff"),
        encrypted(b"[]"),
        encrypted(b"{}"),
        encrypted(b"[" * 100_000),
    ]
    held |= {f"bad{number}": each for number, each in enumerate(bad)}
    held["\ud800"] = data
    held[other.name.session_id] = data  # the correct key of another session
    (progress,) = await restored(scene.extension, request, answer)
    assert progress == RestoreProgress(len(bad) + 3, len(bad) + 3, len(bad) + 1, 0)
    assert (await first_indices(scene.app)).keys() == {good.name}


@pytest.mark.parametrize("answer", [{}, {"rooms": 5}, {"rooms": {ROOM: {}}}, {"rooms": {ROOM: {"sessions": []}}}])
async def test_a_malformed_backup_is_reported(alice_and_bob: Scene, answer: Json) -> None:
    scene = alice_and_bob
    await create(scene.app)
    request = await scene.app.machine.key_backup.download()
    with pytest.raises(MalformedResponse):
        await restored(scene.extension, request, answer)
    with pytest.raises(MalformedResponse):
        await restored(scene.extension, request, None)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        await restored(scene.extension, await upload_or_create(scene), answer)  # type: ignore[arg-type]


async def upload_or_create(scene: Scene) -> BackupVersionCreate:
    return (await scene.app.machine.key_backup.create_version()).request


# M19.21
async def test_a_key_from_the_backup_does_not_replace_a_key_that_its_maker_sent(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.greet()
    new = await create(scene.app)
    await scene.app.send_all()
    (name,) = [
        key.session_id
        for key in await scene.app.machine.export_room_keys()
        if key.sender_key == scene.bob.machine.curve25519
    ]
    forged = RoomKey().exported()
    clear = {
        "algorithm": MEGOLM,
        "sender_key": scene.bob.machine.curve25519,
        "sender_claimed_keys": {"ed25519": scene.bob.machine.ed25519},
        "forwarding_curve25519_key_chain": [],
        "session_key": forged.session_key,
    }
    message = BackupEncryption(new.request.public_key).encrypt(msgspec.json.encode(clear))
    request = await scene.app.machine.key_backup.download(ROOM, name)
    await restored(scene.extension, request, {"session_data": msgspec.to_builtins(message)})
    event = await scene.bob.say(ROOM, "still read")
    assert await scene.app.read(ROOM, event) == "still read"


# Secrets


async def test_the_decryption_key_is_never_shown(alice_and_bob: Scene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    scene = alice_and_bob
    new = await create(scene.app)
    backup = await known(scene.app)
    shown = f"{new!r} {backup!r} {await scene.app.machine.key_backup.status()!r} {scene.app.machine.key_backup!r}"
    tablet = await new_device(scene)
    await ask_version(tablet)
    try:
        await tablet.machine.key_backup.import_decryption_key(new.decryption_key[:-1])
    except MachineError as error:
        shown += repr(error)
    shown += caplog.text
    assert repr(new.decryption_key)[2:-1] not in shown
    assert new.decryption_key.hex() not in shown


# The encryption


async def test_it_is_encrypted_as_the_specification_says() -> None:
    """Another implementation decrypts it: X25519, HKDF, AES-CBC, and a MAC over the empty string."""
    secret = X25519PrivateKey.generate()
    decryption = BackupDecryption(secret.private_bytes_raw())
    assert unpadded(decryption.public_key) == secret.public_key().public_bytes_raw()
    message = BackupEncryption(decryption.public_key).encrypt(b"a room key")
    assert decryption.decrypt(message) == b"a room key"
    shared = secret.exchange(X25519PublicKey.from_public_bytes(unpadded(message.ephemeral)))
    derived = HKDF(SHA256(), 80, bytes(32), b"").derive(shared)
    mac = HMAC(derived[32:64], SHA256())
    assert unpadded(message.mac) == mac.finalize()[:8]
    cipher = Cipher(AES256(derived[:32]), CBC(derived[64:])).decryptor()
    unpadder = PKCS7(128).unpadder()
    assert unpadder.update(cipher.update(unpadded(message.ciphertext))) + unpadder.finalize() == b"a room key"
