-------------------------------- MODULE Keys --------------------------------
(* The keys with which other devices begin sessions with this device: its     *)
(* account, its one-time keys and its fallback keys. Several processes use    *)
(* one store (AtomicStore), and each operation is one step. The only other    *)
(* state of a process is the request or the response that it holds, for any   *)
(* length of time. A crash, an invalidation, and a lost request or response   *)
(* are the same step (Lose). The machine promises to the user:                *)
(*                                                                            *)
(*   AccountCreatedOnce   the device has one account, even if several         *)
(*                        processes start at the same time                    *)
(*   PublishedIsUploaded  what counts as published has arrived at the server  *)
(*                                                                            *)
(* to the server:                                                             *)
(*                                                                            *)
(*   NoIdTwice            no two keys have one id                             *)
(*   ExactlyOnce          no key is given to it again after it was claimed    *)
(*   KeysBounded          it has no more keys than the target says, but for   *)
(*                        those that were abandoned and arrive all the same   *)
(*                                                                            *)
(* and to a device that begins a session with this device:                    *)
(*                                                                            *)
(*   NoOrphanedKey        each key that the server hands out, or has handed   *)
(*                        out, can be used until its message has arrived      *)
(*   NoneUnreadable       each message that is on its way can be decrypted    *)
(*   KeysArrive           if the server has no one-time key left, it is       *)
(*                        eventually offered new ones                         *)
(*                                                                            *)
(* One-time keys. One commit makes an offer: it makes the keys, and notes     *)
(* them as offered. After that, the request may be sent. It is handed out     *)
(* once. While the offer is open, no other offer is made. The response        *)
(* settles the offer, and says how many keys the server then has. If no       *)
(* response comes for a long time, the offer is abandoned. The server may     *)
(* have the keys, so their private halves are kept, and their IDs are never   *)
(* used again. A sync also says how many keys the server has. This count is   *)
(* used only if no offer was open at the time of the request, and none was    *)
(* made since. (The second condition is not enough: the server may count      *)
(* before the open offer arrives.) Sliding sync leaves out a count that has   *)
(* not changed since the connection received it last. So the last count is    *)
(* stored even if it is not used.                                             *)
(*                                                                            *)
(* A process that was suspended may still send an abandoned offer. This can't *)
(* be prevented. Then the server has more keys than the target: by at most    *)
(* one batch with two processes, and one more batch for each further process. *)
(* KeysBounded allows that, and no more.                                      *)
(*                                                                            *)
(* Fallback keys. The account keeps two: the current one and the one before   *)
(* it. Each offer includes the current one, until the server is known to have *)
(* it. The current one is replaced only if the server is known to have it,    *)
(* says that it was used, and a period has passed since then. A process that  *)
(* was suspended may send an offer with an older fallback key late. The       *)
(* answer shows that the server may hand out the older key again; then the    *)
(* server is no longer known to have the current one. The model assumes the   *)
(* following about time. When a period has passed since the server is known   *)
(* to have a key, messages that were made with an older key have arrived, and *)
(* uploads of an older key are no longer sent (PeriodPasses). The answer to a *)
(* late upload is not lost (Lose). Without this assumption NoOrphanedKey and  *)
(* NoneUnreadable do not hold: a later upload could bring back a key that the *)
(* account has dropped.                                                       *)
(*                                                                            *)
(* Left out: device keys, which are uploaded with the first fallback key and  *)
(* never replaced; that each offer after an abandoned one is smaller; the     *)
(* token of a sync, and so two syncs of one connection that overtake each     *)
(* other; the messages of a sync (Inbox); and sessions (Sessions).            *)
EXTENDS Naturals, FiniteSets

CONSTANTS
    Processes,    \* the programs that share the store
    Sliding,      \* the processes that use sliding sync. The others use classic sync
    None,         \* instead of a number: there is none
    Awake,        \* the processes that are not suspended for ever
    Target,       \* how many one-time keys the server should have
    MaxId,        \* bound: one-time keys
    MaxOffers,    \* bound: offers
    MaxFallback,  \* bound: fallback keys. If it is 0, they are left out
    MaxBad,       \* bound: bad messages
    Fault         \* "none", or the slug of the one rule that is broken

Broken(slug) == Fault = slug

ASSUME /\ Cardinality(Processes) >= 2 /\ Sliding \subseteq Processes /\ Awake \subseteq Processes

VARIABLES
    store,    \* the records, each change of which is one commit
    server,   \* what the server has
    peers,    \* what others have claimed and not yet used
    flight    \* by process: the request or the response that it holds

vars == <<store, server, peers, flight>>

-------------------------------------------------------------------------------
(* store     account    how many accounts were made                             *)
(*           next       the id that the next one-time key gets                  *)
(*           private    the one-time keys whose private halves are there        *)
(*           confirmed  of these, those that the server is known to have got    *)
(*           offer      the open offer, or None: its one-time keys, and the     *)
(*                      fallback key that its answer will confirm; 0: none      *)
(*           serial     the number of the last offer                            *)
(*           missing    how many one-time keys are to be offered                *)
(*           reported   by connection: the last count that it brought, whether  *)
(*                      it counts or not                                        *)
(*           fallback   the current fallback key; 0: none. They are numbered    *)
(*           confirmedFallback  whether the server is known to have it          *)
(*           used       whether the server says that it has no unused one       *)
(*           ripe       whether a period has passed since it was confirmed      *)
(* server    available  one-time keys that it can hand out                      *)
(*           received   (to state the guarantees) those that it ever got        *)
(*           fallback   the fallback key that it hands out; 0: none             *)
(*           used       whether it has handed that out, or has none             *)
(*           reported   by connection: the last count in a response that was    *)
(*                      received, as the request after it says                  *)
(* peers     claimed    one-time keys with which a message will be made         *)
(*           waiting    the same of fallback keys                               *)
(*           bad        how many bad messages there were                        *)
(*                                                                              *)
(* A key is known by its id, and by the number of the offer it was made for.    *)

NoStore ==
    [account |-> 0, next |-> 1, private |-> {}, confirmed |-> {}, offer |-> None, serial |-> 0,
     missing |-> Target, reported |-> [p \in Sliding |-> 0],
     fallback |-> 0, confirmedFallback |-> MaxFallback = 0, used |-> FALSE, ripe |-> FALSE]

Idle == [kind |-> "none"]

Init ==
    /\ store = NoStore
    /\ server = [available |-> {}, received |-> {}, fallback |-> 0, used |-> MaxFallback > 0, reported |-> NoStore.reported]
    /\ peers = [claimed |-> {}, waiting |-> {}, bad |-> 0]
    /\ flight = [p \in Processes |-> Idle]

Waits(p, kind, stage) == flight[p].kind = kind /\ flight[p].stage = stage

Hand(p, what) == flight' = [flight EXCEPT ![p] = what]

Move(p, stage) == flight' = [flight EXCEPT ![p].stage = stage]

-------------------------------------------------------------------------------
(* The account.                                                                 *)

\* The fault "account-fork-at-creation": a process finds no account in one operation, and
\* creates one in another operation.
FindNoAccount(p) ==
    /\ Broken("account-fork-at-creation")
    /\ store.account = 0 /\ flight[p] = Idle
    /\ Hand(p, [kind |-> "no account"])
    /\ UNCHANGED <<store, server, peers>>

\* M1.1
CreateAccount(p) ==
    /\ store.account = 0 \/ (Broken("account-fork-at-creation") /\ flight[p].kind = "no account")
    /\ store' = [NoStore EXCEPT !.account = store.account + 1]
    /\ Hand(p, Idle)
    /\ UNCHANGED <<server, peers>>

-------------------------------------------------------------------------------
(* Counts.                                                                      *)

Missing(count) == IF count < Target THEN Target - count ELSE 0

\* A process makes a sync request, and the server answers. (This is one step, since a newer
\* count would only be rejected more often.) The server may leave out a count: in classic
\* sync if it is 0, in sliding sync if the connection has received the same count before.
\* M3.3, M3.4
AnswerSync(p) ==
    /\ flight[p] = Idle /\ store.account > 0
    /\ LET count == Cardinality(server.available)
           usual == IF p \in Sliding THEN server.reported[p] ELSE 0
           asked == IF store.offer = None THEN store.serial ELSE None
       IN  Hand(p, [kind |-> "sync", stage |-> "response", asked |-> asked,
                    count |-> (IF count = usual THEN None ELSE count), used |-> server.used])
    /\ UNCHANGED <<store, server, peers>>

\* The count of the connection is noted even if it is not used: a later response that leaves
\* out the count refers to it.
\* M3.2, M3.5
ReceiveSync(p) ==
    /\ Waits(p, "sync", "response")
    /\ LET sync == flight[p]
           count == CASE sync.count # None -> sync.count
                      [] p \in Sliding /\ ~Broken("count-absent-two-meanings") -> store.reported[p]
                      [] OTHER -> 0
           counts == sync.asked = store.serial \/ Broken("stale-count")
           reported == [q \in Sliding |-> IF q = p THEN count ELSE store.reported[q]]
       IN  /\ store' = [store EXCEPT
                            !.reported = reported,
                            !.missing = IF counts THEN Missing(count) ELSE @,
                            !.used = IF counts THEN sync.used ELSE @]
           /\ server' = (IF sync.count # None THEN [server EXCEPT !.reported = reported] ELSE server)
    /\ Hand(p, Idle)
    /\ UNCHANGED peers

