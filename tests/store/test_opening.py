"""Opening a store compares the files with what the application expects."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.store.stores import COUNTER, KEY, count_up
from tests.store.worker import look
from unwedged.protocol.identifiers import Version
from unwedged.store import (
    AnotherStore,
    CryptoStore,
    Existence,
    InvalidArgument,
    NotAStore,
    SeveralNames,
    StorageFailed,
    StoreExists,
    StoreMark,
    StoreMissing,
    StoreRolledBack,
    database,
)


async def opened(path: Path, expect: Existence = Existence.ANY, not_before: StoreMark | None = None) -> CryptoStore:
    return await CryptoStore.open(path, key=KEY, label="test", kinds=[COUNTER], expect=expect, not_before=not_before)


async def counted(path: Path, times: int = 1) -> StoreMark:
    """Open or create a store, increment its counter, and return its mark."""
    async with await opened(path) as store:
        for _ in range(times):
            await store.run(count_up)
        return store.mark()


async def refused(path: Path, error: type[Exception], opening: Callable[[], object]) -> None:
    """Check that opening raises this exception, and that the folder stays unchanged."""
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(error):
        await opening()  # type: ignore[misc]  # a coroutine
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


class TestExistence:
    """``identity-where-none-was-expected``."""

    # P17.1, P17.3, P17.4
    async def test_what_must_exist_is_never_made(self, tmp_path: Path) -> None:
        path = tmp_path / "store"
        await refused(path, StoreMissing, lambda: opened(path, Existence.EXISTING))
        path.touch()
        await refused(path, StoreMissing, lambda: opened(path, Existence.EXISTING))
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        assert path.stat().st_size, "as a process leaves it that is killed while making a store"
        await refused(path, StoreMissing, lambda: opened(path, Existence.EXISTING))
        await counted(path)
        async with await opened(path, Existence.EXISTING) as store:
            assert await store.run(count_up) == 2

    # P17.4, P17.7
    async def test_a_store_without_a_key_is_none_yet(self, tmp_path: Path) -> None:
        path = tmp_path / "store"
        await counted(path)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("UPDATE header SET sealing = NULL")
        await refused(path, StoreMissing, lambda: opened(path, Existence.EXISTING))
        async with await opened(path, Existence.NEW) as store:
            assert store.mark().version == 1, "so that whoever wants to make one is not kept from it for ever"
        await refused(path, StoreExists, lambda: opened(path, Existence.NEW))

    # P17.4
    async def test_what_must_be_new_is_never_opened(self, tmp_path: Path) -> None:
        path = tmp_path / "store"
        async with await opened(path, Existence.NEW) as store:
            assert await store.run(count_up) == 1
        await refused(path, StoreExists, lambda: opened(path, Existence.NEW))

    async def test_of_many_that_make_it_one_succeeds(self, tmp_path: Path) -> None:
        attempts = (opened(tmp_path / "store", Existence.NEW) for _ in range(8))
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        stores = [outcome for outcome in outcomes if isinstance(outcome, CryptoStore)]
        assert len(stores) == 1
        assert sum(isinstance(outcome, StoreExists) for outcome in outcomes) == 7
        await stores[0].close()

    # P17.6
    async def test_another_process_may_make_it_at_the_last_moment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, transaction = tmp_path / "store", database.transaction

        def late(work: Callable[[sqlite3.Connection], None], connection: sqlite3.Connection) -> None:
            monkeypatch.undo()
            asyncio.run(counted(path))
            transaction(work, connection)

        monkeypatch.setattr(database, "transaction", late)
        with pytest.raises(StoreExists) as refusal:
            await opened(path, Existence.NEW)
        assert str(path) in "".join(refusal.value.__notes__)
        async with await opened(path, Existence.EXISTING) as store:
            assert await store.run(count_up) == 2

    # P17.7
    async def test_of_two_that_give_it_a_key_one_has_made_it(self, tmp_path: Path) -> None:
        path = tmp_path / "store"
        await counted(path)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("UPDATE header SET sealing = NULL")
        outcomes = await asyncio.gather(*(opened(path, Existence.NEW) for _ in range(4)), return_exceptions=True)
        assert sum(isinstance(outcome, StoreExists) for outcome in outcomes) == 3
        for outcome in outcomes:
            if isinstance(outcome, CryptoStore):
                await outcome.close()

    # P17.9
    async def test_a_store_that_was_marked_is_missing_where_there_is_an_empty_file(self, tmp_path: Path) -> None:
        mark = await counted(tmp_path / "store")
        (tmp_path / "other").touch()
        with pytest.raises(StoreMissing, match=r"nothing was ever written.*a mark of it was given"):
            await opened(tmp_path / "other", not_before=mark)


class TestNames:
    """``two-names-for-one-file``."""

    # P17.3, P18.7
    async def test_a_file_with_two_names_is_refused(self, tmp_path: Path) -> None:
        """SQLite would keep a log for each name, and two programs would not see each other's writes."""
        path, other = tmp_path / "store", tmp_path / "other"
        await counted(path)
        other.hardlink_to(path)
        for name in (path, other):
            for expect in (Existence.ANY, Existence.EXISTING):
                await refused(name, SeveralNames, lambda name=name, expect=expect: opened(name, expect))  # type: ignore[misc]
        other.unlink()
        async with await opened(path) as store:
            assert await store.run(count_up) == 2

    async def test_an_empty_file_with_two_names_is_refused(self, tmp_path: Path) -> None:
        path, other = tmp_path / "store", tmp_path / "other"
        path.touch(0o644)
        other.hardlink_to(path)
        await refused(path, SeveralNames, lambda: opened(path))
        assert path.stat().st_mode & 0o777 == 0o644

    async def test_a_file_that_has_got_another_name_during_a_pause_is_refused(self, tmp_path: Path) -> None:
        path, other = tmp_path / "store", tmp_path / "other"
        async with await opened(path) as store:
            await store.pause()
            other.hardlink_to(path)
            with pytest.raises(SeveralNames):
                await store.resume()
            other.unlink()
            assert await store.run(count_up) == 1

    async def test_another_name_does_not_stop_a_store_that_is_open(self, tmp_path: Path) -> None:
        """No program opens it by that name."""
        path, other = tmp_path / "store", tmp_path / "other"
        async with await opened(path) as store:
            other.hardlink_to(path)
            await refused(other, SeveralNames, lambda: opened(other))
            assert await store.run(count_up) == 1

    # P18.7
    async def test_a_symbolic_link_is_no_second_name(self, tmp_path: Path) -> None:
        path, other = tmp_path / "store", tmp_path / "other"
        other.symlink_to(path)
        async with await opened(path) as one, await opened(other) as two:
            assert [await store.run(count_up) for store in (one, two, one)] == [1, 2, 3]


