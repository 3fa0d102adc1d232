"""The write-ahead log is checkpointed, and only under the write lock."""

from __future__ import annotations

import resource
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.store.sqlite.backends import DURATION, ME, NOW, A, Store, hold, opened
from unwedged.protocol.identifiers import Version
from unwedged.store import checkpoints, database
from unwedged.store.backend import Committed, Row, RowName
from unwedged.store.errors import StorageFailed, StoreBusy


class EarlyCheckpoints:
    """Makes each write run a checkpoint, and calls a function at each statement and each pause of the checkpoint."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.path = path
        self.statements: list[str] = []
        self.pauses: list[float] = []
        self.at_checkpoint: Callable[[], object] = lambda: None
        self.at_pause: Callable[[], object] = lambda: None
        self._rows = database.rows
        monkeypatch.setattr(checkpoints, "LONGEST_LOG_PAGES", 1)
        monkeypatch.setattr(database, "rows", self._note)
        monkeypatch.setattr(time, "sleep", self._pause)

    def _note(
        self, connection: sqlite3.Connection, statement: str, parameters: database.Parameters
    ) -> list[sqlite3.Row]:
        if "checkpoint" in statement:
            self.statements.append(statement)
            self.at_checkpoint()
        return self._rows(connection, statement, parameters)

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.at_pause()

    def writer(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, isolation_level=None, timeout=0, check_same_thread=False)


# P14.4, P14.5
async def test_a_checkpoint_waits_for_a_writer_and_then_the_log_is_begun_anew(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = await hold(store)
    for _ in range(5):
        await store.backend.commit(epoch, [Row(A, b"value")], NOW, DURATION, may_release=False)
    checkpointing, transaction = EarlyCheckpoints(monkeypatch, store.path), database.transaction
    with closing(checkpointing.writer()) as writer:

        def meet(work: Callable[[sqlite3.Connection], object], connection: sqlite3.Connection) -> object:
            """Let another process begin to write right after the commit."""
            result = transaction(work, connection)
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("UPDATE state SET label = 'another'")
            return result

        checkpointing.at_pause = lambda: writer.execute("COMMIT")
        monkeypatch.setattr(database, "transaction", meet)
        await store.backend.commit(epoch, [Row(A, b"value")], NOW, DURATION, may_release=False)
    assert checkpointing.pauses == [database.EAGER_PAUSE_SECONDS]
    assert checkpointing.statements == ["PRAGMA wal_checkpoint(PASSIVE)"]
    monkeypatch.undo()
    await store.backend.release(epoch)
    assert store.raw.execute("PRAGMA wal_checkpoint").fetchone() == (0, 1, 1), "one page was written since"


# P14.2, P14.4
async def test_the_log_is_moved_only_while_nobody_can_begin_it_anew(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``wal-reset``: SQLite's race requires that another connection commits in the middle of a checkpoint."""
    epoch = await hold(store)
    for connection in (store.backend._loop_connection, store.backend._driver._conn):
        assert connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
    checkpointing = EarlyCheckpoints(monkeypatch, store.path)
    refused: list[str] = []

    def meet() -> None:
        with closing(checkpointing.writer()) as writer, pytest.raises(sqlite3.OperationalError, match="locked"):
            writer.execute("BEGIN IMMEDIATE")
        refused.append("a writer")

    checkpointing.at_checkpoint = meet
    await store.backend.commit(epoch, [Row(A, b"value")], NOW, DURATION, may_release=False)
    await store.backend.renew(epoch, NOW, DURATION)
    assert refused == ["a writer"] * 2, "after a commit, and where only the lease is written"
    assert set(checkpointing.statements) == {"PRAGMA wal_checkpoint(PASSIVE)"}
    with store.locked():
        pass  # and then the connection releases the lock


