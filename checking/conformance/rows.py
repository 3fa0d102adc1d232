"""Vectors for the rows of a store: what each access of P4.2 answers, and what it leaves behind."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Final, TypeAlias
from unittest import mock

import msgspec

from checking.conformance.cases import Case, Unexpected, Vectors, must_be_unique
from unwedged.protocol import lease as protocol
from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds, Version
from unwedged.store import LeaseLost, UnsupportedSchema
from unwedged.store.backend import Row, RowName
from unwedged.store.sqlite import SqliteBackend

FORMAT: Final = "unwedged-rows-2"

NOW: Final = 1_000_000
DURATION: Final = 30_000
LONGEST_MS: Final = 60_000
APP: Final = "11"
EXTENSION: Final = "12"
LARGEST: Final = str(2**63 - 1)
NEXT_TO_LARGEST: Final = str(2**63 - 2)
"""A number with a floating point equals the largest."""
SESSION: Final = "olm_session"
DEVICE: Final = "device"


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The row of the table ``state``. Numbers of instances are texts: many JSON parsers round those above 2^53."""

    version: int = 7
    floor: int = 2
    epoch: int = 4
    holder: str | None = APP
    label: str = "app"
    expires: int = NOW + 1_000
    wanted: int = 0


class RecordRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row of the table ``record``. Bytes are in hexadecimal."""

    kind: str
    key: str
    value: str | None


class ChangeRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row of the table ``change``."""

    version: int
    kind: str
    key: str


