"""Each clause of the specification is cited, and each citation names a clause."""

from __future__ import annotations

from pathlib import Path

import pytest

from checking.citations import CHECKS, Specification

ROOT = Path(__file__).parents[2]

# The letter Q instead of P: the made-up numbers here must not count as citations.
PROTOCOL = """# Protocol
**SHOULD** is explained here.

**Q1.1** A process MUST write.
It MAY write twice.

- **Q1.2** A term.

*Note.* Nobody else may.

**Q2.1** It SHOULD wait. (not checked: nothing
can observe it)

What goes wrong: all
"""
TEST = "# Q1.1\ndef test() -> None: ...\n"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    write(tmp_path, "spec/protocol.md", PROTOCOL)
    write(tmp_path, "tests/test_it.py", TEST)
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace("Q", "P"), encoding="utf-8")


def problems(root: Path) -> list[str]:
    return [problem.replace("P", "Q") for problem in Specification.read(root).problems()]


def test_each_kind_of_check_cites_some_clause() -> None:
    assert {citation.place for citation in Specification.read(ROOT).citations} >= CHECKS


def test_what_is_a_clause(clone: Path) -> None:
    clauses = list(Specification.read(clone).clauses.values())
    assert [clause.number.replace("P", "Q") for clause in clauses] == ["Q1.1", "Q1.2", "Q2.1"]
    assert [clause.level for clause in clauses] == ["MUST", "", "SHOULD"]
    assert [clause.reason for clause in clauses] == [None, None, "nothing can observe it"]
    assert problems(clone) == []


def test_a_citation_of_no_clause(clone: Path) -> None:
    write(clone, "reference/a.py", "# Q1.1 and Q1.3.\n")
    assert problems(clone) == ["reference/a.py:1: there is no clause Q1.3"]


@pytest.mark.parametrize("page", ["spec/guarantees.md", "spec/track-record/a.md"])
def test_a_reference_within_the_specification_to_no_clause(clone: Path, page: str) -> None:
    write(clone, page, "See Q3.1.\n")
    assert problems(clone) == [f"{page}:1: there is no clause Q3.1"]


def test_a_document_without_clauses_is_not_looked_at(clone: Path) -> None:
    write(clone, "spec/machine.md", "It MUST be numbered some day.\n")
    write(clone, "tests/test_machine.py", "# M1.1\n")
    assert problems(clone) == []


@pytest.mark.parametrize("place", ["reference/a.py", "spec/guarantees.md", "README.md"])
def test_a_clause_that_nothing_checks(clone: Path, place: str) -> None:
    write(clone, "tests/test_it.py", "")
    write(clone, place, "# Q1.1\n")
    assert problems(clone) == [
        "spec/protocol.md:4: Q1.1 is normative, but no test, model, proof, check or vector cites it"
    ]


@pytest.mark.parametrize(
    "place", ["tla/A.tla", "tla/models/a.toml", "proofs/a.py", "checking/a.py", "spec/conformance/a.json"]
)
def test_what_checks_a_clause(clone: Path, place: str) -> None:
    write(clone, "tests/test_it.py", "")
    write(clone, place, '"Q1.1"\n')
    assert problems(clone) == []


def test_a_reason_that_is_no_longer_one(clone: Path) -> None:
    write(clone, "tests/test_it.py", TEST + "# Q2.1\n")
    assert problems(clone) == [
        "spec/protocol.md:11: Q2.1 says that nothing checks it, but a test, model, proof, check or vector cites it"
    ]


def test_what_is_demanded_outside_of_clauses(clone: Path) -> None:
    write(clone, "spec/protocol.md", PROTOCOL.replace("may.", "MAY."))
    assert problems(clone) == ["spec/protocol.md:9: MUST, SHOULD or MAY outside of a clause"]


def test_clauses_are_numbered_one_after_the_other(clone: Path) -> None:
    write(clone, "spec/protocol.md", PROTOCOL.replace("Q1.2", "Q1.3"))
    assert problems(clone) == ["spec/protocol.md:7: Q1.3 is out of order"]


@pytest.mark.parametrize("page", ["spec/machine.md", "spec/guarantees.md", "spec/track-record/a.md"])
def test_a_clause_begins_in_its_document_and_nowhere_else(clone: Path, page: str) -> None:
    """Otherwise a web page would have the clause's anchor twice."""
    write(clone, page, "- **Q1.1** prevents it.\n")
    assert problems(clone)[0] == f"{page}:1: Q1.1 in bold begins a clause, which does not belong into this file"
