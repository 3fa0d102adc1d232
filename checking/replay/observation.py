"""Observe the implementation in the terms of the model: the memory of the store objects, and the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from checking.errors import CheckError
from checking.replay.counters import COUNTER, count_of
from checking.replay.processes import Process
from checking.replay.world import World
from unwedged.protocol.lease import Lease
from unwedged.store.backend import Committed, Loaded

NOBODY, DEPARTED = "Nobody", "Departed"


@dataclass(frozen=True, slots=True)
class ObservedOperation:
    """The observed state of an operation. The fields are those of the model."""

    stage: str
    mode: str
    under: int
    at: int
    known: Mapping[str, int]
    loading: tuple[str, int, int] | None
    saw_waiter: bool
    released: bool = False


IDLE = ObservedOperation("idle", "none", 0, 0, {}, None, saw_waiter=False)


@dataclass(frozen=True, slots=True)
class Observation:
    """The observed value of each variable of the model, by process or by operation."""

    lease: tuple[int, str, bool, bool]
    """The epoch, the holder, whether any time is left, and whether a process waits."""
    version: int
    floor: int
    records: Mapping[str, int]
    log: Mapping[int, frozenset[str]]
    """The records that changed, by version, as far as the change log reaches back."""
    guards: Mapping[str, tuple[str, int]]
    caches: Mapping[str, tuple[int, Mapping[str, int]]]
    heard: Mapping[str, tuple[tuple[int, bool], ...]]
    operations: Mapping[str, ObservedOperation]


def observe(world: World) -> Observation:
    """Observe the implementation. Raises ``CheckError`` if something that no model has is wrong."""
    row = world.database.state()
    for process in world.processes.values():
        for version, changed in (process.subscriber.changed if process.subscriber else {}).items():
            if changed != world.bases[version].keys():
                raise CheckError(f"{process.name} received a change of {sorted(changed)} in version {version}")
    names = {process.instance: name for name, process in world.processes.items()}
    return Observation(
        lease=(
            row.epoch,
            NOBODY if row.holder is None else names.get(row.holder, DEPARTED),
            row.holder is not None and row.expires > world.clock.time_ms,
            bool(row.wanted),
        ),
        version=row.version,
        floor=row.floor,
        records=world.database.records(),
        log=world.database.change_log(),
        guards={
            name: (process.store.lock.guard.stage.value, process.store.lock.guard.epoch)
            for name, process in world.processes.items()
        },
        caches={name: _cache(world, process) for name, process in world.processes.items()},
        heard={
            name: tuple(process.subscriber.heard) if process.subscriber else ()
            for name, process in world.processes.items()
        },
        operations={name: _operation(world, name) for name in world.home},
    )


def live_objects(world: World, name: str) -> set[str]:
    """Return the records of which a process has live objects beside its cache."""
    return {record.key.decode() for record in world.processes[name].store.lock.guarded.live}


def _cache(world: World, process: Process) -> tuple[int, dict[str, int]]:
    guarded = process.store.lock.guarded
    for name, live in guarded.live.items():
        if COUNTER.value.encode(live) != guarded.cache.records.get(name):  # type: ignore[arg-type]  # counters only
            raise CheckError(f"{process.name}: a live object differs from the cached value: {name.key!r}")
    live = {name.key.decode(): id(live) for name, live in guarded.live.items()}
    world.demand(
        live == {record: id(counter) for record, counter in process.live.items()},
        f"{process.name} has the live objects of {sorted(live)}, and should have those of {sorted(process.live)}",
    )
    return guarded.cache.version, {name.key.decode(): count_of(value) for name, value in guarded.cache.records.items()}


def _operation(world: World, name: str) -> ObservedOperation:
    actor = world.actor(name)
    if actor is None or actor.operation is None:
        return IDLE
    operation, answer = actor.operation._operation, actor.call.answer if actor.call is not None else None
    at, known, loading = int(operation.snapshot.version), actor.known(), None
    saw_waiter = released = False
    if isinstance(answer, Loaded):
        value = 0 if answer.value is None else world.database.open(actor.record, answer.value)
        loading = (actor.record, value, int(answer.version))
    if isinstance(answer, Committed):
        at, known = int(answer.version), dict(actor.base)
        saw_waiter, released = answer.wanted, answer.released
    if isinstance(answer, Lease):
        at, saw_waiter = 0, answer.wanted
    return ObservedOperation(actor.stage, actor.mode, operation.epoch, at, known, loading, saw_waiter, released)
