------------------------------ MODULE MCSessions ------------------------------
(* Probes of Sessions: each says that an action never happens, and must be   *)
(* found wrong.                                                              *)
EXTENDS Sessions, TLC

\* Processes are alike.
Alike == Permutations(Processes)

\* Less, for real machines: no message is sent.
NothingSent == \A p \in Processes : flight[p] = Nothing \/ flight[p].stage \in {"claim", "claimed"}

\* Or only one message at a time: where both processes have one in hand, it is the same.
InHand(p) == InFlight(p, "request") \/ InFlight(p, "answered")
OneAtATime == \A p, q \in Processes : (InHand(p) /\ InHand(q)) => flight[p].message = flight[q].message

\* Or only m.dummy, while nothing else goes on; and a message over each session at most.
OneOverEach ==
    /\ server.sent > 1 => peer.generation > 1
    /\ \A p \in Processes : InHand(p) =>
        /\ flight[p].message = Dummy(store.generation)
        /\ store.unwedge = 0
        /\ \A q \in Processes \ {p} : flight[q] = Nothing

NeverBreak           == [][~Break]_vars
NeverPeerSends       == [][~PeerSends]_vars
NeverReceiveSync     == [][\A p \in Processes : ~ReceiveSync(p)]_vars
NeverHandOutClaim    == [][\A p \in Processes : ~HandOutClaim(p)]_vars
NeverAnswerClaim     == [][\A p \in Processes : ~AnswerClaim(p)]_vars
NeverTakeClaimAnswer == [][\A p \in Processes : ~TakeClaimAnswer(p)]_vars
NeverIgnoreClaim     == [][\A p \in Processes : ~IgnoreClaim(p)]_vars
NeverShareRoomKey    == [][\A p \in Processes : ~ShareRoomKey(p)]_vars
NeverReplaceRoomKey  == [][\A p \in Processes : ~ReplaceRoomKey(p)]_vars
NeverOutgoingRequest == [][\A p \in Processes : \A message \in store.outbox : ~OutgoingRequest(p, message)]_vars
NeverDeliver         == [][\A p \in Processes : ~Deliver(p)]_vars
NeverMarkSent        == [][\A p \in Processes : ~MarkSent(p)]_vars
NeverHourPasses      == [][~HourPasses]_vars
NeverLose            == [][\A p \in Processes : ~Lose(p)]_vars

\* Probes: situations that the guarantees are about.
\* a room key arrives over a broken session;
NeverUnreadableKey ==
    [][\A p \in Processes : (Deliver(p) /\ flight[p].message.type = "m.room_key") =>
        flight[p].message.generation \notin peer.broken]_vars

\* a claim comes late, while its mark still stands.
NeverLateClaim == [][\A p \in Processes : IgnoreClaim(p) => store.unwedge = 0]_vars
===============================================================================
