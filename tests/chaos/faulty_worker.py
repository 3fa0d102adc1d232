"""A process with a fault: ``python -m tests.chaos.faulty_worker FAULT ...``, then the arguments of ``chaos.worker``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from chaos.worker import run
from checking.machine_replay import (
    gossip_faults,
    inbox_faults,
    keys_faults,
    lists_faults,
    sessions_faults,
    sharing_faults,
    verification_faults,
)
from checking.replay.substitutions import Substitution, substituted
from examples.story.short_cuts import ShortCut, take

FAULTS: Final[Mapping[str, Callable[[], Sequence[Substitution]]]] = {
    **keys_faults.FAULTS,
    **lists_faults.FAULTS,
    **inbox_faults.FAULTS,
    **sharing_faults.FAULTS,
    **sessions_faults.FAULTS,
    **verification_faults.FAULTS,
    **gossip_faults.FAULTS,
}
"""The faults of the machine. A fault of the store is one of its short cuts."""

if __name__ == "__main__":
    fault, *arguments = sys.argv[1:]
    if fault in FAULTS:
        with substituted(FAULTS[fault]()):
            asyncio.run(run(*arguments))
    else:
        take(ShortCut(fault))
        asyncio.run(run(*arguments))
