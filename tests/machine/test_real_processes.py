"""Two real processes of a device, and a peer, lose nothing while processes are suspended and killed at random.

No test waits for time to pass: the processes share a clock, and the test moves it so that leases expire.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest

from chaos.faults import Fault
from chaos.stage import stage
from checking.explain.lines import DECODER

ROUNDS: Final = 25
TRACED: Final = {
    *("open", "acquire", "want", "sync", "renew", "lose_guard", "release", "load", "list", "commit", "validate"),
    *("rerun", "close", "open_machine", "batch", "receive", "decrypt_olm", "decrypt_megolm", "encrypt_olm"),
    *("encrypt_megolm", "room_key", "share", "offer", "send", "request", "answer"),
}
"""The steps that occur in each run."""


def traced(folder: Path) -> set[str]:
    """Return the steps in the traces. Check that each line has the specified format, unless a kill cut it off."""
    steps: set[str] = set()
    for path in folder.glob("*.ndjson"):
        for line in path.read_bytes().split(b"\n"):
            if line.endswith(b"}"):
                known, fields = DECODER.decode(line), json.loads(line)
                assert fields.keys() - {"step"} <= set(known.__struct_fields__)
                steps.add(fields["step"])
    return steps


# M20.1, M20.2
@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_is_lost_and_nothing_is_used_twice(tmp_path: Path, seed: int) -> None:
    async with stage(tmp_path, seed) as on:
        for _ in range(ROUNDS):
            await on.round(*on.chosen.choices([None, Fault.SUSPEND, Fault.KILL], [2, 4, 3]))
        await on.settle()
        await on.check()
        print(f"seed {seed}: {on.messages_read} messages, {dict(on.happened)}")  # noqa: T201 (shown where it fails)
    assert on.losses == []
    assert traced(tmp_path) >= TRACED
    assert on.messages_read > ROUNDS
    assert on.happened[Fault.SUSPEND] > ROUNDS // 5
    assert on.happened[Fault.KILL]
