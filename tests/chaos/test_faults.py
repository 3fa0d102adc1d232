"""Each fault alone happens, and does no harm."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from rich.console import Console

import chaos.stage
from chaos import pair, processes
from chaos.__main__ import run
from chaos.faults import Fault
from chaos.processes import REPOSITORY, ProcessFailed
from chaos.stage import PHONE, stage
from chaos.traces import Followed
from checking.explain.reading import read
from checking.tlc.toolbox import find_toolbox
from unwedged.machine.ratchets import Account

ROUNDS: Final = 4
ENDED_BY: Final = {
    Fault.SUSPEND_IN_TRANSACTION: "StoreBusy",
    Fault.REPLACE_FILE: "StoreReplaced",
    Fault.FILL_DISK: "StorageFailed",
    Fault.LOSE_REQUESTS: "Unreachable",
    Fault.LOSE_ANSWERS: "Unreachable",
    Fault.DELAY_REQUESTS: "Unreachable",
    Fault.KILL: "killed",
}
"""How the turn of the affected process, or of the other process, ends."""


@pytest.mark.parametrize("fault", Fault)
async def test_it_comes_about_and_does_no_harm(tmp_path: Path, fault: Fault) -> None:
    async with stage(tmp_path, seed=1) as on:
        while on.happened[fault] < ROUNDS // 2:
            for _ in range(ROUNDS):
                await on.round(fault)
        await on.settle()
        await on.check()
        await on.check_backup()
    assert on.losses == []
    assert on.messages_read > ROUNDS
    assert on.verified
    assert on.keys_given
    assert on.keys_refused
    assert on.secrets_given
    if fault in ENDED_BY:
        assert on.turns[ENDED_BY[fault]], on.turns
    assert read(on.traces.finish_part()).complete, "lines of the traces are missing"


async def test_a_loss_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The homeserver loses a to-device message, so a room key never arrives."""
    async with stage(tmp_path, seed=1) as on:
        send = on.homeserver.request

        def forgetful(device: object, method: str, path: str, body: object = None) -> object:
            if "sendToDevice" in path:
                return 200, {}
            return send(device, method, path, body)  # type: ignore[arg-type]

        monkeypatch.setattr(on.homeserver, "request", forgetful)
        for _ in range(ROUNDS):
            await on.round(None)
        await on.check()
    assert any("can't read" in loss for loss in on.losses)


@pytest.mark.parametrize(
    ("forgotten", "told"),
    [
        (("m.key.verification.mac", "m.key.verification.done"), "hangs"),
        (("m.key.verification.request",), "can't be verified"),
        (("m.room_key_request",), "has refused TABLET1 a room key 0 times"),
        (("m.room_key.withheld",), "has refused PHONE a room key 0 times"),
        (("m.secret.request",), "TABLET1 never got the key of the backup"),
        (("m.key.verification.ready",), "LAPTOP can't be verified"),
    ],
)
async def test_a_loss_at_the_other_device_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: tuple[str, ...], told: str
) -> None:
    monkeypatch.setattr(chaos.stage, "CALM_ROUNDS", ROUNDS)
    async with stage(tmp_path, seed=1) as on:
        send = on.homeserver.request

        def forgetful(device: object, method: str, path: str, body: object = None) -> object:
            if any(f"/{event_type}/" in path for event_type in forgotten):
                return 200, {"event_id": "$lost"}
            return send(device, method, path, body)  # type: ignore[arg-type]

        monkeypatch.setattr(on.homeserver, "request", forgetful)
        await on.round(None)
        await on.settle()
        await on.check()
    assert any(told in loss for loss in on.losses), on.losses


async def test_verifications_end_well_if_nothing_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos.stage, "TIME_PASSES", 0)
    monkeypatch.setattr(chaos.stage, "TIME_PASSES_BETWEEN", 0)
    monkeypatch.setattr(pair, "CANCELS", 0)
    async with stage(tmp_path, seed=1) as on:
        for _ in range(ROUNDS):
            for _ in range(ROUNDS):
                await on.round(None)
            await on.settle()
            await on.check()
    assert on.losses == []
    assert on.verified > on.cancelled.total(), on.cancelled
    assert on.cancelled.keys() <= {"m.unexpected_message"}, "some request was made twice at the same time, at most"


