"""A subscription delivers every committed change of any process once, in version order."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

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
    workbench,
)
from unwedged.protocol.identifiers import Version
from unwedged.protocol.stream import Lagged
from unwedged.store.crypto_store import LISTEN_EVERY_MS
from unwedged.store.errors import (
    InvalidArgument,
    LeaseLost,
    StoreBusy,
    StoreClosed,
    StoreReplaced,
    StoreRolledBack,
    UnknownKind,
)
from unwedged.store.expectations import StoreMark
from unwedged.store.records import BYTES, TEXT, RecordKind
from unwedged.store.streams import Changed, Subscription
from unwedged.store.transactions import Transaction


def changed(version: int, key: str) -> Changed[str]:
    return Changed(Version(version), key)


async def heard(subscription: Subscription[str], count: int) -> list[Changed[str] | Lagged]:
    """Receive exactly ``count`` changes or lags; there must be no more."""
    async with asyncio.timeout(PATIENCE):
        news = [await anext(subscription) for _ in range(count)]
    assert repr(subscription).endswith("waiting=0>")
    return news


async def committed_by(store: Instance, *keys: str) -> None:
    """Commit one change for each key, and release the lease."""
    for key in keys:
        await store.run(lambda transaction, key=key: count_up(transaction, key))  # type: ignore[misc]
    await store.lock.release_now()


# P5.20, P9.2, P9.3
async def test_own_commits_are_published_when_they_return(phone: Instance) -> None:
    async with phone.subscribe(COUNTER) as changes:
        await committed_by(phone, "a", "b", "a")
        assert await heard(changes, 3) == [changed(1, "a"), changed(2, "b"), changed(3, "a")]


async def test_nothing_uncommitted_is_published(phone: Instance) -> None:
    phone.gated.failures["commit"] = StoreBusy("busy")
    async with phone.subscribe(COUNTER) as changes:
        with pytest.raises(StoreBusy):
            await phone.run(count_up)
        await heard(changes, 0)


# P2.4, P9.3
async def test_commits_of_other_processes_are_published_at_the_next_sync(phone: Instance, extension: Instance) -> None:
    async with phone.subscribe(COUNTER) as changes:
        await committed_by(phone, "a")
        await committed_by(extension, "a", "b")
        await take_over(phone)
        assert await heard(changes, 3) == [changed(1, "a"), changed(2, "a"), changed(3, "b")]
        await committed_by(phone, "c")
        assert await heard(changes, 1) == [changed(4, "c")]


# P9.2
async def test_a_log_that_fails_during_a_sync_takes_nothing_from_a_subscriber(
    phone: Instance, extension: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(record: logging.LogRecord) -> bool:
        if record.msg.startswith("cache synced"):
            raise ZeroDivisionError
        return True

    async with phone.subscribe(COUNTER) as changes:
        await committed_by(phone, "a")
        await committed_by(extension, "b")
        caplog.set_level(logging.INFO, "unwedged")
        caplog.handler.addFilter(fail)
        with pytest.raises(ZeroDivisionError):
            await take_over(phone)
        caplog.handler.removeFilter(fail)
        await take_over(phone)
        assert await heard(changes, 2) == [changed(1, "a"), changed(2, "b")]


# P9.4
async def test_commits_of_other_processes_are_published_by_listening(phone: Instance, extension: Instance) -> None:
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


# P9.12
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


async def test_a_lasting_failure_is_logged_when_it_begins_and_when_it_ends(
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


# P9.2
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


# P9.1, S1.1, S4.1
async def test_they_outlive_an_invalidation_and_miss_nothing(
    bench: Workbench, phone: Instance, extension: Instance
) -> None:
    async with phone.subscribe(COUNTER) as changes:
        await phone.run(count_up)
        bench.expire_lease()
        await committed_by(extension, "n")
        async with failing(LeaseLost, phone.transaction()) as transaction:
            await count_up(transaction)
        assert await phone.run(count_up) == 3
        assert await heard(changes, 3) == [changed(version, "n") for version in (1, 2, 3)]


# P5.20, P9.2
async def test_a_commit_that_outlived_its_guard_is_published_once(
    bench: Workbench, phone: Instance, extension: Instance
) -> None:
    """The result of ``phone``'s commit is late: ``phone`` has lost the lease and synced again before it arrives."""
    async with phone.subscribe(COUNTER) as changes:
        gate = phone.gated.hold_after("commit")
        committing = asyncio.create_task(phone.run(count_up))
        await gate.reached.wait()
        bench.expire_lease()
        await committed_by(extension, "n")
        await phone.lock.renew_now()
        await take_over(phone)
        gate.opened.set()
        assert await committing == 1
        assert await heard(changes, 2) == [changed(1, "n"), changed(2, "n")]
        bench.assert_cache_is_snapshot(phone)


