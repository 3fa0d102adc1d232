"""Replay the module Backup on real machines: room keys, versions of the backup, uploads and restored keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import ClassVar, Final, NamedTuple, Self, TypeAlias, TypeVar, cast

import msgspec

from checking.errors import CheckError
from checking.machine_replay import backup_faults
from checking.machine_replay.client import Client
from checking.machine_replay.counterpart import Counterpart, Impossible, Property, Wanted
from checking.machine_replay.device_keys import account_of
from checking.machine_replay.homeserver import Device, Homeserver, Json
from checking.machine_replay.peer_device import PeerDevice
from checking.machine_replay.room_key import RoomKey, first_index
from checking.machine_replay.shared_device import SharedDevice
from checking.replay.doubles import ManualClock
from checking.replay.model_states import Function, changed_arguments, entry, function_of, name_of
from checking.replay.substitutions import Substitution, substituted
from checking.tlc.values import Label, ModelValue, State, Value, function, record
from unwedged.machine import (
    BackupDownload,
    BackupUpload,
    BackupVersionCreate,
    BackupVersionQuery,
    LocalTrust,
    MachineError,
    NoBackup,
    OlmMachine,
    backup,
)
from unwedged.machine import identifiers as ids
from unwedged.machine.backup import ALGORITHM
from unwedged.machine.exports import SessionEntry
from unwedged.machine.ratchets import BackupDecryption, BackupEncryption
from unwedged.machine.records import BACKUP, INBOUND, UNBACKED, Backup
from unwedged.machine.signing import signable, with_signature
from unwedged.store import RecordKind, Transaction

Key = TypeVar("Key")

_USER: Final = "@alice:example.org"
_OWN: Final = Device(_USER, "PHONE")
_VERIFIED: Final = Device(_USER, "TABLET")
_PLANTED: Final = Device(_USER, "PLANTED")
_NOTHING: Final = ModelValue("Nothing")
_SIGNED: Final = 98
_UNSIGNED: Final = 99
_INDICES: Final = (0, 1)
_VERSION: Final = "room_keys/version"

_Request: TypeAlias = "BackupVersionCreate | BackupVersionQuery | BackupUpload | BackupDownload"


class _InHand(NamedTuple):
    """A request that a process holds, and the homeserver's answer, if there is one yet."""

    request: _Request
    status: int | None = None
    response: Json | None = None


@dataclass
class _Outside:
    """The homeserver, what the processes hold, and the names of things in the model."""

    server: Homeserver
    flight: dict[str, _InHand | None]
    made: dict[str, bytes] = field(default_factory=dict)
    """The decryption keys that this device has made, by their public keys, in the order of the model's numbers."""
    marks: dict[tuple[str, int], Value] = field(default_factory=dict)
    """The model's number of each mark, by the session and the machine's number of the mark."""


class _Other(NamedTuple):
    """A backup that another device makes."""

    public_key: str
    decryption_key: bytes
    info: Json


@cache
def _others() -> Mapping[int, _Other]:
    return {_SIGNED: _made_by(_VERIFIED), _UNSIGNED: _made_by(_PLANTED)}


def _made_by(device: Device) -> _Other:
    decryption = BackupDecryption()
    unsigned: ids.JsonObject = {"public_key": decryption.public_key}
    signature = account_of(device).sign(signable(unsigned))
    auth_data = with_signature(unsigned, ids.UserId(_USER), f"ed25519:{device.device}", signature)
    return _Other(decryption.public_key, decryption.key, {"algorithm": ALGORITHM, "auth_data": auth_data})


def _backed_up_is_best(_: State, now: State) -> str | None:
    store, version = _store(now), _backup(now)["version"]
    if not _backup(now)["key"]:
        return None
    for session, first in function_of(store["first"]).items():
        if first == _NOTHING or function_of(store["unbacked"])[session] != _NOTHING:
            continue
        if not version or not _is_in(now, session, cast("int", first), cast("int", version)):
            return f"{name_of(session)} counts as backed up from message {first} on, but it is not"
    return None


