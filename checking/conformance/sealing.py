"""Generate the vectors for sealing: how keys and values are sealed, and what must be refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias
from unittest import mock

import msgspec

from checking.conformance.cases import Case, Unexpected, Vectors, must_be_unique
from unwedged.store import sealer as module
from unwedged.store.errors import InvalidArgument, NotAStore, TamperedRecord, WrongKey, WrongPassphrase
from unwedged.store.records import Codec, RecordKind
from unwedged.store.sealer import Cost, Passphrase, RandomKey, Sealer, Secret, secret_of

FORMAT: Final = "unwedged-sealing-2"

STORE: Final = bytes(range(16))
OTHER_STORE: Final = bytes(range(1, 17))
STORE_KEY: Final = bytes(range(0x20, 0x40))
SECRET_KEY: Final = bytes(range(0x80, 0xA0))
SALT: Final = bytes(range(0x50, 0x60))
NONCE: Final = bytes(range(0x40, 0x4C))
WRAPPING_NONCE: Final = bytes(range(0x60, 0x6C))
PASSPHRASE: Final = "correct horse"
KIND: Final = "olm_session"
CHEAP: Final = Cost(n=2, r=8, p=1)
"""A cost that makes the cases fast. No real store should have it: a high cost is the defence against guessing."""


class Hide(Case, tag_field="call", tag="hide", frozen=True, kw_only=True):
    """Encrypt the key of a record to the key of a row. Bytes are in hexadecimal, here and below."""

    store: str
    store_key: str
    kind: str
    key: str
    hidden: str | None = None


class Reveal(Case, tag_field="call", tag="reveal", frozen=True, kw_only=True):
    """Decrypt the key of a row to the key of a record."""

    store: str
    store_key: str
    kind: str
    hidden: str
    key: str | None = None


class Seal(Case, tag_field="call", tag="seal", frozen=True, kw_only=True):
    """Seal a value. The nonce is fixed here, and random in a store."""

    store: str
    store_key: str
    kind: str
    key: str
    value: str
    nonce: str
    sealed: str | None = None


class Open(Case, tag_field="call", tag="open", frozen=True, kw_only=True):
    """Open a sealed value."""

    store: str
    store_key: str
    kind: str
    key: str
    sealed: str
    value: str | None = None


class Unlock(Case, tag_field="call", tag="unlock", frozen=True, kw_only=True):
    """Unlock a header by a passphrase or a key."""

    store: str
    header: str
    passphrase: str | None = None
    secret_key: str | None = None
    store_key: str | None = None


class Declare(Case, tag_field="call", tag="declare", frozen=True, kw_only=True):
    """Declare a kind of records. There is no result."""

    kind: str


SealingCase: TypeAlias = Hide | Reveal | Seal | Open | Unlock | Declare


def run(case: SealingCase) -> SealingCase:
    """Run a case on the reference, and return the case with the result."""
    answer: str | None = None
    error: str | None = None
    try:
        answer = _called(case).hex()
    except (InvalidArgument, NotAStore, TamperedRecord, WrongKey, WrongPassphrase) as refusal:
        error = type(refusal).__name__
    if isinstance(case, Declare):
        return msgspec.structs.replace(case, valid=error is None, error=error)
    name = {Hide: "hidden", Reveal: "key", Seal: "sealed", Open: "value", Unlock: "store_key"}[type(case)]
    return msgspec.structs.replace(case, **{name: answer, "valid": error is None, "error": error})


def make() -> Vectors[SealingCase]:
    """Generate all cases. Raises ``Unexpected``."""
    cases = [*_names(), *_values(), *_headers(), *_secrets(), *_kinds()]
    must_be_unique([case.id for case in cases])
    made = [run(case) for case in cases]
    for meant, case in zip(cases, made, strict=True):
        if (meant.valid, meant.error) != (case.valid, case.error):
            raise Unexpected(f"{case.id}: expected {meant.error}, got {case.error}")
    return Vectors(FORMAT, made)


def _called(case: SealingCase) -> bytes:
    match case:
        case Hide():
            return _sealer(case.store, case.store_key).hide(case.kind, bytes.fromhex(case.key))
        case Reveal():
            return _sealer(case.store, case.store_key).reveal(case.kind, bytes.fromhex(case.hidden))
        case Seal():
            with random_bytes(bytes.fromhex(case.nonce)):
                sealer = _sealer(case.store, case.store_key)
                return sealer.seal(case.kind, bytes.fromhex(case.key), bytes.fromhex(case.value))
        case Open():
            sealer = _sealer(case.store, case.store_key)
            return sealer.open(case.kind, bytes.fromhex(case.key), bytes.fromhex(case.sealed))
        case Declare():
            RecordKind(case.kind, Codec(bytes, bytes), Codec(bytes, bytes))
            return b""
        case Unlock():
            return Sealer.unlock(_secret(case), bytes.fromhex(case.store), bytes.fromhex(case.header))._key


def _sealer(store: str, store_key: str) -> Sealer:
    return Sealer.of_key(bytes.fromhex(store), bytes.fromhex(store_key))


def _secret(case: Unlock) -> Secret:
    return secret_of(case.passphrase, None if case.secret_key is None else bytes.fromhex(case.secret_key))


@contextmanager
def random_bytes(*drawn: bytes) -> Iterator[None]:
    """Let the reference use these in order instead of random bytes."""
    with mock.patch("unwedged.store.sealer.os.urandom", side_effect=drawn):
        yield


_NAMED: Final = {"store": STORE.hex(), "store_key": STORE_KEY.hex(), "kind": KIND}

_KEYS: Final = {
    "empty": b"",
    "10-bytes": b"curve25519",
    "31-bytes": bytes(range(31)),
    "32-bytes": bytes(range(32)),
    "33-bytes": bytes(range(33)),
    "63-bytes": bytes(range(63)),
    "64-bytes": bytes(range(64)),
    "like-padding": b"key\x80",
    "like-padding-and-zero": b"key\x80\x00",
    "only-like-padding": b"\x80\x00",
    "zeros": bytes(5),
    "not-ascii": "Ключ/鍵".encode(),
    "not-text": b"\xff\xfe\x00\x01",
}


def _names() -> Iterator[SealingCase]:
    for name, key in _KEYS.items():
        hide = Hide(
            id=f"hide-{name}", shows="a key is padded, and encrypted to the same bytes each time", clause="P22.10", valid=True,
            **_NAMED, key=key.hex(),
        )  # fmt: skip
        yield hide
        yield Reveal(
            id=f"reveal-{name}", shows="a hidden key is decrypted to its original length", clause="P22.10", valid=True,
            **_NAMED, hidden=_called(hide).hex(),
        )  # fmt: skip
    yield Hide(
        id="hide-other-kind", shows="the same key is encrypted to other bytes under another kind", clause="P22.10", valid=True,
        **{**_NAMED, "kind": "device"}, key=b"curve25519".hex(),
    )  # fmt: skip
    yield Hide(
        id="hide-other-store", shows="the same key is encrypted to other bytes in another store with the same store key",
        clause="P22.10", valid=True, **{**_NAMED, "store": OTHER_STORE.hex()}, key=b"curve25519".hex(),
    )  # fmt: skip
    hidden = _sealer(STORE.hex(), STORE_KEY.hex()).hide(KIND, b"curve25519")
    moved = {
        "other-kind": {"kind": "device"},
        "other-store": {"store": OTHER_STORE.hex()},
        "other-store-key": {"store_key": SECRET_KEY.hex()},
    }
    for name, other in moved.items():
        yield Reveal(
            id=f"reveal-{name}", shows="a row that was moved does not authenticate", clause="P22.2", valid=False,
            error="TamperedRecord", **{**_NAMED, **other}, hidden=hidden.hex(),
        )  # fmt: skip
    for length in range(len(hidden)):
        yield Reveal(
            id=f"reveal-cut-to-{length}", shows="a truncated hidden key does not authenticate",
            clause="P22.2", valid=False, error="TamperedRecord", **_NAMED, hidden=hidden[:length].hex(),
        )  # fmt: skip
    names = _sealer(STORE.hex(), STORE_KEY.hex())._names
    unpadded = {
        "nothing": b"", "zeros": bytes(32), "no-marker": b"curve25519".ljust(32, b"\x01"), "no-zeros": b"curve25519\x80",
        "too-many-zeros": b"curve25519\x80".ljust(64, b"\x00"),
    }  # fmt: skip
    for name, plain in unpadded.items():
        yield Reveal(
            id=f"reveal-padded-with-{name}", shows="a hidden key without correct padding counts as not authentic",
            clause="P22.10", valid=False, error="TamperedRecord", **_NAMED,
            hidden=names.encrypt(plain, [module._context("name", STORE, KIND)]).hex(),
        )  # fmt: skip


def _values() -> Iterator[SealingCase]:
    named = {**_NAMED, "key": b"curve25519".hex()}
    values = {"empty": b"", "one-byte": b"\x00", "short": b"pickle", "a-thousand-bytes": bytes(range(250)) * 4}
    for name, value in values.items():
        seal = Seal(
            id=f"seal-{name}", shows="a value is sealed, and begins with its nonce", clause="P22.10", valid=True,
            **named, value=value.hex(), nonce=NONCE.hex(),
        )  # fmt: skip
        yield seal
        yield Open(
            id=f"open-{name}", shows="a sealed value is opened", clause="P22.10", valid=True, **named,
            sealed=_called(seal).hex(),
        )  # fmt: skip
    for name in ("empty", "not-ascii", "64-bytes"):
        yield Seal(
            id=f"seal-key-{name}", shows="a value is bound to its record's key", clause="P22.10", valid=True,
            **{**named, "key": _KEYS[name].hex()}, value=b"pickle".hex(), nonce=NONCE.hex(),
        )  # fmt: skip
    sealed = _called(
        seal := Seal(id="", shows="", clause="", valid=True, **named, value=b"pickle".hex(), nonce=NONCE.hex())
    )
    moved = {
        "other-store": {"store": OTHER_STORE.hex()},
        "other-store-key": {"store_key": SECRET_KEY.hex()},
        "other-kind": {"kind": "device"},
        "other-key": {"key": b"curve25518".hex()},
        "longer-kind-shorter-key": {"kind": f"{KIND}c", "key": b"urve25519".hex()},
    }
    for name, other in moved.items():
        yield Open(
            id=f"open-{name}", shows="a value that was moved does not authenticate", clause="P22.1", valid=False,
            error="TamperedRecord", **{**named, **other}, sealed=sealed.hex(),
        )  # fmt: skip
    for length in range(len(sealed)):
        yield Open(
            id=f"open-cut-to-{length}", shows="a truncated value does not authenticate", clause="P22.1",
            valid=False, error="TamperedRecord", **named, sealed=sealed[:length].hex(),
        )  # fmt: skip
    for place in (0, len(seal.nonce) // 2, len(sealed) - 1):
        flipped = bytearray(sealed)
        flipped[place] ^= 1
        yield Open(
            id=f"open-bit-flipped-in-{place}", shows="a value with a flipped bit does not authenticate",
            clause="P22.1", valid=False, error="TamperedRecord", **named, sealed=flipped.hex(),
        )  # fmt: skip


def header_of(secret: Secret, cost: Cost = CHEAP) -> bytes:
    """Return a header that the reference makes with fixed bytes instead of random ones."""
    drawn = (SALT, WRAPPING_NONCE) if isinstance(secret, Passphrase) else (WRAPPING_NONCE,)
    with random_bytes(*drawn), mock.patch.object(module, "COST", cost):
        return module._wrap(secret, STORE, STORE_KEY)


def _header(secret: Secret, cost: Cost = CHEAP) -> dict[str, object]:
    header: dict[str, object] = json.loads(header_of(secret, cost))
    return header


def _unlock(
    name: str, shows: str, clause: str, header: dict[str, object] | bytes, secret: Secret, error: str | None = None
) -> Unlock:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return Unlock(
        id=f"unlock-{name}", shows=shows, clause=clause, valid=error is None, error=error, store=STORE.hex(),
        header=encoded.hex(), passphrase=secret.text if isinstance(secret, Passphrase) else None,
        secret_key=secret.octets.hex() if isinstance(secret, RandomKey) else None,
    )  # fmt: skip


def _headers() -> Iterator[SealingCase]:
    passphrase, key = Passphrase(PASSPHRASE), RandomKey(SECRET_KEY)
    by_passphrase, by_key = _header(passphrase), _header(key)
    unlocks = "a secret unlocks the store key"
    yield _unlock("by-passphrase", unlocks, "P22.6", by_passphrase, passphrase)
    yield _unlock("by-passphrase-usual-cost", unlocks, "P22.6", _header(passphrase, module.COST), passphrase)
    yield _unlock("by-key", unlocks, "P22.6", by_key, key)
    yield _unlock("more-fields", "fields that a reader does not know are ignored", "P22.6", {**by_key, "later": 1}, key)
    yield _unlock(
        "by-key-with-a-cost", "a header that is wrapped by a key has no cost and no salt, so they are ignored", "P22.6",
        {**by_key, "n": 3, "r": "8", "p": None, "salt": "x"}, key,
    )  # fmt: skip
    accented = Passphrase("pass\u00e9 \U0001f511")
    yield _unlock("by-passphrase-not-ascii", "a passphrase is taken as UTF-8", "P22.9", _header(accented), accented)
    decomposed = Passphrase("passe\u0301 \U0001f511")
    yield _unlock(
        "by-passphrase-normalised",
        "a passphrase is not normalised",
        "P22.9",
        _header(accented),
        decomposed,
        "WrongPassphrase",
    )
    first = {name: value for name, value in by_passphrase.items() if name != "wrapped_by"}
    yield _unlock(
        "first-format",
        "the first format has passphrases only",
        "P22.7",
        {**first, "format": "unwedged-1"},
        passphrase,
    )
    yield _unlock(
        "wrong-passphrase",
        "another passphrase is refused",
        "P22.11",
        by_passphrase,
        Passphrase("wrong"),
        "WrongPassphrase",
    )
    yield _unlock("wrong-key", "another key is refused", "P22.11", by_key, RandomKey(bytes(32)), "WrongKey")
    yield _unlock(
        "key-for-a-passphrase", "a store with a passphrase has no key", "P22.11", by_passphrase, key, "WrongKey"
    )
    yield _unlock(
        "passphrase-for-a-key", "a store with a key has no passphrase", "P22.11", by_key, passphrase, "WrongPassphrase"
    )
    for name, change in _bad_costs().items():
        yield _unlock(
            f"cost-{name}", "a cost beyond the bounds is refused before any key is derived", "P22.8", {**by_passphrase, **change},
            passphrase, "NotAStore",
        )  # fmt: skip
    for name, header in _bad_headers(by_passphrase, by_key).items():
        yield _unlock(
            f"header-{name}",
            "a malformed header is refused",
            _clause_of_header(name),
            header,
            passphrase,
            "NotAStore",
        )

    capitals = {**by_passphrase, **{name: str(by_passphrase[name]).upper() for name in ("salt", "key")}}
    yield _unlock("capitals", "hexadecimal digits may be capitals", "P22.8", capitals, passphrase)
    yield _unlock(
        "first-format-and-wrapping", "the first format does not have the field wrapped_by, so it is ignored", "P22.7",
        {**by_passphrase, "format": "unwedged-1", "wrapped_by": "key"}, passphrase,
    )  # fmt: skip
    full = {**by_key, "x": ""}
    full["x"] = "x" * (1000 - len(json.dumps(full)))
    yield _unlock("1000-bytes", "a header may be 1000 bytes long", "P22.6", full, key)
    yield _unlock(
        "1001-bytes",
        "a header may not be longer than 1000 bytes",
        "P22.6",
        {**full, "x": f"{full['x']}x"},
        key,
        "NotAStore",
    )
    for name, secret, header, error in (
        ("by-key", key, by_key, "WrongKey"),
        ("by-passphrase", passphrase, by_passphrase, "WrongPassphrase"),
    ):
        wrapped = bytearray.fromhex(str(header["key"]))
        wrapped[20] ^= 1
        yield _unlock(
            f"{name}-damaged", "a damaged wrapped key looks like a wrong secret", "P22.11",
            {**header, "key": wrapped.hex()}, secret, error,
        )  # fmt: skip
    for name, cost in {
        "n-and-r": Cost(2**15, 1, 1),
        "n-above-2-to-16": Cost(2**16, 2, 1),
        "least": Cost(2, 1, 1),
    }.items():
        yield _unlock(
            f"cost-at-bound-{name}",
            "a cost that is just within the bounds",
            "P22.8",
            _header(passphrase, cost),
            passphrase,
        )
    # The secret is of the other type, so it is refused without a costly derivation. The header is not refused.
    costly: dict[str, dict[str, object]] = {
        "n-times-r": {"n": 2**18}, "n-times-r-times-p": {"n": 2**18, "p": 4}, "p": {"p": 2**19},
    }  # fmt: skip
    for name, change in costly.items():
        yield _unlock(
            f"cost-at-bound-{name}", "a cost that is just within the bounds, and a secret of the other type", "P22.8",
            {**by_passphrase, **change}, key, "WrongKey",
        )  # fmt: skip
    yield _unlock(
        "header-and-secret-wrong", "a malformed header is refused before a secret of the other type", "P22.11",
        {**by_passphrase, "n": 3}, key, "NotAStore",
    )  # fmt: skip


def _secrets() -> Iterator[SealingCase]:
    by_passphrase, by_key = _header(Passphrase(PASSPHRASE)), _header(RandomKey(SECRET_KEY))
    yield _unlock(
        "by-no-character",
        "a passphrase has at least one character",
        "P22.9",
        by_passphrase,
        Passphrase(""),
        "InvalidArgument",
    )
    for name, header in (("malformed", {**by_passphrase, "n": 3}), ("by-key", by_key)):
        yield _unlock(
            f"by-no-character-header-{name}", "a secret that no store has is refused before the header is looked at", "P22.11",
            header, Passphrase(""), "InvalidArgument",
        )  # fmt: skip
    for octets in (SECRET_KEY[:-1], SECRET_KEY + b"x", b""):
        yield _unlock(
            f"by-{len(octets)}-bytes", "a key has 32 bytes", "P22.9", by_key, RandomKey(octets), "InvalidArgument"
        )


def _kinds() -> Iterator[SealingCase]:
    for kind in ("a", "z9_", "a" * 40):
        yield Declare(
            id=f"declare-{kind}", shows="a text that can be the name of a kind", clause="P22.4", valid=True, kind=kind
        )
    for name, kind in {
        "empty": "", "41-letters": "a" * 41, "digit-first": "1a", "line-first": "_a", "capital": "aB", "hyphen": "a-b",
        "not-ascii": "s\u00e9ance", "digit-not-ascii": "a\u0661", "newline": "a\n",
    }.items():  # fmt: skip
        yield Declare(
            id=f"declare-{name}",
            shows="a text that can't be the name of a kind",
            clause="P22.4",
            valid=False,
            error="InvalidArgument",
            kind=kind,
        )


def _clause_of_header(name: str) -> str:
    if name in ("unknown-format", "no-format"):
        return "P22.7"
    return "P22.8" if name.startswith(("salt", "key", "n-")) else "P22.6"


def _bad_costs() -> dict[str, dict[str, object]]:
    return {
        "n-0": {"n": 0},
        "n-1": {"n": 1},
        "n-3": {"n": 3},
        "n-negative": {"n": -2},
        "r-0": {"r": 0},
        "r-negative": {"r": -8},
        "p-0": {"p": 0},
        "n-times-r-beyond-bound": {"n": 2**19},
        "n-times-r-times-p-beyond-bound": {"n": 2**18, "p": 5},
        "n-times-r-overflows-64-bits": {"n": 2**61, "r": 8},
        "n-times-r-overflows-to-little": {"n": 2**63, "r": 2},
        "n-times-r-times-p-overflows-64-bits": {"n": 2, "r": 2**32, "p": 2**31},
        "n-beyond-64-bits": {"n": 2**64},
        "n-beyond-what-r-allows": {"n": 2**16, "r": 1},
        "n-fraction": {"n": 2.0},
        "n-text": {"n": "2"},
        "n-true": {"n": True},
        "r-null": {"r": None},
    }


def _bad_headers(by_passphrase: dict[str, object], by_key: dict[str, object]) -> dict[str, dict[str, object] | bytes]:
    def without(name: str) -> dict[str, object]:
        return {field: value for field, value in by_passphrase.items() if field != name}

    wrapped = str(by_passphrase["key"])
    return {
        "empty": b"",
        "no-json": b"{",
        "no-object": b"[]",
        "byte-order-mark": b"\xef\xbb\xbf" + json.dumps(by_passphrase).encode(),
        "utf-16": json.dumps(by_passphrase).encode("utf-16"),
        "n-exponent": json.dumps(by_passphrase).replace('"n": 2,', '"n": 2e0,').encode(),
        "not-utf-8": b'{"format": "\xff"}',
        "deep": b"[" * 900,
        "nan": {**by_key, "later": float("nan")},
        "infinity": {**by_key, "later": float("-inf")},
        "text-after-it": json.dumps(by_passphrase).encode() + b" {}",
        "longer-than-1000-bytes": {**by_passphrase, "x": "x" * 1000},
        "unknown-format": {**by_passphrase, "format": "unwedged-3"},
        "unknown-wrapping": {**by_passphrase, "wrapped_by": "password"},
        "no-wrapping": without("wrapped_by"),
        **{f"no-{name}": without(name) for name in ("format", "n", "r", "p", "salt", "key")},
        "salt-short": {**by_passphrase, "salt": SALT[:-1].hex()},
        "salt-long": {**by_passphrase, "salt": (SALT + b"x").hex()},
        "salt-with-a-space": {**by_passphrase, "salt": f"{SALT[:1].hex()} {SALT[1:].hex()}"},
        "key-with-a-space": {**by_passphrase, "key": f"{wrapped[:2]} {wrapped[2:]}"},
        "salt-no-hexadecimal": {**by_passphrase, "salt": "x" * 32},
        "key-short": {**by_passphrase, "key": wrapped[:-2]},
        "key-long": {**by_passphrase, "key": wrapped + "00"},
        "key-odd": {**by_passphrase, "key": wrapped[:-1]},
        "key-of-a-key-short": {**by_key, "key": str(by_key["key"])[:-2]},
    }
