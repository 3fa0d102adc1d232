"""The comparison of the code with TLC's graphs notices a fault on either side.

`python -m proofs agreement` runs the whole comparison.
"""

from __future__ import annotations

import pkgutil
import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ParamSpec

import pytest

from checking.errors import CheckError
from checking.models.manifest import Manifest, read_manifest
from checking.tlc.graph import Graph
from proofs import tlc
from proofs.agreement import actions, functions
from proofs.agreement.actions import ACTIONS, Explored, compare, explored
from proofs.agreement.proof import actions_agree, functions_agree, tally
from proofs.report import Examined, Failure, Say
from proofs.tlc import FUNCTIONS, constants, graph_of
from tests.proofs.broken import BROKEN, Broken

P = ParamSpec("P")

MODELS = Path(__file__).parents[2] / "tla" / "models"


@pytest.fixture(scope="session")
def tables() -> Graph:
    return graph_of(read_manifest(MODELS / "manifest.toml"), FUNCTIONS)[0]


@pytest.fixture(scope="session")
def models() -> tuple[Explored, ...]:
    manifest = read_manifest(MODELS / "manifest.toml")
    return tuple(explored(graph_of(manifest, name)[0], MODELS / f"{name}.cfg") for name in actions.MODELS)


def of_function(tables: Graph, function: str) -> Graph:
    """Only the tables of one function."""
    names = {table for table, (twin, _) in functions.TABLES.items() if twin == function}
    initial = tuple(number for number in tables.initial if tables.states[number]["function"] in names)
    return Graph(tables.states, initial, tables.edges)


def silent(_: str) -> None:
    pass


@pytest.mark.parametrize("function", sorted(functions.public_functions()))
def test_a_function_agrees(tables: Graph, function: str) -> None:
    lease_time = constants(MODELS / "Functions.cfg")["LeaseTime"]
    assert tally([], functions.compare(of_function(tables, function), lease_time), silent, Examined()) == []


@pytest.mark.parametrize("broken", BROKEN, ids=str)
def test_a_broken_function_differs_from_its_table(
    tables: Graph, broken: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"unwedged.protocol.{broken.function}", broken.stand_in)
    lease_time = constants(MODELS / "Functions.cfg")["LeaseTime"]
    failures = tally([], functions.compare(of_function(tables, broken.function), lease_time), silent, Examined())
    assert {failure.name.partition(",")[0] for failure in failures} == {broken.function}


def test_every_function_is_broken_once() -> None:
    assert {broken.function for broken in BROKEN} == functions.public_functions()


@pytest.mark.parametrize("broken", [broken for broken in BROKEN if broken.actions], ids=str)
def test_a_broken_function_differs_in_its_actions(
    models: tuple[Explored, ...], broken: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"unwedged.protocol.{broken.function}", broken.stand_in)
    few = (replace(model, states=model.states[::5]) for model in models)
    differing = (name for model in few for name, difference in compare(model) if difference is not None)
    assert next(differing, None) in broken.actions


