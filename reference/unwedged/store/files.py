"""The files of a store, and whether they are still the ones that were opened.

A process that has the store open may go on to commit into files that nobody else sees: the file was removed or
replaced, or the write-ahead log was, because this process lost its locks. POSIX locks belong to a process and a file;
closing *any* descriptor of the file drops them, also one that only read it. The next other process that closes the
store then takes itself for the last one, and deletes the log.

So nothing in this process may open the file but SQLite, here least of all: it is only asked for its device and inode.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from unwedged.store.errors import ForkedStore, StorageFailed, StoreReplaced

Identity: TypeAlias = tuple[int, int]
"""A device and an inode. An inode is not used again while anybody has its file open."""


_held: Counter[tuple[int, Identity]] = Counter()
"""How often each process has opened each file: this one, and those that it was forked from."""


@dataclass(frozen=True, slots=True)
class Files:
    """A store's file and its write-ahead log, as they were when this process opened them."""

    path: str
    log: str
    identities: tuple[Identity, Identity]

    @classmethod
    def opened_at(cls, path: Path, expected: Identity) -> Files:
        """Remember the files at ``path``, where SQLite has just opened that with the ``expected`` identity."""
        # SQLite puts the log beside the file that a symbolic link leads to. The link itself may change.
        absolute, log = os.fspath(path.absolute()), f"{path.resolve()}-wal"
        files = cls(absolute, log, (expected, _identity(log)))
        files.verify()
        _held[os.getpid(), expected] += 1
        return files

    def let_go(self) -> None:
        """Note that this process has closed the files."""
        _held[os.getpid(), self.identities[0]] -= 1

    def verify(self) -> None:
        """Make sure that the names still lead to the files that are open here."""
        if not self.are_there():
            raise StoreReplaced(
                "the store's file, or its write-ahead log, is no longer the one that was opened: it was removed or "
                "replaced, or this program has read the file while it was open, and lost its locks. Open it again"
            )

    def are_there(self) -> bool:
        """Say whether the names still lead to the files that are open here."""
        try:
            return (_identity(self.path), _identity(self.log)) == self.identities
        except OSError:
            return False


def must_not_be_inherited(file: Identity) -> None:
    """Refuse a file that this process inherited open, through ``fork``: SQLite would take no locks on it."""
    if any(process != os.getpid() and held for (process, other), held in _held.items() if other == file):
        raise ForkedStore("this process was forked from one that has the store open, and can't open it")


def prepare(path: Path) -> Identity:
    """Make the file where there is none, so that SQLite need not, and would not give it the user's usual permissions.

    SQLite gives its other files the same ones. A file that exists is never opened here: closing it would drop locks.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    if not (path.is_file() and os.access(path, os.R_OK)):
        raise StorageFailed("the store could not be opened: there is no file that may be read")
    if path.stat().st_size == 0:
        path.chmod(0o600)
    return _identity(os.fspath(path))


def _identity(path: str) -> Identity:
    status = os.stat(path)  # noqa: PTH116 (as part of each commit: a path object takes twice as long)
    return status.st_dev, status.st_ino
