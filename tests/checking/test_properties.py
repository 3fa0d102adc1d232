"""Each property of the replay accepts correct steps, and reports violations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from checking.models.manifest import Band, Layer, find_manifest, read_manifest
from checking.replay.counterexamples import PROGRESS_PROPERTIES
from checking.replay.observation import IDLE, Observation, ObservedOperation
from checking.replay.properties import PROPERTIES, ObservedStep

# p1 holds the lease of epoch 2. Before that, p2 committed version 2, which changed r1.
AFTER = Observation(
    lease=(2, "p1", True, False),
    version=2,
    floor=0,
    records={"r1": 2, "r2": 0},
    log={1: frozenset({"r1"}), 2: frozenset({"r1"})},
    guards={"p1": ("held", 2), "p2": ("none", 0)},
    caches={"p1": (2, {"r2": 0}), "p2": (2, {"r1": 2})},
    heard={"p1": ((0, False), (1, False), (2, False)), "p2": ()},
    operations={"o1": IDLE, "o2": IDLE, "o3": IDLE},
)
BEFORE = replace(
    AFTER,
    guards={"p1": ("syncing", 2), "p2": ("none", 0)},
    caches={"p1": (1, {"r1": 1, "r2": 0}), "p2": (2, {"r1": 2})},
    heard={"p1": ((0, False), (1, False)), "p2": ()},
)
GOOD = ObservedStep(
    action="Sync",
    before=BEFORE,
    after=AFTER,
    home={"o1": "p1", "o2": "p1", "o3": "p2"},
    history=({"r1": 0, "r2": 0}, {"r1": 1, "r2": 0}, {"r1": 2, "r2": 0}),
    bases={1: {"r1": 0}, 2: {"r1": 1}},
    answered=frozenset({1, 2}),
    begun={},
    synced={"p1": 2, "p2": 1},
    prompt=frozenset({"p1"}),
)


def with_operation(op: ObservedOperation, begun: int = 0) -> ObservedStep:
    return replace(GOOD, after=replace(AFTER, operations={**AFTER.operations, "o1": op}), begun={"o1": begun})


def working(**known: int) -> ObservedOperation:
    return ObservedOperation("running", "view", under=2, at=2, known=known, loading=None, saw_waiter=False)


def with_cache(version: int, **records: int) -> ObservedStep:
    return replace(GOOD, after=replace(AFTER, caches={**AFTER.caches, "p1": (version, records)}))


def with_guards(p1: tuple[str, int], p2: tuple[str, int]) -> ObservedStep:
    return replace(GOOD, after=replace(AFTER, guards={"p1": p1, "p2": p2}))


def having_heard(*heard: tuple[int, bool]) -> ObservedStep:
    return replace(GOOD, after=replace(AFTER, heard={"p1": heard, "p2": ()}))


COMMITTED = ObservedOperation(
    "committed", "transaction", under=2, at=2, known={"r1": 1}, loading=None, saw_waiter=False
)
VALIDATED = ObservedOperation(
    "validated", "view", under=1, at=0, known={"r1": 1, "r2": 0}, loading=None, saw_waiter=False
)
FAILED = replace(VALIDATED, mode="transaction")

RIGHT = {
    "a cache at the version before, while its own commit is being answered": (
        "CacheIsSnapshot",
        replace(
            GOOD,
            after=replace(
                AFTER, caches={**AFTER.caches, "p1": (1, {"r1": 1})}, operations={**AFTER.operations, "o1": COMMITTED}
            ),
        ),
    ),
    "an old cache that nobody uses": ("CacheIsSnapshot", replace(GOOD, after=BEFORE)),
    "an old cache of a guard that the fence stops": (
        "CacheIsSnapshot",
        replace(with_cache(1, r1=1), after=replace(with_cache(1, r1=1).after, lease=(3, "p2", True, False))),
    ),
    "an update that was never answered": (
        "NoRatchetReuse",
        replace(GOOD, bases={1: {"r1": 1}, 2: {"r1": 1}}, answered=frozenset({2})),
    ),
    "two records with one value": ("NoRatchetReuse", replace(GOOD, bases={1: {"r1": 0}, 2: {"r2": 0}})),
    "an operation that sees an old version": ("Opaque", with_operation(replace(working(r1=1, r2=0), at=1))),
    "a view of the version at which it began": ("RefinesAtomicStore", with_operation(VALIDATED, begun=1)),
    "an old failure that was confirmed in time": (
        "RefinesAtomicStore",
        replace(with_operation(FAILED), before=with_operation(FAILED).after),
    ),
    "a guard that the fence stops": ("OneFencedHolder", with_guards(("held", 2), ("held", 1))),
    "a guard of a lease that was given away": (
        "GuardIsHonest",
        replace(GOOD, after=replace(AFTER, lease=(3, "p2", True, False))),
    ),
    "a next epoch": (
        "EpochNeverReused",
        replace(
            GOOD,
            before=replace(BEFORE, lease=(1, "Nobody", False, False), guards={"p1": ("none", 0), "p2": ("none", 0)}),
        ),
    ),
    "a late one that loses its lease": (
        "HolderNotAborted",
        replace(GOOD, after=replace(AFTER, lease=(3, "p2", True, False)), prompt=frozenset()),
    ),
    "a late one whose operations do not end": (
        "HolderNotAborted",
        replace(
            GOOD,
            after=replace(AFTER, lease=(3, "p2", True, False), guards={**AFTER.guards, "p1": ("expiring", 2)}),
        ),
    ),
    "a flush after the log was cut": (
        "NoSpuriousInvalidation",
        replace(with_cache(2), after=replace(with_cache(2).after, floor=2)),
    ),
    "a cache that is dropped with its process": ("NoSpuriousInvalidation", replace(with_cache(2), action="Crash")),
    "a gap that is told": ("StreamComplete", having_heard((0, False), (2, True))),
}

WRONG = {
    "a value of another version": (
        "CacheIsSnapshot",
        with_cache(2, r1=1),
        "the cache of p1 has {'r1': 1}, which does not belong to",
    ),
    "a cache of an older version": (
        "CacheIsSnapshot",
        with_cache(1, r1=1),
        "the cache of p1 has version 1, but the store",
    ),
    "a cache of a version to come": ("CacheIsSnapshot", with_cache(3), "which does not belong to its version 3"),
    "a snapshot of another version": (
        "CacheIsSnapshot",
        with_operation(working(r1=1)),
        "o1 reads {'r1': 1}, which does not belong to",
    ),
    "an update of an old value": (
        "NoLostUpdate",
        replace(GOOD, bases={1: {"r1": 0}, 2: {"r1": 0}}),
        "version 2 wrote r1 from the value 0, when it was 1",
    ),
    "two answers from one value": (
        "NoRatchetReuse",
        replace(GOOD, bases={1: {"r1": 0}, 2: {"r1": 0}}),
        "versions 1 and 2 were both answered from r1 = 0",
    ),
    "two versions mixed": ("Opaque", with_operation(replace(working(r1=2, r2=1), at=1)), "which is part of no version"),
    "two versions mixed by a load": (
        "Opaque",
        with_operation(replace(working(r1=2), loading=("r2", 1, 2))),
        "o1 sees {'r1': 2, 'r2': 1}, which is part of no version",
    ),
    "an answer from before the question": (
        "RefinesAtomicStore",
        with_operation(VALIDATED, begun=2),
        "had other values when it began",
    ),
    "a failure that is no longer so": (
        "RefinesAtomicStore",
        with_operation(FAILED, begun=1),
        "had other values when it was confirmed",
    ),
    "two who pass the fence": (
        "OneFencedHolder",
        with_guards(("held", 2), ("held", 2)),
        "p1 and p2 both pass the fence",
    ),
    "a guard that never synced": (
        "GuardIsHonest",
        replace(GOOD, synced={"p1": 1, "p2": 1}),
        "of epoch 2, but synced under epoch 1",
    ),
    "a guard without the lease": (
        "GuardIsHonest",
        replace(GOOD, after=replace(AFTER, lease=(2, "Nobody", False, False))),
        "but the lease belongs to Nobody",
    ),
    "an epoch for the second time": (
        "EpochNeverReused",
        replace(GOOD, before=replace(BEFORE, guards={"p1": ("none", 0), "p2": ("none", 0)})),
        "p1 acquired epoch 2, which was used before",
    ),
    "a holder that is robbed": (
        "HolderNotAborted",
        replace(GOOD, after=replace(AFTER, lease=(3, "p2", True, False))),
        "p1 renewed in time, but its lease went to p2",
    ),
    "an unchanged record that is dropped": (
        "NoSpuriousInvalidation",
        with_cache(2),
        "p1 dropped r2, which has not changed",
    ),
    "a gap": ("StreamComplete", having_heard((0, False), (2, False)), "got version 2 after 0"),
    "a version heard twice": (
        "StreamComplete",
        having_heard((1, False), (2, False), (2, False)),
        "got version 2 after 2",
    ),
    "a subscriber that was forgotten": (
        "StreamComplete",
        having_heard((0, False), (1, False)),
        "up to version 1, the cache has 2",
    ),
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_what_is_right_is_accepted(name: str) -> None:
    assert PROPERTIES[name](GOOD) is None


@pytest.mark.parametrize(("name", "observed"), RIGHT.values(), ids=RIGHT)
def test_what_looks_wrong_and_is_right_is_accepted(name: str, observed: ObservedStep) -> None:
    assert PROPERTIES[name](observed) is None


@pytest.mark.parametrize(("name", "observed", "told"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_reported(name: str, observed: ObservedStep, told: str) -> None:
    assert told in (PROPERTIES[name](observed) or "nothing")


def test_each_property_is_shown_to_fail() -> None:
    assert {name for name, _, _ in WRONG.values()} == PROPERTIES.keys()


def test_each_property_that_a_fault_violates_is_among_them() -> None:
    manifest = read_manifest(find_manifest(Path(__file__).parent))
    # For the models of the Matrix device, see tests/checking/test_machine_replay.py.
    replayed = [model for model in manifest.band(Band.FAULT) if model.layer is not Layer.MACHINE]
    assert {model.property for model in replayed} <= {*PROPERTIES, *PROGRESS_PROPERTIES}
