"""Stop calls to a backend at a gate, so that the replay decides when each call runs and when its answer is delivered.

Every call stops twice: before it runs, and before its caller gets the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeAlias, TypeVar

from unwedged.protocol.cache import ChangeLog
from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds, Version
from unwedged.protocol.lease import Lease
from unwedged.store.backend import Backend, Committed, Listed, Loaded, Row, RowName
from unwedged.store.errors import StoreBusy
from unwedged.store.expectations import StoreMark

Answer = TypeVar("Answer")


class PendingCall(Generic[Answer]):
    """A call to a backend that waits at the gate."""

    def __init__(self, call: Callable[[], Awaitable[Answer]]) -> None:
        self.answer: Answer | None = None
        self.failure: Exception | None = None
        self._call = call
        self._delivered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Run the call against the database, and keep its answer."""
        try:
            self.answer = await self._call()
        except Exception as failure:  # noqa: BLE001 (every exception goes to the caller)
            self.failure = failure

    def fail(self) -> None:
        """Let the call fail without running it, as if the database were busy."""
        self.failure = StoreBusy("injected by the replay")

    def deliver(self) -> None:
        """Give the answer to the caller."""
        if self._delivered.done():
            return
        if self.failure is not None:
            self._delivered.set_exception(self.failure)
        else:
            self._delivered.set_result(self.answer)  # type: ignore[arg-type]  # the call has run, so this is its answer

    def discard(self) -> None:
        """Give the caller no answer, because its process has ended."""
        self._delivered.cancel()

    async def delivered(self) -> Answer:
        """Wait at the gate."""
        return await self._delivered


AnyCall: TypeAlias = (
    "PendingCall[Lease] | PendingCall[None] | PendingCall[Loaded] | PendingCall[Listed] | PendingCall[Committed]"
    " | PendingCall[ChangeLog[RowName]]"
)


class GatedBackend:
    """A backend whose calls stop at a gate, apart from ``reseal``, ``reopen`` and ``close``."""

    def __init__(self, backend: Backend) -> None:
        self.identity = backend.identity
        self._backend = backend
        self.arrived: list[AnyCall] = []

    async def acquire(self, instance: InstanceId, label: str, now: Milliseconds, duration: Milliseconds) -> Lease:
        """Stop at the gate."""
        call = PendingCall(lambda: self._backend.acquire(instance, label, now, duration))
        self.arrived.append(call)
        return await call.delivered()

    async def look(self) -> Lease:
        """Stop at the gate."""
        call = PendingCall(self._backend.look)
        self.arrived.append(call)
        return await call.delivered()

    async def renew(self, epoch: Epoch, now: Milliseconds, duration: Milliseconds) -> Lease:
        """Stop at the gate."""
        call = PendingCall(lambda: self._backend.renew(epoch, now, duration))
        self.arrived.append(call)
        return await call.delivered()

    async def release(self, epoch: Epoch) -> None:
        """Stop at the gate."""
        call = PendingCall(lambda: self._backend.release(epoch))
        self.arrived.append(call)
        return await call.delivered()

    async def check(self, epoch: Epoch) -> Lease:
        """Stop at the gate."""
        call = PendingCall(lambda: self._backend.check(epoch))
        self.arrived.append(call)
        return await call.delivered()

    async def changes(self, since: Version, epoch: Epoch | None) -> ChangeLog[RowName]:
        """Stop at the gate."""
        call = PendingCall(lambda: self._backend.changes(since, epoch))
        self.arrived.append(call)
        return await call.delivered()

    async def load(self, epoch: Epoch, name: RowName, since: Version) -> Loaded:
        """Stop at the gate."""
        call = PendingCall(lambda: self._backend.load(epoch, name, since))
        self.arrived.append(call)
        return await call.delivered()

    async def keys(self, epoch: Epoch, kind: str, since: Version) -> Listed:
        """Stop at the gate."""
        call = PendingCall(lambda: self._backend.keys(epoch, kind, since))
        self.arrived.append(call)
        return await call.delivered()

    async def commit(
        self, epoch: Epoch, rows: Sequence[Row], now: Milliseconds, duration: Milliseconds, *, may_release: bool
    ) -> Committed:
        """Stop at the gate."""
        call = PendingCall(lambda: self._backend.commit(epoch, rows, now, duration, may_release=may_release))
        self.arrived.append(call)
        return await call.delivered()

    async def truncate(self, floor: Version) -> None:
        """Stop at the gate."""
        call = PendingCall(lambda: self._backend.truncate(floor))
        self.arrived.append(call)
        return await call.delivered()

    async def reseal(self, header: bytes, fresh: bytes) -> bool:
        """Run at once: the models do not have the secret."""
        return await self._backend.reseal(header, fresh)

    async def reopen(self, known: StoreMark) -> None:
        """Do nothing: the file is open."""

    async def close(self) -> None:
        """Do nothing: the file stays open longer than every process of the model."""
