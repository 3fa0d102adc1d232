"""Measure a handover between two real processes that take strict turns, and the cost of waiting.

The two processes update one shared record alternately, through ``CryptoStore.run``, and ask for the lease again at
once. The record says whose turn it is. A process that gets the lease out of turn changes nothing. In the baseline,
measured in alternating rounds, the same two processes do the same with a bare row, through the same driver with the
same durability. They poll the row, which does not disturb the other process, and write in one ``BEGIN IMMEDIATE``
transaction.

A turn lasts from the end of the other process's update to the end of this process's update. The computer should do
nothing else, and must have a core for each process.

pyperf is not used, since it can't measure two processes that depend on each other.
"""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import sqlite3
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from importlib.metadata import version
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import aiosqlite
import msgspec

from bench.measuring import RESULTS, Effort, Spread, Target, processes, say, sized
from bench.reporting import digits, duration, spread, table
from unwedged.store import TEXT, Codec, CryptoStore, RecordKind, Transaction

Answer = TypeVar("Answer")

TURNS: Final = sized(1000, 20)
"""The number of turns of both processes together, in each round."""
WAITS: Final = sized(5, 2)
MOST: Final = 2.0
"""The target: the median turn in the store takes at most so many times as long as a bare turn."""
MOST_OF_A_CORE: Final = 0.02
RAW: Final = RESULTS / "handover.json"
PROCESSES: Final = 2
TURN: Final = RecordKind("turn", key=TEXT, value=Codec[int](lambda turn: b"%d" % turn, int))


class TakeBareTurns(msgspec.Struct, frozen=True, tag=True):
    """Take turns on a bare row until so many turns were taken.

    Answer the time when each of this process's turns ended.
    """

    until: int


class TakeTurns(msgspec.Struct, frozen=True, tag=True):
    """Take turns on a record of the store in the same way."""

    until: int


class Hold(msgspec.Struct, frozen=True, tag=True):
    """Hold the lease in one operation, and answer. At ``GoOn``, answer the time."""


class Wait(msgspec.Struct, frozen=True, tag=True):
    """Wait for the lease. Answer after a second how much processor time this took, and later when the lease came."""


class GoOn(msgspec.Struct, frozen=True, tag=True):
    """End the operation that holds the lease."""


Command: TypeAlias = TakeBareTurns | TakeTurns | Hold | Wait | GoOn


class Lengths(msgspec.Struct, frozen=True):
    """The lengths of turns, in microseconds."""

    median: float
    percentile_99: float


class Round(msgspec.Struct, frozen=True):
    """The same number of turns in the store and on the bare row."""

    bare: Lengths
    store: Lengths

    @property
    def ratio(self) -> float:
        return self.store.median / self.bare.median


class Waiting(msgspec.Struct, frozen=True):
    """One process waits for a second while another holds the lease in one operation."""

    core: float
    """The share of a core that the waiting process used."""
    delay: float
    """Microseconds from ``GoOn`` to the beginning of the waiting process's operation."""


class Result(msgspec.Struct, frozen=True):
    """The result of one run, and the computer."""

    machine: str
    cores: int
    python: str
    sqlite: str
    aiosqlite: str
    turns: int
    rounds: list[Round]
    waiting: list[Waiting]


