"""Traces of all processes as one sequence of steps, in order by epoch and version, for ``tla/Trace.tla`` to judge.

No clock is asked (T6.1). What was done under an epoch comes between its acquisition and the next one, in the order of
its instance's lines; what shows that an epoch is over comes after the next acquisition. Nothing is judged here, and
what traces leave out is put in only where nothing else can have happened: a lease expires before somebody else takes
it, an operation begins before its first line, a version that nobody tells of was made by whoever held the lease.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from operator import attrgetter, itemgetter
from typing import Final, TypeAlias

from checking.errors import CheckError
from checking.explain.lines import (
    Acquire,
    AnyLine,
    Close,
    Commit,
    CommitFails,
    Load,
    Lose,
    LoseGuard,
    OfOperation,
    Open,
    Outdated,
    Publish,
    Release,
    Renew,
    Subscribe,
    Sync,
    Unsubscribe,
    Validate,
    Want,
)
from checking.explain.reading import Found, Location, Logs
from checking.explain.writers import writers_of
from unwedged.protocol.lease import LONGEST_LEASE_MS

Fact: TypeAlias = "int | bool | str | tuple[str, ...] | Mapping[str, int]"
"""What ``tla/Trace.tla`` gets of a step: a number, a truth value, a name, a set of names, or a number for each."""

UNKNOWN_BASIS: Final = 1_000_001
UNREAD: Final = 1_000_002
NEVER_SEEN: Final = 1_000_000
"""The basis of an update that was computed from a value which no line tells of."""
SOMETHING: Final = "?"
"""In the place of the records that a commit wrote, where nobody says which they are."""
MOST_UNREPORTED: Final = 100_000
"""The most versions that no line tells of: each is put in."""
MOST_EPOCHS: Final = 1_000_000_000
"""TLC has no numbers much larger."""


class TooFarApart(CheckError):
    """The versions or the epochs of the lines are too far apart to be followed."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step by its name in ``tla/Trace.tla``, what is known of it, and the line that tells of it, if one does."""

    name: str
    facts: Mapping[str, Fact]
    location: Location | None = None
    line: AnyLine | None = None


@dataclass(frozen=True, slots=True)
class Base:
    """What traces are counted from: a moment when nobody has the lease, and no process of before takes part."""

    epoch: int
    """The last one that was acquired."""
    version: int
    digests: Mapping[str, str]
    """Of the value of each record that a line tells of."""


@dataclass(frozen=True, slots=True)
class Merged:
    """All steps in order."""

    steps: Sequence[Step]
    processes: Mapping[str, str]
    """Names such as ``P1``, in the order in which they first took the lease, and the instance of each."""
    operations: Mapping[str, str]
    """Places for operations, and the process that each belongs to."""
    records: tuple[str, ...]
    remarks: tuple[str, ...]
    base_epoch: int
    base_version: int
    end: Base
    """Where traces begin that follow these."""
    others: bool
    """Whether lines show that an instance acted that has no trace, or whose last lines are missing."""


@dataclass(slots=True)
class _Operation:
    """What the lines of one operation say."""

    first: OfOperation
    last: int
    began_after: int
    """The number of the last line before it began."""
    slot: str = ""
    ended: bool = False
    writes: bool = False
    loaded: list[str] = field(default_factory=list)


_AFTER_PUBLISHING: Final = frozenset({"renew", "release", "load", "load_unreported", "validate"})
"""Steps before which a process has delivered to its subscribers all that its cache has."""
_NO_FACTS: Final[Mapping[str, Fact]] = {}
_ENDINGS: Final = (Commit, CommitFails, Validate, Lose, Outdated)
_Heeding: TypeAlias = Renew | Commit | Validate
"""Lines of what learns from the row whether somebody waits."""
_Fenced: TypeAlias = LoseGuard | CommitFails | Lose


def merge(logs: Logs, base: Base | None = None) -> Merged:
    """Put the lines of one store in order. Without a base they are counted from the first of each that they tell of."""
    return _Merging(logs, base).merged()


