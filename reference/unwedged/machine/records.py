"""All kinds of records that the machine keeps (spec/state.md).

A kind has one reason to change, so a stream of the machine is the subscription to one kind (M14.1). A *mark* is a
record that exists for as long as something is to be done. It is written in the commit of what caused it, and deleted in
the commit of what settled it (M21.2).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple, TypeAlias, TypeVar

import msgspec

from unwedged.machine.exports import ExportedSession
from unwedged.machine.identifiers import (
    MEGOLM,
    BackupVersion,
    Curve25519Key,
    DeviceId,
    Ed25519Key,
    EventId,
    FlowId,
    GroupSessionId,
    GroupSessionName,
    JsonObject,
    PeerName,
    RequestId,
    RoomId,
    TransactionId,
    UserId,
)
from unwedged.machine.qr import QrCode
from unwedged.machine.ratchets import DIGEST_BYTES, Account, InboundGroup, OlmSession, OutboundGroup
from unwedged.machine.sas import Macs
from unwedged.machine.unpadded_base64 import to_unpadded, unpadded
from unwedged.machine.unshown import Unshown
from unwedged.store import TEXT, Codec, Kind, RecordKind

Value = TypeVar("Value")
Name = TypeVar("Name")


class ReportedKeys(msgspec.Struct, frozen=True):
    """What a sliding connection last reported of this device's keys; ``None`` for what it has not reported."""

    one_time_keys: int | None
    unused_fallback_types: list[str] | None


class OwnDevice(msgspec.Struct):
    """The device that the store belongs to, and which of its keys the homeserver has."""

    user_id: UserId
    device_id: DeviceId
    keys: JsonObject
    """The device keys with their signatures, as they are uploaded."""
    published: bool = False
    """Whether the homeserver has confirmed the device keys."""
    serial: int = 0
    """Grows with each offer that is handed out, answered or abandoned. A count is valid only under the serial that it
    was asked under (M3.1, M3.2)."""
    count: int | None = None
    """How many one-time keys the homeserver holds; ``None`` if that is not known under this serial."""
    abandoned: int = 0
    """How many offers in a row were abandoned. Each is half as large as the one before."""
    fallback: JsonObject | None = None
    """The newest fallback key, signed. It is uploaded again until the homeserver has confirmed it."""
    fallback_confirmed_ms: int | None = None
    """When the homeserver confirmed it; ``None`` if it has not."""
    fallback_used: bool = False
    reported: dict[str, ReportedKeys] = {}
    """The last report of each sliding connection, even if it did not count: a later response leaves out what has not
    changed since (M3.5)."""


class Offer(msgspec.Struct, frozen=True):
    """An upload of keys that was handed out to one process. Its keys are offered once, whatever the outcome."""

    offer_id: TransactionId
    handed_out_ms: int
    fallback: bool
    """Whether its answer confirms the newest fallback key (M4.5)."""


class Peer(msgspec.Struct):
    """All Olm sessions with one device, and the digests of its last messages."""

    sessions: list[OlmSession] = []
    """The session that received last comes first. The first one encrypts (M7.3)."""
    generation: int = 0
    """Grows when the first session is replaced, since messages that were sent over the old one may be lost (M8.10)."""
    digests: list[bytes] = []
    """The digests of the last messages that were decrypted, oldest first (M7.5). The ones before them are in
    ``EARLIER_DIGESTS``."""
    claims: int = 0
    """How many claims of the device's keys were handed out."""
    unwedged_ms: int = 0
    """When a key was last claimed, or a session last made, because the sessions are broken (M8.4)."""


class WantedSession(msgspec.Struct, frozen=True):
    """A mark: a new Olm session with this device is needed (M8)."""

    number: int = 0
    """The number of the last claim. Numbers are never used twice, so an answer settles only its own claim."""
    wedged: bool = False
    """Whether the old session does not decrypt. Then the new one replaces it, and an ``m.dummy`` tells the device."""
    not_before_ms: int = 0
    """The earliest time at which a claim may be handed out."""
    notified: bool = False
    """Whether the device was told that it had no key to claim (M8.8)."""


