"""One-time keys, to-device messages and room keys on a real homeserver: the scenarios of complement-crypto.

One scenario is missing: a forged sender (tested in ``tests/machine``).
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from tests.synapse.commands import Interruption, Place, Send, Sync
from tests.synapse.proxy import Fault, FaultKind
from tests.synapse.scene import Scene
from tests.synapse.test_cross_signing import Devices
from unwedged.machine.ratchets import MOST_ONE_TIME_KEYS

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS


async def test_the_fallback_key_begins_any_number_of_sessions(on: Scene) -> None:
    """The one-time keys are used up. Two devices of Bob begin sessions with the fallback key; then it is replaced."""
    await on.begin()
    await on.sign_in("bob", "TABLET")
    await on.start("tablet", on.bob, "TABLET")
    await on.settle("tablet", "bob")
    await on.claim_keys(MOST_ONE_TIME_KEYS)
    for label in ("bob", "tablet"):
        assert (await on.say(label, f"from {label}")).event_id
    await on["extension"].do(Sync())
    await on["app"].do(Sync())
    await on.advance(2 * HOUR_MS)
    await on.settle()
    fallback_keys = [str(upload["fallback_keys"]) for upload in on.uploads() if "fallback_keys" in upload]
    assert len(set(fallback_keys)) == 2
    assert (await on.say("bob", "to the new keys")).event_id
    await on.settle()
    await on.end()


# M2.6, M2.9
async def test_an_upload_that_fails_is_followed_by_another_one(on: Scene) -> None:
    """No upload of either process arrives. After a while they upload other keys, since the first may have arrived."""
    await on.begin()
    before = len(on.uploads())
    await on.claim_keys(MOST_ONE_TIME_KEYS - 10)
    for label in ("app", "extension"):
        lost = Fault(FaultKind.REQUEST_LOST, label, "/keys/upload")
        on.proxy.faults = [lost]
        await on[label].do(Sync())
        await on[label].do(Send())
        assert lost.happened.is_set()
        await on.advance(11 * MINUTE_MS)
        await on[label].do(Send())
    await on.settle()
    assert len(on.uploads()) > before
    await on.end()


# M8.7
async def test_a_claim_that_fails_is_made_again(on: Scene) -> None:
    await on.begin()
    for label in ("extension", "app"):
        lost = Fault(FaultKind.REQUEST_LOST, label, "/keys/claim")
        on.proxy.faults = [lost]
        assert not (await on.say(label, "not yet")).event_id
        assert lost.happened.is_set()
        await on.advance(2 * MINUTE_MS)
    assert (await on.say("extension", "now")).event_id
    await on.settle()
    await on.end()


# M21.2
async def test_a_room_key_that_does_not_leave_is_sent_by_the_other_process(on: Scene) -> None:
    await on.begin(rotation_messages=1)
    for kind in (FaultKind.REQUEST_LOST, FaultKind.RESPONSE_LOST):
        lost = Fault(kind, "app", "/sendToDevice")
        on.proxy.faults = [lost]
        event = await on.say("app", kind.value)
        assert lost.happened.is_set()
        await on["app"].kill()
        await on["extension"].do(Send())
        await on["bob"].do(Sync())
        assert await on.read("bob", event.event_id) == kind.value
        await on["app"].restart()
    await on.settle()
    await on.end()


# M5.1
async def test_a_room_key_survives_the_process_that_receives_it(on: Scene) -> None:
    """The process is killed as soon as it has the response, before or after its commit."""
    await on.begin(rotation_messages=1)
    for place in Place:
        event = await on.say("bob", place.value)
        on["app"].tell(Sync(interruption=Interruption(killed=True, place=place, operation="receive")))
        assert await on["app"].answer() is None
        await on["app"].restart()
        await on["app"].do(Sync())
        assert await on.read("app", event.event_id) == place.value
    await on.settle()
    await on.end()


async def test_more_room_keys_than_fit_in_one_response_arrive_in_any_order(on: Scene) -> None:
    """The device does not sync for a long time. Synapse returns at most a hundred to-device messages per response."""
    await on.begin(rotation_messages=1)
    for number in range(110):
        await on.say("bob", f"{number}")
    await on["extension"].do(Sync())
    await on["app"].do(Sync())
    await on.settle()
    await on.end()


async def test_a_room_key_reaches_a_hundred_devices(on: Scene) -> None:
    """Each of them reads a message of each process."""
    await on.begin()
    async with AsyncExitStack() as stack:
        devices = Devices(on, stack)
        names = [f"TABLET{number}" for number in range(100)]
        for name in names:
            await on.sign_in("bob", name)
        tablets = [await devices.open(on.bob, name, name) for name in names]
        await on.settle("app", "extension")
        events = [await on.say(label, f"to all, from {label}") for label in ("app", "extension")]
        assert all(answer.event_id for answer in events)
        for tablet in tablets:
            await tablet.sync()
            await tablet.send_all()  # the device list of the sender
            for answer, event in zip(events, (await on.events())[-2:], strict=True):
                assert event["event_id"] == answer.event_id
                assert (await tablet.machine.decrypt_room_event(on.room, event)).content["body"] in on.said
    await on.settle()
    await on.end()


async def test_a_room_key_of_a_device_that_can_not_be_looked_up_is_kept(on: Scene) -> None:
    await on.begin()
    await on.sign_in("bob", "TABLET")
    await on.start("tablet", on.bob, "TABLET")
    await on.settle("tablet")
    event = await on.say("tablet", "from a device that nobody knows")
    for label in ("app", "extension"):
        lost = Fault(FaultKind.REQUEST_LOST, label, "/keys/query")
        on.proxy.faults = [lost]
        await on[label].do(Sync())
        await on[label].do(Send())
        assert lost.happened.is_set()
        assert await on.read(label, event.event_id) == "from a device that nobody knows"
    await on.settle()
    await on.end()


# M9.6, M9.7
async def test_a_room_key_is_replaced_when_it_must_be_and_only_then(on: Scene) -> None:
    """Both processes use one key, even after a restart, until a member leaves, or the key is too old or used up."""
    await on.begin(rotation_messages=4)
    await on.sign_in("bob", "TABLET")
    await on.start("tablet", on.bob, "TABLET")
    await on.settle()
    said = 0

    async def is_new() -> bool:
        nonlocal said
        said += 1
        before = await on.sessions()
        assert (await on.say(("app", "extension")[said % 2], f"{said}")).event_id
        return (await on.sessions())[-1] not in before

    assert await is_new()
    await on.call(on.alice, "PHONE", "PUT", f"profile/{on.alice}/displayname", {"displayname": "Alice"})
    await on["app"].leave()
    await on["app"].start()
    await on.settle()
    assert not await is_new()
    assert not await is_new()
    assert not await is_new()
    assert await is_new()  # after four messages
    await on["tablet"].leave()
    del on.processes["tablet"]
    await on.call(on.bob, "TABLET", "POST", "logout")
    await on.settle()
    assert await is_new()
    await on.advance(8 * 24 * HOUR_MS)
    assert await is_new()
    await on.settle()
    await on.end()
    await on.call(on.bob, "LAPTOP", "POST", f"rooms/{on.room}/leave", {})
    for label in ("app", "extension"):
        await on[label].start()
        await on[label].do(Sync())
    assert len({*(await on.sessions())}) == 4
