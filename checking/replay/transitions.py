"""What a transition of a model is, step by step.

TLC's labels name the action, and the two states tell its parameters. A newer TLC writes the parameters into its labels
as well: then those count, and they must be among what the states allow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

from checking.errors import CheckError
from checking.replay.world import IDLE, NOBODY, Observation, Seen, World
from checking.tlc.values import Label, ModelValue, State, Value

Function = Mapping[Value, Value]

HOME = {"o1": "p1", "o2": "p1", "o3": "p2"}
"""Which process each operation belongs to: ``TwoAndOne`` of the models' module MCCryptoStoreCache."""


@dataclass(frozen=True, slots=True)
class Step:
    """An action with its parameters, as far as it has any."""

    action: str
    process: str = ""
    operation: str = ""
    mode: str = ""
    records: frozenset[str] = frozenset()
    given_up: bool = False
    """Whether a sync that fails gives the lease up."""
    way: str = ""
    """How the implementation takes it, where it can do so in several ways."""

    @property
    def parameters(self) -> tuple[Value, ...]:
        """As TLC has them."""
        names = [ModelValue(name) for name in (self.process, self.operation) if name]
        records = frozenset(map(ModelValue, self.records))
        if self.action == "Commit":
            return (*names, records)
        return (*names, *([self.mode] if self.mode else []), *records)

    def __str__(self) -> str:
        return f"{Label(self.action, self.parameters)}{' by ' if self.way else ''}{self.way}"


_OF_OPERATIONS = {"Begin", "Load", "Fill", "Commit", "Validate", "Fail", "Finish", "Lose", "Outdated", "Abort"} | {
    "ForgetCommit"
}
_OF_NOBODY = {"Lapse", "Truncate"}


def step_between(label: Label, before: State, after: State) -> Step:
    """Tell which step of ``CryptoStoreCache`` leads from one state to the other. Where several do, choose one."""
    return _chosen(label, _steps_between(label.action, before, after))


def _chosen(label: Label, possible: Sequence[Step]) -> Step:
    """Return the step that the label's parameters name, or the first that is possible where it has none."""
    if not label.parameters:
        return possible[0]
    for step in possible:
        if step.parameters == label.parameters:
            return step
    raise CheckError(f"TLC calls a step {label}, and by its states it is {' or '.join(map(str, possible))}")


def _steps_between(action: str, before: State, after: State) -> list[Step]:
    if action in _OF_NOBODY:
        return [Step(action)]
    if action in _OF_OPERATIONS:
        (operation,) = _changed(before["op"], after["op"])
        was, now = _of(before["op"], operation), _of(after["op"], operation)
        step = Step(action, operation=_name(operation))
        match action:
            case "Begin":
                return [replace(step, mode=str(now["mode"]))]
            case "Load":
                loading = _name(cast("tuple[Value, ...]", now["loading"])[0])
                return [replace(step, records=frozenset({loading}))]
            case "Commit":
                return [replace(step, records=_names(cast("tuple[Function, ...]", after["commits"])[-1]))]
            case "Outdated":
                return [replace(step, records=frozenset({record})) for record in _outdated(before, was)]
        return [step]
    step = Step(action, given_up=_given_up(before, after))
    if action == "Forget":
        (process,) = _changed(before["cache"], after["cache"])
        (record,) = _changed(*(_of(state["cache"], process)["records"] for state in (before, after)))
        return [replace(step, process=_name(process), records=frozenset({_name(record)}))]
    return [replace(step, process=process) for process in _processes(action, before, after)]


def _given_up(before: State, after: State) -> bool:
    nobody = ModelValue(NOBODY)
    return _of(before, "lease")["holder"] != nobody and _of(after, "lease")["holder"] == nobody


