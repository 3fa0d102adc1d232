-------------------------------- MODULE Gossip --------------------------------
(* The devices of one person request secrets and room keys from each other.  *)
(* Other devices send us requests and cancellations, and we send them ours.  *)
(* Each process of our device may receive and send messages. An attacker may *)
(* add devices to the person's device list, which send requests and answers  *)
(* too. The machine promises to the person:                                  *)
(*                                                                           *)
(*   NothingGivenAway   no request of an attacker's device is answered, nor  *)
(*                      one of a device that the person has blocked          *)
(*   NothingUnasked     an answer is taken only from a device of the person  *)
(*                      that is not blocked, and only for an open request of *)
(*                      ours                                                 *)
(*   ExactlyOnce        no request is answered twice, by us or to us         *)
(*   NoneAfterCancel    no request is answered that we know to be cancelled  *)
(*   NothingLost        a request that we have received waits, or is         *)
(*                      cancelled, or its answer is sent or in the outbox;   *)
(*                      and a request of ours that another device holds is   *)
(*                      open, or its cancellation is on its way              *)
(*   EverythingArrives  each request comes to an end, on both sides: ours,   *)
(*                      and those of devices that we have verified (see      *)
(*                      Fairness)                                            *)
(*                                                                           *)
(* The store is AtomicStore: an operation is one step, and each action below *)
(* that changes the store is one operation. The only other state of a        *)
(* process is the request or the response that it holds, flight[p]. A crash, *)
(* an invalidation, and a lost request or response are the same step,        *)
(* Lose(p). A suspended process takes no step.                               *)
(*                                                                           *)
(* A request of another device is a record until it is answered. It waits    *)
(* until there is an Olm session with the device, and until the person has   *)
(* verified the device. The commit that deletes the record stores the        *)
(* answer. A request that was answered or cancelled is recognised when it    *)
(* comes again. A request of ours is a record until it is answered or        *)
(* cancelled. It is sent to each verified device, now or later, and the      *)
(* record lists these devices. Each of them that has not answered gets a     *)
(* cancellation. The person verifies only their own devices (Verification),  *)
(* and may block a lost device, which an attacker may then have.             *)
(*                                                                           *)
(* Left out: the requested keys themselves (we have what others request);    *)
(* whether a secret belongs to its public key; broken sessions (Sessions);   *)
(* and how messages arrive (Inbox).                                          *)
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS
    Processes,   \* the programs that share the store
    Nothing,     \* instead of a message, a request or a response: there is none
    Own,         \* the person's other devices
    Planted,     \* devices of an attacker on the person's list
    Requests,    \* the requests of others: records of the device (by) and a number
    MaxAsks,     \* bound: our own requests
    MaxUnasked,  \* bound: answers without a request
    MaxRepeated, \* bound: messages that the server sends again
    MaxBlocked,  \* bound: blocked devices
    Fault        \* "none", or the slug of the one rule that is broken

Broken(slug) == Fault = slug

\* The faults that split one operation into two.
TwoCommits == Broken("secret-sent-twice") \/ Broken("waiting-in-memory")

Devices == Own \cup Planted

ASSUME /\ Cardinality(Processes) >= 2 /\ Own \cap Planted = {}
       /\ \A r \in Requests : r.by \in Devices

VARIABLES
    peers,   \* the other devices
    server,  \* messages that are on their way to us, and messages of ours that were delivered
    store,   \* the records
    flight,  \* by process: the request or the response that it holds
    given,   \* by request of others: how often we have answered it
    taken    \* the answers that we have taken, oldest first

vars == <<peers, server, store, flight, given, taken>>

\* peers   asked      the requests that they have sent
\*         cancelled  the requests that they have cancelled
\*         answered   the requests whose answer has arrived
\*         holds      our requests that a device has received and not answered
\*         unasked    how many answers without a request were sent
\* server  toUs       the messages that we have not received yet, oldest first
\*         repeated   how many messages were sent to us again
\*         delivered  our messages that have arrived, so the server recognises repetitions
\* store   verified   the devices that the person has verified
\*         blocked    the devices that the person has blocked
\*         sessions   the devices with which there is an Olm session
\*         waiting    requests of others that are not answered yet
\*         answered   requests of others that were answered or cancelled
\*         asked      our open request, if any: its number, and the devices it was sent to
\*         asks       the number of our last request
\*         outbox     the messages that are to be sent
Init ==
    /\ peers = [asked |-> {}, cancelled |-> {}, answered |-> {}, holds |-> {}, unasked |-> 0]
    /\ server = [toUs |-> <<>>, delivered |-> {}, repeated |-> 0]
    /\ store = [verified |-> {}, blocked |-> {}, sessions |-> {}, waiting |-> {}, answered |-> {},
                asked |-> {}, asks |-> 0, outbox |-> {}]
    /\ flight = [p \in Processes |-> Nothing]
    /\ given = [r \in Requests |-> 0]
    /\ taken = <<>>

InFlight(p, stage) == flight[p] # Nothing /\ flight[p].stage = stage

Request(r) == [type |-> "request", request |-> r]
Cancellation(r) == [type |-> "cancellation", request |-> r]
Answer(number, from) == [type |-> "answer", number |-> number, from |-> from]

\* All messages that we may send.
Messages ==
    [type : {"answer"}, request : Requests] \cup [type : {"ask", "over"}, number : 1..MaxAsks, to : SUBSET Own \ {{}}]

\* The message that we receive next.
Oldest == IF server.toUs = <<>> THEN Nothing ELSE Head(server.toUs)

NextIs(type) == Oldest # Nothing /\ Oldest.type = type

Received == server' = [server EXCEPT !.toUs = SubSeq(@, 2, Len(@))]

ToUs(message) == server' = [server EXCEPT !.toUs = Append(@, message)]

-------------------------------------------------------------------------------
(* Requests of others.                                                       *)

\* A device sends a request, or the server delivers the request again, as it does on a
\* second connection.
PeerAsks(r) ==
    /\ r \notin peers.asked \/ server.repeated < MaxRepeated
    /\ peers' = [peers EXCEPT !.asked = @ \cup {r}]
    /\ server' = [server EXCEPT !.toUs = Append(@, Request(r)),
                                !.repeated = IF r \in peers.asked THEN @ + 1 ELSE @]
    /\ UNCHANGED <<store, flight, given, taken>>

PeerCancels(r) ==
    /\ r \in peers.asked
    /\ r \notin peers.cancelled
    /\ peers' = [peers EXCEPT !.cancelled = @ \cup {r}]
    /\ ToUs(Cancellation(r))
    /\ UNCHANGED <<store, flight, given, taken>>

\* The fault "waiting-in-memory": the request waits in the memory of a process.
\* M17.8, M17.9
ReceiveRequest(p) ==
    /\ NextIs("request")
    /\ Oldest.request \notin store.answered
    /\ LET r == Oldest.request
       IN  IF Broken("waiting-in-memory")
           THEN /\ flight' = [flight EXCEPT ![p] = [stage |-> "waiting", request |-> r]]
                /\ UNCHANGED store
           ELSE /\ store' = [store EXCEPT !.waiting = @ \cup {r}]
                /\ UNCHANGED flight
    /\ Received
    /\ UNCHANGED <<peers, given, taken>>

IgnoreRequest ==
    /\ NextIs("request")
    /\ Oldest.request \in store.answered
    /\ Received
    /\ UNCHANGED <<peers, store, flight, given, taken>>

\* M17.8, M17.9
ReceiveCancellation ==
    /\ NextIs("cancellation")
    /\ LET r == Oldest.request
       IN  store' = [store EXCEPT !.waiting = @ \ {r}, !.answered = @ \cup {r}]
    /\ Received
    /\ UNCHANGED <<peers, flight, given, taken>>

\* The person has verified a device (Verification).
VerifyDevice(d) ==
    /\ d \in Own \ (store.verified \cup store.blocked)
    /\ store' = [store EXCEPT !.verified = @ \cup {d}]
    /\ UNCHANGED <<peers, server, flight, given, taken>>

\* The person has lost a device.
\* M17.10
BlockDevice(d) ==
    /\ d \in store.verified
    /\ Cardinality(store.blocked) < MaxBlocked
    /\ store' = [store EXCEPT !.verified = @ \ {d}, !.blocked = @ \cup {d}]
    /\ UNCHANGED <<peers, server, flight, given, taken>>

\* A claim is answered, or the device begins a session (Sessions). The session only matters
\* for a device that has sent a request.
BeginSession(d) ==
    /\ \E r \in peers.asked : r.by = d
    /\ d \notin store.sessions
    /\ store' = [store EXCEPT !.sessions = @ \cup {d}]
    /\ UNCHANGED <<peers, server, flight, given, taken>>

\* M17.1
MayAnswer(r) == r.by \in store.sessions /\ (r.by \in store.verified \/ Broken("answered-unverified"))

Answered(r) ==
    /\ store' = [store EXCEPT !.waiting = @ \ {r}, !.answered = @ \cup {r},
                              !.outbox = @ \cup {[type |-> "answer", request |-> r]}]
    /\ given' = [given EXCEPT ![r] = @ + 1]