class _Merging:
    def __init__(self, logs: Logs, base: Base | None) -> None:
        self._logs = logs
        self._remarks = list(logs.remarks)
        lines = [found.line for found in self._all()]
        self._commits = sorted((line for line in lines if isinstance(line, Commit)), key=lambda line: line.version)
        self._versions = [commit.version for commit in self._commits]
        self._made_under = list(accumulate((commit.epoch for commit in self._commits), max))
        """By the places of these: the highest epoch so far."""
        self._syncs = sorted((line for line in lines if isinstance(line, Sync)), key=lambda line: line.epoch)
        by_version = sorted(self._syncs, key=lambda sync: sync.version)
        self._synced = [sync.version for sync in by_version]
        self._synced_under = list(accumulate((sync.epoch for sync in by_version), max))
        """By the places of these: the highest epoch so far."""
        self._holders = {line.epoch: line.instance for line in lines if isinstance(line, Acquire)}
        self._reported_up_to = 0 if base is None else base.epoch
        """The last epoch whose holder is of no importance."""
        self._base = base or self._first(line.version for line in lines if isinstance(line, Open))
        self._refuse_what_is_too_far_apart()
        self._cut_off = self._instances_cut_off()
        self._unreported_acquisitions = self._acquisitions_cut_off()
        self._holders |= self._unreported_acquisitions
        self._epochs = sorted(self._holders)
        order = dict.fromkeys([*(self._holders[epoch] for epoch in self._epochs), *sorted(logs.instances)])
        self._names = {instance: f"P{number}" for number, instance in enumerate(order, 1)}
        self._unreported = self._unreported_versions()
        self._failed = self._failed_commits(line for line in lines if isinstance(line, CommitFails))
        self._written_in = self._versions_by_record()
        self._newest_digests = dict(self._base.digests)
        self._values = self._numbered_values()
        writers = writers_of(logs)
        self._loading = {instance for instance, writer in writers.items() if "load" in writer.steps}
        """The instances whose traces tell of loads."""
        self._of_epoch: dict[int, dict[str, list[Step]]] = defaultdict(lambda: defaultdict(list))
        self._slots: dict[str, str] = {}

    def _all(self) -> Iterator[Found]:
        for lines in self._logs.instances.values():
            yield from lines

    def merged(self) -> Merged:
        """Return all steps in order."""
        for instance, name in self._names.items():
            _Instance(self, name, self._logs.instances[instance]).place()
        self._place_unreported()
        self._place_cut_off()
        steps = list(self._in_order())
        return Merged(
            steps,
            {name: instance for instance, name in self._names.items()},
            self._slots,
            tuple(sorted({record for step in steps for record in records_of(step)})),
            tuple(self._remarks),
            self._base.epoch,
            self._base.version,
            Base(max(self._epochs, default=self._base.epoch), self._last_version, self._newest_digests),
            self._others(),
        )

    def _others(self) -> bool:
        """Say whether lines show an epoch, a version, or a wish for the lease that no line reports (T5.2)."""
        lines = [found.line for found in self._all()]
        acquired = {line.epoch for line in lines if isinstance(line, Acquire)}
        refused = {line.epoch for line in lines if isinstance(line, Want) and line.epoch > self._reported_up_to}
        shown = {line.row_epoch for line in lines if isinstance(line, Validate) and line.row_epoch is not None}
        last = max(acquired | refused | shown, default=self._base.epoch)
        after_base = sum(epoch > self._base.epoch for epoch in acquired)
        seen = [line.version for line in lines if isinstance(line, Open | Load | Outdated) and line.version is not None]
        return (
            not refused <= acquired
            or after_base < last - self._base.epoch
            or any(_was_wanted(line) and line.epoch not in refused for line in lines if isinstance(line, _Heeding))
            or any(_was_fenced(line) and line.epoch >= last for line in lines if isinstance(line, _Fenced))
            or not self._unreported.keys() <= self._failed.keys()
            or max(seen, default=0) > self._last_version
        )

    def _first(self, opened: Iterable[int]) -> Base:
        """Return the moment before the first lines. What others did before, who have no traces, comes before it."""
        epoch = min(self._holders, default=1) - 1
        made = [line.version - 1 for line in self._commits]
        first = min([*opened, *made, *(line.since for line in self._syncs)], default=0)
        if epoch:
            found = [line.version for line in self._syncs if line.epoch == epoch + 1]
            first = max(first, min([*found, *made])) if found else first
        return Base(epoch, first, {})

    def _refuse_what_is_too_far_apart(self) -> None:
        versions = [(line.version, str(place)) for line, place in self._all() if isinstance(line, Commit | Sync)]
        last, place = max(versions, default=(0, ""))
        unreported = last - self._base.version - len({line.version for line in self._commits})
        if unreported > MOST_UNREPORTED:
            raise TooFarApart(
                f"{place} is of version {last:,}, and no line reports {unreported:,} of the versions from "
                f"{self._base.version + 1:,} on: {MOST_UNREPORTED:,} can be missing at most"
            )
        highest, place = max(((getattr(line, "epoch", 0), str(place)) for line, place in self._all()), default=(0, ""))
        if highest - self._base.epoch > MOST_EPOCHS:
            raise TooFarApart(
                f"{place} is of epoch {highest:,}, and the first epoch is {self._base.epoch + 1:,}: too far apart"
            )

    # The last line of an instance that was killed, which may be missing (T1.4)

    def _instances_cut_off(self) -> dict[str, int]:
        """Return the instances that end without a guard and without a ``close``, and the last epoch of each."""
        cut_off: dict[str, int] = {}
        for instance, lines in self._logs.instances.items():
            guard: int | None = None
            for found in lines:
                guard = _guard_after(found.line, guard)
            if guard is None and not isinstance(lines[-1].line, Close):
                cut_off[instance] = max((getattr(found.line, "epoch", 0) for found in lines), default=0)
        return cut_off

    def _acquisitions_cut_off(self) -> dict[int, str]:
        """Return the epochs that no line tells of, and of each an instance that can have acquired it in the end."""
        acquisitions: dict[int, str] = {}
        epoch, end = self._base.epoch + 1, max(self._holders, default=0)
        while self._cut_off and (epoch := max(epoch, min(self._cut_off.values()) + 1)) < end:
            if epoch not in self._holders:
                able = [(last, instance) for instance, last in self._cut_off.items() if last < epoch]
                _, acquisitions[epoch] = max(able)
                del self._cut_off[acquisitions[epoch]]
            epoch += 1
        return acquisitions

    def _place_cut_off(self) -> None:
        """Put in the acquisitions that were cut off, and that somebody waited where a commit shows that."""
        for epoch, instance in self._unreported_acquisitions.items():
            process = self._names[instance]
            self._remarks.append(f"no line reports who took epoch {epoch}: it can be {process}, whose lines end before")
            self.put(epoch, process, Step("acquire", {"p": process, "epoch": self.epoch(epoch)}))
        for epoch, steps in self._of_epoch.items():
            every = [step for of_one in steps.values() for step in of_one]
            holder = self._holders.get(epoch)
            able = [(last, each) for each, last in self._cut_off.items() if last <= epoch and each != holder]
            if (
                not able
                or not any(_was_asked_for(step) for step in every)
                or any(step.name == "want" for step in every)
            ):
                continue
            instance = max(able)[1]
            del self._cut_off[instance]
            process = self._names[instance]
            self._remarks.append(
                f"no line reports who waited in epoch {epoch}: it can be {process}, whose lines end before"
            )
            self.put(epoch, process, Step("want", {"p": process, "epoch": self.epoch(epoch), "left": _left(None)}))

    # Versions and values

    def version(self, version: int) -> int:
        """Count versions from the first that anything is known of."""
        return min(max(0, version - self._base.version), NEVER_SEEN)

    def epoch(self, epoch: int) -> int:
        """Count epochs from the first that anybody acquired."""
        return max(0, epoch - self._base.epoch)

    def after(self, epoch: int) -> int:
        """Return the first epoch that was acquired after another one, or that one itself if it is the last."""
        return min((one for one in self._epochs if one > epoch), default=epoch)

    def _unreported_versions(self) -> dict[int, dict[str, None]]:
        """Return the versions that no commit tells of, and which records a sync says were written in each."""
        reported = {commit.version for commit in self._commits}
        self._last_version = last = max(
            [*reported, *(sync.version for sync in self._syncs)], default=self._base.version
        )
        unreported: dict[int, dict[str, None]] = {
            version: {} for version in range(self._base.version + 1, last + 1) if version not in reported
        }
        for sync in self._syncs:
            for record, version in zip(sync.changed, sync.changed_in, strict=False):
                if version in unreported:
                    unreported[version][record] = None
        return unreported

    def dropped(self, sync: Sync) -> tuple[str, ...]:
        """Return what a sync has dropped, as far as it is known which commit has written it."""
        lines = [one for one in self._commits if sync.since < one.version <= sync.version]
        written = {record for one in lines for record in one.records}
        if any(one.unlisted for one in lines) or any(
            sync.since < version <= sync.version for version in self._unreported
        ):
            written |= {record for version in self._unreported for record in self._unreported[version]}
            return tuple(record for record in sync.dropped if record in written)
        return tuple(sync.dropped)

    def _failed_commits(self, failures: Iterable[CommitFails]) -> dict[int, CommitFails]:
        """Return which commits, of those whose outcome is unknown, have made versions that nobody else tells of."""
        made: dict[int, CommitFails] = {}
        for failed in sorted(failures, key=lambda failed: failed.epoch):
            version = failed.snapshot + 1
            named = self._unreported.get(version)
            known = not failed.records or (named is not None and named.keys() <= set(failed.records))
            if failed.why == "unknown_outcome" and named is not None and known:
                made[version] = failed
        for version, failed in made.items():
            self._unreported[version] = dict.fromkeys(failed.records) or self._unreported[version]
        return made

    def made_by(self, failed: CommitFails) -> bool:
        """Say whether a commit whose outcome its process did not learn has been made."""
        return self._failed.get(failed.snapshot + 1) is failed

    def _versions_by_record(self) -> Mapping[str, Sequence[int]]:
        """Return the versions that each record was written in, lowest first, as far as lines tell."""
        written: dict[str, list[int]] = defaultdict(list)
        reported = [(commit.version, record) for commit in self._commits for record in set(commit.records)]
        unreported = [(version, record) for version, records in self._unreported.items() for record in records]
        for version, record in sorted([*reported, *unreported]):
            written[record].append(version)
        return written

    def _numbered_values(self) -> dict[str, dict[str, list[int]]]:
        """Number the values of each record by their digests: 0 before all commits, then one more with each.

        In an empty store there is no record: so what its first update knew of it can be judged as well. If no line
        tells of a record's newest value, what the next update was computed from counts as that value.
        """
        numbers: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        counts: dict[str, int] = defaultdict(int)
        unlisted = False
        for record, digest in self._newest_digests.items():
            numbers[record][digest].append(0)
        reported: dict[int, Commit | CommitFails] = {commit.version: commit for commit in self._commits} | self._failed
        for version in sorted({*reported, *self._unreported}):
            commit = reported.get(version)
            if commit is None or not commit.records:
                for record in self._unreported[version]:
                    counts[record] += 1
                    self._newest_digests.pop(record, None)
                if not self._unreported[version]:  # It may have written any record.
                    self._newest_digests.clear()
                    unlisted = True
                continue
            for record, based_on in zip(commit.records, commit.based_on, strict=False):
                if record not in self._newest_digests:
                    empty = counts[record] == 0 and self._base.version == 0 and not unlisted
                    numbers[record]["absent" if empty else based_on].append(counts[record])
            for record, made in zip(commit.records, commit.made, strict=False):
                numbers[record][made].append(counts[record] + 1)
            for record in commit.records:
                counts[record] += 1
                self._newest_digests.pop(record, None)
            if commit.unlisted:  # It may have written any other record.
                self._newest_digests.clear()
                unlisted = True
            self._newest_digests.update(zip(commit.records, commit.made, strict=False))
        return numbers

    def bases(self, commit: Commit | CommitFails) -> dict[str, int]:
        """Return of which value each update was computed. Equal values count as the newest of them."""
        if len(commit.based_on) != len(commit.records):
            return dict.fromkeys(commit.records, UNKNOWN_BASIS)
        return {
            record: UNREAD if digest == "unread" else self._newest(record, digest, commit)
            for record, digest in zip(commit.records, commit.based_on, strict=True)
        }

    def based(self, commit: Commit | CommitFails) -> dict[str, Fact]:
        """Return of which value each update was computed, and which of these may have been loaded without a line."""
        bases = self.bases(commit)
        loads = commit.instance in self._loading
        unloaded = tuple(record for record, basis in bases.items() if not loads or basis in {UNKNOWN_BASIS, UNREAD})
        return {"basis": bases, "unloaded": unloaded}

    def made_of(self, failed: CommitFails) -> dict[str, Fact]:
        """Return what a commit has written whose process did not learn that it has."""
        if failed.records:
            return {"records": tuple(failed.records), **self.based(failed)}
        records = tuple(self._unreported[failed.snapshot + 1]) or (SOMETHING,)
        return {"records": records, "basis": dict.fromkeys(records, UNKNOWN_BASIS), "unloaded": records}

    def _newest(self, record: str, digest: str, commit: Commit | CommitFails) -> int:
        numbers = self._values[record].get(digest, [])
        version = commit.version if isinstance(commit, Commit) else commit.snapshot + 1
        before = bisect_left(self._written_in.get(record, ()), version)
        return max((number for number in numbers if number <= before), default=NEVER_SEEN)

    def reached(self, commit: Commit) -> int:
        """Return the highest epoch that was there before a commit: versions tell in which order things were done."""
        return max(self.made_under(commit.version), self._synced_before(commit.version))

    def _synced_before(self, version: int) -> int:
        """Return the highest epoch of the syncs that found an earlier version."""
        synced = bisect_left(self._synced, version)
        return self._synced_under[synced - 1] if synced else 0

    def made_under(self, version: int) -> int:
        """Return the highest epoch of the commits up to a version."""
        place = bisect_right(self._versions, version)
        return self._made_under[place - 1] if place else 0

    # Steps

    def slot(self, process: str, number: int) -> str:
        """Return a place for one of the operations that a process has at a time."""
        name = f"{process}/{number}"
        self._slots[name] = process
        return name

    def put(self, epoch: int, process: str, step: Step) -> None:
        """Let a process take one more step under an epoch."""
        self._of_epoch[epoch][process].append(step)

    def _place_unreported(self) -> None:
        """Put in the commits that nobody tells of: at the end of the last epoch before anybody saw them."""
        lacking: list[tuple[int, str]] = []
        for version, records in self._unreported.items():
            if version in self._failed:
                continue
            seen = min((sync.epoch for sync in self._syncs if sync.version >= version), default=None)
            later = [commit.epoch for commit in self._commits if commit.version > version]
            highest = min([*([seen - 1] if seen is not None else []), *later])
            seen = min([*([seen] if seen is not None else []), *later])
            under = max((epoch for epoch in self._epochs if epoch < seen), default=None)
            if under is None:
                lacking.append((version, "made before the traces begin"))
                continue
            process = self._names[self._holders[under]]
            lacking.append((version, self._whose_trace_lacks(version, highest)))
            slot = self.slot(process, 0)
            written = tuple(records) or (SOMETHING,)
            snapshot = self.version(version - 1)
            facts: dict[str, Fact] = {"p": process, "o": slot, "epoch": self.epoch(under), "snapshot": snapshot}
            finish = Step("finish", {"p": process, "o": slot})
            based: dict[str, Fact] = {"basis": dict.fromkeys(written, UNKNOWN_BASIS), "unloaded": written}
            made = {"version": self.version(version), "released": False, "short": False}
            commit = {**facts, **based, "records": written, **made}
            own = self._of_epoch[under][process]
            place = _end_of_guard(own, self.version(version))
            if own[place : place + 1] and own[place].name == "end_guard":
                # It had not learned that it had committed: its cache stays as it was.
                own.insert(place + 1, finish)
                finishes: list[Step] = []
            else:
                finishes = [finish]
            own[place:place] = [
                *([] if any(step.name == "sync" for step in own) else [Step("sync_unreported", facts)]),
                Step("begin", {**facts, "mode": "transaction"}),
                Step("load_unreported", {**facts, **based, "records": written}),
                Step("commit", commit),
                *finishes,
            ]

        self._remarks += (
            f"no line reports {_versions([version for version, _ in group])}: {why}"
            for why, group in groupby(lacking, key=itemgetter(1))
        )

    def _whose_trace_lacks(self, version: int, highest: int) -> str:
        """Say whose trace lacks a version that was made under the given epoch at the latest, if that is certain."""
        lowest = max(self.made_under(version - 1), self._synced_before(version))
        if lowest < highest or highest not in self._holders or highest in self._unreported_acquisitions:
            return "give the traces of all processes"
        return f"{self._names[self._holders[highest]]} held the lease, and its trace lacks lines"

    def _in_order(self) -> Iterator[Step]:
        holder, free = "", True
        for epoch in sorted(self._of_epoch):
            steps_of = self._of_epoch[epoch]
            taker = self._names[self._holders[epoch]] if epoch in self._holders else ""
            own = steps_of.pop(taker, [])
            before, own = _split(own, "acquire")
            yield from before
            if own:
                if not free and holder != taker:
                    yield Step("expire", {})
                yield own[0]
                own, holder, free = own[1:], taker, False
            late: list[tuple[int, list[Step]]] = []
            for steps in steps_of.values():
                early, rest = _split(steps, "open", "want", "load", "load_unreported", "outdated")
                yield from early
                if rest:
                    late.append((_place_for(rest, own), rest))
            done = 0
            for place, rest in sorted(late, key=itemgetter(0)):
                yield from own[done:place]
                yield from rest
                done = place
            yield from own[done:]
            free = free or any(_frees(step) for step in own)