def ways(step: Step, before: State) -> tuple[str, ...]:
    """Return in which ways the implementation can take a step that is one to the model: each is to be taken."""
    if step.action == "LoseGuard":
        guard = _of(before["guard"], ModelValue(step.process))
        return ("sync", "renewal") if guard["stage"] == "syncing" else ("renewal",)
    if not step.operation:
        return ("",)
    op = _of(before["op"], ModelValue(step.operation))
    known = _known(op["known"])
    reads = op["stage"] == "running" and known
    writes = reads and op["mode"] == "transaction"
    match step.action:
        case "Lose":
            missing = len(known) < len(_function(op["known"]))
            return ("list", "fail", "leave", *(["load"] if missing else []), *(["commit"] if writes else []))
        case "Outdated":
            return ("load", "list")
        case "Abort":
            return ("cancelled", "busy") if writes else ("cancelled",)
    return ("",)


WAYS = frozenset(
    {
        *("Lose by list", "Lose by fail", "Lose by leave", "Lose by load", "Lose by commit"),
        *("LoseGuard by sync", "LoseGuard by renewal", "Outdated by load", "Outdated by list"),
        *("Abort by cancelled", "Abort by busy"),
    }
)
"""All ways that there are to take one step."""


class Trial(NamedTuple):
    """What must change nothing: a step that the model does not allow, or one that only reads."""

    what: str
    actor: str
    """A process or an operation."""
    mode: str = ""
    records: frozenset[str] = frozenset()


TRIALS = frozenset(
    {
        "begin while syncing",
        "begin while closing",
        "begin a transaction beside another",
        "begin a view beside a commit",
        "acquire what is not free",
        "release under an operation",
        "list all records",
    }
)


def trials(state: State) -> list[tuple[Trial, Value]]:
    """Return what is to be tried in a state, each with what it may depend on: it is tried once for each of those."""
    lease = _of(state, "lease")
    found: list[tuple[Trial, Value]] = []
    for p, guard in _function(state["guard"]).items():
        process, epoch, stage = _name(p), _of(state["guard"], p)["epoch"], _stage(guard)
        mine = {_name(o): _of(state["op"], o) for o in _function(state["op"]) if HOME[_name(o)] == process}
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
                what.append(Trial("list all records", name, "", frozenset(r for r, n in _known(there).items() if n)))
        if stage == "none" and lease["wanted"] and not _takeable(lease, p):
            what.append(Trial("acquire what is not free", process))
        if stage in ("held", "closing") and working:
            what.append(Trial("release under an operation", process))
        found += [(trial, (*trial[:3], about)) for trial in what]
    return found


def _must_wait(stage: str, working: Sequence[Function]) -> list[tuple[str, str]]:
    """Return the modes of operation that may not begin, and why."""
    if stage in ("syncing", "closing"):
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
    """Say whether a listing would pass the fence, and be of the operation's snapshot."""
    lease = _of(state, "lease")
    passes = lease["holder"] != ModelValue("Nobody") and lease["epoch"] == op["under"]
    return passes and op["at"] == len(cast("tuple[Value, ...]", state["commits"]))


async def attempt(world: World, trial: Trial) -> None:
    """Try what must change nothing; raise ``CheckError`` if it is allowed after all."""
    match trial.what:
        case "acquire what is not free":
            await world.try_acquire(trial.actor)
        case "release under an operation":
            await world.release(trial.actor)
        case "list all records":
            await world.try_list(trial.actor, trial.records)
        case _:
            await world.try_begin(trial.actor, trial.mode)


def _processes(action: str, before: State, after: State) -> list[str]:
    """Return the processes whose step it may be."""
    if action == "Want":
        row = cast("Function", before["lease"])
        return sorted(
            _name(p)
            for p, guard in _function(before["guard"]).items()
            if _stage(guard) == "none" and p != row["holder"]
        )
    if action == "Release":
        return [_name(_of(before, "lease")["holder"])]
    for variable in ("guard", "heard", "cache"):
        if variable in before and (changed := _changed(before[variable], after[variable])):
            return sorted(map(_name, changed))
    if action == "Crash":
        return [HOME[_name(_changed(before["op"], after["op"])[0])]]
    if action == "Renew":
        epoch = _of(before, "lease")["epoch"]
        guards = _function(before["guard"])
        return [_name(p) for p in guards if _of(guards, p)["epoch"] == epoch and _stage(guards[p]) != "none"]
    raise CheckError(f"whose step {action} is can't be told from its states")


