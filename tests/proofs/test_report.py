"""A proof can't shrink unnoticed: each part counts what it examines, and all parts are run."""

import pkgutil
import runpy
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

import proofs
from checking.models.manifest import Band, read_manifest
from proofs import report
from proofs.__main__ import BESIDE, PARTS
from proofs.agreement import actions
from proofs.correspondence import proof as correspondence
from proofs.extent import EXTENT
from proofs.report import Examined, Failure, Proof, Say, differences, run
from proofs.specification.proof import INDUCTIVE
from proofs.sql import proof as sql
from proofs.tlc import FUNCTIONS

ROOT = Path(__file__).parents[2]


def part(examined: Mapping[str, int], *failures: Failure) -> Proof:
    def prove(_say: Say, counted: Examined) -> list[Failure]:
        counted.update(examined)
        return list(failures)

    return prove


def test_what_is_examined_must_be_what_is_expected() -> None:
    expected = {"obligations": 532, "faults": 21}
    assert differences("induction", {"obligations": 532, "faults": 21}, expected) == []
    assert differences("induction", {"obligations": 1_531, "guesses": 1}, expected) == [
        Failure("induction examines obligations", "expected 532, got 1,531"),
        Failure("induction examines faults", "expected 21, got 0"),
        Failure("induction examines guesses", "expected 0, got 1"),
    ]


@pytest.mark.parametrize(
    ("proof", "code"), [(part({"rows": 2}), 0), (part({"rows": 1}), 1), (part({"rows": 2}, Failure("it", "fails")), 1)]
)
def test_a_part_that_fails_or_shrinks(proof: Proof, code: int) -> None:
    fine = part({"rows": 2})
    extent = {"first": {"rows": 2}, "second": {"rows": 2}}
    assert run({"first": proof, "second": fine}, extent) == code
    assert run({"first": fine, "second": proof}, extent) == code


def test_every_part_is_asked() -> None:
    folders = [module.name for module in pkgutil.iter_modules(proofs.__path__) if module.ispkg]
    proven = [name for name in folders if find_spec(f"proofs.{name}.proof")]
    assert set(folders) - set(proven) == {"encoding"}
    assert {name: import_module(f"proofs.{name}.proof").prove for name in proven} == PARTS
    assert PARTS.keys() == EXTENT.keys()
    assert all(expected and min(expected.values()) > 0 for expected in EXTENT.values())


def exit_code(monkeypatch: pytest.MonkeyPatch) -> object:
    """Be the program `python -m proofs`."""
    monkeypatch.delitem(sys.modules, "proofs.__main__")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("proofs", run_name="__main__")
    return ended.value.code


@pytest.mark.parametrize(("code", "beside", "expected"), [(0, 0, 0), (1, 0, 1), (0, 1, 1), (0, -9, -9), (1, 1, 1)])
def test_each_of_the_two_processes_has_its_say(
    code: int, beside: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    asked: list[Mapping[str, Proof]] = []

    class Beside:
        def __init__(self, command: list[str]) -> None:
            started.append(command)

        def __enter__(self) -> "Beside":
            return self

        def __exit__(self, *_: object) -> None:
            self.returncode = beside

    def prove_all(parts: Mapping[str, Proof]) -> int:
        asked.append(parts)
        return code

    monkeypatch.setattr(sys, "argv", ["proofs"])
    monkeypatch.setattr(subprocess, "Popen", Beside)
    monkeypatch.setattr(report, "run", prove_all)
    assert exit_code(monkeypatch) == expected
    assert asked == [{name: prove for name, prove in PARTS.items() if name != BESIDE}]
    assert [command[1:] for command in started] == [["-m", "proofs", BESIDE]]


@pytest.mark.parametrize("code", [0, 1])
def test_a_part_that_is_named_is_asked_alone(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Mapping[str, Proof]] = []

    def prove_some(parts: Mapping[str, Proof]) -> int:
        asked.append(parts)
        return code

    monkeypatch.setattr(sys, "argv", ["proofs", "specification", "sql"])
    monkeypatch.setattr(report, "run", prove_some)
    assert exit_code(monkeypatch) == code
    assert asked == [{name: PARTS[name] for name in ("specification", "sql")}]


def test_a_part_that_is_not_there_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["proofs", "sql", "deduction"])
    assert exit_code(monkeypatch) == 2
    assert "no such part: deduction" in capsys.readouterr().err


