"""The scene of the tests with peers: a homeserver, the network, and participants in a room."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Protocol, TypeVar

from checking.machine_replay.homeserver import Device, Homeserver, Json
from tests.peers.network import Network
from tests.peers.peer import Library, Lost, Peer, peer

T = TypeVar("T")

ROOM = "!room:example.org"


class Participant(Protocol):
    """A device in a conversation: a ``Peer``, or a device that is tested against one."""

    @property
    def device(self) -> Device:
        """The user and device ids."""
        ...

    async def sync(self) -> None:
        """Sync with the homeserver, and send the pending requests. Raise ``Lost`` if the network loses one."""
        ...

    async def send(self, room: str, text: str) -> Json:
        """Send a message to a room, after the requests that it requires; return the event as the room shows it."""
        ...

    async def read(self, room: str, event: Json) -> str:
        """Return the text of a message, or raise ``Unreadable``."""
        ...


class Scene:
    """A homeserver, which is empty at first, and its network."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.homeserver = Homeserver()
        self.network = Network(self.homeserver)
        self._stack = stack

    async def start(self, library: Library, device: Device) -> Peer:
        """Start a peer, which stops when the scene ends."""
        return await self._stack.enter_async_context(peer(library, device, self.network))

    async def meet(self, *participants: Participant, **encryption: int) -> None:
        """Create a room for the participants, and let them learn each other's devices."""
        self.homeserver.create_room(ROOM, *(each.device.user for each in participants), encryption=dict(encryption))
        await self.settle(*participants)

    async def settle(self, *participants: Participant) -> None:
        """Let the participants sync until they send no other request."""
        for _ in range(10):
            before = len(self.homeserver.arrivals)
            for each in participants:
                await each.sync()
            if len(self.homeserver.arrivals) == before + len(participants):
                return
        raise AssertionError("the participants never come to rest")

    async def say(self, speaker: Participant, text: str, *listeners: Participant) -> Json:
        """Let the speaker send a message, and check that all listeners read it despite the faults; return the event."""
        await repeated(speaker.sync)
        event = await repeated(lambda: speaker.send(ROOM, text))
        for listener in listeners:
            await repeated(listener.sync)
            assert await listener.read(ROOM, event) == text
        return event


async def repeated(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call whose requests the network lost, as a client does."""
    for _ in range(5):
        with suppress(Lost):
            return await call()
    raise AssertionError("it was lost too often")


def sessions(*events: Json) -> set[object]:
    """Return the Megolm sessions that encrypted the events."""
    return {event["content"]["session_id"] for event in events if isinstance(event["content"], dict)}