def test_actions_are_decided_by_the_functions_that_the_table_names(
    models: tuple[Explored, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    deciding: defaultdict[str, set[str]] = defaultdict(set)
    now: list[str] = []

    def watched(name: str, function: Callable[P, object]) -> Callable[P, object]:
        def call(*arguments: P.args, **named: P.kwargs) -> object:
            deciding[now[0]].add(name)
            now.insert(0, "")  # what a function calls is its own business
            try:
                return function(*arguments, **named)
            finally:
                now.pop(0)

        return call

    for name in functions.public_functions():
        path = f"unwedged.protocol.{name}"
        monkeypatch.setattr(path, watched(name, pkgutil.resolve_name(path)))
    for model in models:
        for state in model.states[::20]:
            for action, (leads, _) in ACTIONS.items():
                now[:] = [action]
                list(leads(model.instance, state))
    del deciding[""]
    assert deciding == {action: set(names) for action, (_, names) in ACTIONS.items() if names}


# What breaks in the specification


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the specifications, with small bounds."""
    shutil.copytree(MODELS.parent, tmp_path / "tla")
    folder = tmp_path / "tla" / "models"
    change(folder / "Functions.cfg", "MaxEpoch = 4", "MaxEpoch = 2")
    change(folder / "Functions.cfg", "MaxKnown = 3", "MaxKnown = 2")
    change(folder / "Agreement.cfg", "{o1, o2, o3}", "{o2, o3}")
    change(folder / "Agreement.cfg", "Subscribers = {p1}", "Subscribers = {}")
    monkeypatch.setattr(actions, "MODELS", ["Agreement"])
    return folder


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")


def differing(agree: Callable[[Manifest, Say, Examined], list[Failure]], folder: Path) -> set[str]:
    failures = agree(read_manifest(folder / "manifest.toml"), silent, Examined())
    return {failure.name for failure in failures if "differ" in failure.verdict}


TABLES_OF_A_FAULT = {
    "clock-jump": {"lease.takeable", "lease.acquire"},
    "waiter-ignored": {"guard.waiter_noted", "lease.commit"},
    "session-cache-survives": {"cache.sync", "cache.reaches"},
    "first-acquire-is-clean": {"cache.sync", "cache.reaches"},
    "generation-in-machine": {"cache.sync", "cache.empty"},
    "floor-ignored-at-sync": {"cache.sync", "cache.reaches"},
    "floor-ignored-in-stream": {"stream.news"},
    "partial-list": {"cache.fill", "cache.install"},
    "late-version": {"cache.install"},
}


@pytest.mark.parametrize(("fault", "names"), TABLES_OF_A_FAULT.items())
def test_a_fault_of_the_specification_is_in_its_tables(copy: Path, fault: str, names: set[str]) -> None:
    change(copy / "Functions.cfg", '"none"', f'"{fault}"')
    assert differing(functions_agree, copy) == names


BROKEN_DEFINITIONS = {
    "lease.takeable lease.acquire": ("    \\/ row.left = 0\n", ""),
    "lease.acquire": ("left |-> LeaseTime, wanted |-> FALSE]\n\nWanted", "left |-> 1, wanted |-> FALSE]\n\nWanted"),
    "lease.want": ("[row EXCEPT !.wanted = TRUE]", "[row EXCEPT !.wanted = TRUE, !.left = 0]"),
    "lease.fence lease.renew lease.release lease.commit": (
        "row.holder # Nobody /\\ row.epoch = epoch",
        "row.epoch = epoch",
    ),
    "lease.renew lease.commit": (
        "[row EXCEPT !.left = LeaseTime]",
        "[row EXCEPT !.wanted = FALSE, !.left = LeaseTime]",
    ),
    "lease.release lease.commit": ("!.holder = Nobody, !.left", "!.holder = Nobody, !.wanted = FALSE, !.left"),
    "lease.commit": ("row.wanted /\\ mayRelease /\\ ~Broken", "row.wanted /\\ ~Broken"),
    "guard.taken": ('Taken(epoch) == [stage |-> "syncing"', 'Taken(epoch) == [stage |-> "held"'),
    "guard.synced": ('!.stage = "held"]', '!.stage = "draining"]'),
    "guard.waiter_noted": ('wanted /\\ guarding.stage = "held"', 'wanted /\\ guarding.stage # "none"'),
    "guard.overdue": ('IF guarding.stage = "draining" THEN', 'IF guarding.stage = "held" THEN'),
    "guard.lost": ("IF guarding.epoch = epoch THEN", "IF guarding.epoch <= epoch THEN"),
    "guard.admits": ('Admits(guarding) == guarding.stage = "held"', 'Admits(guarding) == guarding.stage # "none"'),
    "guard.stands": ("    guarding.epoch = epoch /\\ guarding", "    guarding"),
}


@pytest.mark.parametrize(("names", "lines"), BROKEN_DEFINITIONS.items())
def test_a_broken_definition_is_in_its_tables(copy: Path, names: str, lines: tuple[str, str]) -> None:
    change(copy / "MCFunctions.tla", "OfLease \\/ OfGuard \\/ OfCache \\/ OfStream", "OfLease \\/ OfGuard")
    change(copy.parent / "Lease.tla", *lines)
    assert differing(functions_agree, copy) == set(names.split())


def test_the_table_of_a_commit_says_whether_it_may_release(copy: Path) -> None:
    change(copy / "MCFunctions.tla", "OfLease \\/ OfGuard \\/ OfCache \\/ OfStream", "OfLease \\/ OfGuard")
    only_one = "mayRelease == WorkingUnder(p, op[o].under) = {o}"
    change(copy.parent / "CryptoStoreCache.tla", only_one, "mayRelease == TRUE")
    assert differing(functions_agree, copy) == {"lease.commit"}


ACTIONS_OF_A_FAULT = {
    "reload-race": {"Acquire", "Begin", "Fill", "Finish"},
    "unfenced-load": {"Load"},
    "unvalidated-view": {"Validate"},
    "lease-lapses-unfenced": {"Commit"},
    "cancelled-commit": {"ForgetCommit"},
    "reload-failure-swallowed": {"SyncFails"},
    "stale-account-overwrite": {"Lose"},
}


@pytest.mark.parametrize(("fault", "names"), ACTIONS_OF_A_FAULT.items())
def test_a_fault_of_the_specification_is_in_its_actions(copy: Path, fault: str, names: set[str]) -> None:
    change(copy / "Agreement.cfg", '"none"', f'"{fault}"')
    assert differing(actions_agree, copy) == names


def test_a_failure_that_nobody_has_confirmed_is_in_its_action(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(copy / "InstanceOfChoices.cfg", '"none"', '"stale-failure-believed"')
    monkeypatch.setattr(actions, "MODELS", ["InstanceOfChoices"])
    assert differing(actions_agree, copy) == {"Fail"}


# What is not compared has not agreed


def test_a_graph_that_says_nothing_fails() -> None:
    empty = Graph((), (), ())
    failures = tally(["lease.fence"], functions.compare(empty, 1), silent, Examined())
    assert failures == [Failure("lease.fence", "nothing was compared")]


def test_an_input_without_an_output_fails(tables: Graph) -> None:
    with pytest.raises(CheckError, match="no output"):
        list(functions.compare(Graph(tables.states, tables.initial, tables.edges[1:]), 1))


def test_a_model_that_is_not_as_expected_fails(copy: Path) -> None:
    manifest = read_manifest(copy / "manifest.toml")
    failures = functions_agree(manifest, silent, Examined())
    assert {failure.name for failure in failures} == {FUNCTIONS}
    expected = manifest.model(FUNCTIONS).distinct_states
    assert failures[0].verdict.startswith(f"distinct states: expected {expected}, got ")


def test_a_graph_that_ends_early_fails(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tlc, "read_graph", lambda _: Graph((), (), ()))
    with pytest.raises(CheckError, match="0 are in its graph"):
        functions_agree(read_manifest(copy / "manifest.toml"), silent, Examined())


def test_a_function_that_is_nowhere_fails(monkeypatch: pytest.MonkeyPatch, copy: Path) -> None:
    monkeypatch.setattr(functions, "public_functions", lambda: frozenset({"lease.seize"}))
    failures = functions_agree(read_manifest(copy / "manifest.toml"), silent, Examined())
    assert Failure("lease.seize", "no table has its inputs") in failures
