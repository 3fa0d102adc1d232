"""The model's processes, for real: store objects on one SQLite file, made to take one step of the protocol at a time.

Each model process is a ``CryptoStore`` with a backend of its own on the shared file; each model operation is a task
that uses it. Every call to a backend stops at a gate, twice: before it runs, and before its answer is delivered. So
the steps of the model can be taken one by one, in any order, and what was reached can be observed between them:
memory in the store objects, and the database through a connection that takes no part.

Nothing here stands in for the store. The clock stands still until it is moved, and no task of the store's own that
goes by the clock is started.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, ParamSpec, TypeVar

from checking.errors import CheckError
from unwedged.protocol.cache import Change, ChangeLog
from unwedged.protocol.guard import Stage
from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds, Version
from unwedged.protocol.lease import LONGEST_LEASE_MS, Lease
from unwedged.protocol.stream import Lagged
from unwedged.store.backend import Backend, Committed, Listed, Loaded, Row, RowName
from unwedged.store.crypto_store import CryptoStore
from unwedged.store.errors import LeaseLost, SnapshotMoved, StoreBusy, StoreError
from unwedged.store.expectations import StoreMark
from unwedged.store.guarded_cache import RecordName
from unwedged.store.lock import LeaseLock, LeaseTimes
from unwedged.store.records import TEXT, Codec, RecordKind
from unwedged.store.sealer import RandomKey, Sealer
from unwedged.store.sqlite import SqliteBackend
from unwedged.store.streams import Streams
from unwedged.store.transactions import Transaction, View

Answer = TypeVar("Answer")
T = TypeVar("T")
P = ParamSpec("P")

NOBODY, DEPARTED = "Nobody", "Departed"

PATIENCE = 400
"""So many turns of the event loop a task gets to come to its next gate. None needs more than a few dozen, however busy
the machine is: what a store has done on another thread, between two gates, is done at once (``Here``)."""

WAITS = 60
"""A task that has not gone on after so many turns waits."""


class Stuck(CheckError):
    """A task of the store neither ended nor came to a gate: the implementation does something the harness can't see."""


@dataclass(slots=True)
class Counter:
    """A record's object. Like a ratchet it changes in place, and its value counts its updates."""

    count: int


COUNTER = RecordKind(
    "counter",
    key=TEXT,
    value=Codec[Counter](lambda counter: b"%d" % counter.count, lambda encoded: Counter(int(encoded))),
)


class Failed(Exception):
    """What an operation's own code fails with."""


class Here(ThreadPoolExecutor):
    """Does at once what it is given: no other thread takes turns that the event loop would have to count."""

    def submit(self, fn: Callable[P, T], /, *arguments: P.args, **keywords: P.kwargs) -> Future[T]:
        """Do it."""
        done: Future[T] = Future()
        try:
            done.set_result(fn(*arguments, **keywords))
        except BaseException as failure:  # noqa: BLE001 (whatever it is, it belongs to the caller)
            done.set_exception(failure)
        return done


class StillClock:
    """A clock that moves only when told to. Who sleeps by it sleeps for ever."""

    def __init__(self) -> None:
        self.time = 1_000_000_000

    def now(self) -> Milliseconds:
        """Return the time it was set to."""
        return Milliseconds(self.time)

    async def sleep(self, _duration: Milliseconds) -> None:
        """Never return."""
        await asyncio.get_running_loop().create_future()


class NoChance:
    """No step that is replayed asks for a random number."""

    def instance(self) -> InstanceId:
        """Refuse: the harness names the instances."""
        raise NotImplementedError

    def between(self, low: Milliseconds, high: Milliseconds) -> Milliseconds:
        """Refuse."""
        raise NotImplementedError


