"""The SQL does what the functions of `protocol` say: a test by examples, the same ones each time, and not a proof.

Run `python -m proofs sql`. The tests are those of `tests/store/sqlite/test_rules.py` that compare the two (P16.1). Each
must have run and passed, with all its examples; one that is not listed here must not be among them either.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree as ET

from proofs.report import Examined, Failure, Say

MODULE = "tests/store/sqlite/test_rules.py"
SELECTION = ("TestTheSqlIsTheRules", "test_any_calls_at_any_times_do_what_the_rules_say", "test_records_and_change_log")

TESTS = (
    "test_acquire",
    "test_renew",
    "test_release",
    "test_commit",
    "test_reads",
    "test_any_calls_at_any_times_do_what_the_rules_say",
    "test_records_and_change_log",
)

PROFILE, EXAMPLES = "prove", 400


def prove(say: Say, examined: Examined) -> list[Failure]:
    """Run the tests, and look at what each of them has done."""
    say(f"The SQL against the functions, {EXAMPLES} examples for each test:")
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        # Of pytest's two formats, this is the one in which a test may note something.
        options = [f"--hypothesis-profile={PROFILE}", f"--junit-xml={report}", "--override-ini=junit_family=xunit1"]
        chosen = [f"{MODULE}::{name}" for name in SELECTION]
        command = [sys.executable, "-m", "pytest", "--quiet", *options, *chosen]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 (our own)
        tried = _examples_of_passed(ET.parse(report)) if report.exists() else {}  # noqa: S314 (pytest has written it)
    failures: list[Failure] = []
    if result.returncode:
        failures.append(Failure(MODULE, f"pytest ends with exit code {result.returncode}"))
        say(result.stdout)
    failures += (Failure(name, "has not passed") for name in TESTS if name not in tried)
    failures += (Failure(name, "is not listed") for name in tried if name not in TESTS)
    for name, examples in tried.items():
        say(f"  {name:<52}{examples:>5} examples")
        # There are more where Hypothesis throws some away on the way.
        examined += Examined({"tests": 1, "examples": min(examples, EXAMPLES)})
    return failures


def _examples_of_passed(report: "ET.ElementTree[ET.Element]") -> dict[str, int]:
    """By the name of each test that passed, how many examples it says that it tried."""
    return {
        case.attrib["name"]: sum(
            int(noted.attrib["value"]) for noted in case.iter("property") if noted.attrib["name"] == "examples"
        )
        for case in report.iter("testcase")
        if not {child.tag for child in case} & {"failure", "error", "skipped"}
    }
