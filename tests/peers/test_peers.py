"""Other implementations talk to each other through the homeserver in memory, so that the equipment is known to work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from itertools import product
from typing import TypeVar

import msgspec
import pytest

from tests.machine.homeserver import Device, Homeserver, Json
from tests.peers.network import Fault, FaultKind, Network
from tests.peers.peer import LIBRARIES, MATRIX_NIO, MATRIX_SDK_CRYPTO, Library, Lost, Peer, Unreadable, peer

T = TypeVar("T")

ALICE = Device("@alice:example.org", "ALICESPHONE")
BOB = Device("@bob:example.org", "BOBSPHONE")
CAROL = Device("@carol:example.org", "CAROLSPHONE")
ROOM = "!room:example.org"

PAIRS = [pytest.param(one, other, id=f"{one.name}, {other.name}") for one, other in product(LIBRARIES, repeat=2)]
EACH = [pytest.param(library, id=library.name) for library in LIBRARIES]


class Scene:
    """A homeserver, the network, and the peers that were started."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.homeserver = Homeserver()
        self.network = Network(self.homeserver)
        self._stack = stack

    async def start(self, library: Library, device: Device) -> Peer:
        return await self._stack.enter_async_context(peer(library, device, self.network))

    async def meet(self, *peers: Peer, **encryption: int) -> None:
        """Let peers have a room in common, and know each other's devices."""
        self.homeserver.create_room(ROOM, *(each.device.user for each in peers), encryption=dict(encryption))
        await self.settle(*peers)

    async def settle(self, *peers: Peer) -> None:
        """Let peers sync until nothing happens any more."""
        for _ in range(10):
            before = len(self.homeserver.arrivals)
            for each in peers:
                await each.sync()
            if len(self.homeserver.arrivals) == before + len(peers):
                return
        raise AssertionError("the peers never come to rest")

    async def say(self, speaker: Peer, text: str, *listeners: Peer) -> Json:
        """Have a message sent, and see that all listeners read it; return the event."""
        await speaker.sync()
        event = await speaker.send(ROOM, text)
        for listener in listeners:
            await listener.sync()
            assert await listener.read(ROOM, event) == text
        return event


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        made = Scene(stack)
        yield made
        assert not made.network.faults, "not every fault happened"
        assert all(arrival.status == 200 for arrival in made.homeserver.arrivals)


def sessions(*events: Json) -> set[object]:
    """The Megolm sessions that events were encrypted with."""
    return {event["content"]["session_id"] for event in events if isinstance(event["content"], dict)}


@pytest.mark.parametrize(("one", "other"), PAIRS)
async def test_two_peers_read_each_other(scene: Scene, one: Library, other: Library) -> None:
    alice, bob = await scene.start(one, ALICE), await scene.start(other, BOB)
    await scene.meet(alice, bob, rotation_period_msgs=5)
    events: dict[Library, list[Json]] = {one: [], other: []}
    for number in range(20):
        events[one].append(await scene.say(alice, f"alice {number}", bob))
        events[other].append(await scene.say(bob, f"bob {number}", alice))
    for library, sent in events.items():
        # matrix-nio knows no other period than its own, of a hundred messages.
        assert len(sessions(*sent)) / (len(sent) / 20) == (1 if library == MATRIX_NIO else 4)
    keys = scene.network.message_keys
    assert len(keys.megolm) == 40
    assert len({key.sender_key for key in keys.olm}) == 2


