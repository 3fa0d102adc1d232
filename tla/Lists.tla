-------------------------------- MODULE Lists --------------------------------
(* The device lists of other users: which are outdated, and how they become   *)
(* current again. Several processes use one store (AtomicStore): each         *)
(* operation is one step, and a process is only a place where a request or a  *)
(* response waits, for as long as it likes, while the others go on. A crash,  *)
(* an invalidation, and a request or response that gets lost are all the same *)
(* (Lose). It is promised to the user, who encrypts for these devices:        *)
(*                                                                            *)
(*   DirtyNotLost  a device list is current, or is marked as outdated, or the *)
(*                 server still has to tell of the change, on each connection *)
(*   ListsCatchUp  each device list is eventually current, and stays so when  *)
(*                 nothing changes any more                                   *)
(*                                                                            *)
(* A device has several sync connections, each with a token of its own, such  *)
(* as classic sync in one process and sliding sync in another. Each of them   *)
(* tells of each change. What a sync response tells becomes a mark, in the    *)
(* commit of the token. A mark has a number, and each number is used once,    *)
(* also after the mark is gone. A query carries the numbers of the marks that *)
(* it was made for. Its response counts for the users whose mark still has    *)
(* that number; for all others it changes nothing, since a change may have    *)
(* been told after the server answered, or a newer response was first.        *)
(*                                                                            *)
(* A connection without a token is told of no change: it begins with what is  *)
(* so now. Therefore the response to such a sync marks all users, in the      *)
(* commit of its token. (To mark them when the token is lost would be too     *)
(* early: what changes until the server answers would be told by nobody.)     *)
(*                                                                            *)
(* Left out: what else is in a sync (Inbox), signatures, and what becomes of  *)
(* the sessions of a device that is gone (Sharing).                           *)
EXTENDS Naturals, FiniteSets

CONSTANTS
    Processes,    \* the places where a request or a response waits
    Connections,  \* sync connections of the device
    Sliding,      \* those whose token the server may forget
    Users,
    None,         \* in the place of a token, a mark or a device list: there is none
    Awake,        \* the processes that are not suspended for ever
    Used,         \* the connections that are used again and again
    MaxChanges,   \* bound: changes of device lists
    MaxForgotten, \* bound: how often a token is forgotten. (It begins as if it were)
    Fault         \* "none", or the slug of the one rule that is broken

Broken(slug) == Fault = slug

ASSUME /\ Cardinality(Processes) >= 2 /\ Awake \subseteq Processes
       /\ Sliding \subseteq Connections /\ Used \subseteq Connections
       /\ MaxChanges >= 1

VARIABLES
    store,   \* the records, each change of which is one commit
    server,  \* what the server has
    flight   \* by process: what waits there

vars == <<store, server, flight>>

-------------------------------------------------------------------------------
(* Changes of device lists are numbered, as the server orders them. A token is  *)
(* the number of the last change that is told, and a device list is as good as  *)
(* the number of the change that it shows.                                      *)
(*                                                                              *)
(* store     tracked    the users whose device lists are wanted                 *)
(*           known      by user: the device list                                *)
(*           outdated   by user: the number of the mark                         *)
(*           next       the number that the next marks get                      *)
(*           token      by connection                                           *)
(* server    changed    by user: the last change                                *)
(*           now        the last change of all                                  *)
(*           forgotten  how often a token was forgotten                         *)

Idle == [kind |-> "none"]

Init ==
    /\ store = [tracked |-> {}, known |-> [user \in Users |-> None], outdated |-> [user \in Users |-> None],
                next |-> 1, token |-> [c \in Connections |-> IF c \in Sliding THEN None ELSE 0]]
    /\ server = [changed |-> [user \in Users |-> 0], now |-> 0, forgotten |-> 0]
    /\ flight = [p \in Processes |-> Idle]

Hand(p, what) == flight' = [flight EXCEPT ![p] = what]

\* The store with new marks for some users.
\* M6.1
Marked(records, users) ==
    IF users = {} THEN records
    ELSE [records EXCEPT !.outdated = [user \in Users |-> IF user \in users THEN records.next ELSE @[user]],
                         !.next = @ + 1]

-------------------------------------------------------------------------------
\* Somebody wants to encrypt for a user. The first time, that is marked.
TrackUser(user) ==
    /\ store' = (IF user \in store.tracked THEN store
                 ELSE Marked([store EXCEPT !.tracked = @ \cup {user}], {user}))
    /\ UNCHANGED <<server, flight>>

\* A user has a new device, or one less.
ChangeDevices(user) ==
    /\ server.now < MaxChanges
    /\ server' = [server EXCEPT !.now = @ + 1, !.changed[user] = server.now + 1]
    /\ UNCHANGED <<store, flight>>

\* A process asks for a sync, and the server answers. (One step: of a change between the
\* two the response tells, as if it had come before.)
AnswerSync(p, c) ==
    /\ flight[p] = Idle
    /\ LET token == store.token[c]
           changed == IF token = None THEN {} ELSE {user \in Users : server.changed[user] > token}
       IN  Hand(p, [kind |-> "sync", connection |-> c, asked |-> token,
                    changed |-> changed, token |-> server.now])
    /\ UNCHANGED <<store, server>>

