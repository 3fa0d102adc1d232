"""Olm sessions decrypt valid messages, refuse others, and prove the sender of a message."""

from __future__ import annotations

import copy

import msgspec
import pytest

from checking.machine_replay.homeserver import Json
from unwedged.machine import account, devices, olm
from unwedged.machine.errors import (
    MachineError,
    MalformedMessage,
    MessageUnreadable,
    RepeatedMessage,
    WrongRecipient,
    WrongSender,
)
from unwedged.machine.identifiers import Curve25519Key, Device, DeviceId, UserId
from unwedged.machine.ratchets import DIGEST_BYTES, Account, OlmMessage, OlmSession
from unwedged.machine.records import KnownDevice, LocalTrust, OwnDevice, Peer
from unwedged.store import MalformedRecord

ALICE, BOB, EVE = UserId("@alice:example.org"), UserId("@bob:example.org"), UserId("@eve:example.org")


class Party:
    """A device, its account, and its sessions with the other one."""

    def __init__(self, user: UserId, device: str = "DEVICE") -> None:
        self.account = Account()
        self.own = OwnDevice(user, DeviceId(device), account._device_keys(self.account, Device(user, DeviceId(device))))
        self.known = KnownDevice(self.own.keys)
        self.peer = Peer()

    def begin_with(self, other: Party) -> None:
        (key,) = other.account.make_one_time_keys(1).values()
        self.peer.sessions.insert(0, self.account.outbound_session(other.account.curve25519, key))

    def encrypts(self, other: Party, text: str = "hello") -> OlmMessage:
        content = olm.encrypt(self.peer, self.own, other.known, "m.test", {"text": text})
        ciphertext = content["ciphertext"]
        assert isinstance(ciphertext, dict)
        message = ciphertext[other.account.curve25519]
        return OlmMessage(message["type"], message["body"])

    def decrypts(self, other: Party, message: OlmMessage) -> str:
        plaintext = olm.decrypt(self.account, self.peer, other.account.curve25519, message)
        return str(olm.checked(plaintext, other.own.user_id, other.account.curve25519, self.own).content["text"])

    def state(self) -> tuple[str, list[str], list[bytes]]:
        return self.account.pickle(), [session.pickle() for session in self.peer.sessions], list(self.peer.digests)


@pytest.fixture
def alice() -> Party:
    return Party(ALICE)


@pytest.fixture
def bob() -> Party:
    return Party(BOB)


def test_a_conversation(alice: Party, bob: Party) -> None:
    alice.begin_with(bob)
    for number in range(3):
        assert bob.decrypts(alice, alice.encrypts(bob, f"{number}")) == f"{number}"
        assert alice.decrypts(bob, bob.encrypts(alice, f"re {number}")) == f"re {number}"
    assert len(alice.peer.sessions) == len(bob.peer.sessions) == 1


def test_a_message_that_comes_again_under_another_spelling_of_its_senders_key_makes_no_session(
    alice: Party, bob: Party
) -> None:
    (key,) = bob.account.make_fallback_key().values()
    alice.peer.sessions.insert(0, alice.account.outbound_session(bob.account.curve25519, key))
    message = alice.encrypts(bob)
    assert bob.decrypts(alice, message) == "hello"
    with pytest.raises(MalformedMessage):
        olm.decrypt(bob.account, Peer(), Curve25519Key(f"{alice.account.curve25519}="), message)


def test_a_plaintext_does_not_hang_on_the_error_that_it_is_malformed(alice: Party) -> None:
    with pytest.raises(MalformedMessage) as raised:
        olm.checked(b'{"type": "secret \xff"}', BOB, alice.account.curve25519, alice.own)
    assert raised.value.__context__ is None


# M7.5
def test_a_message_that_comes_again_is_recognised_and_changes_nothing(alice: Party, bob: Party) -> None:
    alice.begin_with(bob)
    messages = [alice.encrypts(bob), alice.encrypts(bob)]
    for message in messages:
        bob.decrypts(alice, message)
    before = bob.state()
    for message in messages:
        with pytest.raises(RepeatedMessage):
            bob.decrypts(alice, message)
    assert bob.state() == before


