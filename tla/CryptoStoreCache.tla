--------------------------- MODULE CryptoStoreCache ---------------------------
(* Several processes share one store. Each process has some of the records in *)
(* memory, as a cache, because it would be too slow to load them for every    *)
(* operation. Only the cache of the process that holds the lease may be used. *)
(* The store promises to each caller of an operation, whichever process is    *)
(* suspended, killed or slow, and whenever a lease expires:                   *)
(*                                                                            *)
(*   RefinesAtomicStore      each operation takes effect once, at one moment, *)
(*                           and its answer or its error is based on the      *)
(*                           store at such a moment                           *)
(*   NoLostUpdate            no update of a record is computed from an older  *)
(*                           value of it                                      *)
(*   NoRatchetReuse          no two answers are computed from the same value  *)
(*                           of a record                                      *)
(*   CacheIsSnapshot         a cache in use is a copy of the current store    *)
(*   Opaque                  no operation sees a mixture of two versions, not *)
(*                           even an operation that will be retried           *)
(*   OneFencedHolder, GuardIsHonest, EpochNeverReused    (see LeaseLock)      *)
(*   NoSpuriousInvalidation  a record that did not change stays cached        *)
(*   StreamComplete          subscribers get every change, once and in order  *)
(*                                                                            *)
(* A suspended process is one that takes no step, so the behaviours below     *)
(* include all those with suspended processes. A process that pauses has      *)
(* released its lease (Release), and takes no step until it resumes; its      *)
(* cache, and what its subscribers have received, are then as before. Clocks  *)
(* do not appear: a lease may expire at any moment (Expire; P7.1).            *)
EXTENDS Lease, Sequences, FiniteSets

CONSTANTS
    Operations, Records,
    Missing,        \* in a cache: not loaded. In a result: not read
    Home,           \* by operation: its process
    Modes,          \* by operation: the modes that it may have, "transaction" or "view"
    Subscribers,    \* the processes with a subscriber to changes
    MaxEpoch,       \* bound: acquisitions
    MaxVersion      \* bound: commits

\* With less than this, guarantees would hold only because nothing can happen.
ASSUME /\ Cardinality(Processes) >= 2 /\ Subscribers \subseteq Processes
       /\ Records # {} /\ LeaseTime \in Nat \ {0}
       /\ MaxEpoch >= 2 /\ MaxVersion >= 1
       /\ \A o \in Operations : Home[o] \in Processes /\ Modes[o] # {}
       /\ \E o1, o2 \in Operations : Home[o1] # Home[o2]
       /\ \E o \in Operations : "transaction" \in Modes[o]

VARIABLES
    lease,      \* the lease row
    history,    \* the snapshots of the store, one for each version; the last is current
    commits,    \* for each version, the records that its commit wrote, each with the
                \* value that the update was computed from. The change log is the part
                \* after the floor. The part before is used only to state guarantees
    floor,      \* the change log was truncated up to this version
    guard,      \* by process: its right to use the store
    cache,      \* by process: some records of the snapshot at one version
    heard,      \* by process: the versions that its subscriber has received
    op          \* by operation: its stage and its data

vars == <<lease, history, commits, floor, guard, cache, heard, op>>

-------------------------------------------------------------------------------
(* The store. A record's value counts its updates, as a ratchet's index does.  *)

Version == Len(commits)

Snapshot(v) == history[v + 1]

Value(r, v) == history[v + 1][r]

\* The higher of two versions.
Later(v, w) == IF v > w THEN v ELSE w

\* Whether the change log names a record after version v. Its lines up to the floor are
\* deleted, so it does not show whether they named the record.
ChangedAfter(r, v) == \E i \in (Later(v, floor) + 1)..Version : r \in DOMAIN commits[i]

Nothing == [r \in Records |-> Missing]

Part(records, asked) == [r \in Records |-> IF r \in asked THEN records[r] ELSE Missing]

