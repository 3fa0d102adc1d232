"""Carry requests from devices to the homeserver, lose or repeat chosen ones, and record everything that was sent."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from checking.machine_replay.homeserver import Device, Homeserver, Json
from checking.machine_replay.message_keys import MessageKeys

FaultKind = Literal["request lost", "response lost", "repeated"]
FAULT_KINDS: Final[list[FaultKind]] = ["request lost", "response lost", "repeated"]
PATHS: Final = ["keys/upload", "keys/query", "keys/claim", "sendToDevice", "sync"]
"""A part of the path of each request that tests lose or repeat."""


class Fault(NamedTuple):
    """What happens, once, to the next request of a device whose path contains this."""

    kind: FaultKind
    device: Device
    path: str


class Network:
    """Carries requests to a homeserver, and its answers back."""

    def __init__(self, homeserver: Homeserver) -> None:
        self.homeserver = homeserver
        self.message_keys = MessageKeys()
        """Of everything that left, whether it arrived or not. A key that is used twice raises at once."""
        self.faults: list[Fault] = []
        """Those that are still to happen."""

    def carry(self, device: Device, method: str, path: str, body: Json) -> tuple[int, Json] | None:
        """Return status and body of the answer, or nothing where the device hears none."""
        self.message_keys.add(body)
        fault = next((each for each in self.faults if each.device == device and each.path in path), None)
        if fault is not None:
            self.faults.remove(fault)
        if fault is not None and fault.kind == "request lost":
            return None
        if fault is not None and fault.kind == "repeated":
            self.homeserver.request(device, method, path, body)
        answer = self.homeserver.request(device, method, path, body)
        return None if fault is not None and fault.kind == "response lost" else answer
