"""Checks of callers' arguments, before they are used.

Types say the same, but nothing checks types at run time. Without these checks a wrong argument would be noticed late:
after a file has been made, and by an exception of some library, which may quote a secret.
"""

from __future__ import annotations

import os
import unicodedata
from inspect import isawaitable, iscoroutine
from pathlib import Path

from unwedged.protocol.identifiers import Version
from unwedged.store.errors import InvalidArgument

LARGEST = 2**53 - 1
"""The largest number that is accepted: what a float holds exactly, and every reader of a trace has (T1.10). Timers and
SQLite could not take every larger one, and would say so too late."""

_CONTROLS = ("Cc", "Zl", "Zp")
"""The categories of characters that end a line or control a terminal."""


def text_of(value: object, what: str) -> str:
    """Return a text that can be encoded. Raises ``InvalidArgument``, which names ``what`` it is without quoting it."""
    if not isinstance(value, str):
        raise InvalidArgument(f"{what} is a str, not a {type(value).__name__}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidArgument(f"{what} has a lone surrogate, which no encoding has")
    return value


def label_of(value: object) -> str:
    """Return a label that stays in its line of a log. Raises ``InvalidArgument``."""
    label = text_of(value, "a label")
    if any(unicodedata.category(character) in _CONTROLS for character in label):
        raise InvalidArgument("a label is one line: no control characters")
    return label


def octets_of(value: object, length: int, what: str) -> bytes:
    """Return ``length`` bytes. Raises ``InvalidArgument``, which names ``what`` they are and does not quote them."""
    if not isinstance(value, bytes):
        raise InvalidArgument(f"{what} is {length} bytes, not a {type(value).__name__}")
    if len(value) != length:
        raise InvalidArgument(f"{what} is {length} bytes, not {len(value)}")
    return value


def size_of(value: object, what: str) -> int:
    """Return a number of bytes. Raises ``InvalidArgument``, which names ``what`` it is."""
    size = whole_of(value, what)
    if size < 0:
        raise InvalidArgument(f"{what} is at least 0 bytes, not {size}")
    return size


def version_of(value: object) -> Version:
    """Return a version that a store may have. Raises ``InvalidArgument``."""
    version = whole_of(value, "a store's version")
    if version < 0:
        raise InvalidArgument(f"a store's version is at least 0, not {version}")
    return Version(version)


def whole_of(value: object, what: str) -> int:
    """Return an integer from -``LARGEST`` to ``LARGEST``. Raises ``InvalidArgument``, which names ``what`` it is."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidArgument(f"{what} is an int, not a {type(value).__name__}")
    if not -LARGEST <= value <= LARGEST:
        raise InvalidArgument(f"{what} has at most 53 bits, not {value.bit_length()}")
    return value


def seconds_of(value: object, what: str) -> float:
    """Return a duration in seconds, at most ``LARGEST``. Raises ``InvalidArgument``, which names ``what`` it is."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidArgument(f"{what} is a number of seconds, not a {type(value).__name__}")
    if not 0 <= value <= LARGEST:
        raise InvalidArgument(f"{what} is a number of seconds from 0 to {LARGEST}")
    return value


def must_be_callable(value: object, what: str) -> None:
    """Raise ``InvalidArgument``, which names ``what`` it is, if a value can't be called."""
    if not callable(value):
        advice = ": pass `put`, not `put(...)`" if iscoroutine(value) else ""
        raise InvalidArgument(f"{what} is a function, not a {type(value).__name__}{advice}")


def must_be_a_tracer(value: object) -> None:
    """Raise ``InvalidArgument`` if a value has no function ``write``."""
    if not callable(getattr(value, "write", None)):
        raise InvalidArgument(
            "a tracer is an object with write(line), such as NdjsonTracer(path) of unwedged.trace, "
            f"not a {type(value).__name__}"
        )


def must_be_awaitable(value: object) -> None:
    """Raise ``InvalidArgument`` if the value that an operation has returned is not awaitable."""
    if not isawaitable(value):
        raise InvalidArgument(f"an operation is declared with 'async def': it returned {type(value).__name__!r}")


def path_of(value: object) -> Path:
    """Return a path that a file can have. Raises ``InvalidArgument``."""
    if not isinstance(value, str | Path):
        raise InvalidArgument(f"a path is a str or a Path, not a {type(value).__name__}")
    if str(value) == ":memory:":
        raise InvalidArgument("a store is a file, which processes share: there is none in memory")
    if value == "":
        raise InvalidArgument("a path is not empty")
    try:
        if b"\0" not in os.fsencode(value):
            return Path(value)
    except UnicodeEncodeError:
        pass
    raise InvalidArgument("a path has no null character, and no surrogate that stands for no byte")
