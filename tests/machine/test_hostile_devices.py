"""Hostile devices and homeservers that send well-formed messages can't harm other devices."""

from __future__ import annotations

import asyncio
import base64

import pytest

from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Device, Json
from tests.machine.own_devices import receive
from tests.machine.scene import ALICE, BOB, HOUR_MS, MEGOLM, MINUTE_MS, ROOM, Scene
from tests.machine.test_inputs import keys_of
from tests.store.stores import PATIENCE
from unwedged.machine import (
    KeysClaim,
    KeysQuery,
    KeysUpload,
    LocalTrust,
    MachineError,
    SenderTrust,
    account,
    olm,
    rooms,
)
from unwedged.machine.account import _signed_keys, own_device
from unwedged.machine.errors import MissingRoomKey, WrongSender
from unwedged.machine.identifiers import Curve25519Key, DeviceId, PeerName, UserId
from unwedged.machine.identifiers import Device as Owned
from unwedged.machine.ratchets import Account
from unwedged.machine.records import DEVICES, PEER, SHARED_KEY, WANTED_SESSION, WITHHELD, Withheld
from unwedged.store import Transaction, View

EVE = UserId("@eve:example.org")
NO_KEY = Curve25519Key(base64.b64encode(bytes(32)).decode().rstrip("="))


async def share(client: Client, *users: str) -> None:
    await client.machine.share_room_key(ROOM, users)


# M9.5
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


# M9.6
@pytest.mark.parametrize("period_ms", [-1, 0, 1])
async def test_a_room_whose_keys_get_old_at_once_can_still_be_written_in(alice_and_bob: Scene, period_ms: int) -> None:
    scene = alice_and_bob
    content: Json = {"algorithm": MEGOLM, "rotation_period_ms": period_ms}
    await scene.app.machine.set_room_encryption(ROOM, content)
    event = await scene.app.say(ROOM, "hello")
    await scene.bob.sync()
    assert await scene.bob.read(ROOM, event) == "hello"


# M6.6
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


# M7.1, M8.1
async def test_a_hostile_device_can_not_wedge_the_session_with_another_device(alice_and_bob: Scene) -> None:
    """Eve's messages claim Bob's key. Alice still needs a session with Bob."""
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
    assert not await keys_of(scene.app, WANTED_SESSION)
    event = await scene.app.say(ROOM, "hello")
    await scene.bob.sync()
    assert await scene.bob.read(ROOM, event) == "hello"


# M8.1
async def test_keys_that_are_made_up_leave_no_marks(alice_and_bob: Scene) -> None:
    """Bob is tracked, and has one device. He sends messages that claim a hundred device keys."""
    scene = alice_and_bob
    (key,) = Account().make_one_time_keys(1).values()
    for number in range(100):
        device = Account()
        message = device.outbound_session(key, key).encrypt(b"no session decrypts this")
        forged: Json = {
            "algorithm": "m.olm.v1.curve25519-aes-sha2",
            "sender_key": device.curve25519,
            "ciphertext": {scene.app.machine.curve25519: {"type": message.type, "body": message.body}},
        }
        path = f"sendToDevice/m.room.encrypted/{number}"
        scene.bob.call("PUT", path, {"messages": {ALICE: {"PHONE": forged}}})
    outcome = await scene.app.sync()
    assert [problem.code for problem in outcome.problems] == ["unreadable"] * 100
    assert not await keys_of(scene.app, WANTED_SESSION)


# M8.2
async def test_a_device_that_leaves_its_list_leaves_no_mark(alice_and_bob: Scene) -> None:
    scene, machine = alice_and_bob, alice_and_bob.app.machine
    keys = (await machine.devices_of(BOB))[DeviceId("LAPTOP")].keys
    lists: tuple[Json, ...] = ({}, {"LAPTOP": keys})
    for number, devices in enumerate(lists):
        await share(scene.app, ALICE, BOB)
        scene.server._changed.append((scene.server._tick(), BOB))
        await scene.app.sync()
        (query,) = [each for each in await machine.outgoing_requests() if isinstance(each, KeysQuery)]
        assert len(await keys_of(scene.app, WANTED_SESSION)) == 1 - number
        await machine.mark_sent(query, {"device_keys": {BOB: devices}})
        await scene.extension.machine.outgoing_requests()
        assert not await keys_of(scene.app, WANTED_SESSION)
    event = await scene.app.say(ROOM, "hello")
    await scene.bob.sync()
    assert await scene.bob.read(ROOM, event) == "hello"


async def bear_bobs_key(scene: Scene) -> None:
    """Let Eve join with a device that has the Curve25519 key of Bob's device, and one-time keys that she signed."""
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


# M7.1
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


# M7.1, M9.7
async def test_a_user_who_leaves_reads_no_more_though_a_device_that_stays_bears_the_same_key(
    alice_and_bob: Scene,
) -> None:
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


