"""The traces of the processes: pipes carry them, files keep them in parts, and TLC follows each part.

While the disk is full, no file can grow, and a trace in a file would lack lines. So each process writes its trace into
a pipe, and a thread of this process reads the pipe at once: a writer does not wait, and its lines survive its death
(T1.4). TLC follows a part while the next one is written. For the store, TLC begins with the epoch, the version and the
values at the end of the previous part; for the machine, with what the part itself records. An accepted part
is deleted once the next one is accepted too.
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
    """The files of the traces: one for each process and part."""

    def __init__(self, folder: Path, labels: Iterable[str]) -> None:
        self._folder = folder
        self._labels = tuple(labels)
        self._part = 1
        self._line_feeds = 0
        self._receivers: list[Thread] = []

    @property
    def lines(self) -> int:
        """The number of lines of the part. Each line is written with two line feeds (T1.5)."""
        return self._line_feeds // 2

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the current part. A file without a line may not exist yet."""
        return tuple(self._file(label) for label in self._labels)

    def receive(self, label: str) -> int:
        """Return the write end of a new pipe for a process's trace. Close it once the process has inherited it."""
        out, into = os.pipe()
        receiver = Thread(target=self._write, args=(out, self._file(label)), name=f"trace of {label}", daemon=True)
        receiver.start()
        self._receivers.append(receiver)
        return into

    def receive_rest(self) -> None:
        """Wait until the files contain everything that the processes wrote. All processes must have ended."""
        for receiver in self._receivers:
            receiver.join()
        self._receivers.clear()

    def finish_part(self) -> tuple[Path, ...]:
        """Return the files of this part, and begin the next one. All processes must have ended."""
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
    """The parts that TLC has followed so far, and its verdict."""

    def __init__(self, toolbox: Toolbox, specifications: Path) -> None:
        self.lines = 0
        """The number of lines that are part of a behaviour of the specification."""
        self.parts = 0
        self.steps: Counter[str] = Counter()
        """The number of accepted steps, by name."""
        self.rejection: str | None = None
        """Why the last part is no behaviour of the specification."""
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
