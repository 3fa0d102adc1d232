"""Find the clauses of the specification, and the code, tests, models, proofs, checks and vectors that cite each one.

A clause is a paragraph or a list item that begins with its number in bold, such as ``**P4.1**``. It ends at the next
clause, heading or note. A clause is normative if it contains MUST, SHOULD or MAY. A citation is the bare number.

Three rules must hold. Each citation names a clause that exists. Each normative clause is cited by a test, a model, a
proof, a check or a vector, or gives a reason: ``(not checked: reason)``. MUST, SHOULD and MAY appear only in clauses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

DOCUMENTS: Final = {"P": "protocol.md", "M": "machine.md", "S": "state.md", "T": "trace.md"}
"""The files of ``spec/`` with clauses, by the first letter of their clauses. A file without clauses is not checked."""

CODE: Final = "code"
SPECIFICATION: Final = "specification"
PLACES: Final = {
    "reference": CODE,
    "tests": "tests",
    "tla": "models",
    "proofs": "proofs",
    "checking": "checks",
    "spec/conformance": "vectors",
}
"""The folders that may cite clauses, and the kind of evidence that each of them is."""

CHECKS: Final = frozenset(PLACES.values()) - {CODE}
"""The kinds of evidence that a clause is kept. Code cites clauses too, but is no evidence."""

_SUFFIXES: Final = frozenset({".cfg", ".go", ".json", ".md", ".py", ".rs", ".tla", ".toml"})
_NUMBER: Final = r"[A-Z]\d+\.\d+"
_BEGIN: Final = re.compile(rf"^ *(?:[-*] |\d+\. )?\*\*({_NUMBER})\*\*")
_END: Final = re.compile(r"^ *(?:#|\*(?:Note|Reason|Example)\b|What goes wrong:|Checked by:)")
_FENCE: Final = re.compile(r"^ *```")
_CITED: Final = re.compile(rf"(?<![\w.*])({_NUMBER})(?!\w|\.\d|\*)")
_DEMAND: Final = re.compile(r"(?<!\*)\b(MUST|SHOULD|MAY)\b(?!\*)")
_REASON: Final = re.compile(r"\(not checked: ([^)]+)\)")


@dataclass(frozen=True)
class Clause:
    """One numbered clause of a document."""

    number: str
    document: str
    line: int
    text: str

    @cached_property
    def level(self) -> str:
        """The strongest of MUST, SHOULD and MAY in the clause; empty if it is not normative."""
        found = set(_DEMAND.findall(self.text))
        return next((word for word in ("MUST", "SHOULD", "MAY") if word in found), "")

    @cached_property
    def reason(self) -> str | None:
        """The reason that the clause gives why nothing checks it, if it gives one."""
        found = _REASON.search(" ".join(self.text.split()))
        return found[1] if found else None

    @property
    def section(self) -> str:
        """The part of the number before the point."""
        return self.number.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Citation:
    """One citation of a clause, and its position."""

    number: str
    place: str
    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class Document:
    """The clauses of a document, and the numbers of the lines that demand something outside of a clause."""

    clauses: tuple[Clause, ...]
    outside: tuple[int, ...]


def read_document(path: Path) -> Document:
    """Find the clauses of a document."""
    found: list[tuple[str, int, list[str]]] = []
    outside: list[int] = []
    current: list[str] | None = None
    in_block = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if _FENCE.match(line):
            in_block = not in_block
        if not in_block and (begin := _BEGIN.match(line)):
            current = []
            found.append((begin[1], number, current))
        elif not in_block and _END.match(line):
            current = None
        if current is not None:
            current.append(line)
        elif _DEMAND.search(line):
            outside.append(number)
    clauses = tuple(Clause(clause, path.name, line, "\n".join(text)) for clause, line, text in found)
    return Document(clauses, tuple(outside) if clauses else ())


@dataclass(frozen=True)
class Specification:
    """The clauses of all documents, and all citations."""

    documents: dict[str, Document]
    citations: tuple[Citation, ...]
    strays: tuple[Citation, ...]
    """Paragraphs that begin like a clause in a file that the clause does not belong into."""

    @classmethod
    def read(cls, root: Path) -> Specification:
        """Read the documents and the sources of a clone."""
        paths = [root / "spec" / name for name in DOCUMENTS.values()]
        documents = {path.name: read_document(path) for path in paths if path.is_file()}
        return cls(documents, tuple(_citations(root)), tuple(_strays(root)))

    @cached_property
    def clauses(self) -> dict[str, Clause]:
        """All clauses by number, in the order of the documents."""
        return {clause.number: clause for document in self.documents.values() for clause in document.clauses}

    def citing(self, number: str) -> tuple[Citation, ...]:
        """Return the citations of a clause outside of the specification itself."""
        return self._by_number.get(number, ())

    @cached_property
    def _by_number(self) -> dict[str, tuple[Citation, ...]]:
        found: dict[str, list[Citation]] = {}
        for citation in self.citations:
            if citation.place != SPECIFICATION:
                found.setdefault(citation.number, []).append(citation)
        return {number: tuple(citations) for number, citations in found.items()}

    def problems(self) -> list[str]:
        """Return a line for each violation of the three rules, and for each clause whose number is out of order."""
        strays = [
            f"{stray}: {stray.number} in bold begins a clause, which does not belong into this file"
            for stray in self.strays
        ]
        return [*strays, *self._misnumbered(), *self._dangling(), *self._unchecked(), *self._outside()]

    def _misnumbered(self) -> Iterator[str]:
        for name, document in self.documents.items():
            last: dict[str, int] = {}
            for clause in document.clauses:
                number = int(clause.number.partition(".")[2])
                if number != last.get(clause.section, 0) + 1:
                    yield f"spec/{name}:{clause.line}: {clause.number} is out of order"
                last[clause.section] = number

    def _dangling(self) -> Iterator[str]:
        letters = {number[0] for number in self.clauses}
        for citation in self.citations:
            if citation.number[0] in letters and citation.number not in self.clauses:
                yield f"{citation}: there is no clause {citation.number}"

    def _unchecked(self) -> Iterator[str]:
        for clause in self.clauses.values():
            where = f"spec/{clause.document}:{clause.line}: {clause.number}"
            checked = any(citation.place in CHECKS for citation in self.citing(clause.number))
            if clause.level and not checked and clause.reason is None:
                yield f"{where} is normative, but no test, model, proof, check or vector cites it"
            if checked and clause.reason is not None:
                yield f"{where} says that nothing checks it, but a test, model, proof, check or vector cites it"

    def _outside(self) -> Iterator[str]:
        for name, document in self.documents.items():
            for line in document.outside:
                yield f"spec/{name}:{line}: MUST, SHOULD or MAY outside of a clause"


def _citations(root: Path) -> Iterator[Citation]:
    for folder, place in PLACES.items():
        yield from _citations_in(sorted((root / folder).rglob("*")), place, root)
    yield from _citations_in(_prose(root), SPECIFICATION, root)


def _prose(root: Path) -> list[Path]:
    """Return the pages of the specification, without those of ``conformance``, which are part of the vectors."""
    return [path for path in sorted((root / "spec").rglob("*.md")) if path.parent.name != "conformance"]


def _strays(root: Path) -> Iterator[Citation]:
    for path in _prose(root):
        name = path.relative_to(root / "spec").as_posix()
        for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if (begin := _BEGIN.match(text)) and DOCUMENTS.get(begin[1][0]) != name:
                yield Citation(begin[1], SPECIFICATION, f"spec/{name}", line)


def _citations_in(paths: Sequence[Path], place: str, root: Path) -> Iterator[Citation]:
    for path in paths:
        if path.suffix not in _SUFFIXES or not path.is_file():
            continue
        for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for number in _CITED.findall(text):
                yield Citation(number, place, path.relative_to(root).as_posix(), line)
