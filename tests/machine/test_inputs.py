"""Inputs from the field, each named after its bug in the track record, with the right outcome.

The input about backups (``two-keys-one-version``) is in ``test_backup.py``.
"""

from __future__ import annotations

import asyncio
import copy
from pathlib import Path

import msgspec
import pytest

from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Homeserver, Json
from checking.machine_replay.message_keys import MessageKeys
from tests.machine.own_devices import another_device, sent_to
from tests.machine.scene import ALICE, BOB, HOUR_MS, ROOM, Scene
from unwedged.machine import KeysClaim, KeysUpload, LocalTrust, OlmMachine, Problem, Request, ToDevice, sharing
from unwedged.machine.errors import AnotherDevice, MissingRoomKey
from unwedged.machine.identifiers import PeerName, UserId
from unwedged.machine.olm import note_new_recipients
from unwedged.machine.ratchets import MOST_ONE_TIME_KEYS
from unwedged.machine.records import ACCOUNT, OWN_DEVICE, PEER, WANTED_SESSION, OwnDevice, Peer, WantedSession
from unwedged.store import RecordKind, Transaction, View


# M1.1
async def test_both_processes_may_begin_at_once_and_there_is_one_account(tmp_path: Path) -> None:
    async def begin(label: str) -> OlmMachine:
        return await OlmMachine.open(
            tmp_path / "device.db", user_id=ALICE, device_id="PHONE", key=bytes(32), label=label
        )

    app, extension = await asyncio.gather(begin("app"), begin("extension"))
    assert (app.curve25519, app.ed25519) == (extension.curve25519, extension.ed25519)
    uploads = [*await app.outgoing_requests(), *await extension.outgoing_requests()]
    await app.close()
    await extension.close()
    assert len(uploads) == 1


# M1.2
async def test_a_store_of_another_device_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "device.db"
    async with OlmMachine.open(path, user_id=ALICE, device_id="PHONE", key=bytes(32), label="app"):
        pass
    for user, device in ((BOB, "PHONE"), (ALICE, "LAPTOP")):
        with pytest.raises(AnotherDevice):
            await OlmMachine.open(path, user_id=user, device_id=device, key=bytes(32), label="app")


async def test_stale_failure_believed(alice_and_bob: Scene) -> None:
    """The extension has stored the key of a message when the app, whose snapshot is older, begins to decrypt it."""
    scene = alice_and_bob
    event = await scene.bob.say(ROOM, "hello")
    await scene.extension.sync()
    assert await scene.app.read(ROOM, event) == "hello"
    assert not await keys_of(scene.app, WANTED_SESSION)


# M3.4
async def test_count_absent_two_meanings_sliding(alice_and_bob: Scene) -> None:
    app = alice_and_bob.app
    position = await app.machine.sync_position(sliding=True)
    response: Json = {"pos": "1", "extensions": {"e2ee": {}}}
    assert (await app.machine.receive_sync_changes(response, position)).applied
    assert not uploads(await app.machine.outgoing_requests())


# M3.3
async def test_count_absent_two_meanings_classic(alice_and_bob: Scene) -> None:
    app = alice_and_bob.app
    position = await app.machine.sync_position()
    assert (await app.machine.receive_sync_changes({"next_batch": "later"}, position)).applied
    (upload,) = uploads(await app.machine.outgoing_requests())
    assert len(one_time_keys(upload)) == MOST_ONE_TIME_KEYS


# M3.4, M3.5
async def test_count_left_out_of_a_connection(alice_and_bob: Scene) -> None:
    """The offer that a count caused is lost, and the homeserver does not repeat the count."""
    scene = alice_and_bob
    await ask_for_keys(scene.app)
    assert uploads(await scene.app.machine.outgoing_requests())
    scene.clock.added_ms += HOUR_MS
    assert not uploads(await scene.extension.machine.outgoing_requests())  # abandoned; no known count
    assert await hear_nothing_new(scene.extension, "another")
    assert not uploads(await scene.extension.machine.outgoing_requests())  # This connection never received a count.
    assert await hear_nothing_new(scene.extension, "counts")
    assert uploads(await scene.app.machine.outgoing_requests())