# P9.6
async def test_a_truncated_log_gives_lagged(phone: Instance, extension: Instance) -> None:
    async with phone.subscribe(COUNTER) as changes:
        await committed_by(extension, "a", "b", "c")
        await extension.gated.truncate(Version(2))
        await phone.listen_now()
        assert await heard(changes, 1) == [Lagged(Version(3))]
        await committed_by(extension, "d")
        await phone.listen_now()
        assert await heard(changes, 1) == [changed(4, "d")]


# P9.8
async def test_a_slow_subscriber_gets_lagged(phone: Instance) -> None:
    async with phone.subscribe(COUNTER, buffered_changes=2) as slow, phone.subscribe(COUNTER) as fast:
        await committed_by(phone, "a", "b", "c", "d")
        assert await heard(slow, 2) == [Lagged(Version(3)), changed(4, "d")]
        await heard(fast, 4)


# P9.5
async def test_only_the_kind_asked_for_is_delivered_cached_or_not(phone: Instance) -> None:
    async with phone.subscribe(DEVICE) as devices, phone.subscribe(PLAIN) as plain:
        async with phone.transaction() as transaction:
            transaction.put(DEVICE, "d", b"1")
            transaction.put(PLAIN, "p", b"1")
            transaction.delete(DEVICE, "e")
        assert await heard(devices, 2) == [changed(1, "d"), changed(1, "e")]
        assert await heard(plain, 1) == [changed(1, "p")]


# P9.9
async def test_a_subscription_begins_with_what_happens_next(phone: Instance, extension: Instance) -> None:
    await committed_by(extension, "a", "b")
    async with phone.subscribe(COUNTER) as changes:
        await committed_by(extension, "c")
        await phone.listen_now()
        assert await heard(changes, 1) == [changed(3, "c")]


# P9.12
async def test_iteration_waits_and_ends_with_the_store(phone: Instance) -> None:
    async with phone.subscribe(COUNTER) as changes:
        collecting = asyncio.create_task(collect(changes))
        await asyncio.sleep(0)
        await committed_by(phone, "a")
        await phone.close()
        assert await collecting == [changed(1, "a")]


# P9.12
async def test_a_subscription_that_ended_receives_nothing_more(phone: Instance) -> None:
    """The file was replaced and put back: a later commit is news for those that subscribe from then on."""
    async with phone.subscribe(COUNTER) as ended:
        await committed_by(phone, "a")
        phone.gated.failures["changes"] = StoreReplaced("replaced")
        await phone._listen()
        async with phone.subscribe(COUNTER) as new:
            await committed_by(phone, "b")
            assert await heard(new, 1) == [changed(2, "b")]
        assert await heard(ended, 1) == [changed(1, "a")]
        with pytest.raises(StoreReplaced):
            await anext(ended)


async def collect(subscription: Subscription[str]) -> list[Changed[str] | Lagged]:
    return [news async for news in subscription]


