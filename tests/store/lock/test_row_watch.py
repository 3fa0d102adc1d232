"""A waiting instance polls the lease row, and asks for the lease when it may be free."""

from __future__ import annotations

from random import Random

import hypothesis.strategies as st
from hypothesis import given

from tests.store.stores import SeededRandomness
from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds
from unwedged.protocol.lease import Lease
from unwedged.store.row_watch import (
    EAGER_LOOKS,
    LEAVE_FREE_MS,
    LONGEST_PAUSE_MS,
    PAUSE_DIVISOR,
    PAUSE_DIVISOR_IF_NEXT,
    SHORT_TURN_MS,
    SHORTEST_PAUSE_MS,
    RowWatch,
)


def row(epoch: int, holder: int | None = None) -> Lease:
    return Lease(Epoch(epoch), None if holder is None else InstanceId(holder), Milliseconds(0), wanted=True)


class LongestPauses(SeededRandomness):
    """A random source that makes each pause as long as its bound."""

    def between(self, low: Milliseconds, high: Milliseconds) -> Milliseconds:
        return max(low, high)


class TestWatching:
    """The way in which a waiting process polls the lease row."""

    # P8.9
    @given(st.lists(st.booleans(), max_size=60), st.randoms(use_true_random=False))
    def test_a_process_that_handed_over_lets_another_pass_but_does_not_wait_for_nobody(
        self, changes: list[bool], random: Random
    ) -> None:
        watch = RowWatch(InstanceId(1), SeededRandomness(random.randrange(1000)))
        watch.stand_back(Epoch(7))
        epoch, paused = 7, 0
        for changed in changes:
            epoch += changed
            asks = watch.saw(row(epoch), free=True)
            assert asks or epoch == 7
            assert not asks or epoch > 7 or paused >= LONGEST_PAUSE_MS
            assert asks or paused <= 2 * LONGEST_PAUSE_MS
            for _ in range(EAGER_LOOKS + 1):
                paused += watch.pause()

    # P8.25
    @given(st.lists(st.booleans(), max_size=300))
    def test_a_wait_is_prolonged_by_a_small_part_of_it(self, changes: list[bool]) -> None:
        watch, epoch, paused, before = RowWatch(InstanceId(1), SeededRandomness()), 1, 0, 0
        for changed in changes:
            if changed:
                epoch, paused, before = epoch + 1, 0, min(paused, LONGEST_PAUSE_MS)
            watch.saw(row(epoch, 2), free=False)
            pause = watch.pause()
            assert pause <= min(
                max(SHORTEST_PAUSE_MS, paused / PAUSE_DIVISOR_IF_NEXT, before / PAUSE_DIVISOR_IF_NEXT), LONGEST_PAUSE_MS
            )
            paused += pause

    # P8.24
    def test_it_looks_eagerly_as_long_as_the_lease_changes_hands_quickly(self) -> None:
        watch = RowWatch(InstanceId(1), SeededRandomness())
        for look in range(3 * EAGER_LOOKS):
            watch.saw(row(look // (EAGER_LOOKS - 1), 2), free=False)
            assert watch.pause() == 0

    # P8.24
    def test_a_process_that_paused_once_looks_eagerly_again(self) -> None:
        """Otherwise two processes with short turns took five times as long: each polled while the other paused."""
        watch = RowWatch(InstanceId(1), SeededRandomness())
        for turn in range(5):
            watch.saw(row(turn, 2), free=False)
            assert [watch.pause() for _ in range(EAGER_LOOKS)] == [0] * EAGER_LOOKS
            assert watch.pause() == watch.pause() == SHORTEST_PAUSE_MS

    # P8.24
    def test_a_process_whose_wait_is_long_looks_eagerly_no_more(self) -> None:
        watch, paused = RowWatch(InstanceId(1), SeededRandomness()), 0
        watch.saw(row(1, 2), free=False)
        while paused <= SHORT_TURN_MS:
            paused += watch.pause()
        watch.saw(row(2, 2), free=False)
        assert watch.pause() >= SHORTEST_PAUSE_MS

    # P8.24, P8.25
    def test_one_that_leaves_the_lease_to_others_looks_less_often_and_not_eagerly(self) -> None:
        """It leaves the CPU to the holder. Its pauses grow three times as fast as those of the process that is next."""
        behind, following = RowWatch(InstanceId(1), LongestPauses()), RowWatch(InstanceId(2), LongestPauses())
        behind.saw(row(1, 2), free=False)
        behind.took(Epoch(2))
        for watch in (behind, following):
            watch.begin()
            watch.saw(row(3, 3), free=False)
        paused = 0
        while paused < LONGEST_PAUSE_MS:
            pause = behind.pause()
            assert pause == max(SHORTEST_PAUSE_MS, paused // PAUSE_DIVISOR), "from its first look on"
            paused += pause
        assert [following.pause() for _ in range(EAGER_LOOKS)] == [0] * EAGER_LOOKS
        paused = 0
        while paused < LONGEST_PAUSE_MS:
            pause = following.pause()
            assert pause == max(SHORTEST_PAUSE_MS, paused // PAUSE_DIVISOR_IF_NEXT)
            paused += pause

    # P8.25
    def test_what_it_paused_for_the_turn_before_counts_up_to_the_longest_pause(self) -> None:
        watch, paused = RowWatch(InstanceId(1), LongestPauses()), 0
        watch.saw(row(1, 2), free=False)
        while paused < PAUSE_DIVISOR_IF_NEXT * LONGEST_PAUSE_MS:
            paused += watch.pause()
        watch.saw(row(2, 2), free=False)
        assert watch.pause() == LONGEST_PAUSE_MS // PAUSE_DIVISOR_IF_NEXT

    # P8.10
    @given(st.integers(2, 8), st.randoms(use_true_random=False))
    def test_processes_that_always_want_the_lease_have_it_in_turn(self, processes: int, random: Random) -> None:
        """The promise holds for any order of their polls and for any first holder."""
        watches = {number: RowWatch(InstanceId(number), SeededRandomness(number)) for number in range(1, processes + 1)}
        turns = list(watches)
        random.shuffle(turns)
        for epoch in range(1, 6 * processes):
            holder = turns[-1] if epoch > processes else turns[epoch - 1]
            watches[holder].took(Epoch(epoch))
            watches[holder].begin()
            watches[holder].stand_back(Epoch(epoch))
            others = [number for number in watches if number != holder]
            for number in others:
                watches[number].saw(row(epoch, holder), free=False)
            if epoch < processes:
                continue  # Each process gets its first turn, in any order.
            # The lease is free. The others poll in any order, before any of them stops leaving the lease to another.
            random.shuffle(others)
            asking = [number for number in others if watches[number].saw(row(epoch), free=True)]
            assert len(asking) == 1
            turns.append(asking[0])
        rounds = [turns[begin : begin + processes] for begin in range(processes, len(turns) - processes, processes)]
        assert all(sorted(each) == sorted(watches) for each in rounds)

    def test_an_unseen_turn_may_have_been_of_any_process(self) -> None:
        """With short turns, a process finds only a free lease of the next epoch, and does not learn who held it."""
        watch = RowWatch(InstanceId(1), SeededRandomness())
        watch.saw(row(1, 2), free=False)
        for epoch in range(2, 40, 2):
            watch.took(Epoch(epoch))
            watch.begin()
            watch.stand_back(Epoch(epoch))
            assert watch.saw(row(epoch + 1), free=True), "the other one has had its turn, or nobody knows whose it was"

    # P8.10
    @given(st.integers(1, 6))
    def test_a_free_lease_is_not_left_for_long_to_those_that_do_not_come(self, gone: int) -> None:
        watch = RowWatch(InstanceId(1), SeededRandomness())
        for epoch in range(1, gone + 1):
            watch.saw(row(epoch, 1 + epoch), free=False)
        watch.took(Epoch(gone + 1))
        watch.begin()
        watch.saw(row(gone + 2, 99), free=False)
        left = 0
        while not watch.saw(row(gone + 2), free=True):
            left += watch.pause()
        assert left == gone * LEAVE_FREE_MS
        for epoch in range(gone + 3, 4 * gone + 12):
            watch.took(Epoch(epoch))
            watch.saw(row(epoch + 1, 99), free=False)
        assert watch.saw(row(4 * gone + 13), free=True), "they have been forgotten"
