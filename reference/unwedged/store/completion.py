"""Work that is never left halfway: a caller that is cancelled meanwhile gets the cancellation once the work has ended.

A caller that got it earlier would believe that nothing has happened, although the work may still be done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from typing import TypeVar

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

_completing: set[asyncio.Task[object]] = set()


async def run_to_completion(work: Coroutine[object, object, Result]) -> Result:
    """Run ``work`` to its end even if the caller is cancelled meanwhile. Only then is the cancellation raised.

    The work runs in a task of its own, which only an event loop that ends cancels. Work that is part of such work needs
    no task of its own.
    """
    if asyncio.current_task() in _completing:
        return await work
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(_run_and_signal(ended, work))
    _completing.add(task)
    cancelled: asyncio.CancelledError | None = None
    try:
        while not task.done():
            try:
                await ended
            except asyncio.CancelledError as error:
                cancelled = error
                ended = asyncio.get_running_loop().create_future()
                task.add_done_callback(partial(_signal, ended))
    finally:
        _completing.discard(task)
    if cancelled is None:
        return task.result()
    if not task.cancelled() and (failure := task.exception()) is not None:
        logger.debug("what a cancelled caller had begun failed: %r", failure)
    raise cancelled


async def _run_and_signal(ended: asyncio.Future[None], work: Coroutine[object, object, Result]) -> Result:
    """Do ``work``, and signal its end an iteration of the loop earlier than the task itself would."""
    try:
        return await work
    finally:
        _signal(ended)


def _signal(ended: asyncio.Future[None], _: object = None) -> None:
    if not ended.done():
        ended.set_result(None)
