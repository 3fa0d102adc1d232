"""State the conjuncts of the inductive invariant, and the guarantees that follow from them.

Each is a function from a state to a formula. It has the same name as in TLA+, in Python's spelling. Its docstring says
why the conjunct holds, or what the guarantee promises.
"""

from collections.abc import Callable

from proofs.encoding.model import (
    COMMITTED,
    DRAINING,
    HELD,
    IDLE,
    LOADING,
    NO_MODE,
    NONE,
    NOT_SUBSCRIBED,
    RUNNING,
    SYNCING,
    TRANSACTION,
    VALIDATED,
    VIEW,
    ZERO,
    Action,
    Model,
    State,
)
from proofs.encoding.terms import NUMBER, Term, among, between, choose, either, eq, every, implies, ne, no

Conjunct = Callable[[Model, State], Term]
StepProperty = Callable[[Model, Action], Term]


def spelled(function: Conjunct | StepProperty) -> str:
    """Its name as in TLA+."""
    return "".join(word.capitalize() for word in function.__name__.split("_"))


def is_version(s: State, v: Term) -> Term:
    """Return whether the store has had this version, or has it now."""
    return between(0, v, s.version)


def is_commit(s: State, v: Term) -> Term:
    """Return whether a commit made this version."""
    return between(1, v, s.version)


# The lock.


def epochs_only_grow(m: Model, s: State) -> Term:
    """P1.4: an acquisition takes a new epoch, so no epoch is greater than the row's."""
    u = m.universe
    return every(
        s.epoch >= 0,
        implies(ne(s.holder, u.nobody), s.epoch >= 1),
        u.each(
            u.process,
            lambda p: choose(
                eq(s.guard_stage(p), NONE), eq(s.guard_epoch(p), 0), between(1, s.guard_epoch(p), s.epoch)
            ),
        ),
        u.each(u.operation, lambda o: choose(eq(s.stage(o), IDLE), eq(s.under(o), 0), between(1, s.under(o), s.epoch))),
    )


def guard_is_honest(m: Model, s: State) -> Term:
    """Only the holder of the lease has a guard of its epoch, since a release ends the guard first.

    If a commit has released it, the guard ends when the answer arrives, and until then no process holds the lease.
    """
    u = m.universe

    def handed_over(p: Term) -> Term:
        released = u.some(u.operation, lambda o: every(m.working_under(s, p, s.guard_epoch(p), o), s.released(o)))
        return every(eq(s.holder, u.nobody), released)

    def honest(p: Term) -> Term:
        its_own = every(ne(s.guard_stage(p), NONE), eq(s.epoch, s.guard_epoch(p)))
        return implies(its_own, either(eq(s.holder, p), handed_over(p)))

    return u.each(u.process, honest)


def released_the_lease(m: Model, s: State) -> Term:
    """A commit that releases the lease ends its epoch: the next acquisition has a new one."""
    u = m.universe
    return u.each(
        u.operation,
        lambda o: implies(s.released(o), every(eq(s.stage(o), COMMITTED), no(m.may_access(s, o)))),
    )


def fenced_operation_has_its_guard(m: Model, s: State) -> Term:
    """No guard ends under an operation that still passes the fence: only the fence or a crash ends it so early."""
    u = m.universe
    return u.each(
        u.operation,
        lambda o: implies(
            every(ne(s.stage(o), IDLE), m.may_access(s, o)),
            m.stands(s, m.home(o), s.under(o)),
        ),
    )


def nobody_works_before_the_sync(m: Model, s: State) -> Term:
    """P2.1: a guard admits no operation before its sync, and its epoch is new."""
    u = m.universe
    return u.each(
        u.operation,
        lambda o: implies(
            every(ne(s.stage(o), IDLE), eq(s.guard_stage(m.home(o)), SYNCING)),
            ne(s.under(o), s.guard_epoch(m.home(o))),
        ),
    )


