"""QR codes have the bytes of the specification's example, and only valid codes are accepted."""

from __future__ import annotations

from contextlib import suppress

import hypothesis.strategies as st
import pytest
from hypothesis import given

from unwedged.machine.errors import MalformedQrCode
from unwedged.machine.identifiers import Ed25519Key
from unwedged.machine.qr import Mode, QrCode, decode
from unwedged.machine.unpadded_base64 import to_unpadded

KEYS = st.binary(min_size=32, max_size=32).map(lambda key: Ed25519Key(to_unpadded(key)))
CODES = st.builds(
    QrCode,
    st.sampled_from(Mode),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=60),
    KEYS,
    KEYS,
    st.binary(min_size=8, max_size=40),
)
EVENT_ID = "!ABCD" + "e" * 40
EXAMPLE = (
    bytes.fromhex("4D 41 54 52 49 58 02 00 00 2D")
    + EVENT_ID.encode()
    + bytes(range(32))
    + bytes(range(0x10, 0x30))
    + bytes(range(0x20, 0x28))
)


def test_the_example_of_the_specification() -> None:
    code = decode(EXAMPLE)
    assert (code.mode, code.transaction_id) == (Mode.OTHER_USER, EVENT_ID)
    assert code.first_key.startswith("AAECAwQFBg")
    assert code.second_key.startswith("EBESExQVFh")
    assert code.secret == bytes(range(0x20, 0x28))
    assert code.encode() == EXAMPLE


@given(CODES)
def test_what_is_shown_is_what_is_read(code: QrCode) -> None:
    assert decode(code.encode()) == code
    assert to_unpadded(code.secret) not in repr(code)


@given(CODES, st.data())
def test_a_part_of_a_code_is_none(code: QrCode, data: st.DataObject) -> None:
    encoded = code.encode()[: -len(code.secret)]
    part = encoded[: data.draw(st.integers(0, len(encoded)))]
    with pytest.raises(MalformedQrCode):
        decode(part + bytes(7) if len(part) == len(encoded) else part)


@pytest.mark.parametrize(
    "change", [(0, 0x6D), (6, 1), (7, 3), (10, 0xFF), (8, 0xFF)], ids=["header", "version", "mode", "text", "length"]
)
def test_what_is_no_code_is_refused(change: tuple[int, int]) -> None:
    at, byte = change
    with pytest.raises(MalformedQrCode):
        decode(EXAMPLE[:at] + bytes([byte]) + EXAMPLE[at + 1 :])


def test_a_code_without_a_name_is_refused() -> None:
    with pytest.raises(MalformedQrCode):
        decode(EXAMPLE[:8] + bytes(2) + EXAMPLE[10 + 45 :])


@given(st.binary(max_size=200))
def test_anything_is_a_code_or_is_refused(scanned: bytes) -> None:
    for candidate in (scanned, b"MATRIX\x02" + scanned):
        with suppress(MalformedQrCode):
            assert decode(candidate).encode() == candidate