# M8.7
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


# M2.7, M8.9
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


# M12.4
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


# M12.5
async def test_notices_of_withheld_keys_have_bounds(alice_and_bob: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "MOST_WITHHELD", 3)
    scene = alice_and_bob

    def notice(session_id: str, room_id: str = ROOM) -> Json:
        content: Json = {"algorithm": MEGOLM, "room_id": room_id, "session_id": session_id}
        content |= {"code": "c" * 1000, "reason": "r" * 1000}
        return {"type": "m.room_key.withheld", "sender": EVE, "content": content}

    async def kept(view: View) -> dict[str, Withheld]:
        notices: dict[str, Withheld] = {}
        for name in await view.keys(WITHHELD):
            withheld = await view.get(WITHHELD, name)
            assert withheld is not None
            notices[name.session_id] = withheld
        return notices

    assert await receive(scene.app, *[notice(f"{number}") for number in range(9)]) == []
    assert await receive(scene.extension, notice("last"), notice("last")) == []
    names = await scene.app.machine._store.query(kept)
    assert len(names) == 3
    assert "last" in names
    too_long = [notice("x" * 256), notice("x", "!" + "x" * 255)]
    assert await receive(scene.app, *too_long) == ["malformed"] * 2
    for withheld in (await scene.extension.machine._store.query(kept)).values():
        assert withheld == Withheld("c" * 200, "r" * 200, UserId(EVE))


async def give_as_own(eve: Client, bob: Client, alice: Client) -> None:
    """Let Eve send Alice the key of Bob's session as her own."""

    async def key_of_bob(view: View) -> Json:
        shared = await view.get(SHARED_KEY, ROOM)
        assert shared is not None
        names: Json = {"algorithm": MEGOLM, "room_id": ROOM, "session_id": shared.session_id}
        return {**names, "session_key": shared.session_keys[0]}

    async def encrypt(transaction: Transaction, content: Json) -> Json:
        own, name = await own_device(transaction), PeerName(UserId(ALICE), alice.machine.curve25519)
        peer, known = await transaction.get(PEER, name), await transaction.get(DEVICES, UserId(ALICE))
        assert peer is not None
        assert known is not None
        transaction.put(PEER, name, peer)
        return olm.encrypt(peer, own, known[DeviceId("PHONE")], "m.room_key", content)

    stolen = await bob.machine._store.query(key_of_bob)
    encrypted = await eve.machine._store.run(encrypt, stolen)
    eve.call("PUT", "sendToDevice/m.room.encrypted/stolen", {"messages": {ALICE: {"PHONE": encrypted}}})


# M11.3, M11.4
@pytest.mark.parametrize("eve_first", [False, True])
async def test_a_device_that_claims_the_key_of_another_does_not_harm_the_other(
    alice_and_bob: Scene, eve_first: bool
) -> None:
    scene = alice_and_bob
    scene.server.sign_in(Device(EVE, "EVE"))
    eve = await scene.open(EVE, "EVE", "eve")
    await eve.machine.set_room_encryption(ROOM, {"algorithm": MEGOLM})
    await eve.send_all()
    scene.server.join(ROOM, EVE)
    await scene.greet()
    await eve.say(ROOM, "I am here")
    await scene.app.sync()
    await scene.bob.machine.discard_room_key(ROOM)
    await scene.bob.machine.share_room_key(ROOM, scene.server.members(ROOM))
    async with scene.extension.machine.room_keys_received_stream() as keys:
        for is_eve in (eve_first, not eve_first):
            await (give_as_own(eve, scene.bob, scene.app) if is_eve else scene.bob.send_all())
            assert not (await scene.app.sync()).problems
            async with asyncio.timeout(PATIENCE):
                await anext(keys)  # an application that waits for Bob's key is notified
    event = await scene.bob.say(ROOM, "hello")
    as_own = eve.post(ROOM, event["content"])  # type: ignore[arg-type]
    for _ in range(2):
        assert (await scene.app.machine.decrypt_room_event(ROOM, as_own)).sender_key == eve.machine.curve25519
        decrypted = await scene.app.machine.decrypt_room_event(ROOM, event)
        assert (decrypted.sender, decrypted.sender_key) == (BOB, scene.bob.machine.curve25519)
        assert decrypted.trust is SenderTrust.KNOWN_DEVICE
    both = await scene.extension.machine.decrypt_room_events(ROOM, [as_own, event, {**as_own, "event_id": "$again"}])
    assert [type(each).__name__ for each in both] == ["DecryptedEvent", "DecryptedEvent", "ReplayedMessage"]
    with pytest.raises(WrongSender):
        await scene.extension.machine.decrypt_room_event(ROOM, {**event, "sender": ALICE})
