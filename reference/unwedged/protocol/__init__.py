"""The rules of the protocol as pure functions over frozen dataclasses: no I/O, no clock, no asyncio.

They follow ``tla/`` line by line, and ``proofs/`` is about them:

* ``lease``: the row that processes share, and the fence;
* ``guard``: what one process knows about its own right to use the store;
* ``cache``: the partial copy of one snapshot, and how it is brought up to date;
* ``stream``: what is published to subscribers.

Functions have contracts in the notation of PEP 316. ``pre:`` is what a function assumes about its arguments, ``post:``
is what holds for the result ``_`` whatever the arguments are, and the comment after ``#`` is the contract's name.
``python -m proofs contracts`` confirms each of them.
"""
