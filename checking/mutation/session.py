"""A plugin of pytest that runs mutants: the tests are imported and collected once, and each mutant has a fork of that.

In a fork the tests that call the mutated function run one after the other until one fails: first those that kill much
for the time that they take. A test hangs if it makes no progress for much longer than it takes without a mutant: it
uses the processor for long, or waits for long without using it. So neither another program that needs the processor nor
a pause of the whole machine looks like a test that hangs. The tests that are left then run in another fork. If none of
them fails, those that hung run again, alone and with much more time, and only that counts.

This needs Linux, which says in ``/proc`` what a process does.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import struct
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NoReturn

import msgspec
import pytest
from mutmut.configuration import config as mutmut_settings
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state

from checking.mutation.scores import KILLED, SURVIVED, TIMED_OUT

PATIENCE_SECONDS: Final = 1.5
PATIENCE_TIMES: Final = 4
"""A test hangs after ``PATIENCE_SECONDS`` and so many times as long as it takes without a mutant."""

MOST_HANGING: Final = 3
"""After so many tests that hang, the others are not tried."""

PATIENCE: Final = 10
"""A test that hung has so many times as long when it runs again. Many give up by themselves before that, and fail."""

LOOK_SECONDS: Final = 0.05
"""How often a fork is looked at, in seconds."""

MOST_LOOKS: Final = 20
"""Whatever a test does, it hangs after so many times as many looks as a test that only waits."""

STANDSTILL_SECONDS: Final = 3
"""If this process itself did not run for so long, no test that ran meanwhile counts: its own time may be over."""

_NUMBER: Final = struct.Struct("!I")


class Wanted(msgspec.Struct, frozen=True):
    """A mutant to run, by mutmut's name, and the test that killed it the last time."""

    name: str
    killer: str | None = None


class Work(msgspec.Struct, frozen=True):
    """What a session does. It writes what became of each mutant into the file ``told``."""

    mutants: tuple[Wanted, ...]
    told: str
    jobs: int
    """How many mutants are run at once."""
    patience: float
    """A test that hung has so many times as long when it runs again."""


class Told(msgspec.Struct, frozen=True):
    """What became of a mutant, and the test that decided it."""

    name: str
    fate: str
    test: str | None = None


class _Measured(msgspec.Struct, frozen=True):
    """A test without a mutant: how long it takes, and what it calls of what is mutated."""

    seconds: float
    calls: frozenset[str]
    failed: bool


@dataclass
class _Attempt:
    """A mutant, and the numbers of those of its tests that have not run."""

    mutant: str
    tests: list[int] | None = None
    hung: list[int] = field(default_factory=list)


@dataclass
class _Fork:
    """A process that runs tests on one mutant."""

    attempt: _Attempt
    pid: int
    pipe: int
    """Where it writes the number of each test that begins."""
    scratch: TemporaryDirectory[str]
    test: int
    used_seconds: float = 0.0
    """How much of the processor it has used,"""
    began_seconds: float = 0.0
    """and how much it had used when the test began."""
    looked_seconds: float = 0.0
    """When it was looked at,"""
    looks: int = 0
    """how often since the test began,"""
    still: int = 0
    """and how often in sequence it was only waiting."""

    def end(self) -> None:
        """End it, if it has not ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        os.close(self.pipe)
        self.scratch.cleanup()

    def look(self) -> int | None:
        """Note what it does; return its status once it has ended."""
        ended, status = os.waitpid(self.pid, os.WNOHANG)
        with suppress(BlockingIOError):
            while begun := os.read(self.pipe, 4096):
                [self.test] = _NUMBER.unpack(begun[-_NUMBER.size :])
                self.began_seconds, self.looks, self.still = self.used_seconds, 0, 0
        if ended:
            return status
        now = time.monotonic()
        if now - self.looked_seconds >= LOOK_SECONDS:
            self.looked_seconds = now
            does = Path(f"/proc/{self.pid}/stat").read_bytes().rpartition(b")")[2].split()
            used = (int(does[11]) + int(does[12])) / os.sysconf("SC_CLK_TCK")
            self.looks += 1
            self.still = self.still + 1 if does[0] == b"S" and used == self.used_seconds else 0
            self.used_seconds = used
        return None

    def hangs(self, patience_seconds: float) -> bool:
        """Return whether the test has waited, or has used the processor, for longer than this."""
        looks = patience_seconds / LOOK_SECONDS
        used_seconds = self.used_seconds - self.began_seconds
        return used_seconds > patience_seconds or self.still > looks or self.looks > MOST_LOOKS * looks


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names the file with the work."""
    parser.addoption("--mutants", required=True, help="a file that says which mutants to run")


def pytest_configure(config: pytest.Config) -> None:
    """Read the work."""
    mutmut_settings()  # They are in the current folder, which tests may change.
    work = msgspec.json.decode(Path(config.getoption("--mutants")).read_bytes(), type=Work)
    config.pluginmanager.register(Mutants(work))


