"""Signs of bugs: what a process had done before the impossible step distinguishes bugs that break the same clause.

``checking.explain.reasons`` says what each broken clause may be due to. A sign is more exact, and is asked first. It
decides nothing: whether the traces are possible is TLC's verdict alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from checking.explain.lines import (
    Acquire,
    AnyLine,
    Commit,
    Load,
    Lose,
    LoseGuard,
    OfOperation,
    Open,
    Release,
    Sync,
    Validate,
)
from checking.explain.merging import NEVER_SEEN, Merged, Step
from checking.explain.reading import Logs

Bugs = tuple[str, ...]
"""Names of bugs. Several if nothing in the traces distinguishes them."""


def named_by_signs(logs: Logs, merged: Merged, followed: int, reasons: frozenset[str]) -> Bugs:
    """Return the bugs that the traces have signs of, or nothing if there are none."""
    for lines in logs.instances.values():
        if sum(isinstance(found.line, Open) for found in lines) > 1:
            return ("holder-name-reuse",)
    if followed == len(merged.steps):
        lines_of = ([found.line for found in lines] for lines in logs.instances.values())
        return ("generation-in-machine",) if any(map(_emptied_needlessly, lines_of)) else ()
    step = merged.steps[followed]
    line = step.line or _first_line(step, merged.steps[followed:])
    if line is None:
        return ()
    newest = sum(earlier.name == "commit" for earlier in merged.steps[:followed]) + merged.base_version
    began_after = line.began_after if isinstance(line, OfOperation) and step.name == "begin" else None
    before = _up_to(logs, line, line.line - 1 if began_after is None else began_after)
    return next((bugs for bugs in _signs(step, line, before, reasons, newest) if bugs), ())


def _first_line(step: Step, later: Sequence[Step]) -> AnyLine | None:
    """Return the first line of the operation that begins."""
    of_operation = (one.line for one in later if one.facts.get("o") == step.facts.get("o"))
    return next((line for line in of_operation if isinstance(line, OfOperation)), None)


def _up_to(logs: Logs, line: AnyLine, last: int) -> list[AnyLine]:
    """Return what the instance of a line had written up to another line."""
    return [found.line for found in logs.instances[line.instance] if found.line.line <= last]


def _signs(
    step: Step, line: AnyLine, before: Sequence[AnyLine], reasons: frozenset[str], newest: int
) -> Iterator[Bugs]:
    if isinstance(line, OfOperation) and line.epoch == 0:
        yield ("save-without-lock",)
    epoch = getattr(line, "epoch", 0)
    if reasons & {"began_unguarded", "release_unfenced", "renewal_unfenced", "commit_unfenced"}:
        if not any(isinstance(earlier, Acquire) and earlier.epoch == epoch for earlier in before):
            yield ("renew-ignores-loss",)
        if any(isinstance(earlier, Release) and earlier.epoch == epoch for earlier in before):
            yield ("guard-outlives-release",)
        if any(isinstance(earlier, Lose) and earlier.epoch == epoch for earlier in before):
            yield ("renew-ignores-loss",)
    if "commit_unfenced" in reasons and isinstance(line, OfOperation):
        later = any(isinstance(earlier, Acquire) and earlier.epoch > epoch for earlier in before)
        yield ("live-reference-survives" if later else "lease-lapses-unfenced",)
    if "began_unguarded" in reasons and isinstance(line, OfOperation):
        yield _before_its_sync(line, before, newest)
    if "answer_unfenced" in reasons and isinstance(line, Validate):
        yield ("unvalidated-view",) if line.failure is None else ("stale-failure-believed",)
    if "version_not_next" in reasons:
        yield ("cancelled-commit",)
    if "cache_version" in reasons:
        yield _of_version(before)
    if reasons & {"older_value", "read_without_loading"} and isinstance(line, Commit):
        basis = step.facts["basis"]
        assert isinstance(basis, dict)
        for record, number in basis.items():
            yield ("cache-before-commit",) if number == NEVER_SEEN else _of_old_value(record, line, before)


def _before_its_sync(line: OfOperation, before: Sequence[AnyLine], newest: int) -> Bugs:
    """Tell which version an operation took for the newest, if it began under a lease before the sync."""
    if any(isinstance(earlier, Sync) and earlier.epoch == line.epoch for earlier in before):
        return ()
    known = [earlier.version for earlier in before if isinstance(earlier, Open | Sync | Commit)][-1:]
    if known != [line.snapshot]:
        return ("reload-race",)
    return ("dirty-hidden-from-reentrant", "reload-race") if known == [newest] else ("dirty-hidden-from-reentrant",)


def _of_version(before: Sequence[AnyLine]) -> Bugs:
    """Tell by what came last how a cache came to have another version than it should."""
    for earlier in reversed(before):
        match earlier:
            case LoseGuard(why="sync_failed"):
                return ("reload-failure-swallowed",)
            case Commit():
                return ("late-version",)
            case Sync():
                return ()
            case _:
                pass
    return ()


def _of_old_value(record: str, line: Commit, before: Sequence[AnyLine]) -> Bugs:
    """Tell by what came between how an operation came to have an old value of a record."""
    taken = [earlier.line for earlier in before if isinstance(earlier, Acquire) and earlier.epoch == line.epoch]
    if taken and line.began_after is not None and line.began_after < taken[-1]:
        return ("live-reference-survives",)
    for earlier in reversed(before):
        match earlier:
            case OfOperation() if earlier.epoch != line.epoch:
                pass  # Its line came late: it was done before the sync.
            case Commit() if record in earlier.records:
                return ("partial-list",)
            case Sync() if earlier.floor > earlier.since:
                return ("floor-ignored-at-sync",)
            case Sync() if record in earlier.dropped:
                return ("stale-account-overwrite",)
            case Sync() if record in earlier.changed:
                return ("session-cache-survives",) if _had(record, before) else ("first-acquire-is-clean",)
            case _:
                pass
    return () if _had(record, before) else ("first-acquire-is-clean",)


def _had(record: str, before: Sequence[AnyLine]) -> bool:
    """Say whether a process had read or written a record."""
    return any(
        (isinstance(line, Load) and line.record == record) or (isinstance(line, Commit) and record in line.records)
        for line in before
    )


def _emptied_needlessly(lines: Sequence[AnyLine]) -> bool:
    """Say whether a sync found nothing changed, and yet emptied the cache. That costs only time."""
    cached = False
    for line in lines:
        match line:
            case Load() | Commit():
                cached = True
            case Sync():
                if cached and line.since == line.version and line.kept == 0:
                    return True
                cached = bool(line.kept)
            case _:
                pass
    return False
