"""A few obligations of the induction hold, and the proof notices broken rules.

`python -m proofs induction` proves all obligations.
"""

from collections.abc import Iterator

import pytest

from proofs.encoding import terms
from proofs.encoding.faults import FAULTS
from proofs.encoding.invariant import (
    INVARIANT,
    Conjunct,
    fenced_cache_is_current,
    one_transaction_at_a_time,
    released_the_lease,
    spelled,
)
from proofs.encoding.model import Model, State
from proofs.encoding.terms import Answer, Term, eq, no, small, unbounded
from proofs.induction import proof as induction
from proofs.induction import second_solver
from proofs.induction.proof import Obligation, counterexample, impossible_actions, obligations, shown
from proofs.report import Examined, Failure


def some(model: Model, *groups: str) -> Iterator[Obligation]:
    return (obligation for obligation in obligations(model) if obligation.group in groups)


def test_obligations_hold_for_any_number_of_processes_and_records() -> None:
    lines: list[str] = []
    assert (
        shown(
            some(Model(unbounded()), "Init", "Acquire", "Sync", "Commit", "Finish", "guarantees"),
            lines.append,
            Examined(),
        )
        == []
    )
    assert [line.split()[0] for line in lines] == ["Init", "Acquire", "Sync", "Commit", "Finish", "guarantees"]
    assert all("proved" in line for line in lines)


def test_every_action_has_its_obligations() -> None:
    model = Model(unbounded())
    names = [obligation.name for obligation in obligations(model)]
    assert len(names) == len(set(names))
    for action in model.actions():
        for conjunct in INVARIANT:
            assert f"{action.name} preserves {spelled(conjunct)}" in names
        assert f"{action.name} has RefinesAtomicStore" in names


def test_every_action_is_possible() -> None:
    assert impossible_actions(small(), Examined()) == []


def test_a_conjunct_that_is_too_strong_is_noticed() -> None:
    def cache_is_always_current(m: Model, s: State) -> Term:
        return m.universe.each(m.universe.process, lambda p: eq(s.cache_version(p), s.version))

    lines: list[str] = []
    todo = obligations(Model(small()), [*INVARIANT, cache_is_always_current])
    failures = shown((each for each in todo if each.group in {"Init", "Commit"}), lines.append, Examined())
    assert [failure.name for failure in failures] == ["Commit preserves CacheIsAlwaysCurrent"]
    assert "    Commit preserves CacheIsAlwaysCurrent: sat" in lines


def test_a_commit_that_releases_the_lease_is_possible() -> None:
    def nobody_released_the_lease(m: Model, s: State) -> Term:
        return m.universe.each(m.universe.operation, lambda o: no(s.released(o)))

    todo = obligations(Model(small()), [*INVARIANT, nobody_released_the_lease])
    failures = shown(todo, lambda _line: None, Examined())
    assert failures == [Failure("Commit preserves NobodyReleasedTheLease", "sat")]


@pytest.mark.parametrize("missing", [one_transaction_at_a_time, fenced_cache_is_current, released_the_lease])
def test_a_conjunct_that_is_missing_is_noticed(missing: Conjunct) -> None:
    rest = [conjunct for conjunct in INVARIANT if conjunct is not missing]
    todo = obligations(Model(small()), rest)
    failures = shown(
        (each for each in todo if each.group in {"Begin", "Commit", "Finish"}), lambda _line: None, Examined()
    )
    assert failures
    assert counterexample("none", failures[0].name, Examined(), rest) is not None


def test_one_solver_that_does_not_know_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    todo = list(some(Model(small()), "Expire"))
    monkeypatch.setattr(induction, "satisfiable", lambda _formulas, _wishes: Answer("unknown", lambda term: term))
    failures = shown(iter(todo), lambda _line: None, Examined())
    assert failures == [Failure(each.name, "z3 says unknown, cvc5 says unsat") for each in todo]


@pytest.mark.parametrize("said", ["sat", "unknown (RESOURCEOUT)", ""])
def test_both_solvers_must_say_so(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_solver, "verdict", lambda _text: said)
    todo, examined = list(some(Model(small()), "Expire")), Examined()
    failures = shown(iter(todo), lambda _line: None, examined)
    assert failures == [Failure(each.name, f"z3 says unsat, cvc5 says {said}") for each in todo]
    assert examined == {"what z3 calls unsat": len(todo), f"what cvc5 calls {said}": len(todo)}


def test_a_counterexample_is_one_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    fault, obligation = next(iter(FAULTS.items()))
    monkeypatch.setattr(second_solver, "verdict", lambda _text: "unsat")
    assert counterexample(fault, obligation, Examined()) is None
    assert {failure.verdict for failure in impossible_actions(small(), Examined())} == {"z3 says sat, cvc5 says unsat"}


def test_both_solvers_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "STEPS", 10)
    monkeypatch.setattr(second_solver, "STEPS", 10)
    [obligation] = (each for each in obligations(Model(unbounded())) if each.name == "Commit preserves NoLostUpdate")
    [failure] = shown(iter([obligation]), lambda _line: None, Examined())
    assert failure.verdict == "z3 says unknown, cvc5 says unknown (RESOURCEOUT)"


def test_what_cvc5_can_not_read_is_no_answer() -> None:
    with pytest.raises(RuntimeError, match="not declared"):
        second_solver.verdict("(assert nonsense)")


@pytest.mark.parametrize(("fault", "obligation"), FAULTS.items())
def test_a_broken_rule_has_its_counterexample(fault: str, obligation: str) -> None:
    lines = counterexample(fault, obligation, Examined())
    assert lines is not None
    assert lines[0].startswith(obligation.split()[0])
    assert any(line.startswith("    -> ") for line in lines)