class _Instance:
    """The steps of one instance, line by line."""

    def __init__(self, merging: _Merging, name: str, lines: Sequence[Found]) -> None:
        self._merging = merging
        self._name = name
        self._lines = lines
        self._operations = self._of_lines()
        self._bucket = self._first_epoch()
        self._not_before = 0
        subscribed = [found.line for found in lines if isinstance(found.line, Subscribe)]
        self._counts_subscriptions = all(line.subscriptions is not None for line in subscribed)
        self._unfinished: list[str] = []
        """Operations that have committed without learning of it."""
        opened = [found.line for found in lines if isinstance(found.line, Open)]
        self._opened = opened[-1] if opened else None
        self._early = self._seen_early()
        """Commits that were seen before their lines were written."""
        self._committed: set[int] = set()
        """The lines of those that were put in already."""

    def _first_epoch(self) -> int:
        """Return the first epoch that its lines show; if they show none, that of the version that it found."""
        for found in self._lines:
            if isinstance(found.line, Acquire | Want):
                return found.line.epoch
        return max(
            (self._merging.made_under(each.line.version) for each in self._lines if isinstance(each.line, Open)),
            default=0,
        )

    def _of_lines(self) -> dict[int, _Operation]:
        """Return the operations, each with a place that no other one has at the same time."""
        operations: dict[int, _Operation] = {}
        cached: list[Sync | Commit] = []
        for found in self._lines:
            line = found.line
            if isinstance(line, OfOperation):
                operation = operations.setdefault(line.operation, _Operation(line, line.line, _began(line, cached)))
                operation.last = line.line
                operation.ended = operation.ended or isinstance(line, _ENDINGS)
                operation.writes = operation.writes or isinstance(line, Commit | CommitFails)
                if isinstance(line, Load):
                    operation.loaded.append(line.record)
            if isinstance(line, Sync | Commit):
                cached.append(line)
        ends: list[int] = []
        """By place, the last line of the operation that has it."""
        for operation in sorted(operations.values(), key=attrgetter("began_after")):
            free = next((place for place, end in enumerate(ends) if end <= operation.began_after), len(ends))
            ends[free : free + 1] = [operation.last]
            operation.slot = self._merging.slot(self._name, free + 1)
        return operations

    def place(self) -> None:
        """Put all steps where they belong."""
        beginning = sorted(self._operations.values(), key=attrgetter("began_after"), reverse=True)
        ending = {each.last: each for each in self._operations.values() if not each.ended}
        guard: int | None = None
        """The epoch of the guard that it has, as far as its lines tell."""
        reported, may_have_ended = 0, False
        self._place_open()
        for found in self._lines:
            missing = may_have_ended or found.line.line != reported + 1
            may_have_ended = _may_have_released(found.line, may_have_ended)
            if guard is not None and missing and isinstance(found.line, Acquire | Want):
                # The line, or the field, that tells how its guard has ended is missing.
                ended: dict[str, Fact] = {"p": self._name, "epoch": self._merging.epoch(guard)}
                self._merging.put(max(guard, self._bucket), self._name, Step("end_guard", ended))
            guard, reported = _guard_after(found.line, guard), found.line.line
            while beginning and beginning[-1].began_after < found.line.line:
                self._begin(beginning.pop())
            for commit in self._early.pop(found.line.line, ()):
                self._commit(commit)
                self._committed.add(commit.line.line)
            self._take(found)
            if found.line.line in ending:
                operation = ending[found.line.line]
                self._put("abort", found, operation.first.epoch, {"o": operation.slot}, local=True)

    def _place_open(self) -> None:
        """If no line tells of its opening, it had the version from which it first knows anything."""
        first = next((found.line for found in self._lines if isinstance(found.line, Open | Sync)), None)
        if isinstance(first, Sync):
            version = self._merging.version(first.since)
            self._merging.put(self._bucket, self._name, Step("open", {"p": self._name, "version": version}))

    def _seen_early(self) -> dict[int, list[Found]]:
        """Return the commits of which another operation has seen the version before the line of the commit was written.

        They are listed by the number of the line that tells of that.
        """
        early: dict[int, list[Found]] = defaultdict(list)
        seen: list[tuple[int, int]] = []
        """The versions that were seen, each higher than the one before, and the lines that tell of it."""
        for found in self._lines:
            match found.line:
                case Load(version=int(version)) | Outdated(version=version):
                    if not seen or version > seen[-1][0]:
                        seen.append((version, found.line.line))
                case Commit() | CommitFails() as commit:
                    made = commit.version if isinstance(commit, Commit) else commit.snapshot + 1
                    place = bisect_left(seen, (made, 0))
                    if place < len(seen) and (isinstance(commit, Commit) or self._merging.made_by(commit)):
                        early[seen[place][1]].append(found)
                case _:
                    pass
        return early

    def _begin(self, operation: _Operation) -> None:
        first, merging = operation.first, self._merging
        under = max(first.epoch, self._bucket)  # not before anything that its process had done before
        for record in operation.loaded:
            merging.put(under, self._name, Step("forget", {"p": self._name, "record": record}))
        facts: dict[str, Fact] = {
            "p": self._name,
            "o": operation.slot,
            "epoch": merging.epoch(first.epoch),
            "snapshot": merging.version(first.snapshot),
            "mode": first.mode or ("transaction" if operation.writes else "view"),
        }
        merging.put(under, self._name, Step("begin", facts))

    def _put(
        self, name: str, found: Found, under: int, facts: Mapping[str, Fact] = _NO_FACTS, *, local: bool = False
    ) -> None:
        """Put a step under an epoch. What only the process itself knows comes after all that it did before."""
        under = max(under, self._bucket if local else self._not_before)
        self._bucket = max(self._bucket, under)
        epoch = getattr(found.line, "epoch", None)
        if name in _AFTER_PUBLISHING and self._counts_subscriptions:
            facts = {**facts, "delivered": True}
        known = {"p": self._name, **({} if epoch is None else {"epoch": self._merging.epoch(epoch)}), **facts}
        self._merging.put(under, self._name, Step(name, known, found.location, found.line))

    def _take(self, found: Found) -> None:
        merging, line = self._merging, found.line
        facts: dict[str, Fact] = {}
        if isinstance(line, OfOperation):
            facts = {"o": self._operations[line.operation].slot}
        match line:
            case Open():
                self._put("open", found, self._bucket, {"version": merging.version(line.version)})
            case Acquire():
                self._put("acquire", found, line.epoch)
            case Want():
                self._put("want", found, line.epoch, {"left": _left(line.left_ms)}, local=True)
            case Sync():
                versions = {"since": merging.version(line.since), "version": merging.version(line.version)}
                # When the log was cut is of no importance before a sync has met that.
                self._put("truncate", found, line.epoch, {"floor": merging.version(line.floor)})
                what: dict[str, Fact] = {"dropped": merging.dropped(line), "flushed": line.floor > line.since}
                self._put("sync", found, line.epoch, {**what, **versions})
            case Renew():
                times = self._opened
                overdue = times is not None and _exceeds(line.draining_ms, times.overdue_after_ms)
                self._put("renew", found, line.epoch, {"overdue": overdue})
                self._heed(found, line)
            case LoseGuard(why="sync_failed"):
                self._put("sync_failed", found, line.epoch, local=True)
            case LoseGuard(why="release_failed"):
                self._put("release_fails", found, line.epoch, local=True)
            case LoseGuard(why="fenced"):
                self._put("lose_guard", found, merging.after(line.epoch), local=True)
            case LoseGuard():
                self._put("end_guard", found, line.epoch, local=True)
                for slot in self._unfinished:
                    self._put("finish", found, line.epoch, {"o": slot}, local=True)
                self._unfinished.clear()
            case Release():
                self._put("release", found, line.epoch)
            case Load():
                under = line.epoch if line.version is None else max(line.epoch, merging.made_under(line.version))
                if line.floor > line.snapshot:  # else that is of no importance
                    self._put("truncate", found, under, {"floor": merging.version(line.floor)})
                self._put("load", found, under, {**facts, "record": line.record})
            case Commit():
                if line.line not in self._committed:
                    self._commit(found)
                self._put("finish", found, merging.reached(line), facts, local=True)
                self._heed(found, line)
            case CommitFails(why="fenced") | Lose(why="fenced"):
                self._put("lose", found, merging.after(line.epoch), facts, local=True)
            case CommitFails() if merging.made_by(line):
                if line.line not in self._committed:
                    self._commit(found)
                self._unfinished.append(str(facts["o"]))
            case CommitFails() | Lose():
                self._put("abort", found, line.epoch, facts, local=True)
            case Outdated():
                self._put("outdated", found, max(line.epoch, merging.made_under(line.version)), facts)
            case Validate():
                under = max(line.epoch, line.row_epoch or 0)
                self._put("validate", found, under, {**facts, "failed": line.failure is not None})
                self._put("finish", found, under, facts, local=True)
                self._heed(found, line)
            case Subscribe():
                counted = {"version": merging.version(line.version), "counted": line.subscriptions is not None}
                self._put("subscribe", found, self._bucket, counted, local=True)
            case Unsubscribe(subscriptions=0):
                self._put("unsubscribe", found, self._bucket, local=True)
            case Publish():
                versions = {"since": merging.version(line.since), "version": merging.version(line.version)}
                self._put("publish", found, self._bucket, {**versions, "lagged": line.lagged is not False}, local=True)
            case _:
                pass

    def _commit(self, found: Found) -> None:
        """Put a commit where the version was made. Its operation may learn of it later."""
        merging, line = self._merging, found.line
        assert isinstance(line, Commit | CommitFails)
        facts: dict[str, Fact] = {"o": self._operations[line.operation].slot}
        facts |= {"snapshot": merging.version(line.snapshot)}
        under, version, released, short = line.epoch, line.snapshot + 1, False, False
        if isinstance(line, CommitFails):
            facts |= merging.made_of(line)
        else:
            facts |= {"records": tuple(line.records), **merging.based(line)}
            under, version, released = merging.reached(line), line.version, line.released is True
            lease_ms = None if self._opened is None else self._opened.lease_ms
            short = not released and line.left_ms is not None and _exceeds(lease_ms, 2 * line.left_ms)
        if under > line.epoch:
            self._not_before = under  # It was made too late, and so was all that its instance did after it.
        self._put("load_unreported", found, under, facts)
        made = {"version": merging.version(version), "released": released, "short": short}
        self._put("commit", found, under, {**facts, **made})

    def _heed(self, found: Found, line: _Heeding) -> None:
        """Where somebody waits and the turn is over, the guard must be draining (P8.4, P8.7)."""
        turn_ms = None if self._opened is None else self._opened.turn_ms
        if line.wanted and line.held_ms is not None and turn_ms is not None and not 0 <= line.held_ms < turn_ms:
            self._put("drain", found, line.epoch, local=True)


