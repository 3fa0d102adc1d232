"""A transaction and a view on cached records, against the least that could do the same work.

python -m tests.benchmarks.transactions --help
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Final

import aiosqlite
from tests.benchmarks.measuring import Effort, Rounds, Subject, Timed, each, in_rounds, program, results_of
from tests.benchmarks.reporting import compared, layers
from tests.benchmarks.stores import FOR_EVER, SESSIONS, WORDS, opened
from tests.store.olm import Host, OlmMessage, OlmSession, open_session

from unwedged.protocol.identifiers import Epoch
from unwedged.store import CryptoStore, Transaction, View
from unwedged.store.backend import Row, RowName
from unwedged.store.holding import RecordName

MODULE: Final = "tests.benchmarks.transactions"
KEY: Final = "alice"
TEXT: Final = "A message as short as most of those that people write to each other."

_BARE_SCHEMA: Final = "CREATE TABLE record (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT"
_BARE_PUT: Final = "INSERT INTO record VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
_BARE_FENCE: Final = "SELECT epoch FROM lease WHERE epoch = 1"
_LEASE_SCHEMA: Final = "CREATE TABLE lease (epoch INTEGER NOT NULL) STRICT"
_DURABLE: Final = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL")


def new_session() -> OlmSession:
    """Open an Olm session with somebody."""
    return open_session(Host().invitation)


def step(session: OlmSession) -> tuple[OlmMessage, bytes]:
    """Do what no store can spare: the ratchet step, and its pickle."""
    return session.encrypt(TEXT), session.pickled()


# Transactions, from the ratchet alone to all of it


@asynccontextmanager
async def ratchet(folder: Path) -> AsyncIterator[Timed]:  # noqa: ARG001 (a subject)
    """The ratchet step, without any store."""
    session = new_session()

    async def operation() -> OlmMessage:
        return step(session)[0]

    yield each(operation)


@asynccontextmanager
async def without_driver(folder: Path) -> AsyncIterator[Timed]:
    """The same, and a bare transaction of SQLite's on this thread."""
    session = new_session()
    with closing(sqlite3.connect(folder / "bare.db", isolation_level=None)) as connection:
        for statement in (*_DURABLE, _BARE_SCHEMA):
            connection.execute(statement)

        async def operation() -> OlmMessage:
            message, pickle = step(session)
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_BARE_PUT, (KEY, pickle))
            connection.execute("COMMIT")
            return message

        yield each(operation)


@asynccontextmanager
async def bare_transaction(folder: Path) -> AsyncIterator[Timed]:
    """The same through the driver that the store uses: the baseline."""
    session = new_session()
    async with aiosqlite.connect(folder / "bare.db", isolation_level=None) as connection:
        for statement in (*_DURABLE, _BARE_SCHEMA):
            await connection.execute(statement)

        async def operation() -> OlmMessage:
            message, pickle = step(session)
            await connection.execute("BEGIN IMMEDIATE")
            await connection.execute(_BARE_PUT, (KEY, pickle))
            await connection.commit()
            return message

        yield each(operation)


@asynccontextmanager
async def backend_commit(folder: Path) -> AsyncIterator[Timed]:
    """The store's own commit of an unsealed row: with fence, version, change log and secure deletion."""
    session = new_session()
    async with opened(folder / "store.db", idle_after=FOR_EVER) as store:
        epoch = await taken(store)

        async def operation() -> OlmMessage:
            message, pickle = step(session)
            row = Row(RowName(SESSIONS.name, KEY.encode()), pickle)
            await backend.commit(epoch, [row], parts.clock.now(), store.lock.times.duration)
            return message

        parts = store._parts
        backend = parts.backend
        yield each(operation)


@asynccontextmanager
async def sealed_commit(folder: Path) -> AsyncIterator[Timed]:
    """The same, and sealed."""
    session = new_session()
    async with opened(folder / "store.db", idle_after=FOR_EVER) as store:
        epoch = await taken(store)

        async def operation() -> OlmMessage:
            message, pickle = step(session)
            writes = {RecordName(SESSIONS.name, KEY.encode()): pickle}
            await parts.records.commit(epoch, writes, parts.clock.now(), store.lock.times.duration)
            return message

        parts = store._parts
        yield each(operation)


