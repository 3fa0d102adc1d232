"""The SQL of the store does what the functions of `unwedged.protocol` say.

Of what: of the statements that `unwedged.store` sends to SQLite. By what: by Hypothesis, in tests by examples, the same
ones each time: this is not a proof.
"""
