------------------------------- MODULE MCMore -------------------------------
(* CryptoStoreCache with a process or an operation more than in the other models. *)
EXTENDS MCCryptoStoreCache

CONSTANTS p3, o4

TwoAndTwo == o1 :> p1 @@ o2 :> p1 @@ o3 :> p2 @@ o4 :> p2
OneEach == o1 :> p1 @@ o2 :> p2 @@ o3 :> p3

\* Transactions of one process are alike, and so are processes, each together with
\* its operations. (TLC takes these as generators.)
TwoAndTwoAlike == Permutations({o1, o2}) \cup Permutations({o3, o4}) \cup
    {p1 :> p2 @@ p2 :> p1 @@ o1 :> o3 @@ o3 :> o1 @@ o2 :> o4 @@ o4 :> o2}
OneEachAlike ==
    {p1 :> p2 @@ p2 :> p1 @@ o1 :> o2 @@ o2 :> o1,
     p2 :> p3 @@ p3 :> p2 @@ o2 :> o3 @@ o3 :> o2}
===============================================================================