class Process:
    """One of the two processes, in the process itself."""

    def __init__(
        self, number: int, driver: Connection[bytes, bytes], store: CryptoStore, bare: aiosqlite.Connection
    ) -> None:
        self._number = number
        self._driver = driver
        self._store = store
        self._unguarded = bare

    async def serve(self) -> None:
        while True:
            match await self._next_command():
                case TakeBareTurns(until):
                    self._answer(await self._turns(self._bare_turn, until))
                case TakeTurns(until):
                    self._answer(await self._turns(self._turn, until))
                case Hold():
                    self._answer(await self._store.run(self._hold))
                case Wait():
                    await self._wait()
                case GoOn() as command:
                    raise AssertionError(command)

    async def _next_command(self) -> Command:
        command: Command = msgspec.json.decode(await asyncio.to_thread(self._driver.recv_bytes), type=Command)
        return command

    def _answer(self, what: Sequence[int] | float | None) -> None:
        self._driver.send_bytes(msgspec.json.encode(what))

    async def _turns(self, attempt: Callable[[int], Awaitable[int]], until: int) -> list[int]:
        ends = []
        while (turn := await attempt(until)) < until:
            if self._is_mine(turn):
                ends.append(time.monotonic_ns())  # all processes of a computer have the same monotonic clock
        return ends

    def _is_mine(self, turn: int) -> bool:
        return turn % PROCESSES == self._number

    async def _bare_turn(self, until: int) -> int:
        """Take the turn if it is this process's turn. Return the number of the next turn."""
        [(turn,)] = await self._unguarded.execute_fetchall("SELECT turn FROM bare")
        found = int(turn)
        if self._is_mine(found) and found < until:
            await self._unguarded.execute("BEGIN IMMEDIATE")
            await self._unguarded.execute("UPDATE bare SET turn = turn + 1")
            await self._unguarded.commit()
        return found

    async def _turn(self, until: int) -> int:
        """Do the same as ``_bare_turn`` in the store."""

        async def take(transaction: Transaction) -> int:
            found = await transaction.get(TURN, "whose") or 0
            if self._is_mine(found) and found < until:
                transaction.put(TURN, "whose", found + 1)
            return found

        return await self._store.run(take)

    async def _hold(self, transaction: Transaction) -> int:
        self._answer(None)
        assert isinstance(await self._next_command(), GoOn)
        # The operation writes, so the waiter has something to load, and the commit shows that another process waits.
        transaction.put(TURN, "whose", await transaction.get(TURN, "whose") or 0)
        return time.monotonic_ns()

    async def _wait(self) -> None:
        before, began = _processor_time(), time.monotonic()

        async def seen(transaction: Transaction) -> int:
            await transaction.get(TURN, "whose")
            return time.monotonic_ns()

        waiting = asyncio.create_task(self._store.run(seen))
        await asyncio.sleep(1)
        self._answer((_processor_time() - before) / (time.monotonic() - began))
        self._answer(await waiting)


def _processor_time() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def _bare_row(path: Path) -> aiosqlite.Connection:
    """Open a database with one bare row, with the store's pragmas."""
    connection = await aiosqlite.connect(path, isolation_level=None)
    for statement in (
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        "PRAGMA secure_delete = ON",
        "CREATE TABLE IF NOT EXISTS bare AS SELECT 0 AS turn",
    ):
        await connection.execute(statement)
    return connection


async def _process(number: int, driver: Connection[bytes, bytes], folder: Path) -> None:
    bare = await _bare_row(folder / "bare.db")
    try:
        async with CryptoStore.open(
            folder / "store.db", key=bytes(32), label=f"process {number}", kinds=[TURN]
        ) as store:
            driver.send_bytes(msgspec.json.encode(None))
            await Process(number, driver, store, bare).serve()
    finally:
        await bare.close()


class Pair:
    """The two processes, from the process that drives them."""

    def __init__(self, pipes: Sequence[Connection[bytes, bytes]]) -> None:
        self._pipes = pipes
        self._taken = dict.fromkeys((TakeBareTurns, TakeTurns), 0)

    def take(self, turns: type[TakeBareTurns | TakeTurns]) -> Lengths:
        """Let the processes take ``TURNS`` turns, and return their lengths."""
        self._taken[turns] += TURNS
        for pipe in self._pipes:
            _command(pipe, turns(self._taken[turns]))
        ends = sorted(end for pipe in self._pipes for end in _answer_of(pipe, list[int]))
        assert len(ends) == TURNS
        lengths = [(end - before) / 1000 for before, end in pairwise(ends)]
        return Lengths(statistics.median(lengths), statistics.quantiles(lengths, n=100)[-1])

    def wait(self) -> Waiting:
        """Let one process wait while the other holds the lease."""
        holder, waiter = self._pipes
        _command(holder, Hold())
        _answer_of(holder, None)
        _command(waiter, Wait())
        core = _answer_of(waiter, float)
        _command(holder, GoOn())
        return Waiting(core, (_answer_of(waiter, int) - _answer_of(holder, int)) / 1000)


