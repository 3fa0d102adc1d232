"""For any input from a homeserver or a device, the machine raises only named errors, and continues to work."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings

from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Json
from tests.machine.own_devices import another_device
from tests.machine.scene import ALICE, BOB, MEGOLM, ROOM, Scene
from tests.machine.test_inputs import ask_for_keys
from tests.store.stores import Recorder
from unwedged.machine import (
    KeysClaim,
    KeysQuery,
    KeysUpload,
    MachineError,
    Request,
    ToDevice,
    asking,
    backup,
    key_requests,
    secrets,
)
from unwedged.machine.identifiers import Curve25519Key, Device, DeviceId, TransactionId, UserId
from unwedged.machine.olm import OlmEvent
from unwedged.machine.ratchets import BackupEncryption
from unwedged.machine.requests import Claimed

Result = TypeVar("Result")

WORDS = st.sampled_from(
    [
        *(
            ALICE,
            BOB,
            ROOM,
            "PHONE",
            "LAPTOP",
            MEGOLM,
            "m.olm.v1.curve25519-aes-sha2",
            "m.room.encrypted",
            "m.room_key",
        ),
        *(
            "m.room_key",
            "algorithm",
            "body",
            "ciphertext",
            "content",
            "curve25519:LAPTOP",
            "device_id",
            "ed25519:LAPTOP",
            "events",
        ),
        *("key", "keys", "sender", "sender_key", "session_id", "session_key", "signatures", "signed_curve25519:AAAA"),
        *("signed_curve25519", "type", "user_id", "event_id", "room_id", "AAAA", "A" * 43, "", "\ud800", "\0"),
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | WORDS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4), max_leaves=12
)
OBJECTS = st.dictionaries(WORDS, VALUES, max_size=5)


def written(value: Mapping[str, object]) -> bytes:
    return json.dumps(value).encode()


class Session:
    """A traced scene that all examples share, and its event loop."""

    def __init__(self, folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.stack = AsyncExitStack()
        self.scene = Scene(folder, self.stack, Recorder())
        self.wait(self.scene.begin())
        self.wait(self.scene.greet())

    def wait(self, work: Coroutine[object, None, Result]) -> Result:
        return self.loop.run_until_complete(work)

    def named(self, work: Coroutine[object, None, Result]) -> Result | None:
        """Do ``work``, which may raise a named error."""
        try:
            return self.wait(work)
        except MachineError:
            return None

    def close(self) -> None:
        self.wait(self.stack.aclose())
        self.loop.close()


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    made = Session(tmp_path_factory.mktemp("hostile"))
    yield made
    # The machine still works after all examples.
    made.wait(made.scene.greet())
    made.close()


@settings(deadline=None)
@given(part=st.sampled_from(["", "to_device", "device_lists", "device_one_time_keys_count"]), value=VALUES)
def test_a_classic_sync(session: Session, part: str, value: object) -> None:
    machine = session.scene.app.machine
    position = session.wait(machine.sync_position("hostile"))
    response: Json = {"next_batch": "x", "device_one_time_keys_count": {"signed_curve25519": 50}}
    session.named(machine.receive_sync_changes({**response, part: value} if part else {"x": value}, position))


@settings(deadline=None)
@given(extensions=VALUES | st.fixed_dictionaries({"to_device": VALUES, "e2ee": VALUES}))
def test_a_sliding_sync(session: Session, extensions: object) -> None:
    machine = session.scene.app.machine
    position = session.wait(machine.sync_position("hostile", sliding=True))
    session.named(machine.receive_sync_changes({"pos": "x", "extensions": extensions}, position))


# M5.10
@settings(deadline=None)
@given(kind=WORDS, content=OBJECTS, changes=OBJECTS)
def test_to_device_events(session: Session, kind: str, content: Json, changes: Json) -> None:
    bring(session, kind, content, changes)


def bring(session: Session, kind: str, content: Json, changes: Json) -> None:
    """Let a sync deliver an unchanged event and a changed one."""
    machine = session.scene.app.machine
    position = session.wait(machine.sync_position("hostile"))
    events: list[object] = [{"type": kind, "sender": BOB, "content": content}, {"type": kind, "sender": BOB} | changes]
    response: Json = {
        "next_batch": "x",
        "to_device": {"events": events},
        "device_one_time_keys_count": {"signed_curve25519": 50},
    }
    outcome = session.wait(machine.receive_sync_changes(response, position))
    assert "put_aside" not in {problem.code for problem in outcome.problems}


@settings(deadline=None)
@given(changes=OBJECTS, kind=st.sampled_from([0, 1, 2, -1, 2**70, "0", None]), body=WORDS | st.text(max_size=80))
def test_olm_messages(session: Session, changes: Json, kind: object, body: str) -> None:
    scene = session.scene
    content: Json = {
        "algorithm": "m.olm.v1.curve25519-aes-sha2",
        "sender_key": scene.bob.machine.curve25519,
        "ciphertext": {scene.app.machine.curve25519: {"type": kind, "body": body}},
    }
    bring(session, "m.room.encrypted", content | changes, {"content": content})


ACTIONS = st.sampled_from(["request", "request_cancellation"])
ROOM_KEYS = st.fixed_dictionaries(
    {"algorithm": st.just(MEGOLM) | VALUES, "room_id": st.just(ROOM) | VALUES, "session_id": WORDS | VALUES}
)


@settings(deadline=None)
@given(
    event_type=st.sampled_from([asking.SECRET_REQUEST, asking.ROOM_KEY_REQUEST]),
    content=st.fixed_dictionaries(
        {
            "action": ACTIONS | VALUES,
            "request_id": WORDS | VALUES,
            "requesting_device_id": st.sampled_from(["TABLET", "PHONE", "LAPTOP"]) | VALUES,
            "name": WORDS | VALUES,
            "body": ROOM_KEYS | VALUES,
        }
    ),
)
def test_requests_for_secrets_and_room_keys(session: Session, tablet: Client, event_type: str, content: Json) -> None:
    machine = session.scene.app.machine
    position = session.wait(machine.sync_position("hostile"))
    event: Json = {"type": event_type, "sender": ALICE, "content": content}
    response: Json = {
        "next_batch": "x",
        "to_device": {"events": [event]},
        "device_one_time_keys_count": {"signed_curve25519": 50},
    }
    outcome = session.wait(machine.receive_sync_changes(response, position))
    assert "put_aside" not in {problem.code for problem in outcome.problems}
    session.wait(session.scene.extension.machine.outgoing_requests())
    assert tablet.device.device == "TABLET"  # It is verified, so that it gets answers.


@settings(deadline=None)
@given(
    answers=st.fixed_dictionaries({"secret": WORDS | VALUES}),
    key=ROOM_KEYS,
    more=st.fixed_dictionaries(
        {
            "session_key": WORDS | VALUES,
            "sender_key": WORDS | VALUES,
            "sender_claimed_ed25519_key": WORDS | VALUES,
            "shared_history": VALUES,
        }
    ),
)
def test_answers_of_a_verified_device(session: Session, tablet: Client, answers: Json, key: Json, more: Json) -> None:
    store = session.scene.app.machine._store
    for request_id in session.wait(store.query(asking.all_asked)):
        secret = olm_event(tablet, secrets.SECRET_SEND, {"request_id": request_id, **answers})
        session.named(store.run(secrets.receive_secret, secret))
    forwarded = olm_event(tablet, key_requests.FORWARDED_ROOM_KEY, key | more)
    session.named(store.run(key_requests.receive_forwarded, forwarded))
    asked = session.wait(store.query(asking.all_asked))
    assert {str(each.wanted.name) for each in asked.values()} >= set(secrets.SIGNING_KEYS)


@pytest.fixture(scope="module")
def tablet(session: Session) -> Client:
    """A verified device of Alice's. The phone has requested all secrets and a room key from it."""
    scene = session.scene
    other = session.wait(another_device(scene))
    session.wait(scene.app.machine.secrets.request(secrets.SIGNING_KEYS))
    ciphertext = session.wait(scene.bob.say(ROOM, "its key is not here yet"))
    session.wait(scene.app.machine.request_room_keys(ROOM, [ciphertext]))
    session.wait(scene.app.send_all())
    return other


