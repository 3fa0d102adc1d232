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


CERTAIN, LIKELY, POSSIBLE = Certainty

REASONS: Final = {
    "has_guard": Reason(("P1.1",), "asked for the lease although it had a guard"),
    "epoch_not_next": Reason(
        ("P1.4",), "took the lease without raising the epoch by one", ("reacquire-keeps-epoch",), LIKELY
    ),
    "lease_held": Reason(("P1.2",), "took a lease that another instance held", ("clock-jump",)),
    "sync_unfenced": Reason(("P2.2",), "synced after it had lost the lease"),
    "not_syncing": Reason(("P2.1", "P2.3"), "synced without having just taken the lease"),
    "cache_version": Reason(
        ("P2.8", "P5.21"),
        "had a cache of another version than its own last sync or commit had given it",
        ("late-version", "generation-in-machine", "reload-race"),
    ),
    "sync_not_newest": Reason(("P2.4",), "took another version for the newest than the store was at"),
    "dropped_unchanged": Reason(("P2.6",), "dropped a record that nobody had changed, or that it did not have"),
    "lease_not_held": Reason(("P1.3",), "was refused a lease that nobody held, or of another epoch"),
    "renewal_unfenced": Reason(("P1.7", "P4.1"), "renewed a lease that it had lost", ("renew-ignores-loss",), LIKELY),
    "release_unfenced": Reason(("P8.18",), "released a lease that it had lost"),
    "release_under_operations": Reason(
        ("P8.19",), "released the lease while operations ran under it", ("guard-outlives-release",)
    ),
    "fence_would_pass": Reason(("P4.1",), "says that the fence stopped it, although it held the lease"),
    "began_unguarded": Reason(
        ("P2.1", "P3.3"),
        "began an operation without a guard of that epoch",
        ("save-without-lock", "dirty-hidden-from-reentrant", "reload-race"),
    ),
    "two_transactions": Reason(("P5.1",), "ran two transactions at once", ("two-live-copies",), LIKELY),
    "load_unfenced": Reason(("P4.5",), "loaded a record after it had lost the lease", ("unfenced-load",), CERTAIN),
    "load_changed": Reason(
        ("P4.6", "P4.7"), "loaded a record that had changed after its snapshot", ("unfenced-load",), LIKELY
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
    ),
    "version_not_next": Reason(("P5.16",), "made a version that is not the next one"),
    "older_snapshot": Reason(("P3.2", "P5.20"), "committed from a snapshot that was not the newest"),
    "older_value": Reason(
        ("P2.5", "P5.24"),
        "computed an update from an older value than the newest: what was written since is lost",
        ("session-cache-survives", "stale-account-overwrite", "cache-before-commit", "live-reference-survives"),
        LIKELY,
    ),
    "read_from_nowhere": Reason(
        ("P2.5", "P4.5"),
        "read a record that its cache could not have any more, without loading it",
        ("session-cache-survives", "first-acquire-is-clean", "floor-ignored-at-sync"),
        LIKELY,
    ),
    "released_unwanted": Reason(("P5.17",), "released the lease with a commit although nobody waited"),
    "answer_unfenced": Reason(
        ("P6.1", "P6.2"),
        "gave an answer after it had lost the lease",
        ("unvalidated-view", "stale-failure-believed"),
        LIKELY,
    ),
}
