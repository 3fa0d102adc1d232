------------------------------ MODULE MachineTrace -----------------------------
(* Whether what the processes of one device say of its machine is possible.   *)
(* Log is what their traces say (spec/trace.md, T4), in the order of the      *)
(* store's versions. Trace has accepted the steps of the store before.        *)
(* Each element is a step of Keys, Inbox, Lists or Sharing, as far as one     *)
(* store can know of it, with what its commit wrote. Next takes one element   *)
(* after the other. It stops at an element that would break a guarantee of    *)
(* its module. The trace is accepted if and only if Next reaches the end.     *)
(* Those modules also have the state of the homeserver and of other devices.  *)
(* A trace does not have it. Each guarantee is therefore stated here as what  *)
(* the device itself must do to keep it:                                      *)
(*                                                                            *)
(*   AccountCreatedOnce   all processes have the same device and its keys     *)
(*   PublishedIsUploaded  an answer settles the offer that it is for, and no  *)
(*                        other; and no id is offered twice                   *)
(*   NoOrphanedKey        an offer is stored with its keys before it is sent; *)
(*                        it is sent once; only a message that can be         *)
(*                        decrypted uses up a key                             *)
(*   KeysBounded          no more keys are offered than are missing           *)
(*   NoneUnreadable       a fallback key is replaced no sooner than allowed   *)
(*   ExactlyOnce          a response counts for the token that it was asked   *)
(*                        with, and a message is read once                    *)
(*   AtomicSync           a commit has all that its sync response changes     *)
(*   NothingLost          what a sync brings is used or stored in the commit  *)
(*                        of its token; a message that is noted as sent is    *)
(*                        stored in the same commit                           *)
(*   DirtyNotLost         only the answer to a query that was made for a mark *)
(*                        deletes the mark, or replaces the device list       *)
(*   NoRatchetReuse       an index of a ratchet is used once, and this is     *)
(*                        stored                                              *)
(*                                                                            *)
(* A trace may begin late, and may have gaps: a killed process has not        *)
(* written its last lines. What is not known is Unknown, and breaks nothing.  *)
(* If lines of an operation may be missing, e.told is FALSE in its elements:  *)
(* then nothing follows from the absence of a line.                           *)
EXTENDS Integers, Sequences, FiniteSets, TLC

CONSTANTS
    Log,
    Start,           \* the state before the first element: Unstarted, or the end of an earlier part
    Target,          \* how many one-time keys the homeserver is to have (M3.6)
    FallbackPeriod,  \* how long a fallback key is kept (M4.2)
    MessagesKept     \* how many messages of a device are remembered (M7.2)

VARIABLES
    at,     \* which element of Log is next
    keys,   \* the account and what is offered of it: Keys
    inbox,  \* the tokens of syncs, and which messages were read: Inbox
    lists,  \* the marks of device lists: Lists
    used    \* by ratchet: the last index that was used: Sharing, Inbox

\* The same as Log. TLC evaluates a definition once. What a configuration substitutes for a
\* constant, it evaluates each time that the constant is used.
TheSteps == Log

vars == <<at, keys, inbox, lists, used>>

\* In the place of a name:
Unknown == "unknown"
None == "none"
\* In the place of a number:
Untold == -1
NoNumber == -2

Get(function, argument, default) == IF argument \in DOMAIN function THEN function[argument] ELSE default

-------------------------------------------------------------------------------
(* keys    device     the device and its keys                                   *)
(*         offer      the request of the offer that stands, or None             *)
(*         confirms   whether its answer confirms the newest fallback key       *)
(*         serial     of the last offer, answer or abandonment                  *)
(*         count      how many one-time keys the homeserver has, if it is known *)
(*         told       by sliding connection: the count that it was told last    *)
(*         ids        the ids of all one-time keys that were offered            *)
(*         left       the uploads that were handed out, and by which process    *)
(*         carried    by upload: its fallback key                               *)
(*         fallback   the newest fallback key                                   *)
(*         confirmed  whether the homeserver is known to have it                *)
(*         spent      whether the homeserver says that it was used              *)
(*         signs      what has come since the last offer and did not count     *)
(* inbox   tokens     by connection, and for all sliding ones of messages       *)
(*         other      that of each connection that no element has named yet     *)
(*         read       by sender: the last messages that were decrypted          *)
(* lists   marks      by mark: the version that has set it; 0: it is settled    *)
(*         followed   the marks of users whose lists are followed               *)
(*         asked      by query: its marks, and the list and the version of each *)

UnknownKeys ==
    [device |-> Unknown, offer |-> Unknown, confirms |-> FALSE, serial |-> Untold, count |-> Untold, told |-> <<>>,
     ids |-> {}, left |-> <<>>, carried |-> <<>>, fallback |-> Unknown, confirmed |-> Unknown, spent |-> Unknown,
     signs |-> {}]

\* Of a device that was made just now.
NewKeys(device) ==
    [UnknownKeys EXCEPT !.device = device, !.offer = None, !.serial = 0, !.count = 0, !.fallback = None,
                        !.confirmed = "no", !.spent = "no"]

\* What is known of keys and syncs after a commit whose lines are missing, or which made a record anew.
ForgottenKeys == [keys EXCEPT !.offer = Unknown, !.serial = Untold, !.count = Untold, !.told = <<>>,
                              !.fallback = Unknown, !.confirmed = Unknown, !.spent = Unknown]

Unstarted ==
    [keys |-> UnknownKeys, inbox |-> [tokens |-> <<>>, other |-> Unknown, read |-> <<>>],
     lists |-> [marks |-> <<>>, followed |-> {}, asked |-> <<>>], used |-> <<>>]

Begin ==
    /\ at = 1
    /\ keys = Start.keys /\ inbox = Start.inbox /\ lists = Start.lists /\ used = Start.used

\* The variables that a step leaves unchanged.
But(rest) == UNCHANGED rest

\* Each condition has a name, by which checking/explain/machine_reasons.py says which property and clause
\* it is. A step is possible if no condition fails.
Unless(holds, reason) == IF holds THEN {} ELSE {reason}

\* Whether a commit wrote records of a kind; TRUE if lines may be missing.
Wrote(e, kind) == e.told => kind \in e.wrote

-------------------------------------------------------------------------------
(* Keys.                                                                        *)

\* M1.1
OpenMachine(e) ==
    /\ keys' = IF keys.device # Unknown THEN keys
               ELSE IF e.told /\ "account" \in e.wrote THEN NewKeys(e.device) ELSE [keys EXCEPT !.device = e.device]
    /\ inbox' = IF keys.device = Unknown /\ e.told /\ "account" \in e.wrote
                THEN [inbox EXCEPT !.other = None] ELSE inbox
    /\ But(<<lists, used>>)

WhyNotOpen(e) == Unless(keys.device \in {Unknown, e.device}, "another_account")

Replaces(e) == e.fallback # None /\ e.fallback # Unknown /\ keys.fallback \notin {None, Unknown, e.fallback}

\* M2.1, M2.2, M2.9, M3.6, M4.2
OfferKeys(e) ==
    /\ keys' = [keys EXCEPT
            !.offer = e.request, !.confirms = e.with_fallback,
            !.serial = IF e.serial = Untold /\ @ # Untold THEN @ + 1 ELSE e.serial,
            !.count = NoNumber, !.ids = @ \cup e.ids, !.carried = (e.request :> e.fallback) @@ @,
            !.fallback = IF e.fallback = None THEN @ ELSE e.fallback,
            !.confirmed = IF ~e.with_fallback THEN @ ELSE IF e.fallback = Unknown THEN Unknown ELSE "no",
            !.spent = IF Replaces(e) THEN "no" ELSE IF e.fallback = Unknown THEN Unknown ELSE @,
            !.signs = {}]
    /\ But(<<inbox, lists, used>>)

