"""The steps up to the first impossible one, as a sequence diagram of processes, lease and store. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from checking.explain.lines import LoseGuard
from checking.explain.merging import Merged, Step, records_of
from unwedged.tools.printable import printable
from unwedged.tools.sequence import Sequence as Drawing
from unwedged.tools.sequence import Step as Drawn

LEASE, STORE = "lease", "store"
SHOWN_STEPS: Final = 16
"""Drawn before the last one, besides those that it depends on."""
_SHOWN_RECORDS: Final = 3
_SAID_BY_NEXT: Final = frozenset({"forget", "load_unreported"})
"""Steps that the next one implies."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A step as it is drawn, and how many steps of the specification have been taken when it is over."""

    drawn: Drawn
    taken: int


def scenes(merged: Merged, followed: int) -> tuple[Scene, ...]:
    """Return what is drawn: the steps that TLC has followed last, and the impossible one, if there is one."""
    spans = list(_spans(merged.steps[: followed + 1]))
    first = max(0, len(spans) - 1 - SHOWN_STEPS)
    earlier = _needed(merged, spans[-1][-1]) if followed < len(merged.steps) else set()
    chosen = [span for number, span in enumerate(spans) if number >= first or earlier.intersection(span)]
    return tuple(_scenes(merged, chosen))


def drawing_of(merged: Merged, shown: Sequence[Scene], ending: str) -> Drawing:
    """Return the drawing of some steps: processes that are drawn, and between them the lease and the store."""
    names = {name for scene in shown for name in (scene.drawn.actor, scene.drawn.target)}
    first, *others = [name for name in merged.processes if name in names] or [""]
    actors = tuple(name for name in (first, LEASE, STORE, *others) if name)
    return Drawing("What the processes did", actors, tuple(scene.drawn for scene in shown), printable(ending))


def _spans(steps: Sequence[Step]) -> Iterator[range]:
    """Put together what is drawn as one step: what one line reports, and what a step implies."""
    begun = 0
    for index, (step, after) in enumerate(pairwise((*steps, None)), 1):
        assert step is not None
        same_line = after is not None and step.location is not None and after.location == step.location
        if after is None or not (same_line or step.name in _SAID_BY_NEXT):
            yield range(begun, index)
            begun = index


def _needed(merged: Merged, impossible: int) -> set[int]:
    """Return the earlier steps that an impossible one depends on.

    These are the last acquisition, that of its own process, the begin of its operation, and commits of its records.
    """
    last = merged.steps[impossible]
    records = set(records_of(last))
    found: dict[object, int] = {}
    for index, step in enumerate(merged.steps[:impossible]):
        own = step.facts.get("p") == last.facts.get("p")
        if step.name == "acquire":
            found["lease"] = index
            if own:
                found["own lease"] = index
        if step.name == "begin" and step.facts.get("o") == last.facts.get("o"):
            found["begin"] = index
        if step.name == "commit" and records.intersection(records_of(step)):
            found["commit before"] = found.get("commit", index)
            found["commit"] = index
    return set(found.values())


def _scenes(merged: Merged, chosen: Sequence[range]) -> Iterator[Scene]:
    reached = 0
    for span in chosen:
        if span.start > reached:
            left_out = span.start - reached
            steps = "a step that is" if left_out == 1 else f"{left_out:,} steps that are"
            yield Scene(Drawn(STORE, f"{steps} not shown"), span.start)
        main = [index for index in span if merged.steps[index].name not in {"forget", "finish"}]
        yield Scene(_drawn(merged, merged.steps[main[-1] if main else span[-1]]), span.stop)
        reached = span.stop


def _drawn(merged: Merged, step: Step) -> Drawn:
    actor, target, action = step_in_words(merged, step)
    records = [printable(record) for record in records_of(step)]
    shown, left_out = records[:_SHOWN_RECORDS], len(records) - _SHOWN_RECORDS
    location = () if step.location is None else (printable(f"{Path(step.location.file).name}:{step.location.number}"),)
    return Drawn(actor, action, target, (*shown, *((f"and {left_out} more",) if left_out > 0 else ()), *location))


def step_in_words(merged: Merged, step: Step) -> tuple[str, str, str]:
    """Return the actor of a step, what it acts on, and what it does; with versions and epochs as the store has them."""
    process = str(step.facts.get("p", LEASE))
    operation = f"operation {step.facts.get('o')}"
    epoch = _number(step, "epoch") + merged.base_epoch
    snapshot = _number(step, "snapshot") + merged.base_version
    version = _number(step, "version") + merged.base_version
    match step.name:
        case "open":
            return process, STORE, f"opens the store at version {version}"
        case "acquire":
            return process, LEASE, f"takes the lease, epoch {epoch}"
        case "expire":
            return LEASE, "", "expires"
        case "want":
            return process, LEASE, f"is refused the lease, and notes in the row that it waits (epoch {epoch})"
        case "sync":
            return process, STORE, f"syncs from version {_number(step, 'since') + merged.base_version} to {version}"
        case "sync_unreported":
            return process, STORE, "syncs, which no line reports"
        case "sync_failed":
            return process, STORE, f"can't sync under epoch {epoch}"
        case "drain":
            return process, "", f"learns that another process waits, and begins nothing more under epoch {epoch}"
        case "renew":
            return process, LEASE, f"renews the lease of epoch {epoch}"
        case "lose_guard":
            return process, LEASE, f"is stopped by the fence under epoch {epoch}, and has no guard any more"
        case "end_guard":
            why = step.line.why if isinstance(step.line, LoseGuard) else None
            return process, "", f"ends its guard of epoch {epoch}{f' ({why})' if why else ''}"
        case "release":
            return process, LEASE, f"releases the lease of epoch {epoch}"
        case "release_fails":
            return process, LEASE, f"can't release the lease of epoch {epoch}"
        case "begin":
            return process, "", f"begins {operation} under epoch {epoch}, from version {snapshot}"
        case "load":
            return process, STORE, f"loads a record in {operation}"
        case "forget":
            return process, "", "drops a record from its cache"
        case "load_unreported" | "commit":
            made = getattr(step.line, "version", version)
            return process, STORE, f"commits version {made} from version {snapshot} under epoch {epoch}, in {operation}"
        case "validate":
            return process, STORE, f"confirms what {operation} has read, under epoch {epoch}"
        case "finish":
            return process, "", f"answers the caller of {operation}"
        case "lose":
            return process, STORE, f"is stopped by the fence in {operation}"
        case "outdated":
            return process, STORE, f"can't load a record at the version of {operation}"
        case "abort":
            return process, "", f"ends {operation} without an answer"
        case "subscribe":
            return process, "", f"begins a subscription at version {version}"
        case "unsubscribe":
            return process, "", "ends its last subscription"
        case "publish":
            since = _number(step, "since") + merged.base_version
            return process, "", f"tells its subscribers what changed from version {since} to {version}"
        case _:
            assert step.name == "truncate"
            return process, STORE, f"cuts the change log up to version {_number(step, 'floor') + merged.base_version}"


def _number(step: Step, name: str) -> int:
    number = step.facts.get(name, 0)
    return number if isinstance(number, int) else 0
