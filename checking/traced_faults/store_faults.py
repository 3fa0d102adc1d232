"""The faults of the lock and the store: real processes take the steps of TLC's counterexample, and then continue."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from checking.replay.faults import FAULTS
from checking.replay.model_states import HOME, OPERATION_OF
from checking.replay.transitions import STORE_ACTIONS, Step
from checking.traced_faults.fault import OptionalParts, TracedFault
from checking.traced_faults.processes import RealProcess
from checking.traced_faults.store_process import GO_ON, Answer, Command, Setting
from checking.track_record.counterexamples import Counterexample, Taken, read_counterexamples
from unwedged.protocol.identifiers import Milliseconds

BEGINNING_MS: Final = Milliseconds(1_000_000_000)
ROUNDS: Final = 2
"""How often each process continues after the counterexample."""


OPTIONAL: Final = OptionalParts(
    {
        "`based_on` and `made`": frozenset({"based_on", "made"}),
        "`began_after`": frozenset({"began_after"}),
        "`changed` and `changed_in`": frozenset({"changed", "changed_in"}),
        "`draining_ms`": frozenset({"draining_ms"}),
        "`dropped`": frozenset({"dropped"}),
        "`failure`": frozenset({"failure"}),
        "`floor`": frozenset({"floor"}),
        "`held_ms`": frozenset({"held_ms"}),
        "`kept`": frozenset({"kept"}),
        "`left_ms`": frozenset({"left_ms"}),
        "`row_epoch`": frozenset({"row_epoch"}),
        "`version` of `load`": frozenset({"load.version"}),
        "`wanted`": frozenset({"wanted"}),
        "`why`": frozenset({"why"}),
    },
    ("load", "renew", "truncate", "validate", "want"),
)

AFTER_OTHERS: Final = frozenset({"dirty-hidden-from-reentrant", "reload-race"})
"""Faults that leave the same traces in an empty store. Each process writes something before the counterexample."""

STEPS_AFTER: Final[Mapping[str, Sequence[Step]]] = {
    "waits-inside": (Step("StopRenewing", process="p2"), Step("Renew", process="p2")),
}
"""The steps that follow a counterexample of a liveness property, in which nothing happens any more."""

_NOT_DELIVERED: Final = frozenset({"floor-ignored-in-stream", "foreign-writes-unseen", "streams-lost"})
TWINS: Final[Mapping[str, frozenset[str]]] = {
    slug: _NOT_DELIVERED - {slug} for slug in ("floor-ignored-in-stream", "foreign-writes-unseen")
}

UNSEEN: Final[Mapping[str, str]] = {
    "streams-lost": "`unsubscribe`: it does not say whether the application has ended its subscription",
}


def store_faults(root: Path) -> Sequence[TracedFault]:
    """Return a fault for each recorded counterexample of the lock and the store."""
    by_slug = {each.slug: each for each in reversed(read_counterexamples(root)) if each.slug in FAULTS}
    return [
        TracedFault(
            slug,
            partial(traces_of, by_slug[slug]),
            OPTIONAL,
            twins=TWINS.get(slug, frozenset()),
            unseen=UNSEEN.get(slug, ""),
        )
        for slug in sorted(by_slug)
    ]


def traces_of(counterexample: Counterexample, folder: Path, *, faulty: bool) -> tuple[Path, ...]:
    """Let real processes take the steps of a counterexample, with its fault or without. Return their traces."""
    with ExitStack() as stack:
        driver = _Driver(stack, counterexample, folder, counterexample.slug if faulty else None)
        if counterexample.slug in AFTER_OTHERS:
            driver.go_on()
        steps = [*steps_of(counterexample), *STEPS_AFTER.get(counterexample.slug, ())]
        for step in steps[:-1] if steps[-1].action == "Crash" else steps:  # a last crash would only cut off the trace
            driver.take(step)
        for _ in range(ROUNDS):
            driver.go_on()
    return tuple(sorted(folder.glob("*.ndjson")))


def steps_of(counterexample: Counterexample) -> Sequence[Step]:
    """Return the steps of a counterexample, under the names that they have in the store."""
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
    patterns = {"Load": r"loading: <<>> -> (.*)", "Commit": r"commits: \+ (.*)", "Forget": r"records\[(\w+)\]"}
    found = re.search(patterns.get(action, r"records\[(\w+)\]"), changes)
    return frozenset(re.findall(r"\br\d\b", found[1])) if found else frozenset()


class _Driver:
    """Real processes, each of which takes the steps of one process of the model."""

    def __init__(self, stack: ExitStack, counterexample: Counterexample, folder: Path, fault: str | None) -> None:
        changes = "\n".join(change for taken in counterexample.steps for change in taken.changes)
        self._home = HOME if counterexample.module != "LeaseLock" else {o: p for p, o in OPERATION_OF.items()}
        self._records = tuple(sorted({"r1", *re.findall(r"\br\d\b", changes)}))
        self._subscribers = frozenset(re.findall(r"heard\[(\w+)\]", changes))
        self._stack, self._folder, self._fault = stack, folder, fault
        self._time_ms = int(BEGINNING_MS)
        self._instances = 0
        self._processes = {name: self._started(name) for name in sorted(set(self._home.values()))}

    def _started(self, name: str) -> RealProcess:
        setting = Setting(
            str(self._folder), name, self._instances, self._fault, self._home, self._records, self._subscribers
        )
        self._instances += 1
        return RealProcess(self._stack, "checking.traced_faults.store_process", setting)

    def take(self, step: Step) -> None:
        """Take a step in the process that it belongs to; a step of no process is taken in the first one."""
        if step.action == "Crash":
            self._processes[step.process].kill()
            self._processes[step.process] = self._started(step.process)
        elif step.process:
            self._ask(step.process, step)
        else:
            self._ask(next(iter(self._processes)), step)

    def go_on(self) -> None:
        """Let each process finish its work and write something more. A lease that still prevents this expires."""
        refused = [name for name in self._processes if not self._ask(name, Step(GO_ON))]
        for name in refused:
            if not self._ask(name, Step(GO_ON)):
                self._ask(name, Step("Expire"))
                self._ask(name, Step(GO_ON))

    def _ask(self, name: str, step: Step) -> bool:
        answer = self._processes[name].ask(Command(step, self._time_ms), Answer)
        self._time_ms = answer.time_ms
        return answer.possible
