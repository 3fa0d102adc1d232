"""Run the machines of a device that several processes share, on one real store file. One machine works at a time.

The clock does not move by itself. The lease goes to the process that is to work. The records are read, copied and
restored through a connection that takes no part in the protocol.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

from checking.replay.doubles import ManualClock
from checking.replay.substitutions import substituted
from unwedged.machine import OlmMachine
from unwedged.machine.identifiers import Device
from unwedged.store import CryptoStore, RecordKind
from unwedged.store.sealer import Sealer
from unwedged.store.sqlite import SqliteBackend

Key = TypeVar("Key")
Value = TypeVar("Value")
Result = TypeVar("Result")

_KEY = bytes(32)


class Row(NamedTuple):
    """A row of the table of records."""

    kind: str
    key: bytes
    value: bytes


class Opening(NamedTuple):
    """A restarted process that waits before its second operation on the store."""

    opened: asyncio.Task[OlmMachine]
    may_go_on: asyncio.Event


class SharedDevice:
    """A device, with a machine in each of its processes."""

    def __init__(self, path: Path, device: Device, clock: ManualClock) -> None:
        """Use ``open`` instead."""
        self._path = path
        self._device = device
        self._clock = clock
        self._machines: dict[str, OlmMachine] = {}
        self._active: str | None = None
        """The only process that may hold the lease."""
        self._connection: sqlite3.Connection
        self._sealer: Sealer
        self._rows: dict[Row, tuple[object, object]] = {}
        """The decoded records, by their rows."""

    @classmethod
    async def open(cls, path: Path, device: Device, processes: Sequence[str], clock: ManualClock) -> SharedDevice:
        """Create the store at ``path``, and let each process open it."""
        made = cls(path, device, clock)
        for process in processes:
            made._machines[process] = await made._open(process)
        made._connection = sqlite3.connect(path, isolation_level=None)
        made._sealer = made._machines[processes[0]]._store._sealer
        return made

    async def close(self) -> None:
        """Close the machines and the file."""
        await self._hand_over()
        for machine in self._machines.values():
            await machine.close()
        self._connection.close()

    async def reopen(self, process: str) -> OlmMachine:
        """Restart a process, and return its machine."""
        await self._hand_over()
        await self._machines[process].close()
        self._machines[process] = await self._open(process)
        return self._machines[process]

    async def begin_to_open(self, process: str) -> Opening | None:
        """Restart a process up to its second operation on the store. Return ``None`` if it needs only one operation."""
        second, may_go_on, operations = asyncio.Event(), asyncio.Event(), 0
        run = CryptoStore.run

        async def counted(store: CryptoStore, *arguments: object, **keywords: object) -> object:
            nonlocal operations
            operations += 1
            if operations > 1:
                await store._lock.release_now()
                second.set()
                await may_go_on.wait()
            return await run(store, *arguments, **keywords)  # type: ignore[arg-type]

        with substituted([(CryptoStore, "run", counted)]):
            opened = asyncio.create_task(self.reopen(process))
            waits = asyncio.create_task(second.wait())
            await asyncio.wait((opened, waits), return_when=asyncio.FIRST_COMPLETED)
        waits.cancel()
        if opened.done():
            await opened
            return None
        return Opening(opened, may_go_on)

    async def go_on(self, opening: Opening) -> OlmMachine:
        """Let a waiting process continue, and return its machine."""
        await self._hand_over()
        opening.may_go_on.set()
        return await opening.opened

    async def machine(self, process: str) -> OlmMachine:
        """Give the lease to a process, and return its machine."""
        if self._active != process:
            await self._hand_over()
            self._active = process
        return self._machines[process]

    async def another_machine(self) -> OlmMachine:
        """Return the machine of another process than the one that worked last."""
        return await self.machine(next(process for process in self._machines if process != self._active))

    def records(self, kind: RecordKind[Key, Value]) -> dict[Key, Value]:
        """Return all records of a kind in the file. The caller must not change them."""
        rows = self._connection.execute("SELECT key, value FROM record WHERE kind = ?", (kind.name,))
        return dict(self._opened(kind, *row) for row in rows)

    def rows(self) -> tuple[Row, ...]:
        """Return all rows of records, for ``restore``."""
        return tuple(Row(*row) for row in self._connection.execute("SELECT kind, key, value FROM record"))

    async def restore(self, rows: Sequence[Row]) -> None:
        """Replace all records of the store by these.

        To the machines this looks like a commit by another process whose changes are no longer in the change log.
        """
        await self._hand_over()
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM record")
        connection.executemany("INSERT INTO record (kind, key, value) VALUES (?, ?, ?)", rows)
        connection.execute("DELETE FROM change")
        connection.execute("UPDATE state SET version = version + 1, floor = version + 1")
        connection.execute("COMMIT")

    def _opened(self, kind: RecordKind[Key, Value], key: bytes, sealed: bytes) -> tuple[Key, Value]:
        """Return the decoded record of a row. The same row always gives the same object."""
        row = Row(kind.name, key, sealed)
        if row not in self._rows:
            name = self._sealer.reveal(kind.name, key)
            value = kind.value.decode(self._sealer.open(kind.name, name, sealed))
            self._rows[row] = kind.key.decode(name), value
        return cast("tuple[Key, Value]", self._rows[row])  # the codec of this kind has decoded it

    async def _open(self, process: str) -> OlmMachine:
        machine = await OlmMachine.open(
            self._path,
            user_id=self._device.user_id,
            device_id=self._device.device_id,
            label=process,
            key=_KEY,
            clock=self._clock,
        )
        await _release(machine)
        backend = machine._store._services.backend
        assert isinstance(backend, SqliteBackend)
        # Run on the event loop's thread: a change to the driver's thread takes longer than the work.
        backend._driver.call = partial(_call_at_once, backend._driver._conn)  # type: ignore[method-assign]
        return machine

    async def _hand_over(self) -> None:
        if self._active is not None:
            await _release(self._machines[self._active])
            self._active = None


async def _call_at_once(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], Result]) -> Result:
    return work(connection)


async def _release(machine: OlmMachine) -> None:
    await machine._store._lock.release_now()
