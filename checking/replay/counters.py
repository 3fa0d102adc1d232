"""The records of the replay: counters, which like a ratchet change in place and count their updates."""

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
    """Return what a record's value counts: nothing, where there is no record."""
    return 0 if value is None else int(value)
