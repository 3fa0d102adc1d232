"""``spec/state.md`` lists all kinds of records and whether each is cached, and each value can be decoded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from unwedged.machine import olm, records
from unwedged.machine.identifiers import Curve25519Key, GroupSessionId, GroupSessionName, PeerName, RoomId, UserId
from unwedged.machine.ratchets import Account, OlmMessage, OutboundGroup
from unwedged.machine.records import (
    ACCOUNT,
    INBOUND,
    KINDS,
    OUTBOUND,
    PEER,
    PEER_STEP_BYTES,
    SHARED_KEY,
    OutboundSession,
    Peer,
    RoomSettings,
    SharedKey,
    SharedWith,
)
from unwedged.store import RecordKind

STATE = Path(__file__).parents[2] / "spec" / "state.md"
ROW = re.compile(r"^\| `(\w+)` \| [^|]*→[^|]* \| (yes|no) \|", re.MULTILINE)


# S2.1, S2.2
def test_the_specification_lists_all_kinds() -> None:
    listed = dict(ROW.findall(STATE.read_text(encoding="utf-8")))
    assert listed == {kind.name: "yes" if kind.cached else "no" for kind in KINDS}


# S2.1
def test_no_kind_is_left_out() -> None:
    assert {kind for kind in vars(records).values() if isinstance(kind, RecordKind)} == set(KINDS)


def test_a_peer_comes_back_with_its_sessions() -> None:
    ours, theirs = Account(), Account()
    (key,) = theirs.make_one_time_keys(1).values()
    session = ours.outbound_session(theirs.curve25519, key)
    message = session.encrypt(b"hello")
    peer = PEER.decode_value(PEER.encode_value(Peer([session], generation=3, digests=[message.digest()])))
    assert (peer.generation, peer.digests, peer.sessions[0].pickle()) == (3, [message.digest()], session.pickle())
    received, plaintext = ACCOUNT.decode_value(ACCOUNT.encode_value(theirs)).inbound_session(ours.curve25519, message)
    assert (plaintext, received.session_id) == (b"hello", session.session_id)


def test_a_peer_whose_ratchet_moves_on_keeps_its_length_within_a_step() -> None:
    ours, theirs = Account(), Account()
    (key,) = theirs.make_one_time_keys(1).values()
    peer = Peer([ours.outbound_session(theirs.curve25519, key)])
    lengths: set[int] = set()
    for number in range(300):
        peer.digests = [*peer.digests, peer.sessions[0].encrypt(b"hello").digest()][-olm.DIGESTS_WITH_SESSIONS :]
        encoded = PEER.encode_value(peer)
        assert PEER.decode_value(encoded).digests == peer.digests, number
        assert len(encoded) % PEER_STEP_BYTES == 0
        if number >= olm.DIGESTS_WITH_SESSIONS:
            lengths.add(len(encoded))
    assert max(lengths) - min(lengths) <= PEER_STEP_BYTES
    assert max(lengths) <= 2048


def test_an_outbound_session_comes_back_where_it_was() -> None:
    session = OutboundGroup()
    session.encrypt(b"")
    encoded = OUTBOUND.encode_value(OutboundSession(session, 5, RoomSettings("m.megolm.v1.aes-sha2"), 7))
    restored = OUTBOUND.decode_value(encoded)
    assert (restored.session.index, restored.session.session_key) == (1, session.session_key)
    assert (restored.created_ms, restored.recipients_version) == (5, 7)


def test_the_devices_that_have_a_key_come_back_and_are_not_shown() -> None:
    session = OutboundGroup()
    shared = SharedKey(
        session.session_id, {PeerName(UserId("@a:b"), Curve25519Key("c")): SharedWith(3, 1)}, {3: session.session_key}
    )
    restored = SHARED_KEY.decode_value(SHARED_KEY.encode_value(shared))
    assert restored == shared
    assert session.session_key not in repr(restored)


def test_a_name_of_two_parts_comes_back() -> None:
    name = GroupSessionName(RoomId("!a:b"), GroupSessionId("c"))
    assert INBOUND.decode_key(INBOUND.encode_key(name)) == name
    assert INBOUND.encode_key(name) != INBOUND.encode_key(GroupSessionName(RoomId("!a:"), GroupSessionId("bc")))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_name_of_a_kind_is_a_word_of_the_specification(kind: RecordKind[object, object]) -> None:
    assert f"`{kind.name}`" in STATE.with_name("machine.md").read_text(encoding="utf-8") or kind.name in {
        "room",
        "put_aside",
    }


def test_a_message_is_recognised_by_all_of_it() -> None:
    assert len({OlmMessage(kind, body).digest() for kind in (0, 1) for body in ("a", "b")}) == 4
