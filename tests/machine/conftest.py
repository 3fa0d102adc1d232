from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.machine.scene import Scene, scene


@pytest.fixture
async def alice_and_bob(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene(tmp_path) as made:
        yield made
