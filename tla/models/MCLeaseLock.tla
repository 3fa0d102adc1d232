----------------------------- MODULE MCLeaseLock -----------------------------
(* LeaseLock made finite. The liveness models must not run out of epochs, or   *)
(* the waiting would end only because the counting does: they recycle the      *)
(* numbers that neither the row nor any process bears.                         *)
EXTENDS LeaseLock

Borne == {lease.epoch} \cup {guard[p].epoch : p \in Processes} \cup {synced[p] : p \in Processes}

FreshEpoch == CHOOSE e \in 1..(2 * Cardinality(Processes) + 2) :
    /\ e \notin Borne
    /\ \A f \in 1..(e - 1) : f \in Borne

AlwaysMore == TRUE

-------------------------------------------------------------------------------
(* Probes: each says that an action never happens, and must be found wrong, or *)
(* the promises would hold because nothing happens.                            *)

NeverCall        == [][\A p \in Processes : ~Call(p)]_vars
NeverAcquire     == [][\A p \in Processes : ~Acquire(p)]_vars
NeverWant        == [][\A p \in Processes : ~Want(p)]_vars
NeverSync        == [][\A p \in Processes : ~Sync(p)]_vars
NeverSyncFails   == [][\A p \in Processes : ~SyncFails(p)]_vars
NeverBegin       == [][\A p \in Processes : ~Begin(p)]_vars
NeverWriteBegins == [][\A p \in Processes : ~WriteBegins(p)]_vars
NeverWriteEnds   == [][\A p \in Processes : ~WriteEnds(p)]_vars
NeverEnd         == [][\A p \in Processes : ~End(p)]_vars
NeverRenew       == [][\A p \in Processes : ~Renew(p)]_vars
NeverStopRenewing == [][\A p \in Processes : ~StopRenewing(p)]_vars
NeverLose        == [][\A p \in Processes : ~Lose(p)]_vars
NeverRelease     == [][\A p \in Processes : ~Release(p)]_vars
NeverCrash       == [][\A p \in Processes : ~Crash(p)]_vars
NeverExpire      == [][~Expire]_vars
NeverClockJump   == [][~ClockJump]_vars

\* Probes: situations that the guarantees are about.
\* a holder knows that somebody waits, and goes on for a while;
NeverStays ==
    [][\A p \in Processes : (Renew(p) /\ lease.wanted) => guard'[p].stage # "held"]_vars

\* a lease that is renewed no more is taken while the operation still runs.
NeverTakenFromRunning ==
    [][\A p, q \in Processes : (Acquire(q) /\ lease.holder = p /\ guard[p].stage = "expiring") => op[p] # "running"]_vars
===============================================================================
