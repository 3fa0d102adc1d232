"""The real store takes the steps of the replay model, and the replay notices a broken store.

``python -m checking replay`` takes every transition once. ``Walker`` takes other paths through the same graph, which
Hypothesis chooses. Hypothesis also shrinks a path that fails. The profile decides the number of steps: some five
thousand in ``ci``, the default, and more than two hundred thousand with ``--hypothesis-profile=long``. To repeat a
failure, put the printed line ``@reproduce_failure(...)`` above ``class Walker``.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, TypeAlias

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from checking.errors import CheckError
from checking.models.manifest import find_manifest, read_manifest
from checking.replay import drive as replaying
from checking.replay.counters import COUNTER
from checking.replay.drive import Diverged, compare, each_way, replay, replay_graph, step_of
from checking.replay.live_objects import SCENARIOS, run_scenarios
from checking.replay.model_states import Constants, constants_of, expected
from checking.replay.observation import observe
from checking.replay.steps import take
from checking.replay.transitions import Step
from checking.replay.world import World
from checking.tlc import run as tlc
from checking.tlc.graph import Edge, Graph, Walk, cover, read_graph
from checking.tlc.run import Verdict
from checking.tlc.toolbox import Toolbox
from unwedged.protocol import cache as cache_rules
from unwedged.protocol import guard as guard_rules
from unwedged.protocol.cache import Cache, ChangeLog
from unwedged.protocol.guard import Stage
from unwedged.protocol.identifiers import Epoch, Version
from unwedged.store import database, statements
from unwedged.store.admission import Admission
from unwedged.store.crypto_store import CryptoStore
from unwedged.store.guarded_cache import GuardedCache, RecordName
from unwedged.store.lock import LeaseLock
from unwedged.store.sqlite import SqliteBackend
from unwedged.store.streams import Streams
from unwedged.store.transactions import Operation


@pytest.fixture(scope="session")
def dump(toolbox: Toolbox, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Let the real TLC write the graph of the replay model."""
    manifest = read_manifest(find_manifest(Path(__file__).parent))
    model = manifest.model("Replay")
    path = tmp_path_factory.mktemp("graph") / "replay.dot"
    result = asyncio.run(tlc.run(toolbox, manifest.job(model, path)))
    assert result.verdict is Verdict.PASS, result.detail
    return path


@pytest.fixture(scope="session")
def graph(dump: Path) -> Graph:
    return each_way(read_graph(dump))


@pytest.fixture(scope="session")
def some_walks(graph: Graph) -> Sequence[Walk]:
    """Return a few of the covering walks, in which each action occurs in each way, at each stage of each guard."""
    chosen: dict[int, Walk] = {}
    taken: set[object] = set()
    for place, walk in enumerate(cover(graph)):
        found = {situation(graph, graph.edges[number]) for number in walk.edges}
        if not found <= taken:
            taken |= found
            chosen[place] = walk
    return tuple(chosen.values())


def situation(graph: Graph, edge: Edge) -> tuple[object, ...]:
    """Return a summary of a transition: the action, its way, and a few features of the state."""
    state = graph.states[edge.source]
    stages = tuple(str(guard["stage"]) for _, guard in sorted(state["guard"].items()))  # type: ignore[union-attr]
    changed = tuple(len(commit) for commit in state["commits"])  # type: ignore[union-attr, arg-type]
    return edge.action, edge.way, stages, state["floor"], changed


# Walks that Hypothesis chooses


@dataclass(frozen=True, slots=True)
class ReplayModel:
    """The graph that all walkers share."""

    graph: Graph
    constants: Constants
    outgoing: Mapping[int, Sequence[Edge]]
    """The outgoing edges by state; a state without any has no entry."""

    @classmethod
    def of(cls, graph: Graph) -> ReplayModel:
        outgoing: dict[int, list[Edge]] = {}
        for edge in graph.edges:
            outgoing.setdefault(edge.source, []).append(edge)
        return cls(graph, constants_of(graph.states), outgoing)


@dataclass(frozen=True, slots=True)
class Transition:
    """An outgoing edge of a state. Its repr is the step."""

    step: Step
    target: int

    def __repr__(self) -> str:
        return str(self.step)


