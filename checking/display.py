"""Show progress and results on the console: a live view on a terminal, only results in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from checking.models.conditions import Fall
from checking.models.manifest import Model
from checking.models.schedule import Outcome, ProgressReporter
from checking.report import FaultReport, MachineReplayReport, ReplayReport
from checking.tlc.run import Progress, Result, Verdict
from checking.tlc.values import State, render_value
from unwedged.tools.sequence import Sequence as Drawing
from unwedged.tools.sequence import lifelines_of

_PIPE_WIDTH = 120


def make_console() -> Console:
    """Return a console for standard output. Lines in a pipe are not wrapped."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPE_WIDTH, soft_wrap=True)


@contextmanager
def watching(console: Console, total: int) -> Iterator[ProgressReporter]:
    """Show the progress of a check of ``total`` models, as long as the context lasts."""
    if not console.is_terminal:
        yield _LineReporter(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, TextColumn("{task.fields[said]}"), console=console, transient=True) as bars:
        yield _LiveReporter(bars, total)


@contextmanager
def counting(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of some work. Call the yielded function with the number done and the number in all."""
    if not console.is_terminal:
        yield lambda done, total: None
        return
    with Bars(TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console) as bars:
        task = bars.add_task(what)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def show_replays(console: Console, of_store: ReplayReport | None, of_machine: Sequence[MachineReplayReport]) -> None:
    """Print how much of the replay models was covered, and how fast."""
    if of_store is not None:
        console.print(
            f"Replay: {of_store.covered:,} of {of_store.transitions:,} transitions covered in {of_store.steps:,} steps "
            f"and {of_store.seconds:.0f} s, {of_store.steps_per_second:,.0f} steps a second in each of "
            f"{of_store.processes} processes. Tried where it had to change nothing: "
            f"{', '.join(f'{what} ({count})' for what, count in of_store.tried.items())}."
        )
    for each in of_machine:
        console.print(
            f"{each.model}: {each.covered:,} of {each.transitions:,} transitions covered in {each.seconds:.0f} s. "
            f"Changed nothing, as it had to: what was handed in again ({each.repeated:,}), what the model does not "
            f"allow ({each.refused:,})."
        )


class _LineReporter:
    """Prints one line for each finished model."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def started(self, model: Model) -> None:
        pass

    def progressed(self, model: Model, progress: Progress) -> None:
        pass

    def finished(self, outcome: Outcome) -> None:
        self._console.print(outcome_line(outcome))


class _LiveReporter:
    """Shows a progress bar for all models, and a line for each model that runs."""

    def __init__(self, bars: Bars, total: int) -> None:
        self._bars = bars
        self._all = bars.add_task("models", total=total, said="")
        self._running: dict[str, TaskID] = {}

    def started(self, model: Model) -> None:
        # The bar is measured by the expected number of states; the real number may differ.
        self._running[model.name] = self._bars.add_task(model.name, total=model.distinct_states, said="")

    def progressed(self, model: Model, progress: Progress) -> None:
        self._bars.update(self._running[model.name], completed=progress.distinct_states, said=_progress_text(progress))

    def finished(self, outcome: Outcome) -> None:
        self._bars.remove_task(self._running.pop(outcome.model.name))
        self._bars.advance(self._all)
        self._bars.console.print(outcome_line(outcome))


def _progress_text(progress: Progress) -> str:
    return f"{progress.distinct_states:,} states, {progress.queued:,} queued, depth {progress.depth}"


def outcome_line(outcome: Outcome) -> Text:
    """Return one line with the outcome of a model."""
    result = outcome.result
    mark = Text("ok   ", "green") if outcome.passed else Text("WRONG", "bold red")
    return Text.assemble(
        mark, f" {outcome.model.name}: {_finding(outcome)}, {result.distinct_states:,} states, ",
        f"depth {result.depth}, {result.seconds:.1f} s",
    )  # fmt: skip


def _finding(outcome: Outcome) -> str:
    result = outcome.result
    if result.verdict is Verdict.PASS:
        return "every property holds"
    if result.verdict in (Verdict.SAFETY, Verdict.LIVENESS):
        return f"{result.property or 'one of its properties'} falls{', as expected' if outcome.passed else ''}"
    return str(result.verdict.value)


def fall_line(fall: Fall) -> Text:
    """Return one line with the result of removing a condition."""
    if fall.falls:
        return Text(f"{fall.condition}: {fall.falls} ({fall.model})")
    if fall.unfinished:
        return Text(f"{fall.condition}: not decided, TLC was stopped: {', '.join(fall.unfinished)}", "red")
    return Text(f"{fall.condition}: nothing falls", "yellow")


def show_faults(console: Console, faults: Sequence[FaultReport]) -> None:
    """Print a table of the faults: the result in the model, and in the reference."""
    table = Table("fault", "layer", "property", "model", "replay", title="Faults", title_justify="left")
    for column in table.columns:
        column.overflow = "fold"
    for fault in faults:
        table.add_row(
            fault.slug, fault.layer.value, fault.property, fault.model_verdict.value, fault.replay_verdict or "-"
        )
    console.print(table)


def show_failures(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Print for each model with an unexpected result what was expected, and TLC's message."""
    for outcome in outcomes:
        for difference in outcome.differences:
            console.print(Text(f"{outcome.model.name}: {difference}", "red"))
        if not outcome.passed and outcome.result.detail:
            console.print(Text(outcome.result.detail))


def show_trace(console: Console, result: Result) -> None:
    """Print a counterexample: the whole initial state, then what each step changes."""
    before: State = {}
    for number, step in enumerate(result.trace, 1):
        console.print(Text(f"{number}: {step.label or 'initially'}", "bold"))
        for name in sorted(step.state):
            # Not "!=": it is wrong for two of rpds's maps that have an equal entry.
            if name not in before or not before[name] == step.state[name]:  # noqa: SIM201
                console.print(Text(f"     {name} = {render_value(step.state[name])}"))
        before = step.state
    if result.lasso is not None:
        stands_still = result.lasso == len(result.trace) - 1
        console.print("then nothing happens any more" if stands_still else f"then back to {result.lasso + 1}, for ever")


def show_drawing(console: Console, drawing: Drawing) -> None:
    """Print a sequence diagram. Its last line says what is wrong."""
    *steps, ending = lifelines_of(drawing, console.width).splitlines()
    console.print()
    for line in steps:
        console.print(Text(line))
    console.print(Text(ending, "bold red"))
