"""Cross-signing on a real homeserver: which user sees which keys and signatures, and when a password is required."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import msgspec
import pytest
from aiohttp import ClientSession

from checking.machine_replay.homeserver import Json
from examples.encrypted_bot.client import Client, authorization
from examples.encrypted_bot.synapse import PASSWORD
from tests.machine.scene import KEY
from tests.synapse.scene import Scene
from unwedged.machine import AnotherIdentity, DeviceTrust, OlmMachine, SenderTrust, SigningKeysUpload
from unwedged.machine.identifiers import DeviceId
from unwedged.store import LeaseTimes


class Devices:
    """Alice's phone in two processes, her tablet, and Bob's laptop."""

    client: type[Client] = Client

    def __init__(self, scene: Scene, stack: AsyncExitStack) -> None:
        self.scene = scene
        self._stack = stack

    async def begin(self) -> None:
        self.scene.alice = await self.scene.sign_in("alice", "PHONE")
        self.scene.bob = await self.scene.sign_in("bob", "LAPTOP")
        await self.scene.sign_in("alice", "TABLET")
        await self.scene.make_room(100)
        self.app = await self.open(self.scene.alice, "PHONE", "app", sliding=True)
        self.extension = await self.open(self.scene.alice, "PHONE", "extension")
        self.tablet = await self.open(self.scene.alice, "TABLET", "tablet")
        self.bob = await self.open(self.scene.bob, "LAPTOP", "bob")
        await self.settle()

    async def open(self, user: str, device: str, label: str, *, sliding: bool = False) -> Client:
        token = self.scene._tokens[f"{user} {device}"]
        http = await self._stack.enter_async_context(
            ClientSession(self.scene.proxy.address, headers=authorization(token))
        )
        machine = await OlmMachine.open(
            self.scene.folder / f"{device}.db",
            user_id=user,
            device_id=device,
            key=KEY,
            label=label,
            times=LeaseTimes(idle_after_ms=1),
        )
        await self._stack.enter_async_context(machine)
        client = self.client(http, machine, label, sliding=sliding)
        await client.send_all()
        await machine.track_users([self.scene.alice, self.scene.bob])
        return client

    async def settle(self) -> None:
        """Send and sync on all devices until nothing is under way."""
        for _ in range(2):
            for client in (self.app, self.extension, self.tablet, self.bob):
                await client.send_all()
                await client.sync()
                await client.send_all()

    async def reset(self, client: Client) -> None:
        """Create another identity for the client's user, with a password."""
        await client.machine.cross_signing.reset()
        requests = await client.machine.outgoing_requests()
        (upload,) = [request for request in requests if isinstance(request, SigningKeysUpload)]
        user, device = client.machine.device
        token = self.scene._tokens[f"{user} {device}"]
        async with self.scene.http.post(upload.path, json=upload.body, headers=authorization(token)) as response:
            assert response.status == 401
            session = msgspec.json.decode(await response.read(), type=Json)["session"]
        auth: Json = {
            "type": "m.login.password",
            "session": session,
            "identifier": {"type": "m.id.user", "user": user},
            "password": PASSWORD,
        }
        await client.machine.mark_sent(
            upload, await client.call(upload.method, upload.path, upload.body | {"auth": auth})
        )
        await bootstrap(client)


@pytest.fixture
async def devices(on: Scene) -> AsyncIterator[Devices]:
    async with AsyncExitStack() as stack:
        made = Devices(on, stack)
        await made.begin()
        yield made


async def bootstrap(*clients: Client) -> None:
    """Let the processes of a device create an identity, each taking a step in turn."""
    for number in range(8):
        client = clients[number % len(clients)]
        if (await client.machine.cross_signing.bootstrap()).is_complete:
            return
        await client.send_all()
    raise AssertionError("the identity is never complete")


async def verify(client: Client, user: str) -> None:
    key = (await client.machine.cross_signing.trust_of(user)).master_key
    assert key is not None
    await client.machine.cross_signing.verify_user(user, key)
    await client.send_all()


async def device_trust(client: Client, user: str, device: str) -> DeviceTrust:
    trust = await client.machine.cross_signing.trust_of(user)
    return trust.of((await client.machine.devices_of(user))[DeviceId(device)])


async def master_signatures(client: Client, user: str) -> Json:
    """Return the signatures of a user's master key that the homeserver shows, by signing user."""
    identity = (await client.machine.cross_signing.trust_of(user)).identity
    assert identity is not None
    signatures = identity.master.get("signatures", {})
    assert isinstance(signatures, dict)
    return {signer: set(keys) for signer, keys in signatures.items()}


async def test_identities_are_made_verified_and_replaced(devices: Devices) -> None:
    alice, bob = devices.scene.alice, devices.scene.bob
    await bootstrap(devices.app, devices.extension)
    await bootstrap(devices.bob)
    await devices.settle()
    # Each user sees the other's identity, and which devices the other user has signed.
    assert await device_trust(devices.bob, alice, "PHONE") is DeviceTrust.CROSS_SIGNED
    assert await device_trust(devices.bob, alice, "TABLET") is DeviceTrust.UNSIGNED
    assert await device_trust(devices.extension, bob, "LAPTOP") is DeviceTrust.CROSS_SIGNED
    assert await master_signatures(devices.app, alice) == {alice: {"ed25519:PHONE"}}
    # The homeserver shows the user-signing key and its signatures only to Alice.
    await verify(devices.extension, bob)
    await devices.settle()
    own = (await devices.app.machine.cross_signing.trust_of(alice)).identity
    seen = (await devices.bob.machine.cross_signing.trust_of(alice)).identity
    assert own is not None
    assert seen is not None
    assert seen.user_signing is None
    assert await master_signatures(devices.tablet, bob) == {alice: {f"ed25519:{own.user_signing_key}"}}
    assert await master_signatures(devices.bob, bob) == {bob: {"ed25519:LAPTOP"}}
    # The sender of a message is verified.
    event_id = await devices.bob.say(devices.scene.room, "hello", "1")
    await devices.settle()
    event = await devices.scene.call(bob, "LAPTOP", "GET", f"rooms/{devices.scene.room}/event/{event_id}")
    (read,) = await devices.app.machine.decrypt_room_events(devices.scene.room, [event])
    assert getattr(read, "trust", read) is SenderTrust.VERIFIED_DEVICE
    # Another device receives the private keys. It signs itself and sees the users that the first has verified.
    with pytest.raises(AnotherIdentity):
        await devices.tablet.machine.cross_signing.bootstrap()
    seeds = await devices.extension.machine.cross_signing.export_seeds()
    assert (await devices.tablet.machine.cross_signing.import_seeds(seeds)).verified
    await devices.settle()
    assert (await devices.tablet.machine.cross_signing.status()).is_complete
    assert (await devices.tablet.machine.cross_signing.trust_of(bob)).verified
    assert await device_trust(devices.bob, alice, "TABLET") is DeviceTrust.CROSS_SIGNED
    # All devices notice another identity.
    await devices.reset(devices.bob)
    await devices.settle()
    for client in (devices.app, devices.extension, devices.tablet):
        trust = await client.machine.cross_signing.trust_of(bob)
        assert (trust.verified, trust.changed, trust.violated) == (False, True, True)
