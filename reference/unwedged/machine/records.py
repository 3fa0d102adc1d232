"""All kinds of records that the machine keeps (spec/state.md).

A kind has one reason to change, so that a stream of the machine is exactly the subscription to a kind. A *mark* is a
record that exists for as long as something is to be done: it is written in the commit of what caused it, and deleted
in the commit of what settled it.
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
from unwedged.machine.ratchets import Account, InboundGroup, OlmSession, OutboundGroup
from unwedged.machine.sas import Macs
from unwedged.machine.unshown import Unshown
from unwedged.store import TEXT, Codec, Kind, RecordKind

Value = TypeVar("Value")
Name = TypeVar("Name")


class ToldKeys(msgspec.Struct, frozen=True):
    """What a connection was last told of this device's keys at the homeserver, where it was told anything."""

    one_time_keys: int | None
    unused_fallback_types: list[str] | None


class OwnDevice(msgspec.Struct):
    """Whose device this is, and what the homeserver has of its keys."""

    user_id: UserId
    device_id: DeviceId
    keys: JsonObject
    """The device keys with their signature, as they are uploaded."""
    published: bool = False
    """Whether the homeserver has confirmed the device keys."""
    serial: int = 0
    """Grows with each offer that is handed out, answered or abandoned. A count says something only about the serial
    that it was asked under."""
    count: int | None = None
    """How many one-time keys the homeserver holds, as far as is known under this serial."""
    abandoned: int = 0
    """How many offers in a row were abandoned. Each is half as large as the one before."""
    fallback: JsonObject | None = None
    """The newest fallback key, signed. Uploaded again until the homeserver has confirmed it."""
    fallback_confirmed_ms: int | None = None
    """When the homeserver confirmed it; ``None`` as long as it has not."""
    fallback_used: bool = False
    told: dict[str, ToldKeys] = {}
    """By sliding connection, also if it did not count: a response that leaves it out means that it has not changed."""


class Offer(msgspec.Struct, frozen=True):
    """Keys that one process was given to upload. They are offered once, whatever becomes of the request."""

    offer_id: TransactionId
    handed_out_ms: int
    fallback: bool
    """Whether its answer says that the homeserver hands out the newest fallback key."""


class Peer(msgspec.Struct):
    """All Olm sessions with one device, and which of its messages were decrypted."""

    sessions: list[OlmSession] = []
    """The one that received last comes first. A message is encrypted with the first."""
    generation: int = 0
    """Grows when the session to encrypt with is replaced, since what was sent over the old one may be lost."""
    digests: list[bytes] = []
    """Of the last messages that were decrypted, oldest first."""
    claims: int = 0
    """How often one of the device's keys was asked for."""
    unwedged_ms: int = 0
    """When one was last asked for or made because the sessions are broken."""


class WantedSession(msgspec.Struct, frozen=True):
    """A mark: a new Olm session with this device is needed."""

    number: int = 0
    """Of the claim that was handed out last. Numbers are never used twice, so an answer settles only what it is for."""
    wedged: bool = False
    """Whether the old session does not decrypt: then the new one replaces it, and an ``m.dummy`` tells the device."""
    not_before_ms: int = 0
    """When a claim may be handed out."""
    told: bool = False
    """Whether the device was told that it had no key to begin a session with."""


class LocalTrust(Enum):
    """What the owner of this device thinks of another device."""

    UNSET = "unset"
    VERIFIED = "verified"
    BLOCKED = "blocked"
    """It gets no room keys."""


class KnownDevice(msgspec.Struct, frozen=True):
    """A device of some user: its keys as its owner signed them, and what this device's owner thinks of it."""

    keys: JsonObject
    trust: LocalTrust = LocalTrust.UNSET
    signed_by: Ed25519Key | None = None
    """The self-signing key of its user that has signed these keys, as far as one was known when they came."""

    @property
    def device_id(self) -> DeviceId:
        """Its id, which is unique among its owner's devices."""
        device_id = self.keys["device_id"]
        assert isinstance(device_id, str)  # looked at before it was stored
        return DeviceId(device_id)

    @property
    def curve25519(self) -> Curve25519Key:
        """The key that names it in Olm."""
        return Curve25519Key(self.key("curve25519"))

    @property
    def ed25519(self) -> Ed25519Key:
        """The key that signs for it."""
        return Ed25519Key(self.key("ed25519"))

    def key(self, algorithm: str) -> str:
        """Its identity key of one algorithm."""
        keys = self.keys["keys"]
        assert isinstance(keys, dict)  # as above
        key = keys[f"{algorithm}:{self.device_id}"]
        assert isinstance(key, str)
        return key


