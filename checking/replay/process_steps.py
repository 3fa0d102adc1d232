"""Take the steps of a process with its lease, its cache and its subscribers: one function for each step of the model.

A step that may be impossible returns whether it was possible, or raises ``CheckError`` if ``world`` is strict.
"""

from __future__ import annotations

import asyncio

from checking.replay.counters import COUNTER
from checking.replay.doubles import RecordingSubscriber
from checking.replay.event_loop import exception_of, pass_next_call, run_to_end, run_until
from checking.replay.processes import Process
from checking.replay.world import World
from unwedged.protocol.guard import Stage
from unwedged.store.guarded_cache import RecordName


async def acquire(world: World, name: str) -> bool:
    """Ask for the lease. If it is granted, the sync waits at the gate."""
    process = world.processes[name]
    lock = process.store.lock
    if lock.guard.stage is not Stage.NONE:
        return world.refused("Acquire", "there is a guard already")
    process.acquiring = asyncio.create_task(lock.acquire_now())
    await pass_next_call(process.gate, process.acquiring)
    if process.acquiring.done():
        await exception_of(process.acquiring)
        return False
    process.sync = process.gate.arrived.pop()  # type: ignore[assignment]  # after acquire comes changes
    return True


async def sync(world: World, name: str) -> bool:
    """Run the sync. Then the guard exists."""
    process = world.processes[name]
    if process.sync is None or process.acquiring is None:
        return world.refused("Sync", "no sync waits at the gate")
    await process.sync.run()
    return await _end_sync(world, process)


async def sync_fails(world: World, name: str, *, released: bool = False) -> bool:
    """Let the sync fail. Unless the lease is to be ``released``, the write that would release it fails as well."""
    process = world.processes[name]
    if process.sync is None:
        return world.refused("SyncFails", "no sync waits at the gate")
    process.sync.fail()
    process.sync.deliver()
    assert process.acquiring is not None
    while not process.acquiring.done():
        await pass_next_call(process.gate, process.acquiring, fails=not released)
    return not await _end_sync(world, process)


async def _end_sync(world: World, process: Process) -> bool:
    assert process.sync is not None
    assert process.acquiring is not None
    old = process.store.lock.guarded.cache.version
    process.sync.deliver()
    acquiring = process.acquiring
    await run_until(acquiring.done)
    held = await exception_of(acquiring) is None and acquiring.result()
    process.sync = process.acquiring = None
    if held:
        _forget_changed_objects(world, process, old)
    if held and process.subscriber is None and process.name in world.subscribers:
        process.subscriber = RecordingSubscriber(process.store.streams.published)
        process.store.streams.add(process.subscriber)
    return held


def _forget_changed_objects(world: World, process: Process, old: int) -> None:
    """Note that the live objects of the records that changed since ``old`` are gone."""
    row = world.database.state()
    if row.floor > old:
        process.live.clear()
    for version in range(old + 1, row.version + 1):
        for record in world.bases[version]:
            process.live.pop(record, None)


async def renew(world: World, name: str) -> bool:
    """Renew the lease. If it is lost, the guard ends."""
    process = world.processes[name]
    await run_to_end(process.gate, process.store.lock.renew_now())
    return True


async def lose_guard(world: World, name: str, way: str = "") -> bool:
    """Let the fence stop a renewal or a sync. If it stops the renewal first, it stops the sync too."""
    process = world.processes[name]
    if process.sync is None:
        return await renew(world, name)
    if way == "renewal":
        await renew(world, name)
        world.demand(process.store.lock.guard.stage is Stage.NONE, "the renewal succeeded")
    return not await sync(world, name)


async def release(world: World, name: str) -> bool:
    """Release the lease."""
    process = world.processes[name]
    await run_to_end(process.gate, process.store.lock.release_now())
    return True


def stop_renewing(world: World, name: str) -> None:
    """Advance the clock until a process stops renewing, because another one waits and its operations do not end."""
    lock = world.processes[name].store.lock
    world.clock.time_ms += lock.times.overdue_after_ms + 1
    lock.stop_renewing_if_overdue()


def forget(world: World, name: str, record: str) -> None:
    """Drop a record and its live object from a cache."""
    process = world.processes[name]
    process.store.lock.guarded.forget([RecordName(COUNTER.name, record.encode())])
    process.live.pop(record, None)


async def listen(world: World, name: str) -> bool:
    """Let a process without a guard read the change log."""
    process = world.processes[name]
    await run_to_end(process.gate, process.store.listen_now())
    return True
