"""One device in two processes, and a peer, on a Synapse: everybody reads everything, whatever goes wrong."""

from __future__ import annotations

from tests.synapse.scene import Scene


async def test_ten_messages_each_way(on: Scene) -> None:
    await on.begin(rotation_messages=3)
    for number in range(10):
        for label in ("app", "bob", "extension"):
            assert (await on.say(label, f"{number} from {label}")).event_id
    assert not await on.settle()
    await on.end()
    assert set(on.read.values()) == {30}
