----------------------------- MODULE MCInductive -----------------------------
(* The inductive invariant of proofs/encoding/invariant.py in TLA+. Each     *)
(* conjunct has the same name there. TLC starts from every state that        *)
(* satisfies the invariant, reachable or not, and must find that each action *)
(* leads to such a state again. The proof is for any number of processes,    *)
(* operations, records and versions, but it is about its own encoding of the *)
(* specification. This model shows the same about the specification itself,  *)
(* within bounds.                                                            *)
(*                                                                           *)
(* The proof has three variables more. Here, other definitions replace them. *)
(* The last write of a record is in the log. The snapshot of an operation    *)
(* follows from its stage, or else some version fits. The last commit was    *)
(* made by the operation that has committed and does not know it yet.        *)
EXTENDS MCCryptoStoreCache

-------------------------------------------------------------------------------
(* The lock. (The conjunct GuardIsHonest is a guarantee of CryptoStoreCache.)   *)

EpochsOnlyGrow ==
    /\ lease.holder # Nobody => lease.epoch >= 1
    /\ \A p \in Processes :
        IF guard[p].stage = "none" THEN guard[p].epoch = 0 ELSE guard[p].epoch \in 1..lease.epoch
    /\ \A o \in Operations :
        IF op[o].stage = "idle" THEN op[o].under = 0 ELSE op[o].under \in 1..lease.epoch

\* An operation passes the fence.
Fenced(x) == FencePasses(lease, x.under)

\* A predicate holds for each operation o and its state x.
Each(fits(_, _)) == \A o \in Operations : fits(o, op[o])

