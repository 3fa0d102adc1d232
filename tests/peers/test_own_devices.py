"""Our device, in two processes, and a matrix-sdk-crypto device of the same user exchange secrets and room keys.

Each of the two has verified the other. Secrets and room keys go both ways. Our device changes the process before each
step.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from checking.machine_replay.homeserver import Device
from tests.peers.peer import MATRIX_SDK_CRYPTO, Peer, Unreadable
from tests.peers.scene import ROOM, Scene
from tests.peers.shared_device import SharedDevice, shared_device
from unwedged.machine import LocalTrust
from unwedged.machine.records import SigningKeyName

ALICE = "@alice:example.org"
OURS = Device(ALICE, "OURS")
THEIRS = Device(ALICE, "THEIRS")
BOB = Device("@bob:example.org", "BOBSPHONE")

RESTARTS = pytest.mark.parametrize("restarts", [False, True])
"""Whether the process is restarted before each step."""


async def verify(ours: SharedDevice, theirs: Peer) -> None:
    """Let the two devices verify each other."""
    known = await (await ours.machine()).devices_of(ALICE)
    (device,) = [each for each in known.values() if each.device_id == theirs.device.device]
    await (await ours.machine()).set_trust(ALICE, device.device_id, device.ed25519, LocalTrust.VERIFIED)
    await theirs.verify_device(ours.device.device)


async def exchange(*participants: SharedDevice | Peer) -> None:
    """Let each participant receive the others' messages and answer."""
    for _ in range(3):
        for each in participants:
            await each.sync()


# M17.2
@RESTARTS
async def test_they_give_us_the_private_cross_signing_keys(scene: Scene, tmp_path: Path, restarts: bool) -> None:
    theirs = await scene.start(MATRIX_SDK_CRYPTO, THEIRS)
    async with shared_device(tmp_path, OURS, scene.network, restarts=restarts) as ours:
        await scene.meet(ours, theirs)
        await theirs.bootstrap()
        await scene.settle(ours, theirs)
        await verify(ours, theirs)
        assert (await (await ours.machine()).cross_signing.status()).private_keys == set()
        await (await ours.machine()).secrets.request_missing()
        await exchange(ours, theirs)
        assert (await (await ours.machine()).cross_signing.status()).private_keys == set(SigningKeyName)
        assert ours.problems == set()


# M17.1
@RESTARTS
async def test_we_give_them_the_private_cross_signing_keys(scene: Scene, tmp_path: Path, restarts: bool) -> None:
    theirs = await scene.start(MATRIX_SDK_CRYPTO, THEIRS)
    async with shared_device(tmp_path, OURS, scene.network, restarts=restarts) as ours:
        await scene.meet(ours, theirs)
        await ours.bootstrap()
        await scene.settle(ours, theirs)
        await verify(ours, theirs)
        assert not any((await theirs.ask_for_secrets()).values())
        await exchange(ours, theirs)
        assert all((await theirs.ask_for_secrets()).values())
        assert ours.problems == set()


# M18.2
@RESTARTS
async def test_they_give_us_a_room_key(scene: Scene, tmp_path: Path, restarts: bool) -> None:
    theirs, bob = await scene.start(MATRIX_SDK_CRYPTO, THEIRS), await scene.start(MATRIX_SDK_CRYPTO, BOB)
    await scene.meet(theirs, bob)
    event = await scene.say(bob, "before our device was there", theirs)
    async with shared_device(tmp_path, OURS, scene.network, restarts=restarts) as ours:
        await scene.settle(ours, theirs, bob)
        await verify(ours, theirs)
        with pytest.raises(Unreadable):
            await ours.read(ROOM, event)
        assert await (await ours.machine()).request_room_keys(ROOM, [event]) == 1
        await exchange(ours, theirs)
        assert await ours.read(ROOM, event) == "before our device was there"
        assert ours.problems == set()


# M18.4
@RESTARTS
async def test_we_give_them_a_room_key(scene: Scene, tmp_path: Path, restarts: bool) -> None:
    bob = await scene.start(MATRIX_SDK_CRYPTO, BOB)
    async with shared_device(tmp_path, OURS, scene.network, restarts=restarts) as ours:
        await scene.meet(ours, bob)
        event = await scene.say(bob, "before their device was there", ours)
        theirs = await scene.start(MATRIX_SDK_CRYPTO, THEIRS)
        await scene.settle(ours, theirs, bob)
        await verify(ours, theirs)
        with pytest.raises(Unreadable):  # The device requests the key.
            await theirs.read(ROOM, event)
        await exchange(theirs, ours)
        assert await theirs.read(ROOM, event) == "before their device was there"
        assert ours.problems == set()
