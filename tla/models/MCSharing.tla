------------------------------ MODULE MCSharing ------------------------------
(* Sharing made finite: who is in the room.                                  *)
EXTENDS Sharing, TLC

CONSTANTS d1, d2, d3

\* Processes are alike.
Alike == Permutations(Processes)

\* Somebody leaves.
Leaves == <<{d1, d2}, {d1}>>

\* Somebody leaves, and comes back.
LeavesAndReturns == <<{d1, d2}, {d1}, {d1, d2}>>

\* Three devices; one comes late, and another leaves.
ComesAndLeaves == <<{d1, d2}, {d1, d2, d3}, {d2, d3}>>

\* Less, for real machines: no request is sent;
NothingSent == \A p \in Processes : flight[p] = Nothing

\* one at a time is, and only to one device.
OneAtATime ==
    /\ Cardinality({p \in Processes : flight[p] # Nothing}) <= 1
    /\ \A p \in Processes : flight[p] # Nothing => flight[p].key.to = d1

\* Or nobody learns of anybody, and keys are given to one device only.
OnlyOneDevice == Shared \subseteq {d1} /\ \A p \in Processes : knows[p] = 1

-------------------------------------------------------------------------------
(* Probes: each says that an action never happens, and must be found wrong.  *)

NeverLearnMembers    == [][\A p \in Processes : ~LearnMembers(p)]_vars
NeverRotate          == [][\A p \in Processes : ~Rotate(p)]_vars
NeverShareRoomKey    == [][\A p \in Processes : ~ShareRoomKey(p)]_vars
NeverEncrypt         == [][\A p \in Processes : ~Encrypt(p)]_vars
NeverOutgoingRequest == [][\A p \in Processes : \A key \in store.outbox : ~OutgoingRequest(p, key)]_vars
NeverDeliver         == [][\A p \in Processes : ~Deliver(p)]_vars
NeverMarkSent        == [][\A p \in Processes : ~MarkSent(p)]_vars
NeverLose            == [][\A p \in Processes : ~Lose(p)]_vars

\* Probes: situations that the guarantees are about.
\* both processes send the same key;
NeverSentTwice ==
    [][\A p \in Processes : Deliver(p) => flight[p].key \notin arrived]_vars

\* a process that does not know yet that somebody has left shares the key with them after
\* the other one has encrypted;
NeverSharesWithThoseWhoLeft ==
    [][\A p \in Processes : (ShareRoomKey(p) /\ messages # <<>>) =>
        \A q \in Processes : DOMAIN store'.session.shared \subseteq Members(q)]_vars

\* somebody is given a key in the middle of a session.
NeverSharedLate == \A d \in Shared : store.session.shared[d] = 0
===============================================================================
