"""The command line ``python -m checking``: checks the models and the code against each other."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from getpass import getpass
from pathlib import Path
from typing import Annotated, TypeVar

from cyclopts import App, Parameter
from rich.console import Console
from rich.text import Text

from checking import guard_states
from checking.citations import CHECKS, CODE, Specification
from checking.conformance import kit
from checking.display import (
    counting,
    fall_line,
    make_console,
    show_drawing,
    show_failures,
    show_faults,
    show_replays,
    show_trace,
    watching,
)
from checking.errors import CheckError
from checking.explain import pseudonyms
from checking.explain.explanation import explain as explain_traces
from checking.explain.forensics import SOUND, Name, Verdict, examine, named_by_event
from checking.explain.history import histories
from checking.explain.reading import read_all
from checking.machine_replay import counterexamples as machine_counterexamples
from checking.machine_replay.counterparts import COUNTERPARTS, is_replayed
from checking.machine_replay.drive import Dump, replay_dumps
from checking.models.conditions import Fall, all_conditions, discrepancies, read_condition_list, take_out
from checking.models.manifest import Band, Layer, Manifest, Model, find_manifest, read_manifest
from checking.models.schedule import Outcome, check_models, dump_of
from checking.replay.counterexamples import replay_counterexample
from checking.replay.drive import replay_graph
from checking.report import MachineReplayReport, ReplayReport, Report, fault_reports, model_report, write_report
from checking.tlc import run as tlc
from checking.tlc.toolbox import find_toolbox
from checking.traced_faults.machine_scene import TRACES
from checking.traced_faults.sample import KEY_FILE, PEER_TRACE, STORES, make_sample
from checking.track_record import files
from checking.track_record.bugs import read_bugs
from checking.track_record.counterexamples import counterexample_of, counterexamples_of
from checking.track_record.pages import page_of_states
from unwedged.tools.printable import printable
from unwedged.trace import Trace

OK, FAILED, UNUSABLE, INTERRUPTED = 0, 1, 2, 130
KEY_BYTES = 32

T = TypeVar("T")

app = App(
    name="python -m checking",
    help="Check the protocol's models and its implementation against each other.",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)


@app.command
def check(*, report: Path | None = None, deep: bool = False) -> int:
    """Check every model and every fault, and replay the models and counterexamples on the implementation.

    Parameters
    ----------
    report
        The file for a JSON report.
    deep
        Check only the deep models. Takes at most half an hour on two cores.

    """
    console = make_console()
    manifest = _manifest()
    models = manifest.band(Band.DEEP) if deep else manifest.band(Band.SMOKE, Band.FAULT, Band.PROBE, Band.REPLAY)
    toolbox = find_toolbox()
    with tempfile.TemporaryDirectory() as scratch:
        with watching(console, len(models)) as reporter:
            outcomes = _run_interruptibly(check_models(toolbox, manifest, models, reporter, Path(scratch)))
        passed = all(outcome.passed for outcome in outcomes)
        replayed = None if deep else _replay(console, manifest.band(Band.REPLAY), Path(scratch))
    verdicts, failures = _replay_faults(outcomes)
    outdated = [] if deep else files.differences(find_manifest(Path.cwd()).parents[2], counterexamples_of(outcomes))
    faults = fault_reports(outcomes, verdicts)
    passed = passed and not failures and not outdated and (deep or replayed is not None)
    if faults:
        show_faults(console, faults)
    show_failures(console, outcomes)
    for failure in (*failures, *outdated):
        console.print(Text(failure, "red"))
    if replayed is not None:
        show_replays(console, *replayed)
    if report is not None:
        of_store, of_machine = (None, ()) if replayed is None else replayed
        write_report(
            Report(
                passed=passed,
                models=tuple(map(model_report, outcomes)),
                faults=faults,
                replay=of_store,
                machine_replays=of_machine,
            ),
            report,
        )
    wrong = sum(not outcome.passed for outcome in outcomes)
    console.print(
        Text(
            f"All {len(outcomes)} models are as expected{'' if deep else ', and so is what was replayed of them'}.",
            "green",
        )
        if passed
        else Text(
            f"{wrong} of {len(outcomes)} models and {len(failures)} of {len(verdicts)} replayed faults "
            f"are not as expected{'' if deep or replayed else '; nor is the replay'}"
            f"{f'; nor are {len(outdated)} counterexamples the recorded ones' if outdated else ''}.",
            "bold red",
        )
    )
    return OK if passed else FAILED


@app.command
def replay(*names: str) -> int:
    """Let the real store and machine take every transition of the replay models, and compare after each step.

    Parameters
    ----------
    names
        Replay only these models.

    """
    console = make_console()
    manifest = _manifest()
    toolbox = find_toolbox()
    models = tuple(model for model in manifest.band(Band.REPLAY) if not names or model.name in names)
    with tempfile.TemporaryDirectory() as scratch:
        with watching(console, len(models)) as reporter:
            outcomes = _run_interruptibly(check_models(toolbox, manifest, models, reporter, Path(scratch)))
        show_failures(console, outcomes)
        if not outcomes or not all(outcome.passed for outcome in outcomes):
            return FAILED
        replayed = _replay(console, models, Path(scratch))
    if replayed is None:
        return FAILED
    show_replays(console, *replayed)
    return OK


def _replay(
    console: Console, models: Sequence[Model], folder: Path
) -> tuple[ReplayReport | None, tuple[MachineReplayReport, ...]] | None:
    """Replay the graphs of the store and of the machine. Return the reports, and the error if one diverged."""
    of_machine = [model for model in models if model.specification in COUNTERPARTS]
    of_store = [model for model in models if model not in of_machine]
    try:
        if not models or not all(dump_of(model, folder).exists() for model in models):
            raise CheckError("there is no replay model, or TLC did not write its graph")
        with counting(console, "replayed steps") as on_progress:
            stores = [replay_graph(dump_of(model, folder), on_progress) for model in of_store]
        with counting(console, "replayed transitions") as on_progress:
            dumps = [Dump(model.name, model.specification, dump_of(model, folder)) for model in of_machine]
            return next(iter(stores), None), tuple(replay_dumps(dumps, on_progress))
    except CheckError as error:
        console.print(Text(f"replay: {error}", "red"))
        return None


def _replay_faults(outcomes: Sequence[Outcome]) -> tuple[dict[str, str], list[str]]:
    """Replay the counterexample of each fault, with the fault and without. Return the violated properties, and errors.

    A fault that can't be injected into the machine, or that can't be observed there, is left out.
    """
    verdicts: dict[str, str] = {}
    failures: list[str] = []
    for outcome in outcomes:
        model, result = outcome.model, outcome.result
        if model.slug is None or model.property is None:
            continue
        try:
            if model.layer is not Layer.MACHINE:
                verdicts[model.name] = replay_counterexample(model.slug, model.property, result)
            elif is_replayed(model.specification, model.slug, model.property):
                verdicts[model.name] = machine_counterexamples.replay_counterexample(
                    model.specification, model.slug, model.property, result
                )
        except CheckError as error:
            verdicts[model.name] = "WRONG"
            failures.append(f"{model.name}: {error}")
    return verdicts, failures


@app.command
def model(
    name: str, *, html: Path | None = None, print_command: Annotated[bool, Parameter(negative=())] = False
) -> int:
    """Check one model, and show its counterexample, if it has one.

    Parameters
    ----------
    name
        The model's name in tla/models/manifest.toml.
    html
        The file for a page that shows the counterexample and the state after each step.
    print_command
        Print the command line of TLC, and do not run it.

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
    with watching(console, 1) as reporter:
        (outcome,) = _run_interruptibly(check_models(toolbox, manifest, (chosen,), reporter))
    show_trace(console, outcome.result)
    show_failures(console, (outcome,))
    if html is not None and outcome.result.trace:
        found, bugs = counterexample_of(chosen, outcome.result), read_bugs(find_manifest(Path.cwd()).parents[2])
        _write_page(console, html, page_of_states(found, outcome.result.trace, bugs))
    elif html is not None:
        raise CheckError(f"{name} has no counterexample, so {html} is not written")
    return OK if outcome.passed else FAILED