\* The records of a, replaced by those of b that are not Missing.
Over(a, b) == [r \in Records |-> IF b[r] # Missing THEN b[r] ELSE a[r]]

-------------------------------------------------------------------------------
(* The cache, P0.10. The same functions in Python: protocol/cache.py.          *)

\* P0.11, P0.12. An empty cache may have any version that the store has had.
NewCache == [version |-> 0, records |-> Nothing]

\* P2.5, P2.8. The faults are known mistakes.
SyncedCache(old) ==
    LET changed(r) == ChangedAfter(r, old.version)
        kept == [r \in Records |-> IF changed(r) THEN Missing ELSE old.records[r]]
        reaches == floor <= old.version \/ Broken("floor-ignored-at-sync")
    IN  CASE Broken("session-cache-survives") ->
                \* a second cache, of one kind of record, is not invalidated (P2.9)
                [version |-> Version, records |-> [r \in Records |->
                    IF r = CHOOSE s \in Records : TRUE THEN old.records[r] ELSE kept[r]]]
          [] Broken("first-acquire-is-clean") /\ old.version = 0 ->
                \* the first acquisition of a process does not invalidate
                [version |-> Version, records |-> old.records]
          [] Broken("generation-in-machine") ->
                \* an invalidation also drops the version
                [version |-> 0, records |-> IF reaches THEN kept ELSE Nothing]
          [] OTHER ->
                [version |-> Version, records |-> IF reaches THEN kept ELSE Nothing]

\* P4.8: a value that was loaded at one version may only enter a cache of that version.
FilledCache(old, r, value, version) ==
    IF old.version = version /\ old.records[r] = Missing /\ ~Broken("partial-list")
    THEN [old EXCEPT !.records[r] = value] ELSE old

\* P5.21: at the version that this commit made.
InstalledCache(old, version, written) ==
    LET news == [r \in Records |-> IF r \notin DOMAIN written THEN Missing
                                   ELSE IF Broken("partial-list") /\ old.records[r] = Missing THEN 1
                                   ELSE written[r] + 1]
        records == Over(old.records, news)
    IN  IF Broken("late-version") THEN [version |-> Version, records |-> records]
        ELSE IF version = old.version + 1 THEN [version |-> version, records |-> records] ELSE old

\* P2.16: a partial copy of a snapshot remains one if a record is dropped.
ForgottenCache(old, r) == [old EXCEPT !.records[r] = Missing]

-------------------------------------------------------------------------------
(* Subscribers. The same function in Python: protocol/stream.py. The sequence  *)
(* of received versions begins with the version of the subscription.           *)

Heard(version, lagged) == [version |-> version, lagged |-> lagged]

LastHeard(published) == published[Len(published)].version

\* P9.5, P9.6: all changes in the change log up to a version, or a lag if the log has lost
\* some of them.
PublishedUpTo(published, version) ==
    IF published = <<>> \/ version <= LastHeard(published) THEN published
    ELSE IF floor > LastHeard(published) /\ ~Broken("floor-ignored-in-stream")
    THEN Append(published, Heard(version, TRUE))
    ELSE LET first == Later(LastHeard(published), floor)
         IN  published \o [i \in 1..(version - first) |-> Heard(first + i, FALSE)]

\* P9.7: a commit of the process itself, unless its subscriber has received it already. (The
\* guard's sync has published the versions before it.)
PublishedOwn(published, version) ==
    IF published = <<>> \/ version <= LastHeard(published) THEN published
    ELSE Append(published, Heard(version, version > LastHeard(published) + 1))

-------------------------------------------------------------------------------
(* Operations.                                                                  *)

Idle == [stage |-> "idle", mode |-> "none", under |-> 0, at |-> 0, begun |-> 0,
         known |-> Nothing, loading |-> <<>>, sawWaiter |-> FALSE, released |-> FALSE]

\* stage     "idle" (it may wait for a guard); "running"; "loading" a record; "committed":
\*           its updates are in the store, but not yet in the cache; "validated": its
\*           reads or its failure are confirmed, but not yet answered
\* under     the epoch of its guard
\* at        the version of its snapshot; after its commit, the version that it made
\* begun     (only to state the refinement) the store's version when a view began
\* known     the records that it can read in memory: the cache of its guard when it began,
\*           and the records that it has loaded since. No other operation changes these
\*           (P3.2), so the time of a read does not matter. After its commit: the values
\*           that its updates were computed from
\* loading   record, value and version of a load whose answer has not arrived
\* sawWaiter whether its last access has seen that a process waits
\* released  whether its commit released the lease

Of(p) == {o \in Operations : Home[o] = p}

WorkingUnder(p, epoch) ==
    {o \in Of(p) : op[o].stage # "idle" /\ op[o].under = epoch}

\* Whether its process still has the cache that the operation began with. (In the faults
\* that use a guard before the sync, this is true before the sync.)
UsesCache(o) ==
    \/ Stands(guard[Home[o]], op[o].under)
    \/ /\ Broken("dirty-hidden-from-reentrant") \/ Broken("reload-race")
       /\ guard[Home[o]].epoch = op[o].under

AnyRecord(function) == {r \in Records : function[r] # Missing}

-------------------------------------------------------------------------------
Init ==
    /\ lease = NewRow
    /\ history = <<[r \in Records |-> 0]>>
    /\ commits = <<>>
    /\ floor = 0
    /\ guard = [p \in Processes |-> NoGuard]
    /\ cache = [p \in Processes |->
                    IF Broken("first-acquire-is-clean")
                    THEN [version |-> 0, records |-> [r \in Records |-> 0]]  \* loaded early
                    ELSE NewCache]
    /\ heard = [p \in Processes |-> <<>>]
    /\ op = [o \in Operations |-> Idle]

\* P1.1 to P1.5. (A process may ask for the lease at any time, since operations may be
\* called at any time.)
Acquire(p) ==
    /\ guard[p].stage = "none"
    /\ lease.epoch < MaxEpoch
    /\ Takeable(lease, p)
    /\ lease' = Acquired(lease, p, lease.epoch + 1)
    /\ guard' = [guard EXCEPT ![p] = Taken(lease.epoch + 1)]
    /\ cache' = IF Broken("reload-race")  \* the version is noted before the reload
                THEN [cache EXCEPT ![p].version = Version] ELSE cache
    /\ UNCHANGED <<history, commits, floor, heard, op>>

\* P1.3. A refused acquisition notes in the row that a process waits.
Want(p) ==
    /\ guard[p].stage = "none"
    /\ ~Takeable(lease, p) /\ ~lease.wanted
    /\ lease' = Wanted(lease)
    /\ UNCHANGED <<history, commits, floor, guard, cache, heard, op>>

\* P2.2, P2.4, P9.3. One fenced read of the change log. Then the cache is replaced and the
\* guard can be used, in one step of the process.
Sync(p) ==
    /\ guard[p].stage = "syncing"
    /\ FencePasses(lease, guard[p].epoch)
    /\ cache' = [cache EXCEPT ![p] = SyncedCache(cache[p])]
    /\ guard' = [guard EXCEPT ![p] = Synced(@)]
    /\ heard' = [heard EXCEPT ![p] =
            IF p \notin Subscribers THEN <<>>
            ELSE IF @ = <<>> THEN <<Heard(Version, FALSE)>>  \* the subscription begins
            ELSE IF Broken("foreign-writes-unseen") THEN @
            ELSE IF Broken("streams-lost") /\ cache'[p].records # cache[p].records THEN @
            ELSE PublishedUpTo(@, Version)]
    /\ UNCHANGED <<lease, history, commits, floor, op>>

\* P2.10, P2.11. The sync fails. There is no guard, and the cache and its version do not
\* change. The lease is released, or expires later.
SyncFails(p) ==
    /\ guard[p].stage = "syncing"
    /\ guard' = [guard EXCEPT ![p] = NoGuard]
    /\ lease' \in LeftBehind(lease, guard[p].epoch)
    /\ cache' = IF Broken("reload-failure-swallowed")
                THEN [cache EXCEPT ![p].version = Version] ELSE cache
    /\ UNCHANGED <<history, commits, floor, heard, op>>

\* P2.1, P5.1, P5.15. An operation begins under a guard, and reads the guard's cache as an
\* immutable value. Transactions of one guard run one at a time. A view does not begin
\* during a commit: it could miss updates that others have seen.
MayBegin(o, mode) ==
    LET p == Home[o]
        working == WorkingUnder(p, guard[p].epoch)
    IN  /\ \/ Admits(guard[p])
           \/ guard[p].stage = "syncing" /\ Broken("dirty-hidden-from-reentrant")
           \/ guard[p].stage = "syncing" /\ Broken("reload-race") /\ cache[p].version = Version
        /\ mode = "transaction" =>
              \/ \A other \in working : op[other].mode = "view"
              \/ Broken("two-live-copies")
        /\ mode = "view" => \A other \in working : op[other].stage # "committed"

Begin(o, mode) ==
    LET p == Home[o] IN
    /\ op[o].stage = "idle"
    /\ \/ MayBegin(o, mode)
       \/ Broken("save-without-lock") /\ guard[p].stage = "none"
    /\ op' = [op EXCEPT ![o] = [@ EXCEPT
            !.stage = "running",
            !.mode = mode,
            !.under = guard[p].epoch,
            !.at = cache[p].version,
            !.begun = IF mode = "view" THEN Version ELSE 0,
            !.known = Over(cache[p].records, op[o].known)]]
    /\ UNCHANGED <<lease, history, commits, floor, guard, cache, heard>>

\* P4.2 at the database.
MayAccess(o) == FencePasses(lease, op[o].under)

Unguarded(o) == Broken("save-without-lock") /\ op[o].under = 0

\* P4.5, P4.6. A record that is not cached is loaded, if it has not changed since the
\* operation's snapshot.
Load(o, r) ==
    /\ op[o].stage = "running"
    /\ op[o].known[r] = Missing
    /\ MayAccess(o) \/ Broken("unfenced-load") \/ Unguarded(o)
    /\ \/ ~ChangedAfter(r, op[o].at) /\ (floor <= op[o].at \/ Broken("floor-ignored-at-load"))
       \/ Broken("unfenced-load") \/ Unguarded(o)
    /\ op' = [op EXCEPT ![o].stage = "loading", ![o].loading = <<r, Value(r, Version), Version>>]
    /\ UNCHANGED <<lease, history, commits, floor, guard, cache, heard>>

\* P3.4, P4.8. The loaded record arrives: in the operation, and in the cache if that still
\* belongs to the same guard and has the same version.
Fill(o) ==
    LET p == Home[o]
        r == op[o].loading[1]
        value == op[o].loading[2]
        version == op[o].loading[3]
    IN  /\ op[o].stage = "loading"
        /\ op' = [op EXCEPT ![o].stage = "running", ![o].loading = <<>>, ![o].known[r] = value]
        /\ cache' = IF UsesCache(o)
                    THEN [cache EXCEPT ![p] = FilledCache(@, r, value, version)] ELSE cache
        /\ UNCHANGED <<lease, history, commits, floor, guard, heard>>

\* P5.16 to P5.18. One fenced database transaction writes all records of the operation, the
\* version and the change log. It also renews the lease; or it releases the lease, if a
\* process waits and no other operation needs it. (The process decides this when it sends
\* the commit. A view that ends during the commit counts as one that ends just after it.)
Commit(o, updated) ==
    LET p == Home[o]
        base == [r \in updated |-> op[o].known[r]]
        mayRelease == WorkingUnder(p, op[o].under) = {o}
    IN  /\ op[o].stage = "running" /\ op[o].mode = "transaction"
        /\ updated # {} /\ updated \subseteq AnyRecord(op[o].known)
        /\ Version < MaxVersion
        /\ \/ MayAccess(o)
           \/ Broken("lease-lapses-unfenced")
           \/ Broken("live-reference-survives") /\ FencePasses(lease, guard[p].epoch)
           \/ Unguarded(o)
        /\ commits' = Append(commits, base)
        /\ history' = Append(history, [r \in Records |->
                IF r \in updated THEN base[r] + 1 ELSE Value(r, Version)])
        /\ \E releases \in Notable(mayRelease) :
            /\ op' = [op EXCEPT ![o].stage = "committed", ![o].at = Version + 1,
                                ![o].known = Part(@, updated), ![o].sawWaiter = lease.wanted,
                                ![o].released = MayAccess(o) /\ HandsOver(lease, releases)]
            /\ lease' = IF MayAccess(o) THEN Committed(lease, releases) ELSE lease
        /\ UNCHANGED <<floor, guard, cache, heard>>

