"""An exception of what the application has put into its log or its clock ends no background task."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.store.lock.waiting import held, lock_tasks_end
from tests.store.stores import (
    COUNTER,
    PATIENCE,
    Instance,
    all_that_can_run,
    count_up,
    take_over,
)
from unwedged.protocol.guard import NO_GUARD, Stage
from unwedged.protocol.identifiers import Epoch, Milliseconds, Version
from unwedged.store import Changed, background
from unwedged.store.errors import StorageFailed, StoreBusy
from unwedged.store.lock import LeaseLock


@contextmanager
def log_failing_at(caplog: pytest.LogCaptureFixture, *messages: str) -> Iterator[None]:
    """Let the log raise an exception at each of these messages."""

    def fail(record: logging.LogRecord) -> bool:
        if str(record.msg).startswith(messages):
            raise ZeroDivisionError
        return True

    caplog.set_level(logging.INFO, "unwedged")
    caplog.handler.addFilter(fail)
    try:
        yield
    finally:
        caplog.handler.removeFilter(fail)


def reported(caplog: pytest.LogCaptureFixture) -> set[str]:
    """Return the reports in the log, each once."""
    return {record.getMessage() for record in caplog.records if record.msg.startswith(REPORT)}


async def until(condition: Callable[[], object], store: Instance) -> None:
    """Advance the clock until a condition is met."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)
            store.clock.advance(100)


REPORT = "a background task of the store failed"


@pytest.mark.parametrize("messages", [("renewal failed",), ("renewal failed", REPORT)])
# P8.28
async def test_renewals_go_on_after_a_log_that_fails(
    phone: Instance, caplog: pytest.LogCaptureFixture, messages: tuple[str, ...]
) -> None:
    phone.start()
    await take_over(phone)
    async with phone.view():
        with log_failing_at(caplog, *messages):
            phone.gated.failures["renew"] = StoreBusy("busy")
            await until(lambda: "renew" in phone.gated.calls, phone)
            await all_that_can_run()
        await until(lambda: phone.gated.calls.count("renew") > 1, phone)
    assert phone.lock.guard.stage is Stage.HELD
    assert [record.exc_info is not None for record in caplog.records if record.msg.startswith(REPORT)] == (
        [True] * (2 - len(messages))
    )
    assert reported(caplog) <= {f"{REPORT} label=phone"}


# P8.1
async def test_releases_go_on_after_a_log_that_fails(phone: Instance, caplog: pytest.LogCaptureFixture) -> None:
    phone.start()
    await take_over(phone)
    with log_failing_at(caplog, "lease released"):
        await until(lambda: phone.lock.guard == NO_GUARD, phone)
        await all_that_can_run()
    assert reported(caplog) == {f"{REPORT} label=phone"}
    await take_over(phone)
    await until(lambda: phone.lock.guard == NO_GUARD, phone)


