"""Encode `tla/CryptoStoreCache.tla` as formulas: its state and each action, under the same names.

A state is a record of terms and of functions to terms. An action says when it is possible, and gives the next state as
an expression of the current state. So no action needs a quantifier to say what does not change. A fault breaks the same
line here as in TLA+.

Three auxiliary variables are added. No action depends on them, except that `last` replaces a search of the change log.
One of the obligations shows that `last` gives the same answer.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from proofs.encoding.terms import (
    BOOLEAN,
    FALSE,
    NUMBER,
    TRUE,
    Of,
    Of2,
    Sort,
    Term,
    Universe,
    among,
    choice,
    choose,
    constant,
    either,
    eq,
    every,
    function,
    function2,
    implies,
    ne,
    no,
    number,
    put,
    put_if,
    put_row,
)

GUARD_STAGE, (NONE, SYNCING, HELD, DRAINING) = choice("GuardStage", "none", "syncing", "held", "draining")
STAGE, (IDLE, RUNNING, LOADING, COMMITTED, VALIDATED) = choice(
    "Stage", "idle", "running", "loading", "committed", "validated"
)
MODE, (NO_MODE, TRANSACTION, VIEW) = choice("Mode", "no-mode", "transaction", "view")

NOT_SUBSCRIBED = number(-1)
ZERO = number(0)


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The variables of the specification."""

    # The lease row.
    epoch: Term
    holder: Term
    left: Term
    wanted: Term
    # The store: by record and version its value; by version and record what the commit that made the version wrote,
    # and from which value it computed that.
    version: Term
    value: Of2
    wrote: Of2
    base: Of2
    floor: Term
    # By process.
    guard_stage: Of
    guard_epoch: Of
    cache_version: Of
    cached: Of2
    cache_value: Of2
    heard: Of  # the last version its subscriber heard of
    # By operation.
    stage: Of
    mode: Of
    under: Of
    at: Of
    begun: Of
    knows: Of2
    known: Of2
    load_record: Of
    load_value: Of
    load_version: Of
    saw_waiter: Of
    released: Of
    # Added for the proof.
    last: Of  # by record, the last version that wrote it
    snapshot: Of  # by operation, the version that what it knows is of
    committer: Term  # the operation that made the last commit


@dataclass(frozen=True, slots=True, eq=False)
class Action:
    """One action of the specification, with its parameters."""

    name: str
    parameters: tuple[Term, ...]
    enabled: Term
    after: State