class SigningKeyName(Enum):
    """What a cross-signing key is there for, as the Matrix specification names its usage."""

    MASTER = "master"
    """Stands for the user, and signs the other two."""
    SELF_SIGNING = "self_signing"
    """Signs the user's own devices."""
    USER_SIGNING = "user_signing"
    """Signs the master keys of other users. The homeserver shows it to its owner only."""


class IdentityTrust(msgspec.Struct, frozen=True):
    """What this device's owner thinks of a user's identity: as ``Identity`` has it, and as it outlives that record."""

    pinned: Ed25519Key
    compared: Ed25519Key | None
    verified_once: bool


class Identity(msgspec.Struct, frozen=True):
    """A user's cross-signing keys as their owner signed them, and what this device's owner thinks of them."""

    master: JsonObject
    self_signing: JsonObject
    user_signing: JsonObject | None
    pinned: Ed25519Key
    """The master key that was seen first, or that this device's owner has accepted since."""
    compared: Ed25519Key | None = None
    """The master key that was verified on this device."""
    verified_once: bool = False
    """Whether the identity was verified at any time, here or on another device of this user."""

    @property
    def trust(self) -> IdentityTrust:
        """What this device's owner thinks of it."""
        return IdentityTrust(self.pinned, self.compared, self.verified_once)

    @property
    def master_key(self) -> Ed25519Key:
        """The key that stands for the user."""
        return only_key(self.master)

    @property
    def self_signing_key(self) -> Ed25519Key:
        """The key that signs the user's devices."""
        return only_key(self.self_signing)

    @property
    def user_signing_key(self) -> Ed25519Key | None:
        """The key that signs other users, which is known of this device's own user only."""
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
    """Return the public key in a cross-signing key, which was checked before it was stored."""
    keys = signing_key["keys"]
    assert isinstance(keys, dict)
    (key,) = keys.values()
    return Ed25519Key(key)


class SigningSeeds(msgspec.Struct, frozen=True):
    """The private cross-signing keys, as far as they are here: of each the 32 bytes that it is made from."""

    master: bytes | None = None
    self_signing: bytes | None = None
    user_signing: bytes | None = None

    def seed(self, name: SigningKeyName) -> bytes | None:
        """One of the three."""
        return {
            SigningKeyName.MASTER: self.master,
            SigningKeyName.SELF_SIGNING: self.self_signing,
            SigningKeyName.USER_SIGNING: self.user_signing,
        }[name]

    def __repr__(self) -> str:
        return f"<SigningSeeds {[name.value for name in SigningKeyName if self.seed(name) is not None]}>"


class PendingIdentity(msgspec.Struct, frozen=True):
    """Cross-signing keys that were made here, until the homeserver has confirmed that it has them."""

    seeds: SigningSeeds
    reset: bool
    """Whether they are to replace an identity that the homeserver has."""
    listed: bool = True
    """Whether the upload is among the outgoing requests: not after the homeserver has refused it."""


class PrivateIdentity(msgspec.Struct, frozen=True):
    """The private cross-signing keys of this device's user."""

    seeds: SigningSeeds = SigningSeeds()
    pending: PendingIdentity | None = None


class UnpublishedSignature(msgspec.Struct, frozen=True):
    """A mark: a signature that the homeserver has not got yet."""

    user_id: UserId
    """Whose key is signed."""
    name: str
    """Of what is signed: a device id, or a master key."""
    signed: JsonObject
    """The key, with this signature only."""


class Tracked(msgspec.Struct, frozen=True):
    """A user who is, or was, followed."""

    number: int
    """Of the last mark that was made: numbers are never used twice."""
    followed: bool = True


class SharedWith(msgspec.Struct, frozen=True, array_like=True):
    """From which message on a device can read, and under which generation of its Olm sessions the key was sent."""

    index: int
    generation: int


class OutboundSession(msgspec.Struct):
    """The Megolm session that this device encrypts with in one room."""

    session: OutboundGroup
    created_ms: int
    settings: RoomSettings
    recipients_version: int | None = None
    """The version of all recipients that the session is shared for; ``None`` while the sharing is not complete."""
    members: bytes = b""
    """A digest of the users that it was shared with last."""
    members_number: int = 0
    """Grows each time that these are not the same as before."""


class SharedKey(Unshown, msgspec.Struct):
    """Which devices have the key of a room's outbound session."""

    session_id: GroupSessionId
    devices: dict[PeerName, SharedWith] = {}
    session_keys: dict[int, str] = {}
    """The session's key at each index at which it was shared with somebody."""
    withheld: dict[PeerName, str] = {}
    """Which devices were told that they don't get the key, and by which code."""
    number: int = 0
    """Of the room's sessions, in the order of their making."""
    shared_history: bool = False
    replaced_ms: int = 0
    """When another session took the place of this one."""


