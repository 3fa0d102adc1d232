"""A device in two processes and another device of the same user request room keys from each other, with random steps.

Requests are lost, or answered late or in the other process. Events come again on another connection. At some time
each device verifies the other. In the end every requested key has arrived (EverythingArrives), and each request was
answered once (ExactlyOnce).
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import TypeVar

import hypothesis.strategies as st
import msgspec
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Device, Homeserver, Json
from tests.machine.scene import ALICE, HOUR_MS, KEY, MEGOLM, ROOM, MovableClock
from unwedged.machine import DecryptedEvent, LocalTrust, OlmMachine, Request, asking
from unwedged.machine.records import ASKED, WAITING
from unwedged.store import LeaseTimes, View

Result = TypeVar("Result")

DEVICES = {"app": "PHONE", "extension": "PHONE", "tablet": "TABLET"}
PROCESSES = st.sampled_from(["app", "extension"])
OTHER = {"PHONE": "TABLET", "TABLET": "PHONE"}


class TwoDevicesThatAskEachOther(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.clock = MovableClock()
        self.server = Homeserver()
        self.clients: dict[str, Client] = {}
        self.written: dict[str, list[Json]] = {"PHONE": [], "TABLET": []}
        """Messages that only the sending device can read, unless another device requests their keys."""
        self.asked: dict[str, list[Json]] = {"PHONE": [], "TABLET": []}
        """Messages whose keys a device has requested."""
        self.flights: list[Request] = []

    def wait(self, work: Coroutine[object, None, Result]) -> Result:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60))

    @initialize()
    def begin(self) -> None:
        self.wait(self._begin())

    async def _begin(self) -> None:
        self.server.create_room(ROOM, ALICE)
        for device in OTHER:
            self.server.sign_in(Device(ALICE, device))
        for name, device in DEVICES.items():
            machine = await OlmMachine.open(
                self.folder / f"{device}.db",
                user_id=ALICE,
                device_id=device,
                key=KEY,
                label=name,
                clock=self.clock,
                times=LeaseTimes(idle_after_ms=1),
            )
            self.clients[name] = Client(self.server, machine)
            await machine.set_room_encryption(ROOM, {"algorithm": MEGOLM})
            await self.clients[name].send_all()
        for client in self.clients.values():
            await client.machine.track_users([ALICE])
            await client.sync(client.device.device)
            await client.send_all()

    @rule(name=st.sampled_from(list(DEVICES)))
    def write(self, name: str) -> None:
        self.wait(self._write(self.clients[name]))

    async def _write(self, client: Client) -> None:
        shared = await client.machine.share_room_key(ROOM, [])
        content = await client.machine.encrypt_room_event(ROOM, shared, "m.room.message", {"body": "x"})
        self.written[client.device.device].append(client.post(ROOM, content))
        await client.machine.discard_room_key(ROOM)

    @rule(name=st.sampled_from(list(DEVICES)), data=st.data())
    def ask(self, name: str, data: st.DataObject) -> None:
        client = self.clients[name]
        written = self.written[OTHER[client.device.device]]
        if written:
            event = data.draw(st.sampled_from(written))
            self.wait(client.machine.request_room_keys(ROOM, [event]))
            self.asked[client.device.device].append(event)

    @rule(name=PROCESSES)
    def phone_trusts_tablet(self, name: str) -> None:
        self.wait(self._trust(self.clients[name], self.clients["tablet"]))

    @rule()
    def tablet_trusts_phone(self) -> None:
        self.wait(self._trust(self.clients["tablet"], self.clients["app"]))

    async def _trust(self, client: Client, other: Client) -> None:
        await client.machine.set_trust(ALICE, other.device.device, other.machine.ed25519, LocalTrust.VERIFIED)

    @rule(name=PROCESSES)
    def sync(self, name: str) -> None:
        outcome = self.wait(self.clients[name].sync(name))
        assert {problem.code for problem in outcome.problems} <= {"repeated"}

    @rule(name=PROCESSES)
    def list_requests(self, name: str) -> None:
        self.flights += self.wait(self.clients[name].machine.outgoing_requests())

    @precondition(lambda self: self.flights)
    @rule(by=PROCESSES, data=st.data(), fate=st.sampled_from(["sent", "sent", "request lost", "answer lost", "again"]))
    def send(self, by: str, data: st.DataObject, fate: str) -> None:
        request = self.flights.pop(data.draw(st.integers(0, len(self.flights) - 1)))
        self.wait(self._send(self.clients[by], request, fate))

    async def _send(self, client: Client, request: Request, fate: str) -> None:
        answer = None if fate == "request lost" else client.call(request.method, request.path, request.body)
        if fate == "again":
            self.flights.append(request)
        if answer is None or fate == "answer lost":
            await client.machine.mark_failed(request, status=None)
        else:
            await client.machine.mark_sent(request, answer)

    @rule()
    def tablet_turn(self) -> None:
        outcome = self.wait(self.clients["tablet"].sync())
        assert not outcome.problems
        self.wait(self.clients["tablet"].send_all())

    def teardown(self) -> None:
        try:
            if self.clients:
                self.wait(self._end())
        finally:
            for client in self.clients.values():
                self.wait(client.machine.close())
            self.loop.close()
            shutil.rmtree(self.folder)

    async def _end(self) -> None:
        await self._trust(self.clients["app"], self.clients["tablet"])
        await self._trust(self.clients["tablet"], self.clients["extension"])
        for name in ("tablet", "app", "extension", "tablet", "app", "tablet", "extension", "app"):
            self.clock.added_ms += HOUR_MS
            await self.clients[name].sync(name)
            await self.clients[name].send_all()
        for name, device in DEVICES.items():
            machine = self.clients[name].machine
            read = await machine.decrypt_room_events(ROOM, self.asked[device])
            assert all(isinstance(each, DecryptedEvent) for each in read), read
            assert await machine._store.query(_left) == 0
        for device, other in OTHER.items():
            requests = {
                str(content["request_id"])
                for content in self._sent(device, other, asking.ROOM_KEY_REQUEST)
                if content["action"] == asking.REQUEST
            }
            assert len(self._sent(other, device, "m.room.encrypted")) == len(requests)

    def _sent(self, sender: str, recipient: str, event_type: str) -> list[Json]:
        """Return the contents that one device has sent to the other, counting repeated requests once."""
        contents: dict[str, Json] = {}
        for arrival in self.server.arrivals:
            if arrival.device.device == sender and f"/sendToDevice/{event_type}/" in arrival.path:
                messages = msgspec.json.decode(arrival.body)["messages"][ALICE]
                if recipient in messages:
                    contents[arrival.path] = messages[recipient]
        return list(contents.values())


async def _left(view: View) -> int:
    return len(await view.keys(ASKED)) + len(await view.keys(WAITING))


TestTwoDevicesThatAskEachOther = TwoDevicesThatAskEachOther.TestCase
TestTwoDevicesThatAskEachOther.settings = settings(
    max_examples=15, stateful_step_count=40, deadline=None, phases=[Phase.generate]
)
