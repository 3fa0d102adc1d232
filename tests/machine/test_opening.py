"""What a machine does with its store as a whole: it is opened, paused, marked, given another secret, and counted."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.machine.scene import ALICE, KEY, MEGOLM, ROOM
from unwedged.machine import OlmMachine
from unwedged.store import (
    Existence,
    LeaseLost,
    Opening,
    OperationsAbandoned,
    StoreClosed,
    StoreExists,
    StoreMark,
    StoreMissing,
    StoreRolledBack,
    Transaction,
    WrongKey,
)

OTHER_KEY = bytes(31) + b"\x01"
CONTENT: dict[str, object] = {"algorithm": MEGOLM}


PATIENCE_SECONDS = 60
"""Only a test that fails waits for so long."""


def nothing_is_in(folder: Path) -> bool:
    return not list(folder.iterdir())


def opening(
    folder: Path,
    *,
    key: bytes = KEY,
    expect: Existence = Existence.ANY,
    not_before: StoreMark | None = None,
    cache_limit_bytes: int | None = None,
) -> Opening[OlmMachine]:
    return OlmMachine.open(
        folder / "device.db",
        user_id=ALICE,
        device_id="PHONE",
        key=key,
        label="app",
        expect=expect,
        not_before=not_before,
        cache_limit_bytes=cache_limit_bytes,
    )


# P17.4
async def test_a_device_whose_store_is_gone_gets_no_second_identity(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing):
        await opening(tmp_path, expect=Existence.EXISTING)
    assert nothing_is_in(tmp_path)
    async with opening(tmp_path, expect=Existence.NEW) as machine:
        identity = machine.ed25519
    with pytest.raises(StoreExists):
        await opening(tmp_path, expect=Existence.NEW)
    async with opening(tmp_path, expect=Existence.EXISTING) as machine:
        assert machine.ed25519 == identity


# P17.9
async def test_an_older_copy_of_a_devices_store_is_noticed(tmp_path: Path) -> None:
    async with opening(tmp_path):
        pass
    shutil.copy(tmp_path / "device.db", tmp_path / "copy")
    async with opening(tmp_path) as machine:
        await machine.set_room_encryption(ROOM, CONTENT)
        mark = machine.mark()
        assert mark.version == machine.statistics().version
    async with opening(tmp_path, not_before=mark) as machine:
        assert machine.mark() == mark
    shutil.copy(tmp_path / "copy", tmp_path / "device.db")
    with pytest.raises(StoreRolledBack):
        await opening(tmp_path, not_before=mark)


# P22.12
async def test_a_device_whose_secret_was_changed_opens_with_the_new_one_only(tmp_path: Path) -> None:
    async with opening(tmp_path) as machine:
        await machine.change_secret(key=OTHER_KEY)
        identity = machine.ed25519
    with pytest.raises(WrongKey):
        await opening(tmp_path)
    async with opening(tmp_path, key=OTHER_KEY) as machine:
        assert machine.ed25519 == identity
        await machine.change_secret(passphrase="a secret")
    async with OlmMachine.open(
        tmp_path / "device.db", user_id=ALICE, device_id="PHONE", passphrase="a secret", label="app"
    ) as machine:
        assert machine.ed25519 == identity


# P19.3, P19.4
async def test_a_paused_device_goes_on_when_it_is_told_to(tmp_path: Path) -> None:
    async with opening(tmp_path) as machine:
        await machine.pause()
        assert machine.statistics().state == "paused"
        await machine.resume()
        assert machine.statistics().state != "paused"


# P19.2
@pytest.mark.parametrize("done", ["paused", "closed"])
async def test_pausing_and_closing_a_device_wait_no_longer_than_they_are_told_to(tmp_path: Path, done: str) -> None:
    began, may_end = asyncio.Event(), asyncio.Event()

    async def slow(_: Transaction) -> None:
        began.set()
        await may_end.wait()

    async with opening(tmp_path) as machine:
        end = machine.pause if done == "paused" else machine.close
        running = asyncio.create_task(machine._store.run(slow, attempts=1))
        await began.wait()
        with pytest.raises(OperationsAbandoned, match=rf"{done} while .*slow"):
            await asyncio.wait_for(end(timeout_seconds=0), PATIENCE_SECONDS)
        assert machine.statistics().state == done
        may_end.set()
        with pytest.raises(LeaseLost if done == "paused" else StoreClosed):
            await running


async def test_the_memory_of_a_devices_cache_is_limited(tmp_path: Path) -> None:
    async with opening(tmp_path) as machine:
        assert machine.statistics().cached_bytes is None
    async with opening(tmp_path, cache_limit_bytes=0) as machine:
        await machine.set_room_encryption(ROOM, CONTENT)
        assert machine.statistics().cached_bytes == 0