class LocalTrust(Enum):
    """Whether the owner of this device has verified or blocked another device."""

    UNSET = "unset"
    VERIFIED = "verified"
    BLOCKED = "blocked"
    """It gets no room keys."""


class KnownDevice(msgspec.Struct, frozen=True):
    """A device of a user: its signed keys as received, and whether this device's owner has verified or blocked it."""

    keys: JsonObject
    trust: LocalTrust = LocalTrust.UNSET
    signed_by: Ed25519Key | None = None
    """The self-signing key that has signed these keys, if it was known when they came."""

    @property
    def device_id(self) -> DeviceId:
        """Its id, which is unique among its user's devices."""
        device_id = self.keys["device_id"]
        assert isinstance(device_id, str)  # checked before it was stored
        return DeviceId(device_id)

    @property
    def curve25519(self) -> Curve25519Key:
        """Its Curve25519 key, which names it in Olm."""
        return Curve25519Key(self.key("curve25519"))

    @property
    def ed25519(self) -> Ed25519Key:
        """Its Ed25519 key, which signs for it."""
        return Ed25519Key(self.key("ed25519"))

    def key(self, algorithm: str) -> str:
        """Its identity key of an algorithm, ``ed25519`` or ``curve25519``."""
        keys = self.keys["keys"]
        assert isinstance(keys, dict)  # as above
        key = keys[f"{algorithm}:{self.device_id}"]
        assert isinstance(key, str)
        return key


class SigningKeyName(Enum):
    """The usage of a cross-signing key, as the Matrix specification names it."""

    MASTER = "master"
    """Identifies the user, and signs the other two."""
    SELF_SIGNING = "self_signing"
    """Signs the user's own devices."""
    USER_SIGNING = "user_signing"
    """Signs the master keys of other users. The homeserver shows it to its owner only."""


class IdentityTrust(msgspec.Struct, frozen=True):
    """Which keys of a user were pinned and verified. It is also a record, which outlives ``Identity`` (M15.7)."""

    pinned: Ed25519Key
    compared: Ed25519Key | None
    verified_once: bool


class Identity(msgspec.Struct, frozen=True):
    """A user's cross-signing keys as they were received, and which of them were pinned and verified here."""

    master: JsonObject
    self_signing: JsonObject
    user_signing: JsonObject | None
    pinned: Ed25519Key
    """The master key that was seen first, or that this device's owner has accepted since (M15.3)."""
    compared: Ed25519Key | None = None
    """The master key that was verified on this device."""
    verified_once: bool = False
    """Whether the user was verified at any time, here or on another device of this user (M15.6)."""

    @property
    def trust(self) -> IdentityTrust:
        """The fields that are also a record of their own."""
        return IdentityTrust(self.pinned, self.compared, self.verified_once)

    @property
    def master_key(self) -> Ed25519Key:
        """The key that identifies the user."""
        return only_key(self.master)

    @property
    def self_signing_key(self) -> Ed25519Key:
        """The key that signs the user's devices."""
        return only_key(self.self_signing)

    @property
    def user_signing_key(self) -> Ed25519Key | None:
        """The key that signs other users. It is known only of this device's own user."""
        return None if self.user_signing is None else only_key(self.user_signing)

    def key(self, name: SigningKeyName) -> Ed25519Key | None:
        """One of the three keys."""
        signing_key = {
            SigningKeyName.MASTER: self.master,
            SigningKeyName.SELF_SIGNING: self.self_signing,
            SigningKeyName.USER_SIGNING: self.user_signing,
        }[name]
        return None if signing_key is None else only_key(signing_key)


def only_key(signing_key: JsonObject) -> Ed25519Key:
    """Return the public key in a cross-signing key that was checked before it was stored."""
    keys = signing_key["keys"]
    assert isinstance(keys, dict)
    (key,) = keys.values()
    return Ed25519Key(key)


