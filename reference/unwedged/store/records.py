"""Record kinds: the types of what a store keeps, declared once by the program.

::

    SESSIONS = RecordKind("olm_session", key=TEXT, value=Codec(Session.pickle, Session.from_pickle))
    DEVICES = RecordKind("device", key=TEXT, value=JSON)
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeAlias, TypeVar

from unwedged.store.arguments import must_be_callable, text_of
from unwedged.store.errors import InvalidArgument, MalformedRecord, UnknownKind

Key = TypeVar("Key")
Value = TypeVar("Value")
Plain = TypeVar("Plain")

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}", re.ASCII)


# Both without slots: on Python 3.11, ``Codec[str](...)`` fails for a frozen dataclass that has them.
@dataclass(frozen=True)
class Codec(Generic[Plain]):
    """How a value is encoded as bytes and decoded. ``decode`` may raise any exception for bytes that it can't read.

    Two codecs are equal if they are made of the same functions, and so are record kinds made of equal codecs. Each
    lambda is a function of its own.
    """

    encode: Callable[[Plain], bytes]
    decode: Callable[[bytes], Plain]

    def __post_init__(self) -> None:
        must_be_callable(self.encode, "what encodes")
        must_be_callable(self.decode, "what decodes")

    def __repr__(self) -> str:
        for codec, name in _NAMED:
            if codec == self:
                return name
        return f"Codec({_name(self.encode)}, {_name(self.decode)})"


class Kind:
    """A record kind whose keys and values are of any type. ``RecordKind`` is its only subclass."""

    name: str
    cached: bool


@dataclass(frozen=True)
class RecordKind(Kind, Generic[Key, Value]):
    """A kind of record: its name, how its keys and values become bytes, and whether values stay in memory."""

    name: str
    key: Codec[Key]
    value: Codec[Value]
    cached: bool = True
    """False for values too large, or used too seldom, to be kept after the operation that loaded them."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(text_of(self.name, "the name of a record kind")):
            raise InvalidArgument(
                f"{self.name!r} can't name a record kind: at most 40 of a to z, 0 to 9 and '_', a letter first"
            )
        for codec, of in ((self.key, "keys"), (self.value, "values")):
            if not isinstance(codec, Codec):
                raise InvalidArgument(f"the {of} of kind {self.name!r} need a Codec, not a {type(codec).__name__}")
        if not isinstance(self.cached, bool):
            raise InvalidArgument(f"whether kind {self.name!r} is cached is a bool, not a {type(self.cached).__name__}")

    def encode_key(self, key: Key) -> bytes:
        """Return a key as bytes, or raise ``InvalidArgument``."""
        return _encode(self.key, key, "a key", self.name)

    def encode_value(self, value: Value) -> bytes:
        """Return a value as bytes, or raise ``InvalidArgument``."""
        return _encode(self.value, value, "a value", self.name)

    def decode_key(self, encoded: bytes) -> Key:
        """Return the key that ``encode_key`` has encoded, or raise ``MalformedRecord``."""
        return _decode(self.key, encoded, "a key", self.name)

    def decode_value(self, encoded: bytes) -> Value:
        """Return the value that ``encode_value`` has encoded, or raise ``MalformedRecord``."""
        return _decode(self.value, encoded, "a value", self.name)


def kind_of(value: object) -> Kind:
    """Return a record kind, or raise ``InvalidArgument``."""
    if not isinstance(value, Kind):
        raise InvalidArgument(f"a record is of a kind, which is a RecordKind, not a {type(value).__name__}")
    return value


def _name(function: object) -> str:
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def declared_by_name(kinds: object) -> dict[str, Kind]:
    """Return several record kinds by their names. Equal kinds are one kind."""
    if not isinstance(kinds, Iterable):
        raise InvalidArgument(f"kinds are several, such as a list of them, not a {type(kinds).__name__}")
    declared: dict[str, Kind] = {}
    for each in kinds:
        kind = kind_of(each)
        if declared.setdefault(kind.name, kind) != kind:
            raise InvalidArgument(f"record kind {kind.name!r} was declared twice, and not equally")
    return declared


def must_be_declared(value: object, declared: Mapping[str, Kind]) -> None:
    """Raise unless a value equals one of the record kinds ``declared`` when the store was opened (P5.11)."""
    kind = value if isinstance(value, Kind) else kind_of(value)
    known = declared.get(kind.name)
    if known is kind or known == kind:  # This runs at each access, and nearly always for the same object.
        return
    if known is not None:
        raise UnknownKind(
            f"record kind {kind.name!r} was declared with other codecs, or cached otherwise, when the store was "
            "opened: use one RecordKind object everywhere"
        )
    raise UnknownKind(f"record kind {kind.name!r} was not declared when the store was opened: list it in kinds=")


def _encode(codec: Codec[Plain], plain: Plain, what: str, kind: str) -> bytes:
    try:
        encoded: object = codec.encode(plain)
    except _OtherValue as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 (a codec is anybody's)
        reason = type(error).__name__
    else:
        if isinstance(encoded, bytes):
            return encoded
        reason = f"made a {type(encoded).__name__}"
    # Raised here for the same reason as below.
    given = type(plain).__name__
    raise InvalidArgument(f"{what} of kind {kind!r}, of type {given}, can't be encoded by its codec ({reason})")


def _decode(codec: Codec[Plain], encoded: bytes, what: str, kind: str) -> Plain:
    try:
        return codec.decode(encoded)
    except Exception as error:  # noqa: BLE001 (a codec is anybody's)
        reason = type(error).__name__
    # Raised here, so that the codec's exception, which may quote the record, is not its context.
    raise MalformedRecord(f"{what} of kind {kind!r} can't be read by its codec ({reason})")


def _as_they_are(value: bytes) -> bytes:
    # Not bytes(value), which makes five zeros of the number 5. A bytearray or a memoryview may change later.
    return b"".join((value,))


def _from_json(encoded: bytes) -> Json:
    # Annotated because json.loads promises nothing; these are the types it makes.
    value: Json = json.loads(encoded.decode(), parse_constant=_no_number)
    return value


def _no_number(constant: str) -> Json:
    raise ValueError(f"{constant} is no JSON number")


class _OtherValue(ValueError):
    """A value would be decoded as another one. The message does not quote it."""


def _to_json(value: Json) -> bytes:
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    # Otherwise what is read would depend on whether it comes from the cache.
    if json.loads(text) != value:
        raise _OtherValue("it would come back as another value: JSON has no tuples, and its keys are texts")
    return text.encode()


TEXT: Final = Codec[str](str.encode, bytes.decode)
"""Text, as UTF-8. Lone surrogates have no encoding."""
BYTES: Final = Codec[bytes](_as_they_are, bytes)
"""Bytes, as they are."""
JSON: Final = Codec[Json](_to_json, _from_json)
"""JSON values, always written the same way. Lone surrogates, NaN and infinities have no encoding, and neither
have values that JSON would change: tuples, and keys of a ``dict`` that are not texts. A record of ``None`` reads like a
missing one, but its key is listed."""

_NAMED: Final = ((TEXT, "TEXT"), (BYTES, "BYTES"), (JSON, "JSON"))
