"""The lease row and everything that may happen to it (P0.1, P1, P4, P7 and P8).

Processes share only this row about the right to use the store. Each function of this table takes the row and returns
the new row, or ``None`` where it is not allowed and nothing may change:

========== ================================= ===========================================
function   allowed when                      effect on the row
========== ================================= ===========================================
acquire    the row is ``takeable``           next epoch, this instance, full time, nobody waits
want       always                            somebody waits
renew      the fence passes                  full time
release    the fence passes                  nobody holds it; the epoch stays
commit     the fence passes                  full time, or nobody holds it
========== ================================= ===========================================

Clocks decide only *when* a lease may be taken. Which process may write is decided by the fence, which reads no clock.
The same operators in ``tla/Lease.tla``: ``Takeable``, ``Acquired``, ``Wanted``, ``FencePasses``, ``Renewed``,
``Released``, ``Committed``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds

LONGEST_LEASE_MS = Milliseconds(60_000)
"""No lease may be longer than this. If one seems longer, a clock has jumped, and the lease counts as expired (P7.3)."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease row: ``epoch`` of the last acquisition, ``holder`` or none, when it ``expires``, whether ``wanted``."""

    epoch: Epoch
    holder: InstanceId | None
    expires: Milliseconds
    wanted: bool


def takeable(lease: Lease, instance: InstanceId, now: Milliseconds) -> bool:
    """Return whether ``instance`` may take the lease at ``now`` (P1.2).

    It may if the lease is free, if it holds the lease itself (and lost the guard that went with it), if the lease has
    expired, and if the lease claims more time than any lease can have, because then a clock has jumped (P7.3).

    post: implies(lease.holder is None or lease.holder == instance, _)  # a free or own lease can be taken at any time
    post: _ or now < lease.expires <= now + LONGEST_LEASE_MS  # a refusal ends within the longest lease
    post: lease.holder in (None, instance) or _ != (now < lease.expires <= now + LONGEST_LEASE_MS)  # a live lease stays
    """
    return (
        lease.holder is None
        or lease.holder == instance
        or lease.expires <= now
        or lease.expires > now + LONGEST_LEASE_MS
    )


def acquire(lease: Lease, instance: InstanceId, now: Milliseconds, duration: Milliseconds) -> Lease | None:
    """Take the lease for ``duration`` milliseconds; ``None`` when it is not ``takeable`` (P1.3).

    The epoch always grows, also when the same instance takes it again: whatever was done under an older epoch is
    fenced off from here on (P1.4).

    post: (_ is not None) == takeable(lease, instance, now)  # it succeeds exactly where it may
    post: _ is None or _.epoch == lease.epoch + 1  # the epoch grows by one
    post: _ is None or fence(_, lease.epoch + 1) and not fence(_, lease.epoch)  # only the new epoch passes
    post: _ is None or (_.holder, _.wanted) == (instance, False)  # it is held by the instance, and nobody waits
    post: _ is None or _.expires == now + duration  # its time counts from now
    """
    if not takeable(lease, instance, now):
        return None
    return Lease(Epoch(lease.epoch + 1), instance, Milliseconds(now + duration), wanted=False)


def want(lease: Lease) -> Lease:
    """Set ``wanted``, from which the holder learns that somebody waits (P1.3).

    post: _.wanted  # somebody waits
    post: (_.epoch, _.holder, _.expires) == (lease.epoch, lease.holder, lease.expires)  # all else stays
    """
    return replace(lease, wanted=True)


def fence(lease: Lease, epoch: Epoch) -> bool:
    """Return whether a guard of ``epoch`` may still read or write (P4.1). It uses no clock.

    post: implies(_, epoch == lease.epoch)  # no epoch passes but the row's
    post: implies(_, lease.holder is not None)  # no epoch passes where nobody holds the lease
    post: implies(lease.holder is not None and epoch == lease.epoch, _)  # the holder's epoch passes
    """
    return lease.holder is not None and lease.epoch == epoch


def renew(lease: Lease, epoch: Epoch, now: Milliseconds, duration: Milliseconds) -> Lease | None:
    """Extend the lease of ``epoch`` to ``duration`` from ``now``; ``None`` when the fence stops it (P1.7).

    post: (_ is not None) == fence(lease, epoch)  # it succeeds exactly where the fence passes
    post: _ is None or _.expires == now + duration  # its time counts from now
    post: _ is None or (_.epoch, _.holder, _.wanted) == (lease.epoch, lease.holder, lease.wanted)  # all else stays
    """
    if not fence(lease, epoch):
        return None
    return replace(lease, expires=Milliseconds(now + duration))


def release(lease: Lease, epoch: Epoch) -> Lease | None:
    """Release the lease of ``epoch``; ``None`` when the fence stops it, since then there is nothing to release (P8.18).

    post: (_ is not None) == fence(lease, epoch)  # it succeeds exactly where the fence passes
    post: _ is None or _.holder is None  # nobody holds it
    post: _ is None or (_.epoch, _.expires, _.wanted) == (lease.epoch, lease.expires, lease.wanted)  # all else stays
    """
    if not fence(lease, epoch):
        return None
    return replace(lease, holder=None)


def commit(lease: Lease, epoch: Epoch, now: Milliseconds, duration: Milliseconds, may_release: bool) -> Lease | None:
    """Return the row after a commit under ``epoch``, in its own transaction; ``None`` when the fence stops it.

    The commit renews the lease. If somebody waits and the commit ``may_release`` (no other operation needs the guard),
    it releases the lease instead. This saves a write for each handover, and the waiter need not wait for that write
    (P5.17).

    post: (_ is not None) == fence(lease, epoch)  # it succeeds exactly where the fence passes
    post: _ is None or not (lease.wanted and may_release) or _.holder is None  # a waiter can have it
    post: _ is None or lease.wanted and may_release or _.holder == lease.holder  # otherwise it is kept
    post: _ is None or _.expires == now + duration  # its time counts from now
    post: _ is None or (_.epoch, _.wanted) == (lease.epoch, lease.wanted)  # all else stays
    """
    renewed = renew(lease, epoch, now, duration)
    if renewed is not None and renewed.wanted and may_release:
        return release(renewed, epoch)
    return renewed
