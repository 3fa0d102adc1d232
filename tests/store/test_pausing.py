"""A paused store holds no file and no lease; when it resumes, it misses no change and refuses another file."""

# ruff: noqa: ASYNC110, ASYNC240 (the awaited state comes within a few iterations; file access in a test may block)

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from pathlib import Path
from typing import TypeVar

import pytest

from tests.store.stores import (
    COUNTER,
    DEVICE,
    KEY,
    KINDS,
    PATIENCE,
    Workbench,
    all_that_can_run,
    count_up,
    take_over,
    workbench,
)
from unwedged.protocol.identifiers import Milliseconds, Version
from unwedged.store import (
    AnotherStore,
    Changed,
    CryptoStore,
    LeaseLost,
    LeaseTimes,
    NestedOperation,
    OperationsAbandoned,
    SecretChanged,
    StorageFailed,
    StoreClosed,
    StoreError,
    StoreMissing,
    StoreReplaced,
    StoreRolledBack,
    Transaction,
    View,
)
from unwedged.store.crypto_store import LISTEN_EVERY_MS

Result = TypeVar("Result")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[CryptoStore]:
    async with await opened(path) as made:
        yield made


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Workbench]:
    async with workbench(tmp_path / "bench.db") as made:
        yield made


def opened(path: Path, label: str = "one") -> Awaitable[CryptoStore]:
    # An idle instance releases the lease at once.
    times = LeaseTimes(idle_after_ms=Milliseconds(1))
    return CryptoStore.open(path, key=KEY, label=label, kinds=KINDS, times=times)