\* Marks and token are one commit. A response that was asked for with another token than
\* the store has now changes nothing.
\* M5.2, M5.4
ReceiveSync(p) ==
    /\ flight[p].kind = "sync"
    /\ LET sync == flight[p]
           users == IF sync.asked = None /\ ~Broken("posless-sync-drops-lists") THEN Users ELSE sync.changed
       IN  store' = (IF store.token[sync.connection] # sync.asked THEN store
                     ELSE Marked([store EXCEPT !.token[sync.connection] = sync.token], users \cap store.tracked))
    /\ Hand(p, Idle)
    /\ UNCHANGED server

\* The server says that it does not know the token any more; or a process begins a
\* connection anew.
\* M5.5
ForgetToken(c) ==
    /\ c \in Sliding
    /\ store.token[c] # None
    /\ server.forgotten < MaxForgotten
    /\ store' = [store EXCEPT !.token[c] = None]
    /\ server' = [server EXCEPT !.forgotten = @ + 1]
    /\ UNCHANGED flight

-------------------------------------------------------------------------------
(* Queries. Several may be under way at once, for the same user too.            *)

\* A process asks for the lists of the users that are marked, and the server answers. (One
\* step: a list that is newer than its question is no worse.)
\* M6.2
AnswerQuery(p) ==
    /\ flight[p] = Idle
    /\ LET users == {user \in Users : store.outdated[user] # None}
       IN  /\ users # {}
           /\ Hand(p, [kind |-> "query", marks |-> [user \in users |-> store.outdated[user]],
                       lists |-> [user \in users |-> server.changed[user]]])
    /\ UNCHANGED <<store, server>>

\* The response may arrive much later, and after one that is newer.
\* M6.2
MarkSent(p) ==
    /\ flight[p].kind = "query"
    /\ LET query == flight[p]
           asked == DOMAIN query.marks
           current == {user \in asked : store.outdated[user] = query.marks[user]}
           listed == IF Broken("late-response-wins") \/ Broken("query-clears-newer-flag") THEN asked ELSE current
           cleared == IF Broken("query-clears-newer-flag") THEN asked ELSE current
       IN  store' = [store EXCEPT
                        !.known = [user \in Users |-> IF user \in listed THEN query.lists[user] ELSE @[user]],
                        !.outdated = [user \in Users |-> IF user \in cleared THEN None ELSE @[user]]]
    /\ Hand(p, Idle)
    /\ UNCHANGED server

-------------------------------------------------------------------------------
\* A crash, an invalidation, a request or a response that gets lost.
Lose(p) ==
    /\ flight[p] # Idle
    /\ Hand(p, Idle)
    /\ UNCHANGED <<store, server>>

Next ==
    \/ \E user \in Users : TrackUser(user) \/ ChangeDevices(user)
    \/ \E c \in Connections : ForgetToken(c) \/ \E p \in Processes : AnswerSync(p, c)
    \/ \E p \in Processes : ReceiveSync(p) \/ AnswerQuery(p) \/ MarkSent(p) \/ Lose(p)

(* Fairness, in words. One process that is awake suffices, and one connection   *)
(* that it uses again and again. Some of the answers to its syncs arrive, and   *)
(* some of those to its queries. The others may be suspended for ever, whatever *)
(* they have in hand. Without any of these assumptions a list stays outdated    *)
(* for ever: `python -m checking conditions Lists!Fairness` leaves them out,    *)
(* one at a time.                                                               *)
Fairness ==
    \A p \in Awake :
        /\ \A c \in Used : WF_vars(AnswerSync(p, c))
        /\ SF_vars(ReceiveSync(p)) /\ SF_vars(AnswerQuery(p)) /\ SF_vars(MarkSent(p))

Spec == Init /\ [][Next]_vars
FairSpec == Spec /\ Fairness

-------------------------------------------------------------------------------
(* Guarantees.                                                                  *)

Changes == 0..MaxChanges

TypeOK ==
    /\ store.tracked \subseteq Users /\ store.known \in [Users -> Changes \cup {None}]
    /\ store.outdated \in [Users -> (1..(store.next - 1)) \cup {None}]
    /\ store.token \in [Connections -> Changes \cup {None}]
    /\ server.changed \in [Users -> Changes] /\ server.now \in Changes /\ server.forgotten \in 0..MaxForgotten
    /\ \A p \in Processes : flight[p].kind \in {"none", "sync", "query"}

Current(user) == store.known[user] = server.changed[user]

DirtyNotLost ==
    \A user \in store.tracked :
        \/ Current(user)
        \/ store.outdated[user] # None
        \/ \A c \in Connections : store.token[c] = None \/ store.token[c] < server.changed[user]

\* (Within the bounds, changes come to an end.)
ListsCatchUp == <>[](\A user \in store.tracked : Current(user))
===============================================================================
