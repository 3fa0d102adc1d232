"""Cross-signing identities are made and used in two processes, which change before each step."""

from __future__ import annotations

import asyncio
import random
from typing import TypeVar

import pytest

from checking.machine_replay.client import Client, Refused
from checking.machine_replay.homeserver import PASSWORD, Device, Json
from tests.machine.scene import ALICE, BOB, ROOM, Scene
from tests.machine.test_homeserver import cross_signing_keys
from tests.machine.test_inputs import own
from unwedged.machine import (
    AnotherIdentity,
    DeviceTrust,
    InvalidArgument,
    KeysQuery,
    KeysUpload,
    LocalTrust,
    Request,
    RoomKeyNotShared,
    SenderTrust,
    SharingStrategy,
    SignatureUpload,
    SigningKeyName,
    SigningKeysUpload,
    SigningSeeds,
    ToDevice,
    UnverifiedRecipients,
    WithheldRoomKey,
    WrongSigningKey,
)
from unwedged.machine.identifiers import DeviceId, UserId
from unwedged.machine.requests import decode, encode
from unwedged.machine.signing import is_signed
from unwedged.store import Changed, Lagged

Key = TypeVar("Key")

AUTH: Json = {"auth": {"type": "m.login.password", "session": "session", "password": PASSWORD}}
EVERY_KEY = frozenset(SigningKeyName)


async def bootstrap(*clients: Client) -> None:
    """Let the processes of a device create an identity, each taking a step in turn."""
    for number in range(6):
        client = clients[number % len(clients)]
        if (await client.machine.cross_signing.bootstrap()).is_complete:
            return
        for request in await client.machine.outgoing_requests():
            await clients[(number + 1) % len(clients)].send(decode(encode(request)))
    raise AssertionError("the identity is never complete")


async def settle(*clients: Client) -> None:
    """Let devices sync and send their requests."""
    for client in clients:
        await client.sync()
        await client.send_all()


async def tablet(scene: Scene) -> Client:
    """Open another device of Alice's."""
    scene.server.sign_in(Device(ALICE, "TABLET"))
    client = await scene.open(ALICE, "TABLET", "tablet")
    await client.machine.set_room_encryption(ROOM, {"algorithm": "m.megolm.v1.aes-sha2"})
    await client.send_all()
    await client.machine.track_users([ALICE, BOB])
    await settle(client, scene.app, scene.bob)
    return client


async def reset(client: Client) -> None:
    """Replace the identity of a client's user."""
    await client.machine.cross_signing.reset()
    (upload,) = await signing_keys_uploads(client)
    await client.machine.mark_sent(upload, client.call(upload.method, upload.path, upload.body | AUTH))
    await bootstrap(client)


async def signing_keys_uploads(client: Client) -> list[SigningKeysUpload]:
    return [each for each in await client.machine.outgoing_requests() if isinstance(each, SigningKeysUpload)]


async def device_trust(client: Client, user: str, device: str) -> DeviceTrust:
    trust = await client.machine.cross_signing.trust_of(user)
    return trust.of((await client.machine.devices_of(user))[DeviceId(device)])


async def verify(client: Client, user: str) -> None:
    """Verify a user's current identity."""
    key = (await client.machine.cross_signing.trust_of(user)).master_key
    assert key is not None
    await client.machine.cross_signing.verify_user(user, key)


