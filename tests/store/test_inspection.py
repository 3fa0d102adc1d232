"""The inspection of a store shows one version, and changes no file."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds, Version
from unwedged.protocol.lease import Lease
from unwedged.store import inspection, schema
from unwedged.store.backend import Row, RowName
from unwedged.store.errors import (
    ForkedStore,
    InvalidArgument,
    NotAStore,
    SeveralNames,
    StorageFailed,
    UnsupportedSchema,
)
from unwedged.store.inspection import Inspection, inspect
from unwedged.store.sqlite import SqliteBackend

NOW, DURATION = Milliseconds(5_000), Milliseconds(2_000)
A, B, C = RowName("device", b"a"), RowName("device", b"b"), RowName("session", b"a")


async def fill(path: Path) -> SqliteBackend:
    """Create a store with three commits, and leave it open."""
    backend = await SqliteBackend.open(path)
    epoch = (await backend.acquire(InstanceId(7), "phone app", NOW, DURATION)).epoch
    for rows in ([Row(A, b"1"), Row(C, b"1")], [Row(B, b"2")], [Row(C, b"3")]):
        await backend.commit(epoch, rows, NOW, DURATION, may_release=False)
    await backend.truncate(Version(1))
    await backend.acquire(InstanceId(8), "extension", NOW, DURATION)
    return backend


@asynccontextmanager
async def filled(path: Path) -> AsyncIterator[SqliteBackend]:
    backend = await fill(path)
    try:
        yield backend
    finally:
        await backend.close()


def expected(identity: str) -> Inspection:
    return Inspection(
        schema=1,
        identity=identity,
        version=Version(3),
        floor=Version(1),
        lease=Lease(Epoch(1), InstanceId(7), Milliseconds(7_000), wanted=True),
        label="phone app",
        records={"device": 2, "session": 1},
        changes=((Version(2), "device", 1), (Version(3), "session", 1)),
    )


def folder(path: Path) -> dict[str, tuple[bytes, int]]:
    """Read every file of a folder except the index of the write-ahead log, where SQLite keeps its readers' locks."""
    return {
        file.name: (file.read_bytes(), file.stat().st_mtime_ns)
        for file in path.iterdir()
        if not file.name.endswith("-shm")
    }


async def test_a_store_that_nobody_has_open(tmp_path: Path) -> None:
    async with filled(tmp_path / "store") as backend:
        pass
    before = folder(tmp_path)
    assert inspect(tmp_path / "store") == expected(backend.identity.hex())
    assert folder(tmp_path) == before
    assert not (tmp_path / "store-shm").exists()


async def test_a_store_that_is_open_here(tmp_path: Path) -> None:
    async with filled(tmp_path / "store") as backend:
        before = folder(tmp_path)
        assert inspect(tmp_path / "store") == expected(backend.identity.hex())
        assert folder(tmp_path) == before
        await backend.commit(Epoch(1), [Row(A, None)], NOW, DURATION, may_release=False)
        assert inspect(tmp_path / "store").version == 4, "the last commit is seen"
        assert inspect(tmp_path / "store").records == {"device": 1, "session": 1}


async def test_a_transaction_that_is_under_way_is_not_seen_and_not_waited_for(tmp_path: Path) -> None:
    async with filled(tmp_path / "store"):
        with closing(sqlite3.connect(tmp_path / "store", isolation_level=None)) as raw:
            raw.execute("BEGIN IMMEDIATE")
            raw.execute("UPDATE state SET version = 9")
            assert inspect(tmp_path / "store").version == 3
            raw.execute("ROLLBACK")


async def test_an_inspection_is_of_one_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The promise also holds if another process commits during the inspection."""
    async with filled(tmp_path / "store") as backend:
        identity = backend.identity.hex()
        with closing(sqlite3.connect(tmp_path / "store", isolation_level=None)) as raw:

            def meanwhile(*census: int) -> int:
                raw.execute("UPDATE state SET version = 9")
                return schema.version_of(*census)

            monkeypatch.setattr(inspection, "version_of", meanwhile)
            assert inspect(tmp_path / "store") == expected(identity)
    monkeypatch.undo()
    assert inspect(tmp_path / "store").version == 9


async def test_a_store_that_is_opened_and_closed_meanwhile_is_inspected_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process has it open, so it is read as an immutable file. If it changed meanwhile, the result is discarded."""
    path = tmp_path / "store"
    async with filled(path):
        pass
    read = inspection._read
    reads = []

    def overtaken(of: Path, lines: int, *, immutable: bool) -> Inspection:
        reads.append(immutable)
        result = read(of, lines, immutable=immutable)
        if len(reads) == 1:
            with closing(sqlite3.connect(path, isolation_level=None)) as raw:
                raw.execute("UPDATE state SET version = 9")
        return result

    monkeypatch.setattr(inspection, "_read", overtaken)
    assert inspect(path).version == 9
    assert len(reads) == 2


