"""Have TLC decide whether steps are a behaviour of the specification (``tla/Trace.tla``).

A long trace is followed in parts, since a state grows with what was committed and with the records that are looked at.
Each part begins with the state that TLC has printed at the end of the one before.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rpds import HashTrieMap

from checking.errors import CheckError
from checking.explain.merging import Fact, Merged, Step, records_of
from checking.tlc.run import Job, Result, Verdict, run
from checking.tlc.toolbox import Toolbox
from checking.tlc.values import ModelValue, Value, function, parse_value, record, render_value

NO_PROCESS: Final = "idle"
"""One that does nothing: the specification wants two."""
NO_OPERATION: Final = "idle/1"
UNHEARD: Final = 1_000_003
STEPS_IN_A_PART: Final = 5000
"""At least, but for the last part."""

_CONFIGURATION: Final = """\
SPECIFICATION {specification}
CONSTANTS
    Processes <- TheProcesses
    Operations <- TheOperations
    Records <- TheRecords
    Home <- TheHome
    Modes <- TheModes
    Log <- TheLog
    Start <- TheStart
    Last = {last}
    Subscribers = {{}}
    Missing = Missing
    Nobody = Nobody
    Departed = Departed
    LeaseTime = 1
    MaxEpoch = 1000000000
    MaxVersion = 1000000000
    Fault = "none"
VIEW StateView
CHECK_DEADLOCK FALSE
INVARIANT {invariant}
"""

_NEW_ROW: Final[Value] = record(epoch=0, holder=ModelValue("Nobody"), left=0, wanted=False)
_RECORD_NAMES: Final = frozenset({"record", "records", "dropped", "basis", "unloaded"})
_VERSION_NAMES: Final = frozenset({"version", "snapshot", "since", "floor"})


class NotValidated(CheckError):
    """TLC could not decide."""


@dataclass(frozen=True, slots=True)
class Validation:
    """How far TLC could follow the steps."""

    followed: int
    """How many of them it could take."""
    parts: int
    seconds: float
    last: Part | None = None
    """The part that TLC has looked at last; ``None`` if there are no steps."""
    reasons: frozenset[str] = frozenset()
    """Why it could not take the next one, by the names of ``Reasons`` in ``tla/Trace.tla``."""


@dataclass(frozen=True, slots=True)
class _Start:
    """The state that a part begins with."""

    version: int = 0
    lease: Value = _NEW_ROW
    guards: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Those that there are."""
    cached: frozenset[tuple[str, str]] = frozenset()
    """Which process has which record in its cache."""
    running: Mapping[str, int] = field(default_factory=dict)
    """The operations that run, and under which epoch each began."""
    delivered: Mapping[str, int] = field(default_factory=dict)
    """Up to which version the subscribers of each process were delivered, if it has any."""
    updates: Counter[str] = field(default_factory=Counter)
    """How often each record was written so far."""


async def validate(toolbox: Toolbox, merged: Merged, specifications: Path) -> Validation:
    """Let TLC follow the steps. Raises ``NotValidated`` where it does not come to a verdict."""
    start, done, seconds, parts, part = _Start(), 0, 0.0, 0, None
    for steps in _parts(merged.steps):
        with tempfile.TemporaryDirectory(prefix="unwedged-trace-") as folder:
            part = Part(merged, steps, done, start)
            path = part.written(Path(folder))
            result = await follow(toolbox, path, specifications, 0, "AtEnd")
            seconds, parts = seconds + result.seconds, parts + 1
            followed = result.depth - 1
            if followed < len(steps):
                explained = await follow(toolbox, path, specifications, followed + 1, "AtLast")
                seconds += explained.seconds
                return Validation(done + followed, parts, seconds, part, printed_reasons(explained.printed))
            start = part.end(result.printed)
            done += len(steps)
    return Validation(done, parts, seconds, part)


