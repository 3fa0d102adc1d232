"""A commit is durable, only the owner can read the file, and a foreign or damaged file is refused."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.store.sqlite.backends import (
    DURATION,
    ME,
    NOW,
    ROWS,
    A,
    B,
    Store,
    acquired,
    hold,
    names_in,
    open_and_close,
    opened,
    prepared,
    unchanged,
)
from unwedged.protocol.identifiers import Version
from unwedged.store import database, files, schema
from unwedged.store.backend import Row
from unwedged.store.errors import (
    LeaseLost,
    NotAStore,
    StorageFailed,
    StoreClosed,
    StoreReplaced,
    UnsupportedSchema,
)
from unwedged.store.sqlite import SqliteBackend


# P5.19, P13.7, P13.8
async def test_the_durability_that_is_promised(store: Store) -> None:
    for pragma, value in (("journal_mode", "wal"), ("synchronous", 2), ("secure_delete", 1)):
        assert (await store.backend._read(f"PRAGMA {pragma}", {}))[0][0] == value


# P13.11
async def test_only_the_lease_is_written_without_waiting_for_the_disk(store: Store) -> None:
    assert store.backend._loop_connection.execute("PRAGMA synchronous").fetchone() == (1,)
    written: dict[str, list[str]] = {"durable": [], "here": []}
    await store.backend._driver.set_trace_callback(written["durable"].append)

    def write(statement: str) -> None:
        if "UPDATE" in statement:  # but not the schema query that some statements contain
            written["here"].append(statement)

    store.backend._loop_connection.set_trace_callback(write)
    epoch = await hold(store)
    await store.backend.renew(epoch, NOW, DURATION)
    assert written["durable"] == []
    assert len(written["here"]) == 2
    await store.backend.commit(epoch, [Row(A, b"value")], NOW, DURATION, may_release=False)
    await store.backend.truncate(Version(1))
    await store.backend.sealing(b"header")
    assert len(written["here"]) == 2
    assert written["durable"].count("COMMIT") == 3
    await store.backend.release(epoch)
    assert len(written["here"]) == 3


# P13.7
async def test_old_values_leave_the_file(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = Store(await SqliteBackend.open(path), path)
    epoch = await hold(store)
    old = [Row(A, b"ratchet state of old" * 40), Row(B, b"deleted ratchet" * 400)]
    await store.backend.commit(epoch, old, NOW, DURATION, may_release=False)
    store.raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert "ratchet" in text(path)
    await store.backend.commit(epoch, [Row(A, b"new"), Row(B, None)], NOW, DURATION, may_release=False)
    await store.close()
    assert names_in(tmp_path) == ["store"]
    assert "ratchet" not in text(path)


def text(path: Path) -> str:
    return path.read_bytes().decode("latin-1")


@pytest.fixture
def careless_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


# P17.3
@pytest.mark.usefixtures("careless_umask")
@pytest.mark.parametrize("exists", [False, True])
async def test_only_the_owner_can_read_a_new_store(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "folder" / "store"
    path.parent.mkdir(0o755)
    if exists:
        path.touch(0o666)
    async with opened(path) as backend:
        await backend.acquire(ME, "me", NOW, DURATION)
        assert {file.name: mode(file) for file in path.parent.iterdir()} == {
            "store": 0o600, "store-wal": 0o600, "store-shm": 0o600
        }  # fmt: skip
    assert mode(path.parent) == 0o755


async def test_the_permissions_of_a_store_are_its_owners_choice(tmp_path: Path) -> None:
    path = tmp_path / "store"
    await open_and_close(path)
    path.chmod(0o640)
    await open_and_close(path)
    assert mode(path) == 0o640


# P17.6, P17.7
async def test_many_open_a_new_store_at_once(tmp_path: Path) -> None:
    backends = await asyncio.gather(*(SqliteBackend.open(tmp_path / "store") for _ in range(8)))
    assert len({backend.identity for backend in backends}) == 1
    headers = await asyncio.gather(*(backend.sealing(bytes([n])) for n, backend in enumerate(backends)))
    assert len(set(headers)) == 1, "the first header stands"
    for backend in backends:
        await backend.close()


async def test_places_where_no_store_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path, tmp_path / "nowhere" / "store", tmp_path / "file" / "store"):
        with pytest.raises(StorageFailed):
            await open_and_close(place)
    assert names_in(tmp_path) == ["file"]


# P13.3
@pytest.mark.parametrize("content", [b"xy", b"Some notes of mine.\n" * 200, b"SQLite format 3\x00" + bytes(4080)])
async def test_a_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "store").write_bytes(content)
    await unchanged(tmp_path / "store", NotAStore)


# P13.3, P17.4
@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE mine (x)",
        "PRAGMA user_version = 1",
        "PRAGMA application_id = 7",
        f"PRAGMA application_id = {schema.APPLICATION_ID}",
        f"PRAGMA application_id = {schema.APPLICATION_ID}; PRAGMA user_version = -1",
    ],
)
async def test_a_database_of_somebody_else(tmp_path: Path, script: str) -> None:
    with closing(sqlite3.connect(tmp_path / "store")) as connection:
        connection.executescript(script)
    await unchanged(tmp_path / "store", NotAStore)


# P17.5
@pytest.mark.parametrize("damage", ["DELETE FROM state", "DELETE FROM header", "DROP TABLE state", "DROP TABLE header"])
async def test_a_store_that_lacks_its_header_or_its_state(tmp_path: Path, damage: str) -> None:
    await open_and_close(tmp_path / "store")
    with closing(sqlite3.connect(tmp_path / "store", isolation_level=None)) as connection:
        connection.execute(damage)
    await unchanged(tmp_path / "store", NotAStore)


async def test_damage_within_the_file_is_named_as_what_it_is(tmp_path: Path) -> None:
    """The file is damaged, not the disk: a retry won't help, but a backup will."""
    path = tmp_path / "store"
    async with opened(path) as backend:
        row = await backend.acquire(ME, "me", NOW, DURATION)
        await backend.commit(row.epoch, [Row(A, b"value")], NOW, DURATION, may_release=False)
    with closing(sqlite3.connect(path)) as raw:
        [(page,)] = raw.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'record'")
        [(size,)] = raw.execute("PRAGMA page_size")
    content = bytearray(path.read_bytes())
    content[(page - 1) * size : page * size] = bytes([255]) * size
    path.write_bytes(content)
    async with opened(path) as backend:
        with pytest.raises(NotAStore, match="damaged"):
            await backend.load(row.epoch, A, Version(0))


