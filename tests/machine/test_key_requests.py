"""Alice's devices request room keys from each other. The process changes before each step."""

from __future__ import annotations

import pytest

from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Device, Json
from tests.machine.own_devices import another_device, encrypted_for, receive, sent_to, trust, verify
from tests.machine.scene import ALICE, BOB, MEGOLM, ROOM, Scene
from unwedged.machine import LocalTrust, MachineError, MissingRoomKey, SenderTrust, ToDevice, asking, gossip, outbox
from unwedged.machine.errors import MalformedMessage, NotEncrypted, UnknownIndex, WithheldRoomKey
from unwedged.machine.identifiers import GroupSessionId, GroupSessionName, PeerName, UserId
from unwedged.machine.key_requests import FORWARDED_ROOM_KEY
from unwedged.machine.records import ANSWERED, ASKED, INBOUND, OUTBOX, PEER, WAITING, KeySource
from unwedged.store import Transaction, View

CANCEL = "request_cancellation"


def session_of(event: Json) -> GroupSessionId:
    content = event["content"]
    assert isinstance(content, dict)
    return GroupSessionId(str(content["session_id"]))


async def asked(client: Client) -> int:
    async def count(view: View) -> int:
        return len(await view.keys(ASKED))

    return await client.machine._store.query(count)


async def waiting(client: Client) -> int:
    async def count(view: View) -> int:
        number = 0
        for device_id in await view.keys(WAITING):
            requests = await view.get(WAITING, device_id)
            number += len(requests or {})
        return number

    return await client.machine._store.query(count)


async def requests_for_keys(client: Client) -> list[ToDevice]:
    requests = [each for each in await client.machine.outgoing_requests() if isinstance(each, ToDevice)]
    return [each for each in requests if each.event_type == asking.ROOM_KEY_REQUEST]


async def source_of(client: Client, event: Json) -> KeySource | None:
    async def read(view: View) -> KeySource | None:
        inbound = await view.get(INBOUND, GroupSessionName(ROOM, session_of(event)))
        return None if inbound is None else inbound.source

    return await client.machine._store.query(read)


async def old_message(scene: Scene) -> Json:
    """Return a message of Bob's that Alice's phone has read, and that her later devices can't read."""
    event = await scene.bob.say(ROOM, "before the tablet")
    await scene.app.sync()
    assert await scene.extension.read(ROOM, event) == "before the tablet"
    return event


async def own_old_message(tablet: Client) -> Json:
    """Return a message whose key the tablet has and the phone lacks."""
    shared = await tablet.share(ROOM, [])
    content = await tablet.machine.encrypt_room_event(ROOM, shared, "m.room.message", {"body": "on the tablet"})
    return tablet.post(ROOM, content)


async def unreadable(client: Client, event: Json) -> MachineError:
    with pytest.raises(MachineError) as raised:
        await client.read(ROOM, event)
    return raised.value

    # M18.5


