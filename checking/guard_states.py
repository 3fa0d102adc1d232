"""Make the table and the picture of the guard's states for section P0 of ``spec/protocol.md``.

Both come from the code: each function of ``unwedged.protocol.guard`` is called in each stage.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from unwedged.protocol import guard as rules
from unwedged.protocol.guard import NO_GUARD, Guard, Stage
from unwedged.protocol.identifiers import Epoch

PICTURE: Final = Path("spec") / "guard-states.svg"

EVENTS: Final[dict[str, tuple[str, Callable[[Guard, Epoch], Guard]]]] = {
    "taken": ("the lease is acquired", lambda guard, epoch: rules.taken(epoch) if guard == NO_GUARD else guard),
    "synced": ("the sync succeeds", rules.synced),
    "waiter_noted": (
        "another instance waits, and the turn is over",
        lambda g, e: rules.waiter_noted(g, e, wanted=True),
    ),
    "overdue": ("running operations are overdue", rules.overdue),
    "lost": (
        (
            "the lease is released, lost or given up; the sync fails; a commit's outcome is unknown; the files or the "
            "schema were replaced"
        ),
        rules.lost,
    ),
}
"""The events of a guard, by the function that decides on the next stage. Only an acquisition begins without a guard."""

RIGHTS: Final[dict[str, tuple[str, Callable[[Guard], bool]]]] = {
    "admits": ("may operations begin?", rules.admits),
    "stands": ("may running operations go on?", lambda guard: rules.stands(guard, guard.epoch)),
    "releasable": ("may the lease be released while nothing runs?", lambda guard: rules.releasable(guard, 0)),
}
"""The questions about what a guard allows, by the function that answers them."""

_EPOCH: Final = Epoch(7)
_LABELS: Final = {
    "taken": "lease acquired",
    "synced": "sync succeeds",
    "waiter_noted": "another waits",
    "overdue": "overdue",
    "lost": "released, lost, or the sync failed",
}
_WIDTH, _HEIGHT, _GAP, _TOP, _MARGIN = 110, 44, 104, 36, 24


def guard_in(stage: Stage) -> Guard:
    """Return a guard in a stage; ``NO_GUARD`` for the stage without one."""
    return NO_GUARD if stage is Stage.NONE else Guard(stage, _EPOCH)


def transitions() -> dict[str, dict[Stage, Stage]]:
    """Return for each event the next stage, by each stage that the event changes."""
    led = {
        name: {stage: event(guard_in(stage), _EPOCH).stage for stage in Stage} for name, (_, event) in EVENTS.items()
    }
    return {name: {stage: to for stage, to in leads.items() if to is not stage} for name, leads in led.items()}


def table() -> str:
    """Return the table as Markdown."""
    changes = transitions()
    rows = [["Event", "Function", *(stage.value for stage in Stage)], ["---"] * (2 + len(Stage))]
    for name, (event, _) in EVENTS.items():
        rows.append([event, f"`{name}`", *(f"*{changes[name][s].value}*" if s in changes[name] else "" for s in Stage)])
    for name, (question, allows) in RIGHTS.items():
        rows.append([question, f"`{name}`", *("yes" if allows(guard_in(stage)) else "no" for stage in Stage)])
    return "".join(f"| {' | '.join(row)} |\n".replace("|  |", "| |").replace("|  |", "| |") for row in rows)


def picture() -> str:
    """Return the picture as SVG, with a background of its own, so that it is legible on any page."""
    places = {stage: _MARGIN + at * (_WIDTH + _GAP) for at, stage in enumerate(Stage)}
    width = 2 * _MARGIN + len(Stage) * _WIDTH + (len(Stage) - 1) * _GAP
    drawn = [_edge(name, places[a], places[b]) for name, leads in transitions().items() for a, b in leads.items()]
    drawn += [_box(stage, x) for stage, x in places.items()]
    height = _TOP + _HEIGHT + 120
    legend = "Dashed: the end of the guard, by release, loss or a failed sync.   Green: operations may begin"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" font-family="system-ui, sans-serif" font-size="13">\n'
        "<title>The states of a guard</title>\n"
        f"<desc>{escape(_described())}</desc>\n"
        f"{_STYLE}"
        f'<rect class="page" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>\n'
        f"{''.join(drawn)}"
        f'<text class="quiet" x="{width // 2}" y="{height - 14}" text-anchor="middle">{escape(legend)}</text>\n'
        "</svg>\n"
    )


def write(root: Path) -> bool:
    """Write the picture, and return whether it changed. ``root`` is the folder of the clone."""
    path = root / PICTURE
    changed = not path.exists() or path.read_text(encoding="utf-8") != picture()
    path.write_text(picture(), encoding="utf-8")
    return changed


_STYLE: Final = """<style>
.page { fill: #ffffff; stroke: #d0d7de; }
.box { fill: #f6f8fa; stroke: #57606a; stroke-width: 1.5; }
.open { fill: #dafbe1; stroke: #1a7f37; }
.line { fill: none; stroke: #57606a; stroke-width: 1.5; }
.end { stroke-dasharray: 5 4; }
.head { fill: #57606a; }
text { fill: #1f2328; }
.quiet { fill: #57606a; font-size: 12px; }
@media (prefers-color-scheme: dark) {
.page { fill: #0d1117; stroke: #30363d; }
.box { fill: #161b22; stroke: #8b949e; }
.open { fill: #12261e; stroke: #3fb950; }
.line { stroke: #8b949e; }
.head { fill: #8b949e; }
text { fill: #e6edf3; }
.quiet { fill: #8b949e; }
}
</style>
<defs><marker id="head" markerWidth="9" markerHeight="8" refX="8" refY="4" orient="auto">\
<path class="head" d="M0,0 L9,4 L0,8 z"/></marker></defs>
"""


def _box(stage: Stage, x: int) -> str:
    opened = " open" if rules.admits(guard_in(stage)) else ""
    return (
        f'<rect class="box{opened}" x="{x}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}" rx="6"/>\n'
        f'<text x="{x + _WIDTH // 2}" y="{_TOP + _HEIGHT // 2 + 5}" text-anchor="middle" font-weight="600">'
        f"{stage.value}</text>\n"
    )


def _edge(name: str, start: int, end: int) -> str:
    """Draw an arrow: straight to the next stage, above to a later one, below to an earlier one."""
    line = '<path class="line{}" d="{}" marker-end="url(#head)"/>\n'
    middle = _TOP + _HEIGHT // 2
    if end == start + _WIDTH + _GAP:
        label = (
            f'<text class="quiet" x="{end - _GAP // 2}" y="{middle - 8}" text-anchor="middle">{_LABELS[name]}</text>\n'
        )
        return line.format("", f"M{start + _WIDTH},{middle} H{end - 1}") + label
    if end > start:
        a, b = start + _WIDTH // 2, end + _WIDTH // 2
        return line.format("", f"M{a},{_TOP} V{_TOP - 20} H{b} V{_TOP - 1}")
    stages_back = (start - end) // (_WIDTH + _GAP)
    a, b, bottom = start + _WIDTH // 2, end + _WIDTH - _WIDTH * stages_back // len(Stage), _TOP + _HEIGHT
    return line.format(" end", f"M{a},{bottom} V{bottom + 6 + 16 * stages_back} H{b} V{bottom + 1}")


def _described() -> str:
    return " ".join(
        f"{a.value} to {b.value}: {_LABELS[name]}." for name, leads in transitions().items() for a, b in leads.items()
    )