class SigningSeeds(msgspec.Struct, frozen=True):
    """The private cross-signing keys that are here: for each the seed of 32 bytes, otherwise ``None``."""

    master: bytes | None = None
    self_signing: bytes | None = None
    user_signing: bytes | None = None

    def seed(self, name: SigningKeyName) -> bytes | None:
        """One of the three seeds."""
        return {
            SigningKeyName.MASTER: self.master,
            SigningKeyName.SELF_SIGNING: self.self_signing,
            SigningKeyName.USER_SIGNING: self.user_signing,
        }[name]

    def __repr__(self) -> str:
        return f"<SigningSeeds {[name.value for name in SigningKeyName if self.seed(name) is not None]}>"


class PendingIdentity(msgspec.Struct, frozen=True):
    """Cross-signing keys that were made here and that the homeserver has not confirmed (M15.10)."""

    seeds: SigningSeeds
    reset: bool
    """Whether they may replace an identity that the homeserver has."""
    listed: bool = True
    """Whether the upload is listed: not after the homeserver has refused it (M15.13)."""


class PrivateIdentity(msgspec.Struct, frozen=True):
    """The private cross-signing keys of this device's user."""

    seeds: SigningSeeds = SigningSeeds()
    pending: PendingIdentity | None = None


class UnpublishedSignature(msgspec.Struct, frozen=True):
    """A mark: a signature that the homeserver does not have yet (M15.16)."""

    user_id: UserId
    """The user whose key is signed."""
    name: str
    """The name of the signed key: a device id, or a master key."""
    signed: JsonObject
    """The key with only this signature."""


class Tracked(msgspec.Struct, frozen=True):
    """A user whose device list is followed, or was."""

    number: int
    """The number of the last mark. Numbers are never used twice (M6.1)."""
    followed: bool = True


class SharedWith(msgspec.Struct, frozen=True, array_like=True):
    """The index from which a device can decrypt, and the generation of its Olm sessions when the key was sent."""

    index: int
    generation: int


class OutboundSession(msgspec.Struct):
    """The Megolm session that this device encrypts with in one room."""

    session: OutboundGroup
    created_ms: int
    settings: RoomSettings
    recipients_version: int | None = None
    """The version of recipients that the session is shared for; ``None`` while the sharing is not complete (M9.3)."""
    members: bytes = b""
    """A digest of the members at the last share."""
    members_number: int = 0
    """Grows with each share whose members differ from those of the share before (M9.4)."""


class SharedKey(Unshown, msgspec.Struct):
    """Which devices have the key of a room's outbound session."""

    session_id: GroupSessionId
    devices: dict[PeerName, SharedWith] = {}
    session_keys: dict[int, str] = {}
    """The session's key at each index from which a device has it."""
    withheld: dict[PeerName, str] = {}
    """The devices that were told that they don't get the key, with the code of the reason."""
    number: int = 0
    """The session's number among those of the room, in the order in which they were made."""
    shared_history: bool = False
    replaced_ms: int = 0
    """When another session replaced this one."""


class EarlierKey(NamedTuple):
    """The name of a place for one of the last replaced sessions of a room (M8.11)."""

    room_id: RoomId
    place: int


class KeySource(Enum):
    """Where a room key came from."""

    OWN = "own"
    """Made by this device."""
    ROOM_KEY = "room_key"
    """Sent by its maker over Olm."""
    IMPORT = "import"
    """It came from a file: nobody vouches for it."""
    BACKUP = "backup"
    """It came from the backup, where anybody may have put it: nobody vouches for it."""

    FORWARDED = "forwarded"
    """Another device of this user has sent it when asked: nobody vouches for its maker."""

    @property
    def is_vouched(self) -> bool:
        """Whether the device that made the key vouches for it."""
        return self in (KeySource.OWN, KeySource.ROOM_KEY)

    @property
    def standing(self) -> int:
        """How much the origin counts: most for the maker, then another device of this user, least a file or the backup.

        Anybody who knows the backup's public key can put a key into it (M11.2).
        """
        return 2 if self.is_vouched else int(self is KeySource.FORWARDED)


