"""Alice's phone, in two processes, and her tablet exchange secrets and room keys on a real homeserver."""

from __future__ import annotations

from contextlib import AsyncExitStack

import msgspec
import pytest

from checking.machine_replay.homeserver import Json
from tests.synapse.commands import AskForKeys, Interruption, Place, Read, Send, Sync, Verify
from tests.synapse.scene import Scene
from tests.synapse.test_cross_signing import Devices, bootstrap
from unwedged.machine import LocalTrust, MissingRoomKey, SigningKeyName
from unwedged.machine.identifiers import DeviceId


async def test_a_tablet_gets_the_private_keys_and_the_key_of_an_old_message(on: Scene) -> None:
    async with AsyncExitStack() as stack:
        devices = Devices(on, stack)
        await devices.begin()
        phone, tablet = devices.app, devices.tablet
        event_id = await phone.say(on.room, "old", "old")
        assert event_id is not None
        event = await on.call(on.bob, "LAPTOP", "GET", f"rooms/{on.room}/event/{event_id}")
        await bootstrap(devices.app, devices.extension)
        await on.sign_in("alice", "DESK")
        desk = await devices.open(on.alice, "DESK", "desk")
        await devices.settle()
        await desk.sync()
        await desk.send_all()
        for one, other in ((phone, desk), (desk, phone), (desk, tablet)):
            known = (await one.machine.devices_of(on.alice))[DeviceId(other.machine.device.device_id)]
            await one.machine.set_trust(on.alice, known.device_id, known.ed25519, LocalTrust.VERIFIED)
        with pytest.raises(MissingRoomKey):
            await desk.machine.decrypt_room_event(on.room, event)
        await desk.machine.request_room_keys(on.room, [event])
        await desk.machine.secrets.request_missing()
        await desk.send_all()
        for client in (devices.extension, devices.app, desk, devices.extension, desk):
            await client.sync()
            await client.send_all()
        assert (await desk.machine.cross_signing.status()).private_keys == set(SigningKeyName)
        assert (await desk.machine.decrypt_room_event(on.room, event)).content["body"] == "old"
        await tablet.sync()
        await tablet.send_all()  # The tablet has not verified the desk, and the desk's requests were cancelled.
        assert len(answers(on, "PHONE", "DESK")) == 4
        assert answers(on, "TABLET", "DESK") == set()


# M17.8
@pytest.mark.parametrize("place", list(Place), ids=lambda place: place.name)
@pytest.mark.parametrize("killed", [False, True], ids=["suspended", "killed"])
async def test_a_process_is_stopped_as_it_answers_a_request(on: Scene, place: Place, killed: bool) -> None:
    """The other process answers if the first one has not, so that there is exactly one answer."""
    await on.begin()
    await on.say("bob", "before the tablet")
    await on.settle()
    old = await on.events()
    await on.sign_in("alice", "TABLET")
    await on.start("tablet", on.alice, "TABLET")
    await on["tablet"].do(Send())
    await on.settle()
    await on.say("app", "with the tablet")
    await on.settle()
    await on["extension"].do(Verify(device="TABLET"))
    await on["tablet"].do(Verify(device="PHONE"))
    assert (await on["tablet"].do(Read(room=on.room, events=old))).problems == ["missing_room_key"]
    before = answers(on, "PHONE", "TABLET")
    await on["tablet"].do(AskForKeys(room=on.room, events=old))
    await on["tablet"].do(Send())
    await on["app"].do(Sync())
    on["app"].tell(Send(interruption=Interruption(killed, place, "collect")))
    if killed:
        assert await on["app"].answer() is None
    else:
        assert await on["app"].stopped()
    await on["extension"].do(Sync())
    await on["extension"].do(Send())
    if killed:
        await on["app"].restart()
    else:
        on["app"].resume()
        assert await on["app"].answer() is not None
    await on.settle()
    assert len(answers(on, "PHONE", "TABLET") - before) == 1
    await on.end(["app", "extension", "bob", "tablet"])


def answers(on: Scene, sender: str, recipient: str) -> set[str]:
    """Return the requests in which one of Alice's devices sent Olm messages to another."""
    found = set()
    for arrival in on.proxy.arrivals:
        if arrival.device.device == sender and "/sendToDevice/m.room.encrypted/" in arrival.path:
            messages: Json = msgspec.json.decode(arrival.body)["messages"]
            of_alice = messages.get(on.alice)
            if isinstance(of_alice, dict) and recipient in of_alice:
                found.add(arrival.path)
    return found