class Walker(RuleBasedStateMachine):
    """Walks through the graph, and takes each step in the real store too. It restarts at a state without successors."""

    model: ClassVar[ReplayModel]
    taken: ClassVar[int]
    """The number of steps of all walkers."""
    last: ClassVar[tuple[Step, ...]]
    """The steps of the last walker."""

    def __init__(self) -> None:
        super().__init__()
        self.walk: list[Step] = []
        self.resources = ExitStack()
        # The folder is deleted last, after the world has closed its files.
        folder = self.resources.enter_context(tempfile.TemporaryDirectory())
        self.runner = self.resources.enter_context(asyncio.Runner())
        self.world = self.runner.run(World.open(Path(folder), *self.model.constants))
        self.resources.callback(lambda: self.runner.run(self.world.close()))
        (self.state,) = self.model.graph.initial

    @precondition(lambda self: self.state in self.model.outgoing)
    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        transition = data.draw(st.sampled_from(self.model.outgoing[self.state]).map(self.transition_of))
        self.walk.append(transition.step)
        self.runner.run(self.go(transition))

    def transition_of(self, edge: Edge) -> Transition:
        return Transition(step_of(self.model.graph, edge), edge.target)

    async def go(self, transition: Transition) -> None:
        await take(self.world, transition.step)
        compare(observe(self.world), expected(self.model.graph.states[transition.target]))
        self.state = transition.target
        type(self).taken += 1

    @precondition(lambda self: self.state not in self.model.outgoing)
    @rule()
    def restart(self) -> None:
        self.walk.clear()
        self.runner.run(self.world.reset())
        (self.state,) = self.model.graph.initial

    def teardown(self) -> None:
        type(self).last = tuple(self.walk)
        self.resources.close()


@pytest.fixture
def walker(graph: Graph) -> type[Walker]:
    """Make a walker through the replay model."""

    class ReplayWalker(Walker):
        model = ReplayModel.of(graph)
        taken = 0

    return ReplayWalker


def test_any_walk_can_be_taken(walker: type[Walker]) -> None:
    run_state_machine_as_test(walker)
    profile = settings()
    # Hypothesis counts a new start as a step; this count does not.
    assert walker.taken >= 0.85 * profile.max_examples * profile.stateful_step_count


def test_a_failing_walk_shrinks(walker: type[Walker], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*BREAKS["release-forgets-the-row"].substitution)
    few = settings(stateful_step_count=8, phases=(Phase.generate, Phase.shrink))
    with pytest.raises(Diverged, match=r"lease: the model has .*'Nobody'"):
        run_state_machine_as_test(walker, settings=few)
    assert [step.action for step in walker.last] == ["Acquire", "Sync", "Release"]


# Broken stores


Substitution: TypeAlias = "tuple[object, str, object]"
"""An object, the name of one of its attributes, and the new value."""


@dataclass(frozen=True, slots=True)
class Break:
    """A way to break one line of the store, and the message of the replay."""

    substitution: Substitution
    diverges: str


def other_sql(was: str, becomes: str) -> Substitution:
    """Replace ``was`` by other SQL in each statement."""
    rows = database.rows

    def altered(connection: sqlite3.Connection, statement: str, parameters: database.Parameters) -> list[sqlite3.Row]:
        return rows(connection, statement.replace(was, becomes), parameters)

    return (database, "rows", altered)


def keep_everything(cache: Cache[RecordName, bytes], log: ChangeLog[RecordName]) -> Cache[RecordName, bytes]:
    return replace(cache, version=log.version)


def drop_everything(_: Cache[RecordName, bytes], log: ChangeLog[RecordName]) -> Cache[RecordName, bytes]:
    return cache_rules.empty(log.version)


def fill_at_any_version(
    cache: Cache[RecordName, bytes], _: Version, key: RecordName, value: bytes | None
) -> Cache[RecordName, bytes]:
    return replace(cache, records=cache.records.insert(key, value))


async def do_nothing(*_: object) -> None:
    """Replace any asynchronous method that returns nothing."""


def note_nothing(*_: object) -> None:
    """Replace any function that returns nothing."""


