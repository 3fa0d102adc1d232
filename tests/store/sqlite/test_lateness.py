"""The lease of a slow access lasts from the moment when it is written."""

from __future__ import annotations

import asyncio

import pytest

from tests.store.sqlite.backends import DURATION, ME, NOW, OTHER, A, Stopped, Store, Ticks, hold
from unwedged.protocol import lease
from unwedged.protocol.identifiers import Epoch, Milliseconds
from unwedged.protocol.lease import Lease
from unwedged.store import database
from unwedged.store.backend import Row


# P1.9
@pytest.mark.parametrize(("took", "late"), [(0.0, 0), (1.0, 0), (1.5, 1500), (60.0, 60_000)])
async def test_a_lease_counts_from_the_end_of_a_long_transaction(
    store: Store, monkeypatch: pytest.MonkeyPatch, took: float, late: int
) -> None:
    monkeypatch.setattr(database, "monotonic_seconds", Ticks(0.0, took))
    full = Milliseconds(NOW + DURATION + late)
    row = await store.backend.acquire(ME, "me", NOW, DURATION)
    assert row == store.state()[0] == Lease(Epoch(1), ME, full, wanted=False)
    monkeypatch.setattr(database, "monotonic_seconds", Ticks(5.0, 5.0 + took))
    assert await store.backend.renew(row.epoch, NOW, DURATION) == store.state()[0] == row
    monkeypatch.setattr(database, "monotonic_seconds", Ticks(7.0, 7.0 + took))
    done = await store.backend.commit(row.epoch, [Row(A, b"value")], NOW, DURATION, may_release=False)
    assert store.state()[0] == row
    assert done.left_ms == DURATION + late - took * 1000


# P1.3
async def test_a_refused_acquisition_prolongs_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await hold(store)
    before, _ = store.state()
    monkeypatch.setattr(database, "monotonic_seconds", Ticks(0.0, 60.0))
    assert await store.backend.acquire(OTHER, "other", NOW, DURATION) == lease.want(before)
    assert store.state() == (lease.want(before), "me")


# P1.9
async def test_a_renewal_behind_a_long_commit_does_not_shorten_the_lease(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = await hold(store)
    time = Milliseconds(0)
    monkeypatch.setattr(database, "monotonic_seconds", lambda: time / 1000)
    monkeypatch.setattr(database, "BUSY_TIMEOUT_SECONDS", 60)
    stopped = Stopped(monkeypatch)
    commit = asyncio.create_task(store.backend.commit(epoch, [Row(A, b"value")], NOW, DURATION, may_release=False))
    await stopped.reached.wait()
    renewal = asyncio.create_task(store.backend.renew(epoch, NOW, DURATION))
    await asyncio.sleep(0)
    time = Milliseconds(30_000)
    stopped.go_on()
    await asyncio.gather(commit, renewal)
    assert store.state()[0].expires == NOW + 30_000 + DURATION
    assert lease.acquire(store.state()[0], OTHER, Milliseconds(NOW + 30_001), DURATION) is None