class InboundSession(msgspec.Struct):
    """A Megolm session that this device can decrypt, where its key came from, and who vouches for it."""

    session: InboundGroup
    sender: UserId | None
    """The user who made it; ``None`` if nobody vouches for its maker."""
    sender_key: Curve25519Key
    signing_key: Ed25519Key | None
    """The Ed25519 key that its maker claims, if it is known."""
    source: KeySource
    shared_history: bool = False

    def exported(self, name: GroupSessionName) -> ExportedSession:
        """Return it in the form of key export files and backups, from the first index that this device can decrypt."""
        session_key = self.session.exported_at(self.session.first_index)
        assert session_key is not None  # since the index is not before the first one
        claimed = {} if self.signing_key is None else {"ed25519": self.signing_key}
        return ExportedSession(
            MEGOLM, name.room_id, self.sender_key, name.session_id, session_key, claimed, (), self.shared_history
        )


class Backup(msgspec.Struct, frozen=True):
    """What is known of the backup of the user's room keys at the homeserver (M19.1)."""

    public_key: Curve25519Key
    auth_data: JsonObject
    """The JSON with the public key and its signatures, as it was received or made."""
    version: BackupVersion | None = None
    """``None`` until the homeserver has answered the request that makes this version."""
    decryption_key: bytes | None = None
    """The private half of the public key, 32 bytes, if it is here."""
    refused: bool = False
    """Whether the homeserver has said that this is not the current version (M19.16)."""

    def __repr__(self) -> str:
        return f"<Backup version={self.version!r} refused={self.refused}>"


class Giver(NamedTuple):
    """A session, and a user who sent its key after another user had sent it first (M11.3)."""

    room_id: RoomId
    session_id: GroupSessionId
    user_id: UserId


class GivenBy(msgspec.Struct, frozen=True):
    """The keys of the device by which such a user vouches for the session."""

    sender_key: Curve25519Key
    signing_key: Ed25519Key | None


class SeenPart(NamedTuple):
    """The name of a part of a Megolm session's messages, by their indices."""

    room_id: RoomId
    session_id: GroupSessionId
    giver: UserId | None
    """The sender of the messages, if another user had sent the session first; otherwise ``None``."""
    number: int


class Reading(msgspec.Struct, frozen=True, array_like=True):
    """The event as which a Megolm message was read (M12.1)."""

    event_id: EventId
    origin_server_ts: int


class Withheld(msgspec.Struct, frozen=True):
    """The reason for which a room key is withheld."""

    code: str
    reason: str
    sender: UserId


class SharingStrategy(Enum):
    """Which devices of a room's members get its key (M9.9). Blocked devices never get it."""

    ALL_DEVICES = "all_devices"
    CROSS_SIGNED_DEVICES = "cross_signed_devices"
    """The devices that their user has signed, or that the owner of this device has verified."""
    REFUSE_UNVERIFIED = "refuse_unverified"
    """All devices, but nothing is shared while a verified user has a device that is not verified."""


class WantedSecret(msgspec.Struct, frozen=True, tag="secret"):
    """A secret that one device of a user asks the others for."""

    name: str


class WantedRoomKey(msgspec.Struct, frozen=True, tag="room_key"):
    """A room key that one device of a user asks the others for."""

    name: GroupSessionName
    index: int = 0
    """The first index that the key must decrypt."""


Wanted: TypeAlias = WantedSecret | WantedRoomKey


class Asked(msgspec.Struct, frozen=True):
    """A mark: a request to the user's other devices (M17.2)."""

    wanted: Wanted
    devices: dict[DeviceId, Curve25519Key] = {}
    """The devices that were asked so far. No other device may answer (M17.4)."""
    sent: tuple[TransactionId, ...] = ()
    """The messages that ask these devices. The cancellation follows them (M17.7)."""


class ReceivedSecret(Unshown, msgspec.Struct, frozen=True):
    """A secret that another device has sent when asked. It stays until the application deletes it (M17.5)."""

    secret: str
    sender: DeviceId


class RoomSettings(msgspec.Struct, frozen=True):
    """How a room is encrypted."""

    algorithm: str
    rotation_messages: int = 100
    rotation_period_ms: int = 604_800_000
    shared_history: bool = False
    strategy: SharingStrategy = SharingStrategy.ALL_DEVICES


