"""Run TLC on one model, and return the result as data.

The option ``-tool`` makes TLC print a number with each message. The verdict follows from these numbers and the exit
code, never from the words of a message. Each run has its own temporary folder for TLC's states and for the standard
modules that it unpacks. So several runs can go on at once, and none leaves files behind.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from checking.errors import UnreadableOutput
from checking.tlc.standstill import standstill
from checking.tlc.toolbox import Toolbox
from checking.tlc.values import Label, State, parse_label, parse_state


class Verdict(Enum):
    """What TLC found."""

    PASS = "pass"  # noqa: S105  a verdict, not a password
    """Every property holds in every reachable state."""
    ASSUMPTION = "assumption"
    """An ASSUME is false."""
    DEADLOCK = "deadlock"
    """A state without a next one."""
    SAFETY = "safety"
    """An invariant, a property of steps, or the safety part of a refinement is violated."""
    LIVENESS = "liveness"
    """A temporal property is violated by an endless behaviour."""
    UNFINISHED = "unfinished"
    """TLC was stopped, because it hung, or because it found so many more states than expected that it might never
    end."""
    ERROR = "error"
    """TLC could not check the model: it does not parse, or it can't be evaluated."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to run: a specification with one configuration."""

    specification: Path
    configuration: Path
    library: tuple[Path, ...] = ()
    """Folders in which TLC looks for modules, besides the specification's own."""
    workers: int = 1
    idle_timeout_seconds: float = 300
    """TLC is stopped when it has used no processor time for so long. The duration of a working TLC is not limited."""
    max_states: int | None = None
    """TLC is stopped when it has found more states than this."""
    brief: bool = False
    """Whether the run is expected to take only seconds."""
    dump: Path | None = None
    """The file for the state graph in the DOT format. Its name must end in ``.dot``."""


@dataclass(frozen=True, slots=True)
class TraceStep:
    """One step of a counterexample: its label, and the state after it. The initial state has no label."""

    label: Label | None
    state: State


@dataclass(frozen=True, slots=True)
class Progress:
    """TLC's progress."""

    distinct_states: int
    queued: int
    depth: int


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a run."""

    verdict: Verdict
    exit_code: int
    property: str | None
    """The violated property; ``None`` if none is, or if TLC does not say which of several."""
    distinct_states: int
    depth: int
    seconds: float
    trace: tuple[TraceStep, ...]
    lasso: int | None
    """For an infinite counterexample: the index of the state at which its loop begins, and to which the last step leads
    back. The last index: nothing happens any more."""
    detail: str
    """TLC's own error message; empty if every property holds."""
    printed: tuple[str, ...] = ()
    """What the specification itself printed by ``PrintT``."""


_SHORT_RUN_OPTIONS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xss512m")
"""Java options for a run of a few seconds. They halve the processor time, since Java does not optimise the code.

TLC recurs for each element of a set over which an action quantifies: hence the large stack. Unused stack costs nothing.
"""

_LONG_RUN_OPTIONS = ("-XX:+UseParallelGC",)


def command(toolbox: Toolbox, job: Job, scratch: Path) -> list[str]:
    """Return the exact command line of a run that uses ``scratch`` for everything temporary."""
    library = os.pathsep.join(str(folder) for folder in job.library)
    return [
        str(toolbox.java),
        *(_SHORT_RUN_OPTIONS if job.brief else _LONG_RUN_OPTIONS),
        # TLC formats numbers by the locale.
        "-Duser.language=en",
        "-Duser.country=US",
        f"-Djava.io.tmpdir={scratch}",
        *([f"-DTLA-Library={library}"] if library else []),
        # Without "-Xlog:disable", Java would warn among TLC's output if it can't use the file.
        *([f"-XX:AOTCache={toolbox.classes}", "-Xlog:disable"] if toolbox.classes else []),
        "-cp",
        str(toolbox.jar),
        "tlc2.TLC",
        "-tool",
        *toolbox.options,
        "-workers",
        str(job.workers),
        *(["-dump", "dot,actionlabels", str(job.dump)] if job.dump else []),
        # Liveness is checked once, at the end: otherwise the counterexample depends on the speed of the computer.
        "-lncheck",
        "final",
        # The hash function is fixed: with a random one, each run finds another infinite counterexample.
        "-fp",
        "0",
        "-metadir",
        str(scratch / "states"),
        "-config",
        str(job.configuration),
        str(job.specification),
    ]


