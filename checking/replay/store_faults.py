"""Inject the faults of ``tla/CryptoStoreCache.tla`` into the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from rpds import HashTrieMap

from checking.replay.counters import COUNTER
from checking.replay.substitutions import Fault, Substitution
from checking.replay.world import World
from unwedged.protocol import cache as cache_rules
from unwedged.protocol import stream as stream_rules
from unwedged.protocol.cache import Cache, ChangeLog
from unwedged.protocol.guard import Guard, Stage
from unwedged.protocol.identifiers import Epoch, Milliseconds, Version
from unwedged.protocol.lease import Lease
from unwedged.store import statements
from unwedged.store.admission import Admission
from unwedged.store.backend import Committed, Loaded, Row, RowName
from unwedged.store.crypto_store import CryptoStore
from unwedged.store.errors import StoreBusy
from unwedged.store.guarded_cache import GuardedCache, RecordName
from unwedged.store.lock import LeaseLock
from unwedged.store.sealed_records import Batch
from unwedged.store.sqlite import SqliteBackend
from unwedged.store.transactions import Operation, TransactionOperation

_LAST_VERSION = Version(2**31)


def _stale_account_overwrite(_: World) -> Sequence[Substitution]:
    """An object is kept outside of the cache, so no invalidation drops it."""
    kept: dict[tuple[int, RecordName], bytes | None] = {}
    is_at_hand, load = Operation._is_at_hand, Operation._load

    def is_kept(self: Operation, name: RecordName) -> bool:
        place = (id(self._services), name)
        if place not in kept:
            if not is_at_hand(self, name):
                return False
            kept[place] = self.snapshot.records[name]
        self.snapshot = replace(self.snapshot, records=self.snapshot.records.insert(name, kept[place]))
        self._guarded.live.pop(name, None)
        return True

    async def keep(self: Operation, name: RecordName) -> None:
        await load(self, name)
        kept[id(self._services), name] = self.snapshot.records[name]

    return [(Operation, "_is_at_hand", is_kept), (Operation, "_load", keep)]


def _session_cache_survives(world: World) -> Sequence[Substitution]:
    """A second cache, of one kind of record, is not invalidated."""
    sync = cache_rules.sync
    survivor = RecordName(COUNTER.name, world.records[0].encode())

    def forget_one(cache: Cache[RecordName, bytes], log: ChangeLog[RecordName]) -> Cache[RecordName, bytes]:
        synced = sync(cache, log)
        if survivor not in cache.records:
            return synced
        return replace(synced, records=synced.records.insert(survivor, cache.records[survivor]))

    return [(cache_rules, "sync", forget_one)]


def _generation_in_machine(_: World) -> Sequence[Substitution]:
    """An invalidation also drops the version, so each sync finds that everything has changed."""

    def start_over(cache: Cache[RecordName, bytes], log: ChangeLog[RecordName]) -> Cache[RecordName, bytes]:
        return cache_rules.empty(log.version)

    return [(cache_rules, "sync", start_over)]


def _two_live_copies(_: World) -> Sequence[Substitution]:
    """Two transactions of one guard run at the same time, each with its own copy."""
    return [
        (LeaseLock, "begin_transaction", LeaseLock.begin_view),
        (LeaseLock, "end_transaction", LeaseLock.end_view),
        (Admission, "begin_commit", lambda admission: None),
    ]


def _first_acquire_is_clean(world: World) -> Sequence[Substitution]:
    """Caches are filled before the first acquisition, which does not invalidate them."""
    sync = cache_rules.sync

    def loaded_early(opened: World) -> None:
        records = {RecordName(COUNTER.name, record.encode()): None for record in opened.records}
        for process in opened.processes.values():
            process.store.lock.guarded.cache = Cache(Version(0), HashTrieMap(records))

    def trust(cache: Cache[RecordName, bytes], log: ChangeLog[RecordName]) -> Cache[RecordName, bytes]:
        return replace(cache, version=log.version) if cache.version == 0 else sync(cache, log)

    return [(world, "on_reset", loaded_early), (cache_rules, "sync", trust)]


def _usable_before_the_reload(note: Callable[[Cache[RecordName, bytes]], Cache[RecordName, bytes]]) -> Substitution:
    async def sync_cache(self: LeaseLock, epoch: Epoch) -> None:
        before = self.guarded
        self.guarded = GuardedCache(epoch, note(before.cache), before.live)
        self._set_guard(Guard(Stage.HELD, epoch))
        log = await self._read_log(before.cache.version, epoch)
        self.guarded.cache = cache_rules.sync(before.cache, log)
        if self._trace is not None:
            self._note_sync(self._trace, before.cache, log)

    return (LeaseLock, "sync_cache", sync_cache)


def _dirty_hidden_from_reentrant(_: World) -> Sequence[Substitution]:
    """While one task reloads the cache, the next task already uses it."""
    return [_usable_before_the_reload(lambda cache: cache)]


def _reload_race(world: World) -> Sequence[Substitution]:
    """The new version is noted before the reload, so the next task finds the version up to date."""
    return [_usable_before_the_reload(lambda cache: replace(cache, version=Version(world.database.state().version)))]


def _reload_failure_swallowed(world: World) -> Sequence[Substitution]:
    """The new version is noted, and then the reload fails."""
    sync_cache = LeaseLock.sync_cache

    async def note_first(self: LeaseLock, epoch: Epoch) -> None:
        try:
            await sync_cache(self, epoch)
        except StoreBusy:
            self.guarded.cache = replace(self.guarded.cache, version=Version(world.database.state().version))
            raise

    return [(LeaseLock, "sync_cache", note_first)]


def _unfenced_commit(world: World) -> Substitution:
    """Return a commit that does not check the fence and does not renew the lease."""
    fenced = SqliteBackend.commit

    async def commit(
        self: SqliteBackend,
        epoch: Epoch,
        rows: Sequence[Row],
        now: Milliseconds,
        duration: Milliseconds,
        *,
        may_release: bool,
    ) -> Committed:
        with world.database.as_holder(epoch):
            return await fenced(self, epoch, rows, now, duration, may_release=may_release)

    return (SqliteBackend, "commit", commit)


def _unfenced_sql(name: str) -> Substitution:
    """Return a statement without its fence."""
    return (statements, name, getattr(statements, name).replace(statements.FENCE, "TRUE"))


def _lease_lapses_unfenced(world: World) -> Sequence[Substitution]:
    """A commit does not check whether the lease is still held."""
    return [_unfenced_commit(world)]


def _save_without_lock(world: World) -> Sequence[Substitution]:
    """A code path reads and writes without the lock."""

    async def begin(self: LeaseLock) -> GuardedCache:
        return (
            self.guarded
            if self.guard.stage is not Stage.NONE
            else GuardedCache(Epoch(0), cache_rules.empty(_LAST_VERSION), {})
        )

    def end(self: LeaseLock, guarded: GuardedCache) -> None:
        """Do nothing: the operation was not counted."""

    return [
        (LeaseLock, "begin_transaction", begin),
        (LeaseLock, "end_transaction", end),
        _unfenced_sql("LOAD"),
        _unfenced_commit(world),
    ]


def _late_version(world: World) -> Sequence[Substitution]:
    """After a commit, the version is read from the database, where another process may have committed since."""

    def install(
        self: GuardedCache,
        _: Version,
        writes: Mapping[RecordName, bytes | None],
        live: Mapping[RecordName, object],
        made: None,
    ) -> None:
        records = self.cache.records
        for name, value in writes.items():
            records = records.insert(name, value)
        self.cache = Cache(Version(world.database.state().version), records)

    return [(GuardedCache, "install", install)]


def _unfenced_load(_: World) -> Sequence[Substitution]:
    """A cache miss is filled with the current value in the database, of whichever version."""
    fenced = SqliteBackend.load

    async def load(self: SqliteBackend, epoch: Epoch, row: RowName, since: Version) -> Loaded:
        return replace(await fenced(self, epoch, row, since), changed=False)

    return [_unfenced_sql("LOAD"), (SqliteBackend, "load", load)]


def _cache_before_commit(_: World) -> Sequence[Substitution]:
    """The cache gets the new values before the commit, and keeps them if the commit fails."""
    end = TransactionOperation.end

    def keep(self: TransactionOperation) -> None:
        end(self)
        if self.committed is None:
            for name, write in self._writes.items():
                value = None if write is None else write()
                self._guarded.cache = replace(
                    self._guarded.cache, records=self._guarded.cache.records.insert(name, value)
                )

    return [(TransactionOperation, "end", keep)]


def _partial_list(_: World) -> Sequence[Substitution]:
    """A record that is added to a list that was never loaded becomes the whole cached list."""
    install = GuardedCache.install

    def only_the_new(
        self: GuardedCache,
        version: Version,
        writes: Mapping[RecordName, bytes | None],
        live: Mapping[RecordName, object],
        made: None,
    ) -> None:
        seen = {name: value if name in self.cache.records else b"1" for name, value in writes.items()}
        install(self, version, seen, {name: thing for name, thing in live.items() if name in self.cache.records})
        self.live.clear()

    return [(GuardedCache, "fill", lambda self, version, name, value: None), (GuardedCache, "install", only_the_new)]


def _live_reference_survives(_: World) -> Sequence[Substitution]:
    """An object from before an invalidation is saved under the guard that the process has now."""
    persist = TransactionOperation._persist

    async def under_the_present_guard(self: TransactionOperation, batch: Batch) -> Committed:
        self.epoch = self._services.lock.guard.epoch
        return await persist(self, batch)

    return [(TransactionOperation, "_persist", under_the_present_guard)]


def _cancelled_commit(_: World) -> Sequence[Substitution]:
    """A cancelled caller counts its commit as failed, but the commit takes effect."""

    async def commit(self: TransactionOperation) -> None:
        self.ended = True
        await self._commit(await self._batch())

    async def persist(self: TransactionOperation, batch: Batch) -> Committed:
        services, may_release = self._services, self._services.lock.may_release(self._guarded)
        now, duration = Milliseconds(services.clock.now()), Milliseconds(services.lock.times.duration_ms)
        return await services.records.commit(self.epoch, batch, now, duration, may_release=may_release)

    return [(TransactionOperation, "finish", commit), (TransactionOperation, "_persist", persist)]


def _streams_lost(world: World) -> Sequence[Substitution]:
    """Subscribers are attached to an object that an invalidation drops."""
    successor = GuardedCache.successor
    cut: set[str] = set()

    def cut_off(
        self: GuardedCache, epoch: Epoch, log: ChangeLog[RecordName], cache: Cache[RecordName, bytes]
    ) -> GuardedCache:
        after = successor(self, epoch, log, cache)
        if len(after.cache.records) < len(self.cache.records):
            for process in world.processes.values():
                if process.store.lock.guarded is self and process.subscriber is not None and process.name not in cut:
                    cut.add(process.name)
                    process.store.streams.remove(process.subscriber)
        return after

    return [(GuardedCache, "successor", cut_off)]


def _foreign_writes_unseen(_: World) -> Sequence[Substitution]:
    """A process's subscribers do not get the changes of other processes."""
    sync_cache = LeaseLock.sync_cache

    async def unpublished(self: LeaseLock, epoch: Epoch) -> None:
        self._on_synced = lambda log: None
        await sync_cache(self, epoch)

    async def ignore(self: CryptoStore) -> None:
        """Do nothing."""

    return [(LeaseLock, "sync_cache", unpublished), (CryptoStore, "_publish_foreign_commits", ignore)]


