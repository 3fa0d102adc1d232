"""A store survives deleted files, forks, exits and suspensions of real processes, or refuses them by name."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Final

import pytest

from tests.store.worker import COUNTS, PASSPHRASE, PATIENCE, Release, at_work, count_up, look, read, worker
from unwedged.protocol.identifiers import Milliseconds, Version
from unwedged.store import (
    Changed,
    CryptoStore,
    LeaseTimes,
    NotAStore,
    StoreBusy,
    StoreReplaced,
    StoreRolledBack,
    UnsupportedSchema,
    View,
    checkpoints,
    database,
    inspect,
    statements,
)

KEEPS = LeaseTimes(Milliseconds(3_000), renew_every_ms=Milliseconds(1_000), idle_after_ms=Milliseconds(60_000))
"""The holder keeps the lease, but others need not wait long if the holder can't release it."""
LONG = LeaseTimes(Milliseconds(60_000), renew_every_ms=Milliseconds(20_000), idle_after_ms=Milliseconds(60_000))


@asynccontextmanager
async def opened(path: Path, times: LeaseTimes = KEEPS) -> AsyncIterator[CryptoStore]:
    async with await CryptoStore.open(path, passphrase=PASSPHRASE, label="test", kinds=[COUNTS], times=times) as store:
        yield store


def copy(path: Path) -> Path:
    """Copy a store that other processes have open, as the specification says: SQLite reads it in another process."""
    target = path.with_name("copy")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM INTO ?", (str(target),))
    return target


def remove(path: Path) -> None:
    for name in ("store", "store-wal", "store-shm"):
        path.with_name(name).unlink()


def replace(path: Path) -> None:
    copy(path).replace(path)


def read_the_file(path: Path) -> None:
    path.read_bytes()
    look(path)


def copy_the_file(path: Path) -> None:
    shutil.copy(path, path.with_name("copy"))
    look(path)


LOG_IS_SPARED: Final = sqlite3.sqlite_version_info >= (3, 51)
"""Since 3.51, SQLite deletes no log while another process has a lock on its index: reading the file is harmless."""


@pytest.mark.parametrize("loses", [remove, replace, *([] if LOG_IS_SPARED else [read_the_file, copy_the_file])])
class TestLosingTheFiles:
    """``store-remade-while-open`` and ``locks-dropped-by-reading``."""

    # P18.2, P18.3, P18.6
    async def test_the_next_commit_is_refused_by_name(self, tmp_path: Path, loses: Callable[[Path], None]) -> None:
        path = tmp_path / "store"
        async with opened(path) as store:
            assert await store.run(count_up) == 1
            loses(path)
            with pytest.raises(StoreReplaced):
                await store.run(count_up)
            assert not store.statistics().epoch, "the guard is dead"
            with pytest.raises(StoreReplaced):
                await store.query(read)
        after = int(at_work(path, "count"))
        assert after == (1 if loses is remove else 2), "what the others see, nobody else was given"

    # P18.4
    async def test_the_next_acquisition_is_refused_by_name(self, tmp_path: Path, loses: Callable[[Path], None]) -> None:
        path = tmp_path / "store"
        async with opened(path) as store:
            assert await store.run(count_up) == 1
            await store._lock.release_now()
            loses(path)
            with pytest.raises(StoreReplaced):
                await store.query(read)

    # P18.4, P18.6
    async def test_the_next_renewal_ends_the_guard(self, tmp_path: Path, loses: Callable[[Path], None]) -> None:
        path = tmp_path / "store"
        async with opened(path, LONG) as store:
            assert await store.run(count_up) == 1
            loses(path)
            with pytest.raises(StoreReplaced):
                await store._lock.renew_now()
            assert not store.statistics().epoch

    # P9.12, P18.5
    async def test_subscriptions_end_with_the_error(self, tmp_path: Path, loses: Callable[[Path], None]) -> None:
        path = tmp_path / "store"
        async with opened(path) as store:
            assert await store.run(count_up) == 1
            await store._lock.release_now()
            async with store.subscribe(COUNTS) as changes:
                loses(path)
                lengths = []
                for _ in range(3):
                    with pytest.raises(StoreReplaced) as replaced:
                        await anext(changes)
                    lengths.append(len(replaced.traceback))
            assert len(set(lengths)) == 1, "a traceback grows each time that the end is told"

    # P18.8
    async def test_closing_harms_nobody(self, tmp_path: Path, loses: Callable[[Path], None]) -> None:
        path = tmp_path / "store"
        async with opened(path) as store:
            assert await store.run(count_up) == 1
            loses(path)
            with worker(path) as other:
                first = int(other.do("count"))
                with pytest.raises(StoreReplaced):
                    await store.run(count_up)
                await store.close()
                assert int(other.do("count")) == first + 1
                other.close()
        assert int(at_work(path, "count")) == first + 2