@pytest.mark.parametrize(("one", "other"), PAIRS)
async def test_a_room_key_is_rotated_when_somebody_leaves(scene: Scene, one: Library, other: Library) -> None:
    alice, bob, carol = await scene.start(one, ALICE), await scene.start(other, BOB), await scene.start(other, CAROL)
    await scene.meet(alice, bob, carol)
    before = [await scene.say(alice, "three", bob, carol), await scene.say(bob, "three", alice, carol)]
    for _ in range(5):
        scene.homeserver.leave(ROOM, CAROL.user)
        await scene.settle(alice, bob, carol)
        after = [await scene.say(alice, "two", bob), await scene.say(bob, "two", alice)]
        assert not sessions(*before) & sessions(*after)
        for event in after:
            with pytest.raises(Unreadable):
                await carol.read(ROOM, event)
        scene.homeserver.join(ROOM, CAROL.user)
        await scene.settle(alice, bob, carol)
        before = [await scene.say(alice, "three", bob, carol), await scene.say(bob, "three", alice, carol)]
    # Olm messages went both ways: in sessions that were answered, each answer begins a chain.
    assert len({key.ratchet_key for key in scene.network.message_keys.olm}) > 4


@pytest.mark.parametrize("path", ["keys/upload", "keys/query", "keys/claim", "sendToDevice", "sync"])
@pytest.mark.parametrize("kind", ["request lost", "response lost"])
@pytest.mark.parametrize("library", EACH)
async def test_what_was_lost_is_made_good(scene: Scene, library: Library, kind: FaultKind, path: str) -> None:
    alice, bob = await scene.start(library, ALICE), await scene.start(MATRIX_SDK_CRYPTO, BOB)
    scene.homeserver.create_room(ROOM, ALICE.user, BOB.user)
    await bob.sync()
    scene.network.faults.append(Fault(kind, ALICE, path))
    for _ in range(3):
        await repeated(alice.sync)
        await bob.sync()
    event = await repeated(lambda: alice.send(ROOM, "hello"))
    await bob.sync()
    assert await bob.read(ROOM, event) == "hello"
    await scene.say(bob, "hello, too", alice)


@pytest.mark.parametrize("library", EACH)
async def test_an_upload_that_arrives_twice_at_once_does_no_harm(scene: Scene, library: Library) -> None:
    alice, bob = await scene.start(library, ALICE), await scene.start(MATRIX_SDK_CRYPTO, BOB)
    scene.network.faults.append(Fault("repeated", ALICE, "keys/upload"))
    await scene.meet(alice, bob)
    uploads = [each for each in scene.homeserver.arrivals if each.device == ALICE and "keys/upload" in each.path]
    assert uploads[0].body == uploads[1].body
    await scene.say(bob, "hello", alice)
    await scene.say(alice, "hello, too", bob)


@pytest.mark.parametrize("library", EACH)
async def test_an_upload_that_arrives_again_after_a_claim_costs_a_message(scene: Scene, library: Library) -> None:
    """The server hands out a key again. That is what no device can make good, and what the equipment must show."""
    alice, bob, carol = [
        await scene.start(each, device)
        for each, device in ((library, ALICE), (MATRIX_SDK_CRYPTO, BOB), (MATRIX_SDK_CRYPTO, CAROL))
    ]
    await scene.meet(alice, bob, carol)
    await scene.say(bob, "hello", alice, carol)
    upload = next(each for each in scene.homeserver.arrivals if each.device == ALICE and "keys/upload" in each.path)
    wanted = {"one_time_keys": {ALICE.user: {ALICE.device: "signed_curve25519"}}}
    for _ in range(200):
        scene.homeserver.request(BOB, "POST", "/_matrix/client/v3/keys/claim", wanted)
    scene.homeserver.request(ALICE, "POST", upload.path, msgspec.json.decode(upload.body))
    event = await carol.send(ROOM, "to somebody who has forgotten this key")
    await alice.sync()
    with pytest.raises(Unreadable):
        await alice.read(ROOM, event)
    await bob.sync()
    assert await bob.read(ROOM, event) == "to somebody who has forgotten this key"


async def repeated(call: Callable[[], Awaitable[T]]) -> T:
    """Do again what the network lost, as a client does."""
    for _ in range(3):
        with suppress(Lost):
            return await call()
    raise AssertionError("it was lost too often")
