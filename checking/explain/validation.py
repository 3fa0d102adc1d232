"""Have TLC decide whether steps are a behaviour of the specification (``tla/Trace.tla``)."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from checking.errors import CheckError
from checking.explain.merging import Fact, Merged, Step
from checking.tlc.run import Job, Result, Verdict, run
from checking.tlc.toolbox import Toolbox

NO_PROCESS: Final = "idle"
"""One that does nothing: the specification wants two."""
NO_OPERATION: Final = "idle/1"

_CONFIGURATION: Final = """\
SPECIFICATION TraceSpec
CONSTANTS
    Processes <- TheProcesses
    Operations <- TheOperations
    Records <- TheRecords
    Home <- TheHome
    Modes <- TheModes
    Log <- TheLog
    Subscribers = {}
    Missing = Missing
    Nobody = Nobody
    Departed = Departed
    LeaseTime = 1
    MaxEpoch = 1000000000
    MaxVersion = 1000000000
    Fault = "none"
VIEW Place
CHECK_DEADLOCK FALSE
"""

_RECORD_NAMES: Final = frozenset({"record", "records", "dropped", "basis"})


class NotValidated(CheckError):
    """TLC could not decide."""


@dataclass(frozen=True, slots=True)
class Validation:
    """How far TLC could follow the steps."""

    followed: int
    """How many of them it could take."""
    seconds: float
    reasons: frozenset[str] = frozenset()
    """Why it could not take the next one, by the names of ``Reasons`` in ``tla/Trace.tla``."""


async def validate(toolbox: Toolbox, merged: Merged, specifications: Path) -> Validation:
    """Let TLC follow the steps. Raises ``NotValidated`` where it does not come to a verdict."""
    with tempfile.TemporaryDirectory(prefix="unwedged-trace-") as folder:
        module = _written(Path(folder), merged)
        result = await _run(toolbox, module, specifications, f"{_CONFIGURATION}CONSTANT Last = 0\n")
        followed = result.depth - 1
        if followed == len(merged.steps):
            return Validation(followed, result.seconds)
        last = f"CONSTANT Last = {followed + 1}\nINVARIANT AtLast\n"
        explained = await _run(toolbox, module, specifications, f"{_CONFIGURATION}{last}")
        return Validation(followed, result.seconds + explained.seconds, _reasons(explained.printed))


def _written(folder: Path, merged: Merged) -> Path:
    module = folder / "TheTrace.tla"
    module.write_text(_module(merged), encoding="utf-8")
    return module


async def _run(toolbox: Toolbox, module: Path, specifications: Path, configuration: str) -> Result:
    configured = module.with_suffix(".cfg")
    configured.write_text(configuration, encoding="utf-8")
    result = await run(toolbox, Job(module, configured, (specifications,), brief=True))
    if result.verdict is not Verdict.PASS:
        raise NotValidated(f"TLC came to no verdict on the traces: {result.verdict.value}\n{result.detail}")
    return result


def _reasons(printed: Iterable[str]) -> frozenset[str]:
    """Return the fewest reasons of all that TLC has printed: it prints them for each state that it could come to."""
    every = [
        frozenset(re.findall(r'"(\w+)"', found[1]))
        for found in re.finditer(r'<<\s*"reasons",\s*(\{.*?\})', " ".join(printed))
    ]
    return min(every, key=len, default=frozenset())


def _module(merged: Merged) -> str:
    """Return a module with the steps, and with what they are about."""
    numbers = {record: f"r{number}" for number, record in enumerate(merged.records, 1)}
    homes = {NO_OPERATION: NO_PROCESS, **merged.operations}
    steps = ",\n    ".join(_element(step, numbers) for step in merged.steps)
    return f"""\
---- MODULE TheTrace ----
EXTENDS Trace
TheProcesses == {_set([NO_PROCESS, *merged.processes])}
TheOperations == {_set(homes)}
TheRecords == {_set(numbers.values() or ["r0"])}
TheHome == {_function({operation: _text(home) for operation, home in homes.items()})}
TheModes == [o \\in TheOperations |-> {{"transaction", "view"}}]
TheLog == <<
    {steps}
>>
====
"""


def _element(step: Step, numbers: Mapping[str, str]) -> str:
    facts = ", ".join(f"{name} |-> {_value(name, fact, numbers)}" for name, fact in step.facts.items())
    return f"[step |-> {_text(step.name)}{', ' if facts else ''}{facts}]"


def _value(name: str, fact: Fact, numbers: Mapping[str, str]) -> str:
    match fact:
        case bool():
            return "TRUE" if fact else "FALSE"
        case int():
            return str(fact)
        case str():
            return _text(numbers[fact] if name in _RECORD_NAMES else fact)
        case tuple():
            return _set(numbers[record] for record in fact)
        case _:
            return _function({numbers[record]: str(number) for record, number in fact.items()})


def _text(text: str) -> str:
    return f'"{text}"'


def _set(names: Iterable[str]) -> str:
    return "{" + ", ".join(map(_text, names)) + "}"


def _function(values: Mapping[str, str]) -> str:
    return " @@ ".join(f"{_text(name)} :> {value}" for name, value in values.items()) or "<<>>"
