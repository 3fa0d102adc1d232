"""Break one rule of each function of `protocol`, with the actions in which the comparison must notice it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from unwedged.protocol import cache, lease
from unwedged.protocol.cache import Cache, Change, ChangeLog
from unwedged.protocol.guard import NO_GUARD, Guard, Stage
from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds, Version
from unwedged.protocol.lease import LONGEST_LEASE_MS, Lease
from unwedged.protocol.stream import Lagged

Copy = Cache[str, int]
HOLDS = (Stage.HELD, Stage.DRAINING)


@dataclass(frozen=True, slots=True)
class Broken:
    """A function that stands in for the one of that name."""

    function: str
    rule: str
    stand_in: object
    actions: frozenset[str] = frozenset()
    """Those that notice. None: no behaviour leads to the input that shows it; only the functions' tables have that."""

    def __str__(self) -> str:
        return f"{self.function}, {self.rule}"


def own_lease_is_foreign(row: Lease, _: InstanceId, now: Milliseconds) -> bool:
    return row.holder is None or row.expires <= now or row.expires > now + LONGEST_LEASE_MS


def absurd_lease_is_believed(row: Lease, instance: InstanceId, now: Milliseconds) -> bool:
    return row.holder is None or row.holder == instance or row.expires <= now


def epoch_stays(row: Lease, instance: InstanceId, now: Milliseconds, duration: Milliseconds) -> Lease | None:
    taken = ACQUIRE(row, instance, now, duration)
    return taken and replace(taken, epoch=row.epoch)


def waiter_is_kept(row: Lease, instance: InstanceId, now: Milliseconds, duration: Milliseconds) -> Lease | None:
    taken = ACQUIRE(row, instance, now, duration)
    return taken and replace(taken, wanted=row.wanted)


def waiter_is_forgotten(row: Lease, epoch: Epoch, now: Milliseconds, duration: Milliseconds) -> Lease | None:
    renewed = RENEW(row, epoch, now, duration)
    return renewed and replace(renewed, wanted=False)


def clock_is_not_asked(row: Lease, epoch: Epoch, _: Milliseconds, duration: Milliseconds) -> Lease | None:
    return RENEW(row, epoch, Milliseconds(row.expires), duration)


def waiter_waits_on(row: Lease, epoch: Epoch, now: Milliseconds, duration: Milliseconds, _alone: bool) -> Lease | None:
    return RENEW(row, epoch, now, duration)


def others_are_forgotten(
    row: Lease, epoch: Epoch, now: Milliseconds, duration: Milliseconds, _alone: bool
) -> Lease | None:
    return COMMIT(row, epoch, now, duration, may_release=True)


def epoch_is_given_back(row: Lease, epoch: Epoch) -> Lease | None:
    released = RELEASE(row, epoch)
    return released and replace(released, epoch=Epoch(row.epoch - 1))


def anything_is_synced(held: Guard, _: Epoch) -> Guard:
    return replace(held, stage=Stage.HELD)


def other_epoch_is_synced(held: Guard, _: Epoch) -> Guard:
    return Guard(Stage.HELD, held.epoch) if held.stage is Stage.SYNCING else held


def other_epoch_is_told(held: Guard, _: Epoch, wanted: bool) -> Guard:
    return replace(held, stage=Stage.DRAINING) if wanted and held.stage is Stage.HELD else held


def changes_are_ignored(old: Copy, log: ChangeLog[str]) -> Copy:
    return replace(old, version=log.version)


def version_stays(old: Copy, log: ChangeLog[str]) -> Copy:
    return replace(SYNC(old, log), version=old.version)


def loaded_value_wins(old: Copy, _: Version, key: str, value: int | None) -> Copy:
    return replace(old, records=old.records.insert(key, value))


def loaded_version_is_not_compared(old: Copy, _: Version, key: str, value: int | None) -> Copy:
    return old if key in old.records else replace(old, records=old.records.insert(key, value))


def commit_keeps_the_version(old: Copy, _: Version, writes: Mapping[str, int | None]) -> Copy:
    return replace(old, records=old.records.update(dict(writes)))


def any_commit_is_installed(old: Copy, version: Version, writes: Mapping[str, int | None]) -> Copy:
    return Cache(version, old.records.update(dict(writes)))


