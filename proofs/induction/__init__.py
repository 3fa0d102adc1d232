"""Prove the guarantees for any number of processes, operations, records, acquisitions and commits.

Subject: every behaviour of the formulas in `proofs.encoding`. Method: induction. There is one question for each action
and conjunct. z3 and cvc5 must both answer "unsat". If a rule is broken, both find a counterexample.
"""
