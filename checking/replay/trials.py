"""Try steps that must change nothing: steps that the model forbids, and steps that only read.

They are tried in the states that a replay reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from checking.errors import CheckError
from checking.replay import operation_steps, process_steps
from checking.replay.event_loop import cancel, is_blocked
from checking.replay.model_states import HOME, Function, entry, function_of, known_records, name_of, stage_of
from checking.replay.world import World
from checking.tlc.values import ModelValue, State, Value


class Trial(NamedTuple):
    """A step that must change nothing: the model forbids it, or it only reads."""

    what: str
    subject: str
    """A process or an operation."""
    mode: str = ""
    records: frozenset[str] = frozenset()


TRIALS = frozenset(
    {
        "begin while syncing",
        "begin while draining",
        "begin a transaction beside another",
        "begin a view beside a commit",
        "acquire what is not free",
        "release under an operation",
        "list all records",
    }
)


def trials(state: State) -> list[tuple[Trial, Value]]:
    """Return the trials of a state, each with the part of the state that it depends on.

    It is tried once for each part.
    """
    lease = entry(state, "lease")
    found: list[tuple[Trial, Value]] = []
    for p, guard in function_of(state["guard"]).items():
        process, epoch, stage = name_of(p), entry(state["guard"], p)["epoch"], stage_of(guard)
        mine = {name_of(o): entry(state["op"], o) for o in function_of(state["op"]) if HOME[name_of(o)] == process}
        working = [op for op in mine.values() if op["stage"] != "idle" and op["under"] == epoch]
        about: Value = (
            stage,
            lease["holder"] == p,
            cast("int", lease["left"]) > 0,
            lease["wanted"],
            tuple((op["stage"], op["mode"], op["under"] == epoch) for _, op in sorted(mine.items())),
        )
        what: list[Trial] = []
        for name, op in mine.items():
            if op["stage"] == "idle":
                what += [Trial(why, name, mode) for mode, why in _must_wait(stage, working)]
            elif op["stage"] == "running" and _may_list(state, op):
                there = cast("tuple[Function, ...]", state["history"])[cast("int", op["at"])]
                what.append(
                    Trial("list all records", name, "", frozenset(r for r, n in known_records(there).items() if n))
                )
        if stage == "none" and lease["wanted"] and not _takeable(lease, p):
            what.append(Trial("acquire what is not free", process))
        if stage in ("held", "draining") and working:
            what.append(Trial("release under an operation", process))
        found += [(trial, (*trial[:3], about)) for trial in what]
    return found


def _must_wait(stage: str, working: Sequence[Function]) -> list[tuple[str, str]]:
    """Return the modes of operation that may not begin, and the name of each trial."""
    if stage in ("syncing", "draining"):
        return [(mode, f"begin while {stage}") for mode in ("transaction", "view")]
    if stage != "held":
        return []
    transactions = [op for op in working if op["mode"] == "transaction"]
    return [
        *([("transaction", "begin a transaction beside another")] if transactions else []),
        *([("view", "begin a view beside a commit")] if any(op["stage"] == "committed" for op in working) else []),
    ]


def _takeable(lease: Function, process: Value) -> bool:
    return lease["holder"] in (ModelValue("Nobody"), process) or lease["left"] == 0


def _may_list(state: State, op: Function) -> bool:
    """Return whether a listing would pass the fence and show the operation's snapshot."""
    lease = entry(state, "lease")
    passes = lease["holder"] != ModelValue("Nobody") and lease["epoch"] == op["under"]
    return passes and op["at"] == len(cast("tuple[Value, ...]", state["commits"]))


async def attempt(world: World, trial: Trial) -> None:
    """Try a step that must change nothing. Raises ``CheckError`` if the implementation allows it."""
    match trial.what:
        case "acquire what is not free":
            await _try_acquire(world, trial.subject)
        case "release under an operation":
            await process_steps.release(world, trial.subject)
        case "list all records":
            await _try_list(world, trial.subject, trial.records)
        case _:
            await _try_begin(world, trial.subject, trial.mode)


async def _try_begin(world: World, name: str, mode: str) -> None:
    """Try to begin an operation that must wait, and cancel it."""
    process = world.process_of(name)
    lock = process.store.lock
    others = set(lock._tasks)
    actor = operation_steps.start(world, name, mode)
    assert actor.task is not None
    if not await is_blocked(lambda: actor.awaits_command or actor.ended):
        raise CheckError(f"the model does not let {name} begin here as a {mode}, but the implementation does")
    await cancel(process.gate, [actor.task, *(lock._tasks - others)])


async def _try_acquire(world: World, name: str) -> None:
    """Ask for a lease that can't be acquired."""
    if await process_steps.acquire(world, name):
        raise CheckError(f"the model does not let {name} take the lease here, but the implementation does")


async def _try_list(world: World, name: str, records: frozenset[str]) -> None:
    """List the records: the answer must be all records of the operation's snapshot."""
    actor = world.actor(name)
    if not await operation_steps.list_records(world, name) or actor is None or set(actor.listed or ()) != records:
        raise CheckError(f"{name} lists the records, and the answer is not {sorted(records)}")