def _one_key_per_version(_: State, now: State) -> str | None:
    for backed in _backed(now):
        if backed["key"] != _versions(now)[cast("int", backed["version"]) - 1]:
            return f"a room key in version {backed['version']} is encrypted for another key, {backed['key']}"
    return None


def _only_to_trusted(_: State, now: State) -> str | None:
    for backed in _backed(now):
        if not _is_trusted(now, backed["key"]):
            return f"a room key in version {backed['version']} is encrypted for {backed['key']}, which is not trusted"
    return None


def _everything_is_backed_up(now: State) -> bool:
    store, version, known = _store(now), len(_versions(now)), _backup(now)
    is_being_made = known["key"] != 0 and known["version"] == 0
    if not version or not _is_trusted(now, _versions(now)[-1]) or is_being_made:
        return True
    return all(
        function_of(store["unbacked"])[session] == _NOTHING and _is_in(now, session, cast("int", first), version)
        for session, first in function_of(store["first"]).items()
        if first != _NOTHING
    )


def _survives_invalidation(was: State, now: State) -> str | None:
    if not _is_on(was) or _is_on(now):
        return None
    known = _backup(now)
    for process, held in function_of(was["flight"]).items():
        after = function_of(now["flight"])[process]
        if held == _NOTHING:
            if after != _NOTHING and function_of(after)["stage"] == "create" and known["version"] == 0:
                return None
        elif after == _NOTHING:
            of = function_of(held)
            if of["stage"] == "refused" and known["refused"]:
                return None
            if of["stage"] == "version" and (of["newest"], of["newestKey"]) == (known["version"], known["key"]):
                return None
    return "the backup is off, but no response has said that there is another version"


