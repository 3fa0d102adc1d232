"""TLC's labels of steps are read with and without the parameters of the action, which only a newer TLC writes.

Both versions printed the samples, for one small specification. Tests with the real TLC elsewhere have one form only.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from rpds import HashTrieMap

from checking.errors import CheckError, UnreadableOutput
from checking.replay.transitions import Step, lock_step_between, step_between
from checking.tlc.graph import Graph, read_graph
from checking.tlc.run import Result, Verdict, run
from checking.tlc.toolbox import Toolbox
from checking.tlc.values import Label, ModelValue, State, Value, parse_label
from tests.checking.specifications import Specifications

PINNED_DUMP = r"""strict digraph DiskGraph {
nodesep=0.35;
subgraph cluster_graph {
color="white";
-448441271740470763 [label="/\\ names = {}\n/\\ mode = \"none\"",style = filled]
-448441271740470763 -> 1616481811987662846 [label="Begin",color="black",fontcolor="black"];
1616481811987662846 [label="/\\ names = {a}\n/\\ mode = \"view\""];
-448441271740470763 -> -6182820168429035845 [label="Begin",color="black",fontcolor="black"];
-6182820168429035845 [label="/\\ names = {b}\n/\\ mode = \"view\""];
1616481811987662846 -> -4077060694739057200 [label="Commit",color="black",fontcolor="black"];
-4077060694739057200 [label="/\\ names = {a, b}\n/\\ mode = \"view\""];
-6182820168429035845 -> -4077060694739057200 [label="Commit",color="black",fontcolor="black"];
-4077060694739057200 -> -448441271740470763 [label="Back",color="black",fontcolor="black"];
{rank = same; -448441271740470763;}
{rank = same; 1616481811987662846;-6182820168429035845;}
{rank = same; -4077060694739057200;}
}
}"""

NEWER_DUMP = r"""strict digraph DiskGraph {
node [shape=box,style=rounded]
nodesep=0.35;
subgraph cluster_graph {
color="white";
4170960765703681042 [label="/\\ names = {}\n/\\ mode = \"none\"",style = filled]
4170960765703681042 -> 6732230385824033190 [label="Begin(a,\"view\")",color="black",fontcolor="black"];
6732230385824033190 [label="/\\ names = {a}\n/\\ mode = \"view\"",tooltip="/\\ names = {a}\n/\\ mode = \"view\""];
4170960765703681042 -> -5711166438907905946 [label="Begin(b,\"view\")",color="black",fontcolor="black"];
-5711166438907905946 [label="/\\ names = {b}\n/\\ mode = \"view\"",tooltip="/\\ names = {b}\n/\\ mode = \"view\""];
6732230385824033190 -> 1873195180595591898 [label="Commit({a, b})",color="black",fontcolor="black"];
1873195180595591898 [label="/\\ names = {a, b}\n/\\ mode = \"view\"",tooltip="/\\ names = {a, b}\n/\\ mode = \"view\""];
-5711166438907905946 -> 1873195180595591898 [label="Commit({a, b})",color="black",fontcolor="black"];
1873195180595591898 -> 4170960765703681042 [label="Back",color="black",fontcolor="black"];
{rank = same; 4170960765703681042;}
{rank = same; 6732230385824033190;-5711166438907905946;}
{rank = same; 1873195180595591898;}
}
}"""

PINNED_OUTPUT = r"""@!@!@STARTMSG 2110:1 @!@!@
Invariant Small is violated.
@!@!@ENDMSG 2110 @!@!@
@!@!@STARTMSG 2121:1 @!@!@
The behavior up to this point is:
@!@!@ENDMSG 2121 @!@!@
@!@!@STARTMSG 2217:4 @!@!@
1: <Initial predicate>
/\ names = {}
/\ mode = "none"

@!@!@ENDMSG 2217 @!@!@
@!@!@STARTMSG 2217:4 @!@!@
2: <Begin line 5, col 19 to line 5, col 65 of module Sample>
/\ names = {a}
/\ mode = "view"

@!@!@ENDMSG 2217 @!@!@
@!@!@STARTMSG 2217:4 @!@!@
3: <Commit line 6, col 20 to line 6, col 93 of module Sample>
/\ names = {a, b}
/\ mode = "view"

