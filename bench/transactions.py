"""Measure a transaction and a view on cached records, compared with the cheapest equivalent work."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Final

import aiosqlite
import msgspec

from bench.measuring import Effort, Group, Results, Target, Timed, each, measure_in_rounds, program
from bench.reporting import Pair, compared, layers, targets_of
from bench.stores import SESSIONS, WORDS, opened, settle_logs
from examples.story.olm import Host, OlmMessage, OlmSession, open_session
from unwedged.protocol.identifiers import Epoch, Milliseconds
from unwedged.store import CryptoStore, Transaction, View
from unwedged.store.backend import Row, RowName
from unwedged.store.database import Driver, transaction
from unwedged.store.guarded_cache import RecordName
from unwedged.trace import Line, NdjsonTracer

MODULE: Final = "bench.transactions"

KEY: Final = "alice"
TEXT: Final = "A message as short as most of those that people write to each other."

BARE: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "CREATE TABLE record (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT",
    "CREATE TABLE lease (epoch INTEGER NOT NULL) STRICT",
    "INSERT INTO lease VALUES (1)",
)
PUT: Final = "INSERT INTO record VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
FENCE: Final = "SELECT epoch FROM lease WHERE epoch = 1"


def step(session: OlmSession) -> tuple[OlmMessage, bytes]:
    """Make a ratchet step and its pickle, which every store needs."""
    return session.encrypt(TEXT), session.pickled()


class DropsLines:
    """A tracer that drops each line: what remains is the cost of making lines."""

    def write(self, line: Line) -> None:
        """Do nothing."""


@asynccontextmanager
async def transactions(folder: Path) -> AsyncIterator[Mapping[str, Timed]]:
    """Set up the layers from the ratchet alone to the whole transaction."""
    session = open_session(Host().invitation)

    async def ratchet() -> OlmMessage:
        return session.encrypt(TEXT)

    async def pickled() -> OlmMessage:
        return step(session)[0]

    async def without_driver() -> OlmMessage:
        message, pickle = step(session)
        direct.execute("BEGIN IMMEDIATE")
        direct.execute(PUT, (KEY, pickle))
        direct.execute("COMMIT")
        return message

    async def in_one_hop() -> OlmMessage:
        message, pickle = step(session)

        def put(connection: sqlite3.Connection) -> None:
            connection.execute(PUT, (KEY, pickle))

        await hopping.call(partial(transaction, put))
        return message

    async def bare_transaction() -> OlmMessage:
        message, pickle = step(session)
        await driver.execute("BEGIN IMMEDIATE")
        await driver.execute(PUT, (KEY, pickle))
        await driver.commit()
        return message

    async def unsealed() -> OlmMessage:
        message, pickle = step(session)
        row = Row(RowName(SESSIONS.name, KEY.encode()), pickle)
        await services.backend.commit(epoch, [row], Milliseconds(services.clock.now()), duration, may_release=True)
        return message

    async def sealed() -> OlmMessage:
        message, pickle = step(session)
        batch = await services.records.seal({RecordName(SESSIONS.name, KEY.encode()): pickle})
        await services.records.commit(epoch, batch, Milliseconds(services.clock.now()), duration, may_release=True)
        return message

    async def meet(transaction: Transaction) -> None:
        transaction.put(SESSIONS, KEY, open_session(Host().invitation))

    async def encrypt(transaction: Transaction) -> OlmMessage:
        cached = await transaction.get(SESSIONS, KEY)
        assert cached is not None
        message = cached.encrypt(TEXT)
        transaction.put(SESSIONS, KEY, cached)
        return message

    async with (
        aiosqlite.connect(folder / "bare.db", isolation_level=None) as driver,
        Driver(partial(sqlite3.connect, folder / "hopping.db", isolation_level=None)) as opening,
        opened(folder / "services.db") as dissected,
        opened(folder / "store.db") as store,
        opened(folder / "dropped.db", tracer=DropsLines()) as dropped,
        opened(folder / "traced.db", tracer=NdjsonTracer(folder / "trace.ndjson", msgspec.json.encode)) as traced,
    ):
        with closing(sqlite3.connect(folder / "direct.db", isolation_level=None)) as direct:
            assert isinstance(opening, Driver)
            hopping = opening
            for statement in BARE:
                direct.execute(statement)
                for connection in (driver, hopping):
                    await connection.execute(statement)
            await store.run(meet)
            await dropped.run(meet)
            await traced.run(meet)
            services, epoch = dissected._services, await taken(dissected)
            duration = Milliseconds(services.lock.times.duration_ms)
            settle_logs(folder)
            yield {
                "ratchet step": each(ratchet),
                "ratchet step and pickle": each(pickled),
                "bare transaction without the driver": each(without_driver),
                "bare transaction in one hop": each(in_one_hop),
                "bare transaction": each(bare_transaction),
                "transaction": each(lambda: store.run(encrypt)),
                "transaction, lines dropped": each(lambda: dropped.run(encrypt)),
                "traced transaction": each(lambda: traced.run(encrypt)),
                "sealed commit": each(sealed),
                "unsealed commit": each(unsealed),
            }


@asynccontextmanager
async def views(folder: Path) -> AsyncIterator[Mapping[str, Timed]]:
    """Set up the layers from the fence query alone to the whole view."""
    records = {KEY: TEXT}

    async def without_driver() -> str:
        word = records[KEY]
        assert direct.execute(FENCE).fetchall()
        return word

    async def bare_read() -> str:
        word = records[KEY]
        assert await driver.execute_fetchall(FENCE)
        return word

    async def write(transaction: Transaction) -> None:
        transaction.put(WORDS, KEY, TEXT)

    async def read(view: View) -> str | None:
        return await view.get(WORDS, KEY)

    async with (
        aiosqlite.connect(folder / "bare.db", isolation_level=None) as driver,
        opened(folder / "store.db") as store,
        opened(folder / "traced.db", tracer=NdjsonTracer(folder / "trace.ndjson", msgspec.json.encode)) as traced,
    ):
        with closing(sqlite3.connect(folder / "direct.db", isolation_level=None)) as direct:
            for statement in BARE:
                direct.execute(statement)
                await driver.execute(statement)
            await store.run(write)
            await traced.run(write)
            epoch = await taken(store)
            yield {
                "bare read without the driver": each(without_driver),
                "bare read": each(bare_read),
                "view": each(lambda: store.query(read)),
                "traced view": each(lambda: traced.query(read)),
                "fence": each(lambda: store._services.backend.check(epoch)),
            }


async def taken(store: CryptoStore) -> Epoch:
    """Acquire the lease, and return its epoch."""
    async with store.view() as view:
        return view._operation.epoch


GROUPS: Final[dict[str, Group]] = {"transactions": transactions, "views": views}


def measure(effort: Effort) -> None:
    """Measure, and write raw results into ``RESULTS``."""
    measure_in_rounds(MODULE, list(GROUPS), effort.rounds)


PAIRS: Final[tuple[Pair, ...]] = (
    ("transaction", "bare transaction", 1.5),
    ("view", "bare read", 1.3),
    ("traced transaction", "transaction", 1.05),
    ("traced view", "view", None),
)


def targets() -> list[Target]:
    """Return the ratios with their targets."""
    return targets_of(Results(MODULE), *PAIRS)


def report() -> str:
    """Return a section of the report, made from raw results."""
    results = Results(MODULE)
    return f"""\
