"""Verifications on a real homeserver: between a user's devices, and between users in an encrypted room."""

from __future__ import annotations

from contextlib import AsyncExitStack

from examples.encrypted_bot.client import Client, Synced
from tests.synapse.scene import Scene
from tests.synapse.test_cross_signing import Devices, bootstrap, device_trust, master_signatures
from unwedged.machine import DeviceTrust, MachineError, Phase, RoomMessage, Verification


class Verifying(Client):
    """A process that also exchanges verification messages."""

    async def send_all(self) -> None:
        while requests := [
            each for each in await self.machine.outgoing_requests() if not isinstance(each, RoomMessage)
        ]:
            for request in requests:
                assert await self.send(request)

    async def send_to_rooms(self) -> None:
        """Encrypt and send the pending events for rooms."""
        while messages := [each for each in await self.machine.outgoing_requests() if isinstance(each, RoomMessage)]:
            for message in messages:
                shared = await self.share(message.room_id)
                assert shared is not None
                names = message.room_id, shared, message.event_type
                sent = message.encrypted(await self.machine.encrypt_room_event(*names, message.content))
                await self.machine.mark_sent(message, await self.call(sent.method, sent.path, sent.body))

    async def sync(self, *, timeout_ms: int = 0) -> Synced | None:
        synced = await super().sync(timeout_ms=timeout_ms)
        assert synced is not None
        for room, events in synced.rooms.items():
            for event in events:
                decrypted = None
                if event["type"] == "m.room.encrypted":
                    (read,) = await self.machine.decrypt_room_events(room, [event])
                    if isinstance(read, MachineError):
                        continue
                    decrypted = read
                await self.machine.verifications.receive_room_event(room, event, decrypted)
        return synced

    async def flow(self) -> Verification:
        """Return the newest verification."""
        return (await self.machine.verifications.get_all())[-1]


class VerifyingDevices(Devices):
    """Alice's phone in two processes, her tablet, and Bob's laptop, all with verifications."""

    client = Verifying

    async def settle(self) -> None:
        for _ in range(6):
            for client in (self.app, self.extension, self.tablet, self.bob):
                assert isinstance(client, Verifying)
                await client.send_all()
                await client.send_to_rooms()
                await client.sync()


async def compare(devices: Devices, one: Client, same: Client, other: Client) -> None:
    """Complete the verification that ``one`` requested from ``other``; ``same`` is on the same device as ``one``."""
    assert isinstance(one, Verifying)
    assert isinstance(same, Verifying)
    assert isinstance(other, Verifying)
    await devices.settle()
    await other.machine.verifications.accept((await other.flow()).flow_id)
    await devices.settle()
    await same.machine.verifications.start_sas((await same.flow()).flow_id)
    await devices.settle()
    assert (await one.flow()).decimals == (await other.flow()).decimals is not None
    await one.machine.verifications.confirm((await one.flow()).flow_id)
    await devices.settle()
    await other.machine.verifications.confirm((await other.flow()).flow_id)
    await devices.settle()
    assert {(await client.flow()).phase for client in (one, same, other)} == {Phase.DONE}


async def test_devices_and_users_verify_each_other(on: Scene) -> None:
    async with AsyncExitStack() as stack:
        devices = VerifyingDevices(on, stack)
        await devices.begin()
        alice, bob = on.alice, on.bob
        await bootstrap(devices.app, devices.extension)
        await bootstrap(devices.bob)
        await devices.settle()
        await devices.app.machine.verifications.request(alice, ["TABLET"])
        await compare(devices, devices.app, devices.extension, devices.tablet)
        assert await device_trust(devices.bob, alice, "TABLET") is DeviceTrust.CROSS_SIGNED
        assert (await devices.tablet.machine.cross_signing.trust_of(alice)).verified
        await devices.extension.machine.verifications.request_in_room(on.room, bob)
        await compare(devices, devices.extension, devices.app, devices.bob)
        for client, user in ((devices.app, bob), (devices.bob, alice), (devices.tablet, bob)):
            assert (await client.machine.cross_signing.trust_of(user)).verified
        assert bob in await master_signatures(devices.bob, alice)
        assert alice in await master_signatures(devices.tablet, bob)
