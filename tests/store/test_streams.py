"""Subscriptions: every committed change once, in version order, whichever process made it."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.store.stores import (
    COUNTER,
    DEVICE,
    PATIENCE,
    PLAIN,
    Instance,
    Workbench,
    all_that_can_run,
    count_up,
    failing,
    take_over,
)
from unwedged.protocol.identifiers import Version
from unwedged.protocol.stream import Lagged
from unwedged.store.crypto_store import LISTEN_EVERY_MS
from unwedged.store.errors import LeaseLost, StoreBusy, StoreClosed, UnknownKind
from unwedged.store.records import BYTES, TEXT, RecordKind
from unwedged.store.streams import Changed, Subscription
from unwedged.store.transactions import Transaction


def changed(version: int, key: str) -> Changed[str]:
    return Changed(Version(version), key)


async def heard(subscription: Subscription[str], count: int) -> list[Changed[str] | Lagged]:
    """Take exactly ``count`` pieces of news; there must be no more."""
    async with asyncio.timeout(PATIENCE):
        news = [await anext(subscription) for _ in range(count)]
    assert repr(subscription).endswith("waiting=0>")
    return news


async def committed_by(store: Instance, *keys: str) -> None:
    """Commit one change for each key, and give the lease up."""
    for key in keys:
        await store.run(lambda transaction, key=key: count_up(transaction, key))  # type: ignore[misc]
    await store.lock.release_now()


async def test_own_commits_are_told_when_they_return(phone: Instance) -> None:
    async with phone.subscribe(COUNTER) as changes:
        await committed_by(phone, "a", "b", "a")
        assert await heard(changes, 3) == [changed(1, "a"), changed(2, "b"), changed(3, "a")]


async def test_nothing_is_told_of_what_was_not_committed(phone: Instance) -> None:
    phone.gated.failures["commit"] = StoreBusy("busy")
    async with phone.subscribe(COUNTER) as changes:
        with pytest.raises(StoreBusy):
            await phone.run(count_up)
        await heard(changes, 0)


async def test_foreign_commits_are_told_at_the_next_sync(phone: Instance, extension: Instance) -> None:
    async with phone.subscribe(COUNTER) as changes:
        await committed_by(phone, "a")
        await committed_by(extension, "a", "b")
        await take_over(phone)
        assert await heard(changes, 3) == [changed(1, "a"), changed(2, "a"), changed(3, "b")]
        await committed_by(phone, "c")
        assert await heard(changes, 1) == [changed(4, "c")]


async def test_foreign_commits_are_told_by_listening_meanwhile(phone: Instance, extension: Instance) -> None:
    phone.start()
    async with phone.subscribe(COUNTER) as changes:
        await phone.clock.asleep(1)
        await committed_by(extension, "a")
        phone.clock.advance(LISTEN_EVERY_MS)
        assert await heard(changes, 1) == [changed(1, "a")]
        await committed_by(extension, "b")
        await take_over(phone)
        assert await heard(changes, 1) == [changed(2, "b")]


async def test_a_holder_does_not_listen(phone: Instance) -> None:
    await take_over(phone)
    async with phone.subscribe(COUNTER):
        before = list(phone.gated.calls)
        await phone.listen_now()
        assert phone.gated.calls == before


async def test_without_subscribers_nobody_listens(phone: Instance) -> None:
    phone.start()
    async with phone.subscribe(COUNTER):
        await phone.clock.asleep(1)
    phone.clock.advance(LISTEN_EVERY_MS)
    await phone.clock.asleep(1)
    await all_that_can_run()
    assert phone.clock.slept == [LISTEN_EVERY_MS]


async def test_a_failed_look_is_repeated(
    phone: Instance, extension: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    phone.start()
    async with phone.subscribe(COUNTER) as changes:
        await committed_by(extension, "a")
        await phone.clock.asleep(1)
        phone.gated.failures["changes"] = StoreBusy("busy")
        for look in range(2, 4):
            phone.clock.advance(LISTEN_EVERY_MS)
            await phone.clock.asleep(look)
        assert await heard(changes, 1) == [changed(1, "a")]
    assert "listening failed label=phone" in caplog.text


async def test_a_failure_that_lasts_is_told_when_it_begins_and_when_it_ends(
    phone: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="unwedged")
    phone.start()
    async with phone.subscribe(COUNTER):
        await phone.clock.asleep(1)
        for look in range(2, 7):
            if look != 5:
                phone.gated.failures["changes"] = StoreBusy("busy")
            phone.clock.advance(LISTEN_EVERY_MS)
            await phone.clock.asleep(look)
    said = [record.getMessage() for record in caplog.records if "listening" in record.getMessage()]
    assert said == [
        "listening failed label=phone: busy",
        "listening goes on label=phone",
        "listening failed label=phone: busy",
    ]


async def test_a_look_that_comes_back_late_repeats_nothing(phone: Instance, extension: Instance) -> None:
    async with phone.subscribe(COUNTER) as changes:
        await committed_by(extension, "a")
        gate = phone.gated.hold_after("changes")
        looking = asyncio.create_task(phone.listen_now())
        await gate.reached.wait()
        await committed_by(phone, "b")
        gate.opened.set()
        await looking
        assert await heard(changes, 2) == [changed(1, "a"), changed(2, "b")]


async def test_they_outlive_an_invalidation_and_miss_nothing(
    bench: Workbench, phone: Instance, extension: Instance
) -> None:
    async with phone.subscribe(COUNTER) as changes:
        await phone.run(count_up)
        bench.lapse()
        await committed_by(extension, "n")
        async with failing(LeaseLost, phone.transaction()) as transaction:
            await count_up(transaction)
        assert await phone.run(count_up) == 3
        assert await heard(changes, 3) == [changed(version, "n") for version in (1, 2, 3)]


async def test_a_commit_that_outlived_its_guard_is_told_once(
    bench: Workbench, phone: Instance, extension: Instance
) -> None:
    """The answer to phone's commit is late: phone has lost the lease and synced again before it comes."""
    async with phone.subscribe(COUNTER) as changes:
        gate = phone.gated.hold_after("commit")
        committing = asyncio.create_task(phone.run(count_up))
        await gate.reached.wait()
        bench.lapse()
        await committed_by(extension, "n")
        await phone.lock.renew_now()
        await take_over(phone)
        gate.opened.set()
        assert await committing == 1
        assert await heard(changes, 2) == [changed(1, "n"), changed(2, "n")]
        bench.assert_cache_is_snapshot(phone)


