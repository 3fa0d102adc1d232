"""Read the states of the models of the lock and the store, as the replay needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

from checking.replay.observation import IDLE, Observation, ObservedOperation
from checking.tlc.values import ModelValue, State, Value

Function = Mapping[Value, Value]

HOME = {"o1": "p1", "o2": "p1", "o3": "p2"}
"""The process of each operation: ``TwoAndOne`` of the module MCCryptoStoreCache."""

OPERATION_OF = {"p1": "o1", "p2": "o3"}
"""The only operation of each process of ``LeaseLock``."""


class Constants(NamedTuple):
    """The constants of a model: the operations and their processes, the records, the processes with subscribers."""

    home: dict[str, str]
    records: tuple[str, ...]
    subscribers: frozenset[str]


def constants_of(states: Sequence[State]) -> Constants:
    """Return the constants of a model, as its states show them."""
    if "history" not in states[0]:  # the lock alone: one operation for each process, and one record to write
        return Constants({operation: process for process, operation in OPERATION_OF.items()}, ("r1",), frozenset())
    home = {name_of(operation): HOME[name_of(operation)] for operation in function_of(states[0]["op"])}
    records = tuple(sorted(map(name_of, cast("tuple[Function, ...]", states[0]["history"])[0])))
    subscribers = {name_of(p) for state in states for p, told in function_of(state["heard"]).items() if told}
    return Constants(home, records, frozenset(subscribers))


def waiting_in(state: State) -> set[str]:
    """Return the processes that wait for the lease, in a state of ``LeaseLock``."""
    return {name_of(p) for p, op in function_of(state["op"]).items() if op == "waiting"}


def prompt_in(state: State) -> frozenset[str]:
    """Return the processes that renew in time, in a state of ``LeaseLock``; none in other models."""
    if "prompt" not in state:
        return frozenset()
    return frozenset(name_of(p) for p, prompt in function_of(state["prompt"]).items() if prompt)


def expected(state: State) -> Observation:
    """Return what must be observed if the model is in ``state``."""
    lease = entry(state, "lease")
    history = cast("tuple[Function, ...]", state["history"])
    floor = cast("int", state["floor"])
    commits = cast("tuple[Function, ...]", state["commits"])
    return Observation(
        lease=(
            cast("int", lease["epoch"]),
            name_of(lease["holder"]),
            cast("int", lease["left"]) > 0,
            bool(lease["wanted"]),
        ),
        version=len(commits),
        floor=floor,
        records=known_records(history[-1]),
        log={version: names_of(commit) for version, commit in enumerate(commits, 1) if version > floor},
        guards={
            name_of(p): (stage_of(guard), cast("int", cast("Function", guard)["epoch"]))
            for p, guard in function_of(state["guard"]).items()
        },
        caches={
            name_of(p): (
                cast("int", cast("Function", cache)["version"]),
                known_records(cast("Function", cache)["records"]),
            )
            for p, cache in function_of(state["cache"]).items()
        },
        heard={name_of(p): _heard(told) for p, told in function_of(state["heard"]).items()},
        operations={name_of(o): _operation(cast("Function", op)) for o, op in function_of(state["op"]).items()},
    )


def _operation(op: Function) -> ObservedOperation:
    if op["stage"] == "idle":
        return IDLE
    loading = cast("tuple[Value, ...]", op["loading"])
    return ObservedOperation(
        stage=str(op["stage"]),
        mode=str(op["mode"]),
        under=cast("int", op["under"]),
        at=cast("int", op["at"]),
        known=known_records(op["known"]),
        loading=(name_of(loading[0]), cast("int", loading[1]), cast("int", loading[2])) if loading else None,
        saw_waiter=bool(op["sawWaiter"]),
        released=bool(op["released"]),
    )


def _heard(told: Value) -> tuple[tuple[int, bool], ...]:
    return tuple((cast("int", news["version"]), bool(news["lagged"])) for news in cast("tuple[Function, ...]", told))


def function_of(value: Value) -> Function:
    """Return a value, which must be a function."""
    return cast("Function", value)


def entry(functions: object, argument: Value) -> Function:
    """Return the value of a function for an argument. The value must be a function too."""
    return cast("Function", cast("Function", functions)[argument])


def stage_of(guard: Value) -> str:
    """Return the stage of a guard."""
    return str(cast("Function", guard)["stage"])


def changed_arguments(before: Value, after: Value) -> list[Value]:
    """Return the arguments for which a function changed."""
    was, now = function_of(before), function_of(after)
    # Not "!=": it is wrong for two of rpds's maps that have an equal entry.
    return [argument for argument in was if not was[argument] == now[argument]]  # noqa: SIM201


def known_records(records: object) -> dict[str, int]:
    """Return the records that are not ``Missing``, with their values."""
    return {name_of(record): value for record, value in cast("Function", records).items() if isinstance(value, int)}


def names_of(function: Function) -> frozenset[str]:
    """Return the names of a function's arguments."""
    return frozenset(map(name_of, function))


def name_of(value: Value) -> str:
    """Return the name of a model value."""
    return value.name if isinstance(value, ModelValue) else str(value)
