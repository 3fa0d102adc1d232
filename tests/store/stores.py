"""Test doubles for the store: a manual clock, repeatable random numbers, backends with gates, and cancellation."""

from __future__ import annotations

import asyncio
import contextvars
import random
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Generic, TypeVar

import pytest

from unwedged.protocol.cache import ChangeLog
from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds, Version
from unwedged.protocol.lease import Lease
from unwedged.store.backend import Committed, Listed, Loaded, Row, RowName
from unwedged.store.crypto_store import CryptoStore
from unwedged.store.expectations import StoreMark
from unwedged.store.guarded_cache import RecordName
from unwedged.store.lock import LeaseLock, LeaseTimes
from unwedged.store.records import BYTES, TEXT, Codec, Kind, RecordKind
from unwedged.store.sealer import Sealer
from unwedged.store.sqlite import SqliteBackend
from unwedged.store.streams import Streams
from unwedged.store.transactions import Transaction
from unwedged.trace import Line, Tracer

Result = TypeVar("Result")

PATIENCE = 10
"""Seconds after which a hanging test fails. No test measures time by this."""


class Counter:
    """A mutable object like a ratchet: an old copy of it gives wrong values."""

    def __init__(self, count: int) -> None:
        self.count = count


COUNTER = RecordKind("counter", TEXT, Codec[Counter](lambda c: b"%d" % c.count, lambda encoded: Counter(int(encoded))))
DEVICE = RecordKind("device", TEXT, BYTES)
PLAIN = RecordKind("plain", TEXT, BYTES, cached=False)
KINDS: tuple[Kind, ...] = (COUNTER, DEVICE, PLAIN)

KEY = bytes(range(32))
"""The secret of every store in tests that do not concern the secret. Unlike a passphrase, it needs no slow scrypt."""


class StillClock:
    """A clock that moves only when a test advances it."""

    def __init__(self) -> None:
        self.time = 1_000_000
        self.slept: list[int] = []
        """The durations of all calls of ``sleep``, in order."""
        self._sleepers: dict[asyncio.Future[None], int] = {}
        self._somebody = asyncio.Condition()

    def now(self) -> Milliseconds:
        return Milliseconds(self.time)

    async def sleep(self, duration: Milliseconds) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers[future] = self.time + duration
        self.slept.append(duration)
        try:
            async with self._somebody:
                self._somebody.notify_all()
            await future
        finally:
            del self._sleepers[future]

    async def asleep(self, times: int) -> None:
        """Wait until ``sleep`` was called this many times in total."""
        async with asyncio.timeout(PATIENCE), self._somebody:
            await self._somebody.wait_for(lambda: len(self.slept) >= times)

    def advance(self, duration: int) -> None:
        self.time += duration
        for future, due in self._sleepers.items():
            if due <= self.time and not future.done():
                future.set_result(None)


class SeededRandomness:
    """Random numbers that are the same each time."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def instance(self) -> InstanceId:
        return InstanceId(self._random.randrange(1, 2**63))

    def between(self, low: Milliseconds, high: Milliseconds) -> Milliseconds:
        return Milliseconds(self._random.randint(low, high))


class Gate:
    """A gate at which a call waits until a test opens it."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def pass_through(self) -> None:
        self.reached.set()
        await self.opened.wait()


