--------------------------- MODULE CryptoStoreCache ---------------------------
(* Several processes share one store. Each keeps some of its records in       *)
(* memory, as a cache, because loading them for every operation is too slow;  *)
(* a lease with a growing epoch says whose cache may be used. The store       *)
(* promises to each caller of an operation, whichever process is suspended,   *)
(* killed or slow, and whenever a lease expires:                              *)
(*                                                                            *)
(*   RefinesAtomicStore      each operation takes effect once, at one moment, *)
(*                           and its answer or its error is based on the      *)
(*                           store at such a moment                           *)
(*   NoLostUpdate            no record is written from an older state of it   *)
(*   NoRatchetReuse          no two answers come from one state of a record   *)
(*   CacheIsSnapshot         a cache in use is a copy of the store as it is   *)
(*   Opaque                  no operation sees two versions mixed, not even   *)
(*                           one that will have to begin again                *)
(*   OneFencedHolder, GuardIsHonest, EpochNeverReused    (see LeaseLock)      *)
(*   NoSpuriousInvalidation  what did not change stays cached                 *)
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
    Missing,        \* in a cache: never loaded. In a result: not asked for
    Home,           \* the process that an operation belongs to
    Modes,          \* by operation: what it may be, "transaction" or "view"
    Subscribers,    \* the processes that somebody subscribes to changes in
    MaxEpoch,       \* bound: acquisitions
    MaxVersion      \* bound: commits

\* With less than this, guarantees would hold because nothing can happen.
ASSUME /\ Cardinality(Processes) >= 2 /\ Subscribers \subseteq Processes
       /\ Records # {} /\ LeaseTime \in Nat \ {0}
       /\ MaxEpoch >= 2 /\ MaxVersion >= 1
       /\ \A o \in Operations : Home[o] \in Processes /\ Modes[o] # {}
       /\ \E o1, o2 \in Operations : Home[o1] # Home[o2]
       /\ \E o \in Operations : "transaction" \in Modes[o]

VARIABLES
    lease,      \* the lease row
    history,    \* the store: its snapshots, one for each version, the last is now
    commits,    \* for each version, the records that its commit wrote, each with the
                \* value that the update was computed from. The change log is the part
                \* of it after the floor; what is before only states the guarantees
    floor,      \* the change log was cut up to this version: it has the later ones only
    guard,      \* by process: its right to use the store
    cache,      \* by process: some records of the snapshot at one version
    heard,      \* by process: what was published to its subscriber
    op          \* by operation: how far it is

vars == <<lease, history, commits, floor, guard, cache, heard, op>>

-------------------------------------------------------------------------------
(* The store. A record's value counts its updates, as a ratchet's index does.  *)

Version == Len(commits)

Snapshot(v) == history[v + 1]

Value(r, v) == history[v + 1][r]

\* What the change log says of a record after version v. Its lines up to the floor are
\* gone: whether they named the record, nobody can see any more.
Later(v, w) == IF v > w THEN v ELSE w

ChangedAfter(r, v) == \E i \in (Later(v, floor) + 1)..Version : r \in DOMAIN commits[i]

Nothing == [r \in Records |-> Missing]

Part(records, asked) == [r \in Records |-> IF r \in asked THEN records[r] ELSE Missing]