# The store and its change log.


def log_is_within_history(m: Model, s: State) -> Term:
    """The log has only commits, and it is truncated at a version that the store has had."""
    u = m.universe
    return every(is_version(s, s.floor), u.each(u.record, lambda r: is_version(s, s.last(r))))


def last_is_the_last_write(m: Model, s: State) -> Term:
    """The commit that writes the log sets the auxiliary variable `last`."""
    u = m.universe
    return every(
        u.each2(u.record, NUMBER, lambda r, v: implies(every(is_commit(s, v), s.wrote(v, r)), v <= s.last(r))),
        u.each(u.record, lambda r: implies(s.last(r) > 0, s.wrote(s.last(r), r))),
    )


def unwritten_is_unchanged(m: Model, s: State) -> Term:
    """A record has kept its value since the last commit that wrote it."""
    u = m.universe
    return u.each2(
        u.record,
        NUMBER,
        lambda r, v: implies(between(s.last(r), v, s.version), eq(s.value(r, v), s.value(r, s.version))),
    )


def updates_count_by_one(m: Model, s: State) -> Term:
    """Values start with zero. A commit adds one to the values that it read, and does not change others."""
    u = m.universe

    def counts(r: Term, v: Term) -> Term:
        return eq(s.value(r, v), choose(s.wrote(v, r), s.base(v, r) + 1, s.value(r, v - 1)))

    return every(
        u.each(u.record, lambda r: eq(s.value(r, ZERO), 0)),
        u.each2(u.record, NUMBER, lambda r, v: implies(is_commit(s, v), counts(r, v))),
    )


def values_never_go_back(m: Model, s: State) -> Term:
    """No ratchet moves back: each commit starts from the newest value."""
    u = m.universe
    return u.each3(
        u.record,
        NUMBER,
        NUMBER,
        lambda r, v, w: implies(every(is_version(s, v), is_version(s, w), v <= w), s.value(r, v) <= s.value(r, w)),
    )


def no_lost_update(m: Model, s: State) -> Term:
    """A commit is computed from the version before it, as a fenced transaction's snapshot is the newest."""
    u = m.universe
    return u.each2(
        u.record,
        NUMBER,
        lambda r, v: implies(every(is_commit(s, v), s.wrote(v, r)), eq(s.base(v, r), s.value(r, v - 1))),
    )


# Caches.


def cache_is_of_its_version(m: Model, s: State) -> Term:
    """A cached record has the store's value at the cache's version, even without a guard."""
    u = m.universe
    return every(
        u.each(u.process, lambda p: is_version(s, s.cache_version(p))),
        u.each2(
            u.process,
            u.record,
            lambda p, r: implies(s.cached(p, r), eq(s.cache_value(p, r), s.value(r, s.cache_version(p)))),
        ),
    )


def fenced_cache_is_current(m: Model, s: State) -> Term:
    """The cache of a guard that passes the fence is current, unless a commit of the guard is not answered yet."""
    u = m.universe

    def current(p: Term) -> Term:
        on_its_way = every(
            eq(s.cache_version(p) + 1, s.version),
            eq(s.stage(s.committer), COMMITTED),
            eq(s.at(s.committer), s.version),
            m.working_under(s, p, s.guard_epoch(p), s.committer),
        )
        in_use = every(among(s.guard_stage(p), HELD, DRAINING), m.fence_passes(s, s.guard_epoch(p)))
        return implies(in_use, either(eq(s.cache_version(p), s.version), on_its_way))

    return u.each(u.process, current)


def subscribers_have_heard(m: Model, s: State) -> Term:
    """P9.3: the subscribers have received all changes of other processes that a cache in use has synced."""
    u = m.universe

    def has_heard(p: Term) -> Term:
        in_use = every(among(s.guard_stage(p), HELD, DRAINING), ne(s.heard(p), NOT_SUBSCRIBED))
        return implies(in_use, s.heard(p) >= s.cache_version(p))

    return u.each(u.process, has_heard)


