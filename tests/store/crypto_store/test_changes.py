"""A change invalidates the caches of other instances, is in the change log, and is not lost if a line is damaged."""

from __future__ import annotations

import asyncio
import logging
import re
from functools import partial

import pytest

from tests.store.crypto_store.operations import count_of, lose_lease
from tests.store.stores import COUNTER, DEVICE, Counter, Instance, Workbench, apart, count_up, failing, take_over
from unwedged.protocol.identifiers import Version
from unwedged.store import Lagged, LeaseLost, StoreBusy, TamperedRecord, Transaction, crypto_store
from unwedged.store.guarded_cache import RecordName


class TestHandover:
    # P2.5, P2.6
    async def test_what_changed_is_dropped_and_the_rest_is_kept(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        for key in ("a", "b", "c"):
            await phone.run(lambda transaction, key=key: count_up(transaction, key))  # type: ignore[misc]
        await phone.lock.release_now()
        await extension.run(lambda transaction: count_up(transaction, "b"))
        await extension.lock.release_now()
        await take_over(phone)
        statistics = phone.statistics()
        assert (statistics.cached_records, statistics.live_objects) == (2, 2)
        assert (statistics.invalidations, statistics.records_dropped) == (1, 1)
        bench.assert_cache_is_snapshot(phone)
        assert await phone.run(lambda transaction: count_up(transaction, "b")) == 3

    # P2.4, P2.7
    async def test_all_live_objects_of_changed_records_are_dropped_and_no_others(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        """A stale object would return a count that the other process has returned already."""
        changed = ("a", "b", "c")
        for key in (*changed, "same"):
            await phone.run(partial(count_up, key=key))
        kept = phone.lock.guarded.live[RecordName("counter", b"same")]
        await phone.lock.release_now()
        async with extension.transaction() as transaction:
            for key in changed:
                assert await count_up(transaction, key) == 2
        await extension.lock.release_now()
        await take_over(phone)
        assert phone.lock.guarded.live == {RecordName("counter", b"same"): kept}
        bench.assert_cache_is_snapshot(phone)
        assert [await phone.run(partial(count_up, key=key)) for key in (*changed, "same")] == [3, 3, 3, 2]

    # P3.1, P3.6
    async def test_an_operation_of_a_dead_guard_finds_no_live_object(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await phone.run(count_up)
        await phone.run(lambda transaction: count_up(transaction, "kept"))
        async with failing(LeaseLost, phone.transaction()) as zombie:
            await lose_lease(bench, extension)
            await phone.lock.renew_now()
            assert await apart(phone.run(count_up)) == 3
            assert phone.statistics().live_objects == 2
            assert await count_up(zombie) == 2, "it goes on with its own snapshot"
        bench.assert_cache_is_snapshot(phone)
        assert await phone.run(count_up) == 4

    # P2.5
    async def test_a_truncated_log_drops_everything(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        await phone.run(count_up)
        await phone.lock.release_now()
        await extension.run(lambda transaction: count_up(transaction, "b"))
        await extension.lock.release_now()
        await extension.gated.truncate(Version(2))
        await take_over(phone)
        assert (phone.statistics().cached_records, phone.statistics().live_objects) == (0, 0)
        bench.assert_cache_is_snapshot(phone)

    # P2.6
    async def test_an_unchanged_store_drops_nothing(self, phone: Instance, extension: Instance) -> None:
        await phone.run(count_up)
        await phone.lock.release_now()
        assert await extension.query(count_of) == 1
        await extension.lock.release_now()
        await take_over(phone)
        assert phone.statistics().cached_records == 1
        assert phone.statistics().invalidations == 0

    async def test_the_log_says_where_a_record_was_lost(
        self, bench: Workbench, phone: Instance, extension: Instance, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, logger="unwedged")
        await phone.run(count_up)
        await lose_lease(bench, extension)
        await phone.lock.renew_now()
        said = [record.getMessage() for record in caplog.records]
        assert said == [
            "lease acquired label=phone epoch=1",
            "cache synced label=phone epoch=1 version=0 since=0 dropped=0 kept=0",
            "committed label=phone epoch=1 version=1 records=1",
            "lease acquired label=extension epoch=2",
            "cache synced label=extension epoch=2 version=1 since=0 dropped=0 kept=0",
            "committed label=extension epoch=2 version=2 records=1",
            "lease released label=extension epoch=2",
            "lease lost label=phone epoch=1 version=1",
        ]


# P4.16
async def test_the_change_log_is_truncated_now_and_then(phone: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crypto_store, "KEPT_VERSIONS", 3)
    monkeypatch.setattr(crypto_store, "TRUNCATE_EVERY_VERSIONS", 2)
    for _ in range(6):
        await phone.run(count_up)
    await asyncio.gather(*phone._tasks)
    log = await phone.gated.changes(Version(0), None)
    assert log.floor == 3
    assert [change.version for change in log.changes] == [4, 5, 6]


async def test_a_failed_truncation_costs_nothing(
    phone: Instance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(crypto_store, "KEPT_VERSIONS", 0)
    monkeypatch.setattr(crypto_store, "TRUNCATE_EVERY_VERSIONS", 1)
    phone.gated.failures["truncate"] = StoreBusy("busy")
    await phone.run(count_up)
    await asyncio.gather(*phone._tasks)
    assert "truncating failed label=phone floor=1" in caplog.text


class TestDamage:
    """A change that does not authenticate must not block the store, and must not be interpreted."""

    @pytest.fixture(params=["key = x'0102'", "kind = CAST(x'ff' AS TEXT)"])
    async def damaged(
        self, bench: Workbench, phone: Instance, extension: Instance, request: pytest.FixtureRequest
    ) -> Workbench:
        """Let ``phone`` cache three records and ``extension`` change one, and damage the line of the change log."""
        for key in "abc":
            await phone.run(lambda transaction, key=key: count_up(transaction, key))  # type: ignore[misc]
        await phone.lock.release_now()
        await extension.run(lambda transaction: count_up(transaction, "b"))
        await extension.lock.release_now()
        bench.edit(f"UPDATE change SET {request.param} WHERE version = 4")  # noqa: S608 (one of two constants)
        return bench

    # P2.14, P2.15, P22.3
    async def test_a_line_that_can_not_be_read_empties_the_cache(
        self, damaged: Workbench, phone: Instance, caplog: pytest.LogCaptureFixture
    ) -> None:
        await take_over(phone)
        assert (phone.statistics().cached_records, phone.statistics().live_objects) == (0, 0)
        damaged.assert_cache_is_snapshot(phone)
        [warning] = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert re.search("kind=(counter|\ufffd) version=4", warning.getMessage())
        assert "0102" not in warning.getMessage()
        assert await phone.run(lambda transaction: count_up(transaction, "b")) == 3

    # P2.14
    async def test_subscribers_are_told_that_they_lagged(self, bench: Workbench, phone: Instance) -> None:
        other = await bench.instance("other")
        async with phone.subscribe(COUNTER) as changes:
            await other.run(count_up)
            bench.edit("UPDATE change SET key = x'0102'")
            await phone.listen_now()
            assert await anext(changes) == Lagged(Version(1))
            await other.run(count_up)
            await phone.listen_now()
            assert (await anext(changes)).version == 2

    # P2.14, P2.15
    async def test_everybody_goes_on(self, damaged: Workbench, phone: Instance, extension: Instance) -> None:
        newcomer = await damaged.instance("newcomer")
        for count, store in enumerate((newcomer, phone, extension), 1):
            assert await store.run(count_up) == count
            await store.lock.release_now()

    # P22.1
    async def test_a_value_that_can_not_be_decoded_fails_its_reader(
        self, bench: Workbench, phone: Instance, extension: Instance
    ) -> None:
        async def write(transaction: Transaction) -> None:
            transaction.put(COUNTER, "n", Counter(7))

        await extension.run(count_up)
        await extension.lock.release_now()
        bench.edit("UPDATE record SET value = x'0102'")
        with pytest.raises(TamperedRecord, match="the value of a 'counter' record") as by_view:
            await phone.query(count_of)
        with pytest.raises(TamperedRecord) as by_transaction:
            await phone.run(count_up)
        assert by_view.value.record == by_transaction.value.record == RecordName("counter", b"n")
        await phone.run(write)
        assert await phone.query(count_of) == 7

    # P22.2, P22.3
    async def test_a_key_that_can_not_be_read_is_no_record(
        self, bench: Workbench, phone: Instance, extension: Instance, caplog: pytest.LogCaptureFixture
    ) -> None:
        for key in "ab":
            await extension.run(lambda transaction, key=key: count_up(transaction, key))  # type: ignore[misc]
        await extension.lock.release_now()
        bench.edit("UPDATE record SET key = x'0102' WHERE rowid = 1")
        async with phone.view() as view:
            assert await view.keys(COUNTER) == ("b",)
            assert await view.get(COUNTER, "a") is None
            assert await view.keys(COUNTER) == ("b",)
            assert await view.keys(DEVICE) == ()
        said = [record.getMessage() for record in caplog.records]
        [warning] = [message for message in said if "left out of listings" in message]
        assert "kind=counter rows=1" in warning
        assert "0102" not in "".join(said)
