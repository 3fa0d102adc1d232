-------------------------------- MODULE Inbox --------------------------------
(* How sync responses are applied. Several processes of one device ask the   *)
(* server for what is new, each with the stored token. Responses come late,  *)
(* twice, or in the other process, and a process may be killed at any        *)
(* moment. The machine promises to the application, and to the devices that  *)
(* send to it:                                                               *)
(*                                                                           *)
(*   NothingLost        whatever the token has passed is applied, or a       *)
(*                      record that is still to be worked off or tried       *)
(*                      again; of two keys of one room session the better    *)
(*                      one stays                                            *)
(*   ExactlyOnce        no message takes effect twice: a repetition is       *)
(*                      recognised, and not taken for a sign that the        *)
(*                      session is broken                                    *)
(*   NoneUnreadable     a message that was made well is read                 *)
(*   AtomicSync         session, account, marks and token are stored         *)
(*                      together                                             *)
(*   TokenForward       the token never goes back                            *)
(*   NoRatchetReuse     no position of the sending ratchet is used twice,    *)
(*                      whatever arrives between                             *)
(*   EverythingArrives  each message is eventually applied (see Fairness)    *)
(*                                                                           *)
(* The store is AtomicStore: an operation is one step, and each action below *)
(* that changes the store is one operation. A process is only a place where  *)
(* a request or a response waits, flight[p]. A crash, an invalidation, and a *)
(* request or a response that is lost are the same step, Lose(p). A process  *)
(* that is suspended takes no step.                                          *)
(*                                                                           *)
(* The server has one queue of messages to the device, Stream, which arrive  *)
(* one after the other; its position is the token. There is one Olm session, *)
(* which the first pre-key message opens, and one room session, of which     *)
(* messages bring keys with different first indices. Left out: a connection  *)
(* with a second token (Lists), counts and keys (Keys), and what is done     *)
(* about a mark (Sessions, Lists).                                           *)
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS
    Processes,    \* the programs that share the store
    Nothing,      \* in flight: nothing
    Stream,       \* what the server gets for the device, oldest first: records with
                  \* a kind, "event" (not encrypted), "prekey", "olm", "bad" (nobody
                  \* could read it), "aside" (like "olm", but the program fails when it
                  \* first uses it) or "repeat" (the ciphertext of message `of` again), and,
                  \* where it brings a room key, the key's first index
    ListChanges,  \* the positions at which somebody's device list changes as well
    Limit,        \* so many messages are applied in one commit at most
    MaxSent,      \* bound: messages that the device sends over the session
    Fault         \* "none", or the slug of the one rule that is broken

Broken(slug) == Fault = slug

\* The faults that do in two commits what belongs in one.
TwoCommits ==
    Broken("session-before-payload") \/ Broken("two-commits-per-sync") \/ Broken("acknowledged-before-processed")

Messages == 1..Len(Stream)

Ciphertext(m) == IF Stream[m].kind = "repeat" THEN Stream[m].of ELSE m

NoKey == 9  \* of a room session that is not known: a first index worse than any

ASSUME /\ Cardinality(Processes) >= 2 /\ Limit >= 1 /\ ListChanges \subseteq Messages
       /\ \A m \in Messages : Stream[m].kind \in {"event", "prekey", "olm", "aside", "bad", "repeat"}
       /\ \A m \in Messages : Stream[m].kind = "repeat" => Stream[m].of < m
       /\ \A m \in Messages : Stream[m].kind \in {"prekey", "olm", "aside"} => Stream[m].key < NoKey

VARIABLES
    server,  \* how many messages have arrived, and up to which it has forgotten them
    flight,  \* by process: the request or the response that it has in its hands
    store,   \* the records
    sent     \* the positions of the sending ratchet that were used, in order

vars == <<server, flight, store, sent>>

