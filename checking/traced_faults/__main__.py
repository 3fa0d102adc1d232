"""Writes the table of the faults anew."""

from __future__ import annotations

from pathlib import Path

from checking.models.manifest import find_manifest
from checking.tlc.toolbox import find_toolbox
from checking.traced_faults.table import write

if __name__ == "__main__":
    write(find_toolbox(), find_manifest(Path.cwd()).parents[2])
