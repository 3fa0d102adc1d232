"""Our device, in two processes on one store, exchanges messages with devices of other libraries."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from checking.machine_replay.homeserver import Device, Json
from tests.peers.network import FAULT_KINDS, PATHS, Fault, FaultKind
from tests.peers.peer import LIBRARIES, MATRIX_NIO, Library, Unreadable
from tests.peers.scene import ROOM, Participant, Scene, repeated, sessions
from tests.peers.shared_device import shared_device

OURS = Device("@ours:example.org", "OURSPHONE")
ALICE = Device("@alice:example.org", "ALICESPHONE")
BOB = Device("@bob:example.org", "BOBSPHONE")
CAROL = Device("@carol:example.org", "CAROLSPHONE")

EACH = [pytest.param(library, id=library.name) for library in LIBRARIES]


# M20.1, M20.4
@pytest.mark.parametrize("library", EACH)
async def test_each_call_is_made_by_the_other_process(scene: Scene, tmp_path: Path, library: Library) -> None:
    alice = await scene.start(library, ALICE)
    async with shared_device(tmp_path, OURS, scene.network) as ours:
        await scene.meet(ours, alice, rotation_period_msgs=3)
        events: dict[str, Json] = {}
        for number in range(15):
            events[f"ours {number}"] = await scene.say(ours, f"ours {number}", alice)
            events[f"alice {number}"] = await scene.say(alice, f"alice {number}", ours)
            if number % 5 == 4:  # After this, all devices use other room keys.
                scene.homeserver.join(ROOM, CAROL.user)
                await scene.settle(ours, alice)
                scene.homeserver.leave(ROOM, CAROL.user)
                await scene.settle(ours, alice)
        for text, event in events.items():
            assert await ours.read(ROOM, event) == text
        assert ours.problems == set()
    keys = scene.network.message_keys
    # matrix-nio ignores the room's rotation period and always uses a hundred messages.
    assert len({key.session_id for key in keys.megolm}) >= (8 if library == MATRIX_NIO else 10)
    assert len({key.ratchet_key for key in keys.olm}) > 4


# M20.2, M21.1
@pytest.mark.parametrize("library", EACH)
async def test_each_call_is_made_by_a_process_that_was_just_started(
    scene: Scene, tmp_path: Path, library: Library
) -> None:
    alice = await scene.start(library, ALICE)
    async with shared_device(tmp_path, OURS, scene.network, restarts=True) as ours:
        await scene.meet(ours, alice, rotation_period_msgs=2)
        for number in range(4):
            await scene.say(ours, f"ours {number}", alice)
            await scene.say(alice, f"alice {number}", ours)
        assert ours.problems == set()


@pytest.mark.parametrize("library", EACH)
async def test_the_device_and_a_peer_read_each_other(scene: Scene, tmp_path: Path, library: Library) -> None:
    alice = await scene.start(library, ALICE)
    async with shared_device(tmp_path, OURS, scene.network, random.Random(0)) as ours:
        await scene.meet(ours, alice, rotation_period_msgs=5)
        sent: list[Json] = []
        for number in range(20):
            sent.append(await scene.say(ours, f"ours {number}", alice))
            await scene.say(alice, f"alice {number}", ours)
        assert len(sessions(*sent)) == 4
        assert len({key.sender_key for key in scene.network.message_keys.olm}) == 2


# M9.7
@pytest.mark.parametrize("library", EACH)
async def test_a_user_who_has_left_reads_no_more(scene: Scene, tmp_path: Path, library: Library) -> None:
    alice, bob = await scene.start(library, ALICE), await scene.start(library, BOB)
    async with shared_device(tmp_path, OURS, scene.network, random.Random(0)) as ours:
        await scene.meet(ours, alice, bob)
        for _ in range(3):
            await scene.say(ours, "three", alice, bob)
            await scene.say(alice, "three", ours, bob)
            for leaver, stayer in ((alice, bob), (bob, alice)):
                scene.homeserver.leave(ROOM, leaver.device.user)
                await scene.settle(ours, alice, bob)
                for event in (await scene.say(ours, "two", stayer), await scene.say(stayer, "two", ours)):
                    with pytest.raises(Unreadable):
                        await leaver.read(ROOM, event)
                scene.homeserver.join(ROOM, leaver.device.user)
                await scene.settle(ours, alice, bob)


# M2.3, M21.4
@pytest.mark.parametrize("kind", FAULT_KINDS)
@pytest.mark.parametrize("library", EACH)
async def test_one_of_each_request_is_lost_or_repeated(
    scene: Scene, tmp_path: Path, library: Library, kind: FaultKind
) -> None:
    alice = await scene.start(library, ALICE)
    async with shared_device(tmp_path, OURS, scene.network, random.Random(0)) as ours:
        scene.homeserver.create_room(ROOM, OURS.user, ALICE.user)
        await alice.sync()
        scene.network.faults += [Fault(kind, OURS, path) for path in PATHS]
        for _ in range(3):
            await repeated(ours.sync)
            await alice.sync()
        await scene.say(ours, "hello", alice)
        scene.network.faults.append(Fault(kind, OURS, "sync"))  # The response has a room key this time.
        await scene.say(alice, "hello, too", ours)


@pytest.mark.parametrize("seed", range(3))
async def test_everybody_reads_everybody_whatever_is_lost(scene: Scene, tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")  # noqa: T201 (shown where the test fails)
    chosen = random.Random(seed)
    peers = [await scene.start(*each) for each in zip(LIBRARIES, (ALICE, BOB, CAROL), strict=True)]
    async with shared_device(tmp_path, OURS, scene.network, chosen) as ours:
        await scene.meet(ours, *peers, rotation_period_msgs=3)
        everybody: list[Participant] = [ours, *peers]
        for number in range(40):
            speaker, *listeners = chosen.sample(everybody, len(everybody))
            if chosen.random() < 0.5:
                fault = Fault(chosen.choice(FAULT_KINDS), chosen.choice(everybody).device, chosen.choice(PATHS))
                scene.network.faults.append(fault)
            await scene.say(speaker, f"{number}", *listeners)
        assert ours.problems <= {"repeated"}  # because it has two connections
    scene.network.faults.clear()  # Faults may remain that affected no request.
