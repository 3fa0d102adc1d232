"""What ``tla/ExchangeTrace.tla`` is told of the lines of the machine, besides what ``MachineTrace`` needs.

A fact of one element is taken from the lines of its operation, and from what the commit of that has written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from checking.explain.lines import (
    Answer,
    AnyLine,
    Backup,
    Claim,
    Commit,
    DecryptMegolm,
    DecryptOlm,
    EncryptMegolm,
    EncryptOlm,
    Give,
    MakeSession,
    Receive,
    RequestMade,
    RoomKey,
    Share,
    Verification,
)

MachineFact: TypeAlias = "int | bool | str | frozenset[str] | Mapping[str, str]"
"""What the modules are told of a step."""

UNKNOWN: Final = "unknown"
NONE: Final = "none"
KINDS: Final = ("answered", "unbacked", "verification", "wanted_session")
"""The kinds of records that are told apart."""
STANDINGS: Final = {"own": 2, "room_key": 2, "forwarded": 1}
"""How far the origin of a room key counts (M11.2)."""
VOUCHED: Final = 2
REQUESTS: Final = frozenset({"m.room_key_request", "m.secret.request"})
MOST: Final = 1_000_000_000
"""TLC has no numbers much larger."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a commit has changed."""

    made: frozenset[str] = frozenset()
    """The records that are there after it."""
    gone: frozenset[str] = frozenset()
    moved: frozenset[str] = frozenset()
    """Those whose value is another one."""

    @classmethod
    def of(cls, line: AnyLine | None) -> Change:
        """Return what a line tells of it."""
        if not isinstance(line, Commit) or len(line.made) != len(line.records):
            return cls()
        made = dict(zip(line.records, line.made, strict=True))
        gone = frozenset(record for record, digest in made.items() if digest == "absent")
        before = dict(zip(line.records, line.based_on, strict=False))
        moved = frozenset(record for record, digest in made.items() if before.get(record) != digest)
        return cls(frozenset(made) - gone, gone, moved)


def exchange_step(line: AnyLine, lines: Sequence[AnyLine], change: Change) -> tuple[str, dict[str, MachineFact]] | None:
    """Return a step that only ``ExchangeTrace`` has, and what its line says."""
    match line:
        case Claim():
            return "claim", {"marks": frozenset(line.marks), "second": line.claimed_ms // 1000 % MOST}
        case MakeSession():
            return "make_session", {"peer": line.peer}
        case RoomKey(source=str(source)) if line.first_index <= MOST:  # Others are useless, but they can be sent.
            standing = STANDINGS.get(source, 0)
            return "room_key", {
                "session": f"{line.room}/{line.session}",
                "first": line.first_index,
                "standing": standing,
                "vouched": standing == VOUCHED,
                "sender": line.sender,
                "kept": line.kept,
            }
        case DecryptMegolm(outcome="ok", event=str(event), session=str(), index=int()):
            return "decrypt_megolm", {"event": event}
        case Verification():
            return "verification", {"record": line.record, "phase": line.phase}
        case RequestMade(type="BackupUpload"):
            return "list_backup", {"request": line.request}
        case Answer(type="BackupUpload"):
            return "answer_backup", {"request": line.request, "gone": _told_apart(change.gone)}
        case Answer(type="BackupVersionCreate"):
            made = (each.request for each in lines if isinstance(each, Backup) and each.version != NONE)
            return "answer_version", {"request": line.request, "made": next(made, NONE)}
        case Receive(type=kind) if kind in REQUESTS:
            return "hear", {}
        case Give(answered=str(answered)):
            return "give", {"answered": answered, "asked": line.asked}
        case _:
            return None


def exchange_facts(line: AnyLine, lines: Sequence[AnyLine], change: Change) -> dict[str, MachineFact]:
    """Return what ``ExchangeTrace`` is told besides of a step that both modules have."""
    match line:
        case DecryptOlm():
            return {
                "mark": line.mark or NONE,
                "marks": _told_apart(change.made),
                "peers_stored": len(of_kind(change.moved, "peer")),
                "peers_moved": len({peer for each in lines if (peer := _moved(each)) is not None}),
            }
        case Share():
            sent = (each for each in lines if isinstance(each, EncryptOlm) and each.request is not None)
            peers = frozenset(each.peer for each in sent if each.request == line.request)
            return {"session": line.session, "peers": peers}
        case EncryptOlm() | EncryptMegolm():
            return {"moved": frozenset(record.partition("/")[0] for record in change.moved)}
        case _:
            return {}


def commit_facts(lines: Sequence[AnyLine], change: Change) -> dict[str, MachineFact]:
    """Return what ``ExchangeTrace`` is told besides of a commit."""
    return {
        "marks": _told_apart(change.made),
        "gone": _told_apart(change.gone),
        "claims": frozenset(mark for each in lines if isinstance(each, Claim) for mark in each.marks),
        "turned_off": any(isinstance(each, Backup) and each.request == NONE for each in lines),
    }


class Readings:
    """As which event each message was read first, as far as traces tell."""

    def __init__(self) -> None:
        self._events: dict[tuple[str | None, str | None, int | None, str | None], str] = {}

    def before(self, line: DecryptMegolm) -> str:
        """Return the event of the first reading of a message; ``NONE`` if this is the first."""
        assert line.event is not None
        place = line.room, line.session, line.index, line.sender
        known = self._events.get(place, NONE)
        self._events.setdefault(place, line.event)
        return known

    def forget(self) -> None:
        """Note that the records of readings may have been lost."""
        self._events.clear()


def _moved(line: AnyLine) -> str | None:
    """Return the device whose sessions change by what a line tells of."""
    match line:
        case EncryptOlm() | MakeSession() | DecryptOlm(outcome="ok"):
            return line.peer
        case _:
            return None


def of_kind(records: Iterable[str], *kinds: str) -> frozenset[str]:
    """Return the records of some kinds."""
    return frozenset(record for record in records if record.partition("/")[0] in kinds)


def _told_apart(records: Iterable[str]) -> frozenset[str]:
    return of_kind(records, *KINDS)
