"""The lease as one process instance uses it (P1, P2, P7 and P8).

What the instance knows is a ``protocol.guard.Guard``, an immutable value. A function of ``unwedged.protocol`` decides
every change of the guard, and ``LeaseLock._set_guard``, which never awaits, makes the change. The database is accessed
outside of that method, and an answer counts only for the epoch for which it was requested. So a late answer does no
harm.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from unwedged.protocol import cache as cache_rules
from unwedged.protocol import guard as rules
from unwedged.protocol.cache import Cache, ChangeLog
from unwedged.protocol.guard import NO_GUARD, Guard, Stage
from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds, Version
from unwedged.protocol.lease import LONGEST_LEASE_MS, takeable
from unwedged.store import background
from unwedged.store.admission import Admission, Queue, Running
from unwedged.store.arguments import whole_of
from unwedged.store.backend import Backend
from unwedged.store.clock import Clock, Randomness
from unwedged.store.errors import (
    InvalidArgument,
    LeaseLost,
    StoreClosed,
    StoreError,
    StoreReplaced,
    StoreRolledBack,
    UnsupportedSchema,
)
from unwedged.store.guarded_cache import GuardedCache, RecordName
from unwedged.store.offloading import offload
from unwedged.store.row_watch import RowWatch
from unwedged.trace import MOST_LISTED, Field, Trace

Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)


_SHORTEST_LEASE_MS = 3
"""A third of it is a whole millisecond, after which it can be renewed (P8.27)."""

GUARD_ENDS = (LeaseLost, StoreReplaced, StoreRolledBack, UnsupportedSchema)
"""The errors that end a guard, and each operation under it, at any access."""


def why_lost(end: BaseException) -> str:
    """Return the word of the trace format for the reason that ended a guard."""
    if isinstance(end, LeaseLost):
        return "fenced"
    return "files_lost" if isinstance(end, GUARD_ENDS) else "unknown_outcome"


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """How long a lease lasts and what its holder does in the meantime, in milliseconds (P23.1).

    ``duration_ms``: how long a killed process keeps the others waiting, and how long a live one may stand still without
    losing its work. Two seconds is about the shortest time that a busy phone can keep, and about the longest that a
    person waits for a notification.

    ``renew_every_ms``: at most a third of ``duration_ms`` (P8.27), so that one renewal may fail or come late without
    consequences.

    ``idle_after_ms``: a holder releases the lease when no operation began or ended for so long. Taking it again costs
    one write and one read. So a holder keeps it between the operations of one burst, but not between bursts.

    ``overdue_after_ms``: once somebody has waited for so long, a holder whose operations still run no longer renews the
    lease. The operations may continue until the lease ends. So a waiting process gets the lease after this time,
    ``duration_ms`` and two times ``renew_every_ms`` at most, however long operations run; and a short operation on a
    busy machine is not cut off. A commit that ends meanwhile beside a view renews the lease once more (P8.11): then it
    takes up to one ``duration_ms`` longer. If only this process itself waits for so long, that is logged.

    ``turn_ms``: how long a holder serves what waits in its own process before it hands the lease over. If nothing waits
    there, it hands it over at once. Each turn costs a handover and a sync; eight processes that all want the lease get
    it two or three times a second each.
    """

    duration_ms: int = 2000
    renew_every_ms: int = 500
    idle_after_ms: int = 100
    overdue_after_ms: int = 2000
    turn_ms: int = 50

    def __post_init__(self) -> None:
        for name in self.__slots__:
            whole_of(getattr(self, name), f"{name}, in milliseconds,")
        if not _SHORTEST_LEASE_MS <= self.duration_ms <= LONGEST_LEASE_MS:
            raise InvalidArgument(
                f"a lease lasts from {_SHORTEST_LEASE_MS} to {LONGEST_LEASE_MS} ms, not {self.duration_ms}"
            )
        if not 0 < self.renew_every_ms <= self.duration_ms // 3:
            raise InvalidArgument(
                f"a lease of {self.duration_ms} ms is renewed at least every {self.duration_ms // 3} ms"
            )
        if self.idle_after_ms <= 0:
            raise InvalidArgument("an idle holder waits for at least 1 ms")
        if self.overdue_after_ms <= 0:
            raise InvalidArgument("operations are given at least 1 ms to end")
        if not 0 <= self.turn_ms <= self.duration_ms:
            raise InvalidArgument(
                f"a turn lasts from 0 to {self.duration_ms} ms, not {self.turn_ms}: no longer than the lease"
            )


def times_of(value: object) -> LeaseTimes:
    """Return times, or raise ``InvalidArgument``."""
    if not isinstance(value, LeaseTimes):
        raise InvalidArgument(f"times are LeaseTimes, not a {type(value).__name__}")
    return value


class LeaseLock:
    """The guard of one process instance, and the only place that decides about it.

    ``read_log`` reads the change log after a version, fenced by an epoch. ``on_synced`` is called with each log that
    the cache was synced by. ``instance`` must be a number that no other process instance has or had.
    """

    def __init__(
        self,
        backend: Backend,
        instance: InstanceId,
        label: str,
        *,
        times: LeaseTimes,
        clock: Clock,
        randomness: Randomness,
        guarded: GuardedCache,
        read_log: Callable[[Version, Epoch], Awaitable[ChangeLog[RecordName]]],
        on_synced: Callable[[ChangeLog[RecordName]], None],
        trace: Trace | None = None,
    ) -> None:
        self.instance = instance
        self.label = label
        self.times = times
        self.guard = NO_GUARD
        self.guarded = guarded
        """The cache of the guard, or of the last one: the next cache is made from it."""
        self.leases_acquired = 0
        self.leases_lost = 0
        self.invalidations = 0
        self.records_dropped = 0
        self._backend = backend
        self._clock = clock
        self._read_log = read_log
        self._on_synced = on_synced
        self._trace = trace
        self._activity = 0
        self._draining_since = Milliseconds(0)
        self._transactions: Queue[GuardedCache] = Queue()
        self._views: Queue[GuardedCache] = Queue()
        self._held_since = Milliseconds(0)
        self._draining_ms: Milliseconds | None = None
        """For how long the guard had been draining at the last look, if the code of an operation still ran then."""
        self._in_the_way: dict[Running, Milliseconds] = {}
        """The operations that something in this process waits for, and since when, by the looks of a task."""
        self._holdup_told = False
        self._waiter_seen_under: Epoch | None = None
        """The epoch under which this instance has learnt that somebody waits. It is noted when its turn is over."""
        self._handed_over: Epoch | None = None
        """The epoch whose lease was handed over because somebody waited, until this instance wants the lease again."""
        self._watch = RowWatch(instance, randomness)
        self._closed = False
        self._admitting_paused = False
        self._acquiring = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._row = asyncio.Lock()
        """Taking the lease and releasing it do not overlap (P1.10): otherwise the one could undo the other."""
        self._unguarded = asyncio.Event()
        self._unguarded.set()
        self._guarded = asyncio.Event()

    def __repr__(self) -> str:
        return (
            f"<LeaseLock {self.label!r} instance={self.instance} {self.guard.stage.value} epoch={self.guard.epoch} "
            f"version={self.guarded.cache.version} running={self.guarded.admission.running}>"
        )

    # Operations

    async def begin_view(self) -> GuardedCache:
        """Wait until a view may begin: beside other operations, but not during a commit of this process (P5.15)."""
        return await self._begin(self._views, Admission.admits_view, Admission.begin_view, self.end_view)

    async def begin_transaction(self) -> GuardedCache:
        """Wait until a transaction may begin: no other one runs under this guard until it ends (P5.1)."""
        return await self._begin(
            self._transactions, Admission.admits_transaction, Admission.begin_transaction, self.end_transaction
        )

    def end_view(self, guarded: GuardedCache) -> None:
        """Note that a view has ended."""
        guarded.admission.end_view()
        self._operation_ended()

    def end_transaction(self, guarded: GuardedCache) -> None:
        """Note that a transaction has ended, and let the next one begin."""
        guarded.admission.end_transaction()
        self._operation_ended()

    # P5.17
    def may_release(self, guarded: GuardedCache) -> bool:
        """Return whether a commit that begins now is the last of its turn, so that it may release a wanted lease."""
        return guarded.admission.running == 1 and not self._turn_continues()

    async def _begin(
        self,
        queue: Queue[GuardedCache],
        admits: Callable[[Admission], bool],
        begin: Callable[[Admission], None],
        end: Callable[[GuardedCache], None],
    ) -> GuardedCache:
        """Wait until the operation may begin. Does not switch tasks if it may begin at once."""
        if self._closed:
            raise StoreClosed("the store was closed")
        guarded = self.guarded
        if not (queue or self._admitting_paused) and rules.admits(self.guard) and admits(guarded.admission):
            begin(guarded.admission)
            self._activity += 1
            return guarded
        place = queue.join()
        self._let_begin()
        try:
            return await place
        except asyncio.CancelledError:
            queue.leave(place)
            if place.done() and not place.cancelled() and place.exception() is None:
                end(place.result())  # It was cancelled at the very moment at which it began.
            else:
                self._proceed()  # The turn is over if nothing else waits here.
            raise

    def _operation_ended(self) -> None:
        self._activity += 1
        self._proceed()

    def _proceed(self) -> None:
        """Do what is possible now: note that the turn is over, release the lease, or let operations begin."""
        if self._waiter_seen_under == self.guard.epoch and not self._turn_continues():
            noted = rules.waiter_noted(self.guard, self.guard.epoch, wanted=True)
            if noted != self.guard:
                self._set_guard(noted)
                return
        running = self.guarded.admission.running
        if self.guard.stage in (Stage.DRAINING, Stage.EXPIRING) and rules.releasable(self.guard, running):
            self.begin_release()
        self._let_begin()

    def _let_begin(self) -> None:
        """Let operations begin that may, and if none may, ask for the lease."""
        if self._admitting_paused or not self._waiting:
            return
        if rules.admits(self.guard):
            guarded, admission = self.guarded, self.guarded.admission
            while admission.admits_view() and self._views.let_begin(guarded):
                admission.begin_view()
                self._activity += 1
            if admission.admits_transaction() and self._transactions.let_begin(guarded):
                admission.begin_transaction()
                self._activity += 1
        elif not self._acquiring:
            self._acquiring = True
            self._start(self._acquire())

    # P8.4
    def _turn_continues(self) -> bool:
        """Return whether the turn goes on although another process waits: for a while, if operations wait here too."""
        return self._waiting > 0 and 0 <= self._now() - self._held_since < self.times.turn_ms

    def _now(self) -> Milliseconds:
        return Milliseconds(self._clock.now())

    @property
    def _waiting(self) -> int:
        return len(self._transactions) + len(self._views)

    # What happened to the guard

    def stands(self, epoch: Epoch) -> bool:
        """Return whether the guard of ``epoch`` still stands, as far as this process knows."""
        return rules.stands(self.guard, epoch)

    def note_waiter(self, epoch: Epoch, wanted: bool) -> None:
        """Note what the lease row said under ``epoch``: whether somebody waits."""
        if rules.waiter_noted(self.guard, epoch, wanted) != self.guard:
            self._waiter_seen_under = epoch
            self._proceed()

    def waiter_fields(self, epoch: Epoch, wanted: bool) -> dict[str, Field]:
        """Return what a line of the trace says of a waiter: whether there is one, and then how long the turn lasts."""
        held = {"held_ms": self._now() - self._held_since} if wanted and self.stands(epoch) else {}
        return {"wanted": wanted, **held}

    def released(self, epoch: Epoch) -> None:
        """Note that a commit under ``epoch`` released the lease, since somebody waits: the guard is dead (P8.20)."""
        before = self.guard
        released = before.epoch == epoch and before != NO_GUARD
        if released or (before == NO_GUARD and self._handed_over is None):  # A renewal may have learnt it first.
            self._handed_over = epoch
        self._set_guard(rules.lost(before, epoch))
        if released:
            logger.info("lease released label=%s epoch=%d", self.label, epoch)

    def lost(self, epoch: Epoch, why: str = "fenced") -> None:
        """Note that the guard of ``epoch`` is dead; the trace gets the reason."""
        before = self.guard
        self._set_guard(rules.lost(before, epoch))  # first: the trace and the log may fail
        if before.epoch == epoch and before != NO_GUARD:
            self.leases_lost += 1
            if self._trace is not None:
                self.guarded.admission.guard_ended_after = self._trace.lines
                self._trace.note("lose_guard", epoch=epoch, why=why)
            logger.info("lease lost label=%s epoch=%d version=%d", self.label, epoch, self.guarded.cache.version)

    async def fenced(self, epoch: Epoch, access: Awaitable[Answer]) -> Answer:
        """Await an access to the database for ``epoch``; if the fence stops it, that guard is dead (P4.3).

        The guard also ends if the files were replaced, are an older copy, or have a newer schema (P5.23).
        """
        try:
            return await access
        except GUARD_ENDS as ends:
            self.lost(epoch, why_lost(ends))
            raise

    def _set_guard(self, guard: Guard) -> None:
        """Set the guard that the protocol decided on, and wake what waits for it."""
        if guard == self.guard:
            return
        self._draining_ms = None
        if guard.stage is Stage.DRAINING:
            self._draining_since = self._now()
        self.guard = guard
        if guard == NO_GUARD:
            self._guarded.clear()
            self._unguarded.set()
        else:
            self._unguarded.clear()
            self._guarded.set()
        self._proceed()

    # Single steps; the tasks below make them at their times

    async def acquire_now(self) -> bool:
        """Try once to take the lease and to sync. Return whether operations may begin now.

        If another instance holds the lease, ``wanted`` is set in its row.
        """
        async with self._row:
            if self.guard != NO_GUARD:
                return rules.admits(self.guard)
            now, duration = self._now(), Milliseconds(self.times.duration_ms)
            lease = await self._backend.acquire(self.instance, self.label, now, duration)
            if lease.holder != self.instance:
                logger.debug("lease wanted label=%s epoch=%d", self.label, lease.epoch)
                if self._trace is not None:
                    self._trace.note("want", epoch=lease.epoch, left_ms=lease.expires - now)
                return False
            self._set_guard(rules.taken(lease.epoch))  # first: the trace and the log may fail
            self.leases_acquired += 1
            self._watch.took(lease.epoch)
            try:
                if self._trace is not None:
                    self._trace.note("acquire", epoch=lease.epoch)
                logger.info("lease acquired label=%s epoch=%d", self.label, lease.epoch)
                await self.sync_cache(lease.epoch)
            except LeaseLost:
                self.lost(lease.epoch)
                raise
            except BaseException:
                await self._end_guard_and_release(lease.epoch, "sync_failed")
                raise
            return rules.admits(self.guard)

    async def sync_cache(self, epoch: Epoch) -> None:
        """Bring the cache up to date under ``epoch``. Only then may operations begin (P2.2 to P2.4)."""
        since = self.guarded.cache
        log = await self._read_log(since.version, epoch)
        if log.version < since.version:
            raise StoreRolledBack(
                f"the store is at version {log.version}, and was at {since.version}: an older copy was put back"
            )
        # Nobody can change the old cache while this one is made: no operation stands.
        synced = await offload(len(log.changes), partial(cache_rules.sync, since, log))
        if self.guard != rules.taken(epoch):
            raise LeaseLost(f"the lease of epoch {epoch} was lost before its sync was done")
        dropped, kept = len(since.records) - len(synced.records), len(synced.records)
        logger.info(  # before anything changes: the log may fail, and then the sync has failed (P2.10)
            "cache synced label=%s epoch=%d version=%d since=%d dropped=%d kept=%d",
            *(self.label, epoch, log.version, since.version, dropped, kept),
        )
        self._held_since = self._now()  # The clock may fail too.
        self.guarded = self.guarded.successor(epoch, log, synced)
        if log.version != since.version:
            self.invalidations += 1
            self.records_dropped += dropped
        try:
            if self._trace is not None:
                self._note_sync(self._trace, since, log)
            self._activity += 1
            self._set_guard(rules.synced(self.guard, epoch))
        finally:  # A signal may arrive here. The next sync begins at this version (P9.2).
            self._on_synced(log)

    def _note_sync(self, trace: Trace, since: Cache[RecordName, bytes], log: ChangeLog[RecordName]) -> None:
        """Write the trace line of a sync: both versions, and the records that the log names and that were dropped."""
        kept = self.guarded.cache.records
        changed = log.changes[:MOST_LISTED]
        trace.note(
            "sync",
            epoch=self.guarded.epoch,
            since=since.version,
            version=log.version,
            floor=log.floor,
            changed=trace.records(change.key for change in changed),
            changed_in=[change.version for change in changed],
            dropped=trace.records(
                dict.fromkeys(c.key for c in changed if c.key in since.records and c.key not in kept)
            ),
            unlisted=len(log.changes) - len(changed),
            kept=len(kept),
        )

    async def _end_guard_and_release(self, epoch: Epoch, why: str = "abandoned") -> None:
        """End a guard and release its lease: its sync failed, or its operations were abandoned (P2.11, P8.17)."""
        step = "release"
        try:
            self.lost(epoch, why)
        finally:  # The trace and the log may fail.
            try:
                await self._release_row(epoch)
                step = "look after the release"
                lease = await self._backend.look()
            except StoreError as failure:  # Nothing is lost but time: the lease expires.
                logger.warning("%s failed label=%s epoch=%d: %s", step, self.label, epoch, failure)
            else:
                if lease.wanted:
                    self._handed_over = epoch

    # P8.11, P8.12, P8.13, P8.14
    def stop_renewing_if_overdue(self) -> None:
        """Stop renewing if somebody has waited for too long and the code of an operation still runs."""
        now, epoch = self._now(), self.guard.epoch
        running = [operation for operation in self.guarded.admission.operations if not operation.ended]
        self._draining_since = min(self._draining_since, now)  # After the clock was set back, the time counts anew.
        draining_ms = Milliseconds(now - self._draining_since)
        self._draining_ms = draining_ms if running and self.guard.stage is Stage.DRAINING else None
        if not running or draining_ms <= self.times.overdue_after_ms:
            return
        expiring = rules.overdue(self.guard, epoch)
        if expiring != self.guard:
            self._set_guard(expiring)  # first: the log may fail
            logger.warning(
                "another process waits for the lease, which is no longer renewed: operations do not end "
                "label=%s epoch=%d: %s",
                *(self.label, epoch),
                ", ".join(
                    f"{operation.name} ({now - min(operation.began_ms, self._draining_since)} ms)"
                    for operation in running
                ),
            )

    # P8.14
    def warn_if_held_up(self) -> None:
        """Log once that something in this process has waited for too long for operations whose code still runs."""
        now, times = self._now(), self._in_the_way
        all_wait = self._closed or self._admitting_paused
        self._in_the_way = {
            operation: min(times.get(operation, now), now)  # After the clock was set back, the time counts anew.
            for operation in self.guarded.admission.operations
            if rules.admits(self.guard) and not operation.ended
            if all_wait or (self._transactions and operation.mode == "transaction")
        }
        held_up = [
            f"{operation.name} ({now - min(operation.began_ms, since)} ms)"
            for operation, since in self._in_the_way.items()
            if now - since > self.times.overdue_after_ms
        ]
        told, self._holdup_told = self._holdup_told, bool(held_up)  # first: the log may fail
        if held_up and not told:
            logger.warning(
                "closing, pausing or a transaction of this process waits: operations do not end label=%s epoch=%d: %s",
                *(self.label, self.guard.epoch),
                ", ".join(held_up),
            )

    # P8.15
    async def end_if_expired(self) -> None:
        """End a guard whose lease is no longer renewed, once its time is up: what waits here may then ask anew."""
        epoch = self.guard.epoch
        try:
            lease = await self.fenced(epoch, self._backend.check(epoch))
        except LeaseLost:
            return
        now = self._now()
        if not now < lease.expires <= now + LONGEST_LEASE_MS:  # Others may take it (P1.2).
            self.lost(epoch, "expired")

    # P1.7, P1.8
    async def renew_now(self) -> None:
        """Renew the lease once, if there is a guard; learn that somebody waits, or that the guard is dead."""
        epoch = self.guard.epoch
        if self.guard.stage in (Stage.NONE, Stage.EXPIRING):
            return
        try:
            lease = await self.fenced(
                epoch, self._backend.renew(epoch, self._now(), Milliseconds(self.times.duration_ms))
            )
        except LeaseLost:
            return  # It is in the program's log, and the fence stops all operations of the guard.
        if self._trace is not None:
            draining: dict[str, Field] = {} if self._draining_ms is None else {"draining_ms": self._draining_ms}
            self._trace.note("renew", epoch=epoch, **self.waiter_fields(epoch, lease.wanted), **draining)
        self.note_waiter(epoch, lease.wanted)

    async def release_now(self) -> None:
        """Release the lease, if no operation runs. The guard dies before the row is free for others (P8.18)."""
        async with self._row:
            guard = self.guard
            if not rules.releasable(guard, self.guarded.admission.running):
                return
            self._handed_over = guard.epoch if guard.stage in (Stage.DRAINING, Stage.EXPIRING) else None
            self._set_guard(rules.lost(guard, guard.epoch))
            await self._release_row(guard.epoch)
            logger.info("lease released label=%s epoch=%d", self.label, guard.epoch)

    async def _release_row(self, epoch: Epoch) -> None:
        try:
            await self._backend.release(epoch)
        except BaseException:
            if self._trace is not None:
                self._trace.note("lose_guard", epoch=epoch, why="release_failed")
            raise
        if self._trace is not None:
            self._trace.note("release", epoch=epoch)

    # Tasks

    def start(self) -> None:
        """Start to renew and to release at intervals."""
        self._start(self._keep_renewing())
        self._start(self._release_when_idle())

    def begin_release(self) -> None:
        """Release in a task of its own."""
        self._start(self._release())

    async def stop(self) -> None:
        """Release the lease, and end the tasks. The fence stops what still runs."""
        async with self._row:  # so that no task is cancelled between the row and the guard that it is about
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._release()
        if self.guard != NO_GUARD:  # Operations still run that were abandoned.
            await self._end_guard_and_release(self.guard.epoch)

    def pause_admitting(self) -> None:
        """Let no operation begin for now; operations that wait continue to wait."""
        self._admitting_paused = True

    def resume_admitting(self) -> None:
        """Let operations begin again."""
        self._admitting_paused = False
        self._proceed()

    def stop_admitting(self) -> None:
        """Admit no further operation, and make those that wait fail."""
        self._closed = True
        self._refuse(StoreClosed("the store was closed"))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._untrack)

    def _untrack(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (failure := task.exception()) is None:
            return
        if isinstance(failure, StoreError):
            with suppress(Exception):  # The loop would log an exception of the log, and end.
                logger.warning("asking for the lease failed label=%s: %s", self.label, failure)
        else:
            background.report(self.label, failure)

    async def _acquire(self) -> None:
        """Ask for the lease until it is held or no operation waits for it.

        This runs in a task of its own for all operations that wait: if one of them is cancelled, the others are not
        affected (P1.11). If it fails, all of them get the error and stop waiting (P2.12).
        """
        try:
            await self._ask()
        except Exception as failure:
            if not self._refuse(failure):
                raise
        finally:
            self._acquiring = False

    async def _ask(self) -> None:
        """Look at the row until it can be taken, and set ``wanted`` in it (P8.21, P8.22)."""
        watch = self._watch
        watch.begin()
        while True:
            await self._unguarded.wait()
            if not self._waiting:
                return
            lease = await self._backend.look()
            if self._admitting_paused:  # If something still waits when that ends, it asks anew (P19.1).
                return
            if self._handed_over is not None:
                watch.stand_back(self._handed_over)
                self._handed_over = None
            free = takeable(lease, self.instance, self._now())
            # Asking takes the lease or sets ``wanted``. If that is set already, it would write for nothing.
            if watch.saw(lease, free=free) and (free or not lease.wanted):
                try:
                    if await self.acquire_now():
                        return
                except LeaseLost:
                    continue  # it expired during the sync, and somebody took it (P2.13)
            if pause := watch.pause():
                await self._clock.sleep(pause)

    def _refuse(self, reason: Exception) -> int:
        return self._transactions.refuse(reason) + self._views.refuse(reason)

    async def _keep_renewing(self) -> None:
        while True:
            await self._guarded.wait()
            await background.sleep(self._clock, self.times.renew_every_ms, self.label)
            with background.outlived(self.label):
                await self._renew_or_let_expire()

    async def _renew_or_let_expire(self) -> None:
        self.stop_renewing_if_overdue()
        self.warn_if_held_up()
        if self.guarded.admission.committing:
            return  # A commit renews the lease itself, and until it is done nobody else can write (P8.27).
        try:
            await (self.end_if_expired() if self.guard.stage is Stage.EXPIRING else self.renew_now())
        except StoreError as failure:
            logger.warning("renewal failed label=%s epoch=%d: %s", self.label, self.guard.epoch, failure)

    async def _release_when_idle(self) -> None:
        while True:
            await self._guarded.wait()
            before = self._activity
            await background.sleep(self._clock, self.times.idle_after_ms, self.label)
            if before == self._activity:
                with background.outlived(self.label):
                    await self._release()

    async def _release(self) -> None:
        try:
            await self.release_now()
        except StoreError as failure:  # Nothing is lost but time: the lease expires.
            logger.warning("release failed label=%s: %s", self.label, failure)
