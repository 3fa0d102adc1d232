"""Other implementations exchange messages through the homeserver in memory, which shows that the test setup works."""

from __future__ import annotations

import random
from itertools import product

import msgspec
import pytest

from checking.machine_replay.homeserver import Device, Json
from tests.peers.network import FAULT_KINDS, PATHS, Fault, FaultKind
from tests.peers.peer import LIBRARIES, MATRIX_NIO, MATRIX_SDK_CRYPTO, Library, Unreadable
from tests.peers.scene import ROOM, Scene, repeated, sessions

ALICE = Device("@alice:example.org", "ALICESPHONE")
BOB = Device("@bob:example.org", "BOBSPHONE")
CAROL = Device("@carol:example.org", "CAROLSPHONE")

PAIRS = [pytest.param(one, other, id=f"{one.name}, {other.name}") for one, other in product(LIBRARIES, repeat=2)]
EACH = [pytest.param(library, id=library.name) for library in LIBRARIES]


@pytest.mark.parametrize(("one", "other"), PAIRS)
async def test_two_peers_read_each_other(scene: Scene, one: Library, other: Library) -> None:
    alice, bob = await scene.start(one, ALICE), await scene.start(other, BOB)
    await scene.meet(alice, bob, rotation_period_msgs=5)
    events: dict[Library, list[Json]] = {one: [], other: []}
    for number in range(20):
        events[one].append(await scene.say(alice, f"alice {number}", bob))
        events[other].append(await scene.say(bob, f"bob {number}", alice))
    for library, sent in events.items():
        # matrix-nio ignores the room's rotation period and always uses a hundred messages.
        assert len(sessions(*sent)) / (len(sent) / 20) == (1 if library == MATRIX_NIO else 4)
    keys = scene.network.message_keys
    assert len(keys.megolm) == 40
    assert len({key.sender_key for key in keys.olm}) == 2


@pytest.mark.parametrize(("one", "other"), PAIRS)
async def test_a_room_key_is_rotated_when_somebody_leaves(scene: Scene, one: Library, other: Library) -> None:
    alice, bob, carol = await scene.start(one, ALICE), await scene.start(other, BOB), await scene.start(other, CAROL)
    await scene.meet(alice, bob, carol)
    before = [await scene.say(alice, "three", bob, carol), await scene.say(bob, "three", alice, carol)]
    for _ in range(2):
        scene.homeserver.leave(ROOM, CAROL.user)
        await scene.settle(alice, bob, carol)
        after = [await scene.say(alice, "two", bob), await scene.say(bob, "two", alice)]
        assert not sessions(*before) & sessions(*after)
        for event in after:
            with pytest.raises(Unreadable):
                await carol.read(ROOM, event)
        scene.homeserver.join(ROOM, CAROL.user)
        await scene.settle(alice, bob, carol)
        before = [await scene.say(alice, "three", bob, carol), await scene.say(bob, "three", alice, carol)]
    # Olm messages went both ways: in a session with replies, each reply begins a new chain.
    assert len({key.ratchet_key for key in scene.network.message_keys.olm}) > 4


@pytest.mark.parametrize("kind", FAULT_KINDS)
@pytest.mark.parametrize("library", EACH)
async def test_one_of_each_request_is_lost_or_repeated(scene: Scene, library: Library, kind: FaultKind) -> None:
    alice, bob = await scene.start(library, ALICE), await scene.start(MATRIX_SDK_CRYPTO, BOB)
    scene.homeserver.create_room(ROOM, ALICE.user, BOB.user)
    await bob.sync()
    scene.network.faults += [Fault(kind, ALICE, path) for path in PATHS]
    for _ in range(3):
        await repeated(alice.sync)
        await bob.sync()
    await scene.say(alice, "hello", bob)
    scene.network.faults.append(Fault(kind, ALICE, "sync"))  # The response has a room key this time.
    await scene.say(bob, "hello, too", alice)


@pytest.mark.parametrize("library", EACH)
async def test_an_upload_that_arrives_again_after_a_claim_costs_a_message(scene: Scene, library: Library) -> None:
    """The server hands out a key again. No device can prevent the loss; the test setup must detect it."""
    alice, bob, carol = [
        await scene.start(each, device)
        for each, device in ((library, ALICE), (MATRIX_SDK_CRYPTO, BOB), (MATRIX_SDK_CRYPTO, CAROL))
    ]
    await scene.meet(alice, bob, carol)
    await scene.say(bob, "hello", alice, carol)
    upload = next(each for each in scene.homeserver.arrivals if each.device == ALICE and "keys/upload" in each.path)
    wanted = {"one_time_keys": {ALICE.user: {ALICE.device: "signed_curve25519"}}}
    for _ in range(200):
        scene.homeserver.request(BOB, "POST", "/_matrix/client/v3/keys/claim", wanted)
    scene.homeserver.request(ALICE, "POST", upload.path, msgspec.json.decode(upload.body))
    event = await carol.send(ROOM, "to somebody who has forgotten this key")
    await alice.sync()
    with pytest.raises(Unreadable):
        await alice.read(ROOM, event)
    await bob.sync()
    assert await bob.read(ROOM, event) == "to somebody who has forgotten this key"


@pytest.mark.parametrize("seed", [0])
async def test_everybody_reads_everybody_whatever_is_lost(scene: Scene, seed: int) -> None:
    chosen = random.Random(seed)
    peers = [await scene.start(*each) for each in zip(LIBRARIES, (ALICE, BOB, CAROL), strict=True)]
    await scene.meet(*peers, rotation_period_msgs=3)
    for number in range(40):
        speaker, *listeners = chosen.sample(peers, len(peers))
        if chosen.random() < 0.5:
            fault = Fault(chosen.choice(FAULT_KINDS), chosen.choice(peers).device, chosen.choice(PATHS))
            scene.network.faults.append(fault)
        await scene.say(speaker, f"{number}", *listeners)
    scene.network.faults.clear()  # Faults may remain that affected no request.
