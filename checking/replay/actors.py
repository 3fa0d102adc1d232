"""Run the operations of a model as tasks inside a transaction or a view, which carry out commands."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from checking.replay.counters import COUNTER, Counter, count_of
from checking.replay.gate import PendingCall
from unwedged.protocol.identifiers import Version
from unwedged.protocol.lease import Lease
from unwedged.store.backend import Committed, Loaded
from unwedged.store.transactions import Transaction, View


class Failed(Exception):
    """The error that the code inside an operation raises."""


@dataclass(slots=True, eq=False)
class Actor:
    """One operation, and its progress."""

    mode: str
    begun: Version
    """The store's version when it began."""
    stage: str = "running"
    task: asyncio.Task[None] | None = None
    operation: Transaction | View | None = None
    call: PendingCall[Loaded] | PendingCall[Committed] | PendingCall[Lease] | None = None
    writing: asyncio.Task[None] | None = None
    """Its commit, while a long commit is running."""
    record: str = ""
    """The record that it is loading."""
    base: dict[str, int] = field(default_factory=dict)
    """The values that its updates were computed from."""
    objects: dict[str, Counter] = field(default_factory=dict)
    """The live objects that it has changed."""
    listed: tuple[str, ...] | None = None
    """The records that its last listing returned."""
    next_command: asyncio.Future[tuple[str, frozenset[str]]] | None = None
    """Set while it waits for a command."""
    outcome: BaseException | None = None
    """The exception that it ended with, if any."""

    @property
    def awaits_command(self) -> bool:
        """Whether it waits for a command."""
        return self.next_command is not None

    @property
    def ended(self) -> bool:
        """Whether its task has ended, or never began."""
        return self.task is None or self.task.done()

    def command(self, command: str, records: Iterable[str] = ()) -> None:
        """Give the next command to an operation that waits for it."""
        assert self.next_command is not None
        next_command, self.next_command = self.next_command, None
        next_command.set_result((command, frozenset(records)))

    async def perform(
        self, enter: AbstractAsyncContextManager[Transaction] | AbstractAsyncContextManager[View]
    ) -> None:
        """Carry out commands inside the operation until a command ends it."""
        async with enter as self.operation:
            while True:
                self.next_command = asyncio.get_running_loop().create_future()
                command, records = await self.next_command
                if command == "load":
                    (record,) = records
                    await self.operation.get(COUNTER, record)
                elif command == "list":
                    self.listed = await self.operation.keys(COUNTER)
                elif command == "abort":
                    await self._update(self.known())
                    raise asyncio.CancelledError
                elif command == "fail":
                    await self._update(self.known())
                    raise Failed
                else:
                    await self._update(records)
                    return

    async def _update(self, records: Iterable[str]) -> None:
        """Advance the live objects of these records, as an encryption would."""
        if isinstance(self.operation, Transaction):
            for record in sorted(records):
                counter = await self.operation.get(COUNTER, record) or Counter(0)
                self.base[record] = counter.count
                self.objects[record] = counter
                counter.count += 1
                self.operation.put(COUNTER, record, counter)

    def known(self) -> dict[str, int]:
        """Return the records that the operation can read in memory."""
        if self.operation is None:
            return {}
        return {
            name.key.decode(): count_of(value) for name, value in self.operation._operation.snapshot.records.items()
        }
