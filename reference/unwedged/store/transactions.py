"""Operations: transactions and views, each on one snapshot under one epoch (P4 to P6).

Callers get a ``Transaction`` or a ``View``. Only the store may end an operation (``end``, ``validate``, ``finish``): if
a caller could commit it halfway, the operation would count twice. So the store makes and keeps an ``Operation`` for
each ``Transaction`` and each ``View``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Self, TypeAlias, TypeVar, cast

from unwedged.protocol import cache as rules
from unwedged.protocol.cache import Cache, Change, ChangeLog
from unwedged.protocol.identifiers import Milliseconds, Version
from unwedged.store.backend import Backend, Committed
from unwedged.store.clock import Clock
from unwedged.store.completion import run_to_completion
from unwedged.store.errors import (
    LeaseLost,
    OperationEnded,
    OperationInterrupted,
    SnapshotMoved,
    StoreBusy,
    StoreClosed,
    StoreError,
    UnreadableRecord,
)
from unwedged.store.guarded_cache import GuardedCache, RecordName
from unwedged.store.lock import GUARD_ENDS, LeaseLock, why_lost
from unwedged.store.offloading import FEW_RECORDS, each_yielding
from unwedged.store.owner_process import OwnerProcess
from unwedged.store.records import Kind, RecordKind, must_be_declared
from unwedged.store.sealed_records import Batch, SealedRecords
from unwedged.store.streams import Streams
from unwedged.trace import OperationTrace, Remarks, Trace

Key = TypeVar("Key")
Value = TypeVar("Value")
Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Counts:
    """Counters for ``Statistics``."""

    hits: int = 0
    misses: int = 0
    commits: int = 0
    reruns: int = 0


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a store that its operations use."""

    backend: Backend
    records: SealedRecords
    lock: LeaseLock
    streams: Streams
    clock: Clock
    kinds: Mapping[str, Kind]
    counts: Counts
    owner_process: OwnerProcess
    trace: Trace | None = None


