"""What a type checker must refuse: each line that is marked, for the reason in the mark. Never run."""

from __future__ import annotations

from unwedged.store import BYTES, TEXT, Codec, CryptoStore, LeaseTimes, RecordKind, Transaction, View

COUNTS = RecordKind("count", key=TEXT, value=Codec[int](lambda count: b"%d" % count, int))
NAMES = ["device"]


async def opening() -> None:
    """Open a store."""
    await CryptoStore.open("store.db", passphrase=b"p", label="app", kinds=[COUNTS])  # type: ignore[arg-type]
    await CryptoStore.open("store.db", key="k", label="app", kinds=[COUNTS])  # type: ignore[arg-type]
    await CryptoStore.open("store.db", key=b"k", label=b"app", kinds=[COUNTS])  # type: ignore[arg-type]
    await CryptoStore.open("store.db", key=b"k", label="app", kinds=COUNTS)  # type: ignore[arg-type]
    await CryptoStore.open("store.db", key=b"k", label="app", kinds=NAMES)  # type: ignore[arg-type]
    await CryptoStore.open("store.db", b"k", label="app", kinds=[COUNTS])  # type: ignore[call-arg, arg-type]
    LeaseTimes(duration_ms=0.5)  # type: ignore[arg-type]
    RecordKind("count", key=TEXT, value=int)  # type: ignore[arg-type]


async def count(transaction: Transaction) -> None:
    """Read and write."""
    await transaction.get(COUNTS, b"visits")  # type: ignore[misc]
    transaction.put(COUNTS, "visits", "one")  # type: ignore[misc]
    transaction.put(COUNTS, 1, 1)  # type: ignore[misc]
    transaction.delete(COUNTS, None)  # type: ignore[misc]
    transaction.get(COUNTS, "visits")  # type: ignore[unused-coroutine]
    visits: str | None = await transaction.get(COUNTS, "visits")  # type: ignore[arg-type]
    transaction.committed = None  # type: ignore[misc]
    await transaction.commit()  # type: ignore[attr-defined]
    assert visits


async def look(view: View, name: str) -> int | None:
    """Read."""
    view.put(COUNTS, "visits", 1)  # type: ignore[attr-defined]
    return await view.get(COUNTS, name)


async def using(store: CryptoStore) -> None:
    """Run operations."""
    await store.run(look, "visits")  # type: ignore[arg-type]
    await store.query(look)  # type: ignore[arg-type]
    await store.query(look, b"visits")  # type: ignore[arg-type]
    await store.change_secret(b"k")  # type: ignore[call-arg, arg-type]
    async with store.subscribe(BYTES):  # type: ignore[arg-type]
        pass
    async with store.subscribe(COUNTS, since="1"):  # type: ignore[arg-type]
        pass
