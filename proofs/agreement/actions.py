"""Take each action of `tla/CryptoStoreCache.tla` by calls of `protocol`, and compare with TLC's transitions.

The functions of `protocol` decide everything about lease, guard, cache and subscribers, from each state that TLC
reaches. TLC's graph must have exactly these transitions. Besides the calls, an action here only changes the stages of
operations, as in the specification. Reads, writes and the change log of the store are not compared here; the part `sql`
has them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import chain, combinations
from pathlib import Path
from typing import TypeAlias, TypeVar

from rpds import HashTrieMap

from checking.replay.model_states import HOME
from checking.tlc.graph import Graph
from checking.tlc.values import State as Printed
from checking.tlc.values import Value
from proofs.agreement import translation as of
from proofs.agreement.translation import INSTANCES, Name
from proofs.tlc import constants, replaced
from unwedged.protocol import cache, guard, lease, stream
from unwedged.protocol.cache import Cache, ChangeLog
from unwedged.protocol.guard import NO_GUARD, Guard, Stage
from unwedged.protocol.identifiers import Epoch, Milliseconds, Version
from unwedged.protocol.lease import LONGEST_LEASE_MS, Lease
from unwedged.protocol.stream import Lagged

MODELS = ("Agreement", "AgreementOnHandover", "InstanceOfChoices")

NOW = Milliseconds(-(2**40))
"""The time of every clock. The tables of functions are compared at other times too."""

Records: TypeAlias = "HashTrieMap[Name, int]"
Heard: TypeAlias = "tuple[tuple[Version, bool], ...]"
"""The versions that a subscriber has received, and whether each was a lag."""

Translated = TypeVar("Translated")


@dataclass(frozen=True, slots=True)
class Operation:
    """The state of an operation. The fields are those of the specification."""

    stage: str
    mode: str
    under: Epoch
    at: Version
    begun: Version
    known: Records
    loading: tuple[Name, int, Version] | None
    saw_waiter: bool
    released: bool


IDLE = Operation(
    "idle", "none", Epoch(0), Version(0), Version(0), HashTrieMap(), None, saw_waiter=False, released=False
)


@dataclass(frozen=True, slots=True)
class State:
    """The variables of the specification."""

    lease: Lease
    history: tuple[Records, ...]
    commits: tuple[Records, ...]
    floor: Version
    guard: HashTrieMap[Name, Guard]
    cache: HashTrieMap[Name, Cache[Name, int]]
    heard: HashTrieMap[Name, Heard]
    op: HashTrieMap[Name, Operation]

    @property
    def version(self) -> Version:
        """The store version."""
        return Version(len(self.commits))

    def log(self, since: Version) -> ChangeLog[Name]:
        """Return the store's answer to a read of the changes after a version."""
        return of.change_log(self.commits, self.floor, since)

    def changed(self, record: Name, since: Version) -> bool:
        """Return whether the change log names a record after a version."""
        return any(record in commit for commit in self.commits[since:])


@dataclass(frozen=True, slots=True)
class Instance:
    """The constants of a model. The operations are those of its states."""

    processes: frozenset[Name]
    records: frozenset[Name]
    subscribers: frozenset[Name]
    home: Mapping[Name, Name]
    modes: Mapping[Name, frozenset[str]]
    lease_time: int
    max_epoch: int
    max_version: int
    left_out: frozenset[str]
    """The definitions that the model replaces by others without a choice."""

    def notable(self, saw_waiter: bool) -> set[bool]:
        """Return whether a process may react later or at once to a waiting process."""
        return {saw_waiter} if "Notable" in self.left_out else {False, saw_waiter}

    def working(self, s: State, p: Name, epoch: Epoch) -> list[Operation]:
        """Return the operations of a process that run under an epoch."""
        ops = (s.op[o] for o in self.home if self.home[o] == p)
        return [op for op in ops if op.stage != "idle" and op.under == epoch]


@dataclass(frozen=True, slots=True)
class Explored:
    """The states of a model, its initial states, and TLC's successors of each state by action."""

    instance: Instance
    states: tuple[State, ...]
    initial: tuple[State, ...]
    leads: Mapping[State, Mapping[str, set[State]]]


