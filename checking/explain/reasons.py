"""Why a step can't happen: which clause it breaks, in words, and which bug of the track record it looks like.

The names are those of ``Reasons`` in ``tla/Trace.tla``, which says when each of them holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Certainty(Enum):
    """How sure it is that a reason is due to a bug."""

    CERTAIN = "certainly"
    """Nothing else does this."""
    LIKELY = "probably"
    """It is what this bug does, and no other known one."""
    POSSIBLE = "possibly"
    """Several bugs do this."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a step can't happen."""

    clauses: tuple[str, ...]
    """Of ``spec/protocol.md`` or ``spec/machine.md``."""
    says: str
    """What its process did."""
    bugs: tuple[str, ...] = ()
    """The names of bugs that do this, the likeliest first."""
    certainty: Certainty = Certainty.POSSIBLE
    guarantee: str = ""
    """The property that is violated, as ``Module!Property``, where the specification names one for it."""
    needs: tuple[str, ...] = ()
    """The steps without which it may only seem to be so."""
    others: bool = False
    """Whether it may only seem to be so because of an instance without a trace, whenever that one shows."""


CERTAIN, LIKELY, POSSIBLE = Certainty

REASONS: Final = {
    "opened_again": Reason(
        ("P0.4", "P0.11"), "opened the store as an instance that had opened it before", ("holder-name-reuse",)
    ),
    "opened_unmade": Reason(("P0.12",), "found a version in the store that nobody had made", needs=("commit",)),
    "no_such_guard": Reason(
        ("P0.7",), "says that a guard has ended which it did not have then", needs=("acquire", "sync", "release")
    ),
    "operation_over": Reason(("P4.5",), "used an operation that had ended"),
    "operation_changed": Reason(("P3.2",), "ended an operation under another epoch or version than it had begun from"),
    "nothing_changed": Reason(
        ("P4.7",), "gave up an operation for a change that nobody had made", needs=("commit", "truncate")
    ),
    "has_guard": Reason(("P1.1",), "asked for the lease although it had a guard", needs=("release", "lose_guard")),
    "failed_sync_kept": Reason(
        ("P2.11",),
        "went on after a failed sync without releasing the lease",
        ("failed-sync-keeps-lease",),
        CERTAIN,
        needs=("sync", "release"),
    ),
    "absurd_lease": Reason(
        ("P1.2", "P7.3"), "believed a lease that claims to last longer than any can", ("clock-jump",), CERTAIN
    ),
    "expired_lease": Reason(("P1.2",), "says that it was refused a lease that had expired"),
    "renewed_overdue": Reason(
        ("P8.11",),
        "renewed the lease although an operation ran on for too long while somebody waited",
        ("waits-inside",),
        CERTAIN,
    ),
    "began_draining": Reason(
        ("P8.2", "P8.7"),
        "began an operation after its turn, although it knew that somebody waits",
        ("waiter-ignored",),
        LIKELY,
        needs=("acquire", "sync"),
    ),
    "short_lease": Reason(
        ("P1.9",),
        "renewed the lease with a commit as of when that was asked for, not of when it was done",
        ("renewal-starved",),
        CERTAIN,
    ),
    "epoch_not_next": Reason(
        ("P1.4",),
        "took the lease without raising the epoch by one",
        ("reacquire-keeps-epoch",),
        LIKELY,
        needs=("acquire",),
    ),
    "lease_held": Reason(("P1.2",), "took a lease that another instance held", needs=("acquire",)),
    "sync_unfenced": Reason(("P2.2",), "synced after it had lost the lease", needs=("acquire",)),
    "not_syncing": Reason(("P2.1", "P2.3"), "synced without having just taken the lease", needs=("acquire",)),
    "cache_version": Reason(
        ("P2.8", "P5.21"),
        "had a cache of another version than its own last sync or commit had given it",
        ("late-version", "generation-in-machine", "reload-race"),
        needs=("sync", "commit"),
    ),
    "sync_not_newest": Reason(
        ("P2.4",), "took another version for the newest than the store was at", needs=("commit",)
    ),
    "dropped_unchanged": Reason(
        ("P2.6",), "dropped a record that nobody had changed, or that it did not have", needs=("sync", "commit")
    ),
    "lease_not_held": Reason(
        ("P1.3",), "was refused a lease that nobody held, or of another epoch", needs=("acquire",), others=True
    ),
    "renewal_unfenced": Reason(
        ("P1.7", "P4.1"), "renewed a lease that it had lost", ("renew-ignores-loss",), LIKELY, needs=("acquire",)
    ),
    "release_unfenced": Reason(("P8.18",), "released a lease that it had lost", needs=("acquire",)),
    "release_under_operations": Reason(
        ("P8.19",), "released the lease while operations ran under it", ("guard-outlives-release",)
    ),
    "fence_would_pass": Reason(
        ("P4.1",), "says that the fence stopped it, although it held the lease", needs=("acquire",), others=True
    ),
    "began_unguarded": Reason(
        ("P2.1", "P3.3"),
        "began an operation without a guard of that epoch",
        ("save-without-lock", "dirty-hidden-from-reentrant", "reload-race"),
        needs=("acquire", "sync"),
    ),
    "two_transactions": Reason(("P5.1",), "ran two transactions at once", ("two-live-copies",), LIKELY),
    "load_unfenced": Reason(
        ("P4.5",), "loaded a record after it had lost the lease", ("unfenced-load",), CERTAIN, needs=("acquire",)
    ),
    "load_changed": Reason(
        ("P4.6", "P4.7"),
        "loaded a record that had changed after its snapshot",
        ("unfenced-load",),
        LIKELY,
        needs=("sync",),
    ),
    "load_after_floor": Reason(
        ("P4.6",),
        "loaded a record although the log no longer tells of its changes",
        ("floor-ignored-at-load",),
        CERTAIN,
    ),
    "commit_unfenced": Reason(
        ("P4.2", "P4.1"),
        "committed after another instance had taken the lease",
        ("lease-lapses-unfenced", "live-reference-survives", "save-without-lock"),
        LIKELY,
        needs=("acquire",),
    ),
    "version_not_next": Reason(("P5.16",), "made a version that is not the next one", needs=("commit",)),
    "older_snapshot": Reason(
        ("P3.2", "P5.20"), "committed from a snapshot that was not the newest", needs=("sync", "commit")
    ),
    "older_value": Reason(
        ("P2.5", "P5.24"),
        "computed an update from an older value than the newest: what was written since is lost",
        ("session-cache-survives", "stale-account-overwrite", "cache-before-commit", "live-reference-survives"),
        LIKELY,
        needs=("sync", "commit"),
    ),
    "read_without_loading": Reason(
        ("P2.5", "P4.5"),
        "read a record that its cache could not have any more, without loading it",
        ("session-cache-survives", "first-acquire-is-clean", "floor-ignored-at-sync"),
        LIKELY,
        needs=("sync",),
    ),
    "released_unwanted": Reason(
        ("P5.17",), "released the lease with a commit although nobody waited", needs=("want",), others=True
    ),
    "answer_unfenced": Reason(
        ("P6.1", "P6.2"),
        "gave an answer after it had lost the lease",
        ("unvalidated-view", "stale-failure-believed"),
        LIKELY,
        needs=("acquire",),
    ),
    "delivered_with_gap": Reason(
        ("P9.5", "P9.7"),
        "left out versions in what it delivered to its subscribers",
        ("foreign-writes-unseen", "streams-lost"),
        LIKELY,
        needs=("publish",),
    ),
    "delivered_again": Reason(
        ("P9.5",), "delivered to its subscribers what they had received before", needs=("publish",)
    ),
    "lag_not_delivered": Reason(
        ("P9.6",),
        "did not inform its subscribers that they may have missed something, although the log was truncated",
        ("floor-ignored-in-stream",),
        CERTAIN,
    ),
    "not_delivered": Reason(
        ("P9.2", "P9.3"),
        "went on without delivering to its subscribers the changes that its cache has",
        ("foreign-writes-unseen", "streams-lost", "floor-ignored-in-stream"),
        LIKELY,
        needs=("publish",),
    ),
    "subscribed_elsewhere": Reason(
        ("P9.9",), "let a subscription begin at another version than the one that the others have received"
    ),
}
