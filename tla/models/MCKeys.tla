-------------------------------- MODULE MCKeys --------------------------------
(* Keys with its probes. Each probe claims that an action never happens, and *)
(* TLC must refute it. Otherwise the guarantees might hold only because      *)
(* nothing happens.                                                          *)
EXTENDS Keys

NeverCreateAccount    == [][\A p \in Processes : ~CreateAccount(p)]_vars
NeverAnswerSync       == [][\A p \in Processes : ~AnswerSync(p)]_vars
NeverReceiveSync      == [][\A p \in Processes : ~ReceiveSync(p)]_vars
NeverOfferKeys        == [][\A p \in Processes : ~OfferKeys(p)]_vars
NeverAnswerUpload     == [][\A p \in Processes : ~AnswerUpload(p)]_vars
NeverMarkSent         == [][\A p \in Processes : ~MarkSent(p)]_vars
NeverMarkFailed       == [][\A p \in Processes : ~MarkFailed(p)]_vars
NeverAbandonOffer     == [][~AbandonOffer]_vars
NeverClaimKey         == [][\A key \in server.received : ~ClaimKey(key)]_vars
NeverReceiveMessage   == [][\A key \in server.received : ~ReceiveMessage(key)]_vars
NeverReceiveBadMessage == [][\A key \in server.received : ~ReceiveBadMessage(key)]_vars
NeverClaimFallback    == [][~ClaimFallback]_vars
NeverReceiveFallbackMessage == [][\A key \in 1..MaxFallback : ~ReceiveFallbackMessage(key)]_vars
NeverPeriodPasses     == [][~PeriodPasses]_vars
NeverLose             == [][\A p \in Processes : ~Lose(p)]_vars

\* Probes of situations that the guarantees are about. Each claims that the situation in its comment
\* never happens.

\* An abandoned offer arrives at the server, which then has more keys than the target.
NeverOvershoots == Cardinality(server.available) <= Target

\* The response to an abandoned offer comes while another offer is open.
NeverAnsweredLate ==
    [][\A p \in Processes : (MarkSent(p) /\ store.offer # None) => store' # store]_vars

\* The count of a response is not used. Then a sliding sync leaves the count out, since it has not
\* changed.
NeverAsBefore ==
    [][\A p \in Sliding : (ReceiveSync(p) /\ flight[p].count = None /\ store.serial > 0) => store'.missing = 0]_vars

\* The answer to a late upload shows that the server has an older fallback key again.
NeverPutsBack ==
    [][\A p \in Processes : (MarkSent(p) /\ PutsBack(p)) => store' = store]_vars

\* A message comes that was made with the fallback key before the current one.
NeverPrevious ==
    [][\A key \in 1..MaxFallback : ReceiveFallbackMessage(key) => key = store.fallback]_vars

\* Restrictions for the replay, which must end in reasonable time. No fallback key is claimed.
NoneWaits == peers.waiting = {}

\* No one-time key is claimed.
NoneClaimed == peers.claimed = {}

\* At most one process syncs.
OneSyncs == \E p \in Processes : flight[p].kind # "sync"
===============================================================================
