------------------------------- MODULE Sharing -------------------------------
(* How a room message is sent: a group session is made, its key is shared    *)
(* with the devices of the room's members, and messages are encrypted with   *)
(* it, by any process of one device. Members join and leave meanwhile, and   *)
(* the processes learn that at different times. The machine promises to the  *)
(* application, and to the members of the room:                              *)
(*                                                                           *)
(*   NoRatchetReuse   no index of a group session is used for two messages,  *)
(*                    even if one of them never arrives                      *)
(*   NothingLost      a device that counts as having a key has it, or a      *)
(*                    record says that it is to be sent; a key that was      *)
(*                    shared is that of a session which is stored; and each  *)
(*                    member to whom a message was encrypted can read it     *)
(*   LeftCantRead     nobody else can: neither those who have left, nor      *)
(*                    those who came later, as far as the process that       *)
(*                    encrypted the message had learned of it                *)
(*                                                                           *)
(* The store is AtomicStore: an operation is one step, and each action below *)
(* that changes the store is one operation. A process is only a place where  *)
(* a request or a response waits, flight[p]. A crash, an invalidation, and a *)
(* request or a response that is lost are the same step, Lose(p). A process  *)
(* that is suspended takes no step.                                          *)
(*                                                                           *)
(* A device has one Olm session with us, which is never broken (Sessions is  *)
(* about those that are). Each member has one device. The store does not     *)
(* know who is in the room: the application says so with each call, and what *)
(* it says may be old. A session may be replaced at any time: why it is      *)
(* (its age, its messages, a setting) is no matter, except that it must not  *)
(* be used once it is known to somebody who has left.                        *)
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS
    Processes,    \* the programs that share the store
    Nothing,      \* in the place of a session, a request or a response: there is none
    Devices,      \* those of other people
    Memberships,  \* who is in the room, at first and after each change
    Batch,        \* so many devices are given a key in one commit at most
    MaxSessions,  \* bound: group sessions
    MaxMessages,  \* bound: room messages that are encrypted
    Fault         \* "none", or the slug of the one rule that is broken

Broken(slug) == Fault = slug

ASSUME /\ Cardinality(Processes) >= 2 /\ Batch >= 1
       /\ \A i \in DOMAIN Memberships : Memberships[i] \subseteq Devices
       /\ \E i \in DOMAIN Memberships : Cardinality(Memberships[i]) > Batch

VARIABLES
    knows,     \* by process: the last of Memberships that its application has learned of
    store,     \* the records
    flight,    \* by process: the request or the response that it has in its hands
    arrived,   \* the room keys that have arrived. The server knows a transaction id when
               \* it comes again, so that no key arrives twice
    messages   \* the room messages that left the machine, in order

vars == <<knows, store, flight, arrived, messages>>

\* session  the number of the group session, its next index, and with whom it is shared,
\*          from which index; or nothing
\* outbox   room keys that are to be sent: to whom, of which session, from which index.
\*          Together these stand for the transaction id
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
\* Somebody joined or left, and the application of a process learns of it. The other one
\* knows already, or learns it later.
LearnMembers(p) ==
    /\ knows[p] < Len(Memberships)
    /\ knows' = [knows EXCEPT ![p] = @ + 1]
    /\ UNCHANGED <<store, flight, arrived, messages>>

\* The first commit of share_room_key, where there is no session that may be used: it
\* makes a new one, which nobody knows.
Rotate(p) ==
    /\ LET number == IF store.session = Nothing THEN 1 ELSE store.session.number + 1
       IN  /\ number <= MaxSessions
           /\ store' = [store EXCEPT !.session = [number |-> number, index |-> 0, shared |-> <<>>]]
    /\ UNCHANGED <<knows, flight, arrived, messages>>

\* share_room_key, with the members whom the application knows: some of them in each commit.
\* To whom the key is given, and what is to be sent, is stored together.
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
                      /\ \E key \in keys : flight' = [flight EXCEPT ![p] = [stage |-> "request", key |-> key]]
                 [] Broken("shared-then-invalidated") ->
                      \* the session is in the cache, to be saved when it is used
                      /\ store' = [session |-> Nothing, outbox |-> store.outbox \cup keys]
                      /\ UNCHANGED flight
                 [] OTHER ->
                      /\ store' = [session |-> [store.session EXCEPT !.shared = shared], outbox |-> store.outbox \cup keys]
                      /\ UNCHANGED flight
    /\ UNCHANGED <<knows, arrived, messages>>

\* encrypt_room_event. The same operation looks whether the session is shared with the
\* members whom the application knows, and with nobody else. The index is stored before the
\* message leaves.
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

\* The fault "send-before-persist": the index is stored after the message has left.
SaveIndex(p) ==
    /\ Broken("send-before-persist")
    /\ InFlight(p, "unsaved")
    /\ store' = [store EXCEPT !.session.index = flight[p].index]
    /\ flight' = [flight EXCEPT ![p] = Nothing]
    /\ UNCHANGED <<knows, arrived, messages>>

\* outgoing_requests: what is in the outbox is listed in each process until it is answered.
OutgoingRequest(p, key) ==
    /\ flight[p] = Nothing
    /\ flight' = [flight EXCEPT ![p] = [stage |-> "request", key |-> key]]
    /\ UNCHANGED <<knows, store, arrived, messages>>

\* The server has a request, and answers.
Deliver(p) ==
    /\ InFlight(p, "request")
    /\ arrived' = arrived \cup {flight[p].key}
    /\ flight' = [flight EXCEPT ![p].stage = "answered"]
    /\ UNCHANGED <<knows, store, messages>>

\* mark_sent. That of a request which the other process has sent as well finds nothing.
MarkSent(p) ==
    /\ InFlight(p, "answered")
    /\ store' = [store EXCEPT !.outbox = @ \ {flight[p].key}]
    /\ flight' = [flight EXCEPT ![p] = Nothing]
    /\ UNCHANGED <<knows, arrived, messages>>

Lose(p) ==
    /\ flight[p] # Nothing
    /\ flight' = [flight EXCEPT ![p] = Nothing]
    /\ UNCHANGED <<knows, store, arrived, messages>>

Next ==
    \/ \E p \in Processes :
        \/ LearnMembers(p) \/ Rotate(p) \/ ShareRoomKey(p) \/ Encrypt(p) \/ SaveIndex(p)
        \/ \E key \in store.outbox : OutgoingRequest(p, key)
        \/ Deliver(p) \/ MarkSent(p) \/ Lose(p)

Spec == Init /\ [][Next]_vars

-------------------------------------------------------------------------------
Keys == [to : Devices, session : 1..MaxSessions, from : 0..MaxMessages]

TypeOK ==
    /\ \A p \in Processes : knows[p] \in DOMAIN Memberships
    /\ store.session # Nothing => store.session.number \in 1..MaxSessions /\ store.session.index \in 0..MaxMessages
    /\ Shared \subseteq Devices /\ store.outbox \subseteq Keys /\ arrived \subseteq Keys
    /\ \A p \in Processes : flight[p] = Nothing \/ flight[p].stage \in {"request", "answered", "unsaved"}

\* M10.2
NoRatchetReuse ==
    \A i, j \in DOMAIN messages :
        (messages[i].session = messages[j].session /\ messages[i].index = messages[j].index) => i = j

\* The keys that somebody has, or gets some day.
Given == arrived \cup store.outbox

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