def _may_have_released(line: AnyLine, may_have: bool) -> bool:
    """Say whether the lease may have been released by a commit of this guard, as no field says that it was not."""
    return (may_have and not isinstance(line, Acquire)) or (isinstance(line, Commit) and line.released is None)


def _guard_after(line: AnyLine, guard: int | None) -> int | None:
    """Return the epoch of the guard that an instance has after a line."""
    match line:
        case Acquire():
            return line.epoch
        case LoseGuard(why="sync_failed"):
            return guard  # until a line reports its release
        case LoseGuard() | Release() | Commit(released=True):
            return None
        case _:
            return guard


def _was_wanted(line: _Heeding) -> bool:
    """Say whether the row said that somebody waits, or may have said so."""
    return line.wanted is True or (line.wanted is None and isinstance(line, Commit) and line.released is True)


def _was_fenced(line: _Fenced) -> bool:
    return line.why == "fenced"


def is_unreported(step: Step) -> bool:
    """Say whether no line tells of a step that changed the store or the lease: who took it is a guess."""
    return step.line is None and step.name in {"acquire", "commit", "load_unreported", "sync_unreported"}


def records_of(step: Step) -> Iterator[str]:
    """Return the records that a step is about."""
    for fact in ("records", "dropped"):
        names = step.facts.get(fact, ())
        if isinstance(names, tuple):
            yield from names
    record = step.facts.get("record")
    if isinstance(record, str):
        yield record


