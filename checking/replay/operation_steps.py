"""Take the steps of an operation, from its beginning to its end: one function for each step of the model.

Each function returns whether the step was possible. It raises ``CheckError`` if ``world`` is strict and it was not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from checking.replay.actors import Actor
from checking.replay.event_loop import Stuck, cancel, exception_of, run_until
from checking.replay.world import World
from unwedged.protocol.identifiers import Version
from unwedged.store.backend import Committed, Loaded
from unwedged.store.errors import LeaseLost, SnapshotMoved


async def begin(world: World, name: str, mode: str) -> bool:
    """Begin an operation."""
    process = world.process_of(name)
    if name in process.actors:
        return world.refused("Begin", "the operation has begun already")
    actor = start(world, name, mode)
    try:
        await run_until(lambda: actor.awaits_command or actor.ended)
    except Stuck:
        assert actor.task is not None
        await cancel(process.gate, [actor.task, *process.store.lock._tasks])
        return world.refused("Begin", "the operation has to wait")
    process.actors[name] = actor
    return True


def start(world: World, name: str, mode: str) -> Actor:
    """Start an operation. It enters its transaction or view as soon as it may."""
    store = world.process_of(name).store
    actor = Actor(mode, Version(world.database.state().version))
    actor.task = asyncio.create_task(actor.perform(store.transaction() if mode == "transaction" else store.view()))
    return actor


async def load(world: World, name: str, record: str) -> bool:
    """Read a record from the database that is not in memory. The answer waits at the gate."""
    actor = world.actor(name)
    if actor is None or not actor.awaits_command:
        return world.refused("Load", "the operation is not running")
    actor.command("load", {record})
    actor.record = record
    if not await _reach_database(world, name, actor):
        return actor.awaits_command
    actor.stage = "loading"
    if actor.call is not None and (
        actor.call.failure or (isinstance(actor.call.answer, Loaded) and actor.call.answer.changed)
    ):
        await finish(world, name)
        return False
    return True


async def fill(world: World, name: str) -> bool:
    """Deliver the loaded record."""
    actor = world.actor(name)
    if actor is None or actor.call is None:
        return world.refused("Fill", "nothing was loaded")
    await _deliver(actor)
    actor.stage = "running"
    return True


async def list_records(world: World, name: str) -> bool:
    """List the records."""
    actor = world.actor(name)
    if actor is None or not actor.awaits_command:
        return world.refused("list", "the operation is not running")
    actor.command("list")
    if not await _reach_database(world, name, actor):
        return False
    await _deliver(actor)
    if not actor.ended:
        return True
    await _end(world, name, actor)
    return False


async def commit(world: World, name: str, updated: frozenset[str]) -> bool:
    """Commit a transaction. Its updates are in the database, and the answer waits at the gate."""
    actor = world.actor(name)
    if actor is None or not actor.awaits_command:
        return world.refused("Commit", "the operation is not running")
    if not world.strict:
        for record in sorted(updated - actor.known().keys()):
            if not await load(world, name, record) or (actor.call and not await fill(world, name)):
                return False
    _take_objects(world, name, actor, updated)
    actor.command("finish", updated)
    if not await _reach_database(world, name, actor):
        return False
    if actor.call is None or not isinstance(actor.call.answer, Committed):
        await finish(world, name)
        return False
    actor.stage = "committed"
    world.note_commit(actor.call.answer.version, actor.base)
    return True


async def validate(world: World, name: str) -> bool:
    """End an operation that changed nothing. It has passed the fence, and the answer waits at the gate."""
    actor = world.actor(name)
    if actor is None or not actor.awaits_command:
        return world.refused("Validate", "the operation is not running")
    return await _leave(world, name, actor, "finish")


async def fail(world: World, name: str) -> bool:
    """Let the code inside an operation fail. It has passed the fence, and the answer waits at the gate."""
    actor = world.actor(name)
    if actor is None or not actor.awaits_command:
        return world.refused("Fail", "the operation is not running")
    _take_objects(world, name, actor, actor.known())
    return await _leave(world, name, actor, "fail")


async def _leave(world: World, name: str, actor: Actor, command: str) -> bool:
    actor.command(command)
    if not await _reach_database(world, name, actor):
        return False
    if actor.call is None or actor.call.failure:
        await finish(world, name)
        return False
    actor.stage = "validated"
    return True


async def finish(world: World, name: str) -> bool:
    """Deliver the answer of an operation's last access. The operation ends."""
    actor = world.actor(name)
    if actor is None or actor.call is None or actor.task is None:
        return world.refused("Finish", "the operation's last access has not run")
    process = world.process_of(name)
    committed = isinstance(actor.call.answer, Committed)
    if committed and actor.operation and process.store.lock.stands(actor.operation._operation.epoch):
        process.live.update(actor.objects)
    actor.call.deliver()
    await _end(world, name, actor)
    return True


