"""A device in two real processes, its peer in a third, and a homeserver in memory: where faults of the machine happen.

Only the traces of the device are looked at. Its processes may have a fault; nobody else has.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec

from checking.machine_replay.homeserver import Device, Homeserver, Json
from checking.machine_replay.remote_homeserver import HttpAnswer, HttpRequest
from checking.traced_faults.fault import Scene
from checking.traced_faults.machine_process import Command, Said, Setting
from checking.traced_faults.processes import RealProcess
from unwedged.machine.identifiers import MEGOLM, OLM

ALICE: Final = "@alice:example.org"
BOB: Final = "@bob:example.org"
PHONE: Final = Device(ALICE, "PHONE")
TABLET: Final = Device(ALICE, "TABLET")
LAPTOP: Final = Device(BOB, "LAPTOP")
ROOM: Final = "!room:example.org"
MEMBERS: Final = [ALICE, BOB]
TRACES: Final = ("app.ndjson", "extension.ndjson")


class MachineProcess:
    """A process of a device, which does what it is told."""

    def __init__(self, stage: Stage, label: str, device: Device, fault: str | None) -> None:
        self._server = stage.server
        self._device = device
        setting = Setting(str(stage.folder), label, device, fault)
        self._process = RealProcess(stage.stack, "checking.traced_faults.machine_process", setting)
        self._has_ended = False

    def do(self, name: str, *arguments: object) -> object:
        """Have a command carried out; return what came of it."""
        said = self._process.ask(Command(name, list(arguments)), Said)
        while said.request is not None:
            said = self._process.ask(self._answer(said.request), Said)
        return said.result

    def requests(self) -> list[Json]:
        """Let the machine list its requests, and send none."""
        return msgspec.convert(self.do("requests"), list[Json])

    def say(self, text: str) -> Json:
        """Send a message to the room, and return its event."""
        event_id = self.do("speak", ROOM, MEMBERS, text)
        return next(event for event in self._server.events(ROOM) if event["event_id"] == event_id)

    def go_on(self) -> None:
        """Let it go on with what it has stopped in the middle of."""
        self._process.go_on()

    def close(self) -> None:
        """Let it close its machine, and end."""
        if not self._has_ended:
            self._process.end()
        self._has_ended = True

    def _answer(self, request: HttpRequest) -> HttpAnswer:
        return HttpAnswer(*self._server.request(self._device, request.method, request.path, request.body))


class Stage:
    """The device's two processes ``app`` and ``extension``, and ``bob``, in a room."""

    def __init__(self, stack: ExitStack, folder: Path, fault: str | None) -> None:
        self.stack, self.folder, self.fault = stack, folder, fault
        self.server = Homeserver()
        for device in (PHONE, LAPTOP):
            self.server.sign_in(device)
        self.server.create_room(ROOM, ALICE, BOB)
        self.app = self.process("app")
        self.extension = self.process("extension")

    def meet(self) -> None:
        """Let Bob's device begin, and let it and this one know of each other."""
        self.bob = MachineProcess(self, "bob", LAPTOP, None)
        for process in (self.app, self.bob):
            process.do("encrypt_room", ROOM, {"algorithm": MEGOLM})
            process.do("send")
        for process in (self.app, self.bob):
            process.do("track", MEMBERS)

    def process(self, label: str) -> MachineProcess:
        """Start one more process of the device."""
        return MachineProcess(self, label, PHONE, self.fault)

    def tablet(self) -> MachineProcess:
        """Sign Alice in on another device; each of the two has verified the other."""
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
        """Let each side say something that the other reads, so that Olm sessions go both ways."""
        for author, reader in ((self.app, self.bob), (self.bob, self.app)):
            event = author.say("hello")
            reader.do("sync")
            reader.do("read", ROOM, event)

    def damage_last_message(self, recipient: Device) -> None:
        """Let the last message that waits for a device show another ratchet key, so that nobody can read it."""
        content = self.server.waiting(recipient)[-1]["content"]
        assert isinstance(content, dict)
        assert content["algorithm"] == OLM
        for ciphertext in content["ciphertext"].values():
            body = ciphertext["body"]
            ciphertext["body"] = body[:10] + ("A" if body[10] != "A" else "B") + body[11:]


def scene_of(fault: str, play: Callable[[Stage], None], *, begins_anew: bool = False) -> Scene:
    """Return the scene in which the processes of the device have a fault and do what a play says.

    Where it ``begins_anew``, the device has done nothing yet but to make its account.
    """

    def scene(folder: Path, *, faulty: bool) -> tuple[Path, ...]:
        with ExitStack() as stack:
            stage = Stage(stack, folder, fault if faulty else None)
            if not begins_anew:
                stage.meet()
            play(stage)
            for process in (stage.app, stage.extension):
                process.close()
        return tuple(folder / name for name in TRACES)

    return scene
