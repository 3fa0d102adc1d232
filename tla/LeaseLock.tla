------------------------------ MODULE LeaseLock ------------------------------
(* The cross-process lock alone: one row that processes share, and the guard *)
(* of each process. It promises to each process, whatever the clocks show,   *)
(* and whichever process is suspended or killed:                             *)
(*                                                                           *)
(*   OneFencedHolder   two processes never pass the fence at the same time   *)
(*   GuardIsHonest     a process that believes it holds the lease has held   *)
(*                     it continuously since its sync, or the fence stops it *)
(*   EpochNeverReused  each acquisition has an epoch of its own              *)
(*   HolderNotAborted  a holder keeps the lease if it renews in time, its    *)
(*                     clock runs evenly, and its operations end when        *)
(*                     somebody waits                                        *)
(*   LockNotStuck      if a process waits, then eventually some process      *)
(*                     holds the lock, or the waiting process gets the error *)
(*                     of a failed sync                                      *)
(*   WaiterServed      a process that waits eventually gets the lock, or     *)
(*                     such an error                                         *)
(*                                                                           *)
(* CryptoStoreCache says what an operation does. Here an operation only uses *)
(* the lock. It may write for longer than a lease lasts, and it need not     *)
(* end. A process that pauses releases the lease, and takes no step until it *)
(* resumes.                                                                  *)
EXTENDS Lease, FiniteSets

