"""Evaluate formulas in many known states: each formula is compiled to Python once, and called for every state.

z3 can evaluate formulas too. A test compares the results.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import z3  # type: ignore[import-untyped]

from proofs.encoding.terms import Term

Concrete = int | str | bool
"""A number, a truth value, or the name of an element."""

Interpretation = Mapping[str, "Concrete | Table"]
"""The value of each constant and each function in one state."""

NONSENSE = -999_983
"""The value of a function at an argument that a state does not define. A formula that used it would give a wrong
result."""


class Table(dict["Concrete | tuple[Concrete, ...]", Concrete]):
    """A function as a table of its values, by argument or by pair of arguments."""

    def __missing__(self, arguments: "Concrete | tuple[Concrete, ...]") -> Concrete:
        return NONSENSE


if TYPE_CHECKING:

    class _Declaration:
        def kind(self) -> int: ...
        def name(self) -> str: ...

    class _Node(Term):
        """The methods of a z3 term that are used here."""

        def decl(self) -> _Declaration: ...
        def children(self) -> "list[_Node]": ...
        def get_id(self) -> int: ...
        def as_long(self) -> int: ...

else:
    _Node = Term

_JOINED = {
    z3.Z3_OP_AND: " and ",
    z3.Z3_OP_OR: " or ",
    z3.Z3_OP_EQ: " == ",
    z3.Z3_OP_LE: " <= ",
    z3.Z3_OP_LT: " < ",
    z3.Z3_OP_GE: " >= ",
    z3.Z3_OP_GT: " > ",
    z3.Z3_OP_ADD: " + ",
    z3.Z3_OP_SUB: " - ",
}


def compiled(terms: Sequence[Term]) -> Callable[[Interpretation], tuple[Concrete, ...]]:
    """Return a function that gives the values of these terms in a state."""
    program = _Program()
    results = [program.place_of(term) for term in terms]
    return program.function(results)


class _Program:
    """Builds straight-line code: one assignment for each different subterm."""

    def __init__(self) -> None:
        self._symbols: dict[str, str] = {}
        self._lines: list[str] = []
        self._places: dict[int, str] = {}

    def place_of(self, term: Term) -> str:
        """Return the variable or the literal with the value of a term."""
        node: _Node = term  # type: ignore[assignment]
        place = self._places.get(node.get_id())
        if place is None:
            code = self._code(node)
            if code.isidentifier() or not node.children():
                place = code
            else:
                place = f"t{len(self._lines)}"
                self._lines.append(f"{place} = {code}")
            self._places[node.get_id()] = place
        return place

    def _code(self, node: _Node) -> str:
        kind, parts = node.decl().kind(), [self.place_of(child) for child in node.children()]
        if kind in _JOINED:
            return _JOINED[kind].join(parts)
        match kind:
            case z3.Z3_OP_TRUE:
                return "True"
            case z3.Z3_OP_FALSE:
                return "False"
            case z3.Z3_OP_ANUM:
                return repr(node.as_long())
            case z3.Z3_OP_DT_CONSTRUCTOR:
                return repr(node.decl().name())
            case z3.Z3_OP_NOT:
                return f"not {parts[0]}"
            case z3.Z3_OP_IMPLIES:
                return f"not {parts[0]} or {parts[1]}"
            case z3.Z3_OP_ITE:
                return f"{parts[1]} if {parts[0]} else {parts[2]}"
            case z3.Z3_OP_UNINTERPRETED:
                symbol = self._symbols.setdefault(node.decl().name(), f"s{len(self._symbols)}")
                return f"{symbol}[{', '.join(parts)}]" if parts else symbol
            case _:
                raise NotImplementedError(f"no Python is known for {node.decl().name()!r}")

    def function(self, results: Sequence[str]) -> Callable[[Interpretation], tuple[Concrete, ...]]:
        symbols = [f"{symbol} = interpretation[{name!r}]" for name, symbol in self._symbols.items()]
        answer = f"return ({''.join(f'{result}, ' for result in results)})"
        body = "\n    ".join([*symbols, *self._lines, answer])
        made: dict[str, Callable[[Interpretation], tuple[Concrete, ...]]] = {}
        exec(f"def evaluated(interpretation):\n    {body}", made)  # noqa: S102 (made of formulas of this package alone)
        return made["evaluated"]
