"""``ExchangeTrace`` accepts the traces of a correct device that exchanges messages with others in any order."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from pathlib import Path

import pytest

from checking.explain.explanation import Explanation, explain
from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Json
from checking.tlc.toolbox import Toolbox
from tests.machine import backups
from tests.machine.own_devices import another_device
from tests.machine.scene import ALICE, BOB, HOUR_MS, MINUTE_MS, ROOM, Scene, scene
from tests.store.stores import Recorder
from unwedged.machine.errors import RoomKeyNotShared

SPECIFICATIONS = Path(__file__).parents[2] / "tla"
STEPS = 90


class Conversation:
    """Two processes of a device, its peer and another device of its user, which take random steps."""

    def __init__(self, on: Scene, tablet: Client, seed: int) -> None:
        self.chance = random.Random(seed)
        self.on = on
        self.tablet = tablet
        self.events: list[Json] = []

    @property
    def process(self) -> Client:
        return self.chance.choice([self.on.app, self.on.extension])

    async def talk(self) -> None:
        author = self.chance.choice([self.process, self.on.bob])
        if self.chance.random() < 0.3:
            await author.machine.discard_room_key(ROOM)
        self.events.append(await author.say(ROOM, "hello"))

    async def sync(self) -> None:
        for client in (self.process, self.on.bob, self.tablet):
            await client.sync()
            await client.send_all()

    async def read(self) -> None:
        if self.events:
            event = self.chance.choice(self.events)
            events = [event, event | {"event_id": "$again"}] if self.chance.random() < 0.3 else [event]
            await self.process.machine.decrypt_room_events(ROOM, events)

    async def damage(self) -> None:
        """Corrupt a message of Bob's, so that no device can read it."""
        await self.on.bob.machine.discard_room_key(ROOM)
        await self.on.bob.share(ROOM, [ALICE, BOB])
        for event in self.on.server.waiting(self.on.app.device)[-1:]:
            content = event["content"]
            assert isinstance(content, dict)
            for ciphertext in content.get("ciphertext", {}).values():
                ciphertext["body"] = ciphertext["body"][:20] + "AAAA" + ciphertext["body"][24:]
        await self.process.sync()

    async def list_requests(self) -> None:
        """Let each process list its requests. Either process may receive a response, perhaps late."""
        listed = [*await self.on.app.machine.outgoing_requests(), *await self.on.extension.machine.outgoing_requests()]
        await self.talk()
        for request in listed:
            answer = self.on.app.call(request.method, request.path, request.body)
            await self.process.machine.mark_sent(request, answer)

    async def change_backup(self) -> None:
        if self.chance.random() < 0.3:
            await self.process.machine.key_backup.turn_off()
        elif self.chance.random() < 0.5:
            await backups.create(self.on.app, answered=self.on.extension)
        else:
            await self.process.machine.import_room_keys(await self.on.bob.machine.export_room_keys())

    async def verify(self) -> None:
        verifications = self.process.machine.verifications
        flow = await verifications.request(ALICE, ["TABLET"])
        if self.chance.random() < 0.5:
            await self.process.machine.verifications.cancel(flow)

    async def ask(self) -> None:
        """Let the tablet request a room key that no device has."""
        if self.events:
            event = self.chance.choice(self.events)
            content = event["content"]
            assert isinstance(content, dict)
            session_id = f"none {self.chance.random()}"
            await self.tablet.machine.request_room_keys(
                ROOM, [event | {"content": content | {"session_id": session_id}}]
            )
            await self.tablet.send_all()

    async def wait(self) -> None:
        self.on.clock.added_ms += self.chance.choice([MINUTE_MS // 2, MINUTE_MS, 30 * MINUTE_MS, 2 * HOUR_MS])

    async def begin_anew(self) -> None:
        await self.on.extension.machine.close()
        self.on.extension = await self.on.open(ALICE, "PHONE", "extension")


async def recorded(folder: Path, seed: int) -> list[Json]:
    """Return the trace of a conversation, written by the two processes of the shared device."""
    recorder = Recorder()
    async with scene(folder, recorder) as on:
        await on.greet()
        told = Conversation(on, await another_device(on), seed)
        actions = [told.talk, told.talk, told.sync, told.sync, told.read, told.damage, told.list_requests]
        actions += [told.change_backup, told.verify, told.ask, told.wait, told.begin_anew]
        for _ in range(STEPS):
            with suppress(RoomKeyNotShared):  # Sharing may need more attempts than a client makes.
                await told.chance.choice(actions)()
    phone = next(line["store"] for line in recorder.lines if line["step"] == "open_machine")
    return [dict(line) for line in recorder.lines if line["store"] == phone]


async def explained(folder: Path, toolbox: Toolbox, lines: list[Json]) -> Explanation:
    path = folder / "trace.ndjson"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return await explain(toolbox, (path,), None, SPECIFICATIONS)


@pytest.mark.parametrize("seed", [1, 2])
async def test_what_is_sound_is_accepted(tmp_path: Path, toolbox: Toolbox, seed: int) -> None:
    explanation = await explained(tmp_path, toolbox, await recorded(tmp_path, seed))
    assert explanation.accepted, f"seed {seed}: {explanation.text()}"
    steps = {step.name for step in explanation.machine.steps}
    assert {"claim", "make_session", "verification", "answer_version", "list_backup", "give", "room_key"} <= steps


async def test_nothing_follows_from_lines_of_the_machine_that_are_missing(tmp_path: Path, toolbox: Toolbox) -> None:
    lines = await recorded(tmp_path, seed=1)
    for trial in range(3):
        chance = random.Random(trial)
        left = [line for line in lines if not is_of_machine(line) or chance.random() > 0.01 * 3**trial]
        explanation = await explained(tmp_path, toolbox, left)
        assert explanation.impossible is None
        assert explanation.machine.impossible is None, f"trial {trial}: {explanation.text()}"


def is_of_machine(line: Json) -> bool:
    return "operation" in line and "began_after" not in line
