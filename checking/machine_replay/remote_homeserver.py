"""The homeserver for a process whose parent process has it: requests go out as lines of JSON, and answers come in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

import msgspec

from checking.machine_replay.homeserver import Device, Homeserver, Json


class HttpRequest(msgspec.Struct, frozen=True, tag=True):
    """A request to the homeserver."""

    method: str
    path: str
    body: Json


class HttpAnswer(msgspec.Struct, frozen=True):
    """The homeserver's answer."""

    status: int
    """0 if no answer has come."""
    body: Json


class Unreachable(Exception):
    """No answer has come from the homeserver."""


class RemoteHomeserver(Homeserver):
    """Writes each request by ``write``, and reads its answer from standard input."""

    def __init__(self, write: Callable[[HttpRequest], None]) -> None:
        super().__init__()
        self._write = write

    def request(
        self, device: Device, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> tuple[int, Json]:
        """Return the status and the body of the answer. Raises ``Unreachable``."""
        del device
        self._write(HttpRequest(method, path, dict(body or {})))
        answer = msgspec.json.decode(sys.stdin.readline(), type=HttpAnswer)
        if not answer.status:
            raise Unreachable
        return answer.status, answer.body
