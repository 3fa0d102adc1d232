------------------------------- MODULE Sessions -------------------------------
(* How a wedged session is replaced. The Olm session with another device may *)
(* break, for example because that device's copy was restored to an older    *)
(* state. A message of that device that can't be decrypted shows this. Then  *)
(* our device claims a one-time key, makes a new session with it, and sends  *)
(* m.dummy over that session, so that the other device uses it too. It sends *)
(* the room key again, and the room keys before it. The machine promises to  *)
(* the other device, and to the people in the room:                          *)
(*                                                                           *)
(*   EverythingArrives  each room key that was shared with the device        *)
(*                      eventually arrives in a message that it can decrypt; *)
(*                      and both ends eventually replace a broken session    *)
(*   KeysBounded        at most one key of the device is claimed in an hour, *)
(*                      even if many messages can't be decrypted, in several *)
(*                      processes                                            *)
(*   ExactlyOnce        each mark is settled by one new session              *)
(*                                                                           *)
(* EverythingArrives needs fairness, and a session that breaks only a finite *)
(* number of times. A break is noticed only by a message. An hour stands for *)
(* the pause between two attempts.                                           *)
(*                                                                           *)
(* The store is AtomicStore: an operation is one step, and each action below *)
(* that changes the store is one operation. The only other state of a        *)
(* process is the request or the response that it holds, flight[p]. A crash, *)
(* an invalidation, and a lost request or response are the same step,        *)
(* Lose(p). A suspended process takes no step.                               *)
(*                                                                           *)
(* A session is identified by its generation. The first session has the      *)
(* generation 1. Left out: how the first session is made, how sync responses *)
(* are applied (Inbox), and which devices get room keys (Sharing).           *)
EXTENDS Naturals, FiniteSets

CONSTANTS
    Processes,     \* the programs that share the store
    Nothing,       \* in flight: nothing
    MaxKeys,       \* bound: room keys, one after the other
    MaxBreaks,     \* bound: how often a session breaks
    MaxMessages,   \* bound: messages that the device sends over a broken session
    Fault          \* "none", or the slug of the one rule that is broken

Broken(slug) == Fault = slug

ASSUME Cardinality(Processes) >= 2 /\ MaxKeys >= 1 /\ MaxBreaks >= 1 /\ MaxMessages >= MaxBreaks

VARIABLES
    peer,    \* the other device
    server,  \* its messages that wait for us, and how many it has sent
    store,   \* the records
    flight,  \* by process: the request or the response that it holds
    claims   \* how many claims were handed out in this hour

vars == <<peer, server, store, flight, claims>>

\* peer    generation    the generation of the session over which it sends
\*         broken        the sessions whose two ends do not agree any more
\*         roomKeys      the numbers of the room keys that it has received
\* server  unread        the numbers of messages that we can't decrypt and have not processed
\*         sent          the number of the last message
\* store   generation    the generation of the session over which we send
\*         key           the number of the current room key
\*         shared        by room key: the generation over which it was sent; 0: not yet
\*         unwedge       the mark's number; 0: there is none
\*         marks         the number of the last mark that was made
\*         triedLately   whether a claim was handed out less than an hour ago
\*         outbox        messages that are to be sent, each by its type, its generation and its room key
Init ==
    /\ peer = [generation |-> 1, broken |-> {}, roomKeys |-> {}]
    /\ server = [unread |-> {}, sent |-> 0]
    /\ store = [generation |-> 1, key |-> 1, shared |-> 0, unwedge |-> 0, marks |-> 0, triedLately |-> FALSE, outbox |-> {}]
    /\ flight = [p \in Processes |-> Nothing]
    /\ claims = 0

InFlight(p, stage) == flight[p] # Nothing /\ flight[p].stage = stage

Dummy(generation) == [type |-> "m.dummy", generation |-> generation, key |-> 0]

RoomKey(generation, key) == [type |-> "m.room_key", generation |-> generation, key |-> key]

\* A message over our newest session: a room key, or m.dummy if `key` is 0.
Newest(key) == IF key = 0 THEN Dummy(store.generation) ELSE RoomKey(store.generation, key)

-------------------------------------------------------------------------------
\* The two ends of the device's current session do not agree any more. The next message of
\* the device shows it.
Break ==
    /\ Cardinality(peer.broken) < MaxBreaks
    /\ peer.generation \notin peer.broken
    /\ server.sent < MaxMessages
    /\ peer' = [peer EXCEPT !.broken = @ \cup {peer.generation}]
    /\ server' = [unread |-> server.unread \cup {server.sent + 1}, sent |-> server.sent + 1]
    /\ UNCHANGED <<store, flight, claims>>

\* The device sends another message over the broken session.
PeerSends ==
    /\ peer.generation \in peer.broken
    /\ server.sent < MaxMessages
    /\ server' = [unread |-> server.unread \cup {server.sent + 1}, sent |-> server.sent + 1]
    /\ UNCHANGED <<peer, store, flight, claims>>

\* receive_sync_changes, with a message that can't be decrypted: a mark is stored together
\* with the token. If there is a mark already, it stays.
\* M8.1
ReceiveSync(p) ==
    /\ \E message \in server.unread : server' = [server EXCEPT !.unread = @ \ {message}]
    /\ IF Broken("wedged-mark-in-memory")
       THEN /\ flight' = [flight EXCEPT ![p] = [stage |-> "mark"]]
            /\ UNCHANGED store
       ELSE /\ store' = IF store.unwedge = 0
                        THEN [store EXCEPT !.marks = @ + 1, !.unwedge = store.marks + 1] ELSE store
            /\ UNCHANGED flight
    /\ UNCHANGED <<peer, claims>>

\* outgoing_requests hands out a claim to one process, and notes this in the same commit. The
\* request has the number of the mark. Earlier claims for the same mark become outdated. (The
\* code gives each claim a number of its own. Here the number of an outdated claim becomes 0,
\* since numbers must not grow for ever.)
\* M8.3
HandOutClaim(p) ==
    /\ IF Broken("wedged-mark-in-memory") THEN InFlight(p, "mark") ELSE flight[p] = Nothing /\ store.unwedge > 0
    /\ ~store.triedLately
    /\ store' = [store EXCEPT !.triedLately = ~Broken("unwedge-races-itself"),
                              !.marks = IF Broken("wedged-mark-in-memory") THEN @ + 1 ELSE @,
                              !.unwedge = IF Broken("wedged-mark-in-memory") THEN store.marks + 1 ELSE @]
    /\ claims' = claims + 1
    /\ flight' = [q \in Processes |->
                    CASE q = p -> [stage |-> "claim", mark |-> store'.unwedge]
                      [] q # p /\ (InFlight(q, "claim") \/ InFlight(q, "claimed")) -> [flight[q] EXCEPT !.mark = 0]
                      [] OTHER -> flight[q]]
    /\ UNCHANGED <<peer, server>>

\* The server hands out a key of the device. The key is used up, even if the answer is lost.
AnswerClaim(p) ==
    /\ InFlight(p, "claim")
    /\ flight' = [flight EXCEPT ![p].stage = "claimed"]
    /\ UNCHANGED <<peer, server, store, claims>>

\* mark_sent, of a claim whose mark exists: one commit stores the new session and m.dummy, and
\* deletes the mark. Room keys that were sent over an older session do not count as sent.
\* M8.5, M8.10, M8.11
TakeClaimAnswer(p) ==
    /\ InFlight(p, "claimed")
    /\ store.unwedge > 0
    /\ flight[p].mark = store.unwedge
    /\ store' = [store EXCEPT !.generation = @ + 1,
                              !.shared = IF Broken("shared-set-survives-unwedging") THEN @ ELSE 0,
                              !.unwedge = 0,
                              !.triedLately = TRUE,
                              !.outbox = @ \cup {Dummy(store.generation + 1)}]
    /\ flight' = [flight EXCEPT ![p] = Nothing]
    /\ UNCHANGED <<peer, server, claims>>

\* mark_sent, of an outdated claim: a later claim was handed out for the mark, or has settled
\* it. The claimed key is not used.
\* M8.5
IgnoreClaim(p) ==
    /\ InFlight(p, "claimed")
    /\ store.unwedge = 0 \/ flight[p].mark # store.unwedge
    /\ flight' = [flight EXCEPT ![p] = Nothing]
    /\ UNCHANGED <<peer, server, store, claims>>

\* share_room_key: the room keys that were not sent to the device over this session.
\* M8.11
ShareRoomKey(p) ==
    /\ store.shared = 0
    /\ LET earlier == IF Broken("earlier-keys-not-resent") THEN {} ELSE 1..(store.key - 1)
       IN  store' = [store EXCEPT !.shared = store.generation,
                                  !.outbox = @ \cup {Newest(key) : key \in earlier \cup {store.key}}]
    /\ UNCHANGED <<peer, server, flight, claims>>

