"""Vectors for whole files: what opening a store must do with what it finds, and what can be read of it then."""

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
    """What the application has kept elsewhere."""

    store: str
    version: int


class ReadRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What reading a record gives: its value, nothing, or an error. Bytes are in hexadecimal."""

    key: str
    value: str | None = None
    error: str | None = None


class FileCase(Case, frozen=True, kw_only=True):
    """A store is opened where these files are, with this key, and its records of the kind ``olm_session`` are read."""

    script: list[str]
    """The SQL that makes the file, on a database that is empty; no statement: there is no file."""
    beside: dict[str, str] = {}
    """Files that are no work of SQLite's: what their name ends in, after the store's, and their bytes in hexadecimal."""
    secret_key: str
    expected: Literal["any", "existing", "new"] = "any"
    """What the application says of the store: that it must be there, or must not."""
    mark: Mark | None = None
    """The store that it must be, and the version that it must have at least."""
    version: int | None = None
    """The store's version after it was opened, and nothing was written."""
    log_reaches_back: bool | None = None
    """Whether a process whose cache is of version 0 can learn from the change log what changed since."""
    records: list[ReadRecord] = []


async def run(case: FileCase) -> FileCase:
    """Do with the reference what a case says, and return the case with what came of it."""
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
                raise Unexpected(f"{case.id}: a file that was refused has changed") from None
            return msgspec.structs.replace(case, valid=False, error=type(refusal).__name__)
        return msgspec.structs.replace(case, valid=True, error=None, **opened)


def _content(path: Path) -> list[str] | None:
    """Return what a file says, whatever its journal mode; ``None`` where there is none."""
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
    """Make all cases."""
    cases = list(_cases())
    must_be_unique([case.id for case in cases])

    async def run_all() -> list[FileCase]:
        return [await run(case) for case in cases]

    made = asyncio.run(run_all())
    for meant, case in zip(cases, made, strict=True):
        if (meant.valid, meant.error) != (case.valid, case.error):
            raise Unexpected(f"{case.id}: meant was {meant.error}, and what came is {case.error}")
    return Vectors(FORMAT, made)


def _blob(octets: bytes) -> str:
    return f"x'{octets.hex()}'"


def _sealer() -> Sealer:
    return Sealer._of(STORE, STORE_KEY)


def _record(key: bytes, value: bytes) -> str:
    with random_bytes(NONCE):
        sealed = _sealer().seal(KIND.name, key, value)
    return f"INSERT INTO record VALUES ('{KIND.name}', {_blob(_sealer().hide(KIND.name, key))}, {_blob(sealed)})"


