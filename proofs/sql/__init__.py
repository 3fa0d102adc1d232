"""Test that the SQL of the store agrees with the functions of `unwedged.protocol`.

Subject: the statements that `unwedged.store` sends to SQLite.
Method: tests by Hypothesis with the same examples each time. This is not a proof.
"""
