"""Olm, Megolm and the encryption of backups by vodozemac, which no other module imports.

This module adds types, and errors that hold no part of a message. It also makes sure that a failed decryption changes
nothing: a session of vodozemac may change when a decryption fails, so such an object is never used again (M7.4, M7.8).

Pickles are not encrypted here, since the store seals every record.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import vodozemac

from unwedged.machine.errors import MalformedMessage, MessageUnreadable, UnknownIndex
from unwedged.machine.identifiers import Curve25519Key, Ed25519Key, GroupSessionId
from unwedged.machine.unpadded_base64 import to_unpadded, unpadded
from unwedged.store import MalformedRecord

_PICKLE_KEY: Final = bytes(32)

PRE_KEY: Final = 0
"""The type of an Olm message that begins a session."""

DIGEST_BYTES: Final = 8

MOST_ONE_TIME_KEYS: Final = 50
"""How many one-time keys an account keeps at the server: half of what vodozemac can hold unpublished."""


@dataclass(frozen=True)
class OlmMessage:
    """An encrypted message: its type, and its body in base64."""

    type: int
    body: str

    def digest(self) -> bytes:
        """Return the digest by which a repetition of the message is recognised (M7.5)."""
        return hashlib.sha256(f"{self.type}|{self.body}".encode()).digest()[:DIGEST_BYTES]

    def session_id(self) -> str | None:
        """Return the id of the session of a pre-key message, otherwise ``None``. Raises ``MalformedMessage``."""
        return self._pre_key().session_id() if self.type == PRE_KEY else None

    def _pre_key(self) -> vodozemac.PreKeyMessage:
        try:
            message: vodozemac.PreKeyMessage = vodozemac.PreKeyMessage.from_base64(self.body)
        except ValueError:
            raise MalformedMessage("this is no Olm pre-key message") from None
        return message

    def _any(self) -> vodozemac.AnyOlmMessage:
        if self.type == PRE_KEY:
            return self._pre_key().to_any()
        try:
            return vodozemac.AnyOlmMessage.from_parts(self.type, unpadded(self.body))
        except (ValueError, OverflowError):
            raise MalformedMessage("this is no Olm message") from None


class OlmSession:
    """One Olm session. It is unpickled only when it is used."""

    __slots__ = ("_pickle", "_session")

    def __init__(self, session: vodozemac.Session | None, pickle: str | None = None) -> None:
        self._session = session
        self._pickle = pickle

    @classmethod
    def from_pickle(cls, pickle: str) -> OlmSession:
        """Return a session that was pickled."""
        return cls(None, pickle)

    def pickle(self) -> str:
        """Return all there is to the session."""
        if self._pickle is None:
            assert self._session is not None
            self._pickle = self._session.pickle(_PICKLE_KEY)
        return self._pickle

    @property
    def session_id(self) -> str:
        """The id of the session, which is the same at both ends."""
        return self._unpickled().session_id

    def encrypt(self, plaintext: bytes) -> OlmMessage:
        """Encrypt, and advance the session by one message."""
        session = self._unpickled()
        self._pickle = None
        kind, body = session.encrypt(plaintext).to_parts()
        return OlmMessage(kind, to_unpadded(body))

    def decrypt(self, message: OlmMessage) -> tuple[OlmSession, bytes]:
        """Return the session after ``message``, and the plaintext. This object does not change.

        Raises ``MalformedMessage`` and ``MessageUnreadable``.
        """
        parsed = message._any()  # noqa: SLF001 (a part of this module)
        self.pickle()
        # The unpickled object is given away. If this session is used again, it is unpickled again.
        session, self._session = self._unpickled(), None
        try:
            plaintext = session.decrypt(parsed)
        except vodozemac.OlmDecryptionException:
            raise MessageUnreadable("the Olm session does not decrypt this message") from None
        return OlmSession(session), plaintext

    def _unpickled(self) -> vodozemac.Session:
        if self._session is None:
            assert self._pickle is not None
            self._session = vodozemac.Session.from_pickle(self._pickle, _PICKLE_KEY)
        return self._session


class Account:
    """The Olm account of a device: its identity keys, and the private halves of its one-time and fallback keys.

    It is unpickled only when it is used, since that takes half a millisecond and most messages do not need it.
    """

    __slots__ = ("_account", "_pickle")

    def __init__(self, account: vodozemac.Account | None = None, pickle: str | None = None) -> None:
        self._account = vodozemac.Account() if account is None and pickle is None else account
        self._pickle = pickle

    @classmethod
    def from_pickle(cls, pickle: str) -> Account:
        """Return an account that was pickled. If the pickle can't be read, the first use raises ``MalformedRecord``."""
        return cls(None, pickle)

    def pickle(self) -> str:
        """Return all there is to the account."""
        return self._unpickled().pickle(_PICKLE_KEY)

    @property
    def ed25519(self) -> Ed25519Key:
        """The key that signs for the device."""
        return Ed25519Key(self._unpickled().ed25519_key.to_base64())

    @property
    def curve25519(self) -> Curve25519Key:
        """The key that names the device in Olm."""
        return Curve25519Key(self._unpickled().curve25519_key.to_base64())

    def sign(self, message: bytes) -> str:
        """Return a signature of the device, in base64."""
        return self._unpickled().sign(message).to_base64()

    def make_one_time_keys(self, count: int) -> dict[str, Curve25519Key]:
        """Make ``count`` one-time keys, by id, and mark them as published: they are never offered again (M2.9)."""
        account = self._unpickled()
        account.generate_one_time_keys(count)
        made = {name: Curve25519Key(key.to_base64()) for name, key in account.one_time_keys.items()}
        account.mark_keys_as_published()
        return made

    def make_fallback_key(self) -> dict[str, Curve25519Key]:
        """Make a fallback key, by id. The account keeps the private halves of the last two (M4.1)."""
        account = self._unpickled()
        # vodozemac's type stubs lack both names.
        account.generate_fallback_key()  # type: ignore[attr-defined]
        made: dict[str, vodozemac.Curve25519PublicKey] = account.fallback_key  # type: ignore[attr-defined]
        account.mark_keys_as_published()
        return {name: Curve25519Key(key.to_base64()) for name, key in made.items()}

    def outbound_session(self, identity_key: Curve25519Key, one_time_key: str) -> OlmSession:
        """Begin a session with a device by one of its keys. Raises ``MalformedMessage`` if one is not a usable key."""
        try:
            identity = vodozemac.Curve25519PublicKey.from_base64(identity_key)
            one_time = vodozemac.Curve25519PublicKey.from_base64(one_time_key)
            return OlmSession(self._unpickled().create_outbound_session(identity, one_time))
        except ValueError:  # also for a point that gives no shared secret
            raise MalformedMessage("this is no Curve25519 key that makes a secret") from None

    def inbound_session(self, sender_key: Curve25519Key, message: OlmMessage) -> tuple[OlmSession, bytes]:
        """Make the session of a pre-key message; return it with the plaintext. The message's one-time key is removed.

        Raises ``MalformedMessage`` and ``MessageUnreadable``; then the account has not changed (M7.8).
        """
        try:
            sender = vodozemac.Curve25519PublicKey.from_base64(sender_key)
        except ValueError:
            raise MalformedMessage("this is no Curve25519 key") from None
        if sender.to_base64() != sender_key:
            # With two spellings of its key, a device would have two records with separate digests of messages.
            raise MalformedMessage("a Curve25519 key is not written as the specification demands")
        pre_key = message._pre_key()  # noqa: SLF001 (a part of this module)
        try:
            session, plaintext = self._unpickled().create_inbound_session(sender, pre_key)
        except vodozemac.SessionCreationException:
            raise MessageUnreadable("no session can be made of this pre-key message") from None
        return OlmSession(session), plaintext

    def _unpickled(self) -> vodozemac.Account:
        if self._account is None:
            assert self._pickle is not None
            try:
                self._account = vodozemac.Account.from_pickle(self._pickle, _PICKLE_KEY)
            except vodozemac.PickleException:
                raise MalformedRecord("the account can't be read") from None
        return self._account


