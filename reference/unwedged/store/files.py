"""The files of a store, and whether they are still the ones that were opened (P18).

A process that has the store open may go on to commit into files that nobody else sees: the file was removed or
replaced, or the write-ahead log was, because this process lost its locks. POSIX locks belong to a process and a file;
closing *any* descriptor of the file drops them, also one that only read it. The next other process that closes the
store then takes itself for the last one, and deletes the log.

So only SQLite may open the file in this process. This module only asks the system for the device and the inode.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Final, TypeAlias

from unwedged.store.errors import ForkedStore, NotAStore, SeveralNames, StorageFailed, StoreReplaced
from unwedged.store.expectations import Expectations

Identity: TypeAlias = tuple[int, int]
"""A device and an inode. An inode is not used again while anybody has its file open."""


JOURNAL: Final = bytes.fromhex("d9d505f920a163d7")
"""The first bytes of a rollback journal of SQLite. Its bytes 16 to 19 say how many pages the database had before."""

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
        absolute, log = os.fspath(path.absolute()), f"{resolved(path)}-wal"
        files = cls(absolute, log, (expected, _identity(log)))
        files.verify()
        _held[os.getpid(), expected] += 1
        return files

    def note_closed(self) -> None:
        """Note that this process has closed the files."""
        _held[os.getpid(), self.identities[0]] -= 1

    def verify(self) -> None:
        """Raise ``StoreReplaced`` unless the names still lead to the files that are open here."""
        self.verify_file()
        self.verify_log()

    def verify_file(self) -> None:
        """Make sure that the store's name still leads to its file: otherwise the log may already be another store's."""
        if not _leads_to(self.path, self.identities[0]):
            raise StoreReplaced("the store's file was removed or replaced while it was open. Open the store again")

    def verify_log(self) -> None:
        """Make sure that the write-ahead log is still there: otherwise no other process sees what is committed here."""
        if not _leads_to(self.log, self.identities[1]):
            raise StoreReplaced(
                "the store's write-ahead log was removed or replaced while it was open: perhaps this program has read "
                "the store's file by itself, and so lost its locks. Open the store again"
            )

    def only_the_log_is_lost(self) -> bool:
        """Return whether the store's name still leads to the open file, but the log's to another one or none."""
        return _leads_to(self.path, self.identities[0]) and not _leads_to(self.log, self.identities[1])


def _leads_to(path: str, identity: Identity) -> bool:
    try:
        return _identity(path) == identity
    except OSError:
        return False


def must_not_be_inherited(file: Identity) -> None:
    """Raise ``ForkedStore`` for a file that a fork has left open here: SQLite would take no locks on it (P21.3)."""
    if any(process != os.getpid() and held for (process, other), held in _held.items() if other == file):
        raise ForkedStore(
            "this process was forked from one that has the store open, and can't open it. Fork first and open the "
            "store then, or start processes that are not forked (multiprocessing's start method 'spawn')"
        )


def prepare(path: Path, expected: Expectations) -> Identity:
    """Make the file if there is none: SQLite would make it with the user's usual permissions.

    SQLite gives its other files the same ones. A file that exists is never opened here: closing it would drop locks.
    """
    _must_not_be_remains(path)
    if not path.exists() or (path.is_file() and not path.stat().st_size):
        expected.must_allow_none()
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        pass
    except FileNotFoundError as error:
        raise StorageFailed("the store could not be made: the folder that it was to be in does not exist") from error
    file = regular_file_at(path)
    if not os.access(path, os.R_OK):
        raise StorageFailed("the store could not be opened: the file may not be read")
    must_have_one_name(path)
    if path.stat().st_size == 0:
        path.chmod(0o600)
    return file


def regular_file_at(path: Path) -> Identity:
    """Return which file is at ``path``. Raises for anything but a file: opening a pipe would wait for its other end."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        what = "it is a directory" if stat.S_ISDIR(mode) else "it is no regular file"
        raise StorageFailed(f"the store could not be opened: {what}")
    return _identity(os.fspath(path))


def resolved(path: Path) -> Path:
    """Follow the symbolic links of a path."""
    try:
        return path.resolve()
    except RuntimeError as error:  # Python's up to 3.12; later ones leave it to the next access to say that.
        raise StorageFailed("the store could not be opened: symbolic links lead in a circle") from error


# P18.7
def must_have_one_name(path: Path) -> None:
    """Raise ``SeveralNames`` for a file with hard links: SQLite would keep a log for each name, and find only one."""
    if path.is_file() and path.stat().st_nlink > 1:
        raise SeveralNames("the store's file has several names (hard links): remove all but one, or copy it instead")


def _must_not_be_remains(path: Path) -> None:
    """Refuse a missing or empty file beside a log: SQLite would delete the log and all its commits (P17.2).

    The logs come first: a process that makes a store just now has written the file before anything is in them.
    """
    path = resolved(path)
    logged = (_size(path, "-wal") > 0) or _has_pages(path)
    if logged and not _size(path):
        raise NotAStore(
            "the file is missing or empty, and the log beside it is not: these are the remains of a store. Put the "
            "store's file back beside its log, or put both away"
        )


def _has_pages(path: Path) -> bool:
    """Return whether there is a rollback journal of a database that had pages: a new one has nothing to lose.

    A journal that is not complete has a header of zeros. SQLite keeps no locks on a journal, so it may be opened here.
    """
    try:
        with path.with_name(f"{path.name}-journal").open("rb") as journal:
            header = journal.read(20)
    except OSError:
        return False
    return header[:8] == JOURNAL and header[16:20] > bytes(4)


def _size(path: Path, suffix: str = "") -> int:
    try:
        return path.with_name(path.name + suffix).stat().st_size
    except OSError:
        return 0


_AT_FDCWD: Final = -100
_STATX_INO: Final = 0x100
_STATX_SIZE: Final = 256
_STATX_IDENTITY_AT: Final = 32
_STATX_IDENTITY: Final = struct.Struct("=Q96xII")
"""From ``linux/stat.h``, the same on each architecture: the inode, and behind the times the device's two numbers."""


def _identity_by_stat(path: str) -> Identity:
    status = os.stat(path)  # noqa: PTH116 (as part of each commit: a path object takes twice as long)
    return status.st_dev, status.st_ino


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


_Statx: Final = ctypes.c_char * _STATX_SIZE
_encoded: Final = lru_cache(os.fsencode)


def _identity_by_statx(path: str) -> Identity:
    """Ask which file is at ``path``, without asking for its times.

    Linux 6.13 and later gives a file whose times were asked for a finer time at its next change, and has to write that
    to the disk as well: each commit would take an eighth longer (statx(2); "multigrain timestamps").
    """
    found = _Statx()
    if _libc().statx(_AT_FDCWD, _encoded(path), 0, _STATX_INO, found):
        raise OSError(number := ctypes.get_errno(), os.strerror(number))
    inode, major, minor = _STATX_IDENTITY.unpack_from(found, _STATX_IDENTITY_AT)
    return os.makedev(major, minor), inode


def _has_statx() -> bool:
    """Return whether the system has ``statx`` and allows it: some sandboxes do not."""
    try:
        return sys.platform == "linux" and _identity_by_statx("/") == _identity_by_stat("/")
    except (AttributeError, OSError):
        return False


_identity: Final = _identity_by_statx if _has_statx() else _identity_by_stat
