"""Inspection of a store from outside: it needs no passphrase, takes no lease, and never writes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds, Version
from unwedged.protocol.lease import Lease
from unwedged.store import database
from unwedged.store.arguments import path_of, whole_of
from unwedged.store.engine import must_be_supported
from unwedged.store.errors import InvalidArgument, NotAStore
from unwedged.store.files import must_have_one_name, must_not_be_inherited, regular_file_at, resolved
from unwedged.store.schema import CENSUS, identity_of, version_of

_STATE: Final = "SELECT floor, label, epoch, holder, expires, wanted FROM state"
_COUNTS: Final = "SELECT CAST(kind AS TEXT), count(*) FROM record GROUP BY kind ORDER BY kind"
_LINES: Final = (
    "SELECT version, CAST(kind AS TEXT), count(*) FROM change "
    "GROUP BY version, kind ORDER BY version DESC, kind DESC LIMIT ?"
)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What can be read of a store without its passphrase."""

    schema: int
    identity: str
    version: Version
    floor: Version
    lease: Lease
    label: str
    """The label of the instance that took the lease last."""
    records: Mapping[str, int]
    """How many records there are of each kind."""
    changes: tuple[tuple[Version, str, int], ...]
    """The end of the change log, oldest first: which commit wrote records of which kind, and how many."""


def inspect(path: str | Path, lines: int = 20) -> Inspection:
    """Look at the store at ``path``, as it is after its last commit, with at most ``lines`` of its ``changes``."""
    must_be_supported()
    named = path_of(path)
    if whole_of(lines, "the number of lines") < 0:
        raise InvalidArgument(f"the number of lines is at least 0, not {lines}")
    with database.translated():
        path = resolved(named)
        must_not_be_inherited(regular_file_at(path))
        must_have_one_name(path)
        while True:
            before = _stamp(path)
            # A write-ahead log exists while a process has the store open, or after one died with it open. Without one,
            # SQLite would make one to read the file, unless it may assume that no process writes meanwhile ...
            result = _read(path, lines, immutable=not before.wal)
            # ... which is what this makes sure of.
            if before.wal or before == _stamp(path):
                return result


@dataclass(frozen=True, slots=True)
class _Stamp:
    wal: bool
    modified: int
    size: int


def _stamp(path: Path) -> _Stamp:
    status = path.stat()
    return _Stamp(path.with_name(path.name + "-wal").exists(), status.st_mtime_ns, status.st_size)


def _read(path: Path, lines: int, *, immutable: bool) -> Inspection:
    with contextlib.closing(database.connect_read_only(path, immutable=immutable)) as connection:
        connection.execute("BEGIN")  # One snapshot for all that follows.
        schema = version_of(*connection.execute(CENSUS).fetchone())
        if schema == 0:
            raise NotAStore("the file is empty")
        identity, version = identity_of(connection)
        floor, label, epoch, holder, expires, wanted = connection.execute(_STATE).fetchone()
        return Inspection(
            schema=schema,
            identity=identity.hex(),
            version=version,
            floor=Version(floor),
            lease=Lease(
                Epoch(epoch), None if holder is None else InstanceId(holder), Milliseconds(expires), bool(wanted)
            ),
            label=label,
            records=dict(connection.execute(_COUNTS)),
            changes=tuple(
                (Version(line), kind, count)
                for line, kind, count in reversed(connection.execute(_LINES, (lines,)).fetchall())
            ),
        )