async def test_an_identity_is_made_in_two_processes_by_turns(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await bootstrap(scene.app, scene.extension)
    for client in (scene.app, scene.extension):
        status = await client.machine.cross_signing.status()
        assert status.is_complete
        assert status.verified
        assert status.private_keys == EVERY_KEY
        assert not status.useless_keys
    await settle(scene.app, scene.extension, scene.bob)
    seen = await scene.bob.machine.cross_signing.trust_of(ALICE)
    assert seen.master_key == (await scene.app.machine.cross_signing.status()).master_key
    assert (seen.verified, seen.changed, seen.violated) == (False, False, False)
    assert await device_trust(scene.bob, ALICE, "PHONE") is DeviceTrust.CROSS_SIGNED
    # The master key is signed by the device.
    identity = seen.identity or (await scene.app.machine.cross_signing.trust_of(ALICE)).identity
    own_view = (await scene.extension.machine.cross_signing.trust_of(ALICE)).identity
    assert identity is not None
    assert own_view is not None
    assert is_signed(own_view.master, UserId(ALICE), "ed25519:PHONE", scene.app.machine.ed25519)
    assert identity.user_signing is None


async def test_what_is_complete_is_not_sent_again(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await bootstrap(scene.app)
    await bootstrap(scene.bob)
    await settle(scene.app)
    await verify(scene.app, BOB)
    await settle(scene.app)
    signing = scene.extension.machine.cross_signing
    seeds = await signing.export_seeds()
    commits = scene.extension.machine._store.statistics().commits
    await signing.bootstrap()
    await signing.import_seeds(seeds)
    await verify(scene.extension, BOB)
    assert scene.extension.machine._store.statistics().commits == commits
    assert not await scene.app.machine.outgoing_requests()


# M15.16
async def test_a_device_is_signed_after_the_homeserver_knows_it(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    scene.server.sign_in(Device(ALICE, "TABLET"))
    other = await scene.open(ALICE, "TABLET", "tablet")
    (upload,) = [each for each in await other.machine.outgoing_requests() if isinstance(each, KeysUpload)]
    await other.machine.cross_signing.bootstrap()
    await other.send_all(KeysQuery)
    await other.machine.cross_signing.bootstrap()
    await other.send_all()
    assert not any(arrival.path.endswith("signatures/upload") for arrival in scene.server.arrivals)
    await other.send(upload)
    await bootstrap(other)
    await settle(scene.bob)
    assert await device_trust(scene.bob, ALICE, "TABLET") is DeviceTrust.CROSS_SIGNED


# M15.10
async def test_two_processes_that_begin_at_once_make_one_identity(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    made = await asyncio.gather(*(client.machine.cross_signing.bootstrap() for client in (scene.app, scene.extension)))
    assert all(status.pending for status in made)
    (one,), (other,) = [await signing_keys_uploads(client) for client in (scene.app, scene.extension)]
    assert one == other
    await scene.app.send(one)
    await scene.extension.send(other)
    await bootstrap(scene.extension, scene.app)
    assert (await scene.app.machine.cross_signing.status()).master_key == one.master_key


# M15.10
@pytest.mark.parametrize("seed", range(8))
async def test_one_identity_is_made_whatever_is_lost_late_or_repeated(alice_and_bob: Scene, seed: int) -> None:
    print(f"seed {seed}")  # noqa: T201 (shown where the test fails)
    scene, chosen = alice_and_bob, random.Random(seed)
    answers: list[tuple[Request, Json]] = []
    for _ in range(40):
        client = chosen.choice((scene.app, scene.extension))
        match chosen.randrange(4):
            case 0:
                await client.machine.cross_signing.bootstrap()
            case 1:
                await client.sync()
            case 2:
                requests = await client.machine.outgoing_requests()
                answers += [(each, client.call(each.method, each.path, each.body)) for each in requests]
            case 3 if answers:
                await client.machine.mark_sent(*answers[chosen.randrange(len(answers))])
    await bootstrap(scene.app, scene.extension)
    await settle(scene.app, scene.bob)
    uploads = [each for each in scene.server.arrivals if each.path.endswith("device_signing/upload")]
    assert len({arrival.body for arrival in uploads}) == 1
    for client in (scene.app, scene.extension):
        assert (await client.machine.cross_signing.status()).is_complete
    assert not (await scene.bob.machine.cross_signing.trust_of(ALICE)).changed


# M15.11
async def test_nothing_is_made_before_it_is_known_that_the_user_has_none(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    other = await tablet(scene)
    await bootstrap(other)
    await scene.app.sync()
    status = await scene.extension.machine.cross_signing.bootstrap()
    assert not status.pending
    assert not await signing_keys_uploads(scene.app)
    await scene.app.send_all()
    with pytest.raises(AnotherIdentity):
        await scene.extension.machine.cross_signing.bootstrap()


# M15.11
async def test_keys_that_are_pending_never_replace_an_identity(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    other = await tablet(scene)
    await scene.app.machine.cross_signing.bootstrap()
    assert await signing_keys_uploads(scene.extension)
    await bootstrap(other)
    await settle(scene.app)
    assert not await signing_keys_uploads(scene.extension)
    with pytest.raises(AnotherIdentity):
        await scene.extension.machine.cross_signing.bootstrap()


# M13.2, M15.11, S3.1
async def test_an_upload_whose_answer_was_lost_is_sent_again(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.app.machine.cross_signing.bootstrap()
    (upload,) = await signing_keys_uploads(scene.app)
    scene.app.call(upload.method, upload.path, upload.body)  # the response is lost
    await settle(scene.extension)
    assert (await scene.app.machine.cross_signing.status()).is_complete
    assert (await scene.app.machine.cross_signing.status()).master_key == upload.master_key


# M15.13
async def test_what_was_refused_is_listed_again_with_the_same_keys(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.app.machine.cross_signing.bootstrap()
    (upload,) = await signing_keys_uploads(scene.app)
    assert await scene.extension.machine.mark_failed(upload, status=403) is None
    assert not await signing_keys_uploads(scene.app)
    assert not (await scene.app.machine.cross_signing.status()).pending
    await scene.extension.machine.cross_signing.bootstrap()
    assert await signing_keys_uploads(scene.app) == [upload]
    await bootstrap(scene.app, scene.extension)


# M21.3, M21.4
async def test_an_answer_that_comes_late_or_twice_changes_nothing(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.app.machine.cross_signing.bootstrap()
    (upload,) = await signing_keys_uploads(scene.app)
    await bootstrap(scene.app, scene.extension)
    (signatures,) = [arrival for arrival in scene.server.arrivals if arrival.path.endswith("signatures/upload")]
    assert signatures.status == 200
    commits = scene.app.machine._store.statistics().commits
    await scene.app.machine.mark_sent(upload, {})
    await scene.app.machine.mark_failed(upload, status=400)
    assert scene.app.machine._store.statistics().commits == commits
    assert (await scene.app.machine.cross_signing.status()).is_complete


# M15.13
async def test_a_late_answer_after_a_refusal_counts(alice_and_bob: Scene) -> None:
    """A proxy may refuse a request that the homeserver has accepted."""
    scene = alice_and_bob
    await scene.app.machine.cross_signing.bootstrap()
    (upload,) = await signing_keys_uploads(scene.app)
    await scene.extension.machine.mark_failed(upload, status=403)
    await scene.app.send(upload)
    assert (await scene.extension.machine.cross_signing.status()).private_keys == EVERY_KEY


# M15.12
async def test_an_earlier_query_does_not_bring_the_old_identity_back(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await bootstrap(scene.app)
    await settle(scene.app)
    scene.server._changed.append((scene.server._tick(), ALICE))
    await scene.app.sync()
    (query,) = [each for each in await scene.app.machine.outgoing_requests() if isinstance(each, KeysQuery)]
    old = scene.app.call(query.method, query.path, query.body)
    await scene.extension.machine.cross_signing.reset()
    (upload,) = await signing_keys_uploads(scene.extension)
    await scene.extension.machine.mark_sent(upload, scene.extension.call("POST", upload.path, upload.body | AUTH))
    await scene.app.machine.mark_sent(query, old)
    assert (await scene.app.machine.cross_signing.status()).master_key == upload.master_key


# M15.10
async def test_a_reset_asks_for_a_password_and_keeps_the_old_keys_until_it_is_done(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await bootstrap(scene.app, scene.extension)
    await settle(scene.app, scene.bob)
    before = (await scene.app.machine.cross_signing.status()).master_key
    await scene.app.machine.cross_signing.reset()
    (upload,) = await signing_keys_uploads(scene.extension)
    with pytest.raises(Refused):
        await scene.extension.send(upload)
    assert await scene.extension.machine.mark_failed(upload, status=401) is not None
    status = await scene.app.machine.cross_signing.status()
    assert (status.master_key, status.private_keys, status.pending) == (before, EVERY_KEY, True)
    await scene.app.machine.cross_signing.reset()
    assert await signing_keys_uploads(scene.app) == [upload], "another reset would make other keys"
    await scene.app.machine.mark_sent(upload, scene.extension.call(upload.method, upload.path, upload.body | AUTH))
    await bootstrap(scene.extension, scene.app)
    status = await scene.app.machine.cross_signing.status()
    assert status.master_key == upload.master_key != before
    assert status.verified
    await settle(scene.bob)
    seen = await scene.bob.machine.cross_signing.trust_of(ALICE)
    assert (seen.master_key, seen.changed, seen.violated) == (upload.master_key, True, False)
    assert await device_trust(scene.bob, ALICE, "PHONE") is DeviceTrust.CROSS_SIGNED


async def test_a_reset_that_is_abandoned_leaves_the_identity(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await bootstrap(scene.app)
    await scene.app.machine.cross_signing.reset()
    (upload,) = await signing_keys_uploads(scene.extension)
    await scene.extension.machine.mark_failed(upload, status=403)
    assert (await scene.app.machine.cross_signing.bootstrap()).is_complete
    assert not await signing_keys_uploads(scene.extension)


async def test_private_keys_go_to_another_device(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    other = await tablet(scene)
    await bootstrap(scene.app)
    await settle(scene.app, other)
    assert await device_trust(other, ALICE, "PHONE") is DeviceTrust.CROSS_SIGNED
    seeds = await scene.extension.machine.cross_signing.export_seeds()
    status = await other.machine.cross_signing.import_seeds(seeds)
    assert status.private_keys == EVERY_KEY
    assert status.verified
    assert await device_trust(other, ALICE, "PHONE") is DeviceTrust.VERIFIED
    await bootstrap(other)
    await settle(scene.app, scene.extension)
    assert await device_trust(scene.extension, ALICE, "TABLET") is DeviceTrust.VERIFIED
    assert await other.machine.cross_signing.export_seeds() == seeds


# M15.18
@pytest.mark.parametrize("name", [name.value for name in SigningKeyName])
async def test_private_keys_of_another_identity_are_refused(alice_and_bob: Scene, name: str) -> None:
    scene = alice_and_bob
    await bootstrap(scene.app)
    other = await tablet(scene)
    seeds = await scene.app.machine.cross_signing.export_seeds()
    wrong = {each.value: seeds.seed(each) for each in SigningKeyName} | {name: bytes(32)}
    with pytest.raises(WrongSigningKey):
        await other.machine.cross_signing.import_seeds(SigningSeeds(**wrong))
    assert not (await other.machine.cross_signing.status()).private_keys
    for spoilt in (b"", bytes(31), "x" * 32):
        with pytest.raises(WrongSigningKey):
            await other.machine.cross_signing.import_seeds(SigningSeeds(**{name: spoilt}))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        await other.machine.cross_signing.import_seeds(None)  # type: ignore[arg-type]


# M15.18
async def test_only_the_master_key_says_that_the_identity_is_the_users(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await bootstrap(scene.app)
    other = await tablet(scene)
    seeds = await scene.app.machine.cross_signing.export_seeds()
    part = SigningSeeds(self_signing=seeds.self_signing, user_signing=seeds.user_signing)
    status = await other.machine.cross_signing.import_seeds(part)
    assert status.private_keys == {SigningKeyName.SELF_SIGNING, SigningKeyName.USER_SIGNING}
    assert not status.verified
    with pytest.raises(AnotherIdentity):
        await other.machine.cross_signing.bootstrap()


async def test_private_keys_of_an_identity_that_was_replaced_elsewhere_are_not_used(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    other = await tablet(scene)
    await bootstrap(scene.app)
    await settle(other)
    await reset(other)
    await settle(scene.app)
    status = await scene.extension.machine.cross_signing.status()
    assert (status.private_keys, status.useless_keys, status.verified) == (frozenset(), EVERY_KEY, False)
    assert await scene.extension.machine.cross_signing.export_seeds() == SigningSeeds()
    trust = await scene.extension.machine.cross_signing.trust_of(ALICE)
    assert trust.changed
    assert trust.violated
    with pytest.raises(AnotherIdentity):
        await scene.app.machine.cross_signing.bootstrap()


# M15.4, M15.5
async def test_a_user_is_verified_on_one_device_and_so_on_the_other(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    other = await tablet(scene)
    await bootstrap(scene.app)
    await bootstrap(scene.bob)
    await settle(scene.app, other, scene.bob)
    await verify(scene.app, BOB)
    (upload,) = [
        each for each in await scene.extension.machine.outgoing_requests() if isinstance(each, SignatureUpload)
    ]
    await scene.app.send(upload)
    await settle(scene.app, other, scene.bob)
    for client in (scene.app, scene.extension):
        assert (await client.machine.cross_signing.trust_of(BOB)).verified
        assert await device_trust(client, BOB, "LAPTOP") is DeviceTrust.VERIFIED
    # The other device sees the signature, but does not know yet that the signing identity is its user's.
    assert not (await other.machine.cross_signing.trust_of(BOB)).verified
    await verify(other, ALICE)
    assert (await other.machine.cross_signing.trust_of(BOB)).verified
    # Bob does not see this.
    trust = await scene.bob.machine.cross_signing.trust_of(BOB)
    assert trust.identity is not None
    assert ALICE not in str(trust.identity.master)


# M15.8, M15.9
async def test_a_message_says_who_vouches_for_its_sender(alice_and_bob: Scene) -> None:
    scene = alice_and_bob

    async def trust() -> SenderTrust:
        event = await scene.bob.say(ROOM, "hello")
        await settle(scene.app)
        return (await scene.extension.machine.decrypt_room_event(ROOM, event)).trust

    assert await trust() is SenderTrust.KNOWN_DEVICE
    await bootstrap(scene.bob)
    assert await trust() is SenderTrust.CROSS_SIGNED_DEVICE
    await settle(scene.app)
    await verify(scene.app, BOB)
    assert await trust() is SenderTrust.VERIFIED_DEVICE
    await reset(scene.bob)
    assert await trust() is SenderTrust.CHANGED_IDENTITY
    await scene.app.machine.set_trust(BOB, "LAPTOP", scene.bob.machine.ed25519, LocalTrust.BLOCKED)
    assert await trust() is SenderTrust.BLOCKED_DEVICE
    await scene.app.machine.set_trust(BOB, "LAPTOP", scene.bob.machine.ed25519, LocalTrust.VERIFIED)
    assert await trust() is SenderTrust.VERIFIED_DEVICE


# M15.3, M15.6
@pytest.mark.parametrize("ends_by", ["verify", "accept"])
async def test_a_changed_identity_is_reported_until_a_person_accepts_or_verifies_it(
    alice_and_bob: Scene, ends_by: str
) -> None:
    scene = alice_and_bob
    await bootstrap(scene.bob)
    await settle(scene.app)
    await verify(scene.extension, BOB)
    old = (await scene.app.machine.cross_signing.trust_of(BOB)).master_key
    assert old is not None
    await reset(scene.bob)
    await settle(scene.app)
    signing = scene.extension.machine.cross_signing
    trust = await signing.trust_of(BOB)
    assert (trust.verified, trust.changed, trust.violated) == (False, True, True)
    for stale in (signing.verify_user, signing.accept_identity):
        with pytest.raises(InvalidArgument):
            await stale(BOB, old)
    assert trust.master_key is not None
    await (signing.verify_user if ends_by == "verify" else signing.accept_identity)(BOB, trust.master_key)
    trust = await scene.app.machine.cross_signing.trust_of(BOB)
    assert (trust.verified, trust.changed, trust.violated) == (ends_by == "verify", False, False)
    await reset(scene.bob)
    await settle(scene.app)
    trust = await signing.trust_of(BOB)
    assert (trust.verified, trust.changed, trust.violated) == (False, True, ends_by == "verify")


# M15.6
@pytest.mark.parametrize("by", ["verify", "import"])
async def test_a_user_who_was_verified_elsewhere_counts_as_verified_once_as_soon_as_that_is_known(
    alice_and_bob: Scene, by: str
) -> None:
    scene = alice_and_bob
    other = await tablet(scene)
    await bootstrap(scene.app)
    await bootstrap(scene.bob)
    await settle(scene.app)
    await verify(scene.app, BOB)
    await settle(scene.app, other)
    if by == "verify":
        await verify(other, ALICE)
    else:
        await other.machine.cross_signing.import_seeds(await scene.extension.machine.cross_signing.export_seeds())
    await reset(scene.bob)
    await settle(other)
    assert (await other.machine.cross_signing.trust_of(BOB)).violated


# M15.5
async def test_signatures_of_the_replaced_own_identity_no_longer_count(alice_and_bob: Scene) -> None:
    """Otherwise a homeserver could replace it, and verify all users with the new one."""
    scene = alice_and_bob
    other = await tablet(scene)
    await bootstrap(scene.app)
    await bootstrap(scene.bob)
    await settle(scene.app, other)
    await other.machine.cross_signing.import_seeds(await scene.app.machine.cross_signing.export_seeds())
    await settle(other)
    await verify(scene.app, BOB)
    await settle(scene.app, other)
    assert (await other.machine.cross_signing.trust_of(BOB)).verified
    await reset(scene.app)
    await verify(scene.app, BOB)
    await settle(scene.app, other)
    trust = await other.machine.cross_signing.trust_of(BOB)
    assert (trust.verified, trust.violated) == (False, True)
    await verify(other, ALICE)
    assert (await other.machine.cross_signing.trust_of(BOB)).verified


# M15.15
@pytest.mark.parametrize("by", ["bootstrap", "reset", "import"])
async def test_a_user_who_was_verified_before_the_key_for_that_was_here_is_signed_with_it(
    alice_and_bob: Scene, by: str
) -> None:
    scene = alice_and_bob
    other = await tablet(scene)
    await bootstrap(scene.bob)
    if by != "bootstrap":
        await bootstrap(other if by == "import" else scene.app)
    await settle(scene.app, other)
    await verify(scene.extension, BOB)
    if by == "import":
        await scene.app.machine.cross_signing.import_seeds(await other.machine.cross_signing.export_seeds())
        await bootstrap(scene.extension, scene.app)
    else:
        await (bootstrap if by == "bootstrap" else reset)(scene.app)
    await settle(scene.app, other)
    await verify(other, ALICE)
    assert (await other.machine.cross_signing.trust_of(BOB)).verified


# M15.16
async def test_a_device_of_ones_own_is_signed_by_verifying_it(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    other = await tablet(scene)
    await bootstrap(scene.app)
    await settle(scene.app, scene.bob)
    assert await device_trust(scene.bob, ALICE, "TABLET") is DeviceTrust.UNSIGNED
    signing = scene.extension.machine.cross_signing
    with pytest.raises(InvalidArgument):
        await signing.verify_device(ALICE, "TABLET", scene.app.machine.ed25519)
    await signing.verify_device(ALICE, "TABLET", other.machine.ed25519)
    assert await device_trust(scene.app, ALICE, "TABLET") is DeviceTrust.VERIFIED
    await settle(scene.app, scene.bob)
    assert await device_trust(scene.bob, ALICE, "TABLET") is DeviceTrust.CROSS_SIGNED


# M15.9, S3.1
async def test_a_device_that_a_replaced_identity_has_signed_is_not_signed(alice_and_bob: Scene) -> None:
    """The device counts as unsigned even before the device list is fetched again."""
    scene = alice_and_bob
    other = await tablet(scene)
    await bootstrap(scene.app)
    await settle(other)
    await other.machine.cross_signing.import_seeds(await scene.app.machine.cross_signing.export_seeds())
    await settle(other, scene.app)
    assert await device_trust(scene.extension, ALICE, "TABLET") is DeviceTrust.VERIFIED
    await scene.app.machine.cross_signing.reset()
    (upload,) = await signing_keys_uploads(scene.app)
    await scene.app.machine.mark_sent(upload, scene.app.call("POST", upload.path, upload.body | AUTH))
    assert await device_trust(scene.extension, ALICE, "TABLET") is DeviceTrust.UNSIGNED


# M15.17
async def test_a_signature_that_the_homeserver_refuses_is_not_sent_again(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.app.machine.cross_signing.bootstrap()
    await scene.app.send_all(SigningKeysUpload)
    (upload,) = [each for each in await scene.app.machine.outgoing_requests() if isinstance(each, SignatureUpload)]
    failures: Json = {ALICE: {"PHONE": {"status": 400, "errcode": "M_INVALID_SIGNATURE"}}}
    await scene.extension.machine.mark_sent(upload, {"failures": failures})
    status = await scene.app.machine.cross_signing.status()
    assert not status.own_device_signed
    assert not [each for each in await scene.app.machine.outgoing_requests() if isinstance(each, SignatureUpload)]
    await bootstrap(scene.extension, scene.app)
    assert (await scene.app.machine.cross_signing.status()).own_device_signed


# M15.17
async def test_signatures_that_the_homeserver_refuses_all_at_once_are_abandoned(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.app.machine.cross_signing.bootstrap()
    await scene.app.send_all(SigningKeysUpload)
    (upload,) = [each for each in await scene.app.machine.outgoing_requests() if isinstance(each, SignatureUpload)]
    assert await scene.extension.machine.mark_failed(upload, status=None) is not None
    assert upload in await scene.app.machine.outgoing_requests()
    assert await scene.extension.machine.mark_failed(upload, status=400) is None
    assert not [each for each in await scene.app.machine.outgoing_requests() if isinstance(each, SignatureUpload)]
    await scene.app.machine.mark_sent(upload, {})
    assert not (await scene.app.machine.cross_signing.status()).own_device_signed


async def test_what_this_device_sends_over_olm_bears_the_signature_of_its_user(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await bootstrap(scene.app)
    device = await own(scene.extension)
    signatures = device.keys["signatures"]
    assert isinstance(signatures, dict)
    assert len(signatures[ALICE]) == 2
    await scene.greet()


# M9.3
@pytest.mark.parametrize("change", ["reset", "verify", "accept"])
async def test_a_share_is_old_where_an_identity_or_what_is_thought_of_it_has_changed(
    alice_and_bob: Scene, change: str
) -> None:
    scene, signing = alice_and_bob, alice_and_bob.extension.machine.cross_signing
    await bootstrap(scene.bob)
    await settle(scene.app)
    if change == "accept":
        await verify(scene.app, BOB)
    shared = await scene.app.share(ROOM, [ALICE, BOB])
    key = (await signing.trust_of(BOB)).master_key
    assert key is not None
    if change == "reset":
        scene.server._signing_keys[BOB] |= {
            name.removesuffix("_key"): key for name, key in cross_signing_keys(scene.bob.device, 1).items()
        }
        scene.server._changed.append((scene.server._tick(), BOB))
        await settle(scene.extension)
        assert (await signing.trust_of(BOB)).changed
        assert await device_trust(scene.app, BOB, "LAPTOP") is DeviceTrust.UNSIGNED
    else:
        await (signing.verify_user if change == "verify" else signing.accept_identity)(BOB, key)
    with pytest.raises(RoomKeyNotShared):
        await scene.app.machine.encrypt_room_event(ROOM, shared, "m.room.message", {"body": "for whom?"})


# M9.9
async def test_only_devices_that_their_user_has_signed_get_the_key(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.greet()
    before = await scene.app.share(ROOM, [ALICE, BOB])
    await scene.extension.machine.set_sharing_strategy(ROOM, SharingStrategy.CROSS_SIGNED_DEVICES)
    with pytest.raises(RoomKeyNotShared):
        await scene.app.machine.encrypt_room_event(ROOM, before, "m.room.message", {"body": "not for Bob"})
    event = await scene.app.say(ROOM, "not for Bob")
    await scene.bob.sync()
    with pytest.raises(WithheldRoomKey) as refused:
        await scene.bob.read(ROOM, event)
    assert refused.value.reason_code == "m.unverified"
    await scene.extension.machine.share_room_key(ROOM, [ALICE, BOB])
    assert not await scene.app.machine.outgoing_requests(), "the device is told once"
    await bootstrap(scene.bob)
    await settle(scene.extension)
    event = await scene.app.say(ROOM, "for Bob")
    await scene.bob.sync()
    assert await scene.bob.read(ROOM, event) == "for Bob"


# M9.11, M9.12
async def test_a_room_keeps_its_strategy_whatever_an_event_says(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.app.machine.set_sharing_strategy(ROOM, SharingStrategy.CROSS_SIGNED_DEVICES)
    await scene.app.machine.set_room_encryption(ROOM, {"algorithm": "m.megolm.v1.aes-sha2", "rotation_period_msgs": 7})
    await scene.extension.machine.share_room_key(ROOM, [ALICE, BOB])
    (notice,) = [each for each in await scene.app.machine.outgoing_requests() if isinstance(each, ToDevice)]
    assert notice.event_type == "m.room_key.withheld"
    with pytest.raises(InvalidArgument):
        await scene.app.machine.set_sharing_strategy(ROOM, "all_devices")  # type: ignore[arg-type]


# M9.9
@pytest.mark.parametrize("ends_by", ["sign", "verify", "block"])
async def test_nothing_is_shared_while_a_verified_user_has_an_unverified_device(
    alice_and_bob: Scene, ends_by: str
) -> None:
    scene = alice_and_bob
    await scene.app.machine.set_sharing_strategy(ROOM, SharingStrategy.REFUSE_UNVERIFIED)
    await scene.app.say(ROOM, "to all devices, since nobody is verified")
    await bootstrap(scene.bob)
    await settle(scene.app)
    await scene.app.say(ROOM, "to all devices")
    await verify(scene.extension, BOB)
    await scene.app.say(ROOM, "to all devices")
    scene.server.sign_in(Device(BOB, "TABLET"))
    bobs_tablet = await scene.open(BOB, "TABLET", "bobs-tablet")
    await bobs_tablet.send_all()
    await settle(scene.app, scene.bob)
    with pytest.raises(UnverifiedRecipients) as refused:
        await scene.extension.machine.share_room_key(ROOM, [ALICE, BOB])
    assert [tuple(device) for device in refused.value.devices] == [(BOB, "TABLET")]
    assert not refused.value.users
    key = bobs_tablet.machine.ed25519
    if ends_by == "sign":
        await scene.bob.machine.cross_signing.verify_device(BOB, "TABLET", key)
        await settle(scene.bob, scene.app)
    else:
        trust = LocalTrust.VERIFIED if ends_by == "verify" else LocalTrust.BLOCKED
        await scene.extension.machine.set_trust(BOB, "TABLET", key, trust)
    await scene.app.say(ROOM, "again")


# M9.10
@pytest.mark.parametrize("strategy", [SharingStrategy.REFUSE_UNVERIFIED, SharingStrategy.CROSS_SIGNED_DEVICES])
async def test_nothing_is_shared_while_the_identity_of_a_verified_user_has_changed(
    alice_and_bob: Scene, strategy: SharingStrategy
) -> None:
    scene = alice_and_bob
    await scene.app.machine.set_sharing_strategy(ROOM, strategy)
    await bootstrap(scene.bob)
    await settle(scene.app)
    await verify(scene.app, BOB)
    await scene.app.say(ROOM, "hello")
    await reset(scene.bob)
    await settle(scene.app)
    with pytest.raises(UnverifiedRecipients) as refused:
        await scene.extension.machine.share_room_key(ROOM, [ALICE, BOB])
    assert (refused.value.devices, refused.value.users) == ((), (BOB,))
    key = (await scene.app.machine.cross_signing.trust_of(BOB)).master_key
    assert key is not None
    await scene.app.machine.cross_signing.accept_identity(BOB, key)
    await scene.extension.say(ROOM, "hello again")


def changed(news: Changed[Key] | Lagged) -> Key:
    assert isinstance(news, Changed)
    return news.key


# M14.1
async def test_both_processes_hear_of_private_keys_and_identities(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    signing = scene.extension.machine.cross_signing
    async with signing.identities_stream() as users, signing.cross_signing_status_stream() as statuses:
        await bootstrap(scene.bob)
        await settle(scene.app)
        assert changed(await anext(users)) == BOB
        await scene.app.machine.cross_signing.bootstrap()
        assert changed(await anext(statuses)) is None
        await scene.app.send_all()
        assert changed(await anext(statuses)) is None
        assert changed(await anext(users)) == ALICE


async def test_private_keys_are_not_shown(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await bootstrap(scene.app)
    seeds = await scene.app.machine.cross_signing.export_seeds()
    assert seeds.master is not None
    assert repr(seeds) == "<SigningSeeds ['master', 'self_signing', 'user_signing']>"
    for request in await scene.app.machine.outgoing_requests():
        assert seeds.master not in encode(request)
