"""Fixtures: one Synapse for all tests, and a scene for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from examples.encrypted_bot.synapse import synapse as run_synapse
from tests.synapse.scene import Scene, scene


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def synapse(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with run_synapse(tmp_path_factory.mktemp("synapse")) as address:
        yield address


@pytest.fixture
async def on(tmp_path: Path, synapse: str) -> AsyncIterator[Scene]:
    async with scene(tmp_path, synapse) as made:
        yield made
