"""The ladder from the prose to the code: what stands on each rung, and the command that checks it."""

from __future__ import annotations

from dataclasses import dataclass

from docs.pictures.svg import LINE_HEIGHT, Colour, arrow_head, box, drawing, label, line, wrapped

LEFT, BOX, RIGHT = 8, 190, 222
WIDTH = 690


@dataclass(frozen=True, slots=True)
class Rung:
    """A form that the protocol is written in, and how it is known to say the same as the one above."""

    name: str
    where: str
    shown: str
    commands: tuple[str, ...]


LADDER = (
    Rung(
        "prose",
        "spec/",
        "Every rule names the properties that check it and the bugs that it prevents; all these names exist.",
        ("python -m pytest tests/checking/test_specification.py",),
    ),
    Rung(
        "TLA+",
        "tla/",
        "The guarantees hold in every state within the bounds. With each known bug switched on, the property that it "
        "breaks fails.",
        ("make check",),
    ),
    Rung(
        "formulas for z3",
        "proofs/encoding/",
        "They have the same steps as the TLA+. The guarantees hold for any number of processes, records and commits.",
        ("python -m proofs correspondence", "python -m proofs specification", "python -m proofs induction"),
    ),
    Rung(
        "protocol",
        "unwedged.protocol",
        "Pure functions. On every path they keep their contracts, and input by input they answer as the TLA+ does.",
        ("python -m proofs contracts", "python -m proofs agreement"),
    ),
    Rung(
        "SQL",
        "unwedged.store.statements",
        "The statements on a real SQLite file leave the rows, and give the answers, that these functions say.",
        ("python -m proofs sql",),
    ),
    Rung(
        "store",
        "unwedged.store",
        "It is driven along every transition of a model, and refuses what the model does not allow.",
        ("python -m checking replay Replay",),
    ),
    Rung(
        "machine",
        "unwedged.machine",
        "Real machines are driven along the models of their records. They talk to other implementations and to a "
        "real homeserver.",
        ("python -m checking replay ReplayLists", "make peers", "make synapse"),
    ),
)


def draw() -> str:
    """Draw the ladder, from the prose down to the code."""
    shapes: list[str] = []
    y = 4.0
    bottom = None
    for rung in LADDER:
        lines = wrapped(rung.shown, 56)
        height = max(54, LINE_HEIGHT * (len(lines) + len(rung.commands)) + 12)
        if bottom is not None:
            for x in (LEFT + 40, LEFT + BOX - 40):
                shapes += [line(x, bottom, x, y), arrow_head(x, y, 0, 1)]
        middle = y + height / 2
        shapes += [
            box(LEFT, y, BOX, height),
            label(LEFT + BOX / 2, middle - 3, [rung.name], anchor="middle", weight="bold"),
            label(LEFT + BOX / 2, middle + 15, [rung.where], anchor="middle", code=True),
            label(RIGHT, y + LINE_HEIGHT, lines),
            label(RIGHT, y + LINE_HEIGHT * (len(lines) + 1) + 4, rung.commands, code=True, colour=Colour.ACCENT),
        ]
        bottom = y + height
        y = bottom + 26
    return drawing(WIDTH, y - 22, "The forms of the protocol, from prose to code, and what checks each of them", shapes)
