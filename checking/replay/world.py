"""A model's processes for real: store objects on one SQLite file, which take one step of the protocol at a time.

Nothing here stands in for the store: each process of the model is a ``CryptoStore``, each operation a task that uses
it. Every call to a backend stops at a gate, so that the steps of the model can be taken one by one, in any order
(``checking.replay.steps``), and what was reached can be observed between them (``checking.replay.observation``).
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


class World:
    """All processes of a model on one file. ``home`` says which process an operation belongs to."""

    def __init__(
        self,
        backends: Mapping[str, SqliteBackend],
        sealer: Sealer,
        database: Database,
        home: Mapping[str, str],
        records: Sequence[str],
        subscribers: frozenset[str],
    ) -> None:
        """For ``open``."""
        self.clock = ManualClock()
        self.home = home
        self.records = tuple(records)
        self.subscribers = subscribers
        self.database = database
        self.processes: dict[str, Process] = {}
        self.bases: dict[int, dict[str, int]] = {}
        """By version, what each update of that commit was computed from."""
        self.history: list[dict[str, int]] = []
        """The store's records at each version."""
        self.strict = True
        """Whether every step must be possible; otherwise one that is refused is passed over."""
        self.same_instance = False
        """Whether all processes present one and the same instance (for a fault)."""
        self.on_reset: Callable[[World], None] = lambda world: None
        self.writes_long = False
        """Whether the next commit stops before its last statement, for ``write_begins``."""
        self.at_last_statement = asyncio.Event()
        self.last_statement = threading.Event()
        self._backends = backends
        self._sealer = sealer
        self.instances = 0
        """How many there have been."""
        self.tracer: Tracer | None = None
        """Where processes that start from now on write what they do."""

    @classmethod
    async def open(
        cls, folder: Path, home: Mapping[str, str], records: Sequence[str], subscribers: frozenset[str]
    ) -> World:
        """Make a store file in ``folder`` and the processes on it."""
        asyncio.get_running_loop().set_default_executor(InlineExecutor())
        path = folder / "replay.store"
        names = sorted(set(home.values()))
        backends = {name: await SqliteBackend.open(path) for name in names}
        sealer = Sealer.create(RandomKey(bytes(32)), backends[names[0]].identity)
        world = cls(backends, sealer, Database(path, sealer, records), home, records, subscribers)
        await world.reset()
        return world

    async def close(self) -> None:
        """End all processes and let go of the file."""
        for process in self.processes.values():
            await process.kill()
        for backend in self._backends.values():
            await backend.close()
        self.database.close()

    async def reset(self) -> None:
        """Begin anew: an empty store, and processes that have done nothing."""
        for process in self.processes.values():
            await process.kill()
        self.database.empty()
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
        store = ExposedStore._assemble(  # noqa: SLF001 (this is a harness, for which it is meant)
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
        # In the model, releasing the lease is a step of its own; here it is one the replay takes.
        store.lock.begin_release = lambda: None  # type: ignore[method-assign]
        self.processes[name] = Process(name, instance, gate, store)

    # What no process does

    def jump_back(self) -> None:
        """Let the wall clock jump back, by more than any lease lasts."""
        self.clock.time_ms -= 10 * LONGEST_LEASE_MS

    def expire_lease(self) -> None:
        """Let the lease's time run out."""
        self.clock.time_ms = max(self.clock.time_ms, self.database.state().expires)

    async def truncate(self) -> None:
        """Cut the change log."""
        await next(iter(self._backends.values())).truncate(Version(self.database.state().version))

    async def crash(self, name: str) -> None:
        """Kill a process, and start it again under the same label."""
        await self.processes[name].kill()
        self._start(name)

    # What the steps need

    def process_of(self, operation: str) -> Process:
        """Return the process that an operation belongs to."""
        return self.processes[self.home[operation]]

    def actor(self, operation: str) -> Actor | None:
        """Return the operation, if it has begun and not ended."""
        return self.process_of(operation).actors.get(operation)

    def note_commit(self, version: int, base: Mapping[str, int]) -> None:
        """Note that a commit made ``version``, and what its updates were computed from."""
        self.bases[version] = dict(base)
        self.history.append(self.database.records())

    def demand(self, so: bool, otherwise: str) -> None:
        """Raise ``CheckError`` if something is not so, unless the implementation may be broken."""
        if self.strict and not so:
            raise CheckError(otherwise)

    def refused(self, step: str, why: str) -> bool:
        """Note that a step is not possible. Returns that it was not."""
        if self.strict:
            raise CheckError(f"the model takes the step {step}, the implementation can't: {why}")
        return False
