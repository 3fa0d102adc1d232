"""Two operating-system processes of one device on one store, and a peer; processes are suspended and killed at random.

Nothing waits for time to pass: leases expire since the clock that the processes share is moved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from chaos.faults import Fault
from chaos.stage import stage

ROUNDS: Final = 25


@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_is_lost_and_nothing_is_used_twice(tmp_path: Path, seed: int) -> None:
    async with stage(tmp_path, seed) as on:
        for _ in range(ROUNDS):
            await on.round(*on.chosen.choices([None, Fault.SUSPEND, Fault.KILL], [2, 4, 3]))
        await on.settle()
        await on.check()
        print(f"seed {seed}: {on.messages_read} messages, {dict(on.happened)}")  # noqa: T201 (shown where it fails)
    assert on.losses == []
    assert on.messages_read > ROUNDS
    assert on.happened[Fault.SUSPEND] > ROUNDS // 5
    assert on.happened[Fault.KILL]
