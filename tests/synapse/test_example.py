"""The example of a bot in two processes runs on a real homeserver."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
EMOJI = re.compile(r"(?<= shows: ).+")
RECOVERY_KEY = re.compile(r"(?<= recovery key: )(\w{4} ){11}\w{4}$", re.MULTILINE)


def test_the_bot_answers_whatever_becomes_of_one_of_its_processes() -> None:
    command = [sys.executable, "-m", "examples.encrypted_bot"]
    shown = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout  # noqa: S603
    assert "\n$ .venv/bin/python -m examples.encrypted_bot\n" + shown in (REPOSITORY / "README.md").read_text()


def verified_bot(answer: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "examples.verified_bot"]
    return subprocess.run(command, cwd=REPOSITORY, input=answer, capture_output=True, text=True, check=False)  # noqa: S603


def alike(shown: str) -> str:
    """Return the output without the parts that differ in each run."""
    return EMOJI.sub("emoji", RECOVERY_KEY.sub("key", shown))


def test_a_person_verifies_the_bot_and_a_new_device_is_restored() -> None:
    run = verified_bot("y\n")
    assert run.returncode == 0, run.stderr
    terminal, *processes = EMOJI.findall(run.stdout)
    assert processes == [terminal, terminal]
    assert alike("\n$ .venv/bin/python -m examples.verified_bot\n" + run.stdout) in alike(
        (REPOSITORY / "README.md").read_text()
    )


def test_a_bot_whose_emoji_differ_is_not_verified() -> None:
    run = verified_bot("n\n")
    assert (run.returncode, run.stderr) == (1, "The bot is not verified\n")
    assert "second   verification: cancelled\n" in run.stdout
