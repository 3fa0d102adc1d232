"""Of two room keys the better one is kept, and a message that can't be decrypted raises a named error."""

from __future__ import annotations

import dataclasses

import hypothesis.strategies as st
import pytest
from hypothesis import given

from checking.machine_replay.homeserver import Device, Json
from tests.machine.scene import ALICE, BOB, HOUR_MS, MEGOLM, ROOM, Scene
from unwedged.machine import DecryptedEvent, LocalTrust, SenderTrust, olm, rooms
from unwedged.machine.errors import (
    EncryptionDowngrade,
    InvalidArgument,
    MachineError,
    MalformedMessage,
    MissingRoomKey,
    NotEncrypted,
    ReplayedMessage,
    RoomKeyNotShared,
    UnknownIndex,
    UnsupportedAlgorithm,
    WithheldRoomKey,
    WrongRoom,
    WrongSender,
)
from unwedged.machine.exports import decrypt_export, encrypt_export
from unwedged.machine.identifiers import Curve25519Key, DeviceId, Ed25519Key, GroupSessionId, PeerName, RoomId, UserId
from unwedged.machine.ratchets import InboundGroup, OutboundGroup
from unwedged.machine.records import DEVICES, OUTBOUND, OWN_DEVICE, PEER, SEEN, InboundSession, KeySource
from unwedged.store import Transaction

EVE = "@eve:example.org"


def inbound(session: OutboundGroup, source: KeySource = KeySource.ROOM_KEY, sender: str = BOB) -> InboundSession:
    key, sender_key = InboundGroup.from_session_key(session.session_key), f"the Curve25519 key of {sender}"
    if source is KeySource.IMPORT:
        exported = key.exported_at(key.first_index)
        assert exported is not None
        return InboundSession(InboundGroup.from_exported(exported), None, Curve25519Key(sender_key), None, source)
    return InboundSession(key, UserId(sender), Curve25519Key(sender_key), Ed25519Key("e"), source)

    # M11.1


class TestWhichKeyIsBetter:
    def test_the_one_that_begins_earlier(self) -> None:
        session = OutboundGroup()
        early = inbound(session)
        session.encrypt(b"")
        late = inbound(session)
        better = rooms.merged(early, late)
        assert better is not None
        assert better.session.first_index == 0
        assert rooms.merged(late, early) is None
        assert rooms.merged(early, early) is None

    # M11.1
    def test_one_that_somebody_vouches_for_with_the_earlier_beginning_of_the_other(self) -> None:
        session = OutboundGroup()
        early = inbound(session, KeySource.IMPORT)
        session.encrypt(b"")
        late = inbound(session)
        for offered, stored in ((early, late), (late, early)):
            better = rooms.merged(offered, stored)
            assert better is not None
            assert (better.session.first_index, better.source, better.sender) == (0, KeySource.ROOM_KEY, BOB)

    # M11.2
    def test_another_ratchet_under_the_name_replaces_only_what_nobody_vouches_for(self) -> None:
        session, other = OutboundGroup(), OutboundGroup()
        assert rooms.merged(inbound(other), inbound(session)) is None
        assert rooms.merged(inbound(other, KeySource.IMPORT), inbound(session)) is None
        offered = inbound(other)
        assert rooms.merged(offered, inbound(session, KeySource.IMPORT)) is offered
        assert rooms.merged(offered, inbound(session, KeySource.FORWARDED)) is offered

    # M11.2
    @pytest.mark.parametrize("anybodys", [KeySource.IMPORT, KeySource.BACKUP])
    def test_an_own_device_takes_the_place_of_what_anybody_could_have_made(self, anybodys: KeySource) -> None:
        session, other = OutboundGroup(), OutboundGroup()
        forwarded = inbound(session, KeySource.FORWARDED)
        assert rooms.merged(forwarded, inbound(other, anybodys)) is forwarded
        assert rooms.merged(inbound(other, anybodys), forwarded) is None
        assert rooms.merged(forwarded, inbound(other, KeySource.FORWARDED)) is None

    # M11.1
    def test_the_beginning_that_another_user_gives_and_no_other_sender(self) -> None:
        session = OutboundGroup()
        early = inbound(session, sender=EVE)
        session.encrypt(b"")
        stored = inbound(session)
        better = rooms.merged(early, stored)
        assert better is not None
        assert (better.session.first_index, better.sender, better.sender_key) == (0, BOB, stored.sender_key)
        assert rooms.merged(inbound(session, sender=EVE), better) is None

    # M11.1, M11.3
    @pytest.mark.parametrize("same", [False, True])
    @given(
        sources=st.tuples(*[st.sampled_from([KeySource.ROOM_KEY, KeySource.OWN, KeySource.IMPORT])] * 2),
        senders=st.tuples(*[st.sampled_from([BOB, EVE])] * 2),
        skipped=st.tuples(*[st.integers(0, 3)] * 2),
    )
    def test_the_stored_sender_stays_while_its_key_is_vouched_for(
        self,
        same: bool,
        sources: tuple[KeySource, KeySource],
        senders: tuple[str, str],
        skipped: tuple[int, int],
    ) -> None:
        ratchet = OutboundGroup()
        pickles = ratchet.pickle(), (ratchet if same else OutboundGroup()).pickle()
        sessions = []
        for pickle, source, sender, skip in zip(pickles, sources, senders, skipped, strict=True):
            outbound = OutboundGroup.from_pickle(pickle)
            for _ in range(skip):
                outbound.encrypt(b"")
            sessions.append(inbound(outbound, source, sender))
        offered, stored = sessions
        better = rooms.merged(offered, stored)
        after = stored if better is None else better
        if stored.source is not KeySource.IMPORT:
            assert (after.sender, after.sender_key, after.source) == (stored.sender, stored.sender_key, stored.source)
        if same:
            assert after.session.first_index == min(skipped)
        both_vouch = KeySource.IMPORT not in sources
        assert rooms.is_given_also(offered, stored) == (same and both_vouch and senders[0] != senders[1])