class OutboundGroup:
    """A Megolm session that this device encrypts with."""

    __slots__ = ("_session",)

    def __init__(self, session: vodozemac.GroupSession | None = None) -> None:
        self._session = vodozemac.GroupSession() if session is None else session

    @classmethod
    def from_pickle(cls, pickle: str) -> OutboundGroup:
        """Return a session that was pickled."""
        return cls(vodozemac.GroupSession.from_pickle(pickle, _PICKLE_KEY))

    def pickle(self) -> str:
        """Return all there is to the session."""
        return self._session.pickle(_PICKLE_KEY)

    @property
    def session_id(self) -> GroupSessionId:
        """The id of the session, which is the same for everybody."""
        return GroupSessionId(self._session.session_id)

    @property
    def index(self) -> int:
        """The index of the next message."""
        return self._session.message_index

    @property
    def session_key(self) -> str:
        """The secret that decrypts from ``index`` on."""
        return self._session.session_key.to_base64()

    def encrypt(self, plaintext: bytes) -> str:
        """Return the ciphertext in base64, and advance the session by one index."""
        return self._session.encrypt(plaintext).to_base64()


class InboundGroup:
    """A Megolm session that this device can decrypt from some index on. Decryption does not change it."""

    __slots__ = ("_session",)

    def __init__(self, session: vodozemac.InboundGroupSession) -> None:
        self._session = session

    @classmethod
    def from_session_key(cls, session_key: str) -> InboundGroup:
        """Return the session of a key in the sharing format, signed by its maker. Raises ``MalformedMessage``."""
        try:
            return cls(vodozemac.InboundGroupSession(vodozemac.SessionKey(session_key)))
        except ValueError:
            raise MalformedMessage("this is no Megolm session key") from None

    @classmethod
    def from_exported(cls, exported_key: str) -> InboundGroup:
        """Return the session of an exported key, which nobody has signed. Raises ``MalformedMessage``."""
        try:
            return cls(vodozemac.InboundGroupSession.import_session(vodozemac.ExportedSessionKey(exported_key)))
        except ValueError:
            raise MalformedMessage("this is no exported Megolm session key") from None

    @classmethod
    def from_pickle(cls, pickle: str) -> InboundGroup:
        """Return a session that was pickled."""
        return cls(vodozemac.InboundGroupSession.from_pickle(pickle, _PICKLE_KEY))

    def pickle(self) -> str:
        """Return all there is to the session."""
        return self._session.pickle(_PICKLE_KEY)

    @property
    def session_id(self) -> GroupSessionId:
        """The id that everybody knows it by."""
        return GroupSessionId(self._session.session_id)

    @property
    def first_index(self) -> int:
        """The first index that it can decrypt."""
        return self._session.first_known_index

    def exported_at(self, index: int) -> str | None:
        """Return the key that decrypts from ``index`` on, or ``None`` if that is before ``first_index``."""
        exported = self._session.export_at(index)
        return None if exported is None else exported.to_base64()

    def is_same_from(self, other: InboundGroup) -> bool:
        """Return whether the two are equal from the later of their first indices on (M11.1)."""
        index = max(self.first_index, other.first_index)
        return self.session_id == other.session_id and self.exported_at(index) == other.exported_at(index)

    def decrypt(self, ciphertext: str) -> tuple[bytes, int]:
        """Return the plaintext and its index. Raises ``MalformedMessage``, ``UnknownIndex``, ``MessageUnreadable``."""
        message = _megolm_message(ciphertext)
        if message.message_index() < self.first_index:
            raise UnknownIndex(f"message {message.message_index()} comes before {self.first_index}, the first known")
        try:
            decrypted = self._session.decrypt(message)
        except vodozemac.MegolmDecryptionException:
            raise MessageUnreadable("the Megolm session does not decrypt this message") from None
        return decrypted.plaintext, decrypted.message_index


