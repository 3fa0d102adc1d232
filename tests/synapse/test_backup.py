"""The backup of room keys on a real homeserver: the scenarios of complement-crypto, and Synapse's responses."""

from __future__ import annotations

from typing import Final

import msgspec
import pytest

from checking.machine_replay.homeserver import Device, Homeserver, Json
from examples.encrypted_bot.client import ROOT, authorization
from tests.synapse.commands import Interruption, MakeBackup, Place, Read, Send, Sync, UseBackup
from tests.synapse.scene import Scene
from unwedged.machine.ratchets import BackupDecryption


async def restores_and_reads_all(on: Scene, key: bytes) -> None:
    """Sign Alice in on a device that has only the backup's decryption key. It must read all messages."""
    await on.sign_in("alice", "RESTORE")
    await on.start("restorer", on.alice, "RESTORE")
    await on["restorer"].do(Sync())
    events = await on.events()
    unread = await on["restorer"].do(Read(room=on.room, events=events))
    assert set(unread.problems) == {"missing_room_key"}
    wrong = await on["restorer"].do(UseBackup(key=BackupDecryption().key))
    assert wrong.problems == ["wrong_backup_key"]
    on["restorer"].problems.clear()
    restored = await on["restorer"].do(UseBackup(key=key))
    assert restored.restored == len(set(await on.sessions()))
    await on.end(["restorer"])


async def test_what_is_backed_up_is_restored(on: Scene) -> None:
    await on.begin(rotation_messages=2)
    for number in range(4):
        await on.say("bob", f"{number} from bob")
        await on["extension"].do(Sync())
        await on.say("app", f"{number} from the app")
    made = await on["app"].do(MakeBackup())
    await on.settle()
    await restores_and_reads_all(on, made.decryption_key)


async def test_an_app_and_an_extension_back_up_in_turns(on: Scene) -> None:
    """The app creates the backup and is closed; the extension uploads the keys that arrive; the app is opened again."""
    await on.begin(rotation_messages=1)
    made = await on["app"].do(MakeBackup())
    first = await on.say("bob", "first message")
    for label in ("extension", "app"):
        await on[label].do(Sync())
        assert await on.read(label, first.event_id) == "first message"
    await on["app"].do(Send())
    await on["app"].leave()
    final = await on.say("bob", "final message")
    await on["extension"].do(Sync())
    assert await on.read("extension", final.event_id) == "final message"
    await on["extension"].do(Send())
    await on["app"].start()
    await on["app"].do(Sync())
    assert await on.read("app", final.event_id) == "final message"
    await on.settle()
    for label in ("extension", "app"):
        await on[label].leave()
    for label in ("app", "extension"):
        del on.processes[label]
    await restores_and_reads_all(on, made.decryption_key)


# M19.15
@pytest.mark.parametrize("place", list(Place), ids=lambda place: place.name)
@pytest.mark.parametrize("killed", [False, True], ids=["suspended", "killed"])
async def test_a_process_is_stopped_as_its_upload_is_answered(on: Scene, place: Place, killed: bool) -> None:
    """Meanwhile the other process receives a better key, and continues the backup."""
    await on.begin(rotation_messages=1)
    made = await on["app"].do(MakeBackup())
    for number in range(3):
        await on.say("bob", f"{number} before")
    await on["app"].do(Sync())
    on["app"].tell(Send(interruption=Interruption(killed, place, "take")))
    if killed:
        assert await on["app"].answer() is None
    else:
        assert await on["app"].stopped()
    for number in range(3):
        await on.say("bob", f"{number} meanwhile")
    await on["extension"].do(Sync())
    await on["extension"].do(Send())
    if killed:
        await on["app"].restart()
    else:
        on["app"].resume()
        assert await on["app"].answer() is not None
    await on.settle()
    await restores_and_reads_all(on, made.decryption_key)


INFO: Final[Json] = {"algorithm": "m.other", "auth_data": {"any": "data"}}


def room_key(first: int, forwarded: int, *, verified: bool) -> Json:
    data: Json = {"of": f"{first} {forwarded} {verified}"}
    return {
        "first_message_index": first,
        "forwarded_count": forwarded,
        "is_verified": verified,
        "session_data": data,
    }


