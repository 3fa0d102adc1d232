"""Record the mutation score of each file in ``spec/mutants.md``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

PAGE: Final = Path("spec/mutants.md")

KILLED: Final = "killed"
TIMED_OUT: Final = "timed out"
EQUIVALENT: Final = "equivalent"
SURVIVED: Final = "survived"
NOT_RUN: Final = "not run"

_TEXT: Final = """\
# Mutants

`make mutants` makes this page; don't edit it. Each row has the result of one file, and the day of the run.

mutmut changes the functions of a file in one place at a time: a comparison, a
number, a text, an argument, an assignment, a condition. For each such *mutant* it runs the tests that call the
function. A mutant is *killed* if one of them fails. It *timed out* if none fails, and one does not end, even when it
runs again alone, as with an endless loop. It is *equivalent* if nobody can notice it: `tests/mutants/equivalent.toml`
lists each of these with the reason. Any other mutant *survived*: a test is missing. About those *not run* nothing is
known.

Some mutants are not counted: those that change only the text of an exception or of a log line, or a type that is not
evaluated. Nothing is promised about these. mutmut makes no mutants outside of functions, none of functions with
decorators other than `classmethod` and `staticmethod`, and none of statements without anything to change, such as a
call without arguments. `tests/mutants/test_mutants.py` breaks some of these lines; they were chosen by hand.

The files are those of `protocol` that decide, and the paths of the fence, of commits and of syncs in the store. What
encrypts records (`sealed_records.py`, `sealer.py`) and tells subscribers (`streams.py`) is not mutated. Of the path of
a sync response, `sync.py` reads the response, and `inbox.py` compares its tokens, keeps and processes its events, and
gives each event to the module that knows its type. These modules are not mutated: `olm.py`, `rooms.py`,
`verifications.py`, `gossip.py`, `key_requests.py` and `secrets.py` for events, `devices.py` for device lists, and
`account.py` for counts of keys.

| File | Mutants | Killed | Timed out | Equivalent | Survived | Not run | Day |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |
"""

_ROW: Final = re.compile(r"^\| `([^`]+)` \|.*\|\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Score:
    """How many mutants of one file there are, and the number of each result."""

    mutants: int
    killed: int
    timed_out: int
    equivalent: int
    survived: int
    not_run: int
    day: str

    def row(self, file: str) -> str:
        """Return its row of the table."""
        counts = (self.mutants, self.killed, self.timed_out, self.equivalent, self.survived, self.not_run)
        return f"| `{file}` | {' | '.join(map(str, counts))} | {self.day} |\n"


def score(fates: Iterable[str]) -> Score:
    """Count what became of each mutant."""
    counts = Counter(fates)
    return Score(
        mutants=counts.total(),
        killed=counts[KILLED],
        timed_out=counts[TIMED_OUT],
        equivalent=counts[EQUIVALENT],
        survived=counts[SURVIVED],
        not_run=counts[NOT_RUN],
        day=datetime.now(UTC).date().isoformat(),
    )


def record(root: Path, found: Mapping[str, Score]) -> None:
    """Write the scores of some files into the page, and keep those of other files."""
    path = root / PAGE
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    rows = {row[1]: row[0] for row in _ROW.finditer(before)} | {file: one.row(file) for file, one in found.items()}
    path.write_text(_TEXT + "".join(rows[file] for file in sorted(rows)), encoding="utf-8")