class Model:
    """The specification over a universe, with one rule broken or none."""

    def __init__(self, universe: Universe, fault: str = "none") -> None:
        self.universe = universe
        self.fault = fault
        process, operation, record = universe.process, universe.operation, universe.record
        self.home = function("home", operation, process)
        self.subscribes = function("subscribes", process, BOOLEAN)
        self.lease_time = constant("lease_time", NUMBER)
        self.p = constant("p", process)
        self.o = constant("o", operation)
        self.r = constant("r", record)
        self.mode = constant("mode", MODE)
        self.updated = function("updated", record, BOOLEAN)
        self.any_number = constant("any_number", NUMBER)
        self.chosen = constant("chosen", BOOLEAN)  # what a process is free to do or not
        self.odd_record = constant("odd_record", record)  # the one that a second cache holds
        self.state = self._any_state()

    def broken(self, slug: str) -> bool:
        """Return whether this rule is broken."""
        return self.fault == slug

    def real(self, process: Term) -> Term:
        """Return whether a value is a process, not one of the two values for "no process" as the holder."""
        return every(ne(process, self.universe.nobody), ne(process, self.universe.departed))

    @property
    def assumptions(self) -> list[Term]:
        """What is constant, and the parameters of an action."""
        assumed = [
            ne(self.universe.nobody, self.universe.departed),
            self.universe.each(self.universe.operation, lambda o: self.real(self.home(o))),
            self.lease_time > 0,
            self.real(self.p),
            ne(self.mode, NO_MODE),
        ]
        if self.universe.highest_version is not None:
            assumed.append(self.state.version <= self.universe.highest_version)
        return assumed

    def _any_state(self) -> State:
        process, operation, record = self.universe.process, self.universe.operation, self.universe.record

        def of_process(name: str, result: Sort = NUMBER) -> Of:
            return function(name, process, result)

        def of_operation(name: str, result: Sort = NUMBER) -> Of:
            return function(name, operation, result)

        return State(
            epoch=constant("epoch", NUMBER),
            holder=constant("holder", process),
            left=constant("left", NUMBER),
            wanted=constant("wanted", BOOLEAN),
            version=constant("version", NUMBER),
            value=function2("value", record, NUMBER, NUMBER),
            wrote=function2("wrote", NUMBER, record, BOOLEAN),
            base=function2("base", NUMBER, record, NUMBER),
            floor=constant("floor", NUMBER),
            guard_stage=of_process("guard_stage", GUARD_STAGE),
            guard_epoch=of_process("guard_epoch"),
            cache_version=of_process("cache_version"),
            cached=function2("cached", process, record, BOOLEAN),
            cache_value=function2("cache_value", process, record, NUMBER),
            heard=of_process("heard"),
            stage=of_operation("stage", STAGE),
            mode=of_operation("mode_of", MODE),
            under=of_operation("under"),
            at=of_operation("at"),
            begun=of_operation("begun"),
            knows=function2("knows", operation, record, BOOLEAN),
            known=function2("known", operation, record, NUMBER),
            load_record=of_operation("load_record", record),
            load_value=of_operation("load_value"),
            load_version=of_operation("load_version"),
            saw_waiter=of_operation("saw_waiter", BOOLEAN),
            released=of_operation("released", BOOLEAN),
            last=function("last", record, NUMBER),
            snapshot=of_operation("snapshot"),
            committer=constant("committer", operation),
        )

    def initial(self) -> State:
        """Return the initial state. The record of a load that is not running is left undefined."""
        return replace(
            self.state,
            epoch=ZERO,
            holder=self.universe.nobody,
            left=ZERO,
            wanted=FALSE,
            version=ZERO,
            value=lambda _r, _v: ZERO,
            wrote=lambda _v, _r: FALSE,
            floor=ZERO,
            guard_stage=lambda _p: NONE,
            guard_epoch=lambda _p: ZERO,
            cache_version=lambda _p: ZERO,
            # The fault: loaded before the lock.
            cached=lambda _p, _r: TRUE if self.broken("first-acquire-is-clean") else FALSE,
            cache_value=lambda _p, _r: ZERO,
            heard=lambda _p: NOT_SUBSCRIBED,
            stage=lambda _o: IDLE,
            mode=lambda _o: NO_MODE,
            under=lambda _o: ZERO,
            at=lambda _o: ZERO,
            begun=lambda _o: ZERO,
            knows=lambda _o, _r: FALSE,
            saw_waiter=lambda _o: FALSE,
            released=lambda _o: FALSE,
            last=lambda _r: ZERO,
            snapshot=lambda _o: ZERO,
        )

    # The words of the lock (Lease.tla).

    def fence_passes(self, s: State, epoch: Term) -> Term:
        """Somebody holds the lease, and under that epoch."""
        return every(ne(s.holder, self.universe.nobody), eq(s.epoch, epoch))

    def takeable(self, s: State, p: Term) -> Term:
        """Return whether the process may take the lease: it is free, the process's own, expired or absurd."""
        absurd = FALSE if self.broken("clock-jump") else s.left > self.lease_time
        return either(eq(s.holder, self.universe.nobody), eq(s.holder, p), eq(s.left, 0), absurd)

    def stands(self, s: State, p: Term, epoch: Term) -> Term:
        """Return whether the process's guard has that epoch and was synced."""
        return every(eq(s.guard_epoch(p), epoch), among(s.guard_stage(p), HELD, DRAINING))

    def waiter_noted(self, s: State, p: Term, saw_waiter: Term) -> Of:
        """Return the stages of guards after one guard has seen whether a process waits."""
        if self.broken("waiter-ignored"):
            return s.guard_stage
        return put(s.guard_stage, p, choose(every(saw_waiter, eq(s.guard_stage(p), HELD)), DRAINING, s.guard_stage(p)))

    def hands_over(self, s: State, may_release: Term) -> Term:
        """Return whether a commit releases the lease instead of renewing it (P5.17)."""
        return FALSE if self.broken("waiter-ignored") else every(s.wanted, may_release)

    # Operations.

    def working_under(self, s: State, p: Term, epoch: Term, o: Term) -> Term:
        """Return whether the operation is running in the process under that epoch."""
        return every(eq(self.home(o), p), ne(s.stage(o), IDLE), eq(s.under(o), epoch))

    def may_release(self, s: State, o: Term) -> Term:
        """Return whether no other operation runs under its guard, so that its commit may release the lease."""
        return self.universe.each(
            self.universe.operation,
            lambda other: implies(self.working_under(s, self.home(o), s.under(o), other), eq(other, o)),
        )

    def uses_cache(self, s: State, o: Term) -> Term:
        """Return whether its process still has the cache that the operation began with."""
        p = self.home(o)
        if self.broken("dirty-hidden-from-reentrant") or self.broken("reload-race"):
            return eq(s.guard_epoch(p), s.under(o))
        return self.stands(s, p, s.under(o))

    def may_access(self, s: State, o: Term) -> Term:
        """Return whether the operation passes the fence (P4.2)."""
        return self.fence_passes(s, s.under(o))

    def unguarded(self, s: State, o: Term) -> Term:
        """Return whether the operation writes without the lock, which only a fault allows."""
        return eq(s.under(o), 0) if self.broken("save-without-lock") else FALSE

    def changed_after(self, s: State, r: Term, version: Term) -> Term:
        """Return whether the change log names a record after a version. Its lines up to the floor are deleted."""
        return every(s.last(r) > version, s.last(r) > s.floor)

    def _idle(self, s: State, o: Term) -> State:
        return replace(
            s,
            stage=put(s.stage, o, IDLE),
            mode=put(s.mode, o, NO_MODE),
            under=put(s.under, o, 0),
            at=put(s.at, o, 0),
            begun=put(s.begun, o, 0),
            knows=put_row(s.knows, o, lambda _r: FALSE),
            saw_waiter=put(s.saw_waiter, o, FALSE),
            released=put(s.released, o, FALSE),
            snapshot=put(s.snapshot, o, 0),
        )

    def _without_guard(self, s: State, p: Term) -> State:
        return replace(s, guard_stage=put(s.guard_stage, p, NONE), guard_epoch=put(s.guard_epoch, p, 0))

    # The actions.

    def acquire(self, s: State, p: Term) -> Action:
        """P1.1 to P1.5."""
        if self.broken("holder-name-reuse"):  # the row bears "our" name, so it must be ours
            after = replace(s, guard_stage=put(s.guard_stage, p, SYNCING), guard_epoch=put(s.guard_epoch, p, s.epoch))
            return Action("Acquire", (p,), every(eq(s.guard_stage(p), NONE), self.real(s.holder)), after)
        epoch = s.epoch + 1
        if self.broken("reacquire-keeps-epoch"):
            epoch = choose(eq(s.holder, p), s.epoch, epoch)
        after = replace(
            s,
            epoch=epoch,
            holder=p,
            left=self.lease_time,
            wanted=FALSE,
            guard_stage=put(s.guard_stage, p, SYNCING),
            guard_epoch=put(s.guard_epoch, p, epoch),
        )
        if self.broken("reload-race"):  # the version is noted, the reload follows
            after = replace(after, cache_version=put(s.cache_version, p, s.version))
        return Action("Acquire", (p,), every(eq(s.guard_stage(p), NONE), self.takeable(s, p)), after)

    def want(self, s: State, p: Term) -> Action:
        """P1.3. A refused acquisition notes that a process waits."""
        enabled = every(eq(s.guard_stage(p), NONE), no(self.takeable(s, p)), no(s.wanted))
        return Action("Want", (p,), enabled, replace(s, wanted=TRUE))

    def sync(self, s: State, p: Term) -> Action:
        """P2.4, P2.5. Drop the records that have changed. Only after that the guard can be used."""
        old = s.cache_version(p)

        def kept(r: Term) -> Term:
            reaches = TRUE if self.broken("floor-ignored-at-sync") else s.floor <= old
            keep = every(s.cached(p, r), no(self.changed_after(s, r, old)), reaches)
            if self.broken("session-cache-survives"):
                return choose(eq(r, self.odd_record), s.cached(p, r), keep)
            if self.broken("first-acquire-is-clean"):
                return choose(eq(old, 0), s.cached(p, r), keep)
            return keep

        enabled = every(eq(s.guard_stage(p), SYNCING), self.fence_passes(s, s.guard_epoch(p)))
        silent = s.heard(p) > s.version
        if self.broken("foreign-writes-unseen"):
            silent = ne(s.heard(p), NOT_SUBSCRIBED)
        if self.broken("streams-lost"):  # they hang on what is invalidated
            dropped = self.universe.some(self.universe.record, lambda r: every(s.cached(p, r), no(kept(r))))
            silent = every(ne(s.heard(p), NOT_SUBSCRIBED), dropped)
        if self.broken("floor-ignored-in-stream"):
            silent = every(ne(s.heard(p), NOT_SUBSCRIBED), self.sees_nothing(s, p))
        heard = choose(silent, s.heard(p), s.version)
        # The fault: the version is thrown away with what was invalidated.
        version = ZERO if self.broken("generation-in-machine") else s.version
        after = replace(
            s,
            cache_version=put(s.cache_version, p, version),
            cached=put_row(s.cached, p, kept),
            guard_stage=put(s.guard_stage, p, HELD),
            heard=put(s.heard, p, choose(self.subscribes(p), heard, NOT_SUBSCRIBED)),
        )
        return Action("Sync", (p,), enabled, after)

    def sync_fails(self, s: State, p: Term, releases: Term) -> Action:
        """P2.10, P2.11. There is no guard, and the cache does not change. The lease is released, or expires later."""
        after = self._without_guard(s, p)
        if self.broken("reload-failure-swallowed"):
            after = replace(after, cache_version=put(s.cache_version, p, s.version))
        released = every(releases, self.fence_passes(s, s.guard_epoch(p)))
        after = replace(
            after, holder=choose(released, self.universe.nobody, s.holder), left=choose(released, 0, s.left)
        )
        return Action("SyncFails", (p, releases), eq(s.guard_stage(p), SYNCING), after)

    def begin(self, s: State, o: Term, mode: Term) -> Action:
        """P2.1, P5.1, P5.15. An operation begins under a guard, with the current cache."""
        p = self.home(o)
        admits = eq(s.guard_stage(p), HELD)
        if self.broken("dirty-hidden-from-reentrant"):
            admits = either(admits, eq(s.guard_stage(p), SYNCING))
        if self.broken("save-without-lock"):
            admits = either(admits, eq(s.guard_stage(p), NONE))
        if self.broken("reload-race"):
            admits = either(admits, every(eq(s.guard_stage(p), SYNCING), eq(s.cache_version(p), s.version)))

        def allows(other: Term) -> Term:
            writes = TRUE if self.broken("two-live-copies") else implies(eq(mode, TRANSACTION), eq(s.mode(other), VIEW))
            settled = implies(eq(mode, VIEW), ne(s.stage(other), COMMITTED))
            return implies(self.working_under(s, p, s.guard_epoch(p), other), every(writes, settled))

        enabled = every(eq(s.stage(o), IDLE), admits, self.universe.each(self.universe.operation, allows))
        after = replace(
            s,
            stage=put(s.stage, o, RUNNING),
            mode=put(s.mode, o, mode),
            under=put(s.under, o, s.guard_epoch(p)),
            at=put(s.at, o, s.cache_version(p)),
            begun=put(s.begun, o, choose(eq(mode, VIEW), s.version, 0)),
            knows=put_row(s.knows, o, lambda r: either(s.cached(p, r), s.knows(o, r))),
            known=put_row(s.known, o, lambda r: choose(s.cached(p, r), s.cache_value(p, r), s.known(o, r))),
            snapshot=put(s.snapshot, o, s.cache_version(p)),
        )
        return Action("Begin", (o, mode), enabled, after)

    def load(self, s: State, o: Term, r: Term) -> Action:
        """P4.5, P4.6. A record that is not cached is loaded, if it has not changed since the snapshot."""
        enabled = every(eq(s.stage(o), RUNNING), no(s.knows(o, r)))
        if not self.broken("unfenced-load"):
            reaches = TRUE if self.broken("floor-ignored-at-load") else s.floor <= s.at(o)
            unchanged = every(no(self.changed_after(s, r, s.at(o))), reaches)
            enabled = every(enabled, either(every(self.may_access(s, o), unchanged), self.unguarded(s, o)))
        after = replace(
            s,
            stage=put(s.stage, o, LOADING),
            load_record=put(s.load_record, o, r),
            load_value=put(s.load_value, o, s.value(r, s.version)),
            load_version=put(s.load_version, o, s.version),
        )
        return Action("Load", (o, r), enabled, after)

    def fill(self, s: State, o: Term) -> Action:
        """P4.8. The loaded record arrives: in the operation, and in the cache if that has the same version."""
        p, r, value = self.home(o), s.load_record(o), s.load_value(o)
        fills = every(self.uses_cache(s, o), eq(s.cache_version(p), s.load_version(o)), no(s.cached(p, r)))
        if self.broken("partial-list"):
            fills = FALSE
        after = replace(
            s,
            stage=put(s.stage, o, RUNNING),
            knows=put_row(s.knows, o, put(lambda x: s.knows(o, x), r, TRUE)),
            known=put_row(s.known, o, put(lambda x: s.known(o, x), r, value)),
            cached=put_row(s.cached, p, lambda x: either(s.cached(p, x), every(fills, eq(x, r)))),
            cache_value=put_row(s.cache_value, p, lambda x: choose(every(fills, eq(x, r)), value, s.cache_value(p, x))),
        )
        return Action("Fill", (o,), eq(s.stage(o), LOADING), after)

    def commit(self, s: State, o: Term, updated: Of, releases: Term) -> Action:
        """P5.16 to P5.18. One fenced step writes the records, the version, the change log and the lease.

        Whether it releases a lease that it may release is its own choice: others may come next.
        """
        record, version = self.universe.record, s.version + 1
        enabled = every(
            eq(s.stage(o), RUNNING),
            eq(s.mode(o), TRANSACTION),
            self.universe.some(record, updated),
            self.universe.each(record, lambda r: implies(updated(r), s.knows(o, r))),
        )
        if self.broken("live-reference-survives"):
            enabled = every(enabled, self.fence_passes(s, s.guard_epoch(self.home(o))))
        elif not self.broken("lease-lapses-unfenced"):
            enabled = every(enabled, either(self.may_access(s, o), self.unguarded(s, o)))

        released = every(self.may_access(s, o), self.hands_over(s, every(releases, self.may_release(s, o))))

        def value(r: Term, v: Term) -> Term:
            new = choose(updated(r), s.known(o, r) + 1, s.value(r, s.version))
            return choose(eq(v, version), new, s.value(r, v))

        after = replace(
            s,
            version=version,
            value=value,
            wrote=lambda v, r: choose(eq(v, version), updated(r), s.wrote(v, r)),
            base=lambda v, r: choose(eq(v, version), s.known(o, r), s.base(v, r)),
            last=lambda r: choose(updated(r), version, s.last(r)),
            committer=o,
            stage=put(s.stage, o, COMMITTED),
            at=put(s.at, o, version),
            knows=put_row(s.knows, o, updated),
            saw_waiter=put(s.saw_waiter, o, s.wanted),
            released=put(s.released, o, released),
            holder=choose(released, self.universe.nobody, s.holder),
            left=choose(released, 0, choose(self.may_access(s, o), self.lease_time, s.left)),
        )
        return Action("Commit", (o, releases), enabled, after)

    def validate(self, s: State, o: Term) -> Action:
        """P6.1. A view checks that its epoch still passes the fence."""
        enabled = every(
            eq(s.stage(o), RUNNING),
            eq(s.mode(o), VIEW),
            self.universe.some(self.universe.record, lambda r: s.knows(o, r)),
        )
        if not self.broken("unvalidated-view"):
            enabled = every(enabled, self.may_access(s, o))
        return Action("Validate", (o,), enabled, self._validated(s, o))

    def fail(self, s: State, o: Term) -> Action:
        """P6.2. The code inside an operation fails, and the caller gets the error after the fence was passed."""
        enabled = every(eq(s.stage(o), RUNNING), self.universe.some(self.universe.record, lambda r: s.knows(o, r)))
        if not self.broken("stale-failure-believed"):
            enabled = every(enabled, self.may_access(s, o))
        return Action("Fail", (o,), enabled, self._validated(s, o))

    def _validated(self, s: State, o: Term) -> State:
        return replace(
            s,
            stage=put(s.stage, o, VALIDATED),
            at=put(s.at, o, 0),
            begun=put(s.begun, o, 0),
            saw_waiter=put(s.saw_waiter, o, s.wanted),
        )

    def finish(self, s: State, o: Term, heeds: Term) -> Action:
        """P5.20. The cache gets the new values, the changes are published, the caller is answered. The guard may end.

        The process may react now or later to a waiting process.
        """
        p, version = self.home(o), s.at(o)
        committed = eq(s.stage(o), COMMITTED)
        installs = every(committed, self.uses_cache(s, o), eq(version, s.cache_version(p) + 1))
        noted = version
        if self.broken("late-version"):
            installs, noted = every(committed, self.uses_cache(s, o)), s.version

        def new(r: Term) -> Term:
            written = s.base(version, r) + 1
            return choose(s.cached(p, r), written, 1) if self.broken("partial-list") else written

        own = eq(s.under(o), s.guard_epoch(p))
        ends = every(own, s.released(o))
        ended = self._without_guard(s, p)
        heeded_stage = put_if(own, self.waiter_noted(s, p, every(heeds, s.saw_waiter(o))), s.guard_stage)
        after = replace(
            self._idle(s, o),
            guard_stage=put_if(ends, ended.guard_stage, heeded_stage),
            guard_epoch=put_if(ends, ended.guard_epoch, s.guard_epoch),
            cache_version=put(s.cache_version, p, choose(installs, noted, s.cache_version(p))),
            cached=put_row(s.cached, p, lambda r: either(s.cached(p, r), every(installs, s.wrote(version, r)))),
            cache_value=put_row(
                s.cache_value,
                p,
                lambda r: choose(every(installs, s.wrote(version, r)), new(r), s.cache_value(p, r)),
            ),
            heard=put(
                s.heard,
                p,
                choose(every(committed, ne(s.heard(p), NOT_SUBSCRIBED), version > s.heard(p)), version, s.heard(p)),
            ),
        )
        return Action("Finish", (o, heeds), among(s.stage(o), COMMITTED, VALIDATED), after)

    def lose(self, s: State, o: Term) -> Action:
        """P4.3, P4.11. The fence stops an access. The guard ends, and the operation is retried."""
        p = self.home(o)
        lost = eq(s.guard_epoch(p), s.under(o))
        idle = self._idle(s, o)
        after = replace(
            idle,
            guard_stage=put(s.guard_stage, p, choose(lost, NONE, s.guard_stage(p))),
            guard_epoch=put(s.guard_epoch, p, choose(lost, 0, s.guard_epoch(p))),
            knows=s.knows if self.broken("stale-account-overwrite") else idle.knows,
        )
        enabled = every(eq(s.stage(o), RUNNING), no(self.may_access(s, o)), no(self.unguarded(s, o)))
        return Action("Lose", (o,), enabled, after)

    def outdated(self, s: State, o: Term, r: Term) -> Action:
        """P4.7. An operation needs a record that has changed since it began, or may have. It is retried."""
        enabled = every(
            eq(s.stage(o), RUNNING),
            no(s.knows(o, r)),
            self.may_access(s, o),
            either(self.changed_after(s, r, s.at(o)), s.floor > s.at(o)),
        )
        return Action("Outdated", (o, r), enabled, self._idle(s, o))

    def abort(self, s: State, o: Term) -> Action:
        """The operation ends without an effect, and its data is dropped."""
        after = self._idle(s, o)
        if self.broken("cache-before-commit"):
            p = self.home(o)

            def leaks(r: Term) -> Term:
                return every(eq(s.mode(o), TRANSACTION), s.knows(o, r))

            after = replace(
                after,
                cached=put_row(s.cached, p, lambda r: either(leaks(r), s.cached(p, r))),
                cache_value=put_row(
                    s.cache_value, p, lambda r: choose(leaks(r), s.known(o, r) + 1, s.cache_value(p, r))
                ),
            )
        return Action("Abort", (o,), among(s.stage(o), RUNNING, LOADING), after)

    def forget_commit(self, s: State, o: Term) -> Action:
        """The fault "cancelled-commit": the commit took effect, but counts as failed."""
        return Action("ForgetCommit", (o,), eq(s.stage(o), COMMITTED), self._idle(s, o))

    def renew(self, s: State, p: Term, heeds: Term) -> Action:
        """P1.7. A renewal succeeds. The process learns whether another one waits, and may react now or later."""
        enabled = every(ne(s.guard_stage(p), NONE), self.fence_passes(s, s.guard_epoch(p)))
        after = replace(s, left=self.lease_time, guard_stage=self.waiter_noted(s, p, every(heeds, s.wanted)))
        return Action("Renew", (p, heeds), enabled, after)

    def lose_guard(self, s: State, p: Term) -> Action:
        """P1.8. The fence stops a renewal or a sync. The guard ends."""
        enabled = every(ne(s.guard_stage(p), NONE), no(self.fence_passes(s, s.guard_epoch(p))))
        if self.broken("renew-ignores-loss"):  # it finds the row free, takes it again, and says nothing
            epoch = s.epoch + 1
            after = replace(
                s,
                epoch=epoch,
                holder=p,
                left=self.lease_time,
                wanted=FALSE,
                guard_epoch=put(s.guard_epoch, p, epoch),
            )
            return Action("LoseGuard", (p,), every(enabled, self.takeable(s, p)), after)
        return Action("LoseGuard", (p,), enabled, self._without_guard(s, p))

    def release(self, s: State, p: Term) -> Action:
        """P8.18. The guard ends before the row is free."""
        enabled = every(
            among(s.guard_stage(p), HELD, DRAINING),
            self.universe.each(self.universe.operation, lambda o: no(self.working_under(s, p, s.guard_epoch(p), o))),
            self.fence_passes(s, s.guard_epoch(p)),
        )
        after = s if self.broken("guard-outlives-release") else self._without_guard(s, p)
        return Action("Release", (p,), enabled, replace(after, holder=self.universe.nobody, left=ZERO))

    def expire(self, s: State) -> Action:
        """A lease may expire at any moment."""
        enabled = every(s.left > 0, ne(s.holder, self.universe.nobody))
        return Action("Expire", (), enabled, replace(s, left=ZERO))

    def clock_jump(self, s: State, left: Term) -> Action:
        """P7.1. The remaining time of a lease may become any value at any moment: more than in LeaseLock.tla."""
        return Action("ClockJump", (left,), TRUE, replace(s, left=left))

    def crash(self, s: State, p: Term) -> Action:
        """A process is killed and started again under the same label: a new instance."""

        def dies(o: Term) -> Term:
            return eq(self.home(o), p)

        def unless_dead(old: Of, initial: Term | int) -> Of:
            return lambda o: choose(dies(o), initial, old(o))

        enabled = either(
            ne(s.guard_stage(p), NONE),
            ne(s.cache_version(p), 0),
            self.universe.some(self.universe.record, lambda r: s.cached(p, r)),
            self.universe.some(self.universe.operation, lambda o: every(dies(o), ne(s.stage(o), IDLE))),
        )
        after = replace(
            self._without_guard(s, p),
            cache_version=put(s.cache_version, p, 0),
            cached=put_row(s.cached, p, lambda _r: FALSE),
            heard=put(s.heard, p, NOT_SUBSCRIBED),
            stage=unless_dead(s.stage, IDLE),
            mode=unless_dead(s.mode, NO_MODE),
            under=unless_dead(s.under, 0),
            at=unless_dead(s.at, 0),
            begun=unless_dead(s.begun, 0),
            knows=lambda o, r: every(no(dies(o)), s.knows(o, r)),
            saw_waiter=unless_dead(s.saw_waiter, FALSE),
            released=unless_dead(s.released, FALSE),
            snapshot=unless_dead(s.snapshot, 0),
            holder=choose(eq(s.holder, p), self.universe.departed, s.holder),
        )
        return Action("Crash", (p,), enabled, after)

    def forget(self, s: State, p: Term, r: Term) -> Action:
        """P2.16. Any record may be dropped from a cache at any time. It can be loaded again."""
        after = replace(s, cached=put_row(s.cached, p, lambda x: every(s.cached(p, x), ne(x, r))))
        return Action("Forget", (p, r), s.cached(p, r), after)

    def truncate(self, s: State) -> Action:
        """P4.16. The change log is truncated."""
        return Action("Truncate", (), s.floor < s.version, replace(s, floor=s.version))

    def listen(self, s: State, p: Term) -> Action:
        """P9.4. A process with subscribers and without a guard reads the change log."""
        enabled = every(
            eq(s.guard_stage(p), NONE),
            self.subscribes(p),
            ne(s.heard(p), NOT_SUBSCRIBED),
            s.heard(p) < s.version,
            FALSE if self.broken("foreign-writes-unseen") or self.broken("streams-lost") else TRUE,
        )
        silent = self.sees_nothing(s, p) if self.broken("floor-ignored-in-stream") else FALSE
        heard = choose(silent, s.heard(p), s.version)
        return Action("Listen", (p,), enabled, replace(s, heard=put(s.heard, p, heard)))

    def sees_nothing(self, s: State, p: Term) -> Term:
        """Return whether a subscriber has received every line of the log."""
        return either(s.heard(p) >= s.version, s.floor >= s.version)

    def actions_of_processes(self) -> list[Callable[[State, Term], Action]]:
        """Return the actions of a process."""
        return [
            self.acquire, self.want, self.sync, self.lose_guard, self.release, self.crash, self.listen,
        ]  # fmt: skip

    def actions_of_operations(self) -> list[Callable[[State, Term], Action]]:
        """Return the actions of an operation without further parameters."""
        actions: list[Callable[[State, Term], Action]] = [
            self.fill, self.validate, self.fail, self.lose, self.abort,
        ]  # fmt: skip
        if self.broken("cancelled-commit"):
            actions.append(self.forget_commit)
        return actions

    def actions(self) -> list[Action]:
        """Return every action, from any state, with any parameters."""
        s, p, o, r = self.state, self.p, self.o, self.r
        return [
            *(action(s, p) for action in self.actions_of_processes()),
            *(action(s, o) for action in self.actions_of_operations()),
            self.sync_fails(s, p, self.chosen),
            self.renew(s, p, self.chosen),
            self.forget(s, p, r),
            self.begin(s, o, self.mode),
            self.load(s, o, r),
            self.outdated(s, o, r),
            self.commit(s, o, self.updated, self.chosen),
            self.finish(s, o, self.chosen),
            self.expire(s),
            self.clock_jump(s, self.any_number),
            self.truncate(s),
        ]
