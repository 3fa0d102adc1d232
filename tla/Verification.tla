----------------------------- MODULE Verification -----------------------------
(* Two people compare emoji (SAS), and then their devices trust each other.  *)
(* Our device has several processes on one store. Any of them may receive a  *)
(* message, show the emoji, take the person's answer, or send a message. The *)
(* machine promises to the person, and to the peer:                          *)
(*                                                                           *)
(*   TrustOnlyIfConfirmed  the peer's identity is trusted only if both       *)
(*                         people confirmed that their emoji are equal, and  *)
(*                         only if it is the real one, not an attacker's     *)
(*   DoneIsTrusted         the result of a successful flow is stored         *)
(*   ExactlyOnce           no message of a flow is made twice, even if       *)
(*                         several processes take its steps                  *)
(*   SurvivesInvalidation  the peer does not wait for ever: while its flow   *)
(*                         continues, ours can continue too, or a message    *)
(*                         that ends the peer's flow is on its way           *)
(*   EverythingArrives     each flow ends, with trust on both sides unless a *)
(*                         person cancels it (see Fairness)                  *)
(*                                                                           *)
(* The store is AtomicStore: an operation is one step, and each action below *)
(* that changes the store is one operation. The only other state of a        *)
(* process is the request or the response that it holds, flight[p]. A crash, *)
(* an invalidation, and a lost request or response are the same step,        *)
(* Lose(p). A suspended process takes no step. The flow and its ephemeral    *)
(* secret are records. The commit of a step stores the messages of the step, *)
(* which are sent in order.                                                  *)
(*                                                                           *)
(* One side starts, and the other accepts. The side that accepts commits to  *)
(* its ephemeral key and to the start message. Then the side that started    *)
(* reveals its key, and then the other side does. If both start at once, the *)
(* same one of the two starts counts for both. The emoji follow from the two *)
(* keys, and so does a secret for a MAC of each side's identity key. A side  *)
(* sends its MAC after its person has confirmed.                             *)
(*                                                                           *)
(* An attacker may control the homeserver (Attack). Then the identity key    *)
(* that we know as the peer's may be a fake, and messages to us may be       *)
(* forged or withheld. The attacker can make a MAC under each secret that it *)
(* knows, which is a secret of one of its own ephemeral keys. It can search  *)
(* for an ephemeral key that gives the emoji it wants ("chosen"), but only   *)
(* after it has seen our key; the commitment prevents this. The emoji are    *)
(* never equal by chance. The peer checks as we do, so the model does not    *)
(* attack the peer.                                                          *)
(*                                                                           *)
(* Left out: how a flow is requested and accepted; the message "done", by    *)
(* which a side learns that the other side has finished; the signatures that *)
(* follow; QR codes; and how messages arrive (Inbox). A repeated message is  *)
(* received once.                                                            *)
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS
    Processes,   \* the programs that share the store
    Nothing,     \* instead of a key, a message, a request or a response: there is none
    Attack,      \* whether an attacker controls the homeserver
    MaxForged,   \* bound: messages that the attacker makes
    MaxCancels,  \* bound: how often a person cancels
    Fault        \* "none", or the slug of the one rule that is broken

Broken(slug) == Fault = slug

ASSUME Cardinality(Processes) >= 1 /\ Attack \in BOOLEAN /\ (~Attack => MaxForged = 0)

VARIABLES
    setting,  \* facts that never change
    peer,     \* the peer's flow
    server,   \* the messages on their way
    store,    \* the records
    flight,   \* by process: the request or the response that it holds
    people    \* the people who have confirmed ("ours", "peers"), and how often one cancelled

vars == <<setting, peer, server, store, flight, people>>

-------------------------------------------------------------------------------
\* setting  first       whether our start counts if both start at once
\*          identity    the identity key that we know as the peer's
\* peer, and store.flow, are flows:
\*          phase       "ready", "started", "accepted", "exchanged" (both keys are known, and
\*                      the emoji are shown), "confirmed" (by the person); at the end "done"
\*                      or "cancelled"
\*          role        "starter" or "accepter"
\*          commitment  the key to which the accepter has committed; "other" if it has accepted
\*                      another start than this one
\*          key         the other side's ephemeral key
\*          mac         the other side's MAC, if it came before the person confirmed
\* store    trusted     whether the identity key that we know is trusted
\*          outbox      the messages that are to be sent, oldest first
\*          sent        how many messages were sent
\* server   delivered   how many of our messages have reached the server. It recognises
\*                      repetitions
\*          toPeer      the messages that the peer has not received yet, oldest first
\*          toUs        the messages that we have not received yet
\*          forged      how many messages the attacker has made
NewFlow ==
    [phase |-> "ready", role |-> "accepter", commitment |-> Nothing, key |-> Nothing, mac |-> Nothing]

Init ==
    /\ setting \in [first : BOOLEAN, identity : IF Attack THEN {"genuine", "fake"} ELSE {"genuine"}]
    /\ peer = NewFlow
    /\ server = [delivered |-> 0, toPeer |-> <<>>, toUs |-> <<>>, forged |-> 0]
    /\ store = [flow |-> NewFlow, trusted |-> FALSE, outbox |-> <<>>, sent |-> 0]
    /\ flight = [p \in Processes |-> Nothing]
    /\ people = [confirmed |-> {}, cancels |-> 0]

Oldest(queue) == IF queue = <<>> THEN Nothing ELSE Head(queue)
Rest(queue) == SubSeq(queue, 2, Len(queue))

InFlight(p, stage) == flight[p] # Nothing /\ flight[p].stage = stage

Start(by) == [type |-> "start", by |-> by]
Accept(commitment) == [type |-> "accept", commitment |-> commitment]
Key(key) == [type |-> "key", key |-> key]
Mac(secret, identity) == [type |-> "mac", secret |-> secret, identity |-> identity]
Cancel == [type |-> "cancel"]

\* All messages that we may receive.
Messages ==
    LET keys == {"peers", "attackers", "chosen"}
        secrets == {{"ours", key} : key \in keys} \cup {{"peers", "attackers"}}
    IN  {Start("peers"), Start("attackers"), Cancel} \cup {Accept(key) : key \in keys} \cup {Key(key) : key \in keys}
        \cup {Mac(secret, identity) : secret \in secrets, identity \in {"genuine", "fake"}}

\* Whether a flow is not over. (Only a fault makes a flow "gone".)
Live(flow) == flow.phase \notin {"done", "cancelled", "gone"}

Shows(flow) == flow.phase \in {"exchanged", "confirmed", "done"}

Secret == {"ours", store.flow.key}
SecretOfPeer == {"peers", peer.key}

\* Whether the two people see equal emoji.
Equal == Shows(store.flow) /\ Shows(peer) /\ (Secret = SecretOfPeer \/ store.flow.key = "chosen")

-------------------------------------------------------------------------------
(* The attacker. A forged message is received at once.                       *)

HasSeenOurKey == store.flow.role = "starter" /\ store.flow.phase # "started"

Forgeable ==
    LET keys == {"attackers"} \cup (IF HasSeenOurKey THEN {"chosen"} ELSE {})
    IN  {Start("attackers"), Cancel}
        \cup {Accept(key) : key \in keys}
        \cup {Key(key) : key \in keys}
        \cup {Mac({"ours", key}, identity) : key \in {"attackers", "chosen"}, identity \in {"genuine", "fake"}}

\* The attacker withholds a message of the peer.
Withhold ==
    /\ Attack
    /\ server.toUs # <<>>
    /\ server' = [server EXCEPT !.toUs = Rest(@)]
    /\ UNCHANGED <<setting, peer, store, flight, people>>

\* The attacker replaces our ephemeral key, or our commitment, by its own.
ReplaceOurKey ==
    /\ Attack
    /\ \E i \in DOMAIN server.toPeer \cap {1} :
        /\ server.toPeer[i] \in {Accept("ours"), Accept("other"), Key("ours")}
        /\ server' = [server EXCEPT !.toPeer[i] = IF @ = Key("ours") THEN Key("attackers") ELSE Accept("attackers")]
    /\ UNCHANGED <<setting, peer, store, flight, people>>

-------------------------------------------------------------------------------
(* Our side. Each step is one commit, by any of our processes.               *)

\* The messages that we may receive next: the peer's oldest one, or one of the attacker.
Receivable ==
    ({Oldest(server.toUs)} \ {Nothing})
    \cup (IF Attack /\ Live(store.flow) /\ server.forged < MaxForged THEN Forgeable ELSE {})

Received(message) ==
    server' = IF message = Oldest(server.toUs) THEN [server EXCEPT !.toUs = Rest(@)]
              ELSE [server EXCEPT !.forged = IF @ < MaxForged THEN @ + 1 ELSE @]

\* M16.1
Stored(flow, messages) == [store EXCEPT !.flow = flow, !.outbox = @ \o messages]

\* The end of a flow with a confirmation and a valid MAC. Its commit stores the result.
\* M16.1, M16.2
Ended(flow, messages) ==
    [Stored([flow EXCEPT !.phase = "done"], messages) EXCEPT !.trusted = @ \/ ~Broken("result-in-second-commit")]

\* The fault "result-in-second-commit": a process holds a result that is not stored yet.
ResultInHand ==
    IF Broken("result-in-second-commit") /\ store'.flow.phase = "done"
    THEN \E p \in Processes : flight' = [flight EXCEPT ![p] = [stage |-> "result"]]
    ELSE UNCHANGED flight

StartSas ==
    /\ store.flow.phase = "ready"
    /\ store' = Stored([store.flow EXCEPT !.phase = "started", !.role = "starter"], <<Start("ours")>>)
    /\ UNCHANGED <<setting, peer, server, flight, people>>

\* If we have started too, the peer's start counts, and we abandon our own.
\* M16.9
ReceiveStart(message) ==
    /\ message.type = "start" /\ message \in Receivable
    /\ store.flow.phase = "ready" \/ (store.flow.phase = "started" /\ ~setting.first)
    /\ store' = Stored([store.flow EXCEPT !.phase = "accepted", !.role = "accepter"],
                     <<Accept(IF message.by = "peers" THEN "ours" ELSE "other")>>)
    /\ Received(message)
    /\ UNCHANGED <<setting, peer, flight, people>>

\* We have started too, and our own start counts.
IgnoreStart(message) ==
    /\ message.type = "start" /\ message \in Receivable
    /\ store.flow.phase = "started" /\ setting.first
    /\ Received(message)
    /\ UNCHANGED <<setting, peer, store, flight, people>>

ReceiveAccept(message) ==
    /\ message.type = "accept" /\ message \in Receivable
    /\ store.flow.phase = "started"
    /\ store' = Stored([store.flow EXCEPT !.phase = "accepted", !.commitment = message.commitment],
                     <<Key("ours")>>)
    /\ Received(message)
    /\ UNCHANGED <<setting, peer, flight, people>>

\* M16.10
AsCommitted(key) == store.flow.role = "starter" => key = store.flow.commitment

\* If two keys arrive, the first one counts.
ReceiveKey(message) ==
    /\ message.type = "key" /\ message \in Receivable
    /\ store.flow.phase = "accepted"
    /\ AsCommitted(message.key) \/ Broken("commitment-unchecked")
    /\ store' = Stored([store.flow EXCEPT !.phase = "exchanged", !.key = message.key],
                     IF store.flow.role = "accepter" THEN <<Key("ours")>> ELSE <<>>)
    /\ Received(message)
    /\ UNCHANGED <<setting, peer, flight, people>>

\* Whether a MAC is valid: under our secret, and of the identity key that we know.
\* M16.11
Right(mac) == mac.secret = Secret /\ (mac.identity = setting.identity \/ Broken("mac-of-another-key"))

ReceiveMac(message) ==
    /\ message.type = "mac" /\ message \in Receivable
    /\ store.flow.phase = "confirmed"
    /\ Right(message)
    /\ store' = Ended(store.flow, <<>>)
    /\ ResultInHand
    /\ Received(message)
    /\ UNCHANGED <<setting, peer, people>>

\* The MAC may arrive before our person has answered. Then it is stored unchecked.
KeepMac(message) ==
    /\ message.type = "mac" /\ message \in Receivable
    /\ store.flow.phase = "exchanged"
    /\ store.flow.mac = Nothing
    /\ store' = IF Broken("trusted-unconfirmed") /\ Right(message) THEN Ended(store.flow, <<>>)
                ELSE Stored([store.flow EXCEPT !.mac = message], <<>>)
    /\ Received(message)
    /\ UNCHANGED <<setting, peer, flight, people>>

OurMac == Mac(Secret, "ours")

\* The person sees that the emoji are equal, and confirms in one of the processes.
\* M16.11
ConfirmSas ==
    /\ store.flow.phase = "exchanged" \/ (Broken("confirmed-twice") /\ store.flow.phase = "confirmed")
    /\ Equal
    /\ LET mac == store.flow.mac
           confirmed == [store.flow EXCEPT !.phase = "confirmed"]
       IN  store' = CASE mac = Nothing -> Stored(confirmed, <<OurMac>>)
                      [] mac # Nothing /\ Right(mac) -> Ended(confirmed, <<OurMac>>)
                      [] OTHER -> Stored([confirmed EXCEPT !.phase = "cancelled"], <<OurMac, Cancel>>)
    /\ ResultInHand
    /\ people' = [people EXCEPT !.confirmed = @ \cup {"ours"}]
    /\ UNCHANGED <<setting, peer, server>>

Cancelled == Stored([store.flow EXCEPT !.phase = "cancelled"], <<Cancel>>)

\* The person gives up, or sees that the emoji differ, or the flow times out.
CancelFlow ==
    /\ Live(store.flow)
    /\ people.cancels < MaxCancels
    /\ people' = [people EXCEPT !.cancels = @ + 1]
    /\ store' = Cancelled
    /\ UNCHANGED <<setting, peer, server, flight>>

ReceiveCancel(message) ==
    /\ message.type = "cancel" /\ message \in Receivable
    /\ Live(store.flow)
    /\ store' = Stored([store.flow EXCEPT !.phase = "cancelled"], <<>>)
    /\ Received(message)
    /\ UNCHANGED <<setting, peer, flight, people>>

\* Whether the flow waits for a message. (This repeats conditions of the actions above, so
\* that each action shows its own conditions.)
Expected(message) ==
    CASE message.type = "start" -> store.flow.phase \in {"ready", "started"}
      [] message.type = "accept" -> store.flow.phase = "started"
      [] message.type = "key" -> store.flow.phase = "accepted" /\ AsCommitted(message.key)
      [] message.type = "mac" -> \/ store.flow.phase = "exchanged" /\ store.flow.mac = Nothing
                                 \/ store.flow.phase = "confirmed" /\ Right(message)
      [] OTHER -> TRUE

\* An unexpected message, a key that does not match its commitment, or an invalid MAC.
\* M16.7
RefuseMessage(message) ==
    /\ message \in Receivable
    /\ Live(store.flow)
    /\ ~Expected(message)
    /\ store' = Cancelled
    /\ Received(message)
    /\ UNCHANGED <<setting, peer, flight, people>>

\* A message that arrives when the flow is over.
\* M16.7
IgnoreMessage(message) ==
    /\ message \in Receivable
    /\ ~Live(store.flow)
    /\ Received(message)
    /\ UNCHANGED <<setting, peer, store, flight, people>>

\* outgoing_requests: each process lists the oldest message that is not sent yet.
\* M16.5
OutgoingRequest(p) ==
    /\ flight[p] = Nothing
    /\ store.outbox # <<>>
    /\ flight' = [flight EXCEPT ![p] = [stage |-> "request", number |-> store.sent + 1, message |-> Oldest(store.outbox)]]
    /\ UNCHANGED <<setting, peer, server, store, people>>

\* The server receives a request, and answers. It delivers a repeated message only once.
Deliver(p) ==
    /\ InFlight(p, "request")
    /\ server' = IF flight[p].number <= server.delivered THEN server
                 ELSE [server EXCEPT !.delivered = @ + 1, !.toPeer = Append(@, flight[p].message)]
    /\ flight' = [flight EXCEPT ![p] = [stage |-> "answered", number |-> @.number]]
    /\ UNCHANGED <<setting, peer, store, people>>

\* mark_sent. If the other process has sent the request as well, the second answer changes
\* nothing.
MarkSent(p) ==
    /\ InFlight(p, "answered")
    /\ store' = IF flight[p].number <= store.sent THEN store
                ELSE [store EXCEPT !.sent = @ + 1, !.outbox = Rest(@)]
    /\ flight' = [flight EXCEPT ![p] = Nothing]
    /\ UNCHANGED <<setting, peer, server, people>>

\* The fault "verification-interrupted": the flow is an object in memory, and is lost too.
Lose(p) ==
    /\ flight[p] # Nothing \/ Broken("verification-interrupted")
    /\ flight' = [flight EXCEPT ![p] = Nothing]
    /\ store' = IF Broken("verification-interrupted") /\ store.flow.phase # "ready"
                THEN [store EXCEPT !.flow.phase = "gone"] ELSE store
    /\ UNCHANGED <<setting, peer, server, people>>

\* The second commit, in the fault with two commits.
CommitResult(p) ==
    /\ Broken("result-in-second-commit")
    /\ InFlight(p, "result")
    /\ store' = [store EXCEPT !.trusted = TRUE]
    /\ flight' = [flight EXCEPT ![p] = Nothing]
    /\ UNCHANGED <<setting, peer, server, people>>

-------------------------------------------------------------------------------
(* The peer, which does the same in one process that never fails.            *)

Says(flow, heard, messages) ==
    /\ peer' = flow
    /\ server' = [server EXCEPT !.toPeer = heard, !.toUs = @ \o messages]
    /\ UNCHANGED <<setting, store, flight>>

PeerStarts ==
    /\ peer.phase = "ready"
    /\ Says([peer EXCEPT !.phase = "started", !.role = "starter"], server.toPeer, <<Start("peers")>>)
    /\ UNCHANGED people

PeerReceives ==
    /\ server.toPeer # <<>>
    /\ LET message == Oldest(server.toPeer)
           Becomes(flow, messages) == Says(flow, Rest(server.toPeer), messages)
       IN  CASE ~Live(peer) -> Becomes(peer, <<>>)
             [] message.type = "start" /\ (peer.phase = "ready" \/ (peer.phase = "started" /\ setting.first)) ->
                    Becomes([peer EXCEPT !.phase = "accepted", !.role = "accepter"], <<Accept("peers")>>)
             [] message.type = "start" /\ peer.phase = "started" /\ ~setting.first -> Becomes(peer, <<>>)
             [] message.type = "accept" /\ peer.phase = "started" ->
                    Becomes([peer EXCEPT !.phase = "accepted", !.commitment = message.commitment], <<Key("peers")>>)
             [] message.type = "key" /\ peer.phase = "accepted" /\ (peer.role = "starter" => message.key = peer.commitment) ->
                    Becomes([peer EXCEPT !.phase = "exchanged", !.key = message.key],
                         IF peer.role = "accepter" THEN <<Key("peers")>> ELSE <<>>)
             [] message.type = "mac" /\ peer.phase = "exchanged" /\ peer.mac = Nothing ->
                    Becomes([peer EXCEPT !.mac = message], <<>>)
             [] message.type = "mac" /\ peer.phase = "confirmed" /\ message.secret = SecretOfPeer ->
                    Becomes([peer EXCEPT !.phase = "done"], <<>>)
             [] message.type = "cancel" -> Becomes([peer EXCEPT !.phase = "cancelled"], <<>>)
             [] OTHER -> Becomes([peer EXCEPT !.phase = "cancelled"], <<Cancel>>)
    /\ UNCHANGED people

\* (If a MAC that has arrived already is invalid, the peer cancels.)
PeerConfirms ==
    /\ peer.phase = "exchanged"
    /\ Equal
    /\ peer.mac # Nothing => peer.mac.secret = SecretOfPeer
    /\ Says([peer EXCEPT !.phase = IF peer.mac = Nothing THEN "confirmed" ELSE "done"], server.toPeer,
            <<Mac(SecretOfPeer, "genuine")>>)
    /\ people' = [people EXCEPT !.confirmed = @ \cup {"peers"}]

PeerCancels ==
    /\ Live(peer)
    /\ people.cancels < MaxCancels
    /\ people' = [people EXCEPT !.cancels = @ + 1]
    /\ Says([peer EXCEPT !.phase = "cancelled"], server.toPeer, <<Cancel>>)

-------------------------------------------------------------------------------
Receive ==
    \E message \in Messages :
        \/ ReceiveStart(message) \/ IgnoreStart(message) \/ ReceiveAccept(message) \/ ReceiveKey(message)
        \/ ReceiveMac(message) \/ KeepMac(message) \/ ReceiveCancel(message)
        \/ RefuseMessage(message) \/ IgnoreMessage(message)

Next ==
    \/ StartSas \/ ConfirmSas \/ CancelFlow
    \/ \E message \in Messages :
        \/ ReceiveStart(message) \/ IgnoreStart(message) \/ ReceiveAccept(message) \/ ReceiveKey(message)
        \/ ReceiveMac(message) \/ KeepMac(message) \/ ReceiveCancel(message)
        \/ RefuseMessage(message) \/ IgnoreMessage(message)
    \/ \E p \in Processes : OutgoingRequest(p) \/ Deliver(p) \/ MarkSent(p) \/ Lose(p) \/ CommitResult(p)
    \/ PeerStarts \/ PeerReceives \/ PeerConfirms \/ PeerCancels
    \/ Withhold \/ ReplaceOurKey

(* Fairness, in words. It is enough that some process is not suspended. One  *)
(* of the people starts the comparison. Syncs happen, both sides process the *)
(* messages that they bring, and both people answer. If requests with the    *)
(* oldest message can be made again and again, one is made. If such requests *)
(* reach the server again and again, one is answered. If such answers arrive *)
(* again and again, one is handed in. Without any one of these assumptions a *)
(* flow may last for ever: `python -m checking conditions                    *)
(* Verification!Fairness`.                                                   *)
Fairness ==
    /\ WF_vars(StartSas)
    /\ WF_vars(Receive)
    /\ WF_vars(ConfirmSas)
    /\ SF_vars(\E p \in Processes : OutgoingRequest(p))
    /\ SF_vars(\E p \in Processes : InFlight(p, "request") /\ flight[p].number > store.sent /\ Deliver(p))
    /\ SF_vars(\E p \in Processes : InFlight(p, "answered") /\ flight[p].number > store.sent /\ MarkSent(p))
    /\ WF_vars(PeerReceives)
    /\ WF_vars(PeerConfirms)

Spec == Init /\ [][Next]_vars
FairSpec == Spec /\ Fairness

-------------------------------------------------------------------------------
Flows ==
    [phase : {"ready", "started", "accepted", "exchanged", "confirmed", "done", "cancelled", "gone"},
     role : {"starter", "accepter"},
     commitment : {Nothing, "ours", "other", "peers", "attackers", "chosen"},
     key : {Nothing, "ours", "peers", "attackers", "chosen"},
     mac : {Nothing} \cup [type : {"mac"}, secret : SUBSET {"ours", "peers", "attackers", "chosen"},
                           identity : {"ours", "genuine", "fake"}]]

TypeOK ==
    /\ peer \in Flows /\ store.flow \in Flows /\ store.trusted \in BOOLEAN
    /\ server.delivered \in store.sent..(store.sent + Len(store.outbox))
    /\ server.forged \in 0..MaxForged
    /\ people \in [confirmed : SUBSET {"ours", "peers"}, cancels : 0..MaxCancels]
    /\ \A p \in Processes : flight[p] = Nothing \/ flight[p].stage \in {"request", "answered", "result"}

\* M16.11
TrustOnlyIfConfirmed ==
    store.trusted => people.confirmed = {"ours", "peers"} /\ setting.identity = "genuine"

DoneIsTrusted == store.flow.phase = "done" => store.trusted

\* M16.7
ExactlyOnce ==
    \A i, j \in DOMAIN store.outbox : store.outbox[i].type = store.outbox[j].type => i = j

\* The messages that the peer has not received yet.
OnTheirWay ==
    server.toPeer \o SubSeq(store.outbox, server.delivered - store.sent + 1, Len(store.outbox))

\* (Only without an attacker: an attacker can make us end a flow that the peer continues.)
\* M16.1, S1.1, S1.3
SurvivesInvalidation ==
    Live(peer) => \/ Live(store.flow)
                  \/ \E i \in DOMAIN OnTheirWay : OnTheirWay[i].type \in {"mac", "cancel"}

\* (Only without an attacker.)
EverythingArrives ==
    <>[](\/ store.trusted /\ peer.phase = "done"
         \/ people.cancels > 0 /\ ~Live(store.flow) /\ ~Live(peer))
===============================================================================
