"""The types that a user sees: what is right passes a strict type checker, and what is wrong does not."""

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from mypy import api

from unwedged import store

REPOSITORY: Final = Path(__file__).parents[2]
RIGHT: Final = Path(__file__).with_name("right.py")
WRONG: Final = Path(__file__).with_name("wrong.py")
MARK: Final = re.compile(r"  # type: ignore\[([\w, -]+)\]$")


@pytest.mark.timeout(300)
def test_what_is_right_passes_and_what_is_wrong_does_not(tmp_path: Path) -> None:
    """In one run, since most of it is spent on what both import. The marks are taken out of what is wrong."""
    lines = WRONG.read_text().splitlines()
    unmarked = tmp_path / "wrong.py"
    unmarked.write_text("\n".join(MARK.sub("", line) for line in lines) + "\n")
    marks = {number: mark[1] for number, line in enumerate(lines, 1) if (mark := MARK.search(line))}
    expected = {(number, code) for number, codes in marks.items() for code in codes.split(", ")}
    assert len(expected) > 20
    configuration = str(REPOSITORY / "pyproject.toml")
    said, complaints, _ = api.run(["--config-file", configuration, "--no-error-summary", str(RIGHT), str(unmarked)])
    assert complaints == ""
    found = {(int(line), code) for line, code in re.findall(r"wrong\.py:(\d+): error: .*\[([\w-]+)\]$", said, re.M)}
    assert found == expected, said
    assert "right.py" not in said, said


def signatures() -> Iterator[tuple[str, str]]:
    """Yield each annotation of what is public, as it is written, and where it is."""
    for name in store.__all__:
        thing = getattr(store, name)
        if inspect.isfunction(thing):
            yield from annotated(name, thing)
        if not inspect.isclass(thing) or issubclass(thing, BaseException):
            continue
        if dataclasses.is_dataclass(thing):
            for field in dataclasses.fields(thing):
                yield f"{name}.{field.name}", str(field.type)
        for member, function in vars(thing).items():
            if not member.startswith("_"):
                actual = function.fget if isinstance(function, property) else getattr(function, "__func__", function)
                actual = inspect.unwrap(actual) if callable(actual) else None
                if inspect.isfunction(actual):
                    yield from annotated(f"{name}.{member}", actual)


def annotated(where: str, function: object) -> Iterator[tuple[str, str]]:
    for parameter, annotation in inspect.get_annotations(function).items():  # type: ignore[arg-type]
        yield f"{where}({parameter})", str(annotation)


OF_PYTHON: Final = {
    "AbstractAsyncContextManager", "AsyncIterator", "Awaitable", "Callable", "Mapping", "None", "Path", "bool", "bytes",
    "float", "int", "str", "tuple",
}  # fmt: skip
VARIABLES: Final = {"Arguments", "Key", "Plain", "Result", "Value"}


@pytest.mark.parametrize(("where", "annotation"), sorted(set(signatures())))
def test_whatever_a_signature_names_can_be_imported(where: str, annotation: str) -> None:
    names = {node.id for node in ast.walk(ast.parse(annotation)) if isinstance(node, ast.Name)}
    assert names <= {*store.__all__, *OF_PYTHON, *VARIABLES}, where


@pytest.mark.parametrize(
    ("where", "annotation"),
    [
        (where, annotation)
        for where, annotation in sorted(set(signatures()))
        if "(" in where and "(return)" not in where
    ],
)
def test_plain_integers_are_welcome_where_numbers_are_given(where: str, annotation: str) -> None:
    """A clock of one's own is given ours: it may call them plain integers all the same."""
    numbers = {"Epoch", "InstanceId", "Milliseconds", "Version"}
    if not where.startswith(("Clock.", "Randomness.")):
        assert numbers.isdisjoint(re.findall(r"\w+", annotation))