def _command(pipe: Connection[bytes, bytes], command: Command) -> None:
    pipe.send_bytes(msgspec.json.encode(command))


def _answer_of(pipe: Connection[bytes, bytes], kind: type[Answer] | None) -> Answer:
    answer: Answer = msgspec.json.decode(pipe.recv_bytes(), type=kind)
    return answer


def measured(rounds: int) -> Result:
    """Measure so many rounds."""
    with processes(_process, PROCESSES) as pipes:
        pair = Pair(pipes)
        pair.take(TakeBareTurns)
        pair.take(TakeTurns)
        found = []
        for number in range(1, rounds + 1):
            say(f"handover: round {number} of {rounds}")
            found.append(Round(pair.take(TakeBareTurns), pair.take(TakeTurns)))
        waiting = [pair.wait() for _ in range(WAITS)]
    return Result(
        machine=f"{platform.system()} {platform.machine()}",
        cores=os.cpu_count() or 0,
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        aiosqlite=version("aiosqlite"),
        turns=TURNS,
        rounds=found,
        waiting=waiting,
    )


def _table(result: Result) -> str:
    rounds, waiting = result.rounds, result.waiting
    ratio = Spread.of([each.ratio for each in rounds])
    delay = Spread.of([each.delay / 1e6 for each in waiting])
    core = Spread.of([each.core for each in waiting])
    turns = table(
        ("a turn", "store", "bare row", "ratio", "target", ""),
        [
            (
                "median",
                _middle(each.store.median for each in rounds),
                _middle(each.bare.median for each in rounds),
                spread(ratio, digits),
                f"at most {MOST:g}",
                "met" if ratio.median <= MOST else "**missed**",
            ),
            (
                "99th percentile",
                _middle(each.store.percentile_99 for each in rounds),
                _middle(each.bare.percentile_99 for each in rounds),
                "",
                "",
                "",
            ),
        ],
    )
    waits = table(
        ("a process that waits for a second", "", "target", ""),
        [
            (
                "uses of a core",
                spread(core, lambda share: f"{100 * share:.2f} %"),
                f"at most {100 * MOST_OF_A_CORE:g} %",
                "met" if core.median <= MOST_OF_A_CORE else "**missed**",
            ),
            ("begins after the holder may end, by", spread(delay, duration), "", ""),
        ],
    )
    return f"{turns}\n\n{waits}\n"


def _middle(lengths: Iterator[float]) -> str:
    return duration(statistics.median(lengths) / 1e6)


def measure(effort: Effort) -> None:
    """Measure, and write raw results into ``RESULTS``."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    result = measured(effort.rounds)
    RAW.write_bytes(msgspec.json.format(msgspec.json.encode(result)))


def targets() -> list[Target]:
    """Return the ratios with their targets."""
    rounds = msgspec.json.decode(RAW.read_bytes(), type=Result).rounds
    return [Target("turn with a handover / bare turn", Spread.of([each.ratio for each in rounds]), MOST)]


def report() -> str:
    """Return a section of the report, made from raw results."""
    result: Result = msgspec.json.decode(RAW.read_bytes(), type=Result)
    return f"""\
## Handing over

Two processes update one shared record in turn, through `CryptoStore.run`, and each asks for the lease again at once. So
each turn is a handover: the holder learns that the other process waits, the lease is released and taken, the cache is
brought up to date, one record is loaded, and one commit is made. In the baseline, measured in alternating rounds, the
same two processes take turns on a bare row, through the same driver with the same durability: they poll the row, and
write in one `BEGIN IMMEDIATE` transaction. A turn lasts from the end of the other process's update to the end of this
process's update. There were {len(result.rounds)} rounds of {result.turns:,} turns each way. Each process needs a core
of its own.

{_table(result)}"""
