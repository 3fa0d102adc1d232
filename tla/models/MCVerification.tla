---------------------------- MODULE MCVerification ----------------------------
(* Probes of Verification: each says that an action never happens, and must  *)
(* be found wrong. And which parts of it are replayed on the machine.        *)
EXTENDS Verification, TLC

\* Processes are alike.
Alike == Permutations(Processes)

\* Where both start at once, ours counts.
OurStartCounts == setting.first

\* Each start counts with one of the two identity keys, and one message is on its way at a time.
OneOnItsWay ==
    /\ setting.first <=> setting.identity = "genuine"
    /\ Len(server.toPeer) + Len(server.toUs) <= 1

\* Or the peer never starts, its identity key is a fake, and until our person answers, what we have to say is sent before
\* there is more.
WeStart ==
    /\ OneOnItsWay
    /\ setting.identity = "fake"
    /\ peer.role = "accepter"
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
NeverPeerHears       == [][~PeerHears]_vars
NeverPeerConfirms    == [][~PeerConfirms]_vars
NeverPeerCancels     == [][~PeerCancels]_vars
NeverWithhold        == [][~Withhold]_vars
NeverReplaceOurKey   == [][~ReplaceOurKey]_vars

\* Probes: situations that the guarantees are about.
\* a message is heard that the attacker has made;
NeverForged == server.forged = 0

\* our own start is abandoned for the peer's;
NeverYields ==
    [][\A message \in Messages : ReceiveStart(message) => store.flow.phase = "ready"]_vars

\* a message is sent by both processes;
NeverSentTwice == [][\A p \in Processes : Deliver(p) => flight[p].number > server.delivered]_vars

\* the flow ends in trust after the peer's MAC has come first;
NeverMacFirst == [][ConfirmSas => ~store'.trusted]_vars

\* the person confirms, and the MAC that came before is wrong;
NeverConfirmedInVain == [][ConfirmSas => store'.flow.phase # "cancelled"]_vars

\* a key is refused that the attacker has chosen so that the emoji are equal.
NeverChosenRefused == [][\A message \in Messages : RefuseMessage(message) => message # Key("chosen")]_vars
===============================================================================