def remove_the_file(path: Path) -> None:
    path.unlink()


def empty_the_name(path: Path) -> None:
    path.unlink()
    path.touch()


# P14.6, P17.2
@pytest.mark.parametrize("loses", [remove_the_file, empty_the_name])
async def test_a_store_that_lost_its_file_alone_keeps_its_log_however_often_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loses: Callable[[Path], None]
) -> None:
    """Each refusal counts as written pages, and the checkpoint that becomes due must not look for a file."""
    monkeypatch.setattr(checkpoints, "LONGEST_LOG_PAGES", 20)
    path, log = tmp_path / "store", tmp_path / "store-wal"
    async with opened(path) as store:
        assert await store.run(count_up) == 1
        loses(path)
        left, committed = path.exists(), log.read_bytes()
        for _ in range(50):
            with pytest.raises(StoreReplaced):
                await store.run(count_up)
        assert (path.exists(), log.read_bytes()) == (left, committed)
        with pytest.raises(NotAStore, match="remains"):
            await opened(path).__aenter__()
    assert log.read_bytes() == committed, "nor does closing the store delete it"
    with pytest.raises(NotAStore, match=r"remains of a store\. Put the store's file back beside its log, or put both"):
        await opened(path).__aenter__()


@pytest.mark.skipif(not LOG_IS_SPARED, reason="SQLite deletes the log of a process that has read the file")
@pytest.mark.parametrize("reads", [read_the_file, copy_the_file])
async def test_reading_the_file_costs_nothing_where_sqlite_spares_the_log(
    tmp_path: Path, reads: Callable[[Path], None]
) -> None:
    path = tmp_path / "store"
    async with opened(path) as store:
        for count in range(1, 4):
            assert await store.run(count_up) == count
            reads(path)
            await store._lock.release_now()
            assert at_work(path, "read") == str(count)
    assert at_work(path, "count") == "4"


