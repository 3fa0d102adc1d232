"""Olm through vodozemac: the one place of these tests that knows its traps.

Sessions are mutable, and a decryption that fails may have changed the session it was tried on: so each is tried on a
copy. The numbers that say which message of which chain a ciphertext is are read from the ciphertext itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vodozemac import Account, AnyOlmMessage, Curve25519PublicKey, OlmDecryptionException, Session

from unwedged.store import Codec

_PICKLE_KEY: Final = bytes(32)
"""vodozemac wants one of this length. It protects nothing here: the store seals what it keeps."""
_MAC: Final = 8
"""Bytes of the authentication code at the end of each Olm message."""


class Undecryptable(Exception):
    """vodozemac refused a message; the session is as it was."""


@dataclass(frozen=True, slots=True)
class OlmMessage:
    """A ciphertext: 0 for one that opens a session, 1 for any other, and its bytes."""

    type: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """Which message of which chain a ciphertext is. Each place has a key of its own, to be used once."""

    chain: bytes
    index: int


class OlmSession:
    """One end of an Olm session: whoever has an old one is out of step."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def encrypt(self, text: str) -> OlmMessage:
        kind, body = self._session.encrypt(text.encode()).to_parts()
        return OlmMessage(kind, body)

    def decrypt(self, message: OlmMessage) -> str:
        copy = Session.from_pickle(self._session.pickle(_PICKLE_KEY), _PICKLE_KEY)
        try:
            text = copy.decrypt(AnyOlmMessage.from_parts(message.type, message.body))
        except OlmDecryptionException as error:
            raise Undecryptable(str(error)) from None
        self._session = copy
        return text.decode()

    def pickled(self) -> bytes:
        return self._session.pickle(_PICKLE_KEY).encode()

    @classmethod
    def unpickled(cls, pickle: bytes) -> OlmSession:
        return cls(Session.from_pickle(pickle.decode(), _PICKLE_KEY))


SESSION_CODEC: Final = Codec[OlmSession](OlmSession.pickled, OlmSession.unpickled)
MESSAGE_CODEC: Final = Codec[OlmMessage](
    lambda message: bytes([message.type]) + message.body, lambda encoded: OlmMessage(encoded[0], encoded[1:])
)


@dataclass(frozen=True, slots=True)
class Invitation:
    """What one must know of somebody to open a session: identity key and one-time key, in base64."""

    identity_key: str
    one_time_key: str


def open_session(invitation: Invitation) -> OlmSession:
    """Open a session, as a new account, with whoever made the invitation."""
    identity_key = Curve25519PublicKey.from_base64(invitation.identity_key)
    one_time_key = Curve25519PublicKey.from_base64(invitation.one_time_key)
    return OlmSession(Account().create_outbound_session(identity_key, one_time_key))


class Host:
    """Somebody with an account, whom one session can be opened with."""

    def __init__(self) -> None:
        self._account = Account()
        self._account.generate_one_time_keys(1)
        [one_time_key] = self._account.one_time_keys.values()
        self.invitation = Invitation(self._account.curve25519_key.to_base64(), one_time_key.to_base64())
        self._account.mark_keys_as_published()

    def accept(self, message: OlmMessage) -> tuple[OlmSession, str]:
        """Take the first message of a session: return the session, and what it says."""
        opening = AnyOlmMessage.from_parts(message.type, message.body).to_pre_key()
        assert opening is not None
        sender = Curve25519PublicKey.from_bytes(_Fields(message.body[1:]).chunks[3])
        session, text = self._account.create_inbound_session(sender, opening)
        return OlmSession(session), text.decode()


def place_of(message: OlmMessage) -> Place:
    """Read the chain's public key and the message's index from a ciphertext; both are in the clear."""
    body = message.body
    if message.type == 0:
        body = _Fields(body[1:]).chunks[4]
    fields = _Fields(body[1:-_MAC])
    return Place(fields.chunks[1], fields.numbers[2])


class _Fields:
    """The fields of a protocol buffer, by number: those of bytes, and those that are numbers."""

    def __init__(self, encoded: bytes) -> None:
        self.chunks: dict[int, bytes] = {}
        self.numbers: dict[int, int] = {}
        self._changing_state = encoded
        while self._changing_state:
            field, of_bytes = divmod(self._number(), 8)
            number = self._number()
            if of_bytes:
                self.chunks[field], self._changing_state = self._changing_state[:number], self._changing_state[number:]
            else:
                self.numbers[field] = number

    def _number(self) -> int:
        value = shift = 0
        while True:
            byte, self._changing_state = self._changing_state[0], self._changing_state[1:]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
