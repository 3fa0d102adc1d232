"""Rewrite docstrings for the site.

Contracts (PEP 316) become a list, each with its name first. Python's standard docstring for the fields of a named tuple
is left out, and so is the inherited docstring of an exception's code.
"""

from __future__ import annotations

import re

CONTRACT = re.compile(r"(?P<indent>\s*)(?P<kind>pre|post): (?P<condition>.+?)(?:  # (?P<name>.+))?")


FIELD = re.compile(r"Alias for field number \d+")
CODE = re.compile(r"unwedged\.machine\.(?!MachineError\.)\w+\.code")


def rewritten(name: str, lines: list[str]) -> list[str]:
    """Return the lines of the docstring of ``name``, with a list item for each contract."""
    if CODE.fullmatch(name) or any(FIELD.fullmatch(line) for line in lines):
        return []
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