\* P6.1. A view checks that its epoch still passes the fence.
Validate(o) ==
    /\ op[o].stage = "running" /\ op[o].mode = "view"
    /\ AnyRecord(op[o].known) # {}
    /\ MayAccess(o) \/ Broken("unvalidated-view")
    /\ op' = [op EXCEPT ![o].stage = "validated", ![o].at = 0, ![o].begun = 0, ![o].sawWaiter = lease.wanted]
    /\ UNCHANGED <<lease, history, commits, floor, guard, cache, heard>>

\* P6.2. The code inside an operation fails, because of what it has read. So the caller gets
\* the error only after the operation has passed the fence. (A transaction that has written
\* nothing is answered in the same way.)
Fail(o) ==
    /\ op[o].stage = "running"
    /\ AnyRecord(op[o].known) # {}
    /\ MayAccess(o) \/ Broken("stale-failure-believed")
    /\ op' = [op EXCEPT ![o].stage = "validated", ![o].at = 0, ![o].begun = 0, ![o].sawWaiter = lease.wanted]
    /\ UNCHANGED <<lease, history, commits, floor, guard, cache, heard>>

\* P3.5, P5.20. In one step of the process, the cache gets the new values, the changes are
\* published, and the caller is answered. If the guard has ended in between, the commit
\* still counts, but the operation does not change the cache. If the commit has released the
\* lease, the guard ends here. No operation has begun under it since, as none begins during
\* a commit.
Finish(o) ==
    LET p == Home[o]
        version == op[o].at
    IN  /\ op[o].stage \in {"committed", "validated"}
        /\ op' = [op EXCEPT ![o] = Idle]
        /\ \E sawWaiter \in Notable(op[o].sawWaiter) :
            guard' = CASE op[o].under # guard[p].epoch -> guard
                       [] op[o].released -> [guard EXCEPT ![p] = NoGuard]
                       [] OTHER -> [guard EXCEPT ![p] = WaiterNoted(@, sawWaiter)]
        /\ IF op[o].stage = "committed"
           THEN /\ cache' = IF UsesCache(o)
                            THEN [cache EXCEPT ![p] = InstalledCache(@, version, commits[version])]
                            ELSE cache
                /\ heard' = [heard EXCEPT ![p] = PublishedOwn(@, version)]
           ELSE UNCHANGED <<cache, heard>>
        /\ UNCHANGED <<lease, history, commits, floor>>