\* work_off: any process may answer a request that can now be answered.
\* M17.8
AnswerWaiting(r) ==
    /\ ~Broken("secret-sent-twice")
    /\ r \in store.waiting
    /\ MayAnswer(r)
    /\ Answered(r)
    /\ UNCHANGED <<peers, server, flight, taken>>

\* The fault "secret-sent-twice": a waiting request is read in one operation, and answered in
\* another one.
ReadWaiting(p, r) ==
    /\ Broken("secret-sent-twice")
    /\ flight[p] = Nothing
    /\ r \in store.waiting
    /\ flight' = [flight EXCEPT ![p] = [stage |-> "waiting", request |-> r]]
    /\ UNCHANGED <<peers, server, store, given, taken>>

\* In the faults that split the operation: a process answers the request that it holds.
AnswerFromMemory(p) ==
    /\ TwoCommits
    /\ InFlight(p, "waiting")
    /\ MayAnswer(flight[p].request)
    /\ Answered(flight[p].request)
    /\ flight' = [flight EXCEPT ![p] = Nothing]
    /\ UNCHANGED <<peers, server, taken>>

-------------------------------------------------------------------------------
(* Our own requests.                                                         *)

\* M17.2
Ask ==
    /\ store.asked = {}
    /\ store.asks < MaxAsks
    /\ store' = [store EXCEPT !.asks = @ + 1, !.asked = {[number |-> store.asks + 1, of |-> {}]}]
    /\ UNCHANGED <<peers, server, flight, given, taken>>

