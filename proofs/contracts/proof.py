"""Let CrossHair confirm each contract on all paths, and refute it when one line is broken.

Run `python -m proofs contracts`. Only the verdict "confirmed" counts as success. "Not confirmed" (no counterexample was
found), a time-out, a crash, and a contract that is not found or not listed are failures, and the contract is named.

A contract is a `post:` line of a docstring. Its name has the name of the function and the comment at the end of the
line.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection

from crosshair.core import ConditionCheckable, SyntaxErrorCheckable
from crosshair.core_and_libs import AnalysisKind, MessageType, analyze_module
from crosshair.options import AnalysisOptionSet

from proofs.contracts import symbolic_arguments
from proofs.contracts.broken import FAULTS, Fault, broken
from proofs.report import Examined, Failure, Say

MODULES = (
    "unwedged.protocol.lease",
    "unwedged.protocol.guard",
    "unwedged.protocol.cache",
    "unwedged.protocol.stream",
    "proofs.contracts.laws",
)

CONTEXT = get_context("forkserver")  # so that a new process need not import CrossHair again
CONTEXT.set_forkserver_preload(["proofs.contracts.laws"])

PROCESSES = 2
SECONDS = 120.0  # the processor time for one contract; the slowest takes about 20
DEADLINE = 600.0  # the seconds until a process without a verdict is killed

CONFIRMED = "confirmed"
REFUTED = "false when calling"


@dataclass(frozen=True, slots=True)
class Question:
    """The question for the verdict on a contract, with or without a fault that breaks a line."""

    modules: tuple[str, ...]
    contract: str
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """CrossHair's verdict or an error, and the seconds that it took."""

    verdict: str
    seconds: float


def stated(modules: Sequence[str]) -> dict[str, ConditionCheckable | None]:
    """Return the contracts of the modules by name; `None` for a contract that CrossHair can't read."""
    options = AnalysisOptionSet(analysis_kind=[AnalysisKind.PEP316], report_all=True, per_condition_timeout=SECONDS)
    found: dict[str, ConditionCheckable | None] = {}
    for module in modules:
        short = module.rpartition(".")[2]
        for checkable in analyze_module(import_module(module), options):
            if isinstance(checkable, ConditionCheckable):
                [condition] = checkable.conditions.post
                name = f"{short}.{checkable.ctxfn.name}: {condition.expr_source.partition('  # ')[2]}"
                found[f"{name} (stated twice)" if name in found else name] = checkable
            elif isinstance(checkable, SyntaxErrorCheckable):
                found |= {f"{short}, line {message.line}: {message.message}": None for message in checkable.messages}
    return found


def verdict(question: Question) -> str:
    """Ask CrossHair in this process. After a question with a fault, the process can't answer other questions."""
    checkable = stated(question.modules).get(question.contract)
    if checkable is None:
        return "not found: nothing that CrossHair can read states it (it passes over an async function)"
    conditions = replace(checkable.conditions, sig=symbolic_arguments.instance(checkable.conditions.sig))
    if question.fault is not None:
        module, _, name = question.fault.function.partition(".")
        [home] = (import_module(path) for path in question.modules if path.rpartition(".")[2] == module)
        function = getattr(home, name)
        try:
            substitute = broken(function, question.fault)
        except ValueError as error:
            return str(error)
        setattr(home, name, substitute)
        if conditions.fn is function:
            conditions = replace(conditions, fn=substitute)
    messages = list(replace(checkable, conditions=conditions).analyze())
    if [message.state for message in messages] == [MessageType.CONFIRMED]:
        return CONFIRMED
    return "; ".join(message.message for message in messages) or "CrossHair says nothing"


def tell_verdict(connection: "Connection[str, str]", question: Question) -> None:
    """Send the verdict to the process that asked."""
    connection.send(verdict(question))


def answer(question: Question) -> Answer:
    """Find the verdict in a process of its own: its failure can't look like a verdict or stop other questions."""
    began = time.monotonic()
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=tell_verdict, args=(sender, question), daemon=True)
    process.start()
    sender.close()
    try:
        found = receiver.recv() if receiver.poll(DEADLINE) else f"time-out after {DEADLINE:.0f} s"
    except EOFError:
        process.join()
        found = f"crash: exit code {process.exitcode}"
    finally:
        process.kill()
        process.join()
        receiver.close()
    return Answer(found, time.monotonic() - began)


def answers(questions: Sequence[Question]) -> Iterator[Answer]:
    """Yield the answers in the order of the questions, as soon as they are known."""
    with ThreadPoolExecutor(PROCESSES) as pool:
        try:
            yield from pool.map(answer, questions)
        finally:
            pool.shutdown(cancel_futures=True)


def unlisted(faults: Mapping[str, Fault], modules: tuple[str, ...]) -> list[Failure]:
    """Each contract that is stated must be listed."""
    return [Failure(name, "stated, but not listed") for name in stated(modules) if name not in faults]


def confirm(faults: Mapping[str, Fault], modules: tuple[str, ...], say: Say, examined: Examined) -> list[Failure]:
    """Each contract that is listed must be confirmed."""
    failures = []
    for name, found in zip(faults, answers([Question(modules, name) for name in faults]), strict=True):
        say(f"{name}: {found.verdict}  {found.seconds:.1f} s")
        if found.verdict == CONFIRMED:
            examined["contracts that are confirmed"] += 1
        else:
            failures.append(Failure(name, found.verdict))
    return failures


def refute(faults: Mapping[str, Fault], modules: tuple[str, ...], say: Say, examined: Examined) -> list[Failure]:
    """Each contract must have a counterexample where its line is broken."""
    failures = []
    questions = [Question(modules, name, fault) for name, fault in faults.items()]
    for (name, fault), found in zip(faults.items(), answers(questions), strict=True):
        say(f"{name}, with '{fault.new}' for '{fault.old}' in {fault.function}:")
        say(f"    {found.verdict}  {found.seconds:.1f} s")
        if found.verdict.startswith(REFUTED):
            examined["broken lines that are refuted"] += 1
        else:
            failures.append(Failure(name, f"with '{fault.new}' for '{fault.old}' in {fault.function}: {found.verdict}"))
    return failures


def prove(say: Say, examined: Examined) -> list[Failure]:
    """Confirm and refute all contracts."""
    began = time.monotonic()
    say("Each contract of the code, over all paths:")
    failures = unlisted(FAULTS, MODULES) + confirm(FAULTS, MODULES, say, examined)
    say("One line broken, and arguments for which the contract does not hold:")
    failures += refute(FAULTS, MODULES, say, examined)
    say(f"{len(FAULTS)} contracts, {len(FAULTS)} faults, {time.monotonic() - began:.0f} s")
    return failures