class Operation:
    """The part that transactions and views share: the snapshot that they began on, and reading from it.

    The snapshot is an immutable value: it does not show what other operations do to the cache meanwhile (P3.2).
    """

    mode = "view"
    committed: Version | None = None

    def __init__(self, services: Services, guarded: GuardedCache, code: object) -> None:
        self.epoch = guarded.epoch
        self.snapshot = guarded.cache
        self.began_ms = Milliseconds(services.clock.now())
        self.ended = False
        """Whether its code has ended; then only its commit, or its validation, is under way."""
        self._code = code
        self._services = services
        self._guarded = guarded
        guarded.admission.operations.add(self)
        self.trace = self._traced(services.trace)
        self._doom: StoreError | None = None
        """The error that stopped it. Code that catches it gets it again at each later access, and at the end
        (P4.14)."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.state}>"

    # T3.1
    def _traced(self, trace: Trace | None) -> OperationTrace | None:
        """Return what writes its lines. It was admitted before its task goes on, and so before the guard was lost."""
        if trace is None:
            return None
        ended_after = self._guarded.admission.guard_ended_after
        began_after = trace.lines if ended_after is None else ended_after
        return OperationTrace(trace, self.mode, self.epoch, self.snapshot.version, began_after)

    @property
    def state(self) -> str:
        """Which snapshot it began on, and whether it has ended, for people."""
        return f"epoch={self.epoch} version={self.snapshot.version}{' ended' if self.ended else ''}"

    @property
    def name(self) -> str:
        """The qualified name of its code, for people."""
        code = self._code
        while isinstance(code, partial):
            code = code.func
        named = code if hasattr(code, "__qualname__") else type(code)
        return ".".join(filter(None, (getattr(named, "__module__", None), getattr(named, "__qualname__", None))))

    @classmethod
    async def begin(cls, services: Services, code: object) -> Self:
        """Wait until it may begin, and begin."""
        guarded = await services.lock.begin_view()
        try:
            return cls(services, guarded, code)
        except BaseException:  # The application's clock may fail.
            services.lock.end_view(guarded)
            raise

    def end(self) -> None:
        """Refuse any further use."""
        self.ended = True

    def leave(self) -> None:
        """Let the next operation begin."""
        self._guarded.admission.operations.discard(self)
        self._services.lock.end_view(self._guarded)

    async def finish(self) -> None:
        """End it after its caller's code, which raised nothing. If this returns, the operation has taken effect."""
        self.end()
        await self.validate()

    def abandon(self, reason: StoreError) -> None:
        """Stop it, because it was abandoned."""
        self._doom = reason

    async def validate(self) -> None:
        """Make sure that the epoch still stands: otherwise the answer does not count (P6.1)."""
        self._must_not_be_doomed()
        lease = await self._access(self._services.backend.check(self.epoch))
        if self.trace is not None:
            waiter = self._services.lock.waiter_fields(self.epoch, lease.wanted)
            self.trace.took_effect("validate", {"row_epoch": lease.epoch, **waiter})
        self._services.lock.note_waiter(self.epoch, lease.wanted)

    # P6.2
    async def confirm(self, failure: Exception) -> None:
        """Make sure that a failure of the operation's own code is an answer: what it was based on may be stale.

        An interruption is no answer, and needs no confirmation (P6.6). Neither does an error that ended the operation.
        """
        self.end()
        if isinstance(failure, OperationInterrupted) or failure is self._doom:
            return
        if self.trace is not None:
            self.trace.failed(failure)
        try:
            await self.validate()
        except StoreError as doubt:
            raise doubt from failure

    async def _access(self, access: Awaitable[Answer]) -> Answer:
        """Await an access to the database. If the fence stops it, the operation can't continue."""
        try:
            return await self._services.lock.fenced(self.epoch, access)
        except GUARD_ENDS as ends:
            self._doom = ends
            if self.trace is not None:
                self.trace.note("lose", why=why_lost(ends))
            raise
        except StoreClosed:
            self._must_not_be_doomed()  # The file was closed since this operation was abandoned (P8.17, P19.2).
            raise

    def _moved(self, what: str, version: Version) -> SnapshotMoved:
        """Note that the snapshot can no longer be read: the operation can't continue."""
        if self.trace is not None:
            self.trace.note("outdated", version=version)
        self._doom = moved = SnapshotMoved(f"{what} changed after version {self.snapshot.version}")
        return moved

    def _must_go_on(self) -> None:
        if self.ended:
            raise OperationEnded("this transaction or view has ended; begin another")
        self._must_not_be_doomed()

    def _must_not_be_doomed(self) -> None:
        self._services.owner_process.must_be_current()
        if self._doom is not None:
            raise self._doom.with_traceback(None)  # Otherwise it would grow at each access.

    def _name(self, kind: RecordKind[Key, Value], key: Key) -> RecordName:
        must_be_declared(kind, self._services.kinds)
        return RecordName(kind.name, kind.encode_key(key))

    async def _read(self, name: RecordName) -> bytes | None:
        """Return a record of the snapshot, from memory if possible."""
        if not self._is_at_hand(name):
            await self._load(name)
        return self.snapshot.records[name]

    def _is_at_hand(self, name: RecordName) -> bool:
        """Return whether a record is in the snapshot; if it is, it counts as used."""
        if name not in self.snapshot.records:
            return False
        self._services.counts.hits += 1
        self._guarded.use(name)
        return True

    # P4.8
    async def _load(self, name: RecordName) -> None:
        """Bring a record from the database into the snapshot, and into the cache if that is still this guard's."""
        self._services.counts.misses += 1
        loaded = await self._access(self._services.records.load(self.epoch, name, self.snapshot.version))
        if loaded.changed:
            raise self._moved(f"a {name.kind!r} record", loaded.version)
        if self.trace is not None:
            at = {"version": loaded.version, "floor": loaded.floor}
            self.trace.note("load", record=self.trace.record(*name), found=loaded.value is not None, **at)
        self.snapshot = rules.fill(self.snapshot, self.snapshot.version, name, loaded.value)
        if self._services.kinds[name.kind].cached and self._services.lock.stands(self.epoch):
            self._guarded.fill(loaded.version, name, loaded.value)

    # P4.9
    async def _list(self, kind: str) -> set[bytes]:
        """Return the keys of one kind in the snapshot. They always come from the database: a cache is partial."""
        listed = await self._access(self._services.records.keys(self.epoch, kind, self.snapshot.version))
        if listed.changed:
            raise self._moved(f"a {kind!r} record", listed.version)
        if self.trace is not None:
            self.trace.note("list", kind=kind, found=len(listed.keys))
        return set(listed.keys)


