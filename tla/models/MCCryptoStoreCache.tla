-------------------------- MODULE MCCryptoStoreCache --------------------------
(* CryptoStoreCache made finite: who lives where, and what each may be.        *)
EXTENDS CryptoStoreCache, TLC

CONSTANTS p1, p2, o1, o2, o3

\* Two operations in one process: several faults need this.
TwoAndOne == o1 :> p1 @@ o2 :> p1 @@ o3 :> p2

AllTransactions == [o \in Operations |-> {"transaction"}]
ViewAway == o1 :> {"transaction"} @@ o2 :> {"transaction"} @@ o3 :> {"view"}
OneEither == o1 :> {"transaction"} @@ o2 :> {"transaction", "view"} @@ o3 :> {"transaction"}
Anything == [o \in Operations |-> {"transaction", "view"}]
OneView == o1 :> {"transaction"} @@ o2 :> {"view"} @@ o3 :> {"transaction"}

\* Records are interchangeable, and so are two transactions of one process.
Alike == Permutations(Records) \cup Permutations({o1, o2})
RecordsAlike == Permutations(Records)

\* Leases that have expired when they are taken. What is left of a lease is asked only by
\* those who want it, and makes them wait (P1.2). So these allow all that lasting leases
\* allow as long as nobody waits, in half as many states. (tests/checking/test_reductions.py
\* compares the states, and looks for the faults.)
AcquiredExpired(row, p, epoch) == [epoch |-> epoch, holder |-> p, left |-> 0, wanted |-> FALSE]
RenewedExpired(row) == row

\* The steps of a model whose graph must be small: no operation fails, no record is
\* forgotten, a process reacts at once to a waiting one, and after a failed sync the lease
\* expires.
NoFailure(o) == FALSE
NothingForgotten(p, r) == FALSE
NotedAtOnce(sawWaiter) == {sawWaiter}
LeftAlone(row, epoch) == {row}

