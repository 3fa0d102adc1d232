"""The SQL of each access (P16.1): its statements, the function that they call, and what their rows mean."""

# ruff: noqa: S608 (statements are put together from the constants of this module, never from what callers give)

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from unwedged.protocol.cache import Change, ChangeLog
from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds, Version
from unwedged.protocol.lease import Lease
from unwedged.store import database
from unwedged.store.backend import Row, RowName
from unwedged.store.database import ResultRow

LEASE: Final = "epoch, holder, expires, wanted"
FENCE: Final = "(epoch = :epoch AND holder IS NOT NULL)"
TAKEABLE: Final = "(holder IS NULL OR holder = :instance OR expires <= :now OR expires > :now + :longest)"

KNOWN: Final = "(SELECT user_version FROM pragma_user_version) = :schema"

LOOK: Final = f"SELECT {LEASE} FROM state"
HOLDER: Final = "SELECT holder, label, epoch FROM state"
ACQUIRE: Final = f"""
    UPDATE state SET
        epoch = epoch + free,
        holder = iif(free, :instance, holder),
        label = iif(free, :label, label),
        expires = iif(free, :now + :duration + late(:began, :duration), expires),
        wanted = NOT free
    FROM (SELECT {TAKEABLE} AS free FROM state)
    WHERE {KNOWN}
    RETURNING {LEASE}
"""
RENEW: Final = f"""
    UPDATE state SET expires = :now + :duration + late(:began, :duration) WHERE {FENCE} RETURNING {LEASE}
"""
PROLONG: Final = "UPDATE state SET expires = expires + :late"
RELEASE: Final = f"UPDATE state SET holder = NULL WHERE {FENCE}"
CHECK: Final = f"SELECT {LEASE} FROM state WHERE {FENCE}"
# The casts: a damaged line may have values of any type.
# ``state.one = 1`` tells SQLite that there is one row of state: so it reads the lines in order, and only ``:most``.
CHANGES: Final = f"""
    SELECT state.version, floor, change.version, CAST(kind AS TEXT), CAST(key AS BLOB)
    FROM state LEFT JOIN change ON change.version > :since
    WHERE state.one = 1 AND iif(:epoch IS NULL, {KNOWN}, {FENCE})
    ORDER BY change.version, kind, key
    LIMIT :most
"""
# A row without a value is damaged, not absent: it must not authenticate. Neither must a value of another type.
LOAD: Final = f"""
    SELECT version, iif(kind IS NULL, NULL, CAST(ifnull(value, '') AS BLOB)), floor > :since OR EXISTS (
        SELECT 1 FROM change WHERE change.version > :since AND kind = :kind AND key = :key), floor
    FROM state LEFT JOIN record ON kind = :kind AND key = :key
    WHERE {FENCE}
"""
KEYS: Final = f"""
    SELECT version, CAST(key AS BLOB), floor > :since OR EXISTS (
        SELECT 1 FROM change WHERE change.version > :since AND kind = :kind)
    FROM state LEFT JOIN record ON kind = :kind
    WHERE {FENCE}
    ORDER BY key
"""
# From each kind directly to the next, past all its records. (Not UNION ALL: a damaged index may lead in circles.)
CONTENTS: Final = """
    WITH RECURSIVE present(kind) AS (
        SELECT min(kind) FROM record
        UNION SELECT (SELECT min(kind) FROM record WHERE kind > present.kind) FROM present WHERE kind IS NOT NULL
    )
    SELECT version, CAST(kind AS TEXT) FROM state, present
"""
# The row's key makes the update one step: without it SQLite first looks for the rows, and then updates them.
ADVANCE: Final = f"""
    UPDATE state SET
        version = version + 1,
        expires = :now + :duration,
        holder = iif(wanted AND :may_release, NULL, holder)
    WHERE one = 1 AND {FENCE}
    RETURNING version, wanted, holder IS NULL
"""
PUT: Final = "INSERT INTO record VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
RAISE_FLOOR: Final = "UPDATE state SET floor = max(floor, min(:floor, version))"
TRUNCATE: Final = "DELETE FROM change WHERE version <= (SELECT floor FROM state)"
SEALING: Final = "SELECT sealing FROM header"
SEAL: Final = "UPDATE header SET sealing = :fresh WHERE sealing IS NULL"
RESEAL: Final = "UPDATE header SET sealing = :fresh WHERE sealing = :header RETURNING 1"


def lateness(began_seconds: float, duration_ms: Milliseconds) -> Milliseconds:
    """Return how many milliseconds ago the access began that writes a lease; 0 if that is not long.

    If an access takes more than half a lease, waiting included, its ``now`` is that old, and no renewal could run
    meanwhile: a live holder would lose the lease. So a lease counts from when it is written (P1.9). This is a duration,
    measured here, so that the clock is still the caller's. Statements call it by the name ``late``.
    """
    late = Milliseconds(int((database.monotonic_seconds() - began_seconds) * 1000))
    return Milliseconds(0) if 2 * late <= duration_ms else late


def lease_of(row: ResultRow) -> Lease:
    """Return the lease in a row of ``LEASE``."""
    epoch, holder, expires, wanted = row
    return Lease(Epoch(epoch), None if holder is None else InstanceId(holder), Milliseconds(expires), bool(wanted))


def change_log_of(rows: list[ResultRow]) -> ChangeLog[RowName]:
    """Return the part of the change log in the rows of ``CHANGES``."""
    [version, floor, *_] = rows[0]
    changes = tuple(Change(Version(line), RowName(kind, key)) for _, _, line, kind, key in rows if line is not None)
    return ChangeLog(Version(version), Version(floor), changes)


def values_of(rows: Sequence[Row]) -> tuple[list[tuple[str, bytes, bytes | None]], int]:
    """Return what ``PUT`` writes of each row, and how many bytes the values have in all."""
    values = [(*row.name, row.value) for row in rows]
    return values, sum(len(value) for _, _, value in values if value is not None)
