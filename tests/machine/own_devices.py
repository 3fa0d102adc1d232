"""Set up Alice's other devices, which exchange secrets and room keys with her phone."""

from __future__ import annotations

import msgspec

from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Device, Json, SendToDevice
from tests.machine.scene import ALICE, ROOM, Scene
from unwedged.machine import LocalTrust, olm
from unwedged.machine.identifiers import OLM, DeviceId, PeerName, UserId
from unwedged.machine.records import DEVICES, OWN_DEVICE, PEER
from unwedged.store import Transaction

CONNECTION = "made up"
"""The sync connection on which a test gives a device made-up events."""


async def another_device(scene: Scene, name: str = "TABLET", *, verified: bool = True) -> Client:
    """Sign Alice in on another device. It and the phone know and verify each other."""
    scene.server.sign_in(Device(ALICE, name))
    tablet = await scene.open(ALICE, name, name.lower())
    await tablet.machine.set_room_encryption(ROOM, {"algorithm": "m.megolm.v1.aes-sha2"})
    await tablet.send_all()
    await tablet.machine.track_users([ALICE])
    await tablet.sync()
    await tablet.send_all()
    await scene.app.sync()
    await scene.app.send_all()
    if verified:
        await verify(scene, tablet)
    return tablet


async def verify(scene: Scene, tablet: Client) -> None:
    """Let Alice's phone and another device of hers verify each other."""
    await trust(scene.app, tablet, LocalTrust.VERIFIED)
    await trust(tablet, scene.app, LocalTrust.VERIFIED)


async def trust(client: Client, other: Client, told: LocalTrust) -> None:
    """Set Alice's local trust in another device."""
    await client.machine.set_trust(ALICE, other.device.device, other.machine.ed25519, told)


async def encrypted_for(
    sender: Client, recipient: Client, event_type: str, content: Json, *, claimed: Json | None = None
) -> Json:
    """Encrypt an event over Olm with the sender's keys. Return the to-device event.

    ``claimed`` replaces parts of the payload. The payload then has no signed device keys.
    """

    async def encrypt(transaction: Transaction) -> Json:
        own = await transaction.get(OWN_DEVICE, None)
        known = await transaction.get(DEVICES, UserId(recipient.device.user))
        assert own is not None
        assert known is not None
        device = known[DeviceId(recipient.device.device)]
        name = PeerName(UserId(recipient.device.user), device.curve25519)
        peer = await transaction.get(PEER, name)
        assert peer is not None
        if claimed is None:
            encrypted = olm.encrypt(peer, own, device, event_type, content)
        else:
            payload = {
                "type": event_type,
                "content": content,
                "sender": own.user_id,
                "recipient": recipient.device.user,
                "recipient_keys": {"ed25519": device.ed25519},
                "keys": {"ed25519": sender.machine.ed25519},
                **claimed,
            }
            message = peer.sessions[0].encrypt(msgspec.json.encode(payload))
            encrypted = {
                "algorithm": OLM,
                "sender_key": sender.machine.curve25519,
                "ciphertext": {device.curve25519: {"type": message.type, "body": message.body}},
            }
        transaction.put(PEER, name, peer)
        return encrypted

    encrypted = await sender.machine._store.run(encrypt)
    user = sender.device.user if claimed is None else claimed.get("sender", sender.device.user)
    return {"type": "m.room.encrypted", "sender": user, "content": encrypted}


async def receive(client: Client, *events: Json) -> list[str]:
    """Let a device receive to-device events; return the codes of the problems."""
    position = await client.machine.sync_position(CONNECTION)
    response: Json = {
        "next_batch": f"{position.token}+",
        "to_device": {"events": list(events)},
        "device_one_time_keys_count": {"signed_curve25519": 50},
    }
    outcome = await client.machine.receive_sync_changes(response, position)
    assert outcome.events == []
    return [problem.code for problem in outcome.problems]


def sent_to(scene: Scene, device: Device, event_type: str) -> list[Json]:
    """Return the contents of the to-device events of a type that were sent to a device, oldest first."""
    contents = []
    for arrival in scene.server.arrivals:
        if f"/sendToDevice/{event_type}/" in arrival.path:
            messages = msgspec.json.decode(arrival.body, type=SendToDevice).messages
            contents += [messages[device.user][device.device]] if device.device in messages.get(device.user, {}) else []
    return contents
