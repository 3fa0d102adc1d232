"""Helpers of the tests of the SQLite backend: a store with a second connection, and its operations."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from checking.replay.world import forget_version
from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds, Version
from unwedged.protocol.lease import Lease
from unwedged.store import statements
from unwedged.store.backend import Backend, Row, RowName
from unwedged.store.sqlite import SqliteBackend

ME, OTHER = InstanceId(1), InstanceId(2)
NOW, DURATION = Milliseconds(1_000_000), Milliseconds(2_000)
A, B, C = RowName("device", b"a"), RowName("device", b"b"), RowName("session", b"a")
Dump = list[str]
Operation = Callable[[SqliteBackend], Awaitable[object]]


class Store:
    """A store in a file, with a second connection that reads and changes the file without the backend."""

    def __init__(self, backend: SqliteBackend, path: Path) -> None:
        self.backend = backend
        self.path = path
        self.resets = 0
        self.raw = sqlite3.connect(path, isolation_level=None, timeout=0)
        self.raw.execute("PRAGMA synchronous = OFF")

    async def close(self) -> None:
        self.raw.close()
        await self.backend.close()

    def dump(self) -> Dump:
        return list(self.raw.iterdump())

    def reset(self, row: Lease = Lease(Epoch(0), None, Milliseconds(0), wanted=False), label: str = "") -> None:  # noqa: B008 (immutable)
        self.resets += 1
        forget_version(self.backend)
        self.raw.execute("BEGIN")
        self.raw.execute("DELETE FROM record")
        self.raw.execute("DELETE FROM change")
        self.raw.execute(
            "UPDATE state SET version = 0, floor = 0, epoch = ?, holder = ?, expires = ?, wanted = ?, label = ?",
            (row.epoch, row.holder, row.expires, row.wanted, label),
        )
        self.raw.execute("COMMIT")

    def state(self) -> tuple[Lease, str]:
        row = self.raw.execute("SELECT epoch, holder, expires, wanted, label FROM state").fetchone()
        return Lease(row[0], row[1], row[2], bool(row[3])), row[4]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the write lock. This fails if the backend is still inside a transaction."""
        self.raw.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            self.raw.execute("ROLLBACK")


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteBackend]:
    """Open a backend, and close it in any case."""
    backend = await SqliteBackend.open(path)
    try:
        yield backend
    finally:
        await backend.close()


async def open_and_close(path: Path) -> None:
    async with opened(path):
        pass


class Run:
    """A loop and a store for properties, which are functions and not coroutines."""

    def __init__(self, runner: asyncio.Runner, store: Store) -> None:
        self.runner = runner
        self.store = store

    @property
    def backend(self) -> SqliteBackend:
        return self.store.backend


def implements(backend: SqliteBackend) -> Backend:
    """Show the type checker that the backend has every method of the interface, with its types."""
    return backend


async def hold(store: Store) -> Epoch:
    return await acquired(store.backend)


async def acquired(backend: SqliteBackend) -> Epoch:
    return (await backend.acquire(ME, "me", NOW, DURATION)).epoch


def bad_row() -> Row:
    """Return a row that SQLite refuses, since the tables are strict."""
    return Row(RowName("device", "no bytes"), b"")  # type: ignore[arg-type]


ROWS = [Row(A, b"new"), Row(B, None), Row(C, b"new")]
HOPS: dict[str, Operation] = {
    "commit": lambda backend: backend.commit(Epoch(1), ROWS, Milliseconds(NOW + 1), DURATION, may_release=True),
    "commit-fails": lambda backend: backend.commit(Epoch(1), [*ROWS, bad_row()], NOW, DURATION, may_release=True),
    "commit-fenced": lambda backend: backend.commit(Epoch(9), ROWS, NOW, DURATION, may_release=True),
    "truncate": lambda backend: backend.truncate(Version(9)),
    "sealing": lambda backend: backend.sealing(b"header"),
    "keys": lambda backend: backend.keys(Epoch(1), "device", Version(0)),
}
SHORT: dict[str, Operation] = {
    "acquire": lambda backend: backend.acquire(ME, "again", NOW, DURATION),
    "acquire-refused": lambda backend: backend.acquire(OTHER, "other", NOW, DURATION),
    "renew": lambda backend: backend.renew(Epoch(1), Milliseconds(NOW + 1), DURATION),
    "release": lambda backend: backend.release(Epoch(1)),
}


async def prepared(path: Path) -> Store:
    """Create a store with two records, and acquire its lease. The caller closes the store."""
    backend = await SqliteBackend.open(path)
    await backend._read("PRAGMA synchronous = OFF", {})
    store = Store(backend, path)
    await backend.acquire(ME, "me", NOW, DURATION)
    await backend.commit(Epoch(1), [Row(A, b"old"), Row(B, b"old")], NOW, DURATION, may_release=False)
    return store


class Stopped:
    """Blocks a commit before its last statement, on the driver's thread, while the event loop runs on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self._go_on = asyncio.Event(), threading.Event()
        self._lateness, self._loop = statements.lateness, asyncio.get_running_loop()
        monkeypatch.setattr(statements, "lateness", self._stop)

    def _stop(self, began_seconds: float, duration_ms: Milliseconds) -> Milliseconds:
        self._loop.call_soon_threadsafe(self.reached.set)
        assert self._go_on.wait(60)
        return self._lateness(began_seconds, duration_ms)

    def go_on(self) -> None:
        self._go_on.set()


class Ticks:
    """A clock that returns the given times one by one, and then always the last one."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = list(seconds)

    def __call__(self) -> float:
        return self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]


async def running(operation: Awaitable[object]) -> None:
    await operation


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


async def unchanged(path: Path, error: type[Exception]) -> None:
    """Check that opening ``path`` raises this exception, and leaves the folder unchanged."""
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(error):
        await open_and_close(path)
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before
