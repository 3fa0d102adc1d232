"""Run one process of a store model as a real process: read the steps to take, take them, and write the trace.

The process has a store object, a cache and a memory of its own, and shares the file with the other processes.
``checking.replay`` takes the steps. After the counterexample the process finishes the operations that it has begun.
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from unittest.mock import patch

import msgspec

from checking.replay import operation_steps, process_steps
from checking.replay.counterexamples import pause_at_last_statement
from checking.replay.database import Database
from checking.replay.doubles import InlineExecutor
from checking.replay.event_loop import run_to_end
from checking.replay.faults import FAULTS
from checking.replay.steps import take
from checking.replay.substitutions import substituted
from checking.replay.transitions import Step
from checking.replay.world import World
from checking.traced_faults.processes import say
from unwedged.protocol.guard import Stage
from unwedged.protocol.identifiers import Version
from unwedged.store import database
from unwedged.store.sealer import Sealer
from unwedged.store.sqlite import SqliteBackend
from unwedged.trace import NdjsonTracer

GO_ON: Final = "GoOn"
"""A step that no model has: the process finishes what it has begun, and commits two more transactions."""


class Setting(msgspec.Struct, frozen=True):
    """What a process needs to know when it starts."""

    folder: str
    name: str
    number: int
    """How many instances were started before this one."""
    fault: str | None
    home: dict[str, str]
    records: tuple[str, ...]
    subscribers: frozenset[str]


class Command(msgspec.Struct, frozen=True):
    """A step to take, and the time at which to take it."""

    step: Step
    time_ms: int


class Answer(msgspec.Struct, frozen=True):
    """Whether the step was possible, and the time after it."""

    possible: bool
    time_ms: int


async def serve(setting: Setting) -> None:
    """Carry out commands from standard input until it is closed."""
    asyncio.get_running_loop().set_default_executor(InlineExecutor())
    folder = Path(setting.folder)
    backend = await SqliteBackend.open(folder / "shared.store")
    sealer = Sealer.of_key(backend.identity, bytes(32))  # All processes have the same key.
    file = Database(folder / "shared.store", sealer, setting.records)
    home = {operation: process for operation, process in setting.home.items() if process == setting.name}
    with ExitStack() as stack:
        tracer = stack.enter_context(NdjsonTracer(folder / f"{setting.name}.ndjson"))
        world = World({setting.name: backend}, sealer, file, home, setting.records, setting.subscribers)
        world.strict, world.instances, world.tracer = False, setting.number, tracer
        world.bases = defaultdict(dict)  # the bases of other processes' commits are not known here
        stack.enter_context(patch.object(database, "monotonic_seconds", lambda: world.clock.time_ms / 1000))
        if setting.fault is not None:
            stack.enter_context(substituted(FAULTS[setting.fault](world)))
        pause_at_last_statement(world, stack)
        if world.same_instance:
            world.instances = 0
        world.begin()
        say("")
        while line := sys.stdin.readline():
            command = msgspec.json.decode(line, type=Command)
            world.clock.time_ms = command.time_ms
            possible = await _take(world, command.step)
            say(msgspec.json.encode(Answer(possible, world.clock.time_ms)).decode())


async def _take(world: World, step: Step) -> bool:
    if step.action == GO_ON:
        return await go_on(world)
    if step.action == "Truncate":  # no process takes this step in the model; here a process takes it, and traces it
        (process,) = world.processes.values()
        await run_to_end(process.gate, process.store.truncate_now(Version(world.database.state().version)))
        return True
    return await take(world, step)


async def go_on(world: World) -> bool:
    """Finish what has begun, update all records twice, and release the lease. Return ``False`` if it is refused."""
    (process,) = world.processes.values()
    name = process.name
    for operation, actor in list(process.actors.items()):
        if actor.writing is not None:
            await operation_steps.write_ends(world, operation)
        elif actor.stage == "loading":
            await operation_steps.fill(world, operation)
        if actor.awaits_command:
            await _leave(world, operation)
        elif operation in process.actors:
            await operation_steps.finish(world, operation)
    if process.sync is not None:
        await process_steps.sync(world, name)
    await process_steps.listen(world, name)
    if process.store.lock.guard.stage is Stage.NONE:
        if not await process_steps.acquire(world, name):
            return False
        await process_steps.sync(world, name)
    operation = next(iter(world.home))
    for _ in range(2):
        if await operation_steps.begin(world, operation, "transaction"):
            await _leave(world, operation)
    await process_steps.renew(world, name)
    await process_steps.release(world, name)
    return True


async def _leave(world: World, operation: str) -> None:
    actor = world.actor(operation)
    if actor is not None and actor.mode == "view":
        await operation_steps.validate(world, operation)
    else:
        await operation_steps.commit(world, operation, frozenset(world.records))
    if world.actor(operation) is not None:
        await operation_steps.finish(world, operation)


if __name__ == "__main__":
    asyncio.run(serve(msgspec.json.decode(sys.argv[1], type=Setting)))