# M11.5
@pytest.mark.parametrize("better_first", [False, True])
async def test_the_better_key_of_two_in_one_batch_is_kept(alice_and_bob: Scene, better_first: bool) -> None:
    """``better-key-lost-in-batch``: each key is also compared with the keys that came earlier in the batch."""
    scene = alice_and_bob
    first = await scene.bob.say(ROOM, "first")
    shared = await scene.bob.machine.share_room_key(ROOM, scene.server.members(ROOM))
    await scene.bob.machine.encrypt_room_event(ROOM, shared, "m.room.message", {})
    position = await scene.app.machine.sync_position()
    response = scene.app.ask(position)
    to_device = response["to_device"]
    assert isinstance(to_device, dict)
    (better,) = to_device["events"]
    worse = {**better, "content": await encrypted_again(scene)}
    to_device["events"] = [better, worse] if better_first else [worse, better]
    outcome = await scene.app.machine.receive_sync_changes(response, position)
    assert outcome.problems == []
    assert await scene.app.read(ROOM, first) == "first"


async def encrypted_again(scene: Scene) -> Json:
    """Encrypt the current key of Bob's session for Alice again. It begins at a later message."""

    async def encrypt(transaction: Transaction) -> Json:
        outbound, own = await transaction.get(OUTBOUND, ROOM), await transaction.get(OWN_DEVICE, None)
        name = PeerName(UserId(ALICE), scene.app.machine.curve25519)
        peer = await transaction.get(PEER, name)
        devices = await transaction.get(DEVICES, UserId(ALICE))
        assert outbound is not None
        assert own is not None
        assert peer is not None
        assert devices is not None
        content: Json = {
            "algorithm": MEGOLM,
            "room_id": ROOM,
            "session_id": outbound.session.session_id,
            "session_key": outbound.session.session_key,
        }
        encrypted = olm.encrypt(peer, own, devices[DeviceId("PHONE")], "m.room_key", content)
        transaction.put(PEER, name, peer)
        return encrypted

    return await scene.bob.machine._store.run(encrypt)