def test_each_inductive_model_is_checked_whole() -> None:
    manifest = read_manifest(ROOT / "tla" / "models" / "manifest.toml")
    assert EXTENT["specification"] == {f"states of {name}": manifest.model(name).distinct_states for name in INDUCTIVE}


def test_every_instance_is_compared() -> None:
    manifest = read_manifest(ROOT / "tla" / "models" / "manifest.toml")
    states = {f"states of {one.name}": manifest.model(one.name).distinct_states for one in correspondence.INSTANCES}
    assert {name: EXTENT["correspondence"][name] for name in states} == states
    compared = {*INDUCTIVE, FUNCTIONS, *actions.MODELS, *(one.name for one in correspondence.INSTANCES)}
    assert compared == {model.name for model in manifest.band(Band.PROOF)}


def test_make_prove_is_all_of_it() -> None:
    _, _, after = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nprove:")
    recipe = [line.strip() for line in after.partition("\n\n")[0].splitlines()[1:]]
    assert recipe == ["@$(VENV)/bin/python -m proofs"]


def test_the_readme_has_the_numbers() -> None:
    text = " ".join((ROOT / "proofs" / "README.md").read_text(encoding="utf-8").split())
    numbers = {
        part: [count for what, count in expected.items() if part != "agreement" and "steps" not in what]
        for part, expected in EXTENT.items()
    }
    numbers["correspondence"] = [
        sum(count for what, count in EXTENT["correspondence"].items() if what.startswith("states of")),
        EXTENT["correspondence"]["broken rules that are noticed"],
    ]
    agreement = EXTENT["agreement"]
    numbers["agreement"] = [
        sum(count for what, count in agreement.items() if "." in what),
        sum(count for what, count in agreement.items() if "." not in what and what != "Init"),
    ]
    missing = [f"{part}: {count:,}" for part, counts in numbers.items() for count in counts if f"{count:,}" not in text]
    assert missing == []


# The SQL


def test_the_profile_and_its_examples() -> None:
    assert sql.PROFILE == "prove"
    assert settings.get_profile(sql.PROFILE).max_examples == sql.EXAMPLES == 400
    assert EXTENT["sql"] == {"tests": len(sql.TESTS), "examples": len(sql.TESTS) * sql.EXAMPLES}


SAMPLE = """
def test_one(record_property):
    record_property("examples", 5)

class TestTwo:
    def test_two(self, record_property):
        record_property("examples", 3)

    def test_three(self, record_property):
        record_property("examples", 9)
        assert {condition}
"""


@pytest.mark.parametrize(
    ("selection", "tests", "condition", "failures", "examined"),
    [
        (["test_one", "TestTwo"], ["test_one", "test_two", "test_three"], True, [], {"tests": 3, "examples": 13}),
        (["TestTwo"], ["test_one", "test_two", "test_three"], True, ["test_one"], {"tests": 2, "examples": 8}),
        (["test_one", "TestTwo"], ["test_one", "test_two"], True, ["test_three"], {"tests": 3, "examples": 13}),
        (["TestTwo"], ["test_two", "test_three"], False, ["module", "test_three"], {"tests": 1, "examples": 3}),
        (["TestNone"], ["test_one"], True, ["module", "test_one"], {}),
    ],
)
def test_each_test_must_have_run_and_passed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    selection: list[str],
    tests: list[str],
    condition: bool,
    failures: list[str],
    examined: dict[str, int],
) -> None:
    module = tmp_path / "test_sample.py"
    module.write_text(SAMPLE.format(condition=condition), encoding="utf-8")
    (tmp_path / "conftest.py").write_text(
        "from hypothesis import settings\nsettings.register_profile('prove', max_examples=1)\n", encoding="utf-8"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n", encoding="utf-8")
    monkeypatch.setattr(sql, "MODULE", str(module))
    monkeypatch.setattr(sql, "SELECTION", selection)
    monkeypatch.setattr(sql, "TESTS", tests)
    monkeypatch.setattr(sql, "EXAMPLES", 5)
    counted = Examined()
    found = sql.prove(lambda _line: None, counted)
    assert [failure.name.replace(str(module), "module") for failure in found] == failures
    assert counted == examined
