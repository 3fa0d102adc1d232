-------------------------------- MODULE MCLists --------------------------------
(* Lists with its probes. Each probe claims that an action never happens,    *)
(* and TLC must refute it. Otherwise the guarantees might hold only because  *)
(* nothing happens.                                                          *)
EXTENDS Lists

NeverTrackUser     == [][\A user \in Users : ~TrackUser(user)]_vars
NeverChangeDevices == [][\A user \in Users : ~ChangeDevices(user)]_vars
NeverAnswerSync    == [][\A p \in Processes, c \in Connections : ~AnswerSync(p, c)]_vars
NeverReceiveSync   == [][\A p \in Processes : ~ReceiveSync(p)]_vars
NeverForgetToken   == [][\A c \in Connections : ~ForgetToken(c)]_vars
NeverAnswerQuery   == [][\A p \in Processes : ~AnswerQuery(p)]_vars
NeverMarkSent      == [][\A p \in Processes : ~MarkSent(p)]_vars
NeverLose          == [][\A p \in Processes : ~Lose(p)]_vars

\* Probes of situations that the guarantees are about. Each claims that the situation in its comment
\* never happens.

\* The mark of a query was replaced before the response came.
NeverComesLate ==
    [][\A p \in Processes : MarkSent(p) =>
        \A user \in DOMAIN flight[p].marks : store.outdated[user] \in {flight[p].marks[user], None}]_vars

\* Another response has settled the mark, and the list has changed since.
NeverComesSecond ==
    [][\A p \in Processes : MarkSent(p) =>
        \A user \in DOMAIN flight[p].marks :
            store.outdated[user] = None => store.known[user] = flight[p].lists[user]]_vars

\* A response is used for one user, and not for another.
NeverCountsInPart ==
    [][\A p \in Processes : (MarkSent(p) /\ store' # store) =>
        \A user \in DOMAIN flight[p].marks : store'.outdated[user] = None]_vars

\* Two connections report the same change.
NeverToldTwice ==
    [][\A p \in Processes : (ReceiveSync(p) /\ store' # store) =>
        \A user \in flight[p].changed : store.known[user] # server.changed[user]]_vars

\* A sync without a token marks a user whose change no other response reports.
NeverMarksAll ==
    [][\A p \in Processes : (ReceiveSync(p) /\ flight[p].asked = None) => store'.next = store.next]_vars
===============================================================================
