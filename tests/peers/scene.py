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
    """A device in a conversation: a ``Peer``, or whatever is tested against one."""

    @property
    def device(self) -> Device:
        """Which device it is."""
        ...

    async def sync(self) -> None:
        """Take what is new at the homeserver, and send what is due. Raise ``Lost`` where the network loses that."""
        ...

    async def send(self, room: str, text: str) -> Json:
        """Send a message to a room, with all that must go before; return the event as it is in the room."""
        ...

    async def read(self, room: str, event: Json) -> str:
        """Return what a message says, or raise ``Unreadable``."""
        ...


class Scene:
    """It begins with an empty homeserver."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.homeserver = Homeserver()
        self.network = Network(self.homeserver)
        self._stack = stack

    async def start(self, library: Library, device: Device) -> Peer:
        """Start a peer, which ends with the scene."""
        return await self._stack.enter_async_context(peer(library, device, self.network))

    async def meet(self, *participants: Participant, **encryption: int) -> None:
        """Let participants have a room in common, and know each other's devices."""
        self.homeserver.create_room(ROOM, *(each.device.user for each in participants), encryption=dict(encryption))
        await self.settle(*participants)

    async def settle(self, *participants: Participant) -> None:
        """Let participants sync until that makes no other request."""
        for _ in range(10):
            before = len(self.homeserver.arrivals)
            for each in participants:
                await each.sync()
            if len(self.homeserver.arrivals) == before + len(participants):
                return
        raise AssertionError("the participants never come to rest")

    async def say(self, speaker: Participant, text: str, *listeners: Participant) -> Json:
        """Have a message sent, and see that all listeners read it, whatever the network loses; return the event."""
        await repeated(speaker.sync)
        event = await repeated(lambda: speaker.send(ROOM, text))
        for listener in listeners:
            await repeated(listener.sync)
            assert await listener.read(ROOM, event) == text
        return event


async def repeated(call: Callable[[], Awaitable[T]]) -> T:
    """Do again what the network lost, as a client does."""
    for _ in range(5):
        with suppress(Lost):
            return await call()
    raise AssertionError("it was lost too often")


def sessions(*events: Json) -> set[object]:
    """The Megolm sessions that events were encrypted with."""
    return {event["content"]["session_id"] for event in events if isinstance(event["content"], dict)}
