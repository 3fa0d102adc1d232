"""Requests to the homeserver. Each carries what it was made from, so that its answer can be judged by the store alone.

The application sends them, by any HTTP client, and gives each back with its response: in the same process, in another
one, late, or twice (P10.1). ``encode`` and ``decode`` carry a request between processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import quote

import msgspec

from unwedged.machine.errors import InvalidArgument, MalformedResponse
from unwedged.machine.identifiers import (
    ONE_TIME_KEY,
    BackupVersion,
    Curve25519Key,
    Device,
    DeviceId,
    Ed25519Key,
    GroupSessionId,
    JsonObject,
    RoomId,
    TransactionId,
    UserId,
)
from unwedged.machine.unshown import Unshown

_ROOT: Final = "/_matrix/client/v3"
CLAIM_TIMEOUT_MS: Final = 10_000


class Claimed(NamedTuple):
    """What one part of a claim was made for."""

    device: Device
    curve25519: Curve25519Key
    number: int


class KeysUpload(msgspec.Struct, frozen=True, tag=True):
    """Publish device keys, one-time keys and a fallback key. Never send it twice, and let no HTTP client do so.

    A homeserver hands out again a one-time key that is uploaded again after it was claimed.
    """

    offer_id: TransactionId
    body: JsonObject

    method = "POST"
    path = f"{_ROOT}/keys/upload"


class KeysQuery(msgspec.Struct, frozen=True, tag=True):
    """Ask for the devices of some users. May be sent again."""

    users: dict[UserId, int]
    """The number of each user's mark."""

    method = "POST"
    path = f"{_ROOT}/keys/query"

    @property
    def body(self) -> JsonObject:
        """The request's JSON."""
        return {"device_keys": {user_id: [] for user_id in self.users}, "timeout": CLAIM_TIMEOUT_MS}


class KeysClaim(msgspec.Struct, frozen=True, tag=True):
    """Ask for one key of each of some devices. Never send it twice: each time costs every device a key."""

    wanted: tuple[Claimed, ...]

    method = "POST"
    path = f"{_ROOT}/keys/claim"

    @property
    def body(self) -> JsonObject:
        """The request's JSON."""
        claims: dict[str, dict[str, str]] = {}
        for claimed in self.wanted:
            claims.setdefault(claimed.device.user_id, {})[claimed.device.device_id] = ONE_TIME_KEY
        return {"one_time_keys": claims, "timeout": CLAIM_TIMEOUT_MS}


class ToDevice(msgspec.Struct, frozen=True, tag=True):
    """Send messages to devices. May be sent again: a homeserver takes the same transaction id for one request."""

    transaction_id: TransactionId
    event_type: str
    messages: dict[UserId, dict[DeviceId, JsonObject]]

    method = "PUT"

    @property
    def path(self) -> str:
        """The request's path."""
        return f"{_ROOT}/sendToDevice/{quote(self.event_type, safe='')}/{quote(self.transaction_id, safe='')}"

    @property
    def body(self) -> JsonObject:
        """The request's JSON."""
        return {"messages": self.messages}


class RoomMessage(Unshown, msgspec.Struct, frozen=True, tag=True):
    """Send an event to a room. May be sent again, as above.

    Where the room is encrypted, encrypt ``content`` as an event of ``event_type``, and send ``encrypted`` instead. What
    is encrypted anew is still the same request for the homeserver: it keeps what came first.
    """

    transaction_id: TransactionId
    room_id: RoomId
    event_type: str
    content: JsonObject

    method = "PUT"

    def encrypted(self, content: JsonObject) -> RoomMessage:
        """Return the same request with the content that it was encrypted to."""
        return RoomMessage(self.transaction_id, self.room_id, "m.room.encrypted", content)

    @property
    def path(self) -> str:
        """The request's path."""
        parts = (self.room_id, "send", self.event_type, self.transaction_id)
        return f"{_ROOT}/rooms/{'/'.join(quote(part, safe='') for part in parts)}"

    @property
    def body(self) -> JsonObject:
        """The request's JSON."""
        return self.content