-------------------------------------------------------------------------------
(* Offers of one-time keys, together with the fallback key.                     *)

Request(offer, serial) ==
    [kind |-> "keys", stage |-> "request", serial |-> serial, keys |-> offer.keys, fallback |-> offer.fallback]

\* An offer has the missing keys, and the current fallback key until the server is known to
\* have it. If it is time, the fallback key is replaced first.
\* M2.1, M2.2, M3.6, M4.2, M4.3
OfferKeys(p) ==
    /\ flight[p] = Idle
    /\ store.account > 0
    /\ store.offer = None
    /\ LET replaces == store.used /\ (store.ripe \/ (Broken("fallback-cycled-early") /\ store.fallback < MaxFallback))
           first == store.fallback = 0 /\ MaxFallback > 0
           fallback == IF first \/ replaces THEN store.fallback + 1 ELSE store.fallback
           confirmed == store.confirmedFallback /\ fallback = store.fallback
           serial == store.serial + 1
           last == store.next + store.missing - 1
           offer == [keys |-> {[id |-> id, serial |-> serial] : id \in store.next..last},
                     fallback |-> IF confirmed THEN 0 ELSE fallback]
       IN  /\ offer.keys # {} \/ offer.fallback # 0
           /\ last <= MaxId /\ serial <= MaxOffers
           /\ store' = (IF Broken("upload-before-persist") THEN store
                        ELSE [store EXCEPT !.next = last + 1, !.private = @ \cup offer.keys,
                                           !.offer = offer, !.serial = serial, !.missing = 0,
                                           !.fallback = fallback, !.confirmedFallback = confirmed,
                                           !.used = @ /\ fallback = store.fallback,
                                           !.ripe = @ /\ fallback = store.fallback])
           /\ Hand(p, Request(offer, serial))
    /\ UNCHANGED <<server, peers>>