def nobody_lags(heard: Version, log: ChangeLog[str]) -> tuple[Change[str] | Lagged, ...]:
    return tuple(change for change in log.changes if change.version > heard)


def old_news(_: Version, log: ChangeLog[str]) -> tuple[Change[str] | Lagged, ...]:
    return log.changes


ACQUIRE, RENEW, RELEASE, COMMIT = lease.acquire, lease.renew, lease.release, lease.commit
EMPTY, SYNC = cache.empty, cache.sync

BROKEN = (
    Broken("lease.takeable", "own lease is foreign", own_lease_is_foreign, frozenset({"Acquire", "Want"})),
    Broken("lease.takeable", "absurd lease is believed", absurd_lease_is_believed),
    Broken("lease.acquire", "epoch stays", epoch_stays, frozenset({"Acquire"})),
    Broken("lease.acquire", "waiter is kept", waiter_is_kept, frozenset({"Acquire"})),
    Broken("lease.want", "no word is left", lambda row: row, frozenset({"Want"})),
    Broken(
        "lease.fence",
        "any epoch passes",
        lambda row, _: row.holder is not None,
        frozenset(
            {
                "Sync",
                "SyncFails",
                "Load",
                "Outdated",
                "Commit",
                "Validate",
                "Fail",
                "Lose",
                "Renew",
                "LoseGuard",
                "Release",
            }
        ),
    ),
    Broken("lease.fence", "nobody passes", lambda row, epoch: row.epoch == epoch),
    Broken("lease.renew", "waiter is forgotten", waiter_is_forgotten, frozenset({"Commit", "Renew"})),
    Broken("lease.renew", "clock is not asked", clock_is_not_asked, frozenset({"Commit", "Renew"})),
    Broken("lease.release", "epoch is given back", epoch_is_given_back, frozenset({"Commit", "Release", "SyncFails"})),
    Broken("lease.commit", "waiter waits on", waiter_waits_on, frozenset({"Commit"})),
    Broken("lease.commit", "others are forgotten", others_are_forgotten, frozenset({"Commit"})),
    Broken("guard.taken", "no sync is needed", lambda epoch: Guard(Stage.HELD, epoch), frozenset({"Acquire"})),
    Broken("guard.synced", "anything is synced", anything_is_synced, frozenset({"Sync"})),
    Broken("guard.synced", "other epoch is synced", other_epoch_is_synced),
    Broken("guard.waiter_noted", "other epoch is told", other_epoch_is_told, frozenset({"Finish"})),
    Broken("guard.overdue", "any guard is overdue", lambda held, _: replace(held, stage=Stage.EXPIRING)),
    Broken("guard.lost", "other epoch is lost", lambda _held, _epoch: NO_GUARD, frozenset({"Lose", "Finish"})),
    Broken("guard.admits", "draining admits", lambda held: held.stage in HOLDS, frozenset({"Begin"})),
    Broken("guard.stands", "any epoch stands", lambda held, _: held.stage in HOLDS, frozenset({"Fill", "Finish"})),
    Broken("guard.releasable", "nobody is waited for", lambda held, _: held.stage in HOLDS, frozenset({"Release"})),
    Broken(
        "cache.empty",
        "a later version",
        lambda version: replace(EMPTY(version), version=version + 1),
        frozenset({"Init", "Crash"}),
    ),
    Broken(
        "cache.reaches", "one short", lambda floor, since: floor <= since + 1, frozenset({"Sync", "Load", "Outdated"})
    ),
    Broken("cache.sync", "changes are ignored", changes_are_ignored, frozenset({"Sync"})),
    Broken("cache.sync", "version stays", version_stays, frozenset({"Sync"})),
    Broken("cache.fill", "loaded value wins", loaded_value_wins, frozenset({"Fill"})),
    Broken("cache.fill", "loaded version is not compared", loaded_version_is_not_compared),
    Broken("cache.forget", "nothing is forgotten", lambda old, _: old, frozenset({"Forget"})),
    Broken("cache.install", "commit keeps the version", commit_keeps_the_version, frozenset({"Finish"})),
    Broken("cache.install", "any commit is installed", any_commit_is_installed),
    Broken("stream.news", "nobody lags", nobody_lags, frozenset({"Sync", "Listen"})),
    Broken("stream.news", "old news", old_news, frozenset({"Sync", "Finish"})),
)
