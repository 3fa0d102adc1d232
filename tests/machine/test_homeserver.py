"""The homeserver in memory answers like the specification, and like Synapse where the specification is silent."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

import pytest

from checking.machine_replay.homeserver import PASSWORD, Device, Homeserver, Json
from unwedged.machine import SigningKeyName
from unwedged.machine.identifiers import UserId
from unwedged.machine.identities import signing_keys
from unwedged.machine.records import only_key
from unwedged.machine.signing import signed_by, without_signatures

ALICE = Device("@alice:example.org", "APP")
BOB = Device("@bob:example.org", "PHONE")
BOBS_TABLET = Device("@bob:example.org", "TABLET")
ROOM = "!room:example.org"


@pytest.fixture
def homeserver() -> Homeserver:
    made = Homeserver(to_device_limit=3)
    for device in (ALICE, BOB, BOBS_TABLET):
        made.sign_in(device)
    return made


def accepted(
    homeserver: Homeserver, device: Device, method: str, path: str, body: Mapping[str, object] | None = None
) -> Json:
    status, answer = homeserver.request(device, method, f"/_matrix/client/v3/{path}", body)
    assert status == 200, answer
    return answer


def upload(homeserver: Homeserver, device: Device, **keys: Json) -> Json:
    return accepted(homeserver, device, "POST", "keys/upload", keys)


def one_time_keys(*names: str) -> Json:
    return {f"signed_curve25519:{name}": {"key": f"key of {name}"} for name in names}


def claim(homeserver: Homeserver, device: Device) -> object:
    wanted = {device.user: {device.device: "signed_curve25519"}}
    return accepted(homeserver, ALICE, "POST", "keys/claim", {"one_time_keys": wanted})["one_time_keys"]


def claimed(device: Device, name: str) -> Json:
    return {device.user: {device.device: one_time_keys(name)}}


def sync(homeserver: Homeserver, device: Device, since: object = None) -> Json:
    return accepted(homeserver, device, "GET", "sync" if since is None else f"sync?since={since}")


def sliding_sync(
    homeserver: Homeserver, device: Device, pos: object = None, since: object = None, connection: str = "one"
) -> tuple[int, Json]:
    extension = {"enabled": True} | ({} if since is None else {"since": since})
    body: Json = {"conn_id": connection, "extensions": {"e2ee": {"enabled": True}, "to_device": extension}}
    path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=0"
    return homeserver.request(device, "POST", path if pos is None else f"{path}&pos={quote(str(pos))}", body)


def send(homeserver: Homeserver, transaction: str, to: Json, kind: str = "m.dummy") -> None:
    accepted(homeserver, ALICE, "PUT", f"sendToDevice/{kind}/{transaction}", {"messages": to})


def texts(answer: Json) -> list[object]:
    """Return the texts of the to-device messages of a response."""
    section = answer.get("to_device", answer)
    assert isinstance(section, dict)
    return [event["content"]["text"] for event in section["events"]]


def to_bob(text: str) -> Json:
    return {BOB.user: {BOB.device: {"text": text}}}


def changed(homeserver: Homeserver, device: Device, since: object) -> object:
    return sync(homeserver, device, since).get("device_lists", {})


def test_each_key_is_handed_out_once_then_the_fallback_key_which_is_used_from_then_on(homeserver: Homeserver) -> None:
    answer = upload(homeserver, BOB, one_time_keys=one_time_keys("A", "B"), fallback_keys=one_time_keys("F"))
    assert answer == {"one_time_key_counts": {"signed_curve25519": 2}}
    assert sync(homeserver, BOB)["device_unused_fallback_key_types"] == ["signed_curve25519"]
    assert [claim(homeserver, BOB) for _ in range(4)] == [claimed(BOB, name) for name in "ABFF"]
    after = sync(homeserver, BOB)
    assert after["device_one_time_keys_count"] == {"signed_curve25519": 0}
    assert after["device_unused_fallback_key_types"] == []
    assert claim(homeserver, BOBS_TABLET) == {}


def test_an_identifier_is_not_given_to_another_key(homeserver: Homeserver) -> None:
    upload(homeserver, BOB, one_time_keys=one_time_keys("A"))
    signed = {"key": "key of A", "signatures": {BOB.user: {}}}
    upload(homeserver, BOB, one_time_keys={"signed_curve25519:A": signed})
    other: Json = {"one_time_keys": {"signed_curve25519:A": {"key": "another"}}}
    status, answer = homeserver.request(BOB, "POST", "/_matrix/client/v3/keys/upload", other)
    assert (status, answer["errcode"]) == (400, "M_UNKNOWN")
    assert "already exists" in str(answer["error"])
    assert claim(homeserver, BOB) == claimed(BOB, "A")


def test_as_with_synapse_what_is_uploaded_again_after_it_was_claimed_is_handed_out_again(
    homeserver: Homeserver,
) -> None:
    for _ in range(2):
        upload(homeserver, BOB, one_time_keys=one_time_keys("A"))
        assert claim(homeserver, BOB) == claimed(BOB, "A")
        assert claim(homeserver, BOB) == {}


@pytest.mark.parametrize(("order", "unused"), [(["fallback", "key"], []), (["key", "fallback"], ["signed_curve25519"])])
def test_as_with_synapse_a_fallback_key_that_is_uploaded_again_is_unused_unless_it_is_canonical_json(
    homeserver: Homeserver, order: list[str], unused: list[str]
) -> None:
    key: Json = {name: {"fallback": True, "key": "F"}[name] for name in order}
    upload(homeserver, BOB, fallback_keys={"signed_curve25519:F": key})
    assert sync(homeserver, BOB)["device_unused_fallback_key_types"] == ["signed_curve25519"]
    claim(homeserver, BOB)
    upload(homeserver, BOB, fallback_keys={"signed_curve25519:F": key})
    assert sync(homeserver, BOB)["device_unused_fallback_key_types"] == unused
    upload(homeserver, BOB, fallback_keys=one_time_keys("G"))
    assert sync(homeserver, BOB)["device_unused_fallback_key_types"] == ["signed_curve25519"]


def test_a_query_returns_the_devices_that_have_keys(homeserver: Homeserver) -> None:
    upload(homeserver, BOB, device_keys={"device_id": BOB.device})
    for wanted, found in ([], {BOB.device: {"device_id": BOB.device}}), ([BOBS_TABLET.device], {}):
        answer = accepted(homeserver, ALICE, "POST", "keys/query", {"device_keys": {BOB.user: wanted, "@eve:x": []}})
        identities: Json = {"master_keys": {}, "self_signing_keys": {}, "user_signing_keys": {}}
        assert answer == {"device_keys": {BOB.user: found, "@eve:x": {}}, "failures": {}, **identities}


def test_a_transaction_is_one_event_and_another_type_or_device_is_another(homeserver: Homeserver) -> None:
    send(homeserver, "1", to_bob("one"))
    send(homeserver, "1", to_bob("one again"))
    send(homeserver, "1", to_bob("two"), kind="m.other")
    send(homeserver, "2", {BOB.user: {"*": {"text": "three"}}})
    assert texts(sync(homeserver, BOB)) == ["one", "two", "three"]
    assert texts(sync(homeserver, BOBS_TABLET)) == ["three"]
    assert len(homeserver.arrivals) == 6


def test_a_to_device_message_is_kept_until_the_token_of_its_response_comes_back(homeserver: Homeserver) -> None:
    for text in "abcde":
        send(homeserver, text, to_bob(text))
    first = sync(homeserver, BOB)
    assert texts(first) == texts(sync(homeserver, BOB)) == ["a", "b", "c"]
    second = sync(homeserver, BOB, first["next_batch"])
    assert texts(second) == ["d", "e"]
    assert texts(sync(homeserver, BOB)) == ["d", "e"]
    assert texts(sync(homeserver, BOB, second["next_batch"])) == []


def test_device_lists_name_whom_a_room_is_shared_with(homeserver: Homeserver) -> None:
    since = sync(homeserver, ALICE)["next_batch"]
    assert "device_lists" not in sync(homeserver, ALICE)
    upload(homeserver, BOB, device_keys={"device_id": BOB.device})
    assert changed(homeserver, ALICE, since) == {}
    homeserver.create_room(ROOM, ALICE.user, BOB.user)
    assert changed(homeserver, ALICE, since) == {"changed": [ALICE.user, BOB.user]}
    since = sync(homeserver, ALICE)["next_batch"]
    upload(homeserver, BOB, device_keys={"device_id": BOB.device})
    assert changed(homeserver, ALICE, since) == {}
    homeserver.sign_out(BOBS_TABLET)
    assert changed(homeserver, ALICE, since) == {"changed": [BOB.user]}
    homeserver.leave(ROOM, BOB.user)
    assert changed(homeserver, ALICE, since) == {"left": [BOB.user]}
    upload(homeserver, ALICE, device_keys={"device_id": ALICE.device})
    assert changed(homeserver, ALICE, since) == {"changed": [ALICE.user], "left": [BOB.user]}
    since = sync(homeserver, ALICE)["next_batch"]
    homeserver.join(ROOM, BOB.user)
    assert changed(homeserver, ALICE, since) == {"changed": [BOB.user]}
    since = sync(homeserver, ALICE)["next_batch"]
    homeserver.leave(ROOM, ALICE.user)
    homeserver.join(ROOM, ALICE.user)
    assert changed(homeserver, ALICE, since) == {"changed": [ALICE.user, BOB.user]}


def test_events_reach_the_members_of_a_room(homeserver: Homeserver) -> None:
    homeserver.create_room(ROOM, ALICE.user, BOB.user, encryption={"rotation_period_msgs": 2})
    since = sync(homeserver, BOB)["next_batch"]
    path = f"rooms/{quote(ROOM)}/send/m.room.encrypted/1"
    event = accepted(homeserver, ALICE, "PUT", path, {"text": "hello"})
    assert accepted(homeserver, ALICE, "PUT", path, {"text": "hello"}) == event
    [sent] = [event for event in homeserver.events(ROOM) if event["type"] == "m.room.encrypted"]
    assert sent["event_id"] == event["event_id"]
    assert sync(homeserver, BOB, since)["rooms"] == {
        "join": {ROOM: {"timeline": {"events": [sent], "limited": False}, "state": {"events": []}}},
        "leave": {},
    }
    homeserver.leave(ROOM, ALICE.user)
    assert homeserver.request(ALICE, "PUT", f"/_matrix/client/v3/{path}2", {})[0] == 403
    assert accepted(homeserver, BOB, "GET", f"rooms/{ROOM}/joined_members") == {"joined": {BOB.user: {}}}


def test_the_device_that_sent_an_event_alone_is_told_under_which_transaction(homeserver: Homeserver) -> None:
    homeserver.create_room(ROOM, ALICE.user, BOB.user)
    accepted(homeserver, BOB, "PUT", f"rooms/{quote(ROOM)}/send/m.room.message/mine", {})
    for device, told in ((ALICE, None), (BOBS_TABLET, None), (BOB, {"transaction_id": "mine"})):
        rooms = sync(homeserver, device)["rooms"]
        assert isinstance(rooms, dict)
        assert rooms["join"][ROOM]["timeline"]["events"][-1].get("unsigned") == told


def test_sliding_sync_has_two_tokens(homeserver: Homeserver) -> None:
    homeserver.create_room(ROOM, ALICE.user, BOB.user)
    send(homeserver, "1", to_bob("one"))
    _, first = sliding_sync(homeserver, BOB)
    extensions = first["extensions"]
    assert isinstance(extensions, dict)
    assert texts(extensions) == ["one"]
    assert "device_lists" not in extensions["e2ee"]
    upload(homeserver, ALICE, device_keys={"device_id": ALICE.device})
    pos = first["pos"]
    # The request lacks the token of the messages, so they come again. The rest repeats as after a lost response.
    for _ in range(2):
        _, second = sliding_sync(homeserver, BOB, first["pos"])
        pos, extensions = second["pos"], second["extensions"]
        assert isinstance(extensions, dict)
        assert texts(extensions) == ["one"]
        assert extensions["e2ee"]["device_lists"] == {"changed": [ALICE.user], "left": []}
    _, third = sliding_sync(homeserver, BOB, pos, extensions["to_device"]["next_batch"])
    extensions = third["extensions"]
    assert isinstance(extensions, dict)
    assert texts(extensions) == []
    assert extensions["e2ee"]["device_lists"] == {"changed": [], "left": []}
    assert texts(sync(homeserver, BOB)) == []


def test_a_position_that_is_not_known_is_refused_by_name(homeserver: Homeserver) -> None:
    _, first = sliding_sync(homeserver, BOB)
    _, second = sliding_sync(homeserver, BOB, first["pos"])
    assert sliding_sync(homeserver, BOB, first["pos"], connection="two")[1]["errcode"] == "M_UNKNOWN_POS"
    assert sliding_sync(homeserver, BOB, first["pos"])[0] == 200
    homeserver.forget_connections(BOB)
    status, answer = sliding_sync(homeserver, BOB, second["pos"])
    assert (status, answer["errcode"]) == (400, "M_UNKNOWN_POS")
    _, third = sliding_sync(homeserver, BOB)
    assert sliding_sync(homeserver, BOB, third["pos"])[0] == 200


def test_what_is_refused_has_the_specifications_code_and_arrived_all_the_same(homeserver: Homeserver) -> None:
    stranger = Device("@eve:example.org", "PHONE")
    refusals: list[tuple[Device, str, str, Json, int, str]] = [
        (stranger, "GET", "sync", {}, 401, "M_UNKNOWN_TOKEN"),
        (BOB, "GET", "sync?since=yesterday", {}, 400, "M_UNKNOWN"),
        (BOB, "POST", "keys/query", {"device_keys": []}, 400, "M_BAD_JSON"),
        (BOB, "POST", "keys/forget", {}, 404, "M_UNRECOGNIZED"),
    ]
    for device, method, path, body, status, code in refusals:
        refused, answer = homeserver.request(device, method, f"/_matrix/client/v3/{path}", body)
        assert (refused, answer["errcode"], homeserver.arrivals[-1].status) == (status, code, status)


def test_nothing_that_a_request_or_an_answer_holds_is_shared(homeserver: Homeserver) -> None:
    keys = one_time_keys("A")
    upload(homeserver, BOB, one_time_keys=keys)
    keys["signed_curve25519:A"] = {"key": "changed afterwards"}
    assert claim(homeserver, BOB) == claimed(BOB, "A")


def cross_signing_keys(device: Device, seed: int) -> dict[str, Json]:
    seeds = {name: bytes([seed + place] * 32) for place, name in enumerate(SigningKeyName)}
    return {f"{name.value}_key": key for name, key in signing_keys(UserId(device.user), seeds).items()}


def queried(homeserver: Homeserver, asking: Device, *users: str) -> Json:
    return accepted(homeserver, asking, "POST", "keys/query", {"device_keys": {user: [] for user in users}})


def test_the_first_cross_signing_keys_need_no_password_and_others_do(homeserver: Homeserver) -> None:
    path = "/_matrix/client/v3/keys/device_signing/upload"
    first, second = cross_signing_keys(ALICE, 1), cross_signing_keys(ALICE, 5)
    for _ in range(2):
        accepted(homeserver, ALICE, "POST", "keys/device_signing/upload", first)
    status, answer = homeserver.request(ALICE, "POST", path, second)
    assert status == 401
    assert answer["flows"]
    auth: Json = {"type": "m.login.password", "session": answer["session"]}
    for password, expected in (("wrong", 401), (PASSWORD, 200)):
        status, _ = homeserver.request(ALICE, "POST", path, {**second, "auth": {**auth, "password": password}})
        assert status == expected
    assert queried(homeserver, ALICE, ALICE.user)["master_keys"] == {ALICE.user: second["master_key"]}


def test_cross_signing_keys_are_signed_by_the_master_key(homeserver: Homeserver) -> None:
    path = "/_matrix/client/v3/keys/device_signing/upload"
    mixed = cross_signing_keys(ALICE, 1) | {"self_signing_key": cross_signing_keys(ALICE, 5)["self_signing_key"]}
    for body in (mixed, cross_signing_keys(BOB, 1), {"self_signing_key": mixed["self_signing_key"]}):
        assert homeserver.request(ALICE, "POST", path, body)[0] == 400
    assert queried(homeserver, ALICE, ALICE.user)["master_keys"] == {}


def test_a_user_signing_key_is_shown_to_its_owner_only(homeserver: Homeserver) -> None:
    keys = cross_signing_keys(ALICE, 1)
    homeserver.create_room(ROOM, ALICE.user, BOB.user)
    since = sync(homeserver, BOB)["next_batch"]
    accepted(homeserver, ALICE, "POST", "keys/device_signing/upload", keys)
    assert sync(homeserver, BOB, since)["device_lists"] == {"changed": [ALICE.user]}
    for asking in (ALICE, BOB):
        answer = queried(homeserver, asking, ALICE.user)
        assert answer["self_signing_keys"] == {ALICE.user: keys["self_signing_key"]}
        assert answer["user_signing_keys"] == ({ALICE.user: keys["user_signing_key"]} if asking == ALICE else {})


def test_a_signature_of_another_user_is_shown_to_its_maker_only(homeserver: Homeserver) -> None:
    homeserver.create_room(ROOM, ALICE.user, BOB.user)
    for device, seed in ((ALICE, 1), (BOB, 5)):
        accepted(homeserver, device, "POST", "keys/device_signing/upload", cross_signing_keys(device, seed))
    master = cross_signing_keys(BOB, 5)["master_key"]
    signed = signed_by(master, UserId(ALICE.user), bytes([3] * 32))
    since = {device: sync(homeserver, device)["next_batch"] for device in (ALICE, BOB)}
    body: Json = {BOB.user: {only_key(master): signed}}
    assert accepted(homeserver, ALICE, "POST", "keys/signatures/upload", body) == {"failures": {}}
    assert queried(homeserver, ALICE, BOB.user)["master_keys"] == {BOB.user: signed}
    assert queried(homeserver, BOB, BOB.user)["master_keys"] == {BOB.user: master}
    assert sync(homeserver, ALICE, since[ALICE])["device_lists"] == {"changed": [BOB.user]}
    assert "device_lists" not in sync(homeserver, BOB, since[BOB])


def test_the_signature_of_a_device_is_shown_to_all_and_what_is_wrong_is_refused_by_name(homeserver: Homeserver) -> None:
    homeserver.create_room(ROOM, ALICE.user, BOB.user)
    device_keys: Json = {"user_id": ALICE.user, "device_id": "APP", "keys": {"ed25519:APP": "key"}}
    upload(homeserver, ALICE, device_keys=device_keys)
    accepted(homeserver, ALICE, "POST", "keys/device_signing/upload", cross_signing_keys(ALICE, 1))
    signed = signed_by(device_keys, UserId(ALICE.user), bytes([2] * 32))
    wrong: dict[str, tuple[str, Json]] = {
        "M_INVALID_SIGNATURE": ("APP", signed_by(device_keys, UserId(ALICE.user), bytes([9] * 32))),
        "M_UNKNOWN": ("APP", signed_by({**device_keys, "more": 1}, UserId(ALICE.user), bytes([2] * 32))),
        "M_NOT_FOUND": ("OTHER", signed),
    }
    for code, (name, value) in wrong.items():
        answer = accepted(homeserver, ALICE, "POST", "keys/signatures/upload", {ALICE.user: {name: value}})
        failures = answer["failures"]
        assert isinstance(failures, dict)
        assert failures[ALICE.user][name]["errcode"] == code
    since = sync(homeserver, BOB)["next_batch"]
    body: Json = {ALICE.user: {"APP": signed}}
    assert accepted(homeserver, ALICE, "POST", "keys/signatures/upload", body) == {"failures": {}}
    assert queried(homeserver, BOB, ALICE.user)["device_keys"] == {ALICE.user: {"APP": signed}}
    assert without_signatures(signed) == device_keys
    assert sync(homeserver, BOB, since)["device_lists"] == {"changed": [ALICE.user]}
