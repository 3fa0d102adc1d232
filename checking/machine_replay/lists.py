"""Replay the module Lists on real machines: other users' device lists, whose changes two sync connections bring."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, Self, cast

from checking.errors import CheckError
from checking.machine_replay import lists_faults
from checking.machine_replay.client import Client
from checking.machine_replay.counterpart import Counterpart, Impossible, Property
from checking.machine_replay.device_keys import signed_device_keys
from checking.machine_replay.homeserver import Device, Homeserver, Json
from checking.machine_replay.shared_device import SharedDevice
from checking.replay.doubles import ManualClock
from checking.replay.model_states import changed_arguments, entry, function_of, name_of
from checking.replay.substitutions import Substitution
from checking.tlc.values import Label, ModelValue, State, Value, function, record
from unwedged.machine import KeysQuery, OlmMachine, SyncPosition
from unwedged.machine import identifiers as ids
from unwedged.machine.records import DEVICES, OUTDATED, SYNC, TRACKED

_OWN: Final = Device("@alice:example.org", "PHONE")
_ROOM: Final = "!room:example.org"
_ROOT: Final = "/_matrix/client/v3"
_NONE: Final = ModelValue("None")
_IDLE: Final = record(kind="none")


@dataclass(frozen=True)
class _Sync:
    """A sync response that a process holds."""

    position: SyncPosition
    response: Json


@dataclass(frozen=True)
class _Query:
    """The response to a query that a process holds."""

    request: KeysQuery
    response: Json


@dataclass
class _Outside:
    """The homeserver, what the processes hold, and the names of things in the model."""

    server: Homeserver
    flight: dict[str, _Sync | _Query | None]
    token_numbers: dict[str, int] = field(default_factory=dict)
    """The number of the last change before each token of the homeserver."""
    mark_numbers: dict[tuple[str, int], int] = field(default_factory=dict)
    """The model's number of each mark, by the user and the machine's number. In the model, all marks of one commit
    have the same number."""
    next_mark: int = 1
    changes: int = 0
    forgotten: int = 0


def _dirty_not_lost(_: State, now: State) -> str | None:
    store, changed = entry(now, "store"), entry(now["server"], "changed")
    for user in cast("frozenset[Value]", store["tracked"]):
        last = cast("int", changed[user])
        will_be_told = all(
            token == _NONE or cast("int", token) < last for token in function_of(store["token"]).values()
        )
        if entry(store, "known")[user] != last and entry(store, "outdated")[user] == _NONE and not will_be_told:
            return f"the device list of {name_of(user)} is outdated and not marked, and no sync will bring the change"
    return None


class Lists(Counterpart):
    """Changes of device lists are numbered. Each change is a new device whose ID is the number."""

    properties: ClassVar[Mapping[str, Property]] = {"DirtyNotLost": _dirty_not_lost}
    faults: ClassVar[Mapping[str, Callable[[], Sequence[Substitution]]]] = lists_faults.FAULTS

    outside: _Outside

    def __init__(self, device: SharedDevice, outside: _Outside, initial: State) -> None:
        """Use ``open`` instead."""
        self.devices = (device,)
        self.outside = outside
        self._device = device
        store = entry(initial, "store")
        self._users = sorted(map(name_of, function_of(store["known"])))
        self._connections = {
            name_of(connection): token == _NONE for connection, token in function_of(store["token"]).items()
        }
        """The connection of each process, and whether it uses sliding sync."""
        self._given: _Sync | _Query | None = None
        """The last input of the machine."""

    @classmethod
    async def open(cls, folder: Path, initial: State) -> Self:
        """See the base class. The connections of classic sync have synced once, and all keys are published."""
        processes = sorted(map(name_of, function_of(initial["flight"])))
        server = Homeserver()
        server.sign_in(_OWN)
        own = ids.Device(ids.UserId(_OWN.user), ids.DeviceId(_OWN.device))
        device = await SharedDevice.open(folder / "device.store", own, processes, ManualClock())
        made = cls(device, _Outside(server, dict.fromkeys(processes)), initial)
        server.create_room(_ROOM, _OWN.user, *map(_user_id, made._users))
        for user in made._users:
            made._add_device(user, 0)
        client = made._client(await device.machine(processes[0]))
        await client.send_all()
        for connection, sliding in made._connections.items():
            if not sliding:
                position, response = await made._ask(client, connection)
                await client.machine.receive_sync_changes(response, position)
        return made

    @staticmethod
    def steps(action: str, before: State, after: State) -> list[Label]:
        """See the base class."""
        match action:
            case "TrackUser":
                was, now = (cast("frozenset[Value]", entry(state, "store")["tracked"]) for state in (before, after))
                return [Label(action, (user,)) for user in sorted(now - was or now, key=name_of)]
            case "ChangeDevices":
                changed = changed_arguments(*(entry(state, "server")["changed"] for state in (before, after)))
                return [Label(action, (user,)) for user in changed]
            case "ForgetToken":
                changed = changed_arguments(*(entry(state, "store")["token"] for state in (before, after)))
                return [Label(action, (connection,)) for connection in changed]
        (process,) = changed_arguments(before["flight"], after["flight"])
        if action == "AnswerSync":
            return [Label(action, (process, entry(after["flight"], process)["connection"]))]
        return [Label(action, (process,))]

    def choices(self) -> Sequence[Label]:
        """See the base class. The machine decides whether device lists are queried."""
        return [
            Label("AnswerQuery", (ModelValue(process),))
            for process, held in self.outside.flight.items()
            if held is None
        ]

    async def take(self, step: Label) -> None:
        """See the base class."""
        names = [name_of(parameter) for parameter in step.parameters]
        match step.action, names:
            case "TrackUser", [user]:
                await (await self._device.another_machine()).track_users([_user_id(user)])
            case "ChangeDevices", [user]:
                self.outside.changes += 1
                self._add_device(user, self.outside.changes)
            case "ForgetToken", [connection]:
                machine = await self._device.another_machine()
                await machine.forget_sync_position(await machine.sync_position(connection, sliding=True))
                self.outside.forgotten += 1
            case "AnswerSync", [process, connection]:
                client = self._client(await self._device.machine(process))
                self.outside.flight[process] = _Sync(*await self._ask(client, connection))
            case "AnswerQuery", [process]:
                await self._answer_query(process)
            case (("ReceiveSync" | "MarkSent"), [process]):
                held = self.outside.flight[process]
                if not isinstance(held, _Sync if step.action == "ReceiveSync" else _Query):
                    raise Impossible(f"{process} holds no response for {step}")
                await _give(await self._device.machine(process), held)
                self.outside.flight[process], self._given = None, held
            case "Lose", [process]:
                self.outside.flight[process] = None
            case _:
                raise CheckError(f"the replay has no counterpart of the step {step}")
        self._number_marks()
        self.outside.server.arrivals.clear()

    async def repeat(self, step: Label) -> bool:
        """See the base class."""
        if step.action not in ("ReceiveSync", "MarkSent"):
            return False
        assert self._given is not None  # this step had an input
        await _give(await self._device.another_machine(), self._given)
        return True

    def observe(self) -> State:
        """See the base class."""
        tracked, devices = self._device.records(TRACKED), self._device.records(DEVICES)
        marks, tokens = self._device.records(OUTDATED), self._device.records(SYNC)
        users = {user: ids.UserId(_user_id(user)) for user in self._users}
        lists = self._listed(self._users)
        return {
            "store": record(
                tracked=frozenset(ModelValue(user) for user, name in users.items() if name in tracked),
                known=function(
                    {
                        ModelValue(user): _newest(devices[name]) if name in devices else _NONE
                        for user, name in users.items()
                    }
                ),
                outdated=function(
                    {
                        ModelValue(user): self._mark(name, marks[name]) if name in marks else _NONE
                        for user, name in users.items()
                    }
                ),
                next=self.outside.next_mark,
                token=function(
                    {
                        ModelValue(connection): self._token(
                            tokens.get(f"{'sliding' if sliding else 'classic'}:{connection}")
                        )
                        for connection, sliding in self._connections.items()
                    }
                ),
            ),
            "server": record(
                changed=function({ModelValue(user): number for user, number in lists.items()}),
                now=max(lists.values()),
                forgotten=self.outside.forgotten,
            ),
            "flight": function(
                {ModelValue(process): self._in_hand(held) for process, held in self.outside.flight.items()}
            ),
        }

    def _in_hand(self, held: _Sync | _Query | None) -> Value:
        match held:
            case None:
                return _IDLE
            case _Query(request, response):
                lists = _lists_of(response)
                return record(
                    kind="query",
                    marks=function({_user(name): self._mark(name, number) for name, number in request.users.items()}),
                    lists=function({_user(name): _newest(devices) for name, devices in lists.items()}),
                )
            case _Sync(position, response):
                part: Json = response
                if position.sliding:
                    part = cast("dict[str, Json]", response["extensions"])["e2ee"]
                changed = cast("dict[str, list[str]]", part.get("device_lists", {})).get("changed", [])
                return record(
                    kind="sync",
                    connection=ModelValue(position.connection),
                    asked=self._token(position.token),
                    changed=frozenset(map(_user, changed)) - {_user(_OWN.user)},
                    token=self._token(_next_token(response)),
                )

    def _token(self, token: str | None) -> Value:
        return _NONE if token is None else self.outside.token_numbers[token]

    def _mark(self, user: str, number: int) -> int:
        return self.outside.mark_numbers[user, number]

    def _number_marks(self) -> None:
        """Number the new marks of a step. All marks of one commit get the same number."""
        numbers = self.outside.mark_numbers
        made = self._device.records(OUTDATED).items() - numbers.keys()
        if made:
            numbers.update(dict.fromkeys(made, self.outside.next_mark))
            self.outside.next_mark += 1

    def _add_device(self, user: str, number: int) -> None:
        """Add a device of a user to the homeserver."""
        device = Device(_user_id(user), f"{number}")
        server = self.outside.server
        server.sign_in(device)
        server.request(device, "POST", f"{_ROOT}/keys/upload", {"device_keys": signed_device_keys(device)})

    async def _ask(self, client: Client, connection: str) -> tuple[SyncPosition, Json]:
        position = await client.machine.sync_position(connection, sliding=self._connections[connection])
        response = client.ask(position)
        self.outside.token_numbers[_next_token(response)] = self.outside.changes
        return position, response

    async def _answer_query(self, process: str) -> None:
        machine = await self._device.machine(process)
        requests = await machine.outgoing_requests()
        match requests:
            case []:
                raise Impossible(f"{process} queries no device list")
            case [KeysQuery() as request]:
                response = self._client(machine).call(request.method, request.path, request.body)
                self.outside.flight[process] = _Query(request, response)
            case _:
                raise CheckError(f"{process} has other requests than a query: {requests}")

    def _listed(self, users: Sequence[str]) -> dict[str, int]:
        """Return the number of the last change in the homeserver's answer, by user."""
        query: Json = {"device_keys": {_user_id(user): [] for user in users}}
        status, response = self.outside.server.request(_OWN, "POST", f"{_ROOT}/keys/query", query)
        assert status == 200
        self.outside.server.arrivals.clear()
        return {name_of(_user(name)): _newest(devices) for name, devices in _lists_of(response).items()}

    def _client(self, machine: OlmMachine) -> Client:
        return Client(self.outside.server, machine)


async def _give(machine: OlmMachine, held: _Sync | _Query) -> None:
    match held:
        case _Sync(position, response):
            await machine.receive_sync_changes(response, position)
        case _Query(request, response):
            await machine.mark_sent(request, response)


def _user_id(user: str) -> str:
    return f"@{user}:example.org"


def _user(user_id: str) -> ModelValue:
    return ModelValue(user_id[1:].partition(":")[0])


def _lists_of(response: Json) -> dict[str, Json]:
    return cast("dict[str, Json]", response["device_keys"])


def _newest(devices: Iterable[str]) -> int:
    """Return the number of the last change in a device list."""
    return max(map(int, devices))


def _next_token(response: Json) -> str:
    return str(response.get("pos", response.get("next_batch")))
