"""Counterexamples: what TLC found wrong with a broken model must go wrong in the machine broken alike.

Each is replayed twice. With the fault injected, the named property must be violated there too; without it, no property
may be. A step that the machine does not take then is passed over, and so is what would follow from it.

A liveness property is violated by a behaviour without end: here by one at whose end nothing happens any more. With the
fault, the machine must come to the state where the model stays: what is wanted is not so there, and whatever a process
asks the machine for, it does nothing. Without the fault it goes on from there.
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
    """Replay a fault's counterexample with and without the fault, and judge by ``verdict``."""
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
    """Take the step that leads from one state to another; say whether it was possible."""
    assert after.label is not None  # only the first state has none
    step = chosen(after.label, counterpart.steps(after.label.action, before.state, after.state))
    try:
        await counterpart.take(step)
    except Impossible:
        return False
    return True


async def _replay_to_standstill(kind: type[Counterpart], result: Result, slug: str | None, named: str) -> Finding:
    if result.lasso != len(result.trace) - 1:
        raise CheckError(f"{kind.__name__}: a counterexample that goes round for ever is not replayed")
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
            return Finding(named, "what is wanted has not come about, and the machine does nothing more", refused)
