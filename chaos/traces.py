"""The traces of the processes: they come through pipes, are kept in parts, and TLC follows each part.

A file could not grow while the disk is full, and a trace would lack lines then. So each process writes its trace into
a pipe, and a thread of this one takes it out at once: a process that writes does not wait, and what it has written
survives it (T1.4). While the run goes on, TLC follows the part before: its steps of the store from the epoch, the
version and the values that the one before that has ended with, its steps of the machine from what they tell. A part
that was accepted is deleted when the next one was accepted too.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from threading import Thread
from typing import Final

from checking.explain.explanation import explained
from checking.explain.merging import Base
from checking.explain.reading import read
from checking.tlc.toolbox import Toolbox

CHUNK_BYTES: Final = 65_536


class Traces:
    """The files that the traces of one part after the other are written to."""

    def __init__(self, folder: Path, labels: Iterable[str]) -> None:
        self._folder = folder
        self._labels = tuple(labels)
        self._part = 1
        self._line_feeds = 0
        self._receivers: list[Thread] = []

    @property
    def lines(self) -> int:
        """So many the part has: each comes with two line feeds (T1.5)."""
        return self._line_feeds // 2

    @property
    def files(self) -> tuple[Path, ...]:
        """Those of the part that is written, whether or not there are any lines."""
        return tuple(self._file(label) for label in self._labels)

    def receive(self, label: str) -> int:
        """Return the end of a new pipe for a process to write to. Close it when the process has it."""
        out, into = os.pipe()
        receiver = Thread(target=self._write, args=(out, self._file(label)), name=f"trace of {label}", daemon=True)
        receiver.start()
        self._receivers.append(receiver)
        return into

    def receive_rest(self) -> None:
        """Wait until all is in the files that the processes have written, which have ended."""
        for receiver in self._receivers:
            receiver.join()
        self._receivers.clear()

    def finish_part(self) -> tuple[Path, ...]:
        """Return the files of this part, when all processes have ended, and begin the next one."""
        self.receive_rest()
        files = self.files
        self._part += 1
        self._line_feeds = 0
        return files

    def _file(self, label: str) -> Path:
        return self._folder / f"{label}-{self._part:05}.ndjson"

    def _write(self, pipe: int, path: Path) -> None:
        with open(pipe, "rb", buffering=0) as written, path.open("ab") as file:
            while chunk := written.read(CHUNK_BYTES):
                file.write(chunk)
                self._line_feeds += chunk.count(b"\n")


class Followed:
    """What TLC has said of the parts so far."""

    def __init__(self, toolbox: Toolbox, specifications: Path) -> None:
        self.lines = 0
        """So many lines are a behaviour of the specification."""
        self.parts = 0
        self.steps: Counter[str] = Counter()
        """By the name of the step."""
        self.rejection: str | None = None
        """Why the last part is none."""
        self._toolbox = toolbox
        self._specifications = specifications
        self._base: Base | None = None
        self._kept: tuple[Path, ...] = ()

    async def follow(self, files: tuple[Path, ...]) -> None:
        """Let TLC follow the next part."""
        logs = await asyncio.to_thread(read, files)
        explanation = await explained(self._toolbox, logs, self._specifications, base=self._base)
        if not explanation.accepted or explanation.bugs:
            self.rejection = explanation.text()
            return
        self._base = explanation.merged.end
        self.parts += 1
        for lines in logs.instances.values():
            self.lines += len(lines)
            self.steps.update(str(found.line.__struct_config__.tag) for found in lines)
        for path in self._kept:
            path.unlink()
        self._kept = files
