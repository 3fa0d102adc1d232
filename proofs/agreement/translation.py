"""Translate TLC's values into the rows, guards, caches and change logs of `protocol`.

The specification has the remaining time of a lease in ticks; the code has the time of its end. The longest lease that
the code allows lasts `LeaseTime` ticks. An absurd lease of the specification ends later than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rpds import HashTrieMap

from checking.errors import UnreadableOutput
from checking.tlc.values import ModelValue, Value
from unwedged.protocol.cache import Cache, Change, ChangeLog
from unwedged.protocol.guard import Guard, Stage
from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds, Version
from unwedged.protocol.lease import LONGEST_LEASE_MS, Lease

Name = ModelValue
"""The name of a process, an operation or a record."""

MISSING, NOBODY, DEPARTED = Name("Missing"), Name("Nobody"), Name("Departed")
INSTANCES = {Name("p1"): InstanceId(2**63 - 1), Name("p2"): InstanceId(1), DEPARTED: InstanceId(2)}


def function(value: Value) -> HashTrieMap[Value, Value]:
    """Return a value as a record or a function. TLC prints an empty function as the empty sequence."""
    if value == ():
        return HashTrieMap()
    if not isinstance(value, HashTrieMap):
        raise UnreadableOutput(f"{value!r} is not a function")
    return value


def sequence(value: Value) -> tuple[Value, ...]:
    """Return a value as a sequence."""
    if not isinstance(value, tuple):
        raise UnreadableOutput(f"{value!r} is not a sequence")
    return value


def number(value: Value) -> int:
    """Return a value as a number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise UnreadableOutput(f"{value!r} is not a number")
    return value


def truth(value: Value) -> bool:
    """Return a value as a truth value."""
    if not isinstance(value, bool):
        raise UnreadableOutput(f"{value!r} is not a truth value")
    return value


def name(value: Value) -> Name:
    """Return a value as a model value."""
    if not isinstance(value, ModelValue):
        raise UnreadableOutput(f"{value!r} is not the name of anything")
    return value


def names(value: Value) -> frozenset[Name]:
    """Return a value as a set of model values."""
    if not isinstance(value, frozenset):
        raise UnreadableOutput(f"{value!r} is not a set")
    return frozenset(map(name, value))


def instance(value: Value) -> InstanceId | None:
    """Return the instance of a lease's holder."""
    return None if value == NOBODY else INSTANCES[name(value)]


def row(value: Value, expires: Milliseconds) -> Lease:
    """Return a lease row that expires at `expires`."""
    fields = function(value)
    return Lease(Epoch(number(fields["epoch"])), instance(fields["holder"]), expires, truth(fields["wanted"]))


def left(value: Value) -> int:
    """Return the remaining time of the lease in a row, in ticks."""
    return number(function(value)["left"])


def time_left(ticks: int, lease_time: int) -> tuple[int, ...]:
    """Return the least and the greatest number of milliseconds that so many ticks stand for."""
    tick = LONGEST_LEASE_MS // lease_time
    if ticks == 0:
        return (0, -1, -(2**63))
    if ticks > lease_time:
        return (LONGEST_LEASE_MS + 1, 2**63)
    return ((ticks - 1) * tick + 1, ticks * tick)


def guard(value: Value) -> Guard:
    """Return the guard of a process."""
    fields = function(value)
    return Guard(Stage(fields["stage"]), Epoch(number(fields["epoch"])))


def records(value: Value) -> HashTrieMap[Name, int]:
    """Return the records with values that are not `Missing`."""
    return HashTrieMap((name(key), number(known)) for key, known in function(value).items() if known != MISSING)


def cache(value: Value) -> Cache[Name, int]:
    """Return a cache."""
    fields = function(value)
    return Cache(Version(number(fields["version"])), records(fields["records"]))


def known(of: Cache[Name, int]) -> HashTrieMap[Name, int]:
    """Return the records in a cache, with their values."""
    return HashTrieMap((key, value) for key, value in of.records.items() if value is not None)


def change_log(commits: Sequence[Iterable[Name]], floor: int, since: int) -> ChangeLog[Name]:
    """Return the answer to a read of the changes after a version."""
    lines = [(version, key) for version, commit in enumerate(commits, 1) for key in sorted(commit)]
    kept = tuple(Change(Version(version), key) for version, key in lines if version > max(since, floor))
    return ChangeLog(Version(len(commits)), Version(floor), kept)