\* token        up to where the messages are applied or recorded
\* account      the one-time key of which the peer knows: "offered" or "spent"
\* session      the Olm session: whether it is there, the messages that it has read
\*              (their hashes), and its next position: chain and index
\* key          the first index of the room session's key
\* outdated     marks: the changes of device lists that were noted
\* unwedge      marks: the messages that could not be read
\* backlog      the rest of a very large batch, in order
\* aside        marks: what was read and met a fault of the program when it was used; with
\*              its plaintext, since it is read only once
\* effects      by message: how often it had one. Not a record: it is what the
\*              application was told
Init ==
    /\ server = [arrived |-> 0, forgotten |-> 0]
    /\ flight = [p \in Processes |-> Nothing]
    /\ store = [token |-> 0, account |-> "offered",
                session |-> [open |-> FALSE, read |-> {}, chain |-> 0, index |-> 0],
                key |-> NoKey, outdated |-> {}, unwedge |-> {}, backlog |-> <<>>, aside |-> {},
                effects |-> [m \in Messages |-> 0]]
    /\ sent = <<>>

InFlight(p, stage) == flight[p] # Nothing /\ flight[p].stage = stage

-------------------------------------------------------------------------------
(* One message. `s` is the store as the messages before it in the commit     *)
(* have left it, `database` as it was before the commit.                     *)

Readable(s, m) ==
    \/ Stream[m].kind = "prekey" /\ s.account = "offered"
    \/ Stream[m].kind \in {"olm", "aside"} /\ s.session.open

\* M11.1
Better(key, other) == IF key < other THEN key ELSE other

\* What becomes of the room key that a message brings; `known` is the key that it is compared with.
\* M11.5
Used(s, known, m) == [s EXCEPT !.key = Better(Stream[m].key, known), !.effects[m] = @ + 1]

\* Each message that is read turns the ratchet: the next one that is sent begins a chain.
\* M7.7
Read(s, database, m) ==
    LET read == s.session.read \cup {m}
        known == IF Broken("better-key-lost-in-batch") THEN database.key ELSE s.key
        after == [s EXCEPT !.account = IF Stream[m].kind = "prekey" THEN "spent" ELSE @,
                           !.session = [open |-> TRUE, read |-> read, chain |-> Cardinality(read), index |-> 0]]
    IN  IF Stream[m].kind = "aside" THEN [after EXCEPT !.aside = @ \cup {m}] ELSE Used(after, known, m)

\* It is tried on a copy of the session: what is left of the attempt is a mark.
\* M5.10, M7.4
Unreadable(s, m) ==
    [s EXCEPT !.unwedge = @ \cup {m},
              !.effects[m] = @ + 1,
              !.session = IF Broken("failed-decrypt-mutates") /\ s.session.open
                          THEN [s.session EXCEPT !.chain = Cardinality(s.session.read) + 1, !.index = 0] ELSE @]

\* M7.5
AfterMessage(s, database, number) ==
    LET m == Ciphertext(number)
        recognised == m \in s.session.read /\ ~Broken("hash-after-failure")
    IN  CASE Stream[m].kind = "event" -> [s EXCEPT !.effects[m] = @ + 1]
          [] recognised -> s
          [] ~recognised /\ Readable(s, m) /\ m \notin s.session.read -> Read(s, database, m)
          [] OTHER -> Unreadable(s, m)

RECURSIVE After(_, _, _)
After(s, database, numbers) ==
    IF numbers = <<>> THEN s
    ELSE After(AfterMessage(s, database, Head(numbers)), database, Tail(numbers))

Applied(numbers) == After(store, store, numbers)

Least(a, b) == IF a < b THEN a ELSE b
Most(a, b) == IF a > b THEN a ELSE b

-------------------------------------------------------------------------------
\* Somebody sends a message to the device.
PeerSends ==
    /\ server.arrived < Len(Stream)
    /\ server' = [server EXCEPT !.arrived = @ + 1]
    /\ UNCHANGED <<flight, store, sent>>

\* sync_position. The request leaves with the token that is stored, maybe much later.
AskSync(p) ==
    /\ flight[p] = Nothing
    /\ flight' = [flight EXCEPT ![p] = [stage |-> "asked", since |-> store.token]]
    /\ UNCHANGED <<server, store, sent>>

