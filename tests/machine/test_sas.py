"""Short authentication strings agree with vodozemac and with the vectors of other libraries."""

from __future__ import annotations

import secrets

import hypothesis.strategies as st
import pytest
import vodozemac
from hypothesis import given, settings

from unwedged.machine import sas
from unwedged.machine.errors import MalformedMessage, NotCanonical
from unwedged.machine.identifiers import Device, DeviceId, JsonObject, UserId
from unwedged.machine.sas import Ephemeral, Macs
from unwedged.machine.unpadded_base64 import to_unpadded

ALICE = Device(UserId("@alice:example.org"), DeviceId("PHONE"))
BOB = Device(UserId("@bob:example.org"), DeviceId("LAPTOP"))
SECRETS = st.binary(min_size=32, max_size=32)
KEYS = {"ed25519:LAPTOP": "a key", "ed25519:master": "another"}


# M16.8
@given(secret=SECRETS, alice_started=st.booleans(), name=st.text(st.characters(codec="utf-8"), max_size=20))
@settings(max_examples=300, deadline=None)
def test_strings_and_codes_are_those_of_vodozemac(secret: bytes, name: str, *, alice_started: bool) -> None:
    theirs = vodozemac.Sas()
    ours, their_key = sas.public_key(secret), theirs.public_key.to_base64()
    established = theirs.diffie_hellman(vodozemac.Curve25519PublicKey.from_base64(ours))
    shared = sas.shared_secret(secret, their_key)
    starter, accepter = Ephemeral(ALICE, ours), Ephemeral(BOB, their_key)
    if not alice_started:
        starter, accepter = accepter, starter
    shown = sas.short_string(shared, starter, accepter, name)
    parts = ["MATRIX_KEY_VERIFICATION_SAS", *starter.device, starter.key, *accepter.device, accepter.key, name]
    expected = established.bytes("|".join(parts))
    assert shown.decimals == expected.decimals
    assert shown.emoji == tuple(sas.EMOJIS[index] for index in expected.emoji_indices)
    info = "MATRIX_KEY_VERIFICATION_MAC" + "".join([*BOB, *ALICE, name])
    codes = {key_id: established.calculate_mac(key, info + key_id) for key_id, key in KEYS.items()}
    of_ids = established.calculate_mac("ed25519:LAPTOP,ed25519:master", info + "KEY_IDS")
    assert sas.macs(shared, BOB, ALICE, name, KEYS) == (codes, of_ids)


def test_a_commitment_is_that_of_matrix_sdk_crypto() -> None:
    start: JsonObject = {
        "from_device": "XOWLHHFSWM",
        "transaction_id": "bYxBsirjUJO9osar6ST4i2M2NjrYLA7l",
        "method": "m.sas.v1",
        "key_agreement_protocols": ["curve25519-hkdf-sha256", "curve25519"],
        "hashes": ["sha256"],
        "message_authentication_codes": ["hkdf-hmac-sha256", "hmac-sha256"],
        "short_authentication_string": ["decimal", "emoji"],
    }
    key = "Q/NmNFEUS1fS+YeEmiZkjjblKTitrKOAk7cPEumcMlg"
    assert sas.commitment(key, start) == "CCQmB4JCdB0FW21FdAnHj/Hu8+W9+Nb0vgwPEnZZQ4g"
    with pytest.raises(NotCanonical):
        sas.commitment(key, {**start, "fraction": 0.5})


@pytest.mark.parametrize(
    "key",
    ["", "no key", to_unpadded(bytes(31)), to_unpadded(bytes(32)), to_unpadded(bytes([1, *bytes(31)])), "é"],
)
def test_a_key_that_makes_the_secret_known_is_refused(key: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        sas.shared_secret(secrets.token_bytes(32), key)
    assert caught.value.__context__ is None


def test_the_emoji_are_told_apart() -> None:
    assert len(sas.EMOJIS) == len({each.symbol for each in sas.EMOJIS}) == 64
    assert len({each.description for each in sas.EMOJIS}) == 64


# M16.11
def test_only_keys_whose_macs_are_all_right_are_proven() -> None:
    shared = secrets.token_bytes(32)

    def proven(theirs: Macs, known: dict[str, str]) -> frozenset[str]:
        return sas.proven(shared, BOB, ALICE, "name", theirs, known)

    right = sas.macs(shared, BOB, ALICE, "name", KEYS)
    assert proven(right, KEYS) == KEYS.keys()
    assert proven(right, {"ed25519:LAPTOP": "a key", "ed25519:other": ""}) == {"ed25519:LAPTOP"}
    assert proven(Macs({key_id: f"{code}=" for key_id, code in right.keys.items()}, right.key_ids), KEYS) == KEYS.keys()
    assert not proven(right, {**KEYS, "ed25519:LAPTOP": "another key"})
    assert not proven(Macs(right.keys, right.keys["ed25519:LAPTOP"]), KEYS)
    assert not proven(Macs({**right.keys, "ed25519:more": ""}, right.key_ids), KEYS)
    assert not proven(Macs({"ed25519:LAPTOP": right.keys["ed25519:LAPTOP"]}, right.key_ids), KEYS)
    assert not proven(Macs(dict.fromkeys(KEYS, "é"), "é"), KEYS)
    for mirrored in (sas.macs(shared, ALICE, BOB, "name", KEYS), sas.macs(shared, BOB, ALICE, "other", KEYS)):
        assert not proven(mirrored, KEYS)
    assert not proven(sas.macs(bytes(32), BOB, ALICE, "name", KEYS), KEYS)
