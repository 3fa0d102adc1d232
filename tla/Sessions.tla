------------------------------- MODULE Sessions -------------------------------
(* How a wedged session is replaced. The Olm session with one other device   *)
(* may break, for example because that device's copy was put back to an      *)
(* older state. A message of that device that can't be read shows this. Then *)
(* a one-time key of the device is claimed, a new session is made with it,   *)
(* m.dummy is sent over that, so that the other device uses it too, and the  *)
(* room key is sent again, and so are those that it replaced. The machine    *)
(* promises to the other device, and to the people in the room:              *)
(*                                                                           *)
(*   EverythingArrives  each room key that was shared with the device        *)
(*                      eventually arrives in a form that it can read; and a *)
(*                      broken session is eventually replaced, for both ends *)
(*   KeysBounded        at most one key of the device is claimed in an hour, *)
(*                      however many messages can't be read and whichever    *)
(*                      processes get them                                   *)
(*   ExactlyOnce        each mark is settled by one new session              *)
(*                                                                           *)
(* The first needs fairness, and a session that eventually stops breaking. A *)
(* break that no message shows is not noticed. An hour stands for the pause  *)
(* between two attempts.                                                     *)
(*                                                                           *)
(* The store is AtomicStore: an operation is one step, and each action below *)
(* that changes the store is one operation. A process is only a place where  *)
(* a request or a response waits, flight[p]. A crash, an invalidation, and a *)
(* request or a response that is lost are the same step, Lose(p). A process  *)
(* that is suspended takes no step.                                          *)
(*                                                                           *)
(* Sessions are told apart by their generation, 1 being that of the          *)
(* beginning. How a first session is made is left out, and so is how sync    *)
(* responses are taken (Inbox) and to whom keys are given (Sharing).         *)
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
    flight,  \* by process: the request or the response that it has in its hands
    claims   \* how many claims were handed out in this hour

vars == <<peer, server, store, flight, claims>>

\* peer    generation    of the session over which it sends
\*         broken        the sessions of which the two ends don't agree any more
\*         roomKeys      those that it has got, by number
\* server  unread        messages that we can't read, and have not processed, by number
\*         sent          the number of the last
\* store   generation    of the session over which we send
\*         key           the number of the room key
\*         shared        under which that was encrypted, and those before it; 0: not yet
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

\* What is to be sent over our newest session: a room key, or m.dummy, which has none.
Newest(key) == IF key = 0 THEN Dummy(store.generation) ELSE RoomKey(store.generation, key)

-------------------------------------------------------------------------------
\* The two ends of the session that the device uses don't agree any more, and the next
\* message of the device shows it.
Break ==
    /\ Cardinality(peer.broken) < MaxBreaks
    /\ peer.generation \notin peer.broken
    /\ server.sent < MaxMessages
    /\ peer' = [peer EXCEPT !.broken = @ \cup {peer.generation}]
    /\ server' = [unread |-> server.unread \cup {server.sent + 1}, sent |-> server.sent + 1]
    /\ UNCHANGED <<store, flight, claims>>

\* It sends another one, as it does not know yet.
PeerSends ==
    /\ peer.generation \in peer.broken
    /\ server.sent < MaxMessages
    /\ server' = [unread |-> server.unread \cup {server.sent + 1}, sent |-> server.sent + 1]
    /\ UNCHANGED <<peer, store, flight, claims>>

\* receive_sync_changes, with a message that can't be read: the mark is stored with the
\* token. If there is one already, it stays.
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

\* outgoing_requests hands a claim out to one process, and notes in the same commit that
\* it was handed out. The request carries the number of the mark, and puts those that were
\* handed out before it for the same mark out of date. (There the code gives each a number
\* of its own; here theirs becomes 0, as numbers must not grow for ever.)
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

\* The server gives a key of the device away: it is spent, whatever becomes of it.
AnswerClaim(p) ==
    /\ InFlight(p, "claim")
    /\ flight' = [flight EXCEPT ![p].stage = "claimed"]
    /\ UNCHANGED <<peer, server, store, claims>>

\* mark_sent, of a claim whose mark stands: the new session, m.dummy, and the end of the
\* mark in one commit. What was sent over an older session counts as sent no more.
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

\* mark_sent, of a claim that comes late: another one was handed out for its mark, or has
\* settled it. The key is of no use.
\* M8.5
IgnoreClaim(p) ==
    /\ InFlight(p, "claimed")
    /\ store.unwedge = 0 \/ flight[p].mark # store.unwedge
    /\ flight' = [flight EXCEPT ![p] = Nothing]
    /\ UNCHANGED <<peer, server, store, claims>>

\* share_room_key: where the device has not been given the key over this session; nor those
\* that it replaced.
\* M8.11
ShareRoomKey(p) ==
    /\ store.shared = 0
    /\ LET earlier == IF Broken("earlier-keys-not-resent") THEN {} ELSE 1..(store.key - 1)
       IN  store' = [store EXCEPT !.shared = store.generation,
                                  !.outbox = @ \cup {Newest(key) : key \in earlier \cup {store.key}}]
    /\ UNCHANGED <<peer, server, flight, claims>>

\* share_room_key, where the room key is to be replaced: the new one is given as well.
ReplaceRoomKey(p) ==
    /\ store.key < MaxKeys
    /\ store.shared # 0
    /\ store' = [store EXCEPT !.key = @ + 1, !.outbox = @ \cup {Newest(store.key + 1)}]
    /\ UNCHANGED <<peer, server, flight, claims>>

\* outgoing_requests: what is in the outbox is listed in each process until it is answered.
OutgoingRequest(p, message) ==
    /\ flight[p] = Nothing
    /\ flight' = [flight EXCEPT ![p] = [stage |-> "request", message |-> message]]
    /\ UNCHANGED <<peer, server, store, claims>>

\* The message arrives. The device reads it if the two ends agree, and sends over its
\* session from now on, if that is newer.
Deliver(p) ==
    /\ InFlight(p, "request")
    /\ LET message == flight[p].message
       IN  peer' = IF message.generation \in peer.broken THEN peer
                   ELSE [peer EXCEPT !.generation = IF message.generation > @ THEN message.generation ELSE @,
                                     !.roomKeys = @ \cup ({message.key} \ {0})]
    /\ flight' = [flight EXCEPT ![p].stage = "answered"]
    /\ UNCHANGED <<server, store, claims>>

\* mark_sent, of a message: it is done with.
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

(* Fairness, in words. It is enough that one process is awake, whichever.    *)
(* Syncs come, hours pass, and the application shares its room key. A claim  *)
(* that could be handed out again and again is handed out; if claims that    *)
(* are the newest, or requests with one message, reach the server again and  *)
(* again, one is answered; and if such answers to claims come again and      *)
(* again, one is handed in. (So the network may lose many, but not all.)     *)
(* What a process has an answer to it does not keep for ever. Without any of *)
(* these a key or a session waits for ever: `python -m checking conditions   *)
(* Sessions!Fairness`.                                                       *)
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

\* (The session breaks a few times at most.)
EverythingArrives == <>[](peer.roomKeys = 1..store.key /\ peer.generation \notin peer.broken)
===============================================================================
