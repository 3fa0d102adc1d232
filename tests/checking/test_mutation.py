"""Changed lines are found, mutants are identified by their text, and the page of scores keeps other files' rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

from checking.errors import CheckError
from checking.mutation import scores
from checking.mutation.changed import base_of, changed_lines
from checking.mutation.listed import Equivalent, Part, read_equivalents, read_parts, refuse_other_files, unmatched


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Create a repository with two commits. The second commit changes a line, and adds two at the end."""
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    commit(tmp_path, "one\ntwo\nthree\n")
    commit(tmp_path, "one\n2\nthree\nfour\nfive\n")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "commit.gpgsign=false")
    ran = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)  # noqa: S603, S607
    return ran.stdout.strip()


def commit(folder: Path, text: str) -> None:
    (folder / "code").mkdir(exist_ok=True)
    (folder / "code" / "file.py").write_text(text)
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "a change")


def test_the_lines_of_the_last_commit(clone: Path) -> None:
    base = base_of(clone)
    assert base == git(clone, "rev-parse", "HEAD~1")
    assert changed_lines(clone, base, "code") == {"code/file.py": {2, 4, 5}}


def test_what_is_not_committed_counts(clone: Path) -> None:
    (clone / "code" / "file.py").write_text("1\n2\nthree\nfour\nfive\n")
    assert changed_lines(clone, "HEAD", "code") == {"code/file.py": {1}}


def test_a_branch_is_compared_with_where_it_left_the_main_one(clone: Path) -> None:
    left = git(clone, "rev-parse", "HEAD")
    git(clone, "update-ref", "refs/remotes/origin/main", left)
    assert base_of(clone) == git(clone, "rev-parse", "HEAD~1")
    commit(clone, "one\n2\n")
    commit(clone, "one\n")
    assert base_of(clone) == left


def test_without_a_commit_before_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    assert base_of(tmp_path) is None
    git(tmp_path, "init", "--quiet")
    commit(tmp_path, "one\n")
    assert base_of(tmp_path) is None


def test_a_shallow_clone_does_not_look_as_if_nothing_had_changed(
    clone: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shallow = tmp_path_factory.mktemp("shallow")
    git(shallow, "clone", "--quiet", "--depth=1", clone.as_uri(), ".")
    git(shallow, "remote", "remove", "origin")
    with pytest.raises(CheckError, match="shallow"):
        base_of(shallow)


@pytest.mark.parametrize("setting", ["diff.noprefix", "diff.mnemonicPrefix"])
def test_the_settings_of_a_person_s_git_do_not_matter(clone: Path, setting: str) -> None:
    git(clone, "config", setting, "true")
    assert changed_lines(clone, "HEAD~1", "code") == {"code/file.py": {2, 4, 5}}


def test_a_base_that_is_not_there_is_refused(clone: Path) -> None:
    with pytest.raises(CheckError, match="can't compare with nowhere"):
        changed_lines(clone, "nowhere", "code")


@pytest.mark.parametrize(
    "content", [b"equivalent = [", b'equivalent = "\xff"', b"[[equivalent]]\nfile = 1", b"other = 1"]
)
def test_a_list_that_can_not_be_read_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tests" / "mutants").mkdir(parents=True)
    (tmp_path / "tests" / "mutants" / "equivalent.toml").write_bytes(content)
    with pytest.raises(CheckError, match=r"equivalent\.toml"):
        read_equivalents(tmp_path)


def test_a_name_or_an_entry_of_no_file_that_is_mutated_is_refused() -> None:
    parts = [Part("some", ("a/lock.py",), ("tests",))]
    refuse_other_files(parts, ["lock"], [Equivalent("a/lock.py", "f", "1", ("2",), "nobody asks")])
    with pytest.raises(CheckError, match="no mutated file has looks"):
        refuse_other_files(parts, ["lock", "looks"], [])
    with pytest.raises(CheckError, match=r"lock\.py is not mutated"):
        refuse_other_files(parts, [], [Equivalent("b/lock.py", "f", "1", ("2",), "nobody asks")])


def test_mutants_that_were_not_run_fail_unless_the_time_was_up() -> None:
    pytest.importorskip("mutmut", reason="only make mutants installs it")
    from checking.mutation.__main__ import FAILED, OK, report
    from checking.mutation.mutants import Mutant

    part = Part("some", ("a.py",), ("tests",))
    mutant = Mutant("a.f", "a.py", "f", range(1, 2), "1", "2", changes_words=False)
    assert report(part, {mutant: scores.NOT_RUN}, in_time=True) == FAILED
    assert report(part, {mutant: scores.NOT_RUN}, in_time=False) == OK
    assert report(part, {mutant: scores.SURVIVED}, in_time=False) == FAILED
    assert report(part, {mutant: scores.KILLED}, in_time=True) == OK


def test_an_entry_without_a_mutant_is_named() -> None:
    entry = Equivalent("a.py", "f", "return 1", ("return 2", "return 3"), "nobody asks")
    made = {("a.py", "f", "return 1", "return 2")}
    assert [line.rpartition("+ ")[2] for line in unmatched([entry], ["a.py"], made)] == ["return 3"]
    assert unmatched([entry], ["b.py"], made) == []


def test_the_page_keeps_the_rows_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "spec").mkdir()
    scores.record(tmp_path, {"b.py": scores.score(["killed", "equivalent"])})
    scores.record(tmp_path, {"a.py": scores.score(["killed", "survived", "killed", "timed out", "not run"])})
    scores.record(tmp_path, {"b.py": scores.score(["killed"])})
    rows = (tmp_path / scores.PAGE).read_text().splitlines()[-2:]
    assert rows[0].startswith("| `a.py` | 5 | 2 | 1 | 0 | 1 | 1 | ")
    assert rows[1].startswith("| `b.py` | 1 | 1 | 0 | 0 | 0 | 0 | ")


