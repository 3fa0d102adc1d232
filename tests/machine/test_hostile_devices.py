"""Devices and homeservers that keep to every shape, and mean harm: they harm nobody but themselves."""

from __future__ import annotations

import base64

import pytest

from tests.machine.client import Client
from tests.machine.homeserver import Device, Json
from tests.machine.scene import ALICE, BOB, HOUR_MS, MEGOLM, MINUTE_MS, ROOM, Scene
from unwedged.machine import KeysClaim, KeysQuery, KeysUpload, LocalTrust, MachineError, account
from unwedged.machine.account import _signed_keys
from unwedged.machine.errors import MissingRoomKey
from unwedged.machine.identifiers import Curve25519Key, DeviceId, UserId
from unwedged.machine.identifiers import Device as Owned
from unwedged.machine.ratchets import Account

EVE = UserId("@eve:example.org")
NO_KEY = Curve25519Key(base64.b64encode(bytes(32)).decode().rstrip("="))


async def share(client: Client, *users: str) -> None:
    await client.machine.share_room_key(ROOM, users)


async def test_a_one_time_key_that_makes_no_secret_harms_no_other_device(alice_and_bob: Scene) -> None:
    scene, eve = alice_and_bob, Account()
    device = Owned(EVE, DeviceId("EVE"))
    scene.server.sign_in(Device(*device))
    scene.server.join(ROOM, EVE)
    keys: Json = {
        "device_keys": account._device_keys(eve, device),
        "one_time_keys": _signed_keys(eve, device, {"AAAA": NO_KEY}, {}),
    }
    assert scene.server.request(Device(*device), "POST", "keys/upload", keys)[0] == 200
    for _ in range(2):
        await share(scene.app, ALICE, BOB, EVE)
        await scene.app.send_all()
    event = await scene.app.say(ROOM, "hello")
    await scene.bob.sync()
    assert await scene.bob.read(ROOM, event) == "hello"


@pytest.mark.parametrize("period_ms", [-1, 0, 1])
async def test_a_room_whose_keys_get_old_at_once_can_still_be_written_in(alice_and_bob: Scene, period_ms: int) -> None:
    scene = alice_and_bob
    content: Json = {"algorithm": MEGOLM, "rotation_period_ms": period_ms}
    await scene.app.machine.set_room_encryption(ROOM, content)
    event = await scene.app.say(ROOM, "hello")
    await scene.bob.sync()
    assert await scene.bob.read(ROOM, event) == "hello"


async def test_a_blocked_device_that_leaves_its_list_and_comes_back_stays_blocked(alice_and_bob: Scene) -> None:
    scene, machine = alice_and_bob, alice_and_bob.app.machine
    await machine.set_trust(BOB, "LAPTOP", scene.bob.machine.ed25519, LocalTrust.BLOCKED)
    keys = (await machine.devices_of(BOB))[DeviceId("LAPTOP")].keys
    lists: tuple[Json, ...] = ({}, {"LAPTOP": keys})
    for devices in lists:
        scene.server._changed.append((scene.server._tick(), BOB))
        await scene.app.sync()
        (query,) = [each for each in await machine.outgoing_requests() if isinstance(each, KeysQuery)]
        await machine.mark_sent(query, {"device_keys": {BOB: devices}})
        assert set(await machine.devices_of(BOB)) == set(devices)
    assert (await machine.devices_of(BOB))[DeviceId("LAPTOP")].trust is LocalTrust.BLOCKED
    event = await scene.app.say(ROOM, "not for Bob")
    await scene.bob.sync()
    with pytest.raises(MachineError):
        await scene.bob.read(ROOM, event)


async def test_nobody_wedges_the_device_of_somebody_else(alice_and_bob: Scene) -> None:
    """Eve's messages claim Bob's key. Alice needs a session with Bob all the same."""
    scene = alice_and_bob
    scene.server.sign_in(Device(EVE, "EVE"))
    (key,) = Account().make_one_time_keys(1).values()
    message = Account().outbound_session(key, key).encrypt(b"no session decrypts this")
    forged: Json = {
        "algorithm": "m.olm.v1.curve25519-aes-sha2",
        "sender_key": scene.bob.machine.curve25519,
        "ciphertext": {scene.app.machine.curve25519: {"type": message.type, "body": message.body}},
    }
    scene.server.request(
        Device(EVE, "EVE"), "PUT", "sendToDevice/m.room.encrypted/1", {"messages": {ALICE: {"PHONE": forged}}}
    )
    outcome = await scene.app.sync()
    assert [problem.code for problem in outcome.problems] == ["unreadable"]
    event = await scene.app.say(ROOM, "hello")
    await scene.bob.sync()
    assert await scene.bob.read(ROOM, event) == "hello"


