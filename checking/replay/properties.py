"""State the guarantees about what is observed in the implementation: the same properties as in ``tla/``.

Each function returns how the property is violated, or ``None``. They are checked after every step of a replayed
counterexample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from checking.replay.observation import NOBODY, Observation

NONE = "none"
IN_USE = ("held", "draining", "expiring")


@dataclass(frozen=True, slots=True)
class ObservedStep:
    """A step that was taken: the observations before and after it, and what the replay has noted so far."""

    action: str
    before: Observation
    after: Observation
    home: Mapping[str, str]
    history: Sequence[Mapping[str, int]]
    """The store's records at each version."""
    bases: Mapping[int, Mapping[str, int]]
    """The values that the updates of each version were computed from."""
    answered: frozenset[int]
    """The versions whose commits were answered, or may have been answered."""
    begun: Mapping[str, int]
    """The store's version when each operation began."""
    synced: Mapping[str, int]
    """The epoch under which each process has synced its cache."""
    prompt: frozenset[str]
    """The processes that renew in time and whose clock runs evenly."""


def cache_is_snapshot(observed: ObservedStep) -> str | None:
    """A cache in use is a copy of the current store, and each running operation reads one version."""
    now = observed.after
    for process, (stage, epoch) in now.guards.items():
        working = [
            op
            for operation, op in now.operations.items()
            if observed.home[operation] == process and op.stage != "idle" and op.under == epoch
        ]
        if stage not in IN_USE and (stage == NONE or not working):
            continue
        version, records = now.caches[process]
        if not _is_part(records, observed.history, version):
            return f"the cache of {process} has {dict(records)}, which does not belong to its version {version}"
        committing = any(op.stage == "committed" and op.at == now.version for op in working)
        if _fence(now, epoch) and version != now.version and not (version + 1 == now.version and committing):
            return f"the cache of {process} has version {version}, but the store has version {now.version}"
    for operation, op in now.operations.items():
        if op.stage == "running" and not _is_part(op.known, observed.history, op.at):
            return f"{operation} reads {dict(op.known)}, which does not belong to its version {op.at}"
    return None


def no_lost_update(observed: ObservedStep) -> str | None:
    """No update of a record is computed from an older value of it."""
    for version, bases in observed.bases.items():
        for record, base in bases.items():
            if base != observed.history[version - 1][record]:
                return (
                    f"version {version} wrote {record} from the value {base}, "
                    f"when it was {observed.history[version - 1][record]}"
                )
    return None


def no_ratchet_reuse(observed: ObservedStep) -> str | None:
    """No two answers are computed from the same value of a record."""
    used: dict[tuple[str, int], int] = {}
    for version in sorted(observed.answered):
        for record, base in observed.bases[version].items():
            if (record, base) in used:
                return f"versions {used[record, base]} and {version} were both answered from {record} = {base}"
            used[record, base] = version
    return None


def opaque(observed: ObservedStep) -> str | None:
    """No operation sees a mixture of two versions."""
    for operation, op in observed.after.operations.items():
        known = dict(op.known)
        if op.loading is not None:
            known[op.loading[0]] = op.loading[1]
        if not any(_is_part(known, observed.history, version) for version in range(len(observed.history))):
            return f"{operation} sees {known}, which is part of no version"
    return None


def refines_atomic_store(observed: ObservedStep) -> str | None:
    """An answer without an update is of one version: a view's of any since it began, a transaction's of the current."""
    for operation, op in observed.after.operations.items():
        if op.stage != "validated" or observed.before.operations[operation].stage == "validated":
            continue
        first = observed.begun.get(operation, 0) if op.mode == "view" else len(observed.history) - 1
        versions = range(first, len(observed.history))
        if not any(_is_part(op.known, observed.history, version) for version in versions):
            return f"{operation} answers {dict(op.known)}, but the store had other values when it {_TRUE_WHEN[op.mode]}"
    return None


_TRUE_WHEN = {"view": "began", "transaction": "was confirmed"}


