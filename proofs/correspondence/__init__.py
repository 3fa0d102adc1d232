"""The formulas in `proofs.encoding` are the specification, `tla/CryptoStoreCache.tla`, as TLC understands it.

Subject: every state and every step of four finite instances.
Method: comparison, step by step, of where the formulas lead with the graph that TLC makes of the instance.
"""
