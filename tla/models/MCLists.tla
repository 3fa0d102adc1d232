-------------------------------- MODULE MCLists --------------------------------
(* Lists, with its probes: each says that an action never happens, and must be  *)
(* found wrong, or the guarantees would hold because nothing happens.           *)
EXTENDS Lists

NeverTrackUser     == [][\A user \in Users : ~TrackUser(user)]_vars
NeverChangeDevices == [][\A user \in Users : ~ChangeDevices(user)]_vars
NeverAnswerSync    == [][\A p \in Processes, c \in Connections : ~AnswerSync(p, c)]_vars
NeverReceiveSync   == [][\A p \in Processes : ~ReceiveSync(p)]_vars
NeverForgetToken   == [][\A c \in Connections : ~ForgetToken(c)]_vars
NeverAnswerQuery   == [][\A p \in Processes : ~AnswerQuery(p)]_vars
NeverMarkSent      == [][\A p \in Processes : ~MarkSent(p)]_vars
NeverLose          == [][\A p \in Processes : ~Lose(p)]_vars

\* Probes: situations that the guarantees are about.
\* a response comes after the mark that it was asked for was replaced,
NeverComesLate ==
    [][\A p \in Processes : MarkSent(p) =>
        \A user \in DOMAIN flight[p].marks : store.outdated[user] \in {flight[p].marks[user], None}]_vars

\* or after another has settled it, and the list has changed since;
NeverComesSecond ==
    [][\A p \in Processes : MarkSent(p) =>
        \A user \in DOMAIN flight[p].marks :
            store.outdated[user] = None => store.known[user] = flight[p].lists[user]]_vars

\* one response counts for one user, and not for another;
NeverCountsInPart ==
    [][\A p \in Processes : (MarkSent(p) /\ store' # store) =>
        \A user \in DOMAIN flight[p].marks : store'.outdated[user] = None]_vars

\* two connections tell of the same change;
NeverToldTwice ==
    [][\A p \in Processes : (ReceiveSync(p) /\ store' # store) =>
        \A user \in flight[p].changed : store.known[user] # server.changed[user]]_vars

\* a connection without a token marks a user whose list nobody else would tell of.
NeverMarksAll ==
    [][\A p \in Processes : (ReceiveSync(p) /\ flight[p].asked = None) => store'.next = store.next]_vars
===============================================================================