def held(path: Path) -> tuple[int, int]:
    """Count the descriptors and the locks that this process has on a store's files."""
    files = [path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")]
    names = {str(file) for file in files} | {f"{file} (deleted)" for file in files}
    descriptors = 0
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 (a folder of the operating system)
        with suppress(OSError):
            descriptors += os.readlink(f"/proc/self/fd/{number}") in names  # noqa: PTH115
    inodes = {str(file.stat().st_ino) for file in files if file.exists()}
    locks = 0
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if str(os.getpid()) in fields and any(field.rpartition(":")[2] in inodes for field in fields):
            locks += 1
    return descriptors, locks


def outside(work: Coroutine[None, None, Result]) -> asyncio.Task[Result]:
    """Create a task that does not count as inside the operation that creates it."""
    return asyncio.create_task(work, context=Context())


def failing_at(caplog: pytest.LogCaptureFixture, message: str) -> Callable[[logging.LogRecord], bool]:
    """Let the log raise an exception at a ``message``."""

    def fail(record: logging.LogRecord) -> bool:
        if record.msg.startswith(message):
            raise ZeroDivisionError
        return True

    caplog.set_level(logging.INFO, "unwedged")
    caplog.handler.addFilter(fail)
    return fail


async def subscribed(store: CryptoStore) -> None:
    async with store.subscribe(DEVICE):
        pass


async def count_of(view: View) -> int | None:
    counter = await view.get(COUNTER, "n")
    return None if counter is None else counter.count


class TestNothingIsHeld:
    # P19.3
    async def test_no_descriptor_and_no_lock(self, store: CryptoStore, path: Path) -> None:
        async with store.subscribe(DEVICE):
            await store.run(count_up)
            descriptors, locks = held(path)
            assert descriptors > 0
            assert locks > 0
            await store.pause()
            assert held(path) == (0, 0)
            assert store.statistics().state == "paused"
            assert " paused " in repr(store)
            await store.resume()
            assert held(path)[1] > 0
            assert store.statistics().state == "none"
        assert await store.run(count_up) == 2
        assert await store.query(count_of) == 2

    # P19.3
    async def test_no_lease(self, store: CryptoStore, path: Path) -> None:
        async with store.transaction() as transaction:
            transaction.put(DEVICE, "a", b"1")
            pausing = outside(store.pause())
            await asyncio.sleep(0)
        await pausing
        async with await opened(path, "other") as other:
            assert await other.run(count_up) == 1
            assert other.statistics().epoch == 2, "it was free, and need not expire"

    # P19.1
    async def test_what_waits_to_begin_waits_until_the_store_goes_on(self, bench: Workbench) -> None:
        store = await bench.instance("one")
        await take_over(store)
        go_on = asyncio.Event()

        async def wait(_: Transaction) -> None:
            await go_on.wait()

        first = outside(store.run(wait))
        await all_that_can_run()
        second = outside(store.run(count_up))
        await all_that_can_run()
        pausing = outside(store.pause())
        await all_that_can_run()
        go_on.set()
        await first
        await all_that_can_run()
        await pausing
        assert not second.done()
        await store.resume()
        assert await second == 1

    # P19.1
    async def test_nothing_begins_by_itself(self, store: CryptoStore, path: Path) -> None:
        async with store.subscribe(DEVICE):
            await store.pause()
            assert not store._tasks
            assert not store._lock._tasks
            await store.pause()  # again
        assert held(path) == (0, 0)

    async def test_closing_lets_go_all_the_same(self, store: CryptoStore, path: Path) -> None:
        await store.run(count_up)
        await store.pause()
        await store.close()
        assert store.statistics().state == "closed"
        assert held(path) == (0, 0)
        for use in (store.pause(), store.resume(), store.run(count_up)):
            with pytest.raises(StoreClosed):
                await use


class TestGoingOn:
    # P19.4
    @pytest.mark.parametrize(
        "use",
        [
            lambda store: store.resume(),
            lambda store: store.run(count_up),
            lambda store: store.query(count_of),
            lambda store: store.change_secret(key=KEY),
        ],
        ids=["resume", "run", "query", "change_secret"],
    )
    async def test_whatever_needs_the_file_opens_it(
        self, store: CryptoStore, path: Path, use: Callable[[CryptoStore], Awaitable[object]]
    ) -> None:
        await store.pause()
        await use(store)
        assert store.statistics().state != "paused"
        assert held(path)[0] > 0
        await store.pause()
        async with store.subscribe(DEVICE):
            assert store.statistics().state != "paused"

    async def test_several_at_once_open_it_once(self, store: CryptoStore) -> None:
        await store.pause()
        assert sorted(await asyncio.gather(*(store.run(count_up) for _ in range(5)))) == [1, 2, 3, 4, 5]

    # P19.3, P19.6
    async def test_a_subscriber_misses_nothing(self, store: CryptoStore, path: Path) -> None:
        async with store.subscribe(DEVICE) as changes:
            await store.run(count_up)
            await store.pause()
            async with await opened(path, "other") as other:
                for name in "abc":
                    async with other.transaction() as transaction:
                        transaction.put(DEVICE, name, b"")
            await store.resume()
            assert [await anext(changes) for _ in range(3)] == [
                Changed(Version(2), "a"),
                Changed(Version(3), "b"),
                Changed(Version(4), "c"),
            ]
            async with store.transaction() as transaction:
                transaction.put(DEVICE, "d", b"")
            assert await anext(changes) == Changed(Version(5), "d")

    # P19.6
    async def test_a_subscriber_is_told_at_once_and_later_on(self, bench: Workbench) -> None:
        store, other = await bench.instance("one"), await bench.instance("other")
        store._run_tasks()
        async with store.subscribe(COUNTER) as changes:
            await store.pause()
            await other.run(count_up)
            slept = len(bench.clock.slept)
            await store.resume()
            assert await anext(changes) == Changed(Version(1), "n"), "no time has passed"
            assert store._tasks
            assert store._lock._tasks
            await other.run(count_up)
            await bench.clock.asleep(slept + 1)
            bench.clock.advance(LISTEN_EVERY_MS)
            assert await anext(changes) == Changed(Version(2), "n")

    # P19.3
    async def test_the_cache_is_kept_but_for_what_changed(self, store: CryptoStore, path: Path) -> None:
        async with store.transaction() as transaction:
            transaction.put(DEVICE, "a", b"1")
        assert await store.run(count_up) == 1
        await store.pause()
        async with await opened(path, "other") as other:
            assert await other.run(count_up) == 2
        assert store.statistics().cached_records == 2
        assert await store.run(count_up) == 3
        statistics = store.statistics()
        assert (statistics.cached_records, statistics.records_dropped) == (2, 1)

    # P19.5
    async def test_another_process_may_be_the_last_to_close(self, store: CryptoStore, path: Path) -> None:
        log = path.with_name("store.db-wal")
        async with await opened(path, "other") as other:
            await store.run(count_up)
            await store.pause()
            assert await other.run(count_up) == 2
            assert log.exists()
        assert not log.exists()
        await store.resume()
        assert await store.run(count_up) == 3

    async def test_the_program_may_have_changed_its_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path)
        async with await opened(Path("store.db")) as store:
            await store.run(count_up)
            await store.pause()
            monkeypatch.chdir(tmp_path / "elsewhere")
            assert await store.run(count_up) == 2