def leave_in_place(self: GuardedCache, name: RecordName) -> object | None:
    return self.live.get(name)


def with_live_objects(kept: Callable[[ChangeLog[RecordName]], ChangeLog[RecordName]]) -> Substitution:
    """Let a sync drop live objects according to a different change log."""
    successor = GuardedCache.successor

    def other(
        self: GuardedCache, epoch: Epoch, log: ChangeLog[RecordName], cache: Cache[RecordName, bytes]
    ) -> GuardedCache:
        return successor(self, epoch, kept(log), cache)

    return (GuardedCache, "successor", other)


def with_no_live_objects(self: GuardedCache, epoch: Epoch, _: object, cache: Cache[RecordName, bytes]) -> GuardedCache:
    self.live = {}
    return GuardedCache(epoch, cache, {})


_publish = Streams.publish


def publish_another_record(self: Streams, log: ChangeLog[RecordName]) -> None:
    another = RecordName(COUNTER.name, b"another")
    _publish(self, replace(log, changes=tuple(replace(change, key=another) for change in log.changes)))


def admits_also(stage: Stage) -> Substitution:
    admits = guard_rules.admits
    return (guard_rules, "admits", lambda guard: admits(guard) or guard.stage is stage)


BREAKS: Mapping[str, Break] = {
    "fence-always-passes": Break(other_sql(statements.FENCE, "TRUE"), "guards:"),
    "fence-never-passes": Break(other_sql(statements.FENCE, "FALSE"), "guards:"),
    "epoch-does-not-grow": Break(other_sql("epoch = epoch + free", "epoch = max(epoch, 1)"), "lease:"),
    "held-lease-is-taken": Break(other_sql(statements.TAKEABLE, "TRUE"), "lease:"),
    "expired-lease-is-kept": Break(other_sql(statements.TAKEABLE, "holder IS NULL"), "lease:"),
    "no-waiter-is-noted": Break(other_sql("wanted = NOT free", "wanted = FALSE"), "lease:"),
    "renewal-has-no-effect": Break(
        other_sql(statements.RENEW, statements.RENEW.replace(":now + :duration", "expires")), "lease:"
    ),
    "commit-does-not-renew": Break(
        other_sql(statements.ADVANCE, statements.ADVANCE.replace(":now + :duration", "expires")), "lease:"
    ),
    "release-forgets-the-row": Break((SqliteBackend, "release", do_nothing), "lease:"),
    "truncation-forgets-the-floor": Break(other_sql(statements.RAISE_FLOOR, "SELECT 1"), "floor:"),
    "truncation-forgets-the-log": Break(other_sql(statements.TRUNCATE, "SELECT 1"), "log:"),
    "commit-forgets-the-rows": Break(
        (statements, "PUT", "UPDATE record SET value = ?3 WHERE kind = ?1 AND key = ?2"), "records:"
    ),
    "sync-drops-nothing": Break((cache_rules, "sync", keep_everything), "caches:"),
    "sync-drops-everything": Break((cache_rules, "sync", drop_everything), "caches:"),
    "sync-trusts-a-log-that-was-cut": Break((cache_rules, "reaches", lambda *_: True), "caches:"),
    "fill-does-nothing": Break((GuardedCache, "fill", note_nothing), "caches:"),
    "fill-at-any-version": Break((cache_rules, "fill", fill_at_any_version), "caches:"),
    "install-does-nothing": Break((GuardedCache, "install", note_nothing), "has the live objects of"),
    "live-object-stays-in-the-cache": Break((GuardedCache, "take", leave_in_place), "a live object differs"),
    "guard-dies-unnoticed": Break((LeaseLock, "lost", note_nothing), "guards:"),
    "waiter-is-ignored": Break((LeaseLock, "note_waiter", note_nothing), "guards:"),
    "views-do-not-ask": Break((Operation, "validate", do_nothing), "ended without an access to"),
    "load-asks-no-fence": Break(
        other_sql(statements.LOAD, statements.LOAD.replace(statements.FENCE, "TRUE")), "ended with None"
    ),
    "sync-asks-no-fence": Break(
        other_sql(statements.CHANGES, statements.CHANGES.replace(statements.FENCE, "TRUE")), "guards:"
    ),
    "listing-asks-no-fence": Break(
        other_sql(statements.KEYS, statements.KEYS.replace(statements.FENCE, "TRUE")), "ended with"
    ),
    "floor-ignored-at-load": Break(
        other_sql(statements.LOAD, statements.LOAD.replace("floor > :since OR ", "")), "ended with None"
    ),
    "floor-ignored-at-listing": Break(
        other_sql(statements.KEYS, statements.KEYS.replace("floor > :since OR ", "")), "ended with None"
    ),
    "own-lease-not-takeable": Break(
        other_sql(statements.TAKEABLE, statements.TAKEABLE.replace("holder = :instance OR ", "")), "lease:"
    ),
    "epoch-kept-on-retaking": Break(
        other_sql("epoch = epoch + free", "epoch = epoch + (free AND holder IS NOT :instance)"), "lease:"
    ),
    "live-objects-all-dropped": Break((GuardedCache, "successor", with_no_live_objects), "has the live objects of"),
    "begin-while-syncing": Break(admits_also(Stage.SYNCING), "begin here as a"),
    "begin-while-draining": Break(admits_also(Stage.DRAINING), "begin here as a"),
    "view-beside-a-commit": Break((Admission, "begin_commit", note_nothing), "begin here as a view"),
    "two-transactions-at-once": Break(
        (LeaseLock, "begin_transaction", LeaseLock.begin_view), "begin here as a transaction"
    ),
    "failures-do-not-ask": Break((Operation, "confirm", do_nothing), "ended without an access to the database"),
    "subscribers-hear-no-commits": Break((Streams, "publish", note_nothing), "heard:"),
    "subscribers-hear-another-record": Break((Streams, "publish", publish_another_record), "received a change of"),
    "subscribers-hear-nothing-foreign": Break((CryptoStore, "_publish_foreign_commits", do_nothing), "heard:"),
}


