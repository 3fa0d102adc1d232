-------------------------------- MODULE Inbox --------------------------------
(* How sync responses are applied. Several processes of one device sync,     *)
(* each with the stored token. A response may come late, twice, or in the    *)
(* other process, and a process may be killed at any moment. The machine     *)
(* promises to the application, and to the devices that send messages to it: *)
(*                                                                           *)
(*   NothingLost        each message before the token is applied, or is a    *)
(*                      record that will be worked off or tried again; the   *)
(*                      better one of two keys of a room session is kept     *)
(*   ExactlyOnce        no message takes effect twice: a repetition is       *)
(*                      recognised, and does not count as a sign that the    *)
(*                      session is broken                                    *)
(*   NoneUnreadable     a valid message is decrypted                         *)
(*   AtomicSync         session, account, marks and token are stored         *)
(*                      together                                             *)
(*   TokenForward       the token never goes back                            *)
(*   NoRatchetReuse     no position of the sending ratchet is used twice     *)
(*   EverythingArrives  each message is eventually applied (see Fairness)    *)
(*                                                                           *)
(* The store is AtomicStore: an operation is one step, and each action below *)
(* that changes the store is one operation. The only other state of a        *)
(* process is the request or the response that it holds, flight[p]. A crash, *)
(* an invalidation, and a lost request or response are the same step,        *)
(* Lose(p). A suspended process takes no step.                               *)
(*                                                                           *)
(* The server has one queue of messages to the device, Stream. They arrive   *)
(* one after the other, and the token is a position in the queue. There is   *)
(* one Olm session, which the first pre-key message opens. There is one room *)
(* session, and messages bring its key with different first indices. Left    *)
(* out: a connection with a second token (Lists), counts and keys (Keys),    *)
(* and how a mark is settled (Sessions, Lists).                              *)
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS
    Processes,    \* the programs that share the store
    Nothing,      \* in flight: nothing
    Stream,       \* the messages to the device, oldest first: records with a kind, which is
                  \* "event" (not encrypted), "prekey", "olm", "bad" (it can't be decrypted),
                  \* "aside" (like "olm", but the program fails when it first uses it) or
                  \* "repeat" (the ciphertext of message `of` again); and, if the message
                  \* brings a room key, the key's first index
    ListChanges,  \* the positions at which a device list changes as well
    Limit,        \* at most so many messages are applied in one commit
    MaxSent,      \* bound: messages that the device sends over the session
    Fault         \* "none", or the slug of the one rule that is broken

Broken(slug) == Fault = slug

\* The faults that split one commit into two.
TwoCommits ==
    Broken("session-before-payload") \/ Broken("two-commits-per-sync") \/ Broken("acknowledged-before-processed")

Messages == 1..Len(Stream)

Ciphertext(m) == IF Stream[m].kind = "repeat" THEN Stream[m].of ELSE m

NoKey == 9  \* the first index of an unknown room session: worse than any other

ASSUME /\ Cardinality(Processes) >= 2 /\ Limit >= 1 /\ ListChanges \subseteq Messages
       /\ \A m \in Messages : Stream[m].kind \in {"event", "prekey", "olm", "aside", "bad", "repeat"}
       /\ \A m \in Messages : Stream[m].kind = "repeat" => Stream[m].of < m
       /\ \A m \in Messages : Stream[m].kind \in {"prekey", "olm", "aside"} => Stream[m].key < NoKey

VARIABLES
    server,  \* how many messages have arrived, and up to which the server has deleted them
    flight,  \* by process: the request or the response that it holds
    store,   \* the records
    sent     \* the positions of the sending ratchet that were used, in order

vars == <<server, flight, store, sent>>

\* token        the position up to which messages are applied or recorded
\* account      the one-time key that the peer has claimed: "offered" or "spent"
\* session      the Olm session: whether it exists, the (hashes of the) messages that it
\*              has decrypted, and its next position: chain and index
\* key          the first index of the room session's key
\* outdated     marks: the changes of device lists that were noted
\* unwedge      marks: the messages that could not be decrypted
\* backlog      the rest of a very large batch, in order
\* aside        marks: the messages that were decrypted, but that the program failed to use;
\*              with their plaintext, since a message is decrypted only once
\* effects      by message: how often it took effect. Not a record: the application
\*              observes it
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
(* One message. `s` is the store after the previous messages of the commit,  *)
(* `database` is the store before the commit.                                *)

Readable(s, m) ==
    \/ Stream[m].kind = "prekey" /\ s.account = "offered"
    \/ Stream[m].kind \in {"olm", "aside"} /\ s.session.open

\* M11.1
Better(key, other) == IF key < other THEN key ELSE other

\* The store after a message's room key was used; `known` is the key that it is compared with.
\* M11.5
Used(s, known, m) == [s EXCEPT !.key = Better(Stream[m].key, known), !.effects[m] = @ + 1]

\* Each decrypted message advances the ratchet: the next message that is sent begins a chain.
\* M7.7
Read(s, database, m) ==
    LET read == s.session.read \cup {m}
        known == IF Broken("better-key-lost-in-batch") THEN database.key ELSE s.key
        after == [s EXCEPT !.account = IF Stream[m].kind = "prekey" THEN "spent" ELSE @,
                           !.session = [open |-> TRUE, read |-> read, chain |-> Cardinality(read), index |-> 0]]
    IN  IF Stream[m].kind = "aside" THEN [after EXCEPT !.aside = @ \cup {m}] ELSE Used(after, known, m)

\* The decryption is tried on a copy of the session. If it fails, only a mark is stored.
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
\* A message to the device arrives at the server.
PeerSends ==
    /\ server.arrived < Len(Stream)
    /\ server' = [server EXCEPT !.arrived = @ + 1]
    /\ UNCHANGED <<flight, store, sent>>

\* sync_position. The request has the stored token. It may be sent much later.
AskSync(p) ==
    /\ flight[p] = Nothing
    /\ flight' = [flight EXCEPT ![p] = [stage |-> "asked", since |-> store.token]]
    /\ UNCHANGED <<server, store, sent>>

\* The server answers when there are new messages, with all of them. It deletes the messages
\* before the token of the request, so no later response has them.
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
\* (any number up to the limit) and records the rest. If there are records already, it
\* records all messages, to keep the order. The process keeps the response, and may hand it
\* in again.
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

\* receive_sync_changes with a response to a request with another token than the stored one:
\* it is late, or was handed in before. It changes nothing.
\* M5.2
IgnoreSync(p) ==
    /\ InFlight(p, "answered")
    /\ flight[p].since # store.token
    /\ flight' = [flight EXCEPT ![p] = Nothing]
    /\ UNCHANGED <<server, store, sent>>

\* work_off_backlog: any process applies the first record.
\* M5.7
WorkOffBacklog(p) ==
    /\ \E count \in 1..Least(Limit, Len(store.backlog)) :
        store' = [Applied(SubSeq(store.backlog, 1, count)) EXCEPT
                    !.backlog = SubSeq(@, count + 1, Len(@))]
    /\ UNCHANGED <<server, flight, sent>>

\* try_again: a corrected program uses a message that it failed to use before. The message is
\* not decrypted again, since it would count as a repetition.
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

(* Fairness, in words. It is enough that some process is not suspended. A    *)
(* process that holds nothing eventually syncs. If requests reach the server *)
(* again and again, one is answered. If answers to requests with the stored  *)
(* token arrive again and again, one is handed in. (So the network may lose  *)
(* many responses, but not all.) A useless response is dropped. Recorded     *)
(* messages are worked off, and messages that the program failed to use are  *)
(* tried again by a corrected program. Without any one of these assumptions  *)
(* a message may wait for ever: `python -m checking conditions               *)
(* Inbox!Fairness`.                                                          *)
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
