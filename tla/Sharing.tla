------------------------------- MODULE Sharing -------------------------------
(* How room messages are sent. Any process of the device may make a group    *)
(* session, share its key with the devices of the room's members, and        *)
(* encrypt messages with it. Members join and leave, and the processes learn *)
(* this at different times. The machine promises to the application, and to  *)
(* the members of the room:                                                  *)
(*                                                                           *)
(*   NoRatchetReuse   no index of a group session is used for two messages,  *)
(*                    even if one of them never arrives                      *)
(*   NothingLost      a device that counts as having a key has received it,  *)
(*                    or the key is in the outbox; the session of a shared   *)
(*                    key is stored; and each member that a message was      *)
(*                    encrypted for can read it                              *)
(*   LeftCantRead     nobody else can read the message: neither users who    *)
(*                    have left nor users who joined later, as far as the    *)
(*                    process that encrypted it knew this                    *)
(*                                                                           *)
(* The store is AtomicStore: an operation is one step, and each action below *)
(* that changes the store is one operation. The only other state of a        *)
(* process is the request or the response that it holds, flight[p]. A crash, *)
(* an invalidation, and a lost request or response are the same step,        *)
(* Lose(p). A suspended process takes no step.                               *)
(*                                                                           *)
(* Each member has one device. The device has one Olm session with us, which *)
(* never breaks (Sessions has broken ones). The store does not know the      *)
(* members of the room. The application names them in each call, and its     *)
(* information may be old. A group session may be replaced at any time, for  *)
(* example because of its age. It must be replaced if a user who has left    *)
(* has its key.                                                              *)
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS
    Processes,    \* the programs that share the store
    Nothing,      \* instead of a session, a request or a response: there is none
    Devices,      \* the devices of other users
    Memberships,  \* the members of the room, initially and after each change
    Batch,        \* at most so many devices are given a key in one commit
    MaxSessions,  \* bound: group sessions
    MaxMessages,  \* bound: encrypted room messages
    Fault         \* "none", or the slug of the one rule that is broken

Broken(slug) == Fault = slug

ASSUME /\ Cardinality(Processes) >= 2 /\ Batch >= 1
       /\ \A i \in DOMAIN Memberships : Memberships[i] \subseteq Devices
       /\ \E i \in DOMAIN Memberships : Cardinality(Memberships[i]) > Batch

VARIABLES
    knows,     \* by process: the last of Memberships that its application has learned of
    store,     \* the records
    flight,    \* by process: the request or the response that it holds
    arrived,   \* the room keys that have arrived. The server recognises a repeated
               \* transaction ID, so no key arrives twice
    messages   \* the encrypted room messages, in order

vars == <<knows, store, flight, arrived, messages>>

\* session  the number of the group session, its next index, and, by device, the index from
\*          which it is shared; or Nothing
\* outbox   requests that are to be sent. Each has the room keys of one commit: the device, the
\*          session, and the index from which it is shared. The keys stand for the transaction ID
Init ==
    /\ knows = [p \in Processes |-> 1]
    /\ store = [session |-> Nothing, outbox |-> {}]
    /\ flight = [p \in Processes |-> Nothing]
    /\ arrived = {}
    /\ messages = <<>>

InFlight(p, stage) == flight[p] # Nothing /\ flight[p].stage = stage

Members(p) == Memberships[knows[p]]

Shared == IF store.session = Nothing THEN {} ELSE DOMAIN store.session.shared

-------------------------------------------------------------------------------
\* A user has joined or left, and the application of a process learns this. The other process
\* knows it already, or learns it later.
LearnMembers(p) ==
    /\ knows[p] < Len(Memberships)
    /\ knows' = [knows EXCEPT ![p] = @ + 1]
    /\ UNCHANGED <<store, flight, arrived, messages>>

\* The first commit of share_room_key, if there is no session that may be used: it makes a
\* new one, which is not shared yet.
Rotate(p) ==
    /\ LET number == IF store.session = Nothing THEN 1 ELSE store.session.number + 1
       IN  /\ number <= MaxSessions
           /\ store' = [store EXCEPT !.session = [number |-> number, index |-> 0, shared |-> <<>>]]
    /\ UNCHANGED <<knows, flight, arrived, messages>>

\* share_room_key, with the members that the application knows: some of them in each commit.
\* One commit stores which devices get the key, and the messages to them.
\* M9.1, M9.2
ShareRoomKey(p) ==
    /\ store.session # Nothing
    /\ \E given \in (SUBSET (Members(p) \ Shared)) \ {{}} :
        /\ Cardinality(given) <= Batch
        /\ LET index == store.session.index
               shared == [d \in Shared \cup given |-> IF d \in given THEN index ELSE store.session.shared[d]]
               keys == {[to |-> d, session |-> store.session.number, from |-> index] : d \in given}
           IN  CASE Broken("requests-in-memory") ->
                      /\ store' = [store EXCEPT !.session.shared = shared]
                      /\ flight' = [flight EXCEPT ![p] = [stage |-> "request", keys |-> keys]]
                 [] Broken("shared-then-invalidated") ->
                      \* the session is only in the cache, and is stored when it is used
                      /\ store' = [session |-> Nothing, outbox |-> store.outbox \cup {keys}]
                      /\ UNCHANGED flight
                 [] OTHER ->
                      /\ store' = [session |-> [store.session EXCEPT !.shared = shared],
                                   outbox |-> store.outbox \cup {keys}]
                      /\ UNCHANGED flight
    /\ UNCHANGED <<knows, arrived, messages>>

