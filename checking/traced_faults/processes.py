"""Start real processes, and exchange commands and answers with them, each as one line of JSON."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from typing import TypeVar

import msgspec

from checking.errors import CheckError

Answer = TypeVar("Answer")


class ProcessEnded(CheckError):
    """A process ended before it was asked to."""


class RealProcess:
    """A process that runs a module, which gets a setting. ``stack`` kills the process.

    The process writes an empty line when it is ready.
    """

    def __init__(self, stack: ExitStack, module: str, setting: msgspec.Struct) -> None:
        self._module = module
        command = [sys.executable, "-m", module, msgspec.json.encode(setting).decode()]
        self._process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 (our own)
        )
        stack.callback(self._process.kill)
        self._line()

    def ask(self, command: msgspec.Struct, answer: type[Answer]) -> Answer:
        """Send a command, and return the answer. Raises ``ProcessEnded``."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(command).decode() + "\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._line(), type=answer)

    def go_on(self) -> None:
        """Resume a process that has written an empty line and waits, until it writes the next empty line."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._line()

    def end(self) -> None:
        """Send no more commands, and wait until the process ends by itself. Raises ``ProcessEnded`` if it failed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self._process.wait():
            raise ProcessEnded(f"a process of {self._module} ended with {self._process.returncode}")

    def kill(self) -> None:
        """Kill the process in the middle of what it does."""
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ProcessEnded(f"a process of {self._module} ended with {self._process.wait()}")
        return line


def say(line: str) -> None:
    """Write a line to the process that started this one."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