def _unvalidated_view(_: World) -> Sequence[Substitution]:
    """A view answers without checking that its epoch still holds the lease."""
    return [_unfenced_sql("CHECK")]


def _stale_failure_believed(_: World) -> Sequence[Substitution]:
    """A failed operation is answered without checking that its epoch still holds the lease."""
    confirm, check = Operation.confirm, SqliteBackend.check
    failed: set[Epoch] = set()

    async def believe(self: Operation, failure: Exception) -> None:
        failed.add(self.epoch)
        await confirm(self, failure)

    async def ask(self: SqliteBackend, epoch: Epoch) -> Lease:
        return await self.look() if epoch in failed else await check(self, epoch)

    return [(Operation, "confirm", believe), (SqliteBackend, "check", ask)]


def _floor_ignored_at_sync(_: World) -> Sequence[Substitution]:
    """A cache is synced with a truncated change log as if it were complete."""
    return [(cache_rules, "reaches", lambda floor, since: True)]


def _floor_ignored_at_load(_: World) -> Sequence[Substitution]:
    """A record is loaded unless the truncated change log names it, as if the log were complete."""
    return [(statements, "LOAD", statements.LOAD.replace("floor > :since OR ", ""))]


def _floor_ignored_in_stream(_: World) -> Sequence[Substitution]:
    """A subscriber gets the rest of a truncated change log as if it were complete."""
    return [(stream_rules, "reaches", lambda floor, since: True)]