class ViewOperation(Operation):
    """The operation behind a view."""

    async def get(self, kind: RecordKind[Key, Value], key: Key) -> Value | None:
        """Decode a record for the caller alone (P6.8)."""
        self._must_go_on()
        name = self._name(kind, key)
        try:
            encoded = await self._read(name)
            return None if encoded is None else kind.decode_value(encoded)
        except UnreadableRecord as unreadable:
            unreadable.record = name
            raise

    async def keys(self, kind: RecordKind[Key, Value]) -> tuple[Key, ...]:
        """List the keys of one kind."""
        self._must_go_on()
        must_be_declared(kind, self._services.kinds)
        return tuple(kind.decode_key(key) for key in sorted(await self._list(kind.name)))


_Encode: TypeAlias = Callable[[], bytes]
"""Encodes an object to write. That happens only at the commit, since it may be changed until then (P5.6)."""


def _encoded(write: _Encode | None) -> bytes | None:
    return None if write is None else write()


def _is_large(writes: Mapping[RecordName, bytes | None]) -> bool:
    return len(writes) > FEW_RECORDS


class _Outcome(NamedTuple):
    """The effects of a commit inside this process: on the cache, and for subscribers."""

    version: Version
    cached: Mapping[RecordName, bytes | None]
    """The values that it wrote of cached kinds."""
    live: Mapping[RecordName, object]
    changes: tuple[Change[RecordName], ...]
    made: Cache[RecordName, bytes] | None = None
    """The new cache, if it was computed beforehand."""


