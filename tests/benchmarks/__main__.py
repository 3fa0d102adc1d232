"""Measure, and write what came of it to spec/benchmarks.md; or measure some topics, and show what came of it.

python -m tests.benchmarks [--fast | --rigorous] [TOPIC ...]

A topic is a module of this package with a function ``measure``, which leaves raw results in ``build/benchmarks``, and
a function ``report``, which makes a section of the report out of them, and may draw plots.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Final, Protocol

from tests.benchmarks import handover, memory, model_checking, opening, peers, taking_over, transactions
from tests.benchmarks.measuring import Aim, Effort, Results, results_of, say
from tests.benchmarks.reporting import at_a_glance, head

REPORT: Final = Path("spec/benchmarks.md")


class Topic(Protocol):
    """Something that is measured."""

    def measure(self, effort: Effort) -> None:
        """Leave raw results in ``build/benchmarks``."""

    def report(self) -> str:
        """Return a section of the report, from raw results."""


class Aiming(Protocol):
    """A topic with ratios that there is a target for."""

    def aims(self) -> list[Aim]:
        """Return what is aimed at, and what was reached, from raw results."""


AIMING: Final[tuple[Aiming, ...]] = (transactions, handover, taking_over, peers)

TOPICS: Final[dict[str, Topic]] = {
    "transactions": transactions,
    "handover": handover,
    "taking-over": taking_over,
    "memory": memory,
    "opening": opening,
    "peers": peers,
    "model-checking": model_checking,
}


def main() -> int:
    """Measure the topics that were named, or all, and write the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "topics", nargs="*", metavar="TOPIC", help=f"what to measure: {', '.join(TOPICS)}; all, if none"
    )
    effort = parser.add_mutually_exclusive_group()
    for each in (Effort.FAST, Effort.RIGOROUS):
        effort.add_argument(f"--{each.name.lower()}", dest="effort", action="store_const", const=each)
    parser.set_defaults(effort=Effort.DEFAULT)
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.topics) - TOPICS.keys()):
        parser.error(f"no such topic: {', '.join(unknown)}; there are {', '.join(TOPICS)}")
    try:
        for name in arguments.topics or TOPICS:
            TOPICS[name].measure(arguments.effort)
    except KeyboardInterrupt:
        say(f"Interrupted: {REPORT} was left as it is.")
        return 130
    except subprocess.CalledProcessError as failure:
        say(f"{REPORT} was left as it is: {failure}")
        return 1
    if arguments.topics:
        sys.stdout.write("\n".join(TOPICS[name].report() for name in arguments.topics))
    else:
        write_report()
    return 0


def write_report() -> None:
    """Write the report, from the raw results of all topics; of those that were not measured it says so."""
    sections, missing = [], []
    for name, topic in TOPICS.items():
        try:
            sections.append(topic.report())
        except FileNotFoundError:
            missing.append(name)
    if missing:
        sections.append(f"Not measured yet: {', '.join(missing)}.\n")
    aims: list[Aim] = []
    for aiming in AIMING:
        with contextlib.suppress(FileNotFoundError):
            aims += aiming.aims()
    timed = (transactions, taking_over, memory, opening, peers)
    measured = {module.MODULE: Results(module.MODULE) for module in timed if results_of(module.MODULE).exists()}
    REPORT.write_text("\n".join([head(measured), at_a_glance(aims), *sections]))
    say(f"Wrote {REPORT}.")


if __name__ == "__main__":
    sys.exit(main())
