"""Fixtures: two store objects on one file, whose backends and clock a test controls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.store.stores import Instance, Workbench, workbench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Workbench]:
    async with workbench(tmp_path / "store.db") as made:
        yield made


@pytest.fixture
async def phone(bench: Workbench) -> Instance:
    return await bench.instance("phone")


@pytest.fixture
async def extension(bench: Workbench) -> Instance:
    return await bench.instance("extension")
