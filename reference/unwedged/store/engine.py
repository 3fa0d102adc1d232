"""The version of SQLite in this process, and its consequences for a store (P14.1)."""

from __future__ import annotations

import sqlite3
from typing import Final, TypeAlias

from unwedged.store.errors import UnsupportedSQLite

Release: TypeAlias = tuple[int, ...]

OLDEST_RELEASE: Final = (3, 37, 0)
"""The first release with STRICT tables; RETURNING is older."""

_FIRST_WITH_RACE: Final = (3, 7, 0)
_FIRST_WITHOUT_RACE: Final = (3, 51, 3)
_ALSO_FIXED_FROM: Final = ((3, 44, 6), (3, 50, 7))
"""The first releases of older lines that fix it as well. All later releases of the same line do so too."""


def must_be_supported(release: Release = sqlite3.sqlite_version_info) -> None:
    """Raise ``UnsupportedSQLite`` for a release that can't read a store."""
    if release < OLDEST_RELEASE:
        raise UnsupportedSQLite(
            f"a store needs SQLite {_text(OLDEST_RELEASE)} or later, and this program has {_text(release)}"
        )


def has_wal_reset_race(release: Release = sqlite3.sqlite_version_info) -> bool:
    """Return whether a checkpoint that does not hold the write lock can damage the file (``wal-reset``)."""
    fixed = any(release[:2] == first[:2] and release >= first for first in _ALSO_FIXED_FROM)
    return _FIRST_WITH_RACE <= release < _FIRST_WITHOUT_RACE and not fixed


def description(release: Release = sqlite3.sqlite_version_info) -> str:
    """Describe this release of SQLite for people."""
    known = " (its WAL-reset bug can't harm a store)" if has_wal_reset_race(release) else ""
    return f"{_text(release)}{known}"


def _text(release: Release) -> str:
    return ".".join(map(str, release))
