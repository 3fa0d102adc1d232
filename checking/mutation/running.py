"""Run mutmut: it makes the mutants in a copy of the package, and runs the tests of each mutant until one fails.

mutmut forks each run from a process that has already imported everything. It records which tests call which function,
and runs the fast tests first.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from checking.errors import CheckError
from checking.mutation.listed import Part
from checking.mutation.mutants import Mutant, mutants_of

PACKAGE: Final = "reference"
"""The folder from which the package is imported."""

_COPIED: Final = ("chaos", "checking", "proofs", "spec", "tests")
"""The files and folders that tests need besides the package."""

TEST_SECONDS: Final = 15
"""A test fails after so many seconds, since a mutant may wait for ever. Without mutants, no chosen test takes more than
two seconds of processor time, and all tests must pass within this limit before the first mutant is run."""

_PROCESSES: Final = 1 + (os.cpu_count() or 1)
"""How many mutants are run at once: more than there are cores, since mutants that hang use no processor time."""

NOT_RUN: Final = "not checked"
"""mutmut's status of a mutant that it has not run."""


@contextmanager
def stage(root: Path, part: Part) -> Iterator[Path]:
    """Make a temporary folder in which mutmut finds the package and its settings."""
    with TemporaryDirectory(prefix="unwedged-mutants-") as scratch:
        folder = Path(scratch)
        (folder / "unwedged").symlink_to(root / PACKAGE / "unwedged")
        for name in _COPIED:
            (folder / name).symlink_to(root / name)
        (folder / "pyproject.toml").write_text(_settings(root, part), encoding="utf-8")
        yield folder


def _settings(root: Path, part: Part) -> str:
    pytest = [f"--timeout={TEST_SECONDS}", "--hypothesis-profile=mutants", "-p", "no:cacheprovider"]
    settings = {
        "source_paths": ["unwedged"],
        "only_mutate": list(part.files),
        "also_copy": list(_COPIED),
        "pytest_add_cli_args": pytest,
        "pytest_add_cli_args_test_selection": [*part.tests, *(f"--deselect={test}" for test in part.without)],
        # Each mutant gets a process in which no test has run: Hypothesis refuses to run a test from two modules.
        "process_isolation": "forkserver",
        "timeout_constant": float(TEST_SECONDS),
        "timeout_multiplier": 1.5,
        "use_git_change_detection": False,
    }
    project = (root / "pyproject.toml").read_text(encoding="utf-8")
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    return "\n".join([project, "[tool.mutmut]", *lines, ""])


def make(folder: Path, root: Path, files: Sequence[str]) -> list[Mutant]:
    """Make the mutants of some files. ``root`` is the folder of the clone."""
    with chdir(folder):  # mutmut looks for its settings in the current folder
        return [mutant for file in files for mutant in mutants_of(root / PACKAGE, file)]


def run(folder: Path, mutants: Sequence[Mutant], log: Path, seconds: float | None) -> Mapping[str, str]:
    """Run the tests on each of these mutants, for at most ``seconds``. Return mutmut's status, by mutmut's name.

    Raises ``CheckError`` if mutmut fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    code = 0
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(  # noqa: S603 (our own)
            _mutmut("run", "--max-children", str(_PROCESSES), *(mutant.name for mutant in mutants)),
            cwd=folder,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the processes that run the tests
            process.wait()
    results = subprocess.run(  # noqa: S603 (our own)
        _mutmut("results", "--all", "true"), cwd=folder, capture_output=True, text=True, check=False
    )
    told = {name: status for name, _, status in (line.strip().partition(": ") for line in results.stdout.splitlines())}
    if code or not told:
        raise CheckError(f"mutmut failed; its output is in {log}")
    return {mutant.name: told.get(mutant.name, NOT_RUN) for mutant in mutants}


def _mutmut(*arguments: str) -> list[str]:
    # Not by `python -m`: mutmut must be imported under its own name.
    return [sys.executable, "-c", "from mutmut.__main__ import cli; cli()", *arguments]
