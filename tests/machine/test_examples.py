"""The examples handle a homeserver that fails. ``tests/synapse`` runs them on a real homeserver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession

from checking.machine_replay.client import Client as MemoryClient
from examples.encrypted_bot.client import Client
from examples.verified_bot.recovery import BOOTSTRAP_ROUNDS, IdentityIncomplete, bootstrap
from examples.verified_bot.verifying import drawn, verifications
from tests.machine.own_devices import another_device
from tests.machine.scene import ALICE, Scene
from unwedged.machine import Method, Phase, Verification


class Unheard(Client):
    """A client whose requests change nothing at the homeserver."""

    rounds = 0

    async def send_all(self) -> None:
        self.rounds += 1


class InMemory(Client):
    """A client whose requests go to the homeserver in memory."""

    def __init__(self, http: ClientSession, client: MemoryClient) -> None:
        super().__init__(http, client.machine, "main")
        self._client = client

    async def send_all(self) -> None:
        await self._client.send_all()


async def test_a_bot_whose_identity_is_never_complete_gives_up_and_says_so(alice_and_bob: Scene) -> None:
    async with ClientSession() as http:
        client = Unheard(http, alice_and_bob.app.machine, "main")
        with pytest.raises(IdentityIncomplete, match=r"did not take the bot's identity in 5 rounds: .*pending=True"):
            await bootstrap(client)
    assert client.rounds == BOOTSTRAP_ROUNDS == 5


async def test_a_bot_shows_a_qr_code_which_another_device_scans(alice_and_bob: Scene) -> None:
    app = alice_and_bob.app
    tablet = await another_device(alice_and_bob)
    async with ClientSession() as http, asyncio.timeout(30):
        bot = InMemory(http, app)
        await bootstrap(bot)
        await tablet.sync()
        await tablet.send_all()
        flow_id = await tablet.machine.verifications.request(
            ALICE, ["PHONE"], methods=(Method.SAS, Method.SCAN_QR_CODE)
        )
        await tablet.send_all()
        await app.sync()
        shown: AsyncIterator[Verification] = verifications(bot)
        ready = await anext(shown)
        assert ready.phase is Phase.READY
        code = await app.machine.verifications.qr_code(ready.flow_id)
        await tablet.sync()
        await tablet.machine.verifications.scan_qr_code(flow_id, code)
        await tablet.send_all()
        await app.sync()
        assert (await anext(shown)).phase is Phase.SCANNED


def test_a_qr_code_is_drawn_as_a_square_with_its_three_marks() -> None:
    lines = [line for line in drawn(bytes(range(100))).splitlines() if line]
    assert len({len(line) for line in lines}) == 1
    top, bottom = lines[2:5], lines[-6:-3]
    mark = [" ▄▄▄▄▄ ", " █   █ ", " █▄▄▄█ "]
    assert [line[4:11] for line in top] == [line[-11:-4] for line in top] == [line[4:11] for line in bottom] == mark
