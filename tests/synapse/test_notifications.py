"""A notification extension and an app share a device: scenarios from the bugs of real clients.

Complement-crypto has nine such scenarios. The one that restores keys from a backup is in ``test_backup.py``.
"""

from __future__ import annotations

import random

import pytest

from tests.synapse.commands import Send, Sync
from tests.synapse.proxy import Fault, FaultKind
from tests.synapse.scene import Scene
from unwedged.machine.ratchets import MOST_ONE_TIME_KEYS


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(0, 0, id="one message"),
        pytest.param(20, 0, id="the last of many"),
        pytest.param(0, 20, id="an old one"),
    ],
)
async def test_an_extension_that_begins_reads_a_message(on: Scene, before: int, after: int) -> None:
    """The app uploaded the keys and was closed."""
    await on.begin(rotation_messages=5)
    for label in ("app", "extension"):
        await on[label].leave()
    for number in range(before):
        await on.say("bob", f"{number} before")
    notified = await on.say("bob", "notified")
    for number in range(after):
        await on.say("bob", f"{number} after")
    await on["extension"].start()
    await on["extension"].do(Sync())
    assert await on.read("extension", notified.event_id) == "notified"
    await on["app"].start()
    await on.settle()
    await on.end()


async def test_an_extension_goes_on_with_the_sessions_of_the_app(on: Scene) -> None:
    """The message is not the first of its Olm session, and the app was closed in the middle of the conversation."""
    await on.begin(rotation_messages=1)
    await on["extension"].leave()
    for number in range(3):
        await on.say("bob", f"{number} to the app")
        await on["app"].do(Sync())
        await on.say("app", f"{number} to bob")
        await on["bob"].do(Sync())
    await on["app"].leave()
    await on["extension"].start()
    for number in range(3):
        event = await on.say("bob", f"{number} to the extension")
        await on["extension"].do(Sync())
        assert await on.read("extension", event.event_id) == f"{number} to the extension"
    await on["app"].start()
    await on.settle()
    await on.end()


@pytest.mark.parametrize("seed", range(1))
async def test_app_and_extension_come_and_go(on: Scene, seed: int) -> None:
    """Both read each message, whichever opens first and whichever was closed before; sometimes the app replies."""
    chosen = random.Random(seed)
    await on.begin(rotation_messages=1)
    for number in range(12):
        closed = [label for label in ("app", "extension") if chosen.random() < 0.4]
        for label in closed:
            await on[label].leave()
        event = await on.say("bob", f"{number} from bob")
        for label in chosen.sample(["app", "extension"], 2):
            if label in closed:
                await on[label].start()
            await on[label].do(Sync())
            assert await on.read(label, event.event_id) == f"{number} from bob"
        if chosen.random() < 0.5:
            answer = await on.say(chosen.choice(["app", "extension"]), f"{number} from alice")
            await on["bob"].do(Sync())
            assert await on.read("bob", answer.event_id) == f"{number} from alice"
    await on.settle()
    await on.end()


async def test_an_extension_that_stays_open_is_not_wedged_by_an_app_that_is_opened_again(on: Scene) -> None:
    """The extension's memory is from before the app advanced the same Olm session."""
    await on.begin(rotation_messages=1)
    for number in range(4):
        event = await on.say("bob", f"{number} from bob")
        await on["extension"].do(Sync())
        assert await on.read("extension", event.event_id) == f"{number} from bob"
        await on["app"].leave()
        await on["app"].start()
        await on["app"].do(Sync())
        assert await on.read("app", event.event_id) == f"{number} from bob"
        answer = await on.say("app", f"{number} from the app")
        await on["bob"].do(Sync())
        assert await on.read("bob", answer.event_id) == f"{number} from the app"
    await on.settle()
    await on.end()


# M2.2
async def test_keys_that_both_could_upload_are_uploaded_once(on: Scene) -> None:
    """The response to the app's upload is delayed. Meanwhile the extension also learns that keys are missing."""
    await on.begin()
    before = len(on.uploads())
    await on.claim_keys(MOST_ONE_TIME_KEYS - 10)
    for label in ("app", "extension"):
        await on[label].do(Sync())
    held = Fault(FaultKind.RESPONSE_HELD, "app", "/keys/upload")
    on.proxy.faults = [held]
    on["app"].tell(Send())
    await held.happened.wait()
    for command in (Send(), Sync(), Send()):
        await on["extension"].do(command)
    await on.say("bob", "meanwhile")
    held.released.set()
    assert await on["app"].answer() is not None
    await on.settle()
    (upload,) = on.uploads()[before:]
    assert isinstance(upload["one_time_keys"], dict)
    assert len(upload["one_time_keys"]) == MOST_ONE_TIME_KEYS - 10
    await on.end()


# M6.1
async def test_a_device_that_came_while_only_the_extension_synced_is_not_missed(on: Scene) -> None:
    """Bob's second device signs in while the app is closed; it can read the app's next message."""
    await on.begin()
    await on.say("app", "before")
    await on["app"].leave()
    await on.sign_in("bob", "TABLET")
    await on.start("tablet", on.bob, "TABLET")
    await on.settle("tablet")
    await on.say("bob", "a notification")
    await on["extension"].do(Sync())
    await on["app"].start()
    await on["app"].do(Sync())
    answer = await on.say("app", "to both devices")
    await on["tablet"].do(Sync())
    assert await on.read("tablet", answer.event_id) == "to both devices"
    await on.settle()
    await on.end()
