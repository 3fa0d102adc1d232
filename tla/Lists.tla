-------------------------------- MODULE Lists --------------------------------
(* The device lists of other users: which are outdated, and how they become   *)
(* current again. Several processes use one store (AtomicStore), and each     *)
(* operation is one step. The only other state of a process is the request or *)
(* the response that it holds, for any length of time. A crash, an            *)
(* invalidation, and a lost request or response are the same step (Lose). The *)
(* machine promises to the user, who encrypts for these devices:              *)
(*                                                                            *)
(*   DirtyNotLost  a device list is current, or is marked as outdated, or the *)
(*                 server will still report the change on each connection     *)
(*   ListsCatchUp  each device list is eventually current, and stays so if    *)
(*                 there are no further changes                               *)
(*                                                                            *)
(* A device has several sync connections, each with a token of its own, such  *)
(* as classic sync in one process and sliding sync in another. Each           *)
(* connection reports each change. A reported change becomes a mark, in the   *)
(* commit of the token. A mark has a number, which no other mark ever gets. A *)
(* query has the numbers of the marks that it is made for. Its response       *)
(* counts for the users whose marks still have these numbers. For other users *)
(* it changes nothing: a change may have been reported after the server's     *)
(* answer, or a newer response may have come first.                           *)
(*                                                                            *)
(* The server reports no earlier changes on a connection without a token. So  *)
(* the response to such a sync marks all users, in the commit of its token.   *)
(* (It would be too early to mark them when the token is lost: no response    *)
(* would report the changes between that and the server's answer.)            *)
(*                                                                            *)
(* Left out: the other parts of a sync (Inbox), signatures, and the sessions  *)
(* of a device that is gone (Sharing).                                        *)
EXTENDS Naturals, FiniteSets

CONSTANTS
    Processes,    \* the programs that share the store
    Connections,  \* the sync connections of the device
    Sliding,      \* the connections whose token the server may forget
    Users,
    None,         \* instead of a token, a mark or a device list: there is none
    Awake,        \* the processes that are not suspended for ever
    Used,         \* the connections that are used again and again
    MaxChanges,   \* bound: changes of device lists
    MaxForgotten, \* bound: how often a token is forgotten. (Initially there is none)
    Fault         \* "none", or the slug of the one rule that is broken

Broken(slug) == Fault = slug

ASSUME /\ Cardinality(Processes) >= 2 /\ Awake \subseteq Processes
       /\ Sliding \subseteq Connections /\ Used \subseteq Connections
       /\ MaxChanges >= 1

VARIABLES
    store,   \* the records, each change of which is one commit
    server,  \* what the server has
    flight   \* by process: the request or the response that it holds

vars == <<store, server, flight>>

-------------------------------------------------------------------------------
(* Changes of device lists are numbered, in the order of the server. A token is *)
(* the number of the last reported change. A device list is represented by the  *)
(* number of the last change in it.                                             *)
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
\* The application wants to encrypt for a user. The first time, the user is marked.
TrackUser(user) ==
    /\ store' = (IF user \in store.tracked THEN store
                 ELSE Marked([store EXCEPT !.tracked = @ \cup {user}], {user}))
    /\ UNCHANGED <<server, flight>>

\* A user adds or removes a device.
ChangeDevices(user) ==
    /\ server.now < MaxChanges
    /\ server' = [server EXCEPT !.now = @ + 1, !.changed[user] = server.now + 1]
    /\ UNCHANGED <<store, flight>>

\* A process makes a sync request, and the server answers. (This is one step, since the
\* response reports a change between the two as if it had come before the request.)
AnswerSync(p, c) ==
    /\ flight[p] = Idle
    /\ LET token == store.token[c]
           changed == IF token = None THEN {} ELSE {user \in Users : server.changed[user] > token}
       IN  Hand(p, [kind |-> "sync", connection |-> c, asked |-> token,
                    changed |-> changed, token |-> server.now])
    /\ UNCHANGED <<store, server>>

\* One commit stores the marks and the token. A response to a request with another token than
\* the stored one changes nothing.
\* M5.2, M5.4
ReceiveSync(p) ==
    /\ flight[p].kind = "sync"
    /\ LET sync == flight[p]
           users == IF sync.asked = None /\ ~Broken("posless-sync-drops-lists") THEN Users ELSE sync.changed
       IN  store' = (IF store.token[sync.connection] # sync.asked THEN store
                     ELSE Marked([store EXCEPT !.token[sync.connection] = sync.token], users \cap store.tracked))
    /\ Hand(p, Idle)
    /\ UNCHANGED server

\* The server says that it no longer knows the token, or a process restarts a connection.
\* M5.5
ForgetToken(c) ==
    /\ c \in Sliding
    /\ store.token[c] # None
    /\ server.forgotten < MaxForgotten
    /\ store' = [store EXCEPT !.token[c] = None]
    /\ server' = [server EXCEPT !.forgotten = @ + 1]
    /\ UNCHANGED flight

-------------------------------------------------------------------------------
(* Queries. There may be several at once, even for the same user.               *)

\* A process queries the device lists of the marked users, and the server answers. (This is
\* one step, since it does no harm if a list is newer than the request.)
\* M6.2
AnswerQuery(p) ==
    /\ flight[p] = Idle
    /\ LET users == {user \in Users : store.outdated[user] # None}
       IN  /\ users # {}
           /\ Hand(p, [kind |-> "query", marks |-> [user \in users |-> store.outdated[user]],
                       lists |-> [user \in users |-> server.changed[user]]])
    /\ UNCHANGED <<store, server>>

\* The response may arrive much later, and after a newer one.
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

(* Fairness, in words. It is enough that one process is not suspended, and that *)
(* it uses one connection again and again. Some of the responses to its syncs   *)
(* and to its queries arrive. The other processes may be suspended for ever,    *)
(* whatever they hold. Without any one of these assumptions a list may stay     *)
(* outdated for ever: `python -m checking conditions Lists!Fairness` removes    *)
(* them, one at a time.                                                         *)
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

\* (The bounds limit the number of changes.)
ListsCatchUp == <>[](\A user \in store.tracked : Current(user))
===============================================================================