def room_keys(room: str, **sessions: Json) -> Json:
    return {"rooms": {room: {"sessions": sessions}}}


STEPS: Final[list[tuple[str, str, Json | None]]] = [
    ("GET", "version", None),
    ("PUT", "keys?version=1", room_keys("!a:b", one=room_key(5, 0, verified=False))),
    ("GET", "keys?version=1", None),
    ("DELETE", "version/1", None),
    ("POST", "version", INFO),
    ("GET", "version", None),
    ("GET", "version/1", None),
    ("GET", "version/2", None),
    ("PUT", "keys", room_keys("!a:b", one=room_key(5, 0, verified=False))),
    ("PUT", "keys?version=2", room_keys("!a:b", one=room_key(5, 0, verified=False))),
    ("PUT", "keys?version=1", room_keys("!a:b", one=room_key(5, 1, verified=False))),
    ("GET", "keys?version=1", None),
    # Each of these keys is better than the one before, so it is kept whichever arrives first.
    ("PUT", "keys?version=1", room_keys("!a:b", one=room_key(4, 2, verified=False))),
    ("PUT", "keys?version=1", room_keys("!a:b", one=room_key(9, 1, verified=False))),
    ("GET", "keys/!a:b/one?version=1", None),
    ("PUT", "keys?version=1", room_keys("!a:b", one=room_key(10, 3, verified=True))),
    ("GET", "keys/!a:b/one?version=1", None),
    ("PUT", "keys?version=1", room_keys("!a:b", one=room_key(8, 3, verified=False))),
    ("GET", "keys/!a:b/one?version=1", None),
    ("PUT", "keys?version=1", room_keys("!a:b", one=room_key(8, 3, verified=False))),
    ("PUT", "keys/!a:b/two?version=1", room_key(0, 0, verified=False)),
    ("PUT", "keys/!c:b?version=1", {"sessions": {"three": room_key(0, 0, verified=False)}}),
    ("GET", "keys?version=1", None),
    ("GET", "keys/!a:b?version=1", None),
    ("GET", "keys/!a:b/other?version=1", None),
    ("GET", "keys/!other:b?version=1", None),
    ("GET", "version", None),
    ("PUT", "version/1", {"algorithm": "m.another", "auth_data": {}}),
    ("PUT", "version/1", {"algorithm": "m.other", "auth_data": {}, "version": "2"}),
    ("PUT", "version/1", {"algorithm": "m.other", "auth_data": {"other": "data"}}),
    ("POST", "version", INFO),
    ("GET", "version", None),
    ("PUT", "keys?version=1", room_keys("!a:b", one=room_key(0, 0, verified=False))),
    ("GET", "keys?version=1", None),
    ("GET", "keys?version=2", None),
    (
        "PUT",
        "keys?version=2",
        room_keys("!a:b", one=room_key(0, 0, verified=False), two=room_key(0, 0, verified=False)),
    ),
    ("DELETE", "keys/!a:b/one?version=2", None),
    ("GET", "keys?version=2", None),
    ("DELETE", "keys?version=2", None),
    ("GET", "version", None),
    ("DELETE", "version/2", None),
    ("DELETE", "version/2", None),
    ("DELETE", "version/7", None),
    ("GET", "version", None),
    ("POST", "version", INFO),
]


async def test_the_homeserver_in_memory_answers_as_synapse_does(on: Scene) -> None:
    """They agree on which keys replace others, which requests are refused and how, and the numbers of versions."""
    user = await on.sign_in("alice", "PHONE")
    headers = authorization(on._tokens[f"{user} PHONE"])
    fake, device = Homeserver(), Device(user, "PHONE")
    fake.sign_in(device)
    for number, (method, path, body) in enumerate(STEPS):
        address = f"{ROOT}/room_keys/{path}"
        async with on.http.request(method, address, json=body, headers=headers) as response:
            status, answer = response.status, msgspec.json.decode(await response.read(), type=Json)
        faked = fake.request(device, method, address, body)
        assert (status, told(answer)) == (faked[0], told(faked[1])), f"step {number}: {method} {path}"


def told(answer: Json) -> Json:
    """Return a response without the texts that are only for people."""
    return {name: value for name, value in answer.items() if name not in ("error", "current_version")}
