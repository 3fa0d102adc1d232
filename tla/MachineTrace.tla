------------------------------ MODULE MachineTrace -----------------------------
(* Whether the traces of one device's processes say only what is possible for *)
(* its machine. Log has the steps of the machine (spec/trace.md, T4), in the  *)
(* order of the store's versions. Trace has already accepted the steps of the *)
(* store. Each element of Log is a step of Keys, Inbox, Lists or Sharing,     *)
(* with what its commit wrote. It has as much of the step as one store can    *)
(* know. Next takes one element after the other. It stops at an element that  *)
(* would break a guarantee. So the trace is accepted if and only if Next      *)
(* reaches the end.                                                           *)
(*                                                                            *)
(* Keys, Inbox, Lists and Sharing also have the state of the homeserver and   *)
(* of other devices. A trace does not. So each guarantee is stated here as    *)
(* what the device itself must do to keep it:                                 *)
(*                                                                            *)
(*   AccountCreatedOnce   all processes have the same device with the same    *)
(*                        keys                                                *)
(*   PublishedIsUploaded  an answer settles the offer that it belongs to, and *)
(*                        no other; and no id is offered twice                *)
(*   NoOrphanedKey        an offer is stored with its keys before it is sent; *)
(*                        it is sent once; only a message that can be         *)
(*                        decrypted uses up a key                             *)
(*   KeysBounded          no more keys are offered than are missing           *)
(*   NoneUnreadable       a fallback key is replaced no sooner than allowed   *)
(*   ExactlyOnce          a response is applied only if its sync was asked    *)
(*                        with the stored token; a message is read once       *)
(*   AtomicSync           one commit has all that a sync response changes     *)
(*   NothingLost          the commit that stores the token of a sync also     *)
(*                        uses or stores what the sync brings; the commit     *)
(*                        that notes a message as sent also stores it         *)
(*   DirtyNotLost         only the answer to a query that was made for a mark *)
(*                        deletes the mark, or replaces the device list       *)
(*   NoRatchetReuse       an index of a ratchet is used once, and a commit    *)
(*                        stores that it is used                              *)
(*                                                                            *)
(* A trace may begin late and may have gaps, since a process that was killed  *)
(* has not written its last lines. A value that is not known is Unknown, and  *)
(* breaks no guarantee. If lines of an operation may be missing, e.complete   *)
(* is FALSE in the elements of the operation. Then nothing follows from the   *)
(* absence of a line.                                                         *)
EXTENDS Integers, Sequences, FiniteSets, TLC

CONSTANTS
    Log,
    Start,           \* the state before the first element: Unstarted, or the end of an earlier part
    Target,          \* how many one-time keys the homeserver is to have (M3.6)
    FallbackPeriod,  \* for how many milliseconds a fallback key is kept at least (M4.2)
    MessagesKept     \* how many messages of a device are remembered (M7.2)

VARIABLES
    at,     \* which element of Log is next
    keys,   \* of Keys: the account, and the keys that it offers
    inbox,  \* of Inbox: the tokens of syncs, and which messages were decrypted
    lists,  \* of Lists: the marks of device lists
    used    \* of Sharing and Inbox, by ratchet: the last index that was used

\* The same as Log, for speed: TLC evaluates this definition once. It would evaluate what the
\* configuration substitutes for Log at each use of Log.
TheSteps == Log

vars == <<at, keys, inbox, lists, used>>

\* Instead of a name:
Unknown == "unknown"  \* it is not known
None == "none"        \* there is none
\* Instead of a number:
UnknownNumber == -1   \* it is not known
NoNumber == -2        \* there is none

\* The value of a function, or a default outside its domain.
Get(function, argument, default) == IF argument \in DOMAIN function THEN function[argument] ELSE default

-------------------------------------------------------------------------------
(* keys    device     the device and its identity key                           *)
(*         offer      the request of the offer that stands, or None             *)
(*         confirms   whether the answer to this offer confirms the newest      *)
(*                    fallback key                                              *)
(*         serial     the number of the last offer, answer or abandonment       *)
(*         count      how many one-time keys the homeserver has, if known       *)
(*         reported   by sliding connection: the last count that it received    *)
(*         ids        the ids of all one-time keys that were offered            *)
(*         left       by upload that was handed out: the process that has it    *)
(*         carried    by upload: its fallback key                               *)
(*         fallback   the newest fallback key                                   *)
(*         confirmed  whether the homeserver is known to have the newest        *)
(*                    fallback key                                              *)
(*         spent      whether the homeserver says that this key was used        *)
(*         signs      what may explain a wrong offer: names of reasons for what *)
(*                    has come since the last offer                             *)
(* inbox   tokens     by connection: its token. Messages has the token of the   *)
(*                    messages, which all sliding connections share             *)
(*         other      the token of each connection that no element has named    *)
(*                    yet                                                       *)
(*         read       by sender: the last messages that were decrypted          *)
(* lists   marks      by mark: the version that set it; 0: it is settled        *)
(*         followed   the marks of tracked users                                *)
(*         asked      by query: for each of its marks, the mark, its device     *)
(*                    list, and the version that had set it (set)               *)

\* Nothing is known.
UnknownKeys ==
    [device |-> Unknown, offer |-> Unknown, confirms |-> FALSE, serial |-> UnknownNumber, count |-> UnknownNumber,
     reported |-> <<>>, ids |-> {}, left |-> <<>>, carried |-> <<>>, fallback |-> Unknown, confirmed |-> Unknown, spent |-> Unknown,
     signs |-> {}]

\* The keys of a device that has just been created.
NewKeys(device) ==
    [UnknownKeys EXCEPT !.device = device, !.offer = None, !.serial = 0, !.count = 0, !.fallback = None,
                        !.confirmed = "no", !.spent = "no"]

\* The keys after a commit whose lines are missing, or after a repair of their records.
ForgottenKeys == [keys EXCEPT !.offer = Unknown, !.serial = UnknownNumber, !.count = UnknownNumber, !.reported = <<>>,
                              !.fallback = Unknown, !.confirmed = Unknown, !.spent = Unknown]

\* The state at the beginning of a trace: nothing is known.
Unstarted ==
    [keys |-> UnknownKeys, inbox |-> [tokens |-> <<>>, other |-> Unknown, read |-> <<>>],
     lists |-> [marks |-> <<>>, followed |-> {}, asked |-> <<>>], used |-> <<>>]

\* The initial state.
Begin ==
    /\ at = 1
    /\ keys = Start.keys /\ inbox = Start.inbox /\ lists = Start.lists /\ used = Start.used

\* A step leaves these variables unchanged.
But(rest) == UNCHANGED rest

\* The name of a condition, if it does not hold. A step is possible if all conditions hold.
\* checking/explain/machine_reasons.py names the property and the clauses of each condition.
Unless(holds, reason) == IF holds THEN {} ELSE {reason}

\* Whether the commit of an element wrote records of a kind. TRUE if lines may be missing.
Wrote(e, kind) == e.complete => kind \in e.wrote

-------------------------------------------------------------------------------
(* Keys. A definition WhyNot... has the names of the conditions of a step that  *)
(* do not hold.                                                                 *)

\* M1.1. CreateAccount, or a process opens the machine of an account that exists.
OpenMachine(e) ==
    /\ keys' = IF keys.device # Unknown THEN keys
               ELSE IF e.complete /\ "account" \in e.wrote THEN NewKeys(e.device) ELSE [keys EXCEPT !.device = e.device]
    /\ inbox' = IF keys.device = Unknown /\ e.complete /\ "account" \in e.wrote
                THEN [inbox EXCEPT !.other = None] ELSE inbox
    /\ But(<<lists, used>>)

\* All processes have the same device and keys.
WhyNotOpen(e) == Unless(keys.device \in {Unknown, e.device}, "another_account")

\* Whether an offer replaces the fallback key that was the newest.
Replaces(e) == e.fallback # None /\ e.fallback # Unknown /\ keys.fallback \notin {None, Unknown, e.fallback}

\* M2.1, M2.2, M2.9, M3.6, M4.2. OfferKeys: keys are made and offered.
OfferKeys(e) ==
    /\ keys' = [keys EXCEPT
            !.offer = e.request, !.confirms = e.with_fallback,
            !.serial = IF e.serial = UnknownNumber /\ @ # UnknownNumber THEN @ + 1 ELSE e.serial,
            !.count = NoNumber, !.ids = @ \cup e.ids, !.carried = (e.request :> e.fallback) @@ @,
            !.fallback = IF e.fallback = None THEN @ ELSE e.fallback,
            !.confirmed = IF ~e.with_fallback THEN @ ELSE IF e.fallback = Unknown THEN Unknown ELSE "no",
            !.spent = IF Replaces(e) THEN "no" ELSE IF e.fallback = Unknown THEN Unknown ELSE @,
            !.signs = {}]
    /\ But(<<inbox, lists, used>>)

\* M3.6. Whether an offer has more one-time keys than are missing. FALSE if the homeserver's count
\* is not known.
TooMany(e) ==
    /\ e.count > 0
    /\ \/ keys.count = NoNumber
       \/ keys.count >= 0 /\ e.count > Target - keys.count

\* If there are too many keys, keys.signs names the likely reasons.
WhyNotOffer(e) ==
    Unless(keys.offer \in {None, Unknown}, "offer_stands")
    \cup Unless(Wrote(e, "account") /\ Wrote(e, "offer"), "offer_not_stored")
    \cup Unless(keys.ids \cap e.ids = {}, "id_offered_again")
    \cup (LET miscounts == keys.signs \ {"put_back"} IN
          IF ~TooMany(e) THEN {} ELSE IF miscounts = {} THEN {"more_than_missing"} ELSE miscounts)
    \cup Unless(Replaces(e) => keys.confirmed # "no",
                IF "put_back" \in keys.signs THEN "fallback_put_back" ELSE "fallback_too_early")
    \cup Unless(Replaces(e) => keys.spent # "no", "fallback_too_early")
    \cup Unless(Replaces(e) => e.kept = UnknownNumber \/ e.kept >= FallbackPeriod, "fallback_too_early")

\* M2.2, M2.3. A part of OfferKeys: the upload is handed out to a process.
HandOutUpload(e) ==
    /\ keys' = [keys EXCEPT !.left = (e.request :> e.p) @@ @]
    /\ But(<<inbox, lists, used>>)

\* An upload is handed out once. If the process that had it first writes lines later, that process
\* was only suspended. Then two processes have the upload at the same time.
WhyNotUpload(e) ==
    IF e.request \notin DOMAIN keys.left THEN {}
    ELSE {IF keys.left[e.request] # e.p /\ \E i \in (at + 1)..Len(TheSteps) : TheSteps[i].p = keys.left[e.request]
          THEN "upload_of_another" ELSE "upload_again"}

\* M2.4, M2.5, M4.4, M4.5. MarkSent: an answer to an upload. The cases are: the offer of the upload
\* stands; it is not known which offer stands; the upload has carried an older fallback key; the
\* answer changes nothing.
AnswerUpload(e) ==
    /\ keys' = CASE keys.offer = e.request \/ (keys.offer = Unknown /\ "offer" \in e.deleted) ->
                    [keys EXCEPT !.offer = None, !.serial = IF @ = UnknownNumber THEN @ ELSE @ + 1, !.count = e.count,
                                 !.confirmed = IF keys.offer = Unknown THEN Unknown ELSE IF keys.confirms THEN "yes" ELSE @]
                 [] keys.offer = Unknown -> ForgottenKeys
                 [] Get(keys.carried, e.request, None) \notin {None, keys.fallback} ->
                    [keys EXCEPT !.confirmed = IF keys.carried[e.request] = Unknown THEN Unknown ELSE "no",
                                 !.confirms = FALSE, !.signs = @ \cup {"put_back"}]
                 [] OTHER -> keys
    /\ But(<<inbox, lists, used>>)

\* An answer deletes the offer if and only if it is the answer to that offer.
WhyNotAnswerUpload(e) ==
    Unless(e.complete /\ "offer" \in e.deleted => keys.offer \in {e.request, Unknown}, "settles_another_offer")
    \cup Unless(e.complete /\ keys.offer = e.request => "offer" \in e.deleted, "offer_not_settled")

\* M2.6, M2.7, M2.8. MarkFailed, AbandonOffer: an offer is abandoned.
AbandonOffer(e) ==
    /\ keys' = [keys EXCEPT !.offer = None, !.serial = IF @ = UnknownNumber THEN @ ELSE @ + 1, !.count = NoNumber]
    /\ But(<<inbox, lists, used>>)

\* The offer that is abandoned is the one that stands.
WhyNotAbandon(e) == Unless(keys.offer \in {e.request, Unknown}, "abandons_another_offer")

-------------------------------------------------------------------------------
(* Inbox: what a sync response says about keys, device lists and messages.      *)

\* M3.3, M3.4. The count that a response means. If a response to a sliding sync has no count, it
\* means the last count of the connection.
Said(e) == IF e.count = NoNumber /\ e.asked # None THEN Get(keys.reported, e.connection, UnknownNumber) ELSE e.count

\* M3.2. Whether the count of a response is used: no offer stands, and the serial is still that of
\* the request.
Counts(e) == keys.serial = e.serial /\ keys.offer = None

\* The same, but TRUE also if it is not known.
MayCount(e) == Counts(e) \/ e.serial = UnknownNumber \/ keys.serial = UnknownNumber \/ keys.offer = Unknown

\* The keys after a sync response.
KeysAfter(e) ==
    IF ~e.lists THEN keys
    ELSE [keys EXCEPT
            !.reported = IF e.sliding THEN (e.connection :> Said(e)) @@ @ ELSE @,
            !.count = IF ~MayCount(e) THEN @ ELSE IF ~Counts(e) THEN UnknownNumber ELSE IF Said(e) = NoNumber THEN @ ELSE Said(e),
            !.spent = IF ~MayCount(e) THEN @ ELSE IF ~Counts(e) \/ e.spent = Unknown THEN Unknown
                      ELSE IF e.spent = None THEN @ ELSE e.spent,
            !.signs = @ \cup (IF MayCount(e) THEN IF e.count = NoNumber THEN {"count_left_out"} ELSE {}
                              ELSE IF e.count >= 0 THEN {"count_too_old"} ELSE {})]

\* The stored token of a connection, or of the messages of all sliding connections (Messages).
TokenOf(name) == Get(inbox.tokens, name, inbox.other)

Messages == "of messages"

\* ReceiveSync: a response is applied.
ReceiveSync(e) ==
    /\ keys' = KeysAfter(e)
    /\ inbox' = [inbox EXCEPT !.tokens =
            (IF e.lists THEN e.connection :> e.next ELSE <<>>)
            @@ (IF e.sliding /\ e.events
                THEN Messages :> IF e.next_events = None THEN Unknown ELSE e.next_events ELSE <<>>) @@ @]
    /\ But(<<lists, used>>)

\* The token of the request is the stored one (M5.2, M5.3). The commit stores the new token (M5.1).
\* All messages are processed or stored as records (M5.6). The commit sets a mark for each changed
\* list (M6.1). If the request had no token, it sets the marks of all tracked users (M5.4).
WhyNotSync(e) ==
    Unless(e.lists => TokenOf(e.connection) \in {e.asked, Unknown}, "stale_response")
    \cup Unless(e.sliding /\ e.events /\ e.asked_events # None  \* (it may be Unknown)
                => TokenOf(Messages) \in {e.asked_events, Unknown}, "stale_response")
    \cup Unless(e.lists \/ e.events => Wrote(e, "sync"), "token_not_stored")
    \cup Unless(e.complete /\ e.events => e.processed >= e.number \/ "unprocessed" \in e.wrote, "events_not_processed")
    \cup Unless(e.complete /\ e.lists /\ "sync" \in e.wrote => (e.changed \cap lists.followed) \ e.cleared \subseteq e.set, "change_not_marked")
    \cup Unless(e.complete /\ e.lists /\ "sync" \in e.wrote /\ e.asked = None => lists.followed \ e.cleared \subseteq e.set, "lists_not_marked")

\* The last messages of a device, with one more. No more than MessagesKept are remembered.
KeepRead(before, message) ==
    LET all == Append(before, message)
    IN  IF Len(all) > MessagesKept THEN SubSeq(all, 2, Len(all)) ELSE all

\* Whether this message was decrypted before.
ReadBefore(e) == \E i \in DOMAIN Get(inbox.read, e.peer, <<>>) : inbox.read[e.peer][i] = e.message

\* M7.5, M7.7, M7.8. A part of ReceiveSync: an Olm message is decrypted, or can't be.
DecryptOlm(e) ==
    /\ inbox' = IF e.outcome # "ok" \/ e.message = Unknown THEN inbox
                ELSE [inbox EXCEPT !.read = (e.peer :> KeepRead(Get(@, e.peer, <<>>), e.message)) @@ @]
    /\ But(<<keys, lists, used>>)

\* The commit stores the session of a decrypted message, and the account if the message used a
\* one-time key. Other messages leave the account unchanged. A message that was decrypted before is
\* a repetition.
WhyNotDecryptOlm(e) ==
    Unless(e.outcome = "ok" => Wrote(e, "peer"), "session_not_stored")
    \cup Unless(e.outcome = "ok" /\ e.begins /\ "peer" \in e.wrote => Wrote(e, "account"), "account_not_stored")
    \cup Unless("account" \in e.wrote => e.spends, "key_spent_without_message")
    \cup Unless(ReadBefore(e) => e.outcome = "repeated", "repetition_not_noticed")

-------------------------------------------------------------------------------
(* Lists.                                                                       *)

\* M6.2. A query for device lists is handed out, with the marks that stand then.
HandOutQuery(e) ==
    /\ lists' = IF e.request \in DOMAIN lists.asked THEN lists
                ELSE [lists EXCEPT !.asked = (e.request :>
                        {[mark |-> m, list |-> e.lists[m], set |-> Get(lists.marks, m, UnknownNumber)] : m \in DOMAIN e.lists}) @@ @]
    /\ But(<<keys, inbox, used>>)

\* Whether a mark has not been set again, or settled, since its query was handed out. TRUE if it is
\* not known.
Stands(asked) == Get(lists.marks, asked.mark, UnknownNumber) \in {asked.set, UnknownNumber} \/ asked.set = UnknownNumber

\* M6.2. MarkSent: the answer to a query. Its commit, which is an element too, deletes the marks
\* (CommitRecords).
AnswerQuery(e) == But(<<keys, inbox, lists, used>>)

\* A mark that was set again, or settled, does not count: the answer neither deletes it nor
\* replaces the device list.
WhyNotAnswerQuery(e) ==
    LET late == {asked \in Get(lists.asked, e.request, {}) : e.complete /\ ~Stands(asked)}
    IN  Unless(\A asked \in late : asked.mark \notin e.cleared, "newer_mark_cleared")
        \cup Unless(\A asked \in late : asked.list \in e.replaced => asked.mark \in e.cleared, "late_list_taken")

\* What a commit has written. This element comes after the other elements of its operation. If
\* lines of the operation may be missing, it is not known why it wrote these records.
CommitRecords(e) ==
    LET forgets == IF e.complete THEN {} ELSE e.wrote \cup e.deleted
        anew == e.repaired
    IN  /\ keys' = IF {"own_device", "offer"} \cap (forgets \cup anew) # {} THEN ForgottenKeys ELSE keys
        /\ inbox' = LET kept == IF "peer" \in anew THEN [inbox EXCEPT !.read = <<>>] ELSE inbox
                    IN  IF "sync" \in e.deleted \cup forgets \cup anew
                        THEN [kept EXCEPT !.tokens = <<>>, !.other = Unknown] ELSE kept
        /\ lists' = [lists EXCEPT
                !.marks = [m \in e.set |-> e.version] @@ [m \in e.cleared |-> 0] @@ @,
                \* A user who shares no room with this one any more is no longer tracked.
                !.followed = IF "tracked" \in forgets THEN {}
                             ELSE (IF "tracked" \in e.wrote THEN @ \ e.cleared ELSE @) \cup e.set]
        /\ But(used)

