"""Unpadded base64: the specification's examples, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unwedged.machine.unpadded_base64 import to_unpadded, unpadded

EXAMPLES = [
    (b"foobar"[:length], text) for length, text in enumerate(["", "Zg", "Zm8", "Zm9v", "Zm9vYg", "Zm9vYmE", "Zm9vYmFy"])
]


@pytest.mark.parametrize(("data", "text"), EXAMPLES)
def test_the_examples_of_the_specification(data: bytes, text: str) -> None:
    assert to_unpadded(data) == text
    assert unpadded(text) == data
    assert unpadded(text + "=" * (-len(text) % 4)) == data


@given(st.binary())
def test_what_is_encoded_comes_back(data: bytes) -> None:
    assert unpadded(to_unpadded(data)) == data


@pytest.mark.parametrize("text", ["Z", "Zm9vY", "Zm 8", "Zm9v\n\n\n\n", "Zm9v-_-_", "Zg=g", "Zgé", "\uff3a\uff47"])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpadded(text)
