-------------------------------- MODULE Trace --------------------------------
(* Whether the traces of a store's processes are a behaviour of               *)
(* CryptoStoreCache. Log has the steps of the traces (spec/trace.md), ordered *)
(* by epoch and version. Each element of Log is one action, with the facts    *)
(* that the trace has of it. TraceNext takes one element after the other. It  *)
(* stops at an element that is impossible. So the trace is accepted if and    *)
(* only if the end is reached.                                                *)
(*                                                                            *)
(* A trace does not have every step. The missing steps may have happened in   *)
(* any way that fits: if another process takes the lease, it has expired      *)
(* (Expire); if a record is loaded again, it had been dropped (Forget); an    *)
(* operation without further steps has ended (Abort); and a record that a     *)
(* commit writes without having read it counts as loaded just before (Load,   *)
(* Fill). A cached record counts as read when the operation begins, as in the *)
(* specification.                                                             *)
EXTENDS CryptoStoreCache, TLC

CONSTANTS
    Log,
    Start,  \* the state before the first element: that of a new store, or the end of an earlier part
    Last    \* of a log that is not accepted: the impossible element. Else 0

VARIABLES
    at,     \* which element of Log is next
    told    \* by process: the last version that its subscribers received, or Unheard

\* The same as Log. TLC evaluates a definition once, but a value that a configuration
\* substitutes for a constant each time that the constant is used.
TheSteps == Log

\* Instead of the value that an update was computed from:
Untold == 1000001   \* the trace does not say it
Unread == 1000002   \* the update was computed from no value

\* Instead of a version: there is no subscriber.
Unheard == 1000003

-------------------------------------------------------------------------------
(* Each element has the name of a step, the process p, and what else is known. *)

\* No action of the specification, where a new cache is of version 0: a cache that knows
\* nothing is a copy of any version.
OpenStore(e) ==
    /\ guard[e.p].stage = "none" /\ cache[e.p] = NewCache
    /\ e.version <= Version
    /\ cache' = [cache EXCEPT ![e.p].version = e.version]
    /\ UNCHANGED <<lease, history, commits, floor, guard, heard, op>>

TakeLease(e) ==
    /\ Acquire(e.p)
    /\ lease'.epoch = e.epoch

ComeUpToDate(e) ==
    /\ Sync(e.p)
    /\ guard[e.p].epoch = e.epoch
    /\ cache[e.p].version = e.since
    /\ Version = e.version
    \* What was dropped was cached, had changed, and is gone.
    /\ \A r \in e.dropped : cache[e.p].records[r] # Missing /\ cache'[e.p].records[r] = Missing

\* A process that is refused says that it waits. Others may have said so before. What is left
\* of the lease is what it has read of that.
AskInVain(e) ==
    /\ lease.epoch = e.epoch
    /\ ~Takeable([lease EXCEPT !.left = e.left], e.p)
    /\ IF lease.wanted
       THEN guard[e.p].stage = "none" /\ UNCHANGED vars
       ELSE Want(e.p)

\* SyncFails, in two steps: after this one the lease is released, or that is tried in vain.
MeetFailure(e) == guard[e.p] = Taken(e.epoch) /\ UNCHANGED vars

\* P8.7. No action of the specification: its turn is over, and it knows that somebody waits.
HeedWaiter(e) ==
    /\ lease.wanted /\ guard[e.p].epoch = e.epoch => guard[e.p].stage # "held"
    /\ UNCHANGED vars

\* No action of the specification: a process may end its guard whenever it likes, which
\* takes away nothing but its own right to begin anything (spec/trace.md, lose_guard).
EndGuard(e) ==
    /\ guard[e.p].stage = "none" \/ guard[e.p].epoch = e.epoch
    /\ guard' = [guard EXCEPT ![e.p] = NoGuard]
    /\ UNCHANGED <<lease, history, commits, floor, cache, heard, op>>

\* An operation that the fence has stopped may have noticed before.
NoticeLoss(e) ==
    IF guard[e.p].stage = "none" THEN UNCHANGED vars ELSE LoseGuard(e.p) /\ guard[e.p].epoch = e.epoch

\* Where operations were abandoned, the guard is at its end before.
GiveBack(e) ==
    IF guard[e.p] = Taken(e.epoch) THEN SyncFails(e.p) /\ lease' = Released(lease)
    ELSE IF guard[e.p].epoch = e.epoch THEN Release(e.p)
    ELSE /\ lease.holder = e.p /\ FencePasses(lease, e.epoch)
         /\ lease' = Released(lease)
         /\ UNCHANGED <<history, commits, floor, guard, cache, heard, op>>

GiveBackInVain(e) == IF guard[e.p].stage = "none" THEN UNCHANGED vars ELSE EndGuard(e)

BeginOperation(e) ==
    /\ guard[e.p].epoch = e.epoch
    /\ cache[e.p].version = e.snapshot
    /\ Begin(e.o, e.mode)

\* Load and Fill, of one record. Two tasks of an operation may both load it.
ReadRecord(e) ==
    /\ op[e.o].stage = "running" /\ MayAccess(e.o)
    /\ ~ChangedAfter(e.record, op[e.o].at) /\ floor <= op[e.o].at
    /\ LET value == Value(e.record, Version) IN
        /\ op' = [op EXCEPT ![e.o].known[e.record] = value]
        /\ cache' = IF UsesCache(e.o)
                    THEN [cache EXCEPT ![e.p] = FilledCache(@, e.record, value, Version)] ELSE cache
    /\ UNCHANGED <<lease, history, commits, floor, guard, heard>>

DropRecord(e) ==
    IF cache[e.p].records[e.record] = Missing THEN UNCHANGED vars ELSE Forget(e.p, e.record)

\* The operation, with the records that it writes without having loaded them loaded now.
Completed(e) ==
    [op EXCEPT ![e.o].known = [r \in Records |->
        IF @[r] = Missing /\ r \in e.unloaded THEN Value(r, Version) ELSE @[r]]]

\* The commit comes next, and asks the same. But that it may not is said first.
LookAtRest(e) == MayAccess(e.o) /\ op' = Completed(e) /\ UNCHANGED <<lease, history, commits, floor, guard, cache, heard>>

CommitRecords(e) ==
    /\ op[e.o].under = e.epoch /\ op[e.o].at = e.snapshot
    /\ \A r \in e.records : e.basis[r] \in {Untold, Unread, op[e.o].known[r]}
    /\ Commit(e.o, e.records)
    /\ Len(commits') = e.version
    /\ op'[e.o].released = e.released
    /\ ~e.short  \* it has renewed the lease as of when it was done

\* An answer whose operation has read nothing that the trace tells of.
Answer(e) ==
    IF AnyRecord(op[e.o].known) = {}
    THEN /\ MayAccess(e.o)
         /\ op' = [op EXCEPT ![e.o].stage = "validated", ![e.o].at = 0, ![e.o].begun = 0]
         /\ UNCHANGED <<lease, history, commits, floor, guard, cache, heard>>
    ELSE IF op[e.o].mode = "view" /\ ~e.failed THEN Validate(e.o) ELSE Fail(e.o)

\* What an operation needs has changed; or there is too little left of the log to know.
MeetChange(e) ==
    /\ MayAccess(e.o)
    /\ Version > op[e.o].at \/ floor > op[e.o].at
    /\ op' = [op EXCEPT ![e.o] = Idle]
    /\ UNCHANGED <<lease, history, commits, floor, guard, cache, heard>>

\* The commit of the newest version may have no line yet.
CutLog(e) ==
    /\ floor' = Later(floor, e.floor)
    /\ UNCHANGED <<lease, history, commits, guard, cache, heard, op>>

\* What its subscribers are told is what the specification has them hear (P9.2, P9.5, P9.6).
\* Listening (Listen) happens at any time, so that the floor of then is known only to the
\* process that has synced. (What was published of versions before a part is not judged.)
Hears(e) ==
    LET news == Tail(PublishedUpTo(<<Heard(e.since, FALSE)>>, e.version))
    IN  \/ e.version = 0
        \/ /\ told[e.p] \in {Unheard, e.since}
           /\ news # <<>>
           /\ floor > e.since => e.lagged \/ guard[e.p].stage = "none"

Publish(e) == Hears(e) /\ told' = [told EXCEPT ![e.p] = e.version]

\* A trace that does not tell how many subscriptions there are does not tell when the last
\* one has ended either.
Subscribe(e) ==
    /\ IF e.counted THEN told[e.p] \in {Unheard, e.version} ELSE told[e.p] = Unheard \/ told[e.p] <= e.version
    /\ told' = [told EXCEPT ![e.p] = e.version]

Unsubscribe(e) == told' = [told EXCEPT ![e.p] = Unheard]

\* StreamComplete: under a guard, subscribers have heard of all that its cache has.
UpToDate(e) ==
    told[e.p] = Unheard \/ guard[e.p].stage = "none" \/ cache[e.p].version <= told[e.p]

Step(e) ==
    CASE e.step = "open"       -> OpenStore(e)
      [] e.step = "acquire"    -> TakeLease(e)
      [] e.step = "expire"     -> Expire
      [] e.step = "want"       -> AskInVain(e)
      [] e.step = "sync"       -> ComeUpToDate(e)
      [] e.step = "sync_failed" -> MeetFailure(e)
      [] e.step = "sync_untold" -> Sync(e.p)  \* it has no line, since its process was killed
      [] e.step = "renew"      -> Renew(e.p) /\ guard[e.p].epoch = e.epoch /\ ~e.overdue
      [] e.step = "heed"       -> HeedWaiter(e)
      [] e.step = "lose_guard" -> NoticeLoss(e)
      [] e.step = "end_guard"  -> EndGuard(e)
      [] e.step = "release"    -> GiveBack(e)
      [] e.step = "release_fails" -> GiveBackInVain(e)
      [] e.step = "begin"      -> BeginOperation(e)
      [] e.step = "load"       -> ReadRecord(e)
      [] e.step = "forget"     -> DropRecord(e)
      [] e.step = "look"       -> LookAtRest(e)
      [] e.step = "commit"     -> CommitRecords(e)
      [] e.step = "validate"   -> Answer(e)
      [] e.step = "finish"     -> Finish(e.o)
      [] e.step = "lose"       -> Lose(e.o)
      [] e.step = "outdated"   -> MeetChange(e)
      [] e.step = "abort"      -> Abort(e.o)
      [] e.step = "truncate"   -> CutLog(e)

\* A long log is followed in parts, which begin where a lease is taken. What is known about
\* the store then is enough: whichever guard there was is dead, what was cached and has
\* changed since will be dropped by the next sync, and an operation that still runs is lost.
TraceInit ==
    /\ lease = Start.lease
    /\ history = <<[r \in Records |-> Start.updates[r]]>>
    /\ commits = <<>>
    /\ floor = 0
    /\ guard = Start.guards
    /\ cache = [p \in Processes |-> [version |-> 0, records |-> [r \in Records |->
                    IF <<p, r>> \in Start.cached THEN Start.updates[r] ELSE Missing]]]
    /\ heard = [p \in Processes |-> <<>>]
    /\ op = [o \in Operations |-> IF o \in DOMAIN Start.running
                THEN [Idle EXCEPT !.stage = "running", !.mode = "transaction", !.under = Start.running[o]] ELSE Idle]
    /\ at = 1
    /\ told = [p \in Processes |-> IF p \in DOMAIN Start.told THEN Start.told[p] ELSE Unheard]

\* The end of a part, for the next one to begin with.
AtEnd == at = Len(TheSteps) + 1 =>
    PrintT(<<"end", lease.epoch, IF lease.holder = Nobody THEN "" ELSE lease.holder, lease.left, lease.wanted,
             [p \in Processes |-> <<guard[p].stage, guard[p].epoch>>],
             {<<p, r>> \in Processes \X Records : SyncedCache(cache[p]).records[r] # Missing},
             [o \in Operations |-> op[o].under], told>>)

Take(e) ==
    CASE e.step = "publish"     -> Publish(e) /\ UNCHANGED vars
      [] e.step = "subscribe"   -> Subscribe(e) /\ UNCHANGED vars
      [] e.step = "unsubscribe" -> Unsubscribe(e) /\ UNCHANGED vars
      [] OTHER                  -> Step(e) /\ ("told" \in DOMAIN e => UpToDate(e)) /\ UNCHANGED told

TraceNext == at <= Len(TheSteps) /\ Take(TheSteps[at]) /\ at' = at + 1

TraceSpec == TraceInit /\ [][TraceNext]_<<vars, at, told>>

\* What distinguishes states with the same place in the log: what a process may have
\* noticed, or not.
Place == <<at, guard, lease>>

-------------------------------------------------------------------------------
(* Of a log that is not accepted: what is wrong with the step that can't      *)
(* happen. These are the conditions of the actions above, one by one; they    *)
(* decide nothing, and only explain. checking/explain/reasons.py says which   *)
(* clause of spec/protocol.md each of them is.                                *)

Unless(holds, reason) == IF holds THEN {} ELSE {reason}

Working(e) == op[e.o].stage = "running"

NoGuardYet(e) ==
    CASE guard[e.p].stage = "none"    -> {}
      [] guard[e.p].stage = "syncing" -> {"failed_sync_kept"}
      [] OTHER                        -> {"has_guard"}

Wrong(e) ==
    CASE e.step = "open" ->
            Unless(guard[e.p].stage = "none" /\ cache[e.p] = NewCache, "opened_again")
            \cup Unless(e.version <= Version, "opened_unmade")
      [] e.step = "acquire" ->
            NoGuardYet(e)
            \cup Unless(e.epoch = lease.epoch + 1, "epoch_not_next")
            \cup Unless(Takeable(lease, e.p), "lease_held")
      [] e.step = "sync" ->
            Unless(FencePasses(lease, e.epoch), "sync_unfenced")
            \cup Unless(guard[e.p] = Taken(e.epoch), "not_syncing")
            \cup Unless(cache[e.p].version = e.since, "cache_version")
            \cup Unless(Version = e.version, "sync_not_newest")
            \cup Unless(\A r \in e.dropped : cache[e.p].records[r] # Missing
                        /\ SyncedCache(cache[e.p]).records[r] = Missing, "dropped_unchanged")
      [] e.step = "want" ->
            NoGuardYet(e)
            \cup Unless(lease.epoch = e.epoch /\ ~Takeable([lease EXCEPT !.left = LeaseTime], e.p), "lease_not_held")
            \cup Unless(e.left <= LeaseTime, "absurd_lease")
            \cup Unless(e.left > 0, "expired_lease")
      [] e.step = "renew" ->
            Unless(FencePasses(lease, e.epoch), "renewal_unfenced")
            \cup Unless(~e.overdue, "renewed_overdue")
      [] e.step = "release" ->
            Unless(lease.holder = e.p /\ FencePasses(lease, e.epoch), "release_unfenced")
            \cup Unless(WorkingUnder(e.p, e.epoch) = {}, "release_under_operations")
      [] e.step = "lose" -> {"fence_would_pass"}
      [] e.step = "lose_guard" -> IF guard[e.p].epoch = e.epoch THEN {"fence_would_pass"} ELSE {"no_such_guard"}
      [] e.step \in {"sync_failed", "end_guard", "release_fails"} -> {"no_such_guard"}
      [] e.step = "begin" ->
            Unless(guard[e.p].epoch = e.epoch /\ Stands(guard[e.p], e.epoch), "began_unguarded")
            \cup Unless(~(guard[e.p].epoch = e.epoch /\ guard[e.p].stage \in {"draining", "expiring"}), "began_draining")
            \cup Unless(cache[e.p].version = e.snapshot, "cache_version")
            \cup Unless(e.mode = "view" \/ \A o \in WorkingUnder(e.p, e.epoch) : op[o].mode = "view", "two_transactions")
      [] e.step = "load" ->
            Unless(Working(e), "operation_over")
            \cup Unless(Working(e) => MayAccess(e.o), "load_unfenced")
            \cup Unless(~ChangedAfter(e.record, op[e.o].at), "load_changed")
            \cup Unless(floor <= op[e.o].at, "load_after_floor")
      [] e.step = "look" -> Unless(MayAccess(e.o), "commit_unfenced")
      [] e.step = "commit" ->
            Unless(Working(e), "operation_over")
            \cup Unless(Working(e) => op[e.o].under = e.epoch /\ op[e.o].at = e.snapshot, "operation_changed")
            \cup Unless(Working(e) => MayAccess(e.o), "commit_unfenced")
            \cup Unless(Len(commits) + 1 = e.version, "version_not_next")
            \cup Unless(\A r \in e.records : op[e.o].known[r] # Missing, "read_from_nowhere")
            \cup Unless(\A r \in e.records : e.basis[r] \in {Untold, Unread, Value(r, Version)}, "older_value")
            \cup Unless(op[e.o].at = Len(commits), "older_snapshot")
            \cup Unless(e.released => lease.wanted, "released_unwanted")
            \cup Unless(~e.short, "short_lease")
      [] e.step = "validate" -> Unless(MayAccess(e.o), "answer_unfenced")
      [] e.step = "outdated" ->
            Unless(MayAccess(e.o), "load_unfenced")
            \cup Unless(Version > op[e.o].at \/ floor > op[e.o].at, "nothing_changed")
      [] e.step = "publish" ->
            Unless(told[e.p] >= e.since, "told_with_gap")
            \cup Unless((told[e.p] = Unheard \/ told[e.p] <= e.since) /\ e.since < e.version, "told_again")
            \cup Unless(e.lagged \/ floor <= e.since, "lag_untold")
      [] e.step = "subscribe" -> {"subscribed_elsewhere"}
      [] OTHER -> {}

Reasons(e) ==
    Wrong(e) \cup IF e.step \in {"publish", "subscribe", "unsubscribe"} THEN {}
                  ELSE Unless("told" \in DOMAIN e => UpToDate(e), "not_told")

AtLast == at = Last => PrintT(<<"reasons", Reasons(TheSteps[at]), lease, Version>>)
===============================================================================
