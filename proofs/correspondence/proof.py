"""Compare the encoding with the model: in finite instances, the formulas and TLC must have the same steps.

Run `python -m proofs correspondence`. In every state that TLC reaches, each action of `encoding.model` is evaluated
with all its parameters. The successors must be exactly TLC's successors for that action. A difference is a failure,
which names the action and shows both states. A state in which a conjunct of the invariant is false is a failure too.
"""

from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path
from typing import cast

from checking.errors import CheckError
from checking.models.manifest import find_manifest, read_manifest
from checking.replay.model_states import Constants, constants_of
from checking.tlc.graph import Graph
from checking.tlc.values import ModelValue, State, Value, render_state
from proofs.correspondence.evaluation import Concrete, Interpretation, Table, compiled
from proofs.encoding.faults import FAULTS
from proofs.encoding.invariant import GUARANTEES, INVARIANT, spelled
from proofs.encoding.model import COMMITTED, LOADING, RUNNING, TRANSACTION, VIEW, Action, Model
from proofs.encoding.model import State as Formulas
from proofs.encoding.terms import FALSE, TRUE, Of, Term, among, choose, every, finite, number
from proofs.report import Examined, Failure, Say
from proofs.tlc import FUNCTIONS, constants, graph_of

Function = Mapping[Value, Value]
Projection = tuple[Concrete, ...]
Outcome = tuple[str, Projection]
"""An action, and its successors."""

MORE_FAULTS = {
    "waiter-ignored": ("Commit", "Finish", "Renew"),
}
"""The faults that violate no guarantee of the induction, with the actions that they change."""

# The clock jumps in LeaseLock only; in CryptoStoreCache a lease expires at any moment.
ONLY_ENCODED = frozenset({"ClockJump"})

NOWHERE = number(-1)  # the value of a part of a state that is not compared


@dataclass(frozen=True, slots=True)
class Instance:
    """A model of the manifest, and the steps that it does not have."""

    name: str
    absent: frozenset[str]
    """The actions that do not occur in the model."""
    modes: Mapping[str, tuple[Term, ...]]
    """The modes that each operation may have."""
    chooses: bool = False
    """Whether a holder may react later to a waiting process, and may release the lease after a failed sync."""


