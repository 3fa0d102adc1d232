"""Wrong use of a store, its operations and its blocks is refused."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import inspect as inspect_module
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest

import unwedged.store
from tests.store.crypto_store.operations import count_of, counter_of
from tests.store.stores import (
    COUNTER,
    DEVICE,
    KEY,
    KINDS,
    PATIENCE,
    Instance,
    Recorder,
    Workbench,
    all_that_can_run,
    apart,
    count_up,
    take_over,
    workbench,
)
from unwedged.protocol.identifiers import Version
from unwedged.store import (
    BYTES,
    TEXT,
    Changed,
    CryptoStore,
    InvalidArgument,
    Lagged,
    LeaseTimes,
    NestedOperation,
    OperationEnded,
    OperationsAbandoned,
    RecordKind,
    StoreClosed,
    Transaction,
    UnknownKind,
    UnreadableRecord,
    View,
    crypto_store,
    inspect,
)


def public(thing: object) -> set[str]:
    """Return the public names of ``thing``."""
    return {name for name in dir(thing) if not name.startswith("_")}


def as_class(name: str) -> type[object]:
    thing = getattr(unwedged.store, name)
    return thing if isinstance(thing, type) else object


class TestMisuse:
    # P4.4
    async def test_nothing_but_reading_and_writing_is_in_a_callers_reach(self, phone: Instance) -> None:
        """A caller that ended an operation or changed the store's parts could break a guarantee."""
        async with phone.transaction() as transaction:
            assert public(transaction) == {"get", "put", "delete", "keys", "version", "committed", "trace"}
            assert transaction.trace is None
            with pytest.raises(AttributeError):
                transaction.committed = Version(7)  # type: ignore[misc]
        async with phone.view() as view:
            assert public(view) == {"get", "keys", "version"}
        async with phone.subscribe(DEVICE) as changes:
            assert public(changes) == set()

    async def test_a_caller_can_add_to_a_trace_and_nothing_else(self, bench: Workbench) -> None:
        traced = await bench.instance("traced", tracer=Recorder())
        await take_over(traced)
        async with traced.transaction() as transaction:
            assert public(transaction.trace) == {"later", "miss", "pseudonym", "record"}

    async def test_a_store_is_made_by_open_only(self) -> None:
        with pytest.raises(InvalidArgument, match="made by CryptoStore"):
            CryptoStore()
        assert not inspect_module.signature(CryptoStore).parameters

    async def test_completion_offers_what_is_documented_and_nothing_else(self, tmp_path: Path) -> None:
        opening = CryptoStore.open(tmp_path / "store.db", key=KEY, label="one", kinds=KINDS)
        assert public(opening) == set()
        async with opening as store:
            assert public(store) == public(CryptoStore) == {
                *("open", "close", "pause", "resume", "change_secret"),
                *("transaction", "view", "run", "query", "subscribe"),
                *("mark", "statistics"),
            }  # fmt: skip
            statistics, mark = store.statistics(), store.mark()
        assert public(COUNTER) == {
            *("name", "key", "value", "cached"),
            *("encode_key", "encode_value", "decode_key", "decode_value"),
        }  # fmt: skip
        inspected, change = inspect(tmp_path / "store.db"), Changed(Version(1), "a")
        for data in (statistics, mark, LeaseTimes(), change, Lagged(Version(1)), TEXT, inspected, inspected.lease):
            assert public(data) == {field.name for field in dataclasses.fields(data)}
        errors = [thing for name in unwedged.store.__all__ if issubclass(thing := as_class(name), Exception)]
        unreadable = {error for error in errors if issubclass(error, UnreadableRecord)}
        assert {name for error in unreadable for name in public(error) - public(Exception)} == {"record"}
        assert {name for error in set(errors) - unreadable for name in public(error) - public(Exception)} == set()
        assert public(OperationsAbandoned("closed", ())) - public(Exception) == {"operations"}

    # P11.3
    async def test_nesting_is_refused(self, phone: Instance) -> None:
        async with phone.transaction() as transaction:
            await count_up(transaction)
            with pytest.raises(NestedOperation, match="Pass the transaction"):
                await phone.run(count_up)
            with pytest.raises(NestedOperation):
                await phone.query(count_of)
            with pytest.raises(NestedOperation):
                await phone.close()
        assert await phone.query(count_of) == 1
        async with phone.view():
            with pytest.raises(NestedOperation):
                await phone.run(count_up)

    # P11.3
    @pytest.mark.parametrize(
        "use",
        [lambda store: store.subscribe(DEVICE).__aenter__(), lambda store: store.change_secret(key=KEY)],
        ids=["subscribe", "change_secret"],
    )
    async def test_what_may_wait_for_a_pause_is_refused_inside(
        self, phone: Instance, use: Callable[[CryptoStore], Awaitable[object]]
    ) -> None:
        """The pause waits for the operation."""
        async with phone.transaction() as transaction:
            pausing = asyncio.create_task(apart(phone.pause()))
            await all_that_can_run()
            with pytest.raises(NestedOperation):
                await asyncio.wait_for(use(phone), PATIENCE)
            await count_up(transaction)
        await pausing
        assert phone.statistics().state == "paused"
        assert await phone.query(count_of) == 1

    # P11.3
    @pytest.mark.parametrize("begin", ["transaction", "view"])
    async def test_nesting_in_a_child_is_refused(self, phone: Instance, begin: str) -> None:
        async with phone.transaction() if begin == "transaction" else phone.view():
            for outcome in await asyncio.gather(
                phone.run(count_up), phone.query(count_of), phone.close(), return_exceptions=True
            ):
                assert isinstance(outcome, NestedOperation)
            with pytest.raises(NestedOperation):
                await asyncio.wait_for(phone.run(count_up), PATIENCE)
            with pytest.raises(ExceptionGroup, match="unhandled errors") as group:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(phone.query(count_of))
            assert group.group_contains(NestedOperation)
        assert await phone.run(count_up) == 1

    # P11.3
    async def test_a_child_is_refused_for_as_long_as_its_operation_runs(self, phone: Instance) -> None:
        """A child that nobody awaits is refused too, since the store can't know that."""
        ended = asyncio.Event()

        async def child() -> int:
            with pytest.raises(NestedOperation):
                await phone.run(count_up)
            await ended.wait()
            return await phone.run(count_up)

        async with phone.transaction() as transaction:
            outlives = asyncio.create_task(child())
            await asyncio.sleep(0)
            await count_up(transaction)
        ended.set()
        assert await outlives == 2
        assert await phone.run(count_up) == 3

    async def test_a_task_remembers_no_operation_that_has_ended(self, phone: Instance) -> None:
        """Otherwise a task that lives as long as the program would keep every operation that it ever ran in memory."""
        for _ in range(3):
            await phone.run(count_up)
        scope = crypto_store._SCOPE.get()
        assert scope is not None
        assert scope.outer is None

    async def test_an_operation_of_another_store_may_run_inside(self, phone: Instance, tmp_path: Path) -> None:
        async with workbench(tmp_path / "other.db") as elsewhere:
            other = await elsewhere.instance("phone")
            async with phone.transaction() as transaction:
                assert await other.run(count_up) == 1
                await count_up(transaction)
                with pytest.raises(NestedOperation):
                    await phone.run(count_up)
                async with other.view():
                    with pytest.raises(NestedOperation):
                        await phone.run(count_up)

    # P5.10
    async def test_what_has_ended_is_not_used(self, phone: Instance) -> None:
        async with phone.transaction() as transaction:
            pass
        with pytest.raises(OperationEnded):
            transaction.put(DEVICE, "d", b"")
        with pytest.raises(OperationEnded):
            transaction.delete(DEVICE, "d")
        async with phone.view() as view:
            pass
        for ended in (transaction, view):
            with pytest.raises(OperationEnded):
                await ended.get(DEVICE, "d")
            with pytest.raises(OperationEnded):
                await ended.keys(DEVICE)

    @pytest.mark.parametrize("begin", ["transaction", "view"])
    async def test_a_block_is_entered_and_left_once(self, phone: Instance, begin: str) -> None:
        """Otherwise its records would be committed again later, over newer commits of other processes."""

        def block() -> AbstractAsyncContextManager[Transaction | View]:
            return phone.transaction() if begin == "transaction" else phone.view()

        never_entered, twice = block(), block()
        with pytest.raises(OperationEnded, match="never entered"):
            await never_entered.__aexit__(None, None, None)
        operation = await twice.__aenter__()
        with pytest.raises(OperationEnded, match="begun before"):
            await twice.__aenter__()
        if isinstance(operation, Transaction):
            await count_up(operation)
        await twice.__aexit__(None, None, None)
        counted = await phone.run(count_up)
        with pytest.raises(OperationEnded, match="left before"):
            await twice.__aexit__(None, None, None)
        with pytest.raises(OperationEnded, match="left before"):
            await twice.__aexit__(KeyError, KeyError("of the block's own"), None)
        with pytest.raises(OperationEnded, match="begun before"):
            async with twice:
                pass
        assert await phone.run(count_up) == counted + 1
        assert phone._lock.guarded.admission.running == 0, "so that a rival gets the lease"

    @pytest.mark.parametrize("begin", ["transaction", "view"])
    async def test_a_clock_that_fails_keeps_no_turn(
        self, phone: Instance, monkeypatch: pytest.MonkeyPatch, begin: str
    ) -> None:
        await phone.run(count_up)

        def fail() -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(phone.clock, "now", fail)
            with pytest.raises(ZeroDivisionError):
                await (phone.transaction() if begin == "transaction" else phone.view()).__aenter__()
        assert phone._lock.guarded.admission.running == 0
        assert await asyncio.wait_for(phone.run(count_up), PATIENCE) == 2

    # P11.3
    async def test_an_operation_whose_end_fails_is_over_for_its_task(
        self, phone: Instance, extension: Instance, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its clock fails, which says whether the turn goes on."""

        def fail() -> None:
            raise ZeroDivisionError

        await take_over(phone)
        block = phone.transaction()
        await block.__aenter__()
        behind = asyncio.create_task(apart(phone.run(count_up)))
        await all_that_can_run()
        assert not await extension.lock.acquire_now()
        await phone.lock.renew_now()
        with monkeypatch.context() as patch:
            patch.setattr(phone.clock, "now", fail)
            with pytest.raises(ZeroDivisionError):
                await block.__aexit__(asyncio.CancelledError, asyncio.CancelledError(), None)
        await phone.lock.renew_now()
        assert await asyncio.wait_for(behind, PATIENCE) == 1
        await phone.close()

    async def test_an_operation_that_is_no_coroutine_is_refused_and_writes_nothing(self, phone: Instance) -> None:
        def put(transaction: Transaction) -> None:
            transaction.put(DEVICE, "a", b"")

        with pytest.raises(InvalidArgument, match="async def"):
            await phone.run(put)  # type: ignore[arg-type]
        async with phone.view() as view:
            assert await view.get(DEVICE, "a") is None

    async def test_a_block_left_inside_of_itself_is_committed_once(self, phone: Instance) -> None:
        block = phone.transaction()

        async def leave_twice() -> None:
            async with block as transaction:
                await count_up(transaction)
                await block.__aexit__(None, None, None)

        with pytest.raises(OperationEnded):
            await leave_twice()
        assert await phone.run(count_up) == 2
        assert phone._lock.guarded.admission.running == 0

    # P5.10
    async def test_a_get_that_outlasts_its_transaction_takes_nothing(self, phone: Instance) -> None:
        gate = phone.gated.hold_before("load")
        async with phone.transaction() as transaction:
            late = asyncio.create_task(counter_of(transaction))
            await gate.reached.wait()
        gate.opened.set()
        with pytest.raises(OperationEnded):
            await late

    # P5.11
    async def test_kinds_must_be_declared(self, phone: Instance) -> None:
        other = RecordKind("device", TEXT, TEXT)
        async with phone.transaction() as transaction:
            with pytest.raises(UnknownKind, match=r"was not declared .*: list it in kinds="):
                transaction.put(RecordKind("other", TEXT, BYTES), "k", b"")
            with pytest.raises(UnknownKind, match="declared with other codecs"):
                await transaction.get(other, "k")
            with pytest.raises(UnknownKind):
                await transaction.keys(other)

    # P8.16
    async def test_nothing_goes_on_after_close(self, phone: Instance) -> None:
        began, go_on = asyncio.Event(), asyncio.Event()

        async def lasting(transaction: Transaction) -> int:
            began.set()
            await go_on.wait()
            return await count_up(transaction)

        running = asyncio.create_task(phone.run(lasting))
        await began.wait()
        behind = asyncio.create_task(phone.run(count_up))
        await asyncio.sleep(0)
        closing = asyncio.create_task(phone.close())
        await asyncio.sleep(0)
        with pytest.raises(StoreClosed):
            await phone.run(count_up)
        assert not closing.done()
        go_on.set()
        assert await running == 1
        await closing
        with pytest.raises(StoreClosed):
            await behind
        assert repr(phone) == "<CryptoStore 'phone' closed epoch=0 version=1 cached=1 running=0>"

    # P8.16
    async def test_closing_waits_for_all_that_runs(self, phone: Instance) -> None:
        """Closing waits for every operation: the file must not be closed while one still runs."""
        await phone.run(count_up)
        ends = [asyncio.Event(), asyncio.Event()]

        async def lasting(end: asyncio.Event, view: View) -> int | None:
            await end.wait()
            assert await view.keys(DEVICE) == ()
            return await count_of(view)

        first, second = (asyncio.create_task(phone.query(partial(lasting, end))) for end in ends)
        await asyncio.sleep(0)
        closing = asyncio.create_task(phone.close())
        ends[0].set()
        assert await first == 1
        await all_that_can_run()
        assert "close" not in phone.gated.calls
        ends[1].set()
        assert await second == 1
        await closing
        assert phone.gated.calls[-1] == "close"


class TestForgottenToClose:
    async def test_it_is_said_which_store(self, tmp_path: Path) -> None:
        async def forget(how: str) -> None:
            store = await CryptoStore.open(tmp_path / how, key=KEY, label=how, kinds=KINDS)
            assert await store.run(count_up) == 1
            if how == "paused":
                await store.pause()
            if how == "closed":
                await store.close()
            if how == "forgotten":  # as far as a test can do this without leaving a file open
                await store._end_tasks()
                await store._lock.stop()
                await store._services.backend.close()

        def all_of_them() -> None:
            for how in ("paused", "closed", "forgotten"):
                asyncio.run(forget(how))
            gc.collect()

        with pytest.warns(ResourceWarning, match="the store of 'forgotten' was never closed") as told:
            await asyncio.to_thread(all_of_them)
        assert len(told) == 1