def explored(graph: Graph, configuration: Path) -> Explored:
    """Translate TLC's graph of a model."""
    instance = _instance(graph, constants(configuration), replaced(configuration))
    states = tuple(translated(state, instance.lease_time) for state in graph.states)
    leads: dict[State, defaultdict[str, set[State]]] = {state: defaultdict(set) for state in states}
    for edge in graph.edges:
        leads[states[edge.source]][edge.action].add(states[edge.target])
    return Explored(instance, states, tuple(states[number] for number in graph.initial), leads)


def _instance(graph: Graph, numbers: Mapping[str, int], left_out: frozenset[str]) -> Instance:
    modes: defaultdict[Name, set[str]] = defaultdict(set)
    subscribers: set[Name] = set()
    for state in graph.states:
        for o, op in of.function(state["op"]).items():
            modes[of.name(o)].add(str(of.function(op)["mode"]))
        subscribers.update(of.name(p) for p, entries in of.function(state["heard"]).items() if entries)
    return Instance(
        processes=frozenset(map(of.name, of.function(graph.states[0]["guard"]))),
        records=frozenset(map(of.name, of.function(of.sequence(graph.states[0]["history"])[0]))),
        subscribers=frozenset(subscribers),
        home={o: Name(HOME[o.name]) for o in modes},
        modes={o: frozenset(seen - {IDLE.mode}) for o, seen in modes.items()},
        lease_time=numbers["LeaseTime"],
        max_epoch=numbers["MaxEpoch"],
        max_version=numbers["MaxVersion"],
        left_out=left_out,
    )