# M12.1
async def test_a_message_is_read_again_only_as_the_same_event(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    event = await scene.bob.say(ROOM, "once")
    await scene.app.sync()
    for client in (scene.app, scene.extension, scene.app):
        assert await client.read(ROOM, event) == "once"
    for replay in ({"event_id": "$other"}, {"origin_server_ts": 1}):
        with pytest.raises(ReplayedMessage):
            await scene.extension.read(ROOM, {**event, **replay})


# M12.1
async def test_each_message_of_a_session_is_remembered_whichever_process_read_it(
    alice_and_bob: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "INDICES_IN_A_PART", 3)
    events = [await alice_and_bob.bob.say(ROOM, f"{number}") for number in range(7)]
    await alice_and_bob.app.sync()
    app, extension = alice_and_bob.app.machine, alice_and_bob.extension.machine
    for machine, some in ((app, events[::2]), (extension, events[1::2]), (app, events)):
        assert all(isinstance(read, DecryptedEvent) for read in await machine.decrypt_room_events(ROOM, some))
    for event in events:
        with pytest.raises(ReplayedMessage):
            await extension.decrypt_room_event(ROOM, {**event, "event_id": "$another"})
    async with app._store.view() as view:
        assert [part.number for part in await view.keys(SEEN)] == [0, 1, 2]


# M12.3
async def test_each_reason_has_its_name(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    event = await scene.bob.say(ROOM, "hello")
    await scene.app.sync()
    content = event["content"]
    assert isinstance(content, dict)
    ciphertext = content["ciphertext"]
    cases: list[tuple[Json, type[MachineError]]] = [
        ({**event, "sender": ALICE}, WrongSender),
        ({**event, "content": {**content, "session_id": "other"}}, MissingRoomKey),
        ({**event, "content": {**content, "algorithm": "m.other"}}, UnsupportedAlgorithm),
        ({**event, "content": {**content, "ciphertext": "AAAA"}}, MalformedMessage),
        ({**event, "content": {**content, "ciphertext": f"{ciphertext[:-6]}AAAAAA"}}, MachineError),
        ({**event, "content": "text"}, MalformedMessage),
        ({"content": content}, MalformedMessage),
    ]
    for raw, expected in cases:
        (result,) = await scene.app.machine.decrypt_room_events(ROOM, [raw])
        assert isinstance(result, expected), (raw, result)
        assert "hello" not in str(result)
    assert await scene.app.read(ROOM, event) == "hello"


# M12.3
async def test_a_message_of_another_room_is_refused(alice_and_bob: Scene) -> None:
    """Keys are stored by room, so this can only happen if a member shares one key for two rooms."""
    scene = alice_and_bob
    event = await scene.bob.say(ROOM, "hello")
    await scene.app.sync()
    (exported,) = [each for each in await scene.bob.machine.export_room_keys() if each.room_id == ROOM]
    elsewhere = dataclasses.replace(exported, room_id=RoomId("!elsewhere:example.org"))
    assert await scene.app.machine.import_room_keys([elsewhere]) == 1
    with pytest.raises(WrongRoom):
        await scene.app.read("!elsewhere:example.org", event)


async def test_a_key_goes_to_another_device_by_a_file(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    event = await scene.bob.say(ROOM, "hello")
    text = encrypt_export(await scene.bob.machine.export_room_keys(), "passphrase", rounds=100_000)
    sessions = decrypt_export(text, "passphrase")
    with pytest.raises(MissingRoomKey):
        await scene.app.read(ROOM, event)
    assert await scene.app.machine.import_room_keys(sessions) == len(sessions) == 1
    assert await scene.extension.machine.import_room_keys(sessions) == 0
    decrypted = await scene.extension.machine.decrypt_room_event(ROOM, event)
    assert decrypted.trust is SenderTrust.IMPORTED_KEY
    await scene.app.sync()  # the key arrives
    assert (await scene.app.machine.decrypt_room_event(ROOM, event)).trust is SenderTrust.KNOWN_DEVICE


async def test_imported_keys_that_are_none_are_ignored(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await scene.bob.say(ROOM, "hello")
    (good,) = await scene.bob.machine.export_room_keys()
    spoilt = dataclasses.replace(good, session_key="no key")
    other = dataclasses.replace(good, algorithm="m.other")
    misnamed = dataclasses.replace(good, session_id=GroupSessionId("other"))
    assert await scene.app.machine.import_room_keys([spoilt, other, misnamed]) == 0


# M12.2
async def test_a_message_says_what_the_owner_thinks_of_its_sender(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    event = await scene.bob.say(ROOM, "hello")
    await scene.app.sync()
    for trust, told in (
        (LocalTrust.VERIFIED, SenderTrust.VERIFIED_DEVICE),
        (LocalTrust.BLOCKED, SenderTrust.BLOCKED_DEVICE),
        (LocalTrust.UNSET, SenderTrust.KNOWN_DEVICE),
    ):
        await scene.extension.machine.set_trust(BOB, "LAPTOP", scene.bob.machine.ed25519, trust)
        assert (await scene.app.machine.decrypt_room_event(ROOM, event)).trust is told
    with pytest.raises(InvalidArgument):
        await scene.app.machine.set_trust(BOB, "NONE", scene.bob.machine.ed25519, LocalTrust.VERIFIED)
    with pytest.raises(InvalidArgument):  # a different device with this name
        await scene.app.machine.set_trust(BOB, "LAPTOP", scene.app.machine.ed25519, LocalTrust.VERIFIED)


# M12.2
async def test_a_device_that_is_not_known_yet_vouches_for_its_messages_when_it_is(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    scene.server.sign_in(Device(BOB, "TABLET"))
    tablet = await scene.open(BOB, "TABLET", "tablet")
    await tablet.machine.set_room_encryption(ROOM, {"algorithm": MEGOLM})
    await tablet.send_all()
    event = await tablet.say(ROOM, "from another device")
    async with scene.extension.machine.devices_stream() as changes:
        await scene.app.sync()
        for trust in (SenderTrust.UNKNOWN_DEVICE, SenderTrust.KNOWN_DEVICE):
            for client in (scene.app, scene.extension):
                assert (await client.machine.decrypt_room_event(ROOM, event)).trust is trust
            await scene.app.send_all()
        news = await anext(changes)
        assert getattr(news, "key", news) == BOB


# M12.3
async def test_a_user_who_joins_later_reads_no_earlier_message(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    before = await scene.bob.say(ROOM, "alone")  # only Alice is a member besides Bob
    shared = await scene.app.share(ROOM, [ALICE])
    encrypted = await scene.app.machine.encrypt_room_event(ROOM, shared, "m.room.message", {"body": "early"})
    early = scene.app.post(ROOM, encrypted)
    late = await scene.extension.say(ROOM, "late")
    await scene.bob.sync()
    assert await scene.bob.read(ROOM, late) == "late"
    with pytest.raises(UnknownIndex):
        await scene.bob.read(ROOM, early)
    await scene.app.sync()
    assert await scene.app.read(ROOM, before) == "alone"

    # M9.7


class TestSharing:
    async def test_another_key_when_a_member_left(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        with_bob = await scene.app.say(ROOM, "with Bob")
        shared = await scene.extension.machine.share_room_key(ROOM, [ALICE])
        content = await scene.app.machine.encrypt_room_event(ROOM, shared, "m.room.message", {"body": "without Bob"})
        without_bob = scene.app.post(ROOM, content)
        await scene.app.send_all()
        await scene.bob.sync()
        assert await scene.bob.read(ROOM, with_bob) == "with Bob"
        with pytest.raises(MissingRoomKey):
            await scene.bob.read(ROOM, without_bob)

    # M9.4
    async def test_a_message_is_for_those_that_its_share_was_made_with(self, alice_and_bob: Scene) -> None:
        """Found by the model ``Sharing``: the other process shares in between, with an outdated member list."""
        scene = alice_and_bob
        machines = scene.app.machine, scene.extension.machine
        for one, other in (machines, machines[::-1]):
            with_bob = await one.share_room_key(ROOM, [ALICE, BOB])
            without_bob = await other.share_room_key(ROOM, [ALICE])
            for machine in machines:
                with pytest.raises(RoomKeyNotShared):
                    await machine.encrypt_room_event(ROOM, with_bob, "m.room.message", {})
            again = await one.share_room_key(ROOM, [BOB, ALICE])
            for machine in machines:
                with pytest.raises(RoomKeyNotShared):
                    await machine.encrypt_room_event(ROOM, without_bob, "m.room.message", {})
                await machine.encrypt_room_event(ROOM, again, "m.room.message", {})
        with pytest.raises(InvalidArgument):
            await scene.app.machine.encrypt_room_event(ROOM, None, "m.room.message", {})  # type: ignore[arg-type]

    # M9.6
    async def test_another_key_after_so_many_messages(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        await scene.app.machine.set_room_encryption(ROOM, {"algorithm": MEGOLM, "rotation_period_msgs": 2})
        sessions = [
            (await client.say(ROOM, "x"))["content"] for client in (scene.app, scene.extension, scene.app, scene.app)
        ]
        names = [content["session_id"] for content in sessions if isinstance(content, dict)]
        assert names[0] == names[1] != names[2] == names[3]

    # M9.6
    async def test_another_key_after_so_long(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        shared = await scene.app.share(ROOM, [ALICE, BOB])
        scene.clock.added_ms += 7 * 24 * HOUR_MS
        with pytest.raises(RoomKeyNotShared):
            await scene.extension.machine.encrypt_room_event(ROOM, shared, "m.room.message", {})

    # M9.7, M9.8
    async def test_no_key_for_a_device_that_is_blocked(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        await scene.app.say(ROOM, "before")
        await scene.extension.machine.set_trust(BOB, "LAPTOP", scene.bob.machine.ed25519, LocalTrust.BLOCKED)
        event = await scene.app.say(ROOM, "after")
        await scene.bob.sync()
        with pytest.raises(WithheldRoomKey) as raised:
            await scene.bob.read(ROOM, event)
        assert raised.value.reason_code == "m.blacklisted"

    # M9.12
    async def test_a_room_never_becomes_less_encrypted(self, alice_and_bob: Scene) -> None:
        machine = alice_and_bob.app.machine
        shared = await machine.share_room_key(ROOM, [ALICE])
        contents: tuple[Json, ...] = ({}, {"algorithm": "m.other"}, {"algorithm": 5})
        for content in contents:
            with pytest.raises(EncryptionDowngrade):
                await machine.set_room_encryption(ROOM, content)
            with pytest.raises(MalformedMessage):
                await machine.set_room_encryption("!other:example.org", content)
        with pytest.raises(NotEncrypted):
            await machine.encrypt_room_event("!other:example.org", shared, "m.room.message", {})
        with pytest.raises(NotEncrypted):
            await machine.share_room_key("!other:example.org", [BOB])

    # M10.2
    async def test_content_that_is_not_json_uses_up_no_index(self, alice_and_bob: Scene) -> None:
        scene = alice_and_bob
        shared = await scene.app.share(ROOM, [ALICE, BOB])
        nonsense: tuple[object, ...] = (object(), "\ud800", {1}, (1, 2), {1: 2}, b"", 2**70, float("nan"))
        for content in ({"x": value} for value in nonsense):
            with pytest.raises(InvalidArgument):
                await scene.app.machine.encrypt_room_event(ROOM, shared, "m.room.message", content)
        event = await scene.app.say(ROOM, "first")
        await scene.bob.sync()
        assert (await scene.bob.machine.decrypt_room_event(ROOM, event)).index == 0


# M14.1
async def test_the_arrival_of_a_key_is_heard_in_both_processes(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    async with (
        scene.app.machine.room_keys_received_stream() as here,
        scene.extension.machine.room_keys_received_stream() as there,
    ):
        event = await scene.bob.say(ROOM, "hello")
        await scene.extension.sync()
        content = event["content"]
        assert isinstance(content, dict)
        for stream in (there, here):
            news = await anext(stream)
            assert getattr(news, "key", news) == (ROOM, content["session_id"])