class Method(Enum):
    """A method of verification, from the side of the device that supports it."""

    SAS = "m.sas.v1"
    """Two people compare short strings."""
    SHOW_QR_CODE = "m.qr_code.show.v1"
    SCAN_QR_CODE = "m.qr_code.scan.v1"


class Phase(Enum):
    """How far a verification has come."""

    REQUESTED = "requested"
    READY = "ready"
    """Both devices take part. Either may start a method."""
    STARTED = "started"
    """This device has started the comparison of short strings. The other device must accept."""
    ACCEPTED = "accepted"
    """The devices are exchanging ephemeral keys."""
    KEYS_EXCHANGED = "keys_exchanged"
    """The short strings can be compared."""
    CONFIRMED = "confirmed"
    """The short strings were confirmed here. The MACs of the other device are missing."""
    SCANNED = "scanned"
    """The other device has scanned this device's QR code. A person must say whether it shows success."""
    RECIPROCATED = "reciprocated"
    """This device has scanned the other device's QR code, and the keys in it are right."""
    DONE = "done"
    CANCELLED = "cancelled"


class Sas(Unshown, msgspec.Struct, frozen=True):
    """The state of a comparison of short strings."""

    secret: bytes
    """The private half of this device's ephemeral key. It is deleted when the verification ends."""
    start: JsonObject
    """The content of the start message, as it was sent or received. The commitment covers all of it."""
    we_started: bool
    strings: tuple[str, ...]
    """The forms of short strings that both devices support."""
    commitment: str = ""
    """The commitment that the other device has sent."""
    their_key: str = ""
    """The public half of the other device's ephemeral key."""
    their_macs: Macs | None = None


class Cancellation(NamedTuple):
    """Why a verification ended."""

    code: str
    by_us: bool


class VerificationFlow(msgspec.Struct, frozen=True):
    """A verification, from its request until ten minutes after its end (M16.1, M16.16)."""

    user_id: UserId
    """The user at the other end, who may be this device's own user."""
    requested_by_us: bool
    began_ms: int
    expires_ms: int
    transaction_id: str | None
    """Its id in its messages; ``None`` for a request in a room until the event id is known (M16.4)."""
    device_id: DeviceId | None = None
    """The other device; ``None`` until one has answered this device's request."""
    recipients: tuple[DeviceId, ...] = ()
    """The devices that this device's request went to. Empty in a room."""
    room_id: RoomId | None = None
    """The room; ``None`` if the messages are to-device messages."""
    phase: Phase = Phase.REQUESTED
    ours: tuple[Method, ...] = ()
    """The methods that this device supports."""
    theirs: tuple[Method, ...] = ()
    sas: Sas | None = None
    shown: QrCode | None = None
    """The QR code that this device shows."""
    scanned: QrCode | None = None
    """The QR code of the other device that was scanned here."""
    received: tuple[bytes, ...] = ()
    """Digests of the messages that were processed, since the same message may come again (M16.7)."""
    last_sent: TransactionId | None = None
    """The message that the next one must follow (M16.5)."""
    cancellation: Cancellation | None = None
    ended_ms: int = 0

    def __repr__(self) -> str:
        return f"<VerificationFlow {self.phase}>"

    @property
    def is_over(self) -> bool:
        """Whether the verification has ended. Then nothing changes it."""
        return self.phase in (Phase.DONE, Phase.CANCELLED)


class OutgoingToDevice(msgspec.Struct, frozen=True):
    """A mark: messages to send to devices, already encrypted (M13.1)."""

    event_type: str
    messages: dict[UserId, dict[DeviceId, JsonObject]]
    after: tuple[TransactionId, ...] = ()
    """The requests that must be answered before this one is listed."""


class OutgoingToRoom(Unshown, msgspec.Struct, frozen=True):
    """A mark: an event to send to a room, not yet encrypted (M16.6)."""

    room_id: RoomId
    event_type: str
    content: JsonObject
    after: TransactionId | None = None
    """The request that must be answered before this one is listed."""


class Backlog(msgspec.Struct, frozen=True):
    """The parts of large batches that are not processed yet: from ``first`` up to, but without, ``next`` (M5.7)."""

    first: int
    next: int


