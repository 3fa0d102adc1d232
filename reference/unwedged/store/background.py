"""What keeps the tasks going that renew, release and listen for as long as a store is open (P8.28, P9.4).

The program's log and its clock are the application's. If one of them raises an exception, such a task must go on:
otherwise nothing renews the lease, releases it or listens any more until the program ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from unwedged.protocol.identifiers import Milliseconds
from unwedged.store.clock import Clock

logger = logging.getLogger(__name__)


def report(label: str, failure: BaseException) -> None:
    """Log a failure that is an error in the application or in this library. If the log itself fails, do nothing."""
    with suppress(Exception):
        logger.error("a background task of the store failed label=%s", label, exc_info=failure)


@contextmanager
def outlived(label: str) -> Iterator[None]:
    """Report an exception of this block, and go on after it."""
    try:
        yield
    except Exception as failure:  # noqa: BLE001 (whatever the application's parts raise)
        report(label, failure)


async def sleep(clock: Clock, duration: int, label: str) -> None:
    """Sleep by the application's clock. If that fails, sleep by the loop's: a task that repeats must not spin."""
    try:
        await clock.sleep(Milliseconds(duration))
    except Exception as failure:  # noqa: BLE001 (as above)
        report(label, failure)
        await asyncio.sleep(duration / 1000)
