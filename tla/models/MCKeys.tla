-------------------------------- MODULE MCKeys --------------------------------
(* Keys, with its probes: each says that an action never happens, and must be  *)
(* found wrong, or the guarantees would hold because nothing happens.          *)
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

\* Probes: situations that the guarantees are about.
\* the server gets an offer that was abandoned, and with it more keys than the target says;
NeverOvershoots == Cardinality(server.available) <= Target

\* a response comes to an offer that was abandoned, while another is open;
NeverAnsweredLate ==
    [][\A p \in Processes : (MarkSent(p) /\ store.offer # None) => store' # store]_vars

\* a count comes too late to count, and another tells that it is still so;
NeverAsBefore ==
    [][\A p \in Sliding : (ReceiveSync(p) /\ flight[p].count = None /\ store.serial > 0) => store'.missing = 0]_vars

\* the server gets a fallback key that was replaced, and gets the current one again;
NeverPutsBack ==
    [][\A p \in Processes : (MarkSent(p) /\ PutsBack(p)) => store' = store]_vars

\* a message comes that was made with the fallback key before the current one.
NeverPrevious ==
    [][\A key \in 1..MaxFallback : ReceiveFallbackMessage(key) => key = store.fallback]_vars

\* For the replay there is less at the same time: nobody claims a fallback key,
NoneWaits == peers.waiting = {}

\* or a one-time key either,
NoneClaimed == peers.claimed = {}

\* and at most one process syncs.
OneSyncs == \E p \in Processes : flight[p].kind # "sync"
===============================================================================