class TestWhatRuns:
    # P19.1, P19.2, P19.4
    async def test_is_waited_for_and_what_is_called_meanwhile_does_not_undo_the_pause(
        self, store: CryptoStore, path: Path
    ) -> None:
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def slow(transaction: Transaction) -> int:
            reached.set()
            await go_on.wait()
            return await count_up(transaction)

        running = asyncio.create_task(store.run(slow))
        await reached.wait()
        pausing = outside(store.pause())
        for _ in range(20):
            await asyncio.sleep(0)
        later = asyncio.create_task(store.run(count_up))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not pausing.done()
        assert not later.done()
        go_on.set()
        assert await running == 1
        await pausing
        await all_that_can_run()
        assert held(path) == (0, 0)
        assert not later.done()
        assert await store.run(count_up) in (2, 3), "what is called now opens the file, for both"
        assert await later in (2, 3)

    # P19.1, P19.4
    @pytest.mark.parametrize(
        "use",
        [
            lambda store: subscribed(store),
            lambda store: store.change_secret(key=KEY),
            lambda store: store.query(count_of),
        ],
        ids=["subscribe", "change_secret", "query"],
    )
    async def test_nothing_that_is_called_meanwhile_undoes_the_pause(
        self, store: CryptoStore, path: Path, use: Callable[[CryptoStore], Coroutine[None, None, object]]
    ) -> None:
        async with store.transaction():
            pausing = outside(store.pause())
            await all_that_can_run()
            later = outside(use(store))
            await all_that_can_run()
        await pausing
        await asyncio.wait((later,), timeout=0.1)  # Long enough to notice an early end.
        assert not later.done()
        assert held(path) == (0, 0)
        await store.resume()
        await later

    async def test_what_waits_for_the_store_to_go_on_is_told_that_it_was_closed(self, store: CryptoStore) -> None:
        async with store.transaction():
            pausing = outside(store.pause())
            await all_that_can_run()
            later = outside(store.run(count_up))
            await all_that_can_run()
        await pausing
        await all_that_can_run()
        await store.close()
        with pytest.raises(StoreClosed):
            await later

    @pytest.mark.parametrize("end", ["pause", "close"])
    async def test_what_needs_the_file_for_a_moment_is_waited_for(self, bench: Workbench, end: str) -> None:
        store = await bench.instance("one")
        gate = store.gated.hold_before("changes")
        subscribing = asyncio.create_task(subscribed(store))
        await gate.reached.wait()
        ending = asyncio.create_task(store.pause() if end == "pause" else store.close())
        await all_that_can_run()
        assert "close" not in store.gated.calls
        gate.opened.set()
        await subscribing
        await ending
        assert store.gated.calls[-1] == "close"

    # P4.14, P19.2
    async def test_an_access_that_outlasts_the_pause_says_that_it_was_paused(self, bench: Workbench) -> None:
        store = await bench.instance("one")
        gate = store.gated.hold_before("load")
        raised: list[StoreError] = []

        async def look(view: View) -> None:
            try:
                await view.get(COUNTER, "n")
            except StoreError as error:
                raised.append(error)
                raise

        looking = asyncio.create_task(store.query(look, attempts=1))
        await gate.reached.wait()
        with pytest.raises(OperationsAbandoned):
            await store.pause(timeout_seconds=0)
        gate.opened.set()
        with pytest.raises(LeaseLost, match="paused"):
            await looking
        assert [type(error) for error in raised] == [LeaseLost]

    @pytest.mark.parametrize("end", ["pause", "close"])
    async def test_a_secret_is_changed_before_the_file_is_closed(self, bench: Workbench, end: str) -> None:
        store = await bench.instance("one")
        gate = store.gated.hold_before("reseal")
        changing = asyncio.create_task(store.change_secret(key=bytes(32)))
        await gate.reached.wait()
        ending = asyncio.create_task(store.pause() if end == "pause" else store.close())
        await all_that_can_run()
        assert "close" not in store.gated.calls
        gate.opened.set()
        with pytest.raises(SecretChanged):  # A store of this bench has no header.
            await changing
        await ending
        assert store.gated.calls[-1] == "close"

    # P19.2, P19.4
    async def test_is_abandoned_after_a_while_and_runs_again(self, store: CryptoStore, path: Path) -> None:
        attempts: list[int] = []
        go_on = asyncio.Event()

        async def slow(transaction: Transaction) -> int:
            attempts.append(len(attempts))
            if len(attempts) == 1:
                await go_on.wait()
            return await count_up(transaction)

        running = asyncio.create_task(store.run(slow))
        while not attempts:
            await asyncio.sleep(0)
        with pytest.raises(OperationsAbandoned, match=r"the store was paused while .*slow"):
            await store.pause(timeout_seconds=0)
        assert held(path) == (0, 0)
        async with await opened(path, "other") as other:
            assert await other.run(count_up) == 1
        go_on.set()
        await all_that_can_run()
        assert not running.done()
        assert held(path) == (0, 0), "it was called before the pause, and does not undo it"
        await store.resume()
        assert await running == 2
        assert attempts == [0, 1]

    async def test_what_was_let_begin_a_moment_ago_is_waited_for(self, store: CryptoStore) -> None:
        """Its task has not been woken yet."""
        go_on = asyncio.Event()

        async def slow(transaction: Transaction) -> int:
            await go_on.wait()
            return await count_up(transaction)

        async with store.transaction() as transaction:
            waiting = outside(store.run(slow))
            while not store._lock._waiting:
                await asyncio.sleep(0)
            transaction.put(DEVICE, "a", b"")
        assert store._lock.guarded.admission.running == 1
        assert not store._operations

        async def let_go_on() -> None:
            for _ in range(50):
                await asyncio.sleep(0)
            go_on.set()

        letting = asyncio.create_task(let_go_on())
        await store.pause()
        await letting
        assert await waiting == 1
        assert store.statistics().reruns == 0

    # P19.1
    async def test_what_waits_to_begin_waits_on(self, store: CryptoStore, path: Path) -> None:
        async with store.transaction() as transaction:
            waiting = outside(store.run(count_up))
            while not store._lock._waiting:
                await asyncio.sleep(0)
            pausing = outside(store.pause())
            for _ in range(5):
                await asyncio.sleep(0)
            transaction.put(DEVICE, "a", b"")
        await pausing
        assert not waiting.done()
        assert held(path) == (0, 0)
        await store.resume()
        assert await waiting == 1

    # P19.1
    async def test_what_waits_for_the_lease_waits_on(self, bench: Workbench) -> None:
        store, other = await bench.instance("one"), await bench.instance("other")
        await take_over(other)
        waiting = asyncio.create_task(store.run(count_up))
        await bench.clock.asleep(1)
        await store.pause()
        assert not waiting.done()
        assert not store._lock._tasks
        calls = len(store.gated.calls)
        await other.lock.release_now()
        for _ in range(20):
            await asyncio.sleep(0)
        assert store.gated.calls[calls:] == []
        await store.resume()
        assert await waiting == 1

    async def test_is_not_the_one_that_pauses(self, store: CryptoStore) -> None:
        async with store.transaction():
            with pytest.raises(NestedOperation):
                await store.pause()
            with pytest.raises(NestedOperation, match="a store can't be resumed from inside an operation"):
                await store.resume()

    async def test_goes_on_where_the_one_that_pauses_is_cancelled(self, store: CryptoStore) -> None:
        async with store.transaction() as transaction:
            transaction.put(DEVICE, "a", b"")
            pausing = outside(store.pause())
            for _ in range(5):
                await asyncio.sleep(0)
            pausing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await pausing
        assert store.statistics().commits == 1
        assert store.statistics().state == "held"
        assert await store.run(count_up) == 1

    async def test_can_be_closed_upon_while_it_is_waited_for(self, store: CryptoStore, path: Path) -> None:
        async with store.transaction() as transaction:
            pausing = outside(store.pause())
            await asyncio.sleep(0)
            closing = outside(store.close())
            for _ in range(5):
                await asyncio.sleep(0)
            transaction.put(DEVICE, "a", b"")
        await closing
        with suppress(StoreClosed):
            await pausing
        assert held(path) == (0, 0)

    async def test_a_failure_to_close_is_raised_and_the_store_goes_on(self, bench: Workbench) -> None:
        store = await bench.instance("one")
        await store.run(count_up)
        store.gated.late_failures["close"] = StorageFailed("injected")
        with pytest.raises(StorageFailed, match="injected"):
            await store.pause()
        assert store.statistics().state == "paused"
        assert await store.run(count_up) == 2


