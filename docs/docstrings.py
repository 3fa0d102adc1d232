"""Contracts in docstrings (PEP 316), as a reader of the site sees them: a list, each with its name first."""

from __future__ import annotations

import re

CONTRACT = re.compile(r"(?P<indent>\s*)(?P<kind>pre|post): (?P<condition>.+?)(?:  # (?P<name>.+))?")


def rewritten(lines: list[str]) -> list[str]:
    """Return the lines of a docstring, with a list item for each contract."""
    written: list[str] = []
    for line in lines:
        found = CONTRACT.fullmatch(line)
        if found is None:
            written.append(line)
            continue
        if written and written[-1].strip() and not written[-1].lstrip().startswith("* "):
            written.append("")
        name = f"{found['name']}: " if found["name"] else ""
        written.append(f"{found['indent']}* *{found['kind']}*: {name}``{found['condition']}``")
    return written
