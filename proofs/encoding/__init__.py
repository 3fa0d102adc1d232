"""Encode the protocol as formulas, for any number of processes, operations, records, acquisitions and commits.

The formulas follow `tla/CryptoStoreCache.tla`, action by action. `induction` proves guarantees of them, and
`correspondence` compares them with TLC.
"""
