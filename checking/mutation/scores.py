"""The page that records the score of each file: ``spec/mutants.md``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

PAGE: Final = Path("spec/mutants.md")

_TEXT: Final = """\
# Mutants

Made by `make mutants`; don't edit. Each row says how the tests did on one file, and on which day.

mutmut changes the functions of a file in one place at a time: a comparison, a
number, a text, an argument, an assignment, a condition. For each such *mutant* it runs the tests that call the
function. A mutant is *killed* if one of them fails or does not end in time. It is *equivalent* if nobody can notice
it: `tests/mutants/equivalent.toml` lists each of these with the reason. Any other mutant *survived*: a test is missing.

Not counted are mutants that change only the text of an exception or of the log, or a type that is not evaluated:
nothing is promised about these. mutmut makes no mutants outside of functions, of functions that have decorators other
than `classmethod` and `staticmethod`, and of statements in which there is nothing to change, such as a call
without arguments. Some lines of these are broken by `tests/mutants/test_mutants.py`, where they were chosen by hand.

| File | Mutants | Killed | Equivalent | Survived | Day |
| --- | ---: | ---: | ---: | ---: | --- |
"""

_ROW: Final = re.compile(r"^\| `([^`]+)` \|.*\|\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Score:
    """What became of the mutants of one file."""

    mutants: int
    killed: int
    equivalent: int
    survived: int
    day: str

    def row(self, file: str) -> str:
        """Return its row of the table."""
        return f"| `{file}` | {self.mutants} | {self.killed} | {self.equivalent} | {self.survived} | {self.day} |\n"


def score(fates: Iterable[str]) -> Score:
    """Count ``killed``, ``equivalent`` and ``survived``."""
    counts = Counter(fates)
    day = datetime.now(UTC).date().isoformat()
    return Score(counts.total(), counts["killed"], counts["equivalent"], counts["survived"], day)


def record(root: Path, found: Mapping[str, Score]) -> None:
    """Write these scores into the page; those of other files stay."""
    path = root / PAGE
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    rows = {row[1]: row[0] for row in _ROW.finditer(before)} | {file: one.row(file) for file, one in found.items()}
    path.write_text(_TEXT + "".join(rows[file] for file in sorted(rows)), encoding="utf-8")
