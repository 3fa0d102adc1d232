"""Who waits to begin an operation in this process: first come, first served (rules 5 and 8).

Whoever waits is woken when its operation begins, and not before. So what a turn of the process costs depends on how
many operations it serves, and not on how many wait.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from unwedged.store.guarded_cache import GuardedCache


class Queue:
    """Operations of one sort, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[asyncio.Future[GuardedCache], None] = OrderedDict()
        """In order, and left without a search by whoever is cancelled."""

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self) -> asyncio.Future[GuardedCache]:
        """Wait at the end. What is returned is done when the operation begins."""
        place: asyncio.Future[GuardedCache] = asyncio.get_running_loop().create_future()
        self._waiting[place] = None
        return place

    def leave(self, place: asyncio.Future[GuardedCache]) -> None:
        """Wait no more."""
        self._waiting.pop(place, None)

    def let_begin(self, guarded: GuardedCache) -> bool:
        """Let the first of them begin on this cache, which counts it from now on. Say whether there was one."""
        place = self._first()
        if place is None:
            return False
        guarded.running += 1
        place.set_result(guarded)
        return True

    def refuse(self, reason: Exception) -> int:
        """Tell all that they will not begin. Say how many were told."""
        told = 0
        while (place := self._first()) is not None:
            place.set_exception(reason)
            told += 1
        return told

    def _first(self) -> asyncio.Future[GuardedCache] | None:
        while self._waiting:
            place, _ = self._waiting.popitem(last=False)
            if not place.done():  # A caller that was cancelled is about to leave.
                return place
        return None
