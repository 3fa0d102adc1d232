"""The detector of reused message keys agrees with vodozemac, and finds forked sessions."""

from __future__ import annotations

import base64

import pytest
from vodozemac import Account, GroupSession, Session

from checking.machine_replay.homeserver import Json
from checking.machine_replay.message_keys import Malformed, MessageKeyReused, MessageKeys, megolm_index, olm_position

PICKLE_KEY = bytes(32)


def session() -> tuple[Account, Session, Account]:
    """A device, and one of its sessions with another device."""
    alice, bob = Account(), Account()
    bob.generate_one_time_keys(1)
    [one_time_key] = bob.one_time_keys.values()
    return alice, alice.create_outbound_session(bob.curve25519_key, one_time_key), bob


def fork(forked: Session) -> Session:
    return Session.from_pickle(forked.pickle(PICKLE_KEY), PICKLE_KEY)


def base64_of(message: bytes) -> str:
    return base64.b64encode(message).decode().rstrip("=")


def olm(sender: Account, by: Session, text: str) -> Json:
    kind, body = by.encrypt(text.encode()).to_parts()
    return {
        "algorithm": "m.olm.v1.curve25519-aes-sha2",
        "sender_key": sender.curve25519_key.to_base64(),
        "ciphertext": {"bob's key": {"type": kind, "body": base64_of(body)}},
    }


def megolm(by: GroupSession, text: str) -> Json:
    ciphertext = by.encrypt(text.encode()).to_base64()
    return {"algorithm": "m.megolm.v1.aes-sha2", "session_id": by.session_id, "ciphertext": ciphertext}


def in_request(content: Json) -> Json:
    return {"messages": {"@bob:example.org": {"PHONE": content}}}


def test_messages_of_one_session_use_keys_of_their_own() -> None:
    alice, with_bob, _ = session()
    group, used = GroupSession(), MessageKeys()
    for number in range(200):
        used.add(in_request(olm(alice, with_bob, f"{number}")))
        used.add(megolm(group, f"{number}"))
    assert [key.message_index for key in used.olm] == list(range(200))
    assert [key.message_index for key in used.megolm] == list(range(200))
    assert len({key.ratchet_key for key in used.olm}) == 1


def test_the_same_bytes_may_leave_again() -> None:
    alice, with_bob, _ = session()
    used, message = MessageKeys(), olm(alice, with_bob, "hello")
    used.add(in_request(message))
    used.add(in_request(message))
    assert len(used.olm) == 1


def test_a_forked_olm_session_is_found() -> None:
    alice, with_bob, _ = session()
    forked, used = fork(with_bob), MessageKeys()
    used.add(in_request(olm(alice, with_bob, "hello")))
    with pytest.raises(MessageKeyReused):
        used.add(in_request(olm(alice, forked, "good-bye")))


def test_a_forked_olm_session_is_found_after_the_first_reply() -> None:
    alice, with_bob, bob = session()
    opening = with_bob.encrypt(b"hello").to_pre_key()
    assert opening is not None
    with_alice, _ = bob.create_inbound_session(alice.curve25519_key, opening)
    with_bob.decrypt(with_alice.encrypt(b"hello, too"))
    used = MessageKeys()
    used.add(olm(alice, with_bob, "one"))
    forked = fork(with_bob)
    used.add(olm(alice, with_bob, "two"))
    assert [key.message_index for key in used.olm] == [0, 1]
    with pytest.raises(MessageKeyReused):
        used.add(olm(alice, forked, "three"))


def test_a_forked_group_session_is_found() -> None:
    group, used = GroupSession(), MessageKeys()
    forked = GroupSession.from_pickle(group.pickle(PICKLE_KEY), PICKLE_KEY)
    used.add(megolm(group, "hello"))
    with pytest.raises(MessageKeyReused):
        used.add([{"content": megolm(forked, "good-bye")}])


def test_vodozemac_reads_the_same_index() -> None:
    group = GroupSession()
    for _ in range(300):
        expected = group.message_index
        assert megolm_index(group.encrypt(b"hello").to_bytes()) == expected


@pytest.mark.parametrize(
    "body", [b"", b"\x04", b"\x03", b"\x03\x0a\x20short" + bytes(8), b"\x03\x10\xff\xff\xff\xff\xff\xff" + bytes(8)]
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        olm_position(body)


def test_a_message_that_was_cut_off_is_refused() -> None:
    _, with_bob, _ = session()
    _, body = with_bob.encrypt(b"hello").to_parts()
    for length in range(len(body) - 8):
        content = {"type": 0, "body": base64_of(body[:length])}
        with pytest.raises(Malformed):
            MessageKeys().add(
                {"algorithm": "m.olm.v1.curve25519-aes-sha2", "sender_key": "", "ciphertext": {"bob's key": content}}
            )
