"""The track record as pages: each bug, how it happens step by step, and what prevents it.

People write ``bugs.toml`` in ``spec/track-record``, and TLC what is in ``counterexamples.json`` beside it. Everything
else in that folder is made from these two.
"""
