"""What comes from outside: read as the shape that it must have, and refused where no record could keep it.

JSON can hold what no text has, such as half of a surrogate pair, and numbers and depths without end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from unwedged.machine.errors import MachineError, MalformedMessage

Shape = TypeVar("Shape")

DEEPEST: Final = 100
"""So many objects and arrays may lie in each other. The interpreter gives up somewhere between, depending on who calls:
what could be written from one place could not be read from another."""

_ENCODER: Final = msgspec.msgpack.Encoder()


def parsed(value: object, shape: type[Shape], what: str, error: type[MachineError] = MalformedMessage) -> Shape:
    """Read ``value`` as a ``shape``, or raise ``error`` with no part of it. ``what`` it is goes into the text."""
    try:
        return msgspec.convert(value, shape)
    except (msgspec.ValidationError, UnicodeEncodeError, RecursionError):
        pass
    # Raised out here, where the other exception, which may quote the value, no longer hangs on it.
    raise error(f"{what} is not built as the Matrix specification demands")


def is_json(value: object, levels: int = DEEPEST) -> bool:
    """Say whether ``value`` is JSON as it is, of so many ``levels`` at most, and comes back as the same."""
    match value:
        case None | str() | int():
            return is_storable(value)
        case float():
            return math.isfinite(value)
        case dict() if levels:
            names = all(isinstance(name, str) and is_storable(name) for name in value)
            return names and all(is_json(part, levels - 1) for part in value.values())
        case list() if levels:
            return all(is_json(part, levels - 1) for part in value)
    return False


def decoded(plaintext: bytes, decoder: msgspec.json.Decoder[Shape], what: str) -> Shape:
    """Read what was decrypted, or raise ``MalformedMessage``. ``what`` it is goes into the text."""
    try:
        return decoder.decode(plaintext)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    # Raised out here, as above: a ``UnicodeDecodeError`` holds the plaintext.
    raise MalformedMessage(f"{what} is not built as the specification demands")


def is_storable(value: object) -> bool:
    """Say whether a record could keep ``value`` (M5.9)."""
    try:
        _ENCODER.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return False
    return _is_shallow(value)


def _is_shallow(value: object) -> bool:
    level = _parts_of([value])
    for _ in range(DEEPEST):
        if not level:
            return True
        level = _parts_of(part for each in level for part in (each.values() if isinstance(each, dict) else each))
    return not level


def _parts_of(values: Iterable[object]) -> list[Mapping[object, object] | Sequence[object]]:
    return [value for value in values if isinstance(value, (dict, list, tuple))]
