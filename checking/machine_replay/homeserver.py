"""A fake homeserver in memory, for tests: the part of the client-server API that end-to-end encryption needs.

Where Synapse differs from the specification, this server does as Synapse does:

- A one-time key that is uploaded again after it was claimed is handed out again.
- A fallback key that is uploaded again counts as unused, unless the uploaded text is canonical JSON.
- A classic sync leaves out empty device lists.
- An old ``pos`` is as good as the newest, until the server forgets the connection.
- A backed-up room key is replaced by a later one if only the later one is verified, or if it begins at an earlier
  index, or if it was forwarded less often. So each of two keys may replace the other.

``request`` takes any request by method, path and JSON body, and returns a status and a JSON body. It records each
request in ``arrivals``. The other methods are for the test that sets up the server.

This server does not do all that a real one does. It checks no permissions, and no signatures but those of
cross-signing. A sync never waits, and is never answered from a cache, as Synapse does for two minutes. There is no
federation, no rate limit, no account data and no media. Simplified sliding sync has only the extensions for to-device
messages and encryption, and no room events. There are no filters, and timelines are complete.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final, NamedTuple, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from unwedged.machine.identifiers import Ed25519Key, UserId
from unwedged.machine.signing import is_signed, without_signatures

Json = dict[str, object]
"""A JSON object."""

T = TypeVar("T")

_PREFIX: Final = re.compile(r"/_matrix/client/(?:r0|v\d+|unstable/org\.matrix\.simplified_msc3575)/")


PASSWORD: Final = "open sesame"  # noqa: S105 (it opens nothing but this)
"""The password of all users."""
SIGNING_KEYS: Final = ("master", "self_signing", "user_signing")


def wall_clock_ms() -> int:
    """Return the wall clock, in milliseconds since 1970."""
    return int(time.time() * 1000)


class Device(NamedTuple):
    """A user ID and a device ID."""

    user: str
    device: str


class MatrixError(Exception):
    """The server refuses a request, with an HTTP status and, if there is one, an error code of the specification."""

    def __init__(self, status: int, code: str | None, text: str, **more: object) -> None:
        super().__init__(f"{status} {code}: {text}")
        self.status = status
        self.body: Json = more if code is None else {"errcode": code, "error": text, **more}


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that arrived, and the response."""

    device: Device
    method: str
    path: str
    body: bytes
    """JSON."""
    status: int


class KeysUpload(msgspec.Struct):
    """The body of ``/keys/upload``."""

    device_keys: Json | None = None
    one_time_keys: dict[str, Json] = {}
    fallback_keys: dict[str, Json] = {}


class KeysQuery(msgspec.Struct):
    """The body of ``/keys/query``."""

    device_keys: dict[str, list[str]]


class KeysClaim(msgspec.Struct):
    """The body of ``/keys/claim``: the wanted algorithm, by user and device."""

    one_time_keys: dict[str, dict[str, str]]


class SendToDevice(msgspec.Struct):
    """The body of ``/sendToDevice``: contents, by user and device."""

    messages: dict[str, dict[str, Json]]


class Authentication(msgspec.Struct):
    """User-interactive authentication by a password."""

    type: str
    session: str = ""
    password: str = ""


class SigningKeysUpload(msgspec.Struct):
    """The body of ``/keys/device_signing/upload``."""

    master_key: Json | None = None
    self_signing_key: Json | None = None
    user_signing_key: Json | None = None
    auth: Authentication | None = None


class BackupInfo(msgspec.Struct):
    """The body of ``/room_keys/version``."""

    algorithm: str
    auth_data: Json
    version: str | None = None


class BackedUpKey(msgspec.Struct):
    """A room key in a backup."""

    first_message_index: int
    forwarded_count: int
    is_verified: bool
    session_data: Json

    def replaces(self, known: BackedUpKey) -> bool:
        """Return whether it replaces a known one."""
        return (
            (self.is_verified and not known.is_verified)
            or self.first_message_index < known.first_message_index
            or self.forwarded_count < known.forwarded_count
        )