def test_a_mutant_is_known_by_its_place_and_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mutmut", reason="only make mutants installs it")
    (tmp_path / "pyproject.toml").write_text('[tool.mutmut]\nsource_paths = ["."]\n')
    (tmp_path / "sample.py").write_text(
        "class Counter:\n"
        "    # It grows.\n"
        "    def grow(self, number: int) -> int:\n"
        "        if number < 0:\n"
        '            raise ValueError("below zero")\n'
        "        return number + 2\n"
    )
    monkeypatch.chdir(tmp_path)
    from checking.mutation.mutants import mutate

    _, made = mutate(tmp_path, "sample.py")
    assert {(one.function, one.lines.start) for one in made} == {("Counter.grow", line) for line in (4, 5, 6)}
    assert {one.after for one in made if not one.changes_words} == {
        "if number <= 0:",
        "if number < 1:",
        "return number - 2",
        "return number + 3",
    }
    assert {one.lines.start for one in made if one.changes_words} == {5}


def test_the_tests_of_every_part_can_be_imported_where_mutants_are_run() -> None:
    """A test that imports a folder that is not copied would end the run of every mutant of its part."""
    pytest.importorskip("mutmut", reason="only make mutants installs it")
    from checking.mutation import running

    root = Path(__file__).parents[2]
    files = {test.partition("::")[0] for part in read_parts(root) for test in part.tests}
    with running.stage(root, []) as (folder, _):
        command = [sys.executable, "-m", "pytest", "--collect-only", "-qp", "no:cacheprovider", *sorted(files)]
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    assert ran.returncode == 0, ran.stdout[-2000:]


SAMPLE = """
import threading

def count_to(number: int) -> int:
    count = 0
    while count < number:
        count += 1
    return count

def wait_for(number: int) -> bool:
    event = threading.Event()
    if number > 0:
        event.set()
    return event.wait()

def unused(number: int) -> int:
    return -number
"""

TESTS = """
from pathlib import Path
from unwedged.sample import count_to, wait_for

def test_counting():
    assert count_to(3) == 3

def test_waiting():
    assert wait_for(2)

def test_the_folder_is_empty(tmp_path: Path):
    assert count_to(0) == 0
    assert not [*tmp_path.iterdir()]
"""


def test_what_becomes_of_mutants(tmp_path: Path) -> None:
    """Mutants that loop or wait forever are counted separately from mutants that a test notices."""
    pytest.importorskip("mutmut", reason="only make mutants installs it")
    from checking.mutation import running

    root = Path(__file__).parents[2]
    copytree(root / "checking", tmp_path / "checking", ignore=ignore_patterns("__pycache__"))
    (tmp_path / "tests").mkdir()
    for file in ("pyproject.toml", "tests/conftest.py"):
        (tmp_path / file).write_text((root / file).read_text())
    (tmp_path / "reference").mkdir()
    copytree(
        root / "reference" / "unwedged", tmp_path / "reference" / "unwedged", ignore=ignore_patterns("__pycache__")
    )
    for file, text in (("reference/unwedged/sample.py", SAMPLE), ("tests/test_sample.py", TESTS)):
        (tmp_path / file).write_text(text)
    part = Part("sample", ("unwedged/sample.py",), ("tests/test_sample.py",))
    with running.stage(tmp_path, part.files) as (folder, made):
        told = running.run(folder, part, made, tmp_path, jobs=2, patience=1)
        killers = running.Killers(tmp_path / "sample.killers.json")
    fates = {one.after: told[one.name].fate for one in made}
    assert fates["if number > 1:"] == fates["return +number"] == scores.SURVIVED
    assert fates["while count <= number:"] == fates["count = None"] == fates["count += 2"] == scores.KILLED
    assert fates["count -= 1"] == fates["count = 1"] == scores.TIMED_OUT
    assert {killers.of(one) for one in made if one.after == "event = None"} == {"tests/test_sample.py::test_waiting"}
