"""Define the records of the replay: counters that, like a ratchet, change in place and count their updates."""

from __future__ import annotations

from dataclasses import dataclass

from unwedged.store.records import TEXT, Codec, RecordKind


@dataclass(slots=True)
class Counter:
    """A record's live object."""

    count: int


COUNTER = RecordKind(
    "counter",
    key=TEXT,
    value=Codec[Counter](lambda counter: b"%d" % counter.count, lambda encoded: Counter(int(encoded))),
)


def count_of(value: bytes | None) -> int:
    """Return the number of updates in a record's value; 0 if there is no record."""
    return 0 if value is None else int(value)