\* M3.6. If the homeserver's count is not known, nothing follows.
TooMany(e) ==
    /\ e.count > 0
    /\ \/ keys.count = NoNumber
       \/ keys.count >= 0 /\ e.count > Target - keys.count

WhyNotOffer(e) ==
    Unless(keys.offer \in {None, Unknown}, "offer_stands")
    \cup Unless(Wrote(e, "account") /\ Wrote(e, "offer"), "offer_not_stored")
    \cup Unless(keys.ids \cap e.ids = {}, "id_offered_again")
    \cup (IF ~TooMany(e) THEN {} ELSE IF keys.signs = {} THEN {"more_than_missing"} ELSE keys.signs)
    \cup Unless(Replaces(e) => keys.confirmed # "no",
                IF "put_back" \in keys.signs THEN "fallback_put_back" ELSE "fallback_too_early")
    \cup Unless(Replaces(e) => keys.spent # "no", "fallback_too_early")
    \cup Unless(Replaces(e) => e.kept = Untold \/ e.kept >= FallbackPeriod, "fallback_too_early")

\* M2.2, M2.3
HandOutUpload(e) ==
    /\ keys' = [keys EXCEPT !.left = (e.request :> e.p) @@ @]
    /\ But(<<inbox, lists, used>>)

\* If the process that had the upload first writes lines later, it was only suspended: then two processes have the
\* upload at once.
WhyNotUpload(e) ==
    IF e.request \notin DOMAIN keys.left THEN {}
    ELSE {IF keys.left[e.request] # e.p /\ \E i \in (at + 1)..Len(TheSteps) : TheSteps[i].p = keys.left[e.request]
          THEN "upload_of_another" ELSE "upload_again"}

\* M2.4, M2.5, M4.4, M4.5
AnswerUpload(e) ==
    /\ keys' = CASE keys.offer = e.request \/ (keys.offer = Unknown /\ "offer" \in e.deleted) ->
                    [keys EXCEPT !.offer = None, !.serial = IF @ = Untold THEN @ ELSE @ + 1, !.count = e.count,
                                 !.confirmed = IF keys.offer = Unknown THEN Unknown ELSE IF keys.confirms THEN "yes" ELSE @]
                 [] keys.offer = Unknown -> ForgottenKeys
                 [] Get(keys.carried, e.request, None) \notin {None, keys.fallback} ->
                    [keys EXCEPT !.confirmed = IF keys.carried[e.request] = Unknown THEN Unknown ELSE "no",
                                 !.confirms = FALSE, !.signs = @ \cup {"put_back"}]
                 [] OTHER -> keys
    /\ But(<<inbox, lists, used>>)

WhyNotAnswerUpload(e) ==
    Unless(e.told /\ "offer" \in e.deleted => keys.offer \in {e.request, Unknown}, "settles_another_offer")
    \cup Unless(e.told /\ keys.offer = e.request => "offer" \in e.deleted, "offer_not_settled")

\* M2.6, M2.7, M2.8
AbandonOffer(e) ==
    /\ keys' = [keys EXCEPT !.offer = None, !.serial = IF @ = Untold THEN @ ELSE @ + 1, !.count = NoNumber]
    /\ But(<<inbox, lists, used>>)

WhyNotAbandon(e) == Unless(keys.offer \in {e.request, Unknown}, "abandons_another_offer")

-------------------------------------------------------------------------------
(* Inbox: what a sync says of keys, of device lists, and of messages.           *)

\* M3.3, M3.4. A response to a sliding sync that leaves the count out means the last count of the connection.
Said(e) == IF e.count = NoNumber /\ e.asked # None THEN Get(keys.told, e.connection, Untold) ELSE e.count

\* M3.2
Counts(e) == keys.serial = e.serial /\ keys.offer = None

MayCount(e) == Counts(e) \/ e.serial = Untold \/ keys.serial = Untold \/ keys.offer = Unknown

KeysAfter(e) ==
    IF ~e.lists THEN keys
    ELSE [keys EXCEPT
            !.told = IF e.sliding THEN (e.connection :> Said(e)) @@ @ ELSE @,
            !.count = IF ~MayCount(e) THEN @ ELSE IF ~Counts(e) THEN Untold ELSE IF Said(e) = NoNumber THEN @ ELSE Said(e),
            !.spent = IF ~MayCount(e) THEN @ ELSE IF ~Counts(e) \/ e.spent = Unknown THEN Unknown
                      ELSE IF e.spent = None THEN @ ELSE e.spent,
            !.signs = @ \cup (IF MayCount(e) THEN IF e.count = NoNumber THEN {"count_left_out"} ELSE {}
                              ELSE IF e.count >= 0 THEN {"count_too_old"} ELSE {})]

TokenOf(name) == Get(inbox.tokens, name, inbox.other)

Messages == "of messages"

ReceiveSync(e) ==
    /\ keys' = KeysAfter(e)
    /\ inbox' = [inbox EXCEPT !.tokens =
            (IF e.lists THEN e.connection :> e.next ELSE <<>>)
            @@ (IF e.sliding /\ e.events
                THEN Messages :> IF e.next_events = None THEN Unknown ELSE e.next_events ELSE <<>>) @@ @]
    /\ But(<<lists, used>>)

