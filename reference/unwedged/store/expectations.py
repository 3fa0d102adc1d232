"""What a program may expect of a store before it opens it. A store that differs is refused (P17.4, P17.5, P17.9).

The file of a store may be out of reach for a moment, lost, or an older copy that somebody put back. A new store in its
place would give the device a second identity. An older copy takes every ratchet back. Only the application can know
which store to expect.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from unwedged.protocol.identifiers import Version
from unwedged.store.arguments import text_of, version_of
from unwedged.store.errors import AnotherStore, InvalidArgument, StoreExists, StoreMissing, StoreRolledBack


class Existence(Enum):
    """Whether a store is expected to exist already."""

    ANY = "any"
    """It is opened, or made if there is none."""
    EXISTING = "existing"
    """It must be there already: nothing is ever made."""
    NEW = "new"
    """It must not be there yet. Of several processes that try to make it, one succeeds. If the process that made a
    store ended before the store had a key, nobody could ever use the store. So it counts as not there."""


@dataclass(frozen=True, slots=True)
class StoreMark:
    """The ``identity`` and the ``version`` of a store.

    Keep both elsewhere, where they are not restored together with the file, and make ``StoreMark(identity, version)``
    of them again for the next ``open``.
    """

    identity: str
    """The store's own random identity, in hexadecimal."""
    version: int

    def __post_init__(self) -> None:
        text_of(self.identity, "a store's identity")
        version_of(self.version)


@dataclass(frozen=True, slots=True)
class Expectations:
    """Everything that a program expects. A store with a mark must exist."""

    existence: Existence = Existence.ANY
    not_before: StoreMark | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.existence, Existence):
            raise InvalidArgument(f"expect is Existence.ANY, EXISTING or NEW, not a {type(self.existence).__name__}")
        if not isinstance(self.not_before, StoreMark | None):
            raise InvalidArgument(f"a mark is a StoreMark, not a {type(self.not_before).__name__}")
        if self.not_before is not None and self.existence is Existence.NEW:
            raise InvalidArgument("a store that must be new can't be expected to have come far")

    @property
    def makes(self) -> bool:
        """Return whether a store may be made if there is none."""
        return self.existence is not Existence.EXISTING and self.not_before is None

    def must_allow_none(self) -> None:
        """Raise an exception because there is no store, unless one may be made."""
        if not self.makes:
            raise StoreMissing(
                "there is no store (no file, or one that nothing was ever written to), and none is made, since "
                + ("one is expected to exist" if self.not_before is None else "a mark of it was given")
            )

    def must_allow_one(self) -> None:
        """Raise an exception because there is a store already, unless there may be one."""
        if self.existence is Existence.NEW:
            raise StoreExists("there is a store already, and it was expected to be new")

    def must_allow(self, identity: bytes, version: Version) -> None:
        """Raise ``AnotherStore`` or ``StoreRolledBack`` if a store is not the marked one, or is older than its mark."""
        mark = self.not_before
        if mark is None:
            return
        if mark.identity != identity.hex():
            raise AnotherStore("this is not the store that was marked")
        if version < mark.version:
            raise StoreRolledBack(f"the store is at version {version}, and it was at {mark.version} when it was marked")


ANYTHING = Expectations()
"""No expectations."""