async def test_the_kinds_of_one_version_are_in_order(tmp_path: Path) -> None:
    async with filled(tmp_path / "store") as backend:
        rows = [Row(name, b"4") for name in (C, A)]
        await backend.commit(Epoch(1), rows, NOW, DURATION, may_release=False)
        assert inspect(tmp_path / "store", lines=2).changes == ((4, "device", 1), (4, "session", 1))


async def test_the_records_of_one_version_and_kind_are_counted(tmp_path: Path) -> None:
    async with filled(tmp_path / "store") as backend:
        rows = [Row(name, b"4") for name in (A, B, C)]
        await backend.commit(Epoch(1), rows, NOW, DURATION, may_release=False)
        assert inspect(tmp_path / "store", lines=3).changes == ((3, "session", 1), (4, "device", 2), (4, "session", 1))


async def test_a_file_with_two_names_is_refused_by_either(tmp_path: Path) -> None:
    """The commits are in the log beside one of the names: read by the other name, the store would look outdated."""
    path, other = tmp_path / "store", tmp_path / "other"
    async with filled(path) as backend:
        other.hardlink_to(path)
        before = folder(tmp_path)
        for name in (path, other):
            with pytest.raises(SeveralNames):
                inspect(name)
        assert folder(tmp_path) == before
        other.unlink()
        assert inspect(path) == expected(backend.identity.hex())


async def test_a_symbolic_link_is_no_second_name(tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(tmp_path / "store")
    async with filled(tmp_path / "store") as backend:
        assert inspect(tmp_path / "other") == expected(backend.identity.hex())


CRASH = """
import asyncio, os, pathlib, signal, sys
sys.path.insert(0, sys.argv[2])
import test_inspection

async def main():
    backend = await test_inspection.fill(pathlib.Path(sys.argv[1]))
    print(backend.identity.hex(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@pytest.mark.parametrize("index", ["kept", "lost"])
def test_a_store_whose_last_user_crashed(tmp_path: Path, index: str) -> None:
    arguments = [sys.executable, "-c", CRASH, str(tmp_path / "store"), str(Path(__file__).parent)]
    # The child gets this process's module paths, so that it finds the package in any installation.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    assert child.returncode == -signal.SIGKILL, child.stderr
    before = folder(tmp_path)
    assert sorted(before) == ["store", "store-wal"]
    if index == "lost":
        (tmp_path / "store-shm").unlink()
    assert inspect(tmp_path / "store") == expected(child.stdout.strip())
    assert folder(tmp_path) == before


async def test_as_many_lines_as_asked_for(tmp_path: Path) -> None:
    async with filled(tmp_path / "store"):
        assert inspect(tmp_path / "store", lines=1).changes == ((3, "session", 1),)
        assert inspect(tmp_path / "store", lines=0).changes == ()


@pytest.mark.parametrize("lines", [10**30, -1, "x", None, 1.5, True], ids=repr)
async def test_a_number_of_lines_is_one_that_there_may_be(tmp_path: Path, lines: int) -> None:
    async with filled(tmp_path / "store"):
        with pytest.raises(InvalidArgument, match="number of lines"):
            inspect(tmp_path / "store", lines)


def test_what_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "notes").write_text("Some notes of mine.\n" * 200)
    before = folder(tmp_path)
    for name in ("empty", "notes"):
        with pytest.raises(NotAStore):
            inspect(tmp_path / name)
    for name, what in (("missing", "No such file"), (".", "it is a directory")):
        with pytest.raises(StorageFailed, match=what):
            inspect(tmp_path / name)
    with pytest.raises(InvalidArgument, match="a path is not empty"):
        inspect("")
    assert folder(tmp_path) == before


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageFailed, match="no regular file"):
        inspect(tmp_path / "pipe")


def test_symbolic_links_that_lead_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with pytest.raises(StorageFailed, match="symbolic links"):
        inspect(tmp_path / "one")


async def test_a_process_that_inherited_the_file_does_not_look(tmp_path: Path) -> None:
    """If it closed the file, its parent could lose its locks."""
    async with filled(tmp_path / "store"):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                inspect(tmp_path / "store")
            except ForkedStore:
                status = 0
            finally:
                os._exit(status)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert inspect(tmp_path / "store").version == 3


async def test_a_newer_schema(tmp_path: Path) -> None:
    async with filled(tmp_path / "store"):
        pass
    with closing(sqlite3.connect(tmp_path / "store")) as connection:
        connection.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    before = folder(tmp_path)
    with pytest.raises(UnsupportedSchema):
        inspect(tmp_path / "store")
    assert folder(tmp_path) == before


async def test_a_name_that_a_web_address_would_read_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=rwc#b%20c"
    async with filled(path) as backend:
        assert inspect(path) == expected(backend.identity.hex())
    assert inspect(path) == expected(backend.identity.hex())
