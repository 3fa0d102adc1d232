"""Work that is never left halfway, and that nothing remembers afterwards."""

from __future__ import annotations

import asyncio

import pytest

from unwedged.store import settled as module
from unwedged.store.settled import settled


async def fail() -> None:
    raise LookupError("nothing there")


async def test_nothing_remembers_work_that_is_over() -> None:
    """Else a program that commits for months would keep one task for each commit."""

    async def nested() -> int:
        return await settled(one())

    async def one() -> int:
        return 1

    assert await settled(nested()) == 1
    with pytest.raises(LookupError):
        await settled(fail())
    caller = asyncio.create_task(settled(asyncio.sleep(0)))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert not module._settling