async def lose(world: World, name: str, way: str = "commit") -> bool:
    """Let the fence stop an operation at one kind of access, because its lease is lost."""
    actor = world.actor(name)
    if actor is None or not actor.awaits_command:
        return world.refused("Lose", "the operation is not running")
    match way:
        case "load":
            lost = not await load(world, name, min(set(world.records) - actor.known().keys()))
        case "list":
            lost = not await list_records(world, name)
        case "fail":
            lost = not await fail(world, name)
        case "commit" if actor.mode == "transaction":
            lost = not await commit(world, name, frozenset(actor.known()))
        case _:
            lost = not await validate(world, name)
    world.demand(isinstance(actor.outcome, LeaseLost), f"the operation ended with {actor.outcome!r}")
    return lost


async def outdated(world: World, name: str, record: str, way: str = "load") -> bool:
    """Let a view load a record that changed since the view began, or list the records after a change."""
    actor = world.actor(name)
    moved = not await (list_records(world, name) if way == "list" else load(world, name, record))
    outcome = actor.outcome if actor is not None else None
    world.demand(isinstance(outcome, SnapshotMoved), f"the operation ended with {outcome!r}")
    return moved


async def abort(world: World, name: str, way: str = "cancelled") -> bool:
    """Cancel the caller of an operation that runs or waits, or let the operation's commit fail."""
    actor = world.actor(name)
    if actor is None or actor.task is None:
        return world.refused("Abort", "there is no such operation")
    if way == "busy":
        _take_objects(world, name, actor, actor.known())
        actor.command("finish", actor.known())
        gate = world.process_of(name).gate
        await run_until(lambda: gate.arrived)
        call = gate.arrived.pop()
        call.fail()
        call.deliver()
    elif actor.awaits_command:
        _take_objects(world, name, actor, actor.known())
        actor.command("abort")
    else:
        actor.task.cancel()
        if actor.call is not None:
            actor.call.deliver()
    await _end(world, name, actor)
    return True


async def write_begins(world: World, name: str) -> bool:
    """Run a transaction's commit up to its last statement. The database stays locked."""
    actor = world.actor(name)
    if actor is None or not actor.awaits_command:
        return world.refused("WriteBegins", "the operation is not running")
    record = world.records[0]
    if record not in actor.known():
        await load(world, name, record)
        await fill(world, name)
    gate = world.process_of(name).gate
    actor.command("finish", {record})
    await run_until(lambda: gate.arrived)
    actor.call = gate.arrived.pop()  # type: ignore[assignment]  # the last call of a transaction is its commit
    world.writes_long = True
    actor.writing = asyncio.create_task(actor.call.run())  # type: ignore[union-attr]  # just set
    await world.at_last_statement.wait()
    return True


async def write_ends(world: World, name: str) -> bool:
    """Finish such a commit, and deliver its answer."""
    actor = world.actor(name)
    if actor is None or actor.writing is None:
        return world.refused("WriteEnds", "the operation is not writing")
    world.last_statement.set()
    await actor.writing
    if isinstance(actor.call and actor.call.answer, Committed):
        world.note_commit(world.database.state().version, actor.base)
    return await finish(world, name)


async def _reach_database(world: World, name: str, actor: Actor) -> bool:
    """Run an operation's next call. Return ``False`` if the operation ended without one."""
    gate = world.process_of(name).gate
    await run_until(lambda: gate.arrived or actor.awaits_command or actor.ended)
    if not gate.arrived:
        if not actor.awaits_command:
            await _end(world, name, actor)
        return world.refused("access", "the operation ended without an access to the database")
    actor.call = gate.arrived.pop()  # type: ignore[assignment]  # an operation makes no other calls
    await actor.call.run()  # type: ignore[union-attr]  # just set
    return True


async def _deliver(actor: Actor) -> None:
    """Deliver an answer, and let the operation continue until it waits or ends."""
    assert actor.call is not None
    actor.call.deliver()
    actor.call = None
    await run_until(lambda: actor.awaits_command or actor.ended)


async def _end(world: World, name: str, actor: Actor) -> None:
    assert actor.task is not None
    await run_until(actor.task.done)
    actor.outcome = await exception_of(actor.task)
    del world.process_of(name).actors[name]


def _take_objects(world: World, name: str, actor: Actor, records: Iterable[str]) -> None:
    """Note that a transaction takes the live objects of these records out of the cache, if its guard still has it."""
    process = world.process_of(name)
    if actor.mode != "transaction" or actor.operation is None:
        return
    if actor.operation._operation._guarded is process.store.lock.guarded:
        for record in records:
            process.live.pop(record, None)
