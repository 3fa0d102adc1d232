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
===============================================================================
