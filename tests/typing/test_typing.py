"""The types that a user sees: what is right passes a strict type checker, and what is wrong does not."""

import ast
import builtins
import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Final, TypeVar, TypeVarTuple

import pytest
from mypy import api

from unwedged import store, trace

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


@dataclasses.dataclass(frozen=True, order=True)
class Annotation:
    """One of a signature, or what an alias stands for, as it is written in ``module``."""

    where: str
    text: str
    module: str

    def __str__(self) -> str:
        return self.where


USED_BY_STATEMENTS: Final = ("__aenter__", "__aexit__", "__aiter__", "__anext__", "__await__")


def annotations() -> Iterator[Annotation]:
    """Yield each annotation of what is public."""
    for name in store.__all__:
        thing = getattr(store, name)
        if isinstance(thing, str):
            yield Annotation(name, thing, home_of_alias(name))
        elif inspect.isfunction(thing):
            yield from annotated(name, thing)
        elif inspect.isclass(thing):
            if dataclasses.is_dataclass(thing):
                for field in dataclasses.fields(thing):
                    yield Annotation(f"{name}.{field.name}", str(field.type), thing.__module__)
            for member, found in inspect.getmembers_static(thing):
                if not member.startswith("_") or member in USED_BY_STATEMENTS:
                    actual = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
                    if callable(actual) and inspect.isfunction(function := inspect.unwrap(actual)):
                        yield from annotated(f"{name}.{member}", function)


def annotated(where: str, function: FunctionType) -> Iterator[Annotation]:
    if function.__module__.startswith("unwedged."):
        for parameter, annotation in inspect.get_annotations(function).items():
            yield Annotation(f"{where}({parameter})", str(annotation), function.__module__)


def home_of_alias(name: str) -> str:
    """Return the module that defines an alias, which is only a text."""
    (home,) = (
        module.__name__
        for module in list(sys.modules.values())
        if module.__name__.startswith("unwedged.")
        and re.search(rf"^{name}: TypeAlias =", inspect.getsource(module), re.MULTILINE)
    )
    return home


ANNOTATIONS: Final = sorted(set(annotations()))


def test_whatever_is_public_is_looked_at() -> None:
    """Each way of being public, with one example."""
    assert {
        *("CryptoStore.open(kinds)", "CryptoStore.open(return)"),
        *("CryptoStore.subscribe(since)", "CryptoStore.subscribe(return)", "CryptoStore.run(operation)"),
        *("Opening.__aenter__(return)", "Opening.__await__(return)", "Subscription.__anext__(return)"),
        *("View.version(return)", "Clock.now(return)", "RecordKind.encode_key(key)", "inspect(path)"),
        *("Statistics.epoch", "RecordKind.key", "Kinds", "Json"),
    } <= {annotation.where for annotation in ANNOTATIONS}


@pytest.mark.parametrize("annotation", ANNOTATIONS, ids=str)
def test_whatever_a_signature_names_can_be_imported(annotation: Annotation) -> None:
    for node in ast.walk(ast.parse(annotation.text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            pytest.fail("a name within a text is not looked at: take the quotes away")
        if isinstance(node, ast.Name):
            meant = getattr(sys.modules[annotation.module], node.id, None) or getattr(builtins, node.id)
            if not of_python(meant):
                where = trace if getattr(meant, "__module__", "").startswith("unwedged.trace.") else store
                assert getattr(where, node.id, None) is meant, f"{node.id} is not in {where.__name__}"
                assert node.id in where.__all__


def of_python(meant: object) -> bool:
    """Say whether something is no name of this project's: Python has it, or it is a variable for any type."""
    if isinstance(meant, TypeVar | TypeVarTuple):
        return True
    return not isinstance(meant, str) and not str(getattr(meant, "__module__", "")).startswith("unwedged")


@pytest.mark.parametrize(
    ("where", "annotation"),
    [
        (annotation.where, annotation.text)
        for annotation in ANNOTATIONS
        if "(" in annotation.where and "(return)" not in annotation.where
    ],
)
def test_plain_integers_are_welcome_where_numbers_are_given(where: str, annotation: str) -> None:
    """A clock of one's own is given ours: it may call them plain integers all the same."""
    numbers = {"Epoch", "InstanceId", "Milliseconds", "Version"}
    if not where.startswith(("Clock.", "Randomness.")):
        assert numbers.isdisjoint(re.findall(r"\w+", annotation))
