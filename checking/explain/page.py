"""One page of HTML that needs nothing else: a sequence diagram, and the states between its steps. Pure.

What traces say is never markup: it stands escaped in the page, or in its JSON, which the page's script shows as text.
The page tells the browser to run that script only, and to load nothing.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from importlib import resources
from itertools import pairwise
from string import Template
from typing import Final, NamedTuple

from rpds import HashTrieMap

from checking.tlc.values import State, Value, render_value
from unwedged.tools.sequence import Sequence as Drawing
from unwedged.tools.sequence import svg_of

NEW, GONE = "new", "gone"

_TEMPLATE: Final = (resources.files(__package__) / "page.html").read_text(encoding="utf-8")
_SCRIPT: Final = _TEMPLATE.partition("<script>")[2].partition("</script>")[0]


class Row(NamedTuple):
    """A value in a state, and how it differs from the state before."""

    variable: str
    path: str
    value: str
    difference: str = ""
    """``NEW``, ``GONE`` or ``was`` and what it was; empty if it is the same."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A step, and the state after it."""

    name: str
    state: State | None
    """``None`` if it is not known, or if there is none."""
    impossible: bool = False
    """Whether the step can't happen, so that no state comes after it."""


def page(title: str, said: str, drawing: Drawing, frames: Sequence[Frame]) -> str:
    """Return the page. The first frame is what is before the first step of the drawing."""
    shown = [
        {"name": frame.name, "impossible": frame.impossible, "rows": rows}
        for frame, rows in zip(frames, _all_rows(frames), strict=True)
    ]
    return Template(_TEMPLATE).substitute(
        hash=b64encode(sha256(_SCRIPT.encode()).digest()).decode(),
        title=escape(title),
        said=escape(said),
        drawing=svg_of(drawing),
        frames=json.dumps(shown).replace("<", "\\u003c"),
    )


def _all_rows(frames: Sequence[Frame]) -> Iterator[tuple[Row, ...] | None]:
    first, *_ = frames
    yield None if first.state is None else tuple(Row(*key, value) for key, value in _values(first.state))
    for before, after in pairwise(frames):
        yield None if after.state is None else differing(before.state, after.state)


def differing(before: State | None, after: State) -> tuple[Row, ...]:
    """Return what a state consists of, and what is gone from the one before, with the differences."""
    now = dict(_values(after))
    if before is None:
        return tuple(Row(*key, value) for key, value in now.items())
    was = dict(_values(before))
    return tuple(
        Row(*key, *_compared(was.get(key), now.get(key)))
        for key in sorted(was.keys() | now.keys(), key=lambda key: (_order(key[0]), key))
    )


def _compared(was: str | None, now: str | None) -> tuple[str, str]:
    if now is None:
        return was or "", GONE
    if was is None:
        return now, NEW
    return now, "" if was == now else f"was {was}"


_SHARED: Final = ("lease", "store", "floor", "commits", "history", "guard", "cache")


def _order(variable: str) -> int:
    """Put first what processes share."""
    return _SHARED.index(variable) if variable in _SHARED else len(_SHARED)


def _values(state: State) -> Iterator[tuple[tuple[str, str], str]]:
    """Return each value of a state by its variable, and by its path in it."""
    for variable in sorted(state, key=lambda name: (_order(name), name)):
        for path, value in _leaves("", state[variable]):
            yield (variable, path), value


def _leaves(path: str, value: Value) -> Iterator[tuple[str, str]]:
    match value:
        case HashTrieMap():
            below: Mapping[Value, Value] = value
        case tuple() if any(isinstance(element, HashTrieMap) for element in value):
            below = dict(enumerate(value, 1))
        case ():
            return
        case _:
            yield path, value if isinstance(value, str) else render_value(value)
            return
    for argument in sorted(below, key=render_value):
        name = argument if isinstance(argument, str) else render_value(argument)
        yield from _leaves(f"{path} {name}".lstrip(), below[argument])
