"""Which steps each writer of traces writes: a step that a writer never writes may still have happened (T5.2)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from checking.explain.lines import Open
from checking.explain.reading import Logs


@dataclass(slots=True)
class Writer:
    """The instances of one library, or one instance that does not say of which it is."""

    steps: set[str] = field(default_factory=set)
    """The names of those that they write."""


def writers_of(logs: Logs) -> Mapping[str, Writer]:
    """Return the writer of each instance."""
    writers: dict[str, Writer] = defaultdict(Writer)
    chosen: dict[str, Writer] = {}
    for instance, lines in logs.instances.items():
        opened = next((found.line for found in lines if isinstance(found.line, Open)), None)
        library = None if opened is None else opened.library
        chosen[instance] = writers[f"instance {instance}" if library is None else f"library {library}"]
        chosen[instance].steps.update(str(found.line.__struct_config__.tag) for found in lines)
    return chosen


def unwritten(logs: Logs, steps: Collection[str]) -> tuple[str, ...]:
    """Return those of the given steps that at least one writer never writes."""
    every = [writer.steps for writer in writers_of(logs).values()]
    return tuple(sorted(step for step in steps if any(step not in written for written in every)))
