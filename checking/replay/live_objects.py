"""Which live objects outlive a sync: those of the records that did not change, and no others.

The models do not speak of live objects. So here it is tried with three records, whichever of them one process changes
and has live objects of, and whichever another process changes behind its back.
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
    """Take each scenario's steps, and return how many there were; raise ``CheckError`` where one goes wrong."""
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
        raise CheckError(f"p1 changed {sorted(mine)}, p2 {sorted(theirs)}, p1 all, and what came of it is {records}")


async def _work(
    world: World, process: str, operation: str, loads: frozenset[str], changes: frozenset[str], *, acquires: bool = True
) -> None:
    """Let a process take the lease, change some records, and release the lease."""
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