class BackedUpSessions(msgspec.Struct):
    """The room keys of one room in a backup."""

    sessions: dict[str, BackedUpKey] = {}


class BackedUpRooms(msgspec.Struct):
    """The body of ``/room_keys/keys``."""

    rooms: dict[str, BackedUpSessions]


class E2eeExtension(msgspec.Struct, frozen=True):
    """The extension of a sliding-sync request for encryption."""

    enabled: bool = False


class ToDeviceExtension(msgspec.Struct, frozen=True):
    """The extension of a sliding-sync request for to-device messages."""

    enabled: bool = False
    since: str | None = None
    limit: int = 100


class Extensions(msgspec.Struct, frozen=True):
    """The extensions of a sliding-sync request."""

    e2ee: E2eeExtension = E2eeExtension()
    to_device: ToDeviceExtension = ToDeviceExtension()


class SlidingSync(msgspec.Struct):
    """The body of a request of simplified sliding sync."""

    conn_id: str = ""
    extensions: Extensions = Extensions()


@dataclass(slots=True)
class _Keys:
    """What the server stores for a signed-in device."""

    device_keys: Json | None = None
    one_time: dict[str, Json] = field(default_factory=dict)
    fallback: dict[str, tuple[str, Json]] = field(default_factory=dict)
    """The fallback keys' names and contents, by algorithm."""
    used_fallback: set[str] = field(default_factory=set)
    inbox: list[tuple[int, Json]] = field(default_factory=list)
    positions: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    """The meaning of each ``pos``, by sliding-sync connection."""


@dataclass(slots=True)
class _Backup:
    """A version of a user's backup."""

    info: BackupInfo
    etag: int = 0
    deleted: bool = False
    rooms: dict[str, BackedUpSessions] = field(default_factory=dict)

    @property
    def state(self) -> Json:
        """The response after a change of its keys."""
        return {"etag": f"{self.etag}", "count": sum(len(room.sessions) for room in self.rooms.values())}


