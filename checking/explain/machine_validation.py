"""Have TLC decide whether the steps of the machine are possible (``tla/MachineTrace.tla``).

Many steps are followed in parts. Each part begins with the state that TLC has printed at the end of the one before.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from checking.explain.exchange_steps import MachineFact
from checking.explain.machine_steps import MachineStep
from checking.explain.validation import NotValidated, printed_reasons, run_configured
from checking.tlc.run import Result
from checking.tlc.toolbox import Toolbox
from checking.tlc.values import Value, function, parse_value, record, render_value

STEPS_IN_A_PART: Final = 2000
"""At most."""

_CONFIGURATION: Final = """\
SPECIFICATION ExchangeSpec
CONSTANTS
    Log <- TheLog
    Start <- TheStart
    Target = 50
    FallbackPeriod = 3600000
    MessagesKept = 256
    ClaimedAgainAfter = 60
    RequestsKept = 400
VIEW StateView
CHECK_DEADLOCK FALSE
INVARIANTS AtEnd AtImpossible
"""


@dataclass(frozen=True, slots=True)
class MachineValidation:
    """How far TLC could follow the steps of the machine."""

    followed: int
    """How many of them it could take."""
    seconds: float
    reasons: frozenset[str] = frozenset()
    """Why it could not take the next one, by the names of ``Why`` in ``tla/MachineTrace.tla``."""


async def validate_machine(toolbox: Toolbox, steps: Sequence[MachineStep], specifications: Path) -> MachineValidation:
    """Let TLC follow the steps. Raises ``NotValidated`` where it does not come to a verdict."""
    start, done, seconds = "NothingKnown", 0, 0.0
    while part := list(islice(steps, done, done + STEPS_IN_A_PART)):
        with tempfile.TemporaryDirectory(prefix="unwedged-machine-") as folder:
            path = Path(folder) / "TheMachine.tla"
            path.write_text(_module(part, start), encoding="utf-8")
            result = await run_configured(toolbox, path, _CONFIGURATION, specifications, "the machine")
            seconds += result.seconds
            followed = result.depth - 1
            if followed < len(part):
                return MachineValidation(done + followed, seconds, printed_reasons(result.printed))
        start = _end(result)
        done += len(part)
    return MachineValidation(done, seconds)


def _end(result: Result) -> str:
    """Return the state that TLC has printed, as a part can begin with it."""
    found = re.search(r'<<\s*"end",(.*)>>', " ".join(result.printed), re.DOTALL)
    if found is None:
        raise NotValidated("TLC did not print how a part of the machine's steps ends")
    return render_value(parse_value(found[1].strip()))


def _module(steps: Sequence[MachineStep], start: str) -> str:
    log = ",\n    ".join(map(_element, steps))
    return f"""\
---- MODULE TheMachine ----
EXTENDS ExchangeTrace
TheStart == {start}
TheLog == <<
    {log}
>>
====
"""


def _element(step: MachineStep) -> str:
    return render_value(record(step=step.name, **{name: _value(fact) for name, fact in step.facts.items()}))


def _value(fact: MachineFact) -> Value:
    match fact:
        case int():
            return fact
        case str():
            return _plain(fact)
        case Mapping():
            return function({_plain(name): _plain(value) for name, value in fact.items()})
        case _:
            return frozenset(map(_plain, fact))


def _plain(name: str) -> str:
    """Return a name as TLC can read it. Only one that no implementation has can be made of other characters."""
    return re.sub(r"[^\w ./]", "?", name, flags=re.ASCII)