@app.command
def conditions(*prefixes: str) -> int:
    """Remove each condition and each fairness assumption of the specification in turn; show which property fails.

    Parameters
    ----------
    prefixes
        Remove only the conditions that begin with this, such as LeaseLock!Renew.

    """
    console = make_console()
    manifest = _manifest()
    listed = read_condition_list(manifest)
    everything = all_conditions(manifest)
    chosen = [condition for condition in everything if str(condition).startswith(prefixes or "")]
    if not chosen:
        raise CheckError(f"there is no condition that begins with {' or '.join(prefixes)}")
    falls: list[Fall] = []
    with counting(console, "conditions") as on_progress:

        def on_fall(fall: Fall) -> None:
            falls.append(fall)
            console.print(fall_line(fall))
            on_progress(len(falls), len(chosen))

        _run_interruptibly(take_out(find_toolbox(), manifest, chosen, on_fall))
    wrong = discrepancies(falls, listed, everything)
    for discrepancy in wrong:
        console.print(Text(discrepancy, "red"))
    return FAILED if wrong else OK


@app.command
def vectors() -> int:
    """Generate the test vectors for other implementations: spec/conformance."""
    console = make_console()
    root = find_manifest(Path.cwd()).parents[2]
    changed = kit.write(root)
    for path in changed:
        console.print(f"Wrote {path.relative_to(root)}.")
    if not changed:
        console.print("All vectors are up to date.")
    return OK


