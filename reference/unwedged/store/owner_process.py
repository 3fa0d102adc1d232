"""A store object belongs to the process that opened it, and to none of its forked children (P21.1).

A child has copies of the connections without their locks, of the cache without its guard, and of the instance number,
which must never be used twice. It must not open the same file again either, while it has those copies: SQLite finds a
lock on that file in its memory, and takes none. Its copy of the event loop waits for threads that do not exist
there.
"""

from __future__ import annotations

import os

from unwedged.store.errors import ForkedStore

_current_process = object()
"""This process; a forked child has another value. (Asking the system for a number would cost each access a call.)"""


def _forget() -> None:
    global _current_process
    _current_process = object()


os.register_at_fork(after_in_child=_forget)


class OwnerProcess:
    """The process that this was made in."""

    __slots__ = ("_process",)

    def __init__(self) -> None:
        self._process = _current_process

    def is_current(self) -> bool:
        """Return whether the calling process is that process."""
        return self._process is _current_process

    def must_be_current(self) -> None:
        """Raise ``ForkedStore`` in any other process. This awaits nothing, since the event loop may not work there."""
        if self._process is not _current_process:
            raise ForkedStore(
                "this process was forked from the one that opened the store, and can't use it. Fork first and open the "
                "store then, or start processes that are not forked (multiprocessing's start method 'spawn')"
            )
