"""Generate the vectors for whole files: how a store is opened, and which records can then be read."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, Literal

import msgspec

from checking.conformance.cases import Case, Unexpected, Vectors, must_be_unique
from checking.conformance.sealing import NONCE, OTHER_STORE, SECRET_KEY, STORE, STORE_KEY, header_of, random_bytes
from unwedged.protocol.identifiers import Version
from unwedged.store import Codec, CryptoStore, Existence, RecordKind, StoreError, StoreMark, TamperedRecord, View
from unwedged.store.files import JOURNAL
from unwedged.store.schema import APPLICATION_ID, MIGRATIONS
from unwedged.store.sealer import RandomKey, Sealer

FORMAT: Final = "unwedged-files-2"

KIND: Final = RecordKind("olm_session", Codec(bytes, bytes), Codec(bytes, bytes))
KEYS: Final = (b"first", b"second")
ERRORS: Final = (TamperedRecord,)


class Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The store mark that the application has kept elsewhere."""

    store: str
    version: int


class ReadRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The result of reading a record: its value, nothing, or an error. Bytes are in hexadecimal."""

    key: str
    value: str | None = None
    error: str | None = None


class FileCase(Case, frozen=True, kw_only=True):
    """Files with which a store is opened, and the records of the kind ``olm_session`` that it then has."""

    script: list[str]
    """The SQL statements that make the file from an empty database. If there are none, there is no file."""
    beside: dict[str, str] = {}
    """Files that SQLite does not make: the suffix of their name after the store's name, and their bytes in
    hexadecimal."""
    secret_key: str
    expected: Literal["any", "existing", "new"] = "any"
    """Whether the application demands that the store exists, or that it does not."""
    mark: Mark | None = None
    """The identity that the store must have, and its lowest version."""
    version: int | None = None
    """The store's version after it was opened."""
    log_reaches_back: bool | None = None
    """Whether the change log tells a process with a cache of version 0 which records have changed since."""
    records: list[ReadRecord] = []


async def run(case: FileCase) -> FileCase:
    """Run a case on the reference, and return the case with the result. Raises ``Unexpected``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.db"
        if case.script:
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                for statement in case.script:
                    connection.execute(statement)
        for suffix, content in case.beside.items():
            path.with_name(path.name + suffix).write_bytes(bytes.fromhex(content))
        before = _content(path)
        try:
            opened = await _opened(path, case)
        except StoreError as refusal:
            if _content(path) != before:
                raise Unexpected(f"{case.id}: the file was refused, but it has changed") from None
            return msgspec.structs.replace(case, valid=False, error=type(refusal).__name__)
        return msgspec.structs.replace(case, valid=True, error=None, **opened)


def _content(path: Path) -> list[str] | None:
    """Return the content of a database in any journal mode, or ``None`` if the file does not exist."""
    if not path.exists():
        return None
    if not path.read_bytes().startswith(b"SQLite format 3"):
        return [path.read_bytes().hex()]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        pragmas = [str(connection.execute(f"PRAGMA {name}").fetchall()) for name in ("application_id", "user_version")]
        return [*pragmas, *connection.iterdump()]


async def _opened(path: Path, case: FileCase) -> dict[str, object]:
    mark = None if case.mark is None else StoreMark(case.mark.store, case.mark.version)
    async with CryptoStore.open(
        path,
        key=bytes.fromhex(case.secret_key),
        label="conformance",
        kinds=[KIND],
        expect=Existence(case.expected),
        not_before=mark,
    ) as store:
        log = await store._services.backend.changes(Version(0), None)
        reaches_back = False
        with contextlib.suppress(StoreError):
            reaches_back = (await store._services.records.changes(Version(0), None)).floor == 0
        return {
            "version": log.version,
            "log_reaches_back": reaches_back,
            "records": [await _read(store, key) for key in KEYS],
        }


async def _read(store: CryptoStore, key: bytes) -> ReadRecord:
    async def read(view: View) -> bytes | None:
        return await view.get(KIND, key)

    try:
        value = await store.query(read)
    except ERRORS as error:
        return ReadRecord(key.hex(), error=type(error).__name__)
    return ReadRecord(key.hex(), None if value is None else value.hex())


def make() -> Vectors[FileCase]:
    """Generate all cases. Raises ``Unexpected``."""
    cases = list(_cases())
    must_be_unique([case.id for case in cases])

    async def run_all() -> list[FileCase]:
        return [await run(case) for case in cases]

    made = asyncio.run(run_all())
    for meant, case in zip(cases, made, strict=True):
        if (meant.valid, meant.error) != (case.valid, case.error):
            raise Unexpected(f"{case.id}: expected {meant.error}, got {case.error}")
    return Vectors(FORMAT, made)


def _blob(octets: bytes) -> str:
    return f"x'{octets.hex()}'"


def _sealer() -> Sealer:
    return Sealer.of_key(STORE, STORE_KEY)


def _record(key: bytes, value: bytes) -> str:
    with random_bytes(NONCE):
        sealed = _sealer().seal(KIND.name, key, value)
    return f"INSERT INTO record VALUES ('{KIND.name}', {_blob(_sealer().hide(KIND.name, key))}, {_blob(sealed)})"


def _made(schema: int = len(MIGRATIONS), application: int = APPLICATION_ID, *, sealed: bool = True) -> list[str]:
    """Return the statements that make a store like the reference's, with a fixed identity."""
    statements = [
        statement.replace("randomblob(16)", _blob(STORE)) for migration in MIGRATIONS for statement in migration
    ]
    header = header_of(RandomKey(SECRET_KEY))
    return [
        *(" ".join(statement.split()) for statement in statements),
        *([f"UPDATE header SET sealing = {_blob(header)}"] if sealed else []),
        f"PRAGMA application_id = {application}",
        f"PRAGMA user_version = {schema}",
    ]