class Ticket(Generic[Answer]):
    """A call to a backend that stands at the gate."""

    def __init__(self, name: str, call: Callable[[], Awaitable[Answer]]) -> None:
        self.name = name
        self.answer: Answer | None = None
        self.failure: Exception | None = None
        self._call = call
        self._delivered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Let the call run against the database. Its answer waits here."""
        try:
            self.answer = await self._call()
        except Exception as failure:  # noqa: BLE001 (whatever it is, it belongs to the caller)
            self.failure = failure

    def fail(self, failure: Exception) -> None:
        """Let the call fail without running it."""
        self.failure = failure

    def deliver(self) -> None:
        """Let the caller have the answer."""
        if self._delivered.done():
            return
        if self.failure is not None:
            self._delivered.set_exception(self.failure)
        else:
            self._delivered.set_result(self.answer)  # type: ignore[arg-type]  # it ran, so this is its answer

    def discard(self) -> None:
        """The process that called is gone."""
        self._delivered.cancel()

    async def delivered(self) -> Answer:
        """Wait at the gate."""
        return await self._delivered


class GatedBackend:
    """A backend of which every call stops at a gate."""

    def __init__(self, backend: Backend) -> None:
        self.identity = backend.identity
        self.backend = backend
        self.arrived: list[Ticket[Lease] | Ticket[None] | Ticket[Loaded] | Ticket[Listed] | Ticket[Committed]
                           | Ticket[ChangeLog[RowName]]] = []  # fmt: skip

    async def acquire(self, instance: InstanceId, label: str, now: Milliseconds, duration: Milliseconds) -> Lease:
        """Stop at the gate, as all do."""
        ticket = Ticket("acquire", lambda: self.backend.acquire(instance, label, now, duration))
        self.arrived.append(ticket)
        return await ticket.delivered()

    async def look(self) -> Lease:
        """Stop at the gate."""
        ticket = Ticket("look", self.backend.look)
        self.arrived.append(ticket)
        return await ticket.delivered()

    async def renew(self, epoch: Epoch, now: Milliseconds, duration: Milliseconds) -> Lease:
        """Stop at the gate."""
        ticket = Ticket("renew", lambda: self.backend.renew(epoch, now, duration))
        self.arrived.append(ticket)
        return await ticket.delivered()

    async def release(self, epoch: Epoch) -> None:
        """Stop at the gate."""
        ticket = Ticket("release", lambda: self.backend.release(epoch))
        self.arrived.append(ticket)
        return await ticket.delivered()

    async def check(self, epoch: Epoch) -> Lease:
        """Stop at the gate."""
        ticket = Ticket("check", lambda: self.backend.check(epoch))
        self.arrived.append(ticket)
        return await ticket.delivered()

    async def changes(self, since: Version, epoch: Epoch | None) -> ChangeLog[RowName]:
        """Stop at the gate."""
        ticket = Ticket("changes", lambda: self.backend.changes(since, epoch))
        self.arrived.append(ticket)
        return await ticket.delivered()

    async def load(self, epoch: Epoch, name: RowName, since: Version) -> Loaded:
        """Stop at the gate."""
        ticket = Ticket("load", lambda: self.backend.load(epoch, name, since))
        self.arrived.append(ticket)
        return await ticket.delivered()

    async def keys(self, epoch: Epoch, kind: str, since: Version) -> Listed:
        """Stop at the gate."""
        ticket = Ticket("keys", lambda: self.backend.keys(epoch, kind, since))
        self.arrived.append(ticket)
        return await ticket.delivered()

    async def commit(
        self, epoch: Epoch, rows: Sequence[Row], now: Milliseconds, duration: Milliseconds, *, alone: bool
    ) -> Committed:
        """Stop at the gate."""
        ticket = Ticket("commit", lambda: self.backend.commit(epoch, rows, now, duration, alone=alone))
        self.arrived.append(ticket)
        return await ticket.delivered()

    async def truncate(self, floor: Version) -> None:
        """Stop at the gate."""
        ticket = Ticket("truncate", lambda: self.backend.truncate(floor))
        self.arrived.append(ticket)
        return await ticket.delivered()

    async def reseal(self, header: bytes, fresh: bytes) -> bool:
        """Stop at no gate: the secret is no matter of the model's."""
        return await self.backend.reseal(header, fresh)

    async def reopen(self, known: StoreMark) -> None:
        """Find the file open."""

    async def close(self) -> None:
        """Leave the file open: it outlives every process of the model."""


class Ear:
    """A subscriber that writes down what it is told."""

    def __init__(self, since: Version) -> None:
        self.heard: list[tuple[Version, bool]] = [(since, False)]
        """Versions, and whether by ``Lagged``; first the one at which it subscribed."""
        self.named: dict[Version, set[str]] = {}

    def deliver(self, news: Change[RecordName] | Lagged) -> None:
        """Note one piece of news."""
        if isinstance(news, Lagged):
            self.heard.append((news.version, True))
            return
        if self.heard[-1] != (news.version, False) or len(self.heard) == 1:
            self.heard.append((news.version, False))
        self.named.setdefault(news.version, set()).add(news.key.key.decode())

    def close(self, failure: StoreError | None = None) -> None:
        """Nothing to do."""


class OpenStore(CryptoStore):
    """A store object whose parts the harness can reach."""

    @property
    def lock(self) -> LeaseLock:
        """The lease as this instance uses it."""
        return self._lock

    @property
    def streams(self) -> Streams:
        """Its subscriptions."""
        return self._streams

    async def listen_now(self) -> None:
        """Look at the change log, as a task of the store does from time to time."""
        await self._listen_now()