\* share_room_key, when the room key must be replaced: the new one is sent as well.
ReplaceRoomKey(p) ==
    /\ store.key < MaxKeys
    /\ store.shared # 0
    /\ store' = [store EXCEPT !.key = @ + 1, !.outbox = @ \cup {Newest(store.key + 1)}]
    /\ UNCHANGED <<peer, server, flight, claims>>

\* outgoing_requests: each process lists the messages of the outbox, until they are answered.
OutgoingRequest(p, message) ==
    /\ flight[p] = Nothing
    /\ flight' = [flight EXCEPT ![p] = [stage |-> "request", message |-> message]]
    /\ UNCHANGED <<peer, server, store, claims>>

\* A message arrives. The device can decrypt it if the two ends agree. From then on it sends
\* over the message's session, if that is newer.
Deliver(p) ==
    /\ InFlight(p, "request")
    /\ LET message == flight[p].message
       IN  peer' = IF message.generation \in peer.broken THEN peer
                   ELSE [peer EXCEPT !.generation = IF message.generation > @ THEN message.generation ELSE @,
                                     !.roomKeys = @ \cup ({message.key} \ {0})]
    /\ flight' = [flight EXCEPT ![p].stage = "answered"]
    /\ UNCHANGED <<server, store, claims>>

\* mark_sent, of a message: it leaves the outbox.
MarkSent(p) ==
    /\ InFlight(p, "answered")
    /\ store' = [store EXCEPT !.outbox = @ \ {flight[p].message}]
    /\ flight' = [flight EXCEPT ![p] = Nothing]
    /\ UNCHANGED <<peer, server, claims>>