\* M5.2, M5.3; M5.1; M5.6; M6.1; M5.4
WhyNotSync(e) ==
    Unless(e.lists => TokenOf(e.connection) \in {e.asked, Unknown}, "stale_response")
    \cup Unless(e.sliding /\ e.events /\ e.asked_events # None  \* which may also be untold
                => TokenOf(Messages) \in {e.asked_events, Unknown}, "stale_response")
    \cup Unless(e.lists \/ e.events => Wrote(e, "sync"), "token_not_stored")
    \cup Unless(e.told /\ e.events => e.processed >= e.number \/ "unprocessed" \in e.wrote, "events_not_processed")
    \cup Unless(e.told /\ e.lists /\ "sync" \in e.wrote => (e.changed \cap lists.followed) \ e.cleared \subseteq e.set, "change_not_marked")
    \cup Unless(e.told /\ e.lists /\ "sync" \in e.wrote /\ e.asked = None => lists.followed \ e.cleared \subseteq e.set, "lists_not_marked")

KeepRead(before, message) ==
    LET all == Append(before, message)
    IN  IF Len(all) > MessagesKept THEN SubSeq(all, 2, Len(all)) ELSE all

ReadBefore(e) == \E i \in DOMAIN Get(inbox.read, e.peer, <<>>) : inbox.read[e.peer][i] = e.message

