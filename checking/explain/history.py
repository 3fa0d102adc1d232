"""What the traces of one store report, in the order of its versions: who did what, and which writes were stale."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeVar

from checking.explain.lines import (
    AnyLine,
    Batch,
    Commit,
    OfMachine,
    OfOperation,
    Receive,
    Repair,
)
from checking.explain.reading import Location, Logs
from checking.explain.wording import counted

L = TypeVar("L", bound=AnyLine)


class Moment(NamedTuple):
    """When something took effect: after which commit, and where only reads say so, after all that it could see."""

    version: int
    only_read: bool
    instance: str
    line: int


@dataclass(frozen=True, slots=True)
class Event:
    """A line, when it took effect, and which process wrote it."""

    line: AnyLine
    location: Location
    at: Moment
    process: str


@dataclass(frozen=True, slots=True)
class StaleWrite:
    """A commit that computed a record from an older value than the newest, and what it has overwritten."""

    record: str
    commit: Event
    overwritten: tuple[Event, ...]


class History:
    """What the traces of one store report."""

    def __init__(self, logs: Logs, letter: str) -> None:
        self.logs = logs
        self.letter = letter
        self.processes = {f"{letter}{number}": name for number, name in enumerate(logs.instances, 1)}
        self.events: Sequence[Event] = sorted(self._events(), key=lambda event: event.at)
        self.commits = [event for event in self.events if isinstance(event.line, Commit)]
        self._commit_of = {(event.at.instance, _commit(event).operation): event for event in self.commits}
        self.stale_writes = tuple(self._stale_writes())

    def of(self, kind: type[L]) -> Iterator[tuple[Event, L]]:
        """Return the events of one step, in order, with their lines."""
        for event in self.events:
            if isinstance(event.line, kind):
                yield event, event.line

    def commit_of(self, event: Event) -> Event | None:
        """Return the commit that an event of the machine took effect with, if it wrote anything."""
        return (
            self._commit_of.get((event.at.instance, event.line.operation))
            if isinstance(event.line, OfMachine)
            else None
        )

    def records_of(self, event: Event) -> frozenset[str]:
        """Return the records that were written with an event of the machine."""
        commit = self.commit_of(event)
        return frozenset() if commit is None else frozenset(_commit(commit).records)

    def stale_between(self, records: Iterable[str], first: Event, last: Event) -> StaleWrite | None:
        """Return the first stale write of one of the records after one event and not after another."""
        wanted = set(records)
        return next(
            (
                write
                for write in self.stale_writes
                if write.record in wanted and first.at.version < write.commit.at.version <= last.at.version
            ),
            None,
        )

    @property
    def repeated_versions(self) -> tuple[int, ...]:
        """Versions that were made twice: the file was an older copy of itself the second time."""
        return tuple(
            sorted(
                {after.at.version for before, after in pairwise(self.commits) if before.at.version == after.at.version}
            )
        )

    @property
    def unreported_versions(self) -> tuple[tuple[int, int], ...]:
        """The first and the last of each row of versions that no line reports, between those that lines report."""
        known = sorted({event.at.version for event in self.commits})
        return tuple((before + 1, after - 1) for before, after in pairwise(known) if after > before + 1)

    def lost_batches(self, until: Moment | None) -> Iterator[tuple[str, Event]]:
        """Return what was lost of responses to syncs, in words, and the batch after which that shows."""
        previous: dict[str, tuple[Event, Batch]] = {}
        unprocessed: list[tuple[int, Event]] = []
        processed = self._processed()
        for event, batch in self.of(Batch):
            if not batch.events_applied or (until is not None and event.at > until):
                continue
            queue = "" if batch.sliding else batch.connection
            if queue in previous:
                before, last = previous[queue]
                if batch.asked_events not in {last.next_events, "none"}:
                    yield (
                        f"the events between the batches of {before.location} and {event.location} never came here",
                        event,
                    )
            previous[queue] = event, batch
            left = batch.events - processed.pop((event.at.instance, batch.operation), 0)
            if left > 0:
                unprocessed.append((left, event))
        # What is left of a large batch is processed by operations of its own.
        later = sum(processed.values())
        for left, event in unprocessed:
            if left > later:
                lost = counted(left - later, "of its events was", "of its events were")
                yield f"its token was kept, and {lost} never processed", event
            later = max(0, later - left)

    def _processed(self) -> dict[tuple[str, int], int]:
        """Count the to-device events that each operation has processed."""
        processed: dict[tuple[str, int], int] = defaultdict(int)
        for event, receive in self.of(Receive):
            processed[event.at.instance, receive.operation] += 1
        return processed

    def repaired(self, records: frozenset[str]) -> Event | None:
        """Return what says that one of the records could not be read any more."""
        return next((event for event, repair in self.of(Repair) if repair.record in records), None)

    def _events(self) -> Iterator[Event]:
        for process, instance in self.processes.items():
            effects: dict[int, tuple[int, bool]] = {}
            newest = 0
            for line, location in self.logs.instances[instance]:
                if isinstance(line, OfOperation):
                    effects[line.operation] = _effect(line)
                version, only_read = (
                    effects.get(line.operation, (newest, True))
                    if isinstance(line, OfMachine | OfOperation)
                    else (getattr(line, "version", None) or newest, True)
                )
                newest = max(newest, version)
                yield Event(line, location, Moment(version, only_read, instance, line.line), process)

    def _stale_writes(self) -> Iterator[StaleWrite]:
        unreported = bool(self.unreported_versions)
        writers: dict[str, list[tuple[str, Event]]] = defaultdict(list)
        """Of each record: what its commits made of it, and these commits, in order."""
        for event in self.commits:
            commit = _commit(event)
            for record, base in zip(commit.records, commit.based_on, strict=False):
                before = [(made, writer) for made, writer in writers[record] if writer.at.version < event.at.version]
                if not before or base == "unread":
                    continue
                newest = {made for made, writer in before if writer.at.version == before[-1][1].at.version}
                known = [number for number, (made, _) in enumerate(before) if made == base]
                if base not in newest and (known or not unreported):
                    rest = before[known[-1] + 1 :] if known else before
                    yield StaleWrite(record, event, tuple(writer for _, writer in rest))
            for record, made in zip(commit.records, commit.made, strict=False):
                writers[record].append((made, event))


def histories(logs: Sequence[Logs]) -> tuple[History, ...]:
    """Put the lines of each store in order, and give each store a letter."""
    return tuple(History(each, chr(ord("A") + number)) for number, each in enumerate(logs))


def _effect(line: OfOperation) -> tuple[int, bool]:
    """Return after which version what an operation says took effect, and whether it has only read."""
    return (line.version, False) if isinstance(line, Commit) else (line.snapshot, True)


def _commit(event: Event) -> Commit:
    assert isinstance(event.line, Commit)
    return event.line
