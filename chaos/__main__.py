"""Let everything go wrong for a while: ``python -m chaos [--seconds N] [--seed S] [--folder FOLDER]``."""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table

from chaos.faults import Fault
from chaos.processes import REPOSITORY, ProcessFailed
from chaos.stage import LABELS, Stage, stage
from checking.display import make_console
from checking.explain.explanation import explain
from checking.tlc.toolbox import find_toolbox

ROUNDS_BETWEEN_CHECKS: Final = 20
MOST_STEPS_FOLLOWED: Final = 60_000
"""TLC follows some hundred steps in a second."""
WEIGHTS: Final = {Fault.SUSPEND_IN_TRANSACTION: 1, Fault.REPLACE_FILE: 1, Fault.STARVE: 2}
"""How often a fault comes; the others come four times as often as those that take seconds."""


def steps_of(folder: Path) -> Counter[str]:
    """Count the steps of all processes, as their traces tell them."""
    steps: Counter[str] = Counter()
    for label in LABELS:
        path = folder / f"{label}.ndjson"
        for line in filter(None, path.read_bytes().splitlines()) if path.exists() else ():
            try:
                steps[msgspec.json.decode(line)["step"]] += 1
            except msgspec.DecodeError:
                steps["cut off"] += 1
    return steps


def report(on: Stage, rounds: int, seconds: float) -> Table:
    """Say what has happened so far."""
    table = Table.grid(padding=(0, 2))
    table.add_row("rounds", f"{rounds:,} in {seconds:,.0f} s")
    table.add_row("turns", ", ".join(f"{how} {times:,}" for how, times in on.turns.most_common()))
    table.add_row("messages", f"{on.messages_read:,} read by everybody")
    for fault in Fault:
        table.add_row(fault.value, f"{on.happened[fault]:,}")
    table.add_row("losses", f"{len(on.losses):,}")
    return table


async def run(folder: Path, seed: int, seconds: float, console: Console) -> list[str]:
    """Go on for so many seconds, and return what was lost."""
    chosen = random.Random(f"faults {seed}")  # noqa: S311 (a seed that repeats it is wanted)
    faults, weights = [None, *Fault], [4, *(WEIGHTS.get(fault, 4) for fault in Fault)]
    began, rounds = time.monotonic(), 0
    async with stage(folder, seed) as on:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while not on.losses and time.monotonic() < began + seconds:
                await on.round(*chosen.choices(faults, weights))
                rounds += 1
                if rounds % ROUNDS_BETWEEN_CHECKS == 0:
                    await on.settle()
                    await on.check()
                if console.is_terminal:
                    live.update(report(on, rounds, time.monotonic() - began), refresh=True)
            await on.settle()
            await on.check()
        console.print(report(on, rounds, time.monotonic() - began))
    steps = steps_of(folder)
    console.print(f"handovers {steps['acquire']:,}, reruns {steps['rerun']:,}, guards lost {steps['lose_guard']:,}")
    return on.losses + await rejected(folder, steps.total(), console)


async def rejected(folder: Path, steps: int, console: Console) -> list[str]:
    """Say what the traces have that no behaviour of the specification has."""
    logs = tuple(folder / f"{label}.ndjson" for label in LABELS)
    if steps > MOST_STEPS_FOLLOWED:
        names = " ".join(map(str, logs))
        console.print(f"Not followed, since there are {steps:,} steps: python -m checking explain {names}")
        return []
    explanation = await explain(find_toolbox(), logs, None, REPOSITORY / "tla")
    console.print(explanation.text(), markup=False)
    if explanation.accepted:
        return []
    if not explanation.logs.complete:
        console.print("This decides nothing: while the disk was full, lines of the traces were lost.")
        return []
    return ["the traces are no behaviour of the specification"]


def main() -> int:
    """Run it, and say how to repeat it."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long (60)")
    parser.add_argument("--seed", type=int, help="one that repeats the choices of an earlier run")
    parser.add_argument("--folder", type=Path, help="an empty folder for the store and the logs (a temporary one)")
    arguments = parser.parse_args()
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    folder = Path(tempfile.mkdtemp(prefix="unwedged-chaos-")) if arguments.folder is None else arguments.folder
    folder.mkdir(exist_ok=True)
    console = make_console()
    console.print(f"seed {seed}")
    again = f"The logs are in {folder}. Again: python -m chaos --seconds {arguments.seconds:g} --seed {seed}"
    try:
        losses = asyncio.run(run(folder, seed, arguments.seconds, console))
    except ProcessFailed as failure:
        console.print(f"[bold red]{failure}[/]\n{again}")
        return 1
    except KeyboardInterrupt:
        console.print(f"Interrupted. {again}")
        return 130
    for loss in losses:
        console.print(loss)
    if losses:
        console.print(again)
        return 1
    console.print("Every message can be read, and nothing was used twice.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
