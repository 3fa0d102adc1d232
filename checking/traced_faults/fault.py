"""What a fault is here: how real processes come to have it, what they do, and what their traces should show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Scene(Protocol):
    """Starts real processes, drives them, and returns their traces, which they write into a folder."""

    def __call__(self, folder: Path, *, faulty: bool) -> tuple[Path, ...]:
        """Return the traces of processes that have the fault, or of sound ones that do the same."""


@dataclass(frozen=True, slots=True)
class Optional:
    """What a writer of traces need not write, and the table leaves out one by one."""

    fields: Mapping[str, frozenset[str]]
    """By what the table calls them. ``step.field`` is that of one step, where others need it."""
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TracedFault:
    """One fault."""

    name: str
    """As in the track record: what ``explain`` should say."""
    scene: Scene
    optional: Optional
    twins: frozenset[str] = frozenset()
    """Other faults that nothing in the traces of this scene tells it from."""
    unseen: str = ""
    """Why its traces show nothing, and what would; empty if they do."""
