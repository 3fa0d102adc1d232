"""How a process that waits for the lease watches its row (rule 8). All of it is for progress only."""

from __future__ import annotations

from unwedged.protocol.identifiers import Epoch, Milliseconds
from unwedged.store.clock import Chance

EAGER_LOOKS = 150
"""Whoever waits first looks so often without a pause: for some two milliseconds, which is longer than a short operation
of the holder takes, handover included. No timer would do: the shortest of an event loop is a millisecond or more."""

SHORTEST_PAUSE = Milliseconds(1)
LONGEST_PAUSE = Milliseconds(50)
"""Then it pauses between two looks, for a random time from half of a bound to all of it, so that processes don't look
in step. The bound lies between these two."""

LOOKS_A_TURN = 4
"""The bound is one so-many-th of the time for which one has paused already, or paused for the turn before. So a wait is
longer than it need be by no more than that part of it, and those who wait leave the processor to the holder. Whoever
stands back pauses for twice as long: it only has to see that the lease changes hands."""


class Watch:
    """One wait: when to look again, and whether to ask or to stand back."""

    def __init__(self, chance: Chance) -> None:
        self.others = 0
        """How many turns others have begun since this wait did."""
        self._chance = chance
        self._seen: Epoch | None = None
        self._looks = 0
        self._paused = Milliseconds(0)
        self._paused_before = Milliseconds(0)
        self._lets_pass = 0
        self._stands_back = Milliseconds(0)

    def stand_back(self, given_up: Epoch, others: int) -> None:
        """Ask for nothing until so many others, one at least, have had the lease, or until nobody comes for it."""
        self._seen = given_up
        self._lets_pass = max(1, others)
        self._stands_back = self._between(LONGEST_PAUSE, 2 * LONGEST_PAUSE)

    @property
    def asks(self) -> bool:
        """Whether to ask for the lease, if that is of use."""
        return self._lets_pass <= 0 or self._stands_back <= self._paused

    def saw(self, epoch: Epoch) -> None:
        """Note which epoch is in the row: if it is another one, the lease changed hands, and may do so again soon."""
        if epoch == self._seen:
            return
        if self._seen is not None:
            self.others += epoch - self._seen
            self._lets_pass -= epoch - self._seen
        self._seen = epoch
        self._paused_before = min(self._paused, LONGEST_PAUSE)
        self._paused = Milliseconds(0)
        if self._looks <= EAGER_LOOKS:
            self._looks = 0

    def pause(self) -> Milliseconds:
        """Return how long to pause before the next look: at first not at all."""
        self._looks += 1
        if self._looks <= EAGER_LOOKS:
            return Milliseconds(0)
        part = max(self._paused, self._paused_before) // (LOOKS_A_TURN if self.asks else LOOKS_A_TURN // 2)
        bound = min(max(part, SHORTEST_PAUSE), LONGEST_PAUSE)
        pause = self._between(bound - bound // 2, bound)
        self._paused = Milliseconds(self._paused + pause)
        return pause

    def _between(self, low: int, high: int) -> Milliseconds:
        return Milliseconds(self._chance.between(Milliseconds(low), Milliseconds(high)))
