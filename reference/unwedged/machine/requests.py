"""Requests to the homeserver. Each carries its binding: what it was made from (M21.3).

The application sends them by any HTTP client, and passes each with its response to ``OlmMachine.mark_sent``. The
response may come in another process, late, or twice (P10.1). ``encode`` and ``decode`` carry a request between
processes.
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
    """The device and the number of the mark that a part of a claim is for."""

    device: Device
    curve25519: Curve25519Key
    number: int


class KeysUpload(msgspec.Struct, frozen=True, tag=True):
    """Publish device keys, one-time keys and a fallback key. Send it once: no HTTP client must repeat it (M2.3).

    If a one-time key is uploaded again after it was claimed, the homeserver hands it out again.
    """

    offer_id: TransactionId
    body: JsonObject

    method = "POST"
    path = f"{_ROOT}/keys/upload"


class KeysQuery(msgspec.Struct, frozen=True, tag=True):
    """Query the devices of users. It may be sent again."""

    users: dict[UserId, int]
    """The number of each user's mark."""

    method = "POST"
    path = f"{_ROOT}/keys/query"

    @property
    def body(self) -> JsonObject:
        """The request's JSON."""
        return {"device_keys": {user_id: [] for user_id in self.users}, "timeout": CLAIM_TIMEOUT_MS}


class KeysClaim(msgspec.Struct, frozen=True, tag=True):
    """Claim one key of each of these devices. Send it once, since each time costs every device a key."""

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
    """Send messages to devices. It may be sent again: the homeserver handles the same transaction id once."""

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
    """Send an event to a room. It may be sent again: the homeserver handles the same transaction id once.

    If the room is encrypted, encrypt ``content`` as an event of ``event_type``, and send the request that ``encrypted``
    returns. If the content is encrypted again, the homeserver keeps the one that came first.
    """

    transaction_id: TransactionId
    room_id: RoomId
    event_type: str
    content: JsonObject

    method = "PUT"

    def encrypted(self, content: JsonObject) -> RoomMessage:
        """Return the same request with its encrypted content."""
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
    """Publish cross-signing keys. It may be sent again.

    If the homeserver demands authentication, it answers 401 and names what it accepts. Then send the same request again
    with ``auth`` in its JSON (Matrix specification, "User-Interactive Authentication API").
    """

    master_key: Ed25519Key
    body: JsonObject

    method = "POST"
    path = f"{_ROOT}/keys/device_signing/upload"


class SignatureUpload(msgspec.Struct, frozen=True, tag=True):
    """Publish signatures of devices and users. It may be sent again."""

    signatures: tuple[TransactionId, ...]
    """The ids of the marks."""
    body: JsonObject

    method = "POST"
    path = f"{_ROOT}/keys/signatures/upload"


class BackupVersionCreate(msgspec.Struct, frozen=True, tag=True):
    """Make a new version of the backup. The homeserver makes another version each time that it is sent."""

    public_key: Curve25519Key
    body: JsonObject

    method = "POST"
    path = f"{_ROOT}/room_keys/version"


class BackupVersionQuery(msgspec.Struct, frozen=True, tag=True):
    """Ask which version of the backup is the current one. It may be sent again."""

    version: BackupVersion | None
    """The version that was known when the request was made. The next field is its public key."""
    public_key: Curve25519Key | None

    method = "GET"
    path = f"{_ROOT}/room_keys/version"
    body = None


class BackupUpload(msgspec.Struct, frozen=True, tag=True):
    """Put room keys into the backup. It may be sent again: the homeserver keeps the best key of each session."""

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
    """Fetch room keys from the backup: all, those of a room, or one. It may be sent again."""

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
    """Return the request that ``encode`` has encoded. Raises ``MalformedResponse`` for anything else."""
    try:
        return _DECODER.decode(encoded)
    except msgspec.DecodeError:
        raise MalformedResponse("this is no request of the machine") from None


def must_be_request(value: object) -> None:
    """Raise ``InvalidArgument`` unless the value is a request of the machine."""
    if not isinstance(value, Request):
        raise InvalidArgument(f"a request is one that the machine has made, and no {type(value).__name__}")


def objects(response: Mapping[str, object], name: str) -> dict[str, dict[str, object]]:
    """Return a field of a response that maps names to objects; empty if it is missing. Raises ``MalformedResponse``."""
    part = response.get(name, {})
    if not isinstance(part, dict) or not all(isinstance(value, dict) for value in part.values()):
        raise MalformedResponse(f"{name!r} is not an object of objects")
    return part