# M7.4, M7.8
def test_a_message_that_fails_changes_nothing(alice: Party, bob: Party) -> None:
    """An attempt on the live session could activate its sending chain (``failed-decrypt-mutates``)."""
    alice.begin_with(bob)
    bob.decrypts(alice, alice.encrypts(bob))
    alice.decrypts(bob, bob.encrypts(alice))
    message = alice.encrypts(bob)
    body = message.body
    before = bob.state()
    for spoilt in (body[:-3] + ("AAA" if body[-3:] != "AAA" else "BBB"), body[: len(body) // 2], "", "no base64!"):
        for kind in (0, 1, 2):
            with pytest.raises((MessageUnreadable, MalformedMessage)):
                bob.decrypts(alice, OlmMessage(kind, spoilt))
            assert bob.state() == before
    assert bob.decrypts(alice, message) == "hello"


# M7.6
def test_a_repeated_pre_key_message_on_a_fallback_key_opens_no_second_session(alice: Party, bob: Party) -> None:
    (key,) = bob.account.make_fallback_key().values()
    alice.peer.sessions.insert(0, alice.account.outbound_session(bob.account.curve25519, key))
    message = alice.encrypts(bob)
    bob.decrypts(alice, message)
    bob.peer.digests.clear()  # the state after many more messages
    with pytest.raises(MessageUnreadable):
        bob.decrypts(alice, message)
    assert len(bob.peer.sessions) == 1


# M7.2, M7.3
def test_the_session_that_received_last_is_used_and_few_are_kept(alice: Party, bob: Party) -> None:
    for _ in range(olm.KEPT_SESSIONS + 2):
        alice.begin_with(bob)
        bob.decrypts(alice, alice.encrypts(bob))
    assert len(bob.peer.sessions) == olm.KEPT_SESSIONS
    older = alice.peer.sessions.pop(2)
    alice.peer.sessions.insert(0, older)
    bob.decrypts(alice, alice.encrypts(bob))
    assert bob.peer.sessions[0].session_id == older.session_id


def test_to_begin_a_session_does_not_change_the_account(alice: Party, bob: Party) -> None:
    """So the response to a claim need not write the account."""
    before = alice.account.pickle()
    alice.begin_with(bob)
    alice.encrypts(bob)
    assert alice.account.pickle() == before


# M7.2
def test_few_digests_are_kept(alice: Party, bob: Party) -> None:
    alice.begin_with(bob)
    for _ in range(olm.KEPT_DIGESTS + 5):
        bob.decrypts(alice, alice.encrypts(bob))
    assert len(bob.peer.digests) == olm.KEPT_DIGESTS


# M7.2
def test_the_last_messages_are_known_wherever_their_digests_are() -> None:
    peer, earlier = Peer(), b""
    digests = [OlmMessage(1, f"{number}").digest() for number in range(3 * olm.KEPT_DIGESTS)]
    for number, digest in enumerate(digests):
        assert digest not in peer.digests
        assert not olm.has_digest(earlier, digest)
        peer.digests.append(digest)
        if len(peer.digests) == olm.DIGESTS_WITH_SESSIONS:
            earlier = olm.moved_digests(peer, earlier)
        for one in digests[max(0, number + 1 - olm.KEPT_DIGESTS) : number + 1]:
            assert one in peer.digests or olm.has_digest(earlier, one)
        assert len(earlier) <= olm.KEPT_DIGESTS * DIGEST_BYTES


def test_a_digest_is_not_found_across_two_others() -> None:
    first, second, across = b"aaaabbbb", b"ccccdddd", b"bbbbcccc"
    assert not olm.has_digest(first + second, across)
    assert olm.has_digest(first + second + across, across)
    assert olm.has_digest(first + second, first)


def test_a_session_is_the_same_after_it_was_pickled(alice: Party, bob: Party) -> None:
    alice.begin_with(bob)
    alice.peer.sessions = [OlmSession.from_pickle(session.pickle()) for session in alice.peer.sessions]
    assert bob.decrypts(alice, alice.encrypts(bob)) == "hello"


def test_an_account_that_cannot_be_read_is_named_by_its_first_use() -> None:
    account = Account.from_pickle("a pickle of something else")
    with pytest.raises(MalformedRecord):
        account.sign(b"")


class TestWhoSentIt:
    def payload(self, alice: Party, bob: Party, **changes: object) -> bytes:
        payload: Json = {
            "type": "m.test",
            "content": {},
            "sender": ALICE,
            "sender_device_keys": alice.own.keys,
            "recipient": BOB,
            "recipient_keys": {"ed25519": bob.account.ed25519},
            "keys": {"ed25519": alice.account.ed25519},
        } | changes
        return msgspec.json.encode({name: value for name, value in payload.items() if value is not None})

    def check(self, alice: Party, bob: Party, **changes: object) -> olm.OlmEvent:
        return olm.checked(self.payload(alice, bob, **changes), ALICE, alice.account.curve25519, bob.own)

    def test_what_is_right_is_believed(self, alice: Party, bob: Party) -> None:
        event = self.check(alice, bob)
        assert (event.sender, event.signing_key) == (ALICE, alice.account.ed25519)
        assert self.check(alice, bob, sender_device_keys=None) == event
        assert "m.test" in repr(event)
        assert "content" not in repr(event)

    # M7.9
    def test_what_is_wrong_has_a_name(self, alice: Party, bob: Party) -> None:
        eve = Party(EVE)
        spoilt = copy.deepcopy(alice.own.keys) | {"algorithms": []}
        cases: list[tuple[dict[str, object], type[MachineError]]] = [
            ({"sender": EVE}, WrongSender),
            ({"recipient": EVE}, WrongRecipient),
            ({"recipient_keys": {"ed25519": eve.account.ed25519}}, WrongRecipient),
            ({"keys": {"ed25519": eve.account.ed25519}}, WrongSender),
            ({"sender_device_keys": eve.own.keys}, WrongSender),
            ({"sender_device_keys": spoilt}, WrongSender),
            ({"sender_device_keys": Party(ALICE).own.keys}, WrongSender),
            ({"type": None}, MalformedMessage),
            ({"content": "text"}, MalformedMessage),
            ({"keys": {}}, MalformedMessage),
            ({"recipient_keys": None}, MalformedMessage),
        ]
        for changes, expected in cases:
            with pytest.raises(expected):
                self.check(alice, bob, **changes)
        for plaintext in (b"", b"[]", b"\xff", b'{"type":1}'):
            with pytest.raises(MalformedMessage):
                olm.checked(plaintext, ALICE, alice.account.curve25519, bob.own)

    # M6.4, M6.5


class TestDeviceLists:
    def test_a_device_is_known_by_what_it_signed(self, alice: Party) -> None:
        assert olm.device_of(ALICE, alice.own.keys) == alice.known
        cases: tuple[Json, ...] = (
            {"user_id": BOB},
            {"device_id": "OTHER"},
            {"device_id": 5},
            {"keys": {}},
            {"keys": 5},
            {"algorithms": []},
            {"signatures": {}},
        )
        for changes in cases:
            assert olm.device_of(ALICE, alice.own.keys | changes) is None
        assert olm.device_of(BOB, alice.own.keys) is None
        # Unsigned fields may be present, and are kept.
        assert olm.device_of(ALICE, alice.own.keys | {"unsigned": {"device_display_name": "phone"}}) is not None

    # M6.4, M6.6
    def test_a_device_keeps_its_keys(self, alice: Party) -> None:
        device = alice.known.device_id
        before = {device: KnownDevice(alice.own.keys, LocalTrust.VERIFIED)}
        spoilt: tuple[object, ...] = (Party(ALICE, device).own.keys, {}, "text")
        for keys in spoilt:
            assert devices.device_list(ALICE, before, {device: keys}, {}) == before
        assert devices.device_list(ALICE, before, {}, {}) == {}
        trust = {alice.known.ed25519: LocalTrust.VERIFIED}
        assert devices.device_list(ALICE, before, {device: alice.own.keys}, trust) == before

    # M6.4
    def test_a_device_under_the_name_of_another_is_refused(self, alice: Party) -> None:
        assert devices.device_list(ALICE, {}, {"OTHER": alice.own.keys}, {}) == {}