# P5.11
async def test_what_can_not_be_subscribed_to_is_said(phone: Instance) -> None:
    with pytest.raises(UnknownKind):
        async with phone.subscribe(RecordKind("other", TEXT, BYTES)):
            pass
    await phone.close()
    with pytest.raises(StoreClosed):
        async with phone.subscribe(COUNTER):
            pass


async def test_both_processes_receive_the_same_changes(
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


class TestSinceAVersion:
    # P9.10
    async def test_it_begins_with_the_first_change_after_it(self, phone: Instance, extension: Instance) -> None:
        await committed_by(extension, "a", "b", "c")
        everything = [changed(1, "a"), changed(2, "b"), changed(3, "c")]
        for since in range(4):
            async with phone.subscribe(COUNTER, since=since) as changes:
                assert await heard(changes, 3 - since) == everything[since:]

    # P9.10
    async def test_it_goes_on_with_what_happens_next(self, phone: Instance, extension: Instance) -> None:
        await committed_by(extension, "a", "b")
        async with phone.subscribe(COUNTER, since=1) as late, phone.subscribe(COUNTER) as new:
            await committed_by(extension, "c")
            await phone.listen_now()
            await committed_by(phone, "d")
            assert await heard(late, 3) == [changed(2, "b"), changed(3, "c"), changed(4, "d")]
            assert await heard(new, 2) == [changed(3, "c"), changed(4, "d")]

    async def test_a_view_and_what_changes_after_it_leave_nothing_out(self, phone: Instance) -> None:
        await committed_by(phone, "a")
        async with phone.view() as view:
            names = await view.keys(COUNTER)
        await committed_by(phone, "b")
        async with phone.subscribe(COUNTER, since=view.version) as changes:
            assert (names, await heard(changes, 1)) == (("a",), [changed(2, "b")])

    async def test_a_program_that_kept_a_mark_receives_what_it_missed(self, bench: Workbench, phone: Instance) -> None:
        await committed_by(phone, "a")
        mark = phone.mark()
        await committed_by(phone, "b")
        await phone.close()
        again = await bench.instance("again")
        async with again.subscribe(COUNTER, since=mark.version) as changes:
            assert await heard(changes, 1) == [changed(2, "b")]

    # P9.10
    async def test_other_subscriptions_receive_everything_once(self, phone: Instance, extension: Instance) -> None:
        async with phone.subscribe(COUNTER) as new:
            await committed_by(extension, "a", "b")
            async with phone.subscribe(COUNTER, since=1) as late:
                assert await heard(new, 2) == [changed(1, "a"), changed(2, "b")]
                await phone.listen_now()
                assert await heard(late, 1) == [changed(2, "b")]
                await heard(new, 0)

    async def test_only_the_kind_asked_for_is_delivered(self, phone: Instance) -> None:
        async with phone.transaction() as transaction:
            transaction.put(DEVICE, "d", b"1")
            await count_up(transaction)
        async with phone.subscribe(DEVICE, since=0) as devices:
            assert await heard(devices, 1) == [changed(1, "d")]

    # P9.10
    async def test_where_the_log_does_not_reach_back_there_is_a_lag(self, phone: Instance, extension: Instance) -> None:
        await committed_by(extension, "a", "b", "c")
        await extension.gated.truncate(Version(2))
        async with phone.subscribe(COUNTER, since=1) as lagging, phone.subscribe(COUNTER, since=2) as reaching:
            assert await heard(lagging, 1) == [Lagged(Version(3))]
            assert await heard(reaching, 1) == [changed(3, "c")]

    # P9.8
    async def test_what_does_not_fit_into_the_buffer_is_a_lag(self, phone: Instance) -> None:
        """The subscriber gets the same as one that does not keep up."""
        await committed_by(phone, "a", "b", "c", "d")
        async with phone.subscribe(COUNTER, since=0, buffered_changes=2) as changes:
            assert await heard(changes, 2) == [Lagged(Version(3)), changed(4, "d")]

    # P9.10
    async def test_what_this_process_commits_meanwhile_is_delivered_once_and_in_order(self, phone: Instance) -> None:
        await committed_by(phone, "a", "b")
        gate = phone.gated.hold_after("changes")
        subscribing = asyncio.create_task(anext_after(phone, 1, 4))
        await gate.reached.wait()
        await committed_by(phone, "c")
        again = phone.gated.hold_after("changes")  # the acquisition in ``committed_by`` read the log before
        gate.opened.set()
        async with asyncio.timeout(PATIENCE):
            await again.reached.wait()
        await committed_by(phone, "d")
        again.opened.set()
        assert await subscribing == [changed(2, "b"), changed(3, "c"), changed(4, "d"), changed(5, "e")]

    async def test_a_holder_that_lost_the_lease_unnoticed_reads_on_all_the_same(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await phone.run(count_up)
        bench.expire_lease()
        await committed_by(extension, "a", "b")
        assert phone.lock.stands(phone.lock.guard.epoch)
        async with phone.subscribe(COUNTER, since=2) as later, phone.subscribe(COUNTER, since=0) as changes:
            assert await heard(later, 1) == [changed(3, "b")]
            assert await heard(changes, 3) == [changed(1, "n"), changed(2, "a"), changed(3, "b")]
            await committed_by(phone, "c")
            assert await heard(later, 1) == await heard(changes, 1) == [changed(4, "c")]

    async def test_a_subscription_survives_a_pause(self, phone: Instance, extension: Instance) -> None:
        await committed_by(extension, "a")
        await phone.pause()
        async with phone.subscribe(COUNTER, since=0) as changes:  # This wakes the store, as any use does.
            await phone.pause()
            await committed_by(extension, "b")
            await phone.resume()
            assert await heard(changes, 2) == [changed(1, "a"), changed(2, "b")]

    async def test_a_pause_waits_until_it_has_caught_up(self, phone: Instance, extension: Instance) -> None:
        await committed_by(extension, "a")
        gate = phone.gated.hold_after("changes")
        subscribing = asyncio.create_task(collect_since(phone, 0))
        await gate.reached.wait()
        pausing = asyncio.create_task(phone.pause())
        await all_that_can_run()
        assert phone.statistics().state != "paused"
        gate.opened.set()
        await pausing
        await phone.close()
        assert await subscribing == [changed(1, "a")]

    async def test_it_ends_when_the_store_is_closed_while_it_catches_up(self, phone: Instance) -> None:
        await committed_by(phone, "a")
        gate = phone.gated.hold_before("changes")
        subscribing = asyncio.create_task(collect_since(phone, 0))
        await gate.reached.wait()
        closing = asyncio.create_task(phone.close())
        await all_that_can_run()
        gate.opened.set()
        await closing
        assert await subscribing == [changed(1, "a")]

    async def test_a_failure_to_read_subscribes_nobody(self, phone: Instance) -> None:
        phone.gated.failures["changes"] = StoreBusy("busy")
        with pytest.raises(StoreBusy):
            async with phone.subscribe(COUNTER, since=0):
                pass
        assert phone.statistics().subscriptions == 0

    # P9.11
    @pytest.mark.parametrize("since", [3, 2**53 - 1])
    async def test_since_may_not_be_above_the_store_s_version(
        self, phone: Instance, extension: Instance, since: int
    ) -> None:
        await committed_by(extension, "a", "b")
        with pytest.raises(StoreRolledBack, match=f"at version 2, and .* after version {since} "):
            async with phone.subscribe(COUNTER, since=since):
                pass
        assert phone.statistics().subscriptions == 0

    @pytest.mark.parametrize("since", [-1, 1.0, True, "1", StoreMark("00" * 16, 0)])
    async def test_since_must_be_a_version(self, phone: Instance, since: int) -> None:
        with pytest.raises(InvalidArgument, match="a store's version is"):
            async with phone.subscribe(COUNTER, since=since):
                pass


async def anext_after(store: Instance, since: int, count: int) -> list[Changed[str] | Lagged]:
    async with store.subscribe(COUNTER, since=since) as changes:
        await committed_by(store, "e")
        return await heard(changes, count)


async def collect_since(store: Instance, since: int) -> list[Changed[str] | Lagged]:
    async with store.subscribe(COUNTER, since=since) as changes:
        return await collect(changes)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["commit", "commit", "truncate", "listen", "pause"]),
        st.integers(0, 1),
        st.sets(st.sampled_from("abc"), min_size=1),
    ),
    max_size=10,
)