class BackupOfRoomKeys(Counterpart):
    """The user has a verified device. A backup is trusted if this device has made it, or if that one has signed it.

    The key that a backed-up room key is encrypted for is found by decrypting the room key. The decryption key of
    another device's version is available when it is wanted.
    """

    properties: ClassVar[Mapping[str, Property]] = {
        "BackedUpIsBest": _backed_up_is_best,
        "OneKeyPerVersion": _one_key_per_version,
        "OnlyToTrusted": _only_to_trusted,
        "SurvivesInvalidation": _survives_invalidation,
    }
    wanted: ClassVar[Mapping[str, Wanted]] = {"EverythingIsBackedUp": _everything_is_backed_up}
    faults: ClassVar[Mapping[str, Callable[[], Sequence[Substitution]]]] = backup_faults.FAULTS

    outside: _Outside

    def __init__(self, device: SharedDevice, outside: _Outside, room_keys: Mapping[str, RoomKey]) -> None:
        """Use ``open`` instead."""
        self.devices = (device,)
        self.outside = outside
        self._device = device
        self._room_keys = room_keys
        self._names = {key.name: session for session, key in room_keys.items()}
        self._contents: dict[bytes, tuple[int, int]] = {}
        """The key and the first message index of each room key in a backup, by its encrypted data."""
        self._given: _InHand | None = None
        """The last input of the machine."""

    @classmethod
    async def open(cls, folder: Path, initial: State) -> Self:
        """See the base class. The keys of all devices are known."""
        processes = sorted(map(name_of, function_of(initial["flight"])))
        server = Homeserver()
        server.sign_in(_OWN)
        for other in (_VERIFIED, _PLANTED):
            PeerDevice(other).sign_in(server)
        own = ids.Device(ids.UserId(_OWN.user), ids.DeviceId(_OWN.device))
        device = await SharedDevice.open(folder / "device.store", own, processes, ManualClock())
        sessions = sorted(map(name_of, function_of(_store(initial)["first"])))
        room_keys = {session: RoomKey() for session in sessions}
        machine = await device.machine(processes[0])
        client = Client(server, machine)
        await client.send_all()
        await machine.track_users([_USER])
        await client.send_all()
        await machine.set_trust(*_VERIFIED, account_of(_VERIFIED).ed25519, LocalTrust.VERIFIED)
        server.arrivals.clear()
        return cls(device, _Outside(server, dict.fromkeys(processes)), room_keys)

    @staticmethod
    def steps(action: str, before: State, after: State) -> list[Label]:
        """See the base class."""
        processes = sorted(function_of(before["flight"]), key=name_of)
        match action:
            case "ReceiveRoomKey":
                (session,) = changed_arguments(_store(before)["first"], _store(after)["first"])
                return [Label(action, (session, function_of(_store(after)["first"])[session]))]
            case "OtherUploads":
                sessions = sorted(function_of(_store(before)["first"]), key=name_of)
                return [
                    Label(action, (session, index))
                    for session in sessions
                    for index in _INDICES
                    if _kept(before, session, index) == _server(after)["backed"]
                ]
            case "ChangeVersion":
                return [Label(action, (_versions(after)[-1],))]
        changed = changed_arguments(before["flight"], after["flight"])
        if action == "AskUpload":
            (process,) = changed
            marks = function_of(entry(after["flight"], process)["mark"])
            return [Label(action, (process, frozenset(marks)))]
        # If no process holds anything, the step loses the machine of either process.
        return [Label(action, (process,)) for process in changed or processes]

    def choices(self) -> Sequence[Label]:
        """See the base class. The machine decides whether there is anything to upload, to download or to keep."""
        idle = [ModelValue(process) for process, held in self.outside.flight.items() if held is None]
        known = self._known()
        key = 0 if known is None else self._number(known.public_key)
        every = frozenset(map(ModelValue, self._room_keys))
        choices: list[Label] = []
        if known is None or known.version is None or key == _UNSIGNED:
            choices += [Label("Download", (process,)) for process in idle]
            choices += [Label("AskUpload", (process, every)) for process in idle]
        elif known.refused or not self._device.records(UNBACKED):
            choices += [Label("AskUpload", (process, every)) for process in idle]
        for process, held in self.outside.flight.items():
            if held is not None and isinstance(held.request, BackupDownload):
                choices.append(Label("Restore", (ModelValue(process),)))
        for session, first in self._first().items():
            choices += [Label("ReceiveRoomKey", (ModelValue(session), index)) for index in _INDICES if index >= first]
        return choices

    def all_choices(self) -> Sequence[Label]:
        """See the base class. The uploads of marked room keys are added."""
        every = frozenset(map(ModelValue, self._room_keys))
        idle = [ModelValue(process) for process, held in self.outside.flight.items() if held is None]
        return [*self.choices(), *(Label("AskUpload", (process, every)) for process in idle)]

    async def take(self, step: Label) -> None:
        """See the base class."""
        flight = self.outside.flight
        match step.action, step.parameters:
            case "ReceiveRoomKey", [session, index]:
                await self._receive(name_of(session), cast("int", index))
            case "OtherUploads", [session, index]:
                self._upload(name_of(session), cast("int", index))
            case "ChangeVersion", [key]:
                self._call("POST", _VERSION, _others()[cast("int", key)].info)
            case "CreateVersion", [ModelValue(process)]:
                new = await (await self._device.machine(process)).key_backup.create_version()
                self.outside.made[new.request.public_key] = new.decryption_key
                flight[process] = _InHand(new.request)
            case "AskVersion", [ModelValue(process)]:
                query = await (await self._device.machine(process)).key_backup.version_query()
                flight[process] = self._answered(query)
            case "AskUpload", [ModelValue(process), batch]:
                sessions = frozenset(map(name_of, cast("frozenset[Value]", batch)))
                flight[process] = _InHand(await self._upload_of(process, sessions))
            case "Download", [ModelValue(process)]:
                flight[process] = self._answered(await self._download_of(process))
            case (("AnswerCreate" | "AnswerUpload"), [ModelValue(process)]):
                flight[process] = self._answered(self._held(process).request)
            case (
                (
                    "MarkCreated"
                    | "IgnoreCreated"
                    | "MarkVersion"
                    | "IgnoreVersion"
                    | "MarkUploaded"
                    | "MarkRefused"
                    | "Restore"
                ),
                [ModelValue(process)],
            ):
                held = self._held(process)
                await _give(await self._device.machine(process), held)
                flight[process], self._given = None, held
            case "Lose", [ModelValue(process)]:
                await self._lose(process)
            case _:
                raise CheckError(f"the replay has no counterpart of the step {step}")
        self._number_marks()
        self.outside.server.arrivals.clear()

    async def repeat(self, step: Label) -> bool:
        """See the base class."""
        if not step.action.startswith(("Mark", "Ignore", "Restore")):
            return False
        assert self._given is not None  # this step had an input
        await _give(await self._device.another_machine(), self._given)
        return True

    def observe(self) -> State:
        """See the base class."""
        outside = self.outside
        known, first, marks = self._known(), self._first(), self._marks()
        versions = self._versions()
        observed: State = {
            "server": record(
                versions=tuple(self._number(_public_key(info)) for info in versions),
                backed=frozenset(self._backed(len(versions))),
            ),
            "store": record(
                first=function({ModelValue(session): first.get(session, _NOTHING) for session in self._room_keys}),
                unbacked=function({ModelValue(session): marks.get(session, _NOTHING) for session in self._room_keys}),
                backup=record(
                    version=0 if known is None else _version(known.version),
                    key=0 if known is None else self._number(known.public_key),
                    refused=known is not None and known.refused,
                ),
                keys=len(outside.made),
            ),
            "flight": function({ModelValue(process): self._flight(held) for process, held in outside.flight.items()}),
        }
        outside.server.arrivals.clear()
        return observed

    # Steps

    async def _receive(self, session: str, index: int) -> None:
        process = sorted(self.outside.flight)[index]
        machine = await self._device.machine(process)
        if not await machine.import_room_keys([self._room_keys[session].exported(index)]):
            raise Impossible(f"the room key of {session} from message {index} on is not better")

    def _upload(self, session: str, index: int) -> None:
        version = str(self._call("GET", _VERSION)["version"])
        key = self._room_keys[session]
        entry_of_key = msgspec.to_builtins(SessionEntry.of(key.exported(index)))
        encryption = BackupEncryption(_public_key(self._versions()[-1]))
        data = {
            "first_message_index": index,
            "forwarded_count": 0,
            "is_verified": False,
            "session_data": msgspec.to_builtins(encryption.encrypt(msgspec.json.encode(entry_of_key))),
        }
        rooms = {key.name.room_id: {"sessions": {key.name.session_id: data}}}
        self._call("PUT", f"room_keys/keys?version={version}", {"rooms": rooms})

    async def _upload_of(self, process: str, sessions: frozenset[str]) -> BackupUpload:
        """Let a process list an upload of some of the marked room keys: as if these came first, and were many."""
        keys, names = Transaction.keys, self._names

        async def these_first(transaction: Transaction, kind: RecordKind[Key, object]) -> tuple[Key, ...]:
            every = await keys(transaction, kind)
            if kind.name != UNBACKED.name:
                return every
            return tuple(sorted(every, key=lambda name: names[cast("ids.GroupSessionName", name)] not in sessions))

        machine = await self._device.machine(process)
        with substituted([(Transaction, "keys", these_first), (backup, "KEYS_IN_AN_UPLOAD", len(sessions))]):
            requests = await machine.outgoing_requests()
        if not requests:
            raise Impossible(f"{process} has no upload")
        (upload,) = requests
        if not isinstance(upload, BackupUpload):
            raise CheckError(f"{process} has another request than an upload: {upload}")
        return upload

    async def _download_of(self, process: str) -> BackupDownload:
        machine, known = await self._device.machine(process), self._known()
        try:
            if known is not None and known.decryption_key is None and known.public_key in self._trusted():
                await machine.key_backup.import_decryption_key(self._trusted()[known.public_key])
            return await machine.key_backup.download()
        except NoBackup as error:
            raise Impossible(f"{process} fetches nothing: {error}") from error

    def _answered(self, request: _Request) -> _InHand:
        status, response = self.outside.server.request(_OWN, request.method, request.path, request.body)
        if status not in (200, 403):
            raise CheckError(f"{request.path}: {status}")
        return _InHand(request, status, response)

    def _call(self, method: str, path: str, body: Json | None = None) -> Json:
        """Make a request as another device of the user."""
        status, response = self.outside.server.request(_VERIFIED, method, path, body)
        if status != 200:
            raise CheckError(f"{method} {path}: {status}")
        return response

    def _held(self, process: str) -> _InHand:
        held = self.outside.flight[process]
        if held is None:
            raise Impossible(f"{process} has nothing in hand")
        return held

    async def _lose(self, process: str) -> None:
        """Lose what a process holds. A process that holds nothing, or an unsent upload, is restarted."""
        held = self.outside.flight[process]
        if held is None or (isinstance(held.request, BackupUpload) and held.status is None):
            await self._device.reopen(process)
        self.outside.flight[process] = None

    # The observed state

    def _known(self) -> Backup | None:
        return self._device.records(BACKUP).get(None)

    def _first(self) -> dict[str, int]:
        return {
            self._names[name]: inbound.session.first_index for name, inbound in self._device.records(INBOUND).items()
        }

    def _marks(self) -> dict[str, Value]:
        marks = self._device.records(UNBACKED)
        return {self._names[name]: self.outside.marks[self._names[name], number] for name, number in marks.items()}

    def _number_marks(self) -> None:
        """Number the new marks. Each belongs to another backup, or to another first index."""
        known, first = self._known(), self._first()
        for name, number in self._device.records(UNBACKED).items():
            session = self._names[name]
            if (session, number) in self.outside.marks:
                continue
            assert known is not None  # there are marks only while a backup is known
            mark = _version(known.version), self._number(known.public_key), first[session]
            if any(of == session and other == mark for (of, _), other in self.outside.marks.items()):
                raise CheckError(f"{session} has a new mark, but nothing has changed")
            self.outside.marks[session, number] = mark

    def _trusted(self) -> Mapping[str, bytes]:
        """Return the decryption keys of other devices' versions, by their public keys."""
        signed = _others()[_SIGNED]
        return {**self.outside.made, signed.public_key: signed.decryption_key}

    def _number(self, public_key: str) -> int:
        """Return the model's number of a backup key."""
        for number, other in _others().items():
            if other.public_key == public_key:
                return number
        return list(self.outside.made).index(public_key) + 1

    def _versions(self) -> list[Json]:
        """Return the description of each version at the homeserver."""
        server, versions = self.outside.server, list[Json]()
        while True:
            status, info = server.request(_VERIFIED, "GET", f"{_VERSION}/{len(versions) + 1}")
            if status != 200:
                return versions
            versions.append(info)

    def _backed(self, versions: int) -> Iterator[Value]:
        for version in range(1, versions + 1):
            response = self._call("GET", f"room_keys/keys?version={version}")
            for session, (key, index) in self._found(response).items():
                yield record(version=version, session=ModelValue(session), index=index, key=key)

    def _found(self, of: Json) -> dict[str, tuple[int, int]]:
        """Return for each room key of an upload or a download the backup key and the first message index."""
        return {
            self._names[ids.GroupSessionName(ids.RoomId(room), ids.GroupSessionId(session))]: self._content(data)
            for room, sessions in cast("Mapping[str, Json]", of["rooms"]).items()
            for session, data in cast("Mapping[str, Json]", sessions["sessions"]).items()
        }

    def _content(self, data: Json) -> tuple[int, int]:
        encrypted = msgspec.json.encode(data["session_data"])
        if encrypted not in self._contents:
            self._contents[encrypted] = self._decrypted(data)
        return self._contents[encrypted]

    def _decrypted(self, data: Json) -> tuple[int, int]:
        keys = [*(other.decryption_key for other in _others().values()), *self.outside.made.values()]
        for decryption in map(BackupDecryption, keys):
            try:
                return self._number(decryption.public_key), first_index(decryption, data)
            except MachineError:
                continue
        raise CheckError("a room key in the backup is encrypted for an unknown key")

    def _flight(self, held: _InHand | None) -> Value:
        match held:
            case None:
                return _NOTHING
            case _InHand(BackupVersionCreate() as request, _, response):
                key = self._number(request.public_key)
                if response is None:
                    return record(stage="create", key=key)
                return record(stage="created", version=_version(response["version"]), key=key)
            case _InHand(BackupVersionQuery() as request, _, response):
                assert response is not None  # the homeserver answers this request at once
                return record(
                    stage="version",
                    version=_version(request.version),
                    key=0 if request.public_key is None else self._number(request.public_key),
                    newest=_version(response["version"]),
                    newestKey=self._number(_public_key(response)),
                )
            case _InHand(BackupUpload() as request, status):
                return self._flight_of_upload(request, status)
            case _InHand(BackupDownload() as request, _, response):
                assert response is not None
                found = self._found(response).items()
                return record(
                    stage="downloaded",
                    version=_version(request.version),
                    key=self._number(request.public_key),
                    index=function({ModelValue(session): index for session, (_, index) in found}),
                )
        raise AssertionError

    def _flight_of_upload(self, request: BackupUpload, status: int | None) -> Value:
        names = {
            self._names[ids.GroupSessionName(room, session)]: number
            for room, numbers in request.numbers.items()
            for session, number in numbers.items()
        }
        upload: dict[str, Value] = {
            "version": _version(request.version),
            "key": self._number(request.public_key),
            "mark": function(
                {ModelValue(session): self.outside.marks[session, number] for session, number in names.items()}
            ),
        }
        if status is not None:
            return record(stage="uploaded" if status == 200 else "refused", **upload)
        found = self._found(request.body).items()
        index = function({ModelValue(session): index for session, (_, index) in found})
        return record(stage="upload", index=index, **upload)


