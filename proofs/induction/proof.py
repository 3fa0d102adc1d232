"""Prove the obligations of an induction over all behaviours, and find a counterexample for each broken rule.

Run `python -m proofs induction`. Each obligation is one question: can the premises hold without the conclusion? z3 and
cvc5 must both answer "unsat". If either answers "sat" or "unknown", the obligation fails, and is named.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

from proofs.encoding.faults import FAULTS
from proofs.encoding.invariant import GUARANTEES, INVARIANT, STEP_PROPERTIES, Conjunct, is_commit, spelled
from proofs.encoding.model import IDLE, LOADING, NONE, NOT_SUBSCRIBED, VALIDATED, VIEW, Action, Model, State
from proofs.encoding.terms import (
    NUMBER,
    Answer,
    Of,
    Term,
    Universe,
    eq,
    implies,
    ne,
    no,
    number,
    satisfiable,
    small,
    unbounded,
    written,
)
from proofs.induction import second_solver
from proofs.report import Examined, Failure, Say


@dataclass(frozen=True, slots=True)
class Obligation:
    """One obligation: formulas that must not all hold at the same time."""

    group: str
    name: str
    action: Action | None
    formulas: Callable[[], list[Term]]


def obligations(model: Model, invariant: Sequence[Conjunct] = INVARIANT) -> Iterator[Obligation]:
    """Yield the obligations of the induction and of its consequences."""
    state = model.state
    known = [*model.assumptions, *(conjunct(model, state) for conjunct in invariant)]

    def initially(goal: Conjunct) -> list[Term]:
        return [*model.assumptions, no(goal(model, model.initial()))]

    def implied(goal: Conjunct) -> list[Term]:
        return [*known, no(goal(model, state))]

    def preserved(goal: Conjunct, action: Action) -> list[Term]:
        return [*known, action.enabled, no(goal(model, action.after))]

    def had(goal: Callable[[Model, Action], Term], action: Action) -> list[Term]:
        return [*known, action.enabled, no(goal(model, action))]

    for goal in invariant:
        yield Obligation("Init", f"Init has {spelled(goal)}", None, partial(initially, goal))
    for action in model.actions():
        for goal in invariant:
            name = f"{action.name} preserves {spelled(goal)}"
            yield Obligation(action.name, name, action, partial(preserved, goal, action))
        for step in STEP_PROPERTIES:
            name = f"{action.name} has {spelled(step)}"
            yield Obligation(action.name, name, action, partial(had, step, action))
    for goal in GUARANTEES:
        name = f"the invariant implies {spelled(goal)}"
        yield Obligation("guarantees", name, None, partial(implied, goal))


def answered(formulas: Sequence[Term], examined: Examined, wishes: Iterable[Term] = ()) -> Answer:
    """Ask both solvers. If they disagree, the verdict names both answers."""
    first = satisfiable(formulas, wishes)
    other = second_solver.verdict(written(formulas))
    examined += Examined({f"what z3 calls {first.verdict}": 1, f"what cvc5 calls {other}": 1})
    return first if first.verdict == other else replace(first, verdict=f"z3 says {first.verdict}, cvc5 says {other}")


def shown(todo: Iterator[Obligation], say: Say, examined: Examined) -> list[Failure]:
    """Check each obligation. Print one line for each group. Return the failures."""
    failures: list[Failure] = []
    for group, members in groupby(todo, lambda obligation: obligation.group):
        began, count, failed = time.monotonic(), 0, len(failures)
        for obligation in members:
            count += 1
            verdict = answered(obligation.formulas(), examined).verdict
            if verdict != "unsat":
                failures.append(Failure(obligation.name, verdict))
        result = "proved" if len(failures) == failed else "FAILED"
        say(f"{group:<12} {count:>3} {result}  {time.monotonic() - began:5.1f} s")
        for failure in failures[failed:]:
            say(f"    {failure.name}: {failure.verdict}")
    return failures


def impossible_actions(universe: Universe, examined: Examined) -> list[Failure]:
    """Return the actions that are impossible in every state of the invariant.

    Every claim about these would be vacuous.
    """
    model = Model(universe)
    known = [*model.assumptions, *(conjunct(model, model.state) for conjunct in INVARIANT)]
    verdicts = ((action, answered([*known, action.enabled], examined).verdict) for action in model.actions())
    return [Failure(f"{action.name} is possible", verdict) for action, verdict in verdicts if verdict != "sat"]


# Counterexamples to induction, in the small universe.


def counterexample(
    fault: str, name: str, examined: Examined, invariant: Sequence[Conjunct] = INVARIANT
) -> list[str] | None:
    """A state that satisfies the invariant and a step from it that breaks the obligation, as lines to read.

    None where one of the solvers does not say that there is any.
    """
    model = Model(small(), fault)
    obligation = next((each for each in obligations(model, invariant) if each.name == name), None)
    if obligation is None:
        return None
    answer = answered(obligation.formulas(), examined, _simplicity(model))
    return _counterexample_lines(model, obligation.action, answer) if answer.verdict == "sat" else None


def _simplicity(model: Model) -> Iterator[Term]:
    """Return wishes that make a state easier to read, the most important first. They are satisfied if possible."""
    universe, s = model.universe, model.state
    processes, operations, records = universe.all_of(universe.process), universe.operations, universe.records
    yield s.version <= 1
    yield s.epoch <= 2
    yield ne(s.holder, universe.departed)
    yield universe.each(
        NUMBER, lambda v: implies(is_commit(s, v), universe.some(universe.record, lambda r: s.wrote(v, r)))
    )
    yield universe.each(universe.process, lambda p: eq(s.heard(p), NOT_SUBSCRIBED))
    yield eq(model.lease_time, 1)
    yield eq(s.left, 1)
    yield from (eq(s.stage(o), IDLE) for o in reversed(operations))
    yield from (eq(s.guard_stage(p), NONE) for p in reversed(processes))
    yield from (no(s.cached(p, r)) for p in reversed(processes) for r in reversed(records))
    yield from (no(s.knows(o, r)) for o in reversed(operations) for r in reversed(records))
    yield from (eq(s.cache_version(p), 0) for p in reversed(processes))
    yield eq(s.floor, 0)


def _counterexample_lines(model: Model, action: Action | None, answer: Answer) -> list[str]:
    """Return the parts that a step changes, and the parts that differ from the initial state."""
    show = partial(_shown, answer.evaluate)
    initial = _described(model, model.initial(), show)
    if action is None:
        return [f"{part}: {text}" for part, text in initial.items()]
    before = _described(model, model.state, show)
    after = _described(model, action.after, show)
    lines = [f"{action.name}({', '.join(show(parameter) for parameter in action.parameters)})"]
    for part, old in before.items():
        if old != after[part]:
            lines += [f"  {part}: {old}", f"    -> {after[part]}"]
        elif old != initial[part]:
            lines.append(f"  {part}: {old}")
    return lines


def _shown(evaluate: Of, term: Term) -> str:
    return str(evaluate(term))


def _described(model: Model, s: State, show: Callable[[Term], str]) -> dict[str, str]:
    """Describe a state, part by part."""
    processes, operations, records = model.universe.processes, model.universe.operations, model.universe.records

    def holds(term: Term) -> bool:
        return show(term) == "True"

    def some(has: Of, value: Of) -> str:
        return "{" + ", ".join(f"{show(r)} {show(value(r))}" for r in records if holds(has(r))) + "}"

    def operation(o: Term) -> str:
        known = some(partial(s.knows, o), partial(s.known, o))
        knows = f"knows {known}"
        if holds(eq(s.stage(o), IDLE)):
            return "idle" if known == "{}" else f"idle, {knows}"
        words = [f"{show(s.mode(o))} of {show(model.home(o))}", show(s.stage(o)), f"epoch {show(s.under(o))}"]
        if holds(eq(s.stage(o), LOADING)):
            words[1] += f" {show(s.load_record(o))} {show(s.load_value(o))} of version {show(s.load_version(o))}"
        if not holds(eq(s.stage(o), VALIDATED)):
            words.append(f"version {show(s.at(o))}")
            if holds(eq(s.mode(o), VIEW)):
                words.append(f"called at {show(s.begun(o))}")
        return ", ".join([*words, knows])

    versions = [number(version) for version in range(int(show(s.version)) + 1)]
    values = "; ".join(" ".join([show(r), *(show(s.value(r, v)) for v in versions)]) for r in records)
    parts = {
        "lease": f"epoch {show(s.epoch)}, holder {show(s.holder)}{'' if holds(s.left > 0) else ', expired'}",
        "store": f"version {show(s.version)}, values by version: {values}",
        "log": f"complete after version {show(s.floor)}",
    }
    for p in processes:
        known = some(partial(s.cached, p), partial(s.cache_value, p))
        guard = f"guard {show(s.guard_stage(p))}, epoch {show(s.guard_epoch(p))}"
        parts[show(p)] = f"{guard}; cache of version {show(s.cache_version(p))}, {known}"
    return parts | {show(o): operation(o) for o in operations}


def find_faults(say: Say, examined: Examined) -> list[Failure]:
    """Check that each broken rule has a counterexample at the obligation that `FAULTS` names."""
    failures: list[Failure] = []
    for fault, name in FAULTS.items():
        began = time.monotonic()
        lines = counterexample(fault, name, examined)
        took = time.monotonic() - began
        if lines is None:
            failures.append(Failure(f"{fault}: {name}", "no counterexample"))
            say(f"{fault}: NOT FOUND at: {name}")
            continue
        say(f"{fault}: not so that {name}  {took:.1f} s")
        for line in lines:
            say(f"    {line}")
    return failures


def prove(say: Say, examined: Examined) -> list[Failure]:
    """Prove all obligations, and find every fault."""
    began = time.monotonic()
    say("Any number of processes, operations, records and versions, for z3 and for cvc5:")
    failures = shown(obligations(Model(unbounded())), say, examined)
    for failure in failures:
        for line in counterexample("none", failure.name, Examined()) or ["(no counterexample in the small universe)"]:
            say(f"    {line}")
    impossible = impossible_actions(small(), examined)
    say(f"Each action is possible where the invariant holds: {'NO' if impossible else 'yes'}")
    say("One rule broken, and a counterexample to induction:")
    failures += impossible + find_faults(say, examined)
    took = time.monotonic() - began
    say(f"{'; '.join(f'{count} {what}' for what, count in examined.items())}; {took:.0f} s")
    return failures
