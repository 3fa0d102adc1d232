"""The rules of the protocol as pure functions over frozen dataclasses: no I/O, no clock, no asyncio.

What ``tla/`` says, line for line, and what ``proofs/`` speaks about:

* ``lease``: the row that processes share, and the fence;
* ``guard``: what one process knows about its own right to use the store;
* ``cache``: the partial copy of one snapshot, and how it is brought up to date;
* ``stream``: what subscribers are told.
"""
