------------------------------- MODULE MCInbox -------------------------------
(* Inbox made finite: which messages arrive, and in which order.             *)
EXTENDS Inbox

\* The kinds of messages.
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

\* One message more. The best key comes in the middle. The program fails to use it at first, and
\* puts it aside.
Longer == <<Event, PreKey(1), Bad, PutAside(0), Olm(2), Repeat(4)>>

\* For the replay. The better key comes last.
BetterLast == <<PreKey(1), Bad, Olm(0)>>

\* For the replay. The worse key comes last, and a message comes again.
WorseAndAgain == <<Event, PreKey(1), Olm(2), Repeat(2)>>

\* For the replay. The program fails to use a message at first.
Faulty == <<PreKey(1), PutAside(0)>>

\* For the replay with two messages in a record. The worse key is second in its record. The message
\* that can't be decrypted and the message that the program fails to use at first are the first in
\* theirs.
InPairs == <<PreKey(1), Olm(2), Bad, Event, PutAside(0), Repeat(2)>>

\* Positions of messages.
Second == {2}
SecondAndFourth == {2, 4}

\* For the replay: what the reference does with a batch. It applies the whole batch. Or it stores
\* the whole batch, in records of this size, but only if the batch is larger, or if other records
\* are still to be processed. The size divides the number of messages before a record. So the
\* number of a message shows which record it is in. One record is processed at a time.
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

\* At most one process holds a request or a response.
OneAtATime == Cardinality({p \in Processes : flight[p] # Nothing}) <= 1

-------------------------------------------------------------------------------
(* Probes. Each claims that an action never happens, and TLC must refute   *)
(* it.                                                                     *)

NeverPeerSends          == [][~PeerSends]_vars
NeverAskSync            == [][\A p \in Processes : ~AskSync(p)]_vars
NeverAnswerSync         == [][\A p \in Processes : ~AnswerSync(p)]_vars
NeverReceiveSync        == [][\A p \in Processes : ~ReceiveSync(p)]_vars
NeverIgnoreSync         == [][\A p \in Processes : ~IgnoreSync(p)]_vars
NeverWorkOffBacklog     == [][\A p \in Processes : ~WorkOffBacklog(p)]_vars
NeverTryAgain           == [][\A p \in Processes : ~TryAgain(p)]_vars
NeverEncryptOlm         == [][\A p \in Processes : ~EncryptOlm(p)]_vars
NeverLose               == [][\A p \in Processes : ~Lose(p)]_vars

\* Probes of situations that the guarantees are about. Each claims that the situation in its comment
\* never happens.

\* A response is refused although it also has new messages.
NeverRefusesNews == [][\A p \in Processes : IgnoreSync(p) => flight[p].until <= store.token]_vars

\* A batch arrives while records of an older one are still to be processed.
NeverQueues ==
    [][\A p \in Processes : (ReceiveSync(p) /\ store.backlog # <<>>) => Len(store'.backlog) = Len(store.backlog)]_vars
===============================================================================
