"""The conclusions of chaos from the states that the two devices of a verification show."""

from __future__ import annotations

from typing import Final

import pytest

from chaos.owner import Shown
from chaos.verifications import Verifications
from unwedged.machine.records import Phase


def shown(phase: Phase, cancelled: str | None = None, *, trusts: bool = False, name: str = "one") -> Shown:
    return Shown(name, "@alice:example.org", phase, None, None, cancelled, trusts)


def told(phone: Shown | None, tablet: Shown | None) -> Verifications:
    verifications = Verifications()
    verifications.phone_shows([] if phone is None else [phone])
    verifications.other_shows([] if tablet is None else [tablet])
    return verifications


DONE: Final = shown(Phase.DONE, trusts=True)
TIMED_OUT: Final = shown(Phase.CANCELLED, "m.timeout")


@pytest.mark.parametrize(
    ("phone", "tablet", "loss"),
    [
        (shown(Phase.DONE), DONE, "is not verified"),
        (DONE, shown(Phase.CONFIRMED), "never ends: it is done and confirmed"),
        (shown(Phase.REQUESTED), None, "never ends: it is requested and not there"),
        (TIMED_OUT, shown(Phase.CANCELLED), "was cancelled for None"),
        (shown(Phase.CANCELLED, "m.mismatched_sas"), TIMED_OUT, "was cancelled for 'm.mismatched_sas'"),
    ],
)
def test_a_wrong_outcome_is_reported(phone: Shown | None, tablet: Shown | None, loss: str) -> None:
    [said] = told(phone, tablet).losses()
    assert loss in said


@pytest.mark.parametrize(
    ("phone", "tablet", "finished", "cancelled"),
    [
        (DONE, DONE, 1, {}),
        (TIMED_OUT, shown(Phase.CANCELLED, "m.user"), 0, {"m.timeout": 1}),
        (TIMED_OUT, DONE, 0, {"m.timeout": 1}),
        (None, TIMED_OUT, 0, {"m.timeout": 1}),
    ],
)
def test_an_allowed_outcome_is_counted(
    phone: Shown | None, tablet: Shown | None, finished: int, cancelled: dict[str, int]
) -> None:
    verifications = told(phone, tablet)
    assert not list(verifications.losses())
    assert (verifications.finished, verifications.cancelled) == (finished, cancelled)
    assert not verifications.under_way


def test_it_hangs_only_if_both_take_part() -> None:
    assert told(shown(Phase.READY), DONE).hangs
    assert not told(shown(Phase.READY), None).hangs
    assert told(shown(Phase.READY), None).under_way
    assert not told(DONE, TIMED_OUT).hangs


def test_what_a_process_said_before_does_not_replace_an_end() -> None:
    verifications = told(DONE, shown(Phase.CONFIRMED))
    verifications.phone_shows([shown(Phase.CONFIRMED)])
    assert verifications.on_phone == [DONE]
    verifications.phone_shows([])
    assert verifications.on_phone == [DONE]


def test_what_is_no_longer_shown_was_over() -> None:
    verifications = told(shown(Phase.CONFIRMED), DONE)
    verifications.phone_shows([])
    assert not verifications.under_way
    assert not list(verifications.losses())


def test_they_trust_each_other_only_if_both_do() -> None:
    assert told(DONE, DONE).trusted
    assert not told(DONE, TIMED_OUT).trusted
    assert not told(TIMED_OUT, DONE).trusted
    assert told(TIMED_OUT, DONE).other_trusts