-------------------------------------------------------------------------------
(* The replay model. Every one of its transitions is driven through the        *)
(* implementation, so it must be small; without symmetry, and with three epochs *)
(* and two commits, the specification has millions. It tells one story instead, *)
(* with all its byways: p1 works, loses the lease or releases it; p2 works and  *)
(* may change a record behind p1's back; p1 works again. Each step is one of the *)
(* specification: what is left out is left out by a constraint on steps.        *)

InFlight == Cardinality({o \in Of(p1) : op[o].stage # "idle"})

Comes(o, stage) == op[o].stage # stage /\ op'[o].stage = stage
Starts(o) == op[o].stage = "idle" /\ op'[o].stage # "idle"

FirstRecord == CHOOSE r \in Records : TRUE

\* The processes take turns, and only as long as their turns last do they ask.
LastTurn == 3

TakeTurns ==
    /\ lease'.epoch # lease.epoch =>
        IF lease.epoch < LastTurn THEN lease'.holder = IF lease.epoch % 2 = 0 THEN p1 ELSE p2
        ELSE lease.holder = p1 /\ lease'.holder = p1
    /\ lease'.wanted /\ ~lease.wanted => lease.epoch < LastTurn

\* Three stories are published beside it, and end soon. After its last turn p1, whose sync has
\* failed, takes its own lease again, and syncs. Before p1 has ever synced it loses the
\* lease, and nothing begins. The log is cut under a view of p1, which needs what was cut;
\* nobody takes the lease any more.
EndSoon ==
    /\ (lease.epoch = LastTurn /\ lease'.epoch # lease.epoch) =>
        floor = 0 /\ cache[p2] = NewCache /\ op[o3].stage = "idle" /\ guard[p2].stage = "none"
    /\ lease.epoch > LastTurn => guard[p1].stage = "syncing" /\ guard'[p1].stage = "held"
    /\ \A o \in Operations : Starts(o) => heard[p1] # <<>>
    /\ (lease.epoch = 1 /\ floor > 0) => lease' = lease
    /\ (op[o2].stage = "running" /\ floor > op[o2].at) => op'[o2].stage = "idle"

\* Records are loaded in one order: by a transaction of p1 all, by others the first.
\* (A view gets the other one from the cache.)
LoadInOrder ==
    \A o \in Operations : Comes(o, "loading") =>
        op'[o].loading[1] = FirstRecord \/ (o = o1 /\ op[o].known[FirstRecord] # Missing)

\* There is at most one commit for each acquisition so far.
CommitNowAndThen == Len(commits') <= lease'.epoch

\* The lease is lost with at most one operation of p1 under way, so that at most one
\* is doomed. Nobody starts an operation that is doomed from the start; and at the
\* end p1's operations come one after the other.
FewAreDoomed ==
    /\ (lease.epoch = 1 /\ lease'.epoch = 2) => InFlight <= 1
    /\ \A o \in Operations : Starts(o) => FencePasses(lease, op'[o].under)
    /\ \A o \in Of(p1) : (Starts(o) /\ lease.epoch = LastTurn) => InFlight = 0

\* A validated view is answered at once: nothing can happen to it any more.
AnswerAtOnce == \A o \in Operations : op[o].stage = "validated" => op'[o].stage = "idle"

\* Before p1 comes back, doomed operations have noticed, but for those whose commit
\* came through; before it has synced, p2 has noticed everything.
NoticeInTime ==
    /\ (lease.epoch = 2 /\ lease'.epoch = 3) =>
        \A o \in Operations : op[o].stage \in {"idle", "committed"}
    /\ (lease.epoch = 3 /\ guard[p1].stage = "syncing" /\ guard'[p1].stage = "held") =>
        guard[p2].stage = "none" /\ op[o3].stage = "idle"

\* A lease expires where somebody waits for it and where that may hurt: while p1 works,
\* while p2's commit is on its way back, during a sync, or when its holder is gone.
ExpireWhereItHurts ==
    (lease.left > 0 /\ lease'.left = 0 /\ lease'.holder # Nobody) =>
        /\ lease.wanted
        /\ \/ lease.holder = p1 /\ InFlight > 0
           \/ op[o3].stage = "committed"
           \/ \E p \in Processes : guard[p].stage = "syncing" /\ commits = <<>>
           \/ lease.holder = Departed

\* The log is truncated when this has an effect: on p1, when no process has a guard; or on a
\* view of p1 that still has to load a record.
TruncateBetween ==
    floor' # floor =>
        \/ /\ \A p \in Processes : guard[p].stage = "none"
           /\ cache[p1].version < Version /\ cache[p1].records # Nothing
        \/ /\ op[o2].stage = "running" /\ op[o2].at < Version
           /\ AnyRecord(op[o2].known) # Records
           /\ lease.epoch = 1 /\ InFlight = 1 /\ ~lease.wanted /\ lease.holder = p1

\* An operation that has lost its lease and does not wait for an answer is stopped by its
\* next access: neither a renewal nor an abort comes first.
FindOutByAccess ==
    \A o \in Operations :
        (op[o].stage = "running" /\ Stands(guard[Home[o]], op[o].under) /\ ~MayAccess(o)) =>
            (op'[o].stage = "idle" <=> guard'[Home[o]] # guard[Home[o]])

\* So does a process that syncs.
FindOutBySync ==
    \A p \in Processes :
        (guard[p].stage = "syncing" /\ ~FencePasses(lease, guard[p].epoch)) => guard'[p] = NoGuard

\* Only p2 crashes: after a commit that it did not live to answer.
CrashAfterCommit ==
    /\ lease.holder = p1 => lease'.holder # Departed
    /\ heard[p1] # <<>> => heard'[p1] # <<>>
    /\ \/ lease.holder = p2 /\ lease'.holder = Departed
       \/ cache[p2] # NewCache /\ cache'[p2] = NewCache
       => op[o3].stage = "committed" /\ InFlight = 0

\* A sync fails where it would have changed a cache that holds something.
FailWhereItMatters ==
    \A p \in Processes :
        (guard[p].stage = "syncing" /\ guard'[p].stage = "none" /\ FencePasses(lease, guard[p].epoch)) =>
            cache[p].records # Nothing /\ InFlight = 0

\* A transaction of p1 fails in its first turn, when it has read all that there is.
FailAtTheEnd ==
    \A o \in Operations : (Comes(o, "validated") /\ op[o].mode = "transaction") =>
        o = o1 /\ AnyRecord(op[o].known) = Records /\ lease.epoch = 1 /\ InFlight = 1

\* In its first turn p1 may forget one record, while a transaction works that has read it
\* and that nobody disturbs.
Forgets(p) == cache'[p].version = cache[p].version /\ AnyRecord(cache'[p].records) # Records
              /\ \E r \in Records : cache[p].records[r] # Missing /\ cache'[p].records[r] = Missing

ForgetUnderWay ==
    \A p \in Processes : (Forgets(p) /\ op' = op /\ guard' = guard) =>
        /\ p = p1 /\ lease.epoch = 1 /\ ~lease.wanted /\ InFlight = 1 /\ op[o1].stage = "running"
        /\ AnyRecord(op[o1].known) = Records /\ cache'[p].records[FirstRecord] # Missing

Undisturbed ==
    (op[o1].stage = "running" /\ AnyRecord(op[o1].known) = Records /\ lease.epoch = 1
        /\ AnyRecord(cache[p1].records) # Records /\ Stands(guard[p1], 1)) => lease' = lease \/ op' # op

\* p1's subscriber looks at the log while nobody works.
ListenInPeace ==
    (heard'[p1] # heard[p1] /\ guard[p1].stage = "none" /\ op' = op) =>
        \A o \in Operations : op[o].stage = "idle"

ReplayStep ==
    /\ TakeTurns /\ EndSoon /\ LoadInOrder /\ CommitNowAndThen /\ FewAreDoomed /\ FindOutByAccess
    /\ FindOutBySync /\ AnswerAtOnce /\ NoticeInTime /\ ExpireWhereItHurts /\ CrashAfterCommit
    /\ FailWhereItMatters /\ FailAtTheEnd /\ ForgetUnderWay /\ Undisturbed
    /\ TruncateBetween /\ ListenInPeace

-------------------------------------------------------------------------------
(* For the proofs: the actions without which two records, three epochs and a   *)
(* commit still give a graph that is small enough to compare state by state.   *)

CalmNext ==
    \/ \E o \in Operations :
        \/ \E mode \in Modes[o] : Begin(o, mode)
        \/ \E updated \in SUBSET Records : Commit(o, updated)
        \/ Fill(o) \/ Validate(o) \/ Finish(o) \/ Lose(o)
        \/ \E r \in Records : Load(o, r) \/ Outdated(o, r)
    \/ \E p \in Processes :
        \/ Acquire(p) \/ Sync(p) \/ LoseGuard(p) \/ Release(p)
    \/ Expire
    \/ Truncate

CalmSpec == Init /\ [][CalmNext]_vars

-------------------------------------------------------------------------------
(* Probes: each says that an action never happens, and must be found wrong, or *)
(* the guarantees would hold because nothing happens.                          *)

NeverBegin     == [][\A o \in Operations : \A mode \in Modes[o] : ~Begin(o, mode)]_vars
NeverLoad      == [][\A o \in Operations, r \in Records : ~Load(o, r)]_vars
NeverFill      == [][\A o \in Operations : ~Fill(o)]_vars
NeverCommit    == [][\A o \in Operations, updated \in SUBSET Records : ~Commit(o, updated)]_vars
NeverValidate  == [][\A o \in Operations : ~Validate(o)]_vars
NeverFail      == [][\A o \in Operations : ~Fail(o)]_vars
NeverFinish    == [][\A o \in Operations : ~Finish(o)]_vars
NeverLose      == [][\A o \in Operations : ~Lose(o)]_vars
NeverOutdated  == [][\A o \in Operations, r \in Records : ~Outdated(o, r)]_vars
NeverAbort     == [][\A o \in Operations : ~Abort(o)]_vars
NeverAcquire   == [][\A p \in Processes : ~Acquire(p)]_vars
NeverWant      == [][\A p \in Processes : ~Want(p)]_vars
NeverSync      == [][\A p \in Processes : ~Sync(p)]_vars
NeverSyncFails == [][\A p \in Processes : ~SyncFails(p)]_vars
NeverRenew     == [][\A p \in Processes : ~Renew(p)]_vars
NeverLoseGuard == [][\A p \in Processes : ~LoseGuard(p)]_vars
NeverRelease   == [][\A p \in Processes : ~Release(p)]_vars
NeverExpire    == [][~Expire]_vars
NeverCrash     == [][\A p \in Processes : ~Crash(p)]_vars
NeverForget    == [][\A p \in Processes, r \in Records : ~Forget(p, r)]_vars
NeverTruncate  == [][~Truncate]_vars
NeverListen    == [][\A p \in Processes : ~Listen(p)]_vars

\* Probes: situations that the guarantees are about.
Keeps(p) == {r \in AnyRecord(cache[p].records) : cache'[p].records[r] # Missing}

\* a sync drops one record and keeps another;
NeverFlushesOne ==
    [][\A p \in Processes : Sync(p) => Keeps(p) \in {{}, AnyRecord(cache[p].records)}]_vars

\* a sync drops even what did not change, because the log was cut;
NeverFlushesAll ==
    [][\A p \in Processes : (Sync(p) /\ Keeps(p) = {}) =>
        \A r \in AnyRecord(cache[p].records) : cache[p].records[r] # Value(r, Version)]_vars

\* a commit releases the lease, and one that could keeps it;
NeverReleasesAtCommit == \A o \in Operations : ~op[o].released
NeverStays ==
    [][\A o \in Operations :
        (WorkingUnder(Home[o], op[o].under) = {o} /\ op[o].stage = "running" /\ op'[o].stage = "committed" /\ op'[o].sawWaiter)
            => op'[o].released]_vars

\* a failed sync releases the lease;
NeverReleasesAfterFailedSync == [][\A p \in Processes : SyncFails(p) => lease' = lease]_vars

\* a commit is answered after another process has committed in its turn;
NeverAnswersLate ==
    [][\A o \in Operations : (op[o].stage = "committed" /\ Finish(o)) => op[o].at = Version]_vars

\* a subscriber is published that it lagged.
NeverLags == \A p \in Processes : \A i \in DOMAIN heard[p] : ~heard[p][i].lagged
===============================================================================
