"""Late or repeated answers change nothing, and offers, claims and shares are not repeated: one test for each rule."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from checking.machine_replay.homeserver import Device, Json
from tests.machine.scene import ALICE, BOB, HOUR_MS, ROOM, Scene
from tests.machine.test_inputs import ask_for_keys, one_time_keys, own, peer_of, uploads, wedge
from unwedged.machine import KeysClaim, KeysQuery, KeysUpload, LocalTrust, Request, ToDevice
from unwedged.machine.errors import MalformedResponse, RoomKeyNotShared
from unwedged.machine.identifiers import DeviceId, UserId
from unwedged.machine.olm import CLAIMED_AGAIN_AFTER_MS
from unwedged.machine.outbox import send
from unwedged.machine.ratchets import MOST_ONE_TIME_KEYS
from unwedged.machine.requests import decode, encode
from unwedged.store import Transaction


# M2.6, M2.8, M2.9, M2.10
@pytest.mark.parametrize("arrived", [False, True])
async def test_after_an_upload_that_failed_the_next_sync_decides(alice_and_bob: Scene, arrived: bool) -> None:
    scene = alice_and_bob
    await ask_for_keys(scene.app)
    (failed,) = uploads(await scene.app.machine.outgoing_requests())
    before = await scene.extension.machine.sync_position("before", sliding=True)
    for keys in scene.server._devices.values():
        keys.one_time.clear()
    if arrived:
        scene.app.call(failed.method, failed.path, failed.body)
    for _ in range(2):
        assert await scene.app.machine.mark_failed(failed, status=504) is not None
    count: Json = {"extensions": {"e2ee": {"device_one_time_keys_count": {"signed_curve25519": 0}}}}
    await scene.extension.machine.receive_sync_changes({"pos": "1/before", **count}, before)
    assert not uploads(await scene.app.machine.outgoing_requests())  # this sync began before the upload failed
    await scene.extension.sync("after", sliding=True)
    after = uploads(await scene.extension.machine.outgoing_requests())
    assert [len(one_time_keys(upload)) for upload in after] == ([] if arrived else [MOST_ONE_TIME_KEYS // 2])
    assert not any(one_time_keys(failed).keys() & one_time_keys(upload).keys() for upload in after)
    await scene.app.machine.mark_failed(failed, status=504)  # repeated, and late
    for upload in after:
        await scene.extension.send(upload)
    assert (await own(scene.app)).count == (MOST_ONE_TIME_KEYS if arrived else MOST_ONE_TIME_KEYS // 2)


# M2.8, M3.6
async def test_a_device_whose_first_upload_failed_is_published_by_the_next(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        scene = Scene(tmp_path, stack)
        scene.server.sign_in(Device(ALICE, "PHONE"))
        client = await scene.open(ALICE, "PHONE", "app")
        (failed,) = await client.machine.outgoing_requests()
        assert await client.machine.mark_failed(failed, status=None) == 1_000
        (again,) = await client.machine.outgoing_requests()
        assert isinstance(again, KeysUpload)
        assert again.body["device_keys"]
        assert not one_time_keys(again)  # the homeserver may have those of the first upload
        await client.send(again)
        (missing,) = uploads(await client.machine.outgoing_requests())
        assert len(one_time_keys(missing)) == MOST_ONE_TIME_KEYS
        await client.send(missing)
        assert not await client.machine.outgoing_requests()


# M3.2
async def test_a_count_says_nothing_while_an_offer_stands(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await ask_for_keys(scene.app)
    (upload,) = uploads(await scene.app.machine.outgoing_requests())
    position = await scene.extension.machine.sync_position()
    response: Json = {"next_batch": "later", "device_one_time_keys_count": {"signed_curve25519": 0}}
    await scene.extension.machine.receive_sync_changes(response, position)
    assert (await own(scene.app)).count is None
    await scene.app.send(upload)
    assert not uploads(await scene.app.machine.outgoing_requests())


# M9.3
async def test_a_device_list_that_changed_makes_the_share_old(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    shared = await scene.app.share(ROOM, [ALICE, BOB])
    await scene.extension.machine.set_trust(BOB, "LAPTOP", scene.bob.machine.ed25519, LocalTrust.BLOCKED)
    with pytest.raises(RoomKeyNotShared):
        await scene.app.machine.encrypt_room_event(ROOM, shared, "m.room.message", {"body": "for whom?"})


# M4.2, M4.3
async def test_no_other_fallback_key_before_the_newest_is_confirmed(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    offered: list[object] = []
    scene.clock.added_ms += HOUR_MS
    for hours in range(4):
        position = await scene.app.machine.sync_position()
        response: Json = {
            "next_batch": f"{hours}",
            "device_one_time_keys_count": {"signed_curve25519": 50},
            "device_unused_fallback_key_types": [],
        }
        await scene.app.machine.receive_sync_changes(response, position)
        for upload in uploads(await scene.app.machine.outgoing_requests()):
            offered.append(upload.body["fallback_keys"])
            assert await scene.app.machine.mark_failed(upload, status=400) is None
    assert len(offered) == 4
    assert all(keys == offered[0] for keys in offered)


# M4.2
async def test_the_hour_of_a_fallback_key_begins_when_the_homeserver_has_it(alice_and_bob: Scene) -> None:
    """Found by the model ``Keys``: otherwise it is replaced while the homeserver still hands out the previous key."""
    scene = alice_and_bob

    async def used(token: str) -> list[KeysUpload]:
        position = await scene.app.machine.sync_position()
        response: Json = {
            "next_batch": token,
            "device_one_time_keys_count": {"signed_curve25519": 50},
            "device_unused_fallback_key_types": [],
        }
        await scene.app.machine.receive_sync_changes(response, position)
        return uploads(await scene.app.machine.outgoing_requests())

    scene.clock.added_ms += HOUR_MS
    (rotation,) = await used("1")
    scene.clock.added_ms += HOUR_MS // 12  # the upload takes five minutes
    await scene.app.send(rotation)
    scene.clock.added_ms += HOUR_MS - HOUR_MS // 12
    assert not await used("2")
    scene.clock.added_ms += HOUR_MS // 12
    (next_rotation,) = await used("3")
    assert next_rotation.body["fallback_keys"] != rotation.body["fallback_keys"]


# M2.5, M4.4
async def test_a_fallback_key_that_a_late_upload_brings_back_is_replaced(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await ask_for_keys(scene.app)
    (late,) = uploads(await scene.app.machine.outgoing_requests())
    late = KeysUpload(late.offer_id, {**late.body, "fallback_keys": {"signed_curve25519:OLD": {"key": "old"}}})
    scene.clock.added_ms += HOUR_MS
    assert not uploads(await scene.app.machine.outgoing_requests())
    await scene.extension.machine.mark_sent(late, {"one_time_key_counts": {"signed_curve25519": 50}})
    (again,) = uploads(await scene.app.machine.outgoing_requests())
    assert again.body == {"fallback_keys": (await own(scene.app)).fallback}


# M4.4, M4.5
async def test_an_offer_during_which_an_older_fallback_key_comes_back_does_not_confirm_the_newest(
    alice_and_bob: Scene,
) -> None:
    """Found by the model ``Keys``: the older key may have arrived after the newest."""
    scene = alice_and_bob
    await ask_for_keys(scene.app)
    (late,) = uploads(await scene.app.machine.outgoing_requests())
    late = KeysUpload(late.offer_id, {**late.body, "fallback_keys": {"signed_curve25519:OLD": {"key": "old"}}})
    await scene.app.machine.mark_failed(late, status=504)
    position = await scene.app.machine.sync_position()
    response: Json = {
        "next_batch": "used",
        "device_one_time_keys_count": {"signed_curve25519": 50},
        "device_unused_fallback_key_types": [],
    }
    await scene.app.machine.receive_sync_changes(response, position)
    scene.clock.added_ms += HOUR_MS
    (rotation,) = uploads(await scene.app.machine.outgoing_requests())
    answer: Json = {"one_time_key_counts": {"signed_curve25519": 50}}
    for _ in range(2):
        await scene.extension.machine.mark_sent(late, answer)
    await scene.app.machine.mark_sent(rotation, answer)
    (again,) = uploads(await scene.extension.machine.outgoing_requests())
    assert again.body == {"fallback_keys": rotation.body["fallback_keys"]}
    await scene.extension.machine.mark_sent(again, answer)
    assert not uploads(await scene.app.machine.outgoing_requests())


# M5.4
async def test_the_first_response_of_a_connection_marks_all_device_lists(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    assert not await scene.app.machine.outgoing_requests()
    await scene.extension.sync("new", sliding=True)
    (query,) = await scene.app.machine.outgoing_requests()
    assert isinstance(query, KeysQuery)
    assert set(query.users) == {ALICE, BOB}
    await scene.app.send(query)
    await scene.extension.sync("new", sliding=True)
    assert not await scene.app.machine.outgoing_requests()


# M6.3
async def test_a_user_whom_an_answer_leaves_out_stays_marked(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.extension.sync("new", sliding=True)
    (query,) = await scene.app.machine.outgoing_requests()
    await scene.app.machine.mark_sent(query, {"device_keys": {ALICE: {}}, "failures": {"example.org": {"status": 503}}})
    (again,) = await scene.extension.machine.outgoing_requests()
    assert isinstance(again, KeysQuery)
    assert set(again.users) == {BOB}


# M8.5, M8.7, M21.3, M21.4, P10.1
async def test_the_answer_to_an_older_claim_changes_nothing(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.app.machine.share_room_key(ROOM, [ALICE, BOB])
    (older,) = [each for each in await scene.app.machine.outgoing_requests() if isinstance(each, KeysClaim)]
    scene.clock.added_ms += CLAIMED_AGAIN_AFTER_MS
    (newer,) = [each for each in await scene.extension.machine.outgoing_requests() if isinstance(each, KeysClaim)]
    commits = scene.app.machine._store.statistics().commits
    await scene.app.send(older)
    assert scene.app.machine._store.statistics().commits == commits
    assert not (await peer_of(scene.app, scene.bob)).sessions
    await scene.extension.send(newer)
    assert len((await peer_of(scene.app, scene.bob)).sessions) == 1


# M8.5
async def test_a_session_that_is_there_already_is_not_made_again(alice_and_bob: Scene) -> None:
    """The peer began a session while the claim was under way."""
    scene = alice_and_bob
    await scene.app.machine.share_room_key(ROOM, [ALICE, BOB])
    (claim,) = [each for each in await scene.app.machine.outgoing_requests() if isinstance(each, KeysClaim)]
    await scene.bob.say(ROOM, "first")
    await scene.extension.sync()
    before = [session.session_id for session in (await peer_of(scene.app, scene.bob)).sessions]
    await scene.app.send(claim)
    after = [session.session_id for session in (await peer_of(scene.app, scene.bob)).sessions]
    assert before == after != []


# M8.4
async def test_a_wedged_session_is_replaced_once_an_hour(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.greet()
    claims = 0
    for _ in range(6):
        await wedge(scene)
        await scene.bob.machine.discard_room_key(ROOM)
        await scene.bob.say(ROOM, "x")
        await scene.app.sync()
        claims += len(await scene.app.send_all(KeysClaim))
        await scene.app.send_all()
        await scene.bob.sync()
        scene.clock.added_ms += HOUR_MS // 3
    assert claims == 2


# M8.4
async def test_a_session_is_replaced_once_an_hour_though_the_answer_to_a_claim_comes_late(
    alice_and_bob: Scene,
) -> None:
    scene = alice_and_bob
    await scene.greet()
    replaced = []
    for waited_ms in (HOUR_MS, 0):
        await wedge(scene)
        await scene.bob.machine.discard_room_key(ROOM)
        await scene.bob.say(ROOM, "unreadable")
        await scene.app.sync()
        before = (await peer_of(scene.app, scene.bob)).generation
        claims = [each for each in await scene.app.machine.outgoing_requests() if isinstance(each, KeysClaim)]
        scene.clock.added_ms += waited_ms
        for claim in claims:
            await scene.extension.send(claim)
        replaced.append((await peer_of(scene.app, scene.bob)).generation - before)
        await scene.app.send_all()
        await scene.bob.sync()
    assert replaced == [1, 0]


# M13.5
async def test_a_room_key_that_the_homeserver_refused_is_sent_again(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.greet()
    await scene.app.machine.discard_room_key(ROOM)
    await scene.app.machine.share_room_key(ROOM, [ALICE, BOB])
    (refused,) = await scene.app.machine.outgoing_requests()
    assert await scene.extension.machine.mark_failed(refused, status=413) is None
    event = await scene.app.say(ROOM, "hello")
    await scene.bob.sync()
    assert await scene.bob.read(ROOM, event) == "hello"


# M13.1
async def test_messages_leave_in_the_order_of_their_commits_though_a_clock_is_put_back(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.greet()
    made: list[Request] = []
    for client in (scene.app, scene.extension) * 3:
        await client.machine.discard_room_key(ROOM)
        await client.machine.share_room_key(ROOM, [ALICE, BOB])
        listed = await client.machine.outgoing_requests()
        (added,) = [request for request in listed if request not in made]
        made.append(added)
        assert listed == made
        scene.clock.added_ms -= HOUR_MS


# M13.1
async def test_what_one_commit_sends_leaves_in_the_order_of_its_making(alice_and_bob: Scene) -> None:
    machine = alice_and_bob.app.machine

    async def send_many(transaction: Transaction) -> None:
        for number in range(20):
            send(transaction, f"org.number.{number}", {})

    await machine._store.run(send_many)
    types = [each.event_type for each in await machine.outgoing_requests() if isinstance(each, ToDevice)]
    assert types == [f"org.number.{number}" for number in range(20)]


# M8.3
async def test_another_unreadable_message_does_not_undo_a_claim_that_is_under_way(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.greet()
    await wedge(scene)
    claims: list[KeysClaim] = []
    for client in (scene.app, scene.extension):
        await scene.bob.machine.discard_room_key(ROOM)
        await scene.bob.say(ROOM, "x")
        await client.sync()
        claims += [each for each in await client.machine.outgoing_requests() if isinstance(each, KeysClaim)]
    (claim,) = claims
    await scene.app.send(claim)
    assert len((await peer_of(scene.app, scene.bob)).sessions) == 1


# M8.6, M8.8
async def test_a_claimed_key_that_its_device_did_not_sign_makes_no_session(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.app.machine.share_room_key(ROOM, [ALICE, BOB])
    (claim,) = [each for each in await scene.app.machine.outgoing_requests() if isinstance(each, KeysClaim)]
    answer = scene.app.call(claim.method, claim.path, claim.body)
    keys = answer["one_time_keys"]
    assert isinstance(keys, dict)
    (key,) = keys[BOB]["LAPTOP"].values()
    key["key"] = scene.bob.machine.curve25519
    await scene.app.machine.mark_sent(claim, answer)
    assert not (await peer_of(scene.app, scene.bob)).sessions
    # The device is notified once.
    (notice,) = await scene.extension.machine.outgoing_requests()
    assert isinstance(notice, ToDevice)
    assert notice.messages[UserId(BOB)][DeviceId("LAPTOP")]["code"] == "m.no_olm"


# M13.3, M20.4, M21.3
async def test_a_request_goes_to_another_process_as_bytes(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.app.machine.share_room_key(ROOM, [ALICE, BOB])
    await scene.app.sync("new", sliding=True)
    await ask_for_keys(scene.app)
    requests = await scene.app.machine.outgoing_requests()
    assert {type(request) for request in requests} >= {KeysUpload, KeysClaim, KeysQuery}
    for request in requests:
        copied = decode(encode(request))
        assert copied == request
        assert (copied.method, copied.path, copied.body) == (request.method, request.path, request.body)
        await scene.extension.send(copied)
    for spoilt in (b"", b"{}", b'{"type":"Other"}', encode(requests[0])[:-2]):
        with pytest.raises(MalformedResponse):
            decode(spoilt)


# M13.1, M13.3, M13.4, S3.2
async def test_a_failed_request_says_when_to_try_again(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.app.share(ROOM, [ALICE, BOB])
    await scene.app.machine.discard_room_key(ROOM)
    await scene.app.machine.share_room_key(ROOM, [ALICE, BOB])
    (message,) = await scene.app.machine.outgoing_requests()
    waits = [await scene.app.machine.mark_failed(message, status=None) for _ in range(12)]
    assert waits[:3] == [1_000, 2_000, 4_000]
    assert waits[-1] == 300_000
    assert await scene.app.machine.mark_failed(message, status=429, retry_after_ms=400_000) == 400_000
    assert await scene.extension.machine.outgoing_requests() == [message]
    await scene.app.send(message)
    assert await scene.app.machine.mark_failed(message, status=502) == 1_000
    assert await scene.app.machine.mark_failed(message, status=403) is None
    assert not await scene.extension.machine.outgoing_requests()
