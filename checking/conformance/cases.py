"""The form of the vectors: what a case has, whatever it is about."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

AnyCase = TypeVar("AnyCase")


class Case(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """What every case says, whatever its subject."""

    id: str
    """Unique in its file. No other case ever gets it."""
    shows: str
    """What it shows, for people."""
    clause: str
    """The clause of ``spec/protocol.md`` that demands it, such as P1.3."""
    bug: str | None = None
    """The fault of the track record that it finds."""
    valid: bool
    """Whether the call succeeds. If not, ``error`` says how it is refused."""
    error: str | None = None
    """The named error of ``spec/protocol.md``."""


class Vectors(msgspec.Struct, Generic[AnyCase], frozen=True):
    """A file of cases."""

    format: str
    """The name and the version of the form. A reader refuses one that it does not know."""
    cases: list[AnyCase]


class Unexpected(Exception):
    """The reference does something else than the author of a case meant."""


def must_be_unique(ids: list[str]) -> None:
    """Refuse cases that bear the same id."""
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise Unexpected(f"several cases have the id {', '.join(twice)}")