async def count_up_all(transaction: Transaction, keys: set[str]) -> None:
    transaction.put(DEVICE, "of another kind", b"")
    for key in keys:
        await count_up(transaction, key)


class Played:
    """Two instances, their commits, and the version up to which the change log was truncated."""

    def __init__(self, bench: Workbench, stores: Sequence[Instance]) -> None:
        self.bench = bench
        self.stores = stores
        self.changes: list[Changed[str]] = []
        self.version = 0
        self.floor = 0

    async def step(self, name: str, index: int, keys: set[str]) -> None:
        store = self.stores[index]
        match name:
            case "commit":
                self.bench.expire_lease()  # The other instance does not know yet that its guard is dead.
                await store.lock.renew_now()
                await take_over(store)
                await store.run(count_up_all, keys)
                self.version += 1
                self.changes += [changed(self.version, key) for key in sorted(keys)]
            case "truncate":
                self.floor = max(self.floor, self.version - index)
                await store.gated.truncate(Version(self.floor))
            case "listen":
                await store.listen_now()
            case "pause":
                await store.pause()
                await store.resume()

    async def since(self, version: int, store: Instance, stack: AsyncExitStack) -> Subscription[str]:
        """Subscribe, and check what is yielded at once."""
        subscription = await stack.enter_async_context(store.subscribe(COUNTER, since=version))
        expected: list[Changed[str] | Lagged] = [change for change in self.changes if change.version > version]
        if version < self.floor:
            expected = [Lagged(Version(self.version))]
        assert in_order(await heard(subscription, waiting(subscription))) == expected
        return subscription


