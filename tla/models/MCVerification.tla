---------------------------- MODULE MCVerification ----------------------------
(* Verification with its probes, and with the restrictions of its replay.  *)
(* Each probe claims that an action never happens, and TLC must refute it. *)
EXTENDS Verification, TLC

\* All processes are interchangeable.
Alike == Permutations(Processes)

\* If both sides start at the same time, our start counts.
OurStartCounts == setting.first

\* Our start counts if and only if the peer's identity key is genuine. One message is on its way at
\* a time.
OneOnItsWay ==
    /\ setting.first <=> setting.identity = "genuine"
    /\ Len(server.toPeer) + Len(server.toUs) <= 1

\* The peer never starts, and its identity key is fake. Until our MAC is in the outbox, each of
\* our messages is sent before there is another one.
WeStart ==
    /\ OneOnItsWay
    /\ setting.identity = "fake"
    /\ peer.role = "accepter"
    /\ Len(store.outbox) <= 1 \/ \E i \in DOMAIN store.outbox : store.outbox[i].type = "mac"

\* Our start never arrives, and the peer's identity key is fake. Until our MAC is in the outbox, each
\* of our messages is sent before there is another one.
TheyStart ==
    /\ OneOnItsWay
    /\ setting.identity = "fake"
    /\ store.flow.role = "starter" => server.delivered = 0
    /\ Len(store.outbox) <= 1 \/ \E i \in DOMAIN store.outbox : store.outbox[i].type = "mac"

NeverStartSas        == [][~StartSas]_vars
NeverReceiveStart    == [][\A message \in Messages : ~ReceiveStart(message)]_vars
NeverIgnoreStart     == [][\A message \in Messages : ~IgnoreStart(message)]_vars
NeverReceiveAccept   == [][\A message \in Messages : ~ReceiveAccept(message)]_vars
NeverReceiveKey      == [][\A message \in Messages : ~ReceiveKey(message)]_vars
NeverReceiveMac      == [][\A message \in Messages : ~ReceiveMac(message)]_vars
NeverKeepMac         == [][\A message \in Messages : ~KeepMac(message)]_vars
NeverConfirmSas      == [][~ConfirmSas]_vars
NeverCancelFlow      == [][~CancelFlow]_vars
NeverReceiveCancel   == [][\A message \in Messages : ~ReceiveCancel(message)]_vars
NeverRefuseMessage   == [][\A message \in Messages : ~RefuseMessage(message)]_vars
NeverIgnoreMessage   == [][\A message \in Messages : ~IgnoreMessage(message)]_vars
NeverOutgoingRequest == [][\A p \in Processes : ~OutgoingRequest(p)]_vars
NeverDeliver         == [][\A p \in Processes : ~Deliver(p)]_vars
NeverMarkSent        == [][\A p \in Processes : ~MarkSent(p)]_vars
NeverLose            == [][\A p \in Processes : ~Lose(p)]_vars
NeverPeerStarts      == [][~PeerStarts]_vars
NeverPeerReceives    == [][~PeerReceives]_vars
NeverPeerConfirms    == [][~PeerConfirms]_vars
NeverPeerCancels     == [][~PeerCancels]_vars
NeverWithhold        == [][~Withhold]_vars
NeverReplaceOurKey   == [][~ReplaceOurKey]_vars

\* Probes of situations that the guarantees are about. Each claims that the situation in its comment
\* never happens.

\* The attacker forges a message.
NeverForged == server.forged = 0

\* We abandon our own start, since the peer's start counts.
NeverYields ==
    [][\A message \in Messages : ReceiveStart(message) => store.flow.phase = "ready"]_vars

\* Both processes send the same message.
NeverSentTwice == [][\A p \in Processes : Deliver(p) => flight[p].number > server.delivered]_vars

\* The peer's MAC comes before our person confirms, and the flow ends in trust.
NeverMacFirst == [][ConfirmSas => ~store'.trusted]_vars

\* The person confirms, and the MAC that came before that is wrong.
NeverConfirmedInVain == [][ConfirmSas => store'.flow.phase # "cancelled"]_vars

\* We refuse a key that the attacker has chosen to make the emoji equal.
NeverChosenRefused == [][\A message \in Messages : RefuseMessage(message) => message # Key("chosen")]_vars
===============================================================================