\* work_off: the request is sent to verified devices that have not got it yet.
\* M17.3
SendAsk ==
    /\ \E ask \in store.asked :
        LET added == store.verified \ ask.of
        IN  /\ added # {}
            /\ store' = [store EXCEPT
                    !.asked = {[ask EXCEPT !.of = @ \cup added]},
                    !.outbox = @ \cup {[type |-> "ask", number |-> ask.number, to |-> added]}]
    /\ UNCHANGED <<peers, server, flight, given, taken>>

Asking(number) == {message \in store.outbox : message.type = "ask" /\ message.number = number}

\* The store after a request of ours is over. Each device that the request was sent to gets a
\* cancellation, except the device that has answered.
\* M17.6
Over(ask, by) ==
    LET sent == IF Broken("cancelled-while-in-flight") THEN Asking(ask.number) ELSE {}
        recipients == ask.of \ (by \cup UNION {message.to : message \in sent})
    IN  [store EXCEPT !.asked = @ \ {ask},
                      !.outbox = (@ \ sent) \cup
                        (IF recipients = {} THEN {} ELSE {[type |-> "over", number |-> ask.number, to |-> recipients]})]

\* The person gives up, or the requested key has arrived in another way.
CancelAsk ==
    /\ \E ask \in store.asked : store' = Over(ask, {})
    /\ UNCHANGED <<peers, server, flight, given, taken>>

\* A device that holds our request answers it.
PeerAnswers(d, number) ==
    /\ \E hold \in peers.holds \cap {[number |-> number, device |-> d]} :
        /\ peers' = [peers EXCEPT !.holds = @ \ {hold}]
        /\ ToUs(Answer(number, d))
    /\ UNCHANGED <<store, flight, given, taken>>

\* An answer without a request: a device of the person makes a mistake, or a device of the
\* attacker or a blocked device uses the number of a request of ours, which it knows.
PeerSendsUnasked(d, number) ==
    /\ peers.unasked < MaxUnasked
    /\ number <= store.asks
    /\ d \in Own \ store.blocked => number = 0
    /\ peers' = [peers EXCEPT !.unasked = @ + 1]
    /\ ToUs(Answer(number, d))
    /\ UNCHANGED <<store, flight, given, taken>>

