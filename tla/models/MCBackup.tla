------------------------------- MODULE MCBackup -------------------------------
(* Backup made finite.                                                       *)
EXTENDS Backup, TLC

\* All processes are interchangeable.
Alike == Permutations(Processes)

\* The replay must end in reasonable time. So other devices create no versions,
OnlyOurs == \A i \in DOMAIN server.versions : server.versions[i] \in 1..MaxKeys

\* or only a device that we trust,
OnlySigned == \A i \in DOMAIN server.versions : server.versions[i] = Signed

\* and at most one process holds a request or a response.
OneAtATime == Cardinality({p \in Processes : flight[p] # Nothing}) <= 1

-------------------------------------------------------------------------------
(* Probes: each says that an action never happens, and must be found wrong.  *)

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

\* Probes: situations that the guarantees are about.
\* a room key gets better while a worse one is uploaded, and the answer leaves it marked;
NeverStaysMarked ==
    [][\A p \in Processes : MarkUploaded(p) => \A s \in DOMAIN flight[p].mark : store'.unbacked[s] = Nothing]_vars

\* a version of our own is known from the question for the newest one, as the answer to
\* its creation was lost;
NeverFoundAgain == [][\A p \in Processes : MarkVersion(p) => ~(IsBeingMade /\ store'.backup.key = store.backup.key)]_vars

\* the same backup key comes back under another version;
NeverKeyReturns ==
    [][\A p \in Processes : MarkVersion(p) =>
        ~(store'.backup.key = store.backup.key /\ store.backup.version \notin {0, store'.backup.version})]_vars

\* a room key that comes from the backup is better than the one that is marked.
NeverRestoresBetter == [][\A p \in Processes : Restore(p) => store' = store]_vars
===============================================================================