# M3.2, M3.5
async def test_what_came_too_late_to_count_and_is_left_out_later(alice_and_bob: Scene) -> None:
    """While an offer is under way, a sync reports that no key is left and that the fallback key was used."""
    scene = alice_and_bob
    await ask_for_keys(scene.app)
    (upload,) = uploads(await scene.app.machine.outgoing_requests())
    assert await hear_nothing_new(scene.extension, "counts", device_unused_fallback_key_types=[])
    await scene.app.send(upload)
    assert not (await own(scene.app)).fallback_used
    assert await hear_nothing_new(scene.extension, "counts", device_one_time_keys_count={"signed_curve25519": 50})
    assert ((await own(scene.app)).fallback_used, (await own(scene.app)).count) == (True, 50)


# M3.1, M3.2, P10.1
async def test_stale_count(alice_and_bob: Scene) -> None:
    """A sync that was requested before an offer says nothing about the offer, however often this happens."""
    scene = alice_and_bob
    for number in range(10):
        position = await scene.extension.machine.sync_position()
        response: Json = {"next_batch": f"{number}", "device_one_time_keys_count": {"signed_curve25519": 0}}
        for upload in uploads(await scene.app.machine.outgoing_requests()):
            await scene.app.send(upload)
        await scene.extension.machine.receive_sync_changes(response, position)
    offered = sum(len(arrival_keys) for arrival_keys in offered_by(scene.server, "PHONE"))
    # There is the first offer, and one for each second sync: the syncs in between were requested before the offer.
    assert offered <= MOST_ONE_TIME_KEYS * 6


# M2.2, M2.7, M2.8, M2.9, M2.10
async def test_upload_again_same_id(alice_and_bob: Scene) -> None:
    """The process dies before it receives the response to an upload. The other process continues with other keys."""
    scene = alice_and_bob
    await ask_for_keys(scene.app)
    (lost,) = uploads(await scene.app.machine.outgoing_requests())
    scene.app.call(lost.method, lost.path, lost.body)
    await scene.app.machine.close()
    assert not uploads(await scene.extension.machine.outgoing_requests())
    scene.clock.added_ms += HOUR_MS
    assert not uploads(await scene.extension.machine.outgoing_requests())  # abandoned; no known count
    await ask_for_keys(scene.extension)
    (after,) = uploads(await scene.extension.machine.outgoing_requests())
    assert not one_time_keys(lost).keys() & one_time_keys(after).keys()
    assert len(one_time_keys(after)) == MOST_ONE_TIME_KEYS // 2
    await scene.extension.send(after)


