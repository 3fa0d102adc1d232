"""That the lists of what is mutated and of what is equivalent fit the code. `make mutants` compares entries whole."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

import pytest

from checking.mutation.listed import Equivalent, Part, read_equivalents, read_parts

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "reference"


def code_of(file: str, function: str) -> str:
    """The lines of a function or method, one space between them."""
    source = (PACKAGE / file).read_text(encoding="utf-8")
    body: list[ast.stmt] = ast.parse(source).body
    *classes, name = function.split(".")
    for owner in classes:
        [body] = [node.body for node in body if isinstance(node, ast.ClassDef) and node.name == owner]
    [found] = [node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name]
    return " ".join(line.strip() for line in source.splitlines()[found.lineno - 1 : found.end_lineno])


@pytest.mark.parametrize("part", read_parts(ROOT), ids=lambda part: part.name)
def test_what_is_mutated_is_there_and_so_are_its_tests(part: Part) -> None:
    assert all((PACKAGE / file).is_file() for file in part.files)
    assert all((ROOT / test.partition("::")[0]).exists() for test in (*part.tests, *part.without))


@pytest.mark.parametrize("entry", read_equivalents(ROOT), ids=lambda entry: f"{entry.function}: {entry.before[:40]}")
def test_what_is_equivalent_is_a_change_of_the_code(entry: Equivalent) -> None:
    assert entry.reason
    assert entry.before in code_of(entry.file, entry.function)
    assert entry.before not in entry.after
