"""Test doubles: what a store of the replay is given in the place of time, of chance, of threads and of a subscriber.

The clock moves only when it is set, so no task that goes by the clock runs unless the replay wants it to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from unwedged.protocol.cache import Change
from unwedged.protocol.identifiers import InstanceId, Milliseconds, Version
from unwedged.protocol.stream import Lagged
from unwedged.store.errors import StoreError
from unwedged.store.guarded_cache import RecordName

T = TypeVar("T")
P = ParamSpec("P")


class ManualClock:
    """A clock that moves only when it is set. A task that sleeps by it sleeps for ever."""

    def __init__(self) -> None:
        self.time_ms = 1_000_000_000

    def now(self) -> Milliseconds:
        """Return the time it was set to."""
        return Milliseconds(self.time_ms)

    async def sleep(self, _duration: Milliseconds) -> None:
        """Never return."""
        await asyncio.get_running_loop().create_future()


class UnusedRandomness:
    """Refuses every number: no step that is replayed asks for one, and the replay names the instances."""

    def instance(self) -> InstanceId:
        """Refuse."""
        raise NotImplementedError

    def between(self, low: Milliseconds, high: Milliseconds) -> Milliseconds:
        """Refuse."""
        raise NotImplementedError


class InlineExecutor(ThreadPoolExecutor):
    """Runs each function at once, on the thread that submits it: the event loop never has to wait for another."""

    def submit(self, fn: Callable[P, T], /, *arguments: P.args, **keywords: P.kwargs) -> Future[T]:
        """Run the function."""
        done: Future[T] = Future()
        try:
            done.set_result(fn(*arguments, **keywords))
        except BaseException as failure:  # noqa: BLE001 (whatever it is, it belongs to the caller)
            done.set_exception(failure)
        return done


class RecordingSubscriber:
    """A subscriber that records what it is told."""

    def __init__(self, since: Version) -> None:
        self.heard: list[tuple[Version, bool]] = [(since, False)]
        """Versions, and whether by ``Lagged``; first the one at which it subscribed."""
        self.changed: dict[Version, set[str]] = {}

    def deliver(self, news: Change[RecordName] | Lagged) -> None:
        """Note one piece of news."""
        if isinstance(news, Lagged):
            self.heard.append((news.version, True))
            return
        if self.heard[-1] != (news.version, False) or len(self.heard) == 1:
            self.heard.append((news.version, False))
        self.changed.setdefault(news.version, set()).add(news.key.key.decode())

    def close(self, failure: StoreError | None = None) -> None:
        """Nothing to do."""
