-------------------------------- MODULE Lease --------------------------------
(* The vocabulary of the lock: the lease row, what a process knows about its   *)
(* own right to use the store, and how each may change. There are no variables *)
(* here, only functions from old values to new ones. So both LeaseLock (the    *)
(* lock alone, with its progress) and CryptoStoreCache (the lock with the      *)
(* store and its caches) use the same lock.                                    *)
(*                                                                             *)
(* Twins: reference/unwedged/protocol/lease.py and guard.py.                   *)
EXTENDS Naturals

CONSTANTS
    Processes,  \* the programs that share the store
    Nobody,     \* in the holder's place: nobody holds the lease
    Departed,   \* in the holder's place: an instance that crashed. What runs
                \* now under the same label is a new instance, and not it
    LeaseTime,  \* how long a lease lasts, in ticks
    Fault       \* "none", or the slug of the one rule that is broken

Broken(slug) == Fault = slug

-------------------------------------------------------------------------------
(* The lease row. Time is kept as what is left of it, as a reader's clock says *)
(* at this moment: 0 is "expired", and more than LeaseTime is a claim no lease *)
(* can make, the trace of a clock that jumped back (P7.3).                     *)

Absurd == LeaseTime + 1

Rows == [epoch: Nat, holder: Processes \cup {Nobody, Departed},
         left: 0..Absurd, wanted: BOOLEAN]

NewRow == [epoch |-> 0, holder |-> Nobody, left |-> 0, wanted |-> FALSE]

\* P1.2.
Takeable(row, p) ==
    \/ row.holder = Nobody
    \/ row.holder = p
    \/ row.left = 0
    \/ row.left > LeaseTime /\ ~Broken("clock-jump")

\* P1.3, P1.4: the epoch always grows, also when the same program takes it again.
Acquired(row, p, epoch) ==
    [epoch |-> epoch, holder |-> p, left |-> LeaseTime, wanted |-> FALSE]

Wanted(row) == [row EXCEPT !.wanted = TRUE]

\* P4.1. No clock is asked: an expired lease that nobody took still fences.
FencePasses(row, epoch) == row.holder # Nobody /\ row.epoch = epoch

Renewed(row) == [row EXCEPT !.left = LeaseTime]

\* (What is left of a lease that nobody holds is of no interest: 0.)
Released(row) == [row EXCEPT !.holder = Nobody, !.left = 0]

\* P5.17: what a commit makes of the row, in its own transaction. It may release
\* the lease, if somebody waits and no other operation works under the guard: that saves the
\* holder a second write, and the waiter the time until it comes.
HandsOver(row, mayRelease) == row.wanted /\ mayRelease /\ ~Broken("waiter-ignored")

Committed(row, mayRelease) == IF HandsOver(row, mayRelease) THEN Released(row) ELSE Renewed(row)

\* P8.4: that somebody waits is heeded at once, or later: a turn lasts as long as it is
\* worth something. (So it is whatever a renewal or a commit brings that may be noted,
\* and a commit that could release the lease may keep it.)
Notable(sawWaiter) == {FALSE, sawWaiter}

\* P2.11: after a failed sync the lease is released. That is a write, which may fail as
\* well; then the lease is left to expire.
LeftBehind(row, epoch) ==
    {row} \cup (IF FencePasses(row, epoch) THEN {Released(row)} ELSE {})

-------------------------------------------------------------------------------
(* The guard, as far as its process knows: bound to one epoch (P0.7).          *)

Stages == {"none", "syncing", "held", "draining", "expiring"}

Guards == [stage: Stages, epoch: Nat]

NoGuard == [stage |-> "none", epoch |-> 0]

Taken(epoch) == [stage |-> "syncing", epoch |-> epoch]

\* P2.1: only after the sync does the guard exist.
Synced(guarding) == [guarding EXCEPT !.stage = "held"]

\* P8.2: what a renewal or a commit brings back about waiting.
WaiterNoted(guarding, wanted) ==
    IF wanted /\ guarding.stage = "held" /\ ~Broken("waiter-ignored")
    THEN [guarding EXCEPT !.stage = "draining"] ELSE guarding

\* P8.11: what still runs has had its time. The lease is renewed no more; as long as it
\* lasts, what runs may finish.
Overdue(guarding) ==
    IF guarding.stage = "draining" THEN [guarding EXCEPT !.stage = "expiring"] ELSE guarding

\* P0.9.
Lost(guarding, epoch) == IF guarding.epoch = epoch THEN NoGuard ELSE guarding

Admits(guarding) == guarding.stage = "held"

Renewable(guarding) == guarding.stage \in {"syncing", "held", "draining"}

\* P3.3.
Stands(guarding, epoch) ==
    guarding.epoch = epoch /\ guarding.stage \in {"held", "draining", "expiring"}
===============================================================================
