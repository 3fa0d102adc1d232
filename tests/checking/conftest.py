"""Fixtures: the real TLC on real Java, and a folder of specifications for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from checking.models.manifest import Manifest, find_manifest, read_manifest
from checking.tlc.toolbox import Toolbox, find_toolbox
from tests.checking.specifications import Specifications


@pytest.fixture(scope="session")
def toolbox() -> Toolbox:
    return find_toolbox()


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    return read_manifest(find_manifest(Path(__file__).parent))


@pytest.fixture
def specifications(tmp_path: Path) -> Specifications:
    return Specifications(tmp_path / "tla" / "models")
