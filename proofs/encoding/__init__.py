"""The protocol as formulas, for any number of everything: what `induction` proves, and `correspondence` compares.

The formulas say what `tla/CryptoStoreCache.tla` says, action by action. Nothing here asks whether they hold.
"""
