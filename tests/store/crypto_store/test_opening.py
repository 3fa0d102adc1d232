"""Stores are opened with valid arguments, and wrong arguments are refused."""

from __future__ import annotations

import asyncio
import logging
import math
from pathlib import Path
from typing import assert_type

import pytest

from tests.store.stores import COUNTER, DEVICE, KEY, KINDS, CancelledAt, Counter, Instance, count_up
from unwedged.protocol.guard import Stage
from unwedged.protocol.identifiers import InstanceId, Milliseconds, Version
from unwedged.store import (
    BYTES,
    TEXT,
    Changed,
    Codec,
    CryptoStore,
    InvalidArgument,
    LeaseTimes,
    Opening,
    RecordKind,
    StoreMark,
    Transaction,
    UnknownKind,
    View,
    WrongKey,
    inspect,
)
from unwedged.store.clock import SystemClock, SystemRandomness
from unwedged.store.expectations import Expectations
from unwedged.store.sqlite import SqliteBackend
from unwedged.tools.inspection_text import text_of


async def opened(opening: Opening[CryptoStore]) -> CryptoStore:
    return await opening


def noted_backends(monkeypatch: pytest.MonkeyPatch) -> list[SqliteBackend]:
    """Return a list to which each backend is added that is opened from now on."""
    made: list[SqliteBackend] = []
    prepare = SqliteBackend.open

    async def noted(path: Path, expected: Expectations) -> SqliteBackend:
        backend = await prepare(path, expected)
        made.append(backend)
        return backend

    monkeypatch.setattr(SqliteBackend, "open", noted)
    return made