HasItsGuard(o, x) ==
    (x.stage # "idle" /\ Fenced(x)) => Stands(guard[Home[o]], x.under)

WorksAfterTheSync(o, x) ==
    (x.stage # "idle" /\ guard[Home[o]].stage = "syncing") => x.under # guard[Home[o]].epoch

IsFencedAfterwards(o, x) ==
    x.released => x.stage = "committed" /\ ~Fenced(x)

ReleasedTheLease == Each(IsFencedAfterwards)
FencedOperationHasItsGuard == Each(HasItsGuard)
NobodyWorksBeforeTheSync == Each(WorksAfterTheSync)

-------------------------------------------------------------------------------
(* The store and its change log. (The conjunct NoLostUpdate is a guarantee of   *)
(* CryptoStoreCache.)                                                           *)

LogIsWithinHistory == floor \in 0..Version

\* A commit after version v wrote the record r.
WrittenAfter(r, v) == \E i \in (v + 1)..Version : r \in DOMAIN commits[i]

UnwrittenIsUnchanged ==
    \A r \in Records : \A v \in 0..Version : WrittenAfter(r, v) \/ Value(r, v) = Value(r, Version)

UpdatesCountByOne ==
    \A r \in Records :
        /\ Value(r, 0) = 0
        /\ \A v \in 1..Version :
            Value(r, v) = IF r \in DOMAIN commits[v] THEN commits[v][r] + 1 ELSE Value(r, v - 1)

ValuesNeverGoBack ==
    \A r \in Records : \A v, w \in 0..Version : v <= w => Value(r, v) <= Value(r, w)

-------------------------------------------------------------------------------
(* Caches.                                                                      *)

CacheIsOfItsVersion ==
    \A p \in Processes :
        /\ cache[p].version \in 0..Version
        /\ \A r \in Records : cache[p].records[r] \in {Missing, Value(r, cache[p].version)}

FencedCacheIsCurrent ==
    \A p \in Processes :
        (guard[p].stage \in {"held", "draining"} /\ FencePasses(lease, guard[p].epoch)) =>
            \/ cache[p].version = Version
            \/ /\ cache[p].version + 1 = Version
               /\ \E o \in WorkingUnder(p, guard[p].epoch) :
                    op[o].stage = "committed" /\ op[o].at = Version

SubscribersHaveHeard ==
    \A p \in Subscribers :
        (guard[p].stage \in {"held", "draining"} /\ heard[p] # <<>>) => LastHeard(heard[p]) >= cache[p].version

-------------------------------------------------------------------------------
(* Operations.                                                                  *)

HasAMode(o, x) ==
    /\ (x.stage = "idle") <=> (x.mode = "none")
    /\ x.stage = "committed" => x.mode = "transaction"
    /\ x.stage = "idle" => AnyRecord(x.known) = {}

OneTransactionAtATime ==
    \A o, other \in Operations :
        (/\ Home[o] = Home[other] /\ op[o].under = op[other].under
         /\ op[o].mode = "transaction" /\ op[other].mode = "transaction") => o = other

\* What is known is of version v.
IsOf(known, v) == v \in 0..Version /\ \A r \in Records : known[r] \in {Missing, Value(r, v)}

\* Also the proof's SnapshotIsWhereItIsSaid, which says at which version.
KnowsOneSnapshot(o, x) ==
    CASE x.stage \in {"running", "loading"} -> IsOf(x.known, x.at)
      [] x.stage = "committed" -> x.at \in 1..Version /\ IsOf(x.known, x.at - 1)
      [] OTHER -> \E v \in 0..Version : IsOf(x.known, v)

AnswersWhatItWrote(o, x) ==
    x.stage = "committed" => AnyRecord(x.known) = DOMAIN commits[x.at] /\ AnyRecord(x.known) # {}

LoadsWhatFits(o, x) ==
    x.stage = "loading" =>
        LET r == x.loading[1]  value == x.loading[2]  version == x.loading[3]
        IN  version \in 0..Version /\ value = Value(r, version) /\ value = Value(r, x.at)

IsCurrent(o, x) ==
    (x.stage \in {"running", "loading"} /\ x.mode = "transaction" /\ Fenced(x)) => x.at = Version

IsFresh(o, x) ==
    (x.stage \in {"running", "loading"} /\ x.mode = "view" /\ Fenced(x)) => x.at >= x.begun

StagesHaveModes == Each(HasAMode)
KnowledgeIsOfOneSnapshot == Each(KnowsOneSnapshot)
CommitAnswersWhatItWrote == Each(AnswersWhatItWrote)
LoadFitsItsOperation == Each(LoadsWhatFits)
FencedTransactionIsCurrent == Each(IsCurrent)
FencedViewIsFresh == Each(IsFresh)

-------------------------------------------------------------------------------
(* Every state that satisfies the invariant. If a conjunct determines a value,  *)
(* the value is computed and not chosen. Otherwise there would be too many      *)
(* states.                                                                      *)

\* The value of a record at a version, by UpdatesCountByOne and NoLostUpdate.
Count(written, r, v) == Cardinality({i \in 1..v : r \in written[i]})

\* No conjunct has the time that is left of a lease, or whether a process waits. So each of these
\* has only the value that forbids no step: a lease has expired as soon as it is taken, and a
\* process always waits (the holder may always react to this later). Then each step can change
\* everything else as before. (Want and Expire change nothing else. They do not occur.)
TakenByAnybody(row, p, epoch) == [epoch |-> epoch, holder |-> p, left |-> 0, wanted |-> TRUE]

\* Lease rows, and guards, by EpochsOnlyGrow.
Leases == {row \in [epoch : 0..MaxEpoch, holder : Processes \cup {Nobody, Departed}, left : {0}, wanted : {TRUE}] :
    row.holder # Nobody => row.epoch >= 1}

GuardsGiven == {NoGuard} \cup [stage : {"syncing", "held", "draining"}, epoch : 1..lease.epoch]

\* Caches, by CacheIsOfItsVersion.
Copies(v) == {Part(Snapshot(v), asked) : asked \in SUBSET Records}
Caches == UNION {{[version |-> v, records |-> records] : records \in Copies(v)} : v \in 0..Version}

\* Operations by stage, by StagesHaveModes, KnowledgeIsOfOneSnapshot and CommitAnswersWhatItWrote.
Running(o) == UNION {UNION {
        {[Idle EXCEPT !.stage = "running", !.mode = mode, !.under = epoch, !.at = v, !.begun = begun, !.known = known] :
            epoch \in 1..lease.epoch, begun \in IF mode = "view" THEN 0..Version ELSE {0}, known \in Copies(v)} :
        v \in 0..Version} : mode \in Modes[o]}

Loading(o) == {[x EXCEPT !.stage = "loading", !.loading = <<r, Value(r, v), v>>] :
    x \in Running(o), r \in Records, v \in 0..Version}

Committing(o) == IF "transaction" \notin Modes[o] THEN {} ELSE
    {[Idle EXCEPT !.stage = "committed", !.mode = "transaction", !.under = epoch, !.at = v, !.sawWaiter = TRUE,
                  !.released = released, !.known = Part(Snapshot(v - 1), DOMAIN commits[v])] :
        epoch \in 1..lease.epoch, v \in 1..Version, released \in BOOLEAN}

Validated(o) ==
    {[Idle EXCEPT !.stage = "validated", !.mode = mode, !.under = epoch, !.sawWaiter = TRUE, !.known = known] :
        mode \in Modes[o], epoch \in 1..lease.epoch, known \in UNION {Copies(v) : v \in 0..Version}}

\* Those that satisfy the other conjuncts about one operation.
Fitting(o) == {x \in {Idle} \cup Running(o) \cup Loading(o) \cup Committing(o) \cup Validated(o) :
    /\ IsFencedAfterwards(o, x) /\ HasItsGuard(o, x) /\ WorksAfterTheSync(o, x) /\ LoadsWhatFits(o, x)
    /\ IsCurrent(o, x) /\ IsFresh(o, x)}

AnyInit ==
    \E n \in 0..MaxVersion : \E written \in [1..n -> SUBSET Records \ {{}}] :
        /\ history = [i \in 1..(n + 1) |-> [r \in Records |-> Count(written, r, i - 1)]]
        /\ commits = [v \in 1..n |-> [r \in written[v] |-> Count(written, r, v - 1)]]
        /\ floor \in 0..n
        /\ lease \in Leases
        /\ guard \in [Processes -> GuardsGiven]
        /\ \A p \in Processes :  \* (GuardIsHonest implies this)
            (guard[p].stage # "none" /\ lease.epoch = guard[p].epoch) => lease.holder \in {p, Nobody}
        /\ heard = [p \in Processes |-> <<>>]
        /\ \E x \in Fitting(o1), y \in Fitting(o3) : op = (o1 :> x @@ o3 :> y)
        /\ GuardIsHonest
        /\ OneTransactionAtATime
        /\ cache \in [Processes -> Caches]
        /\ FencedCacheIsCurrent

AnySpec == AnyInit /\ [][Next]_vars
===============================================================================
