"""Two processes of a device exchange messages with a peer: each process reads the messages after the other's steps.

The scenario is that of matrix-rust-sdk's ``test_multiple_clients_share_crypto_state``. Each message has a room key of
its own, so each also advances an Olm session, which the other process may have in memory.
"""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Json
from checking.machine_replay.message_keys import MessageKeys
from tests.machine.scene import ROOM, Scene

SEEDS = range(10)
ROUNDS = 30
"""The number of rounds for each seed. Each seed begins with a new store."""


async def receives(client: Client, connection: str, event: Json, text: str, *, sliding: bool) -> None:
    """Sync once, and read a message."""
    outcome = await client.sync(connection, sliding=sliding)
    assert {problem.code for problem in outcome.problems} <= {"repeated"}  # by the other process
    await client.send_all()
    assert await client.read(ROOM, event) == text


@pytest.mark.parametrize("seed", SEEDS)
async def test_two_processes_share_what_they_know_of_a_peer(tmp_path: Path, seed: int) -> None:
    chosen = random.Random(seed)
    async with AsyncExitStack() as stack:
        scene = Scene(tmp_path, stack)
        await scene.begin(encryption={"rotation_period_msgs": 1})
        processes = {"app": scene.app, "extension": scene.extension}
        sliding = {label: chosen.random() < 0.5 for label in processes}
        print(f"seed {seed}: sliding sync {sliding}")  # noqa: T201 (shown where the test fails)
        events: dict[str, Json] = {}
        for number in range(ROUNDS):
            speaker, listener = chosen.sample(tuple(processes), 2)

            # The peer writes, and both processes read the message.
            text = f"{number}, from the peer to both"
            events[text] = await scene.bob.say(ROOM, text)
            for label in (listener, speaker):
                await receives(processes[label], label, events[text], text, sliding=sliding[label])

            # One process writes, and the peer reads the message.
            text = f"{number}, from {speaker}"
            events[text] = await processes[speaker].say(ROOM, text)
            await receives(scene.bob, "main", events[text], text, sliding=False)

            # The peer replies, and the other process reads the reply: its session with the peer has advanced.
            text = f"{number}, from the peer to {listener}"
            events[text] = await scene.bob.say(ROOM, text)
            await receives(processes[listener], listener, events[text], text, sliding=sliding[listener])

        for client in (*processes.values(), scene.bob):
            for text, event in events.items():
                assert await client.read(ROOM, event) == text
        keys = MessageKeys()
        keys.add_arrivals(scene.server.arrivals)
        assert len(keys.megolm) == 3 * ROUNDS
        assert len({key.session_id for key in keys.megolm}) == 3 * ROUNDS
        assert {arrival.status for arrival in scene.server.arrivals} == {200}
