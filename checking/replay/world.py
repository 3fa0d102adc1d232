"""Hold the processes of a model: real store objects on one SQLite file, which take one step of the protocol at a time.

The stores are real: each process of the model is a ``CryptoStore``, and each operation is a task that uses it. Every
call to a backend stops at a gate. So ``checking.replay.steps`` can take the steps of the model one by one, in any
order, and ``checking.replay.observation`` can observe the state between them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from checking.errors import CheckError
from checking.replay.actors import Actor
from checking.replay.counters import COUNTER
from checking.replay.database import Database
from checking.replay.doubles import InlineExecutor, ManualClock, UnusedRandomness
from checking.replay.gate import GatedBackend
from checking.replay.processes import ExposedStore, Process
from unwedged.protocol.identifiers import InstanceId, Milliseconds, Version
from unwedged.protocol.lease import LONGEST_LEASE_MS
from unwedged.store.lock import LeaseTimes
from unwedged.store.sealer import RandomKey, Sealer
from unwedged.store.sqlite import SqliteBackend
from unwedged.trace import Tracer


def forget_version(backend: SqliteBackend) -> None:
    """Let a backend that stays open follow a store that was emptied, which P18.10 otherwise takes for an older copy."""
    backend._newest, backend._rolled_back = Version(0), False  # noqa: SLF001 (a test harness)


class World:
    """All processes of a model on one file. ``home`` has the process of each operation."""

    def __init__(
        self,
        backends: Mapping[str, SqliteBackend],
        sealer: Sealer,
        database: Database,
        home: Mapping[str, str],
        records: Sequence[str],
        subscribers: frozenset[str],
    ) -> None:
        """Use ``open`` instead."""
        self.clock = ManualClock()
        self.home = home
        self.records = tuple(records)
        self.subscribers = subscribers
        self.database = database
        self.processes: dict[str, Process] = {}
        self.bases: dict[int, dict[str, int]] = {}
        """The values that the updates of each version were computed from."""
        self.history: list[dict[str, int]] = []
        """The store's records at each version."""
        self.strict = True
        """Whether every step must be possible. If not, a refused step is skipped."""
        self.same_instance = False
        """Whether all processes use the same instance number (for a fault)."""
        self.on_reset: Callable[[World], None] = lambda world: None
        self.writes_long = False
        """Whether the next commit stops before its last statement, for ``write_begins``."""
        self.at_last_statement = asyncio.Event()
        self.last_statement = threading.Event()
        self._backends = backends
        self._sealer = sealer
        self.instances = 0
        """How many instances there have been."""
        self.tracer: Tracer | None = None
        """The tracer of processes that start from now on."""

    @classmethod
    async def open(
        cls, folder: Path, home: Mapping[str, str], records: Sequence[str], subscribers: frozenset[str]
    ) -> World:
        """Create a store file in ``folder``, and start the processes on it."""
        asyncio.get_running_loop().set_default_executor(InlineExecutor())
        path = folder / "replay.store"
        names = sorted(set(home.values()))
        backends = {name: await SqliteBackend.open(path) for name in names}
        sealer = Sealer.create(RandomKey(bytes(32)), backends[names[0]].identity)
        world = cls(backends, sealer, Database(path, sealer, records), home, records, subscribers)
        await world.reset()
        return world

    async def close(self) -> None:
        """End all processes, and close the file."""
        for process in self.processes.values():
            await process.kill()
        for backend in self._backends.values():
            await backend.close()
        self.database.close()

    async def reset(self) -> None:
        """Restore the initial state: an empty store, and new processes."""
        for process in self.processes.values():
            await process.kill()
        self.database.empty()
        for backend in self._backends.values():
            forget_version(backend)
        self.bases.clear()
        self.history = [dict.fromkeys(self.records, 0)]
        self.begin()

    def begin(self) -> None:
        """Start the processes."""
        for name in self._backends:
            self._start(name)
        self.on_reset(self)

    def _start(self, name: str) -> None:
        if not self.same_instance:
            self.instances += 1
        gate = GatedBackend(self._backends[name])
        instance = InstanceId(self.instances + 1)
        store = ExposedStore._assemble(  # noqa: SLF001 (a test harness)
            gate,
            self._sealer,
            (COUNTER,),
            label=name,
            instance=instance,
            version=Version(0),
            times=LeaseTimes(turn_ms=Milliseconds(0)),
            clock=self.clock,
            randomness=UnusedRandomness(),
            tracer=self.tracer,
        )
        # The model releases the lease in a step of its own. So only the replay may release it.
        store.lock.begin_release = lambda: None  # type: ignore[method-assign]
        self.processes[name] = Process(name, instance, gate, store)

    # Steps of no process

    def jump_back(self) -> None:
        """Move the wall clock back by more than the duration of any lease."""
        self.clock.time_ms -= 10 * LONGEST_LEASE_MS

    def expire_lease(self) -> None:
        """Move the clock to the end of the lease."""
        self.clock.time_ms = max(self.clock.time_ms, self.database.state().expires)

    async def truncate(self) -> None:
        """Truncate the change log."""
        await next(iter(self._backends.values())).truncate(Version(self.database.state().version))

    async def crash(self, name: str) -> None:
        """Kill a process, and start it again under the same label."""
        await self.processes[name].kill()
        self._start(name)

    # For the steps

    def process_of(self, operation: str) -> Process:
        """Return the process that an operation belongs to."""
        return self.processes[self.home[operation]]

    def actor(self, operation: str) -> Actor | None:
        """Return the operation, if it has begun and not ended."""
        return self.process_of(operation).actors.get(operation)

    def note_commit(self, version: int, base: Mapping[str, int]) -> None:
        """Note that a commit made ``version``, and the values that its updates were computed from."""
        self.bases[version] = dict(base)
        self.history.append(self.database.records())

    def demand(self, so: bool, otherwise: str) -> None:
        """Raise ``CheckError`` with the message ``otherwise`` if ``so`` is false and every step must be possible."""
        if self.strict and not so:
            raise CheckError(otherwise)

    def refused(self, step: str, why: str) -> bool:
        """Return ``False`` for a step that is not possible. Raises ``CheckError`` if every step must be possible."""
        if self.strict:
            raise CheckError(f"the model takes the step {step}, but the implementation can't: {why}")
        return False
