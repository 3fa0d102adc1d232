"""The command line: which tools there are, where their output goes, and which errors are shown."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

import unwedged
from unwedged.store.errors import StoreError
from unwedged.tools import inspecting
from unwedged.tools.printable import printable

OK, UNUSABLE = 0, 2

TOOLS: Final = (inspecting,)
"""The module of each tool. One of its arguments is the ``store``, and what ``run`` returns is written."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with ``arguments``, those of the process if there are none, and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # It is None where the process has none.
            stream.reconfigure(errors="backslashreplace")
    parsed = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], str] = parsed.run
    try:
        text = run(parsed)
    except StoreError as error:
        return _failed(f"{printable(parsed.store)}: {printable(str(error))}")
    try:
        _write(text)
    except OSError as error:
        return _failed(f"the output could not be written: {error.strerror}")
    return OK


def _failed(why: str) -> int:
    sys.stderr.write(f"unwedged: {why}\n")
    return UNUSABLE


def _write(text: str) -> None:
    """Write the output, and have the process try it only once."""
    if not sys.stdout:
        raise OSError(None, "there is none")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="unwedged",
        description="Look into stores that several processes share. Traces are explained in a copy of the repository: "
        "make explain LOGS=...",
    )
    parser.add_argument("--version", action="version", version=f"unwedged {unwedged.__version__}")
    tools = parser.add_subparsers(metavar="TOOL", required=True)
    for tool in TOOLS:
        its_parser = tools.add_parser(tool.NAME, help=tool.WHAT, description=tool.DESCRIPTION)
        tool.add_arguments(its_parser)
        its_parser.set_defaults(run=tool.run)
    return parser