\* P4.3, P4.11. The fence stops an access. The guard ends, and the operation is retried on
\* fresh state; the caller does not notice.
Lose(o) ==
    LET p == Home[o] IN
    /\ op[o].stage = "running" /\ ~MayAccess(o) /\ ~Unguarded(o)
    /\ guard' = [guard EXCEPT ![p] = Lost(@, op[o].under)]
    /\ op' = [op EXCEPT ![o] = IF Broken("stale-account-overwrite")
                               THEN [Idle EXCEPT !.known = op[o].known] ELSE Idle]
    /\ UNCHANGED <<lease, history, commits, floor, cache, heard>>

\* P4.7. An operation needs a record that its own process has changed since the operation
\* began, or may have changed: the truncated change log does not show it.
Outdated(o, r) ==
    /\ op[o].stage = "running"
    /\ op[o].known[r] = Missing
    /\ MayAccess(o) /\ (ChangedAfter(r, op[o].at) \/ floor > op[o].at)
    /\ op' = [op EXCEPT ![o] = Idle]
    /\ UNCHANGED <<lease, history, commits, floor, guard, cache, heard>>

\* P5.23, P12.1. The caller is cancelled, or an access such as the commit fails (because the
\* disk is full or the database is busy). Nothing was written. The operation's data is
\* dropped.
Abort(o) ==
    /\ op[o].stage \in {"running", "loading"}
    /\ op' = [op EXCEPT ![o] = Idle]
    /\ cache' = IF Broken("cache-before-commit") /\ op[o].mode = "transaction"
                THEN [cache EXCEPT ![Home[o]].records = [r \in Records |->
                        IF op[o].known[r] # Missing THEN op[o].known[r] + 1 ELSE @[r]]]
                ELSE cache
    /\ UNCHANGED <<lease, history, commits, floor, guard, heard>>

\* The fault "cancelled-commit": the caller is cancelled during its commit, and the
\* operation counts as failed.
ForgetCommit(o) ==
    /\ Broken("cancelled-commit") /\ op[o].stage = "committed"
    /\ op' = [op EXCEPT ![o] = Idle]
    /\ UNCHANGED <<lease, history, commits, floor, guard, cache, heard>>

\* P1.7. A renewal succeeds. The holder learns whether a process waits.
Renew(p) ==
    /\ Renewable(guard[p])
    /\ FencePasses(lease, guard[p].epoch)
    /\ lease' = Renewed(lease)
    /\ \E sawWaiter \in Notable(lease.wanted) : guard' = [guard EXCEPT ![p] = WaiterNoted(@, sawWaiter)]
    /\ UNCHANGED <<history, commits, floor, cache, heard, op>>

\* P1.8, P2.13. The fence stops a renewal or a sync. The guard ends.
LoseGuard(p) ==
    /\ guard[p].stage # "none"
    /\ ~FencePasses(lease, guard[p].epoch)
    /\ guard' = [guard EXCEPT ![p] = NoGuard]
    /\ UNCHANGED <<lease, history, commits, floor, cache, heard, op>>

\* P8.18, P8.19. The guard ends before the row is free.
Release(p) ==
    /\ Stands(guard[p], guard[p].epoch)
    /\ WorkingUnder(p, guard[p].epoch) = {}
    /\ FencePasses(lease, guard[p].epoch)
    /\ lease' = Released(lease)
    /\ guard' = [guard EXCEPT ![p] = NoGuard]
    /\ UNCHANGED <<history, commits, floor, cache, heard, op>>

\* P7.1. A lease may expire at any moment: its holder was suspended, or a clock jumped.
Expire ==
    /\ lease.left > 0 /\ lease.holder # Nobody
    /\ lease' = [lease EXCEPT !.left = 0]
    /\ UNCHANGED <<history, commits, floor, guard, cache, heard, op>>

\* P0.6. A process is killed and started again under the same label: a new instance.
Crash(p) ==
    /\ guard[p].stage # "none" \/ cache[p] # NewCache \/ \E o \in Of(p) : op[o].stage # "idle"
    /\ guard' = [guard EXCEPT ![p] = NoGuard]
    /\ cache' = [cache EXCEPT ![p] = NewCache]
    /\ heard' = [heard EXCEPT ![p] = <<>>]
    /\ op' = [o \in Operations |-> IF Home[o] = p THEN Idle ELSE op[o]]
    /\ lease' = IF lease.holder = p THEN [lease EXCEPT !.holder = Departed] ELSE lease
    /\ UNCHANGED <<history, commits, floor>>

\* P2.16. Any record may be dropped from a cache at any time, to bound the cache's size. It
\* can be loaded again.
Forget(p, r) ==
    /\ cache[p].records[r] # Missing
    /\ cache' = [cache EXCEPT ![p] = ForgottenCache(@, r)]
    /\ UNCHANGED <<lease, history, commits, floor, guard, heard, op>>

\* P4.16. The change log is truncated.
Truncate ==
    /\ floor < Version
    /\ floor' = Version
    /\ UNCHANGED <<lease, history, commits, guard, cache, heard, op>>

\* P9.4. A process with subscribers and without a guard reads the change log.
Listen(p) ==
    /\ guard[p].stage = "none"
    /\ heard[p] # <<>> /\ ~Broken("foreign-writes-unseen") /\ ~Broken("streams-lost")
    /\ LastHeard(heard[p]) < Version
    /\ heard' = [heard EXCEPT ![p] = PublishedUpTo(@, Version)]
    /\ UNCHANGED <<lease, history, commits, floor, guard, cache, op>>

Next ==
    \/ \E o \in Operations :
        \/ \E mode \in Modes[o] : Begin(o, mode)
        \/ \E updated \in SUBSET Records : Commit(o, updated)
        \/ Fill(o) \/ Validate(o) \/ Fail(o) \/ Finish(o)
        \/ Lose(o) \/ Abort(o) \/ ForgetCommit(o)
        \/ \E r \in Records : Load(o, r) \/ Outdated(o, r)
    \/ \E p \in Processes :
        \/ Acquire(p) \/ Want(p) \/ Sync(p) \/ SyncFails(p) \/ Renew(p) \/ LoseGuard(p)
        \/ Release(p) \/ Crash(p) \/ Listen(p)
        \/ \E r \in Records : Forget(p, r)
    \/ Expire
    \/ Truncate

Spec == Init /\ [][Next]_vars

-------------------------------------------------------------------------------
(* Guarantees.                                                                  *)

Values == 0..MaxVersion
SomeRecords == [Records -> Values \cup {Missing}]

TypeOK ==
    /\ lease \in Rows /\ lease.epoch <= MaxEpoch
    /\ Version <= MaxVersion /\ Len(history) = Version + 1 /\ floor \in 0..Version
    /\ \A v \in 1..Version : DOMAIN commits[v] \subseteq Records
    /\ guard \in [Processes -> Guards]
    /\ \A p \in Processes : cache[p].version \in 0..Version /\ cache[p].records \in SomeRecords
    /\ \A o \in Operations :
        /\ op[o].stage \in {"idle", "running", "loading", "committed", "validated"}
        /\ op[o].under \in 0..MaxEpoch /\ op[o].known \in SomeRecords

InUse(p) ==
    \/ guard[p].stage \in {"held", "draining"}
    \/ \E o \in WorkingUnder(p, guard[p].epoch) : guard[p].stage # "none"

\* While the guard passes the fence, the cache has the version of the store, or the version
\* before it if a commit of this guard has not been answered yet.
CacheIsSnapshot ==
    /\ \A p \in Processes : InUse(p) =>
        /\ \A r \in Records :
            cache[p].records[r] \in {Missing, Value(r, cache[p].version)}
        /\ FencePasses(lease, guard[p].epoch) =>
            \/ cache[p].version = Version
            \/ /\ cache[p].version + 1 = Version
               /\ \E o \in WorkingUnder(p, guard[p].epoch) :
                    op[o].stage = "committed" /\ op[o].at = Version
    /\ \A o \in Operations : op[o].stage = "running" =>
        \A r \in Records : op[o].known[r] \in {Missing, Value(r, op[o].at)}

NoLostUpdate ==
    \A v \in 1..Version : \A r \in DOMAIN commits[v] : commits[v][r] = Value(r, v - 1)

\* The commits that were answered, or may have been answered.
Answered == {v \in 1..Version : \A o \in Operations : ~(op[o].stage = "committed" /\ op[o].at = v)}

NoRatchetReuse ==
    \A v, w \in Answered : v # w =>
        \A r \in DOMAIN commits[v] \cap DOMAIN commits[w] : commits[v][r] # commits[w][r]

Opaque ==
    \A o \in Operations : \E v \in 0..Version : \A r \in Records :
        op[o].known[r] \in {Missing, Value(r, v)}

OneFencedHolder ==
    \A p, q \in Processes :
        (/\ guard[p].stage # "none" /\ FencePasses(lease, guard[p].epoch)
         /\ guard[q].stage # "none" /\ FencePasses(lease, guard[q].epoch)) => p = q

\* A commit has released the lease, but its process may not know it yet.
HandedOver(p) ==
    lease.holder = Nobody /\ \E o \in WorkingUnder(p, guard[p].epoch) : op[o].released

GuardIsHonest ==
    \A p \in Processes : (guard[p].stage # "none" /\ lease.epoch = guard[p].epoch)
        => lease.holder = p \/ HandedOver(p)

EpochNeverReused ==
    [][\A p \in Processes : (guard[p].stage = "none" /\ guard'[p].stage # "none")
                            => guard'[p].epoch > lease.epoch]_vars

\* Invalidation drops no record that still has the store's value, if the change log reaches
\* back far enough.
NoSpuriousInvalidation ==
    [][\A p \in Processes :
        (guard[p].stage = "syncing" /\ guard'[p].stage = "held" /\ floor <= cache[p].version)
            => \A r \in Records : (cache[p].records[r] = Value(r, Version))
                                    => cache'[p].records[r] = cache[p].records[r]]_vars

StreamComplete ==
    \A p \in Subscribers : heard[p] # <<>> =>
        /\ \A i \in 2..Len(heard[p]) :
            \/ heard[p][i].version = heard[p][i - 1].version + 1
            \/ heard[p][i].lagged /\ heard[p][i].version > heard[p][i - 1].version
        /\ guard[p].stage \in {"held", "draining"} => LastHeard(heard[p]) >= cache[p].version

-------------------------------------------------------------------------------
(* The refinement of AtomicStore. An operation that was committed or validated  *)
(* is done, even if its caller never gets the answer.                           *)

Atomic == INSTANCE AtomicStore WITH
    history <- history,
    call <- [o \in Operations |->
        CASE op[o].stage = "idle" ->
                [stage |-> "idle", mode |-> "none", since |-> 0, result |-> Nothing]
          [] op[o].stage \in {"running", "loading"} ->
                [stage |-> "called", mode |-> op[o].mode,
                 since |-> IF op[o].mode = "view" THEN op[o].begun + 1 ELSE 0, result |-> Nothing]
          [] OTHER ->
                [stage |-> "done", mode |-> op[o].mode, since |-> 0, result |-> op[o].known]]

RefinesAtomicStore == Atomic!AtomicSpec
===============================================================================
