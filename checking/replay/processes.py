"""Run the processes of a model: each is a store object with a backend of its own on the shared file."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from checking.replay.actors import Actor
from checking.replay.counters import Counter
from checking.replay.doubles import RecordingSubscriber
from checking.replay.event_loop import cancel
from checking.replay.gate import GatedBackend, PendingCall
from unwedged.protocol.cache import ChangeLog
from unwedged.protocol.identifiers import InstanceId, Version
from unwedged.store.backend import RowName
from unwedged.store.crypto_store import CryptoStore
from unwedged.store.lock import LeaseLock
from unwedged.store.streams import Streams


class ExposedStore(CryptoStore):
    """A store object whose internal parts the replay can use."""

    @property
    def lock(self) -> LeaseLock:
        """The lease as this instance uses it."""
        return self._lock

    @property
    def streams(self) -> Streams:
        """Its subscriptions."""
        return self._streams

    async def listen_now(self) -> None:
        """Read the change log, as a background task of the store does."""
        await self._publish_foreign_commits()

    async def truncate_now(self, floor: Version) -> None:
        """Truncate the change log, as a background task of the store does."""
        await self._truncate(floor)


@dataclass(slots=True, eq=False)
class Process:
    """A process of the model, in its current instance."""

    name: str
    instance: InstanceId
    gate: GatedBackend
    store: ExposedStore
    subscriber: RecordingSubscriber | None = None
    acquiring: asyncio.Task[bool] | None = None
    sync: PendingCall[ChangeLog[RowName]] | None = None
    """Its sync that waits at the gate."""
    actors: dict[str, Actor] = field(default_factory=dict)
    """Its operations, by name."""
    live: dict[str, Counter] = field(default_factory=dict)
    """The live objects that its cache must have, by record. The models have no live objects."""

    async def kill(self) -> None:
        """End all of its tasks. No caller gets an answer."""
        tasks: list[asyncio.Task[None] | asyncio.Task[bool]] = [
            actor.task for actor in self.actors.values() if actor.task is not None
        ]
        for actor in self.actors.values():
            if actor.call is not None:
                actor.call.discard()
        if self.acquiring is not None:
            tasks.append(self.acquiring)
        if self.sync is not None:
            self.sync.discard()
        await cancel(self.gate, tasks)