@dataclass(frozen=True)
class BackupMessage:
    """A ciphertext for a backup, in base64. The names are those of the specification."""

    ephemeral: str
    ciphertext: str
    mac: str
    """It authenticates nothing, by an old fault of all programs: whoever can write to a backup can change it."""


class BackupEncryption:
    """The public key of a backup. Anybody can encrypt for it."""

    __slots__ = ("_encryption", "public_key")

    def __init__(self, public_key: str) -> None:
        """Raises ``MalformedMessage`` if it is not a key, or a key that gives no shared secret."""
        try:
            key = vodozemac.Curve25519PublicKey.from_base64(public_key)
            self._encryption = vodozemac.PkEncryption.from_key(key)
            self._encryption.encrypt(b"")
        except ValueError:
            raise MalformedMessage("this is no Curve25519 key that makes a secret") from None
        self.public_key = Curve25519Key(key.to_base64())
        """The public key in unpadded base64."""

    def encrypt(self, plaintext: bytes) -> BackupMessage:
        """Encrypt with a new ephemeral key."""
        # Not by to_base64, whose order of the three parts differs from its documentation.
        message = self._encryption.encrypt(plaintext)
        return BackupMessage(*map(to_unpadded, (message.ephemeral_key, message.ciphertext, message.mac)))


class BackupDecryption:
    """The decryption key of a backup."""

    __slots__ = ("_decryption", "key")

    def __init__(self, key: bytes | None = None) -> None:
        """Make a new key, or use ``key`` of 32 bytes. Raises ``MalformedMessage`` if it is not a key."""
        try:
            secret = vodozemac.Curve25519SecretKey() if key is None else vodozemac.Curve25519SecretKey.from_bytes(key)
        except ValueError:
            raise MalformedMessage("the decryption key of a backup has 32 bytes") from None
        self._decryption = vodozemac.PkDecryption.from_key(secret)
        self.key: bytes = secret.to_bytes()

    @property
    def public_key(self) -> Curve25519Key:
        """The public key that others encrypt for."""
        return Curve25519Key(self._decryption.public_key.to_base64())

    def decrypt(self, message: BackupMessage) -> bytes:
        """Return the plaintext. Raises ``MalformedMessage`` and ``MessageUnreadable``."""
        try:
            parts = [unpadded(part) for part in (message.ciphertext, message.mac, message.ephemeral)]
            encrypted = vodozemac.Message(*parts)
        except ValueError:
            raise MalformedMessage("a backed-up room key is not built as the specification demands") from None
        try:
            return self._decryption.decrypt(encrypted)
        except ValueError:
            raise MessageUnreadable("the decryption key does not decrypt this backed-up room key") from None


def index_of(ciphertext: str) -> int:
    """Return the index of a message in its Megolm session. Raises ``MalformedMessage``."""
    index: int = _megolm_message(ciphertext).message_index()
    return index


def _megolm_message(ciphertext: str) -> vodozemac.MegolmMessage:
    try:
        return vodozemac.MegolmMessage.from_base64(ciphertext)
    except ValueError:
        raise MalformedMessage("this is no Megolm message") from None
