"""The cache: a partial copy of one snapshot, as an immutable value (P0.10).

Every function returns a new cache and leaves the old one unchanged, so an operation that still holds the old one keeps
seeing one version. A record that is known not to exist is cached as ``None``. A record that was never loaded is not in
the map at all. Never confuse the two.

The same operators in ``tla/CryptoStoreCache.tla``: ``SyncedCache``, ``FilledCache``, ``InstalledCache``,
``ForgottenCache``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from rpds import HashTrieMap

from unwedged.protocol.identifiers import Version

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Change(Generic[Key]):
    """One line of the change log: the commit that made ``version`` wrote or deleted the record ``key``."""

    version: Version
    key: Key


@dataclass(frozen=True, slots=True)
class ChangeLog(Generic[Key]):
    """What a process reads to catch up from the version it knows.

    ``version`` is the store's own when the log was read; ``floor`` is the version after which the log is complete
    (older lines may have been truncated); ``changes`` are the lines after the version asked for, in version order.
    """

    version: Version
    floor: Version
    changes: tuple[Change[Key], ...]


@dataclass(frozen=True, slots=True)
class Cache(Generic[Key, Value]):
    """Some of the records of the snapshot at ``version``."""

    version: Version
    records: HashTrieMap[Key, Value | None]


def empty(version: Version) -> Cache[Key, Value]:
    """A cache that has loaded nothing: a true copy of every snapshot (P0.11).

    post: not _.records  # it knows nothing
    post: _.version == version  # it is of the version
    """
    return Cache(version, HashTrieMap())


def reaches(floor: Version, since: Version) -> bool:
    """Return whether a log that is complete after ``floor`` names everything that changed after ``since`` (P2.5, P4.6).

    post: _ == (since + 1 > floor)  # true if the log is complete after the version
    """
    return floor <= since


def sync(cache: Cache[Key, Value], log: ChangeLog[Key]) -> Cache[Key, Value]:
    """Bring ``cache`` to the log's version, dropping exactly the records that changed since its own (P2.5).

    If the log no longer reaches back to the cache's version, no record can be trusted, and all are dropped.

    post: _.version == log.version  # it is of the log's version
    post: all(line.version <= cache.version or line.key not in _.records for line in log.changes)  # what changed goes
    post: reaches(log.floor, cache.version) or not _.records  # all goes where the log does not reach back
    post: all(value == cache.records[key] for key, value in _.records.items())  # what is kept is as it was
    """
    if not reaches(log.floor, cache.version):
        return empty(log.version)
    records = cache.records
    for change in log.changes:
        if change.version > cache.version:
            records = records.discard(change.key)
    return Cache(log.version, records)


def fill(cache: Cache[Key, Value], version: Version, key: Key, value: Value | None) -> Cache[Key, Value]:
    """Add a record that was loaded from the store at ``version`` (P4.8).

    Only a value of the cache's own version may enter, and only if the cache has none: a load that was under way during
    a commit of this process must neither restore an older value nor expose a newer one early.

    post: _.version == cache.version  # the version stays
    post: version == cache.version or _ == cache  # no value of another version enters
    post: all(_.records[known] == value for known, value in cache.records.items())  # what is known is never overwritten
    post: set(_.records) <= {*cache.records, key}  # no other record enters
    post: version != cache.version or key in cache.records or _.records[key] == value  # the loaded value enters
    """
    if version != cache.version or key in cache.records:
        return cache
    return replace(cache, records=cache.records.insert(key, value))


def install(cache: Cache[Key, Value], version: Version, writes: Mapping[Key, Value | None]) -> Cache[Key, Value]:
    """Take the new values of the commit that made ``version`` out of the cache's own version (P5.21).

    The version is the one that *this* commit made. A later one read from the store could be another process's, and
    would hide what that process changed. A commit that is not the cache's very next changes nothing.

    post: version == cache.version + 1 or _ == cache  # no commit but the very next enters
    post: version != cache.version + 1 or _.version == version  # it is of the commit's version
    post: version != cache.version + 1 or all(_.records[key] == writes[key] for key in writes)  # all its writes enter
    post: all(_.records[key] == cache.records[key] for key in cache.records if key not in writes)  # other records stay
    post: set(_.records) <= {*cache.records, *writes}  # no other record enters
    """
    if version != cache.version + 1:
        return cache
    records = cache.records
    for key, value in writes.items():
        records = records.insert(key, value)
    return Cache(version, records)


def forget(cache: Cache[Key, Value], keys: Iterable[Key]) -> Cache[Key, Value]:
    """Drop the records of these ``keys``: a partial copy of a snapshot stays a partial copy (P2.16).

    post: _.version == cache.version  # the version stays
    post: not any(key in _.records for key in keys)  # what is named goes
    post: all(_.records.get(key, value) == value for key, value in cache.records.items())  # what is kept is as it was
    post: {*_.records, *keys} >= set(cache.records)  # other records stay
    post: set(_.records) <= set(cache.records)  # no record enters
    """
    records = cache.records
    for key in keys:
        records = records.discard(key)
    return replace(cache, records=records)