# Operations.


def stages_have_modes(m: Model, s: State) -> Term:
    """Only transactions commit, and an idle operation has no mode and knows nothing."""
    u = m.universe

    def fits(o: Term) -> Term:
        return every(
            eq(eq(s.stage(o), IDLE), eq(s.mode(o), NO_MODE)),
            implies(eq(s.stage(o), COMMITTED), eq(s.mode(o), TRANSACTION)),
        )

    return every(
        u.each(u.operation, fits),
        u.each2(u.operation, u.record, lambda o, r: implies(eq(s.stage(o), IDLE), no(s.knows(o, r)))),
    )


def one_transaction_at_a_time(m: Model, s: State) -> Term:
    """At most one operation of a guard is a transaction: Begin waits for its end."""
    u = m.universe

    def only_one(o: Term, other: Term) -> Term:
        both = every(
            eq(m.home(o), m.home(other)),
            eq(s.under(o), s.under(other)),
            eq(s.mode(o), TRANSACTION),
            eq(s.mode(other), TRANSACTION),
        )
        return implies(both, eq(o, other))

    return u.each2(u.operation, u.operation, only_one)


def knowledge_is_of_one_snapshot(m: Model, s: State) -> Term:
    """A loaded record has not changed since the operation's snapshot; else the operation is retried."""
    u = m.universe
    return every(
        u.each(u.operation, lambda o: is_version(s, s.snapshot(o))),
        u.each2(
            u.operation,
            u.record,
            lambda o, r: implies(s.knows(o, r), eq(s.known(o, r), s.value(r, s.snapshot(o)))),
        ),
    )


def snapshot_is_where_it_is_said(m: Model, s: State) -> Term:
    """The auxiliary variable `snapshot` is `at`, until a commit sets `at` to the version that it made."""
    u = m.universe
    return u.each(
        u.operation,
        lambda o: every(
            implies(among(s.stage(o), RUNNING, LOADING), eq(s.snapshot(o), s.at(o))),
            implies(eq(s.stage(o), COMMITTED), every(eq(s.snapshot(o) + 1, s.at(o)), is_commit(s, s.at(o)))),
        ),
    )


def commit_answers_what_it_wrote(m: Model, s: State) -> Term:
    """A commit writes at least one record. While its answer is on its way, the log has what it wrote."""
    u = m.universe
    return every(
        u.each2(
            u.operation,
            u.record,
            lambda o, r: implies(eq(s.stage(o), COMMITTED), eq(s.knows(o, r), s.wrote(s.at(o), r))),
        ),
        u.each(
            u.operation,
            lambda o: implies(eq(s.stage(o), COMMITTED), u.some(u.record, lambda r: s.knows(o, r))),
        ),
    )


def load_fits_its_operation(m: Model, s: State) -> Term:
    """An answer on its way has the value of its own version, and of its operation's snapshot."""
    u = m.universe

    def fits(o: Term) -> Term:
        r, value = s.load_record(o), s.load_value(o)
        return implies(
            eq(s.stage(o), LOADING),
            every(
                is_version(s, s.load_version(o)),
                eq(value, s.value(r, s.load_version(o))),
                eq(value, s.value(r, s.snapshot(o))),
            ),
        )

    return u.each(u.operation, fits)


def fenced_transaction_is_current(m: Model, s: State) -> Term:
    """A transaction began on a current cache, and no other operation has committed under its epoch since."""
    u = m.universe
    return u.each(
        u.operation,
        lambda o: implies(
            every(among(s.stage(o), RUNNING, LOADING), eq(s.mode(o), TRANSACTION), m.may_access(s, o)),
            eq(s.at(o), s.version),
        ),
    )


