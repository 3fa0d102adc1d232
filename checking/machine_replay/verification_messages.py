"""Translate the messages of a verification into the terms of the module Verification, and make those of an attacker.

In the model, a key has an owner, a commitment names a key, and a MAC names two ephemeral keys and an identity key. Here
these are found by trial: each possible value is computed, and compared with the message.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, cast

import msgspec

from checking.errors import CheckError
from checking.machine_replay.homeserver import Json
from checking.replay.model_states import function_of
from checking.tlc.values import ModelValue, Value, record
from unwedged.machine import identifiers as ids
from unwedged.machine import sas, verification
from unwedged.machine.records import Sas
from unwedged.machine.sas import Macs

NOTHING: Final = ModelValue("Nothing")
CANCEL: Final = record(type="cancel")


class Message(NamedTuple):
    """A message, as an event and in the model."""

    event_type: str
    content: Json
    value: Value


class End(NamedTuple):
    """One end of a verification."""

    whose: str
    """The model's name of its ephemeral key."""
    device: ids.Device
    identities: Mapping[str, Mapping[str, str]]
    """The keys that a MAC may be of, by their IDs, for each name in the model."""


def start_of(by: str) -> Value:
    """Return the model's message that starts a comparison."""
    return record(type="start", by=by)


def accept_of(key: str) -> Value:
    """Return the model's message that commits to an ephemeral key."""
    return record(type="accept", commitment=key)


def key_of(key: str) -> Value:
    """Return the model's message that reveals an ephemeral key."""
    return record(type="key", key=key)


def mac_of(one: str, other: str, identity: str) -> Value:
    """Return the model's message with a MAC of an identity key, under the secret of two ephemeral keys."""
    return record(type="mac", secret=frozenset({one, other}), identity=identity)


def type_of(message: Value) -> str:
    """Return the type of a message of the model."""
    return str(function_of(message)["type"])


@dataclass
class Names:
    """The model's names of the ephemeral keys, commitments and MACs of one verification."""

    transaction_id: str
    secrets: dict[str, bytes] = field(
        default_factory=lambda: {name: secrets.token_bytes(sas.SECRET_BYTES) for name in ("attackers", "chosen")}
    )
    """The private halves of the ephemeral keys, by owner. The attacker has two."""
    keys: dict[str, str] = field(default_factory=dict)
    """The owner of each public half."""
    commitments: dict[str, str] = field(default_factory=dict)
    """The owner of the key in each commitment."""
    macs: dict[bytes, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the keys of the attacker."""
        self.keys |= {sas.public_key(secret): name for name, secret in self.secrets.items()}

    def note(self, whose: str, exchange: Sas) -> None:
        """Note the ephemeral key of a flow, and the commitment to it."""
        if self.secrets.get(whose) != exchange.secret:
            self.secrets[whose] = exchange.secret
            self.keys[sas.public_key(exchange.secret)] = whose
        if not exchange.we_started:
            fits = "forged" not in exchange.start
            self.commitments[self.commitment(whose, exchange.start)] = whose if fits else "other"

    def commitment(self, whose: str, start: Json) -> str:
        """Return the commitment to a key and to the start message."""
        return sas.commitment(sas.public_key(self.secrets[whose]), start)

    def message(self, event_type: str, content: Json, sender: End, receiver: End) -> Message | None:
        """Return a message with its value in the model, or ``None`` for a type that the model leaves out."""
        match event_type:
            case verification.START:
                value = start_of("attackers" if "forged" in content else sender.whose)
            case verification.ACCEPT:
                value = accept_of(self.commitments[str(content["commitment"])])
            case verification.KEY:
                value = key_of(self.keys[str(content["key"])])
            case verification.MAC:
                value = self._mac(msgspec.convert((content["mac"], content["keys"]), Macs), sender, receiver)
            case verification.CANCEL:
                value = CANCEL
            case _:
                return None
        return Message(event_type, content, value)

    def of_macs(self, macs: Macs) -> Value:
        """Return the value in the model of a received MAC."""
        return self.macs[_encoded(macs)]

    def forged(self, value: Value, start: Json | None, own: End, peer: End, serial: int) -> Message:
        """Return a message that the attacker makes in the peer's name. Its ``serial`` makes each message different.

        ``start`` is our own start message, if we have sent one.
        """
        fields = function_of(value)
        content: Json = {"transaction_id": self.transaction_id, "forged": serial}
        match fields["type"]:
            case "start":
                content |= {"from_device": peer.device.device_id, **START_FIELDS}
                return Message(verification.START, content, value)
            case "accept":
                committed = str(fields["commitment"])
                commitment = self.commitment(committed, start or {})
                self.commitments[commitment] = committed
                content |= {**ACCEPT_FIELDS, "commitment": commitment}
                return Message(verification.ACCEPT, content, value)
            case "key":
                content["key"] = sas.public_key(self.secrets[str(fields["key"])])
                return Message(verification.KEY, content, value)
            case "mac":
                (whose,) = cast("frozenset[str]", fields["secret"]) - {own.whose}
                # Before we have a key, the attacker's MAC fits no key.
                ours = self.secrets.get(own.whose, self.secrets["attackers"])
                shared = sas.shared_secret(self.secrets[whose], sas.public_key(ours))
                keys = peer.identities[str(fields["identity"])]
                macs = sas.macs(shared, peer.device, own.device, self.transaction_id, keys)
                self.macs[_encoded(macs)] = value
                content |= {"mac": macs.keys, "keys": macs.key_ids}
                return Message(verification.MAC, content, value)
        return Message(verification.CANCEL, {**content, "code": verification.USER}, value)

    def replaced(self, message: Message, start: Json | None) -> Message:
        """Return a message in which the attacker has replaced the key or the commitment by its own."""
        key = "attackers"
        if message.event_type == verification.KEY:
            content = {**message.content, "key": sas.public_key(self.secrets[key])}
            return Message(message.event_type, content, key_of(key))
        commitment = self.commitment(key, start or {})
        self.commitments[commitment] = key
        return Message(message.event_type, {**message.content, "commitment": commitment}, accept_of(key))

    def _mac(self, macs: Macs, sender: End, receiver: End) -> Value:
        """Return the model's MAC: find the secret and the identity key of a real MAC. Raises ``CheckError``."""
        if (encoded := _encoded(macs)) in self.macs:
            return self.macs[encoded]
        for key, whose in self.keys.items():
            shared = sas.shared_secret(self.secrets[sender.whose], key)
            for identity, keys in sender.identities.items():
                if sas.macs(shared, sender.device, receiver.device, self.transaction_id, keys) == macs:
                    return self.macs.setdefault(encoded, mac_of(sender.whose, whose, identity))
        raise CheckError(f"a MAC of {sender.device.user_id} is made under an unknown secret")


START_FIELDS: Final[Json] = {
    "method": "m.sas.v1",
    "key_agreement_protocols": [sas.KEY_AGREEMENT],
    "hashes": [sas.HASH],
    "message_authentication_codes": [sas.CODE],
    "short_authentication_string": [sas.DECIMAL, sas.EMOJI],
}
ACCEPT_FIELDS: Final[Json] = {
    "method": "m.sas.v1",
    "key_agreement_protocol": sas.KEY_AGREEMENT,
    "hash": sas.HASH,
    "message_authentication_code": sas.CODE,
    "short_authentication_string": [sas.DECIMAL, sas.EMOJI],
}


def _encoded(macs: Macs) -> bytes:
    return msgspec.json.encode(macs, order="sorted")