def _began(first: OfOperation, cached: Sequence[Sync | Commit]) -> int:
    """Say after which line an operation began: while its snapshot was the newest, if its trace does not tell."""
    if first.began_after is not None:
        return first.began_after
    if not cached or cached[-1].version == first.snapshot:
        return first.line - 1
    return next((line.line for line in reversed(cached) if line.version == first.snapshot), first.line - 1)


def _versions(numbers: Sequence[int]) -> str:
    first, last = numbers[0], numbers[-1]
    if first == last:
        return f"version {first}"
    every = len(numbers) == last - first + 1
    return f"versions {first} to {last}" if every else f"{len(numbers):,} of the versions {first} to {last}"


def _split(steps: list[Step], *names: str) -> tuple[list[Step], list[Step]]:
    """Split before the first step of one of these names."""
    place = next((place for place, step in enumerate(steps) if step.name in names), len(steps))
    return steps[:place], steps[place:]


def _place_for(steps: list[Step], own: list[Step]) -> int:
    """Say how many of the holder's steps come before those of another instance: a want, or a late commit."""
    line = steps[0].line
    version = 0
    if isinstance(line, Open | Commit | Load | Outdated) and line.version is not None:
        version = line.version + (not isinstance(line, Commit))
    made = [place for place, step in enumerate(own, 1) if isinstance(step.line, Commit) and step.line.version < version]
    after = max(made, default=0)
    if any(step.name == "want" for step in steps[:2]):
        return max(after, next((place for place, step in enumerate(own) if _hands_over(step)), len(own)))
    return after


