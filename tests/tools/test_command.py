"""The command ``unwedged`` as a person meets it: its own process, its output, its exit status."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

import unwedged
from tests.store.stores import DEVICE, KEY, KINDS
from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds, Version
from unwedged.protocol.lease import Lease
from unwedged.store import CryptoStore, Inspection, LeaseTimes
from unwedged.store.sqlite import SqliteBackend
from unwedged.tools.command import OK, UNUSABLE
from unwedged.tools.inspection_text import text_of


def run(
    folder: Path, *arguments: str, through: str = 'exec "$@"', **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command, if need be as a shell does ``through`` which its output goes."""
    return subprocess.run(  # noqa: S603  the command is ours
        ["/bin/sh", "-c", through, "sh", sys.executable, "-m", "unwedged", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_a_store_is_looked_at_from_outside(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    times = LeaseTimes(idle_after_ms=60_000)
    async with CryptoStore.open(path, key=KEY, label="the app", kinds=KINDS, times=times) as store:
        for count in (1, 2):
            async with store.transaction() as transaction:
                transaction.put(DEVICE, f"device {count}", b"keys")
        done = await asyncio.to_thread(run, tmp_path, "inspect", "store.db")
    assert (done.returncode, done.stderr) == (OK, "")
    shown = {line[:19].strip(): line[19:].strip() for line in done.stdout.splitlines()}
    assert shown["holder"].startswith("'the app' (instance ")
    assert (shown["epoch"], shown["version"], shown["somebody waits"]) == ("1", "2", "no")
    assert (shown["records of device"], shown["change log"]) == ("2", "complete after version 0")
    assert shown[""] == "version 2 changed a record of kind device"


def test_what_one_commit_changed_is_one_line() -> None:
    lease = Lease(Epoch(1), InstanceId(1), Milliseconds(0), wanted=False)
    changes = ((Version(1), "index", 1), (Version(2), "name", 10_000))
    shown = text_of(Inspection(1, "00", Version(2), Version(0), lease, "app", {}, changes))
    assert [line.strip() for line in shown.splitlines() if " changed " in line] == [
        "version 1 changed a record of kind index",
        "version 2 changed 10,000 records of kind name",
    ]


async def test_as_many_lines_of_the_change_log_as_are_asked_for(tmp_path: Path) -> None:
    async with CryptoStore.open(tmp_path / "store.db", key=KEY, label="app", kinds=KINDS) as store:
        for count in (1, 2, 3):
            async with store.transaction() as transaction:
                transaction.put(DEVICE, f"device {count}", b"keys")
    done = await asyncio.to_thread(run, tmp_path, "inspect", "store.db", "--lines", "2")
    assert [line.split()[1] for line in done.stdout.splitlines() if " changed " in line] == ["2", "3"]
    wrong = await asyncio.to_thread(run, tmp_path, "inspect", "store.db", "--lines", "-1")
    assert wrong.returncode == UNUSABLE
    assert "lines" in wrong.stderr


@pytest.mark.parametrize("name", ["nowhere.db", "no store", ".", "", "pipe", "circle"])
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "no store").write_text("a text")
    (tmp_path / "circle").symlink_to("circle")
    os.mkfifo(tmp_path / "pipe")
    done = run(tmp_path, "inspect", name)
    assert (done.returncode, done.stdout) == (UNUSABLE, "")
    assert done.stderr.startswith(f"unwedged: {name}: ")
    assert done.stderr.count("\n") == 1


def test_a_folder_that_was_deleted(tmp_path: Path) -> None:
    done = run(tmp_path, "inspect", "store.db", through=f'mkdir d; cd d; rmdir "{tmp_path}/d"; exec "$@"')
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (UNUSABLE, "", 1)
    assert done.stderr.startswith("unwedged: store.db: ")


@pytest.fixture
async def stored(tmp_path: Path) -> Path:
    """Make a store whose label is not ASCII, and leave it with its lease held."""
    path = tmp_path / "store.db"
    backend = await SqliteBackend.open(path)
    await backend.acquire(InstanceId(7), "\u00e9", Milliseconds(5_000), Milliseconds(2_000))
    await backend.close()
    return path


@pytest.mark.parametrize("through", ['"$@" > /dev/full', '"$@" >&-', '{ "$@" || echo $? >&2; } | exec 0<&-'])
def test_output_that_can_not_be_written_is_said_in_one_line(stored: Path, through: str) -> None:
    done = run(stored.parent, "inspect", str(stored), through=through)
    lines = done.stderr.splitlines()
    assert lines[0].startswith("unwedged: the output could not be written: ")
    assert lines[1:] == [] if done.returncode == UNUSABLE else lines[1:] == [str(UNUSABLE)]


def test_a_label_that_the_terminal_does_not_have_is_escaped(stored: Path) -> None:
    done = run(stored.parent, "inspect", str(stored), PYTHONIOENCODING="ascii:strict")
    assert (done.returncode, done.stderr) == (OK, "")
    assert r"'\xe9' (instance 7)" in done.stdout


def test_an_error_about_a_name_can_not_control_a_terminal(tmp_path: Path) -> None:
    evil = "\x1b[2J"
    for arguments in (("inspect", evil), ("inspect", "store", evil)):
        done = run(tmp_path, *arguments)
        assert done.returncode == UNUSABLE
        assert done.stderr.replace("\n", "").isprintable()


def test_a_time_that_no_calendar_has() -> None:
    held = Lease(Epoch(1), InstanceId(1), Milliseconds(2**62), wanted=False)
    found = Inspection(2, "00", Version(1), Version(0), held, "app", {}, ())
    assert f"until {2**62} ms\n" in text_of(found)
    free = dataclasses.replace(held, holder=None)
    assert "nobody\n" in text_of(dataclasses.replace(found, lease=free))


def test_its_help_says_where_traces_are_explained(tmp_path: Path) -> None:
    assert "make explain LOGS=" in " ".join(run(tmp_path, "--help").stdout.split())


def test_its_version(tmp_path: Path) -> None:
    assert run(tmp_path, "--version").stdout == f"unwedged {unwedged.__version__}\n"


def test_the_content_of_a_file_can_not_control_a_terminal() -> None:
    lease = Lease(Epoch(1), InstanceId(1), Milliseconds(0), wanted=False)
    evil = "\x1b[2J"
    found = Inspection(2, "00", Version(1), Version(0), lease, evil, {evil: 1}, ((Version(1), evil, 1),))
    assert text_of(found).replace("\n", "").isprintable()
