-------------------------------- MODULE Lease --------------------------------
(* The lease row and the guard as functions from old values to new ones. The   *)
(* guard is what a process knows about its own right to use the store. There   *)
(* are no variables here. So LeaseLock (the lock alone, with its progress) and *)
(* CryptoStoreCache (the lock with the store and its caches) use the same      *)
(* lock.                                                                       *)
(*                                                                             *)
(* The same functions in Python: lease.py and guard.py of                      *)
(* reference/unwedged/protocol.                                                *)
EXTENDS Naturals

CONSTANTS
    Processes,  \* the programs that share the store
    Nobody,     \* as the holder: no process holds the lease
    Departed,   \* as the holder: an instance that crashed. The process that
                \* runs now under the same label is another instance
    LeaseTime,  \* how long a lease lasts, in ticks
    Fault       \* "none", or the slug of the one rule that is broken

Broken(slug) == Fault = slug

-------------------------------------------------------------------------------
(* The lease row. `left` is the time until the lease expires, by the clock of  *)
(* a process that reads the row now. 0 means that it has expired. No lease     *)
(* lasts longer than LeaseTime; a larger value shows that a clock has jumped   *)
(* back (P7.3).                                                                *)

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

\* P1.3, P1.4: the epoch always grows, even if the same process takes the lease again.
Acquired(row, p, epoch) ==
    [epoch |-> epoch, holder |-> p, left |-> LeaseTime, wanted |-> FALSE]

Wanted(row) == [row EXCEPT !.wanted = TRUE]

\* P4.1. The fence does not depend on a clock: an expired lease still passes it, until
\* another process takes the lease.
FencePasses(row, epoch) == row.holder # Nobody /\ row.epoch = epoch

Renewed(row) == [row EXCEPT !.left = LeaseTime]

\* (The remaining time of a lease that no process holds has no meaning. It is 0.)
Released(row) == [row EXCEPT !.holder = Nobody, !.left = 0]

\* P5.17: how a commit changes the row, in its own transaction. It may release the lease if
\* a process waits and no other operation runs under the guard. This saves the holder a
\* second write, and the waiting process gets the lease earlier.
HandsOver(row, mayRelease) == row.wanted /\ mayRelease /\ ~Broken("waiter-ignored")

Committed(row, mayRelease) == IF HandsOver(row, mayRelease) THEN Released(row) ELSE Renewed(row)

\* P8.4: a holder may react to a waiting process at once, or at the end of its turn. (So a
\* renewal or a commit that sees a waiting process may ignore it for now, and a commit that
\* could release the lease may keep it.)
Notable(sawWaiter) == {FALSE, sawWaiter}

\* P2.11: after a failed sync, the process releases the lease. This write may fail as well;
\* then the lease expires later.
LeftBehind(row, epoch) ==
    {row} \cup (IF FencePasses(row, epoch) THEN {Released(row)} ELSE {})

-------------------------------------------------------------------------------
(* The guard, as its process knows it. It belongs to one epoch (P0.7).         *)

Stages == {"none", "syncing", "held", "draining", "expiring"}

Guards == [stage: Stages, epoch: Nat]

NoGuard == [stage |-> "none", epoch |-> 0]

Taken(epoch) == [stage |-> "syncing", epoch |-> epoch]

\* P2.1: operations may begin only after the sync.
Synced(guarding) == [guarding EXCEPT !.stage = "held"]

\* P8.2: a renewal or a commit has seen whether a process waits.
WaiterNoted(guarding, wanted) ==
    IF wanted /\ guarding.stage = "held" /\ ~Broken("waiter-ignored")
    THEN [guarding EXCEPT !.stage = "draining"] ELSE guarding

\* P8.11: operations still run after the time that they have to end. The lease is not
\* renewed any more. The operations may finish while the lease lasts.
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
