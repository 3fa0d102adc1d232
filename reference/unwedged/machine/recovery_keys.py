"""Recovery keys: a key as people write it down (Matrix specification, appendices, "Cryptographic key representation").

The text is base58 of a prefix of two bytes, the key, and a byte of parity, in groups of four letters.
"""

from __future__ import annotations

from functools import reduce
from operator import xor
from typing import Final

from unwedged.machine.errors import InvalidArgument, MalformedRecoveryKey

KEY_BYTES: Final = 32

_PREFIX: Final = b"\x8b\x01"
_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS: Final = 48
"""The number of digits of every recovery key, since the prefix is not zero."""
_BYTES: Final = 36
"""The number of bytes that this many digits may need."""


def encode_recovery_key(key: bytes) -> str:
    """Return the recovery key of ``key``. Raises ``InvalidArgument`` unless ``key`` has 32 bytes."""
    if len(key) != KEY_BYTES:
        raise InvalidArgument(f"a recovery key stands for {KEY_BYTES} bytes, not for {len(key)}")
    content = _PREFIX + key
    digits = _base58(content + bytes([_parity(content)]))
    return " ".join(digits[start : start + 4] for start in range(0, len(digits), 4))


def decode_recovery_key(text: str) -> bytes:
    """Return the 32 bytes of a recovery key. White space is ignored. Raises ``MalformedRecoveryKey``."""
    digits = "".join(text.split())
    if len(digits) != _DIGITS or not set(digits) <= set(_ALPHABET):
        raise MalformedRecoveryKey(
            f"this is no recovery key: it has {_DIGITS} letters and digits, without 0, O, I and l"
        )
    number = 0
    for digit in digits:
        number = number * len(_ALPHABET) + _ALPHABET.index(digit)
    content = number.to_bytes(_BYTES, "big")[-len(_PREFIX) - KEY_BYTES - 1 :]
    if number >> 8 * len(content) or not content.startswith(_PREFIX):
        raise MalformedRecoveryKey("this is the recovery key of something else")
    if _parity(content) != 0:
        raise MalformedRecoveryKey("the recovery key has a mistake in it: its parity is wrong")
    return content[len(_PREFIX) : -1]


def _parity(content: bytes) -> int:
    return reduce(xor, content)


def _base58(content: bytes) -> str:
    number, digits = int.from_bytes(content, "big"), ""
    while number:
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
