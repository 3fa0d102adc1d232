"""Compare each function of `protocol` with the same function of the specification, on a finite domain of inputs.

With `tla/models/MCFunctions.tla`, TLC writes the specification's functions as tables. The code gets each input of each
table, and must return the table's output. One number in the specification stands for several values in the code, and
each of them is tried: clocks, ends and durations of leases, and the value that means "the record does not exist".
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from rpds import HashTrieMap

import unwedged.protocol
from checking.errors import UnreadableOutput
from checking.tlc.graph import Graph
from checking.tlc.values import Value
from proofs.agreement import translation as of
from proofs.agreement.translation import Name
from unwedged.protocol.cache import Cache, Change
from unwedged.protocol.guard import Guard
from unwedged.protocol.identifiers import Epoch, Milliseconds, Version
from unwedged.protocol.lease import LONGEST_LEASE_MS, Lease
from unwedged.protocol.stream import Lagged

CLOCKS = (1_764_000_000_000, 0, -1, -(2**62), 2**62)
DURATIONS = (1, 2_000, LONGEST_LEASE_MS)
ABSENT = (None, 0, 1, 2, 3)
"""The value that means "the record does not exist" in this comparison, or `None`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a table: an input by the names of its parts, and the output."""

    input: HashTrieMap[Value, Value]
    output: Value
    lease_time: int

    @property
    def refused(self) -> bool:
        """Whether the line is a condition, and the action does not happen."""
        return self.output == "refused"

    def number(self, what: str) -> int:
        """Return a part of the input that is a number."""
        return of.number(self.input[what])

    def rows(self) -> Iterator[tuple[Lease, int]]:
        """Yield the lease rows that the input stands for, each with the time at which it is read."""
        row = self.input["row"]
        for now in CLOCKS:
            for time in of.time_left(of.left(row), self.lease_time):
                yield of.row(row, Milliseconds(now + time)), now


Arguments = tuple[object, ...]
Lines = Iterator[tuple[Arguments, object]]
"""A call of the code, and the result that it must return."""


def _takeable(entry: Entry) -> Lines:
    for row, now in entry.rows():
        yield (row, of.instance(entry.input["process"]), now), entry.output


def _acquire(entry: Entry) -> Lines:
    for row, now in entry.rows():
        for duration in DURATIONS:
            yield (row, of.instance(entry.input["process"]), now, duration), _extended(entry, now, duration)


def _renew(entry: Entry) -> Lines:
    for row, now in entry.rows():
        for duration in DURATIONS:
            yield (row, _asking(entry).epoch, now, duration), _extended(entry, now, duration)


def _commit(entry: Entry) -> Lines:
    may_release = not of.names(entry.input["running"])
    for row, now in entry.rows():
        for duration in DURATIONS:
            expected = _extended(entry, now, duration)
            if expected is not None and expected.holder is None:
                # The remaining time of a lease without a holder has no meaning. In the code it is as after a renewal.
                expected = replace(expected, expires=Milliseconds(now + duration))
            yield (row, _asking(entry).epoch, now, duration, may_release), expected


def _extended(entry: Entry, now: int, duration: int) -> Lease | None:
    if entry.refused:
        return None
    return of.row(entry.output, Milliseconds(now + duration * of.left(entry.output) // entry.lease_time))


def _want(entry: Entry) -> Lines:
    for row, now in entry.rows():
        # As much is left as was, or it would be another row.
        moved = of.left(entry.output) != of.left(entry.input["row"])
        yield (row,), of.row(entry.output, Milliseconds(now) if moved else row.expires)


def _fence(entry: Entry) -> Lines:
    for row, _ in entry.rows():
        yield (row, entry.number("epoch")), entry.output


def _release(entry: Entry) -> Lines:
    for row, _ in entry.rows():
        # The remaining time of a lease without a holder has no meaning. In the code it does not change.
        yield (row, _asking(entry).epoch), None if entry.refused else of.row(entry.output, row.expires)


def _asking(entry: Entry) -> Guard:
    return of.guard(entry.input["guard"])


def _taken(entry: Entry) -> Lines:
    yield (Epoch(entry.number("epoch")),), of.guard(entry.output)


def _synced(entry: Entry) -> Lines:
    asking = _asking(entry)
    epoch = of.row(entry.input["row"], Milliseconds(0)).epoch
    yield (asking, epoch), asking if entry.refused else of.guard(entry.output)


def _waiter_noted(entry: Entry) -> Lines:
    work = of.function(entry.input["work"])
    yield (_asking(entry), work["under"], work["sawWaiter"]), of.guard(entry.output)


def _overdue(entry: Entry) -> Lines:
    yield (_asking(entry), _asking(entry).epoch), of.guard(entry.output)


def _lost(entry: Entry) -> Lines:
    yield (_asking(entry), entry.number("epoch")), of.guard(entry.output)


def _admits(entry: Entry) -> Lines:
    yield (_asking(entry),), entry.output


def _stands(entry: Entry) -> Lines:
    yield (_asking(entry), entry.number("epoch")), entry.output


def _releasable(entry: Entry) -> Lines:
    yield (_asking(entry), len(of.names(entry.input["running"]))), entry.output


def _empty(entry: Entry) -> Lines:
    yield (len(_log(entry)),), of.cache(entry.output)


def _reaches(entry: Entry) -> Lines:
    yield (entry.number("floor"), of.cache(entry.input["cache"]).version), entry.output


def _sync(entry: Entry) -> Lines:
    old = of.cache(entry.input["cache"])
    log, floor = _log(entry), entry.number("floor")
    for absent in ABSENT:
        expected = _with(absent, of.cache(entry.output))
        for since in {old.version, 0}:
            yield (_with(absent, old), of.change_log(log, floor, since)), expected


def _fill(entry: Entry) -> Lines:
    old = of.cache(entry.input["cache"])
    for absent in ABSENT:
        value = _value(absent, entry.number("value"))
        arguments = (_with(absent, old), entry.number("version"), of.name(entry.input["record"]), value)
        yield arguments, _with(absent, of.cache(entry.output))


def _forget(entry: Entry) -> Lines:
    old, key = of.cache(entry.input["cache"]), of.name(entry.input["record"])
    for absent in ABSENT:
        yield (_with(absent, old), [key]), _with(absent, of.cache(entry.output))


def _install(entry: Entry) -> Lines:
    old = of.cache(entry.input["cache"])
    written = of.records(entry.input["written"])
    for absent in ABSENT:
        # The log of the specification has what a value was computed from; an update counts it up.
        writes = {record: _value(absent, base + 1) for record, base in written.items()}
        yield (_with(absent, old), entry.number("version"), writes), _with(absent, of.cache(entry.output))


def _news(entry: Entry) -> Lines:
    log, floor, heard = _log(entry), entry.number("floor"), entry.number("heard")
    expected = _expected_news(entry)
    for since in {heard, 0}:
        yield (heard, of.change_log(log, floor, since)), expected


def _news_of_own(entry: Entry) -> Lines:
    log = _log(entry)
    # A process knows of its commit what that one wrote, and nothing before it.
    yield (entry.number("heard"), of.change_log(log, len(log) - 1, 0)), _expected_news(entry)


def _expected_news(entry: Entry) -> tuple[Change[Name] | Lagged, ...]:
    entries = [of.function(one) for one in of.sequence(entry.output)[1:]]
    news: list[Change[Name] | Lagged] = []
    for version, lagged in ((Version(of.number(one["version"])), of.truth(one["lagged"])) for one in entries):
        news += [Lagged(version)] if lagged else [Change(version, key) for key in sorted(_log(entry)[version - 1])]
    return tuple(news)


def _log(entry: Entry) -> tuple[frozenset[Name], ...]:
    return tuple(of.names(written) for written in of.sequence(entry.input["log"]))


def _with(absent: int | None, cache: Cache[Name, int]) -> Cache[Name, int]:
    return Cache(cache.version, HashTrieMap((key, _value(absent, value)) for key, value in cache.records.items()))


def _value(absent: int | None, value: int | None) -> int | None:
    return None if value == absent else value


TABLES: Mapping[str, tuple[str, Callable[[Entry], Lines]]] = {
    "takeable": ("lease.takeable", _takeable),
    "acquire": ("lease.acquire", _acquire),
    "want": ("lease.want", _want),
    "fence": ("lease.fence", _fence),
    "renew": ("lease.renew", _renew),
    "commit": ("lease.commit", _commit),
    "release": ("lease.release", _release),
    "taken": ("guard.taken", _taken),
    "synced": ("guard.synced", _synced),
    "waiter_noted": ("guard.waiter_noted", _waiter_noted),
    "overdue": ("guard.overdue", _overdue),
    "lost": ("guard.lost", _lost),
    "admits": ("guard.admits", _admits),
    "stands": ("guard.stands", _stands),
    "releasable": ("guard.releasable", _releasable),
    "empty": ("cache.empty", _empty),
    "reaches": ("cache.reaches", _reaches),
    "sync": ("cache.sync", _sync),
    "fill": ("cache.fill", _fill),
    "forget": ("cache.forget", _forget),
    "install": ("cache.install", _install),
    "news": ("stream.news", _news),
    "news of an own commit": ("stream.news", _news_of_own),
}
"""By the name of a table: the function of the code, and the translation of the table's lines."""


