"""What the machine of one device did, in the order of the store's versions, for ``tla/MachineTrace.tla`` to judge.

The store's steps are in order already (``merging``). What the machine says of an operation comes where that took
effect, and after it what its commit wrote. Nothing is judged here. What a line does not say is ``UNKNOWN`` or
``UNKNOWN_NUMBER``, and an operation whose lines may be cut off is marked as such.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from checking.errors import CheckError
from checking.explain.exchange_steps import (
    MOST,
    NONE,
    UNKNOWN,
    Change,
    MachineFact,
    Readings,
    commit_facts,
    exchange_facts,
    exchange_step,
    kinds_of,
)
from checking.explain.lines import (
    Abandon,
    Answer,
    AnyLine,
    Batch,
    Commit,
    CommitFails,
    DecryptMegolm,
    DecryptOlm,
    EncryptMegolm,
    EncryptOlm,
    Offer,
    OfMachine,
    OfOperation,
    OpenMachine,
    Receive,
    Repair,
    RequestMade,
    Send,
    Share,
    Validate,
)
from checking.explain.merging import Merged
from checking.explain.reading import Found, Logs

UNKNOWN_NUMBER: Final = -1
NO_NUMBER: Final = -2


class NumberTooLarge(CheckError):
    """A line has a number that TLC does not have."""


@dataclass(frozen=True, slots=True)
class MachineStep:
    """One step by its name in ``tla/MachineTrace.tla``, what is known of it, and the line that reports it."""

    name: str
    facts: Mapping[str, MachineFact]
    found: Found
    process: str


@dataclass(slots=True)
class _Operation:
    """What the lines of one operation say."""

    effect: Found | None = None
    """That it has taken effect."""
    lines: list[Found] = field(default_factory=list)
    """Of the machine."""
    is_whole: bool = False
    """Whether no line of it can be missing."""


def machine_steps(logs: Logs, merged: Merged) -> Sequence[MachineStep]:
    """Put the lines of the machine in order."""
    names = {instance: name for name, instance in merged.processes.items()}
    operations = {instance: _operations(lines) for instance, lines in logs.instances.items()}
    steps: list[MachineStep] = []
    for step in merged.steps:
        line = step.line
        if step.name in {"commit", "validate"} and isinstance(line, OfOperation):
            name = names[line.instance]
            for number in _before(operations[line.instance], line.operation):
                steps += _steps_of(operations[line.instance].pop(number), name)
        elif step.name == "commit":  # no line reports it
            steps += _unreported(steps, step.facts.get("records"), str(step.facts["p"]))
    for instance, rest in operations.items():
        for operation in rest.values():
            if operation.effect is None:
                steps += _steps_of(operation, names[instance])
    if all(step.name == "commit" for step in steps):
        return []
    return list(_with_readings(steps))


def _with_readings(steps: Iterable[MachineStep]) -> Iterator[MachineStep]:
    """Say with each reading of a message as which event it was read first."""
    readings = Readings()
    for step in steps:
        if step.name == "commit":
            deleted, repaired = step.facts["deleted"], step.facts["repaired"]
            assert isinstance(deleted, frozenset)
            assert isinstance(repaired, frozenset)
            if "seen" in deleted | repaired or not step.facts["complete"]:
                readings.forget()
        line = step.found.line
        if step.name == "decrypt_megolm" and isinstance(line, DecryptMegolm):
            yield replace(step, facts={**step.facts, "before": readings.before(line)})
        else:
            yield step


def _before(operations: Mapping[int, _Operation], number: int) -> Sequence[int]:
    """Return an operation, and the earlier ones that have lines of the machine but had no effect."""
    earlier = [other for other, operation in operations.items() if other < number and operation.effect is None]
    return [*earlier, *([number] if number in operations else [])]


def _operations(lines: Sequence[Found]) -> dict[int, _Operation]:
    """Return the operations of an instance that have an effect, or which lines of the machine name."""
    operations: dict[int, _Operation] = defaultdict(_Operation)
    last: _Operation | None = None
    number = 0
    for found in lines:
        line = found.line
        follows = line.line == number + 1
        own: _Operation | None = None
        if isinstance(line, OfMachine):
            own = operations[line.operation]
            own.lines.append(found)
            # What the machine says of an operation follows its effect at once. Without one, it had none.
            own.is_whole = follows and (own.is_whole if own is last else own.effect is None)
        elif isinstance(line, Commit | Validate | CommitFails) and getattr(line, "why", None) != "fenced":
            own = operations[line.operation]
            own.effect, own.is_whole = found, True
        if last is not None and own is not last:
            last.is_whole = last.is_whole and follows
        last, number = own, line.line
    if last is not None:
        last.is_whole = False  # its process may have been killed
    return dict(operations)


def _steps_of(operation: _Operation, process: str) -> Iterator[MachineStep]:
    effect = None if operation.effect is None else operation.effect.line
    lines = [found.line for found in operation.lines]
    change = Change.of(effect)
    context: dict[str, MachineFact] = {
        "p": process,
        "complete": change.is_complete and operation.is_whole and not any(isinstance(line, Repair) for line in lines),
        "committed": isinstance(effect, Commit),
        **change.facts(),
    }
    for found in operation.lines:
        _refuse_large_numbers(found)
        named = _step(found.line, lines) or exchange_step(found.line, lines, change)
        if named is not None:
            name, facts = named
            more = exchange_facts(found.line, lines, change)
            yield MachineStep(name, {**context, **facts, **more}, found, process)
    if operation.effect is not None and (change.made or change.gone):
        repaired = kinds_of(line.record for line in lines if isinstance(line, Repair))
        version = effect.version if isinstance(effect, Commit) else UNKNOWN_NUMBER
        context |= {"version": version, "repaired": repaired, **commit_facts(lines, change)}
        yield MachineStep("commit", context, operation.effect, process)


def _refuse_large_numbers(found: Found) -> None:
    """Refuse numbers that the device itself has counted so far. Of what others send, it does not matter how large."""
    for name in ("index", "serial"):
        number = getattr(found.line, name, None)
        if isinstance(found.line, EncryptOlm | EncryptMegolm | Offer | Batch) and number is not None and number > MOST:
            raise NumberTooLarge(f"{found.location}: `{name}` is {number:,}, and TLC can't count beyond {MOST:,}")


def _unreported(steps: Sequence[MachineStep], records: object, process: str) -> Iterator[MachineStep]:
    """Return a commit that no line reports: of what it has written, nothing is known afterwards."""
    if steps and isinstance(records, tuple):
        named = frozenset(map(str, records))
        written = named if all("/" in record for record in named) else ALL_KINDS
        facts: dict[str, MachineFact] = {"p": process, "complete": False, "committed": True}
        facts |= Change(written, written).facts()
        nothing: frozenset[str] = frozenset()
        facts |= {"version": UNKNOWN_NUMBER, "repaired": nothing, **commit_facts([], Change(named, named))}
        yield MachineStep("commit", facts, steps[-1].found, process)


ALL_KINDS: Final = frozenset({"offer/", "own_device/", "sync/", "peer/", "tracked/", "inbound_group_session/"})
"""Records of the kinds that a commit may have written of which nothing is known."""


def _step(line: AnyLine, lines: Sequence[AnyLine]) -> tuple[str, dict[str, MachineFact]] | None:
    """Return a step and what its line says, or nothing where the module has no such step."""
    match line:
        case OpenMachine():
            return "open_machine", {"device": f"{line.user}/{line.device}/{line.peer}"}
        case Offer():
            return "offer", _offer(line)
        case Abandon():
            return "abandon", {"request": line.request}
        case RequestMade(type="KeysUpload"):
            return "upload", {"request": line.request}
        case RequestMade(type="KeysQuery") if len(line.marks) == len(line.lists):
            return "query", {"request": line.request, "lists": dict(zip(line.marks, line.lists, strict=True))}
        case Answer(type="KeysUpload"):
            return "answer_upload", {"request": line.request, "count": _number(line.one_time_keys)}
        case Answer(type="KeysQuery"):
            return "answer_query", {"request": line.request}
        case Batch():
            return "batch", {**_batch(line), "processed": sum(isinstance(other, Receive) for other in lines)}
        case DecryptOlm():
            begins = any(isinstance(other, DecryptOlm) and other.begins_session for other in lines)
            return "decrypt_olm", {
                "peer": line.peer,
                "message": line.message or UNKNOWN,
                "outcome": line.outcome,
                "begins": line.begins_session,
                "spends": begins or any(isinstance(other, Offer | OpenMachine) for other in lines),
            }
        case EncryptOlm():
            return "encrypt", {"ratchet": line.ratchet, "index": line.index, "kind": "peer"}
        case EncryptMegolm():
            return "encrypt", {"ratchet": line.session, "index": line.index, "kind": "outbound_group_session"}
        case Share():
            sends = frozenset(other.request for other in lines if isinstance(other, Send))
            return "share", {"request": line.request or UNKNOWN, "sends": sends}
        case _:
            return None


def _offer(line: Offer) -> dict[str, MachineFact]:
    without = UNKNOWN if line.fallback else NONE
    return {
        "request": line.request,
        "serial": _number(line.serial),
        "count": line.one_time_keys,
        "ids": frozenset(line.keys),
        "with_fallback": line.fallback or line.fallback_key is not None,
        "fallback": line.fallback_key or without,
        "kept": _number(line.kept_ms),
    }


def _batch(line: Batch) -> dict[str, MachineFact]:
    kind = "sliding" if line.sliding else "classic"
    states = {"used": "yes", "unused": "no", "none": NONE}
    return {
        "connection": f"{kind} {line.connection}",
        "sliding": line.sliding,
        "asked": line.asked,
        "next": line.next,
        "asked_events": line.asked_events,
        "next_events": line.next_events,
        "lists": line.lists_applied,
        "events": line.events_applied,
        "number": line.events,
        # Without the count, nothing follows from the serial.
        "serial": UNKNOWN_NUMBER if line.one_time_keys is None else _number(line.serial),
        "count": NO_NUMBER if line.one_time_keys == NONE else _number(line.one_time_keys),
        "spent": UNKNOWN if line.fallback is None else states.get(line.fallback, UNKNOWN),
        "changed": frozenset(line.changed),
    }


def _number(number: int | str | None) -> int:
    return min(number, MOST) if isinstance(number, int) else UNKNOWN_NUMBER
