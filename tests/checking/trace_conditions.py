"""The conditions by which the trace modules reject a log, and the logs that are accepted without each of them.

A condition is a part of an action, or of the definition of the reasons against an action. Without it, more steps would
be possible: it is a conjunct, or a disjunct of something that must not hold. SANY reports the positions. One run of TLC
removes each of them in turn: a variable says which condition does not count, and another says which log is followed.

``checking.models.conditions`` is about the actions of the models. There a condition says nothing of the next state, is
never negated, and is removed in a run of its own, because TLC must check properties without it.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree.ElementTree import Element, fromstring

from checking.tlc.toolbox import Toolbox

SPECIFICATIONS: Final = Path(__file__).parents[2] / "tla"
ALL: Final = 0
"""The value of the variable that means that all conditions count."""

_ANYWAY: Final = frozenset({"$ConjList", "$DisjList", "\\land", "\\lor", "$IfThenElse", "$Case", "$BoundedExists"})


@dataclass(frozen=True, order=True, slots=True)
class Condition:
    """A condition, and its position in its module: lines and columns, from 1, both ends inclusive."""

    module: str
    start: tuple[int, int]
    end: tuple[int, int]
    wanted: bool
    """Whether a step requires that this holds, or that it does not hold."""
    definition: str
    text: str

    def __str__(self) -> str:
        return f"{self.module}!{self.definition}: {self.text}"


class _Tree:
    """A module and the modules that it extends, as SANY parses them."""

    def __init__(self, toolbox: Toolbox, module: str, looked_at: Collection[str]) -> None:
        command = [str(toolbox.java), "-cp", str(toolbox.jar), "tla2sany.xml.XMLExporter", "-o"]
        path = SPECIFICATIONS / f"{module}.tla"
        written = subprocess.run([*command, "-I", str(SPECIFICATIONS), str(path)], capture_output=True, check=True)  # noqa: S603
        text = written.stdout.decode()
        root = fromstring(text[text.index("<modules>") :])  # noqa: S314 (this project's tool)
        self._looked_at = looked_at
        self._texts = {name: (SPECIFICATIONS / f"{name}.tla").read_text().split("\n") for name in looked_at}
        self._symbols = {entry.findtext("UID"): entry[1] for entry in root.iter("entry")}
        self._seen: set[tuple[str | None, bool]] = set()

    def conditions(self, *definitions: str) -> list[Condition]:
        """Return the conditions of definitions and of the definitions that they use."""
        found: set[Condition] = set()
        for symbol in self._symbols.values():
            if symbol.tag == "UserDefinedOpKind" and symbol.findtext("uniquename") in definitions:
                found |= {*self._inside(_only(symbol.find("body")), str(symbol.findtext("uniquename")), wanted=True)}
        return sorted(found)

    def _inside(self, node: Element, of: str, *, wanted: bool) -> Iterator[Condition]:
        """Return the conditions within an expression. ``wanted`` says whether the expression must hold or must not."""
        if node.tag == "LetInNode":
            yield from self._inside(_only(node.find("body")), of, wanted=wanted)
        if node.tag != "OpApplNode":
            return
        name, operands = self._name(node), _operands(node)
        match name:
            case "$ConjList" | "\\land" | "$DisjList" | "\\lor":
                together = (name in {"$ConjList", "\\land"}) == wanted
                acted = False
                for operand in operands:
                    if together and not self._acts(operand, acted=acted):
                        yield from self._part(operand, of, wanted=wanted)
                    else:
                        yield from self._inside(operand, of, wanted=wanted)
                    acted = acted or self._is_action(operand)
            case "=>":
                yield from self._inside(operands[0], of, wanted=not wanted)
                yield from self._inside(operands[1], of, wanted=wanted)
            case "\\lnot":
                yield from self._inside(operands[0], of, wanted=not wanted)
            case "$IfThenElse":
                for arm, holds in ((operands[1], True), (operands[2], False)):
                    if self._is_empty(arm):  # an empty set: no reason against the step
                        yield from self._part(operands[0], of, wanted=holds)
                    yield from self._inside(arm, of, wanted=wanted)
            case "$Case" | "$Pair" | "$BoundedForall" | "$BoundedExists" | "\\union" | "\\cup":
                for operand in operands[1:] if name == "$Pair" else operands:
                    yield from self._inside(operand, of, wanted=wanted)
            case "Unless":
                yield from self._part(operands[0], of, wanted=True)
            case _:
                yield from self._inside_definition(node, wanted=wanted)

    def _inside_definition(self, node: Element, *, wanted: bool) -> Iterator[Condition]:
        uid = node.findtext("operator/*/UID")
        symbol = self._symbols[uid]
        body = symbol.find("body")
        if body is None or symbol.findtext("location/filename") not in self._looked_at:
            return
        yield from self._inside(_only(body), str(symbol.findtext("uniquename")), wanted=wanted)

    def _part(self, node: Element, of: str, *, wanted: bool) -> Iterator[Condition]:
        """Return the conditions within a condition; if there are none, the condition itself."""
        within = [*self._inside(node, of, wanted=wanted)]
        yield from within or [self._condition(node, of, wanted=wanted)]

    def _condition(self, node: Element, of: str, *, wanted: bool) -> Condition:
        module = str(node.findtext("location/filename"))
        start, end = (
            (int(str(node.findtext(f"location/line/{side}"))), int(str(node.findtext(f"location/column/{side}"))))
            for side in ("begin", "end")
        )
        lines = self._texts[module][start[0] - 1 : end[0]]
        lines[-1] = lines[-1][: end[1]]
        lines[0] = lines[0][start[1] - 1 :]
        text = " ".join(" ".join(line.partition("\\*")[0] for line in lines).split())
        return Condition(module, start, end, wanted, of, text)

    def _acts(self, node: Element, *, acted: bool) -> bool:
        """Return whether an expression changes the state. After an action, an equality only tests the new state."""
        if int(node.findtext("level") or 0) < 2 or node.tag != "OpApplNode":
            return node.tag == "LetInNode"
        name = self._name(node)
        if name in {"=", "\\in"}:
            return not acted and self._name(_operands(node)[0]) == "'"
        return name in _ANYWAY or name == "UNCHANGED" or self._is_action(node)

    def _is_action(self, node: Element) -> bool:
        """Return whether an expression is the name of an action."""
        return node.find("operator/UserDefinedOpKindRef") is not None and node.findtext("level") == "2"

    def _is_empty(self, node: Element) -> bool:
        return node.tag == "OpApplNode" and self._name(node) == "$SetEnumerate" and not _operands(node)

    def _name(self, node: Element) -> str:
        uid = node.findtext("operator/*/UID")
        return "" if node.tag != "OpApplNode" else str(self._symbols[uid].findtext("uniquename"))


def _only(parent: Element | None) -> Element:
    assert parent is not None
    return parent[0]


def _operands(node: Element) -> list[Element]:
    return [*(node.find("operands") or ())]


def find_conditions(toolbox: Toolbox, module: str, looked_at: Collection[str], *definitions: str) -> list[Condition]:
    """Return the conditions of a module's definitions that are in the modules ``looked_at``."""
    return _Tree(toolbox, module, looked_at).conditions(*definitions)


def instrumented(module: str, conditions: Sequence[Condition]) -> str:
    """Return a module's text in which the condition with the number in the variable ``without`` does not count."""
    lines = (SPECIFICATIONS / f"{module}.tla").read_text().split("\n")
    for number, condition in reversed([*enumerate(conditions, 1)]):
        if condition.module != module:
            continue
        (first, left), (last, right) = condition.start, condition.end
        # Text below other text must keep its column.
        lines[last - 1] = f"{lines[last - 1][:right]}))\n{' ' * right}{lines[last - 1][right:]}"
        beside = f"(without = {number} \\/ (" if condition.wanted else f"(without # {number} /\\ ("
        lines[first - 1] = f"{lines[first - 1][: left - 1]}{beside}\n{' ' * (left - 1)}{lines[first - 1][left - 1 :]}"
    text = re.sub(r"^EXTENDS ", "EXTENDS Without, ", "\n".join(lines), count=1, flags=re.MULTILINE)
    return text.replace("TheSteps == Log\n", "TheSteps == Log[which]\n")