def label(table: str) -> str:
    """Return the label of a table in messages: the name of its function, if the function has only one table."""
    function, _ = TABLES[table]
    return function if function.endswith(f".{table}") else f"{function}, {table}"


def public_functions() -> frozenset[str]:
    """Return all functions of `protocol`, by their names in `TABLES`."""
    modules = {
        module.name: f"{unwedged.protocol.__name__}.{module.name}"
        for module in pkgutil.iter_modules(unwedged.protocol.__path__)
    }
    return frozenset(
        f"{module}.{name}"
        for module, path in modules.items()
        for name, function in inspect.getmembers(pkgutil.resolve_name(path), inspect.isfunction)
        if function.__module__ == path and not name.startswith("_")
    )


def compare(graph: Graph, lease_time: int) -> Iterator[tuple[str, str | None]]:
    """Yield the label of each comparison, and how the code and the table differ, if they do."""
    outputs = {edge.source: edge.target for edge in graph.edges}
    for state in graph.initial:
        table = str(graph.states[state]["function"])
        if state not in outputs:
            raise UnreadableOutput(f"TLC wrote down no output for an input of {table!r}")
        (output,) = of.sequence(graph.states[outputs[state]]["output"])
        entry = Entry(of.function(graph.states[state]["input"]), output, lease_time)
        function, lines = TABLES[table]
        call = pkgutil.resolve_name(f"{unwedged.protocol.__name__}.{function}")
        for arguments, expected in lines(entry):
            got = call(*arguments)
            agrees = type(got) is type(expected) and got == expected
            yield label(table), None if agrees else f"{function}{arguments} is {got}, in the specification {expected}"