class TestOpening:
    # P0.12, P17.6
    async def test_a_store_is_made_and_found_again(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        async with await CryptoStore.open(path, key=KEY, label="one", kinds=KINDS) as store:
            assert await store.run(count_up) == 1
            async with store.view() as view:
                counter = await view.get(COUNTER, "n")
            assert counter is not None
            assert counter.count == 1
        async with await CryptoStore.open(str(path), key=KEY, label="two", kinds=KINDS) as store:
            assert store.statistics().version == 1
            assert await store.run(count_up) == 2

    async def test_a_store_is_opened_once_by_each_call(self, tmp_path: Path) -> None:
        opening = CryptoStore.open(tmp_path / "store.db", key=KEY, label="one", kinds=KINDS)
        with pytest.raises(InvalidArgument, match="never entered"):
            await opening.__aexit__(None, None, None)
        assert not (tmp_path / "store.db").exists()
        async with opening as store:
            assert await store.run(count_up) == 1
        assert store.statistics().state == "closed"
        with pytest.raises(InvalidArgument, match="call it again"):
            await opening
        with pytest.raises(InvalidArgument, match="call it again"):
            async with opening:
                pass

    # P17.10
    async def test_cancelled_at_every_await_it_leaves_no_file_open(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The driver's thread does not stay either; it would keep the program from exiting."""

        async def attempt(cancelled: CancelledAt[CryptoStore]) -> CryptoStore:
            return await cancelled

        made = noted_backends(monkeypatch)
        for at in range(1, 100):
            opening = opened(CryptoStore.open(tmp_path / "store.db", key=bytes(32), label="phone", kinds=KINDS))
            cancelled = CancelledAt(opening, at, late=False)
            task = asyncio.create_task(attempt(cancelled))
            await asyncio.wait((task,))
            if not cancelled.struck:
                await task.result().close()
                assert len(made) > 1, "it was cancelled too after the backend was there"
                return
            assert task.cancelled()
            left_open = [backend for backend in made if not backend._closed]
            for backend in left_open:
                await backend.close()
            assert not left_open
        pytest.fail("it never got through")

    # P17.10
    @pytest.mark.parametrize("message", ["store opened", "the store has records of kinds"])
    async def test_a_log_that_fails_leaves_no_file_open(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, message: str
    ) -> None:
        path = tmp_path / "store.db"
        async with CryptoStore.open(path, key=KEY, label="newer", kinds=KINDS) as newer:
            await newer.run(count_up)

        def fail(record: logging.LogRecord) -> bool:
            if record.msg.startswith(message):
                raise ZeroDivisionError
            return True

        made = noted_backends(monkeypatch)
        caplog.set_level(logging.INFO, "unwedged")
        caplog.handler.addFilter(fail)
        with pytest.raises(ZeroDivisionError):
            await CryptoStore.open(path, key=KEY, label="older", kinds=[DEVICE])
        caplog.handler.removeFilter(fail)
        [backend] = made
        left_open = not backend._closed
        await backend.close()
        assert not left_open

    # P0.4, P0.6
    async def test_each_store_object_is_an_instance_of_its_own(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        instances = set()
        for _ in range(2):
            async with (
                CryptoStore.open(path, key=KEY, label="same", kinds=KINDS) as one,
                CryptoStore.open(path, key=KEY, label="same", kinds=KINDS) as other,
            ):
                instances |= {one._lock.instance, other._lock.instance}
        assert len(instances) == 4

    # P0.4
    def test_instances_are_random_and_fit_into_the_file(self) -> None:
        drawn = [SystemRandomness().instance() for _ in range(1000)]
        assert len(set(drawn)) == 1000
        assert 1 <= min(drawn) < 2**58 < 2**62 < max(drawn) < 2**63

    @pytest.mark.parametrize("control", ["\n", "\r", "\0", "\x1b", "\x85", "\u2028", "\u2029"])
    async def test_a_label_is_one_line(self, tmp_path: Path, control: str) -> None:
        path = tmp_path / "store.db"
        with pytest.raises(InvalidArgument, match="a label is one line"):
            await CryptoStore.open(path, key=KEY, label=f"a{control}b", kinds=KINDS)
        assert not path.exists()

    async def test_a_label_of_another_program_does_no_harm(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        backend = await SqliteBackend.open(path)
        await backend.acquire(InstanceId(7), "a\nb", Milliseconds(0), Milliseconds(1))
        await backend.close()
        async with await CryptoStore.open(path, key=KEY, label="é 🚲", kinds=KINDS) as store:
            assert r"'a\nb' (instance 7)" in text_of(inspect(path))
            assert await store.run(count_up) == 1

    # P17.7
    async def test_two_may_make_its_key_at_once(self, tmp_path: Path) -> None:
        backend = await SqliteBackend.open(tmp_path / "store.db")
        await backend.close()

        async def use(label: str) -> int:
            async with await CryptoStore.open(tmp_path / "store.db", key=KEY, label=label, kinds=KINDS) as store:
                return await store.run(count_up)

        assert sorted(await asyncio.gather(use("one"), use("two"), use("three"))) == [1, 2, 3]

    # P17.8, P20.5
    async def test_kinds_that_are_not_declared_are_left_alone(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "store.db"
        async with await CryptoStore.open(path, key=KEY, label="newer", kinds=KINDS) as newer:
            await newer.run(count_up)
            with caplog.at_level(logging.INFO):
                older = await CryptoStore.open(path, key=KEY, label="older", kinds=[DEVICE])
            assert "kinds=counter" in caplog.text
            async with older, older.subscribe(DEVICE) as changes:
                with pytest.raises(UnknownKind):
                    await older.run(count_up)
                async with older.transaction() as transaction:
                    assert await transaction.keys(DEVICE) == ()
                    transaction.put(DEVICE, "a", b"1")
                assert await newer.run(count_up) == 2
                async with older.transaction() as transaction:
                    transaction.put(DEVICE, "b", b"2")
                assert [await anext(changes) for _ in range(2)] == [
                    Changed(Version(v), k) for v, k in ((2, "a"), (4, "b"))
                ]

    # P22.11
    async def test_what_does_not_fit_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        async with await CryptoStore.open(path, key=KEY, label="one", kinds=KINDS) as store:
            await store.run(count_up)
        with pytest.raises(WrongKey):
            await CryptoStore.open(path, key=bytes(32), label="one", kinds=KINDS)
        with pytest.raises(ValueError, match="'device' was declared twice"):
            await CryptoStore.open(path, key=KEY, label="one", kinds=[DEVICE, RecordKind("device", TEXT, TEXT)])

    async def test_equal_kinds_are_one_kind(self, tmp_path: Path) -> None:
        """A program may declare a kind in several places."""
        equal = RecordKind("device", Codec(str.encode, bytes.decode), BYTES)
        async with CryptoStore.open(tmp_path / "store.db", key=KEY, label="one", kinds=[DEVICE, equal]) as store:
            async with store.transaction() as transaction:
                transaction.put(equal, "a", b"1")
            async with store.subscribe(equal, since=0) as changes, store.view() as view:
                assert await view.get(DEVICE, "a") == b"1"
            assert await anext(changes) == Changed(Version(1), "a")


class TestArguments:
    async def test_they_are_passed_on(self, phone: Instance) -> None:
        async def count_of_key(view: View, key: str, otherwise: int) -> int:
            counter = await view.get(COUNTER, key)
            return otherwise if counter is None else counter.count

        assert await phone.run(count_up, "a") == 1
        assert await phone.run(count_up, "a", attempts=2) == 2
        assert await phone.query(count_of_key, "a", 7) == 2
        assert await phone.query(count_of_key, "b", 7) == 7

    async def test_they_are_typed(self, phone: Instance) -> None:
        """``make lint`` checks this: the type checker reports each wrong call and no correct one."""

        async def both(transaction: Transaction, key: str, count: int) -> tuple[str, int]:
            transaction.put(COUNTER, key, Counter(count))
            return key, count

        async def one(view: View, key: str) -> bytes | None:
            return await view.get(DEVICE, key)

        assert_type(await phone.run(both, "a", 1), tuple[str, int])
        assert_type(await phone.query(one, "a", attempts=2), bytes | None)
        with pytest.raises(TypeError):
            await phone.run(both, "a")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await phone.query(one)  # type: ignore[arg-type]
        with pytest.raises(AttributeError):
            await phone.query(both, "a", 1)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument):
            await phone.run(both, 7, 1)  # type: ignore[arg-type]


def names_in(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


class TestBadArguments:
    """The type checker refuses all of this. A program that was not type-checked gets an exception of the store."""

    @pytest.mark.parametrize(
        "wrong",
        [
            {"kinds": None},
            {"kinds": 7},
            {"kinds": [None]},
            {"times": 7},
            {"times": ""},
            {"label": 7},
            {"key": "secret"},
            {"expect": "existing"},
            {"expect": True},
            {"not_before": {}},
        ],
        ids=str,
    )
    async def test_of_open(self, tmp_path: Path, wrong: dict[str, object]) -> None:
        right: dict[str, object] = {"key": bytes(32), "label": "phone", "kinds": KINDS}
        with pytest.raises(InvalidArgument):
            await CryptoStore.open(tmp_path / "store.db", **right | wrong)  # type: ignore[arg-type]
        assert not names_in(tmp_path)

    @pytest.mark.parametrize("wrong", [(7, 1), ("ab", "3"), ("ab", -1), ("ab", True)], ids=str)
    def test_of_a_mark(self, wrong: tuple[str, int]) -> None:
        with pytest.raises(InvalidArgument):
            StoreMark(*wrong)

    @pytest.mark.parametrize("wrong", [{"key": str}, {"value": int}, {"cached": "no"}], ids=str)
    def test_of_a_record_kind(self, wrong: dict[str, object]) -> None:
        right: dict[str, object] = {"name": "device", "key": TEXT, "value": BYTES}
        with pytest.raises(InvalidArgument):
            RecordKind(**right | wrong)  # type: ignore[arg-type]

    def test_of_a_codec(self) -> None:
        for encode, decode in ((7, bytes), (bytes, None)):
            with pytest.raises(InvalidArgument):
                Codec(encode, decode)  # type: ignore[arg-type]

    async def test_a_name_that_is_no_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InvalidArgument, match="in memory"):
            await CryptoStore.open(":memory:", key=bytes(32), label="phone", kinds=KINDS)
        assert not names_in(tmp_path)

    @pytest.mark.parametrize("number", [0, -1, 2**63, 10**400, True, 1.5, "1"])
    async def test_a_number_of_an_instance_that_sqlite_has_not(self, tmp_path: Path, number: int) -> None:
        class OneNumber(SystemRandomness):
            def instance(self) -> InstanceId:
                return InstanceId(number)

        with pytest.raises(InvalidArgument, match="number of an instance"):
            await CryptoStore.open(
                tmp_path / "store.db", key=bytes(32), label="phone", kinds=KINDS, randomness=OneNumber()
            )
        assert not names_in(tmp_path)

    @pytest.mark.parametrize("now", [2**53, 10**400, 1.5, None])
    async def test_a_clock_that_shows_no_time(self, tmp_path: Path, now: int) -> None:
        class OneTime(SystemClock):
            def now(self) -> Milliseconds:
                return Milliseconds(now)

        with pytest.raises(InvalidArgument, match="time of a clock"):
            await CryptoStore.open(tmp_path / "store.db", key=bytes(32), label="phone", kinds=KINDS, clock=OneTime())
        assert not names_in(tmp_path)

    @pytest.mark.parametrize(
        "number",
        [2**53, -(2**53), 10**400, -(10**5000), math.inf, math.nan],
        ids=["large", "low", "larger-than-floats", "longer-than-texts", "infinite", "nan"],
    )
    async def test_numbers_that_no_timer_and_no_trace_has(self, tmp_path: Path, phone: Instance, number: int) -> None:
        """They are refused before anything happens, and not quoted: Python refuses to print very long ones."""
        for name in LeaseTimes.__slots__:
            with pytest.raises(InvalidArgument, match=name):
                LeaseTimes(**{name: number})
        with pytest.raises(InvalidArgument, match="limit of a cache"):
            await CryptoStore.open(
                tmp_path / "other.db", key=bytes(32), label="x", kinds=KINDS, cache_limit_bytes=number
            )
        assert not (tmp_path / "other.db").exists()
        with pytest.raises(InvalidArgument, match="version"):
            StoreMark("00", number)
        for use in (phone.pause(timeout_seconds=number), phone.close(timeout_seconds=number)):
            with pytest.raises(InvalidArgument, match="a timeout"):
                await use
        with pytest.raises(InvalidArgument, match="attempts"):
            await phone.run(count_up, attempts=number)
        with pytest.raises(InvalidArgument, match="buffer"):
            await phone.subscribe(COUNTER, buffered_changes=number).__aenter__()
        with pytest.raises(InvalidArgument, match="version"):
            await phone.subscribe(COUNTER, since=number).__aenter__()
        with pytest.raises(InvalidArgument, match="lines"):
            inspect(phone.path, number)
        assert phone.gated.calls == []

    async def test_the_largest_numbers_are_fine(self, phone: Instance) -> None:
        largest = 2**53 - 1
        assert LeaseTimes(idle_after_ms=largest, overdue_after_ms=largest).idle_after_ms == largest
        assert StoreMark("00", largest).version == largest
        assert await phone.run(count_up, attempts=largest) == 1
        await phone.pause(timeout_seconds=largest)
        await phone.close(timeout_seconds=largest)

    async def test_a_source_of_chance_that_fails_leaves_no_file_open(self, tmp_path: Path) -> None:
        class FailingRandomness(SystemRandomness):
            def instance(self) -> InstanceId:
                raise LookupError("no random numbers")

        with pytest.raises(LookupError):
            await CryptoStore.open(
                tmp_path / "store.db", key=bytes(32), label="phone", kinds=KINDS, randomness=FailingRandomness()
            )
        assert not names_in(tmp_path)

    @pytest.mark.parametrize("kind", [None, 7, "device"])
    async def test_of_a_kind(self, phone: Instance, kind: RecordKind[str, bytes]) -> None:
        async with phone.transaction() as transaction:
            with pytest.raises(InvalidArgument):
                await transaction.get(kind, "k")
            with pytest.raises(InvalidArgument):
                transaction.put(kind, "k", b"")
            with pytest.raises(InvalidArgument):
                transaction.delete(kind, "k")
            with pytest.raises(InvalidArgument):
                await transaction.keys(kind)
        with pytest.raises(InvalidArgument):
            async with phone.subscribe(kind):
                pass

    async def test_of_run(self, phone: Instance) -> None:
        with pytest.raises(InvalidArgument):
            await phone.run(7)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument):
            await phone.query(None)  # type: ignore[arg-type]
        called = count_up(None)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match=r"a function, not a coroutine: pass `put`, not `put\(...\)`"):
            await phone.run(called)  # type: ignore[arg-type]
        called.close()
        for attempts in (0, "5"):
            with pytest.raises(InvalidArgument):
                await phone.run(count_up, attempts=attempts)  # type: ignore[arg-type]
        assert phone.gated.calls == []

    @pytest.mark.parametrize("timeout_seconds", [-1, float("nan"), "5", True])
    async def test_of_closing_and_pausing(self, phone: Instance, timeout_seconds: float) -> None:
        with pytest.raises(InvalidArgument):
            await phone.close(timeout_seconds=timeout_seconds)
        with pytest.raises(InvalidArgument):
            await phone.pause(timeout_seconds=timeout_seconds)
        assert await phone.run(count_up) == 1, "it is still open"


async def test_representations_say_much_and_no_secret(phone: Instance) -> None:
    async with phone.transaction() as transaction:
        transaction.put(DEVICE, "secret key", b"secret value")
        assert repr(transaction) == "<Transaction epoch=1 version=0>"
    async with phone.view() as view:
        await view.get(DEVICE, "secret key")
        assert repr(phone) == "<CryptoStore 'phone' held epoch=1 version=1 cached=1 running=1>"
    assert repr(view) == "<View epoch=1 version=1 ended>"
    assert phone.lock.guard.stage is Stage.HELD
    for shown in (repr(phone), repr(transaction), repr(view), repr(phone.statistics())):
        assert "secret" not in shown