class PutAside(Unshown, msgspec.Struct, frozen=True):
    """A mark: a to-device event that met a fault of this program, and is to be tried again (M5.11)."""

    event: JsonObject
    plaintext: bytes | None
    """Its plaintext, since it can be decrypted only once; ``None`` if it was not decrypted."""


_PICKLED: Final = (Account, InboundGroup, OlmSession, OutboundGroup)


def _to_builtin(value: object) -> str:
    if isinstance(value, _PICKLED):
        return value.pickle()
    raise NotImplementedError


def _from_builtin(kind: type, value: object) -> object:
    if kind is object:  # a part of a JsonObject
        return value
    if isinstance(value, str) and kind in _PICKLED:
        return kind.from_pickle(value)
    raise NotImplementedError


_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=_to_builtin)


def _codec(kind: type[Value]) -> Codec[Value]:
    decode: Callable[[bytes], Value] = msgspec.msgpack.Decoder(kind, dec_hook=_from_builtin).decode
    return Codec(_ENCODER.encode, decode)


class _PeerRecord(Unshown, msgspec.Struct):
    """A compact encoding of a ``Peer``, which is written with each message."""

    sessions: list[bytes]
    """The pickles of the sessions, decoded from base64."""
    generation: int
    digests: bytes
    """The digests, concatenated."""
    claims: int
    unwedged_ms: int


PEER_PREFIX_BYTES: Final = 4
"""The size of the prefix: the number of bytes that follow, without the padding."""
PEER_STEP_BYTES: Final = 512
"""A record of sessions is padded to a multiple of this, so that its length rarely changes when a ratchet advances.

While the length stays the same, SQLite writes the page in place. When it changes, SQLite writes two pages more.
"""

_PEER_DECODER: Final = msgspec.msgpack.Decoder(_PeerRecord)


def _to_peer_record(peer: Peer) -> bytes:
    sessions = [unpadded(session.pickle()) for session in peer.sessions]
    digests = b"".join(peer.digests)
    encoded = _ENCODER.encode(_PeerRecord(sessions, peer.generation, digests, peer.claims, peer.unwedged_ms))
    prefixed = len(encoded).to_bytes(PEER_PREFIX_BYTES, "big") + encoded
    return prefixed + bytes(-len(prefixed) % PEER_STEP_BYTES)


def _from_peer_record(encoded: bytes) -> Peer:
    length = int.from_bytes(encoded[:PEER_PREFIX_BYTES], "big")
    record = _PEER_DECODER.decode(encoded[PEER_PREFIX_BYTES : PEER_PREFIX_BYTES + length])
    sessions = [OlmSession.from_pickle(to_unpadded(pickle)) for pickle in record.sessions]
    starts = range(0, len(record.digests), DIGEST_BYTES)
    digests = [record.digests[start : start + DIGEST_BYTES] for start in starts]
    return Peer(sessions, record.generation, digests, record.claims, record.unwedged_ms)


def _name(kind: type[Name]) -> Codec[Name]:
    """Return the codec of a NewType of ``str``."""
    del kind
    return TEXT  # type: ignore[return-value]  # a NewType of str is a str


_THE_ONE: Final = _codec(type(None))
"""The key of a kind that has one record."""

NAME: Final = _codec(GroupSessionName)
PEER_NAME: Final = _codec(PeerName)