def _parts(steps: Sequence[Step]) -> Iterator[Sequence[Step]]:
    """Cut where a lease is taken, and where every operation that runs is lost or abandoned by its next step."""
    begun = 0
    for position, step in enumerate(steps):
        if step.name == "acquire" and position - begun >= STEPS_IN_A_PART and _may_cut(steps, begun, position):
            yield steps[begun:position]
            begun = position
    if steps[begun:]:
        yield steps[begun:]


def _may_cut(steps: Sequence[Step], begun: int, position: int) -> bool:
    ended = {"finish", "lose", "abort", "outdated"}
    last = {step.facts["o"]: step.name for step in steps[begun:position] if "o" in step.facts}
    running = {operation for operation, name in last.items() if name not in ended}
    for step in steps[position:]:
        operation = step.facts.get("o")
        if not running:
            break
        if operation in running:
            if step.name not in {"lose", "abort"}:
                return False
            running.discard(operation)
    return True


async def follow(
    toolbox: Toolbox, module: Path, specifications: Path, last: int, invariant: str, specification: str = "TraceSpec"
) -> Result:
    """Let TLC follow the steps of a module. Raises ``NotValidated`` where it can't."""
    configuration = _CONFIGURATION.format(specification=specification, last=last, invariant=invariant)
    return await run_configured(toolbox, module, configuration, specifications, "the traces")


async def run_configured(
    toolbox: Toolbox, module: Path, configuration: str, specifications: Path, about: str
) -> Result:
    """Run TLC on a module of steps. Raises ``NotValidated`` where it does not come to a verdict."""
    file = module.with_suffix(".cfg")
    file.write_text(configuration, encoding="utf-8")
    result = await run(toolbox, Job(module, file, (specifications,), brief=True))
    if result.verdict is not Verdict.PASS:
        raise NotValidated(f"TLC came to no verdict on {about}: {result.verdict.value}\n{result.detail}")
    return result


def printed_reasons(printed: Iterable[str]) -> frozenset[str]:
    """Return the fewest reasons of all that TLC has printed: it prints them for each state that it could come to."""
    every = [
        frozenset(re.findall(r'"(\w+)"', found[1]))
        for found in re.finditer(r'<<\s*"reasons",\s*(\{.*?\})', " ".join(printed))
    ]
    return min(every, key=len, default=frozenset())


