"""Run the work of a replay in one process for each core, and count the steps that they take."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing.pool import AsyncResult
from multiprocessing.sharedctypes import Synchronized
from types import TracebackType
from typing import TypeVar, TypeVarTuple

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

_taken: Synchronized[int]


class Workers:
    """A pool of processes. Arguments and results must be picklable."""

    def __init__(self) -> None:
        self.count = os.cpu_count() or 1
        context = multiprocessing.get_context("spawn")
        self._steps = context.Value("q", 0)
        self._pool = context.Pool(self.count, _begin, (self._steps,))

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.terminate()

    def start(self, work: Callable[[*Arguments], Result], *arguments: *Arguments) -> AsyncResult[Result]:
        """Start some work as soon as a process is free."""
        return self._pool.apply_async(work, arguments)

    def wait(self, results: Sequence[AsyncResult[Result]], on_steps: Callable[[int], None]) -> list[Result]:
        """Wait for the results of ``start``, and return them. ``on_steps`` gets the number of steps taken so far."""
        for result in results:
            while not result.ready():
                result.wait(0.5)
                on_steps(self._steps.value)
        return [result.get() for result in results]


def _begin(taken: Synchronized[int]) -> None:
    global _taken
    _taken = taken
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent process, which ends the pool
    logging.disable(logging.CRITICAL)  # the log would only have failures that the replay injects


def count_steps(steps: int) -> None:
    """Count steps that this worker process has taken."""
    with _taken.get_lock():
        _taken.value += steps
