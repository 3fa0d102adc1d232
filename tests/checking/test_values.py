from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rpds import HashTrieMap

from checking.errors import UnreadableOutput
from checking.tlc.values import ModelValue, Value, parse_state, parse_value, render_state, render_value

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True).filter(lambda name: name not in ("TRUE", "FALSE"))
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x0b"), max_size=8)


def homogeneous(leaf: st.SearchStrategy[Value]) -> st.SearchStrategy[Value]:
    """Build values with leaves of one kind: TLC has no sets with both TRUE and 1, and Python regards these as equal."""

    def nest(inner: st.SearchStrategy[Value]) -> st.SearchStrategy[Value]:
        empty: HashTrieMap[Value, Value] = HashTrieMap()
        return st.one_of(
            st.frozensets(inner, max_size=4),
            st.lists(inner, max_size=4).map(tuple),
            st.dictionaries(NAMES, inner, min_size=1, max_size=4).map(lambda fields: empty.update(dict(fields))),
            st.dictionaries(leaf, inner, min_size=1, max_size=4).map(lambda pairs: empty.update(pairs)),
        )

    return st.recursive(leaf, nest, max_leaves=12)


VALUES: st.SearchStrategy[Value] = st.one_of(
    homogeneous(st.integers()),
    homogeneous(st.booleans()),
    homogeneous(TEXTS),
    homogeneous(NAMES.map(ModelValue)),
)


@given(VALUES)
def test_what_is_written_reads_the_same(value: Value) -> None:
    read = parse_value(render_value(value))
    assert read == value
    assert render_value(read) == render_value(value)


@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=5))
def test_a_state_reads_the_same(state: dict[str, Value]) -> None:
    assert dict(parse_state(render_state(state))) == state


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-3", -3),
        ("TRUE", True),
        ('"a \\"b\\" \\\\ c\\n"', 'a "b" \\ c\n'),
        ("p1", ModelValue("p1")),
        ("{}", frozenset()),
        ("2..4", frozenset({2, 3, 4})),
        ("<<>>", ()),
        ("<<1, <<2>>>>", (1, (2,))),
        ("[a |-> 1, b |-> {p}]", HashTrieMap({"a": 1, "b": frozenset({ModelValue("p")})})),
        ("[1a |-> 1, 22 |-> 2]", HashTrieMap({"1a": 1, "22": 2})),
        ("(p :> 0 @@ q :> <<\n  1>>)", HashTrieMap({ModelValue("p"): 0, ModelValue("q"): (1,)})),
    ],
)
def test_what_tlc_prints(text: str, value: Value) -> None:
    assert parse_value(text) == value


@pytest.mark.parametrize(
    "text", ["", "{1", "<<1,>>", "[a -> 1]", "[]", "(1 :> )", "1 2", '"open', "SUBSET {1}", "1..x", "{1, 2>>", "$"]
)
def test_what_can_not_be_read_is_named(text: str) -> None:
    with pytest.raises(UnreadableOutput, match="can't be read"):
        parse_value(text)


def test_a_function_of_very_many_arguments_is_no_deep_chain_and_reads_the_same() -> None:
    value: Value = HashTrieMap((number, -number) for number in range(10_000))
    written = render_value(value)
    assert parse_value(written) == value
    assert max(map(len, written.replace("(", ")").split(")"))) < 1_000


def test_a_text_that_looks_like_a_mark_is_no_mark() -> None:
    assert parse_value('{"}", ">>"}') == frozenset({"}", ">>"})


def test_states_of_one_and_of_several_variables() -> None:
    assert dict(parse_state("x = 1")) == {"x": 1}
    assert dict(parse_state("/\\ f = (1 :> 2\n  @@ 3 :> 4)\n/\\ x = {}")) == {
        "f": HashTrieMap({1: 2, 3: 4}),
        "x": frozenset(),
    }


@pytest.mark.parametrize("text", ["", "nothing", "/\\ x == 1", "oops\n/\\ x = 1"])
def test_a_state_that_can_not_be_read_is_named(text: str) -> None:
    with pytest.raises(UnreadableOutput, match="state"):
        parse_state(text)
