"""The comparison of the encoding with TLC's graphs notices a difference on either side.

`python -m proofs correspondence` runs the whole comparison.
"""

import shutil
from pathlib import Path

import pytest

from checking.errors import CheckError
from checking.models.manifest import Manifest, read_manifest
from checking.tlc.graph import Edge, Graph
from checking.tlc.run import read_configuration
from proofs.correspondence import proof as correspondence
from proofs.correspondence.proof import (
    INSTANCES,
    GraphReader,
    compare,
    notices,
    prove,
    wrong_conjuncts,
    wrong_steps,
    wrong_takeable,
)
from proofs.encoding.invariant import INVARIANT, spelled
from proofs.encoding.model import Model, State
from proofs.encoding.terms import TRUE, Term, no
from proofs.report import Examined, Failure
from proofs.specification.proof import INDUCTIVE
from proofs.tlc import FUNCTIONS, constants, graph_of

ROOT = Path(__file__).parents[2]
MANIFEST = read_manifest(ROOT / "tla" / "models" / "manifest.toml")


@pytest.fixture(scope="module")
def reading() -> GraphReader:
    return GraphReader(INSTANCES[0], graph_of(MANIFEST, INSTANCES[0].name)[0])


def read_again(reading: GraphReader, edges: tuple[Edge, ...]) -> GraphReader:
    """The same states with other transitions."""
    graph = Graph(reading.graph.states, reading.graph.initial, edges)
    changed = object.__new__(GraphReader)
    changed.__dict__.update(reading.__dict__, graph=graph)
    return changed


def test_the_encoding_and_tlc_have_the_same_steps(reading: GraphReader) -> None:
    lines: list[str] = []
    assert compare(reading, Model(reading.universe), lines.append, Examined()) == []
    assert len(lines) == 1
    assert lines[0].endswith("the same")


@pytest.mark.parametrize("fault", ["late-version", "unfenced-load", "partial-list", "waiter-ignored", "streams-lost"])
def test_a_broken_rule_of_the_encoding(reading: GraphReader, fault: str) -> None:
    assert notices(reading, fault)


def test_whether_a_commit_may_release_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    with_two_in_one_process = INSTANCES[1]
    graph, wrong = graph_of(MANIFEST, with_two_in_one_process.name)
    assert wrong == []
    crowded = GraphReader(with_two_in_one_process, graph)
    assert list(wrong_steps(crowded, Model(crowded.universe), {"Commit"}, Examined())) == []
    monkeypatch.setattr(Model, "may_release", lambda *_: TRUE)
    assert {
        (each.name, each.what) for each in wrong_steps(crowded, Model(crowded.universe), {"Commit"}, Examined())
    } == {
        ("Commit", "TLC has no such step"),
        ("Commit", "z3 allows no such step"),
    }


def test_a_transition_that_tlc_lacks_and_one_that_it_has_too_many(reading: GraphReader) -> None:
    source, target = next(
        (edge.source, edge.target)
        for edge in reading.graph.edges
        if edge.action == "Release" and reading.projections[edge.source] != reading.projections[edge.target]
    )
    outcome = ("Release", reading.projections[target])
    reading.outgoing[source].remove(outcome)
    model = Model(reading.universe)
    try:
        [difference] = wrong_steps(reading, model, {"Release"}, Examined())
        assert (difference.name, difference.what) == ("Release", "TLC has no such step")
        assert difference.before is reading.graph.states[source]
        reading.outgoing[source].add(("Release", reading.projections[0]))
        assert [each.what for each in wrong_steps(reading, model, {"Release"}, Examined())] == [
            "TLC has no such step",
            "z3 allows no such step",
        ]
    finally:
        reading.outgoing[source].discard(("Release", reading.projections[0]))
        reading.outgoing[source].add(outcome)


def test_an_action_that_nothing_was_compared_of(reading: GraphReader) -> None:
    without = read_again(reading, tuple(edge for edge in reading.graph.edges if edge.action != "Renew"))
    failures = compare(without, Model(reading.universe), lambda _line: None, Examined())
    assert Failure("Instance: Renew", "TLC has no transition of that name") in failures


def test_a_conjunct_that_tlc_knows_better(reading: GraphReader, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody_waits(_m: Model, s: State) -> Term:
        return no(s.wanted)

    monkeypatch.setattr(correspondence, "INVARIANT", (nobody_waits,))
    [difference] = wrong_conjuncts(reading, Model(reading.universe))
    assert (difference.name, difference.what) == ("NobodyWaits", "is false in a state that TLC reaches")


def test_a_model_that_tlc_does_not_finish_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def unfinished(_manifest: Manifest, name: str) -> tuple[Graph, list[Failure]]:
        raise CheckError(f"{name} is not finished")

    monkeypatch.setattr(correspondence, "graph_of", unfinished)
    failures = prove(lambda _line: None, Examined())
    assert Failure("Instance", "Instance is not finished") in failures
    assert Failure("the comparison with late-version in the encoding", "finds no difference") in failures


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        ("unvalidated-view", Failure("Instance: Validate", "z3 allows no such step")),
        ("streams-lost", Failure("Instance: Listen", "TLC has no transition of that name")),
    ],
)
def test_a_broken_rule_of_the_specification(tmp_path: Path, fault: str, failure: Failure) -> None:
    """The encoding is right, and TLA+ has a rule broken: the failure names the action, too."""
    shutil.copytree(ROOT / "tla", tmp_path / "tla")
    configuration = tmp_path / "tla" / "models" / "Instance.cfg"
    configuration.write_text(configuration.read_text().replace('Fault = "none"', f'Fault = "{fault}"'))
    graph, wrong = graph_of(read_manifest(tmp_path / "tla" / "models" / "manifest.toml"), "Instance")
    assert {each.name for each in wrong} == {"Instance"}
    assert wrong[0].verdict.startswith("distinct states: expected")
    broken = GraphReader(INSTANCES[0], graph)
    failures = compare(broken, Model(broken.universe), lambda _line: None, Examined())
    assert failure in failures


def test_each_conjunct_is_checked_by_tlc_too() -> None:
    # Of the added variables, one stands for a search of the log, and the other's place is in KnowledgeIsOfOneSnapshot.
    added = {"LastIsTheLastWrite", "SnapshotIsWhereItIsSaid"}
    for name in INDUCTIVE:
        configuration = read_configuration(ROOT / "tla" / "models" / f"{name}.cfg")
        assert set(configuration.invariants) == {spelled(conjunct) for conjunct in INVARIANT} - added | {"TypeOK"}


def test_taking_the_lease_is_compared_on_absurd_rows_too() -> None:
    graph, wrong = graph_of(MANIFEST, FUNCTIONS)
    assert wrong == []
    lease_time = constants(MANIFEST.folder / f"{FUNCTIONS}.cfg")["LeaseTime"]
    assert list(wrong_takeable(graph, lease_time, Examined())) == []
    [difference] = wrong_takeable(graph, lease_time, Examined(), "clock-jump")
    assert (difference.name, difference.what) == ("Takeable", "differs from TLC's")
    [difference] = wrong_takeable(Graph((), (), ()), lease_time, Examined())
    assert difference.what == "was compared with nothing"
