"""Formulas that are compiled to Python have the same values as in z3."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofs.correspondence.evaluation import NONSENSE, Concrete, Table, compiled
from proofs.encoding.terms import (
    BOOLEAN,
    NUMBER,
    Term,
    among,
    choice,
    choose,
    constant,
    either,
    eq,
    every,
    function,
    implies,
    no,
    number,
    satisfiable,
)

COLOUR, (RED, GREEN) = choice("Colour", "red", "green")
NUMBERS = [constant("a", NUMBER), constant("b", NUMBER)]
TRUTHS = [constant("x", BOOLEAN), constant("y", BOOLEAN)]
COLOURS = [constant("c", COLOUR), RED, GREEN]
HEIGHT = function("height", COLOUR, NUMBER)
WARM = function("warm", COLOUR, BOOLEAN)

numbers: st.SearchStrategy[Term] = st.deferred(
    lambda: (
        st.integers(-3, 3).map(number)
        | st.sampled_from(NUMBERS)
        | st.sampled_from(COLOURS).map(HEIGHT)
        | st.builds(lambda left, right: left + right, numbers, numbers)
        | st.builds(lambda left, right: left - right, numbers, numbers)
        | st.builds(choose, truths, numbers, numbers)
    )
)
truths: st.SearchStrategy[Term] = st.deferred(
    lambda: (
        st.sampled_from(TRUTHS)
        | st.sampled_from(COLOURS).map(WARM)
        | st.builds(eq, numbers, numbers)
        | st.builds(lambda left, right: left <= right, numbers, numbers)
        | st.builds(lambda left, right: left < right, numbers, numbers)
        | st.builds(lambda left, right: left >= right, numbers, numbers)
        | st.builds(lambda left, right: left > right, numbers, numbers)
        | st.builds(among, st.sampled_from(COLOURS), st.just(RED), st.just(GREEN))
        | st.builds(no, truths)
        | st.builds(implies, truths, truths)
        | st.builds(every, truths, truths, truths)
        | st.builds(either, truths, truths)
        | st.builds(choose, truths, truths, truths)
    )
)
small = st.integers(-2, 2)
states = st.fixed_dictionaries(
    {
        "a": small,
        "b": small,
        "x": st.booleans(),
        "y": st.booleans(),
        "c": st.sampled_from(["red", "green"]),
        "height": st.fixed_dictionaries({"red": small, "green": small}).map(Table),
        "warm": st.fixed_dictionaries({"red": st.booleans(), "green": st.booleans()}).map(Table),
    }
)


def facts(state: dict[str, "Concrete | Table"]) -> Iterator[Term]:
    """The state, said to z3."""
    colours = {"red": RED, "green": GREEN}
    height, warm, colour = state["height"], state["warm"], state["c"]
    assert isinstance(height, Table)
    assert isinstance(warm, Table)
    assert isinstance(colour, str)
    for term, name in zip((*NUMBERS, *TRUTHS), "abxy", strict=True):
        value = state[name]
        assert isinstance(value, int)
        yield eq(term, value)
    yield eq(COLOURS[0], colours[colour])
    for name, term in colours.items():
        yield eq(HEIGHT(term), int(height[name]))
        yield eq(WARM(term), bool(warm[name]))


@given(numbers, truths, states)
def test_a_compiled_formula_has_the_value_that_z3_gives(
    amount: Term, truth: Term, state: dict[str, "Concrete | Table"]
) -> None:
    found, holds = compiled([amount, truth])(state)
    assert isinstance(found, int)
    asked = [*facts(state), no(every(eq(amount, found), eq(truth, bool(holds))))]
    assert satisfiable(asked).verdict == "unsat"


def test_where_a_state_says_nothing() -> None:
    assert compiled([HEIGHT(RED)])({"height": Table()}) == (NONSENSE,)


def test_a_formula_that_python_has_no_word_for() -> None:
    with pytest.raises(NotImplementedError, match="no Python is known for"):
        compiled([NUMBERS[0] * NUMBERS[1]])  # type: ignore[operator]
