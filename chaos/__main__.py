"""The command ``python -m chaos [--seconds N] [--seed S] [--folder FOLDER]``, and its report."""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from chaos.faults import Fault
from chaos.processes import REPOSITORY, ProcessFailed
from chaos.stage import Stage, stage
from chaos.traces import Followed
from checking.display import make_console
from checking.tlc.toolbox import find_toolbox

ROUNDS_BETWEEN_CHECKS: Final = 20
LINES_IN_A_PART: Final = 10_000
"""The least number of trace lines in a part. The last part may have fewer."""
WEIGHTS: Final = {Fault.SUSPEND_IN_TRANSACTION: 1, Fault.REPLACE_FILE: 1, Fault.STARVE: 2}
"""The weights of the faults that take seconds. Every other fault has the weight 4."""


def report(on: Stage, followed: Followed, rounds: int, seconds: float) -> Table:
    """Return a table of the events so far."""
    table = Table.grid(padding=(0, 2))
    table.add_row("rounds", f"{rounds:,} in {seconds:,.0f} s")
    table.add_row("turns", ", ".join(f"{how} {times:,}" for how, times in on.turns.most_common()))
    table.add_row("messages", f"{on.messages_read:,} read by everybody")
    reasons = ", ".join(f"{code} {times:,}" for code, times in on.cancelled.most_common())
    ended = f"{on.verified:,} ended well, {on.cancelled.total():,} cancelled" + (f" ({reasons})" if reasons else "")
    table.add_row("verifications", f"{ended}, with {on.tablets:,} other devices")
    table.add_row("room keys asked for", f"{on.keys_given:,} arrived, {on.keys_refused:,} refused")
    table.add_row("secrets asked for", f"{on.secrets_given:,} arrived")
    for fault in Fault:
        table.add_row(fault.value, f"{on.happened[fault]:,}")
    steps = followed.steps
    table.add_row("traces", f"{followed.lines:,} lines accepted, in {followed.parts:,} parts of the run")
    table.add_row(
        "of these", f"handovers {steps['acquire']:,}, reruns {steps['rerun']:,}, guards lost {steps['lose_guard']:,}"
    )
    table.add_row("losses", f"{len(on.losses):,}")
    return table


async def run(folder: Path, seed: int, seconds: float, console: Console) -> list[str]:
    """Run rounds for the given number of seconds, and return what was lost."""
    chosen = random.Random(f"faults {seed}")  # noqa: S311 (a seed that repeats it is wanted)
    faults, weights = [None, *Fault], [4, *(WEIGHTS.get(fault, 4) for fault in Fault)]
    began, rounds = time.monotonic(), 0
    followed = Followed(find_toolbox(), REPOSITORY / "tla")
    async with stage(folder, seed) as on:
        following = asyncio.create_task(asyncio.sleep(0))
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while not on.losses and not followed.rejection and time.monotonic() < began + seconds:
                await on.round(*chosen.choices(faults, weights))
                rounds += 1
                if rounds % ROUNDS_BETWEEN_CHECKS == 0:
                    await on.settle()
                    await on.check()
                    if on.traces.lines >= LINES_IN_A_PART:
                        await following  # TLC follows one part at a time.
                        following = asyncio.create_task(followed.follow(await on.end_part()))
                if console.is_terminal:
                    live.update(report(on, followed, rounds, time.monotonic() - began), refresh=True)
            await on.settle()
            await on.check()
            await on.check_backup()
    seconds = time.monotonic() - began
    await following
    if followed.rejection is None:
        await followed.follow(on.traces.finish_part())
    console.print(report(on, followed, rounds, seconds))
    if followed.rejection is None:
        return on.losses
    console.print(followed.rejection, markup=False)
    return [*on.losses, "the traces are no behaviour of the specification"]


def main() -> int:
    """Run chaos, print the report, and say how to repeat what was lost."""
    parser = argparse.ArgumentParser(
        prog="python -m chaos",
        description="Let everything go wrong for a device in two processes, and check that nothing is lost.",
    )
    parser.add_argument("--seconds", type=float, default=60, help="how long to run (default: 60)")
    parser.add_argument("--seed", type=int, help="the seed of an earlier run, to repeat its choices")
    parser.add_argument("--folder", type=Path, help="an empty folder for stores and traces (default: a temporary one)")
    arguments = parser.parse_args()
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    folder = Path(tempfile.mkdtemp(prefix="unwedged-chaos-")) if arguments.folder is None else arguments.folder
    folder.mkdir(exist_ok=True)
    console = make_console()
    console.print(f"seed {seed}")
    again = (
        f"What happened: python -m checking explain {folder}/*.ndjson\n"
        f"Again: python -m chaos --seconds {arguments.seconds:g} --seed {seed}"
    )
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
    console.print("Every message can be read, nothing was used twice, and no verification hangs.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