-------------------------------------------------------------------------------
(* Sharing.                                                                     *)

\* M10.1, M10.2, M7.4. Encrypt: a message is encrypted with the next index of a ratchet.
Encrypt(e) ==
    /\ used' = (e.ratchet :> e.index) @@ used
    /\ But(<<keys, inbox, lists>>)

\* The commit stores that the index is used, and the index was not used before.
WhyNotEncrypt(e) ==
    Unless(e.complete => e.kind \in e.moved, IF e.committed THEN "index_not_stored" ELSE "not_committed")
    \cup Unless(Get(used, e.ratchet, -1) < e.index, "index_used_again")

\* M9.1, M21.2. ShareRoomKey: devices are given a room key.
Share(e) == But(<<keys, inbox, lists, used>>)

\* The same commit puts the request into the outbox.
WhyNotShare(e) == Unless(e.complete => e.request \in e.sends \cup {Unknown} /\ "outbox" \in e.wrote, "request_not_stored")

-------------------------------------------------------------------------------
\* By step: the names of the conditions that do not hold.
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

\* By step: what it changes.
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

\* Take the next element, if all its conditions hold.
Next == at <= Len(TheSteps) /\ Why(TheSteps[at]) = {} /\ Step(TheSteps[at]) /\ at' = at + 1

\* TLC takes states for the same if their positions are equal (VIEW): each state has at most one
\* successor.
StateView == at
===============================================================================
