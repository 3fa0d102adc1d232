------------------------------- MODULE MCInbox -------------------------------
(* Inbox made finite: what arrives, and in which order.                      *)
EXTENDS Inbox

Event == [kind |-> "event"]
PreKey(key) == [kind |-> "prekey", key |-> key]
Olm(key) == [kind |-> "olm", key |-> key]
PutAside(key) == [kind |-> "aside", key |-> key]
Bad == [kind |-> "bad"]
Repeat(m) == [kind |-> "repeat", of |-> m]

\* One message of each kind. The keys of the room session get worse. The message that can't be
\* decrypted comes between two messages that can.
Mixed == <<Event, PreKey(1), Bad, Olm(2), Repeat(2)>>

\* One message less, for the liveness property.
Shorter == <<PreKey(1), Bad, PutAside(0), Repeat(1)>>

\* One message more. The best key comes in the middle, and the program fails to use it at first.
Longer == <<Event, PreKey(1), Bad, PutAside(0), Olm(2), Repeat(4)>>

\* For the replay: the better key comes last,
BetterLast == <<PreKey(1), Bad, Olm(0)>>

\* or the worse one, and a message comes again.
WorseAndAgain == <<Event, PreKey(1), Olm(2), Repeat(2)>>

\* And one that the program fails to use at first.
Faulty == <<PreKey(1), PutAside(0)>>

\* And records of two: the worse key comes second, what can't be read comes first, and so does what the program fails to
\* use at first.
InPairs == <<PreKey(1), Olm(2), Bad, Event, PutAside(0), Repeat(2)>>

Second == {2}
SecondAndFourth == {2, 4}

\* What the reference makes of a batch, for the replay. It applies a batch whole, or records it whole, in records of so many
\* messages: only where it has more, or must wait for others. A record begins where a multiple of that many messages has
\* come, so that the messages say which are in one record. One record is worked off at a time.
InRecordsOf(size) ==
    LET received == store'.token - store.token
        before == Len(store.backlog)
        after == Len(store'.backlog)
    IN  IF received > 0
        THEN \/ after = 0
             \/ /\ after = before + received
                /\ before > 0 \/ received > size
                /\ store.token % size = 0
        ELSE after >= before \/ after = before - Least(size, before)

InRecordsOfOne == InRecordsOf(1)
InRecordsOfTwo == InRecordsOf(2)

\* One process at a time has something in hand.
OneAtATime == Cardinality({p \in Processes : flight[p] # Nothing}) <= 1

-------------------------------------------------------------------------------
(* Probes: each says that an action never happens, and must be found wrong.  *)

NeverPeerSends          == [][~PeerSends]_vars
NeverAskSync            == [][\A p \in Processes : ~AskSync(p)]_vars
NeverAnswerSync         == [][\A p \in Processes : ~AnswerSync(p)]_vars
NeverReceiveSync        == [][\A p \in Processes : ~ReceiveSync(p)]_vars
NeverIgnoreSync         == [][\A p \in Processes : ~IgnoreSync(p)]_vars
NeverWorkOffBacklog     == [][\A p \in Processes : ~WorkOffBacklog(p)]_vars
NeverTryAgain           == [][\A p \in Processes : ~TryAgain(p)]_vars
NeverEncryptOlm         == [][\A p \in Processes : ~EncryptOlm(p)]_vars
NeverLose               == [][\A p \in Processes : ~Lose(p)]_vars

\* Probes: situations that the guarantees are about.
\* a response is refused although it has something new as well;
NeverRefusesNews == [][\A p \in Processes : IgnoreSync(p) => flight[p].until <= store.token]_vars

\* a batch comes while the rest of an older one is still recorded.
NeverQueues ==
    [][\A p \in Processes : (ReceiveSync(p) /\ store.backlog # <<>>) => Len(store'.backlog) = Len(store.backlog)]_vars
===============================================================================
