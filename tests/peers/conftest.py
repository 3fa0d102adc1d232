"""Fixtures: a scene for each test, and the checks at its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.peers.scene import Scene


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        made = Scene(stack)
        yield made
        assert not made.network.faults, "not every fault happened"
        assert all(arrival.status == 200 for arrival in made.homeserver.arrivals)
