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
    Last    \* the position of the impossible element if Log is not accepted, else 0

VARIABLES
    at,        \* which element of Log is next
    delivered  \* by process: the last version that its subscribers received, or NoSubscriber

\* The same as Log, for speed: TLC evaluates this definition once. It would evaluate what the
\* configuration substitutes for Log at each use of Log.
TheSteps == Log

\* Instead of the value that an update was computed from:
Unreported == 1000001   \* the trace does not have it
Unread == 1000002   \* the operation did not read the record

\* Instead of a version: there is no subscriber.
NoSubscriber == 1000003

-------------------------------------------------------------------------------
(* Each element has the name of its step, its process p, and the facts that   *)
(* the trace has of it. A definition below takes one element. It names the    *)
(* action of CryptoStoreCache that the element is. That action cites the      *)
(* clauses.                                                                   *)

\* A process opens the store. CryptoStoreCache has no such action: a new cache has version 0
\* there. A cache without records is a copy of any version.
OpenStore(e) ==
    /\ guard[e.p].stage = "none" /\ cache[e.p] = NewCache
    /\ e.version <= Version
    /\ cache' = [cache EXCEPT ![e.p].version = e.version]
    /\ UNCHANGED <<lease, history, commits, floor, guard, heard, op>>

\* Acquire, with the epoch of the line.
TakeLease(e) ==
    /\ Acquire(e.p)
    /\ lease'.epoch = e.epoch

\* Sync, with the epoch and the versions of the line.
SyncCache(e) ==
    /\ Sync(e.p)
    /\ guard[e.p].epoch = e.epoch
    /\ cache[e.p].version = e.since
    /\ Version = e.version
    \* The sync drops these records: they were cached before it, and are not cached after it.
    /\ \A r \in e.dropped : cache[e.p].records[r] # Missing /\ cache'[e.p].records[r] = Missing

\* Want. A process that was refused the lease notes in the lease row that it waits, unless
\* another process has noted that before. e.left is what the process has read there of the time
\* that is left.
AskForLease(e) ==
    /\ lease.epoch = e.epoch
    /\ ~Takeable([lease EXCEPT !.left = e.left], e.p)
    /\ IF lease.wanted
       THEN guard[e.p].stage = "none" /\ UNCHANGED vars
       ELSE Want(e.p)

\* The first part of SyncFails. The second part is the release (ReleaseLease), or a release that
\* fails (FailToRelease).
FailSync(e) == guard[e.p] = Taken(e.epoch) /\ UNCHANGED vars

\* P8.7. The turn of a process is over, and it knows that another process waits. So its guard
\* must be draining. CryptoStoreCache has no such action.
DrainGuard(e) ==
    /\ lease.wanted /\ guard[e.p].epoch = e.epoch => guard[e.p].stage # "held"
    /\ UNCHANGED vars

\* A process ends its guard itself (spec/trace.md, lose_guard). CryptoStoreCache has no such
\* action. A process may do this at any time: it loses only its own right to begin operations.
EndGuard(e) ==
    /\ guard[e.p].stage = "none" \/ guard[e.p].epoch = e.epoch
    /\ guard' = [guard EXCEPT ![e.p] = NoGuard]
    /\ UNCHANGED <<lease, history, commits, floor, cache, heard, op>>

\* LoseGuard. If the fence has stopped an operation before, the guard is already dead.
NoticeLoss(e) ==
    IF guard[e.p].stage = "none" THEN UNCHANGED vars ELSE LoseGuard(e.p) /\ guard[e.p].epoch = e.epoch

\* The second part of SyncFails, or Release. If operations were abandoned, the guard has ended
\* before the release.
ReleaseLease(e) ==
    IF guard[e.p] = Taken(e.epoch) THEN SyncFails(e.p) /\ lease' = Released(lease)
    ELSE IF guard[e.p].epoch = e.epoch THEN Release(e.p)
    ELSE /\ lease.holder = e.p /\ FencePasses(lease, e.epoch)
         /\ lease' = Released(lease)
         /\ UNCHANGED <<history, commits, floor, guard, cache, heard, op>>

