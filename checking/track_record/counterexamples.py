"""Record TLC's counterexamples: the process and the action of each step, and what the step changes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec
from rpds import HashTrieMap

from checking.errors import TrackRecordInvalid
from checking.models.manifest import Model
from checking.models.schedule import Outcome
from checking.replay.model_states import HOME, changed_arguments, name_of
from checking.replay.transitions import lock_step_between, step_between
from checking.tlc.run import Result, TraceStep
from checking.tlc.values import State, Value, render_value
from checking.track_record.bugs import FOLDER

FILE: Final = FOLDER / "counterexamples.json"


class Taken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A step of a counterexample."""

    action: str
    process: str
    """The process that takes the step. Empty if no process does, or if the states do not show which one."""
    operation: str
    changes: tuple[str, ...]


class Counterexample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the model of a fault violates its property."""

    model: str
    slug: str
    violated: str
    """As ``Module!Property``."""
    steps: tuple[Taken, ...]
    back_to: int | None
    """For an infinite counterexample: the step after which it repeats. After its last step, nothing happens any
    more."""

    @property
    def module(self) -> str:
        """The module of the property."""
        return self.violated.partition("!")[0]


def read_counterexamples(root: Path) -> tuple[Counterexample, ...]:
    """Read the recorded counterexamples. Raises ``TrackRecordInvalid``."""
    path = root / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=tuple[Counterexample, ...])
    except (msgspec.DecodeError, OSError) as error:
        raise TrackRecordInvalid(f"{path}: {error}; python -m checking track-record --anew records it") from error


def encoded(counterexamples: Sequence[Counterexample]) -> bytes:
    """Encode counterexamples as JSON with one step on each line, so that a diff shows which steps differ."""
    parts = []
    for each in counterexamples:
        steps = ",\n    ".join(msgspec.json.encode(step).decode() for step in each.steps)
        head = json.dumps({"model": each.model, "slug": each.slug, "violated": each.violated, "back_to": each.back_to})
        parts.append(f'  {head[:-1]}, "steps": [\n    {steps}]}}')
    return ("[\n" + ",\n".join(parts) + "\n]\n").encode()


def counterexamples_of(outcomes: Sequence[Outcome]) -> tuple[Counterexample, ...]:
    """Return TLC's counterexamples of all faults among some outcomes, in alphabetical order of the models."""
    found = [counterexample_of(outcome.model, outcome.result) for outcome in outcomes if outcome.model.slug is not None]
    return tuple(sorted(found, key=lambda each: each.model))


def counterexample_of(model: Model, result: Result) -> Counterexample:
    """Return TLC's counterexample of one fault."""
    module = model.specification.removeprefix("MC").removesuffix(".tla")
    return Counterexample(
        model=model.name,
        slug=model.slug or "",
        violated=f"{module}!{model.property or result.property or 'one of its properties'}",
        steps=tuple(_taken(module, before, after) for before, after in pairwise(result.trace)),
        back_to=result.lasso,
    )


def _taken(module: str, before: TraceStep, after: TraceStep) -> Taken:
    was, now = before.state, after.state
    assert after.label is not None  # only the first state has none
    action, operation = after.label.action, ""
    if module == "CryptoStoreCache":
        step = step_between(after.label, was, now)
        operation = step.operation
        process = step.process or HOME.get(operation, "")
    elif module == "LeaseLock":
        process = lock_step_between(after.label, was, now).process
    else:
        process = _process(was, now)
        if action == "Next":
            action = _unnamed(module, was, now)
        if action == "ReceiveSync" and not process:
            process = _holder(was)
    return Taken(action, process, operation, tuple(_changed(was, now)))


def _process(before: State, after: State) -> str:
    """Return the process that takes a step in a model of the machine: the only one of which something changes."""
    changed = {
        name_of(argument)
        for variable, value in after.items()
        if isinstance(value, HashTrieMap)
        for argument in changed_arguments(before[variable], value)
    } & _PROCESSES
    return changed.pop() if len(changed) == 1 else ""


_PROCESSES: Final = frozenset({"p1", "p2"})


def _holder(before: State) -> str:
    """Return the only process that holds a response; empty if several do, or none."""
    flight = before["flight"]
    assert isinstance(flight, HashTrieMap)
    holders = [str(process) for process in flight if isinstance(flight[process], HashTrieMap)]
    return holders[0] if len(holders) == 1 else ""


def _unnamed(module: str, before: State, after: State) -> str:
    """Return the action of a step that TLC labels ``Next``, because a parameter of the action is a record."""
    if module == "Sessions":
        return "OutgoingRequest"
    changed = list(_changed(before, after))
    if any(line.startswith("peers.claimed: +") for line in changed):
        return "ClaimKey"
    return "ReceiveBadMessage" if any(line.startswith("peers.bad:") for line in changed) else "ReceiveMessage"


def _changed(before: State, after: State) -> Iterator[str]:
    """Yield a line for each difference: first in what processes share, then in what each process has."""
    for variable in sorted(after, key=lambda name: (name in _OWN, name)):
        yield from _changes(variable, before[variable], after[variable])


_OWN: Final = frozenset({"cache", "flight", "guard", "heard", "knows", "op", "prompt", "synced"})


def _changes(path: str, before: Value, after: Value) -> Iterator[str]:
    """Yield a line for each difference in one value."""
    match before, after:
        case HashTrieMap(), HashTrieMap() if set(before) == set(after):
            for argument in sorted(after, key=render_value):
                yield from _changes(_below(path, argument), before[argument], after[argument])
        case HashTrieMap(), HashTrieMap() if any(argument in after for argument in before):
            for argument in sorted({*before, *after}, key=render_value):
                below = _below(path, argument)
                if argument not in after:
                    yield f"{below}: gone"
                elif argument not in before:
                    yield f"{below}: new, {render_value(after[argument])}"
                else:
                    yield from _changes(below, before[argument], after[argument])
        case frozenset(), frozenset():
            yield from (f"{path}: - {text}" for text in sorted(map(render_value, before - after)))
            yield from (f"{path}: + {text}" for text in sorted(map(render_value, after - before)))
        case tuple(), tuple() if len(before) + 1 == len(after) and after[:-1] == before:
            yield f"{path}: + {render_value(after[-1])}"
        case tuple(), tuple() if len(before) == len(after) + 1 and before[1:] == after:
            yield f"{path}: - {render_value(before[0])}"
        case tuple(), tuple() if len(before) == len(after):
            for number, (was, now) in enumerate(zip(before, after, strict=True), 1):
                yield from _changes(f"{path}[{number}]", was, now)
        case _ if before == after:
            return
        case _:
            yield f"{path}: {render_value(before)} -> {render_value(after)}"


def _below(path: str, argument: Value) -> str:
    return f"{path}.{argument}" if isinstance(argument, str) else f"{path}[{render_value(argument)}]"
