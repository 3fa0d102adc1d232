"""Wrong arguments raise a named error, and change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.machine.scene import ALICE, BOB, KEY, ROOM, Scene
from unwedged import machine
from unwedged.machine import InvalidArgument, KeysQuery, MachineError, MalformedResponse, OlmMachine, errors
from unwedged.machine.exports import encrypt_export
from unwedged.machine.secret_storage import new_storage_key
from unwedged.store import errors as store_errors

# mypy: disable-error-code="arg-type"


def nothing_is_in(folder: Path) -> bool:
    return not list(folder.iterdir())


@pytest.mark.parametrize("user_id", ["bot", "", "bot:example.org", "@bot", None, 5, b"@a:b"])
async def test_a_device_is_of_a_user(tmp_path: Path, user_id: str) -> None:
    with pytest.raises(store_errors.InvalidArgument):
        await OlmMachine.open(tmp_path / "device.db", user_id=user_id, device_id="D", key=KEY, label="x")
    assert nothing_is_in(tmp_path)


@pytest.mark.parametrize("device_id", ["", None, 5])
async def test_a_device_has_a_name(tmp_path: Path, device_id: str) -> None:
    with pytest.raises(store_errors.InvalidArgument):
        await OlmMachine.open(tmp_path / "device.db", user_id=ALICE, device_id=device_id, key=KEY, label="x")
    assert nothing_is_in(tmp_path)


async def test_one_text_is_no_list_of_users(alice_and_bob: Scene) -> None:
    machine = alice_and_bob.app.machine
    for users in (BOB, None, [5], ["bob"]):
        with pytest.raises(store_errors.InvalidArgument):
            await machine.track_users(users)
        with pytest.raises(store_errors.InvalidArgument):
            await machine.share_room_key(ROOM, users)
    assert not await machine.outgoing_requests()


async def test_a_request_and_its_response_are_not_exchanged(alice_and_bob: Scene) -> None:
    machine = alice_and_bob.app.machine
    request = KeysQuery({})
    with pytest.raises(InvalidArgument):
        await machine.mark_sent({}, request)
    with pytest.raises(InvalidArgument):
        await machine.mark_failed({}, status=None)
    with pytest.raises(store_errors.InvalidArgument):
        await machine.mark_failed(request, status="404")
    with pytest.raises(MalformedResponse):
        await machine.mark_sent(request, "text")


@pytest.mark.parametrize("rounds", [10**5000, 1.5, "1"], ids=["large", "float", "text"])
def test_a_number_of_rounds_is_a_whole_number(rounds: int) -> None:
    with pytest.raises(store_errors.InvalidArgument, match="number of rounds"):
        encrypt_export([], "a passphrase", rounds)
    with pytest.raises(store_errors.InvalidArgument, match="number of rounds"):
        new_storage_key("a passphrase", rounds=rounds)


async def test_a_sync_was_asked_with_a_position(alice_and_bob: Scene) -> None:
    machine = alice_and_bob.app.machine
    for connection in (None, 5, b"main", "\ud800"):
        with pytest.raises(store_errors.InvalidArgument):
            await machine.sync_position(connection)
    for position in (None, "s1"):
        with pytest.raises(InvalidArgument):
            await machine.receive_sync_changes({"next_batch": "x"}, position)
        with pytest.raises(InvalidArgument):
            await machine.forget_sync_position(position)
    with pytest.raises(InvalidArgument):
        await machine.forget_sync_position(await machine.sync_position())
    with pytest.raises(MalformedResponse):
        await machine.receive_sync_changes("text", await machine.sync_position())


@pytest.mark.parametrize("asked", ["400000", 4e5, float("nan"), -1, 86_400_001, 10**400])
async def test_a_homeserver_can_not_ask_for_a_wait_that_is_none(alice_and_bob: Scene, asked: int) -> None:
    machine, request = alice_and_bob.app.machine, KeysQuery({})
    assert await machine.mark_failed(request, status=429, retry_after_ms=86_400_000) == 86_400_000
    assert await machine.mark_failed(request, status=429, retry_after_ms=0) == 2_000
    assert await machine.mark_failed(request, status=429, retry_after_ms=asked) == 4_000


def test_each_error_can_be_imported_from_the_package() -> None:
    named = {
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, MachineError)
    }
    assert named <= set(machine.__all__)
    assert issubclass(InvalidArgument, store_errors.InvalidArgument)
