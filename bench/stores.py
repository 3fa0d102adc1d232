"""Set up the stores that are measured."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Final

from vodozemac import GroupSession

from bench.measuring import RESULTS
from examples.story.olm import SESSION_CODEC
from unwedged.protocol.identifiers import Milliseconds
from unwedged.store import TEXT, Codec, CryptoStore, LeaseTimes, RecordKind, Transaction
from unwedged.store.guarded_cache import RecordName
from unwedged.store.sqlite import SqliteBackend
from unwedged.trace import Tracer

_PICKLE_KEY: Final = bytes(32)

SESSIONS: Final = RecordKind("olm_session", TEXT, SESSION_CODEC)
GROUP_SESSIONS: Final = RecordKind(
    "outbound_group_session",
    TEXT,
    Codec[GroupSession](
        lambda session: session.pickle(_PICKLE_KEY).encode(),
        lambda pickle: GroupSession.from_pickle(pickle.decode(), _PICKLE_KEY),
    ),
)
WORDS: Final = RecordKind("word", TEXT, TEXT)

SESSION_SIZE: Final = 1312
"""The size of the pickle of an Olm session, in bytes."""

_BALLAST: Final = (
    "CREATE TABLE ballast (bytes BLOB)",
    "INSERT INTO ballast VALUES (zeroblob(8000000))",
    "DROP TABLE ballast",
)

KEY: Final = bytes(range(32))

_STEADY: Final = LeaseTimes(idle_after_ms=Milliseconds(24 * 60 * 60 * 1000))


@asynccontextmanager
async def opened(
    path: Path, cache_limit_bytes: int | None = None, tracer: Tracer | None = None
) -> AsyncIterator[CryptoStore]:
    """Open or create a store with a key; the passphrase is measured separately.

    The store keeps the lease while other subjects are measured.
    """
    async with CryptoStore.open(
        path,
        key=KEY,
        label="benchmark",
        kinds=(SESSIONS, GROUP_SESSIONS, WORDS),
        cache_limit_bytes=cache_limit_bytes,
        times=_STEADY,
        tracer=tracer,
    ) as store:
        yield store


def settle_logs(folder: Path) -> None:
    """Let the write-ahead log of each open database in a folder grow to the length that it has after some use.

    After that, SQLite overwrites the log from its beginning. While a log still grows, each commit costs the file system
    more work, and two stores that write different amounts would be compared at different stages of growth.
    """
    for path in folder.glob("*.db"):
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            for statement in _BALLAST:
                connection.execute(statement)


async def copy_of(count: int, folder: Path) -> Path:
    """Return a copy of a store with ``count`` records, each as long as an Olm session's pickle."""
    original, copy = RESULTS / "stores" / f"{count}-words.db", folder / f"{count}.db"
    if not original.exists():
        original.parent.mkdir(parents=True, exist_ok=True)
        unfinished = original.with_suffix(".new")

        async def write(transaction: Transaction) -> None:
            for number in range(count):
                transaction.put(WORDS, key_of(number), f"{number:0{SESSION_SIZE}}")

        async with opened(unfinished) as store:
            await store.run(write)
        unfinished.rename(original)
    shutil.copy(original, copy)
    return copy


def key_of(number: int) -> str:
    """Return the key of a record: as long as a Curve25519 key in base64, like the key of a session."""
    return f"{number:043}"


async def everything(store: CryptoStore) -> dict[RecordName, bytes]:
    """Load and unseal all records of the store, in one hop to the driver's thread."""
    services = store._services
    assert isinstance(services.backend, SqliteBackend)
    records = {}
    for kind, hidden, sealed in await services.backend._read("SELECT kind, key, value FROM record", {}):
        key = services.records._sealer.reveal(kind, hidden)
        records[RecordName(kind, key)] = services.records._sealer.open(kind, key, sealed)
    return records


async def fill(store: CryptoStore) -> None:
    """Load all records of the store into its cache, or as many as fit."""
    records = await everything(store)
    async with store.view() as view:
        for name, value in records.items():
            store._lock.guarded.fill(view._operation.snapshot.version, name, value)
    statistics = store.statistics()
    assert statistics.cached_records + statistics.records_forgotten == len(records)
