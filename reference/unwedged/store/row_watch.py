"""How a process watches the lease row while it waits for its turn. No safety property depends on it."""

from __future__ import annotations

from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds
from unwedged.protocol.lease import Lease
from unwedged.store.clock import Randomness

EAGER_LOOKS = 150
"""How often a waiting process first polls without a pause: for some two milliseconds, which is longer than a short
operation of the holder takes, handover included. A timer is too slow: the shortest of an event loop is a
millisecond."""

SHORTEST_PAUSE_MS = Milliseconds(1)
"""The smallest bound of a pause between two looks. A pause lasts for a random time from half of its bound to all of it,
so that processes don't look in step."""

LONGEST_PAUSE_MS = Milliseconds(50)
"""The greatest bound of a pause between two looks."""

SHORT_TURN_MS = Milliseconds(2)
"""If a waiting process has paused for no longer than this when the lease changes hands, it polls without pauses
again."""

PAUSE_DIVISOR_IF_NEXT = 12
"""For the process whose turn is next: the bound of its pause is the time for which it has paused already, or paused in
the previous turn, divided by this. So its wait is longer than necessary by at most such a fraction."""

PAUSE_DIVISOR = 4
"""The same for each other process: it looks less often, and leaves the processor to the holder."""

LEAVE_FREE_MS = Milliseconds(5)
"""For how long a free lease is left to each process whose last turn is further back. This is longer than the pauses of
the process whose turn it is, while turns are as long as usual."""


# P8.9, P8.10, P8.23, P8.24, P8.25
class RowWatch:
    """The turns of the other instances as far as one instance knows them, and when it looks again and asks."""

    def __init__(self, instance: InstanceId, randomness: Randomness) -> None:
        self._instance = instance
        self._randomness = randomness
        self._turns: dict[InstanceId, Epoch] = {}
        """The last turn of each instance that was seen with the lease lately, this one included."""
        self.begin()

    def begin(self) -> None:
        """Begin to wait."""
        self._seen: Epoch | None = None
        self._stand_back_ms = Milliseconds(0)
        self._instances_ahead = 0
        self._free = False
        self._left_free_ms = Milliseconds(0)
        self._looks = 0
        self._paused_ms = Milliseconds(0)
        self._paused_before_ms = Milliseconds(0)

    def took(self, epoch: Epoch) -> None:
        """Note that this instance has its turn."""
        self._turns[self._instance] = epoch

    def stand_back(self, released: Epoch) -> None:
        """Do not ask for the lease until another instance has had it, or until it is clear that none comes."""
        self._seen = released
        self._stand_back_ms = self._between(LONGEST_PAUSE_MS, 2 * LONGEST_PAUSE_MS)

    def saw(self, lease: Lease, *, free: bool) -> bool:
        """Note the row, and whether the lease can be taken. Return whether it is useful to ask for it."""
        self._free = free
        if lease.epoch != self._seen:
            self._changed_hands(lease)
        if self._paused_ms < self._stand_back_ms:
            return False
        return not free or self._left_free_ms >= self._instances_ahead * LEAVE_FREE_MS

    def pause(self) -> Milliseconds:
        """Return how long to pause before the next look: at first not at all."""
        self._looks += 1
        if self._looks <= EAGER_LOOKS and not self._instances_ahead:
            return Milliseconds(0)
        if self._free and self._instances_ahead and self._paused_ms >= self._stand_back_ms:
            pause = SHORTEST_PAUSE_MS
            self._left_free_ms = Milliseconds(self._left_free_ms + pause)
        else:
            is_next = not self._instances_ahead and self._paused_ms >= self._stand_back_ms
            paused_ms = max(self._paused_ms, self._paused_before_ms)
            bound = paused_ms // (PAUSE_DIVISOR_IF_NEXT if is_next else PAUSE_DIVISOR)
            bound = min(max(bound, SHORTEST_PAUSE_MS), LONGEST_PAUSE_MS)
            pause = self._between(bound - bound // 2, bound)
        self._paused_ms = Milliseconds(self._paused_ms + pause)
        return pause

    def _changed_hands(self, lease: Lease) -> None:
        """Begin with the pauses anew, since the lease may soon change hands again. Count whose turn comes first."""
        self._stand_back_ms = Milliseconds(0)
        self._seen = lease.epoch
        if lease.holder is not None:
            self._turns[lease.holder] = lease.epoch
        # An instance without a turn for this long no longer wants the lease.
        oldest = lease.epoch - 2 * (len(self._turns) + 1)
        self._turns = {instance: turn for instance, turn in self._turns.items() if turn >= oldest}
        own = self._turns.get(self._instance, Epoch(0))
        # Short turns begin and end between two looks: any instance may have had one of those that were not seen.
        unseen = lease.epoch - own - sum(turn > own for turn in self._turns.values())
        self._instances_ahead = max(0, sum(turn < own for turn in self._turns.values()) - unseen)
        self._left_free_ms = Milliseconds(0)
        self._paused_before_ms = min(self._paused_ms, LONGEST_PAUSE_MS)
        self._paused_ms = Milliseconds(0)
        # The next turn may be as short. Otherwise two processes could go on for ever: each looks while the other
        # pauses.
        if self._paused_before_ms <= SHORT_TURN_MS:
            self._looks = 0

    def _between(self, low: int, high: int) -> Milliseconds:
        return Milliseconds(self._randomness.between(Milliseconds(low), Milliseconds(high)))