def fenced_view_is_fresh(m: Model, s: State) -> Term:
    """A view began when no commit of its guard was on its way, so its cache is not older than its call."""
    u = m.universe
    return u.each(
        u.operation,
        lambda o: implies(
            every(among(s.stage(o), RUNNING, LOADING), eq(s.mode(o), VIEW), m.may_access(s, o)),
            s.at(o) >= s.begun(o),
        ),
    )


INVARIANT: tuple[Conjunct, ...] = (
    epochs_only_grow,
    guard_is_honest,
    released_the_lease,
    fenced_operation_has_its_guard,
    nobody_works_before_the_sync,
    log_is_within_history,
    last_is_the_last_write,
    unwritten_is_unchanged,
    updates_count_by_one,
    values_never_go_back,
    no_lost_update,
    cache_is_of_its_version,
    fenced_cache_is_current,
    subscribers_have_heard,
    stages_have_modes,
    one_transaction_at_a_time,
    knowledge_is_of_one_snapshot,
    snapshot_is_where_it_is_said,
    commit_answers_what_it_wrote,
    load_fits_its_operation,
    fenced_transaction_is_current,
    fenced_view_is_fresh,
)


# The guarantees about states, as the specification words them. Two of them are conjuncts already.


def cache_is_snapshot(m: Model, s: State) -> Term:
    """A cache in use is a copy of the current store, or of the store before one commit of this guard."""
    u = m.universe

    def in_use(p: Term) -> Term:
        works = u.some(u.operation, lambda o: m.working_under(s, p, s.guard_epoch(p), o))
        return either(among(s.guard_stage(p), HELD, DRAINING), every(works, ne(s.guard_stage(p), NONE)))

    def is_copy(p: Term, r: Term) -> Term:
        same = eq(s.cache_value(p, r), s.value(r, s.cache_version(p)))
        return implies(every(in_use(p), s.cached(p, r)), same)

    def on_its_way(p: Term, o: Term) -> Term:
        working = m.working_under(s, p, s.guard_epoch(p), o)
        return every(working, eq(s.stage(o), COMMITTED), eq(s.at(o), s.version))

    def is_current(p: Term) -> Term:
        behind = every(eq(s.cache_version(p) + 1, s.version), u.some(u.operation, lambda o: on_its_way(p, o)))
        fenced = every(in_use(p), m.fence_passes(s, s.guard_epoch(p)))
        return implies(fenced, either(eq(s.cache_version(p), s.version), behind))

    def reads_copy(o: Term, r: Term) -> Term:
        running = every(eq(s.stage(o), RUNNING), s.knows(o, r))
        return implies(running, eq(s.known(o, r), s.value(r, s.at(o))))

    return every(
        u.each2(u.process, u.record, is_copy),
        u.each(u.process, is_current),
        u.each2(u.operation, u.record, reads_copy),
    )


def no_ratchet_reuse(m: Model, s: State) -> Term:
    """No two commits are computed from the same value of a record, even if one of them was never answered."""
    u = m.universe

    def reused(r: Term, v: Term, w: Term) -> Term:
        both = every(is_commit(s, v), is_commit(s, w), s.wrote(v, r), s.wrote(w, r), ne(v, w))
        return implies(both, ne(s.base(v, r), s.base(w, r)))

    return u.each3(u.record, NUMBER, NUMBER, reused)


def opaque(m: Model, s: State) -> Term:
    """No operation sees a mixture of two versions: everything that it has read is of the version `snapshot`."""
    u = m.universe

    def explained(o: Term, r: Term) -> Term:
        return implies(s.knows(o, r), eq(s.known(o, r), s.value(r, s.snapshot(o))))

    return every(u.each(u.operation, lambda o: is_version(s, s.snapshot(o))), u.each2(u.operation, u.record, explained))


def one_fenced_holder(m: Model, s: State) -> Term:
    """No two processes pass the fence at the same time."""
    u = m.universe

    def fenced(p: Term) -> Term:
        return every(ne(s.guard_stage(p), NONE), m.fence_passes(s, s.guard_epoch(p)))

    return u.each2(u.process, u.process, lambda p, q: implies(every(fenced(p), fenced(q)), eq(p, q)))


