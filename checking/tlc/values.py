"""Parse the values and states that TLC prints into immutable Python values, and print them again as TLA+.

=====================================  ==================================
TLC prints                             Python value
=====================================  ==================================
``-3``, ``TRUE``, ``"text"``           ``int``, ``bool``, ``str``
``p1`` (a model value)                 ``ModelValue("p1")``
``{1, 2}``, ``1..2``                   ``frozenset``
``<<1, 2>>``                           ``tuple``
``[a |-> 1]``, ``(1 :> 2 @@ 3 :> 4)``  ``HashTrieMap``: both are functions
=====================================  ==================================

TLC prints a function over ``1..n`` as a sequence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from rpds import HashTrieMap

from checking.errors import UnreadableOutput


@dataclass(frozen=True, slots=True, order=True)
class ModelValue:
    """A value that equals only itself, such as the name of a process."""

    name: str

    def __repr__(self) -> str:
        return self.name


Value: TypeAlias = "int | str | ModelValue | frozenset[Value] | tuple[Value, ...] | HashTrieMap[Value, Value]"

State: TypeAlias = Mapping[str, Value]
"""The value of each variable."""

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>-?\d+(?!\w))
      | (?P<name>\w+)
      | "(?P<text>(?:[^"\\]|\\.)*)"
      | (?P<mark><<|>>|\|->|:>|@@|\.\.|[\[\]{}(),])
    )""",
    re.VERBOSE,
)
_CONJUNCT = re.compile(r"(?:^|\n)(?:/\\ )?(\w+) = ")
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "f": "\f"}

_END = ""

_LABEL = re.compile(r"([\w!]+)(?:\((.*)\))?", re.DOTALL)


class Label(NamedTuple):
    """TLC's label of a step: the action and, in newer versions of TLC, its parameters."""

    action: str
    parameters: tuple[Value, ...] = ()

    def __str__(self) -> str:
        return f"{self.action}({','.join(map(render_value, self.parameters))})" if self.parameters else self.action


@lru_cache(maxsize=1000)
def parse_label(text: str) -> Label:
    """Parse a label, such as ``Begin`` or ``Begin(o3,"view")``. Raises ``UnreadableOutput``."""
    match = _LABEL.fullmatch(text)
    if match is None:
        raise UnreadableOutput(f"TLC names a step in a way that can't be read: {text!r}")
    parameters = parse_value(f"<<{match[2] or ''}>>")
    assert isinstance(parameters, tuple)
    return Label(match[1], parameters)


def parse_state(text: str) -> HashTrieMap[str, Value]:
    r"""Parse a state: one ``/\ variable = value`` for each variable. Raises ``UnreadableOutput``."""
    pieces = _CONJUNCT.split(text)
    if len(pieces) < 3 or pieces[0].strip():
        raise UnreadableOutput(f"TLC printed a state that can't be read: {text!r}")
    return HashTrieMap(
        (name, parse_value(value.strip())) for name, value in zip(pieces[1::2], pieces[2::2], strict=True)
    )


# The states of a graph differ in one or two variables, so almost every value was parsed before.
@lru_cache(maxsize=200_000)
def parse_value(text: str) -> Value:
    """Parse one value as TLC prints it. Raises ``UnreadableOutput``."""
    return _ValueParser(text).parse()