async def run(toolbox: Toolbox, job: Job, on_progress: Callable[[Progress], None] = lambda _: None) -> Result:
    """Run TLC until it ends, hangs, or finds too many states. Cancellation ends TLC too."""
    began = time.monotonic()
    reader = _OutputReader(on_progress)
    with tempfile.TemporaryDirectory(prefix="unwedged-tlc-", ignore_cleanup_errors=True) as scratch:
        process = await asyncio.create_subprocess_exec(
            *command(toolbox, job, Path(scratch)),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            cwd=job.specification.parent,
            limit=_MAX_LINE_BYTES,
            start_new_session=True,  # Ctrl-C then reaches only this program, which ends TLC
        )
        reading = asyncio.create_task(_read(process, reader, job.max_states))
        watching = asyncio.create_task(standstill(process.pid, job.idle_timeout_seconds))
        try:
            await asyncio.wait((reading, watching), return_when=asyncio.FIRST_COMPLETED)
            unfinished = reading.result() if reading.done() else watching.result()
        finally:
            reading.cancel()
            watching.cancel()
            await asyncio.gather(reading, watching, return_exceptions=True)
            if process.returncode is None:
                process.kill()
            exit_code = await process.wait()
    verdict = Verdict.UNFINISHED if unfinished else reader.verdict(exit_code)
    violated = reader.violated
    if violated is None and verdict in (Verdict.SAFETY, Verdict.LIVENESS):
        properties = read_configuration(job.configuration).properties
        violated = properties[0] if len(properties) == 1 else None
    return Result(
        verdict=verdict,
        exit_code=exit_code,
        property=violated,
        distinct_states=reader.progress.distinct_states,
        depth=reader.progress.depth,
        seconds=time.monotonic() - began,
        trace=tuple(reader.trace),
        lasso=reader.lasso,
        detail=f"TLC was ended: {unfinished}" if unfinished else reader.detail(verdict),
        printed=reader.printed,
    )


async def _read(process: Process, reader: _OutputReader, max_states: int | None) -> str:
    """Read TLC's output until it ends. Return the reason why TLC must be stopped, or nothing if it has ended."""
    assert process.stdout is not None
    async for line in process.stdout:
        reader.feed(line.decode("utf-8", errors="replace").rstrip("\r\n"))
        if max_states is not None and reader.progress.distinct_states > max_states:
            return f"it found more than {max_states:,} states"
    await process.wait()
    return ""


@dataclass(frozen=True, slots=True)
class Configuration:
    """The properties that a configuration file names."""

    invariants: tuple[str, ...]
    properties: tuple[str, ...]
    """Temporal properties, refinements included."""


def read_configuration(path: Path) -> Configuration:
    """Read the names of the properties in a configuration file."""
    names: dict[str, list[str]] = {"INVARIANT": [], "PROPERTY": []}
    section = ""
    for word in _COMMENT.sub(" ", path.read_text(encoding="utf-8")).split():
        if word in _SECTIONS:
            section = _SECTIONS[word]
        elif section in names:
            names[section].append(word)
    return Configuration(tuple(names["INVARIANT"]), tuple(names["PROPERTY"]))


_COMMENT = re.compile(r"\\\*[^\n]*|\(\*.*?\*\)", re.DOTALL)

_SECTIONS = {
    word: "PROPERTY" if word == "PROPERTIES" else word.removesuffix("S")
    for word in (
        *("CONSTANT", "CONSTANTS", "INIT", "NEXT", "SPECIFICATION"),
        *("INVARIANT", "INVARIANTS", "PROPERTY", "PROPERTIES"),
        *("CONSTRAINT", "CONSTRAINTS", "ACTION_CONSTRAINT", "ACTION_CONSTRAINTS", "SYMMETRY", "VIEW"),
        *("CHECK_DEADLOCK", "POSTCONDITION", "ALIAS"),
    )
}

_MAX_LINE_BYTES = 1 << 24

# The numbers of TLC's messages, from the class tlc2.output.EC.
_FALSE_ASSUMPTION = frozenset({2104})
_DEADLOCK = frozenset({2114})
_VIOLATED_INITIALLY = frozenset({2107, 2108})
_SAFETY = frozenset({2110, 2112}) | _VIOLATED_INITIALLY
_LIVENESS = frozenset({2116})
_FINDINGS = _FALSE_ASSUMPTION | _DEADLOCK | _SAFETY | _LIVENESS
_DEPTH, _TOTALS, _PROGRESS, _STATE, _STUTTERING, _BACK = 2194, 2199, 2200, 2217, 2218, 2122

_INTRODUCTIONS = frozenset({2121, 2264})
"""Sentences that introduce a counterexample."""

_SEVERITY_ERROR = 1

_VERDICTS = (
    (0, frozenset[int](), Verdict.PASS),
    (10, _FALSE_ASSUMPTION, Verdict.ASSUMPTION),
    (11, _DEADLOCK, Verdict.DEADLOCK),
    (12, _SAFETY, Verdict.SAFETY),
    (13, _SAFETY, Verdict.SAFETY),  # TLC's exit code for a violated action property is that of a liveness property
    (13, _LIVENESS, Verdict.LIVENESS),
)

