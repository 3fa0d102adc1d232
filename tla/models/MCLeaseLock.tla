----------------------------- MODULE MCLeaseLock -----------------------------
(* LeaseLock made finite. The liveness models must not run out of epochs.    *)
(* Otherwise a process would stop waiting only because no epoch is left. So  *)
(* they use numbers again that neither the row nor a process has.            *)
EXTENDS LeaseLock

\* The epochs that the row or a process has.
Borne == {lease.epoch} \cup {guard[p].epoch : p \in Processes} \cup {synced[p] : p \in Processes}

\* The least other number. It replaces NextEpoch.
FreshEpoch == CHOOSE e \in 1..(2 * Cardinality(Processes) + 2) :
    /\ e \notin Borne
    /\ \A f \in 1..(e - 1) : f \in Borne

\* It replaces EpochsLeft.
AlwaysMore == TRUE

-------------------------------------------------------------------------------
(* Probes. Each claims that an action never happens, and TLC must refute it. *)
(* Otherwise the guarantees might hold only because nothing happens.         *)

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

\* Probes of situations that the guarantees are about. Each claims that the situation in its comment
\* never happens.

\* A holder learns that a process waits, and still admits operations.
NeverStays ==
    [][\A p \in Processes : (Renew(p) /\ lease.wanted) => guard'[p].stage # "held"]_vars

\* A process takes a lease that its holder no longer renews, while the holder's operation still
\* runs.
NeverTakenFromRunning ==
    [][\A p, q \in Processes : (Acquire(q) /\ lease.holder = p /\ guard[p].stage = "expiring") => op[p] # "running"]_vars
===============================================================================
