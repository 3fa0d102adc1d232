"""The admission of operations under a guard, and the order in which they begin, agree with a simple model."""

from __future__ import annotations

import asyncio
import traceback
from random import Random
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from unwedged.store.admission import Admission, Queue
from unwedged.store.errors import StoreBusy, own_copy

STEPS: Final = ("begin_view", "begin_transaction", "begin_commit", "end_view", "end_transaction", "end_commit")


# P5.1, P5.2, P5.15
@given(st.lists(st.sampled_from(STEPS)))
def test_views_run_beside_everything_but_commits_and_transactions_one_after_the_other(steps: list[str]) -> None:
    admission = Admission()
    running: list[str] = []
    for step in steps:
        begins, _, what = step.partition("_")
        if begins == "end" and what in running:
            running.remove(what)
        elif begins == "begin" and (
            (what == "view" and "commit" not in running)
            or (what == "transaction" and "transaction" not in running)
            or (what == "commit" and "transaction" in running and "commit" not in running)
        ):
            running.append(what)
        else:
            continue
        getattr(admission, step)()
        assert admission.running == sum(what != "commit" for what in running)
        assert admission.committing == ("commit" in running)
        assert admission.admits_view() == ("commit" not in running)
        if "commit" not in running:
            assert admission.admits_transaction() == ("transaction" not in running)


# P5.2
@given(st.lists(st.sampled_from(["join", "leave", "cancel", "let_begin"])), st.randoms(use_true_random=False))
def test_the_first_that_still_waits_begins_first(steps: list[str], random: Random) -> None:
    async def run() -> None:
        queue: Queue[int] = Queue()
        waiting: list[asyncio.Future[int]] = []
        for number, step in enumerate(steps):
            if step == "join":
                waiting.append(queue.join())
            elif step == "let_begin":
                assert queue.let_begin(number) == bool(waiting)
                if waiting:
                    assert waiting.pop(0).result() == number
            elif waiting:
                place = waiting.pop(random.randrange(len(waiting)))
                if step == "cancel":
                    place.cancel()
                else:
                    queue.leave(place)
            assert all(not place.done() for place in waiting)
        reason = LookupError("why")
        assert queue.refuse(reason) == len(waiting)
        told = [place.exception() for place in waiting]
        assert list(map(repr, told)) == [repr(reason)] * len(waiting)
        assert len({*map(id, told)}) == len(told), "each has its own, since raising an exception changes it"
        assert len(queue) == 0

    asyncio.run(run())


def raised(failure: Exception) -> Exception:
    try:
        raise failure from KeyError("a cause")
    except Exception as caught:  # noqa: BLE001 (it is the failure)
        return caught


def test_a_copy_of_an_exception_says_the_same() -> None:
    failure = raised(StoreBusy("busy"))
    copied = own_copy(failure)
    assert copied is not failure
    assert traceback.format_exception(copied) == traceback.format_exception(failure)
    without = own_copy(StoreBusy("busy"))
    assert not without.__suppress_context__
    failure.__context__ = LookupError("before")
    assert own_copy(failure).__context__ is failure.__context__


def test_an_exception_that_can_not_be_copied_is_shared() -> None:
    class OfTwo(Exception):
        def __init__(self, one: str, two: str) -> None:
            super().__init__(f"{one} {two}")

    failure = OfTwo("one", "two")
    assert own_copy(failure) is failure


def test_a_copy_of_an_exception_has_its_message_and_notes_of_its_own() -> None:
    class Failed(Exception):
        def __init__(self, code: int) -> None:
            super().__init__(f"failed with code {code}")
            self.code = code

    failure = Failed(5)
    failure.add_note("one")
    copied = own_copy(failure)
    copied.add_note("two")
    assert (str(copied), copied.code) == ("failed with code 5", 5)
    assert (failure.__notes__, copied.__notes__) == (["one"], ["one", "two"])


async def test_an_exception_whose_copy_is_none_reaches_all_that_wait() -> None:
    class Odd(Exception):
        def __copy__(self) -> str:
            return "odd"

    queue: Queue[int] = Queue()
    places = [queue.join(), queue.join()]
    odd = Odd()
    assert queue.refuse(odd) == 2
    assert [place.exception() for place in places] == [odd, odd]


async def test_one_that_left_already_may_leave_again() -> None:
    """It was admitted or refused at the moment when its caller was cancelled."""
    queue: Queue[int] = Queue()
    place = queue.join()
    assert len(queue) == 1
    assert queue.let_begin(1)
    queue.leave(place)
    assert len(queue) == 0
