"""Judge the replay of a counterexample, once with the fault in the implementation and once without."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from checking.errors import CheckError
from checking.tlc.run import Result


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of replaying one counterexample once."""

    violated: str | None
    """The first property that was violated."""
    detail: str
    refused: int
    """How many of its steps were not possible."""


def verdict(
    slug: str, named: str, result: Result, *, broken: Callable[[], Finding], sound: Callable[[], Finding]
) -> str:
    """Return the property that was violated with the fault.

    Raises ``CheckError`` if no property is violated with the fault, or if one is violated without it.
    """
    if not result.trace:
        raise CheckError(f"{slug}: there is no counterexample to replay")
    with _logging_disabled():
        found, without = broken(), sound()
    if found.violated is None:
        raise CheckError(f"{slug}: with the fault injected, {named} holds along the whole counterexample")
    if without.violated is not None:
        raise CheckError(f"{slug}: without the fault, {without.violated} is violated too: {without.detail}")
    return found.violated


@contextmanager
def _logging_disabled() -> Iterator[None]:
    """Suppress the log of failures that a replay injects."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
