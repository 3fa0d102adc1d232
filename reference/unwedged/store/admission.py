"""Admission of operations: which run under one guard, and which wait to begin (P5.1, P5.2)."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

from unwedged.protocol.identifiers import Milliseconds
from unwedged.store.errors import own_copy

Given = TypeVar("Given")
"""What an operation gets when it begins."""


class Running(Protocol):
    """An operation that uses a guarded cache."""

    mode: str
    """Either ``"transaction"`` or ``"view"``."""
    began_ms: Milliseconds
    """When it began."""
    ended: bool
    """Whether its code has ended; then only its commit, or its validation, is under way."""

    @property
    def name(self) -> str:
        """The qualified name of its code, for people."""


class Admission:
    """What runs under one guard. Views run beside everything else, and transactions one after the other.

    No view begins during a commit (P5.15): it would answer from the state before the commit, but end after the commit.
    """

    __slots__ = ("_committing", "_writing", "guard_ended_after", "operations", "running")

    def __init__(self) -> None:
        self.operations: set[Running] = set()
        """The operations that have begun. An admitted operation is added when its own task continues."""
        self.running = 0
        """How many were admitted and have not ended."""
        self.guard_ended_after: int | None = None
        """The last line of the trace before the guard was lost; ``None`` if it was not lost."""
        self._writing = False
        self._committing = False

    @property
    def committing(self) -> bool:
        """Whether a commit is under way: from its first step until the cache has its values."""
        return self._committing

    def admits_view(self) -> bool:
        """Return whether a view may begin."""
        return not self._committing

    def admits_transaction(self) -> bool:
        """Return whether a transaction may begin."""
        return not self._writing

    def begin_view(self) -> None:
        """Count a view that begins."""
        self.running += 1

    def begin_transaction(self) -> None:
        """Count a transaction that begins. No other one begins until it ends."""
        self.running += 1
        self._writing = True

    def begin_commit(self) -> None:
        """Let no view begin."""
        self._committing = True

    def end_commit(self) -> None:
        """Let views begin again."""
        self._committing = False

    def end_view(self) -> None:
        """Count a view that has ended."""
        self.running -= 1

    def end_transaction(self) -> None:
        """Count a transaction that has ended. The next one may begin."""
        self.running -= 1
        self._writing = False


class Queue(Generic[Given]):
    """Operations of one mode that wait to begin: first come, first served.

    A task that waits is woken when its operation begins, and not before. So the cost of a turn depends on how many
    operations it serves, and not on how many wait.
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[asyncio.Future[Given], None] = OrderedDict()
        """The waiting operations in the order of their arrival. A caller that is cancelled leaves without a search."""

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self) -> asyncio.Future[Given]:
        """Join the queue at its end. The returned future is done when the operation begins."""
        place: asyncio.Future[Given] = asyncio.get_running_loop().create_future()
        self._waiting[place] = None
        return place

    def leave(self, place: asyncio.Future[Given]) -> None:
        """Stop waiting."""
        self._waiting.pop(place, None)

    def let_begin(self, given: Given) -> bool:
        """Let the first operation begin with ``given``; return whether there was one. The caller counts it."""
        place = self._first()
        if place is None:
            return False
        place.set_result(given)
        return True

    def refuse(self, reason: Exception) -> int:
        """Make all waiting operations fail with ``reason``, a copy each; return how many there were."""
        refused = 0
        while (place := self._first()) is not None:
            place.set_exception(own_copy(reason))
            refused += 1
        return refused

    def _first(self) -> asyncio.Future[Given] | None:
        while self._waiting:
            place, _ = self._waiting.popitem(last=False)
            if not place.done():  # A caller that was cancelled is about to leave.
                return place
        return None
