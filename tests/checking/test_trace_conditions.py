"""Each condition that rejects a trace is needed: without it, a trace that no correct process writes is accepted."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import pytest

from checking.explain.machine_steps import machine_steps
from checking.explain.machine_validation import _CONFIGURATION as MACHINE_SETTINGS
from checking.explain.machine_validation import _element
from checking.explain.merging import merge
from checking.explain.reading import Logs, read
from checking.explain.validation import _CONFIGURATION as STORE_SETTINGS
from checking.explain.validation import NO_OPERATION, NO_PROCESS, Part, _Start, run_configured
from checking.tlc.toolbox import Toolbox
from checking.tlc.values import Value, function, render_value
from tests.checking.trace_conditions import ALL, SPECIFICATIONS, Condition, find_conditions, instrumented
from tests.checking.traces import Json, written

FILE: Final = Path(__file__).with_name("impossible_traces.toml")


class Rows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A trace."""

    name: str
    rows: str
    begins: str = ""
    """The name of the rows that precede these."""
    killed: bool = False
    """Whether lines may be missing at the end of a machine's trace."""


class Impossible(Rows, frozen=True, forbid_unknown_fields=True):
    """A trace with one impossible step."""

    reasons: frozenset[str] = frozenset()
    conditions: frozenset[str] = frozenset()
    """If any one of these conditions is removed, the trace is accepted."""


