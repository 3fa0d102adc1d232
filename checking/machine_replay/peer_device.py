"""Define another device that receives room keys. Each message that it sends begins a new session."""

from __future__ import annotations

from typing import Final, cast

import msgspec

from checking.errors import CheckError
from checking.machine_replay.device_keys import account_of, signed_device_keys
from checking.machine_replay.homeserver import Device, Homeserver, Json
from unwedged.machine.errors import MessageUnreadable
from unwedged.machine.identifiers import OLM, Curve25519Key, UserId
from unwedged.machine.ratchets import PRE_KEY, Account, OlmMessage, OlmSession
from unwedged.machine.records import KnownDevice
from unwedged.machine.signing import signable, with_signature

_ROOT: Final = "/_matrix/client/v3"


class PeerDevice:
    """A device with only one one-time key, with which all Olm sessions to it are made.

    This device never answers over these sessions. So each message in them is a pre-key message, and it stores none of
    them. Of the sessions that it begins itself it stores the first state, which reads each message in them.
    """

    def __init__(self, device: Device) -> None:
        """Make the one-time key."""
        self.device = device
        account = account_of(device)
        ((name, key),) = account.make_one_time_keys(1).items()
        unsigned: Json = {"key": key}
        signature = account.sign(signable(unsigned))
        self._one_time_key = {
            f"signed_curve25519:{name}": with_signature(
                unsigned, UserId(device.user), f"ed25519:{device.device}", signature
            )
        }
        self._account = account.pickle()
        self._begun: list[str] = []
        self.curve25519 = account.curve25519
        self._since: str | None = None

    def sign_in(self, server: Homeserver) -> None:
        """Sign in at a homeserver, and upload all keys."""
        server.sign_in(self.device)
        self.publish(server)

    def publish(self, server: Homeserver) -> None:
        """Upload all keys, including the one-time key if it was claimed."""
        keys = {"device_keys": signed_device_keys(self.device), "one_time_keys": self._one_time_key}
        server.request(self.device, "POST", f"{_ROOT}/keys/upload", keys)

    def acknowledge(self, server: Homeserver) -> None:
        """Acknowledge all messages that have arrived, so the homeserver forgets them."""
        self._since = str(self._sync(server)["next_batch"])

    def contents(self, server: Homeserver) -> list[Json]:
        """Return the contents of the messages that wait at the homeserver for the device."""
        events = cast("dict[str, list[Json]]", self._sync(server)["to_device"])["events"]
        return [cast("Json", event["content"]) for event in events]

    def decrypted(self, content: Json) -> Json:
        """Return the decrypted event in the content of an encrypted message."""
        return cast("Json", self.opened(content)[1]["content"])

    def opened(self, content: Json) -> tuple[str, Json]:
        """Return the session ID of an encrypted message, and the decrypted event in it."""
        encrypted = cast("dict[str, Json]", content["ciphertext"])[self.curve25519]
        message = OlmMessage(cast("int", encrypted["type"]), str(encrypted["body"]))
        if message.type == PRE_KEY:
            sender_key = Curve25519Key(str(content["sender_key"]))
            session, plaintext = Account.from_pickle(self._account).inbound_session(sender_key, message)
        else:
            session, plaintext = self._answer(message)
        return session.session_id, msgspec.json.decode(plaintext, type=Json)

    def encrypted(self, server: Homeserver, recipient: KnownDevice, event_type: str, content: Json) -> Json:
        """Claim a key of another device, and return the content of an event that is encrypted for it."""
        user, device = str(recipient.keys["user_id"]), recipient.device_id
        claim: Json = {"one_time_keys": {user: {device: "signed_curve25519"}}}
        _, response = server.request(self.device, "POST", f"{_ROOT}/keys/claim", claim)
        ((_, key),) = cast("dict[str, dict[str, dict[str, Json]]]", response["one_time_keys"])[user][device].items()
        own = signed_device_keys(self.device)
        payload = {
            "type": event_type,
            "content": content,
            "sender": self.device.user,
            "sender_device_keys": own,
            "recipient": user,
            "recipient_keys": {"ed25519": recipient.ed25519},
            "keys": {"ed25519": account_of(self.device).ed25519},
        }
        session = Account.from_pickle(self._account).outbound_session(recipient.curve25519, str(key["key"]))
        message = session.encrypt(msgspec.json.encode(payload))
        self._begun.append(session.pickle())
        return {
            "algorithm": OLM,
            "sender_key": self.curve25519,
            "ciphertext": {recipient.curve25519: {"type": message.type, "body": message.body}},
        }

    def unreadable(self, recipient: Curve25519Key) -> Json:
        """Return the content of a message over a session that the recipient does not have."""
        stranger = Account()
        ((_, key),) = self._one_time_key.items()
        message = stranger.outbound_session(self.curve25519, str(key["key"])).encrypt(b"")
        session, _ = Account.from_pickle(self._account).inbound_session(stranger.curve25519, message)
        encrypted = session.encrypt(b"")
        return {
            "algorithm": OLM,
            "sender_key": self.curve25519,
            "ciphertext": {recipient: {"type": encrypted.type, "body": encrypted.body}},
        }

    def _answer(self, message: OlmMessage) -> tuple[OlmSession, bytes]:
        for begun in map(OlmSession.from_pickle, self._begun):
            try:
                return begun.decrypt(message)
            except MessageUnreadable:
                continue
        raise CheckError("a message belongs to no session with the device")

    def _sync(self, server: Homeserver) -> Json:
        status, response = server.request(
            self.device, "GET", f"{_ROOT}/sync" + ("" if self._since is None else f"?since={self._since}")
        )
        assert status == 200
        return response