\* The fault "upload-repeated": an offer that no process holds any more is sent again.
\* M2.3
RepeatOffer(p) ==
    /\ Broken("upload-repeated")
    /\ flight[p] = Idle /\ store.offer # None
    /\ \A q \in Processes : flight[q].kind # "keys"
    /\ Hand(p, Request(store.offer, store.serial))
    /\ UNCHANGED <<store, server, peers>>

\* The fault "one-time-exchange-frozen": a suspended process holds an offer, and another
\* process makes the same request.
\* M2.2
OfferForFrozen(p) ==
    /\ Broken("one-time-exchange-frozen")
    /\ flight[p] = Idle /\ store.offer # None
    /\ \E q \in Processes : flight[q].kind = "keys"
    /\ Hand(p, Request(store.offer, store.serial))
    /\ UNCHANGED <<store, server, peers>>

\* The server keeps the key that it has under an ID. It may refuse the request or ignore the
\* other key: this is not specified (matrix-spec#1124). It does not remember claimed keys. A
\* fallback key that it has already counts as unused again.
AnswerUpload(p) ==
    /\ Waits(p, "keys", "request")
    /\ LET upload == flight[p]
           new == {key \in upload.keys : \A other \in server.available : other.id # key.id}
           available == server.available \cup new
       IN  /\ server' = [server EXCEPT !.available = available, !.received = @ \cup new,
                                       !.fallback = IF upload.fallback = 0 THEN @ ELSE upload.fallback,
                                       !.used = @ /\ upload.fallback = 0]
           /\ Hand(p, [kind |-> "keys", stage |-> "response", serial |-> upload.serial, keys |-> upload.keys,
                       fallback |-> upload.fallback, count |-> Cardinality(available)])
    /\ UNCHANGED <<store, peers>>

Open(serial) == store.offer # None /\ store.serial = serial

\* Whether the server has, or will get, an older fallback key because of an upload.
PutsBack(p) == flight[p].kind = "keys" /\ flight[p].fallback \notin {0, store.fallback}

Settled == [store EXCEPT !.offer = None]

\* Keys that the server may have stay usable. Their IDs are not used again.
\* M2.9
Abandoned ==
    IF Broken("upload-again-same-id")
    THEN [Settled EXCEPT !.next = @ - Cardinality(store.offer.keys), !.private = @ \ store.offer.keys]
    ELSE Settled

\* The response to an offer settles exactly that offer. The response to an abandoned offer
\* only shows that the server may hand out an older fallback key.
\* M2.4, M2.5, M4.4, M4.5
MarkSent(p) ==
    /\ Waits(p, "keys", "response")
    /\ store' =
        CASE Open(flight[p].serial) \/ (Broken("publish-marks-too-many") /\ store.offer # None) ->
                [Settled EXCEPT !.confirmed = @ \cup (store.private \cap store.offer.keys),
                                !.missing = Missing(flight[p].count),
                                !.confirmedFallback = @ \/ store.offer.fallback # 0]
          [] ~Open(flight[p].serial) /\ PutsBack(p) /\ ~Broken("fallback-put-back") ->
                [store EXCEPT !.confirmedFallback = FALSE, !.ripe = FALSE,
                              !.offer = IF @ = None THEN @ ELSE [@ EXCEPT !.fallback = 0]]
          [] OTHER -> store
    /\ Hand(p, Idle)
    /\ UNCHANGED <<server, peers>>

\* The server has refused an offer, and has stored none of its keys.
\* M2.6
MarkFailed(p) ==
    /\ Waits(p, "keys", "request")
    /\ store' = (IF Open(flight[p].serial) THEN Abandoned ELSE store)
    /\ Hand(p, Idle)
    /\ UNCHANGED <<server, peers>>

\* The outcome of the offer has been unknown for a long time.
\* M2.7
AbandonOffer ==
    /\ store.offer # None
    /\ store' = Abandoned
    /\ UNCHANGED <<server, peers, flight>>

-------------------------------------------------------------------------------
(* Peers claim one-time keys, and send a message with each.                     *)

ClaimKey(key) ==
    /\ key \in server.available
    /\ server' = [server EXCEPT !.available = @ \ {key}]
    /\ peers' = [peers EXCEPT !.claimed = @ \cup {key}]
    /\ UNCHANGED <<store, flight>>

\* A pre-key message is decrypted: one commit deletes the private half and stores the session.
\* M7.7
ReceiveMessage(key) ==
    /\ key \in peers.claimed
    /\ store' = [store EXCEPT !.private = @ \ {key}, !.confirmed = @ \ {key}]
    /\ peers' = [peers EXCEPT !.claimed = @ \ {key}]
    /\ UNCHANGED <<server, flight>>

\* A pre-key message that can't be decrypted. Every device that has seen the public half can
\* send one. It is reported, and changes nothing.
\* M7.8
ReceiveBadMessage(key) ==
    /\ peers.bad < MaxBad
    /\ store' = (IF Broken("key-dropped-by-bad-message") THEN [store EXCEPT !.private = @ \ {key}]
                 ELSE store)
    /\ peers' = [peers EXCEPT !.bad = @ + 1]
    /\ UNCHANGED <<server, flight>>

-------------------------------------------------------------------------------
(* Peers claim fallback keys, and send messages with them.                      *)

\* The fallback keys that the account keeps. Its library keeps at most two.
\* M4.1
Kept == {store.fallback, store.fallback - 1} \ {0}

ClaimFallback ==
    /\ server.available = {} /\ server.fallback # 0
    /\ server' = [server EXCEPT !.used = TRUE]
    /\ peers' = [peers EXCEPT !.waiting = @ \cup {server.fallback}]
    /\ UNCHANGED <<store, flight>>

\* The private half is kept: other devices may have claimed the same key.
ReceiveFallbackMessage(key) ==
    /\ key \in peers.waiting
    /\ peers' = [peers EXCEPT !.waiting = @ \ {key}]
    /\ UNCHANGED <<store, server, flight>>

\* A period has passed since the server is known to have the current fallback key.
\* M4.2
PeriodPasses ==
    /\ store.confirmedFallback
    /\ ~store.ripe
    /\ store.fallback < MaxFallback
    /\ peers.waiting \subseteq {store.fallback}
    /\ \A p \in Processes : ~PutsBack(p)
    /\ store' = [store EXCEPT !.ripe = TRUE]
    /\ UNCHANGED <<server, peers, flight>>

-------------------------------------------------------------------------------
\* A crash, an invalidation, a request or a response that gets lost.
Lose(p) ==
    /\ flight[p] # Idle
    /\ ~(PutsBack(p) /\ flight[p].stage = "response")
    /\ Hand(p, Idle)
    /\ UNCHANGED <<store, server, peers>>

Next ==
    \/ \E p \in Processes :
        \/ FindNoAccount(p) \/ CreateAccount(p) \/ AnswerSync(p) \/ ReceiveSync(p)
        \/ OfferKeys(p) \/ RepeatOffer(p) \/ OfferForFrozen(p)
        \/ AnswerUpload(p) \/ MarkSent(p) \/ MarkFailed(p)
        \/ Lose(p)
    \/ AbandonOffer
    \/ \E key \in server.received : ClaimKey(key) \/ ReceiveMessage(key) \/ ReceiveBadMessage(key)
    \/ ClaimFallback \/ PeriodPasses
    \/ \E key \in 1..MaxFallback : ReceiveFallbackMessage(key)

(* Fairness, in words. One process that is not suspended is enough. It creates  *)
(* the account if no other process does. Each answer that it waits for arrives  *)
(* or is lost. It syncs again and again, and some of the responses arrive. If   *)
(* it may make an offer again and again, it eventually makes one. It abandons   *)
(* an offer that stays open. Uploads may always get lost. The other processes   *)
(* may be suspended for ever, whatever they hold. Without any one of these      *)
(* assumptions the server may stay without keys for ever: `python -m checking   *)
(* conditions Keys!Fairness` removes them, one at a time.                       *)
Fairness ==
    /\ WF_vars(AbandonOffer)
    /\ \A p \in Awake :
        /\ WF_vars(CreateAccount(p))
        /\ WF_vars(Lose(p))
        /\ WF_vars(AnswerSync(p)) /\ SF_vars(ReceiveSync(p)) /\ SF_vars(OfferKeys(p))

Spec == Init /\ [][Next]_vars
FairSpec == Spec /\ Fairness

-------------------------------------------------------------------------------
(* Guarantees.                                                                  *)

SomeKeys == [id: 1..MaxId, serial: 1..MaxOffers]

Offered == IF store.offer = None THEN {} ELSE store.offer.keys

TypeOK ==
    /\ store.account \in 0..2 /\ store.next \in 1..(MaxId + 1) /\ store.serial \in 0..MaxOffers
    /\ store.private \subseteq SomeKeys /\ store.confirmed \subseteq SomeKeys /\ Offered \subseteq SomeKeys
    /\ store.missing \in 0..Target /\ store.reported \in [Sliding -> 0..MaxId]
    /\ store.fallback \in 0..MaxFallback /\ (store.ripe => store.confirmedFallback)
    /\ server.available \subseteq server.received /\ server.received \subseteq SomeKeys
    /\ server.fallback \in 0..MaxFallback
    /\ peers.claimed \subseteq SomeKeys /\ peers.waiting \subseteq 1..MaxFallback /\ peers.bad \in 0..MaxBad
    /\ \A p \in Processes : flight[p].kind \in {"none", "no account", "sync", "keys"}

\* M1.1
AccountCreatedOnce == store.account <= 1

\* M2.5
PublishedIsUploaded == store.confirmed \subseteq server.received

\* M2.9
NoIdTwice ==
    \A key, other \in server.received \cup store.private : key.id = other.id => key = other

\* M2.3
ExactlyOnce == [][server.received \cap server'.available \subseteq server.available]_vars

\* Abandoned keys are neither confirmed nor offered. A process that was suspended may send
\* them late: one batch for each process besides the one with the current offer.
KeysBounded ==
    /\ Cardinality(server.available \cap (store.confirmed \cup Offered)) <= Target
    /\ Cardinality(server.available) <= Target * Cardinality(Processes)

\* M2.1, M2.9
NoOrphanedKey ==
    /\ server.available \cup peers.claimed \subseteq store.private
    /\ server.fallback # 0 => server.fallback \in Kept

\* M4.2, M7.8
NoneUnreadable == peers.claimed \subseteq store.private /\ peers.waiting \subseteq Kept

\* (Unless the bounds are reached. The machine itself never runs out of numbers.)
KeysArrive == []<>(server.available # {} \/ store.next > MaxId \/ store.serial = MaxOffers)
===============================================================================
