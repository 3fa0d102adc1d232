"""Define how a part of the proof reports its progress, its failures, and how much it has examined."""

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from proofs.extent import EXTENT

Say = Callable[[str], None]

Examined = Counter[str]
"""How much was really examined, by kind."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An obligation that failed, and the result."""

    name: str
    verdict: str


Proof = Callable[[Say, Examined], list[Failure]]
"""Does the work of a part, reports progress line by line, counts what it examines, and returns the failures."""


def run(parts: Mapping[str, Proof], extent: Mapping[str, Mapping[str, int]] = EXTENT) -> int:
    """Run them all, whatever comes of each, and name at the end what failed. The exit code is 1 if anything did.

    A part that has not examined just as much as is expected of it has failed: a proof must not shrink unnoticed.
    """
    failures: list[Failure] = []
    for name, proof in parts.items():
        examined = Examined()
        failures += proof(_say, examined)
        failures += differences(name, examined, extent[name])
    for failure in failures:
        _say(f"FAILED: {failure.name}: {failure.verdict}")
    return 1 if failures else 0


def differences(part: str, examined: Mapping[str, int], expected: Mapping[str, int]) -> list[Failure]:
    """Return the failures of a part that has examined more or less than expected."""
    return [
        Failure(f"{part} examines {name}", f"expected {expected.get(name, 0):,}, got {examined.get(name, 0):,}")
        for name in dict.fromkeys((*expected, *examined))
        if expected.get(name, 0) != examined.get(name, 0)
    ]


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