\* The server answers once there is something new, with all of it. It forgets what was
\* before the token that it is asked with: so nobody gets that again.
AnswerSync(p) ==
    /\ InFlight(p, "asked")
    /\ server.arrived > flight[p].since
    /\ LET forgotten == Most(server.forgotten, flight[p].since)
       IN  /\ server' = [server EXCEPT !.forgotten = forgotten]
           /\ flight' = [flight EXCEPT ![p] = [stage |-> "answered", since |-> @.since, until |-> server.arrived,
                            batch |-> [i \in 1..(server.arrived - forgotten) |-> forgotten + i]]]
    /\ UNCHANGED <<store, sent>>

ChangedLists(response) == {c \in ListChanges : response.since < c /\ c <= response.until}

\* receive_sync_changes: everything in one commit. It applies the first messages of a batch
\* (how many does not matter, as long as they are few) and records the rest; where there
\* are records already, it records all, so that the order is kept. The response stays in
\* the caller's hands, who may hand it in again.
\* M5.1, M5.2, M5.6, M5.8
ReceiveSync(p) ==
    /\ InFlight(p, "answered")
    /\ flight[p].since = store.token \/ Broken("stale-sync-response")
    /\ LET response == flight[p]
           batch == response.batch
           noted == IF Broken("device-flag-lost") THEN {} ELSE ChangedLists(response)
           whole == [Applied(batch) EXCEPT !.token = response.until, !.outdated = @ \cup noted]
       IN  IF TwoCommits
           THEN /\ store' = CASE Broken("session-before-payload") ->
                                    [store EXCEPT !.session = whole.session, !.account = whole.account]
                              [] Broken("two-commits-per-sync") -> [whole EXCEPT !.account = store.account]
                              [] OTHER -> [store EXCEPT !.token = whole.token, !.outdated = whole.outdated]
                /\ flight' = [flight EXCEPT ![p] = [stage |-> "half", rest |-> whole]]
           ELSE /\ \E count \in 0..Least(Limit, Len(batch)) :
                    /\ count > 0 => store.backlog = <<>>
                    /\ store' = [Applied(SubSeq(batch, 1, count)) EXCEPT
                                    !.token = response.until,
                                    !.outdated = @ \cup noted,
                                    !.backlog = @ \o SubSeq(batch, count + 1, Len(batch))]
                /\ UNCHANGED flight
    /\ UNCHANGED <<server, sent>>

\* receive_sync_changes with a response that was asked for with another token than the
\* stored one: it is late, or was handed in before. It changes nothing.
\* M5.2
IgnoreSync(p) ==
    /\ InFlight(p, "answered")
    /\ flight[p].since # store.token
    /\ flight' = [flight EXCEPT ![p] = Nothing]
    /\ UNCHANGED <<server, store, sent>>

\* work_off_backlog: the first of the records, by whichever process is awake.
\* M5.7
WorkOffBacklog(p) ==
    /\ \E count \in 1..Least(Limit, Len(store.backlog)) :
        store' = [Applied(SubSeq(store.backlog, 1, count)) EXCEPT
                    !.backlog = SubSeq(@, count + 1, Len(@))]
    /\ UNCHANGED <<server, flight, sent>>

\* try_again: what met a fault of the program, which is mended by now. It is not decrypted anew:
\* it would count as a repetition.
\* M5.11, M5.12
TryAgain(p) ==
    /\ \E m \in store.aside :
        LET left == [store EXCEPT !.aside = @ \ {m}]
        IN  store' = IF Broken("put-aside-decrypted-again") THEN left ELSE Used(left, store.key, m)
    /\ UNCHANGED <<server, flight, sent>>

\* The device sends something over the session: a room key, or m.dummy.
EncryptOlm(p) ==
    /\ store.session.open
    /\ Len(sent) < MaxSent
    /\ sent' = Append(sent, <<store.session.chain, store.session.index>>)
    /\ store' = [store EXCEPT !.session.index = @ + 1]
    /\ UNCHANGED <<server, flight>>