class Tables(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tables, each in the order of its primary key."""

    state: State = State()
    record: list[RecordRow] = []
    change: list[ChangeRow] = []
    schema: int = 1
    """``PRAGMA user_version``."""


class LeaseRow(msgspec.Struct, frozen=True):
    """What an access to the lease answers."""

    epoch: int
    holder: str | None
    expires: int
    wanted: bool


class Log(msgspec.Struct, frozen=True):
    """What reading the change log answers."""

    version: int
    floor: int
    changes: list[ChangeRow]


class Found(msgspec.Struct, frozen=True):
    """What loading a record answers. A null value is answered as one of no bytes, which does not authenticate."""

    version: int
    value: str | None
    changed: bool


class Listing(msgspec.Struct, frozen=True):
    """What listing the keys of a kind answers."""

    version: int
    keys: list[str]
    changed: bool


class Commit(msgspec.Struct, frozen=True):
    """What a commit answers."""

    version: int
    wanted: bool
    released: bool


class Acquiring(msgspec.Struct, tag="acquire", tag_field="access", frozen=True):
    """P1.3."""

    instance: str
    label: str
    now: int = NOW
    duration: int = DURATION
    took: int = 0
    """How many milliseconds the access takes until it writes ``expires``, by a clock that does not jump (P1.9)."""


class Looking(msgspec.Struct, tag="look", tag_field="access", frozen=True):
    """P8.21."""


class Renewing(msgspec.Struct, tag="renew", tag_field="access", frozen=True):
    """P1.7."""

    epoch: int
    now: int = NOW
    duration: int = DURATION
    took: int = 0


class Releasing(msgspec.Struct, tag="release", tag_field="access", frozen=True):
    """P8.18."""

    epoch: int


class Checking(msgspec.Struct, tag="check", tag_field="access", frozen=True):
    """P6.1."""

    epoch: int


class ReadingChanges(msgspec.Struct, tag="read_changes", tag_field="access", frozen=True):
    """P2.2, with an epoch; P9.4, without one."""

    since: int
    epoch: int | None


class Loading(msgspec.Struct, tag="load", tag_field="access", frozen=True):
    """P4.5. ``since`` is the version of the operation's snapshot."""

    epoch: int
    kind: str
    key: str
    since: int


class ListingKeys(msgspec.Struct, tag="list", tag_field="access", frozen=True):
    """P4.9."""

    epoch: int
    kind: str
    since: int


class Committing(msgspec.Struct, tag="commit", tag_field="access", frozen=True):
    """P5.16 to P5.19. A record without a value is to be deleted."""

    epoch: int
    records: list[RecordRow]
    may_release: bool
    """Whether the operation is the only one that runs, so that the lease may be released for whoever waits (P5.17)."""
    now: int = NOW
    duration: int = DURATION
    took: int = 0


class Truncating(msgspec.Struct, tag="truncate", tag_field="access", frozen=True):
    """P4.16. Nobody's lease is needed."""

    floor: int


Access: TypeAlias = (
    Acquiring
    | Looking
    | Renewing
    | Releasing
    | Checking
    | ReadingChanges
    | Loading
    | ListingKeys
    | Committing
    | Truncating
)
Answer: TypeAlias = LeaseRow | Log | Found | Listing | Commit


Plain: TypeAlias = int | bool | str | list[str | dict[str, int | str]] | None
"""A part of an answer."""


class RowCase(Case, frozen=True, kw_only=True):
    """One access to a store whose tables are ``before``; then its tables are ``after``."""

    before: Tables
    call: Access
    answer: dict[str, Plain] | None = None
    """What the access returns; absent where that is nothing, or an error."""
    after: Tables | None = None


_TABLES: Final = {
    "state": "SELECT version, floor, epoch, CAST(holder AS TEXT), label, expires, wanted FROM state",
    "record": "SELECT kind, lower(hex(key)), CASE WHEN value IS NOT NULL THEN lower(hex(value)) END FROM record"
    " ORDER BY kind, key",
    "change": "SELECT version, kind, lower(hex(key)) FROM change ORDER BY version, kind, key",
}


class Store:
    """The reference's store, whose tables can be set and read from outside of the protocol."""

    def __init__(self, backend: SqliteBackend, path: Path) -> None:
        self._backend = backend
        self._path = path

    async def run(self, case: RowCase) -> RowCase:
        """Do with the reference what a case says, and return the case with what came of it."""
        self._set(case.before)
        answer: Answer | None = None
        error: str | None = None
        try:
            with _taking(getattr(case.call, "took", 0)):
                answer = await self._called(case.call)
        except (LeaseLost, UnsupportedSchema) as refusal:
            error = type(refusal).__name__
        built: dict[str, Plain] | None = msgspec.to_builtins(answer)
        return msgspec.structs.replace(case, answer=built, valid=error is None, error=error, after=self._tables())

    def _set(self, tables: Tables) -> None:
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            for statement in ("DELETE FROM record", "DELETE FROM change"):
                connection.execute(statement)
            # First the records, whose triggers write lines, and then the lines as they are to be.
            connection.executemany(
                "INSERT INTO record VALUES (?, ?, ?)",
                [
                    (row.kind, bytes.fromhex(row.key), bytes.fromhex(row.value))
                    for row in tables.record
                    if row.value is not None
                ],
            )
            damaged = [(row.kind, bytes.fromhex(row.key)) for row in tables.record if row.value is None]
            if damaged:
                self._damage(connection, damaged)
            connection.execute("DELETE FROM change")
            connection.executemany(
                "INSERT INTO change VALUES (?, ?, ?)",
                [(row.version, row.kind, bytes.fromhex(row.key)) for row in tables.change],
            )
            names = ", ".join(f"{name} = ?" for name in State.__struct_fields__)
            connection.execute(f"UPDATE state SET {names}", msgspec.structs.astuple(tables.state))
            connection.execute(f"PRAGMA user_version = {tables.schema}")
            connection.execute("COMMIT")

    @staticmethod
    def _damage(connection: sqlite3.Connection, names: list[tuple[str, bytes]]) -> None:
        """Write rows without a value, which no program does: the trigger would delete them."""
        [(trigger,)] = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'record_inserted'").fetchall()
        connection.execute("DROP TRIGGER record_inserted")
        connection.executemany("INSERT INTO record VALUES (?, ?, NULL)", names)
        connection.execute(trigger)

    def _tables(self) -> Tables:
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            rows = {name: connection.execute(statement).fetchall() for name, statement in _TABLES.items()}
            [(schema,)] = connection.execute("PRAGMA user_version").fetchall()
        return Tables(
            State(*rows["state"][0]),
            [RecordRow(*row) for row in rows["record"]],
            [ChangeRow(*row) for row in rows["change"]],
            schema,
        )

    async def _called(self, call: Access) -> Answer | None:
        backend = self._backend
        match call:
            case Acquiring():
                taking = InstanceId(int(call.instance)), call.label, Milliseconds(call.now), Milliseconds(call.duration)
                return _lease_row(await backend.acquire(*taking))
            case Looking():
                return _lease_row(await backend.look())
            case Renewing():
                renewing = Epoch(call.epoch), Milliseconds(call.now), Milliseconds(call.duration)
                return _lease_row(await backend.renew(*renewing))
            case Releasing():
                await backend.release(Epoch(call.epoch))
            case Checking():
                return _lease_row(await backend.check(Epoch(call.epoch)))
            case ReadingChanges():
                epoch = None if call.epoch is None else Epoch(call.epoch)
                log = await backend.changes(Version(call.since), epoch)
                lines = [ChangeRow(change.version, change.key.kind, change.key.key.hex()) for change in log.changes]
                return Log(log.version, log.floor, lines)
            case Loading():
                name = RowName(call.kind, bytes.fromhex(call.key))
                loaded = await backend.load(Epoch(call.epoch), name, Version(call.since))
                return Found(loaded.version, None if loaded.value is None else loaded.value.hex(), loaded.changed)
            case ListingKeys():
                listed = await backend.keys(Epoch(call.epoch), call.kind, Version(call.since))
                return Listing(listed.version, [key.hex() for key in listed.keys], listed.changed)
            case Committing():
                rows = [
                    Row(
                        RowName(row.kind, bytes.fromhex(row.key)),
                        None if row.value is None else bytes.fromhex(row.value),
                    )
                    for row in call.records
                ]
                committed = await backend.commit(
                    Epoch(call.epoch),
                    rows,
                    Milliseconds(call.now),
                    Milliseconds(call.duration),
                    may_release=call.may_release,
                )
                return Commit(committed.version, committed.wanted, committed.released)
            case Truncating():
                await backend.truncate(Version(call.floor))
        return None


def _lease_row(lease: protocol.Lease) -> LeaseRow:
    holder = None if lease.holder is None else str(lease.holder)
    return LeaseRow(lease.epoch, holder, lease.expires, lease.wanted)


@contextmanager
def _taking(duration_ms: int) -> Iterator[None]:
    """Let an access take so long: the clock stands still after the reference has first asked it."""
    times = chain((0.0,), repeat(duration_ms / 1000))
    with mock.patch("unwedged.store.database.monotonic_seconds", side_effect=times):
        yield


async def run_all(cases: list[RowCase]) -> list[RowCase]:
    """Run cases on one store of the reference, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.db"
        backend = await SqliteBackend.open(path)
        try:
            store = Store(backend, path)
            return [await store.run(case) for case in cases]
        finally:
            await backend.close()


def make() -> Vectors[RowCase]:
    """Make all cases."""
    cases = [*_acquiring(), *_lease(), *_changes(), *_loading(), *_listing(), *_committing(), *_truncating()]
    must_be_unique([case.id for case in cases])
    made = asyncio.run(run_all(cases))
    for meant, case in zip(cases, made, strict=True):
        if (meant.valid, meant.error) != (case.valid, case.error):
            raise Unexpected(f"{case.id}: meant was {meant.error}, and what came is {case.error}")
        if not case.valid and case.after != case.before:
            raise Unexpected(f"{case.id}: an access that was refused has changed something")
    return Vectors(FORMAT, made)


def _case(
    name: str, shows: str, clause: str, call: Access, before: Tables | None = None, *, error: str | None = None,
    bug: str | None = None,
) -> RowCase:  # fmt: skip
    return RowCase(
        id=name, shows=shows, clause=clause, call=call, before=Tables() if before is None else before,
        valid=error is None, error=error, bug=bug,
    )  # fmt: skip


def _state(**changed: int | str | None) -> Tables:
    return Tables(msgspec.structs.replace(State(), **changed))


FREE: Final = _state(holder=None)
LASTING: Final = _state(expires=NOW + 50_000)


def _acquiring() -> Iterator[RowCase]:
    ask = Acquiring(EXTENSION, "extension")
    own = Acquiring(APP, "app again")
    yield _case("acquire-free", "a lease that nobody holds is taken under the next epoch", "P1.3", ask, FREE)
    yield _case(
        "acquire-free-wanted",
        "nobody waits yet for whoever takes the lease",
        "P1.3",
        ask,
        _state(holder=None, wanted=1),
    )
    yield _case("acquire-held", "a lease that is held is wanted, and stays as it is", "P1.3", ask)
    yield _case("acquire-held-and-wanted", "a lease that is wanted stays so", "P1.3", ask, _state(wanted=1))
    yield _case("acquire-expired", "a lease that has expired is taken", "P1.2", ask, _state(expires=NOW - 1))
    yield _case("acquire-expires-now", "a lease has expired at its very millisecond", "P1.2", ask, _state(expires=NOW))
    yield _case(
        "acquire-expires-next", "a lease has not expired a millisecond before", "P1.2", ask, _state(expires=NOW + 1)
    )
    yield _case(
        "acquire-own",
        "an instance takes its own lease again, under another epoch",
        "P1.2",
        own,
        bug="failed-sync-keeps-lease",
    )
    yield _case(
        "acquire-own-expired", "a lease that is taken again gets another epoch, so that old guards of its holder die",
        "P1.4", own, _state(expires=NOW - 1), bug="renew-ignores-loss",
    )  # fmt: skip
    yield _case(
        "acquire-as-long-as-may-be", "a lease may last as long as the longest", "P7.3", ask,
        _state(expires=NOW + LONGEST_MS), bug="clock-jump",
    )  # fmt: skip
    yield _case(
        "acquire-absurd", "a lease that would last longer was written by a clock that was wrong, and is taken", "P7.3", ask,
        _state(expires=NOW + LONGEST_MS + 1), bug="clock-jump",
    )  # fmt: skip
    largest = Acquiring(LARGEST, "largest")
    yield _case("acquire-largest", "an instance has the largest number that there is", "P0.4", largest, FREE)
    yield _case(
        "acquire-own-largest",
        "the largest number is known again",
        "P1.2",
        largest,
        _state(holder=LARGEST),
        bug="failed-sync-keeps-lease",
    )
    yield _case(
        "acquire-next-to-largest", "a number that rounds to that of the holder is another one", "P1.2",
        Acquiring(NEXT_TO_LARGEST, "next to largest"), _state(holder=LARGEST), bug="holder-name-reuse",
    )  # fmt: skip
    yield from _late(
        "acquire", Acquiring(EXTENSION, "extension", took=HALF), Acquiring(EXTENSION, "extension", took=LATE), FREE
    )
    yield _case(
        "acquire-newer-schema", "nobody takes the lease of a store with a newer schema", "P20.3", ask,
        msgspec.structs.replace(FREE, schema=2), error="UnsupportedSchema", bug="schema-moves-on",
    )  # fmt: skip


HALF: Final = DURATION // 2
LATE: Final = DURATION // 2 + 500


def _late(name: str, punctual: Access, late: Access, before: Tables) -> Iterator[RowCase]:
    """Yield what the accesses that write ``expires`` have in common: what took them long is added."""
    yield _case(f"{name}-in-half-the-time", "half of a lease's duration is not late", "P1.9", punctual, before)
    yield _case(
        f"{name}-late", "all the time that a late access took is added", "P1.9", late, before, bug="renewal-starved"
    )


STOPPED: Final = {
    "after-another-epoch": ("another instance has had the lease", _state(epoch=5, holder=EXTENSION)),
    "after-the-own-next-epoch": ("the same instance has taken the lease again", _state(epoch=5)),
    "after-release": ("the lease was released", _state(holder=None)),
}


def _fenced(name: str, call: Access, bug: str | None) -> Iterator[RowCase]:
    """Yield what each fenced access has in common: a clock does not stop it, and a lost lease does."""
    yield _case(
        f"{name}-expired",
        "a lease that has expired, and that nobody has taken, still fences",
        "P4.1",
        call,
        _state(expires=NOW - 1),
    )
    for how, (shows, before) in STOPPED.items():
        yield _case(f"{name}-{how}", f"stopped, since {shows}", "P4.3", call, before, error="LeaseLost", bug=bug)
    yield _case(
        f"{name}-newer-schema", "stopped, since a newer program has changed the schema", "P20.3", call,
        msgspec.structs.replace(_state(epoch=5, holder=None), schema=2), error="UnsupportedSchema", bug="schema-moves-on",
    )  # fmt: skip


def _lease() -> Iterator[RowCase]:
    yield _case("look-held", "whoever waits reads the lease", "P8.21", Looking())
    yield _case("look-largest", "whoever waits reads the largest number", "P8.21", Looking(), _state(holder=LARGEST))
    yield _case("look-free", "whoever waits reads that nobody holds the lease", "P8.21", Looking(), FREE)
    yield _case("renew", "a lease counts from now", "P1.7", Renewing(4))
    yield _case("renew-wanted", "the holder learns that somebody waits", "P1.7", Renewing(4), _state(wanted=1))
    yield _case(
        "renew-sooner", "a lease counts from now, also where it claimed to last longer", "P1.7", Renewing(4), LASTING
    )
    yield from _late("renew", Renewing(4, took=HALF), Renewing(4, took=LATE), Tables())
    yield from _fenced("renew", Renewing(4), "renew-ignores-loss")
    yield _case("release", "a lease that is released is free at once", "P8.18", Releasing(4), _state(wanted=1))
    for how, (shows, before) in STOPPED.items():
        yield _case(
            f"release-{how}", f"nothing happens: {shows}", "P4.3", Releasing(4), before, bug="guard-outlives-release"
        )
    yield _case("check", "the lease stands", "P6.1", Checking(4))
    yield _case("check-wanted", "the holder learns that somebody waits", "P8.2", Checking(4), _state(wanted=1))
    yield from _fenced("check", Checking(4), "lease-lapses-unfenced")


LOG: Final = Tables(
    record=[RecordRow(DEVICE, "01", "d1"), RecordRow(SESSION, "01", "a1"), RecordRow(SESSION, "02", "a2")],
    change=[
        ChangeRow(3, SESSION, "01"), ChangeRow(4, SESSION, "02"), ChangeRow(5, DEVICE, "01"), ChangeRow(5, SESSION, "02"),
        ChangeRow(6, SESSION, "03"), ChangeRow(7, DEVICE, "01"),
    ],
)  # fmt: skip
"""Three records, the last lines of the change log, and a record that was deleted in version 6."""


def _changes() -> Iterator[RowCase]:
    for since, shows in (
        (2, "from the floor on the log is complete"),
        (5, "only later lines are read"),
        (7, "nothing is new"),
    ):
        yield _case(f"sync-since-{since}", shows, "P2.2", ReadingChanges(since, 4), LOG)
    yield _case(
        "sync-since-before-the-floor", "the log does not reach back so far, and the floor says so", "P2.5",
        ReadingChanges(1, 4), LOG, bug="floor-ignored-at-sync",
    )  # fmt: skip
    yield from _fenced("sync", ReadingChanges(7, 4), "lease-lapses-unfenced")
    yield _case(
        "listen-free",
        "listening needs no lease",
        "P9.4",
        ReadingChanges(5, None),
        msgspec.structs.replace(LOG, state=FREE.state),
    )
    yield _case(
        "listen-held",
        "listening takes no notice of whoever holds the lease",
        "P9.4",
        ReadingChanges(5, None),
        msgspec.structs.replace(LOG, state=_state(epoch=5, holder=EXTENSION).state),
    )
    yield _case(
        "listen-newer-schema", "nobody reads the log of a newer schema", "P20.3", ReadingChanges(5, None),
        msgspec.structs.replace(LOG, schema=2), error="UnsupportedSchema", bug="schema-moves-on",
    )  # fmt: skip


def _loading() -> Iterator[RowCase]:
    bug = "unfenced-load"
    yield _case("load", "a record that did not change since", "P4.5", Loading(4, SESSION, "02", 5), LOG)
    yield _case("load-changed", "a record that changed since", "P4.6", Loading(4, SESSION, "02", 4), LOG)
    yield _case(
        "load-other-kind-changed",
        "one key in another kind is another record",
        "P4.6",
        Loading(4, SESSION, "01", 3),
        LOG,
    )
    yield _case("load-absent", "a record that was never there", "P4.5", Loading(4, SESSION, "09", 7), LOG)
    yield _case("load-deleted-since", "a record that was deleted since", "P4.6", Loading(4, SESSION, "03", 5), LOG)
    yield _case(
        "load-deleted-before", "a record that had been deleted by then", "P4.6", Loading(4, SESSION, "03", 6), LOG
    )
    yield _case(
        "load-at-the-floor", "the log reaches back just so far", "P4.6", Loading(4, SESSION, "04", 2),
        msgspec.structs.replace(LOG, record=[*LOG.record, RecordRow(SESSION, "04", "a4")]),
    )  # fmt: skip
    yield _case(
        "load-before-the-floor", "where the log does not reach back, the record counts as changed", "P4.6",
        Loading(4, DEVICE, "02", 1), LOG, bug="floor-ignored-at-load",
    )  # fmt: skip
    yield _case(
        "load-null", "a row without a value is damaged, and not absent", "P16.6", Loading(4, SESSION, "05", 7),
        msgspec.structs.replace(LOG, record=[*LOG.record, RecordRow(SESSION, "05", None)]),
    )  # fmt: skip
    yield from _fenced("load", Loading(4, SESSION, "01", 7), bug)


def _listing() -> Iterator[RowCase]:
    yield _case("list", "the keys of a kind, in their order", "P4.9", ListingKeys(4, SESSION, 6), LOG)
    yield _case("list-changed", "a record of the kind was deleted since", "P4.10", ListingKeys(4, SESSION, 5), LOG)
    yield _case(
        "list-other-kind-changed",
        "only records of another kind changed since",
        "P4.10",
        ListingKeys(4, SESSION, 6),
        LOG,
    )
    yield _case("list-none", "a kind that has no records", "P4.9", ListingKeys(4, "room", 7), LOG)
    yield _case(
        "list-at-the-floor", "the log reaches back just so far", "P4.10", ListingKeys(4, "room", 2),
        msgspec.structs.replace(LOG, record=[*LOG.record, RecordRow("room", "01", "e1")]),
    )  # fmt: skip
    yield _case(
        "list-before-the-floor", "where the log does not reach back, the kind counts as changed", "P4.10",
        ListingKeys(4, "room", 1), LOG, bug="floor-ignored-at-load",
    )  # fmt: skip
    yield from _fenced("list", ListingKeys(4, SESSION, 7), "unfenced-load")


def _committing() -> Iterator[RowCase]:
    new, other, gone = RecordRow(SESSION, "09", "b9"), RecordRow(SESSION, "01", "b1"), RecordRow(SESSION, "02", None)

    def commit(*records: RecordRow, may_release: bool = False, took: int = 0) -> Committing:
        return Committing(4, list(records), may_release, took=took)

    yield _case("commit-new", "a record that was not there", "P5.18", commit(new), LOG)
    yield _case("commit-changed", "a record that was there", "P5.18", commit(other), LOG)
    yield _case("commit-deletion", "a record is deleted, and the log says so", "P13.6", commit(gone), LOG)
    yield _case(
        "commit-deletion-of-nothing", "the log names a deletion whether or not the record was there", "P5.7",
        commit(RecordRow(DEVICE, "07", None)), LOG,
    )  # fmt: skip
    yield _case(
        "commit-unchanged", "the log names a record that is written as it was", "P5.7", commit(LOG.record[1]), LOG
    )
    yield _case(
        "commit-many",
        "all records of a commit have one version",
        "P5.18",
        commit(RecordRow(DEVICE, "01", "d2"), other, gone, new),
        LOG,
    )
    yield _case("commit-nothing-known", "the first commit of a store", "P5.16", commit(new), _state(version=0, floor=0))
    wanted = _state(wanted=1)
    yield _case(
        "commit-and-release", "the lease is released for whoever waits", "P5.17", commit(new, may_release=True), wanted
    )
    yield _case(
        "commit-while-others-run",
        "the lease is kept while other operations run, and renewed",
        "P5.17",
        commit(new),
        wanted,
    )
    yield _case(
        "commit-and-keep", "the lease is kept where nobody waits, and renewed", "P5.17", commit(new, may_release=True)
    )
    yield _case(
        "commit-sooner", "a lease counts from now, also where it claimed to last longer", "P5.16", commit(new), LASTING
    )
    yield from _late("commit", commit(new, took=HALF), commit(new, took=LATE), Tables())
    yield _case(
        "commit-late-and-release", "a late commit releases the lease all the same", "P5.17",
        commit(new, may_release=True, took=LATE), wanted,
    )  # fmt: skip
    yield from _fenced("commit", commit(new), "lease-lapses-unfenced")


def _truncating() -> Iterator[RowCase]:
    yield _case("truncate", "the floor rises, and the lines up to it go", "P4.16", Truncating(5), LOG)
    yield _case("truncate-beyond-the-version", "the floor never passes the version", "P4.16", Truncating(99), LOG)
    yield _case("truncate-below-the-floor", "the floor never falls", "P4.16", Truncating(1), LOG)
    yield _case(
        "truncate-unheld", "it needs no lease", "P4.16", Truncating(5), msgspec.structs.replace(LOG, state=FREE.state)
    )
    yield _case(
        "truncate-newer-schema", "nobody truncates the log of a newer schema", "P16.9", Truncating(5),
        msgspec.structs.replace(LOG, schema=2), error="UnsupportedSchema", bug="schema-moves-on",
    )  # fmt: skip
