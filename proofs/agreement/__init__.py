"""The functions of `unwedged.protocol` do what the specification says, input by input and step by step.

Subject: each function on a finite domain, and each action of `tla/CryptoStoreCache.tla` in every state of three models.
Method: comparison with the graphs that TLC makes of them.
"""
