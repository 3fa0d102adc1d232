"""Define the fields that all test vectors have."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

AnyCase = TypeVar("AnyCase")


class Case(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """The fields of every case."""

    id: str
    """Unique in its file. No later version uses it for another case."""
    shows: str
    """What the case shows, for people."""
    clause: str
    """The clause of ``spec/protocol.md`` that demands the result, such as P1.3."""
    bug: str | None = None
    """The bug of the track record that the case finds."""
    valid: bool
    """Whether the call succeeds. If not, ``error`` names the error."""
    error: str | None = None
    """The name of the error in ``spec/protocol.md``."""


class Vectors(msgspec.Struct, Generic[AnyCase], frozen=True):
    """A file of cases."""

    format: str
    """The name and the version of the format. A reader refuses a format that it does not know."""
    cases: list[AnyCase]


class Unexpected(Exception):
    """The reference gives another result than the author of a case expected."""


def must_be_unique(ids: list[str]) -> None:
    """Raise ``Unexpected`` if an ID occurs more than once."""
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise Unexpected(f"several cases have the id {', '.join(twice)}")
