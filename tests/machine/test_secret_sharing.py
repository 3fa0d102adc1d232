"""Alice's devices share secrets. The process changes before each step."""

from __future__ import annotations

from typing import cast

import pytest

from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Json
from tests.machine import backups
from tests.machine.own_devices import another_device, encrypted_for, receive, sent_to, trust, verify
from tests.machine.scene import ALICE, BOB, ROOM, Scene
from unwedged.machine import DeviceTrust, LocalTrust, SignatureUpload, asking
from unwedged.machine.identifiers import DeviceId, RequestId
from unwedged.machine.records import ANSWERED, ReceivedSecret, SigningKeyName
from unwedged.machine.secrets import BACKUP_KEY, SECRET_SEND, SIGNING_KEYS
from unwedged.machine.unpadded_base64 import to_unpadded
from unwedged.store import View
from unwedged.store.errors import InvalidArgument

OTHER = "org.example.secret"


async def bootstrapped(client: Client) -> None:
    """Create Alice's cross-signing keys on a device."""
    while not (await client.machine.cross_signing.bootstrap()).is_complete:
        await client.send_all()


async def know_identity(*clients: Client) -> None:
    """Let devices learn the cross-signing keys."""
    for client in clients:
        await client.sync()
        await client.send_all()


async def request_id(client: Client, name: str) -> RequestId:
    """Return the id of the request for a secret."""
    every = await client.machine._store.query(asking.all_asked)
    (found,) = [request_id for request_id, asked in every.items() if asked.wanted.name == name]
    return found


async def names_asked(client: Client) -> set[object]:
    return {asked.wanted.name for asked in (await client.machine._store.query(asking.all_asked)).values()}


async def reach(sender: Client, recipient: Client) -> None:
    """Ensure that the sender has an Olm session with the recipient."""
    await sender.share(ROOM, [recipient.device.user])


async def sent_by(sender: Client, recipient: Client, request: str, secret: object) -> Json:
    """Let a device send a secret, whether it was requested or not."""
    return await encrypted_for(sender, recipient, SECRET_SEND, {"request_id": request, "secret": secret})

    # M17.2


