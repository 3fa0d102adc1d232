"""Encrypted attachments: files that are encrypted before they are uploaded, version 2 of the protocol.

Matrix specification, client-server API, "Sending encrypted attachments" and "EncryptedFile". Each file has an AES-256
key of its own, used with a counter of 64 bits that begins at zero behind 64 random bits. Key, counter block and a
SHA-256 hash of the ciphertext travel in an event that is itself encrypted; the ciphertext is on the server.

Only the hash protects against a server that changes a file: AES-CTR does not detect changes. A file that fits into
memory is verified before any of it is returned. A larger file is decrypted in chunks, and **no chunk is verified before
the whole file is**: a program that uses a chunk earlier uses what the server chose.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from unwedged.machine.errors import MalformedAttachmentKey, TamperedAttachment, UnsupportedAttachment
from unwedged.machine.identifiers import JsonObject
from unwedged.machine.unpadded_base64 import to_unpadded, unpadded
from unwedged.machine.unshown import Unshown

_VERSION: Final = "v2"
_ALGORITHM: Final = "A256CTR"
_KEY_TYPE: Final = "oct"
_MOST_BLOCKS: Final = 2**40
"""The counter must not overflow within this many blocks of 16 bytes (16 TiB), the longest file."""
_URL_SAFE: Final = str.maketrans("+/", "-_")
_FROM_URL_SAFE: Final = str.maketrans("-_", "+/")


class _WebKey(Unshown, msgspec.Struct):
    kty: str
    alg: str
    k: str


class _Hashes(msgspec.Struct):
    sha256: str


class _EncryptedFile(msgspec.Struct):
    """The parts of an ``EncryptedFile`` that decryption needs. Its other fields protect nothing."""

    v: str
    key: _WebKey
    iv: str
    hashes: _Hashes


@dataclass(frozen=True, slots=True)
class AttachmentKey:
    """The key, counter block and hash of one attachment. It is a secret, and belongs only in an encrypted event.

    Some programs fill the whole counter block at random, against the specification. That is accepted unless the counter
    could overflow: then programs that count with 64 bits would disagree with programs that count with 128.
    """

    key: bytes = field(repr=False)
    iv: bytes
    """The counter block that the first 16 bytes are encrypted with."""
    sha256: bytes
    """The hash of the ciphertext."""

    def __post_init__(self) -> None:
        """Raise ``MalformedAttachmentKey`` if a length is wrong or the counter could overflow."""
        if (len(self.key), len(self.iv), len(self.sha256)) != (32, 16, 32):
            raise MalformedAttachmentKey("an attachment has a key of 32 bytes, an iv of 16, and a hash of 32")
        if int.from_bytes(self.iv[8:], "big") > 2**64 - _MOST_BLOCKS:
            raise MalformedAttachmentKey("the counter of the attachment would overflow")

    @classmethod
    def from_encrypted_file(cls, content: Mapping[str, object]) -> AttachmentKey:
        """Read the ``EncryptedFile`` of an event.

        Raises ``MalformedAttachmentKey``, or ``UnsupportedAttachment`` for another version or algorithm.
        """
        try:
            file = msgspec.convert(content, _EncryptedFile)
        except msgspec.ValidationError as error:
            raise MalformedAttachmentKey(f"this is no encrypted file: {error}") from None
        if (file.v, file.key.kty, file.key.alg) != (_VERSION, _KEY_TYPE, _ALGORITHM):
            raise UnsupportedAttachment(f"only version {_VERSION} with algorithm {_ALGORITHM} is known")
        try:
            key, iv, sha256 = map(unpadded, (file.key.k.translate(_FROM_URL_SAFE), file.iv, file.hashes.sha256))
        except ValueError:
            raise MalformedAttachmentKey("the key, the iv or the hash is no base64") from None
        return cls(key, iv, sha256)

    def encrypted_file(self, url: str) -> JsonObject:
        """Return the ``EncryptedFile`` for an event. ``url`` is the address that the server returned for the upload."""
        return {
            "v": _VERSION,
            "url": url,
            "key": {
                "kty": _KEY_TYPE,
                "alg": _ALGORITHM,
                "key_ops": ["encrypt", "decrypt"],
                "k": to_unpadded(self.key).translate(_URL_SAFE),
                "ext": True,
            },
            "iv": to_unpadded(self.iv),
            "hashes": {"sha256": to_unpadded(self.sha256)},
        }


class AttachmentEncryptor:
    """Encrypts one file in chunks of any size.

    ::

        encryptor = AttachmentEncryptor()
        for ciphertext in map(encryptor.update, chunks):
            upload.write(ciphertext)
        key = encryptor.finish()
    """

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._iv = os.urandom(8) + bytes(8)
        self._cipher = Cipher(AES256(self._key), CTR(self._iv)).encryptor()
        self._hash = hashlib.sha256()

    def update(self, plaintext: bytes) -> bytes:
        """Return the ciphertext of the next chunk."""
        ciphertext = self._cipher.update(plaintext)
        self._hash.update(ciphertext)
        return ciphertext

    def finish(self) -> AttachmentKey:
        """End the file, and return the key that decrypts it. Call it once, after the last chunk."""
        self._cipher.finalize()
        return AttachmentKey(self._key, self._iv, self._hash.digest())


class AttachmentDecryptor:
    """Decrypts one file in chunks of any size. No chunk is verified until ``finish`` has returned."""

    def __init__(self, key: AttachmentKey) -> None:
        self._cipher = Cipher(AES256(key.key), CTR(key.iv)).decryptor()
        self._hash = hashlib.sha256()
        self._expected = key.sha256

    def update(self, ciphertext: bytes) -> bytes:
        """Return the plaintext of the next chunk, which is **not verified**."""
        self._hash.update(ciphertext)
        return self._cipher.update(ciphertext)

    def finish(self) -> None:
        """End the file. Raises ``TamperedAttachment`` if the plaintext that ``update`` returned must not be used."""
        self._cipher.finalize()
        if self._hash.digest() != self._expected:
            raise TamperedAttachment("the attachment is not the one that its sender hashed")


def encrypt_attachment(plaintext: bytes) -> tuple[bytes, AttachmentKey]:
    """Return the ciphertext to upload, and the key that decrypts it."""
    encryptor = AttachmentEncryptor()
    return encryptor.update(plaintext), encryptor.finish()


def decrypt_attachment(ciphertext: bytes, key: AttachmentKey) -> bytes:
    """Verify the hash, and return the plaintext. Raises ``TamperedAttachment`` if the hash is wrong."""
    decryptor = AttachmentDecryptor(key)
    plaintext = decryptor.update(ciphertext)
    decryptor.finish()
    return plaintext


def decrypt_chunks(ciphertext: Iterable[bytes], key: AttachmentKey) -> Iterator[bytes]:
    """Yield the plaintext in chunks. No chunk is verified before the iteration has ended without an exception.

    Raises ``TamperedAttachment`` at the end if the chunks must not be used: write them where they can be discarded.
    """
    decryptor = AttachmentDecryptor(key)
    for chunk in ciphertext:
        yield decryptor.update(chunk)
    decryptor.finish()
