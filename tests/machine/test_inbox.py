"""Sync responses are applied once and in one commit, large ones in parts; malformed parts don't affect the rest."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Json
from tests.machine.own_devices import encrypted_for, receive
from tests.machine.scene import ALICE, BOB, MEGOLM, ROOM, Scene
from unwedged.machine import KeysQuery, Problem, SenderTrust, ToDeviceEvent, inbox, olm, rooms
from unwedged.machine.errors import MalformedResponse
from unwedged.machine.identifiers import (
    DeviceId,
    GroupSessionId,
    GroupSessionName,
    PeerName,
    RequestId,
    TransactionId,
    UserId,
)
from unwedged.machine.records import (
    BACKLOG,
    PEER,
    PUT_ASIDE,
    SYNC,
    UNPROCESSED,
    WAITING,
    WANTED_SESSION,
    WITHHELD,
    Backlog,
    PutAside,
    Wanted,
    WantedRoomKey,
    WantedSecret,
    Withheld,
)
from unwedged.machine.sync import changes_of
from unwedged.store import Transaction, View

MALFORMED: tuple[object, ...] = (
    "text",
    {},
    {"type": 5, "sender": BOB, "content": {}},
    {"type": "m.room.encrypted", "sender": BOB, "content": {}},
    {
        "type": "m.room.encrypted",
        "sender": BOB,
        "content": {"algorithm": "m.other", "sender_key": "", "ciphertext": {}},
    },
    {"type": "m.room_key.withheld", "sender": BOB, "content": {"code": 5}},
    {"type": "org.other", "sender": BOB, "content": {"x": "\ud800"}},
)


def batch(number: int, events: list[object]) -> Json:
    return {
        "next_batch": f"{number}",
        "to_device": {"events": events},
        "device_one_time_keys_count": {"signed_curve25519": 50},
    }


# M5.10
async def test_a_malformed_event_is_reported_and_harms_no_other(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    event = await scene.bob.say(ROOM, "hello")
    position = await scene.app.machine.sync_position()
    response = scene.app.ask(position)
    to_device = response["to_device"]
    assert isinstance(to_device, dict)
    to_device["events"] = [*MALFORMED, *to_device["events"], {"type": "org.other", "sender": BOB, "content": {"x": 1}}]
    outcome = await scene.app.machine.receive_sync_changes(response, position)
    assert [problem.code for problem in outcome.problems] == [
        "malformed",
        "malformed",
        "malformed",
        "malformed",
        "unsupported_algorithm",
        "malformed",
        "malformed",
    ]
    nobody, of_bob = (None, None), (BOB, "m.room.encrypted")
    assert [(problem.sender, problem.event_type) for problem in outcome.problems] == [
        *(nobody, nobody, nobody, of_bob, of_bob),
        (BOB, "m.room_key.withheld"),
        nobody,
    ]
    assert outcome.events == [ToDeviceEvent("org.other", UserId(BOB), {"x": 1}, encrypted=False)]
    assert await scene.extension.read(ROOM, event) == "hello"


@pytest.mark.parametrize(
    "response",
    [
        {},
        {"next_batch": 5},
        {"next_batch": "x", "to_device": []},
        {"next_batch": "x", "to_device": {"events": {}}},
        {"next_batch": "x", "device_lists": {"changed": [5]}},
        {"next_batch": "x", "device_one_time_keys_count": {"signed_curve25519": "many"}},
    ],
)
async def test_a_malformed_response_changes_nothing(alice_and_bob: Scene, response: Json) -> None:
    machine = alice_and_bob.app.machine
    position = await machine.sync_position()
    with pytest.raises(MalformedResponse):
        await machine.receive_sync_changes(response, position)
    assert await machine.sync_position() == position


# M5.2, M21.3, M21.4, P10.1, P10.2
async def test_a_stale_or_repeated_response_changes_nothing(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    position = await scene.app.machine.sync_position()
    assert (await scene.app.machine.receive_sync_changes(batch(1, []), position)).applied
    events: list[object] = [{"type": "org.other", "sender": BOB, "content": {}}]
    for client in (scene.app, scene.extension):
        outcome = await client.machine.receive_sync_changes(batch(2, events), position)
        assert (outcome.applied, outcome.events) == (False, [])
        assert (await client.machine.sync_position()).token == "1"


# M7.5
async def test_a_full_response_is_known_when_it_comes_on_another_connection(alice_and_bob: Scene) -> None:
    """Each connection gets the messages that none has acknowledged, as many as fit. Here one device sent them all."""
    scene = alice_and_bob
    await scene.bob.machine.set_room_encryption(ROOM, {"algorithm": MEGOLM, "rotation_period_msgs": 1})
    for number in range(100):
        await scene.bob.say(ROOM, f"{number}")
    first = await scene.app.sync("app")
    second = await scene.extension.sync("extension")
    assert not first.problems
    assert [problem.code for problem in second.problems] == ["repeated"] * 100


# M7.5
async def test_few_digests_are_in_the_record_of_the_sessions_and_none_is_lost(
    alice_and_bob: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That record is written with each message. The others are in a record of their own."""
    scene = alice_and_bob
    await scene.greet()
    monkeypatch.setattr(olm, "DIGESTS_WITH_SESSIONS", 3)

    async def kept(view: View) -> list[int]:
        counts = []
        for name in await view.keys(PEER):
            peer = await view.get(PEER, name)
            assert peer is not None
            counts.append(len(peer.digests))
        return counts

    events = [await encrypted_for(scene.bob, scene.app, "m.dummy", {}) for _ in range(8)]
    counts = []
    for event in events:
        assert await receive(scene.app, event) == []
        counts += await scene.extension.machine._store.query(kept)
    assert set(counts) == {0, 1, 2}
    assert await receive(scene.app, *events) == ["repeated"] * len(events)


