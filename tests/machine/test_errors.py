"""Each error has a stable code of its own."""

from __future__ import annotations

import re

from unwedged.machine import errors
from unwedged.machine.errors import MachineError

ERRORS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, MachineError)]


def test_each_error_has_a_code_of_its_own() -> None:
    codes = [vars(error)["code"] for error in ERRORS]
    assert len(set(codes)) == len(codes) > 1
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_a_code_is_seen_on_the_class_and_on_what_is_raised() -> None:
    for error in ERRORS:
        assert error("what happened").code == error.code
