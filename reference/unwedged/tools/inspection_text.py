"""What a store looks like from outside, as text: two columns, the same in a terminal and in a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from unwedged.store import engine
from unwedged.store.inspection import Inspection


def text_of(found: Inspection) -> str:
    """Return a line for each thing that is known."""
    rows = list(_rows(found))
    width = max(len(name) for name, _ in rows) + 2
    return "".join(f"{name:{width}}{value}\n" for name, value in rows)


def _rows(found: Inspection) -> Iterator[tuple[str, str]]:
    lease = found.lease
    expires = datetime.fromtimestamp(lease.expires / 1000, UTC).isoformat(timespec="milliseconds")
    yield "store", found.identity
    yield "schema", str(found.schema)
    yield "SQLite here", engine.description()
    yield (
        "holder",
        "nobody" if lease.holder is None else f"{found.label!r} (instance {lease.holder}) until {expires}",
    )
    yield "epoch", str(lease.epoch)
    yield "somebody waits", "yes" if lease.wanted else "no"
    yield "version", str(found.version)
    yield "change log", f"complete after version {found.floor}"
    for version, kind in found.changes:
        yield "", f"version {version} changed a record of kind {_printable(kind)}"
    for kind, count in sorted(found.records.items()):
        yield f"records of {_printable(kind)}", str(count)


def _printable(name: str) -> str:
    """Return a name as it is, or so that it can do nothing to a terminal: anybody may have written the file."""
    return name if name.isprintable() else repr(name)
