"""Sequence diagrams: the notation of Mermaid that the pages of the project use, drawn without a program in the browser.

Understood are ``participant``, messages (``->>``, ``-->>``, and ``-x``, ``--x`` for one that is refused) and ``Note
over``. Anything else is refused, so that no diagram loses a line unnoticed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from docs.pictures.svg import (
    LINE_HEIGHT,
    Colour,
    arrow_head,
    box,
    cross,
    drawing,
    label,
    line,
    width_of,
    wrapped,
)

COLUMNS = 27
"""Letters in a line of a label."""
BETWEEN = COLUMNS * 7.4 + 34
MARGIN = 12
HEAD = 34
GAP = 14
LOOP = 34

PARTICIPANT = re.compile(r"participant (\w+)(?: as (.+))?")
MESSAGE = re.compile(r"(\w+?)(--?)(>>|x)(\w+): ?(.+)")
NOTE = re.compile(r"Note over (\w+)(?:, ?(\w+))?: ?(.+)")


class NotUnderstood(Exception):
    """A line of a diagram is in a notation that is not drawn here."""


@dataclass(frozen=True, slots=True)
class Message:
    """Something that one participant sends another one, or itself."""

    sender: str
    receiver: str
    text: str
    answers: bool
    refused: bool


@dataclass(frozen=True, slots=True)
class Note:
    """Something that is so, or happens, at one participant or from one to another."""

    first: str
    last: str
    text: str


@dataclass(slots=True)
class Diagram:
    """The participants, from left to right, by the name that they have in the text; and what happens, in order."""

    participants: dict[str, str] = field(default_factory=dict)
    events: list[Message | Note] = field(default_factory=list)


def parse(text: str) -> Diagram:
    """Read a diagram."""
    first, *lines = [stripped for each in text.splitlines() if (stripped := each.strip()) and stripped[:2] != "%%"]
    if first != "sequenceDiagram":
        raise NotUnderstood(f"no sequence diagram: {first}")
    diagram = Diagram()
    for each in lines:
        if found := PARTICIPANT.fullmatch(each):
            diagram.participants[found[1]] = found[2] or found[1]
        elif found := MESSAGE.fullmatch(each):
            diagram.events.append(Message(found[1], found[4], found[5], found[2] == "--", found[3] == "x"))
        elif found := NOTE.fullmatch(each):
            diagram.events.append(Note(found[1], found[2] or found[1], found[3]))
        else:
            raise NotUnderstood(each)
    for event in diagram.events:
        ends = (event.sender, event.receiver) if isinstance(event, Message) else (event.first, event.last)
        for name in ends:
            diagram.participants.setdefault(name, name)
    return diagram


def draw(diagram: Diagram, title: str) -> str:
    """Draw a diagram."""
    names = list(diagram.participants)
    places = {name: MARGIN + BETWEEN / 2 + number * BETWEEN for number, name in enumerate(names)}
    width = 2 * MARGIN + BETWEEN * len(names)
    top = 2.0
    shapes: list[str] = []
    y = top + HEAD + GAP
    for event in diagram.events:
        drawn = _message(event, places, y) if isinstance(event, Message) else _note(event, places, y)
        for height, shape in drawn:
            shapes.append(shape)
            y = max(y, height)
        y += GAP
    lifelines = [line(x, top + HEAD, x, y, opacity=0.35) for x in places.values()]
    heads = []
    for name, x in places.items():
        shown = diagram.participants[name]
        half = max(46.0, width_of([shown]) / 2 + 14)
        heads += [
            box(x - half, top, 2 * half, HEAD),
            label(x, top + HEAD / 2 + 4.5, [shown], anchor="middle", weight="bold"),
        ]
    return drawing(width, y + top, title, [*lifelines, *heads, *shapes])


def _message(message: Message, places: dict[str, float], y: float) -> Iterator[tuple[float, str]]:
    """Yield the shapes of a message, each with how far down it reaches."""
    start, end = places[message.sender], places[message.receiver]
    colour = Colour.REFUSED if message.refused else Colour.TEXT
    columns = COLUMNS - 9 if start == end else max(COLUMNS, int(COLUMNS * abs(end - start) / BETWEEN) - 2)
    lines = wrapped(message.text, columns)
    if start == end:
        at = y + LINE_HEIGHT - 4
        yield at + (len(lines) - 1) * LINE_HEIGHT, _backed(start + LOOP + 8, at, lines, "start", colour)
        low = y + max(LINE_HEIGHT * len(lines), 22)
        for one in (
            line(start, y + 4, start + LOOP, y + 4),
            line(start + LOOP, y + 4, start + LOOP, low),
            line(start, low, start + LOOP, low),
            arrow_head(start, low, -1, 0),
        ):
            yield low, one
        return
    at = y + LINE_HEIGHT - 4
    yield at, _backed((start + end) / 2, at, lines, "middle", colour)
    low = at + (len(lines) - 1) * LINE_HEIGHT + 9
    way = 1 if end > start else -1
    stop = end - 16 * way if message.refused else end
    yield low, line(start, low, stop, low, dashed=message.answers, colour=colour)
    yield low + 6, cross(stop, low) if message.refused else arrow_head(stop, low, way, 0, colour)


def _note(note: Note, places: dict[str, float], y: float) -> Iterator[tuple[float, str]]:
    """Yield the shapes of a note."""
    left, right = sorted((places[note.first], places[note.last]))
    lines = wrapped(note.text, max(COLUMNS, int((right - left) / 7.4)))
    half = max((right - left) / 2 + 40, width_of(lines) / 2 + 10)
    height = LINE_HEIGHT * len(lines) + 10
    middle = (left + right) / 2
    yield y + height, box(middle - half, y, 2 * half, height)
    yield y + height, label(middle, y + LINE_HEIGHT + 1, lines, anchor="middle")


def _backed(x: float, y: float, lines: list[str], anchor: str, colour: Colour) -> str:
    """Write a label so that a life line that it crosses does not go through its letters."""
    half = width_of(lines) / 2
    left = x if anchor == "start" else x - half
    height = LINE_HEIGHT * len(lines)
    back = (
        f'<rect x="{left:g}" y="{y - LINE_HEIGHT + 4:g}" width="{2 * half:g}" height="{height:g}" '
        'fill="var(--color-background-primary)"/>'
    )
    return back + label(x, y, lines, anchor=anchor, colour=colour)
