"""The state of a guard: the cache that it may use, the live objects, and the operations under it (P3.1).

Each guard has a ``GuardedCache`` of its own, made when its sync is done. The cache of a dead guard is never changed. So
an operation that still uses it can neither see nor damage the new guard's cache.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from unwedged.protocol import cache as rules
from unwedged.protocol.cache import Cache, ChangeLog
from unwedged.protocol.identifiers import Epoch, Version
from unwedged.store.admission import Admission


class RecordName(NamedTuple):
    """The identity of a record inside this process: the name of its kind, and its key in plain bytes."""

    kind: str
    key: bytes


OVERHEAD_BYTES = 420
"""The memory of a cached record besides the bytes of its key and its value: Python's objects, and its places in the map
and in the order of use. Measured: see spec/benchmarks.md."""


class Ledger:
    """An estimate of each cached record's memory, in the order in which the records were last used."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self.records_forgotten = 0
        """How many records were dropped so far because of the limit."""
        self._weights: OrderedDict[RecordName, int] = OrderedDict()

    def count(self, name: RecordName, value: bytes | None, *, live: bool) -> None:
        """Count a record as it is now, and as used. A live object counts as much as its bytes."""
        weight = OVERHEAD_BYTES + len(name.key) + len(value or b"") * (1 + live)
        self.bytes += weight - self._weights.pop(name, 0)
        self._weights[name] = weight

    def use(self, name: RecordName) -> None:
        """Note that a record was used, if it is cached."""
        if name in self._weights:
            self._weights.move_to_end(name)

    def drop(self, name: RecordName) -> None:
        """Stop counting a record."""
        self.bytes -= self._weights.pop(name, 0)

    def clear(self) -> None:
        """Stop counting all records."""
        self.bytes = 0
        self._weights.clear()

    def excess(self) -> list[RecordName]:
        """Stop counting the records that were not used for longest, until the rest is within the limit; return them."""
        names = []
        while self.bytes > self.limit_bytes:
            name, weight = self._weights.popitem(last=False)
            self.bytes -= weight
            names.append(name)
        return names


class GuardedCache:
    """The cache of the guard of ``epoch``, as an immutable value that is swapped, and what belongs to it.

    ``live`` has the decoded, mutable objects of some of the cached records: at most one of each, and none of them
    while a transaction works on it. ``admission`` counts the operations that use this cache. With a ``ledger`` the
    cache has a limit. The snapshots of running operations and the objects that a transaction took out belong to those
    operations, and don't count.
    """

    def __init__(
        self,
        epoch: Epoch,
        cache: Cache[RecordName, bytes],
        live: dict[RecordName, object],
        ledger: Ledger | None = None,
    ) -> None:
        self.epoch = epoch
        self.cache = cache
        self.live = live
        self.ledger = ledger
        self.admission = Admission()

    def successor(self, epoch: Epoch, log: ChangeLog[RecordName], cache: Cache[RecordName, bytes]) -> GuardedCache:
        """Make the next guard's cache out of ``cache``, which is what this one still knows for certain (P2.5, P2.7).

        The live objects move along, so the cost of taking over depends on what changed, and not on what is cached; and
        an operation of the dead guard finds no live object here any more (P3.6). The ledger moves along too.
        """
        live, self.live = self.live, {}
        ledger, self.ledger = self.ledger, None
        if not cache.records:
            live = {}
            if ledger is not None:
                ledger.clear()
        if live or ledger is not None:
            for change in log.changes:
                live.pop(change.key, None)
                if ledger is not None and change.key not in cache.records:
                    ledger.drop(change.key)
        return GuardedCache(epoch, cache, live, ledger)

    def fill(self, version: Version, name: RecordName, value: bytes | None) -> None:
        """Remember a record that was loaded from the store at ``version``."""
        known = self.cache
        self.cache = rules.fill(known, version, name, value)
        if self.ledger is not None and self.cache is not known:
            self.ledger.count(name, value, live=False)
            self.forget(self.ledger.excess())

    def install(
        self,
        version: Version,
        writes: Mapping[RecordName, bytes | None],
        live: Mapping[RecordName, object],
        made: Cache[RecordName, bytes] | None = None,
    ) -> None:
        """Take the values of the commit that made ``version``, and its objects back (P5.20).

        ``made`` is the cache with those values, if it was made beforehand from this one. With a ledger it must not be
        given: it may have records that were forgotten meanwhile, and lack others that were counted.
        """
        known = self.cache
        self.cache = rules.install(known, version, writes) if made is None else made
        if self.cache is known:
            return
        for name in writes:
            self.live.pop(name, None)
        self.live.update(live)
        if self.ledger is not None:
            for name, value in writes.items():
                self.ledger.count(name, value, live=name in live)
            self.forget(self.ledger.excess())

    def leave_out(self, version: Version, names: Iterable[RecordName]) -> None:
        """Take the version of a commit that wrote ``names``, but not its values: as if they were forgotten at once.

        This is for commits so large that counting all their records at once would block the event loop.
        """
        self.forget(names)
        self.cache = rules.install(self.cache, version, {})

    def use(self, name: RecordName) -> None:
        """Note that an operation read a record of its snapshot."""
        if self.ledger is not None:
            self.ledger.use(name)

    def take(self, name: RecordName) -> object | None:
        """Hand out the live object of a record, which then belongs to the taker alone (P5.4)."""
        live = self.live.pop(name, None)
        if self.ledger is not None and live is not None:
            self.ledger.count(name, self.cache.records[name], live=False)
        return live

    def forget(self, names: Iterable[RecordName]) -> None:
        """Drop the cached ones of these records, and their live objects. They can be loaded again."""
        cached = [name for name in names if name in self.cache.records]
        if cached:
            self.cache = rules.forget(self.cache, cached)
            for name in cached:
                self.live.pop(name, None)
            if self.ledger is not None:
                self.ledger.records_forgotten += len(cached)
                for name in cached:
                    self.ledger.drop(name)