def test_only_what_did_not_change_keeps_its_live_object() -> None:
    assert asyncio.run(run_scenarios()) == SCENARIOS == 49


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (with_live_objects(lambda log: replace(log, changes=log.changes[:1])), "a live object differs"),
        (with_live_objects(lambda log: replace(log, changes=())), "a live object differs from the cached value"),
        ((GuardedCache, "successor", with_no_live_objects), r"has the live objects of \[\], and should have those of"),
    ],
)
def test_live_objects_that_are_stale_or_lost_are_noticed(
    monkeypatch: pytest.MonkeyPatch, broken: Substitution, told: str
) -> None:
    monkeypatch.setattr(*broken)
    with pytest.raises(CheckError, match=told):
        asyncio.run(run_scenarios())


def test_the_walks_can_be_taken(graph: Graph, some_walks: Sequence[Walk]) -> None:
    counted: list[int] = []
    replayed = asyncio.run(replay(graph, some_walks, counted.append))
    assert replayed.covered == {number for walk in some_walks for number in walk.edges}
    assert counted == [len(walk.edges) for walk in some_walks]
    assert replayed.steps == sum(counted)


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_store_diverges(
    graph: Graph, some_walks: Sequence[Walk], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    monkeypatch.setattr(*BREAKS[broken].substitution)
    with pytest.raises(Diverged, match=rf"{BREAKS[broken].diverges}.*\nafter Acquire\(p[12]\) "):
        asyncio.run(replay(graph, some_walks, note_nothing))


async def test_no_other_thread_takes_iterations_that_the_replay_counts(tmp_path: Path) -> None:
    world = await World.open(tmp_path, {"o1": "p1", "o3": "p2"}, ("r1",), frozenset())
    assert await asyncio.to_thread(threading.get_ident) == threading.get_ident()
    await world.close()


# The graph


def first_states(dump: Path, count: int) -> Sequence[str]:
    """Return the lines of a dump for the first ``count`` states and the edges between them."""
    lines = dump.read_text(encoding="utf-8").splitlines(keepends=True)
    nodes = {line.split(" ")[0]: line for line in lines if re.match(r"-?\d+ \[", line)}
    kept = dict.fromkeys(list(nodes)[:count])
    edges = [(re.match(r"(-?\d+) -> (-?\d+) ", line), line) for line in lines]
    return [
        *(nodes[name] for name in kept),
        *(line for edge, line in edges if edge and kept.keys() >= {*edge.groups()}),
    ]


def rename(dump: Path, action: str, other: str) -> None:
    text = dump.read_text(encoding="utf-8")
    assert f'"{action}"' in text
    dump.write_text(text.replace(f'"{action}"', f'"{other}"'), encoding="utf-8")


@pytest.fixture
def small_dump(dump: Path, tmp_path: Path) -> Path:
    path = tmp_path / "small.dot"
    path.write_text("".join(first_states(dump, 40)), encoding="utf-8")
    return path


@pytest.fixture
def low_minimums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Require only one transition of a graph."""
    monkeypatch.setattr(replaying, "MIN_TRANSITIONS", 1)
    monkeypatch.setattr(replaying, "WAYS", frozenset({"LoseGuard by sync"}))
    monkeypatch.setattr(replaying, "TRIALS", frozenset({"begin while syncing"}))


@pytest.mark.usefixtures("low_minimums")
def test_a_graph_is_replayed_on_all_cores(small_dump: Path) -> None:
    small = each_way(read_graph(small_dump))
    progress: list[tuple[int, int]] = []
    report = replay_graph(small_dump, lambda taken, steps: progress.append((taken, steps)))
    assert (report.transitions, report.covered) == (len(small.edges), len(small.edges))
    assert progress[-1][0] == progress[-1][1] == report.steps
    assert report.steps == sum(len(walk.edges) for walk in cover(small))
    assert report.ways == Counter(f"{edge.action} by {edge.way}" for edge in small.edges if edge.way)
    assert report.tried["begin while syncing"] >= 2
    assert report.scenarios == SCENARIOS


@pytest.mark.usefixtures("low_minimums")
@pytest.mark.parametrize(
    ("demand", "told"),
    [
        ("WAYS", "the replay model has no transition Lose by load"),
        ("TRIALS", "the replay model has no state in which to fly"),
        ("SCENARIOS", "49 scenarios of live objects were tried, not 50"),
    ],
)
def test_a_replay_reports_what_it_did_not_try(
    small_dump: Path, monkeypatch: pytest.MonkeyPatch, demand: str, told: str
) -> None:
    missing: object = frozenset({told.rpartition("transition ")[2].rpartition("to ")[2]})
    monkeypatch.setattr(replaying, demand, 50 if demand == "SCENARIOS" else missing)
    with pytest.raises(CheckError, match=told):
        replay_graph(small_dump, note_nothing)


def test_too_small_a_graph_is_refused(small_dump: Path) -> None:
    with pytest.raises(CheckError, match=r"has only \d+ transitions besides crashes, not 30000"):
        replay_graph(small_dump, note_nothing)


def test_crashes_do_not_make_a_graph_large(small_dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edges = len(read_graph(small_dump).edges)
    monkeypatch.setattr(replaying, "MIN_TRANSITIONS", edges)
    rename(small_dump, "Acquire", "Crash")
    with pytest.raises(CheckError, match=f"transitions besides crashes, not {edges}"):
        replay_graph(small_dump, note_nothing)


@pytest.mark.usefixtures("low_minimums")
def test_a_transition_that_was_not_covered_is_missed(small_dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_another(graph: Graph) -> Graph:
        ways = each_way(graph)
        return replace(ways, edges=(*ways.edges, ways.edges[-1]._replace(way="magic")))

    # This patch does not affect the processes that take the steps.
    monkeypatch.setattr(replaying, "each_way", with_another)
    with pytest.raises(CheckError, match="1 transitions of the replay model were not covered"):
        replay_graph(small_dump, note_nothing)


@pytest.mark.usefixtures("low_minimums")
def test_a_divergence_in_any_process_is_reported(small_dump: Path) -> None:
    rename(small_dump, "Acquire", "Fly")
    with pytest.raises(Diverged, match="no counterpart of the action Fly"):
        replay_graph(small_dump, note_nothing)