def _outdated(before: State, operation: Function) -> list[str]:
    """Return the records that can no longer be loaded: those that changed, or all where the log was cut."""
    at = cast("int", operation["at"])
    commits = cast("tuple[Function, ...]", before["commits"])
    later = _names(_function(operation["known"]))
    if cast("int", before["floor"]) <= at:
        later = frozenset[str]().union(*(_names(commit) for commit in commits[at:]))
    return sorted(later - _known(operation["known"]).keys())


class Cast(NamedTuple):
    """The cast: the operations and their processes, the records, and the processes with subscribers."""

    home: dict[str, str]
    records: tuple[str, ...]
    subscribers: frozenset[str]


def cast_of(states: Sequence[State]) -> Cast:
    """Read from the states of a model who plays in it."""
    if "history" not in states[0]:  # the lock alone: one operation for each process, and one record to write
        return Cast({_WORKER[name]: name for name in _WORKER}, ("r1",), frozenset())
    home = {_name(operation): HOME[_name(operation)] for operation in _function(states[0]["op"])}
    records = tuple(sorted(map(_name, cast("tuple[Function, ...]", states[0]["history"])[0])))
    subscribers = {_name(p) for state in states for p, told in _function(state["heard"]).items() if told}
    return Cast(home, records, frozenset(subscribers))


_WORKER = {"p1": "o1", "p2": "o3"}
"""The operation that a process of ``LeaseLock`` is busy with."""


def lock_step_between(label: Label, before: State, after: State) -> Step:
    """Tell which step of ``LeaseLock`` leads from one state to the other, and what it is to a store."""
    step = _chosen(label, _lock_steps_between(label.action, before, after))
    if label.action == "ClockJump":
        back = cast("int", _of(after, "lease")["left"]) > 0
        return Step("JumpBack" if back else "Lapse")
    if not step.process or label.action == "Want":
        return step
    action = _OF_LOCK.get(label.action, label.action)
    return replace(step, action=action, operation=_WORKER[step.process], mode="transaction")


def _lock_steps_between(action: str, before: State, after: State) -> list[Step]:
    if action in _OF_NOBODY or action == "ClockJump":
        return [Step(action)]
    if action == "Want":
        holder = _name(_of(before, "lease")["holder"])
        return [Step(action, process=process) for process in sorted(waiting_in(before) - {holder})]
    changed = [p for variable in ("guard", "op", "synced") for p in _changed(before[variable], after[variable])]
    processes = [_name(changed[0])] if changed else _processes(action, before, after)
    return [Step(action, process=process, given_up=_given_up(before, after)) for process in processes]


_OF_LOCK = {"End": "Abort", "Lose": "LoseAll"}


def waiting_in(state: State) -> set[str]:
    """Return the processes that wait for the lease, in a state of ``LeaseLock``."""
    return {_name(p) for p, op in _function(state["op"]).items() if op == "waiting"}


def prompt_in(state: State) -> frozenset[str]:
    """Return the processes that renew in time, in a state of ``LeaseLock``; other models do not say."""
    if "prompt" not in state:
        return frozenset()
    return frozenset(_name(p) for p, prompt in _function(state["prompt"]).items() if prompt)


