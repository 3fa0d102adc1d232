"""Find the mutants that mutmut makes of a file: which lines of which function each of them changes.

mutmut writes all mutants into one module, each as a function of its own, and numbers them. The numbers change with the
file. So each mutant is compared with the original here, and is identified by its function and its text.
"""

from __future__ import annotations

import ast
import builtins
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mutmut.mutation.file_mutation import MutatedFile, mutate_file_contents

_SEPARATOR = "ǁ"
"""The separator that mutmut puts between the name of a class and the name of its method."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one function."""

    name: str
    """mutmut's name of the mutant: the module, the function and a number."""
    file: str
    function: str
    lines: range
    """The lines of the file that it changes."""
    before: str
    after: str
    changes_words: bool
    """Whether it changes only the text of an exception or of a log line, or a type that is never evaluated."""

    @property
    def place(self) -> tuple[str, str, str, str]:
        """The file, the function, the original text and the mutated text, by which the mutant is listed."""
        return self.file, self.function, self.before, self.after

    def __str__(self) -> str:
        return f"{self.file}:{self.lines.start} {self.function}\n    - {self.before}\n    + {self.after}"


@dataclass(frozen=True, slots=True)
class _Function:
    """The lines of a function, with the comments before it."""

    lines: Sequence[str]

    @property
    def definition(self) -> int:
        """The number of lines before ``def``."""
        return next(n for n, line in enumerate(self.lines) if line.lstrip().startswith(("def ", "async def ")))

    def meaning(self, exceptions: frozenset[str]) -> str:
        """Return its code without the parts that only a person reads."""
        indent = len(self.lines[self.definition]) - len(self.lines[self.definition].lstrip())
        [tree] = ast.parse("\n".join(line[indent:] for line in self.lines[self.definition :])).body
        assert isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef)
        return ast.dump(_WithoutWords(exceptions).visit(tree))


class _WithoutWords(ast.NodeTransformer):
    """Removes what has no effect on the program: texts of exceptions and of log lines, and types in casts."""

    def __init__(self, exceptions: frozenset[str]) -> None:
        self._exceptions = exceptions

    def visit_Call(self, node: ast.Call) -> ast.AST:
        match node.func:
            case ast.Attribute(ast.Name("logger")):
                return ast.Constant(None)
            case ast.Name("cast") if len(node.args) > 1:
                return self.generic_visit(node.args[1])
            case ast.Name(name) if name in self._exceptions or name == "whole_of":  # which raises one
                node.args = [argument for argument in node.args if not _is_text(argument)]
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc.args = [argument for argument in node.exc.args if not _is_text(argument)]
        return self.generic_visit(node)


def _is_text(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_text(node.left) or _is_text(node.right)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | None))


def mutate(package: Path, file: str) -> tuple[str, list[Mutant]]:
    """Return a module that has all mutants of a file, and the mutants. The file is imported from ``package``."""
    source = (package / file).read_text(encoding="utf-8")
    made = mutate_file_contents(file, source)
    return made.code, list(_mutants_of(file, source, made))


def _mutants_of(file: str, source: str, made: MutatedFile) -> Iterator[Mutant]:
    text = made.code.splitlines()
    module = ".".join(Path(file).with_suffix("").parts)
    places, exceptions = dict(_places(source)), _exceptions(source)
    originals: dict[str, tuple[_Function, str]] = {}

    def function_called(name: str, real: str) -> _Function:
        span = made.line_span_by_function_name[name]
        return _Function([line.replace(name, real) for line in text[span.start - 1 : span.end]])

    for name in made.mutant_names:
        mangled, _, _ = name.rpartition("__mutmut_")
        function = mangled.removeprefix("x_").removeprefix(f"x{_SEPARATOR}").replace(_SEPARATOR, ".")
        real = function.rpartition(".")[2]
        if mangled not in originals:
            original = function_called(f"{mangled}__mutmut_orig", real)
            originals[mangled] = original, original.meaning(exceptions)
        original, meaning = originals[mangled]
        mutant = function_called(name, real)
        lines, before, after = _difference(original, mutant)
        begin = places[function] - original.definition
        place = range(begin + lines.start, begin + lines.stop)
        if after.lower() == before.lower():  # only capitals differ; mutmut changes the same text in other ways too
            continue
        yield Mutant(f"{module}.{name}", file, function, place, before, after, mutant.meaning(exceptions) == meaning)


def _exceptions(source: str) -> frozenset[str]:
    """Return the names of all exceptions that a module creates: built-in ones, and those of a module of errors."""
    imported = (node for node in ast.parse(source).body if isinstance(node, ast.ImportFrom))
    of_modules = {name.name for node in imported if str(node.module).endswith(".errors") for name in node.names}
    return frozenset(of_modules | {name for name in dir(builtins) if name.endswith(("Error", "Exception"))})


def _places(source: str) -> Iterator[tuple[str, int]]:
    """Yield the name of each function or method, and the line of its ``def``."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{node.name}.{inner.name}", inner.lineno


def _difference(original: _Function, mutant: _Function) -> tuple[range, str, str]:
    """Return which lines of the original differ, and their original and mutated text without indentation."""
    codes = difflib.SequenceMatcher(None, original.lines, mutant.lines, autojunk=False).get_opcodes()
    changes = [code for code in codes if code[0] != "equal"]
    (_, first, _, first_after, _), (_, _, last, _, last_after) = changes[0], changes[-1]
    before, after = original.lines[first:last], mutant.lines[first_after:last_after]
    return range(first, last), " ".join(map(str.strip, before)), " ".join(map(str.strip, after))
