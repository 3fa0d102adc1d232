"""Olm sessions between our device and a peer, broken on purpose in each direction, are replaced."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from checking.machine_replay.homeserver import Device, Json
from tests.peers.peer import LIBRARIES, MATRIX_NIO, Library, Peer, Unreadable
from tests.peers.scene import Scene
from tests.peers.shared_device import SharedDevice, shared_device

OURS = Device("@ours:example.org", "OURSPHONE")
ALICE = Device("@alice:example.org", "ALICESPHONE")
OTHER_ROOM, LOST_ROOM, NEW_ROOM = "!other:example.org", "!lost:example.org", "!new:example.org"
"""Rooms that each have their own room key."""

EACH = pytest.mark.parametrize("library", [pytest.param(library, id=library.name) for library in LIBRARIES])


@pytest.fixture
async def ours(scene: Scene, tmp_path: Path) -> AsyncIterator[SharedDevice]:
    """Run our device, which changes the process with each call."""
    async with shared_device(tmp_path, OURS, scene.network) as shared:
        yield shared


# M8.1, M8.5
@pytest.mark.parametrize("forgotten", [False, True], ids=["put back", "forgotten"])
@EACH
async def test_sessions_that_decrypt_no_more_are_replaced(
    scene: Scene, ours: SharedDevice, library: Library, forgotten: bool
) -> None:
    alice, lost = await wedged(scene, ours, library, alice_speaks=True, forgotten=forgotten)
    await ours.sync()
    assert ours.problems == {"unreadable"}
    with pytest.raises(Unreadable, match="missing_room_key"):
        await ours.read(LOST_ROOM, lost)
    await scene.settle(ours, alice)
    # No library shares such a lost key again. The device must request it with m.room_key_request.
    event = await alice.send(NEW_ROOM, "readable again")
    await ours.sync()
    assert await ours.read(NEW_ROOM, event) == "readable again"
    await scene.say(ours, "and so is this", alice)
    await scene.say(alice, "and this", ours)
    assert ours.problems == {"unreadable"}


# M8.11
@EACH
async def test_what_a_peer_could_not_read_becomes_readable(scene: Scene, ours: SharedDevice, library: Library) -> None:
    alice, lost = await wedged(scene, ours, library, alice_speaks=False, forgotten=False)
    await alice.sync()
    with pytest.raises(Unreadable):
        await alice.read(LOST_ROOM, lost)
    await scene.settle(alice, ours)
    # matrix-sdk-crypto never returns its m.dummy for sending. So another message announces its new session.
    event = await alice.send(NEW_ROOM, "by a new session")
    await ours.sync()
    assert await ours.read(NEW_ROOM, event) == "by a new session"
    again = await ours.send(LOST_ROOM, "by the same room key")
    await alice.sync()
    assert await alice.read(LOST_ROOM, again) == "by the same room key"
    assert await alice.read(LOST_ROOM, lost) == "lost"
    # matrix-nio requests the room key as well, but a device answers only requests of its own user's devices.
    assert ours.problems == ({"request_refused"} if library is MATRIX_NIO else set())


@EACH
async def test_a_device_that_forgot_its_sessions_makes_new_ones(
    scene: Scene, ours: SharedDevice, library: Library
) -> None:
    alice, event = await wedged(scene, ours, library, alice_speaks=False, forgotten=True)
    await alice.sync()
    assert await alice.read(LOST_ROOM, event) == "lost"
    event = await alice.send(NEW_ROOM, "found")
    await ours.sync()
    assert await ours.read(NEW_ROOM, event) == "found"
    assert ours.problems == set()


async def wedged(
    scene: Scene, ours: SharedDevice, library: Library, *, alice_speaks: bool, forgotten: bool
) -> tuple[Peer, Json]:
    """Restore an older copy of the shared device's sessions, or delete them. Return the peer, and the next message.

    The copy has received the peer's last message and has not replied to it. So no message key is used twice, but the
    two sides continue from different ratchet steps.
    """
    alice = await scene.start(library, ALICE)
    await scene.meet(ours, alice)
    await scene.say(ours, "hello", alice)
    await scene.say(alice, "hello, too", ours)
    before = await ours.sessions(ALICE)
    for room in (OTHER_ROOM, LOST_ROOM, NEW_ROOM):
        scene.homeserver.create_room(room, OURS.user, ALICE.user)
    await scene.settle(ours, alice)
    for speaker, listener in ((ours, alice), (alice, ours)):
        event = await speaker.send(OTHER_ROOM, "how are you?")
        await listener.sync()
        assert await listener.read(OTHER_ROOM, event) == "how are you?"
    await ours.put_back(ALICE, [] if forgotten else before)
    await alice.wait_an_hour()
    return alice, await (alice if alice_speaks else ours).send(LOST_ROOM, "lost")
