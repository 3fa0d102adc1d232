"""Sealing: records are encrypted and authenticated before they reach the database, and checked when they come back.

A random store key is made with the store and never changes. It is kept in the store, wrapped under a key that comes
from the store's secret: scrypt derives it from a passphrase, HKDF from a key. So changing the secret wraps the store
key anew, and writes nothing else. From the store key HKDF derives two others:

* *values* are sealed by AES-256-GCM-SIV under a random nonce. Associated data bind each to its store, kind and
  key, so that a row can't be moved. (GCM-SIV and not GCM: a store lives for years and writes often, and a repeated
  random nonce must not break it.)
* *record keys* are hidden by AES-SIV, which is deterministic, so that a row can be found by its key, and reversible, so
  that keys can be listed. They are padded, so that their length tells little.

The names of kinds, the number of records, the length of each value and the time of each change stay visible.
"""

from __future__ import annotations

import json
import os
from binascii import unhexlify
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV, AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from unwedged.store.arguments import octets_of, text_of
from unwedged.store.errors import InvalidArgument, NotAStore, TamperedRecord, WrongKey, WrongPassphrase

_FORMAT: Final = "unwedged-2"
"""For new headers. ``unwedged-1`` supports passphrases only; a store that has it keeps it until its secret changes."""

_NONCE: Final = 12
_TAG: Final = 16
_BLOCK: Final = 32
_SALT: Final = 16
_KEY: Final = 32
_LONGEST_HEADER: Final = 1000
"""More than twice what any header needs."""


class Cost(NamedTuple):
    """Scrypt's parameters: it needs ``128 * n * r`` bytes, and time in proportion to ``n * r * p``."""

    n: int
    r: int
    p: int

    # P22.8
    def acceptable(self) -> bool:
        """Return whether a stored cost is acceptable, so that an edited file can't use all memory or run for ever."""
        power_of_two = self.n >= 2 and self.n & (self.n - 1) == 0
        return (
            power_of_two
            and self.r >= 1
            and self.p >= 1
            and self.n * self.r <= 2**21
            and self.n * self.r * self.p <= 2**23
            and self.n < 2 ** (16 * self.r)  # RFC 7914, which libraries insist on.
        )


COST: Cost = Cost(n=2**17, r=8, p=1)
"""The cost for new passphrases, by OWASP's password storage cheat sheet. Each opening of the store takes 128 MiB and
some tenths of a second. A thief of the file pays as much for each guess. A notification extension does not have that
memory: such a program uses a key, which nobody can guess and which costs nothing."""


@dataclass(frozen=True, slots=True)
class Passphrase:
    """A secret that people can remember, and that others may guess: opening is as expensive as ``COST`` says."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class RandomKey:
    """A secret that a machine has made and keeps: 32 random bytes."""

    octets: bytes = field(repr=False)


Secret: TypeAlias = Passphrase | RandomKey


def secret_of(passphrase: str | None, key: bytes | None) -> Secret:
    """Return the secret that was passed, or raise ``InvalidArgument`` if there is not exactly one."""
    if passphrase is not None and key is not None:
        raise InvalidArgument("a store has either a passphrase or a key, and both were given")
    if key is not None:
        return RandomKey(octets_of(key, _KEY, "a key"))
    if passphrase is None:
        raise InvalidArgument("a store needs a passphrase or a key, and neither was given")
    if not text_of(passphrase, "a passphrase"):
        raise InvalidArgument("a passphrase has at least one character")
    return Passphrase(passphrase)


@dataclass(frozen=True, slots=True)
class Sealer:
    """Seals and opens the records of one store. Its keys are never shown."""

    store: bytes
    header: bytes = field(repr=False)
    """The sealing header in the store: the wrapped store key, and how it is wrapped."""
    _key: bytes = field(repr=False)
    _values: AESGCMSIV = field(repr=False)
    _names: AESSIV = field(repr=False)

    @classmethod
    def create(cls, secret: Secret, store: bytes) -> Sealer:
        """Make a store key for the store of this identity.

        With a passphrase this takes as long as scrypt does: call it in a thread. The same holds for ``unlock`` and
        ``rewrapped``.
        """
        key = os.urandom(_KEY)
        return cls.of_key(store, key, _wrap(secret, store, key))

    @classmethod
    def unlock(cls, secret: Secret, store: bytes, header: bytes) -> Sealer:
        """Return the sealer of an existing store.

        Raises ``WrongPassphrase`` or ``WrongKey``, or ``NotAStore`` for a header that can't be read.
        """
        return cls.of_key(store, _unwrap(secret, store, _parse(header)), header)

    def rewrapped(self, secret: Secret) -> Sealer:
        """Return the same sealer with another header: then only this secret unlocks it."""
        return self.of_key(self.store, self._key, _wrap(secret, self.store, self._key))

    @classmethod
    def of_key(cls, store: bytes, key: bytes, header: bytes = b"") -> Sealer:
        """Return the sealer of a store key, as P22.10 derives it. A test may have no ``header``."""
        values = HKDFExpand(SHA256(), 32, b"unwedged values").derive(key)
        names = HKDFExpand(SHA256(), 64, b"unwedged names").derive(key)
        return cls(store, header, key, AESGCMSIV(values), AESSIV(names))

    def trace_key(self) -> bytes:
        """Return the key of the pseudonyms in traces: all processes of the store have the same one (T2.1)."""
        return HKDFExpand(SHA256(), _KEY, b"unwedged trace").derive(self._key)

    def hide(self, kind: str, key: bytes) -> bytes:
        """Return a record's key as it is stored: the same each time."""
        return self._names.encrypt(_padded(key), [_context("name", self.store, kind.encode())])

    def reveal(self, kind: str, hidden: bytes) -> bytes:
        """Return the key that ``hide`` was given, or raise ``TamperedRecord``."""
        try:
            padded = self._names.decrypt(hidden, [_context("name", self.store, kind.encode())])
        except (InvalidTag, ValueError):
            raise TamperedRecord(f"the key of a {kind!r} record does not authenticate") from None
        key = padded.rstrip(b"\x00")[:-1]
        if _padded(key) != padded:
            raise TamperedRecord(f"the key of a {kind!r} record authenticates, but has no padding")
        return key

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


