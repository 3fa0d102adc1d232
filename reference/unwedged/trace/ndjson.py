"""Lines in a file, one JSON object each. Several processes may write to one file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from unwedged.trace.lines import Line


def as_json(line: Line) -> bytes:
    """Encode a line by Python's own encoder."""
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


class NdjsonTracer:
    """Appends each line to a file by one call of the system, so that no other process's line comes into its middle.

    A process that is killed, and one that meets a full disk, leaves all lines that it wrote, but perhaps not the whole
    of the last. What the system has taken survives the process, and not a power cut.
    """

    def __init__(self, path: str | Path, encode: Callable[[Line], bytes] = as_json) -> None:
        """Open the file at ``path``, or make one that only its owner reads.

        ``encode`` makes JSON of a line: ``msgspec.json.encode`` takes a tenth of the time of Python's own.
        """
        self._encode = encode
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._file: int | None = os.open(path, flags, 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # T1.5
    def write(self, line: Line) -> None:
        """Append one line. A line of any process may have been cut just before: this one must not continue it."""
        if self._file is None:
            raise ValueError("the trace's file was closed")
        encoded = b"\n%b\n" % self._encode(line)
        if os.write(self._file, encoded) < len(encoded):
            raise OSError("the trace's file took only a part of a line")

    def close(self) -> None:
        """Let go of the file. Closing it twice does no harm."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)
