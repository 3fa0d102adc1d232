------------------------------ MODULE LeaseLock ------------------------------
(* The cross-process lock alone: one row that processes share, and what each *)
(* of them believes about it. It promises to each process, whatever the      *)
(* clocks do, and whichever process is suspended or killed:                  *)
(*                                                                           *)
(*   OneFencedHolder   two processes never pass the fence at the same time   *)
(*   GuardIsHonest     a process that believes it holds the lease has held   *)
(*                     it without a break since it synced, or the fence      *)
(*                     stops it                                              *)
(*   EpochNeverReused  each acquisition has an epoch of its own              *)
(*   HolderNotAborted  a holder keeps the lease if it renews in time, its    *)
(*                     clock runs evenly, and its operations end when        *)
(*                     somebody waits                                        *)
(*   LockNotStuck      if a process waits, then eventually some process      *)
(*                     holds the lock, or the process that waits gets the    *)
(*                     error that is in the way                              *)
(*   WaiterServed      a process that waits eventually has its turn, or gets *)
(*                     that error                                            *)
(*                                                                           *)
(* CryptoStoreCache says what an operation does while it runs. Here it only  *)
(* keeps the lock busy: it may write for longer than a lease lasts, and it   *)
(* need not end. A process that pauses releases the lease, and takes no step *)
(* until it resumes.                                                         *)
EXTENDS Lease, FiniteSets

CONSTANTS MaxEpoch,     \* bound: no more acquisitions than this
          MaxJumps,     \* bound: how often the wall clock jumps
          SharesLabel,  \* the processes that present one and the same label
          LongWrites    \* whether a write may last longer than a lease. (Progress
                        \* is checked without: how SQLite lets a second writer
                        \* wait for a long first one is not modelled)

ASSUME /\ LeaseTime \in Nat \ {0}
       /\ MaxEpoch >= 2        \* with one epoch nothing is ever handed over
       /\ Cardinality(Processes) >= 2 /\ SharesLabel \subseteq Processes

VARIABLES
    lease,    \* the row
    guard,    \* by process: what it believes
    synced,   \* by process: the epoch of its sync (what its cache bears)
    op,       \* by process: "idle", "waiting" for the guard, "running", "writing"
    prompt,   \* by process: whether it renews in time during this hold. Chosen at
              \* its acquisition; one that is not may sleep as long as it likes
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

\* While a process writes, SQLite lets nobody else write: not the row either.
DatabaseFree == \A p \in Processes : op[p] # "writing"

\* The liveness model replaces this by the least number that nobody bears: epochs
\* are only ever compared for equality by those who hold one.
NextEpoch == lease.epoch + 1

EpochsLeft == lease.epoch < MaxEpoch

\* What is said of a hold ends with it.
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
       THEN \* the row bears "our" name, so it must be ours
            /\ guard' = [guard EXCEPT ![p] = Taken(lease.epoch)]
            /\ UNCHANGED lease
       ELSE /\ Takeable(lease, p)
            /\ LET epoch == IF Broken("reacquire-keeps-epoch") /\ lease.holder = p
                            THEN lease.epoch ELSE NextEpoch
               IN  /\ lease' = Acquired(lease, p, epoch)
                   /\ guard' = [guard EXCEPT ![p] = Taken(epoch)]
    /\ \E inTime \in BOOLEAN : prompt' = [prompt EXCEPT ![p] = inTime]
    /\ UNCHANGED <<synced, op, jumps>>

\* P1.3. A refused acquisition says in the row that somebody waits.
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

\* A sync that fails, after which the lease is released if the process writes that.
FailedSync(p, writes) ==
    /\ guard' = [guard EXCEPT ![p] = NoGuard]
    /\ ForgetHold(p)
    /\ op' = [op EXCEPT ![p] = IF @ = "waiting" THEN "idle" ELSE @]
    /\ lease' = IF writes /\ FencePasses(lease, guard[p].epoch) /\ ~Broken("failed-sync-keeps-lease")
                THEN Released(lease) ELSE lease
    /\ UNCHANGED jumps

\* P2.10 to P2.12. The error answers whoever waits. The process then tries to release the lease; the
\* write may fail as well.
SyncFails(p) ==
    /\ guard[p].stage = "syncing"
    /\ \E writes \in BOOLEAN : FailedSync(p, writes)

Begin(p) ==
    /\ op[p] = "waiting" /\ Admits(guard[p])
    /\ op' = [op EXCEPT ![p] = "running"]
    /\ UNCHANGED <<lease, guard, synced, prompt, jumps>>

\* A write that takes its time: the fence passes at its start, in the same
\* transaction, and until its end no other process can take the lease.
WriteBegins(p) ==
    /\ LongWrites /\ op[p] = "running" /\ DatabaseFree
    /\ FencePasses(lease, guard[p].epoch)
    /\ op' = [op EXCEPT ![p] = "writing"]
    /\ UNCHANGED <<lease, guard, synced, prompt, jumps>>

\* P1.9, P5.17. The renewal shares the connection and has had no turn: so the write itself
\* renews the lease, as its last statement. Or it releases the lease, if somebody waits
\* and the process has no other operation that needs it (about that nothing is said here).
WriteEnds(p) ==
    /\ op[p] = "writing"
    /\ op' = [op EXCEPT ![p] = "idle"]
    /\ \E mayRelease \in BOOLEAN, sawWaiter \in Notable(lease.wanted) :
        /\ lease' = IF Broken("renewal-starved") THEN lease ELSE Committed(lease, mayRelease)
        /\ IF lease'.holder = Nobody
           THEN guard' = [guard EXCEPT ![p] = NoGuard] /\ ForgetHold(p)
           ELSE guard' = [guard EXCEPT ![p] = WaiterNoted(@, sawWaiter)] /\ UNCHANGED <<synced, prompt>>
    /\ UNCHANGED jumps