async def bear_bobs_key(scene: Scene) -> None:
    """Let Eve join with a device that bears the Curve25519 key of Bob's, and keys to claim that she signed."""
    eve, device = Account(), Owned(EVE, DeviceId("EVE"))
    unsigned: Json = {
        "user_id": EVE,
        "device_id": "EVE",
        "algorithms": list(account.ALGORITHMS),
        "keys": {"curve25519:EVE": scene.bob.machine.curve25519, "ed25519:EVE": eve.ed25519},
    }
    keys: Json = {
        "device_keys": account._signed(eve, device, unsigned),
        "one_time_keys": _signed_keys(eve, device, eve.make_one_time_keys(5), {}),
    }
    scene.server.sign_in(Device(*device))
    assert scene.server.request(Device(*device), "POST", "keys/upload", keys)[0] == 200
    scene.server.join(ROOM, EVE)
    await share(scene.app, ALICE, EVE)
    await scene.app.send_all()
    await share(scene.app, ALICE, EVE)
    await scene.app.send_all()


@pytest.mark.parametrize("greeted", [False, True])
async def test_a_device_that_bears_the_key_of_another_takes_nothing_from_it(
    alice_and_bob: Scene, greeted: bool
) -> None:
    scene = alice_and_bob
    if greeted:
        await scene.greet()
    await bear_bobs_key(scene)
    event = await scene.app.say(ROOM, "hello")
    await scene.bob.sync()
    assert await scene.bob.read(ROOM, event) == "hello"


async def test_who_leaves_reads_no_more_though_a_device_that_stays_bears_the_same_key(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await bear_bobs_key(scene)
    before = await scene.app.say(ROOM, "hello")
    await scene.bob.sync()
    await scene.bob.read(ROOM, before)
    scene.server.leave(ROOM, BOB)
    after = await scene.app.say(ROOM, "not for Bob")
    await scene.bob.sync()
    with pytest.raises(MachineError):
        await scene.bob.read(ROOM, after)


async def test_a_claim_that_the_other_server_did_not_answer_is_made_again_soon(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await share(scene.app, ALICE, BOB)
    (claim,) = [each for each in await scene.app.machine.outgoing_requests() if isinstance(each, KeysClaim)]
    await scene.app.machine.mark_sent(claim, {"one_time_keys": {}, "failures": {"example.org": {"status": 503}}})
    assert await scene.app.send_all() == []
    scene.clock.added_ms += 2 * MINUTE_MS
    event = await scene.app.say(ROOM, "hello")
    await scene.bob.sync()
    assert await scene.bob.read(ROOM, event) == "hello"


async def test_a_clock_that_was_ahead_keeps_no_key_back(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    scene.clock.added_ms += 1000 * HOUR_MS
    position = await scene.app.machine.sync_position()
    answer = scene.app.ask(position)
    answer["device_one_time_keys_count"] = {"signed_curve25519": 1}
    await scene.app.machine.receive_sync_changes(answer, position)
    await share(scene.app, ALICE, BOB)
    lost = await scene.app.machine.outgoing_requests()
    assert {type(request) for request in lost} == {KeysUpload, KeysClaim}
    scene.clock.added_ms -= 1000 * HOUR_MS
    scene.clock.added_ms += 2 * MINUTE_MS
    again = await scene.app.machine.outgoing_requests()
    assert KeysClaim in {type(request) for request in again}
    position = await scene.app.machine.sync_position()
    answer = scene.app.ask(position)
    answer["device_one_time_keys_count"] = {"signed_curve25519": 1}
    await scene.app.machine.receive_sync_changes(answer, position)
    again += await scene.app.machine.outgoing_requests()
    assert KeysUpload in {type(request) for request in again}


async def test_only_the_sender_of_a_message_withholds_its_key(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    scene.server.sign_in(Device(EVE, "EVE"))
    event = await scene.app.say(ROOM, "hello")
    session_id = event["content"]["session_id"]  # type: ignore[index]
    notice: Json = {"algorithm": MEGOLM, "code": "m.blacklisted", "room_id": ROOM, "session_id": session_id}
    scene.server.request(
        Device(EVE, "EVE"), "PUT", "sendToDevice/m.room_key.withheld/1", {"messages": {BOB: {"LAPTOP": notice}}}
    )
    scene.server._devices[Device(BOB, "LAPTOP")].inbox[:-1] = []
    await scene.bob.sync()
    with pytest.raises(MissingRoomKey):
        await scene.bob.read(ROOM, event)
