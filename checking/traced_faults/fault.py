"""Define a fault that is injected into real processes: their scenario, and what the table says of their traces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Scenario(Protocol):
    """Start real processes that write traces into a folder, drive them, and return the paths of the traces."""

    def __call__(self, folder: Path, *, faulty: bool) -> tuple[Path, ...]:
        """Return the traces of processes with the fault, or, if not ``faulty``, of correct ones that do the same."""


@dataclass(frozen=True, slots=True)
class OptionalParts:
    """The parts of a trace that a writer may leave out. The table leaves out one part at a time."""

    fields: Mapping[str, frozenset[str]]
    """The names of fields that are left out together, by their title in the table. ``step.field`` names the field of
    one step only."""

    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TracedFault:
    """A fault of the track record, and how real processes show it."""

    name: str
    """Its name in the track record, which ``explain`` should give."""
    scenario: Scenario
    optional: OptionalParts
    twins: frozenset[str] = frozenset()
    """Other faults that leave the same traces in this scenario."""
    unseen: str = ""
    """The field that would show it, and why the traces do not. Empty if the traces show the fault."""
