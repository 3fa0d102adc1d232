"""The connections to a store's file: how they are opened, and how the file gets the newest schema.

*Durability* (P13.8). Write-ahead log with ``synchronous=FULL``: once a commit has returned, it survives a power cut. A
weaker setting would be faster and wrong: a ratchet could move back after its ciphertext has left. ``secure_delete``
overwrites old values in the file; the write-ahead log may keep them (sealed) until it is reused or the last process
closes the store.

*The lease* (P13.11) is written with ``synchronous=NORMAL``, on the loop's connection. A power cut may undo that write,
but it also ends every process. So no process is left that believes that it holds a lost lease, or whose epoch is given
out again. Nothing was committed under such an epoch either: the durable part of the log is always a prefix, so a
durable commit includes the acquisition before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from unwedged.store import database, statements
from unwedged.store.completion import run_to_completion
from unwedged.store.database import Connection, Driver, ResultRow
from unwedged.store.errors import StorageFailed
from unwedged.store.expectations import Expectations
from unwedged.store.files import Files, Identity, must_not_be_inherited
from unwedged.store.schema import CENSUS, IDENTITY, KEYED, identity_of, upgrade, version_of


@dataclass(frozen=True, slots=True)
class Connections:
    """A store's file while it is open."""

    driver: Driver
    on_loop: Connection
    files: Files
    identity: bytes
    """The store's own random identity."""


async def open_connections(path: Path, file: Identity, expected: Expectations) -> Connections:
    """Open the ``file`` that is at ``path``."""
    must_not_be_inherited(file)
    connect = partial(database.connect, path)
    on_loop, driver = connect(), Driver(connect)
    try:
        identity = await run_to_completion(_prepared(driver, on_loop, expected))
        return Connections(driver, on_loop, Files.opened_at(path, file), identity)
    except BaseException:
        on_loop.close()
        await run_to_completion(driver.close())
        raise


async def _prepared(driver: Driver, on_loop: Connection, expected: Expectations) -> bytes:
    """Open the driver's connection, make both ready, and return the store's identity."""
    connected = await driver
    assert connected is driver
    identity = await driver.call(partial(_prepare_driver, expected))
    await driver.call(lambda _: database.retry_while_busy(_prepare_on_loop, on_loop))
    return identity


def _prepare_on_loop(connection: Connection) -> None:
    """Prepare the connection for short statements; reading opens its write-ahead log."""
    connection.create_function("late", 2, statements.lateness)
    for statement in ("PRAGMA synchronous = NORMAL", "PRAGMA wal_autocheckpoint = 0", IDENTITY):
        database.rows(connection, statement, {})


def _prepare_driver(expected: Expectations, connection: Connection) -> bytes:
    """Check and update the schema, and return the store's identity. An unexpected file is left as it is."""

    def rows(statement: str) -> list[ResultRow]:
        return database.rows(connection, statement, {})

    def census() -> int:
        schema = version_of(*rows(CENSUS)[0])
        if not schema:
            expected.must_allow_none()
        elif rows(KEYED):
            expected.must_allow_one()
        return schema

    def identity() -> bytes:
        store, version = identity_of(connection)
        expected.must_allow(store, version)
        return store

    def upgraded(connection: Connection) -> None:
        # Read again: another process may have been here first.
        for statement in upgrade(census()):
            connection.execute(statement)

    if schema := census():
        identity()
    if rows("PRAGMA journal_mode = WAL")[0][0] != "wal":
        raise StorageFailed("this file system does not support SQLite's write-ahead log")
    for pragma in ("synchronous = FULL", "secure_delete = ON", "wal_autocheckpoint = 0"):
        rows(f"PRAGMA {pragma}")
    if upgrade(schema):
        database.transaction(upgraded, connection)
    return identity()
