----------------------------- MODULE AtomicStore -----------------------------
(* What a user of the store may assume. It is all that a user needs to read:   *)
(* there is no lock, no cache and no process's memory in it. Operations are    *)
(* called, take effect at one moment before they return, and may be abandoned  *)
(* by a crash or an error.                                                     *)
(*                                                                             *)
(* A transaction takes effect in one step. If it fails, or writes nothing, its *)
(* answer (an error is an answer) comes from the store as it is at such a      *)
(* step. A view answers with records of one snapshot, which was the store's at *)
(* some moment between its call and its return; if it fails, its error comes   *)
(* from such a snapshot. The value of a record counts the updates that it has  *)
(* seen, so a lost update would show.                                          *)
(*                                                                             *)
(* TLC checks that CryptoStoreCache does nothing that this specification does  *)
(* not allow (property RefinesAtomicStore): the store is linearizable.         *)
EXTENDS Naturals, Sequences

CONSTANTS Operations, Records,
          Missing    \* in a result: a record that the operation did not ask for

VARIABLES
    history,   \* the snapshots the store has been, oldest first; the last is now
    call       \* by operation: how far it is, and its result once it has one

avars == <<history, call>>

Nothing == [r \in Records |-> Missing]
NoCall == [stage |-> "idle", mode |-> "none", since |-> 0, result |-> Nothing]

Now == history[Len(history)]
Part(snapshot, asked) == [r \in Records |-> IF r \in asked THEN snapshot[r] ELSE Missing]

AInit ==
    /\ history = <<[r \in Records |-> 0]>>
    /\ call = [o \in Operations |-> NoCall]

\* From here on, no older snapshot will do for a view.
ACall(o, mode) ==
    /\ call[o].stage = "idle"
    /\ call' = [call EXCEPT ![o] =
            [stage |-> "called", mode |-> mode, since |-> IF mode = "view" THEN Len(history) ELSE 0,
             result |-> Nothing]]
    /\ UNCHANGED history

\* The one moment of a transaction: it reads what it asks for, and updates it.
Update(o) ==
    /\ call[o].stage = "called" /\ call[o].mode = "transaction"
    /\ \E asked \in (SUBSET Records) \ {{}} :
        /\ history' = Append(history, [r \in Records |-> IF r \in asked THEN Now[r] + 1 ELSE Now[r]])
        /\ call' = [call EXCEPT ![o].stage = "done", ![o].result = Part(Now, asked)]

\* An answer without an effect: of a view, or of a transaction that wrote nothing or
\* failed. What an operation fails of is what it has read, as any other answer is.
Look(o) ==
    /\ call[o].stage = "called"
    /\ \E i \in (IF call[o].mode = "view" THEN call[o].since ELSE Len(history))..Len(history),
          asked \in (SUBSET Records) \ {{}} :
        call' = [call EXCEPT ![o].stage = "done", ![o].since = 0,
                                 ![o].result = Part(history[i], asked)]
    /\ UNCHANGED history

Return(o) ==
    /\ call[o].stage = "done"
    /\ call' = [call EXCEPT ![o] = NoCall]
    /\ UNCHANGED history

\* A cancelled caller, a commit that fails, or a crash, which takes several down at once.
\* What had taken effect stays; what had not never will. (An operation that is
\* run again, out of sight of its caller, is abandoned and called once more: that
\* only shortens the time in which it must take effect.)
Abandon(gone) ==
    /\ \A o \in gone : call[o].stage # "idle"
    /\ call' = [o \in Operations |-> IF o \in gone THEN NoCall ELSE call[o]]
    /\ UNCHANGED history

ANext ==
    \/ UNCHANGED avars  \* nothing that a user sees (said first: that is what most steps are)
    \/ \E o \in Operations :
        ACall(o, "transaction") \/ ACall(o, "view") \/ Update(o) \/ Look(o) \/ Return(o)
    \/ \E gone \in (SUBSET Operations) \ {{}} : Abandon(gone)

AtomicSpec == AInit /\ [][ANext]_avars
===============================================================================
