"""Replay TLC's counterexamples of faults on the machine.

Each counterexample is replayed twice. With the same fault in the machine, the same property must be violated. Without
the fault, no property may be violated; a step that the machine then refuses is skipped, and so are the steps that need
it.

A counterexample of a liveness property is infinite. It is replayed if nothing happens any more at its end. With the
fault, the machine must reach that state: the wanted condition is false there, and the machine refuses every step that a
caller can ask for. Without the fault, the machine takes a further step.
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
            broken=lambda: asyncio.run(_replay_to_standstill(kind, result, slug, named)),
            sound=lambda: asyncio.run(_replay_to_standstill(kind, result, None, named)),
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


async def _take(counterpart: Counterpart, before: TraceStep, after: TraceStep) -> bool:
    """Take the step between two states. Return whether it was possible."""
    assert after.label is not None  # only the first state has none
    step = chosen(after.label, counterpart.steps(after.label.action, before.state, after.state))
    try:
        await counterpart.take(step)
    except Impossible:
        return False
    return True


async def _replay_to_standstill(kind: type[Counterpart], result: Result, slug: str | None, named: str) -> Finding:
    if result.lasso != len(result.trace) - 1:
        raise CheckError(f"{kind.__name__}: a counterexample with a loop of several steps can't be replayed")
    async with opened(kind, result.trace[0].state) as counterpart:
        with substituted(() if slug is None else kind.faults[slug]()):
            refused = 0
            for before, after in pairwise(result.trace):
                refused += not await _take(counterpart, before, after)
            try:
                if slug is not None:
                    compare(counterpart.observe(), result.trace[-1].state)
            except Diverged as elsewhere:
                return Finding(None, str(elsewhere), refused)
            if kind.wanted[named](counterpart.observe()):
                return Finding(None, "", refused)
            for step in counterpart.all_choices():
                try:
                    await counterpart.take(step)
                except Impossible:
                    continue
                return Finding(None, "", refused)
            return Finding(named, "the wanted condition is false, and the machine refuses every further step", refused)
