"""The SQL of the store does what the functions of `unwedged.protocol` say.

Subject: the statements that `unwedged.store` sends to SQLite.
Method: Hypothesis, in tests by examples, the same ones each time. This is not a proof.
"""
