"""Another device of the phone's user. It and the phone verify each other and request room keys from each other."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from chaos import owner
from chaos.owner import OwnerActs, Request
from chaos.room import ENCRYPTION, ROOM, encrypted, session_of, texts
from chaos.verifications import Verifications
from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Device, Json
from unwedged.machine.records import Method

SPEAKS: Final = 0.15
"""The probability that it sends a message in a turn."""
BEGINS: Final = 0.4
"""The probability that the owner begins a verification on one of the two devices, if none is under way."""
CANCELS: Final = 0.02
"""The probability that the owner cancels the verifications that are under way."""
MOST_VERIFICATIONS: Final = 6
"""The owner begins no more than this number: a device refuses the ninth of another one within some minutes (M16.17)."""


class Tablet:
    """A device in one process that keeps to the protocol."""

    def __init__(self, client: Client, phone: Device, lost: Json, chosen: random.Random) -> None:
        """``lost`` is a message whose room key neither of the two devices has."""
        self.client = client
        self.verifications = Verifications()
        self.said: list[Json] = []
        """Its messages. The phone does not receive their keys, and must request them."""
        self.asked: set[str] = set()
        """The room keys that it has requested from the phone."""
        self.is_calm = False
        """Whether chaos ends now: the owner verifies the two devices if necessary, and begins nothing else."""
        self._phone = phone
        self._lost = lost
        self._chosen = chosen

    async def begin(self, users: Sequence[str]) -> None:
        """Upload its keys, and get to know the devices of ``users``."""
        await self.client.machine.set_room_encryption(ROOM, ENCRYPTION)
        await self.client.send_all()
        await self.client.machine.track_users(users)
        await self.client.send_all()
        await self.client.machine.request_room_keys(ROOM, [self._lost])

    async def take_turn(
        self, messages: Sequence[Json], text: str, others: Sequence[str]
    ) -> list[tuple[str | None, str]]:
        """Take a turn of the application and of the owner; return the problems of the sync.

        It requests the keys of ``messages`` that it can't read, and may send a message to the ``others``.
        """
        client, machine = self.client, self.client.machine
        await client.send_all()
        outcome = await client.sync()
        self.verifications.tablet_shows(await owner.act(machine, self._acts(on_phone=False)))
        lacking = [each for each, text in zip(messages, await texts(machine, messages), strict=True) if text is None]
        await machine.request_room_keys(ROOM, lacking)
        self.asked |= set(map(session_of, lacking))
        await client.send_all()
        if not self.is_calm and self._chosen.random() < SPEAKS:
            content = await encrypted(client, others, text)
            if content is not None:
                self.said.append(client.post(ROOM, content))
        return [(problem.sender, problem.code) for problem in outcome.problems]

    def acts_on_phone(self) -> OwnerActs:
        """Return what the owner does next with the phone."""
        return self._acts(on_phone=True)

    def _acts(self, *, on_phone: bool) -> OwnerActs:
        verifications = self.verifications
        other = verifications.on_tablet if on_phone else verifications.on_phone
        if self.is_calm:
            begins = not on_phone and not verifications.trusted
        else:
            begins = len(verifications) < MOST_VERIFICATIONS and self._chosen.random() < BEGINS
        request = None
        if begins and not verifications.under_way:
            asked = self.client.device if on_phone else self._phone
            request = Request(asked.device, self._method(on_phone=on_phone))
        return OwnerActs(other, request, not self.is_calm and self._chosen.random() < CANCELS)

    def _method(self, *, on_phone: bool) -> Method:
        """Choose a method, from the side of the device that asks."""
        shows, scans = Method.SHOW_QR_CODE, Method.SCAN_QR_CODE
        by_phone, by_tablet = (shows, scans) if on_phone else (scans, shows)
        methods = [Method.SAS, by_phone]
        if not self.verifications.tablet_trusts:
            # Afterwards a QR code of this device would prove its user's identity, and not the device itself.
            methods.append(by_tablet)
        return self._chosen.choice(methods)
