"""A room key is replaced when it must be, and the key of a large room is shared in several commits."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from tests.machine.scene import ALICE, BOB, ROOM, Scene
from unwedged.machine import LocalTrust, ToDevice, devices, sharing
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
from unwedged.store.transactions import TransactionOperation

SETTINGS = RoomSettings("m.megolm.v1.aes-sha2", rotation_messages=3, rotation_period_ms=1000)


# M9.6
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


# M9.7
@given(have=st.frozensets(st.sampled_from("abcd")), recipients=st.frozensets(st.sampled_from("abcd")))
def test_a_session_is_replaced_if_a_device_that_has_its_key_is_no_recipient(
    have: frozenset[str], recipients: frozenset[str]
) -> None:
    session = OutboundGroup()
    shared = SharedKey(session.session_id, {peer(key): SharedWith(0, 0) for key in have})
    rotates = sharing.must_rotate(
        OutboundSession(session, 0, SETTINGS), shared, SETTINGS, frozenset(map(peer, recipients)), 0
    )
    assert rotates == bool(have - recipients)


# M9.2, M9.5
async def test_no_commit_of_a_share_marks_or_tells_more_devices_than_so_many(
    alice_and_bob: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = alice_and_bob
    for module, name in ((sharing, "DEVICES_IN_A_COMMIT"), (devices, "USERS_IN_A_COMMIT")):
        monkeypatch.setattr(module, name, 3)
    users = [UserId(f"@user{number}:example.org") for number in range(5)]

    async def add_devices(transaction: Transaction) -> None:
        for user in users:
            known = {}
            for trust in (LocalTrust.UNSET, LocalTrust.BLOCKED):
                device_id = DeviceId(trust.name)
                known[device_id] = KnownDevice(_device_keys(Account(), Device(user, device_id)), trust)
            transaction.put(DEVICES, user, known)

    machine = scene.app.machine
    await machine._store.run(add_devices)
    commits: list[Counter[str]] = []
    finish = TransactionOperation.finish

    async def counted(operation: TransactionOperation) -> None:
        commits.append(Counter(name.kind for name in operation._writes))
        await finish(operation)

    monkeypatch.setattr(TransactionOperation, "finish", counted)
    shared = await machine.share_room_key(ROOM, users)
    assert len(shared.without_session) == 5
    assert [commit["tracked"] for commit in commits if commit["tracked"]] == [3, 2]
    assert [commit["wanted_session"] for commit in commits if commit["wanted_session"]] == [3, 2]
    notices = [each for each in await machine.outgoing_requests() if isinstance(each, ToDevice)]
    assert {notice.event_type for notice in notices} == {"m.room_key.withheld"}
    assert [len(notice.messages) for notice in notices] == [1, 3, 1]


# M9.2
async def test_a_large_room_is_shared_with_in_several_commits(
    alice_and_bob: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = alice_and_bob
    monkeypatch.setattr(sharing, "DEVICES_IN_A_COMMIT", 4)
    user = UserId("@many:example.org")

    async def add_devices(transaction: Transaction) -> None:
        own = Account()
        known = {}
        for number in range(10):
            account, device_id = Account(), DeviceId(f"D{number}")
            (key,) = account.make_one_time_keys(1).values()
            known[device_id] = KnownDevice(_device_keys(account, Device(user, device_id)))
            transaction.put(PEER, peer(account.curve25519), Peer([own.outbound_session(account.curve25519, key)]))
        transaction.put(DEVICES, user, known)

    await scene.app.machine._store.run(add_devices)
    commits = scene.app.machine._store.statistics().commits
    shared = await scene.app.machine.share_room_key(ROOM, [ALICE, BOB, user])
    assert shared.outdated == (user,)
    assert scene.app.machine._store.statistics().commits == commits + 3
    again = await scene.extension.machine.share_room_key(ROOM, [ALICE, BOB, user])
    assert again == shared
    assert scene.extension.machine._store.statistics().commits <= 1
