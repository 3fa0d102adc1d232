"""The faults that chaos brings about."""

from __future__ import annotations

from enum import Enum


class Fault(Enum):
    """A fault of a process, of its files, or of its requests, in the middle of a turn."""

    KILL = "killed"
    """The process is killed by ``SIGKILL`` after some function calls, and started again."""
    SUSPEND = "suspended past its lease"
    """The process is suspended by ``SIGSTOP`` after some function calls, until the other process has taken a turn."""
    SUSPEND_IN_TRANSACTION = "suspended inside a database transaction"
    """As above, but the process holds SQLite's write lock, so the other process's turn ends with ``StoreBusy``."""
    FORK = "forked"
    """The process forks. The child uses the machine, which must refuse this, and exits."""
    STARVE = "starved"
    """The process runs for a fifth of the time, in slices."""
    FILL_DISK = "disk full"
    """No file can grow until the turn ends."""
    MOVE_CLOCK = "clock moved"
    """From now on, its clock is some minutes ahead of the other process's, or behind it."""
    REPLACE_FILE = "file replaced"
    """A copy replaces the store at its path until the turn ends. Then both processes are restarted."""
    LOSE_REQUESTS = "requests lost"
    """Some of its requests don't arrive."""
    LOSE_ANSWERS = "answers lost"
    """Some of its requests arrive, but the responses do not."""
    DELAY_REQUESTS = "requests delayed"
    """Some of its requests arrive after the turn, when the process no longer waits for the responses."""
    DAMAGE_MESSAGES = "messages damaged"
    """A damaged copy of a message to the device arrives."""


IN_PROCESS = frozenset({Fault.KILL, Fault.SUSPEND, Fault.SUSPEND_IN_TRANSACTION, Fault.FORK})
"""The faults that happen inside a process, after a number of function calls."""
ON_THE_WAY = frozenset({Fault.LOSE_REQUESTS, Fault.LOSE_ANSWERS, Fault.DELAY_REQUESTS})
"""The faults of requests."""