def olm_event(sender: Client, event_type: str, content: Json) -> OlmEvent:
    machine = sender.machine
    return OlmEvent(event_type, content, UserId(ALICE), machine.curve25519, machine.ed25519)


PUBLIC_KEYS = st.sampled_from(["B" * 43, "A" * 43, "B" * 43 + "="]) | WORDS
AUTH_DATA = st.fixed_dictionaries({"public_key": PUBLIC_KEYS}, optional={"signatures": VALUES, "x": VALUES})
VERSIONS = st.fixed_dictionaries(
    {"algorithm": st.just(backup.ALGORITHM) | VALUES, "auth_data": AUTH_DATA | VALUES, "version": WORDS | VALUES}
)


@settings(deadline=None)
@given(version=VERSIONS, answer=OBJECTS)
def test_answers_about_the_version_of_the_backup(session: Session, version: Json, answer: Json) -> None:
    machine = session.scene.app.machine
    created = session.wait(machine.key_backup.create_version())
    for each in (answer, version):
        session.named(machine.mark_sent(created.request, each))
    session.wait(session.scene.extension.machine.outgoing_requests())
    session.wait(machine.key_backup.turn_off())
    for each in (answer, version):
        query = session.wait(machine.key_backup.version_query())
        session.named(machine.mark_sent(query, each))
        session.wait(session.scene.extension.machine.outgoing_requests())
        session.wait(session.scene.extension.machine.key_backup.status())
    session.wait(machine.key_backup.turn_off())


MESSAGES = st.fixed_dictionaries({"ephemeral": PUBLIC_KEYS, "ciphertext": WORDS | VALUES, "mac": WORDS})
BACKED_UP = st.fixed_dictionaries({"session_data": MESSAGES | VALUES}) | VALUES