_START = re.compile(r"(.*)@!@!@STARTMSG (\d+):(\d+) @!@!@")
_END = re.compile(r"@!@!@ENDMSG (\d+) @!@!@")
_VIOLATED = re.compile(r"(?:Invariant|Action property|Temporal property|Property) (\S+) (?:is|was) violated")
_STEP = re.compile(r"(\d+): <(?:Initial predicate|([\w!]+(?:\(.*\))?) line \d+.*)>")
_BACK_TO = re.compile(r"(\d+): Back to state: <([\w!]+(?:\(.*\))?) line \d+.*>")
_COUNTS = re.compile(
    r"(?:Progress\((\d+)\).*?: )?[\d,]+ states generated.*?, ([\d,]+) distinct states found.*?, ([\d,]+) states left"
)
_SEARCHED = re.compile(r"depth of the complete state graph search is (\d+)")
_NOISE = ("Parsing file ", "Semantic processing of module ", "Linting of module ")


class _OutputReader:
    """Collects the output of a run, line by line."""

    def __init__(self, on_progress: Callable[[Progress], None]) -> None:
        self.progress = Progress(0, 0, 0)
        self.violated: str | None = None
        self.trace: list[TraceStep] = []
        self.lasso: int | None = None
        self._on_progress = on_progress
        self._codes: set[int] = set()
        self._errors: list[str] = []
        self._loose: list[str] = []
        # Messages nest: an unexpected exception is reported around the message that explains it.
        self._open: list[tuple[int, int, list[str]]] = []

    def feed(self, line: str) -> None:
        start = _START.fullmatch(line)
        if start is not None:
            if self._open and start[1]:
                self._open[-1][2].append(start[1])
            self._open.append((int(start[2]), int(start[3]), []))
        elif _END.fullmatch(line) and self._open:
            code, severity, lines = self._open.pop()
            if self._open:
                self._open[-1][2].extend(lines)
            self._message(code, severity, "\n".join(lines).strip("\n"))
        elif self._open:
            self._open[-1][2].append(line)
        elif line.strip() and not line.startswith(_NOISE):
            self._loose.append(line)

    def _message(self, code: int, severity: int, text: str) -> None:
        self._codes.add(code)
        if code in (_PROGRESS, _TOTALS):
            self._count(text)
        elif code == _DEPTH:
            searched = _SEARCHED.search(text)
            if searched is not None:
                self.progress = Progress(self.progress.distinct_states, self.progress.queued, int(searched[1]))
        elif code == _STATE:
            self._step(text)
        elif code == _BACK:
            self._close_loop(text)
        elif code == _STUTTERING:
            self.lasso = len(self.trace) - 1
        elif severity == _SEVERITY_ERROR and code not in _INTRODUCTIONS:
            self._error(code, text)

    def _close_loop(self, text: str) -> None:
        """Add the step from the last state back to the first state of the loop."""
        back = _BACK_TO.fullmatch(text)
        if back is None:
            raise UnreadableOutput(f"TLC tells the end of a loop in a way that can't be read: {text!r}")
        self.lasso = int(back[1]) - 1
        self.trace.append(TraceStep(parse_label(back[2]), self.trace[self.lasso].state))

    def _count(self, text: str) -> None:
        counts = _COUNTS.search(text)
        if counts is not None:
            depth = int(counts[1]) if counts[1] else self.progress.depth
            self.progress = Progress(int(counts[2].replace(",", "")), int(counts[3].replace(",", "")), depth)
            self._on_progress(self.progress)

    def _step(self, text: str) -> None:
        first, _, state = text.partition("\n")
        step = _STEP.fullmatch(first)
        label = parse_label(step[2]) if step is not None and step[2] else None
        self.trace.append(TraceStep(label, parse_state(state)))

    def _error(self, code: int, text: str) -> None:
        self._errors.append(text)
        violated = _VIOLATED.search(text)
        if violated is not None and code in _FINDINGS:
            self.violated = violated[1]
        if code in _VIOLATED_INITIALLY:
            self.trace.append(TraceStep(None, parse_state(text.partition("\n")[2])))

    @property
    def printed(self) -> tuple[str, ...]:
        return tuple(self._loose)

    def verdict(self, exit_code: int) -> Verdict:
        """Return the verdict by the messages and the exit code. If they disagree, the run counts as an error."""
        findings = self._codes & _FINDINGS
        for expected, numbers, verdict in _VERDICTS:
            if exit_code == expected and findings <= numbers and bool(findings) == bool(numbers):
                return verdict
        return Verdict.ERROR

    def detail(self, verdict: Verdict) -> str:
        """Return TLC's error message. The parser prints its errors outside of messages."""
        lines = [*self._errors, *(self._loose if verdict is Verdict.ERROR else [])]
        return "" if verdict is Verdict.PASS else "\n".join(lines)
