"""The machine shows an application its own events, refused room keys, changes, and failures."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from checking.machine_replay.homeserver import Json
from tests.machine.scene import ALICE, BOB, HOUR_MS, MEGOLM, ROOM, Scene
from tests.machine.test_inputs import deliver
from unwedged.machine import (
    KeysClaim,
    KeysQuery,
    MalformedResponse,
    MissingRoomKey,
    OlmMachine,
    WithheldRoomKey,
    inbox,
    olm,
)
from unwedged.machine.identifiers import DeviceId, PeerName, UserId
from unwedged.machine.ratchets import OutboundGroup
from unwedged.machine.records import DEVICES, OWN_DEVICE, PEER
from unwedged.store import Transaction


async def over_olm(scene: Scene, event_type: str, content: Json) -> Json:
    """Let Bob encrypt an event for Alice's device."""

    async def encrypt(transaction: Transaction) -> Json:
        name = PeerName(UserId(ALICE), scene.app.machine.curve25519)
        peer, own = await transaction.get(PEER, name), await transaction.get(OWN_DEVICE, None)
        devices = await transaction.get(DEVICES, UserId(ALICE))
        assert peer is not None
        assert own is not None
        assert devices is not None
        encrypted = olm.encrypt(peer, own, devices[DeviceId("PHONE")], event_type, content)
        transaction.put(PEER, name, peer)
        return encrypted

    return await scene.bob.machine._store.run(encrypt)


async def test_an_event_of_the_application_comes_decrypted(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.greet()
    encrypted = await over_olm(scene, "org.other", {"number": 5})
    position = await scene.extension.machine.sync_position("own", sliding=True)
    event: Json = {"type": "m.room.encrypted", "sender": BOB, "content": encrypted}
    response: Json = {"pos": "1", "extensions": {"to_device": {"next_batch": "1", "events": [event]}}}
    outcome = await scene.extension.machine.receive_sync_changes(response, position)
    assert [(each.type, each.content, each.encrypted) for each in outcome.events] == [
        ("org.other", {"number": 5}, True)
    ]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"algorithm": "m.other"}, "unsupported_algorithm"),
        ({"session_id": "other"}, "malformed"),
        ({"session_key": "none"}, "malformed"),
        ({"session_key": None}, "malformed"),
    ],
)
async def test_a_malformed_room_key_is_reported(alice_and_bob: Scene, changes: Json, code: str) -> None:
    scene = alice_and_bob
    await scene.greet()
    session = OutboundGroup()
    key: Json = {
        "algorithm": MEGOLM,
        "room_id": ROOM,
        "session_id": session.session_id,
        "session_key": session.session_key,
    }
    encrypted = await over_olm(scene, "m.room_key", key | changes)
    assert [problem.code for problem in await deliver(scene.app, encrypted)] == [code]
    # The ratchet has still advanced, so the next message is read.
    assert await deliver(scene.extension, await over_olm(scene, "m.room_key", key)) == []


