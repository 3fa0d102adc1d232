"""The faults of the machine that a real process can be given, by their names in the track record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from checking.machine_replay.counterparts import COUNTERPARTS
from checking.replay.substitutions import Substitution
from unwedged.machine import rooms
from unwedged.machine.records import Reading
from unwedged.store import Transaction


# M12.1
def _replay_accepted() -> Sequence[Substitution]:
    """Nobody looks whether a message was read as another event before. No model has this fault."""

    async def note(readings: object, transaction: Transaction, index: int, reading: Reading) -> None:
        del readings, transaction, index, reading

    return [(rooms._Readings, "note", note)]


INJECTIONS: Final[Mapping[str, Callable[[], Sequence[Substitution]]]] = {
    **{slug: fault for kind in COUNTERPARTS.values() for slug, fault in kind.faults.items()},
    "replay-accepted": _replay_accepted,
}
