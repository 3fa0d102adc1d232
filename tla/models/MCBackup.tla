------------------------------- MODULE MCBackup -------------------------------
(* Backup made finite.                                                       *)
EXTENDS Backup, TLC

\* All processes are interchangeable.
Alike == Permutations(Processes)

\* Restrictions for the replay, which must end in reasonable time. Other devices create no versions.
OnlyOurs == \A i \in DOMAIN server.versions : server.versions[i] \in 1..MaxKeys

\* Only another device, which we trust, creates versions.
OnlySigned == \A i \in DOMAIN server.versions : server.versions[i] = Signed

\* At most one process holds a request or a response.
OneAtATime == Cardinality({p \in Processes : flight[p] # Nothing}) <= 1

-------------------------------------------------------------------------------
(* Probes. Each claims that an action never happens, and TLC must refute   *)
(* it.                                                                     *)

NeverReceiveRoomKey == [][\A s \in Sessions, index \in Indices : ~ReceiveRoomKey(s, index)]_vars
NeverCreateVersion  == [][\A p \in Processes : ~CreateVersion(p)]_vars
NeverAnswerCreate   == [][\A p \in Processes : ~AnswerCreate(p)]_vars
NeverMarkCreated    == [][\A p \in Processes : ~MarkCreated(p)]_vars
NeverIgnoreCreated  == [][\A p \in Processes : ~IgnoreCreated(p)]_vars
NeverChangeVersion  == [][\A key \in {Signed, Unsigned} : ~ChangeVersion(key)]_vars
NeverAskVersion     == [][\A p \in Processes : ~AskVersion(p)]_vars
NeverMarkVersion    == [][\A p \in Processes : ~MarkVersion(p)]_vars
NeverIgnoreVersion  == [][\A p \in Processes : ~IgnoreVersion(p)]_vars
NeverAskUpload      == [][\A p \in Processes : ~AskUpload(p)]_vars
NeverAnswerUpload   == [][\A p \in Processes : ~AnswerUpload(p)]_vars
NeverMarkUploaded   == [][\A p \in Processes : ~MarkUploaded(p)]_vars
NeverMarkRefused    == [][\A p \in Processes : ~MarkRefused(p)]_vars
NeverOtherUploads   == [][\A s \in Sessions, index \in Indices : ~OtherUploads(s, index)]_vars
NeverDownload       == [][\A p \in Processes : ~Download(p)]_vars
NeverRestore        == [][\A p \in Processes : ~Restore(p)]_vars
NeverLose           == [][\A p \in Processes : ~Lose(p)]_vars

\* Probes of situations that the guarantees are about. Each claims that the situation in its comment
\* never happens.

\* A better room key arrives while a worse one is uploaded, and the answer leaves it marked.
NeverStaysMarked ==
    [][\A p \in Processes : MarkUploaded(p) => \A s \in DOMAIN flight[p].mark : store'.unbacked[s] = Nothing]_vars

\* The answer to the creation of our version was lost. We learn of the version when we ask for the
\* newest one.
NeverFoundAgain == [][\A p \in Processes : MarkVersion(p) => ~(IsBeingMade /\ store'.backup.key = store.backup.key)]_vars

\* The same backup key appears again under another version.
NeverKeyReturns ==
    [][\A p \in Processes : MarkVersion(p) =>
        ~(store'.backup.key = store.backup.key /\ store.backup.version \notin {0, store'.backup.version})]_vars

\* A room key from the backup is better than the stored one.
NeverRestoresBetter == [][\A p \in Processes : Restore(p) => store' = store]_vars
===============================================================================