# P14.5, P14.7
async def test_a_commit_is_made_also_where_no_checkpoint_can_be(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch = await hold(store)
    checkpointing = EarlyCheckpoints(monkeypatch, store.path)
    with closing(checkpointing.writer()) as reader:  # its snapshot is older than the log
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM state").fetchall()
        done = await store.backend.commit(epoch, [Row(A, b"value")], NOW, DURATION, may_release=False)
        assert done == Committed(Version(1), wanted=False, released=False, left_ms=DURATION)
    assert sum(checkpointing.pauses) == pytest.approx(database.EAGER_SECONDS), "then it stops trying"

    def fail() -> None:
        raise sqlite3.OperationalError("disk I/O error")

    checkpointing.at_checkpoint = fail
    done = await store.backend.commit(epoch, [Row(A, b"value")], NOW, DURATION, may_release=False)
    assert done == Committed(Version(2), wanted=False, released=False, left_ms=DURATION)
    with store.locked():
        pass


# P14.3
async def test_a_lease_that_changes_hands_again_and_again_does_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The promise also holds if no instance ever commits: then the writes of the lease run checkpoints."""
    monkeypatch.setattr(checkpoints, "LONGEST_LOG_PAGES", 20)
    async with opened(tmp_path / "store") as backend:
        for _ in range(100):
            await backend.release((await backend.acquire(ME, "me", NOW, DURATION)).epoch)
        assert (tmp_path / "store-wal").stat().st_size < 25 * 4200


# P14.3
async def test_large_values_do_not_make_the_log_grow(store: Store) -> None:
    """Ten of these values exceed the limit of the log's length."""
    epoch = await hold(store)
    large = [Row(A, bytes(checkpoints.LONGEST_LOG_PAGES * checkpoints.PAGE_BYTES // 10))]
    for _ in range(50):
        await store.backend.commit(epoch, large, NOW, DURATION, may_release=False)
    assert store.path.with_name("store-wal").stat().st_size < 15 * len(large[0].value or b"")


# P14.8
@pytest.mark.parametrize("error", ["database is locked", "disk I/O error"])
async def test_a_commit_that_fails_makes_one_due_unless_another_process_writes(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_SECONDS", 0.0)
    made_due: list[checkpoints.Checkpoints] = []
    monkeypatch.setattr(checkpoints.Checkpoints, "make_due", lambda made: made_due.append(made))
    epoch = await hold(store)
    failure = sqlite3.OperationalError(error)
    failure.sqlite_errorcode = sqlite3.SQLITE_BUSY if error == "database is locked" else sqlite3.SQLITE_IOERR

    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(database, "transaction", fail)
    said = "another process keeps" if error == "database is locked" else f"{error}. .* may or may not have been written"
    with pytest.raises(StoreBusy if error == "database is locked" else StorageFailed, match=said):
        await store.backend.commit(epoch, [Row(A, b"value")], NOW, DURATION, may_release=False)
    assert len(made_due) == (0 if error == "database is locked" else 1)


# P14.3
async def test_each_write_counts_as_the_pages_that_it_writes_and_a_read_as_none(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    due_after = checkpoints.Checkpoints.due_after

    def noted(made: checkpoints.Checkpoints, pages: int) -> bool:
        counted.append(pages)
        return due_after(made, pages)

    monkeypatch.setattr(checkpoints.Checkpoints, "due_after", noted)
    epoch = await hold(store)
    await store.backend.renew(epoch, NOW, DURATION)
    await store.backend.check(epoch)
    await store.backend.load(epoch, A, Version(0))
    await store.backend.release(epoch)
    assert counted == [1, 1, 1]
    epoch = await hold(store)
    rows = [Row(RowName("device", b"%d" % number), bytes(checkpoints.PAGE_BYTES)) for number in range(100)]
    await store.backend.commit(epoch, rows, NOW, DURATION, may_release=False)
    await store.backend.truncate(Version(1))
    assert counted[4:] == [checkpoints.pages_of(100, 100 * checkpoints.PAGE_BYTES), checkpoints.pages_of(1, 0)]


def test_the_pages_of_a_commit_are_those_of_its_values_and_of_its_rows() -> None:
    few, many = checkpoints.pages_of(1, 0), checkpoints.pages_of(1000, 0)
    assert many - few == pytest.approx(1000 / checkpoints.ROWS_OF_A_PAGE, abs=1)
    assert checkpoints.pages_of(1, 100 * checkpoints.PAGE_BYTES) - few == 100


@contextmanager
def no_file_longer_than(limit: int) -> Iterator[None]:
    """Let the operating system refuse to extend any file of this process beyond a limit."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# P14.8
async def test_where_the_disk_is_full_of_the_log_it_is_begun_anew(store: Store) -> None:
    """The commit that finds the disk full fails. The next access makes room, so that the store can be used again."""
    epoch = await hold(store)
    for number in range(20):
        await store.backend.commit(epoch, [Row(A, b"%d" % number)], NOW, DURATION, may_release=False)
    with no_file_longer_than(store.path.with_name("store-wal").stat().st_size):
        with pytest.raises(StorageFailed):
            await store.backend.commit(epoch, [Row(A, b"new")], NOW, DURATION, may_release=False)
        epoch = (await store.backend.acquire(ME, "me", NOW, DURATION)).epoch
        assert (await store.backend.commit(epoch, [Row(A, b"new")], NOW, DURATION, may_release=False)).version == 21
