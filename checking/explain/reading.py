"""Traces as they are found: files that were cut off, are empty, mixed, or no traces at all. Each gets an answer."""

from __future__ import annotations

import codecs
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from checking.errors import CheckError
from checking.explain.lines import DECODER, FORMAT, AnyLine
from checking.explain.wording import counted


class NoTrace(CheckError):
    """There is nothing to explain: a file is missing, empty, or no trace."""


class UnknownFormat(CheckError):
    """A trace is of a later version of the format."""


class SeveralStores(CheckError):
    """The traces are of several stores."""


class Location(NamedTuple):
    """Where a line was found."""

    file: str
    number: int

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


class Found(NamedTuple):
    """A line, and where it was found."""

    line: AnyLine
    location: Location


@dataclass(frozen=True, slots=True)
class Logs:
    """What the traces of one store say, by instance in the order of its lines, and what is to be said of them."""

    store: str
    instances: Mapping[str, Sequence[Found]]
    remarks: Sequence[str]

    @property
    def complete(self) -> bool:
        """Whether no line is missing before another one of its instance."""
        return all(
            len({found.line.line for found in lines}) == lines[-1].line.line for lines in self.instances.values()
        )


@dataclass(slots=True)
class _Reading:
    lines: list[Found] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    files: dict[bytes, Path] = field(default_factory=dict)
    """By what they have. Single lines can be alike without being copies: two instances may have one number."""


class _Head(msgspec.Struct):
    format: int
    step: str


def read(paths: Iterable[Path], store: str | None = None) -> Logs:
    """Read traces of one store, in any order. Raises ``NoTrace``, ``UnknownFormat`` and ``SeveralStores``."""
    reading = _read_files(paths)
    files_of: dict[str, set[str]] = defaultdict(set)
    for found in reading.lines:
        files_of[found.line.store].add(found.location.file)
    if store is None and len(files_of) > 1:
        listed = "; ".join(f"{name} in {', '.join(sorted(files))}" for name, files in sorted(files_of.items()))
        raise SeveralStores(
            f"the lines are of {len(files_of)} stores ({listed}): name one of them, --store {min(files_of)}"
        )
    chosen = store or next(iter(files_of))
    if chosen not in files_of:
        raise NoTrace(f"no line is of the store {chosen}: there are {', '.join(sorted(files_of))}")
    return Logs(chosen, _by_instance(reading, chosen), tuple(reading.remarks))


def read_all(paths: Iterable[Path]) -> tuple[Logs, ...]:
    """Read traces of any number of stores. Raises ``NoTrace`` and ``UnknownFormat``."""
    reading = _read_files(paths)
    stores = sorted({found.line.store for found in reading.lines})
    return tuple(Logs(store, _by_instance(reading, store), tuple(reading.remarks)) for store in stores)


def _read_files(paths: Iterable[Path]) -> _Reading:
    reading = _Reading()
    for path in paths:
        _read_file(path, reading)
    if not reading.lines:
        why = "; ".join(reading.remarks) or "no file is given"
        raise NoTrace(
            f"no file has a line of a trace: {why}. Was a tracer given to every process that opened the store?"
        )
    return reading


def _read_file(path: Path, reading: _Reading) -> None:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise NoTrace(f"{path} can't be read: {error.strerror}") from None
    if text and text in reading.files:
        reading.remarks.append(f"{path} is given twice, or is a copy of {reading.files[text]}: it is read once")
        return
    reading.files[text] = path
    rows = text.removeprefix(codecs.BOM_UTF8).split(b"\n")
    lines: list[Found] = []
    remarks: list[str] = []
    for number, row in enumerate(rows, 1):
        if not row.strip():
            continue
        location = Location(str(path), number)
        try:
            lines.append(Found(DECODER.decode(row), location))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            remarks.append(_what_is_wrong(row, location, error, last=number == len(rows)))
    if not lines:
        others = f", and so on for {counted(len(remarks), 'line')}" if len(remarks) > 1 else ""
        remarks = [f"{path} has no line that can be used ({remarks[0]}{others})" if remarks else f"{path} is empty"]
    reading.lines += lines
    reading.remarks += remarks


def _what_is_wrong(row: bytes, location: Location, error: Exception, *, last: bool) -> str:
    """Say what is wrong with a line that is left out. Raises where that makes the rest useless."""
    try:
        msgspec.json.decode(row)
    except RecursionError:
        return f"{location}: a line is left out: it is nested too deeply"
    except (msgspec.DecodeError, UnicodeDecodeError):
        if b"\0" in row or not row.startswith(b"{"):
            return f"{location}: a line is left out: it is not JSON in UTF-8"
        if last:
            return f"{location}: the last line was cut off, as by a kill"
        return f"{location}: a line was cut off, as by a kill, before others were written"
    try:
        head = msgspec.json.decode(row, type=_Head)
    except msgspec.ValidationError:
        raise NoTrace(f"{location} is no line of a trace: it has no format and no step") from None
    if head.format != FORMAT:
        raise UnknownFormat(
            f"{location} is of version {head.format} of the format, and this program knows version {FORMAT}"
        )
    return f"{location}: the step {head.step!r} is left out: {error}"


def _by_instance(reading: _Reading, store: str) -> dict[str, list[Found]]:
    instances: dict[str, list[Found]] = defaultdict(list)
    for found in reading.lines:
        if found.line.store == store:
            instances[found.line.instance].append(found)
    for instance, lines in instances.items():
        lines.sort(key=lambda found: found.line.line)
        expected = 1
        for found in lines:
            if found.line.line > expected:
                one = found.line.line == expected + 1
                missing = f"line {expected}" if one else f"lines {expected} to {found.line.line - 1}"
                of_instance = f"of the instance {instance} {'is' if one else 'are'}"
                reading.remarks.append(f"{found.location}: {missing} {of_instance} missing before it")
            elif found.line.line < expected:
                reading.remarks.append(
                    f"{found.location}: the line {found.line.line} of the instance {instance} comes twice"
                )
            expected = found.line.line + 1
    return instances