class TransactionOperation(Operation):
    """The operation behind a transaction: it takes its live objects out of the cache, and commits."""

    mode = "transaction"

    @classmethod
    async def begin(cls, services: Services, code: object) -> Self:
        """Wait until no other transaction runs, and begin."""
        guarded = await services.lock.begin_transaction()
        try:
            return cls(services, guarded, code)
        except BaseException:
            services.lock.end_transaction(guarded)
            raise

    def leave(self) -> None:
        """Let the next transaction begin."""
        self._guarded.admission.operations.discard(self)
        self._services.lock.end_transaction(self._guarded)

    def __init__(self, services: Services, guarded: GuardedCache, code: object) -> None:
        super().__init__(services, guarded, code)
        self._objects: dict[RecordName, object | None] = {}
        self._writes: dict[RecordName, _Encode | None] = {}
        """How each object that was put becomes bytes; ``None`` for what was deleted."""

    async def get(self, kind: RecordKind[Key, Value], key: Key) -> Value | None:
        """Hand out the live object of a record: the same each time (P5.4)."""
        self._must_go_on()
        name = self._name(kind, key)
        if name not in self._objects:
            try:
                if not self._is_at_hand(name):
                    await self._load(name)
                    self._must_go_on()  # In a task of its own this may have waited until after the transaction's end.
                if name not in self._objects:
                    encoded = self.snapshot.records[name]
                    self._objects[name] = None if encoded is None else self._object(kind, name, encoded)
            except UnreadableRecord as unreadable:
                unreadable.record = name
                raise
        # The name includes the kind, so all objects that are kept under it have that kind's type.
        return cast("Value | None", self._objects[name])

    def put(self, kind: RecordKind[Key, Value], key: Key, value: Value) -> None:
        """Remember to write ``value`` as it will be at the commit."""
        self._must_go_on()
        name = self._name(kind, key)
        self._objects[name] = value
        self._writes[name] = partial(kind.encode_value, value)

    def delete(self, kind: RecordKind[Key, Value], key: Key) -> None:
        """Remember to delete a record."""
        self._must_go_on()
        name = self._name(kind, key)
        self._objects[name] = None
        self._writes[name] = None

    async def keys(self, kind: RecordKind[Key, Value]) -> tuple[Key, ...]:
        """List the keys of one kind, with those put here and without those deleted here (P5.8)."""
        self._must_go_on()
        must_be_declared(kind, self._services.kinds)
        keys = await self._list(kind.name)
        for name, write in self._writes.items():
            if name.kind == kind.name:
                (keys.discard if write is None else keys.add)(name.key)
        return tuple(kind.decode_key(key) for key in sorted(keys))

    async def finish(self) -> None:
        """Write everything that was put or deleted; if there is nothing to write, validate what was read (P5.12)."""
        self.end()
        self._must_not_be_doomed()
        if not self._writes:
            await self.validate()
            return
        batch = await self._batch()
        expected = await self._expected(batch.writes)
        await run_to_completion(self._commit(batch, expected))

    async def _batch(self) -> Batch:
        """Encode and seal everything. Nothing is locked meanwhile, and the lease is renewed (P5.13, P5.14)."""
        try:
            encoded = await each_yielding(_encoded, tuple(self._writes.values()), self._must_stand)
        except LeaseLost:
            raise
        except Exception as failure:
            await self.confirm(failure)
            raise
        return await self._services.records.seal(dict(zip(self._writes, encoded, strict=True)), self._must_stand)

    def _must_stand(self) -> None:
        """Stop a large commit whose lease is known to be lost."""
        if not self._services.lock.stands(self.epoch):
            raise LeaseLost("the lease was lost while its commit was made ready")

    async def _expected(self, writes: Mapping[RecordName, bytes | None]) -> _Outcome | None:
        """Compute the effects of a large commit beforehand.

        After the commit they are then applied in one step, in which nothing else runs.

        It forgets what views bring into the cache meanwhile, as any record may be forgotten at any time. If the cache
        has a limit, it will keep nothing that is written, and forgets slice by slice what it has of that now.
        """
        if not _is_large(writes):
            return None
        guarded = self._guarded
        limited = guarded.ledger is not None
        if limited:
            self._must_stand()
            await each_yielding(lambda name: guarded.forget((name,)), tuple(writes), self._must_stand)
        cache = guarded.cache

        def outcome() -> _Outcome:
            outcome = self._outcome(writes, Version(cache.version + 1))
            return outcome if limited else outcome._replace(made=rules.install(cache, outcome.version, outcome.cached))

        return await asyncio.to_thread(outcome)

    async def _commit(self, batch: Batch, expected: _Outcome | None = None) -> None:
        admission = self._guarded.admission
        if self.trace is not None:
            self.trace.will_write(batch.writes, self.snapshot.records)
        admission.begin_commit()
        try:
            committed = await self._persist(batch)
            try:
                self._finish(committed, batch.writes, expected)
            except BaseException:
                # A signal, or what the application has put into its log, its tracer or its clock. The commit counts,
                # but the cache may lack it: the next guard's sync finds out.
                self._services.lock.lost(self.epoch, "unknown_outcome")
                raise
        finally:
            admission.end_commit()

    async def _persist(self, batch: Batch) -> Committed:
        services, lock = self._services, self._services.lock
        try:
            may_release = lock.may_release(self._guarded)
            now, duration = Milliseconds(services.clock.now()), Milliseconds(lock.times.duration_ms)
            return await services.records.commit(self.epoch, batch, now, duration, may_release=may_release)
        except StoreBusy:
            raise  # nothing was written, and the guard is as good as before (P5.23)
        except BaseException as failure:
            # The fence stopped it, or it is not known what was written: the next guard's sync finds out.
            try:
                if self.trace is not None:
                    self.trace.note("commit_fails", why=why_lost(failure), **self.trace.writes)
            finally:  # A signal may arrive here, and the trace may fail.
                lock.lost(self.epoch, why_lost(failure))
            raise

    def _outcome(self, writes: Mapping[RecordName, bytes | None], version: Version) -> _Outcome:
        cached = {name: value for name, value in writes.items() if self._services.kinds[name.kind].cached}
        return _Outcome(version, cached, self._live(cached), tuple([Change(version, name) for name in writes]))

    def _finish(
        self, committed: Committed, writes: Mapping[RecordName, bytes | None], expected: _Outcome | None
    ) -> None:
        """Let the cache take the values at the version of this commit, then publish it; all in one step (P5.20).

        If the guard died meanwhile, the commit still counts, but the cache is no longer this operation's (P3.5).
        """
        services, version = self._services, committed.version
        self.committed = version
        services.counts.commits += 1
        if self.trace is not None:
            waiter = services.lock.waiter_fields(self.epoch, committed.wanted)
            lease = {"version": version, "released": committed.released, "left_ms": committed.left_ms}
            self.trace.took_effect("commit", {**lease, **waiter, **self.trace.writes})
        logger.debug(
            "committed label=%s epoch=%d version=%d records=%d", services.lock.label, self.epoch, version, len(writes)
        )
        if expected is None or expected.version != version:
            expected = self._outcome(writes, version)
        if services.lock.stands(self.epoch):
            if self._guarded.ledger is not None and _is_large(writes):
                self._guarded.leave_out(version, writes)
            else:
                self._guarded.install(version, expected.cached, expected.live, expected.made)
        services.streams.publish(ChangeLog(version, Version(version - 1), expected.changes))
        if committed.released:
            services.lock.released(self.epoch)
        else:
            services.lock.note_waiter(self.epoch, committed.wanted)

    # P5.9
    def _live(self, cached: Mapping[RecordName, bytes | None]) -> dict[RecordName, object]:
        """Return the objects that were put, but none that was put twice: it can't be the live object of two records."""
        puts = {name: self._objects[name] for name in cached if self._writes[name] is not None}
        if len({id(value) for value in puts.values()}) == len(puts):
            return puts
        times = Counter(id(value) for value in puts.values())
        return {name: value for name, value in puts.items() if times[id(value)] == 1}

    def _object(self, kind: RecordKind[Key, Value], name: RecordName, encoded: bytes) -> object:
        live = self._guarded.take(name)
        return kind.decode_value(encoded) if live is None else live


