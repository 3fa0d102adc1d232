"""Share one Matrix end-to-end-encryption store between several processes without ever losing a session.

The layers, each importing only those before it:

* ``unwedged.protocol``: the rules as pure functions; no I/O, no clock, no asyncio.
* ``unwedged.store``: the store that programs open: SQLite, sealing, the lock, the cache, transactions.
* ``unwedged.machine``: one Matrix device in such a store; it needs the extra ``machine``.
* ``unwedged.tools``: the command ``unwedged``, for people who run programs that share a store.

The clauses are numbered in ``spec/protocol.md``; docstrings cite them, such as P4.1. Rule 4 is all of P4.
"""

__version__ = "0.1.0"
