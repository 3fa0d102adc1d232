"""Sequence diagrams of who does what in which order: as text, as lifelines for a terminal, and as SVG.

The SVG is legible on light and dark pages.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Final
from xml.sax.saxutils import escape


@dataclass(frozen=True, slots=True)
class Step:
    """One step: an actor acts on its own, or upon a target."""

    actor: str
    action: str
    target: str = ""
    """Empty: the actor acts on its own."""
    note: tuple[str, ...] = ()
    """What the step changes, a line each."""


@dataclass(frozen=True, slots=True)
class Sequence:
    """A diagram: its actors from left to right, its steps from top to bottom, and their outcome."""

    title: str
    actors: tuple[str, ...]
    steps: tuple[Step, ...]
    ending: str

    def __post_init__(self) -> None:
        """Raise for a step whose actor or target is not one of the actors."""
        for step in self.steps:
            for name in (step.actor, step.target or step.actor):
                if name not in self.actors:
                    raise ValueError(f"{name!r} is none of the actors {', '.join(self.actors)}")


def text_of(sequence: Sequence) -> str:
    """Return a paragraph for each step, and one for the ending."""
    ways = [f"{step.actor} -> {step.target}" if step.target else step.actor for step in sequence.steps]
    width = max(map(len, ways), default=0)
    lines = []
    for number, (way, step) in enumerate(zip(ways, sequence.steps, strict=True), 1):
        lines += textwrap.wrap(
            step.action,
            _TEXT_WIDTH,
            initial_indent=f"{number:3}  {way:{width}}  ",
            subsequent_indent=" " * (width + 7),
        )
        lines += [f"{'':{width + 7}}  {note}" for note in step.note]
    return "\n".join((*lines, f"{'':5}{sequence.ending}", ""))


def lifelines_of(sequence: Sequence, columns: int) -> str:
    """Return lifelines beside what happens: the steps of ``text_of``, for a terminal with so many columns."""
    ends = list(accumulate(len(name) + 3 for name in sequence.actors))
    places = {name: end - 2 - len(name) // 2 for name, end in zip(sequence.actors, ends, strict=True)}
    indent = " " * 5
    heads = "".join(f"{name:>{len(name) + 2}} " for name in sequence.actors)
    idle = _lifelines(places, ends[-1])
    lines = [(indent + heads).rstrip()]
    for number, step in enumerate(sequence.steps, 1):
        words = textwrap.wrap(step.action, max(_FEWEST_LETTERS, columns - ends[-1] - len(indent) - 2))
        lines.append(f"{number:3}  {_lifelines(places, ends[-1], step)}  {words[0]}")
        lines += [f"{indent}{idle}  {rest}" for rest in words[1:]]
        lines += [f"{indent}{idle}    {note}" for note in step.note]
    return "\n".join((*lines, indent + sequence.ending, ""))


def _lifelines(places: dict[str, int], width: int, step: Step | None = None) -> str:
    """Draw one line of the lifelines, and the arrow or the dot of a step."""
    row = [" "] * width
    for place in places.values():
        row[place] = "│"
    if step is not None:
        here, there = places[step.actor], places[step.target or step.actor]
        for place in range(min(here, there) + 1, max(here, there)):
            row[place] = "─"
        row[here] = "●"
        if there != here:
            row[there] = "▶" if there > here else "◀"
    return "".join(row)


_TEXT_WIDTH: Final = 120
_FEWEST_LETTERS: Final = 20
"""The fewest letters of a line beside lifelines, however narrow the terminal is."""

_COLUMN: Final = 250
_GUTTER: Final = 34
_HEAD: Final = 58
_LINE: Final = 16
_NOTE_LINE: Final = 13
_GAP: Final = 16
_ACTION_LETTERS: Final = 34
_NOTE_LETTERS: Final = 37
_NOTE_LINES: Final = 4

# The picture has a ground of its own, so that it can be read wherever it is shown.
_STYLE: Final = """\
text { font: 13px system-ui, sans-serif; fill: #1b1f24; text-anchor: middle }
.on { stroke: #ffffff; stroke-width: 5; paint-order: stroke; stroke-linejoin: round }
.ground { fill: #ffffff }
.life { stroke: #9aa4af; stroke-dasharray: 3 4 }
.box { fill: #eef2f7; stroke: #9aa4af }
.actor { font-weight: 600 }
.number { fill: #57606a; font-size: 11px }
.note { font: 11px ui-monospace, monospace; fill: #57606a }
.arrow { stroke: #0a56b0; stroke-width: 1.6 }
.tip { fill: #0a56b0 }
.ending { fill: #b3261e; font-weight: 600 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .on { stroke: #14181d }
  .ground { fill: #14181d }
  .life { stroke: #59636e }
  .box { fill: #232b35; stroke: #59636e }
  .number, .note { fill: #a2adb8 }
  .arrow { stroke: #6cb0ff }
  .tip { fill: #6cb0ff }
  .ending { fill: #ff8a80 }
}
"""


def svg_of(sequence: Sequence) -> str:
    """Return the picture, the same for equal sequences."""
    width = _GUTTER + _COLUMN * len(sequence.actors)
    middles = {name: _GUTTER + _COLUMN * (2 * i + 1) // 2 for i, name in enumerate(sequence.actors)}
    body: list[str] = []
    y = _HEAD
    for number, step in enumerate(sequence.steps, 1):
        body.append(_text(16, y + _LINE, str(number), "number"))
        y = _draw_step(step, middles, y, body)
    ending = textwrap.wrap(sequence.ending, width // 8)
    bottom = y + _GAP // 2
    height = bottom + _LINE * len(ending) + _GAP
    lives = [f'<line class="life" x1="{x}" y1="{_HEAD - 14}" x2="{x}" y2="{bottom}"/>' for x in middles.values()]
    heads = [part for name, x in middles.items() for part in (_box(x - 75, 14, 150, 30), _text(x, 34, name, "actor"))]
    ends = [_text(width // 2, bottom + _LINE * i, line, "ending") for i, line in enumerate(ending, 1)]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"',
        '     role="img">',
        f"<title>{escape(sequence.title)}</title>",
        f"<desc>{escape(text_of(sequence))}</desc>",
        f"<style>\n{_STYLE}</style>",
        f'<rect class="ground" width="{width}" height="{height}" rx="6"/>',
        *(*lives, *heads, *body, *ends),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _draw_step(step: Step, middles: dict[str, int], y: int, body: list[str]) -> int:
    """Draw a step from ``y`` on, and return where the next one begins."""
    here = middles[step.actor]
    if step.target:
        there = middles[step.target]
        span = abs(there - here) // _COLUMN
        action = textwrap.wrap(step.action, _ACTION_LETTERS * max(span, 1))
        notes = _shortened(step.note, _NOTE_LETTERS * max(span, 1))
        middle = (here + there) // 2
        body += [_text(middle, y + _LINE * i, line, "on") for i, line in enumerate(action, 1)]
        y += _LINE * len(action) + 7
        body += _arrow(here, there, y)
    else:
        action = textwrap.wrap(step.action, _ACTION_LETTERS - 4)
        notes = _shortened(step.note, _NOTE_LETTERS)
        middle = here
        height = _LINE * len(action) + 8
        body.append(_box(here - _COLUMN // 2 + 12, y, _COLUMN - 24, height))
        body += [_text(here, y + _LINE * i, line) for i, line in enumerate(action, 1)]
        y += height
    body += [_text(middle, y + 2 + _NOTE_LINE * i, line, "note on") for i, line in enumerate(notes, 1)]
    return y + _NOTE_LINE * len(notes) + _GAP


def _shortened(note: tuple[str, ...], letters: int) -> list[str]:
    lines = [part for line in note for part in textwrap.wrap(line, letters)]
    return lines if len(lines) <= _NOTE_LINES else [*lines[: _NOTE_LINES - 1], "…"]


def _arrow(here: int, there: int, y: int) -> Iterator[str]:
    back = 9 if there < here else -9
    yield f'<line class="arrow" x1="{here}" y1="{y}" x2="{there + back}" y2="{y}"/>'
    yield f'<path class="tip" d="M{there} {y}l{back} -5v10z"/>'


def _box(x: int, y: int, width: int, height: int) -> str:
    return f'<rect class="box" x="{x}" y="{y}" width="{width}" height="{height}" rx="5"/>'


def _text(x: int, y: int, text: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x}" y="{y}">{escape(text)}</text>'