@dataclass(slots=True, eq=False)
class Actor:
    """An operation of the model: a task inside a transaction or view, that does what it is told."""

    mode: str
    begun: Version
    """The store's version when it began."""
    stage: str = "running"
    task: asyncio.Task[None] | None = None
    operation: Transaction | View | None = None
    ticket: Ticket[Loaded] | Ticket[Committed] | Ticket[Lease] | None = None
    writing: asyncio.Task[None] | None = None
    """Its commit, while that takes long."""
    record: str = ""
    """The record that it is loading."""
    base: dict[str, int] = field(default_factory=dict)
    """What its updates were computed from."""
    objects: dict[str, Counter] = field(default_factory=dict)
    """The live objects that it has changed."""
    listed: tuple[str, ...] | None = None
    """What it was told when it last asked which records there are."""
    told: asyncio.Future[tuple[str, frozenset[str]]] | None = None
    """Set while it waits for what to do next."""
    outcome: BaseException | None = None
    """What it ended with, if that was an exception."""

    def tell(self, command: str, records: Iterable[str] = ()) -> None:
        """Say what to do next to an operation that waits for it."""
        assert self.told is not None
        told, self.told = self.told, None
        told.set_result((command, frozenset(records)))

    async def perform(
        self, enter: AbstractAsyncContextManager[Transaction] | AbstractAsyncContextManager[View]
    ) -> None:
        """Be inside the operation until told to leave it."""
        async with enter as self.operation:
            while True:
                self.told = asyncio.get_running_loop().create_future()
                command, records = await self.told
                if command == "load":
                    (record,) = records
                    await self.operation.get(COUNTER, record)
                elif command == "list":
                    self.listed = await self.operation.keys(COUNTER)
                elif command == "abort":
                    await self._update(self.known())
                    raise asyncio.CancelledError
                elif command == "fail":
                    await self._update(self.known())
                    raise Failed
                else:
                    await self._update(records)
                    return

    async def _update(self, records: Iterable[str]) -> None:
        """Advance the objects of these records, as an encryption would."""
        if isinstance(self.operation, Transaction):
            for record in sorted(records):
                counter = await self.operation.get(COUNTER, record) or Counter(0)
                self.base[record] = counter.count
                self.objects[record] = counter
                counter.count += 1
                self.operation.put(COUNTER, record, counter)

    def known(self) -> dict[str, int]:
        """Return what it can read in memory."""
        if self.operation is None:
            return {}
        return {name.key.decode(): _count(value) for name, value in self.operation._operation.snapshot.records.items()}


@dataclass(slots=True, eq=False)
class Process:
    """A process of the model, in its present instance."""

    name: str
    instance: InstanceId
    gate: GatedBackend
    store: OpenStore
    ear: Ear | None = None
    acquiring: asyncio.Task[bool] | None = None
    sync: Ticket[ChangeLog[RowName]] | None = None
    """Its sync, at the gate."""
    actors: dict[str, Actor] = field(default_factory=dict)
    live: dict[str, Counter] = field(default_factory=dict)
    """The live objects that must be beside its cache, by record."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An operation as it is: the fields are the model's."""

    stage: str
    mode: str
    under: int
    at: int
    known: Mapping[str, int]
    loading: tuple[str, int, int] | None
    saw_waiter: bool
    released: bool = False