# P18.3, P18.8
@pytest.mark.skipif(LOG_IS_SPARED, reason="SQLite spares the log")
async def test_what_was_committed_into_a_log_that_is_gone_is_never_moved_into_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log disappears during the commit: closing this store must not write its pages over those of others."""
    path = tmp_path / "store"
    async with opened(path) as store:
        assert await store.run(count_up) == 1
        path.read_bytes()
        reached, go_on, lateness, loop = (
            asyncio.Event(),
            threading.Event(),
            statements.lateness,
            asyncio.get_running_loop(),
        )

        def stop(began_seconds: float, duration_ms: Milliseconds) -> Milliseconds:
            loop.call_soon_threadsafe(reached.set)
            assert go_on.wait(60)
            return lateness(began_seconds, duration_ms)

        monkeypatch.setattr(statements, "lateness", stop)
        commit = asyncio.create_task(store.run(count_up))
        await reached.wait()
        look(path)
        go_on.set()
        with pytest.raises(StoreReplaced):
            await commit
        monkeypatch.undo()
        for count in range(2, 5):
            assert int(at_work(path, "count")) == count
        await store.close()
        assert at_work(path, "read") == "4"
    async with opened(path) as store:
        assert await store.run(count_up) == 5


def put_back(path: Path) -> None:
    """Write the copy over the open store, in its place: another process lets SQLite do it."""
    program = "import sqlite3, sys; f, t = map(sqlite3.connect, sys.argv[1:]); f.backup(t); f.close(); t.close()"
    subprocess.run([sys.executable, "-c", program, path.with_name("copy"), path], check=True)  # noqa: S603 (of its own)


# P18.10
class TestAnOlderCopyPutBack:
    """``restored-backup`` under an open store. The file is the same, and the copy has the epoch of the guard."""

    @pytest.fixture
    async def rolled_back(self, tmp_path: Path) -> AsyncIterator[CryptoStore]:
        path = tmp_path / "store"
        async with opened(path, LONG) as store:
            assert await store.run(count_up) == 1
            copy(path)
            assert await store.run(count_up) == 2
            put_back(path)
            yield store

    async def is_refused(self, store: CryptoStore, use: Awaitable[object]) -> None:
        with pytest.raises(StoreRolledBack):
            await use
        assert not store.statistics().epoch, "the guard is dead"

    async def test_no_commit_is_written_into_it(self, rolled_back: CryptoStore, tmp_path: Path) -> None:
        await self.is_refused(rolled_back, rolled_back.run(count_up))
        assert inspect(tmp_path / "store").version == 1

    async def test_no_record_is_loaded_from_it(self, rolled_back: CryptoStore) -> None:
        async def load(view: View) -> None:
            await view.get(COUNTS, "another")

        await self.is_refused(rolled_back, rolled_back.query(load))

    async def test_no_record_is_listed_from_it(self, rolled_back: CryptoStore) -> None:
        async def load(view: View) -> None:
            await view.keys(COUNTS)

        await self.is_refused(rolled_back, rolled_back.query(load))

    # P9.12
    async def test_subscriptions_end_with_the_error(self, tmp_path: Path) -> None:
        path = tmp_path / "store"
        async with opened(path) as store, store.subscribe(COUNTS) as changes:
            assert await store.run(count_up) == 1
            await store._lock.release_now()
            copy(path)
            assert await store.run(count_up) == 2
            await store._lock.release_now()
            put_back(path)
            assert [await anext(changes) for _ in range(2)] == [Changed(Version(1), "n"), Changed(Version(2), "n")]
            with pytest.raises(StoreRolledBack):
                async with asyncio.timeout(PATIENCE):
                    await anext(changes)

    async def test_a_subscription_that_begins_earlier_notices_it(self, rolled_back: CryptoStore) -> None:
        await self.is_refused(rolled_back, rolled_back.subscribe(COUNTS, since=1).__aenter__())

    async def test_what_others_then_commit_does_not_hide_it_from_a_store_that_was_only_opened(
        self, tmp_path: Path
    ) -> None:
        """It has read the version when it was opened."""
        path = tmp_path / "store"
        at_work(path, "count")
        copy(path)
        at_work(path, "count")
        async with opened(path, LONG) as store:
            put_back(path)
            await self.is_refused(store, store.run(count_up))
            with worker(path) as other:
                assert [other.do("count") for _ in range(3)] == ["2", "3", "4"]
                other.close()
            await self.is_refused(store, store.run(count_up))
        assert at_work(path, "count") == "5"

    async def test_what_others_then_commit_does_not_hide_it(self, rolled_back: CryptoStore, tmp_path: Path) -> None:
        """The version is soon the one that is known here, but other changes have made it."""
        path = tmp_path / "store"
        for _ in range(2):  # The first refusal ends the guard, and the second one releases the lease (P2.11).
            await self.is_refused(rolled_back, rolled_back.run(count_up))
        with worker(path) as other:
            assert [other.do("count") for _ in range(3)] == ["2", "3", "4"]
            other.close()
        for use in (rolled_back.run(count_up), rolled_back.query(read)):
            await self.is_refused(rolled_back, use)
        assert at_work(path, "count") == "5"


# --------------------------------------------------------------------------------------------------------------------
# Programs that fork or exit with the store open


def careless(name: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run a program that must exit by itself."""
    return subprocess.run(  # noqa: S603 (this project's own program)
        [sys.executable, "-m", "tests.store.careless", name, path],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


class TestForks:
    """``inherited-through-fork``. Each parent continues afterwards, and has lost none of its locks."""

    # P21.1
    def test_every_entry_is_refused_at_once(self, tmp_path: Path) -> None:
        entries = ["run", "query", "transaction", "view", "subscribe", "change_secret", "pause", "resume", "close"]
        entries += ["statistics", "mark"]
        ran = careless("uses_it_at_every_entry", tmp_path / "store")
        assert ran.stdout.splitlines() == [*(f"{entry}: ForkedStore" for entry in entries), "2"], ran.stderr

    # P21.3
    def test_a_loop_of_its_own_and_opening_it_again_do_not_help_but_another_store_is_fine(self, tmp_path: Path) -> None:
        ran = careless("uses_it_in_a_loop_of_its_own", tmp_path / "store")
        assert ran.stdout.splitlines() == [*["ForkedStore"] * 3, "1", "1"], ran.stderr

    def test_a_store_that_was_closed_before_the_fork_is_not_checked(self, tmp_path: Path) -> None:
        ran = careless("closed_it_before", tmp_path / "store")
        assert ran.stdout.splitlines() == ["1", "2"], ran.stderr

    # P21.1, P21.2
    def test_an_operation_that_forked_is_refused_and_its_child_ends(self, tmp_path: Path) -> None:
        ran = careless("goes_on_inside_an_operation", tmp_path / "store")
        child = ["get: ForkedStore", "news: ForkedStore", "child goes on", "child: ForkedStore"]
        assert ran.stdout.splitlines() == [*child, "child ended: 7", "3"], ran.stderr

    # P21.2
    def test_leaving_the_block_in_the_child_closes_nothing(self, tmp_path: Path) -> None:
        ran = careless("leaves_the_block", tmp_path / "store")
        assert ran.stdout.splitlines() == ["child: SystemExit", "child ended: 7", "2"], ran.stderr


# P21.4
@pytest.mark.parametrize(
    ("name", "status"),
    [("raises", 1), ("exits", 5), ("returns", 0), ("keeps_it_in_a_module", 0), ("exits_while_it_commits", 6)],
)
def test_a_program_that_does_not_close_ends_all_the_same(tmp_path: Path, name: str, status: int) -> None:
    ran = careless(name, tmp_path / "store")
    assert ran.returncode == status, ran.stderr
    with closing(sqlite3.connect(tmp_path / "store")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert at_work(tmp_path / "store", "count") == "2", "the commit that was under way is undone"


# --------------------------------------------------------------------------------------------------------------------
# Two releases at the same time


class TestUpgrades:
    """``schema-moves-on``. Two releases of one program share a store, and one of them is newer."""

    # P20.3, P20.4
    async def test_a_newer_schema_under_an_open_program_is_refused_by_name(self, tmp_path: Path) -> None:
        path = tmp_path / "store"
        with worker(path) as older:
            assert older.do("count") == "1"
            with worker(path, Release.NEW_SCHEMA) as newer:
                assert older.do("read") == "UnsupportedSchema"
                assert newer.do("count") == "2"
                assert older.do("count") == "UnsupportedSchema"
                assert newer.do("count") == "3"
                newer.close()
            assert older.do("count") == "UnsupportedSchema"
            older.close()
        with pytest.raises(UnsupportedSchema):
            async with opened(path):
                pass

    # P20.2, P20.4
    async def test_a_guard_that_stands_is_fenced_off(self, tmp_path: Path) -> None:
        path = tmp_path / "store"
        async with opened(path, LONG) as older:
            assert await older.run(count_up) == 1
            with worker(path, Release.NEW_SCHEMA) as newer:
                assert newer.do("read") == "1", "without waiting for the lease, which the migration took away"
                for operation in (older.run(count_up), older.query(read)):
                    with pytest.raises(UnsupportedSchema):
                        await operation
                assert not older.statistics().epoch
                newer.close()
        with worker(path, Release.NEW_SCHEMA) as newer:
            assert newer.do("count") == "2"

    # P9.12, P20.4
    async def test_subscriptions_end_with_the_error(self, tmp_path: Path) -> None:
        path = tmp_path / "store"
        async with opened(path) as older, older.subscribe(COUNTS) as changes:
            with worker(path, Release.NEW_SCHEMA) as newer:
                with pytest.raises(UnsupportedSchema):
                    await anext(changes)
                newer.close()

    # P20.5
    def test_new_kinds_lock_no_program_out(self, tmp_path: Path) -> None:
        path = tmp_path / "store"
        with worker(path) as older, worker(path, Release.MORE_KINDS) as newer:
            assert [program.do("count") for program in (older, newer, older, newer)] == ["1", "2", "3", "4"]
            older.close()
            with worker(path) as older_again:
                assert [program.do("count") for program in (older_again, newer)] == ["5", "6"]


# --------------------------------------------------------------------------------------------------------------------
# Suspended in the middle of a transaction


# P2.12, P15.2, P15.4
async def test_a_process_suspended_in_a_transaction_keeps_the_others_out_and_is_named_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``suspended-in-db-transaction``."""
    path = tmp_path / "store"
    monkeypatch.setattr(database, "BUSY_TIMEOUT_SECONDS", 0.25)
    async with opened(path, KEEPS) as store:
        assert await store.run(count_up) == 1
        await store._lock.release_now()
        with worker(path) as sleeper:
            sleeper.ask("stop")
            _, status = await asyncio.to_thread(os.waitpid, sleeper.process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            waited = []
            for _ in range(2):
                with pytest.raises(StoreBusy, match=r"write lock.* 'worker' holds the lease, of epoch 2") as told:
                    await store.run(count_up)
                [seconds] = re.findall(r"waited for ([0-9.]+) s", str(told.value))
                waited.append(float(seconds))
            assert 0.2 <= waited[0] < waited[1], "since the first time"
            assert inspect(path).version == 1, "a process that only reads is not kept out"

            os.kill(sleeper.process.pid, signal.SIGCONT)
            assert await asyncio.to_thread(sleeper.answer) == "2"
            assert await store.run(count_up) == 3
            sleeper.close()