\* An hour has passed since the last claim was handed out.
\* M8.4
HourPasses ==
    /\ store.triedLately
    /\ store' = [store EXCEPT !.triedLately = FALSE]
    /\ claims' = 0
    /\ UNCHANGED <<peer, server, flight>>

Lose(p) ==
    /\ flight[p] # Nothing
    /\ flight' = [flight EXCEPT ![p] = Nothing]
    /\ UNCHANGED <<peer, server, store, claims>>

Next ==
    \/ Break
    \/ PeerSends
    \/ HourPasses
    \/ \E p \in Processes :
        \/ ReceiveSync(p) \/ HandOutClaim(p) \/ AnswerClaim(p) \/ TakeClaimAnswer(p) \/ IgnoreClaim(p)
        \/ ShareRoomKey(p) \/ ReplaceRoomKey(p) \/ Deliver(p) \/ MarkSent(p) \/ Lose(p)
        \/ \E message \in store.outbox : OutgoingRequest(p, message)

(* Fairness, in words. It is enough that some process is not suspended.      *)
(* Syncs happen, hours pass, and the application shares its room key. A      *)
(* claim that can be handed out again and again is handed out. If the newest *)
(* claims reach the server again and again, or requests with one message do, *)
(* one is answered. If such answers to claims arrive again and again, one is *)
(* handed in. (So the network may lose many requests and responses, but not  *)
(* all.) A process does not keep an answer for ever. Without any one of      *)
(* these assumptions a room key may never arrive, or a session stays broken: *)
(* `python -m checking conditions Sessions!Fairness`.                        *)
Fairness ==
    /\ WF_vars(HourPasses)
    /\ WF_vars(\E p \in Processes : ReceiveSync(p))
    /\ WF_vars(\E p \in Processes : ShareRoomKey(p))
    /\ SF_vars(\E p \in Processes : HandOutClaim(p))
    /\ SF_vars(\E p \in Processes : InFlight(p, "claim") /\ flight[p].mark = store.unwedge /\ AnswerClaim(p))
    /\ SF_vars(\E p \in Processes : TakeClaimAnswer(p))
    /\ WF_vars(\E p \in Processes : MarkSent(p))
    /\ WF_vars(\E p \in Processes : Deliver(p))
    /\ \A key \in 0..MaxKeys :
        /\ SF_vars(\E p \in Processes : Newest(key) \in store.outbox /\ OutgoingRequest(p, Newest(key)))
        /\ SF_vars(\E p \in Processes : InFlight(p, "request") /\ flight[p].message = Newest(key) /\ Deliver(p))

Spec == Init /\ [][Next]_vars
FairSpec == Spec /\ Fairness

-------------------------------------------------------------------------------
TypeOK ==
    /\ peer.generation \in 1..store.generation /\ peer.broken \subseteq 1..peer.generation
    /\ server.unread \subseteq 1..server.sent /\ server.sent \in 0..MaxMessages
    /\ store.generation \in 1..(MaxMessages + 1) /\ store.shared \in 0..store.generation
    /\ store.unwedge \in {0, store.marks} /\ store.marks \in 0..MaxMessages
    /\ store.key \in 1..MaxKeys /\ peer.roomKeys \subseteq 1..store.key
    /\ store.outbox \subseteq [type : {"m.dummy", "m.room_key"}, generation : 1..store.generation, key : 0..store.key]
    /\ \A p \in Processes :
        flight[p] = Nothing \/ flight[p].stage \in {"mark", "claim", "claimed", "request", "answered"}

\* M8.4
KeysBounded == claims <= 1

ExactlyOnce == store.generation <= 1 + store.marks

\* (MaxBreaks limits how often the session breaks.)
EverythingArrives == <>[](peer.roomKeys = 1..store.key /\ peer.generation \notin peer.broken)
===============================================================================