class Mutants:
    """Runs the mutants in place of the tests."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._items: Sequence[pytest.Item] = ()
        self._measured: Sequence[_Measured] = ()
        self._kills: defaultdict[str, Counter[int]] = defaultdict(Counter)
        """How many mutants of each function each test has killed."""
        self._failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note that a test failed."""
        self._failed = self._failed or report.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run each mutant."""
        if session.testsfailed:
            raise session.Failed("not all tests can be imported")
        self._items = session.items
        gc.collect()
        gc.freeze()
        self._measured = self._measure(session)
        undecided = []
        attempts = deque(_Attempt(mutant.name) for mutant in self._work.mutants)
        for fork, status in self._run(attempts, self._work.jobs, 1):
            attempt = fork.attempt
            if status is None:
                attempt.hung.append(fork.test)
                assert attempt.tests is not None
                attempt.tests = attempt.tests[attempt.tests.index(fork.test) + 1 :]
                if attempt.tests and len(attempt.hung) < MOST_HANGING:
                    attempts.appendleft(attempt)
                else:
                    undecided.append(attempt)
            elif status == 0 and attempt.hung:
                undecided.append(attempt)
            else:
                self._tell(fork, SURVIVED if status == 0 else KILLED)
        alone = deque(_Attempt(attempt.mutant, attempt.hung) for attempt in undecided)
        for fork, status in self._run(alone, 1, self._work.patience):
            self._tell(fork, TIMED_OUT if status is None else SURVIVED if status == 0 else KILLED)
        return True

    def _run(self, attempts: deque[_Attempt], jobs: int, patience: float) -> Iterator[tuple[_Fork, int | None]]:
        """Run tests on each mutant, and yield how each fork ended: its status, or ``None`` if a test hangs."""
        running: list[_Fork] = []
        looked = time.monotonic()
        while attempts or running:
            while attempts and len(running) < jobs:
                attempt = attempts.popleft()
                if attempt.tests is None:
                    attempt.tests = self._tests_of(attempt.mutant)
                if attempt.tests:
                    running.append(self._fork(attempt, attempt.tests))
                else:
                    self._write(Told(attempt.mutant, SURVIVED))
            select.select([fork.pipe for fork in running], [], [], LOOK_SECONDS)
            before, looked = looked, time.monotonic()
            stood_still = looked - before > STANDSTILL_SECONDS
            for fork in running[:]:
                status = fork.look()
                hangs = fork.hangs(patience * (PATIENCE_SECONDS + PATIENCE_TIMES * self._measured[fork.test].seconds))
                if stood_still or hangs or status is not None:
                    running.remove(fork)
                    fork.end()
                    if stood_still:
                        attempts.appendleft(fork.attempt)
                    else:
                        yield fork, status

    def _tests_of(self, mutant: str) -> list[int]:
        """Return the tests that call its function: first the last killer, then those that kill much in little time."""
        function = mutant.rpartition("__mutmut_")[0]
        killers = {one.killer for one in self._work.mutants if one.name == mutant}
        kills = self._kills[function]

        def worth(test: int) -> tuple[bool, float]:
            per_second = (kills[test] + 0.1) / (self._measured[test].seconds + 0.01)
            return self._items[test].nodeid in killers, per_second

        tests = (number for number, measured in enumerate(self._measured) if function in measured.calls)
        return sorted(tests, key=worth, reverse=True)

    def _tell(self, fork: _Fork, fate: str) -> None:
        test = None if fate == SURVIVED else fork.test
        if test is not None:
            self._kills[fork.attempt.mutant.rpartition("__mutmut_")[0]][test] += 1
        self._write(Told(fork.attempt.mutant, fate, None if test is None else self._items[test].nodeid))

    def _write(self, told: Told) -> None:
        with Path(self._work.told).open("ab") as file:
            file.write(msgspec.json.encode(told) + b"\n")

    def _fork(self, attempt: _Attempt, tests: Sequence[int]) -> _Fork:
        pipe, told = os.pipe()
        os.set_blocking(pipe, False)
        scratch = TemporaryDirectory()
        pid = os.fork()
        if pid == 0:
            self._run_tests(attempt.mutant, tests, told, scratch.name)
        os.close(told)
        return _Fork(attempt, pid, pipe, scratch, tests[0])

    def _run_tests(self, mutant: str, tests: Sequence[int], told: int, scratch: str) -> NoReturn:
        code = 1
        try:
            self._enter_fork(mutant, scratch)
            for number, following in zip(tests, [*tests[1:], None], strict=True):
                os.write(told, _NUMBER.pack(number))
                self._run_test(number, following)
                if self._failed:
                    break
            else:
                code = 0
        finally:
            os._exit(code)

    def _enter_fork(self, mutant: str, scratch: str) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.environ["PYTEST_DEBUG_TEMPROOT"] = scratch
        set_mutant_under_test(mutant)

    def _run_test(self, number: int, following: int | None) -> None:
        item, next_item = self._items[number], None if following is None else self._items[following]
        item.ihook.pytest_runtest_protocol(item=item, nextitem=next_item)

    def _measure(self, session: pytest.Session) -> Sequence[_Measured]:
        """Run all tests without a mutant, in a fork: no test must have run in this process."""
        with TemporaryDirectory() as scratch:
            file = Path(scratch) / "measured"
            pid = os.fork()
            if pid == 0:
                try:
                    self._enter_fork("stats", scratch)
                    file.write_bytes(msgspec.json.encode(list(self._measure_here())))
                finally:
                    os._exit(0)
            os.waitpid(pid, 0)
            if not file.exists():
                raise session.Failed("the tests can't be run")
            measured = msgspec.json.decode(file.read_bytes(), type=list[_Measured])
        failing = [item.nodeid for item, one in zip(self._items, measured, strict=True) if one.failed]
        if failing:
            raise session.Failed(f"without a mutant these fail: {', '.join(failing)}")
        return measured

    def _measure_here(self) -> Iterator[_Measured]:
        last = len(self._items) - 1
        for number in range(len(self._items)):
            self._failed = False
            called = state()._stats  # noqa: SLF001 (only mutmut's own runner has another way to it)
            called.clear()
            began = time.perf_counter()
            self._run_test(number, None if number == last else number + 1)
            yield _Measured(time.perf_counter() - began, frozenset(called), self._failed)
