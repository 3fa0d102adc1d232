"""Canonical JSON and signatures, by the vectors in the appendices of the Matrix specification."""

from __future__ import annotations

import json

import hypothesis.strategies as st
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given

from unwedged.machine.errors import NotCanonical
from unwedged.machine.identifiers import Ed25519Key, UserId
from unwedged.machine.signing import canonical, is_signed, signable, with_signature
from unwedged.machine.unpadded_base64 import to_unpadded, unpadded

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
)
SEED = unpadded("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
DOMAIN = UserId("domain")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, "{}"),
        ({"one": 1, "two": "Two"}, '{"one":1,"two":"Two"}'),
        ({"b": "2", "a": "1"}, '{"a":"1","b":"2"}'),
        ({"a": "日本語"}, '{"a":"日本語"}'),
        ({"本": 2, "日": 1}, '{"日":1,"本":2}'),
        ({"a": "\u65e5"}, '{"a":"日"}'),
        ({"a": None}, '{"a":null}'),
    ],
)
def test_canonical_json(value: object, expected: str) -> None:
    assert canonical(value) == expected.encode()


@given(JSON)
def test_canonical_json_reads_back_and_is_sorted(value: object) -> None:
    assert json.loads(canonical(value)) == value
    assert canonical(json.loads(canonical(value))) == canonical(value)


@pytest.mark.parametrize("value", [0.5, 1.0, 2**53, -(2**53), [{"x": 1.5}], "\ud800", {"\ud800": 1}])
def test_what_has_no_canonical_json_is_refused(value: object) -> None:
    with pytest.raises(NotCanonical):
        canonical(value)


@pytest.mark.parametrize(
    ("value", "signature"),
    [
        ({}, "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"),
        (
            {"one": 1, "two": "Two"},
            "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
        ),
    ],
)
def test_signatures(value: dict[str, object], signature: str) -> None:
    key = Ed25519PrivateKey.from_private_bytes(SEED)
    assert to_unpadded(key.sign(signable(value))) == signature
    public = Ed25519Key(to_unpadded(key.public_key().public_bytes_raw()))
    signed = with_signature({**value, "unsigned": {"not": "signed"}}, DOMAIN, "ed25519:1", signature)
    assert is_signed(signed, DOMAIN, "ed25519:1", public)
    assert not is_signed({**signed, "more": 1}, DOMAIN, "ed25519:1", public)
    assert not is_signed(signed, DOMAIN, "ed25519:2", public)
    assert not is_signed(signed, UserId("other"), "ed25519:1", public)
    assert not is_signed(signed, DOMAIN, "ed25519:1", Ed25519Key("no key"))
    for spoilt in ({}, {"signatures": 5}, {"signatures": {"domain": 5}}, {"signatures": {"domain": {"ed25519:1": 5}}}):
        assert not is_signed({**value, **spoilt}, DOMAIN, "ed25519:1", public)
