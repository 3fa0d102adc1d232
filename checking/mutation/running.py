"""Runs mutants: mutmut makes them in a copy of the package, and ``session`` runs tests on each until one fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from shutil import copytree, ignore_patterns
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

from checking.errors import CheckError
from checking.mutation.listed import Part
from checking.mutation.mutants import Mutant, mutate
from checking.mutation.session import PATIENCE, Told, Wanted, Work

PACKAGE: Final = "reference"
"""The folder from which the package is imported."""

_COPIED: Final = ("chaos", "checking", "examples", "proofs", "spec", "tests")
"""The files and folders that tests need besides the package."""

SAVED_EVERY_SECONDS: Final = 5


class Killers:
    """Which test killed each mutant the last time, in a file. It is the first to run the next time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._tests = msgspec.json.decode(file.read_bytes(), type=dict[str, str]) if file.exists() else {}

    def of(self, mutant: Mutant) -> str | None:
        """Return the test that killed this mutant."""
        return self._tests.get("\n".join(mutant.place))

    def note(self, told: Mapping[Mutant, Told]) -> None:
        """Remember which tests killed these mutants."""
        for mutant, one in told.items():
            if one.test is not None:
                self._tests["\n".join(mutant.place)] = one.test
        self._file.write_bytes(msgspec.json.encode(self._tests))


@contextmanager
def stage(root: Path, files: Sequence[str]) -> Iterator[tuple[Path, list[Mutant]]]:
    """Make a folder with the package and its tests, where these files have all their mutants. The clone may change."""
    with TemporaryDirectory(prefix="unwedged-mutants-") as scratch:
        folder = Path(scratch)
        for source in (root / PACKAGE / "unwedged", *(root / name for name in _COPIED if (root / name).exists())):
            copytree(source, folder / source.name, ignore=ignore_patterns("__pycache__"))
        project = (root / "pyproject.toml").read_text(encoding="utf-8")
        settings = '\n[tool.mutmut]\nsource_paths = ["unwedged"]\n'
        (folder / "pyproject.toml").write_text(project + settings, encoding="utf-8")
        made = []
        with chdir(folder):  # where mutmut looks for its settings
            for file in files:
                code, mutants = mutate(folder, file)
                (folder / file).write_text(code, encoding="utf-8")
                made += mutants
        yield folder, made


def run(
    folder: Path,
    part: Part,
    mutants: Sequence[Mutant],
    logs: Path,
    *,
    jobs: int,
    seconds: float | None = None,
    patience: float = PATIENCE,
) -> Mapping[str, Told]:
    """Run tests on each of these mutants, but no longer than that; say by mutmut's name what became of each.

    What became of it is also kept among the ``logs``, so that the same test runs first the next time.
    """
    logs.mkdir(parents=True, exist_ok=True)
    log, told, killers = logs / f"{part.name}.log", folder / "told", Killers(logs / f"{part.name}.killers.json")
    work = Work(tuple(Wanted(one.name, killers.of(one)) for one in mutants), str(told), jobs, patience)
    (folder / "work").write_bytes(msgspec.json.encode(work))
    command = [
        *(sys.executable, "-m", "pytest", "-p", "checking.mutation.session", "--mutants", str(folder / "work")),
        *("--capture=sys", "--timeout=0", "--hypothesis-profile=mutants", "-p", "no:cacheprovider"),
        # A traceback with the source would parse the module with all mutants, which takes longer than the test.
        *("--tb=native", "-o", "tmp_path_retention_policy=failed"),
        *(*part.tests, *(f"--deselect={test}" for test in part.without)),
    ]
    over = None if seconds is None else time.monotonic() + seconds
    found: dict[str, Told] = {}
    code: int | None = None
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, start_new_session=True)  # noqa: S603 (our own)
        try:
            while code is None and (over is None or time.monotonic() < over):
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(SAVED_EVERY_SECONDS if over is None else min(SAVED_EVERY_SECONDS, seconds or 0))
                if told.exists():
                    found = {one.name: one for one in msgspec.json.Decoder(Told).decode_lines(told.read_bytes())}
                    killers.note({mutant: found[mutant.name] for mutant in mutants if mutant.name in found})
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also the forks
            process.wait()
    if code:
        raise CheckError(f"the mutants of {part.name} could not be run; {log} says why")
    return found