IDLE = Seen("idle", "none", 0, 0, {}, None, saw_waiter=False)


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything the model speaks of, as it is in the implementation. By process and by operation."""

    lease: tuple[int, str, bool, bool]
    """Epoch, holder, whether any time is left, whether somebody waits."""
    version: int
    floor: int
    records: Mapping[str, int]
    log: Mapping[int, frozenset[str]]
    """By version, the records that changed, as far as the change log reaches back."""
    guards: Mapping[str, tuple[str, int]]
    caches: Mapping[str, tuple[int, Mapping[str, int]]]
    heard: Mapping[str, tuple[tuple[int, bool], ...]]
    operations: Mapping[str, Seen]


class World:
    """All processes of a model on one file. ``home`` says which process an operation belongs to."""

    def __init__(
        self,
        backends: Mapping[str, SqliteBackend],
        sealer: Sealer,
        observer: sqlite3.Connection,
        home: Mapping[str, str],
        records: Sequence[str],
        subscribers: frozenset[str],
    ) -> None:
        """For ``open``."""
        self.clock = StillClock()
        self.home = home
        self.records = tuple(records)
        self.subscribers = subscribers
        self.sealer = sealer
        self.processes: dict[str, Process] = {}
        self.bases: dict[int, dict[str, int]] = {}
        """By version, what each update of that commit was computed from."""
        self.history: list[dict[str, int]] = []
        """The store's records at each version."""
        self.strict = True
        """Whether every step must be possible; otherwise one that is refused is passed over."""
        self.same_instance = False
        """Whether all processes present one and the same instance (for a fault)."""
        self.on_reset: Callable[[World], None] = lambda world: None
        self.writes_long = False
        """Whether the next commit stands before its last statement, for ``write_begins``."""
        self.at_last_statement = asyncio.Event()
        self.last_statement = threading.Event()
        self._backends = backends
        self._observer = observer
        self._instances = 0
        self._hidden = {record: sealer.hide(COUNTER.name, record.encode()) for record in records}
        self._shown = {hidden: record for record, hidden in self._hidden.items()}
        self._opened: dict[bytes, int] = {}

    @classmethod
    async def open(
        cls, folder: Path, home: Mapping[str, str], records: Sequence[str], subscribers: frozenset[str]
    ) -> World:
        """Make a store file in ``folder`` and the processes on it."""
        asyncio.get_running_loop().set_default_executor(Here())
        path = folder / "replay.store"
        names = sorted(set(home.values()))
        backends = {name: await SqliteBackend.open(path) for name in names}
        identity = backends[names[0]].identity
        sealer = Sealer.create(RandomKey(bytes(32)), identity)
        observer = sqlite3.connect(path, isolation_level=None)
        world = cls(backends, sealer, observer, home, records, subscribers)
        await world.reset()
        return world

    async def close(self) -> None:
        """End all processes and let go of the file."""
        for process in self.processes.values():
            await self._kill(process)
        for backend in self._backends.values():
            await backend.close()
        self._observer.close()

    async def reset(self) -> None:
        """Begin anew: an empty store, and processes that have done nothing."""
        for process in self.processes.values():
            await self._kill(process)
        self._observer.executescript(
            "BEGIN IMMEDIATE; DELETE FROM record; DELETE FROM change;"
            "UPDATE state SET version = 0, floor = 0, epoch = 0, holder = NULL, expires = 0, wanted = 0; COMMIT"
        )
        self.bases.clear()
        self._opened.clear()
        self.history = [dict.fromkeys(self.records, 0)]
        for name in self._backends:
            self._start(name)
        self.on_reset(self)

    # The steps of the model. Each returns whether it was possible.

    async def acquire(self, name: str) -> bool:
        """Ask for the lease. Where it is granted, the sync stands at the gate."""
        process = self.processes[name]
        lock = process.store.lock
        if lock.guard.stage is not Stage.NONE:
            return self._refused("Acquire", "there is a guard already")
        process.acquiring = asyncio.create_task(lock.acquire_now())
        await self._pass(process, process.acquiring)
        if process.acquiring.done():
            await _outcome(process.acquiring)
            return False
        process.sync = process.gate.arrived.pop()  # type: ignore[assignment]  # after acquire comes changes
        return True

    async def sync(self, name: str) -> bool:
        """Let the sync run, and the guard exist."""
        process = self.processes[name]
        if process.sync is None or process.acquiring is None:
            return self._refused("Sync", "no sync stands at the gate")
        await process.sync.run()
        return await self._end_sync(process)

    async def sync_fails(self, name: str, *, given_up: bool = False) -> bool:
        """Let the sync fail, and unless the lease is to be ``given_up`` the write that would do so as well."""
        process = self.processes[name]
        if process.sync is None:
            return self._refused("SyncFails", "no sync stands at the gate")
        process.sync.fail(StoreBusy("injected by the replay"))
        process.sync.deliver()
        assert process.acquiring is not None
        while not process.acquiring.done():
            await self._pass(process, process.acquiring, fails=not given_up)
        return not await self._end_sync(process)

    async def renew(self, name: str) -> bool:
        """Renew the lease; where it is gone, the guard is found dead."""
        return await self._complete(name, self.processes[name].store.lock.renew_now())

    async def lose_guard(self, name: str, way: str = "") -> bool:
        """Let a renewal or a sync find out that the lease is gone. Where the renewal comes first, so does the sync."""
        if self.processes[name].sync is None:
            return await self.renew(name)
        if way == "renewal":
            await self.renew(name)
            self._demand(self.processes[name].store.lock.guard.stage is Stage.NONE, "the renewal came through")
        return not await self.sync(name)

    async def release(self, name: str) -> bool:
        """Give the lease up."""
        return await self._complete(name, self.processes[name].store.lock.release_now())

    async def begin(self, name: str, mode: str) -> bool:
        """Begin an operation."""
        process = self.processes[self.home[name]]
        if name in process.actors:
            return self._refused("Begin", "it has begun already")
        actor = Actor(mode, Version(self.version()))
        entered = process.store.transaction() if mode == "transaction" else process.store.view()
        actor.task = asyncio.create_task(actor.perform(entered))
        try:
            await self._until(lambda: actor.told is not None or actor.task is None or actor.task.done())
        except Stuck:
            await self._forget([actor.task, *process.store.lock._tasks], process.gate)
            return self._refused("Begin", "it has to wait")
        process.actors[name] = actor
        return True

    async def load(self, name: str, record: str) -> bool:
        """Read a record that is not in memory: it is read from the database, and its answer waits."""
        actor = self._actor(name)
        if actor is None or actor.told is None:
            return self._refused("Load", "the operation is not running")
        actor.tell("load", {record})
        actor.record = record
        if not await self._to_database(name, actor):
            return actor.told is not None
        actor.stage = "loading"
        if actor.ticket is not None and (
            actor.ticket.failure or (isinstance(actor.ticket.answer, Loaded) and actor.ticket.answer.changed)
        ):
            await self.finish(name)
            return False
        return True

    async def fill(self, name: str) -> bool:
        """Deliver what was loaded."""
        actor = self._actor(name)
        if actor is None or actor.ticket is None:
            return self._refused("Fill", "nothing was loaded")
        actor.ticket.deliver()
        actor.ticket = None
        actor.stage = "running"
        await self._until(lambda: actor.told is not None or actor.task is None or actor.task.done())
        return True

    async def commit(self, name: str, updated: frozenset[str]) -> bool:
        """Leave a transaction: its updates are in the database, and nobody knows yet."""
        actor = self._actor(name)
        if actor is None or actor.told is None:
            return self._refused("Commit", "the operation is not running")
        if not self.strict:
            for record in sorted(updated - actor.known().keys()):
                if not await self.load(name, record) or (actor.ticket and not await self.fill(name)):
                    return False
        self._takes(name, actor, updated)
        actor.tell("finish", updated)
        if not await self._to_database(name, actor):
            return False
        if actor.ticket is None or not isinstance(actor.ticket.answer, Committed):
            await self.finish(name)
            return False
        actor.stage = "committed"
        self.bases[actor.ticket.answer.version] = dict(actor.base)
        self.history.append(self._records())
        return True

    async def validate(self, name: str) -> bool:
        """Leave an operation that changed nothing: its fence was passed, and nobody knows yet."""
        actor = self._actor(name)
        if actor is None or actor.told is None:
            return self._refused("Validate", "the operation is not running")
        return await self._leave(name, "finish")

    async def fail(self, name: str) -> bool:
        """Let an operation's own code fail: the fence was passed, and nobody knows yet."""
        actor = self._actor(name)
        if actor is None or actor.told is None:
            return self._refused("Fail", "the operation is not running")
        return await self._leave(name, "fail")

    async def _leave(self, name: str, command: str) -> bool:
        actor = self._actor(name)
        assert actor is not None
        if command == "fail":
            self._takes(name, actor, actor.known())
        actor.tell(command)
        if not await self._to_database(name, actor):
            return False
        if actor.ticket is None or actor.ticket.failure:
            await self.finish(name)
            return False
        actor.stage = "validated"
        return True

    async def finish(self, name: str) -> bool:
        """Deliver the answer of an operation's last access; it ends."""
        actor = self._actor(name)
        if actor is None or actor.ticket is None or actor.task is None:
            return self._refused("Finish", "the operation has not left the database")
        process = self.processes[self.home[name]]
        committed = isinstance(actor.ticket.answer, Committed)
        if committed and actor.operation and process.store.lock.stands(actor.operation._operation.epoch):
            process.live.update(actor.objects)
        actor.ticket.deliver()
        await self._end(name, actor)
        return True

    async def lose(self, name: str, way: str = "commit") -> bool:
        """Let an operation find out, by one kind of access, that its lease is gone."""
        actor = self._actor(name)
        if actor is None or actor.told is None:
            return self._refused("Lose", "the operation is not running")
        match way:
            case "load":
                lost = not await self.load(name, min(set(self.records) - actor.known().keys()))
            case "list":
                lost = not await self.list(name)
            case "fail":
                lost = not await self.fail(name)
            case "commit" if actor.mode == "transaction":
                lost = not await self.commit(name, frozenset(actor.known()))
            case _:
                lost = not await self.validate(name)
        self._demand(isinstance(actor.outcome, LeaseLost), f"the operation ended with {actor.outcome!r}")
        return lost

    async def outdated(self, name: str, record: str, way: str = "load") -> bool:
        """Let a view ask for a record that changed since it began, or for all that there are."""
        actor = self._actor(name)
        outdated = not await (self.list(name) if way == "list" else self.load(name, record))
        outcome = actor.outcome if actor is not None else None
        self._demand(isinstance(outcome, SnapshotMoved), f"the operation ended with {outcome!r}")
        return outdated

    async def list(self, name: str) -> bool:
        """Ask which records there are."""
        actor = self._actor(name)
        if actor is None or actor.told is None:
            return self._refused("list", "the operation is not running")
        actor.tell("list")
        if not await self._to_database(name, actor):
            return False
        assert actor.ticket is not None
        actor.ticket.deliver()
        actor.ticket = None
        task = actor.task
        await self._until(lambda: actor.told is not None or task is None or task.done())
        if task is None or not task.done():
            return True
        await self._end(name, actor)
        return False

    async def abort(self, name: str, way: str = "cancelled") -> bool:
        """Let an operation's caller vanish, after it changed what it read or while it waits; or its commit fail."""
        actor = self._actor(name)
        if actor is None or actor.task is None:
            return self._refused("Abort", "the operation is not there")
        if way == "busy":
            self._takes(name, actor, actor.known())
            actor.tell("finish", actor.known())
            gate = self.processes[self.home[name]].gate
            await self._until(lambda: gate.arrived)
            commit = gate.arrived.pop()
            commit.fail(StoreBusy("injected by the replay"))
            commit.deliver()
        elif actor.told is not None:
            self._takes(name, actor, actor.known())
            actor.tell("abort")
        else:
            actor.task.cancel()
            if actor.ticket is not None:
                actor.ticket.deliver()
        await self._end(name, actor)
        return True

    async def write_begins(self, name: str) -> bool:
        """Let a transaction's commit get as far as its last statement; the database is locked meanwhile."""
        actor = self._actor(name)
        if actor is None or actor.told is None:
            return self._refused("WriteBegins", "the operation is not running")
        record = self.records[0]
        if record not in actor.known():
            await self.load(name, record)
            await self.fill(name)
        process = self.processes[self.home[name]]
        actor.tell("finish", {record})
        await self._until(lambda: process.gate.arrived)
        actor.ticket = process.gate.arrived.pop()  # type: ignore[assignment]  # a transaction leaves by its commit
        self.writes_long = True
        actor.writing = asyncio.create_task(actor.ticket.run())  # type: ignore[union-attr]  # just set
        await self.at_last_statement.wait()
        return True

    async def write_ends(self, name: str) -> bool:
        """Let that commit go through, and its answer be delivered."""
        actor = self._actor(name)
        if actor is None or actor.writing is None:
            return self._refused("WriteEnds", "the operation is not writing")
        self.last_statement.set()
        await actor.writing
        if isinstance(actor.ticket and actor.ticket.answer, Committed):
            self.bases[self.version()] = dict(actor.base)
            self.history.append(self._records())
        return await self.finish(name)

    def jump_back(self) -> None:
        """Let the wall clock jump back, by more than any lease lasts."""
        self.clock.time -= 10 * LONGEST_LEASE_MS

    def lapse(self) -> None:
        """Let the lease's time run out."""
        self.clock.time = max(self.clock.time, self.expires())

    def expire(self, name: str) -> None:
        """Let so much time go by that a process renews no more, if somebody waits and its operations don't end."""
        lock = self.processes[name].store.lock
        self.clock.time += lock.times.overdue_after_ms + 1
        lock.stop_renewing_if_overdue()

    async def crash(self, name: str) -> None:
        """Kill a process, and start it again under the same label."""
        await self._kill(self.processes[name])
        self._start(name)

    async def truncate(self) -> None:
        """Cut the change log."""
        await next(iter(self._backends.values())).truncate(Version(self.version()))

    def forget(self, name: str, record: str) -> None:
        """Drop a record from a cache, and its live object."""
        guarded, forgotten = self.processes[name].store.lock.guarded, RecordName(COUNTER.name, record.encode())
        guarded.forget([forgotten])
        self.processes[name].live.pop(record, None)

    async def listen(self, name: str) -> bool:
        """Let a process without a guard look at the change log."""
        return await self._complete(name, self.processes[name].store.listen_now())

    # What can be observed

    def version(self) -> int:
        """Return the store version."""
        return int(self._observer.execute("SELECT version FROM state").fetchone()[0])

    def expires(self) -> int:
        """Return the end of the lease."""
        return int(self._observer.execute("SELECT expires FROM state").fetchone()[0])

    @contextmanager
    def as_holder(self, epoch: Epoch) -> Iterator[None]:
        """Let the lease row say for a moment that ``epoch`` is held (for faults that do not ask)."""
        row = self._observer.execute("SELECT epoch, holder, expires FROM state").fetchone()
        self._observer.execute("UPDATE state SET epoch = ?, holder = 0", (epoch,))
        yield
        self._observer.execute("UPDATE state SET epoch = ?, holder = ?, expires = ?", row)

    def live_objects(self, name: str) -> set[str]:
        """Return of which records a process has live objects beside its cache."""
        return {record.key.decode() for record in self.processes[name].store.lock.guarded.live}

    def observe(self) -> Observation:
        """Return everything that the model speaks of."""
        version, floor, epoch, holder, expires, wanted = self._observer.execute(
            "SELECT version, floor, epoch, holder, expires, wanted FROM state"
        ).fetchone()
        log: dict[int, set[str]] = {}
        for changed, key in self._observer.execute("SELECT version, key FROM change"):
            log.setdefault(changed, set()).add(self._shown[key])
        for process in self.processes.values():
            for changed, named in (process.ear.named if process.ear else {}).items():
                if named != self.bases[changed].keys():
                    raise CheckError(f"{process.name} was told that version {changed} changed {sorted(named)}")
        names = {process.instance: name for name, process in self.processes.items()}
        return Observation(
            lease=(
                epoch,
                NOBODY if holder is None else names.get(holder, DEPARTED),
                holder is not None and expires > self.clock.time,
                bool(wanted),
            ),
            version=version,
            floor=floor,
            records=self._records(),
            log={changed: frozenset(records) for changed, records in log.items()},
            guards={
                name: (process.store.lock.guard.stage.value, process.store.lock.guard.epoch)
                for name, process in self.processes.items()
            },
            caches={name: self._cache(process) for name, process in self.processes.items()},
            heard={name: tuple(process.ear.heard) if process.ear else () for name, process in self.processes.items()},
            operations={name: self._seen(name) for name in self.home},
        )

    def _records(self) -> dict[str, int]:
        records = dict.fromkeys(self.records, 0)
        for key, sealed in self._observer.execute("SELECT key, value FROM record"):
            if sealed not in self._opened:
                record = self._shown[key]
                self._opened[sealed] = int(self.sealer.open(COUNTER.name, record.encode(), sealed))
            records[self._shown[key]] = self._opened[sealed]
        return records

    def _cache(self, process: Process) -> tuple[int, dict[str, int]]:
        guarded = process.store.lock.guarded
        for name, live in guarded.live.items():
            if COUNTER.value.encode(live) != guarded.cache.records.get(name):  # type: ignore[arg-type]  # counters only
                raise CheckError(f"{process.name}: a live object is not what the cache has: {name.key!r}")
        live = {name.key.decode(): id(live) for name, live in guarded.live.items()}
        self._demand(
            live == {record: id(counter) for record, counter in process.live.items()},
            f"{process.name} has the live objects of {sorted(live)}, and should have those of {sorted(process.live)}",
        )
        return guarded.cache.version, {
            name.key.decode(): _count(value) for name, value in guarded.cache.records.items()
        }

    def _seen(self, name: str) -> Seen:
        actor = self._actor(name)
        if actor is None or actor.operation is None:
            return IDLE
        operation, ticket = actor.operation._operation, actor.ticket
        at, known, loading = int(operation.snapshot.version), actor.known(), None
        saw_waiter = released = False
        if ticket is not None and isinstance(ticket.answer, Loaded):
            sealed = ticket.answer.value
            value = 0 if sealed is None else int(self.sealer.open(COUNTER.name, actor.record.encode(), sealed))
            loading = (actor.record, value, int(ticket.answer.version))
        if ticket is not None and isinstance(ticket.answer, Committed):
            at, known = int(ticket.answer.version), dict(actor.base)
            saw_waiter, released = ticket.answer.wanted, ticket.answer.released
        if ticket is not None and isinstance(ticket.answer, Lease):
            at, saw_waiter = 0, ticket.answer.wanted
        return Seen(actor.stage, actor.mode, operation.epoch, at, known, loading, saw_waiter, released)

    # How it is done

    def _start(self, name: str) -> None:
        if not self.same_instance:
            self._instances += 1
        gate = GatedBackend(self._backends[name])
        instance = InstanceId(self._instances + 1)
        store = OpenStore(
            gate,
            self.sealer,
            (COUNTER,),
            label=name,
            instance=instance,
            version=Version(0),
            times=LeaseTimes(turn_ms=Milliseconds(0)),
            clock=self.clock,
            randomness=NoChance(),
        )
        # In the model, giving the lease up is a step of its own; here it is one the harness takes.
        store.lock.give_way = lambda: None  # type: ignore[method-assign]
        self.processes[name] = Process(name, instance, gate, store)

    async def _kill(self, process: Process) -> None:
        tasks: list[asyncio.Task[None] | asyncio.Task[bool]] = [
            actor.task for actor in process.actors.values() if actor.task is not None
        ]
        for actor in process.actors.values():
            if actor.ticket is not None:
                actor.ticket.discard()
        if process.acquiring is not None:
            tasks.append(process.acquiring)
        if process.sync is not None:
            process.sync.discard()
        await self._forget(tasks, process.gate)

    async def _forget(self, tasks: Iterable[asyncio.Task[None] | asyncio.Task[bool]], gate: GatedBackend) -> None:
        tasks = list(tasks)
        for task in tasks:
            task.cancel()

        def gone() -> bool:
            while gate.arrived:
                gate.arrived.pop().discard()
            return all(task.done() for task in tasks)

        await self._until(gone)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _actor(self, name: str) -> Actor | None:
        return self.processes[self.home[name]].actors.get(name)

    async def _to_database(self, name: str, actor: Actor) -> bool:
        """Let an operation come to its next gate, and run that call. False: it ended, or had no need to."""
        process = self.processes[self.home[name]]
        await self._until(lambda: process.gate.arrived or actor.told or actor.task is None or actor.task.done())
        if not process.gate.arrived:
            if actor.told is None:
                await self._end(name, actor)
            return self._refused("access", "the operation ended before it came to the database")
        actor.ticket = process.gate.arrived.pop()  # type: ignore[assignment]  # an operation makes no other calls
        await actor.ticket.run()  # type: ignore[union-attr]  # just set
        return True

    async def _end(self, name: str, actor: Actor) -> None:
        process = self.processes[self.home[name]]
        assert actor.task is not None
        task = actor.task
        await self._until(task.done)
        actor.outcome = await _outcome(task)
        del process.actors[name]

    async def _end_sync(self, process: Process) -> bool:
        assert process.sync is not None
        assert process.acquiring is not None
        old = process.store.lock.guarded.cache.version
        process.sync.deliver()
        acquiring = process.acquiring
        await self._until(acquiring.done)
        held = await _outcome(acquiring) is None and acquiring.result()
        process.sync = process.acquiring = None
        if held:
            self._syncs(process, old)
        if held and process.ear is None and process.name in self.subscribers:
            process.ear = Ear(process.store.streams.published)
            process.store.streams.add(process.ear)
        return held

    async def _complete(self, name: str, step: Awaitable[None]) -> bool:
        """Take a step, and let its calls to the backend pass."""
        process = self.processes[name]

        async def take() -> None:
            await step

        task = asyncio.create_task(take())
        while not task.done():
            await self._pass(process, task)
        await _outcome(task)
        return True

    async def _pass(
        self, process: Process, task: asyncio.Task[bool] | asyncio.Task[None], *, fails: bool = False
    ) -> None:
        """Let the next call of ``task`` pass the gate, and the task go on to its end or to another gate."""
        await self._until(lambda: process.gate.arrived or task.done())
        if process.gate.arrived:
            ticket = process.gate.arrived.pop()
            if fails:
                ticket.fail(StoreBusy("injected by the replay"))
            else:
                await ticket.run()
            ticket.deliver()
            await self._until(lambda: process.gate.arrived or task.done())

    async def _until(self, reached: Callable[[], object]) -> None:
        for _ in range(PATIENCE):
            if reached():
                return
            await asyncio.sleep(0)
        raise Stuck("a task of the store neither ended nor came to a gate")

    # Live objects: the model does not speak of them, so that the harness itself keeps count of where each must be.

    def _takes(self, name: str, actor: Actor, records: Iterable[str]) -> None:
        """Note that a transaction takes the live objects of these records out of the cache, if that is still its."""
        process = self.processes[self.home[name]]
        if actor.mode != "transaction" or actor.operation is None:
            return
        if actor.operation._operation._guarded is process.store.lock.guarded:
            for record in records:
                process.live.pop(record, None)

    def _syncs(self, process: Process, old: int) -> None:
        """Note that the live objects of what changed since ``old`` are gone, and no others."""
        version, floor = self._observer.execute("SELECT version, floor FROM state").fetchone()
        if floor > old:
            process.live.clear()
        for changed in range(old + 1, version + 1):
            for record in self.bases[changed]:
                process.live.pop(record, None)

    # What must change nothing

    async def try_begin(self, name: str, mode: str) -> None:
        """Try to begin an operation that must wait, and withdraw it."""
        process = self.processes[self.home[name]]
        lock = process.store.lock
        actor = Actor(mode, Version(self.version()))
        entered = process.store.transaction() if mode == "transaction" else process.store.view()
        others = set(lock._tasks)
        actor.task = asyncio.create_task(actor.perform(entered))
        for _ in range(WAITS):
            await asyncio.sleep(0)
        if actor.told is not None or actor.task.done():
            raise CheckError(f"the model lets {name} not begin here as a {mode}, and the implementation does")
        await self._forget([actor.task, *(lock._tasks - others)], process.gate)

    async def try_acquire(self, name: str) -> None:
        """Ask for a lease that is not to be had."""
        if await self.acquire(name):
            raise CheckError(f"the model lets {name} not take the lease here, and the implementation does")

    async def try_list(self, name: str, records: frozenset[str]) -> None:
        """Ask which records there are: in the operation's snapshot, all of them."""
        actor = self._actor(name)
        if not await self.list(name) or actor is None or set(actor.listed or ()) != records:
            raise CheckError(f"{name} asks which records there are: {sorted(records)}, and is told something else")

    def _demand(self, so: bool, otherwise: str) -> None:
        if self.strict and not so:
            raise CheckError(otherwise)

    def _refused(self, step: str, why: str) -> bool:
        if self.strict:
            raise CheckError(f"the model takes the step {step}, the implementation can't: {why}")
        return False


async def _outcome(task: asyncio.Task[None] | asyncio.Task[bool]) -> BaseException | None:
    """Look at how a finished task ended."""
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    return outcome if isinstance(outcome, BaseException) else None


def _count(value: bytes | None) -> int:
    return 0 if value is None else int(value)
