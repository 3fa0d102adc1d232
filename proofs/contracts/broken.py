"""List all contracts, each with a line of code that can be broken so that the contract no longer holds.

A listed contract that no docstring states is a failure, and so is a stated contract that is not listed.
"""

import ast
import inspect
from dataclasses import dataclass
from textwrap import dedent
from types import FunctionType


@dataclass(frozen=True, slots=True)
class Fault:
    """In the body of ``function`` (in the spelling of ``ast.unparse``), ``old`` is to be ``new``."""

    function: str
    old: str
    new: str


FAULTS: dict[str, Fault] = {
    # The lease.
    "lease.takeable: a free or own lease can be taken at any time": Fault(
        "lease.takeable", "lease.holder == instance or ", ""
    ),
    "lease.takeable: a refusal ends within the longest lease": Fault(
        "lease.takeable", "lease.expires > now + LONGEST_LEASE_MS", "False"
    ),
    "lease.takeable: a live lease stays": Fault("lease.takeable", "lease.expires <= now", "lease.expires <= now + 1"),
    "lease.acquire: it succeeds exactly where it may": Fault(
        "lease.acquire", "not takeable(lease, instance, now)", "lease.holder is not None"
    ),
    "lease.acquire: the epoch grows by one": Fault("lease.acquire", "lease.epoch + 1", "lease.epoch"),
    "lease.acquire: only the new epoch passes": Fault(
        "lease.acquire", "lease.epoch + 1", "lease.epoch + (lease.holder != instance)"
    ),
    "lease.acquire: it is held by the instance, and nobody waits": Fault(
        "lease.acquire", "wanted=False", "wanted=lease.wanted"
    ),
    "lease.acquire: its time counts from now": Fault("lease.acquire", "now + duration", "lease.expires + duration"),
    "lease.want: somebody waits": Fault("lease.want", "wanted=True", "wanted=lease.holder is not None"),
    "lease.want: all else stays": Fault("lease.want", "wanted=True", "wanted=True, expires=Milliseconds(0)"),
    "lease.fence: no epoch passes but the row's": Fault("lease.fence", "lease.epoch == epoch", "lease.epoch >= epoch"),
    "lease.fence: no epoch passes where nobody holds the lease": Fault(
        "lease.fence", "lease.holder is not None and ", ""
    ),
    "lease.fence: the holder's epoch passes": Fault(
        "lease.fence", "lease.epoch == epoch", "lease.epoch == epoch and not lease.wanted"
    ),
    "lease.renew: it succeeds exactly where the fence passes": Fault(
        "lease.renew", "not fence(lease, epoch)", "lease.epoch != epoch"
    ),
    "lease.renew: its time counts from now": Fault("lease.renew", "now + duration", "lease.expires + duration"),
    "lease.renew: all else stays": Fault("lease.renew", "expires=", "wanted=False, expires="),
    "lease.release: it succeeds exactly where the fence passes": Fault(
        "lease.release", "not fence(lease, epoch)", "lease.epoch != epoch"
    ),
    "lease.release: nobody holds it": Fault("lease.release", "holder=None", "expires=Milliseconds(0)"),
    "lease.release: all else stays": Fault("lease.release", "holder=None", "holder=None, epoch=Epoch(0)"),
    "lease.commit: it succeeds exactly where the fence passes": Fault(
        "lease.commit", "return renewed", "return renewed or lease"
    ),
    "lease.commit: a waiter can have it": Fault("lease.commit", "release(renewed, epoch)", "renewed"),
    "lease.commit: otherwise it is kept": Fault("lease.commit", " and may_release", ""),
    "lease.commit: its time counts from now": Fault("lease.commit", "release(renewed, epoch)", "release(lease, epoch)"),
    "lease.commit: all else stays": Fault(
        "lease.commit", "release(renewed, epoch)", "release(replace(renewed, wanted=False), epoch)"
    ),
    # The guard.
    "guard.taken: it syncs under the epoch": Fault("guard.taken", "Stage.SYNCING, epoch", "Stage.SYNCING, Epoch(0)"),
    "guard.taken: nothing may use the cache yet": Fault("guard.taken", "Stage.SYNCING", "Stage.HELD"),
    "guard.synced: the epoch stays": Fault("guard.synced", "stage=Stage.HELD", "stage=Stage.HELD, epoch=Epoch(0)"),
    "guard.synced: a guard of another epoch is left alone": Fault(
        "guard.synced", "guard == Guard(Stage.SYNCING, epoch)", "guard.stage is Stage.SYNCING"
    ),
    "guard.synced: only a syncing guard changes, to held": Fault(
        "guard.synced", "guard == Guard(Stage.SYNCING, epoch)", "guard.epoch == epoch"
    ),
    "guard.synced: operations may begin": Fault("guard.synced", "stage=Stage.HELD", "stage=Stage.DRAINING"),
    "guard.waiter_noted: the epoch stays": Fault(
        "guard.waiter_noted", "stage=Stage.DRAINING", "stage=Stage.DRAINING, epoch=Epoch(0)"
    ),
    "guard.waiter_noted: nothing changes unless somebody waits for this epoch's holder": Fault(
        "guard.waiter_noted", "wanted and ", ""
    ),
    "guard.waiter_noted: only a held guard changes, to draining": Fault(
        "guard.waiter_noted", "guard == Guard(Stage.HELD, epoch)", "guard.epoch == epoch"
    ),
    "guard.waiter_noted: nothing new begins where somebody waits": Fault(
        "guard.waiter_noted", "stage=Stage.DRAINING", ""
    ),
    "guard.waiter_noted: what runs may finish": Fault("guard.waiter_noted", "stage=Stage.DRAINING", "stage=Stage.NONE"),
    "guard.overdue: the epoch stays": Fault(
        "guard.overdue", "stage=Stage.EXPIRING", "stage=Stage.EXPIRING, epoch=Epoch(0)"
    ),
    "guard.overdue: a guard of another epoch is left alone": Fault(
        "guard.overdue", "guard == Guard(Stage.DRAINING, epoch)", "guard.stage is Stage.DRAINING"
    ),
    "guard.overdue: only a draining guard changes": Fault(
        "guard.overdue", "guard == Guard(Stage.DRAINING, epoch)", "guard.epoch == epoch"
    ),
    "guard.overdue: its lease is no longer renewed": Fault(
        "guard.overdue", "guard == Guard(Stage.DRAINING, epoch)", "guard == Guard(Stage.HELD, epoch)"
    ),
    "guard.overdue: what runs may finish": Fault("guard.overdue", "stage=Stage.EXPIRING", "stage=Stage.NONE"),
    "guard.lost: a guard of another epoch is left alone": Fault("guard.lost", "guard.epoch == epoch", "True"),
    "guard.lost: the guard is gone": Fault("guard.lost", "NO_GUARD", "taken(epoch)"),
    "guard.admits: what begins may finish": Fault("guard.admits", "is Stage.HELD", "is not Stage.NONE"),
    "guard.admits: nothing begins under a draining guard": Fault(
        "guard.admits", "is Stage.HELD", "in (Stage.HELD, Stage.DRAINING)"
    ),
    "guard.admits: operations begin under a held guard": Fault("guard.admits", "is Stage.HELD", "is Stage.DRAINING"),
    "guard.stands: false for another epoch": Fault("guard.stands", "guard.epoch == epoch and ", ""),
    "guard.stands: false before the sync and after the end": Fault(
        "guard.stands", "in (Stage.HELD, Stage.DRAINING, Stage.EXPIRING)", "is not Stage.NONE"
    ),
    "guard.stands: true for its own epoch": Fault(
        "guard.stands", "in (Stage.HELD, Stage.DRAINING, Stage.EXPIRING)", "is Stage.HELD"
    ),
    "guard.releasable: never while an operation runs": Fault("guard.releasable", " and running == 0", ""),
    "guard.releasable: only where the guard stands": Fault(
        "guard.releasable", "in (Stage.HELD, Stage.DRAINING, Stage.EXPIRING)", "is not Stage.NONE"
    ),
    "guard.releasable: always after the last operation": Fault(
        "guard.releasable", "in (Stage.HELD, Stage.DRAINING, Stage.EXPIRING)", "is Stage.DRAINING"
    ),
    # The cache.
    "cache.empty: it knows nothing": Fault("cache.empty", "HashTrieMap()", "HashTrieMap({version: None})"),
    "cache.empty: it is of the version": Fault("cache.empty", "Cache(version, ", "Cache(Version(0), "),
    "cache.reaches: true if the log is complete after the version": Fault(
        "cache.reaches", "floor <= since", "floor <= since + 1"
    ),
    "cache.sync: it is of the log's version": Fault(
        "cache.sync", "Cache(log.version, records)", "Cache(cache.version, records)"
    ),
    "cache.sync: what changed goes": Fault(
        "cache.sync", "change.version > cache.version", "change.version > cache.version + 1"
    ),
    "cache.sync: all goes where the log does not reach back": Fault(
        "cache.sync", "not reaches(log.floor, cache.version)", "False"
    ),
    "cache.sync: what is kept is as it was": Fault(
        "cache.sync",
        "records = records.discard(change.key)",
        "records = records.insert(change.key, None) if change.key in records else records",
    ),
    "cache.fill: the version stays": Fault("cache.fill", "records=", "version=Version(version + 1), records="),
    "cache.fill: no value of another version enters": Fault("cache.fill", "version != cache.version or ", ""),
    "cache.fill: what is known is never overwritten": Fault("cache.fill", " or key in cache.records", ""),
    "cache.fill: no other record enters": Fault("cache.fill", "insert(key, value)", "insert(None, value)"),
    "cache.fill: the loaded value enters": Fault("cache.fill", "insert(key, value)", "insert(key, None)"),
    "cache.install: no commit but the very next enters": Fault(
        "cache.install", "version != cache.version + 1", "version <= cache.version"
    ),
    "cache.install: it is of the commit's version": Fault(
        "cache.install", "Cache(version, records)", "Cache(cache.version, records)"
    ),
    "cache.install: all its writes enter": Fault(
        "cache.install",
        "records = records.insert(key, value)",
        "records = records if key in records else records.insert(key, value)",
    ),
    "cache.install: other records stay": Fault(
        "cache.install", "writes.items()", "{**dict.fromkeys(cache.records), **writes}.items()"
    ),
    "cache.install: no other record enters": Fault(
        "cache.install", "return Cache(version, records)", "return Cache(version, records.insert(None, None))"
    ),
    "cache.forget: the version stays": Fault("cache.forget", "records=", "version=Version(0), records="),
    "cache.forget: what is named goes": Fault(
        "cache.forget", "records.discard(key)", "records.discard(key) if len(records) > 1 else records"
    ),
    "cache.forget: what is kept is as it was": Fault(
        "cache.forget",
        "replace(cache, records=records)",
        "replace(cache, records=type(records)(dict.fromkeys(records)))",
    ),
    "cache.forget: other records stay": Fault(
        "cache.forget", "replace(cache, records=records)", "empty(cache.version)"
    ),
    "cache.forget: no record enters": Fault("cache.forget", "records=records", "records=records.insert(None, None)"),
    # The stream.
    "stream.news: nothing is delivered twice": Fault(
        "stream.news", "change.version > heard", "change.version >= heard"
    ),
    "stream.news: a lag if changes are missing": Fault("stream.news", "not reaches(log.floor, heard)", "False"),
    "stream.news: each once, in order": Fault("stream.news", "in log.changes", "in log.changes[::-1]"),
    # Several steps.
    "laws.after: only acquiring changes the epoch": Fault(
        "lease.renew", "expires=", "epoch=Epoch(epoch + 1), expires="
    ),
    "laws.passes_again: a dead epoch stays dead": Fault("lease.acquire", "lease.epoch + 1", "lease.epoch"),
    "laws.released: nobody passes": Fault("lease.fence", "lease.holder is not None and ", ""),
    "laws.stranded: it can be taken from its end on, and at the latest after the longest lease": Fault(
        "lease.takeable", "lease.expires > now + LONGEST_LEASE_MS", "False"
    ),
    "laws.revived: what is lost stays lost": Fault("guard.lost", "NO_GUARD", "taken(epoch)"),
    "laws.kept: what did not change is kept": Fault("cache.sync", "change.version > cache.version", "True"),
    "laws.true_after_sync: a true cache is brought up to date": Fault(
        "cache.sync", "not reaches(log.floor, cache.version)", "False"
    ),
    "laws.true_after_fill: a true cache stays true": Fault("cache.fill", "version != cache.version or ", ""),
    "laws.true_after_install: a true cache stays true": Fault(
        "cache.install", "version != cache.version + 1", "version <= cache.version"
    ),
    "laws.news_of_two_readings: each change is delivered once, in order, wherever the readings part": Fault(
        "stream.news", "change.version > heard", "change.version >= heard"
    ),
}


def broken(function: FunctionType, fault: Fault) -> FunctionType:
    """The function with the fault, in the same module, and without its docstring: so nothing holds it to its contracts.

    Raises ``ValueError`` where the line to be broken is no longer there.
    """
    tree = ast.parse(dedent(inspect.getsource(function)))
    [definition] = tree.body
    assert isinstance(definition, ast.FunctionDef)
    del definition.body[0]
    body = ast.unparse(tree)
    if body.count(fault.old) != 1:
        raise ValueError(f"'{fault.old}' is {body.count(fault.old)} times in the body of {fault.function}, not once")
    found: dict[str, FunctionType] = {}
    exec(body.replace(fault.old, fault.new), function.__globals__, found)  # noqa: S102 (our own code, and a word of it)
    return found[definition.name]