Lose(p) ==
    /\ flight[p] # Nothing
    /\ flight' = [flight EXCEPT ![p] = Nothing]
    /\ UNCHANGED <<server, store, sent>>

\* The second commit, of the faults that have two.
CommitRest(p) ==
    /\ TwoCommits
    /\ InFlight(p, "half")
    /\ store' = flight[p].rest
    /\ flight' = [flight EXCEPT ![p] = Nothing]
    /\ UNCHANGED <<server, sent>>

Next ==
    \/ PeerSends
    \/ \E p \in Processes :
        \/ AskSync(p) \/ AnswerSync(p) \/ ReceiveSync(p) \/ IgnoreSync(p) \/ WorkOffBacklog(p)
        \/ TryAgain(p) \/ EncryptOlm(p) \/ Lose(p) \/ CommitRest(p)

(* Fairness, in words. It is enough that one process is awake, whichever;    *)
(* none is assumed to be. Some process asks, where one has nothing in its    *)
(* hands. If requests reach the server again and again, one of them is       *)
(* answered; if answers come again and again that were asked with the stored *)
(* token, one of them is handed in. (So the network may lose many responses, *)
(* but not all.) A response that is of no use is put away, what is recorded  *)
(* is worked off, and what the program failed to use is tried again, once it *)
(* can use it. Without any of these a message waits for ever:                *)
(* `python -m checking conditions Inbox!Fairness`.                           *)
Fairness ==
    /\ WF_vars(\E p \in Processes : AskSync(p))
    /\ SF_vars(\E p \in Processes : AnswerSync(p))
    /\ SF_vars(\E p \in Processes : ReceiveSync(p))
    /\ WF_vars(\E p \in Processes : IgnoreSync(p))
    /\ WF_vars(\E p \in Processes : WorkOffBacklog(p))
    /\ WF_vars(\E p \in Processes : TryAgain(p))

Spec == Init /\ [][Next]_vars
FairSpec == Spec /\ Fairness

-------------------------------------------------------------------------------
Recorded == {store.backlog[i] : i \in DOMAIN store.backlog}

TypeOK ==
    /\ server.arrived \in 0..Len(Stream) /\ server.forgotten \in 0..server.arrived
    /\ \A p \in Processes : flight[p] = Nothing \/ flight[p].stage \in {"asked", "answered", "half"}
    /\ store.token \in 0..server.arrived /\ store.account \in {"offered", "spent"}
    /\ store.session.read \subseteq Messages /\ store.session.chain <= Len(Stream) + 1
    /\ store.key \in 0..NoKey /\ store.outdated \subseteq ListChanges
    /\ store.unwedge \subseteq Messages /\ Recorded \subseteq Messages /\ store.aside \subseteq Messages

NothingLost ==
    /\ \A m \in 1..store.token :
        m \in Recorded \/ Ciphertext(m) \in store.aside \/ store.effects[Ciphertext(m)] >= 1
    /\ \A m \in Messages : (Stream[m].kind \in {"prekey", "olm", "aside"} /\ store.effects[m] >= 1 /\ m \notin store.unwedge)
                              => store.key <= Stream[m].key

ExactlyOnce == \A m \in Messages : store.effects[m] <= 1

NoneUnreadable == \A m \in store.unwedge : Stream[m].kind = "bad"

\* M5.1
AtomicSync ==
    /\ store.session.open <=> store.account = "spent"
    /\ store.outdated = {c \in ListChanges : c <= store.token}

TokenForward == [][store'.token >= store.token]_vars

\* M7.4
NoRatchetReuse == \A i, j \in DOMAIN sent : sent[i] = sent[j] => i = j

EverythingArrives ==
    \A m \in Messages : (server.arrived >= m) ~> (store.effects[Ciphertext(m)] >= 1)
===============================================================================