# M5.3
async def test_the_two_tokens_of_a_sliding_connection_are_judged_apart(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    of_app = await scene.app.machine.sync_position("app", sliding=True)
    of_extension = await scene.extension.machine.sync_position("extension", sliding=True)
    event: Json = {"type": "org.other", "sender": BOB, "content": {}}

    def response(pos: str) -> Json:
        return {"pos": pos, "extensions": {"to_device": {"next_batch": "7", "events": [event]}}}

    first = await scene.app.machine.receive_sync_changes(response("1/app"), of_app)
    second = await scene.extension.machine.receive_sync_changes(response("1/extension"), of_extension)
    assert (len(first.events), len(second.events), second.applied) == (1, 0, True)
    after = await scene.app.machine.sync_position("extension", sliding=True)
    assert (after.token, after.to_device_token) == ("1/extension", "7")


# M5.3
async def test_a_classic_and_a_sliding_connection_of_one_name_have_tokens_of_their_own(alice_and_bob: Scene) -> None:
    """The names in the store are those that other versions of this program read."""
    app, extension = alice_and_bob.app.machine, alice_and_bob.extension.machine
    await app.receive_sync_changes(batch(1, []), await app.sync_position("one"))
    sliding: Json = {"pos": "1/one", "extensions": {"to_device": {"next_batch": "7"}}}
    await app.receive_sync_changes(sliding, await app.sync_position("one", sliding=True))
    classic_position = await extension.sync_position("one")
    assert (classic_position.token, classic_position.to_device_token) == ("1", "1")
    sliding_position = await extension.sync_position("one", sliding=True)
    assert (sliding_position.token, sliding_position.to_device_token) == ("1/one", "7")

    async def names(view: View) -> tuple[str, ...]:
        return await view.keys(SYNC)

    assert set(await app._store.query(names)) >= {"classic:one", "sliding:one", "to_device"}


async def test_users_who_left_are_no_longer_followed(alice_and_bob: Scene) -> None:
    app = alice_and_bob.app.machine
    response: Json = batch(1, []) | {"device_lists": {"changed": [BOB], "left": [BOB]}}
    await app.receive_sync_changes(response, await app.sync_position())
    assert not [each for each in await app.outgoing_requests() if isinstance(each, KeysQuery) and BOB in each.users]
    await app.track_users([BOB])
    assert [each for each in await app.outgoing_requests() if isinstance(each, KeysQuery) and BOB in each.users]


# M5.5
async def test_only_the_position_that_the_homeserver_has_forgotten_is_forgotten(alice_and_bob: Scene) -> None:
    """One process learns late that an older position is unknown. The other process has already advanced."""
    app, extension = alice_and_bob.app.machine, alice_and_bob.extension.machine
    older = await app.sync_position("main", sliding=True)
    for position, pos in ((older, "1/main"), (await app.sync_position("other", sliding=True), "1/other")):
        await app.receive_sync_changes({"pos": pos}, position)
    first = await app.sync_position("main", sliding=True)
    await extension.receive_sync_changes({"pos": "2/main"}, first)
    newest = await app.sync_position("main", sliding=True)
    for unknown in (older, first):
        await app.forget_sync_position(unknown)
        assert await app.sync_position("main", sliding=True) == newest
    for _ in range(2):
        await app.forget_sync_position(newest)
        assert (await extension.sync_position("main", sliding=True)).token is None
    assert (await extension.sync_position("other", sliding=True)).token == "1/other"


# M5.6, M5.7, M5.8
async def test_any_process_works_off_a_large_batch_in_order(
    alice_and_bob: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = alice_and_bob
    events: list[object] = [
        {"type": "org.other", "sender": BOB, "content": {"number": number}}
        for number in range(3 * inbox.EVENTS_IN_A_COMMIT + 10)
    ]
    position = await scene.app.machine.sync_position()

    class Killed(BaseException):
        pass

    async def killed() -> inbox.SyncOutcome:
        raise Killed

    monkeypatch.setattr(scene.app.machine, "_work_off", killed)
    with pytest.raises(Killed):
        await scene.app.machine.receive_sync_changes(batch(1, events), position)
    # The token has advanced, and all events are stored; the next events are appended.
    position = await scene.extension.machine.sync_position()
    assert position.token == "1"
    last: list[object] = [{"type": "org.other", "sender": BOB, "content": {"number": -1}}]
    outcome = await scene.extension.machine.receive_sync_changes(batch(2, last), position)
    numbers = [event.content["number"] for event in outcome.events]
    assert numbers == [*range(len(events)), -1]

    async def left(view: View) -> tuple[Backlog | None, tuple[int, ...]]:
        backlog = await view.get(BACKLOG, None)
        return backlog, await view.keys(UNPROCESSED)

    assert await scene.app.machine._store.query(left) == (None, ())


def numbered(*numbers: int) -> list[object]:
    return [{"type": "org.other", "sender": BOB, "content": {"number": number}} for number in numbers]


async def stored_parts(client: Client) -> tuple[Backlog | None, dict[int, int]]:
    """What is noted of the parts that are left, and how many events each of them has."""

    async def read(view: View) -> tuple[Backlog | None, dict[int, int]]:
        parts = {}
        for number in await view.keys(UNPROCESSED):
            events = await view.get(UNPROCESSED, number)
            assert events is not None
            parts[number] = len(events)
        return await view.get(BACKLOG, None), parts

    return await client.machine._store.query(read)


async def receive_only(client: Client, events: list[object]) -> tuple[inbox.SyncOutcome, bool]:
    """Commit a response, as a process does that is killed before the next commit."""
    machine = client.machine
    position = await machine.sync_position()
    response = batch(int(position.token or "0") + 1, events)
    return await machine._store.run(inbox.receive, changes_of(response, position), position, machine._clock.now())


async def work_off_one(client: Client) -> tuple[bool, list[object]] | None:
    machine = client.machine
    outcome = await machine._store.run(inbox.work_off, machine._clock.now())
    return None if outcome is None else (outcome.applied, [event.content["number"] for event in outcome.events])


# M5.6
async def test_only_a_batch_with_more_events_than_a_commit_may_have_becomes_records(
    alice_and_bob: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = alice_and_bob.app
    monkeypatch.setattr(inbox, "EVENTS_IN_A_COMMIT", 3)
    await app.machine.receive_sync_changes(batch(1, []), await app.machine.sync_position())
    outcome, is_left = await receive_only(app, numbered(0, 1, 2))
    assert ([event.content["number"] for event in outcome.events], is_left) == ([0, 1, 2], False)
    assert await stored_parts(app) == (None, {})
    outcome, is_left = await receive_only(app, numbered(0, 1, 2, 3))
    assert (outcome.applied, outcome.events, outcome.problems, is_left) == (True, [], [], True)
    assert await stored_parts(app) == (Backlog(0, 2), {0: 3, 1: 1})


# M5.7, M5.8
async def test_each_commit_processes_the_oldest_part_and_notes_which_are_left(
    alice_and_bob: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app, extension = alice_and_bob.app, alice_and_bob.extension
    monkeypatch.setattr(inbox, "EVENTS_IN_A_COMMIT", 2)
    await app.machine.receive_sync_changes(batch(1, []), await app.machine.sync_position())
    await receive_only(app, numbered(0, 1, 2, 3, 4))
    assert await stored_parts(app) == (Backlog(0, 3), {0: 2, 1: 2, 2: 1})
    assert await work_off_one(extension) == (True, [0, 1])
    assert await stored_parts(app) == (Backlog(1, 3), {1: 2, 2: 1})
    assert (await receive_only(app, numbered(5)))[1]
    assert await stored_parts(extension) == (Backlog(1, 4), {1: 2, 2: 1, 3: 1})
    assert await work_off_one(extension) == (True, [2, 3])
    assert await work_off_one(app) == (True, [4])
    assert await stored_parts(app) == (Backlog(3, 4), {3: 1})
    assert await work_off_one(extension) == (True, [5])
    assert await stored_parts(app) == (None, {})
    assert await work_off_one(extension) is None
    assert "counts as lost" not in caplog.text  # what is noted is not what the repair of a lost record guesses


# M5.6, M5.10
async def test_what_no_record_can_hold_is_reported_at_once_and_is_in_no_part(
    alice_and_bob: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = alice_and_bob.app
    monkeypatch.setattr(inbox, "EVENTS_IN_A_COMMIT", 2)
    await app.machine.receive_sync_changes(batch(1, []), await app.machine.sync_position())
    unstorable: list[object] = ["text", {"type": "\ud800"}, [], {"number": 2**70}]
    malformed = Problem(None, None, "malformed")
    outcome, is_left = await receive_only(app, unstorable)
    assert (outcome.applied, outcome.problems, is_left) == (True, [malformed] * 4, False)
    assert await stored_parts(app) == (None, {})
    outcome, is_left = await receive_only(app, [*unstorable, *numbered(0, 1, 2)])
    assert (outcome.problems, is_left) == ([malformed] * 4, True)
    assert await stored_parts(app) == (Backlog(0, 2), {0: 2, 1: 1})
    outcome, is_left = await receive_only(app, unstorable)
    assert (outcome.problems, is_left) == ([malformed] * 4, True)
    assert await stored_parts(app) == (Backlog(0, 2), {0: 2, 1: 1})


def asks_to_verify(client: Client, name: str) -> Json:
    """A request for a verification that counts only while it is new."""
    content: Json = {
        "from_device": "LAPTOP",
        "methods": ["m.sas.v1"],
        "timestamp": client.machine._clock.now(),
        "transaction_id": name,
    }
    return {"type": "m.key.verification.request", "sender": BOB, "content": content}


# M7.9
async def test_an_encrypted_event_of_the_application_is_handed_to_it(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.greet()
    event = await encrypted_for(scene.bob, scene.app, "org.other", {"x": 1})
    outcome = await scene.app.machine.receive_sync_changes(
        batch(1, [event]), await scene.app.machine.sync_position("o")
    )
    assert outcome.events == [ToDeviceEvent("org.other", UserId(BOB), {"x": 1}, encrypted=True)]
    assert outcome.problems == []


async def test_an_encrypted_dummy_event_is_for_nobody(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.greet()
    event = await encrypted_for(scene.bob, scene.app, "m.dummy", {})
    outcome = await scene.app.machine.receive_sync_changes(
        batch(1, [event]), await scene.app.machine.sync_position("o")
    )
    assert (outcome.applied, outcome.events, outcome.problems) == (True, [], [])


# M17.4
async def test_a_secret_and_a_room_key_that_were_not_asked_for_are_refused(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.greet()
    key = dict.fromkeys(("session_id", "session_key", "sender_key", "sender_claimed_ed25519_key"), "x")
    forwarded: Json = {"algorithm": MEGOLM, "room_id": ROOM, **key}
    events = [
        await encrypted_for(scene.bob, scene.app, "m.secret.send", {"request_id": "1", "secret": "s"}),
        await encrypted_for(scene.bob, scene.app, "m.forwarded_room_key", forwarded),
    ]
    assert await receive(scene.app, *events) == ["not_asked", "not_asked"]


# M8.10
async def test_a_session_that_another_device_begins_ends_the_mark_for_one(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.app.machine._store.run(olm.want_session, PeerName(UserId(BOB), scene.bob.machine.curve25519))
    await scene.bob.say(ROOM, "hello")
    assert (await scene.extension.sync()).problems == []

    async def marks(view: View) -> tuple[PeerName, ...]:
        return await view.keys(WANTED_SESSION)

    assert await scene.app.machine._store.query(marks) == ()


# M7.9
async def test_an_encrypted_request_begins_a_verification(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.greet()
    asked = asks_to_verify(scene.app, "one")
    content = asked["content"]
    assert isinstance(content, dict)
    event = await encrypted_for(scene.bob, scene.app, "m.key.verification.request", content)
    outcome = await scene.app.machine.receive_sync_changes(
        batch(1, [event]), await scene.app.machine.sync_position("o")
    )
    assert (outcome.events, outcome.problems) == ([], [])
    (flow,) = await scene.extension.machine.verifications.get_all()
    assert flow.user_id == BOB


# M12.5, M17.8
async def test_a_notice_and_requests_are_noted_with_their_type_and_their_sender(alice_and_bob: Scene) -> None:
    app = alice_and_bob.app.machine
    name = {"room_id": ROOM, "session_id": "session", "algorithm": MEGOLM}
    asks = {"action": "request", "requesting_device_id": "TABLET"}
    events: list[object] = [
        {"type": "m.room_key.withheld", "sender": BOB, "content": {**name, "code": "m.unverified", "reason": "why"}},
        {"type": "m.secret.request", "sender": ALICE, "content": {**asks, "request_id": "1", "name": "a secret"}},
        {"type": "m.room_key_request", "sender": ALICE, "content": {**asks, "request_id": "2", "body": name}},
    ]
    outcome = await app.receive_sync_changes(batch(1, events), await app.sync_position("other"))
    assert outcome.problems == []
    session = GroupSessionName(ROOM, GroupSessionId("session"))

    async def noted(view: View) -> tuple[Withheld | None, dict[RequestId, Wanted] | None]:
        return await view.get(WITHHELD, session), await view.get(WAITING, DeviceId("TABLET"))

    withheld, waiting = await app._store.query(noted)
    assert withheld == Withheld("m.unverified", "why", UserId(BOB))
    assert waiting == {"1": WantedSecret("a secret"), "2": WantedRoomKey(session)}


# M5.7
async def test_a_verification_that_waited_in_a_large_batch_begins_now(
    alice_and_bob: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, extension = alice_and_bob.app, alice_and_bob.extension
    monkeypatch.setattr(inbox, "EVENTS_IN_A_COMMIT", 1)
    events: list[object] = [*numbered(0), asks_to_verify(app, "one")]
    outcome = await app.machine.receive_sync_changes(batch(1, events), await app.machine.sync_position())
    assert outcome.problems == []
    assert len(await extension.machine.verifications.get_all()) == 1


# M5.12
async def test_a_verification_that_was_put_aside_begins_when_it_is_tried_again(alice_and_bob: Scene) -> None:
    app, extension = alice_and_bob.app, alice_and_bob.extension

    async def leave(transaction: Transaction) -> None:
        transaction.put(PUT_ASIDE, TransactionId("kept"), PutAside(asks_to_verify(app, "one"), None))

    await app.machine._store.run(leave)
    outcome = await app.machine.work_off_backlog()
    assert (outcome.applied, outcome.problems) == (True, [])
    assert len(await extension.machine.verifications.get_all()) == 1


# M5.12
async def test_an_event_that_another_process_tried_again_meanwhile_keeps_no_other_back(alice_and_bob: Scene) -> None:
    machine = alice_and_bob.app.machine
    left: Json = {"type": "org.other", "sender": BOB, "content": {}}

    async def leave(transaction: Transaction) -> None:
        transaction.put(PUT_ASIDE, TransactionId("left"), PutAside(left, None))

    await machine._store.run(leave)
    names = [TransactionId("done"), TransactionId("left")]
    outcome = await machine._store.run(inbox.try_again, names, machine._clock.now())
    assert (outcome.applied, len(outcome.events)) == (True, 1)
    assert not await put_aside(alice_and_bob.extension)


# M23.1
async def test_a_part_that_was_damaged_keeps_nothing_back(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    machine = scene.app.machine
    event: Json = {"type": "org.other", "sender": BOB, "content": {}}

    async def leave_parts(transaction: Transaction) -> None:
        transaction.put(BACKLOG, None, Backlog(0, 2))
        for number in range(2):
            transaction.put(UNPROCESSED, number, [event])

    await machine._store.run(leave_parts)
    # In another process: closing the file in this one would drop the locks that its store holds.
    first = "SELECT min(rowid) FROM record WHERE kind = 'unprocessed'"
    damage = f"UPDATE record SET value = zeroblob(100) WHERE rowid = ({first})"  # noqa: S608
    program = "import sqlite3, sys; file = sqlite3.connect(sys.argv[1]); file.execute(sys.argv[2]); file.commit()"
    path = str(scene.folder / "PHONE.db")
    damaging = await asyncio.create_subprocess_exec(sys.executable, "-c", program, path, damage)
    assert await damaging.wait() == 0
    position = await machine.sync_position()
    outcome = await machine.receive_sync_changes(batch(1, [event]), position)
    assert [problem.code for problem in outcome.problems] == ["damaged"]
    assert len(outcome.events) == 2


# M5.6
async def test_a_large_batch_of_room_keys_loses_none(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.greet()
    events: list[Json] = []
    count = inbox.EVENTS_IN_A_COMMIT + 5
    for number in range(count):
        await scene.bob.machine.discard_room_key(ROOM)
        shared = await scene.bob.machine.share_room_key(ROOM, scene.server.members(ROOM))
        content = await scene.bob.machine.encrypt_room_event(ROOM, shared, "m.room.message", {"body": f"{number}"})
        events.append(scene.bob.post(ROOM, content))
    scene.server._to_device_limit = 1000
    await scene.bob.send_all()
    outcome = await scene.extension.sync()
    assert outcome.problems == []
    read = await scene.app.machine.decrypt_room_events(ROOM, events)
    bodies = [getattr(each, "content", {}).get("body") for each in read]
    assert bodies == [f"{number}" for number in range(count)]


async def put_aside(client: Client) -> list[PutAside]:
    async def read(view: View) -> list[PutAside]:
        kept = []
        for key in await view.keys(PUT_ASIDE):
            aside = await view.get(PUT_ASIDE, key)
            assert aside is not None
            kept.append(aside)
        return kept

    return await client.machine._store.query(read)


# M5.11
async def test_an_event_that_meets_a_fault_of_ours_is_kept(
    alice_and_bob: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = alice_and_bob
    await scene.bob.say(ROOM, "hello")

    async def faulty(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(rooms, "receive_room_key", faulty)
    outcome = await scene.app.sync()
    assert [problem.code for problem in outcome.problems] == ["put_aside"]
    assert {(problem.sender, problem.event_type) for problem in outcome.problems} == {(BOB, "m.room.encrypted")}
    (aside,) = await put_aside(scene.extension)
    assert aside.plaintext is not None
    assert json.loads(aside.plaintext)["type"] == "m.room_key"
    assert "secret" not in repr(aside)


FAULTY = {
    "before it is decrypted": (inbox, "_decrypt"),
    "before it is checked": (olm, "checked"),
    "before it is used": (rooms, "receive_room_key"),
}


# M5.11, M5.12
@pytest.mark.parametrize("faulty_part", FAULTY.values(), ids=FAULTY)
async def test_an_event_that_met_a_fault_is_used_once_the_fault_is_corrected(
    alice_and_bob: Scene, monkeypatch: pytest.MonkeyPatch, faulty_part: tuple[object, str]
) -> None:
    scene = alice_and_bob
    event = await scene.bob.say(ROOM, "hello")

    def faulty(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(*faulty_part, faulty)
        await scene.app.sync()
        for client in (scene.extension, scene.app):
            outcome = await client.machine.work_off_backlog()
            assert [problem.code for problem in outcome.problems] == ["put_aside"]
            assert len(await put_aside(client)) == 1
    outcome = await scene.extension.machine.work_off_backlog()
    assert (outcome.applied, outcome.problems) == (True, [])
    assert await scene.app.read(ROOM, event) == "hello"
    assert (await scene.app.machine.decrypt_room_event(ROOM, event)).trust is SenderTrust.KNOWN_DEVICE
    assert not await put_aside(scene.app)
    assert not (await scene.app.machine.work_off_backlog()).applied


# M5.11
async def test_a_fault_once_a_session_has_begun_does_not_lose_the_message(
    alice_and_bob: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message key is used up, so the message can't be decrypted a second time."""
    scene = alice_and_bob
    event = await scene.bob.say(ROOM, "hello")

    def faulty(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(olm, "note_new_session", faulty)
        outcome = await scene.app.sync()
    assert [problem.code for problem in outcome.problems] == ["put_aside"]
    outcome = await scene.extension.machine.work_off_backlog()
    assert (outcome.applied, outcome.problems) == (True, [])
    assert await scene.app.read(ROOM, event) == "hello"


async def test_many_events_that_met_faults_are_tried_again_in_several_commits(
    alice_and_bob: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = alice_and_bob.app.machine
    monkeypatch.setattr(inbox, "EVENTS_IN_A_COMMIT", 2)
    event: Json = {"type": "org.other", "sender": BOB, "content": {}}

    async def leave(transaction: Transaction) -> None:
        for number in range(5):
            transaction.put(PUT_ASIDE, TransactionId(f"{number}"), PutAside({**event, "content": {"n": number}}, None))

    await machine._store.run(leave)
    commits = machine._store.statistics().commits
    outcome = await machine.work_off_backlog()
    assert [each.content["n"] for each in outcome.events] == [0, 1, 2, 3, 4]
    assert machine._store.statistics().commits == commits + 3