async def test_a_truncated_log_is_told_as_lag(phone: Instance, extension: Instance) -> None:
    async with phone.subscribe(COUNTER) as changes:
        await committed_by(extension, "a", "b", "c")
        await extension.gated.truncate(Version(2))
        await phone.listen_now()
        assert await heard(changes, 1) == [Lagged(Version(3))]
        await committed_by(extension, "d")
        await phone.listen_now()
        assert await heard(changes, 1) == [changed(4, "d")]


async def test_who_does_not_keep_up_is_told(phone: Instance) -> None:
    async with phone.subscribe(COUNTER, buffered=2) as slow, phone.subscribe(COUNTER) as fast:
        await committed_by(phone, "a", "b", "c", "d")
        assert await heard(slow, 2) == [Lagged(Version(3)), changed(4, "d")]
        await heard(fast, 4)


async def test_only_the_kind_asked_for_is_told_cached_or_not(phone: Instance) -> None:
    async with phone.subscribe(DEVICE) as devices, phone.subscribe(PLAIN) as plain:
        async with phone.transaction() as transaction:
            transaction.put(DEVICE, "d", b"1")
            transaction.put(PLAIN, "p", b"1")
            transaction.delete(DEVICE, "e")
        assert await heard(devices, 2) == [changed(1, "d"), changed(1, "e")]
        assert await heard(plain, 1) == [changed(1, "p")]


async def test_a_subscription_begins_with_what_happens_next(phone: Instance, extension: Instance) -> None:
    await committed_by(extension, "a", "b")
    async with phone.subscribe(COUNTER) as changes:
        await committed_by(extension, "c")
        await phone.listen_now()
        assert await heard(changes, 1) == [changed(3, "c")]


async def test_iteration_waits_and_ends_with_the_store(phone: Instance) -> None:
    async with phone.subscribe(COUNTER) as changes:
        collecting = asyncio.create_task(collect(changes))
        await asyncio.sleep(0)
        await committed_by(phone, "a")
        await phone.close()
        assert await collecting == [changed(1, "a")]


async def collect(subscription: Subscription[str]) -> list[Changed[str] | Lagged]:
    return [news async for news in subscription]


async def test_what_can_not_be_subscribed_to_is_said(phone: Instance) -> None:
    with pytest.raises(UnknownKind):
        async with phone.subscribe(RecordKind("other", TEXT, BYTES)):
            pass
    await phone.close()
    with pytest.raises(StoreClosed):
        async with phone.subscribe(COUNTER):
            pass


async def test_both_processes_hear_the_same(
    phone: Instance, extension: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)

    async def rename(transaction: Transaction) -> None:
        transaction.delete(COUNTER, "a")
        transaction.put(DEVICE, "a", b"")

    async with phone.subscribe(COUNTER) as by_phone, extension.subscribe(COUNTER) as by_extension:
        for store, key in ((phone, "a"), (extension, "b"), (phone, "c")):
            await committed_by(store, key)
        await extension.run(rename)
        await extension.lock.release_now()
        await phone.listen_now()
        assert await heard(by_phone, 4) == await heard(by_extension, 4)