class Unneeded(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A condition without a trace that needs it, and the reason why it stays."""

    condition: str
    why: str


class Listed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contents of ``impossible_traces.toml``."""

    begins: dict[str, str]
    store: list[Impossible]
    sound: list[Rows]
    sound_machine: list[Rows]
    machine: list[Impossible]
    unneeded: list[Unneeded] = []


LISTED: Final = msgspec.toml.decode(FILE.read_bytes(), type=Listed)


def rows_of(trace: Rows) -> Iterator[list[str]]:
    """Return the words of each row."""
    for row in (LISTED.begins.get(trace.begins, "") + trace.rows).splitlines():
        if row:
            yield row.split()


def field_of(text: str) -> object:
    """Return the value of a field."""
    if text.startswith("["):
        return [field_of(each) for each in text[1:-1].split(",") if each]
    if text in {"true", "false"} or re.fullmatch(r"-?\d+", text):
        return json.loads(text)
    kind, marked, number = text.partition("#")
    if not marked:
        return text
    return f"{kind}/{int(number):016x}" if kind else f"{int(number):016x}"


class Writing:
    """The lines of several processes of one store."""

    def __init__(self) -> None:
        self.lines: list[Json] = []
        self._counts: Counter[str] = Counter()

    def write(self, process: str, step: str, *fields: str, **more: object) -> None:
        named = {name: field_of(text) for name, _, text in (each.partition("=") for each in fields)}
        number = named.get("line", self._counts[process] + 1)  # If lines are missing before it, a row gives its number.
        assert isinstance(number, int)
        self._counts[process] = number
        head: Json = {"format": 1, "store": "0" * 16, "instance": f"{ord(process):016x}", "line": number}
        self.lines.append({**head, "step": step, **named, **more})


def lines_of_store(trace: Rows) -> list[Json]:
    writing = Writing()
    for process, step, *fields in rows_of(trace):
        writing.write(process, step, *fields)
    return writing.lines


def lines_of_machine(trace: Rows) -> list[Json]:
    """Return a trace's lines. Each row is an operation: its process, its records, and (after bars) machine lines."""
    writing, holder, epoch, version = Writing(), "", 0, 0
    made: Counter[str] = Counter()
    seen: dict[str, int] = {}
    for operation, (process, *words) in enumerate(rows_of(trace), 1):
        if process not in seen:
            writing.write(process, "open", version=version)
            seen[process] = version
        if process != holder:
            if holder:
                writing.write(holder, "release", epoch=epoch)
            holder, epoch = process, epoch + 1
            writing.write(process, "acquire", epoch=epoch)
            writing.write(process, "sync", epoch=epoch, since=seen[process], version=version)
        written_records, *said = (part.split() for part in " ".join(words).split("|"))
        of = {"operation": operation, "epoch": epoch, "snapshot": version}
        if written_records:
            version = version + 1
            records = [each for each in written_records if "unlisted=" not in each]
            names = [name_of(record) for record in records]
            before = [digest_of(made[name]) for name in names]
            made.update(name for record, name in zip(records, names, strict=True) if not record.startswith("="))
            after = [
                "absent" if record.startswith("-") else digest_of(made[name])
                for record, name in zip(records, names, strict=True)
            ]
            listed = {"records": names, "based_on": before, "made": after}
            if any(record.startswith("?") for record in records):
                del listed["made"]
            fields = [each for each in written_records if "unlisted=" in each]
            writing.write(process, "commit", *fields, **of, version=version, **listed)
        else:
            writing.write(process, "validate", **of, mode="view")
        seen[process] = version
        for step, *fields in said:
            writing.write(process, step, *fields, operation=operation)
    for process in () if trace.killed else seen:
        writing.write(process, "rerun", attempt=1, why="SnapshotMoved")  # It shows that no line is missing.
    return writing.lines


def name_of(record: str) -> str:
    """Return the name of a record from a row's word: a mark for its change, its kind, and perhaps a number."""
    kind, _, number = record.lstrip("-=?").partition("#")
    return str(field_of(f"{kind}#{number or 0}"))


def digest_of(updates: int) -> str:
    return f"{updates:016x}" if updates else "absent"


@dataclass(frozen=True, slots=True)
class Found:
    """TLC's results for many traces in one run."""

    accepted: Mapping[int, frozenset[int]]
    """By trace: the conditions without which it is accepted; 0 stands for all conditions in place."""
    reasons: Mapping[int, frozenset[str]]
    """By trace: the reasons against the first step that is not accepted."""


async def follow(
    toolbox: Toolbox,
    conditions: Sequence[Condition],
    module: str,
    text: str,
    configuration: str,
    changed: Iterable[str],
) -> Found:
    """Let TLC follow each trace with all conditions, and without each single one."""
    text = f"""\
---- MODULE TheLogs ----
EXTENDS {module}
{text}
Begins == which \\in DOMAIN TheLog /\\ without \\in 0..{len(conditions)} /\\ Beginning
Goes == Going /\\ UNCHANGED <<which, without>>
Seen == <<StateView, which, without>>
Told ==
    /\\ at = Len(TheSteps) + 1 => PrintT(<<"accepted", which, without>>)
    /\\ without = 0 /\\ at <= Len(TheSteps) /\\ ~ENABLED Goes => PrintT(<<"stuck", which, at, Reason(TheSteps[at])>>)
====
"""
    settings = configuration.replace("VIEW StateView", "VIEW Seen")
    settings = re.sub(r"^SPECIFICATION \w*", "INIT Begins\nNEXT Goes", settings)
    with tempfile.TemporaryDirectory(prefix="unwedged-conditions-") as name:
        folder = Path(name)
        for each in changed:
            (folder / f"{each}.tla").write_text(instrumented(each, conditions))
        (folder / "Without.tla").write_text("---- MODULE Without ----\nVARIABLES which, without\n====\n")
        (folder / "TheLogs.tla").write_text(text)
        result = await run_configured(toolbox, folder / "TheLogs.tla", settings, SPECIFICATIONS, "the traces")
    printed = " ".join(result.printed)
    accepted: dict[int, set[int]] = defaultdict(set)
    for which, without in re.findall(r'<<\s*"accepted",\s*(\d+),\s*(\d+)\s*>>', printed):
        accepted[int(which)].add(int(without))
    stuck: dict[int, list[tuple[int, int, frozenset[str]]]] = defaultdict(list)
    for which, at, reasons in re.findall(r'<<\s*"stuck",\s*(\d+),\s*(\d+),\s*\{(.*?)\}', printed):
        named = frozenset(re.findall(r'"(\w+)"', reasons))
        stuck[int(which)].append((-int(at), len(named), named))
    return Found(
        {which: frozenset(each) for which, each in accepted.items()},
        {which: min(each, key=lambda one: one[:2])[2] for which, each in stuck.items()},
    )


def logs_of(lines: list[Json]) -> Logs:
    with tempfile.TemporaryDirectory() as folder:
        return read([written(Path(folder), lines)])


async def follow_store(toolbox: Toolbox, conditions: Sequence[Condition], traces: Sequence[Rows]) -> Found:
    parts = []
    operations: dict[Value, Value] = {NO_OPERATION: NO_PROCESS}
    processes, records = {NO_PROCESS}, {"r1"}
    for trace in traces:
        merged = merge(logs_of(lines_of_store(trace)))
        part = Part(merged, merged.steps, 0, _Start())
        parts.append(f"<<{', '.join(map(part._element, merged.steps))}>>")
        processes |= merged.processes.keys()
        operations.update(merged.operations.items())
        records |= {*part.records.values()}
    text = f"""
TheProcesses == {render_value(frozenset(processes))}
TheOperations == {render_value(frozenset(operations))}
TheRecords == {render_value(frozenset(records))}
TheHome == {render_value(function(operations))}
TheModes == [o \\in TheOperations |-> {{"transaction", "view"}}]
TheStart == [lease |-> NewRow, guards |-> [p \\in TheProcesses |-> NoGuard], cached |-> {{}},
             updates |-> [r \\in TheRecords |-> 0], running |-> <<>>, delivered |-> <<>>]
TheLog == <<{", ".join(parts)}>>
Beginning == TraceInit
Going == TraceNext
Reason(e) == Reasons(e)
"""
    settings = STORE_SETTINGS.format(specification="TraceSpec", last=0, invariant="Told")
    return await follow(toolbox, conditions, "Trace", text, settings, ["Trace"])


async def follow_machine(toolbox: Toolbox, conditions: Sequence[Condition], traces: Sequence[Rows]) -> Found:
    parts = []
    for trace in traces:
        logs = logs_of(lines_of_machine(trace))
        parts.append(f"<<{', '.join(map(_element, machine_steps(logs, merge(logs))))}>>")
    text = f"""
TheStart == NothingKnown
TheLog == <<{", ".join(parts)}>>
Beginning == BeginExchange
Going == NextExchange
Reason(e) == Why(e) \\cup WhyNotExchange(e)
"""
    settings = MACHINE_SETTINGS.replace("INVARIANTS AtEnd AtImpossible", "INVARIANT Told")
    return await follow(toolbox, conditions, "ExchangeTrace", text, settings, ["MachineTrace", "ExchangeTrace"])


@pytest.fixture(scope="module")
def of_store(toolbox: Toolbox) -> list[Condition]:
    return find_conditions(toolbox, "Trace", ["Trace"], "Take")


@pytest.fixture(scope="module")
def of_machine(toolbox: Toolbox) -> list[Condition]:
    return find_conditions(toolbox, "ExchangeTrace", ["MachineTrace", "ExchangeTrace"], "Why", "WhyNotExchange")


def compared(conditions: Sequence[Condition], traces: Sequence[Impossible], found: Found) -> list[str]:
    """Return the differences from the list."""
    wrong = []
    for number, trace in enumerate(traces, 1):
        accepted = found.accepted.get(number, frozenset())
        if ALL in accepted:
            wrong.append(f"{trace.name}: accepted")
        needed = {str(conditions[each - 1]) for each in accepted - {ALL}}
        if needed != trace.conditions:
            wrong.append(f"{trace.name}: conditions = {json.dumps(sorted(needed))}")
        reasons = found.reasons.get(number, frozenset())
        if reasons != trace.reasons:
            wrong.append(f"{trace.name}: reasons = {json.dumps(sorted(reasons))}")
    return wrong


def accepted_by(found: Found) -> list[int]:
    """Return the names of the accepted traces."""
    return sorted(number for number in found.accepted if ALL in found.accepted[number])


async def test_each_trace_of_a_store_is_rejected_by_the_conditions_that_are_listed(
    toolbox: Toolbox, of_store: list[Condition]
) -> None:
    traces = [*LISTED.store, *LISTED.sound]
    found = await follow_store(toolbox, of_store, traces)
    assert accepted_by(found) == [*range(len(LISTED.store) + 1, len(traces) + 1)]
    assert not (wrong := compared(of_store, LISTED.store, found)), "\n".join(wrong)


async def test_each_trace_of_a_machine_is_rejected_by_the_conditions_that_are_listed(
    toolbox: Toolbox, of_machine: list[Condition]
) -> None:
    traces = [*LISTED.machine, *LISTED.sound_machine]
    found = await follow_machine(toolbox, of_machine, traces)
    assert accepted_by(found) == [*range(len(LISTED.machine) + 1, len(traces) + 1)]
    assert not (wrong := compared(of_machine, LISTED.machine, found)), "\n".join(wrong)


def test_each_condition_is_needed_or_says_why_it_stays(of_store: list[Condition], of_machine: list[Condition]) -> None:
    needed = {condition for trace in (*LISTED.store, *LISTED.machine) for condition in trace.conditions}
    unneeded = {entry.condition for entry in LISTED.unneeded}
    assert not needed & unneeded
    assert {str(condition) for condition in of_store + of_machine} == needed | unneeded
