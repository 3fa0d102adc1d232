"""Two stores on one file agree with a dictionary, whatever happens between any two of their steps."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.store.stores import COUNTER, Counter, Instance, Workbench
from unwedged.protocol.guard import NO_GUARD, admits
from unwedged.protocol.identifiers import Version
from unwedged.protocol.stream import Lagged
from unwedged.store.errors import LeaseLost, OperationInterrupted, SnapshotMoved
from unwedged.store.guarded_cache import OVERHEAD_BYTES
from unwedged.store.streams import Changed, Inbox, Subscription
from unwedged.store.transactions import Transaction, View

Result = TypeVar("Result")
Records = dict[str, int]

KEYS = ("a", "b", "c")


@dataclass
class Running:
    """An operation that is inside its block, and what it has read and written there."""

    context: AbstractAsyncContextManager[Transaction] | AbstractAsyncContextManager[View]
    operation: Transaction | View
    began_at: int
    seen: Records = field(default_factory=dict)
    written: dict[str, int | None] = field(default_factory=dict)

    def reads(self, key: str) -> int:
        written = self.written.get(key, self.seen.get(key, 0))
        return written or 0


class Process:
    """One process instance: a store, its operations, and the changes that its subscriber received."""

    def __init__(self, store: Instance) -> None:
        self.store = store
        self.transaction: Running | None = None
        self.views: list[Running] = []
        self.told: list[Changed[str] | Lagged] = []


class TwoStores(RuleBasedStateMachine):
    """The model is the list of all versions of the store, each a dictionary."""

    limit_bytes: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.versions: list[Records] = [{}]
        self.changed: list[set[str]] = [set()]
        self.authors: list[Instance | None] = [None]
        """The process that committed each version."""

    def wait(self, work: Coroutine[object, None, Result]) -> Result:
        # The time limit is for tests that hang. It measures nothing.
        return self.loop.run_until_complete(asyncio.wait_for(work, 30))

    @initialize()
    def open(self) -> None:
        self.bench = Workbench(self.folder / "store.db")
        self.processes = [
            Process(self.wait(self.bench.instance(label, cache_limit_bytes=self.limit_bytes)))
            for label in ("phone", "extension")
        ]
        self.readers = [self.wait(self.follow(process)) for process in self.processes]

    async def follow(self, process: Process) -> asyncio.Task[None]:
        inbox = Inbox(COUNTER.name, 1000)
        process.store.streams.add(inbox)
        subscription = Subscription(COUNTER, inbox)

        async def read() -> None:
            async for news in subscription:
                process.told.append(news)

        return asyncio.create_task(read())

    def teardown(self) -> None:
        if hasattr(self, "bench"):
            for process in self.processes:
                self.finish(process, process.transaction)
                for view in list(process.views):
                    self.finish(process, view)
            for process in self.processes:
                self.wait(process.store.lock.release_now())
                self.wait(process.store.listen_now())
            self.wait(self.bench.close())
            self.wait(self.both_readers())
            self.check_streams()
        self.loop.close()
        shutil.rmtree(self.folder)

    async def both_readers(self) -> None:
        await asyncio.gather(*self.readers)

    processes_ = st.integers(0, 1)

    # The lease

    @rule(which=processes_)
    def acquire(self, which: int) -> None:
        store = self.processes[which].store
        if store.lock.guard == NO_GUARD and self.wait(store.lock.acquire_now()):
            self.bench.assert_cache_is_snapshot(store)

    @rule(which=processes_)
    def renew(self, which: int) -> None:
        self.wait(self.processes[which].store.lock.renew_now())

    @rule(which=processes_)
    def release(self, which: int) -> None:
        self.wait(self.processes[which].store.lock.release_now())

    @rule()
    def expire_lease(self) -> None:
        self.bench.expire_lease()

    @rule(jump=st.integers(-200_000, 200_000))
    def jump(self, jump: int) -> None:
        self.bench.clock.time += jump

    # The change log

    @rule(back=st.integers(0, 3))
    def truncate(self, back: int) -> None:
        self.wait(self.processes[0].store.gated.truncate(Version(len(self.versions) - 1 - back)))

    @rule(which=processes_)
    def listen(self, which: int) -> None:
        self.wait(self.processes[which].store.listen_now())

    # Operations

    @rule(which=processes_)
    def begin_transaction(self, which: int) -> None:
        process = self.processes[which]
        if admits(process.store.lock.guard) and self.turn_is_free(process):
            process.transaction = self.wait(self.begin(process.store.transaction()))

    def turn_is_free(self, process: Process) -> bool:
        # A transaction of a dead guard could run beside the next guard's. The test ends it first, for simplicity.
        if process.transaction is None:
            return True
        if process.store.lock.stands(process.transaction.operation._operation.epoch):
            return False
        self.finish(process, process.transaction)
        return True

    @rule(which=processes_)
    def begin_view(self, which: int) -> None:
        process = self.processes[which]
        if admits(process.store.lock.guard) and len(process.views) < 3:
            process.views.append(self.wait(self.begin(process.store.view())))

    async def begin(
        self, context: AbstractAsyncContextManager[Transaction] | AbstractAsyncContextManager[View]
    ) -> Running:
        return Running(context, operation := await context.__aenter__(), operation._operation.snapshot.version)

    @rule(which=processes_, key=st.sampled_from(KEYS))
    def count_up(self, which: int, key: str) -> None:
        process = self.processes[which]
        running = process.transaction
        if running is not None and self.read(process, running, key):
            process_count = running.reads(key) + 1
            self.wait(self.put(running, key, process_count))
            running.written[key] = process_count

    async def put(self, running: Running, key: str, count: int) -> None:
        transaction = running.operation
        assert isinstance(transaction, Transaction)
        counter = await transaction.get(COUNTER, key) or Counter(0)
        assert counter.count == count - 1, "the object is not the record's"
        counter.count += 1
        transaction.put(COUNTER, key, counter)

    @rule(which=processes_, key=st.sampled_from(KEYS))
    def delete(self, which: int, key: str) -> None:
        running = self.processes[which].transaction
        if running is not None and isinstance(running.operation, Transaction):
            running.operation.delete(COUNTER, key)
            running.written[key] = None

    @rule(which=processes_, key=st.sampled_from(KEYS), position=st.integers(0, 2))
    def look(self, which: int, key: str, position: int) -> None:
        process = self.processes[which]
        if position < len(process.views):
            self.read(process, process.views[position], key)

    def read(self, process: Process, running: Running, key: str) -> bool:
        """Read through the operation. The values must be those of the version on which it began (Opaque)."""
        try:
            counter = self.wait(self.get(running, key))
        except OperationInterrupted as interruption:
            self.interrupted(process, running, interruption)
            return False
        if key not in running.written:
            count = 0 if counter is None else counter.count
            assert count == self.versions[running.began_at].get(key, 0), "two versions were mixed"
            running.seen[key] = count
        return True

    async def get(self, running: Running, key: str) -> Counter | None:
        return await running.operation.get(COUNTER, key)

    @rule(which=processes_, position=st.integers(0, 2))
    def list_keys(self, which: int, position: int) -> None:
        process = self.processes[which]
        if position < len(process.views):
            running = process.views[position]
            try:
                keys = self.wait(running.operation.keys(COUNTER))
            except OperationInterrupted as interruption:
                self.interrupted(process, running, interruption)
            else:
                assert set(keys) == self.versions[running.began_at].keys()

    @rule(which=processes_)
    def commit(self, which: int) -> None:
        process = self.processes[which]
        self.finish(process, process.transaction)

    @rule(which=processes_, position=st.integers(0, 2))
    def validate(self, which: int, position: int) -> None:
        process = self.processes[which]
        if position < len(process.views):
            self.finish(process, process.views[position])

    @rule(which=processes_)
    @precondition(lambda self: any(process.transaction for process in self.processes))
    def abort(self, which: int) -> None:
        process = self.processes[which]
        if process.transaction is not None:
            self.interrupted(process, process.transaction, asyncio.CancelledError())

    @rule(which=processes_, position=st.integers(0, 3))
    def fail(self, which: int, position: int) -> None:
        """Leave the block with an error of the operation.

        If the caller gets the error, the operation had read current records.
        """
        process = self.processes[which]
        running = [*process.views, *filter(None, [process.transaction])][position : position + 1]
        for operation in running:
            self.forget(process, operation)
            try:
                swallowed = self.wait(self.leave(operation, ZeroDivisionError()))
            except LeaseLost:
                assert not process.store.lock.stands(operation.operation._operation.epoch)
            else:
                assert not swallowed
                self.check_answer(process, operation)

    def check_answer(self, process: Process, running: Running) -> None:
        """Check that an operation's result is current: no other process has committed since the operation began."""
        assert set(self.authors[running.began_at + 1 :]) <= {process.store}

    def interrupted(self, process: Process, running: Running, error: BaseException) -> None:
        """Leave the block with an exception."""
        if isinstance(error, SnapshotMoved):
            assert running is not process.transaction, "nobody else can write during a transaction"
            assert running.began_at < len(self.versions) - 1
        self.forget(process, running)
        assert not self.wait(self.leave(running, error)), "the exception was swallowed"

    async def leave(self, running: Running, error: BaseException) -> bool | None:
        return await running.context.__aexit__(type(error), error, error.__traceback__)

    def finish(self, process: Process, running: Running | None) -> None:
        """Leave the block normally; the operation's result must be true."""
        if running is None:
            return
        self.forget(process, running)
        before = self.versions[-1]
        try:
            self.wait(self.leave_normally(running))
        except LeaseLost:
            assert not process.store.lock.stands(running.operation._operation.epoch)
            return
        if isinstance(running.operation, Transaction) and running.written:
            assert running.began_at == len(self.versions) - 1, "an update was computed from an older version"
            after = {key: count for key, count in (before | running.written).items() if count is not None}
            self.versions.append(after)
            self.changed.append(set(running.written))
            self.authors.append(process.store)
            assert running.operation.committed == len(self.versions) - 1
        elif isinstance(running.operation, Transaction):
            assert running.began_at == len(self.versions) - 1
        else:
            self.check_answer(process, running)

    async def leave_normally(self, running: Running) -> None:
        await running.context.__aexit__(None, None, None)

    def forget(self, process: Process, running: Running) -> None:
        if running is process.transaction:
            process.transaction = None
        else:
            process.views.remove(running)

    # Invariants

    @invariant()
    def stored_is_the_last_version(self) -> None:
        if hasattr(self, "bench"):
            stored = {name.key.decode(): int(value) for name, value in self.bench.stored().items()}
            assert stored == self.versions[-1]
            assert self.bench.version() == len(self.versions) - 1

    @invariant()
    def caches_are_snapshots(self) -> None:
        if hasattr(self, "bench"):
            for process in self.processes:
                cache = process.store.lock.guarded.cache
                for name, value in cache.records.items():
                    expected = self.versions[cache.version].get(name.key.decode())
                    assert (None if value is None else int(value)) == expected
                for name, live in process.store.lock.guarded.live.items():
                    assert isinstance(live, Counter)
                    assert live.count == self.versions[cache.version][name.key.decode()]

    def check_streams(self) -> None:
        """The subscriber received each change once, in order, or it received a lag."""
        for process in self.processes:
            expected = [Changed(Version(v), key) for v, keys in enumerate(self.changed) for key in sorted(keys)]
            for news in process.told:
                if isinstance(news, Lagged):
                    assert expected
                    assert expected[0].version <= news.version
                    expected = [change for change in expected if change.version > news.version]
                else:
                    same_version = [change for change in expected if change.version == news.version]
                    assert expected[: len(same_version)] == same_version
                    expected.remove(news)
            assert expected == []


TestTwoStores = TwoStores.TestCase
TestTwoStores.settings = settings(max_examples=60, stateful_step_count=50, deadline=None, print_blob=True)


class TwoStoresThatForget(TwoStores):
    """Each cache has room for only one of the three records."""

    limit_bytes = OVERHEAD_BYTES + 10


TestTwoStoresThatForget = TwoStoresThatForget.TestCase
TestTwoStoresThatForget.settings = settings(TestTwoStores.settings, max_examples=30)