def _end_of_guard(own: Sequence[Step], version: int) -> int:
    """Return the place where a guard ends, after all commits of earlier versions; or the end."""
    facts = [step.facts for step in own]
    made = [at for at, step in enumerate(own) if step.name == "commit" and _known(facts[at], "version") < version]
    after = max(made, default=-1) + 1
    ends = (at for at, step in enumerate(own) if at >= after and step.name in {"end_guard", "release"})
    return next(ends, len(own))


def _known(facts: Mapping[str, Fact], name: str) -> int:
    known = facts[name]
    assert isinstance(known, int)
    return known


def _hands_over(step: Step) -> bool:
    """Say whether somebody must have said before that it waits."""
    line = step.line
    return isinstance(line, Release) or bool(isinstance(line, Renew | Commit | Validate) and line.wanted)


def _was_asked_for(step: Step) -> bool:
    """Say whether somebody waited for the lease that a commit has released."""
    return step.name == "commit" and step.facts["released"] is True


def _left(left_ms: int | None) -> int:
    """Return what is left of a lease, in the ticks of the specification: 1 for all that a lease can last."""
    return 1 if left_ms is None or 0 < left_ms <= LONGEST_LEASE_MS else 2 if left_ms > 0 else 0


def _exceeds(number: int | None, bound: int | None) -> bool:
    return number is not None and bound is not None and number > bound


def _frees(step: Step) -> bool:
    return step.name == "release" or (step.name == "commit" and step.facts["released"] is True)