\* A release was not written, or its outcome is unknown. The guard ends, and the lease will
\* expire.
FailToRelease(e) == IF guard[e.p].stage = "none" THEN UNCHANGED vars ELSE EndGuard(e)

\* Begin, under the epoch and from the version of the line.
BeginOperation(e) ==
    /\ guard[e.p].epoch = e.epoch
    /\ cache[e.p].version = e.snapshot
    /\ Begin(e.o, e.mode)

\* Load and Fill, of one record. Two tasks of an operation may both load the same record.
ReadRecord(e) ==
    /\ op[e.o].stage = "running" /\ MayAccess(e.o)
    /\ ~ChangedAfter(e.record, op[e.o].at) /\ floor <= op[e.o].at
    /\ LET value == Value(e.record, Version) IN
        /\ op' = [op EXCEPT ![e.o].known[e.record] = value]
        /\ cache' = IF UsesCache(e.o)
                    THEN [cache EXCEPT ![e.p] = FilledCache(@, e.record, value, Version)] ELSE cache
    /\ UNCHANGED <<lease, history, commits, floor, guard, heard>>

\* Forget. No line reports it: the record is loaded again later.
DropRecord(e) ==
    IF cache[e.p].records[e.record] = Missing THEN UNCHANGED vars ELSE Forget(e.p, e.record)

\* The operations, after e.o has loaded the records that it writes and that no line reports as
\* loaded.
Completed(e) ==
    [op EXCEPT ![e.o].known = [r \in Records |->
        IF @[r] = Missing /\ r \in e.unloaded THEN Value(r, Version) ELSE @[r]]]

\* Load and Fill, of those records. The commit comes next, and needs the same fence. If the fence
\* stops it, the explanation names this before what else is wrong with the commit.
LoadUnreported(e) == MayAccess(e.o) /\ op' = Completed(e) /\ UNCHANGED <<lease, history, commits, floor, guard, cache, heard>>

