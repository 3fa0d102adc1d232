"""The bugs of the track record, injected into the reference by substitution: the product has no switch for them.

Each breaks the one line of the protocol that the fault of the same name breaks in ``tla/``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from checking.replay.lock_faults import LOCK_FAULTS
from checking.replay.store_faults import STORE_FAULTS
from checking.replay.substitutions import Fault
from checking.replay.world import World

FAULTS: dict[str, Fault] = {**LOCK_FAULTS, **STORE_FAULTS}


@contextmanager
def injected(slug: str, world: World) -> Iterator[None]:
    """Break one line of the reference for as long as this lasts."""
    with ExitStack() as stack:
        for owner, name, substitute in FAULTS[slug](world):
            stack.enter_context(patch.object(owner, name, substitute))
        yield