def last_is_what_the_log_says(m: Model, s: State) -> Term:
    """The auxiliary variable `last` gives the same answer as a search of the change log."""
    u = m.universe

    def found(r: Term, v: Term) -> Term:
        return u.some(NUMBER, lambda w: every(w > v, w > s.floor, w <= s.version, s.wrote(w, r)))

    return u.each2(u.record, NUMBER, lambda r, v: implies(v >= 0, eq(m.changed_after(s, r, v), found(r, v))))


GUARANTEES: tuple[Conjunct, ...] = (
    cache_is_snapshot,
    no_lost_update,
    no_ratchet_reuse,
    opaque,
    one_fenced_holder,
    guard_is_honest,
    last_is_what_the_log_says,
)


# The guarantees about steps.


def epoch_never_reused(m: Model, action: Action) -> Term:
    """A new guard's epoch is greater than any that the row has had."""
    u, s, t = m.universe, m.state, action.after

    def new(p: Term) -> Term:
        return every(eq(s.guard_stage(p), NONE), ne(t.guard_stage(p), NONE))

    return u.each(u.process, lambda p: implies(new(p), t.guard_epoch(p) > s.epoch))


def no_spurious_invalidation(m: Model, action: Action) -> Term:
    """A sync drops no record that still has the store's value, if the log reaches back far enough."""
    u, s, t = m.universe, m.state, action.after

    def keeps(p: Term, r: Term) -> Term:
        syncs = every(eq(s.guard_stage(p), SYNCING), eq(t.guard_stage(p), HELD), s.floor <= s.cache_version(p))
        still = every(s.cached(p, r), eq(s.cache_value(p, r), s.value(r, s.version)))
        kept = every(t.cached(p, r), eq(t.cache_value(p, r), s.cache_value(p, r)))
        return implies(every(syncs, still), kept)

    return u.each2(u.process, u.record, keeps)


# The atomic store (AtomicStore.tla), and what a state is to it.


def _called(s: State, o: Term) -> Term:
    return among(s.stage(o), RUNNING, LOADING)


def _done(s: State, o: Term) -> Term:
    return among(s.stage(o), COMMITTED, VALIDATED)


def _since(s: State, o: Term) -> Term:
    """The index of a snapshot in the history is its version plus one."""
    return choose(every(_called(s, o), eq(s.mode(o), VIEW)), s.begun(o) + 1, 0)


def _answers(s: State, o: Term, r: Term) -> Term:
    return every(_done(s, o), s.knows(o, r))


def _same_call(m: Model, s: State, t: State, o: Term) -> Term:
    def same_answer(r: Term) -> Term:
        both = eq(_answers(s, o, r), _answers(t, o, r))
        return every(both, implies(_answers(s, o, r), eq(s.known(o, r), t.known(o, r))))

    return every(
        eq(eq(s.stage(o), IDLE), eq(t.stage(o), IDLE)),
        eq(_called(s, o), _called(t, o)),
        eq(s.mode(o), t.mode(o)),
        eq(_since(s, o), _since(t, o)),
        m.universe.each(m.universe.record, same_answer),
    )


def _same_calls(m: Model, s: State, t: State, besides: Term | None) -> Term:
    def same(o: Term) -> Term:
        return _same_call(m, s, t, o) if besides is None else either(eq(o, besides), _same_call(m, s, t, o))

    return m.universe.each(m.universe.operation, same)


def _same_past(m: Model, s: State, t: State) -> Term:
    def same(r: Term, v: Term) -> Term:
        return implies(is_version(s, v), eq(s.value(r, v), t.value(r, v)))

    return m.universe.each2(m.universe.record, NUMBER, same)