\* Commit, with the epoch, the versions and the records of the line. Each update was computed from
\* the value that the operation had read.
CommitRecords(e) ==
    /\ op[e.o].under = e.epoch /\ op[e.o].at = e.snapshot
    /\ \A r \in e.records : e.basis[r] \in {Unreported, Unread, op[e.o].known[r]}
    /\ Commit(e.o, e.records)
    /\ Len(commits') = e.version
    /\ op'[e.o].released = e.released
    /\ ~e.short  \* the renewal that it includes counts from its end

\* Validate, or Fail: an operation that wrote nothing ends. If the trace reports no read of the
\* operation, only the fence is checked.
Answer(e) ==
    IF AnyRecord(op[e.o].known) = {}
    THEN /\ MayAccess(e.o)
         /\ op' = [op EXCEPT ![e.o].stage = "validated", ![e.o].at = 0, ![e.o].begun = 0]
         /\ UNCHANGED <<lease, history, commits, floor, guard, cache, heard>>
    ELSE IF op[e.o].mode = "view" /\ ~e.failed THEN Validate(e.o) ELSE Fail(e.o)

\* Outdated. A record that the operation needs has changed, or the change log was truncated so far
\* that this is not known.
FindOutdated(e) ==
    /\ MayAccess(e.o)
    /\ Version > op[e.o].at \/ floor > op[e.o].at
    /\ op' = [op EXCEPT ![e.o] = Idle]
    /\ UNCHANGED <<lease, history, commits, floor, guard, cache, heard>>

\* Truncate. The new floor has no upper bound here: the line of the newest commit may come later.
TruncateLog(e) ==
    /\ floor' = Later(floor, e.floor)
    /\ UNCHANGED <<lease, history, commits, guard, cache, heard, op>>

\* Whether the subscribers of a process receive what they receive in CryptoStoreCache (P9.2, P9.5,
\* P9.6): all versions after e.since, up to e.version. Listen may happen at any time. Without a
\* guard, it is not known which floor the process had read then. (Versions before this part of the
\* log have the number 0, and are not judged.)
IsDelivery(e) ==
    LET news == Tail(PublishedUpTo(<<Heard(e.since, FALSE)>>, e.version))
    IN  \/ e.version = 0
        \/ /\ delivered[e.p] \in {NoSubscriber, e.since}
           /\ news # <<>>
           /\ floor > e.since => e.lagged \/ guard[e.p].stage = "none"

\* Changes are delivered to subscribers: Listen, or a part of Sync or Finish.
Publish(e) == IsDelivery(e) /\ delivered' = [delivered EXCEPT ![e.p] = e.version]

\* A subscription begins, at the version that the other subscriptions have received. If e.counted
\* is FALSE, the trace does not have the number of subscriptions. Then it does not show either when
\* the last one has ended, and the new one may begin at a later version.
Subscribe(e) ==
    /\ IF e.counted THEN delivered[e.p] \in {NoSubscriber, e.version} ELSE delivered[e.p] = NoSubscriber \/ delivered[e.p] <= e.version
    /\ delivered' = [delivered EXCEPT ![e.p] = e.version]

\* The last subscription of a process has ended.
Unsubscribe(e) == delivered' = [delivered EXCEPT ![e.p] = NoSubscriber]

\* StreamComplete: under a guard, the subscribers of a process have received all versions up to
\* that of its cache.
UpToDate(e) ==
    delivered[e.p] = NoSubscriber \/ guard[e.p].stage = "none" \/ cache[e.p].version <= delivered[e.p]

\* A step of the store.
Step(e) ==
    CASE e.step = "open"       -> OpenStore(e)
      [] e.step = "acquire"    -> TakeLease(e)
      [] e.step = "expire"     -> Expire
      [] e.step = "want"       -> AskForLease(e)
      [] e.step = "sync"       -> SyncCache(e)
      [] e.step = "sync_failed" -> FailSync(e)
      [] e.step = "sync_unreported" -> Sync(e.p)  \* its process was killed before it wrote the line
      [] e.step = "renew"      -> Renew(e.p) /\ guard[e.p].epoch = e.epoch /\ ~e.overdue
      [] e.step = "drain"      -> DrainGuard(e)
      [] e.step = "lose_guard" -> NoticeLoss(e)
      [] e.step = "end_guard"  -> EndGuard(e)
      [] e.step = "release"    -> ReleaseLease(e)
      [] e.step = "release_fails" -> FailToRelease(e)
      [] e.step = "begin"      -> BeginOperation(e)
      [] e.step = "load"       -> ReadRecord(e)
      [] e.step = "forget"     -> DropRecord(e)
      [] e.step = "load_unreported" -> LoadUnreported(e)
      [] e.step = "commit"     -> CommitRecords(e)
      [] e.step = "validate"   -> Answer(e)
      [] e.step = "finish"     -> Finish(e.o)
      [] e.step = "lose"       -> Lose(e.o)
      [] e.step = "outdated"   -> FindOutdated(e)
      [] e.step = "abort"      -> Abort(e.o)
      [] e.step = "truncate"   -> TruncateLog(e)

\* A long log is checked in parts. Each part begins where a process takes the lease. Little of the
\* state before it matters then: each earlier guard is dead; the next sync drops each cached record
\* that has changed since; and an operation that still runs is lost.
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
    /\ delivered = [p \in Processes |-> IF p \in DOMAIN Start.delivered THEN Start.delivered[p] ELSE NoSubscriber]

\* At the end of a part, print the state that the next part begins from.
AtEnd == at = Len(TheSteps) + 1 =>
    PrintT(<<"end", lease.epoch, IF lease.holder = Nobody THEN "" ELSE lease.holder, lease.left, lease.wanted,
             [p \in Processes |-> <<guard[p].stage, guard[p].epoch>>],
             {<<p, r>> \in Processes \X Records : SyncedCache(cache[p]).records[r] # Missing},
             [o \in Operations |-> op[o].under], delivered>>)

\* An element: of a subscription, or of the store. If an element of the store has the field
\* delivered, the process must have delivered all changes before it.
Take(e) ==
    CASE e.step = "publish"     -> Publish(e) /\ UNCHANGED vars
      [] e.step = "subscribe"   -> Subscribe(e) /\ UNCHANGED vars
      [] e.step = "unsubscribe" -> Unsubscribe(e) /\ UNCHANGED vars
      [] OTHER                  -> Step(e) /\ ("delivered" \in DOMAIN e => UpToDate(e)) /\ UNCHANGED delivered

TraceNext == at <= Len(TheSteps) /\ Take(TheSteps[at]) /\ at' = at + 1

TraceSpec == TraceInit /\ [][TraceNext]_<<vars, at, delivered>>

\* TLC takes states for the same if these are equal (VIEW). States at one position of the log differ
\* only in what a process has noticed: its guard, and the lease.
StateView == <<at, guard, lease>>

-------------------------------------------------------------------------------
(* If a log is not accepted: which conditions the impossible step breaks.     *)
(* These are the conditions of the actions above, one by one. They do not     *)
(* decide whether the log is accepted. They only explain why not.             *)
(* checking/explain/reasons.py names the clauses of each condition.           *)

\* The name of a condition, if it does not hold.
Unless(holds, reason) == IF holds THEN {} ELSE {reason}

\* Whether the operation of an element runs.
Working(e) == op[e.o].stage = "running"

\* A process asks for the lease. It must have no guard then.
NoGuardYet(e) ==
    CASE guard[e.p].stage = "none"    -> {}
      [] guard[e.p].stage = "syncing" -> {"failed_sync_kept"}
      [] OTHER                        -> {"has_guard"}

\* By step: the names of the conditions that do not hold.
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
      [] e.step = "load_unreported" -> Unless(MayAccess(e.o), "commit_unfenced")
      [] e.step = "commit" ->
            Unless(Working(e), "operation_over")
            \cup Unless(Working(e) => op[e.o].under = e.epoch /\ op[e.o].at = e.snapshot, "operation_changed")
            \cup Unless(Working(e) => MayAccess(e.o), "commit_unfenced")
            \cup Unless(Len(commits) + 1 = e.version, "version_not_next")
            \cup Unless(\A r \in e.records : op[e.o].known[r] # Missing, "read_without_loading")
            \cup Unless(\A r \in e.records : e.basis[r] \in {Unreported, Unread, Value(r, Version)}, "older_value")
            \cup Unless(op[e.o].at = Len(commits), "older_snapshot")
            \cup Unless(e.released => lease.wanted, "released_unwanted")
            \cup Unless(~e.short, "short_lease")
      [] e.step = "validate" -> Unless(MayAccess(e.o), "answer_unfenced")
      [] e.step = "outdated" ->
            Unless(MayAccess(e.o), "load_unfenced")
            \cup Unless(Version > op[e.o].at \/ floor > op[e.o].at, "nothing_changed")
      [] e.step = "publish" ->
            Unless(delivered[e.p] >= e.since, "delivered_with_gap")
            \cup Unless((delivered[e.p] = NoSubscriber \/ delivered[e.p] <= e.since) /\ e.since < e.version, "delivered_again")
            \cup Unless(e.lagged \/ floor <= e.since, "lag_not_delivered")
      [] e.step = "subscribe" -> {"subscribed_elsewhere"}
      [] OTHER -> {}

\* The same, with the condition of Take on what was delivered.
Reasons(e) ==
    Wrong(e) \cup IF e.step \in {"publish", "subscribe", "unsubscribe"} THEN {}
                  ELSE Unless("delivered" \in DOMAIN e => UpToDate(e), "not_delivered")

\* Print them for the impossible element.
AtLast == at = Last => PrintT(<<"reasons", Reasons(TheSteps[at]), lease, Version>>)
===============================================================================
