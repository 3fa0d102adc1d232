-------------------------------- MODULE Backup --------------------------------
(* Room keys are backed up at the server, encrypted for the key of a backup  *)
(* version. A room key may get better (begin at an earlier index) while a    *)
(* worse one is uploaded. Other devices may create another version. Answers  *)
(* to uploads may come late, twice, or in another process. The machine       *)
(* promises to the person, who may lose the device:                          *)
(*                                                                           *)
(*   BackedUpIsBest        a room key that counts as backed up is in the     *)
(*                         backup, from the first index that we know, and    *)
(*                         the version's key decrypts it                     *)
(*   OneKeyPerVersion      every room key in a version is encrypted for the  *)
(*                         key of that version                               *)
(*   OnlyToTrusted         no room key is encrypted for an untrusted key     *)
(*   SurvivesInvalidation  a backup that is on stays on, until the server    *)
(*                         says that there is another version                *)
(*   EverythingIsBackedUp  each room key is eventually in the current        *)
(*                         version, and counts as backed up, if that version *)
(*                         is trusted (see Fairness)                         *)
(*                                                                           *)
(* The store is AtomicStore: an operation is one step, and each action below *)
(* that changes the store is one operation. The only other state of a        *)
(* process is the request or the response that it holds, flight[p]. A crash, *)
(* an invalidation, and a lost request or response are the same step,        *)
(* Lose(p). A suspended process takes no step.                               *)
(*                                                                           *)
(* A room key that must be uploaded has a mark. The mark gets a new number   *)
(* when the room key gets better, and when there is another version. An      *)
(* upload has the numbers of its marks, the version and the version's key.   *)
(* The answer settles the marks that still have these numbers. We store the  *)
(* backup key of a new version before we request the version; until that is  *)
(* answered, each process requests it with the same key. An answer about     *)
(* versions counts only if we still know the same version as when we asked.  *)
(* We upload only if we have made the version's key, or if a trusted device  *)
(* has signed it. If there is another version, each room key is marked. Room *)
(* keys from the backup are not marked, since they are taken only from the   *)
(* version that we know.                                                     *)
(*                                                                           *)
(* The server numbers the versions, and accepts uploads only to the newest.  *)
(* It keeps the better one of two room keys of a session.                    *)
(*                                                                           *)
(* Left out: a person who turns off the backup; the deletion of a version;   *)
(* decryption keys, which come by Gossip or from the secret storage; and how *)
(* much a room key from a backup is trusted.                                 *)
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS
    Processes,    \* the programs that share the store
    Nothing,      \* instead of a room key, a mark, a request or a response: there is none
    Awake,        \* the processes that are not suspended for ever
    Sessions,     \* the room sessions
    MaxIndex,     \* bound: first indices
    MaxKeys,      \* bound: our own backup keys
    MaxVersions,  \* bound: versions
    Fault         \* "none", or the slug of the one rule that is broken

Broken(slug) == Fault = slug

ASSUME Cardinality(Processes) >= 2 /\ Awake \subseteq Processes

VARIABLES
    server,  \* what the server has
    store,   \* the records
    flight   \* by process: the request or the response that it holds

vars == <<server, store, flight>>

-------------------------------------------------------------------------------
\* Our own backup keys are numbered. Two values stand for the backup keys of others: one is
\* signed by a trusted device, the other is not signed.
Signed == 98
Unsigned == 99

\* server  versions  the key of each version, the newest last
\*         backed    the room keys in them
\* store   first     by session: the first index of its room key
\*         unbacked  by session: the number of its mark. No other mark has it, as it is made
\*                   of the version, its key and the first index when that was marked
\*         backup    the version that we know (0: it is not made yet), its key (0: there is
\*                   none), and whether the server has refused it
\*         keys      how many backup keys we have made
NoBackup == [version |-> 0, key |-> 0, refused |-> FALSE]

Init ==
    /\ server = [versions |-> <<>>, backed |-> {}]
    /\ store = [first |-> [s \in Sessions |-> Nothing], unbacked |-> [s \in Sessions |-> Nothing],
                backup |-> NoBackup, keys |-> 0]
    /\ flight = [p \in Processes |-> Nothing]

InFlight(p, stage) == flight[p] # Nothing /\ flight[p].stage = stage

Hand(p, what) == flight' = [flight EXCEPT ![p] = what]

Current == Len(server.versions)

\* M19.11
Trusted(key) == key \in 1..store.keys \/ key = Signed

Better(index, other) == IF other = Nothing THEN TRUE ELSE index < other

\* The content of the versions after room keys were added to one of them.
Kept(version, key, index) ==
    LET better == {s \in DOMAIN index : \A b \in server.backed :
                      (b.version = version /\ b.session = s) => Better(index[s], b.index)}
    IN  {b \in server.backed : b.version # version \/ b.session \notin better}
        \cup {[version |-> version, session |-> s, index |-> index[s], key |-> key] : s \in better}

\* Whether a request belongs to the backup that we know.
Bound(request) == request.version = store.backup.version /\ request.key = store.backup.key

Number(backup, index) == <<backup.version, backup.key, index>>

IsBeingMade == store.backup # NoBackup /\ store.backup.version = 0

IsOn == store.backup.version # 0 /\ ~store.backup.refused /\ Trusted(store.backup.key)

-------------------------------------------------------------------------------
\* A new room key arrives, or a better one than we have.
\* M19.2
ReceiveRoomKey(s, index) ==
    /\ Better(index, store.first[s])
    /\ store' = [store EXCEPT !.first[s] = index,
                              !.unbacked[s] = IF store.backup = NoBackup THEN @ ELSE Number(store.backup, index)]
    /\ UNCHANGED <<server, flight>>

-------------------------------------------------------------------------------
(* Versions.                                                                 *)

\* The store with another backup, which does not have our room keys.
\* M19.3
Begun(backup) ==
    [store EXCEPT !.backup = backup,
                  !.unbacked = [s \in Sessions |-> IF store.first[s] = Nothing THEN Nothing
                                                   ELSE Number(backup, store.first[s])]]

\* create_version: make a backup key, and request a version with it.
\* M19.5, M19.6
CreateVersion(p) ==
    /\ flight[p] = Nothing
    /\ LET key == IF IsBeingMade THEN store.backup.key ELSE store.keys + 1
       IN  /\ key <= MaxKeys
           /\ store' = IF IsBeingMade THEN store
                       ELSE [Begun([version |-> 0, key |-> key, refused |-> FALSE]) EXCEPT !.keys = key]
           /\ Hand(p, [stage |-> "create", key |-> key])
    /\ UNCHANGED server

AnswerCreate(p) ==
    /\ InFlight(p, "create")
    /\ Current < MaxVersions
    /\ server' = [server EXCEPT !.versions = Append(@, flight[p].key)]
    /\ Hand(p, [stage |-> "created", version |-> Current + 1, key |-> flight[p].key])
    /\ UNCHANGED store

\* mark_sent. The version counts only if it was created with the backup key that waits for one.
\* M19.7
MarkCreated(p) ==
    /\ InFlight(p, "created")
    /\ IsBeingMade
    /\ store.backup.key = flight[p].key \/ Broken("two-keys-one-version")
    /\ store' = [store EXCEPT !.backup.version = flight[p].version]
    /\ Hand(p, Nothing)
    /\ UNCHANGED server

\* mark_sent, if the version is known already, or if the backup has changed since.
IgnoreCreated(p) ==
    /\ InFlight(p, "created")
    /\ ~IsBeingMade \/ store.backup.key # flight[p].key
    /\ Hand(p, Nothing)
    /\ UNCHANGED <<server, store>>

\* Another device of the user creates a version, or an attacker with access to the account.
ChangeVersion(key) ==
    /\ Current < MaxVersions
    /\ server' = [server EXCEPT !.versions = Append(@, key)]
    /\ UNCHANGED <<store, flight>>

\* version_query. The server answers at once. (This is one step, since it does no harm if the
\* answer is newer than the request.)
AskVersion(p) ==
    /\ flight[p] = Nothing
    /\ Current > 0
    /\ Hand(p, [stage |-> "version", version |-> store.backup.version, key |-> store.backup.key,
                newest |-> Current, newestKey |-> server.versions[Current]])
    /\ UNCHANGED <<server, store>>

\* mark_sent. While we create a version of our own, only that version counts.
\* M19.8, M19.9
MarkVersion(p) ==
    /\ InFlight(p, "version")
    /\ Bound(flight[p])
    /\ LET answer == flight[p]
           backup == [version |-> answer.newest, key |-> answer.newestKey, refused |-> FALSE]
       IN  store' = CASE backup.key = store.backup.key /\ store.backup.version \in {0, backup.version} ->
                             [store EXCEPT !.backup = backup]
                      [] backup.key # store.backup.key /\ IsBeingMade -> store
                      [] OTHER -> Begun(backup)
    /\ Hand(p, Nothing)
    /\ UNCHANGED server

IgnoreVersion(p) ==
    /\ InFlight(p, "version")
    /\ ~Bound(flight[p])
    /\ Hand(p, Nothing)
    /\ UNCHANGED <<server, store>>

-------------------------------------------------------------------------------
(* Uploads. There may be several at once, even of the same room keys.        *)

\* outgoing_requests: an upload of some of the marked room keys.
\* M19.14, M19.17
AskUpload(p) ==
    /\ flight[p] = Nothing
    /\ store.backup.version # 0
    /\ ~store.backup.refused
    /\ Trusted(store.backup.key) \/ Broken("untrusted-version-taken")
    /\ \E batch \in (SUBSET {s \in Sessions : store.unbacked[s] # Nothing}) \ {{}} :
        Hand(p, [stage |-> "upload", version |-> store.backup.version, key |-> store.backup.key,
                 mark |-> [s \in batch |-> store.unbacked[s]], index |-> [s \in batch |-> store.first[s]]])
    /\ UNCHANGED <<server, store>>

\* The server accepts an upload to the newest version, and refuses any other.
AnswerUpload(p) ==
    /\ InFlight(p, "upload")
    /\ LET upload == flight[p]
           Answer(stage) == [stage |-> stage, version |-> upload.version, key |-> upload.key, mark |-> upload.mark]
       IN  IF upload.version = Current
           THEN /\ server' = [server EXCEPT !.backed = Kept(upload.version, upload.key, upload.index)]
                /\ Hand(p, Answer("uploaded"))
           ELSE /\ Hand(p, Answer("refused"))
                /\ UNCHANGED server
    /\ UNCHANGED store

\* mark_sent. The answer settles the marks that still have their numbers.
\* M19.15
MarkUploaded(p) ==
    /\ InFlight(p, "uploaded")
    /\ LET mark == flight[p].mark
           settled == {s \in DOMAIN mark : store.unbacked[s] = mark[s] \/ Broken("backup-flag-race")}
       IN  store' = [store EXCEPT !.unbacked = [s \in Sessions |-> IF s \in settled THEN Nothing ELSE @[s]]]
    /\ Hand(p, Nothing)
    /\ UNCHANGED server

\* mark_failed: there is another version.
\* M19.16
MarkRefused(p) ==
    /\ InFlight(p, "refused")
    /\ store' = IF Bound(flight[p]) THEN [store EXCEPT !.backup.refused = TRUE] ELSE store
    /\ Hand(p, Nothing)
    /\ UNCHANGED server

-------------------------------------------------------------------------------
(* Room keys from the backup.                                                *)

\* Another device of the user uploads a room key to the newest version.
OtherUploads(s, index) ==
    /\ Current > 0
    /\ Trusted(server.versions[Current])
    /\ server' = [server EXCEPT !.backed = Kept(Current, server.versions[Current], [t \in {s} |-> index])]
    /\ UNCHANGED <<store, flight>>

\* download. The server answers at once, even for a version that is no longer the newest.
Download(p) ==
    /\ flight[p] = Nothing
    /\ store.backup.version # 0
    /\ LET there == {b \in server.backed : b.version = store.backup.version /\ b.key = store.backup.key}
       IN  /\ there # {}
           /\ Hand(p, [stage |-> "downloaded", version |-> store.backup.version, key |-> store.backup.key,
                       index |-> [s \in {b.session : b \in there} |-> (CHOOSE b \in there : b.session = s).index]])
    /\ UNCHANGED <<server, store>>

\* restore: take the room keys that are better than ours.
\* M19.20
Restore(p) ==
    /\ InFlight(p, "downloaded")
    /\ Bound(flight[p]) \/ Broken("restored-from-older-version")
    /\ LET index == flight[p].index
           better == {s \in DOMAIN index : Better(index[s], store.first[s])}
       IN  store' = [store EXCEPT !.first = [s \in Sessions |-> IF s \in better THEN index[s] ELSE @[s]]]
    /\ Hand(p, Nothing)
    /\ UNCHANGED server

-------------------------------------------------------------------------------
\* The fault "backup-off-after-invalidation": a machine knows that the backup is on, but the
\* next machine does not.
Lose(p) ==
    /\ flight[p] # Nothing \/ Broken("backup-off-after-invalidation")
    /\ Hand(p, Nothing)
    /\ store' = IF Broken("backup-off-after-invalidation") THEN [store EXCEPT !.backup = NoBackup] ELSE store
    /\ UNCHANGED server

Indices == 0..MaxIndex

Next ==
    \/ \E s \in Sessions, index \in Indices : ReceiveRoomKey(s, index) \/ OtherUploads(s, index)
    \/ \E key \in {Signed, Unsigned} : ChangeVersion(key)
    \/ \E p \in Processes :
        \/ CreateVersion(p) \/ AnswerCreate(p) \/ MarkCreated(p) \/ IgnoreCreated(p)
        \/ AskVersion(p) \/ MarkVersion(p) \/ IgnoreVersion(p)
        \/ AskUpload(p) \/ AnswerUpload(p) \/ MarkUploaded(p) \/ MarkRefused(p)
        \/ Download(p) \/ Restore(p) \/ Lose(p)

(* Fairness, in words. One process that is not suspended is enough. Each     *)
(* answer that it waits for arrives or is lost. It asks for the newest       *)
(* version again and again, and some of the answers arrive. (It asks even    *)
(* while the backup is on: as long as there is nothing to upload, no refusal *)
(* shows that there is another version.) It uploads marked room keys again   *)
(* and again; some of these requests are answered, and some of the answers   *)
(* arrive. The other processes may be suspended for ever, whatever they      *)
(* hold. Without any one of these assumptions, a room key may never be       *)
(* backed up: `python -m checking conditions Backup!Fairness` removes them,  *)
(* one at a time.                                                            *)
Fairness ==
    \A p \in Awake :
        /\ WF_vars(Lose(p))
        /\ SF_vars(AskVersion(p)) /\ SF_vars(MarkVersion(p))
        /\ SF_vars(AskUpload(p)) /\ SF_vars(AnswerUpload(p)) /\ SF_vars(MarkUploaded(p))

Spec == Init /\ [][Next]_vars
FairSpec == Spec /\ Fairness

-------------------------------------------------------------------------------
Keys == 1..MaxKeys \cup {Signed, Unsigned}

TypeOK ==
    /\ Current <= MaxVersions /\ \A i \in DOMAIN server.versions : server.versions[i] \in Keys
    /\ server.backed \subseteq [version : 1..Current, session : Sessions, index : Indices, key : Keys]
    /\ store.first \in [Sessions -> Indices \cup {Nothing}]
    /\ store.unbacked \in [Sessions -> ((0..Current) \X Keys \X Indices) \cup {Nothing}]
    /\ store.backup \in [version : 0..Current, key : Keys \cup {0}, refused : BOOLEAN]
    /\ store.keys \in 0..MaxKeys
    /\ \A p \in Processes : flight[p] = Nothing
        \/ flight[p].stage \in {"create", "created", "version", "upload", "uploaded", "refused", "downloaded"}

\* Whether a version has a room key from its first index on.
IsIn(s, version) ==
    \E b \in server.backed :
        b.session = s /\ b.version = version /\ b.key = server.versions[version] /\ b.index <= store.first[s]

Known == {s \in Sessions : store.first[s] # Nothing}

BackedUpIsBest ==
    store.backup # NoBackup =>
        \A s \in Known : store.unbacked[s] # Nothing \/ (store.backup.version # 0 /\ IsIn(s, store.backup.version))

\* M19.6
OneKeyPerVersion == \A b \in server.backed : b.key = server.versions[b.version]

\* M19.11
OnlyToTrusted == \A b \in server.backed : Trusted(b.key)

\* M19.1, S1.1
SurvivesInvalidation ==
    [][(IsOn /\ ~IsOn') => \E p \in Processes : MarkRefused(p) \/ MarkVersion(p) \/ CreateVersion(p)]_vars

\* (The bounds limit how often room keys get better and versions change.)
EverythingIsBackedUp ==
    <>[]((Current > 0 /\ Trusted(server.versions[Current]) /\ ~IsBeingMade) =>
            \A s \in Known : store.unbacked[s] = Nothing /\ IsIn(s, Current))
===============================================================================