class TestCrossSigningKeys:
    async def test_they_are_asked_for_in_one_process_and_used_in_the_other(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene)
        await bootstrapped(tablet)
        await know_identity(scene.app)
        missing = await scene.extension.machine.secrets.request_missing()
        assert set(missing) == {*SIGNING_KEYS, BACKUP_KEY}
        await scene.app.send_all()
        await tablet.sync()
        await tablet.send_all()
        async with scene.app.machine.cross_signing.cross_signing_status_stream() as stream:
            outcome = await scene.extension.sync()
            assert outcome.problems == []
            await anext(stream)
        status = await scene.app.machine.cross_signing.status()
        assert status.private_keys == set(SigningKeyName)
        assert (
            await scene.extension.machine.cross_signing.export_seeds()
            == await tablet.machine.cross_signing.export_seeds()
        )
        assert await scene.app.machine.secrets.request_missing() == [BACKUP_KEY]
        for name in SIGNING_KEYS:
            assert await scene.extension.machine.secrets.received(name) is None
        await scene.extension.send_all()
        requests = sent_to(scene, tablet.device, asking.SECRET_REQUEST)
        assert [request["action"] for request in requests] == ["request"] * 4  # it remembers that it has answered
        assert await names_asked(scene.app) == {BACKUP_KEY}

    # M15.15
    @pytest.mark.parametrize("name", [SigningKeyName.SELF_SIGNING, SigningKeyName.USER_SIGNING])
    async def test_what_was_verified_before_a_key_was_here_is_signed_when_it_arrives(
        self, alice_and_bob: Scene, name: SigningKeyName
    ) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene)
        await bootstrapped(tablet)
        await bootstrapped(scene.bob)
        await know_identity(scene.app, tablet)
        bobs = (await scene.app.machine.cross_signing.trust_of(BOB)).master_key
        assert bobs is not None
        await scene.app.machine.cross_signing.verify_user(BOB, bobs)
        laptop = await another_device(scene, "DESK", verified=False)
        await know_identity(scene.app)
        await scene.app.machine.cross_signing.verify_device(ALICE, "DESK", laptop.machine.ed25519)
        await scene.extension.send_all()
        await scene.extension.machine.secrets.request([f"m.cross_signing.{name.value}"])
        await scene.app.send_all()
        await tablet.sync()
        await tablet.send_all()
        await scene.extension.sync()
        requests = await scene.app.machine.outgoing_requests()
        (upload,) = [each for each in requests if isinstance(each, SignatureUpload)]
        signed = {(user, key) for user, keys in upload.body.items() for key in cast("Json", keys)}
        desk = {(ALICE, "DESK")}
        assert signed == (desk if name is SigningKeyName.SELF_SIGNING else {(BOB, bobs)})
        await scene.app.send(upload)
        await know_identity(scene.app, tablet)
        if name is SigningKeyName.SELF_SIGNING:
            assert (await tablet.machine.cross_signing.trust_of(ALICE)).of(
                (await tablet.machine.devices_of(ALICE))[DeviceId("DESK")]
            ) is DeviceTrust.VERIFIED

    # M17.1, M17.8
    async def test_the_phone_gives_them_to_a_device_that_is_verified_later(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        await bootstrapped(scene.app)
        tablet = await another_device(scene, verified=False)
        await trust(tablet, scene.app, LocalTrust.VERIFIED)
        await tablet.machine.secrets.request_missing()
        await tablet.send_all()
        await scene.extension.sync()
        await scene.app.send_all()
        assert sent_to(scene, tablet.device, "m.room.encrypted") == []
        await scene.extension.machine.cross_signing.verify_device(ALICE, "TABLET", tablet.machine.ed25519)
        await scene.app.send_all()
        await tablet.sync()
        assert (await tablet.machine.cross_signing.status()).private_keys == set(SigningKeyName)

    # M17.4
    async def test_a_key_that_is_not_that_of_the_public_key_does_not_count(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene)
        await bootstrapped(tablet)
        await know_identity(scene.app)
        await reach(tablet, scene.app)
        name = "m.cross_signing.self_signing"
        await scene.extension.machine.secrets.request([name])
        await scene.app.send_all()
        asked = await request_id(scene.app, name)
        for secret, code in ((to_unpadded(bytes(32)), "wrong_secret"), ("AAAA", "wrong_secret"), ("!", "malformed")):
            assert await receive(scene.extension, await sent_by(tablet, scene.app, asked, secret)) == [code]
        assert (await scene.app.machine.cross_signing.status()).private_keys == set()
        assert await names_asked(scene.app) == {name}
        await tablet.sync()
        await tablet.send_all()
        await scene.extension.sync()
        assert (await scene.app.machine.cross_signing.status()).private_keys == {SigningKeyName.SELF_SIGNING}

    # M17.6
    async def test_what_comes_from_elsewhere_is_asked_for_no_more(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene)
        await bootstrapped(tablet)
        await know_identity(scene.app)
        await scene.app.machine.secrets.request(SIGNING_KEYS)
        await scene.extension.send_all()
        await scene.app.machine.cross_signing.import_seeds(await tablet.machine.cross_signing.export_seeds())
        await scene.extension.send_all()
        actions = [request["action"] for request in sent_to(scene, tablet.device, asking.SECRET_REQUEST)]
        assert actions == ["request"] * 3 + ["request_cancellation"] * 3
        await tablet.sync()
        before = len(sent_to(scene, scene.app.device, "m.room.encrypted"))
        await tablet.send_all()
        assert len(sent_to(scene, scene.app.device, "m.room.encrypted")) == before

    # M17.5


class TestInbox:
    async def test_a_secret_that_can_not_be_checked_stays_until_it_is_used(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene)
        await reach(tablet, scene.app)
        await scene.app.machine.secrets.request([OTHER])
        await scene.extension.send_all()
        sent = await sent_by(tablet, scene.app, await request_id(scene.app, OTHER), "the secret")
        async with (
            scene.app.machine.secrets.secrets_stream() as here,
            scene.extension.machine.secrets.secrets_stream() as there,
        ):
            assert await receive(scene.extension, sent) == []
            for stream in (here, there):
                news = await anext(stream)
                assert getattr(news, "key", news) == OTHER
        received = await scene.app.machine.secrets.received(OTHER)
        assert received == ReceivedSecret("the secret", tablet.machine.device.device_id)
        assert "the secret" not in repr(received)
        await scene.extension.machine.secrets.request([OTHER])  # the secret is here
        await scene.app.send_all()
        assert await names_asked(scene.app) == set()
        await scene.extension.machine.secrets.delete_received(OTHER)
        assert await scene.app.machine.secrets.received(OTHER) is None

    # M17.5
    async def test_a_key_of_a_backup_that_is_not_known_stays_there(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene)
        await reach(tablet, scene.app)
        await scene.app.machine.secrets.request_missing()
        await scene.extension.send_all()
        key = to_unpadded(bytes(range(32)))
        sent = await sent_by(tablet, scene.app, await request_id(scene.app, BACKUP_KEY), key)
        assert await receive(scene.extension, sent) == []
        received = await scene.app.machine.secrets.received(BACKUP_KEY)
        assert received is not None
        assert received.secret == key

    # M17.5
    async def test_the_key_of_the_backup_is_used_where_the_version_is_known(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene)
        made = await tablet.machine.key_backup.create_version()
        await reach(tablet, scene.app)
        assert await receive(tablet, secret_request("PHONE", BACKUP_KEY)) == []
        before = len(sent_to(scene, scene.app.device, "m.room.encrypted"))
        await tablet.send_all()  # There is no version yet.
        assert len(sent_to(scene, scene.app.device, "m.room.encrypted")) == before
        await tablet.machine.mark_sent(made.request, tablet.call("POST", made.request.path, made.request.body))
        await backups.ask_version(scene.app)
        await scene.extension.machine.secrets.request([BACKUP_KEY])
        await scene.app.send_all()
        await tablet.sync()
        await tablet.send_all()
        await scene.extension.sync()
        assert await scene.app.machine.key_backup.decryption_key() == made.decryption_key
        assert await scene.extension.machine.secrets.received(BACKUP_KEY) is None
        assert BACKUP_KEY not in await scene.extension.machine.secrets.request_missing()

    # M17.5
    async def test_the_key_of_the_backup_is_used_as_soon_as_the_version_is_known(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene)
        made = await backups.create(tablet)
        await reach(tablet, scene.app)
        await scene.app.machine.secrets.request([BACKUP_KEY])
        await scene.extension.send_all()
        await tablet.sync()
        await tablet.send_all()
        await scene.extension.sync()
        assert await scene.app.machine.secrets.received(BACKUP_KEY) is not None
        await backups.ask_version(scene.app)
        assert await scene.extension.machine.key_backup.decryption_key() == made.decryption_key
        assert await scene.extension.machine.secrets.received(BACKUP_KEY) is None

    async def test_the_key_of_another_backup_is_not_used(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene)
        await backups.create(scene.bob)  # of another user
        made = await backups.create(tablet)
        await backups.ask_version(scene.app)
        await reach(tablet, scene.app)
        await scene.extension.machine.secrets.request([BACKUP_KEY])
        await scene.app.send_all()
        key = to_unpadded(bytes(range(32)))
        sent = await sent_by(tablet, scene.app, await request_id(scene.app, BACKUP_KEY), key)
        assert await receive(scene.extension, sent) == []
        assert await scene.app.machine.key_backup.decryption_key() is None
        received = await scene.app.machine.secrets.received(BACKUP_KEY)
        assert received is not None
        assert received.secret == key
        assert key != to_unpadded(made.decryption_key)

    # M17.6
    async def test_the_others_are_told_when_one_has_answered(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        tablet, desk = await another_device(scene), await another_device(scene, "DESK")
        for device in (tablet, desk):
            await reach(device, scene.app)
        await scene.app.machine.secrets.request([OTHER])
        await scene.extension.send_all()
        asked = await request_id(scene.app, OTHER)
        assert await receive(scene.extension, await sent_by(tablet, scene.app, asked, "the secret")) == []
        await scene.app.send_all()
        actions = [
            [request["action"] for request in sent_to(scene, device.device, asking.SECRET_REQUEST)]
            for device in (tablet, desk)
        ]
        assert actions == [["request"], ["request", "request_cancellation"]]
        assert await receive(scene.extension, await sent_by(desk, scene.app, asked, "too late")) == ["not_asked"]
        received = await scene.app.machine.secrets.received(OTHER)
        assert received is not None
        assert received.secret == "the secret"

    async def test_one_text_is_no_list_of_names(self, alice_and_bob: Scene) -> None:
        for names in ("name", [5]):
            with pytest.raises(InvalidArgument):
                await alice_and_bob.app.machine.secrets.request(names)  # type: ignore[arg-type]

    # M17.4


class TestWhatDoesNotCount:
    async def test_a_secret_that_nobody_asked_for(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene)
        await reach(tablet, scene.app)
        assert await receive(scene.app, await sent_by(tablet, scene.app, "x", "the secret")) == ["not_asked"]

    # M17.4
    async def test_a_secret_from_a_device_that_was_not_asked(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        tablet, desk = await another_device(scene), await another_device(scene, "DESK", verified=False)
        await scene.app.machine.secrets.request([OTHER])
        await scene.extension.send_all()
        asked = await request_id(scene.app, OTHER)
        await verify(scene, desk)
        await reach(desk, scene.app)
        assert await receive(scene.extension, await sent_by(desk, scene.app, asked, "the secret")) == ["not_asked"]
        await reach(tablet, scene.app)
        assert await receive(scene.app, await sent_by(tablet, scene.app, asked, "the secret")) == []

    # M17.4
    async def test_a_secret_from_a_device_that_is_verified_no_more(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene)
        await reach(tablet, scene.app)
        await scene.app.machine.secrets.request([OTHER])
        await scene.extension.send_all()
        asked = await request_id(scene.app, OTHER)
        for told in (LocalTrust.UNSET, LocalTrust.BLOCKED):
            await trust(scene.app, tablet, told)
            assert await receive(scene.extension, await sent_by(tablet, scene.app, asked, "the secret")) == [
                "not_asked"
            ]
        assert await scene.app.machine.secrets.received(OTHER) is None

    # M17.4
    @pytest.mark.parametrize("claimed", [{"keys": {"ed25519": "another"}}, {"sender": BOB}])
    async def test_a_secret_from_a_device_that_claims_to_be_another(self, alice_and_bob: Scene, claimed: Json) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene)
        await reach(tablet, scene.app)
        await scene.app.machine.secrets.request([OTHER])
        await scene.extension.send_all()
        content: Json = {"request_id": await request_id(scene.app, OTHER), "secret": "the secret"}
        sent = await encrypted_for(tablet, scene.app, SECRET_SEND, content, claimed=claimed)
        assert await receive(scene.extension, sent) == ["not_asked"]

    async def test_a_secret_from_another_user(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        await another_device(scene)
        await scene.greet()
        await scene.app.machine.secrets.request([OTHER])
        await scene.extension.send_all()
        asked = await request_id(scene.app, OTHER)
        await scene.app.machine.set_trust(BOB, "LAPTOP", scene.bob.machine.ed25519, LocalTrust.VERIFIED)
        assert await receive(scene.extension, await sent_by(scene.bob, scene.app, asked, "the secret")) == ["not_asked"]

    @pytest.mark.parametrize("content", [{}, {"request_id": 5, "secret": "x"}, {"request_id": "x", "secret": None}])
    async def test_what_is_no_secret(self, alice_and_bob: Scene, content: Json) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene)
        await reach(tablet, scene.app)
        sent = await encrypted_for(tablet, scene.app, SECRET_SEND, content)
        assert await receive(scene.extension, sent) == ["malformed"]

    async def test_a_secret_in_answer_to_a_request_for_a_room_key(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene)
        shared = await tablet.share(ROOM, [ALICE])
        event = tablet.post(ROOM, await tablet.machine.encrypt_room_event(ROOM, shared, "m.room.message", {}))
        await scene.app.machine.request_room_keys(ROOM, [event])
        await scene.extension.send_all()
        ((asked, _),) = (await scene.app.machine._store.query(asking.all_asked)).items()
        assert await receive(scene.extension, await sent_by(tablet, scene.app, asked, "x")) == ["not_asked"]

    # M17.9


class TestAnswering:
    async def test_a_secret_is_given_once_whatever_comes_again(self, alice_and_bob: Scene) -> None:
        """``secret-sent-twice``: two processes process the waiting requests, over three connections."""
        scene = alice_and_bob
        await bootstrapped(scene.app)
        tablet = await another_device(scene)
        await tablet.machine.secrets.request(["m.cross_signing.master"])
        await tablet.send_all()
        for connection, client in (("one", scene.app), ("two", scene.extension)):
            await client.sync(connection)
        for client in (scene.extension, scene.app):
            await client.send_all()
        await scene.extension.sync("three")
        await scene.app.send_all()
        assert len(sent_to(scene, tablet.device, "m.room.encrypted")) == 1
        await tablet.sync()
        assert (await tablet.machine.cross_signing.status()).private_keys == {SigningKeyName.MASTER}

    # M17.1, M17.10
    async def test_nobody_else_gets_a_secret(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        await bootstrapped(scene.app)
        await another_device(scene, "UNVERIFIED", verified=False)
        blocked = await another_device(scene, "BLOCKED")
        await trust(scene.app, blocked, LocalTrust.BLOCKED)
        await scene.greet()
        await scene.app.machine.set_trust(BOB, "LAPTOP", scene.bob.machine.ed25519, LocalTrust.VERIFIED)
        before = len(scene.server.arrivals)
        for device in ("UNVERIFIED", "BLOCKED", "NOWHERE", "PHONE"):
            assert await receive(scene.extension, secret_request(device)) == []
        assert await receive(scene.extension, {**secret_request("LAPTOP"), "sender": BOB}) == ["request_refused"]
        await scene.app.send_all()
        assert not [each for each in scene.server.arrivals[before:] if "sendToDevice" in each.path]

    async def test_a_secret_that_is_not_here_or_not_known_is_not_given_and_does_not_wait(
        self, alice_and_bob: Scene
    ) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene)
        await reach(scene.app, tablet)
        before = len(sent_to(scene, tablet.device, "m.room.encrypted"))
        assert (
            await receive(scene.app, secret_request("TABLET", BACKUP_KEY, "1"), secret_request("TABLET", OTHER, "2"))
            == []
        )
        await scene.extension.send_all()
        assert len(sent_to(scene, tablet.device, "m.room.encrypted")) == before

        async def answered(view: View) -> int:
            known = await view.get(ANSWERED, tablet.machine.device.device_id)
            return 0 if known is None else len(known)

        assert await scene.app.machine._store.query(answered) == 2

    async def test_no_secret_is_shown(self, alice_and_bob: Scene, caplog: pytest.LogCaptureFixture) -> None:
        scene = alice_and_bob
        caplog.set_level("DEBUG")
        tablet = await another_device(scene)
        await bootstrapped(tablet)
        await know_identity(scene.app)
        await scene.app.machine.secrets.request_missing()
        await scene.app.send_all()
        await tablet.sync()
        await tablet.send_all()
        outcome = await scene.extension.sync()
        seeds = await tablet.machine.cross_signing.export_seeds()
        assert seeds.master is not None
        assert to_unpadded(seeds.master) not in caplog.text + repr(outcome)


def secret_request(device: str, name: str = "m.cross_signing.master", request: str = "1") -> Json:
    content = {"action": "request", "name": name, "request_id": request, "requesting_device_id": device}
    return {"type": asking.SECRET_REQUEST, "sender": ALICE, "content": content}
