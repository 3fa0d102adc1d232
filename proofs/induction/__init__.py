"""The guarantees hold for any number of processes, operations, records, acquisitions and commits.

Of what: of every behaviour of the formulas in `proofs.encoding`. By what: by induction, in one question for each action
and conjunct, to which z3 and cvc5 must both answer "unsat". With a rule broken, both find a counterexample.
"""