class GatedBackend:
    """A backend whose calls, selected by name, can be blocked before they run or return, or made to fail."""

    def __init__(self, backend: SqliteBackend) -> None:
        self.identity = backend.identity
        self.inner = backend
        self.calls: list[str] = []
        self.before: dict[str, Gate] = {}
        self.after: dict[str, Gate] = {}
        self.gates: list[Gate] = []
        self.failures: dict[str, BaseException] = {}
        """Raised in place of the call, once."""
        self.late_failures: dict[str, BaseException] = {}
        """Raised after the call took effect, once."""

    def hold_before(self, name: str) -> Gate:
        return self._gate(self.before, name)

    def hold_after(self, name: str) -> Gate:
        return self._gate(self.after, name)

    def _gate(self, gates: dict[str, Gate], name: str) -> Gate:
        gate = gates.setdefault(name, Gate())
        self.gates.append(gate)
        return gate

    def open_gates(self) -> None:
        """Open all gates: a commit that still waits after a failed test would keep the event loop from closing."""
        for gate in self.gates:
            gate.opened.set()

    async def _call(self, name: str, call: Callable[[], Awaitable[Result]]) -> Result:
        self.calls.append(name)
        if gate := self.before.pop(name, None):
            await gate.pass_through()
        if name in self.failures:
            raise self.failures.pop(name)
        result = await call()
        if gate := self.after.pop(name, None):
            await gate.pass_through()
        if name in self.late_failures:
            raise self.late_failures.pop(name)
        return result

    async def acquire(self, instance: InstanceId, label: str, now: Milliseconds, duration: Milliseconds) -> Lease:
        return await self._call("acquire", lambda: self.inner.acquire(instance, label, now, duration))

    async def look(self) -> Lease:
        return await self._call("look", self.inner.look)

    async def renew(self, epoch: Epoch, now: Milliseconds, duration: Milliseconds) -> Lease:
        return await self._call("renew", lambda: self.inner.renew(epoch, now, duration))

    async def release(self, epoch: Epoch) -> None:
        await self._call("release", lambda: self.inner.release(epoch))

    async def check(self, epoch: Epoch) -> Lease:
        return await self._call("check", lambda: self.inner.check(epoch))

    async def changes(self, since: Version, epoch: Epoch | None) -> ChangeLog[RowName]:
        return await self._call("changes", lambda: self.inner.changes(since, epoch))

    async def load(self, epoch: Epoch, name: RowName, since: Version) -> Loaded:
        return await self._call("load", lambda: self.inner.load(epoch, name, since))

    async def keys(self, epoch: Epoch, kind: str, since: Version) -> Listed:
        return await self._call("keys", lambda: self.inner.keys(epoch, kind, since))

    async def commit(
        self, epoch: Epoch, rows: Sequence[Row], now: Milliseconds, duration: Milliseconds, *, may_release: bool
    ) -> Committed:
        return await self._call(
            "commit", lambda: self.inner.commit(epoch, rows, now, duration, may_release=may_release)
        )

    async def truncate(self, floor: Version) -> None:
        await self._call("truncate", lambda: self.inner.truncate(floor))

    async def reseal(self, header: bytes, fresh: bytes) -> bool:
        return await self._call("reseal", lambda: self.inner.reseal(header, fresh))

    async def reopen(self, known: StoreMark) -> None:
        await self._call("reopen", lambda: self.inner.reopen(known))

    async def close(self) -> None:
        await self._call("close", self.inner.close)


class Instance(CryptoStore):
    """A store object whose internal parts a test can use. Its clock is manual, and it starts no background task."""

    gated: GatedBackend
    clock: StillClock
    sealer: Sealer
    path: Path

    @property
    def lock(self) -> LeaseLock:
        return self._lock

    @property
    def streams(self) -> Streams:
        return self._streams

    def start(self) -> None:
        self._run_tasks()

    async def listen_now(self) -> None:
        await self._publish_foreign_commits()


