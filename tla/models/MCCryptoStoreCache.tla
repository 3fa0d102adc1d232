-------------------------- MODULE MCCryptoStoreCache --------------------------
(* CryptoStoreCache made finite: who lives where, and what each may be.        *)
EXTENDS CryptoStoreCache, TLC

CONSTANTS p1, p2, o1, o2, o3

\* Two operations share a process: several faults need that.
TwoAndOne == o1 :> p1 @@ o2 :> p1 @@ o3 :> p2

AllTransactions == [o \in {o1, o2, o3} |-> {"transaction"}]
Either == o1 :> {"transaction", "view"} @@ o2 :> {"view"} @@ o3 :> {"transaction"}
OneView == o1 :> {"transaction"} @@ o2 :> {"view"} @@ o3 :> {"transaction"}

\* Records are alike, and so are two transactions of one process.
Alike == Permutations(Records) \cup Permutations({o1, o2})
RecordsAlike == Permutations(Records)

\* An operation whose epoch is over can only be run again or be given up, whatever
\* it has read; so what it has read makes no difference any more.
Doomed(o) == op[o].stage = "running" /\ ~MayAccess(o)
WithoutTheDoomed ==
    <<lease, history, commits, floor, guard, cache, heard,
      [o \in Operations |-> IF Doomed(o) THEN <<>> ELSE op[o]]>>

-------------------------------------------------------------------------------
(* Probes: each says that an action never happens, and must be found wrong, or *)
(* the guarantees would hold for want of behaviour.                            *)

NeverBegin     == [][\A o \in Operations : \A kind \in Kinds[o] : ~Begin(o, kind)]_vars
NeverLoad      == [][\A o \in Operations, r \in Records : ~Load(o, r)]_vars
NeverFill      == [][\A o \in Operations : ~Fill(o)]_vars
NeverCommit    == [][\A o \in Operations, updated \in SUBSET Records : ~Commit(o, updated)]_vars
NeverValidate  == [][\A o \in Operations : ~Validate(o)]_vars
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
NeverLapse     == [][~Lapse]_vars
NeverCrash     == [][\A p \in Processes : ~Crash(p)]_vars
NeverTruncate  == [][~Truncate]_vars
NeverListen    == [][\A p \in Processes : ~Listen(p)]_vars
===============================================================================
