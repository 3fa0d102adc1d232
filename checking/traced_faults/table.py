"""The table of the faults in ``spec/trace-faults.md``: what ``explain`` says of the traces of each, and why.

Of each optional field and step it is tried what becomes of the verdict without it.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from checking.explain.explanation import Explanation, explained
from checking.explain.reading import read
from checking.tlc.toolbox import Toolbox
from checking.traced_faults.fault import TracedFault
from checking.traced_faults.faults import every_fault

FILE: Final = Path("spec/trace-faults.md")


class Row(NamedTuple):
    """What the traces of a fault show."""

    fault: str
    named: tuple[str, ...]
    """The bugs that are named first; several where they can't be told apart."""
    clauses: tuple[str, ...]
    """What the first impossible step breaks."""
    certainty: str
    needs: tuple[str, ...]
    """Fields without which others are named, or none is."""


async def row_of(toolbox: Toolbox, fault: TracedFault, specifications: Path, *, with_fields: bool = True) -> Row:
    """Let real processes have a fault, and return what their traces show."""
    with tempfile.TemporaryDirectory(prefix="unwedged-fault-") as folder:
        paths = fault.scene(Path(folder), faulty=True)
        whole = await explained(toolbox, read(paths), specifications)
        named, needs = named_first(whole), []
        optional = [*fault.optional.fields, *fault.optional.steps] if with_fields and named else []
        for title in optional:
            less = _without(paths, title, fault.optional.fields.get(title, frozenset()), Path(folder) / "less")
            if named_first(await explained(toolbox, read(less), specifications, whole)) != named:
                needs.append(title if title in fault.optional.fields else f"the step `{title}`")
    clauses = dict.fromkeys(clause for reason in whole.reasons for clause in reason.clauses)
    certainty = next((certainty.value for _, certainty in whole.bugs), "")
    return Row(fault.name, named, tuple(clauses), certainty, tuple(needs))


def named_first(explanation: Explanation) -> tuple[str, ...]:
    """Return the bugs that an explanation names first."""
    return next((tuple(bugs) for bugs, _ in explanation.bugs), ())


def _without(paths: Iterable[Path], step: str, fields: frozenset[str], folder: Path) -> Sequence[Path]:
    """Write the traces again without some fields, and without a step."""
    folder.mkdir(exist_ok=True)
    for path in paths:
        lines = [json.loads(line) for line in path.read_text().splitlines() if line]
        kept = [
            {name: value for name, value in line.items() if fields.isdisjoint({name, f"{line['step']}.{name}"})}
            for line in lines
            if line["step"] != step
        ]
        (folder / path.name).write_text("".join(json.dumps(line) + "\n" for line in _renumbered(kept)))
    return sorted(folder.iterdir())


def _renumbered(lines: Iterable[dict[str, int]]) -> Iterator[dict[str, int]]:
    """Number lines as a writer does that writes no others, so that none seems to be missing."""
    written: dict[int, list[int]] = defaultdict(list)
    for line in lines:
        before = written[line["instance"]]
        if "began_after" in line:
            line["began_after"] = bisect_right(before, line["began_after"])
        before.append(line["line"])
        line["line"] = len(before)
        yield line


def text_of(rows: Sequence[Row], faults: Sequence[TracedFault]) -> str:
    """Return the page."""
    found = sum(row.fault in row.named for row in rows)
    unseen = [fault for fault in faults if fault.unseen]
    return f"""\
# Faults and their traces

`python -m checking.traced_faults` has written this. It injects bugs of the lock, of the store and of the machine that
the [track record](track-record/README.md) has into real processes on one file. For the lock and the store, the
processes take the steps of TLC's counterexample, and then go on. For the machine they do what brings the bug about,
with a homeserver and another device. From the traces alone, `python -m checking explain` names
{found} of {len(rows)}.

- *named*: the bug that the command names first. Where it names several together, the traces do not tell which it is.
- *certainty*: what the command says of that bug: that it is certainly this one, or probably.
- *clauses*: those that the first impossible step breaks. Where there are none, no step is impossible, and the bug shows
  in what the traces tell of the cache.
- *not without*: the optional fields and steps that a trace must have for this. Where there are none, what each writer
  must write is enough (T5.1 of [`trace.md`](trace.md)).

| fault | named | certainty | clauses | not without |
| --- | --- | --- | --- | --- |
{"".join(map(_line, rows))}
These leave no mark:

| fault | what would show it |
| --- | --- |
{"".join(f"| `{fault.name}` | {fault.unseen} |{chr(10)}" for fault in unseen)}"""


def _line(row: Row) -> str:
    named = " or ".join(f"`{name}`" for name in row.named) or "nothing"
    return f"| `{row.fault}` | {named} | {row.certainty} | {', '.join(row.clauses)} | {', '.join(row.needs)} |\n"


def write(toolbox: Toolbox, root: Path) -> None:
    """Write the page anew."""
    faults = every_fault(root)
    rows = [asyncio.run(row_of(toolbox, each, root / "tla")) for each in faults]
    (root / FILE).write_text(text_of(rows, faults))
