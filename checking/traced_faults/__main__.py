"""Write the table of traced faults, or explain the traces of the faults that are named on the command line."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from checking.explain.explanation import explain
from checking.models.manifest import find_manifest
from checking.tlc.toolbox import Toolbox, find_toolbox
from checking.traced_faults.faults import every_fault
from checking.traced_faults.table import named_first, write


async def _try(toolbox: Toolbox, root: Path, names: set[str]) -> bool:
    """Print the explanations of some faults. Return whether each is named with the fault, and no bug is without it."""
    well = True
    for fault in every_fault(root):
        if fault.name not in names:
            continue
        for faulty in (True, False):
            with tempfile.TemporaryDirectory(prefix="unwedged-fault-") as folder:
                found = await explain(toolbox, fault.scenario(Path(folder), faulty=faulty), None, root / "tla")
                print(f"{'with' if faulty else 'without'} {fault.name}:\n{found.text()}")  # noqa: T201
            well &= fault.name in named_first(found) if faulty else found.accepted and not found.bugs
    return well


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m checking.traced_faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="explain the traces of these faults; write no file")
    names = set(parser.parse_args().names)
    toolbox, root = find_toolbox(), find_manifest(Path.cwd()).parents[2]
    if not names:
        write(toolbox, root)
        return 0
    return not asyncio.run(_try(toolbox, root, names))


if __name__ == "__main__":
    sys.exit(main())