\* M7.5, M7.7, M7.8
DecryptOlm(e) ==
    /\ inbox' = IF e.outcome # "ok" \/ e.message = Unknown THEN inbox
                ELSE [inbox EXCEPT !.read = (e.peer :> KeepRead(Get(@, e.peer, <<>>), e.message)) @@ @]
    /\ But(<<keys, lists, used>>)

WhyNotDecryptOlm(e) ==
    Unless(e.outcome = "ok" => Wrote(e, "peer"), "session_not_stored")
    \cup Unless(e.outcome = "ok" /\ e.begins /\ "peer" \in e.wrote => Wrote(e, "account"), "account_not_stored")
    \cup Unless("account" \in e.wrote => e.spends, "key_spent_in_vain")
    \cup Unless(ReadBefore(e) => e.outcome = "repeated", "repetition_not_noticed")

-------------------------------------------------------------------------------
(* Lists.                                                                       *)

\* M6.2
HandOutQuery(e) ==
    /\ lists' = IF e.request \in DOMAIN lists.asked THEN lists
                ELSE [lists EXCEPT !.asked = (e.request :>
                        {[mark |-> m, list |-> e.lists[m], set |-> Get(lists.marks, m, Untold)] : m \in DOMAIN e.lists}) @@ @]
    /\ But(<<keys, inbox, used>>)

Stands(asked) == Get(lists.marks, asked.mark, Untold) \in {asked.set, Untold} \/ asked.set = Untold

\* M6.2. The element of its commit says which marks it has deleted.
AnswerQuery(e) == But(<<keys, inbox, lists, used>>)