\* An operation ends, whatever came of it.
End(p) ==
    /\ op[p] = "running"
    /\ op' = [op EXCEPT ![p] = "idle"]
    /\ UNCHANGED <<lease, guard, synced, prompt, jumps>>

\* P1.7, P8.2. A renewal that comes through, and brings news of a waiter, which is heeded now or
\* later.
Renew(p) ==
    /\ Renewable(guard[p]) /\ DatabaseFree
    /\ FencePasses(lease, guard[p].epoch)
    /\ lease' = Renewed(lease)
    /\ \E sawWaiter \in Notable(lease.wanted) : guard' = [guard EXCEPT ![p] = WaiterNoted(@, sawWaiter)]
    /\ UNCHANGED <<synced, op, prompt, jumps>>

\* P8.11, P8.13. Somebody has waited for longer than operations are given, and one still runs: for a
\* person, for the network, for what only comes once another process had the lease. (A
\* write is not such an operation: it ends by itself.)
StopRenewing(p) ==
    /\ guard[p].stage = "draining" /\ op[p] = "running" /\ ~Broken("waits-inside")
    /\ guard' = [guard EXCEPT ![p] = Overdue(@)]
    /\ UNCHANGED <<lease, synced, op, prompt, jumps>>

\* P1.8, P4.3. An access under a guard whose lease is gone. The guard dies, and the operation
\* waits for another.
Lose(p) ==
    /\ guard[p].stage # "none" /\ DatabaseFree
    /\ ~FencePasses(lease, guard[p].epoch)
    /\ IF Broken("renew-ignores-loss") /\ Takeable(lease, p) /\ EpochsLeft
       THEN \* the renewal finds the row free, takes it again, and says nothing
            /\ lease' = Acquired(lease, p, NextEpoch)
            /\ guard' = [guard EXCEPT ![p].epoch = NextEpoch]
            /\ UNCHANGED <<op, synced, prompt>>
       ELSE /\ guard' = [guard EXCEPT ![p] = NoGuard]
            /\ op' = [op EXCEPT ![p] = IF @ = "running" THEN "waiting" ELSE @]
            /\ ForgetHold(p)
            /\ UNCHANGED lease
    /\ UNCHANGED jumps

\* P8.1, P8.8, P8.18. The holder releases the lease: because it idles, or because somebody waits.
Release(p) ==
    /\ Stands(guard[p], guard[p].epoch) /\ DatabaseFree
    /\ op[p] \in {"idle", "waiting"}
    /\ FencePasses(lease, guard[p].epoch)
    /\ lease' = Released(lease)
    /\ IF Broken("guard-outlives-release")
       THEN UNCHANGED <<guard, synced, prompt>>
       ELSE guard' = [guard EXCEPT ![p] = NoGuard] /\ ForgetHold(p)
    /\ UNCHANGED <<op, jumps>>

\* Time passes the lease's end: of a process that is gone, that sleeps, that has no turn
\* to renew because it writes, or that does not renew any more.
Expire ==
    /\ lease.left \in 1..LeaseTime
    /\ \/ lease.holder \in {Nobody, Departed}
       \/ lease.holder \in Processes /\ (~prompt[lease.holder] \/ op[lease.holder] = "writing"
                                         \/ ~Renewable(guard[lease.holder]))
    /\ lease' = [lease EXCEPT !.left = 0]
    /\ UNCHANGED <<guard, synced, op, prompt, jumps>>

\* P7.1. The wall clock jumps, forward past the lease's end or back by more than any
\* lease lasts. Nobody can be called prompt by such a clock.
ClockJump ==
    /\ jumps < MaxJumps /\ lease.holder # Nobody
    /\ \E left \in {0, Absurd} : lease' = [lease EXCEPT !.left = left]
    /\ prompt' = [p \in Processes |-> FALSE]
    /\ jumps' = jumps + 1
    /\ UNCHANGED <<guard, synced, op>>

\* P0.6. Killed, and started again under the same label: a new instance with nothing in
\* its memory. (Killed and not started again: it takes no step any more.)
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

(* Fairness, in words. Time passes. A process that waits keeps looking. A    *)
(* process that gave the lease to a waiter stands back until somebody has    *)
(* had it, or for longer than the waiter's pause between two looks; then it  *)
(* has no better chance than others. (Hence strong fairness: an acquisition  *)
(* that is possible again and again happens some day.) A sync ends, in one   *)
(* way or the other. It may fail each time; but the write that then gives    *)
(* the lease up does not fail each time. A process that is awake goes on     *)
(* with what it does: it notes some day that somebody waits, renews no more  *)
(* if its operation does not end then, and releases the lease if it does.    *)
(* Nothing is assumed about when operations end. A process that is not       *)
(* prompt may be suspended for ever, and owes nothing, unless it wants       *)
(* something itself.                                                         *)
(*                                                                           *)
(* Each assumption is needed: `python -m checking conditions                 *)
(* LeaseLock!Fairness` leaves them out, one at a time, and TLC finds a       *)
(* process that waits for ever. The following was tried by hand, with one    *)
(* property and the bounds of LeaseLockProgress. Without the assumption      *)
(* about Expire, Acquire or the sync, a lock is found that nobody holds      *)
(* (LockNotStuck). Where Acquire, Begin or the sync has weak fairness only,  *)
(* the same is found as without it.                                          *)
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
