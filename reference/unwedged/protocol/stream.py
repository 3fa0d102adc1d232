"""What is published to subscribers, and up to which version (P9.2).

A subscriber gets every committed change once, in version order, whichever process made it. If the change log no longer
reaches back to what was delivered to it, it gets ``Lagged`` instead, and continues from there.

The same operators in ``tla/CryptoStoreCache.tla``: ``PublishedUpTo`` and ``PublishedOwn``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from unwedged.protocol.cache import Change, ChangeLog, reaches
from unwedged.protocol.identifiers import Version

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Lagged:
    """Changes up to and including ``version`` may have been missed: read the records themselves (P9.6)."""

    version: Version


# P9.5, P9.6
def news(heard: Version, log: ChangeLog[Key]) -> tuple[Change[Key] | Lagged, ...]:
    """Return what to deliver to a subscriber that has everything up to ``heard``: the changes after it, or a lag.

    pre: all(line.version <= log.version for line in log.changes)
    pre: all(line.version <= later.version for line, later in zip(log.changes, log.changes[1:]))
    post: all(heard < item.version <= log.version for item in _)  # nothing is delivered twice
    post: (_ == (Lagged(log.version),)) == (heard < min(log.version, log.floor))  # a lag if changes are missing
    post: heard < log.floor or _ == tuple(line for line in log.changes if line.version > heard)  # each once, in order
    """
    if log.version <= heard:
        return ()
    if not reaches(log.floor, heard):
        return (Lagged(log.version),)
    return tuple(change for change in log.changes if change.version > heard)
