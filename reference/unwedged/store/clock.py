"""Time and randomness behind one interface, so that tests and the replay can control both.

No safety property depends on either (P7.1). The clock decides when to try, to renew and to release. Random numbers keep
waiting processes from trying in step, and identify the instances.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Protocol, runtime_checkable

from unwedged.protocol.identifiers import InstanceId, Milliseconds
from unwedged.store.arguments import whole_of
from unwedged.store.errors import InvalidArgument

LARGEST_INSTANCE = 2**63 - 1
"""The largest number of an instance: SQLite's largest integer."""


@runtime_checkable
class Clock(Protocol):
    """The wall clock, which all processes on one machine share, and a way to wait.

    An application may bring a clock of its own, which may return plain ``int``.
    """

    def now(self) -> int:
        """Return the milliseconds since 1970."""

    async def sleep(self, duration: Milliseconds) -> None:
        """Wait for ``duration`` milliseconds."""


@runtime_checkable
class Randomness(Protocol):
    """Where random numbers come from.

    An application may bring a source of its own, which may return plain ``int``.
    """

    def instance(self) -> int:
        """Return a number that no other process instance has or had."""

    def between(self, low: Milliseconds, high: Milliseconds) -> int:
        """Return a length of time from ``low`` to ``high``, both included."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> Milliseconds:
        """Return the milliseconds since 1970 (P7.2)."""
        return Milliseconds(time.time_ns() // 1_000_000)

    async def sleep(self, duration: Milliseconds) -> None:
        """Wait for ``duration`` milliseconds on the event loop."""
        await asyncio.sleep(duration / 1000)


class SystemRandomness:
    """The operating system's random numbers."""

    # P0.4, P0.5
    def instance(self) -> InstanceId:
        """Return a random number that fits SQLite's signed integers: chance, not a name, makes it unique."""
        return InstanceId(secrets.randbelow(LARGEST_INSTANCE) + 1)

    def between(self, low: Milliseconds, high: Milliseconds) -> Milliseconds:
        """Return a length of time from ``low`` to ``high``, both included."""
        return Milliseconds(low + secrets.randbelow(high - low + 1))


def clock_of(value: object) -> Clock:
    """Return a clock, or raise ``InvalidArgument``."""
    if not isinstance(value, Clock):
        raise InvalidArgument(f"a clock has now() and sleep(), unlike a {type(value).__name__}")
    whole_of(value.now(), "the time of a clock, in milliseconds since 1970,")
    return value


def randomness_of(value: object) -> Randomness:
    """Return where random numbers come from, or raise ``InvalidArgument``."""
    if not isinstance(value, Randomness):
        raise InvalidArgument(f"randomness has instance() and between(), unlike a {type(value).__name__}")
    return value


def instance_of(randomness: Randomness) -> InstanceId:
    """Return a new number of an instance, or raise ``InvalidArgument``."""
    number: object = randomness.instance()
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number <= LARGEST_INSTANCE:
        raise InvalidArgument("the number of an instance is an int from 1 to 2^63 - 1")
    return InstanceId(number)