class Homeserver:
    """Devices with their keys and messages, and rooms with members. The module says what is missing."""

    def __init__(self, *, to_device_limit: int = 100, now_ms: Callable[[], int] = wall_clock_ms) -> None:
        """Start a server. A sync response has at most ``to_device_limit`` to-device messages."""
        self.arrivals: list[Arrival] = []
        self._to_device_limit = to_device_limit
        self._now = 0
        self._now_ms = now_ms
        self._last_ms = 0
        """The time of the newest event."""
        self._devices: dict[Device, _Keys] = {}
        self._changed: list[tuple[int, str]] = []
        """The users whose devices changed, and the time of each change."""
        self._signing_keys: dict[str, dict[str, Json]] = defaultdict(dict)
        """The cross-signing keys, by user and usage."""
        self._signatures: dict[tuple[str, str, str], dict[str, str]] = defaultdict(dict)
        """The uploaded signatures: the signing user, the user whose key was signed, and the key's name."""
        self._signed: list[tuple[int, str, str]] = []
        """The time, the signing user and the signed user of each signature. Only the signing user learns of it."""
        self._events: dict[str, list[tuple[int, Json]]] = defaultdict(list)
        """The time and the event, by room."""
        self._member_events: list[tuple[int, str, Json]] = []
        """The time, the room and the event of each change of membership."""
        self._backups: dict[str, list[_Backup]] = defaultdict(list)
        """All backup versions of each user. The first is version 1."""
        self._answered: dict[tuple[Device, str, str], Json] = {}
        """The responses to the transactions of each device."""
        self._transactions: dict[tuple[Device, str], str] = {}
        """The device and the transaction ID of each event. Only that device sees the transaction ID."""

    # Devices and rooms, for the test that sets up the server

    def sign_in(self, device: Device) -> None:
        """Sign a device in. Other users learn of it when it uploads its keys."""
        self._devices[device] = _Keys()

    def sign_out(self, device: Device) -> None:
        """Sign a device out, and delete its keys and messages."""
        del self._devices[device]
        self._changed.append((self._tick(), device.user))

    def waiting(self, device: Device) -> list[Json]:
        """Return the to-device messages that a device has not acknowledged."""
        return [event for _, event in self._signed_in(device).inbox]

    def one_time_keys(self, device: Device) -> Json:
        """Return a device's one-time keys by name, in the order in which they will be claimed."""
        return {**self._signed_in(device).one_time}

    def fallback_key(self, device: Device) -> tuple[Json, bool] | None:
        """Return the fallback key of a device, and whether it was claimed."""
        keys = self._signed_in(device)
        if not keys.fallback:
            return None
        ((algorithm, (name, key)),) = keys.fallback.items()
        return {name: key}, algorithm in keys.used_fallback

    def hand_out_first(self, device: Device, name: str) -> None:
        """Hand out this one-time key of a device first."""
        keys = self._signed_in(device)
        keys.one_time = {name: keys.one_time[name], **keys.one_time}

    def forget_connections(self, device: Device) -> None:
        """Forget all ``pos`` of a device's sliding-sync connections, as if they had expired."""
        self._signed_in(device).positions.clear()

    def create_room(self, room: str, *members: str, encryption: Json | None = None) -> None:
        """Make an encrypted room.

        Its first member creates it. ``encryption`` adds to the content of m.room.encryption.
        """
        content = {"algorithm": "m.megolm.v1.aes-sha2"} | (encryption or {})
        for member in members:
            self.join(room, member)
        self._state(room, members[0], "m.room.encryption", "", content)

    def join(self, room: str, user: str) -> None:
        """Let a user join a room."""
        self._state(room, user, "m.room.member", user, {"membership": "join"})

    def leave(self, room: str, user: str) -> None:
        """Let a user leave a room."""
        self._state(room, user, "m.room.member", user, {"membership": "leave"})

    def members(self, room: str) -> set[str]:
        """Return the current members of a room."""
        return {user for joined, user in self._memberships(self._now) if joined == room}

    def is_encrypted(self, room: str) -> bool:
        """Return whether a room is encrypted."""
        return any(event["type"] == "m.room.encryption" for _, event in self._events[room])

    def events(self, room: str, since: int = 0) -> list[Json]:
        """Return the events of a room, oldest first, without the first ``since`` ones."""
        return [event for _, event in self._events[room][since:]]

    # The client-server API

    def request(
        self, device: Device, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> tuple[int, Json]:
        """Answer a request. ``path`` may have a query. Return the status and a body that the caller may change."""
        sent = msgspec.json.encode(body or {})
        try:
            status, answer = 200, self._route(device, method, path, msgspec.json.decode(sent, type=Json))
        except MatrixError as error:
            status, answer = error.status, error.body
        self.arrivals.append(Arrival(device, method, path, sent, status))
        return status, msgspec.json.decode(msgspec.json.encode(answer), type=Json)

    def _route(self, device: Device, method: str, path: str, body: Json) -> Json:
        address = urlsplit(path)
        query = {name: values[-1] for name, values in parse_qs(address.query).items()}
        prefix = _PREFIX.match(address.path)
        segments = [unquote(segment) for segment in address.path[prefix.end() if prefix else 0 :].split("/")]
        match method, segments:
            case "POST", ["keys", "upload"]:
                return self._keys_upload(device, body)
            case "POST", ["keys", "query"]:
                return self._keys_query(device, body)
            case "POST", ["keys", "claim"]:
                return self._keys_claim(device, body)
            case "POST", ["keys", "device_signing", "upload"]:
                return self._signing_keys_upload(device, body)
            case "POST", ["keys", "signatures", "upload"]:
                return self._signatures_upload(device, body)
            case "PUT", ["sendToDevice", kind, transaction]:
                return self._send_to_device(device, kind, transaction, body)
            case _, ["room_keys", "version", *version]:
                return self._backup_version(device, method, *version, body=body)
            case _, ["room_keys", "keys", *names]:
                return self._backed_up_keys(device, method, names, query.get("version"), body)
            case "GET", ["sync"]:
                return self._sync(device, query.get("since"))
            case "POST", ["sync"]:
                return self._sliding_sync(device, query.get("pos"), body)
            case "PUT", ["rooms", room, "send", kind, transaction]:
                return self._send_to_room(device, room, kind, transaction, body)
            case "GET", ["rooms", room, "joined_members"]:
                return {"joined": {user: {} for user in sorted(self.members(room))}}
            case _:
                raise MatrixError(404, "M_UNRECOGNIZED", f"{method} {address.path} is not here")

    def _keys_upload(self, device: Device, body: Json) -> Json:
        """Store a device's keys. If a key is refused, the keys before it are stored, as Synapse does."""
        keys, upload = self._signed_in(device), _parsed(body, KeysUpload)
        if upload.device_keys is not None and upload.device_keys != keys.device_keys:
            keys.device_keys = upload.device_keys
            self._changed.append((self._tick(), device.user))
        for name, key in upload.one_time_keys.items():
            known = keys.one_time.get(name)
            if known is not None and _unsigned(known) != _unsigned(key):
                raise MatrixError(400, "M_UNKNOWN", f"One time key {name} already exists")
        for name, key in upload.one_time_keys.items():
            keys.one_time.setdefault(name, key)
        for name, key in upload.fallback_keys.items():
            algorithm = name.partition(":")[0]
            known = keys.fallback.get(algorithm, ("", {}))[1]
            # Like Synapse, compare with the text that was uploaded before, including the order of its fields.
            if msgspec.json.encode(known) != msgspec.json.encode(key, order="sorted"):
                keys.fallback[algorithm] = name, key
                keys.used_fallback.discard(algorithm)
        return {"one_time_key_counts": self._counts(keys)}

    def _keys_query(self, device: Device, body: Json) -> Json:
        """Return the keys of devices and users. An unknown user has none."""
        self._signed_in(device)
        found: dict[str, Json] = {}
        signing_keys: dict[str, Json] = {f"{usage}_keys": {} for usage in SIGNING_KEYS}
        for user, wanted in _parsed(body, KeysQuery).device_keys.items():
            found[user] = {
                each.device: self._with_signatures(keys.device_keys, user, user, each.device)
                for each, keys in self._devices.items()
                if each.user == user and keys.device_keys is not None and (not wanted or each.device in wanted)
            }
            for usage, key in self._signing_keys[user].items():
                if usage != "user_signing" or user == device.user:
                    signing_keys[f"{usage}_keys"][user] = self._with_signatures(
                        key, device.user, user, _public_key(key)
                    )
        return {"device_keys": found, "failures": {}, **signing_keys}

    def _signing_keys_upload(self, device: Device, body: Json) -> Json:
        """Store a user's cross-signing keys. Require a password if there are cross-signing keys already."""
        self._signed_in(device)
        upload, known = _parsed(body, SigningKeysUpload), self._signing_keys[device.user]
        keys = {usage: key for usage in SIGNING_KEYS if (key := getattr(upload, f"{usage}_key")) is not None}
        if all(known.get(usage) == key for usage, key in keys.items()):
            return {}
        if "master" in known and (upload.auth is None or upload.auth.session != "session"):
            flows = [{"stages": ["m.login.password"]}]
            raise MatrixError(401, None, "who asks?", session="session", flows=flows, params={})
        if "master" in known and upload.auth is not None and upload.auth.password != PASSWORD:
            raise MatrixError(401, "M_FORBIDDEN", "Invalid password", session="session", params={})
        master = keys.get("master", known.get("master"))
        if master is None:
            raise MatrixError(400, "M_MISSING_PARAM", "No master key available")
        for usage, key in keys.items():
            usages, public = key.get("usage"), key.get("keys")
            named = isinstance(usages, list) and usage in usages and isinstance(public, dict) and len(public) == 1
            if not named or key.get("user_id") != device.user:
                raise MatrixError(400, "M_INVALID_PARAM", f"Invalid {usage} key")
            if usage != "master" and not _is_signed_by(key, device.user, master):
                raise MatrixError(400, "M_INVALID_SIGNATURE", f"Invalid signature on {usage} key")
        known.update(keys)
        if "user_signing" in keys:
            self._signed.append((self._tick(), device.user, device.user))
        self._changed.append((self._tick(), device.user))
        return {}

    def _signatures_upload(self, device: Device, body: Json) -> Json:
        """Store signatures. Return which of them are refused, and why."""
        self._signed_in(device)
        failures: dict[str, Json] = defaultdict(dict)
        for user, signed in _parsed(body, dict[str, dict[str, Json]]).items():
            for name, value in signed.items():
                try:
                    self._take_signatures(device.user, user, name, value)
                except MatrixError as error:
                    failures[user][name] = {"status": error.status, **error.body}
        return {"failures": failures}

    def _take_signatures(self, signer: str, user: str, name: str, value: Json) -> None:
        """Store the signatures of one key. Refuse those that this user can't make."""
        master = self._signing_keys[user].get("master")
        own_devices = {
            f"ed25519:{each.device}": keys.device_keys
            for each, keys in self._devices.items()
            if each.user == signer and keys.device_keys is not None
        }
        if master is not None and name == _public_key(master):
            stored = master
        elif signer == user and f"ed25519:{name}" in own_devices:
            stored = own_devices[f"ed25519:{name}"]
        else:
            raise MatrixError(404, "M_NOT_FOUND", "Unknown device")
        by_device = signer == user and stored is master
        signing_key = self._signing_keys[signer].get("self_signing" if signer == user else "user_signing")
        signatures = value.get("signatures")
        by_signer = signatures.get(signer) if isinstance(signatures, dict) else None
        if not isinstance(by_signer, dict) or (signing_key is None and not by_device):
            raise MatrixError(400, "M_INVALID_SIGNATURE", "Invalid signature")
        if without_signatures(value) != without_signatures(stored):
            raise MatrixError(400, "M_UNKNOWN", "Key does not match")
        for key_id in by_signer:
            if by_device:
                device_keys = own_devices.get(key_id, {}).get("keys")
                key = device_keys.get(key_id) if isinstance(device_keys, dict) else None
            else:
                key = _public_key(signing_key or {})
            if key is None or not is_signed(value, UserId(signer), key_id, Ed25519Key(key)):
                raise MatrixError(400, "M_INVALID_SIGNATURE", "Invalid signature")
        self._signatures[signer, user, name].update(by_signer)
        if signer == user:
            self._changed.append((self._tick(), user))
        else:
            self._signed.append((self._tick(), signer, user))

    def _with_signatures(self, value: Json, signer: str, user: str, name: str) -> Json:
        """Return a key with one user's signatures of it."""
        more = self._signatures.get((signer, user, name))
        signatures = value.get("signatures", {})
        if more is None or not isinstance(signatures, dict):
            return value
        return {**value, "signatures": {**signatures, signer: {**signatures.get(signer, {}), **more}}}

    def _keys_claim(self, device: Device, body: Json) -> Json:
        """Hand out one-time keys, each once, the oldest first.

        After these, hand out the fallback key, and mark it used.
        """
        self._signed_in(device)
        claimed: dict[str, Json] = defaultdict(dict)
        for user, wanted in _parsed(body, KeysClaim).one_time_keys.items():
            for name, algorithm in wanted.items():
                keys = self._devices.get(Device(user, name), _Keys())
                one_time = next((each for each in keys.one_time if each.partition(":")[0] == algorithm), None)
                if one_time is not None:
                    claimed[user][name] = {one_time: keys.one_time.pop(one_time)}
                elif algorithm in keys.fallback:
                    fallback, key = keys.fallback[algorithm]
                    claimed[user][name] = {fallback: key}
                    keys.used_fallback.add(algorithm)
        return {"one_time_keys": claimed, "failures": {}}

    def _send_to_device(self, device: Device, kind: str, transaction: str, body: Json) -> Json:
        """Deliver to-device messages of a new transaction. The device ``*`` stands for all devices of the user."""
        self._signed_in(device)
        messages = _parsed(body, SendToDevice).messages
        done = device, f"sendToDevice/{kind}", transaction
        if done not in self._answered:
            self._answered[done] = {}
            for user, contents in messages.items():
                for each, keys in self._devices.items():
                    content = contents.get(each.device, contents.get("*"))
                    if each.user == user and content is not None:
                        keys.inbox.append((self._tick(), {"sender": device.user, "type": kind, "content": content}))
        return {}

    def _backup_version(self, device: Device, method: str, version: str | None = None, *, body: Json) -> Json:
        """Create, return, change or delete a version of the backup. A version number is never used again."""
        self._signed_in(device)
        versions = self._backups[device.user]
        if method == "POST":
            versions.append(_Backup(_parsed(body, BackupInfo)))
            return {"version": f"{len(versions)}"}
        if version is None:
            version = self._current_version(device.user)
        backup = self._backup(device.user, version, deleted=method == "DELETE")
        if method == "PUT":
            info = _parsed(body, BackupInfo)
            if info.version not in (None, version) or info.algorithm != backup.info.algorithm:
                raise MatrixError(400, "M_INVALID_PARAM", "Version or algorithm does not match")
            backup.info = info
        elif method == "DELETE":
            backup.deleted = True
            backup.rooms.clear()
        else:
            info = backup.info
            return {"algorithm": info.algorithm, "auth_data": info.auth_data, "version": version, **backup.state}
        return {}

    def _backed_up_keys(self, device: Device, method: str, names: list[str], version: str | None, body: Json) -> Json:
        """Store, return or delete backed-up keys: all, those of a room, or one.

        ``names`` has the room and the session.
        """
        self._signed_in(device)
        if version is None:
            raise MatrixError(400, "M_MISSING_PARAM", "Missing string query parameter b'version'")
        if method == "PUT":
            match names:
                case [room, session]:
                    body = {"rooms": {room: {"sessions": {session: body}}}}
                case [room]:
                    body = {"rooms": {room: body}}
            return self._back_up(device.user, version, _parsed(body, BackedUpRooms))
        backup = self._backup(device.user, version)
        found = {
            room: {session: key for session, key in kept.sessions.items() if names[1:] in ([], [session])}
            for room, kept in backup.rooms.items()
            if names[:1] in ([], [room])
        }
        if method == "DELETE":
            for room, sessions in found.items():
                for session in sessions:
                    del backup.rooms[room].sessions[session]
            backup.etag += 1
            return backup.state
        match names:
            case [room, session]:
                if session not in found.get(room, {}):
                    raise MatrixError(404, "M_NOT_FOUND", "No room_keys found")
                return _json(found[room][session])
            case [room]:
                return {"sessions": _json(found.get(room, {}))}
            case _:
                return {"rooms": {room: {"sessions": _json(sessions)} for room, sessions in found.items() if sessions}}

    def _back_up(self, user: str, version: str, sent: BackedUpRooms) -> Json:
        """Store keys in the current version. Keep the better one of two keys of a session."""
        current = self._current_version(user)
        backup = self._backup(user, version)
        if version != current:
            raise MatrixError(403, "M_WRONG_ROOM_KEYS_VERSION", "Wrong room_keys version.")
        changed = False
        for room, each in sent.rooms.items():
            known = backup.rooms.setdefault(room, BackedUpSessions({})).sessions
            for session, key in each.sessions.items():
                if session not in known or key.replaces(known[session]):
                    known[session] = key
                    changed = True
        backup.etag += changed
        return backup.state

    def _current_version(self, user: str) -> str:
        numbers = [number for number, backup in enumerate(self._backups[user], 1) if not backup.deleted]
        if not numbers:
            raise MatrixError(404, "M_NOT_FOUND", "No backup found")
        return f"{numbers[-1]}"

    def _backup(self, user: str, version: str, *, deleted: bool = False) -> _Backup:
        """Return a version. With ``deleted``, also return a deleted version, since it may be deleted again."""
        for number, backup in enumerate(self._backups[user], 1):
            if version == f"{number}" and backup.deleted <= deleted:
                return backup
        raise MatrixError(404, "M_NOT_FOUND", "Unknown backup version")

    def _send_to_room(self, device: Device, room: str, kind: str, transaction: str, body: Json) -> Json:
        """Append an event to a room, if the transaction is new."""
        self._signed_in(device)
        if device.user not in self.members(room):
            raise MatrixError(403, "M_FORBIDDEN", "the user is not in the room")
        done = device, f"{room}/{kind}", transaction
        if done not in self._answered:
            event_id = self._append(room, device.user, {"type": kind, "content": body})
            self._transactions[device, event_id] = transaction
            self._answered[done] = {"event_id": event_id}
        return self._answered[done]

    def _sync(self, device: Device, since: str | None = None) -> Json:
        """Answer a classic sync. ``since`` acknowledges the to-device messages of the response that it is from."""
        keys, user = self._signed_in(device), device.user
        then, acknowledged = _numbers(since, r"s(\d+)_(\d+)") if since is not None else (None, 0)
        messages, received = self._messages(keys, acknowledged, self._to_device_limit)
        before, after = self._memberships(then or 0), self._memberships(self._now)
        joined, left = ({room for room, who in some if who == user} for some in (after, before))
        rooms: dict[str, Json] = {"join": {}, "leave": {}}
        for room in sorted(joined | left):
            begin = then if then is not None and room in left else 0
            known = bisect_right(self._events[room], begin, key=itemgetter(0))
            events = self.events(room, known)
            if room not in joined:  # a user who has left gets no later events
                events = [event for event in events if event.get("state_key") == user]
            events = [self._with_transaction(event, device) for event in events]
            if events:
                section = rooms["join" if room in joined else "leave"]
                section[room] = {"timeline": {"events": events, "limited": False}, "state": {"events": []}}
        answer: Json = {
            "next_batch": f"s{self._now}_{received}",
            "to_device": {"events": messages},
            "rooms": rooms,
            "device_one_time_keys_count": self._counts(keys),
            "device_unused_fallback_key_types": self._unused(keys),
        }
        if then is not None and (lists := {name: who for name, who in self._device_lists(user, then).items() if who}):
            answer["device_lists"] = lists
        return answer

    def _sliding_sync(self, device: Device, pos: str | None, body: Json) -> Json:
        """Answer simplified sliding sync, in which ``pos`` and the to-device ``since`` are separate tokens."""
        keys, request = self._signed_in(device), _parsed(body, SlidingSync)
        positions = keys.positions[request.conn_id]
        if pos is not None:
            _numbers(pos, r"(\d+)/.*")
            if pos not in positions:
                raise MatrixError(400, "M_UNKNOWN_POS", "Unknown position")
        then = positions[pos] if pos is not None else None
        extensions: Json = {}
        wanted = request.extensions
        if wanted.to_device.enabled:
            since = wanted.to_device.since
            acknowledged = _numbers(since, r"(\d+)", "M_INVALID_PARAM")[0] if since is not None else 0
            limit = min(wanted.to_device.limit, self._to_device_limit)
            messages, received = self._messages(keys, acknowledged, limit)
            extensions["to_device"] = {"next_batch": f"{received}", "events": messages}
        if wanted.e2ee.enabled:
            encryption: Json = {
                "device_one_time_keys_count": self._counts(keys),
                "device_unused_fallback_key_types": self._unused(keys),
            }
            if then is not None:
                encryption["device_lists"] = self._device_lists(device.user, then)
            extensions["e2ee"] = encryption
        following = f"{self._tick()}/{request.conn_id}"
        positions[following] = self._now
        return {"pos": following, "lists": {}, "rooms": {}, "extensions": extensions}

    # Parts of the responses

    def _tick(self) -> int:
        self._now += 1
        return self._now

    def _signed_in(self, device: Device) -> _Keys:
        if device not in self._devices:
            raise MatrixError(401, "M_UNKNOWN_TOKEN", "the device is not signed in")
        return self._devices[device]

    def _append(self, room: str, sender: str, event: Json) -> str:
        name = f"$event{self._tick()}"
        # The clock advances with each event, so no two events have the same time.
        self._last_ms = max(self._last_ms + 1, self._now_ms())
        told = {"event_id": name, "sender": sender, "origin_server_ts": self._last_ms, **event}
        self._events[room].append((self._now, told))
        if told["type"] == "m.room.member":
            self._member_events.append((self._now, room, told))
        return name

    def _state(self, room: str, sender: str, kind: str, key: str, content: Json) -> None:
        self._append(room, sender, {"type": kind, "state_key": key, "content": content})

    def _memberships(self, at: int) -> set[tuple[str, str]]:
        """Return which user was in which room at a time."""
        joined: dict[tuple[str, str], bool] = {}
        for when, room, event in self._member_events:
            if when <= at:
                joined[room, str(event["state_key"])] = event["content"] == {"membership": "join"}
        return {membership for membership, is_joined in joined.items() if is_joined}

    def _device_lists(self, user: str, then: int) -> dict[str, list[str]]:
        """Return the users whose device lists have changed or can be forgotten since a time."""
        before, after = (
            {(room, who) for room, who in memberships if (room, user) in memberships}
            for memberships in (self._memberships(then), self._memberships(self._now))
        )
        sharing = {user} | {who for _, who in after}
        changed = {who for when, who in self._changed if when > then}
        joined = {
            (room, event["state_key"])
            for when, room, event in self._member_events
            if when > then and event["content"] == {"membership": "join"}
        }
        changed |= {who for room, who in after if (room, who) in joined or (room, user) in joined}
        signed = {who for when, signer, who in self._signed if when > then and signer == user}
        return {"changed": sorted((changed & sharing) | signed), "left": sorted({who for _, who in before} - sharing)}

    def _with_transaction(self, event: Json, device: Device) -> Json:
        transaction = self._transactions.get((device, str(event["event_id"])))
        return event if transaction is None else {**event, "unsigned": {"transaction_id": transaction}}

    @staticmethod
    def _messages(keys: _Keys, acknowledged: int, limit: int) -> tuple[list[Json], int]:
        """Return the first messages that are not acknowledged, and the number of the last of them."""
        keys.inbox = [message for message in keys.inbox if message[0] > acknowledged]
        given = keys.inbox[:limit]
        return [event for _, event in given], given[-1][0] if given else acknowledged

    @staticmethod
    def _counts(keys: _Keys) -> dict[str, int]:
        """Return how many one-time keys are left, by algorithm. Like Synapse, always include signed_curve25519."""
        counts = {"signed_curve25519": 0}
        for name in keys.one_time:
            algorithm = name.partition(":")[0]
            counts[algorithm] = counts.get(algorithm, 0) + 1
        return counts

    @staticmethod
    def _unused(keys: _Keys) -> list[str]:
        return sorted(keys.fallback.keys() - keys.used_fallback)


def _parsed(body: Json, shape: type[T]) -> T:
    try:
        return msgspec.convert(body, shape)
    except msgspec.ValidationError as error:
        raise MatrixError(400, "M_BAD_JSON", str(error)) from None


def _public_key(signing_key: Json) -> str:
    """Return the public key in a cross-signing key."""
    keys = signing_key.get("keys")
    return str(next(iter(keys.values()))) if isinstance(keys, dict) and keys else ""


def _is_signed_by(value: Json, user: str, signing_key: Json) -> bool:
    key = _public_key(signing_key)
    return is_signed(value, UserId(user), f"ed25519:{key}", Ed25519Key(key))


def _json(value: object) -> Json:
    return msgspec.convert(msgspec.to_builtins(value), Json)


def _unsigned(key: Json) -> Json:
    return {name: value for name, value in key.items() if name != "signatures"}


def _numbers(token: str, form: str, code: str = "M_UNKNOWN") -> tuple[int, ...]:
    """Return the numbers in a sync token of this server."""
    matched = re.fullmatch(form, token)
    if matched is None:
        raise MatrixError(400, code, f"{token!r} is not a sync token of this server")
    return tuple(int(number) for number in matched.groups())