async def take(world: World, step: Step) -> bool:
    """Let the implementation take a step. Returns whether it could."""
    match step.action:
        case "Acquire":
            return await world.acquire(step.process)
        case "Want":
            return not await world.acquire(step.process)
        case "Sync":
            return await world.sync(step.process)
        case "SyncFails":
            return await world.sync_fails(step.process, given_up=step.given_up)
        case "Renew":
            return await world.renew(step.process)
        case "LoseGuard":
            return await world.lose_guard(step.process, step.way)
        case "Release":
            return await world.release(step.process)
        case "Listen":
            return await world.listen(step.process)
        case "Crash":
            await world.crash(step.process)
        case "Lapse":
            world.lapse()
        case "Truncate":
            await world.truncate()
        case "Forget":
            world.forget(step.process, min(step.records))
        case "Begin":
            return await world.begin(step.operation, step.mode)
        case "Load":
            return await world.load(step.operation, min(step.records))
        case "Fill":
            return await world.fill(step.operation)
        case "Commit":
            return await world.commit(step.operation, step.records)
        case "Validate":
            return await world.validate(step.operation)
        case "Fail":
            return await world.fail(step.operation)
        case "Finish":
            return await world.finish(step.operation)
        case "Lose":
            return await world.lose(step.operation, step.way or "commit")
        case "Outdated":
            return await world.outdated(step.operation, min(step.records), step.way or "load")
        case "Call":
            return True  # it is a step of its caller's, which waits from here on
        case "JumpBack":
            world.jump_back()
        case "LoseAll":
            lost = await world.lose_guard(step.process)
            if step.operation in world.processes[step.process].actors:
                await world.lose(step.operation)
            return lost
        case "Expire":
            world.expire(step.process)
        case "WriteBegins":
            return await world.write_begins(step.operation)
        case "WriteEnds":
            return await world.write_ends(step.operation)
        case "Abort" | "ForgetCommit":
            return await world.abort(step.operation, step.way or "cancelled")
        case _:
            raise CheckError(f"the replay has no twin for the action {step.action}")
    return True


def expected(state: State) -> Observation:
    """Return what must be observed where the model is in ``state``."""
    lease = _of(state, "lease")
    history = cast("tuple[Function, ...]", state["history"])
    floor = cast("int", state["floor"])
    commits = cast("tuple[Function, ...]", state["commits"])
    return Observation(
        lease=(
            cast("int", lease["epoch"]),
            _name(lease["holder"]),
            cast("int", lease["left"]) > 0,
            bool(lease["wanted"]),
        ),
        version=len(commits),
        floor=floor,
        records=_known(history[-1]),
        log={version: _names(commit) for version, commit in enumerate(commits, 1) if version > floor},
        guards={
            _name(p): (_stage(guard), cast("int", cast("Function", guard)["epoch"]))
            for p, guard in _function(state["guard"]).items()
        },
        caches={
            _name(p): (cast("int", cast("Function", cache)["version"]), _known(cast("Function", cache)["records"]))
            for p, cache in _function(state["cache"]).items()
        },
        heard={_name(p): _heard(told) for p, told in _function(state["heard"]).items()},
        operations={_name(o): _seen(cast("Function", op)) for o, op in _function(state["op"]).items()},
    )


def _seen(op: Function) -> Seen:
    if op["stage"] == "idle":
        return IDLE
    loading = cast("tuple[Value, ...]", op["loading"])
    return Seen(
        stage=str(op["stage"]),
        mode=str(op["mode"]),
        under=cast("int", op["under"]),
        at=cast("int", op["at"]),
        known=_known(op["known"]),
        loading=(_name(loading[0]), cast("int", loading[1]), cast("int", loading[2])) if loading else None,
        saw_waiter=bool(op["sawWaiter"]),
        released=bool(op["released"]),
    )


def _heard(told: Value) -> tuple[tuple[int, bool], ...]:
    return tuple((cast("int", entry["version"]), bool(entry["lagged"])) for entry in cast("tuple[Function, ...]", told))


def _function(value: Value) -> Function:
    return cast("Function", value)


def _of(functions: object, argument: Value) -> Function:
    return cast("Function", cast("Function", functions)[argument])


def _stage(guard: Value) -> str:
    return str(cast("Function", guard)["stage"])


def _changed(before: Value, after: Value) -> list[Value]:
    was, now = _function(before), _function(after)
    # Not "!=": between two of rpds's maps that is wrong as soon as one entry is the same.
    return [argument for argument in was if not was[argument] == now[argument]]  # noqa: SIM201


def _known(records: object) -> dict[str, int]:
    return {_name(record): value for record, value in cast("Function", records).items() if isinstance(value, int)}


def _names(function: Function) -> frozenset[str]:
    return frozenset(map(_name, function))


def _name(value: Value) -> str:
    return value.name if isinstance(value, ModelValue) else str(value)
