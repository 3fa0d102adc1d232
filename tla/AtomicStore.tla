----------------------------- MODULE AtomicStore -----------------------------
(* What a user of the store may assume. A user needs to read only this module: *)
(* it has no lock, no cache and no memory of a process. An operation is        *)
(* called, takes effect at one moment before it returns, and may be abandoned  *)
(* because of a crash or an error.                                             *)
(*                                                                             *)
(* A transaction takes effect in one step. If it writes nothing, or fails, its *)
(* answer or its error is computed from the store at such a step. A view reads *)
(* one snapshot, which was the current one at some moment between the call and *)
(* the return of the view. Its answer or its error is computed from that       *)
(* snapshot. The value of a record is the number of its updates, so the values *)
(* show a lost update.                                                         *)
(*                                                                             *)
(* TLC checks that CryptoStoreCache does nothing that this specification does  *)
(* not allow (property RefinesAtomicStore): the store is linearizable.         *)
EXTENDS Naturals, Sequences

CONSTANTS Operations, Records,
          Missing    \* in a result: a record that the operation did not ask for

VARIABLES
    history,   \* the snapshots of the store, oldest first; the last is the current one
    call       \* by operation: its stage, and its result if it has one

avars == <<history, call>>

Nothing == [r \in Records |-> Missing]
NoCall == [stage |-> "idle", mode |-> "none", since |-> 0, result |-> Nothing]

Now == history[Len(history)]
Part(snapshot, asked) == [r \in Records |-> IF r \in asked THEN snapshot[r] ELSE Missing]

AInit ==
    /\ history = <<[r \in Records |-> 0]>>
    /\ call = [o \in Operations |-> NoCall]

\* A view may not read a snapshot from before its call.
ACall(o, mode) ==
    /\ call[o].stage = "idle"
    /\ call' = [call EXCEPT ![o] =
            [stage |-> "called", mode |-> mode, since |-> IF mode = "view" THEN Len(history) ELSE 0,
             result |-> Nothing]]
    /\ UNCHANGED history

\* The moment at which a transaction takes effect: it reads records, and updates them.
Update(o) ==
    /\ call[o].stage = "called" /\ call[o].mode = "transaction"
    /\ \E asked \in (SUBSET Records) \ {{}} :
        /\ history' = Append(history, [r \in Records |-> IF r \in asked THEN Now[r] + 1 ELSE Now[r]])
        /\ call' = [call EXCEPT ![o].stage = "done", ![o].result = Part(Now, asked)]

\* An answer without an effect: of a view, or of a transaction that wrote nothing or
\* failed. An error depends on what the operation has read, like any other answer.
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

\* A cancelled caller, a failed commit, or a crash, which ends several operations at once.
\* An operation that has taken effect stays so; another one never takes effect. (The store
\* may retry an operation without telling the caller. Here that is Abandon and another
\* ACall. This only shortens the time in which the operation must take effect.)
Abandon(gone) ==
    /\ \A o \in gone : call[o].stage # "idle"
    /\ call' = [o \in Operations |-> IF o \in gone THEN NoCall ELSE call[o]]
    /\ UNCHANGED history

ANext ==
    \/ UNCHANGED avars  \* a step that no user sees (it is first since most steps are of this kind)
    \/ \E o \in Operations :
        ACall(o, "transaction") \/ ACall(o, "view") \/ Update(o) \/ Look(o) \/ Return(o)
    \/ \E gone \in (SUBSET Operations) \ {{}} : Abandon(gone)

AtomicSpec == AInit /\ [][ANext]_avars
===============================================================================