class Libc:
    """A C library whose ``statx`` does not work as expected."""

    def __init__(self, answer: int) -> None:
        self._answer = answer

    def statx(self, *_: object) -> int:
        return self._answer


@pytest.mark.parametrize("libc", [object(), Libc(-1), Libc(0)], ids=["lacks it", "refuses it", "does nothing"])
def test_a_system_whose_statx_is_of_no_use(monkeypatch: pytest.MonkeyPatch, libc: object) -> None:
    monkeypatch.setattr(files, "_libc", lambda: libc)
    assert not files._has_statx()


# P18.1, P18.2
@pytest.mark.parametrize(
    "identity", [files._identity_by_stat, *([files._identity_by_statx] if files._has_statx() else [])]
)
async def test_a_file_that_was_replaced_is_noticed_either_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, identity: Callable[[str], files.Identity]
) -> None:
    monkeypatch.setattr(files, "_identity", identity)
    path, status = tmp_path / "store", os.stat(tmp_path)  # noqa: PTH116 (and not ASYNC240)
    assert identity(str(tmp_path)) == (status.st_dev, status.st_ino)
    with pytest.raises(FileNotFoundError):
        identity(str(path))
    async with opened(path) as backend:
        epoch = (await backend.acquire(ME, "me", NOW, DURATION)).epoch
        os.rename(path, tmp_path / "other")  # noqa: PTH104
        with pytest.raises(StoreReplaced):
            await backend.commit(epoch, ROWS, NOW, DURATION, may_release=False)
        os.rename(tmp_path / "other", path)  # noqa: PTH104
        await backend.commit(epoch, ROWS, NOW, DURATION, may_release=False)


# P18.2, P18.3, P18.4, P18.5
@pytest.mark.parametrize("name", ["acquire", "renew", "release", "commit", "truncate", "sealing", "reseal", "listen"])
async def test_nothing_is_written_into_a_file_that_was_replaced(tmp_path: Path, name: str) -> None:
    """No unfenced read uses the new file either."""
    path = tmp_path / "store"
    async with opened(path) as backend:
        epoch = await acquired(backend)
        accesses: dict[str, Callable[[], Awaitable[object]]] = {
            "acquire": lambda: backend.acquire(ME, "me", NOW, DURATION),
            "renew": lambda: backend.renew(epoch, NOW, DURATION),
            "release": lambda: backend.release(epoch),
            "commit": lambda: backend.commit(epoch, ROWS, NOW, DURATION, may_release=False),
            "truncate": lambda: backend.truncate(Version(0)),
            "sealing": lambda: backend.sealing(b"header"),
            "reseal": lambda: backend.reseal(b"header", b"other"),
            "listen": lambda: backend.changes(Version(0), None),
        }
        os.rename(path, tmp_path / "other")  # noqa: PTH104
        with pytest.raises(StoreReplaced):
            await accesses[name]()
        assert (await backend.check(epoch)).epoch == epoch
        assert (await backend.changes(Version(0), epoch)).version == 0
        os.rename(tmp_path / "other", path)  # noqa: PTH104
        await accesses[name]()


# P18.8
async def test_a_store_whose_file_can_no_longer_be_read_is_closed_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(files.Files, "only_the_log_is_lost", lambda _: True)
    monkeypatch.setattr(database, "connect_read_only", fail)
    await store.backend.close()
    with pytest.raises(StoreClosed):
        await store.backend.look()


# P14.6
def test_connecting_makes_no_file(tmp_path: Path) -> None:
    """A file that has disappeared is not created: SQLite would delete the log beside an empty file."""
    with pytest.raises(database.Error):
        database.connect(tmp_path / "gone")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Create a store, and close it."""

    async def make() -> None:
        store = await prepared(tmp_path / "whole")
        await store.close()

    asyncio.run(make())
    return tmp_path / "whole"


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.integers(0, 2**16), st.integers(1, 255))
def test_a_damaged_file_is_never_believed(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, place: int, flip: int
) -> None:
    """Any byte of the file may be damaged, structure included: each failure is a named exception."""
    path = tmp_path_factory.mktemp("damaged") / "store"
    content = bytearray(whole.read_bytes())
    used = [position for position, byte in enumerate(content) if byte]
    content[used[place % len(used)]] ^= flip
    path.write_bytes(content)

    async def use() -> None:
        backend = await SqliteBackend.open(path)
        try:
            row = await backend.acquire(ME, "me", NOW, DURATION)
            await backend.keys(row.epoch, "device", Version(0))
            loaded = await backend.load(row.epoch, A, Version(0))
            assert isinstance(loaded.value, bytes | None)
            await backend.changes(Version(0), None)
            await backend.commit(row.epoch, ROWS, NOW, DURATION, may_release=False)
        finally:
            await backend.close()

    with suppress(NotAStore, StorageFailed, UnsupportedSchema, LeaseLost):
        asyncio.run(use())