@asynccontextmanager
async def transaction(folder: Path) -> AsyncIterator[Timed]:
    """All of it, as programs use it."""

    async def meet(transaction: Transaction) -> None:
        transaction.put(SESSIONS, KEY, new_session())

    async def encrypt(transaction: Transaction) -> OlmMessage:
        session = await transaction.get(SESSIONS, KEY)
        assert session is not None
        message = session.encrypt(TEXT)
        transaction.put(SESSIONS, KEY, session)
        return message

    async with opened(folder / "store.db") as store:
        await store.run(meet)
        yield each(lambda: store.run(encrypt))


# Views


@asynccontextmanager
async def fence_without_driver(folder: Path) -> AsyncIterator[Timed]:
    """A look into a dict, and one fence query on this thread."""
    with closing(sqlite3.connect(folder / "bare.db", isolation_level=None)) as connection:
        for statement in (*_DURABLE, _LEASE_SCHEMA, "INSERT INTO lease VALUES (1)"):
            connection.execute(statement)
        records = {KEY: TEXT}

        async def operation() -> str:
            word = records[KEY]
            assert connection.execute(_BARE_FENCE).fetchall()
            return word

        yield each(operation)


@asynccontextmanager
async def bare_read(folder: Path) -> AsyncIterator[Timed]:
    """The same through the driver: the baseline."""
    async with aiosqlite.connect(folder / "bare.db", isolation_level=None) as connection:
        for statement in (*_DURABLE, _LEASE_SCHEMA, "INSERT INTO lease VALUES (1)"):
            await connection.execute(statement)
        records = {KEY: TEXT}

        async def operation() -> str:
            word = records[KEY]
            assert await connection.execute_fetchall(_BARE_FENCE)
            return word

        yield each(operation)


@asynccontextmanager
async def backend_check(folder: Path) -> AsyncIterator[Timed]:
    """The store's own fence query."""
    async with opened(folder / "store.db", idle_after=FOR_EVER) as store:
        epoch = await taken(store)
        yield each(lambda: store._parts.backend.check(epoch))


@asynccontextmanager
async def view(folder: Path) -> AsyncIterator[Timed]:
    """A view of one cached record, as programs use it."""

    async def write(transaction: Transaction) -> None:
        transaction.put(WORDS, KEY, TEXT)

    async def read(view: View) -> str | None:
        return await view.get(WORDS, KEY)

    async with opened(folder / "store.db") as store:
        await store.run(write)
        yield each(lambda: store.query(read))


async def taken(store: CryptoStore) -> Epoch:
    """Take the lease; return its epoch."""
    async with store.view() as view:
        return view.epoch


SUBJECTS: Final[dict[str, Subject]] = {
    "ratchet step and pickle": ratchet,
    "bare transaction, no driver": without_driver,
    "bare transaction": bare_transaction,
    "commit, not sealed": backend_commit,
    "commit": sealed_commit,
    "transaction": transaction,
    "bare read, no driver": fence_without_driver,
    "bare read": bare_read,
    "fence query": backend_check,
    "view": view,
}


def measure(effort: Effort) -> None:
    """Run all of it in rounds."""
    in_rounds(MODULE, effort)


def report() -> str:
    """Say what came of it."""
    rounds = Rounds(results_of(MODULE))
    return f"""## A transaction and a view, lease held

A transaction that takes an Olm session out of the cache, encrypts a short message, commits, and gives the message out,
beside the same ratchet step and pickle with one bare transaction (`BEGIN IMMEDIATE`, upsert, `COMMIT`) through the same
driver, in the same journal mode (WAL) and with the same durability (`synchronous=FULL`). A view of one cached record,
beside a look into a dict and one query of the lease's epoch through the same driver.

{compared(rounds, ("transaction", "bare transaction", 1.5), ("view", "bare read", 1.3))}

What each layer adds, from the least work to all of it. Each line contains those above it.

{
        layers(
            rounds,
            "ratchet step and pickle",
            {
                "bare transaction, no driver": "SQLite's transaction, on disk when it returns",
                "bare transaction": "the driver: three hops to its thread and back",
                "commit, not sealed": "fence, version, change log, secure deletion",
                "commit": "sealing the value, hiding the key",
                "transaction": "lock, cache, a task that can't be cancelled halfway",
            },
        )
    }

{
        layers(
            rounds,
            "bare read, no driver",
            {
                "bare read": "the driver: one hop to its thread and back",
                "fence query": "the store's own query, and its turn on the connection",
                "view": "lock, snapshot, cache, decoding",
            },
        )
    }
"""


if __name__ == "__main__":
    program(MODULE, SUBJECTS)
