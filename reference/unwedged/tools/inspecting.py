"""The tool ``inspect``: its arguments, and what it does with them."""

from __future__ import annotations

import argparse
from typing import Final

from unwedged.store.inspection import inspect
from unwedged.tools.inspection_text import text_of

NAME: Final = "inspect"
WHAT: Final = "show a store's holder, epoch, version, change log, and how many records of each kind it has"
DESCRIPTION: Final = f"{WHAT}. Needs no passphrase and never writes."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the tool to ``parser``."""
    parser.add_argument("store", help="the store's file")
    parser.add_argument("--lines", type=int, default=20, help="how many lines about the change log (default: 20)")


def run(parsed: argparse.Namespace) -> str:
    """Return the text to show."""
    store: str = parsed.store
    lines: int = parsed.lines
    return text_of(inspect(store, lines))