class _ValueParser:
    """A recursive-descent parser of one value."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._kinds: list[str] = []
        self._words: list[str] = []
        self._at = 0
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None or match.lastgroup is None:
                raise self._unreadable(position)
            self._kinds.append(match.lastgroup)
            self._words.append(match[match.lastgroup])
            position = match.end()
        self._kinds.append(_END)
        self._words.append(_END)

    def parse(self) -> Value:
        value = self._value()
        if self._kinds[self._at] != _END:
            raise self._unreadable(self._at)
        return value

    def _unreadable(self, position: int) -> UnreadableOutput:
        return UnreadableOutput(f"TLC printed a value that can't be read (at {position}): {self._text!r}")

    def _next_is(self, mark: str) -> bool:
        return self._words[self._at] == mark and self._kinds[self._at] == "mark"

    def _take(self, mark: str) -> bool:
        if self._next_is(mark):
            self._at += 1
            return True
        return False

    def _demand(self, mark: str) -> None:
        if not self._take(mark):
            raise self._unreadable(self._at)

    def _value(self) -> Value:
        kind, word = self._kinds[self._at], self._words[self._at]
        self._at += 1
        if kind == "number":
            if self._take(".."):
                return self._interval(int(word))
            return int(word)
        if kind == "name":
            if word in ("TRUE", "FALSE"):
                return word == "TRUE"
            return ModelValue(word)
        if kind == "text":
            return _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), word)
        if kind == "mark":
            if word == "{":
                return frozenset(self._list("}"))
            if word == "<<":
                return tuple(self._list(">>"))
            if word == "[":
                return self._record()
            if word == "(":
                return self._function()
        raise self._unreadable(self._at - 1)

    def _interval(self, first: int) -> Value:
        if self._kinds[self._at] != "number":
            raise self._unreadable(self._at)
        last = int(self._words[self._at])
        self._at += 1
        return frozenset(range(first, last + 1))

    def _list(self, closing: str) -> list[Value]:
        values: list[Value] = []
        if self._take(closing):
            return values
        while True:
            values.append(self._value())
            if self._take(closing):
                return values
            self._demand(",")

    def _record(self) -> Value:
        fields: list[tuple[Value, Value]] = []
        while True:
            # TLC prints each function of texts so, even if the texts are no names, or only of digits.
            if self._kinds[self._at] not in ("name", "number"):
                raise self._unreadable(self._at)
            name = self._words[self._at]
            self._at += 1
            self._demand("|->")
            fields.append((name, self._value()))
            if self._take("]"):
                return HashTrieMap(fields)
            self._demand(",")

    def _function(self) -> Value:
        pairs: list[tuple[Value, Value]] = []
        while True:
            argument = self._value()
            if isinstance(argument, HashTrieMap) and not self._next_is(":>"):
                pairs.extend(argument.items())
            else:
                self._demand(":>")
                pairs.append((argument, self._value()))
            if self._take(")"):
                return HashTrieMap(pairs)
            self._demand("@@")


def render_value(value: Value) -> str:
    """Return a value in TLA+. Equal values give the same text."""
    match value:
        case bool():
            return "TRUE" if value else "FALSE"
        case int():
            return str(value)
        case str():
            return '"' + value.translate(_QUOTED) + '"'
        case ModelValue(name):
            return name
        case frozenset():
            return "{" + ", ".join(sorted(map(render_value, value))) + "}"
        case tuple():
            return "<<" + ", ".join(map(render_value, value)) + ">>"
        case _:
            return _render_function(value)


_QUOTED = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "\f": "\\f"})
_FIELD = re.compile(r"[^\W\d]\w*")
_LONGEST_CHAIN = 50


def _render_function(function: HashTrieMap[Value, Value]) -> str:
    if all(isinstance(argument, str) and _FIELD.fullmatch(argument) for argument in function):
        return "[" + ", ".join(sorted(f"{name} |-> {render_value(function[name])}" for name in function)) + "]"
    return f"({_combined(sorted(f'{render_value(each)} :> {render_value(function[each])}' for each in function))})"


def _combined(pairs: Sequence[str]) -> str:
    """Join pairs. TLC reads and evaluates a long chain recursively, which overflows its stack: so many are halved."""
    if len(pairs) <= _LONGEST_CHAIN:
        return " @@ ".join(pairs)
    middle = len(pairs) // 2
    return f"({_combined(pairs[:middle])}) @@ ({_combined(pairs[middle:])})"


def render_state(state: State) -> str:
    """Return a state in TLA+. Equal states give the same text."""
    return "\n".join(f"/\\ {name} = {render_value(state[name])}" for name in sorted(state))


def record(**fields: Value) -> Value:
    """Return a TLA+ record."""
    return HashTrieMap(fields)


def function(values: Mapping[Value, Value]) -> Value:
    """Return a TLA+ function whose arguments are not numbers. An empty one is a sequence, as TLC prints it."""
    return HashTrieMap(values) if values else ()
