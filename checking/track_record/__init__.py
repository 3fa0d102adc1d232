"""Make the pages of the track record: each bug, how it happens step by step, and which clauses prevent it.

In ``spec/track-record``, people write ``bugs.toml``, and TLC finds the content of ``counterexamples.json``. All other
files in that folder are made from these two.
"""
