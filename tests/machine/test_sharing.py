"""What decides when another room key is needed (pure), and the rooms that are too large for one commit."""

from __future__ import annotations

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from tests.machine.scene import ALICE, BOB, ROOM, Scene
from unwedged.machine import sharing
from unwedged.machine.account import _device_keys
from unwedged.machine.identifiers import Curve25519Key, Device, DeviceId, PeerName, UserId
from unwedged.machine.ratchets import Account, OutboundGroup
from unwedged.machine.records import (
    DEVICES,
    PEER,
    KnownDevice,
    OutboundSession,
    Peer,
    RoomSettings,
    SharedKey,
    SharedWith,
)
from unwedged.store import Transaction

SETTINGS = RoomSettings("m.megolm.v1.aes-sha2", rotation_messages=3, rotation_period_ms=1000)


@given(messages=st.integers(0, 5), age_ms=st.integers(-5, 1005), changed=st.booleans())
def test_a_session_is_used_up_by_messages_by_age_and_by_other_settings(
    messages: int, age_ms: int, changed: bool
) -> None:
    session = OutboundGroup()
    for _ in range(messages):
        session.encrypt(b"")
    settings = msgspec.structs.replace(SETTINGS, rotation_messages=4) if changed else SETTINGS
    used_up = sharing.is_used_up(OutboundSession(session, 5000, SETTINGS), settings, 5000 + age_ms)
    assert used_up == (changed or messages >= 3 or not 0 <= age_ms < 1000)


def peer(key: str) -> PeerName:
    return PeerName(UserId("@many:example.org"), Curve25519Key(key))


@given(have=st.frozensets(st.sampled_from("abcd")), recipients=st.frozensets(st.sampled_from("abcd")))
def test_another_key_where_one_who_has_it_is_no_recipient(have: frozenset[str], recipients: frozenset[str]) -> None:
    session = OutboundGroup()
    shared = SharedKey(session.session_id, {peer(key): SharedWith(0, 0) for key in have})
    rotates = sharing.must_rotate(
        OutboundSession(session, 0, SETTINGS), shared, SETTINGS, frozenset(map(peer, recipients)), 0
    )
    assert rotates == bool(have - recipients)


async def test_a_large_room_is_shared_with_in_several_commits(
    alice_and_bob: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = alice_and_bob
    monkeypatch.setattr(sharing, "DEVICES_IN_A_COMMIT", 4)
    user = UserId("@many:example.org")

    async def add_devices(transaction: Transaction) -> None:
        own = Account()
        devices = {}
        for number in range(10):
            account, device_id = Account(), DeviceId(f"D{number}")
            (key,) = account.make_one_time_keys(1).values()
            devices[device_id] = KnownDevice(_device_keys(account, Device(user, device_id)))
            transaction.put(PEER, peer(account.curve25519), Peer([own.outbound_session(account.curve25519, key)]))
        transaction.put(DEVICES, user, devices)

    await scene.app.machine._store.run(add_devices)
    commits = scene.app.machine._store.statistics().commits
    shared = await scene.app.machine.share_room_key(ROOM, [ALICE, BOB, user])
    assert shared.outdated == (user,)
    assert scene.app.machine._store.statistics().commits == commits + 3
    again = await scene.extension.machine.share_room_key(ROOM, [ALICE, BOB, user])
    assert again == shared
    assert scene.extension.machine._store.statistics().commits <= 1
