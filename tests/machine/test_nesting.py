"""Deeply nested JSON is refused at a fixed depth, however deep the call stack is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TypeVar

import pytest

from checking.machine_replay.homeserver import Json
from tests.machine.scene import ALICE, BOB, ROOM, Scene
from tests.machine.test_cross_signing import bootstrap
from unwedged.machine import InvalidArgument, KeysQuery, MalformedResponse
from unwedged.machine.errors import NotCanonical
from unwedged.machine.signing import canonical
from unwedged.machine.wire import DEEPEST, is_storable

Result = TypeVar("Result")
DEPTHS = (*range(90, 890, 200), *range(900, 960, 2))


def nested(levels: int) -> object:
    value: object = 1
    for level in range(levels):
        value = [value] if level % 2 else {"more": value}
    return value


async def called_from_afar(frames: int, call: Callable[[], Awaitable[Result]]) -> Result:
    """Await a call with this many frames of the application above it."""
    return await (called_from_afar(frames - 1, call) if frames else call())


# M5.9
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: [value], lambda value: (value, 1)])
def test_no_record_keeps_what_is_nested_too_deeply(wrap: Callable[[object], object]) -> None:
    around = 0 if wrap(1) == 1 else 1
    assert is_storable(wrap(nested(DEEPEST - around)))
    assert not is_storable(wrap(nested(DEEPEST - around + 1)))


def test_what_is_nested_too_deeply_has_no_canonical_json() -> None:
    with pytest.raises(NotCanonical):
        canonical(nested(20_000))  # more than any recursion limit: mypy raises the limit


async def test_content_that_is_nested_too_deeply_is_refused_by_name(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    shared = await scene.app.share(ROOM, [ALICE, BOB])
    endless: list[object] = []
    endless += [endless, endless]
    for value in (nested(DEEPEST), nested(300), nested(5_000), endless):
        with pytest.raises(InvalidArgument):
            await scene.app.machine.encrypt_room_event(ROOM, shared, "org.deep", {"x": value})
    content: Json = {"x": nested(DEEPEST - 1)}
    event = await scene.extension.machine.encrypt_room_event(ROOM, shared, "org.deep", content)
    await scene.app.send_all()
    await scene.bob.sync()
    arrived: Json = {"type": "m.room.encrypted", "event_id": "$deep", "sender": ALICE, "content": event}
    read = await scene.bob.machine.decrypt_room_event(ROOM, arrived)
    assert (read.index, read.content) == (0, content)


async def test_an_identity_is_not_forgotten_because_of_what_a_homeserver_adds_to_it(alice_and_bob: Scene) -> None:
    """Otherwise the next identity would count as the first one. No signature covers the homeserver's additions."""
    scene = alice_and_bob
    await bootstrap(scene.bob)
    await scene.app.sync()
    await scene.app.send_all()
    first = (await scene.app.machine.cross_signing.trust_of(BOB)).master_key
    assert first is not None
    await scene.app.machine.cross_signing.verify_user(BOB, first)
    for depth in DEPTHS:
        scene.server._changed.append((scene.server._tick(), BOB))
        await scene.app.sync()
        (query,) = [each for each in await scene.app.machine.outgoing_requests() if isinstance(each, KeysQuery)]
        answer = scene.app.call(query.method, query.path, query.body)
        master_keys = _object(answer["master_keys"])
        master_keys[BOB] = {**_object(master_keys[BOB]), "unsigned": nested(depth)}
        await scene.app.machine.mark_sent(query, answer)
        for client in (scene.extension, scene.app):
            trust = await called_from_afar(300, lambda: client.machine.cross_signing.trust_of(BOB))  # noqa: B023
            assert (trust.master_key, trust.verified) == (first, True), depth


async def test_a_backup_is_not_forgotten_because_of_what_a_homeserver_adds_to_it(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    new = await scene.app.machine.key_backup.create_version()
    await scene.app.machine.mark_sent(new.request, scene.app.call("POST", new.request.path, new.request.body))
    for depth in DEPTHS:
        query = await scene.app.machine.key_backup.version_query()
        answer = scene.app.call(query.method, query.path)
        answer["auth_data"] = {**_object(answer["auth_data"]), "unsigned": nested(depth)}
        with suppress(MalformedResponse):
            await scene.app.machine.mark_sent(query, answer)
        for client in (scene.extension, scene.app):
            key = await called_from_afar(300, client.machine.key_backup.decryption_key)
            assert key == new.decryption_key, depth


def _object(value: object) -> Json:
    assert isinstance(value, dict)
    return value


def _response(events: Iterable[Json], number: int) -> Json:
    return {"next_batch": f"hostile{number}", "to_device": {"events": [*events]}, "device_one_time_keys_count": {}}


# M5.9, M5.10
@pytest.mark.parametrize("count", [1, 300])
async def test_no_event_stops_a_sync_by_its_depth(alice_and_bob: Scene, count: int) -> None:
    """An event that begins a verification is stored, and so is every event of a large batch."""
    scene = alice_and_bob
    last: Json = {"type": "m.other", "sender": BOB, "content": {"last": True}}
    for number, depth in enumerate(DEPTHS):
        start: Json = {
            "transaction_id": f"{depth}",
            "from_device": f"LAPTOP{depth}",
            "method": "m.sas.v1",
            "key_agreement_protocols": ["curve25519-hkdf-sha256"],
            "hashes": ["sha256"],
            "message_authentication_codes": ["hkdf-hmac-sha256.v2"],
            "short_authentication_string": ["decimal"],
            "more": nested(depth),
        }
        events: list[Json] = [{"type": "m.key.verification.start", "sender": f"@{depth}:example.org", "content": start}]
        position = await scene.app.machine.sync_position()
        outcome = await scene.app.machine.receive_sync_changes(_response([*events, *[last] * count], number), position)
        assert [event.content for event in outcome.events] == [{"last": True}] * count, depth
        assert not {problem.code for problem in outcome.problems} - {"malformed", "too_many_verifications"}, depth
        await called_from_afar(300, scene.extension.machine.outgoing_requests)
