"""The network between the phone and its homeserver, which loses, delays and damages what it carries."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from typing import Final

import msgspec

from chaos.faults import ON_THE_WAY, Fault
from checking.machine_replay.damage import damaged
from checking.machine_replay.homeserver import Device, Homeserver, Json, SendToDevice
from checking.machine_replay.remote_homeserver import HttpAnswer, HttpRequest

AFFECTED: Final = 0.4
"""The share of the requests that a fault of the network affects."""


class Network:
    """Carries the requests of one device."""

    def __init__(
        self, homeserver: Homeserver, device: Device, chosen: random.Random, happened: Callable[[Fault], None]
    ) -> None:
        self.fault: Fault | None = None
        """The fault that affects requests at present."""
        self._homeserver = homeserver
        self._device = device
        self._chosen = chosen
        self._happened = happened
        self._delayed: list[HttpRequest] = []

    def carry(self, request: HttpRequest) -> HttpAnswer:
        """Carry a request to the homeserver and return the response, unless a fault prevents this."""
        if self.fault not in ON_THE_WAY or self._chosen.random() >= AFFECTED:
            return self._arrive(request)
        self._happened(self.fault)
        if self.fault is Fault.DELAY_REQUESTS:
            self._delayed.append(request)
        elif self.fault is Fault.LOSE_ANSWERS:
            self._arrive(request)
        return HttpAnswer(0, {})

    def deliver_late(self) -> None:
        """Deliver the delayed requests, in random order."""
        self._chosen.shuffle(self._delayed)
        while self._delayed:
            self._arrive(self._delayed.pop())

    def send_damaged_copy(self, author: Device, forger: Device) -> bool:
        """Send the device an unreadable copy of the author's last Olm message; return whether there was one.

        The ``forger`` is another device of the same user, so the sender of the copy can't be determined.
        """
        for arrival in reversed(self._homeserver.arrivals):
            if arrival.device == author and "/sendToDevice/m.room.encrypted/" in arrival.path:
                messages = msgspec.json.decode(arrival.body, type=SendToDevice).messages
                content = messages.get(self._device.user, {}).get(self._device.device)
                if content is not None:
                    self.send(forger, damaged(content))
                    return True
        return False

    def send(self, sender: Device, content: Json) -> None:
        """Send the device an Olm message."""
        messages = {"messages": {self._device.user: {self._device.device: content}}}
        self._homeserver.request(sender, "PUT", f"sendToDevice/m.room.encrypted/{secrets.token_hex(8)}", messages)

    def _arrive(self, request: HttpRequest) -> HttpAnswer:
        return HttpAnswer(*self._homeserver.request(self._device, request.method, request.path, request.body))
