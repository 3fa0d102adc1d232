"""The bot of two processes, as it is shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_the_bot_answers_whatever_becomes_of_one_of_its_processes() -> None:
    command = [sys.executable, "-m", "examples.encrypted_bot"]
    shown = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout  # noqa: S603
    assert "\n$ .venv/bin/python -m examples.encrypted_bot\n" + shown in (REPOSITORY / "README.md").read_text()
