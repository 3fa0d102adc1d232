"""What a guard holds: the cache it may use, the live objects beside it, and what runs under it (rules 3 and 5).

Each guard has a holding of its own, made when its sync is done. Nothing is ever changed in the holding of a dead
guard, so an operation that still has one in hand can see nothing of the new guard's, and can spoil nothing there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from unwedged.protocol import cache as rules
from unwedged.protocol.cache import Cache, ChangeLog
from unwedged.protocol.identifiers import Epoch, Milliseconds, Version


class RecordName(NamedTuple):
    """What identifies a record inside this process: the name of its kind, and its key in plain bytes."""

    kind: str
    key: bytes


class Running(Protocol):
    """An operation that uses a holding."""

    since: Milliseconds
    """When it began."""
    ended: bool
    """Whether its code has ended; then only its commit, or its validation, is under way."""

    @property
    def name(self) -> str:
        """The qualified name of its code, for people."""


class Holding:
    """The cache of the guard of ``epoch``, as an immutable value that is swapped, and what goes with it.

    ``live`` has the decoded, mutable objects of some of the cached records: at most one of each, and none of them
    while a transaction works on it. ``running`` counts the operations that use this holding, and ``operations`` are
    those, as far as they have begun to.
    """

    def __init__(self, epoch: Epoch, cache: Cache[RecordName, bytes], live: dict[RecordName, object]) -> None:
        self.epoch = epoch
        self.cache = cache
        self.live = live
        self.running = 0
        self.operations: set[Running] = set()
        self.writing = False
        """Whether a transaction runs: no other one begins."""
        self.committing = False
        """From the first step of a commit until the cache has its values: no view begins in between."""

    def successor(self, epoch: Epoch, log: ChangeLog[RecordName], cache: Cache[RecordName, bytes]) -> Holding:
        """Make the next guard's holding out of ``cache``: what this one's still knows for certain (rules 2 and 3).

        The live objects move along, so that what is taken over costs what changed and not what is cached, and so
        that an operation of the dead guard finds none here any more.
        """
        live, self.live = self.live, {}
        if not cache.records:
            live = {}
        if live:
            for change in log.changes:
                live.pop(change.key, None)
        return Holding(epoch, cache, live)

    def fill(self, version: Version, name: RecordName, value: bytes | None) -> None:
        """Remember a record that was loaded from the store at ``version``."""
        self.cache = rules.fill(self.cache, version, name, value)

    def install(
        self,
        version: Version,
        writes: Mapping[RecordName, bytes | None],
        live: Mapping[RecordName, object],
        made: Cache[RecordName, bytes] | None = None,
    ) -> None:
        """Take the values of the commit that made ``version``, and its objects back (rule 5).

        ``made`` is the cache with those values, where it was made of this one's beforehand.
        """
        self.cache = rules.install(self.cache, version, writes) if made is None else made
        for name in writes:
            self.live.pop(name, None)
        self.live.update(live)

    def take(self, name: RecordName) -> object | None:
        """Hand out the live object of a record, which from here on is the taker's alone."""
        return self.live.pop(name, None)
