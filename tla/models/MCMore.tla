------------------------------- MODULE MCMore -------------------------------
(* CryptoStoreCache with a process or an operation more than in the other models. *)
EXTENDS MCCryptoStoreCache

CONSTANTS p3, o4

\* The process of each operation.
TwoAndTwo == o1 :> p1 @@ o2 :> p1 @@ o3 :> p2 @@ o4 :> p2
TwoAndOneEach == o1 :> p1 @@ o2 :> p1 @@ o3 :> p2 @@ o4 :> p3

\* Records are interchangeable. So are transactions of one process, and processes together with
\* their transactions. (TLC takes these permutations as generators.)
TwoAndTwoAlike == Permutations(Records) \cup Permutations({o1, o2}) \cup Permutations({o3, o4}) \cup
    {p1 :> p2 @@ p2 :> p1 @@ o1 :> o3 @@ o3 :> o1 @@ o2 :> o4 @@ o4 :> o2}
TwoAndOneEachAlike == Permutations(Records) \cup Permutations({o1, o2}) \cup
    {p2 :> p3 @@ p3 :> p2 @@ o3 :> o4 @@ o4 :> o3}

\* TLC does not check that a symmetry is one. KeepsHomes: each permutation moves an operation
\* together with its process.
Image(generator, x) == IF x \in DOMAIN generator THEN generator[x] ELSE x
KeepsHomes(generators) ==
    \A generator \in generators : \A o \in Operations :
        Home[Image(generator, o)] = Image(generator, Home[o])
ASSUME /\ Home = TwoAndTwo => KeepsHomes(TwoAndTwoAlike)
       /\ Home = TwoAndOneEach => KeepsHomes(TwoAndOneEachAlike)
===============================================================================
