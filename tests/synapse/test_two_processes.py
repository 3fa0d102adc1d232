"""A device in two processes and a peer read all messages on a real homeserver, whatever fails."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Final

import pytest

from tests.synapse.commands import Command, Interruption, Place, Read, Say, Send, Sync
from tests.synapse.proxy import Fault, FaultKind
from tests.synapse.scene import Process, Scene
from unwedged.machine.ratchets import MOST_ONE_TIME_KEYS

OPERATIONS: Final[list[tuple[type[Command], str]]] = [
    (Sync, "receive"),
    (Sync, "work_off"),
    (Read, "decrypt"),
    (Say, "share"),
    (Say, "collect"),
    (Say, "take"),
    (Say, "encrypt"),
    (Send, "collect"),
    (Send, "take"),
]
"""Store operations, each with the command during which it runs."""
KINDS: Final[list[type[Command]]] = [Sync, Send, Say, Read]
CLAIM_LOST_MS: Final = 70_000
"""The time after which a claim with a lost response is repeated."""
UPLOAD_LOST_MS: Final = 660_000
"""The time after which other keys are uploaded in place of those whose upload was lost."""
TURNS: Final = 25
ROUNDS: Final = 300


async def test_ten_messages_each_way(on: Scene) -> None:
    await on.begin(rotation_messages=3)
    for number in range(10):
        for label in ("app", "bob", "extension"):
            assert (await on.say(label, f"{number} from {label}")).event_id
    await on.settle()
    await on.end()
    assert set(on.counts.values()) == {30}


async def command(on: Scene, kind: type[Command], text: str, interruption: Interruption | None = None) -> Command:
    """Make a command of a kind."""
    if kind is Say:
        on.said.add(text)
        return Say(room=on.room, text=text, interruption=interruption)
    if kind is Read:
        return Read(room=on.room, events=(await on.events())[-3:], interruption=interruption)
    return kind(interruption=interruption)


# M20.2
@pytest.mark.parametrize("killed", [pytest.param(False, id="suspended"), pytest.param(True, id="killed")])
@pytest.mark.parametrize("place", Place)
async def test_a_process_is_interrupted_in_each_operation(on: Scene, place: Place, killed: bool) -> None:
    """Meanwhile the other process of its device takes the lease, receives, reads and sends."""
    await on.begin(rotation_messages=1)
    for number, (kind, operation) in enumerate(OPERATIONS):
        victim, other = ("app", "extension") if number % 2 else ("extension", "app")
        for message in range(2):
            await on.say("bob", f"{number} before: {message}")
        if kind is Send:
            await on.claim_keys(MOST_ONE_TIME_KEYS - 5)
            await on[victim].do(Sync())  # An upload is due now.
        process = on[victim]
        process.tell(await command(on, kind, f"{number} interrupted", Interruption(killed, place, operation)))
        assert await process.stopped() is not killed, operation
        await on.say("bob", f"{number} meanwhile")
        for each in (Sync(), Send()):
            assert not (await on[other].do(each)).failed
        assert (await on.say(other, f"{number} by the other")).event_id
        if killed:
            assert await process.answer() is None
            await process.restart()
        else:
            process.resume()
            assert await process.answer() is not None
        await on.advance(UPLOAD_LOST_MS)
        await on.settle()
    await on.end()


@pytest.mark.parametrize("seed", range(1))
async def test_both_processes_read_each_message_whichever_comes_first(on: Scene, seed: int) -> None:
    """Each message has a new room key. Both processes need it at the same time; one may be late, or reply as well.

    The scenario is that of matrix-rust-sdk's ``test_multiple_clients_share_crypto_state``.
    """
    chosen = random.Random(seed)
    await on.begin(rotation_messages=1)

    async def receive(label: str, event_id: str | None) -> str:
        await on[label].do(Sync())
        return await on.read(label, event_id)

    for number in range(ROUNDS):
        answer, late = chosen.choice([None, "app", "extension"]), chosen.choice([None, None, "app", "extension"])
        event = await on.say("bob", f"{number} from bob")
        labels = [label for label in ("app", "extension") if label != late]
        texts = await asyncio.gather(*[receive(label, event.event_id) for label in labels])
        assert set(texts) == {f"{number} from bob"}
        if answer is not None:
            event = await on.say(answer, f"{number} from {answer}")
            assert await receive("bob", event.event_id) == f"{number} from {answer}"
    await on.settle()
    await on.end()


class Accidents:
    """Turns of all processes. A seeded random generator chooses the process, its command, and the fault."""

    def __init__(self, on: Scene, seed: int) -> None:
        self.happened: Counter[str] = Counter()
        self._on = on
        self._random = random.Random(seed)
        self._number = 0

    async def turn(self) -> None:
        """Give one process a command that a fault interrupts, and the two others different commands meanwhile."""
        victim, *others = self._random.sample(["app", "extension", "bob"], 3)
        meanwhile = {label: self._commands(self._random.randint(1, 3)) for label in others}
        ((kind, text),) = self._commands(1)
        accident = self._random.choice(["suspended", "killed", "killed any time", *FaultKind])
        place, number = self._random.choice(list(Place)), self._random.choice([1, 1, 2, 3, 4])
        delay_seconds = self._random.uniform(0, 0.1)
        await self._on.claim_keys(self._random.choice([0, 0, 20]))
        process = self._on[victim]
        if isinstance(accident, FaultKind):
            fault = Fault(accident, victim, let_pass=number - 1)
            self._on.proxy.faults = [fault]
            process.tell(await command(self._on, kind, text))
            await happened_or_ended(fault, process)
            await self._do(meanwhile)
            self.happened[accident.value] += fault.happened.is_set()
            self._on.proxy.faults = []
            fault.released.set()
        elif accident == "killed any time":
            process.tell(await command(self._on, kind, text))
            await asyncio.sleep(delay_seconds)
            await process.kill()
            await self._do(meanwhile)
        else:
            interruption = Interruption(accident == "killed", place, number=number)
            process.tell(await command(self._on, kind, text, interruption))
            suspended = await process.stopped()
            await self._do(meanwhile)
            if suspended:
                self.happened["suspended"] += 1
                process.resume()
        if await process.answer() is None or accident == "killed any time":
            self.happened["killed"] += 1
            await process.restart()
        await self._on.advance(CLAIM_LOST_MS)

    async def end(self) -> None:
        """Let each process send a message."""
        for number in range(2):
            await self._on.advance(7_200_000)
            await self._on.settle()
            for label in self._on.processes:
                answer = await self._on.say(label, f"{number} at last, from {label}")
                assert answer.event_id
        await self._on.settle()

    def _commands(self, count: int) -> list[tuple[type[Command], str]]:
        self._number += count
        kinds = self._random.choices(KINDS, weights=[2, 1, 3, 1], k=count)
        return [(kind, f"{self._number - back} in turn") for back, kind in enumerate(kinds)]

    async def _do(self, commands: dict[str, list[tuple[type[Command], str]]]) -> None:
        """Let several processes perform their lists of commands concurrently."""

        async def does(label: str) -> None:
            for kind, text in commands[label]:
                assert not (await self._on[label].do(await command(self._on, kind, text))).failed

        await asyncio.gather(*map(does, commands))


async def happened_or_ended(fault: Fault, process: Process) -> None:
    """Wait until a fault has happened, or until the command has ended without it."""
    waits = [asyncio.create_task(fault.happened.wait()), asyncio.create_task(process.stopped())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for each in waits:
        each.cancel()
    await asyncio.gather(*waits, return_exceptions=True)


# M20.2
@pytest.mark.parametrize("seed", range(3))
async def test_everybody_reads_everything_whatever_goes_wrong(on: Scene, seed: int) -> None:
    await on.begin(rotation_messages=2)
    accidents = Accidents(on, seed)
    for _ in range(TURNS):
        await accidents.turn()
    await accidents.end()
    await on.end()
    assert accidents.happened.total() > TURNS / 4
    keys = on.check_what_left()
    uploads = sum(arrival.path.endswith("/keys/upload") for arrival in on.proxy.arrivals)
    happened = ", ".join(f"{count} {what}" for what, count in sorted(accidents.happened.items()))
    left = f"{len(keys.olm)} Olm and {len(keys.megolm)} Megolm messages, {uploads} uploads"
    print(f"seed {seed}: {happened}; {left}; read: {on.counts}")  # noqa: T201 (shown by -rP, and where it fails)
