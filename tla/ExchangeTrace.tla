----------------------------- MODULE ExchangeTrace -----------------------------
(* MachineTrace for the steps between a device and others: Olm sessions, room *)
(* keys, verifications, the backup, and the requests of the user's other      *)
(* devices. Each element is a step of Sessions, Sharing, Inbox, Verification, *)
(* Backup or Gossip, as far as one store can know of it. Each guarantee is    *)
(* stated as what the device itself must do to keep it:                       *)
(*                                                                            *)
(*   NoRatchetReuse       a failed attempt to decrypt changes no session      *)
(*   EverythingArrives    a message that can't be decrypted sets a mark; room *)
(*                        keys that were sent over a replaced session are     *)
(*                        sent again                                          *)
(*   KeysBounded          a claim is not made again too soon                  *)
(*   NothingLost          a shared session is stored; the better key is kept  *)
(*   ExactlyOnce          a message is read as one event; a device is         *)
(*                        answered once                                       *)
(*   SurvivesInvalidation a verification and the backup end only by their own *)
(*                        steps                                               *)
(*   OneKeyPerVersion     an answer names the version of the key that it was  *)
(*                        asked with                                          *)
(*   BackedUpIsBest       an answer settles only the marks that were there    *)
(*                        when its upload was listed                          *)
(*                                                                            *)
(* As in MachineTrace, nothing follows from lines that may be missing.        *)
EXTENDS MachineTrace

CONSTANTS
    ClaimedAgainAfter,  \* for how many seconds a claim is not made again (M8.7)
    RequestsKept        \* how many requests of a device are remembered (M17.9)

VARIABLE exchange  \* what is known of the exchange with other devices

(* exchange  commits   how many commits there were                              *)
(*           marks_known  whether a mark that no element names is known to be   *)
(*                     not set                                                  *)
(*           wanted    by wanted_session mark: whether it is set                *)
(*           claimed   by such a mark: the second of its claim, if the mark     *)
(*                     was not set again after the claim                        *)
(*           have      by room session: the devices that were given its key     *)
(*           lack      by room session: those of them whose Olm session was     *)
(*                     replaced later                                           *)
(*           best      by room session: the room key that is kept               *)
(*           phases    by verification: its phase                               *)
(*           unbacked  by mark that the backup lacks a room key: the number of  *)
(*                     the commit that set the mark                             *)
(*           listed    by upload to the backup: how many commits there were     *)
(*                     when it was last listed (list_backup)                    *)
(*           heard     how many requests of other devices have arrived          *)
(*           given     by answered request: how many had arrived then           *)

\* Nothing is known.
NothingExchanged ==
    [commits |-> 0, marks_known |-> FALSE, wanted |-> <<>>, claimed |-> <<>>, have |-> <<>>, lack |-> <<>>, best |-> <<>>,
     phases |-> <<>>, unbacked |-> <<>>, listed |-> <<>>, heard |-> 0, given |-> <<>>]

\* A function, without some arguments.
Without(function, arguments) == [a \in DOMAIN function \ arguments |-> function[a]]

-------------------------------------------------------------------------------
(* Inbox and Sessions: Olm messages and claims. A definition WhyNot... has the  *)
(* names of the conditions of a step that do not hold.                          *)

\* Whether a wanted_session mark is set. TRUE if it is not known.
IsSet(mark) == Get(exchange.wanted, mark, ~exchange.marks_known)

\* An attempt to decrypt that fails changes no session (M7.4), and the mark that it demands is set
\* (M8.1).
WhyNotAttempt(e) ==
    Unless(e.complete /\ e.outcome # "ok" => e.peers_stored <= e.peers_moved, "failed_attempt_stored")
    \cup Unless(e.complete /\ e.mark # None => e.mark \in e.marks \/ IsSet(e.mark), "wedge_not_marked")

\* M8.3, M8.7. HandOutClaim: no mark has a claim that is too recent.
WhyNotClaim(e) ==
    Unless(\A mark \in e.marks : mark \in DOMAIN exchange.claimed
                => e.second - exchange.claimed[mark] \notin 0..(ClaimedAgainAfter - 1), "claimed_too_soon")

\* A device begins a new Olm session, or this device makes one with a claimed key. The device lacks
\* the room keys that it was given before.
Replaced(peer) ==
    [exchange EXCEPT !.lack = [s \in DOMAIN exchange.have |->
        IF peer \in exchange.have[s] THEN exchange.lack[s] \cup {peer} ELSE exchange.lack[s]]]

-------------------------------------------------------------------------------
(* Sharing: ShareRoomKey, Encrypt.                                              *)

\* M9.3, M21.1. The commit that shares the key of a session stores the session.
WhyNotShareSession(e) == Unless(Wrote(e, "outbound_group_session"), "shared_session_not_stored")

\* Devices were given the key of a session.
Shared(e) ==
    [exchange EXCEPT !.have = (e.session :> Get(@, e.session, {}) \cup e.peers) @@ @,
                     !.lack = (e.session :> Get(@, e.session, {}) \ e.peers) @@ @]

\* M8.11, M9.3. A session is used only if no device lacks its key.
WhyNotUseSession(e) ==
    Unless(e.kind = "outbound_group_session" => Get(exchange.lack, e.ratchet, {}) = {}, "not_shared_again")

-------------------------------------------------------------------------------
(* Inbox: room keys that arrive, and room messages that are read.               *)

\* M11.1, M11.2, M11.3. Whether a room key may be better than the known one: it starts earlier, its
\* origin counts for more, or one more user has given it.
IsBetter(e, known) ==
    \/ e.first < known.first \/ e.standing > known.standing
    \/ e.sender # known.sender /\ e.vouched /\ known.vouched

\* M11.5. A key is kept only if it is better, even than a key of the same batch.
WhyNotKeep(e) ==
    Unless(e.kept /\ e.session \in DOMAIN exchange.best => IsBetter(e, exchange.best[e.session]), "worse_key_kept")

\* The key that is kept of two. A trace does not say whether they have the same ratchet. So this is
\* the least that the kept key must be.
KeptKey(e, known) ==
    LET another == e.standing > known.standing
    IN  [first    |-> IF another THEN IF e.first > known.first THEN e.first ELSE known.first ELSE e.first,
         standing |-> IF e.vouched \/ known.vouched \/ e.standing > known.standing THEN known.standing ELSE e.standing,
         sender   |-> IF known.vouched \/ ~e.vouched THEN known.sender ELSE e.sender,
         vouched  |-> known.vouched \/ e.vouched]

\* A room key was kept.
Kept(e) ==
    IF ~e.kept THEN exchange
    ELSE [exchange EXCEPT !.best = (e.session :>
            IF e.session \in DOMAIN @ /\ IsBetter(e, @[e.session])
            THEN IF e.first >= @[e.session].first /\ e.standing <= @[e.session].standing THEN @[e.session]
                 ELSE KeptKey(e, @[e.session])
            ELSE [first |-> e.first, standing |-> e.standing, sender |-> e.sender, vouched |-> e.vouched]) @@ @]

\* M12.1. A message is read as one event only.
WhyNotRead(e) == Unless(e.before \in {None, e.event}, "read_as_another_event")

-------------------------------------------------------------------------------
(* Verification.                                                                *)

\* The phases of a verification that is over.
Over == {"done", "cancelled", "forgotten", Unknown}

\* M16.16. Only a verification that is over is forgotten.
WhyNotGoOn(e) ==
    Unless(e.phase = "forgotten" => Get(exchange.phases, e.record, Unknown) \in Over, "verification_lost")

\* M16.1. A commit deletes the record of a verification only if the verification is over.
WhyNotEnd(e) ==
    Unless(e.complete => \A record \in e.gone \cap DOMAIN exchange.phases : exchange.phases[record] \in Over,
           "verification_lost")

-------------------------------------------------------------------------------
(* Backup: CreateVersion, MarkCreated, AskUpload, MarkUploaded.                 *)

\* M19.7. MarkCreated: the version is of the key that the request has named.
WhyNotCreated(e) == Unless(e.made \in {None, e.request}, "version_of_another_key")

\* M19.15. MarkUploaded: the commit deletes no mark that was set after the upload was listed.
WhyNotUploaded(e) ==
    Unless(e.complete /\ e.request \in DOMAIN exchange.listed =>
           \A mark \in e.gone \cap DOMAIN exchange.unbacked : exchange.unbacked[mark] <= exchange.listed[e.request],
           "newer_mark_settled")

\* M19.1, M19.4. Only the step that turns the backup off deletes its record.
WhyNotOff(e) == Unless(e.complete /\ "backup" \in e.deleted => e.turned_off, "backup_lost")

-------------------------------------------------------------------------------
(* Gossip: Answer.                                                              *)

\* M17.8, M17.9. A request is answered once. After RequestsKept more requests, the device may have
\* forgotten the request.
WhyNotGive(e) ==
    Unless(<<e.answered, e.asked>> \in DOMAIN exchange.given
           => exchange.heard - exchange.given[<<e.answered, e.asked>>] >= RequestsKept, "answered_again")

-------------------------------------------------------------------------------
\* What is still known after a commit that deleted or repaired records, or after an operation whose
\* lines may be missing.
Unsure(e) ==
    LET lost == e.deleted \cup e.repaired \cup (IF e.complete THEN {} ELSE e.wrote)
    IN  [exchange EXCEPT
            !.marks_known = @ /\ e.complete,
            !.wanted = IF e.complete THEN @ ELSE <<>>,
            !.claimed = IF e.complete THEN @ ELSE <<>>,
            !.phases = IF e.complete THEN @ ELSE <<>>,
            !.have = IF {"peer", "shared_key"} \cap lost # {} THEN <<>> ELSE @,
            !.lack = IF {"peer", "shared_key"} \cap lost # {} THEN <<>> ELSE @,
            !.best = IF "inbound_group_session" \in lost THEN <<>> ELSE @]

\* The same, with what the commit has written. No mark is set before the commit that creates the
\* account.
Committed(e) ==
    LET known == Unsure(e)
        again == e.marks \ e.claims
    IN  [known EXCEPT
            !.commits = @ + 1,
            !.marks_known = @ \/ (e.complete /\ "account" \in e.wrote /\ "own_device" \in e.wrote),
            !.wanted = [m \in e.marks |-> TRUE] @@ [m \in e.gone |-> FALSE] @@ @,
            !.claimed = Without(@, again \cup e.gone),
            !.phases = Without(@, e.gone),
            !.unbacked = [m \in e.marks \ e.gone |-> known.commits + 1] @@ Without(@, e.gone),
            !.given = [pair \in {one \in DOMAIN @ : one[1] \notin e.gone} |-> @[pair]]]

\* By step: the names of the conditions that do not hold.
WhyNotExchange(e) ==
    CASE e.step = "decrypt_olm"    -> WhyNotAttempt(e)
      [] e.step = "claim"          -> WhyNotClaim(e)
      [] e.step = "share"          -> WhyNotShareSession(e)
      [] e.step = "encrypt"        -> WhyNotUseSession(e)
      [] e.step = "room_key"       -> WhyNotKeep(e)
      [] e.step = "decrypt_megolm" -> WhyNotRead(e)
      [] e.step = "verification"   -> WhyNotGoOn(e)
      [] e.step = "answer_version" -> WhyNotCreated(e)
      [] e.step = "answer_backup"  -> WhyNotUploaded(e)
      [] e.step = "give"           -> WhyNotGive(e)
      [] e.step = "commit"         -> WhyNotEnd(e) \cup WhyNotOff(e)
      [] OTHER                     -> {}

\* By step: what is known after it.
Exchanged(e) ==
    CASE e.step = "decrypt_olm"    -> IF e.begins THEN Replaced(e.peer) ELSE exchange
      [] e.step = "make_session"   -> Replaced(e.peer)
      [] e.step = "claim"          -> [exchange EXCEPT !.claimed = [m \in e.marks |-> e.second] @@ @]
      [] e.step = "share"          -> Shared(e)
      [] e.step = "room_key"       -> Kept(e)
      [] e.step = "verification"   -> [exchange EXCEPT !.phases = (e.record :> e.phase) @@ @]
      [] e.step = "list_backup"    -> [exchange EXCEPT !.listed = (e.request :> exchange.commits) @@ @]
      [] e.step = "hear"           -> [exchange EXCEPT !.heard = @ + 1]
      [] e.step = "give"           -> [exchange EXCEPT !.given = (<<e.answered, e.asked>> :> exchange.heard) @@ @]
      [] e.step = "commit"         -> Committed(e)
      [] OTHER                     -> exchange

\* The initial state.
BeginExchange == Begin /\ exchange = Start.exchange

\* Take the next element, if all conditions of both modules hold.
NextExchange ==
    /\ at <= Len(TheSteps) /\ WhyNotExchange(TheSteps[at]) = {}
    /\ Next
    /\ exchange' = Exchanged(TheSteps[at])

ExchangeSpec == BeginExchange /\ [][NextExchange]_<<vars, exchange>>

\* The state at the beginning of a trace.
NothingKnown == Unstarted @@ [exchange |-> NothingExchanged]

\* At the end of a part, print the state that the next part begins from.
AtEnd ==
    at = Len(TheSteps) + 1 =>
        PrintT(<<"end", [keys |-> keys, inbox |-> inbox, lists |-> lists, used |-> used, exchange |-> exchange]>>)

\* If the next element is impossible, print which conditions it breaks.
AtImpossible ==
    at <= Len(TheSteps) =>
        LET why == Why(TheSteps[at]) \cup WhyNotExchange(TheSteps[at])
        IN  why # {} => PrintT(<<"reasons", why>>)
===============================================================================