@settings(deadline=None)
@given(
    rooms=st.dictionaries(WORDS, st.fixed_dictionaries({"sessions": st.dictionaries(WORDS, BACKED_UP)}) | VALUES),
    clear=st.binary(max_size=20)
    | st.fixed_dictionaries(
        {
            "algorithm": st.just(MEGOLM) | VALUES,
            "sender_key": WORDS | VALUES,
            "session_key": WORDS | VALUES,
            "sender_claimed_keys": VALUES,
        }
    ).map(written),
)
def test_what_is_in_a_backup(session: Session, rooms: Json, clear: bytes) -> None:
    machine = session.scene.app.machine
    created = session.wait(machine.key_backup.create_version())
    session.wait(machine.mark_sent(created.request, {"version": "1"}))
    message = msgspec.to_builtins(BackupEncryption(created.request.public_key).encrypt(clear))
    encrypted: Json = {"rooms": {ROOM: {"sessions": {"AAAA": {"session_data": message}}}}}

    async def restore(answer: Json) -> None:
        request = await machine.key_backup.download()
        async for progress in machine.key_backup.restore(request, answer):
            assert progress.kept == 0

    session.named(restore({"rooms": rooms}))
    session.wait(restore(encrypted))
    session.wait(session.scene.extension.machine.key_backup.turn_off())


@settings(deadline=None)
@given(event=OBJECTS, changes=OBJECTS, ciphertext=WORDS | st.text(max_size=80))
def test_room_events(session: Session, event: Json, changes: Json, ciphertext: str) -> None:
    content: Json = {"algorithm": MEGOLM, "session_id": "AAAA", "ciphertext": ciphertext}
    encrypted: Json = {"event_id": "$x", "sender": BOB, "content": content | changes}
    read = session.wait(session.scene.app.machine.decrypt_room_events(ROOM, [event, encrypted, encrypted | event]))
    assert all(isinstance(each, MachineError) for each in read)


@settings(deadline=None)
@given(content=OBJECTS, algorithm=st.just(MEGOLM) | VALUES)
def test_room_settings(session: Session, content: Json, algorithm: object) -> None:
    machine = session.scene.app.machine
    session.named(machine.set_room_encryption("!other:example.org", content))
    session.named(machine.set_room_encryption("!other:example.org", {**content, "algorithm": algorithm}))


@settings(deadline=None)
@given(response=OBJECTS, part=VALUES, which=st.sampled_from(["upload", "query", "claim", "to-device"]))
def test_answers(session: Session, response: Json, part: object, which: str) -> None:
    machine, bob = session.scene.app.machine, UserId(BOB)
    key = Curve25519Key(session.scene.bob.machine.curve25519)
    requests: dict[str, tuple[Request, str]] = {
        "upload": (KeysUpload(TransactionId("x"), {}), "one_time_key_counts"),
        "query": (KeysQuery({bob: 1, UserId(ALICE): 1}), "device_keys"),
        "claim": (KeysClaim((Claimed(Device(bob, DeviceId("LAPTOP")), key, 1),)), "one_time_keys"),
        "to-device": (ToDevice(TransactionId("x"), "m.test", {}), "x"),
    }
    request, name = requests[which]
    session.named(machine.mark_sent(request, response))
    session.named(machine.mark_sent(request, {name: part}))
    session.named(machine.mark_sent(request, {name: {BOB: {"LAPTOP": part}}}))


@settings(deadline=None)
@given(keys=OBJECTS)
def test_the_answer_to_the_question_that_was_asked(session: Session, keys: Json) -> None:
    scene = session.scene
    position = session.wait(scene.app.machine.sync_position("hostile"))
    changed: Json = {"next_batch": "x", "device_lists": {"changed": [BOB]}}
    changed["device_one_time_keys_count"] = {"signed_curve25519": 50}
    session.wait(scene.app.machine.receive_sync_changes(changed, position))
    before = session.wait(scene.app.machine.devices_of(BOB))
    for request in session.wait(scene.app.machine.outgoing_requests()):
        if isinstance(request, KeysQuery):
            session.named(scene.app.machine.mark_sent(request, {"device_keys": {BOB: {"LAPTOP": keys, "X": keys}}}))
    assert session.wait(scene.app.machine.devices_of(BOB)) == before


def test_the_key_that_was_asked_for(session: Session) -> None:
    """A malformed response to an upload leaves the offer unchanged."""
    scene = session.scene
    session.wait(ask_for_keys(scene.app))
    (upload,) = [each for each in session.wait(scene.app.machine.outgoing_requests()) if isinstance(each, KeysUpload)]
    nonsense: tuple[object, ...] = (-1, True, "50", 5.0, 2**70)
    answers: list[object] = [None, 5, [], *({"signed_curve25519": count} for count in nonsense)]
    for counts in answers:
        session.named(scene.app.machine.mark_sent(upload, {"one_time_key_counts": counts}))
        listed = session.wait(scene.extension.machine.outgoing_requests())
        assert not any(isinstance(request, KeysUpload) for request in listed)
    session.wait(scene.app.send(upload))