class TestPlaces:
    """The exception says what is at the path in place of a store."""

    # P17.3
    @pytest.mark.parametrize(
        ("name", "what"),
        [
            (".", "it is a directory"),
            ("pipe", "no regular file"),
            ("missing/store", "the folder that it was to be in"),
            ("circle", "symbolic links"),
        ],
    )
    async def test_where_no_store_can_be(self, tmp_path: Path, name: str, what: str) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "circle").symlink_to("circle")
        with pytest.raises(StorageFailed, match=what):
            await opened(tmp_path / name)
        assert sorted(os.listdir(tmp_path)) == ["circle", "pipe"]  # noqa: PTH208 (and not ASYNC240)


class TestRemains:
    """A store must not be created on the remains of another one."""

    # P17.2
    @pytest.mark.parametrize("left", ["missing", "empty"])
    async def test_a_log_without_its_file(self, tmp_path: Path, left: str) -> None:
        path = tmp_path / "left" / "store"
        path.parent.mkdir()
        async with await opened(tmp_path / "store") as store:
            await store.run(count_up)
            shutil.copy(tmp_path / "store-wal", path.parent)
        if left == "empty":
            path.touch()
        for expect in Existence:
            await refused(path, NotAStore, lambda expect=expect: opened(path, expect))  # type: ignore[misc]

    # P17.2
    async def test_a_journal_without_its_file(self, tmp_path: Path) -> None:
        path = tmp_path / "store"
        journal(tmp_path, "CREATE TABLE before (x)")
        await refused(path, NotAStore, lambda: opened(path))

    async def test_a_process_killed_while_making_a_store_is_no_hindrance(self, tmp_path: Path) -> None:
        journal(tmp_path, "SELECT 1")
        (tmp_path / "store").touch()
        await counted(tmp_path / "store")
        assert not (tmp_path / "store-journal").exists()

    async def test_an_empty_log_holds_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "store-wal").touch()
        await counted(tmp_path / "store")