class Recorder:
    """A tracer that keeps the lines in memory."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def write(self, line: Line) -> None:
        self.lines.append(line)

    @property
    def steps(self) -> list[str]:
        return [str(line["step"]) for line in self.lines]

    def last(self, step: str) -> Line:
        return [line for line in self.lines if line["step"] == step][-1]


class Workbench:
    """A store file, and process instances that share it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = StillClock()
        self.sealer: Sealer | None = None
        self._randomness = SeededRandomness()
        self._opened: list[Instance] = []

    async def instance(
        self,
        label: str,
        *,
        times: LeaseTimes | None = None,
        cache_limit_bytes: int | None = None,
        tracer: Tracer | None = None,
        version: int = 0,
    ) -> Instance:
        backend = await SqliteBackend.open(self.path)
        if self.sealer is None:
            self.sealer = Sealer.of_key(backend.identity, bytes(32))
        gated = GatedBackend(backend)
        store = Instance._assemble(
            gated,
            self.sealer,
            KINDS,
            label=label,
            instance=self._randomness.instance(),
            version=Version(version),
            times=times or LeaseTimes(),
            clock=self.clock,
            randomness=self._randomness,
            cache_limit_bytes=cache_limit_bytes,
            tracer=tracer,
        )
        store.gated, store.clock, store.sealer, store.path = gated, self.clock, self.sealer, self.path
        self._opened.append(store)
        return store

    def expire_lease(self) -> None:
        """Advance the clock past the end of any lease, without waking a process that would renew it."""
        self.clock.time += 100_000

    async def close(self) -> None:
        async with AsyncExitStack() as closing:
            for store in self._opened:
                store.gated.open_gates()
                closing.push_async_callback(self._close, store)

    async def _close(self, store: Instance) -> None:
        try:
            async with asyncio.timeout(PATIENCE):  # in case a failed test left an operation running
                await store.close()
        finally:
            await store.gated.inner.close()

    def stored(self) -> dict[RecordName, bytes]:
        """Read all records from the file, without a store object."""
        assert self.sealer is not None
        records = {}
        with closing(sqlite3.connect(self.path)) as connection:
            for kind, hidden, sealed in connection.execute("SELECT kind, key, value FROM record"):
                key = self.sealer.reveal(kind, hidden)
                records[RecordName(kind, key)] = self.sealer.open(kind, key, sealed)
        return records

    def edit(self, statement: str) -> None:
        """Change the file without following the protocol."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute(statement)

    def version(self) -> int:
        with closing(sqlite3.connect(self.path)) as connection:
            [(version,)] = connection.execute("SELECT version FROM state")
            assert isinstance(version, int)
            return version

    def assert_cache_is_snapshot(self, store: Instance) -> None:
        """Check that the guard's cache agrees with the stored records: values, known absences, and live objects."""
        cache, stored = store.lock.guarded.cache, self.stored()
        assert store.lock.guard.epoch, "there is no guard, and so no cache that must be right"
        assert cache.version == self.version()
        for name, value in cache.records.items():
            assert stored.get(name) == value
        for name, live in store.lock.guarded.live.items():
            encoded = b"%d" % live.count if isinstance(live, Counter) else live
            assert stored[name] == encoded


@asynccontextmanager
async def workbench(path: Path) -> AsyncIterator[Workbench]:
    bench = Workbench(path)
    try:
        yield bench
    finally:
        await bench.close()


@asynccontextmanager
async def failing(error: type[BaseException], context: AbstractAsyncContextManager[Result]) -> AsyncIterator[Result]:
    """Enter ``context`` and expect ``error`` from its block or from its exit."""
    with pytest.raises(error):
        async with context as entered:
            yield entered


async def all_that_can_run() -> None:
    """Let every task run until it waits for a thread, a gate or the clock. No task needs this many switches."""
    for _ in range(20):
        await asyncio.sleep(0)


async def apart(work: Coroutine[None, None, Result]) -> Result:
    """Do ``work`` in a task of this process that was not created inside an operation."""
    return await asyncio.create_task(work, context=contextvars.Context())


async def take_over(store: Instance) -> None:
    """Let ``store`` acquire a lease that is free or has expired."""
    assert await store.lock.acquire_now()


async def count_up(transaction: Transaction, key: str = "n") -> int:
    """Increment the counter. This operation shows every lost update."""
    counter = await transaction.get(COUNTER, key) or Counter(0)
    counter.count += 1
    transaction.put(COUNTER, key, counter)
    return counter.count


class CancelledAt(Generic[Result]):
    """Await a coroutine, and cancel the task that does so when it is suspended for the ``at``-th time.

    With ``late``, it is cancelled only after the awaited event has happened, just before it resumes.
    """

    def __init__(self, work: Coroutine[object, None, Result], at: int, *, late: bool) -> None:
        self._work = work
        self._at = at
        self._late = late
        self.struck = False

    def __await__(self) -> Generator[object, None, Result]:
        inner = self._work.__await__()
        suspensions = 0
        failure: BaseException | None = None
        while True:
            try:
                waited = inner.send(None) if failure is None else inner.throw(failure)
            except StopIteration as stop:
                result: Result = stop.value
                return result
            suspensions += 1
            strikes = suspensions == self._at
            self.struck = self.struck or strikes
            if strikes and not self._late:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            failure = asyncio.CancelledError() if strikes and self._late else None
            try:
                yield waited
            except BaseException as error:  # noqa: BLE001 (passed on to the coroutine)
                failure = error
