"""Measure all topics and write the report to spec/benchmarks.md, or measure some topics and print their sections.

python -m bench [--fast | --rigorous] [TOPIC ...]

A topic is a module of this package with two functions. ``measure`` writes raw results into ``RESULTS``. ``report``
makes a section of the report from them, and may draw plots. To add a topic:

- enter it in ``TOPICS``; also in ``TARGETED`` if it has a target, and in ``TIMED`` if pyperf writes its results;
- let ``sized`` decide how much it measures, so that it takes a few seconds in a smoke run;
- do not import ``plots`` in a module that runs in the peers' environment, which has no matplotlib.

If ``UNWEDGED_SMOKE`` is in the environment, as in ``make bench-smoke``, every topic is measured briefly, to show that
it still works. The results and the report go to ``build/smoke``. The run fails if a topic fails or has no results.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from bench import (
    bounded,
    handover,
    machine,
    memory,
    model_checking,
    opening,
    peers,
    rivals,
    taking_over,
    transactions,
)
from bench.measuring import RESULTS, SMOKE, Effort, Results, Target, results_of, say, sized
from bench.plots import ratios
from bench.reporting import head

REPORT: Final = sized(Path("spec/benchmarks.md"), RESULTS / "benchmarks.md")


class Topic(Protocol):
    """A module that measures something."""

    def measure(self, effort: Effort) -> None:
        """Measure, and write raw results into ``RESULTS``."""

    def report(self) -> str:
        """Return a section of the report, made from raw results."""


class Targeted(Protocol):
    """A topic with ratios that have a target."""

    def targets(self) -> list[Target]:
        """Return the ratios with their targets, from raw results."""


TOPICS: Final[dict[str, Topic]] = {
    "transactions": transactions,
    "handover": handover,
    "rivals": rivals,
    "taking-over": taking_over,
    "memory": memory,
    "bounded": bounded,
    "opening": opening,
    "peers": peers,
    "machine": machine,
    "model-checking": model_checking,
}

TARGETED: Final[tuple[Targeted, ...]] = (transactions, handover, rivals, taking_over, peers, machine)

TIMED: Final = (transactions, taking_over, memory, bounded, opening, peers, machine)
"""The topics whose results pyperf writes. pyperf also records the load of the computer."""


def main() -> int:
    """Measure the named topics and print their sections, or measure all topics and write the report."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "topics", nargs="*", metavar="TOPIC", help=f"what to measure: {', '.join(TOPICS)}; all, if none"
    )
    effort = parser.add_mutually_exclusive_group()
    for each in (Effort.FAST, Effort.RIGOROUS):
        effort.add_argument(f"--{each.name.lower()}", dest="effort", action="store_const", const=each)
    parser.set_defaults(effort=sized(Effort.DEFAULT, Effort.SMOKE))
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.topics) - TOPICS.keys()):
        parser.error(f"no such topic: {', '.join(unknown)}; there are {', '.join(TOPICS)}")
    if SMOKE:
        say("A smoke run: it shows that each benchmark works. Its figures mean nothing.")
        shutil.rmtree(RESULTS, ignore_errors=True)
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
    elif (missing := write_report()) and SMOKE:
        say(f"These left no results: {', '.join(missing)}.")
        return 1
    return 0


def write_report() -> list[str]:
    """Write the report from the raw results of all topics.

    Return the topics without results, which the report names.
    """
    sections, missing = [], []
    for name, topic in TOPICS.items():
        try:
            sections.append(topic.report())
        except FileNotFoundError:
            missing.append(name)
    if missing:
        sections.append(f"Not measured yet: {', '.join(missing)}.\n")
    targets: list[Target] = []
    for targeted in TARGETED:
        with contextlib.suppress(FileNotFoundError):
            targets += targeted.targets()
    measured = {module.MODULE: Results(module.MODULE) for module in TIMED if results_of(module.MODULE).exists()}
    REPORT.write_text("\n".join([head(measured), at_a_glance(targets), *sections]))
    say(f"Wrote {REPORT}.")
    return missing


def at_a_glance(targets: Sequence[Target]) -> str:
    """Draw all ratios that have a target. Return the section with the plot."""
    missed = [target.what for target in targets if not target.met]
    said = f"Missed: {'; '.join(missed)}." if missed else "None is missed."
    return f"""\
## At a glance

The {len(targets)} ratios that have a target, each with its quartiles and its target. {said}

![{len(targets)} ratios with their quartiles and targets]({ratios("ratios", targets)})
"""


if __name__ == "__main__":
    sys.exit(main())
