-------------------------- MODULE MCCryptoStoreCache --------------------------
(* CryptoStoreCache made finite: the process of each operation, and the      *)
(* modes that the operation may have.                                        *)
EXTENDS CryptoStoreCache, TLC

CONSTANTS p1, p2, o1, o2, o3

\* The process of each operation. Two operations are in one process, since several faults need this.
TwoAndOne == o1 :> p1 @@ o2 :> p1 @@ o3 :> p2

\* The modes that each operation may have.
AllTransactions == [o \in Operations |-> {"transaction"}]
ViewAway == o1 :> {"transaction"} @@ o2 :> {"transaction"} @@ o3 :> {"view"}
OneEither == o1 :> {"transaction"} @@ o2 :> {"transaction", "view"} @@ o3 :> {"transaction"}
Anything == [o \in Operations |-> {"transaction", "view"}]
OneView == o1 :> {"transaction"} @@ o2 :> {"view"} @@ o3 :> {"transaction"}

\* Records are interchangeable, and so are two transactions of one process.
Alike == Permutations(Records) \cup Permutations({o1, o2})
RecordsAlike == Permutations(Records)

\* Leases that have expired when they are taken. Only a process that wants the lease looks at the
\* time that is left, and that time can only make it wait (P1.2). So as long as no process waits,
\* these leases allow the same steps as leases that last, in half as many states.
\* (tests/checking/test_reductions.py compares the states, and looks for the faults.)
AcquiredExpired(row, p, epoch) == [epoch |-> epoch, holder |-> p, left |-> 0, wanted |-> FALSE]
RenewedExpired(row) == row

\* Restrictions for a model whose graph must be small: no operation fails; no record is dropped from
\* a cache without a sync; a process notes at once that another one waits; and after a failed sync
\* the lease is not released, and expires.
NoFailure(o) == FALSE
NothingForgotten(p, r) == FALSE
NotedAtOnce(sawWaiter) == {sawWaiter}
LeftAlone(row, epoch) == {row}

-------------------------------------------------------------------------------
(* The replay model. Each of its transitions is driven through the           *)
(* implementation, so it must be small. Without symmetry, and with three     *)
(* epochs and two commits, the specification has millions of transitions.    *)
(* This model has only one course of events with its variants: p1 runs       *)
(* operations, then it loses the lease or releases it; p2 runs an operation, *)
(* and may change a record that p1 has cached; then p1 runs operations       *)
(* again. Each step is a step of the specification. The constraints below    *)
(* exclude all others.                                                       *)

