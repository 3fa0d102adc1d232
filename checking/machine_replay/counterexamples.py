"""Replay TLC's counterexamples of faults on the machine.

Each counterexample is replayed twice. With the same fault in the machine, the same property must be violated. Without
the fault, no property may be violated; a step that the machine then refuses is skipped, and so are the steps that need
it.

A counterexample of a liveness property is infinite: it ends in a loop, or nothing happens any more at its end. With the
fault, the machine must take the loop once, through the very states of the model, and back to the first one. The wanted
condition is false in all of them, and in each the machine refuses every step that a caller can ask for, except those of
the loop. So the loop is fair. Without the fault, the machine takes a step that leads out of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import pairwise

from checking.errors import CheckError
from checking.machine_replay.counterpart import Counterpart, Impossible, Property
from checking.machine_replay.counterparts import COUNTERPARTS
from checking.machine_replay.drive import compare, opened
from checking.replay.drive import Diverged
from checking.replay.substitutions import substituted
from checking.replay.transitions import chosen
from checking.replay.verdicts import Finding, verdict
from checking.tlc.run import Result, TraceStep
from checking.tlc.values import Label


def replay_counterexample(specification: str, slug: str, named: str, result: Result) -> str:
    """Replay a fault's counterexample with and without the fault. Return the violated property, as ``verdict`` does."""
    kind = COUNTERPARTS[specification]
    if slug not in kind.faults:
        raise CheckError(f"the machine has no injection for the fault {slug!r}")
    if named in kind.wanted:
        return verdict(
            slug,
            named,
            result,
            broken=lambda: asyncio.run(_replay_for_ever(kind, result, slug, named)),
            sound=lambda: asyncio.run(_replay_for_ever(kind, result, None, named)),
        )
    if named not in kind.properties:
        raise CheckError(f"the replay of {specification} has no counterpart of the property {named}")
    return verdict(
        slug,
        named,
        result,
        broken=lambda: asyncio.run(_replay(kind, result, slug, {named: kind.properties[named]})),
        sound=lambda: asyncio.run(_replay(kind, result, None, kind.properties)),
    )


async def _replay(
    kind: type[Counterpart], result: Result, slug: str | None, properties: Mapping[str, Property]
) -> Finding:
    async with opened(kind, result.trace[0].state) as counterpart:
        with substituted(() if slug is None else kind.faults[slug]()):
            return await _walk(counterpart, result, properties)


async def _walk(counterpart: Counterpart, result: Result, properties: Mapping[str, Property]) -> Finding:
    refused = 0
    observed = counterpart.observe()
    for before, after in pairwise(result.trace):
        refused += not await _take(counterpart, before, after)
        was, observed = observed, counterpart.observe()
        for name, holds in properties.items():
            if (wrong := holds(was, observed)) is not None:
                return Finding(name, wrong, refused)
    return Finding(None, "", refused)


def _label(kind: type[Counterpart], before: TraceStep, after: TraceStep) -> Label:
    """Return the step between two states, with its parameters."""
    assert after.label is not None  # only the first state has none
    return chosen(after.label, kind.steps(after.label.action, before.state, after.state))


async def _take(counterpart: Counterpart, before: TraceStep, after: TraceStep) -> bool:
    """Take the step between two states. Return whether it was possible."""
    try:
        await counterpart.take(_label(type(counterpart), before, after))
    except Impossible:
        return False
    return True


async def _replay_for_ever(kind: type[Counterpart], result: Result, slug: str | None, named: str) -> Finding:
    assert result.lasso is not None  # the counterexample of a liveness property
    steps = list(pairwise(result.trace))
    async with opened(kind, result.trace[0].state) as counterpart:
        with substituted(() if slug is None else kind.faults[slug]()):
            refused = 0
            for before, after in steps[: result.lasso]:
                refused += not await _take(counterpart, before, after)
            round_ = steps[result.lasso :]
            loop = frozenset(_label(kind, before, after) for before, after in round_)
            for number, reached in enumerate(result.trace[result.lasso :]):
                try:
                    if slug is not None:
                        compare(counterpart.observe(), reached.state)
                except Diverged as elsewhere:
                    return Finding(None, str(elsewhere), refused)
                if kind.wanted[named](counterpart.observe()) or await _goes_on(counterpart, loop):
                    return Finding(None, "", refused)
                if number < len(round_):
                    refused += not await _take(counterpart, *round_[number])
            return Finding(named, "the wanted condition is false, and the machine refuses every further step", refused)


async def _goes_on(counterpart: Counterpart, loop: frozenset[Label]) -> bool:
    """Return whether the machine takes a step that is not in the loop."""
    for step in counterpart.all_choices():
        if step in loop:
            continue
        try:
            await counterpart.take(step)
        except Impossible:
            continue
        return True
    return False
