"""Read the two lists of ``tests/mutants``: which files are mutated and tested how, and which mutants are equivalent.

An entry of the second list names a mutant by its function and its text, not by its line. So it remains valid if other
parts of the file change. An entry that matches no mutant is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from checking.errors import CheckError

FOLDER: Final = Path("tests/mutants")


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Some files, and the tests that must fail for each mutant of them."""

    name: str
    files: tuple[str, ...]
    tests: tuple[str, ...]
    without: tuple[str, ...] = ()
    """Tests that are left out, because they take too long or import the package from elsewhere."""


class Equivalent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Mutants of one piece of code, and the reason why no test can notice them."""

    file: str
    function: str
    before: str
    after: tuple[str, ...]
    reason: str


class _Parts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    part: tuple[Part, ...]


class _Equivalents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    equivalent: tuple[Equivalent, ...] = ()


def read_parts(root: Path) -> tuple[Part, ...]:
    """Read ``parts.toml``. Raises ``CheckError``."""
    try:
        return msgspec.toml.decode((root / FOLDER / "parts.toml").read_bytes(), type=_Parts).part
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CheckError(f"{FOLDER / 'parts.toml'}: {error}") from None


def read_equivalents(root: Path) -> tuple[Equivalent, ...]:
    """Read ``equivalent.toml``. Raises ``CheckError``."""
    try:
        return msgspec.toml.decode((root / FOLDER / "equivalent.toml").read_bytes(), type=_Equivalents).equivalent
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CheckError(f"{FOLDER / 'equivalent.toml'}: {error}") from None


def places(equivalents: Iterable[Equivalent]) -> Iterator[tuple[str, str, str, str]]:
    """Yield the file, the function, the original text and the mutated text of each listed mutant."""
    for entry in equivalents:
        for after in entry.after:
            yield entry.file, entry.function, entry.before, after


def refuse_other_files(parts: Sequence[Part], names: Iterable[str], equivalents: Iterable[Equivalent]) -> None:
    """Raise ``CheckError`` if a name is in no path of a mutated file, or an entry names a file that is not mutated."""
    files = [file for part in parts for file in part.files]
    for name in names:
        if not any(name in file for file in files):
            raise CheckError(f"no mutated file has {name} in its path")
    for entry in equivalents:
        if entry.file not in files:
            raise CheckError(f"tests/mutants/equivalent.toml: {entry.file} is not mutated")


def unmatched(
    equivalents: Iterable[Equivalent], files: Sequence[str], made: set[tuple[str, str, str, str]]
) -> list[str]:
    """Return a line for each entry about these files that matches no mutant."""
    return [
        f"tests/mutants/equivalent.toml: {function} of {file} has no mutant any more that is\n    + {after}"
        for file, function, before, after in places(equivalents)
        if file in files and (file, function, before, after) not in made
    ]
