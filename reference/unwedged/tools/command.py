"""The command line: its arguments, and what is said where something goes wrong."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import unwedged
from unwedged.store.errors import StoreError
from unwedged.store.inspection import inspect
from unwedged.tools.inspection_text import text_of

OK, UNUSABLE = 0, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with ``arguments``, those of the process if there are none, and return its exit status."""
    parsed = _parser().parse_args(arguments)
    store: Path = parsed.store
    try:
        found = inspect(store, parsed.lines)
    except StoreError as error:
        sys.stderr.write(f"unwedged: {store}: {error}\n")
        return UNUSABLE
    sys.stdout.write(text_of(found))
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="unwedged", description="Look into stores that several processes share.")
    parser.add_argument("--version", action="version", version=f"unwedged {unwedged.__version__}")
    tools = parser.add_subparsers(metavar="TOOL", required=True)
    what = "show a store's holder, epoch, version, change log, and how many records of each kind it has"
    inspecting = tools.add_parser("inspect", help=what, description=f"{what}. Needs no passphrase and never writes.")
    inspecting.add_argument("store", type=Path, help="the store's file")
    inspecting.add_argument("--lines", type=int, default=20, help="how many lines of the change log (default: 20)")
    return parser
