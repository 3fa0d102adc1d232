"""Work that is never left halfway, and that nothing remembers afterwards."""

from __future__ import annotations

import asyncio

import pytest

from unwedged.store import completion as module
from unwedged.store.completion import run_to_completion


async def fail() -> None:
    raise LookupError("nothing there")


async def test_nothing_remembers_work_that_is_over() -> None:
    """Else a program that commits for months would keep one task for each commit."""

    async def nested() -> int:
        return await run_to_completion(one())

    async def one() -> int:
        return 1

    assert await run_to_completion(nested()) == 1
    with pytest.raises(LookupError):
        await run_to_completion(fail())
    caller = asyncio.create_task(run_to_completion(asyncio.sleep(0)))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert not module._completing