async def _give(machine: OlmMachine, held: _InHand) -> None:
    request, status, response = held
    assert response is not None  # the model takes this step only after the answer
    if isinstance(request, BackupDownload):
        try:
            async for _ in machine.key_backup.restore(request, response):
                pass
        except NoBackup as error:
            raise Impossible(f"nothing is restored: {error}") from error
    elif status == 200:
        await machine.mark_sent(request, response)
    else:
        await machine.mark_failed(request, status=status)


def _version(name: object) -> int:
    """Return the number of a version in the model."""
    return 0 if name is None else int(str(name))


def _public_key(info: Json) -> ids.Curve25519Key:
    return ids.Curve25519Key(str(cast("Json", info["auth_data"])["public_key"]))


# Parts of the model's states


def _store(state: State) -> Function:
    return function_of(state["store"])


def _server(state: State) -> Function:
    return function_of(state["server"])


def _backup(state: State) -> Function:
    return entry(state["store"], "backup")


def _versions(state: State) -> tuple[Value, ...]:
    return cast("tuple[Value, ...]", _server(state)["versions"])


def _backed(state: State) -> list[Function]:
    return list(map(function_of, cast("frozenset[Value]", _server(state)["backed"])))


def _is_trusted(state: State, key: Value) -> bool:
    return key == _SIGNED or 1 <= cast("int", key) <= cast("int", _store(state)["keys"])


def _is_on(state: State) -> bool:
    known = _backup(state)
    return known["version"] != 0 and not known["refused"] and _is_trusted(state, known["key"])


def _is_in(state: State, session: Value, first: int, version: int) -> bool:
    """Return whether a version has a room key from its first message index on."""
    return any(
        backed["session"] == session
        and backed["version"] == version
        and backed["key"] == _versions(state)[version - 1]
        and cast("int", backed["index"]) <= first
        for backed in _backed(state)
    )


def _kept(state: State, session: Value, index: int) -> frozenset[Value]:
    """Return the content of the versions after another device has uploaded a room key to the newest one."""
    version = len(_versions(state))
    there = cast("frozenset[Value]", _server(state)["backed"])
    mine = {
        each for each in there if (function_of(each)["version"], function_of(each)["session"]) == (version, session)
    }
    if any(cast("int", function_of(each)["index"]) <= index for each in mine):
        return there
    return (there - mine) | {record(version=version, session=session, index=index, key=_versions(state)[-1])}
