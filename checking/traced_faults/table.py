"""Make ``spec/trace-faults.md``: for each fault, what ``explain`` concludes from its traces and which fields it needs.

To find the needed fields, the traces are explained again without each optional field and without each optional step.
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
    """What the traces of one fault show."""

    fault: str
    named: tuple[str, ...]
    """The bugs that ``explain`` names first. Several, if the traces do not distinguish them."""
    clauses: tuple[str, ...]
    """The clauses that the first impossible step violates."""
    certainty: str
    needs: tuple[str, ...]
    """The optional fields and steps without which ``explain`` names other bugs, or none."""


async def row_of(toolbox: Toolbox, fault: TracedFault, specifications: Path, *, with_fields: bool = True) -> Row:
    """Run the scenario of a fault in real processes, and return what their traces show."""
    with tempfile.TemporaryDirectory(prefix="unwedged-fault-") as folder:
        paths = fault.scenario(Path(folder), faulty=True)
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
    """Return the bugs that an explanation names first; none if it names no bug."""
    return next((tuple(bugs) for bugs, _ in explanation.bugs), ())


def _without(paths: Iterable[Path], step: str, fields: frozenset[str], folder: Path) -> Sequence[Path]:
    """Write copies of the traces into a folder, without some fields and without one step. Return their paths."""
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
    """Number the remaining lines without gaps, so that no line seems to be missing."""
    written: dict[int, list[int]] = defaultdict(list)
    for line in lines:
        before = written[line["instance"]]
        if "began_after" in line:
            line["began_after"] = bisect_right(before, line["began_after"])
        before.append(line["line"])
        line["line"] = len(before)
        yield line


def text_of(rows: Sequence[Row], faults: Sequence[TracedFault]) -> str:
    """Return the text of the page."""
    found = sum(row.fault in row.named for row in rows)
    unseen = [fault for fault in faults if fault.unseen]
    return f"""\
# Faults and their traces

`python -m checking.traced_faults` writes this page. It injects bugs of the [track record](track-record/README.md) into
real processes that share one store file, and explains the traces that these processes write. Each bug has a
*scenario*, which makes the bug take effect. For a bug of the lock or the store, the processes take the steps of TLC's
counterexample, and then continue. For a bug of the machine, two processes of a device use a homeserver in memory and
talk to other devices.

`python -m checking explain` gets only the traces. It names the injected bug in {found} of {len(rows)} scenarios.
The columns of the table are:

- *named*: the bug that it names first. It names several if the traces of the scenario do not distinguish them.
- *certainty*: whether the traces prove that it is this bug, or only make it probable.
- *clauses*: the clauses that the first impossible step violates. If there are none, no step is impossible, and the bug
  shows in what the traces say of the cache.
- *needs*: the optional fields and steps of a trace that are needed for this answer. Without any one of them, it names
  another bug, or none. If the column is empty, the fields that each writer must write are enough (T5.1 of
  [`trace.md`](trace.md)).

| fault | named | certainty | clauses | needs |
| --- | --- | --- | --- | --- |
{"".join(map(_line, rows))}
These bugs leave no sign in the traces:

| fault | which field would show it, and why it does not |
| --- | --- |
{"".join(f"| `{fault.name}` | {fault.unseen} |{chr(10)}" for fault in unseen)}"""


def _line(row: Row) -> str:
    named = " or ".join(f"`{name}`" for name in row.named) or "nothing"
    return f"| `{row.fault}` | {named} | {row.certainty} | {', '.join(row.clauses)} | {', '.join(row.needs)} |\n"


def write(toolbox: Toolbox, root: Path) -> None:
    """Run all scenarios, and write the page."""
    faults = every_fault(root)
    rows = [asyncio.run(row_of(toolbox, each, root / "tla")) for each in faults]
    (root / FILE).write_text(text_of(rows, faults))
