"""The store as programs use it.

An operation that loses the lease is retried on fresh state, and its caller does not notice: for a caller the cache is
just an async operation that may fail.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeAlias, TypeVar, TypeVarTuple

import unwedged
from unwedged.protocol.cache import ChangeLog, empty
from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds, Version
from unwedged.store import background, engine
from unwedged.store.arguments import (
    label_of,
    must_be_a_tracer,
    must_be_awaitable,
    must_be_callable,
    path_of,
    seconds_of,
    size_of,
    version_of,
    whole_of,
)
from unwedged.store.backend import Backend
from unwedged.store.clock import Clock, Randomness, SystemClock, SystemRandomness, clock_of, instance_of, randomness_of
from unwedged.store.completion import run_to_completion
from unwedged.store.errors import (
    InvalidArgument,
    LeaseLost,
    NestedOperation,
    OperationEnded,
    OperationInterrupted,
    OperationsAbandoned,
    SecretChanged,
    StoreClosed,
    StoreError,
    StoreReplaced,
    StoreRolledBack,
    UnsupportedSchema,
    own_copy,
)
from unwedged.store.expectations import Existence, Expectations, StoreMark
from unwedged.store.guarded_cache import GuardedCache, Ledger, RecordName
from unwedged.store.lock import LeaseLock, LeaseTimes, times_of
from unwedged.store.opening import Opening
from unwedged.store.owner_process import OwnerProcess
from unwedged.store.records import Kind, RecordKind, declared_by_name, must_be_declared
from unwedged.store.sealed_records import SealedRecords
from unwedged.store.sealer import Sealer, Secret, secret_of
from unwedged.store.sqlite import SqliteBackend
from unwedged.store.streams import Inbox, Streams, Subscription
from unwedged.store.transactions import (
    Counts,
    Operation,
    Services,
    Transaction,
    TransactionOperation,
    View,
    ViewOperation,
)
from unwedged.trace import Trace, Tracer

Key = TypeVar("Key")
Value = TypeVar("Value")
Result = TypeVar("Result")
AnyOperation = TypeVar("AnyOperation", bound=Operation)
Facade = TypeVar("Facade", Transaction, View)
Arguments = TypeVarTuple("Arguments")

Kinds: TypeAlias = "Iterable[Kind] | list[object]"
"""Record kinds. A list of kinds of different types is a ``list[object]`` for mypy, unless it is annotated."""

logger = logging.getLogger(__name__)

LIBRARY = f"unwedged {unwedged.__version__}"
"""What a trace names as its source."""

MOST_ATTEMPTS = 5
"""How often ``run`` tries. A process loses the lease if it stands still for longer than the lease lasts, or if its
operation does not end. If that happens five times in a row, the caller should know."""

LISTEN_EVERY_MS = Milliseconds(250)
"""How often a process that does not hold the lease looks for changes that others made, if it has subscribers. A person
hardly notices so short a delay, and a look is one indexed read."""

KEPT_VERSIONS = 10_000
"""How many versions the change log reaches back, at least. A process that has missed more versions reloads what it
needs."""

TRUNCATE_EVERY_VERSIONS = 1_000
"""The log is truncated by the process that commits a version that is a multiple of this."""

BUFFERED_CHANGES = 1_000
"""How many changes wait for a subscriber before it gets ``Lagged`` in their place."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """The state and the counters of a store object at one moment."""

    state: str
    """``paused``, ``closed``, or the guard's stage: ``none``, ``syncing``, ``held``, ``draining`` or ``expiring``."""
    epoch: Epoch
    """The epoch of the guard; 0 if there is no guard."""
    version: Version
    """The version that the cache is a partial copy of."""
    cached_records: int
    cached_bytes: int | None
    """An estimate of their memory, with their live objects. Counted only if there is a limit."""
    live_objects: int
    hits: int
    """Reads answered from memory."""
    misses: int
    """Reads that had to load."""
    commits: int
    reruns: int
    """How many times ``run`` and ``query`` have retried an operation."""
    leases_acquired: int
    leases_lost: int
    """Guards that did not end by a release: the lease was lost or expired, a sync failed, the outcome of a commit was
    unknown, the files or the schema were replaced, or operations were abandoned."""
    invalidations: int
    """Syncs that found the cache out of date."""
    records_dropped: int
    """Cached records that those syncs dropped."""
    records_forgotten: int
    """Cached records that were dropped because of the limit."""
    subscriptions: int