class SigningKeysUpload(msgspec.Struct, frozen=True, tag=True):
    """Publish cross-signing keys. May be sent again.

    Where a homeserver wants to know who asks, it answers 401, and says what it accepts. Then send the same request once
    more with an ``auth`` in its JSON (Matrix specification, "User-Interactive Authentication API").
    """

    master_key: Ed25519Key
    body: JsonObject

    method = "POST"
    path = f"{_ROOT}/keys/device_signing/upload"


class SignatureUpload(msgspec.Struct, frozen=True, tag=True):
    """Publish signatures of devices and users. May be sent again."""

    signatures: tuple[TransactionId, ...]
    """The ids of the marks."""
    body: JsonObject

    method = "POST"
    path = f"{_ROOT}/keys/signatures/upload"


class BackupVersionCreate(msgspec.Struct, frozen=True, tag=True):
    """Make a new version of the backup. Each time that it is sent, the homeserver makes another one."""

    public_key: Curve25519Key
    body: JsonObject

    method = "POST"
    path = f"{_ROOT}/room_keys/version"


class BackupVersionQuery(msgspec.Struct, frozen=True, tag=True):
    """Ask which version of the backup is the current one. May be sent again."""

    version: BackupVersion | None
    """What was known when it was made, and its public key."""
    public_key: Curve25519Key | None

    method = "GET"
    path = f"{_ROOT}/room_keys/version"
    body = None


class BackupUpload(msgspec.Struct, frozen=True, tag=True):
    """Put room keys into the backup. May be sent again: the homeserver keeps the best of each."""

    version: BackupVersion
    public_key: Curve25519Key
    numbers: dict[RoomId, dict[GroupSessionId, int]]
    """The number of each room key's mark."""
    body: JsonObject

    method = "PUT"

    @property
    def path(self) -> str:
        """The request's path."""
        return f"{_ROOT}/room_keys/keys?version={quote(self.version, safe='')}"


class BackupDownload(msgspec.Struct, frozen=True):
    """Fetch room keys from the backup: all, those of a room, or one. May be sent again."""

    version: BackupVersion
    public_key: Curve25519Key
    room_id: RoomId | None
    session_id: GroupSessionId | None

    method = "GET"
    body = None

    @property
    def path(self) -> str:
        """The request's path."""
        names = (name for name in (self.room_id, self.session_id) if name is not None)
        which = "".join(f"/{quote(name, safe='')}" for name in names)
        return f"{_ROOT}/room_keys/keys{which}?version={quote(self.version, safe='')}"


Request: TypeAlias = (
    KeysUpload
    | KeysQuery
    | KeysClaim
    | ToDevice
    | RoomMessage
    | SigningKeysUpload
    | SignatureUpload
    | BackupVersionCreate
    | BackupVersionQuery
    | BackupUpload
)

_DECODER: Final[msgspec.json.Decoder[Request]] = msgspec.json.Decoder(Request)


def encode(request: Request) -> bytes:
    """Return ``request`` as JSON, for another process (M20.4). The bytes hold no secrets."""
    return msgspec.json.encode(request)


def decode(encoded: bytes) -> Request:
    """Return the request that was encoded so. Raises ``MalformedResponse``."""
    try:
        return _DECODER.decode(encoded)
    except msgspec.DecodeError:
        raise MalformedResponse("this is no request of the machine") from None


def must_be_request(value: object) -> None:
    """Refuse what is no request of the machine."""
    if not isinstance(value, Request):
        raise InvalidArgument(f"a request is one that the machine has made, and no {type(value).__name__}")


def objects(response: Mapping[str, object], name: str) -> dict[str, dict[str, object]]:
    """Return the part of a response that maps names to objects; absent means empty. Raises ``MalformedResponse``."""
    part = response.get(name, {})
    if not isinstance(part, dict) or not all(isinstance(value, dict) for value in part.values()):
        raise MalformedResponse(f"{name!r} is not an object of objects")
    return part
