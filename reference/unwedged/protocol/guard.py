"""What one process instance knows about its own right to use the store (rules 1, 2, 3 and 8).

::

            taken            synced            told(wanted)
    NONE  ---------> SYNCING -------> HELD ------------------> CLOSING
      ^                 |              |                          |
      '-----------------'--------------'-------- lost, dropped ---'

A guard is bound to one epoch. News about another epoch (a renewal that was under way while the lease changed hands)
never touches it. Twins in ``tla/Lease.tla``: ``Taken``, ``Synced``, ``Told``, ``Lost``, ``Admits``, ``Stands``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from unwedged.protocol.identifiers import Epoch


class Stage(Enum):
    """How far a process instance has come on the way to using the store."""

    NONE = "none"
    """It has no guard."""
    SYNCING = "syncing"
    """It took the lease; its cache may be stale, so nothing may use it yet (rule 2)."""
    HELD = "held"
    """Operations may begin."""
    CLOSING = "closing"
    """Somebody waits: what runs may finish, nothing new begins (rule 8)."""


@dataclass(frozen=True, slots=True)
class Guard:
    """The right to use the cache, bound to one ``epoch`` (0 where there is none)."""

    stage: Stage
    epoch: Epoch


NO_GUARD = Guard(Stage.NONE, Epoch(0))


def taken(epoch: Epoch) -> Guard:
    """Note that the lease was acquired at ``epoch``: not yet a right to anything but syncing."""
    return Guard(Stage.SYNCING, epoch)


def synced(guard: Guard, epoch: Epoch) -> Guard:
    """Note that the cache is up to date under ``epoch``: now, and not before, the guard exists (rule 2)."""
    if guard == Guard(Stage.SYNCING, epoch):
        return replace(guard, stage=Stage.HELD)
    return guard


def told(guard: Guard, epoch: Epoch, wanted: bool) -> Guard:
    """Note what a renewal or a commit under ``epoch`` came back with: whether somebody waits (rule 8)."""
    if wanted and guard == Guard(Stage.HELD, epoch):
        return replace(guard, stage=Stage.CLOSING)
    return guard


def lost(guard: Guard, epoch: Epoch) -> Guard:
    """Note that the guard of ``epoch`` is dead: it was fenced off, or released, or its sync failed."""
    return NO_GUARD if guard.epoch == epoch else guard


def admits(guard: Guard) -> bool:
    """Say whether an operation may begin under this guard."""
    return guard.stage is Stage.HELD


def stands(guard: Guard, epoch: Epoch) -> bool:
    """Say whether an operation that began under ``epoch`` still works with this guard's cache (rule 3)."""
    return guard.epoch == epoch and guard.stage in (Stage.HELD, Stage.CLOSING)


def releasable(guard: Guard, running: int) -> bool:
    """Say whether the lease may be given up while ``running`` operations still use the guard (rule 8)."""
    return guard.stage in (Stage.HELD, Stage.CLOSING) and running == 0
