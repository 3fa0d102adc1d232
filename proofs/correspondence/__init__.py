"""Show that the formulas in `proofs.encoding` agree with the specification, `tla/CryptoStoreCache.tla`.

Subject: every state and every step of four finite instances.
Method: the successors by the formulas are compared with TLC's state graph of the instance.
"""
