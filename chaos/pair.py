"""The phone and another device, whose owners verify them: when they begin, how, and when they cancel."""

from __future__ import annotations

import random
from typing import Final

from chaos.owner import OwnerActs, Request
from chaos.verifications import Verifications
from checking.machine_replay.homeserver import Device
from unwedged.machine.records import Method

BEGINS: Final = 0.08
"""The probability that an owner begins a verification in a turn, if none is under way."""
CANCELS: Final = 0.005
"""The probability that an owner cancels the verifications that are under way, in a turn."""
MOST_VERIFICATIONS: Final = 6
"""The owners begin no more than this number: a device refuses the ninth of another one within some minutes (M16.17)."""


class Pair:
    """The phone, another device, and the verifications between them."""

    def __init__(self, phone: Device, other: Device, chosen: random.Random) -> None:
        self.verifications = Verifications()
        self.is_calm = False
        """Whether chaos ends now: the owners verify the two devices if necessary, and begin nothing else."""
        self.other = other
        self._phone = phone
        self._chosen = chosen

    def acts(self, *, on_phone: bool) -> OwnerActs:
        """Return what the owner of one of the two devices does next."""
        verifications = self.verifications
        if self.is_calm:
            begins = not on_phone and not verifications.trusted
        else:
            begins = len(verifications) < MOST_VERIFICATIONS and self._chosen.random() < BEGINS
        asked = self.other if on_phone else self._phone
        requests = []
        if begins and not verifications.under_way:
            requests = [Request(asked.user, asked.device, self._method(on_phone=on_phone))]
        cancels = [asked.user] if not self.is_calm and self._chosen.random() < CANCELS else []
        return OwnerActs(verifications.on_other if on_phone else verifications.on_phone, requests, cancels)

    def _method(self, *, on_phone: bool) -> Method:
        """Choose a method, from the side of the device that asks."""
        shows, scans = Method.SHOW_QR_CODE, Method.SCAN_QR_CODE
        by_phone, by_other = (shows, scans) if on_phone else (scans, shows)
        methods = [Method.SAS, by_phone]
        if self._phone.user != self.other.user or not self.verifications.other_trusts:
            # Afterwards a QR code of the user's other device would prove the user's identity, and not the device.
            methods.append(by_other)
        return self._chosen.choice(methods)
