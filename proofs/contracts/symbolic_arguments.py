"""Define the symbolic arguments of functions with generic types, for which CrossHair confirms contracts.

Numbers are symbolic and unbounded. Collections are small. There are two records; each is cached (or written) or not,
and its value is any number or "known not to exist". A change log has up to two lines of any versions, each of which
names one of the records.
"""

from inspect import Signature
from typing import cast

import crosshair.core_and_libs  # noqa: F401 (it registers what it knows, and forgets what was registered before)
from crosshair import SymbolicFactory, register_type
from rpds import HashTrieMap

from unwedged.protocol.cache import Cache, Change, ChangeLog
from unwedged.protocol.identifiers import Version

LINES = 2


class Name(str):
    """The key of a record."""

    __slots__ = ()


NAMES = (Name("alice"), Name("bob"))


class Records(dict[Name, int | None]):
    """Stands in for ``HashTrieMap``, whose order differs from map to map: CrossHair can't follow that.

    ``tests/proofs/test_contracts.py`` shows that both agree.
    """

    def insert(self, key: Name, value: int | None) -> "Records":
        """A map with this value of the record, whether it had one or not."""
        return Records({**self, key: value})

    def discard(self, key: Name) -> "Records":
        """A map without the record, whether it was there or not."""
        return Records({name: value for name, value in self.items() if name != key})


class Writes(dict[Name, int | None]):
    """What a commit wrote: some records."""


class Names(tuple[Name, ...]):
    """The keys of some records."""

    __slots__ = ()


# The types of the protocol's parameters that have type variables in theirs, by name.
TYPES: dict[str, object] = {"key": Name, "value": int | None, "writes": Writes, "keys": Names}


def instance(signature: Signature) -> Signature:
    """The signature with these types in place of type variables."""
    parameters = (
        parameter.replace(annotation=TYPES.get(parameter.name, parameter.annotation))
        for parameter in signature.parameters.values()
    )
    return signature.replace(parameters=list(parameters))


def a_name(symbolic: SymbolicFactory) -> Name:
    """Either one."""
    return NAMES[0] if symbolic(bool) else NAMES[1]


def a_value(symbolic: SymbolicFactory) -> int | None:
    """Any number, or known not to exist."""
    return symbolic(int) if symbolic(bool) else None


def some_records(symbolic: SymbolicFactory) -> dict[Name, int | None]:
    """Either record, both or none."""
    return {name: a_value(symbolic) for name in NAMES if symbolic(bool)}


def a_cache(symbolic: SymbolicFactory, *_of: type) -> Cache[Name, int]:
    """A cache of any version that knows some records."""
    records = Records(some_records(symbolic))
    return Cache(Version(symbolic(int)), cast("HashTrieMap[Name, int | None]", records))


def a_log(symbolic: SymbolicFactory, *_of: type) -> ChangeLog[Name]:
    """A log of any version and floor."""
    lines: list[Change[Name]] = []
    while len(lines) < LINES and symbolic(bool):
        lines.append(Change(Version(symbolic(int)), a_name(symbolic)))
    return ChangeLog(Version(symbolic(int)), Version(symbolic(int)), tuple(lines))


register_type(Name, a_name)
register_type(Cache, a_cache)
register_type(ChangeLog, a_log)
register_type(Names, lambda symbolic: Names(name for name in NAMES if symbolic(bool)))
register_type(Writes, lambda symbolic: Writes(some_records(symbolic)))