\* How many operations of p1 are under way.
InFlight == Cardinality({o \in Of(p1) : op[o].stage # "idle"})

\* An operation reaches a stage.
Comes(o, stage) == op[o].stage # stage /\ op'[o].stage = stage
\* An operation begins.
Starts(o) == op[o].stage = "idle" /\ op'[o].stage # "idle"

FirstRecord == CHOOSE r \in Records : TRUE

\* The processes take the lease in turns, three times. No process waits for it after the last turn
\* has begun.
LastTurn == 3

TakeTurns ==
    /\ lease'.epoch # lease.epoch =>
        IF lease.epoch < LastTurn THEN lease'.holder = IF lease.epoch % 2 = 0 THEN p1 ELSE p2
        ELSE lease.holder = p1 /\ lease'.holder = p1
    /\ lease'.wanted /\ ~lease.wanted => lease.epoch < LastTurn

\* There are three more variants, which end soon. In the first, the sync of p1's last turn fails.
\* Then p1 takes its own lease again, and syncs. In the second, p1 loses the lease before its first
\* sync. Then no operation begins. In the third, the change log is truncated while a view of p1
\* runs that needs the lost part. Then no process takes the lease any more.
EndSoon ==
    /\ (lease.epoch = LastTurn /\ lease'.epoch # lease.epoch) =>
        floor = 0 /\ cache[p2] = NewCache /\ op[o3].stage = "idle" /\ guard[p2].stage = "none"
    /\ lease.epoch > LastTurn => guard[p1].stage = "syncing" /\ guard'[p1].stage = "held"
    /\ \A o \in Operations : Starts(o) => heard[p1] # <<>>
    /\ (lease.epoch = 1 /\ floor > 0) => lease' = lease
    /\ (op[o2].stage = "running" /\ floor > op[o2].at) => op'[o2].stage = "idle"

\* Records are loaded in one order. A transaction of p1 (o1) loads all of them. Other operations
\* load only the first. (A view gets the second from the cache.)
LoadInOrder ==
    \A o \in Operations : Comes(o, "loading") =>
        op'[o].loading[1] = FirstRecord \/ (o = o1 /\ op[o].known[FirstRecord] # Missing)

\* There are never more commits than acquisitions.
CommitNowAndThen == Len(commits') <= lease'.epoch

\* When p1 loses the lease, at most one of its operations is under way. So the fence stops at most
\* one. No operation begins after its lease was lost. In the last turn, the operations of p1 come
\* one after the other.
FewAreDoomed ==
    /\ (lease.epoch = 1 /\ lease'.epoch = 2) => InFlight <= 1
    /\ \A o \in Operations : Starts(o) => FencePasses(lease, op'[o].under)
    /\ \A o \in Of(p1) : (Starts(o) /\ lease.epoch = LastTurn) => InFlight = 0

\* A validated operation is answered in the next step, since nothing can stop it any more.
AnswerAtOnce == \A o \in Operations : op[o].stage = "validated" => op'[o].stage = "idle"

\* When p1 takes the lease again, each operation has ended or has committed. When p1 has synced
\* then, p2 has no guard, and its operation has ended.
NoticeInTime ==
    /\ (lease.epoch = 2 /\ lease'.epoch = 3) =>
        \A o \in Operations : op[o].stage \in {"idle", "committed"}
    /\ (lease.epoch = 3 /\ guard[p1].stage = "syncing" /\ guard'[p1].stage = "held") =>
        guard[p2].stage = "none" /\ op[o3].stage = "idle"

\* A lease expires only if a process waits for it, and only where this may do harm: while an
\* operation of p1 is under way; while p2 has committed and does not know it yet; during a sync
\* before the first commit; or after the holder has crashed.
ExpireWhereItHurts ==
    (lease.left > 0 /\ lease'.left = 0 /\ lease'.holder # Nobody) =>
        /\ lease.wanted
        /\ \/ lease.holder = p1 /\ InFlight > 0
           \/ op[o3].stage = "committed"
           \/ \E p \in Processes : guard[p].stage = "syncing" /\ commits = <<>>
           \/ lease.holder = Departed

\* The change log is truncated only where this has an effect: on the cache of p1, while no process
\* has a guard; or on a view of p1 that still has to load a record.
TruncateBetween ==
    floor' # floor =>
        \/ /\ \A p \in Processes : guard[p].stage = "none"
           /\ cache[p1].version < Version /\ cache[p1].records # Nothing
        \/ /\ op[o2].stage = "running" /\ op[o2].at < Version
           /\ AnyRecord(op[o2].known) # Records
           /\ lease.epoch = 1 /\ InFlight = 1 /\ ~lease.wanted /\ lease.holder = p1

\* The fence stops a running operation at its next access after its lease was lost. Neither a
\* renewal nor an abort comes first.
FindOutByAccess ==
    \A o \in Operations :
        (op[o].stage = "running" /\ Stands(guard[Home[o]], op[o].under) /\ ~MayAccess(o)) =>
            (op'[o].stage = "idle" <=> guard'[Home[o]] # guard[Home[o]])

\* The fence stops a sync whose lease was lost. No other step of the process comes first.
FindOutBySync ==
    \A p \in Processes :
        (guard[p].stage = "syncing" /\ ~FencePasses(lease, guard[p].epoch)) => guard'[p] = NoGuard

\* Only p2 crashes: after it has committed, and before the commit is answered.
CrashAfterCommit ==
    /\ lease.holder = p1 => lease'.holder # Departed
    /\ heard[p1] # <<>> => heard'[p1] # <<>>
    /\ \/ lease.holder = p2 /\ lease'.holder = Departed
       \/ cache[p2] # NewCache /\ cache'[p2] = NewCache
       => op[o3].stage = "committed" /\ InFlight = 0

\* A sync fails only if the cache has records, and no operation of p1 is under way.
FailWhereItMatters ==
    \A p \in Processes :
        (guard[p].stage = "syncing" /\ guard'[p].stage = "none" /\ FencePasses(lease, guard[p].epoch)) =>
            cache[p].records # Nothing /\ InFlight = 0

\* Only one transaction of p1 fails: in the first turn, after it has read all records.
FailAtTheEnd ==
    \A o \in Operations : (Comes(o, "validated") /\ op[o].mode = "transaction") =>
        o = o1 /\ AnyRecord(op[o].known) = Records /\ lease.epoch = 1 /\ InFlight = 1

\* A cache drops a record, without a sync.
Forgets(p) == cache'[p].version = cache[p].version /\ AnyRecord(cache'[p].records) # Records
              /\ \E r \in Records : cache[p].records[r] # Missing /\ cache'[p].records[r] = Missing

\* Only p1 does so: in its first turn, while a transaction runs that has read all records.
ForgetUnderWay ==
    \A p \in Processes : (Forgets(p) /\ op' = op /\ guard' = guard) =>
        /\ p = p1 /\ lease.epoch = 1 /\ ~lease.wanted /\ InFlight = 1 /\ op[o1].stage = "running"
        /\ AnyRecord(op[o1].known) = Records /\ cache'[p].records[FirstRecord] # Missing

\* Then the lease does not change before the next step of that transaction.
Undisturbed ==
    (op[o1].stage = "running" /\ AnyRecord(op[o1].known) = Records /\ lease.epoch = 1
        /\ AnyRecord(cache[p1].records) # Records /\ Stands(guard[p1], 1)) => lease' = lease \/ op' # op

\* Without a guard, the subscriber of p1 reads the change log only while no operation is under way.
ListenInPeace ==
    (heard'[p1] # heard[p1] /\ guard[p1].stage = "none" /\ op' = op) =>
        \A o \in Operations : op[o].stage = "idle"

ReplayStep ==
    /\ TakeTurns /\ EndSoon /\ LoadInOrder /\ CommitNowAndThen /\ FewAreDoomed /\ FindOutByAccess
    /\ FindOutBySync /\ AnswerAtOnce /\ NoticeInTime /\ ExpireWhereItHurts /\ CrashAfterCommit
    /\ FailWhereItMatters /\ FailAtTheEnd /\ ForgetUnderWay /\ Undisturbed
    /\ TruncateBetween /\ ListenInPeace

-------------------------------------------------------------------------------
(* For the proofs: the specification without some actions. So with two       *)
(* records, three epochs and a commit, its graph is small enough to be       *)
(* compared state by state.                                                  *)

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
(* Probes. Each claims that an action never happens, and TLC must refute it. *)
(* Otherwise the guarantees might hold only because nothing happens.         *)

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

\* What a cache keeps in a step.
Keeps(p) == {r \in AnyRecord(cache[p].records) : cache'[p].records[r] # Missing}

\* Probes of situations that the guarantees are about. Each claims that the situation in its comment
\* never happens.

\* A sync drops one record and keeps another.
NeverFlushesOne ==
    [][\A p \in Processes : Sync(p) => Keeps(p) \in {{}, AnyRecord(cache[p].records)}]_vars

\* A sync drops records that did not change, because the change log was truncated.
NeverFlushesAll ==
    [][\A p \in Processes : (Sync(p) /\ Keeps(p) = {}) =>
        \A r \in AnyRecord(cache[p].records) : cache[p].records[r] # Value(r, Version)]_vars

\* A commit releases the lease.
NeverReleasesAtCommit == \A o \in Operations : ~op[o].released

\* A commit could release the lease, and keeps it.
NeverStays ==
    [][\A o \in Operations :
        (WorkingUnder(Home[o], op[o].under) = {o} /\ op[o].stage = "running" /\ op'[o].stage = "committed" /\ op'[o].sawWaiter)
            => op'[o].released]_vars

\* A failed sync releases the lease.
NeverReleasesAfterFailedSync == [][\A p \in Processes : SyncFails(p) => lease' = lease]_vars

\* A commit is answered after another one was made.
NeverAnswersLate ==
    [][\A o \in Operations : (op[o].stage = "committed" /\ Finish(o)) => op[o].at = Version]_vars

\* A subscriber is informed that it may have missed changes.
NeverLags == \A p \in Processes : \A i \in DOMAIN heard[p] : ~heard[p][i].lagged
===============================================================================