class _OperationScope:
    """Marks code, and each task that it makes, as inside an operation of ``store``, from ``enter`` to ``leave``."""

    __slots__ = ("outer", "store")

    def __init__(self, store: CryptoStore) -> None:
        self.store: CryptoStore | None = store
        self.outer: _OperationScope | None = None

    def enter(self) -> None:
        self.outer = _SCOPE.get()
        while self.outer is not None and self.outer.store is None:
            self.outer = self.outer.outer
        _SCOPE.set(self)

    def leave(self) -> None:
        # Not taken out of the variable: the block may be left in another context than it was entered in.
        self.store = None


_SCOPE: ContextVar[_OperationScope | None] = ContextVar("scope", default=None)
"""The operation that the running code is inside of (P11.3). A task inherits it from the code that makes the task. If
such a task began an operation, and its maker awaited the task, each would wait for the other; and nobody knows whether
it will be awaited. The task may begin an operation as soon as the one that it was made in has ended: the scope object,
which both share, says so."""


class _Block(AbstractAsyncContextManager[Facade], Generic[AnyOperation, Facade]):
    """An operation of ``store``: a block of its caller's code, or ``code``, called after so many ``pauses``."""

    __slots__ = ("_begun", "_code", "_facade_type", "_operation", "_operation_type", "_pauses", "_scope", "_store")

    def __init__(
        self,
        store: CryptoStore,
        operation_type: type[AnyOperation],
        facade_type: Callable[[AnyOperation], Facade],
        code: object = None,
        pauses: int | None = None,
    ) -> None:
        self._store = store
        self._operation_type = operation_type
        self._facade_type: Callable[[AnyOperation], Facade] = facade_type
        self._code = code
        self._pauses = pauses
        self._scope = _OperationScope(store)
        self._begun = False
        self._operation: AnyOperation | None = None

    async def __aenter__(self) -> Facade:
        if self._begun:
            raise OperationEnded("this transaction or view was begun before; begin another")
        self._begun = True
        self._store._may_begin()  # noqa: SLF001 (a part of the store, like what it calls here)
        self._scope.enter()
        try:
            operation = await self._store._begin(self._operation_type, self._code, self._pauses)  # noqa: SLF001
        except BaseException:
            self._scope.leave()
            raise
        self._operation = operation
        return self._facade_type(operation)

    async def __aexit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        operation, self._operation = self._operation, None
        if operation is None:
            raise OperationEnded("the block of this transaction or view was never entered, or was left before")
        try:
            if failure is None:
                await operation.finish()
            elif isinstance(failure, Exception):
                await operation.confirm(failure)
        finally:
            try:
                self._store._end(operation)  # noqa: SLF001
            finally:  # The application's clock may fail.
                self._scope.leave()


