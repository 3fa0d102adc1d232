"""Data from outside: parsed into the shape that it must have, and refused if no record could hold it.

JSON can hold what can't be stored, such as half of a surrogate pair, and numbers and depths without bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from unwedged.machine.errors import MachineError, MalformedMessage

Shape = TypeVar("Shape")

DEEPEST: Final = 100
"""The most levels of nested objects and arrays (M5.9). The depth at which the interpreter fails depends on the caller:
what one caller could write, another could not read."""

_ENCODER: Final = msgspec.msgpack.Encoder()
_CONTAINERS: Final = (dict, list, tuple)


def parsed(value: object, shape: type[Shape], what: str, error: type[MachineError] = MalformedMessage) -> Shape:
    """Convert ``value`` to a ``shape``. Raises ``error``, whose text names ``what`` it is and has no part of it."""
    try:
        return msgspec.convert(value, shape)
    except (msgspec.ValidationError, UnicodeEncodeError, RecursionError):
        pass
    # Raised here, so that the other exception, which may quote the value, is not its context.
    raise error(f"{what} is not built as the Matrix specification demands")


def is_json(value: object, levels: int = DEEPEST) -> bool:
    """Return whether ``value`` is JSON of at most ``levels`` levels, which is the same after encoding and decoding."""
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
    """Parse decrypted JSON. Raises ``MalformedMessage``, whose text names ``what`` it is."""
    try:
        return decoder.decode(plaintext)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    # Raised here, as above: a ``UnicodeDecodeError`` holds the plaintext.
    raise MalformedMessage(f"{what} is not built as the specification demands")


def is_storable(value: object) -> bool:
    """Return whether a record could hold ``value`` (M5.9)."""
    try:
        _ENCODER.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return False
    return _is_shallow(value)


def _is_shallow(value: object) -> bool:
    if not isinstance(value, _CONTAINERS):
        return True
    level: list[Mapping[object, object] | Sequence[object]] = [value]
    for _ in range(DEEPEST):
        parts: list[Mapping[object, object] | Sequence[object]] = []
        for container in level:
            for part in container.values() if isinstance(container, dict) else container:
                if isinstance(part, _CONTAINERS):
                    parts.append(part)  # noqa: PERF401 (a comprehension for each container takes twice as long)
        if not parts:
            return True
        level = parts
    return False