@app.command
def guard() -> int:
    """Draw the states of the guard from the code: spec/guard-states.svg. Print their table."""
    root = find_manifest(Path.cwd()).parents[2]
    if guard_states.write(root):
        make_console().print(f"Wrote {guard_states.PICTURE}.")
    sys.stdout.write(guard_states.table())
    return OK


@app.command
def clauses(*prefixes: str) -> int:
    """List the clauses of the specification and their citations; fail if a clause or a citation is without the other.

    Parameters
    ----------
    prefixes
        List only the clauses whose numbers begin with this, such as P4, each with the positions of its citations.

    """
    console = make_console()
    specification = Specification.read(find_manifest(Path.cwd()).parents[2])
    shown = [clause for clause in specification.clauses.values() if clause.number.startswith(prefixes or "")]
    for clause in shown:
        citing = specification.citing(clause.number)
        counts = Counter(citation.place for citation in citing)
        line = ", ".join(f"{place} {counts[place]}" for place in (CODE, *sorted(CHECKS)) if counts[place])
        console.print(Text(f"{clause.number:7}{clause.level or 'note':7}{line or clause.reason or '-'}"))
        if prefixes:
            for citation in citing:
                console.print(Text(f"              {citation}", "dim"))
    problems = specification.problems()
    for problem in problems:
        console.print(Text(problem, "red"))
    normative = [clause for clause in specification.clauses.values() if clause.level]
    console.print(
        f"{len(specification.clauses)} clauses, {len(normative)} of them normative; "
        f"{sum(clause.reason is not None for clause in normative)} of these say why nothing checks them; "
        f"{len(problems)} problems."
    )
    return FAILED if problems else OK