class View:
    """Reads of one snapshot.

    Its answers are certain only after its block was left without an exception: until then the lease may turn out to be
    lost. Each ``get`` returns a new object, and changing it changes nothing else.
    """

    __slots__ = ("_operation",)

    def __init__(self, operation: ViewOperation) -> None:
        self._operation = operation

    def __repr__(self) -> str:
        return f"<View {self._operation.state}>"

    @property
    def version(self) -> Version:
        """The version of the store that it reads."""
        return self._operation.snapshot.version

    async def get(self, kind: RecordKind[Key, Value], key: Key) -> Value | None:
        """Return the record, or ``None`` if there is none."""
        return await self._operation.get(kind, key)

    async def keys(self, kind: RecordKind[Key, Value]) -> tuple[Key, ...]:
        """Return the keys of all records of one kind."""
        return await self._operation.keys(kind)


class Transaction:
    """Reads and writes of one snapshot, committed together when its block is left without an exception.

    ``get`` hands out the one live object of a record: no other operation has it, and each ``get`` returns the same one.
    After changing it, ``put`` it; an object that is not put counts as unchanged, and is dropped. Don't use any of them
    after the block: they belong to the cache, or were dropped.
    """

    __slots__ = ("_operation",)

    def __init__(self, operation: TransactionOperation) -> None:
        self._operation = operation

    def __repr__(self) -> str:
        return f"<Transaction {self._operation.state}>"

    @property
    def version(self) -> Version:
        """The version of the store that it reads. A later transaction that writes has a larger version."""
        return self._operation.snapshot.version

    @property
    def trace(self) -> Remarks | None:
        """Accepts the trace lines of the layer above about this transaction; ``None`` without a tracer (T4.1)."""
        trace = self._operation.trace
        return None if trace is None else trace.remarks

    @property
    def committed(self) -> Version | None:
        """The version that its commit made; ``None`` before the commit, and if there was nothing to write."""
        return self._operation.committed

    def get(self, kind: RecordKind[Key, Value], key: Key) -> Coroutine[object, object, Value | None]:
        """Return the record's live object, or ``None`` if there is none."""
        return self._operation.get(kind, key)  # not awaited here, since a coroutine around another one costs as much

    def put(self, kind: RecordKind[Key, Value], key: Key, value: Value) -> None:
        """Write ``value`` as it will be when the block is left. From now on it belongs to the store.

        So a change of the object after ``put`` is written too.
        """
        self._operation.put(kind, key, value)

    def delete(self, kind: RecordKind[Key, Value], key: Key) -> None:
        """Delete the record, if there is one. It counts as a change either way."""
        self._operation.delete(kind, key)

    async def keys(self, kind: RecordKind[Key, Value]) -> tuple[Key, ...]:
        """Return the keys of all records of one kind, with those put here and without those deleted here."""
        return await self._operation.keys(kind)
