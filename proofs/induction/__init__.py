"""The guarantees hold for any number of processes, operations, records, acquisitions and commits.

Subject: every behaviour of the formulas in `proofs.encoding`.
Method: induction, in one question for each action and conjunct, to which z3 and cvc5 must both answer "unsat". With a
rule broken, both find a counterexample.
"""
