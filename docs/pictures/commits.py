"""What is written in one commit with what: the table of ``spec/machine.md``, drawn as a matrix."""

from __future__ import annotations

import re
from dataclasses import dataclass

from docs.pictures.svg import dot, drawing, label, line, turned_label, width_of, wrapped

HEADING = "What is written in one commit"
ROW = 19
COLUMN = 16
LEFT = 262
LIST = re.compile(r"`\w+`(?:(?:, | and |, and )`\w+`)*")


@dataclass(frozen=True, slots=True)
class Commit:
    """A row of the table: the records that an event always writes, and those that it writes in some cases."""

    event: str
    always: tuple[str, ...]
    sometimes: tuple[str, ...]


def parse(markdown: str) -> list[Commit]:
    """Read the table in the section that has the heading."""
    section = re.split(r"^## ", markdown.split(f"\n## {HEADING}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", section, re.MULTILINE)
    return [commit(event, records) for event, records in rows if "`" in records]


def commit(event: str, records: str) -> Commit:
    """Tell the records of a cell apart: a plain list of names is always written, and what has other words is not."""
    always: list[str] = []
    sometimes: list[str] = []
    for part in re.split(r"; |, and ", records):
        names = re.findall(r"`(\w+)`", part)
        (always if LIST.fullmatch(part) else sometimes).extend(names)
    return Commit(event, tuple(always), tuple(sometimes))


def draw(markdown: str) -> str:
    """Draw a row for each event, a column for each record, and a dot where the one writes the other."""
    commits = parse(markdown)
    records = list(dict.fromkeys(name for one in commits for name in (*one.always, *one.sometimes)))
    top = width_of(records) + 14
    across = {name: LEFT + COLUMN / 2 + number * COLUMN for number, name in enumerate(records)}
    width = LEFT + COLUMN * len(records) + 8
    shapes = [turned_label(x + 4.5, top - 8, name) for name, x in across.items()]
    y = top
    heights = []
    for one in commits:
        lines = wrapped(one.event, 34)
        height = ROW + (len(lines) - 1) * 15
        middle = y + height / 2
        heights.append(y)
        shapes.append(label(LEFT - 12, middle + 4.5 - (len(lines) - 1) * 7.5, lines, anchor="end"))
        shapes += [dot(across[name], middle, filled=True) for name in one.always]
        shapes += [dot(across[name], middle, filled=False) for name in one.sometimes if name not in one.always]
        y += height
    grid = [line(8, height, width - 8, height, opacity=0.13) for height in (*heights, y)]
    grid += [line(x + COLUMN / 2, top, x + COLUMN / 2, y, opacity=0.13) for x in across.values()]
    legend = y + 24
    shapes += [
        dot(LEFT + 8, legend, filled=True),
        label(LEFT + 20, legend + 4.5, ["written always"]),
        dot(LEFT + 168, legend, filled=False),
        label(LEFT + 180, legend + 4.5, ["written in the cases that the table names"]),
    ]
    return drawing(
        width, legend + 16, f"{HEADING}: the table below, as a matrix of events and records", [*grid, *shapes]
    )