\* The records of b that are known, over those of a.
Over(a, b) == [r \in Records |-> IF b[r] # Missing THEN b[r] ELSE a[r]]

-------------------------------------------------------------------------------
(* The cache, P0.10 (twins: protocol/cache.py).                                 *)

\* P0.11, P0.12. Any version that the store has had will do.
NewCache == [version |-> 0, records |-> Nothing]

\* P2.5, P2.8. The faults are the ways this was got wrong.
SyncedCache(old) ==
    LET changed(r) == ChangedAfter(r, old.version)
        kept == [r \in Records |-> IF changed(r) THEN Missing ELSE old.records[r]]
        reaches == floor <= old.version \/ Broken("floor-ignored-at-sync")
    IN  CASE Broken("session-cache-survives") ->
                \* a second cache, of one kind of record, that nobody told (P2.9)
                [version |-> Version, records |-> [r \in Records |->
                    IF r = CHOOSE s \in Records : TRUE THEN old.records[r] ELSE kept[r]]]
          [] Broken("first-acquire-is-clean") /\ old.version = 0 ->
                \* nothing was noted yet that could differ
                [version |-> Version, records |-> old.records]
          [] Broken("generation-in-machine") ->
                \* the version is thrown away with what was invalidated
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

\* P2.16: a partial copy of a snapshot stays one, whatever is dropped from it.
ForgottenCache(old, r) == [old EXCEPT !.records[r] = Missing]

-------------------------------------------------------------------------------
(* Subscribers (twin: protocol/stream.py). What was heard starts with the       *)
(* version at which the subscription began.                                     *)

Heard(version, lagged) == [version |-> version, lagged |-> lagged]

LastHeard(published) == published[Len(published)].version

\* P9.5, P9.6: everything that the log names up to a version, or that it no longer reaches.
PublishedUpTo(published, version) ==
    IF published = <<>> \/ version <= LastHeard(published) THEN published
    ELSE IF floor > LastHeard(published) /\ ~Broken("floor-ignored-in-stream")
    THEN Append(published, Heard(version, TRUE))
    ELSE LET first == Later(LastHeard(published), floor)
         IN  published \o [i \in 1..(version - first) |-> Heard(first + i, FALSE)]

\* P9.7: a commit of the process's own, unless its subscriber has heard of it already. (Of
\* what came before it that commit says nothing; but then the guard's sync has.)
PublishedOwn(published, version) ==
    IF published = <<>> \/ version <= LastHeard(published) THEN published
    ELSE Append(published, Heard(version, version > LastHeard(published) + 1))

-------------------------------------------------------------------------------
(* Operations.                                                                  *)

Idle == [stage |-> "idle", mode |-> "none", under |-> 0, at |-> 0, begun |-> 0,
         known |-> Nothing, loading |-> <<>>, sawWaiter |-> FALSE, released |-> FALSE]

\* stage     "idle", which includes waiting for a guard; "running"; "loading" a record;
\*           "committed": in the store, not yet in the cache; "validated": its
\*           reads are confirmed, not yet answered; so for failures
\* under     the epoch of the guard it works with
\* at        the version of its snapshot; once committed, the one it made
\* begun     (only to state the refinement) the store's version when a view began
\* known     what it can read in memory: the cache of its guard as it was when it
\*           began, and what it loaded since. Nobody else can change that (P3.2),
\*           so that when it reads is of no importance. Once committed: what its
\*           updates were computed from
\* loading   record, value and version of a load whose answer is on its way
\* sawWaiter whether its last access said that somebody waits
\* released  whether its commit released the lease

Of(p) == {o \in Operations : Home[o] = p}

WorkingUnder(p, epoch) ==
    {o \in Of(p) : op[o].stage # "idle" /\ op[o].under = epoch}

\* The cache that its process has now is still the one that it began with. (Where the
\* guard may be used before the sync, that is so before the sync.)
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
                    THEN [version |-> 0, records |-> [r \in Records |-> 0]]  \* loaded before the lock
                    ELSE NewCache]
    /\ heard = [p \in Processes |-> <<>>]
    /\ op = [o \in Operations |-> Idle]

\* P1.1 to P1.5. (Operations may be called at any time, so a process may want the lease
\* at any time.)
Acquire(p) ==
    /\ guard[p].stage = "none"
    /\ lease.epoch < MaxEpoch
    /\ Takeable(lease, p)
    /\ lease' = Acquired(lease, p, lease.epoch + 1)
    /\ guard' = [guard EXCEPT ![p] = Taken(lease.epoch + 1)]
    /\ cache' = IF Broken("reload-race")  \* the version is noted, the reload follows
                THEN [cache EXCEPT ![p].version = Version] ELSE cache
    /\ UNCHANGED <<history, commits, floor, heard, op>>

\* A refused acquisition says in the row that somebody waits (P1.3).
Want(p) ==
    /\ guard[p].stage = "none"
    /\ ~Takeable(lease, p) /\ ~lease.wanted
    /\ lease' = Wanted(lease)
    /\ UNCHANGED <<history, commits, floor, guard, cache, heard, op>>

\* P2.2, P2.4 and P9.3: one fenced read of the change log; then the cache is swapped
\* and the guard exists, in one step of the process.
Sync(p) ==
    /\ guard[p].stage = "syncing"
    /\ FencePasses(lease, guard[p].epoch)
    /\ cache' = [cache EXCEPT ![p] = SyncedCache(cache[p])]
    /\ guard' = [guard EXCEPT ![p] = Synced(@)]
    /\ heard' = [heard EXCEPT ![p] =
            IF p \notin Subscribers THEN <<>>
            ELSE IF @ = <<>> THEN <<Heard(Version, FALSE)>>  \* subscribes here
            ELSE IF Broken("foreign-writes-unseen") THEN @
            ELSE IF Broken("streams-lost") /\ cache'[p].records # cache[p].records THEN @
            ELSE PublishedUpTo(@, Version)]
    /\ UNCHANGED <<lease, history, commits, floor, op>>

