"""Read the state graph that TLC dumps, and cover each of its transitions by walks from the initial states.

TLC names states by fingerprints, which differ from run to run. Here states are sorted by their content, so the same
model always gives the same graph, and the same graph always gives the same walks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from checking.errors import UnreadableOutput
from checking.tlc.values import Label, State, Value, parse_label, parse_state


class Edge(NamedTuple):
    """A transition from one state to another by an action. The numbers of states are indices into ``Graph.states``."""

    source: int
    action: str
    target: int
    parameters: tuple[Value, ...] = ()
    """The parameters of the action, if TLC wrote them into the label."""
    way: str = ""
    """How the implementation takes the transition, if it can do so in several ways."""

    @property
    def label(self) -> Label:
        """TLC's label of the transition."""
        return Label(self.action, self.parameters)


@dataclass(frozen=True, slots=True)
class Graph:
    """All states of a model, and the transitions between them, each of them once."""

    states: tuple[State, ...]
    initial: tuple[int, ...]
    edges: tuple[Edge, ...]


_EDGE = re.compile(r'(-?\d+) -> (-?\d+) \[label="((?:[^"\\]|\\.)*)"')
_NODE = re.compile(r'(-?\d+) \[label="((?:[^"\\]|\\.)*)"(,style = filled)?')
_ESCAPE = re.compile(r"\\(.)")


def read_graph(path: Path) -> Graph:
    """Read a dump of ``-dump dot,actionlabels``. Raises ``UnreadableOutput``.

    Labels may have the parameters of the action or not.
    """
    labels: dict[str, str] = {}
    initial: set[str] = set()
    edges: set[tuple[str, str, str]] = set()
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            edge = _EDGE.match(line)
            if edge is not None:
                edges.add((edge[1], edge[3], edge[2]))
                continue
            node = _NODE.match(line)
            if node is not None:
                labels[node[1]] = node[2]
                if node[3]:
                    initial.add(node[1])
    if not initial:
        raise UnreadableOutput(f"{path} holds no initial state: it is not a graph that TLC dumped.")
    names = sorted(labels, key=labels.__getitem__)
    numbers = {name: number for number, name in enumerate(names)}
    try:
        # Sorted by the text of the label, since parameters, such as sets, have no order.
        ordered = sorted((numbers[source], label, numbers[target]) for source, label, target in edges)
    except KeyError as error:
        raise UnreadableOutput(f"{path} ends early: state {error} has transitions but no content.") from error
    labels_read = {label: parse_label(_unescape(label)) for _, label, _ in ordered}
    return Graph(
        states=tuple(parse_state(_unescape(labels[name])) for name in names),
        initial=tuple(sorted(numbers[name] for name in initial)),
        edges=tuple(
            Edge(source, read.action, target, read.parameters)
            for source, label, target in ordered
            for read in [labels_read[label]]
        ),
    )


def _unescape(label: str) -> str:
    return _ESCAPE.sub(lambda match: "\n" if match[1] == "n" else match[1], label)


@dataclass(frozen=True, slots=True)
class Walk:
    """A path through a graph: an initial state, and the indices of the edges that it takes from there."""

    start: int
    edges: tuple[int, ...]


def cover(graph: Graph) -> tuple[Walk, ...]:
    """Return walks that together take every edge in few steps. The same graph always gives the same walks.

    Each walk takes the shortest path to the nearest edge that was not taken yet, and then continues along such edges.
    At a state without one, it goes to the nearest one if that takes fewer steps than a new walk. On the graph of a
    small replay model this takes 9 % more steps than the minimum, which a minimum-cost flow computes.
    """
    return _Cover(graph).walks()


class _Cover:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._targets = [edge.target for edge in graph.edges]
        self._outgoing: list[list[int]] = [[] for _ in graph.states]
        for number, edge in enumerate(graph.edges):
            self._outgoing[edge.source].append(number)
        # The edge by which a breadth-first search first reached each state.
        self._arrival = dict.fromkeys(graph.initial, _NO_EDGE)
        self._order = self._search()
        self._distance = [0] * len(graph.states)
        for state in self._order:
            if self._arrival[state] != _NO_EDGE:
                self._distance[state] = self._distance[graph.edges[self._arrival[state]].source] + 1
        self._untaken = [edges[::-1] for edges in self._outgoing]
        # How many states at the head of the order have no untaken edges.
        self._done = 0

    def walks(self) -> tuple[Walk, ...]:
        walks: list[Walk] = []
        while (nearest := self._nearest()) is not None:
            walks.append(self._walk(nearest))
        return tuple(walks)

    def _nearest(self) -> int | None:
        """Return the state nearest to an initial one that has untaken edges."""
        while self._done < len(self._order) and not self._untaken[self._order[self._done]]:
            self._done += 1
        return self._order[self._done] if self._done < len(self._order) else None

    def _walk(self, nearest: int) -> Walk:
        """Return a walk from an initial state to ``nearest``, and from there on while untaken edges are near enough."""
        way = self._way(self._arrival, nearest)
        start = self._graph.edges[way[0]].source if way else nearest
        # No edge on this path is new: all edges of the nearer states have been taken.
        state = nearest
        while True:
            while self._untaken[state]:
                way.append(self._untaken[state].pop())
                state = self._targets[way[-1]]
            beginning = self._nearest()
            detour = [] if beginning is None else self._detour(state, self._distance[beginning])
            if not detour:
                return Walk(start, tuple(way))
            way.extend(detour)
            state = self._targets[detour[-1]]

    def _detour(self, state: int, limit: int) -> list[int]:
        """Return the shortest path from ``state`` to a state with untaken edges, or nothing beyond ``limit`` steps."""
        arrival = {state: _NO_EDGE}
        border = [state]
        for _ in range(limit):
            beyond: list[int] = []
            for source in border:
                for number in self._outgoing[source]:
                    target = self._targets[number]
                    if target in arrival:
                        continue
                    arrival[target] = number
                    if self._untaken[target]:
                        return self._way(arrival, target)
                    beyond.append(target)
            border = beyond
        return []

    def _way(self, arrival: dict[int, int], state: int) -> list[int]:
        """Return the edges by which a search reached ``state``."""
        way: list[int] = []
        while arrival[state] != _NO_EDGE:
            way.append(arrival[state])
            state = self._graph.edges[arrival[state]].source
        way.reverse()
        return way

    def _search(self) -> list[int]:
        """Return all states, nearest to an initial one first, and note the edge by which each was reached."""
        order = list(self._graph.initial)
        for state in order:
            for number in self._outgoing[state]:
                target = self._targets[number]
                if target not in self._arrival:
                    self._arrival[target] = number
                    order.append(target)
        if len(order) != len(self._graph.states):
            lost = len(self._graph.states) - len(order)
            raise UnreadableOutput(f"The graph is incomplete: {lost} states can't be reached from an initial one.")
        return order


_NO_EDGE = -1
