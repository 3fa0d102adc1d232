from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checking.errors import UnreadableOutput
from checking.tlc.graph import Edge, Graph, Walk, cover, read_graph
from checking.tlc.run import Verdict, run
from checking.tlc.toolbox import Toolbox
from tests.checking.specifications import Specifications


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Build a graph whose states are all reachable: each state that is not initial has an edge from an earlier one."""
    size = draw(st.integers(1, 25))
    initial = draw(st.integers(1, size))
    states = st.integers(0, size - 1)
    edges = {Edge(draw(st.integers(0, state - 1)), "Enter", state) for state in range(initial, size)}
    edges |= draw(st.sets(st.builds(Edge, states, st.sampled_from(["A", "B"]), states), max_size=80))
    return Graph(tuple({"x": state} for state in range(size)), tuple(range(initial)), tuple(sorted(edges)))


@given(graphs())
def test_connected_walks_take_every_edge(graph: Graph) -> None:
    walks = cover(graph)
    taken: set[int] = set()
    for walk in walks:
        assert walk.start in graph.initial
        state = walk.start
        for number in walk.edges:
            assert graph.edges[number].source == state
            state = graph.edges[number].target
        assert not taken.issuperset(walk.edges), "a walk that takes nothing new"
        taken.update(walk.edges)
    assert taken == set(range(len(graph.edges)))
    assert cover(graph) == walks


def test_a_ring_is_walked_once() -> None:
    ring = Graph(({"x": 0}, {"x": 1}, {"x": 2}), (0,), (Edge(0, "A", 1), Edge(1, "A", 2), Edge(2, "A", 0)))
    assert cover(ring) == (Walk(0, (0, 1, 2)),)


def test_a_short_detour_is_preferred_to_a_new_beginning() -> None:
    way = (Edge(0, "A", 1), Edge(1, "A", 2), Edge(2, "A", 3))
    # Two cycles through 3 and 4 share an edge, which the walk must take a second time to reach 6.
    rings = (Edge(3, "A", 4), Edge(4, "A", 3), Edge(3, "B", 5), Edge(5, "A", 4), Edge(3, "C", 6))
    edges = way + rings
    (walk,) = cover(Graph(tuple({"x": state} for state in range(7)), (0,), edges))
    assert [edges[number].target for number in walk.edges] == [1, 2, 3, 4, 3, 5, 4, 3, 6]


def test_walks_are_few_and_short() -> None:
    # A grid of 12 by 12 with edges to the right and down: no edge leads back, so a walk ends at a border.
    width = 12
    edges = [Edge(state, "Right", state + 1) for state in range(width**2) if (state + 1) % width]
    edges += [Edge(state, "Down", state + width) for state in range(width**2 - width)]
    walks = cover(Graph(tuple({"x": state} for state in range(width**2)), (0,), tuple(sorted(edges))))
    # The result of a minimum-cost flow for this graph.
    assert (len(walks), sum(len(walk.edges) for walk in walks)) == (22, 374)


def test_a_graph_with_states_out_of_reach_is_refused() -> None:
    with pytest.raises(UnreadableOutput, match="1 states can't be reached"):
        cover(Graph(({"x": 0}, {"x": 1}), (0,), ()))


async def test_what_tlc_dumps_is_read_the_same_each_time(toolbox: Toolbox, specifications: Specifications) -> None:
    job = specifications.job("SPECIFICATION Spec\n")

    async def dumped(name: str) -> Graph:
        result = await run(toolbox, replace(job, dump=specifications.folder / name))
        assert (result.verdict, result.distinct_states) == (Verdict.PASS, 10)
        return read_graph(specifications.folder / name)

    graph = await dumped("one.dot")
    assert await dumped("two.dot") == graph
    assert [graph.states[number]["x"] for number in graph.initial] == [0]
    assert len(graph.states) == 10
    ups = [edge for edge in graph.edges if edge.action == "Up"]
    assert {edge.action for edge in graph.edges} == {"Up", "Back"}
    assert len(ups) == 12
    assert all(graph.states[edge.target]["x"] == int(str(graph.states[edge.source]["x"])) + 1 for edge in ups)
    assert {number for walk in cover(graph) for number in walk.edges} == set(range(len(graph.edges)))


def test_texts_and_repetitions_are_read(tmp_path: Path) -> None:
    dump = tmp_path / "graph.dot"
    dump.write_text(
        "strict digraph DiskGraph {\n"
        '-5 [label="/\\\\ s = \\"a\\\\\\\\b \\\\\\"\\"\\n/\\\\ x = 0",style = filled]\n'
        '-5 -> 7 [label="Go",color="black",fontcolor="black"];\n'
        '7 [label="/\\\\ s = \\"\\"\\n/\\\\ x = 1"];\n'
        '-5 -> 7 [label="Go",color="black",fontcolor="black"];\n'
        "{rank = same; -5;}\n}\n"
    )
    graph = read_graph(dump)
    assert {str(state["s"]) for state in graph.states} == {'a\\b "', ""}
    assert len(graph.edges) == 1


@pytest.mark.parametrize(
    ("text", "told"), [("", "no initial state"), ('1 [label="x = 0",style = filled]\n1 -> 2 [label="A"', "ends early")]
)
def test_what_is_no_whole_graph_is_refused(tmp_path: Path, text: str, told: str) -> None:
    dump = tmp_path / "graph.dot"
    dump.write_text(text)
    with pytest.raises(UnreadableOutput, match=told):
        read_graph(dump)
