"""The states between the steps of traces, as TLC has them: it follows the steps once more, and prints some states."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from rpds import HashTrieMap

from checking.explain.merging import Merged, records_of
from checking.explain.validation import NO_OPERATION, NO_PROCESS, NotValidated, Validation, follow
from checking.tlc.toolbox import Toolbox
from checking.tlc.values import State, Value, parse_value, render_value

_MODULE: Final = """\
---- MODULE TheStates ----
EXTENDS TheTrace
Looked == {looked}
Named == {named}
Known(values) == [r \\in {{r \\in Named : values[r] # Missing}} |-> values[r]]
Everybody == Processes \\ {{"{no_process}"}}
Busy == {{o \\in Operations \\ {{"{no_operation}"}} : op[o].stage # "idle"}}
Shown ==
    [at |-> at,
     lease |-> lease,
     store |-> IF floor = 0 THEN [version |-> Version] ELSE [version |-> Version, floor |-> floor],
     guard |-> [p \\in Everybody |->
        IF guard[p].stage = "none" THEN [stage |-> "none"] ELSE [stage |-> guard[p].stage, epoch |-> guard[p].epoch]],
     cache |-> [p \\in Everybody |-> [version |-> cache[p].version, records |-> Known(cache[p].records)]],
     operation |-> [o \\in Busy |->
        [stage |-> op[o].stage, mode |-> op[o].mode, under |-> op[o].under, at |-> op[o].at,
         known |-> Known(op[o].known)]]]

\\* The states on one way to the last position.
VARIABLE seen
SeenInit == TraceInit /\\ seen = IF at \\in Looked THEN <<Shown>> ELSE <<>>
SeenNext == TraceNext /\\ seen' = IF at' \\in Looked THEN Append(seen, Shown') ELSE seen
SeenSpec == SeenInit /\\ [][SeenNext]_<<vars, at, seen>>
AtLastPosition == at = {last} => PrintT(<<"states", seen>>)
====
"""


async def states(
    toolbox: Toolbox, merged: Merged, validation: Validation, specifications: Path, positions: Collection[int]
) -> Mapping[int, State]:
    """Return states by the number of steps that were taken before, as far as they are in the part looked at last.

    The numbers of records that they show are those of their updates.
    """
    part = validation.last
    if part is None:
        return {}
    last = validation.followed - part.first + 1
    looked = [position for position in (taken - part.first + 1 for taken in positions) if 1 <= position <= last]
    steps = [merged.steps[taken - 1] for taken in positions if taken > part.first]
    named = [part.records[record] for step in steps for record in records_of(step)]
    module = _MODULE.format(
        looked=render_value(frozenset(looked)),
        named=render_value(frozenset(named)),
        no_process=NO_PROCESS,
        no_operation=NO_OPERATION,
        last=last,
    )
    names = {number: record for record, number in part.records.items()}
    version = merged.base_version + part.version
    begins_at: dict[Value, int] = {
        "epoch": merged.base_epoch,
        "under": merged.base_epoch,
        "version": version,
        "floor": version,
        "at": version,
    }
    with tempfile.TemporaryDirectory(prefix="unwedged-states-") as folder:
        part.written(Path(folder))
        path = Path(folder) / "TheStates.tla"
        path.write_text(module, encoding="utf-8")
        result = await follow(toolbox, path, specifications, 0, "AtLastPosition", "SeenSpec")
    text = " ".join(result.printed)
    begins = [found.start() for found in re.finditer(r'<<\s*"states"', text)]
    match parse_value(text[begins[0] : begins[1] if len(begins) > 1 else None]) if begins else ():
        case ("states", tuple() as seen):
            return dict(_by_position(seen, part.first - 1, names, begins_at))
    raise NotValidated(f"TLC has printed no states that can be read: {text}")


def _by_position(
    seen: Iterable[Value], first: int, names: Mapping[str, str], begins_at: Mapping[Value, int]
) -> Iterator[tuple[int, State]]:
    """Return states by the number of steps before, with names of records, epochs and versions as in the lines."""
    for state in seen:
        assert isinstance(state, HashTrieMap)
        position = state["at"]
        assert isinstance(position, int)
        shown = state.discard("at")
        yield position + first, {str(variable): _as_in_lines(shown[variable], names, begins_at) for variable in shown}


def _as_in_lines(
    value: Value, names: Mapping[str, str], begins_at: Mapping[Value, int], *, of_records: bool = False
) -> Value:
    """TLC counts from where its part begins, since it has no numbers as large as those in lines may be."""
    if not isinstance(value, HashTrieMap):
        return value
    return HashTrieMap(
        (
            names[argument] if of_records and isinstance(argument, str) else argument,
            each + begins_at[argument]
            if argument in begins_at and isinstance(each, int) and not of_records
            else _as_in_lines(each, names, begins_at, of_records=argument in ("records", "known")),
        )
        for argument, each in value.items()
    )
