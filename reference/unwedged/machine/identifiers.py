"""The names of things in Matrix. At run time each is a plain ``str``; the types keep them apart."""

from typing import Final, NamedTuple, NewType, TypeAlias

UserId = NewType("UserId", str)
DeviceId = NewType("DeviceId", str)
RoomId = NewType("RoomId", str)
EventId = NewType("EventId", str)
GroupSessionId = NewType("GroupSessionId", str)
TransactionId = NewType("TransactionId", str)
FlowId = NewType("FlowId", str)
"""The name of a verification in this device's store. It does not depend on the id that the messages use."""
BackupVersion = NewType("BackupVersion", str)
RequestId = NewType("RequestId", str)
"""The id of a request for a secret or a room key, which one device of a user sends to the others."""
Curve25519Key = NewType("Curve25519Key", str)
"""Unpadded base64 of the public key, which names an Olm account."""
Ed25519Key = NewType("Ed25519Key", str)
"""Unpadded base64 of the public key, which signs for a device or a user."""

OLM: Final = "m.olm.v1.curve25519-aes-sha2"
MEGOLM: Final = "m.megolm.v1.aes-sha2"
ONE_TIME_KEY: Final = "signed_curve25519"
"""The algorithm of one-time keys and fallback keys."""

JsonObject: TypeAlias = dict[str, object]
"""A JSON object as it was received, with unknown fields. Its values are checked where they are used."""


class Device(NamedTuple):
    """A device, named by its user and its id."""

    user_id: UserId
    device_id: DeviceId


class PeerName(NamedTuple):
    """The other end of Olm sessions. Anybody can claim a key, so it names a device only together with a user (M7.1)."""

    user_id: UserId
    curve25519: Curve25519Key


class GroupSessionName(NamedTuple):
    """A Megolm session. Its id is unique only within its room."""

    room_id: RoomId
    session_id: GroupSessionId