class EarlierKey(NamedTuple):
    """A place for one of the last sessions of a room that were replaced."""

    room_id: RoomId
    place: int


class KeySource(Enum):
    """Where a room key came from."""

    OWN = "own"
    """Made by this device."""
    ROOM_KEY = "room_key"
    """Sent by its maker over Olm."""
    IMPORT = "import"
    """From a file: nobody vouches for it."""
    BACKUP = "backup"
    """From the backup, where anybody could put it: nobody vouches for it either."""

    FORWARDED = "forwarded"
    """From another device of this user, which was asked for it: nobody vouches for its maker."""

    @property
    def is_vouched(self) -> bool:
        """Whether the maker's device vouches for the key."""
        return self in (KeySource.OWN, KeySource.ROOM_KEY)

    @property
    def standing(self) -> int:
        """How far a key is believed: its maker's most, then another own device's, least what anybody could have made.

        Whoever knows the backup's public key can put a key into it.
        """
        return 2 if self.is_vouched else int(self is KeySource.FORWARDED)


class InboundSession(msgspec.Struct):
    """A Megolm session that this device can read, where its key came from, and how far that can be trusted."""

    session: InboundGroup
    sender: UserId | None
    """``None`` where nobody vouches for its maker."""
    sender_key: Curve25519Key
    signing_key: Ed25519Key | None
    """The Ed25519 key that its maker claims, as far as it is known."""
    source: KeySource
    shared_history: bool = False

    def exported(self, name: GroupSessionName) -> ExportedSession:
        """Return it as key export files and backups have it, from the first message on that this device can read."""
        session_key = self.session.exported_at(self.session.first_index)
        assert session_key is not None  # since it is not before the beginning
        claimed = {} if self.signing_key is None else {"ed25519": self.signing_key}
        return ExportedSession(
            MEGOLM, name.room_id, self.sender_key, name.session_id, session_key, claimed, (), self.shared_history
        )


class Backup(msgspec.Struct, frozen=True):
    """The backup of the user's room keys at the homeserver, as far as this device knows it."""

    public_key: Curve25519Key
    auth_data: JsonObject
    """The JSON with the public key and its signatures, as it was received or made."""
    version: BackupVersion | None = None
    """``None`` while the homeserver has not answered to the backup that this device makes."""
    decryption_key: bytes | None = None
    """The secret half of the public key, where it is here."""
    refused: bool = False
    """Whether the homeserver has said that this is not, or no longer, the version to write to."""

    def __repr__(self) -> str:
        return f"<Backup version={self.version!r} refused={self.refused}>"


class Giver(NamedTuple):
    """A user who gave a session that somebody else gave first."""

    room_id: RoomId
    session_id: GroupSessionId
    user_id: UserId


class GivenBy(msgspec.Struct, frozen=True):
    """By which keys such a user vouches for the session as the user's own."""

    sender_key: Curve25519Key
    signing_key: Ed25519Key | None


class SeenPart(NamedTuple):
    """Some messages of a Megolm session, by their indices."""

    room_id: RoomId
    session_id: GroupSessionId
    giver: UserId | None
    """The sender of the messages, where somebody else gave the session first."""
    number: int


class Reading(msgspec.Struct, frozen=True, array_like=True):
    """As which event a Megolm message was read."""

    event_id: EventId
    origin_server_ts: int


class Withheld(msgspec.Struct, frozen=True):
    """Why somebody does not give a room key."""

    code: str
    reason: str
    sender: UserId


class SharingStrategy(Enum):
    """Which devices of a room's members get its key. Those that are blocked never do."""

    ALL_DEVICES = "all_devices"
    CROSS_SIGNED_DEVICES = "cross_signed_devices"
    """Those that their user has signed, or that the owner of this device has verified."""
    REFUSE_UNVERIFIED = "refuse_unverified"
    """All, but nothing is shared while a verified user has a device that is not verified."""


class WantedSecret(msgspec.Struct, frozen=True, tag="secret"):
    """A secret that one device of a user asks the others for."""

    name: str


class WantedRoomKey(msgspec.Struct, frozen=True, tag="room_key"):
    """A room key that one device of a user asks the others for."""

    name: GroupSessionName
    index: int = 0
    """The first message that is to be read with it."""


Wanted: TypeAlias = WantedSecret | WantedRoomKey


class Asked(msgspec.Struct, frozen=True):
    """A mark: what the user's other devices are asked for."""

    wanted: Wanted
    devices: dict[DeviceId, Curve25519Key] = {}
    """Which devices were asked so far. Nobody else may answer."""
    sent: tuple[TransactionId, ...] = ()
    """The messages that ask them. The cancellation follows them."""


