"""How a proof says how it goes, and what it says of an obligation that it did not meet."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Failure:
    """An obligation that was not met, and what came of it instead."""

    name: str
    verdict: str


Proof = Callable[[Say], list[Failure]]
"""Does its work, says line by line how it goes, and returns what failed."""


def run(*proofs: Proof) -> int:
    """Run them all, whatever comes of each, and name at the end what failed. The exit code is 1 if anything did."""
    failures = [failure for proof in proofs for failure in proof(_say)]
    for failure in failures:
        _say(f"FAILED: {failure.name}: {failure.verdict}")
    return 1 if failures else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