class TestALogThatFails:
    """What the program has put into its log may raise anything."""

    # P19.3
    async def test_leaves_nothing_open_in_a_pause(
        self, store: CryptoStore, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with store.transaction() as transaction:
            await count_up(transaction)
            pausing = outside(store.pause())  # so that it is the pause that releases the lease
            await asyncio.sleep(0)
        fail = failing_at(caplog, "lease released")
        with pytest.raises(ZeroDivisionError):
            await pausing
        caplog.handler.removeFilter(fail)
        assert held(path) == (0, 0)
        assert store.statistics().state == "paused"
        assert await store.run(count_up) == 2

    # P19.4
    async def test_keeps_no_store_paused(self, store: CryptoStore, caplog: pytest.LogCaptureFixture) -> None:
        await store.pause()
        fail = failing_at(caplog, "store goes on")
        with pytest.raises(ZeroDivisionError):
            await store.resume()
        caplog.handler.removeFilter(fail)
        async with asyncio.timeout(PATIENCE):
            assert await store.run(count_up) == 1
        assert store._tasks


# P19.5
class TestAnotherFile:
    async def refuses(self, store: CryptoStore, error: type[StoreError]) -> None:
        for use in (store.resume(), store.run(count_up), store.query(count_of)):
            with pytest.raises(error):
                await use
            assert store.statistics().state == "paused"

    async def test_in_its_place(self, store: CryptoStore, path: Path, tmp_path: Path) -> None:
        other, kept = tmp_path / "other.db", tmp_path / "kept.db"
        async with await opened(other) as another:
            await another.run(count_up)
        await store.run(count_up)
        await store.pause()
        path.rename(kept)
        other.rename(path)
        before = path.read_bytes()
        await self.refuses(store, StoreReplaced)
        assert path.read_bytes() == before
        path.unlink()
        kept.rename(path)
        assert await store.run(count_up) == 2, "what was put back is what was there"

    async def test_written_over_it(self, store: CryptoStore, path: Path, tmp_path: Path) -> None:
        async with await opened(tmp_path / "other.db") as another:
            for _ in range(3):
                await another.run(count_up)
        await store.run(count_up)
        await store.pause()
        path.write_bytes((tmp_path / "other.db").read_bytes())
        await self.refuses(store, AnotherStore)

    async def test_that_is_an_older_copy_of_it(self, store: CryptoStore, path: Path, tmp_path: Path) -> None:
        await store.run(count_up)
        await store.pause()
        shutil.copy(path, tmp_path / "copy.db")
        await store.run(count_up)
        await store.pause()
        path.write_bytes((tmp_path / "copy.db").read_bytes())
        await self.refuses(store, StoreRolledBack)

    async def test_that_is_missing(self, store: CryptoStore, path: Path) -> None:
        await store.run(count_up)
        await store.pause()
        path.unlink()
        await self.refuses(store, StoreMissing)
        with pytest.raises(StoreMissing, match=rf"{re.escape(str(path))}. is gone.* when this store was paused"):
            await store.resume()
        assert list(path.parent.iterdir()) == []
