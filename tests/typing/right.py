"""What a user may write: it passes a strict type checker, and the types are these. Never run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TypedDict, assert_type

from unwedged.store import (
    BYTES,
    JSON,
    TEXT,
    Changed,
    Codec,
    CryptoStore,
    Existence,
    Json,
    Lagged,
    LeaseTimes,
    RecordKind,
    Statistics,
    StoreMark,
    Subscription,
    Transaction,
    Version,
    View,
    inspect,
)


class Session:
    """Somebody's class."""

    def __init__(self, pickle: bytes) -> None:
        self.pickle = pickle


COUNTS = RecordKind("count", key=TEXT, value=Codec[int](lambda count: b"%d" % count, int))
DEVICES = RecordKind("device", key=BYTES, value=JSON)
SESSIONS = RecordKind("session", key=TEXT, value=Codec(lambda session: session.pickle, Session), cached=False)

assert_type(COUNTS, RecordKind[str, int])
assert_type(DEVICES, RecordKind[bytes, Json])

LISTED = [COUNTS, DEVICES]
IN_A_TUPLE = (COUNTS, DEVICES)


class OneSecond:
    """A clock of plain integers."""

    def now(self) -> int:
        return 1000

    async def sleep(self, duration: int) -> None:
        await asyncio.sleep(duration / 1000)


class Dice:
    """Randomness of plain integers."""

    def instance(self) -> int:
        return 4

    def between(self, low: int, high: int) -> int:
        return (low + high) // 2


class Secret(TypedDict, total=False):
    """However the program keeps it."""

    passphrase: str
    key: bytes


async def opening(path: Path, secret: Secret, secret_key: bytes) -> None:
    """Open a store in every way."""
    times = LeaseTimes(duration_ms=3000, renew_every_ms=500, idle_after_ms=50)
    store = await CryptoStore.open(path, passphrase="p", label="app", kinds=[COUNTS, DEVICES])
    assert_type(store, CryptoStore)
    await CryptoStore.open(str(path), key=secret_key, label="app", kinds=LISTED, times=times)
    await CryptoStore.open(path, label="app", kinds=IN_A_TUPLE, clock=OneSecond(), randomness=Dice(), **secret)
    await CryptoStore.open(path, key=secret_key, label="app", kinds={COUNTS}, expect=Existence.NEW)
    mark = StoreMark("00" * 16, 7)
    await CryptoStore.open(path, key=secret_key, label="app", kinds=[COUNTS], not_before=mark, cache_limit_bytes=10**6)
    assert_type(store.mark(), StoreMark)
    await store.change_secret(key=secret_key)
    await store.pause(timeout_seconds=1)
    await store.resume()
    await store.close(timeout_seconds=0.5)
    inspect(str(path), 3)


async def count(transaction: Transaction) -> int:
    """Read and write."""
    so_far = await transaction.get(COUNTS, "visits")
    assert_type(so_far, int | None)
    transaction.put(COUNTS, "visits", (so_far or 0) + 1)
    transaction.delete(DEVICES, b"device")
    assert_type(await transaction.keys(DEVICES), tuple[bytes, ...])
    assert_type(transaction.committed, Version | None)
    return so_far or 0


async def device_of(view: View, name: bytes) -> Json:
    """Read, with an argument."""
    assert_type(await view.get(DEVICES, name), Json)
    return await view.get(DEVICES, name)


async def using(store: CryptoStore) -> None:
    """Run operations."""
    assert_type(await store.run(count), int)
    assert_type(await store.query(device_of, b"device", attempts=3), Json)
    async with store.transaction() as transaction:
        assert_type(transaction, Transaction)
    async with store.view() as view:
        assert_type(view, View)
        assert_type(view.version, Version)
    async with store.subscribe(COUNTS, since=view.version) as counts:
        assert_type(counts, Subscription[str])
    async with store.subscribe(DEVICES, buffered_changes=10) as changes:
        assert_type(changes, Subscription[bytes])
        async for change in changes:
            assert_type(change, Changed[bytes] | Lagged)
    assert_type(store.statistics(), Statistics)
    assert_type(store.statistics().hits, int)
