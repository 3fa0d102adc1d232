"""The scene of the machine's faults: a device in two real processes, its peer in a third, and a homeserver in memory.

Only the traces of the device are explained, and only its processes may have a fault.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec

from checking.machine_replay.damage import damaged
from checking.machine_replay.homeserver import Device, Homeserver, Json
from checking.machine_replay.remote_homeserver import HttpAnswer, HttpRequest
from checking.traced_faults.fault import Scenario
from checking.traced_faults.machine_process import Command, Output, Setting
from checking.traced_faults.processes import RealProcess
from unwedged.machine.identifiers import MEGOLM

ALICE: Final = "@alice:example.org"
BOB: Final = "@bob:example.org"
PHONE: Final = Device(ALICE, "PHONE")
TABLET: Final = Device(ALICE, "TABLET")
LAPTOP: Final = Device(BOB, "LAPTOP")
ROOM: Final = "!room:example.org"
MEMBERS: Final = [ALICE, BOB]
TRACES: Final = ("app.ndjson", "extension.ndjson")


class MachineProcess:
    """A process of a device that carries out commands."""

    def __init__(self, scene: ProcessScene, label: str, device: Device, fault: str | None) -> None:
        self._server = scene.server
        self._device = device
        setting = Setting(str(scene.folder), label, device, fault)
        self._process = RealProcess(scene.stack, "checking.traced_faults.machine_process", setting)
        self._has_ended = False

    def do(self, name: str, *arguments: object) -> object:
        """Carry out a command in the process, answer its requests to the homeserver, and return the result."""
        output = self._process.ask(Command(name, list(arguments)), Output)
        while output.request is not None:
            output = self._process.ask(self._answer(output.request), Output)
        return output.result

    def requests(self) -> list[Json]:
        """Return the machine's outgoing requests without sending them."""
        return msgspec.convert(self.do("requests"), list[Json])

    def say(self, text: str) -> Json:
        """Send a message to the room. Return its event."""
        event_id = self.do("speak", ROOM, MEMBERS, text)
        return next(event for event in self._server.events(ROOM) if event["event_id"] == event_id)

    def go_on(self) -> None:
        """Resume the process, which has stopped in the middle of an operation."""
        self._process.go_on()

    def close(self) -> None:
        """Close the machine, and wait until the process has ended."""
        if not self._has_ended:
            self._process.end()
        self._has_ended = True

    def _answer(self, request: HttpRequest) -> HttpAnswer:
        return HttpAnswer(*self._server.request(self._device, request.method, request.path, request.body))


class ProcessScene:
    """The device's two processes ``app`` and ``extension``, and the peer ``bob``, in one room."""

    def __init__(self, stack: ExitStack, folder: Path, fault: str | None) -> None:
        self.stack, self.folder, self.fault = stack, folder, fault
        self.server = Homeserver()
        for device in (PHONE, LAPTOP):
            self.server.sign_in(device)
        self.server.create_room(ROOM, ALICE, BOB)
        self.app = self.process("app")
        self.extension = self.process("extension")

    def meet(self) -> None:
        """Start Bob's device. It and Alice's device fetch each other's device lists."""
        self.bob = MachineProcess(self, "bob", LAPTOP, None)
        for process in (self.app, self.bob):
            process.do("encrypt_room", ROOM, {"algorithm": MEGOLM})
            process.do("send")
        for process in (self.app, self.bob):
            process.do("track", MEMBERS)

    def process(self, label: str) -> MachineProcess:
        """Start another process of the device."""
        return MachineProcess(self, label, PHONE, self.fault)

    def tablet(self) -> MachineProcess:
        """Sign Alice in on another device. Both devices mark each other as verified."""
        self.server.sign_in(TABLET)
        tablet = MachineProcess(self, "tablet", TABLET, None)
        tablet.do("send")
        tablet.do("track", [ALICE])
        self.app.do("sync")
        self.app.do("send")
        self.app.do("trust", *TABLET)
        tablet.do("trust", *PHONE)
        return tablet

    def greet(self) -> None:
        """Let each side send a message that the other reads, so that their Olm session works both ways."""
        for author, reader in ((self.app, self.bob), (self.bob, self.app)):
            event = author.say("hello")
            reader.do("sync")
            reader.do("read", ROOM, event)

    def damage_last_message(self, recipient: Device) -> None:
        """Change the ratchet key of the last message that waits for a device, so that it can't be decrypted."""
        event = self.server.waiting(recipient)[-1]
        event["content"] = damaged(msgspec.convert(event["content"], Json))


def scenario_of(fault: str, act: Callable[[ProcessScene], None], *, begins_anew: bool = False) -> Scenario:
    """Return the scenario in which the processes of the device have a fault and ``act`` drives them.

    If it ``begins_anew``, the device has only created its account, and Bob's device has not started.
    """

    def scenario(folder: Path, *, faulty: bool) -> tuple[Path, ...]:
        with ExitStack() as stack:
            scene = ProcessScene(stack, folder, fault if faulty else None)
            if not begins_anew:
                scene.meet()
            act(scene)
            for process in (scene.app, scene.extension):
                process.close()
        return tuple(folder / name for name in TRACES)

    return scenario