WhyNotAnswerQuery(e) ==
    LET late == {asked \in Get(lists.asked, e.request, {}) : e.told /\ ~Stands(asked)}
    IN  Unless(\A asked \in late : asked.mark \notin e.cleared, "newer_mark_cleared")
        \cup Unless(\A asked \in late : asked.list \in e.replaced => asked.mark \in e.cleared, "late_list_taken")

\* What a commit has written. It comes after the other elements of its operation. If lines of the operation are
\* missing, the reason for what it wrote is not known.
CommitRecords(e) ==
    LET forgets == IF e.told THEN {} ELSE e.wrote \cup e.deleted
        anew == e.repaired
    IN  /\ keys' = IF {"own_device", "offer"} \cap (forgets \cup anew) # {} THEN ForgottenKeys ELSE keys
        /\ inbox' = LET told == IF "peer" \in anew THEN [inbox EXCEPT !.read = <<>>] ELSE inbox
                    IN  IF "sync" \in e.deleted \cup forgets \cup anew
                        THEN [told EXCEPT !.tokens = <<>>, !.other = Unknown] ELSE told
        /\ lists' = [lists EXCEPT
                !.marks = [m \in e.set |-> e.version] @@ [m \in e.cleared |-> 0] @@ @,
                \* A user with whom no room is shared any more is followed no longer.
                !.followed = IF "tracked" \in forgets THEN {}
                             ELSE (IF "tracked" \in e.wrote THEN @ \ e.cleared ELSE @) \cup e.set]
        /\ But(used)

-------------------------------------------------------------------------------
(* Sharing.                                                                     *)

\* M10.1, M10.2, M7.4
Encrypt(e) ==
    /\ used' = (e.ratchet :> e.index) @@ used
    /\ But(<<keys, inbox, lists>>)

WhyNotEncrypt(e) ==
    Unless(e.told => e.kind \in e.moved, IF e.committed THEN "place_not_stored" ELSE "not_committed")
    \cup Unless(Get(used, e.ratchet, -1) < e.index, "place_used_again")

\* M9.1, M21.2
Share(e) == But(<<keys, inbox, lists, used>>)

WhyNotShare(e) == Unless(e.told => e.request \in e.sends \cup {Unknown} /\ "outbox" \in e.wrote, "request_not_stored")

-------------------------------------------------------------------------------
Why(e) ==
    CASE e.step = "open_machine"   -> WhyNotOpen(e)
      [] e.step = "offer"          -> WhyNotOffer(e)
      [] e.step = "upload"         -> WhyNotUpload(e)
      [] e.step = "answer_upload"  -> WhyNotAnswerUpload(e)
      [] e.step = "abandon"        -> WhyNotAbandon(e)
      [] e.step = "batch"          -> WhyNotSync(e)
      [] e.step = "decrypt_olm"    -> WhyNotDecryptOlm(e)
      [] e.step = "query"          -> {}
      [] e.step = "answer_query"   -> WhyNotAnswerQuery(e)
      [] e.step = "encrypt"        -> WhyNotEncrypt(e)
      [] e.step = "share"          -> WhyNotShare(e)
      [] OTHER                     -> {}

Step(e) ==
    CASE e.step = "open_machine"   -> OpenMachine(e)
      [] e.step = "offer"          -> OfferKeys(e)
      [] e.step = "upload"         -> HandOutUpload(e)
      [] e.step = "answer_upload"  -> AnswerUpload(e)
      [] e.step = "abandon"        -> AbandonOffer(e)
      [] e.step = "batch"          -> ReceiveSync(e)
      [] e.step = "decrypt_olm"    -> DecryptOlm(e)
      [] e.step = "query"          -> HandOutQuery(e)
      [] e.step = "answer_query"   -> AnswerQuery(e)
      [] e.step = "encrypt"        -> Encrypt(e)
      [] e.step = "share"          -> Share(e)
      [] e.step = "commit"         -> CommitRecords(e)
      [] OTHER                     -> But(<<keys, inbox, lists, used>>)

Next == at <= Len(TheSteps) /\ Why(TheSteps[at]) = {} /\ Step(TheSteps[at]) /\ at' = at + 1

\* Each state has at most one successor.
Place == at
===============================================================================