\* P2.10, P2.11. An error on the way: no guard, and the cache stays what and where it was. The lease
\* is released, or left to expire.
SyncFails(p) ==
    /\ guard[p].stage = "syncing"
    /\ guard' = [guard EXCEPT ![p] = NoGuard]
    /\ lease' \in LeftBehind(lease, guard[p].epoch)
    /\ cache' = IF Broken("reload-failure-swallowed")
                THEN [cache EXCEPT ![p].version = Version] ELSE cache
    /\ UNCHANGED <<history, commits, floor, heard, op>>

\* P2.1, P5.1, P5.15. An operation begins under a guard: it has the guard's cache before it, as an
\* immutable value. Transactions of one guard run one at a time. A view does not begin
\* while a commit is under way: it could miss what others may have seen.
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

\* P4.5, P4.6. A record that was not cached is loaded, if it is still what it was in the
\* operation's snapshot.
Load(o, r) ==
    /\ op[o].stage = "running"
    /\ op[o].known[r] = Missing
    /\ MayAccess(o) \/ Broken("unfenced-load") \/ Unguarded(o)
    /\ \/ ~ChangedAfter(r, op[o].at) /\ (floor <= op[o].at \/ Broken("floor-ignored-at-load"))
       \/ Broken("unfenced-load") \/ Unguarded(o)
    /\ op' = [op EXCEPT ![o].stage = "loading", ![o].loading = <<r, Value(r, Version), Version>>]
    /\ UNCHANGED <<lease, history, commits, floor, guard, cache, heard>>

\* P3.4, P4.8. Its answer arrives: for the operation, and for the cache if that is still the
\* guard's and has not moved on.
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

\* P5.16 to P5.18: all of an operation's records, the version and the change log,
\* behind the fence, in one database transaction; it renews the lease as well, or
\* releases it if somebody waits and no other operation needs it, or keeps it for those that
\* come next. (A process knows that when it sends the commit. A view that ends on the way
\* is then as one that ends just after.)
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

\* P6.1: a view asks whether its epoch still stands.
Validate(o) ==
    /\ op[o].stage = "running" /\ op[o].mode = "view"
    /\ AnyRecord(op[o].known) # {}
    /\ MayAccess(o) \/ Broken("unvalidated-view")
    /\ op' = [op EXCEPT ![o].stage = "validated", ![o].at = 0, ![o].begun = 0, ![o].sawWaiter = lease.wanted]
    /\ UNCHANGED <<lease, history, commits, floor, guard, cache, heard>>

\* P6.2: what an operation's own code fails of is what it has read, so its
\* caller may hear of that only once the fence has confirmed it. (A transaction that has
\* written nothing is answered in the same way.)
Fail(o) ==
    /\ op[o].stage = "running"
    /\ AnyRecord(op[o].known) # {}
    /\ MayAccess(o) \/ Broken("stale-failure-believed")
    /\ op' = [op EXCEPT ![o].stage = "validated", ![o].at = 0, ![o].begun = 0, ![o].sawWaiter = lease.wanted]
    /\ UNCHANGED <<lease, history, commits, floor, guard, cache, heard>>

\* P3.5, P5.20. The cache takes the new values, the changes are published, the caller is answered:
\* one step of the process. If the guard died in between, the commit counts all
\* the same, and the cache is no longer this operation's to touch. If the commit released
\* the lease, the guard ends here: nothing has begun under it since, as operations
\* don't while a commit is on its way.
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

\* P4.3, P4.11. An access that the fence stops: the guard dies; the operation begins again on
\* fresh state, out of sight of its caller.
Lose(o) ==
    LET p == Home[o] IN
    /\ op[o].stage = "running" /\ ~MayAccess(o) /\ ~Unguarded(o)
    /\ guard' = [guard EXCEPT ![p] = Lost(@, op[o].under)]
    /\ op' = [op EXCEPT ![o] = IF Broken("stale-account-overwrite")
                               THEN [Idle EXCEPT !.known = op[o].known] ELSE Idle]
    /\ UNCHANGED <<lease, history, commits, floor, cache, heard>>

\* P4.7. An operation needs a record that its own process changed since it began, or that
\* it may have changed, for all that is left of the log.
Outdated(o, r) ==
    /\ op[o].stage = "running"
    /\ op[o].known[r] = Missing
    /\ MayAccess(o) /\ (ChangedAfter(r, op[o].at) \/ floor > op[o].at)
    /\ op' = [op EXCEPT ![o] = Idle]
    /\ UNCHANGED <<lease, history, commits, floor, guard, cache, heard>>

