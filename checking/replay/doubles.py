"""Test doubles that a store of the replay gets instead of a clock, a random source, a thread pool and a subscriber.

The clock moves only when the replay sets it. So a task that waits for a time runs only when the replay wants it to.
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
    """A clock that moves only when it is set. Its ``sleep`` never returns."""

    def __init__(self) -> None:
        self.time_ms = 1_000_000_000

    def now(self) -> Milliseconds:
        """Return the time it was set to."""
        return Milliseconds(self.time_ms)

    async def sleep(self, _duration: Milliseconds) -> None:
        """Never return."""
        await asyncio.get_running_loop().create_future()


class UnusedRandomness:
    """A random source that fails. No replayed step needs a random number, and the replay numbers the instances."""

    def instance(self) -> InstanceId:
        """Refuse."""
        raise NotImplementedError

    def between(self, low: Milliseconds, high: Milliseconds) -> Milliseconds:
        """Refuse."""
        raise NotImplementedError


class InlineExecutor(ThreadPoolExecutor):
    """Runs each function at once, on the thread that submits it. So the event loop never waits for another thread."""

    def submit(self, fn: Callable[P, T], /, *arguments: P.args, **keywords: P.kwargs) -> Future[T]:
        """Run the function."""
        done: Future[T] = Future()
        try:
            done.set_result(fn(*arguments, **keywords))
        except BaseException as failure:  # noqa: BLE001 (every exception goes to the caller)
            done.set_exception(failure)
        return done


class RecordingSubscriber:
    """A subscriber that records what it receives."""

    def __init__(self, since: Version) -> None:
        self.heard: list[tuple[Version, bool]] = [(since, False)]
        """The versions that it received, and whether each was a ``Lagged``. The first is the version it subscribed
        at."""
        self.changed: dict[Version, set[str]] = {}

    def deliver(self, news: Change[RecordName] | Lagged) -> None:
        """Record one change."""
        if isinstance(news, Lagged):
            self.heard.append((news.version, True))
            return
        if self.heard[-1] != (news.version, False) or len(self.heard) == 1:
            self.heard.append((news.version, False))
        self.changed.setdefault(news.version, set()).add(news.key.key.decode())

    def close(self, failure: StoreError | None = None) -> None:
        """Do nothing."""