class CryptoStore:
    """One process instance's view of a store that it may share with others. Use ``open`` to make one."""

    def __init__(self) -> None:
        """Use ``open`` instead."""
        raise InvalidArgument("a store is made by CryptoStore.open")

    @classmethod
    def _assemble(
        cls,
        backend: Backend,
        sealer: Sealer,
        kinds: Iterable[Kind],
        *,
        label: str,
        instance: InstanceId,
        version: Version,
        times: LeaseTimes,
        clock: Clock,
        randomness: Randomness,
        cache_limit_bytes: int | None = None,
        tracer: Tracer | None = None,
    ) -> Self:
        """Make a store object for ``open``, or for a test harness that wraps the backend.

        ``instance`` is a number that no other instance has or had, and ``version`` one that the store had or has.
        """
        ledger = None if cache_limit_bytes is None else Ledger(cache_limit_bytes)
        records = SealedRecords(backend, sealer)
        trace = None if tracer is None else Trace(tracer, sealer.trace_key(), sealer.store, instance, clock.now)
        streams = Streams(version, trace)
        lock = LeaseLock(
            backend,
            instance,
            label,
            times=times,
            clock=clock,
            randomness=randomness,
            guarded=GuardedCache(Epoch(0), empty(version), {}, ledger),
            read_log=records.changes,
            on_synced=streams.publish,
            trace=trace,
        )
        if trace is not None:
            program = trace.pseudonym("program", label)
            told = {"lease_ms": times.duration_ms, "turn_ms": times.turn_ms, "overdue_after_ms": times.overdue_after_ms}
            trace.note("open", program=program, version=version, **told, library=LIBRARY)
        by_name, owner = declared_by_name(kinds), OwnerProcess()
        services = Services(backend, records, lock, streams, clock, by_name, Counts(), owner, trace)
        store = cls.__new__(cls)
        store._set_up(sealer, services)  # noqa: SLF001 (of the class itself)
        return store

    def _set_up(self, sealer: Sealer, services: Services) -> None:
        self._sealer = sealer
        self._services = services
        self._lock = services.lock
        self._streams = services.streams
        self._owner_process = services.owner_process
        self._operations: set[Operation] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._file_users = 0
        """How many users need the file for a moment without being operations."""
        self._paused = False
        self._pauses = 0
        """How often ``pause`` has closed everything and returned."""
        self._not_paused = asyncio.Event()
        """Set while the store is not paused, and as soon as it is closed."""
        self._not_paused.set()
        self._changing_state = asyncio.Lock()
        """Pausing, going on and closing do not overlap."""
        self._has_tasks = False
        self._listening_failed = False
        """Whether the last look at what others committed failed."""

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        passphrase: str | None = None,
        key: bytes | None = None,
        label: str,
        kinds: Kinds,
        expect: Existence = Existence.ANY,
        not_before: StoreMark | None = None,
        cache_limit_bytes: int | None = None,
        times: LeaseTimes | None = None,
        clock: Clock | None = None,
        randomness: Randomness | None = None,
        tracer: Tracer | None = None,
    ) -> Opening[CryptoStore]:
        """Open the store at ``path``, or make one: ``async with CryptoStore.open(...) as store``, or ``await`` it.

        Nothing happens before that. A store that was awaited must be closed. ``label`` names this program to people who
        inspect the store.

        The store's secret is either a ``passphrase``, or a ``key``: 32 random bytes from whatever keeps keys on this
        machine. With a key, opening takes neither the time nor the memory that a passphrase takes.

        ``kinds`` are all kinds of records that this program reads and writes. Records of other kinds, which a newer
        program may know, are left alone.

        A program that knows whether the store exists passes ``expect``; otherwise ``StoreMissing`` or ``StoreExists``
        is raised. A program that has kept the store's ``mark()`` elsewhere passes it as ``not_before``: then an older
        copy raises ``StoreRolledBack``, and another store ``AnotherStore``.

        ``cache_limit_bytes`` limits the memory of the cached records, by an estimate that includes Python's overhead.
        Those that were not used for longest are dropped, and loaded again when they are needed; what a commit of more
        than 250 records wrote is not kept at all. Without a limit all records that were ever used stay in memory. What
        an operation has read stays with it until it ends.

        ``tracer`` gets a line for each step, in the format of ``spec/trace.md``.
        """

        async def open_store() -> CryptoStore:
            secret = secret_of(passphrase, key)
            label_of(label)
            location = path_of(path)
            limit_bytes = None if cache_limit_bytes is None else size_of(cache_limit_bytes, "the limit of a cache")
            declared = declared_by_name(kinds)
            lease_times = LeaseTimes() if times is None else times_of(times)
            own_clock = SystemClock() if clock is None else clock_of(clock)
            own_randomness = SystemRandomness() if randomness is None else randomness_of(randomness)
            instance = instance_of(own_randomness)
            if tracer is not None:
                must_be_a_tracer(tracer)
            expected = Expectations(expect, not_before)
            with _naming_the_file(location):
                backend = await SqliteBackend.open(location, expected)
                try:
                    sealer = await _unlock(backend, secret, expected)
                    version, present = await backend.contents()
                    if unknown := sorted(present - declared.keys()):
                        # A newer program's records: they are left alone, neither refused nor read.
                        logger.info("the store has records of kinds that were not declared kinds=%s", ",".join(unknown))
                    logger.info("store opened label=%s version=%d sqlite=%s", label, version, engine.description())
                    store = cls._assemble(
                        backend,
                        sealer,
                        declared.values(),
                        label=label,
                        instance=instance,
                        version=version,
                        times=lease_times,
                        clock=own_clock,
                        randomness=own_randomness,
                        cache_limit_bytes=limit_bytes,
                        tracer=tracer,
                    )
                    store._run_tasks()  # noqa: SLF001 (of the class itself)
                    return store
                except BaseException:
                    await backend.close()
                    raise

        return Opening(open_store)

    async def __aenter__(self) -> CryptoStore:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._owner_process.is_current():  # In a forked child the store is not open, so there is nothing to end.
            await self.close()

    def __del__(self) -> None:
        # Not in a harness, which has no tasks, nor in a forked child. (What was not opened may lack attributes.)
        if not (getattr(self, "_has_tasks", False) and self._owner_process.is_current()):
            return
        if self._closing is None and not self._paused:
            forgotten = f"the store of {self._lock.label!r} was never closed"
            warnings.warn(forgotten, ResourceWarning, stacklevel=1, source=self)

    def __repr__(self) -> str:
        guarded = self._lock.guarded
        return (
            f"<CryptoStore {self._lock.label!r} {self._state} epoch={self._lock.guard.epoch} "
            f"version={guarded.cache.version} cached={len(guarded.cache.records)} running={len(self._operations)}>"
        )

    @property
    def _state(self) -> str:
        if self._closing:
            return "closed"
        return "paused" if self._paused else self._lock.guard.stage.value

    # Operations

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Read and write one snapshot. Commits when the block is left normally; an exception drops everything.

        The transaction has taken effect only when the block has ended. Until then, pass on nothing that was computed
        inside. Raises ``LeaseLost`` if the lease went to another process: nothing was written, and ``run`` would retry.
        If the block raises an exception of its own after the lease was lost, ``LeaseLost`` is raised instead, since
        that exception may be based on stale state. It is then the cause of the ``LeaseLost``.

        Inside, wait for no person, no network and no other process. Another process that waits for the lease gets it
        after a while (``LeaseTimes.overdue_after_ms``), and then this transaction is lost.
        """
        return _Block(self, TransactionOperation, Transaction)

    def view(self) -> AbstractAsyncContextManager[View]:
        """Read one snapshot, beside other operations. Use what was read only after the block was left normally.

        Raises ``OperationInterrupted`` if the lease was lost, or if a record was needed that a commit of this process
        changed after the view began; ``query`` would retry.
        """
        return _Block(self, ViewOperation, View)

    async def run(
        self,
        operation: Callable[[Transaction, *Arguments], Awaitable[Result]],
        *arguments: *Arguments,
        attempts: int = MOST_ATTEMPTS,
    ) -> Result:
        """Run ``operation`` in a transaction, with ``arguments``, and return its result once that is committed.

        If the transaction was interrupted, it is retried on fresh state, up to ``attempts`` times in all. So it must do
        nothing that can't be done twice, except through its transaction. An exception that it raises reaches the caller
        once it is certain that the operation has read current state.
        """
        return await self._attempt(TransactionOperation, Transaction, operation, arguments, attempts)

    async def query(
        self,
        operation: Callable[[View, *Arguments], Awaitable[Result]],
        *arguments: *Arguments,
        attempts: int = MOST_ATTEMPTS,
    ) -> Result:
        """Run ``operation`` in a view and return its result once that is validated, as ``run`` does."""
        return await self._attempt(ViewOperation, View, operation, arguments, attempts)

    @asynccontextmanager
    async def subscribe(
        self, kind: RecordKind[Key, Value], *, since: int | None = None, buffered_changes: int = BUFFERED_CHANGES
    ) -> AsyncIterator[Subscription[Key]]:
        """Iterate over every change of one kind, whichever process made it, in version order.

        It begins with what is committed next. With ``since`` it begins with what was committed after that version, such
        as the version of a view, or of a ``mark()`` that was kept. If the store's version is lower, it raises
        ``StoreRolledBack``.

        Iteration yields ``Changed``, or ``Lagged`` if changes may have been missed: the store no longer knows what
        changed after ``since``, or more than ``buffered_changes`` changes, old or new, would be waiting. It outlives
        every invalidation, and ends when the store is closed.
        """
        self._must_be_open()
        self._must_not_be_inside("a subscription can't begin")
        if whole_of(buffered_changes, "the length of a buffer") < 1:
            raise InvalidArgument("a buffer has room for one change at least")
        must_be_declared(kind, self._services.kinds)
        start = None if since is None else version_of(since)
        await self._resume_if_paused(self._pauses)
        inbox = Inbox(kind.name, buffered_changes)
        with self._using_the_file():
            if start is None:
                await self._publish_foreign_commits()  # so that it does not get what happened while nobody listened
                self._streams.add(inbox)
            else:
                await self._streams.add_since(inbox, start, self._changes_since)
        try:
            yield Subscription(kind, inbox)
        finally:
            self._streams.remove(inbox)

    async def change_secret(self, *, passphrase: str | None = None, key: bytes | None = None) -> None:
        """Change the secret: from now on, only this ``passphrase`` or ``key`` opens the store.

        Processes that have the store open, this one included, are not disturbed, since the records are sealed as
        before. So the old secret still opens an older copy of the file, and a process that once opened the store knows
        the key that seals. Raises ``SecretChanged`` if another process has changed the secret since this object was
        opened.
        """
        secret = secret_of(passphrase, key)
        self._must_be_open()
        self._must_not_be_inside("a secret can't be changed")
        pauses = self._pauses
        fresh = await asyncio.to_thread(self._sealer.rewrapped, secret)
        await self._resume_if_paused(pauses)
        with self._using_the_file():
            await run_to_completion(self._reseal(fresh))

    def mark(self) -> StoreMark:
        """Return which store this is, and the newest version of it that this process knows.

        If an application keeps the mark elsewhere, a later ``open`` can notice that an older copy was put back.
        """
        self._owner_process.must_be_current()
        version = max(self._lock.guarded.cache.version, self._streams.published)
        return StoreMark(self._services.backend.identity.hex(), version)

    def statistics(self) -> Statistics:
        """Return what this object holds and has done so far."""
        self._owner_process.must_be_current()
        lock, counts, ledger = self._lock, self._services.counts, self._lock.guarded.ledger
        return Statistics(
            state=self._state,
            epoch=lock.guard.epoch,
            version=lock.guarded.cache.version,
            cached_records=len(lock.guarded.cache.records),
            cached_bytes=None if ledger is None else ledger.bytes,
            live_objects=len(lock.guarded.live),
            hits=counts.hits,
            misses=counts.misses,
            commits=counts.commits,
            reruns=counts.reruns,
            leases_acquired=lock.leases_acquired,
            leases_lost=lock.leases_lost,
            invalidations=lock.invalidations,
            records_dropped=lock.records_dropped,
            records_forgotten=0 if ledger is None else ledger.records_forgotten,
            subscriptions=len(self._streams),
        )

    async def pause(self, *, timeout_seconds: float | None = None) -> None:
        """Wait for running operations, release the lease, and close every file: before this process is suspended.

        This object keeps its cache and its subscriptions. It opens the store again at ``resume()``, or when an
        operation is called after this has returned. Operations that were called before, and have not begun, wait until
        then. Subscribers miss nothing: they then get all that others have committed meanwhile.

        Operations that have not ended after ``timeout_seconds`` are abandoned: the store is paused, and
        ``OperationsAbandoned`` names them. ``run`` and ``query`` retry them once the store is resumed. A commit that is
        under way is waited for.
        """
        if timeout_seconds is not None:
            seconds_of(timeout_seconds, "a timeout")
        self._must_be_open()
        self._must_not_be_inside("a store can't be paused")
        async with self._changing_state:
            self._must_be_open()
            if self._paused:
                return
            self._lock.pause_admitting()  # from here on nothing begins
            try:
                abandoned = await self._wait_until_idle(timeout_seconds)
            except BaseException:
                self._lock.resume_admitting()
                raise
            try:
                await run_to_completion(self._enter_pause())
            finally:
                self._pauses += 1
        if abandoned:
            raise OperationsAbandoned("paused", abandoned)

    async def resume(self) -> None:
        """Open the store again after ``pause()``, as the next operation would.

        Raises ``StoreReplaced``, ``AnotherStore``, ``StoreRolledBack`` or ``StoreMissing`` if the file is no longer the
        one that this object had open, or is an older copy of it. Then the store stays paused.
        """
        self._must_be_open()
        self._must_not_be_inside("a store can't be resumed")
        await self._resume_if_paused(None)

    async def close(self, *, timeout_seconds: float | None = None) -> None:
        """Admit no further operation, wait for running ones, release the lease, and close the file.

        Operations that have not ended after ``timeout_seconds`` are abandoned: the store is closed, and
        ``OperationsAbandoned`` names them. A commit that is under way is waited for.
        """
        self._owner_process.must_be_current()
        self._must_not_be_inside("a store can't be closed")
        if timeout_seconds is not None:
            seconds_of(timeout_seconds, "a timeout")
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
            self._not_paused.set()
        try:
            async with asyncio.timeout(timeout_seconds):
                await asyncio.shield(self._closing)
        except TimeoutError:
            abandoned = self._abandon(StoreClosed("the store was closed while this operation ran"))
            await asyncio.shield(self._closing)
            if abandoned:
                raise OperationsAbandoned("closed", abandoned) from None

    # Inner workings

    def _run_tasks(self) -> None:
        """Start to renew, release and listen at intervals."""
        self._has_tasks = True
        self._lock.start()
        self._start(self._keep_listening())

    async def _publish_foreign_commits(self) -> None:
        """Publish what others committed. The holder of the lease knows it already: no other one can commit (P9.4)."""
        if not self._lock.stands(self._lock.guard.epoch):
            self._streams.publish(await self._services.records.changes(self._streams.published, None))

    # P18.10
    async def _changes_since(self, since: Version) -> ChangeLog[RecordName]:
        """Read the log for a subscription. The guard, if there is one, ends too if the file is an older copy."""
        return await self._lock.fenced(self._lock.guard.epoch, self._services.records.changes(since, None))

    async def _reseal(self, fresh: Sealer) -> None:
        if not await self._services.backend.reseal(self._sealer.header, fresh.header):
            raise SecretChanged(
                "the store's secret was changed since it was opened here: open it again with the current one"
            )
        self._sealer = fresh

    async def _attempt(
        self,
        operation_type: type[AnyOperation],
        facade_type: Callable[[AnyOperation], Facade],
        operation: Callable[[Facade, *Arguments], Awaitable[Result]],
        arguments: tuple[*Arguments],
        attempts: int,
    ) -> Result:
        must_be_callable(operation, "an operation")
        pauses = self._pauses
        for attempt in range(1, whole_of(attempts, "the number of attempts") + 1):
            try:
                async with _Block(self, operation_type, facade_type, operation, pauses) as facade:
                    answer = operation(facade, *arguments)
                    must_be_awaitable(answer)
                    return await answer
            except OperationInterrupted as interruption:
                if attempt == attempts > 1:
                    raise type(interruption)(
                        f"{interruption}, in the last of {attempts} attempts: look for an operation that waits, or for "
                        "what blocks the event loop, or try again"
                    ) from interruption
                if attempt == attempts:
                    raise
                self._services.counts.reruns += 1
                if self._services.trace is not None:
                    self._services.trace.note("rerun", attempt=attempt + 1, why=type(interruption).__name__)
                logger.info("operation runs again label=%s attempt=%d: %s", self._lock.label, attempt + 1, interruption)
        raise InvalidArgument("an operation needs at least one attempt")

    def _must_be_open(self) -> None:
        self._owner_process.must_be_current()
        if self._closing is not None:
            raise StoreClosed("the store was closed")

    def _must_not_be_inside(self, what: str) -> None:
        scope = _SCOPE.get()
        while scope is not None:
            if scope.store is self:
                raise NestedOperation(
                    f"{what} from inside an operation of this store, or from a task made there. Pass the transaction "
                    "or view on to what needs it, or call this after the operation has ended"
                )
            scope = scope.outer

    def _may_begin(self) -> None:
        self._must_be_open()
        self._must_not_be_inside("an operation can't begin")

    async def _begin(self, operation_type: type[AnyOperation], code: object, pauses: int | None) -> AnyOperation:
        await self._resume_if_paused(self._pauses if pauses is None else pauses)
        operation = await operation_type.begin(self._services, code or _this_task())
        self._operations.add(operation)
        self._idle.clear()
        return operation

    def _end(self, operation: Operation) -> None:
        operation.end()
        if not self._owner_process.is_current():
            return
        self._forget(operation)
        operation.leave()
        version = operation.committed
        if version is not None and version > KEPT_VERSIONS and version % TRUNCATE_EVERY_VERSIONS == 0:
            self._start(self._truncate(Version(version - KEPT_VERSIONS)))

    def _forget(self, operation: Operation) -> None:
        self._operations.discard(operation)
        self._note_idle()

    @contextmanager
    def _using_the_file(self) -> Iterator[None]:
        """Make pausing and closing wait for a use of the file that is not an operation."""
        self._file_users += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._file_users -= 1
            self._note_idle()

    def _note_idle(self) -> None:
        if not self._operations and not self._file_users:
            self._idle.set()

    async def _wait_until_idle(self, timeout_seconds: float | None) -> tuple[str, ...]:
        """Wait until no operation runs; return the names of those that are abandoned."""
        abandoned: tuple[str, ...] = ()
        await asyncio.sleep(0)  # By then every operation that was admitted is counted.
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()
        except TimeoutError:
            abandoned = self._abandon(LeaseLost("the store was paused while this operation ran"))
        await self._idle.wait()
        return abandoned

    async def _enter_pause(self) -> None:
        """Release the lease, end all tasks, and close all files (P19.3)."""
        try:
            await self._end_tasks()
            try:
                await self._lock.stop()
            finally:
                await self._services.backend.close()
        finally:
            self._paused = True
            self._not_paused.clear()
        if self._services.trace is not None:
            self._services.trace.note("pause", version=self._lock.guarded.cache.version)
        logger.info("store paused label=%s version=%d", self._lock.label, self._lock.guarded.cache.version)

    async def _resume_if_paused(self, pauses: int | None) -> None:
        """Make sure that the store is not paused, nor about to be. Does not switch tasks if it is neither.

        The caller's call came after so many ``pauses``, and does not end any later pause. Otherwise an operation that
        waited during a pause, or that the pause abandoned, would undo it at once (P19.4). ``None`` ends any pause.
        """
        while self._paused or self._changing_state.locked():
            async with self._changing_state:
                self._must_be_open()
                if self._paused and pauses in (None, self._pauses):
                    await run_to_completion(self._leave_pause())
            await self._not_paused.wait()

    async def _leave_pause(self) -> None:
        await self._services.backend.reopen(self.mark())
        self._paused = False
        self._not_paused.set()
        self._lock.resume_admitting()
        if self._has_tasks:
            self._run_tasks()
        if self._services.trace is not None:
            self._services.trace.note("resume")
        if self._streams.followed.is_set():
            await self._listen()
        logger.info("store goes on label=%s", self._lock.label)  # last: the program's log may fail

    def _abandon(self, reason: StoreError) -> tuple[str, ...]:
        """Stop waiting for the operations whose code still runs; return their names."""
        abandoned = [operation for operation in self._operations if not operation.ended]
        for operation in abandoned:
            operation.abandon(own_copy(reason))
            self._forget(operation)
        return tuple(sorted(operation.name for operation in abandoned))

    async def _close(self) -> None:
        self._lock.stop_admitting()
        async with self._changing_state:
            await self._wait_until_idle(None)
            await self._end_tasks()
            try:
                await self._lock.stop()
            finally:
                self._streams.close()
                await self._services.backend.close()
                if self._services.trace is not None:
                    self._services.trace.note("close")

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep_listening(self) -> None:
        while True:
            await self._streams.followed.wait()
            await background.sleep(self._services.clock, LISTEN_EVERY_MS, self._lock.label)
            with background.outlived(self._lock.label):
                await self._listen()

    async def _listen(self) -> None:
        try:
            await self._publish_foreign_commits()
        except (StoreReplaced, StoreRolledBack, UnsupportedSchema) as failure:
            self._streams.close(failure)  # Nothing that other processes do can repair this.
        except StoreError as failure:
            if not self._listening_failed:
                self._listening_failed = True  # so that it is told once, however long it lasts
                logger.warning("listening failed label=%s: %s", self._lock.label, failure)
        else:
            if self._listening_failed:
                self._listening_failed = False
                logger.info("listening goes on label=%s", self._lock.label)

    async def _truncate(self, floor: Version) -> None:
        with background.outlived(self._lock.label):
            try:
                await self._services.backend.truncate(floor)
                if self._services.trace is not None:
                    self._services.trace.note("truncate", floor=floor)
            except StoreError as failure:
                logger.warning("truncating failed label=%s floor=%d: %s", self._lock.label, floor, failure)


@contextmanager
def _naming_the_file(path: Path) -> Iterator[None]:
    """Add the path of the file to exceptions of the store."""
    try:
        yield
    except StoreError as error:
        error.add_note(f"The store was to be opened at {str(path)!r}.")
        raise


def _this_task() -> object:
    """Return the code that this task runs, for an operation that is a block of it."""
    task = asyncio.current_task()
    return task and task.get_coro()


async def _unlock(backend: SqliteBackend, secret: Secret, expected: Expectations) -> Sealer:
    """Return the sealer of a store, after making its key if it has none yet (P17.7). Two may be doing so at once."""
    header = await backend.sealing()
    if header is None:
        expected.must_allow_none()
        sealer = await asyncio.to_thread(Sealer.create, secret, backend.identity)
        header = await backend.sealing(sealer.header)
        if header == sealer.header:
            return sealer
    assert header is not None
    expected.must_allow_one()
    return await asyncio.to_thread(Sealer.unlock, secret, backend.identity, header)
