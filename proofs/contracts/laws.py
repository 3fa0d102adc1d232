"""State contracts on several functions of the protocol together: on two steps, or on a record of the store.

Each function here takes the steps, and returns the value that its contract judges.
"""

from dataclasses import replace
from enum import Enum, auto

from proofs.contracts.symbolic_arguments import Name, Writes
from unwedged.protocol import cache as caches
from unwedged.protocol import guard as guards
from unwedged.protocol import lease as leases
from unwedged.protocol import stream as streams
from unwedged.protocol.cache import Cache, Change, ChangeLog
from unwedged.protocol.guard import Guard
from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds, Version
from unwedged.protocol.lease import Lease
from unwedged.protocol.stream import Lagged


class Call(Enum):
    """The calls that can change the lease row."""

    ACQUIRE = auto()
    WANT = auto()
    RENEW = auto()
    RELEASE = auto()
    COMMIT = auto()
    COMMIT_ALONE = auto()


def after(
    lease: Lease, call: Call, epoch: Epoch, instance: InstanceId, now: Milliseconds, duration: Milliseconds
) -> Lease:
    """The row after a call of any instance under any epoch by any clock; the row itself where the call is refused.

    post: _.epoch == lease.epoch or call is Call.ACQUIRE and _.epoch > lease.epoch  # only acquiring changes the epoch
    """
    if call is Call.ACQUIRE:
        return leases.acquire(lease, instance, now, duration) or lease
    if call is Call.WANT:
        return leases.want(lease)
    if call is Call.RENEW:
        return leases.renew(lease, epoch, now, duration) or lease
    if call is Call.RELEASE:
        return leases.release(lease, epoch) or lease
    return leases.commit(lease, epoch, now, duration, call is Call.COMMIT_ALONE) or lease


def passes_again(
    lease: Lease,
    dead: Epoch,
    call: Call,
    epoch: Epoch,
    instance: InstanceId,
    now: Milliseconds,
    duration: Milliseconds,
) -> bool:
    """Say whether an epoch that there has been, and that the fence stops, passes it after a call of anybody.

    pre: dead <= lease.epoch and not leases.fence(lease, dead)
    post: not _  # a dead epoch stays dead
    """
    return leases.fence(after(lease, call, epoch, instance, now, duration), dead)


def released(lease: Lease, epoch: Epoch, other: Epoch) -> bool:
    """Say whether the guard of ``other`` passes the fence once that of ``epoch`` has released the lease.

    pre: leases.fence(lease, epoch)
    post: not _  # nobody passes
    """
    free = leases.release(lease, epoch)
    assert free is not None
    return leases.fence(free, other)


def stranded(lease: Lease, instance: InstanceId, now: Milliseconds, later: Milliseconds) -> bool:
    """Say whether a lease can be taken neither ``now`` nor ``later``, whatever wrote its row by whatever clock.

    pre: later >= lease.expires or later >= now + leases.LONGEST_LEASE_MS
    post: not _  # it can be taken from its end on, and at the latest after the longest lease
    """
    return not leases.takeable(lease, instance, now) and not leases.takeable(lease, instance, later)


def revived(guard: Guard, epoch: Epoch, wanted: bool) -> bool:
    """Say whether late news of ``epoch`` bring its guard back after it was lost.

    post: not _  # what is lost stays lost
    """
    late = guards.waiter_noted(guards.synced(guards.lost(guard, epoch), epoch), epoch, wanted)
    return guards.stands(late, epoch)


def kept(cache: Cache[Name, int], log: ChangeLog[Name], key: Name) -> bool:
    """Say whether a record that did not change is still known after the sync.

    pre: caches.reaches(log.floor, cache.version)
    pre: key in cache.records and all(line.version <= cache.version or line.key != key for line in log.changes)
    post: _  # what did not change is kept
    """
    return key in caches.sync(cache, log).records


def may_have_changed(key: Name, since: Version, log: ChangeLog[Name]) -> bool:
    """Say whether the log names the record after the version, or no longer shows whether it changed."""
    return not caches.reaches(log.floor, since) or any(line.key == key and line.version > since for line in log.changes)


def true_after_sync(cache: Cache[Name, int], log: ChangeLog[Name], key: Name, now: int | None) -> bool:
    """Say whether the cache is right about a record that is ``now`` so in the store, or leaves it open.

    pre: cache.records.get(key, now) == now or may_have_changed(key, cache.version, log)
    post: _  # a true cache is brought up to date
    """
    return caches.sync(cache, log).records.get(key, now) == now


def true_after_fill(
    cache: Cache[Name, int], version: Version, loaded: Name, value: int | None, key: Name, now: int | None
) -> bool:
    """Say whether the cache is right about a record that is ``now`` so at the cache's version, or leaves it open.

    pre: cache.records.get(key, now) == now
    pre: version != cache.version or loaded != key or value == now
    post: _  # a true cache stays true
    """
    return caches.fill(cache, version, loaded, value).records.get(key, now) == now


def true_after_install(
    cache: Cache[Name, int], version: Version, writes: Writes, key: Name, before: int | None
) -> bool:
    """Say whether the cache is right about a record that was so ``before`` the commit, or leaves it open.

    pre: cache.records.get(key, before) == before
    post: _  # a true cache stays true
    """
    installed = caches.install(cache, version, writes)
    now = writes.get(key, before) if installed.version == cache.version + 1 else before
    return installed.records.get(key, now) == now


def news_of_two_readings(heard: Version, log: ChangeLog[Name], between: Version) -> tuple[Change[Name] | Lagged, ...]:
    """What two readings deliver of a log that reaches back, one at the version ``between`` and one now.

    pre: log.floor <= heard <= between <= log.version
    pre: all(line.version <= log.version for line in log.changes)
    pre: all(line.version <= later.version for line, later in zip(log.changes, log.changes[1:]))
    post: _ == streams.news(heard, log)  # each change is delivered once, in order, wherever the readings part
    """
    read = tuple(line for line in log.changes if line.version <= between)
    return streams.news(heard, replace(log, version=between, changes=read)) + streams.news(between, log)
