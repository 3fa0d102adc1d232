"""Work that must not be left halfway is completed, however often its caller is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, copy_context

import pytest

from unwedged.store.completion import SettledByLoop, Uncancellable, run_to_completion

PAUSES: dict[str, Callable[[], Awaitable[object]]] = {
    "nothing": lambda: asyncio.sleep(0),
    "a timer": lambda: asyncio.sleep(0.001),
    "a thread": lambda: asyncio.to_thread(str),
    "a task": lambda: asyncio.create_task(asyncio.sleep(0)),
    "what can't be cancelled": lambda: soon(),
    "work of the same kind": lambda: run_to_completion(asyncio.sleep(0.001)),
}


async def soon() -> None:
    done: Uncancellable[None] = Uncancellable()
    asyncio.get_running_loop().call_later(0.001, done.set_result, None)
    await done


@pytest.mark.parametrize("times", [0, 1, 3])
@pytest.mark.parametrize("pause", PAUSES.values(), ids=PAUSES.keys())
async def test_it_ends_before_its_caller_gets_the_cancellation(
    pause: Callable[[], Awaitable[object]], times: int
) -> None:
    ended: list[str] = []
    going_on = asyncio.Event()

    async def work() -> str:
        for _ in range(3):
            going_on.set()
            await pause()
        ended.append("work")
        return "done"

    async def calling() -> str:
        return await run_to_completion(work())

    caller = asyncio.create_task(calling())
    await going_on.wait()
    for _ in range(times):
        caller.cancel()
        await asyncio.sleep(0)
    if times:
        with pytest.raises(asyncio.CancelledError):
            await caller
    else:
        assert await caller == "done"
    assert ended == ["work"]


async def test_a_caller_that_was_cancelled_before_it_began_gets_the_cancellation_at_the_end() -> None:
    ended: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0)
        ended.append("work")

    async def calling() -> None:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        await run_to_completion(work())

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(calling())
    assert ended == ["work"]


async def test_its_failure_is_its_callers_unless_that_was_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise LookupError("nothing there")

    with pytest.raises(LookupError):
        await run_to_completion(fail())

    async def calling() -> None:
        await run_to_completion(fail())

    caller = asyncio.create_task(calling())
    await asyncio.sleep(0)
    caller.cancel()
    with caplog.at_level("DEBUG"), pytest.raises(asyncio.CancelledError):
        await caller
    assert "nothing there" in caplog.text


async def test_it_goes_on_after_a_failure_of_what_it_waits_for() -> None:
    steps: list[str] = []

    async def work() -> None:
        failing: Uncancellable[None] = Uncancellable()
        asyncio.get_running_loop().call_soon(failing.set_exception, LookupError("nothing there"))
        try:
            await failing
        finally:
            await soon()
            steps.append("cleaned up")

    with pytest.raises(LookupError):
        await run_to_completion(work())
    assert steps == ["cleaned up"]


async def test_a_time_limit_counts_once_the_work_has_ended() -> None:
    """The time limit raises its own exception, and the cancellation that it causes is counted once."""
    ended: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0.01)
        ended.append("work")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await run_to_completion(work())
    assert ended == ["work"]


def test_a_loop_that_ends_lets_it_end() -> None:
    ended: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0.01)
        ended.append("work")

    async def calling() -> None:
        await run_to_completion(work())

    async def main() -> None:
        main.caller = asyncio.create_task(calling())  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    asyncio.run(main())
    assert ended == ["work"]


# P12.2
@pytest.mark.parametrize("failure", [None, LookupError()])
async def test_a_task_that_waits_for_a_callback_of_the_loop_goes_on_in_it(failure: Exception | None) -> None:
    place: ContextVar[str] = ContextVar("place", default="here")
    elsewhere = copy_context()
    elsewhere.run(place.set, "elsewhere")
    settled: SettledByLoop[int] = SettledByLoop()
    calls: list[tuple[object, str]] = []

    def note(what: object) -> None:
        calls.append((what, place.get()))

    settled.add_done_callback(note)
    settled.add_done_callback(note, context=elsewhere)
    if failure is None:
        settled.set_result(1)
    else:
        settled.set_exception(failure)
    assert calls == [(settled, "here"), (settled, "elsewhere")]
    assert settled.exception() is failure
    settled.add_done_callback(note, context=elsewhere)
    assert len(calls) == 2, "it is too late to be called at once"
    await asyncio.sleep(0)
    assert calls[2:] == [(settled, "elsewhere")]
