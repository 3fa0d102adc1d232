"""Our device, in two processes, and a device of matrix-sdk-crypto of the same user share one backup."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from checking.machine_replay.homeserver import PASSWORD, Device, Json
from tests.peers.network import FAULT_KINDS, Fault, FaultKind
from tests.peers.peer import MATRIX_SDK_CRYPTO, Peer, Unreadable
from tests.peers.scene import ROOM, Scene, repeated
from tests.peers.shared_device import SharedDevice, shared_device

OURS = Device("@ours:example.org", "OURSPHONE")
TABLET = Device("@ours:example.org", "TABLET")
BOB = Device("@bob:example.org", "BOBSPHONE")
AUTH: Json = {"type": "m.login.password", "session": "session", "password": PASSWORD}


async def talk(scene: Scene, ours: SharedDevice | Peer, bob: Peer) -> dict[str, Json]:
    """Hold a conversation with several room keys."""
    await scene.meet(ours, bob, rotation_period_msgs=2)
    events: dict[str, Json] = {}
    for number in range(5):
        events[f"ours {number}"] = await scene.say(ours, f"ours {number}", bob)
        events[f"bob {number}"] = await scene.say(bob, f"bob {number}", ours)
    return events


async def reads_all(reader: SharedDevice | Peer, events: dict[str, Json]) -> None:
    for text, event in events.items():
        assert await reader.read(ROOM, event) == text


async def test_it_restores_what_we_have_backed_up(scene: Scene, tmp_path: Path) -> None:
    bob = await scene.start(MATRIX_SDK_CRYPTO, BOB)
    async with shared_device(tmp_path, OURS, scene.network) as ours:
        events = await talk(scene, ours, bob)
        key = await ours.create_backup()
        await ours.back_up()
        tablet = await scene.start(MATRIX_SDK_CRYPTO, TABLET)
        await tablet.sync()
        with pytest.raises(Unreadable):
            await tablet.read(ROOM, events["ours 0"])
        assert not await tablet.use_backup(key)
        restored = await tablet.restore()
        assert restored["imported"] == restored["total"] == 6
        await reads_all(tablet, events)
        await tablet.back_up()
        assert (await ours.restore())["imported"] == 0


async def test_we_restore_what_it_has_backed_up(scene: Scene, tmp_path: Path) -> None:
    bob, tablet = await scene.start(MATRIX_SDK_CRYPTO, BOB), await scene.start(MATRIX_SDK_CRYPTO, TABLET)
    events = await talk(scene, tablet, bob)
    key = await tablet.create_backup()
    await tablet.back_up()
    async with shared_device(tmp_path, OURS, scene.network) as ours:
        await ours.sync()
        assert not await ours.use_backup(key)
        restored = await ours.restore()
        assert restored["imported"] == restored["total"] == 6
        await reads_all(ours, events)
        # Later keys go to the same backup, and the other device restores them.
        await scene.settle(ours, tablet, bob)
        after = await scene.say(ours, "after", bob)
        await ours.back_up()
        await tablet.restore()
        await reads_all(tablet, {**events, "after": after})


# M19.11
async def test_we_trust_its_version_by_the_identity_that_it_has_made(scene: Scene, tmp_path: Path) -> None:
    tablet = await scene.start(MATRIX_SDK_CRYPTO, TABLET)
    async with shared_device(tmp_path, OURS, scene.network) as ours:
        await (await ours.machine()).track_users([OURS.user])
        await scene.settle(ours, tablet)
        await tablet.bootstrap(AUTH)
        await scene.settle(ours, tablet)
        key = await tablet.create_backup()
        assert not await ours.use_backup(key)
        await (await ours.machine()).key_backup.turn_off()
        master = (await (await ours.machine()).cross_signing.trust_of(OURS.user)).master_key
        assert master is not None
        await (await ours.machine()).cross_signing.verify_user(OURS.user, master)
        assert await ours.use_backup(key)


# M19.5
async def test_it_trusts_our_version_by_the_identity_that_we_have_made(scene: Scene, tmp_path: Path) -> None:
    tablet = await scene.start(MATRIX_SDK_CRYPTO, TABLET)
    async with shared_device(tmp_path, OURS, scene.network) as ours:
        await (await ours.machine()).track_users([OURS.user])
        await scene.settle(ours, tablet)
        await ours.bootstrap()
        key = await ours.create_backup()
        await scene.settle(ours, tablet)
        assert not await tablet.use_backup(key)
        await tablet.verify(OURS.user)
        assert await tablet.use_backup(key)


# M19.14
@pytest.mark.parametrize("kind", FAULT_KINDS)
async def test_requests_of_the_backup_are_lost_or_repeated(scene: Scene, tmp_path: Path, kind: FaultKind) -> None:
    bob = await scene.start(MATRIX_SDK_CRYPTO, BOB)
    async with shared_device(tmp_path, OURS, scene.network, random.Random(0)) as ours:
        events = await talk(scene, ours, bob)
        if kind != "repeated":  # A repetition creates two versions: see tests/machine/test_backup.py.
            scene.network.faults.append(Fault(kind, OURS, "room_keys/version"))
        key = await repeated(ours.create_backup)
        scene.network.faults.append(Fault(kind, OURS, "room_keys/keys"))
        await repeated(ours.back_up)
        tablet = await scene.start(MATRIX_SDK_CRYPTO, TABLET)
        await tablet.sync()
        await tablet.use_backup(key)
        await tablet.restore()
        await reads_all(tablet, events)