def waiting(subscription: Subscription[str]) -> int:
    return int(repr(subscription).rpartition("=")[2].rstrip(">"))


def in_order(news: Sequence[Changed[str] | Lagged]) -> list[Changed[str] | Lagged]:
    """Sort the changes within each version, whose order is not defined. Versions must be in order already."""
    versions = [item.version for item in news]
    assert versions == sorted(versions)
    return sorted(news, key=lambda item: (item.version, "" if isinstance(item, Lagged) else item.key))


# P9.2, P9.10
@given(before=STEPS, after=STEPS)
def test_since_any_version_each_change_is_delivered_once_or_lagged(
    before: list[tuple[str, int, set[str]]], after: list[tuple[str, int, set[str]]]
) -> None:
    """Two instances commit, truncate the log, and pause; each has subscriptions since each version."""

    async def play() -> None:
        async with workbench(Path(folder) / "store.db") as bench, AsyncExitStack() as stack:
            played = Played(bench, [await bench.instance("phone"), await bench.instance("extension")])
            for step in before:
                await played.step(*step)
            began = played.version
            subscriptions = [
                (store, await played.since(version, store, stack))
                for version in range(began + 1)
                for store in played.stores
            ]
            for step in after:
                await played.step(*step)
            for version in range(played.version + 1):
                await played.since(version, played.stores[0], stack)
            for store, subscription in subscriptions:
                await store.pause()
                await store.resume()  # Now it has received everything.
                news = in_order(await heard(subscription, waiting(subscription)))
                lags = [place for place, item in enumerate(news) if isinstance(item, Lagged)]
                assert not lags or played.floor > began
                told = news[lags[-1] + 1 :] if lags else news
                since = news[lags[-1]].version if lags else began
                assert told == [change for change in played.changes if change.version > since]
                assert all(item in played.changes for item in news if isinstance(item, Changed))
                assert len(set(news)) == len(news)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play())
