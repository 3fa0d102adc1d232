"""Inject the faults of ``tla/LeaseLock.tla`` into the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from checking.replay.substitutions import Fault, Substitution
from checking.replay.world import World
from unwedged.protocol import guard as guard_rules
from unwedged.protocol.guard import Stage
from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds
from unwedged.protocol.lease import Lease
from unwedged.store import sqlite, statements
from unwedged.store.backend import Committed, Row
from unwedged.store.errors import LeaseLost
from unwedged.store.lock import LeaseLock
from unwedged.store.sqlite import SqliteBackend


def _failed_sync_keeps_lease(_: World) -> Sequence[Substitution]:
    """After a failed sync, the process keeps the lease."""

    async def keep(self: LeaseLock, epoch: Epoch, why: str) -> None:
        self.lost(epoch, why)

    return [(LeaseLock, "_end_guard_and_release", keep)]


def _waits_inside(_: World) -> Sequence[Substitution]:
    """The lease is renewed as long as an operation runs, even if another process waits."""
    return [(guard_rules, "overdue", lambda guard, epoch: guard)]


def _renew_ignores_loss(_: World) -> Sequence[Substitution]:
    """A renewal finds the row free, takes the lease again, and tells no operation."""

    async def renew_now(self: LeaseLock) -> None:
        if self.guard.stage is Stage.NONE:
            return
        try:
            await self._backend.renew(self.guard.epoch, self._now(), Milliseconds(self.times.duration_ms))
        except LeaseLost:
            lease = await self._backend.acquire(
                self.instance, self.label, self._now(), Milliseconds(self.times.duration_ms)
            )
            if lease.holder == self.instance:
                self.guard = replace(self.guard, epoch=lease.epoch)

    return [(LeaseLock, "renew_now", renew_now)]


def _keeps_the_epoch() -> Substitution:
    acquire = SqliteBackend.acquire

    async def reenter(
        self: SqliteBackend, instance: InstanceId, label: str, now: Milliseconds, duration: Milliseconds
    ) -> Lease:
        row = await self._read(f"SELECT {statements.LEASE} FROM state", {})  # noqa: S608 (a constant)
        lease = statements.lease_of(row[0])
        if lease.holder == instance:
            return lease
        return await acquire(self, instance, label, now, duration)

    return (SqliteBackend, "acquire", reenter)


def _holder_name_reuse(world: World) -> Sequence[Substitution]:
    """Two live instances present the same name, and the second is granted the first's lease."""
    return [(world, "same_instance", True), _keeps_the_epoch()]


def _reacquire_keeps_epoch(_: World) -> Sequence[Substitution]:
    """An instance that takes its own lease again gets the same epoch."""
    return [_keeps_the_epoch()]


def _guard_outlives_release(_: World) -> Sequence[Substitution]:
    """The row is released, but the guard stays."""

    async def release_now(self: LeaseLock) -> None:
        await self._backend.release(self.guard.epoch)
        if self._trace is not None and self.guard.stage is not Stage.NONE:
            self._trace.note("release", epoch=self.guard.epoch)

    return [(LeaseLock, "release_now", release_now)]


def _clock_jump(_: World) -> Sequence[Substitution]:
    """A lease is believed even if it lasts longer than any lease can."""
    return [(sqlite, "LONGEST_LEASE_MS", Milliseconds(2**53))]


def _renewal_starved(_: World) -> Sequence[Substitution]:
    """A commit renews the lease from the time of the call, not from the time of its last statement."""
    return [(statements, "lateness", lambda began_seconds, duration_ms: Milliseconds(0))]


def _waiter_ignored(_: World) -> Sequence[Substitution]:
    """The holder ignores that another process waits."""
    commit = SqliteBackend.commit

    async def keep(
        self: SqliteBackend,
        epoch: Epoch,
        rows: Sequence[Row],
        now: Milliseconds,
        duration: Milliseconds,
        *,
        may_release: bool,
    ) -> Committed:
        return await commit(self, epoch, rows, now, duration, may_release=False)

    return [(LeaseLock, "note_waiter", lambda self, epoch, wanted: None), (SqliteBackend, "commit", keep)]


LOCK_FAULTS: Mapping[str, Fault] = {
    "failed-sync-keeps-lease": _failed_sync_keeps_lease,
    "waits-inside": _waits_inside,
    "renew-ignores-loss": _renew_ignores_loss,
    "holder-name-reuse": _holder_name_reuse,
    "guard-outlives-release": _guard_outlives_release,
    "clock-jump": _clock_jump,
    "renewal-starved": _renewal_starved,
    "reacquire-keeps-epoch": _reacquire_keeps_epoch,
    "waiter-ignored": _waiter_ignored,
}
