"""Subscriptions: each gets every committed change once, in version order, whichever process made it (P9).

They belong to the process and not to the cache, so no invalidation cuts off a subscriber (P9.1).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

from unwedged.protocol import stream as rules
from unwedged.protocol.cache import Change, ChangeLog
from unwedged.protocol.identifiers import Version
from unwedged.protocol.stream import Lagged
from unwedged.store.errors import StoreError, StoreRolledBack, own_copy
from unwedged.store.guarded_cache import RecordName
from unwedged.store.owner_process import OwnerProcess
from unwedged.store.records import RecordKind
from unwedged.trace import Trace

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Changed(Generic[Key]):
    """The commit that made ``version`` wrote or deleted the record ``key``."""

    version: Version
    key: Key


ReadLog: TypeAlias = Callable[[Version], Awaitable[ChangeLog[RecordName]]]
"""Reads the change log after a version."""


class Listener(Protocol):
    """A subscription to any kind."""

    def deliver(self, news: Change[RecordName] | Lagged) -> None:
        """Accept the changes of its kind."""

    def close(self, failure: StoreError | None = None) -> None:
        """End, because of a ``failure`` if there is one."""


class Inbox:
    """The changes that wait for one subscriber."""

    def __init__(self, kind_name: str, limit: int) -> None:
        self.kind_name = kind_name
        self.news: deque[Change[RecordName] | Lagged] = deque()
        self._limit = limit
        self._has_news = asyncio.Event()
        self._closed = False
        self._failure: StoreError | None = None
        self._owner_process = OwnerProcess()

    def deliver(self, news: Change[RecordName] | Lagged) -> None:
        """Keep ``news`` if it is of the subscriber's kind (P9.5, P9.8), unless the subscription has ended (P9.12)."""
        if self._closed:
            return
        if isinstance(news, Change) and news.key.kind != self.kind_name:
            return
        if len(self.news) >= self._limit:
            self.news.clear()
            news = Lagged(news.version)
        self.news.append(news)
        self._has_news.set()

    def close(self, failure: StoreError | None = None) -> None:
        """Accept no further changes. The iteration ends after the last one, with the ``failure`` if there is one."""
        self._closed = True
        self._failure = self._failure or failure
        self._has_news.set()

    async def take(self) -> Change[RecordName] | Lagged | None:
        """Wait for the next change; after the last one, raise the error that ended them, or return ``None``."""
        self._owner_process.must_be_current()
        while not self.news:
            if self._failure is not None:
                raise self._failure.with_traceback(None)  # Otherwise it would grow each time.
            if self._closed:
                return None
            self._has_news.clear()
            await self._has_news.wait()
        return self.news.popleft()


class Subscription(Generic[Key]):
    """The changes of one kind, to be iterated over; it ends when the store is closed.

    If this process can never again learn what others commit, the iteration ends with the error that says why
    (``StoreReplaced``, ``StoreRolledBack``, ``UnsupportedSchema``). A subscriber that does not keep up gets ``Lagged``
    in place of what did not fit into the buffer.
    """

    __slots__ = ("_decode_key", "_inbox")

    def __init__(self, kind: RecordKind[Key, Value], inbox: Inbox) -> None:
        self._decode_key = kind.decode_key
        self._inbox = inbox

    def __repr__(self) -> str:
        return f"<Subscription {self._inbox.kind_name!r} waiting={len(self._inbox.news)}>"

    def __aiter__(self) -> Subscription[Key]:
        return self

    async def __anext__(self) -> Changed[Key] | Lagged:
        news = await self._inbox.take()
        if news is None:
            raise StopAsyncIteration
        return news if isinstance(news, Lagged) else Changed(news.version, self._decode_key(news.key.key))


class Streams:
    """All subscriptions of one process, and the version up to which everything is published to them."""

    def __init__(self, published: Version, trace: Trace | None = None) -> None:
        self.published = published
        self._trace = trace
        self.followed = asyncio.Event()
        """Set while there is a subscription."""
        self._subscriptions: list[Listener] = []

    def __len__(self) -> int:
        return len(self._subscriptions)

    def publish(self, log: ChangeLog[RecordName]) -> None:
        """Deliver to every subscriber the changes in ``log`` that are not yet published (P9.2)."""
        news = rules.news(self.published, log) if self._subscriptions else ()
        try:
            if news and self._trace is not None:
                lagged = isinstance(news[0], Lagged)
                self._trace.note("publish", since=self.published, version=log.version, lagged=lagged)
        finally:  # A signal may arrive here, and the trace may fail.
            self.published = max(self.published, log.version)
            for subscription in self._subscriptions:
                for item in news:
                    subscription.deliver(item)

    # P9.10
    async def add_since(self, subscription: Listener, since: Version, read_log: ReadLog) -> None:
        """Deliver to ``subscription`` what was committed after ``since``; add it in the step in which it has caught up.

        If it were added sooner, it would get later changes first. What is read beyond ``published`` is delivered to
        all.
        """
        delivered = since
        while True:
            log = await read_log(min(delivered, self.published))
            if log.version < since:
                raise StoreRolledBack(
                    f"the store is at version {log.version}, and what was committed after version {since} was asked "
                    "for: that is the version of another store, or this is an older copy"
                )
            for item in rules.news(delivered, log):
                subscription.deliver(item)
            delivered = log.version
            if delivered >= self.published:  # Otherwise this process has committed or synced during the read.
                self.publish(log)
                self.add(subscription)
                return

    def add(self, subscription: Listener) -> None:
        """Deliver to ``subscription`` everything that is published from now on."""
        self._subscriptions.append(subscription)
        self.followed.set()
        if self._trace is not None:
            self._trace.note("subscribe", version=self.published, subscriptions=len(self))

    def remove(self, subscription: Listener) -> None:
        """Deliver nothing more to ``subscription``."""
        self._subscriptions.remove(subscription)
        if self._trace is not None:
            self._trace.note("unsubscribe", subscriptions=len(self))
        if not self._subscriptions:
            self.followed.clear()

    def close(self, failure: StoreError | None = None) -> None:
        """End all subscriptions, because of a ``failure`` if there is one (P9.12)."""
        self.followed.clear()
        for subscription in self._subscriptions:
            subscription.close(failure and own_copy(failure))
