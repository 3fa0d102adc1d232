"""The naive short cuts that the protocol rules out, each put in place of what the product does.

The product has no switch for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum

from unwedged.protocol.cache import Cache, ChangeLog
from unwedged.protocol.identifiers import Epoch, Milliseconds, Version
from unwedged.protocol.lease import Lease
from unwedged.store import crypto_store
from unwedged.store.backend import Committed, Listed, Loaded, Row, RowName
from unwedged.store.guarded_cache import GuardedCache, RecordName
from unwedged.store.sqlite import SqliteBackend


class ShortCut(Enum):
    """What a process leaves out."""

    NONE = "none"
    NO_FENCE = "no fence"
    """Whoever was once given the lease reads and writes for ever."""
    KEPT_CACHE = "kept cache"
    """What is in memory stays there, whatever others wrote since."""


class UnfencedBackend(SqliteBackend):
    """Answers for whatever epoch the lease row bears, not for the one it was asked for, and finds nothing odd."""

    async def check(self, epoch: Epoch) -> Lease:
        return await super().check(await self._standing(epoch))

    async def load(self, epoch: Epoch, name: RowName, since: Version) -> Loaded:
        return replace(await super().load(await self._standing(epoch), name, since), changed=False)

    async def keys(self, epoch: Epoch, kind: str, since: Version) -> Listed:
        return replace(await super().keys(await self._standing(epoch), kind, since), changed=False)

    async def commit(
        self, epoch: Epoch, rows: Sequence[Row], now: Milliseconds, duration: Milliseconds, *, may_release: bool
    ) -> Committed:
        return await super().commit(await self._standing(epoch), rows, now, duration, may_release=may_release)

    async def _standing(self, epoch: Epoch) -> Epoch:
        for (standing,) in await self._read("SELECT epoch FROM state", {}):
            return Epoch(standing)
        return epoch


def _kept(guarded: GuardedCache, epoch: Epoch, log: ChangeLog[RecordName], _: Cache[RecordName, bytes]) -> GuardedCache:
    return GuardedCache(epoch, Cache(log.version, guarded.cache.records), guarded.live)


def take(short_cut: ShortCut) -> None:
    """Take a short cut from here on, in this process."""
    match short_cut:
        case ShortCut.NO_FENCE:
            setattr(crypto_store, "SqliteBackend", UnfencedBackend)  # noqa: B010 (a type checker would refuse it)
        case ShortCut.KEPT_CACHE:
            setattr(GuardedCache, "successor", _kept)  # noqa: B010 (a type checker would refuse it)
        case ShortCut.NONE:
            pass
