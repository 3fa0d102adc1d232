"""What a store's traces call a session, a ratchet key or a device, from its real name and the store's secret (T2)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from checking.errors import CheckError
from unwedged.machine.unpadded_base64 import unpadded
from unwedged.store import StoreError, database, statements
from unwedged.store.schema import identity_of
from unwedged.store.sealer import Sealer, secret_of
from unwedged.trace import Line, Trace

_PSEUDONYM: Final = re.compile("[0-9a-f]{16}")


class NoPseudonym(CheckError):
    """A real name can't be looked for: its pseudonym is not known."""


class _Nowhere:
    def write(self, line: Line) -> None:
        """Drop a line."""


def trace_of(path: Path, passphrase: str | None, key: bytes | None) -> Trace:
    """Return what makes a store's pseudonyms. The file is only read."""
    try:
        has_log = path.with_name(path.name + "-wal").exists()
        with (
            database.translated(),
            contextlib.closing(
                database.connect_read_only(path.resolve(strict=True), immutable=not has_log)
            ) as connection,
        ):
            store, _ = identity_of(connection)
            [(header,)] = connection.execute(statements.SEALING)
        sealer = Sealer.unlock(secret_of(passphrase, key), store, bytes(header))
    except (StoreError, OSError) as error:
        raise NoPseudonym(f"{path}: {error}") from None
    return Trace(_Nowhere(), sealer.trace_key(), store, 0, lambda: 0)


def session(name: str, traces: Sequence[Trace]) -> frozenset[str]:
    """Return what traces call a Megolm session."""
    return _of("session", name, (name,), traces)


def event(name: str, traces: Sequence[Trace]) -> frozenset[str]:
    """Return what traces call a room event."""
    return _of("event", name, (name,), traces)


def ratchet(name: str, traces: Sequence[Trace]) -> frozenset[str]:
    """Return what traces call a ratchet key, which is written as unpadded base64."""
    if _PSEUDONYM.fullmatch(name):
        return frozenset({name})
    try:
        return _of("ratchet", name, (unpadded(name),), traces)
    except ValueError:
        raise NoPseudonym(f"{name} is neither a pseudonym nor a key in base64") from None


def device(name: str, traces: Sequence[Trace]) -> frozenset[str]:
    """Return what traces call a device: its user id, a slash, and its device id."""
    user_id, _, device_id = name.partition("/")
    return _of("device", name, (user_id, device_id), traces)


def _of(what: str, name: str, parts: tuple[str | bytes, ...], traces: Sequence[Trace]) -> frozenset[str]:
    if _PSEUDONYM.fullmatch(name):
        return frozenset({name})
    if not traces:
        raise NoPseudonym(
            f"traces do not show the name {name}: give its pseudonym as it stands there, or the store by --unlock"
        )
    return frozenset(trace.pseudonym(what, *parts) for trace in traces)
