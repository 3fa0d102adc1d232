"""matrix-sdk-crypto and our device verify each other's cross-signing identities."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path

import pytest

from checking.machine_replay.homeserver import PASSWORD, Device, Json
from tests.peers.peer import MATRIX_SDK_CRYPTO, Unreadable
from tests.peers.scene import ROOM, Scene
from tests.peers.shared_device import SharedDevice, shared_device
from unwedged.machine import DeviceTrust, SenderTrust, SharingStrategy, SigningSeeds, UnverifiedRecipients
from unwedged.machine.identifiers import DeviceId

OURS = Device("@ours:example.org", "OURSPHONE")
ALICE = Device("@alice:example.org", "ALICESPHONE")
AUTH: Json = {"type": "m.login.password", "session": "session", "password": PASSWORD}


async def device_trust(ours: SharedDevice, device: Device) -> DeviceTrust:
    trust = await (await ours.machine()).cross_signing.trust_of(device.user)
    known = await (await ours.machine()).devices_of(device.user)
    return trust.of(known[DeviceId(device.device)])


async def verify(ours: SharedDevice, device: Device) -> None:
    key = (await (await ours.machine()).cross_signing.trust_of(device.user)).master_key
    assert key is not None
    await (await ours.machine()).cross_signing.verify_user(device.user, key)


# M15.4
async def test_each_side_verifies_the_identity_of_the_other(scene: Scene, tmp_path: Path) -> None:
    alice = await scene.start(MATRIX_SDK_CRYPTO, ALICE)
    async with shared_device(tmp_path, OURS, scene.network) as ours:
        await scene.meet(ours, alice)
        assert not (await alice.trust(OURS))["known"]
        await ours.bootstrap()
        await alice.bootstrap()
        await scene.settle(ours, alice)
        seen = await alice.trust(OURS)
        assert seen["master"] == (await (await ours.machine()).cross_signing.status()).master_key
        assert (seen["signed"], seen["verified"]) == (True, False)
        assert await device_trust(ours, ALICE) is DeviceTrust.CROSS_SIGNED
        await alice.verify(OURS.user)
        await verify(ours, ALICE)
        await scene.settle(ours, alice)
        assert await alice.trust(OURS) == {**seen, "verified": True, "trusted": True}
        assert await device_trust(ours, ALICE) is DeviceTrust.VERIFIED
        event = await scene.say(alice, "verified", ours)
        read = await (await ours.machine()).decrypt_room_event(ROOM, event)
        assert read.trust is SenderTrust.VERIFIED_DEVICE


# M15.3
async def test_a_change_of_the_identity_of_either_side_is_noticed_by_the_other(scene: Scene, tmp_path: Path) -> None:
    alice = await scene.start(MATRIX_SDK_CRYPTO, ALICE)
    async with shared_device(tmp_path, OURS, scene.network) as ours:
        await scene.meet(ours, alice)
        await ours.bootstrap()
        await alice.bootstrap()
        await scene.settle(ours, alice)
        await alice.verify(OURS.user)
        await verify(ours, ALICE)
        await (await ours.machine()).set_sharing_strategy(ROOM, SharingStrategy.REFUSE_UNVERIFIED)
        await scene.say(ours, "to a verified user", alice)
        await alice.bootstrap(AUTH)
        await scene.settle(ours, alice)
        trust = await (await ours.machine()).cross_signing.trust_of(ALICE.user)
        assert (trust.verified, trust.violated) == (False, True)
        with pytest.raises(UnverifiedRecipients):
            await ours.send(ROOM, "to whom?")
        await verify(ours, ALICE)
        await scene.say(ours, "to a verified user again", alice)
        await ours.reset(AUTH)
        await scene.settle(ours, alice)
        seen = await alice.trust(OURS)
        assert (seen["verified"], seen["violated"], seen["signed"]) == (False, True, True)


# M15.12
async def test_a_peer_that_trusts_only_signed_devices_shares_with_ours(scene: Scene, tmp_path: Path) -> None:
    alice = await scene.start(MATRIX_SDK_CRYPTO, ALICE)
    async with shared_device(tmp_path, OURS, scene.network) as ours:
        await scene.meet(ours, alice, rotation_period_msgs=1)
        await alice.bootstrap()
        await alice.share_with_signed_devices_only()
        event = await alice.send(ROOM, "not for an unsigned device")
        await ours.sync()
        with pytest.raises(Unreadable, match="withheld"):
            await ours.read(ROOM, event)
        await ours.bootstrap()
        await scene.settle(ours, alice)
        await scene.say(alice, "for a signed device", ours)


async def test_the_private_keys_of_a_peer_sign_our_device(scene: Scene, tmp_path: Path) -> None:
    alice, tablet = await scene.start(MATRIX_SDK_CRYPTO, ALICE), Device(ALICE.user, "TABLET")
    async with shared_device(tmp_path, tablet, scene.network) as ours:
        await scene.meet(ours, alice)
        await alice.bootstrap()
        await scene.settle(ours, alice)
        seeds = {name: b64decode(f"{seed}=") for name, seed in (await alice.seeds()).items()}
        assert (await (await ours.machine()).cross_signing.import_seeds(SigningSeeds(**seeds))).verified
        assert await device_trust(ours, ALICE) is DeviceTrust.VERIFIED
        await ours.bootstrap()
        await scene.settle(ours, alice)
        assert (await alice.trust(tablet))["trusted"]
