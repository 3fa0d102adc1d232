"""The text of an inspection: two columns, the same in a terminal and in a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from unwedged.protocol.identifiers import Milliseconds
from unwedged.store import engine
from unwedged.store.inspection import Inspection
from unwedged.tools.printable import printable


def text_of(found: Inspection) -> str:
    """Return one line for each value."""
    rows = list(_rows(found))
    width = max(len(name) for name, _ in rows) + 2
    return "".join(f"{name:{width}}{value}\n" for name, value in rows)


def _rows(found: Inspection) -> Iterator[tuple[str, str]]:
    lease = found.lease
    yield "store", found.identity
    yield "schema", str(found.schema)
    yield "SQLite here", engine.description()
    if lease.holder is None:
        yield "holder", "nobody"
    else:
        yield "holder", f"{found.label!r} (instance {lease.holder}) until {_time(lease.expires)}"
    yield "epoch", str(lease.epoch)
    yield "somebody waits", "yes" if lease.wanted else "no"
    yield "version", str(found.version)
    yield "change log", f"complete after version {found.floor}"
    for version, kind, count in found.changes:
        records = "a record" if count == 1 else f"{count:,} records"
        yield "", f"version {version} changed {records} of kind {printable(kind)}"
    for kind, count in found.records.items():
        yield f"records of {printable(kind)}", str(count)


def _time(ms: Milliseconds) -> str:
    """Return a time by the calendar, or as a plain number if no calendar has it: a file may have any number."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms"
