"""How a proof says how it goes, what it says of an obligation that it did not meet, and how much it has examined."""

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from proofs.extent import EXTENT

Say = Callable[[str], None]

Examined = Counter[str]
"""How much of what was really examined, counted where that happens."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An obligation that was not met, and what came of it instead."""

    name: str
    verdict: str


Proof = Callable[[Say, Examined], list[Failure]]
"""Does its work, says line by line how it goes, counts what it examines, and returns what failed."""


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
    """Compare what a part has examined with what is expected of it."""
    return [
        Failure(f"{part} examines {name}", f"expected {expected.get(name, 0):,}, got {examined.get(name, 0):,}")
        for name in dict.fromkeys((*expected, *examined))
        if expected.get(name, 0) != examined.get(name, 0)
    ]


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
