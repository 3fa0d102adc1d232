"""Break the machine, and check that the replay notices it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from checking.machine_replay.counterpart import Counterpart
from checking.machine_replay.drive import replay
from checking.models.manifest import Manifest
from checking.replay.drive import Diverged
from checking.replay.substitutions import Substitution
from checking.tlc import run as tlc
from checking.tlc.graph import Graph, read_graph
from checking.tlc.toolbox import Toolbox


def graph_of(toolbox: Toolbox, manifest: Manifest, name: str, folder: Path) -> Graph:
    """Let TLC write the state graph of a model of the replay band, and return the graph."""
    path = folder / "replay.dot"
    asyncio.run(tlc.run(toolbox, manifest.job(manifest.model(name), path)))
    return read_graph(path)


@dataclass(frozen=True)
class Break:
    """Substitutions that break the machine, and the message that the replay must give."""

    substitutions: Sequence[Substitution]
    told: str

    def must_diverge(
        self, monkeypatch: pytest.MonkeyPatch, graph: Graph, counterpart: type[Counterpart], most_steps: int
    ) -> None:
        """Break the machine, and check that the replay of a graph diverges within ``most_steps`` steps."""
        for substitution in self.substitutions:
            monkeypatch.setattr(*substitution)
        with pytest.raises(Diverged, match=rf"(?s){self.told}.*\nafter \w+"):
            asyncio.run(replay(graph, counterpart, _stop_after(most_steps)))


def _stop_after(most_steps: int) -> Callable[[int], None]:
    """Return a progress callback that fails after ``most_steps`` steps."""
    total = 0

    def count(steps: int) -> None:
        nonlocal total
        total += steps
        assert total < most_steps, "nothing has shown"

    return count
