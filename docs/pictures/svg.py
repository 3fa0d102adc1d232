"""What pictures are made of: shapes and text, in the colours of the page that they are in."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from enum import Enum
from xml.sax.saxutils import escape, quoteattr

FONT_SIZE = 13
LINE_HEIGHT = 17
CHARACTER_WIDTH = 7.4
"""Of a letter, on average and generously: which font the reader's browser has is not known here."""


class Colour(Enum):
    """A colour of the page."""

    TEXT = "currentColor"
    ACCENT = "var(--color-brand-content)"
    REFUSED = "var(--color-problematic)"
    SURFACE = "var(--color-background-secondary)"
    NONE = "none"


def width_of(lines: Iterable[str]) -> float:
    """Return how wide some lines of text are at most."""
    return max((len(line) * CHARACTER_WIDTH for line in lines), default=0)


def wrapped(text: str, columns: int) -> list[str]:
    """Return the text in lines of so many letters at most; a word is not divided."""
    return textwrap.wrap(text, columns, break_long_words=False, break_on_hyphens=False)


def label(
    x: float, y: float, lines: Sequence[str], *, anchor: str = "start", weight: str = "normal", code: bool = False,
    colour: Colour = Colour.TEXT,
) -> str:  # fmt: skip
    """Write lines of text, the first of them on the base line ``y``."""
    spans = "".join(
        f'<tspan x="{x:g}" y="{y + number * LINE_HEIGHT:g}">{escape(line)}</tspan>' for number, line in enumerate(lines)
    )
    kind = ' class="code"' if code else ""
    return f'<text{kind} text-anchor="{anchor}" font-weight="{weight}" fill="{colour.value}">{spans}</text>'


def turned_label(x: float, y: float, text: str) -> str:
    """Write a line of code that reads upwards from a point."""
    return (
        f'<text class="code" transform="translate({x:g} {y:g}) rotate(-90)" fill="currentColor">{escape(text)}</text>'
    )


def box(x: float, y: float, width: float, height: float, colour: Colour = Colour.SURFACE) -> str:
    """Draw a box with round corners."""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" '
        f'fill="{colour.value}" stroke="currentColor" stroke-opacity="0.45"/>'
    )


def line(
    x1: float,
    y1: float,
    x2: float,
    y2: float,
    *,
    dashed: bool = False,
    colour: Colour = Colour.TEXT,
    opacity: float = 1,
) -> str:
    """Draw a line."""
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" '
        f'stroke="{colour.value}" stroke-opacity="{opacity:g}" stroke-width="1.4"{dashes}/>'
    )


def arrow_head(x: float, y: float, dx: float, dy: float, colour: Colour = Colour.TEXT) -> str:
    """Draw the head of an arrow that ends at a point and comes from the direction ``(dx, dy)``, of length 1."""
    back_x, back_y = x - 9 * dx, y - 9 * dy
    points = f"{x:g},{y:g} {back_x - 4 * dy:g},{back_y + 4 * dx:g} {back_x + 4 * dy:g},{back_y - 4 * dx:g}"
    return f'<polygon points="{points}" fill="{colour.value}"/>'


def cross(x: float, y: float) -> str:
    """Draw a cross: what comes here is refused."""
    return "".join(line(x - 6, y - 6 * way, x + 6, y + 6 * way, colour=Colour.REFUSED) for way in (1, -1))


def dot(x: float, y: float, *, filled: bool) -> str:
    """Draw a dot, or a ring."""
    fill = Colour.ACCENT if filled else Colour.NONE
    return (
        f'<circle cx="{x:g}" cy="{y:g}" r="4.3" fill="{fill.value}" stroke="{Colour.ACCENT.value}" stroke-width="1.5"/>'
    )


def drawing(width: float, height: float, title: str, shapes: Iterable[str]) -> str:
    """Put shapes together. The title is for people who can't see the picture."""
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" style="min-width: {0.85 * width:g}px"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing" role="img" aria-label={quoteattr(title)} '
        f'{size} font-size="{FONT_SIZE}">{"".join(shapes)}</svg>'
    )
