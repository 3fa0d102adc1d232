"""A program that shares a counter with other processes: ``python -m tests.store.worker PATH RELEASE``.

Each line of its input names a command. It answers with one line: the result, or the name of the exception.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Final

from unwedged.protocol.identifiers import Milliseconds
from unwedged.store import TEXT, Codec, CryptoStore, RecordKind, Transaction, View, schema, statements

PASSPHRASE: Final = "worker"
COUNTS: Final = RecordKind("count", TEXT, Codec[int](lambda count: b"%d" % count, int))
NOTES: Final = RecordKind("note", TEXT, TEXT)
"""A kind that only newer releases know."""
LATENESS: Final = statements.lateness
PATIENCE: Final = 60
"""Seconds after which a hanging test fails."""


class Release(Enum):
    """The release of the program."""

    FIRST = "first"
    MORE_KINDS = "more-kinds"
    """A release that keeps records of a kind that the first one does not know."""
    NEW_SCHEMA = "new-schema"
    """A release whose library has a migration that the first one's library lacks."""


async def count_up(transaction: Transaction) -> int:
    """Return the next number. If two processes return the same number, an update was lost."""
    count = (await transaction.get(COUNTS, "n") or 0) + 1
    transaction.put(COUNTS, "n", count)
    return count


async def read(view: View) -> int:
    """Return the last number that was returned."""
    return await view.get(COUNTS, "n") or 0


async def count_up_and_note(transaction: Transaction) -> int:
    """Return the next number, and write a record of the newer release's kind."""
    count = await count_up(transaction)
    transaction.put(NOTES, f"{count}", "given out")
    return count


async def open_store(path: Path, release: Release = Release.FIRST) -> CryptoStore:
    """Open the store of the counter."""
    newer = [] if release is Release.FIRST else [NOTES]
    return await CryptoStore.open(path, passphrase=PASSPHRASE, label="worker", kinds=[COUNTS, *newer])


async def perform(path: Path, release: Release) -> None:
    """Answer each command until the input ends."""
    if release is Release.NEW_SCHEMA:
        schema.MIGRATIONS = (*schema.MIGRATIONS, ("ALTER TABLE state ADD COLUMN later INTEGER",))
    count = count_up if release is Release.FIRST else count_up_and_note
    async with await open_store(path, release) as store:
        answer("opened")
        while command := (await asyncio.to_thread(sys.stdin.readline)).strip():
            if command == "stop":
                statements.lateness = stop
            try:
                answer(await (store.run(count) if command in {"count", "stop"} else store.query(read)))
            except Exception as error:  # noqa: BLE001 (its name is the answer)
                answer(type(error).__name__)


def stop(began_seconds: float, duration_ms: Milliseconds) -> Milliseconds:
    """Suspend this process in the middle of its next transaction, once."""
    statements.lateness = LATENESS
    os.kill(os.getpid(), signal.SIGSTOP)
    return statements.lateness(began_seconds, duration_ms)


def answer(what: object) -> None:
    """Write one line."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


class Worker:
    """Another process that has the store open."""

    def __init__(self, path: Path, release: Release) -> None:
        self.process = subprocess.Popen(  # noqa: S603 (this project's own program)
            [sys.executable, "-m", "tests.store.worker", path, release.value],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.answer() == "opened"

    def ask(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def do(self, command: str) -> str:
        self.ask(command)
        return self.answer()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        """Have it close the store and exit."""
        self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0


@contextlib.contextmanager
def worker(path: Path, release: Release = Release.FIRST) -> Iterator[Worker]:
    """Start a worker, and stop it on exit."""
    started = Worker(path, release)
    with started.process:
        try:
            yield started
        finally:
            started.process.kill()


def look(path: Path) -> None:
    """Have another process open the file, and close it."""
    program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM state'); c.close()"
    subprocess.run([sys.executable, "-c", program, path], check=True)  # noqa: S603 (a program of its own)


def at_work(path: Path, command: str) -> str:
    """Have a process open the store, do one thing, and close it."""
    with worker(path) as other:
        done = other.do(command)
        other.close()
    return done


if __name__ == "__main__":
    asyncio.run(perform(Path(sys.argv[1]), Release(sys.argv[2])))