\* encrypt_room_event. The same operation checks that the session is shared with exactly the
\* members that the application knows. The index is stored before the message is sent.
\* M9.3, M9.4, M10.1, M10.2
Encrypt(p) ==
    /\ store.session # Nothing
    /\ Members(p) \subseteq Shared
    /\ Shared \subseteq Members(p) \/ Broken("left-member-kept")
    /\ Len(messages) < MaxMessages
    /\ \E saved \in (IF Broken("save-error-ignored") THEN BOOLEAN ELSE {~Broken("send-before-persist")}) :
        store' = IF saved THEN [store EXCEPT !.session.index = @ + 1] ELSE store
    /\ messages' = Append(messages, [session |-> store.session.number, index |-> store.session.index, to |-> Members(p)])
    /\ flight' = IF Broken("send-before-persist")
                 THEN [flight EXCEPT ![p] = [stage |-> "unsaved", index |-> store.session.index + 1]] ELSE flight
    /\ UNCHANGED <<knows, arrived>>

\* The fault "send-before-persist": the index is stored after the message was sent.
SaveIndex(p) ==
    /\ Broken("send-before-persist")
    /\ InFlight(p, "unsaved")
    /\ store' = [store EXCEPT !.session.index = flight[p].index]
    /\ flight' = [flight EXCEPT ![p] = Nothing]
    /\ UNCHANGED <<knows, arrived, messages>>

\* outgoing_requests: each process lists the requests of the outbox, until they are answered.
OutgoingRequest(p, keys) ==
    /\ flight[p] = Nothing
    /\ flight' = [flight EXCEPT ![p] = [stage |-> "request", keys |-> keys]]
    /\ UNCHANGED <<knows, store, arrived, messages>>

\* The server receives a request, and answers.
Deliver(p) ==
    /\ InFlight(p, "request")
    /\ arrived' = arrived \cup flight[p].keys
    /\ flight' = [flight EXCEPT ![p].stage = "answered"]
    /\ UNCHANGED <<knows, store, messages>>

\* mark_sent. If the other process has sent the request as well, the second answer changes
\* nothing.
MarkSent(p) ==
    /\ InFlight(p, "answered")
    /\ store' = [store EXCEPT !.outbox = @ \ {flight[p].keys}]
    /\ flight' = [flight EXCEPT ![p] = Nothing]
    /\ UNCHANGED <<knows, arrived, messages>>

Lose(p) ==
    /\ flight[p] # Nothing
    /\ flight' = [flight EXCEPT ![p] = Nothing]
    /\ UNCHANGED <<knows, store, arrived, messages>>

Next ==
    \/ \E p \in Processes :
        \/ LearnMembers(p) \/ Rotate(p) \/ ShareRoomKey(p) \/ Encrypt(p) \/ SaveIndex(p)
        \/ \E keys \in store.outbox : OutgoingRequest(p, keys)
        \/ Deliver(p) \/ MarkSent(p) \/ Lose(p)

Spec == Init /\ [][Next]_vars

-------------------------------------------------------------------------------
Keys == [to : Devices, session : 1..MaxSessions, from : 0..MaxMessages]

TypeOK ==
    /\ \A p \in Processes : knows[p] \in DOMAIN Memberships
    /\ store.session # Nothing => store.session.number \in 1..MaxSessions /\ store.session.index \in 0..MaxMessages
    /\ Shared \subseteq Devices /\ store.outbox \subseteq SUBSET Keys /\ arrived \subseteq Keys
    /\ \A p \in Processes : flight[p] = Nothing \/ flight[p].stage \in {"request", "answered", "unsaved"}

\* M10.2
NoRatchetReuse ==
    \A i, j \in DOMAIN messages :
        (messages[i].session = messages[j].session /\ messages[i].index = messages[j].index) => i = j

\* The room keys that have arrived or will arrive.
Given == arrived \cup UNION store.outbox

Reads(d, message) ==
    \E key \in Given : key.to = d /\ key.session = message.session /\ key.from <= message.index

\* M9.1
NothingLost ==
    /\ \A d \in Shared : [to |-> d, session |-> store.session.number, from |-> store.session.shared[d]] \in Given
    /\ \A key \in Given : store.session # Nothing /\ key.session <= store.session.number
    /\ \A i \in DOMAIN messages : \A d \in messages[i].to : Reads(d, messages[i])

\* M9.4, M9.7
LeftCantRead ==
    \A i \in DOMAIN messages : \A d \in Devices \ messages[i].to : ~Reads(d, messages[i])
===============================================================================
