------------------------------ MODULE MCSessions ------------------------------
(* Sessions with its probes. Each probe claims that an action never        *)
(* happens, and TLC must refute it.                                        *)
EXTENDS Sessions, TLC

\* All processes are interchangeable.
Alike == Permutations(Processes)

\* Restrictions for the replay, which must end in reasonable time. No message is sent.
NothingSent == \A p \in Processes : flight[p] = Nothing \/ flight[p].stage \in {"claim", "claimed"}

\* One message is sent at a time. Both processes may send it.
InHand(p) == InFlight(p, "request") \/ InFlight(p, "answered")
OneAtATime == \A p, q \in Processes : (InHand(p) /\ InHand(q)) => flight[p].message = flight[q].message

\* Only m.dummy is sent, while no other process holds anything and no session is wanted. At most one
\* message is sent over each session.
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

\* Probes of situations that the guarantees are about. Each claims that the situation in its comment
\* never happens.

\* A room key arrives over a broken session.
NeverUnreadableKey ==
    [][\A p \in Processes : (Deliver(p) /\ flight[p].message.type = "m.room_key") =>
        flight[p].message.generation \notin peer.broken]_vars

\* The answer to a claim comes late, while its mark is still set.
NeverLateClaim == [][\A p \in Processes : IgnoreClaim(p) => store.unwedge = 0]_vars
===============================================================================
