"""The guarantees, as statements about what is observed in the implementation: twins of the properties in ``tla/``.

Each returns what is wrong, or nothing. They are asked after every step of a counterexample that is replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from checking.replay.world import NOBODY, Observation

NONE = "none"
IN_USE = ("held", "closing", "expiring")


@dataclass(frozen=True, slots=True)
class Moment:
    """A step that was taken: what was observed before and after it, and what the harness noted so far."""

    action: str
    before: Observation
    after: Observation
    home: Mapping[str, str]
    history: Sequence[Mapping[str, int]]
    """The store's records at each version."""
    bases: Mapping[int, Mapping[str, int]]
    """By version, what its updates were computed from."""
    answered: frozenset[int]
    """The versions whose commits' answers have left, or for all we know may have."""
    begun: Mapping[str, int]
    """By operation, the store's version when it began."""
    synced: Mapping[str, int]
    """By process, the epoch that its cache was synced under."""
    prompt: frozenset[str]
    """The processes that renew in time, and whose clock runs evenly."""


def cache_is_snapshot(moment: Moment) -> str | None:
    """A cache in use is a copy of the store as it is, and so is what each running operation can read."""
    now = moment.after
    for process, (stage, epoch) in now.guards.items():
        working = [
            seen
            for operation, seen in now.operations.items()
            if moment.home[operation] == process and seen.stage != "idle" and seen.under == epoch
        ]
        if stage not in IN_USE and (stage == NONE or not working):
            continue
        version, records = now.caches[process]
        if not _is_part(records, moment.history, version):
            return f"the cache of {process} has {dict(records)}, which is not of its version {version}"
        committing = any(seen.stage == "committed" and seen.at == now.version for seen in working)
        if _fence(now, epoch) and version != now.version and not (version + 1 == now.version and committing):
            return f"the cache of {process} is of version {version}, and the store at {now.version}"
    for operation, seen in now.operations.items():
        if seen.stage == "running" and not _is_part(seen.known, moment.history, seen.at):
            return f"{operation} reads {dict(seen.known)}, which is not of its version {seen.at}"
    return None


def no_lost_update(moment: Moment) -> str | None:
    """No record is written from an older state of it."""
    for version, bases in moment.bases.items():
        for record, base in bases.items():
            if base != moment.history[version - 1][record]:
                return (
                    f"version {version} wrote {record} from the value {base}, "
                    f"when it was {moment.history[version - 1][record]}"
                )
    return None


def no_ratchet_reuse(moment: Moment) -> str | None:
    """No two answers come from one state of a record."""
    used: dict[tuple[str, int], int] = {}
    for version in sorted(moment.answered):
        for record, base in moment.bases[version].items():
            if (record, base) in used:
                return f"versions {used[record, base]} and {version} both answered from the value {base} of {record}"
            used[record, base] = version
    return None


def opaque(moment: Moment) -> str | None:
    """Nobody sees two versions mixed."""
    for operation, seen in moment.after.operations.items():
        known = dict(seen.known)
        if seen.loading is not None:
            known[seen.loading[0]] = seen.loading[1]
        if not any(_is_part(known, moment.history, version) for version in range(len(moment.history))):
            return f"{operation} sees {known}, which no version was"
    return None


def refines_atomic_store(moment: Moment) -> str | None:
    """An answer without an effect is of one snapshot: a view's of one since it began, a transaction's of the last."""
    for operation, seen in moment.after.operations.items():
        if seen.stage != "validated" or moment.before.operations[operation].stage == "validated":
            continue
        first = moment.begun.get(operation, 0) if seen.mode == "view" else len(moment.history) - 1
        versions = range(first, len(moment.history))
        if not any(_is_part(seen.known, moment.history, version) for version in versions):
            return f"{operation} answers {dict(seen.known)}, which the store no longer was when it {_WHEN[seen.mode]}"
    return None


_WHEN = {"view": "began", "transaction": "was confirmed"}


def one_fenced_holder(moment: Moment) -> str | None:
    """Never do two processes pass the fence."""
    passing = [
        process
        for process, (stage, epoch) in moment.after.guards.items()
        if stage != NONE and _fence(moment.after, epoch)
    ]
    return f"{' and '.join(passing)} both pass the fence" if len(passing) > 1 else None


def guard_is_honest(moment: Moment) -> str | None:
    """A process that believes it holds the lease has held it since it synced, or the fence stops it."""
    row_epoch, holder, _, _ = moment.after.lease
    for process, (stage, epoch) in moment.after.guards.items():
        if stage not in IN_USE:
            continue
        if epoch != moment.synced[process]:
            return f"{process} has a guard of epoch {epoch}, and synced under {moment.synced[process]}"
        gave_way = holder == NOBODY and any(
            seen.released and seen.under == epoch and moment.home[operation] == process
            for operation, seen in moment.after.operations.items()
        )
        if epoch == row_epoch and holder != process and not gave_way:
            return f"{process} has a guard of epoch {epoch}, and the lease is {holder}'s"
    return None


def epoch_never_reused(moment: Moment) -> str | None:
    """Each acquisition has an epoch of its own."""
    for process, (stage, epoch) in moment.after.guards.items():
        if moment.before.guards[process][0] == NONE and stage != NONE and epoch <= moment.before.lease[0]:
            return f"{process} acquired epoch {epoch}, which had been there"
    return None


def holder_not_aborted(moment: Moment) -> str | None:
    """A process that renews in time keeps the lease, unless its operations do not end."""
    row_epoch, holder, _, _ = moment.after.lease
    for process in moment.prompt:
        stage, epoch = moment.after.guards[process]
        if stage not in (NONE, "expiring") and (epoch, process) != (row_epoch, holder):
            return f"{process} renewed in time, and its lease went to {holder} all the same"
    return None


def no_spurious_invalidation(moment: Moment) -> str | None:
    """What did not change stays cached."""
    if moment.action != "Sync":
        return None
    for process, (stage, _) in moment.after.guards.items():
        was, before = moment.before.caches[process]
        if moment.before.guards[process][0] != "syncing" or stage != "held" or moment.after.floor > was:
            continue
        _, after = moment.after.caches[process]
        for record, value in before.items():
            if value == moment.after.records[record] and after.get(record) != value:
                return f"{process} dropped {record}, which had not changed"
    return None


def stream_complete(moment: Moment) -> str | None:
    """Subscribers hear every change, once and in order."""
    for process, heard in moment.after.heard.items():
        for (earlier, _), (version, lagged) in pairwise(heard):
            if version != earlier + 1 and not (lagged and version > earlier):
                return f"the subscriber in {process} heard of version {version} after {earlier}"
        version, _ = moment.after.caches[process]
        if heard and moment.after.guards[process][0] in IN_USE and heard[-1][0] < version:
            return f"the subscriber in {process} heard up to version {heard[-1][0]}, its cache is at {version}"
    return None


PROPERTIES: Mapping[str, Callable[[Moment], str | None]] = {
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
"""Those that a single step can violate. Progress is judged after a whole counterexample."""


def _fence(now: Observation, epoch: int) -> bool:
    return now.lease[1] != NOBODY and now.lease[0] == epoch


def _is_part(records: Mapping[str, int], history: Sequence[Mapping[str, int]], version: int) -> bool:
    return version < len(history) and all(history[version][record] == value for record, value in records.items())