class _ByPassphrase(NamedTuple):
    """A store key that a passphrase unwraps."""

    cost: Cost
    salt: bytes
    wrapped: bytes


class _ByKey(NamedTuple):
    """A store key that a key unwraps."""

    wrapped: bytes


def _wrap(secret: Secret, store: bytes, key: bytes) -> bytes:
    """Return a header for the store key."""
    how: dict[str, object]
    if isinstance(secret, Passphrase):
        salt = os.urandom(_SALT)
        how = {"wrapped_by": "passphrase", **COST._asdict(), "salt": salt.hex()}
        wrapping = _derive(secret.text, salt, COST)
    else:
        how = {"wrapped_by": "key"}
        wrapping = _expand(secret.octets)
    nonce = os.urandom(_NONCE)
    wrapped = nonce + AESGCMSIV(wrapping).encrypt(nonce, key, _context("store key", store))
    return json.dumps({"format": _FORMAT, **how, "key": wrapped.hex()}).encode()


def _unwrap(secret: Secret, store: bytes, header: _ByPassphrase | _ByKey) -> bytes:
    """Return the store key."""
    wrong: WrongPassphrase | WrongKey
    match secret, header:
        case Passphrase(text), _ByPassphrase(cost, salt, wrapped):
            wrapping = _derive(text, salt, cost)
            wrong = WrongPassphrase(
                "the passphrase does not open the store's key, or the stored copy of that key is damaged"
            )
        case RandomKey(octets), _ByKey(wrapped):
            wrapping = _expand(octets)
            wrong = WrongKey("the key does not open the store's key, or the stored copy of that key is damaged")
        case Passphrase(), _:
            raise WrongPassphrase("the store is opened with a key, not with a passphrase")
        case _:
            raise WrongKey("the store is opened with a passphrase, not with a key")
    try:
        return AESGCMSIV(wrapping).decrypt(wrapped[:_NONCE], wrapped[_NONCE:], _context("store key", store))
    except InvalidTag:
        raise wrong from None


def _derive(passphrase: str, salt: bytes, cost: Cost) -> bytes:
    return Scrypt(salt=salt, length=_KEY, n=cost.n, r=cost.r, p=cost.p).derive(passphrase.encode())


def _expand(key: bytes) -> bytes:
    """Derive the wrapping key from a key, which itself may have other uses."""
    return HKDFExpand(SHA256(), _KEY, b"unwedged wrapping").derive(key)


def _padded(key: bytes) -> bytes:
    """Hide the length of a record's key, but for how many blocks it fills."""
    return key + b"\x80" + bytes(-(len(key) + 1) % _BLOCK)


@lru_cache(maxsize=1024)
def _context(*parts: str | bytes) -> bytes:
    """Join the parts so that no two different lists of parts give the same bytes (P22.5)."""
    encoded = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"".join(len(part).to_bytes(8, "big") + part for part in encoded)


def _parse(header: bytes) -> _ByPassphrase | _ByKey:
    """Read a header, which anybody may have edited."""
    out_of_bounds = NotAStore("the store's sealing parameters are out of bounds")
    if len(header) > _LONGEST_HEADER:
        raise out_of_bounds
    parsed: _ByPassphrase | _ByKey
    try:
        # Of bytes Python would guess the encoding; and it takes NaN for a number, which JSON does not have.
        fields = json.loads(header.decode(), parse_constant=_refuse_constant)
        wrapped = unhexlify(fields["key"])
        if _is_by_passphrase(fields["format"], fields.get("wrapped_by")):
            numbers = [fields[name] for name in Cost._fields]
            if not all(type(number) is int for number in numbers):
                raise ValueError("a cost is no integer")
            parsed = _ByPassphrase(Cost(*numbers), unhexlify(fields["salt"]), wrapped)
        else:
            parsed = _ByKey(wrapped)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise NotAStore(f"the store's sealing parameters can't be read: {error}") from None
    if len(wrapped) != _NONCE + _KEY + _TAG:
        raise out_of_bounds
    if isinstance(parsed, _ByPassphrase) and not (parsed.cost.acceptable() and len(parsed.salt) == _SALT):
        raise out_of_bounds
    return parsed


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _is_by_passphrase(form: object, wrapped_by: object) -> bool:
    match form, wrapped_by:
        case ("unwedged-2", "passphrase") | ("unwedged-1", _):
            return True
        case "unwedged-2", "key":
            return False
    raise ValueError("unknown format")
