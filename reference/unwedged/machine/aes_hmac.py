"""AES-256 in counter mode, HMAC-SHA-256 and PBKDF2, as key export files and the secret storage use them."""

from __future__ import annotations

import os
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from unwedged.machine.errors import InvalidArgument

MOST_ROUNDS: Final = 10_000_000
"""The most rounds for a passphrase; they take some seconds. A file that was tampered with can't ask for more."""


def octets(passphrase: str) -> bytes:
    """Return a passphrase as PBKDF2 takes it. Raises ``InvalidArgument`` if it can't be encoded as UTF-8."""
    try:
        return passphrase.encode()
    except UnicodeEncodeError:  # This exception holds the passphrase: it must not become the context of what is raised.
        pass
    raise InvalidArgument("the passphrase can't be encoded: it holds a lone surrogate")


def from_passphrase(passphrase: bytes, salt: bytes, rounds: int, length: int) -> bytes:
    """Derive a key of ``length`` bytes by PBKDF2 with HMAC-SHA-512. The caller bounds the rounds, and so the time."""
    return PBKDF2HMAC(SHA512(), length, salt, rounds).derive(passphrase)


def new_iv() -> bytes:
    """Return a random counter block of 16 bytes. Bit 63 is clear, since some programs count with 64 bits only."""
    iv = bytearray(os.urandom(16))
    iv[8] &= 0x7F
    return bytes(iv)


def counted(key: bytes, iv: bytes, data: bytes) -> bytes:
    """Encrypt or decrypt, which is the same in counter mode."""
    cipher = Cipher(AES256(key), CTR(iv)).encryptor()
    return cipher.update(data) + cipher.finalize()


def mac(key: bytes, content: bytes) -> HMAC:
    """Return the HMAC of ``content``, for the caller to verify or to finalize."""
    of_content = HMAC(key, SHA256())
    of_content.update(content)
    return of_content
