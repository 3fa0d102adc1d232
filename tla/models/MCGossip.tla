------------------------------- MODULE MCGossip -------------------------------
(* Gossip made finite: who asks.                                             *)
EXTENDS Gossip, TLC

CONSTANTS d1, d2, planted

\* All processes are interchangeable.
Alike == Permutations(Processes)

Asks(d, number) == [by |-> d, number |-> number]

NobodyAsks == {}

\* A request of a device of the person.
OneAsks == {Asks(d1, 1)}

\* A request for a room key: the request with the number 1 is for a secret. Then we request a secret.
OneAsksForRoomKey == {Asks(d1, 2)}

\* Another request, of a device of the attacker.
BothAsk == {Asks(d1, 1), Asks(planted, 1)}

\* Two requests of the person's device.
TwoRequests == {Asks(d1, 1), Asks(d1, 2)}

\* Two requests of the person's device, and one of the attacker's device.
ThreeRequests == {Asks(d1, 1), Asks(d1, 2), Asks(planted, 1)}

\* The replay must end in reasonable time. So one message is on its way to us,
OneOnItsWay == Len(server.toUs) <= 1

\* an answer begins no session,
AnsweredInSession ==
    \A i \in DOMAIN server.toUs : server.toUs[i].type = "answer" => server.toUs[i].from \in store.sessions

\* nobody cancels,
NobodyCancels == peers.cancelled = {}

\* one message of ours is sent at a time, by both processes too,
OneMessage == \A p, q \in Processes : (flight[p] # Nothing /\ flight[q] # Nothing) => flight[p].message = flight[q].message

\* or by one of them.
OneAtATime == Cardinality({p \in Processes : flight[p] # Nothing}) <= 1

-------------------------------------------------------------------------------
(* Probes: each says that an action never happens, and must be found wrong.  *)

NeverPeerAsks            == [][\A r \in Requests : ~PeerAsks(r)]_vars
NeverPeerCancels         == [][\A r \in Requests : ~PeerCancels(r)]_vars
NeverReceiveRequest      == [][\A p \in Processes : ~ReceiveRequest(p)]_vars
NeverIgnoreRequest       == [][~IgnoreRequest]_vars
NeverReceiveCancellation == [][~ReceiveCancellation]_vars
NeverVerifyDevice        == [][\A d \in Devices : ~VerifyDevice(d)]_vars
NeverBlockDevice         == [][\A d \in Devices : ~BlockDevice(d)]_vars
NeverBeginSession        == [][\A d \in Devices : ~BeginSession(d)]_vars
NeverAnswerWaiting       == [][\A r \in Requests : ~AnswerWaiting(r)]_vars
NeverAsk                 == [][~Ask]_vars
NeverSendAsk             == [][~SendAsk]_vars
NeverCancelAsk           == [][~CancelAsk]_vars
NeverPeerAnswers         == [][\A d \in Own, number \in 1..MaxAsks : ~PeerAnswers(d, number)]_vars
NeverPeerSendsUnasked    == [][\A d \in Devices, number \in 0..MaxAsks : ~PeerSendsUnasked(d, number)]_vars
NeverReceiveAnswer       == [][~ReceiveAnswer]_vars
NeverIgnoreAnswer        == [][~IgnoreAnswer]_vars
NeverOutgoingRequest     == [][\A p \in Processes : \A message \in Messages : ~OutgoingRequest(p, message)]_vars
NeverDeliver             == [][\A p \in Processes : ~Deliver(p)]_vars
NeverMarkSent            == [][\A p \in Processes : ~MarkSent(p)]_vars
NeverLose                == [][\A p \in Processes : ~Lose(p)]_vars

\* Probes: situations that the guarantees are about.
\* the server sends a request again that was answered;
NeverAskedAgain == [][\A r \in Requests : PeerAsks(r) => r \notin store.answered]_vars

\* a request waits until its device is verified;
NeverWaitsForVerification ==
    [][\A d \in Devices : VerifyDevice(d) => \A r \in store.waiting : r.by # d]_vars

\* two devices answer one request of ours;
NeverSecondAnswer ==
    [][IgnoreAnswer => \A i \in DOMAIN taken : taken[i].number # Head(server.toUs).number]_vars

\* a request of ours goes to a device that is verified only later;
NeverAskedLater == [][SendAsk => \A ask \in store.asked : ask.of = {}]_vars

\* a device whose answer is on its way is blocked.
NeverAnswersBlocked ==
    [][\A d \in Devices : BlockDevice(d) =>
        \A i \in DOMAIN server.toUs : server.toUs[i].type = "answer" => server.toUs[i].from # d]_vars
===============================================================================