def translated(printed: Printed, lease_time: int) -> State:
    """Translate a state that TLC has printed."""
    row = printed["lease"]
    return State(
        lease=of.row(row, Milliseconds(NOW + of.left(row) * LONGEST_LEASE_MS // lease_time)),
        history=tuple(map(of.records, of.sequence(printed["history"]))),
        commits=tuple(map(of.records, of.sequence(printed["commits"]))),
        floor=Version(of.number(printed["floor"])),
        guard=_by_name(of.guard, printed["guard"]),
        cache=_by_name(of.cache, printed["cache"]),
        heard=_by_name(_heard, printed["heard"]),
        op=_by_name(_operation, printed["op"]),
    )


def _by_name(translate: Callable[[Value], Translated], value: Value) -> HashTrieMap[Name, Translated]:
    return HashTrieMap((of.name(key), translate(each)) for key, each in of.function(value).items())


def _heard(value: Value) -> Heard:
    entries = map(of.function, of.sequence(value))
    return tuple((Version(of.number(entry["version"])), of.truth(entry["lagged"])) for entry in entries)


def _operation(value: Value) -> Operation:
    op = of.function(value)
    loading = of.sequence(op["loading"])
    return Operation(
        stage=str(op["stage"]),
        mode=str(op["mode"]),
        under=Epoch(of.number(op["under"])),
        at=Version(of.number(op["at"])),
        begun=Version(of.number(op["begun"])),
        known=of.records(op["known"]),
        loading=(of.name(loading[0]), of.number(loading[1]), Version(of.number(loading[2]))) if loading else None,
        saw_waiter=of.truth(op["sawWaiter"]),
        released=of.truth(op["released"]),
    )


def first_state(i: Instance) -> State:
    """Return the initial state: a new store and new processes."""
    return State(
        lease=Lease(Epoch(0), None, NOW, wanted=False),
        history=(HashTrieMap((r, 0) for r in i.records),),
        commits=(),
        floor=Version(0),
        guard=HashTrieMap((p, NO_GUARD) for p in i.processes),
        cache=HashTrieMap((p, cache.empty(Version(0))) for p in i.processes),
        heard=HashTrieMap((p, ()) for p in i.processes),
        op=HashTrieMap((o, IDLE) for o in i.home),
    )


def _acquire(i: Instance, s: State) -> Iterator[State]:
    for p in i.processes:
        if s.guard[p].stage is Stage.NONE and s.lease.epoch < i.max_epoch:
            row = lease.acquire(s.lease, INSTANCES[p], NOW, LONGEST_LEASE_MS)
            if row is not None:
                yield replace(s, lease=row, guard=s.guard.insert(p, guard.taken(row.epoch)))


def _want(i: Instance, s: State) -> Iterator[State]:
    for p in i.processes:
        if s.guard[p].stage is Stage.NONE and not lease.takeable(s.lease, INSTANCES[p], NOW) and not s.lease.wanted:
            yield replace(s, lease=lease.want(s.lease))


def _sync(i: Instance, s: State) -> Iterator[State]:
    for p in i.processes:
        synced = guard.synced(s.guard[p], s.guard[p].epoch)
        if synced != s.guard[p] and lease.fence(s.lease, s.guard[p].epoch):
            new = cache.sync(s.cache[p], s.log(s.cache[p].version))
            heard = _heard_after(s.heard[p], s.log(Version(0))) or ((s.version, False),)
            yield replace(
                s,
                guard=s.guard.insert(p, synced),
                cache=s.cache.insert(p, new),
                heard=s.heard.insert(p, heard if p in i.subscribers else ()),
            )


def _heard_after(heard: Heard, log: ChangeLog[Name]) -> Heard:
    """Return what a subscriber has received after it got the changes of the log; nothing without a subscriber."""
    if not heard:
        return ()
    version, _ = heard[-1]
    news = stream.news(version, log)
    # The specification has the bases of each commit, the code only the records that it wrote.
    return heard + tuple(dict.fromkeys((item.version, isinstance(item, Lagged)) for item in news))


def _sync_fails(i: Instance, s: State) -> Iterator[State]:
    for p in i.processes:
        if s.guard[p].stage is Stage.SYNCING:
            epoch = s.guard[p].epoch
            failed = replace(s, guard=s.guard.insert(p, guard.lost(s.guard[p], epoch)))
            yield failed
            row = lease.release(s.lease, epoch)
            if row is not None and "LeftBehind" not in i.left_out:
                yield replace(failed, lease=replace(row, expires=NOW))


def _begin(i: Instance, s: State) -> Iterator[State]:
    for o, p in i.home.items():
        if s.op[o].stage != "idle" or not guard.admits(s.guard[p]):
            continue
        epoch, at, known = s.guard[p].epoch, s.cache[p].version, of.known(s.cache[p])
        running = replace(IDLE, stage="running", under=epoch, at=at, known=known)
        working = i.working(s, p, epoch)
        if "transaction" in i.modes[o] and all(other.mode == "view" for other in working):
            yield _with(s, o, replace(running, mode="transaction"))
        if "view" in i.modes[o] and all(other.stage != "committed" for other in working):
            yield _with(s, o, replace(running, mode="view", begun=s.version))


def _with(s: State, o: Name, op: Operation) -> State:
    return replace(s, op=s.op.insert(o, op))


def _load(i: Instance, s: State) -> Iterator[State]:
    for o, r, op in _asking(i, s):
        if cache.reaches(s.floor, op.at) and not s.changed(r, op.at):
            yield _with(s, o, replace(op, stage="loading", loading=(r, s.history[-1][r], s.version)))


def _outdated(i: Instance, s: State) -> Iterator[State]:
    for o, r, op in _asking(i, s):
        if not cache.reaches(s.floor, op.at) or s.changed(r, op.at):
            yield _with(s, o, IDLE)


def _asking(i: Instance, s: State) -> Iterator[tuple[Name, Name, Operation]]:
    """Yield the operations that pass the fence, each with a record that it does not know."""
    for o in i.home:
        op = s.op[o]
        if op.stage == "running" and lease.fence(s.lease, op.under):
            for r in i.records:
                if r not in op.known:
                    yield o, r, op


def _fill(i: Instance, s: State) -> Iterator[State]:
    for o, p in i.home.items():
        op = s.op[o]
        if op.loading is not None:
            r, value, version = op.loading
            filled = s.cache[p]
            if guard.stands(s.guard[p], op.under):
                filled = cache.fill(filled, version, r, value)
            op = replace(op, stage="running", loading=None, known=op.known.insert(r, value))
            yield replace(_with(s, o, op), cache=s.cache.insert(p, filled))


def _commit(i: Instance, s: State) -> Iterator[State]:
    for o, p in i.home.items():
        op = s.op[o]
        if op.stage != "running" or op.mode != "transaction" or s.version >= i.max_version:
            continue
        for may_release in i.notable(len(i.working(s, p, op.under)) == 1):
            row = lease.commit(s.lease, op.under, NOW, LONGEST_LEASE_MS, may_release)
            if row is None:
                continue
            released = row.holder is None
            # The remaining time of a lease without a holder has no meaning. In the specification it is 0.
            row = replace(row, expires=NOW) if released else row
            for updated in chain.from_iterable(combinations(op.known, n + 1) for n in range(len(op.known))):
                base = HashTrieMap((r, op.known[r]) for r in updated)
                snapshot = s.history[-1].update({r: value + 1 for r, value in base.items()})
                version = Version(s.version + 1)
                done = replace(
                    op, stage="committed", at=version, known=base, saw_waiter=s.lease.wanted, released=released
                )
                commits, history = (*s.commits, base), (*s.history, snapshot)
                yield replace(_with(s, o, done), lease=row, commits=commits, history=history)


def _validate(i: Instance, s: State) -> Iterator[State]:
    for o in i.home:
        if s.op[o].mode == "view":
            yield from _validated(s, o)


def _fail(i: Instance, s: State) -> Iterator[State]:
    for o in i.home:
        if "Fail" not in i.left_out:
            yield from _validated(s, o)


def _validated(s: State, o: Name) -> Iterator[State]:
    op = s.op[o]
    if op.stage == "running" and op.known and lease.fence(s.lease, op.under):
        yield _with(s, o, replace(op, stage="validated", at=Version(0), begun=Version(0), saw_waiter=s.lease.wanted))


def _finish(i: Instance, s: State) -> Iterator[State]:
    for o, p in i.home.items():
        op = s.op[o]
        if op.stage not in ("committed", "validated"):
            continue
        finished = _with(s, o, IDLE)
        if op.stage == "committed":
            installed, written = s.cache[p], s.commits[op.at - 1]
            if guard.stands(s.guard[p], op.under):
                installed = cache.install(installed, op.at, {r: base + 1 for r, base in written.items()})
            own = of.change_log(s.commits[: op.at], op.at - 1, op.at - 1)
            heard = s.heard.insert(p, _heard_after(s.heard[p], own))
            finished = replace(finished, cache=s.cache.insert(p, installed), heard=heard)
        for saw_waiter in i.notable(op.saw_waiter):
            held = (
                guard.lost(s.guard[p], op.under)
                if op.released
                else guard.waiter_noted(s.guard[p], op.under, saw_waiter)
            )
            yield replace(finished, guard=s.guard.insert(p, held))


def _lose(i: Instance, s: State) -> Iterator[State]:
    for o, p in i.home.items():
        if s.op[o].stage == "running" and not lease.fence(s.lease, s.op[o].under):
            yield replace(_with(s, o, IDLE), guard=s.guard.insert(p, guard.lost(s.guard[p], s.op[o].under)))


def _abort(i: Instance, s: State) -> Iterator[State]:
    for o in i.home:
        if s.op[o].stage in ("running", "loading"):
            yield _with(s, o, IDLE)


def _renew(i: Instance, s: State) -> Iterator[State]:
    for p in i.processes:
        row = lease.renew(s.lease, s.guard[p].epoch, NOW, LONGEST_LEASE_MS)
        if s.guard[p].stage is not Stage.NONE and row is not None:
            for saw_waiter in i.notable(s.lease.wanted):
                noted = guard.waiter_noted(s.guard[p], s.guard[p].epoch, saw_waiter)
                yield replace(s, lease=row, guard=s.guard.insert(p, noted))


def _lose_guard(i: Instance, s: State) -> Iterator[State]:
    for p in i.processes:
        if s.guard[p].stage is not Stage.NONE and not lease.fence(s.lease, s.guard[p].epoch):
            yield replace(s, guard=s.guard.insert(p, guard.lost(s.guard[p], s.guard[p].epoch)))


def _release(i: Instance, s: State) -> Iterator[State]:
    for p in i.processes:
        epoch = s.guard[p].epoch
        row = lease.release(s.lease, epoch)
        if guard.releasable(s.guard[p], len(i.working(s, p, epoch))) and row is not None:
            # The remaining time of a lease without a holder has no meaning. In the specification it is 0.
            yield replace(s, lease=replace(row, expires=NOW), guard=s.guard.insert(p, guard.lost(s.guard[p], epoch)))


def _expire(_: Instance, s: State) -> Iterator[State]:
    if s.lease.expires > NOW and s.lease.holder is not None:
        yield replace(s, lease=replace(s.lease, expires=NOW))


def _crash(i: Instance, s: State) -> Iterator[State]:
    for p in i.processes:
        holder = INSTANCES[of.DEPARTED] if s.lease.holder == INSTANCES[p] else s.lease.holder
        ended = HashTrieMap((o, IDLE if i.home[o] == p else op) for o, op in s.op.items())
        empty: Cache[Name, int] = cache.empty(Version(0))
        busy = any(i.home[o] == p and op.stage != "idle" for o, op in s.op.items())
        if s.guard[p].stage is not Stage.NONE or s.cache[p] != empty or busy:
            yield replace(
                s,
                lease=replace(s.lease, holder=holder),
                guard=s.guard.insert(p, NO_GUARD),
                cache=s.cache.insert(p, empty),
                heard=s.heard.insert(p, ()),
                op=ended,
            )


def _forget(i: Instance, s: State) -> Iterator[State]:
    for p in i.processes:
        for r in of.known(s.cache[p]):
            if "Forget" not in i.left_out:
                yield replace(s, cache=s.cache.insert(p, cache.forget(s.cache[p], [r])))


def _truncate(_: Instance, s: State) -> Iterator[State]:
    if s.floor < s.version:
        yield replace(s, floor=s.version)


def _listen(i: Instance, s: State) -> Iterator[State]:
    for p in i.subscribers:
        heard = _heard_after(s.heard[p], s.log(Version(0)))
        if s.guard[p].stage is Stage.NONE and heard != s.heard[p]:
            yield replace(s, heard=s.heard.insert(p, heard))


ACTIONS: Mapping[str, tuple[Callable[[Instance, State], Iterator[State]], frozenset[str]]] = {
    "Acquire": (_acquire, frozenset({"lease.acquire", "guard.taken"})),
    "Want": (_want, frozenset({"lease.takeable", "lease.want"})),
    "Sync": (_sync, frozenset({"lease.fence", "guard.synced", "cache.sync", "stream.news"})),
    "SyncFails": (_sync_fails, frozenset({"guard.lost", "lease.release"})),
    "Begin": (_begin, frozenset({"guard.admits"})),
    "Load": (_load, frozenset({"lease.fence", "cache.reaches"})),
    "Outdated": (_outdated, frozenset({"lease.fence", "cache.reaches"})),
    "Fill": (_fill, frozenset({"guard.stands", "cache.fill"})),
    "Commit": (_commit, frozenset({"lease.commit"})),
    "Validate": (_validate, frozenset({"lease.fence"})),
    "Fail": (_fail, frozenset({"lease.fence"})),
    "Finish": (
        _finish,
        frozenset({"guard.waiter_noted", "guard.lost", "guard.stands", "cache.install", "stream.news"}),
    ),
    "Lose": (_lose, frozenset({"lease.fence", "guard.lost"})),
    "Abort": (_abort, frozenset()),
    "Renew": (_renew, frozenset({"lease.renew", "guard.waiter_noted"})),
    "LoseGuard": (_lose_guard, frozenset({"lease.fence", "guard.lost"})),
    "Release": (_release, frozenset({"lease.release", "guard.releasable", "guard.lost"})),
    "Expire": (_expire, frozenset()),
    "Crash": (_crash, frozenset({"cache.empty"})),
    "Forget": (_forget, frozenset({"cache.forget"})),
    "Truncate": (_truncate, frozenset()),
    "Listen": (_listen, frozenset({"stream.news"})),
}
"""For each action: the function that gives its successors, and the functions of the code that decide them."""

OF_THE_LOCK_ALONE = frozenset({"guard.overdue"})
"""The functions that decide only steps of `LeaseLock.tla`, which is about progress. Here a lease may expire at any
moment."""


def compare(model: Explored) -> Iterator[tuple[str, str | None]]:
    """Yield the action of each comparison, and how the successors of TLC and of the code differ, if they do."""
    for state in model.initial:
        yield "Init", None if state == first_state(model.instance) else f"the specification begins with {state}"
    for before in model.states:
        leads = model.leads[before]
        for action in {**ACTIONS, **leads}:
            specified = leads.get(action, set())
            coded = set(ACTIONS[action][0](model.instance, before)) if action in ACTIONS else set()
            difference = None if specified == coded else _shown(before, specified - coded, coded - specified)
            for _ in specified | coded:
                yield action, difference


def _shown(before: State, specified: set[State], coded: set[State]) -> str:
    def changes(after: State) -> str:
        parts = ((field.name, getattr(before, field.name), getattr(after, field.name)) for field in fields(State))
        # Not "!=": it is wrong for two of rpds's maps that have an equal entry.
        return ", ".join(f"{name}: {new}" for name, old, new in parts if not old == new)  # noqa: SIM201

    def either(states: set[State]) -> str:
        return " or ".join(sorted(map(changes, states))) or "nowhere else"

    return f"the specification leads to {either(specified)}; the code to {either(coded)}; from {before}"
