"""Records can be encoded and decoded, and a malformed record raises a named error."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import unwedged.store
from unwedged.store.errors import InvalidArgument, MalformedRecord
from unwedged.store.records import BYTES, JSON, TEXT, Codec, Json, RecordKind

KIND = RecordKind("device", key=TEXT, value=JSON)

texts = st.text(st.characters(exclude_categories=["Cs"]))
plain: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=20,
)


@given(texts, plain)
def test_what_is_encoded_comes_back(key: str, value: Json) -> None:
    assert KIND.decode_key(KIND.key.encode(key)) == key
    decoded = KIND.decode_value(KIND.value.encode(value))
    assert decoded == value
    assert type(decoded) is type(value)


@given(st.binary())
def test_bytes_are_themselves(value: bytes) -> None:
    kind = RecordKind("blob", key=BYTES, value=BYTES)
    assert kind.value.encode(value) == value == kind.decode_value(value)


@pytest.mark.parametrize("value", [5, True, [], {}, "text", None])
def test_what_is_not_bytes_is_refused(value: bytes) -> None:
    """From a number, ``bytes`` would make that many zero bytes."""
    with pytest.raises(InvalidArgument):
        RecordKind("blob", key=BYTES, value=BYTES).encode_value(value)


@given(st.dictionaries(texts, plain))
def test_equal_json_objects_have_equal_bytes(value: dict[str, Json]) -> None:
    assert JSON.encode(dict(reversed(value.items()))) == JSON.encode(value)


@given(st.binary())
def test_any_bytes_decode_or_are_malformed(encoded: bytes) -> None:
    for decode in (KIND.decode_key, KIND.decode_value):
        with contextlib.suppress(MalformedRecord):
            decode(encoded)


@pytest.mark.parametrize("encoded", [b"", b"{", b"\xff", b"NaN", b"-Infinity", b"[" * 100_000])
def test_bad_json_is_malformed(encoded: bytes) -> None:
    with pytest.raises(MalformedRecord, match="a value of kind 'device'"):
        KIND.decode_value(encoded)


# P22.3, P22.13
def test_a_malformed_record_is_not_quoted() -> None:
    with pytest.raises(MalformedRecord) as caught:
        KIND.decode_key(b"secret\xff")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None, "the codec's exception holds the record"


# P22.13
def test_whatever_a_codec_raises_becomes_a_malformed_record() -> None:
    class PickleError(Exception):
        pass

    def decode(encoded: bytes) -> int:
        raise PickleError(encoded)

    kind = RecordKind("session", key=TEXT, value=Codec[int](lambda number: bytes([number]), decode))
    with pytest.raises(MalformedRecord, match=r"a value of kind 'session' can't be read by its codec \(PickleError\)"):
        kind.decode_value(b"x")


@pytest.mark.parametrize("value", [math.nan, math.inf, "\ud800"])
def test_values_without_an_encoding_are_refused(value: Json) -> None:
    with pytest.raises(ValueError, match=r"JSON compliant|surrogates"):
        JSON.encode(value)


@pytest.mark.parametrize("text", ["secret \ud800", "\udcff secret"])
def test_what_a_codec_can_not_encode_is_refused_and_not_quoted(text: str) -> None:
    kind = RecordKind("device", key=TEXT, value=JSON)
    for encode, what in ((kind.encode_key, "a key"), (kind.encode_value, "a value")):
        with pytest.raises(InvalidArgument, match=f"{what} of kind 'device', of type .* can't be encoded") as caught:
            encode(text)
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None, "the codec's exception holds the record"


def test_a_codec_makes_bytes() -> None:
    kind = RecordKind("device", key=TEXT, value=Codec[int](lambda number: str(number), int))  # type: ignore[arg-type,return-value]
    with pytest.raises(InvalidArgument, match=r"\(made a str\)"):
        kind.encode_value(7)


@pytest.mark.parametrize("name", [None, 7, b"device", "\ud800"])
def test_a_name_is_a_text(name: str) -> None:
    with pytest.raises(InvalidArgument, match="the name of a record kind"):
        RecordKind(name, key=TEXT, value=JSON)


# P22.4
@pytest.mark.parametrize("name", ["a", "olm_session", "x2", "a" * 40])
def test_names(name: str) -> None:
    assert RecordKind(name, key=TEXT, value=JSON).name == name


# P22.4
@pytest.mark.parametrize("name", ["", "A", "2x", "_a", "a b", "a-b", "a\n", "ä", "a" * 41, "a.b"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ValueError, match="can't name a record kind"):
        RecordKind(name, key=TEXT, value=JSON)


def test_a_codec_equals_itself_when_rebuilt_and_shows_no_addresses() -> None:
    assert Codec[str](str.encode, bytes.decode) == TEXT
    assert RecordKind("a", TEXT, Codec[str](str.encode, bytes.decode)) == RecordKind("a", TEXT, TEXT)
    assert repr(Codec[bytes](bytes, bytes)) == "Codec(bytes, bytes)"


@pytest.mark.parametrize("value", [(1, 2), {1: "a"}, {"a": [(1,)]}, [{None: 1}], {True: 1}], ids=repr)
def test_json_refuses_what_would_come_back_as_another_value(value: Json) -> None:
    """Otherwise the value that is read would depend on whether the record is still cached."""
    with pytest.raises(InvalidArgument, match=r"a value of kind 'device', .*no tuples"):
        KIND.encode_value(value)


def test_what_can_not_be_encoded_is_named_by_its_type() -> None:
    with pytest.raises(InvalidArgument, match="a key of kind 'device', of type int, can't be encoded"):
        KIND.encode_key(7)  # type: ignore[arg-type]


@pytest.mark.parametrize(("codec", "name"), [(TEXT, "TEXT"), (BYTES, "BYTES"), (JSON, "JSON")])
def test_a_codec_of_the_store_shows_its_name(codec: Codec[object], name: str) -> None:
    assert repr(codec) == repr(Codec(codec.encode, codec.decode)) == name


def test_a_kind_shows_its_codecs() -> None:
    assert repr(KIND) == "RecordKind(name='device', key=TEXT, value=JSON, cached=True)"


def test_a_package_shows_what_it_offers() -> None:
    assert dir(unwedged.store) == sorted(unwedged.store.__all__)
