"""The table of the faults in ``spec/trace-faults.md``: whether the traces show each, by its name, and by which fields.

``python -m checking.traced_faults`` writes it. Of each field it is tried what becomes of the verdict without it.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from checking.explain.explanation import Explanation
from checking.explain.merging import Merged, merge
from checking.explain.reading import read
from checking.explain.validation import validate
from checking.replay.faults import FAULTS
from checking.tlc.toolbox import Toolbox
from checking.traced_faults.drive import traces_of
from checking.track_record.counterexamples import Counterexample, read_counterexamples

FILE: Final = Path("spec/trace-faults.md")

FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "`based_on` and `made`": frozenset({"based_on", "made"}),
    "`began_after`": frozenset({"began_after"}),
    "`changed` and `changed_in`": frozenset({"changed", "changed_in"}),
    "`dropped`": frozenset({"dropped"}),
    "`floor`": frozenset({"floor"}),
    "`kept`": frozenset({"kept"}),
    "`wanted`": frozenset({"wanted"}),
    "`why`": frozenset({"why"}),
}
"""The fields of the steps of the store that a writer need not write, and that one can leave out one by one."""

STEPS: Final = ("load", "renew", "truncate", "validate", "want")
"""The steps that a writer need not write."""

SILENT: Final[Mapping[str, str]] = {
    "clock-jump": "nothing: no process can do anything, and that has no line",
    "failed-sync-keeps-lease": "nothing that a sound process whose release failed would not write as well",
    "floor-ignored-in-stream": "`publish`: what subscribers were told is not judged yet",
    "foreign-writes-unseen": "`publish`: what subscribers were told is not judged yet",
    "renewal-starved": "when the lease was to end, in `commit`; no line may be judged by a clock",
    "stale-failure-believed": "the epoch that the fence found, in `validate`",
    "streams-lost": "`publish`: what subscribers were told is not judged yet",
    "unfenced-load": "the store's version, in `load`",
    "unvalidated-view": "the epoch that the fence found, in `validate`",
    "waiter-ignored": "for how long somebody waited, which may be a turn; no line may be judged by a clock",
    "waits-inside": "for how long somebody waited; no line may be judged by a clock",
}
"""Faults that leave no mark in a trace, and what would show them."""


class Row(NamedTuple):
    """What the traces of a fault show."""

    fault: str
    named: tuple[str, ...]
    """The bugs that are named first; several where they can't be told apart."""
    needs: tuple[str, ...]
    """Fields without which others are named, or none is."""


def models(root: Path) -> Sequence[Counterexample]:
    """Return a counterexample of each fault of the lock and the store."""
    by_slug = {each.slug: each for each in reversed(read_counterexamples(root)) if each.slug in FAULTS}
    return [by_slug[slug] for slug in sorted(by_slug)]


async def row_of(
    toolbox: Toolbox, counterexample: Counterexample, specifications: Path, *, with_fields: bool = True
) -> Row:
    """Let real processes do what a counterexample says, and return what their traces show."""
    with tempfile.TemporaryDirectory(prefix="unwedged-fault-") as folder:
        paths = traces_of(counterexample, Path(folder))
        whole = await _explained(toolbox, paths, specifications, None)
        named, needs = named_first(whole), []
        for title in (*FIELDS, *STEPS) if with_fields and named else ():
            _leave_out(paths, title, Path(folder) / "less")
            less = sorted((Path(folder) / "less").iterdir())
            if named_first(await _explained(toolbox, less, specifications, whole)) != named:
                needs.append(title if title in FIELDS else f"the step `{title}`")
    return Row(counterexample.slug, named, tuple(needs))


def named_first(explanation: Explanation) -> tuple[str, ...]:
    """Return the bugs that an explanation names first."""
    return next((tuple(bugs) for bugs, _ in explanation.bugs), ())


async def _explained(
    toolbox: Toolbox, paths: Sequence[Path], specifications: Path, known: Explanation | None
) -> Explanation:
    """Explain traces; TLC is not asked about the same steps again."""
    logs = read(paths)
    merged = merge(logs)
    if known is not None and _told(merged) == _told(known.merged):
        return Explanation(logs, merged, known.validation)
    return Explanation(logs, merged, await validate(toolbox, merged, specifications))


def _told(merged: Merged) -> object:
    return [(step.name, step.facts) for step in merged.steps]


def _leave_out(paths: Iterable[Path], title: str, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for path in paths:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [
            {name: value for name, value in line.items() if name not in FIELDS.get(title, ())}
            for line in lines
            if line["step"] != title
        ]
        (folder / path.name).write_text("".join(json.dumps(line) + "\n" for line in kept))


def text_of(rows: Sequence[Row]) -> str:
    """Return the page."""
    found = sum(row.fault in row.named for row in rows)
    return f"""\
# Faults and their traces

`python -m checking.traced_faults` has written this. It injects each bug of the lock and of the store that the
[track record](track-record/README.md) has into real processes on one file, and has them take the steps of TLC's
counterexample, and then go on. It asks `python -m checking explain` for the cause, from the traces alone. That names
{found} of {len(rows)}. Where two names stand together, the counterexample does not tell which it is. A fault that
needs no optional field is found by what each writer must write (T5.1 of [`trace.md`](trace.md)).

| fault | named | not without |
| --- | --- | --- |
{"".join(map(_line, rows))}
These leave no mark:

| fault | what would show it |
| --- | --- |
{"".join(f"| `{fault}` | {why} |{chr(10)}" for fault, why in SILENT.items())}"""


def _line(row: Row) -> str:
    named = " or ".join(f"`{name}`" for name in row.named) or "nothing"
    return f"| `{row.fault}` | {named} | {', '.join(row.needs)} |\n"


def write(toolbox: Toolbox, root: Path) -> None:
    """Write the page anew."""
    rows = [asyncio.run(row_of(toolbox, each, root / "tla")) for each in models(root)]
    (root / FILE).write_text(text_of(rows))
