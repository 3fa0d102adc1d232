----------------------------- MODULE MCFunctions -----------------------------
(* Tables of the functions that the specification uses. Each initial state   *)
(* is an input of one function, whether or not a behaviour leads to that     *)
(* state. It has one step, which notes the output. If the condition of an    *)
(* action decides what is refused, this step is the action.                  *)
(*                                                                           *)
(* proofs/agreement/functions.py gives the same inputs to the functions of   *)
(* the same names in reference/unwedged/protocol/, and compares the outputs. *)
EXTENDS MCCryptoStoreCache

VARIABLES
    function,   \* the name of the function
    input,      \* its arguments, by name
    output      \* <<>>, then the result

CONSTANT MaxKnown  \* bound: versions and values in the tables

Epochs == 0..MaxEpoch - 1
AllRows == [epoch: Epochs, holder: Processes \cup {Nobody, Departed}, left: 0..Absurd, wanted: BOOLEAN]
AllGuards == [stage: Stages, epoch: Epochs]

Versions == 0..MaxKnown
Numbers == 0..MaxKnown - 1
AllCaches == [version: Versions, records: [Records -> Numbers \cup {Missing}]]

\* By version, the records that its commit wrote. (The functions here do not use the values
\* that the updates were computed from.)
AllLogs == UNION {[1..length -> SUBSET Records \ {{}}] : length \in Versions}

AllWrites == UNION {[records -> Numbers] : records \in SUBSET Records}

-------------------------------------------------------------------------------
(* Inputs.                                                                      *)

\* If an argument of a function is a variable of the specification, the initial state has it there,
\* for the process p1. Everything else is as in a new store.
Unused == [row |-> NewRow, guard |-> NoGuard, cache |-> NewCache, log |-> <<>>, floor |-> 0,
           heard |-> 0, work |-> Idle, running |-> {}]

\* The initial state for a function and its arguments.
Ask(name, inputs) ==
    LET all == inputs @@ Unused IN
    /\ function = name
    /\ input = inputs
    /\ output = <<>>
    /\ lease = all.row
    /\ history = <<[r \in Records |-> 0]>>
    /\ commits = [v \in DOMAIN all.log |-> [r \in all.log[v] |-> 0]]
    /\ floor = all.floor
    /\ guard = [p \in Processes |-> IF p = p1 THEN all.guard ELSE NoGuard]
    /\ cache = [p \in Processes |-> IF p = p1 THEN all.cache ELSE NewCache]
    /\ heard = [p \in Processes |-> <<Heard(all.heard, FALSE)>>]
    /\ op = [o \in Operations |->
                IF o \in all.running THEN [Idle EXCEPT !.stage = "running", !.under = all.guard.epoch]
                ELSE IF o = o1 THEN all.work ELSE Idle]

RowHeldUnder(epoch) == [NewRow EXCEPT !.epoch = epoch, !.holder = p1]

OfLease ==
    \E row \in AllRows :
        \/ \E p \in Processes : Ask("takeable", [row |-> row, process |-> p])
        \/ \E p \in Processes : Ask("acquire", [row |-> row, process |-> p])
        \/ Ask("want", [row |-> row])
        \/ \E epoch \in Epochs :
            \/ Ask("fence", [row |-> row, epoch |-> epoch])
            \/ Ask("renew", [row |-> row, guard |-> [stage |-> "held", epoch |-> epoch]])
            \/ \E mayRelease \in BOOLEAN :
                Ask("commit", [row |-> row, guard |-> [stage |-> "held", epoch |-> epoch],
                               running |-> IF mayRelease THEN {} ELSE {o2},
                               work |-> [Idle EXCEPT !.stage = "running", !.mode = "transaction", !.under = epoch,
                                                     !.known = [r \in Records |-> 0]]])
            \/ Ask("release", [row |-> row, guard |-> [stage |-> "held", epoch |-> epoch]])