Asked(number) == {ask \in store.asked : ask.number = number}

\* Whether an answer comes from a device that our request was sent to and that is still
\* verified.
\* M17.4
FromAsked(answer) ==
    answer.from \in store.verified /\ \A ask \in Asked(answer.number) : answer.from \in ask.of

\* M17.6
ReceiveAnswer ==
    /\ NextIs("answer")
    /\ Asked(Oldest.number) # {} \/ Broken("answer-unasked")
    /\ FromAsked(Oldest) \/ Broken("answer-from-unverified")
    /\ LET answer == Oldest
           asked == Asked(answer.number)
       IN  /\ store' = IF asked = {} THEN store ELSE Over(CHOOSE ask \in asked : TRUE, {answer.from})
           /\ taken' = Append(taken, answer)
    /\ Received
    /\ UNCHANGED <<peers, flight, given>>

\* The answer is not to an open request, or it comes from a device that was not asked.
\* M17.4
IgnoreAnswer ==
    /\ NextIs("answer")
    /\ Asked(Oldest.number) = {} \/ ~FromAsked(Oldest)
    /\ Received
    /\ UNCHANGED <<peers, store, flight, given, taken>>

-------------------------------------------------------------------------------
\* outgoing_requests: each process lists the messages of the outbox in order, until they are
\* answered. (Only the order of a request and its cancellation matters.)
\* M17.7
OutgoingRequest(p, message) ==
    /\ flight[p] = Nothing
    /\ message \in store.outbox
    /\ message.type = "over" => Asking(message.number) = {}
    /\ flight' = [flight EXCEPT ![p] = [stage |-> "request", message |-> message]]
    /\ UNCHANGED <<peers, server, store, given, taken>>

\* The server receives a request, and answers. It delivers a repeated message only once.
Deliver(p) ==
    /\ InFlight(p, "request")
    /\ LET message == flight[p].message
           holds == IF message.type = "answer" THEN {} ELSE {[number |-> message.number, device |-> d] : d \in message.to}
       IN  /\ peers' = CASE message \in server.delivered -> peers
                         [] message \notin server.delivered /\ message.type = "answer" ->
                                [peers EXCEPT !.answered = @ \cup {message.request}]
                         [] message \notin server.delivered /\ message.type = "ask" ->
                                [peers EXCEPT !.holds = @ \cup holds]
                         [] OTHER -> [peers EXCEPT !.holds = @ \ holds]
           /\ server' = [server EXCEPT !.delivered = @ \cup {message}]
    /\ flight' = [flight EXCEPT ![p].stage = "answered"]
    /\ UNCHANGED <<store, given, taken>>

\* mark_sent. If the other process has sent the request as well, the second answer changes
\* nothing.
MarkSent(p) ==
    /\ InFlight(p, "answered")
    /\ store' = [store EXCEPT !.outbox = @ \ {flight[p].message}]
    /\ flight' = [flight EXCEPT ![p] = Nothing]
    /\ UNCHANGED <<peers, server, given, taken>>

Lose(p) ==
    /\ flight[p] # Nothing
    /\ flight' = [flight EXCEPT ![p] = Nothing]
    /\ UNCHANGED <<peers, server, store, given, taken>>

Receive ==
    \/ \E p \in Processes : ReceiveRequest(p)
    \/ IgnoreRequest \/ ReceiveCancellation \/ ReceiveAnswer \/ IgnoreAnswer

Next ==
    \/ \E r \in Requests : PeerAsks(r) \/ PeerCancels(r) \/ AnswerWaiting(r)
    \/ \E d \in Devices : VerifyDevice(d) \/ BlockDevice(d) \/ BeginSession(d)
    \/ IgnoreRequest \/ ReceiveCancellation \/ ReceiveAnswer \/ IgnoreAnswer
    \/ Ask \/ SendAsk \/ CancelAsk
    \/ \E d \in Devices, number \in 0..MaxAsks : PeerAnswers(d, number) \/ PeerSendsUnasked(d, number)
    \/ \E p \in Processes :
        \/ ReceiveRequest(p) \/ AnswerFromMemory(p) \/ Deliver(p) \/ MarkSent(p) \/ Lose(p)
        \/ \E r \in Requests : ReadWaiting(p, r)
        \/ \E message \in Messages : OutgoingRequest(p, message)

