"""Key export files: room keys encrypted under a passphrase, to carry them from one device to another.

Matrix specification, client-server API, "Key exports" and "Key export format". The file is text: base64 between two
marker lines. It encodes a version, a salt, a counter block (IV), the number of rounds, the ciphertext, and an HMAC over
all of these. PBKDF2 with HMAC-SHA-512 derives two keys from the passphrase: for AES-256-CTR and for HMAC-SHA-256.

Nothing is decrypted before the HMAC is verified. Both functions take as long as PBKDF2 does: call them in a thread.
"""

from __future__ import annotations

import os
import struct
from base64 import encodebytes
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature

from unwedged.machine.aes_hmac import MOST_ROUNDS, counted, from_passphrase, mac, new_iv, octets
from unwedged.machine.errors import (
    InvalidArgument,
    MalformedExport,
    MalformedExportedSessions,
    RoundsOutOfBounds,
    UnsupportedExport,
    WrongExportPassphrase,
)
from unwedged.machine.identifiers import Curve25519Key, GroupSessionId, RoomId
from unwedged.machine.unpadded_base64 import unpadded
from unwedged.machine.unshown import Unshown
from unwedged.store.arguments import whole_of

ROUNDS: Final = 500_000
"""The default for new files, as in Element. It takes some tenths of a second."""
FEWEST_ROUNDS: Final = 100_000
"""The specification's minimum for new files. An old file may have fewer."""

_BEGIN: Final = "-----BEGIN MEGOLM SESSION DATA-----"
_END: Final = "-----END MEGOLM SESSION DATA-----"
_VERSION: Final = 1
_PREFIX: Final = struct.Struct(">B16s16sI")
_MAC: Final = 32


@dataclass(frozen=True, slots=True)
class ExportedSession:
    """A Megolm session in a key export file. The names are those of the specification."""

    algorithm: str
    room_id: RoomId
    sender_key: Curve25519Key
    session_id: GroupSessionId
    session_key: str = field(repr=False)
    """A secret, in the session export format. It decrypts from the first message on that its receiver may read."""
    sender_claimed_keys: Mapping[str, str]
    forwarding_curve25519_key_chain: tuple[Curve25519Key, ...]
    shared_history: bool
    """Whether the session may be given to users that are invited later."""


class SessionEntry(
    Unshown,
    msgspec.Struct,
    rename={
        "m_shared_history": "m.shared_history",
        "msc3061_shared_history": "org.matrix.msc3061.shared_history",
    },
):
    """A session in JSON. Fields that older programs leave out may be missing. Unknown fields are ignored."""

    algorithm: str
    room_id: RoomId
    sender_key: Curve25519Key
    session_id: GroupSessionId
    session_key: str
    sender_claimed_keys: dict[str, str] = {}
    forwarding_curve25519_key_chain: tuple[Curve25519Key, ...] = ()
    shared_history: object = msgspec.UNSET
    m_shared_history: object = msgspec.UNSET
    msc3061_shared_history: object = msgspec.UNSET

    @classmethod
    def of(cls, session: ExportedSession) -> SessionEntry:
        """Return the JSON of a session.

        matrix-sdk-crypto reads ``m.shared_history`` and not the specification's ``shared_history``. It refuses a
        session that has ``m.shared_history`` and the older spelling. So only the first two are written.
        """
        return cls(
            algorithm=session.algorithm,
            room_id=session.room_id,
            sender_key=session.sender_key,
            session_id=session.session_id,
            session_key=session.session_key,
            sender_claimed_keys=dict(session.sender_claimed_keys),
            forwarding_curve25519_key_chain=session.forwarding_curve25519_key_chain,
            shared_history=session.shared_history,
            m_shared_history=session.shared_history,
        )

    def session(self) -> ExportedSession:
        """Return the session."""
        flags = (self.shared_history, self.m_shared_history, self.msc3061_shared_history)
        return ExportedSession(
            algorithm=self.algorithm,
            room_id=self.room_id,
            sender_key=self.sender_key,
            session_id=self.session_id,
            session_key=self.session_key,
            sender_claimed_keys=self.sender_claimed_keys,
            forwarding_curve25519_key_chain=self.forwarding_curve25519_key_chain,
            # Any other value than ``true`` says that it is not shareable: "Shareable encryption sessions".
            shared_history=any(flag is True for flag in flags),
        )


_ENTRIES: Final = msgspec.json.Decoder(list[SessionEntry])


