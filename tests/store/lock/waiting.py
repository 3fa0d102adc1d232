"""Helpers that wait for the background tasks of a lock."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from tests.store.stores import PATIENCE, Instance

Answer = TypeVar("Answer")


async def lock_tasks_end(store: Instance) -> None:
    """Wait until the lock's own tasks (acquisitions and releases) have ended."""
    async with asyncio.timeout(PATIENCE):
        while store.lock._tasks:
            await asyncio.wait(store.lock._tasks)


async def held(store: Instance) -> None:
    """Wait until an operation may begin."""
    store.lock.end_view(await store.lock.begin_view())


async def pauses_end(store: Instance, task: asyncio.Task[Answer]) -> None:
    """Advance the clock whenever a task sleeps, until the given task is done."""
    async with asyncio.timeout(PATIENCE):
        while not task.done():
            await asyncio.sleep(0)
            store.clock.advance(1)
