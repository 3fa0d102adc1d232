"""Define a typed interface to z3, whose own annotations are incomplete: terms, and the universes that they range over.

Formulas are written once, over a `Universe`. In the unbounded universe, quantifiers are z3's, over uninterpreted sorts:
any number of processes, operations and records. The small universe has a few named elements of each sort, and its
quantifiers are written out. There z3 finds readable counterexamples. Each of them is also a counterexample in the
unbounded universe.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TYPE_CHECKING

import z3  # type: ignore[import-untyped]

if TYPE_CHECKING:

    class Sort:
        """A type in the logic."""

    class Term:
        """An expression in the logic: a number, a truth value, or an element of a sort."""

        def __add__(self, other: "Term | int") -> "Term": ...
        def __sub__(self, other: "Term | int") -> "Term": ...
        def __lt__(self, other: "Term | int") -> "Term": ...
        def __le__(self, other: "Term | int") -> "Term": ...
        def __gt__(self, other: "Term | int") -> "Term": ...
        def __ge__(self, other: "Term | int") -> "Term": ...

else:
    Sort, Term = z3.SortRef, z3.ExprRef

Value = Term | int | bool
Of = Callable[[Term], Term]
Of2 = Callable[[Term, Term], Term]
Of3 = Callable[[Term, Term, Term], Term]

BOOLEAN: Sort = z3.BoolSort()
NUMBER: Sort = z3.IntSort()
STEPS = 50_000_000
"""The limit of z3's own step count for one question: some twenty seconds. It does not depend on a clock, so a proof
does not fail on a busy computer. All obligations together need a quarter of it."""

TRUE: Term = z3.BoolVal(val=True)
FALSE: Term = z3.BoolVal(val=False)


def number(value: int) -> Term:
    """Return a numeral."""
    result: Term = z3.IntVal(value)
    return result


def eq(left: Value, right: Value) -> Term:
    """Return the formula that two values are equal."""
    result: Term = left == right  # type: ignore[assignment]
    return result


def ne(left: Term, right: Value) -> Term:
    """Return the formula that two values differ."""
    return no(eq(left, right))


def every(*terms: Term) -> Term:
    """Return the conjunction."""
    result: Term = z3.And(*terms)
    return result


def either(*terms: Term) -> Term:
    """Return the disjunction."""
    result: Term = z3.Or(*terms)
    return result


def no(term: Term) -> Term:
    """Return the negation."""
    result: Term = z3.Not(term)
    return result


def implies(condition: Term, consequence: Term) -> Term:
    """Return the implication."""
    result: Term = z3.Implies(condition, consequence)
    return result


def choose(condition: Term, then: Value, otherwise: Value) -> Term:
    """Return the term that is `then` if the condition holds, else `otherwise`."""
    result: Term = z3.If(condition, then, otherwise)
    return result


def among(value: Term, *choices: Term) -> Term:
    """Return the formula that a value is one of the choices."""
    return either(*(eq(value, choice) for choice in choices))


def between(low: Term | int, value: Term, high: Term) -> Term:
    """Return the formula that a value is between two bounds, which are included."""
    return every(value >= low, value <= high)


def constant(name: str, sort: Sort) -> Term:
    """Return an uninterpreted constant."""
    result: Term = z3.Const(name, sort)
    return result


def function(name: str, parameter: Sort, result: Sort) -> Of:
    """Return an uninterpreted function."""
    made: Of = z3.Function(name, parameter, result)
    return made


def function2(name: str, first: Sort, second: Sort, result: Sort) -> Of2:
    """Return an uninterpreted function of two parameters."""
    made: Of2 = z3.Function(name, first, second, result)
    return made


def choice(name: str, *values: str) -> tuple[Sort, tuple[Term, ...]]:
    """Return an enumeration sort, and its elements."""
    sort: Sort
    elements: Sequence[Term]
    sort, elements = z3.EnumSort(name, list(values))
    return sort, tuple(elements)


def put(old: Of, key: Term, value: Value) -> Of:
    """Return the old function with another value for one argument."""
    return lambda at: choose(eq(at, key), value, old(at))


def put_row(old: Of2, key: Term, row: Of) -> Of2:
    """Return the old function of two parameters with other values for one value of the first parameter."""
    return lambda at, column: choose(eq(at, key), row(column), old(at, column))


def put_if(condition: Term, new: Of, old: Of) -> Of:
    """Return the new function if the condition holds, else the old one."""
    return lambda at: choose(condition, new(at), old(at))


@dataclass(frozen=True, slots=True)
class Universe:
    """The elements that quantifiers range over."""

    process: Sort
    operation: Sort
    record: Sort
    nobody: Term
    departed: Term
    elements: tuple[tuple[Sort, tuple[Term, ...]], ...]
    """Of a finite universe: all there is of each sort. Numbers that are quantified over are versions: none is greater
    than the last of these (`highest_version` is one less, so that there is room for a commit)."""

    @property
    def processes(self) -> tuple[Term, ...]:
        """Of a finite universe: all processes, without the two that stand for none."""
        return self.all_of(self.process)[:-2]

    @property
    def operations(self) -> tuple[Term, ...]:
        """Of a finite universe: all operations."""
        return self.all_of(self.operation)

    @property
    def records(self) -> tuple[Term, ...]:
        """Of a finite universe: all records."""
        return self.all_of(self.record)

    @property
    def highest_version(self) -> int | None:
        """Of a finite universe: the highest version before a step. Versions are 0 and up."""
        return len(self.all_of(NUMBER)) - 2 if self.elements else None

    def all_of(self, sort: Sort) -> tuple[Term, ...]:
        """Of a finite universe: all there is of a sort."""
        return next(elements for candidate, elements in self.elements if candidate is sort)

    def _instances(self, sorts: Sequence[Sort]) -> list[tuple[Term, ...]]:
        return list(product(*(self.all_of(sort) for sort in sorts)))

    def each(self, sort: Sort, body: Of) -> Term:
        """Return the formula that `body` holds for each element."""
        if self.elements:
            return every(*(body(element) for element in self.all_of(sort)))
        x = _variable(0, sort)
        return _for_all([x], body(x))

    def each2(self, first: Sort, second: Sort, body: Of2) -> Term:
        """Return the formula that `body` holds for each pair of elements."""
        if self.elements:
            return every(*(body(x, y) for x, y in self._instances([first, second])))
        x, y = _variable(0, first), _variable(1, second)
        return _for_all([x, y], body(x, y))

    def each3(self, first: Sort, second: Sort, third: Sort, body: Of3) -> Term:
        """Return the formula that `body` holds for each triple of elements."""
        if self.elements:
            return every(*(body(x, y, z) for x, y, z in self._instances([first, second, third])))
        x, y, z = _variable(0, first), _variable(1, second), _variable(2, third)
        return _for_all([x, y, z], body(x, y, z))

    def some(self, sort: Sort, body: Of) -> Term:
        """Return the formula that `body` holds for at least one element."""
        return no(self.each(sort, lambda x: no(body(x))))


def _variable(index: int, sort: Sort) -> Term:
    """Return a bound variable with a fresh name, since a body may contain further quantifiers."""
    made: Term = z3.FreshConst(sort, f"x{index}")
    return made


def _for_all(variables: list[Term], body: Term) -> Term:
    result: Term = z3.ForAll(variables, body)
    return result


@cache
def unbounded() -> Universe:
    """Any number of processes, operations, records and versions."""
    process: Sort = z3.DeclareSort("Process")
    operation: Sort = z3.DeclareSort("Operation")
    record: Sort = z3.DeclareSort("Record")
    return Universe(process, operation, record, constant("Nobody", process), constant("Departed", process), ())


def small() -> Universe:
    """Two processes, three operations, two records and four versions."""
    return finite("Small", ("p1", "p2"), ("o1", "o2", "o3"), ("r1", "r2"), 4)


@cache  # z3 lets each name of a sort be declared once
def finite(
    name: str, processes: tuple[str, ...], operations: tuple[str, ...], records: tuple[str, ...], versions: int
) -> Universe:
    """A few of each, by these names. Universes that differ need different names themselves."""
    process, all_processes = choice(f"{name}Process", *processes, "Nobody", "Departed")
    operation, all_operations = choice(f"{name}Operation", *operations)
    record, all_records = choice(f"{name}Record", *records)
    numbers = tuple(number(version) for version in range(versions))
    elements = ((process, all_processes), (operation, all_operations), (record, all_records), (NUMBER, numbers))
    return Universe(process, operation, record, all_processes[-2], all_processes[-1], elements)


@dataclass(frozen=True, slots=True)
class Answer:
    """z3's answer: "unsat", "sat" or "unknown", and for "sat" the model."""

    verdict: str
    evaluate: Of


def _asked(formulas: Sequence[Term]) -> z3.Solver:
    solver = z3.Solver()
    solver.set("rlimit", STEPS)
    solver.set("random_seed", 1)
    solver.add(*formulas)
    return solver


def written(formulas: Sequence[Term]) -> str:
    """Return the question whether all formulas can hold at the same time, in SMT-LIB, which other solvers read."""
    text: str = _asked(formulas).to_smt2()
    return text


def satisfiable(formulas: Sequence[Term], wishes: Iterable[Term] = ()) -> Answer:
    """Ask whether all formulas can hold at the same time.

    If so, satisfy as many wishes as possible, the first ones first.
    """
    solver = _asked(formulas)
    verdict = str(solver.check())
    if verdict != "sat":
        return Answer(verdict, lambda term: term)
    model = solver.model()
    for wish in wishes:
        solver.push()
        solver.add(wish)
        if str(solver.check()) == "sat":
            model = solver.model()
        else:
            solver.pop()

    def evaluate(term: Term) -> Term:
        result: Term = model.eval(term, model_completion=True)
        return result

    return Answer(verdict, evaluate)
