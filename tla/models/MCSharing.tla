------------------------------ MODULE MCSharing ------------------------------
(* Sharing made finite: which devices are in the room.                       *)
EXTENDS Sharing, TLC

CONSTANTS d1, d2, d3

\* All processes are interchangeable.
Alike == Permutations(Processes)

\* The devices in the room, one version after the other. One device leaves.
Leaves == <<{d1, d2}, {d1}>>

\* One device leaves, and comes back.
LeavesAndReturns == <<{d1, d2}, {d1}, {d1, d2}>>

\* One of three devices comes late, and another one leaves.
ComesAndLeaves == <<{d1, d2}, {d1, d2, d3}, {d2, d3}>>

\* Restrictions for the replay, which must end in reasonable time. No request is sent.
NothingSent == \A p \in Processes : flight[p] = Nothing

\* One request is sent at a time.
OneRequest == Cardinality({p \in Processes : flight[p] # Nothing}) <= 1

\* The same, and no process learns that a device has left.
NobodyLeaves == OneRequest /\ \A p \in Processes : knows[p] <= 2

\* One request is sent at a time, and only to one device.
OneAtATime ==
    /\ OneRequest
    /\ \A p \in Processes : flight[p] # Nothing => \A key \in flight[p].keys : key.to = d1

\* No process learns of changes in the room, and keys are given to one device only.
OnlyOneDevice == Shared \subseteq {d1} /\ \A p \in Processes : knows[p] = 1

-------------------------------------------------------------------------------
(* Probes. Each claims that an action never happens, and TLC must refute   *)
(* it.                                                                     *)

NeverLearnMembers    == [][\A p \in Processes : ~LearnMembers(p)]_vars
NeverRotate          == [][\A p \in Processes : ~Rotate(p)]_vars
NeverShareRoomKey    == [][\A p \in Processes : ~ShareRoomKey(p)]_vars
NeverEncrypt         == [][\A p \in Processes : ~Encrypt(p)]_vars
NeverOutgoingRequest == [][\A p \in Processes : \A keys \in store.outbox : ~OutgoingRequest(p, keys)]_vars
NeverDeliver         == [][\A p \in Processes : ~Deliver(p)]_vars
NeverMarkSent        == [][\A p \in Processes : ~MarkSent(p)]_vars
NeverLose            == [][\A p \in Processes : ~Lose(p)]_vars

\* Probes of situations that the guarantees are about. Each claims that the situation in its comment
\* never happens.

\* Both processes send the same key.
NeverSentTwice ==
    [][\A p \in Processes : Deliver(p) => ~(flight[p].keys \subseteq arrived)]_vars

\* A process does not know yet that a device has left. It shares the key with that device, after the
\* other process has encrypted a message.
NeverSharesWithThoseWhoLeft ==
    [][\A p \in Processes : (ShareRoomKey(p) /\ messages # <<>>) =>
        \A q \in Processes : DOMAIN store'.session.shared \subseteq Members(q)]_vars

\* A device is given a key from a later index on than the first.
NeverSharedLate == \A d \in Shared : store.session.shared[d] = 0
===============================================================================
