"""What the examples do where a homeserver does not do its part. On a real one they run in ``tests/synapse``."""

from __future__ import annotations

import pytest
from aiohttp import ClientSession

from examples.encrypted_bot.client import Client
from examples.verified_bot.recovery import BOOTSTRAP_ROUNDS, IdentityIncomplete, bootstrap
from tests.machine.scene import Scene


class Unheard(Client):
    """A client whose requests change nothing at the homeserver."""

    rounds = 0

    async def send_all(self) -> None:
        self.rounds += 1


async def test_a_bot_whose_identity_is_never_complete_gives_up_and_says_so(alice_and_bob: Scene) -> None:
    async with ClientSession() as http:
        client = Unheard(http, alice_and_bob.app.machine, "main")
        with pytest.raises(IdentityIncomplete, match=r"did not take the bot's identity in 5 rounds: .*pending=True"):
            await bootstrap(client)
    assert client.rounds == BOOTSTRAP_ROUNDS == 5