@!@!@ENDMSG 2217 @!@!@
@!@!@STARTMSG 2199:0 @!@!@
4 states generated, 4 distinct states found, 1 states left on queue.
@!@!@ENDMSG 2199 @!@!@
@!@!@STARTMSG 2194:0 @!@!@
The depth of the complete state graph search is 3.
@!@!@ENDMSG 2194 @!@!@
"""

NEWER_OUTPUT = PINNED_OUTPUT.replace("<Begin ", '<Begin(a,"view") ').replace("<Commit ", "<Commit({a, b}) ")

A, B = ModelValue("a"), ModelValue("b")


def read(folder: Path, dump: str) -> Graph:
    path = folder / "sample.dot"
    path.write_text(dump, encoding="utf-8")
    return read_graph(path)


def test_both_forms_of_a_graph_are_one_graph(tmp_path: Path) -> None:
    pinned, newer = read(tmp_path, PINNED_DUMP), read(tmp_path, NEWER_DUMP)
    assert (newer.states, newer.initial) == (pinned.states, pinned.initial)
    assert tuple(edge._replace(parameters=()) for edge in newer.edges) == pinned.edges
    assert len(pinned.states) == 4
    assert {edge.label for edge in pinned.edges} == {Label("Begin"), Label("Commit"), Label("Back")}
    assert {edge.label for edge in newer.edges} == {
        Label("Begin", (A, "view")),
        Label("Begin", (B, "view")),
        Label("Commit", (frozenset({A, B}),)),
        Label("Back"),
    }


async def printed(toolbox: Toolbox, specifications: Specifications, output: str) -> Result:
    """Return the result of a run in which TLC prints ``output``."""
    sample = specifications.write("output", output)
    java = specifications.write("java", f"#!/bin/sh\ncat {shlex.quote(str(sample))}\nexit 12\n")
    java.chmod(0o700)
    return await run(replace(toolbox, java=java), specifications.job("SPECIFICATION Spec\nINVARIANT Small\n"))


async def test_both_forms_of_a_counterexample_are_read(toolbox: Toolbox, specifications: Specifications) -> None:
    pinned = await printed(toolbox, specifications, PINNED_OUTPUT)
    newer = await printed(toolbox, specifications, NEWER_OUTPUT)
    assert (pinned.verdict, pinned.property) == (newer.verdict, newer.property) == (Verdict.SAFETY, "Small")
    assert [step.state for step in newer.trace] == [step.state for step in pinned.trace]
    assert [step.label for step in pinned.trace] == [None, Label("Begin"), Label("Commit")]
    assert [step.label for step in newer.trace] == [
        None,
        Label("Begin", (A, "view")),
        Label("Commit", (frozenset({A, B}),)),
    ]


@pytest.mark.parametrize(
    "text", ["Expire", "Acquire(p1)", 'Begin(o1,"view")', "Commit(o1,{r1, r2})", "Inner!Step(<<1>>)"]
)
def test_a_label_is_written_as_it_was_read(text: str) -> None:
    assert str(parse_label(text)) == text


@pytest.mark.parametrize("text", ["", "Acquire(", "Acquire(p1", "Acquire(p1,)", "<Action line 1>"])
def test_what_is_no_label_is_refused(text: str) -> None:
    with pytest.raises(UnreadableOutput):
        parse_label(text)


# The label and the states


def function(**entries: Value) -> HashTrieMap[Value, Value]:
    return HashTrieMap({ModelValue(name): value for name, value in entries.items()})


def record(**entries: Value) -> HashTrieMap[Value, Value]:
    return HashTrieMap(entries)


MISSING = ModelValue("Missing")
NOBODY, P1, P2, O2, R1, R2 = (ModelValue(name) for name in ("Nobody", "p1", "p2", "o2", "r1", "r2"))

NO_GUARD = record(stage="none", epoch=0)


def outdated_view() -> tuple[State, State]:
    """Return the states before and after a view without loaded records fails, since both records have changed."""
    idle = record(stage="idle", mode="none", at=0, known=function(r1=MISSING, r2=MISSING))
    view = record(stage="running", mode="view", at=0, known=function(r1=MISSING, r2=MISSING))
    before: State = {"op": function(o2=view), "commits": (function(r1=0, r2=0),), "floor": 0}
    return before, {**before, "op": function(o2=idle)}


def refusal() -> tuple[State, State]:
    """Return the states before and after one of two processes without a guard sets ``wanted``."""
    held = record(holder=ModelValue("p3"), wanted=False)
    before: State = {"lease": held, "guard": function(p1=NO_GUARD, p2=NO_GUARD)}
    return before, {**before, "lease": held.insert("wanted", True)}


def test_without_parameters_one_of_the_possible_steps_is_chosen() -> None:
    assert step_between(Label("Outdated"), *outdated_view()) == Step(
        "Outdated", operation="o2", records=frozenset({"r1"})
    )
    assert step_between(Label("Want"), *refusal()) == Step("Want", process="p1")


def test_with_parameters_they_count() -> None:
    label = Label("Outdated", (O2, R2))
    assert step_between(label, *outdated_view()) == Step("Outdated", operation="o2", records=frozenset({"r2"}))
    assert step_between(Label("Want", (P2,)), *refusal()) == Step("Want", process="p2")


@pytest.mark.parametrize(
    ("label", "states"),
    [
        (Label("Outdated", (O2, ModelValue("r3"))), outdated_view()),
        (Label("Outdated", (ModelValue("o1"), R1)), outdated_view()),
        (Label("Want", (ModelValue("p3"),)), refusal()),
    ],
)
def test_parameters_that_the_states_contradict_are_an_error(label: Label, states: tuple[State, State]) -> None:
    with pytest.raises(CheckError, match=r"TLC labels a step .*, but by its states it is \w+\(.*\)"):
        step_between(label, *states)


def test_the_lock_alone_is_read_the_same_way() -> None:
    before: State = {
        "lease": record(holder=NOBODY, left=0),
        "guard": function(p1=NO_GUARD, p2=NO_GUARD),
        "op": function(p1="waiting", p2="idle"),
        "synced": function(p1=0, p2=0),
    }
    after: State = {**before, "op": function(p1="running", p2="idle")}
    begins = Step("Begin", process="p1", operation="o1", mode="transaction")
    assert lock_step_between(Label("Begin"), before, after) == begins
    assert lock_step_between(Label("Begin", (P1,)), before, after) == begins
    with pytest.raises(CheckError, match=r"labels a step Begin\(p2\), but by its states it is Begin\(p1\)"):
        lock_step_between(Label("Begin", (P2,)), before, after)
