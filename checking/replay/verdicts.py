"""What is concluded from the replay of a counterexample, once with the fault in the reference and once without."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from checking.errors import CheckError
from checking.tlc.run import Result


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of replaying one counterexample once."""

    violated: str | None
    """The first property that was found violated."""
    detail: str
    refused: int
    """How many of its steps were not possible."""


def verdict(
    slug: str, named: str, result: Result, *, broken: Callable[[], Finding], sound: Callable[[], Finding]
) -> str:
    """Return the property that failed with the fault.

    Raises ``CheckError`` unless exactly the named property fails with the fault, and none does without it.
    """
    if not result.trace:
        raise CheckError(f"{slug}: there is no counterexample to replay")
    with _logging_disabled():
        found, without = broken(), sound()
    if found.violated is None:
        raise CheckError(f"{slug}: with the fault injected, {named} holds along the whole counterexample")
    if without.violated is not None:
        raise CheckError(f"{slug}: without the fault, {without.violated} is violated all the same: {without.detail}")
    return found.violated


@contextmanager
def _logging_disabled() -> Iterator[None]:
    """Keep to itself what the reference logs of failures that a replay injects."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