(* Fairness, in words. It is enough that some process is not suspended.      *)
(* Syncs happen, and their messages are processed. There is eventually a     *)
(* session with each device, and each request that can be answered is        *)
(* answered. Our request is sent to each verified device, and some device    *)
(* that receives it eventually answers. If requests with a message can be    *)
(* made again and again, one is made. If such requests reach the server      *)
(* again and again, one is answered. A process does not keep an answer for   *)
(* ever. Without any one of these assumptions a request may wait for ever:   *)
(* `python -m checking conditions Gossip!Fairness`.                          *)
Fairness ==
    /\ WF_vars(Receive)
    /\ WF_vars(\E d \in Devices : BeginSession(d))
    /\ WF_vars(\E r \in Requests : AnswerWaiting(r))
    /\ WF_vars(SendAsk)
    /\ WF_vars(\E d \in Own, number \in 1..MaxAsks : PeerAnswers(d, number))
    /\ WF_vars(\E p \in Processes : MarkSent(p))
    /\ \A message \in Messages :
        /\ SF_vars(\E p \in Processes : OutgoingRequest(p, message))
        /\ SF_vars(\E p \in Processes : InFlight(p, "request") /\ flight[p].message = message /\ Deliver(p))

Spec == Init /\ [][Next]_vars
FairSpec == Spec /\ Fairness

-------------------------------------------------------------------------------
TypeOK ==
    /\ peers.asked \subseteq Requests /\ peers.cancelled \subseteq peers.asked /\ peers.answered \subseteq Requests
    /\ peers.holds \subseteq [number : 1..MaxAsks, device : Own] /\ peers.unasked \in 0..MaxUnasked
    /\ server.delivered \subseteq Messages
    /\ store.verified \subseteq Own /\ store.blocked \subseteq Own /\ store.sessions \subseteq Devices
    /\ store.waiting \subseteq peers.asked /\ store.answered \subseteq peers.asked
    /\ store.asked \subseteq [number : 1..MaxAsks, of : SUBSET Own] /\ Cardinality(store.asked) <= 1
    /\ store.asks \in 0..MaxAsks
    /\ store.outbox \subseteq Messages
    /\ \A p \in Processes : flight[p] = Nothing \/ flight[p].stage \in {"request", "answered", "waiting"}

\* The devices that the person owns and has not blocked.
InOwnHands == Own \ store.blocked

\* M17.1
NothingGivenAway == [][\A r \in Requests : given'[r] > given[r] => r.by \in InOwnHands]_vars

\* M17.4
NothingUnasked ==
    [][taken' # taken => LET answer == taken'[Len(taken')]
                         IN  answer.from \in InOwnHands /\ Asked(answer.number) # {}]_vars

\* M17.8, M17.9
ExactlyOnce ==
    /\ \A r \in Requests : given[r] <= 1
    /\ \A i, j \in DOMAIN taken : taken[i].number = taken[j].number => i = j

OnItsWay(message) == \E i \in DOMAIN server.toUs : server.toUs[i] = message

KnownToBeCancelled(r) == r \in peers.cancelled /\ ~OnItsWay(Cancellation(r))

NoneAfterCancel == [][\A r \in Requests : given'[r] > given[r] => ~KnownToBeCancelled(r)]_vars

NothingLost ==
    /\ \A r \in peers.asked : \/ OnItsWay(Request(r))
                              \/ r \in store.waiting
                              \/ KnownToBeCancelled(r)
                              \/ [type |-> "answer", request |-> r] \in store.outbox \cup server.delivered
    /\ \A hold \in peers.holds :
        \/ Asked(hold.number) # {}
        \/ \E message \in store.outbox :
            message.type = "over" /\ message.number = hold.number /\ hold.device \in message.to

\* (The bounds limit the number of requests. If no device is verified, none gets our request.)
EverythingArrives ==
    <>[](/\ store.asked = {} \/ store.verified = {}
         /\ \A r \in peers.asked : r.by \in store.verified => r \in peers.answered \/ KnownToBeCancelled(r))
===============================================================================
