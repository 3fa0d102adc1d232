"""Stores in files, for the tests of the SQLite backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.store.sqlite.backends import Run, Store
from unwedged.store import database
from unwedged.store.sqlite import SqliteBackend


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    backend = await SqliteBackend.open(tmp_path / "store")
    store = Store(backend, tmp_path / "store")
    yield store
    await store.close()


@pytest.fixture
def run(tmp_path: Path, record_property: Callable[[str, object], None]) -> Iterator[Run]:
    with asyncio.Runner() as runner:
        backend = runner.run(SqliteBackend.open(tmp_path / "store"))
        store = Store(backend, tmp_path / "store")
        # These tests do not check durability, and without syncs to disk they are fast.
        runner.run(backend._read("PRAGMA synchronous = OFF", {}))
        yield Run(runner, store)
        record_property("examples", store.resets)  # one reset per example; `python -m proofs sql` reads this
        runner.run(store.close())


@pytest.fixture
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "monotonic_seconds", lambda: 0.0)
