"""Sealing: records are encrypted and authenticated before they reach the database, and checked when they come back.

A random store key is made with the store and never changes. It is kept in the store, wrapped under a key that scrypt
derives from the passphrase. From the store key HKDF derives two others:

* *values* are sealed by AES-256-GCM-SIV under a random nonce. Associated data bind each to its store, kind and
  key, so that a row can't be moved. (GCM-SIV and not GCM: a store lives for years and writes often, and a repeated
  random nonce must not be the end of it.)
* *record keys* are hidden by AES-SIV, which is deterministic, so that a row can be found by its key, and reversible, so
  that keys can be listed. They are padded, so that their length tells little.

What stays visible: the names of kinds, how many records there are, how long a value is, and when each changes.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV, AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from unwedged.store.errors import NotAStore, TamperedRecord, WrongPassphrase

_FORMAT: Final = "unwedged-1"
_NONCE: Final = 12
_TAG: Final = 16
_BLOCK: Final = 32
_SALT: Final = 16
_KEY: Final = 32


class Cost(NamedTuple):
    """What scrypt may take: it needs ``128 * n * r`` bytes, and time in proportion to ``n * r * p``."""

    n: int
    r: int
    p: int

    def acceptable(self) -> bool:
        """Say whether a stored cost can be paid, so that an edited file can't take all memory or run for ever."""
        power_of_two = self.n >= 2 and self.n & (self.n - 1) == 0
        return (
            power_of_two
            and self.r >= 1
            and self.p >= 1
            and self.n * self.r <= 2**21
            and self.n * self.r * self.p <= 2**23
        )


COST: Cost = Cost(n=2**15, r=8, p=1)
"""For new stores: 32 MiB and a tenth of a second, the usual choice for interactive use. Every process pays it each time
it opens the store, extensions with little memory too; a passphrase made by a machine needs no more."""


@dataclass(frozen=True, slots=True)
class Sealer:
    """Seals and opens the records of one store. Its keys are never shown."""

    store: bytes
    _values: AESGCMSIV = field(repr=False)
    _names: AESSIV = field(repr=False)

    @classmethod
    def create(cls, passphrase: str, store: bytes) -> tuple[Sealer, bytes]:
        """Make a store key for the store of this identity; return its sealer, and the header to keep in the store.

        Takes as long as scrypt does: call it in a thread. So does ``unlock``.
        """
        salt, nonce, key = os.urandom(_SALT), os.urandom(_NONCE), os.urandom(_KEY)
        wrapping = AESGCMSIV(_derive(passphrase, salt, COST))
        wrapped = nonce + wrapping.encrypt(nonce, key, _context("store key", store))
        header = {"format": _FORMAT, **COST._asdict(), "salt": salt.hex(), "key": wrapped.hex()}
        return cls._of(store, key), json.dumps(header).encode()

    @classmethod
    def unlock(cls, passphrase: str, store: bytes, header: bytes) -> Sealer:
        """Return the sealer of an existing store, or raise ``WrongPassphrase``, or ``NotAStore`` for a bad header."""
        cost, salt, wrapped = _parse(header)
        wrapping = AESGCMSIV(_derive(passphrase, salt, cost))
        try:
            key = wrapping.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], _context("store key", store))
        except InvalidTag:
            raise WrongPassphrase("the passphrase does not open the store's key, or that was damaged") from None
        return cls._of(store, key)

    @classmethod
    def _of(cls, store: bytes, key: bytes) -> Sealer:
        values = HKDFExpand(SHA256(), 32, b"unwedged values").derive(key)
        names = HKDFExpand(SHA256(), 64, b"unwedged names").derive(key)
        return cls(store, AESGCMSIV(values), AESSIV(names))

    def hide(self, kind: str, key: bytes) -> bytes:
        """Return a record's key as it is stored: the same each time."""
        padding = b"\x80" + bytes(-(len(key) + 1) % _BLOCK)
        return self._names.encrypt(key + padding, [_context("name", self.store, kind.encode())])

    def reveal(self, kind: str, hidden: bytes) -> bytes:
        """Return the key that ``hide`` was given, or raise ``TamperedRecord``."""
        try:
            padded = self._names.decrypt(hidden, [_context("name", self.store, kind.encode())])
        except (InvalidTag, ValueError):
            raise TamperedRecord(f"the key of a {kind!r} record does not authenticate") from None
        return padded.rstrip(b"\x00")[:-1]

    def seal(self, kind: str, key: bytes, value: bytes) -> bytes:
        """Return a record's value as it is stored: different each time."""
        nonce = os.urandom(_NONCE)
        return nonce + self._values.encrypt(nonce, value, _context("value", self.store, kind.encode(), key))

    def open(self, kind: str, key: bytes, sealed: bytes) -> bytes:
        """Return the value that ``seal`` was given for this kind and key, or raise ``TamperedRecord``."""
        try:
            return self._values.decrypt(
                sealed[:_NONCE], sealed[_NONCE:], _context("value", self.store, kind.encode(), key)
            )
        except (InvalidTag, ValueError):
            raise TamperedRecord(f"the value of a {kind!r} record does not authenticate") from None


def _derive(passphrase: str, salt: bytes, cost: Cost) -> bytes:
    return Scrypt(salt=salt, length=_KEY, n=cost.n, r=cost.r, p=cost.p).derive(passphrase.encode())


@lru_cache(maxsize=1024)
def _context(*parts: str | bytes) -> bytes:
    """Join the parts so that no two different lists of parts give the same bytes."""
    encoded = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"".join(len(part).to_bytes(8, "big") + part for part in encoded)


def _parse(header: bytes) -> tuple[Cost, bytes, bytes]:
    """Read a header that anybody may have edited."""
    try:
        fields = json.loads(header)
        if fields["format"] != _FORMAT:
            raise ValueError("unknown format")
        numbers = [fields[name] for name in Cost._fields]
        if not all(type(number) is int for number in numbers):
            raise ValueError("a cost is no integer")
        cost = Cost(*numbers)
        salt, wrapped = bytes.fromhex(fields["salt"]), bytes.fromhex(fields["key"])
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise NotAStore(f"the store's sealing parameters can't be read: {error}") from None
    if not cost.acceptable() or len(salt) != _SALT or len(wrapped) != _NONCE + _KEY + _TAG:
        raise NotAStore("the store's sealing parameters are out of bounds")
    return cost, salt, wrapped
