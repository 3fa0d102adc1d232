"""Begin the command ``unwedged``, or name what it needs where the library was installed without it."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        from unwedged.check import command
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("unwedged"):
            raise
        sys.exit(
            f"unwedged: the command needs the extra 'check' (there is no module {error.name!r}). "
            "In a clone of the project: python -m pip install '.[check]'"
        )
    command.main()