OfGuard ==
    \/ \E epoch \in Epochs : Ask("taken", [epoch |-> epoch])
    \/ \E g \in AllGuards :
        \/ Ask("admits", [guard |-> g])
        \/ Ask("overdue", [guard |-> g])
        \/ \E running \in SUBSET Of(p1) :
            Ask("releasable", [guard |-> g, running |-> running, row |-> RowHeldUnder(g.epoch)])
        \/ \E epoch \in Epochs :
            \/ Ask("synced", [guard |-> g, row |-> RowHeldUnder(epoch)])
            \/ Ask("lost", [guard |-> g, epoch |-> epoch])
            \/ Ask("stands", [guard |-> g, epoch |-> epoch])
            \/ \E sawWaiter \in BOOLEAN :
                Ask("waiter_noted", [guard |-> g, work |->
                    [Idle EXCEPT !.stage = "validated", !.under = epoch, !.sawWaiter = sawWaiter]])

OfCache ==
    \/ \E log \in AllLogs : Ask("empty", [log |-> log])
    \/ \E v \in Versions, cut \in Versions :
        Ask("reaches", [floor |-> cut, cache |-> [version |-> v, records |-> [r \in Records |-> 0]]])
    \/ \E c \in AllCaches :
        \/ \E log \in AllLogs, cut \in Versions : Ask("sync", [cache |-> c, log |-> log, floor |-> cut])
        \/ \E r \in Records : Ask("forget", [cache |-> c, record |-> r])
        \/ \E v \in Versions, r \in Records, value \in Numbers :
            Ask("fill", [cache |-> c, version |-> v, record |-> r, value |-> value])
        \/ \E v \in Versions, written \in AllWrites :
            Ask("install", [cache |-> c, version |-> v, written |-> written])

OfStream ==
    \E published \in Versions, log \in AllLogs :
        \/ \E cut \in Versions : Ask("news", [heard |-> published, log |-> log, floor |-> cut])
        \/ log # <<>> /\ Ask("news of an own commit", [heard |-> published, log |-> log])

Inputs == OfLease \/ OfGuard \/ OfCache \/ OfStream

-------------------------------------------------------------------------------
(* Outputs.                                                                     *)

\* The output is this value.
Is(value) == output' = <<value>> /\ UNCHANGED vars

\* The output is the value of a variable after an action, or "refused" if the action is impossible.
Does(action, value) ==
    \/ action /\ output' = <<value>>
    \/ ~ENABLED action /\ Is("refused")

\* Whether a sync keeps all records. If the cache has all and the log has no lines, only the floor
\* decides this.
KeepsAll(c) == SyncedCache(c).records = c.records

Apply ==
    CASE function = "takeable" -> Is(Takeable(lease, input.process))
      [] function = "acquire" -> Does(Acquire(input.process), lease')
      [] function = "want" -> Is(Wanted(lease))
      [] function = "fence" -> Is(FencePasses(lease, input.epoch))
      [] function = "renew" -> Does(Renew(p1), lease')
      [] function = "commit" -> Does(Commit(o1, Records), lease')
      [] function = "release" -> Does(Release(p1), lease')
      [] function = "taken" -> Is(Taken(input.epoch))
      [] function = "synced" -> Does(Sync(p1), guard'[p1])
      [] function = "waiter_noted" -> Does(Finish(o1), guard'[p1])
      [] function = "overdue" -> Is(Overdue(guard[p1]))
      [] function = "lost" -> Is(Lost(guard[p1], input.epoch))
      [] function = "admits" -> Is(Admits(guard[p1]))
      [] function = "stands" -> Is(Stands(guard[p1], input.epoch))
      [] function = "releasable" -> Is(ENABLED Release(p1))
      [] function = "empty" -> Is(SyncedCache(NewCache))
      [] function = "reaches" -> Is(KeepsAll(cache[p1]))
      [] function = "sync" -> Is(SyncedCache(cache[p1]))
      [] function = "fill" -> Is(FilledCache(cache[p1], input.record, input.value, input.version))
      [] function = "forget" -> Is(ForgottenCache(cache[p1], input.record))
      [] function = "install" -> Is(InstalledCache(cache[p1], input.version, input.written))
      [] function = "news" -> Is(PublishedUpTo(heard[p1], Version))
      [] function = "news of an own commit" -> Is(PublishedOwn(heard[p1], Version))

Step ==
    /\ output = <<>>
    /\ Apply
    /\ UNCHANGED <<function, input>>

Tables == Inputs /\ [][Step]_<<vars, function, input, output>>
===============================================================================