class ReceivedSecret(Unshown, msgspec.Struct, frozen=True):
    """A secret that another device sent when it was asked, until the application deletes it."""

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
    """A way to verify, from the side of the device that can take it."""

    SAS = "m.sas.v1"
    """Two people compare short strings."""
    SHOW_QR_CODE = "m.qr_code.show.v1"
    SCAN_QR_CODE = "m.qr_code.scan.v1"


class Phase(Enum):
    """How far a verification has come."""

    REQUESTED = "requested"
    READY = "ready"
    """Both devices take part. Either may begin with one of the methods."""
    STARTED = "started"
    """This device has begun, to compare short strings; the other one has to accept that."""
    ACCEPTED = "accepted"
    """Ephemeral keys are on their way."""
    KEYS_EXCHANGED = "keys_exchanged"
    """The short strings can be compared."""
    CONFIRMED = "confirmed"
    """Here they were found equal; the proof from the other device is missing."""
    SCANNED = "scanned"
    """The other device has scanned this one's QR code. A person says whether it shows success."""
    RECIPROCATED = "reciprocated"
    """This device has scanned the other one's QR code, and found the right keys in it."""
    DONE = "done"
    CANCELLED = "cancelled"


class Sas(Unshown, msgspec.Struct, frozen=True):
    """What this device knows of a comparison of short strings."""

    secret: bytes
    """The private half of this device's ephemeral key. It is deleted when the verification ends."""
    start: JsonObject
    """The content of the message that began, as it was sent or received: the commitment covers all of it."""
    we_started: bool
    strings: tuple[str, ...]
    """The forms that both devices know."""
    commitment: str = ""
    """The one that the other device has sent."""
    their_key: str = ""
    """The public half of the other device's ephemeral key."""
    their_macs: Macs | None = None


class Cancellation(NamedTuple):
    """Why a verification ended."""

    code: str
    by_us: bool


class VerificationFlow(msgspec.Struct, frozen=True):
    """A verification, from its request to a while after its end."""

    user_id: UserId
    """The user at the other end, who may be this device's own."""
    requested_by_us: bool
    began_ms: int
    expires_ms: int
    transaction_id: str | None
    """What its messages call it. ``None`` for a request in a room that the homeserver has not given an event id yet."""
    device_id: DeviceId | None = None
    """The other device; ``None`` as long as none has answered this one's request."""
    recipients: tuple[DeviceId, ...] = ()
    """The devices that this one's request went to. None in a room."""
    room_id: RoomId | None = None
    """``None`` where its messages are to-device messages."""
    phase: Phase = Phase.REQUESTED
    ours: tuple[Method, ...] = ()
    """What this device can do."""
    theirs: tuple[Method, ...] = ()
    sas: Sas | None = None
    shown: QrCode | None = None
    """The QR code that this device shows."""
    scanned: QrCode | None = None
    """The other device's."""
    received: tuple[bytes, ...] = ()
    """Digests of the messages that were taken: two connections may bring the same one."""
    last_sent: TransactionId | None = None
    """The message that the next one has to follow."""
    cancellation: Cancellation | None = None
    ended_ms: int = 0

    def __repr__(self) -> str:
        return f"<VerificationFlow {self.phase}>"

    @property
    def is_over(self) -> bool:
        """Whether nothing that is received or done changes it any more."""
        return self.phase in (Phase.DONE, Phase.CANCELLED)


class OutgoingToDevice(msgspec.Struct, frozen=True):
    """A mark: messages that are to be sent to devices, each already encrypted."""

    event_type: str
    messages: dict[UserId, dict[DeviceId, JsonObject]]
    after: tuple[TransactionId, ...] = ()
    """What must have been answered before this is sent."""


class OutgoingToRoom(Unshown, msgspec.Struct, frozen=True):
    """A mark: an event that is to be sent to a room, not encrypted yet."""

    room_id: RoomId
    event_type: str
    content: JsonObject
    after: TransactionId | None = None
    """Likewise."""


class Backlog(msgspec.Struct, frozen=True):
    """Which parts of large batches are still to be processed: from ``first`` up to, but without, ``next``."""

    first: int
    next: int


class PutAside(Unshown, msgspec.Struct, frozen=True):
    """A mark: a to-device event has met a fault of this program, and is to be tried again."""

    event: JsonObject
    plaintext: bytes | None
    """What it decrypted to: it does so only once."""


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


def _name(kind: type[Name]) -> Codec[Name]:
    """Return a codec of names that are text at run time."""
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
PEER: Final = RecordKind("peer", PEER_NAME, _codec(Peer))
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
