"""What ``tla/ExchangeTrace.tla`` knows of the lines of the machine, besides what ``MachineTrace`` knows.

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
    CommitFails,
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
"""What the modules know of a step."""

UNKNOWN: Final = "unknown"
NONE: Final = "none"
KINDS: Final = ("answered", "unbacked", "verification", "wanted_session")
"""The kinds whose single records are distinguished."""
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
    is_complete: bool = True
    """Whether that is certain, and all. If not, a record may be among those that are made and those that are gone."""

    @classmethod
    def of(cls, line: AnyLine | None) -> Change:
        """Return what a line reports. A ``CommitFails`` here is of a commit that was made after all."""
        if not isinstance(line, Commit | CommitFails):
            return cls()
        records = frozenset(line.records)
        if len(line.made) != len(line.records):
            return cls(records, records, is_complete=False)
        made = dict(zip(line.records, line.made, strict=True))
        gone = frozenset(record for record, digest in made.items() if digest == "absent")
        before = dict(zip(line.records, line.based_on, strict=False))
        moved = frozenset(record for record, digest in made.items() if before.get(record) != digest)
        return cls(records - gone, gone, moved, isinstance(line, Commit) and not line.unlisted)

    def facts(self) -> dict[str, MachineFact]:
        """Return what ``MachineTrace`` knows of it."""
        return {
            "wrote": kinds_of(self.made),
            "deleted": kinds_of(self.gone),
            "set": of_kind(self.made, "outdated"),
            "cleared": of_kind(self.gone, "outdated"),
            "replaced": of_kind(self.made | self.gone, "devices"),
        }


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
            return "answer_backup", {"request": line.request, "gone": _distinguished(change.gone)}
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
    """Return what ``ExchangeTrace`` alone knows of a step that both modules have."""
    match line:
        case DecryptOlm():
            return {
                "mark": line.mark or NONE,
                "marks": _distinguished(change.made),
                "peers_stored": len(of_kind(change.moved, "peer")),
                "peers_moved": len({peer for each in lines if (peer := _moved(each)) is not None}),
            }
        case Share():
            sent = (each for each in lines if isinstance(each, EncryptOlm) and each.request is not None)
            peers = frozenset(each.peer for each in sent if each.request == line.request)
            return {"session": line.session, "peers": peers}
        case EncryptOlm() | EncryptMegolm():
            return {"moved": kinds_of(change.moved)}
        case _:
            return {}


def commit_facts(lines: Sequence[AnyLine], change: Change) -> dict[str, MachineFact]:
    """Return what ``ExchangeTrace`` alone knows of a commit."""
    return {
        "marks": _distinguished(change.made),
        "gone": _distinguished(change.gone),
        "claims": frozenset(mark for each in lines if isinstance(each, Claim) for mark in each.marks),
        "turned_off": any(isinstance(each, Backup) and each.request == NONE for each in lines),
    }


class Readings:
    """As which event each message was read first, as far as traces report it."""

    def __init__(self) -> None:
        self._events: dict[tuple[str | None, str | None, int | None, str | None], str] = {}

    def before(self, line: DecryptMegolm) -> str:
        """Return the event of the first reading of a message; ``NONE`` if this is the first."""
        assert line.event is not None
        message = line.room, line.session, line.index, line.sender
        known = self._events.get(message, NONE)
        self._events.setdefault(message, line.event)
        return known

    def forget(self) -> None:
        """Note that the records of readings may have been lost."""
        self._events.clear()


def _moved(line: AnyLine) -> str | None:
    """Return the device whose sessions change by what a line reports."""
    match line:
        case EncryptOlm() | MakeSession() | DecryptOlm(outcome="ok"):
            return line.peer
        case _:
            return None


def kinds_of(records: Iterable[str]) -> frozenset[str]:
    """Return the kinds of records."""
    return frozenset(record.partition("/")[0] for record in records)


def of_kind(records: Iterable[str], *kinds: str) -> frozenset[str]:
    """Return the records of some kinds."""
    return frozenset(record for record in records if record.partition("/")[0] in kinds)


def _distinguished(records: Iterable[str]) -> frozenset[str]:
    return of_kind(records, *KINDS)
