"""Replay TLC's counterexamples of faults on the reference store.

Each counterexample is replayed twice. With the same fault in the reference, the same property must be violated. Without
the fault, no property may be violated, and some step of the counterexample must be impossible.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

from checking.errors import CheckError
from checking.replay.faults import FAULTS
from checking.replay.model_states import constants_of, prompt_in, waiting_in
from checking.replay.observation import observe
from checking.replay.process_steps import acquire, release, renew, stop_renewing, sync, sync_fails
from checking.replay.properties import PROPERTIES, ObservedStep
from checking.replay.steps import take
from checking.replay.substitutions import substituted
from checking.replay.transitions import Step, lock_step_between, step_between
from checking.replay.verdicts import Finding, verdict
from checking.replay.world import World
from checking.tlc.run import Result, TraceStep
from unwedged.protocol.guard import Stage
from unwedged.protocol.identifiers import Milliseconds
from unwedged.store import database, statements
from unwedged.store.lock import LeaseTimes

PROGRESS_PROPERTIES = ("LockNotStuck", "WaiterServed")
"""The liveness properties. They are judged at the end of a counterexample."""


def replay_counterexample(slug: str, named: str, result: Result) -> str:
    """Replay a fault's counterexample with and without the fault. Return the violated property, as ``verdict`` does."""
    if slug not in FAULTS:
        raise CheckError(f"the reference has no injection for the fault {slug!r}")
    all_properties = (*PROPERTIES, *(PROGRESS_PROPERTIES if named in PROGRESS_PROPERTIES else ()))
    return verdict(
        slug,
        named,
        result,
        broken=lambda: asyncio.run(_replay(result, slug, (named,))),
        sound=lambda: asyncio.run(_replay(result, None, all_properties)),
    )


async def _replay(result: Result, slug: str | None, properties: Sequence[str]) -> Finding:
    of_lock = "prompt" in result.trace[0].state
    constants = constants_of([step.state for step in result.trace])
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        world = await World.open(Path(folder), *constants)
        world.strict = False
        try:
            stack.enter_context(patch.object(database, "monotonic_seconds", lambda: world.clock.time_ms / 1000))
            if slug is not None:
                stack.enter_context(substituted(FAULTS[slug](world)))
            pause_at_last_statement(world, stack)
            await world.reset()
            checker = _PropertyChecker(world)
            for before, after in pairwise(result.trace):
                assert after.label is not None  # only the first state has none
                step = (lock_step_between if of_lock else step_between)(after.label, before.state, after.state)
                checker.note(await take(world, step))
                violation = checker.violation(step, properties, after)
                if violation is not None:
                    return Finding(*violation, checker.refused)
            if set(properties) & set(PROGRESS_PROPERTIES):
                vain = await _fair_steps(world, result)
                if vain is not None:
                    return Finding(
                        next(name for name in properties if name in PROGRESS_PROPERTIES), vain, checker.refused
                    )
            return Finding(None, "", checker.refused)
        finally:
            await world.close()


class _PropertyChecker:
    """Checks after each step whether a property is violated."""

    def __init__(self, world: World) -> None:
        self.refused = 0
        self._world = world
        self._observed = observe(world)

    def note(self, possible: bool) -> None:
        """Count a step that was not possible."""
        self.refused += not possible

    def violation(self, step: Step, properties: Sequence[str], after: TraceStep) -> tuple[str, str] | None:
        """Return the first of ``properties`` that the step violates, and how it is violated."""
        world = self._world
        before, self._observed = self._observed, observe(world)
        pending = {op.at for op in self._observed.operations.values() if op.stage == "committed"}
        observed = ObservedStep(
            action=step.action,
            before=before,
            after=self._observed,
            home=world.home,
            history=world.history,
            bases=world.bases,
            answered=frozenset(world.bases) - pending,
            begun={name: actor.begun for process in world.processes.values() for name, actor in process.actors.items()},
            synced={name: process.store.lock.guarded.epoch for name, process in world.processes.items()},
            prompt=prompt_in(after.state),
        )
        for name in properties:
            if name in PROPERTIES and (wrong := PROPERTIES[name](observed)) is not None:
                return name, wrong
        return None


def pause_at_last_statement(world: World, stack: ExitStack) -> None:
    """Make a long commit wait before its last statement until ``world.last_statement`` is set."""
    lateness, loop = statements.lateness, asyncio.get_running_loop()

    def pause(began_seconds: float, duration_ms: Milliseconds) -> Milliseconds:
        """Wait on the database driver's thread."""
        if world.writes_long:
            world.writes_long = False
            loop.call_soon_threadsafe(world.at_last_statement.set)
            world.last_statement.wait()
        return lateness(began_seconds, duration_ms)

    stack.enter_context(patch.object(statements, "lateness", pause))


async def _fair_steps(world: World, result: Result) -> str | None:
    """Let each process that is not suspended take the steps that fairness demands. Return which one is never served.

    No operation ends. A sync that keeps failing in the counterexample keeps failing here. It is retried before its
    lease expires, but the write that releases the lease succeeds.
    """
    endless = result.trace[result.lasso :]
    failing = {
        lock_step_between(after.label, before.state, after.state).process
        for before, after in pairwise(endless)
        if after.label is not None and after.label.action == "SyncFails"
    }
    waiting = waiting_in(result.trace[-1].state) - failing
    for _ in range(2 + len(waiting)):
        guards = {name: process.store.lock.guard for name, process in world.processes.items()}
        holder = observe(world).lease[1]
        if holder not in failing and (holder not in guards or guards[holder].stage is Stage.NONE):
            world.clock.time_ms += LeaseTimes().duration_ms  # no process renews it
        for name, process in world.processes.items():
            if name in failing:
                await acquire(world, name)
                await sync_fails(world, name, released=True)
            elif process.sync is not None:
                await sync(world, name)
            await renew(world, name)
            if process.store.lock.guard.stage is Stage.DRAINING:
                await release(world, name)
                stop_renewing(world, name)
                await renew(world, name)
        for name in sorted(waiting):
            if world.processes[name].store.lock.guard.stage is Stage.NONE and await acquire(world, name):
                await sync(world, name)
            if world.processes[name].store.lock.guard.stage is not Stage.NONE:
                waiting.discard(name)
    return f"{', '.join(sorted(waiting))} waits for ever" if waiting else None