# M2.6, M2.9
async def test_upload_that_is_refused_is_never_sent_again(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await ask_for_keys(scene.app)
    (refused,) = uploads(await scene.app.machine.outgoing_requests())
    assert await scene.app.machine.mark_failed(refused, status=400) is None
    for _ in range(3):
        assert not uploads(await scene.app.machine.outgoing_requests())
    await ask_for_keys(scene.app)
    (after,) = uploads(await scene.app.machine.outgoing_requests())
    assert not one_time_keys(refused).keys() & one_time_keys(after).keys()


# M2.4, M2.5, P10.3
async def test_publish_marks_too_many(alice_and_bob: Scene) -> None:
    """A late answer to an offer that was abandoned says nothing about the offer that follows it."""
    scene = alice_and_bob
    await ask_for_keys(scene.app)
    (first,) = uploads(await scene.app.machine.outgoing_requests())
    scene.clock.added_ms += HOUR_MS
    await scene.app.machine.outgoing_requests()
    await ask_for_keys(scene.app)
    (second,) = uploads(await scene.app.machine.outgoing_requests())
    before = await own(scene.app)
    answer: Json = {"one_time_key_counts": {"signed_curve25519": 100}}
    await scene.app.machine.mark_sent(first, answer)
    assert await own(scene.app) == before
    await scene.app.machine.mark_sent(second, answer)
    assert (await own(scene.app)).count == 100


# M7.7, M7.8
async def test_key_dropped_by_bad_message(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.bob.machine.share_room_key(ROOM, [ALICE])
    await scene.bob.send_all(KeysClaim)
    await scene.bob.machine.share_room_key(ROOM, [ALICE])
    (sent,) = [each for each in await scene.bob.machine.outgoing_requests() if isinstance(each, ToDevice)]
    (good,) = (content for devices in sent.messages.values() for content in devices.values())
    before = await pickle(scene.app)
    outcome = await deliver(scene.app, flipped(good))
    assert [problem.code for problem in outcome] == ["unreadable"]
    assert await pickle(scene.app) == before
    assert await deliver(scene.extension, good) == []
    assert await pickle(scene.app) != before
    again = await deliver(scene.app, good)
    assert [problem.code for problem in again] == ["repeated"]
    assert len((await peer_of(scene.app, scene.bob)).sessions) == 1


# M4.2, M4.3
async def test_fallback_cycled_early(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    fallback = (await own(scene.app)).fallback
    for client in (scene.app, scene.extension):
        position = await client.machine.sync_position()
        response: Json = {
            "next_batch": f"{client}",
            "device_one_time_keys_count": {"signed_curve25519": 50},
            "device_unused_fallback_key_types": [],
        }
        await client.machine.receive_sync_changes(response, position)
        assert not uploads(await client.machine.outgoing_requests())
    assert (await own(scene.app)).fallback == fallback
    scene.clock.added_ms += HOUR_MS
    (rotation,) = uploads(await scene.extension.machine.outgoing_requests())
    assert rotation.body["fallback_keys"] != fallback
    # Its response is lost. Until a response arrives, the same key is uploaded, so that no second key is dropped.
    scene.clock.added_ms += HOUR_MS
    (again,) = uploads(await scene.app.machine.outgoing_requests())
    assert again.body["fallback_keys"] == rotation.body["fallback_keys"]


# M5.1, M5.2
async def test_acknowledged_before_processed(alice_and_bob: Scene) -> None:
    """The first process to receive a response applies all of it, once."""
    scene = alice_and_bob
    event = await scene.bob.say(ROOM, "hello")
    position = await scene.app.machine.sync_position()
    response = scene.app.ask(position)
    assert (await scene.extension.machine.receive_sync_changes(response, position)).applied
    assert not (await scene.app.machine.receive_sync_changes(response, position)).applied
    assert await scene.app.read(ROOM, event) == "hello"


# M10.1
async def test_shared_then_invalidated(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    shared = await scene.app.share(ROOM, [ALICE, BOB])
    content: Json = {"body": "one"}
    events = []
    for machine in (scene.app.machine, scene.extension.machine, scene.app.machine):
        encrypted = await machine.encrypt_room_event(ROOM, shared, "m.room.message", content)
        events.append(scene.app.post(ROOM, encrypted))
    await scene.bob.sync()
    read = await scene.bob.machine.decrypt_room_events(ROOM, events)
    assert [getattr(each, "index", each) for each in read] == [0, 1, 2]


# M8.3, M8.5, M13.3, M21.2
async def test_unwedge_races_itself(alice_and_bob: Scene) -> None:
    """Each process gets an unreadable message of one device. There is one new session, and one message announces it."""
    scene = alice_and_bob
    await scene.greet()
    await wedge(scene)
    for client in (scene.app, scene.extension):
        await scene.bob.machine.discard_room_key(ROOM)
        await scene.bob.say(ROOM, "unreadable")
        assert [problem.code for problem in (await client.sync()).problems] == ["unreadable"]
    claims = [
        request
        for client in (scene.app, scene.extension)
        for request in await client.machine.outgoing_requests()
        if isinstance(request, KeysClaim)
    ]
    assert len(claims) == 1
    before = len(olm_messages(scene))
    await scene.app.send(claims[0])
    await scene.extension.send_all()
    assert len(olm_messages(scene)) == before + 1


# M8.10, M8.11
async def test_shared_set_survives_unwedging(alice_and_bob: Scene) -> None:
    """A room key that was sent over the broken session is sent again over the new one, from its first shared index."""
    scene = alice_and_bob
    await scene.greet()
    await wedge(scene)
    await scene.bob.machine.discard_room_key(ROOM)
    lost = await scene.bob.say(ROOM, "lost at first")
    await scene.app.sync()
    await scene.app.send_all()
    await scene.bob.sync()
    await scene.bob.say(ROOM, "over the new session")
    await scene.extension.sync()
    assert await scene.app.read(ROOM, lost) == "lost at first"


# M8.11
@pytest.mark.parametrize("discarded", [False, True])
async def test_keys_that_were_replaced_before_the_session_was_are_sent_again(
    alice_and_bob: Scene, discarded: bool
) -> None:
    """These keys are lost with the broken session too."""
    scene = alice_and_bob
    await scene.greet()
    await wedge(scene)
    lost = []
    for number in range(sharing.EARLIER_KEYS_KEPT + 1):
        if discarded:
            await scene.bob.machine.discard_room_key(ROOM)
        else:
            scene.clock.added_ms += 8 * 24 * HOUR_MS
        lost += [await scene.bob.say(ROOM, f"{number}"), await scene.bob.say(ROOM, f"{number}")]
    await scene.app.sync()
    for event in lost:
        with pytest.raises(MissingRoomKey):
            await scene.app.read(ROOM, event)
    await scene.app.send_all()
    await scene.bob.sync()
    await scene.bob.say(ROOM, "over the new session")
    assert not (await scene.extension.sync()).problems
    read = await scene.app.machine.decrypt_room_events(ROOM, lost)
    assert [getattr(each, "index", each) for each in read] == [0, 1] * len(lost[::2])
    before = len(olm_messages(scene))
    await scene.bob.say(ROOM, "nothing is sent twice")
    assert len(olm_messages(scene)) == before


# M8.12
async def test_what_is_sent_again_goes_only_to_devices_that_get_the_key_of_the_room_now(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.greet()
    await scene.bob.say(ROOM, "with Alice")
    await wedge(scene)
    await scene.bob.machine.set_trust(ALICE, "PHONE", scene.app.machine.ed25519, LocalTrust.BLOCKED)
    await scene.bob.say(ROOM, "without her")
    before = len(olm_messages(scene))
    await scene.bob.machine._store.run(replace_session, scene.app)
    await scene.bob.say(ROOM, "without her")
    assert len(olm_messages(scene)) == before


async def test_what_is_sent_again_waits_for_a_session(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.greet()
    events = [await scene.bob.say(ROOM, "one")]
    await scene.bob.machine.discard_room_key(ROOM)
    events.append(await scene.bob.say(ROOM, "two"))
    scene.server._devices[scene.app.device].inbox.clear()  # the sent keys are lost

    async def lose_sessions(transaction: Transaction) -> None:
        await replace_session(transaction, scene.app)
        peer = await transaction.get(PEER, PeerName(UserId(ALICE), scene.app.machine.curve25519))
        assert peer is not None
        peer.sessions = []

    await scene.bob.machine._store.run(lose_sessions)
    assert (await scene.bob.machine.share_room_key(ROOM, [ALICE, BOB])).without_session
    await scene.bob.say(ROOM, "three")
    await scene.app.sync()
    assert [await scene.app.read(ROOM, event) for event in events] == ["one", "two"]


# M8.11
async def test_keys_that_were_replaced_long_ago_are_not_sent_again(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.greet()
    await scene.bob.say(ROOM, "now")
    await scene.bob.machine.discard_room_key(ROOM)
    await scene.bob.say(ROOM, "then")
    scene.clock.added_ms += sharing.EARLIER_KEY_KEPT_MS
    await scene.bob.say(ROOM, "long after that")
    before = len(olm_messages(scene))
    await scene.bob.machine._store.run(replace_session, scene.app)
    await scene.bob.say(ROOM, "over the new session")
    assert len(olm_messages(scene)) == before + 2  # the room's current key, and the one that was replaced today


# M8.5, M21.2
@pytest.mark.parametrize("answered", [False, True])
async def test_one_time_exchange_frozen(alice_and_bob: Scene, answered: bool) -> None:
    """A process stops between a claim and its response. The other continues, and the late response changes nothing."""
    scene = alice_and_bob
    await scene.app.machine.share_room_key(ROOM, [ALICE, BOB])
    (claim,) = [each for each in await scene.app.machine.outgoing_requests() if isinstance(each, KeysClaim)]
    answer = scene.app.call(claim.method, claim.path, claim.body) if answered else None
    scene.clock.added_ms += HOUR_MS
    await scene.extension.share(ROOM, [ALICE, BOB])
    before = await peer_of(scene.extension, scene.bob)
    answer = answer or scene.app.call(claim.method, claim.path, claim.body)
    await scene.app.machine.mark_sent(claim, answer)
    after = await peer_of(scene.extension, scene.bob)
    assert [each.session_id for each in after.sessions] == [each.session_id for each in before.sessions]


# M17.8
async def test_secret_sent_twice(alice_and_bob: Scene) -> None:
    """A request waited for a session with its device. Now the session exists, and both processes see it at once."""
    scene = alice_and_bob
    while not (await scene.app.machine.cross_signing.bootstrap()).is_complete:
        await scene.app.send_all()
    tablet = await another_device(scene)
    await tablet.machine.secrets.request(["m.cross_signing.master"])
    await tablet.send_all()
    await scene.app.sync()
    (claim,) = [each for each in await scene.app.machine.outgoing_requests() if isinstance(each, KeysClaim)]
    await scene.app.send(claim)
    before = len(sent_to(scene, tablet.device, "m.room.encrypted"))
    listed = await asyncio.gather(*(each.machine.outgoing_requests() for each in (scene.app, scene.extension)))
    assert len({request.transaction_id for each in listed for request in each if isinstance(request, ToDevice)}) == 1
    for client in (scene.extension, scene.app):
        await client.send_all()
    assert len(sent_to(scene, tablet.device, "m.room.encrypted")) == before + 1


# M6.1, M6.2, P10.4
async def test_query_clears_newer_flag(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await changed(scene.app, BOB)
    (query,) = await scene.app.machine.outgoing_requests()
    answer = scene.app.call(query.method, query.path, query.body)
    await changed(scene.extension, BOB)
    await scene.app.machine.mark_sent(query, answer)
    (newer,) = await scene.app.machine.outgoing_requests()
    assert newer != query
    await scene.app.send(newer)
    assert not await scene.app.machine.outgoing_requests()


# M10.1
async def test_no_message_key_is_used_twice(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    for number in range(5):
        for client in (scene.app, scene.extension, scene.bob):
            await client.say(ROOM, f"{number}")
            for reader in (scene.app, scene.bob):
                await reader.sync()
    MessageKeys().add_arrivals(scene.server.arrivals)


# Helpers that read state


def uploads(requests: list[Request]) -> list[KeysUpload]:
    return [request for request in requests if isinstance(request, KeysUpload)]


def one_time_keys(upload: KeysUpload) -> dict[str, object]:
    keys = upload.body.get("one_time_keys", {})
    assert isinstance(keys, dict)
    return keys


def offered_by(server: Homeserver, device: str) -> list[list[str]]:
    bodies = [
        msgspec.json.decode(arrival.body, type=dict[str, object])
        for arrival in server.arrivals
        if arrival.path.endswith("/keys/upload") and arrival.device.device == device
    ]
    return [list(keys) for body in bodies if isinstance(keys := body.get("one_time_keys"), dict)]


def olm_messages(scene: Scene) -> list[str]:
    return [arrival.path for arrival in scene.server.arrivals if "sendToDevice/m.room.encrypted" in arrival.path]


def flipped(content: Json) -> Json:
    """Corrupt the message authentication code of an Olm message."""
    spoilt = copy.deepcopy(content)
    ciphertext = spoilt["ciphertext"]
    assert isinstance(ciphertext, dict)
    for message in ciphertext.values():
        body = message["body"]
        message["body"] = body[:-4] + ("AAAA" if body[-4:] != "AAAA" else "BBBB")
    return spoilt


async def hear_nothing_new(client: Client, connection: str, **but: object) -> bool:
    """Let a sliding sync report only the given changes. Return whether its response was applied."""
    position = await client.machine.sync_position(connection, sliding=True)
    response: Json = {"pos": f"{position.token}+", "extensions": {"e2ee": but}}
    return (await client.machine.receive_sync_changes(response, position)).applied


async def ask_for_keys(client: Client) -> None:
    """Let a sync report that the homeserver has no one-time keys left."""
    position = await client.machine.sync_position("counts", sliding=True)
    response: Json = {
        "pos": f"{position.token}+",
        "extensions": {"e2ee": {"device_one_time_keys_count": {"signed_curve25519": 0}}},
    }
    assert (await client.machine.receive_sync_changes(response, position)).applied


async def changed(client: Client, user: str) -> None:
    """Let a sync report that a user's devices changed."""
    position = await client.machine.sync_position()
    response: Json = {
        "next_batch": f"{position.token}+",
        "device_lists": {"changed": [user]},
        "device_one_time_keys_count": {"signed_curve25519": 50},
    }
    assert (await client.machine.receive_sync_changes(response, position)).applied


async def deliver(client: Client, content: Json) -> list[Problem]:
    """Let a sync deliver one encrypted to-device event from Bob; return the problems."""
    position = await client.machine.sync_position("deliveries", sliding=True)
    event: Json = {"type": "m.room.encrypted", "sender": BOB, "content": content}
    response: Json = {
        "pos": f"{position.token}+",
        "extensions": {"to_device": {"next_batch": f"{position.to_device_token}+", "events": [event]}},
    }
    outcome = await client.machine.receive_sync_changes(response, position)
    assert outcome.applied
    return outcome.problems


async def wedge(scene: Scene) -> None:
    """Let Alice's device lose its sessions with Bob's, which has the effect of a forked ratchet."""

    async def forget(transaction: Transaction) -> None:
        key = PeerName(scene.bob.machine.device.user_id, scene.bob.machine.curve25519)
        peer = await transaction.get(PEER, key)
        assert peer is not None
        peer.sessions = []
        transaction.put(PEER, key, peer)

    await scene.app.machine._store.run(forget)


async def replace_session(transaction: Transaction, other: Client) -> None:
    """Let the session with another device count as new: messages over the previous one may be lost."""
    name = PeerName(other.machine.device.user_id, other.machine.curve25519)
    peer = await transaction.get(PEER, name)
    assert peer is not None
    peer.generation += 1
    transaction.put(PEER, name, peer)
    await note_new_recipients(transaction)


async def own(client: Client) -> OwnDevice:
    async def read(view: View) -> OwnDevice | None:
        return await view.get(OWN_DEVICE, None)

    found = await client.machine._store.query(read)
    assert found is not None
    return found


async def pickle(client: Client) -> str:
    async def read(view: View) -> str:
        account = await view.get(ACCOUNT, None)
        assert account is not None
        return account.pickle()

    return await client.machine._store.query(read)


async def peer_of(client: Client, other: Client) -> Peer:
    async def read(view: View) -> Peer | None:
        return await view.get(PEER, PeerName(other.machine.device.user_id, other.machine.curve25519))

    return await client.machine._store.query(read) or Peer()


async def keys_of(client: Client, kind: RecordKind[PeerName, WantedSession]) -> tuple[PeerName, ...]:
    async def read(view: View) -> tuple[PeerName, ...]:
        return await view.keys(kind)

    return await client.machine._store.query(read)
