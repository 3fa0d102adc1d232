"""What one process instance knows about its own right to use the store (P0.7 to P0.9).

::

            taken            synced       waiter_noted(wanted)    overdue
    NONE  ---------> SYNCING ------> HELD --------> DRAINING ---------> EXPIRING
      ^                 |              |                |                  |
      '-----------------'--------------'----------------'------ lost ------'

A guard is bound to one epoch. An answer about another epoch (of a renewal that was under way while the lease changed
hands) never changes it. The same operators in ``tla/Lease.tla``: ``Taken``, ``Synced``, ``WaiterNoted``, ``Overdue``,
``Lost``, ``Admits``, ``Stands``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from unwedged.protocol.identifiers import Epoch


class Stage(Enum):
    """The stages of a process instance on the way to using the store."""

    NONE = "none"
    """It has no guard."""
    SYNCING = "syncing"
    """It took the lease; its cache may be stale, so no operation may use it yet (P2.1)."""
    HELD = "held"
    """Operations may begin."""
    DRAINING = "draining"
    """Another process waits: running operations may finish, and no new one begins (P8.7)."""
    EXPIRING = "expiring"
    """Another process has waited too long. Running operations may finish while the lease lasts; it is not renewed."""


@dataclass(frozen=True, slots=True)
class Guard:
    """The right to use the cache, bound to one ``epoch`` (0 if there is none)."""

    stage: Stage
    epoch: Epoch


NO_GUARD = Guard(Stage.NONE, Epoch(0))


def taken(epoch: Epoch) -> Guard:
    """Note that the lease was acquired at ``epoch``: until the sync is done, it allows nothing but the sync (P1.5).

    post: (_.stage, _.epoch) == (Stage.SYNCING, epoch)  # it syncs under the epoch
    post: not admits(_) and not stands(_, epoch)  # nothing may use the cache yet
    """
    return Guard(Stage.SYNCING, epoch)


def synced(guard: Guard, epoch: Epoch) -> Guard:
    """Note that the cache is up to date under ``epoch``: only now may operations begin (P2.4).

    post: _.epoch == guard.epoch  # the epoch stays
    post: guard.epoch == epoch or _ == guard  # a guard of another epoch is left alone
    post: _ == guard or (guard.stage, _.stage) == (Stage.SYNCING, Stage.HELD)  # only a syncing guard changes, to held
    post: implies(guard == Guard(Stage.SYNCING, epoch), admits(_))  # operations may begin
    """
    if guard == Guard(Stage.SYNCING, epoch):
        return replace(guard, stage=Stage.HELD)
    return guard


def waiter_noted(guard: Guard, epoch: Epoch, wanted: bool) -> Guard:
    """Note whether somebody waits, as a renewal, a commit or a check under ``epoch`` has returned (P8.2).

    post: _.epoch == guard.epoch  # the epoch stays
    post: wanted and guard.epoch == epoch or _ == guard  # nothing changes unless somebody waits for this epoch's holder
    post: _ == guard or (guard.stage, _.stage) == (Stage.HELD, Stage.DRAINING)  # only a held guard changes, to draining
    post: implies(wanted and guard.epoch == epoch, not admits(_))  # nothing new begins where somebody waits
    post: implies(stands(guard, epoch), stands(_, epoch))  # what runs may finish
    """
    if wanted and guard == Guard(Stage.HELD, epoch):
        return replace(guard, stage=Stage.DRAINING)
    return guard


def overdue(guard: Guard, epoch: Epoch) -> Guard:
    """Note that somebody has waited for longer than running operations under ``epoch`` may take to end (P8.11).

    post: _.epoch == guard.epoch  # the epoch stays
    post: guard.epoch == epoch or _ == guard  # a guard of another epoch is left alone
    post: _ == guard or (guard.stage, _.stage) == (Stage.DRAINING, Stage.EXPIRING)  # only a draining guard changes
    post: implies(guard == Guard(Stage.DRAINING, epoch), _.stage is Stage.EXPIRING)  # its lease is no longer renewed
    post: implies(stands(guard, epoch), stands(_, epoch))  # what runs may finish
    """
    if guard == Guard(Stage.DRAINING, epoch):
        return replace(guard, stage=Stage.EXPIRING)
    return guard


# P4.3
def lost(guard: Guard, epoch: Epoch) -> Guard:
    """Note that the guard of ``epoch`` is dead: it was fenced off, or released (P8.18), or its sync failed (P2.10).

    post: guard.epoch == epoch or _ == guard  # a guard of another epoch is left alone
    post: implies(guard.epoch == epoch, _ == NO_GUARD)  # the guard is gone
    """
    return NO_GUARD if guard.epoch == epoch else guard


def admits(guard: Guard) -> bool:
    """Return whether an operation may begin under this guard (P2.1, P8.7).

    post: implies(_, stands(guard, guard.epoch))  # what begins may finish
    post: implies(guard.stage in (Stage.DRAINING, Stage.EXPIRING), not _)  # nothing begins under a draining guard
    post: implies(guard.stage is Stage.HELD, _)  # operations begin under a held guard
    """
    return guard.stage is Stage.HELD


def stands(guard: Guard, epoch: Epoch) -> bool:
    """Return whether an operation that began under ``epoch`` still works with this guard's cache (P3.3).

    post: implies(_, guard.epoch == epoch)  # false for another epoch
    post: implies(guard.stage in (Stage.NONE, Stage.SYNCING), not _)  # false before the sync and after the end
    post: implies(guard.stage not in (Stage.NONE, Stage.SYNCING) and guard.epoch == epoch, _)  # true for its own epoch
    """
    return guard.epoch == epoch and guard.stage in (Stage.HELD, Stage.DRAINING, Stage.EXPIRING)


def releasable(guard: Guard, running: int) -> bool:
    """Return whether the lease may be released while ``running`` operations still use the guard (P8.19).

    post: implies(_, running == 0)  # never while an operation runs
    post: implies(_, stands(guard, guard.epoch))  # only where the guard stands
    post: implies(running == 0 and stands(guard, guard.epoch), _)  # always after the last operation
    """
    return guard.stage in (Stage.HELD, Stage.DRAINING, Stage.EXPIRING) and running == 0
