"""The secret of a store is checked, can be changed, and is the same for processes that open it at the same time."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import TypedDict

import pytest

from tests.store.stores import DEVICE, KEY, KINDS, Workbench, count_up, failing, workbench
from unwedged.store import (
    Clock,
    CryptoStore,
    InvalidArgument,
    LeaseTimes,
    Randomness,
    RecordKind,
    SecretChanged,
    StoreClosed,
    StoreError,
    WrongKey,
    WrongPassphrase,
)
from unwedged.store import (
    sealer as module,
)
from unwedged.store.clock import SystemClock, SystemRandomness
from unwedged.store.crypto_store import Kinds
from unwedged.store.sealer import RandomKey, Sealer

OTHER_KEY = bytes(32)


class Given(TypedDict, total=False):
    passphrase: str
    key: bytes


pytestmark = pytest.mark.usefixtures("cheap_passphrases")


def opened(path: Path, *, passphrase: str | None = None, key: bytes | None = None) -> Awaitable[CryptoStore]:
    return CryptoStore.open(path, passphrase=passphrase, key=key, label="one", kinds=KINDS)


async def counted(path: Path, *, passphrase: str | None = None, key: bytes | None = None) -> int:
    async with await opened(path, passphrase=passphrase, key=key) as store:
        return await store.run(count_up)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Workbench]:
    async with workbench(tmp_path / "bench.db") as made:
        yield made


def content(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


class TestArguments:
    """With a wrong argument nothing is created, not even a file."""

    async def refuses(self, path: Path, reason: str, opening: Callable[[], Awaitable[CryptoStore]]) -> None:
        with pytest.raises(InvalidArgument, match=reason) as refused:
            await opening()
        assert not os.path.exists(path)  # noqa: ASYNC240, PTH110 (a test may block here)
        assert isinstance(refused.value, StoreError)
        assert isinstance(refused.value, ValueError)
        shown = f"{refused.value!r} {refused.value.__cause__!r} {refused.value.__context__!r}"
        assert "secret" not in shown

    async def test_the_secret_is_one_of_two(self, path: Path) -> None:
        await self.refuses(path, "neither was given", lambda: opened(path))
        await self.refuses(path, "both were given", lambda: opened(path, passphrase="secret", key=KEY))
        await self.refuses(path, "at least one character", lambda: opened(path, passphrase=""))

    @pytest.mark.parametrize("passphrase", [b"secret", 7, ["secret"], "secret \ud800"], ids=repr)
    async def test_a_passphrase_is_a_text(self, path: Path, passphrase: str) -> None:
        await self.refuses(path, "a passphrase", lambda: opened(path, passphrase=passphrase))

    @pytest.mark.parametrize(
        "key", ["secret" * 5 + "ab", b"secret", bytes(31), bytes(33), b"", 32, bytearray(32)], ids=repr
    )
    async def test_a_key_is_32_bytes(self, path: Path, key: bytes) -> None:
        await self.refuses(path, "a key is 32 bytes", lambda: opened(path, key=key))

    @pytest.mark.parametrize("label", [b"app", None, 7, "app \udfff"], ids=repr)
    async def test_a_label_is_a_text(self, path: Path, label: str) -> None:
        await self.refuses(path, "a label", lambda: CryptoStore.open(path, key=KEY, label=label, kinds=KINDS))

    @pytest.mark.parametrize("name", [7, b"store.db", None, "store\0.db", "store\ud800.db"], ids=repr)
    async def test_a_path_is_one_that_a_file_can_have(self, tmp_path: Path, name: object) -> None:
        path = f"{tmp_path}/{name}" if isinstance(name, str) else name
        with pytest.raises(InvalidArgument, match="a path"):
            await CryptoStore.open(path, key=KEY, label="one", kinds=KINDS)  # type: ignore[arg-type]
        assert not os.listdir(tmp_path)  # noqa: PTH208 (a test may block here)

    async def test_an_empty_name_is_not_a_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InvalidArgument, match="a path"):
            await CryptoStore.open("", key=KEY, label="one", kinds=KINDS)

    @pytest.mark.parametrize("clock", [0, 7, "", SystemRandomness()], ids=lambda value: type(value).__name__)
    async def test_a_clock_must_be_a_clock(self, path: Path, clock: Clock) -> None:
        opening = lambda: CryptoStore.open(path, key=KEY, label="one", kinds=KINDS, clock=clock)  # noqa: E731
        await self.refuses(path, "a clock", opening)

    @pytest.mark.parametrize("randomness", [0, 7, "", SystemClock()], ids=lambda value: type(value).__name__)
    async def test_a_source_of_randomness_must_draw_numbers(self, path: Path, randomness: Randomness) -> None:
        opening = lambda: CryptoStore.open(path, key=KEY, label="one", kinds=KINDS, randomness=randomness)  # noqa: E731
        await self.refuses(path, "randomness", opening)

    @pytest.mark.parametrize(
        "times", [{"duration_ms": "2000"}, {"idle_after_ms": 0.5}, {"renew_every_ms": True}, {"turn_ms": None}]
    )
    def test_times_are_whole_numbers(self, times: dict[str, int]) -> None:
        with pytest.raises(InvalidArgument, match=r"in milliseconds, is an int"):
            LeaseTimes(**times)

    async def test_a_buffer_has_room(self, path: Path) -> None:
        async with await opened(path, key=KEY) as store:
            for size in (0, -1, 1.5, "10"):
                with pytest.raises(InvalidArgument, match="buffer"):
                    async with store.subscribe(DEVICE, buffered_changes=size):  # type: ignore[arg-type]
                        pass

    async def test_a_record_without_an_encoding_changes_nothing(self, path: Path) -> None:
        async with await opened(path, key=KEY) as store:
            before = content(path)
            for name in ("\ud800", b"device", None):
                async with failing(InvalidArgument, store.transaction()) as transaction:
                    transaction.put(DEVICE, "other", b"value")
                    transaction.put(DEVICE, name, b"value")  # type: ignore[misc]
            assert store.statistics().commits == 0
            await store._lock.release_now()
            assert [line for line in content(path) if '"record"' in line] == [
                line for line in before if '"record"' in line
            ]

    @pytest.mark.parametrize(
        "kinds", [["device"], [DEVICE, None], [RecordKind], [DEVICE, dataclasses.replace(DEVICE, cached=False)]]
    )
    async def test_kinds_are_record_kinds_of_different_names(self, path: Path, kinds: Kinds) -> None:
        await self.refuses(path, "kind", lambda: CryptoStore.open(path, key=KEY, label="one", kinds=kinds))


class TestChange:
    # P22.12
    @pytest.mark.parametrize("old", [{"passphrase": "old"}, {"key": KEY}], ids=repr)
    @pytest.mark.parametrize("new", [{"passphrase": "new"}, {"key": OTHER_KEY}], ids=repr)
    async def test_from_either_sort_to_either(self, path: Path, old: Given, new: Given) -> None:
        async with await opened(path, **old) as store, await opened(path, **old) as bystander:
            await store.run(count_up)
            await store.change_secret(**new)
            assert await store.run(count_up) == 2
            assert await bystander.run(count_up) == 3  # a process that has the store open continues
        with pytest.raises((WrongPassphrase, WrongKey)):
            await opened(path, **old)
        assert await counted(path, **new) == 4

    # P22.12
    async def test_one_row_is_written_and_nothing_else(self, path: Path) -> None:
        async with await opened(path, key=KEY) as store:
            await store.run(count_up)
            await store._lock.release_now()
            before = content(path)
            await store.change_secret(key=OTHER_KEY)
            changed = [(old, new) for old, new in zip(before, content(path), strict=True) if old != new]
            assert len(changed) == 1
            assert changed[0][1].startswith('INSERT INTO "header" ')
            assert store.statistics().epoch == 0

    async def test_a_wrong_secret_changes_nothing(self, path: Path) -> None:
        async with await opened(path, key=KEY) as store:
            before = content(path)
            with pytest.raises(InvalidArgument):
                await store.change_secret()
            with pytest.raises(InvalidArgument):
                await store.change_secret(passphrase="\ud800")
            assert content(path) == before
        with pytest.raises(StoreClosed):
            await store.change_secret(key=OTHER_KEY)

    async def test_again_and_again(self, path: Path) -> None:
        async with await opened(path, key=KEY) as store:
            for secret in (b"1" * 32, b"2" * 32, b"3" * 32):
                await store.change_secret(key=secret)
        assert await counted(path, key=b"3" * 32) == 1

    # P22.12
    async def test_of_two_changes_at_once_one_is_refused(self, path: Path) -> None:
        async with await opened(path, key=KEY) as one, await opened(path, key=KEY) as other:
            outcomes = await asyncio.gather(
                one.change_secret(key=b"1" * 32), other.change_secret(key=b"2" * 32), return_exceptions=True
            )
            assert sorted(map(type, outcomes), key=str) == sorted([type(None), SecretChanged], key=str)
            winner = b"1" * 32 if outcomes[0] is None else b"2" * 32
            # This also holds later: the refused process does not know the current secret.
            with pytest.raises(SecretChanged, match="open it again with the current one"):
                await (other if outcomes[0] is None else one).change_secret(key=b"3" * 32)
        assert await counted(path, key=winner) == 1

    @pytest.mark.parametrize("late", [False, True])
    async def test_a_cancelled_caller_learns_of_it_once_the_outcome_is_known(
        self, bench: Workbench, late: bool
    ) -> None:
        store = await bench.instance("one")
        sealer = Sealer.create(RandomKey(KEY), store.gated.inner.identity)
        await store.gated.inner.sealing(sealer.header)
        store._sealer = sealer
        gate = store.gated.hold_after("reseal") if late else store.gated.hold_before("reseal")
        changing = asyncio.create_task(store.change_secret(key=OTHER_KEY))
        await gate.reached.wait()
        changing.cancel()
        gate.opened.set()
        with pytest.raises(asyncio.CancelledError):
            await changing
        header = await store.gated.inner.sealing()
        assert header == store._sealer.header != sealer.header
        await store.change_secret(key=KEY)  # it knows the current one


class TestRaces:
    async def test_two_make_a_store_at_once_with_different_secrets(self, path: Path) -> None:
        outcomes = await asyncio.gather(
            counted(path, key=KEY), counted(path, key=OTHER_KEY), counted(path, passphrase="p"), return_exceptions=True
        )
        assert [outcome for outcome in outcomes if not isinstance(outcome, BaseException)] == [1]
        assert all(outcome == 1 or isinstance(outcome, WrongKey | WrongPassphrase) for outcome in outcomes)

    @pytest.mark.parametrize("knows", ["old", "new"])
    async def test_the_first_changes_the_secret_while_the_second_still_makes_the_store(
        self, path: Path, knows: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The second process has found a store without a header, and is about to write its own header."""
        arrived, go_on = asyncio.Event(), asyncio.Event()
        keep = module.Sealer.create
        made: list[Sealer] = []
        loop = asyncio.get_running_loop()

        def slowly(secret: module.Secret, store: bytes) -> Sealer:
            made.append(keep(secret, store))
            if len(made) == 1:
                loop.call_soon_threadsafe(arrived.set)
                asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
            return made[-1]

        monkeypatch.setattr(module.Sealer, "create", slowly)
        second = asyncio.create_task(counted(path, key=KEY if knows == "old" else OTHER_KEY))
        await arrived.wait()
        async with await opened(path, key=KEY) as first:
            await first.change_secret(key=OTHER_KEY)
            assert await first.run(count_up) == 1
        go_on.set()
        if knows == "old":
            with pytest.raises(WrongKey):
                await second
        else:
            assert await second == 2
        assert await counted(path, key=OTHER_KEY) == (2 if knows == "old" else 3)