class TestAsking:
    async def test_a_message_is_read_with_a_key_of_another_device(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene)
        event = await own_old_message(tablet)
        assert isinstance(await unreadable(scene.app, event), MissingRoomKey)
        assert await scene.extension.machine.request_room_keys(ROOM, [event]) == 1
        await scene.app.send_all()
        await tablet.sync()
        await tablet.send_all()  # This begins with a claim, since there is no session yet.
        assert await waiting(tablet) == 0
        await scene.extension.sync()
        decrypted = await scene.app.machine.decrypt_room_event(ROOM, event)
        assert decrypted.content["body"] == "on the tablet"
        assert decrypted.trust is SenderTrust.IMPORTED_KEY  # the key has no proof of its origin
        assert await source_of(scene.app, event) is KeySource.FORWARDED
        assert await asked(scene.extension) == 0
        await scene.app.send_all()
        assert len(sent_to(scene, tablet.device, asking.ROOM_KEY_REQUEST)) == 1  # no cancellation to the tablet
        assert await scene.extension.machine.request_room_keys(ROOM, [event]) == 0

    # M18.4
    async def test_a_new_device_gets_the_key_of_somebody_elses_message(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        event = await old_message(scene)
        tablet = await another_device(scene)
        await tablet.machine.request_room_keys(ROOM, [event])
        await tablet.send_all()
        await scene.extension.sync()
        await scene.app.send_all()
        await tablet.sync()
        assert await tablet.read(ROOM, event) == "before the tablet"

    # M17.2, M18.2
    async def test_a_key_is_asked_for_once_whoever_asks_and_from_the_earliest_message(
        self, alice_and_bob: Scene
    ) -> None:
        scene = alice_and_bob
        events = [await old_message(scene) for _ in range(3)]
        tablet = await another_device(scene)
        other = await scene.open(ALICE, "TABLET", "other")
        await tablet.machine.request_room_keys(ROOM, [events[2]])
        await tablet.send_all()
        await other.machine.request_room_keys(ROOM, [events[1]])
        await other.machine.request_room_keys(ROOM, events)
        await tablet.send_all()
        assert len(sent_to(scene, scene.app.device, asking.ROOM_KEY_REQUEST)) == 1
        (request,) = (await tablet.machine._store.query(asking.all_asked)).values()
        assert getattr(request.wanted, "index", None) == 0

    # M17.3
    async def test_a_device_is_asked_when_it_is_verified(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene, verified=False)
        event = await own_old_message(tablet)
        await scene.app.machine.request_room_keys(ROOM, [event])
        await scene.extension.send_all()
        assert sent_to(scene, tablet.device, asking.ROOM_KEY_REQUEST) == []
        await verify(scene, tablet)
        await scene.extension.send_all()
        assert len(sent_to(scene, tablet.device, asking.ROOM_KEY_REQUEST)) == 1

    # M18.2
    async def test_a_key_that_comes_from_elsewhere_settles_the_request(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene)
        event = await own_old_message(tablet)
        await scene.app.machine.request_room_keys(ROOM, [event])
        await scene.extension.send_all()
        await scene.app.machine.import_room_keys(await tablet.machine.export_room_keys())
        await scene.extension.send_all()
        actions = [request["action"] for request in sent_to(scene, tablet.device, asking.ROOM_KEY_REQUEST)]
        assert actions == ["request", "request_cancellation"]
        assert await asked(scene.app) == 0
        await tablet.sync()
        await tablet.send_all()
        assert sent_to(scene, scene.app.device, "m.room.encrypted") == []  # cancelled before it was answered

    # M17.7
    async def test_a_cancellation_is_listed_only_when_the_request_was_answered(self, alice_and_bob: Scene) -> None:
        """A cancellation before its request would have no effect: the other device would keep the request forever."""
        scene = alice_and_bob
        tablet, desk = await another_device(scene), await another_device(scene, "DESK", verified=False)
        event = await own_old_message(tablet)
        await scene.app.machine.request_room_keys(ROOM, [event])
        (to_tablet,) = await requests_for_keys(scene.extension)
        await verify(scene, desk)
        (first, to_desk) = await requests_for_keys(scene.app)
        assert first == to_tablet
        await scene.app.machine.import_room_keys(await tablet.machine.export_room_keys())
        assert await requests_for_keys(scene.extension) == [to_tablet, to_desk]
        await scene.extension.send(to_desk)
        assert await requests_for_keys(scene.app) == [to_tablet]
        await scene.app.send(to_tablet)
        (cancellation,) = await requests_for_keys(scene.extension)
        assert {content["action"] for content in cancellation.messages[UserId(ALICE)].values()} == {CANCEL}
        assert cancellation.messages[UserId(ALICE)].keys() == {"TABLET", "DESK"}

    # M18.2
    async def test_a_key_that_begins_too_late_does_not_settle_the_request(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        early = await scene.bob.say(ROOM, "early")  # only the phone has this key
        tablet = await another_device(scene)
        desk = await another_device(scene, "DESK")
        await tablet.sync()
        await tablet.send_all()
        await trust(tablet, desk, LocalTrust.VERIFIED)
        await trust(desk, tablet, LocalTrust.VERIFIED)
        await scene.bob.sync()
        await scene.bob.send_all()
        late = await scene.bob.say(ROOM, "late")
        assert session_of(late) == session_of(early)
        for client in (tablet, desk):
            await client.sync()
            assert await client.read(ROOM, late) == "late"
        await tablet.machine.request_room_keys(ROOM, [early])
        await tablet.send_all()
        await desk.sync()
        await desk.send_all()
        await tablet.sync()
        assert isinstance(await unreadable(tablet, early), UnknownIndex)
        assert await asked(tablet) == 1
        await scene.extension.sync()
        await scene.app.send_all()
        await tablet.sync()
        assert await tablet.read(ROOM, early) == "early"
        assert await asked(tablet) == 0

    # M18.3
    async def test_the_oldest_of_too_many_requests_is_abandoned(
        self, alice_and_bob: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(asking, "MOST_ASKED", 2)
        scene = alice_and_bob
        tablet = await another_device(scene)
        events = []
        for _ in range(3):
            events.append(await own_old_message(tablet))
            await tablet.machine.discard_room_key(ROOM)
            scene.clock.added_ms += 1
            await scene.app.machine.request_room_keys(ROOM, [events[-1]])
            await scene.extension.send_all()
        requests = sent_to(scene, tablet.device, asking.ROOM_KEY_REQUEST)
        assert [request["action"] for request in requests] == ["request", "request", "request_cancellation", "request"]
        assert requests[2]["request_id"] == requests[0]["request_id"]
        assert await asked(scene.app) == 2

    async def test_what_is_no_message_is_not_asked_for(self, alice_and_bob: Scene) -> None:
        contents: tuple[Json, ...] = ({"algorithm": MEGOLM, "session_id": "x", "ciphertext": "AAAA"}, {})
        for content in contents:
            with pytest.raises(MalformedMessage):
                await alice_and_bob.app.machine.request_room_keys(
                    ROOM, [{"event_id": "$x", "sender": BOB, "content": content}]
                )
        assert await asked(alice_and_bob.extension) == 0

    # M18.1


class TestAnswersThatDoNotCount:
    async def test_a_key_that_nobody_asked_for(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene)
        event = await own_old_message(tablet)
        forwarded = await forwarded_by(scene, tablet, event)
        assert await receive(scene.extension, forwarded) == ["not_asked"]
        assert isinstance(await unreadable(scene.app, event), MissingRoomKey)

    # M18.1
    async def test_a_key_from_a_device_that_is_verified_no_more(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene)
        event = await own_old_message(tablet)
        await scene.app.machine.request_room_keys(ROOM, [event])
        await scene.extension.send_all()
        await trust(scene.app, tablet, LocalTrust.UNSET)
        assert await receive(scene.extension, await forwarded_by(scene, tablet, event)) == ["not_asked"]
        assert await asked(scene.app) == 1

    async def test_a_key_from_another_user(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene)
        event = await own_old_message(tablet)
        await scene.greet()
        await scene.app.machine.set_trust(BOB, "LAPTOP", scene.bob.machine.ed25519, LocalTrust.VERIFIED)
        await scene.extension.machine.request_room_keys(ROOM, [event])
        await scene.app.send_all()
        content = await content_of(tablet, event)
        forwarded = await encrypted_for(scene.bob, scene.app, FORWARDED_ROOM_KEY, content)
        assert await receive(scene.extension, forwarded) == ["not_asked"]
        assert isinstance(await unreadable(scene.app, event), MissingRoomKey)

    async def test_a_key_that_comes_in_the_clear(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene)
        event = await own_old_message(tablet)
        await scene.app.machine.request_room_keys(ROOM, [event])
        await scene.app.send_all()
        position = await scene.app.machine.sync_position()
        clear = {"type": FORWARDED_ROOM_KEY, "sender": ALICE, "content": await content_of(tablet, event)}
        response: Json = {"next_batch": "x", "to_device": {"events": [clear]}}
        await scene.extension.machine.receive_sync_changes(response, position)
        assert isinstance(await unreadable(scene.app, event), MissingRoomKey)

    @pytest.mark.parametrize(
        ("changed", "code"),
        [
            ({"algorithm": "m.other"}, "unsupported_algorithm"),
            ({"session_key": "none"}, "malformed"),
            ({"session_id": None}, "malformed"),
            ({"sender_claimed_ed25519_key": None}, "malformed"),
            ({"room_id": "!other:example.org"}, "not_asked"),
        ],
    )
    async def test_what_is_no_key_or_another_one(self, alice_and_bob: Scene, changed: Json, code: str) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene)
        event = await own_old_message(tablet)
        await scene.app.machine.request_room_keys(ROOM, [event])
        await scene.extension.send_all()
        forwarded = await forwarded_by(scene, tablet, event, changed)
        assert await receive(scene.extension, forwarded) == [code]
        assert await asked(scene.app) == 1
        assert await receive(scene.app, await forwarded_by(scene, tablet, event)) == []
        assert await scene.extension.read(ROOM, event) == "on the tablet"

    async def test_a_key_under_the_name_of_another_one_that_was_asked_for(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene)
        event = await own_old_message(tablet)
        await tablet.machine.discard_room_key(ROOM)
        other = await own_old_message(tablet)
        await scene.app.machine.request_room_keys(ROOM, [event, other])
        await scene.extension.send_all()
        forwarded = await forwarded_by(scene, tablet, event, {"session_id": session_of(other)})
        assert await receive(scene.extension, forwarded) == ["malformed"]
        for each in (event, other):
            assert isinstance(await unreadable(scene.app, each), MissingRoomKey)
        assert await asked(scene.extension) == 2


async def content_of(owner: Client, event: Json) -> Json:
    (exported,) = [each for each in await owner.machine.export_room_keys() if each.session_id == session_of(event)]
    return {
        "algorithm": MEGOLM,
        "room_id": ROOM,
        "session_id": exported.session_id,
        "session_key": exported.session_key,
        "sender_key": exported.sender_key,
        "sender_claimed_ed25519_key": exported.sender_claimed_keys["ed25519"],
        "forwarding_curve25519_key_chain": [],
    }


async def forwarded_by(scene: Scene, tablet: Client, event: Json, changed: Json | None = None) -> Json:
    """Let a device forward a key, whether it was requested or not."""
    await reach(scene.app, tablet)
    content = await content_of(tablet, event)
    return await encrypted_for(tablet, scene.app, FORWARDED_ROOM_KEY, content | (changed or {}))


async def reach(recipient: Client, sender: Client) -> None:
    """Ensure that the sender has an Olm session with the recipient."""
    await sender.sync()
    await sender.share(ROOM, [recipient.device.user])

    # M17.8, M17.9


class TestAnswering:
    async def test_a_request_waits_until_its_device_is_verified_and_is_answered_once(
        self, alice_and_bob: Scene
    ) -> None:
        scene = alice_and_bob
        event = await old_message(scene)
        tablet = await another_device(scene, verified=False)
        await trust(tablet, scene.app, LocalTrust.VERIFIED)
        await tablet.machine.request_room_keys(ROOM, [event])
        await tablet.send_all()
        await scene.app.sync("app")
        await scene.extension.send_all()
        assert await waiting(scene.app) == 1
        await scene.extension.sync("extension")  # this delivers the request again
        await trust(scene.extension, tablet, LocalTrust.VERIFIED)
        await scene.app.send_all()
        assert await waiting(scene.extension) == 0
        for client in (scene.extension, scene.app):
            await client.sync("third")  # a third delivery
            await client.send_all()
        assert len(sent_to(scene, tablet.device, "m.room.encrypted")) == 1
        await tablet.sync()
        assert await tablet.read(ROOM, event) == "before the tablet"

    # M17.8
    async def test_a_request_that_is_cancelled_is_not_answered(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene, verified=False)
        request = room_key_request("x", "1")
        assert await receive(scene.app, request) == []
        cancelled = {**request, "content": {**content_in(request), "action": "request_cancellation"}}
        assert await receive(scene.extension, cancelled) == []
        assert await receive(scene.app, request) == []  # the same event over another connection
        assert await waiting(scene.extension) == 0
        await verify(scene, tablet)
        await scene.app.send_all()
        assert sent_to(scene, tablet.device, "m.room_key.withheld") == []

    # M18.4
    async def test_a_device_is_told_that_a_key_is_not_here(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        tablet = await another_device(scene)
        event = await own_old_message(tablet)
        desk = await another_device(scene, "DESK")
        await desk.machine.request_room_keys(ROOM, [event])
        await desk.send_all()
        await scene.extension.sync()
        await scene.app.send_all()
        (withheld,) = sent_to(scene, desk.device, "m.room_key.withheld")
        assert (withheld["code"], withheld["session_id"]) == ("m.unavailable", session_of(event))
        await desk.sync()
        # The notice is not from the key's creator, and another device may have the key.
        assert isinstance(await unreadable(desk, event), MissingRoomKey)
        assert await asked(desk) == 1

    # M18.6
    async def test_that_a_device_has_not_got_a_key_does_not_hide_why_its_maker_withholds_it(
        self, alice_and_bob: Scene
    ) -> None:
        scene = alice_and_bob
        await scene.bob.machine.set_trust(ALICE, "PHONE", scene.app.machine.ed25519, LocalTrust.BLOCKED)
        event = await scene.bob.say(ROOM, "not for the phone")
        await scene.app.sync()
        unavailable = {
            "algorithm": MEGOLM,
            "room_id": ROOM,
            "session_id": session_of(event),
            "sender_key": "x",
            "code": "m.unavailable",
        }
        assert await receive(scene.app, {"type": "m.room_key.withheld", "sender": ALICE, "content": unavailable}) == []
        error = await unreadable(scene.extension, event)
        assert isinstance(error, WithheldRoomKey)
        assert error.reason_code == "m.blacklisted"

    # M17.11, M18.4
    async def test_a_device_that_is_blocked_gets_no_key_and_is_told(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        event = await old_message(scene)
        tablet = await another_device(scene)
        await tablet.machine.request_room_keys(ROOM, [event])
        await tablet.send_all()
        await trust(scene.app, tablet, LocalTrust.BLOCKED)
        await scene.extension.sync()
        await scene.app.send_all()
        (withheld,) = sent_to(scene, tablet.device, "m.room_key.withheld")
        assert withheld["code"] == "m.blacklisted"
        assert sent_to(scene, tablet.device, "m.room.encrypted") == []

    # M17.11
    async def test_while_sending_fails_a_blocked_device_fills_no_outbox(
        self, alice_and_bob: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(outbox, "MOST_UNSENT", 3)
        scene = alice_and_bob
        tablet = await another_device(scene)
        await scene.app.send_all()
        await trust(scene.app, tablet, LocalTrust.BLOCKED)
        for number in range(9):
            client = (scene.app, scene.extension)[number % 2]
            assert await receive(client, room_key_request("x", f"{number}")) == []
            await client.machine.outgoing_requests()

        async def unsent(view: View) -> int:
            return len(await view.keys(OUTBOX))

        assert (await scene.app.machine._store.query(unsent), await waiting(scene.extension)) == (3, 6)
        for client in (scene.extension, scene.app):
            await client.send_all()
        assert await waiting(scene.app) == 0
        assert len(sent_to(scene, tablet.device, "m.room_key.withheld")) == 9

    # M17.9
    async def test_what_was_answered_is_forgotten_with_the_device(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        tablet, desk = await another_device(scene), await another_device(scene, "DESK")
        for device in ("TABLET", "DESK"):
            assert await receive(scene.app, room_key_request("x", "1", device=device, action=CANCEL)) == []

        async def answered(view: View) -> set[str]:
            return {*await view.keys(ANSWERED)}

        assert await scene.extension.machine._store.query(answered) == {"TABLET", "DESK"}
        scene.server.sign_out(tablet.device)
        await scene.app.sync()
        await scene.extension.send_all()
        assert await scene.app.machine._store.query(answered) == {desk.device.device}

    # M17.10
    async def test_another_user_gets_no_key(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        event = await old_message(scene)
        request = {**room_key_request(session_of(event), "1", device="LAPTOP"), "sender": BOB}
        await scene.app.machine.set_trust(BOB, "LAPTOP", scene.bob.machine.ed25519, LocalTrust.VERIFIED)
        assert await receive(scene.app, request) == ["request_refused"]
        assert await waiting(scene.extension) == 0
        before = len(scene.server.arrivals)
        await scene.extension.send_all()
        assert not [each for each in scene.server.arrivals[before:] if "sendToDevice" in each.path]

    # M17.10
    async def test_a_request_of_a_device_that_is_not_there_is_dropped_once_that_is_known(
        self, alice_and_bob: Scene
    ) -> None:
        scene = alice_and_bob
        assert await receive(scene.app, room_key_request("x", "1", device="NOWHERE")) == []
        assert await waiting(scene.extension) == 1
        await scene.extension.send_all()  # this includes a query, since the device is unknown
        await scene.app.send_all()
        assert await waiting(scene.app) == 0

    async def test_a_request_that_comes_before_its_device_is_known_waits_for_it(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        event = await old_message(scene)
        await receive(scene.app)  # The connection begins here, and reports no device lists.
        await scene.extension.send_all()
        scene.server.sign_in(Device(ALICE, "TABLET"))
        tablet = await scene.open(ALICE, "TABLET", "tablet")
        await tablet.send_all()
        assert await receive(scene.app, room_key_request(session_of(event), "1")) == []
        requests = await scene.extension.machine.outgoing_requests()
        assert await waiting(scene.app) == 1
        for request in requests:  # one is a query, although no sync has reported the device
            await scene.extension.send(request)
        await trust(scene.app, tablet, LocalTrust.VERIFIED)
        await scene.extension.send_all()
        assert await waiting(scene.app) == 0
        assert len(sent_to(scene, tablet.device, "m.room.encrypted")) == 1

    # M17.12
    async def test_requests_have_bounds(self, alice_and_bob: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gossip, "MOST_WAITING", 3)
        monkeypatch.setattr(gossip, "MOST_REQUESTERS", 2)
        monkeypatch.setattr(gossip, "KEPT_ANSWERED", 4)
        scene = alice_and_bob
        tablet = await another_device(scene, verified=False)
        assert await receive(scene.app, *[room_key_request("x", f"{number}") for number in range(5)]) == [
            "request_refused",
            "request_refused",
        ]
        assert await receive(scene.app, *[room_key_request("x", "1", device=f"D{number}") for number in range(3)]) == [
            "request_refused",
            "request_refused",
        ]
        assert await waiting(scene.extension) == 4
        long_names = [
            room_key_request("x", "y" * 256),
            room_key_request("x", "1", device="y" * 256),
            room_key_request("x" * 1000, "2", device="D0"),
        ]
        assert await receive(scene.app, *long_names) == ["malformed"] * 3
        for number in range(9):
            cancelled = room_key_request("x", f"{number}", action=CANCEL)
            assert await receive(scene.extension, cancelled) == []

        async def answered(view: View) -> list[bytes]:
            (device,) = await view.keys(ANSWERED)
            known = await view.get(ANSWERED, device)
            return [] if known is None else known

        assert len(await scene.app.machine._store.query(answered)) == 4
        assert tablet.device.device == "TABLET"

    async def test_what_is_no_request_is_refused(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        request = room_key_request("x", "1")
        content = content_in(request)
        cases: list[tuple[Json, str]] = [
            ({**content, "action": "other"}, "malformed"),
            ({**content, "request_id": 5}, "malformed"),
            ({**content, "body": {}}, "malformed"),
            (
                {**content, "body": {"algorithm": "m.other", "room_id": ROOM, "session_id": "x"}},
                "unsupported_algorithm",
            ),
            ({"action": "request"}, "malformed"),
        ]
        for changed, code in cases:
            assert await receive(scene.app, {**request, "content": changed}) == [code]
        assert await receive(scene.app, room_key_request("x", "1", device="PHONE")) == []  # its own
        assert await waiting(scene.extension) == 0


def room_key_request(session_id: str, request_id: str, *, device: str = "TABLET", action: str = "request") -> Json:
    body = {"algorithm": MEGOLM, "room_id": ROOM, "session_id": session_id, "sender_key": "x"}
    content = {"action": action, "request_id": request_id, "requesting_device_id": device, "body": body}
    return {"type": asking.ROOM_KEY_REQUEST, "sender": ALICE, "content": content}


def content_in(event: Json) -> Json:
    content = event["content"]
    assert isinstance(content, dict)
    return content


async def test_the_key_that_a_broken_session_lost_comes_from_another_device(alice_and_bob: Scene) -> None:
    """By M8.11 only the key's creator sends it again, when it shares the room's key the next time."""
    scene = alice_and_bob
    tablet = await another_device(scene)
    await scene.bob.sync()
    await scene.bob.send_all()
    await scene.greet()

    async def forget(transaction: Transaction) -> None:
        name = PeerName(UserId(BOB), scene.bob.machine.curve25519)
        peer = await transaction.get(PEER, name)
        assert peer is not None
        peer.sessions = []
        transaction.put(PEER, name, peer)

    await scene.app.machine._store.run(forget)
    await scene.bob.machine.discard_room_key(ROOM)
    event = await scene.bob.say(ROOM, "lost on the phone")
    outcome = await scene.extension.sync()
    assert [problem.code for problem in outcome.problems] == ["unreadable"]
    assert isinstance(await unreadable(scene.app, event), MissingRoomKey)
    await scene.extension.machine.request_room_keys(ROOM, [event])
    await scene.app.send_all()
    await tablet.sync()
    assert await tablet.read(ROOM, event) == "lost on the phone"
    await tablet.send_all()
    await scene.extension.sync()
    assert await scene.app.read(ROOM, event) == "lost on the phone"

    # M18.4, M18.7


class TestSharedHistory:
    async def test_the_flag_goes_with_the_key_and_with_its_forward(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        event = await scene.bob.say(ROOM, "for members only")
        await scene.bob.machine.set_history_visibility(ROOM, {"history_visibility": "shared"})
        shared = await scene.bob.say(ROOM, "for whoever joins later")
        assert session_of(event) != session_of(shared)
        await scene.bob.machine.set_history_visibility(ROOM, {"history_visibility": "shared"})
        assert session_of(await scene.bob.say(ROOM, "as before")) == session_of(shared)
        await scene.app.sync()
        tablet = await another_device(scene)
        await tablet.machine.request_room_keys(ROOM, [event, shared])
        await tablet.send_all()
        await scene.extension.sync()
        await scene.app.send_all()
        await tablet.sync()
        for client in (scene.extension, tablet):
            flags = {each.session_id: each.shared_history for each in await client.machine.export_room_keys()}
            assert flags == {session_of(event): False, session_of(shared): True}

    # M18.7
    @pytest.mark.parametrize("visibility", ["joined", "invited", "other", None, ["shared"]])
    async def test_what_is_not_for_those_who_join_later_says_so(self, alice_and_bob: Scene, visibility: object) -> None:
        machine = alice_and_bob.app.machine
        await machine.set_history_visibility(ROOM, {"history_visibility": "world_readable"})
        await alice_and_bob.extension.machine.set_history_visibility(ROOM, {"history_visibility": visibility})
        await alice_and_bob.app.say(ROOM, "for members only")
        (exported,) = await machine.export_room_keys()
        assert not exported.shared_history

    async def test_it_outlives_another_encryption_event_and_needs_one(self, alice_and_bob: Scene) -> None:
        machine = alice_and_bob.app.machine
        with pytest.raises(NotEncrypted):
            await machine.set_history_visibility("!other:example.org", {"history_visibility": "shared"})
        await machine.set_history_visibility(ROOM, {"history_visibility": "shared"})
        await alice_and_bob.extension.machine.set_room_encryption(
            ROOM, {"algorithm": MEGOLM, "rotation_period_msgs": 7}
        )
        await alice_and_bob.app.say(ROOM, "for whoever joins later")
        (exported,) = await machine.export_room_keys()
        assert exported.shared_history
