"""Check that a sync keeps exactly the live objects of the records that did not change.

The models have no live objects. So this is tried with three records: one process has live objects of some of them,
another process changes some of them, and all combinations are tried.
"""

from __future__ import annotations

import tempfile
from itertools import chain, combinations, product
from pathlib import Path

from checking.errors import CheckError
from checking.replay.observation import live_objects, observe
from checking.replay.steps import take
from checking.replay.transitions import Step
from checking.replay.world import World

RECORDS = ("r1", "r2", "r3")

SUBSETS = tuple(map(frozenset, chain.from_iterable(combinations(RECORDS, size) for size in range(1, len(RECORDS) + 1))))

SCENARIOS = len(SUBSETS) ** 2


async def run_scenarios() -> int:
    """Run all scenarios, and return their number. Raises ``CheckError`` if a process keeps the wrong live objects."""
    count = 0
    with tempfile.TemporaryDirectory() as scratch:
        world = await World.open(Path(scratch), {"o1": "p1", "o3": "p2"}, RECORDS, frozenset())
        try:
            for mine, theirs in product(SUBSETS, SUBSETS):
                await world.reset()
                await _run(world, mine, theirs)
                count += 1
        finally:
            await world.close()
    return count


async def _run(world: World, mine: frozenset[str], theirs: frozenset[str]) -> None:
    await _work(world, "p1", "o1", frozenset(RECORDS), mine)
    await _work(world, "p2", "o3", theirs, theirs)
    for step in (Step("Acquire", process="p1"), Step("Sync", process="p1")):
        await take(world, step)
    cached = dict(observe(world).caches["p1"][1])
    kept = live_objects(world, "p1")
    if kept != mine - theirs or cached.keys() != set(RECORDS) - theirs:
        raise CheckError(
            f"p1 had live objects of {sorted(mine)}, and p2 changed {sorted(theirs)}: "
            f"p1 keeps {sorted(kept)}, and has {sorted(cached)} in its cache"
        )
    await _work(world, "p1", "o1", theirs, frozenset(RECORDS), acquires=False)
    records = observe(world).records
    if records != {record: 1 + (record in mine) + (record in theirs) for record in RECORDS}:
        raise CheckError(f"p1 changed {sorted(mine)}, p2 {sorted(theirs)}, and p1 all; then the records are {records}")


async def _work(
    world: World, process: str, operation: str, loads: frozenset[str], changes: frozenset[str], *, acquires: bool = True
) -> None:
    """Let a process acquire the lease, change some records, and release the lease."""
    steps = [Step("Acquire", process=process), Step("Sync", process=process)] if acquires else []
    steps.append(Step("Begin", operation=operation, mode="transaction"))
    for record in sorted(loads):
        steps.append(Step("Load", operation=operation, records=frozenset({record})))
        steps.append(Step("Fill", operation=operation))
    steps.append(Step("Commit", operation=operation, records=changes))
    steps.append(Step("Finish", operation=operation))
    steps.append(Step("Release", process=process))
    for step in steps:
        await take(world, step)
        observe(world)