ACCOUNT: Final = RecordKind("account", _THE_ONE, _codec(Account))
OWN_DEVICE: Final = RecordKind("own_device", _THE_ONE, _codec(OwnDevice))
OFFER: Final = RecordKind("offer", _THE_ONE, _codec(Offer))
SYNC: Final = RecordKind("sync", TEXT, _codec(str))
PEER: Final = RecordKind("peer", PEER_NAME, Codec(_to_peer_record, _from_peer_record))
EARLIER_DIGESTS: Final = RecordKind("earlier_digests", PEER_NAME, _codec(bytes))
WANTED_SESSION: Final = RecordKind("wanted_session", PEER_NAME, _codec(WantedSession))
DEVICES: Final = RecordKind("devices", _name(UserId), _codec(dict[DeviceId, KnownDevice]))
RECIPIENTS_VERSION: Final = RecordKind("recipients_version", _THE_ONE, _codec(int))
LOCAL_TRUST: Final = RecordKind("local_trust", _name(UserId), _codec(dict[Ed25519Key, LocalTrust]))
IDENTITY: Final = RecordKind("identity", _name(UserId), _codec(Identity))
IDENTITY_TRUST: Final = RecordKind("identity_trust", _name(UserId), _codec(IdentityTrust))
PRIVATE_IDENTITY: Final = RecordKind("private_identity", _THE_ONE, _codec(PrivateIdentity))
UNPUBLISHED_SIGNATURE: Final = RecordKind(
    "unpublished_signature", _name(TransactionId), _codec(UnpublishedSignature), cached=False
)
TRACKED: Final = RecordKind("tracked", _name(UserId), _codec(Tracked))
OUTDATED: Final = RecordKind("outdated", _name(UserId), _codec(int))
OUTBOUND: Final = RecordKind("outbound_group_session", _name(RoomId), _codec(OutboundSession))
SHARED_KEY: Final = RecordKind("shared_key", _name(RoomId), _codec(SharedKey))
EARLIER_SHARED_KEY: Final = RecordKind("earlier_shared_key", _codec(EarlierKey), _codec(SharedKey))
INBOUND: Final = RecordKind("inbound_group_session", NAME, _codec(InboundSession))
GIVEN_ALSO: Final = RecordKind("given_also", _codec(Giver), _codec(GivenBy))
SEEN: Final = RecordKind("seen", _codec(SeenPart), _codec(dict[int, Reading]))
BACKUP: Final = RecordKind("backup", _THE_ONE, _codec(Backup))
UNBACKED: Final = RecordKind("unbacked", NAME, _codec(int), cached=False)
WITHHELD: Final = RecordKind("withheld", NAME, _codec(Withheld), cached=False)
ROOM: Final = RecordKind("room", _name(RoomId), _codec(RoomSettings))
OUTBOX: Final = RecordKind("outbox", _name(TransactionId), _codec(OutgoingToDevice), cached=False)
ROOM_OUTBOX: Final = RecordKind("room_outbox", _name(TransactionId), _codec(OutgoingToRoom), cached=False)
VERIFICATION: Final = RecordKind("verification", _name(FlowId), _codec(VerificationFlow))
BACKLOG: Final = RecordKind("backlog", _THE_ONE, _codec(Backlog))
UNPROCESSED: Final = RecordKind("unprocessed", _codec(int), _codec(list[JsonObject]), cached=False)
PUT_ASIDE: Final = RecordKind("put_aside", _name(TransactionId), _codec(PutAside), cached=False)
ASKED: Final = RecordKind("asked", _name(RequestId), _codec(Asked))
WAITING: Final = RecordKind("waiting", _name(DeviceId), _codec(dict[RequestId, Wanted]))
ANSWERED: Final = RecordKind("answered", _name(DeviceId), _codec(list[bytes]))
SECRET: Final = RecordKind("secret", TEXT, _codec(ReceivedSecret), cached=False)

KINDS: Final[tuple[Kind, ...]] = (
    ACCOUNT,
    OWN_DEVICE,
    OFFER,
    SYNC,
    PEER,
    EARLIER_DIGESTS,
    WANTED_SESSION,
    DEVICES,
    LOCAL_TRUST,
    IDENTITY,
    IDENTITY_TRUST,
    PRIVATE_IDENTITY,
    UNPUBLISHED_SIGNATURE,
    RECIPIENTS_VERSION,
    TRACKED,
    OUTDATED,
    OUTBOUND,
    SHARED_KEY,
    EARLIER_SHARED_KEY,
    INBOUND,
    GIVEN_ALSO,
    SEEN,
    BACKUP,
    UNBACKED,
    WITHHELD,
    ROOM,
    OUTBOX,
    ROOM_OUTBOX,
    VERIFICATION,
    BACKLOG,
    UNPROCESSED,
    PUT_ASIDE,
    ASKED,
    WAITING,
    ANSWERED,
    SECRET,
)
