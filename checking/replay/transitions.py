"""Find out which step a transition of a model is, and in which ways the implementation can take it.

TLC's label names the action, and its parameters follow from the two states. A newer TLC also writes the parameters into
the label. Then these are used, and they must be possible by the states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar, cast

from checking.errors import CheckError
from checking.replay.model_states import (
    HOME,
    OPERATION_OF,
    Function,
    changed_arguments,
    entry,
    function_of,
    known_records,
    name_of,
    names_of,
    stage_of,
    waiting_in,
)
from checking.replay.observation import NOBODY
from checking.tlc.values import Label, ModelValue, State, Value


@dataclass(frozen=True, slots=True)
class Step:
    """An action with the parameters that it has."""

    action: str
    process: str = ""
    operation: str = ""
    mode: str = ""
    records: frozenset[str] = frozenset()
    released: bool = False
    """Whether a sync that fails releases the lease."""
    way: str = ""
    """How the implementation takes the step, if it can do so in several ways."""

    @property
    def parameters(self) -> tuple[Value, ...]:
        """The parameters as TLC values."""
        names = [ModelValue(name) for name in (self.process, self.operation) if name]
        records = frozenset(map(ModelValue, self.records))
        if self.action == "Commit":
            return (*names, records)
        return (*names, *([self.mode] if self.mode else []), *records)

    def __str__(self) -> str:
        return f"{Label(self.action, self.parameters)}{' by ' if self.way else ''}{self.way}"


_OPERATION_ACTIONS = {"Begin", "Load", "Fill", "Commit", "Validate", "Fail", "Finish", "Lose", "Outdated", "Abort"} | {
    "ForgetCommit"
}
_ENVIRONMENT_ACTIONS = {"Expire", "Truncate"}


def step_between(label: Label, before: State, after: State) -> Step:
    """Return the step of ``CryptoStoreCache`` between two states; one of them if there are several.

    Raises ``CheckError`` if no step fits.
    """
    return chosen(label, _steps_between(label.action, before, after))


class Parametrised(Protocol):
    """A candidate for the step of a transition."""

    @property
    def parameters(self) -> tuple[Value, ...]:
        """The parameters of its action as TLC values."""


Candidate = TypeVar("Candidate", bound=Parametrised)


def chosen(label: Label, possible: Sequence[Candidate]) -> Candidate:
    """Return the candidate with the label's parameters, or the first one if the label has none.

    Raises ``CheckError`` if no candidate has them.
    """
    if not label.parameters:
        return possible[0]
    for step in possible:
        if step.parameters == label.parameters:
            return step
    raise CheckError(f"TLC labels a step {label}, but by its states it is {' or '.join(map(str, possible))}")


def _steps_between(action: str, before: State, after: State) -> list[Step]:
    if action in _ENVIRONMENT_ACTIONS:
        return [Step(action)]
    if action in _OPERATION_ACTIONS:
        (operation,) = changed_arguments(before["op"], after["op"])
        was, now = entry(before["op"], operation), entry(after["op"], operation)
        step = Step(action, operation=name_of(operation))
        match action:
            case "Begin":
                return [replace(step, mode=str(now["mode"]))]
            case "Load":
                loading = name_of(cast("tuple[Value, ...]", now["loading"])[0])
                return [replace(step, records=frozenset({loading}))]
            case "Commit":
                return [replace(step, records=names_of(cast("tuple[Function, ...]", after["commits"])[-1]))]
            case "Outdated":
                return [replace(step, records=frozenset({record})) for record in _outdated(before, was)]
        return [step]
    step = Step(action, released=_released(before, after))
    if action == "Forget":
        (process,) = changed_arguments(before["cache"], after["cache"])
        (record,) = changed_arguments(*(entry(state["cache"], process)["records"] for state in (before, after)))
        return [replace(step, process=name_of(process), records=frozenset({name_of(record)}))]
    return [replace(step, process=process) for process in _processes(action, before, after)]


def _released(before: State, after: State) -> bool:
    nobody = ModelValue(NOBODY)
    return entry(before, "lease")["holder"] != nobody and entry(after, "lease")["holder"] == nobody


def ways(step: Step, before: State) -> tuple[str, ...]:
    """Return the ways in which the implementation can take one step of the model. The replay takes each of them."""
    if step.action == "LoseGuard":
        guard = entry(before["guard"], ModelValue(step.process))
        return ("sync", "renewal") if guard["stage"] == "syncing" else ("renewal",)
    if not step.operation:
        return ("",)
    op = entry(before["op"], ModelValue(step.operation))
    known = known_records(op["known"])
    reads = op["stage"] == "running" and known
    writes = reads and op["mode"] == "transaction"
    match step.action:
        case "Lose":
            missing = len(known) < len(function_of(op["known"]))
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
"""All ways of steps that can be taken in several ways."""


def _processes(action: str, before: State, after: State) -> list[str]:
    """Return the processes that may have taken the step. Raises ``CheckError`` for an unknown action."""
    if action == "Want":
        row = cast("Function", before["lease"])
        return sorted(
            name_of(p)
            for p, guard in function_of(before["guard"]).items()
            if stage_of(guard) == "none" and p != row["holder"]
        )
    if action == "Release":
        return [name_of(entry(before, "lease")["holder"])]
    for variable in ("guard", "heard", "cache"):
        if variable in before and (changed := changed_arguments(before[variable], after[variable])):
            return sorted(map(name_of, changed))
    if action == "Crash":
        return [HOME[name_of(changed_arguments(before["op"], after["op"])[0])]]
    if action == "Renew":
        epoch = entry(before, "lease")["epoch"]
        guards = function_of(before["guard"])
        return [name_of(p) for p in guards if entry(guards, p)["epoch"] == epoch and stage_of(guards[p]) != "none"]
    raise CheckError(f"the states of a step {action} do not show which process takes it")


def _outdated(before: State, operation: Function) -> list[str]:
    """Return the records that can no longer be loaded: those that changed, or all if the log was truncated."""
    at = cast("int", operation["at"])
    commits = cast("tuple[Function, ...]", before["commits"])
    later = names_of(function_of(operation["known"]))
    if cast("int", before["floor"]) <= at:
        later = frozenset[str]().union(*(names_of(commit) for commit in commits[at:]))
    return sorted(later - known_records(operation["known"]).keys())


def lock_step_between(label: Label, before: State, after: State) -> Step:
    """Return the step of ``LeaseLock`` between two states, as a step of a store."""
    step = chosen(label, _lock_steps_between(label.action, before, after))
    if label.action == "ClockJump":
        back = cast("int", entry(after, "lease")["left"]) > 0
        return Step("JumpBack" if back else "Expire")
    if not step.process or label.action == "Want":
        return step
    action = STORE_ACTIONS.get(label.action, label.action)
    return replace(step, action=action, operation=OPERATION_OF[step.process], mode="transaction")


def _lock_steps_between(action: str, before: State, after: State) -> list[Step]:
    if action in _ENVIRONMENT_ACTIONS or action == "ClockJump":
        return [Step(action)]
    if action == "Want":
        holder = name_of(entry(before, "lease")["holder"])
        return [Step(action, process=process) for process in sorted(waiting_in(before) - {holder})]
    changed = [
        p for variable in ("guard", "op", "synced") for p in changed_arguments(before[variable], after[variable])
    ]
    processes = [name_of(changed[0])] if changed else _processes(action, before, after)
    return [Step(action, process=process, released=_released(before, after)) for process in processes]


STORE_ACTIONS = {"End": "Abort", "Lose": "LoseAll"}
"""The names in ``CryptoStoreCache`` of the actions of ``LeaseLock`` that have other names there."""
