"""Old releases of SQLite are refused, and releases with the WAL-reset race are recognised."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from unwedged.store import UnsupportedSQLite, engine, inspect
from unwedged.store.sqlite import SqliteBackend


@pytest.mark.parametrize(
    ("release", "race"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 44, 7), False),
        ((3, 45, 0), True),
        ((3, 46, 1), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 0), True),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
        ((4, 0, 0), False),
    ],
)
def test_the_wal_reset_race(release: tuple[int, int, int], race: bool) -> None:
    assert engine.has_wal_reset_race(release) is race
    assert ("can't harm" in engine.description(release)) is race


# P14.1
def test_the_least_release() -> None:
    engine.must_be_supported((3, 37, 0))
    with pytest.raises(UnsupportedSQLite, match=r"3\.37\.0 or later, and this program has 3\.36\.9"):
        engine.must_be_supported((3, 36, 9))
    engine.must_be_supported(sqlite3.sqlite_version_info)


# P14.1
async def test_below_that_nothing_is_opened_or_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "OLDEST_RELEASE", (99, 0, 0))
    with pytest.raises(UnsupportedSQLite):
        await SqliteBackend.open(tmp_path / "store")
    with pytest.raises(UnsupportedSQLite):
        inspect(tmp_path / "store")
    assert not (tmp_path / "store").exists()