STORE_FAULTS: Mapping[str, Fault] = {
    "stale-account-overwrite": _stale_account_overwrite,
    "session-cache-survives": _session_cache_survives,
    "generation-in-machine": _generation_in_machine,
    "two-live-copies": _two_live_copies,
    "first-acquire-is-clean": _first_acquire_is_clean,
    "dirty-hidden-from-reentrant": _dirty_hidden_from_reentrant,
    "lease-lapses-unfenced": _lease_lapses_unfenced,
    "save-without-lock": _save_without_lock,
    "reload-failure-swallowed": _reload_failure_swallowed,
    "reload-race": _reload_race,
    "late-version": _late_version,
    "unfenced-load": _unfenced_load,
    "cache-before-commit": _cache_before_commit,
    "partial-list": _partial_list,
    "live-reference-survives": _live_reference_survives,
    "cancelled-commit": _cancelled_commit,
    "streams-lost": _streams_lost,
    "foreign-writes-unseen": _foreign_writes_unseen,
    "unvalidated-view": _unvalidated_view,
    "stale-failure-believed": _stale_failure_believed,
    "floor-ignored-at-sync": _floor_ignored_at_sync,
    "floor-ignored-at-load": _floor_ignored_at_load,
    "floor-ignored-in-stream": _floor_ignored_in_stream,
}
