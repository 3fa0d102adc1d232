"""A store with an older schema is migrated, and a store with a newer schema is refused."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.store.sqlite.backends import (
    HOPS,
    SHORT,
    A,
    Operation,
    Store,
    acquired,
    hold,
    open_and_close,
    opened,
    prepared,
    unchanged,
)
from unwedged.protocol.identifiers import Epoch, Version
from unwedged.store import schema
from unwedged.store.errors import NotAStore, UnsupportedSchema


# P13.3
async def test_a_newer_schema(tmp_path: Path) -> None:
    await open_and_close(tmp_path / "store")
    with closing(sqlite3.connect(tmp_path / "store")) as connection:
        connection.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    await unchanged(tmp_path / "store", UnsupportedSchema)


# P17.6, P20.1, P20.2
async def test_an_older_schema_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store"
    store = await prepared(path)
    await store.close()
    monkeypatch.setattr(
        schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE later (x)", "CREATE TABLE state (x)"))
    )
    await unchanged(path, NotAStore)  # The migration fails half way, and is rolled back.
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS[:1], ("ALTER TABLE state ADD COLUMN later INTEGER",)))
    async with opened(path) as backend:
        assert (await backend._read("PRAGMA user_version", {}))[0][0] == 2
        assert (await backend._read("SELECT later FROM state", {}))[0][0] is None
        epoch = await acquired(backend)
        assert epoch == 3, "the migration took one, so that older programs are fenced off"
        assert (await backend.load(epoch, A, Version(0))).value == b"old"
    monkeypatch.undo()
    await unchanged(path, UnsupportedSchema)


COMPATIBLE = ("ALTER TABLE state ADD COLUMN later INTEGER",)
INCOMPATIBLE = ("ALTER TABLE state RENAME TO states", "CREATE VIEW state AS SELECT NULL AS epoch, NULL AS holder")


def migrate(store: Store, statements: tuple[str, ...]) -> None:
    """Migrate the store, as a newer program does when it opens it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, statements))
        if statements is INCOMPATIBLE:
            patch.setattr(schema, "FENCE_OFF", "UPDATE states SET epoch = epoch + 1, holder = NULL")
        upgrade = schema.upgrade(1)
    store.raw.execute("BEGIN IMMEDIATE")
    for statement in upgrade:
        store.raw.execute(statement)
    store.raw.execute("COMMIT")


ACCESSES: dict[str, Operation] = HOPS | SHORT | {
    "look": lambda backend: backend.look(),
    "check": lambda backend: backend.check(Epoch(1)),
    "sync": lambda backend: backend.changes(Version(0), Epoch(1)),
    "listen": lambda backend: backend.changes(Version(0), None),
    "load": lambda backend: backend.load(Epoch(1), A, Version(0)),
    "reseal": lambda backend: backend.reseal(b"old", b"new"),
}  # fmt: skip


# P16.9, P16.10, P20.3
@pytest.mark.parametrize("statements", [COMPATIBLE, INCOMPATIBLE], ids=["compatible", "incompatible"])
@pytest.mark.parametrize("access", [name for name in ACCESSES if name not in {"release", "commit-fails"}])
async def test_a_store_that_a_newer_program_migrates_is_closed_to_an_older_one(
    tmp_path: Path, access: str, statements: tuple[str, ...]
) -> None:
    """``schema-moves-on``: every access raises a named exception, and changes nothing.

    A poll is allowed if the migration did not change the lease row. Polls are very frequent, and the acquisition that
    follows is refused.
    """
    store = await prepared(tmp_path / "store")
    try:
        migrate(store, statements)
        before = store.dump()
        if (access, statements) == ("look", COMPATIBLE):
            assert (await store.backend.look()).holder is None
            access = "acquire"
        with pytest.raises(UnsupportedSchema, match="version 2"):
            await ACCESSES[access](store.backend)
        assert store.dump() == before
        with store.locked():
            pass
    finally:
        await store.close()


# P20.2
async def test_a_migration_takes_the_lease_away(store: Store) -> None:
    epoch = await hold(store)
    migrate(store, COMPATIBLE)
    row, _ = store.state()
    assert (row.epoch, row.holder) == (epoch + 1, None)
    await store.backend.release(epoch)  # It is not refused, and changes nothing.
    assert store.state()[0] == row
