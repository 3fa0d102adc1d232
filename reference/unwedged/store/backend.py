"""The interface between the store and a database engine.

Each method is one database transaction. Each method that is called for a guard is fenced: in the same transaction it
checks that the lease row still has the guard's epoch. If not, it raises ``LeaseLost`` and changes nothing (P4.2). A
backend knows rows of bytes: no Matrix, no sealing, no cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from unwedged.protocol.cache import ChangeLog
from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds, Version
from unwedged.protocol.lease import Lease
from unwedged.store.expectations import StoreMark


class RowName(NamedTuple):
    """The identity of a row: the name of its kind, and its key as it is stored (hidden)."""

    kind: str
    key: bytes


@dataclass(frozen=True, slots=True)
class Row:
    """A row to write: its sealed ``value``, or ``None`` to delete it."""

    name: RowName
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A row as it is at ``version``; ``changed`` says whether it changed after the version asked about."""

    version: Version
    value: bytes | None
    changed: bool
    floor: Version
    """Up to which version the change log was cut."""


@dataclass(frozen=True, slots=True)
class Listed:
    """The keys of one kind at ``version``; ``changed``: whether any of them changed after the version asked about."""

    version: Version
    keys: tuple[bytes, ...]
    changed: bool


@dataclass(frozen=True, slots=True)
class Committed:
    """The result of a commit: the new store ``version``, and what happened to the lease."""

    version: Version
    wanted: bool
    """Whether somebody waits."""
    released: bool
    """Whether the lease was released."""
    left_ms: Milliseconds = field(compare=False)
    """How long the lease lasted when it was renewed, all the time that the access took until then taken off."""


class Backend(Protocol):
    """A database that several processes share. Any method may raise ``StoreBusy``; nothing was changed then."""

    @property
    def identity(self) -> bytes:
        """The store's own random identity."""

    async def acquire(self, instance: InstanceId, label: str, now: Milliseconds, duration: Milliseconds) -> Lease:
        """Take the lease, or set ``wanted``; return the row. Taken: ``holder`` is ``instance``."""

    async def look(self) -> Lease:
        """Return the lease row. Not fenced: it is for processes that wait."""

    async def renew(self, epoch: Epoch, now: Milliseconds, duration: Milliseconds) -> Lease:
        """Extend the lease of ``epoch`` to ``duration`` from ``now`` and return the row. Fenced."""

    async def release(self, epoch: Epoch) -> None:
        """Release the lease of ``epoch``; nothing happens if it is no longer held under that epoch."""

    async def check(self, epoch: Epoch) -> Lease:
        """Return the lease row. Fenced: if it returns, the epoch still stands (P6.1)."""

    async def changes(self, since: Version, epoch: Epoch | None) -> ChangeLog[RowName]:
        """Read the change log after ``since``. Fenced where an ``epoch`` is given; subscribers read without one."""

    async def load(self, epoch: Epoch, name: RowName, since: Version) -> Loaded:
        """Read one row, and whether it changed after ``since``. Fenced."""

    async def keys(self, epoch: Epoch, kind: str, since: Version) -> Listed:
        """Read the keys of all rows of one kind, and whether any of them changed after ``since``. Fenced."""

    async def commit(
        self, epoch: Epoch, rows: Sequence[Row], now: Milliseconds, duration: Milliseconds, *, may_release: bool
    ) -> Committed:
        """Write all ``rows``, the next version and the change log, and renew the lease, all or nothing. Fenced.

        If somebody waits, and this commit ``may_release`` the lease, it is released instead of renewed (P5.17).

        The transaction is durable when this returns. If the caller is cancelled meanwhile, the cancellation reaches
        it only after the transaction was rolled back or committed. It is never left open (P12.2).
        """

    async def truncate(self, floor: Version) -> None:
        """Forget the change log up to and including ``floor`` (at most the store's version)."""

    async def reseal(self, header: bytes, fresh: bytes) -> bool:
        """If the sealing header is still ``header``, replace it by ``fresh`` and return true. Not fenced."""

    async def reopen(self, known: StoreMark) -> None:
        """Open the database again after ``close``, if it is still the same one and no older copy of it."""

    async def close(self) -> None:
        """Close the database. The lease is not touched."""