@app.command
def track_record(*, anew: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Generate the pages and drawings of the track record: spec/track-record.

    Parameters
    ----------
    anew
        First let TLC find all counterexamples, and record them.

    """
    console = make_console()
    manifest = _manifest()
    root = find_manifest(Path.cwd()).parents[2]
    if anew:
        models = manifest.band(Band.FAULT)
        with watching(console, len(models)) as reporter:
            outcomes = _run_interruptibly(check_models(find_toolbox(), manifest, models, reporter))
        show_failures(console, outcomes)
        if not all(outcome.passed for outcome in outcomes):
            return FAILED
        files.record(root, counterexamples_of(outcomes))
    changed = files.write(root)
    for path in changed:
        console.print(f"Wrote {path.relative_to(root)}." if path.exists() else f"Removed {path.relative_to(root)}.")
    if not changed:
        console.print("All pages are up to date.")
    return OK


_REPEATED = Parameter(negative=(), show_default=False)


@app.command
def explain(
    *logs: Path,
    store: str | None = None,
    html: Path | None = None,
    message: Annotated[tuple[str, ...], _REPEATED] = (),
    event: str | None = None,
    olm: Annotated[tuple[str, ...], _REPEATED] = (),
    reader: str | None = None,
    unlock: Annotated[tuple[Path, ...], _REPEATED] = (),
    passphrase_file: Path | None = None,
    key_file: Path | None = None,
) -> int:
    """Explain traces: whether they are a behaviour of the specification, or which step is impossible, and why.

    With a message, explain instead why it can't be decrypted.

    Parameters
    ----------
    logs
        The traces of all processes of one store (spec/trace.md), in any order. For a message, also the traces of the
        other end's store.
    store
        The pseudonym of the store to explain, if the traces are of several stores.
    html
        The file for a page that shows the steps and the state after each step. Not for a message.
    message
        A room message, SESSION:INDEX. SESSION is a pseudonym from the traces, one for each store; or the real session
        ID, if the stores are unlocked.
    event
        Instead of a room message, the pseudonym or the ID of its event.
    olm
        An Olm message, RATCHET_KEY:INDEX. RATCHET_KEY is named in the same way as SESSION.
    reader
        The device that can't decrypt the message: its pseudonym from the sender's traces, or USER_ID/DEVICE_ID.
    unlock
        The file of a store, to compute the pseudonyms of real names. The command asks for its passphrase.
    passphrase_file
        A file whose first line is the passphrase of the stores to unlock.
    key_file
        A file with the key of the stores to unlock: 32 bytes, or their hexadecimal digits.

    """
    if message or event or olm:
        if html is not None:
            raise CheckError("--html draws the steps of a store, not of a message: leave out one of the options")
        return _explain_message(logs, message, event, olm, reader, _traces(unlock, passphrase_file, key_file))
    specifications, toolbox = find_manifest(Path.cwd()).parents[1], find_toolbox()
    explanation = _run_interruptibly(explain_traces(toolbox, logs, store, specifications))
    console = make_console()
    for line in explanation.text().splitlines():
        console.print(printable(line), markup=False)
    if not explanation.accepted:
        show_drawing(console, explanation.drawing())
    if html is not None:
        _write_page(console, html, _run_interruptibly(explanation.page(toolbox, specifications)))
    return OK if explanation.accepted else FAILED


@app.command
def sample(folder: Path) -> int:
    """Make sample traces: real processes share a device and have a fault, and its peer can't decrypt a message.

    Then say how to explain them.

    Parameters
    ----------
    folder
        A new folder for the traces and the stores.

    """
    names = make_sample(folder)
    traces = " ".join(shlex.quote(str(folder / name)) for name in TRACES)
    peer = shlex.quote(str(folder / PEER_TRACE))
    stores = " ".join(f"--unlock {shlex.quote(str(folder / name))}" for name in STORES)
    key = shlex.quote(str(folder / KEY_FILE))
    command = f".venv/bin/python -m checking explain {traces}"
    make_console().print(
        f"Bob can't decrypt the last message. Two traces show which bug that is:\n  {command}\n"
        f"and what became of the message's key:\n  {command} --message {names.by_device}\n"
        f"With Bob's trace too:\n"
        f"  {command} {peer} --message {names.by_device} --message {names.by_peer}\n"
        f"With the name that an application knows, and both stores:\n"
        f"  {command} {peer} --message {shlex.quote(names.by_application)} {stores} --key-file {key}",
        markup=False,
    )
    return OK


def _explain_message(
    logs: tuple[Path, ...],
    message: tuple[str, ...],
    event: str | None,
    olm: tuple[str, ...],
    reader: str | None,
    traces: list[Trace],
) -> int:
    """Print what happened to the key of one message."""
    if olm and (message or event):
        raise CheckError("a message is either in a room or an Olm message: give --message or --olm")
    stores = histories(read_all(logs))
    names = [] if event is None else [named_by_event(stores, pseudonyms.event(event, traces))]
    for named in message or olm:
        name, _, index = named.rpartition(":")
        if not name or not index.isdecimal():
            raise CheckError(f"{named} is no message: it is named SESSION:INDEX, or RATCHET_KEY:INDEX for --olm")
        called = pseudonyms.ratchet(name, traces) if olm else pseudonyms.session(name, traces)
        names.append(Name(called, int(index), olm=bool(olm)))
    if len({name.index for name in names}) > 1:
        raise CheckError("a message has the same index for each of its stores")
    devices = None if reader is None else pseudonyms.device(reader, traces)
    together = replace(names[0], pseudonyms=frozenset[str]().union(*(name.pseudonyms for name in names)))
    finding = examine(stores, together, devices)
    console = make_console()
    console.print(Text(printable(finding.summary), "bold green" if finding.verdict in SOUND else "bold red"))
    for line in finding.details():
        console.print(Text(printable(line), "" if line.startswith("  because") else "dim"))
    return OK if finding.verdict is not Verdict.UNCLEAR else FAILED


def _traces(stores: tuple[Path, ...], passphrase_file: Path | None, key_file: Path | None) -> list[Trace]:
    """Return the pseudonyms of unlocked stores. Secrets come from files or a prompt, never from the command line."""
    try:
        key = None if key_file is None else key_file.read_bytes()
        passphrase = None if passphrase_file is None else passphrase_file.read_text().partition("\n")[0]
        if key is not None and len(key) > KEY_BYTES:
            key = bytes.fromhex(key.decode())
    except OSError as error:
        raise CheckError(f"a secret can't be read: {error}") from None
    except ValueError:
        raise CheckError(f"a key is {KEY_BYTES} bytes, or these in hexadecimal") from None
    found = []
    for path in stores:
        try:
            asked = getpass(f"passphrase of {path}: ") if key is None and passphrase is None else passphrase
        except EOFError:
            raise CheckError(
                f"there is no terminal to ask for the passphrase of {path}: give --passphrase-file or --key-file"
            ) from None
        found.append(pseudonyms.trace_of(path, asked, key))
    return found


def _write_page(console: Console, path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CheckError(f"{path} can't be written: {error.strerror}") from None
    console.print(f"Wrote {printable(str(path))}.", markup=False)


def _manifest() -> Manifest:
    return read_manifest(find_manifest(Path.cwd()))


def _run_interruptibly(work: Coroutine[None, None, T]) -> T:
    """Run ``work``. SIGINT or SIGTERM also ends the processes that it has started."""

    async def interruptible() -> T:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    return asyncio.run(interruptible())


def main() -> None:
    """Run the command line."""
    # `nohup` or a CI runner may have started this so that it ignores Ctrl-C; then nothing could end it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = app()
    except CheckError as error:
        sys.stderr.write(f"checking: {error}\n")
        code = UNUSABLE
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.stderr.write("checking: interrupted; every TLC has been ended\n")
        code = INTERRUPTED
    sys.exit(code)
