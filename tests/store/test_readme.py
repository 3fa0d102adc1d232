"""The examples, outputs and links of the README, and the examples of the guide for applications, are correct."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

REPOSITORY: Final = Path(__file__).parents[2]
README: Final = (REPOSITORY / "README.md").read_text()
GUIDE: Final = (REPOSITORY / "docs/applications.md").read_text()


def blocks_of(page: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


BLOCKS: Final = blocks_of(README)
PROSE: Final = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
PATIENCE: Final = 60
"""Seconds after which a hanging program counts as failed."""


def output_of(folder: Path, *arguments: str) -> str:
    result = subprocess.run(  # noqa: S603 (this project's own programs)
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert result.stderr == ""
    assert result.returncode == 0
    return result.stdout


def examples_of(blocks: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(program, printed) for (language, program), (_, printed) in pairwise(blocks) if language == "python"]


EXAMPLES: Final = examples_of(BLOCKS)
GUIDE_EXAMPLES: Final = examples_of(blocks_of(GUIDE))


@pytest.mark.parametrize(
    ("program", "printed"),
    [*EXAMPLES, *GUIDE_EXAMPLES],
    ids=["one store", "a key and a pause", "a device", "a subscription", "a mark"],
)
def test_an_example_prints_what_it_says(tmp_path: Path, program: str, printed: str) -> None:
    (tmp_path / "example.py").write_text(program)
    assert output_of(tmp_path, "-W", "error", "example.py") == printed


def test_the_first_example_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(EXAMPLES[0][0])
    printed = [output_of(tmp_path, "example.py").strip() for _ in range(2)]
    assert printed[0] != printed[1]
    assert f"when it is run again: `{printed[1]}`" in PROSE


def test_the_example_with_a_mark_notices_an_older_copy(tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(GUIDE_EXAMPLES[1][0])
    output_of(tmp_path, "example.py")
    older = (tmp_path / "marked.db").read_bytes()
    assert output_of(tmp_path, "example.py") == "2\n"
    (tmp_path / "marked.db").write_bytes(older)
    failed = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert "StoreRolledBack" in failed.stderr


def test_what_the_programs_leave_is_ignored_by_git() -> None:
    left = {path for page in (README, GUIDE) for path in re.findall(r'"(\w+\.(?:db|json))"', page)} | {"traces/"}
    assert left >= {"bot.db", "marked.db", "mark.json"}
    ignored = (REPOSITORY / ".gitignore").read_text().splitlines()
    assert not [path for path in left if f"/{path}" not in ignored and f"/{path}*" not in ignored]


def test_the_packages_named_are_those_that_the_library_needs() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    needed = [re.split("[<>=]", requirement)[0] for requirement in project["dependencies"]]
    assert f"three packages along: {', '.join(needed[:-1])} and {needed[-1]}." in PROSE


def test_the_story_is_what_the_program_prints() -> None:
    command = "$ .venv/bin/python -m examples.story protocol no-fence\n"
    [shown] = (text.removeprefix(command) for language, text in BLOCKS if text.startswith(command))
    assert shown == output_of(REPOSITORY, "-m", "examples.story", "protocol", "no-fence")


def test_a_third_story_loses_three_messages() -> None:
    assert output_of(REPOSITORY, "-m", "examples.story", "kept-cache").endswith("  Lost: two, six, seven\n")
    assert "`kept-cache`, has the fence and keeps what is in memory: it loses three messages" in PROSE


def test_the_bot_is_what_the_program_prints() -> None:
    command = "$ python examples/bot.py\n"
    [shown] = (text.removeprefix(command) for language, text in BLOCKS if text.startswith(command))
    assert shown == output_of(REPOSITORY, "examples/bot.py")


def test_the_inspection_is_what_the_command_prints(tmp_path: Path) -> None:
    command = "$ unwedged inspect bot.db\n"
    [shown] = (text.removeprefix(command) for language, text in BLOCKS if text.startswith(command))
    (tmp_path / "example.py").write_text(EXAMPLES[0][0])
    output_of(tmp_path, "example.py")
    printed = output_of(tmp_path, "-m", "unwedged", "inspect", "bot.db")
    # The identity differs from store to store, and SQLite's version from machine to machine.
    differing = re.compile(r"^(store +)[0-9a-f]{32}$|^(SQLite here +)3\.\S+( \(.*\))?$", re.MULTILINE)
    assert len(differing.findall(shown)) == 2
    assert differing.sub(r"\1\2...", shown) == differing.sub(r"\1\2...", printed)


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        pytest.param("index + 1", "index", "of 6 indexes, 1 are different", id="an index is used again"),
        pytest.param("if suspensions:", "if suspensions.missing:", "before it was suspended", id="one fails at once"),
        pytest.param(
            "return index", "return index if index < 3 else none", "ends with 1", id="one fails after it woke"
        ),
        pytest.param("range(3)", "range(3 if label == 'one' else none)", "returned non-zero", id="two fails"),
        pytest.param(
            'print("one is',
            'os.kill(os.getpid(), signal.SIGTERM), print("one is',
            "was ended",
            id="it is ended from outside",
        ),
    ],
)
def test_the_bot_fails_where_it_must_and_leaves_no_process(tmp_path: Path, right: str, wrong: str, said: str) -> None:
    program = (REPOSITORY / "examples/bot.py").read_text()
    assert program.count(right) == 1
    (tmp_path / "bot.py").write_text(program.replace(right, wrong))
    # A leftover process would keep the pipe of its standard error open, and this call would time out.
    result = subprocess.run(
        [sys.executable, "bot.py"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert result.returncode == 1
    assert said in result.stderr


def anchors(markdown: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)]+)\)", PROSE))))
def test_a_link_leads_somewhere(link: str) -> None:
    path, _, anchor = link.partition("#")
    assert (REPOSITORY / path).exists()
    assert not anchor or anchor in anchors((REPOSITORY / (path or "README.md")).read_text())


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:tests|tla|spec|reference)/[\w/.]*)`", PROSE))))
def test_what_is_named_is_there(path: str) -> None:
    assert (REPOSITORY / path).exists()


def test_the_models_named_are_listed() -> None:
    manifest = tomllib.loads((REPOSITORY / "tla/models/manifest.toml").read_text())
    listed = {model["name"] for model in manifest["model"]}
    named = set(re.findall(r"\bfault-[\w-]+", README))
    assert named
    assert named <= listed


def test_the_targets_named_are_made() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^\$ make ([a-z-]+)\b", README, re.MULTILINE)) <= targets
