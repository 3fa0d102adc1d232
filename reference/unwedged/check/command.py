"""The command ``unwedged``: checks the models and the code against each other, and looks into stores."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, TypeVar

from cyclopts import App, Parameter
from rich.text import Text

from unwedged.check import tlc
from unwedged.check.display import (
    make_console,
    show_failures,
    show_inspection,
    show_tables,
    show_trace,
    watching,
)
from unwedged.check.errors import CheckError
from unwedged.check.manifest import Band, Manifest, find_manifest, read_manifest
from unwedged.check.report import Report, fault_reports, model_report, write_report
from unwedged.check.schedule import check_models
from unwedged.check.toolbox import find_toolbox
from unwedged.store.errors import StoreError
from unwedged.store.inspection import inspect as inspect_store

OK, FAILED, UNUSABLE, INTERRUPTED = 0, 1, 2, 130

T = TypeVar("T")

app = App(
    name="unwedged",
    help="Check the protocol's models and its implementation against each other; look into stores.",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)


@app.command
def check(*, report: Path | None = None, deep: bool = False) -> int:
    """Check every model, find every fault by name, and compare all that is found with the manifest.

    Parameters
    ----------
    report
        Where to write what was found, as JSON.
    deep
        Check the deep models, and only those: at most half an hour on two cores.

    """
    console = make_console()
    manifest = _manifest()
    models = manifest.band(Band.DEEP) if deep else manifest.band(Band.SMOKE, Band.FAULT, Band.PROBE, Band.REPLAY)
    toolbox = find_toolbox()
    with watching(console, len(models)) as observer:
        outcomes = _until_done(check_models(toolbox, manifest, models, observer))
    faults = fault_reports(outcomes, {})
    passed = all(outcome.passed for outcome in outcomes)
    show_tables(console, outcomes, faults)
    show_failures(console, outcomes)
    if report is not None:
        write_report(
            Report(passed=passed, models=tuple(map(model_report, outcomes)), faults=faults, replay=None), report
        )
    wrong = sum(not outcome.passed for outcome in outcomes)
    console.print(
        Text(f"All {len(outcomes)} models are as expected.", "green")
        if passed
        else Text(f"{wrong} of {len(outcomes)} models are not as expected.", "bold red")
    )
    return OK if passed else FAILED


@app.command
def model(name: str, *, print_command: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Check one model, and show its counterexample if it has one.

    Parameters
    ----------
    name
        As in the manifest, tla/models/manifest.toml.
    print_command
        Print the exact command line that runs TLC, and do nothing else.

    """
    console = make_console()
    manifest = _manifest()
    chosen = manifest.model(name)
    toolbox = find_toolbox()
    if print_command:
        scratch = Path(tempfile.gettempdir()) / "unwedged-tlc"
        words = shlex.join(tlc.command(toolbox, manifest.job(chosen), scratch))
        sys.stdout.write(f"mkdir -p {shlex.quote(str(scratch))} && {words}\n")
        return OK
    with watching(console, 1) as observer:
        (outcome,) = _until_done(check_models(toolbox, manifest, (chosen,), observer))
    show_trace(console, outcome.result)
    show_failures(console, (outcome,))
    return OK if outcome.passed else FAILED


@app.command
def inspect(store: Path) -> int:
    """Show a store's holder, epoch, version, change log and records by kind. Needs no passphrase, and never writes.

    Parameters
    ----------
    store
        The store's file.

    """
    try:
        found = inspect_store(store)
    except StoreError as error:
        raise CheckError(f"{store}: {error}") from error
    show_inspection(make_console(), found)
    return OK


def _manifest() -> Manifest:
    return read_manifest(find_manifest(Path.cwd()))


def _until_done(work: Coroutine[None, None, T]) -> T:
    """Run ``work``; whoever asks this program to end, by Ctrl-C or politely, ends what it has started too."""

    async def interruptible() -> T:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    return asyncio.run(interruptible())


def main() -> None:
    """Run the command line."""
    try:
        code = app()
    except CheckError as error:
        sys.stderr.write(f"unwedged: {error}\n")
        code = UNUSABLE
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.stderr.write("unwedged: interrupted; every TLC has been ended\n")
        code = INTERRUPTED
    sys.exit(code)