\* P5.23, P12.1. The caller vanishes, or an access fails, the commit for one (the disk is full, the
\* database busy). Nothing was written; what the operation held is dropped.
Abort(o) ==
    /\ op[o].stage \in {"running", "loading"}
    /\ op' = [op EXCEPT ![o] = Idle]
    /\ cache' = IF Broken("cache-before-commit") /\ op[o].mode = "transaction"
                THEN [cache EXCEPT ![Home[o]].records = [r \in Records |->
                        IF op[o].known[r] # Missing THEN op[o].known[r] + 1 ELSE @[r]]]
                ELSE cache
    /\ UNCHANGED <<lease, history, commits, floor, guard, heard>>

\* The fault "cancelled-commit": the caller vanished while its commit was running,
\* and the operation counts as failed.
ForgetCommit(o) ==
    /\ Broken("cancelled-commit") /\ op[o].stage = "committed"
    /\ op' = [op EXCEPT ![o] = Idle]
    /\ UNCHANGED <<lease, history, commits, floor, guard, cache, heard>>

\* P1.7. A renewal that comes through, and learns whether somebody waits.
Renew(p) ==
    /\ Renewable(guard[p])
    /\ FencePasses(lease, guard[p].epoch)
    /\ lease' = Renewed(lease)
    /\ \E sawWaiter \in Notable(lease.wanted) : guard' = [guard EXCEPT ![p] = WaiterNoted(@, sawWaiter)]
    /\ UNCHANGED <<history, commits, floor, cache, heard, op>>

\* A renewal, or a sync, that the fence stops: the guard dies (P1.8, P2.13).
LoseGuard(p) ==
    /\ guard[p].stage # "none"
    /\ ~FencePasses(lease, guard[p].epoch)
    /\ guard' = [guard EXCEPT ![p] = NoGuard]
    /\ UNCHANGED <<lease, history, commits, floor, cache, heard, op>>

\* P8.18, P8.19. The guard is dead before the row is free.
Release(p) ==
    /\ Stands(guard[p], guard[p].epoch)
    /\ WorkingUnder(p, guard[p].epoch) = {}
    /\ FencePasses(lease, guard[p].epoch)
    /\ lease' = Released(lease)
    /\ guard' = [guard EXCEPT ![p] = NoGuard]
    /\ UNCHANGED <<history, commits, floor, cache, heard, op>>

\* P7.1. A lease expires, at any moment: its holder was suspended, or a clock jumped.
Expire ==
    /\ lease.left > 0 /\ lease.holder # Nobody
    /\ lease' = [lease EXCEPT !.left = 0]
    /\ UNCHANGED <<history, commits, floor, guard, cache, heard, op>>

\* P0.6. Killed, and started again under the same label: a new instance.
Crash(p) ==
    /\ guard[p].stage # "none" \/ cache[p] # NewCache \/ \E o \in Of(p) : op[o].stage # "idle"
    /\ guard' = [guard EXCEPT ![p] = NoGuard]
    /\ cache' = [cache EXCEPT ![p] = NewCache]
    /\ heard' = [heard EXCEPT ![p] = <<>>]
    /\ op' = [o \in Operations |-> IF Home[o] = p THEN Idle ELSE op[o]]
    /\ lease' = IF lease.holder = p THEN [lease EXCEPT !.holder = Departed] ELSE lease
    /\ UNCHANGED <<history, commits, floor>>

\* P2.16. Any record may be dropped from a cache at any time, to bound its size: it can be
\* loaded again.
Forget(p, r) ==
    /\ cache[p].records[r] # Missing
    /\ cache' = [cache EXCEPT ![p] = ForgottenCache(@, r)]
    /\ UNCHANGED <<lease, history, commits, floor, guard, heard, op>>

\* P4.16. The change log is cut.
Truncate ==
    /\ floor < Version
    /\ floor' = Version
    /\ UNCHANGED <<lease, history, commits, guard, cache, heard, op>>

\* A process that has subscribers and no guard looks at the change log (P9.4).
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

\* While the fence lets the guard pass, the cache is of the version the store is
\* at, or one behind while a commit of this very guard is on its way back.
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

\* The commits whose answer has left, or for all we know may have.
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

\* Its process need not know yet that its commit has released the lease.
HandedOver(p) ==
    lease.holder = Nobody /\ \E o \in WorkingUnder(p, guard[p].epoch) : op[o].released

GuardIsHonest ==
    \A p \in Processes : (guard[p].stage # "none" /\ lease.epoch = guard[p].epoch)
        => lease.holder = p \/ HandedOver(p)

EpochNeverReused ==
    [][\A p \in Processes : (guard[p].stage = "none" /\ guard'[p].stage # "none")
                            => guard'[p].epoch > lease.epoch]_vars

\* Invalidation drops no record that still has the store's value, as long as the
\* log reaches back.
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
(* What all this amounts to for the user: AtomicStore. What was committed or    *)
(* validated is done, whether or not its caller is still there to hear of it.   *)

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