INSTANCES = (
    Instance("Instance", frozenset({"Fail", "Forget", "Outdated"}), dict.fromkeys(("o1", "o3"), (TRANSACTION, VIEW))),
    Instance(
        "InstanceOfThreeOperations",
        frozenset({"Fail", "Forget"}),
        {"o1": (TRANSACTION,), "o2": (TRANSACTION, VIEW), "o3": (TRANSACTION,)},
    ),
    Instance(
        "InstanceOfTwoRecords",
        frozenset({"Abort", "Crash", "Fail", "Forget", "Listen", "Outdated", "Renew", "SyncFails", "Validate", "Want"}),
        dict.fromkeys(("o1", "o3"), (TRANSACTION,)),
    ),
    Instance("InstanceOfChoices", frozenset({"Outdated"}), {"o1": (TRANSACTION,), "o3": (VIEW,)}, chooses=True),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """The steps that only one of the two has."""

    name: str
    what: str
    before: State
    after: str


class GraphReader:
    """TLC's state graph in the terms of the encoding."""

    def __init__(self, instance: Instance, graph: Graph) -> None:
        self.instance = instance
        self.graph = graph
        who = constants_of(graph.states)
        self.interpretations = [_interpretation(who, state) for state in graph.states]
        self.last_epoch = max(cast("int", interpretation["epoch"]) for interpretation in self.interpretations)
        self.last_version = max(cast("int", interpretation["version"]) for interpretation in self.interpretations)
        processes = tuple(sorted(set(who.home.values())))
        versions = self.last_version + 2  # one more for a commit
        self.universe = finite(instance.name, processes, tuple(sorted(who.home)), who.records, versions)
        model = Model(self.universe)
        projected = _projected(model, model.state)
        self.labels = tuple(projected)
        project = compiled(tuple(projected.values()))
        self.projections = [project(interpretation) for interpretation in self.interpretations]
        self.outgoing: list[set[Outcome]] = [set() for _ in graph.states]
        for edge in graph.edges:
            self.outgoing[edge.source].add((edge.action, self.projections[edge.target]))

    def is_beyond(self, action: str, interpretation: Interpretation) -> bool:
        """Return whether only the bounds of the model forbid a step. The encoding has no bounds."""
        return (action == "Acquire" and interpretation["epoch"] == self.last_epoch) or (
            action == "Commit" and interpretation["version"] == self.last_version
        )

    def shown(self, before: Projection, after: Projection) -> str:
        """Describe what a step changes."""
        changes = zip(self.labels, before, after, strict=True)
        return "; ".join(f"{label}: {was} -> {now}" for label, was, now in changes if was != now)


def wrong_start(reading: GraphReader, model: Model) -> Iterator[Difference]:
    """Compare the initial states."""
    evaluate = compiled(tuple(_projected(model, model.initial()).values()))
    for start in reading.graph.initial:
        here, encoded = reading.projections[start], evaluate(reading.interpretations[start])
        if encoded != here:
            yield Difference("Init", "differs from TLC's", reading.graph.states[start], reading.shown(here, encoded))


def wrong_conjuncts(reading: GraphReader, model: Model) -> Iterator[Difference]:
    """Find the conjuncts of the invariant, and the guarantees, that are false in a state that TLC reaches."""
    conjuncts = dict.fromkeys((*INVARIANT, *GUARANTEES))
    evaluate = compiled([conjunct(model, model.state) for conjunct in conjuncts])
    false: set[str] = set()
    for state, interpretation in zip(reading.graph.states, reading.interpretations, strict=True):
        for conjunct, holds in zip(conjuncts, evaluate(interpretation), strict=True):
            if not holds and spelled(conjunct) not in false:
                false.add(spelled(conjunct))
                yield Difference(spelled(conjunct), "is false in a state that TLC reaches", state, "")


def wrong_steps(
    reading: GraphReader, model: Model, actions: Container[str], examined: Examined
) -> Iterator[Difference]:
    """Compare the steps of these actions from every state. Report the first difference of each kind."""
    encoded = [action for action in _with_parameters(model, reading.instance) if action.name in actions]
    enabled = compiled([action.enabled for action in encoded])
    leads_to = [compiled(tuple(_projected(model, action.after).values())) for action in encoded]
    seen: set[tuple[str, str]] = set()
    for state, interpretation in enumerate(reading.interpretations):
        here = reading.projections[state]
        found = {outcome for outcome in reading.outgoing[state] if outcome[0] in actions}
        allowed: set[Outcome] = set()
        for action, possible, after in zip(encoded, enabled(interpretation), leads_to, strict=True):
            if possible and not reading.is_beyond(action.name, interpretation):
                allowed.add((action.name, after(interpretation)))
        examined[f"states of {reading.instance.name}"] += 1
        examined[f"steps in {reading.instance.name}"] += len(allowed | found)
        for what, more in (("TLC has no such step", allowed - found), ("z3 allows no such step", found - allowed)):
            for name, target in sorted(more, key=repr):
                if (name, what) not in seen:
                    seen.add((name, what))
                    yield Difference(name, what, reading.graph.states[state], reading.shown(here, target))


def _with_parameters(model: Model, instance: Instance) -> Iterator[Action]:
    """Return every action with each choice of its parameters."""
    s, universe = model.state, model.universe
    expected = _actions_in(model, instance)
    heeds = (TRUE, FALSE) if instance.chooses else (TRUE,)
    releases = (FALSE, TRUE) if instance.chooses else (FALSE,)
    made: set[str] = set()
    for action in chain(
        (make(s, p) for make in model.actions_of_processes() for p in universe.processes),
        (make(s, o) for make in model.actions_of_operations() for o in universe.operations),
        (model.begin(s, o, mode) for o in universe.operations for mode in instance.modes[str(o)]),
        (make(s, o, r) for make in (model.load, model.outdated) for o in universe.operations for r in universe.records),
        (
            model.commit(s, o, updated, releases)
            for o in universe.operations
            for updated in _parts(universe.records)
            for releases in heeds
        ),
        (model.finish(s, o, heeded) for o in universe.operations for heeded in heeds),
        (model.renew(s, p, heeded) for p in universe.processes for heeded in heeds),
        (model.sync_fails(s, p, given) for p in universe.processes for given in releases),
        (model.forget(s, p, r) for p in universe.processes for r in universe.records),
        (model.expire(s), model.truncate(s)),
    ):
        if action.name in expected:
            made.add(action.name)
            yield action
    assert made == expected, "an action was left out"


def _actions_in(model: Model, instance: Instance) -> set[str]:
    return {action.name for action in model.actions()} - ONLY_ENCODED - instance.absent


def _parts(records: tuple[Term, ...]) -> list[Of]:
    """Return every non-empty set of records, as its characteristic function."""

    def part(chosen: tuple[Term, ...]) -> Of:
        return lambda r: TRUE if any(r is each for each in chosen) else FALSE

    sizes = range(1, len(records) + 1)
    return [part(chosen) for size in sizes for chosen in combinations(records, size)]


def _projected(model: Model, s: Formulas) -> dict[str, Term]:
    """Return the parts of a state that are compared. The value of a record that is not cached, for example, is not."""
    universe = model.universe
    assert universe.highest_version is not None
    versions = range(universe.highest_version + 1)
    parts = {
        "epoch": s.epoch,
        "holder": s.holder,
        "left": s.left,
        "wanted": s.wanted,
        "version": s.version,
        "floor": s.floor,
    }
    for r in universe.records:
        parts[f"last {r}"] = s.last(r)
        for v in versions:
            known, wrote = s.version >= v, every(number(v) >= 1, s.version >= v, s.wrote(number(v), r))
            parts[f"value of {r} at {v}"] = choose(known, s.value(r, number(v)), NOWHERE)
            parts[f"base of {r} at {v}"] = choose(wrote, s.base(number(v), r), NOWHERE)
    for p in universe.processes:
        parts[f"guard of {p}"] = s.guard_stage(p)
        parts[f"epoch of {p}"] = s.guard_epoch(p)
        parts[f"cache of {p}"] = s.cache_version(p)
        parts[f"heard by {p}"] = s.heard(p)
        for r in universe.records:
            parts[f"{r} in the cache of {p}"] = choose(s.cached(p, r), s.cache_value(p, r), NOWHERE)
    for o in universe.operations:
        loading = among(s.stage(o), LOADING)
        parts[f"stage of {o}"] = s.stage(o)
        parts[f"mode of {o}"] = s.mode(o)
        parts[f"epoch of {o}"] = s.under(o)
        parts[f"version of {o}"] = s.at(o)
        parts[f"begin of {o}"] = s.begun(o)
        parts[f"waiter seen by {o}"] = s.saw_waiter(o)
        parts[f"lease released by {o}"] = s.released(o)
        # The added variable, where TLA+ has what it must be.
        parts[f"snapshot of {o}"] = choose(among(s.stage(o), RUNNING, LOADING, COMMITTED), s.snapshot(o), NOWHERE)
        parts[f"value that {o} loads"] = choose(loading, s.load_value(o), NOWHERE)
        parts[f"version that {o} loads"] = choose(loading, s.load_version(o), NOWHERE)
        for r in universe.records:
            parts[f"{r} known to {o}"] = choose(s.knows(o, r), s.known(o, r), NOWHERE)
            parts[f"{o} loads {r}"] = every(loading, among(s.load_record(o), r))
    return parts


def _interpretation(who: Constants, state: State) -> Interpretation:
    """Translate a state of the specification into the terms of the encoding. Other parts are left undefined."""
    lease, history, commits = _function(state["lease"]), _functions(state["history"]), _commits(state)
    values = {
        (_name(r), version): cast("int", value)
        for version, snapshot in enumerate(history)
        for r, value in snapshot.items()
    }
    bases = {
        (version, _name(r)): cast("int", value)
        for version, commit in enumerate(commits, 1)
        for r, value in commit.items()
    }
    wrote = {(version, r): (version, r) in bases for version in range(len(history)) for r in who.records}
    nobody = ("Nobody", "Departed")  # they take no part in anything
    guard, cache, heard = _function(state["guard"]), _function(state["cache"]), _function(state["heard"])
    op = {_name(o): _function(operation) for o, operation in _function(state["op"]).items()}
    known = {(o, _name(r)): v for o, operation in op.items() for r, v in _function(operation["known"]).items()}
    cached = {
        (_name(p), _name(r)): v for p, copy in cache.items() for r, v in _function(_function(copy)["records"]).items()
    }
    loading = {o: cast("tuple[Value, ...]", operation["loading"]) for o, operation in op.items()}

    def of_processes(functions: Function, part: str, initial: Concrete) -> Table:
        theirs = {_name(p): _concrete(_function(each)[part]) for p, each in functions.items()}
        return Table(dict.fromkeys(nobody, initial) | theirs)

    def of_operations(part: str) -> Table:
        return Table({o: _concrete(operation[part]) for o, operation in op.items()})

    committers = [o for o, each in op.items() if each["stage"] == "committed" and each["at"] == len(commits)]
    return {
        "lease_time": 1,
        "home": Table(who.home),
        "subscribes": Table({p: p in who.subscribers for p in who.home.values()}),
        "Nobody": "Nobody",
        "Departed": "Departed",
        "epoch": _concrete(lease["epoch"]),
        "holder": _name(lease["holder"]),
        "left": _concrete(lease["left"]),
        "wanted": _concrete(lease["wanted"]),
        "version": len(commits),
        "value": Table(values),
        "wrote": Table(wrote),
        "base": Table(bases),
        "floor": _concrete(state["floor"]),
        "guard_stage": of_processes(guard, "stage", "none"),
        "guard_epoch": of_processes(guard, "epoch", 0),
        "cache_version": of_processes(cache, "version", 0),
        "cached": Table(
            {(p, r): False for p in nobody for r in who.records}
            | {place: isinstance(value, int) for place, value in cached.items()}
        ),
        "cache_value": Table({place: value for place, value in cached.items() if isinstance(value, int)}),
        "heard": Table({_name(p): _last_heard(entries) for p, entries in heard.items()}),
        "stage": of_operations("stage"),
        "mode_of": Table({o: "no-mode" if each["mode"] == "none" else str(each["mode"]) for o, each in op.items()}),
        "under": of_operations("under"),
        "at": of_operations("at"),
        "begun": of_operations("begun"),
        "knows": Table({place: isinstance(value, int) for place, value in known.items()}),
        "known": Table({place: value for place, value in known.items() if isinstance(value, int)}),
        "load_record": Table({o: _name(load[0]) for o, load in loading.items() if load}),
        "load_value": Table({o: _concrete(load[1]) for o, load in loading.items() if load}),
        "load_version": Table({o: _concrete(load[2]) for o, load in loading.items() if load}),
        "saw_waiter": of_operations("sawWaiter"),
        "released": of_operations("released"),
        "last": Table({r: max([0, *(v for v, s in bases if s == r)]) for r in who.records}),
        "snapshot": Table({o: _snapshot(each, history) for o, each in op.items()}),
        "committer": min(committers, default=min(op)),
        "odd_record": min(who.records),
    }


def _snapshot(operation: Function, history: tuple[Function, ...]) -> int:
    """Return the version of the records that an operation has read.

    For a validated view, the specification has none.
    """
    at = cast("int", operation["at"])
    match operation["stage"]:
        case "running" | "loading":
            return at
        case "committed":
            return at - 1
        case _:
            known = {r: value for r, value in _function(operation["known"]).items() if isinstance(value, int)}
            fitting = (v for v, snapshot in enumerate(history) if all(snapshot[r] == known[r] for r in known))
            return next(fitting, -1)


def _last_heard(heard: Value) -> int:
    entries = _functions(heard)
    return cast("int", entries[-1]["version"]) if entries else -1


def _function(value: Value) -> Function:
    return cast("Function", value)


def _functions(value: Value) -> tuple[Function, ...]:
    return cast("tuple[Function, ...]", value)


def _commits(state: State) -> tuple[Function, ...]:
    return _functions(state["commits"])


def _name(value: Value) -> str:
    return value.name if isinstance(value, ModelValue) else str(value)


def _concrete(value: Value) -> Concrete:
    assert isinstance(value, int | str)
    return value


def compare(reading: GraphReader, model: Model, say: Say, examined: Examined) -> list[Failure]:
    """Compare one instance. Report what was compared, and the differences."""
    instance, graph = reading.instance, reading.graph
    counts = Counter(edge.action for edge in graph.edges)
    expected = _actions_in(model, instance)
    failures = [
        *(Failure(name, "TLC has no transition of that name") for name in sorted(expected - counts.keys())),
        *(Failure(name, "the encoding has no action of that name") for name in sorted(counts.keys() - expected)),
    ]
    for difference in chain(
        wrong_start(reading, model), wrong_conjuncts(reading, model), wrong_steps(reading, model, expected, examined)
    ):
        failures.append(Failure(difference.name, difference.what))
        say(f"    {difference.name}: {difference.what}")
        for line in (*render_state(difference.before).splitlines(), f"-> {difference.after}"):
            say(f"        {line}")
    result = "FAILED" if failures else "the same"
    say(f"{instance.name:<26} {len(graph.states):>7,} states {len(graph.edges):>8,} transitions  {result}")
    return [Failure(f"{instance.name}: {failure.name}", failure.verdict) for failure in failures]


def prove(say: Say, examined: Examined) -> list[Failure]:
    """Compare every instance."""
    say("The encoding against the specification, from every state that TLC reaches:")
    manifest = read_manifest(find_manifest(Path.cwd()))
    failures: list[Failure] = []
    unnoticed = {*FAULTS, *MORE_FAULTS, "clock-jump"}
    for instance in INSTANCES:
        try:
            graph, wrong = graph_of(manifest, instance.name)
        except CheckError as error:
            failures.append(Failure(instance.name, str(error)))
            continue
        reading = GraphReader(instance, graph)
        failures += wrong
        failures += compare(reading, Model(reading.universe), say, examined)
        noticed = {fault for fault in unnoticed - {"clock-jump"} if notices(reading, fault)}
        say(f"    with one rule of the encoding broken, it differs: {', '.join(sorted(noticed))}")
        unnoticed -= noticed
        examined["broken rules that are noticed"] += len(noticed)
    try:
        graph, wrong = graph_of(manifest, FUNCTIONS)
    except CheckError as error:
        return [*failures, Failure(FUNCTIONS, str(error)), *_unnoticed(unnoticed)]
    failures += wrong
    lease_time = constants(manifest.folder / f"{FUNCTIONS}.cfg")["LeaseTime"]
    differing = list(wrong_takeable(graph, lease_time, examined))
    failures += [Failure(f"{FUNCTIONS}: {each.name}", each.what) for each in differing]
    say(f"Who may take the lease, on every row: {'FAILED' if differing else 'the same'}")
    if any(True for _ in wrong_takeable(graph, lease_time, Examined(), "clock-jump")):
        say("    with one rule of the encoding broken, it differs: clock-jump")
        unnoticed.discard("clock-jump")
        examined["broken rules that are noticed"] += 1
    return [*failures, *_unnoticed(unnoticed)]


def _unnoticed(faults: set[str]) -> Iterator[Failure]:
    for fault in sorted(faults):
        yield Failure(f"the comparison with {fault} in the encoding", "finds no difference")


def wrong_takeable(graph: Graph, lease_time: int, examined: Examined, fault: str = "none") -> Iterator[Difference]:
    """Compare which processes may take the lease, on every row of a table, even on rows that no instance reaches."""
    universe = finite("Rows", ("p1", "p2"), ("o1",), ("r1",), 2)
    model = Model(universe, fault)
    evaluate = compiled([model.takeable(model.state, p) for p in universe.processes])
    compared = 0
    for state in graph.states:
        if state["function"] != "takeable" or state["output"] == ():
            continue
        compared += 1
        examined["rows that may be taken or not"] += 1
        asked = _function(state["input"])
        row = _function(asked["row"])
        interpretation: Interpretation = {
            "lease_time": lease_time,
            "Nobody": "Nobody",
            "holder": _name(row["holder"]),
            "left": _concrete(row["left"]),
        }
        answers = dict(zip(("p1", "p2"), evaluate(interpretation), strict=True))
        if state["output"] != (answers[_name(asked["process"])],):
            yield Difference("Takeable", "differs from TLC's", state, "")
            return
    if not compared:
        yield Difference("Takeable", "was compared with nothing", {}, "")


def notices(reading: GraphReader, fault: str) -> bool:
    """Return whether the comparison finds a broken rule of the encoding, in all actions or in the initial state."""
    broken = Model(reading.universe, fault)
    # A list that hides stored records is begun by Fill; what Finish adds to it comes later.
    actions = MORE_FAULTS.get(fault) or ("Fill" if fault == "partial-list" else FAULTS[fault].split()[0],)
    return any(True for _ in wrong_start(reading, broken)) or all(
        any(True for _ in wrong_steps(reading, broken, {action}, Examined())) for action in actions
    )