def _same_history(m: Model, s: State, t: State) -> Term:
    return every(eq(s.version, t.version), _same_past(m, s, t))


def _answer_is_part_of(m: Model, s: State, t: State, o: Term, version: Term) -> Term:
    """The answer has the values of at least one record in the snapshot of that version."""
    u = m.universe
    agrees = u.each(u.record, lambda r: implies(t.knows(o, r), eq(t.known(o, r), s.value(r, version))))
    return every(_done(t, o), eq(t.mode(o), s.mode(o)), agrees, u.some(u.record, lambda r: t.knows(o, r)))


def a_call(m: Model, s: State, t: State) -> Term:
    """ACall(o, mode)."""
    since = choose(eq(m.mode, VIEW), s.version + 1, 0)
    called = every(eq(s.stage(m.o), IDLE), _called(t, m.o), eq(t.mode(m.o), m.mode), eq(_since(t, m.o), since))
    return every(called, _same_calls(m, s, t, m.o), _same_history(m, s, t))


def update(m: Model, s: State, t: State) -> Term:
    """Update(o): it answers with values of the newest snapshot, and adds one to each."""

    def counted(r: Term) -> Term:
        now = s.value(r, s.version)
        return eq(t.value(r, t.version), choose(t.knows(m.o, r), now + 1, now))

    return every(
        _called(s, m.o),
        eq(s.mode(m.o), TRANSACTION),
        eq(t.version, s.version + 1),
        m.universe.each(m.universe.record, counted),
        _same_past(m, s, t),
        _answer_is_part_of(m, s, t, m.o, s.version),
        _same_calls(m, s, t, m.o),
    )


def look(m: Model, s: State, t: State) -> Term:
    """Look(o): it answers with values of one snapshot: for a view any since its call, for a transaction the newest."""
    place, now = s.snapshot(m.o) + 1, s.version + 1
    return every(
        _called(s, m.o),
        between(choose(eq(s.mode(m.o), VIEW), _since(s, m.o), now), place, now),
        _answer_is_part_of(m, s, t, m.o, s.snapshot(m.o)),
        _same_calls(m, s, t, m.o),
        _same_history(m, s, t),
    )


def return_(m: Model, s: State, t: State) -> Term:
    """Return(o)."""
    return every(_done(s, m.o), eq(t.stage(m.o), IDLE), _same_calls(m, s, t, m.o), _same_history(m, s, t))


def abandon(m: Model, s: State, t: State) -> Term:
    """Abandon({o})."""
    return every(ne(s.stage(m.o), IDLE), eq(t.stage(m.o), IDLE), _same_calls(m, s, t, m.o), _same_history(m, s, t))


def abandon_all(m: Model, s: State, t: State) -> Term:
    """Abandon all calls of a process. If it has none, nothing changes."""

    def gone(o: Term) -> Term:
        return choose(eq(m.home(o), m.p), eq(t.stage(o), IDLE), _same_call(m, s, t, o))

    return every(m.universe.each(m.universe.operation, gone), _same_history(m, s, t))


def stutter(m: Model, s: State, t: State) -> Term:
    """A step that no user sees."""
    return every(_same_calls(m, s, t, None), _same_history(m, s, t))


ATOMIC_STEPS: dict[str, Callable[[Model, State, State], Term]] = {
    "Begin": a_call,
    "Commit": update,
    "Validate": look,
    "Fail": look,
    "Finish": return_,
    "Lose": abandon,
    "Outdated": abandon,
    "Abort": abandon,
    "ForgetCommit": return_,
    "Crash": abandon_all,
}


def refines_atomic_store(m: Model, action: Action) -> Term:
    """The step is the step of the atomic store that is named for its action above, or no step."""
    return ATOMIC_STEPS.get(action.name, stutter)(m, m.state, action.after)


STEP_PROPERTIES: tuple[StepProperty, ...] = (epoch_never_reused, no_spurious_invalidation, refines_atomic_store)
