"""Generate the vectors for the rows of a store: the answer of each access of P4.2, and the rows after it."""

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
"""As a floating-point number, this equals the largest instance number."""
SESSION: Final = "olm_session"
DEVICE: Final = "device"


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The row of the table ``state``. Instance numbers are texts, since many JSON parsers round numbers above 2^53."""

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
    """The answer of an access to the lease."""

    epoch: int
    holder: str | None
    expires: int
    wanted: bool


class Log(msgspec.Struct, frozen=True):
    """The answer of reading the change log."""

    version: int
    floor: int
    changes: list[ChangeRow]


class Found(msgspec.Struct, frozen=True):
    """The answer of loading a record. A null value is answered as an empty value, which does not authenticate."""

    version: int
    value: str | None
    changed: bool


class Listing(msgspec.Struct, frozen=True):
    """The answer of listing the keys of a kind."""

    version: int
    keys: list[str]
    changed: bool


class Commit(msgspec.Struct, frozen=True):
    """The answer of a commit."""

    version: int
    wanted: bool
    released: bool


class Acquiring(msgspec.Struct, tag="acquire", tag_field="access", frozen=True):
    """An acquisition, P1.3."""

    instance: str
    label: str
    now: int = NOW
    duration: int = DURATION
    took: int = 0
    """The milliseconds that the access takes until it writes ``expires``, by a clock that does not jump (P1.9)."""


class Looking(msgspec.Struct, tag="look", tag_field="access", frozen=True):
    """A read of the lease by a process that waits, P8.21."""


class Renewing(msgspec.Struct, tag="renew", tag_field="access", frozen=True):
    """A renewal, P1.7."""

    epoch: int
    now: int = NOW
    duration: int = DURATION
    took: int = 0


class Releasing(msgspec.Struct, tag="release", tag_field="access", frozen=True):
    """A release, P8.18."""

    epoch: int


class Checking(msgspec.Struct, tag="check", tag_field="access", frozen=True):
    """A check whether the epoch still holds the lease, P6.1."""

    epoch: int


class ReadingChanges(msgspec.Struct, tag="read_changes", tag_field="access", frozen=True):
    """A read of the change log: for a sync if it has an epoch (P2.2), else to listen (P9.4)."""

    since: int
    epoch: int | None


class Loading(msgspec.Struct, tag="load", tag_field="access", frozen=True):
    """A load of a record, P4.5. ``since`` is the version of the operation's snapshot."""

    epoch: int
    kind: str
    key: str
    since: int


class ListingKeys(msgspec.Struct, tag="list", tag_field="access", frozen=True):
    """A listing of the keys of a kind, P4.9."""

    epoch: int
    kind: str
    since: int


class Committing(msgspec.Struct, tag="commit", tag_field="access", frozen=True):
    """A commit, P5.16 to P5.19. It deletes each record without a value."""

    epoch: int
    records: list[RecordRow]
    may_release: bool
    """Whether no other operation runs, so that the commit may release the lease for a process that waits (P5.17)."""
    now: int = NOW
    duration: int = DURATION
    took: int = 0


class Truncating(msgspec.Struct, tag="truncate", tag_field="access", frozen=True):
    """A truncation of the change log, P4.16. It needs no lease."""

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
    """One access to a store, with the tables ``before`` and ``after`` it."""

    before: Tables
    call: Access
    answer: dict[str, Plain] | None = None
    """The answer. Absent if the access returns nothing, or an error."""
    after: Tables | None = None


_TABLES: Final = {
    "state": "SELECT version, floor, epoch, CAST(holder AS TEXT), label, expires, wanted FROM state",
    "record": "SELECT kind, lower(hex(key)), CASE WHEN value IS NOT NULL THEN lower(hex(value)) END FROM record"
    " ORDER BY kind, key",
    "change": "SELECT version, kind, lower(hex(key)) FROM change ORDER BY version, kind, key",
}


