"""The faults that chaos brings about."""

from __future__ import annotations

from enum import Enum


class Fault(Enum):
    """What happens to a process, to its files, or to its requests, in the middle of a turn."""

    KILL = "killed"
    """By ``SIGKILL``, after some calls of functions. It is started again."""
    SUSPEND = "suspended past its lease"
    """By ``SIGSTOP``, after some calls of functions, until the other process has had a turn."""
    SUSPEND_IN_TRANSACTION = "suspended inside a database transaction"
    """The same while it has SQLite's write lock, so that the other process's turn ends in ``StoreBusy``."""
    FORK = "forked"
    """The child uses the machine, which must be refused, and ends."""
    STARVE = "starved"
    """It gets a fifth of its time, in slices."""
    FILL_DISK = "disk full"
    """No file can grow for the length of a turn."""
    MOVE_CLOCK = "clock moved"
    """From now on, its clock is some minutes ahead of the other process's, or behind it."""
    REPLACE_FILE = "file replaced"
    """A copy of the store is at its path for the length of a turn. Then both processes are started again."""
    LOSE_REQUESTS = "requests lost"
    """Some of its requests don't arrive."""
    LOSE_ANSWERS = "answers lost"
    """Some of its requests arrive, and their answers don't."""
    DELAY_REQUESTS = "requests delayed"
    """Some of its requests arrive after the turn, when it has given them up."""
    DAMAGE_MESSAGES = "messages damaged"
    """A damaged copy of a message to the device arrives."""


IN_PROCESS = frozenset({Fault.KILL, Fault.SUSPEND, Fault.SUSPEND_IN_TRANSACTION, Fault.FORK})
"""Those that happen inside a process, after so many calls of functions."""
ON_THE_WAY = frozenset({Fault.LOSE_REQUESTS, Fault.LOSE_ANSWERS, Fault.DELAY_REQUESTS})
"""Those that happen to requests."""
