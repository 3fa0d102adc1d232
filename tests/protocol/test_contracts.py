"""The pure functions keep their contracts in some hundred calls each, which takes seconds.

`python -m proofs contracts` confirms the contracts for all calls, which takes minutes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from types import CodeType, FunctionType
from typing import Final

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rpds import HashTrieMap

from unwedged.protocol import cache as rules
from unwedged.protocol import guard, lease, stream
from unwedged.protocol.cache import Cache, Change, ChangeLog
from unwedged.protocol.guard import Guard, Stage
from unwedged.protocol.lease import LONGEST_LEASE_MS, Lease

MODULES: Final = (rules, guard, lease, stream)
CLAUSE: Final = re.compile(r"^\s*(pre|post): (.*?)(?:  # .*)?$", re.MULTILINE)

# Few numbers, so that they are often equal; and the times at which the longest lease ends.
numbers = st.integers(0, 3)
instances = st.integers(1, 2)
ends = numbers | st.integers(LONGEST_LEASE_MS - 1, LONGEST_LEASE_MS + 4)
keys = st.sampled_from("ab")
values = st.none() | numbers
changes = st.builds(Change, numbers, keys)
ARGUMENTS: Final[dict[str, st.SearchStrategy[object]]] = {
    "cache": st.builds(Cache, numbers, st.dictionaries(keys, values).map(HashTrieMap)),
    "duration": numbers,
    "epoch": numbers,
    "floor": numbers,
    "guard": st.builds(Guard, st.sampled_from(Stage), numbers),
    "heard": numbers,
    "instance": instances,
    "key": keys,
    "keys": st.lists(keys).map(tuple),
    "lease": st.builds(Lease, numbers, st.none() | instances, ends, st.booleans()),
    "log": st.builds(
        ChangeLog,
        numbers,
        numbers,
        st.lists(changes).map(lambda some: tuple(sorted(some, key=lambda line: line.version))),
    ),
    "may_release": st.booleans(),
    "now": numbers,
    "running": st.integers(0, 2),
    "since": numbers,
    "value": values,
    "version": numbers,
    "wanted": st.booleans(),
    "writes": st.dictionaries(keys, values),
}


def functions() -> Iterator[FunctionType]:
    for module in MODULES:
        for _, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not function.__name__.startswith("x_"):
                yield function


def holds(clause: str, function: FunctionType, scope: dict[str, object]) -> bool:
    names = {**vars(import_module(function.__module__)), **scope, "implies": lambda one, other: not one or other}
    return bool(eval(compiled(clause), names))  # noqa: S307 (our own docstrings)


@cache
def compiled(clause: str) -> CodeType:
    return compile(clause, "<contract>", "eval")


@pytest.mark.parametrize(
    "function", list(functions()), ids=lambda function: f"{function.__module__}.{function.__name__}"
)
@settings(max_examples=300)
@given(data=st.data())
def test_a_function_keeps_its_contract(function: FunctionType, data: st.DataObject) -> None:
    arguments = {name: data.draw(ARGUMENTS[name], name) for name in inspect.signature(function).parameters}
    clauses = CLAUSE.findall(inspect.getdoc(function) or "")
    assert "post" in {kind for kind, _ in clauses}
    assume(all(holds(clause, function, arguments) for kind, clause in clauses if kind == "pre"))
    answer = function(**arguments)
    for kind, clause in clauses:
        assert kind == "pre" or holds(clause, function, {**arguments, "_": answer}), clause


@settings(max_examples=300)
@given(cache=ARGUMENTS["cache"], log=ARGUMENTS["log"])
def test_a_sync_drops_only_what_changed_after_the_caches_version(cache: Cache[str, int], log: ChangeLog[str]) -> None:
    # P2.5
    changed = {line.key for line in log.changes if line.version > cache.version}
    kept = set(cache.records) - changed if rules.reaches(log.floor, cache.version) else set()
    assert set(rules.sync(cache, log).records) == kept