def journal(folder: Path, before: str) -> None:
    """Leave a rollback journal, like a process that is killed in the middle of a transaction."""
    with closing(sqlite3.connect(folder / "other", isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.execute(before)
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE x (x)")
        for _ in range(100):  # more than the cache holds, so the journal is complete before the file is written
            connection.execute("INSERT INTO x VALUES (randomblob(3000))")
        shutil.copy(folder / "other-journal", folder / "store-journal")
        connection.execute("ROLLBACK")
    (folder / "other").unlink()


class TestMarks:
    """``restored-backup``."""

    # P17.5, P17.9
    async def test_an_older_copy_that_was_put_back_is_refused(self, tmp_path: Path) -> None:
        path, backup = tmp_path / "store", tmp_path / "backup"
        early = await counted(path, 2)
        shutil.copy(path, backup)
        late = await counted(path, 3)
        assert (early.identity, early.version) == (late.identity, 2)
        assert late.version == 5
        async with await opened(path, not_before=late) as store:
            assert await store.run(count_up) == 6

        backup.replace(path)
        await refused(path, StoreRolledBack, lambda: opened(path, not_before=late))
        async with await opened(path, not_before=early) as store:
            assert await store.run(count_up) == 3, "as far as that mark can tell"

    # P17.5
    async def test_another_store_is_refused(self, tmp_path: Path) -> None:
        mark = await counted(tmp_path / "store")
        other = await counted(tmp_path / "other", 9)
        assert mark.identity != other.identity
        await refused(tmp_path / "store", AnotherStore, lambda: opened(tmp_path / "store", not_before=other))

    # P17.9
    async def test_where_a_store_was_marked_none_is_made(self, tmp_path: Path) -> None:
        mark = StoreMark("00" * 16, Version(1))
        await refused(tmp_path / "store", StoreMissing, lambda: opened(tmp_path / "store", not_before=mark))
        with pytest.raises(InvalidArgument):
            await opened(tmp_path / "store", Existence.NEW, not_before=mark)

    # P17.9
    async def test_a_mark_knows_what_others_committed_as_soon_as_this_process_does(self, tmp_path: Path) -> None:
        path = tmp_path / "store"
        async with await opened(path) as one, await opened(path) as other:
            await one.run(count_up)
            assert other.mark().version == 0
            await other.run(count_up)
            assert other.mark() == StoreMark(one.mark().identity, Version(2))

    async def test_a_mark_covers_what_was_published_to_subscribers(self, tmp_path: Path) -> None:
        """A process that paused at that mark must refuse an older copy, even if nothing was read since."""
        path = tmp_path / "store"
        async with await opened(path) as one, await opened(path) as other, other.subscribe(COUNTER):
            await one.run(count_up)
            await other._publish_foreign_commits()
            assert other.statistics().version == 0
            assert other.mark().version == 1
        look(path)
