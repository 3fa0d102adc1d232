"""The inductive invariant is inductive in TLA+ too.

Of what: of the specification itself, `tla/CryptoStoreCache.tla`, within bounds. By what: by TLC, which starts from
every state that satisfies the invariant of `tla/models/MCInductive.tla`, reachable or not.
"""
