"""Find the lines of files that differ from a commit, by git."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from checking.errors import CheckError

UPSTREAM: Final = "origin/main"

_FILE: Final = re.compile(r"^\+\+\+ b/(.*)$")
_LINES: Final = re.compile(r"^@@ -\S+ \+(\d+)(?:,(\d+))? @@")


def base_of(root: Path) -> str | None:
    """Return the commit to compare with: where this branch left ``origin/main``, or the commit before, or ``None``.

    Raises ``CheckError`` if the clone is shallow and does not have the commit.
    """
    head = _git(root, "rev-parse", "HEAD")
    left = _git(root, "merge-base", "HEAD", UPSTREAM)
    if left is not None and left != head:
        return left
    before = _git(root, "rev-parse", "--verify", "HEAD~1")
    if before is None and _git(root, "rev-parse", "--is-shallow-repository") == "true":
        raise CheckError("this clone is shallow and has no commit to compare with: fetch more, or name one by --base")
    return before


def changed_lines(root: Path, base: str, folder: str) -> Mapping[str, frozenset[int]]:
    """Return by file the numbers of the lines in a folder that differ from a commit, committed or not.

    Raises ``CheckError`` if git can't compare them.
    """
    # The options override the user's own settings of git.
    form = ("--unified=0", "--no-color", "--no-ext-diff", "--relative", "--src-prefix=a/", "--dst-prefix=b/")
    told = _git(root, "diff", *form, base, "--", folder)
    if told is None:
        raise CheckError(f"git can't compare with {base}")
    found: dict[str, frozenset[int]] = {}
    file = ""
    for line in told.splitlines():
        if named := _FILE.match(line):
            file = named[1]
        elif numbers := _LINES.match(line):
            first, count = int(numbers[1]), int(numbers[2] or 1)
            found[file] = found.get(file, frozenset()) | frozenset(range(first, first + count))
    return found


def _git(root: Path, *arguments: str) -> str | None:
    try:
        ran = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)  # noqa: S603, S607 (our own)
    except FileNotFoundError:
        return None
    return ran.stdout.strip() if ran.returncode == 0 else None
