"""What follows from small traces about a message that can't be read, line by line."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from checking.explain.forensics import Finding, Name, Verdict, examine
from checking.explain.history import histories
from checking.explain.reading import read_all
from tests.checking.test_trace_conditions import Rows, lines_of_machine
from tests.checking.traces import written

NAME: Final = Name(frozenset({f"{1:016x}"}), 0)
"""Message 0 of the session #1. Its sender is the user #2."""
ATTEMPT: Final = "A seen | decrypt_megolm session=#1 room=#1 sender=#2 event=#1 index=0 outcome=missing_room_key"
USED: Final = "receive sender=#2 type=m.dummy outcome=ok"
APPLIED: Final = "asked=none next=none lists_applied=true events_applied=true"


def batch(connection: str, asked: str, token: str, events: int = 0, more: str = "") -> str:
    """Return the row of a sync, by the tokens of its events."""
    tokens = f"asked_events={asked} next_events={token} events={events} {more}"
    return f"A sync | batch connection={connection} {APPLIED} {tokens}"


def examined(folder: Path, *rows: str, reader: str | None = None) -> Finding:
    lines = lines_of_machine(Rows("", "\n".join(rows)))
    devices = None if reader is None else frozenset({reader})
    return examine(histories(read_all([written(folder, lines)])), NAME, devices)


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([batch("#1", "none", "#11"), batch("#1", "#11", "#12")], Verdict.NOT_OURS),
        ([batch("#1", "none", "#11"), batch("#1", "#12", "#13")], Verdict.BATCH_LOST),
        # The device has forgotten its position.
        ([batch("#1", "none", "#11"), batch("#1", "none", "#13")], Verdict.NOT_OURS),
        # Each connection of the classic sync has tokens of its own; those of sliding sync have the same.
        ([batch("#1", "none", "#11"), batch("#2", "#21", "#22")], Verdict.NOT_OURS),
        (
            [batch("#1", "none", "#11", more="sliding=true"), batch("#2", "#21", "#22", more="sliding=true")],
            Verdict.BATCH_LOST,
        ),
        # What is left of a large response is processed by later operations.
        ([batch("#1", "none", "#11", 3) + f" | {USED}", f"A sync | {USED} | {USED}"], Verdict.NOT_OURS),
        ([batch("#1", "none", "#11", 3) + f" | {USED}", f"A sync | {USED}"], Verdict.BATCH_LOST),
        (
            [
                batch("#1", "none", "#11", 2) + f" | {USED}",
                batch("#1", "#11", "#12", 2) + f" | {USED}",
                f"A sync | {USED}",
            ],
            Verdict.BATCH_LOST,
        ),
    ],
)
def test_a_batch_is_lost_only_if_its_events_were_skipped_or_left(
    tmp_path: Path, rows: list[str], verdict: Verdict
) -> None:
    finding = examined(tmp_path, *rows, ATTEMPT)
    assert finding.verdict is verdict, "\n".join(finding.details())


UNREADABLE: Final = "decrypt_olm peer=#5 message=#6 ratchet=#7 index=0 outcome=unreadable"


@pytest.mark.parametrize(
    ("olm", "sender", "outcome", "verdict"),
    [
        (UNREADABLE, "#2", "unreadable", Verdict.WEDGED),
        (UNREADABLE, "#3", "unreadable", Verdict.NOT_OURS),
        (UNREADABLE.replace("unreadable", "ok"), "#2", "put_aside", Verdict.LOST_HERE),
        (UNREADABLE.replace("unreadable", "ok"), "#3", "put_aside", Verdict.NOT_OURS),
    ],
)
def test_only_what_the_sender_has_sent_before_says_something(
    tmp_path: Path, olm: str, sender: str, outcome: str, verdict: Verdict
) -> None:
    received = f"receive sender={sender} type=m.room.encrypted outcome={outcome}"
    row = f"{batch('#1', 'none', '#11', 1)} | {olm} | {received}"
    finding = examined(tmp_path, row, ATTEMPT)
    assert finding.verdict is verdict, "\n".join(finding.details())
    finding = examined(tmp_path, ATTEMPT, row)
    assert finding.verdict is Verdict.NOT_OURS, "\n".join(finding.details())


def test_a_key_from_this_very_message_on_was_there(tmp_path: Path) -> None:
    key = "room_key session=#1 room=#1 source=room_key sender=#2 kept=true first_index="
    assert examined(tmp_path, f"A inbound_group_session | {key}0", ATTEMPT).verdict is Verdict.LOST_HERE
    assert examined(tmp_path, f"A inbound_group_session | {key}1", ATTEMPT).verdict is Verdict.NOT_OURS


def test_the_last_attempt_counts(tmp_path: Path) -> None:
    read = ATTEMPT.replace("missing_room_key", "ok")
    assert examined(tmp_path, read, ATTEMPT, read).verdict is Verdict.LATE
    assert examined(tmp_path, read, ATTEMPT).verdict is Verdict.NOT_OURS


def test_a_key_that_was_also_shared_over_a_good_session_is_not_wedged(tmp_path: Path) -> None:
    made = "room_key session=#1 room=#1 first_index=0 kept=true source=own"
    rows = [
        f"A outbound_group_session peer | {made} | {olm(0, '#21')} | {shared('#21')}",
        f"A peer | {olm(0, '#22')}",
        "A outbox | answer request=#21 type=ToDevice",
    ]
    assert examined(tmp_path, *rows).verdict is Verdict.WEDGED
    rows += [f"A peer | {olm(1, '#23')} | {shared('#23')}", "A outbox | answer request=#23 type=ToDevice"]
    assert examined(tmp_path, *rows).verdict is Verdict.UNCLEAR


def olm(index: int, request: str, *, peer: int = 5, device: int = 8) -> str:
    return f"encrypt_olm peer=#{peer} device=#{device} ratchet=#{peer + 10} index={index} request={request}"


def shared(request: str) -> str:
    return f"share session=#1 devices=[#8] indices=[0] request={request}"


def test_each_device_gets_a_key_in_an_olm_message_of_its_own(tmp_path: Path) -> None:
    made = "room_key session=#1 room=#1 first_index=0 kept=true source=own"
    both = "share session=#1 devices=[#8,#9] indices=[0,0] request=#21"
    rows = [
        f"A outbound_group_session peer | {made} | {olm(0, '#21')} | {olm(0, '#21', peer=6, device=9)} | {both}",
        f"A peer | {olm(0, '#22')}",
        "A outbox | answer request=#21 type=ToDevice",
    ]
    assert examined(tmp_path, *rows, reader=f"{8:016x}").verdict is Verdict.WEDGED
    assert examined(tmp_path, *rows, reader=f"{9:016x}").verdict is Verdict.UNCLEAR
