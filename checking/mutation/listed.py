"""Which files are mutated and by which tests; and the mutants that nobody could notice, each with the reason.

Both lists are in ``tests/mutants``. An entry of the second one names a mutant by its function and its text, so that it
survives changes elsewhere in the file. One that matches no mutant any more is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from checking.errors import CheckError

FOLDER: Final = Path("tests/mutants")


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Some files, and the tests that must notice what is changed in them."""

    name: str
    files: tuple[str, ...]
    tests: tuple[str, ...]
    without: tuple[str, ...] = ()
    """Tests of these that take too long, or that find the package elsewhere."""


class Equivalent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Mutants of one place, and why no test can notice them."""

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
    """Read what is mutated."""
    try:
        return msgspec.toml.decode((root / FOLDER / "parts.toml").read_bytes(), type=_Parts).part
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CheckError(f"{FOLDER / 'parts.toml'}: {error}") from None


def read_equivalents(root: Path) -> tuple[Equivalent, ...]:
    """Read which mutants are equivalent."""
    try:
        return msgspec.toml.decode((root / FOLDER / "equivalent.toml").read_bytes(), type=_Equivalents).equivalent
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CheckError(f"{FOLDER / 'equivalent.toml'}: {error}") from None


def places(equivalents: Iterable[Equivalent]) -> Iterator[tuple[str, str, str, str]]:
    """Yield the file, the function, the text before and the text after of each mutant that is listed."""
    for entry in equivalents:
        for after in entry.after:
            yield entry.file, entry.function, entry.before, after


def refuse_other_files(parts: Sequence[Part], names: Iterable[str], equivalents: Iterable[Equivalent]) -> None:
    """Raise ``CheckError`` where a name is in the path of no file of a part, or an entry is about no such file."""
    files = [file for part in parts for file in part.files]
    for name in names:
        if not any(name in file for file in files):
            raise CheckError(f"no file that is mutated has {name} in its path")
    for entry in equivalents:
        if entry.file not in files:
            raise CheckError(f"tests/mutants/equivalent.toml: {entry.file} is not mutated")


def unmatched(
    equivalents: Iterable[Equivalent], files: Sequence[str], made: set[tuple[str, str, str, str]]
) -> list[str]:
    """Say which entries about these files match no mutant."""
    return [
        f"tests/mutants/equivalent.toml: {function} of {file} has no mutant any more that is\n    + {after}"
        for file, function, before, after in places(equivalents)
        if file in files and (file, function, before, after) not in made
    ]
