"""Carry requests from devices to the homeserver, lose or repeat selected ones, and record everything that was sent."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from checking.machine_replay.homeserver import Device, Homeserver, Json
from checking.machine_replay.message_keys import MessageKeys

FaultKind = Literal["request lost", "response lost", "repeated"]
FAULT_KINDS: Final[list[FaultKind]] = ["request lost", "response lost", "repeated"]
PATHS: Final = ["keys/upload", "keys/query", "keys/claim", "sendToDevice", "sync"]
"""Parts of the paths of the requests that tests lose or repeat."""


class Fault(NamedTuple):
    """A fault of the device's next request whose path contains ``path``. It happens once."""

    kind: FaultKind
    device: Device
    path: str


class Network:
    """Carries requests to a homeserver, and responses back."""

    def __init__(self, homeserver: Homeserver) -> None:
        self.homeserver = homeserver
        self.message_keys = MessageKeys()
        """The message keys of all requests, including lost ones. A key that is used twice raises at once."""
        self.faults: list[Fault] = []
        """The faults that have not happened yet."""

    def carry(self, device: Device, method: str, path: str, body: Json) -> tuple[int, Json] | None:
        """Return the status and body of the response, or ``None`` if the device gets no response."""
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