def encrypt_export(sessions: Iterable[ExportedSession], passphrase: str, rounds: int = ROUNDS) -> str:
    """Return a key export file with these sessions.

    Raises ``InvalidArgument`` for an empty passphrase, for rounds outside ``FEWEST_ROUNDS`` to ``MOST_ROUNDS``, and for
    text that can't be encoded as UTF-8.
    """
    if not passphrase:
        raise InvalidArgument("a passphrase has at least one character")
    if not FEWEST_ROUNDS <= whole_of(rounds, "the number of rounds") <= MOST_ROUNDS:
        raise InvalidArgument(f"{rounds} rounds: a key export file has {FEWEST_ROUNDS} to {MOST_ROUNDS}")
    encoded = octets(passphrase)
    try:
        plaintext = msgspec.json.encode([SessionEntry.of(session) for session in sessions])
    except UnicodeEncodeError:  # This exception holds the text: it must not become the context of what is raised.
        plaintext = None
    if plaintext is None:
        raise InvalidArgument("a session has text that can't be encoded: it holds a lone surrogate")
    return _armoured(_seal(plaintext, encoded, rounds))


def decrypt_export(text: str, passphrase: str) -> list[ExportedSession]:
    """Return the sessions of a key export file. Nothing proves that a session comes from the sender that it names.

    Text before and after the file is ignored. Raises ``MalformedExport`` if the file is cut or is something else,
    ``UnsupportedExport``, ``RoundsOutOfBounds``, ``WrongExportPassphrase`` (also if the file was changed),
    ``MalformedExportedSessions``, and ``InvalidArgument`` for a passphrase that can't be encoded as UTF-8.
    """
    plaintext = _open(_without_armour(text), octets(passphrase))
    try:
        return [entry.session() for entry in _ENTRIES.decode(plaintext)]
    except (msgspec.DecodeError, RecursionError) as error:
        reason = str(error)  # It names positions and types, but no value.
    except UnicodeDecodeError:  # This exception holds the plaintext: it must not become the context of what is raised.
        reason = "it is not UTF-8"
    raise MalformedExportedSessions(f"the file was decrypted, and holds no list of sessions: {reason}")


def _armoured(payload: bytes) -> str:
    return f"{_BEGIN}\n{encodebytes(payload).decode('ascii')}{_END}\n"


def _without_armour(text: str) -> bytes:
    _, begin, rest = text.partition(_BEGIN)
    body, end, _ = rest.partition(_END)
    if not begin:
        raise MalformedExport(f"this is no key export file: it has no line '{_BEGIN}'")
    if not end:
        raise MalformedExport(f"the file is cut: it has no line '{_END}'")
    try:
        return unpadded("".join(body.split()))
    except ValueError:
        raise MalformedExport("the file is damaged: between its first and its last line there is no base64") from None


def _seal(plaintext: bytes, passphrase: bytes, rounds: int) -> bytes:
    """Encrypt, by steps 2 to 4 of the specification."""
    salt, iv = os.urandom(16), new_iv()
    key, mac_key = _derive(passphrase, salt, rounds)
    content = _PREFIX.pack(_VERSION, salt, iv, rounds) + counted(key, iv, plaintext)
    return content + mac(mac_key, content).finalize()


def _open(payload: bytes, passphrase: bytes) -> bytes:
    """Verify the HMAC, then decrypt."""
    if payload and payload[0] != _VERSION:
        raise UnsupportedExport(f"the file has version {payload[0]}, and only {_VERSION} is known")
    content, expected = payload[:-_MAC], payload[-_MAC:]
    if len(content) < _PREFIX.size:
        raise MalformedExport("the file is cut: it is shorter than any")
    _, salt, iv, rounds = _PREFIX.unpack_from(content)
    ciphertext = content[_PREFIX.size :]
    if int.from_bytes(iv[8:], "big") + len(ciphertext) // 16 >= 2**64:
        raise MalformedExport("the file's counter overflows, and programs disagree about what follows")
    if not 1 <= rounds <= MOST_ROUNDS:
        raise RoundsOutOfBounds(f"the file asks for {rounds} rounds, and 1 to {MOST_ROUNDS} are accepted")
    key, mac_key = _derive(passphrase, salt, rounds)
    try:
        mac(mac_key, content).verify(expected)
    except InvalidSignature:
        raise WrongExportPassphrase("the passphrase is not the file's, or the file was changed") from None
    return counted(key, iv, ciphertext)


def _derive(passphrase: bytes, salt: bytes, rounds: int) -> tuple[bytes, bytes]:
    """Return the key of AES and the key of HMAC."""
    derived = from_passphrase(passphrase, salt, rounds, 64)
    return derived[:32], derived[32:]