CONSTANTS MaxEpoch,     \* bound: no more acquisitions than this
          MaxJumps,     \* bound: how often the wall clock jumps
          SharesLabel,  \* the processes with the same label
          LongWrites    \* whether a write may last longer than a lease. (Progress
                        \* is checked without long writes, since the model does
                        \* not have SQLite's rules for a second writer)

ASSUME /\ LeaseTime \in Nat \ {0}
       /\ MaxEpoch >= 2        \* with one epoch there is no handover
       /\ Cardinality(Processes) >= 2 /\ SharesLabel \subseteq Processes

VARIABLES
    lease,    \* the row
    guard,    \* by process: what it believes about the row
    synced,   \* by process: the epoch under which it has synced its cache
    op,       \* by process: "idle", "waiting" for the guard, "running", "writing"
    prompt,   \* by process: whether it renews in time while it holds the lease. This is
              \* chosen at the acquisition. A process that is not prompt may be suspended
    jumps     \* how often the clock has jumped

vars == <<lease, guard, synced, op, prompt, jumps>>

TypeOK ==
    /\ lease \in Rows /\ lease.epoch <= MaxEpoch
    /\ guard \in [Processes -> Guards]
    /\ synced \in [Processes -> 0..MaxEpoch]
    /\ op \in [Processes -> {"idle", "waiting", "running", "writing"}]
    /\ prompt \in [Processes -> BOOLEAN]
    /\ jumps \in 0..MaxJumps

Init ==
    /\ lease = NewRow
    /\ guard = [p \in Processes |-> NoGuard]
    /\ synced = [p \in Processes |-> 0]
    /\ op = [p \in Processes |-> "idle"]
    /\ prompt = [p \in Processes |-> TRUE]
    /\ jumps = 0

\* While a process writes, SQLite lets no other process write, not even the lease row.
DatabaseFree == \A p \in Processes : op[p] # "writing"

\* The liveness model replaces this by the least unused number: the processes compare
\* epochs only for equality.
NextEpoch == lease.epoch + 1

EpochsLeft == lease.epoch < MaxEpoch

\* Forget the data about a process's hold of the lease, at its end.
ForgetHold(p) ==
    /\ synced' = [synced EXCEPT ![p] = 0]
    /\ prompt' = [prompt EXCEPT ![p] = TRUE]

-------------------------------------------------------------------------------
\* An operation asks for the guard.
Call(p) ==
    /\ op[p] = "idle"
    /\ op' = [op EXCEPT ![p] = "waiting"]
    /\ UNCHANGED <<lease, guard, synced, prompt, jumps>>

\* P1.1 to P1.5, P0.4.
Acquire(p) ==
    /\ op[p] = "waiting" /\ guard[p].stage = "none" /\ DatabaseFree
    /\ EpochsLeft
    /\ IF Broken("holder-name-reuse") /\ p \in SharesLabel /\ lease.holder \in SharesLabel
       THEN \* the row has our name, so the process believes that it is the holder
            /\ guard' = [guard EXCEPT ![p] = Taken(lease.epoch)]
            /\ UNCHANGED lease
       ELSE /\ Takeable(lease, p)
            /\ LET epoch == IF Broken("reacquire-keeps-epoch") /\ lease.holder = p
                            THEN lease.epoch ELSE NextEpoch
               IN  /\ lease' = Acquired(lease, p, epoch)
                   /\ guard' = [guard EXCEPT ![p] = Taken(epoch)]
    /\ \E inTime \in BOOLEAN : prompt' = [prompt EXCEPT ![p] = inTime]
    /\ UNCHANGED <<synced, op, jumps>>

\* P1.3. A refused acquisition notes in the row that a process waits.
Want(p) ==
    /\ op[p] = "waiting" /\ guard[p].stage = "none" /\ DatabaseFree
    /\ ~Takeable(lease, p) /\ ~lease.wanted
    /\ lease' = Wanted(lease)
    /\ UNCHANGED <<guard, synced, op, prompt, jumps>>

\* P2.1.
Sync(p) ==
    /\ guard[p].stage = "syncing"
    /\ FencePasses(lease, guard[p].epoch)
    /\ guard' = [guard EXCEPT ![p] = Synced(@)]
    /\ synced' = [synced EXCEPT ![p] = guard[p].epoch]
    /\ UNCHANGED <<lease, op, prompt, jumps>>

\* A sync fails. Then the process releases the lease, if that write succeeds.
FailedSync(p, writes) ==
    /\ guard' = [guard EXCEPT ![p] = NoGuard]
    /\ ForgetHold(p)
    /\ op' = [op EXCEPT ![p] = IF @ = "waiting" THEN "idle" ELSE @]
    /\ lease' = IF writes /\ FencePasses(lease, guard[p].epoch) /\ ~Broken("failed-sync-keeps-lease")
                THEN Released(lease) ELSE lease
    /\ UNCHANGED jumps

\* P2.10 to P2.12. An operation that waits gets the error. The process then tries to release
\* the lease. This write may fail as well.
SyncFails(p) ==
    /\ guard[p].stage = "syncing"
    /\ \E writes \in BOOLEAN : FailedSync(p, writes)

Begin(p) ==
    /\ op[p] = "waiting" /\ Admits(guard[p])
    /\ op' = [op EXCEPT ![p] = "running"]
    /\ UNCHANGED <<lease, guard, synced, prompt, jumps>>

\* A long write. It passes the fence at its start, in the same transaction. Until its end,
\* no other process can take the lease.
WriteBegins(p) ==
    /\ LongWrites /\ op[p] = "running" /\ DatabaseFree
    /\ FencePasses(lease, guard[p].epoch)
    /\ op' = [op EXCEPT ![p] = "writing"]
    /\ UNCHANGED <<lease, guard, synced, prompt, jumps>>

\* P1.9, P5.17. The renewal uses the same connection, so it could not run during the write.
\* So the write renews the lease itself, in its last statement. Or it releases the lease, if
\* a process waits and the holder has no other operation that needs the lease. (This module
\* has no other operations.)
WriteEnds(p) ==
    /\ op[p] = "writing"
    /\ op' = [op EXCEPT ![p] = "idle"]
    /\ \E mayRelease \in BOOLEAN, sawWaiter \in Notable(lease.wanted) :
        /\ lease' = IF Broken("renewal-starved") THEN lease ELSE Committed(lease, mayRelease)
        /\ IF lease'.holder = Nobody
           THEN guard' = [guard EXCEPT ![p] = NoGuard] /\ ForgetHold(p)
           ELSE guard' = [guard EXCEPT ![p] = WaiterNoted(@, sawWaiter)] /\ UNCHANGED <<synced, prompt>>
    /\ UNCHANGED jumps

\* An operation ends, successfully or not.
End(p) ==
    /\ op[p] = "running"
    /\ op' = [op EXCEPT ![p] = "idle"]
    /\ UNCHANGED <<lease, guard, synced, prompt, jumps>>

\* P1.7, P8.2. A renewal succeeds. The holder learns whether a process waits, and reacts now
\* or later.
Renew(p) ==
    /\ Renewable(guard[p]) /\ DatabaseFree
    /\ FencePasses(lease, guard[p].epoch)
    /\ lease' = Renewed(lease)
    /\ \E sawWaiter \in Notable(lease.wanted) : guard' = [guard EXCEPT ![p] = WaiterNoted(@, sawWaiter)]
    /\ UNCHANGED <<synced, op, prompt, jumps>>

\* P8.11, P8.13. A process has waited for longer than the time that operations have to end,
\* and an operation still runs. It may wait for a person, for the network, or for something
\* that only another process with the lease can do. (A write ends by itself.)
StopRenewing(p) ==
    /\ guard[p].stage = "draining" /\ op[p] = "running" /\ ~Broken("waits-inside")
    /\ guard' = [guard EXCEPT ![p] = Overdue(@)]
    /\ UNCHANGED <<lease, synced, op, prompt, jumps>>

\* P1.8, P4.3. An access under a guard that has lost its lease. The guard ends, and the
\* operation waits for another guard.
Lose(p) ==
    /\ guard[p].stage # "none" /\ DatabaseFree
    /\ ~FencePasses(lease, guard[p].epoch)
    /\ IF Broken("renew-ignores-loss") /\ Takeable(lease, p) /\ EpochsLeft
       THEN \* the renewal finds the row free, takes it again, and tells no operation
            /\ lease' = Acquired(lease, p, NextEpoch)
            /\ guard' = [guard EXCEPT ![p].epoch = NextEpoch]
            /\ UNCHANGED <<op, synced, prompt>>
       ELSE /\ guard' = [guard EXCEPT ![p] = NoGuard]
            /\ op' = [op EXCEPT ![p] = IF @ = "running" THEN "waiting" ELSE @]
            /\ ForgetHold(p)
            /\ UNCHANGED lease
    /\ UNCHANGED jumps

\* P8.1, P8.8, P8.18. The holder releases the lease, because it is idle or a process waits.
Release(p) ==
    /\ Stands(guard[p], guard[p].epoch) /\ DatabaseFree
    /\ op[p] \in {"idle", "waiting"}
    /\ FencePasses(lease, guard[p].epoch)
    /\ lease' = Released(lease)
    /\ IF Broken("guard-outlives-release")
       THEN UNCHANGED <<guard, synced, prompt>>
       ELSE guard' = [guard EXCEPT ![p] = NoGuard] /\ ForgetHold(p)
    /\ UNCHANGED <<op, jumps>>

\* The lease expires: its holder has ended, is suspended, can't renew because it writes, or
\* has stopped renewing.
Expire ==
    /\ lease.left \in 1..LeaseTime
    /\ \/ lease.holder \in {Nobody, Departed}
       \/ lease.holder \in Processes /\ (~prompt[lease.holder] \/ op[lease.holder] = "writing"
                                         \/ ~Renewable(guard[lease.holder]))
    /\ lease' = [lease EXCEPT !.left = 0]
    /\ UNCHANGED <<guard, synced, op, prompt, jumps>>

\* P7.1. The wall clock jumps: forward beyond the end of the lease, or back by more than the
\* duration of any lease. With such a clock, no process counts as prompt.
ClockJump ==
    /\ jumps < MaxJumps /\ lease.holder # Nobody
    /\ \E left \in {0, Absurd} : lease' = [lease EXCEPT !.left = left]
    /\ prompt' = [p \in Processes |-> FALSE]
    /\ jumps' = jumps + 1
    /\ UNCHANGED <<guard, synced, op>>

\* P0.6. A process is killed and started again under the same label. It is a new instance
\* with empty memory. (A process that is not started again takes no further step.)
Crash(p) ==
    /\ \/ guard[p].stage # "none" \/ op[p] # "idle"
    /\ guard' = [guard EXCEPT ![p] = NoGuard]
    /\ ForgetHold(p)
    /\ op' = [op EXCEPT ![p] = "idle"]
    /\ lease' = IF lease.holder = p THEN [lease EXCEPT !.holder = Departed] ELSE lease
    /\ UNCHANGED jumps

Next ==
    \/ \E p \in Processes :
        \/ Call(p) \/ Acquire(p) \/ Want(p) \/ Sync(p) \/ SyncFails(p) \/ Begin(p)
        \/ WriteBegins(p) \/ WriteEnds(p) \/ End(p) \/ Renew(p) \/ StopRenewing(p) \/ Lose(p)
        \/ Release(p) \/ Crash(p)
    \/ Expire
    \/ ClockJump

(* Fairness, in words. Time passes. A process that waits polls the row. A    *)
(* process that has released the lease for another one does not ask for it   *)
(* again until some process has had it, or until longer than the pause       *)
(* between two polls. Then its chance is not better than that of others.     *)
(* (So Acquire has strong fairness: an acquisition that is possible again    *)
(* and again eventually happens.) A sync eventually succeeds or fails. It    *)
(* may always fail, but the write that then releases the lease does not      *)
(* always fail. A process that is not suspended continues: it eventually     *)
(* notes that another process waits. If its operation ends, it releases the  *)
(* lease; if not, it stops renewing. Operations need not end. A process that *)
(* is not prompt may be suspended for ever, unless it waits for the lease    *)
(* itself.                                                                   *)
(*                                                                           *)
(* Each assumption is needed: `python -m checking conditions                 *)
(* LeaseLock!Fairness` removes them, one at a time, and TLC finds a process  *)
(* that waits for ever. The following was tried by hand, with one property   *)
(* and the bounds of LeaseLockProgress. Without the assumption about Expire, *)
(* Acquire or the sync, LockNotStuck is violated. With weak fairness of      *)
(* Acquire, Begin or the sync, the result is the same as without any.        *)
Fairness ==
    /\ WF_vars(Expire)
    /\ \A p \in Processes :
        /\ WF_vars(Want(p)) /\ SF_vars(Acquire(p)) /\ SF_vars(Begin(p))
        /\ SF_vars(Sync(p) \/ (guard[p].stage = "syncing" /\ FailedSync(p, TRUE)))
        /\ WF_vars(Lose(p))
        /\ WF_vars(prompt[p] /\ Renew(p) /\ guard' # guard)
        /\ WF_vars(prompt[p] /\ StopRenewing(p))
        /\ WF_vars((prompt[p] \/ op[p] = "waiting") /\ guard[p].stage \in {"draining", "expiring"} /\ Release(p))

Spec == Init /\ [][Next]_vars
FairSpec == Spec /\ Fairness

-------------------------------------------------------------------------------
OneFencedHolder ==
    \A p, q \in Processes :
        (/\ guard[p].stage # "none" /\ FencePasses(lease, guard[p].epoch)
         /\ guard[q].stage # "none" /\ FencePasses(lease, guard[q].epoch)) => p = q

GuardIsHonest ==
    \A p \in Processes : Stands(guard[p], guard[p].epoch) =>
        /\ guard[p].epoch = synced[p]
        /\ lease.epoch = guard[p].epoch => lease.holder = p

EpochNeverReused ==
    [][\A p \in Processes : (guard[p].stage = "none" /\ guard'[p].stage # "none")
                            => guard'[p].epoch > lease.epoch]_vars

HolderNotAborted ==
    \A p \in Processes : (prompt[p] /\ Renewable(guard[p])) =>
        lease.epoch = guard[p].epoch /\ lease.holder = p

LockNotStuck ==
    \A p \in Processes : (op[p] = "waiting")
        ~> (op[p] # "waiting" \/ \E q \in Processes : Stands(guard[q], guard[q].epoch))

WaiterServed == \A p \in Processes : (op[p] = "waiting") ~> (op[p] # "waiting")
===============================================================================
