"""Another device of the phone's user. They verify each other; it asks the phone for secrets, and each for room keys."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from chaos import owner
from chaos.pair import Pair
from chaos.room import ENCRYPTION, ROOM, encrypted, session_of, texts
from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Device, Json

SPEAKS: Final = 0.15
"""The probability that it sends a message in a turn."""


class Tablet:
    """A device in one process that keeps to the protocol."""

    def __init__(self, client: Client, phone: Device, lost: Json, chosen: random.Random) -> None:
        """``lost`` is a message whose room key neither of the two devices has."""
        self.client = client
        self.pair = Pair(phone, client.device, chosen)
        self.said: list[Json] = []
        """Its messages. The phone does not receive their keys, and must request them."""
        self.asked: set[str] = set()
        """The room keys that it has requested from the phone."""
        self._lost = lost
        self._chosen = chosen

    async def begin(self, users: Sequence[str]) -> None:
        """Upload its keys, get to know the devices of ``users``, and ask for a room key and for the user's secrets."""
        await self.client.machine.set_room_encryption(ROOM, ENCRYPTION)
        await self.client.send_all()
        await self.client.machine.track_users(users)
        await self.client.send_all()
        await self.client.machine.request_room_keys(ROOM, [self._lost])
        await self.client.machine.secrets.request_missing()

    async def take_turn(
        self, messages: Sequence[Json], text: str, others: Sequence[str]
    ) -> list[tuple[str | None, str]]:
        """Take a turn of the application and of the owner; return the problems of the sync.

        It requests the keys of ``messages`` that it can't read, and may send a message to the ``others``.
        """
        client, machine = self.client, self.client.machine
        await client.send_all()
        outcome = await client.sync()
        self.pair.verifications.other_shows(await owner.act(machine, self.pair.acts(on_phone=False)))
        lacking = [each for each, text in zip(messages, await texts(machine, messages), strict=True) if text is None]
        await machine.request_room_keys(ROOM, lacking)
        self.asked |= set(map(session_of, lacking))
        await client.send_all()
        if not self.pair.is_calm and self._chosen.random() < SPEAKS:
            content = await encrypted(client, others, text)
            if content is not None:
                self.said.append(client.post(ROOM, content))
        return [(problem.sender, problem.code) for problem in outcome.problems]