# P9.4
async def test_listening_goes_on_after_a_log_that_fails(
    phone: Instance, extension: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    async with phone.subscribe(COUNTER) as changes:
        phone.start()
        with log_failing_at(caplog, "listening failed"):
            phone.gated.failures["changes"] = StorageFailed("no disk")
            await until(lambda: "changes" not in phone.gated.failures, phone)
            await all_that_can_run()
        await extension.run(count_up)
        news = asyncio.ensure_future(anext(changes))
        await until(news.done, phone)
        assert await news == Changed(Version(1), "n")


# P8.28, P9.4
async def test_every_task_goes_on_after_a_clock_that_fails(
    phone: Instance, extension: Instance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sleep, failed = phone.clock.sleep, set[int]()

    async def fail_once(duration: Milliseconds) -> None:
        if duration not in failed:
            failed.add(duration)
            raise ZeroDivisionError
        await sleep(duration)

    monkeypatch.setattr(phone.clock, "sleep", fail_once)
    async with phone.subscribe(COUNTER) as changes:
        await extension.run(count_up)
        await extension.lock.release_now()
        phone.start()
        await take_over(phone)
        async with phone.view():
            await until(lambda: "renew" in phone.gated.calls, phone)
        await until(lambda: phone.lock.guard == NO_GUARD, phone)
        await extension.run(count_up)
        news = [await anext(changes)]
        later = asyncio.ensure_future(anext(changes))
        await until(later.done, phone)
        assert [*news, await later] == [Changed(Version(1), "n"), Changed(Version(2), "n")]
    assert failed == {100, 250, 500}
    assert reported(caplog) == {f"{REPORT} label=phone"}


async def test_a_loop_does_not_end_when_a_task_fails_and_the_log_as_well(
    phone: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop would log the exception of the log, and end if that fails too."""
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    for failure in (StorageFailed("no disk"), RuntimeError("a mistake")):
        gate = phone.gated.hold_before("changes")
        phone.gated.failures["changes"] = failure
        leaving = asyncio.create_task(phone.run(count_up))
        await gate.reached.wait()
        leaving.cancel()
        with log_failing_at(caplog, "asking for the lease failed", REPORT):
            gate.opened.set()
            await all_that_can_run()
        assert not phone.lock._tasks
    assert told == []


async def test_a_mistake_while_asking_for_the_lease_is_reported_if_nobody_waits_for_it_any_more(
    phone: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    mistake = RuntimeError("a mistake")
    gate = phone.gated.hold_before("changes")
    phone.gated.failures["changes"] = mistake
    leaving = asyncio.create_task(phone.run(count_up))
    await gate.reached.wait()
    leaving.cancel()
    gate.opened.set()
    await lock_tasks_end(phone)
    [report] = [record for record in caplog.records if record.msg.startswith(REPORT)]
    assert report.getMessage() == f"{REPORT} label=phone"
    assert report.exc_info is not None
    assert report.exc_info[1] is mistake


# P4.16
async def test_a_truncation_that_fails_and_the_log_as_well_ends_quietly(
    phone: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    phone.gated.failures["truncate"] = StoreBusy("busy")
    with log_failing_at(caplog, "truncating failed"):
        await phone._truncate(Version(1))
    assert caplog.messages == ["a background task of the store failed label=phone"]


# P2.10
async def test_a_sync_whose_log_fails_has_not_happened(
    phone: Instance, extension: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    """No operation begins under a guard that ends at once, and the cache is as it was."""
    assert await phone.run(count_up) == 1
    await phone.lock.release_now()
    assert await extension.run(count_up) == 2
    await extension.lock.release_now()
    before = phone.lock.guarded
    with log_failing_at(caplog, "cache synced"):
        views = [asyncio.create_task(held(phone)) for _ in range(2)]
        told = await asyncio.gather(phone.run(count_up), *views, return_exceptions=True)
    assert list(map(type, told)) == [ZeroDivisionError] * 3
    assert phone.lock.guarded is before
    assert before.cache.version == 1
    assert before.live, "its live objects are still there"
    assert phone.lock.guard == NO_GUARD
    assert await extension.run(count_up) == 3, "the lease is free"
    await extension.lock.release_now()
    assert await phone.run(count_up) == 4


# P8.11
async def test_an_overdue_guard_expires_although_the_log_fails(
    phone: Instance, extension: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    await take_over(phone)
    async with phone.view():
        assert not await extension.lock.acquire_now()
        await phone.lock.renew_now()
        phone.clock.time += phone.lock.times.overdue_after_ms + 1
        with log_failing_at(caplog, "another process waits"), pytest.raises(ZeroDivisionError):
            phone.lock.stop_renewing_if_overdue()
        assert phone.lock.guard.stage is Stage.EXPIRING


# P1.10
async def test_stopping_waits_for_what_writes_the_row(phone: Instance) -> None:
    """An acquisition that was cancelled between the row and the guard would leave the lease to nobody."""
    gate = phone.gated.hold_after("acquire")
    waiting = asyncio.create_task(held(phone))
    await gate.reached.wait()
    stopping = asyncio.create_task(LeaseLock.stop(phone.lock))
    await all_that_can_run()
    gate.opened.set()
    await stopping
    assert phone.lock.guard == NO_GUARD
    assert (await phone.gated.look()).holder is None
    assert (await phone.gated.look()).epoch == Epoch(1)
    waiting.cancel()


class FailingClock:
    """A clock that always fails."""

    def now(self) -> Milliseconds:
        raise ZeroDivisionError

    async def sleep(self, _: Milliseconds) -> None:
        raise ZeroDivisionError


# P8.28
async def test_a_task_whose_clock_fails_waits_as_long_by_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    await background.sleep(FailingClock(), 500, "phone")
    assert slept == [0.5]