## A transaction and a view, lease held

A transaction takes an Olm session out of the cache, encrypts a short message, commits, and returns the message. Its
baseline is the same ratchet step and pickle with one bare transaction (`BEGIN IMMEDIATE`, upsert, `COMMIT`) through the
same driver, in the same journal mode (WAL) and with the same durability (`synchronous=FULL`). A view reads one cached
record. Its baseline is a lookup in a dict and one query of the lease's epoch through the same driver. (The store
queries the epoch on the event loop's own thread, and commits in one hop to the driver's thread; the bare transaction
takes three hops. So both can be faster than their baselines.) The same transaction and view are also measured with a
trace written to a file (`spec/trace.md`).

{compared(results, *PAIRS)}

What each layer adds:

{
        layers(
            results,
            "ratchet step",
            {
                "ratchet step and pickle": "pickling the session",
                "bare transaction without the driver": "SQLite's transaction, on the disk when it returns",
                "bare transaction in one hop": "the driver: a hop to its thread and back",
                "unsealed commit": "fence, version, change log, secure deletion",
                "sealed commit": "sealing the value, hiding the key",
                "transaction": "lock, cache, waiting without being cancelled",
                "transaction, lines dropped": "a trace: names, a keyed hash of the new value, the fields of one line",
                "traced transaction": "JSON, and one system call",
            },
        )
    }

{
        layers(
            results,
            "bare read without the driver",
            {
                "fence": "the store's own query, on the loop's thread too, and now and then a pause for other tasks",
                "view": "lock, snapshot, cache",
            },
        )
    }

A profile of the loop's thread, function by function:

```console
$ .venv/bin/python -m cProfile -s tottime -m bench.transactions transactions
```
"""


if __name__ == "__main__":
    program(MODULE, GROUPS)
