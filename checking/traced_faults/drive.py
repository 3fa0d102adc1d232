"""Starts real processes with a fault, drives them as TLC's counterexample says, and leaves their traces."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from checking.errors import CheckError
from checking.replay.model_states import HOME, OPERATION_OF
from checking.replay.transitions import STORE_ACTIONS, Step
from checking.traced_faults.process import GO_ON, Answer, Command, Setting
from checking.track_record.counterexamples import Counterexample, Taken
from unwedged.protocol.identifiers import Milliseconds

BEGINNING_MS: Final = Milliseconds(1_000_000_000)
ROUNDS: Final = 2
"""How often each process goes on after the counterexample."""


class ProcessEnded(CheckError):
    """A process ended that should have gone on."""


def traces_of(counterexample: Counterexample, folder: Path, *, faulty: bool = True) -> tuple[Path, ...]:
    """Let real processes do what a counterexample says, with its fault or without, and return their traces."""
    with _driven(counterexample, folder, faulty=faulty) as driver:
        steps = steps_of(counterexample)
        for step in steps[:-1] if steps[-1].action == "Crash" else steps:  # which would only cut off the trace
            driver.take(step)
        for _ in range(ROUNDS):
            driver.go_on()
    return tuple(sorted(folder.glob("*.ndjson")))


def steps_of(counterexample: Counterexample) -> Sequence[Step]:
    """Return the steps of a counterexample as the store takes them."""
    of_lock = counterexample.module == "LeaseLock"
    return [_step(taken, of_lock=of_lock) for taken in counterexample.steps]


def _step(taken: Taken, *, of_lock: bool) -> Step:
    changes = "\n".join(taken.changes)
    action, operation = taken.action, taken.operation
    if action == "ClockJump":
        return Step("Expire" if "lease.left: 1 -> 0" in changes else "JumpBack")
    if of_lock and taken.process and action != "Want":
        action, operation = STORE_ACTIONS.get(action, action), OPERATION_OF[taken.process]
    mode = re.search(r'mode: "none" -> "(\w+)"', changes)
    return Step(
        action,
        process=taken.process,
        operation=operation,
        mode=mode[1] if mode else "transaction",
        records=_records(action, changes),
        released="-> Nobody" in changes,
    )


def _records(action: str, changes: str) -> frozenset[str]:
    place = {"Load": r"loading: <<>> -> (.*)", "Commit": r"commits: \+ (.*)", "Forget": r"records\[(\w+)\]"}
    found = re.search(place.get(action, r"records\[(\w+)\]"), changes)
    return frozenset(re.findall(r"\br\d\b", found[1])) if found else frozenset()


class _Driver:
    """Processes, by their names in the model."""

    def __init__(self, stack: ExitStack, counterexample: Counterexample, folder: Path, fault: str | None) -> None:
        told = "\n".join(change for taken in counterexample.steps for change in taken.changes)
        self._home = HOME if counterexample.module != "LeaseLock" else {o: p for p, o in OPERATION_OF.items()}
        self._records = tuple(sorted({"r1", *re.findall(r"\br\d\b", told)}))
        self._subscribers = frozenset(re.findall(r"heard\[(\w+)\]", told))
        self._stack, self._folder, self._fault = stack, folder, fault
        self._time_ms = int(BEGINNING_MS)
        self._instances = 0
        self._processes = {name: self._started(name) for name in sorted(set(self._home.values()))}

    def _started(self, name: str) -> subprocess.Popen[str]:
        setting = Setting(
            str(self._folder), name, self._instances, self._fault, self._home, self._records, self._subscribers
        )
        self._instances += 1
        command = [sys.executable, "-m", "checking.traced_faults.process", msgspec.json.encode(setting).decode()]
        process = self._stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 (our own)
        )
        self._stack.callback(process.kill)
        self._line_from(process)
        return process

    def take(self, step: Step) -> None:
        """Let the process take a step that it is a step of."""
        if step.action == "Crash":
            self._processes[step.process].kill()
            self._processes[step.process].wait()
            self._processes[step.process] = self._started(step.process)
        elif step.process:
            self._ask(step.process, step)
        else:
            self._ask(next(iter(self._processes)), step)

    def go_on(self) -> None:
        """Let each process end what it does and do something more; a lease that is in the way at last expires."""
        refused = [name for name in self._processes if not self._ask(name, Step(GO_ON))]
        for name in refused:
            if not self._ask(name, Step(GO_ON)):
                self._ask(name, Step("Expire"))
                self._ask(name, Step(GO_ON))

    def _ask(self, name: str, step: Step) -> bool:
        process = self._processes[name]
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(Command(step, self._time_ms)).decode() + "\n")
        process.stdin.flush()
        answer = msgspec.json.decode(self._line_from(process), type=Answer)
        self._time_ms = answer.time_ms
        return answer.possible

    def _line_from(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise ProcessEnded(f"a process with the fault {self._fault} ended with {process.wait()}")
        return line


@contextmanager
def _driven(counterexample: Counterexample, folder: Path, *, faulty: bool) -> Iterator[_Driver]:
    with ExitStack() as stack:
        yield _Driver(stack, counterexample, folder, counterexample.slug if faulty else None)