def _made(schema: int = len(MIGRATIONS), application: int = APPLICATION_ID, *, sealed: bool = True) -> list[str]:
    """Return the statements that make a store as the reference does, with an identity that is not random."""
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
    """Return the statements that make a store with two commits, of one record each."""
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
    yield _case("nothing", "a store is made where none is", "P17.6", [])
    yield _case("nothing-expected", "no store is made where one is expected", "P17.3", [], "StoreMissing", expected="existing",
                bug="identity-where-none-was-expected")  # fmt: skip
    yield _case("nothing-marked", "no store is made where the application knows one", "P17.9", [], "StoreMissing",
                mark=Mark(identity, 0), bug="identity-where-none-was-expected")  # fmt: skip
    yield _case("remains", "a log beside a file that is missing is what is left of a store", "P17.2", [], "NotAStore",
                beside={"-wal": bytes(64).hex()}, bug="identity-where-none-was-expected")  # fmt: skip
    yield _case("nothing-and-new", "a store is made where none must be", "P17.7", [], expected="new")
    journal = JOURNAL.hex() + bytes(8).hex()
    yield _case("remains-of-a-journal", "a journal of a database that had pages is what is left of a store", "P17.2", [], "NotAStore",
                beside={"-journal": journal + "00000002"}, bug="identity-where-none-was-expected")  # fmt: skip
    yield _case("journal-of-nothing", "a journal of a database that had no pages is what is left of nothing", "P17.2", [],
                beside={"-journal": journal + "00000000"})  # fmt: skip
    yield _case("empty-file", "an empty file becomes a store", "P17.3", [], beside={"": ""})
    yield _case("empty-file-expected", "an empty file is no store", "P17.3", [], "StoreMissing", beside={"": ""},
                expected="existing", bug="identity-where-none-was-expected")  # fmt: skip
    yield _case("empty-file-remains", "a log beside an empty file is what is left of a store", "P17.2", [], "NotAStore",
                beside={"": "", "-wal": bytes(64).hex()}, bug="identity-where-none-was-expected")  # fmt: skip
    yield _case(
        "garbage", "a file that is no database", "P17.4", [], "NotAStore", beside={"": b"no database, ".hex() * 100}
    )
    yield _case(
        "no-header", "a store that does not say which one it is", "P17.5", [*used, "DELETE FROM header"], "NotAStore"
    )
    yield _case(
        "no-state", "a store that does not say in what state it is", "P17.5", [*used, "DELETE FROM state"], "NotAStore"
    )
    yield _case("schema-0", "a file of no schema version that has tables", "P13.3", _made(schema=0), "NotAStore")
    yield _case("foreign-and-newer", "the application's number is looked at first", "P17.4",
                _made(schema=len(MIGRATIONS) + 1, application=1), "NotAStore")  # fmt: skip
    yield _case("empty-store", "a store with a key, and without records", "P17.8", _made())
    yield _case("store-without-a-key", "the process that made it ended before it had a key: nobody has used it", "P17.7",
                _made(sealed=False))  # fmt: skip
    yield _case("store-without-a-key-expected", "a store that nobody has used is not there yet", "P17.7", _made(sealed=False),
                "StoreMissing", expected="existing")  # fmt: skip
    yield _case("used-store", "two commits, which the change log names", "P17.8", used)
    yield _case("used-store-expected", "the store that is expected", "P17.7", used, expected="existing")
    yield _case("used-store-not-expected", "a store where none must be", "P17.4", used, "StoreExists", expected="new")
    yield _case(
        "marked", "the store that the application knows, as far as it knows it", "P17.5", used, mark=Mark(identity, 2)
    )
    yield _case("older-than-its-mark", "an older copy was put back", "P17.5", used, "StoreRolledBack", mark=Mark(identity, 3),
                bug="restored-backup")  # fmt: skip
    yield _case("other-than-its-mark", "another store", "P17.5", used, "AnotherStore", mark=Mark(OTHER_STORE.hex(), 0))
    yield _case("wrong-key", "the key of another store", "P22.11", used, "WrongKey", secret_key=STORE_KEY)
    yield _case("newer-schema", "the file of a newer program", "P13.3", _made(schema=len(MIGRATIONS) + 1),
                "UnsupportedSchema", bug="schema-moves-on")  # fmt: skip
    yield _case("foreign-application", "the database of another program", "P13.3", _made(application=1), "NotAStore")
    yield _case(
        "foreign-tables", "a database that says nothing of itself", "P13.3", ["CREATE TABLE record (one)"], "NotAStore"
    )
    yield _case("unknown-kind", "records of a kind that was not declared are left alone", "P20.5",
                [*used, "UPDATE state SET version = version + 1",
                 f"INSERT INTO record VALUES ('later', {_blob(_sealer().hide('later', b'key'))}, x'02')"])  # fmt: skip
    yield _case("log-truncated", "the change log begins after the first commit", "P2.5",
                [*used, "UPDATE state SET floor = 1", "DELETE FROM change WHERE version <= 1"], bug="floor-ignored-at-sync")  # fmt: skip
    yield _case("log-line-damaged", "a line that does not authenticate: the log does not reach back beyond it", "P2.14",
                [*used, f"UPDATE change SET key = {_blob(flipped)} WHERE version = 1"], bug="failed-sync-keeps-lease")  # fmt: skip
    yield _case("value-damaged", "a value that does not authenticate concerns nobody who does not read it", "P22.1",
                [*used, f"UPDATE record SET value = x'00' WHERE key = {_blob(hidden)}"])  # fmt: skip
    yield _case("value-moved", "the value of one record in the place of another", "P22.1",
                [*used, "UPDATE record SET value = (SELECT max(value) FROM record)"])  # fmt: skip
    yield _case("key-damaged", "a row whose key does not authenticate is no record", "P22.2",
                [*used, f"UPDATE record SET key = {_blob(flipped)} WHERE key = {_blob(hidden)}"])  # fmt: skip
    yield _case("held-by-the-largest", "the holder has the largest number that there is", "P17.8",
                [*used, f"UPDATE state SET epoch = 1, holder = {2**63 - 1}, label = 'app', expires = 1"])  # fmt: skip
    yield _case("held", "a process holds the lease: opening takes it from nobody", "P17.8",
                [*used, "UPDATE state SET epoch = 1, holder = 11, label = 'app', expires = 9999999999999"])  # fmt: skip
