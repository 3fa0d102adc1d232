"""Run the tests on mutants, and fail if a mutant survives that is not listed as equivalent."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from checking.errors import CheckError
from checking.mutation import running, scores
from checking.mutation.changed import base_of, changed_lines
from checking.mutation.listed import Part, places, read_equivalents, read_parts, refuse_other_files, unmatched
from checking.mutation.mutants import Mutant
from checking.mutation.scores import EQUIVALENT, KILLED, NOT_RUN, SURVIVED, TIMED_OUT

OK, FAILED, UNUSABLE = 0, 1, 2

ROOT = Path(__file__).parents[2]
LOGS = ROOT / "build" / "mutants"


def main() -> int:
    """Run the mutants of all listed files, of some files, or of the lines that have changed. Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m checking.mutation", description=__doc__)
    parser.add_argument("files", nargs="*", metavar="FILE", help="only files whose path contains this")
    parser.add_argument("--changed", action="store_true", help="only lines that have changed since the base")
    parser.add_argument("--base", help="a commit; by default where the branch left origin/main, else the commit before")
    parser.add_argument("--seconds", type=float, help="end after so many seconds, and list what was not run")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many mutants to run at once")
    parser.add_argument("--record", action="store_true", help=f"write the scores into {scores.PAGE}")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(FAILED))  # what runs the tests must end too
    if chosen.record and (chosen.changed or chosen.base):
        parser.error("only whole files have scores")
    try:
        lines = None
        if chosen.changed or chosen.base:
            base = chosen.base or base_of(ROOT)
            if base is None:
                _say("No mutants: there is no commit to compare with.")
                return OK
            lines = changed_lines(ROOT, base, running.PACKAGE)
            _say(f"Mutants of the lines that differ from {base}:")
        return _run(chosen.files, lines, chosen.seconds, jobs=chosen.jobs, record=chosen.record)
    except CheckError as error:
        sys.stderr.write(f"mutants: {error}\n")
        return UNUSABLE


def _run(
    names: Sequence[str], lines: Mapping[str, frozenset[int]] | None, seconds: float | None, *, jobs: int, record: bool
) -> int:
    parts, equivalents = read_parts(ROOT), read_equivalents(ROOT)
    refuse_other_files(parts, names, equivalents)
    code = OK
    listed = set(places(equivalents))
    for part in parts:
        files = [
            file
            for file in part.files
            if (not names or any(name in file for name in names))
            and (lines is None or f"{running.PACKAGE}/{file}" in lines)
        ]
        if not files:
            continue
        with running.stage(ROOT, files) as (folder, made):
            for problem in unmatched(equivalents, files, {mutant.place for mutant in made}):
                _say(problem)
                code = FAILED
            chosen = [
                mutant
                for mutant in made
                if not mutant.changes_words
                and (lines is None or not lines[f"{running.PACKAGE}/{mutant.file}"].isdisjoint(mutant.lines))
            ]
            wanted = [mutant for mutant in chosen if mutant.place not in listed]
            told = running.run(folder, part, wanted, LOGS, jobs=jobs, seconds=seconds) if wanted else {}
        fates = {
            mutant: EQUIVALENT if mutant.place in listed else told[mutant.name].fate if mutant.name in told else NOT_RUN
            for mutant in chosen
        }
        code = max(code, report(part, fates, in_time=seconds is None))
        if record:
            found = {
                f"{running.PACKAGE}/{file}": scores.score(fate for mutant, fate in fates.items() if mutant.file == file)
                for file in {mutant.file for mutant in fates}
            }
            scores.record(ROOT, found)
    return code


def report(part: Part, fates: Mapping[Mutant, str], *, in_time: bool) -> int:
    """Print the results of the mutants of a part, and return the exit code.

    ``in_time`` says whether a mutant that was not run counts as a failure.
    """
    counts = {
        fate: sum(one == fate for one in fates.values()) for fate in (KILLED, TIMED_OUT, EQUIVALENT, SURVIVED, NOT_RUN)
    }
    _say(
        f"{part.name}: {len(fates)} mutants: {', '.join(f'{count} {fate}' for fate, count in counts.items() if count)}"
    )
    for mutant, fate in fates.items():
        if fate in (TIMED_OUT, SURVIVED, NOT_RUN):
            _say(f"{fate}: {mutant}")
    return FAILED if counts[SURVIVED] or (in_time and counts[NOT_RUN]) else OK


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
