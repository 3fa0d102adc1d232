"""Show that the inductive invariant is inductive in TLA+ too.

Subject: the specification itself, `tla/CryptoStoreCache.tla`, within bounds.
Method: TLC, which starts from every state that satisfies the invariant of `tla/models/MCInductive.tla`, reachable or
not.
"""