async def test_a_message_for_another_device_is_reported(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.greet()
    encrypted = await over_olm(scene, "org.other", {})
    ciphertext = encrypted["ciphertext"]
    assert isinstance(ciphertext, dict)
    encrypted["ciphertext"] = {"another key": next(iter(ciphertext.values()))}
    assert [problem.code for problem in await deliver(scene.app, encrypted)] == ["malformed"]


async def test_a_key_that_arrives_replaces_the_notice_that_it_is_withheld(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    event = await scene.bob.say(ROOM, "hello")
    content = event["content"]
    assert isinstance(content, dict)
    position = await scene.app.machine.sync_position("notices", sliding=True)

    def response(pos: str, *withheld: Json) -> Json:
        notices: list[object] = [{"type": "m.room_key.withheld", "sender": BOB, "content": each} for each in withheld]
        return {"pos": pos, "extensions": {"to_device": {"next_batch": pos, "events": notices}}}

    notice: Json = {"algorithm": MEGOLM, "room_id": ROOM, "session_id": content["session_id"], "code": "m.unverified"}
    no_olm: Json = {"algorithm": MEGOLM, "code": "m.no_olm"}
    other: Json = {**notice, "algorithm": "m.other"}
    outcome = await scene.app.machine.receive_sync_changes(response("1", notice, no_olm, other), position)
    assert [problem.code for problem in outcome.problems] == ["unsupported_algorithm"]
    with pytest.raises(WithheldRoomKey):
        await scene.extension.read(ROOM, event)
    await scene.app.sync()
    assert await scene.extension.read(ROOM, event) == "hello"
    # A notice that comes after the key changes nothing.
    position = await scene.app.machine.sync_position("notices", sliding=True)
    await scene.app.machine.receive_sync_changes(response("2", notice), position)
    assert await scene.app.read(ROOM, event) == "hello"


async def test_names_that_no_record_can_keep_are_refused(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    event = await scene.bob.say(ROOM, "hello")
    (result,) = await scene.app.machine.decrypt_room_events(ROOM, [{**event, "event_id": "\ud800"}])
    assert getattr(result, "code", result) == "malformed"
    position = await scene.app.machine.sync_position()
    with pytest.raises(MalformedResponse):
        await scene.app.machine.receive_sync_changes({"next_batch": "\ud800"}, position)
    with pytest.raises(MissingRoomKey):
        await scene.app.read(ROOM, event)


async def test_a_relation_stays_readable_for_the_homeserver(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    shared = await scene.app.share(ROOM, [ALICE, BOB])
    content = {"body": ["a", {"b": 1}], "m.relates_to": {"event_id": "$x"}}
    encrypted = await scene.app.machine.encrypt_room_event(ROOM, shared, "m.room.message", content)
    assert encrypted["m.relates_to"] == {"event_id": "$x"}


# M14.1
async def test_a_change_of_devices_is_heard_in_both_processes(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    async with scene.app.machine.devices_stream() as here, scene.extension.machine.devices_stream() as there:
        carol = "@carol:example.org"
        scene.server.sign_in(type(scene.app.device)(carol, "TABLET"))
        other = await scene.open(carol, "TABLET", "carol")
        await other.send_all()
        await scene.extension.machine.track_users([carol])
        await scene.extension.send_all()
        for stream in (here, there):
            news = await anext(stream)
            assert getattr(news, "key", news) == carol


async def test_a_connection_whose_position_is_forgotten_begins_anew(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.app.sync("main", sliding=True)
    scene.server.forget_connections(scene.app.device)
    assert await scene.extension.ask_or_forget("main", sliding=True) is None
    position = await scene.app.machine.sync_position("main", sliding=True)
    assert position.token is None
    assert position.to_device_token is not None


# M13.4
async def test_failures_of_what_is_not_listed_again(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.app.machine.share_room_key(ROOM, [ALICE, BOB])
    (claim,) = [each for each in await scene.app.machine.outgoing_requests() if isinstance(each, KeysClaim)]
    assert await scene.app.machine.mark_failed(claim, status=404) is None
    assert not await scene.app.machine.outgoing_requests()
    scene.clock.added_ms += HOUR_MS
    assert [type(each) for each in await scene.extension.machine.outgoing_requests()] == [KeysClaim]
    await scene.app.sync("new", sliding=True)
    (query,) = [each for each in await scene.app.machine.outgoing_requests() if isinstance(each, KeysQuery)]
    wait_ms = await scene.app.machine.mark_failed(query, status=400)
    assert wait_ms is not None
    assert query in await scene.app.machine.outgoing_requests()


# M20.3
def test_no_module_of_the_machine_can_wait_for_a_network() -> None:
    waiting = {"aiohttp", "asyncio", "http", "select", "selectors", "socket", "ssl", "urllib"}
    for path in Path(inbox.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
            assert waiting.isdisjoint(name.partition(".")[0] for name in names if name != "urllib.parse"), path.name


async def test_a_machine_is_shown_without_secrets(alice_and_bob: Scene) -> None:
    machine: OlmMachine = alice_and_bob.app.machine
    assert "PHONE" in repr(machine)
    assert machine.curve25519 not in repr(machine)
