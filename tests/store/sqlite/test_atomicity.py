"""A commit that fails changes nothing."""

from __future__ import annotations

import pytest

from tests.store.sqlite.backends import DURATION, NOW, A, B, Store, bad_row, hold
from unwedged.protocol.identifiers import Milliseconds
from unwedged.store.backend import Row
from unwedged.store.errors import StorageFailed


# P0.2, P5.23
@pytest.mark.parametrize("position", [0, 1, 2])
async def test_a_commit_that_fails_changes_nothing(store: Store, position: int) -> None:
    epoch = await hold(store)
    await store.backend.commit(epoch, [Row(A, b"old"), Row(B, b"old")], NOW, DURATION, may_release=False)
    before = store.dump()
    rows = [Row(A, b"new"), Row(B, None)]
    rows.insert(position, bad_row())
    with pytest.raises(StorageFailed):
        await store.backend.commit(epoch, rows, NOW, Milliseconds(9_999), may_release=False)
    assert store.dump() == before
    with store.locked():
        pass
    assert (await store.backend.commit(epoch, [Row(A, b"new")], NOW, DURATION, may_release=False)).version == 2


async def test_a_full_disk(store: Store) -> None:
    epoch = await hold(store)
    [(pages,)] = await store.backend._read("PRAGMA page_count", {})
    await store.backend._read(f"PRAGMA max_page_count = {pages + 2}", {})
    before = store.dump()
    with pytest.raises(StorageFailed, match="full"):
        await store.backend.commit(epoch, [Row(A, b"small"), Row(B, bytes(100_000))], NOW, DURATION, may_release=False)
    assert store.dump() == before
    assert (await store.backend.commit(epoch, [Row(A, b"small")], NOW, DURATION, may_release=False)).version == 1