async def test_two_accounts_of_one_device_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PROGRAM", ("tests.chaos.faulty_worker", "account-fork-at-creation"))
    async with stage(tmp_path, seed=1) as on:
        while not on.losses and on.tablets < 12:
            await on.sign_in()
            await on.sign_out()
    assert any("has made an account" in loss for loss in on.losses)


async def found_in(folder: Path) -> list[str]:
    """Return what was lost, or why a process ended: the homeserver may refuse its requests."""
    try:
        return await run(folder, 1, 60, Console(file=io.StringIO()))
    except ProcessFailed as failure:
        return [str(failure)]


@pytest.mark.parametrize(
    "fault",
    [
        *("no fence", "kept cache", "upload-before-persist", "send-before-persist", "failed-decrypt-mutates"),
        *("result-in-second-commit", "waiting-in-memory"),
    ],
)
async def test_a_device_that_breaks_a_rule_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(processes, "PROGRAM", ("tests.chaos.faulty_worker", fault))
    found = await found_in(tmp_path)
    signs = "can't read|twice|no behaviour|Refused: 400|ended by itself|is not verified|a room key 0 times"
    assert any(re.search(signs, each) for each in found), found


async def test_a_key_that_is_not_in_the_backup_is_reported(tmp_path: Path) -> None:
    async with stage(tmp_path, seed=1) as on:
        await on.round(None)
        await on.settle()
        backup = on.homeserver._backups[PHONE.user][-1]  # No fault of chaos removes keys here.
        backup.rooms.clear()
        await on.check()
        assert not on.losses
        await on.check_backup()
    assert any(loss.startswith("a new device can't read") for loss in on.losses)


async def test_a_lost_key_that_was_offered_is_reported(tmp_path: Path) -> None:
    """The homeserver hands out keys that the device does not have, under the ids of keys that it has."""
    async with stage(tmp_path, seed=1) as on:
        keys = on.homeserver._devices[PHONE].one_time  # No fault of chaos replaces keys here.
        for name, lost in zip(keys, Account().make_one_time_keys(len(keys)).values(), strict=True):
            keys[name] = {**keys[name], "key": lost}
        await on.round(None)
        await on.round(None)
    assert "a sync reported 'unreadable'" in on.losses


async def test_nothing_said_is_nothing_read(tmp_path: Path) -> None:
    async with stage(tmp_path, seed=1) as on:
        await on.check()
        assert not on.losses
        await on.check()
    assert [loss for loss in on.losses if "can say nothing" in loss]


async def test_the_traces_of_one_part_after_the_other_are_followed_and_deleted(tmp_path: Path) -> None:
    """T1.4 and T1.7: neither a kill nor a full disk makes a trace impossible."""
    followed = Followed(find_toolbox(), REPOSITORY / "tla")
    async with stage(tmp_path, seed=1) as on:
        parts = []
        for fault in (Fault.KILL, Fault.FILL_DISK):
            await on.round(fault)
            await on.settle()
            parts.append(await on.end_part())
            await followed.follow(parts[-1])
            assert followed.rejection is None
        await on.round(None)
    assert followed.parts == len(parts)
    parts.append(on.traces.finish_part())
    for path in parts[-1]:
        lines = [json.loads(line) for line in path.read_bytes().splitlines() if line]
        for line in lines:
            known = [digest for digest in line.get("based_on", ()) if digest not in {"absent", "unread"}]
            line["based_on"] = ["0" * 16 if digest in known else digest for digest in line.get("based_on", ())]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    await followed.follow(parts[-1])
    assert "REJECTED" in str(followed.rejection)
    assert [all(path.exists() for path in files) for files in parts] == [False, True, True]


def test_the_command_says_what_has_happened_and_how_to_repeat_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chaos", "--seconds", "1", "--seed", "7", "--folder", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": "reference"}
    done = subprocess.run(  # noqa: S603 (a program of this project)
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seed 7" in done.stdout
    assert re.search(r"[\d,]+ lines accepted, in 1 part", done.stdout)
    assert "nothing was used twice" in done.stdout
    assert "\x1b" not in done.stdout, "in a pipe it is plain"