class Part:
    """A part: a module with its steps, and with what they are about."""

    def __init__(self, merged: Merged, steps: Sequence[Step], first: int, start: _Start) -> None:
        self.first = first
        """The position of its first step among all."""
        self._steps = steps
        self._start = start
        self._processes = [NO_PROCESS, *merged.processes]
        named = {str(step.facts["o"]) for step in steps if "o" in step.facts} | start.running.keys()
        # The specification wants operations of two processes.
        homes = {name: merged.operations[name] for name in named} or {f"{self._processes[-1]}/0": self._processes[-1]}
        self._homes = {NO_OPERATION: NO_PROCESS} | homes
        records = sorted({record for step in steps for record in records_of(step)})
        self._numbers = {record: f"r{number}" for number, record in enumerate(records, 1)} or {"": "r0"}

    @property
    def version(self) -> int:
        """The version that it begins with: its module counts from there."""
        return self._start.version

    @property
    def records(self) -> Mapping[str, str]:
        """What its module calls each record."""
        return self._numbers

    def written(self, folder: Path) -> Path:
        """Write it, and return where."""
        path = folder / "TheTrace.tla"
        steps = ",\n    ".join(map(self._element, self._steps))
        path.write_text(
            f"""\
---- MODULE TheTrace ----
EXTENDS Trace
TheProcesses == {render_value(frozenset(self._processes))}
TheOperations == {render_value(frozenset(self._homes))}
TheRecords == {render_value(frozenset(self._numbers.values()))}
TheHome == {render_value(_function(self._homes))}
TheModes == [o \\in TheOperations |-> {{"transaction", "view"}}]
TheStart == {render_value(self._begins())}
TheLog == <<
    {steps}
>>
====
""",
            encoding="utf-8",
        )
        return path

    def end(self, printed: Iterable[str]) -> _Start:
        """Return the state at the end, as TLC has printed it. What it did not look at is as it was."""
        text = " ".join(printed)
        ends = [found.start() for found in re.finditer(r'<<\s*"end"', text)]
        if not ends:
            raise NotValidated("TLC did not print how a part of the traces ends")
        match parse_value(text[ends[-1] :]):
            case (
                _,
                int(epoch),
                str(holder),
                int(left),
                bool(wanted),
                HashTrieMap() as guards,
                frozenset() as had,
                op,
                delivered,
            ):
                return self._next(_row(epoch, holder, left, wanted=wanted), guards, had, op, delivered)
        raise NotValidated(f"TLC has printed an end that can't be read: {text}")

    def _next(
        self, lease: Value, guards: HashTrieMap[Value, Value], pairs: frozenset[Value], under: Value, delivered: Value
    ) -> _Start:
        names = {number: record for record, number in self._numbers.items()}
        cached = {(str(process), names[str(record)]) for process, record in map(_pair, pairs)}
        cached |= {(process, record) for process, record in self._start.cached if record not in self._numbers}
        flushed = {str(step.facts["p"]) for step in self._steps if step.facts.get("flushed") is True}
        cached -= {(p, r) for p, r in cached if p in flushed and r not in self._numbers}
        assert isinstance(under, HashTrieMap)
        assert isinstance(delivered, HashTrieMap)
        heard = {str(process): version for process, version in delivered.items() if isinstance(version, int)}
        updates = Counter(self._start.updates)
        updates.update(record for step in self._steps if step.name == "commit" for record in records_of(step))
        commits = sum(step.name == "commit" for step in self._steps)
        return _Start(
            self._start.version + commits,
            lease,
            {str(process): _guard(guard) for process, guard in guards.items() if _guard(guard)[1]},
            frozenset(cached),
            {str(operation): epoch for operation, epoch in under.items() if isinstance(epoch, int) and epoch},
            {process: version + self._start.version for process, version in heard.items() if version != UNHEARD},
            updates,
        )

    def _begins(self) -> Value:
        start = self._start
        guards = {process: start.guards.get(process, ("none", 0)) for process in self._processes}
        return record(
            lease=start.lease,
            guards=_function({name: record(stage=stage, epoch=epoch) for name, (stage, epoch) in guards.items()}),
            cached=frozenset((name, self._numbers[each]) for name, each in start.cached if each in self._numbers),
            updates=_function({number: start.updates[each] for each, number in self._numbers.items()}),
            running=_function(start.running),
            delivered=_function({name: max(0, version - start.version) for name, version in start.delivered.items()}),
        )

    def _element(self, step: Step) -> str:
        facts = dict(step.facts)
        since = facts.get("since")
        if isinstance(since, int) and since < self._start.version:
            facts["dropped"] = ()  # What changed before this part is no longer in the cache.
        return render_value(record(step=step.name, **{name: self._value(name, fact) for name, fact in facts.items()}))

    def _value(self, name: str, fact: Fact) -> Value:
        match fact:
            case bool():
                return fact
            case int():
                return max(0, fact - self._start.version) if name in _VERSION_NAMES else fact
            case str():
                return self._numbers[fact] if name in _RECORD_NAMES else fact
            case tuple():
                return frozenset(self._numbers[each] for each in fact)
            case _:
                return _function({self._numbers[each]: number for each, number in fact.items()})


def _row(epoch: int, holder: str, left: int, *, wanted: bool) -> Value:
    return record(epoch=epoch, holder=holder or ModelValue("Nobody"), left=left, wanted=wanted)


def _pair(value: Value) -> tuple[Value, Value]:
    assert isinstance(value, tuple)
    first, second = value
    return first, second


def _guard(value: Value) -> tuple[str, int]:
    stage, epoch = _pair(value)
    assert isinstance(epoch, int)
    return str(stage), epoch


def _function(values: Mapping[str, int] | Mapping[str, str] | Mapping[str, Value]) -> Value:
    return function(dict(values.items()))
