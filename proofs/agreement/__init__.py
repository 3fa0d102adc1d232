"""Show that the functions of `unwedged.protocol` agree with the specification, input by input and step by step.

Subject: each function on a finite domain, and each action of `tla/CryptoStoreCache.tla` in every state of three models.
Method: comparison with TLC's state graphs.
"""