class Store:
    """A store of the reference whose tables can be set and read without the protocol."""

    def __init__(self, backend: SqliteBackend, path: Path) -> None:
        self._backend = backend
        self._path = path

    async def run(self, case: RowCase) -> RowCase:
        """Run a case on the reference, and return the case with the result."""
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
        self._backend._newest = Version(0)
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            for statement in ("DELETE FROM record", "DELETE FROM change"):
                connection.execute(statement)
            # The triggers of the records write lines. So the records come first; then the lines are replaced.
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
        """Write rows without a value. No program does so: the trigger would delete them."""
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
    """Let an access take so many milliseconds: the clock advances once, after the reference has first read it."""
    times = chain((0.0,), repeat(duration_ms / 1000))
    with mock.patch("unwedged.store.database.monotonic_seconds", side_effect=times):
        yield


async def run_all(cases: list[RowCase]) -> list[RowCase]:
    """Run cases on one store of the reference, one after the other. Return them with their results."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.db"
        backend = await SqliteBackend.open(path)
        try:
            store = Store(backend, path)
            return [await store.run(case) for case in cases]
        finally:
            await backend.close()


def make() -> Vectors[RowCase]:
    """Generate all cases. Raises ``Unexpected``."""
    cases = [*_acquiring(), *_lease(), *_changes(), *_loading(), *_listing(), *_committing(), *_truncating()]
    must_be_unique([case.id for case in cases])
    made = asyncio.run(run_all(cases))
    for meant, case in zip(cases, made, strict=True):
        if (meant.valid, meant.error) != (case.valid, case.error):
            raise Unexpected(f"{case.id}: expected {meant.error}, got {case.error}")
        if not case.valid and case.after != case.before:
            raise Unexpected(f"{case.id}: the access was refused, but it has changed a table")
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
        "after an acquisition, the lease is not wanted",
        "P1.3",
        ask,
        _state(holder=None, wanted=1),
    )
    yield _case("acquire-held", "a refused acquisition only notes that the lease is wanted", "P1.3", ask)
    yield _case(
        "acquire-held-and-wanted", "a lease that is already wanted does not change", "P1.3", ask, _state(wanted=1)
    )
    yield _case("acquire-expired", "a lease that has expired is taken", "P1.2", ask, _state(expires=NOW - 1))
    yield _case(
        "acquire-expires-now", "a lease has expired when the clock reaches expires", "P1.2", ask, _state(expires=NOW)
    )
    yield _case(
        "acquire-expires-next", "a lease has not expired one millisecond earlier", "P1.2", ask, _state(expires=NOW + 1)
    )
    yield _case(
        "acquire-own",
        "an instance takes its own lease again, under another epoch",
        "P1.2",
        own,
        bug="failed-sync-keeps-lease",
    )
    yield _case(
        "acquire-own-expired", "a lease that its holder takes again gets another epoch, so the holder's old guards end",
        "P1.4", own, _state(expires=NOW - 1), bug="renew-ignores-loss",
    )  # fmt: skip
    yield _case(
        "acquire-as-long-as-may-be", "a lease may last as long as the longest", "P7.3", ask,
        _state(expires=NOW + LONGEST_MS), bug="clock-jump",
    )  # fmt: skip
    yield _case(
        "acquire-absurd", "a lease that would last longer was written by a wrong clock, and is taken", "P7.3", ask,
        _state(expires=NOW + LONGEST_MS + 1), bug="clock-jump",
    )  # fmt: skip
    largest = Acquiring(LARGEST, "largest")
    yield _case("acquire-largest", "an instance has the largest instance number", "P0.4", largest, FREE)
    yield _case(
        "acquire-own-largest",
        "an instance with the largest number is recognised as the holder",
        "P1.2",
        largest,
        _state(holder=LARGEST),
        bug="failed-sync-keeps-lease",
    )
    yield _case(
        "acquire-next-to-largest", "an instance number that only rounds to the holder's is another instance", "P1.2",
        Acquiring(NEXT_TO_LARGEST, "next to largest"), _state(holder=LARGEST), bug="holder-name-reuse",
    )  # fmt: skip
    yield from _late(
        "acquire", Acquiring(EXTENSION, "extension", took=HALF), Acquiring(EXTENSION, "extension", took=LATE), FREE
    )
    yield _case(
        "acquire-newer-schema", "the lease of a store with a newer schema is not taken", "P20.3", ask,
        msgspec.structs.replace(FREE, schema=2), error="UnsupportedSchema", bug="schema-moves-on",
    )  # fmt: skip


HALF: Final = DURATION // 2
LATE: Final = DURATION // 2 + 500


def _late(name: str, punctual: Access, late: Access, before: Tables) -> Iterator[RowCase]:
    """Yield the cases of each access that writes ``expires``: the duration of a late access is added."""
    yield _case(
        f"{name}-in-half-the-time",
        "an access that takes half of a lease's duration is not late",
        "P1.9",
        punctual,
        before,
    )
    yield _case(
        f"{name}-late", "the whole duration of a late access is added", "P1.9", late, before, bug="renewal-starved"
    )


STOPPED: Final = {
    "after-another-epoch": ("another instance has had the lease", _state(epoch=5, holder=EXTENSION)),
    "after-the-own-next-epoch": ("the same instance has taken the lease again", _state(epoch=5)),
    "after-release": ("the lease was released", _state(holder=None)),
}


def _fenced(name: str, call: Access, bug: str | None) -> Iterator[RowCase]:
    """Yield the cases of each fenced access: a lost lease stops it, an expired one does not."""
    yield _case(
        f"{name}-expired",
        "a lease that has expired still passes the fence, if no process has taken it",
        "P4.1",
        call,
        _state(expires=NOW - 1),
    )
    for how, (shows, before) in STOPPED.items():
        yield _case(f"{name}-{how}", f"the fence stops it: {shows}", "P4.3", call, before, error="LeaseLost", bug=bug)
    yield _case(
        f"{name}-newer-schema", "it fails, because a newer program has changed the schema", "P20.3", call,
        msgspec.structs.replace(_state(epoch=5, holder=None), schema=2), error="UnsupportedSchema", bug="schema-moves-on",
    )  # fmt: skip


def _lease() -> Iterator[RowCase]:
    yield _case("look-held", "a process that waits reads the lease", "P8.21", Looking())
    yield _case(
        "look-largest",
        "a process that waits reads the largest instance number",
        "P8.21",
        Looking(),
        _state(holder=LARGEST),
    )
    yield _case("look-free", "a process that waits reads that no process holds the lease", "P8.21", Looking(), FREE)
    yield _case("renew", "a renewed lease lasts from now on", "P1.7", Renewing(4))
    yield _case("renew-wanted", "the holder learns that a process waits", "P1.7", Renewing(4), _state(wanted=1))
    yield _case(
        "renew-sooner",
        "a renewed lease lasts from now on, even if it would have lasted longer",
        "P1.7",
        Renewing(4),
        LASTING,
    )
    yield from _late("renew", Renewing(4, took=HALF), Renewing(4, took=LATE), Tables())
    yield from _fenced("renew", Renewing(4), "renew-ignores-loss")
    yield _case("release", "a lease that is released is free at once", "P8.18", Releasing(4), _state(wanted=1))
    for how, (shows, before) in STOPPED.items():
        yield _case(
            f"release-{how}", f"nothing happens: {shows}", "P4.3", Releasing(4), before, bug="guard-outlives-release"
        )
    yield _case(
        "release-newer-schema", "nothing happens: the migration of a newer program has taken the lease away", "P20.4", Releasing(4),
        msgspec.structs.replace(_state(epoch=5, holder=None), schema=2), bug="schema-moves-on",
    )  # fmt: skip
    yield _case("check", "the epoch still holds the lease", "P6.1", Checking(4))
    yield _case("check-wanted", "the holder learns that a process waits", "P8.2", Checking(4), _state(wanted=1))
    yield from _fenced("check", Checking(4), "lease-lapses-unfenced")


LOG: Final = Tables(
    record=[RecordRow(DEVICE, "01", "d1"), RecordRow(SESSION, "01", "a1"), RecordRow(SESSION, "02", "a2")],
    change=[
        ChangeRow(3, SESSION, "01"), ChangeRow(4, SESSION, "02"), ChangeRow(5, DEVICE, "01"), ChangeRow(5, SESSION, "02"),
        ChangeRow(6, SESSION, "03"), ChangeRow(7, DEVICE, "01"),
    ],
)  # fmt: skip
"""Three records and the last lines of the change log. One record was deleted in version 6."""


def _changes() -> Iterator[RowCase]:
    for since, shows in (
        (2, "from the floor on, the change log is complete"),
        (5, "only later lines are read"),
        (7, "nothing is new"),
    ):
        yield _case(f"sync-since-{since}", shows, "P2.2", ReadingChanges(since, 4), LOG)
    yield _case(
        "sync-since-before-the-floor", "the change log does not reach back so far, as the floor shows", "P2.5",
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
        "listening does not depend on the holder of the lease",
        "P9.4",
        ReadingChanges(5, None),
        msgspec.structs.replace(LOG, state=_state(epoch=5, holder=EXTENSION).state),
    )
    yield _case(
        "listen-newer-schema", "the change log of a newer schema is not read", "P20.3", ReadingChanges(5, None),
        msgspec.structs.replace(LOG, schema=2), error="UnsupportedSchema", bug="schema-moves-on",
    )  # fmt: skip


def _loading() -> Iterator[RowCase]:
    bug = "unfenced-load"
    yield _case("load", "a record that did not change since the snapshot", "P4.5", Loading(4, SESSION, "02", 5), LOG)
    yield _case("load-changed", "a record that changed since the snapshot", "P4.6", Loading(4, SESSION, "02", 4), LOG)
    yield _case(
        "load-other-kind-changed",
        "the same key in another kind is another record",
        "P4.6",
        Loading(4, SESSION, "01", 3),
        LOG,
    )
    yield _case("load-absent", "a record that never existed", "P4.5", Loading(4, SESSION, "09", 7), LOG)
    yield _case(
        "load-deleted-since", "a record that was deleted since the snapshot", "P4.6", Loading(4, SESSION, "03", 5), LOG
    )
    yield _case(
        "load-deleted-before",
        "a record that was deleted before the snapshot",
        "P4.6",
        Loading(4, SESSION, "03", 6),
        LOG,
    )
    yield _case(
        "load-at-the-floor", "the change log reaches back just far enough", "P4.6", Loading(4, SESSION, "04", 2),
        msgspec.structs.replace(LOG, record=[*LOG.record, RecordRow(SESSION, "04", "a4")]),
    )  # fmt: skip
    yield _case(
        "load-before-the-floor", "if the change log does not reach back far enough, the record counts as changed", "P4.6",
        Loading(4, DEVICE, "02", 1), LOG, bug="floor-ignored-at-load",
    )  # fmt: skip
    yield _case(
        "load-null", "a row without a value is damaged, not absent", "P16.6", Loading(4, SESSION, "05", 7),
        msgspec.structs.replace(LOG, record=[*LOG.record, RecordRow(SESSION, "05", None)]),
    )  # fmt: skip
    yield from _fenced("load", Loading(4, SESSION, "01", 7), bug)


def _listing() -> Iterator[RowCase]:
    yield _case("list", "the keys of a kind, in order", "P4.9", ListingKeys(4, SESSION, 6), LOG)
    yield _case(
        "list-changed", "a record of the kind was deleted since the snapshot", "P4.10", ListingKeys(4, SESSION, 5), LOG
    )
    yield _case(
        "list-other-kind-changed",
        "only records of another kind changed since the snapshot",
        "P4.10",
        ListingKeys(4, SESSION, 6),
        LOG,
    )
    yield _case("list-none", "a kind without records", "P4.9", ListingKeys(4, "room", 7), LOG)
    yield _case(
        "list-at-the-floor", "the change log reaches back just far enough", "P4.10", ListingKeys(4, "room", 2),
        msgspec.structs.replace(LOG, record=[*LOG.record, RecordRow("room", "01", "e1")]),
    )  # fmt: skip
    yield _case(
        "list-before-the-floor", "if the change log does not reach back far enough, the kind counts as changed", "P4.10",
        ListingKeys(4, "room", 1), LOG, bug="floor-ignored-at-load",
    )  # fmt: skip
    yield from _fenced("list", ListingKeys(4, SESSION, 7), "unfenced-load")


def _committing() -> Iterator[RowCase]:
    new, other, gone = RecordRow(SESSION, "09", "b9"), RecordRow(SESSION, "01", "b1"), RecordRow(SESSION, "02", None)

    def commit(*records: RecordRow, may_release: bool = False, took: int = 0) -> Committing:
        return Committing(4, list(records), may_release, took=took)

    yield _case("commit-new", "a record that did not exist", "P5.18", commit(new), LOG)
    yield _case("commit-changed", "a record that existed", "P5.18", commit(other), LOG)
    yield _case("commit-deletion", "a record is deleted, and the change log names it", "P13.6", commit(gone), LOG)
    yield _case(
        "commit-deletion-of-nothing", "the change log names a deletion even if the record did not exist", "P5.7",
        commit(RecordRow(DEVICE, "07", None)), LOG,
    )  # fmt: skip
    yield _case(
        "commit-unchanged",
        "the change log names a record that is written without a change",
        "P5.7",
        commit(LOG.record[1]),
        LOG,
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
        "commit-and-release",
        "the lease is released for a process that waits",
        "P5.17",
        commit(new, may_release=True),
        wanted,
    )
    yield _case(
        "commit-while-others-run",
        "the lease is kept and renewed while other operations run",
        "P5.17",
        commit(new),
        wanted,
    )
    yield _case(
        "commit-and-keep", "the lease is kept and renewed if no process waits", "P5.17", commit(new, may_release=True)
    )
    yield _case(
        "commit-sooner",
        "a renewed lease lasts from now on, even if it would have lasted longer",
        "P5.16",
        commit(new),
        LASTING,
    )
    yield from _late("commit", commit(new, took=HALF), commit(new, took=LATE), Tables())
    yield _case(
        "commit-late-and-release", "a late commit releases the lease too", "P5.17",
        commit(new, may_release=True, took=LATE), wanted,
    )  # fmt: skip
    yield from _fenced("commit", commit(new), "lease-lapses-unfenced")


def _truncating() -> Iterator[RowCase]:
    yield _case("truncate", "the floor rises, and the lines up to it are deleted", "P4.16", Truncating(5), LOG)
    yield _case("truncate-beyond-the-version", "the floor never passes the version", "P4.16", Truncating(99), LOG)
    yield _case("truncate-below-the-floor", "the floor never falls", "P4.16", Truncating(1), LOG)
    yield _case(
        "truncate-unheld",
        "truncation needs no lease",
        "P4.16",
        Truncating(5),
        msgspec.structs.replace(LOG, state=FREE.state),
    )
    yield _case(
        "truncate-newer-schema", "the change log of a newer schema is not truncated", "P16.9", Truncating(5),
        msgspec.structs.replace(LOG, schema=2), error="UnsupportedSchema", bug="schema-moves-on",
    )  # fmt: skip
