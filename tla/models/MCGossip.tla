------------------------------- MODULE MCGossip -------------------------------
(* Gossip made finite: which requests other devices make.                    *)
EXTENDS Gossip, TLC

CONSTANTS d1, d2, planted

\* All processes are interchangeable.
Alike == Permutations(Processes)

\* A request of a device.
Asks(d, number) == [by |-> d, number |-> number]

\* No requests.
NobodyAsks == {}

\* One request of a device of the person.
OneAsks == {Asks(d1, 1)}

\* One request of the person's device, for a room key. Our own request is for a secret. (A request
\* with the number 1 is for a secret.)
OneAsksForRoomKey == {Asks(d1, 2)}

\* One request of the person's device, and one of the attacker's device.
BothAsk == {Asks(d1, 1), Asks(planted, 1)}

\* Two requests of the person's device.
TwoRequests == {Asks(d1, 1), Asks(d1, 2)}

\* Two requests of the person's device, and one of the attacker's device.
ThreeRequests == {Asks(d1, 1), Asks(d1, 2), Asks(planted, 1)}

\* Restrictions for the replay, which must end in reasonable time. At most one message is on its way
\* to us.
OneOnItsWay == Len(server.toUs) <= 1

\* An answer begins no session.
AnsweredInSession ==
    \A i \in DOMAIN server.toUs : server.toUs[i].type = "answer" => server.toUs[i].from \in store.sessions

\* No device cancels a request.
NobodyCancels == peers.cancelled = {}

\* One message of ours is sent at a time. Both processes may send it.
OneMessage == \A p, q \in Processes : (flight[p] # Nothing /\ flight[q] # Nothing) => flight[p].message = flight[q].message

\* At most one process holds a request or a response.
OneAtATime == Cardinality({p \in Processes : flight[p] # Nothing}) <= 1

-------------------------------------------------------------------------------
(* Probes. Each claims that an action never happens, and TLC must refute   *)
(* it.                                                                     *)

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

\* Probes of situations that the guarantees are about. Each claims that the situation in its comment
\* never happens.

\* The server delivers a request again that was answered.
NeverAskedAgain == [][\A r \in Requests : PeerAsks(r) => r \notin store.answered]_vars

\* A request waits until its device is verified.
NeverWaitsForVerification ==
    [][\A d \in Devices : VerifyDevice(d) => \A r \in store.waiting : r.by # d]_vars

\* Two devices answer one request of ours.
NeverSecondAnswer ==
    [][IgnoreAnswer => \A i \in DOMAIN taken : taken[i].number # Head(server.toUs).number]_vars

\* A request of ours goes to a device that is verified only later.
NeverAskedLater == [][SendAsk => \A ask \in store.asked : ask.of = {}]_vars

\* A device whose answer is on its way is blocked.
NeverAnswersBlocked ==
    [][\A d \in Devices : BlockDevice(d) =>
        \A i \in DOMAIN server.toUs : server.toUs[i].type = "answer" => server.toUs[i].from # d]_vars
===============================================================================