def one_fenced_holder(observed: ObservedStep) -> str | None:
    """No two processes pass the fence at the same time."""
    passing = [
        process
        for process, (stage, epoch) in observed.after.guards.items()
        if stage != NONE and _fence(observed.after, epoch)
    ]
    return f"{' and '.join(passing)} both pass the fence" if len(passing) > 1 else None


def guard_is_honest(observed: ObservedStep) -> str | None:
    """A process that believes that it holds the lease has held it since its sync, or the fence stops it."""
    row_epoch, holder, _, _ = observed.after.lease
    for process, (stage, epoch) in observed.after.guards.items():
        if stage not in IN_USE:
            continue
        if epoch != observed.synced[process]:
            return f"{process} has a guard of epoch {epoch}, but synced under epoch {observed.synced[process]}"
        handed_over = holder == NOBODY and any(
            op.released and op.under == epoch and observed.home[operation] == process
            for operation, op in observed.after.operations.items()
        )
        if epoch == row_epoch and holder != process and not handed_over:
            return f"{process} has a guard of epoch {epoch}, but the lease belongs to {holder}"
    return None


def epoch_never_reused(observed: ObservedStep) -> str | None:
    """Each acquisition has an epoch of its own."""
    for process, (stage, epoch) in observed.after.guards.items():
        if observed.before.guards[process][0] == NONE and stage != NONE and epoch <= observed.before.lease[0]:
            return f"{process} acquired epoch {epoch}, which was used before"
    return None


def holder_not_aborted(observed: ObservedStep) -> str | None:
    """A process that renews in time keeps the lease, unless its operations do not end."""
    row_epoch, holder, _, _ = observed.after.lease
    for process in observed.prompt:
        stage, epoch = observed.after.guards[process]
        if stage not in (NONE, "expiring") and (epoch, process) != (row_epoch, holder):
            return f"{process} renewed in time, but its lease went to {holder}"
    return None


def no_spurious_invalidation(observed: ObservedStep) -> str | None:
    """A record that did not change stays cached."""
    if observed.action != "Sync":
        return None
    for process, (stage, _) in observed.after.guards.items():
        was, before = observed.before.caches[process]
        if observed.before.guards[process][0] != "syncing" or stage != "held" or observed.after.floor > was:
            continue
        _, after = observed.after.caches[process]
        for record, value in before.items():
            if value == observed.after.records[record] and after.get(record) != value:
                return f"{process} dropped {record}, which has not changed"
    return None


def stream_complete(observed: ObservedStep) -> str | None:
    """Subscribers get every change, once and in order."""
    for process, heard in observed.after.heard.items():
        for (earlier, _), (version, lagged) in pairwise(heard):
            if version != earlier + 1 and not (lagged and version > earlier):
                return f"the subscriber in {process} got version {version} after {earlier}"
        version, _ = observed.after.caches[process]
        if heard and observed.after.guards[process][0] in IN_USE and heard[-1][0] < version:
            return f"the subscriber in {process} got changes up to version {heard[-1][0]}, the cache has {version}"
    return None


PROPERTIES: Mapping[str, Callable[[ObservedStep], str | None]] = {
    "CacheIsSnapshot": cache_is_snapshot,
    "NoLostUpdate": no_lost_update,
    "NoRatchetReuse": no_ratchet_reuse,
    "Opaque": opaque,
    "RefinesAtomicStore": refines_atomic_store,
    "OneFencedHolder": one_fenced_holder,
    "GuardIsHonest": guard_is_honest,
    "EpochNeverReused": epoch_never_reused,
    "HolderNotAborted": holder_not_aborted,
    "NoSpuriousInvalidation": no_spurious_invalidation,
    "StreamComplete": stream_complete,
}
"""The properties that a single step can violate. Liveness is judged after a whole counterexample."""


def _fence(now: Observation, epoch: int) -> bool:
    return now.lease[1] != NOBODY and now.lease[0] == epoch


def _is_part(records: Mapping[str, int], history: Sequence[Mapping[str, int]], version: int) -> bool:
    return version < len(history) and all(history[version][record] == value for record, value in records.items())
