"""Run a proxy in front of Synapse that records all requests, and loses or delays those that a test selects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum

from aiohttp import ClientSession, web

from checking.machine_replay.homeserver import Arrival, Device

NEVER_ARRIVED = 0
"""The status of a request that was lost before it reached Synapse."""


class FaultKind(Enum):
    """What happens to a request."""

    REQUEST_LOST = "request lost"
    RESPONSE_LOST = "response lost"
    RESPONSE_HELD = "response held"


@dataclass
class Fault:
    """A fault that affects one request of a process."""

    kind: FaultKind
    label: str
    path: str = ""
    """A part of the path of the requests that count."""
    let_pass: int = 0
    """The number of such requests that pass before the fault."""
    happened: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether a delayed response may be delivered."""


class Proxy:
    """A proxy for all requests of all devices."""

    def __init__(self, http: ClientSession) -> None:
        self.arrivals: list[Arrival] = []
        self.faults: list[Fault] = []
        self.devices: dict[str, Device] = {}
        """The devices by access token."""
        self.address = ""
        self._http = http

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        fault = self._fault(request)
        if fault is not None and fault.kind is FaultKind.REQUEST_LOST:
            self._keep(request, body, NEVER_ARRIVED)
            fault.happened.set()
            return _cut(request)
        headers = {"Authorization": request.headers["Authorization"], "Content-Type": "application/json"}
        async with self._http.request(request.method, request.raw_path, headers=headers, data=body) as response:
            status, answer = response.status, await response.read()
        self._keep(request, body, status)
        if fault is not None:
            fault.happened.set()
            if fault.kind is FaultKind.RESPONSE_LOST:
                return _cut(request)
            if fault.kind is FaultKind.RESPONSE_HELD:
                await fault.released.wait()
        return web.Response(status=status, body=answer, content_type="application/json")

    def _fault(self, request: web.Request) -> Fault | None:
        for fault in self.faults:
            if fault.path in request.path and fault.label == request.headers["User-Agent"]:
                fault.let_pass -= 1
                if fault.let_pass < 0:
                    self.faults.remove(fault)
                    return fault
        return None

    def _keep(self, request: web.Request, body: bytes, status: int) -> None:
        device = self.devices[request.headers["Authorization"].removeprefix("Bearer ")]
        self.arrivals.append(Arrival(device, request.method, request.raw_path, body or b"{}", status))


def _cut(request: web.Request) -> web.StreamResponse:
    """Close the connection without a response."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@asynccontextmanager
async def proxy(homeserver: str) -> AsyncIterator[Proxy]:
    """Run a proxy in front of a homeserver, on a port that is free."""
    async with ClientSession(homeserver) as http:
        made = Proxy(http)
        application = web.Application(client_max_size=1 << 26)
        application.router.add_route("*", "/{path:.*}", made.handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            made.address = f"http://{host}:{port}"
            yield made
        finally:
            await runner.cleanup()
