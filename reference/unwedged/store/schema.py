"""The tables of a store, and the migrations that make them (P13.2 to P13.6).

``application_id`` tells a store from any other SQLite file, ``user_version`` counts the migrations that were applied.
A program that knows fewer migrations than the file has seen refuses it.
"""

from __future__ import annotations

from typing import Final

from unwedged.protocol.identifiers import Version
from unwedged.store import database
from unwedged.store.database import Connection
from unwedged.store.errors import NotAStore, UnsupportedSchema

APPLICATION_ID: Final = int.from_bytes(b"unwd", "big")

_FIRST = (
    # Which store this is, and the sealed store key; NULL until the first opening has made one.
    """CREATE TABLE header (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        store BLOB NOT NULL,
        sealing BLOB
    ) STRICT""",
    # The store version, the version after which the change log is complete, and the lease.
    """CREATE TABLE state (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        version INTEGER NOT NULL,
        floor INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        holder INTEGER,
        label TEXT NOT NULL,
        expires INTEGER NOT NULL,
        wanted INTEGER NOT NULL CHECK (wanted IN (0, 1))
    ) STRICT""",
    # An ordinary table with an index: values of a few kB, written and read one by one, measured twice as fast as in a
    # WITHOUT ROWID table, where they spill into overflow pages.
    """CREATE TABLE record (
        kind TEXT NOT NULL,
        key BLOB NOT NULL,
        value BLOB,
        PRIMARY KEY (kind, key)
    ) STRICT""",
    """CREATE TABLE change (
        version INTEGER NOT NULL,
        kind TEXT NOT NULL,
        key BLOB NOT NULL,
        PRIMARY KEY (version, kind, key)
    ) STRICT, WITHOUT ROWID""",
    # Triggers fill the change log, so that no writer can forget it. Writing NULL deletes: one statement then serves a
    # commit's writes and deletions alike, and a deletion is logged whether or not the record was there.
    """CREATE TRIGGER record_inserted AFTER INSERT ON record BEGIN
        INSERT INTO change SELECT version, NEW.kind, NEW.key FROM state WHERE true ON CONFLICT DO NOTHING;
        DELETE FROM record WHERE kind = NEW.kind AND key = NEW.key AND value IS NULL;
    END""",
    """CREATE TRIGGER record_updated AFTER UPDATE ON record BEGIN
        INSERT INTO change SELECT version, OLD.kind, OLD.key FROM state WHERE true ON CONFLICT DO NOTHING;
        INSERT INTO change SELECT version, NEW.kind, NEW.key FROM state WHERE true ON CONFLICT DO NOTHING;
        DELETE FROM record WHERE kind = NEW.kind AND key = NEW.key AND value IS NULL;
    END""",
    """CREATE TRIGGER record_deleted AFTER DELETE ON record BEGIN
        INSERT INTO change SELECT version, OLD.kind, OLD.key FROM state WHERE true ON CONFLICT DO NOTHING;
    END""",
    "INSERT INTO header (one, store) VALUES (1, randomblob(16))",
    "INSERT INTO state VALUES (1, 0, 0, 0, NULL, '', 0, 0)",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_FIRST,)
"""The statements that lead from each schema version to the next. Released ones are never edited, only added to."""

FENCE_OFF: Final = "UPDATE state SET epoch = epoch + 1, holder = NULL"
"""Part of every migration of an existing store (P20.2). It takes the lease away from older programs that have the store
open: the fence stops all that they do, at no extra cost."""

SCHEMA: Final = "PRAGMA user_version"
"""The schema version of a file."""

CENSUS: Final = """
    SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version),
           (SELECT count(*) FROM sqlite_schema)
"""
"""The query for the arguments of ``version_of``. It writes nothing."""

_CHECKS: Final = ("PRAGMA quick_check(header)", "PRAGMA quick_check(state)")
"""Each answers ``ok`` unless a byte of the two tables that all else depends on has changed its type or place."""

IDENTITY: Final = "SELECT store, version FROM header, state"
"""One row, in a store."""

KEYED: Final = "SELECT 1 FROM header WHERE sealing IS NOT NULL"
"""One row, unless the process that was making the store ended before it had a key: nobody could ever use it."""


# P13.3, P17.4
def version_of(application: int, schema: int, tables: int) -> int:
    """Return the schema version of a file from its census (0: an empty file, which may become a store)."""
    if (application, schema, tables) == (0, 0, 0):
        return 0
    if application != APPLICATION_ID or schema < 1:
        raise NotAStore("the file is a database, but no crypto store")
    if schema > len(MIGRATIONS):
        raise unsupported(schema)
    return schema


def identity_of(connection: Connection) -> tuple[bytes, Version]:
    """Return which store a file is, and its version, in one transaction of the caller's or in none.

    Raises for a file whose damage concerns these values.
    """
    reports = [report for statement in _CHECKS for (report,) in database.rows(connection, statement, {})]
    identities = database.rows(connection, IDENTITY, {})
    if set(reports) != {"ok"} or len(identities) != 1:
        raise NotAStore("the file is damaged: it does not say which store it is, or in what state")
    [(store, version)] = identities
    return bytes(store), Version(version)


def newest() -> int:
    """Return the schema version that this program writes."""
    return len(MIGRATIONS)


def unsupported(schema: int) -> UnsupportedSchema:
    """Return the error of a program that is older than the file."""
    return UnsupportedSchema(
        f"the store has schema version {schema}, and this program knows versions up to {len(MIGRATIONS)}"
    )


def upgrade(version: int) -> tuple[str, ...]:
    """Return the statements that bring a file of schema ``version`` up to date; they belong in one transaction."""
    if version == len(MIGRATIONS):
        return ()
    statements = [statement for migration in MIGRATIONS[version:] for statement in migration]
    if version > 0:
        statements.append(FENCE_OFF)
    statements += [f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {len(MIGRATIONS)}"]
    return tuple(statements)