def _used() -> list[str]:
    """Return the statements that make a store with two commits of one record each."""
    return [
        *_made(),
        *("UPDATE state SET version = version + 1", _record(b"first", b"one")),
        *("UPDATE state SET version = version + 1", _record(b"second", b"two")),
    ]


def _case(
    name: str, shows: str, clause: str, script: Sequence[str], error: str | None = None, *, bug: str | None = None,
    beside: dict[str, str] | None = None, secret_key: bytes = SECRET_KEY,
    expected: Literal["any", "existing", "new"] = "any", mark: Mark | None = None,
) -> FileCase:  # fmt: skip
    return FileCase(
        id=name, shows=shows, clause=clause, bug=bug, valid=error is None, error=error, script=list(script),
        beside=beside or {}, secret_key=secret_key.hex(), expected=expected, mark=mark,
    )  # fmt: skip


def _cases() -> Iterator[FileCase]:
    identity, used = STORE.hex(), _used()
    hidden = _sealer().hide(KIND.name, b"first")
    flipped = bytes([hidden[0] ^ 1]) + hidden[1:]
    yield _case("nothing", "a store is made if there is none", "P17.6", [])
    yield _case("nothing-expected", "no store is made if one is expected", "P17.3", [], "StoreMissing", expected="existing",
                bug="identity-where-none-was-expected")  # fmt: skip
    yield _case("nothing-marked", "no store is made if the application knows one", "P17.9", [], "StoreMissing",
                mark=Mark(identity, 0), bug="identity-where-none-was-expected")  # fmt: skip
    yield _case("marked-and-new", "no store can be known and not be there yet", "P17.1", [], "InvalidArgument",
                mark=Mark(identity, 0), expected="new")  # fmt: skip
    yield _case("remains", "a WAL without a database file is the rest of a store", "P17.2", [], "NotAStore",
                beside={"-wal": bytes(64).hex()}, bug="identity-where-none-was-expected")  # fmt: skip
    yield _case("nothing-and-new", "a store is made if there must be none", "P17.7", [], expected="new")
    journal = JOURNAL.hex() + bytes(8).hex()
    yield _case("remains-of-a-journal", "a rollback journal of a database with pages is the rest of a store", "P17.2", [], "NotAStore",
                beside={"-journal": journal + "00000002"}, bug="identity-where-none-was-expected")  # fmt: skip
    yield _case("journal-of-nothing", "a rollback journal of a database without pages is not the rest of a store", "P17.2", [],
                beside={"-journal": journal + "00000000"})  # fmt: skip
    yield _case("journal-without-magic", "a file that does not begin like a rollback journal is none", "P17.2", [],
                beside={"-journal": bytes(16).hex() + "00000002"})  # fmt: skip
    yield _case("journal-of-16-bytes", "a rollback journal that ends before the number of pages is not the rest of a store", "P17.2", [],
                beside={"-journal": journal})  # fmt: skip
    yield _case("journal-of-19-bytes", "bytes beyond the end of a rollback journal count as zero", "P17.2", [],
                beside={"-journal": journal + "000000"})  # fmt: skip
    yield _case("journal-of-18-bytes", "a rollback journal that ends within the number of pages, which is not zero", "P17.2", [],
                "NotAStore", beside={"-journal": journal + "0001"}, bug="identity-where-none-was-expected")  # fmt: skip
    yield _case("empty-file", "an empty file becomes a store", "P17.3", [], beside={"": ""})
    yield _case("empty-file-expected", "an empty file is not a store", "P17.3", [], "StoreMissing", beside={"": ""},
                expected="existing", bug="identity-where-none-was-expected")  # fmt: skip
    yield _case("empty-file-remains", "a WAL with an empty database file is the rest of a store", "P17.2", [], "NotAStore",
                beside={"": "", "-wal": bytes(64).hex()}, bug="identity-where-none-was-expected")  # fmt: skip
    yield _case(
        "garbage", "a file that is not a database", "P17.4", [], "NotAStore", beside={"": b"no database, ".hex() * 100}
    )
    yield _case("no-header", "a store without an identity", "P17.5", [*used, "DELETE FROM header"], "NotAStore")
    yield _case("no-state", "a store without its state row", "P17.5", [*used, "DELETE FROM state"], "NotAStore")
    yield _case(
        "no-header-table",
        "a store without the table of its identity",
        "P17.5",
        [*used, "DROP TABLE header"],
        "NotAStore",
    )
    yield _case(
        "no-state-table", "a store without the table of its state", "P17.5", [*used, "DROP TABLE state"], "NotAStore"
    )
    yield _case("identity-cut", "an identity of another length does not open the store key", "P17.5",
                [*used, "UPDATE header SET store = x'00'"], "WrongKey")  # fmt: skip
    yield _case("schema-0", "a file with tables but without a schema version", "P13.3", _made(schema=0), "NotAStore")
    yield _case("foreign-and-newer", "the application ID is checked before the schema version", "P17.4",
                _made(schema=len(MIGRATIONS) + 1, application=1), "NotAStore")  # fmt: skip
    yield _case("empty-store", "a store with a key, and without records", "P17.8", _made())
    yield _case("store-without-a-key", "a store without a key was never used: its first process ended before it stored the key", "P17.7",
                _made(sealed=False))  # fmt: skip
    yield _case("store-without-a-key-expected", "a store that was never used does not exist yet", "P17.7", _made(sealed=False),
                "StoreMissing", expected="existing")  # fmt: skip
    yield _case("store-without-a-key-new", "a store that was never used may be made where there must be none", "P17.7",
                _made(sealed=False), expected="new")  # fmt: skip
    yield _case("used-store", "two commits, which the change log names", "P17.8", used)
    yield _case("used-store-expected", "the store that is expected", "P17.7", used, expected="existing")
    yield _case(
        "used-store-not-expected",
        "there is a store, but there must be none",
        "P17.4",
        used,
        "StoreExists",
        expected="new",
    )
    yield _case(
        "marked",
        "the store that the application knows, at the version that it knows",
        "P17.5",
        used,
        mark=Mark(identity, 2),
    )
    yield _case("older-than-its-mark", "an older copy was put back", "P17.5", used, "StoreRolledBack", mark=Mark(identity, 3),
                bug="restored-backup")  # fmt: skip
    yield _case("other-than-its-mark", "another store", "P17.5", used, "AnotherStore", mark=Mark(OTHER_STORE.hex(), 0))
    yield _case("wrong-key", "the key of another store", "P22.11", used, "WrongKey", secret_key=STORE_KEY)
    yield _case("newer-schema", "the file of a newer program", "P13.3", _made(schema=len(MIGRATIONS) + 1),
                "UnsupportedSchema", bug="schema-moves-on")  # fmt: skip
    yield _case("foreign-application", "the database of another program", "P13.3", _made(application=1), "NotAStore")
    yield _case(
        "foreign-tables",
        "a database without an application ID that has tables",
        "P13.3",
        ["CREATE TABLE record (one)"],
        "NotAStore",
    )
    yield _case("unknown-kind", "records of a kind that was not declared are kept", "P20.5",
                [*used, "UPDATE state SET version = version + 1",
                 f"INSERT INTO record VALUES ('later', {_blob(_sealer().hide('later', b'key'))}, x'02')"])  # fmt: skip
    yield _case("log-truncated", "the change log begins after the first commit", "P2.5",
                [*used, "UPDATE state SET floor = 1", "DELETE FROM change WHERE version <= 1"], bug="floor-ignored-at-sync")  # fmt: skip
    yield _case("log-line-damaged", "the change log does not reach back beyond a line that does not authenticate", "P2.14",
                [*used, f"UPDATE change SET key = {_blob(flipped)} WHERE version = 1"], bug="failed-sync-keeps-lease")  # fmt: skip
    yield _case("value-damaged", "a value that does not authenticate is an error only when it is read", "P22.1",
                [*used, f"UPDATE record SET value = x'00' WHERE key = {_blob(hidden)}"])  # fmt: skip
    yield _case("value-moved", "the value of one record in the row of another", "P22.1",
                [*used, "UPDATE record SET value = (SELECT max(value) FROM record)"])  # fmt: skip
    yield _case("key-damaged", "a row whose key does not authenticate is not a record", "P22.2",
                [*used, f"UPDATE record SET key = {_blob(flipped)} WHERE key = {_blob(hidden)}"])  # fmt: skip
    yield _case("held-by-the-largest", "the holder has the largest instance number", "P17.8",
                [*used, f"UPDATE state SET epoch = 1, holder = {2**63 - 1}, label = 'app', expires = 1"])  # fmt: skip
    yield _case("held", "a process holds the lease, and keeps it while the store is opened", "P17.8",
                [*used, "UPDATE state SET epoch = 1, holder = 11, label = 'app', expires = 9999999999999"])  # fmt: skip
